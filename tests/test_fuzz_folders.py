"""Folders with something done to them: `doctor` names it, and opening and training agree with what it says.

An edit of a good folder is an error, a warning or harmless. `make test` does each of them once, in the same way;
`make test-full` more often, in others every day.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migcore import doctor
from migcore.data.datasets import SkeletonClips, SkeletonConfig, VideoClips, VideoConfig
from migcore.data.dense import CropConfig, DenseClips
from migcore.data.imigue import open_dataset, read_clip_skeleton
from migcore.doctor import Finding
from migcore.errors import DataError
from tests.data.tiny import CLIPS, FRAMES, SPLITS, write_video

VIDEOS = {"0001": "train", "0002": "val", "0003": "test"}
pytestmark = pytest.mark.filterwarnings("ignore::migcore.data.imigue.AbsentClassWarning")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The good folder, made once: films take long to encode."""
    root = tmp_path_factory.mktemp("fuzz") / "set"
    for video in VIDEOS:
        write_video(root, video)
    (root / "splits.csv").write_text(SPLITS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "examine_machine", lambda: {})
        yield root


Described = tuple[list[tuple[object, ...]], list[np.ndarray]]


@pytest.fixture(scope="module")
def good(whole: Path) -> Described:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return described(whole)


def described(root: Path) -> Described:
    """What clips are and hold, but for the names of files."""
    index = open_dataset(root)
    clips = [(c.id, c.start, c.end, c.label, c.split, c.subject, c.film is None) for c in index.clips]
    return clips, [np.concatenate([p.ravel() for p in read_clip_skeleton(c, index.column_map)]) for c in index.clips]


@dataclass(frozen=True)
class Edit:
    """One thing done to a folder.

    Attributes:
        level: what it is: "error", "warning" or "harmless".
        do: does it to a video of the folder.
        told: words that say so, with {video} for the video's name.
        reader: what refuses it, where opening and the heat maps' clips do not.
    """

    level: str
    do: Callable[[Path, str, st.DataObject], None]
    told: str = ""
    reader: str = ""


def skeleton(root: Path, video: str) -> Path:
    return root / video / f"{video}_light_hand.csv"


def labels(root: Path, video: str) -> Path:
    return root / video / f"{video}_label.csv"


def film(root: Path, video: str) -> Path:
    return root / video / f"{video}.mp4"


def splits(root: Path, video: str) -> Path:
    return root / "splits.csv"


Place = Callable[[Path, str], Path]
Lines = Callable[[list[str], st.DataObject], list[str]]


def lines_of(place: Place, change: Lines) -> Callable[[Path, str, st.DataObject], None]:
    def do(root: Path, video: str, data: st.DataObject) -> None:
        path = place(root, video)
        path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines(), data)))

    return do


def bytes_of(place: Place, change: Callable[[bytes], bytes]) -> Callable[[Path, str, st.DataObject], None]:
    def do(root: Path, video: str, data: st.DataObject) -> None:
        path = place(root, video)
        path.write_bytes(change(path.read_bytes()))

    return do


def named(place: Place, *ends: str) -> Callable[[Path, str, st.DataObject], None]:
    def do(root: Path, video: str, data: st.DataObject) -> None:
        path = place(root, video)
        path.rename(path.with_suffix(data.draw(st.sampled_from(ends))))

    return do


def drop(place: Place) -> Callable[[Path, str, st.DataObject], None]:
    return lambda root, video, data: place(root, video).unlink()


def beside(name: str, content: bytes) -> Callable[[Path, str, st.DataObject], None]:
    """Another file in the folder of the video, or a copy of its film."""

    def do(root: Path, video: str, data: st.DataObject) -> None:
        (root / video / name.format(video=video)).write_bytes(content or film(root, video).read_bytes())

    return do


def dropped(rows: list[str], data: st.DataObject) -> list[str]:
    at, count = data.draw(st.integers(0, FRAMES - 8)), data.draw(st.integers(1, 7))
    if at == 0 and count == 1:
        at = 1  # without the first of them, rows may as well count from another number
    return rows[:at] + rows[at + count :]


def doubled(rows: list[str], data: st.DataObject) -> list[str]:
    at, count = data.draw(st.integers(0, FRAMES - 8)), data.draw(st.integers(1, 7))
    where = data.draw(st.sampled_from((at + count, len(rows))))
    return rows[:where] + rows[at : at + count] + rows[where:]


def swapped(rows: list[str], data: st.DataObject) -> list[str]:
    a, b = data.draw(st.lists(st.integers(0, FRAMES - 1), min_size=2, max_size=2, unique=True))
    rows[a], rows[b] = rows[b], rows[a]
    return rows


def scaled(factor: float) -> Lines:
    def change(rows: list[str], data: st.DataObject) -> list[str]:
        table = np.array([row.split(",") for row in rows], dtype=np.float64)
        points = table[:, 1:].reshape(len(table), -1, 3)
        points[..., :2] *= factor
        return [",".join((f"{row[0]:.0f}", *(f"{cell:.4f}" for cell in row[1:]))) for row in table]

    return change


def blank_clip(root: Path, video: str, data: st.DataObject) -> None:
    _, start, end = data.draw(st.sampled_from(CLIPS))
    path = skeleton(root, video)
    rows = path.read_text().splitlines()
    for row in range(start - 1, end):
        rows[row] = rows[row].split(",")[0] + ",0" * 105
    path.write_text("\n".join(rows) + "\n")


def one_row(change: Callable[[list[str]], str]) -> Lines:
    def edit(rows: list[str], data: st.DataObject) -> list[str]:
        at = data.draw(st.integers(0, len(rows) - 1))
        return [*rows[:at], change(rows[at].split(",")), *rows[at + 1 :]]

    return edit


def with_blank_row(rows: list[str], data: st.DataObject) -> list[str]:
    at = data.draw(st.integers(1, len(rows) - 1))
    return [*rows[:at], "", *rows[at:]]


BOM = b"\xef\xbb\xbf"
SKELETON, LABELS, FILM = "{video}_light_hand.csv", "{video}_label.csv", "{video}.mp4"
ROW = f"{SKELETON}, row"
EDITS = {
    "rows dropped": Edit("error", lines_of(skeleton, dropped), ROW),
    "rows doubled": Edit("error", lines_of(skeleton, doubled), ROW),
    "rows swapped": Edit("error", lines_of(skeleton, swapped), ROW),
    "rows sorted as text": Edit("error", lines_of(skeleton, lambda rows, _: sorted(rows)), "sorted as text"),
    "rows backwards": Edit("error", lines_of(skeleton, lambda rows, _: rows[::-1]), ROW),
    "the last row dropped": Edit("error", lines_of(skeleton, lambda rows, _: rows[:-1]), SKELETON),
    "coordinates of 0..1": Edit("error", lines_of(skeleton, scaled(1 / 64)), SKELETON),
    "another resolution": Edit("error", lines_of(skeleton, scaled(20)), SKELETON, "dense"),
    "a smaller picture": Edit("warning", lines_of(skeleton, scaled(0.3)), SKELETON),
    "a clip without keypoints": Edit("warning", blank_clip, SKELETON),
    "another end of the film": Edit("harmless", named(film, ".MP4", ".mov", ".MOV", ".mkv", ".avi", ".Webm", ".ts")),
    "no end of a film": Edit("error", named(film, ".part", ".mp4_", ".old"), "no film {video}.mp4"),
    "another case of the labels' end": Edit("harmless", named(labels, ".CSV", ".Csv")),
    "another case of the skeleton's end": Edit("harmless", named(skeleton, ".CSV", ".Csv")),
    "another case of the splits' end": Edit("harmless", named(splits, ".CSV")),
    "another film": Edit("error", beside("{video}.mov", b""), "{video}.mov"),
    "a hidden film": Edit("harmless", beside("._{video}.mp4", b"\0\5\26\7")),
    "half a film": Edit("harmless", beside(".{video}.mp4.part", b"\0" * 40)),
    "a film of another name": Edit("warning", beside("film.mp4", b""), "film.mp4"),
    "a readme": Edit("harmless", beside("readme.txt", b"Of the films")),
    "no film": Edit("error", drop(film), FILM),
    "no skeleton": Edit("error", drop(skeleton), SKELETON),
    "a cut film": Edit("error", bytes_of(film, lambda data: data[: len(data) // 2]), FILM),
    "a film of text": Edit("error", bytes_of(film, lambda data: b"no film"), FILM),
    "an empty label file": Edit("error", bytes_of(labels, lambda data: b""), LABELS),
    "a label file of blank lines": Edit("error", bytes_of(labels, lambda data: b"\n\r\n \n"), LABELS),
    "a label file of a mark": Edit("error", bytes_of(labels, lambda data: BOM), LABELS),
    "labels with a mark": Edit("harmless", bytes_of(labels, lambda data: BOM + data)),
    "labels of Windows": Edit("harmless", bytes_of(labels, lambda data: data.replace(b"\n", b"\r\n"))),
    "labels in UTF-16": Edit("error", bytes_of(labels, lambda data: data.decode().encode("utf-16")), "UTF-16"),
    "labels with semicolons": Edit("error", bytes_of(labels, lambda data: data.replace(b",", b";")), "semicolons"),
    "a cut label": Edit("error", bytes_of(labels, lambda data: data[:-4]), f"{LABELS}, row 4"),
    "a blank row": Edit("error", lines_of(labels, with_blank_row), LABELS),
    "a range backwards": Edit("error", lines_of(labels, one_row(lambda c: f"{c[0]},{int(c[2]) + 1},{c[1]}")), LABELS),
    "an unknown class": Edit("error", lines_of(labels, one_row(lambda c: f"40,{c[1]},{c[2]}")), "gesture id 40"),
    "a range behind the end": Edit("error", lines_of(labels, one_row(lambda c: f"{c[0]},{c[1]},{FRAMES + 1}")), LABELS),
    "a frame 0": Edit("error", lines_of(labels, one_row(lambda c: f"{c[0]},0,{c[2]}")), "--first-frame 0"),
    "a skeleton with a mark": Edit("harmless", bytes_of(skeleton, lambda data: BOM + data)),
    "a skeleton of Windows": Edit("harmless", bytes_of(skeleton, lambda data: data.replace(b"\n", b"\r\n"))),
    "a skeleton in UTF-16": Edit("error", bytes_of(skeleton, lambda data: data.decode().encode("utf-16-le")), "UTF-16"),
    "splits with a mark": Edit("harmless", bytes_of(splits, lambda data: BOM + data)),
    "splits of Windows": Edit("harmless", bytes_of(splits, lambda data: data.replace(b"\n", b"\r\n"))),
    "splits in UTF-16": Edit("error", bytes_of(splits, lambda data: data.decode().encode("utf-16")), "UTF-16"),
    "an unknown split": Edit("error", bytes_of(splits, lambda data: data.replace(b",val,", b",dev,")), "'dev'"),
    "no header": Edit("error", lines_of(splits, lambda rows, _: rows[1:]), "splits.csv, row 1"),
    "a header in capitals": Edit("error", bytes_of(splits, lambda data: data.replace(b"video", b"Video")), "'Video,"),
    "a video twice": Edit("error", lines_of(splits, lambda rows, _: [*rows, rows[1]]), "listed twice"),
    "a video that is not there": Edit("error", lines_of(splits, lambda rows, _: [*rows, "0009,val,d"]), "0009"),
}  # fmt: skip


def findings(root: Path) -> list[Finding]:
    """What the doctor finds, but for classes that a tiny set lacks."""
    return [found for found in doctor.examine(root).findings if "of 32 classes" not in found.message]


def refusal(root: Path, reader: str = "") -> str:
    """What opening the folder or making its clips says, "" if nothing."""
    try:
        index = open_dataset(root)
        for split in sorted({clip.split for clip in index.clips}):
            SkeletonClips(index, split, SkeletonConfig(), train=split == "train")
            VideoClips(index, split, VideoConfig(), train=split == "train")
            if reader == "dense":
                DenseClips(index, split, CropConfig(), train=split == "train")
    except DataError as error:
        return str(error)
    return ""


def check(root: Path, name: str, video: str, data: st.DataObject, good: Described) -> None:
    edit = EDITS[name]
    edit.do(root, video, data)
    found, told = findings(root), edit.told.format(video=video)
    refused = refusal(root, edit.reader)
    errors = [each.message for each in found if each.level == "error"]
    assert bool(errors) == bool(refused), (errors, refused)
    if edit.level == "harmless":
        assert found == []
        clips, arrays = described(root)
        assert clips == good[0] and all((a == b).all() for a, b in zip(arrays, good[1], strict=True))
    else:
        assert any(each.level == edit.level and told in each.message for each in found), (told, found)
        assert edit.level == "warning" or told in refused, (told, refused)


def fuzz(name: str, whole: Path, good: Described, examples: int, *, fixed: bool) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=fixed,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(st.sampled_from(sorted(VIDEOS)), st.data())
    def run(video: str, data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as folder:
            check(Path(shutil.copytree(whole, Path(folder) / "set")), name, video, data, good)

    run()


def test_nothing_is_found_in_the_good_folder(whole: Path) -> None:
    assert findings(whole) == [] and refusal(whole, "dense") == ""


@pytest.mark.parametrize("name", EDITS)
def test_what_was_done_to_a_folder_is_named(name: str, whole: Path, good: Described) -> None:
    fuzz(name, whole, good, 1, fixed=True)


@pytest.mark.full
@pytest.mark.parametrize("name", EDITS)
def test_wherever_it_was_done_it_is_named(name: str, whole: Path, good: Described) -> None:
    fuzz(name, whole, good, 25, fixed=False)


@pytest.mark.parametrize("video", VIDEOS)
def test_a_video_without_labels_is_missed_where_it_has_a_split_to_learn_from(
    whole: Path, video: str, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "set"))
    labels(root, video).unlink()
    levels = {each.level for each in findings(root) if video in each.message}
    assert ("error" in levels) == bool(refusal(root)) == (VIDEOS[video] != "test") and levels


@pytest.mark.parametrize("video", VIDEOS)
def test_a_video_that_is_in_no_split_is_named(whole: Path, video: str, tmp_path: Path) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "set"))
    splits(root, video).write_text("".join(f"{row}\n" for row in SPLITS.splitlines() if not row.startswith(video)))
    (left_out,) = [each for each in findings(root) if "does not list" in each.message]
    assert video in left_out.message and left_out.clips == tuple(f"{video}_{k}" for k in range(4))


def test_labels_alone_are_nothing_to_train_on(whole: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "set"))
    for video in VIDEOS:
        film(root, video).unlink()
        skeleton(root, video).unlink()
    assert [each.level for each in findings(root)] == ["error"] and "nothing to train on" in findings(root)[0].message
    assert "clip 0003_0 has no skeleton" in refusal(root)
