"""The pages to look things up in: equations with functions and tests that are there, words that chapters link to."""

from __future__ import annotations

import ast
import pydoc
import re
from pathlib import Path

import pytest

from migcore import experiments
from migcore.presets import preset

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
CHAPTERS = sorted((ROOT / "notebooks").glob("*.py"))
LABEL = re.compile(r"\$\$ \((eq-[\w-]+)\)$", re.MULTILINE)
TERM = re.compile(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`")


def text(page: str) -> str:
    return (BOOK / f"{page}.md").read_text(encoding="utf-8")


def rows() -> list[list[str]]:
    """Cells of the index's rows: equation, what, chapter, function, tests."""
    found = [line.strip().strip("|").split(" | ") for line in text("equations").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in found if row[0].strip() not in ("equation", "---")]


def terms() -> list[str]:
    """The words that the glossary explains."""
    body = text("glossary").split("```{glossary}\n")[1].split("```")[0]
    return [line for line in body.splitlines() if line and not line.startswith(" ")]


def test_every_equation_is_in_the_index_once_with_its_chapter() -> None:
    chapter = {
        label: path.stem
        for path in CHAPTERS
        for label in LABEL.findall(path.read_text(encoding="utf-8").replace("\n# ", "\n"))
    }
    assert len(chapter) > 20
    listed = {}
    for row in rows():
        for label in re.findall(r"\{eq\}`([\w-]+)`", row[0]):
            assert label not in listed, label
            listed[label] = re.findall(r"\(notebooks/(\w+)\)", row[2])
    assert listed == {label: [name] for label, name in chapter.items()}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_function_and_tests_of_an_equation_are_there(row: list[str]) -> None:
    assert len(row) == 5
    (name,) = re.findall(r"^\{py:\w+\}`~([\w.]+)`$", row[3])
    found = pydoc.locate(name)
    assert callable(found) and found.__doc__
    (file,) = re.findall(r"`(tests/[\w/]+\.py)`:", row[4])
    there = {n.name for n in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(n, ast.FunctionDef)}
    named = set(re.findall(r"`(test_\w+)`", row[4]))
    assert named and named <= there


def test_the_glossary_is_sorted_and_used() -> None:
    found = terms()
    assert len(found) > 30 and found == sorted(found, key=str.casefold)
    everywhere = [*CHAPTERS, *BOOK.glob("*.md")]
    linked = {term for path in everywhere for term in TERM.findall(path.read_text(encoding="utf-8"))}
    assert linked <= set(found), "no such word in the glossary"
    assert set(found) <= linked, "a word that no page links to"


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_links_the_words_that_it_brings_in(chapter: Path) -> None:
    linked = TERM.findall(chapter.read_text(encoding="utf-8"))
    assert len(linked) >= 3 and len(set(linked)) == len(linked), "once per chapter, where the word comes first"


def test_symbols_of_the_code_are_in_the_code() -> None:
    """What the table of symbols calls code occurs in migcore."""
    table = text("notation").split("## Letters of axes")[0]
    cells = [line.split(" | ")[3] for line in table.splitlines() if line.startswith("| $")]
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "migcore").rglob("*.py"))
    names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert len(names) > 20
    for name in names:
        assert re.search(rf"\b{re.escape(name.split('.')[-1])}\b", sources), name


def test_the_command_for_a_class_is_one() -> None:
    (line,) = re.findall(r"^migcore train .*$", text("teaching"), re.MULTILINE)
    _, _, experiment, *options = line.split()
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert experiment in experiments.EXPERIMENTS and set(given) == {"--preset", "--set"}
    field, _, value = given["--set"].partition("=")
    assert preset(given["--preset"], {field: value}).label.endswith(f"{field}={value}")


def test_exercises_say_what_they_take() -> None:
    titles = [t for path in CHAPTERS for t in re.findall(r"\{exercise\} (.+)", path.read_text(encoding="utf-8"))]
    grades = [title.rpartition(" · ")[2] for title in titles]
    assert len(titles) >= 33 and set(grades) == {"pencil", "code", "long"}
