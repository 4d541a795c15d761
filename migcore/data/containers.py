"""A film's file: opened by whatever name it has, its moving pictures found, and whether all of it is there.

Notable choices:
* A name is a file of this machine, never an address: FFmpeg would read ``file:a.mp4`` or ``a:b.mp4`` as a protocol. A
  file that only lists other files (a playlist) is no film.
* A cover picture is no film, though FFmpeg gives it as a video stream.
* Whether a film was cut off is told by what its container declares: bytes (MP4, Matroska and WebM, AVI, FLV, ASF) and
  time. A transport stream, or a recording that was streamed while it was made, declares neither.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from migcore.errors import DataError

_LISTS = {"concat", "concatf", "dash", "hls", "imf", "sdp", "webm_dash_manifest"}
"""Demuxers of files that name other files."""
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
_TS, _STUFFING = 188, 0x1FFF
"""Bytes of a transport stream's packet, and the number of those that carry nothing."""
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_SLACK = 16
"""Bytes that a container may declare in excess: some writers count the header of a chunk twice."""


def unreadable(path: Path, error: Exception) -> DataError:
    """What the system or a decoder says of a film, in words."""
    if isinstance(error, FileNotFoundError):
        return DataError("the film is missing", where=path, hint="Put it there or leave its clips out")
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EISDIR):
        hint = "Name a film" if error.errno == errno.EISDIR else "Allow it to be read"
        return DataError(f"cannot be read ({reason})", where=path, hint=hint)
    hint = "It may be truncated or of another type: fetch or copy the film again"
    return DataError(f"is no whole film ({reason})", where=path, hint=hint)


def version_of(path: Path) -> tuple[int, int]:
    """Size and time of change of a film's file, by which what was read of it is known to be still true.

    Raises:
        DataError: the film is missing or cannot be looked at.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    return stat.st_size, stat.st_mtime_ns


def open_film(path: Path) -> tuple[InputContainer, VideoStream]:
    """A film and the stream of its moving pictures.

    Raises:
        DataError: it is missing, no film, a list of other files, or has sound alone (with or without a cover picture).
    """
    if path.is_dir():
        raise unreadable(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    try:
        container = av.open(f"file:{os.path.abspath(path)}", metadata_errors="replace")  # titles in any encoding
    except (OSError, ValueError, av.FFmpegError) as error:
        raise unreadable(path, error) from error
    names = set(container.format.name.split(","))
    streams = [stream for stream in container.streams.video if not stream.disposition & _PICTURES]
    if names & _LISTS or not streams:
        pictures = bool(container.streams.video)
        container.close()
        if names & _LISTS:
            raise DataError("is no film but a list of other files", where=path, hint="Name one of these films")
        what = "has a cover picture, but no film" if pictures else "has no video stream"
        raise DataError(what, where=path, hint="Name a film")
    stream = streams[0]
    if stream.codec_context is None:
        container.close()
        hint = "Write it anew as H.264, with a video editor or `ffmpeg -i FILM OTHER.mp4`"
        raise DataError("is of a kind that cannot be decoded here", where=path, hint=hint)
    stream.codec_context.thread_count = 1  # loaders run in several processes
    return container, stream


def declared_bytes(path: Path) -> int | None:
    """How long a film's file should be by what its container says of itself.

    Args:
        path: a file of any kind.

    Returns:
        bytes, from the file's beginning; None where the container does not tell (or is none of MP4, Matroska, WebM,
        AVI, FLV and ASF).

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)

            def read(at: int, count: int) -> bytes:
                file.seek(at)
                return file.read(count)

            head = read(0, 12)
            if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"):
                return max(_boxes(read, size), default=None)
            if head[:4] == b"RIFF":
                return max(_riff(read, size), default=None)
            if head[:4] == b"\x1a\x45\xdf\xa3":
                length, at = _segment(read) or (None, 0)
                return None if length is None else at + length
            if head[:3] == b"FLV" or head[:4] == b"\x30\x26\xb2\x75":
                return _told(read(0, 1 << 16))
    except OSError as error:
        raise unreadable(path, error) from error
    return None


def _boxes(read: Callable[[int, int], bytes], size: int) -> Iterator[int]:
    """Where each box at the top of an MP4 ends (ISO/IEC 14496-12, section 4.2)."""
    at = 0
    while at + 8 <= size:
        head = read(at, 16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8 or not all(32 <= byte < 127 or byte == 0xA9 for byte in kind):
            return  # up to the file's end, or something that was put behind the film
        at += length
        yield at


def _riff(read: Callable[[int, int], bytes], size: int) -> Iterator[int]:
    """Where each RIFF chunk of an AVI ends; a large film has several."""
    at = 0
    while at + 12 <= size:
        head = read(at, 8)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or length in (0, 0xFFFFFFFF):  # it was streamed, or never finished
            return
        at += 8 + length + length % 2
        yield at


def _told(head: bytes) -> int | None:
    """The file's size as the header of an FLV or ASF (Windows Media) film tells it."""
    if head[:3] == b"FLV":
        at = head.find(b"filesize\x00") + len(b"filesize\x00")
        size = struct.unpack(">d", head[at : at + 8])[0] if at + 8 <= len(head) and at > 8 else 0.0
        return int(size) if 0 < size < 1 << 60 else None
    at = head.find(_ASF_PROPERTIES)
    told = struct.unpack("<Q", head[at + 40 : at + 48])[0] if 0 <= at <= len(head) - 92 else 0
    streamed = told and head[at + 88] & 1  # a broadcast: its sizes mean nothing
    return told if told and not streamed else None


def _segment(read: Callable[[int, int], bytes]) -> tuple[int | None, int] | None:
    """Length (None: unknown) and beginning of the content of a Matroska or WebM file's segment (RFC 8794, RFC 9559)."""
    length, at = _vint(read(4, 8), 4)
    if length is None or read(at + length, 4) != b"\x18\x53\x80\x67":
        return None
    at += length + 4
    return _vint(read(at, 8), at)


def _matroska_end(path: Path) -> float:
    """The ``Duration`` of a Matroska or WebM file, in seconds; -inf if it has none. FFmpeg would estimate one then."""
    with path.open("rb") as file:

        def read(at: int, count: int) -> bytes:
            file.seek(at)
            return file.read(count)

        segment = _segment(read)
        for kind, at, end in _elements(read, segment[1], None) if segment else ():
            if kind == b"\x1f\x43\xb6\x75":  # the first cluster: pictures
                break
            if kind == b"\x15\x49\xa9\x66":  # Info
                found = {name: read(a, min(b - a, 8)) for name, a, b in _elements(read, at, end)}
                duration = found.get(b"\x44\x89", b"")
                if len(duration) in (4, 8):
                    (ticks,) = struct.unpack(">f" if len(duration) == 4 else ">d", duration)
                    return ticks * int.from_bytes(found.get(b"\x2a\xd7\xb1", b"\x0f\x42\x40"), "big") / 1e9
    return float("-inf")


def _elements(read: Callable[[int, int], bytes], at: int, end: int | None) -> Iterator[tuple[bytes, int, int]]:
    """Name, beginning and end of what each element holds; until one's length is unknown."""
    while end is None or at < end:
        name = read(at, 4)
        width = 9 - name[0].bit_length() if name and name[0] else 5
        length, start = _vint(read(at + width, 8), at + width)
        if width > 4 or (length is None and name[:4] != b"\x1f\x43\xb6\x75"):
            return
        at = start + (length or 0)
        yield name[:width], start, at


def _vint(data: bytes, at: int) -> tuple[int | None, int]:
    """A number of variable length (None where all its bits are 1: unknown), and where what follows it begins."""
    if not data or not data[0]:
        return None, at
    width = 9 - data[0].bit_length()
    number = int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1)
    return (None if number == (1 << 7 * width) - 1 else number), at + width


def check_bytes(path: Path) -> None:
    """Raise a DataError if the file ends before its container says that it does."""
    declared, size = declared_bytes(path), path.stat().st_size
    if declared is not None and declared > size + _SLACK:
        message = f"is no whole film: it is truncated after {size:,} of the {declared:,} bytes that it declares"
        raise DataError(message, where=path, hint="Fetch or copy the film again")


def lost_packets(path: Path, pid: int) -> bool | None:
    """Whether packets of an MPEG transport stream were lost, by the counters that it carries.

    Where one stream was put behind another they break too, but there the next packet begins a frame, and before it come
    tables whose counters break as well.

    Args:
        path: the film.
        pid: of its pictures.

    Returns:
        None where the file is no plain run of packets, so that nothing can be said.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise unreadable(path, error) from error
    packets = data[: len(data) // _TS * _TS].reshape(-1, _TS)
    if not len(packets) or (packets[:, 0] != 0x47).any():
        return None
    pids = (packets[:, 1] & 0x1F).astype(np.int64) << 8 | packets[:, 2]
    carries = packets[:, 3] & 0x10 > 0
    excused = (packets[:, 3] & 0x20 > 0) & (packets[:, 4] > 0) & (packets[:, 5] & 0x80 > 0)  # it says so itself
    broken = np.zeros(len(packets), dtype=bool)
    for each in np.unique(pids[carries & (pids != _STUFFING)]):
        places = np.flatnonzero(carries & (pids == each))
        broken[places[1:]] = ~np.isin(np.diff((packets[places, 3] & 0x0F).astype(np.int64)) % 16, (0, 1))
    others, pictures = np.flatnonzero(broken & (pids != pid)), np.flatnonzero(carries & (pids == pid))
    for place in np.flatnonzero(broken & ~excused & (pids == pid)):
        before = pictures[np.searchsorted(pictures, place) - 1]
        if not packets[place, 1] & 0x40 or not ((others > before) & (others < place)).any():
            return True
    return bool((packets[pictures, 1] & 0x80).any())  # bits that the receiver could not mend


def declared_end(path: Path, container: InputContainer, stream: VideoStream) -> tuple[float, float] | None:
    """When the pictures end and when all of the film ends, by the header, in seconds of its own clock.

    Returns:
        the two; the first may be -inf where it is not said. None where a container declares no time and FFmpeg has
        estimated one from what is there.
    """
    names = set(container.format.name.split(","))
    if names & {"matroska", "webm"}:
        return _clock(_tag(stream, "DURATION")), _matroska_end(path)
    if names & {"mov", "avi"} and stream.duration is not None and stream.time_base is not None:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base), float("-inf")
    if names & {"flv", "asf"} and container.duration is not None:
        return float("-inf"), container.duration / av.time_base
    return None


def declared_frames(stream: VideoStream) -> int:
    """Packets that a Matroska or WebM film's statistics count; 0 where it has none."""
    text = _tag(stream, "NUMBER_OF_FRAMES")
    return int(text) if text.isdecimal() else 0


def _tag(stream: VideoStream, name: str) -> str:
    """A tag, whatever the language that it is in: NAME or NAME-eng."""
    return next((value for key, value in stream.metadata.items() if key.split("-")[0] == name), "").strip()


def _clock(text: str) -> float:
    """``HH:MM:SS.fraction`` in seconds; -inf for anything else."""
    try:
        hours, minutes, seconds = text.strip().split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return float("-inf")
