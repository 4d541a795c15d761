"""Films, read where needed and written whole (§2.1: the film is cut into clips).

T frames, H and W pixels. Notable choices:
* Reading seeks to the key frame before a wanted frame and decodes from there; a frame is known by its time stamp, so
  what comes back is the frame that a full decode would have counted to.
* The time stamps of a film are read once per process (a pass over its packets without decoding) and kept.
* Films are H.264 with a closed group of 25 frames: no frame needs more than 25 decoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from migcore.errors import ConfigError, DataError, StorageError

GROUP = 25
"""Frames from one key frame to the next in films that we write."""


@dataclass(frozen=True)
class FilmInfo:
    """What a film says of itself: number of frames, frames per second, size (H, W)."""

    frames: int
    fps: float
    size: tuple[int, int]


@dataclass(frozen=True)
class _FilmIndex:
    """Which frame is which.

    Attributes:
        frames: how many are shown.
        numbers: of a frame by its time stamp; None if the film has no usable ones.
        key_numbers: numbers of the key frames, rising.
        key_stamps: their time stamps.
    """

    frames: int
    numbers: dict[int, int] | None
    key_numbers: np.ndarray
    key_stamps: np.ndarray

    def number(self, frame: VideoFrame) -> int:
        """The number of a decoded frame by its time stamp, -1 if that tells none."""
        return -1 if self.numbers is None or frame.pts is None else self.numbers.get(frame.pts, -1)


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError("the film is missing", where=path, hint="Put it there or leave its clips out")
    reason = getattr(error, "strerror", None) or str(error)
    return DataError(
        f"is no whole film ({reason})", where=path, hint="It may be truncated or of another type: fetch it again"
    )


def _open(path: Path) -> tuple[InputContainer, VideoStream]:
    try:
        container = av.open(str(path))
    except (OSError, ValueError, av.FFmpegError) as error:
        raise _unreadable(path, error) from error
    if not container.streams.video:
        container.close()
        raise DataError("has no video stream", where=path, hint="Name a film")
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1  # loaders run in several processes
    return container, stream


@lru_cache(maxsize=512)
def _film_index(path: Path, size: int, time_ns: int) -> _FilmIndex:
    """Of a film of that size and time of change (so that a new file of the same name is read anew)."""
    container, stream = _open(path)
    with container:
        try:
            packets = [p for p in container.demux(stream) if p.size]
        except (OSError, ValueError, av.FFmpegError) as error:
            raise _unreadable(path, error) from error
        # By time, not by count: an edit list may hide frames that the header counts.
        ends = [p.pts + (p.duration or 0) for p in packets if p.pts is not None]
        steps = [p.duration or 0 for p in packets]
        missing = (stream.start_time or 0) + (stream.duration or 0) - max(ends, default=0)
        if any(p.is_corrupt for p in packets) or missing > 2 * max(steps, default=0):
            raise DataError(f"is truncated after {len(packets)} frames", where=path, hint="Fetch the film again")
    shown = [p for p in packets if not p.is_discard]
    stamps = np.array([-1 if p.pts is None else p.pts for p in shown], dtype=np.int64)
    order = np.argsort(stamps)
    key_numbers = np.flatnonzero(np.array([p.is_keyframe for p in shown], dtype=bool)[order])
    stamps = stamps[order]
    usable = all(p.pts is not None for p in shown) and len(np.unique(stamps)) == len(stamps)
    numbers = {stamp: number for number, stamp in enumerate(stamps.tolist())} if usable else None
    return _FilmIndex(len(shown), numbers, key_numbers, stamps[key_numbers])


def _index(path: Path) -> _FilmIndex:
    try:
        stat = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    index = _film_index(path, stat.st_size, stat.st_mtime_ns)
    if not index.frames:
        raise DataError("has no frames", where=path, hint="Fetch the film again")
    return index


def probe(path: str | Path, *, exact: bool = True) -> FilmInfo:
    """Frames, rate and size of a film.

    Args:
        path: the film.
        exact: count the frames (a pass over the file without decoding); otherwise believe the header where it tells,
            which can promise more than a cut or truncated film shows.

    Raises:
        DataError: the film is missing, truncated (``exact``), or no film.
    """
    path = Path(path)
    container, stream = _open(path)
    with container:
        promised, rate, size = stream.frames, stream.average_rate, (stream.height, stream.width)
    frames = promised if promised and not exact else _index(path).frames
    return FilmInfo(frames, float(rate) if rate else 0.0, size)


def _decode(container: InputContainer, stream: VideoStream, path: Path) -> Iterator[VideoFrame]:
    try:
        for frame in container.decode(stream):
            if frame.is_corrupt:  # patched with what was there before
                raise DataError(f"is damaged at {frame.time} s", where=path, hint="Fetch the film again")
            yield frame
    except (OSError, ValueError, av.FFmpegError) as error:
        raise _unreadable(path, error) from error


class _Picture:
    """Turns decoded frames into [H, W, 3] uint8, scaled to ``size`` if there is one."""

    def __init__(self, size: tuple[int, int] | None) -> None:
        self._height = None if size is None else size[0]
        self._width = None if size is None else size[1]
        self._reformatter = VideoReformatter()  # kept: setting one up costs more than scaling a small frame

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        rgb = self._reformatter.reformat(
            frame, width=self._width, height=self._height, format="rgb24", interpolation=Interpolation.BILINEAR
        )
        return rgb.to_ndarray()


def _from_start(path: Path, index: _FilmIndex, wanted: np.ndarray, picture: _Picture) -> dict[int, np.ndarray]:
    """Pictures of the wanted frames (sorted) from a decode of everything before them; may miss some."""
    found: dict[int, np.ndarray] = {}
    remaining = set(wanted.tolist())
    container, stream = _open(path)
    with container:
        for count, frame in enumerate(_decode(container, stream, path)):
            number = count if index.numbers is None else index.number(frame)
            if number in remaining:
                found[number] = picture(frame)
                remaining.remove(number)
            if not remaining:
                break
    return found


def _by_seeking(path: Path, index: _FilmIndex, wanted: np.ndarray, picture: _Picture) -> dict[int, np.ndarray]:
    """Pictures of the wanted frames (sorted), each group of frames decoded from its key frame; may miss some."""
    if index.numbers is None or not len(index.key_numbers) or index.key_numbers[0] != 0:
        return {}
    group_of = np.searchsorted(index.key_numbers, wanted, side="right") - 1
    found: dict[int, np.ndarray] = {}
    container, stream = _open(path)
    with container:
        position = 0  # the group that decoding would run into
        frames = _decode(container, stream, path)
        for group in np.unique(group_of):
            here = wanted[group_of == group]
            if group > position:
                container.seek(int(index.key_stamps[group]), stream=stream, backward=True, any_frame=False)
                frames = _decode(container, stream, path)
            remaining = set(here.tolist())
            for frame in frames:
                number = index.number(frame)
                if number in remaining:
                    found[number] = picture(frame)
                    remaining.remove(number)
                if not remaining or number > here[-1]:
                    break
            position = group + 1
    return found


def read_frames(path: str | Path, indices: Any, *, size: tuple[int, int] | None = None) -> Tensor:
    """Single frames of a film, exactly those that counting through a full decode would give.

    Args:
        path: the film.
        indices: T numbers, 0-based, in any order, repeats allowed.
        size: (H, W) to scale to (bilinear, averaging where it shrinks); None keeps the film's.

    Returns:
        [3, T, H, W] uint8, RGB.

    Raises:
        DataError: the film is missing, truncated, damaged at these frames, or no film; it has no such frame; or none is
            asked for.
    """
    path = Path(path)
    numbers = np.asarray(indices, dtype=np.int64).reshape(-1)
    if not len(numbers):
        raise DataError("no frame is asked for", where=path, hint="Leave empty clips out")
    index = _index(path)
    if numbers.min() < 0 or numbers.max() >= index.frames:
        outside = int(numbers.min() if numbers.min() < 0 else numbers.max())
        raise DataError(f"frame {outside} is asked for, but it has frames 0..{index.frames - 1}", where=path)
    wanted, inverse = np.unique(numbers, return_inverse=True)
    picture, found = _Picture(size), {}
    with suppress(DataError):  # a decoder may complain of what lies before the wanted frames where groups are open
        found = _by_seeking(path, index, wanted, picture)
    if len(found) < len(wanted):
        found = _from_start(path, index, wanted, picture)
    if len(found) < len(wanted):
        missing = min(set(wanted.tolist()) - set(found))
        raise DataError(f"frame {missing} cannot be decoded", where=path, hint="Fetch the film again")
    pictures = np.stack([found[number] for number in wanted.tolist()])
    return torch.from_numpy(pictures).permute(3, 0, 1, 2)[:, torch.from_numpy(inverse)].contiguous()


def read_all(
    path: str | Path, start: int = 0, end: int | None = None, *, size: tuple[int, int] | None = None
) -> Tensor:
    """All frames of a stretch of a film.

    Args:
        path: the film.
        start: first frame, 0-based.
        end: one after the last; None for the film's end.
        size: as in :func:`read_frames`.

    Returns:
        [3, end - start, H, W] uint8, RGB.

    Raises:
        DataError: as :func:`read_frames`.
    """
    return read_frames(path, np.arange(start, _index(Path(path)).frames if end is None else end), size=size)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, which takes its place when the block ends well and is gone when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        hint = "Free space or choose another disk, then run again; what was there before is intact"
        raise StorageError(f"could not be written ({error.strerror or error})", where=path, hint=hint) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


class FilmWriter:
    """Writes a film, whole or not at all: H.264 in MP4, yuv420p, one thread, closed groups of 25 frames.

    A context manager; the file appears under its name when the block ends without an error.

    Args:
        path: the film.
        size: (H, W), both even.
        fps: frames per second.
        crf: x264's constant quality, 0 (lossless) to 51; small films need low values to keep small motion.

    Raises:
        ConfigError: the size is odd or empty, or fps or crf are out of range.
        StorageError: the film could not be written (full disk, no permission); nothing is left behind.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], fps: float, *, crf: int = 16) -> None:
        height, width = size
        if height < 2 or width < 2 or height % 2 or width % 2:
            raise ConfigError(f"a film of {height}×{width} pixels is not possible", hint="Both sides are even numbers")
        if not 0 < fps <= 1000 or not 0 <= crf <= 51:
            raise ConfigError(f"fps {fps} or crf {crf} is out of range")
        self.path, self.size, self.frames = Path(path), (height, width), 0
        self._rate = Fraction(fps).limit_denominator(1001)
        self._crf = crf

    def __enter__(self) -> FilmWriter:
        with ExitStack() as stack:
            # A Python file, because its errors (a full disk) come through as they are.
            file = stack.enter_context(stack.enter_context(_replacing(self.path)).open("wb"))
            self._container = stack.enter_context(av.open(file, "w", format="mp4"))
            self._stream = self._container.add_stream("libx264", rate=self._rate)
            self._stream.height, self._stream.width = self.size
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.thread_count = 1
            self._stream.options = {
                "crf": str(self._crf),
                "preset": "veryfast",
                # Without mbtree and b-adapt the same frames give the same bytes, also where frames are tiny.
                "x264-params": f"keyint={GROUP}:min-keyint={GROUP}:scenecut=0:open-gop=0:mbtree=0:b-adapt=0",
            }
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append frames.

        Args:
            frames: [N, H, W, 3] uint8, RGB.

        Raises:
            DataError: another shape or type.
        """
        if frames.ndim != 4 or frames.shape[1:] != (*self.size, 3) or frames.dtype != np.uint8:
            expected = f"uint8 [N, {self.size[0]}, {self.size[1]}, 3]"
            raise DataError(f"frames are {frames.dtype} {list(frames.shape)}, not {expected}", where=self.path)
        for picture in frames:
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = self.frames
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    def _finish(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush the encoder when all went well."""
        if kind is None:
            if not self.frames:
                raise DataError("a film needs at least one frame", where=self.path)
            self._container.mux(self._stream.encode(None))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
