"""The tiny data set of :mod:`tiny` as a fixture."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import SPLITS, write_video


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folders 0001, 0002, 0003 and a splits file."""
    for video in ("0001", "0002", "0003"):
        write_video(tmp_path / "set", video)
    (tmp_path / "set" / "splits.csv").write_text(SPLITS)
    return tmp_path / "set"
