"""ST-GCN against the published implementation, the naive version, and graphs done by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from migcore.data.layouts import IMIGUE22, IMIGUE22_MIGA2023
from migcore.errors import CheckpointError, ConfigError, DataError
from migcore.models.stgcn import STGCN, STGCNConfig, adjacency, from_published, hops
from migcore.reference import graphs as naive
from tests.conformance.seeded import seeded_array, seeded_state

Partition = Literal["distance", "published"]
VECTOR = Path(__file__).parents[1] / "conformance" / "stgcn.npz"
CHAIN = ((0, 1), (1, 2), (2, 3))
TINY = STGCNConfig(num_classes=3, base_channels=2, temporal_kernel=3, dropout=0)


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded(model: STGCN, seed: int) -> STGCN:
    """The same with other weights, but its own neighbours."""
    model.load_state_dict(seeded_state(model.state_dict(), seed) | {"A": model.A})
    return model.eval()


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """Any graph of up to seven keypoints: trees, cycles, and pieces without a way between them."""
    joints = draw(st.integers(1, 7))
    pairs = [(a, b) for a in range(joints) for b in range(joints) if a != b]
    return joints, draw(st.lists(st.sampled_from(pairs), max_size=9)) if pairs else []


# --- published --------------------------------------------------------------------------------------------------------


def published() -> tuple[dict[str, Tensor], Any, dict[str, Any]]:
    vector = np.load(VECTOR)
    cfg = json.loads(str(vector["cfg"]))
    state = {
        name: torch.from_numpy(seeded_array(name, tuple(s), cfg["seed"])).reshape(s) for name, s in cfg["keys"].items()
    }
    return state | {"A": torch.from_numpy(vector["A"])}, vector, cfg


def test_equal_to_the_published_network() -> None:
    state, vector, cfg = published()
    model = from_published(state, "vector")
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == cfg["keys"]
    assert not model.training and torch.equal(model.A, state["A"])
    x = torch.from_numpy(vector["x"])
    with torch.no_grad():
        np.testing.assert_allclose(model(x), vector["y"], atol=1e-5, rtol=0)
        np.testing.assert_allclose(naive.stgcn(state, x), vector["y"], atol=1e-5, rtol=0)


def test_published_size() -> None:
    model = STGCN(STGCNConfig(), 22, IMIGUE22.bones, generator=gen(0))
    assert sum(p.numel() for p in model.parameters()) == 3_087_388
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == published()[2]["keys"]
    assert [block.gcn.conv.out_channels // 3 for block in model.st_gcn_networks] == [64] * 4 + [128] * 3 + [256] * 3


def test_the_first_block_has_neither_dropout_nor_residual() -> None:
    first, *others = STGCN(STGCNConfig(base_channels=2), 4, CHAIN, generator=gen(0)).st_gcn_networks
    assert first.tcn[4].p == 0 and not first.skip and first.residual is None
    assert all(block.tcn[4].p == 0.5 and block.skip for block in others)
    assert [block.residual is not None for block in others] == [n in (4, 7) for n in range(1, 10)]


# --- neighbours -------------------------------------------------------------------------------------------------------


def test_the_published_partition_of_the_organisers_skeleton() -> None:
    ours = adjacency(22, IMIGUE22_MIGA2023.bones, centre=1, partition="published")
    np.testing.assert_allclose(ours, np.load(VECTOR)["A"], atol=1e-7, rtol=0)


def test_sizes_of_the_partitions() -> None:
    def sizes(partition: Partition) -> list[int]:
        return (adjacency(22, IMIGUE22.bones, centre=1, partition=partition) > 0).sum((1, 2)).tolist()

    assert sizes("published") == [22, 35, 7]  # most bones look as if they were as far from the neck
    assert sizes("distance") == [22, 21, 21]
    assert torch.equal(
        adjacency(22, IMIGUE22.bones), STGCN(STGCNConfig(base_channels=1), 22, IMIGUE22.bones, generator=gen(0)).A
    )


def test_neighbours_of_a_chain_by_hand() -> None:
    # 0 - 1 - 2 - 3 around 1; an end has two entries in its column (itself, a neighbour), a middle three
    found = adjacency(4, CHAIN, centre=1)
    assert torch.equal(found[0], torch.diag(torch.tensor([1 / 2, 1 / 3, 1 / 3, 1 / 2])))
    inwards, outwards = torch.zeros(4, 4), torch.zeros(4, 4)
    inwards[0, 1] = inwards[2, 1] = inwards[3, 2] = 1 / 3
    outwards[1, 0], outwards[1, 2], outwards[2, 3] = 1 / 2, 1 / 3, 1 / 2
    assert torch.equal(found[1], inwards) and torch.equal(found[2], outwards)
    assert torch.equal(adjacency(4, CHAIN, centre=1, partition="published"), found)  # only 3 is beyond one bone
    # around 0 it is another matter: 2 and 3 are both beyond, so the way out from 2 to 3 becomes a way in
    ours, theirs = adjacency(4, CHAIN, centre=0), adjacency(4, CHAIN, centre=0, partition="published")
    assert ours[2, 2, 3] == theirs[1, 2, 3] == 0.5 and ours[1, 2, 3] == theirs[2, 2, 3] == 0
    assert (ours != theirs).sum() == 2


def test_equal_distances_are_of_the_keypoint_itself() -> None:
    triangle = ((0, 1), (0, 2), (1, 2))
    found = adjacency(3, triangle, centre=0)
    assert found[0, 1, 2] == found[0, 2, 1] == pytest.approx(1 / 3) and (found[1:, 1:, 1:] == 0).all()
    assert adjacency(3, triangle, centre=0, partition="published")[1, 1, 2] == pytest.approx(1 / 3)
    apart = adjacency(4, ((0, 1), (2, 3)), centre=0)  # 2 and 3 are out of reach
    assert apart[0, 2, 3] == apart[0, 3, 2] == 0.5


@settings(max_examples=60, deadline=None)
@given(graph=graphs(), centre=st.integers(0, 6), partition=st.sampled_from(["distance", "published"]))
def test_neighbours_equal_to_the_naive_version(
    graph: tuple[int, list[tuple[int, int]]], centre: int, partition: Partition
) -> None:
    joints, bones = graph
    centre %= joints
    found = adjacency(joints, bones, centre=centre, partition=partition)
    assert hops(joints, bones).tolist() == naive.hops(joints, bones)
    assert torch.equal(found, naive.adjacency(joints, bones, centre=centre, partition=partition))
    torch.testing.assert_close(found.sum((0, 1)), torch.ones(joints))
    assert ((found > 0).sum(0) <= 1).all()  # the sets do not overlap
    edges = (found.sum(0) > 0).tolist()
    wanted = {(v, v) for v in range(joints)} | set(bones) | {(b, a) for a, b in bones}
    assert {(a, b) for a in range(joints) for b in range(joints) if edges[a][b]} == wanted


# --- naive ------------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    config=st.builds(
        STGCNConfig,
        in_channels=st.integers(1, 3),
        num_classes=st.integers(1, 4),
        base_channels=st.integers(1, 3),
        partition=st.sampled_from(["distance", "published"]),
        centre=st.just(0),
        temporal_kernel=st.sampled_from([1, 3, 9]),
    ),
    graph=graphs(),
    clips=st.integers(1, 2),
    frames=st.integers(1, 9),
    persons=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_equal_to_the_naive_version(
    config: STGCNConfig,
    graph: tuple[int, list[tuple[int, int]]],
    clips: int,
    frames: int,
    persons: int,
    seed: int,
) -> None:
    model = seeded(STGCN(config, *graph), seed)
    x = torch.randn(clips, config.in_channels, frames, graph[0], persons, generator=gen(seed))
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(y, naive.stgcn(model.state_dict(), x), atol=1e-4, rtol=1e-4)
    assert y.shape == (clips, config.num_classes)


# --- properties -------------------------------------------------------------------------------------------------------


def test_logits_are_a_mean_over_persons() -> None:
    model = seeded(STGCN(TINY, 4, CHAIN, generator=gen(0)), 3)
    x = torch.randn(2, 3, 6, 4, 3, generator=gen(1))
    with torch.no_grad():
        alone = torch.stack([model(x[..., m : m + 1]) for m in range(3)])
        torch.testing.assert_close(model(x), alone.mean(0), atol=1e-5, rtol=1e-5)


def test_any_unit_will_do() -> None:
    model = STGCN(TINY, 4, CHAIN, generator=gen(0)).train()
    x = torch.randn(4, 3, 6, 4, 1, generator=gen(1))
    with torch.no_grad():
        torch.testing.assert_close(model(500 + 100 * x), model(x), atol=1e-3, rtol=1e-3)


def test_the_partition_decides_the_logits() -> None:
    x = torch.randn(2, 3, 6, 22, 1, generator=gen(1))
    ours, theirs = (
        seeded(STGCN(STGCNConfig(base_channels=2, partition=p), 22, IMIGUE22.bones), 3)(x)
        for p in ("distance", "published")
    )
    assert (ours - theirs).abs().max() > 1e-3


def test_few_bits() -> None:
    model = seeded(STGCN(TINY, 4, CHAIN, generator=gen(0)), 3)
    x = torch.randn(2, 3, 6, 4, 1, generator=gen(1))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        few = model(x)
    torch.testing.assert_close(few.float(), model(x).detach(), atol=0.1, rtol=0.1)


@pytest.mark.parametrize("train", [True, False])
def test_gradients(train: bool) -> None:
    model = STGCN(TINY, 4, CHAIN, generator=gen(0)).train(train)
    model(torch.randn(3, 3, 8, 4, 2, generator=gen(1))).square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    if not train:  # in training mode a bias before a normalisation moves nothing
        assert [name for name, g in gradients.items() if g is not None and not g.any()] == []
    for n in range(10):  # only bones can become more or less important
        gradient = gradients[f"edge_importance.{n}"]
        assert gradient is not None and (gradient[model.A == 0] == 0).all() and gradient.any()


# --- initial weights --------------------------------------------------------------------------------------------------


def test_published_initial_weights() -> None:
    model = STGCN(STGCNConfig(), 22, IMIGUE22.bones, generator=gen(0))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None and (module.bias == 0).all()
            if module.weight.numel() > 5000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
                assert module.weight.mean().item() == pytest.approx(0, abs=0.002)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1, abs=0.02) and (module.bias == 0).all()
            assert 0.01 < module.weight.std().item() < 0.03
            assert module.running_mean is not None and module.running_var is not None
            assert (module.running_mean == 0).all() and (module.running_var == 1).all()
            assert module.num_batches_tracked == 0
    assert all((importance == 1).all() for importance in model.edge_importance)


def test_initial_weights_come_from_the_generator() -> None:
    before = torch.get_rng_state()
    first, again, other = (STGCN(TINY, 4, CHAIN, generator=gen(s)).state_dict() for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fcn.weight"], other["fcn.weight"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        assert torch.equal(STGCN(TINY, 4, CHAIN).state_dict()["fcn.weight"], first["fcn.weight"])


# --- weights of others ------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    config=st.builds(
        STGCNConfig,
        in_channels=st.integers(1, 3),
        num_classes=st.integers(1, 4),
        base_channels=st.integers(1, 3),
        centre=st.just(0),
        temporal_kernel=st.sampled_from([1, 3, 9]),
    ),
    graph=graphs(),
)
def test_published_weights_of_any_size_are_read(config: STGCNConfig, graph: tuple[int, list[tuple[int, int]]]) -> None:
    ours = seeded(STGCN(config, *graph, generator=gen(0)), 1)
    before = torch.get_rng_state()
    model = from_published(ours.state_dict(), "file")
    assert torch.equal(before, torch.get_rng_state())
    assert not model.training and model.num_joints == graph[0]
    for name in ("in_channels", "num_classes", "base_channels", "temporal_kernel"):
        assert getattr(model.config, name) == getattr(config, name)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), ours.state_dict().values(), strict=True))


def test_other_weights_are_refused() -> None:
    good = STGCN(TINY, 4, CHAIN, generator=gen(0)).state_dict()
    bias = "st_gcn_networks.3.tcn.2.bias"
    for state, message in (
        ({name: t for name, t in good.items() if name != bias}, f"st.pt: 1 of the entries are missing: {bias}"),
        (good | {"extra": torch.zeros(1)}, "are unexpected: extra"),
        (good | {bias: torch.zeros(77)}, rf"of another shape: {bias} is \[77\]"),
        (good | {"A": torch.zeros(3, 4, 5)}, "of another shape: A is"),
        (good | {"A": torch.zeros(3, 4)}, "not of ST-GCN: its entries begin"),
        ({name: t for name, t in good.items() if name != "A"}, "not of ST-GCN"),
        (good | {"fcn.weight": torch.zeros(0, 8, 1, 1)}, "not of ST-GCN"),
        (good | {"st_gcn_networks.0.tcn.2.weight": torch.zeros(2, 2, 4, 1)}, "no ST-GCN: temporal_kernel 4"),
        (good | {"st_gcn_networks.0.gcn.conv.weight": torch.zeros(2, 3, 1, 1)}, "no ST-GCN: in_channels"),
        ({}, "not of ST-GCN"),
    ):
        with pytest.raises(CheckpointError, match=message):
            from_published(state, "st.pt")


# --- wrong input ------------------------------------------------------------------------------------------------------


def test_wrong_input_is_named() -> None:
    model = STGCN(TINY, 4, CHAIN, generator=gen(0))
    for shape in ((1, 2, 6, 4, 1), (1, 3, 6, 5, 1), (1, 3, 6, 4), (1, 3, 0, 4, 1), (0, 3, 6, 4, 1), (1, 3, 6, 4, 0)):
        with pytest.raises(DataError, match=r"sequences of shape \[.*floating \[N, 3, T, 4, M\]"):
            model(torch.zeros(shape))
    with pytest.raises(DataError, match="int64"):
        model(torch.zeros(1, 3, 6, 4, 1, dtype=torch.long))


def test_wrong_config_is_named() -> None:
    for wrong, message in (
        ({"partition": "spatial"}, "partition 'spatial'. choose from distance, published"),
        ({"base_channels": 0}, "base_channels are at least 1"),
        ({"in_channels": 0}, "at least 1"),
        ({"num_classes": 0}, "at least 1"),
        ({"temporal_kernel": 4}, "temporal_kernel 4. an odd number"),
        ({"temporal_kernel": -1}, "temporal_kernel -1"),
        ({"dropout": 1.0}, "dropout 1.0"),
    ):
        with pytest.raises(ConfigError, match=message):
            STGCNConfig(**wrong)


def test_wrong_skeleton_is_named() -> None:
    with pytest.raises(ConfigError, match=r"bone \(2, 4\) in a skeleton of 4 keypoints"):
        STGCN(TINY, 4, ((0, 1), (2, 4)))
    with pytest.raises(ConfigError, match=r"bone \(-1, 0\)"):
        hops(4, ((-1, 0),))
    with pytest.raises(ConfigError, match=r"bone \(2, 2\)"):
        hops(4, ((2, 2),))
    with pytest.raises(ConfigError, match="a skeleton of 0 keypoints"):
        hops(0, ())
    for centre in (4, -1):
        with pytest.raises(ConfigError, match=f"centre {centre} in a skeleton of 4"):
            adjacency(4, CHAIN, centre=centre)
    with pytest.raises(ConfigError, match="partition 'uniform'"):
        adjacency(4, CHAIN, partition="uniform")  # type: ignore[arg-type]
