"""What experiments need of the data, asked before anything is trained.

A training takes hours. That the split is missing on which its result would be judged, or the fusion's weights searched,
is to be known before it begins.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

from migcore.data.folds import training_subjects
from migcore.data.imigue import UNLABELLED, ClipIndex
from migcore.errors import ConfigError, DataError
from migcore.presets import Preset
from migcore.recipes.job import SPLITS

Need = Literal["train", "batch", "subjects", "val", "judged"]
"""Training clips (they have labels, or the data set is refused); as many as a batch of the small probes; training
subjects to hold out; a validation clip with a label; a clip of validation or test, labelled or not."""
PROBE_BATCH = 32
"""Clips of a batch of :mod:`migcore.studio.probes`, which leaves out what does not fill one."""
FOLDS = 5
"""Parts of the training subjects that are proposed where there is no validation split."""


class NothingJudgedWarning(UserWarning):
    """A data set has training clips alone: a run on it has weights and no numbers."""


def check_needs(name: str, needs: tuple[Need, ...], index: ClipIndex, preset: Preset) -> None:
    """Compare an experiment with the clips that it would run on.

    Args:
        name: of the experiment, for messages.
        needs: what it cannot do without.
        index: the clips.
        preset: of the run.

    Raises:
        DataError: a split that is needed has no clips, or none with a label; says which, in which folder, and what
            can be done.
        ConfigError: the linear probe would hold out all training subjects.

    Warns:
        NothingJudgedWarning: the experiment can run, and there is no clip to judge it on.
    """
    for need in needs:
        _CHECKS[need](name, index, preset)
    if "judged" not in needs and not _judged(index):
        warnings.warn(
            f"{index.root}: no clip is of split val or test: {name} will have weights and no numbers."
            f" {_list_as('val or test', index)}{_or(index)}",
            NothingJudgedWarning,
            stacklevel=2,
        )


def _train(name: str, index: ClipIndex, preset: Preset) -> None:
    if not index.split("train"):
        there_are_none = f"{name} needs clips of split train, and there are none"
        raise DataError(there_are_none, where=index.root, hint=_list_as("train", index))


def _batch(name: str, index: ClipIndex, preset: Preset) -> None:
    count = len(index.split("train"))
    if count < PROBE_BATCH:
        few = f"{name} learns from batches of {PROBE_BATCH} clips, and split train has {count}"
        raise DataError(few, where=index.root, hint=_list_as("train", index, "more videos"))


def _subjects(name: str, index: ClipIndex, preset: Preset) -> None:
    count, share = len(training_subjects(index)), preset.probe.held_out
    if count < 2:
        raise DataError(
            f"{name} chooses its penalty on held-out training subjects, and split train has one subject",
            where=index.root,
            hint="It needs clips of two subjects or more (videos, where splits.csv names no subject) in split train",
        )
    if round(share * count) >= count:
        hint = "Hold out less: --set probe.held_out=0.25"
        raise ConfigError(f"probe.held_out={share:g} of {count} training subjects leaves none to train on", hint=hint)


def _val(name: str, index: ClipIndex, preset: Preset) -> None:
    clips = index.split("val")
    if not clips or (index.labels("val") == UNLABELLED).all():
        lacks = f"none of its {len(clips)} clips has a label" if clips else "there are none"
        what = (
            f"{name} needs labelled clips of split val, on which the weights of its streams are searched, and {lacks}"
        )
        hint = f"{_list_as('val', index)}{_or(index)}"
        if clips:
            hint = f"Add {clips[0].video}_label.csv, or list its videos as test in splits.csv{_or(index, 'and')}"
        raise DataError(what, where=index.root, hint=hint)


def _at_all(name: str, index: ClipIndex, preset: Preset) -> None:
    if not _judged(index):
        raise DataError(
            f"{name} has nothing to judge: no clip is of split val or test",
            where=index.root,
            hint=f"{_list_as('val or test', index)}{_or(index)}",
        )


def _judged(index: ClipIndex) -> bool:
    return any(index.split(split) for split in SPLITS)


def _list_as(split: str, index: ClipIndex, what: str = "videos") -> str:
    file = index.root / "splits.csv"
    if file.is_file():
        return f"List {what} as {split} in {file}"
    return f"Write {file} with a row video,split,subject for every video, and list some as {split}"


def _or(index: ClipIndex, word: str = "or") -> str:
    """What else can be done without a validation split, where there are subjects to hold out."""
    parts = min(FOLDS, len(training_subjects(index)))
    if parts < 2:
        return ""
    return (
        f", {word} hold out training subjects: --set data.fold=1/{parts} (1/{parts} to {parts}/{parts} together are a"
        " cross-validation)"
    )


_CHECKS: dict[Need, Callable[[str, ClipIndex, Preset], None]] = {
    "train": _train,
    "batch": _batch,
    "subjects": _subjects,
    "val": _val,
    "judged": _at_all,
}
