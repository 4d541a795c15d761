"""A film of one's own, in memory or on disk, and the windows of it that are judged.

T frames, W windows, K views, H and W pixels. Notable choice: seconds are those at which frames are shown
(:func:`~migcore.data.video.frame_times`), so that a window of two seconds lasts two seconds where a film's rate varies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from migcore.data.augment import centre_crop, resize_short, short_side
from migcore.data.datasets import VideoConfig
from migcore.data.sampling import segment_centres
from migcore.data.video import frame_times, has_stamps, probe, read_frames
from migcore.errors import ConfigError, DataError


def windows(times: np.ndarray, seconds: float = 2.0, stride: float = 1.0) -> np.ndarray:
    """Spans of a film: [W, 2] int64, first frame (0-based) and the one after the last.

    The last one ends with the film; a film that is shorter than a window is one window.

    Args:
        times: [T + 1], seconds at which each frame begins and at which the last one ends, rising.
        seconds: length of a window, to the nearest frame.
        stride: from the start of one to the start of the next, to the nearest frame.

    Raises:
        ConfigError: a number is not above 0, there are no frames, or their times do not rise.
    """
    frames = len(times) - 1
    if frames < 1 or not (np.diff(times) > 0).all() or not np.isfinite(times).all():
        raise ConfigError("a film without frames or whose times do not rise", hint="give T + 1 times for T frames")
    if not 0 < seconds < np.inf or not 0 < stride < np.inf:
        raise ConfigError(f"windows of {seconds:g} s every {stride:g} s", hint="both are above 0")
    ends, following = _frames_after(times, seconds), _frames_after(times, stride)
    spans: list[tuple[int, int]] = []
    start = 0
    while start < frames and ends[start] <= frames:
        spans.append((start, int(ends[start])))
        start = int(following[start])
    if not spans or spans[-1][1] < frames:
        back = times[-1] - times[::-1]
        last = max(0, frames - int(_frames_after(back, seconds)[0]))
        spans.append((max(last, spans[-1][0] + 1) if spans else last, frames))
    return np.array(spans, dtype=np.int64)


def _frames_after(times: np.ndarray, seconds: float) -> np.ndarray:
    """[T] int64: which boundary of frames is nearest to so many seconds after each frame's start, at least the next.

    Behind the film's end boundaries go on at the pace of its last frame.
    """
    count = len(times) - 1
    ends = times[:-1] + seconds
    at = np.interp(ends, times, np.arange(count + 1))
    at += np.maximum(ends - times[-1], 0) / (times[-1] - times[-2])
    steps = np.minimum(np.round(at - np.arange(count), 6), count + 1)  # so that halves are halves
    return np.arange(count) + np.maximum(1, np.round(steps).astype(np.int64))


@dataclass(frozen=True)
class Film:
    """A film in memory or on disk.

    Attributes:
        source: a path, or [3, T, H, W] uint8 RGB.
        times: [T + 1] float64 seconds at which each frame begins, and at which the last one ends.
        size: (H, W) in pixels, upright.
        assumed: the times are counted at a rate that nobody told.
    """

    source: Path | Tensor
    times: np.ndarray
    size: tuple[int, int]
    assumed: bool = False

    @staticmethod
    def of(video: str | Path | Tensor | np.ndarray, fps: float | None = None) -> Film:
        """A film from a path or an array.

        Args:
            video: a path, or [3, T, H, W] uint8 RGB.
            fps: frames per second; needed for arrays, and for a file instead of its time stamps.

        Raises:
            DataError: the file is no film, or the array has another shape or type.
            ConfigError: the rate is not known, or is not above 0.
        """
        if fps is not None and not 0 < fps < np.inf:
            hint = "Give --fps a number above 0, such as 25 (fps=25 in Python)"
            raise ConfigError(f"{fps:g} frames per second", hint=hint)
        if isinstance(video, (str, Path)):
            path = Path(video)
            size, times = probe(path).size, frame_times(path)
            film = Film(path, times, size, assumed=not has_stamps(path))
        else:
            array = torch.as_tensor(video)
            if array.ndim != 4 or array.shape[0] != 3 or array.dtype != torch.uint8 or not array.numel():
                raise DataError(
                    f"a film of shape {list(array.shape)} and type {array.dtype}", hint="give uint8 [3, T, H, W], RGB"
                )
            film = Film(array, np.zeros(array.shape[1] + 1), (int(array.shape[2]), int(array.shape[3])))
        if fps is not None:
            film = Film(film.source, np.arange(film.frames + 1) / fps, film.size)
        if not film.times[-1] > 0:
            where = film.source if isinstance(film.source, Path) else None
            hint = "give them: --fps 25 (fps=25 in Python)"
            raise ConfigError("the film's frames per second are not known", where=where, hint=hint)
        return film

    @property
    def frames(self) -> int:
        """T."""
        return len(self.times) - 1

    @property
    def fps(self) -> float:
        """Frames per second, the mean over the film."""
        return self.frames / float(self.times[-1])

    def view(self, span: np.ndarray, config: VideoConfig) -> Tensor:
        """The test views of a window, [K, 3, T, size, size] uint8, as :class:`.VideoClips` has them."""
        frames = int(span[0]) + segment_centres(int(span[1] - span[0]), config.frames, config.test_clips)
        if isinstance(self.source, Tensor):
            video = self.source[:, torch.from_numpy(frames)]
        else:
            scaled = short_side(self.size, config.size) if min(self.size) > config.size else None
            video = read_frames(self.source, frames, size=scaled)
        video = centre_crop(resize_short(video, config.size), (config.size, config.size))
        return video.unflatten(1, (-1, config.frames)).transpose(0, 1).contiguous()
