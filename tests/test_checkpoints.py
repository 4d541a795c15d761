"""Published weights as our modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from migcore import checkpoints
from migcore.checkpoints import load_reference
from migcore.errors import CheckpointError, ConfigError
from migcore.models.posec3d import PoseC3D, PoseC3DConfig

CONFIG = PoseC3DConfig(in_channels=5, num_classes=7, base_channels=2, stage_blocks=(1, 2, 1))


@pytest.fixture
def published() -> dict[str, torch.Tensor]:
    model = PoseC3D(CONFIG, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_mean"):
                tensor += 0.25
    return model.state_dict()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_posec3d_is_built_from_the_shapes(published: dict[str, torch.Tensor], prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: tensor for name, tensor in published.items()}
    torch.save({"meta": {"epoch": 24}, "state_dict": state}, tmp_path / "joint.pth")
    before = torch.get_rng_state()
    model = load_reference("posec3d", tmp_path / "joint.pth")
    assert torch.equal(before, torch.get_rng_state())
    assert model.config == CONFIG and not model.training
    assert all(torch.equal(tensor, published[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("backbone.layer2.1.conv2.conv.weight"), r"missing: backbone\.layer2\.1\.conv2\.conv\.weight"),
        (lambda s: s.update({"cls_head.fc_emb.weight": torch.ones(3)}), r"unexpected: cls_head\.fc_emb\.weight"),
        (lambda s: s.update({"cls_head.fc_cls.bias": torch.ones(8)}), r"cls_head\.fc_cls\.bias is \[8\], not \[7\]"),
        (lambda s: s.pop("backbone.conv1.conv.weight"), "not of a PoseC3D"),
        (lambda s: [s.pop(name) for name in list(s) if "layer3" in name], "not of a PoseC3D"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    published: dict[str, torch.Tensor], change: object, message: str, tmp_path: Path
) -> None:
    change(published)  # type: ignore[operator]
    torch.save(published, tmp_path / "joint.pth")
    with pytest.raises(CheckpointError, match=message):
        load_reference("posec3d", tmp_path / "joint.pth")


def test_unknown_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'stgcn'"):
        load_reference("stgcn", tmp_path / "x.pth")


def test_weight_files_are_found_here(tmp_path: Path) -> None:
    checkpoints.save_weights(tmp_path / "w.safetensors", {"a": torch.ones(2)}, {"n": 1})
    state, meta = checkpoints.load_weights(tmp_path / "w.safetensors")
    assert meta == {"n": 1} and torch.equal(checkpoints.load_foreign(tmp_path / "w.safetensors")["a"], state["a"])
