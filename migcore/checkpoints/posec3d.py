"""Published PoseC3D weights (pyskl, mmaction2) as our network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from migcore.checkpoints.names import blocks
from migcore.errors import CheckpointError
from migcore.models.posec3d import PoseC3D, PoseC3DConfig
from migcore.models.weights import load_into


def posec3d(state: Mapping[str, Tensor], where: str | Path) -> PoseC3D:
    """The network that the shapes say.

    Raises:
        CheckpointError: the entries are not those of a PoseC3D, each with its shape, none missing and none too many.
    """
    model = PoseC3D(_config(state, where))
    load_into(model, state, where)
    return model.eval()


def _config(state: Mapping[str, Tensor], where: str | Path) -> PoseC3DConfig:
    stem, classifier = state.get("backbone.conv1.conv.weight"), state.get("cls_head.fc_cls.weight")
    first, second, third = (blocks(state, f"backbone.layer{stage}.") for stage in (1, 2, 3))
    if stem is None or classifier is None or (stem.ndim, classifier.ndim) != (5, 2) or not min(first, second, third):
        raise CheckpointError(
            f"the weights are not of a PoseC3D: their entries begin {', '.join(list(state)[:3])}",
            where=where,
            hint="pyskl and mmaction2 name them backbone.conv1.conv.weight … cls_head.fc_cls.bias",
        )
    return PoseC3DConfig(
        in_channels=stem.shape[1],
        num_classes=classifier.shape[0],
        base_channels=stem.shape[0],
        stage_blocks=(first, second, third),
    )
