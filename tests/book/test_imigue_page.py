"""What the page on iMiGUE says to type works, on a studio's folder in its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.book.building import Book, run

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book" / "imigue.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
SETTINGS = sorted(set(re.findall(r"`(--set [\w.=]+|--skip-bad)`", PAGE)))


def test_the_page_has_something_to_type() -> None:
    assert len(COMMANDS) == 9 and sum("PATH/TO/imigue" in command for command in COMMANDS) == 7
    assert len(SETTINGS) == 4
    assert sum("make book" in command for command in COMMANDS) == 1
    assert all(command in README for command in COMMANDS if "make book" in command), "test_readme runs it"


@pytest.mark.book
@pytest.mark.parametrize("command", [command for command in COMMANDS if "make book" not in command])
def test_commands(book: Book, command: str) -> None:
    studio = next((book.root / "runs" / "data").glob("studio-*/splits.csv")).parent
    small = re.sub(r"(BOOK_PRESET=|--preset )\w+", r"\1smoke", command.replace("PATH/TO/imigue", str(studio)))
    outcome = run(small, book.root, PYTHONPATH=str(book.root))
    assert outcome.status == 0 and "Traceback" not in outcome.text, outcome.text[-4000:]
    if "doctor" in command:
        assert "findings: 0 errors" in outcome.text and "skeleton.layout=imigue22" in outcome.text
    if " train " in command:
        assert re.search(r"^test: top1 ", outcome.text, re.M)
    if " tables " in command:
        assert len(re.findall(r"^Runs: \w", outcome.text, re.M)) == 3, outcome.text[-4000:]


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_are_known(setting: str) -> None:
    from migcore.presets import preset

    if setting == "--skip-bad":
        setting = "--set data.skip_bad=true"
    name, value = setting.removeprefix("--set ").split("=")
    assert preset("imigue", {name: value}) != preset("imigue")
