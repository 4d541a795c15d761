"""`migcore ablate` and `--init`, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from migcore.models.clip import TeacherConfig, load_teacher
from migcore.presets import preset
from migcore.recipes.student import make_student
from tests.test_cli import SETTINGS, Run, book, run
from tests.test_experiments import write_folder

__all__ = ["book", "run"]  # fixtures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"), films=True)


@pytest.fixture
def arguments(folder: Path) -> list[str]:
    return ["--preset", "smoke", "--data", str(folder), *SETTINGS]


def test_an_ablation_makes_what_is_missing_and_prints_its_table(arguments: list[str], run: Run) -> None:
    status, empty, _ = run("ablate", "limbs", "--no-missing", *arguments)
    assert status == 0 and empty.count("not run yet") == 2
    status, shown, errors = run("ablate", "head", *arguments)
    assert status == 0, errors
    assert "series (preset)" in shown and "parallel" in shown and "not run yet" not in shown
    status, listed, _ = run("runs")
    assert "posec3d_joint_text" in listed and "froster_decay" in listed
    status, again, _ = run("ablate", "head", "--no-missing", *arguments)
    assert again == shown


def test_an_unknown_ablation_is_named(arguments: list[str], run: Run) -> None:
    status, _, errors = run("ablate", "gama", *arguments)
    assert status == 2 and "no ablation is called 'gama'" in errors and "gamma" in errors


def test_a_student_is_started_from_a_file(arguments: list[str], run: Run, tmp_path: Path) -> None:
    teacher = load_teacher(TeacherConfig(precision="fp32"))
    state = make_student(teacher, preset("smoke").student, seed=5).state_dict()
    torch.save({"model_state": {n.replace("clip.", "model.", 1): t for n, t in state.items()}}, tmp_path / "k400.pyth")
    start = ["train", "vclip", *arguments]
    status, plain, errors = run(*start)
    assert status == 0, errors
    status, started, errors = run(*start, "--init", str(tmp_path / "k400.pyth"))
    assert status == 0, errors
    assert plain.splitlines()[-1].split()[0] != started.splitlines()[-1].split()[0]
    status, _, errors = run(*start, "--init", str(tmp_path / "none.pyth"))
    assert status == 2 and "none.pyth" in errors
