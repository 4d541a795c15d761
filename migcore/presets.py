"""Presets: what is trained on what, at four sizes; every field can be overridden by its dotted name.

::

    from migcore.presets import preset
    preset("laptop", {"train_posec3d.epochs": 3, "skeleton.frames": "24"}).label

The config dataclasses live beside what they configure; this file only assembles them. ``smoke`` is for tests,
``laptop`` is the book's default and that of the recorded runs, ``workstation`` is a larger studio for a GPU,
``imigue`` is the published recipe on real data.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from migcore.baselines import Baselines, baselines
from migcore.data.datasets import SkeletonConfig, VideoConfig
from migcore.data.folds import parse_fold
from migcore.ensemble import check_grid
from migcore.errors import ConfigError
from migcore.ledger import NO_NUMBERS
from migcore.models.clip import TeacherConfig
from migcore.models.froster import FrosterConfig
from migcore.models.posec3d import PoseC3DConfig
from migcore.models.vclip import VCLIPConfig
from migcore.studio.dataset import StudioConfig
from migcore.studio.probes import DifficultyConfig
from migcore.training import TrainConfig

T = TypeVar("T")
Value = str | int | float | bool | list[Any] | tuple[Any, ...] | None


@dataclass(frozen=True)
class DataConfig:
    """Which folder holds the clips.

    Attributes:
        root: a folder in iMiGUE's layout; "" for the preset's studio, which is made when it is first needed.
        column_map: how the columns of its skeleton files are laid out (:func:`migcore.data.layouts.column_map`).
        first_frame: number that its label files give the first frame of a film, 1 or 0.
        skip_bad: leave damaged clips out, count and list them, instead of stopping.
        fold: "k/K", such as "1/5": where the data set has no validation split, the k-th of K parts of its training
            subjects is held out as one (:func:`migcore.data.folds.hold_out`); the K parts together are a
            cross-validation. "" for the data set's own splits.
    """

    root: str = field(default="", metadata=NO_NUMBERS)
    column_map: str = "openpose35"
    first_frame: int = 1
    skip_bad: bool = field(default=False, metadata=NO_NUMBERS)  # which clips it left out is part of the data's identity
    fold: str = ""

    def __post_init__(self) -> None:
        if self.fold:
            parse_fold(self.fold)


@dataclass(frozen=True)
class ProbeConfig:
    """Linear probe of frozen features.

    Attributes:
        l2: penalties to choose from (times half the squared norm of the weights).
        held_out: share of the training subjects on whose clips the penalty is chosen.
        iterations: of L-BFGS, at most.
    """

    l2: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    held_out: float = 0.25
    iterations: int = 200

    def __post_init__(self) -> None:
        if not self.l2 or not all(0 <= l2 < float("inf") for l2 in self.l2):
            raise ConfigError(
                f"probe.l2={','.join(map(str, self.l2))}", hint="give one penalty or more, each 0 or more"
            )
        if not 0 < self.held_out < 1:
            raise ConfigError(
                f"probe.held_out={self.held_out}", hint="a share of the training subjects, above 0, below 1"
            )
        if self.iterations < 1:
            raise ConfigError(f"probe.iterations={self.iterations}", hint="at least 1")


@dataclass(frozen=True)
class AlignmentConfig:
    """Text alignment of the skeleton networks (Eq. 6).

    Attributes:
        gamma: γ, per squared distance summed over the embedding. 20/512 is what the winner of 2023 weighted a mean over
            512 numbers by.
        embedding: "series": the classifier sees the embedding, as section 2.4 says; "parallel": it sees the feature.
        normalise: bring the embedding to length 1 before it is compared.
    """

    gamma: float = 20 / 512
    embedding: Literal["series", "parallel"] = "series"
    normalise: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < float("inf"):
            raise ConfigError(f"gamma {self.gamma}", hint="0 or more")


@dataclass(frozen=True)
class SearchConfig:
    """Search for the weights of the ensemble (section 2.5).

    Attributes:
        step: of the grid on the simplex of weights; one over a whole number.
        split: whose clips decide.
        kind: fuse "probabilities" or "logits".
        metric: "top1" or "mean_class".
    """

    step: float = 0.05
    split: Literal["val"] = "val"
    kind: Literal["probabilities", "logits"] = "probabilities"
    metric: Literal["top1", "mean_class"] = "top1"

    def __post_init__(self) -> None:
        check_grid(3, self.step)  # here, and not when three networks have been trained


# Calibrated: the bytes saved for the backward pass are 0.68 of those without decay, as in the paper's Table 3
# (migcore.models.cost.calibrate: ViT-B/16, 8 frames, batch 1, float32, attention written out; the miniature likewise).
KEEP_VIT_B16 = (0.94,) * 11 + (1.0,)
"""Token decay of ViT-B/16's twelve blocks."""
KEEP_MINIATURE = (0.773,) * 3 + (1.0,)
"""Token decay of the miniature's four blocks. Its presets score by logits: a linear probe of the untrained tower with
this decay found more on validation so than with the soft-max."""


def _student(keep: tuple[float, ...], score: Literal["softmax", "logits"] = "softmax") -> FrosterConfig:
    return FrosterConfig(vclip=VCLIPConfig(keep=keep, score=score))


@dataclass(frozen=True)
class Preset:
    """Everything that an experiment may ask for.

    Attributes:
        name: "smoke", "laptop", "workstation" or "imigue".
        data: where the clips are.
        studio: the embedded data set; None with real data.
        skeleton: clips of keypoints and their heat-maps.
        posec3d: the skeleton network.
        train_posec3d: its recipe.
        video: clips of frames.
        teacher: the frozen CLIP.
        student: the video student, with token decay.
        train_student: its recipe.
        init: file of published weights that the video students start from, instead of the teacher's: FROSTER's,
            Open-VCLIP's, or a CLIP's (:func:`migcore.checkpoints.load_reference`); "" for none.
        baselines: the other systems of Table 1.
        alignment: of the skeleton networks with the student's texts.
        search: of the ensemble's weights.
        probe: the linear probe on the teacher.
        difficulty: the two small networks that measure how hard the data are.
        overrides: fields that differ from the preset, as ``(dotted name, value as text)``, sorted; without those that
            cannot change a number.
    """

    name: str
    data: DataConfig
    studio: StudioConfig | None
    skeleton: SkeletonConfig
    posec3d: PoseC3DConfig
    train_posec3d: TrainConfig
    video: VideoConfig
    teacher: TeacherConfig
    student: FrosterConfig
    train_student: TrainConfig
    baselines: Baselines
    init: str = ""
    alignment: AlignmentConfig = AlignmentConfig()
    search: SearchConfig = SearchConfig()
    probe: ProbeConfig = ProbeConfig()
    difficulty: DifficultyConfig = field(default_factory=DifficultyConfig)
    overrides: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """Name and overrides: ``laptop`` or ``laptop+train_posec3d.epochs=3``. Runs are filed under it."""
        return "+".join([self.name, *(f"{name}={value}" for name, value in self.overrides)])


# Of 0.004, 20/512 and 0.2 the best on validation (joints, seed 0); none at all was better still (chapter 11).
_ALIGNED = AlignmentConfig(gamma=0.004)

# FROSTER's recipe with a rate and a length for a thousand clips and a small CLIP, chosen on validation; the mean over
# epochs did not help there.
_SMALL_DATA = TrainConfig(
    epochs=6,
    batch_size=16,
    optimizer="adamw",
    lr=3e-4,
    betas=(0.9, 0.999),
    weight_decay=0.01,
    decay_1d=False,
    warmup_epochs=1,
    lr_floor=0.01,
    clip_norm=1.0,
    eval_every=2,
)


def _smoke() -> Preset:
    return Preset(
        name="smoke",
        data=DataConfig(),
        studio=StudioConfig(
            size=32,
            train_clips=64,
            val_clips=32,
            test_clips=40,
            train_subjects=4,
            val_subjects=2,
            test_subjects=3,
            max_seconds=2.0,
        ),
        skeleton=SkeletonConfig(
            frames=8, train_size=(16, 16), test_size=(16, 16), test_clips=1, test_flip=True, padding=0.05
        ),
        posec3d=PoseC3DConfig(base_channels=4),
        train_posec3d=TrainConfig(epochs=1),
        video=VideoConfig(frames=2, size=32, flip=True, crop=False),
        teacher=TeacherConfig(),
        student=_student(KEEP_MINIATURE, "logits"),
        train_student=dataclasses.replace(_SMALL_DATA, epochs=1, warmup_epochs=0.5),
        baselines=baselines("smoke"),
        alignment=_ALIGNED,
        difficulty=DifficultyConfig(skeleton_epochs=2, film_epochs=1),
    )


def _laptop() -> Preset:
    return Preset(
        name="laptop",
        data=DataConfig(),
        studio=StudioConfig(
            size=64,
            train_clips=1000,
            val_clips=400,
            test_clips=600,
            train_subjects=30,
            val_subjects=12,
            test_subjects=18,
        ),
        skeleton=SkeletonConfig(
            frames=16, train_size=(32, 32), test_size=(32, 32), test_clips=1, test_flip=True, padding=0.05, crop=False
        ),
        # Twelve epochs of 1000 clips are 750 steps: with the published random crop and half of the features dropped
        # the network underfits them.
        posec3d=PoseC3DConfig(base_channels=8, dropout=0.2),
        train_posec3d=TrainConfig(epochs=12, batch_size=16, lr=0.05, eval_every=3),
        # FROSTER's random windows enlarge what is seen in training and not in test: on validation worse than none.
        video=VideoConfig(frames=8, size=64, flip=True, crop=False),
        teacher=TeacherConfig(),
        student=_student(KEEP_MINIATURE, "logits"),
        train_student=_SMALL_DATA,
        baselines=baselines("laptop"),
        alignment=_ALIGNED,
    )


def _workstation() -> Preset:
    return Preset(
        name="workstation",
        data=DataConfig(),
        studio=StudioConfig(
            size=112,
            train_clips=6000,
            val_clips=1500,
            test_clips=2500,
            train_subjects=120,
            val_subjects=30,
            test_subjects=50,
        ),
        skeleton=SkeletonConfig(
            frames=32, train_size=(56, 56), test_size=(56, 56), test_clips=4, test_flip=True, padding=0.05
        ),
        posec3d=PoseC3DConfig(base_channels=32),
        train_posec3d=TrainConfig(epochs=24, batch_size=64, lr=0.1, precision="bf16", eval_every=4, workers=8),
        video=VideoConfig(frames=8, size=112, flip=True, crop=False),
        teacher=TeacherConfig(),
        student=_student(KEEP_MINIATURE, "logits"),
        train_student=dataclasses.replace(_SMALL_DATA, epochs=12, batch_size=64, precision="bf16", workers=8),
        baselines=baselines("workstation"),
        alignment=_ALIGNED,
    )


def _imigue() -> Preset:
    return Preset(
        name="imigue",
        data=DataConfig(),
        studio=None,
        skeleton=SkeletonConfig(),
        posec3d=PoseC3DConfig(),
        # 24 epochs over a data set repeated 10 times, learning rate 0.2 for 128 clips a step.
        train_posec3d=TrainConfig(epochs=240, batch_size=128, lr=0.2, precision="bf16", eval_every=10, workers=8),
        video=VideoConfig(frames=8, size=224, test_clips=3, flip=True),
        teacher=TeacherConfig(name="ViT-B-16", pretrained="openai"),
        student=_student(KEEP_VIT_B16),
        # FROSTER's, for Kinetics: 22 epochs, two of them warm-up, weights averaged from the second on.
        train_student=TrainConfig(
            epochs=22,
            batch_size=64,
            optimizer="adamw",
            lr=3.33e-6,
            betas=(0.9, 0.999),
            weight_decay=0.01,
            decay_1d=False,
            warmup_epochs=2,
            lr_floor=0.01,
            average_from=2,
            clip_norm=1.0,
            precision="bf16",
            eval_every=2,
            workers=8,
        ),
        baselines=baselines("imigue"),
    )


_MAKE = {"smoke": _smoke, "laptop": _laptop, "workstation": _workstation, "imigue": _imigue}
PRESETS = tuple(_MAKE)
"""Their names."""


def preset(name: str, overrides: Mapping[str, Value] | None = None) -> Preset:
    """A preset with some of its fields changed.

    Args:
        name: one of :data:`PRESETS`.
        overrides: see :func:`override`.

    Raises:
        ConfigError: no preset or field has that name (close ones are listed), or the value is not of the field's type
            or out of its range.
    """
    if name not in _MAKE:
        raise ConfigError(f"no preset is called {name!r}", hint=_suggest(name, PRESETS))
    return changed(_MAKE[name](), overrides or {})


def changed(config: Preset, overrides: Mapping[str, Value]) -> Preset:
    """A preset with more of its fields changed; what it is called says all that differs from the preset of its name.

    Args:
        config: a preset, itself changed or not.
        overrides: see :func:`override`.

    Raises:
        ConfigError: as :func:`override`.
    """
    plain, made = _MAKE[config.name](), override(config, overrides)
    differs = {
        dotted: _text(_get(made, dotted))
        for dotted, matters in _fields(plain).items()
        if matters and _get(made, dotted) != _get(plain, dotted)
    }
    return dataclasses.replace(made, overrides=tuple(sorted(differs.items())))


def override(config: T, values: Mapping[str, Value]) -> T:
    """A copy of a config with fields changed.

    Args:
        config: a dataclass, of dataclasses if need be.
        values: dotted field name → value, as text (from a command line) or as JSON types (from papermill). Texts are
            parsed to the field's type; a tuple is written ``32,32`` or ``[32, 32]``.

    Raises:
        ConfigError: no field has that name (close ones are listed), or the value is not of the field's type or out of
            its range.
    """
    names = list(_fields(config))
    for dotted in values:
        if dotted not in names:
            first = dotted.partition(".")[0]
            if first in vars(config) and getattr(config, first) is None:
                raise ConfigError(f"{dotted!r} cannot be set: this preset has no {first}")
            raise ConfigError(f"no field is called {dotted!r}", hint=_suggest(dotted, names))
    return _replace(config, values) if values else config


def _fields(config: Any, prefix: str = "") -> dict[str, bool]:
    """Dotted names of the fields that can be overridden → whether they can change a number."""
    found: dict[str, bool] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            found |= _fields(value, f"{prefix}{f.name}.")
        elif value is not None and not (isinstance(config, Preset) and f.name in ("name", "overrides")):
            found[prefix + f.name] = f.metadata.get("numbers", True)
    return found


def _suggest(word: str, words: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, words, n=4, cutoff=0.6)
    # A field is often remembered without the part that it belongs to.
    close += [w for w in words if w.rpartition(".")[2] == word.rpartition(".")[2] and w not in close]
    return f"Did you mean {', '.join(close)}?" if close else f"There are {', '.join(words)}"


def _get(config: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        config = getattr(config, part)
    return config


def _text(value: Any) -> str:
    return ",".join(map(_text, value)) if isinstance(value, tuple) else str(value)


def _replace(config: Any, values: Mapping[str, Value], prefix: str = "") -> Any:
    """A copy with all values at once: what two fields must fulfil together does not depend on which is set first."""
    kinds = get_type_hints(type(config))
    changes: dict[str, Any] = {}
    inner: dict[str, dict[str, Value]] = {}
    for dotted, value in values.items():
        head, _, rest = dotted.partition(".")
        if rest:
            inner.setdefault(head, {})[rest] = value
        else:
            changes[head] = _parse(value, kinds[head], prefix + head)
    for head, of_it in inner.items():
        changes[head] = _replace(getattr(config, head), of_it, f"{prefix}{head}.")
    return dataclasses.replace(config, **changes)


def _parse(value: Any, kind: Any, name: str) -> Any:
    """``value`` as the type ``kind``: bool, int, float, str, a Literal, a tuple of them, or one of several."""
    wrong = ConfigError(f"{name} cannot be {value!r}", hint=f"It takes {_words(kind)}")
    origin, arguments = get_origin(kind), get_args(kind)
    text = value.strip() if isinstance(value, str) else None
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return _parse(value, option, name)
            except ConfigError:
                continue
        raise wrong
    if origin is Literal:
        for option in arguments:
            if value == option or text == str(option):
                return option
        raise wrong
    if origin is tuple:
        items = [p for p in text.strip("()[]").split(",") if p.strip()] if text is not None else value
        if not isinstance(items, (list, tuple)):
            raise wrong
        kinds = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(items):
            raise wrong
        return tuple(_parse(item, k, name) for item, k in zip(items, kinds, strict=True))
    if kind is type(None) and (value is None or text == "None"):
        return None
    if kind is bool and (isinstance(value, bool) or (text or "").lower() in _BOOLEANS):
        return value if isinstance(value, bool) else _BOOLEANS[(text or "").lower()]
    if kind in (str, Path) and isinstance(value, (str, Path)):
        return kind(value)
    if kind in (int, float) and not isinstance(value, bool):
        try:
            if kind is int and text is not None and text.lstrip("+-").isdecimal():
                return int(text)  # exactly: a seed may have more digits than a float
            number = float(value)
            if kind is float or number == int(number):
                return kind(number)
        except (TypeError, ValueError, OverflowError):
            pass
    raise wrong


_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _words(kind: Any) -> str:
    """A type for people."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(repr(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(a) for a in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"{_words(arguments[0])}, any number of them separated by commas"
        return " and ".join(_words(a) for a in arguments) + ", separated by a comma"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}.get(kind, str(kind))
