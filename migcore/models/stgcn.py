"""ST-GCN: convolution over the bones of a skeleton, then over time (Yan et al., AAAI 2018).

Letters: N clips, M persons, T frames, V keypoints, K = 3 sets of neighbours, D channels, C classes.

Choices:

* The paper parts a keypoint's neighbours by their distance to the centre: as far as it, farther, nearer. The published
  code takes distances above 1 for infinite, so that most bones are "as far", which it counts as farther: on iMiGUE's
  tree 22, 35 and 7 entries instead of 22, 21 and 21. Here distances are true; partition="published" has the flaw.
* Equal distances (a bone of an odd cycle, or out of reach of the centre) go to the keypoint's own set, A[0], as in the
  paper; a tree has none. A[1] leads from the farther keypoint to the nearer, A[2] the other way, as published.
* Parameters have the publishers' names. A is among them: a file's own partition is used with its weights.
* Initial weights are those of the publishers' training: N(0, 0.02), of normalisations N(1, 0.02), biases 0, every
  edge's importance 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from migcore.errors import CheckpointError, ConfigError, DataError
from migcore.models.shares import Dropout
from migcore.models.weights import load_into

_SETS = 3
_WIDTHS = (1, 1, 1, 1, 2, 2, 2, 4, 4, 4)  # times base_channels
_HALVING = (4, 7)  # blocks that halve the frames

Bones = Sequence[tuple[int, int]]


# --- the skeleton as a graph ------------------------------------------------------------------------------------------


def hops(num_joints: int, bones: Bones) -> Tensor:
    """Bones on the shortest way between two keypoints.

    Args:
        num_joints: V.
        bones: pairs of keypoint numbers 0..V-1; direction does not count.

    Returns:
        [V, V] float32, infinite where there is no way.

    Raises:
        ConfigError: there is no keypoint, or a bone joins no two different keypoints.
    """
    if num_joints < 1:
        raise ConfigError(f"a skeleton of {num_joints} keypoints")
    wrong = [bone for bone in bones if bone[0] == bone[1] or not all(0 <= v < num_joints for v in bone)]
    if wrong:
        raise ConfigError(
            f"bone {wrong[0]} in a skeleton of {num_joints} keypoints",
            hint=f"a bone joins two different keypoints of 0..{num_joints - 1}",
        )
    distance_VV = torch.full((num_joints, num_joints), torch.inf)
    for a, b in bones:
        distance_VV[a, b] = distance_VV[b, a] = 1
    distance_VV.fill_diagonal_(0)
    for v in range(num_joints):  # Floyd and Warshall: the way through v, where it is shorter
        distance_VV = torch.minimum(distance_VV, distance_VV[:, v : v + 1] + distance_VV[v : v + 1, :])
    return distance_VV


def adjacency(
    num_joints: int, bones: Bones, *, centre: int = 1, partition: Literal["distance", "published"] = "distance"
) -> Tensor:
    """The three sets of neighbours, each a matrix from keypoint (row) to keypoint (column).

    Args:
        num_joints: V.
        bones: pairs of keypoint numbers 0..V-1.
        centre: the keypoint that distances are counted from; 1 is the neck of iMiGUE.
        partition: as in :class:`STGCNConfig`.

    Returns:
        [K, V, V] float32: A[0] a keypoint to itself, A[1] to its neighbours nearer to the centre, A[2] to those farther
        from it. An entry is 1 / (1 + bones of the keypoint it leads to), so that each column sums to 1 over all sets.

    Raises:
        ConfigError: a bone or the centre is no keypoint, or the partition has another name.
    """
    _check_partition(partition)
    hops_VV = hops(num_joints, bones)
    if not 0 <= centre < num_joints:
        raise ConfigError(f"centre {centre} in a skeleton of {num_joints} keypoints", hint="they count from 0")
    itself, bone = hops_VV == 0, hops_VV == 1
    distance_V = hops_VV[centre]
    if partition == "published":
        distance_V = distance_V.masked_fill(distance_V > 1, torch.inf)
    source, target = distance_V[:, None], distance_V[None, :]
    equal = bone & (source == target)
    sets = [itself, bone & (source > target), bone & (source < target)]
    place = 1 if partition == "published" else 0
    sets[place] = sets[place] | equal
    return torch.stack(sets) / (itself | bone).sum(0)


def _check_partition(partition: str) -> None:
    if partition not in ("distance", "published"):
        raise ConfigError(f"partition {partition!r}", hint="choose from distance, published")


# --- the network ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class STGCNConfig:
    """What the network is built from, besides the skeleton.

    Attributes:
        in_channels: of a keypoint: 3 for x, y and score.
        num_classes: outputs.
        base_channels: width of the first four blocks, 64 as published; three blocks of twice, three of four times that.
        partition: of the neighbours: "distance" (true distances to the centre) or "published" (infinite above 1).
        centre: keypoint that distances are counted from.
        temporal_kernel: frames that a convolution over time sees, odd.
        dropout: probability, in all blocks but the first; 0.5 as published, 0.1 in the organisers' baseline.
    """

    in_channels: int = 3
    num_classes: int = 32
    base_channels: int = 64
    partition: Literal["distance", "published"] = "distance"
    centre: int = 1
    temporal_kernel: int = 9
    dropout: float = 0.5

    def __post_init__(self) -> None:
        _check_partition(self.partition)
        if min(self.in_channels, self.num_classes, self.base_channels) < 1:
            raise ConfigError("in_channels, num_classes and base_channels are at least 1")
        if self.temporal_kernel < 1 or self.temporal_kernel % 2 == 0:
            raise ConfigError(f"temporal_kernel {self.temporal_kernel}", hint="an odd number of frames")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout}", hint="a probability in [0, 1)")


class GraphConv(nn.Module):
    """A 1×1 convolution for each set of neighbours, and their sum over the neighbours."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, _SETS * out_channels, 1)

    def forward(self, x_NDTV: Tensor, weights_KVV: Tensor) -> Tensor:
        """[N, D, T, V] and [K, V, V] (row: from, column: to) → [N, D', T, V]."""
        x = rearrange(self.conv(x_NDTV), "n (k d) t v -> n k d t v", k=_SETS)
        return torch.einsum("nkdtv,kvw->ndtw", x, weights_KVV)


class Block(nn.Module):
    """Graph convolution, then convolution over time, plus the input."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, *, kernel: int, dropout: float, skip: bool
    ) -> None:
        super().__init__()
        self.gcn = GraphConv(in_channels, channels)
        self.tcn = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (kernel, 1), (stride, 1), (kernel // 2, 0)),
            nn.BatchNorm2d(channels),
            Dropout(dropout),
        )
        self.skip = skip
        self.residual: nn.Sequential | None = None
        if skip and (in_channels != channels or stride > 1):
            self.residual = nn.Sequential(nn.Conv2d(in_channels, channels, 1, (stride, 1)), nn.BatchNorm2d(channels))

    def forward(self, x_NDTV: Tensor, weights_KVV: Tensor) -> Tensor:
        """[N, D, T, V] → [N, D', T/stride, V], the quotient rounded up; not negative."""
        y = self.tcn(self.gcn(x_NDTV, weights_KVV))
        if self.skip:
            y = y + (x_NDTV if self.residual is None else self.residual(x_NDTV))
        return F.relu(y, inplace=True)


class STGCN(nn.Module):
    """Sequence of skeletons to class logits.

    Args:
        config: sizes and partition.
        num_joints: V.
        bones: pairs of keypoint numbers 0..V-1.
        generator: source of the initial weights, on the CPU; torch's own if not given.

    Attributes:
        A: [K, V, V], from :func:`adjacency`; each block weighs its entries by an ``edge_importance`` of its own.

    Raises:
        ConfigError: a bone or ``config.centre`` is no keypoint.
    """

    A: Tensor

    def __init__(
        self, config: STGCNConfig, num_joints: int, bones: Bones, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config, self.num_joints = config, num_joints
        neighbours = adjacency(num_joints, bones, centre=config.centre, partition=config.partition)
        widths = [config.base_channels * times for times in _WIDTHS]
        with torch.device("meta"):  # so that only the draws below are made, none by the layers themselves
            self.data_bn = nn.BatchNorm1d(num_joints * config.in_channels)
            self.st_gcn_networks = nn.ModuleList(
                Block(
                    config.in_channels if place == 0 else widths[place - 1],
                    width,
                    2 if place in _HALVING else 1,
                    kernel=config.temporal_kernel,
                    dropout=config.dropout if place else 0.0,  # the first block has neither dropout nor residual
                    skip=place > 0,
                )
                for place, width in enumerate(widths)
            )
            self.edge_importance = nn.ParameterList(torch.empty(_SETS, num_joints, num_joints) for _ in widths)
            self.fcn = nn.Conv2d(widths[-1], config.num_classes, 1)
        self.to_empty(device="cpu")
        self.register_buffer("A", neighbours)
        self._initialise(generator)

    def _initialise(self, generator: torch.Generator | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d):
                mean = 0.0 if isinstance(module, nn.Conv2d) else 1.0
                nn.init.normal_(module.weight, mean, 0.02, generator=generator)
                nn.init.zeros_(cast(Tensor, module.bias))
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.reset_running_stats()
        for importance in self.edge_importance:
            nn.init.ones_(importance)

    def forward(self, x_NCTVM: Tensor) -> Tensor:
        """Logits of sequences.

        Args:
            x_NCTVM: [N, C, T, V, M] floating: ``config.in_channels`` numbers (x, y, score) of V keypoints in T ≥ 1
                frames of M persons, zeros where missing; in any unit, since the first layer normalises each number.

        Returns:
            logits [N, C], of the mean over frames, keypoints and persons.

        Raises:
            DataError: another shape or type.
        """
        shape, wanted = list(x_NCTVM.shape), (self.config.in_channels, self.num_joints)
        if len(shape) != 5 or 0 in shape or (shape[1], shape[3]) != wanted or not x_NCTVM.is_floating_point():
            raise DataError(
                f"sequences of shape {shape} and type {x_NCTVM.dtype}",
                hint=f"they are floating [N, {wanted[0]}, T, {wanted[1]}, M]: numbers, frames, keypoints, persons",
            )
        persons = shape[4]
        x = self.data_bn(rearrange(x_NCTVM, "n c t v m -> (n m) (v c) t"))
        x = rearrange(x, "n (v c) t -> n c t v", v=self.num_joints)
        for block, importance in zip(self.st_gcn_networks, self.edge_importance, strict=True):
            x = block(x, self.A * importance)
        x = reduce(x, "(n m) d t v -> n d 1 1", "mean", m=persons)
        return rearrange(self.fcn(x), "n c 1 1 -> n c")


def from_published(state: Mapping[str, Tensor], where: str | Path) -> STGCN:
    """Published weights as our network in evaluation mode; sizes are taken from the shapes, neighbours from ``A``.

    Its config's ``centre`` says nothing: what the file's distances are counted from cannot be seen in it.

    Args:
        state: A, data_bn.weight … fcn.bias.
        where: the file they come from, for messages.

    Raises:
        CheckpointError: the entries are not those of such a network, each with its shape, none missing or too many.
    """
    sizes = [
        list(state[name].shape) if name in state else []
        for name in ("A", "data_bn.weight", "st_gcn_networks.0.gcn.conv.weight", "st_gcn_networks.0.tcn.2.weight")
    ]
    classes = list(state["fcn.weight"].shape) if "fcn.weight" in state else []
    if [len(size) for size in [*sizes, classes]] != [3, 1, 4, 4, 4] or not all(map(all, [*sizes, classes])):
        raise CheckpointError(
            f"the file is not of ST-GCN: its entries begin {', '.join(list(state)[:3])}",
            where=where,
            hint="its publisher names them A, data_bn.weight, st_gcn_networks.0.gcn.conv.weight … fcn.bias",
        )
    (_, joints, _), _, (channels, inputs, _, _), (_, _, kernel, _) = sizes
    try:
        config = STGCNConfig(inputs, classes[0], channels // _SETS, "published", 0, kernel)
    except ConfigError as error:
        raise CheckpointError(f"the file is of no ST-GCN: {error.message}", where=where, hint=error.hint) from error
    model = STGCN(config, joints, (), generator=torch.Generator())  # torch's own stays as it is
    load_into(model, state, where)
    return model.eval()
