"""Weights in and out: our own files, other projects' files, and published weights as our modules.

Our files are safetensors with JSON (:func:`save_weights`, :func:`load_weights`). A foreign file is opened without
running code of it (:func:`load_foreign`), and :func:`load_reference` makes the module that its shapes say.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from migcore.errors import CheckpointError, ConfigError
from migcore.models.posec3d import PoseC3D, PoseC3DConfig
from migcore.models.weights import load_foreign, load_into, load_weights, save_weights

__all__ = ["load_foreign", "load_reference", "load_weights", "save_weights"]


def load_reference(kind: str, source: Path) -> PoseC3D:
    """Published weights as our module, in evaluation mode; all sizes are taken from the shapes in the file.

    Args:
        kind: "posec3d" (pyskl, mmaction2).
        source: a ``.pth``, ``.pt`` or ``.safetensors`` file.

    Raises:
        ConfigError: the kind is unknown.
        CheckpointError: the file is missing or damaged, or its entries are not those of such a model, each with its
            shape, none missing and none too many.
    """
    if kind != "posec3d":
        raise ConfigError(f"no published weights of kind {kind!r} can be read", hint="choose from posec3d")
    state = load_foreign(source)
    model = PoseC3D(_posec3d_config(state, source), generator=torch.Generator())  # torch's own stays as it is
    load_into(model, state, source)
    return model.eval()


def _posec3d_config(state: dict[str, Tensor], source: Path) -> PoseC3DConfig:
    stem, classifier = state.get("backbone.conv1.conv.weight"), state.get("cls_head.fc_cls.weight")
    first, second, third = (_blocks(state, f"backbone.layer{stage}.") for stage in (1, 2, 3))
    if stem is None or classifier is None or stem.ndim != 5 or classifier.ndim != 2 or not min(first, second, third):
        raise CheckpointError(
            f"the file is not of a PoseC3D: its entries begin {', '.join(list(state)[:3])}",
            where=source,
            hint="pyskl and mmaction2 name them backbone.conv1.conv.weight … cls_head.fc_cls.bias",
        )
    return PoseC3DConfig(
        in_channels=stem.shape[1],
        num_classes=classifier.shape[0],
        base_channels=stem.shape[0],
        stage_blocks=(first, second, third),
    )


def _blocks(state: dict[str, Tensor], prefix: str) -> int:
    """How many blocks a stage has."""
    return len({name.removeprefix(prefix).split(".", 1)[0] for name in state if name.startswith(prefix)})
