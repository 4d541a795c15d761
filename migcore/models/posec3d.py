"""PoseC3D: SlowOnly-50 on heat-map volumes (paper, section 2.4; PoseC3D, CVPR 2022), all of it.

Letters: B clips, V keypoints (or bones: one channel each), T frames, H W pixels, C classes, D width.

Choices, all as published: three stages (the last three of a ResNet-50's four, with 4, 6 and 3 blocks), half its width;
nothing is halved before stage 1, and time only in stage 3, since a heat-map is small already; convolution over time
(3×1×1) only in stages 2 and 3. The names of the parameters are the publishers', so their checkpoints load as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from migcore.errors import ConfigError

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
        dropout: probability, before the classifier.
    """

    in_channels: int = 22
    num_classes: int = 32
    base_channels: int = 32
    stage_blocks: tuple[int, int, int] = (4, 6, 3)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if len(self.stage_blocks) != len(_STRIDES) or min(self.stage_blocks) < 1:
            raise ConfigError(
                f"stage_blocks {self.stage_blocks}", hint="PoseC3D has three stages of at least one block"
            )
        if min(self.in_channels, self.num_classes, self.base_channels) < 1:
            raise ConfigError("in_channels, num_classes and base_channels are at least 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout}", hint="a probability in [0, 1)")

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
    """Mean over time and space, dropout, linear classifier."""

    def __init__(self, config: PoseC3DConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.fc_cls = nn.Linear(config.feature_channels, config.num_classes)

    def forward(self, x_BDTHW: Tensor) -> Tensor:
        """[B, D, T, H, W] → logits [B, C]."""
        return self.fc_cls(self.dropout(x_BDTHW.mean((2, 3, 4))))


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

    def forward(self, volume_BVTHW: Tensor) -> Tensor:
        """Logits [B, C] of heat-maps [B, V, T, H, W]; raises as :meth:`features` does."""
        return self.cls_head(self.features(volume_BVTHW))
