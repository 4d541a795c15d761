"""Clips of windows of frames around the person: what DSCNet's video stream is fed (Expert Syst. Appl. 244, 2024).

n frames of a clip, T = segments · window frames of a view, V keypoints, H and W pixels. Notable choices:

* A view is ``segments`` windows of ``window`` consecutive frames; TSN's rules say where they start, so that in a clip
  shorter than ``segments · window`` they overlap, and one shorter than a window repeats its last frame.
* A clip has one square box, around the keypoints of all its frames and not only of those that a view shows: the
  published films are cropped beforehand too, and the frames cut out serve every epoch.
* The box stays inside the film and keeps its shape, so that nothing is distorted and nothing invented. A person wider
  than the film's short side is cut at both sides alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from migcore.data.augment import Box, Size, flip
from migcore.data.datasets import Item, _Clips, _of_clip, _require, _sound
from migcore.data.imigue import ClipIndex, ClipRecord, read_clip_skeleton
from migcore.data.sampling import segment_centres, segment_train
from migcore.data.video import probe, read_frames
from migcore.errors import DataError

_SMALLEST = 4  # the box is no smaller than the film's short side over this: one point does not tell a person's size
_AT_ONCE = 64  # frames decoded at a time: of a large film, a long clip would fill the memory


@dataclass(frozen=True)
class CropConfig:
    """How windows are sampled and cut out.

    Attributes:
        segments: windows of a view.
        window: consecutive frames of each.
        size: H = W of what is cut out, in pixels.
        padding: how much longer the box is than the longer side of the points, as a fraction (ours; the published
            value is not known).
        flip: mirror half of the training views; a hazard where left and right mean something.

    Raises:
        ConfigError: a value is out of range.
    """

    segments: int = 8
    window: int = 6
    size: int = 64
    padding: float = 0.25
    flip: bool = False

    def __post_init__(self) -> None:
        _require(self.segments >= 1, f"segments={self.segments} is below 1")
        _require(self.window >= 1, f"window={self.window} is below 1")
        _require(self.size >= 1, f"size={self.size} is below 1")
        _require(0 <= self.padding < math.inf, f"padding={self.padding} is not a number from 0 up")


def window_frames(n: int, segments: int, window: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Frames of a view: ``segments`` windows, whose starts are one of each of as many equal segments of all starts.

    Args:
        n: frames in the clip, at least 1.
        segments: windows.
        window: frames in a window; where n is less, its last frame repeats.
        rng: where random starts come from (training); None for the middle one of each segment (test).

    Returns:
        [segments · window] int64 in 0..n-1, the windows one after the other; their starts do not fall.

    Raises:
        DataError: the clip is empty.
        ConfigError: ``segments`` or ``window`` is below 1.
    """
    _require(window >= 1, f"a window of {window} frames was asked for; at least 1 is possible")
    starts = n if n < 1 else max(1, n - window + 1)  # an empty clip is refused below
    first = segment_centres(starts, segments) if rng is None else segment_train(starts, segments, rng)
    return np.minimum(first[:, None] + np.arange(window), n - 1).reshape(-1)


def square_box(keypoints: np.ndarray, scores: np.ndarray, size: Size, *, padding: float = 0.25) -> Box:
    """The square of a film in which a person is seen.

    Args:
        keypoints: [..., 2] (x, y), finite, in pixels of the film.
        scores: [...]; points with score 0 do not count.
        size: (H, W) of the film.
        padding: as in :class:`CropConfig`.

    Returns:
        The box, inside of the film: around the points as long as a square of the film can hold them, no smaller than a
        quarter of the film's short side, and moved rather than cut where it would stick out. Points outside of the film
        count as points on its edge. Without points, the largest square in the middle of the film: all of a square one.

    Raises:
        DataError: most of the points lie outside of the film: they are not in its pixels.
    """
    longest, room = min(size), np.array([size[1], size[0]])
    points = keypoints[scores > 0].astype(np.float64)
    if not len(points):
        low, high, side = np.zeros(2, np.int64), room, longest
    else:
        middle = np.median(points, axis=0)
        if (middle < 0).any() or (middle >= room).any():
            raise DataError(
                f"its keypoints lie around ({middle[0]:.0f}, {middle[1]:.0f}), outside of the {size[1]}×{size[0]} film",
                hint="Are skeleton and film of the same resolution?",
            )
        pixels = np.floor(np.clip(points, 0, room - 1)).astype(np.int64)
        low, high = pixels.min(axis=0), pixels.max(axis=0) + 1
        wanted = max(math.ceil(int((high - low).max()) * (1 + padding)), math.ceil(longest / _SMALLEST))
        side = min(wanted, longest)
    left, top = np.clip((low + high - side) // 2, 0, room - side).tolist()
    return left, top, left + side, top + side


class DenseClips(_Clips):
    """Windows of frames of a split's clips, cut out around the person.

    An item is {"video" [1, 3, T, size, size] uint8 RGB, "label" int, "index" int}, T = segments · window, the windows
    one after the other.

    Args:
        index: the data set.
        split: "train", "val" or "test".
        config: sampling and cutting.
        train: random views or the fixed test view.
        seed: of the random views, not negative.
        cache: keep all frames of the clips in memory, cut out and scaled (3 · n · size² bytes each). Each process has
            its own: use it without workers.
        skip_bad: decode every clip now, leave out those that cannot be, and list them in ``skipped``.

    Attributes:
        records: the clips, in the order of the items.
        boxes: what is cut out of each, (x0, y0, x1, y1) in pixels of its film.
        skipped: (id, reason) of the clips left out.

    Raises:
        DataError: a clip has no film or no skeleton, one of them is missing or damaged, or they do not fit together;
            names the clip. Damage inside of a film shows when an item is taken.
        ConfigError: the split is unknown.
    """

    def __init__(
        self,
        index: ClipIndex,
        split: str,
        config: CropConfig,
        *,
        train: bool,
        seed: int = 0,
        cache: bool = False,
        skip_bad: bool = False,
    ) -> None:
        self.config = config
        self._columns = index.column_map
        self._cache: dict[str, Tensor] | None = {} if cache else None
        self._film_sizes: dict[Path, Size] = {}
        load = self._box_of_sound if skip_bad else self._box
        records, self.boxes, self.skipped = _sound(index, split, load, skip_bad)
        super().__init__(records, train=train, seed=seed)

    def _film(self, record: ClipRecord) -> tuple[Path, Size]:
        """The film of a clip and its size, looked up once per film."""
        if record.film is None:
            hint = f"Put {record.video}.mp4 into the folder of its labels"
            raise DataError(f"clip {record.id} has no film", where=record.skeleton, hint=hint)
        if record.film not in self._film_sizes:
            try:
                self._film_sizes[record.film] = probe(record.film, exact=False).size
            except DataError as error:
                raise _of_clip(record, error) from error
        return record.film, self._film_sizes[record.film]

    def _box(self, record: ClipRecord) -> Box:
        size = self._film(record)[1]
        keypoints, scores = read_clip_skeleton(record, self._columns)
        try:
            return square_box(keypoints, scores, size, padding=self.config.padding)
        except DataError as error:
            raise DataError(f"clip {record.id}: {error.message}", where=record.skeleton, hint=error.hint) from error

    def _box_of_sound(self, record: ClipRecord) -> Box:
        """The same of a clip that can be decoded."""
        box = self._box(record)
        self._whole(record, box)
        return box

    def _whole(self, record: ClipRecord, box: Box) -> Tensor:
        """All frames of a clip, cut out; kept if there is a cache."""
        if self._cache is not None and record.id in self._cache:
            return self._cache[record.id]
        video = self._decode(record, box, np.arange(record.frames))
        if self._cache is not None:
            self._cache[record.id] = video
        return video

    def _decode(self, record: ClipRecord, box: Box, frames: np.ndarray) -> Tensor:
        """These frames of a clip, cut out: [3, T, size, size]."""
        film, film_size = self._film(record)
        parts = np.split(record.film_start + frames, range(_AT_ONCE, len(frames), _AT_ONCE))
        try:
            return torch.cat([_cut(film, part, box, film_size, self.config.size) for part in parts], 1)
        except DataError as error:
            raise _of_clip(record, error) from error

    def __getitem__(self, position: int) -> Item:
        record, box, config, rng = self.records[position], self.boxes[position], self.config, self._rng(position)
        frames = window_frames(record.frames, config.segments, config.window, rng if self.train else None)
        if self._cache is None:
            video = self._decode(record, box, frames)
        else:
            video = self._whole(record, box)[:, torch.from_numpy(frames)]
        if self.train and config.flip and rng.random() < 0.5:
            video = flip(video)
        return {"video": video[None], "label": record.label, "index": position}


def _cut(film: Path, frames: np.ndarray, box: Box, film_size: Size, size: int) -> Tensor:
    """The box of some frames of a film, scaled to ``size``: [3, T, size, size]."""
    left, top, side = box[0], box[1], box[2] - box[0]
    if side > size:  # shrunk while it is decoded, to where the box is ``size`` long: at most half a pixel is lost
        height, width = round(film_size[0] * size / side), round(film_size[1] * size / side)
        top, left = min(round(top * size / side), height - size), min(round(left * size / side), width - size)
        return read_frames(film, frames, size=(height, width))[..., top : top + size, left : left + size]
    video = read_frames(film, frames)[..., top : top + side, left : left + side]
    if side == size:
        return video
    larger = F.interpolate(video.transpose(0, 1).float(), size=(size, size), mode="bilinear", align_corners=False)
    return larger.round().clamp(0, 255).to(torch.uint8).transpose(0, 1)
