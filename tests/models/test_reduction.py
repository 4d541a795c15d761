"""Ways to have fewer tokens, against naive loops, and what each of them promises; alone and in the video tower."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from open_clip.model import QuickGELU
from open_clip.transformer import VisionTransformer
from torch import Tensor

from migcore.errors import ConfigError, DataError
from migcore.models.clip import random_miniature
from migcore.models.cost import calibrate, saved_bytes, tower_cost
from migcore.models.reduction import alone, chance, count, cut, follow, fuse, merge, places
from migcore.models.vclip import Boundary, Kernel, Reduce, Score, TemporalAttention, VCLIPConfig, VideoTower
from migcore.reference import reduction as naive
from tests.conformance.seeded import seeded_state

KINDS: tuple[Reduce, ...] = get_args(Reduce)
KEEP, LAYERS, PATCHES = (0.7, 0.3, 0.6), 3, 16  # of 16 patches 11, 3 and 2 go on: more than half, too


def tower(seed: int = 0, **config: Any) -> VideoTower:
    """Three blocks, 2 heads of 4 channels, 16 patches."""
    sizes = {"image_size": 12, "patch_size": 3, "width": 8, "layers": LAYERS, "heads": 2, "output_dim": 5}
    visual = VisionTransformer(mlp_ratio=4, act_layer=QuickGELU, **sizes)
    visual.load_state_dict(seeded_state(visual.state_dict(), seed))
    return VideoTower(visual, VCLIPConfig(**config)).eval()


def video(batch: int = 2, frames: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, frames, 12, 12, generator=torch.Generator().manual_seed(seed))


def drawn(shape: tuple[int, int, int], seed: int, width: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, scores and keys of ``shape`` = B, T, n."""
    g = torch.Generator().manual_seed(seed)
    batch, frames, patches = shape
    x = torch.randn(batch, frames, 1 + patches, width, generator=g)
    return x, torch.rand(shape, generator=g), torch.randn(*shape, 4, generator=g)


def grouped(members: list[list[int]], patches: int) -> list[int]:
    """The token of each patch, -1 for none, from the patches of each token."""
    return [next((i for i, group in enumerate(members) if n in group), -1) for n in range(patches)]


shapes = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 9))

# --- alone ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(shape=shapes, share=st.floats(0.01, 1), levels=st.sampled_from([2, 4, 1000]), seed=st.integers(0, 1000))
def test_cut_and_fuse_are_equal_to_the_naive_versions(
    shape: tuple[int, int, int], share: float, levels: int, seed: int
) -> None:
    x, scores, _ = drawn(shape, seed)
    scores = (levels * scores).floor() / levels  # few levels: many ties, and zeros
    k, patches = count(share, shape[2]), shape[2]
    for fast, slow, rest in ((cut, naive.cut, -1), (fuse, naive.fuse, k - 1)):
        found, kept = fast(x, scores, k)
        went = places(kept, patches, rest)
        for b, t in itertools.product(range(shape[0]), range(shape[1])):
            expected, members = slow(x[b, t], scores[b, t].tolist(), k)
            torch.testing.assert_close(found[b, t], expected, atol=1e-6, rtol=1e-5)
            assert went[b, t].tolist() == grouped(members, patches)
            assert kept[b, t].tolist() == [n for group in members[: kept.shape[-1]] for n in group]


@settings(max_examples=60, deadline=None)
@given(shape=shapes, share=st.floats(0.01, 1), sized=st.booleans(), seed=st.integers(0, 1000))
def test_merge_is_equal_to_the_naive_version(shape: tuple[int, int, int], share: float, sized: bool, seed: int) -> None:
    x, scores, keys = drawn(shape, seed)
    sizes = (scores * 4).ceil() if sized else None
    k = count(share, shape[2])
    found, went, after = merge(x, keys, sizes, k)
    for b, t in itertools.product(range(shape[0]), range(shape[1])):
        before = sizes[b, t].int().tolist() if sizes is not None else [1] * shape[2]
        expected, members, total = naive.merge(x[b, t], keys[b, t], before, k)
        # Cosines as near to each other as rounding may be ordered either way.
        if went[b, t].tolist() != grouped(members, shape[2]):
            assume(_gap(keys[b, t]) > 1e-5)
        torch.testing.assert_close(found[b, t], expected, atol=1e-6, rtol=1e-5)
        assert went[b, t].tolist() == grouped(members, shape[2])
        assert total == (after[b, t].tolist() if after is not None else before)


def _gap(keys: Tensor) -> float:
    unit = torch.nn.functional.normalize(keys.double(), dim=-1)
    cosines = (unit @ unit.T)[torch.triu_indices(len(keys), len(keys), 1).unbind()].sort().values
    return float(cosines.diff().min()) if len(cosines) > 1 else 1.0


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 1000))
def test_of_equally_alike_patches_the_first_are_merged(shape: tuple[int, int, int], seed: int) -> None:
    x, _, _ = drawn(shape, seed)
    axes = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(seed))
    keys = torch.eye(3)[axes]  # cosines are 0 or 1
    for k in range(shape[2] - shape[2] // 2, shape[2] + 1):  # one round
        _, went, _ = merge(x, keys, None, k)
        for b, t in itertools.product(range(shape[0]), range(shape[1])):
            _, members, _ = naive.merge(x[b, t], keys[b, t], [1] * shape[2], k)
            assert went[b, t].tolist() == grouped(members, shape[2])


@settings(max_examples=40, deadline=None)
@given(shape=shapes, share=st.floats(0.01, 1), seed=st.integers(0, 1000))
def test_merging_keeps_the_weighted_sum_and_the_number_of_patches(
    shape: tuple[int, int, int], share: float, seed: int
) -> None:
    x, _, keys = drawn(shape, seed)
    k = count(share, shape[2])
    less, went, sizes = merge(x, keys, None, k)
    assert less.shape == (*shape[:2], 1 + k, 3) and torch.equal(less[:, :, 0], x[:, :, 0])
    if sizes is None:
        assert k == shape[2]
        sizes = torch.ones(*shape[:2], k)
    assert torch.equal(sizes.sum(-1), torch.full(shape[:2], float(shape[2])))
    assert torch.equal(sizes, (went[..., None] == torch.arange(k)).sum(2).float())
    summed = (sizes[..., None] * less[:, :, 1:]).sum(2)
    torch.testing.assert_close(summed, x[:, :, 1:].sum(2), atol=1e-5, rtol=1e-5)
    # And once more, from tokens that already stand for several.
    again, _, grown = merge(less, keys[:, :, :k], sizes, max(1, k // 3))
    assert grown is not None and torch.equal(grown.sum(-1), sizes.sum(-1))
    torch.testing.assert_close((grown[..., None] * again[:, :, 1:]).sum(2), summed, atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, share=st.floats(0.01, 1), seed=st.integers(0, 1000))
def test_moving_patches_moves_what_cut_and_fuse_keep(shape: tuple[int, int, int], share: float, seed: int) -> None:
    x, scores, _ = drawn(shape, seed)
    assume(scores.sort(-1).values.diff(dim=-1).gt(0).all())
    k, order = count(share, shape[2]), torch.randperm(shape[2], generator=torch.Generator().manual_seed(seed))
    moved = torch.cat([x[:, :, :1], x[:, :, 1:][:, :, order]], 2)
    for function in (cut, fuse):
        first, kept = function(x, scores, k)
        second, kept_moved = function(moved, scores[..., order], k)
        assert torch.equal(order[kept_moved].sort(-1).values, kept)
        chosen = order[kept_moved].argsort(-1) + 1
        if function is fuse and k < shape[2]:
            torch.testing.assert_close(second[:, :, -1], first[:, :, -1], atol=1e-6, rtol=1e-5)
        assert torch.equal(
            second.gather(2, chosen[..., None].expand(-1, -1, -1, 3)), first[:, :, 1:][:, :, : kept.shape[-1]]
        )


def test_fusing_by_hand() -> None:
    x = torch.tensor([0.0, 1, 2, 3, 10]).view(1, 1, 5, 1)  # [cls] is 0
    made, kept = fuse(x, torch.tensor([[[0.1, 0.4, 0.3, 0.2]]]), 2)
    assert kept.tolist() == [[[1]]]
    torch.testing.assert_close(made.flatten(), torch.tensor([0.0, 2, 5]))  # 5 = (0.1 · 1 + 0.3 · 3 + 0.2 · 10) / 0.6
    made, _ = fuse(x, torch.tensor([[[0.0, 0.4, 0.0, 0.0]]]), 2)
    torch.testing.assert_close(made.flatten(), torch.tensor([0.0, 2, 14 / 3]))  # nobody is looked at: the plain mean
    made, kept = fuse(x, torch.tensor([[[0.0, 0.0, 0.5, 0.5]]]), 1)
    assert kept.shape == (1, 1, 0) and made.flatten().tolist() == [0, 6.5]


def test_merging_by_hand() -> None:
    x = torch.tensor([7.0, 1, 2, 3, 10]).view(1, 1, 5, 1)
    keys = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.5, 0.6]])[None, None]
    made, went, sizes = merge(x, keys, None, 3)  # the second is like the first; the fourth, a source too, stays
    assert sizes is not None
    assert (
        made.flatten().tolist() == [7, 10, 1.5, 3]
        and went.tolist() == [[[1, 1, 2, 0]]]
        and sizes.tolist() == [[[1, 2, 1]]]
    )
    same, went, sizes = merge(x, keys, None, 4)
    assert same is x and sizes is None and went.tolist() == [[[0, 1, 2, 3]]]
    made, _, sizes = merge(x, keys, torch.tensor([[[3.0, 1, 1, 1]]]), 1)  # two rounds
    assert sizes is not None
    torch.testing.assert_close(made.flatten(), torch.tensor([7, (3 * 1 + 2 + 3 + 10) / 6]))
    assert sizes.tolist() == [[[6]]]


def test_gradient_reaches_what_is_kept_fused_or_merged() -> None:
    x, scores, keys = drawn((1, 1, 4), 0)
    scores = torch.tensor([[[0.1, 0.4, 0.3, 0.2]]])
    for made, expected in (
        (lambda x: cut(x, scores, 2)[0], [1, 0, 1, 1, 0]),
        (lambda x: fuse(x, scores, 2)[0], [1, 1 / 6, 1, 1 / 2, 1 / 3]),
        (lambda x: _weighted(*merge(x, keys, None, 2)), [1, 1, 1, 1, 1]),
    ):
        leaf = x.clone().requires_grad_()
        made(leaf).sum().backward()
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad[0, 0, :, 0], torch.tensor(expected, dtype=torch.float32))


def _weighted(x: Tensor, _: Tensor, sizes: Tensor | None) -> Tensor:
    assert sizes is not None
    return torch.cat([x[:, :, :1], x[:, :, 1:] * sizes[..., None]], 2)


def test_half_precision_tokens_are_averaged_in_float32() -> None:
    x, scores, keys = drawn((1, 2, 9), 0)
    x = 256 + x
    half = x.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused, merged = fuse(half, scores, 2)[0], merge(half, keys, None, 2)[0]
    for found, exact in ((fused, fuse(half.float(), scores, 2)[0]), (merged, merge(half.float(), keys, None, 2)[0])):
        assert found.dtype == torch.bfloat16 and torch.equal(found, exact.bfloat16())


def test_chances_are_even_and_those_of_evaluation_stay() -> None:
    x = torch.zeros(500, 4, 9, 1)
    before = torch.get_rng_state()
    first, again, other = chance(x, 1), chance(x, 1), chance(x, 2)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(first[0], first[1]) and torch.equal(chance(x[:1], 1)[0], first[0])  # whatever is in the batch
    assert not torch.equal(first[0, 0], first[0, 1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = chance(x, None)
        torch.manual_seed(0)
        assert torch.equal(first, chance(x, None)) and not torch.equal(first, chance(x, None))
    kept = cut(x, first, 4)[1].flatten().bincount()
    assert ((kept - 1000).abs() < 5 * 22.4).all()  # of 2000 frames, each patch in a half; σ = √500


def test_who_is_where() -> None:
    went = places(torch.tensor([[[1, 3]]]), 4, rest=2)
    assert went.tolist() == [[[2, 0, 2, 1]]] and places(torch.tensor([[[1, 3]]]), 4).tolist() == [[[-1, 0, -1, 1]]]
    groups = torch.tensor([[[0, 0, -1, 3, 2]]])
    assert follow(groups, went).tolist() == [[[2, 2, -1, 1, 2]]]
    assert alone(groups, 4).tolist() == [[[-1, -1, 4, 3]]]  # of the second token, no patch; of the first, two


@pytest.mark.parametrize("function", [cut, fuse, lambda x, each, k: merge(x, each[..., None], None, k)])
def test_wrong_input_is_named(function: Any) -> None:
    x = torch.zeros(2, 3, 5, 8)
    for k in (0, 5, -1):
        with pytest.raises(ConfigError, match=f"{k} of 4 patches"):
            function(x, torch.zeros(2, 3, 4), k)
    for wrong, each in ((x, torch.zeros(2, 3, 5)), (x[0], torch.zeros(3, 4)), (x[:, :, :1], torch.zeros(2, 3, 0))):
        with pytest.raises(DataError, match=r"\[cls\] first"):
            function(wrong, each, 1)


def test_merging_names_keys_and_sizes_that_do_not_fit() -> None:
    x, keys = torch.zeros(2, 3, 5, 8), torch.ones(2, 3, 4, 2)
    for wrong in (keys[..., 0], keys[..., :0], keys[..., None]):
        with pytest.raises(DataError, match=r"keys of shape .*\[B, T, n, d\]"):
            merge(x, wrong, None, 2)
    for sizes in (torch.ones(2, 3, 5), torch.ones(2, 3, 1), torch.ones(3, 4)):
        with pytest.raises(DataError, match=r"sizes of shape .* for patches \[2, 3, 4\]"):
            merge(x, keys, sizes, 2)


# --- in the tower -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", get_args(Kernel))
@pytest.mark.parametrize("boundary", get_args(Boundary))
@pytest.mark.parametrize("reduce", KINDS)
def test_the_tower_is_equal_to_the_naive_version(reduce: Reduce, boundary: Boundary, attention: Kernel) -> None:
    # Seeds are fixed: two scores as near to each other as rounding would be ordered either way.
    against_the_naive(tower(1, reduce=reduce, boundary=boundary, attention=attention, keep=KEEP), video(1, 3, seed=1))


@pytest.mark.parametrize("score", get_args(Score))
@pytest.mark.parametrize("span", [0, 2])
@pytest.mark.parametrize("reduce", KINDS)
def test_spans_and_scores_are_equal_to_the_naive_version(reduce: Reduce, span: int, score: Score) -> None:
    model = tower(2, reduce=reduce, span=span, score=score, keep=(0.5, 1.0, 0.6))
    against_the_naive(model, video(2, 2, seed=2))


def against_the_naive(model: VideoTower, x: Tensor) -> None:
    config = model.config
    with torch.no_grad():
        found = model.encode(x)
        torch.testing.assert_close(model(x), found.frames_BTE, rtol=0, atol=0)
    for b in range(len(x)):
        embeddings, tokens, history = naive.reduced_tower(
            model.state_dict(),
            x[b],
            reduce=config.reduce,
            keep=config.keep,
            score=config.score,
            head_width=4,
            span=config.span,
            boundary=config.boundary,
        )
        torch.testing.assert_close(found.frames_BTE[b], embeddings, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.tokens_BTLD[b], tokens, atol=1e-5, rtol=1e-4)
        for number, frames in enumerate(history):
            for t, members in enumerate(frames):
                assert found.groups[number][b, t].tolist() == grouped(members, PATCHES)
                assert found.survivors[number][b, t].tolist() == [m[0] if len(m) == 1 else -1 for m in members]


def test_the_default_is_the_papers() -> None:
    assert VCLIPConfig().reduce == "decay"


@pytest.mark.parametrize("reduce", KINDS)
def test_all_kinds_keep_as_many_and_their_outputs_differ(reduce: Reduce) -> None:
    with torch.no_grad():
        found, paper = (tower(keep=KEEP, reduce=kind).encode(video()) for kind in (reduce, "decay"))
    assert [kept.shape for kept in found.survivors] == [(2, 4, 11), (2, 4, 3), (2, 4, 2)]
    assert [groups.shape for groups in found.groups] == [(2, 4, PATCHES)] * LAYERS
    assert found.tokens_BTLD.shape == paper.tokens_BTLD.shape
    assert torch.equal(found.frames_BTE, paper.frames_BTE) == (reduce == "decay")
    for kept, groups in zip(found.survivors, found.groups, strict=True):
        # Each token is of at least one patch, and a patch that goes on alone is where the groups say.
        assert all(set(range(kept.shape[-1])) <= set(row) for row in groups.flatten(0, 1).tolist())
        for row, own in zip(kept.flatten(0, 1).tolist(), groups.flatten(0, 1).tolist(), strict=True):
            assert all(own[patch] == token and own.count(token) == 1 for token, patch in enumerate(row) if patch >= 0)
            assert all(own.count(token) > 1 for token, patch in enumerate(row) if patch < 0)
        assert ((groups >= 0).all() == (reduce in ("fuse", "merge"))).item()  # nothing is lost
        assert ((kept >= 0).all() == (reduce in ("decay", "random"))).item()


@pytest.mark.parametrize("attention", get_args(Kernel))
@pytest.mark.parametrize("reduce", KINDS)
def test_keeping_everything_is_no_reduction(reduce: Reduce, attention: Kernel) -> None:
    with torch.no_grad():
        without = tower(attention=attention).encode(video())
        for keep in ((1.0,) * LAYERS, (0.99,) * LAYERS):  # of 16 patches, 0.99 are 16
            everything = tower(keep=keep, reduce=reduce, attention=attention).encode(video())
            assert torch.equal(everything.frames_BTE, without.frames_BTE)
            assert torch.equal(everything.tokens_BTLD, without.tokens_BTLD)
            for a, b in zip(everything.survivors + everything.groups, without.survivors + without.groups, strict=True):
                assert torch.equal(a, b) and torch.equal(b, torch.arange(PATCHES).expand(2, 4, -1))


@pytest.mark.parametrize("boundary", get_args(Boundary))
@pytest.mark.parametrize("attention", get_args(Kernel))
def test_merging_equal_patches_changes_nothing(boundary: Boundary, attention: Kernel) -> None:
    """Because merged ones weigh by their sizes; so do zeros for a missing frame."""
    x = video(1, 4)[..., :1, :1].expand(-1, -1, -1, 12, 12)
    models = [tower(keep=keep, reduce="merge", boundary=boundary, attention=attention) for keep in (KEEP, ())]
    with torch.no_grad():
        for model in models:
            model.positional_embedding[1:].zero_()
        merged, whole = (model(x) for model in models)
        torch.testing.assert_close(merged, whole, atol=1e-5, rtol=1e-5)
        dropped = tower(keep=KEEP, boundary=boundary, attention=attention)
        dropped.positional_embedding[1:].zero_()
        assert (dropped(x) - whole).abs().max() > 1e-3


@pytest.mark.parametrize("kernel", get_args(Kernel))
@pytest.mark.parametrize("boundary", get_args(Boundary))
def test_a_size_counts_as_so_many_of_a_kind(boundary: Boundary, kernel: Kernel) -> None:
    made = TemporalAttention(8, 2, 1, boundary, kernel)
    made.load_state_dict(seeded_state(made.state_dict(), 3))
    x = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[3.0, 1, 1], [1, 2, 2], [1, 3, 1]]).expand(2, -1, -1)
    times = [[1, 3, 1, 1], [1, 1, 2, 2], [1, 1, 3, 1]]
    longer = torch.stack([x[:, t].repeat_interleave(torch.tensor(n), 1) for t, n in enumerate(times)], 1)
    with torch.no_grad():
        found, expected = made(x, None, sizes), made(longer)
        for t, repeats in enumerate(times):
            first = [sum(repeats[:i]) for i in range(4)]
            torch.testing.assert_close(found[:, t], expected[:, t, first], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(made(x, None, torch.ones(2, 3, 3)), made(x), atol=1e-6, rtol=1e-5)


def test_keys_are_the_mean_over_heads_and_without_gradient() -> None:
    made = TemporalAttention(8, 2)
    made.load_state_dict(seeded_state(made.state_dict(), 4))
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert made(x, "keys")[1].dtype == torch.float32
    out, keys = made(x, "keys")
    assert torch.equal(out, made(x)) and out.requires_grad and not keys.requires_grad
    own = (x @ made.in_proj_weight.T + made.in_proj_bias)[:, :, 1:, 8:16]
    torch.testing.assert_close(keys, (own[..., :4] + own[..., 4:]).detach() / 2)


def test_chance_depends_on_the_seed_in_training_only() -> None:
    model, x = tower(keep=KEEP, reduce="random"), video()

    def kept(seed: int) -> Tensor:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            return model.encode(x).survivors[0]

    before = torch.get_rng_state()
    assert torch.equal(kept(0), kept(1)) and torch.equal(kept(0)[0], kept(0)[1])
    with torch.no_grad():
        torch.testing.assert_close(model(x)[1:], model(x[1:]))  # whatever is in the batch
    assert torch.equal(before, torch.get_rng_state())
    model.train()
    assert torch.equal(kept(0), kept(0)) and not torch.equal(kept(0), kept(1))
    assert not torch.equal(kept(0)[0], kept(0)[1])
    with torch.no_grad():
        model(x)
    assert not torch.equal(before, torch.get_rng_state())


def test_chance_asks_no_attention_and_merging_no_score() -> None:
    for reduce in ("random", "merge"):
        with torch.no_grad():
            first, second = (tower(keep=KEEP, reduce=reduce, score=score)(video()) for score in get_args(Score))
        assert torch.equal(first, second)


# --- training, precision, cost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", KINDS)
def test_both_attentions_have_the_same_gradient_and_it_reaches_everything(reduce: Reduce) -> None:
    models = [tower(keep=(0.7, 0.3, 1.0), reduce=reduce, attention=attention).train() for attention in get_args(Kernel)]
    for model in models:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model(video()).square().sum().backward()
    for (name, a), (_, b) in zip(*(model.named_parameters() for model in models), strict=True):
        assert a.grad is not None and a.grad.isfinite().all() and a.grad.any(), name
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("attention", get_args(Kernel))
@pytest.mark.parametrize("boundary", get_args(Boundary))
@pytest.mark.parametrize("reduce", KINDS)
def test_half_precision_is_finite_and_trains(reduce: Reduce, boundary: Boundary, attention: Kernel) -> None:
    model, x = tower(keep=KEEP, reduce=reduce, boundary=boundary, attention=attention), video()
    with torch.no_grad():
        exact = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(x)
    assert rough.dtype == torch.bfloat16
    # Rounded scores may choose others; by far the most stay, and nothing becomes infinite.
    assert torch.cosine_similarity(exact, rough.detach().float(), dim=-1).median() > 0.99
    rough.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("reduce", KINDS)
@pytest.mark.parametrize("boundary", get_args(Boundary))
def test_a_forward_pass_that_runs_keeps_what_is_counted(reduce: Reduce, boundary: Boundary) -> None:
    config = VCLIPConfig(boundary=boundary, keep=(0.7, 0.3, 0.5, 1.0), reduce=reduce, attention="written")
    x = torch.randn(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = VideoTower(random_miniature(0).visual, config).train()
    with torch.random.fork_rng(devices=[]):
        ran = saved_bytes(model, x)
    assert ran == tower_cost("miniature", config, batch=2, frames=3).saved_bytes


@pytest.mark.parametrize("half", [False, True])
def test_all_kinds_cost_what_the_papers_does_and_a_little_for_themselves(half: bool) -> None:
    keep, width, dtype = (0.7, 0.6, 0.5, 1.0), 96, torch.bfloat16 if half else torch.float32
    before = torch.get_rng_state()
    for attention in ("written", "fused"):
        costs = {
            kind: tower_cost(
                "miniature", VCLIPConfig(keep=keep, reduce=kind), frames=2, dtype=dtype, attention=attention
            )  # type: ignore[arg-type]
            for kind in KINDS
        }
        paper, chances = costs["decay"], costs["random"]
        assert all(cost.tokens == paper.tokens == (65, 46, 28, 15) for cost in costs.values())
        assert all(cost.parameter_bytes == paper.parameter_bytes for cost in costs.values())
        assert chances.saved_bytes == paper.saved_bytes
        assert paper.flops - chances.flops == 2 * 2 * width * (65 + 46 + 28)  # the scores, of two frames
        assert costs["fuse"].flops == paper.flops
        # Its weights, of those fused: one float each, and the rows of all tokens instead of those of the kept.
        rest = [64 - 44, 45 - 26, 27 - 13]
        assert costs["fuse"].saved_bytes - paper.saved_bytes == 2 * sum(4 * n + 8 * (n - 1) for n in rest)
        assert paper.flops < costs["merge"].flops < 1.02 * paper.flops
        assert paper.saved_bytes < costs["merge"].saved_bytes < 1.1 * paper.saved_bytes
    assert torch.equal(before, torch.get_rng_state())


def test_a_budget_can_be_calibrated_for_other_kinds() -> None:
    keep = calibrate(0.8, "miniature", VCLIPConfig(reduce="merge"), frames=1)
    less, whole = (tower_cost("miniature", VCLIPConfig(reduce="merge", keep=k), frames=1) for k in (keep, ()))
    assert less.saved_bytes / whole.saved_bytes == pytest.approx(0.8, abs=0.01)


def test_a_wrong_kind_is_named() -> None:
    with pytest.raises(ConfigError, match=r"reduce 'prune'\. choose from decay, random, fuse, merge"):
        VCLIPConfig(reduce="prune")  # type: ignore[arg-type]
