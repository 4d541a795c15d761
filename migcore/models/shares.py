"""A batch that several processes share: what is drawn for its clips, and its statistics, are those of the whole batch.

B clips of the whole batch. One process or several then compute the same: masks of dropout are drawn for all B clips by
every process, from generators in the same state, and each takes the rows of its own clips; batch norm takes mean and
variance over the clips of all. Without a share all of it is as in one process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Share:
    """The clips of a batch that this process has.

    Attributes:
        first: place of the first of them in the batch.
        clips: how many; 0 where the batch has fewer clips than there are processes. Then this one computes a clip of
            another along, since all have to meet, and it counts nowhere.
        total: B.
    """

    first: int
    clips: int
    total: int


_SHARE: ContextVar[Share | None] = ContextVar("share", default=None)


@contextlib.contextmanager
def sharing(share: Share | None) -> Iterator[None]:
    """Say, for the body, which clips of the batch this process has; None where it has them all."""
    token = _SHARE.set(share)
    try:
        yield
    finally:
        _SHARE.reset(token)


def drawn(shape: Sequence[int], draw: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
    """Random numbers for the clips of this process: those that one process would draw for them.

    Args:
        shape: [R, …] of what is wanted, the same number of rows for each clip, one clip after the other.
        draw: makes numbers of a shape; draws from generators that are in the same state in all processes.
    """
    share = _SHARE.get()
    if share is None or share.total == share.clips:
        return draw(tuple(shape))
    here = max(share.clips, 1)
    if shape[0] % here:
        raise ValueError(f"{shape[0]} rows are not those of {here} clips")
    rows = shape[0] // here
    whole = draw((rows * share.total, *shape[1:]))
    return whole[rows * share.first : rows * (share.first + here)]


class Dropout(nn.Dropout):
    """Dropout whose mask depends on a clip's place in the whole batch and not on who computes it."""

    def forward(self, input: Tensor) -> Tensor:  # torch's name of it
        if not self.training or self.p == 0:
            return input

        def mask(shape: tuple[int, ...]) -> Tensor:
            return torch.empty(shape, dtype=input.dtype, device=input.device).bernoulli_(1 - self.p)

        return input * drawn(input.shape, mask).div_(1 - self.p)


class _Sum(torch.autograd.Function):
    """Sum over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


@contextlib.contextmanager
def synchronised(model: nn.Module) -> Iterator[None]:
    """Batch norms of a model in training take their statistics over all processes, for the body."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.forward = partial(_over_all, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)


def _over_all(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Batch norm [N, D, …] in training, with the mean and variance of what all processes have."""
    if not norm.training:
        return type(norm).forward(norm, x)
    share = _SHARE.get()
    counts = 0.0 if share is not None and not share.clips else 1.0
    axes = [0, *range(2, x.ndim)]
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    count = torch.full((1,), counts * x.numel() / x.shape[1], dtype=wide.dtype, device=x.device)
    sums = _Sum.apply(torch.cat([counts * wide.sum(axes), count]))
    number = sums[-1].detach()
    form = [1, -1] + [1] * (x.ndim - 2)
    mean = sums[:-1] / number
    centred = wide - mean.view(form)
    variance = _Sum.apply(counts * centred.square().sum(axes)) / number
    with torch.no_grad():
        if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
            rate = 1 / float(norm.num_batches_tracked or 1) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), rate)
            norm.running_var.lerp_((variance * number / (number - 1).clamp_min(1)).to(norm.running_var.dtype), rate)
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shifted = centred * scale.view(form)
    if norm.bias is not None:
        shifted = shifted + norm.bias.view(form)
    return shifted.to(x.dtype)
