"""PoseC3D against the published implementation, the naive version, and what its authors say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from migcore import reference
from migcore.errors import ConfigError, DataError
from migcore.models.posec3d import Bottleneck, PoseC3D, PoseC3DConfig, alignment_loss
from tests.conformance.seeded import seeded_state

Embedding = Literal["series", "parallel"]
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
        embed_dim=st.integers(0, 3),
        embedding=st.sampled_from(["series", "parallel"]),
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
        series = config.embed_dim > 0 and config.embedding == "series"
        features, logits = reference.posec3d(model.state_dict(), x, series=series)
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
    with pytest.raises(ConfigError, match="embed_dim -1"):
        PoseC3DConfig(embed_dim=-1)
    with pytest.raises(ConfigError, match=r"embedding 'both'\. choose from series, parallel"):
        PoseC3DConfig(embedding="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"no embedding\. set embed_dim"):
        model(torch.rand(1, 3, 4, 16, 16), with_embedding=True)


# --- text alignment (section 2.4, Eq. 6) ------------------------------------------------------------------------------


def aligned(embedding: Embedding, embed_dim: int = 6, dropout: float = 0.5, seed: int = 7) -> PoseC3D:
    """A small network; with ``embed_dim=0`` the published one."""
    config = PoseC3DConfig(3, 5, 2, (1, 1, 1), dropout, embed_dim, embedding)
    return PoseC3D(config, generator=torch.Generator().manual_seed(seed))


def volume() -> torch.Tensor:
    return torch.rand(4, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_published_network_has_kept_its_initial_weights() -> None:
    # Measured before there was an embedding. Rounded, since processors differ in the last digit of a normal draw.
    state = aligned("series", embed_dim=0).state_dict()
    assert len(state) == 80 and not any("fc_emb" in name for name in state)
    for name, total, first, last in (
        ("backbone.conv1.conv.weight", -1.903958, -0.1171621, 0.1000454),
        ("backbone.layer2.0.conv1.conv.weight", 7.743472, -0.5214084, 0.0640716),
        ("backbone.layer3.0.downsample.conv.weight", -2.709166, -0.0699927, -0.2456897),
        ("cls_head.fc_cls.weight", -0.0378007, -0.0161753, -0.0131844),
    ):
        weight = state[name].flatten()
        assert [weight.sum().item(), weight[0].item(), weight[-1].item()] == pytest.approx(
            [total, first, last], abs=1e-5
        )


@pytest.mark.parametrize("embedding", ["series", "parallel"])
def test_the_embedding_is_drawn_last(embedding: Embedding) -> None:
    published, state = aligned("series", embed_dim=0).state_dict(), aligned(embedding).state_dict()
    assert set(state) - set(published) == {"cls_head.fc_emb.weight", "cls_head.fc_emb.bias"}
    differ = {name for name in published if not torch.equal(published[name], state[name])}
    assert differ == ({"cls_head.fc_cls.weight"} if embedding == "series" else set())  # in series it has another width


@pytest.mark.parametrize("embedding", ["series", "parallel"])
def test_initial_embedding_is_neither_dead_nor_too_long(embedding: Embedding) -> None:
    config = PoseC3DConfig(base_channels=16, num_classes=64, embed_dim=128, embedding=embedding)
    model = PoseC3D(config, generator=torch.Generator().manual_seed(0))
    linear = model.cls_head.fc_emb
    assert linear is not None and model.cls_head.fc_cls.weight.std().item() == pytest.approx(0.01, rel=0.05)
    for values in (linear.weight, linear.bias):
        assert values.abs().max() <= config.feature_channels**-0.5
        assert values.std().item() == pytest.approx((3 * config.feature_channels) ** -0.5, rel=0.15)
    x = torch.rand(4, 22, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        length = model(x, with_embedding=True)[1].norm(dim=1)
    assert (length > 1).all() and (length < 15).all()  # longer than its text, not by far


@pytest.mark.parametrize("embedding", ["series", "parallel"])
def test_logits_and_embedding(embedding: Embedding) -> None:
    model = aligned(embedding).eval()
    model.load_state_dict(seeded_state(model.state_dict(), 3))
    with torch.no_grad():
        logits, embedded = model(volume(), with_embedding=True)
        assert (logits.shape, embedded.shape) == ((4, 5), (4, 6))
        assert torch.equal(logits, model(volume()))
        state = model.state_dict()
        features, expected = reference.posec3d(state, volume(), series=embedding == "series")
        mapped = features.mean((2, 3, 4)) @ state["cls_head.fc_emb.weight"].T + state["cls_head.fc_emb.bias"]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(embedded, mapped, atol=1e-4, rtol=1e-4)


def test_classifier_and_embedding_see_the_same_dropout() -> None:
    model = aligned("parallel", embed_dim=5).train()
    head = model.cls_head
    assert head.fc_emb is not None
    head.fc_emb.load_state_dict(head.fc_cls.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        logits, embedded = model(volume(), with_embedding=True)
        assert torch.equal(logits, embedded) and not torch.equal(logits, model(volume()))


@pytest.mark.parametrize("embedding", ["series", "parallel"])
def test_what_reaches_the_embedding(embedding: Embedding) -> None:
    labels, text = torch.tensor([0, 4, 2, 2]), torch.eye(5, 6)
    for gamma in (0.0, 1.0):
        model = aligned(embedding, dropout=0)
        logits, embedded = model(volume(), with_embedding=True)
        loss = torch.nn.functional.cross_entropy(logits, labels) + gamma * alignment_loss(embedded, text, labels)
        loss.backward()
        head = model.cls_head
        assert head.fc_emb is not None and head.fc_emb.weight.grad is not None and head.fc_cls.weight.grad is not None
        assert head.fc_emb.weight.grad.any() == (embedding == "series" or gamma > 0)
        assert head.fc_cls.weight.grad.any()
    model = aligned("parallel", dropout=0)  # at test the embedding of the parallel head is not even computed
    model(volume()).sum().backward()
    assert model.cls_head.fc_emb is not None and model.cls_head.fc_emb.weight.grad is None


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 4),
    classes=st.integers(1, 5),
    width=st.integers(1, 6),
    normalise=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_alignment_equal_to_the_naive_version(batch: int, classes: int, width: int, normalise: bool, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    embedded, text = torch.randn(batch, width, generator=g) * 3, torch.randn(classes, width, generator=g)
    embedded[0] *= seed % 2  # half of the time one of exact zeros
    labels = torch.randint(0, classes, (batch,), generator=g)
    loss = alignment_loss(embedded, text, labels, normalise=normalise)
    expected = reference.posec3d_alignment(embedded, text, labels.tolist(), normalise=normalise)
    assert loss.shape == () and loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_alignment_pulls_to_the_text_of_the_class() -> None:
    text = torch.nn.functional.normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = torch.tensor([3, 0, 3], dtype=torch.int32)
    own = text[labels.long()]
    assert alignment_loss(own, text, labels).item() == 0
    assert alignment_loss(own, text, (labels + 1) % 5).item() > 0.01
    # a step down the loss comes nearer
    embedded = (own + 1).requires_grad_()
    (gradient,) = torch.autograd.grad(alignment_loss(embedded, text, labels), embedded)
    torch.testing.assert_close(gradient, 2 * torch.ones(3, 6) / 3)
    # three times as long, in the same direction
    assert alignment_loss(3 * own, text, labels).item() == pytest.approx(4)
    assert alignment_loss(3 * own, text, labels, normalise=True).item() == pytest.approx(0, abs=1e-6)
    assert alignment_loss(-2 * own, text, labels, normalise=True).item() == pytest.approx(4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_alignment_of_zeros_and_of_few_bits(dtype: torch.dtype) -> None:
    text = torch.eye(2, 3)
    zeros = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    loss = alignment_loss(zeros, text, torch.tensor([0, 1]), normalise=True)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == 1
    assert zeros.grad is not None
    assert torch.equal(zeros.grad.float(), -text)  # 2 (0 - text) / B: finite, towards the text
    long = torch.full((2, 3), 300.0, dtype=dtype)  # its square overflows float16
    assert alignment_loss(long, text, torch.tensor([0, 1])).item() == pytest.approx(299**2 + 2 * 300**2, rel=1e-2)


def test_alignment_names_wrong_input() -> None:
    embedded, text = torch.zeros(2, 6), torch.zeros(5, 6)
    with pytest.raises(ConfigError, match=r"shape \[2, 4\] for texts of shape \[5, 6\].*embed_dim"):
        alignment_loss(torch.zeros(2, 4), text, torch.tensor([0, 1]))
    with pytest.raises(ConfigError, match=r"\[B, E\] and \[C, E\]"):
        alignment_loss(embedded, text[0], torch.tensor([0, 1]))
    with pytest.raises(DataError, match="no clip"):
        alignment_loss(embedded[:0], text, torch.zeros(0, dtype=torch.long))
    for labels in (torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([0.0, 1.0]), torch.tensor([True, False])):
        with pytest.raises(DataError, match=r"for 2 clips\. one integer per clip"):
            alignment_loss(embedded, text, labels)
    for wrong in (5, -1):
        with pytest.raises(DataError, match=f"label {wrong} of 5 classes"):
            alignment_loss(embedded, text, torch.tensor([0, wrong]))
