"""Which frame of a film is which, and when it is shown.

T frames. Notable choices:
* Frames are those that a full decode gives, in its order. Nearly always they are the packets, sorted by time stamp: a
  pass over the file without decoding. Where that may not hold (the film begins before its first key frame or with
  pictures that lean on one before it, stamps are missing, doubled or start again) what cannot be told is decoded.
* Seconds come from the stamps and begin with the first frame; a rate is used only where there are no stamps.
* An index is made once per process and film, and made anew when the file's size or time of change is another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from migcore.data.containers import (
    check_bytes,
    declared_end,
    declared_frames,
    lost_packets,
    open_film,
    unreadable,
    version_of,
)
from migcore.errors import DataError

_WHOLE_FRAMES = {"mov", "mp4", "matroska", "webm"}
"""Containers that keep each frame as one packet; in others a parser cuts the stream, by rules of its own."""
_ONE_TO_ONE = {"av1", "dnxhd", "ffv1", "h264", "hevc", "mjpeg", "mpeg4", "mpeg2video", "prores", "vp8", "vp9"}
"""Codecs of which a decoder shows a frame for each packet that is not hidden."""


_REFUSING = {"vp8", "vp9"}
"""Codecs whose decoders have an error for what leans on a picture that is not there."""


@dataclass(frozen=True)
class FilmIndex:
    """Frames of a film, numbered from 0.

    Attributes:
        times: [T + 1] float64, seconds from the first frame on at which each is shown, rising, and at which the last
            one ends; all 0 where the film tells neither stamps nor a rate.
        timed: the times come from stamps, not from a rate.
        stamps: [T] int64, rising time stamps by which decoded frames are told; None where frames must be counted.
        key_numbers: numbers of the key frames, rising; decoding can begin there.
    """

    times: np.ndarray
    timed: bool
    stamps: np.ndarray | None
    key_numbers: np.ndarray

    @property
    def frames(self) -> int:
        """T."""
        return len(self.times) - 1

    def number(self, frame: VideoFrame) -> int:
        """The number of a decoded frame by its time stamp, -1 if that tells none."""
        if self.stamps is None or frame.pts is None:
            return -1
        at = int(np.searchsorted(self.stamps, frame.pts))
        return at if at < len(self.stamps) and self.stamps[at] == frame.pts else -1


class _Packet(NamedTuple):
    """What a packet says, without its content."""

    pts: int | None
    dts: int | None
    duration: int
    key: bool
    corrupt: bool
    shown: bool


def film_index(path: Path) -> FilmIndex:
    """The index of a film.

    Raises:
        DataError: the film is missing, truncated, without frames, or no film.
    """
    return _film_index(path, version_of(path))


@lru_cache(maxsize=512)
def _film_index(path: Path, version: tuple[int, int]) -> FilmIndex:
    """Of a film in that version (a new file of the same name is read anew)."""
    check_bytes(path)
    container, stream = open_film(path)
    with container:
        packets = _packets(container, stream, path)
        assert stream.time_base is not None
        step, rate = float(stream.time_base), stream.average_rate or stream.guessed_rate
        names = set(container.format.name.split(","))
        clear = stream.codec_context.codec.canonical_name in _ONE_TO_ONE and bool(names & _WHOLE_FRAMES)
        clear = clear and bool(packets) and packets[0].key
    index = _by_packets(packets, path, step, float(rate or 0), clear) or _by_decoding(path, step, float(rate or 0))
    if not index.frames:
        raise DataError("has no frames", where=path, hint="Fetch or copy the film again")
    return index


def begins_whole(container: InputContainer, stream: VideoStream) -> bool:
    """Whether an MP4 says that its first frame is a key frame, also if that is damaged; False of other containers."""
    shown = [entry.is_keyframe for entry in stream.index_entries if not entry.is_discard]
    return "mp4" in container.format.name.split(",") and bool(shown) and shown[0]


def _packets(container: InputContainer, stream: VideoStream, path: Path) -> list[_Packet]:
    """The packets of the pictures, in the file's order. DataError if some are lost or the film was cut off."""
    found: list[_Packet] = []
    others = float("-inf")  # when the last of any other stream ends
    declared = declared_end(path, container, stream)
    vp8 = stream.codec_context.codec.canonical_name == "vp8"
    whole = begins_whole(container, stream)
    try:
        for packet in container.demux(*([] if declared and np.isfinite(declared[1]) else [stream])):
            if not packet.size:
                continue
            if packet.stream is not stream:
                if packet.pts is not None and packet.time_base is not None:
                    others = max(others, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                continue
            shown = not packet.is_discard and not (vp8 and not memoryview(packet)[0] & 0x10)  # else only referred to
            key = packet.is_keyframe or (whole and not found)  # damaged, it does not look like one
            found.append(_Packet(packet.pts, packet.dts, packet.duration or 0, key, packet.is_corrupt, shown))
    except (OSError, ValueError, av.FFmpegError) as error:
        raise unreadable(path, error) from error
    corrupt = [number for number, packet in enumerate(found) if packet.corrupt]
    lost = lost_packets(path, stream.id) if "mpegts" in container.format.name else None
    if lost or (lost is None and corrupt and corrupt[0] < len(found) - 1):
        where = f" after {corrupt[0]} frames" if corrupt else ""
        hint = "Fetch or copy the film again"
        raise DataError(f"is damaged{where}: parts of it were lost on their way", where=path, hint=hint)
    if lost is False:  # FFmpeg takes a seam for a loss
        corrupt = []
    if corrupt or (declared is not None and _ends_early(found, others, declared, stream)):
        raise DataError(f"is truncated after {len(found)} frames", where=path, hint="Fetch or copy the film again")
    return found


def _ends_early(packets: list[_Packet], others: float, declared: tuple[float, float], stream: VideoStream) -> bool:
    """Whether a film ends clearly before all that its header says of its end (one alone may be out of date)."""
    stamps = np.sort([packet.pts for packet in packets if packet.pts is not None])
    unit = float(stream.time_base or 0)
    # By time, not by count: an edit list may hide frames that the header counts.
    end = max((packet.pts + packet.duration for packet in packets if packet.pts is not None), default=0) * unit
    longest = max([packet.duration for packet in packets] + np.diff(stamps).tolist(), default=0) * unit
    of_pictures, of_all = declared
    short = [of_pictures - end > 2 * longest] if np.isfinite(of_pictures) else []
    if counted := declared_frames(stream):
        short.append(len(packets) < counted)
    if np.isfinite(of_all):
        short.append(of_all - max(end, others) > max(2 * longest, 0.5))
    return bool(short) and all(short)


def _by_packets(packets: list[_Packet], path: Path, unit: float, rate: float, clear: bool) -> FilmIndex | None:
    """The index that the packets tell, or None if they do not tell which frames a decode gives, and in which order.

    Args:
        packets: in the file's order.
        path: the film.
        unit: seconds of a stamp's step.
        rate: mean frames per second by the header, 0 if it tells none.
        clear: container and codec keep a shown frame for each packet, and the film begins with a key frame; else what
            is shown is seen by decoding the beginning.
    """
    shown = [packet for packet in packets if packet.shown]
    stamps = [packet.pts for packet in shown if packet.pts is not None]
    order = [packet.dts for packet in packets if packet.dts is not None]
    keys = [packet.pts for packet in shown if packet.key and packet.pts is not None]
    if not keys or len(stamps) < len(shown) or len(set(stamps)) < len(stamps):
        return None
    if any(later < earlier for earlier, later in pairwise(order)):
        return None  # the clock starts again
    first = keys[0]
    if not clear or min(stamps) < first:
        until = keys[1] if len(keys) > 1 and keys[1] > first else None
        came = _stamps_before(path, until)
        expected = sorted(s for s in stamps if s >= first and (until is None or s < until))
        if came is None or [s for s in came if s >= first] != expected:
            return None
        stamps = came + [s for s in stamps if until is not None and s >= until]
    known = np.sort(np.array(stamps, dtype=np.int64))
    lasts = {packet.pts: packet.duration for packet in shown}
    numbers = np.searchsorted(known, np.sort(np.array([key for key in keys if key in set(stamps)], dtype=np.int64)))
    return FilmIndex(_seconds(known, lasts.get(int(known[-1]), 0), unit, rate), True, known, numbers)


def _seconds(stamps: np.ndarray, last: int, unit: float, rate: float) -> np.ndarray:
    """[T + 1] seconds from the first of rising stamps, the last frame being shown as long as it says or others are."""
    steps = np.diff(stamps)
    lasting: float = last
    if last <= 0:
        lasting = float(np.median(steps)) if len(steps) else (1 / rate / unit if rate else 0)
    return np.append(stamps - stamps[0], stamps[-1] - stamps[0] + lasting) * unit


def _stamps_before(path: Path, until: int | None) -> list[int] | None:
    """Stamps of the frames that decoding from the start gives before one; None unless they rise."""
    found: list[int] = []
    container, stream = open_film(path)
    with container:
        for frame in decoded(container, stream, path):
            if frame.pts is None or (found and frame.pts <= found[-1]):
                return None
            if until is not None and frame.pts >= until:
                break
            found.append(frame.pts)
    return found


def _by_decoding(path: Path, unit: float, rate: float) -> FilmIndex:
    """The index that a full decode tells."""
    stamps: list[int | None] = []
    keys: list[int] = []
    last = 0
    container, stream = open_film(path)
    with container:
        for number, frame in enumerate(decoded(container, stream, path)):
            stamps.append(frame.pts)
            last = frame.duration or 0
            if frame.key_frame:
                keys.append(number)
    known = np.array([stamp for stamp in stamps if stamp is not None], dtype=np.int64)
    if len(known) and len(known) == len(stamps) and (np.diff(known) > 0).all():
        return FilmIndex(_seconds(known, last, unit, rate), True, known, np.array(keys, dtype=np.int64))
    if len(known) < 2:
        times = np.arange(len(stamps) + 1) / rate if rate else np.zeros(len(stamps) + 1)
        return FilmIndex(times, False, None, np.array(keys, dtype=np.int64))
    # A clock that starts again, stands still or is silent for a while: the next frame comes after the usual step.
    steps = np.diff(known)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1 / (rate or 25) / unit
    at: list[float] = []
    told: tuple[int, float] | None = None  # the last stamp, and where that put its frame
    for stamp in stamps:
        now = at[-1] + usual if at else 0.0
        if stamp is not None:
            if told is not None and told[1] + stamp - told[0] > at[-1]:
                now = told[1] + stamp - told[0]
            told = stamp, now
        at.append(now)
    return FilmIndex(np.append(at, at[-1] + (last or usual)) * unit, True, None, np.array(keys, dtype=np.int64))


def decoded(container: InputContainer, stream: VideoStream, path: Path) -> Iterator[VideoFrame]:
    """Frames from where a film stands, in the order they are shown; a decoder's complaint is a DataError.

    What comes before the first key frame leans on pictures that are not there. Most decoders leave it out without a
    word; what those of VP8 and VP9 refuse is left out likewise.
    """
    begun = stream.codec_context.codec.canonical_name not in _REFUSING
    try:
        for packet in container.demux(stream):
            begun = begun or packet.is_keyframe
            with nullcontext() if begun or not packet.size else suppress(av.InvalidDataError):
                yield from packet.decode()
    except (OSError, ValueError, av.FFmpegError) as error:
        raise unreadable(path, error) from error
