"""The set-up: what make installs, where and when; what it refuses; that the pins cover what is asked for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.book.building import ROOT, Outcome, run

PIP = "-m pip install --quiet --disable-pip-version-check -e .[{extras}] -c constraints.txt"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A folder with the set-up's files, and an environment whose python only writes down what pip is asked."""
    root = tmp_path / "house"
    root.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    fake_environment(root / "env", root / "asked")
    return root


def fake_environment(folder: Path, asked: Path) -> None:
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\necho "$@" >> {asked}\n[ ! -e {asked}.fail ]\n'
    )
    python.chmod(0o755)
    book = folder / "bin" / "jupyter-book"
    book.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "$VERSION" || echo "built $@" >> {asked}\n')
    book.chmod(0o755)


def make(house: Path, target: str, **changes: str) -> Outcome:
    fixed = {"VIRTUAL_ENV": str(house / "env"), "INSTALL": "", "VERSION": "Jupyter Book      : 1.0.4.post1"}
    return run(["make", target], house, **{**fixed, **changes})


def asked(house: Path) -> list[str]:
    path = house / "asked"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_installs_once_until_something_changes(house: Path) -> None:
    assert make(house, "book").status == 0
    assert asked(house) == [PIP.format(extras="book"), "built build book"]
    assert make(house, "book").status == 0
    assert asked(house) == ["built build book"]

    assert make(house, "install-dev").status == 0
    assert asked(house) == [PIP.format(extras="book,dev")]
    assert make(house, "book").status == 0
    assert asked(house) == ["built build book"], "what the tests need holds what the book needs"

    with (house / "constraints.txt").open("a") as pins:
        pins.write("# changed\n")
    assert make(house, "book").status == 0
    assert asked(house) == [PIP.format(extras="book"), "built build book"]


def test_a_failed_installation_is_tried_again(house: Path) -> None:
    (house / "asked.fail").touch()
    assert make(house, "book").status != 0
    assert asked(house) == [PIP.format(extras="book")]
    (house / "asked.fail").unlink()
    assert make(house, "book").status == 0
    assert asked(house) == [PIP.format(extras="book"), "built build book"]


def test_a_wrong_jupyter_book_is_refused(house: Path) -> None:
    outcome = make(house, "book", VERSION="v2.1.7")
    assert outcome.status != 0
    assert "needs jupyter-book 1.0.4.post1 and found 'v2.1.7'" in outcome.text
    assert "built build book" not in asked(house)


def test_makes_an_environment_only_where_none_is_active(house: Path) -> None:
    def venv(**changes: str) -> str:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CONDA_", "VIRTUAL_ENV", "MAKE"))}
        command = ["make", "-n", "book", f"PYTHON={sys.executable}"]
        done = subprocess.run(command, cwd=house, env={**kept, **changes}, capture_output=True, text=True, check=True)
        found = re.findall(r"-m venv (\S+)", done.stdout)
        return found[0] if found else ""

    env = str(house / "env")
    assert venv() == ".venv"
    assert venv(VIRTUAL_ENV=env) == ""
    assert venv(CONDA_PREFIX=env, CONDA_DEFAULT_ENV="work") == ""
    assert venv(CONDA_PREFIX=env, CONDA_DEFAULT_ENV="base") == ".venv"


def test_an_old_python_is_refused(house: Path) -> None:
    old = house / "old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1"\nexit 1\n')
    old.chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CONDA_", "VIRTUAL_ENV", "MAKE"))}
    command = ["make", "book", f"PYTHON={old}"]
    done = subprocess.run(command, cwd=house, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "needs Python 3.11 to 3.13" in done.stderr and "Python 3.9.1" in done.stderr


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_pins_are_exact_and_cover_what_is_asked_for() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines) and all(re.fullmatch(r"[\w.+!]+", version) for version in pins.values())
    pinned = {normal(name): version for name, version in pins.items()}
    assert not [name for name in pinned if name.startswith(("nvidia", "cuda", "triton"))]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for rows in project["optional-dependencies"].values() for r in rows)]
    names = {normal(re.split(r"[<>=!~\[; ]", requirement)[0]) for requirement in wanted}
    assert names <= set(pinned)
    assert pinned["jupyter-book"] == "1.0.4.post1" and "jupyter-book==1.0.4.post1" in wanted


def test_conda_installs_the_same() -> None:
    told = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in told["dependencies"] if isinstance(entry, dict))
    assert pip == ["-c constraints.txt", "-e .[book,dev]"] and "python=3.11" in told["dependencies"]


def test_ci_runs_what_the_readme_says() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert "set -euo pipefail" in text and re.search(r"^timeout .* make test$", text, re.MULTILINE)
    subprocess.run(["bash", "-n", str(script)], check=True)
