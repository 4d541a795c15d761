"""What the pre-training of the miniature CLIP computes: open_clip's towers written out, the heads and the losses.

Part of :mod:`migcore.studio.teacher`.

Letters: B stills of a batch, U distinct captions among them, L tokens, D width, E embedding, P parts (0 is the
background), V keypoints, H W pixels, G = 16 cells a side of the part map, S = 8 patches a side.

Choices:

* On a CPU the towers are written out from open_clip's parameters, equal to rounding and 1.5 times as fast (attention as
  plain matrix products, the stem as one product, QuickGELU as one kernel). Captions are encoded once each and cut
  behind the longest, which the causal mask makes exact.
* Of the 49,408 token embeddings only those that occur are parameters here: without gradient and decay AdamW would not
  move the others.
* Captions of one meaning are positives of each other: open_clip's ``ClipLoss`` with another ground truth.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from open_clip.pos_embed import get_2d_sincos_pos_embed
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor, nn

from migcore.models.clip import random_miniature
from migcore.studio.figure import PART_NAMES
from migcore.studio.stills import GRID
from migcore.studio.teacher_data import Batch

DENSE = ("parts", "keypoints", "layout", "presence")
"""Names of the dense losses."""
_QUICK = 1.702  # QuickGELU(x) = x · sigmoid(1.702 x) = silu(1.702 x) / 1.702


# --- the towers, written out ------------------------------------------------------------------------------------------


def block_forward(block: ResidualAttentionBlock, x_BLD: Tensor, mask_LL: Tensor | None = None) -> Tensor:
    """One of open_clip's blocks (QuickGELU, no layer scale), from its parameters: soft-max(QKᵀ/√d)V as products.

    Equal to calling the block, to rounding. ``scaled_dot_product_attention`` is slower at these sizes on a CPU.

    Args:
        block: its parameters are used.
        x_BLD: [B, L, D].
        mask_LL: [L, L] added to the scores.

    Returns:
        [B, L, D].
    """
    attention = block.attn
    qkv = F.linear(block.ln_1(x_BLD), attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = rearrange(qkv, "b l (three h d) -> three (b h) l d", three=3, h=attention.num_heads)
    scores = torch.bmm(q * attention.head_dim**-0.5, k.transpose(1, 2))
    weights = (scores if mask_LL is None else scores + mask_LL).softmax(-1)
    mixed = rearrange(torch.bmm(weights, v), "(b h) l d -> b l (h d)", h=attention.num_heads)
    x_BLD = x_BLD + F.linear(mixed, attention.out_proj.weight, attention.out_proj.bias)
    up, down = block.mlp.c_fc, block.mlp.c_proj
    hidden = F.silu(F.linear(block.ln_2(x_BLD), up.weight * _QUICK, up.bias * _QUICK))
    return x_BLD + F.linear(hidden, down.weight / _QUICK, down.bias)


def _blocks(transformer: Transformer, x_BLD: Tensor, mask_LL: Tensor | None = None) -> Tensor:
    for block in transformer.resblocks:  # other devices have better kernels of their own
        x_BLD = block_forward(block, x_BLD, mask_LL) if x_BLD.is_cpu else block(x_BLD, attn_mask=mask_LL)
    return x_BLD


def image_forward(clip: CLIP, images_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The image tower, equal to ``clip.encode_image`` and open to its tokens.

    Args:
        clip: open_clip's model, a plain ViT.
        images_B3HW: normalised.

    Returns:
        embedding [B, E] (not normalised), CLS [B, D] and patch tokens [B, S², D], both after the last norm.
    """
    visual = clip.visual
    height, width = visual.patch_size
    patches = rearrange(images_B3HW, "b c (h p) (w q) -> b (h w) (c p q)", p=height, q=width)
    tokens = F.linear(patches, visual.conv1.weight.flatten(1))
    tokens = torch.cat([visual.class_embedding.expand(len(tokens), 1, -1), tokens], 1) + visual.positional_embedding
    tokens = visual.ln_post(_blocks(visual.transformer, visual.ln_pre(tokens)))
    return tokens[:, 0] @ visual.proj, tokens[:, 0], tokens[:, 1:]


def text_forward(clip: CLIP, tokens_UL: Tensor) -> Tensor:
    """The text tower on texts cut behind the longest: equal to ``clip.encode_text``, which wants all 77 positions.

    Args:
        clip: open_clip's model; its token embedding may hold fewer rows, if the tokens are numbered accordingly.
        tokens_UL: [U, L], the end of a text having the highest number in its row.

    Returns:
        [U, E], not normalised.
    """
    length = tokens_UL.shape[1]
    x_ULD = clip.token_embedding(tokens_UL) + clip.positional_embedding[:length]
    x_ULD = clip.ln_final(_blocks(clip.transformer, x_ULD, clip.attn_mask[:length, :length]))
    return x_ULD[torch.arange(len(x_ULD), device=x_ULD.device), tokens_UL.argmax(-1)] @ clip.text_projection


# --- losses -----------------------------------------------------------------------------------------------------------


class SameMeaningLoss(ClipLoss):
    """open_clip's contrastive loss where captions of one meaning are positives of each other.

    ``ClipLoss`` knows one positive a row. Only its ground truth is replaced: uniform over the positives of a row. The
    matrix is symmetric, so that one serves both directions; without repeated meanings this is ``ClipLoss``.

    Args:
        meaning_B: [B] numbers, equal where captions mean the same.
    """

    def __init__(self, meaning_B: Tensor) -> None:
        super().__init__()
        self.meaning = meaning_B

    def get_ground_truth(self, device: torch.device, num_logits: int) -> Tensor:
        """[B, B] float32 targets; rows sum to 1."""
        same = (self.meaning[:, None] == self.meaning[None]).float()
        return (same / same.sum(1, keepdim=True)).to(device)


class DenseHeads(nn.Module):
    """Linear read-outs of the dense targets; thrown away after pre-training.

    Args:
        width: D.
        side: S, patches a side; each patch token predicts the (G/S)² cells of the part map it covers.
        keypoints: V.
    """

    def __init__(self, width: int, side: int, keypoints: int) -> None:
        super().__init__()
        self.side, self.cells, classes = side, GRID // side, len(PART_NAMES)
        self.parts = nn.Linear(width, self.cells**2 * classes)
        self.heat = nn.Linear(width, keypoints)
        self.points = nn.Linear(width, keypoints * 2)
        self.layout = nn.Linear(width, side**2 * classes)
        self.presence = nn.Linear(width, classes - 1)
        middle = (torch.arange(side) + 0.5) / side
        centres = torch.stack(torch.meshgrid(middle, middle, indexing="xy"), -1).reshape(-1, 2)
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, cls_BD: Tensor, tokens_BLD: Tensor, batch: Batch, weights_P: Tensor) -> dict[str, Tensor]:
        """The dense losses, and how many cells of the foreground are right.

        Args:
            cls_BD: [B, D].
            tokens_BLD: [B, S², D].
            batch: the targets.
            weights_P: [P] weight of each part in the cross-entropies.

        Returns:
            scalars: :data:`DENSE`, "right" and "foreground" (cells).
        """
        cells, side = self.cells, self.side
        parts = rearrange(self.parts(tokens_BLD), "b (h w) (p q c) -> (b h p w q) c", h=side, p=cells, q=cells)
        truth = batch.parts.flatten()
        heat = self.heat(tokens_BLD).softmax(1)  # where each keypoint is: a distribution over the patches
        found = torch.einsum("blv,lc->bvc", heat, self.get_buffer("centres"))
        guessed = 0.5 + rearrange(self.points(cls_BD), "b (v c) -> b v c", c=2)
        distance = (found - batch.keypoints).abs().sum(-1) + (guessed - batch.keypoints).abs().sum(-1)
        shares = F.one_hot(batch.parts, len(PART_NAMES)).float()
        coarse = reduce(shares, "b (h p) (w q) c -> (b h w) c", "mean", p=cells, q=cells)
        layout = rearrange(self.layout(cls_BD), "b (l c) -> (b l) c", l=side * side)
        seen = shares.amax((1, 2))[:, 1:]
        foreground = truth > 0
        return {
            "parts": F.cross_entropy(parts, truth, weights_P),
            "keypoints": (distance * batch.visible).sum() / batch.visible.sum().clamp_min(1),
            "layout": F.cross_entropy(layout, coarse, weights_P),
            "presence": F.binary_cross_entropy_with_logits(self.presence(cls_BD), seen),
            "right": ((parts.detach().argmax(1) == truth) & foreground).sum(),
            "foreground": foreground.sum(),
        }


def part_weights(parts: np.ndarray) -> Tensor:
    """[P] weights of the parts in the cross-entropies: the inverse root of how often each is seen, 1 on average."""
    counts = np.bincount(parts.ravel(), minlength=len(PART_NAMES)) + 1.0
    weights = counts**-0.5
    return torch.from_numpy(weights / (weights * counts / counts.sum()).sum()).float()


class Pretraining(nn.Module):
    """What a checkpoint holds: the CLIP with the token embeddings in use, the heads, and the sums of the next log line.

    Args:
        seed: of all initial weights.
        vocabulary: ids of the tokens in use, ascending.
        keypoints: V.
    """

    LOGGED = (*DENSE, "right", "foreground", "steps", "contrastive", "retrieval", "joined")

    def __init__(self, seed: int, vocabulary: np.ndarray, keypoints: int) -> None:
        super().__init__()
        self.clip = random_miniature(seed)
        visual, (side, _) = self.clip.visual, self.clip.visual.grid_size
        start = get_2d_sincos_pos_embed(visual.conv1.out_channels, side, cls_token=True)
        visual.positional_embedding.data.copy_(torch.from_numpy(start))
        every = self.clip.token_embedding.weight.detach()
        self.clip.token_embedding = nn.Embedding.from_pretrained(every[torch.from_numpy(vocabulary)], freeze=False)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.heads = DenseHeads(visual.conv1.out_channels, side, keypoints)
        self.register_buffer("sums", torch.zeros(len(self.LOGGED)))

    def forward(self, batch: Batch, weights_P: Tensor, contrastive: bool) -> dict[str, Tensor]:
        """Losses and counts of a batch, by the names of :attr:`LOGGED`."""
        embedding, cls_BD, tokens_BLD = image_forward(self.clip, batch.images)
        out = self.heads(cls_BD, tokens_BLD, batch, weights_P) | {"steps": torch.ones(())}
        if contrastive:
            image = F.normalize(embedding, dim=-1)
            text = F.normalize(text_forward(self.clip, batch.tokens), dim=-1)[batch.caption]
            out["contrastive"] = SameMeaningLoss(batch.meaning)(image, text, self.clip.logit_scale.exp())
            nearest = (image.detach() @ text.detach().T).argmax(1)
            out["retrieval"] = (batch.meaning[nearest] == batch.meaning).float().mean()
            out["joined"] = torch.ones(())
        return out

    def record(self, out: dict[str, Tensor]) -> None:
        """Add a step to the sums of the next log line."""
        sums = self.get_buffer("sums")
        sums += torch.stack(
            [out[name].detach().to(sums) if name in out else sums.new_zeros(()) for name in self.LOGGED]
        )

    def summary(self) -> dict[str, float]:
        """Mean losses and accuracies since the last summary."""
        total = dict(zip(self.LOGGED, self.get_buffer("sums").tolist(), strict=True))
        self.get_buffer("sums").zero_()
        line = {name: total[name] / total["steps"] for name in DENSE}
        line["foreground"] = total["right"] / max(1.0, total["foreground"])
        if total["joined"]:
            line |= {name: total[name] / total["joined"] for name in ("contrastive", "retrieval")}
        return line
