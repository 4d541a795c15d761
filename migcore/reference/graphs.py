"""Naive versions of ST-GCN and Hyperformer: one clip, one person, one frame and one keypoint at a time.

Letters: N clips, M persons, T frames, V keypoints, K sets of neighbours, D channels, C classes. In evaluation mode. A
person's map is [T, V, D] here, channels last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Bones = Sequence[tuple[int, int]]


def hops(num_joints: int, bones: Bones) -> list[list[float]]:
    """:func:`migcore.models.stgcn.hops`: from each keypoint outwards, step by step."""
    distances = []
    for start in range(num_joints):
        found = {start: 0.0}
        edge = [start]
        while edge:
            reached = []
            for v in edge:
                for a, b in bones:
                    for here, there in ((a, b), (b, a)):
                        if here == v and there not in found:
                            found[there] = found[v] + 1
                            reached.append(there)
            edge = reached
        distances.append([found.get(v, math.inf) for v in range(num_joints)])
    return distances


def adjacency(num_joints: int, bones: Bones, *, centre: int, partition: str) -> Tensor:
    """:func:`migcore.models.stgcn.adjacency`, entry by entry: [K, V, V], from row to column."""
    neighbours: list[set[int]] = [{v} for v in range(num_joints)]
    for a, b in bones:
        neighbours[a].add(b)
        neighbours[b].add(a)
    radius = hops(num_joints, bones)[centre]
    if partition == "published":
        radius = [r if r <= 1 else math.inf for r in radius]
    matrices = torch.zeros(3, num_joints, num_joints)
    for to in range(num_joints):
        for source in neighbours[to]:
            if source == to:
                chosen = 0
            elif radius[source] == radius[to]:
                chosen = 1 if partition == "published" else 0
            else:
                chosen = 1 if radius[source] > radius[to] else 2
            matrices[chosen, source, to] = 1 / len(neighbours[to])
    return matrices


# --- ST-GCN -----------------------------------------------------------------------------------------------------------


def stgcn(state: State, x: Tensor) -> Tensor:
    """:class:`migcore.models.stgcn.STGCN`, person by person, from a state dict with the publishers' names.

    Args:
        state: weights and A.
        x: [N, C, T, V, M].

    Returns:
        logits [N, C].
    """
    logits = []
    for clip in x:
        features = []
        for m in range(clip.shape[-1]):
            y = clip[..., m].permute(1, 2, 0)  # [T, V, C]
            frames = [_norm(state, "data_bn", frame.reshape(-1)).view(frame.shape) for frame in y]
            y = torch.stack(frames)
            for block in range(10):
                y = _stgcn_block(state, block, y)
            features.append(y.flatten(0, 1).mean(0))
        mean = torch.stack(features).mean(0)
        logits.append(state["fcn.weight"][:, :, 0, 0] @ mean + state["fcn.bias"])
    return torch.stack(logits)


def _stgcn_block(state: State, block: int, x: Tensor) -> Tensor:
    name = f"st_gcn_networks.{block}"
    stride = 2 if block in (4, 7) else 1
    weights = state["A"] * state[f"edge_importance.{block}"]
    kernel, bias = state[f"{name}.gcn.conv.weight"][:, :, 0, 0], state[f"{name}.gcn.conv.bias"]
    width = len(bias) // 3
    y = torch.zeros(*x.shape[:2], width)
    for k in range(3):
        own = x @ kernel[k * width : (k + 1) * width].T + bias[k * width : (k + 1) * width]
        for source in range(x.shape[1]):
            for to in range(x.shape[1]):
                y[:, to] += weights[k, source, to] * own[:, source]
    y = torch.relu(_norm(state, f"{name}.tcn.0", y))
    y = _over_time(y, state[f"{name}.tcn.2.weight"], state[f"{name}.tcn.2.bias"], stride)
    y = _norm(state, f"{name}.tcn.3", y)
    if f"{name}.residual.0.weight" in state:
        skipped = _over_time(x, state[f"{name}.residual.0.weight"], state[f"{name}.residual.0.bias"], stride)
        y = y + _norm(state, f"{name}.residual.1", skipped)
    elif block > 0:
        y = y + x
    return torch.relu(y)


# --- Hyperformer ------------------------------------------------------------------------------------------------------


def hyperformer(state: State, x: Tensor, *, bones: Bones, joint_groups: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """:class:`migcore.models.hyperformer.Hyperformer`, person by person, from a state dict with the publishers' names.

    Args:
        state: weights.
        x: [N, C, T, V, M].
        bones: pairs of keypoints.
        joint_groups: the part of each keypoint.

    Returns:
        logits [N, C], and for each unit the soft-max [N · M, heads, T, V, V].
    """
    distances = hops(x.shape[3], bones)
    logits, maps = [], []
    for clip in x:
        placed = []
        for frame in clip.permute(1, 3, 2, 0):  # [M, V, C]
            placed.append(_norm(state, "data_bn", frame.reshape(-1)).view(frame.shape))
        total = torch.zeros_like(state["fc.bias"])
        for m in range(clip.shape[-1]):
            y, looks = torch.stack([frame[m] for frame in placed]), []
            number = 1
            while f"l{number}.vit1.attn.alpha" in state:
                y, look = _hyperformer_unit(state, number, y, distances, joint_groups)
                looks.append(look)
                number += 1
            total = total + state["fc.weight"] @ y.mean((0, 1)) + state["fc.bias"]
            maps.append(looks)
        logits.append(total / clip.shape[-1])
    return torch.stack(logits), [torch.stack(unit) for unit in zip(*maps, strict=True)]


def _hyperformer_unit(
    state: State, number: int, x: Tensor, distances: list[list[float]], joint_groups: Sequence[int]
) -> tuple[Tensor, Tensor]:
    name, stride = f"l{number}", 2 if number in (5, 8) else 1
    mixed, looks = [], []
    for frame in x:
        y, look = _attend(state, f"{name}.vit1", frame, distances, joint_groups)
        skipped = frame
        if f"{name}.vit1.skip_proj.weight" in state:
            skipped = frame @ state[f"{name}.vit1.skip_proj.weight"][:, :, 0, 0].T
        mixed.append(skipped + y)
        looks.append(look)
    y = _branches(state, f"{name}.tcn1.branches", torch.stack(mixed), stride)
    if f"{name}.residual.conv.weight" in state:
        x = _conv_norm(state, f"{name}.residual", x, stride)
    return torch.relu(y + x), torch.stack(looks, dim=1)


def _attend(
    state: State, name: str, x: Tensor, distances: list[list[float]], joint_groups: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """One frame [V, D] → [V, width] and the soft-max [heads, V, V], query by query and key by key."""
    joints = len(x)
    heads, d = state[f"{name}.attn.w1"].shape
    width = heads * d

    def times(what: str, y: Tensor) -> Tensor:
        return y @ state[f"{name}.{what}.weight"][:, :, 0, 0].T

    parts = {}
    for part in set(joint_groups):
        members = [x[v] for v in range(joints) if joint_groups[v] == part]
        parts[part] = times("pe_proj", sum(members, torch.zeros_like(x[0])) / len(members))
    centred = x - x.mean(1, keepdim=True)
    normed = centred / torch.sqrt((centred**2).mean(1, keepdim=True) + 1e-5)
    normed = normed * state[f"{name}.norm1.weight"] + state[f"{name}.norm1.bias"]
    q, kv = times("attn.q", normed), times("attn.kv", normed)
    k, v = kv[:, :width], kv[:, width:]
    out, looks = torch.zeros(joints, width), torch.zeros(heads, joints, joints)
    for h in range(heads):
        head = slice(h * d, (h + 1) * d)
        for i in range(joints):
            logits = torch.zeros(joints)
            for j in range(joints):
                e = parts[joint_groups[j]][head]
                far = state[f"{name}.attn.rpe"][int(distances[i][j])][head]
                logits[j] = (
                    q[i, head] @ k[j, head] + q[i, head] @ far + q[i, head] @ e + state[f"{name}.attn.w1"][h] @ e
                )
            looks[h, i] = torch.softmax(logits / math.sqrt(d), 0)
            for j in range(joints):
                weight = state[f"{name}.attn.alpha"] * looks[h, i, j] + state[f"{name}.attn.outer"][h, i, j]
                out[i, head] += weight * v[j, head]
    kernel, groups = state[f"{name}.attn.proj.weight"][:, :, 0, 0], 6
    step = width // groups
    pieces = [out[:, g * step : (g + 1) * step] @ kernel[g * step : (g + 1) * step].T for g in range(groups)]
    return torch.cat(pieces, 1) + state[f"{name}.attn.proj.bias"], looks


def _branches(state: State, name: str, x: Tensor, stride: int) -> Tensor:
    outputs = []
    for branch in range(3):
        at = f"{name}.{branch}"
        y = _over_time(x, state[f"{at}.0.weight"], state[f"{at}.0.bias"], 1)
        y = torch.relu(_norm(state, f"{at}.1", y))
        if branch < 2:
            outputs.append(_conv_norm(state, f"{at}.3", y, stride, dilation=branch + 1))
        else:
            largest = [
                torch.stack([y[s] for s in (t - 1, t, t + 1) if 0 <= s < len(y)]).max(0).values
                for t in range(0, len(y), stride)
            ]
            outputs.append(_norm(state, f"{at}.4", torch.stack(largest)))
    last = _over_time(x, state[f"{name}.3.0.weight"], state[f"{name}.3.0.bias"], stride)
    outputs.append(_norm(state, f"{name}.3.1", last))
    return torch.cat(outputs, -1)


def _conv_norm(state: State, name: str, x: Tensor, stride: int, dilation: int = 1) -> Tensor:
    return _norm(
        state,
        f"{name}.bn",
        _over_time(x, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"], stride, dilation),
    )


# --- both -------------------------------------------------------------------------------------------------------------


def _over_time(x: Tensor, kernel: Tensor, bias: Tensor, stride: int, dilation: int = 1) -> Tensor:
    """Convolution of [T, V, D] over T with [D', D, taps, 1], zeros around it, every ``stride``-th frame of it."""
    taps = kernel.shape[2]
    frames = []
    for t in range(0, len(x), stride):
        total = bias.expand(x.shape[1], -1)
        for tap in range(taps):
            seen = t + dilation * (tap - taps // 2)
            if 0 <= seen < len(x):
                total = total + x[seen] @ kernel[:, :, tap, 0].T
        frames.append(total)
    return torch.stack(frames)


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    """Batch normalisation of the last axis by the running mean and variance."""
    centred = x - state[f"{name}.running_mean"]
    scale = state[f"{name}.weight"] / torch.sqrt(state[f"{name}.running_var"] + 1e-5)
    return centred * scale + state[f"{name}.bias"]
