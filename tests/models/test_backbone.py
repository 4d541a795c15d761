"""The image network: sizes, starts, and words for what cannot be had."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from migcore.errors import CheckpointError, ConfigError
from migcore.models.backbone import image_backbone


def test_a_vector_per_image() -> None:
    for name, width, features in (("resnet18", 1.0, 512), ("resnet10t", 0.25, 128), ("resnet26", 0.125, 256)):
        model, dim = image_backbone(name, width=width, generator=torch.Generator().manual_seed(0))
        assert dim == features and model(torch.zeros(2, 3, 32, 32)).shape == (2, features)


def test_published_size() -> None:
    model, _ = image_backbone("resnet50", generator=torch.Generator())
    assert sum(p.numel() for p in model.parameters()) == 23_508_032  # 25.557 M less the classifier of 1000 classes


def test_weights_are_a_function_of_the_generator_alone() -> None:
    before = torch.get_rng_state()
    made = [image_backbone("resnet10t", width=0.25, generator=torch.Generator().manual_seed(s))[0] for s in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    first, again, other = (model.state_dict()["layer1.0.conv1.weight"] for model in made)
    assert torch.equal(first, again) and not torch.equal(first, other)
    two = [image_backbone("resnet10t", width=0.25)[0].state_dict()["layer1.0.conv1.weight"] for _ in range(2)]
    assert not torch.equal(*two)


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match=r"no ResNet called 'resnet51'.*resnet50"):
        image_backbone("resnet51")
    for other in ("resnetv2_50", "resnet50_clip"):  # without the layers that DSCNet's shift goes into
        with pytest.raises(ConfigError, match=rf"no ResNet called '{other}'"):
            image_backbone(other)
    for width in (0.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="width"):
            image_backbone("resnet18", width=width)
    with pytest.raises(ConfigError, match="1 where pretrained weights are wanted"):
        image_backbone("resnet18", width=0.5, pretrained=True)


def test_weights_that_cannot_be_fetched_are_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def fail(name: str, **settings: Any) -> None:
        asked.append(settings)
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(CheckpointError, match=r"resnet18 cannot be fetched.*no route to host"):
        image_backbone("resnet18", pretrained=True)
    assert asked == [{"pretrained": True, "num_classes": 0}]
