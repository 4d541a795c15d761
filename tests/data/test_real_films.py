"""Films as phones, recorders, browsers and editors leave them: turned, uneven in time, cut, joined, oddly named."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from migcore.data.containers import declared_bytes
from migcore.data.video import check_pictures, frame_times, has_stamps, probe, read_all, read_frames
from migcore.errors import DataError
from tests.data.tiny import moving_picture, write_film

SIZE = (32, 48)


@dataclass(frozen=True)
class Look:
    """How a film says that it is to be shown."""

    degrees: int = 0
    hflip: bool = False
    vflip: bool = False
    pixel: Fraction = Fraction(1)


def write(
    path: Path,
    pictures: np.ndarray,
    *,
    codec: str = "libx264",
    form: str | None = None,
    times: list[int] | None = None,
    look: Look | None = None,
    **options: str,
) -> Path:
    """A film as others write it; times are milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("wb") as file,
        av.open(file, "w", format=form or {".mkv": "matroska"}.get(path.suffix, path.suffix[1:])) as container,
    ):
        stream = container.add_stream(codec, rate=Fraction(25), options=options)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, 1000)
        if look is not None:
            stream.codec_context.sample_aspect_ratio = look.pixel
            if look.degrees or look.hflip or look.vflip:
                stream.set_display_rotation(look.degrees, look.hflip, look.vflip)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = (40 * number if times is None else times[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def stored(path: Path) -> np.ndarray:
    """[T, H, W, 3] as it is stored, by PyAV alone."""
    with av.open(f"file:{path.absolute()}") as container:
        return np.stack([f.to_ndarray(format="rgb24", interpolation="BILINEAR") for f in container.decode(video=0)])


def shown(path: Path) -> np.ndarray:
    return read_all(path).permute(1, 2, 3, 0).numpy()


@pytest.mark.parametrize("form", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize(("hflip", "vflip"), [(False, False), (True, False), (False, True)])
def test_pictures_stand_upright(tmp_path: Path, form: str, degrees: int, hflip: bool, vflip: bool) -> None:
    path = write(tmp_path / f"a{form}", moving_picture(3, SIZE, 0), look=Look(degrees, hflip, vflip))
    upright = np.rot90(stored(path), degrees // 90, axes=(1, 2))
    upright = upright[:, :, ::-1] if hflip else upright
    upright = upright[:, ::-1] if vflip else upright
    assert probe(path).size == upright.shape[1:3] == probe(path, exact=False).size
    assert np.array_equal(shown(path), upright)
    assert np.array_equal(read_frames(path, [2])[:, 0].permute(1, 2, 0).numpy(), upright[2])
    height, width = upright.shape[1] // 2, upright.shape[2] // 2
    small = read_frames(path, [1], size=(height, width))[:, 0].permute(1, 2, 0).numpy().astype(float)
    averaged = upright[1].reshape(height, 2, width, 2, 3).mean((1, 3))
    assert np.abs(small - averaged).mean() < 0.3 * averaged.std()


@pytest.mark.parametrize("degrees", [0, 90])
@pytest.mark.parametrize(
    ("pixel", "size"), [(Fraction(16, 11), (32, 70)), (Fraction(8, 9), (32, 43)), (Fraction(99), SIZE)]
)
def test_pixels_are_square(tmp_path: Path, pixel: Fraction, size: tuple[int, int], degrees: int) -> None:
    path = write(tmp_path / "a.mp4", moving_picture(2, SIZE, 0), look=Look(degrees, pixel=pixel))
    upright = size[::-1] if degrees else size
    assert probe(path).size == upright and read_all(path).shape == (3, 2, *upright)
    assert read_frames(path, [0], size=(20, 20)).shape == (3, 1, 20, 20)


UNEVEN = [0, 40, 80, 120, 320, 520, 560, 1560, 1600, 1640]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx")])
def test_seconds_come_from_the_time_stamps(tmp_path: Path, name: str, codec: str) -> None:
    path = write(tmp_path / name, moving_picture(10, SIZE, 0), codec=codec, times=[5000 + t for t in UNEVEN])
    np.testing.assert_allclose(frame_times(path)[:-1], np.array(UNEVEN) / 1000, atol=1e-3)
    assert frame_times(path)[-1] > frame_times(path)[-2] and has_stamps(path)
    assert np.array_equal(shown(path), stored(path))


def test_a_stream_without_stamps_is_counted_at_its_rate(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h264", moving_picture(10, SIZE, 0))
    np.testing.assert_allclose(frame_times(path), np.arange(11) / 25)
    assert not has_stamps(path) and np.array_equal(shown(path), stored(path))


def without_first(path: Path, to: Path, packets: int) -> Path:
    """The film without its first packets, not decoded."""
    with av.open(str(path)) as source, av.open(str(to), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in [p for p in source.demux(video=0) if p.size][packets:]:
            packet.stream = stream
            target.mux(packet)
    return to


@pytest.mark.parametrize("name", ["cut.mkv", "cut.mp4", "cut.ts"])
@pytest.mark.parametrize("bframes", ["0", "2"])
def test_a_film_that_starts_before_a_key_frame(tmp_path: Path, name: str, bframes: str) -> None:
    keys = f"keyint=12:min-keyint=12:scenecut=0:bframes={bframes}"
    whole = write(tmp_path / "a.mkv", moving_picture(40, SIZE, 0), **{"x264-params": keys})
    path = without_first(whole, tmp_path / name, 5)
    full = stored(path)
    assert 24 < len(full) <= 28
    assert probe(path).frames == probe(path, exact=False).frames == len(full) == len(frame_times(path)) - 1
    assert np.array_equal(shown(path), full)
    for number in (0, 11, 20, len(full) - 1):
        assert np.array_equal(read_frames(path, [number])[:, 0].permute(1, 2, 0).numpy(), full[number])


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_what_a_decoder_refuses_before_the_first_key_frame_does_not_count(tmp_path: Path, codec: str) -> None:
    whole = write(tmp_path / "a.webm", moving_picture(40, SIZE, 0), codec=codec, g="10", deadline="realtime")
    path = without_first(whole, tmp_path / "cut.webm", 4)
    assert probe(path).frames == 30
    assert np.array_equal(shown(path), stored(whole)[10:])


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.mp4", "a.avi", "a.mov", "a.flv", "a.asf"])
@pytest.mark.parametrize("part", [0.5, 0.9, 0.995])
def test_a_film_that_was_cut_off_is_told(tmp_path: Path, name: str, part: float) -> None:
    codec, options = ("libvpx", {}) if name.endswith("webm") else ("libx264", {})
    if name.endswith(("avi", "asf")):
        codec = "mpeg4" if name.endswith("avi") else "msmpeg4"
    path = write(tmp_path / name, moving_picture(60, SIZE, 0), codec=codec, **options)
    assert declared_bytes(path) == path.stat().st_size and probe(path).frames == 60
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    for read in (probe, lambda path: probe(path, exact=False), read_all):
        with pytest.raises(DataError, match=r"is no whole film"):
            read(path)


def unknown_length(path: Path) -> int:
    """Write over a segment's length that it is unknown, as in a recording that was streamed. Returns where it stood."""
    data = bytearray(path.read_bytes())
    at = data.index(b"\x18\x53\x80\x67") + 4
    data[at : at + 8] = b"\x01" + b"\xff" * 7
    path.write_bytes(data)
    return at


def test_a_matroska_film_of_unknown_length_is_compared_with_its_seconds(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", moving_picture(60, SIZE, 0), **{"x264-params": "keyint=10:scenecut=0"})
    unknown_length(path)
    whole = path.read_bytes()
    assert declared_bytes(path) is None and probe(path).frames == 60
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(DataError, match=r"is truncated after \d\d frames"):
        probe(path)
    # Nor is there a time, as browsers leave it: nothing tells how long it was, and what is there is read.
    for name in (b"\x44\x89", b"DURATION"):
        whole = whole.replace(name, b"\xec\x8a" if name[0] == 0x44 else b"DURABION")
    path.write_bytes(whole)
    assert probe(path).frames == 60
    path.write_bytes(whole[: len(whole) * 6 // 10])
    assert 10 < probe(path).frames < 60 and np.array_equal(shown(path), stored(path))


def test_counted_packets_tell_that_a_film_was_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", moving_picture(60, SIZE, 0), **{"x264-params": "keyint=10:scenecut=0"})
    unknown_length(path)
    data = path.read_bytes().replace(b"\x44\x89", b"\xec\x8a").replace(b"DURATION", b"DURABION")
    written, counted = b"\x45\xa3\x88DURABION", b"\x45\xa3\x90NUMBER_OF_FRAMES"
    assert data.count(written) == 1
    at = data.index(written)
    value = data.index(b"\x44\x87", at)  # the tag's text, which gives the longer name its eight bytes
    text = data[value + 3 : value + 3 + (data[value + 2] & 0x7F)]
    shorter = b"60".ljust(len(text) - 8, b"\x00")
    path.write_bytes(
        data[:at] + counted + data[at + len(written) : value + 2] + bytes([0x80 | len(shorter)]) + shorter
        + data[value + 3 + len(text) :]
    )  # fmt: skip
    assert probe(path).frames == 60
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(DataError, match=r"is truncated after \d\d frames"):
        probe(path)


def test_a_copied_tag_alone_does_not_make_a_film_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", moving_picture(30, SIZE, 0))
    data = path.read_bytes()
    assert b"00:00:01.2" in data
    path.write_bytes(data.replace(b"00:00:01.2", b"00:10:01.2"))  # of the longer film that it was cut from
    assert probe(path).frames == 30


def test_sizes_of_boxes_and_chunks(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content, declared in (
        (struct.pack(">I4s", 16, b"ftyp") + bytes(8) + struct.pack(">I4sQ", 1, b"mdat", 100), 116),
        (struct.pack(">I4s", 16, b"ftyp") + bytes(8) + struct.pack(">I4s", 0, b"mdat"), 16),  # up to the end
        (struct.pack("<4sI4s", b"RIFF", 101, b"AVI ") + bytes(102 - 4), 110),
        (struct.pack("<4sI4s", b"RIFF", 0, b"AVI "), None),  # streamed
        (b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x84abcd", 14),
        (b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xff", None),
        (b"", None),
        (b"G" * 400, None),
    ):
        path.write_bytes(content)
        assert declared_bytes(path) == declared, content


NAMES = (
    "file:a.mp4",
    "a:b.mp4",
    "http:a.mp4",
    "concat:a.mp4",
    "pipe:0",
    "%03d.mp4",
    "a%20b.mp4",
    "fd:0",
    "-y.mp4",
    "a\nb.mp4",
    "ä?#.mp4",
)


@pytest.mark.parametrize("relative", [True, False])
def test_any_name_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    monkeypatch.chdir(tmp_path)
    others = write_film(tmp_path / "a.mp4", frames=3, size=SIZE, seed=9)
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    (tmp_path / "a b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    assert len(others) == 3
    for seed, name in enumerate((*NAMES, os.fsdecode(b"\xff.mp4"))):
        path = write(Path(name) if relative else tmp_path / name, moving_picture(5 + seed, SIZE, seed), form="mp4")
        assert probe(path).frames == 5 + seed and shown(path).shape[0] == 5 + seed, name
        path.unlink()
        with pytest.raises(DataError, match=r"the film is missing"):
            probe(path)


def test_a_list_of_films_is_no_film(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mp4", frames=3, size=SIZE)
    path = tmp_path / "list.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\na.mp4\n#EXT-X-ENDLIST\n")
    with pytest.raises(DataError, match="a list of other files"):
        probe(path)


def test_a_folder_is_no_film(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Is a directory"):
        probe(tmp_path)


def with_cover(path: Path, film: np.ndarray | None) -> Path:
    """Sound with a cover picture, and perhaps a film behind it."""
    with av.open(str(path), "w", format="matroska" if path.suffix == ".mkv" else "mp4") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        sound = container.add_stream("aac", rate=8000)
        video = None
        if film is not None:
            video = container.add_stream("libx264", rate=25)
            video.height, video.width, video.pix_fmt = *film.shape[1:3], "yuv420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 200, np.uint8), format="rgb24")))
        container.mux(cover.encode(None))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
        if video is not None and film is not None:
            for picture in film:
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(video.encode(None))
    return path


def test_a_cover_picture_is_no_film(tmp_path: Path) -> None:
    path = with_cover(tmp_path / "song.m4a", None)
    with pytest.raises(DataError, match="has a cover picture, but no film"):
        probe(path)
    film = moving_picture(12, SIZE, 0)
    path = with_cover(tmp_path / "film.mp4", film)
    assert probe(path).size == SIZE and probe(path).frames == 12
    assert np.abs(shown(path).astype(float) - film).mean() < 25


def transport(path: Path, frames: int, seed: int, **options: str) -> Path:
    return write(
        path, moving_picture(frames, SIZE, seed), form="mpegts", **{"x264-params": "keyint=9:scenecut=0", **options}
    )


def test_transport_streams_that_were_joined_are_whole(tmp_path: Path) -> None:
    parts = [transport(tmp_path / f"{seed}.ts", 20 + seed, seed) for seed in range(3)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    full = np.concatenate([stored(part) for part in parts])
    assert probe(path).frames == len(full) == 63 and np.array_equal(shown(path), full)
    times = frame_times(path)
    np.testing.assert_allclose(np.diff(times), 0.04, atol=1e-6)  # each part begins where the one before it ends


def test_a_transport_stream_that_lost_packets_is_damaged(tmp_path: Path) -> None:
    whole = transport(tmp_path / "a.ts", 40, 0).read_bytes()
    path = tmp_path / "lost.ts"
    packets = [whole[at : at + 188] for at in range(0, len(whole), 188)]
    pictures = [n for n, p in enumerate(packets) if (p[1] & 0x1F) << 8 | p[2] == 0x100]
    noticed = 0
    for gone in pictures[2:-2]:
        path.write_bytes(b"".join(p for n, p in enumerate(packets) if n != gone))
        try:
            probe(path)
        except DataError as error:
            assert "is damaged" in str(error)
            noticed += 1
    assert noticed == len(pictures) - 4


@pytest.mark.parametrize("second", [(48, 32), (64, 96), (32, 46)])
def test_pictures_that_change_their_size_are_refused(tmp_path: Path, second: tuple[int, int]) -> None:
    path, other = tmp_path / "a.h264", tmp_path / "b.h264"
    write(path, moving_picture(12, SIZE, 0))
    write(other, moving_picture(12, second, 0))
    first = stored(path)
    path.write_bytes(path.read_bytes() + other.read_bytes())
    message = rf"size of its pictures changes: frame 12 has {second[1]}×{second[0]} pixels, the first frame has 48×32"
    for read in (
        read_all,
        check_pictures,
        lambda path: read_frames(path, [2, 12]),
        lambda path: read_all(path, size=(8, 8)),
    ):
        with pytest.raises(DataError, match=message):
            read(path)
    assert np.array_equal(read_all(path, 0, 12).permute(1, 2, 3, 0).numpy(), first)


def test_key_frames_that_are_as_they_should_be(tmp_path: Path) -> None:
    check_pictures(transport(tmp_path / "a.ts", 30, 0))
    write_film(tmp_path / "a.mp4", frames=60, size=SIZE)
    check_pictures(tmp_path / "a.mp4")


def test_damage_says_where(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_film(path, frames=60, size=SIZE)
    read: Callable[[Path], object] = check_pictures
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packet = [p for p in container.demux(video=0) if p.is_keyframe][1]
        assert packet.pos is not None
        data[packet.pos + 40 : packet.pos + packet.size] = np.random.default_rng(0).bytes(packet.size - 40)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.mp4: is (damaged at frame 25|no whole film)"):
        read(path)
