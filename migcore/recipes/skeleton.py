"""The skeleton streams: PoseC3D on joints and on limbs, from labels alone or with text alignment.

B clips, K views of a clip, M persons, V keypoints, E bones (or embedding, beside B or C), T frames, C classes. Choices:

* heat-map volumes are drawn from the collated keypoints on the device, inside the loss: a batch that travels is small;
* numbers are those of the last epoch: validation chooses nothing;
* the texts to align with are those of the *distilled* student, taken from its run, so that the ledger says which.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from migcore.checkpoints import save_weights
from migcore.data.datasets import SkeletonClips, SkeletonConfig, collate
from migcore.data.layouts import SkeletonLayout, layout
from migcore.heatmaps import joint_heatmaps, limb_heatmaps
from migcore.ledger import canonical
from migcore.models.posec3d import PoseC3D, alignment_loss
from migcore.recipes.job import Job, Made, SplitOutputs, summary
from migcore.training import Batch, evaluate, fit, generator

TEXTS_FROM = "froster_decay"
"""The experiment whose student gives the text features that the skeleton networks are aligned with."""


@dataclass(frozen=True)
class SkeletonStream:
    """Keypoints of a batch → volumes → PoseC3D, for one kind of volume.

    Attributes:
        kind: "joint" draws a channel per keypoint, "limb" one per bone.
        layout: names the bones.
        train_size, test_size: (H, W) of the volumes.
        views_at_once: volumes drawn and run together in evaluation; a clip may have twenty.
        text_CE: class embeddings to align with; None for none.
        gamma: γ of Eq. 6.
        normalise: bring x̂ to length 1 first.
    """

    kind: Literal["joint", "limb"]
    layout: SkeletonLayout
    train_size: tuple[int, int]
    test_size: tuple[int, int]
    views_at_once: int
    text_CE: Tensor | None = None
    gamma: float = 0.0
    normalise: bool = False

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
        """Cross-entropy on one view per clip, plus γ times the distance to the class texts (Eq. 6)."""
        volume = self.volumes(batch["keypoints"][:, 0], batch["scores"][:, 0], self.train_size)
        if self.text_CE is None:
            logits_BC = model(volume)
            return F.cross_entropy(logits_BC, batch["label"]), logits_BC
        logits_BC, embedding_BE = model(volume, with_embedding=True)
        text_CE = self.text_CE.to(embedding_BE.device)
        apart = alignment_loss(embedding_BE, text_CE, batch["label"], normalise=self.normalise)
        return F.cross_entropy(logits_BC, batch["label"]) + self.gamma * apart, logits_BC

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits [B, K, C] of all views."""
        keypoints = rearrange(batch["keypoints"], "b k m t v c -> (b k) m t v c").split(self.views_at_once)
        scores = rearrange(batch["scores"], "b k m t v -> (b k) m t v").split(self.views_at_once)
        logits = [model(self.volumes(k, s, self.test_size)) for k, s in zip(keypoints, scores, strict=True)]
        return rearrange(torch.cat(logits), "(b k) c -> b k c", b=len(batch["keypoints"]))


def _posec3d(job: Job, kind: Literal["joint", "limb"], *, aligned: bool = False) -> Made:
    preset, config = job.preset, job.preset.train_posec3d
    sizes = preset.skeleton.train_size, preset.skeleton.test_size
    stream = SkeletonStream(kind, layout(preset.skeleton.layout), *sizes, views_at_once=config.batch_size)
    shape = dataclasses.replace(preset.posec3d, in_channels=stream.channels)
    if aligned:
        text_CE, alignment = torch.from_numpy(job.texts[TEXTS_FROM]), preset.alignment
        stream = dataclasses.replace(stream, text_CE=text_CE, gamma=alignment.gamma, normalise=alignment.normalise)
        shape = dataclasses.replace(shape, embed_dim=text_CE.shape[1], embedding=alignment.embedding)
    model = PoseC3D(shape, generator=generator(job.seed))
    model.to(memory_format=torch.channels_last_3d)

    def clips(split: str, settings: SkeletonConfig, train: bool = False) -> SkeletonClips:
        return SkeletonClips(job.index, split, settings, train=train, seed=job.seed, skip_bad=preset.data.skip_bad)

    one_view = dataclasses.replace(preset.skeleton, test_clips=1, test_flip=False)
    judged = {split: clips(split, preset.skeleton) for split in job.splits}  # what is damaged is told before training
    done = fit(
        model,
        stream.loss,
        clips("train", preset.skeleton, train=True),
        config,
        seed=job.seed,
        folder=job.folder / "checkpoints",
        predict=stream.predict,
        metrics=summary,
        validation=clips("val", one_view) if "val" in job.splits else None,
        collate=collate,
        title=f"{job.name} seed {job.seed}",
    )
    outputs = {}
    for split, data in judged.items():
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


def posec3d_joint_text(job: Job) -> Made:
    """The same, its embedding pulled to the distilled student's text features (Eq. 6)."""
    return _posec3d(job, "joint", aligned=True)


def posec3d_limb_text(job: Job) -> Made:
    """The same, its embedding pulled to the distilled student's text features (Eq. 6)."""
    return _posec3d(job, "limb", aligned=True)
