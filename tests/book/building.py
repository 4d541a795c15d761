"""Build and run this repository from tests: copies of it, commands with a known environment, a book that was built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

GENERATED = (".git", ".venv", "_build", "runs", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", ".coverage*")


def copy_repository(target: Path) -> Path:
    """A copy of the checkout without what use has made of it."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*GENERATED))
    shutil.rmtree(target / "book" / "notebooks", ignore_errors=True)
    return target


def environment(**changes: str) -> dict[str, str]:
    """This process's environment for a command: the same interpreter first, nothing installed, preset smoke."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("BOOK_", "MIGCORE_", "MAKE", "CONDA_", "COV_", "PYTEST_"))
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    fixed = {"VIRTUAL_ENV": sys.prefix, "PATH": path, "INSTALL": "no", "BOOK_PRESET": "smoke", "NO_COLOR": "1"}
    return {**kept, **fixed, **changes}


@dataclass(frozen=True)
class Outcome:
    """How a command went: exit status, both outputs together, seconds."""

    status: int
    text: str
    seconds: float


def run(command: list[str] | str, root: Path, **changes: str) -> Outcome:
    """Run a command in a folder, with :func:`environment`."""
    start = time.monotonic()
    done = subprocess.run(
        command, cwd=root, shell=isinstance(command, str), env=environment(**changes), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1200, check=False,
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, time.monotonic() - start)


def executed(text: str) -> list[str]:
    """Names of the notebooks that a build says it ran."""
    return re.findall(r"notebooks/(\w+)\.py: running", text)


@dataclass(frozen=True)
class Book:
    """The book, built: its copy of the repository, the pages, and what the build said."""

    root: Path
    outcome: Outcome

    @property
    def html(self) -> Path:
        return self.root / "_build" / "html"
