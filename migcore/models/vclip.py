"""The video tower: CLIP's vision transformer that looks at neighbouring frames and drops patches (paper, section 2.3).

Letters: B clips, T frames, L tokens of a frame ([cls] and patches), N patches, k patches kept, D width, E embedding,
h heads, d channels of a head, H W pixels.

Choices:

* No parameter is new: queries of a frame meet the keys and values of frames t+1, t-1 and t (Open-VCLIP's order). A
  missing neighbour at either end is zeros, *not* masked, as published: each zero key takes its share of the soft-max.
  Masking and repeating the end frame are options.
* Token decay scores a patch by S(q_cls, K_c), soft-max over the tokens of its own frame, mean over heads (Eq. 5's S;
  plain logits are an option). The paper does not say where tokens are cut; here it is after a block's MLP, from the
  stream that the next block reads. Frames keep different patches but the same number of them; attention over
  neighbours asks for no more, since it knows of no place but what a token carries.
* Other ways to have as few tokens (:mod:`migcore.models.reduction`) stand in its place, for comparison. Merged tokens
  weigh in the soft-max by their sizes (ToMe's proportional attention), a neighbour's too; zeros for a missing frame
  weigh as much as the N patches that they stand for.
* T is that of the input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, overload

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from migcore.errors import ConfigError, DataError
from migcore.models.reduction import alone, chance, count, cut, follow, full_precision, fuse, merge, places

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

Boundary = Literal["zero", "mask", "replicate"]
Score = Literal["softmax", "logits"]
Kernel = Literal["fused", "written"]
Reduce = Literal["decay", "random", "fuse", "merge"]
Evidence = Score | Literal["keys"]

_MAX_SPAN = 3


@dataclass(frozen=True)
class VCLIPConfig:
    """What makes a CLIP tower a video tower.

    Attributes:
        span: neighbours seen on each side, 1 to 3; 0 is plain CLIP, frame by frame.
        boundary: what stands for a neighbour that a clip does not have: "zero" keys and values (published), nothing
            ("mask"), or the end frame again ("replicate").
        keep: token decay: for each block, the share of the patches entering it that go on; () for none. The last
            share changes no embedding: [cls] is read right after it.
        reduce: how the others go: "decay" drops those that [cls] looks at least (the paper); "random" drops by chance,
            in evaluation always the same ones; "fuse" makes one token of them, the last of the share (EViT); "merge"
            merges alike ones (ToMe).
        score: by which patches are kept, S(q_cls, K_c): "softmax" over the tokens of the frame (Eq. 5), or "logits"
            (whose soft-max over the patches then weighs the fused ones). Of decay and fuse.
        attention: "fused" (torch's), or "written" out as soft-max(QKᵀ)V. Changes no result beyond rounding; `migcore
            bench` times both, and the fused one was the faster on a CPU too.
    """

    span: int = 1
    boundary: Boundary = "zero"
    keep: tuple[float, ...] = ()
    reduce: Reduce = "decay"
    score: Score = "softmax"
    attention: Kernel = field(default="fused", metadata={"numbers": False})

    def __post_init__(self) -> None:
        if not 0 <= self.span <= _MAX_SPAN:
            raise ConfigError(f"span {self.span}", hint=f"0 to {_MAX_SPAN} neighbours on each side")
        if self.boundary not in ("zero", "mask", "replicate"):
            raise ConfigError(f"boundary {self.boundary!r}", hint="choose from zero, mask, replicate")
        if any(not 0 < share <= 1 for share in self.keep):
            raise ConfigError(f"keep {self.keep}", hint="shares are above 0 and at most 1, one per block")
        if self.reduce not in ("decay", "random", "fuse", "merge"):
            raise ConfigError(f"reduce {self.reduce!r}", hint="choose from decay, random, fuse, merge")
        if self.score not in ("softmax", "logits"):
            raise ConfigError(f"score {self.score!r}", hint="choose from softmax, logits")
        if self.attention not in ("fused", "written"):
            raise ConfigError(f"attention {self.attention!r}", hint="choose from fused, written")


class Encoded(NamedTuple):
    """What the tower makes of a video.

    The embedding of each frame before normalisation, [B, T, E]; the tokens after the last block, before the last norm,
    [B, T, L, D]; for each block the patches that went on, [B, T, k]: the number 0..N-1 (row by row) of the patch that
    each token is, ascending under token decay, and -1 for a token made of several; and for each block, which of its k
    tokens each of the N patches is a part of, [B, T, N], -1 for none.
    """

    frames_BTE: Tensor
    tokens_BTLD: Tensor
    survivors: tuple[Tensor, ...]
    groups: tuple[Tensor, ...]


class TemporalAttention(nn.Module):
    """Self-attention (Eq. 5) whose keys and values come from the neighbouring frames too.

    Its parameters have the names and shapes of ``nn.MultiheadAttention``, so that CLIP's weights load as they are.

    Args:
        width: D.
        heads: h.
        span, boundary, attention: as in :class:`VCLIPConfig`.
    """

    def __init__(
        self, width: int, heads: int, span: int = 1, boundary: Boundary = "zero", attention: Kernel = "fused"
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"width {width} for {heads} heads", hint="the width is a multiple of the heads")
        self.heads, self.span, self.boundary, self.attention = heads, span, boundary, attention
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    @classmethod
    def of(cls, plain: nn.MultiheadAttention, config: VCLIPConfig) -> TemporalAttention:
        """The same attention, with the same parameters, over neighbouring frames."""
        with torch.device("meta"):
            made = cls(plain.embed_dim, plain.num_heads, config.span, config.boundary, config.attention)
        if plain.in_proj_weight is None or plain.in_proj_bias is None:
            raise ConfigError("an attention without packed projection and bias", hint="CLIP's towers have both")
        made.in_proj_weight, made.in_proj_bias = plain.in_proj_weight, plain.in_proj_bias
        made.out_proj = plain.out_proj
        return made

    @overload
    def forward(self, x_BTLD: Tensor, evidence: None = None, sizes_BTN: Tensor | None = None) -> Tensor: ...
    @overload
    def forward(self, x_BTLD: Tensor, evidence: Evidence, sizes_BTN: Tensor | None = None) -> tuple[Tensor, Tensor]: ...
    def forward(
        self, x_BTLD: Tensor, evidence: Evidence | None = None, sizes_BTN: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend.

        Args:
            x_BTLD: [B, T, L, D], [cls] first.
            evidence: also return what tokens are reduced by: how much [cls] looks at the patches of its own frame
                ("softmax" or "logits"), or the "keys" of the patches, mean over heads.
            sizes_BTN: of the patches: each counts in the soft-max as that many of its kind; None for one each.

        Returns:
            [B, T, L, D]; with ``evidence``, also [B, T, L-1], or [B, T, L-1, d] (no gradient goes through it).
        """
        frames = x_BTLD.shape[1]
        qkv = F.linear(x_BTLD, self.in_proj_weight, self.in_proj_bias)
        q, k, v = rearrange(qkv, "b t l (three h d) -> three b t h l d", three=3, h=self.heads)
        keys, values = (rearrange(self._with_neighbours(x, self.boundary), "b t h l d -> (b t) h l d") for x in (k, v))
        queries, mask = rearrange(q, "b t h l d -> (b t) h l d"), self._mask(frames, q)
        if sizes_BTN is not None:
            mask = self._log_sizes(sizes_BTN, mask).to(q.dtype)
        if self.attention == "written":
            similarity = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
            if mask is not None:
                similarity = similarity.masked_fill(~mask, -math.inf) if sizes_BTN is None else similarity + mask
            mixed = similarity.softmax(-1) @ values
        else:
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        out = self.out_proj(rearrange(mixed, "(b t) h l d -> b t l (h d)", t=frames))
        return out if evidence is None else (out, self._evidence(q, k, evidence))

    def _with_neighbours(self, x: Tensor, boundary: Boundary) -> Tensor:
        """[B, T, h, L, d] → [B, T, h, (2·span+1)·L, d]: frames t+1 … t+span, t-1 … t-span, t."""
        steps, frames = range(1, self.span + 1), x.shape[1]
        if boundary == "replicate":
            at = torch.arange(frames, device=x.device)
            shifted = [x[:, (at + by).clamp(0, frames - 1)] for by in (*steps, *(-s for s in steps))]
        else:
            padded = F.pad(x, (0, 0, 0, 0, 0, 0, self.span, self.span))
            shifted = [padded[:, self.span + by :][:, :frames] for by in (*steps, *(-s for s in steps))]
        return torch.cat([*shifted, x], dim=-2) if shifted else x

    def _mask(self, frames: int, q: Tensor) -> Tensor | None:
        """[B·T, 1, 1, keys], False where a key belongs to no frame; None where all count."""
        if self.boundary != "mask" or self.span == 0:
            return None
        steps, at = range(1, self.span + 1), torch.arange(frames, device=q.device)
        there = torch.stack([(at + by >= 0) & (at + by < frames) for by in (*steps, *(-s for s in steps), 0)], 1)
        mask = there.repeat_interleave(q.shape[-2], dim=1).repeat(q.shape[0], 1)
        return mask[:, None, None]

    def _log_sizes(self, sizes_BTN: Tensor, mask: Tensor | None) -> Tensor:
        """What is added to the similarities of each key: [B·T, 1, 1, keys]; minus infinity where the mask says so."""
        logs = F.pad(sizes_BTN, (1, 0), value=1.0).log()[:, :, None, :, None]
        # The sizes of a frame sum to N in every frame, so those of the end frame also give a missing one its weight.
        logs = rearrange(self._with_neighbours(logs, "replicate"), "b t 1 l 1 -> (b t) 1 1 l")
        return logs if mask is None else logs.masked_fill(~mask, -math.inf)

    @torch.no_grad()
    def _evidence(self, q: Tensor, k: Tensor, kind: Evidence) -> Tensor:
        """Mean over heads of S(q_cls, K_c) for the patches, [B, T, N], or of their keys, [B, T, N, d]."""
        # In float32 even under autocast: rounded to half precision, patches tie, and ties fall to the top of the frame.
        with full_precision(q):
            if kind == "keys":
                return k.float().mean(2)[..., 1:, :]
            similarity = (q[..., :1, :].float() @ k.float().transpose(-2, -1)).squeeze(-2) * q.shape[-1] ** -0.5
            if kind == "softmax":
                similarity = similarity.softmax(-1)
            return similarity.mean(2)[..., 1:]


class TokenDecay(nn.Module):
    """Keeps [cls] and the k best-scored patches of every frame (section 2.3).

    In a transformer of one's own, with the attention that [cls] pays as scores; an image is a video with T = 1::

        attention = nn.MultiheadAttention(64, 4, batch_first=True)
        x = torch.rand(2, 50, 64)  # [B, 1 + N, D], [cls] first
        out, w = attention(x, x, x, need_weights=True)
        x, kept = TokenDecay(0.5)(x[:, None], w[:, None, 0, 1:])  # [2, 1, 26, 64] and [2, 1, 25]
        x = x[:, 0]  # [2, 26, 64]

    Args:
        share: of the patches that stay, above 0 and at most 1.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def count(self, patches: int) -> int:
        """k of N patches: the share of them, halves rounded up, at least one."""
        return count(self.share, patches)

    def forward(self, x_BTLD: Tensor, scores_BTN: Tensor) -> tuple[Tensor, Tensor]:
        """Cut.

        Args:
            x_BTLD: tokens, [cls] first.
            scores_BTN: of the patches; of equal ones the first stays.

        Returns:
            [B, T, 1 + k, D], and which patches these are: [B, T, k] places among the N, ascending.

        Raises:
            DataError: the shapes do not fit.
            ConfigError: the share is above 1.
        """
        return cut(x_BTLD, scores_BTN, self.count(scores_BTN.shape[-1]))


class VideoTower(nn.Module):
    """An open_clip vision transformer for videos; its state dict has that tower's names.

    Args:
        visual: CLIP's tower; its parts become parts of this one, its attentions are replaced. So a tower can be used
            once: to keep it, give ``copy.deepcopy(clip.visual)``.
        config: how.

    Raises:
        ConfigError: the tower is not a plain one with a [cls] token, or ``config.keep`` fits another depth.
    """

    def __init__(self, visual: VisionTransformer, config: VCLIPConfig) -> None:
        super().__init__()
        plain = getattr(visual, "attn_pool", self) is None and visual.pool_type == "tok"
        blocks = visual.transformer.resblocks if plain and not visual.final_ln_after_pool else []
        # Blocks of open_clip's plain kind, without layer scale; what other kinds add would silently be left out.
        if not blocks or any(
            type(b).__name__ != "ResidualAttentionBlock" or not isinstance(b.ls_1, nn.Identity) for b in blocks
        ):
            raise ConfigError("a vision tower of another kind", hint="OpenAI's ViTs and the miniature can be taken")
        if config.keep and len(config.keep) != len(blocks):
            raise ConfigError(
                f"token decay for {len(config.keep)} blocks, in a tower of {len(blocks)}", hint="keep has one per block"
            )
        self.config = config
        self.image_size: tuple[int, int] = (int(visual.image_size[0]), int(visual.image_size[1]))
        self.grid_size: tuple[int, int] = (int(visual.grid_size[0]), int(visual.grid_size[1]))
        self.conv1, self.ln_pre, self.ln_post = visual.conv1, visual.ln_pre, visual.ln_post
        self.class_embedding, self.positional_embedding = visual.class_embedding, visual.positional_embedding
        self.transformer, self.proj = visual.transformer, visual.proj
        for block in blocks:
            block.attn = TemporalAttention.of(block.attn, config)
        self.decay = nn.ModuleList([TokenDecay(share) for share in config.keep])

    def forward(self, video_B3THW: Tensor) -> Tensor:
        """Embeddings of the frames, [B, T, E], before normalisation; arguments and errors as :meth:`encode`."""
        return self.encode(video_B3THW).frames_BTE

    def encode(self, video_B3THW: Tensor) -> Encoded:
        """Embeddings, tokens, and which patches survived.

        Args:
            video_B3THW: [B, 3, T, H, W] floating, CLIP's mean and deviation taken out, of the tower's ``image_size``.

        Raises:
            DataError: another shape or type.
        """
        shape = tuple(video_B3THW.shape)
        if len(shape) != 5 or shape[1] != 3 or shape[3:] != self.image_size or not video_B3THW.is_floating_point():
            raise DataError(
                f"a video of shape {list(shape)} and type {video_B3THW.dtype}",
                hint=f"this tower takes normalised [B, 3, T, {self.image_size[0]}, {self.image_size[1]}]",
            )
        patches = rearrange(self.conv1(rearrange(video_B3THW, "b c t h w -> (b t) c h w")), "n d h w -> n (h w) d")
        cls = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        x = self.ln_pre(torch.cat([cls, patches], 1) + self.positional_embedding.to(patches.dtype))
        x = rearrange(x, "(b t) l d -> b t l d", t=shape[2])
        groups = alive = torch.arange(x.shape[2] - 1, device=x.device).expand(*x.shape[:2], -1)
        survivors, parts, sizes = [], [], None
        for number, block in enumerate(self.transformer.resblocks):
            reduces = bool(self.config.keep) and self.config.keep[number] < 1
            asked = self._asked if reduces else None
            attended = block.attn(block.ln_1(x), asked, sizes)
            mixed, evidence = attended if asked else (attended, None)
            x = x + mixed
            x = x + block.mlp(block.ln_2(x))
            if reduces:
                x, went, sizes = self._reduced(number, x, evidence, sizes)
                groups = follow(groups, went)
                alive = alone(groups, x.shape[2] - 1)
            survivors.append(alive)
            parts.append(groups)
        return Encoded(self.ln_post(x[:, :, 0]) @ self.proj, x, tuple(survivors), tuple(parts))

    @property
    def _asked(self) -> Evidence | None:
        """What a reduction wants to know from the attention."""
        kind = self.config.reduce
        return None if kind == "random" else "keys" if kind == "merge" else self.config.score

    def _reduced(
        self, number: int, x_BTLD: Tensor, evidence: Tensor | None, sizes_BTN: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """A block's reduction: the tokens that go on, where each patch went, and the sizes of merged ones."""
        kind, patches = self.config.reduce, x_BTLD.shape[2] - 1
        k = count(self.config.keep[number], patches)
        if evidence is None:  # nothing was asked
            evidence = chance(x_BTLD, seed=None if self.training else number)
        if kind == "merge":
            return merge(x_BTLD, evidence, sizes_BTN, k)
        if kind == "fuse":
            fused, kept = fuse(x_BTLD, evidence if self.config.score == "softmax" else evidence.softmax(-1), k)
            return fused, places(kept, patches, rest=k - 1), None
        less, kept = self.decay[number](x_BTLD, evidence)
        return less, places(kept, patches), None
