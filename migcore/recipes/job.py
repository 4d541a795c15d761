"""What an experiment is handed and hands back.

C classes, N clips of a split, E embedding.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from migcore import metrics
from migcore.data.datasets import SkeletonClips, VideoClips
from migcore.data.dense import DenseClips
from migcore.data.imigue import ClipIndex
from migcore.data.sequences import SequenceClips
from migcore.presets import Preset

SPLITS = ("val", "test")
"""Splits whose outputs a run keeps."""


@dataclass(frozen=True)
class SplitOutputs:
    """What a model says about the clips of a split.

    Attributes:
        logits: [N, C] float32.
        labels: [N] int64, -1 where not known.
        clips: N clip ids.
        subjects: N names; that of the video where the subject is not known.
        skipped: (id, reason) of damaged clips that were left out, as asked.
    """

    logits: np.ndarray
    labels: np.ndarray
    clips: list[str]
    subjects: list[str]
    skipped: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(values: Tensor, data: SkeletonClips | VideoClips | SequenceClips | DenseClips) -> SplitOutputs:
        """Logits with the clips they belong to."""
        ids, subjects = [r.id for r in data.records], [r.subject or r.video for r in data.records]
        return SplitOutputs(values.float().numpy(), data.labels, ids, subjects, data.skipped)

    def only(self, clips: list[str]) -> SplitOutputs:
        """The same for some of the clips, in their order."""
        rows = [self.clips.index(clip) for clip in clips]
        return SplitOutputs(self.logits[rows], self.labels[rows], clips, [self.subjects[r] for r in rows], self.skipped)


@dataclass(frozen=True)
class Job:
    """What an experiment is handed.

    Attributes:
        name, preset, seed: what to run.
        index: its clips.
        folder: for its files.
        inputs: outputs of the experiments it depends on: name → split → outputs.
        texts: class embeddings [C, E] of those that have some: name → array.
        main: this process writes files.
    """

    name: str
    preset: Preset
    seed: int
    index: ClipIndex
    folder: Path
    inputs: dict[str, dict[str, SplitOutputs]]
    texts: dict[str, np.ndarray]
    main: bool

    @property
    def splits(self) -> list[str]:
        """Those of :data:`SPLITS` that have clips."""
        return [split for split in SPLITS if self.index.split(split)]


@dataclass
class Made:
    """What an experiment hands back.

    Attributes:
        outputs: on every split.
        history: a dict per epoch.
        device: in words.
        extra: what else is worth a record, JSON types only.
        arrays: and arrays, named "<group>.<name>"; "text.embeddings" are class embeddings [C, E].
    """

    outputs: dict[str, SplitOutputs]
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    device: str = ""
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def summary(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """The two numbers worth following during training, over the clips whose label is known."""
    found = measure(logits.numpy(), labels.numpy())
    return {name: found[name] for name in ("top1", "mean_class") if name in found}


def measure(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """:func:`migcore.metrics.classification` over the clips whose label is known; empty if none is (MiGA's test)."""
    known = labels >= 0
    return metrics.classification(logits[known], labels[known]) if known.any() else {}
