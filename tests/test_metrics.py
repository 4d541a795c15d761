"""Accuracies, intervals and tests, against naive versions, exact numbers and simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_accuracy

from migcore import reference
from migcore.errors import ConfigError, DataError
from migcore.metrics import bootstrap_interval, classification, confusion, correct, holm, mcnemar


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 30), classes=st.integers(1, 9), ties=st.booleans())
def test_equal_to_the_naive_version(seed: int, n: int, classes: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, 3, (n, classes)) if ties else rng.normal(size=(n, classes))
    labels = rng.integers(0, classes, n)
    found = classification(logits, labels)
    assert {**found, **reference.classification(logits, labels)} == pytest.approx(found)
    assert found["n"] == n and found["classes_present"] == len(set(labels.tolist()))


def test_equal_to_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    logits, labels = torch.from_numpy(rng.normal(size=(400, 12))), torch.from_numpy(rng.integers(0, 12, 400))
    found = classification(logits, labels)
    for name, arguments in (
        ("top1", {"average": "micro"}),
        ("top5", {"average": "micro", "top_k": 5}),
        ("mean_class", {"average": "macro"}),
    ):
        theirs = multiclass_accuracy(logits, labels, num_classes=12, **arguments)  # type: ignore[arg-type]
        assert found[name] == pytest.approx(float(theirs), abs=1e-6)


def test_a_class_that_is_only_predicted_lowers_the_published_mean() -> None:
    logits = np.eye(4)[[0, 0, 1, 3]]
    found = classification(logits, np.array([0, 0, 1, 1]))
    assert found["mean_class"] == pytest.approx((1 + 0.5) / 2)
    assert found["mean_class_published"] == pytest.approx((1 + 0.5 + 0) / 3)
    np.testing.assert_array_equal(confusion(logits, [0, 0, 1, 1]), [[2, 0, 0, 0], [0, 1, 0, 1], [0] * 4, [0] * 4])


def test_a_constant_model_is_right_on_the_first_class_only() -> None:
    found = classification(np.zeros((6, 6)), np.arange(6))
    assert found["top1"] == pytest.approx(1 / 6) and found["top5"] == pytest.approx(5 / 6)


def test_correct_is_the_mean_of_top_k() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(50, 9)), rng.integers(0, 9, 50)
    found = classification(logits, labels)
    assert correct(logits, labels).mean() == found["top1"] and correct(logits, labels, k=5).mean() == found["top5"]


def test_wrong_input_is_named() -> None:
    logits, labels = np.zeros((3, 4)), np.array([0, 1, 2])
    with pytest.raises(DataError, match=r"\[3, 4\] for labels of shape \[2\]"):
        classification(logits, labels[:2])
    with pytest.raises(DataError, match="at least one clip"):
        classification(logits[:0], labels[:0])
    for wrong in (labels + 2, labels - 1, labels + 0.5):
        with pytest.raises(DataError, match=r"integers 0\.\.3"):
            classification(logits, wrong)
    logits[1, 2] = np.nan
    with pytest.raises(DataError, match="clip 1 hold NaN"):
        classification(logits, labels)


def test_interval_covers_the_truth_when_clips_of_a_subject_are_alike() -> None:
    rng = np.random.default_rng(0)
    covered = naive = 0
    for _ in range(200):
        skill = rng.beta(6, 4, 40)  # accuracy of each of 40 subjects, 0.6 on average
        subjects = np.repeat(np.arange(40), 15)
        values = rng.random(600) < skill[subjects]
        low, high = bootstrap_interval(values, subjects, rng=rng, draws=300)
        covered += low <= 0.6 <= high
        low, high = bootstrap_interval(values, np.arange(600), rng=rng, draws=300)
        naive += low <= 0.6 <= high
    assert covered >= 180  # 95 % of 200, less three standard errors
    assert naive < covered  # clips taken for independent: too narrow


def test_interval_is_deterministic_takes_names_and_shrinks_with_the_level() -> None:
    values, subjects = np.arange(12) % 3 == 0, np.array(list("aabbccddeeff"))
    first, again = (bootstrap_interval(values, subjects, rng=np.random.default_rng(3)) for _ in range(2))
    assert first == again
    half = bootstrap_interval(values, subjects, rng=np.random.default_rng(3), level=0.5)
    assert first[0] <= half[0] <= values.mean() <= half[1] <= first[1]
    assert bootstrap_interval(np.ones(12), subjects, rng=np.random.default_rng(0)) == (1.0, 1.0)


def test_intervals_that_cannot_be_given() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="two subjects"):
        bootstrap_interval([1, 0], ["a", "a"], rng=rng)
    with pytest.raises(DataError, match="one value and subject per clip"):
        bootstrap_interval([1, 0], ["a", "b", "c"], rng=rng)
    for arguments in ({"level": 1.0}, {"level": 0.0}, {"draws": 0}):
        with pytest.raises(ConfigError):
            bootstrap_interval([1, 0], ["a", "b"], rng=rng, **arguments)  # type: ignore[arg-type]


def discordant(only_a: int, only_b: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.array([True] * only_a + [False] * only_b + [True, False])
    return a, np.array([False] * only_a + [True] * only_b + [True, False])


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert mcnemar(*discordant(0, 0)) == 1.0
    assert mcnemar(*discordant(5, 5)) == 1.0
    assert mcnemar(*discordant(0, 5)) == pytest.approx(2 / 2**5)
    assert mcnemar(*discordant(2, 8)) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert mcnemar(*discordant(8, 2)) == mcnemar(*discordant(2, 8))
    assert 0 < mcnemar(*discordant(0, 1050)) < 1e-300  # no overflow on a whole test split
    assert mcnemar(*discordant(2240, 2320)) == pytest.approx(0.242, abs=0.002)  # normal approximation: 0.2419
    with pytest.raises(DataError, match="same clips"):
        mcnemar([True], [True, False])


def test_holm_by_hand() -> None:
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert list(holm({"a": 0.9, "b": 0.6})) == ["a", "b"]
    assert holm({"a": 0.9, "b": 0.6}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
    with pytest.raises(DataError, match=r"0\.\.1"):
        holm({"a": 1.2})


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=6))
def test_holm_lies_between_none_and_bonferroni(p_values: dict[str, float]) -> None:
    adjusted = holm(p_values)
    assert adjusted.keys() == p_values.keys()
    for name, p in p_values.items():
        assert p <= adjusted[name] <= min(1.0, len(p_values) * max(p, sorted(p_values.values())[-1]))
    smallest = min(p_values, key=lambda name: p_values[name])
    assert adjusted[smallest] == min(1.0, len(p_values) * p_values[smallest])
