"""Skeleton clips as sequences of coordinates, for networks that read keypoints rather than heat-maps.

C = 3 channels (x, y, score), K views of a clip (1), M persons, T frames, V keypoints. Notable choices:

* A clip is brought to T frames by stretching (Hyperformer), by a window with zeros behind it (ST-GCN), or by taking a
  frame of each of T equal parts (DSCNet).
* Published code interpolates between a point and a missing one at (0, 0), which makes points where nothing was. Here a
  frame between two takes only what was seen.
* By default coordinates are seen from the box around all points of the clip, so that where a speaker sits, and how far
  away, is no feature; "pixels" is what ST-GCN's iMiGUE baseline was given.
* A view depends on (seed, epoch, position) only; the test view is fixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from migcore.data.datasets import Item, _Clips, _load_skeleton, _sound
from migcore.data.imigue import ClipIndex
from migcore.data.layouts import SkeletonLayout
from migcore.data.layouts import layout as find_layout
from migcore.data.sampling import segment_centres, segment_train
from migcore.errors import ConfigError

Points = tuple[np.ndarray, np.ndarray]
"""Keypoints [M, T, V, 2] and scores [M, T, V]."""


@dataclass(frozen=True)
class SequenceConfig:
    """How sequences are sampled and placed.

    Attributes:
        frames: T.
        fit: "stretch" a part of the clip to T frames; "window" of T frames, zeros behind a shorter clip; "segments", a
            frame of each of T equal parts.
        part: of "stretch": the least share of a clip that a training view takes; the test view takes the middle 95 %,
            or this share if it is more (Hyperformer: 0.5).
        units: "box": the box around the clip's points is -1..1 in its longer direction; "pixels": of the film.
        layout: name of the skeleton layout.
        flip: mirror half of the training views.
        rotation: of training views, up to so many degrees either way, around the middle of the box.
        scaling: of training views, up to this share larger or smaller.

    Raises:
        ConfigError: a value is out of range or the layout is unknown.
    """

    frames: int = 64
    fit: Literal["stretch", "window", "segments"] = "stretch"
    part: float = 0.5
    units: Literal["box", "pixels"] = "box"
    layout: str = "imigue22"
    flip: bool = False
    rotation: float = 0.0
    scaling: float = 0.0

    def __post_init__(self) -> None:
        find_layout(self.layout)
        for name, low, high in (("part", 0.0, 1.0), ("rotation", -1e-9, 180.0), ("scaling", -1e-9, 0.9)):
            if not low < getattr(self, name) <= high:
                raise ConfigError(f"{name}={getattr(self, name)} is out of range", hint=f"up to {high:g}, not negative")
        if self.frames < 1:
            raise ConfigError(f"frames={self.frames} is below 1")
        if self.fit not in ("stretch", "window", "segments"):
            raise ConfigError(f"fit {self.fit!r}", hint="choose from stretch, window, segments")
        if self.units not in ("box", "pixels"):
            raise ConfigError(f"units {self.units!r}", hint="choose from box, pixels")


_TEST_PART = 0.95


class SequenceClips(_Clips):
    """Sequences of a split.

    An item is {"sequence" [1, 3, T, V, M] float32: x, y and score, zeros where a keypoint is missing; "label" int;
    "index" int}.

    Args:
        index: the data set.
        split: "train", "val" or "test".
        config: sampling and placing.
        train: random views or the fixed test view.
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
        config: SequenceConfig,
        *,
        train: bool,
        seed: int = 0,
        skip_bad: bool = False,
    ) -> None:
        records, self._loaded, self.skipped = _sound(index, split, lambda r: _load_skeleton(r, index), skip_bad)
        super().__init__(records, train=train, seed=seed)
        self.config, self.layout = config, find_layout(config.layout)
        joints = self._loaded[0][1].shape[-1]
        if joints != self.layout.num_joints:
            raise ConfigError(
                f"clips have {joints} keypoints, layout {self.layout.name!r} has {self.layout.num_joints}",
                hint="Choose a layout that fits the column map",
            )

    def __getitem__(self, position: int) -> Item:
        keypoints, scores = self._loaded[position]
        rng = self._rng(position) if self.train else None
        return {
            "sequence": torch.from_numpy(view(keypoints, scores, self.config, self.layout, rng))[None],
            "label": self.records[position].label,
            "index": position,
        }


def view(
    keypoints: np.ndarray,
    scores: np.ndarray,
    config: SequenceConfig,
    layout: SkeletonLayout,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """A view of a clip: a random one, or without ``rng`` the test view.

    Args:
        keypoints: [M, T', V, 2] pixels, T' the clip's own length; zeros where missing.
        scores: [M, T', V]; 0 is missing.
        config: how.
        layout: names left and right.
        rng: of a training view.

    Returns:
        [3, T, V, M] float32.
    """
    keypoints = _placed(keypoints, scores, config.units)
    keypoints, scores = _fitted(keypoints, scores, config, rng)
    if rng is not None:
        keypoints, scores = _moved(keypoints, scores, config, layout, rng)
    keypoints = np.where(scores[..., None] > 0, keypoints, 0)
    channels_MTVC = np.concatenate([keypoints, scores[..., None]], axis=-1)
    return np.ascontiguousarray(channels_MTVC.transpose(3, 1, 2, 0), dtype=np.float32)


def _placed(keypoints: np.ndarray, scores: np.ndarray, units: str) -> np.ndarray:
    seen = keypoints[scores > 0]
    if units == "pixels" or not len(seen):
        return keypoints
    low, high = seen.min(0), seen.max(0)
    half = max(float((high - low).max()) / 2, 1.0)  # of a single point the box would be nothing
    return (keypoints - (low + high) / 2) / half


def _fitted(
    keypoints: np.ndarray, scores: np.ndarray, config: SequenceConfig, rng: np.random.Generator | None
) -> Points:
    """T frames of the clip."""
    length, frames = keypoints.shape[1], config.frames
    if config.fit == "segments":
        at = segment_centres(length, frames) if rng is None else segment_train(length, frames, rng)
        return keypoints[:, at], scores[:, at]
    if config.fit == "window":
        room = max(0, length - frames)
        start = room // 2 if rng is None else int(rng.integers(room + 1))
        keypoints, scores = keypoints[:, start : start + frames], scores[:, start : start + frames]
        behind = ((0, 0), (0, frames - keypoints.shape[1]), (0, 0))
        return np.pad(keypoints, (*behind, (0, 0))), np.pad(scores, behind)
    share = max(_TEST_PART, config.part) if rng is None else rng.uniform(config.part, 1)
    start = (1 - share) * (length - 1) * (0.5 if rng is None else rng.random())
    return stretch(keypoints, scores, np.linspace(start, start + share * (length - 1), frames))


def stretch(keypoints: np.ndarray, scores: np.ndarray, times: np.ndarray) -> Points:
    """Keypoints between the frames: linear in time, from what was seen.

    Args:
        keypoints: [M, T', V, 2].
        scores: [M, T', V]; 0 is missing.
        times: [T] frame numbers 0..T'-1, which need not be whole.

    Returns:
        [M, T, V, 2] and [M, T, V]: where both neighbours were seen, their weighted mean; where one was, that one's
        place, with its share of the score; where none was, zeros.
    """
    before = np.clip(np.floor(times).astype(np.int64), 0, keypoints.shape[1] - 1)
    after = np.minimum(before + 1, keypoints.shape[1] - 1)
    late = (times - before)[None, :, None]
    weights = (1 - late) * (scores[:, before] > 0), late * (scores[:, after] > 0)
    total = weights[0] + weights[1]
    mixed = weights[0][..., None] * keypoints[:, before] + weights[1][..., None] * keypoints[:, after]
    kept = (1 - late) * scores[:, before] + late * scores[:, after]
    return np.divide(mixed, total[..., None], out=np.zeros_like(mixed), where=total[..., None] > 0), kept * (total > 0)


def _moved(
    keypoints: np.ndarray, scores: np.ndarray, config: SequenceConfig, layout: SkeletonLayout, rng: np.random.Generator
) -> Points:
    """Mirrored, turned and scaled by chance, the same for all frames, around the middle of the points."""
    mirrored = config.flip and rng.random() < 0.5
    angle = math.radians(config.rotation * rng.uniform(-1, 1))
    factor = 1 + config.scaling * rng.uniform(-1, 1)
    seen = keypoints[scores > 0]
    if not len(seen):
        return keypoints, scores
    middle = (seen.min(0) + seen.max(0)) / 2
    turn = factor * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    keypoints = keypoints - middle
    if mirrored:
        keypoints, scores = keypoints[..., layout.flip_permutation, :] * [-1, 1], scores[..., layout.flip_permutation]
    return keypoints @ turn + middle, scores
