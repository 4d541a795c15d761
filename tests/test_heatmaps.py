"""Heat-map volumes against the published generator's output, the naive version, and by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from migcore import heatmaps, reference
from migcore.errors import ConfigError, DataError
from migcore.heatmaps import joint_heatmaps, limb_heatmaps

VECTOR = Path(__file__).parent / "conformance" / "heatmap_m1.npz"
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
BONES = ((0, 1), (1, 2), (3, 1), (2, 0))


@pytest.mark.parametrize("device", DEVICES)
def test_equal_to_the_published_generator(device: str) -> None:
    vector = np.load(VECTOR)
    cfg = json.loads(str(vector["cfg"]))
    keypoints = torch.from_numpy(vector["keypoint"])[None].to(device)
    scores = torch.from_numpy(vector["score"])[None].to(device)
    size, bones = tuple(cfg["hw"]), [tuple(bone) for bone in cfg["limbs"]]
    joint = joint_heatmaps(keypoints, scores, size, sigma=cfg["sigma"])
    limb = limb_heatmaps(keypoints, scores, size, bones=bones, sigma=cfg["sigma"])
    assert joint.device == limb.device == keypoints.device
    np.testing.assert_allclose(joint[0].transpose(0, 1).cpu(), vector["joint"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(limb[0].transpose(0, 1).cpu(), vector["limb"], atol=1e-5, rtol=0)


def skeletons(
    seed: int, shape: tuple[int, int, int], size: tuple[int, int], dtype: type = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints with all that can go wrong: on the grid and off, outside, coincident; scores near the threshold."""
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(-5, [size[1] + 5, size[0] + 5], (*shape, 4, 2))
    keypoints = np.where(rng.random(keypoints.shape) < 0.4, np.round(keypoints * 2) / 2, keypoints)
    near = rng.random((*shape, 1)) < 0.3
    keypoints[..., 1, :] = np.where(near, keypoints[..., 0, :] + rng.choice([0, 0.5, 0.9]), keypoints[..., 1, :])
    scores = rng.choice([0, 5e-4, 1e-3, 0.2, 1, np.nan], (*shape, 4), p=[0.1, 0.1, 0.1, 0.3, 0.3, 0.1])
    return keypoints.astype(dtype), scores.astype(dtype)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 2)),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    sigma=st.sampled_from([0.3, 0.6, 1.0, 2.5]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_equal_to_the_naive_version(
    seed: int, shape: tuple[int, int, int], size: tuple[int, int], sigma: float, dtype: type
) -> None:
    keypoints, scores = skeletons(seed, shape, size, dtype)
    given_tensors = torch.from_numpy(keypoints), torch.from_numpy(scores)
    joint = joint_heatmaps(*given_tensors, size, sigma=sigma)
    limb = limb_heatmaps(*given_tensors, size, bones=BONES, sigma=sigma)
    assert joint.dtype == limb.dtype == given_tensors[0].dtype
    naive = reference.joint_heatmaps(keypoints, scores, size, sigma=sigma)
    np.testing.assert_allclose(joint, naive, atol=1e-5, rtol=0)
    naive = reference.limb_heatmaps(keypoints, scores, size, bones=BONES, sigma=sigma)
    np.testing.assert_allclose(limb, naive, atol=1e-5, rtol=0)


def columns(x: float, width: int = 56) -> list[int]:
    """Pixel columns that a keypoint at (x, 20) marks."""
    volume = joint_heatmaps(torch.tensor([x, 20.0]).view(1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1), (40, width))
    return volume[0, 0, 0].amax(0).nonzero().flatten().tolist()


def test_the_window_is_cut_as_published() -> None:
    assert columns(10.0) == [8, 9, 10, 11]
    assert columns(10.5) == [8, 9, 10, 11, 12]
    assert columns(-0.9) == columns(-1.9) == [0]
    assert columns(-2.9) == []
    assert columns(57.5) == [55]


def test_the_peak_is_the_score_at_an_integer_centre_only() -> None:
    keypoints = torch.tensor([[10.0, 20.0], [10.5, 20.0]]).view(1, 1, 1, 2, 2)
    peaks = joint_heatmaps(keypoints, torch.full((1, 1, 1, 2), 0.8), (40, 56)).amax((2, 3, 4))[0]
    np.testing.assert_allclose(peaks, [0.8, 0.8 * np.exp(-0.25 / 0.72)], rtol=1e-6)


def test_a_bone_under_a_pixel_has_the_score_of_its_first_end() -> None:
    keypoints = torch.tensor([[10.0, 10.0], [10.5, 10.5], [20.0, 10.0]]).view(1, 1, 1, 3, 2)
    scores = torch.tensor([1.0, 0.2, 0.2]).view(1, 1, 1, 3)
    peaks = limb_heatmaps(keypoints, scores, (24, 24), bones=[(0, 1), (0, 2), (1, 0)]).amax((2, 3, 4))[0]
    np.testing.assert_allclose(peaks, [1.0, 0.2, 0.2 * np.exp(-0.5 / 0.72)], rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dx=st.integers(-3, 3), dy=st.integers(-3, 3))
def test_moving_a_skeleton_by_whole_pixels_moves_its_volume(seed: int, dx: int, dy: int) -> None:
    rng = np.random.default_rng(seed)
    keypoints = torch.from_numpy(rng.integers(4 * 8, 4 * 16, (1, 1, 2, 4, 2)) / 4).float()
    scores = torch.from_numpy(rng.random((1, 1, 2, 4))).float()
    for draw in (joint_heatmaps, partial(limb_heatmaps, bones=BONES)):
        volume = draw(keypoints, scores, (24, 24))
        moved = draw(keypoints + torch.tensor([dx, dy]), scores, (24, 24))
        torch.testing.assert_close(moved, volume.roll((dy, dx), (-2, -1)), atol=1e-5, rtol=0)


def test_clips_do_not_touch_and_persons_are_joined_by_maximum() -> None:
    keypoints, scores = (torch.from_numpy(x) for x in skeletons(0, (3, 2, 4), (20, 16)))
    for draw in (joint_heatmaps, partial(limb_heatmaps, bones=BONES)):
        together = draw(keypoints, scores, (20, 16))
        for b in range(3):
            single = [draw(keypoints[b : b + 1, m : m + 1], scores[b : b + 1, m : m + 1], (20, 16)) for m in (0, 1)]
            torch.testing.assert_close(together[b : b + 1], torch.maximum(*single), atol=0, rtol=0)


def test_a_joint_is_a_bone_from_a_keypoint_to_itself() -> None:
    keypoints, scores = (torch.from_numpy(x) for x in skeletons(1, (2, 2, 3), (20, 16)))
    as_bones = limb_heatmaps(keypoints, scores, (20, 16), bones=[(v, v) for v in range(4)])
    torch.testing.assert_close(joint_heatmaps(keypoints, scores, (20, 16)), as_bones)


def test_memory_is_bounded_by_pieces_that_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    keypoints, scores = (torch.from_numpy(x) for x in skeletons(2, (2, 2, 3), (20, 16)))
    whole = limb_heatmaps(keypoints, scores, (20, 16), bones=BONES)
    monkeypatch.setattr(heatmaps, "_ROWS_AT_ONCE", 3)
    torch.testing.assert_close(limb_heatmaps(keypoints, scores, (20, 16), bones=BONES), whole, atol=0, rtol=0)


def test_nan_and_infinite_input_counts_as_missing() -> None:
    keypoints = torch.full((1, 1, 1, 4, 2), 8.0)
    keypoints[0, 0, 0, 1, 0] = torch.nan
    keypoints[0, 0, 0, 2, 1] = torch.inf
    scores = torch.ones(1, 1, 1, 4)
    scores[0, 0, 0, 3] = torch.nan
    volume = joint_heatmaps(keypoints, scores, (16, 16))
    assert volume.amax((2, 3, 4)).tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert limb_heatmaps(keypoints, scores, (16, 16), bones=[(0, v) for v in (1, 2, 3)]).abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    keypoints, scores = (torch.from_numpy(x).to(dtype) for x in skeletons(3, (1, 2, 3), (20, 16)))
    for draw in (joint_heatmaps, partial(limb_heatmaps, bones=BONES)):
        volume = draw(keypoints, scores, (20, 16))
        assert volume.dtype == dtype
        torch.testing.assert_close(volume, draw(keypoints.float(), scores.float(), (20, 16)).to(dtype))


@pytest.mark.parametrize("persons", [1, 2])
@pytest.mark.parametrize("draw", [joint_heatmaps, partial(limb_heatmaps, bones=BONES)], ids=["joint", "limb"])
def test_gradient_inside_the_window(draw: Callable[..., torch.Tensor], persons: int) -> None:
    # Positions at .3 and .4 keep finite differences off the window's edges (.2 and .8 at sigma .6) and off ties.
    keypoints = torch.tensor([[3.3, 4.4], [8.4, 5.3], [6.3, 9.4], [6.4, 9.3]], dtype=torch.float64)
    keypoints = (keypoints + torch.arange(persons, dtype=torch.float64)[:, None, None]).view(1, persons, 1, 4, 2)
    scores = torch.tensor([0.9, 0.7, 0.5, 0.0], dtype=torch.float64).repeat(persons).view(1, persons, 1, 4)
    scores = scores * (1 - 0.05 * torch.arange(persons, dtype=torch.float64)[:, None, None])
    inputs = keypoints.requires_grad_(), scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda k, s: draw(k, s, (14, 13)), inputs, fast_mode=True)
    draw(*inputs, (14, 13)).sum().backward()
    assert keypoints.grad is not None and scores.grad is not None
    # A bone takes the score of its weaker end, here keypoint 2.
    assert (keypoints.grad[..., 0, :] != 0).all() and (scores.grad[..., 2] > 0).all()
    assert (keypoints.grad[..., 3, :] == 0).all() and (scores.grad[..., 3] == 0).all()


def test_missing_keypoints_do_not_spoil_the_gradient() -> None:
    keypoints = torch.full((1, 1, 1, 2, 2), 5.3)
    keypoints[..., 1, 0] = torch.nan
    keypoints.requires_grad_()
    for draw in (joint_heatmaps, partial(limb_heatmaps, bones=[(0, 1), (0, 0)])):
        (gradient,) = torch.autograd.grad(draw(keypoints, torch.ones(1, 1, 1, 2), (12, 12)).sum(), keypoints)
        assert torch.isfinite(gradient).all()


def test_nothing_to_draw() -> None:
    assert joint_heatmaps(torch.zeros(0, 1, 4, 3, 2), torch.zeros(0, 1, 4, 3), (8, 9)).shape == (0, 3, 4, 8, 9)
    empty = limb_heatmaps(torch.zeros(2, 1, 4, 3, 2), torch.ones(2, 1, 4, 3), (8, 9), bones=[])
    assert empty.shape == (2, 0, 4, 8, 9)
    assert limb_heatmaps(torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2), (8, 9), bones=[(0, 1)]).sum() == 0


def test_wrong_input_is_named() -> None:
    keypoints, scores = torch.zeros(1, 1, 2, 3, 2), torch.zeros(1, 1, 2, 3)
    with pytest.raises(DataError, match=r"\[1, 1, 2, 3, 2\] with scores of shape \[1, 1, 2\]"):
        joint_heatmaps(keypoints, scores[..., 0], (8, 8))
    with pytest.raises(DataError, match="keypoints are"):
        joint_heatmaps(keypoints[..., :1], scores, (8, 8))
    with pytest.raises(DataError, match=r"torch\.int64"):
        limb_heatmaps(keypoints.long(), scores, (8, 8), bones=[(0, 1)])
    with pytest.raises(ConfigError, match="size"):
        joint_heatmaps(keypoints, scores, (0, 8))
    with pytest.raises(ConfigError, match="sigma"):
        joint_heatmaps(keypoints, scores, (8, 8), sigma=0)
    for bone in ((0, 3), (-1, 0), (0,)):
        with pytest.raises(ConfigError, match=r"keypoints 0\.\.2"):
            limb_heatmaps(keypoints, scores, (8, 8), bones=[bone])
