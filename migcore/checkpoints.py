"""Weights in and out: our own files, other projects' files, and published weights as our modules.

Our files are safetensors with JSON (:func:`save_weights`, :func:`load_weights`). A foreign file is opened without
running code of it (:func:`load_foreign`), and :func:`load_reference` makes the module that its shapes say.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor, nn

from migcore.errors import CheckpointError, ConfigError
from migcore.labels import class_prompts
from migcore.models.clip import miniature_tokenizer
from migcore.models.froster import FrosterConfig, Student
from migcore.models.posec3d import PoseC3D, PoseC3DConfig
from migcore.models.weights import load_foreign, load_into, load_weights, save_weights

if TYPE_CHECKING:
    from open_clip.model import CLIP

__all__ = ["load_foreign", "load_reference", "load_weights", "save_weights"]

_HEAD_WIDTH, _VOCABULARY = 64, 49408  # of all published CLIPs; no file says the first


@overload
def load_reference(kind: Literal["posec3d"], source: Path) -> PoseC3D: ...
@overload
def load_reference(kind: Literal["froster"], source: Path) -> Student: ...
def load_reference(kind: str, source: Path) -> PoseC3D | Student:
    """Published weights as our module, in evaluation mode; all sizes are taken from the shapes in the file.

    A student is told the 29 prompts of each of iMiGUE's classes. Of a training file of FROSTER the frozen teacher
    (``raw_model.``) is left out; without projectors (Open-VCLIP) those of the student change nothing.

    Args:
        kind: "posec3d" (pyskl, mmaction2) or "froster" (FROSTER, Open-VCLIP).
        source: a ``.pth``, ``.pyth``, ``.pt`` or ``.safetensors`` file.

    Raises:
        ConfigError: the kind is unknown.
        CheckpointError: the file is missing or damaged, or its entries are not those of such a model, each with its
            shape, none missing and none too many.
    """
    if kind == "posec3d":
        return _posec3d(load_foreign(source), source)
    if kind == "froster":
        return _froster(load_foreign(source), source)
    raise ConfigError(f"no published weights of kind {kind!r} can be read", hint="choose from posec3d, froster")


def _posec3d(state: dict[str, Tensor], source: Path) -> PoseC3D:
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


def _froster(state: dict[str, Tensor], source: Path) -> Student:
    projectors = {name: tensor for name, tensor in state.items() if name.startswith("projector_")}
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(("projector_", "raw_model."))}
    prefix = "model." if any(name.startswith("model.") for name in rest) else ""
    strangers = [name for name in rest if not name.startswith(prefix)]
    if strangers:
        raise CheckpointError(
            f"{len(strangers)} of the entries are unexpected: {', '.join(strangers[:3])}",
            where=source,
            hint="a student has model., raw_model. and projector_",
        )
    clip = _clip({name.removeprefix(prefix): tensor for name, tensor in rest.items()}, source)
    tokenizer, context = miniature_tokenizer(), int(clip.context_length)  # all CLIPs have the same byte pairs
    prompts_PCL = torch.stack([tokenizer(row, context_length=context) for row in class_prompts()])
    if prompts_PCL[..., -1].any():  # the place after the end of a text that fits holds 0
        warnings.warn(f"some class prompts fill the {context} tokens that this model reads, or are cut", stacklevel=3)
    student = Student(clip, prompts_PCL, FrosterConfig(), generator=torch.Generator())
    if projectors:
        ours = nn.ModuleDict({"projector_v": student.projector_v, "projector_t": student.projector_t})
        load_into(ours, projectors, source)
    return student.eval()


def _clip(state: dict[str, Tensor], source: Path) -> CLIP:
    """open_clip's CLIP of a state dict with OpenAI's names."""
    ranks = {
        "visual.conv1.weight": 4,
        "visual.positional_embedding": 2,
        "positional_embedding": 2,
        "token_embedding.weight": 2,
        "text_projection": 2,
    }
    lacking = [name for name, rank in ranks.items() if name not in state or state[name].ndim != rank]
    blocks = {name: _blocks(state, name) for name in ("visual.transformer.resblocks.", "transformer.resblocks.")}
    lacking += [f"{name}0…" for name, number in blocks.items() if not number]
    if lacking:
        raise CheckpointError(
            f"the file is not of a CLIP: it lacks {', '.join(lacking)}",
            where=source,
            hint="FROSTER and Open-VCLIP name them model.visual.conv1.weight … model.text_projection",
        )
    width, patch = state["visual.conv1.weight"].shape[0], state["visual.conv1.weight"].shape[-1]
    grid = math.isqrt(max(0, state["visual.positional_embedding"].shape[0] - 1))  # one place is that of [cls]
    (vocabulary, text_width), context = state["token_embedding.weight"].shape, state["positional_embedding"].shape[0]
    if width % _HEAD_WIDTH or text_width % _HEAD_WIDTH or vocabulary != _VOCABULARY or not grid:
        raise CheckpointError(
            f"a CLIP of widths {width} and {text_width}, {grid} x {grid} patches and {vocabulary} tokens",
            where=source,
            hint=f"published ones have heads of {_HEAD_WIDTH} channels and {_VOCABULARY} tokens",
        )
    import open_clip  # takes seconds, and PoseC3D needs none of it

    vision = {"image_size": grid * patch, "patch_size": patch, "width": width, "head_width": _HEAD_WIDTH}
    text = {"context_length": context, "vocab_size": vocabulary, "width": text_width}
    vision["layers"], text["layers"] = blocks.values()
    text["heads"] = text_width // _HEAD_WIDTH
    with torch.random.fork_rng(devices=[]):  # open_clip draws weights, which the file's replace
        clip = open_clip.CLIP(state["text_projection"].shape[1], vision, text, quick_gelu=True)
    load_into(clip, state, source)
    return clip


def _blocks(state: dict[str, Tensor], prefix: str) -> int:
    """How many blocks a stage has."""
    return len({name.removeprefix(prefix).split(".", 1)[0] for name in state if name.startswith(prefix)})
