"""DSCNet: dense video and sparse skeleton, a network each (Cheng et al., Expert Systems with Applications 244, 2024).

"Dense" is the video: windows of consecutive frames, each made into one image (:class:`STMEM`), then a ResNet whose
blocks shift channels in time (TSM, ICCV 2019). "Sparse" is the skeleton: one frame of each segment, seen as an image of
frames by keypoints (:class:`SparseMSST`). Their scores are fused afterwards (:mod:`migcore.ensemble`).

Letters: B clips, S segments, P persons, T frames, V keypoints, H W pixels, D channels, C classes, N images, K = 3 · T.

Choices:

* Parameters have the publishers' names (without "model." in the skeleton network). The published one drops every axis
  of length 1 after its pooling (``squeeze``) and so fails on a single image; here only the axes pooled over go.
* Logits are averaged over the persons there are. The published data always hold two, the second of zeros where one is
  seen; whoever wants that gives two, since a person of zeros has logits too.
* Published weights start from ImageNet, for skeletons by a training that is not public. Here the ResNet can, the
  skeleton network starts from He's normal and TSN's N(0, 0.001) classifier, STMEM as torch starts a convolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from migcore.errors import CheckpointError, ConfigError, DataError
from migcore.models.backbone import Pretrained, check_pretrained, image_backbone
from migcore.models.shares import Dropout
from migcore.models.weights import load_into

_WIDTHS = ((44, 60), (48, 80), (56, 120), (160, 160), (72, 200), (240, 240), (320, 320))
_LAST = _WIDTHS[-1][0]
_RGB = 3


# --- skeleton ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SparseConfig:
    """The skeleton network.

    Attributes:
        num_classes: outputs.
        width: of all layers, as a share of the published; in steps of 1/320, the channels of the last block's branches.
        dropout: probability, on the pooled feature; 0.8 to 0.9 as published.
    """

    num_classes: int = 32
    width: float = 1.0
    dropout: float = 0.8

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ConfigError(f"num_classes {self.num_classes} is below 1")
        if not 1 / _LAST <= self.width < math.inf:
            raise ConfigError(f"width {self.width}", hint=f"1 as published, a share of it from 1/{_LAST} up")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout}", hint="a probability in [0, 1)")

    @property
    def widths(self) -> tuple[tuple[int, int], ...]:
        """Channels of each of the seven blocks: of branch conv1, and of each of the other three."""
        last = round(self.width * _LAST)  # a whole number, so that shapes alone tell all widths
        return tuple((max(1, round(a * last / _LAST)), max(1, round(b * last / _LAST))) for a, b in _WIDTHS)


class Branches(nn.Module):
    """Four branches over an image of frames (rows) by keypoints (columns), one after the other in the output.

    Their kernels are 1×1 | 1×1, 3×3 | 1×1, 5×1, 1×5 | 1×1, 7×1, 1×7, each with bias, "same" padding, batch
    normalisation and ReLU.

    Args:
        channels: of the input.
        widths: outputs of the first branch, and of each of the others.
        stride: in time, at the first kernel of a branch that is longer than 1 in time (the 1×1 of the first branch).
    """

    def __init__(self, channels: int, widths: tuple[int, int], stride: int = 1) -> None:
        super().__init__()
        one, d = widths
        self.conv1 = nn.Sequential(*_layer(channels, one, (1, 1), stride))
        self.conv3 = nn.Sequential(*_layer(channels, d, (1, 1)), *_layer(d, d, (3, 3), stride))
        self.conv5 = nn.Sequential(*_layer(channels, d, (1, 1)), *_layer(d, d, (5, 1), stride), *_layer(d, d, (1, 5)))
        self.conv7 = nn.Sequential(*_layer(channels, d, (1, 1)), *_layer(d, d, (7, 1), stride), *_layer(d, d, (1, 7)))

    def forward(self, x_NDTV: Tensor) -> Tensor:
        """[N, D, T, V] → [N, D', T/stride, V], the quotient rounded up."""
        return torch.cat([self.conv1(x_NDTV), self.conv3(x_NDTV), self.conv5(x_NDTV), self.conv7(x_NDTV)], 1)


def _layer(channels: int, outputs: int, kernel: tuple[int, int], stride: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(channels, outputs, kernel, (stride, 1), (kernel[0] // 2, kernel[1] // 2))
    return conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def _halve_keypoints(channels: int) -> nn.Sequential:
    pool = nn.AvgPool2d(3, stride=(1, 2), padding=1)  # the zeros around count
    return nn.Sequential(pool, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class SparseMSST(nn.Module):
    """Skeleton clip to class logits: seven :class:`Branches`, mean over frames and keypoints, linear classifier.

    Args:
        config: sizes.
        generator: source of the initial weights, on the CPU; torch's own if not given.
    """

    def __init__(self, config: SparseConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        outputs = [one + 3 * other for one, other in config.widths]
        with torch.device("meta"):  # so that only the draws below are made, none by the layers themselves
            self.m1, self.m2, self.m3, self.m4, self.m5, self.m6, self.m7 = (
                Branches(channels, widths, stride=2 if place == 4 else 1)
                for place, (channels, widths) in enumerate(zip([3, *outputs[:-1]], config.widths, strict=True))
            )
            self.avgpool = _halve_keypoints(outputs[2])
            self.avgpool2 = _halve_keypoints(outputs[4])
            self.dropout = Dropout(config.dropout)
            self.last_linear = nn.Linear(outputs[-1], config.num_classes)
        self.to_empty(device="cpu")
        self._initialise(generator)

    def _initialise(self, generator: torch.Generator | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        _initialise_classifier(self.last_linear, generator)

    def forward(self, x_BPCTV: Tensor) -> Tensor:
        """Logits of skeletons.

        Args:
            x_BPCTV: [B, P, 3, T, V] floating: x, y and confidence of V keypoints in T frames (one of each segment, 8 as
                published); also their bones or motion.

        Returns:
            logits [B, C], the mean over the P persons.

        Raises:
            DataError: another shape or type.
        """
        shape = list(x_BPCTV.shape)
        if len(shape) != 5 or shape[2] != 3 or 0 in shape or not x_BPCTV.is_floating_point():
            raise DataError(
                f"skeletons of shape {shape} and type {x_BPCTV.dtype}", hint="they are floating [B, P, 3, T, V]"
            )
        x = rearrange(x_BPCTV, "b p c t v -> (b p) c t v")
        x = self.avgpool(self.m3(self.m2(self.m1(x))))
        x = self.avgpool2(self.m5(self.m4(x)))
        x = reduce(self.m7(self.m6(x)), "n d t v -> n d", "mean")
        return reduce(self.last_linear(self.dropout(x)), "(b p) c -> b c", "mean", p=shape[1])


def _initialise_classifier(linear: nn.Linear, generator: torch.Generator | None) -> None:
    nn.init.normal_(linear.weight, std=0.001, generator=generator)
    nn.init.zeros_(linear.bias)


def sparse_from_published(state: Mapping[str, Tensor], where: str | Path) -> SparseMSST:
    """Published skeleton weights as our network in evaluation mode; the width is taken from the shapes.

    Args:
        state: model.m1.conv1.0.weight … model.last_linear.bias.
        where: the file they come from, for messages.

    Raises:
        CheckpointError: the entries are not those of such a network, each with its shape, none missing or too many.
    """
    ours = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    last, classifier = ours.get("m7.conv1.0.weight"), ours.get("last_linear.weight")
    named = all(name.startswith("model.") for name in state)
    if not named or last is None or classifier is None or not (last.numel() and classifier.numel()):
        raise CheckpointError(
            f"the file is not of DSCNet's skeleton network: its entries begin {', '.join(list(state)[:3])}",
            where=where,
            hint="its publisher names them model.m1.conv1.0.weight … model.last_linear.bias",
        )
    config = SparseConfig(num_classes=classifier.shape[0], width=last.shape[0] / _LAST)
    model = SparseMSST(config, generator=torch.Generator())  # torch's own stays as it is
    load_into(model, ours, where)
    return model.eval()


# --- video ------------------------------------------------------------------------------------------------------------


class STMEM(nn.Module):
    """A window of frames to one image: their mixture, each pixel weighed by the largest step of its colour.

    Args:
        window: frames of a segment.
        generator: source of the initial weights, on the CPU; torch's own if not given.
    """

    def __init__(self, window: int = 6, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if window < 2:
            raise ConfigError(f"window {window}", hint="a step needs two frames")
        self.window = window
        with torch.device("meta"):
            mixture = nn.Conv2d(_RGB * (2 * window - 1), _RGB, 3, padding=1)
            gate = nn.Conv2d(_RGB, _RGB, 3, padding=1)
            self.m1, self.m2 = nn.Sequential(mixture), nn.Sequential(gate, nn.Sigmoid())
        self.to_empty(device="cpu")
        for conv in (mixture, gate):
            bound = (9 * conv.in_channels) ** -0.5
            for values in conv.parameters():
                nn.init.uniform_(values, -bound, bound, generator=generator)

    def forward(self, x_BKHW: Tensor) -> Tensor:
        """The images of the segments.

        Args:
            x_BKHW: [B, S · window · 3, H, W] floating, by segment, then frame, then colour.

        Returns:
            [B · S, 3, H, W].

        Raises:
            DataError: another type, or channels that are not whole segments.
        """
        per_segment = _RGB * self.window
        shape = list(x_BKHW.shape)
        if len(shape) != 4 or 0 in shape or shape[1] % per_segment or not x_BKHW.is_floating_point():
            raise DataError(
                f"frames of shape {shape} and type {x_BKHW.dtype}",
                hint=f"they are floating [B, S · {per_segment}, H, W], {self.window} frames of 3 colours per segment",
            )
        frames = rearrange(x_BKHW, "b (s f c) h w -> (b s) f c h w", f=self.window, c=_RGB)
        steps = frames[:, 1:] - frames[:, :-1]
        image = self.m1(rearrange([*frames.unbind(1), *steps.unbind(1)], "f n c h w -> n (f c) h w"))
        return image * self.m2(steps.amax(1))  # the largest with its sign: a fall counts only where nothing rises


def stmem_from_published(state: Mapping[str, Tensor], where: str | Path) -> STMEM:
    """Published weights of STMEM (m1.0.*, m2.0.*) in evaluation mode; the window is taken from the shapes.

    Raises:
        CheckpointError: the entries are not those of STMEM, each with its shape, none missing or too many.
    """
    mixing = state.get("m1.0.weight")
    window = 0 if mixing is None or mixing.ndim != 4 else (mixing.shape[1] // _RGB + 1) // 2
    if window < 2:
        raise CheckpointError(
            f"the file is not of STMEM: its entries begin {', '.join(list(state)[:3])}",
            where=where,
            hint="its publisher names them m1.0.weight, m1.0.bias, m2.0.weight, m2.0.bias",
        )
    model = STMEM(window, generator=torch.Generator())
    load_into(model, state, where)
    return model.eval()


def temporal_shift(x_NDHW: Tensor, frames: int, share: float) -> Tensor:
    """Channels moved in time (TSM): the first share comes from the frame after, the next from the one before.

    Args:
        x_NDHW: [N, D, H, W], the frames of a clip one after the other.
        frames: of a clip.
        share: of the D channels, to each side, rounded down; at most 1/2.

    Returns:
        [N, D, H, W]; zeros where a clip has no frame after or before.

    Raises:
        ConfigError: another share.
        DataError: N images are not whole clips.
    """
    if not 0 <= share <= 0.5:
        raise ConfigError(f"a share of {share} of the channels moves to each side", hint="it is from 0 to 1/2")
    if frames < 1 or x_NDHW.ndim != 4 or len(x_NDHW) % frames:
        raise DataError(
            f"images of shape {list(x_NDHW.shape)} are not clips of {frames}", hint="they are [B · T, D, H, W]"
        )
    channels = x_NDHW.shape[1]
    moved = math.floor(channels * share + 1e-6)  # 49 · (1 / 49) is a little below 1
    x = rearrange(x_NDHW, "(b t) d h w -> b t d h w", t=frames)
    after, before, own = x.split([moved, moved, channels - 2 * moved], dim=2)
    after, before = F.pad(after[:, 1:], (0,) * 7 + (1,)), F.pad(before[:, :-1], (0,) * 6 + (1, 0))
    return rearrange(torch.cat([after, before, own], 2), "b t d h w -> (b t) d h w")


class TemporalShift(nn.Module):
    """:func:`temporal_shift`, then ``net``."""

    def __init__(self, net: nn.Module, frames: int, share: float) -> None:
        super().__init__()
        self.net, self.frames, self.share = net, frames, share

    def forward(self, x_NDHW: Tensor) -> Tensor:
        """Shift the channels of [N, D, H, W] and hand them on."""
        return self.net(temporal_shift(x_NDHW, self.frames, self.share))


@dataclass(frozen=True)
class DenseConfig:
    """The video network.

    Attributes:
        num_classes: outputs.
        segments: windows of a clip.
        window: frames of each.
        backbone: name of a ResNet, as :func:`~migcore.models.backbone.image_backbone` takes it.
        backbone_width: of its layers, as a share of the published.
        pretrained: where its weights come from, "imagenet" as published.
        shift_div: one in this many channels moves to each side.
        dropout: probability, on the feature of each segment.
    """

    num_classes: int = 32
    segments: int = 8
    window: int = 6
    backbone: str = "resnet50"
    backbone_width: float = 1.0
    pretrained: Pretrained = "none"
    shift_div: int = 8
    dropout: float = 0.5

    def __post_init__(self) -> None:
        if min(self.num_classes, self.segments) < 1:
            raise ConfigError("num_classes and segments are at least 1")
        check_pretrained(self.pretrained)
        if self.window < 2:
            raise ConfigError(f"window {self.window}", hint="a step needs two frames")
        if self.shift_div < 2:
            raise ConfigError(f"shift_div {self.shift_div}", hint="two shares of 1/shift_div move: at least 2")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout}", hint="a probability in [0, 1)")


class DenseStream(nn.Module):
    """Video to class logits: STMEM, a ResNet with a shift before the first convolution of each block, a mean.

    Args:
        config: sizes.
        generator: source of the initial weights, on the CPU; torch's own if not given.

    Raises:
        ConfigError: the backbone is unknown or has no residual blocks.
        CheckpointError: its weights are to be fetched and cannot be.
    """

    def __init__(self, config: DenseConfig, *, generator: torch.Generator | None = None) -> None:
        from timm.models.resnet import BasicBlock, Bottleneck  # takes seconds, and skeletons need none of it

        super().__init__()
        self.config = config
        self.backbone, width = image_backbone(
            config.backbone, width=config.backbone_width, pretrained=config.pretrained, generator=generator
        )
        blocks = [module for module in self.backbone.modules() if isinstance(module, (BasicBlock, Bottleneck))]
        if not blocks:
            raise ConfigError(f"backbone {config.backbone!r} has no residual blocks", hint="choose a ResNet")
        for block in blocks:
            block.add_module("conv1", TemporalShift(block.conv1, config.segments, 1 / config.shift_div))
        self.stmem = STMEM(config.window, generator=generator)
        self.dropout = Dropout(config.dropout)
        with torch.device("meta"):
            self.fc = nn.Linear(width, config.num_classes)
        self.fc.to_empty(device="cpu")
        _initialise_classifier(self.fc, generator)

    def forward(self, video_B3THW: Tensor) -> Tensor:
        """Logits of clips.

        Args:
            video_B3THW: [B, 3, T, H, W] floating, mean and deviation taken out, T = segments · window, the windows one
                after the other.

        Returns:
            logits [B, C], the mean over the segments.

        Raises:
            DataError: another shape or type.
        """
        shape, config = list(video_B3THW.shape), self.config
        frames = config.segments * config.window
        if len(shape) != 5 or shape[1:3] != [_RGB, frames] or 0 in shape or not video_B3THW.is_floating_point():
            raise DataError(
                f"a video of shape {shape} and type {video_B3THW.dtype}",
                hint=f"{config.segments} windows of {config.window} frames are normalised [B, 3, {frames}, H, W]",
            )
        images = self.stmem(rearrange(video_B3THW, "b c t h w -> b (t c) h w"))
        logits = self.fc(self.dropout(self.backbone(images)))
        return reduce(logits, "(b s) c -> b c", "mean", s=config.segments)
