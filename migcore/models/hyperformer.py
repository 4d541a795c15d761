"""Hyperformer: attention among the keypoints of a frame, aware of bones and of body parts (Zhou et al., 2022).

Its hypergraph is a partition of the keypoints into body parts (the hyperedges), which attention sees besides the
keypoints; despite its place among graph networks in the tables, it convolves over no graph.

Letters: N clips, M persons, T frames, V keypoints, G parts, H heads, D channels, C classes; I from, J to (keypoints).

Choices:

* The published code has no MLP after the attention, no drop-path and no dropout, so there is none here.
* Normalisation of the input is per person, so that a model has a number of persons; all else is shared by them.
* Parameters have the publishers' names. Parts and distances are not in their files: they are given again.
* Widths divide by heads, by the 4 branches over time and by the 6 groups of the attention's last convolution.
* Attention starts without effect: alpha, ``rpe`` and ``w1`` 0, ``outer`` the identity. What acts over time starts as in
  CTR-GCN, its origin (Kaiming, fan-out); the classifier's weights from N(0, 2/C); the rest as torch starts it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from migcore.errors import CheckpointError, ConfigError, DataError
from migcore.models.stgcn import Bones, hops
from migcore.models.weights import load_into

_BRANCHES, _PROJ_GROUPS = 4, 6
_HALVING = (5, 8)  # units that halve the frames, counted from 1 as their names are

IMIGUE_GROUPS = (0, 1, 1, 2, 2, 1, 3, 3, 0, 0, 0, 0, 5, 5, 5, 5, 5, 4, 4, 4, 4, 4)
"""The part of each of iMiGUE's 22 keypoints (:data:`migcore.data.layouts.IMIGUE22`), in six parts.

0 head: Nose, eyes, ears. 1 torso: Neck, shoulders. 2 arm: ElbowLeft, HandLeft (the wrist). 3 arm: ElbowRight,
HandRight. 4 hand: LeftFinger1–5. 5 hand: RightFinger1–5. A wrist moves with its elbow, so it is of the arm.
"""


@dataclass(frozen=True)
class HyperformerConfig:
    """What the network is built from, besides the skeleton.

    Attributes:
        in_channels: of a keypoint: 3 for x, y and score.
        num_classes: outputs.
        width: channels of all units, 216 as published; it divides by ``heads``, 4 and 6.
        heads: of the attention, 9 as published.
        depth: units, 10 as published; the 5th and the 8th, where there are so many, halve the frames.
    """

    in_channels: int = 3
    num_classes: int = 32
    width: int = 216
    heads: int = 9
    depth: int = 10

    def __post_init__(self) -> None:
        if min(self.in_channels, self.num_classes, self.width, self.heads, self.depth) < 1:
            raise ConfigError("in_channels, num_classes, width, heads and depth are at least 1")
        parts = {"heads": self.heads, "branches over time": _BRANCHES, "groups of the projection": _PROJ_GROUPS}
        for name, count in parts.items():
            if self.width % count:
                raise ConfigError(
                    f"width {self.width} does not divide by the {count} {name}",
                    hint=f"a multiple of 12 that divides by the {self.heads} heads, such as {12 * self.heads}",
                )


# --- in space ---------------------------------------------------------------------------------------------------------


class PartAttention(nn.Module):
    """Attention among the keypoints of a frame, whose logits also see how far they are and which parts they are of.

    For query i and key j of a head of d channels, with e_j of j's part and R (``rpe``) of the bones from i to j:
    ``logit_ij = (q_i·k_j + q_i·R + q_i·e_j + w·e_j) / √d``. The output is ``Σ_j (alpha · softmax_ij + outer_ij) v_j``.
    """

    def __init__(self, in_channels: int, width: int, heads: int, num_joints: int, max_hops: int) -> None:
        super().__init__()
        self.heads = heads
        self.rpe = nn.Parameter(torch.empty(max_hops + 1, width))
        self.w1 = nn.Parameter(torch.empty(heads, width // heads))
        self.outer = nn.Parameter(torch.empty(heads, num_joints, num_joints))
        self.alpha = nn.Parameter(torch.empty(1))
        self.kv = nn.Conv2d(in_channels, 2 * width, 1, bias=False)
        self.q = nn.Conv2d(in_channels, width, 1, bias=False)
        self.proj = nn.Conv2d(width, width, 1, groups=_PROJ_GROUPS)

    def forward(self, x_NDTV: Tensor, e_NDTV: Tensor, hops_VV: Tensor) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            x_NDTV: [N, D, T, V] keypoints.
            e_NDTV: [N, width, T, V] the part of each.
            hops_VV: [V, V] bones between them, int64.

        Returns:
            [N, width, T, V], and the soft-max [N, H, T, I, J], which sums to 1 over J.
        """
        k, v = self.kv(x_NDTV).chunk(2, dim=1)
        q, k, v, e = (
            rearrange(each, "n (h d) t v -> n h t v d", h=self.heads) for each in (self.q(x_NDTV), k, v, e_NDTV)
        )
        far = rearrange(self.rpe[hops_VV], "i j (h d) -> h i d j", h=self.heads)
        logits = q @ (k + e).transpose(-1, -2)  # q·k + q·e
        logits = logits + torch.einsum("nhtid,hidj->nhtij", q, far)
        logits = logits + torch.einsum("hd,nhtjd->nhtj", self.w1, e).unsqueeze(-2)
        attention = torch.softmax(logits * q.shape[-1] ** -0.5, dim=-1)
        mixed = (self.alpha * attention + self.outer[:, None]) @ v
        return self.proj(rearrange(mixed, "n h t i d -> n (h d) t i")), attention


class SpatialUnit(nn.Module):
    """Normalisation and :class:`PartAttention`, plus the input."""

    def __init__(self, in_channels: int, width: int, heads: int, num_joints: int, max_hops: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(in_channels)
        self.attn = PartAttention(in_channels, width, heads, num_joints, max_hops)
        self.skip_proj = nn.Conv2d(in_channels, width, 1, bias=False) if in_channels != width else None
        self.pe_proj = nn.Conv2d(in_channels, width, 1, bias=False)

    def forward(self, x_NDTV: Tensor, parts_GV: Tensor, hops_VV: Tensor) -> tuple[Tensor, Tensor]:
        """[N, D, T, V] and who is of which part (1, else 0) → [N, width, T, V] and the soft-max [N, H, T, V, V]."""
        mean_VG = (parts_GV / parts_GV.sum(1, keepdim=True)).T
        e = self.pe_proj(x_NDTV @ mean_VG) @ parts_GV  # of the input before its normalisation
        normed = rearrange(self.norm1(rearrange(x_NDTV, "n d t v -> n t v d")), "n t v d -> n d t v")
        y, attention = self.attn(normed, e, hops_VV)
        return y + (x_NDTV if self.skip_proj is None else self.skip_proj(x_NDTV)), attention


# --- in time ----------------------------------------------------------------------------------------------------------


class ConvNorm(nn.Module):
    """Convolution over time and batch normalisation."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(in_channels, channels, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x_NDTV: Tensor) -> Tensor:
        """[N, D, T, V] → [N, D', T/stride, V], the quotient rounded up; no activation."""
        return self.bn(self.conv(x_NDTV))


class TemporalBranches(nn.Module):
    """Four branches over time, one after the other in the output: 5 frames, 5 of 9, the largest of 3, one frame."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        d = width // _BRANCHES
        self.branches = nn.ModuleList(
            [
                nn.Sequential(*_pointwise(width, d), ConvNorm(d, d, 5, stride, dilation=1)),
                nn.Sequential(*_pointwise(width, d), ConvNorm(d, d, 5, stride, dilation=2)),
                nn.Sequential(*_pointwise(width, d), nn.MaxPool2d((3, 1), (stride, 1), (1, 0)), nn.BatchNorm2d(d)),
                nn.Sequential(nn.Conv2d(width, d, 1, (stride, 1)), nn.BatchNorm2d(d)),
            ]
        )

    def forward(self, x_NDTV: Tensor) -> Tensor:
        """[N, D, T, V] → [N, D, T/stride, V], the quotient rounded up."""
        return torch.cat([branch(x_NDTV) for branch in self.branches], 1)


def _pointwise(in_channels: int, channels: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(in_channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)


class Unit(nn.Module):
    """Attention in space, branches over time, plus the input."""

    def __init__(self, in_channels: int, width: int, heads: int, stride: int, num_joints: int, max_hops: int) -> None:
        super().__init__()
        self.vit1 = SpatialUnit(in_channels, width, heads, num_joints, max_hops)
        self.tcn1 = TemporalBranches(width, stride)
        self.residual: ConvNorm | None = None
        if in_channels != width or stride > 1:
            self.residual = ConvNorm(in_channels, width, 1, stride)

    def forward(self, x_NDTV: Tensor, parts_GV: Tensor, hops_VV: Tensor) -> tuple[Tensor, Tensor]:
        """[N, D, T, V] → [N, width, T/stride, V], not negative, and the soft-max [N, H, T, V, V]."""
        y, attention = self.vit1(x_NDTV, parts_GV, hops_VV)
        y = self.tcn1(y) + (x_NDTV if self.residual is None else self.residual(x_NDTV))
        return F.relu(y, inplace=True), attention


# --- the network ------------------------------------------------------------------------------------------------------


class Hyperformer(nn.Module):
    """Sequence of skeletons to class logits.

    Args:
        config: sizes.
        num_joints: V.
        bones: pairs of keypoint numbers 0..V-1, which connect all keypoints.
        joint_groups: the part of each keypoint: V numbers 0..G-1, such as :data:`IMIGUE_GROUPS`.
        persons: M, in every sequence.
        generator: source of the initial weights, on the CPU; torch's own if not given.

    Raises:
        ConfigError: the bones do not connect the keypoints, or the parts are not V numbers 0..G-1, each in use.
    """

    hops_VV: Tensor
    parts_GV: Tensor

    def __init__(
        self,
        config: HyperformerConfig,
        num_joints: int,
        bones: Bones,
        joint_groups: Sequence[int],
        persons: int = 1,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if persons < 1:
            raise ConfigError(f"persons {persons} is below 1")
        distance_VV, parts_GV = _connected(num_joints, bones), _membership(num_joints, joint_groups)
        self.config, self.num_joints, self.persons = config, num_joints, persons
        with torch.device("meta"):  # so that only the draws below are made, none by the layers themselves
            self.data_bn = nn.BatchNorm1d(persons * num_joints * config.in_channels)
            for number in range(1, config.depth + 1):
                unit = Unit(
                    config.in_channels if number == 1 else config.width,
                    config.width,
                    config.heads,
                    2 if number in _HALVING else 1,
                    num_joints,
                    int(distance_VV.max()),
                )
                self.add_module(f"l{number}", unit)
            self.fc = nn.Linear(config.width, config.num_classes)
        self.to_empty(device="cpu")
        self.register_buffer("hops_VV", distance_VV, persistent=False)
        self.register_buffer("parts_GV", parts_GV, persistent=False)
        self._initialise(generator)

    def _initialise(self, generator: torch.Generator | None) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and (".tcn1." in name or ".residual." in name):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
                nn.init.zeros_(cast(Tensor, module.bias))
            elif isinstance(module, nn.Conv2d | nn.Linear):
                bound = module.weight[0].numel() ** -0.5  # torch's own start
                for values in module.parameters():
                    nn.init.uniform_(values, -bound, bound, generator=generator)
            elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, PartAttention):
                for zero in (module.rpe, module.w1, module.alpha):
                    nn.init.zeros_(zero)
                module.outer.data.copy_(torch.eye(self.num_joints).expand_as(module.outer))
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.reset_running_stats()
                if ".tcn1." in name:
                    nn.init.normal_(module.weight, 1.0, 0.02, generator=generator)
        nn.init.normal_(self.fc.weight, std=(2 / self.config.num_classes) ** 0.5, generator=generator)

    @property
    def units(self) -> list[Unit]:
        """The ``config.depth`` units, first to last."""
        return [cast(Unit, getattr(self, f"l{number}")) for number in range(1, self.config.depth + 1)]

    def forward(self, x_NCTVM: Tensor) -> Tensor:
        """Logits of sequences.

        Args:
            x_NCTVM: [N, C, T, V, M] floating: ``config.in_channels`` numbers (x, y, score) of V keypoints in T ≥ 1
                frames (64 as published) of M persons, zeros where missing.

        Returns:
            logits [N, C], of the mean over frames, keypoints and persons.

        Raises:
            DataError: another shape or type.
        """
        x = self._placed(x_NCTVM)
        for unit in self.units:
            x, _ = unit(x, self.parts_GV, self.hops_VV)
        return self.fc(reduce(x, "(n m) d t v -> n d", "mean", m=self.persons))

    @torch.no_grad()
    def attention(self, x_NCTVM: Tensor) -> tuple[Tensor, ...]:
        """What each keypoint looks at, unit by unit, for pictures; without gradients.

        Meant for a model in evaluation mode: in training mode the batch normalisations take note of the clips.

        Args:
            x_NCTVM: as in :meth:`forward`.

        Returns:
            for each unit the soft-max [N · M, H, T', I, J] (person m of clip n is row n·M + m), whose rows I sum to 1
            over J; T' is T, halved (rounded up) after the 5th and after the 8th unit. What moves the keypoints is
            ``attn.alpha`` times it plus ``attn.outer`` [H, I, J] of the unit's ``vit1``.

        Raises:
            DataError: as :meth:`forward`.
        """
        x, maps = self._placed(x_NCTVM), []
        for unit in self.units:
            x, attention = unit(x, self.parts_GV, self.hops_VV)
            maps.append(attention)
        return tuple(maps)

    def _placed(self, x_NCTVM: Tensor) -> Tensor:
        """The checked and normalised input, a row per person: [N · M, C, T, V]."""
        shape, wanted = list(x_NCTVM.shape), [self.config.in_channels, self.num_joints, self.persons]
        right = len(shape) == 5 and [shape[1], *shape[3:]] == wanted and 0 not in shape
        if not right or not x_NCTVM.is_floating_point():
            raise DataError(
                f"sequences of shape {shape} and type {x_NCTVM.dtype}",
                hint="they are floating [N, {}, T, {}, {}]: numbers, frames, keypoints, persons".format(*wanted),
            )
        x = self.data_bn(rearrange(x_NCTVM, "n c t v m -> n (m v c) t"))
        return rearrange(x, "n (m v c) t -> (n m) c t v", m=self.persons, v=self.num_joints)


def _connected(num_joints: int, bones: Bones) -> Tensor:
    """[V, V] bones between keypoints, int64."""
    distance_VV = hops(num_joints, bones)
    apart = [v for v in range(num_joints) if distance_VV[0, v].isinf()]
    if apart:
        raise ConfigError(
            f"no bones lead from keypoint 0 to keypoints {apart[:5]}",
            hint="Hyperformer counts the bones between any two keypoints: give a skeleton in one piece",
        )
    return distance_VV.long()


def _membership(num_joints: int, joint_groups: Sequence[int]) -> Tensor:
    """[G, V] float32: 1 where the keypoint is of the part."""
    parts = sorted(set(joint_groups))
    if len(joint_groups) != num_joints or parts != list(range(len(parts))):
        raise ConfigError(
            f"joint_groups {tuple(joint_groups)} for {num_joints} keypoints",
            hint="one part per keypoint, numbered from 0 without a gap",
        )
    return (torch.tensor(joint_groups) == torch.tensor(parts)[:, None]).float()


def from_published(
    state: Mapping[str, Tensor], where: str | Path, *, joint_groups: Sequence[int], bones: Bones
) -> Hyperformer:
    """Published weights as our network in evaluation mode; all sizes are taken from the shapes.

    Args:
        state: data_bn.weight, l1.vit1.norm1.weight … fc.bias.
        where: the file they come from, for messages.
        joint_groups: the part of each keypoint that the weights were trained with; the file does not hold it.
        bones: likewise.

    Raises:
        CheckpointError: the entries are not those of such a network, each with its shape, none missing or too many.
        ConfigError: the parts or the bones do not fit its keypoints.
    """
    names = ("data_bn.weight", "l1.vit1.norm1.weight", "l1.vit1.attn.outer", "fc.weight")
    sizes = [list(state[name].shape) if name in state else [] for name in names]
    if [len(size) for size in sizes] != [1, 1, 3, 2] or not all(map(all, sizes)):
        raise CheckpointError(
            f"the file is not of Hyperformer: its entries begin {', '.join(list(state)[:3])}",
            where=where,
            hint="its publisher names them data_bn.weight, l1.vit1.norm1.weight … fc.bias",
        )
    (numbers,), (inputs,), (heads, joints, _), (classes, width) = sizes
    depth = sum(name.endswith(".vit1.attn.outer") for name in state)
    try:
        config = HyperformerConfig(inputs, classes, width, heads, depth)
    except ConfigError as error:
        raise CheckpointError(
            f"the file is of no Hyperformer: {error.message}", where=where, hint=error.hint
        ) from error
    persons = max(1, numbers // (joints * inputs))
    model = Hyperformer(config, joints, bones, joint_groups, persons, generator=torch.Generator())
    load_into(model, state, where)
    return model.eval()
