"""Eq. 7 against the naive version, by hand, and with input that does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migcore import reference
from migcore.ensemble import fuse
from migcore.errors import ConfigError, DataError


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
