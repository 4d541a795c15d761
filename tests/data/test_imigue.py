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

from migcore.data.imigue import (
    AbsentClassWarning,
    ClipIndex,
    ClipRecord,
    open_dataset,
    read_clip_skeleton,
    read_skeleton_csv,
    write_labels_csv,
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


def test_the_maker_of_the_data_may_say_its_identity(root: Path) -> None:
    (root / "identity.json").write_text(json.dumps({"identity": "abc123", "version": 1}))
    assert opened(root).identity == "abc123"
    for wrong in ("[]", "{}", '{"identity": 3}', '{"identity": ""}', "no json"):
        (root / "identity.json").write_text(wrong)
        with pytest.raises(DataError, match=r"identity\.json") as caught:
            opened(root)
        assert caught.value.hint


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
        ("video,split,subject\n", "", 1, "the first row is not video,split,subject"),
    ],
)
def test_a_wrong_splits_file_is_told_by_row(root: Path, old: str, new: str, row: int, message: str) -> None:
    path = replace(root / "splits.csv", old, new)
    with pytest.raises(DataError, match=message) as caught:
        opened(root, skip_bad=True)
    assert (caught.value.where, caught.value.row) == (path, row)


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
    (root / "identity.json").write_text('{"identity": "abc123"}')
    missing_skeleton(root)
    one = opened(root, skip_bad=True)
    (root / "0003" / "0003_light_hand.csv").unlink()
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
