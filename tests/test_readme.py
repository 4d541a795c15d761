"""Each command of the README, run in a copy of the repository under the smoke preset; the environment is this one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.book.building import ROOT, Book, executed, run

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line.strip()]
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]


def test_readme_says_what_to_type() -> None:
    assert "make book" in COMMANDS and "make test" in COMMANDS
    assert any("imigue" in command for command in COMMANDS) and len(PROGRAMS) == 1


def records(root: Path) -> dict[str, tuple[int, str]]:
    found = (root / "runs").rglob("run.json")
    return {path.parent.name: (path.stat().st_mtime_ns, path.read_text()) for path in found}


@pytest.mark.book
@pytest.mark.parametrize("command", COMMANDS)
def test_commands(book: Book, command: str) -> None:
    """Each ends well. The one that points the book at other data also meets a changed plot, and trains nothing."""
    studio = next((book.root / "runs" / "data").glob("studio-*/splits.csv")).parent
    before, elsewhere = records(book.root), "BOOK_SET" in command
    if elsewhere:
        with (book.root / "migcore" / "report" / "plots.py").open("a") as plots:
            plots.write('\n\nCHANGED = "by a test"\n')
    film = studio / "0001" / "0001.mp4"
    small = command.replace("PATH/TO/imigue", str(studio)).replace("FILM.mp4", str(film))
    small = small.replace("FILM.csv", str(film.with_name("0001_light_hand.csv")))
    small = re.sub(r"(BOOK_PRESET=|--preset )\w+", r"\1smoke", small)
    # make test runs this very test: there, a few of the tests stand for all
    some = {"TESTS": "tests/notebooks", "COVER_MIN": "0", "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")}
    outcome = run(small, book.root, PYTHONPATH=str(book.root), **some)
    assert outcome.status == 0, outcome.text[-4000:]
    assert "Traceback" not in outcome.text
    if "make book" in command:
        assert executed(outcome.text) == (executed(book.outcome.text) if elsewhere else [])
    after = records(book.root)
    assert len(before) >= 5 and {name: after.get(name) for name in before} == before
    if not {"tables", "ablate"} & {*command.split()}:  # these make what no chapter does
        assert after == before


@pytest.mark.book
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs(book: Book, program: str) -> None:
    outcome = run(["python", "-c", program], book.root, PYTHONPATH=str(book.root))
    assert outcome.status == 0 and outcome.text.strip(), outcome.text[-4000:]


def test_pictures_and_links_are_there() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README) + re.findall(r"`([\w./-]+/)`", README):
        assert target in ("runs/", "_build/", "results/") or (ROOT / target).exists(), target
    picture = ROOT / "book" / "_static" / "page.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and picture.stat().st_size <= 200 * 1024


def test_the_two_data_pages_agree_on_how_to_point_at_imigue() -> None:
    data = Path(ROOT / "book" / "data.md").read_text(encoding="utf-8")
    command = re.compile(r'BOOK_PRESET=imigue BOOK_SET="data\.root=[^"]+" make book')
    assert command.search(README) and command.search(data)
