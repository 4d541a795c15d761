"""Charts show the numbers they are given."""

from __future__ import annotations

import numpy as np
import pytest

from migcore.errors import ConfigError
from migcore.labels import CLASSES, GROUPS, NUM_CLASSES
from migcore.report import plots

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, NUM_CLASSES, 300)
PREDICTED = np.where(RNG.random(300) < 0.5, LABELS, RNG.integers(0, NUM_CLASSES, 300))


def test_recalls_are_shares_of_each_class_and_absent_classes_are_missing() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 5]), np.array([0, 0, 1, 1, 0])
    found = plots.recalls(predicted, labels)
    assert found[0] == pytest.approx(2 / 3) and found[1] == 1 and found[5] == 0
    assert np.isnan(np.delete(found, [0, 1, 5])).all()


def test_class_bars_are_sorted_by_body_part() -> None:
    values = np.arange(NUM_CLASSES, dtype=float) + 1
    figure = plots.class_bars({"one": values, "two": 2 * values}, label="clips")
    axes = figure.axes[0]
    names = [t.get_text() for t in axes.get_yticklabels()]
    groups = [next(g.group for g in CLASSES if g.name == name) for name in names]
    assert groups == sorted(groups, key=GROUPS.index)
    widths = [bar.get_width() for bar in axes.containers[1]]
    assert widths == [2 * (next(g.id for g in CLASSES if g.name == name) + 1) for name in names]
    assert figure.get_facecolor()[3] == 0, "a figure has no background, to be read in dark mode"
    with pytest.raises(ConfigError, match="shape"):
        plots.class_bars({"short": [1.0, 2.0]}, label="clips")


def test_curves_leave_out_epochs_without_validation() -> None:
    rows = [
        {"epoch": 1, "loss": 3.0, "val": None},
        {"epoch": 2, "loss": 2.0, "val": {"top1": 0.25}},
        {"epoch": 3, "loss": 1.5, "val": {"top1": 0.5}},
    ]
    left, right = plots.curves({"run": rows}).axes
    assert left.lines[0].get_ydata().tolist() == [3.0, 2.0, 1.5]
    assert right.lines[0].get_xdata().tolist() == [2, 3] and right.lines[0].get_ydata().tolist() == [0.25, 0.5]


def test_group_confusion_is_in_percent_of_the_row() -> None:
    mesh = plots.group_confusion(PREDICTED, LABELS).axes[0].collections[0].get_array()
    assert mesh is not None
    share = np.asarray(mesh).reshape(len(GROUPS), len(GROUPS))
    np.testing.assert_allclose(share.sum(1), 100)
    hand = [g.id for g in CLASSES if g.group == "hand"]
    inside = np.isin(PREDICTED[np.isin(LABELS, hand)], hand).mean()
    assert share[GROUPS.index("hand"), GROUPS.index("hand")] == pytest.approx(100 * inside)


def test_class_confusion_and_similarity_permute_rows_and_columns_alike() -> None:
    order = plots.by_group()
    matrix = RNG.random((NUM_CLASSES, NUM_CLASSES))
    shown = np.asarray(plots.similarity(matrix).axes[0].collections[0].get_array()).reshape(matrix.shape)
    np.testing.assert_array_equal(shown, matrix[np.ix_(order, order)])
    share = np.asarray(plots.class_confusion(PREDICTED, LABELS).axes[0].collections[0].get_array())
    np.testing.assert_allclose(share.reshape(matrix.shape).sum(1), 100)


def test_rings_mark_the_true_class_of_each_clip() -> None:
    labels = np.array([31, 3, 3, 28])
    cosines = np.zeros((4, NUM_CLASSES))
    cosines[np.arange(4), labels] = 1
    axes = plots.against_texts(cosines, labels).axes[0]
    image = np.asarray(axes.images[0].get_array())
    for x, y in axes.collections[0].get_offsets():
        assert image[int(y), int(x)] == 1


def test_durations_draw_every_split() -> None:
    figure = plots.durations({"train": RNG.random(50) + 0.5, "test": RNG.random(20) + 0.5})
    legend = figure.axes[0].get_legend()
    assert legend is not None and [t.get_text() for t in legend.get_texts()] == ["train", "test"]
