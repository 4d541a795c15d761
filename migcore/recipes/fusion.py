"""Fusion of streams (Eq. 7): of two networks alike, and the whole method's."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from migcore import ensemble
from migcore.recipes.job import Job, Made, SplitOutputs

Kind = Literal["probabilities", "logits"]


def same_clips(job: Job, split: str) -> dict[str, SplitOutputs]:
    """The inputs of a fusion on a split, over the clips that all of them could read, in one order."""
    streams = {name: made[split] for name, made in job.inputs.items()}
    first, *others = streams.values()
    common = [clip for clip in first.clips if all(clip in other.clips for other in others)]
    return {name: stream.only(common) for name, stream in streams.items()}


def _fused(streams: dict[str, SplitOutputs], weights: dict[str, float], kind: Kind) -> SplitOutputs:
    fused_NC = ensemble.fuse({name: s.logits for name, s in streams.items()}, weights, kind=kind)
    if kind == "probabilities":
        fused_NC = np.log(np.maximum(fused_NC, np.finfo(np.float32).tiny))
    return dataclasses.replace(next(iter(streams.values())), logits=fused_NC.astype(np.float32))


def even_fusion(job: Job) -> Made:
    """Eq. 7 with equal weights on the probabilities of all inputs: PoseC3D's joints and limbs, DSCNet's two streams."""
    outputs = {}
    for split in job.splits:
        streams = same_clips(job, split)
        outputs[split] = _fused(streams, dict.fromkeys(streams, 1 / len(streams)), "probabilities")
    return Made(outputs, device="cpu")


def ours(job: Job) -> Made:
    """The whole method: Eq. 7 with the weights found on validation, applied once to test.

    Raises:
        DataError: no validation clip has a label.
    """
    settings = job.preset.search
    streams = same_clips(job, settings.split)
    found = ensemble.search_weights(
        {name: s.logits for name, s in streams.items()},
        next(iter(streams.values())).labels,
        step=settings.step,
        split=settings.split,
        kind=settings.kind,
        metric=settings.metric,
    )
    outputs = {split: _fused(same_clips(job, split), found.weights, settings.kind) for split in job.splits}
    search = {"split": found.split, "step": found.step, "kind": found.kind, "metric": found.metric}
    search |= {"score": found.score, "ties": found.ties, "absent": list(found.absent)}
    return Made(outputs, device="cpu", extra={"weights": found.weights, "search": search})
