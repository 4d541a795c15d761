"""Training subjects held out as validation, where a data set has no validation split of its own.

::

    from migcore.data.folds import hold_out

    index = hold_out(index, "2/5")  # the second fifth of the training subjects is now "val"

Over "1/5" to "5/5" every training clip is held out once: together they are a cross-validation.

Choices:

* Subjects stay whole, since a network that has seen a person's other clips is not judged on new people. Where the
  subject is not known, the video stands for it.
* The largest subject is dealt first, each to the part that has the fewest clips so far; of equally large ones a hash of
  the name decides. So parts are about equal, and the same whatever the order of files and rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter

from migcore.data.imigue import ClipIndex, ClipRecord, _warn_of_absent_classes
from migcore.errors import ConfigError

_FOLD = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")


def parse_fold(text: str) -> tuple[int, int]:
    """``"2/5"`` → (2, 5).

    Raises:
        ConfigError: it is not "k/K" with whole numbers, K at least 2 and k one of 1..K.
    """
    match = _FOLD.fullmatch(text)
    k, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= k <= of or of < 2:
        hint = "Write k/K, the k-th of K parts of the training subjects and K at least 2: --set data.fold=1/5"
        raise ConfigError(f"data.fold cannot be {text!r}", hint=hint)
    return k, of


def training_subjects(index: ClipIndex) -> Counter[tuple[str, str]]:
    """How many training clips each subject has: ("subject", name), or ("video", name) where the subject is unknown."""
    return Counter(map(_whose, index.split("train")))


def hold_out(index: ClipIndex, fold: str) -> ClipIndex:
    """The same clips with one part of the training subjects as split "val".

    Args:
        index: of a data set without validation clips.
        fold: "k/K", the k-th of K parts.

    Raises:
        ConfigError: ``fold`` is no such text, there are fewer than K training subjects, or there are validation clips.

    Warns:
        AbsentClassWarning: a split with labelled clips lacks classes, now that it is as it is.
    """
    k, of = parse_fold(fold)
    there = sorted({clip.video for clip in index.split("val")})
    if there:
        raise ConfigError(
            f"data.fold={fold}, but there is a validation split: {len(there)} videos, the first {there[0]}",
            where=index.root,
            hint="Leave data.fold out, or list these videos as train, or as test, in splits.csv",
        )
    subjects = training_subjects(index)
    if of > len(subjects):
        raise ConfigError(
            f"data.fold={fold}, but the number of training subjects is {len(subjects)}",
            where=index.root,
            hint="There are at most as many parts as subjects (videos, where subjects are not known)",
        )
    part = _dealt(subjects, of)
    clips = (
        dataclasses.replace(clip, split="val") if clip.split == "train" and part[_whose(clip)] == k else clip
        for clip in index.clips
    )
    held_out = dataclasses.replace(index, clips=tuple(clips))
    _warn_of_absent_classes(held_out)
    return held_out


def _whose(clip: ClipRecord) -> tuple[str, str]:
    return ("subject", clip.subject) if clip.subject else ("video", clip.video)


def _dealt(subjects: Counter[tuple[str, str]], of: int) -> dict[tuple[str, str], int]:
    """Which part, 1 to ``of``, each subject is in."""
    sizes, part = [0] * of, {}
    for who in sorted(subjects, key=lambda who: (-subjects[who], hashlib.sha256("\0".join(who).encode()).digest())):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += subjects[who]
        part[who] = smallest + 1
    return part
