"""Write ``notebooks/NN.ipynb``, the copies that Colab and Binder open, from the sources ``notebooks/NN.py``.

The copies hold no outputs, and their cell ids follow from the file's name and the cell's number, so that writing them
anew changes nothing that did not change. With a repository address in ``_config.yml`` each begins with a cell that
installs migcore where it is missing (Colab).
"""

from __future__ import annotations

import os
from pathlib import Path

import jupytext
import nbformat
import yaml

INSTALL = """\
import importlib.util

if importlib.util.find_spec("migcore") is None:
    %pip install --quiet "migcore @ git+{url}@{branch}"
"""


def repository(root: Path) -> tuple[str, str]:
    """Address and branch in ``_config.yml``; the address is empty while there is none."""
    told = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8")).get("repository", {})
    return str(told.get("url") or "").rstrip("/"), str(told.get("branch") or "main")


def paired(source: Path, url: str, branch: str) -> nbformat.NotebookNode:
    """The notebook of a py:percent file, without outputs.

    Args:
        source: ``notebooks/NN.py``.
        url: the repository's address, or "".
        branch: the branch to install from.
    """
    notebook = jupytext.read(source, fmt="py:percent")
    if url:
        install = nbformat.v4.new_code_cell(
            INSTALL.format(url=url, branch=branch).rstrip(), metadata={"tags": ["colab"]}
        )
        notebook.cells.insert(0, install)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{source.stem.replace('_', '-')}-{number}"
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
    return notebook


def write_all(root: Path) -> list[Path]:
    """Write every pair; returns the files whose content changed."""
    url, branch = repository(root)
    changed = []
    for source in sorted((root / "notebooks").glob("*.py")):
        text = nbformat.writes(paired(source, url, branch)) + "\n"
        target = source.with_suffix(".ipynb")
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            partial = target.with_name(f".{target.name}.partial")
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, target)
            changed.append(target)
    return changed


if __name__ == "__main__":
    for path in write_all(Path(__file__).resolve().parents[2]):
        print(f"wrote notebooks/{path.name}")
