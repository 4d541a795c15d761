"""The pre-training of the miniature ResNet: targets that follow the picture, a loss by hand, the same weights again."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from migcore.data.layouts import IMIGUE22
from migcore.errors import ConfigError
from migcore.models import backbone as model_module
from migcore.models.backbone import MINIATURE, MINIATURE_WIDTH, image_backbone
from migcore.models.weights import load_weights
from migcore.studio.backbone import (
    CELLS,
    HAND,
    BackboneTrainConfig,
    BackboneTraining,
    StillPictures,
    backbone_loss,
    pretrain,
)
from migcore.studio.figure import PART_NAMES
from migcore.studio.teacher_data import StillCache, cached_stills
from migcore.training import TrainConfig

TINY = BackboneTrainConfig(
    stills=24, held_out=8, train=TrainConfig(epochs=2, batch_size=8, optimizer="adamw", lr=1e-3, eval_every=1)
)


@pytest.fixture(scope="module")
def stills(tmp_path_factory: pytest.TempPathFactory) -> StillCache:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIGCORE_RUNS", str(tmp_path_factory.mktemp("runs")))
        return cached_stills(24, 0, 64, progress=False)


def test_targets_without_augmentation(stills: StillCache) -> None:
    data = StillPictures(stills, 4, 20, TINY, train=False)
    assert len(data) == 16
    for position in range(16):
        item, number = data[position], 4 + position
        assert np.array_equal(item["image"], stills.frames[number])
        for joint in range(22):
            x, y = stills.keypoints[number, joint]
            seen = stills.visible[number, joint] and 0 <= x < 1 and 0 <= y < 1
            expected = math.floor(y * CELLS) * CELLS + math.floor(x * CELLS) if seen else -1
            assert item["cells"][joint] == expected
        assert item["label"] == item["cells"][HAND]
        for row, column in ((0, 0), (5, 3)):
            four = stills.parts[number, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel()
            shares = np.bincount(four, minlength=len(PART_NAMES)) / 4
            assert np.allclose(item["parts"][row * CELLS + column], shares)


def test_a_mirrored_still_has_its_targets_mirrored(stills: StillCache) -> None:
    mirror = dataclasses.replace(TINY, flip=1.0, shift=0, gain=0.0)
    plain, mirrored = (StillPictures(stills, 0, 24, mirror, train=train) for train in (False, True))
    pairs, left, right = IMIGUE22.flip_permutation, PART_NAMES.index("left hand"), PART_NAMES.index("right hand")
    compared = 0
    for number in range(24):
        before, after = plain[number], mirrored[number]
        assert torch.equal(after["image"], before["image"].flip(-1))
        maps = [item["parts"].reshape(CELLS, CELLS, -1) for item in (before, after)]
        assert torch.equal(maps[1][..., left], maps[0].flip(1)[..., right])
        for joint in range(22):
            cell = int(before["cells"][pairs[joint]])
            x = stills.keypoints[number, pairs[joint], 0] * CELLS
            if cell >= 0 and x % 1 > 1e-4:  # on the line between two cells, the mirror image is in the other one
                assert after["cells"][joint] == cell // CELLS * CELLS + CELLS - 1 - cell % CELLS
                compared += 1
    assert compared > 200


def test_a_displaced_still_has_its_targets_displaced(stills: StillCache) -> None:
    far = dataclasses.replace(TINY, flip=0.0, shift=16, gain=0.0)
    data = StillPictures(stills, 0, 24, far, train=True)
    seen = set()
    for number in range(24):
        rng = np.random.default_rng((TINY.seed, 0, number))
        rng.random()
        right, down = rng.integers(-16, 17, 2)
        seen.add((right, down))
        item = data[number]
        inner = item["image"][:, 16:48, 16:48]
        assert np.array_equal(inner, stills.frames[number][:, 16 - down : 48 - down, 16 - right : 48 - right])
        x, y = stills.keypoints[number, HAND] + np.array([right, down]) / 64
        inside = stills.visible[number, HAND] and 0 <= x < 1 and 0 <= y < 1
        assert item["label"] == (math.floor(y * CELLS) * CELLS + math.floor(x * CELLS) if inside else -1)
    assert len(seen) > 15
    first = data[0]["image"]
    data.set_epoch(1)
    assert not torch.equal(data[0]["image"], first)
    data.set_epoch(0)
    assert torch.equal(data[0]["image"], first)


def test_the_loss_by_hand() -> None:
    points = torch.zeros(1, 2, CELLS**2)
    points[0, 0, 5] = math.log(3)
    layout = torch.zeros(1, CELLS**2, len(PART_NAMES))
    parts = torch.zeros(1, CELLS**2, len(PART_NAMES))
    parts[..., 1] = 1
    batch = {"cells": torch.tensor([[5, -1]]), "parts": parts}
    weights = torch.ones(len(PART_NAMES))
    found = backbone_loss(points, layout, batch, weights, 0.5)
    # one keypoint is seen, with 3 against 63 ones; all parts are equally likely in every cell
    assert found.item() == pytest.approx(math.log(66 / 3) + 0.5 * math.log(len(PART_NAMES)), rel=1e-6)


def test_a_pretraining_is_repeated_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_rng_state()
    files = []
    for name in ("a", "b"):
        monkeypatch.setenv("MIGCORE_RUNS", str(tmp_path / name))
        files.append(pretrain(TINY, tmp_path / name / "resnet.safetensors"))
    assert torch.equal(torch.get_rng_state(), before)
    (first, meta), (second, _) = map(load_weights, files)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert {value.dtype for value in first.values()} == {torch.float16, torch.int64}
    assert [row["epoch"] for row in meta["history"]] == [1, 2]
    assert all(0 <= row["val_top1"] <= 1 and row["loss"] > 0 for row in meta["history"])
    assert meta["recipe"]["train"]["epochs"] == 2 and (meta["name"], meta["width"]) == (MINIATURE, MINIATURE_WIDTH)

    start = BackboneTraining(TINY.seed).net.state_dict()
    unmoved = [name for name in first if torch.equal(first[name], start[name].to(first[name].dtype))]
    assert unmoved == [], "some layers were not trained"
    monkeypatch.setattr(model_module, "MINIATURE_WEIGHTS", files[0])
    model, _ = image_backbone(MINIATURE, width=MINIATURE_WIDTH, pretrained="studio")
    assert all(torch.equal(value.to(first[name].dtype), first[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "wrong", [{"held_out": 0}, {"held_out": 24}, {"flip": 1.5}, {"gain": -0.1}, {"shift": -1}, {"seed": -1}]
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(TINY, **wrong)  # type: ignore[arg-type]
