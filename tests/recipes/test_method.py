"""The method's own runs in small: students, aligned skeleton networks, the weight search; and several side by side."""

from __future__ import annotations

import json
import multiprocessing
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from migcore import ensemble, experiments
from migcore.data.datasets import VideoClips, collate
from migcore.errors import CheckpointError, ConfigError
from migcore.ledger import Run
from migcore.models.clip import TeacherConfig, load_teacher
from migcore.models.weights import load_weights, tensor_hash
from migcore.presets import Preset, preset
from migcore.recipes import load_student
from migcore.recipes.student import make_student
from tests.test_experiments import SMALL, forbid, write_folder

STUDENTS = ("vclip", "froster", "froster_decay")
SETTINGS = {**SMALL, "train_student.epochs": 2, "train_student.batch_size": 4, "train_student.device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"), films=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One ledger for the module: its runs are loaded, not made again."""
    where = tmp_path_factory.mktemp("ledger") / "runs"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("MIGCORE_RUNS", str(where))
        warnings.simplefilter("ignore")  # every tiny split lacks classes
        yield where


@pytest.fixture(scope="module")
def settings(folder: Path, runs: Path) -> Preset:
    return preset("smoke", {**SETTINGS, "data.root": str(folder)})


@pytest.fixture(scope="module")
def students(settings: Preset) -> dict[str, Run]:
    return {name: experiments.run(name, settings) for name in STUDENTS}


def test_students_are_trained_and_recorded_whole(students: dict[str, Run], settings: Preset) -> None:
    book = experiments.ledger()
    for run in students.values():
        assert [row["epoch"] for row in run.history] == [1, 2] and run.metrics["test"]["n"] == 8
        arrays, text_CE = book.load_arrays(run, "test"), book.load_arrays(run, "text")["embeddings"]
        assert arrays["logits"].shape == (8, 32) and arrays["features"].shape == (8, 64)
        np.testing.assert_allclose(np.linalg.norm(text_CE, axis=1), 1, atol=1e-5)
        # Logits and features belong together: Eq. 1 with the learnt temperature.
        cosines_NC = arrays["features"].astype(np.float32) @ text_CE.T
        expected = torch.from_numpy(np.exp(run.extra["logit_scale"]) * cosines_NC).log_softmax(-1).numpy()
        np.testing.assert_allclose(arrays["logits"], expected, atol=0.05)
    configs = {name: run.config["student"] for name, run in students.items()}
    assert configs["froster_decay"]["vclip"]["keep"] and not configs["froster"]["vclip"]["keep"]
    assert configs["vclip"]["distill"] == "none" and configs["froster"]["distill"] == "l2"
    assert len({run.key for run in students.values()}) == 3


def test_distillation_keeps_the_student_near_the_teacher(settings: Preset) -> None:
    """With a large weight on it the features stay where the teacher's are; without, they leave."""
    far = preset("smoke", {**SETTINGS, "data.root": settings.data.root, "train_student.lr": 0.003})
    near = preset("smoke", {**SETTINGS, "data.root": settings.data.root, "train_student.lr": 0.003, "student.beta": 50})
    teacher = load_teacher(TeacherConfig(precision="fp32"))
    data = VideoClips(experiments.dataset(far), "test", far.video, train=False)
    frames_BTE = teacher.encode_video(collate([data[i] for i in range(len(data))])["video"][:, 0])
    wanted = {"features": frames_BTE.mean(1).numpy()}, {"embeddings": teacher.class_embeddings().numpy()}
    book, apart = experiments.ledger(), {}
    for name, config in (("vclip", far), ("froster", near)):
        run = experiments.run(name, config)
        found = book.load_arrays(run, "test"), book.load_arrays(run, "text")
        apart[name] = [float(np.linalg.norm(f[key] - w[key])) for f, w in zip(found, wanted, strict=True) for key in w]
    assert apart["froster"][0] < apart["vclip"][0] and apart["froster"][1] < apart["vclip"][1]


def test_weights_come_back_as_the_student(students: dict[str, Run], settings: Preset, tmp_path: Path) -> None:
    run = students["froster_decay"]
    assert run.folder is not None and experiments.has_weights(run)
    student = load_student(run.folder / experiments.WEIGHTS)
    assert not student.training and student.config == settings.student
    data = VideoClips(experiments.dataset(settings), "test", settings.video, train=False)
    with torch.no_grad():
        logits = student(collate([data[i] for i in range(len(data))])["video"][:, 0]).logits_BC.log_softmax(-1)
    np.testing.assert_allclose(logits, experiments.ledger().load_arrays(run, "test")["logits"], atol=1e-4)
    other = experiments.run("posec3d_joint", settings)
    assert other.folder is not None
    with pytest.raises(CheckpointError, match="not a student's weights"):
        load_student(other.folder / experiments.WEIGHTS)


def test_a_run_without_weights_is_made_again_when_they_are_wanted(settings: Preset, students: dict[str, Run]) -> None:
    run = students["vclip"]
    assert run.folder is not None
    weights = run.folder / experiments.WEIGHTS
    kept = load_weights(weights)[0]
    weights.unlink()
    assert experiments.run("vclip", settings) == run and not weights.exists()
    again = experiments.run("vclip", settings, weights=True)
    assert again.metrics == run.metrics and tensor_hash(load_weights(weights)[0]) == tensor_hash(kept)


def test_a_student_begins_as_its_teacher_frame_by_frame() -> None:
    teacher = load_teacher(TeacherConfig(precision="fp32"))
    config = preset("smoke", {"student.vclip.span": 0, "student.vclip.keep": []}).student
    student = make_student(teacher, config, seed=0).eval()
    video = torch.randint(0, 256, (2, 3, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        outputs = student(video)
    torch.testing.assert_close(outputs.frames_BTE, teacher.encode_video(video), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs.text_CE, teacher.class_embeddings(), atol=1e-5, rtol=1e-5)
    assert not any(p.requires_grad for p in teacher.parameters())  # a copy was taken


def test_aligned_streams_follow_the_student_they_are_aligned_with(settings: Preset, students: dict[str, Run]) -> None:
    joint = experiments.run("posec3d_joint_text", settings)
    assert joint.depends == {"froster_decay": students["froster_decay"].key}
    other = preset("smoke", {**SETTINGS, "data.root": settings.data.root, "student.beta": 1.0})
    index = experiments.dataset(settings)
    keys = {experiments.key("posec3d_joint_text", p, 0, experiments.identity(index)) for p in (settings, other)}
    plain = {experiments.key("posec3d_joint", p, 0, experiments.identity(index)) for p in (settings, other)}
    assert len(keys) == 2 and len(plain) == 1


def test_the_pull_of_the_text_is_as_strong_as_gamma(settings: Preset, students: dict[str, Run]) -> None:
    text_CE = torch.from_numpy(experiments.ledger().load_arrays(students["froster_decay"], "text")["embeddings"])
    lengths: list[float] = []
    for gamma in (0.0, 30.0):
        overrides: dict[str, Any] = {**SETTINGS, "data.root": settings.data.root, "alignment.gamma": gamma}
        overrides |= {"alignment.embedding": "parallel", "train_posec3d.epochs": 6}
        run = experiments.run("posec3d_joint_text", preset("smoke", overrides))
        losses = [row["loss"] for row in run.history]
        lengths.append(losses[0])
    assert text_CE.shape == (32, 64) and lengths[1] > lengths[0] + 1  # the distance is in the loss, gamma times


def test_ours_is_the_search_on_validation_applied_once(settings: Preset) -> None:
    done = experiments.run_all(["ours"], settings)["ours"]
    book = experiments.ledger()
    streams = {name: book.get(key) for name, key in done.depends.items()}
    logits = {n: {s: book.load_arrays(r, s) for s in ("val", "test")} for n, r in streams.items() if r is not None}
    assert list(logits) == ["froster_decay", "posec3d_joint_text", "posec3d_limb_text"]
    found = ensemble.search_weights(
        {n: a["val"]["logits"] for n, a in logits.items()}, next(iter(logits.values()))["val"]["labels"]
    )
    assert done.extra["weights"] == found.weights and done.extra["search"]["split"] == "val"
    assert done.metrics["val"]["top1"] == pytest.approx(found.score) and done.extra["search"]["step"] == 0.05
    fused = ensemble.fuse({n: a["test"]["logits"] for n, a in logits.items()}, found.weights)
    np.testing.assert_allclose(np.exp(book.load_arrays(done, "test")["logits"]), fused, rtol=1e-4, atol=1e-7)
    assert len(done.extra["search"]["absent"]) == 29
    json.dumps(done.extra)


def test_runs_side_by_side_are_those_one_after_another(
    folder: Path, settings: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["posec3d_joint", "posec3d_limb"]
    alone = {name: experiments.run(name, settings) for name in names}
    monkeypatch.setenv("MIGCORE_RUNS", str(tmp_path / "other"))
    started = []
    context = multiprocessing.get_context("spawn")
    monkeypatch.setattr(
        multiprocessing,
        "get_context",
        lambda method: started.append(method) or context,  # type: ignore[func-returns-value]
    )
    monkeypatch.setattr(experiments.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    beside = experiments.run_all(names, settings)
    assert started == ["spawn"] and {n: r.key for n, r in beside.items()} == {n: r.key for n, r in alone.items()}
    for name in names:
        assert beside[name].metrics["test"]["n"] == 8
    forbid(monkeypatch)
    assert experiments.run_all([*names, *names], settings) == beside
    with pytest.raises(ConfigError, match="no experiment is called 'posec3d'"):
        experiments.run_all(["posec3d"], settings)
