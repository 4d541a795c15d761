"""migcore.data.sampling: equal to the published draws, in range, in order, repeatable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import quick

from migcore.data.sampling import segment_centres, segment_train, uniform_test, uniform_train
from migcore.errors import ConfigError, DataError

VECTOR = Path(__file__).parents[1] / "conformance" / "sampling_test.npz"
lengths, seeds = st.integers(1, 60), st.integers(0, 2**32)


@pytest.mark.parametrize("n", [7, 12, 47, 49, 73, 95, 97, 150])
def test_uniform_test_equals_the_published_draws(n: int) -> None:
    with np.load(VECTOR) as vector:
        expected = vector[f"T{n}"]
    frames = uniform_test(n, 48, 10)
    assert frames.dtype == np.int64
    np.testing.assert_array_equal(frames, expected)


def test_no_global_state_is_read_or_written() -> None:
    before = np.random.get_state()  # noqa: NPY002 - the state that must not change
    first = uniform_test(150, 48, 10)
    np.testing.assert_array_equal(first, uniform_test(150, 48, 10))
    after = np.random.get_state()  # noqa: NPY002
    assert before[2] == after[2]
    np.testing.assert_array_equal(before[1], after[1])
    assert (first != uniform_test(150, 48, 10, seed=256)).any()


def test_views_of_exactly_as_many_frames_are_the_whole_clip() -> None:
    np.testing.assert_array_equal(uniform_test(48, 48, 3), np.tile(np.arange(48), 3))


@quick
@given(st.integers(1, 300), lengths, st.integers(1, 12))
def test_uniform_test_stays_in_range(n: int, length: int, num_clips: int) -> None:
    frames = uniform_test(n, length, num_clips)
    assert frames.shape == (num_clips * length,)
    assert frames.min() >= 0 and frames.max() < n


@quick
@given(st.integers(1, 300), lengths, seeds)
def test_uniform_train_follows_its_three_rules(n: int, length: int, seed: int) -> None:
    frames = uniform_train(n, length, np.random.default_rng(seed))
    assert frames.shape == (length,) and frames.min() >= 0 and frames.max() < n
    steps = np.diff(frames)
    if n < length:
        np.testing.assert_array_equal(steps % n, np.full(length - 1, 1 % n))
    elif n < 2 * length:
        assert set(steps.tolist()) <= {1, 2}
    else:
        bins = np.arange(length + 1) * n // length
        assert ((frames >= bins[:-1]) & (frames < bins[1:])).all()
    np.testing.assert_array_equal(frames, uniform_train(n, length, np.random.default_rng(seed)))


@quick
@given(st.integers(1, 300), lengths, seeds)
def test_segment_train_takes_one_frame_of_each_segment(n: int, length: int, seed: int) -> None:
    frames = segment_train(n, length, np.random.default_rng(seed))
    i = np.arange(length)
    assert ((frames >= i * n // length) & (frames <= np.minimum(-(-(i + 1) * n // length), n - 1))).all()
    assert (np.diff(frames) >= 0).all()


@quick
@given(st.integers(1, 300), lengths, st.integers(1, 5))
def test_segment_centres_are_symmetric_and_in_order(n: int, length: int, num_clips: int) -> None:
    views = segment_centres(n, length, num_clips).reshape(num_clips, length)
    assert views.min() >= 0 and views.max() < n
    assert (np.diff(views, axis=1) >= 0).all() and (np.diff(views, axis=0) >= 0).all()
    if num_clips == 1:
        exact = [(2 * i + 1) * n / (2 * length) for i in range(length)]
        np.testing.assert_allclose(views[0], np.floor(np.add(exact, 1e-9)))


def test_segment_centres_by_hand() -> None:
    np.testing.assert_array_equal(segment_centres(16, 8), [1, 3, 5, 7, 9, 11, 13, 15])
    np.testing.assert_array_equal(segment_centres(3, 6), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(segment_centres(8, 2, 2), [1, 5, 3, 7])


@pytest.mark.parametrize(
    "sample",
    [
        lambda n, length: uniform_train(n, length, np.random.default_rng(0)),
        lambda n, length: uniform_test(n, length, 1),
        lambda n, length: segment_train(n, length, np.random.default_rng(0)),
        lambda n, length: segment_centres(n, length),
    ],
)
def test_empty_clips_and_empty_views_are_refused(sample) -> None:
    with pytest.raises(DataError, match="a clip of 0 frames"):
        sample(0, 8)
    with pytest.raises(ConfigError, match="0 frames were asked"):
        sample(8, 0)


def test_no_views_are_refused() -> None:
    for sample in (uniform_test, segment_centres):
        with pytest.raises(ConfigError, match="0 views"):
            sample(8, 4, 0)
