"""TRN against the published relation network, the naive version, and what its authors say of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from migcore.errors import CheckpointError, ConfigError, DataError
from migcore.models.trn import TRN, Relations, TRNConfig, from_published, ordered_sets
from migcore.reference import films
from tests.conformance.seeded import seeded_array, seeded_state

VECTOR = Path(__file__).parents[1] / "conformance" / "trn_scaleT.npz"
SMALL = TRNConfig(num_classes=5, segments=4, feature_dim=3, hidden=6, backbone="resnet10t", backbone_width=0.125)


def published() -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray], int]:
    vector = np.load(VECTOR)
    cfg = json.loads(str(vector["cfg"]))
    state = {n: torch.from_numpy(seeded_array(n, tuple(s), cfg["seed"])) for n, s in cfg["keys"].items()}
    return state, {name: vector[name] for name in ("x", "y_scaleT")}, cfg["T"]


@pytest.mark.parametrize("prefix", ["", "consensus."])
def test_equal_to_the_published_network(prefix: str) -> None:
    state, vector, frames = published()
    extra = {"new_fc.weight": torch.zeros(6, 9), "base_model.conv1.weight": torch.zeros(1)} if prefix else {}
    model = from_published({**{prefix + n: t for n, t in state.items()}, **extra}, "file")
    assert not model.training
    assert (model.config.segments, model.config.feature_dim, model.config.num_classes) == (5, 6, 4)
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in state.items()}
    with torch.no_grad():
        np.testing.assert_allclose(model.scale(torch.from_numpy(vector["x"]), frames), vector["y_scaleT"], atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    config=st.builds(
        TRNConfig,
        num_classes=st.integers(1, 4),
        segments=st.integers(2, 5),
        feature_dim=st.integers(1, 3),
        hidden=st.integers(1, 4),
        multiscale=st.booleans(),
        subsets=st.integers(1, 4),
        reduce=st.sampled_from(["sum", "mean"]),
    ),
    batch=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_equal_to_the_naive_version(config: TRNConfig, batch: int, seed: int) -> None:
    model = Relations(config).eval()
    model.load_state_dict(seeded_state(model.state_dict(), seed))
    x = torch.randn(batch, config.segments, config.feature_dim, generator=torch.Generator().manual_seed(seed))
    expected = films.trn_relations(
        model.state_dict(), x, subsets=config.subsets, multiscale=config.multiscale, mean=config.reduce == "mean"
    )
    with torch.no_grad():
        torch.testing.assert_close(model(x), torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_sets_are_ordered_and_all_there() -> None:
    sets = ordered_sets(8, 3)
    assert sets.shape == (math.comb(8, 3), 3) and (sets.diff(dim=1) > 0).all()
    assert len({tuple(s) for s in sets.tolist()}) == len(sets)


def test_training_draws_and_a_test_gives_the_expected_value() -> None:
    model = Relations(TRNConfig(num_classes=3, segments=5, feature_dim=2, hidden=4))
    x = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        drawn = torch.stack([model(x, generator) for _ in range(3000)])
        before = torch.get_rng_state()
        expected = model.eval()(x)
        assert torch.equal(expected, model(x)) and torch.equal(before, torch.get_rng_state())
    assert drawn.std(0).min() > 1e-3
    torch.testing.assert_close(drawn.mean(0), expected, atol=0.03, rtol=0)


def test_the_published_test_is_random_and_follows_a_generator() -> None:
    model = Relations(TRNConfig(num_classes=3, segments=6, feature_dim=2, hidden=4, at_test="random")).eval()
    x = torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = [model(x, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])


def test_sets_are_drawn_without_replacement() -> None:
    model = Relations(TRNConfig(num_classes=2, segments=4, feature_dim=2, hidden=3, subsets=6))
    x = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        drawn = model.train()(x, torch.Generator().manual_seed(1))
        torch.testing.assert_close(drawn, model.eval()(x))  # six of six sets, so nothing is left to chance


def test_a_draw_is_the_largest_scale_and_one_of_the_sets_for_the_whole_batch() -> None:
    model = Relations(TRNConfig(num_classes=3, segments=3, feature_dim=2, hidden=4, subsets=1)).train()
    x = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1)
    generator, seen = torch.Generator().manual_seed(2), set()
    with torch.no_grad():
        possible = [model.scale(x, 3) + model.scale(x[:, list(pair)], 2) for pair in ((0, 1), (0, 2), (1, 2))]
        for _ in range(40):
            drawn = model(x, generator)
            assert torch.equal(drawn[0], drawn[1])
            seen |= {i for i, logits in enumerate(possible) if torch.allclose(drawn, logits, atol=1e-6)}
    assert seen == {0, 1, 2}


def test_published_size_and_start_of_the_relations() -> None:
    several, one = Relations(TRNConfig()), Relations(TRNConfig(segments=3, hidden=512, multiscale=False))
    assert sum(p.numel() for p in several.parameters()) == 35 * 256 * 256 + 7 * (256 + 256 * 32 + 32)
    assert sum(p.numel() for p in one.parameters()) == 768 * 512 + 512 + 512 * 32 + 32
    first = several.fc_fusion_scales[0][1]  # type: ignore[index]
    assert first.weight.abs().max() <= 2048**-0.5 and first.weight.std().item() == pytest.approx(6144**-0.5, rel=0.02)


def test_spaced_sets_are_always_the_same_few() -> None:
    config = TRNConfig(num_classes=3, segments=4, feature_dim=2, hidden=4, at_test="spaced")
    model = Relations(config).eval()
    x = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    with torch.no_grad():
        # of 4 triples the first, third and fourth; of 6 pairs the second, fourth and sixth
        picked = {3: ((0, 1, 2), (0, 2, 3), (1, 2, 3)), 2: ((0, 2), (1, 2), (2, 3))}
        parts = [model.scale(x[:, list(frames)], scale) for scale, sets in picked.items() for frames in sets]
        torch.testing.assert_close(model(x), model.scale(x, 4) + torch.stack(parts).sum(0))
    assert torch.equal(before, torch.get_rng_state())


def test_order_in_time_matters() -> None:
    model = Relations(SMALL).eval()
    x = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.allclose(model(x), model(x.flip(1)))


def test_the_whole_network_and_its_start() -> None:
    before = torch.get_rng_state()
    model = TRN(SMALL, generator=torch.Generator().manual_seed(2))
    assert torch.equal(before, torch.get_rng_state())
    again = TRN(SMALL, generator=torch.Generator().manual_seed(2)).state_dict()
    assert all(torch.equal(t, again[n]) for n, t in model.state_dict().items())
    wide = TRN(TRNConfig(backbone="resnet10t"), generator=torch.Generator().manual_seed(0))
    assert wide.new_fc.weight.std().item() == pytest.approx(1e-3, rel=0.05) and (wide.new_fc.bias == 0).all()
    assert {n for n in wide.state_dict() if n.startswith("consensus")} == {
        f"consensus.fc_fusion_scales.{i}.{k}.{p}" for i in range(7) for k in (1, 3) for p in ("weight", "bias")
    }
    video = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    model.train()(video).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_wrong_input_is_named() -> None:
    model = TRN(SMALL).eval()
    with pytest.raises(DataError, match=r"\[B, 3, 4, H, W\]"):
        model(torch.zeros(1, 3, 5, 32, 32))
    with pytest.raises(DataError, match="uint8"):
        model(torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"\[B, 4, 3\]"):
        model.consensus(torch.zeros(1, 3, 3))
    with pytest.raises(ConfigError, match="no relation of 9 frames"):
        model.consensus.scale(torch.zeros(1, 9, 3), 9)
    for wrong in (torch.zeros(1, 2, 3), torch.zeros(1, 4, 2), torch.zeros(4, 3), torch.zeros(1, 4, 3).long()):
        with pytest.raises(DataError, match=r"a relation of 3 frames takes floating \[B, T, 3\], T 3 or more"):
            model.consensus.scale(wrong, 3)
    with pytest.raises(DataError, match="int64"):
        model.consensus(torch.zeros(1, 4, 3, dtype=torch.long))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_classes", 0),
        ("segments", 1),
        ("dropout", 1.0),
        ("at_test", "some"),
        ("reduce", "max"),
        ("subsets", 0),
        ("feature_std", 0.0),
    ],
)
def test_wrong_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError):
        TRNConfig(**{field: value})  # type: ignore[arg-type]


def test_files_that_do_not_fit_are_refused() -> None:
    state, _, _ = published()
    with pytest.raises(CheckpointError, match="not of a TRN"):
        from_published({"conv1.weight": torch.zeros(3)}, "file")
    with pytest.raises(CheckpointError, match="not of a TRN"):
        from_published({**state, "fc_fusion_scales.0.1.weight": torch.zeros(256, 1)}, "file")
    for name, widths in (("fc_fusion_scales.{}", (10, 3)), ("classifier", (256,))):
        few = {
            f"{name.format(i)}.{k}.weight": torch.zeros(*shape)
            for i, width in enumerate(widths)
            for k, shape in ((1, (8, width)), (3, (4, 8)))
        }
        with pytest.raises(CheckpointError, match=f"{widths[0]} inputs, one frame of"):
            from_published(few, "file")
    with pytest.raises(CheckpointError, match=r"missing: fc_fusion_scales\.2\.3\.bias"):
        from_published({n: t for n, t in state.items() if n != "fc_fusion_scales.2.3.bias"}, "file")


def test_a_single_scale_is_found_out() -> None:
    model = Relations(TRNConfig(num_classes=4, segments=3, hidden=512, multiscale=False))
    made = from_published({f"consensus.{n}": t for n, t in model.state_dict().items()}, "file")
    assert made.config == TRNConfig(num_classes=4, segments=3, hidden=512, multiscale=False)
