"""PoseC3D: SlowOnly-50 on heat-map volumes (paper, section 2.4; PoseC3D, CVPR 2022), all of it, and its text alignment.

Letters: B clips, V keypoints (or bones: one channel each), T frames, H W pixels, C classes, D width, E text embedding.

Choices, all as published: three stages (the last three of a ResNet-50's four, with 4, 6 and 3 blocks), half its width;
nothing is halved before stage 1, and time only in stage 3, since a heat-map is small already; convolution over time
(3×1×1) only in stages 2 and 3. The names of the parameters are the publishers', so their checkpoints load as they are.

Choices in the text alignment (section 2.4; PoseC3D itself has none):

* The sign of Eq. 6. As printed, the minus before the distance would push the embedding away from its text, and the
  text is indexed by sample. We minimise the squared distance to the text of the clip's class (:func:`alignment_loss`).
* In series: x̂ (a linear map of the pooled feature) is what the classifier sees, as section 2.4 says. In parallel, as
  the winner of 2023 had it: the classifier sees the feature, and x̂ serves the loss only.
* x̂ is not brought to length 1 unless asked, since Eq. 6 does not; the texts of CLIP are of length 1.
* The map starts as torch starts a linear layer, U(±1/√D). Then x̂ is √(E / 3D) times as long as the feature, some 2 to
  5: longer than its text, so that the classifier's N(0, 0.01) is not dead on it, and short enough for the first steps,
  since the loss grows with its square (weights that keep the feature's length begin at up to five times that loss).
  It is drawn last: for the same seed a network with it starts from the backbone of the one without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from migcore.errors import ConfigError, DataError
from migcore.models.shares import Dropout

_EXPANSION = 4
_STRIDES = ((1, 2, 2), (1, 2, 2), (2, 2, 2))
_TEMPORAL_KERNELS = (1, 3, 3)


@dataclass(frozen=True)
class PoseC3DConfig:
    """What the network is built from.

    Attributes:
        in_channels: channels of the volume: keypoints or bones.
        num_classes: outputs.
        base_channels: width of the stem, 32 as published; the feature has 16 times as many channels.
        stage_blocks: residual blocks of the three stages.
        dropout: probability, on the pooled feature.
        embed_dim: size of the text embedding that the feature is mapped to; 0 for no such map, the published network.
        embedding: "series" (the classifier sees the embedding) or "parallel" (it sees the feature).
    """

    in_channels: int = 22
    num_classes: int = 32
    base_channels: int = 32
    stage_blocks: tuple[int, int, int] = (4, 6, 3)
    dropout: float = 0.5
    embed_dim: int = 0
    embedding: Literal["series", "parallel"] = "series"

    def __post_init__(self) -> None:
        if len(self.stage_blocks) != len(_STRIDES) or min(self.stage_blocks) < 1:
            raise ConfigError(
                f"stage_blocks {self.stage_blocks}", hint="PoseC3D has three stages of at least one block"
            )
        if min(self.in_channels, self.num_classes, self.base_channels) < 1:
            raise ConfigError("in_channels, num_classes and base_channels are at least 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout}", hint="a probability in [0, 1)")
        if self.embed_dim < 0:
            raise ConfigError(f"embed_dim {self.embed_dim}", hint="the size of the text embedding, or 0 for none")
        if self.embedding not in ("series", "parallel"):
            raise ConfigError(f"embedding {self.embedding!r}", hint="choose from series, parallel")

    @property
    def feature_channels(self) -> int:
        """Channels of the feature: 512 as published."""
        return self.base_channels * 2 ** (len(_STRIDES) - 1) * _EXPANSION


class ConvNorm(nn.Module):
    """Convolution without bias, "same" padding, and batch normalisation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int, int],
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(out_channels)

    def forward(self, x_BDTHW: Tensor) -> Tensor:
        """Convolve and normalise; no activation."""
        return self.bn(self.conv(x_BDTHW))


class Bottleneck(nn.Module):
    """1×1 to ``planes``, 3×3 in space (with the block's stride), 1×1 to four times ``planes``, plus the input.

    The first convolution also looks one frame back and ahead where ``temporal_kernel`` is 3.
    """

    def __init__(self, in_channels: int, planes: int, stride: tuple[int, int, int], temporal_kernel: int) -> None:
        super().__init__()
        out_channels = planes * _EXPANSION
        self.conv1 = ConvNorm(in_channels, planes, (temporal_kernel, 1, 1))
        self.conv2 = ConvNorm(planes, planes, (1, 3, 3), stride)
        self.conv3 = ConvNorm(planes, out_channels, (1, 1, 1))
        self.downsample: ConvNorm | None = None
        if in_channels != out_channels or stride != (1, 1, 1):
            self.downsample = ConvNorm(in_channels, out_channels, (1, 1, 1), stride)

    def forward(self, x_BDTHW: Tensor) -> Tensor:
        """Residual block; the activation comes after the addition."""
        y = F.relu(self.conv1(x_BDTHW), inplace=True)
        y = F.relu(self.conv2(y), inplace=True)
        y = self.conv3(y)
        return F.relu(y + (x_BDTHW if self.downsample is None else self.downsample(x_BDTHW)), inplace=True)


class SlowOnly(nn.Module):
    """The backbone: stem and three stages, each of which halves height and width (the third also the frames)."""

    def __init__(self, config: PoseC3DConfig) -> None:
        super().__init__()
        self.conv1 = ConvNorm(config.in_channels, config.base_channels, (1, 7, 7))
        self.layer1 = _stage(config, 0)
        self.layer2 = _stage(config, 1)
        self.layer3 = _stage(config, 2)

    def forward(self, x_BVTHW: Tensor) -> Tensor:
        """[B, V, T, H, W] → [B, D, T/2, H/8, W/8], halves rounded up."""
        x = F.relu(self.conv1(x_BVTHW), inplace=True)
        x = F.max_pool3d(x, (1, 3, 3), stride=1, padding=(0, 1, 1))  # keeps the size, as published
        return self.layer3(self.layer2(self.layer1(x)))


def _stage(config: PoseC3DConfig, stage: int) -> nn.Sequential:
    """Blocks of one stage; the first carries its stride, and each stage is twice as wide as the one before."""
    planes = config.base_channels * 2**stage
    channels = config.base_channels if stage == 0 else planes // 2 * _EXPANSION
    blocks = [Bottleneck(channels, planes, _STRIDES[stage], _TEMPORAL_KERNELS[stage])]
    for _ in range(1, config.stage_blocks[stage]):
        blocks.append(Bottleneck(planes * _EXPANSION, planes, (1, 1, 1), _TEMPORAL_KERNELS[stage]))
    return nn.Sequential(*blocks)


class Head(nn.Module):
    """Mean over time and space, dropout, linear classifier; the map to the text embedding before or beside it."""

    def __init__(self, config: PoseC3DConfig) -> None:
        super().__init__()
        self.series = config.embed_dim > 0 and config.embedding == "series"
        self.dropout = Dropout(config.dropout)
        self.fc_cls = nn.Linear(config.embed_dim if self.series else config.feature_channels, config.num_classes)
        self.fc_emb: nn.Linear | None = None
        if config.embed_dim:
            self.fc_emb = nn.Linear(config.feature_channels, config.embed_dim)

    def forward(self, x_BDTHW: Tensor) -> Tensor:
        """[B, D, T, H, W] → logits [B, C]."""
        x_BD = self.dropout(x_BDTHW.mean((2, 3, 4)))
        if self.fc_emb is not None and self.series:
            x_BD = self.fc_emb(x_BD)
        return self.fc_cls(x_BD)

    def with_embedding(self, x_BDTHW: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D, T, H, W] → logits [B, C] and x̂ [B, E], both of the same dropout.

        Raises:
            ConfigError: the model has no embedding.
        """
        if self.fc_emb is None:
            raise ConfigError(
                "this PoseC3D has no embedding", hint="set embed_dim to the size of the text embeddings, 512 for CLIP-B"
            )
        x_BD = self.dropout(x_BDTHW.mean((2, 3, 4)))
        embedding_BE = self.fc_emb(x_BD)
        return self.fc_cls(embedding_BE if self.series else x_BD), embedding_BE


class PoseC3D(nn.Module):
    """Heat-map volume to class logits.

    ``model.to(memory_format=torch.channels_last_3d)`` makes it up to 1.4 times faster on a CPU, and does not change
    what it computes.

    Args:
        config: sizes.
        generator: source of the initial weights, on the CPU; torch's own if not given.
    """

    def __init__(self, config: PoseC3DConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):  # so that only the draws below are made, none by the layers themselves
            self.backbone = SlowOnly(config)
            self.cls_head = Head(config)
        self.to_empty(device="cpu")
        self._initialise(generator)

    def _initialise(self, generator: torch.Generator | None) -> None:
        """As published: Kaiming (fan-out) convolutions, the last normalisation of a block 0, N(0, 0.01) classifier."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            elif isinstance(module, nn.BatchNorm3d):
                module.reset_running_stats()
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.conv3.bn.weight)
        nn.init.normal_(self.cls_head.fc_cls.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.cls_head.fc_cls.bias)
        if self.cls_head.fc_emb is not None:  # ours; last, so that it moves none of the draws above
            bound = self.config.feature_channels**-0.5
            nn.init.uniform_(self.cls_head.fc_emb.weight, -bound, bound, generator=generator)
            nn.init.uniform_(self.cls_head.fc_emb.bias, -bound, bound, generator=generator)

    def features(self, volume_BVTHW: Tensor) -> Tensor:
        """The backbone's last map.

        Args:
            volume_BVTHW: [B, V, T, H, W] heat-maps, floating, 0..1.

        Returns:
            [B, 16 · base_channels, T/2, H/8, W/8], halves rounded up, not negative.

        Raises:
            ConfigError: the volume has another number of channels than ``config.in_channels``.
        """
        if volume_BVTHW.ndim != 5 or volume_BVTHW.shape[1] != self.config.in_channels:
            raise ConfigError(
                f"a volume of shape {list(volume_BVTHW.shape)} for a model of {self.config.in_channels} channels",
                hint="volumes are [B, V, T, H, W]; in_channels is the number of keypoints, or of bones for limbs",
            )
        return self.backbone(volume_BVTHW)

    @overload
    def forward(self, volume_BVTHW: Tensor, *, with_embedding: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, volume_BVTHW: Tensor, *, with_embedding: Literal[True]) -> tuple[Tensor, Tensor]: ...

    def forward(self, volume_BVTHW: Tensor, *, with_embedding: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of heat-maps, and the embedding that :func:`alignment_loss` takes.

        Args:
            volume_BVTHW: [B, V, T, H, W] heat-maps, as in :meth:`features`.
            with_embedding: give x̂ too.

        Returns:
            logits [B, C], or logits and x̂ [B, E].

        Raises:
            ConfigError: as :meth:`features`, or x̂ is asked of a model that has none.
        """
        x = self.features(volume_BVTHW)
        return self.cls_head.with_embedding(x) if with_embedding else self.cls_head(x)


def alignment_loss(embedding_BE: Tensor, text_CE: Tensor, labels_B: Tensor, *, normalise: bool = False) -> Tensor:
    """Eq. 6's ℓ_emb: squared distance of x̂ to the text of its class, summed over E, averaged over the clips.

    With the sign that pulls: as printed, ``−1/N Σᵢ Σⱼ yᵢⱼ ‖x̂ᵢ − z^{t,i}‖²`` falls as the distance grows, so that
    minimising it pushes x̂ away, and the text is that of sample i, not of class j. The winner of 2023 averages over E:
    its weight of 20 is ``20 / E`` here.

    Args:
        embedding_BE: [B, E] x̂, from ``model(volume, with_embedding=True)``.
        text_CE: [C, E] one text per class; those of CLIP have length 1.
        labels_B: [B] integers 0..C-1.
        normalise: bring x̂ to length 1 first; the loss is then ``2 − 2 cos`` for texts of length 1. An x̂ of exact zeros
            stays as it is, and is pulled as without ``normalise``.

    Returns:
        a scalar, not negative, in float32 where the inputs have less.

    Raises:
        ConfigError: the embeddings are not [B, E] and [C, E] with the same E.
        DataError: there is no clip, or the labels are not B integers 0..C-1.
    """
    if embedding_BE.ndim != 2 or text_CE.ndim != 2 or embedding_BE.shape[1] != text_CE.shape[1]:
        raise ConfigError(
            f"embeddings of shape {list(embedding_BE.shape)} for texts of shape {list(text_CE.shape)}",
            hint="they are [B, E] and [C, E]; embed_dim of the model is the size of the text embeddings",
        )
    if len(embedding_BE) == 0:
        raise DataError("there is no clip to align")
    if labels_B.shape != embedding_BE.shape[:1] or labels_B.is_floating_point() or labels_B.dtype == torch.bool:
        raise DataError(
            f"labels of shape {list(labels_B.shape)}, {labels_B.dtype}, for {len(embedding_BE)} clips",
            hint="one integer per clip",
        )
    low, high = (int(end) for end in labels_B.aminmax())
    if low < 0 or high >= len(text_CE):
        raise DataError(
            f"label {low if low < 0 else high} of {len(text_CE)} classes", hint="labels are 0..C-1, one text each"
        )
    dtype = torch.promote_types(torch.promote_types(embedding_BE.dtype, text_CE.dtype), torch.float32)
    x, text = embedding_BE.to(dtype), text_CE.to(dtype)
    if normalise:
        length = x.norm(dim=1, keepdim=True)
        x = x / torch.where(length > 0, length, 1)  # no floor: it would give a zero x̂ a huge gradient
    return (x - text[labels_B.long()]).square().sum(1).mean()
