"""One book for all tests that look at it, built under the smoke preset; and which tests share a process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "book" / "_ext")]

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is there: processes beside each other share the cores
    share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(share))

from tests.book.building import Book, copy_repository, run  # noqa: E402

LOOK_AT_THE_BOOK = (
    "test_book", "test_browser", "test_by_themselves", "test_imigue_page", "test_numbers", "test_own_film",
    "test_readme",
)  # fmt: skip


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """A file's tests run in one process, and so do all that look at the book: what they share is made once."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.split("::")[0])
        return "book" if file.stem in LOOK_AT_THE_BOOK else str(file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """How `pytest -n` deals the tests out."""
    return ByFile(config, log)


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    """The whole book under the smoke preset, warnings as errors, in a copy of the repository: built once."""
    root = copy_repository(tmp_path_factory.mktemp("book") / "repository")
    outcome = run("make book", root, BOOK_FLAGS="-W --keep-going")
    assert outcome.status == 0, outcome.text[-6000:]
    return Book(root, outcome)
