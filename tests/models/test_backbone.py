"""The image network: sizes, starts, and words for what cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from migcore.errors import CheckpointError, ConfigError
from migcore.models import backbone
from migcore.models.backbone import image_backbone, pretrained_identity
from migcore.models.dscnet import DenseConfig
from migcore.models.trn import TRNConfig
from migcore.models.weights import load_weights, save_weights


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
    with pytest.raises(ConfigError, match="1 where ImageNet's weights are wanted"):
        image_backbone("resnet18", width=0.5, pretrained="imagenet")
    for name, share in (("resnet18", 0.5), ("resnet10t", 1.0)):
        with pytest.raises(ConfigError, match=rf"no weights of a {name} of width .*a resnet10t of width 0\.5"):
            image_backbone(name, width=share, pretrained="studio")
    for config in (TRNConfig, DenseConfig):
        with pytest.raises(ConfigError, match=r"pretrained 'yes'.* none, imagenet, studio"):
            config(pretrained="yes")  # type: ignore[arg-type]


def test_the_shipped_weights_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, dim = image_backbone("resnet10t", width=0.5, generator=torch.Generator().manual_seed(0))
    model, same_dim = image_backbone("resnet10t", width=0.5, pretrained="studio")
    assert dim == same_dim == 256
    before = drawn.state_dict()
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = model.eval()(image)
    assert features.isfinite().all() and not torch.allclose(features[0], features[1])
    identity = pretrained_identity("studio")
    assert (pretrained_identity("none"), pretrained_identity("imagenet")) == ("none", "imagenet")

    state, meta = load_weights(backbone.MINIATURE_WEIGHTS)
    monkeypatch.setattr(backbone, "MINIATURE_WEIGHTS", tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointError, match=r"not there.*migcore backbone"):
        image_backbone("resnet10t", width=0.5, pretrained="studio")
    save_weights(tmp_path / "resnet.safetensors", {**state, "bn1.weight": state["bn1.weight"] + 1}, meta)
    assert pretrained_identity("studio") != identity
    save_weights(tmp_path / "resnet.safetensors", {"bn1.weight": state["bn1.weight"]}, meta)
    with pytest.raises(CheckpointError, match=r"resnet\.safetensors"):
        image_backbone("resnet10t", width=0.5, pretrained="studio")


def test_weights_that_cannot_be_fetched_are_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def fail(name: str, **settings: Any) -> None:
        asked.append({"name": name, **settings})
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(CheckpointError, match=r"resnet18 cannot be fetched.*no route to host"):
        image_backbone("resnet18", pretrained="imagenet")
    assert asked == [{"name": "resnet18.tv_in1k", "pretrained": True, "num_classes": 0}]
