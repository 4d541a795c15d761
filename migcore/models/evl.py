"""Frozen CLIP as a video learner: a decoder over a CLIP that is never trained (EVL, Lin et al., ECCV 2022).

One learned query reads the tokens of all frames in the CLIP's last blocks, one decoder layer per block; the blocks'
own queries and keys, held against those of neighbouring frames, tell it what moved where. A row of the paper's Table 1,
which says that this method uses a text encoder: it has none.

Letters: N clips, T frames, L tokens of a frame ([cls] and P patches), D width, h heads, d channels of a head,
C classes, H W pixels.

Choices:

* The published query starts at zero: the normal start that its code means to draw is never called. Here it is drawn,
  N(0, 0.02); ``query="zero"`` is as published.
* The frozen tower is no part of the module: features are handed in, so that its weights are neither trained nor saved.
* Queries and keys of the tower come as its projections give them; the division by √d is done here. They also tell the
  number of heads, which the decoder's own attention shares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from migcore.errors import CheckpointError, ConfigError, DataError
from migcore.models.shares import Dropout
from migcore.models.weights import load_into

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

_STD = 0.02  # of the query's start and of all linear layers'


class Features(TypedDict):
    """A block of the frozen tower: its output [N, T, L, D], and its queries and keys [N, T, L, h, d]."""

    out: Tensor
    q: Tensor
    k: Tensor


@dataclass(frozen=True)
class EVLConfig:
    """What the decoder is built from, besides the tower.

    Attributes:
        num_classes: outputs.
        layers: M, of the decoder: one for each of the tower's last M blocks.
        frames: T.
        mlp_factor: width of the hidden layer of a decoder layer's MLP, in widths.
        dropout: probability, inside the MLPs and before the classifier.
        query: start of the learned query: "normal", or "zero" as published.
        temporal_conv, temporal_position, temporal_attention: what tells the tokens of time; the published ablations
            leave some out. What is left out has no parameters.
    """

    num_classes: int = 32
    layers: int = 4
    frames: int = 8
    mlp_factor: float = 4.0
    dropout: float = 0.5
    query: Literal["normal", "zero"] = "normal"
    temporal_conv: bool = True
    temporal_position: bool = True
    temporal_attention: bool = True

    def __post_init__(self) -> None:
        if min(self.num_classes, self.layers, self.frames) < 1:
            raise ConfigError("num_classes, layers and frames are at least 1")
        if self.mlp_factor <= 0:
            raise ConfigError(f"mlp_factor {self.mlp_factor}", hint="above 0, 4 as published")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout}", hint="a probability in [0, 1)")
        if self.query not in ("normal", "zero"):
            raise ConfigError(f"query {self.query!r}", hint="choose from normal, zero")


# --- the frozen tower -------------------------------------------------------------------------------------------------


@torch.no_grad()
def frozen_features(visual: VisionTransformer, video_N3THW: Tensor, layers: int) -> list[Features]:
    """What the last blocks of a plain CLIP tower make of a video, frame by frame; no gradient.

    Args:
        visual: open_clip's vision transformer.
        video_N3THW: [N, 3, T, H, W] floating, normalised, of the tower's size.
        layers: M, how many blocks from the end.

    Raises:
        ConfigError: the tower has fewer blocks, or blocks of another kind.
        DataError: another shape or type.
    """
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", ())
    # What other kinds add, such as layer scale or other frames' keys, would silently be left out.
    plain = [
        type(b).__name__ == "ResidualAttentionBlock" and isinstance(b.ls_1, nn.Identity) and _is_packed(b.attn)
        for b in blocks
    ]
    if not plain or not all(plain):
        raise ConfigError("a vision tower of another kind", hint="OpenAI's ViTs and the miniature can be taken")
    if not 1 <= layers <= len(blocks):
        raise ConfigError(f"features of {layers} blocks of a tower of {len(blocks)}")
    size = tuple(int(s) for s in visual.image_size)
    shape = tuple(video_N3THW.shape)
    if len(shape) != 5 or shape[1] != 3 or shape[3:] != size or not video_N3THW.is_floating_point():
        raise DataError(
            f"a video of shape {list(shape)} and type {video_N3THW.dtype}",
            hint=f"this tower takes normalised [N, 3, T, {size[0]}, {size[1]}]",
        )
    frames = rearrange(video_N3THW, "n c t h w -> (n t) c h w")
    patches = rearrange(visual.conv1(frames), "b d h w -> b (h w) d")
    cls = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    x_BLD = visual.ln_pre(torch.cat([cls, patches], 1) + visual.positional_embedding.to(patches.dtype))
    found: list[Features] = []
    for number, block in enumerate(blocks):
        attention = block.attn
        qkv = F.linear(block.ln_1(x_BLD), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = rearrange(qkv, "b l (three h d) -> three b h l d", three=3, h=attention.num_heads)
        mixed = rearrange(F.scaled_dot_product_attention(q, k, v), "b h l d -> b l (h d)")
        x_BLD = x_BLD + attention.out_proj(mixed)
        x_BLD = x_BLD + block.mlp(block.ln_2(x_BLD))
        if number >= len(blocks) - layers:
            apart = [rearrange(x, "(n t) h l d -> n t l h d", n=shape[0]) for x in (q, k)]
            found.append({"out": rearrange(x_BLD, "(n t) l d -> n t l d", n=shape[0]), "q": apart[0], "k": apart[1]})
    return found


def _is_packed(attention: nn.Module) -> bool:
    return isinstance(attention, nn.MultiheadAttention) and attention.in_proj_weight is not None


# --- the decoder ------------------------------------------------------------------------------------------------------


def relative_places(grid: tuple[int, int]) -> Tensor:
    """Row of the tables of :class:`TemporalCrossAttention` for each pair of patches: [P, P] integers.

    ``(row_q - row_k + h - 1) · (2w - 1) + (column_q - column_k + w - 1)`` for a grid of h × w patches.
    """
    rows, columns = (x.flatten() for x in torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij"))
    down, across = rows[:, None] - rows[None], columns[:, None] - columns[None]
    return (down + grid[0] - 1) * (2 * grid[1] - 1) + across + grid[1] - 1


class TemporalCrossAttention(nn.Module):
    """What the tower's own attention would say between a frame and its neighbours, turned into features of its patches.

    For a patch of frame t: the mean over heads of soft-max(q_t · k_{t-1} / √d) weighs the learned vectors of the
    relative places it points to; likewise, with another table, for frame t+1. A missing neighbour adds nothing.

    Args:
        width: D.
        grid: (h, w) of the patches.
    """

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        places = (2 * grid[0] - 1) * (2 * grid[1] - 1)
        self.w1, self.w2 = nn.Parameter(torch.zeros(places, width)), nn.Parameter(torch.zeros(places, width))
        self.register_buffer("places", relative_places(grid), persistent=False)

    def forward(self, q_NTPhd: Tensor, k_NTPhd: Tensor) -> Tensor:
        """Queries and keys of the patches → [N, T, P, D]."""
        before = self._from(q_NTPhd[:, 1:], k_NTPhd[:, :-1], self.w1)
        after = self._from(q_NTPhd[:, :-1], k_NTPhd[:, 1:], self.w2)
        return F.pad(before, (0, 0, 0, 0, 1, 0)) + F.pad(after, (0, 0, 0, 0, 0, 1))

    def _from(self, q: Tensor, k: Tensor, table_RD: Tensor) -> Tensor:
        similarity = torch.einsum("ntqhd,ntkhd->nthqk", q.float(), k.float()) * q.shape[-1] ** -0.5
        weights_NTQK = similarity.softmax(-1).mean(2)
        places_QK = self.get_buffer("places")
        # Sum the weights that fall on the same relative place first: a table row each, instead of a vector per pair.
        on_places = weights_NTQK.new_zeros(*weights_NTQK.shape[:3], len(table_RD))
        on_places.scatter_add_(-1, places_QK.expand_as(weights_NTQK), weights_NTQK)
        return on_places.to(table_RD.dtype) @ table_RD


class _Attention(nn.Module):
    """Multi-head attention of one query over many tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x_NQD: Tensor, y_NKD: Tensor, heads: int) -> Tensor:
        projected = self.q_proj(x_NQD), self.k_proj(y_NKD), self.v_proj(y_NKD)
        q, k, v = (rearrange(z, "n l (h d) -> n h l d", h=heads) for z in projected)
        return self.out_proj(rearrange(F.scaled_dot_product_attention(q, k, v), "n h l d -> n l (h d)"))


class _MLP(nn.Module):
    """Linear, QuickGELU, dropout, linear."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1, self.dropout, self.fc2 = nn.Linear(width, hidden), Dropout(dropout), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(self.dropout(x * torch.sigmoid(1.702 * x)))


class DecoderLayer(nn.Module):
    """The query attends to tokens, then an MLP; no attention among queries, since there is one."""

    def __init__(self, width: int, config: EVLConfig) -> None:
        super().__init__()
        self.attn = _Attention(width)
        self.mlp = _MLP(width, round(config.mlp_factor * width), config.dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x_NQD: Tensor, y_NKD: Tensor, heads: int) -> Tensor:
        """Query [N, 1, D] and tokens [N, T·L, D] → query [N, 1, D]; the tower's heads are the layer's."""
        x_NQD = x_NQD + self.attn(self.norm1(x_NQD), self.norm3(y_NKD), heads)
        return x_NQD + self.mlp(self.norm2(x_NQD))


class Decoder(nn.Module):
    """Features of M blocks to one vector per clip.

    Args:
        config: sizes.
        width: D of the tower.
        grid: (h, w) of its patches.
        generator: source of the initial weights, on the CPU; torch's own if not given.
    """

    def __init__(
        self,
        config: EVLConfig,
        width: int,
        grid: tuple[int, int],
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(width, *grid) < 1:
            raise ConfigError(f"a decoder of width {width} over {grid} patches", hint="each is at least 1")
        self.config, self.width, self.grid = config, width, grid
        layers = range(config.layers)
        with torch.random.fork_rng(devices=[]):  # the layers draw weights of their own, which are drawn again below
            self.cls_token = nn.Parameter(torch.zeros(width))
            self.decoder_layers = nn.ModuleList([DecoderLayer(width, config) for _ in layers])
            if config.temporal_conv:
                convs = [nn.Conv1d(width, width, 3, padding=1, groups=width) for _ in layers]
                self.temporal_conv = nn.ModuleList(convs)
            if config.temporal_position:
                self.temporal_pos_embed = nn.ParameterList([torch.zeros(config.frames, width) for _ in layers])
            if config.temporal_attention:
                self.cross_attention = nn.ModuleList([TemporalCrossAttention(width, grid) for _ in layers])
        if config.query == "normal":
            nn.init.normal_(self.cls_token, std=_STD, generator=generator)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_STD, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv1d):  # torch's own start of a kernel of three inputs
                for parameter in module.parameters():
                    nn.init.uniform_(parameter, -(3**-0.5), 3**-0.5, generator=generator)

    def forward(self, features: Sequence[Features]) -> Tensor:
        """Read.

        Args:
            features: of the tower's last M blocks, in order.

        Returns:
            [N, 1, D], without a norm behind it.

        Raises:
            DataError: another number of blocks, or shapes that do not fit.
        """
        if len(features) != self.config.layers:
            raise DataError(f"features of {len(features)} blocks", hint=f"this decoder reads {self.config.layers}")
        for block in features:
            self._check(block, len(features[0]["out"]))
        x_NQD = self.cls_token.expand(len(features[0]["out"]), 1, -1)
        for number, block in enumerate(features):
            y_NTLD = self._with_time(number, block)
            x_NQD = self.decoder_layers[number](x_NQD, rearrange(y_NTLD, "n t l d -> n (t l) d"), block["q"].shape[3])
        return x_NQD

    def _with_time(self, number: int, block: Features) -> Tensor:
        """[N, T, L, D]: a block's output, with what the convolution, the place in time and the neighbours add."""
        y_NTLD = block["out"]
        if self.config.temporal_conv:
            over_time = rearrange(y_NTLD, "n t l d -> (n l) d t")
            moved = rearrange(self.temporal_conv[number](over_time), "(n l) d t -> n t l d", n=len(y_NTLD))
            y_NTLD = y_NTLD + moved
        if self.config.temporal_position:
            y_NTLD = y_NTLD + self.temporal_pos_embed[number][:, None]
        if self.config.temporal_attention:
            motion = self.cross_attention[number](block["q"][:, :, 1:], block["k"][:, :, 1:])
            y_NTLD = y_NTLD + F.pad(motion, (0, 0, 1, 0))
        return y_NTLD

    def _check(self, block: Features, clips: int) -> None:
        out, q, k = block["out"], block["q"], block["k"]
        wanted = (clips, self.config.frames, 1 + self.grid[0] * self.grid[1])
        apart = q.ndim == 5 and q.shape[:3] == wanted and q.shape[3] * q.shape[4] == self.width
        floating = all(x.is_floating_point() for x in (out, q, k))
        if out.shape != (*wanted, self.width) or not apart or k.shape != q.shape or not floating:
            shapes = " and ".join(f"{list(x.shape)}" for x in (out, q, k))
            size = f"N, {wanted[1]}, {wanted[2]}"
            raise DataError(
                f"features of shape {shapes}, of type {out.dtype}",
                hint=f"this decoder reads [{size}, {self.width}], and [{size}, h, d] twice, h · d = {self.width}; "
                "all floating, N the same",
            )


class EVL(nn.Module):
    """Decoder, and a classifier on its vector.

    Args:
        config: sizes.
        width, grid: of the frozen tower.
        generator: source of the initial weights, on the CPU; torch's own if not given.
    """

    def __init__(
        self,
        config: EVLConfig,
        width: int,
        grid: tuple[int, int],
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.decoder = Decoder(config, width, grid, generator=generator)
        with torch.random.fork_rng(devices=[]):
            head = nn.Linear(width, config.num_classes)
        self.proj = nn.Sequential(nn.LayerNorm(width), Dropout(config.dropout), head)
        nn.init.normal_(head.weight, std=_STD, generator=generator)
        nn.init.zeros_(head.bias)

    @classmethod
    def over(cls, visual: VisionTransformer, config: EVLConfig, *, generator: torch.Generator | None = None) -> EVL:
        """One that fits a tower; the tower is not kept."""
        grid = int(visual.grid_size[0]), int(visual.grid_size[1])
        return cls(config, int(visual.conv1.out_channels), grid, generator=generator)

    def forward(self, features: Sequence[Features]) -> Tensor:
        """Features of :func:`frozen_features` → logits [N, C]."""
        return self.proj(self.decoder(features)[:, 0])


def from_published(state: Mapping[str, Tensor], where: str | Path, *, grid: tuple[int, int]) -> Decoder:
    """The decoder of a published file, in evaluation mode; sizes are taken from the shapes.

    Args:
        state: entries with or without ``decoder.``; those of the classifier (``proj.``) are not read.
        where: the file, for messages.
        grid: (h, w) of the tower's patches, which no shape tells where h ≠ w.

    Raises:
        CheckpointError: the file holds no such decoder, or not a whole one.
    """
    prefix = "decoder." if any(name.startswith("decoder.") for name in state) else ""
    own = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix) and not n.startswith("proj.")}
    layers = {match[1] for name in own if (match := re.match(r"decoder_layers\.(\d+)\.", name))}
    place, hidden = own.get("temporal_pos_embed.0"), own.get("decoder_layers.0.mlp.fc1.weight")
    if not layers or place is None or hidden is None or place.ndim != 2 or hidden.ndim != 2:
        raise CheckpointError(
            f"the file is not of an EVL decoder: its entries begin {', '.join(list(state)[:3])}",
            where=where,
            hint="published ones name them decoder.decoder_layers.0.attn.q_proj.weight …, decoder.temporal_pos_embed.0",
        )
    frames, width = place.shape
    config = EVLConfig(layers=len(layers), frames=frames, mlp_factor=hidden.shape[0] / width)
    model = Decoder(config, width, (int(grid[0]), int(grid[1])), generator=torch.Generator())
    load_into(model, own, where)
    return model.eval()
