"""Eq. 7 and the search of its weights against naive versions, by hand, and with input that does not fit."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migcore import metrics, reference
from migcore.data.imigue import AbsentClassWarning
from migcore.ensemble import Search, fuse, search_weights
from migcore.errors import ConfigError, DataError
from migcore.labels import NUM_CLASSES


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 5), c=st.integers(1, 6), scale=st.sampled_from([1.0, 100.0]))
def test_equal_to_the_naive_version(seed: int, n: int, c: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    streams = {name: rng.normal(0, scale, (n, c)).astype(np.float32) for name in ("rgb", "joint", "limb")}
    weights = {"limb": 0.05, "rgb": 0.55, "joint": 0.4}
    naive = reference.fuse([streams[name] for name in weights], list(weights.values()))
    np.testing.assert_allclose(fuse(streams, weights), naive, atol=1e-6)
    np.testing.assert_allclose(fuse(streams, weights).sum(1), 1.0)


def test_one_stream_of_weight_one_is_its_soft_max() -> None:
    logits = np.array([[0.0, np.log(3.0)]])
    np.testing.assert_allclose(fuse({"rgb": logits, "joint": logits[:, ::-1]}, {"rgb": 1, "joint": 0}), [[0.25, 0.75]])


def test_logits_are_summed_as_they_are() -> None:
    streams = {"a": [[1.0, 2.0]], "b": [[10.0, -10.0]]}
    np.testing.assert_allclose(fuse(streams, {"a": 2.0, "b": 0.5}, kind="logits"), [[7.0, -1.0]])


def test_two_streams_can_outvote_a_sure_one_on_probabilities_but_not_on_logits() -> None:
    streams = {"a": [[50.0, 0.0]], "b": [[0.0, 3.0]], "c": [[0.0, 3.0]]}
    weights = dict.fromkeys(streams, 1.0)
    assert fuse(streams, weights).argmax() == 1
    assert fuse(streams, weights, kind="logits").argmax() == 0


def test_wrong_input_is_named() -> None:
    logits = np.zeros((2, 3))
    for streams, weights in (({}, {}), ({"a": logits}, {"b": 1.0}), ({"a": logits}, {"a": 1.0, "b": 1.0})):
        with pytest.raises(ConfigError, match="one weight per stream"):
            fuse(streams, weights)
    for weight in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ConfigError, match="weights are 0 or more"):
            fuse({"a": logits}, {"a": weight})
    with pytest.raises(ConfigError, match="'votes'"):
        fuse({"a": logits}, {"a": 1.0}, kind="votes")  # type: ignore[arg-type]
    for other in (np.zeros((3, 3)), np.zeros((2, 4)), np.zeros(3)):
        with pytest.raises(DataError, match="same clips and classes"):
            fuse({"a": logits, "b": other}, {"a": 1.0, "b": 1.0})
    with pytest.raises(DataError, match="'b' holds NaN"):
        fuse({"a": logits, "b": logits * np.nan}, {"a": 1.0, "b": 1.0})


PAPER = (
    (1.0, 0.0, 0.0),
    (0.0, 1.0, 0.0),
    (0.0, 0.0, 1.0),
    (0.2, 0.4, 0.4),
    (0.3, 0.35, 0.35),
    (0.4, 0.3, 0.3),
    (0.55, 0.4, 0.05),
    (0.5, 0.25, 0.25),
    (0.6, 0.2, 0.6),
)
"""Table 2: weights of RGB, joints and limbs."""


def make(seed: int, n: int, c: int, streams: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Streams that are right now and then, and labels in which every class occurs."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(c), rng.integers(0, c, n - c)])
    logits = {f"s{i}": rng.normal(0, 1, (n, c)) + np.eye(c)[labels] for i in range(streams)}
    return logits, labels


def search(streams: dict[str, np.ndarray], labels: Any, **options: Any) -> Search:
    """The search on a few classes of which none is absent."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return search_weights(streams, labels, classes=next(iter(streams.values())).shape[1], **options)


@pytest.mark.parametrize("metric", ["top1", "mean_class"])
@pytest.mark.parametrize("kind", ["probabilities", "logits"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_search_is_the_naive_loop(count: int, kind: Any, metric: Any) -> None:
    streams, labels = make(count, 40, 4, count)
    found = search(streams, labels, step=0.2, kind=kind, metric=metric, split="dev")
    points = [p for p in itertools.product(range(5, -1, -1), repeat=count) if sum(p) == 5]
    assert found.grid.tolist() == [[k / 5 for k in p] for p in points], "all points, from the first stream to the last"
    scores = [
        metrics.classification(fuse(streams, dict(zip(streams, row, strict=True)), kind=kind), labels)[metric]
        for row in found.grid.tolist()
    ]
    assert found.scores.tolist() == scores
    assert found.score == pytest.approx(max(scores), abs=1e-12)
    ties = [p for p, score in zip(points, scores, strict=True) if score > max(scores) - 1e-12]
    assert found.ties == len(ties)
    even = min(ties, key=lambda p: sum(k * k for k in p))
    assert found.weights == {name: k / 5 for name, k in zip(streams, even, strict=True)}
    assert (found.kind, found.metric, found.split, found.step) == (kind, metric, "dev", 0.2)
    assert found.names == tuple(streams) and found.absent == ()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 4),
    steps=st.sampled_from([1, 3, 7, 10]),
    metric=st.sampled_from(["top1", "mean_class"]),
)
def test_found_weights_are_at_least_as_good_as_each_stream_alone(
    seed: int, count: int, steps: int, metric: Any
) -> None:
    streams, labels = make(seed, 25, 3, count)
    found = search(streams, labels, step=1 / steps, metric=metric)
    alone = [metrics.classification(logits, labels)[metric] for logits in streams.values()]
    assert found.score >= max(alone) - 1e-12
    fused = metrics.classification(fuse(streams, found.weights), labels)
    assert fused[metric] == found.score
    assert sum(found.weights.values()) == pytest.approx(1) and min(found.weights.values()) >= 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), turned=st.permutations(["s0", "s1", "s2"]), soft=st.booleans())
def test_streams_in_another_order_get_the_same_weights(seed: int, turned: list[str], soft: bool) -> None:
    streams, labels = make(seed, 25, 3, 3)
    kind: Any = "probabilities" if soft else "logits"
    one = search(streams, labels, step=0.1, kind=kind)
    other = search({name: streams[name] for name in turned}, labels, step=0.1, kind=kind)
    assert (one.score, one.ties) == (other.score, other.ties)
    columns = [one.names.index(name) for name in other.names]
    scores = {tuple(row): score for row, score in zip(one.grid[:, columns].tolist(), one.scores, strict=True)}
    assert [scores[tuple(row)] for row in other.grid.tolist()] == other.scores.tolist()
    # of two equally even best points the first is found, which depends on the order; how even they are does not
    squares = [sum(round(10 * w) ** 2 for w in found.weights.values()) for found in (one, other)]
    assert squares[0] == squares[1] and (one.weights == other.weights or one.ties > 1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_stream_given_twice_adds_nothing(seed: int) -> None:
    streams, labels = make(seed, 25, 3, 2)
    one = search(streams, labels, step=0.1)
    twice = search({**streams, "again": streams["s1"]}, labels, step=0.1)
    assert twice.score == one.score
    assert twice.weights["s1"] + twice.weights["again"] == pytest.approx(1 - twice.weights["s0"])
    scores = dict(zip(one.grid[:, 0].tolist(), one.scores.tolist(), strict=True))
    assert twice.scores.tolist() == [scores[w] for w in twice.grid[:, 0].tolist()]


def test_of_equal_points_the_most_even_is_found_and_then_the_first() -> None:
    logits = np.eye(2) * 3.0
    same = search({"a": logits, "b": logits, "c": logits}, [0, 1], step=1 / 3)
    assert same.ties == len(same.grid) == 10 and set(same.weights.values()) == {1 / 3}
    odd = search({"a": logits, "b": logits}, [0, 1], step=1 / 3)
    assert odd.ties == 4 and odd.weights == {"a": 2 / 3, "b": 1 / 3}, "2:1 and 1:2 are equally even"
    worse = search({"a": logits, "b": -2 * logits}, [0, 1], step=0.25, kind="logits")
    assert worse.ties == 2 and worse.weights == {"a": 0.75, "b": 0.25} and worse.score == 1


def test_scores_that_only_rounding_parts_are_ties() -> None:
    labels = np.repeat([0, 1, 2], 10)
    right = {"a": (1, 2, 3), "b": (3, 2, 1)}
    assert 1 / 10 + 2 / 10 + 3 / 10 != 3 / 10 + 2 / 10 + 1 / 10, "one mean recall, two sums of floats"
    streams = {}
    for name, counts in right.items():
        predicted = (labels + 1) % 3
        for c, k in enumerate(counts):
            predicted[10 * c : 10 * c + k] = c
        streams[name] = np.eye(3)[predicted] * 5
    found = search(streams, labels, step=1.0, metric="mean_class")
    assert found.scores[0] != found.scores[1]
    assert found.ties == 2 and found.weights == {"a": 1.0, "b": 0.0}


def test_mean_class_and_top1_can_want_different_weights() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    sure, unsure = np.eye(2)[np.zeros(10, int)] * 4, np.eye(2)[np.array([0] * 3 + [1] * 7)] * 4
    streams = {"often": sure, "rare": unsure}
    assert search(streams, labels, step=1.0).weights == {"often": 1.0, "rare": 0.0}
    assert search(streams, labels, step=1.0, metric="mean_class").weights == {"often": 0.0, "rare": 1.0}


def test_clips_without_label_are_left_out() -> None:
    streams, labels = make(0, 30, 3, 3)
    hidden = np.where(np.arange(30) % 4 == 3, -1, labels)
    found = search(streams, hidden)
    kept = search({name: logits[hidden >= 0] for name, logits in streams.items()}, hidden[hidden >= 0])
    assert found.scores.tolist() == kept.scores.tolist() and found.weights == kept.weights
    with pytest.raises(DataError, match=r"'test' is labelled.*a split with labels"):
        search(streams, np.full(30, -1), split="test")


def test_classes_that_the_split_lacks_are_named() -> None:
    streams, labels = make(0, 40, NUM_CLASSES, 2)
    for lacking, kept in (((0, 4), ~np.isin(labels, [0, 4])), ((31,), labels != 31)):
        with pytest.warns(AbsentClassWarning, match="never met") as caught:
            found = search_weights({name: y[kept] for name, y in streams.items()}, labels[kept], split="val")
        assert found.absent == lacking
        assert f"no clip of {len(lacking)} of 32" in str(caught[0].message) and caught[0].filename == __file__
        assert ("0 turtle neck, 4 touch forehead" in str(caught[0].message)) == (lacking == (0, 4))
    with pytest.warns(AbsentClassWarning, match="never met: 2$"):
        search_weights({"a": np.eye(3)}, [0, 1, -1], classes=3)


def test_many_points_are_searched_in_pieces() -> None:
    streams, labels = make(3, 2500, 20, 3)
    whole = search(streams, labels, step=0.02)  # 1326 points of 50,000 numbers: 40 at a time
    for i in (0, 39, 40, 1325):
        fused = fuse(streams, dict(zip(streams, whole.grid[i].tolist(), strict=True)))
        assert whole.scores[i] == metrics.classification(fused, labels)["top1"]


def test_the_papers_rows_can_be_fused() -> None:
    streams, labels = make(5, 60, 4, 3)
    assert sum(PAPER[-1]) == pytest.approx(1.4)
    found = search(streams, labels)
    on_grid = {tuple(row) for row in np.round(20 * found.grid).astype(int).tolist()}
    for row in PAPER:
        top1 = metrics.classification(fuse(streams, dict(zip(streams, row, strict=True))), labels)["top1"]
        if row != PAPER[-1]:
            assert tuple(round(20 * w) for w in row) in on_grid and top1 <= found.score
        shrunk = fuse(streams, {name: w / sum(row) for name, w in zip(streams, row, strict=True)})
        assert metrics.classification(shrunk, labels)["top1"] == top1, "a common factor changes no prediction"


def test_a_search_that_cannot_be_is_refused() -> None:
    streams, labels = make(0, 10, 3, 2)
    for step in (0.3, 0.0, -0.5, 2.0, 0.051, 5e-324, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="whole number"):
            search(streams, labels, step=step)
    with pytest.raises(ConfigError, match="at most 1,000,000"):
        search({f"s{i}": streams["s0"] for i in range(9)}, labels)
    with pytest.raises(ConfigError, match="without streams"):
        search_weights({}, labels)
    with pytest.raises(ConfigError, match="'top5'"):
        search(streams, labels, metric="top5")
    with pytest.raises(ConfigError, match="'votes'"):
        search(streams, labels, kind="votes")
    with pytest.raises(DataError, match="same clips and classes"):
        search({**streams, "b": np.zeros((10, 4))}, labels)
    with pytest.raises(DataError, match="'b' holds NaN"):
        search({**streams, "b": np.full((10, 3), np.nan)}, labels)
    for wrong in (labels[:-1], labels[:, None]):
        with pytest.raises(DataError, match="one label per clip"):
            search(streams, wrong)
    with pytest.raises(DataError, match="for 32 classes"):
        search_weights(streams, labels)
    for wrong in (labels + 1, labels - 2, labels.astype(float)):
        with pytest.raises(DataError, match="integers 0"):
            search(streams, wrong)
