"""Naive versions of the method: heat-maps, PoseC3D, CLIP, the video student, fusion and metrics.

Letters: B clips, M persons, T frames, V keypoints, E bones (or embedding, where said), L tokens, D width, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]

# --- heat-maps --------------------------------------------------------------------------------------------------------


def joint_heatmaps(
    keypoints: np.ndarray, scores: np.ndarray, size: tuple[int, int], *, sigma: float = 0.6
) -> np.ndarray:
    """:func:`migcore.heatmaps.joint_heatmaps`, pixel by pixel.

    Args:
        keypoints: [B, M, T, V, 2] (x, y), finite.
        scores: [B, M, T, V].
        size: (H, W).
        sigma: standard deviation in pixels.

    Returns:
        [B, V, T, H, W] of the keypoints' type.
    """
    batch, persons, frames, joints = scores.shape
    volume = np.zeros((batch, joints, frames, *size), keypoints.dtype)
    for b in range(batch):
        for t in range(frames):
            for v in range(joints):
                for m in range(persons):
                    _draw_dot(volume[b, v, t], keypoints[b, m, t, v], float(scores[b, m, t, v]), sigma)
    return volume


def limb_heatmaps(
    keypoints: np.ndarray,
    scores: np.ndarray,
    size: tuple[int, int],
    *,
    bones: Sequence[tuple[int, int]],
    sigma: float = 0.6,
) -> np.ndarray:
    """:func:`migcore.heatmaps.limb_heatmaps`, pixel by pixel; arguments as in :func:`joint_heatmaps`.

    Returns:
        [B, E, T, H, W], E bones.
    """
    batch, persons, frames, _ = scores.shape
    volume = np.zeros((batch, len(bones), frames, *size), keypoints.dtype)
    for b in range(batch):
        for t in range(frames):
            for e, (first, second) in enumerate(bones):
                for m in range(persons):
                    ends = keypoints[b, m, t, first], keypoints[b, m, t, second]
                    score = float(scores[b, m, t, first]), float(scores[b, m, t, second])
                    _draw_limb(volume[b, e, t], *ends, *score, sigma)
    return volume


def _draw_dot(plane: np.ndarray, centre: np.ndarray, score: float, sigma: float) -> None:
    """Draw one keypoint into [H, W], in place, where it is larger than what is there."""
    if not score >= 1e-3:
        return
    for y in _pixels(centre[1], centre[1], plane.shape[0], sigma):
        for x in _pixels(centre[0], centre[0], plane.shape[1], sigma):
            square = float((x - centre[0]) ** 2 + (y - centre[1]) ** 2)
            plane[y, x] = max(plane[y, x], score * math.exp(-square / (2 * sigma**2)))


def _draw_limb(plane: np.ndarray, a: np.ndarray, b: np.ndarray, score_a: float, score_b: float, sigma: float) -> None:
    """Draw one bone into [H, W], in place, where it is larger than what is there."""
    score = min(score_a, score_b)
    if not score_a >= 1e-3 or not score_b >= 1e-3:
        return
    length = float(((b - a) ** 2).sum())
    if length < 1:
        _draw_dot(plane, a, score_a, sigma)
        return
    for y in _pixels(min(a[1], b[1]), max(a[1], b[1]), plane.shape[0], sigma):
        for x in _pixels(min(a[0], b[0]), max(a[0], b[0]), plane.shape[1], sigma):
            pixel = np.array([x, y], np.float64)
            to_a, to_b = float(((pixel - a) ** 2).sum()), float(((pixel - b) ** 2).sum())
            u = (to_a - to_b + length) / (2 * length)
            if u <= 0:
                square = to_a
            elif u >= 1:
                square = to_b
            else:
                square = float(((pixel - (a + u * (b - a))) ** 2).sum())
            plane[y, x] = max(plane[y, x], score * math.exp(-square / (2 * sigma**2)))


def _pixels(low: np.floating, high: np.floating, length: int, sigma: float) -> range:
    """The published window along one axis; ``int`` cuts towards zero. In the type of the coordinates."""
    reach = low.dtype.type(3 * sigma)
    return range(max(int(low - reach), 0), min(int(high + reach) + 1, length))


# --- PoseC3D ----------------------------------------------------------------------------------------------------------


def posec3d(state: State, volume: Tensor, *, series: bool = False) -> tuple[Tensor, Tensor]:
    """SlowOnly-50 and its head in evaluation mode, from a state dict with the publishers' names.

    Args:
        state: weights.
        volume: [B, V, T, H, W].
        series: the classifier sees the text embedding, not the feature.

    Returns:
        features [B, D, T', H', W'] and logits [B, C].
    """

    def conv_norm(x: Tensor, name: str, stride: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
        kernel = state[f"{name}.conv.weight"]
        x = F.conv3d(x, kernel, stride=stride, padding=[size // 2 for size in kernel.shape[2:]])
        mean, var = state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"]
        scale = state[f"{name}.bn.weight"] / torch.sqrt(var + 1e-5)
        return (x - mean.view(-1, 1, 1, 1)) * scale.view(-1, 1, 1, 1) + state[f"{name}.bn.bias"].view(-1, 1, 1, 1)

    x = torch.relu(conv_norm(volume, "backbone.conv1"))
    x = F.max_pool3d(x, (1, 3, 3), (1, 1, 1), (0, 1, 1))
    for stage in (1, 2, 3):
        block = 0
        while f"backbone.layer{stage}.{block}.conv1.conv.weight" in state:
            name = f"backbone.layer{stage}.{block}"
            stride = (1, 1, 1) if block else (2 if stage == 3 else 1, 2, 2)
            y = torch.relu(conv_norm(x, f"{name}.conv1"))
            y = torch.relu(conv_norm(y, f"{name}.conv2", stride))
            y = conv_norm(y, f"{name}.conv3")
            if f"{name}.downsample.conv.weight" in state:
                x = conv_norm(x, f"{name}.downsample", stride)
            x = torch.relu(x + y)
            block += 1
    pooled = x.flatten(2).mean(2)
    if series:
        pooled = _linear(state, "cls_head.fc_emb", pooled)
    return x, pooled @ state["cls_head.fc_cls.weight"].T + state["cls_head.fc_cls.bias"]


def posec3d_alignment(embedding: Tensor, text: Tensor, labels: Sequence[int], *, normalise: bool = False) -> float:
    """Second line of Eq. 6 without its minus sign, number by number, with the text of class j instead of sample i.

    Args:
        embedding: [B, E].
        text: [C, E].
        labels: B classes.
        normalise: bring each embedding to length 1 first, unless it is 0.
    """
    total = 0.0
    for i in range(embedding.shape[0]):
        mapped = [float(value) for value in embedding[i]]
        length = math.sqrt(sum(value**2 for value in mapped))
        if normalise and length > 0:
            mapped = [value / length for value in mapped]
        for j in range(text.shape[0]):
            y = 1 if labels[i] == j else 0
            total += y * sum((value - float(text[j, e])) ** 2 for e, value in enumerate(mapped))
    return total / embedding.shape[0]


# --- CLIP -------------------------------------------------------------------------------------------------------------


def clip_image(state: State, image: Tensor, *, head_width: int = 64) -> Tensor:
    """Embedding of one image by CLIP's vision transformer, from a state dict with OpenAI's names.

    Args:
        state: weights.
        image: [3, H, W], with mean and deviation of CLIP's pixels taken out.
        head_width: 64 in all published models.

    Returns:
        [E], not of length 1.
    """
    kernel = state["visual.conv1.weight"]
    patch = kernel.shape[-1]
    tokens = [state["visual.class_embedding"]]
    for top in range(0, image.shape[1], patch):
        for left in range(0, image.shape[2], patch):
            tokens.append((kernel * image[:, top : top + patch, left : left + patch]).sum((1, 2, 3)))
    x = torch.stack(tokens) + state["visual.positional_embedding"]
    x = _layer_norm(state, "visual.ln_pre", x)
    x = _transformer(state, "visual.transformer", x, head_width, causal=False)
    return _layer_norm(state, "visual.ln_post", x[0]) @ state["visual.proj"]


def clip_text(state: State, tokens: Tensor, *, head_width: int = 64) -> Tensor:
    """Embedding of one text by CLIP's text transformer; arguments and result as in :func:`clip_image`.

    Args:
        state: weights.
        tokens: [L] token numbers; the largest is the end of the text.
        head_width: 64 in all published models.
    """
    x = state["token_embedding.weight"][tokens] + state["positional_embedding"]
    x = _transformer(state, "transformer", x, head_width, causal=True)
    return _layer_norm(state, "ln_final", x)[int(tokens.argmax())] @ state["text_projection"]


def vclip_tower(
    state: State,
    video: Tensor,
    *,
    head_width: int = 64,
    span: int = 1,
    boundary: str = "zero",
    keep: Sequence[float] = (),
    score: str = "softmax",
) -> tuple[Tensor, Tensor, list[list[list[int]]]]:
    """The video tower with token decay, frame by frame, from a state dict with OpenAI's names (without "visual.").

    Args:
        state: weights.
        video: [3, T, H, W], with mean and deviation of CLIP's pixels taken out.
        head_width: 64 in all published models.
        span, boundary, keep, score: as in :class:`migcore.models.vclip.VCLIPConfig`.

    Returns:
        frame embeddings [T, E], not of length 1; tokens [T, L, D] of the last block; and for each block, for each
        frame, the numbers of the patches that went on.
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
    alive = [list(range(len(x[0]) - 1)) for _ in range(frames)]
    survivors = []
    block = 0
    while f"transformer.resblocks.{block}.ln_1.weight" in state:
        at = f"transformer.resblocks.{block}"
        mixed, scores = _attention_over_frames(
            state, f"{at}.attn", [_layer_norm(state, f"{at}.ln_1", own) for own in x], head_width, span, boundary, score
        )
        for t in range(frames):
            x[t] = x[t] + mixed[t]
            hidden = _linear(state, f"{at}.mlp.c_fc", _layer_norm(state, f"{at}.ln_2", x[t]))
            x[t] = x[t] + _linear(state, f"{at}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))
            if keep:
                whole, rest = divmod(keep[block] * len(alive[t]), 1)
                count = max(1, int(whole) + (rest >= 0.5))
                best = sorted(range(len(alive[t])), key=lambda n: (-scores[t][n], n))[:count]
                x[t] = torch.stack([x[t][0], *(x[t][n + 1] for n in sorted(best))])
                alive[t] = [alive[t][n] for n in sorted(best)]
        survivors.append([list(numbers) for numbers in alive])
        block += 1
    embeddings = [_layer_norm(state, "ln_post", own[0]) @ state["proj"] for own in x]
    return torch.stack(embeddings), torch.stack(x), survivors


def _attention_over_frames(
    state: State, name: str, x: Sequence[Tensor], head_width: int, span: int, boundary: str, score: str
) -> tuple[list[Tensor], list[list[float]]]:
    """Attention of each frame's [L, D] over its neighbours, query by query; and the scores of its patches."""
    tokens, width = x[0].shape
    q, k, v = zip(
        *((own @ state[f"{name}.in_proj_weight"].T + state[f"{name}.in_proj_bias"]).split(width, dim=-1) for own in x),
        strict=True,
    )
    mixed, scores = [], []
    for t in range(len(x)):
        keys, values = [], []
        for other in range(t - span, t + span + 1):
            if boundary == "replicate":
                other = min(max(other, 0), len(x) - 1)
            if 0 <= other < len(x):
                keys.append(k[other])
                values.append(v[other])
            elif boundary == "zero":
                keys.append(torch.zeros_like(k[t]))
                values.append(torch.zeros_like(v[t]))
        all_keys, all_values = torch.cat(keys), torch.cat(values)
        out = torch.zeros_like(x[t])
        looks = [0.0] * (tokens - 1)
        heads = range(0, width, head_width)
        for start in heads:
            head = slice(start, start + head_width)
            for i in range(tokens):
                similarity = torch.softmax(all_keys[:, head] @ q[t][i, head] / math.sqrt(head_width), dim=0)
                out[i, head] = similarity @ all_values[:, head]
            own = k[t][:, head] @ q[t][0, head] / math.sqrt(head_width)
            if score == "softmax":
                own = torch.softmax(own, dim=0)
            looks = [total + float(value) / len(heads) for total, value in zip(looks, own[1:], strict=True)]
        mixed.append(_linear(state, f"{name}.out_proj", out))
        scores.append(looks)
    return mixed, scores


def froster_logits(frames: Tensor, prompts: Tensor, logit_scale: float, *, pool: str = "frames") -> list[float]:
    """Similarity of one clip and each class (Eq. 1), number by number.

    Args:
        frames: [T, E] embeddings of its frames, of any length.
        prompts: [P, C, E] embeddings of the prompts, of any length.
        logit_scale: log of 1/τ.
        pool: as in :class:`migcore.models.froster.FrosterConfig`.

    Returns:
        C numbers.
    """

    def unit(x: list[float]) -> list[float]:
        length = math.sqrt(sum(value * value for value in x))
        return [value / length for value in x]

    def mean(rows: list[list[float]]) -> list[float]:
        return [sum(values) / len(rows) for values in zip(*rows, strict=True)]

    logits = []
    for c in range(prompts.shape[1]):
        text = unit(mean([unit(prompts[p, c].tolist()) for p in range(prompts.shape[0])]))
        seen = [unit(frame) for frame in frames.tolist()] if pool == "frames" else [unit(mean(frames.tolist()))]
        cosines = [sum(a * b for a, b in zip(frame, text, strict=True)) for frame in seen]
        logits.append(math.exp(logit_scale) * sum(cosines) / len(cosines))
    return logits


def distillation(student: Tensor, teacher: Tensor, kind: str) -> float:
    """Distance of two sets of features [N, E] (Eq. 3), row by row and number by number, averaged over rows.

    ``kind`` is as in :func:`migcore.models.froster.distillation_loss`.
    """
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        squares = sum((a - b) ** 2 for a, b in zip(s, t, strict=True))
        product = sum(a * b for a, b in zip(s, t, strict=True))
        lengths = math.sqrt(sum(a * a for a in s)) * math.sqrt(sum(b * b for b in t))
        total += {
            "l2": math.sqrt(squares),
            "sq_l2": squares,
            "mse": squares / len(s),
            "cosine": 1 - product / lengths,
            "none": 0.0,
        }[kind]
    return total / len(student)


def _layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def _transformer(state: State, name: str, x: Tensor, head_width: int, causal: bool) -> Tensor:
    """[L, D] through all blocks."""
    block = 0
    while f"{name}.resblocks.{block}.ln_1.weight" in state:
        at = f"{name}.resblocks.{block}"
        x = x + _attention(state, f"{at}.attn", _layer_norm(state, f"{at}.ln_1", x), head_width, causal)
        hidden = _linear(state, f"{at}.mlp.c_fc", _layer_norm(state, f"{at}.ln_2", x))
        x = x + _linear(state, f"{at}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))
        block += 1
    return x


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _attention(state: State, name: str, x: Tensor, head_width: int, causal: bool) -> Tensor:
    """Self-attention (Eq. 5), head by head and query by query."""
    tokens, width = x.shape
    q, k, v = (x @ state[f"{name}.in_proj_weight"].T + state[f"{name}.in_proj_bias"]).split(width, dim=-1)
    out = torch.zeros_like(x)
    for start in range(0, width, head_width):
        head = slice(start, start + head_width)
        for i in range(tokens):
            seen = i + 1 if causal else tokens
            similarity = torch.softmax(k[:seen, head] @ q[i, head] / math.sqrt(head_width), dim=0)
            out[i, head] = similarity @ v[:seen, head]
    return _linear(state, f"{name}.out_proj", out)


# --- numbers ----------------------------------------------------------------------------------------------------------


def fuse(logits: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Eq. 7 on probabilities, number by number: [N, C] per stream to [N, C]."""
    fused = np.zeros(logits[0].shape)
    for stream, weight in zip(logits, weights, strict=True):
        for n in range(stream.shape[0]):
            powers = [math.exp(float(value) - float(stream[n].max())) for value in stream[n]]
            for c in range(stream.shape[1]):
                fused[n, c] += weight * powers[c] / sum(powers)
    return fused


def classification(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-1, top-5 and both mean-class accuracies, clip by clip (see :func:`migcore.metrics.classification`)."""
    top1 = top5 = 0
    hits: dict[int, list[bool]] = {int(label): [] for label in labels}
    predicted: set[int] = set()
    for row, label in zip(logits, labels, strict=True):
        order = [c for _, c in sorted((-value, c) for c, value in enumerate(row))]
        top1 += order[0] == label
        top5 += label in order[:5]
        hits[int(label)].append(order[0] == label)
        predicted.add(order[0])
    recalls = {c: sum(found) / len(found) for c, found in hits.items()}
    return {
        "top1": top1 / len(labels),
        "top5": top5 / len(labels),
        "mean_class": sum(recalls.values()) / len(recalls),
        "mean_class_published": sum(recalls.values()) / len(predicted | set(recalls)),
    }
