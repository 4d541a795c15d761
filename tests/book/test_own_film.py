"""What the page on films of one's own says to type works, on a film of the studio, with the weights the book made."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from tests.book.building import Book, run

PAGE = (Path(__file__).resolve().parents[2] / "book" / "own_film.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_page_has_something_to_type() -> None:
    assert len(COMMANDS) == 4 and len(PROGRAMS) == 1
    assert sum("predict" in command for command in COMMANDS) == 3


@pytest.mark.book
@pytest.mark.parametrize("command", COMMANDS)
def test_commands(book: Book, command: str) -> None:
    film = next((book.root / "runs" / "data").glob("studio-*/0001/0001.mp4"))
    command = command.replace("--preset laptop", "").replace("FILM.mp4", str(film))
    command = command.replace("FILM.csv", str(film.with_name("0001_light_hand.csv")))
    outcome = run(f"{command} --preset smoke", book.root, PYTHONPATH=str(book.root))
    assert outcome.status == 0 and "Traceback" not in outcome.text, outcome.text[-4000:]
    if "predict" in command:
        assert re.search(r"^ +0\.00 - 2\.00 s  \w.* \d+ %", outcome.text, re.M)
        assert "nothing" in outcome.text.split("note: ")[1]  # the studio's weights say so themselves
    if "--labels" in command:
        assert "touch nose" in outcome.text and "calm" in outcome.text
    if "--out" in command:
        rows = list(csv.DictReader((book.root / "answers" / "0001.csv").open()))
        assert len(rows) > 3 and len(rows[0]) == 3 + 32 and (book.root / "answers" / "0001.png").stat().st_size > 5000


@pytest.mark.book
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs(book: Book, program: str) -> None:
    outcome = run(["python", "-c", program.replace('"laptop"', '"smoke"')], book.root, PYTHONPATH=str(book.root))
    assert outcome.status == 0 and "means nothing" in outcome.text, outcome.text[-4000:]
