"""migcore.data.sequences: sequences hold what was seen, where it was seen, and nothing else."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import quick

from migcore.data.imigue import AbsentClassWarning, ClipIndex, open_dataset, read_clip_skeleton
from migcore.data.layouts import COCO17, IMIGUE22
from migcore.data.sampling import segment_centres
from migcore.data.sequences import SequenceClips, SequenceConfig, stretch, view
from migcore.errors import ConfigError, DataError


@pytest.fixture
def index(root: Path) -> ClipIndex:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AbsentClassWarning)
        return open_dataset(root)


@st.composite
def clips(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A clip of one person: points in a film, zeros where missing."""
    length = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    scores = draw(arrays(np.float32, (1, length, 22), elements=st.sampled_from([0.0, 0.25, 1.0])))
    return rng.uniform(1, 300, (1, length, 22, 2)).astype(np.float32) * (scores[..., None] > 0), scores


configs = st.builds(
    SequenceConfig,
    frames=st.integers(1, 12),
    fit=st.sampled_from(["stretch", "window", "segments"]),
    part=st.sampled_from([0.1, 0.5, 1.0]),
    units=st.sampled_from(["box", "pixels"]),
    flip=st.booleans(),
    rotation=st.sampled_from([0.0, 15.0]),
    scaling=st.sampled_from([0.0, 0.2]),
)


@quick
@given(clips(), configs, st.sampled_from([None, 0, 1]))
def test_a_view_has_its_shape_and_zeros_where_nothing_was_seen(
    clip: tuple[np.ndarray, np.ndarray], config: SequenceConfig, seed: int | None
) -> None:
    rng = None if seed is None else np.random.default_rng(seed)
    made = view(*clip, config, IMIGUE22, rng)
    assert made.shape == (3, config.frames, 22, 1) and made.dtype == np.float32
    assert np.isfinite(made).all()
    missing = made[2] == 0
    assert (made[:2, missing] == 0).all()
    assert made[2].min() >= 0 and made[2].max() <= 1
    seen = np.abs(made[:2])
    if config.units == "box":  # a turned box of half-width 1 reaches no further than its corner
        assert seen.max(initial=0) <= 2**0.5 * (1 + config.scaling) + 1e-5
    if rng is not None:
        np.testing.assert_array_equal(made, view(*clip, config, IMIGUE22, np.random.default_rng(seed)))


@quick
@given(clips(), st.tuples(st.floats(-500, 500), st.floats(-500, 500)), st.floats(0.5, 4))
def test_where_a_speaker_sits_and_how_near_changes_nothing(
    clip: tuple[np.ndarray, np.ndarray], by: tuple[float, float], scale: float
) -> None:
    keypoints, scores = clip
    config = SequenceConfig(frames=6)
    moved = (keypoints * np.float32(scale) + np.float32(by)) * (scores[..., None] > 0)
    if len(seen := keypoints[scores > 0]) and (seen.max(0) - seen.min(0)).max() > 4:
        before, after = view(keypoints, scores, config, IMIGUE22), view(moved, scores, config, IMIGUE22)
        np.testing.assert_allclose(before, after, atol=2e-3)


def test_stretching_takes_only_what_was_seen() -> None:
    keypoints = np.array([[[[10.0, 0.0]], [[20.0, 4.0]], [[0.0, 0.0]], [[0.0, 0.0]]]])  # seen, seen, missing, missing
    scores = np.array([[[1.0], [0.5], [0.0], [0.0]]])
    points, kept = stretch(keypoints, scores, np.array([0.0, 0.5, 1.0, 1.25, 2.0, 2.5]))
    np.testing.assert_allclose(points[0, :, 0], [[10, 0], [15, 2], [20, 4], [20, 4], [0, 0], [0, 0]])
    np.testing.assert_allclose(kept[0, :, 0], [1, 0.75, 0.5, 0.375, 0, 0])


@quick
@given(clips())
def test_at_whole_frames_stretching_changes_nothing(clip: tuple[np.ndarray, np.ndarray]) -> None:
    keypoints, scores = clip
    points, kept = stretch(keypoints, scores, np.arange(keypoints.shape[1]))
    np.testing.assert_allclose(points, keypoints, rtol=1e-6)
    np.testing.assert_array_equal(kept, scores)


def test_windows_have_zeros_behind_a_short_clip_and_are_a_part_of_a_long_one() -> None:
    keypoints = np.arange(1, 11, dtype=np.float32).reshape(1, 10, 1, 1).repeat(22, 2).repeat(2, 3)
    scores = np.ones((1, 10, 22), np.float32)
    short = view(keypoints, scores, SequenceConfig(frames=14, fit="window", units="pixels"), IMIGUE22)
    np.testing.assert_array_equal(short[0, :, 0, 0], [*range(1, 11), 0, 0, 0, 0])
    long = view(keypoints, scores, SequenceConfig(frames=4, fit="window", units="pixels"), IMIGUE22)
    np.testing.assert_array_equal(long[0, :, 0, 0], [4, 5, 6, 7])
    starts = set()
    for seed in range(30):
        config = SequenceConfig(frames=4, fit="window", units="pixels")
        made = view(keypoints, scores, config, IMIGUE22, np.random.default_rng(seed))[0, :, 0, 0]
        np.testing.assert_array_equal(np.diff(made), 1)
        starts.add(int(made[0]))
    assert starts == set(range(1, 8))


def test_the_mirror_is_its_own_inverse_and_swaps_the_sides() -> None:
    rng = np.random.default_rng(3)
    keypoints, scores = rng.uniform(1, 99, (1, 5, 22, 2)), rng.uniform(0.2, 1, (1, 5, 22))
    plain, mirrored = (SequenceConfig(frames=5, fit="segments", flip=flip) for flip in (False, True))
    original = view(keypoints, scores, plain, IMIGUE22)
    seed = next(s for s in range(20) if np.random.default_rng(s).random(6)[5] < 0.5)  # after five draws of frames
    made = view(keypoints, scores, mirrored, IMIGUE22, np.random.default_rng(seed))
    assert not np.allclose(made, original)
    back = made[:, :, IMIGUE22.flip_permutation] * np.array([-1, 1, 1], np.float32)[:, None, None, None]
    frames_match = np.abs(np.sort(back[2], 0) - np.sort(original[2], 0)).max()
    assert frames_match < 1e-6
    np.testing.assert_allclose(back, original, atol=1e-5)


def test_a_turn_keeps_distances() -> None:
    rng = np.random.default_rng(4)
    keypoints, scores = rng.uniform(1, 99, (1, 1, 22, 2)), np.ones((1, 1, 22))
    config = SequenceConfig(frames=1, fit="segments", rotation=90)
    turned = view(keypoints, scores, config, IMIGUE22, np.random.default_rng(0))[:2, 0, :, 0].T
    plain = view(keypoints, scores, config, IMIGUE22)[:2, 0, :, 0].T
    gaps = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (turned, plain)]
    np.testing.assert_allclose(*gaps, atol=1e-5)
    assert np.abs(turned - plain).max() > 0.05


def test_items_and_their_randomness(index: ClipIndex) -> None:
    config = SequenceConfig(frames=8, flip=True, rotation=10, scaling=0.1)
    train = SequenceClips(index, "train", config, train=True, seed=1)
    item = train[2]
    assert item["sequence"].shape == (1, 3, 8, 22, 1) and item["sequence"].dtype == torch.float32
    assert (item["label"], item["index"], len(train)) == (30, 2, 4)
    assert torch.equal(item["sequence"], train[2]["sequence"])
    train.set_epoch(1)
    assert not torch.equal(item["sequence"], train[2]["sequence"])
    other = SequenceClips(index, "train", config, train=True, seed=2)
    assert not torch.equal(item["sequence"], other[2]["sequence"])


def test_segments_are_frames_of_the_clip(index: ClipIndex) -> None:
    clips = SequenceClips(index, "test", SequenceConfig(frames=3, fit="segments", units="pixels"), train=False)
    keypoints, scores = read_clip_skeleton(clips.records[2], index.column_map)
    at = segment_centres(len(keypoints), 3)
    np.testing.assert_allclose(clips[2]["sequence"][0, :2, :, :, 0], keypoints[at].transpose(2, 0, 1))
    np.testing.assert_allclose(clips[2]["sequence"][0, 2, :, :, 0], scores[at])


def test_another_layout_is_refused(index: ClipIndex) -> None:
    with pytest.raises(ConfigError, match="22 keypoints, layout 'coco17' has 17"):
        SequenceClips(index, "train", SequenceConfig(layout=COCO17.name), train=True)


def test_a_damaged_skeleton_is_named_or_left_out(index: ClipIndex) -> None:
    file = index.split("train")[0].skeleton
    assert file is not None
    file.write_text(file.read_text().replace(",", ";", 3))
    with pytest.raises(DataError, match=file.name.split("_")[0]):
        SequenceClips(index, "train", SequenceConfig(), train=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [("frames", 0), ("part", 0.0), ("part", 1.1), ("rotation", -1.0), ("scaling", 2.0), ("fit", "loop"), ("units", "m"),
     ("layout", "nobody")],
)  # fmt: skip
def test_wrong_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError):
        SequenceConfig(**{field: value})  # type: ignore[arg-type]
