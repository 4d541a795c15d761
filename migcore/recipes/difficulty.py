"""How hard the data are, by two small networks that belong to no method (:mod:`migcore.studio.probes`)."""

from __future__ import annotations

from typing import Literal

import torch

from migcore.recipes.job import Job, Made, SplitOutputs
from migcore.studio.probes import train_probe
from migcore.training import device_name


def difficulty_skeleton(job: Job) -> Made:
    """How hard the data are for a small 1-D CNN on keypoints (:mod:`migcore.studio.probes`)."""
    return _difficulty(job, "skeleton", job.preset.difficulty.skeleton_epochs)


def difficulty_film(job: Job) -> Made:
    """How hard the data are for a small 2-D CNN on frames (:mod:`migcore.studio.probes`)."""
    return _difficulty(job, "film", job.preset.difficulty.film_epochs)


def _difficulty(job: Job, kind: Literal["skeleton", "film"], epochs: int) -> Made:
    logits = train_probe(kind, job.index, seed=job.seed, size=job.preset.video.size, epochs=epochs, splits=job.splits)
    outputs = {}
    for split, logits_NC in logits.items():
        records = job.index.split(split)
        outputs[split] = SplitOutputs(
            logits_NC.numpy(), job.index.labels(split), [r.id for r in records], [r.subject or r.video for r in records]
        )
    return Made(outputs, device=device_name(torch.device("cpu")))
