"""The video tower against the published one, the naive version, plain CLIP, and what token decay promises."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.model import QuickGELU
from open_clip.transformer import VisionTransformer

from migcore import reference
from migcore.errors import ConfigError, DataError
from migcore.models.vclip import (
    Boundary,
    Encoded,
    Kernel,
    Score,
    TemporalAttention,
    TokenDecay,
    VCLIPConfig,
    VideoTower,
)
from tests.conformance.seeded import seeded_array, seeded_state

VECTOR = Path(__file__).parents[1] / "conformance" / "vclip_expand.npz"
LAYERS, PATCHES, HEADS = 3, 9, 2


def plain(seed: int = 0, **changes: Any) -> VisionTransformer:
    """A tower of 3 blocks, 2 heads of 4 channels and 9 patches."""
    sizes = {"image_size": 12, "patch_size": 4, "width": 8, "layers": LAYERS, "heads": HEADS, "output_dim": 5}
    visual = VisionTransformer(mlp_ratio=4, act_layer=QuickGELU, **(sizes | changes)).eval()
    visual.load_state_dict(seeded_state(visual.state_dict(), seed))
    return visual


def tower(seed: int = 0, **config: Any) -> VideoTower:
    return VideoTower(plain(seed), VCLIPConfig(**config)).eval()


def video(batch: int = 2, frames: int = 4, size: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def published() -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """Sizes, weights and outputs of the published tower."""
    vector = np.load(VECTOR)
    cfg = json.loads(str(vector["cfg"]))
    state = {name: torch.from_numpy(seeded_array(name, tuple(s), cfg["seed"])) for name, s in cfg["keys"].items()}
    return cfg, state, {name: vector[name] for name in ("video", "frame_embeds", "tokens")}


@pytest.mark.parametrize("attention", get_args(Kernel))
def test_equal_to_the_published_tower(published: Any, attention: Kernel) -> None:
    cfg, state, vector = published
    visual = VisionTransformer(
        image_size=cfg["image_size"],
        patch_size=cfg["patch_size"],
        width=cfg["width"],
        layers=cfg["layers"],
        heads=cfg["heads"],
        mlp_ratio=4,
        output_dim=cfg["embed_dim"],
        act_layer=QuickGELU,
    )
    model = VideoTower(visual, VCLIPConfig(attention=attention)).eval()
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == cfg["keys"]
    model.load_state_dict(state)
    with torch.no_grad():
        found = model.encode(torch.from_numpy(vector["video"]))
    np.testing.assert_allclose(found.frames_BTE.flatten(0, 1), vector["frame_embeds"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(found.tokens_BTLD.flatten(0, 1), vector["tokens"], atol=1e-4, rtol=0)


def test_the_naive_tower_is_the_published_one(published: Any) -> None:
    cfg, state, vector = published
    embeddings, tokens, survivors = reference.vclip_tower(state, torch.from_numpy(vector["video"])[1])
    np.testing.assert_allclose(embeddings, vector["frame_embeds"][cfg["T"] :], atol=1e-4, rtol=0)
    np.testing.assert_allclose(tokens, vector["tokens"][cfg["T"] :], atol=1e-4, rtol=0)
    assert survivors == [[list(range(16))] * cfg["T"]] * cfg["layers"]


def against_the_naive(model: VideoTower, x: torch.Tensor) -> None:
    config = model.config
    with torch.no_grad():
        found = model.encode(x)
        torch.testing.assert_close(model(x), found.frames_BTE, rtol=0, atol=0)
        for b in range(len(x)):
            embeddings, tokens, survivors = reference.vclip_tower(
                model.state_dict(),
                x[b],
                head_width=4,
                span=config.span,
                boundary=config.boundary,
                keep=config.keep,
                score=config.score,
            )
            torch.testing.assert_close(found.frames_BTE[b], embeddings, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(found.tokens_BTLD[b], tokens, atol=1e-5, rtol=1e-4)
            assert [kept[b].tolist() for kept in found.survivors] == survivors


@pytest.mark.parametrize("attention", get_args(Kernel))
@pytest.mark.parametrize("boundary", get_args(Boundary))
@pytest.mark.parametrize("span", range(4))
def test_equal_to_the_naive_version(span: int, boundary: Boundary, attention: Kernel) -> None:
    against_the_naive(tower(span, span=span, boundary=boundary, attention=attention), video(2, 3, seed=span))


@pytest.mark.parametrize("score", get_args(Score))
@pytest.mark.parametrize("boundary", get_args(Boundary))
@pytest.mark.parametrize("span", range(4))
def test_decay_is_equal_to_the_naive_version(span: int, boundary: Boundary, score: Score) -> None:
    # Seeds are fixed: two scores as near to each other as rounding would be cut differently.
    model = tower(10 + span, span=span, boundary=boundary, score=score, keep=(0.7, 1.0, 0.5))
    against_the_naive(model, video(1, 4, seed=span))


@pytest.mark.parametrize("attention", get_args(Kernel))
@pytest.mark.parametrize("frames", [1, 3, 8])
def test_the_number_of_frames_is_that_of_the_input(frames: int, attention: Kernel) -> None:
    against_the_naive(tower(keep=(0.8, 0.5, 0.5), attention=attention), video(1, frames, seed=frames))


@pytest.mark.parametrize("score", get_args(Score))
def test_keeping_everything_is_no_decay(score: Score) -> None:
    with torch.no_grad():
        everything, without = (tower(keep=keep, score=score).encode(video()) for keep in ((1.0,) * LAYERS, ()))
    assert torch.equal(everything.frames_BTE, without.frames_BTE)
    assert torch.equal(everything.tokens_BTLD, without.tokens_BTLD)
    assert all(torch.equal(a, b) for a, b in zip(everything.survivors, without.survivors, strict=True))
    assert torch.equal(without.survivors[-1], torch.arange(PATCHES).expand(2, 4, -1))


@pytest.mark.parametrize("attention", get_args(Kernel))
@pytest.mark.parametrize("boundary", get_args(Boundary))
def test_without_neighbours_it_is_open_clips_tower(boundary: Boundary, attention: Kernel) -> None:
    x = video()
    with torch.no_grad():
        expected = plain(3)(x.transpose(1, 2).flatten(0, 1))
        found = tower(3, span=0, boundary=boundary, attention=attention)(x)
        torch.testing.assert_close(found.flatten(0, 1), expected, atol=1e-5, rtol=1e-5)
        assert (tower(3, boundary=boundary)(x).flatten(0, 1) - expected).abs().max() > 1e-3


def test_the_tower_takes_the_parts_and_names_of_clips() -> None:
    visual = plain()
    model = VideoTower(visual, VCLIPConfig())
    assert model.state_dict().keys() == plain().state_dict().keys()
    assert model.conv1 is visual.conv1 and model.proj is visual.proj
    wrapped = TemporalAttention(8, 2).state_dict()
    mha = torch.nn.MultiheadAttention(8, 2).state_dict()
    assert {name: t.shape for name, t in wrapped.items()} == {name: t.shape for name, t in mha.items()}


# --- what happens at the ends of a clip -------------------------------------------------------------------------------


def attention(boundary: Boundary, span: int = 1, kernel: Kernel = "fused") -> TemporalAttention:
    """One head of 4 channels, whose output projection changes nothing."""
    made = TemporalAttention(4, 1, span, boundary, kernel)
    made.load_state_dict(seeded_state(made.state_dict(), 2))
    with torch.no_grad():
        made.out_proj.weight.copy_(torch.eye(4))
        made.out_proj.bias.zero_()
    return made


@pytest.mark.parametrize("kernel", get_args(Kernel))
def test_zero_keys_at_the_first_frame_damp_it(kernel: Kernel) -> None:
    tokens = 3
    x = torch.randn(1, 2, tokens, 4, generator=torch.Generator().manual_seed(1))
    made = attention("zero", kernel=kernel)
    with torch.no_grad():
        q, k, v = (x[0] @ made.in_proj_weight.T + made.in_proj_bias).split(4, dim=-1)
        powers = torch.exp(q[0] @ k.flatten(0, 1).T / math.sqrt(4))  # keys of frames 0 and 1
        total = powers.sum(-1, keepdim=True)
        torch.testing.assert_close(made(x)[0, 0], powers @ v.flatten(0, 1) / (total + tokens))
        torch.testing.assert_close(attention("mask", kernel=kernel)(x)[0, 0], powers @ v.flatten(0, 1) / total)
        own = torch.exp(q[0] @ k[0].T / 2)
        alone = made(x[:, :1])[0, 0]  # a clip of one frame misses both neighbours
        torch.testing.assert_close(alone, own @ v[0] / (own.sum(-1, keepdim=True) + 2 * tokens))


def test_replicating_is_a_clip_whose_ends_stand_still() -> None:
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    longer = torch.cat([x[:, :1], x[:, :1], x, x[:, -1:], x[:, -1:]], 1)
    with torch.no_grad():
        for boundary in get_args(Boundary):
            same = torch.allclose(attention(boundary, 2)(x), attention("replicate", 2)(longer)[:, 2:-2], atol=1e-6)
            assert same == (boundary == "replicate")


@pytest.mark.parametrize("span", range(4))
def test_a_block_sees_no_further_than_its_span(span: int) -> None:
    x = torch.randn(1, 9, 3, 4, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[:, 4] += 1
    with torch.no_grad():
        apart = (attention("zero", span)(x) - attention("zero", span)(changed)).abs().amax((0, 2, 3)) > 1e-6
    assert apart.tolist() == [abs(t - 4) <= span for t in range(9)]


# --- token decay ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 9)),
    share=st.floats(0.01, 1),
    levels=st.integers(1, 12),  # few levels: many ties
    seed=st.integers(0, 1000),
)
def test_the_best_scored_patches_stay(shape: tuple[int, int, int], share: float, levels: int, seed: int) -> None:
    batch, frames, patches = shape
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, levels, shape, generator=g) / levels
    x = torch.randn(batch, frames, 1 + patches, 2, generator=g)
    cut, kept = TokenDecay(share)(x, scores)
    count = max(1, int(share * patches + 0.5))
    assert kept.shape == (*shape[:2], count) and cut.shape == (*shape[:2], 1 + count, 2)
    assert torch.equal(cut[:, :, 0], x[:, :, 0])
    for b in range(batch):
        for t in range(frames):
            values = scores[b, t].tolist()
            expected = sorted(sorted(range(patches), key=lambda n: (-values[n], n))[:count])
            assert kept[b, t].tolist() == expected
            assert torch.equal(cut[b, t, 1:], x[b, t, 1:][expected])


@pytest.mark.parametrize(
    ("share", "patches", "count"), [(0.5, 9, 5), (0.5, 1, 1), (0.01, 9, 1), (0.7, 196, 137), (0.25, 10, 3), (1, 7, 7)]
)
def test_counts_are_rounded_half_up_and_never_zero(share: float, patches: int, count: int) -> None:
    assert TokenDecay(share).count(patches) == count


def test_of_equal_scores_the_first_stays() -> None:
    _, kept = TokenDecay(0.5)(torch.zeros(1, 1, 5, 1), torch.tensor([[[0.2, 0.3, 0.2, 0.2]]]))
    assert kept.tolist() == [[[0, 1]]]


def test_gradient_reaches_what_was_kept_and_no_more() -> None:
    x = torch.zeros(1, 2, 5, 3, requires_grad=True)
    scores = torch.tensor([[[0.4, 0.1, 0.3, 0.2], [0.0, 0.3, 0.1, 0.2]]], requires_grad=True)
    cut, _ = TokenDecay(0.5)(x, scores)
    cut.sum().backward()
    assert x.grad is not None and scores.grad is None
    assert x.grad[0, :, :, 0].tolist() == [[1, 1, 0, 1, 0], [1, 0, 1, 0, 1]]


@pytest.mark.parametrize("score", get_args(Score))
def test_scores_are_what_cls_looks_at_in_its_own_frame(score: Score) -> None:
    made = TemporalAttention(8, HEADS)
    made.load_state_dict(seeded_state(made.state_dict(), 4))
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out, scores = made(x, score)
    assert scores.shape == (2, 3, 4) and not scores.requires_grad and out.requires_grad
    with torch.no_grad():
        assert torch.equal(made(x), out)
        q, k, _ = (x @ made.in_proj_weight.T + made.in_proj_bias).split(8, dim=-1)
        looks = torch.stack([q[:, :, :1, h] @ k[..., h].mT for h in (slice(0, 4), slice(4, 8))]) / 2
        if score == "softmax":
            looks = looks.softmax(-1)
            assert (scores.sum(-1) < 1).all()  # [cls] looks at itself too
        torch.testing.assert_close(scores, looks.mean(0)[:, :, 0, 1:])
        # The neighbours have no say: a changed frame changes its own scores alone.
        changed = x.clone()
        changed[:, 1] += 1
        moved = (made(changed, score)[1] - scores).abs().amax((0, 2)) > 1e-5
        assert moved.tolist() == [False, True, False]


@pytest.mark.parametrize("boundary", get_args(Boundary))
def test_every_frame_keeps_as_many_and_the_survivors_are_nested(boundary: Boundary) -> None:
    with torch.no_grad():
        found = tower(keep=(0.8, 1.0, 0.4), boundary=boundary).encode(video(2, 4))
    assert [kept.shape for kept in found.survivors] == [(2, 4, 7), (2, 4, 7), (2, 4, 3)]
    assert found.tokens_BTLD.shape == (2, 4, 1 + 3, 8) and found.frames_BTE.shape == (2, 4, 5)
    before = torch.arange(PATCHES).expand(2, 4, -1)
    for kept in found.survivors:
        assert (kept.diff(dim=-1) > 0).all()
        assert (kept[..., None] == before[..., None, :]).any(-1).all()
        before = kept
    assert len({tuple(row) for row in found.survivors[-1].flatten(0, 1).tolist()}) > 1  # frames differ in which


def test_the_last_share_changes_no_embedding() -> None:
    with torch.no_grad():
        few, all_of_them = (tower(keep=(0.5, 0.7, last)).encode(video()) for last in (0.2, 1.0))
    assert torch.equal(few.frames_BTE, all_of_them.frames_BTE)
    assert few.tokens_BTLD.shape[2] < all_of_them.tokens_BTLD.shape[2]


def test_moving_patches_moves_the_survivors() -> None:
    # Without places, a patch is known by its pixels alone.
    model, order = tower(keep=(0.7, 0.5, 0.6)), torch.randperm(PATCHES, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.positional_embedding.zero_()
        x = video(1, 3)
        patches = x.unflatten(4, (3, 4)).unflatten(3, (3, 4)).permute(0, 1, 2, 3, 5, 4, 6).flatten(3, 4)
        moved = patches[:, :, :, order].unflatten(3, (3, 3)).permute(0, 1, 2, 3, 5, 4, 6).flatten(5, 6).flatten(3, 4)
        first, second = model.encode(x), model.encode(moved)
    torch.testing.assert_close(first.frames_BTE, second.frames_BTE, atol=1e-5, rtol=1e-5)
    assert not torch.equal(first.survivors[-1], second.survivors[-1])
    for a, b in zip(first.survivors, second.survivors, strict=True):
        assert torch.equal(a, order[b].sort(-1).values)


# --- training and wrong input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", get_args(Kernel))
def test_gradient_reaches_every_parameter(attention: Kernel) -> None:
    model = tower(keep=(0.7, 0.5, 1.0), attention=attention).train()
    model(video()).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == [] and all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_both_attentions_have_the_same_gradient() -> None:
    models = [tower(keep=(0.7, 0.5, 1.0), attention=attention) for attention in get_args(Kernel)]
    for model in models:
        model(video()).square().sum().backward()
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("attention", get_args(Kernel))
@pytest.mark.parametrize("boundary", get_args(Boundary))
def test_half_precision_stays_near(boundary: Boundary, attention: Kernel) -> None:
    model, x = tower(boundary=boundary, attention=attention), video()
    cutting = tower(boundary=boundary, attention=attention, keep=(0.7, 0.5, 0.6))
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough, cut = model(x), cutting.encode(x)
    assert rough.dtype == torch.bfloat16
    assert torch.cosine_similarity(exact, rough.float(), dim=-1).min() > 0.999
    assert isinstance(cut, Encoded) and cut.frames_BTE.isfinite().all() and cut.survivors[-1].shape == (2, 4, 2)


@pytest.mark.parametrize("score", ["softmax", "logits"])
def test_scores_are_float32_under_autocast(score: Any) -> None:
    """Else patches tie, and ties fall to the top of the frame."""
    attention = TemporalAttention(96, 3)
    x = torch.randn(1, 2, 197, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        scores = attention(x, score)[1]
    assert scores.dtype == torch.float32 and all(len(row.unique()) == 196 for row in scores[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"span": 4}, r"span 4\. 0 to 3 neighbours"),
        ({"span": -1}, "span -1"),
        ({"boundary": "wrap"}, r"boundary 'wrap'\. choose from zero, mask, replicate"),
        ({"keep": (0.5, 0.0)}, r"keep \(0\.5, 0\.0\)\. shares are above 0"),
        ({"keep": (1.1,)}, "at most 1"),
        ({"score": "rollout"}, r"score 'rollout'\. choose from softmax, logits"),
        ({"attention": "flash"}, "attention 'flash'"),
    ],
)
def test_wrong_configs_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VCLIPConfig(**wrong)


def test_towers_that_do_not_fit_are_named() -> None:
    with pytest.raises(ConfigError, match="token decay for 2 blocks, in a tower of 3"):
        tower(keep=(0.5, 0.5))
    for other in ({"pool_type": "avg"}, {"ls_init_value": 1.0}, {"qk_norm": True}):
        with pytest.raises(ConfigError, match="a vision tower of another kind"):
            VideoTower(plain(**other), VCLIPConfig())
    with pytest.raises(ConfigError, match="width 8 for 3 heads"):
        TemporalAttention(8, 3)
    with pytest.raises(ConfigError, match="without packed projection"):
        TemporalAttention.of(torch.nn.MultiheadAttention(8, 2, kdim=4), VCLIPConfig())


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(2, 3, 12, 12),
        torch.zeros(1, 4, 2, 12, 12),
        torch.zeros(1, 3, 2, 12, 16),
        torch.zeros(1, 3, 2, 12, 12, dtype=torch.uint8),
    ],
)
def test_wrong_videos_are_named(wrong: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"takes normalised \[B, 3, T, 12, 12\]"):
        tower()(wrong)
