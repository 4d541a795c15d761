"""The frozen teacher by itself: zero-shot, and with a linear probe.

B clips, K views of a clip, N clips of a split, C classes, E embedding. Choice: the linear probe chooses its penalty on
held-out training subjects; validation and test decide nothing.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from migcore.data.datasets import VideoClips, collate
from migcore.labels import NUM_CLASSES
from migcore.models.clip import load_teacher
from migcore.recipes.job import Job, Made, SplitOutputs, measure
from migcore.training import Batch, TrainConfig, device_name, evaluate, extract


def _frames(job: Job, split: str, views: int) -> tuple[VideoClips, TrainConfig]:
    """Clips of frames as the frozen teacher takes them, and how to load them."""
    video = dataclasses.replace(job.preset.video, test_clips=views, flip=False)
    data = VideoClips(job.index, split, video, train=False, seed=job.seed, skip_bad=job.preset.data.skip_bad)
    return data, dataclasses.replace(job.preset.train_posec3d, batch_size=32, precision="fp32")


def zero_shot(job: Job) -> Made:
    """The frozen teacher against the class prompts: mean over frames of the scaled cosines."""
    teacher = load_teacher(job.preset.teacher)

    def predict(model: nn.Module, batch: Batch) -> Tensor:
        video = rearrange(batch["video"], "b k c t h w -> (b k) c t h w")
        logits = teacher.logits(teacher.encode_video(video), teacher.class_embeddings())
        return rearrange(logits, "(b k) c -> b k c", b=len(batch["video"]))

    outputs = {}
    for split in job.splits:
        data, loading = _frames(job, split, job.preset.video.test_clips)
        found = evaluate(teacher, predict, data, loading, collate=collate, title=f"{job.name} {split}")
        outputs[split] = SplitOutputs.of(found.values, data)
    return Made(outputs, device=device_name(teacher.device))


def linear_probe(job: Job) -> Made:
    """Logistic regression on the teacher's frozen features, mean over the frames of a clip.

    The penalty is chosen by mean-class accuracy on clips of held-out training subjects (videos, where subjects are not
    known); then all training clips are used. Validation and test decide nothing.
    """
    teacher, config = load_teacher(job.preset.teacher), job.preset.probe
    features: dict[str, Tensor] = {}
    clips: dict[str, VideoClips] = {}
    for split in ("train", *job.splits):
        clips[split], loading = _frames(job, split, 1)
        found = extract(
            teacher,
            lambda model, batch: teacher.encode_video(batch["video"][:, 0]).mean(1),
            clips[split],
            loading,
            collate=collate,
            title=f"{job.name} {split}",
        )
        features[split] = found.values.double()
    mean_E, std_E = features["train"].mean(0), features["train"].std(0).clamp_min(1e-6)
    features = {split: (x_NE - mean_E) / std_E for split, x_NE in features.items()}
    x_NE, y_N = features["train"], torch.from_numpy(clips["train"].labels)
    people = np.array([r.subject or r.video for r in clips["train"].records])
    names = np.random.default_rng(job.seed).permutation(np.unique(people))
    out = torch.from_numpy(np.isin(people, names[: max(1, round(config.held_out * len(names)))]))
    score = {}
    for l2 in config.l2:
        weight, bias = fit_linear(x_NE[~out], y_N[~out], NUM_CLASSES, l2, config.iterations)
        score[l2] = measure((x_NE[out] @ weight.T + bias).numpy(), y_N[out].numpy())["mean_class"]
    best = max(config.l2, key=lambda l2: score[l2])
    weight, bias = fit_linear(x_NE, y_N, NUM_CLASSES, best, config.iterations)
    outputs = {s: SplitOutputs.of(features[s] @ weight.T + bias, clips[s]) for s in job.splits}
    extra = {"l2": best, "held_out_mean_class": {str(l2): value for l2, value in score.items()}}
    return Made(outputs, device=device_name(teacher.device), extra=extra)


def fit_linear(x_NE: Tensor, y_N: Tensor, classes: int, l2: float, iterations: int) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression by L-BFGS: mean cross-entropy + l2/2 · ‖W‖².

    Args:
        x_NE: features, float64.
        y_N: labels 0..classes-1.
        classes: C.
        l2: penalty; the bias has none.
        iterations: at most.

    Returns:
        weight [C, E] and bias [C].
    """
    weight = torch.zeros(classes, x_NE.shape[1], dtype=x_NE.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=x_NE.dtype, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x_NE @ weight.T + bias, y_N) + 0.5 * l2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return weight.detach(), bias.detach()
