"""One book for all tests that look at it, built under the smoke preset."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "book" / "_ext")]

from tests.book.building import Book, copy_repository, run  # noqa: E402


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    """The whole book under the smoke preset, warnings as errors, in a copy of the repository: built once."""
    root = copy_repository(tmp_path_factory.mktemp("book") / "repository")
    outcome = run("make book", root, BOOK_FLAGS="-W --keep-going")
    assert outcome.status == 0, outcome.text[-6000:]
    return Book(root, outcome)
