"""Clips as torch data sets: what a model is fed in training and in test (section 2.1).

B clips, K views of a clip (1 in training), M persons, T frames, V keypoints, H and W pixels. Notable choices:
* A view depends on (seed, epoch, position) only: workers, batch size and order change nothing. Test views are fixed.
* Skeletons are parsed once, when a data set is made; then a view is a handful of array operations.
* Keypoints come in pixels of the heat-map to be drawn, video as uint8: volumes and floats are made on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from migcore.data.augment import (
    centre_crop,
    compact_box,
    crop,
    flip,
    flip_keypoints,
    random_crop,
    random_resized_crop,
    resize,
    resize_short,
    short_side,
)
from migcore.data.imigue import UNLABELLED, ClipIndex, ClipRecord, read_clip_skeleton
from migcore.data.layouts import layout as find_layout
from migcore.data.sampling import segment_centres, segment_train, uniform_test, uniform_train
from migcore.data.video import probe, read_all, read_frames
from migcore.errors import ConfigError, DataError

Item = dict[str, Any]

_MARGIN = 8 / 7  # 256 : 224, the largest short side in training over the window


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class SkeletonConfig:
    """How heat-map clips are sampled and placed (pyskl's PoseC3D settings by default).

    Attributes:
        frames: T of a view.
        train_size: (H, W) of training heat-maps.
        test_size: (H, W) of validation and test heat-maps; its short side is also what training is scaled to
            before it is cropped.
        test_clips: views in time in test.
        test_flip: add the mirror image of every test view (K = 2 · test_clips).
        layout: name of a built-in skeleton layout (:func:`migcore.data.layouts.layout`). For a layout of one's own,
            place the keypoints with :mod:`migcore.data.augment` and call :func:`migcore.heatmaps.limb_heatmaps` with
            its bones: ``limb_heatmaps(…, bones=mine.bones)``.
        padding: of the compact box.
        flip: mirror half of the training views.
        crop: take a random part (0.56 to all of the area) of training views.

    Raises:
        ConfigError: a value is out of range or the layout is unknown.
    """

    frames: int = 48
    train_size: tuple[int, int] = (56, 56)
    test_size: tuple[int, int] = (64, 64)
    test_clips: int = 10
    test_flip: bool = True
    layout: str = "imigue22"
    padding: float = 0.25
    flip: bool = True
    crop: bool = True

    def __post_init__(self) -> None:
        find_layout(self.layout)
        _require(self.frames >= 1, f"frames={self.frames} is below 1")
        _require(min(*self.train_size, *self.test_size) >= 1, "a heat-map has at least one pixel")
        _require(self.test_clips >= 1, f"test_clips={self.test_clips} is below 1")
        _require(self.padding >= 0, f"padding={self.padding} is negative")


@dataclass(frozen=True)
class VideoConfig:
    """How video clips are sampled and cropped.

    Attributes:
        frames: T of a view, one of each of T equal segments.
        size: H = W of the window.
        test_clips: views in time in test (K).
        flip: mirror half of the training views; a hazard where left and right mean something.
        crop: train on random windows of frames scaled by 1 to 8/7 of ``size`` (CLIP fine-tuning's 224 of 224–256);
            otherwise on the central window, as in test.

    Raises:
        ConfigError: a value is out of range.
    """

    frames: int = 8
    size: int = 64
    test_clips: int = 1
    flip: bool = False
    crop: bool = True

    def __post_init__(self) -> None:
        _require(self.frames >= 1, f"frames={self.frames} is below 1")
        _require(self.size >= 1, f"size={self.size} is below 1")
        _require(self.test_clips >= 1, f"test_clips={self.test_clips} is below 1")


@lru_cache(maxsize=4096)
def _test_frames(n: int, length: int, num_clips: int) -> np.ndarray:
    frames = uniform_test(n, length, num_clips)
    frames.setflags(write=False)
    return frames


def _sound(
    index: ClipIndex, split: str, load: Callable[[ClipRecord], Any], skip_bad: bool
) -> tuple[list[ClipRecord], list[Any], tuple[tuple[str, str], ...]]:
    """Records of a split that load, what they load to, and (id, reason) of the others (or the first of them, raised).

    Raises:
        DataError: there are none.
    """
    sound, loaded, skipped = [], [], []
    for record in index.split(split):
        try:
            loaded.append(load(record))
            sound.append(record)
        except DataError as error:
            if not skip_bad:
                raise
            skipped.append((record.id, str(error)))
    if not sound:
        raise _nothing_left(index, split, skipped)
    return sound, loaded, tuple(skipped)


def _nothing_left(index: ClipIndex, split: str, skipped: list[tuple[str, str]]) -> DataError:
    """What to say of a split without clips: nobody is in it, or all of it was left out as damaged."""
    hint = f"Give a video with labels to {split} in splits.csv (without that file, the MiGA challenge's list decides)"
    if skipped:
        hint = f"--skip-bad (skip_bad) left all {len(skipped)} out, the first because: {skipped[0][1]}"
    elif index.skipped:
        hint += f", or mend what --skip-bad (skip_bad) left out: {len(index.skipped)} clips or videos in all splits"
    return DataError(f"no clips are left in split {split}", where=index.root, hint=hint)


class _Clips(Dataset[Item]):
    """What both kinds share: records, labels, and a generator per (seed, epoch, position)."""

    def __init__(self, records: list[ClipRecord], *, train: bool, seed: int) -> None:
        _require(seed >= 0, f"seed {seed} is negative")
        if not records:
            raise DataError("no clips are left", hint="Give at least one")
        unlabelled = [record.id for record in records if record.label == UNLABELLED]
        if train and unlabelled:
            raise DataError(f"clip {unlabelled[0]} has no label to train on", hint="Train on a labelled split")
        self.records, self.train, self.seed = records, train, seed
        # In shared memory, so that workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.records)

    @property
    def labels(self) -> np.ndarray:
        """[N] int64, in the order of the items; -1 is not known."""
        return np.array([record.label for record in self.records], dtype=np.int64)

    def set_epoch(self, epoch: int) -> None:
        """Choose the random views of an epoch (0, 1, ...); the same number gives the same views."""
        _require(epoch >= 0, f"epoch {epoch} is negative")
        self._epoch.fill_(epoch)

    def _rng(self, position: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, int(self._epoch), position))


class SkeletonClips(_Clips):
    """Skeleton clips of a split, placed in heat-map pixels.

    An item is {"keypoints" [K, M, T, V, 2] float32, "scores" [K, M, T, V] float32, "label" int, "index" int}; in test,
    the first test_clips views are followed by their mirror images.

    Args:
        index: the data set.
        split: "train", "val" or "test".
        config: sampling and placing.
        train: random views (one per item) or the fixed test views.
        seed: of the random views, not negative.
        skip_bad: leave clips out that cannot be read, and list them in ``skipped``.

    Attributes:
        records: the clips, in the order of the items.
        skipped: (id, reason) of the clips left out.

    Raises:
        DataError: a clip has no skeleton or a damaged one; names clip or file and row.
        ConfigError: the split is unknown, or the column map has other keypoints than the layout.
    """

    def __init__(
        self,
        index: ClipIndex,
        split: str,
        config: SkeletonConfig,
        *,
        train: bool,
        seed: int = 0,
        skip_bad: bool = False,
    ) -> None:
        records, loaded, self.skipped = _sound(index, split, lambda r: _load_skeleton(r, index), skip_bad)
        self._set_up(records, loaded, config, train, seed)

    @classmethod
    def from_arrays(
        cls,
        names: Sequence[str],
        keypoints: Sequence[np.ndarray],
        scores: Sequence[np.ndarray],
        labels: Sequence[int] | np.ndarray,
        config: SkeletonConfig,
        *,
        train: bool,
        seed: int = 0,
    ) -> SkeletonClips:
        """The same of clips in memory, such as :mod:`~migcore.data.annotations` reads.

        Args:
            names: N clip ids.
            keypoints: N arrays [M, T, V, 2], T the true length of each; all finite, missing is (0, 0) with score 0.
            scores: N arrays [M, T, V] in 0..1.
            labels: N labels, -1 where it is not known.
            config: sampling and placing.
            train: as above.
            seed: as above.

        Raises:
            DataError: a clip has no frames or shapes that do not fit, or a label is no whole number.
            ConfigError: the clips have other keypoints than the layout.
        """
        loaded, records = [], []
        for name, points, confidence, label in zip(names, keypoints, scores, labels, strict=True):
            if points.ndim != 4 or points.shape[:-1] != confidence.shape or not points.size:
                raise DataError(f"clip {name} has keypoints {points.shape} and scores {confidence.shape}")
            if np.asarray(label).dtype.kind not in "iuf" or label % 1:
                raise DataError(f"the label of clip {name} is no whole number: {label!r}", hint="Labels count from 0")
            loaded.append((points.astype(np.float32), confidence.astype(np.float32)))
            records.append(ClipRecord(name, name.split("_")[0], 1, points.shape[1], int(label), ""))
        clips = cls.__new__(cls)
        clips.skipped = ()
        clips._set_up(records, loaded, config, train, seed)
        return clips

    def _set_up(
        self,
        records: list[ClipRecord],
        loaded: list[tuple[np.ndarray, np.ndarray]],
        config: SkeletonConfig,
        train: bool,
        seed: int,
    ) -> None:
        super().__init__(records, train=train, seed=seed)
        self.config, self.layout, self._clips = config, find_layout(config.layout), loaded
        joints = loaded[0][1].shape[-1]
        if joints != self.layout.num_joints:
            raise ConfigError(
                f"clips have {joints} keypoints, layout {self.layout.name!r} has {self.layout.num_joints}",
                hint="Choose a layout that fits the column map",
            )

    def __getitem__(self, position: int) -> Item:
        keypoints, scores = self._clips[position]
        views = self._train_view(keypoints, scores, position) if self.train else self._test_views(keypoints, scores)
        return {
            "keypoints": torch.from_numpy(views[0]),
            "scores": torch.from_numpy(views[1]),
            "label": self.records[position].label,
            "index": position,
        }

    def _placed(
        self, keypoints: np.ndarray, scores: np.ndarray, frames: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        """The sampled frames seen from their compact box, and its size."""
        keypoints, scores = keypoints[:, frames], scores[:, frames]
        keypoints, box = compact_box(keypoints, scores, padding=self.config.padding)
        if box is None:
            box = _small_box(keypoints[scores > 0])
            keypoints = crop(keypoints, box)
        return keypoints, scores, (box[3] - box[1], box[2] - box[0])

    def _train_view(self, keypoints: np.ndarray, scores: np.ndarray, position: int) -> tuple[np.ndarray, np.ndarray]:
        config, rng = self.config, self._rng(position)
        frames = uniform_train(keypoints.shape[1], config.frames, rng)
        keypoints, scores, size = self._placed(keypoints, scores, frames)
        if config.crop:
            scaled = short_side(size, min(config.test_size))
            keypoints, size = random_resized_crop(resize(keypoints, size, scaled), scaled, rng)
        keypoints = resize(keypoints, size, config.train_size)
        if config.flip and rng.random() < 0.5:
            keypoints, scores = flip_keypoints(keypoints, scores, self.layout, config.train_size[1])
        keypoints = np.where(scores[..., None] > 0, keypoints, np.float32(0))
        return keypoints[None], np.ascontiguousarray(scores)[None]

    def _test_views(self, keypoints: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        config = self.config
        frames = _test_frames(keypoints.shape[1], config.frames, config.test_clips)
        keypoints, scores, size = self._placed(keypoints, scores, frames)  # one box for all views, as published
        keypoints = resize(keypoints, size, config.test_size)
        if config.test_flip:
            mirrored = flip_keypoints(keypoints, scores, self.layout, config.test_size[1])
            keypoints, scores = np.concatenate([keypoints, mirrored[0]], 1), np.concatenate([scores, mirrored[1]], 1)
        persons, _, joints = scores.shape
        views = (persons, -1, config.frames, joints)
        keypoints = np.moveaxis(keypoints.reshape(*views, 2), 1, 0)
        return np.ascontiguousarray(keypoints), np.ascontiguousarray(np.moveaxis(scores.reshape(views), 1, 0))


def _load_skeleton(record: ClipRecord, index: ClipIndex) -> tuple[np.ndarray, np.ndarray]:
    """[1, T, V, 2] and [1, T, V], copied, so that the rest of the film can be forgotten."""
    keypoints, scores = read_clip_skeleton(record, index.column_map)
    return keypoints[None].copy(), scores[None].copy()


def _small_box(points: np.ndarray, half: int = 10) -> tuple[int, int, int, int]:
    """20 pixels around points that hardly extend (pyskl keeps the whole picture then; CSVs do not tell its size)."""
    x, y = points.mean(axis=0).round().astype(int).tolist() if len(points) else (0, 0)
    return x - half, y - half, x + half, y + half


class VideoClips(_Clips):
    """Video clips of a split.

    An item is {"video" [K, 3, T, size, size] uint8 RGB, "label" int, "index" int}.

    Args:
        index: the data set.
        split: "train", "val" or "test".
        config: sampling and cropping.
        train: random views (one per item) or the fixed test views.
        seed: of the random views, not negative.
        cache: keep the decoded clips in memory, scaled to what is needed (3 · frames · H · W bytes each). Each process
            has its own: use it without workers.
        skip_bad: decode every clip now, leave out those that cannot be, and list them in ``skipped``.

    Attributes:
        records: the clips, in the order of the items.
        skipped: (id, reason) of the clips left out.

    Raises:
        DataError: a clip has no film, or its film is missing or damaged; names the clip. Damage inside of a film shows
            when an item is taken.
        ConfigError: the split is unknown.
    """

    def __init__(
        self,
        index: ClipIndex,
        split: str,
        config: VideoConfig,
        *,
        train: bool,
        seed: int = 0,
        cache: bool = False,
        skip_bad: bool = False,
    ) -> None:
        self.config = config
        self._cache: dict[str, Tensor] | None = {} if cache else None
        self._film_sizes: dict[Path, tuple[int, int]] = {}
        self._needed = int(config.size * _MARGIN) if train and config.crop else config.size
        load = self._decode_whole if skip_bad else self._film_size
        records, _, self.skipped = _sound(index, split, load, skip_bad)
        super().__init__(records, train=train, seed=seed)

    def _film_size(self, record: ClipRecord) -> tuple[int, int] | None:
        """(H, W) to decode to: the largest that any view needs, or None where the film is no larger."""
        if record.film is None:
            hint = f"Put {record.video}.mp4 into the folder of its labels, or use its skeleton alone"
            raise DataError(f"clip {record.id} has no film", where=record.skeleton, hint=hint)
        if record.film not in self._film_sizes:
            try:
                self._film_sizes[record.film] = probe(record.film, exact=False).size
            except DataError as error:
                raise _of_clip(record, error) from error
        size = self._film_sizes[record.film]
        return short_side(size, self._needed) if min(size) > self._needed else None

    def _decode(self, record: ClipRecord, frames: np.ndarray | None = None) -> Tensor:
        """These frames of a clip (all of them by default), [3, T, H, W]."""
        size, film, start = self._film_size(record), record.film, record.film_start
        assert film is not None
        try:
            if frames is None:
                return read_all(film, start, start + record.frames, size=size)
            return read_frames(film, start + frames, size=size)
        except DataError as error:
            raise _of_clip(record, error) from error

    def _decode_whole(self, record: ClipRecord) -> None:
        video = self._decode(record)
        if self._cache is not None:
            self._cache[record.id] = video

    def __getitem__(self, position: int) -> Item:
        record, config, rng = self.records[position], self.config, self._rng(position)
        if self.train:
            frames = segment_train(record.frames, config.frames, rng)
        else:
            frames = segment_centres(record.frames, config.frames, config.test_clips)
        if self._cache is None:
            video = self._decode(record, frames)
        else:
            if record.id not in self._cache:
                self._decode_whole(record)
            video = self._cache[record.id][:, torch.from_numpy(frames)]
        window = (config.size, config.size)
        if self.train and config.crop:
            length = int(rng.integers(config.size, int(config.size * _MARGIN) + 1))
            video = random_crop(resize_short(video, length), window, rng)
        else:
            video = centre_crop(resize_short(video, config.size), window)
        if self.train and config.flip and rng.random() < 0.5:
            video = flip(video)
        views = video.unflatten(1, (-1, config.frames)).transpose(0, 1)
        return {"video": views.contiguous(), "label": record.label, "index": position}


def _of_clip(record: ClipRecord, error: DataError) -> DataError:
    """The same error, naming the clip."""
    return DataError(f"clip {record.id}: {error.message}", where=error.where, row=error.row, hint=error.hint)


def collate(items: Sequence[Item]) -> Item:
    """A batch of items: tensors stacked along a first dimension B, labels and positions as int64 [B]."""
    return {
        key: torch.stack([item[key] for item in items])
        if isinstance(items[0][key], Tensor)
        else torch.tensor([item[key] for item in items], dtype=torch.int64)
        for key in items[0]
    }
