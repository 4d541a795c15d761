"""Charts show the numbers they are given."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from migcore.ensemble import Search, search_weights
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


def test_grey_is_as_far_from_white_as_from_the_dark_page() -> None:
    def light(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722))) + 0.05

    def contrast(colour: str) -> float:
        return min(light("#ffffff") / light(colour), light(colour) / light("#121212"))

    assert max((f"#{n:02x}{n:02x}{n:02x}" for n in range(256)), key=contrast) == plots.GREY


def test_curves_leave_out_epochs_without_validation() -> None:
    rows = [
        {"epoch": 1, "loss": 3.0, "val": None},
        {"epoch": 2, "loss": 2.0, "val": {"top1": 0.25}},
        {"epoch": 3, "loss": 1.5, "val": {"top1": 0.5}},
    ]
    figure = plots.curves({"run": rows, "late": rows[:1]})
    left, right = figure.axes
    assert right.get_ylabel() == "validation top-1" and len(right.lines) == 1
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["run", "late"]
    assert left.lines[0].get_linestyle() != left.lines[1].get_linestyle()
    assert left.lines[0].get_marker() != left.lines[1].get_marker()
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


def test_feature_maps_show_each_clip_once_with_its_body_part() -> None:
    labels = LABELS.copy()
    labels[:7] = -1
    points = {name: RNG.normal(size=(300, 2)) for name in ("teacher", "student", "third", "fourth")}
    texts = RNG.normal(size=(NUM_CLASSES, 2))
    figure = plots.feature_map(points, labels, texts={"student": texts})
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == list(points)
    group_of = np.array([GROUPS.index(g.group) for g in CLASSES])
    for axes, xy in zip(panels, points.values(), strict=True):
        for i in range(len(GROUPS)):
            shown = axes.collections[i]
            np.testing.assert_array_equal(shown.get_offsets(), xy[7:][group_of[labels[7:]] == i])
            assert to_hex(shown.get_facecolor()[0]) == plots.PALETTE[i].lower()  # type: ignore[index]
    sentences = panels[1].collections[len(GROUPS) :]
    for i, shown in enumerate(sentences):
        np.testing.assert_array_equal(shown.get_offsets(), texts[group_of == i])
    assert len(sentences) == len(GROUPS) == len(panels[0].collections)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == list(GROUPS)
    assert len(plots.feature_map({"one": points["teacher"]}, labels).axes) == 1
    with pytest.raises(ConfigError, match="teacher has shape"):
        plots.feature_map({"teacher": points["teacher"][:9]}, labels)


def test_lines_have_a_tick_at_each_setting_and_zero_on_a_logarithmic_axis() -> None:
    gammas = [0, 0.04, 0.4]
    axes = plots.line_by(gammas, {"joint": [0.1, 0.2, 0.3], "limb": [0.1, np.nan, 0.2]}, "γ", "top-1", log_x=True).axes[
        0
    ]
    assert [line.get_xydata().tolist()[2] for line in axes.lines] == [[0.4, 0.3], [0.4, 0.2]]
    assert np.isnan(axes.lines[1].get_ydata()[1])  # type: ignore[index]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "0.04", "0.4"] and axes.get_xscale() == "symlog"
    at = axes.transData.transform([(g, 0.1) for g in gammas])[:, 0]
    assert at[0] < at[1] < at[2]
    assert axes.lines[0].get_marker() != axes.lines[1].get_marker()
    assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("γ", "top-1")
    assert plots.line_by([1, 10], {"one": [1, 2]}, "x", "y", log_x=True).axes[0].get_xscale() == "log"
    layers = plots.line_by(np.arange(1, 13), {"cost": np.ones(12)}, "block", "MB")
    assert layers.axes[0].get_xticks().tolist() == list(range(1, 13)) and not layers.legends
    with pytest.raises(ConfigError, match="below 0"):
        plots.line_by([-1, 1], {"one": [1, 2]}, "x", "y", log_x=True)
    with pytest.raises(ConfigError, match="one has shape"):
        plots.line_by([1, 2, 3], {"one": [1, 2]}, "x", "y")


def test_forest_draws_one_interval_per_line_from_top_to_bottom() -> None:
    rows = [("first", 0.5, 0.4, 0.7), ("second", 0.3, 0.25, 0.35), ("third", 0.2, np.nan, np.nan)]
    axes = plots.forest(rows, "top-1", reference=0.1).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["first", "second", "third"]
    first, second = axes.get_ylim()
    assert first > second, "the first row is on top"
    ends = [path.vertices.tolist() for path in axes.collections[0].get_paths()]
    assert ends[:2] == [[[0.4, 0], [0.7, 0]], [[0.25, 1], [0.35, 1]]]
    line, points = axes.lines
    assert line.get_xdata() == [0.1, 0.1]
    assert points.get_xydata().tolist() == [[0.5, 0], [0.3, 1], [0.2, 2]]
    assert len(plots.forest(rows, "top-1").axes[0].lines) == 1


def test_a_trade_off_has_a_line_per_method_that_has_points() -> None:
    lines = {"decay": [(3.0, 60.0), (2.0, 50.0)], "none": [], "merge": [(3.0, 55.0)]}
    axes = plots.trade_off(lines, "work", "top-1", reference=(4.0, 70.0)).axes[0]
    level, star, decay, merge = axes.lines
    assert level.get_ydata() == [70.0, 70.0] and star.get_xydata().tolist() == [[4.0, 70.0]]
    assert decay.get_xydata().tolist() == [[2.0, 50.0], [3.0, 60.0]], "from left to right"
    assert merge.get_xydata().tolist() == [[3.0, 55.0]] and decay.get_marker() != merge.get_marker()
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["all tokens", "decay", "merge"]


def test_agreement_puts_each_clip_into_one_bar() -> None:
    right = {"a": RNG.random(300) < 0.8, "b": RNG.random(300) < 0.5, "c": RNG.random(300) < 0.3}
    bars, dots = plots.agreement(right).axes
    heights = [bar.get_height() for bar in bars.patches]
    assert len(heights) == 8 and sum(heights) == 300 and heights == sorted(heights, reverse=True)
    filled = np.array([line.get_markerfacecolor() != "none" for line in dots.lines]).reshape(8, 3)
    assert len(np.unique(filled, axis=0)) == 8
    table = np.stack(list(right.values()), axis=1)
    for row, height, bar in zip(filled, heights, bars.patches, strict=True):
        assert height == (table == row).all(1).sum()
        assert (to_hex(bar.get_facecolor()) == plots.GREY) == (not row.any()), "none right is grey"
    assert bars.texts[0].get_text() == f"{100 * heights[0] / 300:.0f} %"
    assert [t.get_text() for t in dots.get_yticklabels()] == ["a", "b", "c"]
    with pytest.raises(ConfigError, match="same clips"):
        plots.agreement({"a": right["a"], "b": right["b"][:5]})
    with pytest.raises(ConfigError, match="one to five"):
        plots.agreement({})


def searched(streams: int) -> Search:
    """A search on logits that are right now and then."""
    logits = {f"s{i}": RNG.normal(size=(12, 3)) + np.eye(3)[np.arange(12) % 3] for i in range(streams)}
    return search_weights(logits, np.arange(12) % 3, step=0.1, classes=3)


def test_simplex_has_a_cell_per_point_and_marks_where_their_weights_are() -> None:
    search = searched(3)
    marks = {"even": (1.0, 1.0, 1.0), "last": (0.0, 0.0, 0.5), "paper": (0.6, 0.2, 0.6)}
    figure = plots.simplex(search, marks=marks, label="top-1")
    axes = figure.axes[0]
    cells = axes.collections[0]
    np.testing.assert_array_equal(cells.get_array(), search.scores)
    corners = np.array([[0.5, np.sqrt(0.75)], [0, 0], [1, 0]])
    centres = np.array([path.vertices[:6].mean(0) for path in cells.get_paths()])
    np.testing.assert_allclose(centres, search.grid @ corners, atol=1e-12)
    width = np.ptp(cells.get_paths()[0].vertices[:, 0])
    assert width == pytest.approx(0.1), "cells touch"

    texts = {t.get_text(): t for t in axes.texts}
    for name, corner in zip(search.names, corners, strict=True):
        np.testing.assert_allclose(texts[name].xy, corner)  # type: ignore[attr-defined]
    for number, weights in (("1", [1 / 3] * 3), ("2", [0, 0, 1]), ("3", [3 / 7, 1 / 7, 3 / 7])):
        np.testing.assert_allclose(texts[number].xy, weights @ corners)  # type: ignore[attr-defined]
    named = [t.get_text() for t in figure.legends[0].get_texts()]
    assert named[-4:] == ["found", *marks]
    by_name = {str(line.get_label()): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(by_name["found"], [list(search.weights.values()) @ corners])
    same = search_weights(dict.fromkeys("abc", np.eye(3)), [0, 1, 2], step=0.5, classes=3)
    figure = plots.simplex(same, label="top-1")
    assert len(figure.axes[0].lines[0].get_xydata()) == same.ties == 6
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["as good", "found"]


def test_only_three_streams_have_a_triangle() -> None:
    with pytest.raises(ConfigError, match="three streams"):
        plots.simplex(searched(2), label="top-1")
    for weights in ((1.0, 0.0), (0.0, 0.0, 0.0), (1.0, -0.5, 0.5)):
        with pytest.raises(ConfigError, match="a mark has three weights"):
            plots.simplex(searched(3), marks={"wrong": weights}, label="top-1")
