"""Notebooks run by themselves from the folder they lie in, as in Jupyter: restart, run all, the preset set to smoke."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.book.building import ROOT, Book, run

NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
QUICK = ("02_preprocessing.ipynb", "07_ensemble.ipynb")
"""Stand for all in `make test`: the one looks at data, the other at runs."""


@pytest.mark.book
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in NOTEBOOKS])
def test_restart_and_run_all(book: Book, name: str, tmp_path: Path) -> None:
    folder, before = book.root / "notebooks", sorted(path.name for path in (book.root / "notebooks").iterdir())
    command = ["papermill", name, str(tmp_path / name), "-p", "preset", "smoke", "--no-progress-bar"]
    outcome = run(command, folder, PYTHONPATH=str(book.root))
    assert outcome.status == 0, outcome.text[-4000:]
    cells = [cell for cell in nbformat.read(tmp_path / name, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells if cell.source.strip())
    assert any(cell.outputs for cell in cells)
    assert sorted(path.name for path in folder.iterdir()) == before, "runs are the checkout's, and nothing stays here"


@pytest.mark.book
@pytest.mark.full
@pytest.mark.parametrize("name", ["08_tables.ipynb", "09_critical_reading.ipynb", "10_field.ipynb"])
def test_with_a_second_seed_in_the_ledger(book: Book, name: str, tmp_path: Path) -> None:
    """Chapters show all seeds that there are; the book of the tests has one."""
    trained = run("migcore train ours --preset smoke --seed 1", book.root, PYTHONPATH=str(book.root))
    assert trained.status == 0, trained.text[-4000:]
    command = ["papermill", name, str(tmp_path / name), "-p", "preset", "smoke", "--no-progress-bar"]
    outcome = run(command, book.root / "notebooks", PYTHONPATH=str(book.root))
    assert outcome.status == 0, outcome.text[-4000:]
    shown = (tmp_path / name).read_text(encoding="utf-8")
    assert "seeds 0, 1" in shown or "2 seeds" in shown
