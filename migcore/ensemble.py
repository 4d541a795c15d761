"""Fusion of streams (paper, section 2.5): Eq. 7, a weighted sum of what the models say, and the search of its weights.

Found on one split, used on another (``val``, ``test``: logits [N, C] of each stream, by name)::

    from migcore.ensemble import fuse, search_weights

    found = search_weights(val, labels_val, classes=5)
    fuse(test, found.weights).argmax(1)  # predictions

Letters: N clips, C classes, S streams, G points of the grid, P classes that the search split has.

Choices:

* Probabilities are summed, as PoseC3D's authors and the 2023 winner do; the paper says "logits", and these are an
  option, though those of CLIP (cosines times a learnt scale) and of a linear head have no common unit.
* :func:`fuse` takes weights as given; they need not sum to one (the paper's last row sums to 1.4).
* :func:`search_weights` looks at every point of one grid with a fixed step, where the paper's rows have none. A factor
  common to all weights changes no prediction, so nothing is lost by weights that sum to one.
* A grid on few clips has many equal best points. Of these the most even is taken, because the data give no reason to
  trust one stream more, and not the first one met.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from migcore.data.imigue import UNLABELLED, AbsentClassWarning
from migcore.errors import ConfigError, DataError
from migcore.labels import CLASSES, NUM_CLASSES

LARGEST_GRID = 1_000_000
"""Points that :func:`search_weights` is ready to look at."""


def fuse(
    streams: Mapping[str, ArrayLike],
    weights: Mapping[str, float],
    *,
    kind: Literal["probabilities", "logits"] = "probabilities",
) -> np.ndarray:
    """Eq. 7: ``Y = w₁ y₁ + w₂ y₂ + w₃ y₃``, for any number of streams.

    Args:
        streams: logits [N, C] of each stream, by name, of the same clips in the same order; logits with either kind:
            their soft-max is taken here.
        weights: a number not below 0 for each of them, at least one above.
        kind: sum soft-max probabilities, or the logits themselves.

    Returns:
        [N, C] float64; the largest of a row is the fused prediction.

    Raises:
        ConfigError: a stream has no weight, a weight no stream, all weights are 0, one is negative, or ``kind`` is
            unknown.
        DataError: the streams differ in shape, or a logit is not a finite number.
    """
    if not streams or set(streams) != set(weights):
        raise ConfigError(
            f"streams {sorted(streams)} with weights for {sorted(weights)}", hint="give one weight per stream"
        )
    if any(not 0 <= w < np.inf for w in weights.values()) or not any(weights.values()):
        raise ConfigError(f"weights {dict(weights)}", hint="weights are 0 or more, and one is above 0")
    logits = _checked(streams, kind)
    terms = [weights[name] * (_softmax(y) if kind == "probabilities" else y) for name, y in logits.items()]
    return np.sum(terms, axis=0)


@dataclass(frozen=True, eq=False)
class Search:
    """What :func:`search_weights` looked at and found.

    Attributes:
        weights: the found weight of each stream, by name; they sum to 1.
        score: what they reach on the search split, 0..1.
        step: distance of two neighbouring weights.
        kind: what was summed, "probabilities" or "logits".
        metric: what was scored, "top1" or "mean_class".
        split: the split that was searched.
        grid: [G, S] float64, all weights looked at.
        scores: [G] float64, what each reaches.
        ties: how many points reach the best score, the found one among them.
        absent: the classes that no clip of the search split shows.
        names: the streams, in the order of the grid's columns.
    """

    weights: dict[str, float]
    score: float
    step: float
    kind: Literal["probabilities", "logits"]
    metric: Literal["top1", "mean_class"]
    split: str
    grid: np.ndarray
    scores: np.ndarray
    ties: int
    absent: tuple[int, ...]
    names: tuple[str, ...]


def search_weights(
    streams: Mapping[str, ArrayLike],
    labels: ArrayLike,
    *,
    step: float = 0.05,
    split: str = "val",
    kind: Literal["probabilities", "logits"] = "probabilities",
    metric: Literal["top1", "mean_class"] = "top1",
    classes: int = NUM_CLASSES,
) -> Search:
    """The best weights of :func:`fuse` that are multiples of ``step`` and sum to one, for any number of streams.

    The grid goes from all weight on the first stream to all weight on the last. Of points with equal scores the one
    with the most even weights is found (least sum of squares), and of equally even ones the first of the grid; scores
    and squares are compared as whole numbers and fractions, without rounding.

    Args:
        streams: logits [N, C] of each stream, by name, of the same clips in the same order; logits with either kind.
        labels: [N] integers 0..C-1, or -1 for clips without label, which are left out.
        step: distance of two neighbouring weights; one divided by it is a whole number.
        split: name of the clips' split, which is recorded.
        kind: sum soft-max probabilities, or the logits themselves.
        metric: field of :func:`migcore.metrics.classification` that is made as large as possible.
        classes: C, the width of the logits; iMiGUE's 32 if nothing is said.

    Raises:
        ConfigError: there is no stream, ``step`` does not divide 1, the grid has more than a million points, or
            ``kind`` or ``metric`` is unknown.
        DataError: no clip is labelled, a label is out of range, the shapes do not fit, or a logit is not a finite
            number.

    Warns:
        AbsentClassWarning: classes have no clip here, so that the weights were never judged on them.
    """
    if not streams:
        raise ConfigError("a search without streams", hint="give the logits of one stream or more")
    if metric not in ("top1", "mean_class"):
        raise ConfigError(f"a search for the best {metric!r}", hint="search for top1 or mean_class")
    units = _simplex(len(streams), step)
    logits = _checked(streams, kind)
    truth = _checked_labels(labels, next(iter(logits.values())).shape, classes)
    labelled = truth != UNLABELLED
    if not labelled.any():
        raise DataError(f"no clip of split {split!r} is labelled", hint="search on a split with labels")
    truth = truth[labelled]
    present, support = np.unique(truth, return_counts=True)
    absent = tuple(sorted(set(range(classes)) - set(present.tolist())))
    if absent:
        _warn_of_absent_classes(absent, split, classes)

    kept = [y[labelled] for y in logits.values()]
    terms = [_softmax(y) for y in kept] if kind == "probabilities" else kept
    steps = int(units[0].sum())
    grid = units / steps
    hits = _hits(terms, truth, grid)
    scores = hits.sum(1) / support.sum() if metric == "top1" else (hits / support).mean(1)
    best = _best(hits, support, scores, metric)
    squares = (units[best] ** 2).sum(1)
    found = int(best[squares.argmin()])
    return Search(
        weights=dict(zip(logits, grid[found].tolist(), strict=True)),
        score=float(scores[found]),
        step=1 / steps,
        kind=kind,
        metric=metric,
        split=split,
        grid=grid,
        scores=scores,
        ties=len(best),
        absent=absent,
        names=tuple(logits),
    )


def _checked(streams: Mapping[str, ArrayLike], kind: str) -> dict[str, np.ndarray]:
    if kind not in ("probabilities", "logits"):
        raise ConfigError(f"fusion of {kind!r}", hint="fuse probabilities or logits")
    logits = {name: np.asarray(stream, np.float64) for name, stream in streams.items()}
    shapes = {name: stream.shape for name, stream in logits.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise DataError(f"streams of shapes {shapes}", hint="each is [N, C], of the same clips and classes")
    for name, stream in logits.items():
        if not np.isfinite(stream).all():
            raise DataError(f"stream {name!r} holds NaN or infinity", hint="the model diverged; train it again")
    return logits


def _checked_labels(labels: ArrayLike, shape: tuple[int, ...], classes: int) -> np.ndarray:
    truth = np.asarray(labels)
    if shape[1] != classes or truth.shape != shape[:1]:
        raise DataError(
            f"streams [N, C] of shape {shape} with labels of shape {truth.shape} for {classes} classes",
            hint="give one label per clip and the number of classes",
        )
    if truth.size and (
        not np.issubdtype(truth.dtype, np.integer) or truth.min() < UNLABELLED or truth.max() >= classes
    ):
        raise DataError(f"labels are not integers 0..{classes - 1}, or -1", hint="labels count from 0")
    return truth.astype(np.int64)


def check_grid(streams: int, step: float) -> int:
    """How many steps :func:`search_weights` shares out among streams.

    Raises:
        ConfigError: one divided by ``step`` is no whole number, or there are more than a million ways.
    """
    steps = round(1 / step) if 1e-9 < step <= 1 else 0
    if not math.isclose(steps * step, 1, abs_tol=1e-9):
        raise ConfigError(f"a step of {step}", hint="one divided by the step is a whole number, as with 0.05")
    points = math.comb(steps + streams - 1, streams - 1)
    if points > LARGEST_GRID:
        raise ConfigError(
            f"{points:,} points of step {step} for {streams} streams",
            hint=f"take a larger step; at most {LARGEST_GRID:,} points are looked at",
        )
    return steps


def _simplex(streams: int, step: float) -> np.ndarray:
    """All ways to give whole steps to streams, the first stream's share falling: [G, S] int64."""
    steps = check_grid(streams, step)
    points = math.comb(steps + streams - 1, streams - 1)
    # A way to share out steps is a way to set bars between them: the gaps between neighbouring bars are the shares.
    bars = itertools.combinations(range(steps + streams - 1), streams - 1)
    inner = np.fromiter(itertools.chain.from_iterable(bars), np.int64, points * (streams - 1))
    edges = np.pad(inner.reshape(points, streams - 1), ((0, 0), (1, 1)), constant_values=-1)
    edges[:, -1] = steps + streams - 1
    return np.diff(edges, axis=1)[::-1] - 1


def _hits(terms: list[np.ndarray], truth: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """How many clips of each class that the split has are right at each point: [G, P] int64."""
    one_hot = (truth[:, None] == np.unique(truth)).astype(np.float32)  # sums of ones are exact far beyond any split
    chunk = max(1, 2_000_000 // terms[0].size)
    hits = np.empty((len(grid), one_hot.shape[1]), np.int64)
    for start in range(0, len(grid), chunk):
        weights = grid[start : start + chunk, :, None, None]
        fused = weights[:, 0] * terms[0]
        for s in range(1, len(terms)):  # in the order in which fuse adds, so that rounding is the same
            fused += weights[:, s] * terms[s]
        hits[start : start + chunk] = (fused.argmax(2) == truth).astype(np.float32) @ one_hot
    return hits


def _best(hits: np.ndarray, support: np.ndarray, scores: np.ndarray, metric: str) -> np.ndarray:
    """Indices of the points with the best score; scores that rounding may have parted are compared as fractions."""
    near = np.flatnonzero(scores >= scores.max() - 1e-9)
    kinds, kind_of = np.unique(hits[near], axis=0, return_inverse=True)
    sizes = [1] * len(support) if metric == "top1" else support.tolist()
    exact = [sum((Fraction(h, n) for h, n in zip(row, sizes, strict=True)), Fraction()) for row in kinds.tolist()]
    highest = max(exact)
    return near[np.array([value == highest for value in exact])[kind_of.reshape(-1)]]


def _warn_of_absent_classes(absent: tuple[int, ...], split: str, classes: int) -> None:
    names = ", ".join(f"{c} {CLASSES[c].name}" if classes == NUM_CLASSES else str(c) for c in absent)
    message = f"split {split} has no clip of {len(absent)} of {classes} classes; the weights never met: {names}"
    warnings.warn(message, AbsentClassWarning, stacklevel=3)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
