"""What an experiment needs of the data is asked before anything is trained, and a fold stands for a missing split."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migcore import experiments
from migcore.data.imigue import AbsentClassWarning
from migcore.errors import ConfigError, DataError
from migcore.presets import Preset, preset
from migcore.recipes.needs import NothingJudgedWarning
from tests.test_experiments import FakeTeacher, forbid, small, write_folder
from tests.test_experiments import runs as _runs

__all__ = ["_runs"]  # a fixture

ALL = tuple(experiments.EXPERIMENTS)
TRAINED = tuple(n for n in ALL if n != "zero_shot")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects a split, with films."""
    return write_folder(tmp_path_factory.mktemp("whole"), films=True)


def edited(whole: Path, root: Path, old: str, new: str, *unlabelled: str) -> Path:
    """A copy with other rows in splits.csv, and with pre-cut clips in place of the labels of some videos."""
    shutil.copytree(whole, root)
    rows = root / "splits.csv"
    rows.write_text(rows.read_text().replace(old, new))
    for video in unlabelled:
        (root / "clips").mkdir(exist_ok=True)
        shutil.copy(root / video / f"{video}.mp4", root / "clips" / f"{video}_0.mp4")
        (root / video / f"{video}_label.csv").unlink()
        (root / video / f"{video}_light_hand.csv").unlink()
    return root


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing may be trained, no teacher loaded and no process started."""
    forbid(monkeypatch)

    def no(*_: Any, **__: Any) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr("migcore.recipes.clip.load_teacher", no)
    monkeypatch.setattr("migcore.recipes.student.load_teacher", no)
    monkeypatch.setattr("migcore.recipes.baselines.load_teacher", no)
    monkeypatch.setattr("migcore.studio.probes.SkeletonProbe", no)
    monkeypatch.setattr("migcore.studio.probes.FilmProbe", no)
    monkeypatch.setattr(experiments, "ProcessPoolExecutor", no)
    yield


def refused(name: str, settings: Preset) -> str:
    """What is said on asking for a run, in every way in which one can be asked for; nothing is left in the ledger."""
    told = set()
    for ask in (
        lambda: experiments.run(name, settings),
        lambda: experiments.run(name, settings, weights=True),
        lambda: experiments.run_all([name, "zero_shot"], settings),
        lambda: experiments.run_many([("posec3d_joint", settings), (name, settings)], weights=True),
    ):
        with pytest.raises(DataError) as caught:
            ask()
        told.add(str(caught.value))
    assert not list(experiments.runs_folder().glob("*-seed*"))
    return told.pop() if len(told) == 1 else " / ".join(sorted(told))


@pytest.mark.usefixtures("untrained")
def test_the_search_needs_validation_clips(whole: Path, tmp_path: Path) -> None:
    root = edited(whole, tmp_path / "set", ",val,", ",train,")
    told = refused("ours", small(root))
    assert told.startswith(f"{root}: ours needs labelled clips of split val") and "there are none" in told
    assert str(root / "splits.csv") in told and "--set data.fold=1/4 " in told  # there are four training subjects


@pytest.mark.usefixtures("untrained")
def test_validation_clips_without_labels_are_as_none(whole: Path, tmp_path: Path) -> None:
    root = edited(whole, tmp_path / "set", "", "", "0003", "0004")
    told = refused("ours", small(root))
    assert "none of its 2 clips has a label" in told and "Add 0003_label.csv, or list its videos as test" in told
    assert "and hold out training subjects: --set data.fold=1/2 " in told


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("name", TRAINED)
def test_training_needs_training_clips(name: str, whole: Path, tmp_path: Path) -> None:
    root = edited(whole, tmp_path / "set", ",train,", ",test,")
    told = refused(name, small(root))
    assert "needs clips of split train, and there are none" in told and str(root / "splits.csv") in told


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("name", TRAINED)
def test_every_training_clip_has_a_label(name: str, whole: Path, tmp_path: Path) -> None:
    root = edited(whole, tmp_path / "set", "", "", "0002")
    told = refused(name, small(root))
    assert "0002: has no 0002_label.csv. Add it" in told or "clips: has no 0002_label.csv. Add it" in told


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("name", [n for n, e in experiments.EXPERIMENTS.items() if not e.weights])
def test_what_only_judges_needs_clips_to_judge(name: str, whole: Path, tmp_path: Path) -> None:
    root = edited(whole, tmp_path / "set", ",val,", ",train,")
    (root / "splits.csv").write_text((root / "splits.csv").read_text().replace(",test,", ",train,"))
    told = refused(name, small(root))
    assert ("needs labelled clips of split val" if name == "ours" else f"{name} has nothing to judge") in told
    assert "--set data.fold=1/5 (1/5 to 5/5 together are a cross-validation)" in told


def test_a_network_trained_on_all_clips_is_told_to_be_judged_on_none(whole: Path, tmp_path: Path) -> None:
    root = edited(whole, tmp_path / "set", ",val,", ",train,")
    (root / "splits.csv").write_text((root / "splits.csv").read_text().replace(",test,", ",train,"))
    with pytest.warns(NothingJudgedWarning, match=r"posec3d_joint will have weights and no numbers\. List videos"):
        run = experiments.run("posec3d_joint", small(root, train_posec3d__epochs=1))
    assert run.metrics == {} and experiments.has_weights(run)


@pytest.mark.usefixtures("untrained")
def test_a_probe_needs_subjects_to_hold_out(whole: Path, tmp_path: Path) -> None:
    root = edited(whole, tmp_path / "set", "P1\n", "P0\n")
    told = refused("linear_probe", small(root))
    assert "split train has one subject" in told and "data.fold" not in told
    with pytest.raises(ConfigError, match=r"probe\.held_out=0\.8 of 2 training subjects leaves none to train on"):
        experiments.run("linear_probe", small(whole, probe__held_out=0.8))


@pytest.mark.usefixtures("untrained")
def test_the_small_probes_need_a_batch(whole: Path) -> None:
    for name in ("difficulty_skeleton", "difficulty_film"):
        assert "learns from batches of 32 clips, and split train has 8" in refused(name, small(whole))


def test_a_probe_takes_videos_for_subjects_that_are_not_known(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migcore.recipes.clip.load_teacher", lambda config: FakeTeacher())
    root = edited(whole, tmp_path / "set", "train,P0", "train,")
    (root / "splits.csv").write_text((root / "splits.csv").read_text().replace("train,P1", "train,"))
    assert experiments.run("linear_probe", small(root)).metrics["val"]["n"] == 8


def test_other_experiments_do_without_validation(whole: Path, tmp_path: Path) -> None:
    root = edited(whole, tmp_path / "set", ",val,", ",train,")
    run = experiments.run("posec3d_fusion", small(root, train_posec3d__epochs=1))
    assert set(run.metrics) == {"test"} and run.metrics["test"]["n"] == 8


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("name", ["posec3d_limb", "stgcn", "dscnet_sparse"])
@pytest.mark.parametrize("video", ["0001", "0003", "0005"])
def test_damage_in_any_split_is_told_before_training(name: str, video: str, whole: Path, tmp_path: Path) -> None:
    root = edited(whole, tmp_path / "set", "", "")
    path = root / video / f"{video}_light_hand.csv"
    path.write_text(path.read_text().replace("0.900", "nine", 1))
    with pytest.raises(DataError, match=rf"{video}_light_hand\.csv, row"):
        experiments.run(name, small(root))


# --------------------------------------------------------------------------------------------------------------- folds


def test_a_fold_stands_for_the_missing_split(whole: Path, tmp_path: Path) -> None:
    root = edited(whole, tmp_path / "set", ",val,", ",train,")
    found = {}
    for k in (1, 2, 3, 4):
        settings = small(root, train_posec3d__epochs=1, data__fold=f"{k}/4")
        assert f"+data.fold={k}/4" in settings.label
        run = experiments.run("posec3d_joint", settings)
        found[run.key] = run.clips["val"]["ids"]
        assert run.metrics["val"]["n"] == 4 and run.metrics["test"]["n"] == 8
        again = experiments.lookup("posec3d_joint", settings, 0, experiments.dataset(settings))
        assert again == run and not again.stale
    assert len(found) == 4, "the clips that are held out are part of the key"
    assert sorted(np.concatenate(list(found.values()))) == [f"000{v}_{k}" for v in (1, 2, 3, 4) for k in range(4)]
    plain = experiments.dataset(small(root))
    folded = [experiments.identity(experiments.dataset(small(root, data__fold=f"{k}/4"))) for k in (1, 2)]
    assert len({experiments.identity(plain), *folded}) == 3


def test_a_fold_of_data_with_a_validation_split_is_refused(whole: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.fold=1/2, but there is a validation split.*Leave data\.fold out"):
        experiments.run("ours", small(whole, data__fold="1/2"))
    with pytest.raises(ConfigError, match=r"data\.fold cannot be '3/2'"):
        small(whole, data__fold="3/2")


def test_more_parts_than_subjects_are_refused(whole: Path, tmp_path: Path) -> None:
    root = edited(whole, tmp_path / "set", ",val,", ",train,")
    with pytest.raises(ConfigError, match=r"data\.fold=1/5, but the number of training subjects is 4"):
        experiments.dataset(small(root, data__fold="1/5"))


def test_absent_classes_are_those_of_the_folds_splits(whole: Path, tmp_path: Path) -> None:
    root = edited(whole, tmp_path / "set", ",val,", ",train,")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        experiments.dataset(small(root, data__fold="1/4"))
    told = [str(w.message) for w in caught if w.category is AbsentClassWarning]
    assert [split in text for split, text in zip(("train", "val", "test"), told, strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("search.step", 0.3, "a step of 0.3"),
        ("search.step", 0.0005, "take a larger step"),
        ("probe.held_out", 1, "probe.held_out=1.0"),
        ("probe.held_out", 0, "probe.held_out=0.0"),
        ("probe.l2", [], "one penalty or more"),
        ("probe.l2", [-1], "each 0 or more"),
        ("probe.iterations", 0, "at least 1"),
    ],
)
def test_numbers_that_end_in_nothing_are_told_before_training(field: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preset("smoke", {field: value})
