"""Films, read where needed (§2.1: the film is cut into clips).

T frames, H and W pixels. Notable choices:
* Reading seeks to the key frame before a wanted frame and decodes from there; a frame is known by its time stamp, so
  what comes back is the frame that a full decode would have counted to (:mod:`migcore.data.timeline`).
* Pictures are upright, as players show them: turned and mirrored as the film's display matrix says, and with square
  pixels (the stored height stays, the width follows). Sizes and keypoints are those of the upright picture.
* A film has one picture size. Where it changes inside of a film, the frames of another size are refused.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from migcore.data.containers import check_bytes, open_film, unreadable, version_of
from migcore.data.timeline import FilmIndex, begins_whole, decoded, film_index
from migcore.errors import DataError

_WIDEST_PIXEL = 8
"""A film that says of its pixels that one side is more than this times the other does not know: they are square."""


@dataclass(frozen=True)
class FilmInfo:
    """What a film says of itself: number of frames, frames per second (mean, by its header), upright size (H, W)."""

    frames: int
    fps: float
    size: tuple[int, int]


@dataclass(frozen=True)
class _Look:
    """What the first frame and the header tell.

    Attributes:
        coded: (width, height) of the pictures as they are stored.
        size: (H, W) of the upright picture with square pixels.
        swap: rows become columns, before the mirroring.
        mirror: which of (rows, columns) are then reversed.
        fps: mean rate, 0 if it is not told.
        promised: frames by the header, 0 if it does not tell or should not be believed.
    """

    coded: tuple[int, int]
    size: tuple[int, int]
    swap: bool
    mirror: tuple[bool, bool]
    fps: float
    promised: int


def _look(path: Path) -> _Look:
    return _look_at(path, version_of(path))


@lru_cache(maxsize=1024)
def _look_at(path: Path, version: tuple[int, int]) -> _Look:
    """Of a film in that version."""
    check_bytes(path)
    container, stream = open_film(path)
    with container:
        rate, pixel = stream.average_rate or stream.guessed_rate, stream.sample_aspect_ratio
        promised = _promised(container, stream)
        frame = next(decoded(container, stream, path), None)
        if frame is None:
            raise DataError("has no frames", where=path, hint="Fetch or copy the film again")
        swap, mirror = _orientation(frame)
        height, width, aspect = frame.height, frame.width, float(pixel or 1)
        if 1 / _WIDEST_PIXEL <= aspect <= _WIDEST_PIXEL:
            width = max(1, round(width * aspect))
        upright = (width, height) if swap else (height, width)
        return _Look((frame.width, frame.height), upright, swap, mirror, float(rate or 0), promised)


def _promised(container: InputContainer, stream: VideoStream) -> int:
    """Frames by an MP4's table, which is read when it is opened; 0 where the table does not begin with a key frame."""
    if not begins_whole(container, stream):
        return 0
    return min(stream.frames, sum(not entry.is_discard for entry in stream.index_entries))


def _orientation(frame: VideoFrame) -> tuple[bool, tuple[bool, bool]]:
    """How a picture is turned to stand upright: rows and columns swapped, and then which of them reversed.

    The display matrix takes a stored place (x, y) to the shown (a·x + c·y, b·x + d·y), in 16.16 fixed point; the
    nearest of the eight ways without slant is taken.
    """
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, (False, False)
    a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32, count=5).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, (d < 0, a < 0)
    return True, (b < 0, c < 0)


def probe(path: str | Path, *, exact: bool = True) -> FilmInfo:
    """Frames, rate and upright size of a film.

    Args:
        path: the film.
        exact: count the frames that a decode gives (a pass over the file, nearly always without decoding); otherwise
            believe an MP4's table of frames, which can promise a few more where a film was cut without care.

    Raises:
        DataError: the film is missing, truncated, or no film.
    """
    path = Path(path)
    look = _look(path)
    frames = look.promised if look.promised and not exact else film_index(path).frames
    return FilmInfo(frames, look.fps, look.size)


def frame_times(path: str | Path) -> np.ndarray:
    """When the frames of a film are shown, by their time stamps.

    Args:
        path: the film.

    Returns:
        [T + 1] float64: seconds from the first frame on at which each frame begins, and at which the last one ends. A
        film without stamps has an even rate; without a rate either, all are 0.

    Raises:
        DataError: as :func:`probe`.
    """
    return film_index(Path(path)).times


def has_stamps(path: str | Path) -> bool:
    """Whether :func:`frame_times` are the film's own and not counted at an assumed rate; errors as there."""
    return film_index(Path(path)).timed


class _Picture:
    """Turns decoded frames into upright [H, W, 3] uint8 of ``size``, that of the film if it is None."""

    def __init__(self, look: _Look, size: tuple[int, int] | None, path: Path) -> None:
        self._look, self._path = look, path
        height, width = (look.size if size is None else size)[:: -1 if look.swap else 1]
        scaled = (width, height) != look.coded
        self._width = width if scaled else None
        self._height = height if scaled else None
        self._reformatter = VideoReformatter()  # kept: setting one up costs more than scaling a small frame

    def __call__(self, frame: VideoFrame, number: int) -> np.ndarray:
        if (frame.width, frame.height) != self._look.coded:
            was, now = ("{}×{}".format(*size) for size in (self._look.coded, (frame.width, frame.height)))
            raise DataError(
                f"the size of its pictures changes: frame {number} has {now} pixels, the first frame has {was}",
                where=self._path,
                hint="Write the film anew in one size, with a video editor or `ffmpeg -i FILM -vf scale=W:H OTHER`",
            )
        rgb = self._reformatter.reformat(
            frame, width=self._width, height=self._height, format="rgb24", interpolation=Interpolation.BILINEAR
        )
        picture = rgb.to_ndarray()
        if self._look.swap:
            picture = picture.transpose(1, 0, 2)
        rows, columns = self._look.mirror
        return picture[:: -1 if rows else 1, :: -1 if columns else 1]


def _damaged(path: Path, number: int) -> DataError:
    return DataError(f"is damaged at frame {number}", where=path, hint="Fetch or copy the film again")


def _from_start(path: Path, index: FilmIndex, wanted: np.ndarray, picture: _Picture) -> dict[int, np.ndarray]:
    """Pictures of the wanted frames (sorted) from a decode of everything before them; may miss some."""
    found: dict[int, np.ndarray] = {}
    remaining = set(wanted.tolist())
    container, stream = open_film(path)
    with container:
        clean = False
        for count, frame in enumerate(decoded(container, stream, path)):
            number = count if index.stamps is None else index.number(frame)
            clean = clean or frame.key_frame
            if frame.is_corrupt and (clean or number in remaining):  # patched with what was there before
                raise _damaged(path, count)
            if number in remaining:
                found[number] = picture(frame, number)
                remaining.remove(number)
            if not remaining:
                break
    return found


def _by_seeking(path: Path, index: FilmIndex, wanted: np.ndarray, picture: _Picture) -> dict[int, np.ndarray]:
    """Pictures of the wanted frames (sorted), each group of frames decoded from its key frame; may miss some."""
    if index.stamps is None or not len(index.key_numbers):
        return {}
    group_of = np.searchsorted(index.key_numbers, wanted, side="right") - 1
    found: dict[int, np.ndarray] = {}
    container, stream = open_film(path)
    with container:
        position = 0 if index.key_numbers[0] == 0 else None  # the group that decoding would run into
        frames = decoded(container, stream, path)
        for group in np.unique(group_of[group_of >= 0]):
            here = wanted[group_of == group]
            if position is None or group > position:
                key = int(index.stamps[index.key_numbers[group]])
                try:
                    container.seek(key, stream=stream, backward=True, any_frame=False)
                except (OSError, ValueError, av.FFmpegError) as error:  # a container without an index, or a broken one
                    raise unreadable(path, error) from error
                frames = decoded(container, stream, path)
            remaining = set(here.tolist())
            clean = False  # from the key frame on; what comes before it may lean on what was not decoded
            for frame in frames:
                number = index.number(frame)
                clean = clean or number == index.key_numbers[group]
                if clean and frame.is_corrupt:
                    raise _damaged(path, number)
                if clean and number in remaining:
                    found[number] = picture(frame, number)
                    remaining.remove(number)
                if not remaining or number > here[-1]:
                    break
            position = int(group) + 1
    return found


def read_frames(path: str | Path, indices: Any, *, size: tuple[int, int] | None = None) -> Tensor:
    """Single frames of a film, exactly those that counting through a full decode would give, upright.

    Args:
        path: the film.
        indices: T numbers, 0-based, in any order, repeats allowed.
        size: (H, W) to scale to (bilinear, averaging where it shrinks); None keeps the film's.

    Returns:
        [3, T, H, W] uint8, RGB.

    Raises:
        DataError: the film is missing, truncated, damaged at these frames, or no film; it has no such frame; none is
            asked for; or one has another size than the film's first.
    """
    path = Path(path)
    numbers = np.asarray(indices, dtype=np.int64).reshape(-1)
    if not len(numbers):
        raise DataError("no frame is asked for", where=path, hint="Leave empty clips out")
    index = film_index(path)
    if numbers.min() < 0 or numbers.max() >= index.frames:
        outside = int(numbers.min() if numbers.min() < 0 else numbers.max())
        raise DataError(f"frame {outside} is asked for, but it has frames 0..{index.frames - 1}", where=path)
    wanted, inverse = np.unique(numbers, return_inverse=True)
    picture = _Picture(_look(path), size, path)
    found: dict[int, np.ndarray] = {}
    with suppress(DataError):  # a decoder may complain of what lies before the wanted frames where groups are open
        found = _by_seeking(path, index, wanted, picture)
    if len(found) < len(wanted):
        found = _from_start(path, index, wanted, picture)
    if len(found) < len(wanted):
        missing = min(set(wanted.tolist()) - set(found))
        raise DataError(f"frame {missing} cannot be decoded", where=path, hint="Fetch or copy the film again")
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
    return read_frames(path, np.arange(start, film_index(Path(path)).frames if end is None else end), size=size)


def check_pictures(path: str | Path) -> None:
    """Look at the key frames of a film, where its pictures may change their size.

    Args:
        path: the film.

    Raises:
        DataError: one is damaged or has another size than the film's first frame; or as :func:`probe`.
    """
    path = Path(path)
    index, look = film_index(path), _look(path)
    picture = _Picture(look, (2, 2), path)
    container, stream = open_film(path)
    with container:
        stream.codec_context.skip_frame = "NONKEY"
        for count, frame in enumerate(decoded(container, stream, path)):
            number = index.number(frame)
            if number < 0 and len(index.key_numbers):
                number = int(index.key_numbers[min(count, len(index.key_numbers) - 1)])
            if frame.is_corrupt:
                raise _damaged(path, number)
            picture(frame, number)
