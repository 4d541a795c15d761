"""Published CLIPs as our modules: the vision tower of one, and FROSTER's student beside its frozen teacher.

Letters: B clips, T frames, H W pixels, P prompts, C classes, L tokens of a text, E embedding.

Choices:

* Sizes are those of the shapes. Two things no file says: heads are 64 channels wide, as in all that OpenAI published,
  and activations are QuickGELU, which its weights were trained with.
* What lies beside the wanted part (a text tower beside a vision tower, numbers beside OpenAI's weights) is left out by
  name and counted; a name that is known nowhere is refused.
* The teacher is open_clip's plain CLIP: it sees each frame alone, and stays frozen and in evaluation mode.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from migcore.checkpoints.names import blocks, parted
from migcore.errors import CheckpointError, ConfigError, DataError
from migcore.labels import class_prompts
from migcore.models.clip import miniature_tokenizer
from migcore.models.froster import FrosterConfig, Student, class_mean, video_logits
from migcore.models.vclip import Boundary, VCLIPConfig, VideoTower
from migcore.models.weights import load_into

if TYPE_CHECKING:
    from open_clip.model import CLIP

Temporal = Literal["none", "expand", "expand2", "expand3"]

_HEAD_WIDTH, _VOCABULARY = 64, 49408  # of all published CLIPs; no file says the first
_NUMBERS = ("input_resolution", "context_length", "vocab_size")  # beside OpenAI's weights
_NUMBERS_ARE = "numbers beside the weights"
_TEXT = ("positional_embedding", "text_projection", "logit_scale", "token_embedding.", "ln_final.", "transformer.")
_PROJECTORS, _TEACHER = "projector_", "raw_model."


# --- the vision tower -------------------------------------------------------------------------------------------------


def vision_tower(
    state: Mapping[str, Tensor], where: str | Path, *, temporal: Temporal = "expand", boundary: Boundary = "zero"
) -> tuple[VideoTower, Counter[str]]:
    """The vision tower of a CLIP over neighbouring frames, and how many entries were left out, by what they are of.

    Args:
        state: OpenAI's names, bare (``conv1.weight``), or under ``visual.`` or ``model.visual.`` of a whole CLIP.
        where: they come from, for messages.
        temporal: how many frames on each side are seen: "none", "expand" (one, as published), "expand2", "expand3".
        boundary: what stands for the frame before the first and after the last (:class:`VCLIPConfig`).

    Raises:
        ConfigError: another ``temporal`` or ``boundary``.
        CheckpointError: the entries are not those of such a tower, each with its shape, none missing and none too many.
    """
    names = get_args(Temporal)
    if temporal not in names:
        raise ConfigError(f"temporal {temporal!r}", hint=f"choose from {', '.join(names)}")
    config = VCLIPConfig(span=names.index(temporal), boundary=boundary)
    outer = "model." if any(name.startswith("model.") for name in state) else ""
    prefix = f"{outer}visual."
    ours, left_out = dict(state), Counter[str]()
    if any(name.startswith(prefix) for name in state):
        found, left_out = parted(state, where, (prefix,), _beside(outer))
        ours = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    _expect(ours, where, {**_vision_ranks(""), "proj": 2}, ("transformer.resblocks.",))
    sizes = _vision(ours, where, "")
    from open_clip.transformer import QuickGELU, VisionTransformer  # takes seconds, and PoseC3D needs none of it

    plain = VisionTransformer(
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        width=sizes["width"],
        layers=sizes["layers"],
        heads=sizes["width"] // _HEAD_WIDTH,
        mlp_ratio=4.0,
        output_dim=ours["proj"].shape[1],
        act_layer=QuickGELU,
    )
    tower = VideoTower(plain, config)
    load_into(tower, ours, where)
    return tower.eval(), left_out


# --- FROSTER ----------------------------------------------------------------------------------------------------------


class DistillationFeatures(NamedTuple):
    """What the distillation losses compare: of the student after its projectors (not of length 1), of the teacher of
    length 1; frames [B, T, E] and classes [C, E]."""

    student_image_BTE: Tensor
    student_text_CE: Tensor
    teacher_image_BTE: Tensor
    teacher_text_CE: Tensor


class Froster(nn.Module):
    """A published student, and the frozen CLIP that taught it where the file has one.

    Attributes:
        student: our student, with iMiGUE's prompts; it can be trained on.
        teacher: open_clip's CLIP, which sees every frame alone; None without one.
    """

    teacher: CLIP | None

    def __init__(self, student: Student, teacher: CLIP | None) -> None:
        super().__init__()
        self.student = student
        self.teacher = None if teacher is None else teacher.requires_grad_(False)

    def train(self, mode: bool = True) -> Froster:
        """As ever, but that the teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def logits(self, video_B3THW: Tensor, tokens_PCL: Tensor) -> Tensor:
        """Similarity of clips and classes, ``mean_t exp(logit_scale) · cos(frame_t, class)``.

        Args:
            video_B3THW: [B, 3, T, H, W] floating, CLIP's mean and deviation taken out, of the tower's image size.
            tokens_PCL: [P, C, L] whole numbers: of each class P prompts of L tokens, as CLIP's tokenizer makes them.

        Returns:
            [B, C].

        Raises:
            DataError: a video or tokens of another shape or type, or tokens that the model does not have.
        """
        text_CE = self.student.class_embeddings(self._tokens(tokens_PCL))
        return video_logits(self.student.visual(video_B3THW), text_CE, self.student.clip.logit_scale)

    def distillation_features(self, video_B3THW: Tensor, tokens_PCL: Tensor) -> DistillationFeatures:
        """What :func:`~migcore.models.froster.distillation_loss` compares; no gradient goes to the teacher.

        Arguments and errors as :meth:`logits`.

        Raises:
            CheckpointError: the file had no teacher.
        """
        if self.teacher is None:
            raise CheckpointError(
                "these weights have no teacher to compare with", hint="FROSTER's training files have one, raw_model."
            )
        student, tokens = self.student, self._tokens(tokens_PCL)
        image_BTE = student.projector_v(F.normalize(student.visual(video_B3THW), dim=-1))
        text_CE = student.projector_t(student.class_embeddings(tokens))
        with torch.no_grad():
            frames = rearrange(video_B3THW, "b c t h w -> (b t) c h w")
            frames_NE = self.teacher.encode_image(frames, normalize=True)
            words_NE = self.teacher.encode_text(rearrange(tokens, "p c l -> (p c) l"), normalize=True)
            teacher_BTE = rearrange(frames_NE, "(b t) e -> b t e", b=len(video_B3THW))
            teacher_CE = class_mean(rearrange(words_NE, "(p c) e -> p c e", p=len(tokens)))
        return DistillationFeatures(image_BTE, text_CE, teacher_BTE, teacher_CE)

    def _tokens(self, tokens_PCL: Tensor) -> Tensor:
        """The same as int64, if they are tokens of this model."""
        length, shape = int(self.student.clip.context_length), tuple(tokens_PCL.shape)
        whole = not (tokens_PCL.is_floating_point() or tokens_PCL.is_complex() or tokens_PCL.dtype == torch.bool)
        if len(shape) != 3 or 0 in shape or shape[2] != length or not whole:
            raise DataError(
                f"tokens of shape {list(shape)} and type {tokens_PCL.dtype}",
                hint=f"this model takes [prompts, classes, {length}] whole numbers",
            )
        if tokens_PCL.min() < 0 or tokens_PCL.max() >= _VOCABULARY:
            raise DataError("tokens that the model does not have", hint=f"they are 0 to {_VOCABULARY - 1}")
        return tokens_PCL.long()


def froster(state: Mapping[str, Tensor], where: str | Path) -> tuple[Froster, Counter[str]]:
    """FROSTER's student and teacher, and how many entries were left out, by what they are of.

    Args:
        state: ``model.`` before OpenAI's names, or those alone; optional ``projector_v.`` and ``projector_t.`` (both or
            none; those of the student change nothing without), and ``raw_model.`` before the teacher's.
        where: they come from, for messages.

    Raises:
        CheckpointError: the entries are not those of such a model, each with its shape, none missing and none too many.
    """
    outer = "model." if any(name.startswith("model.") for name in state) else ""
    projectors = {name: tensor for name, tensor in state.items() if name.startswith(_PROJECTORS)}
    raw = {name.removeprefix(_TEACHER): tensor for name, tensor in state.items() if name.startswith(_TEACHER)}
    rest = {name: tensor for name, tensor in state.items() if not name.startswith((_PROJECTORS, _TEACHER))}
    found, left_out = parted(rest, where, (outer,), {_NUMBERS_ARE: tuple(outer + name for name in _NUMBERS)})
    clip = _clip({name.removeprefix(outer): tensor for name, tensor in found.items()}, where)
    tokenizer, context = miniature_tokenizer(), int(clip.context_length)  # all CLIPs have the same byte pairs
    prompts_PCL = torch.stack([tokenizer(row, context_length=context) for row in class_prompts()])
    if prompts_PCL[..., -1].any():  # the place after the end of a text that fits holds 0
        warnings.warn(f"some class prompts fill the {context} tokens that this model reads, or are cut", stacklevel=4)
    teacher = _clip(raw, f"{where}, {_TEACHER}") if raw else None
    if teacher is not None and _interface(teacher) != _interface(clip):
        raise CheckpointError(
            f"a student and a teacher of other image sizes, contexts or embeddings: {_interface(clip)} and "
            f"{_interface(teacher)}",
            where=where,
            hint="they read the same frames and prompts, and their embeddings are compared",
        )
    student = Student(clip, prompts_PCL, FrosterConfig())
    if projectors:
        both = nn.ModuleDict({"projector_v": student.projector_v, "projector_t": student.projector_t})
        load_into(both, projectors, where)
    return Froster(student, teacher).eval(), left_out


def _interface(clip: CLIP) -> tuple[int, int, int]:
    """Image size, tokens of a text, embedding."""
    return int(clip.visual.image_size[0]), int(clip.context_length), int(clip.text_projection.shape[1])


# --- shapes -----------------------------------------------------------------------------------------------------------


def _clip(state: Mapping[str, Tensor], where: str | Path) -> CLIP:
    """open_clip's CLIP of a state dict with OpenAI's names."""
    ranks = {"positional_embedding": 2, "token_embedding.weight": 2, "text_projection": 2}
    stages = ("visual.transformer.resblocks.", "transformer.resblocks.")
    _expect(state, where, {**_vision_ranks("visual."), **ranks}, stages)
    vision = {**_vision(state, where, "visual."), "head_width": _HEAD_WIDTH}
    (vocabulary, width), context = state["token_embedding.weight"].shape, state["positional_embedding"].shape[0]
    if width % _HEAD_WIDTH or vocabulary != _VOCABULARY:
        raise CheckpointError(
            f"a text tower of width {width} and {vocabulary} tokens",
            where=where,
            hint=f"published ones have heads of {_HEAD_WIDTH} channels and {_VOCABULARY} tokens",
        )
    import open_clip  # takes seconds, and PoseC3D needs none of it

    text = {"context_length": context, "vocab_size": vocabulary, "width": width, "heads": width // _HEAD_WIDTH}
    text["layers"] = blocks(state, "transformer.resblocks.")
    clip = open_clip.CLIP(state["text_projection"].shape[1], vision, text, quick_gelu=True)
    load_into(clip, state, where)
    return clip


def _vision_ranks(prefix: str) -> dict[str, int]:
    """The entries that say the sizes of a vision tower, and how many dimensions each has."""
    return {f"{prefix}conv1.weight": 4, f"{prefix}positional_embedding": 2}


def _expect(state: Mapping[str, Tensor], where: str | Path, ranks: dict[str, int], stages: tuple[str, ...]) -> None:
    """Refuse what is no CLIP at all, before sizes are read off it."""
    lacking = [k for k, rank in ranks.items() if k not in state or state[k].ndim != rank]
    lacking += [f"{stage}0…" for stage in stages if not blocks(state, stage)]
    if lacking:
        raise CheckpointError(
            f"the weights are not of a CLIP: they lack {', '.join(lacking)}",
            where=where,
            hint="OpenAI names them visual.conv1.weight … text_projection, of a vision tower alone conv1.weight … proj",
        )


def _vision(state: Mapping[str, Tensor], where: str | Path, prefix: str) -> dict[str, int]:
    """Sizes of a vision tower, as open_clip calls them."""
    width, patch = state[f"{prefix}conv1.weight"].shape[0], state[f"{prefix}conv1.weight"].shape[-1]
    grid = math.isqrt(state[f"{prefix}positional_embedding"].shape[0] - 1)  # one place is that of [cls]
    if width % _HEAD_WIDTH or not grid:
        raise CheckpointError(
            f"a vision tower of width {width} and {grid} x {grid} patches",
            where=where,
            hint=f"published ones have heads of {_HEAD_WIDTH} channels and at least one patch",
        )
    layers = blocks(state, f"{prefix}transformer.resblocks.")
    return {"image_size": grid * patch, "patch_size": patch, "width": width, "layers": layers}


def _beside(outer: str) -> dict[str, tuple[str, ...]]:
    """Beginnings of the names that may lie beside a vision tower, by what they are of."""
    return {
        "the text tower": tuple(outer + name for name in _TEXT),
        "the projectors": (_PROJECTORS,),
        "the teacher": (_TEACHER,),
        _NUMBERS_ARE: tuple(outer + name for name in _NUMBERS),
    }
