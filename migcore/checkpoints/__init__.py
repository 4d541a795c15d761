"""Weights in and out: our own files, other projects' files, and published weights as our modules.

Our files are safetensors with JSON (:func:`save_weights`, :func:`load_weights`). A foreign file is opened without
running code of it (:func:`load_foreign`), and :func:`load_reference` makes the module that its shapes say.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from migcore.checkpoints.clips import DistillationFeatures, Froster, Temporal, froster, vision_tower
from migcore.checkpoints.posec3d import posec3d
from migcore.checkpoints.systems import evl, mapped_whole, trn
from migcore.errors import CheckpointError, ConfigError
from migcore.models.vclip import Boundary, VideoTower
from migcore.models.weights import load_foreign, load_weights, open_foreign, save_weights
from migcore.models.wrappers import unwrapped, without_holder

if TYPE_CHECKING:
    from migcore.models.dscnet import STMEM, SparseMSST
    from migcore.models.evl import Decoder
    from migcore.models.hyperformer import Hyperformer
    from migcore.models.posec3d import PoseC3D
    from migcore.models.stgcn import STGCN
    from migcore.models.trn import Relations

__all__ = ["DistillationFeatures", "Froster", "load_foreign", "load_reference", "load_weights", "save_weights"]

Source = str | os.PathLike[str] | Mapping[str, Any]

_NEEDED: dict[str, tuple[str, ...]] = {
    "vision_tower": (),
    "froster": (),
    "posec3d": (),
    "stgcn": (),
    "hyperformer": ("joint_groups", "bones"),
    "evl": ("grid",),
    "trn": (),
    "dscnet_skeleton": (),
    "dscnet_stmem": (),
}
_OWN_HOLDER = {"dscnet_skeleton": "model"}  # what a kind's names have of themselves before all of them
_OPTIONAL = {"vision_tower": ("temporal", "boundary")}


@overload
def load_reference(
    kind: Literal["vision_tower"], source: Source, *, temporal: Temporal = ..., boundary: Boundary = ...
) -> VideoTower: ...
@overload
def load_reference(kind: Literal["froster"], source: Source) -> Froster: ...
@overload
def load_reference(kind: Literal["posec3d"], source: Source) -> PoseC3D: ...
@overload
def load_reference(kind: Literal["stgcn"], source: Source) -> STGCN: ...
@overload
def load_reference(
    kind: Literal["hyperformer"], source: Source, *, joint_groups: Sequence[int], bones: Sequence[tuple[int, int]]
) -> Hyperformer: ...
@overload
def load_reference(kind: Literal["evl"], source: Source, *, grid: tuple[int, int]) -> Decoder: ...
@overload
def load_reference(kind: Literal["trn"], source: Source) -> Relations: ...
@overload
def load_reference(kind: Literal["dscnet_skeleton"], source: Source) -> SparseMSST: ...
@overload
def load_reference(kind: Literal["dscnet_stmem"], source: Source) -> STMEM: ...
def load_reference(kind: str, source: Source, **config: Any) -> nn.Module:
    """Published weights as our module, in evaluation mode; all sizes that shapes tell are taken from the shapes.

    The names of entries are the publishers'; what a kind needs is given as keyword arguments, ``config``.

    =================== ======================================== ======================================================
    kind                entries                                  needs
    =================== ======================================== ======================================================
    ``vision_tower``    ``class_embedding``, ``conv1.weight``,   nothing; takes ``temporal`` and ``boundary``
                        ``transformer.resblocks.…``: OpenAI's,
                        bare, or under ``visual.`` or
                        ``model.visual.`` of a CLIP
    ``froster``         ``model.…`` or OpenAI's names alone;     nothing
                        optional ``projector_v.…`` with
                        ``projector_t.…``, and ``raw_model.…``,
                        the teacher
    ``posec3d``         ``backbone.…``, ``cls_head.fc_cls.…``    nothing
    ``stgcn``           ``A``, ``data_bn.…``,                    nothing
                        ``st_gcn_networks.…``,
                        ``edge_importance.…``, ``fcn.…``
    ``hyperformer``     ``data_bn.…``, ``l1.…`` to ``l10.…``,    ``joint_groups``, ``bones``
                        ``fc.…``
    ``evl``             ``cls_token``, ``decoder_layers.…``,     ``grid``
                        ``temporal_conv.…``,
                        ``cross_attention.…``
    ``trn``             ``fc_fusion_scales.…``                   nothing
    ``dscnet_skeleton`` ``model.m1.…`` to ``model.m7.…``,        nothing
                        ``model.last_linear.…``
    ``dscnet_stmem``    ``m1.0.…``, ``m2.0.…``                   nothing
    =================== ======================================== ======================================================

    What is returned, ``m``, is called so:

    =================== ================================================ ============================================
    kind                call                                             result
    =================== ================================================ ============================================
    ``vision_tower``    ``m(video [B, 3, T, H, W])``                     [B, T, E], not of length 1
    ``froster``         ``m.logits(video, tokens [P, C, L])``,           [B, C]; :class:`DistillationFeatures`; also
                        ``m.distillation_features(video, tokens)``       ``m.student`` and ``m.teacher``
    ``posec3d``         ``m(x [B, V, T, H, W])``                         [B, C]
    ``stgcn``           ``m(x [N, 3, T, V, M])``                         [N, C]
    ``hyperformer``     ``m(x [N, 3, T, V, M])``                         [N, C]
    ``evl``             ``m([{"out", "q", "k"}, …])``, a dict for each   [N, 1, D]
                        layer
    ``trn``             ``m.scale(x [B, T, D], T)``                      [B, C]
    ``dscnet_skeleton`` ``m(x [B, 2, 3, 8, V])``                         [B, C]
    ``dscnet_stmem``    ``m(x [B, 8·6·3, H, W])``                        [B·8, 3, H, W]
    =================== ================================================ ============================================

    One line to the logger ``migcore.checkpoints`` (level INFO) says how many entries were mapped, how many were left
    out and why, and the sizes; where a file holds several sets of weights (``state_dict`` and ``state_dict_ema``), a
    line before it says which was taken. A student of ``froster`` is told the 29 prompts of each of iMiGUE's classes.

    Whatever the file's, the module is on the CPU and in float32: ``.to("cuda")`` comes after, not before.

    A published PoseC3D takes heat-maps as :func:`migcore.heatmaps.joint_heatmaps` draws them (σ = 0.6, values 0..1,
    from pixels of the compact box) of the keypoints it was trained on: those of pyskl and mmaction2 are of COCO's 17
    (:data:`migcore.data.layouts.COCO17`), 48 frames of 56 × 56 or 64 × 64; a limb model takes
    :func:`migcore.heatmaps.limb_heatmaps` with ``COCO17.bones`` in their order. Its classes are its data set's::

        import torch
        from migcore.checkpoints import load_reference
        from migcore.heatmaps import joint_heatmaps

        model = load_reference("posec3d", "joint.pth")  # a file of pyskl's
        keypoints, scores = torch.rand(2, 1, 48, 17, 2) * 56, torch.ones(2, 1, 48, 17)  # see migcore.heatmaps
        logits = model(joint_heatmaps(keypoints, scores, (56, 56)))  # [2, 60] where it was trained on NTU-60

    Args:
        kind: as in the table.
        source: a ``.pt``, ``.pth``, ``.pyth`` or ``.safetensors`` file, or a state dict in memory, which is copied. A
            state dict may lie under ``state_dict``, ``model``, ``net`` or the like, beside anything that is no code;
            what wrappers put before names goes (``module.``, ``_orig_mod.``; ``model.`` or ``net.`` before them all).
        config: what shapes do not tell. "vision_tower": ``temporal``, "none", "expand" (default, as published),
            "expand2" or "expand3": how many frames on each side are seen; ``boundary``, "zero" (default), "mask" or
            "replicate": what stands for a frame before the first or after the last. "hyperformer": ``joint_groups``,
            the part of each keypoint, and ``bones``, pairs of keypoints. "evl": ``grid``, rows and columns of patches.

    Raises:
        ConfigError: the kind is unknown, or ``config`` has a word that it does not take, lacks one that it needs, or
            holds a value that does not fit.
        CheckpointError: the file is missing, damaged, something else than weights, or asks for code; or its entries are
            not those of such a model, each with its shape and of finite numbers, none missing and none too many.
    """
    _check(kind, config)
    where: str | Path = "the given state dict"
    content: object = source
    if not isinstance(source, Mapping):
        if not isinstance(source, str | os.PathLike):
            raise CheckpointError(
                f"weights are not read from a {type(source).__name__}",
                hint="give a file, or a state dict: state_dict()",
            )
        where = Path(source)
        content = open_foreign(where)
    state, others = unwrapped(content, where)
    state = without_holder(state, keep=_OWN_HOLDER.get(kind, ""))
    with torch.random.fork_rng(devices=[]):  # modules draw first weights, which the file's replace
        model, left_out = _build(kind, state, where, config)
    left_out["what is no tensor"] += len(others)
    logging.getLogger(__name__).info(
        "%s from %s: %d entries mapped; left out: %s; sizes: %s",
        kind,
        where,
        len(state) + len(others) - left_out.total(),
        ", ".join(f"{part} ({count})" for part, count in left_out.items() if count) or "none",
        _sizes(model),
    )
    return model


def _check(kind: str, config: dict[str, Any]) -> None:
    if kind not in tuple(_NEEDED):
        raise ConfigError(
            f"no published weights of kind {kind!r} can be read", hint=f"choose from {', '.join(_NEEDED)}"
        )
    needed, optional = _NEEDED[kind], _OPTIONAL.get(kind, ())
    takes = ", ".join([*needed, *(f"{word} (optional)" for word in optional)]) or "no configuration"
    for what, words in (
        ("takes no", [word for word in config if word not in (*needed, *optional)]),
        ("needs", [word for word in needed if word not in config]),
    ):
        if words:
            raise ConfigError(f"{kind} {what} {', '.join(words)}", hint=f"it takes {takes}")


def _build(
    kind: str, state: dict[str, Tensor], where: str | Path, config: dict[str, Any]
) -> tuple[nn.Module, Counter[str]]:
    """The module, and how many entries were left out, by what they are of; of most kinds none is."""
    if kind == "vision_tower":
        return vision_tower(state, where, **config)
    if kind == "froster":
        return froster(state, where)
    if kind == "evl":
        return evl(state, where, **config)
    if kind == "trn":
        return trn(state, where)
    return (posec3d(state, where) if kind == "posec3d" else mapped_whole(kind, state, where, config)), Counter()


def _sizes(model: nn.Module) -> str:
    """The sizes that were inferred, in words."""
    if isinstance(model, Froster):
        clip = model.student.clip
        text = f"{len(clip.transformer.resblocks)} blocks of width {clip.token_embedding.weight.shape[1]}"
        return f"{_sizes(model.student.visual)}; text {text}, {clip.context_length} tokens"
    if isinstance(model, VideoTower):
        width, embedding = model.proj.shape
        return (
            f"{len(model.transformer.resblocks)} blocks of width {width}, {model.grid_size[0]} x {model.grid_size[1]} "
            f"patches in {model.image_size[0]} x {model.image_size[1]} pixels, embedding {embedding}"
        )
    return str(getattr(model, "config", f"window={getattr(model, 'window', None)}"))
