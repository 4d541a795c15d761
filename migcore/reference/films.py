"""Naive versions of TRN and of Frozen CLIP's decoder (EVL).

Letters: B or N clips, T frames, L tokens of a frame, P patches, D width, h heads, C classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def trn_relations(
    state: State, x: Tensor, *, subsets: int = 3, multiscale: bool = True, mean: bool = False
) -> list[list[float]]:
    """TRN's expected answer, one set of frames after another.

    Args:
        state: ``fc_fusion_scales.{i}.{1,3}.*`` or ``classifier.{1,3}.*``.
        x: [B, T, D].
        subsets: sets that a scale counts as, at most.
        multiscale: scales T … 2, or T alone.
        mean: divide by the number of terms.

    Returns:
        B lists of C numbers.
    """
    frames = x.shape[1]
    scales = range(frames, 1, -1) if multiscale else [frames]
    answers = []
    for clip in x:
        total, terms = torch.zeros(()), 0
        for number, scale in enumerate(scales):
            name = f"fc_fusion_scales.{number}" if multiscale else "classifier"
            chosen = list(itertools.combinations(range(frames), scale))
            count = min(subsets, len(chosen))
            for picked in chosen:
                line = [max(float(v), 0.0) for t in picked for v in clip[t]]
                hidden = (state[f"{name}.1.weight"] @ torch.tensor(line) + state[f"{name}.1.bias"]).clamp_min(0)
                logits = state[f"{name}.3.weight"] @ hidden + state[f"{name}.3.bias"]
                total = total + logits * (count / len(chosen))
            terms += count
        answers.append((total / terms if mean else total).tolist())
    return answers


def evl_decoder(state: State, features: Sequence[Mapping[str, Tensor]], grid: tuple[int, int]) -> Tensor:
    """EVL's decoder on one clip, pair of patches by pair of patches.

    Args:
        state: the decoder's; what it lacks of the convolution, the place in time and the neighbours adds nothing.
        features: of each block, "out" [T, L, D], "q" and "k" [T, L, h, d].
        grid: (h, w) of the patches.

    Returns:
        [D].
    """
    x = state["cls_token"]
    for i, block in enumerate(features):
        y = _with_time(state, i, block, grid)
        name = f"decoder_layers.{i}"
        tokens = [_norm(state, f"{name}.norm3", token) for frame in y for token in frame]
        query = _linear(state, f"{name}.attn.q_proj", _norm(state, f"{name}.norm1", x))
        keys = [_linear(state, f"{name}.attn.k_proj", token) for token in tokens]
        values = [_linear(state, f"{name}.attn.v_proj", token) for token in tokens]
        heads = block["q"].shape[2]
        size = len(x) // heads
        mixed = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            weights = _soft_max([float(query[part] @ key[part]) / math.sqrt(size) for key in keys])
            mixed.append(sum(w * value[part] for w, value in zip(weights, values, strict=True)))
        x = x + _linear(state, f"{name}.attn.out_proj", torch.cat(mixed))  # type: ignore[arg-type]
        hidden = _linear(state, f"{name}.mlp.fc1", _norm(state, f"{name}.norm2", x))
        hidden = torch.tensor([float(v) / (1 + math.exp(-1.702 * float(v))) for v in hidden])
        x = x + _linear(state, f"{name}.mlp.fc2", hidden)
    return x


def _with_time(state: State, i: int, block: Mapping[str, Tensor], grid: tuple[int, int]) -> list[list[Tensor]]:
    """The tokens of a block, with what the convolution, the place in time and the neighbours add."""
    out, frames, tokens = block["out"], block["out"].shape[0], block["out"].shape[1]
    kernel = state.get(f"temporal_conv.{i}.weight")
    made = []
    for t in range(frames):
        row = []
        for token in range(tokens):
            value = out[t, token]
            if kernel is not None:
                value = value + state[f"temporal_conv.{i}.bias"]
                for step in (-1, 0, 1):
                    if 0 <= t + step < frames:
                        value = value + kernel[:, 0, step + 1] * out[t + step, token]
            if f"temporal_pos_embed.{i}" in state:
                value = value + state[f"temporal_pos_embed.{i}"][t]
            if token > 0 and f"cross_attention.{i}.w1" in state:
                for step, table in ((-1, "w1"), (1, "w2")):
                    if 0 <= t + step < frames:
                        value = value + _motion(state[f"cross_attention.{i}.{table}"], block, t, t + step, token, grid)
            row.append(value)
        made.append(row)
    return made


def _motion(
    table: Tensor, block: Mapping[str, Tensor], t: int, other: int, token: int, grid: tuple[int, int]
) -> Tensor:
    """The learned vectors of the places in another frame that a patch points to."""
    q, k = block["q"][t, token], block["k"][other]
    heads, size = q.shape
    patches = range(1, k.shape[0])
    over_heads = [_soft_max([float(q[h] @ k[p, h]) / math.sqrt(size) for p in patches]) for h in range(heads)]
    total = torch.zeros(table.shape[1])
    for p in patches:
        weight = sum(weights[p - 1] for weights in over_heads) / heads
        (row_q, column_q), (row_k, column_k) = divmod(token - 1, grid[1]), divmod(p - 1, grid[1])
        place = (row_q - row_k + grid[0] - 1) * (2 * grid[1] - 1) + column_q - column_k + grid[1] - 1
        total = total + weight * table[place]
    return total


def _soft_max(values: Sequence[float]) -> list[float]:
    powers = [math.exp(v - max(values)) for v in values]
    return [p / sum(powers) for p in powers]


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return state[f"{name}.weight"] @ x + state[f"{name}.bias"]


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    apart = x - x.mean()
    return apart / torch.sqrt((apart**2).mean() + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]
