"""The numbers of results on every page that has them, against the ledger's, computed anew from logits and labels."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bs4 import BeautifulSoup
from safetensors.numpy import load_file

from migcore import reference
from migcore.presets import preset
from migcore.report import ablations, tables
from tests.book.building import Book

pytestmark = pytest.mark.book


@dataclass(frozen=True)
class Results:
    """Pages and ledger of the smoke book.

    Attributes:
        html: folder of the pages.
        runs: record and folder of each experiment's run with the page's preset and seed.
    """

    html: Path
    runs: dict[str, tuple[dict[str, Any], Path]]

    def logits(self, experiment: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        arrays = load_file(self.runs[experiment][1] / "arrays.safetensors")
        return arrays[f"{split}.logits"], arrays[f"{split}.labels"]

    def percent(self, experiment: str, metric: str = "top1", split: str = "test") -> float:
        return 100 * reference.classification(*self.logits(experiment, split))[metric]

    def rows(self, page: str, *heads: str) -> list[list[str]]:
        """Cells of the only table of a page whose heads begin with these."""
        found = [t for t in self.tables[page] if all(c.startswith(h) for c, h in zip(t[0], heads, strict=False))]
        assert len(found) == 1, (page, heads, [t[0] for t in self.tables[page]])
        return found[0][1:]

    @cached_property
    def tables(self) -> dict[str, list[list[list[str]]]]:
        found = {}
        for path in (self.html / "notebooks").glob("*.html"):
            soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
            found[path.stem] = [
                [[cell.get_text().strip() for cell in row.find_all(["td", "th"])] for row in table.find_all("tr")]
                for table in soup.select(".bd-article table")
            ]
        return found


@pytest.fixture(scope="module")
def results(book: Book) -> Results:
    runs = {}
    built = (book.root / "book" / "notebooks" / "08_tables.ipynb").stat().st_mtime  # other tests make runs after it
    for path in (book.root / "runs").glob("*/run.json"):
        run = json.loads(path.read_text(encoding="utf-8"))
        made = datetime.datetime.fromisoformat(run["created"]).timestamp()
        if run["preset"] == "smoke" and run["seed"] == 0 and made < built:
            runs[run["experiment"]] = run, path.parent
    assert {"ours", "posec3d_fusion", "zero_shot", "vclip"} <= set(runs)
    return Results(book.html, runs)


def starts(cell: str, value: float, digits: int = 2) -> bool:
    """Whether a cell's number, before its interval, is this one."""
    return cell.split(" ")[0].rstrip("%") == f"{value:.{digits}f}"


METHODS = [*tables.PAPER_TABLE1, *tables.BESIDE_TABLE1]


def test_table_1(results: Results) -> None:
    rows = results.rows("08_tables", "Methods", "Modality")
    assert [row[:2] for row in rows] == [[m.name, m.modality] for m in METHODS]
    for method, row in zip(METHODS, rows, strict=True):
        if method.top1 is not None:
            assert row[2:4] == [f"{method.top1:.2f}", f"{method.top5:.2f}"]
        if method.experiment in results.runs:
            assert starts(row[4], results.percent(method.experiment)), row
            assert starts(row[5], results.percent(method.experiment, "top5")), row
        else:
            assert row[4] == tables.NOT_RUN


def test_table_2(results: Results) -> None:
    rows = results.rows("08_tables", "Weights", "RGB")
    for (*weights, printed), row in zip(tables.PAPER_TABLE2, rows, strict=False):
        assert row[1:5] == [*(f"{w:g}" for w in weights), f"{printed:.2f}"]
        for split, cell in (("val", row[5]), ("test", row[6])):
            said = [results.logits(name, split) for name in tables.STREAMS]
            fused = reference.fuse([logits for logits, _ in said], weights)
            assert starts(cell, 100 * reference.classification(fused, said[0][1])["top1"]), row
    (found,) = [row for row in rows if row[0].startswith("found on validation")]
    weights = results.runs["ours"][0]["extra"]["weights"]
    assert found[1:4] == [f"{weights[name]:.3g}" for name in tables.STREAMS]
    assert starts(found[5], results.percent("ours", split="val")) and starts(found[6], results.percent("ours"))


def test_table_3(results: Results) -> None:
    rows = results.rows("08_tables", "Model", "token decay")
    for (model, decay, top1, memory), experiment, row in zip(
        tables.PAPER_TABLE3, ("froster", "froster_decay"), rows, strict=True
    ):
        assert row[:4] == [model, decay, f"{top1:.2f}", f"{memory:.2f}"]
        assert starts(row[4], results.percent(experiment)), row


def test_each_system_of_the_field_has_its_rows_of_table_1(results: Results) -> None:
    shown = [table[1:] for table in results.tables["10_field"] if table[0][:2] == ["Modality", "paper Top-1"]]
    rows = [row for table in shown for row in table]
    theirs = [method for method in tables.PAPER_TABLE1 if method.experiment != "ours"]
    assert sorted(row[0] for row in rows) == sorted(method.modality for method in theirs)
    for method in theirs:
        (row,) = [row for row in rows if row[:2] == [method.modality, f"{method.top1:.2f}"]]
        if method.experiment in results.runs:
            assert starts(row[3], results.percent(method.experiment)), row


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("03_teacher", {"zero_shot": "zero_shot", "linear_probe": "linear_probe"}),
        ("06_skeleton_stream", {"joints": "posec3d_joint", "limbs": "posec3d_limb", "fusion": "posec3d_fusion"}),
    ],
)
def test_scores_of_a_chapter(results: Results, page: str, names: dict[str, str]) -> None:
    rows = {row[0]: row[1:] for row in results.rows(page, "", "top1", "top5", "mean_class")}
    assert set(rows) == set(names)
    for name, experiment in names.items():
        for cell, metric in zip(rows[name], ("top1", "top5", "mean_class"), strict=False):
            assert starts(cell, results.percent(experiment, metric), 1), (name, metric)


def test_ablations(results: Results) -> None:
    """The rows that are the method's own runs, which every book has."""
    config, checked = preset("smoke"), 0
    shown = [table for table in results.tables["11_ablations"] if table[0][0] == "Variant"]
    for each, (head, *rows) in zip(ablations.ABLATIONS, shown, strict=True):
        assert head[:3] == ["Variant", "validation", "test"]
        for variant, row in zip(each.rows(config), rows, strict=True):
            assert row[0] == variant.label
            if variant.preset(config) == config and variant.experiment in results.runs:
                assert starts(row[1], results.percent(variant.experiment, split="val")), row
                assert starts(row[2], results.percent(variant.experiment)), row
                checked += 1
    assert checked > len(ablations.ABLATIONS)
    first = results.rows("11_ablations", "Tokens", "Top-1")[0]
    assert first[0] == ablations.ALL_TOKENS.label and starts(first[1], results.percent("froster"))
