"""Naive versions of token reduction: one frame at a time, each token with the list of what went into it.

Letters: T frames, L tokens of a frame, n patches that come in, k that go on, N patches at first, D width, d channels of
a key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from migcore.reference.method import _layer_norm, _linear

State = Mapping[str, Tensor]
Members = list[list[int]]
"""For each token but [cls], the patches that it is made of."""


def cut(x: Tensor, scores: Sequence[float], k: int) -> tuple[Tensor, Members]:
    """:func:`migcore.models.reduction.cut`, one frame.

    Args:
        x: [1 + n, D].
        scores: n numbers.
        k: how many to keep.

    Returns:
        [1 + k, D], and the patch that each of the k is.
    """
    best = sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k])
    return torch.stack([x[0], *(x[1 + i] for i in best)]), [[i] for i in best]


def fuse(x: Tensor, scores: Sequence[float], k: int) -> tuple[Tensor, Members]:
    """:func:`migcore.models.reduction.fuse`, one frame; arguments and result as of :func:`cut`."""
    if k == len(scores):
        return x, [[i] for i in range(k)]
    kept, members = cut(x, scores, k - 1) if k > 1 else (x[:1], [])
    rest = [i for i in range(len(scores)) if [i] not in members]
    total = sum(scores[i] for i in rest)
    fused = torch.zeros_like(x[0])
    for i in rest:
        fused = fused + (scores[i] / total if total > 0 else 1 / len(rest)) * x[1 + i]
    return torch.cat([kept, fused[None]]), [*members, rest]


def merge(x: Tensor, keys: Tensor, sizes: Sequence[int], k: int) -> tuple[Tensor, Members, list[int]]:
    """:func:`migcore.models.reduction.merge`, one frame.

    Args:
        x: [1 + n, D].
        keys: [n, d].
        sizes: n numbers.
        k: how many to leave.

    Returns:
        [1 + k, D]; the patches in each of the k; their sizes.
    """
    tokens = [_Token(x[1 + i], keys[i], sizes[i], [i]) for i in range(len(keys))]
    while len(tokens) > k:
        sources, destinations = tokens[1::2], tokens[0::2]
        edges = []
        for number, source in enumerate(sources):
            alike = [float(torch.cosine_similarity(source.key, other.key, dim=0)) for other in destinations]
            best = max(range(len(alike)), key=lambda i: (alike[i], -i))
            edges.append((-alike[best], number, best))
        merged = sorted(edges)[: len(tokens) - k]
        for number, destination in enumerate(destinations):
            group = [destination, *(sources[source] for _, source, to in merged if to == number)]
            destinations[number] = _joined(group)
        gone = [source for _, source, _ in merged]
        tokens = [source for number, source in enumerate(sources) if number not in gone] + destinations
    made = torch.stack([x[0], *(token.x for token in tokens)])
    return made, [sorted(token.members) for token in tokens], [token.size for token in tokens]


class _Token(NamedTuple):
    x: Tensor
    key: Tensor
    size: int
    members: list[int]


def _joined(group: list[_Token]) -> _Token:
    """Several tokens as one: means weighted by size."""
    size = sum(token.size for token in group)
    x, key = torch.zeros_like(group[0].x), torch.zeros_like(group[0].key)
    for token in group:
        x, key = x + token.x * token.size / size, key + token.key * token.size / size
    return _Token(x, key, size, [i for token in group for i in token.members])


def reduced_tower(
    state: State,
    video: Tensor,
    *,
    reduce: str,
    keep: Sequence[float],
    score: str = "softmax",
    head_width: int = 64,
    span: int = 1,
    boundary: str = "zero",
) -> tuple[Tensor, Tensor, list[list[Members]]]:
    """The video tower with any token reduction, in evaluation mode, from a state dict with OpenAI's names.

    Args:
        state: weights, without "visual.".
        video: [3, T, H, W], with mean and deviation of CLIP's pixels taken out.
        reduce, keep, score, span, boundary: as in :class:`migcore.models.vclip.VCLIPConfig`.
        head_width: channels of a head.

    Returns:
        frame embeddings [T, E], not of length 1; tokens [T, L, D] of the last block; and for each block, for each
        frame, of which of the N patches each token is made.
    """
    kernel, frames = state["conv1.weight"], video.shape[1]
    patch = kernel.shape[-1]
    x = []
    for t in range(frames):
        tokens = [state["class_embedding"]]
        for top in range(0, video.shape[2], patch):
            for left in range(0, video.shape[3], patch):
                tokens.append((kernel * video[:, t, top : top + patch, left : left + patch]).sum((1, 2, 3)))
        x.append(_layer_norm(state, "ln_pre", torch.stack(tokens) + state["positional_embedding"]))
    patches = len(x[0]) - 1
    members: list[Members] = [[[i] for i in range(patches)] for _ in range(frames)]
    history = []
    for block, share in enumerate(keep):
        at = f"transformer.resblocks.{block}"
        normed = [_layer_norm(state, f"{at}.ln_1", own) for own in x]
        # A token made by merging stands for as many keys as it has patches, as if all were there and alike.
        times = [[1] + [len(group) if reduce == "merge" else 1 for group in groups] for groups in members]
        mixed, scores, keys = _attention(state, f"{at}.attn", normed, times, head_width, span, boundary, score)
        chances = torch.rand(frames, len(members[0]), generator=torch.Generator().manual_seed(block)).tolist()
        for t in range(frames):
            x[t] = x[t] + mixed[t]
            hidden = _linear(state, f"{at}.mlp.c_fc", _layer_norm(state, f"{at}.ln_2", x[t]))
            x[t] = x[t] + _linear(state, f"{at}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))
            whole, rest = divmod(share * len(members[t]), 1)
            k = max(1, int(whole) + (rest >= 0.5))
            if reduce == "merge":
                x[t], joined, _ = merge(x[t], keys[t], [len(group) for group in members[t]], k)
            elif reduce == "fuse":
                weights = scores[t] if score == "softmax" else [math.exp(value) for value in scores[t]]
                x[t], joined = fuse(x[t], weights, k)
            else:
                x[t], joined = cut(x[t], chances[t] if reduce == "random" else scores[t], k)
            members[t] = [sorted(n for i in group for n in members[t][i]) for group in joined]
        history.append([list(groups) for groups in members])
    embeddings = [_layer_norm(state, "ln_post", own[0]) @ state["proj"] for own in x]
    return torch.stack(embeddings), torch.stack(x), history


def _attention(
    state: State,
    name: str,
    x: Sequence[Tensor],
    times: Sequence[Sequence[int]],
    head_width: int,
    span: int,
    boundary: str,
    score: str,
) -> tuple[list[Tensor], list[list[float]], list[Tensor]]:
    """Attention of each frame's [L, D] over its neighbours, in which each key stands as often as ``times`` says.

    Returns:
        for each frame the mixed values [L, D], the scores of its patches, and their keys [L - 1, d], mean over heads.
    """
    tokens, width = x[0].shape
    q, k, v = zip(
        *((own @ state[f"{name}.in_proj_weight"].T + state[f"{name}.in_proj_bias"]).split(width, dim=-1) for own in x),
        strict=True,
    )
    heads = [slice(start, start + head_width) for start in range(0, width, head_width)]
    mixed, scores, mean_keys = [], [], []
    for t in range(len(x)):
        keys, values = [], []
        for other in range(t - span, t + span + 1):
            if boundary == "replicate":
                other = min(max(other, 0), len(x) - 1)
            if 0 <= other < len(x):
                for i in range(tokens):
                    keys += [k[other][i]] * times[other][i]
                    values += [v[other][i]] * times[other][i]
            elif boundary == "zero":
                keys += [torch.zeros(width)] * sum(times[t])
                values += [torch.zeros(width)] * sum(times[t])
        out, looks = torch.zeros_like(x[t]), torch.zeros(tokens - 1)
        for head in heads:
            for i in range(tokens):
                similarity = torch.stack(keys)[:, head] @ q[t][i, head] / math.sqrt(head_width)
                out[i, head] = torch.softmax(similarity, dim=0) @ torch.stack(values)[:, head]
            own = k[t][:, head] @ q[t][0, head] / math.sqrt(head_width)
            looks += (torch.softmax(own, dim=0) if score == "softmax" else own)[1:] / len(heads)
        mixed.append(_linear(state, f"{name}.out_proj", out))
        scores.append(looks.tolist())
        mean_keys.append(torch.stack([k[t][1:, head] for head in heads]).sum(0) / len(heads))
    return mixed, scores, mean_keys
