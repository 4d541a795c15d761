"""Accuracies, intervals and tests on the predictions of a split.

Letters: N clips, C classes, K clusters (subjects).

Choices:

* Mean-class accuracy is over the classes that the split has. The published variant (pyskl, mmaction2) is over the union
  of true and predicted classes, where one that is only predicted counts 0; it is given beside it.
* Clips of one subject resemble each other: an interval resamples subjects, not clips.
* Ties between classes go to the lower label, so that a score never depends on a sorting routine.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from migcore.errors import ConfigError, DataError


def classification(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Accuracies of one split.

    Args:
        logits: [N, C]; logits or probabilities, only their order matters.
        labels: [N] integers 0..C-1.

    Returns:
        ``top1``, ``top5`` (of fewer than five classes: 1), ``mean_class``, ``mean_class_published`` in 0..1, and the
        counts ``n`` and ``classes_present``.

    Raises:
        DataError: there is no clip, the shapes do not fit, a label is out of range or a logit is NaN.
    """
    scores, truth = _checked(logits, labels)
    counts = confusion(scores, truth)
    rank = _rank_of_truth(scores, truth)
    support, predicted = counts.sum(1), counts.sum(0)
    present = support > 0
    recalls = counts.diagonal()[present] / support[present]
    return {
        "top1": float((rank < 1).mean()),
        "top5": float((rank < 5).mean()),
        "mean_class": float(recalls.mean()),
        "mean_class_published": float(recalls.sum() / (present | (predicted > 0)).sum()),
        "n": len(truth),
        "classes_present": int(present.sum()),
    }


def confusion(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Counts [C, C] int64: true class by row, predicted class by column.

    Raises:
        DataError: as :func:`classification`.
    """
    scores, truth = _checked(logits, labels)
    counts = np.zeros((scores.shape[1], scores.shape[1]), np.int64)
    np.add.at(counts, (truth, scores.argmax(1)), 1)
    return counts


def correct(logits: ArrayLike, labels: ArrayLike, *, k: int = 1) -> np.ndarray:
    """Which clips have their class among the ``k`` best: [N] bool, for :func:`bootstrap_interval`, :func:`mcnemar`.

    Raises:
        DataError: as :func:`classification`.
    """
    return _rank_of_truth(*_checked(logits, labels)) < k


def bootstrap_interval(
    values: ArrayLike,
    clusters: ArrayLike,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    draws: int = 2000,
) -> tuple[float, float]:
    """Percentile interval of a mean over clips, by drawing whole clusters with replacement.

    Args:
        values: [N], one number per clip: 0 or 1 for an accuracy, a difference of two for a comparison.
        clusters: [N], the subject of each clip (strings or integers).
        rng: source of the draws.
        level: share of the draws inside the interval.
        draws: how many.

    Returns:
        lower and upper end.

    Raises:
        DataError: the shapes do not fit, or there are fewer than two clusters (then nothing is known about others).
        ConfigError: ``level`` is not inside 0..1 or ``draws`` under 1.
    """
    value = np.asarray(values, np.float64)
    names, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    if value.ndim != 1 or cluster.shape != value.shape:
        raise DataError(f"{value.shape} values in {cluster.shape} clusters", hint="give one value and subject per clip")
    if len(names) < 2:
        raise DataError(
            f"an interval over {len(names)} subject(s)", hint="give clips of at least two subjects, or show no interval"
        )
    if not 0 < level < 1 or draws < 1:
        raise ConfigError(f"an interval of level {level} from {draws} draws")
    sums = np.bincount(cluster, value)
    sizes = np.bincount(cluster)
    drawn = rng.integers(len(names), size=(draws, len(names)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """Two-sided exact McNemar test of two classifiers on the same clips.

    Args:
        correct_a: [N] bool, which clips the first has right: from :func:`correct`, not predicted classes.
        correct_b: [N] bool, the second.

    Returns:
        p, 0..1: how likely so uneven a split of the clips that only one of them has right is, were both equally good.

    Raises:
        DataError: the shapes do not fit.
    """
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if a.ndim != 1 or a.shape != b.shape:
        raise DataError(f"{a.shape} against {b.shape} clips", hint="both must be judged on the same clips")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n = only_a + only_b
    ways = tail = 1  # exact integers, whose quotient is right at any n: n over i, and its sum up to the smaller count
    for i in range(min(only_a, only_b)):
        ways = ways * (n - i) // (i + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**n)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction for testing several claims at once.

    Args:
        p_values: p of each claim, by name.

    Returns:
        adjusted p by name, in the given order; a claim holds at level α if its adjusted p is at most α.

    Raises:
        DataError: a p is not in 0..1.
    """
    if any(not 0 <= p <= 1 for p in p_values.values()):
        raise DataError(f"p-values {list(p_values.values())}", hint="each is in 0..1")
    adjusted: dict[str, float] = {}
    largest = 0.0
    for done, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    scores, truth = np.asarray(logits), np.asarray(labels)
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or not len(truth):
        raise DataError(
            f"logits of shape {list(scores.shape)} for labels of shape {list(truth.shape)}",
            hint="logits are [N, C] and labels [N], for at least one clip",
        )
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise DataError(f"labels are not integers 0..{scores.shape[1] - 1}", hint="labels count from 0")
    if np.isnan(scores).any():
        row = int(np.isnan(scores).any(1).argmax())
        raise DataError(f"the logits of clip {row} hold NaN", hint="the model diverged; lower its learning rate")
    return scores, truth.astype(np.int64)


def _rank_of_truth(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How many classes stand before the true one: [N], 0 when it is predicted."""
    own = np.take_along_axis(scores, truth[:, None], 1)
    earlier = np.arange(scores.shape[1]) < truth[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(1)
