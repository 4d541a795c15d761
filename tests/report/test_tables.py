"""The tables print the paper's numbers and the ledger's, and never one in the place of the other."""

from __future__ import annotations

import dataclasses
import hashlib
import html.parser
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from migcore import ensemble, experiments, metrics
from migcore.errors import CheckpointError, DataError
from migcore.ledger import Ledger, Run, source_hash
from migcore.models.cost import Cost, tower_cost
from migcore.models.vclip import VCLIPConfig
from migcore.presets import KEEP_MINIATURE, KEEP_VIT_B16, Preset, preset
from migcore.report import costs, tables
from migcore.report.costs import SystemCost
from migcore.report.tables import NOT_RUN, PAPER_TABLE1, PAPER_TABLE2, STREAMS, WITHHELD, Table

ROOT = Path(__file__).resolve().parents[2]
SMOKE, WORKSTATION = preset("smoke"), preset("workstation")


@pytest.fixture(autouse=True)
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """An empty ledger; nothing of the machine's data is at hand."""
    book = Ledger(tmp_path / "runs", tmp_path / "results")
    monkeypatch.setenv("MIGCORE_RUNS", str(book.runs))
    monkeypatch.setattr(experiments, "ledger", lambda: book)
    monkeypatch.setattr(tables, "_cost", counted)
    return book


def counted(model: str, config: VCLIPConfig, attention: str) -> Cost:
    """Stands for the real count, which takes seconds: known numbers that differ by model, decay and attention."""
    size = (2 if model == "miniature" else 1000) * (1 if attention == "written" else 0.75)
    last = 100 if config.keep == KEEP_VIT_B16 else 30 if config.keep == KEEP_MINIATURE else 197
    return Cost(
        int(size * (0.5 if config.keep else 1) * 2**20), 0, 300_000_000_000 - 10**11 * bool(config.keep), (last,)
    )


def key_of(name: str, config: Preset, seed: int, data: str) -> str:
    return hashlib.sha256(f"{name} {config.label} {seed} {data}".encode()).hexdigest()[:16]


def add(
    book: Ledger, name: str, config: Preset, seed: int = 0, *, data: str = "d", right: float = 0.5, **values: object
) -> Run:
    """A run whose first clips are right, up to a share, and the rest wrong; four subjects."""
    labels = np.arange(40) % 32
    logits = np.zeros((40, 32), np.float32)
    logits[np.arange(40), np.where(np.arange(40) < 40 * right, labels, (labels + 1) % 32)] = 1
    modules = list(experiments.EXPERIMENTS[name].modules)
    fields: dict[str, object] = {
        "key": key_of(name, config, seed, data),
        "experiment": name,
        "preset": config.label,
        "seed": seed,
        "config": experiments._resolved(name, config, seed),
        "data": data,
        "code": source_hash(modules),
        "modules": modules,
        "depends": {other: key_of(other, config, seed, data) for other in experiments.EXPERIMENTS[name].depends},
        "metrics": {"test": metrics.classification(logits, labels)},
        "clips": {"test": {"ids": [f"0001_{i}" for i in range(40)], "subjects": [f"P{i % 4}" for i in range(40)]}},
        "created": f"2024-01-0{seed + 1}T00:00:00+00:00",
        "device": "cpu (1 threads)",
        "commit": "abcdef0123",
    }
    run = Run(**{**fields, **values})  # type: ignore[arg-type]
    return book.save(run, {"test.logits": logits, "test.labels": labels})


CLIPS = {"val": 60, "test": 80}


def add_stream(
    book: Ledger, name: str, config: Preset = SMOKE, seed: int = 0, *, strength: float = 2.0, **values: object
) -> Run:
    """A run of noisy logits on both splits; each stream lists the same clips in another order."""
    rng = np.random.default_rng([*name.encode(), *config.name.encode(), seed])
    arrays, found, clips = {}, {}, {}
    for split, count in CLIPS.items():
        order = rng.permutation(count)
        labels = order * 7 % 32
        logits = rng.normal(size=(count, 32)).astype(np.float32)
        logits[np.arange(count), labels] += strength
        arrays |= {f"{split}.logits": logits, f"{split}.labels": labels}
        found[split] = metrics.classification(logits, labels)
        clips[split] = {"ids": [f"{split}_{i}" for i in order], "subjects": [f"P{i % 7}" for i in order]}
    run = add(book, name, config, seed, metrics=found, clips=clips, **values)
    return book.save(run, arrays)


def add_ours(book: Ledger, config: Preset = SMOKE, seed: int = 0) -> Run:
    """The three streams and what a real search makes of them."""
    runs = {name: add_stream(book, name, config, seed) for name in STREAMS}
    streams = {split: by_clip(book, runs, split) for split in CLIPS}
    found = ensemble.search_weights(streams["val"][0], streams["val"][1], step=0.25)
    arrays, scores, clips = {}, {}, {}
    for split, (logits, labels, ids) in streams.items():
        fused = np.log(ensemble.fuse(logits, found.weights)).astype(np.float32)
        arrays |= {f"{split}.logits": fused, f"{split}.labels": labels}
        scores[split] = metrics.classification(fused, labels)
        clips[split] = {"ids": ids, "subjects": [f"P{int(i.split('_')[1]) % 7}" for i in ids]}
    search = {"split": "val", "step": 0.25, "kind": "probabilities", "metric": "top1", "score": found.score}
    search |= {"ties": found.ties, "absent": list(found.absent)}
    extra = {"weights": found.weights, "search": search}
    run = add(book, "ours", config, seed, metrics=scores, clips=clips, extra=extra)
    return book.save(run, arrays)


def by_clip(book: Ledger, runs: dict[str, Run], split: str) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """The streams clip by clip, looked up by name: what the tables' alignment is compared with."""
    ids = runs[STREAMS[0]].clips[split]["ids"]
    logits = {}
    for name, run in runs.items():
        arrays = book.load_arrays(run, split)
        logits[name] = np.stack([arrays["logits"][run.clips[split]["ids"].index(clip)] for clip in ids])
    return logits, np.array([int(clip.split("_")[1]) * 7 % 32 for clip in ids]), ids


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
    assert len(table.rows) == 15 and table.divider == 9
    assert all(row.count(NOT_RUN) == 1 for row in table.rows)
    table = tables.table2(SMOKE)
    assert [row[-1:] for row in table.rows] == [[NOT_RUN]] * 10 and table.divider == 9
    assert [row[4] for row in tables.table3(SMOKE).rows] == [NOT_RUN] * 2
    assert all(len(row) == len(made.columns) for made in (table, tables.table3(SMOKE)) for row in made.rows)


def test_our_numbers_come_from_the_runs(book: Ledger) -> None:
    run = add(book, "posec3d_joint", SMOKE)
    row = tables.table1(SMOKE).rows[2]
    assert row[:4] == ["PoseC3D", "Skeleton+Joint", "59.54", "89.59"] and len(row) == 6
    add(book, "posec3d_limb", WORKSTATION)
    row = tables.table1(SMOKE).rows[2]
    assert row[6:] == [NOT_RUN, ""]
    logits = book.load_arrays(run, "test")
    right = metrics.correct(logits["logits"], logits["labels"])
    interval = metrics.bootstrap_interval(right, np.arange(40) % 4, rng=np.random.default_rng(0))
    assert row[4] == f"50.00 [{100 * interval[0]:.1f},\N{NO-BREAK SPACE}{100 * interval[1]:.1f}]"
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
    row = next(row for row in tables.table1(SMOKE, (5, 6)).rows if row[0] == "teacher, zero-shot")
    assert row[4].startswith("50.00 [") and "seeds" not in row[4]


def test_every_table_says_which_runs_it_needs() -> None:
    needed = {*STREAMS, "froster", "ours", "vclip", "posec3d_joint", "posec3d_limb", "zero_shot", "linear_probe"}
    assert needed <= set(tables.shown()) <= set(experiments.EXPERIMENTS)
    assert len(tables.shown()) == len(set(tables.shown()))


def test_the_printed_weights_are_put_on_our_streams(book: Ledger) -> None:
    add_ours(book)
    runs = {name: next(iter(book.find(name))) for name in STREAMS}
    rows = tables.table2(SMOKE).rows
    for row, (*weights, paper) in zip(rows, PAPER_TABLE2, strict=False):
        assert [float(cell) for cell in row[1:4]] == weights and row[4] == f"{paper:.2f}"
        for column, split in ((5, "val"), (6, "test")):
            logits, labels, _ = by_clip(book, runs, split)
            fused = sum(
                w * np.exp(x) / np.exp(x).sum(1, keepdims=True) for w, x in zip(weights, logits.values(), strict=True)
            )
            expected = 100 * (np.asarray(fused).argmax(1) == labels).mean()
            assert row[column].split(" [")[0] == f"{expected:.2f}"
        assert re.fullmatch(r"\d+\.\d\d \[\d+\.\d,\xa0\d+\.\d\]", row[6])
    assert len({row[6] for row in rows}) > 4  # weights matter here, or nothing was tested
    assert [row[0] for row in rows[:3]] == ["RGB alone", "joint alone", "limb alone"]
    assert "best printed" in rows[6][0] and "1.4" in rows[8][0]


def test_our_tables_are_tied_by_run(book: Ledger) -> None:
    """As the paper's: Table 2's RGB is Table 3's second row, its best is Table 1's Ours, FROSTER is in 1 and 3."""
    for seed in (0, 1):
        add_ours(book, seed=seed)
        add_stream(book, "froster", seed=seed, strength=1.5)
    for seeds in ((0,), (0, 1, 2)):
        one, two, three = (make(SMOKE, seeds) for make in (tables.table1, tables.table2, tables.table3))
        by_name = {row[0]: row[4] for row in one.rows}
        assert two.rows[0][6] == three.rows[1][4] != NOT_RUN
        assert two.rows[-1][6] == by_name["Ours"] != NOT_RUN
        assert three.rows[0][4] == by_name["Froster clip"] != NOT_RUN
        assert len(two.rows) == 9 + (1 if len(seeds) == 1 else 3)
        assert ("(2 of 3 seeds)" in two.rows[-1][6]) == (len(seeds) == 3)


def test_the_optimum_stands_below_with_its_weights(book: Ledger) -> None:
    run = add_ours(book, seed=1)
    table = tables.table2(SMOKE, (1,))
    label, *cells = table.rows[9]
    assert label == "found on validation" and table.divider == 9
    assert [float(cell) for cell in cells[:3]] == [run.extra["weights"][name] for name in STREAMS]
    assert cells[3] == "" and cells[4] == f"{100 * run.extra['search']['score']:.2f}"
    best = max(float(row[5]) for row in table.rows[:3])
    assert float(cells[4]) >= best  # the grid's corners are the single streams
    text = table.to_text()
    assert run.key in text and "steps of 0.25 on the val clips" in text and "no clip there" in text
    assert all(runs.key in text for runs in book.all())


def test_table_2_waits_for_all_three_streams(book: Ledger) -> None:
    add_stream(book, STREAMS[0])
    add_stream(book, STREAMS[1])
    add_stream(book, STREAMS[2], seed=3)
    assert all(row[5:] == [NOT_RUN, NOT_RUN] for row in tables.table2(SMOKE).rows)
    assert tables.table3(SMOKE).rows[1][4] != NOT_RUN


def test_withheld_labels_are_said_so(book: Ledger) -> None:
    for name in STREAMS:
        run = add_stream(book, name)
        run.metrics.pop("test")
        arrays = {f"{s}.{k}": v for s in CLIPS for k, v in book.load_arrays(run, s).items()}
        book.save(run, arrays | {"test.labels": np.full(80, -1)})
    rows = tables.table2(SMOKE).rows
    assert all(float(row[5]) > 0 and row[6] == WITHHELD for row in rows[:9])
    with pytest.raises(DataError, match="no labelled clip of test in common"):
        tables.same_clips({name: book.find(name)[0] for name in STREAMS}, "test")


def test_recorded_runs_get_columns_of_their_own(book: Ledger) -> None:
    add_ours(book)
    alone = tables.table2(SMOKE), tables.table3(SMOKE)
    assert not any("recorded" in head for table in alone for head in table.columns)
    recorded = add_ours(book, WORKSTATION, seed=2)
    two, three = tables.table2(SMOKE), tables.table3(SMOKE)
    assert "recorded" in two.columns[7] and all(len(row) == 8 for row in two.rows)
    assert [row[:7] for row in two.rows[:10]] == [row[:7] for row in alone[0].rows]
    assert all("(1 of 3 seeds)" in row[7] for row in two.rows[:9]) and two.rows[9][7] == ""
    assert two.rows[10][0] == "found on validation (workstation), seed 2" and two.rows[10][4:7] == ["", "", ""]
    assert two.rows[10][7].startswith(f"{100 * recorded.metrics['test']['top1']:.2f}")
    assert "recorded" in three.columns[5] and three.rows[1][5] != three.rows[1][4]


def test_only_the_clips_that_all_streams_read(book: Ledger) -> None:
    runs = {name: add_stream(book, name) for name in STREAMS[:2]}
    short = runs[STREAMS[1]]
    arrays = {f"{s}.{k}": v for s in CLIPS for k, v in book.load_arrays(short, s).items()}
    arrays["test.logits"], arrays["test.labels"] = arrays["test.logits"][5:], arrays["test.labels"][5:]
    short.clips["test"] = {k: v[5:] for k, v in short.clips["test"].items()}
    runs[STREAMS[1]] = book.save(short, arrays)
    clips = tables.same_clips(runs, "test")
    logits, labels, ids = by_clip(book, {STREAMS[0]: runs[STREAMS[0]]}, "test")
    kept = [i for i, clip in enumerate(ids) if clip in short.clips["test"]["ids"]]
    assert len(kept) == 75
    np.testing.assert_array_equal(clips.logits[STREAMS[0]], logits[STREAMS[0]][kept])
    np.testing.assert_array_equal(clips.labels, labels[kept])
    assert clips.subjects.tolist() == [f"P{int(ids[i].split('_')[1]) % 7}" for i in kept]
    assert clips.ids == tuple(ids[i] for i in kept)


def test_an_older_stream_marks_the_rows_it_is_in(book: Ledger) -> None:
    for name in STREAMS:
        add_stream(book, name, code="0" * 64 if name == STREAMS[2] else source_hash(modules_of(name)))
    table = tables.table2(SMOKE)
    assert table.rows[0][6].endswith("†") and "† recorded with an older version" in table.to_text()


def modules_of(name: str) -> list[str]:
    return list(experiments.EXPERIMENTS[name].modules)


def test_table_3_names_the_model_of_every_measure() -> None:
    table = tables.table3(SMOKE)
    assert table.columns[:4] == ["Model", "token decay", "paper Top-1", "paper Mem (G)"]
    assert table.columns[4].endswith("Top-1, miniature") and table.columns[5:] == ["saved, GiB, ViT-B/16 (calibrated)"]
    assert [row[5:] for row in table.rows] == [["0.98"], ["0.49"]]
    assert table.below is not None
    assert [row[1:] for row in table.below.rows] == [
        ["ViT-B/16", "0.98", "0.49", "0.50"],
        ["ViT-B/16", "0.73", "0.37", "0.50"],
        ["ViT-B/16", "300", "200", "0.67"],
        ["ViT-B/16", "197", "100", "0.51"],
        ["miniature (trained here)", "2.0", "1.0", "0.50"],
    ]
    assert ["(calibrated)" in row[0] for row in table.below.rows] == [True, False, False, False, True]
    assert [m.calibrated for m in tables.measures(SMOKE)] == [True, False, False, False, True]
    text = table.to_text()
    assert "1.28/1.88 = 0.68" in text and "no evidence" in text and "8 frames, batch 1, float32" in text


def test_a_trained_vit_is_measured_once() -> None:
    config = preset("smoke", {"teacher.name": "ViT-B-16", "student.vclip.keep": ",".join(map(str, KEEP_VIT_B16))})
    table = tables.table3(config)
    assert table.columns[4].endswith("Top-1, ViT-B/16") and len(table.columns) == 6
    assert table.below is not None and [row[1] for row in table.below.rows] == ["ViT-B/16"] * 4


def test_the_decay_of_the_trained_model_gives_the_printed_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    def real(model: str, config: VCLIPConfig, attention: Literal["written", "fused"]) -> Cost:
        known = model == "ViT-B-16"  # counted in the tests of the count itself
        return counted(model, config, attention) if known else tower_cost(model, config, attention=attention)

    monkeypatch.setattr(tables, "_cost", real)
    *_, trained = tables.measures(SMOKE)
    assert trained.calibrated and round(trained.ratio, 2) == round(1.28 / 1.88, 2) and 1 < trained.values[0] < 100


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
    unnumbered = dataclasses.replace(table, name="")._repr_markdown_().splitlines()
    assert unnumbered[0] == "**What <it> shows**" and unnumbered[2] == "| a\\|b | c |" and ":::" not in unnumbered
    assert lines[5:8] == ["| 1 & 2 | <3 |", "| 4 |  |", ":::"] and "A note." in lines[9]
    assert table.to_text().splitlines() == [
        "What <it> shows", "a|b    c", "---------", "1 & 2  <3", "---------", "4", "A note.",
    ]  # fmt: skip


def test_a_table_below_stands_between_a_table_and_its_notes() -> None:
    below = Table("", "Part", ["Top-1 of ViT-B/16", "d"], [["5", "6"]])
    table = Table("tab-x", "Whole", ["a", "c"], [["1", "2"]], notes=["A note."], below=below)
    assert table.to_text().splitlines() == [
        "Whole", "a  c", "----", "1  2", "", "Part", "Top-1 of ViT-B/16  d", "--------------------",
        "5                  6", "", "A note.",
    ]  # fmt: skip
    page = Cells()
    page.feed(table._repr_html_())
    assert page.text[:5] == ["Whole", "a", "c", "1", "2"] and page.text[-3:] == ["5", "6", "A note."]
    assert "".join(page.text[5:9]) == "PartTop-1 of ViT-B/16"
    text = table._repr_markdown_()
    assert text.index(":::\n\n**Part**") < text.index("| 5 | 6 |") < text.index("<small>A note.</small>")
    assert '<span style="white-space: nowrap">ViT-B/16</span>' in text


def test_many_runs_are_folded(book: Ledger) -> None:
    runs = [add(book, "posec3d_joint", SMOKE, seed, device="<gpu>") for seed in range(6)]
    few, many = tables.provenance(runs[:5]), tables.provenance(runs)
    assert tables.small(few) == f"<small>{few}</small>" and tables.small("Runs: none.") == "<small>Runs: none.</small>"
    folded = tables.small(many)
    assert folded.startswith('<details class="runs"><summary>6 runs</summary>Runs: ') and "\n" not in folded
    assert all(run.key in folded for run in runs) and "&lt;gpu&gt;" in folded and "commit abcdef0123" in folded
    table = Table("tab-x", "What", ["a"], [["1"]], notes=["A note.", many])
    assert f"<small>A note.</small>\n\n{folded}\n" in table._repr_markdown_()
    assert table._repr_html_().endswith(f"<p><small>A note.</small></p>{folded}")
    assert table.to_text().endswith(f"{many}\n")


def test_means_over_seeds_say_what_their_interval_leaves_out(book: Ledger) -> None:
    made = tables.table1, tables.table2, tables.table3
    add_ours(book)
    add(book, "froster", SMOKE)
    assert not any("new seed" in make(SMOKE, (0, 1)).to_text() for make in made), "one run each: nothing is averaged"
    add_ours(book, seed=1)
    assert all("what a new seed would change is not in it" in make(SMOKE, (0, 1)).to_text() for make in made)
    assert not any("new seed" in make(SMOKE).to_text() for make in made)


def test_names_are_those_that_pages_refer_to() -> None:
    made = tables.table1(SMOKE), tables.table2(SMOKE), tables.table3(SMOKE)
    assert [table.name for table in made] == ["tab-1", "tab-2", "tab-3"]


def test_costs_stand_behind_the_numbers_of_this_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(experiment: str, config: Preset) -> SystemCost:
        if experiment == "evl":
            raise CheckpointError("OpenAI's weights cannot be fetched")
        return SystemCost(12_345_678, 9_870_000_000, 4.321 if experiment == "stgcn" else 43.21)

    monkeypatch.setattr(costs, "system_cost", cost)
    table = tables.table1(SMOKE, costs=True)
    assert table.columns[-3:] == ["parameters (M)", "GMACs per clip", "ms per clip"]
    cells = {row[0]: row[-3:] for row in table.rows}
    assert cells["ST-GCN"] == ["12.3", "9.87", "4.3"] and cells["TRN"] == ["12.3", "9.87", "43"]
    assert cells["Frozen clip"] == ["", "", ""], "a cell stays empty where a network cannot be built"
    assert len(tables.table1(SMOKE).columns) == len(table.columns) - 3
