"""migcore.doctor: whatever is wrong with a folder is found and named, and nothing is found in a whole one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from migcore import cli, doctor
from migcore.data import imigue
from migcore.data.files import write_skeleton_csv
from migcore.data.folder import content_of, find_files
from migcore.doctor import Report, examine, examine_machine, finger_votes
from migcore.errors import ConfigError
from tests.data.tiny import CLIPS, FRAMES, SPLITS, write_film, write_skeleton, write_video
from tests.faults import a_user, files, kill_at


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("doctor") / "set"
    for video in ("0001", "0002", "0003"):
        write_video(root, video)
    (root / "splits.csv").write_text(SPLITS)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def found(report: Report, level: str) -> list[str]:
    """Messages, but for those about classes that a tiny set lacks."""
    return [f.message for f in report.findings if f.level == level and "classes" not in f.message]


def test_a_whole_folder(whole: Path) -> None:
    before = sorted(whole.rglob("*"))
    report = examine(whole, decode=True)
    assert found(report, "error") == found(report, "warning") == []
    assert sorted(whole.rglob("*")) == before
    row = {"clips": 4, "videos": 1, "subjects": 1, "classes": 4}
    assert report.counts == {
        "train": row, "val": row, "test": row, "all": {"clips": 12, "videos": 3, "subjects": 3, "classes": 4},
    }  # fmt: skip
    assert report.published == {"all": {"clips": 18499, "videos": 359, "subjects": 72}}
    lengths = [end - start + 1 for _, start, end in CLIPS]
    np.testing.assert_allclose(report.seconds, [v / 25 for v in (min(lengths), np.mean(lengths), max(lengths))])
    assert report.layout["columns"].startswith("openpose35") and report.layout["split"] == "splits.csv"
    assert "3 films, 3 skeleton files, 3 label files, 0 pre-cut clips" in report.to_text()
    assert report.fingers["frames"] == 3 * FRAMES


def test_the_challenges_split_is_compared(root: Path) -> None:
    (root / "splits.csv").unlink()
    report = examine(root)
    assert report.published["val"] == {"clips": 777, "videos": 10}
    assert sum(report.published[s]["clips"] for s in ("train", "val", "test")) == 18499 - 267
    assert "4 clips (iMiGUE: 777)" not in report.to_text() and "12 clips (iMiGUE: 777)" in report.to_text()


def test_every_damage_is_named(root: Path) -> None:
    film = root / "0001" / "0001.mp4"
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    table = root / "0002" / "0002_light_hand.csv"
    lines = table.read_text().splitlines()
    lines[4] = lines[4].replace(lines[4].split(",")[3], "7", 1)  # a score: no quick look sees it
    table.write_text("\n".join(lines) + "\n")
    labels = root / "0003" / "0003_label.csv"
    labels.write_text(labels.read_text() + "55,1,2\n")
    report = examine(root)
    errors = report.errors
    assert len(errors) == 3
    by_file = {name: next(e for e in errors if name in e.message) for name in ("0001.mp4", table.name, labels.name)}
    assert by_file["0001.mp4"].clips == tuple(f"0001_{k}" for k in range(4))
    assert "row 5" in by_file[table.name].message and "score" in by_file[table.name].message
    assert by_file[table.name].clips == tuple(f"0002_{k}" for k in range(4))
    assert "row 5" in by_file[labels.name].message and by_file[labels.name].clips == ("0003_4",)
    assert "[4 clips: 0002_0, 0002_1, 0002_2, …]" in report.to_text()


def test_a_picture_that_cannot_be_decoded(root: Path) -> None:
    film = root / "0001" / "0001.mp4"
    whole = film.read_bytes()
    with av.open(str(film)) as container:
        packets = [(p.pos, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size]
    for key in (True, False):
        start, size = next((at, size) for at, size, is_key in packets if is_key == key and at)
        film.write_bytes(whole[: start + 20] + bytes(size - 20) + whole[start + size :])
        quick = examine(root)
        assert len(quick.errors) == key, "all packets are there, and only key frames are looked at"
        decoded = examine(root, decode=True)
        for report in [decoded, *([quick] if key else [])]:
            assert len(report.errors) == 1 and "0001.mp4" in report.errors[0].message


def test_unequal_lengths(root: Path) -> None:
    write_skeleton(root / "0001" / "0001_light_hand.csv", frames=FRAMES + 3)
    warned = found(examine(root), "warning")
    assert len(warned) == 1 and "0001_light_hand.csv 43 frames and 0001.mp4 40 frames" in warned[0]


def test_names_and_rows_that_come_twice(root: Path) -> None:
    labels = root / "0002" / "0002_label.csv"
    labels.write_text(labels.read_text() + labels.read_text().splitlines()[0] + "\n")
    (root / "test_id.txt").write_text("0003_0\n0003_1.mp4\n\n0003_0\n0453_3\n")
    (root / "readme.txt").write_text("0003_0 and other words\nnot a list\n")
    report = examine(root)
    warned = [f for f in report.findings if f.message in found(report, "warning")]
    assert [f.clips for f in warned] == [("0002_0", "0002_4"), ("0003_0",), ("0453_3",)]
    assert "twice" in warned[1].message and "not in this folder" in warned[2].message
    assert all("readme" not in f.message for f in warned)


def test_lists_of_spreadsheets(root: Path) -> None:
    listed = root / "test_id.TXT"
    for mark, end in (("", "\n"), ("\ufeff", "\r\n")):
        listed.write_text(f"{mark}0003_0{end}0003_1.MOV{end}0003_0{end}", encoding="utf-8", newline="")
        (warned,) = [f for f in examine(root).findings if "classes" not in f.message]
        assert (warned.level, warned.clips) == ("warning", ("0003_0",)) and "listed twice" in warned.message
    listed.write_text("0003_0\n0453_3\n", encoding="utf-16")
    (told,) = found(examine(root), "warning")
    assert str(listed) in told and "is UTF-16 text, not UTF-8" in told and "not compared" in told


def test_keypoints_of_another_size(root: Path) -> None:
    path = root / "0001" / "0001_light_hand.csv"
    everywhere = np.random.default_rng(0).uniform(0, 1, (FRAMES, 35, 2))
    for scale, told in (
        ((1, 1), "all points lie within -1..1"),
        ((1280, 720), r"of the points lie outside of the film of 64 x 48 pixels"),
    ):
        write_skeleton_csv(path, everywhere * scale, np.ones((FRAMES, 35)))
        (error,) = [f for f in examine(root).findings if f.level == "error"]
        assert str(path) in error.message and told in error.message
        assert error.clips == tuple(f"0001_{k}" for k in range(4))
    for scale, warned in (((30, 22), True), ((34, 22), False), ((64, 48), False)):
        write_skeleton_csv(path, everywhere * scale, np.ones((FRAMES, 35)))
        assert examine(root).errors == []
        assert bool(found(examine(root), "warning")) == warned
    assert found(examine(root), "warning") == []
    points = everywhere * (64, 48)
    points[10:11] += 100  # the clip of a single frame
    write_skeleton_csv(path, points, np.ones((FRAMES, 35)))
    (warning,) = [f for f in examine(root).findings if "outside of the film" in f.message]
    assert (warning.level, warning.clips) == ("warning", ("0001_1",)) and str(path) in warning.message


def test_clips_without_keypoints(root: Path) -> None:
    path, scores = root / "0002" / "0002_light_hand.csv", np.ones((FRAMES, 35))
    keypoints = np.random.default_rng(0).uniform(5, 45, (FRAMES, 35, 2))
    scores[:11] = 0  # two clips
    scores[12:20] = 0  # a part of the third
    write_skeleton_csv(path, keypoints, scores)
    (warning,) = [f for f in examine(root).findings if "classes" not in f.message]
    assert (warning.level, warning.clips) == ("warning", ("0002_0", "0002_1"))
    assert str(path) in warning.message and "no keypoint" in warning.message
    keypoints[:11] = 0  # a missing point, whatever its score
    write_skeleton_csv(path, keypoints, np.ones((FRAMES, 35)))
    (warning,) = [f for f in examine(root).findings if "classes" not in f.message]
    assert warning.clips == ("0002_0", "0002_1")


def test_clips_behind_the_last_frame_that_can_be_counted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A film's header may promise frames that it does not show."""
    real = doctor.probe

    def probe(path: Path, *, exact: bool = True) -> Any:
        told = real(path, exact=exact)
        return dataclasses.replace(told, frames=32) if exact and path.name == "0001.mp4" else told

    monkeypatch.setattr(doctor, "probe", probe)
    errors = examine(root).errors
    assert [error.clips for error in errors] == [("0001_2",), ("0001_3",)]
    assert "0001_label.csv, row 3: clip 0001_2 needs frame 33, but 0001.mp4 has 32" in errors[0].message


def test_a_folder_that_is_not_what_it_declares(root: Path) -> None:
    content = content_of(root, find_files(root).all)
    (root / "identity.json").write_text(json.dumps({"identity": "abc", "content": content}))
    assert found(examine(root), "warning") == []
    write_skeleton(root / "0001" / "0001_light_hand.csv", seed=77)
    (told,) = found(examine(root), "warning")
    assert str(root / "identity.json") in told and "1 changed (0001/0001_light_hand.csv)" in told


def test_films_without_labels(root: Path) -> None:
    write_video(root, "0009")
    (root / "0009" / "0009_label.csv").unlink()
    assert any("neither labels nor clips" in m and m.endswith("0009") for m in found(examine(root), "warning"))


def test_precut_clips_and_nested_folders(tmp_path: Path) -> None:
    write_video(tmp_path / "set" / "part", "0001", film=False)
    for k in range(len(CLIPS)):
        write_film(tmp_path / "set" / "clips" / f"0001_{k}.mp4", frames=CLIPS[k][2] - CLIPS[k][1] + 1)
    (tmp_path / "set" / "clips" / "0001_2.mp4").write_bytes(b"nothing")
    report = examine(tmp_path / "set")
    assert "1 of films, 1 of them one folder down" in report.layout["folders"]
    assert "4 pre-cut clips" in report.layout["files"]
    assert len(report.errors) == 1 and report.errors[0].clips == ("0001_2",)


@pytest.mark.parametrize("nothing", ["empty", "absent", "splits"])
def test_no_data_set_is_a_finding_too(nothing: str, root: Path, tmp_path: Path) -> None:
    folder = root if nothing == "splits" else tmp_path / nothing
    if nothing == "empty":
        folder.mkdir()
    if nothing == "splits":
        (root / "splits.csv").write_text("video,split,subject\n../0001,train,a\n")
    report = examine(folder)
    assert len(report.errors) == 1 and str(folder) in report.errors[0].message


def test_columns_are_guessed_or_told(root: Path) -> None:
    path = root / "0001" / "0001_light_hand.csv"
    path.write_text("\n".join(",".join(["0"] * 50) for _ in range(FRAMES)) + "\n")
    report = examine(root)
    assert any("50 columns fit no column map" in e.message for e in report.errors)
    for video in ("0001", "0002", "0003"):
        (root / video / f"{video}_light_hand.csv").write_text("\n".join([",".join(["0"] * 412)] * FRAMES) + "\n")
    assert examine(root).layout["columns"].startswith("openpose137") and not examine(root).errors
    assert len(examine(root, columns="openpose35").errors) == 3
    with pytest.raises(ConfigError, match="openpose34"):
        examine(root, columns="openpose34")


@pytest.mark.parametrize(("wrist", "votes"), [(7, [5, 0]), (4, [0, 5])])
def test_fingers_go_to_the_nearer_wrist(wrist: int, votes: list[int], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keypoints, scores = rng.uniform(0, 100, (8, 22, 2)), np.ones((8, 22))
    keypoints[:, 4], keypoints[:, 7] = (0, 0), (500, 0)
    keypoints[:, 12:17] = keypoints[:, wrist, None] + rng.uniform(-20, 20, (8, 5, 2))
    scores[0, 12:17] = 0  # no finger
    scores[1, 4] = 0  # no wrist to compare with
    scores[2, 7] = 0
    keypoints[3, 16], scores[3, 16] = (250 - 400 * (wrist - 5.5), 0), 0  # far, but not found
    assert finger_votes(keypoints, scores).tolist() == votes


@pytest.mark.parametrize(
    ("name", "function", "told"),
    [
        ("0003/0003.mp4", "find_files", "clip 0003_0 has no film 0003.mp4"),  # between listing and opening
        ("0003/0003.mp4", "_read_all", "clip 0003_0 has no film 0003.mp4"),
        ("0003/0003.mp4", "identity_of", "0003.mp4: cannot be read"),  # once all has been looked at
        ("0003/0003.mp4", "open_dataset", "0003.mp4: the film is missing"),
        ("0001/0001_light_hand.csv", "find_files", "clip 0001_0 has no skeleton file"),
        ("0001/0001_light_hand.csv", "identity_of", "0001_light_hand.csv: cannot be read"),
        ("0002/0002_label.csv", "identity_of", "0002_label.csv: cannot be read"),
        ("0002", "find_files", "video 0002 has neither folder nor clips"),
        ("splits.csv", "identity_of", "splits.csv: cannot be read"),
    ],
)
def test_what_goes_while_it_is_read_is_named(
    name: str, function: str, told: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = imigue if function == "identity_of" else doctor
    real = getattr(module, function)

    def gone() -> None:
        path = root / name
        (shutil.rmtree if path.is_dir() else os.unlink)(path)  # type: ignore[operator]

    def patched(*arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        if function == "identity_of":
            gone()
            return real(*arguments, **options)
        done = real(*arguments, **options)
        gone()
        return done

    monkeypatch.setattr(module, function, patched)
    report = examine(root)
    assert any(told in error.message for error in report.errors), report.errors
    assert not (root / name).exists() and json.loads(report.to_json()) and report.to_text()


def test_what_may_not_be_read_is_named(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", str(whole)]) == 0  # all is imported
    capsys.readouterr()
    content = files(whole)
    with a_user() as folder:
        root = folder / "set"
        for name, data in content.items():
            if data is not None:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(data)
        (root / "list.txt").write_text("0003_0\n")
        (root / "notes.txt").mkdir()
        hidden = [root / name for name in ("0001/0001_light_hand.csv", "0002/0002.mp4", "list.txt")]
        for path in hidden:
            path.chmod(0)
        report = examine(root)
        for path in hidden:
            assert any(str(path) in each.message for each in report.findings), path
        damaged = {clip for each in report.errors for clip in each.clips}
        assert damaged == {f"000{video}_{k}" for video in (1, 2) for k in range(4)}
        assert any("notes.txt: cannot be read" in each.message for each in report.findings)
        for path in (root / "0003" / "0003_label.csv", root / "splits.csv", root / "0003", root):
            path.chmod(0)
            assert cli.main(["doctor", str(root)]) == 2
            out, err = capsys.readouterr()
            assert f"  error    {path}: " in out and err.count("\n") == 1
        assert cli.main(["doctor", str(root / "below")]) == 2
        machine = examine_machine(root / "below")
        assert str(root / "below") in machine["space"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("options", [[], ["--json"], ["--decode"]])
def test_a_signal_is_one_line(
    number: signal.Signals, status: int, options: list[str], whole: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before, handler = files(whole), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(doctor, "probe", kill_at(2, number, doctor.probe))
    assert cli.main(["doctor", str(whole), *options]) == status
    assert capsys.readouterr() == ("", "migcore: stopped; the same command starts from the beginning\n")
    assert files(whole) == before and signal.getsignal(signal.SIGTERM) == handler


def test_the_machine(tmp_path: Path) -> None:
    machine = examine_machine(tmp_path / "not" / "yet")
    assert machine["torch"][0].isdigit() and "Python 3" in machine["system"]
    assert str(tmp_path / "not" / "yet") in machine["space"] and "GiB free" in machine["space"]
    assert not (tmp_path / "not").exists()
    assert Report(machine).to_text().splitlines()[0] == "machine" and "data set" not in Report(machine).to_text()


def test_the_command(whole: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    assert "torch" in capsys.readouterr().out
    assert cli.main(["doctor", str(whole)]) == 0
    assert "0 errors" in capsys.readouterr().out
    write_skeleton_csv(root / "0001" / "0001_light_hand.csv", np.ones((5, 35, 2)), np.ones((5, 35)))
    assert cli.main(["doctor", str(root), "--json"]) == 2
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert {"machine", "layout", "counts", "fingers", "findings"} <= set(told)
    assert [f["level"] for f in told["findings"]].count("error") == 4  # four clips end behind row 5
    assert err.count("\n") == 1 and "4 found wrong" in err
