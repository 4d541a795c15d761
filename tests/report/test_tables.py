"""The tables print the paper's numbers and the ledger's, and never one in the place of the other."""

from __future__ import annotations

import hashlib
import html.parser
import re
from pathlib import Path

import numpy as np
import pytest

from migcore import experiments, metrics
from migcore.ledger import Ledger, Run, source_hash
from migcore.presets import Preset, preset
from migcore.report import tables
from migcore.report.tables import NOT_RUN, PAPER_TABLE1, Table

ROOT = Path(__file__).resolve().parents[2]
SMOKE, WORKSTATION = preset("smoke"), preset("workstation")


@pytest.fixture(autouse=True)
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """An empty ledger; nothing of the machine's data is at hand."""
    book = Ledger(tmp_path / "runs", tmp_path / "results")
    monkeypatch.setenv("MIGCORE_RUNS", str(book.runs))
    monkeypatch.setattr(experiments, "ledger", lambda: book)
    return book


def add(
    book: Ledger, name: str, config: Preset, seed: int = 0, *, data: str = "d", right: float = 0.5, **values: object
) -> Run:
    """A run whose first clips are right, up to a share, and the rest wrong; four subjects."""
    labels = np.arange(40) % 32
    logits = np.zeros((40, 32), np.float32)
    logits[np.arange(40), np.where(np.arange(40) < 40 * right, labels, (labels + 1) % 32)] = 1
    modules = list(experiments.EXPERIMENTS[name].modules)
    fields: dict[str, object] = {
        "key": hashlib.sha256(f"{name} {config.label} {seed} {data}".encode()).hexdigest()[:16],
        "experiment": name,
        "preset": config.label,
        "seed": seed,
        "config": experiments._resolved(name, config, seed),
        "data": data,
        "code": source_hash(modules),
        "modules": modules,
        "metrics": {"test": metrics.classification(logits, labels)},
        "clips": {"test": {"ids": [f"0001_{i}" for i in range(40)], "subjects": [f"P{i % 4}" for i in range(40)]}},
        "created": f"2024-01-0{seed + 1}T00:00:00+00:00",
        "device": "cpu (1 threads)",
        "commit": "abcdef0123",
    }
    run = Run(**{**fields, **values})  # type: ignore[arg-type]
    return book.save(run, {"test.logits": logits, "test.labels": labels})


def printed(title: str) -> list[list[float]]:
    """Numbers of a table of the paper, read from the page they were printed on."""
    text = (ROOT / "tests" / "report" / "paper_tables.txt").read_text(encoding="utf-8")
    block = text.split(f"{title}\n", 1)[1].strip().split("\n\n", 1)[0]
    return [[float(cell) for cell in re.findall(r"(?<=\t)\d+\.\d+|^\d+\.\d+", row)] for row in block.splitlines()[1:]]


def test_the_papers_numbers_are_as_printed() -> None:
    assert [[m.top1, m.top5] for m in PAPER_TABLE1] == printed("Table 1")
    assert [list(row) for row in tables.PAPER_TABLE2] == printed("Table 2")
    assert [list(row[2:]) for row in tables.PAPER_TABLE3] == printed("Table 3")


def test_the_tables_are_tied() -> None:
    """Table 1's FROSTER is Table 3's first row, Table 2's RGB is Table 3's second, its best is Table 1's Ours."""
    by_name = {m.name: m.top1 for m in PAPER_TABLE1}
    assert by_name["Froster clip"] == tables.PAPER_TABLE3[0][2]
    assert tables.PAPER_TABLE2[0][3] == tables.PAPER_TABLE3[1][2]
    assert max(row[3] for row in tables.PAPER_TABLE2) == by_name["Ours"]


def test_without_runs_every_row_says_so() -> None:
    table = tables.table1(SMOKE)
    assert len(table.rows) == 12 and table.divider == 9
    assert all(row.count(NOT_RUN) == 2 for row in table.rows)
    for table, count in ((tables.table2(SMOKE), 9), (tables.table3(SMOKE), 2)):
        assert [row[-1] for row in table.rows] == [NOT_RUN] * count


def test_our_numbers_come_from_the_runs(book: Ledger) -> None:
    run = add(book, "posec3d_joint", SMOKE)
    row = tables.table1(SMOKE).rows[2]
    assert row[:4] == ["PoseC3D", "Skeleton+Joint", "59.54", "89.59"] and row[6:] == [NOT_RUN, ""]
    logits = book.load_arrays(run, "test")
    right = metrics.correct(logits["logits"], logits["labels"])
    interval = metrics.bootstrap_interval(right, np.arange(40) % 4, rng=np.random.default_rng(0))
    assert row[4] == f"50.00 [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    assert row[5] == f"{100 * run.metrics['test']['top5']:.2f}"
    text = tables.table1(SMOKE).to_text()
    assert run.key in text and "commit abcdef0123" in text and "2024-01-01" in text and "cpu" in text


def test_seeds_are_averaged_and_missing_ones_counted(book: Ledger) -> None:
    add(book, "posec3d_joint", SMOKE, 0, right=0.5)
    add(book, "posec3d_joint", SMOKE, 1, right=0.75)
    assert tables.table1(SMOKE, (0, 1)).rows[2][4].startswith("62.50 [")
    assert tables.table1(SMOKE, (0, 1, 2)).rows[2][4].endswith("] (2 of 3 seeds)")
    assert "seeds 0, 1" in tables.table1(SMOKE, (0, 1)).columns[4]


def test_other_presets_stay_in_their_own_column(book: Ledger) -> None:
    add(book, "posec3d_limb", WORKSTATION, right=0.9)
    add(book, "posec3d_limb", preset("smoke", {"train_posec3d.lr": 0.2}), right=0.1)
    row = tables.table1(SMOKE).rows[3]
    assert row[4] == NOT_RUN and row[6].startswith("90.00") and "(1 of 3 seeds)" in row[6]
    alone = tables.table1(WORKSTATION)
    assert len(alone.columns) == 6 and alone.rows[3][4].startswith("90.00")


def test_different_data_never_share_a_column(book: Ledger) -> None:
    add(book, "posec3d_joint", SMOKE, data="old", created="2023-01-01")
    add(book, "posec3d_limb", SMOKE, data="new", created="2024-01-01")
    rows = tables.table1(SMOKE).rows
    assert rows[2][4] == NOT_RUN and rows[3][4].startswith("50.00")


def test_an_older_version_is_marked(book: Ledger) -> None:
    add(book, "posec3d_joint", SMOKE, code="0" * 64)
    table = tables.table1(SMOKE)
    assert table.rows[2][4].endswith("†") and "† recorded with an older version" in table.to_text()
    add(book, "posec3d_limb", SMOKE)
    assert not tables.table1(SMOKE).rows[3][4].endswith("†")


def test_one_subject_gives_no_interval(book: Ledger) -> None:
    add(book, "posec3d_joint", SMOKE, clips={"test": {"ids": ["x"] * 40, "subjects": ["P"] * 40}})
    assert tables.table1(SMOKE).rows[2][4] == "50.00"


def test_seedless_experiments_have_one_run(book: Ledger, tmp_path: Path) -> None:
    add(book, "zero_shot", SMOKE)
    assert tables.table1(SMOKE, (5, 6)).rows[10][4].startswith("50.00 [")


class Cells(html.parser.HTMLParser):
    """Collects the scopes of heads and the text of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.scopes: list[str | None] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "th":
            self.scopes.append(dict(attrs).get("scope"))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_markdown_and_text_show_the_same_cells() -> None:
    table = Table("tab-x", "What <it> shows", ["a|b", "c"], [["1 & 2", "<3"], ["4", ""]], notes=["A note."], divider=1)
    page = Cells()
    page.feed(table._repr_html_())
    assert page.scopes == ["col", "col", "row", "row"]
    assert page.text == ["What <it> shows", "a|b", "c", "1 & 2", "<3", "4", "A note."]
    lines = table._repr_markdown_().splitlines()
    assert lines[:2] == [":::{table} What <it> shows", ":name: tab-x"] and lines[3] == "| a\\|b | c |"
    assert lines[5:8] == ["| 1 & 2 | <3 |", "| 4 |  |", ":::"] and "A note." in lines[9]
    assert table.to_text().splitlines() == [
        "What <it> shows", "a|b    c", "---------", "1 & 2  <3", "---------", "4", "A note.",
    ]  # fmt: skip


def test_names_are_those_that_pages_refer_to() -> None:
    made = tables.table1(SMOKE), tables.table2(SMOKE), tables.table3(SMOKE)
    assert [table.name for table in made] == ["tab-1", "tab-2", "tab-3"]
