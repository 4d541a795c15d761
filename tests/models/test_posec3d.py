"""PoseC3D against the published implementation, the naive version, and what its authors say of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from migcore import reference
from migcore.errors import ConfigError
from migcore.models.posec3d import Bottleneck, PoseC3D, PoseC3DConfig
from tests.conformance.seeded import seeded_state

VECTOR = Path(__file__).parents[1] / "conformance" / "posec3d_w8.npz"


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_equal_to_the_published_network(memory_format: torch.memory_format) -> None:
    vector = np.load(VECTOR)
    cfg = json.loads(str(vector["cfg"]))
    model = PoseC3D(PoseC3DConfig(cfg["in_channels"], cfg["num_classes"], cfg["base_channels"])).eval()
    state = model.state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == cfg["keys"]
    model.load_state_dict(seeded_state(state, cfg["seed"]))
    model.to(memory_format=memory_format)
    x = torch.from_numpy(vector["x"]).to(memory_format=memory_format)
    with torch.no_grad():
        np.testing.assert_allclose(model.features(x), vector["features"], atol=1e-4, rtol=0)
        np.testing.assert_allclose(model(x), vector["logits"], atol=1e-4, rtol=0)


@settings(max_examples=10, deadline=None)
@given(
    config=st.builds(
        PoseC3DConfig,
        in_channels=st.integers(1, 3),
        num_classes=st.integers(1, 4),
        base_channels=st.integers(1, 4),
        stage_blocks=st.tuples(*[st.integers(1, 2)] * 3),
    ),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(8, 18), st.integers(8, 18)),
    seed=st.integers(0, 1000),
)
def test_equal_to_the_naive_version(config: PoseC3DConfig, shape: tuple[int, int, int, int], seed: int) -> None:
    model = PoseC3D(config).eval()
    model.load_state_dict(seeded_state(model.state_dict(), seed))
    batch, frames, height, width = shape
    x = torch.randn(batch, config.in_channels, frames, height, width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        features, logits = reference.posec3d(model.state_dict(), x)
        torch.testing.assert_close(model.features(x), features, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model(x), logits, atol=1e-4, rtol=1e-4)
    assert features.shape[1] == config.feature_channels
    assert features.shape[2:] == (-(-frames // 2), -(-height // 8), -(-width // 8))


def test_published_size() -> None:
    model = PoseC3D(PoseC3DConfig())
    assert sum(p.numel() for p in model.backbone.parameters()) == 2_001_920
    assert sum(p.numel() for p in model.cls_head.parameters()) == 16_416
    assert sum(name.startswith("backbone.") for name in model.state_dict()) == 258


def test_published_initial_weights() -> None:
    model = PoseC3D(PoseC3DConfig(base_channels=16, num_classes=64))
    blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    assert len(blocks) == 13 and all((block.conv3.bn.weight == 0).all() for block in blocks)
    assert all((block.conv1.bn.weight == 1).all() for block in blocks)
    for block in blocks:
        kernel = block.conv2.conv.weight  # fan-out of a 1×3×3 kernel
        assert kernel.std().item() == pytest.approx((2 / (kernel.shape[0] * 9)) ** 0.5, rel=0.1)
    assert model.cls_head.fc_cls.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert (model.cls_head.fc_cls.bias == 0).all()


def test_initial_weights_come_from_the_generator() -> None:
    config = PoseC3DConfig(base_channels=2, stage_blocks=(1, 1, 1))
    before = torch.get_rng_state()
    first, again, other = (PoseC3D(config, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    kernels = [model.backbone.conv1.conv.weight for model in (first, again, other)]
    assert torch.equal(kernels[0], kernels[1]) and not torch.equal(kernels[0], kernels[2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        assert torch.equal(PoseC3D(config).backbone.conv1.conv.weight, kernels[0])  # torch's own, if none is given


def test_gradient_reaches_every_parameter() -> None:
    model = PoseC3D(PoseC3DConfig(in_channels=3, base_channels=2, stage_blocks=(1, 1, 1), dropout=0))
    for block in (module for module in model.modules() if isinstance(module, Bottleneck)):
        torch.nn.init.ones_(block.conv3.bn.weight)
    model(torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_wrong_input_is_named() -> None:
    model = PoseC3D(PoseC3DConfig(in_channels=3, base_channels=2, stage_blocks=(1, 1, 1)))
    with pytest.raises(ConfigError, match=r"\[1, 4, 4, 16, 16\] for a model of 3 channels"):
        model(torch.rand(1, 4, 4, 16, 16))
    with pytest.raises(ConfigError, match="three stages"):
        PoseC3DConfig(stage_blocks=(4, 6))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="base_channels"):
        PoseC3DConfig(base_channels=0)
    with pytest.raises(ConfigError, match="dropout"):
        PoseC3DConfig(dropout=1.0)
