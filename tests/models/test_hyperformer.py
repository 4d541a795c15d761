"""Hyperformer against the published implementation, the naive version, and what its parts are said to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from migcore.data.layouts import IMIGUE22, IMIGUE22_MIGA2023
from migcore.errors import CheckpointError, ConfigError, DataError
from migcore.models.hyperformer import (
    IMIGUE_GROUPS,
    Hyperformer,
    HyperformerConfig,
    from_published,
)
from migcore.reference import graphs as naive
from tests.conformance.seeded import seeded_array, seeded_state

VECTOR = Path(__file__).parents[1] / "conformance" / "hyperformer.npz"
CHAIN, PARTS = ((0, 1), (1, 2), (2, 3)), (0, 0, 1, 1)
TINY = HyperformerConfig(num_classes=3, width=12, heads=2, depth=2)


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(config: HyperformerConfig = TINY, persons: int = 1, seed: int = 0) -> Hyperformer:
    """As it starts."""
    return Hyperformer(config, 4, CHAIN, PARTS, persons, generator=gen(seed))


def seeded(model: Hyperformer, seed: int) -> Hyperformer:
    """With weights that leave nothing at 0."""
    model.load_state_dict(seeded_state(model.state_dict(), seed))
    return model.eval()


@st.composite
def skeletons(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]], list[int]]:
    """Keypoints, bones that connect them (a tree, sometimes with cycles), and parts."""
    joints = draw(st.integers(1, 5))
    bones = [(v, draw(st.integers(0, v - 1))) for v in range(1, joints)]
    pairs = [(a, b) for a in range(joints) for b in range(joints) if a != b]
    bones += draw(st.lists(st.sampled_from(pairs), max_size=2)) if pairs else []
    drawn = draw(st.lists(st.integers(0, 3), min_size=joints, max_size=joints))
    return joints, bones, [sorted(set(drawn)).index(part) for part in drawn]


configs = st.builds(
    lambda inputs, classes, heads, depth: HyperformerConfig(inputs, classes, 12, heads, depth),
    st.sampled_from([1, 2, 3, 12]),  # with 12, nothing has to be widened
    st.integers(1, 4),
    st.sampled_from([1, 2, 3, 6, 12]),
    st.integers(1, 2),
)


# --- published --------------------------------------------------------------------------------------------------------


def published() -> tuple[dict[str, Tensor], Any, dict[str, Any]]:
    vector = np.load(VECTOR)
    cfg = json.loads(str(vector["cfg"]))
    seed = cfg["seed"]
    return (
        {name: torch.from_numpy(seeded_array(name, tuple(s), seed)).reshape(s) for name, s in cfg["keys"].items()},
        vector,
        cfg,
    )


def test_equal_to_the_published_network() -> None:
    state, vector, cfg = published()
    model = from_published(state, "vector", joint_groups=cfg["joint_label"], bones=cfg["edges"])
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == cfg["keys"]
    assert not model.training and model.config == HyperformerConfig() and model.persons == 1
    x = torch.from_numpy(vector["x"])
    with torch.no_grad():
        np.testing.assert_allclose(model(x), vector["y"], atol=1e-4, rtol=0)
    assert [tuple(looks.shape) for looks in model.attention(x)] == [
        (1, 9, frames, 22, 22) for frames in [64] * 5 + [32] * 3 + [16] * 2
    ]


def test_published_size() -> None:
    model = Hyperformer(HyperformerConfig(), 22, IMIGUE22.bones, IMIGUE_GROUPS, generator=gen(0))
    assert sum(p.numel() for p in model.parameters()) == 2_703_780
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == published()[2]["keys"]


def test_parts_of_imigue() -> None:
    cfg = published()[2]
    assert cfg["joint_label"] == list(IMIGUE_GROUPS) and {*map(tuple, cfg["edges"])} == set(IMIGUE22.bones)
    members = [{IMIGUE22.joints[v] for v in range(22) if IMIGUE_GROUPS[v] == part} for part in range(6)]
    assert members[:4] == [
        {"Nose", "EyeLeft", "EyeRight", "EarLeft", "EarRight"},
        {"Neck", "ShoulderLeft", "ShoulderRight"},
        {"ElbowLeft", "HandLeft"},
        {"ElbowRight", "HandRight"},
    ]
    assert members[4:] == [{f"{side}Finger{n}" for n in range(1, 6)} for side in ("Left", "Right")]


# --- naive ------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    config=configs,
    skeleton=skeletons(),
    clips=st.integers(1, 2),
    frames=st.integers(1, 4),
    persons=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_equal_to_the_naive_version(
    config: HyperformerConfig,
    skeleton: tuple[int, list[tuple[int, int]], list[int]],
    clips: int,
    frames: int,
    persons: int,
    seed: int,
) -> None:
    joints, bones, parts = skeleton
    model = seeded(Hyperformer(config, joints, bones, parts, persons), seed)
    x = torch.randn(clips, config.in_channels, frames, joints, persons, generator=gen(seed))
    check(model, x, bones, parts)


@pytest.mark.parametrize("frames", [1, 5, 6])
def test_all_units_equal_to_the_naive_version(frames: int) -> None:
    model = seeded(tiny(HyperformerConfig(num_classes=3, width=12, heads=3)), 4)
    x = torch.randn(1, 3, frames, 4, 1, generator=gen(frames))
    check(model, x, CHAIN, PARTS)
    half, quarter = -(-frames // 2), -(-frames // 4)
    assert [looks.shape[2] for looks in model.attention(x)] == [frames] * 5 + [half] * 3 + [quarter] * 2


def check(model: Hyperformer, x: Tensor, bones: Any, parts: Any) -> None:
    with torch.no_grad():
        expected, maps = naive.hyperformer(model.state_dict(), x, bones=bones, joint_groups=parts)
        torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)
    found = model.attention(x)
    assert len(found) == len(maps) == model.config.depth
    for looks, wanted in zip(found, maps, strict=True):
        torch.testing.assert_close(looks, wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(looks.sum(-1), torch.ones(looks.shape[:-1]))


# --- properties -------------------------------------------------------------------------------------------------------


def test_attention_starts_without_effect() -> None:
    x = torch.randn(2, 3, 4, 4, 1, generator=gen(1))
    ours, other = tiny().eval(), Hyperformer(TINY, 4, CHAIN, (0, 1, 2, 2), generator=gen(0)).eval()
    with torch.no_grad():
        assert torch.equal(ours(x), other(x))
        for unit in (*ours.units, *other.units):
            unit.vit1.attn.alpha.fill_(1)
        assert (ours(x) - other(x)).abs().max() > 1e-4  # with it, the parts matter


def test_distances_and_parts_matter() -> None:
    def model(bones: Any = CHAIN, parts: Any = PARTS) -> Tensor:
        return seeded(Hyperformer(TINY, 4, bones, parts), 3)(x)

    x = torch.randn(2, 3, 4, 4, 1, generator=gen(1))
    with torch.no_grad():
        assert (model() - model(bones=((1, 0), (0, 2), (2, 3)))).abs().max() > 1e-3  # as long a chain, in another order
        assert (model() - model(parts=(0, 1, 0, 1))).abs().max() > 1e-3
        torch.testing.assert_close(model(), model(parts=(1, 1, 0, 0)))  # the numbers of the parts do not
        torch.testing.assert_close(model(), model(bones=((2, 1), (3, 2), (1, 0))))  # nor the direction of bones


def test_a_keypoint_sees_its_part_as_the_mean_of_it() -> None:
    unit = seeded(tiny(), 3).units[0].vit1
    attention = unit.attn
    seen: list[Tensor] = []
    attention.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    x = torch.randn(1, 3, 2, 4, generator=gen(1))
    parts = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    hops = torch.zeros(4, 4, dtype=torch.long)
    moved = x + torch.tensor([1.0, -1.0, 2.0, -2.0])  # no part's mean changes, and each frame has its own
    with torch.no_grad():
        unit(x, parts, hops)
        unit(moved, parts, hops)
    torch.testing.assert_close(seen[0], seen[1], atol=1e-5, rtol=1e-5)
    assert torch.equal(seen[0][..., 0], seen[0][..., 1]) and not torch.equal(seen[0][..., 1], seen[0][..., 2])
    assert not torch.equal(seen[0][:, :, 0], seen[0][:, :, 1])


def test_logits_are_a_mean_over_persons() -> None:
    one, three = tiny().eval(), tiny(persons=3).eval()  # the normalisation of the input starts alike for all
    x = torch.randn(2, 3, 6, 4, 3, generator=gen(1))
    with torch.no_grad():
        alone = torch.stack([one(x[..., m : m + 1]) for m in range(3)])
        torch.testing.assert_close(three(x), alone.mean(0), atol=1e-5, rtol=1e-5)
        maps = [one.attention(x[..., m : m + 1])[1] for m in range(3)]
        for looks, (clip, m) in zip(three.attention(x)[1], [(n, m) for n in range(2) for m in range(3)], strict=True):
            torch.testing.assert_close(looks, maps[m][clip])


def test_attention_leaves_the_model_as_it_is() -> None:
    model = seeded(tiny(), 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    maps = model.attention(torch.randn(1, 3, 4, 4, 1, generator=gen(1)))
    assert not any(looks.requires_grad for looks in maps) and not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_few_bits() -> None:
    model = seeded(tiny(), 3)
    x = torch.randn(2, 3, 6, 4, 1, generator=gen(1))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        few = model(x)
    wanted = model(x).detach()
    assert (few.float() - wanted).norm() < 0.05 * wanted.norm()


def test_gradients() -> None:
    model = tiny().train()
    x = torch.randn(3, 3, 8, 4, 1, generator=gen(1))
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(unit.vit1.attn.alpha.grad.any() for unit in model.units)  # type: ignore[union-attr]
    model = seeded(model, 3)
    model.zero_grad()
    model(x).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


# --- initial weights --------------------------------------------------------------------------------------------------


def test_initial_weights() -> None:
    model = Hyperformer(HyperformerConfig(), 22, IMIGUE22.bones, IMIGUE_GROUPS, generator=gen(0))
    for unit in model.units:
        attention = unit.vit1.attn
        assert attention.alpha.item() == 0 and not attention.rpe.any() and not attention.w1.any()
        assert attention.rpe.shape == (9, 216) and torch.equal(attention.outer, torch.eye(22).expand(9, 22, 22))
        assert attention.q.weight.abs().max() <= attention.q.in_channels**-0.5
        assert attention.proj.weight.abs().max() <= 36**-0.5
        for name, module in unit.tcn1.named_modules():
            if isinstance(module, nn.Conv2d):  # fan-out: five times as many frames see a number
                fan = 54 * (5 if name.endswith("conv") else 1)
                assert module.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.1)
                assert module.bias is not None and not module.bias.any()
    assert model.fc.weight.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.05)
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == 1 + 10 + 10 * 8 - 10 + 3
    for norm in norms:
        assert (norm.weight - 1).abs().max() < 0.1 and not norm.bias.any()
        if not isinstance(norm, nn.LayerNorm):
            assert norm.running_mean is not None and norm.running_var is not None
            assert not norm.running_mean.any() and (norm.running_var == 1).all() and norm.num_batches_tracked == 0


def test_initial_weights_come_from_the_generator() -> None:
    before = torch.get_rng_state()
    first, again, other = (tiny(seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        assert torch.equal(Hyperformer(TINY, 4, CHAIN, PARTS).fc.weight, first["fc.weight"])


# --- weights of others ------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(config=configs, skeleton=skeletons(), persons=st.integers(1, 3))
def test_published_weights_of_any_size_are_read(
    config: HyperformerConfig, skeleton: tuple[int, list[tuple[int, int]], list[int]], persons: int
) -> None:
    joints, bones, parts = skeleton
    ours = seeded(Hyperformer(config, joints, bones, parts, persons, generator=gen(0)), 1)
    before = torch.get_rng_state()
    model = from_published(ours.state_dict(), "file", joint_groups=parts, bones=bones)
    assert torch.equal(before, torch.get_rng_state())
    assert not model.training and (model.config, model.num_joints, model.persons) == (config, joints, persons)
    x = torch.randn(1, config.in_channels, 3, joints, persons, generator=gen(2))
    with torch.no_grad():
        assert torch.equal(model(x), ours(x))


def test_other_weights_are_refused() -> None:
    good = tiny().state_dict()
    bias = "l2.vit1.attn.proj.bias"
    for state, message in (
        ({name: t for name, t in good.items() if name != bias}, f"hf.pt: 1 of the entries are missing: {bias}"),
        (good | {"extra": torch.zeros(1)}, "are unexpected: extra"),
        (good | {"l9.vit1.attn.outer": torch.zeros(2, 4, 4)}, "missing: l3."),
        (good | {bias: torch.zeros(77)}, rf"of another shape: {bias} is \[77\]"),
        (good | {"data_bn.weight": torch.zeros(13)}, r"of another shape: data_bn.weight is \[13\]"),
        (good | {"l1.vit1.attn.outer": torch.zeros(4, 4)}, "not of Hyperformer: its entries begin"),
        (
            good | {"l1.vit1.attn.outer": torch.zeros(5, 4, 4)},
            "no Hyperformer: width 12 does not divide by the 5 heads",
        ),
        (good | {"fc.weight": torch.zeros(0, 12)}, "not of Hyperformer"),
        ({name: t for name, t in good.items() if name != "fc.weight"}, "not of Hyperformer"),
        ({}, "not of Hyperformer"),
    ):
        with pytest.raises(CheckpointError, match=message):
            from_published(state, "hf.pt", joint_groups=PARTS, bones=CHAIN)
    with pytest.raises(CheckpointError, match=r"of another shape: l1.vit1.attn.rpe is \[4, 12\], not \[3, 12\]"):
        from_published(good, "hf.pt", joint_groups=PARTS, bones=((0, 1), (0, 2), (0, 3)))  # trained on other bones
    with pytest.raises(ConfigError, match="for 4 keypoints"):
        from_published(good, "hf.pt", joint_groups=IMIGUE_GROUPS, bones=CHAIN)


# --- wrong input ------------------------------------------------------------------------------------------------------


def test_wrong_input_is_named() -> None:
    model = tiny(persons=2)
    for shape in ((1, 2, 6, 4, 2), (1, 3, 6, 5, 2), (1, 3, 6, 4, 1), (1, 3, 6, 4), (1, 3, 0, 4, 2), (0, 3, 6, 4, 2)):
        for call in (model, model.attention):
            with pytest.raises(DataError, match=r"sequences of shape \[.*floating \[N, 3, T, 4, 2\]"):
                call(torch.zeros(shape))
    with pytest.raises(DataError, match="int64"):
        model(torch.zeros(1, 3, 6, 4, 2, dtype=torch.long))


def test_wrong_config_is_named() -> None:
    for wrong, message in (
        ({"width": 210}, "width 210 does not divide by the 9 heads. a multiple of 12 .* such as 108"),
        ({"width": 54}, "width 54 does not divide by the 4 branches over time"),
        ({"width": 16, "heads": 2}, "width 16 does not divide by the 6 groups of the projection"),
        ({"width": 0}, "at least 1"),
        ({"heads": 0}, "at least 1"),
        ({"depth": 0}, "at least 1"),
        ({"in_channels": 0}, "at least 1"),
        ({"num_classes": 0}, "at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            HyperformerConfig(**wrong)


def test_wrong_skeleton_is_named() -> None:
    for parts in ((0, 0, 1), (0, 0, 2, 2), (1, 1, 2, 2), (-1, 0, 1, 1)):
        with pytest.raises(ConfigError, match=r"joint_groups .* for 4 keypoints. one part per keypoint"):
            Hyperformer(TINY, 4, CHAIN, parts)
    with pytest.raises(ConfigError, match=r"no bones lead from keypoint 0 to keypoints \[1, 2, 3, 4, 5\]"):
        Hyperformer(TINY, 22, IMIGUE22_MIGA2023.bones, IMIGUE_GROUPS)  # its nose hangs on nothing
    with pytest.raises(ConfigError, match=r"bone \(3, 4\)"):
        Hyperformer(TINY, 4, (*CHAIN, (3, 4)), PARTS)
    with pytest.raises(ConfigError, match="persons 0"):
        Hyperformer(TINY, 4, CHAIN, PARTS, 0)
