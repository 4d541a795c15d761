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
* T is that of the input.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, overload

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from migcore.errors import ConfigError, DataError

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

Boundary = Literal["zero", "mask", "replicate"]
Score = Literal["softmax", "logits"]
Kernel = Literal["fused", "written"]

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
        score: by which patches are kept, S(q_cls, K_c): "softmax" over the tokens of the frame (Eq. 5), or "logits".
        attention: "fused" (torch's), or "written" out as soft-max(QKᵀ)V. Changes no result beyond rounding; `migcore
            bench` times both, and the fused one was the faster on a CPU too.
    """

    span: int = 1
    boundary: Boundary = "zero"
    keep: tuple[float, ...] = ()
    score: Score = "softmax"
    attention: Kernel = field(default="fused", metadata={"numbers": False})

    def __post_init__(self) -> None:
        if not 0 <= self.span <= _MAX_SPAN:
            raise ConfigError(f"span {self.span}", hint=f"0 to {_MAX_SPAN} neighbours on each side")
        if self.boundary not in ("zero", "mask", "replicate"):
            raise ConfigError(f"boundary {self.boundary!r}", hint="choose from zero, mask, replicate")
        if any(not 0 < share <= 1 for share in self.keep):
            raise ConfigError(f"keep {self.keep}", hint="shares are above 0 and at most 1, one per block")
        if self.score not in ("softmax", "logits"):
            raise ConfigError(f"score {self.score!r}", hint="choose from softmax, logits")
        if self.attention not in ("fused", "written"):
            raise ConfigError(f"attention {self.attention!r}", hint="choose from fused, written")


class Encoded(NamedTuple):
    """What the tower makes of a video.

    The embedding of each frame before normalisation, [B, T, E]; the tokens after the last block, before the last norm,
    [B, T, L, D]; and for each block the patches that went on, [B, T, k] numbers 0..N-1 (row by row), ascending.
    """

    frames_BTE: Tensor
    tokens_BTLD: Tensor
    survivors: tuple[Tensor, ...]


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
    def forward(self, x_BTLD: Tensor) -> Tensor: ...
    @overload
    def forward(self, x_BTLD: Tensor, score: Score) -> tuple[Tensor, Tensor]: ...
    def forward(self, x_BTLD: Tensor, score: Score | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Attend.

        Args:
            x_BTLD: [B, T, L, D], [cls] first.
            score: also return how much [cls] looks at the patches of its own frame.

        Returns:
            [B, T, L, D]; with ``score``, also [B, T, L-1] (no gradient goes through it).
        """
        frames = x_BTLD.shape[1]
        qkv = F.linear(x_BTLD, self.in_proj_weight, self.in_proj_bias)
        q, k, v = rearrange(qkv, "b t l (three h d) -> three b t h l d", three=3, h=self.heads)
        keys, values = (rearrange(self._with_neighbours(x), "b t h l d -> (b t) h l d") for x in (k, v))
        queries, mask = rearrange(q, "b t h l d -> (b t) h l d"), self._mask(frames, q)
        if self.attention == "written":
            similarity = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
            if mask is not None:
                similarity = similarity.masked_fill(~mask, -math.inf)
            mixed = similarity.softmax(-1) @ values
        else:
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        out = self.out_proj(rearrange(mixed, "(b t) h l d -> b t l (h d)", t=frames))
        return out if score is None else (out, self._scores(q, k, score))

    def _with_neighbours(self, x: Tensor) -> Tensor:
        """[B, T, h, L, d] → [B, T, h, (2·span+1)·L, d]: frames t+1 … t+span, t-1 … t-span, t."""
        steps, frames = range(1, self.span + 1), x.shape[1]
        if self.boundary == "replicate":
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

    @torch.no_grad()
    def _scores(self, q: Tensor, k: Tensor, score: Score) -> Tensor:
        """S(q_cls, K_c) for the patches, mean over heads: [B, T, N]."""
        # In float32 even under autocast: rounded to half precision, patches tie, and ties fall to the top of the frame.
        with nullcontext() if q.is_meta else torch.autocast(q.device.type, enabled=False):
            similarity = (q[..., :1, :].float() @ k.float().transpose(-2, -1)).squeeze(-2) * q.shape[-1] ** -0.5
            if score == "softmax":
                similarity = similarity.softmax(-1)
            return similarity.mean(2)[..., 1:]


class TokenDecay(nn.Module):
    """Keeps [cls] and the k best-scored patches of every frame (section 2.3).

    Args:
        share: of the patches that stay, above 0 and at most 1.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def count(self, patches: int) -> int:
        """k of N patches: the share of them, halves rounded up, at least one."""
        return max(1, math.floor(self.share * patches + 0.5))

    def forward(self, x_BTLD: Tensor, scores_BTN: Tensor) -> tuple[Tensor, Tensor]:
        """Cut.

        Args:
            x_BTLD: tokens, [cls] first.
            scores_BTN: of the patches; of equal ones the first stays.

        Returns:
            [B, T, 1 + k, D], and which patches these are: [B, T, k] places among the N, ascending.
        """
        batch, frames, tokens, _ = x_BTLD.shape
        order = scores_BTN.argsort(dim=-1, descending=True, stable=True)
        kept = order[..., : self.count(scores_BTN.shape[-1])].sort(dim=-1).values
        within = F.pad(kept + 1, (1, 0))  # [cls] has place 0
        rows = rearrange(within + tokens * torch.arange(batch * frames, device=x_BTLD.device).view(batch, frames, 1),
                         "b t k -> (b t k)")  # fmt: skip
        # index_select remembers the rows alone for the backward pass; gather would hold on to all tokens.
        cut = rearrange(x_BTLD, "b t l d -> (b t l) d").index_select(0, rows)
        return rearrange(cut, "(b t k) d -> b t k d", b=batch, t=frames), kept


class VideoTower(nn.Module):
    """An open_clip vision transformer for videos; its state dict has that tower's names.

    Args:
        visual: CLIP's tower; its parts become parts of this one, its attentions are replaced.
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
        alive = torch.arange(x.shape[2] - 1, device=x.device).expand(*x.shape[:2], -1)
        survivors = []
        for number, block in enumerate(self.transformer.resblocks):
            cuts = bool(self.config.keep) and self.config.keep[number] < 1
            if cuts:
                mixed, scores = block.attn(block.ln_1(x), self.config.score)
            else:
                mixed = block.attn(block.ln_1(x))
            x = x + mixed
            x = x + block.mlp(block.ln_2(x))
            if cuts:
                x, kept = self.decay[number](x, scores)
                alive = alive.gather(-1, kept)
            survivors.append(alive)
        return Encoded(self.ln_post(x[:, :, 0]) @ self.proj, x, tuple(survivors))
