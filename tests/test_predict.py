"""A film of one's own is judged as the data set's clips are: same frames, same heat-maps, same fusion."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from migcore import __version__, cli, experiments
from migcore.answer import Answer
from migcore.data.files import read_skeleton_csv, write_skeleton_csv
from migcore.data.layouts import column_map
from migcore.data.video import probe, read_all
from migcore.errors import CheckpointError, ConfigError, DataError, StorageError
from migcore.labels import CLASSES
from migcore.models.weights import load_weights, tensor_hash
from migcore.predict import (
    FILM,
    JOINTS,
    LIMBS,
    NO_LIE_DETECTOR,
    STUDIO_NOTE,
    Predictor,
    load_posec3d,
    load_predictor,
    windows,
)
from migcore.presets import DataConfig, Preset, preset
from migcore.report import plots
from tests.data.test_real_films import Look, with_cover, write
from tests.data.tiny import moving_picture, write_film
from tests.faults import a_user, disk, files, full_after, output_to
from tests.test_experiments import FRAMES, SMALL, write_folder

SETTINGS = {**SMALL, "train_student.epochs": 1, "train_student.batch_size": 8, "train_student.device": "cpu"}
CHANGES = [f"--set={name}={','.join(map(str, v)) if isinstance(v, list) else v}" for name, v in SETTINGS.items()]
CLIP = FRAMES / 25  # seconds
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"), films=True, size=112)


@pytest.fixture(scope="module")
def settings(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preset]:
    """The preset of the runs, which are made here."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("MIGCORE_RUNS", str(tmp_path_factory.mktemp("ledger") / "runs"))
        warnings.simplefilter("ignore")  # every tiny split lacks classes
        config = preset("smoke", {**SETTINGS, "data.root": str(folder)})
        experiments.run("ours", config)
        yield config


@pytest.fixture(scope="module")
def predictor(settings: Preset) -> Predictor:
    return load_predictor(settings)


def film(folder: Path, video: str = "0005") -> tuple[Path, Path]:
    return folder / video / f"{video}.mp4", folder / video / f"{video}_light_hand.csv"


def test_windows_that_are_clips_get_the_runs_answers(predictor: Predictor, settings: Preset, folder: Path) -> None:
    run = experiments.run("ours", settings)
    book, streams = experiments.ledger(), {n: experiments.run(n, settings) for n in (FILM, JOINTS, LIMBS)}
    logits = book.load_arrays(run, "test")["logits"]
    alone = book.load_arrays(streams[FILM], "test")["logits"]
    assert run.clips["test"]["ids"][:4] == [f"0005_{k}" for k in range(4)]
    for video, rows in (("0005", slice(0, 4)), ("0006", slice(4, 8))):
        found = predictor.predict(*film(folder, video), seconds=CLIP, stride=CLIP)
        assert found.spans.tolist() == [[FRAMES * k, FRAMES * (k + 1)] for k in range(4)] and found.fps == 25
        np.testing.assert_allclose(found.probabilities, np.exp(logits[rows]), rtol=2e-4, atol=1e-6)
        assert found.streams == run.extra["weights"] and found.labels == tuple(g.name for g in CLASSES)
        by_film = predictor.predict(film(folder, video)[0], seconds=CLIP, stride=CLIP)
        np.testing.assert_allclose(by_film.probabilities, np.exp(alone[rows]), rtol=2e-4, atol=1e-6)
        assert by_film.streams == {FILM: 1.0}


def test_arrays_are_judged_as_files_are(predictor: Predictor, folder: Path) -> None:
    path, skeleton = film(folder)
    keypoints, scores = read_skeleton_csv(skeleton, column_map("openpose35"))
    found = predictor.predict(read_all(path), (keypoints, scores), fps=25, seconds=0.6, stride=0.4)
    same = predictor.predict(str(path), str(skeleton), seconds=0.6, stride=0.4)
    assert np.array_equal(found.probabilities, same.probabilities) and np.array_equal(found.spans, same.spans)
    more = np.concatenate([keypoints, keypoints[:3]]), np.concatenate([scores, scores[:3]])  # longer than the film
    longer = predictor.predict(read_all(path), more, fps=25, seconds=0.6, stride=0.4)
    assert np.array_equal(longer.probabilities, found.probabilities)
    assert "3 rows of the skeleton lie behind the film's end" in " ".join(longer.notes)
    assert not any("rows of the skeleton" in note for note in found.notes)


def test_logits_are_fused_where_the_preset_says_so(predictor: Predictor, folder: Path) -> None:
    search = dataclasses.replace(predictor.config.search, kind="logits")
    config = dataclasses.replace(predictor.config, search=search)
    other = Predictor(config, predictor.student, predictor.tokenizer, predictor.poses, {FILM: 1.0, JOINTS: 0, LIMBS: 0})
    found = other.predict(*film(folder))
    np.testing.assert_allclose(found.probabilities, predictor.predict(film(folder)[0]).probabilities, rtol=1e-9)


def test_classes_of_ones_own(predictor: Predictor, folder: Path) -> None:
    path = film(folder)[0]
    known = [g.prompt for g in CLASSES]
    found = predictor.predict(path, labels=known)
    np.testing.assert_allclose(found.probabilities, predictor.predict(path).probabilities, rtol=1e-4, atol=1e-7)
    few = predictor.predict(path, labels=["touch nose: a hand at the nose", "nothing"])
    assert few.labels == ("touch nose", "nothing") and few.probabilities.shape[1] == 2
    np.testing.assert_allclose(few.probabilities.sum(1), 1)
    for wrong in (["nothing"], ["a: b", "A: c"], ["a", " : b"]):
        with pytest.raises(ConfigError, match="two or more with different names"):
            predictor.predict(path, labels=wrong)
    with pytest.raises(ConfigError, match="leave the skeleton out"):
        predictor.predict(*film(folder), labels=["a", "b"])


def test_what_does_not_fit_is_said(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    path, skeleton = film(folder)
    keypoints, scores = read_skeleton_csv(skeleton, column_map("openpose35"))
    for points, confidence in (
        (keypoints[:-1], scores[:-1]),
        (keypoints[:, :5], scores[:, :5]),
        (keypoints, scores[:9]),
    ):
        with pytest.raises(DataError, match=r"film of 32 frames.*a row for every frame"):
            predictor.predict(path, (points, confidence))
    short = tmp_path / "short.csv"
    short.write_text("".join(skeleton.read_text().splitlines(keepends=True)[:20]))
    with pytest.raises(DataError, match=r"short\.csv"):
        predictor.predict(path, short)
    with pytest.raises(DataError, match=r"none\.mp4.*missing"):
        predictor.predict(tmp_path / "none.mp4")
    with pytest.raises(DataError, match=r"uint8 \[3, T, H, W\]"):
        predictor.predict(torch.zeros(3, 4, 8, 8), fps=25)
    with pytest.raises(ConfigError, match="fps=25"):
        predictor.predict(torch.zeros(3, 4, 8, 8, dtype=torch.uint8))
    with pytest.raises(ConfigError, match=r"windows of 0 s"):
        predictor.predict(path, seconds=0)
    alone = Predictor(predictor.config, predictor.student, predictor.tokenizer, {}, {FILM: 1.0})
    with pytest.raises(ConfigError, match="no weights of the skeleton's streams"):
        alone.predict(path, skeleton)


def test_what_is_not_finite_is_missing(predictor: Predictor, folder: Path) -> None:
    path, skeleton = film(folder)
    keypoints, scores = read_skeleton_csv(skeleton, column_map("openpose35"))
    missing, gone = keypoints.copy(), scores.copy()
    missing[3, 5], gone[3, 5] = 0, 0
    missing[4, :], gone[4, :] = 0, 0
    expected = predictor.predict(path, (missing, gone)).probabilities
    unclean, unknown = keypoints.copy(), scores.copy()
    unclean[3, 5, 0], unclean[4], unknown[4, :3] = np.nan, np.inf, np.nan
    before = unclean.copy(), unknown.copy()
    assert np.array_equal(predictor.predict(path, (unclean, unknown)).probabilities, expected)
    np.testing.assert_array_equal(unclean, before[0])
    np.testing.assert_array_equal(unknown, before[1])


def test_windows_without_a_keypoint_are_told(predictor: Predictor, folder: Path) -> None:
    path, skeleton = film(folder)
    keypoints, scores = read_skeleton_csv(skeleton, column_map("openpose35"))
    keypoints[8:16] = np.nan
    found = predictor.predict(path, (keypoints, scores), seconds=CLIP, stride=CLIP)
    assert np.isfinite(found.probabilities).all()
    assert found.notes[0] == "1 of 4 windows have no keypoint at all: there the skeleton streams guess"
    assert predictor.predict(path, (keypoints * np.nan, scores)).notes[0].startswith("1 of 1 windows")


@pytest.mark.parametrize(
    ("scale", "of_scores", "message"),
    [
        (40, 1, r"\d+% of the points lie outside of the film of 112 x 112 pixels.*in pixels of this very film"),
        (-1, 1, r"100% of the points lie outside"),
        (1 / 112, 1, "all points lie in the corner pixel of the film"),
        (1, 100, "a score of 90.*scores lie in 0..1"),
        (1, -1, "a score of -0.9"),
    ],
)
def test_keypoints_in_another_unit_are_refused(
    predictor: Predictor, folder: Path, tmp_path: Path, scale: float, of_scores: float, message: str
) -> None:
    path, skeleton = film(folder)
    keypoints, scores = read_skeleton_csv(skeleton, column_map("openpose35"))
    with pytest.raises(DataError, match=message):
        predictor.predict(path, (keypoints * np.float32(scale), scores * np.float32(of_scores)))
    if of_scores == 1:  # files are told by name
        write_skeleton_csv(tmp_path / "odd.csv", np.resize(keypoints * scale, (32, 35, 2)), np.full((32, 35), 0.9))
        with pytest.raises(DataError, match=rf"odd\.csv: {message}"):
            predictor.predict(path, tmp_path / "odd.csv")


@pytest.mark.parametrize("given", ["keypoints", "three", "ragged"])
def test_a_skeleton_is_a_pair(predictor: Predictor, folder: Path, given: str) -> None:
    path, skeleton = film(folder)
    keypoints, scores = read_skeleton_csv(skeleton, column_map("openpose35"))
    wrong: Any = {"keypoints": keypoints, "three": (keypoints, scores, scores), "ragged": ([[1], [1, 2]], scores)}
    with pytest.raises(DataError, match=r"give a pair \(keypoints, scores\)"):
        predictor.predict(path, wrong[given])


def test_notes_say_what_the_weights_are_of(predictor: Predictor, folder: Path) -> None:
    assert predictor.predict(film(folder)[0]).notes == (NO_LIE_DETECTOR,)  # the data have a folder, as iMiGUE would
    config = dataclasses.replace(predictor.config, data=DataConfig())
    drawn = Predictor(config, predictor.student, predictor.tokenizer, {}, {FILM: 1.0})
    assert drawn.predict(film(folder)[0]).notes == (STUDIO_NOTE, NO_LIE_DETECTOR)


def test_a_prediction_as_text(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    found = predictor.predict(film(folder)[0], seconds=0.4, stride=0.4)
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert len(rows) == len(found.spans) == 4
    for window, row in enumerate(rows):
        assert (float(row["start_s"]), float(row["end_s"])) == tuple(found.seconds[window])
        best, probability = found.top(1, window)[0]
        assert row["class"] == best and float(row[best]) == pytest.approx(probability, abs=1e-6)
    assert found.save(tmp_path / "new" / "out.csv").read_text() == found.to_csv()
    assert found.save(str(tmp_path / "text.csv")).read_text() == found.to_csv()
    overall = found.top(2)
    assert overall[0][1] == pytest.approx(found.probabilities.mean(0).max()) and overall[0][1] >= overall[1][1]
    with pytest.raises(ConfigError, match="no window 4"):
        found.top(1, 4)


@given(
    frames=st.integers(1, 400),
    fps=st.floats(1, 120),
    seconds=st.floats(0.01, 20),
    stride=st.floats(0.01, 20),
)
def test_windows_cover_a_film(frames: int, fps: float, seconds: float, stride: float) -> None:
    spans = windows(np.arange(frames + 1) / fps, seconds, stride)
    lengths = spans[:, 1] - spans[:, 0]
    assert (lengths == min(frames, max(1, round(seconds * fps)))).all()
    assert spans[0, 0] == 0 and spans[-1, 1] == frames
    steps = np.diff(spans[:, 0])
    assert (steps > 0).all() and (steps <= max(1, round(stride * fps))).all()


def test_weights_must_be_on_this_machine(settings: Preset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = preset("smoke", {"data.root": settings.data.root})
    with pytest.raises(ConfigError, match=r"no weights of froster_decay.*migcore train ours --preset smoke --seed 0"):
        load_predictor(config)
    with pytest.raises(ConfigError, match="no preset is called 'labtop'"):
        load_predictor("labtop")
    run = experiments.run(FILM, settings)
    assert run.folder is not None
    with pytest.raises(CheckpointError, match="no skeleton network's"):
        load_posec3d(run.folder / experiments.WEIGHTS)


def test_lost_weights_are_made_again_when_they_are_wanted(settings: Preset) -> None:
    book = experiments.ledger()
    whole = experiments.run("ours", settings)
    run = book.get(whole.depends[JOINTS])
    assert run is not None and run.folder is not None
    weights = run.folder / experiments.WEIGHTS
    before = tensor_hash(load_weights(weights)[0])
    weights.unlink()
    assert experiments.run("ours", settings) == whole and not weights.exists()
    with pytest.raises(ConfigError, match=JOINTS):
        load_predictor(settings)
    assert experiments.run_all(["ours"], settings, weights=True)["ours"].key == whole.key
    assert tensor_hash(load_weights(weights)[0]) == before
    weights.unlink()
    assert experiments.run("ours", settings, weights=True).key == whole.key and weights.exists()
    load_predictor(settings)


def command(path: Path, *more: Any, data: Path) -> list[str]:
    """The words of a command line that judges a film."""
    return [str(a) for a in ("predict", path, "--preset", "smoke", "--data", data, *CHANGES, *more)]


def test_command(settings: Preset, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, skeleton = film(folder)

    def run(*more: Any) -> tuple[int, str, str]:
        status = cli.main(command(path, *more, data=folder))
        return status, *capsys.readouterr()

    status, shown, errors = run("--skeleton", skeleton, "--seconds", 0.4, "--stride", 0.4, "--out", tmp_path / "out")
    lines = shown.splitlines()
    assert status == 0, errors
    assert [line.split(" s ")[0].split() for line in lines[:2]] == [["0.00", "-", "0.40"], ["0.40", "-", "0.80"]]
    assert lines[0].count("%") == 3 and lines[4].startswith("judged by froster_decay (")
    assert lines[5] == f"note: {NO_LIE_DETECTOR}" and lines[6:] == [
        str(tmp_path / "out" / f"0005.{e}") for e in ("csv", "png", "json")
    ]
    assert (tmp_path / "out" / "0005.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0005.csv", "0005.json", "0005.png"]

    status, shown, _ = run("--labels", "touch nose: a hand at the nose", "--labels", "nothing", "--top", 1)
    assert status == 0 and shown.splitlines()[0].count("%") == 1 and "judged by froster_decay (1.00)" in shown
    for wrong, message in (
        (["--top", 0], "at least one"),
        (["--seed", 7], "train ours"),
        (["--labels", "a"], "two or more"),
        (["--fps", 0], "0 frames per second. Give --fps"),
        (["--fps", "nan"], "nan frames per second. Give --fps"),
        (["--fps", "-inf"], "-inf frames per second. Give --fps"),
    ):
        status, _, errors = run(*wrong)
        assert status == 2 and errors.count("\n") == 1 and message in errors


Judge = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def judge(settings: Preset, folder: Path, capsys: pytest.CaptureFixture[str]) -> Judge:
    """Runs the command line on a film; returns its status, lines and errors."""

    def call(*more: Any, of: Path | None = None) -> tuple[int, list[str], str]:
        status = cli.main(command(of or film(folder)[0], *more, data=folder))
        out, errors = capsys.readouterr()
        return status, out.splitlines(), errors

    return call


def test_films_of_phones_and_browsers_are_judged_upright_and_by_the_clock(judge: Judge, tmp_path: Path) -> None:
    pictures = moving_picture(40, (96, 64), 0)[..., :1].repeat(3, axis=-1)  # grey: colours are stored at half the size
    upright = write(tmp_path / "upright.mkv", pictures, qp="0")
    lying = write(tmp_path / "lying.mp4", np.rot90(pictures, 1, axes=(1, 2)), look=Look(-90), qp="0")
    assert probe(lying).size == probe(upright).size == (96, 64)
    answers = [judge("--top", 32, of=path)[1][0] for path in (upright, lying)]
    shares = [dict(re.findall(r"(\w[\w ]*?) (\d+) %", answer.split(" s ", 1)[1])) for answer in answers]
    assert len(shares[0]) == 32 and shares[0] == shares[1]
    skeleton = tmp_path / "lying.csv"
    write_skeleton_csv(skeleton, np.tile([90.0, 30.0], (40, 35, 1)), np.ones((40, 35)))  # of the picture as stored
    status, _, errors = judge("--skeleton", skeleton, of=lying)
    assert status == 2 and "100% of the points lie outside of the film of 64 x 96 pixels" in errors

    slow = [40 * n if n < 20 else 800 + 200 * (n - 20) for n in range(40)]
    uneven = write(tmp_path / "uneven.mkv", pictures, times=slow)
    status, lines, _ = judge("--stride", 2, "--out", tmp_path / "out", of=uneven)
    windows = [line.split(" s ")[0].strip() for line in lines if " - " in line]
    assert status == 0 and windows == ["0.00 - 2.00", "2.00 - 4.00", "2.60 - 4.64"]
    rows = list(csv.DictReader((tmp_path / "out" / "uneven.csv").open()))
    assert [(row["start_s"], row["end_s"]) for row in rows][:2] == [("0.000", "2.000"), ("2.000", "4.000")]


def test_a_film_without_stamps_says_so_and_takes_a_rate(judge: Judge, tmp_path: Path) -> None:
    path = write(tmp_path / "a.h264", moving_picture(40, (48, 64), 0))
    status, lines, _ = judge(of=path)
    assert status == 0 and lines[0].startswith("   0.00 - 1.60 s")
    assert "note: the film has no time stamps: 25 frames a second are assumed (--fps gives others)" in lines
    status, lines, _ = judge("--fps", 10, of=path)
    assert status == 0 and lines[0].startswith("   0.00 - 2.00 s") and not any("time stamps" in line for line in lines)


def test_a_film_that_cannot_be_judged_is_one_line(judge: Judge, tmp_path: Path) -> None:
    whole = write(tmp_path / "a.mkv", moving_picture(60, (48, 64), 0))
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    song = with_cover(tmp_path / "song.m4a", None)
    parts = [write(tmp_path / f"{h}.h264", moving_picture(30, (h, 64), 0)).read_bytes() for h in (48, 64)]
    (tmp_path / "sizes.h264").write_bytes(b"".join(parts))
    for path, message in (
        (tmp_path / "cut.mkv", "is no whole film: it is truncated after"),
        (song, "has a cover picture, but no film"),
        (tmp_path / "sizes.h264", "the size of its pictures changes: frame"),
        (tmp_path, "cannot be read (Is a directory)"),
    ):
        status, lines, errors = judge(of=path)
        assert status == 2 and not lines and errors.count("\n") == 1 and message in errors, errors


@pytest.mark.parametrize(("size", "name"), [(20, ".0005.lock"), (400, "0005.csv"), (5000, "0005.png")])
def test_a_full_disk_leaves_all_old_results_or_none(judge: Judge, tmp_path: Path, size: int, name: str) -> None:
    """Table and time line are of one film: never a new one beside an old one."""
    told = judge()[1]
    new, old = tmp_path / "new" / "er", tmp_path / "old"
    assert judge("--out", old, "--seconds", 0.4)[0] == 0
    before = files(old)
    for out in (new, old):
        with full_after(size):
            status, lines, errors = judge("--out", out)
        assert status == 2 and errors.startswith(f"migcore: error: {out / name}: could not be written (")
        assert errors.count("\n") == 1
        assert lines == ([] if name.endswith("lock") else told)  # what was judged is not lost
    assert not (tmp_path / "new").exists() and files(old) == before and len(before) == 3


@pytest.mark.parametrize("options", ["size=24k", "ro"])
def test_a_disk_that_is_full_or_read_only(judge: Judge, tmp_path: Path, options: str) -> None:
    with disk(tmp_path / "disk", options) as full:
        status, lines, errors = judge("--out", full)
        assert status == 2 and errors.count("\n") == 1 and errors.startswith(f"migcore: error: {full}")
        assert ("No space left" if lines else "Read-only file system") in errors and bool(lines) == (options != "ro")
        assert os.listdir(full) == []


def test_the_answer_says_what_was_judged_by_what(
    judge: Judge, settings: Preset, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, skeleton = film(folder)
    monkeypatch.chdir(path.parent)
    words = ["--out", tmp_path, "--skeleton", skeleton.name, "--seconds", 0.4, "--stride", 0.2, "--fps", 50]
    assert judge(*words, of=Path(path.name))[0] == 0
    about = json.loads((tmp_path / "0005.json").read_text(encoding="utf-8"))
    assert about["film"] == {"path": os.path.realpath(path), "bytes": path.stat().st_size}
    assert about["skeleton"] == os.path.realpath(skeleton) and about["labels"] == []
    assert (about["preset"], about["seed"], about["migcore"]) == (settings.label, 0, __version__)
    assert (about["window_seconds"], about["stride_seconds"], about["fps"]) == (0.4, 0.2, 50)
    assert about["runs"] == {name: experiments.run(name, settings).key for name in (FILM, JOINTS, LIMBS)}
    assert about["streams"] == experiments.run("ours", settings).extra["weights"]
    assert about["notes"] == [NO_LIE_DETECTOR]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "0005.csv").read_text())))
    assert [row["end_s"] for row in rows] == ["0.400", "0.600", "0.640"]  # 32 frames, 50 a second
    assert judge("--out", tmp_path, "--labels", "nothing", "--labels", "touch nose: a hand")[0] == 0
    about = json.loads((tmp_path / "0005.json").read_text(encoding="utf-8"))
    assert about["labels"] == ["nothing", "touch nose: a hand"] and about["skeleton"] is None


def test_a_second_film_of_a_name_is_refused_before_it_is_judged(
    judge: Judge, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for place, suffix in ((mine, "mp4"), (other, "mp4"), (other, "mov")):
        place.mkdir(exist_ok=True)
        shutil.copy(film(folder)[0], place / f"film.{suffix}")
    out = tmp_path / "out"
    assert judge("--out", out, of=mine / "film.mp4")[0] == 0
    before = files(out)
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict", None)
        for second in (other / "film.mp4", other / "film.mov"):
            status, lines, errors = judge("--out", out, of=second)
            assert (status, lines, errors.count("\n")) == (2, [], 1) and files(out) == before
            assert f"{out}: holds the answer for {mine / 'film.mp4'}. Give another --out, or take film.csv" in errors
    status, _, errors = judge("--out", out, "--seconds", 0.4, of=mine / "film.mp4")
    assert (status, errors) == (0, "") and files(out)["film.csv"] != before["film.csv"]


def test_results_take_no_other_files_place(judge: Judge, folder: Path, tmp_path: Path) -> None:
    skeleton = film(folder)[1]
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "0005.png").mkdir(parents=True)
    (tmp_path / "0005.csv").write_bytes(skeleton.read_bytes())
    before = files(tmp_path)
    for out, more, message in (
        ("file", [], f"{tmp_path / 'file'}: is no folder. Give --out a folder"),
        ("file/below", [], "Not a directory"),
        ("taken", [], "0005.png: is no plain file"),
        (
            ".",
            ["--skeleton", tmp_path / "0005.csv"],
            "0005.csv: the results would take this file's place",
        ),
    ):
        status, _, errors = judge("--out", tmp_path / out, *more)
        assert status == 2 and errors.count("\n") == 1 and message in errors
    assert judge("--out", tmp_path / "new" / "er", of=tmp_path / "none.mp4")[0] == 2
    assert files(tmp_path) == before


@pytest.mark.parametrize("mode", [0, 0o555])
def test_a_folder_that_may_not_be_written_to_is_told_before_the_film_is_judged(mode: int) -> None:
    with a_user() as folder:
        for out in (folder / "out", folder / "out" / "below"):
            (folder / "out").mkdir(mode, exist_ok=True)
            with (
                pytest.raises(StorageError, match="Permission denied"),
                Answer(out, Path("me.mp4")).reserved(),
            ):
                pytest.fail("it would have been judged")
        (folder / "out").chmod(0o700)
        assert os.listdir(folder) == ["out"] and os.listdir(folder / "out") == []


@pytest.mark.parametrize("where", ["nobody", "full", "closed"])
@pytest.mark.parametrize("lines", [False, True])
def test_results_are_written_whoever_reads(
    where: str, lines: bool, settings: Preset, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with output_to(where, lines=lines):
        status = cli.main(command(film(folder)[0], "--out", tmp_path, data=folder))
    errors = capsys.readouterr().err
    assert (status, errors.count("\n")) == ((2, 1) if where == "full" else (0, 0)) and "Traceback" not in errors
    assert sorted(os.listdir(tmp_path)) == ["0005.csv", "0005.json", "0005.png"]


def test_a_stopped_process_leaves_nothing_and_a_second_one_is_refused(
    judge: Judge, folder: Path, tmp_path: Path
) -> None:
    """Processes as a user starts them, stopped in the middle of a long film."""
    long = tmp_path / "long.mp4"
    write_film(long, frames=6000)
    (tmp_path / "old").mkdir()
    words = ["--seconds", 0.2, "--stride", 0.04, "--out"]
    started = {
        number: subprocess.Popen(
            [sys.executable, "-m", "migcore", *command(long, *words, tmp_path / out, data=folder)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number, out in ((signal.SIGINT, "new"), (signal.SIGTERM, "old"))
    }  # fmt: skip
    locks = [tmp_path / out / ".long.lock" for out in ("new", "old")]
    try:
        deadline = time.monotonic() + 120
        while not all(map(os.path.exists, locks)) and time.monotonic() < deadline:
            assert all(process.poll() is None for process in started.values())
            time.sleep(0.05)
        status, lines, errors = judge("--out", tmp_path / "new", of=long)
        assert status == 2 and not lines and errors.count("\n") == 1
        assert f"the result of long.mp4 is being written by process {started[signal.SIGINT].pid} on " in errors
        for number, process in started.items():
            process.send_signal(number)
        for number, process in started.items():
            out, errors = process.communicate(timeout=60)
            assert process.returncode == 128 + number and out == ""
            assert errors == "migcore: stopped; the same command starts from the beginning\n"
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    assert sorted(files(tmp_path)) == ["long.mp4", "old"]


def test_a_time_line_shows_the_classes_that_lead() -> None:
    seconds = np.array([[0, 2], [1, 3], [2, 4]])
    probabilities = np.array([[0.1, 0.0, 0.9], [0.7, 0.1, 0.2], [0.6, 0.3, 0.1]])
    figure = plots.timeline(seconds, probabilities, ["a", "b", "c"], most=2)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c", "a"]  # in the order in which they peak
    mesh = axes.collections[0]
    np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(2, 3), probabilities[:, [2, 0]].T)
    assert axes.get_xlim() == (0, 4)
