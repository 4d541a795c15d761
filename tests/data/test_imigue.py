"""migcore.data.imigue: a folder becomes clips; what is wrong with it is told by file and row, or skipped when asked."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from tiny import CLIPS, FRAMES, SPLITS, write_film, write_skeleton, write_video

from migcore.data.folder import content_hash, content_of, find_files
from migcore.data.imigue import (
    AbsentClassWarning,
    ChangedDataWarning,
    ClipIndex,
    ClipRecord,
    open_dataset,
    read_clip_skeleton,
    read_skeleton_csv,
    write_labels_csv,
    write_skeleton_csv,
)
from migcore.data.layouts import OPENPOSE35
from migcore.errors import ConfigError, DataError


def opened(root: Path, **options) -> ClipIndex:
    """The data set, without the warning about classes that a tiny one lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AbsentClassWarning)
        return open_dataset(root, **options)


def test_clips_are_the_rows_of_the_label_files(root: Path) -> None:
    index = opened(root)
    assert [clip.id for clip in index.clips] == [f"000{v}_{k}" for v in (1, 2, 3) for k in range(4)]
    clip = index.clips[6]
    assert clip == ClipRecord(
        "0002_2", "0002", 12, 33, 30, "val", "b", root / "0002" / "0002.mp4", root / "0002" / "0002_light_hand.csv"
    )
    assert (clip.frames, clip.film_start) == (22, 11)
    assert index.root == root and index.column_map is OPENPOSE35 and index.skipped == ()


def test_splits_labels_and_summary(root: Path) -> None:
    index = opened(root)
    assert [clip.video for clip in index.split("test")] == ["0003"] * 4
    np.testing.assert_array_equal(index.labels("val"), [0, 31, 30, 7])
    assert index.labels("val").dtype == np.int64
    assert index.absent_classes("train") == sorted(set(range(32)) - {0, 7, 30, 31})
    row = {"clips": 4, "videos": 1, "subjects": 1, "frames": 10 + 1 + 22 + 16, "classes": 4}
    assert index.summary() == {"train": row, "val": row, "test": row}
    with pytest.raises(ConfigError, match=r"no split is called 'dev'.*train, val, test"):
        index.split("dev")


def test_absent_classes_warn_once_per_split(root: Path) -> None:
    with pytest.warns(AbsentClassWarning) as caught:
        open_dataset(root)
    assert [w.filename for w in caught] == [__file__] * 3
    assert "split val has no clip of 28 of 32 classes: 1 deep breath, 2 touch hat" in str(caught[1].message)


def test_complete_classes_do_not_warn(tmp_path: Path) -> None:
    write_skeleton(tmp_path / "0005" / "0005_light_hand.csv")
    write_labels_csv(tmp_path / "0005" / "0005_label.csv", [(label, label + 1, label + 2) for label in range(32)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_dataset(tmp_path).summary()["train"]["classes"] == 32


def test_without_a_splits_file_the_challenge_decides(root: Path) -> None:
    (root / "splits.csv").unlink()
    write_video(root / "part2", "0012", film=False)
    shutil.copy(root / "0001" / "0001.mp4", root / "part2" / "0012" / "0012.mp4")
    (root / "0003" / "0003_label.csv").unlink()
    index = opened(root)
    assert {clip.video: clip.split for clip in index.clips} == {"0001": "val", "0002": "val", "0012": "train"}
    assert {clip.subject for clip in index.clips} == {""}
    assert index.clips[-1].skeleton == root / "part2" / "0012" / "0012_light_hand.csv"


def test_a_video_that_the_splits_leave_out_is_in_no_split(root: Path) -> None:
    (root / "splits.csv").write_text("video,split,subject\n0001,train,a\n\n")
    index = opened(root)
    assert len(index.clips) == 12 and [clip.video for clip in index.split("train")] == ["0001"] * 4
    assert index.clips[-1].split == ""


def test_skeletons_alone_and_films_alone_are_fine(root: Path) -> None:
    for video in ("0001", "0002", "0003"):
        (root / video / f"{video}.mp4").unlink()
    assert {clip.film for clip in opened(root).clips} == {None}
    for video in ("0001", "0002", "0003"):
        write_film(root / video / f"{video}.mp4")
        (root / video / f"{video}_light_hand.csv").unlink()
    assert {clip.skeleton for clip in opened(root).clips} == {None}


def test_precut_clips_with_labels(root: Path) -> None:
    for video in ("0001", "0002", "0003"):
        (root / video / f"{video}.mp4").unlink()
        for k, (_, start, end) in enumerate(CLIPS):
            write_film(root / "clips" / f"{video}_{k}.mp4", frames=end - start + 1)
    index = opened(root)
    clip = index.clips[2]
    assert (clip.start, clip.end, clip.film_start, clip.frames) == (12, 33, 0, 22)
    assert clip.film == root / "clips" / "0001_2.mp4" and clip.skeleton is not None
    shutil.copy(root / "clips" / "0001_0.mp4", root / "clips" / "0001_4.mp4")
    with pytest.raises(DataError, match=r"0001_4.mp4: has no row 5 in .*0001_label.csv"):
        opened(root)


def test_precut_clips_without_labels_are_for_test(tmp_path: Path) -> None:
    for k in (0, 2):
        write_film(tmp_path / "clips" / f"0042_{k}.mp4", frames=5 + k)
    write_film(tmp_path / "clips" / "0007_0.mp4", frames=4)
    write_labels_csv(tmp_path / "clips" / "0007_label.csv", [(3, 1, 4)])
    (tmp_path / "clips" / "notes.txt").write_text("not a clip")
    index = opened(tmp_path)
    assert [(c.id, c.start, c.end, c.label, c.split) for c in index.clips] == [
        ("0007_0", 1, 4, 3, "val"),
        ("0042_0", 1, 5, -1, "test"),
        ("0042_2", 1, 7, -1, "test"),
    ]
    assert index.absent_classes("test") == list(range(32))
    (tmp_path / "clips" / "0042_1.mp4").write_bytes(b"no film")
    with pytest.raises(DataError, match=r"0042_1.mp4: is no whole film"):
        opened(tmp_path)
    assert [clip_id for clip_id, _ in opened(tmp_path, skip_bad=True).skipped] == ["0042_1"]


def test_identity_is_that_of_the_files(root: Path) -> None:
    first = opened(root).identity
    moved = shutil.copytree(root, root.parent / "elsewhere")
    assert opened(moved).identity == first
    os.utime(moved / "0001" / "0001.mp4", (1, 1))
    assert opened(moved).identity == first
    write_labels_csv(moved / "0001" / "0001_label.csv", [*CLIPS[:3], (8, 25, 40)])
    assert opened(moved).identity != first
    write_labels_csv(moved / "0001" / "0001_label.csv", CLIPS)
    assert opened(moved).identity == first
    (moved / "splits.csv").write_text(SPLITS.replace("val", "train"))
    assert opened(moved).identity != first


@pytest.mark.parametrize("part", ["0001/0001.mp4", "0002/0002_light_hand.csv", "0003/0003_label.csv", "splits.csv"])
def test_identity_follows_every_byte_of_small_files(root: Path, part: str) -> None:
    path, first = root / part, opened(root).identity
    data = bytearray(path.read_bytes())
    at = data.index(b"\n" if path.suffix == ".csv" else b"mdat", len(data) // 3 if path.suffix == ".csv" else 0)
    data[at : at + 1] = b" \n" if path.suffix == ".csv" else b"M"  # the size of the film stays
    path.write_bytes(bytes(data))
    assert opened(root, check=False).identity != first


@pytest.mark.parametrize("place", [0, 100_000, (8 << 20) - 1])
def test_of_a_large_film_its_size_and_samples_count(tmp_path: Path, place: int) -> None:
    film = tmp_path / "0001.mp4"
    with film.open("wb") as file:
        file.truncate(8 << 20)
    first = content_hash(tmp_path, [film])
    os.utime(film, (1, 1))
    assert content_hash(tmp_path, [film]) == first
    with film.open("r+b") as file:
        file.seek(place)
        file.write(b"x")
    second = content_hash(tmp_path, [film])
    os.truncate(film, (8 << 20) + 1)
    assert len({first, second, content_hash(tmp_path, [film])}) == 3


def test_what_no_clip_needs_is_no_part_of_the_identity(root: Path) -> None:
    declare(root)
    first = opened(root).identity
    (root / "readme.txt").write_text("0001_0\n")
    (root / "0001" / "notes.csv").write_text("1,2\n")
    (root / "0001" / ".0001.mp4.part").write_text("x")
    assert opened(root).identity == first == "abc123"
    (root / "identity.json").unlink()
    bare = opened(root).identity
    (root / "0001" / "other.txt").write_text("x")
    assert opened(root).identity == bare != first


def declare(root: Path, **more: object) -> None:
    """What the maker of the data writes down."""
    content = content_of(root, find_files(root).all)
    (root / "identity.json").write_text(json.dumps({"identity": "abc123", "version": 1, "content": content, **more}))


def test_the_maker_of_the_data_may_say_its_identity(root: Path) -> None:
    declare(root)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ChangedDataWarning)
        assert opened(root).identity == "abc123"
        assert opened(shutil.copytree(root, root.parent / "copy")).identity == "abc123"
        os.utime(root / "0001" / "0001_label.csv", (1, 1))
        assert opened(root, skip_bad=True, check=False).identity == "abc123"
        (root / "identity.json").write_bytes(b"\xef\xbb\xbf" + (root / "identity.json").read_bytes())
        assert opened(root).identity == "abc123"
    for wrong in ("[]", "{}", '{"identity": 3}', '{"identity": ""}', '{"identity": "a", "content": 3}', "no json"):
        (root / "identity.json").write_text(wrong)
        with pytest.raises(DataError, match=r"identity\.json") as caught:
            opened(root)
        assert caught.value.hint


def change_labels(root: Path) -> None:
    write_labels_csv(root / "0002" / "0002_label.csv", [*CLIPS[:3], (8, 25, 40)])


def change_skeleton(root: Path) -> None:
    write_skeleton(root / "0002" / "0002_light_hand.csv", seed=77)


def change_film(root: Path) -> None:
    write_film(root / "0002" / "0002.mp4", seed=77)


def change_splits(root: Path) -> None:
    (root / "splits.csv").write_text(SPLITS.replace("test", "val"))


def remove_video(root: Path) -> None:
    shutil.rmtree(root / "0002")
    (root / "splits.csv").write_text(SPLITS.replace("0002,val,b\n", ""))


def add_video(root: Path) -> None:
    write_video(root, "0004")


def rename_film(root: Path) -> None:
    (root / "0002" / "0002.mp4").rename(root / "0002" / "0002.mov")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (change_labels, r"1 changed \(0002/0002_label.csv\)"),
        (change_skeleton, r"1 changed \(0002/0002_light_hand.csv\)"),
        (change_film, r"1 changed \(0002/0002.mp4\)"),
        (change_splits, r"1 changed \(splits.csv\)"),
        (remove_video, r"1 changed \(splits.csv\); 3 missing \(0002/0002.mp4, 0002/0002_label.csv, 0002/0002_light"),
        (add_video, r"3 new \(0004/0004.mp4, "),
        (rename_film, r"1 missing \(0002/0002.mp4\); 1 new \(0002/0002.mov\)"),
    ],
)
def test_a_declared_identity_does_not_outlive_the_files(root: Path, change, told: str) -> None:
    declare(root)
    change(root)
    with pytest.warns(ChangedDataWarning, match=f"identity.json: the folder no longer holds .*: {told}") as caught:
        changed = opened(root).identity
    assert [w.filename for w in caught if w.category is ChangedDataWarning] == [__file__]
    (root / "identity.json").unlink()
    assert changed == opened(root).identity != "abc123", "the content says which data it is"


def test_an_identity_that_cannot_be_checked_does_not_count(root: Path) -> None:
    content = opened(root).identity
    (root / "identity.json").write_text(json.dumps({"identity": "abc123"}))
    with pytest.warns(ChangedDataWarning, match=r"cannot be held against the files.*migcore studio"):
        assert opened(root).identity == content


def replace(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "row", "message"),
    [
        ("0002,val,b", "../x,val,b", 3, "would leave the folder"),
        ("0002,val,b", "/etc/0002,val,b", 3, "would leave the folder"),
        ("0002,val,b", "..\\0002,val,b", 3, "would leave the folder"),
        ("0002,val,b", "two,val,b", 3, "is no number of four digits"),
        ("0002,val,b", "0002,dev,b", 3, "split 'dev' is not one of"),
        ("0002,val,b", "0001,val,b", 3, "listed twice"),
        ("0002,val,b", "0099,val,b", 3, "neither folder nor clips"),
        ("0002,val,b", "0002,val", 3, "2 columns"),
        ("0002,val,b", "2,val,b", 3, "is no number of four digits.*spreadsheets drop the zeros"),
        ("video,split,subject\n", "", 1, "the first row is not video,split,subject but '0001,train,a'"),
        ("video,split,subject", "subject,video,split", 1, "but 'subject,video,split'.*in this order"),
        ("video,split,subject", "Video,Split,Subject", 1, "but 'Video,Split,Subject'.*small letters"),
        ("video,split,subject", "video;split;subject", 1, "commas, not by semicolons"),
    ],
)
def test_a_wrong_splits_file_is_told_by_row(root: Path, old: str, new: str, row: int, message: str) -> None:
    path = replace(root / "splits.csv", old, new)
    with pytest.raises(DataError, match=message) as caught:
        opened(root, skip_bad=True)
    assert (caught.value.where, caught.value.row) == (path, row)


def test_a_splits_file_of_a_spreadsheet(root: Path) -> None:
    first, path = opened(root).clips, root / "splits.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert opened(root).clips == first
    path = path.rename(root / "Splits.CSV")
    assert opened(root).clips == first
    path.write_bytes(SPLITS.encode("utf-16"))
    with pytest.raises(DataError, match=r"Splits\.CSV: is UTF-16 text, not UTF-8.*spreadsheet"):
        opened(root)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00"])
def test_a_splits_file_that_is_none(root: Path, content: bytes) -> None:
    (root / "splits.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"splits\.csv"):
        opened(root)


def test_folders_that_hold_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder that can be read"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="no folder that can be read"):
        open_dataset(tmp_path / "file")
    with pytest.raises(DataError, match=r"neither folders NNNN/.*migcore studio"):
        open_dataset(tmp_path)
    with pytest.raises(ConfigError, match="no column map is called 'kinect'"):
        open_dataset(tmp_path, column_map="kinect")


def test_a_video_that_is_there_twice(root: Path) -> None:
    shutil.copytree(root / "0001", root / "copy" / "0001")
    with pytest.raises(DataError, match=r"copy/0001: video 0001 is also in .*0001"):
        opened(root)
    shutil.rmtree(root / "copy")
    (root / "clips").mkdir()
    shutil.copy(root / "0001" / "0001_label.csv", root / "clips")
    with pytest.raises(DataError, match="video 0001 has another label file"):
        opened(root)


@pytest.mark.parametrize("end", [".MP4", ".mov", ".MOV", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".wmv", ".Mpeg"])
def test_films_go_by_their_stem(root: Path, end: str) -> None:
    first = opened(root)
    for video in ("0001", "0002", "0003"):
        (root / video / f"{video}.mp4").rename(root / video / f"{video}{end}")
        (root / video / f"._{video}{end}").write_bytes(b"\0")  # what macOS leaves
    (root / "__MACOSX" / "0001").mkdir(parents=True)
    found = opened(root)
    assert [clip.film for clip in found.clips] == [clip.film.with_suffix(end) for clip in first.clips if clip.film]
    (root / "clips").mkdir()
    for k in range(4):
        write_film(root / "clips" / f"0001_{k}.mp4", frames=CLIPS[k][2] - CLIPS[k][1] + 1)
        (root / "clips" / f"0001_{k}.mp4").rename(root / "clips" / f"0001_{k}{end}")
    cut = opened(root).split("train")
    assert [(clip.film.name, clip.film_start) for clip in cut if clip.film] == [(f"0001_{k}{end}", 0) for k in range(4)]


@pytest.mark.parametrize(
    ("name", "copy", "told"),
    [
        ("0001/0001.mp4", "0001/0001.mov", "video 0001 has another film, .*0001.mov"),
        ("0001/0001.mp4", "0001/0001.MP4", "video 0001 has another film, .*0001.MP4"),
        ("0001/0001_label.csv", "0001/0001_label.CSV", "video 0001 has another label file"),
        ("0001/0001_light_hand.csv", "0001/0001_light_hand.CSV", "video 0001 has another skeleton file"),
        ("splits.csv", "SPLITS.csv", "another splits file"),
    ],
)
def test_two_files_for_one_thing_are_refused(root: Path, name: str, copy: str, told: str) -> None:
    shutil.copy(root / name, root / copy)
    with pytest.raises(DataError, match=told) as caught:
        opened(root, skip_bad=True)
    assert Path(name).name in str(caught.value) and Path(copy).name in str(caught.value)


def test_a_folder_is_listed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, real = [], os.scandir
    monkeypatch.setattr("migcore.data.folder.os.scandir", lambda path: listed.append(path) or real(path))
    find_files(root)
    assert sorted(listed) == [root, *(root / video for video in ("0001", "0002", "0003"))]


def test_other_cases_of_csv_files(root: Path) -> None:
    first = opened(root)
    (root / "0002" / "0002_label.csv").rename(root / "0002" / "0002_LABEL.CSV")
    (root / "0003" / "0003_light_hand.csv").rename(root / "0003" / "0003_light_hand.Csv")
    found = opened(root)
    assert [(c.id, c.label, c.start) for c in found.clips] == [(c.id, c.label, c.start) for c in first.clips]
    assert len(read_clip_skeleton(found.clips[-1], OPENPOSE35)[0]) == 16


def empty_labels(root: Path) -> Path:
    (root / "0002" / "0002_label.csv").write_bytes(b"\xef\xbb\xbf\r\n \n")
    return root / "0002" / "0002_label.csv"


def wide_labels(root: Path) -> Path:
    (root / "0002" / "0002_label.csv").write_text("4,1,3\n", encoding="utf-16")
    return root / "0002" / "0002_label.csv"


@pytest.mark.parametrize(
    ("damage", "message"), [(empty_labels, "holds no clip.*Take the file away"), (wide_labels, "is UTF-16 text")]
)
def test_a_label_file_without_labels_is_told_or_skipped_when_asked(root: Path, damage, message: str) -> None:
    where = damage(root)
    with pytest.raises(DataError, match=message) as caught:
        opened(root)
    assert caught.value.where == where
    index = opened(root, skip_bad=True)
    assert [video for video, _ in index.skipped] == ["0002"] and len(index.clips) == 8


def bad_film(root: Path) -> Path:
    path = root / "0002" / "0002.mp4"
    path.write_bytes(path.read_bytes()[:1000])
    return path


def text_film(root: Path) -> Path:
    path = root / "0002" / "0002.mp4"
    path.write_text("no film")
    return path


def missing_film(root: Path) -> Path:
    (root / "0002" / "0002.mp4").unlink()
    return root / "0002"


def missing_skeleton(root: Path) -> Path:
    (root / "0002" / "0002_light_hand.csv").unlink()
    return root / "0002"


def other_columns(root: Path) -> Path:
    path = root / "0002" / "0002_light_hand.csv"
    path.write_text("".join(line + ",0" * 306 + "\n" for line in path.read_text().splitlines()))
    return path


def empty_skeleton(root: Path) -> Path:
    (root / "0002" / "0002_light_hand.csv").write_text("")
    return root / "0002" / "0002_light_hand.csv"


@pytest.mark.parametrize(
    ("damage", "row", "message"),
    [
        (bad_film, None, "is no whole film"),
        (text_film, None, "is no whole film"),
        (missing_film, None, "clip 0002_0 has no film 0002.mp4, but others have one"),
        (missing_skeleton, None, "clip 0002_0 has no skeleton file 0002_light_hand.csv, but others have one"),
        (other_columns, 1, "412 columns, .*column_map='openpose137'"),
        (empty_skeleton, None, "skeleton file is empty"),
    ],
)
def test_a_damaged_video_is_told_or_skipped_when_asked(root: Path, damage, row: int | None, message: str) -> None:
    where = damage(root)
    with pytest.raises(DataError, match=message) as caught:
        opened(root)
    assert (caught.value.where, caught.value.row) == (where, row)
    assert caught.value.hint
    index = opened(root, skip_bad=True)
    assert [clip_id for clip_id, _ in index.skipped] == [f"0002_{k}" for k in range(4)]
    assert all(str(where) in reason for _, reason in index.skipped)
    assert len(index.clips) == 8 and index.split("val") == []
    assert len(opened(root, check=False).clips) == 12


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("4,-2,9", "starts at frame -2"),
        ("4,9,3", "reversed or empty"),
        ("40,1,9", "gesture id 40"),
        ("wave,1,9", "three whole numbers"),
        ("4,30,41", "clip 0002_1 needs frame 41, but 0002_light_hand.csv has 40"),
    ],
)
def test_a_bad_clip_is_told_by_row_or_skipped_when_asked(root: Path, row: str, message: str) -> None:
    path, whole = root / "0002" / "0002_label.csv", opened(root).identity
    path.write_text(f"1,1,10\n{row}\n3,12,33\n")
    with pytest.raises(DataError, match=message) as caught:
        opened(root)
    assert (caught.value.where, caught.value.row) == (path, 2)
    index = opened(root, skip_bad=True)
    ((clip_id, reason),) = index.skipped
    assert clip_id == "0002_1" and message.split(",")[0] in reason
    assert [clip.id for clip in index.split("val")] == ["0002_0", "0002_2"], "k counts the rows of the file"
    assert index.identity != whole


def test_what_was_skipped_is_part_of_the_identity(root: Path) -> None:
    missing_skeleton(root)
    declare(root)
    one = opened(root, skip_bad=True)
    (root / "0003" / "0003_light_hand.csv").unlink()
    declare(root)
    two = opened(root, skip_bad=True)
    assert len({"abc123", one.identity, two.identity}) == 3


def test_a_film_that_is_shorter_than_its_skeleton(root: Path) -> None:
    write_film(root / "0003" / "0003.mp4", frames=30)
    with pytest.raises(DataError, match=r"clip 0003_2 needs frame 33, but 0003.mp4 has 30"):
        opened(root)
    assert [clip_id for clip_id, _ in opened(root, skip_bad=True).skipped] == ["0003_2", "0003_3"]


def test_a_training_video_without_label_file(root: Path) -> None:
    (root / "0001" / "0001_label.csv").unlink()
    with pytest.raises(DataError, match=r"0001: has no 0001_label.csv"):
        opened(root)
    index = opened(root, skip_bad=True)
    assert [clip_id for clip_id, _ in index.skipped] == ["0001"] and index.split("train") == []


def test_a_training_clip_without_label_file(root: Path) -> None:
    write_film(root / "clips" / "0005_0.mp4", frames=4)
    (root / "splits.csv").write_text(SPLITS + "0005,train,d\n")
    with pytest.raises(DataError, match=r"clips: has no 0005_label.csv"):
        opened(root)
    (root / "splits.csv").write_text(SPLITS + "0005,test,d\n")
    assert opened(root).clips[-1].label == -1


def test_label_files_that_count_from_zero(root: Path) -> None:
    for video in ("0001", "0002", "0003"):
        (root / video / f"{video}_label.csv").write_text("5,0,39\n")
    with pytest.raises(DataError, match="first_frame=0"):
        opened(root)
    clip = opened(root, first_frame=0).clips[0]
    assert (clip.start, clip.end, clip.frames) == (1, FRAMES, FRAMES)


def test_the_skeleton_of_a_clip_is_its_stretch_of_the_film(root: Path) -> None:
    index = opened(root)
    clip = index.split("val")[2]
    keypoints, scores = read_clip_skeleton(clip, index.column_map)
    whole = read_skeleton_csv(root / "0002" / "0002_light_hand.csv", OPENPOSE35)
    np.testing.assert_array_equal(keypoints, whole[0][11:33])
    np.testing.assert_array_equal(scores, whole[1][11:33])
    assert keypoints.shape == (22, 22, 2) and not keypoints.flags.writeable


def test_a_film_is_parsed_once_and_again_when_it_changed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(path: Path, columns):
        calls.append(path)
        return read_skeleton_csv(path, columns)

    monkeypatch.setattr("migcore.data.imigue.read_skeleton_csv", counting)
    clips = opened(root).split("train")
    before = [read_clip_skeleton(clip, OPENPOSE35)[0] for clip in clips]
    assert len(calls) == 1
    write_skeleton(root / "0001" / "0001_light_hand.csv", seed=99)
    after = read_clip_skeleton(clips[0], OPENPOSE35)[0]
    assert len(calls) == 2 and (before[0] != after).any()


@pytest.mark.parametrize(
    ("scale", "shift", "share"), [(1 / 64, 0, "all"), (1 / 32, -1, "all"), (1 / 52, 0, r"\d+% of the")]
)
def test_coordinates_that_are_no_pixels_are_refused(root: Path, scale: float, shift: float, share: str) -> None:
    points = np.random.default_rng(0).uniform(1, 63, (FRAMES, 35, 2)) * scale + shift
    path = root / "0001" / "0001_light_hand.csv"
    write_skeleton_csv(path, points, np.ones((FRAMES, 35)))
    clip = opened(root).split("train")[0]
    with pytest.raises(DataError, match=rf"{share} points lie within -1..1: they are no pixels") as caught:
        read_clip_skeleton(clip, OPENPOSE35)
    assert caught.value.where == path and caught.value.hint
    write_skeleton_csv(path, points, np.zeros((FRAMES, 35)))  # nothing is seen: nothing is wrong
    assert not read_clip_skeleton(clip, OPENPOSE35)[1].any()


def test_a_clip_whose_skeleton_is_gone_or_short(root: Path) -> None:
    clip = opened(root).split("train")[3]
    write_skeleton(root / "0001" / "0001_light_hand.csv", frames=39)
    with pytest.raises(DataError, match=r"clip 0001_3 ends at frame 40, but the file has 39"):
        read_clip_skeleton(clip, OPENPOSE35)
    clip.skeleton.unlink()
    with pytest.raises(DataError, match=r"skeleton file of clip 0001_3 cannot be read"):
        read_clip_skeleton(clip, OPENPOSE35)
    bare = ClipRecord("0001_3", "0001", 1, 2, 0, "train", film=root / "0001" / "0001.mp4")
    with pytest.raises(DataError, match=r"clip 0001_3 has no skeleton\. Put 0001_light_hand.csv"):
        read_clip_skeleton(bare, OPENPOSE35)
