"""migcore.data.augment: geometry by hand and by its laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import quick

from migcore.data import augment
from migcore.data.layouts import COCO17, IMIGUE22, IMIGUE22_MIGA2023
from migcore.errors import ConfigError, DataError

seeds = st.integers(0, 2**32)


def points(seed: int, spread: float, missing: float) -> np.ndarray:
    """[2, 3, 22, 2] float32 between 1 and about 500, some of them 0."""
    rng = np.random.default_rng(seed)
    clip = rng.uniform(1, 400, 2) + rng.uniform(0, spread, (2, 3, 22, 2))
    return np.where(rng.random((2, 3, 22, 1)) < missing, 0, clip).astype(np.float32)


coordinates = st.builds(points, seeds, st.floats(5, 100), st.just(0.0))
clips = st.builds(points, seeds, st.floats(5, 100), st.sampled_from([0.0, 0.3, 0.99, 1.0]))


def reference_compact(keypoints: np.ndarray, padding: float, threshold: float, ratio: float):
    """pyskl's PoseCompact with image padding, as facts/skeleton_branch.md 1.2 tells it, in loops."""
    xs = [float(p[0]) for p in keypoints.reshape(-1, 2) if p[0] != 0]
    ys = [float(p[1]) for p in keypoints.reshape(-1, 2) if p[1] != 0]
    if not xs or not ys or max(xs) - min(xs) < threshold or max(ys) - min(ys) < threshold:
        return keypoints, None
    half_w, half_h = (max(xs) - min(xs)) / 2 * (1 + padding), (max(ys) - min(ys)) / 2 * (1 + padding)
    half_h = max(ratio * half_w, half_h)
    half_w = max(half_h / ratio, half_w)
    cx, cy = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    box = int(cx - half_w), int(cy - half_h), int(cx + half_w), int(cy + half_h)
    moved = keypoints.copy().reshape(-1, 2)
    for point in moved:
        for axis in (0, 1):
            if point[axis] != 0:
                point[axis] -= box[axis]
    return moved.reshape(keypoints.shape), box


@quick
@given(clips, st.sampled_from([0.05, 0.25, 1.0]), st.sampled_from([1.0, 1.5]))
def test_compact_box_equals_the_loops(keypoints: np.ndarray, padding: float, ratio: float) -> None:
    expected, box = reference_compact(keypoints, padding, 10.0, ratio)
    moved, found = augment.compact_box(keypoints, padding=padding, hw_ratio=ratio)
    assert found == box
    np.testing.assert_array_equal(moved, expected)


@quick
@given(coordinates)
def test_compact_box_keeps_relative_positions_and_holds_all_points(keypoints: np.ndarray) -> None:
    moved, box = augment.compact_box(keypoints, np.ones(keypoints.shape[:-1], np.float32))
    if box is None:
        np.testing.assert_array_equal(moved, keypoints)
        return
    np.testing.assert_allclose(moved - moved[0, 0, 0], keypoints - keypoints[0, 0, 0], atol=1e-3)
    width, height = box[2] - box[0], box[3] - box[1]
    assert abs(width - height) <= 2  # corners are truncated toward zero
    assert moved.min() >= -1 and moved[..., 0].max() <= width + 1 and moved[..., 1].max() <= height + 1


def test_compact_box_by_hand() -> None:
    keypoints = np.array([[[[10, 20], [50, 40], [0, 0], [900, 900]]]], dtype=np.float32)
    scores = np.array([[[1, 0.5, 0, 0]]], dtype=np.float32)
    # x 10..50: centre 30, half 20 · 1.25 = 25; y 20..40: centre 30, half 12.5, grown to 25
    moved, box = augment.compact_box(keypoints, scores)
    assert box == (5, 5, 55, 55)
    np.testing.assert_array_equal(moved[0, 0, :3], [[5, 15], [45, 35], [0, 0]])


def test_compact_box_truncates_toward_zero_and_leaves_small_extents_alone() -> None:
    near_edge = np.array([[[[2, 2], [32, 32]]]], dtype=np.float32)  # corner 17 - 18.75 = -1.75
    assert augment.compact_box(near_edge)[1] == (-1, -1, 35, 35)
    small = np.array([[[[2, 2], [32, 11.5]]]], dtype=np.float32)
    moved, box = augment.compact_box(small)
    assert box is None and moved is small
    assert augment.compact_box(np.zeros((1, 1, 3, 2), np.float32))[1] is None


@quick
@given(coordinates, st.sampled_from(["array", "coordinate"]), st.integers(600, 700))
def test_flipping_twice_is_identity(keypoints: np.ndarray, convention: str, width: int) -> None:
    scores = np.random.default_rng(0).random(keypoints.shape[:-1]).astype(np.float32)
    for skeleton in (IMIGUE22, IMIGUE22_MIGA2023):
        once = augment.flip_keypoints(keypoints, scores, skeleton, width, convention=convention)
        twice = augment.flip_keypoints(*once, skeleton, width, convention=convention)
        np.testing.assert_allclose(twice[0], keypoints, atol=1e-3)
        np.testing.assert_array_equal(twice[1], scores)


def test_the_two_mirrors_are_one_pixel_apart_and_swap_sides() -> None:
    keypoints, scores = np.zeros((1, 1, 22, 2), np.float32), np.zeros((1, 1, 22), np.float32)
    keypoints[0, 0, 4], scores[0, 0, 4] = (10, 7), 0.5  # HandLeft
    array = augment.flip_keypoints(keypoints, scores, IMIGUE22, 56)
    coordinate = augment.flip_keypoints(keypoints, scores, IMIGUE22, 56, convention="coordinate")
    np.testing.assert_array_equal(array[0][0, 0, 7], [45, 7])
    np.testing.assert_array_equal(coordinate[0][0, 0, 7], [46, 7])
    assert array[1][0, 0, 7] == 0.5 and array[1].sum() == 0.5
    assert (array[0] != 0).sum() == 2, "missing points stay at 0"
    assert keypoints[0, 0, 4, 0] == 10, "the input is not changed"


def test_a_wrong_mirror_is_refused() -> None:
    keypoints, scores = np.zeros((1, 1, 22, 2), np.float32), np.zeros((1, 1, 22), np.float32)
    with pytest.raises(ConfigError, match="'diagonal'"):
        augment.flip_keypoints(keypoints, scores, IMIGUE22, 56, convention="diagonal")
    with pytest.raises(DataError, match="22 keypoints are not the 17"):
        augment.flip_keypoints(keypoints, scores, COCO17, 56)


@quick
@given(coordinates, seeds, st.integers(8, 90), st.integers(8, 90))
def test_random_resized_crop_stays_in_range(keypoints: np.ndarray, seed: int, height: int, width: int) -> None:
    moved, size = augment.random_resized_crop(keypoints, (height, width), np.random.default_rng(seed))
    assert 1 <= size[0] <= height and 1 <= size[1] <= width
    corner = keypoints[0, 0, 0] - moved[0, 0, 0]
    np.testing.assert_allclose(keypoints - moved, np.broadcast_to(corner, keypoints.shape), atol=1e-3)
    assert 0 <= corner[0] <= width - size[1] and 0 <= corner[1] <= height - size[0]
    again = augment.random_resized_crop(keypoints, (height, width), np.random.default_rng(seed))
    np.testing.assert_array_equal(again[0], moved)


def test_random_resized_crop_covers_its_range_of_areas_and_aspects() -> None:
    rng, point = np.random.default_rng(0), np.zeros((1, 2), np.float32)
    sizes = np.array([augment.random_resized_crop(point, (64, 64), rng)[1] for _ in range(300)])
    shares, ratios = sizes.prod(1) / 64**2, sizes[:, 1] / sizes[:, 0]
    assert 0.54 < shares.min() < 0.6 and 0.9 < shares.max() <= 1
    assert 0.73 < ratios.min() < 0.8 and 1.25 < ratios.max() < 1.36


def test_random_resized_crop_falls_back_to_the_central_square() -> None:
    # 10 × 100: a share of 0.56 or more with an aspect up to 4/3 is higher than the picture.
    moved, size = augment.random_resized_crop(np.zeros((1, 2), np.float32), (10, 100), np.random.default_rng(0))
    assert size == (10, 10)
    np.testing.assert_array_equal(moved, [[-45, 0]])
    moved, _ = augment.random_resized_crop(np.zeros((1, 2), np.float32), (100, 10), np.random.default_rng(0))
    np.testing.assert_array_equal(moved, [[0, -45]])


@quick
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 300))
def test_short_side_keeps_the_ratio(height: int, width: int, length: int) -> None:
    size = augment.short_side((height, width), length)
    assert min(size) == length
    assert abs(max(size) - length * max(height, width) / min(height, width)) <= 0.5
    assert (size[0] - size[1]) * (height - width) >= 0


def test_resize_scales_each_axis() -> None:
    moved = augment.resize(np.array([[10, 10]], np.float32), (20, 40), (60, 20))
    np.testing.assert_allclose(moved, [[5, 30]])


def video(frames: int = 2, height: int = 12, width: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (3, frames, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_resize_short_matches_torch_frame_by_frame() -> None:
    clip = video()
    scaled = augment.resize_short(clip, 9)
    assert scaled.shape == (3, 2, 9, 12) and scaled.dtype == torch.uint8
    frame = torch.nn.functional.interpolate(clip[None, :, 1].float(), size=(9, 12), mode="bilinear")[0]
    assert torch.equal(scaled[:, 1], frame.round().to(torch.uint8))
    assert augment.resize_short(clip, 12) is clip


@quick
@given(seeds)
def test_random_crop_is_a_window_of_all_frames(seed: int) -> None:
    clip = video()
    window = augment.random_crop(clip, (5, 6), np.random.default_rng(seed))
    windows = clip.unfold(2, 5, 1).unfold(3, 6, 1).permute(2, 3, 0, 1, 4, 5)
    assert (windows == window).flatten(2).all(-1).any()


def test_centre_crop_and_windows_that_do_not_fit() -> None:
    clip = video()
    assert torch.equal(augment.centre_crop(clip, (4, 4)), clip[:, :, 4:8, 6:10])
    for cut in (augment.centre_crop, lambda v, s: augment.random_crop(v, s, np.random.default_rng(0))):
        with pytest.raises(DataError, match=r"\(13, 4\) does not fit"):
            cut(clip, (13, 4))


def test_flip_reverses_columns() -> None:
    clip = video()
    assert torch.equal(augment.flip(clip)[..., 0], clip[..., -1])
    assert torch.equal(augment.flip(augment.flip(clip)), clip)


def test_normalise_is_clips() -> None:
    clip = video()[None]
    normal = augment.normalise(clip)
    expected = (clip[0, 1, 0, 3, 4] / 255 - augment.CLIP_MEAN[1]) / augment.CLIP_STD[1]
    assert torch.isclose(normal[0, 1, 0, 3, 4], expected)
    assert augment.normalise(clip, torch.float64).dtype == torch.float64
    with pytest.raises(DataError, match="float32"):
        augment.normalise(normal)
    with pytest.raises(DataError, match="uint8"):
        augment.normalise(clip[0])
