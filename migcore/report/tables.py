"""Tables 1–3 of the paper beside this build's runs and recorded ones.

The paper's numbers are printed constants; every number of ours is read from a run of the ledger, with a 95 % interval
from drawing subjects (clips of one subject are alike). Different data never share a column. A row that has not been run
says so.

A table shows itself three ways: as MyST, numbered and with a name to refer to, in the book; as plain HTML in a
notebook; as text on the command line.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from migcore import experiments, metrics
from migcore.data.imigue import ClipIndex
from migcore.errors import DataError
from migcore.ledger import Run
from migcore.presets import Preset, preset

NOT_RUN = "not run yet"
RECORDED = "workstation"
"""Preset of the recorded runs that stand beside every build."""
RECORDED_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Method:
    """A row of Table 1.

    Attributes:
        name, modality: as printed.
        top1, top5: as printed, in percent; None for a row that is not the paper's.
        experiment: whose runs fill our columns.
    """

    name: str
    modality: str
    top1: float | None
    top5: float | None
    experiment: str = ""


PAPER_TABLE1: tuple[Method, ...] = (
    Method("ST-GCN", "Skeleton", 46.38, 85.47, "stgcn"),
    Method("Hyperformer", "Skeleton", 57.01, 87.86, "hyperformer"),
    Method("PoseC3D", "Skeleton+Joint", 59.54, 89.59, "posec3d_joint"),
    Method("PoseC3D", "Skeleton+Limb", 60.74, 90.51, "posec3d_limb"),
    Method("TRN", "RGB", 55.24, 89.17, "trn"),
    Method("Frozen clip", "RGB", 57.79, 91.89, "evl"),
    Method("Froster clip", "RGB", 61.05, 90.03, "froster"),
    Method("DSCNet", "RGB+Skeleton", 62.53, 92.41, "dscnet"),
    Method("Ours", "RGB+Skeleton", 68.90, 92.43, "ours"),
)
"""Table 1 as printed (Wang et al. 2024)."""
BESIDE_TABLE1: tuple[Method, ...] = (
    Method("PoseC3D, joint and limb fused", "Skeleton", None, None, "posec3d_fusion"),
    Method("teacher, zero-shot", "RGB", None, None, "zero_shot"),
    Method("teacher, linear probe", "RGB", None, None, "linear_probe"),
)
"""Rows of this companion's own, under Table 1."""
PAPER_TABLE2: tuple[tuple[float, float, float, float], ...] = (
    (1.0, 0.0, 0.0, 61.31),
    (0.0, 1.0, 0.0, 63.83),
    (0.0, 0.0, 1.0, 54.65),
    (0.2, 0.4, 0.4, 65.47),
    (0.3, 0.35, 0.35, 66.92),
    (0.4, 0.3, 0.3, 67.90),
    (0.55, 0.4, 0.05, 68.90),
    (0.5, 0.25, 0.25, 68.30),
    (0.6, 0.2, 0.6, 67.93),
)
"""Table 2 as printed: weights of RGB, joint and limb, and top-1."""
PAPER_TABLE3: tuple[tuple[str, str, float, float], ...] = (
    ("Froster clip", "no", 61.05, 1.88),
    ("Ours", "yes", 61.31, 1.28),
)
"""Table 3 as printed: model, token decay, top-1, memory in GB."""


def shown() -> list[str]:
    """The experiments whose runs the tables show, as far as they exist."""
    return [m.experiment for m in (*PAPER_TABLE1, *BESIDE_TABLE1) if m.experiment in experiments.EXPERIMENTS]


@dataclass
class Table:
    """A table that can show itself.

    Attributes:
        name: to refer to it, such as "tab-1".
        caption: what it shows.
        columns: heads.
        rows: cells, as text.
        notes: lines under it: what the columns are, and which runs made them.
        divider: number of rows above the line that ends the paper's own rows; 0 for none.
    """

    name: str
    caption: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    divider: int = 0

    def to_text(self) -> str:
        """Aligned columns for a terminal."""
        lines = [self.columns, *self.rows]
        widths = [max(len(row[i]) for row in lines) for i in range(len(self.columns))]
        out = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in lines]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        out.insert(1, rule)
        if self.divider:
            out.insert(2 + self.divider, rule)
        return "\n".join([self.caption, *out, *self.notes]) + "\n"

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in self.columns)
        body = ""
        for first, *others in self.rows:
            cells = "".join(f"<td>{html.escape(c)}</td>" for c in others)
            body += f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>'
        notes = "".join(f"<p><small>{html.escape(n)}</small></p>" for n in self.notes)
        caption = f"<caption>{html.escape(self.caption)}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"

    def _repr_markdown_(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        rows = [line(self.columns), line(["---"] * len(self.columns)), *(line(row) for row in self.rows)]
        notes = "\n\n".join(f"<small>{note}</small>" for note in self.notes)
        return "\n".join([f":::{{table}} {self.caption}", f":name: {self.name}", "", *rows, ":::", "", notes, ""])


@dataclass(frozen=True)
class Score:
    """An experiment's accuracy over its seeds, in percent, with 95 % interval; ``seeds`` is how many were asked for."""

    top1: float
    top5: float
    low: float
    high: float
    split: str
    runs: tuple[Run, ...]
    seeds: int

    def cells(self) -> list[str]:
        """Top-1 with interval, and top-5."""
        mark = "" if len(self.runs) == self.seeds else f" ({len(self.runs)} of {self.seeds} seeds)"
        mark += " †" if any(run.stale for run in self.runs) else ""
        interval = "" if np.isnan(self.low) else f" [{self.low:.1f}, {self.high:.1f}]"
        return [f"{self.top1:.2f}{interval}{mark}", f"{self.top5:.2f}"]


def score(
    experiment: str, config: Preset, seeds: Sequence[int], index: ClipIndex | None = None, data: str | None = None
) -> Score | None:
    """What the ledger knows of an experiment; nothing is trained.

    Args:
        experiment: its name; one that does not exist (yet) has no runs.
        config: preset of the runs.
        seeds: over which it is averaged; those without a run are left out, and the cell says how many there were.
        index: clips of this build, to tell today's runs from older ones.
        data: only runs on data of this identity: different data never share a column.

    Returns:
        the score on the test split, or on validation where the test labels are not known; None without a run.
    """
    if experiment not in experiments.EXPERIMENTS:
        return None
    if not experiments.EXPERIMENTS[experiment].random:
        seeds = (0,)
    runs = [run for seed in seeds if (run := experiments.lookup(experiment, config, seed, index)) is not None]
    runs = [run for run in runs if data in (None, run.data)]
    if not runs:
        return None
    split = "test" if all(run.metrics.get("test") for run in runs) else "val"
    if not all(run.metrics.get(split) for run in runs):
        return None
    book = experiments.ledger()
    right, subjects = [], []
    for run in runs:
        arrays = book.load_arrays(run, split)
        known = arrays["labels"] >= 0
        right.append(metrics.correct(arrays["logits"][known], arrays["labels"][known]))
        subjects.append(np.array(run.clips[split]["subjects"])[known])
    try:
        low, high = metrics.bootstrap_interval(
            np.concatenate(right), np.concatenate(subjects), rng=np.random.default_rng(0)
        )
    except DataError:  # one subject alone says nothing about others
        low = high = float("nan")
    top1, top5 = (float(np.mean([run.metrics[split][name] for run in runs])) for name in ("top1", "top5"))
    return Score(100 * top1, 100 * top5, 100 * low, 100 * high, split, tuple(runs), len(seeds))


def _newest_data(config: Preset) -> str | None:
    """Identity of the data of the newest run of a preset, where the data themselves are not at hand."""
    return next((run.data for run in experiments.ledger().all() if run.preset == config.label), None)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def provenance(runs: Sequence[Run]) -> str:
    """Which runs made a table: presets, devices, commits and dates."""
    if not runs:
        return "No run of this build is in the ledger."
    made = sorted({f"{run.device or 'cpu'}, {run.created[:10]}, commit {run.commit[:10] or 'unknown'}" for run in runs})
    return f"Runs: {', '.join(sorted({run.key for run in runs}))} ({'; '.join(made)})."


def table1(config: Preset, seeds: Sequence[int] = (0,)) -> Table:
    """Table 1: every method, the paper's numbers beside ours.

    Args:
        config: preset of this build.
        seeds: over which ours are averaged.
    """
    index = experiments.dataset_at_hand(config)
    data = None if index is None else experiments.identity(index)
    recorded = preset(RECORDED)
    recorded_data = _newest_data(recorded)
    ours_head = f"this build ({config.label}, {_seeds(seeds)})"
    columns = ["Methods", "Modality", "paper Top-1", "paper Top-5", f"{ours_head} Top-1", "Top-5"]
    with_recorded = config.label != recorded.label
    columns += [f"recorded ({RECORDED}, {_seeds(RECORDED_SEEDS)}) Top-1", "Top-5"] if with_recorded else []
    rows: list[list[str]] = []
    used: list[Run] = []
    for method in (*PAPER_TABLE1, *BESIDE_TABLE1):
        found = score(method.experiment, config, seeds, index, data or _newest_data(config))
        cells = [method.name, method.modality, _number(method.top1), _number(method.top5)]
        cells += found.cells() if found else [NOT_RUN, ""]
        used += found.runs if found else []
        if with_recorded:
            other = score(method.experiment, recorded, RECORDED_SEEDS, data=recorded_data)
            cells += other.cells() if other else [NOT_RUN, ""]
            used += other.runs if other else []
        rows.append(cells)
    return Table(
        "tab-1", "Comparison with other methods", columns, rows,
        notes=[*_legend(config, used), provenance(used)], divider=len(PAPER_TABLE1),
    )  # fmt: skip


def _legend(config: Preset, runs: Sequence[Run]) -> list[str]:
    data = "the studio, which is drawn" if config.studio is not None and not config.data.root else "real data"
    split = {"val"} if runs and all(not run.metrics.get("test") for run in runs) else {"test"}
    lines = [
        f"In percent. The paper's columns were measured on iMiGUE's test set, this build's on the {min(split)} clips of"
        f" {data}: only orders of rows can be compared across them. Brackets: 95 % interval over subjects."
        " Under the paper's nine rows stand three of our own."
    ]
    if any(run.stale for run in runs):
        lines.append("† recorded with an older version of the code.")
    return lines


def table2(config: Preset) -> Table:
    """Table 2: weights of the three streams.

    Args:
        config: preset of this build.
    """
    rows = [[f"{rgb:g}", f"{joint:g}", f"{limb:g}", f"{top1:.2f}", NOT_RUN] for rgb, joint, limb, top1 in PAPER_TABLE2]
    columns = ["RGB", "Skeleton (joint)", "Skeleton (limb)", "paper Top-1", f"this build ({config.label}) Top-1"]
    note = (
        "In percent. The streams of this table are the distilled video student and the two text-aligned skeleton"
        " networks; a row is filled once all three have been run."
    )
    return Table("tab-2", "The impact of different weights on the results", columns, rows, notes=[note])


def table3(config: Preset) -> Table:
    """Table 3: token decay.

    Args:
        config: preset of this build.
    """
    rows = [[model, decay, f"{top1:.2f}", f"{memory:.2f}", NOT_RUN] for model, decay, top1, memory in PAPER_TABLE3]
    columns = ["Model", "token decay", "paper Top-1", "paper Mem (G)", f"this build ({config.label}) Top-1"]
    note = "Top-1 in percent. The paper does not say what its memory column measures."
    return Table("tab-3", "The impact of token decay on the results", columns, rows, notes=[note])
