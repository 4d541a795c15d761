"""TRN: reasoning over ordered sets of frames (Zhou et al., ECCV 2018; a row of the paper's Table 1).

Letters: B clips, T frames (one per segment), s frames of a set, D features of a frame, C classes, H W pixels.

Choices:

* A clip is judged by g_T of all frames plus, for every smaller scale s, the g_s of some of the ordered sets of s frames
  (increasing in time). Training draws at most three sets per scale, the same for the whole batch, as published.
* The published code draws at test too, so that the same clip is judged differently each time. Here a test takes all
  sets, whose mean counts as many times as training would have drawn: the expected value of the published answer.
  ``at_test="random"`` is as published.
* Parameters have the publishers' names: ``new_fc`` and ``consensus.fc_fusion_scales.{i}.{1,3}``, i = 0 for scale T.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from migcore.errors import CheckpointError, ConfigError, DataError
from migcore.models.backbone import Pretrained, check_pretrained, image_backbone
from migcore.models.shares import Dropout
from migcore.models.weights import load_into


@dataclass(frozen=True)
class TRNConfig:
    """What the network is built from.

    Attributes:
        num_classes: outputs.
        segments: T.
        feature_dim: D.
        hidden: of the relations' networks: 256 as published for several scales, 512 for one.
        multiscale: scales T … 2; otherwise T alone.
        subsets: sets drawn per scale in training, at most.
        at_test: "all" sets; "spaced", as many as training draws, evenly spaced in the list of all (cheaper, and always
            the same); or "random" ones as published (then answers differ from call to call).
        reduce: "sum" over all terms, as published, or their "mean".
        dropout: probability, on what the backbone gives of a frame.
        backbone: a ResNet of timm (:func:`migcore.models.backbone.image_backbone`).
        backbone_width: of its layers, as a share of the published.
        pretrained: where its weights come from, "imagenet" as published.
        feature_std: deviation of the initial weights of the layer that makes the features; 0.001 as published, which
            suits a pretrained backbone: one that starts from nothing gets next to no gradient through it.
    """

    num_classes: int = 32
    segments: int = 8
    feature_dim: int = 256
    hidden: int = 256
    multiscale: bool = True
    subsets: int = 3
    at_test: Literal["all", "spaced", "random"] = "all"
    reduce: Literal["sum", "mean"] = "sum"
    dropout: float = 0.8
    backbone: str = "resnet50"
    backbone_width: float = 1.0
    pretrained: Pretrained = "none"
    feature_std: float = 1e-3

    def __post_init__(self) -> None:
        if min(self.num_classes, self.feature_dim, self.hidden, self.subsets) < 1:
            raise ConfigError("num_classes, feature_dim, hidden and subsets are at least 1")
        if self.segments < 2:
            raise ConfigError(f"segments {self.segments}", hint="a relation takes two frames at least")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout}", hint="a probability in [0, 1)")
        if not 0 < self.feature_std < float("inf"):
            raise ConfigError(f"feature_std {self.feature_std}", hint="above 0")
        if self.at_test not in ("all", "spaced", "random"):
            raise ConfigError(f"at_test {self.at_test!r}", hint="choose from all, spaced, random")
        check_pretrained(self.pretrained)
        if self.reduce not in ("sum", "mean"):
            raise ConfigError(f"reduce {self.reduce!r}", hint="choose from sum, mean")

    @property
    def scales(self) -> tuple[int, ...]:
        """Sizes of the sets, the largest first."""
        return tuple(range(self.segments, 1, -1)) if self.multiscale else (self.segments,)


def ordered_sets(frames: int, scale: int) -> Tensor:
    """All sets of ``scale`` of 0..frames-1, each increasing, in the order of :func:`itertools.combinations`: [n, s]."""
    return torch.tensor(list(itertools.combinations(range(frames), scale)))


def _network(config: TRNConfig, scale: int) -> nn.Sequential:
    inner = nn.Linear(scale * config.feature_dim, config.hidden)
    return nn.Sequential(nn.ReLU(), inner, nn.ReLU(), nn.Linear(config.hidden, config.num_classes))


class Relations(nn.Module):
    """Features of frames to class logits, through relations of several scales.

    Args:
        config: sizes.
        generator: source of the initial weights and of nothing else; torch's own if not given.
    """

    def __init__(self, config: TRNConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):  # so that only the draws below are made, none by the layers themselves
            networks = [_network(config, scale) for scale in config.scales]
        if config.multiscale:
            self.fc_fusion_scales = nn.ModuleList(networks)
        else:
            self.classifier = networks[0]
        self.to_empty(device="cpu")
        for module in self.modules():
            if isinstance(module, nn.Linear):
                _as_torch_draws(module, generator)

    def _at(self, scale: int) -> nn.Module:
        if scale not in self.config.scales:
            there = ", ".join(map(str, self.config.scales))
            raise ConfigError(f"no relation of {scale} frames", hint=f"there are {there}")
        return self.fc_fusion_scales[self.config.segments - scale] if self.config.multiscale else self.classifier

    def scale(self, x_BTD: Tensor, scale: int) -> Tensor:
        """g_s of each ordered set of ``scale`` of the frames given, summed over the sets.

        Args:
            x_BTD: features of T frames, in time order; with T = ``scale`` there is one set.
            scale: s.

        Returns:
            [B, C].

        Raises:
            ConfigError: there is no relation of that many frames.
            DataError: another shape or type, or fewer frames.
        """
        self._at(scale)
        dim = self.config.feature_dim
        if not _are_features(x_BTD) or x_BTD.shape[1] < scale or x_BTD.shape[2] != dim:
            raise DataError(
                f"features of shape {list(x_BTD.shape)} and type {x_BTD.dtype}",
                hint=f"a relation of {scale} frames takes floating [B, T, {dim}], T {scale} or more",
            )
        return self._of_sets(x_BTD, ordered_sets(x_BTD.shape[1], scale), scale).sum(1)

    def _of_sets(self, x_BTD: Tensor, sets_NS: Tensor, scale: int) -> Tensor:
        """[B, n, C]: g_s of each of n sets, its frames one behind the other."""
        return self._at(scale)(rearrange(x_BTD[:, sets_NS.to(x_BTD.device)], "b n s d -> b n (s d)"))

    def forward(self, x_BTD: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Logits.

        Args:
            x_BTD: [B, T, D] features of the frames, in time order.
            generator: of the sets that are drawn, on the CPU; torch's own if not given.

        Returns:
            [B, C].

        Raises:
            DataError: another shape or type.
        """
        config = self.config
        if not _are_features(x_BTD) or x_BTD.shape[1:] != (config.segments, config.feature_dim):
            raise DataError(
                f"features of shape {list(x_BTD.shape)} and type {x_BTD.dtype}",
                hint=f"this network takes floating [B, {config.segments}, {config.feature_dim}]",
            )
        total, terms = x_BTD.new_zeros(len(x_BTD), config.num_classes), 0
        for scale in config.scales:
            sets_NS = ordered_sets(config.segments, scale)
            count = min(config.subsets, len(sets_NS))
            if self.training or config.at_test == "random":
                drawn = torch.randperm(len(sets_NS), generator=generator)[:count]
                total = total + self._of_sets(x_BTD, sets_NS[drawn], scale).sum(1)
            elif config.at_test == "spaced":
                middles = (2 * torch.arange(count) + 1) * len(sets_NS) // (2 * count)
                total = total + self._of_sets(x_BTD, sets_NS[middles], scale).sum(1)
            else:
                total = total + count * self._of_sets(x_BTD, sets_NS, scale).mean(1)
            terms += count
        return total if config.reduce == "sum" else total / terms


class TRN(nn.Module):
    """A clip of frames to class logits.

    Args:
        config: sizes.
        generator: source of the initial weights, on the CPU; torch's own if not given.
    """

    def __init__(self, config: TRNConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.base_model, width = image_backbone(
            config.backbone, width=config.backbone_width, pretrained=config.pretrained, generator=generator
        )
        self.dropout = Dropout(config.dropout)
        with torch.device("meta"):
            self.new_fc = nn.Linear(width, config.feature_dim)
        self.new_fc.to_empty(device="cpu")
        nn.init.normal_(self.new_fc.weight, std=config.feature_std, generator=generator)
        nn.init.zeros_(self.new_fc.bias)
        self.consensus = Relations(config, generator=generator)

    def forward(self, video_B3THW: Tensor) -> Tensor:
        """Logits.

        Args:
            video_B3THW: [B, 3, T, H, W] floating, normalised, a frame of each segment in time order.

        Returns:
            [B, C].

        Raises:
            DataError: another shape or type.
        """
        shape = tuple(video_B3THW.shape)
        if len(shape) != 5 or shape[1:3] != (3, self.config.segments) or not video_B3THW.is_floating_point():
            raise DataError(
                f"a video of shape {list(shape)} and type {video_B3THW.dtype}",
                hint=f"this network takes normalised [B, 3, {self.config.segments}, H, W]",
            )
        frames_ND = self.base_model(rearrange(video_B3THW, "b c t h w -> (b t) c h w"))
        x_ND = self.new_fc(self.dropout(frames_ND))
        return self.consensus(rearrange(x_ND, "(b t) d -> b t d", b=shape[0]))


def _are_features(x: Tensor) -> bool:
    return x.ndim == 3 and x.is_floating_point()


def _as_torch_draws(layer: nn.Linear, generator: torch.Generator | None) -> None:
    """U(±1/√inputs) for weight and bias, torch's own start, from a generator."""
    bound = layer.in_features**-0.5
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def from_published(state: Mapping[str, Tensor], where: str | Path) -> Relations:
    """The relations of a published file, in evaluation mode; sizes are taken from the shapes.

    Args:
        state: entries with or without ``consensus.``; those of the backbone and of ``new_fc`` are not read.
        where: the file, for messages.

    Raises:
        CheckpointError: there are no relations, or they are not whole.
    """
    prefix = "consensus." if any(name.startswith("consensus.") for name in state) else ""
    known = (f"{prefix}fc_fusion_scales.", f"{prefix}classifier.")
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(known)}
    first = "fc_fusion_scales.0" if "fc_fusion_scales.0.1.weight" in own else "classifier"
    inner, last = own.get(f"{first}.1.weight"), own.get(f"{first}.3.weight")
    if inner is None or last is None or inner.ndim != 2 or last.ndim != 2 or inner.shape[1] < 2:
        raise CheckpointError(
            f"the file is not of a TRN: its entries begin {', '.join(list(state)[:3])}",
            where=where,
            hint="published ones name them consensus.fc_fusion_scales.0.1.weight …, or consensus.classifier.1.weight …",
        )
    multiscale = first != "classifier"
    second = own.get("fc_fusion_scales.1.1.weight")
    # Scale T is one frame wider than scale T - 1; with a single scale the frames are told by nothing but convention.
    width = inner.shape[1] - second.shape[1] if second is not None and second.ndim == 2 else 0
    dim = width if multiscale and width > 0 else _single_dim(inner.shape[1], multiscale)
    if inner.shape[1] // dim < 2:
        raise CheckpointError(
            f"{prefix}{first}.1.weight has {inner.shape[1]} inputs, one frame of {dim} features",
            where=where,
            hint="a relation takes two frames at least",
        )
    model = Relations(
        TRNConfig(
            num_classes=last.shape[0],
            segments=inner.shape[1] // dim,
            feature_dim=dim,
            hidden=inner.shape[0],
            multiscale=multiscale,
        ),
        generator=torch.Generator(),
    )
    load_into(model, own, where)
    return model.eval()


def _single_dim(inputs: int, multiscale: bool) -> int:
    """D where one scale alone tells T · D: T = 2 of several scales, else the published D."""
    return inputs // 2 if multiscale or inputs % TRNConfig.feature_dim else TRNConfig.feature_dim
