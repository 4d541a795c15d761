"""Counted memory and work against sums by hand and against forward passes that really run."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from migcore.errors import ConfigError
from migcore.models.clip import random_miniature
from migcore.models.cost import PRINTED_RATIO, calibrate, saved_bytes, tower_cost
from migcore.models.vclip import TokenDecay, VCLIPConfig, VideoTower

# layers, width, heads, patches, pixels of a patch, side, embedding
SIZES = {"miniature": (4, 96, 3, 64, 8, 64, 64), "ViT-B-16": (12, 768, 12, 196, 16, 224, 512)}
CUTS = st.sampled_from([0.01, 0.3, 0.5, 0.7, 0.934])
SHARES = st.one_of(CUTS, st.just(1.0))
FUSED, WRITTEN = "fused", "written"


def tokens_by_hand(model: str, keep: tuple[float, ...]) -> list[int]:
    """Tokens that enter each block, and those that leave the last."""
    layers, patches = SIZES[model][0], SIZES[model][3]
    counts = [patches]
    for share in keep or (1.0,) * layers:
        counts.append(max(1, math.floor(share * counts[-1] + 0.5)))
    return [count + 1 for count in counts]


def bytes_by_hand(
    model: str, keep: tuple[float, ...] = (), span: int = 1, half: bool = False, attention: str = WRITTEN
) -> int:
    """What one frame leaves for the backward pass, tensor by tensor."""
    _, width, heads, _, _, side, _ = SIZES[model]
    tokens = tokens_by_hand(model, keep)
    views, size = 2 * span + 1, 2 if half else 4
    total = 3 * side * side * size  # the video, for the patches' weights
    total += tokens[0] * width * size + 2 * tokens[0] * 4  # the first norm: what it read, its mean and deviation
    for count in tokens[:-1]:
        stream = count * width * size
        total += 2 * (stream + 2 * count * 4)  # two norms
        total += stream  # the input of the packed projection
        total += (2 * views if span or attention == WRITTEN else 0) * stream  # keys and values of all frames in view
        if attention == WRITTEN:
            total += stream + heads * count * views * count * size  # scaled queries; similarities
        else:  # the packed projection, of which the queries are a part; one float per query
            total += 3 * stream + heads * 4 * (count if half else 32 * math.ceil(count / 32))
        total += stream  # the mixed values, into the output's projection
        total += stream + 3 * 4 * stream  # the MLP: its input; x, sigmoid(1.702x) and their product
    total += sum(cut(share, count, width, half) for share, count in zip(keep, tokens, strict=False) if share < 1)
    return total + tokens[-1] * width * size + 2 * 4 + width * size  # the last norm, and what is projected


@cache
def cut(share: float, tokens: int, width: int, half: bool) -> int:
    """What dropping tokens by itself keeps of a frame, run: the numbers of the survivors at least."""
    x = torch.zeros(1, 1, tokens, width, dtype=torch.bfloat16 if half else torch.float32, requires_grad=True)
    return saved_bytes(TokenDecay(share), x, torch.zeros(1, 1, tokens - 1))


def seeds(model: str, half: bool, attention: str) -> int:
    """A few bytes per call that a fused kernel keeps, drop-out or not."""
    return SIZES[model][0] * (24 if half else 16) if attention == FUSED else 0


def flops_by_hand(model: str, keep: tuple[float, ...] = (), span: int = 1) -> int:
    """Forward pass of one frame."""
    _, width, _, patches, pixels, _, embedding = SIZES[model]
    total = patches * width * 3 * pixels**2 + width * embedding
    shares = keep or (1.0,) * SIZES[model][0]
    for share, count in zip(shares, tokens_by_hand(model, keep)[:-1], strict=True):
        total += 12 * count * width**2 + 2 * count * (2 * span + 1) * count * width
        total += count * width if share < 1 else 0  # the scores
    return 2 * total


@cache
def tower(keep: tuple[float, ...], attention: str, span: int = 1, boundary: str = "zero") -> VideoTower:
    config = VCLIPConfig(span=span, boundary=boundary, keep=keep, attention=attention)  # type: ignore[arg-type]
    return VideoTower(random_miniature(0).visual, config).train()


@settings(max_examples=6, deadline=None)
@given(
    keep=st.one_of(st.just(()), st.tuples(SHARES, SHARES, SHARES, SHARES)),
    span=st.integers(0, 2),
    frames=st.integers(1, 3),
    batch=st.integers(1, 2),
    half=st.booleans(),
    attention=st.sampled_from([WRITTEN, FUSED]),
)
def test_counts_equal_the_sums_by_hand(
    keep: tuple[float, ...], span: int, frames: int, batch: int, half: bool, attention: str
) -> None:
    assume(span or frames * batch > 1 or attention == FUSED)  # one frame alone is not copied to be multiplied
    config = VCLIPConfig(span=span, keep=keep)
    dtype = torch.bfloat16 if half else torch.float32
    cost = tower_cost("miniature", config, batch=batch, frames=frames, dtype=dtype, attention=attention)  # type: ignore[arg-type]
    by_hand = batch * frames * bytes_by_hand("miniature", keep, span, half, attention)
    assert cost.saved_bytes == by_hand + seeds("miniature", half, attention)
    assert cost.flops == batch * frames * flops_by_hand("miniature", keep, span)
    assert list(cost.tokens) == tokens_by_hand("miniature", keep)[:-1]


@pytest.mark.parametrize("attention", [WRITTEN, FUSED])
def test_the_large_tower_equals_the_sums_by_hand(attention: str) -> None:
    cost = tower_cost(attention=attention)  # type: ignore[arg-type]
    assert cost.saved_bytes == 8 * bytes_by_hand("ViT-B-16", attention=attention) + seeds("ViT-B-16", False, attention)
    assert cost.flops == 8 * flops_by_hand("ViT-B-16")
    assert cost.parameter_bytes == 4 * 86_192_640  # of OpenAI's ViT-B/16, without the text tower
    assert cost.tokens == (197,) * 12


@pytest.mark.parametrize("keep", [(), (0.7, 0.6, 0.5, 1.0)])
@pytest.mark.parametrize("boundary", ["zero", "mask", "replicate"])
def test_a_forward_pass_that_runs_keeps_what_was_counted(keep: tuple[float, ...], boundary: str) -> None:
    video = torch.randn(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    config = VCLIPConfig(boundary=boundary, keep=keep)  # type: ignore[arg-type]
    ran = saved_bytes(tower(keep, WRITTEN, boundary=boundary), video)
    assert ran == tower_cost("miniature", config, batch=2, frames=3).saved_bytes


@pytest.mark.parametrize("keep", [(), (0.7, 0.6, 0.5, 1.0)])
def test_the_fused_kernel_that_runs_keeps_what_was_counted(keep: tuple[float, ...]) -> None:
    video = torch.randn(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    counted = tower_cost("miniature", VCLIPConfig(keep=keep), batch=2, frames=3, attention=FUSED).saved_bytes
    # CUDA's kernel for float32 rounds the queries up to 32 in what it keeps per query; the CPU's does not.
    rounding = sum(4 * 3 * 6 * (-count % 32) for count in tokens_by_hand("miniature", keep)[:-1])
    assert saved_bytes(tower(keep, FUSED), video) == counted - rounding - seeds("miniature", False, FUSED)


def test_tokens_are_those_of_a_forward_pass_that_runs() -> None:
    keep = (0.7, 0.6, 0.05, 1.0)
    with torch.no_grad():
        survivors = tower(keep, WRITTEN).encode(torch.zeros(1, 3, 2, 64, 64)).survivors
    tokens = tower_cost("miniature", VCLIPConfig(keep=keep)).tokens
    assert tokens == (65, *(kept.shape[-1] + 1 for kept in survivors[:-1])) == (65, 46, 28, 2)


@settings(max_examples=4, deadline=None)
@given(keep=st.tuples(CUTS, CUTS, CUTS), block=st.integers(0, 2), attention=st.sampled_from([WRITTEN, FUSED]))
def test_cost_never_falls_with_the_share_kept(keep: tuple[float, ...], block: int, attention: str) -> None:
    more = tuple(0.99 if i == block else share for i, share in enumerate(keep))
    less, most = (
        tower_cost("miniature", VCLIPConfig(keep=(*shares, 1.0)), frames=2, attention=attention)  # type: ignore[arg-type]
        for shares in (keep, more)
    )
    assert less.saved_bytes <= most.saved_bytes and less.flops <= most.flops
    assert (less.saved_bytes < most.saved_bytes) == (less.flops < most.flops) == (less.tokens != most.tokens)
    assert less.parameter_bytes == most.parameter_bytes


def test_keeping_all_costs_what_no_decay_does() -> None:
    plain, whole = (tower_cost("miniature", VCLIPConfig(keep=keep), frames=2) for keep in ((), (1.0,) * 4))
    assert whole == plain


def test_the_two_forms_of_attention_differ_in_memory_not_in_work() -> None:
    written, fused = (tower_cost("miniature", attention=a) for a in (WRITTEN, FUSED))  # type: ignore[arg-type]
    assert fused.saved_bytes < written.saved_bytes and fused.flops == written.flops
    for asked in (WRITTEN, FUSED):  # what the config says decides nothing
        assert tower_cost("miniature", VCLIPConfig(attention=asked)) == written  # type: ignore[arg-type]


def test_a_storage_is_counted_once_and_whole_and_parameters_not() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = x * self.scale  # x, 40 bytes, and a parameter
            (kept * kept).sum()  # nothing comes of it, so that it is not kept
            (2 * kept).exp()
            one, other = kept[:3], kept[3:6]  # two parts of one tensor of 40 bytes
            return (one * other).sum()

    assert saved_bytes(Parts(), torch.ones(10)) == 80
    with torch.no_grad():  # as in training, wherever it is called
        assert saved_bytes(Parts(), torch.ones(10)) == 80
    assert saved_bytes(nn.Identity(), torch.ones(10)) == 0


def test_calibration_finds_the_nearest_of_a_thousand_shares() -> None:
    whole, tried = bytes_by_hand("miniature"), range(600, 1001)  # the rest is further away: less is kept
    ratios = {n: bytes_by_hand("miniature", (*[n / 1000] * 3, 1.0)) / whole for n in tried}
    assert ratios[600] < PRINTED_RATIO < ratios[1000]
    found = calibrate(model="miniature")
    assert len(found) == 4 and found[-1] == 1.0 and len(set(found[:-1])) == 1
    thousandths = round(found[0] * 1000)
    assert found[0] == thousandths / 1000
    nearest = min(abs(ratio - PRINTED_RATIO) for ratio in ratios.values())
    assert abs(ratios[thousandths] - PRINTED_RATIO) == nearest < 0.01


def test_calibration_reaches_its_ends_and_says_when_it_cannot() -> None:
    # A share that cuts nothing still costs the scores' order, so that 1 is reached from below.
    assert 0.95 <= calibrate(1.0, "miniature", frames=1)[0] <= 1
    least = bytes_by_hand("miniature", (0.001, 0.001, 0.001, 1.0)) / bytes_by_hand("miniature")
    for ratio in (least - 1e-6, 1.01):
        with pytest.raises(ConfigError, match=r"miniature reaches ratios from 0\.\d+ to 1"):
            calibrate(ratio, "miniature", frames=1)


def test_calibration_looks_at_everything_but_keep() -> None:
    found = calibrate(0.7, "miniature", VCLIPConfig(span=2, keep=(0.5,) * 4), frames=1, attention=FUSED)
    whole, less = (
        tower_cost("miniature", VCLIPConfig(span=2, keep=keep), frames=1, attention=FUSED).saved_bytes
        for keep in ((), found)
    )
    assert less / whole == pytest.approx(0.7, abs=0.01)


def test_wrong_input_is_named() -> None:
    for kwargs, message in (
        ({"model": "RN50"}, "'RN50'.*miniature, ViT-B-32"),
        ({"batch": 0}, "0 clips of 8 frames"),
        ({"frames": 0}, "1 clips of 0 frames"),
        ({"dtype": torch.int8}, r"int8.*bfloat16"),
        ({"attention": "auto"}, "'auto'.*written or fused"),
        ({"config": VCLIPConfig(keep=(0.5,) * 3)}, "3 blocks, in a tower of 4"),
    ):
        with pytest.raises(ConfigError, match=message):
            tower_cost(**{"model": "miniature", **kwargs})  # type: ignore[arg-type]
