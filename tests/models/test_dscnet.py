"""DSCNet's two networks against the published implementation, the naive versions, and numbers done by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from migcore.errors import CheckpointError, ConfigError, DataError
from migcore.models import dscnet
from migcore.models.dscnet import (
    STMEM,
    DenseConfig,
    DenseStream,
    SparseConfig,
    SparseMSST,
    TemporalShift,
    sparse_from_published,
    stmem_from_published,
    temporal_shift,
)
from migcore.reference import dscnet as naive
from tests.conformance.seeded import seeded_array, seeded_state

VECTOR = Path(__file__).parents[1] / "conformance" / "dscnet.npz"
TINY = SparseConfig(num_classes=3, width=8 / 320, dropout=0)
SMALL = DenseConfig(num_classes=3, segments=3, window=2, backbone="resnet18", dropout=0)


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def published(keys: dict[str, list[int]], seed: int) -> dict[str, Tensor]:
    return {name: torch.from_numpy(seeded_array(name, tuple(s), seed)).reshape(s) for name, s in keys.items()}


def with_prefix(model: SparseMSST) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


# --- published --------------------------------------------------------------------------------------------------------


def test_the_skeleton_network_is_the_published_one() -> None:
    vector = np.load(VECTOR)
    cfg = json.loads(str(vector["cfg"]))
    model = sparse_from_published(published(cfg["keys"], cfg["seed"]), "vector")
    assert {f"model.{name}": list(t.shape) for name, t in model.state_dict().items()} == cfg["keys"]
    assert not model.training and sum(p.numel() for p in model.parameters()) == 11_079_540
    x = torch.from_numpy(vector["x"])
    with torch.no_grad():
        np.testing.assert_allclose(model(x), vector["y"], atol=1e-5, rtol=0)
        np.testing.assert_allclose(naive.sparse_msst(model.state_dict(), x), vector["y"], atol=1e-5, rtol=0)


def test_stmem_is_the_published_one() -> None:
    vector = np.load(VECTOR)
    cfg = json.loads(str(vector["cfg"]))
    state = published(cfg["stmem_keys"], cfg["stmem_seed"])
    model = stmem_from_published(state, "vector")
    assert not model.training and sum(p.numel() for p in model.parameters()) == 978
    x = torch.from_numpy(np.random.RandomState(144).rand(1, 144, 224, 224).astype(np.float32))
    with torch.no_grad():
        for y in (model(x), naive.stmem(state, x[0])):
            pooled = torch.nn.functional.avg_pool2d(y, 16)
            np.testing.assert_allclose(pooled, vector["stmem_y_pooled"], atol=1e-5, rtol=0)


@settings(max_examples=10, deadline=None)
@given(last=st.integers(1, 30), classes=st.integers(1, 5), slack=st.floats(-0.49, 0.49))
def test_published_weights_of_any_width_are_read(last: int, classes: int, slack: float) -> None:
    width = max(1 / 320, (last + slack) / 320)
    ours = SparseMSST(SparseConfig(classes, width), generator=gen(0))
    model = sparse_from_published(with_prefix(ours), "file")
    assert not model.training and model.config.widths == ours.config.widths
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), ours.state_dict().values(), strict=True))


@pytest.mark.parametrize("window", [2, 6, 7])
def test_published_weights_of_any_window_are_read(window: int) -> None:
    ours = STMEM(window, generator=gen(0))
    assert stmem_from_published(ours.state_dict(), "file").window == window


def test_other_weights_are_refused() -> None:
    before = torch.get_rng_state()
    good = with_prefix(SparseMSST(TINY, generator=gen(0)))
    bias = "model.m3.conv5.6.bias"
    for state, message in (
        ({name: t for name, t in good.items() if name != bias}, r"skel.pth: 1 of the entries are missing: m3.conv5.6"),
        (good | {"model.m8.conv1.0.weight": torch.zeros(1)}, "are unexpected: m8.conv1.0.weight"),
        (good | {bias: torch.zeros(77)}, r"of another shape: m3.conv5.6.bias is \[77\]"),
        (good | {"extra": torch.zeros(1)}, "not of DSCNet's skeleton network"),
        ({name.removeprefix("model."): t for name, t in good.items()}, "begin m1.conv1.0.weight"),
        (good | {"model.last_linear.weight": torch.zeros(0, 32)}, "not of DSCNet's skeleton network"),
        (good | {"model.m7.conv1.0.weight": torch.zeros(4)}, "of another shape"),
        ({}, "not of DSCNet's skeleton network"),
    ):
        with pytest.raises(CheckpointError, match=message):
            sparse_from_published(state, "skel.pth")
    good = STMEM(generator=gen(0)).state_dict()
    for state, message in (
        ({"m1.0.weight": good["m1.0.weight"]}, r"stmem.pth: 3 of the entries are missing: m1.0.bias"),
        (good | {"fc.weight": torch.zeros(1)}, "are unexpected: fc.weight"),
        (good | {"m2.0.bias": torch.zeros(4)}, "of another shape: m2.0.bias"),
        (good | {"m1.0.weight": torch.zeros(3, 34, 3, 3)}, "of another shape: m1.0.weight"),
        (good | {"m1.0.weight": torch.zeros(3, 3, 3, 3)}, "not of STMEM"),
        ({"conv1.weight": torch.zeros(1)}, "begin conv1.weight"),
    ):
        with pytest.raises(CheckpointError, match=message):
            stmem_from_published(state, "stmem.pth")
    assert torch.equal(before, torch.get_rng_state())


# --- naive ------------------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(
    config=st.builds(SparseConfig, num_classes=st.integers(1, 4), width=st.integers(1, 9).map(lambda n: n / 320)),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.just(3), st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 1000),
)
def test_skeletons_equal_to_the_naive_version(config: SparseConfig, shape: tuple[int, ...], seed: int) -> None:
    model = SparseMSST(config).eval()
    model.load_state_dict(seeded_state(model.state_dict(), seed))
    x = torch.randn(shape, generator=gen(seed))
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(y, naive.sparse_msst(model.state_dict(), x), atol=1e-4, rtol=1e-4)
    assert y.shape == (shape[0], config.num_classes)


@settings(max_examples=25, deadline=None)
@given(
    window=st.integers(2, 5),
    segments=st.integers(1, 3),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    seed=st.integers(0, 1000),
)
def test_stmem_equal_to_the_naive_version(window: int, segments: int, size: tuple[int, int], seed: int) -> None:
    model = STMEM(window, generator=gen(seed))
    x = torch.randn(2, segments * window * 3, *size, generator=gen(seed))
    with torch.no_grad():
        y = model(x)
        expected = torch.cat([naive.stmem(model.state_dict(), clip, window) for clip in x])
    assert y.shape == (2 * segments, 3, *size)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    clips=st.integers(1, 3),
    frames=st.integers(1, 4),
    channels=st.integers(1, 17),
    div=st.integers(2, 9),
    seed=st.just(0),
)
def test_shift_equal_to_the_naive_version(clips: int, frames: int, channels: int, div: int, seed: int) -> None:
    x = torch.randn(clips * frames, channels, 2, 3, generator=gen(seed))
    assert torch.equal(temporal_shift(x, frames, 1 / div), naive.temporal_shift(x, frames, channels // div))


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_video_equal_to_the_naive_version(backbone: str) -> None:
    model = DenseStream(DenseConfig(5, 3, 2, backbone, shift_div=6)).eval()
    model.load_state_dict(seeded_state(model.state_dict(), 3))
    video = torch.randn(2, 3, 6, 32, 40, generator=gen(0))
    with torch.no_grad():
        y = model(video)
        expected = torch.stack(
            [naive.dense_stream(model.state_dict(), v, segments=3, window=2, shift_div=6) for v in video]
        )
    assert y.abs().max() > 0.1
    torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_shift_by_hand() -> None:
    x = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]).view(3, 4, 1, 1)
    shifted = temporal_shift(x, 3, 1 / 4).view(3, 4)
    assert shifted.tolist() == [[5, 0, 3, 4], [9, 2, 7, 8], [0, 6, 11, 12]]
    assert temporal_shift(x, 3, 0.5).view(3, 4).tolist() == [[5, 6, 0, 0], [9, 10, 3, 4], [0, 0, 7, 8]]
    assert torch.equal(temporal_shift(x, 3, 0), x)
    assert not temporal_shift(x, 1, 0.5).any()  # clips of one frame have no neighbours
    many = torch.ones(1, 49, 1, 1)
    assert temporal_shift(many, 1, 1 / 49).sum() == 47  # 49 · (1 / 49) is rounded to 1, not 0


def test_stmem_weighs_by_the_largest_step_with_its_sign() -> None:
    model = STMEM(3)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    mixture, gate = model.get_parameter("m1.0.bias"), model.get_parameter("m2.0.weight")
    with torch.no_grad():
        mixture.copy_(torch.tensor([1.0, 2.0, 4.0]))
        gate[range(3), range(3), 1, 1] = 1  # each colour its own step
    frames = torch.tensor([[0.0, 0, 5], [-3, 2, 1], [-4, 1, 1]])  # 3 frames of 3 colours: largest steps -1, 2, 0
    y = model(frames.view(1, 9, 1, 1)).view(3)
    torch.testing.assert_close(y, torch.tensor([1.0, 2, 4]) * torch.sigmoid(torch.tensor([-1.0, 2, 0])))


def test_widths() -> None:
    assert [one + 3 * other for one, other in SparseConfig().widths] == [224, 288, 416, 640, 672, 960, 1280]
    assert SparseConfig(width=0.25).widths[:3] == ((11, 15), (12, 20), (14, 30))
    assert min(min(pair) for pair in SparseConfig(width=1 / 320).widths) == 1


# --- properties -------------------------------------------------------------------------------------------------------


def test_persons_are_averaged_and_one_is_enough() -> None:
    model = SparseMSST(TINY).eval()
    model.load_state_dict(seeded_state(model.state_dict(), 1))
    x = torch.rand(2, 2, 3, 8, 22, generator=gen(0))
    with torch.no_grad():
        both = model(x)
        apart = [[model(x[b : b + 1, p : p + 1]) for p in (0, 1)] for b in (0, 1)]  # one image each
        torch.testing.assert_close(both, torch.cat([(a + b) / 2 for a, b in apart]))
        torch.testing.assert_close(both, model(x.flip(1)))
        assert model(x[:1, :1, :, :1, :1]).shape == (1, 3)  # of one frame and keypoint, too
    assert model.train()(x[:1, :1]).shape == (1, 3)


def test_segments_are_seen_alone_by_stmem_and_together_by_the_stream() -> None:
    stream = DenseStream(SMALL).eval()
    stream.load_state_dict(seeded_state(stream.state_dict(), 1))
    video = torch.randn(2, 3, 6, 32, 32, generator=gen(0))
    changed = video.clone()
    changed[1, :, 2:4] = 0  # the second window of the second clip
    as_images = [v.transpose(1, 2).flatten(1, 2) for v in (video, changed)]
    with torch.no_grad():
        first, second = (stream.stmem(images) for images in as_images)
        assert (first != second).flatten(1).any(1).tolist() == [False] * 4 + [True] + [False]
        first, second = stream(video), stream(changed)
        torch.testing.assert_close(first[0], second[0])
        assert (first[1] - second[1]).abs().max() > 1e-3


def test_without_shift_the_logits_are_the_mean_of_the_segments() -> None:
    together = DenseStream(DenseConfig(3, 2, 2, "resnet18", shift_div=10_000)).eval()
    alone = DenseStream(DenseConfig(3, 1, 2, "resnet18", shift_div=10_000)).eval()
    for model in (together, alone):
        model.load_state_dict(seeded_state(model.state_dict(), 5))
    video = torch.randn(2, 3, 4, 32, 32, generator=gen(0))
    with torch.no_grad():
        apart = (alone(video[:, :, :2]) + alone(video[:, :, 2:])) / 2
        torch.testing.assert_close(together(video), apart, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("backbone", "blocks"), [("resnet18", 8), ("resnet50", 16)])
def test_the_first_convolution_of_every_block_is_shifted(backbone: str, blocks: int) -> None:
    model = DenseStream(DenseConfig(backbone=backbone, shift_div=4))
    found = [module for module in model.modules() if isinstance(module, (BasicBlock, Bottleneck))]
    shifts = [module for module in model.modules() if isinstance(module, TemporalShift)]
    assert len(found) == blocks and [block.conv1 for block in found] == shifts
    assert all((shift.frames, shift.share) == (8, 0.25) for shift in shifts)


def test_the_backbone_is_asked_for_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def backbone(name: str, **options: Any) -> tuple[nn.Module, int]:
        asked.update(options, name=name)
        return nn.Flatten(), 7

    monkeypatch.setattr(dscnet, "image_backbone", backbone)
    generator = gen(0)
    with pytest.raises(ConfigError, match="backbone 'vit' has no residual blocks"):
        DenseStream(DenseConfig(backbone="vit", pretrained="imagenet"), generator=generator)
    assert asked == {"name": "vit", "width": 1.0, "pretrained": "imagenet", "generator": generator}


# --- weights ----------------------------------------------------------------------------------------------------------


def test_initial_weights() -> None:
    model = SparseMSST(SparseConfig(64, 0.5), generator=gen(0))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None and not module.bias.any()
            if module.weight.numel() > 5000:
                fan_out = module.weight[:, 0].numel()
                assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            assert (module.weight == 1).all() and not module.bias.any()
            assert not module.running_mean.any() and (module.running_var == 1).all()
    for linear in (model.last_linear, DenseStream(SMALL, generator=gen(0)).fc):
        assert linear.weight.std().item() == pytest.approx(0.001, rel=0.1) and not linear.bias.any()
    stmem = STMEM(6, generator=gen(0))
    for name, fan_in in (("m1.0.", 297), ("m2.0.", 27)):
        weight, bias = stmem.get_parameter(f"{name}weight"), stmem.get_parameter(f"{name}bias")
        assert max(weight.abs().max(), bias.abs().max()) <= fan_in**-0.5
        assert weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.2)


@pytest.mark.parametrize("kind", ["sparse", "stmem", "dense"])
def test_initial_weights_come_from_the_generator(kind: str) -> None:
    def made(generator: torch.Generator | None) -> dict[str, Tensor]:
        if kind == "sparse":
            return SparseMSST(TINY, generator=generator).state_dict()
        return (
            STMEM(3, generator=generator) if kind == "stmem" else DenseStream(SMALL, generator=generator)
        ).state_dict()

    before = torch.get_rng_state()
    first, again, other = (made(gen(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if first[name].unique().numel() > 1]
    assert drawn and not any(torch.equal(first[name], other[name]) for name in drawn)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        assert all(torch.equal(tensor, first[name]) for name, tensor in made(None).items())  # torch's own, if not given


def test_gradients_are_finite_and_reach_every_parameter() -> None:
    sparse = SparseMSST(TINY, generator=gen(0))
    sparse(torch.rand(2, 2, 3, 8, 22, generator=gen(0))).square().sum().backward()
    dense = DenseStream(SMALL, generator=gen(0))
    dense.load_state_dict(seeded_state(dense.state_dict(), 0))  # a block may start with a last normalisation of 0
    dense(torch.randn(2, 3, 6, 32, 32, generator=gen(0))).square().sum().backward()
    for model in (sparse, dense):
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            normed = re.search(r"conv\d\.[036]\.bias", name)  # batch normalisation takes these biases out again
            assert normed or parameter.grad.any(), name


# --- wrong input ------------------------------------------------------------------------------------------------------


def test_wrong_input_is_named() -> None:
    sparse, stmem, dense = SparseMSST(TINY), STMEM(6), DenseStream(SMALL)
    x = torch.rand(1, 2, 3, 8, 22)
    for wrong in (x[0], x[:, :, :2], x[:, :0], x.long(), x.transpose(1, 2)):
        with pytest.raises(DataError, match=r"skeletons of shape .*\. they are floating \[B, P, 3, T, V\]"):
            sparse(wrong)
    frames = torch.rand(1, 36, 4, 4)
    for wrong in (frames[0], frames[:, :35], frames[:, :0], (255 * frames).to(torch.uint8)):
        with pytest.raises(DataError, match=r"frames of shape .* 6 frames of 3 colours per segment"):
            stmem(wrong)
    video = torch.rand(1, 3, 6, 32, 32)
    for wrong in (video[0], video[:, :2], video[:, :, :5], video[..., :0], (255 * video).to(torch.uint8)):
        with pytest.raises(
            DataError, match=r"a video of shape .* 3 windows of 2 frames are normalised \[B, 3, 6, H, W\]"
        ):
            dense(wrong)
    images = torch.rand(6, 4, 2, 2)
    for wrong, clip in ((images, 4), (images, 0), (images[0], 2)):
        with pytest.raises(DataError, match=f"are not clips of {clip}"):
            temporal_shift(wrong, clip, 1 / 8)
    for share in (-0.1, 0.51):
        with pytest.raises(ConfigError, match="share of"):
            temporal_shift(images, 2, share)
    with pytest.raises(ConfigError, match="window 1"):
        STMEM(1)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (SparseConfig, {"num_classes": 0}),
        (SparseConfig, {"width": 0.0}),
        (SparseConfig, {"width": float("nan")}),
        (SparseConfig, {"width": float("inf")}),
        (SparseConfig, {"dropout": 1.0}),
        (DenseConfig, {"num_classes": 0}),
        (DenseConfig, {"segments": 0}),
        (DenseConfig, {"window": 1}),
        (DenseConfig, {"shift_div": 1}),
        (DenseConfig, {"dropout": -0.1}),
    ],
)
def test_wrong_configurations_are_refused(kind: type, change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        kind(**change)
