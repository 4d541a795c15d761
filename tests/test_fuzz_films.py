"""Films as editors, recorders and networks leave them, against one oracle: a full decode, frame by frame.

A film is made, its packets are put into another container, some of them dropped, their stamps shifted, doubled or
started again, or its bytes cut or joined. What is read must be what PyAV alone decodes from the first packet to the
last; only what was lost may be refused.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from migcore.data.video import frame_times, probe, read_all, read_frames
from migcore.errors import DataError
from tests.data.tiny import moving_picture

FRAMES, SIZE = 26, (32, 48)
CASES = 3000
SOURCES: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"x264-params": "keyint=8:min-keyint=8:scenecut=0:bframes=2:b-adapt=0:open-gop=0"}),
    "h264 open": ("libx264", {"x264-params": "keyint=8:min-keyint=8:scenecut=0:bframes=2:b-adapt=0:open-gop=1"}),
    "h264 refresh": ("libx264", {"x264-params": "keyint=8:intra-refresh=1:bframes=0"}),
    "h264 plain": ("libx264", {"x264-params": "keyint=9:bframes=0:scenecut=0"}),
    "mpeg4": ("mpeg4", {"g": "7"}),
    "mpeg4 b": ("mpeg4", {"g": "7", "bf": "2"}),
    "mpeg2": ("mpeg2video", {"g": "9", "bf": "2"}),
    "vp8": ("libvpx", {"g": "9", "auto-alt-ref": "1", "lag-in-frames": "8", "deadline": "realtime"}),
    "vp9": ("libvpx-vp9", {"g": "9", "auto-alt-ref": "1", "lag-in-frames": "12", "deadline": "realtime"}),
    "mjpeg": ("mjpeg", {}),
}
CONTAINERS = {
    "h264": ("mp4", "matroska", "mpegts", "h264", "flv", "avi"),
    "mpeg4": ("mp4", "matroska", "avi"),
    "mpeg2": ("mpegts", "mpeg", "matroska"),
    "vp8": ("webm",),
    "vp9": ("webm", "mp4"),
    "mjpeg": ("avi", "matroska", "mov"),
}
DECLARES = ("mp4", "matroska", "webm", "mov", "avi")
"""Containers that say how long they are."""


@dataclass(frozen=True)
class Packet:
    data: bytes
    pts: int
    dts: int
    key: bool


@cache
def source(name: str) -> tuple[bytes, list[Packet]]:
    """A film in Matroska, and its packets with stamps in hundredths of a second, four to a frame."""
    codec, options = SOURCES[name]
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options=options)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(moving_picture(FRAMES, SIZE, 3)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    packets = []
    with av.open(io.BytesIO(out.getvalue())) as container:
        for number, packet in enumerate(p for p in container.demux(video=0) if p.size):
            assert packet.pts is not None and packet.time_base is not None
            at = round(float(packet.pts * packet.time_base) * 100)
            packets.append(Packet(bytes(packet), at, 4 * (number - 2), packet.is_keyframe))
    return out.getvalue(), packets


def remux(name: str, packets: list[Packet], form: str) -> bytes:
    """The packets in a container; discards the case if it does not take them."""
    out = io.BytesIO()
    with av.open(io.BytesIO(source(name)[0])) as given:
        try:
            with av.open(out, "w", format=form, options={"avoid_negative_ts": "disabled"}) as container:
                stream = container.add_stream_from_template(given.streams.video[0])
                for each in packets:
                    packet = av.Packet(each.data)
                    packet.stream, packet.time_base = stream, Fraction(1, 100)
                    packet.pts, packet.dts, packet.duration = each.pts, each.dts, 4
                    packet.is_keyframe = each.key
                    container.mux(packet)
        except (av.FFmpegError, ValueError, OSError):
            assume(False)
    return out.getvalue()


@dataclass(frozen=True)
class Case:
    """A film, what was done to it, whether something of it is gone, and whether its container must tell."""

    content: bytes
    done: str
    lost: bool
    told: bool


@st.composite
def films(draw: st.DrawFn) -> Case:
    name = draw(st.sampled_from(sorted(SOURCES)))
    form = draw(st.sampled_from(CONTAINERS[name.split()[0]]))
    packets = list(source(name)[1])
    edits = draw(
        st.lists(st.sampled_from(("head", "shift", "double", "slow", "lost", "again")), max_size=2, unique=True)
    )
    for edit in edits:
        at = draw(st.integers(1, len(packets) - 2))
        if edit == "head":
            packets = packets[draw(st.integers(1, 12)) :]
        elif edit == "shift":
            by = draw(st.sampled_from((-400, -9, 7, 1000, 10**6)))
            packets = [Packet(p.data, p.pts + by, p.dts + by, p.key) for p in packets]
        elif edit == "double":
            packets[at] = Packet(packets[at].data, packets[at - 1].pts, packets[at].dts, packets[at].key)
        elif edit == "slow":
            by = draw(st.integers(1, 300))
            when = packets[at].pts
            packets = [Packet(p.data, p.pts + by * (p.pts > when), p.dts + by * (p.pts > when), p.key) for p in packets]
        elif edit == "lost":
            del packets[at : at + draw(st.integers(1, 3))]
        else:  # the clock starts again
            packets += [Packet(p.data, p.pts, p.dts, p.key) for p in packets]
    assume(packets)
    content = remux(name, packets, form)
    edit = draw(st.sampled_from(("", "", "cut", "join")))
    if edit == "cut":
        content = content[: draw(st.integers(len(content) // 3, len(content) - 40))]
    elif edit == "join" and form in ("mpegts", "h264", "mpeg"):
        content += content
    told = edit == "cut" and form in DECLARES
    return Case(content, f"{name} in {form}: {' '.join([*edits, edit])}", edit == "cut" or "lost" in edits, told)


def full_decode(path: Path) -> tuple[list[np.ndarray], bool]:
    """All pictures, and whether the decoder had nothing to complain of."""
    pictures, clean = [], True
    try:
        with av.open(str(path)) as container:
            begun = False
            for packet in container.demux(video=0):
                begun = begun or packet.is_keyframe
                try:
                    frames = packet.decode()
                except av.InvalidDataError:
                    clean = clean and not begun  # before the first key frame nobody can
                    continue
                for frame in frames:
                    pictures.append(frame.to_ndarray(format="rgb24", interpolation="BILINEAR"))
                    clean = clean and not frame.is_corrupt
    except (av.FFmpegError, ValueError, OSError, IndexError, AttributeError):
        clean = False
    return pictures, clean


def check(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film"
        path.write_bytes(case.content)
        full, clean = full_decode(path)
        try:
            frames = probe(path).frames
            pictures = read_all(path).permute(1, 2, 3, 0).numpy()
        except DataError as error:
            assert case.lost or not clean or not full, f"{case.done}: {error}"
            return
        assert not case.told, f"{case.done}: cut off and nobody is told"
        assert frames == len(full) == len(pictures), f"{case.done}: {frames} frames, {len(full)} in a full decode"
        times = frame_times(path)
        assert len(times) == frames + 1 and times[0] == 0 and all(a < b for a, b in pairwise(times)), case.done
        if case.lost:  # what leans on a lost picture depends on where the decoder came from
            return
        for number, (ours, theirs) in enumerate(zip(pictures, full, strict=True)):
            assert np.array_equal(ours, theirs), f"{case.done}: frame {number} is another"
        for number in {0, frames // 2, frames - 1, min(9, frames - 1)}:
            alone = read_frames(path, [number])[:, 0].permute(1, 2, 0).numpy()
            assert np.array_equal(alone, full[number]), f"{case.done}: frame {number} alone is another"


def fuzz(cases: int, *, fixed: bool) -> None:
    settings(
        max_examples=cases,
        deadline=None,
        derandomize=fixed,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )(given(films())(check))()


def test_films_are_read_as_a_full_decode_gives_them() -> None:
    fuzz(80, fixed=True)


@pytest.mark.full
def test_three_thousand_films() -> None:
    fuzz(CASES, fixed=False)
