"""The other systems of Table 1: ST-GCN, Hyperformer, TRN, Frozen CLIP (EVL) and DSCNet.

Each is trained on the clips, splits and seeds of the method, and judged alike; what differs is what it reads and its
recipe. B clips, K views of a clip, M persons, T frames, V keypoints, C classes. Choices:

* the corrected form of each is trained; its published defects are options of the models;
* numbers are those of the last epoch: validation chooses nothing;
* DSCNet's streams are trained apart, as published, and their probabilities added with equal weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from migcore.checkpoints import save_weights
from migcore.data.augment import normalise
from migcore.data.datasets import VideoClips, collate
from migcore.data.dense import DenseClips
from migcore.data.layouts import layout
from migcore.data.sequences import SequenceClips, SequenceConfig
from migcore.ledger import canonical
from migcore.models.clip import Teacher, load_teacher
from migcore.models.dscnet import DenseStream, SparseMSST
from migcore.models.evl import EVL, frozen_features
from migcore.models.hyperformer import IMIGUE_GROUPS, Hyperformer
from migcore.models.stgcn import STGCN
from migcore.models.trn import TRN
from migcore.presets import Preset
from migcore.recipes.job import Job, Made, SplitOutputs, summary
from migcore.training import Batch, TrainConfig, evaluate, fit, generator, make_accelerator

Clips = SequenceClips | VideoClips | DenseClips
Stream = Callable[[nn.Module, Tensor], Tensor]
"""(model, one view of each clip) → logits [B, C]."""


class ClipsOf(Protocol):
    """Makes the clips of a split."""

    def __call__(self, split: str, *, train: bool) -> Clips: ...


def _train(
    job: Job, model: nn.Module, what: str, stream: Stream, clips: ClipsOf, config: TrainConfig, shape: Any
) -> Made:
    """Train a model on ``batch[what]`` and judge it; ``shape`` describes it in its weight file."""

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits_BC = stream(model, batch[what][:, 0])
        return F.cross_entropy(logits_BC, batch["label"]), logits_BC

    def predict(model: nn.Module, batch: Batch) -> Tensor:
        views = rearrange(batch[what], "b k ... -> (b k) ...")
        return rearrange(stream(model, views), "(b k) c -> b k c", b=len(batch[what]))

    judged = {split: clips(split, train=False) for split in job.splits}  # what is damaged is told before training
    done = fit(
        model,
        loss,
        clips("train", train=True),
        config,
        seed=job.seed,
        folder=job.folder / "checkpoints",
        predict=predict,
        metrics=summary,
        validation=judged.get("val"),
        collate=collate,
        title=f"{job.name} seed {job.seed}",
    )
    outputs = {}
    for split, data in judged.items():
        found = evaluate(model, predict, data, config, collate=collate, title=f"{job.name} {split}")
        outputs[split] = SplitOutputs.of(found.values, data)
    if job.main:
        meta = {"experiment": job.name, "preset": job.preset.label, "seed": job.seed, "model": canonical(shape)}
        save_weights(job.folder / "weights.safetensors", model.state_dict(), meta)
    extra = {"parameters": sum(p.numel() for p in model.parameters()), "train_seconds": done.seconds}
    return Made(outputs, done.history, done.device, extra)


def _sequences(job: Job, config: SequenceConfig) -> ClipsOf:
    def clips(split: str, *, train: bool) -> SequenceClips:
        return SequenceClips(job.index, split, config, train=train, seed=job.seed, skip_bad=job.preset.data.skip_bad)

    return clips


def _films(job: Job, recipe: TrainConfig) -> ClipsOf:
    def clips(split: str, *, train: bool) -> VideoClips:
        return VideoClips(
            job.index,
            split,
            job.preset.video,
            train=train,
            seed=job.seed,
            cache=train and recipe.workers == 0,
            skip_bad=job.preset.data.skip_bad,
        )

    return clips


def make_stgcn(preset: Preset, seed: int) -> STGCN:
    """The network of :func:`stgcn`, with a seed's initial weights; likewise the other ``make_`` functions."""
    settings = preset.baselines
    skeleton = layout(settings.stgcn_clips.layout)
    return STGCN(settings.stgcn, skeleton.num_joints, skeleton.bones, generator=generator(seed))


def make_hyperformer(preset: Preset, seed: int) -> Hyperformer:
    settings = preset.baselines
    skeleton = layout(settings.hyperformer_clips.layout)
    return Hyperformer(
        settings.hyperformer, skeleton.num_joints, skeleton.bones, IMIGUE_GROUPS, generator=generator(seed)
    )


def make_trn(preset: Preset, seed: int) -> TRN:
    return TRN(preset.baselines.trn, generator=generator(seed))


def make_evl(preset: Preset, seed: int, teacher: Teacher) -> EVL:
    return EVL.over(teacher.clip.visual, preset.baselines.evl, generator=generator(seed))


def make_dense(preset: Preset, seed: int) -> DenseStream:
    return DenseStream(preset.baselines.dense, generator=generator(seed))


def make_sparse(preset: Preset, seed: int) -> SparseMSST:
    return SparseMSST(preset.baselines.sparse, generator=generator(seed))


def stgcn(job: Job) -> Made:
    """ST-GCN on keypoints, with the partition by true distances."""
    settings = job.preset.baselines
    model, clips = make_stgcn(job.preset, job.seed), _sequences(job, settings.stgcn_clips)
    return _train(job, model, "sequence", _as_it_is, clips, settings.train_stgcn, settings.stgcn)


def hyperformer(job: Job) -> Made:
    """Hyperformer on keypoints, with head, torso, arms and hands as hyperedges."""
    settings = job.preset.baselines
    model, clips = make_hyperformer(job.preset, job.seed), _sequences(job, settings.hyperformer_clips)
    return _train(job, model, "sequence", _as_it_is, clips, settings.train_hyperformer, settings.hyperformer)


def trn(job: Job) -> Made:
    """Multi-scale TRN on frames of the film."""
    settings = job.preset.baselines
    model, clips = make_trn(job.preset, job.seed), _films(job, settings.train_trn)
    return _train(job, model, "video", _pixels, clips, settings.train_trn, settings.trn)


def evl(job: Job) -> Made:
    """Frozen CLIP: a decoder over the frozen teacher's last blocks."""
    settings = job.preset.baselines
    teacher = load_teacher(job.preset.teacher, make_accelerator(settings.train_evl).device)
    model = make_evl(job.preset, job.seed, teacher)

    def stream(model: nn.Module, video_B3THW: Tensor) -> Tensor:
        frames = teacher.preprocess(rearrange(video_B3THW, "b c t h w -> (b t) c h w"))
        video = rearrange(frames, "(b t) c h w -> b c t h w", b=len(video_B3THW))
        return model(frozen_features(teacher.clip.visual, video, settings.evl.layers))

    return _train(job, model, "video", stream, _films(job, settings.train_evl), settings.train_evl, settings.evl)


def dscnet_dense(job: Job) -> Made:
    """DSCNet's film stream: the speaker's box of 8 windows of 6 frames, through STMEM and a temporal-shift ResNet."""
    settings = job.preset.baselines

    def clips(split: str, *, train: bool) -> DenseClips:
        return DenseClips(
            job.index,
            split,
            settings.dense_clips,
            train=train,
            seed=job.seed,
            cache=train and settings.train_dense.workers == 0,
            skip_bad=job.preset.data.skip_bad,
        )

    model = make_dense(job.preset, job.seed)
    return _train(job, model, "video", _pixels, clips, settings.train_dense, settings.dense)


def dscnet_sparse(job: Job) -> Made:
    """DSCNet's skeleton stream: one frame of each of 8 parts, as a small picture of time by keypoints."""
    settings = job.preset.baselines
    model, clips = make_sparse(job.preset, job.seed), _sequences(job, settings.sparse_clips)

    def stream(model: nn.Module, x_BCTVM: Tensor) -> Tensor:
        return model(rearrange(x_BCTVM, "b c t v m -> b m c t v"))

    return _train(job, model, "sequence", stream, clips, settings.train_sparse, settings.sparse)


def _as_it_is(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def _pixels(model: nn.Module, video_B3THW: Tensor) -> Tensor:
    return model(normalise(video_B3THW))
