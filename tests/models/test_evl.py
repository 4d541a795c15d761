"""Frozen CLIP's decoder against the published one and the naive version; its features against open_clip's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transformer import VisionTransformer

from migcore.errors import CheckpointError, ConfigError, DataError
from migcore.models.clip import random_miniature
from migcore.models.evl import EVL, Decoder, EVLConfig, Features, from_published, frozen_features, relative_places
from migcore.models.vclip import VCLIPConfig, VideoTower
from migcore.reference import films
from tests.conformance.seeded import seeded_array, seeded_state

VECTOR = Path(__file__).parents[1] / "conformance" / "evl_decoder.npz"


def published() -> tuple[dict[str, torch.Tensor], list[Features], np.ndarray, dict[str, Any]]:
    vector = np.load(VECTOR)
    cfg = json.loads(str(vector["cfg"]))
    state = {n: torch.from_numpy(seeded_array(n, tuple(s), cfg["seed"])) for n, s in cfg["keys"].items()}
    blocks = range(cfg["layers"])
    features: list[Features] = [
        {"out": part(vector, "out", i), "q": part(vector, "q", i), "k": part(vector, "k", i)} for i in blocks
    ]
    return state, features, vector["y"], cfg


def part(vector: Any, name: str, i: int) -> torch.Tensor:
    return torch.from_numpy(vector[f"{name}{i}"])


@pytest.mark.parametrize("prefix", ["", "decoder."])
def test_equal_to_the_published_decoder(prefix: str) -> None:
    state, features, expected, cfg = published()
    head = {"proj.0.weight": torch.zeros(16), "proj.2.weight": torch.zeros(4, 16)} if prefix else {}
    model = from_published({**{prefix + n: t for n, t in state.items()}, **head}, "file", grid=tuple(cfg["hw"]))
    assert not model.training and {n: list(t.shape) for n, t in model.state_dict().items()} == cfg["keys"]
    with torch.no_grad():
        np.testing.assert_allclose(model(features), expected, atol=1e-4, rtol=0)


def draw(seed: int, blocks: int, shape: tuple[int, int, int, int, int]) -> list[Features]:
    clips, frames, tokens, heads, size = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator)

    apart = (clips, frames, tokens, heads, size)
    return [
        {"out": normal(clips, frames, tokens, heads * size), "q": normal(*apart), "k": normal(*apart)}
        for _ in range(blocks)
    ]


@settings(max_examples=12, deadline=None)
@given(
    layers=st.integers(1, 2),
    frames=st.integers(1, 3),
    heads=st.integers(1, 2),
    size=st.integers(1, 3),
    grid=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    parts=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 1000),
)
def test_equal_to_the_naive_version(
    layers: int, frames: int, heads: int, size: int, grid: tuple[int, int], parts: tuple[bool, bool, bool], seed: int
) -> None:
    config = EVLConfig(
        layers=layers,
        frames=frames,
        mlp_factor=2,
        temporal_conv=parts[0],
        temporal_position=parts[1],
        temporal_attention=parts[2],
    )
    model = Decoder(config, heads * size, grid).eval()
    model.load_state_dict(seeded_state(model.state_dict(), seed))
    features = draw(seed, layers, (2, frames, 1 + grid[0] * grid[1], heads, size))
    with torch.no_grad():
        made = model(features)
        for clip in range(2):
            alone = [{name: block[name][clip] for name in ("out", "q", "k")} for block in features]  # type: ignore[literal-required]
            expected = films.evl_decoder(model.state_dict(), alone, grid)
            torch.testing.assert_close(made[clip, 0], expected, atol=1e-4, rtol=1e-4)


def test_places_are_the_published_rows() -> None:
    places = relative_places((2, 3))
    assert places.shape == (6, 6) and places.min() == 0 and places.max() == 14
    assert (places.diagonal() == 7).all()  # no way at all: the middle of a table of 3 × 5
    assert places[5, 0] == 14 and places[0, 5] == 0 and places[1, 0] == 8


def test_features_are_those_of_the_tower() -> None:
    visual = random_miniature(3).visual.eval()
    video = torch.randn(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = frozen_features(visual, video, layers=2)
    assert len(features) == 2 and not any(t.requires_grad for block in features for t in block.values())  # type: ignore[attr-defined]
    frames = video.transpose(1, 2).flatten(0, 1)
    outs: list[torch.Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _m, _i, out: outs.append(out)) for block in visual.transformer.resblocks
    ]
    with torch.no_grad():
        embedding = visual(frames)
    for hook in hooks:
        hook.remove()
    for made, own in zip(features, outs[-2:], strict=True):
        torch.testing.assert_close(made["out"].flatten(0, 1), own, atol=1e-5, rtol=1e-4)
    last = features[-1]["out"][:, :, 0].flatten(0, 1)
    with torch.no_grad():
        torch.testing.assert_close(visual.ln_post(last) @ visual.proj, embedding, atol=1e-5, rtol=1e-4)
        # The queries and keys make the very attention that open_clip's own module has.
        block = visual.transformer.resblocks[-1]
        x = block.ln_1(outs[-2])
        _, weights = block.attn(x, x, x, need_weights=True, average_attn_weights=False)
    q, k = (features[-1][name].flatten(0, 1).transpose(1, 2) for name in ("q", "k"))  # type: ignore[literal-required]
    ours = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    torch.testing.assert_close(ours, weights, atol=1e-5, rtol=1e-4)


def test_the_tower_is_read_and_not_kept() -> None:
    visual = random_miniature(0).visual
    before = torch.get_rng_state()
    model = EVL.over(visual, EVLConfig(frames=2, layers=3), generator=torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.get_rng_state())
    assert {name.split(".")[0] for name in model.state_dict()} == {"decoder", "proj"}
    video = torch.randn(2, 3, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    logits = model(frozen_features(visual, video, 3))
    assert logits.shape == (2, 32)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad is None for p in visual.parameters())


def test_the_head_is_a_norm_and_a_linear_layer() -> None:
    model = EVL(EVLConfig(num_classes=5, layers=2, frames=3), 4, (1, 2)).eval()
    model.load_state_dict(seeded_state(model.state_dict(), 1))
    features = draw(0, 2, (2, 3, 3, 2, 2))
    state = model.state_dict()
    with torch.no_grad():
        x = model.decoder(features)[:, 0]
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        x = x * state["proj.0.weight"] + state["proj.0.bias"]
        torch.testing.assert_close(model(features), x @ state["proj.2.weight"].T + state["proj.2.bias"])


def test_without_what_tells_of_time_the_order_of_frames_is_nothing() -> None:
    timeless = EVLConfig(layers=1, frames=3, temporal_conv=False, temporal_position=False, temporal_attention=False)
    model = Decoder(timeless, 4, (1, 2)).eval()
    names = {name.split(".")[0] for name in model.state_dict()}
    assert names == {"cls_token", "decoder_layers"}
    features = draw(0, 1, (1, 3, 3, 2, 2))
    turned: list[Features] = [{"out": f["out"].flip(1), "q": f["q"], "k": f["k"]} for f in features]
    with torch.no_grad():
        torch.testing.assert_close(model(features), model(turned))


def test_the_published_query_starts_at_zero() -> None:
    normal, zero = (
        Decoder(EVLConfig(layers=1, frames=2, query=query), 4, (1, 2), generator=torch.Generator().manual_seed(0))
        for query in ("normal", "zero")  # type: ignore[arg-type]
    )
    assert (zero.cls_token == 0).all() and (normal.cls_token != 0).all()


@pytest.mark.parametrize("name", ["out", "q", "k"])
def test_every_feature_tells_of_time(name: str) -> None:
    model = Decoder(EVLConfig(layers=1, frames=3), 4, (1, 2)).eval()
    model.load_state_dict(seeded_state(model.state_dict(), 1))
    features = draw(0, 1, (1, 3, 3, 2, 2))
    turned = [{**features[0], name: features[0][name].flip(1)}]  # type: ignore[literal-required]
    with torch.no_grad():
        assert not torch.allclose(model(features), model(turned), atol=1e-4)


def test_published_sizes_and_start() -> None:
    model = Decoder(EVLConfig(), 768, (14, 14), generator=torch.Generator().manual_seed(0))
    assert len(model.decoder_layers) == 4 and model.decoder_layers[0].mlp.fc1.out_features == 3072
    assert model.cross_attention[0].w1.shape == (27 * 27, 768)
    attention, mlp, norms = 4 * (768 * 768 + 768), 2 * 768 * 3072 + 3072 + 768, 6 * 768
    over_time = 768 * 3 + 768 + 8 * 768 + 2 * 729 * 768
    assert sum(p.numel() for p in model.parameters()) == 768 + 4 * (attention + mlp + norms + over_time)
    for zero in (*model.temporal_pos_embed, *(t for c in model.cross_attention for t in (c.w1, c.w2))):
        assert (zero == 0).all()
    assert model.cls_token.std().item() == pytest.approx(0.02, rel=0.1)
    bound = 3**-0.5
    assert model.temporal_conv[0].weight.abs().max() <= bound and model.temporal_conv[0].weight.std() > bound / 2


def test_wrong_input_is_named() -> None:
    model = Decoder(EVLConfig(layers=2, frames=3), 4, (1, 2))
    features = draw(0, 2, (1, 3, 3, 2, 2))
    with pytest.raises(DataError, match="features of 1 blocks"):
        model(features[:1])
    with pytest.raises(DataError, match=r"reads \[N, 3, 3, 4\]"):
        model([{**f, "out": f["out"][:, :2]} for f in features])
    shape = (1, 3, 3, 2, 2)
    for name, wrong in (
        ("q", torch.zeros(1, 3, 2, 2, 2)),
        ("k", torch.zeros(2, *shape[1:])),
        ("k", torch.zeros(1, 3, 3, 1, 4)),
        ("q", torch.zeros(1, 3, 3, 3, 2)),
        ("out", torch.zeros(1, 3, 3, 4, dtype=torch.long)),
    ):
        with pytest.raises(DataError, match=r"\[N, 3, 3, h, d\] twice, h · d = 4"):
            model([features[0], {**features[1], name: wrong}])  # type: ignore[misc]
    with pytest.raises(ConfigError, match=r"width 4 over \(0, 2\) patches"):
        Decoder(EVLConfig(), 4, (0, 2))
    visual = random_miniature(0).visual
    with pytest.raises(ConfigError, match="9 blocks of a tower of 4"):
        frozen_features(visual, torch.zeros(1, 3, 2, 64, 64), 9)
    with pytest.raises(DataError, match=r"\[N, 3, T, 64, 64\]"):
        frozen_features(visual, torch.zeros(1, 3, 2, 32, 32), 1)


def test_towers_of_another_kind_are_refused() -> None:
    video = torch.zeros(1, 3, 2, 16, 16)
    scaled = VisionTransformer(16, 8, width=8, layers=2, heads=2, mlp_ratio=2, ls_init_value=0.5)
    over_frames = VideoTower(random_miniature(0).visual, VCLIPConfig())
    for tower in (scaled, over_frames, torch.nn.Linear(2, 2)):
        with pytest.raises(ConfigError, match="tower of another kind"):
            frozen_features(tower, video, 1)


@pytest.mark.parametrize(
    ("field", "value"), [("layers", 0), ("frames", 0), ("mlp_factor", 0.0), ("dropout", 1.0), ("query", "one")]
)
def test_wrong_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError):
        EVLConfig(**{field: value})  # type: ignore[arg-type]


def test_files_that_do_not_fit_are_refused() -> None:
    state, _, _, cfg = published()
    with pytest.raises(CheckpointError, match="not of an EVL decoder"):
        from_published({"conv1.weight": torch.zeros(3)}, "file", grid=(2, 3))
    with pytest.raises(CheckpointError, match=r"missing: cross_attention\.1\.w2"):
        from_published({n: t for n, t in state.items() if n != "cross_attention.1.w2"}, "file", grid=tuple(cfg["hw"]))
    with pytest.raises(CheckpointError, match=r"cross_attention\.0\.w1 is \[15, 16\], not \[9, 16\]"):
        from_published(state, "file", grid=(2, 2))
