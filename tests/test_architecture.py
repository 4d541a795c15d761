"""The layers of the package hold, and every module stands in one."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_a_layer_imports_only_those_under_it() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "1 kept, 0 broken" in done.stdout, done.stdout + done.stderr


def test_no_module_stands_outside_the_layers() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = {name.strip() for layer in contract["layers"] for name in layer.replace("|", ":").split(":")}
    found = {f"migcore.{path.stem}" for path in (ROOT / "migcore").iterdir() if path.suffix == ".py"}
    found |= {f"migcore.{path.parent.name}" for path in (ROOT / "migcore").glob("*/*.py")}
    assert found - {"migcore.__init__", "migcore.__main__"} == layers
