"""The naive versions against what published implementations computed, and against numbers done by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from migcore import reference
from tests.conformance.seeded import seeded_array

VECTORS = Path(__file__).parent / "conformance"


def seeded(keys: dict[str, list[int]], seed: int, prefix: str = "") -> dict[str, torch.Tensor]:
    """The weights of a conformance vector under ``prefix``, without it in the names."""
    names = [name for name in keys if name.startswith(prefix) and not name.endswith("num_batches_tracked")]
    state = {name: torch.from_numpy(seeded_array(name, tuple(keys[name]), seed)) for name in names}
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def test_heatmaps_are_the_published_ones() -> None:
    vector = np.load(VECTORS / "heatmap_m1.npz")
    cfg = json.loads(str(vector["cfg"]))
    keypoints, scores, size = vector["keypoint"][None, :, :2], vector["score"][None, :, :2], tuple(cfg["hw"])
    joint = reference.joint_heatmaps(keypoints, scores, size, sigma=cfg["sigma"])
    limb = reference.limb_heatmaps(keypoints, scores, size, bones=cfg["limbs"], sigma=cfg["sigma"])
    np.testing.assert_allclose(joint[0].swapaxes(0, 1), vector["joint"][:2], atol=1e-5, rtol=0)
    np.testing.assert_allclose(limb[0].swapaxes(0, 1), vector["limb"][:2], atol=1e-5, rtol=0)


def test_posec3d_is_the_published_one() -> None:
    vector = np.load(VECTORS / "posec3d_w8.npz")
    cfg = json.loads(str(vector["cfg"]))
    with torch.no_grad():
        features, logits = reference.posec3d(seeded(cfg["keys"], cfg["seed"]), torch.from_numpy(vector["x"]))
    np.testing.assert_allclose(features, vector["features"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(logits, vector["logits"], atol=1e-4, rtol=0)


def test_clip_is_the_published_teacher() -> None:
    vector = np.load(VECTORS / "froster_full.npz")
    cfg = json.loads(str(vector["cfg"]))
    state = seeded(cfg["keys"], cfg["seed_teacher"], "raw_model.")
    frames = torch.from_numpy(vector["video"])[0].unbind(1)
    images = torch.stack([reference.clip_image(state, frame) for frame in frames])
    np.testing.assert_allclose(_unit(images), vector["teacher_image"], atol=1e-4, rtol=0)
    prompts, classes, _ = vector["train_tokens"].shape
    texts = torch.stack(
        [
            torch.stack([reference.clip_text(state, torch.from_numpy(tokens)) for tokens in row])
            for row in vector["train_tokens"]
        ]
    )
    assert texts.shape[:2] == (prompts, classes)
    np.testing.assert_allclose(_unit(_unit(texts).mean(0)), vector["teacher_text"], atol=1e-4, rtol=0)


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def test_fusion_by_hand() -> None:
    even, sure = np.zeros((1, 2)), np.array([[np.log(3.0), 0.0]])
    np.testing.assert_allclose(reference.fuse([even, sure], [1.0, 2.0]), [[0.5 + 1.5, 0.5 + 0.5]])


def test_accuracies_by_hand() -> None:
    logits = np.array([[2.0, 1, 0], [2, 1, 0], [0, 1, 2], [1, 2, 0]])
    found = reference.classification(logits, np.array([0, 0, 1, 1]))
    # Class 0 has two of two, class 1 one of two; class 2 is predicted once but never true.
    assert found == {"top1": 0.75, "top5": 1.0, "mean_class": 0.75, "mean_class_published": 0.5}
