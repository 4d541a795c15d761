"""Fewer tokens: the paper's cut (section 2.3), and what it is compared with at the same number of kept tokens.

Dropping by chance is the cut with scores of :func:`chance`; fusing the rest into one token is EViT's (Liang et al.,
2022); merging alike tokens is ToMe's (Bolya et al., 2023).

Letters: B clips, T frames, L tokens of a frame ([cls], which always goes on, and n patches), k patches that go on,
N patches that entered the tower, D width, d channels of a key, r patches merged away in one round.

Choices:

* All reduce at the same place, after a block's MLP, where token decay cuts (EViT and ToMe do it before the MLP), and
  all leave k patches: EViT's fused token is one of them.
* The fused token is the *mean* of the rest, weighted by their scores. EViT's code takes the sum, whose weights add up
  to less than one, so that the token shrinks. No gradient goes through the scores.
* ToMe matches at most half of the tokens at a time; where more than half must go it is repeated, with the keys merged
  as the tokens are. Tokens stand in the order of its code: the sources that stay, then the destinations.
* Sums are in float32 also under autocast, and in a fixed order, so that evaluation is deterministic on a GPU too.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from migcore.errors import ConfigError, DataError
from migcore.models.shares import drawn


def count(share: float, patches: int) -> int:
    """k of n patches: the share of them, halves rounded up, at least one."""
    return max(1, math.floor(share * patches + 0.5))


def cut(x_BTLD: Tensor, scores_BTN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Keep [cls] and the k best-scored patches of every frame (section 2.3).

    Args:
        x_BTLD: tokens, [cls] first.
        scores_BTN: of the n patches; of equal ones the first stays.
        k: 1 to n.

    Returns:
        [B, T, 1 + k, D], and which patches these are: [B, T, k] places among the n, ascending.

    Raises:
        DataError: the shapes do not fit.
        ConfigError: k is out of range.
    """
    _check(x_BTLD, scores_BTN, k)
    kept, _ = _best(scores_BTN, k)
    return _take(x_BTLD, F.pad(kept + 1, (1, 0))), kept  # [cls] has place 0


def fuse(x_BTLD: Tensor, scores_BTN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Keep [cls] and the k - 1 best-scored patches, and the mean of the others, weighted by their scores, as one more.

    Args:
        x_BTLD: tokens, [cls] first.
        scores_BTN: of the n patches, not negative: how much [cls] looks at each. If those of the others are all 0, they
            weigh the same.
        k: 1 to n; for n nothing changes.

    Returns:
        [B, T, 1 + k, D], the fused token last; and which patches were kept: [B, T, k - 1] places among the n,
        ascending (all n for k = n).

    Raises:
        DataError: the shapes do not fit.
        ConfigError: k is out of range.
    """
    patches = _check(x_BTLD, scores_BTN, k)
    if k == patches:
        return x_BTLD, _everyone(x_BTLD)
    kept, rest = _best(scores_BTN, k - 1)
    weights = scores_BTN.gather(-1, rest).float() + torch.finfo(torch.float32).tiny
    weights = (weights / weights.sum(-1, keepdim=True))[..., None]
    with full_precision(x_BTLD):
        fused = (weights * _take(x_BTLD, rest + 1)).sum(2, keepdim=True).to(x_BTLD.dtype)
    return torch.cat([_take(x_BTLD, F.pad(kept + 1, (1, 0))), fused], 2), kept


def merge(x_BTLD: Tensor, keys_BTNd: Tensor, sizes_BTN: Tensor | None, k: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Merge patches with alike keys until k are left; [cls] is never merged.

    Patches are sources (every second one, from the second on) and destinations in turn. Each source has an edge to the
    destination whose key has the largest cosine with its own (the first of equal ones), and the sources of the r
    largest edges go into their destinations.

    Args:
        x_BTLD: tokens, [cls] first.
        keys_BTNd: of the n patches, mean over heads.
        sizes_BTN: of how many of the N patches each is the mean; None for one each.
        k: 1 to n; for n nothing changes.

    Returns:
        [B, T, 1 + k, D], means weighted by size; which of the k each of the n patches went into, [B, T, n]; and the
        sizes of the k, [B, T, k] float32 (for k = n the ones given).

    Raises:
        DataError: the shapes do not fit.
        ConfigError: k is out of range.
    """
    if keys_BTNd.ndim != 4 or not keys_BTNd.shape[-1]:
        hint = "give them [B, T, n, d], for tokens [B, T, 1 + n, D], [cls] first"
        raise DataError(f"keys of shape {list(keys_BTNd.shape)}", hint=hint)
    patches = _check(x_BTLD, keys_BTNd[..., 0], k)
    if sizes_BTN is not None and sizes_BTN.shape != keys_BTNd.shape[:3]:
        raise DataError(
            f"sizes of shape {list(sizes_BTN.shape)} for patches {list(keys_BTNd.shape[:3])}",
            hint="give the sizes [B, T, n] that the merging before gave, or none",
        )
    went = _everyone(x_BTLD)
    if k == patches:
        return x_BTLD, went, sizes_BTN
    tokens, keys = x_BTLD[:, :, 1:], keys_BTNd.float()
    sizes = torch.ones_like(keys[..., 0]) if sizes_BTN is None else sizes_BTN.float()
    with full_precision(x_BTLD):
        while tokens.shape[2] > k:
            stays, gone, into = _match(keys, min(tokens.shape[2] - k, tokens.shape[2] // 2))
            place = torch.arange(stays.shape[-1], device=into.device)
            # Not index_add, which on a GPU adds in any order: of each source what it brings to each token that stays.
            brings = (into[..., None, :] == place[:, None]) * sizes.gather(-1, gone)[..., None, :]
            has = sizes.gather(-1, stays)
            sizes = has + brings.sum(-1)
            has, brings = (has / sizes)[..., None], brings / sizes[..., None]
            tokens, keys = (has * _take(y, stays).float() + brings @ _take(y, gone).float() for y in (tokens, keys))
            went = follow(went, places(stays, stays.shape[-1] + gone.shape[-1]).scatter(-1, gone, into))
    return torch.cat([x_BTLD[:, :, :1], tokens.to(x_BTLD.dtype)], 2), went, sizes


def chance(x_BTLD: Tensor, seed: int | None) -> Tensor:
    """Scores that are drawn by chance, [B, T, n] in [0, 1).

    Args:
        x_BTLD: tokens, [cls] first.
        seed: for evaluation: the same scores whenever it is the same, and for all clips, so that what is said of a clip
            does not depend on its batch. None for training: from torch's own generator of the device, as drop-out.
    """
    batch, frames, patches = x_BTLD.shape[0], x_BTLD.shape[1], x_BTLD.shape[2] - 1
    if seed is None:
        return drawn((batch, frames, patches), partial(torch.rand, device=x_BTLD.device))
    scores_TN = torch.rand(frames, patches, generator=torch.Generator().manual_seed(seed))
    return scores_TN.to(x_BTLD.device).expand(batch, -1, -1)


# --- which patch went where -------------------------------------------------------------------------------------------


def places(kept_BTk: Tensor, patches: int, rest: int = -1) -> Tensor:
    """Where each patch went, [B, T, n]: 0 … k-1 in the order of ``kept_BTk``; ``rest`` for those that were not kept."""
    went = kept_BTk.new_full((*kept_BTk.shape[:2], patches), rest)
    return went.scatter(-1, kept_BTk, torch.arange(kept_BTk.shape[-1], device=went.device).expand_as(kept_BTk))


def follow(groups_BTN: Tensor, went_BTn: Tensor) -> Tensor:
    """One reduction after others: the token (0 … n-1, or -1 for none) of each of N patches → its token afterwards."""
    return torch.where(groups_BTN < 0, -1, went_BTn.gather(-1, groups_BTN.clamp(min=0)))


def alone(groups_BTN: Tensor, k: int) -> Tensor:
    """The patch that each of k tokens is, [B, T, k], out of the token of each patch; -1 for one made of several."""
    zeros = groups_BTN.new_zeros((*groups_BTN.shape[:2], 1 + k))  # one more in front, for those that are gone
    numbers = torch.arange(groups_BTN.shape[-1], device=zeros.device).expand_as(groups_BTN)
    count = zeros.scatter_add(-1, groups_BTN + 1, torch.ones_like(numbers))
    return torch.where(count == 1, zeros.scatter_add(-1, groups_BTN + 1, numbers), -1)[..., 1:]


# --- parts ------------------------------------------------------------------------------------------------------------


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """A context without autocast, for what rounding would decide: in half precision, scores tie."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def _check(x_BTLD: Tensor, each_BTN: Tensor, k: int) -> int:
    """The number of patches, if all fits."""
    if x_BTLD.ndim != 4 or x_BTLD.shape[2] < 2 or each_BTN.shape != (*x_BTLD.shape[:2], x_BTLD.shape[2] - 1):
        raise DataError(
            f"tokens of shape {list(x_BTLD.shape)} with scores or keys for {list(each_BTN.shape)}",
            hint="give tokens [B, T, 1 + n, D], [cls] first, and something for each of the [B, T, n] patches",
        )
    if not 1 <= k < x_BTLD.shape[2]:
        raise ConfigError(f"{k} of {x_BTLD.shape[2] - 1} patches to keep", hint="keep at least one, and at most all")
    return x_BTLD.shape[2] - 1


def _everyone(x_BTLD: Tensor) -> Tensor:
    """[B, T, n] places of the patches."""
    return torch.arange(x_BTLD.shape[2] - 1, device=x_BTLD.device).expand(*x_BTLD.shape[:2], -1)


def _best(scores_BTN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Places of the k best-scored, ascending, and of the rest; of equal ones the first is better."""
    order = scores_BTN.argsort(dim=-1, descending=True, stable=True)
    return order[..., :k].sort(dim=-1).values, order[..., k:]


def _take(x_BTLD: Tensor, at_BTk: Tensor) -> Tensor:
    """The tokens at these places of each frame, [B, T, k, D]."""
    batch, frames, tokens, _ = x_BTLD.shape
    start = tokens * torch.arange(batch * frames, device=x_BTLD.device).view(batch, frames, 1)
    # index_select remembers the rows alone for the backward pass; gather would hold on to all tokens.
    taken = rearrange(x_BTLD, "b t l d -> (b t l) d").index_select(0, rearrange(at_BTk + start, "b t k -> (b t k)"))
    return rearrange(taken, "(b t k) d -> b t k d", b=batch, t=frames)


@torch.no_grad()
def _match(keys_BTNd: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """One round of ToMe's matching of n patches.

    Returns:
        places of those that stay, [B, T, n - r]; of those that go, [B, T, r]; and where among those that stay the
        latter go, [B, T, r].
    """
    unit = F.normalize(keys_BTNd, dim=-1)
    best, to = (unit[:, :, 1::2] @ unit[:, :, ::2].mT).max(-1)
    gone, sources = _best(best, r)
    sources = sources.sort(dim=-1).values
    destinations = torch.arange(0, keys_BTNd.shape[2], 2, device=keys_BTNd.device).expand(*sources.shape[:2], -1)
    return torch.cat([2 * sources + 1, destinations], -1), 2 * gone + 1, sources.shape[-1] + to.gather(-1, gone)
