"""Charts of chapters: curves, recalls, confusions, similarities, features, fused streams, compared methods.

They take arrays and records, and return figures.

All are drawn to be read in light and in dark mode (no background, grey lines and letters) and by colour-blind readers
(Okabe and Ito's palette). Pictures of films, skeletons and volumes are in :mod:`migcore.report.pictures`.

Letters: N clips, C classes, E epochs, S streams.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from migcore.ensemble import Search
from migcore.errors import ConfigError
from migcore.labels import CLASSES, GROUPS

GREY = "#797979"
"""Ink: against white and against the dark page (#121212) a contrast of 4.3, the most that one colour has in both."""
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)), (0, (3, 1)), (0, (9, 3)))
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
        "font.size": 10,
        "axes.titlesize": "medium",
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
        figure, (a, b) = plt.subplots(1, 2, figsize=(7, 2.9), layout="constrained")
        for i, (name, rows) in enumerate(histories.items()):
            look = _look(i)
            epochs = [row["epoch"] for row in rows]
            a.plot(epochs, [row[left] for row in rows], **look, label=name)
            measured = [(e, _validation(row, right)) for e, row in zip(epochs, rows, strict=True)]
            points = [(e, value) for e, value in measured if value is not None]
            if points:
                b.plot(*zip(*points, strict=True), **look, label=name)
        a.set(xlabel="epoch", ylabel=f"training {left}")
        b.set(xlabel="epoch", ylabel=f"validation {right.replace('top1', 'top-1')}", ylim=(0, 1))
        for axes in (a, b):
            axes.grid()
        figure.legend(*a.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return finish(figure)


def _look(i: int) -> dict[str, Any]:
    """The ``i``-th line of a chart: known by colour, by line and by sign."""
    return {
        "color": PALETTE[i % len(PALETTE)], "linestyle": LINES[i % len(LINES)], "marker": MARKERS[i % len(MARKERS)],
        "markersize": 5,
    }  # fmt: skip


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
        figure, axes = plt.subplots(figsize=(7, 7.6), layout="constrained")
        names = [NAMES[c] for c in order]
        bar = {"label": label, "location": "top", "shrink": 0.8, "aspect": 40}
        sns.heatmap(np.asarray(matrix)[np.ix_(order, order)], cmap=MAP, xticklabels=names, yticklabels=names,
                    square=True, cbar_kws=bar, ax=axes)  # fmt: skip
        axes.tick_params(labelsize=9, length=0)
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
        figure, axes = plt.subplots(figsize=(7, 1.6 + 0.19 * len(labels)), layout="constrained")
        image = axes.imshow(cosines[rows][:, order], cmap=MAP, aspect="auto")
        axes.scatter(
            rank[labels[rows]], range(len(labels)), s=28, facecolors="none", edgecolors="#D55E00", linewidths=1.4
        )
        axes.set_xticks(range(len(order)), [NAMES[c] for c in order], rotation=90, fontsize=9)
        axes.set_yticks(range(len(labels)), [NAMES[c] for c in labels[rows]], fontsize=9)
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
        for i, (name, values) in enumerate(seconds.items()):
            axes.hist(values, bins=np.linspace(0, longest, 40).tolist(), density=True, histtype="step", linewidth=1.6,
                      linestyle=LINES[i % len(LINES)], label=name)  # fmt: skip
        axes.set(xlabel="seconds", ylabel="share of clips")
        axes.set_yticks([])
        axes.legend()
        return finish(figure)


def feature_map(
    points: Mapping[str, np.ndarray], labels: np.ndarray, *, texts: Mapping[str, np.ndarray] | None = None
) -> Figure:
    """Features projected to a plane, one panel per model, each clip with the colour and shape of its body part.

    The axes of a projection have no unit and no common scale, so they are not drawn.

    Args:
        points: title of a panel → [N, 2], of the same clips.
        labels: [N] integers 0..C-1; clips of label -1 are left out.
        texts: title of a panel → [C, 2], the class sentences in the same plane, drawn as larger signs with a rim.
    """
    texts = texts or {}
    part = np.array([GROUPS.index(g.group) for g in CLASSES])
    known = labels >= 0
    part_of_clip = part[labels[known]]
    columns = min(3, len(points))
    rows = -(-len(points) // columns)
    with style():
        side = 7 / columns if columns > 1 else 4.4
        figure, grid = plt.subplots(
            rows, columns, figsize=(columns * side, rows * side + 0.5), layout="constrained", squeeze=False
        )
        for axes in grid.flat[len(points) :]:
            axes.set_visible(False)
        for axes, (title, xy) in zip(grid.flat, points.items(), strict=False):
            if xy.shape != (len(labels), 2):
                raise ConfigError(f"{title} has shape {xy.shape}, not ({len(labels)}, 2)")
            for i, group in enumerate(GROUPS):
                shown = xy[known][part_of_clip == i]
                axes.scatter(*shown.T, s=12, marker=MARKERS[i], color=PALETTE[i], alpha=0.8, linewidths=0, label=group)
            for i in range(len(GROUPS)) if title in texts else ():
                shown = texts[title][part == i]
                axes.scatter(*shown.T, s=55, marker=MARKERS[i], color=PALETTE[i], edgecolors=GREY, linewidths=1.2)
            axes.set_title(title, fontsize=9)
            axes.set(xticks=[], yticks=[])
            axes.set_aspect("equal", "datalim")
            axes.spines[:].set_visible(True)
        handles, names = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=6 if columns > 1 else 3, markerscale=1.6)
        return finish(figure)


def line_by(
    x: Sequence[float] | np.ndarray,
    series: Mapping[str, Sequence[float] | np.ndarray],
    xlabel: str,
    ylabel: str,
    *,
    log_x: bool = False,
) -> Figure:
    """Lines with a sign at each measured value: an accuracy by a setting, a cost by layer.

    Args:
        x: the settings.
        series: name of a line → its values at ``x``; NaN leaves a gap.
        xlabel, ylabel: of the axes.
        log_x: logarithmic axis; a setting of 0 stands at its left end.
    """
    at = np.asarray(x, dtype=float)
    with style():
        figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
        for i, (name, values) in enumerate(series.items()):
            if np.shape(values) != at.shape:
                raise ConfigError(f"{name} has shape {np.shape(values)}, not {at.shape}")
            axes.plot(at, np.asarray(values, dtype=float), **_look(i), label=name)
        if log_x:
            axes.set_xscale("symlog" if at.min() <= 0 else "log", **_linear_below(at))
        if len(at) <= 16 and (log_x or (at == at.round()).all()):
            axes.set_xticks(at, [f"{value:g}" for value in at])
            axes.set_xticks([], minor=True)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.grid()
        if len(series) > 1:
            figure.legend(loc="outside right upper")
        return finish(figure)


def _linear_below(at: np.ndarray) -> dict[str, float]:
    if at.min() > 0:
        return {}
    if at.min() < 0 or at.max() <= 0:
        raise ConfigError("a logarithmic axis of settings below 0", hint="draw it without log_x")
    return {"linthresh": float(at[at > 0].min())}


def forest(rows: Sequence[tuple[str, float, float, float]], xlabel: str, *, reference: float | None = None) -> Figure:
    """Values with their intervals, one method per line, from top to bottom.

    Args:
        rows: name, value, lower and upper end of its interval; NaN ends where there is none.
        xlabel: of the axis.
        reference: where a line is drawn across, such as the score of a guess, or 0 for differences.
    """
    with style():
        figure, axes = plt.subplots(figsize=(7, 0.75 + 0.3 * len(rows)), layout="constrained")
        height = np.arange(len(rows))
        names, values, lows, highs = zip(*rows, strict=True)
        if reference is not None:
            axes.axvline(reference, color=GREY, linestyle="--", linewidth=1)
        axes.hlines(height, lows, highs, color=PALETTE[0], linewidth=2)
        axes.plot(values, height, "o", color=PALETTE[0], markersize=6)
        axes.set_yticks(height, names)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(xlabel)
        axes.grid(axis="x")
        return finish(figure)


def trade_off(
    lines: Mapping[str, Sequence[tuple[float, float]]], xlabel: str, ylabel: str, *, reference: tuple[float, float]
) -> Figure:
    """Gain against cost: one line per method, a marker for each of its budgets.

    Args:
        lines: method → (cost, score) of each budget, in any order; a method without any is left out.
        xlabel, ylabel: of the axes.
        reference: (cost, score) of what all methods start from.
    """
    with style():
        figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
        axes.axhline(reference[1], color=GREY, linestyle="--", linewidth=1)
        axes.plot(*reference, "*", color=GREY, markersize=11, label="all tokens")
        for i, (name, points) in enumerate((n, p) for n, p in lines.items() if p):
            axes.plot(*zip(*sorted(points), strict=True), **_look(i), label=name)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return finish(figure)


def timeline(seconds: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], *, most: int = 8) -> Figure:
    """What is seen when: the classes that lead anywhere, a row each, the darker the more probable.

    Args:
        seconds: [W, 2] start and end of the windows, which may overlap.
        probabilities: [W, C].
        labels: C names.
        most: rows, at most: of the classes with the highest peaks, in the order in which they peak.
    """
    peaks = probabilities.max(0)
    shown = np.argsort(-peaks, kind="stable")[: min(most, len(labels))]
    shown = shown[np.argsort(probabilities[:, shown].argmax(0), kind="stable")]
    centres = seconds.mean(1)
    edges = np.concatenate([seconds[:1, 0], (centres[1:] + centres[:-1]) / 2, seconds[-1:, 1]])
    with style():
        figure, axes = plt.subplots(figsize=(7, 0.7 + 0.26 * len(shown)), layout="constrained")
        rows = np.arange(len(shown) + 1) - 0.5
        drawn = axes.pcolormesh(edges, rows, probabilities[:, shown].T, cmap=MAP, vmin=0, vmax=1)
        axes.set_yticks(range(len(shown)), [labels[c] for c in shown])
        axes.invert_yaxis()
        axes.set_xlabel("seconds")
        figure.colorbar(drawn, ax=axes, label="probability")
        return finish(figure)


def agreement(right: Mapping[str, np.ndarray]) -> Figure:
    """Which streams are right together: one bar for every combination, the most frequent first.

    Each clip is in one bar; the dots under the bar say which streams have it right, and which, left hollow, do not.

    Args:
        right: name of a stream → [N] bool, which clips it has right (:func:`migcore.metrics.correct`).
    """
    names = list(right)
    shapes = {name: np.shape(right[name]) for name in names}
    if not 1 <= len(names) <= 5 or len(set(shapes.values())) > 1:
        raise ConfigError(f"streams of shapes {shapes}", hint="give one to five streams, of the same clips")
    table = np.stack([np.asarray(right[name], dtype=bool) for name in names], axis=1)
    combinations = np.array(list(itertools.product([True, False], repeat=len(names))))
    counts = (table[:, None] == combinations).all(2).sum(0)
    order = np.argsort(-counts, kind="stable")
    combinations, counts = combinations[order], counts[order]
    with style():
        figure, (bars, dots) = plt.subplots(
            2, 1, sharex=True, figsize=(7, 2.4 + 0.26 * len(names)), layout="constrained",
            height_ratios=(2.4, 0.26 * len(names)),
        )  # fmt: skip
        colours = [PALETTE[0] if c.all() else PALETTE[1] if c.any() else GREY for c in combinations]
        drawn = bars.bar(range(len(counts)), counts, 0.7, color=colours)
        if len(names) < 5:
            bars.bar_label(drawn, [f"{100 * n / max(len(table), 1):.0f} %" for n in counts], padding=2, fontsize=9)
        bars.margins(y=0.12)
        bars.set_ylabel("clips")
        bars.tick_params(axis="x", length=0)
        for x, (combination, colour) in enumerate(zip(combinations, colours, strict=True)):
            for y, has in enumerate(combination):
                dots.plot(
                    x, y, "o", markersize=7, color=colour if has else "none", markeredgecolor=colour if has else GREY
                )
        dots.set_yticks(range(len(names)), names)
        dots.set_ylim(len(names) - 0.5, -0.5)
        dots.tick_params(length=0, labelbottom=False)
        dots.spines[:].set_visible(False)
        dots.set_xlabel("right: filled dots; wrong: hollow dots")
        return finish(figure)


def simplex(search: Search, *, marks: Mapping[str, Sequence[float]] | None = None, label: str) -> Figure:
    """A search of three weights as a triangle: one cell per point of the grid, coloured by its score.

    A corner gives all weight to its stream, the opposite side none.

    Args:
        search: of three streams (:func:`migcore.ensemble.search_weights`).
        marks: name of a point to be shown → its three weights in the order of ``search.names``, whose sum need not be 1
            (a common factor changes no prediction); they are numbered, and named beside the triangle.
        label: of the colours.
    """
    marks = marks or {}
    if len(search.names) != 3 or any(len(w) != 3 or min(w) < 0 or sum(w) <= 0 for w in marks.values()):
        raise ConfigError(
            f"a triangle of {len(search.names)} streams and marks {dict(marks)}",
            hint="three streams have a triangle; a mark has three weights, one of them above 0",
        )
    centres = _in_triangle(search.grid)
    angles = np.pi / 6 + np.pi / 3 * np.arange(6)
    hexagon = search.step / np.sqrt(3) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    with style():
        figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
        cells = PolyCollection(list(centres[:, None] + hexagon), array=search.scores, cmap=MAP, edgecolors="face")
        cells.set_linewidth(0.3)
        axes.add_collection(cells)
        best = centres[search.scores >= search.scores.max() - 1e-9]
        handles = []
        if len(best) > 1:
            handles += axes.plot(*best.T, "o", color="black", markeredgecolor="white", markersize=8, label="as good")
        found = _in_triangle(np.array([[search.weights[name] for name in search.names]]))
        handles += axes.plot(
            *found.T, "o", color="none", markeredgecolor="black", markersize=17, markeredgewidth=2, label="found",
            path_effects=[withStroke(linewidth=4.5, foreground="white")],
        )  # fmt: skip
        for i, (name, weights) in enumerate(marks.items(), start=1):
            (x, y) = _in_triangle(np.array([weights], dtype=float) / sum(weights))[0]
            axes.plot(x, y, "o", color="white", markeredgecolor="black", markersize=12, markeredgewidth=0.6)
            axes.annotate(f"{i}", (x, y), color="black", fontsize=9, ha="center", va="center_baseline")
            handles.append(Line2D([], [], linestyle="", marker=f"${i}$", color=GREY, markersize=8, label=name))
        corners = _in_triangle(np.eye(3))
        for name, corner, dy, va in zip(search.names, corners, (1, -1, -1), ("bottom", "top", "top"), strict=True):
            axes.annotate(name, corner, (0, 14 * dy), textcoords="offset points", ha="center", va=va)
        axes.set_aspect("equal")
        axes.margins(0.08)
        axes.autoscale_view()
        axes.axis("off")
        figure.colorbar(cells, ax=axes, label=label, shrink=0.8)
        figure.legend(handles=handles, loc="outside right center")
        return finish(figure)


def _in_triangle(weights: np.ndarray) -> np.ndarray:
    """Points [G, 2] of weights [G, 3]: the first stream on top, the second at the left, the third at the right."""
    return weights @ np.array([[0.5, np.sqrt(3) / 2], [0.0, 0.0], [1.0, 0.0]])
