"""Naive versions of DSCNet: its skeleton network, STMEM, the temporal shift, and the video stream on a ResNet.

Letters: T frames, S segments, V keypoints, H W pixels, D channels, C classes. In evaluation mode; one image at a time,
one tap of a kernel at a time.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def sparse_msst(state: State, x: Tensor) -> Tensor:
    """:class:`migcore.models.dscnet.SparseMSST`, person by person.

    Args:
        state: weights by its names, m1.conv1.0.weight … last_linear.bias.
        x: [B, P, 3, T, V].

    Returns:
        logits [B, C].
    """
    logits = []
    for clip in x:
        persons = []
        for y in clip:
            for number in range(1, 8):
                y = _block(state, f"m{number}", y, 2 if number == 5 else 1)
                if number in (3, 5):
                    y = _pool(y)
                    y = torch.relu(_norm(state, "avgpool.1" if number == 3 else "avgpool2.1", y))
            feature = y.flatten(1).sum(1) / (y.shape[1] * y.shape[2])
            persons.append(state["last_linear.weight"] @ feature + state["last_linear.bias"])
        logits.append(torch.stack(persons).sum(0) / len(persons))
    return torch.stack(logits)


def stmem(state: State, x: Tensor, window: int = 6) -> Tensor:
    """:class:`migcore.models.dscnet.STMEM` on one clip, segment by segment.

    Args:
        state: weights, m1.0.weight, m1.0.bias, m2.0.weight, m2.0.bias.
        x: [S · window · 3, H, W], by segment, then frame, then colour.
        window: frames of a segment.

    Returns:
        [S, 3, H, W].
    """
    images = []
    for start in range(0, x.shape[0], 3 * window):
        frames = [x[start + 3 * f : start + 3 * f + 3] for f in range(window)]
        steps = [frames[f + 1] - frames[f] for f in range(window - 1)]
        largest = steps[0]
        for step in steps[1:]:
            largest = torch.where(step > largest, step, largest)
        image = _conv(torch.cat(frames + steps), state["m1.0.weight"], (1, 1)) + _channels(state["m1.0.bias"])
        gate = _conv(largest, state["m2.0.weight"], (1, 1)) + _channels(state["m2.0.bias"])
        images.append(image / (1 + torch.exp(-gate)))
    return torch.stack(images)


def temporal_shift(x: Tensor, frames: int, moved: int) -> Tensor:
    """:func:`migcore.models.dscnet.temporal_shift`, channel by channel.

    Args:
        x: [N, D, H, W], the frames of a clip one after the other.
        frames: of a clip.
        moved: how many channels come from the frame after, and as many from the frame before.
    """
    out = torch.zeros_like(x)
    for n in range(x.shape[0]):
        t = n % frames
        for d in range(x.shape[1]):
            if d < moved:
                if t + 1 < frames:
                    out[n, d] = x[n + 1, d]
            elif d < 2 * moved:
                if t > 0:
                    out[n, d] = x[n - 1, d]
            else:
                out[n, d] = x[n, d]
    return out


def dense_stream(state: State, video: Tensor, *, segments: int, window: int = 6, shift_div: int = 8) -> Tensor:
    """:class:`migcore.models.dscnet.DenseStream` on one clip, with a plain ResNet of either kind of block.

    Args:
        state: weights by its names, the ResNet's as timm has them under "backbone.".
        video: [3, S · window, H, W], normalised.
        segments, window, shift_div: as in :class:`migcore.models.dscnet.DenseConfig`.

    Returns:
        logits [C].
    """
    frames_first = torch.stack([video[:, t] for t in range(segments * window)]).flatten(0, 1)
    own = {name.removeprefix("stmem."): tensor for name, tensor in state.items() if name.startswith("stmem.")}
    images = stmem(own, frames_first, window)
    x = [torch.relu(_norm(state, "backbone.bn1", _conv(i, state["backbone.conv1.weight"], (2, 2)))) for i in images]
    x = [_largest(image) for image in x]
    for layer in (1, 2, 3, 4):
        block = 0
        while f"backbone.layer{layer}.{block}.conv2.weight" in state:
            name = f"backbone.layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            shifted = temporal_shift(torch.stack(x), segments, x[0].shape[0] // shift_div)
            x = [_residual(state, name, *pair, stride) for pair in zip(x, shifted, strict=True)]
            block += 1
    total = torch.zeros_like(state["fc.bias"])
    for image in x:
        total = total + state["fc.weight"] @ image.mean((1, 2)) + state["fc.bias"]
    return total / segments


def _block(state: State, name: str, x: Tensor, stride: int) -> Tensor:
    """The four branches of one block, [D, T, V] → [D', T', V]; time is halved by the branch's last kernel over it."""
    outputs = []
    for branch in ("conv1", "conv3", "conv5", "conv7"):
        halving = 0 if branch == "conv1" else 3  # which of its convolutions
        y = x
        for place in (0, 3, 6):
            at = f"{name}.{branch}.{place}"
            if f"{at}.weight" in state:
                y = _conv(y, state[f"{at}.weight"], (stride if place == halving else 1, 1))
                y = y + _channels(state[f"{at}.bias"])
                y = torch.relu(_norm(state, f"{name}.{branch}.{place + 1}", y))
        outputs.append(y)
    return torch.cat(outputs)


def _residual(state: State, name: str, x: Tensor, shifted: Tensor, stride: int) -> Tensor:
    """One residual block on an image, whose first convolution sees the shifted channels."""
    bottleneck = f"{name}.conv3.weight" in state
    strides = (1, stride) if bottleneck else (stride, 1)
    y = _conv(shifted, state[f"{name}.conv1.net.weight"], (strides[0], strides[0]))
    y = torch.relu(_norm(state, f"{name}.bn1", y))
    y = _norm(state, f"{name}.bn2", _conv(y, state[f"{name}.conv2.weight"], (strides[1], strides[1])))
    if bottleneck:
        y = _norm(state, f"{name}.bn3", _conv(torch.relu(y), state[f"{name}.conv3.weight"], (1, 1)))
    if f"{name}.downsample.0.weight" in state:
        x = _norm(state, f"{name}.downsample.1", _conv(x, state[f"{name}.downsample.0.weight"], (stride, stride)))
    return torch.relu(x + y)


def _conv(x: Tensor, kernel: Tensor, stride: tuple[int, int]) -> Tensor:
    """Convolution of [D, H, W] with [D', D, h, w], zeros around it, without bias: the sum over the kernel's taps."""
    seen = _taps(x, (kernel.shape[2], kernel.shape[3]), stride, 0.0)
    total = torch.zeros(kernel.shape[0], *seen[0][1].shape[1:])
    for (i, j), pixels in seen:
        total = total + torch.einsum("od,dhw->ohw", kernel[:, :, i, j], pixels)
    return total


def _pool(x: Tensor) -> Tensor:
    """Mean of 3×3 with every second column kept; the zeros around count."""
    return torch.stack([seen for _, seen in _taps(x, (3, 3), (1, 2), 0.0)]).sum(0) / 9


def _largest(x: Tensor) -> Tensor:
    """Largest of 3×3, every second row and column kept."""
    return torch.stack([seen for _, seen in _taps(x, (3, 3), (2, 2), -torch.inf)]).max(0).values


def _taps(
    x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], outside: float
) -> list[tuple[tuple[int, int], Tensor]]:
    """What each tap of a kernel sees of [D, H, W] that is surrounded by ``outside``."""
    up, left = kernel[0] // 2, kernel[1] // 2
    depth, height, width = x.shape
    around = torch.full((depth, height + 2 * up, width + 2 * left), outside)
    around[:, up : up + height, left : left + width] = x
    return [
        ((i, j), around[:, i : i + height : stride[0], j : j + width : stride[1]])
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    """Batch normalisation of [D, H, W] by the running mean and variance."""
    mean, var = _channels(state[f"{name}.running_mean"]), _channels(state[f"{name}.running_var"])
    return (x - mean) / torch.sqrt(var + 1e-5) * _channels(state[f"{name}.weight"]) + _channels(state[f"{name}.bias"])


def _channels(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)
