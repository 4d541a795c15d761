"""Charts of chapters: curves, recalls, confusions, similarities. They take arrays and records, and return figures.

All are drawn to be read in light and in dark mode (no background, grey lines and letters) and by colour-blind readers
(Okabe and Ito's palette). Pictures of films, skeletons and volumes are in :mod:`migcore.report.pictures`.

Letters: N clips, C classes, E epochs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from migcore.errors import ConfigError
from migcore.labels import CLASSES, GROUPS

GREY = "#777777"
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
MAP = "cividis"
NAMES = [g.name for g in CLASSES]


@contextmanager
def style() -> Iterator[None]:
    """Settings of every figure: no background, grey ink, sizes for a page 7 inches wide."""
    ink = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), GREY
    )
    settings: dict[str, Any] = {
        **ink,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "legend.facecolor": "none",
        "legend.edgecolor": "none",
        "legend.labelcolor": GREY,
        "axes.prop_cycle": cycler(color=PALETTE),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 9,
        "figure.dpi": 120,
        "grid.alpha": 0.3,
    }
    with mpl.rc_context(settings):  # type: ignore[arg-type]  # the stubs want a literal of every setting
        yield


def finish(figure: Figure) -> Figure:
    """Close a figure, so that a notebook shows it once, where it is returned."""
    plt.close(figure)
    return figure


def by_group() -> np.ndarray:
    """[C] labels in the order of their body parts, as the charts show them."""
    return np.array(sorted(range(len(CLASSES)), key=lambda c: (GROUPS.index(CLASSES[c].group), c)))


def class_bars(series: Mapping[str, Sequence[float] | np.ndarray], *, label: str, log: bool = False) -> Figure:
    """One group of horizontal bars per class, sorted by body part.

    Args:
        series: name → [C] values; NaN leaves a gap.
        label: of the axis.
        log: logarithmic axis.
    """
    order = by_group()
    with style():
        figure, axes = plt.subplots(figsize=(7, 7.6), layout="constrained")
        height = 0.8 / len(series)
        for i, (name, values) in enumerate(series.items()):
            values = np.asarray(values, dtype=float)
            if values.shape != (len(CLASSES),):
                raise ConfigError(f"{name} has shape {values.shape}, not ({len(CLASSES)},)")
            axes.barh(np.arange(len(order)) + (i - (len(series) - 1) / 2) * height, values[order], height, label=name)
        axes.set_yticks(range(len(order)), [f"{NAMES[c]}" for c in order])
        axes.invert_yaxis()
        axes.set_xlabel(label)
        if log:
            axes.set_xscale("log")
        axes.grid(axis="x")
        if len(series) > 1:
            figure.legend(loc="outside upper right", ncols=len(series))
        axes.margins(y=0.01)
        _bracket_groups(axes, order)
        return finish(figure)


def _bracket_groups(axes: Axes, order: np.ndarray) -> None:
    groups = [CLASSES[c].group for c in order]
    for group in GROUPS:
        at = [i for i, g in enumerate(groups) if g == group]
        if at and at[-1] + 1 < len(order):
            axes.axhline(at[-1] + 0.5, color=GREY, linewidth=0.6, alpha=0.6)


def curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], *, left: str = "loss", right: str = "top1") -> Figure:
    """Training curves: ``left`` of the training clips, and ``right`` of the validation clips where it was measured.

    Args:
        histories: name of a run → its rows, one per epoch (:attr:`migcore.ledger.Run.history`).
        left, right: fields of the rows; ``right`` may also be in the row's "val".
    """
    with style():
        figure, (a, b) = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
        for name, rows in histories.items():
            epochs = [row["epoch"] for row in rows]
            a.plot(epochs, [row[left] for row in rows], marker=".", label=name)
            measured = [(e, _validation(row, right)) for e, row in zip(epochs, rows, strict=True)]
            points = [(e, value) for e, value in measured if value is not None]
            if points:
                b.plot(*zip(*points, strict=True), marker="o", label=name)
        a.set(xlabel="epoch", ylabel=f"training {left}")
        b.set(xlabel="epoch", ylabel=f"validation {right}", ylim=(0, 1))
        for axes in (a, b):
            axes.grid()
        b.legend()
        return finish(figure)


def _validation(row: Mapping[str, Any], name: str) -> float | None:
    inner = row.get("val")
    value = inner.get(name) if isinstance(inner, Mapping) else row.get(f"val_{name}")
    return None if value is None else float(value)


def recalls(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[C] share of each class's clips that are found; NaN for a class without clips.

    Args:
        predicted, labels: [N] integers 0..C-1.
    """
    support = np.bincount(labels, minlength=len(CLASSES))
    right = np.bincount(labels[predicted == labels], minlength=len(CLASSES))
    return np.where(support > 0, right / np.maximum(support, 1), np.nan)


def group_confusion(predicted: np.ndarray, labels: np.ndarray) -> Figure:
    """How often clips of one body part are taken for another, in percent of the true part.

    Args:
        predicted, labels: [N] integers 0..C-1.
    """
    part = np.array([GROUPS.index(g.group) for g in CLASSES])
    counts = np.zeros((len(GROUPS), len(GROUPS)))
    np.add.at(counts, (part[labels], part[predicted]), 1)
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with style():
        figure, axes = plt.subplots(figsize=(5.2, 4.2), layout="constrained")
        sns.heatmap(share, annot=True, fmt=".0f", cmap=MAP, vmin=0, vmax=100, xticklabels=GROUPS, yticklabels=GROUPS,
                    cbar_kws={"label": "% of the clips of a row"}, ax=axes)  # fmt: skip
        axes.set(xlabel="predicted", ylabel="true")
        return finish(figure)


def class_confusion(predicted: np.ndarray, labels: np.ndarray) -> Figure:
    """The whole confusion matrix, rows in percent, classes sorted by body part.

    Args:
        predicted, labels: [N] integers 0..C-1.
    """
    counts = np.zeros((len(CLASSES), len(CLASSES)))
    np.add.at(counts, (labels, predicted), 1)
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return similarity(share, label="% of the clips of a row", axes_labels=("predicted", "true"))


def similarity(matrix: np.ndarray, *, label: str = "cosine", axes_labels: tuple[str, str] = ("", "")) -> Figure:
    """A class by class matrix, sorted by body part.

    Args:
        matrix: [C, C].
        label: of the colours.
        axes_labels: of columns and rows.
    """
    order = by_group()
    with style():
        figure, axes = plt.subplots(figsize=(7, 6.4), layout="constrained")
        names = [NAMES[c] for c in order]
        sns.heatmap(np.asarray(matrix)[np.ix_(order, order)], cmap=MAP, xticklabels=names, yticklabels=names,
                    square=True, cbar_kws={"label": label, "shrink": 0.8}, ax=axes)  # fmt: skip
        axes.tick_params(labelsize=7, length=0)
        axes.set(xlabel=axes_labels[0], ylabel=axes_labels[1])
        return finish(figure)


def against_texts(cosines: np.ndarray, labels: np.ndarray) -> Figure:
    """Clips against class sentences; a ring marks the true class of a clip.

    Args:
        cosines: [N, C], a few clips.
        labels: [N].
    """
    order = by_group()
    rank = np.argsort(order)
    rows = np.argsort(rank[labels], kind="stable")
    with style():
        figure, axes = plt.subplots(figsize=(7, 0.9 + 0.19 * len(labels)), layout="constrained")
        image = axes.imshow(cosines[rows][:, order], cmap=MAP, aspect="auto")
        axes.scatter(
            rank[labels[rows]], range(len(labels)), s=28, facecolors="none", edgecolors="#D55E00", linewidths=1.4
        )
        axes.set_xticks(range(len(order)), [NAMES[c] for c in order], rotation=90, fontsize=7)
        axes.set_yticks(range(len(labels)), [NAMES[c] for c in labels[rows]], fontsize=7)
        axes.set(ylabel="a clip of")
        figure.colorbar(image, ax=axes, label="cosine")
        return finish(figure)


def durations(seconds: Mapping[str, np.ndarray]) -> Figure:
    """Histogram of clip lengths, one outline per split.

    Args:
        seconds: split → [N] lengths.
    """
    with style():
        figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
        longest = max(values.max() for values in seconds.values())
        for name, values in seconds.items():
            axes.hist(
                values,
                bins=np.linspace(0, longest, 40).tolist(),
                histtype="step",
                linewidth=1.6,
                label=name,
                density=True,
            )
        axes.set(xlabel="seconds", ylabel="share of clips")
        axes.set_yticks([])
        axes.legend()
        return finish(figure)
