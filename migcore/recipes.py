"""What experiments do: clips and a preset in, logits of every split out. Each function is one row of a table.

B clips, K views of a clip, M persons, V keypoints, E bones (or embedding, beside N), T frames, C classes, N clips of a
split. Notable choices:

* heat-map volumes are drawn from the collated keypoints on the device, inside the loss: a batch that travels is small;
* numbers are those of the last epoch: validation chooses nothing;
* the linear probe chooses its penalty on held-out training subjects.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from migcore import ensemble, metrics
from migcore.checkpoints import save_weights
from migcore.data.datasets import SkeletonClips, SkeletonConfig, VideoClips, collate
from migcore.data.imigue import ClipIndex
from migcore.data.layouts import SkeletonLayout, layout
from migcore.heatmaps import joint_heatmaps, limb_heatmaps
from migcore.labels import NUM_CLASSES
from migcore.ledger import canonical
from migcore.models.clip import load_teacher
from migcore.models.posec3d import PoseC3D
from migcore.presets import Preset
from migcore.studio.probes import train_probe
from migcore.training import Batch, TrainConfig, device_name, evaluate, extract, fit, generator

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
    def of(values: Tensor, data: SkeletonClips | VideoClips) -> SplitOutputs:
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
        main: this process writes files.
    """

    name: str
    preset: Preset
    seed: int
    index: ClipIndex
    folder: Path
    inputs: dict[str, dict[str, SplitOutputs]]
    main: bool

    @property
    def splits(self) -> list[str]:
        """Those of :data:`SPLITS` that have clips."""
        return [split for split in SPLITS if self.index.split(split)]


@dataclass
class Made:
    """What an experiment hands back: the outputs on every split, and what else is worth a record."""

    outputs: dict[str, SplitOutputs]
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    device: str = ""
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class SkeletonStream:
    """Keypoints of a batch → volumes → PoseC3D, for one kind of volume.

    Attributes:
        kind: "joint" draws a channel per keypoint, "limb" one per bone.
        layout: names the bones.
        train_size, test_size: (H, W) of the volumes.
        views_at_once: volumes drawn and run together in evaluation; a clip may have twenty.
    """

    kind: Literal["joint", "limb"]
    layout: SkeletonLayout
    train_size: tuple[int, int]
    test_size: tuple[int, int]
    views_at_once: int

    @property
    def channels(self) -> int:
        """Of a volume: keypoints or bones."""
        return self.layout.num_joints if self.kind == "joint" else self.layout.num_bones

    def volumes(self, keypoints_BMTV2: Tensor, scores_BMTV: Tensor, size: tuple[int, int]) -> Tensor:
        """Heat-maps [B, V|E, T, H, W] of keypoints in pixels of that size."""
        if self.kind == "joint":
            drawn = joint_heatmaps(keypoints_BMTV2, scores_BMTV, size)
        else:
            drawn = limb_heatmaps(keypoints_BMTV2, scores_BMTV, size, bones=self.layout.bones)
        return drawn.to(memory_format=torch.channels_last_3d)  # 3-D convolutions are up to 1.4 times faster so

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy on one view per clip; (loss, logits [B, C])."""
        logits_BC = model(self.volumes(batch["keypoints"][:, 0], batch["scores"][:, 0], self.train_size))
        return F.cross_entropy(logits_BC, batch["label"]), logits_BC

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits [B, K, C] of all views."""
        keypoints = rearrange(batch["keypoints"], "b k m t v c -> (b k) m t v c").split(self.views_at_once)
        scores = rearrange(batch["scores"], "b k m t v -> (b k) m t v").split(self.views_at_once)
        logits = [model(self.volumes(k, s, self.test_size)) for k, s in zip(keypoints, scores, strict=True)]
        return rearrange(torch.cat(logits), "(b k) c -> b k c", b=len(batch["keypoints"]))


def _posec3d(job: Job, kind: Literal["joint", "limb"]) -> Made:
    preset, config = job.preset, job.preset.train_posec3d
    sizes = preset.skeleton.train_size, preset.skeleton.test_size
    stream = SkeletonStream(kind, layout(preset.skeleton.layout), *sizes, views_at_once=config.batch_size)
    shape = dataclasses.replace(preset.posec3d, in_channels=stream.channels)
    model = PoseC3D(shape, generator=generator(job.seed))
    model.to(memory_format=torch.channels_last_3d)

    def clips(split: str, settings: SkeletonConfig, train: bool = False) -> SkeletonClips:
        return SkeletonClips(job.index, split, settings, train=train, seed=job.seed, skip_bad=preset.data.skip_bad)

    one_view = dataclasses.replace(preset.skeleton, test_clips=1, test_flip=False)
    done = fit(
        model,
        stream.loss,
        clips("train", preset.skeleton, train=True),
        config,
        seed=job.seed,
        folder=job.folder / "checkpoints",
        predict=stream.predict,
        metrics=_summary,
        validation=clips("val", one_view) if "val" in job.splits else None,
        collate=collate,
        title=f"{job.name} seed {job.seed}",
    )
    outputs = {}
    for split in job.splits:
        data = clips(split, preset.skeleton)
        found = evaluate(model, stream.predict, data, config, collate=collate, title=f"{job.name} {split}")
        outputs[split] = SplitOutputs.of(found.values, data)
    if job.main:
        meta = {"experiment": job.name, "preset": preset.label, "seed": job.seed, "model": canonical(shape)}
        save_weights(job.folder / "weights.safetensors", model.state_dict(), meta)
    extra = {"parameters": sum(p.numel() for p in model.parameters()), "train_seconds": done.seconds}
    return Made(outputs, done.history, done.device, extra)


def posec3d_joint(job: Job) -> Made:
    """PoseC3D on volumes with a channel per keypoint, trained on labels alone."""
    return _posec3d(job, "joint")


def posec3d_limb(job: Job) -> Made:
    """PoseC3D on volumes with a channel per bone, trained on labels alone."""
    return _posec3d(job, "limb")


def posec3d_fusion(job: Job) -> Made:
    """Eq. 7 with equal weights on the probabilities of the two streams, over the clips that both could read."""
    outputs = {}
    for split in job.splits:
        streams = {name: made[split] for name, made in job.inputs.items()}
        first, *others = streams.values()
        common = [clip for clip in first.clips if all(clip in other.clips for other in others)]
        same = {name: stream.only(common) for name, stream in streams.items()}
        logits = {name: stream.logits for name, stream in same.items()}
        fused_NC = ensemble.fuse(logits, dict.fromkeys(logits, 1 / len(logits)), kind="probabilities")
        logits_NC = np.log(np.maximum(fused_NC, np.finfo(np.float32).tiny)).astype(np.float32)
        outputs[split] = dataclasses.replace(next(iter(same.values())), logits=logits_NC)
    return Made(outputs, device="cpu")


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


def _summary(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """The two numbers worth following during training, over the clips whose label is known."""
    found = measure(logits.numpy(), labels.numpy())
    return {name: found[name] for name in ("top1", "mean_class") if name in found}


def measure(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """:func:`migcore.metrics.classification` over the clips whose label is known; empty if none is (MiGA's test)."""
    known = labels >= 0
    return metrics.classification(logits[known], labels[known]) if known.any() else {}
