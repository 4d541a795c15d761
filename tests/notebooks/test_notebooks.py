"""The chapters' sources: what each must have, and that its pair is what it says."""

from __future__ import annotations

import ast
from pathlib import Path

import jupytext
import nbformat
import paperbook_pair
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
SCREEN = 40
"""Lines that a function of a notebook may have."""


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def source(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_there_are_chapters() -> None:
    toc = (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8")
    assert SOURCES and all(f"notebooks/{path.stem}\n" in toc for path in SOURCES)
    assert toc.count("notebooks/") == len(SOURCES)


def test_header_and_parameters(source: Path) -> None:
    notebook = jupytext.read(source, fmt="py:percent")
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.jupytext.formats == "ipynb,py:percent"
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1
    assignments = [node for node in ast.parse(cells[0].source).body if isinstance(node, ast.Assign)]
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in assignments}  # type: ignore[attr-defined]
    assert values == {"preset": "laptop", "seed": 0, "overrides": {}}
    assert all("  # " in line for line in cells[0].source.splitlines()), "each parameter is explained beside it"


def test_round_trip(source: Path) -> None:
    notebook = jupytext.read(source, fmt="py:percent")
    again = jupytext.reads(jupytext.writes(notebook, fmt="py:percent"), fmt="py:percent")
    assert [(c.cell_type, c.source, c.metadata) for c in again.cells] == [
        (c.cell_type, c.source, c.metadata) for c in notebook.cells
    ]


def test_pair_is_current_and_holds_no_outputs(source: Path) -> None:
    pair = source.with_suffix(".ipynb")
    assert pair.exists(), "run `make notebooks`"
    found = nbformat.read(pair, as_version=4)
    nbformat.validate(found)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in found.cells)
    wanted = nbformat.writes(paperbook_pair.paired(source, *paperbook_pair.repository(ROOT))) + "\n"
    assert pair.read_text(encoding="utf-8") == wanted, "run `make notebooks`"


def test_pairs_without_a_source_are_not_left_behind() -> None:
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == {path.stem for path in SOURCES}


def test_notebooks_call_and_do_not_build(source: Path) -> None:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert classes == []
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno + 1 > SCREEN]
    assert long == []


def test_pages_are_built_alike(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    cells = jupytext.read(source, fmt="py:percent").cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert "{cite}`wang2024multimodal`" in cells[0].source, "the first cell names the paper"
    for heading in ("## Summary", "## Exercises", "## Used here"):
        assert f"# {heading}\n" in text
    exercises = text.count("{exercise}")
    assert 3 <= exercises <= 5
    assert text.count("{solution-start}") == text.count("{solution-end}") == exercises
    assert text.count(":class: dropdown\n# ````\n") == exercises, "solutions are hidden"


def test_an_address_adds_the_installation_and_nothing_else(source: Path) -> None:
    plain = paperbook_pair.paired(source, "", "main")
    told = paperbook_pair.paired(source, "https://github.com/someone/something", "dev")
    assert "migcore @ git+https://github.com/someone/something@dev" in told.cells[0].source
    assert 'find_spec("migcore") is None' in told.cells[0].source
    assert [c.source for c in told.cells[1:]] == [c.source for c in plain.cells]


def test_the_address_is_read_from_one_place(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["repository"]["url"] = "https://github.com/someone/something/"
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_a.py").write_text("# %%\n1\n")
    assert [path.name for path in paperbook_pair.write_all(tmp_path)] == ["01_a.ipynb"]
    assert "git+https://github.com/someone/something@main" in (tmp_path / "notebooks" / "01_a.ipynb").read_text()
    assert paperbook_pair.write_all(tmp_path) == []  # nothing changes that did not change
