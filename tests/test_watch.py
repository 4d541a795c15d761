"""The progress bar of runs that are made elsewhere: what it counts, and where it is shown."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill
import pytest
import torch

from migcore import watch
from migcore.resume import Epochs, Progress, epochs_made, save_checkpoint

ROOT = Path(__file__).resolve().parents[1]


def checkpoint(folder: Path, epochs: int, loss: float = 1.5) -> None:
    """What a training of four epochs leaves after some of them."""
    model = torch.nn.Linear(2, 2)
    progress = Progress(step=3 * epochs, history=[{"epoch": i + 1, "loss": loss} for i in range(epochs)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_checkpoint(folder, model, optimizer, progress, {"config": {"epochs": 4}, "seed": 0})


def test_epochs_are_read_from_the_newest_checkpoint(tmp_path: Path) -> None:
    assert epochs_made(tmp_path / "nowhere") is None
    checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 2, loss=0.5)
    assert epochs_made(tmp_path) == Epochs(2, 4, 0.5)


def test_a_file_in_the_making_says_nothing(tmp_path: Path) -> None:
    checkpoint(tmp_path, 0)
    assert epochs_made(tmp_path) is None  # cut off within the first epoch
    (tmp_path / "step-00000009.safetensors").write_bytes(b"\x10")
    assert epochs_made(tmp_path) is None


def test_elsewhere_nothing_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with watch.watched({"a": tmp_path}):
        pass
    assert capsys.readouterr() == ("", "")


def test_the_bar_adds_up_the_runs_and_remembers_those_that_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = io.StringIO()
    monkeypatch.setattr(watch, "in_notebook", lambda: True)
    monkeypatch.setattr(watch, "INTERVAL", 0.02)
    monkeypatch.setattr(sys, "stderr", told)
    folders = {"joints": tmp_path / "a", "limbs": tmp_path / "b"}
    with watch.watched(folders):
        checkpoint(folders["joints"], 4, loss=0.25)
        checkpoint(folders["limbs"], 1)
        for _ in range(500):
            if "5/8 epochs" in told.getvalue():
                break
            time.sleep(0.02)
        for file in folders["joints"].iterdir():
            file.unlink()
        checkpoint(folders["limbs"], 3)
        for _ in range(500):
            if "7/8 epochs" in told.getvalue():
                break
            time.sleep(0.02)
    assert "7/8 epochs" in told.getvalue()
    last = told.getvalue().rstrip("\n").rpartition("\r")[2]
    assert last.startswith("joints, limbs: 8/8 epochs"), "whoever has come to the end has made them all"
    assert "joints=loss 0.25" in last and "limbs=loss 1.50" in last


def test_a_body_that_fails_ends_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "in_notebook", lambda: True)
    with pytest.raises(ValueError, match="no"), watch.watched({"a": tmp_path}):
        raise ValueError("no")


def test_ipython_on_a_terminal_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    for config, found in (({"IPKernelApp": {}}, True), ({}, False)):
        shell = SimpleNamespace(config=config)
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))  # type: ignore[arg-type]
        assert watch.in_notebook() is found


def test_a_training_in_a_notebook_shows_its_epochs_and_no_warning(tmp_path: Path) -> None:
    """As in Jupyter: a cell that trains shows the bar, whether it trains here or in processes beside."""
    small = {"train_posec3d.epochs": "2", "posec3d.base_channels": "4", "studio.train_clips": "48"}
    cells = [
        f"from migcore import experiments, presets, watch\nsmall = presets.preset('smoke', {small})",
        "watch.INTERVAL = 0.02  # an epoch is over in no time",
        "experiments.run('posec3d_joint', small, seed=1)",
        "experiments.run_all(['posec3d_joint', 'posec3d_limb'], small)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "a.ipynb")
    papermill.execute_notebook(
        str(tmp_path / "a.ipynb"), str(tmp_path / "a.ipynb"), cwd=str(tmp_path), progress_bar=False
    )
    done = nbformat.read(tmp_path / "a.ipynb", as_version=4).cells
    shown = ["".join(o.text for o in cell.outputs if o.get("name") == "stderr") for cell in done]
    assert shown[0] == ""
    assert "posec3d_joint: 2/2 epochs" in shown[2] and "posec3d_joint, posec3d_limb: 4/4 epochs" in shown[3]
    assert "IProgress" not in "".join(shown)
