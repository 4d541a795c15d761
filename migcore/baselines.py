"""Sizes and recipes of Table 1's other systems, at the four sizes of :mod:`migcore.presets`.

At ``imigue`` each system has the recipe that it was published with; where its authors trained on another data set, that
is said. The studio's presets are smaller, with learning rates and lengths to match, set from the published ones; the
laptop's rates of TRN and DSCNet's film stream were chosen on validation clips, the others were not searched. Where
published systems start from ImageNet, those of the studio start from a small ResNet that was taught on the stills of
the miniature CLIP (:mod:`migcore.studio.backbone`): from nothing, TRN and DSCNet's film stream learn next to nothing
from a thousand clips.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from migcore.data.dense import CropConfig
from migcore.data.sequences import SequenceConfig
from migcore.models.backbone import MINIATURE, MINIATURE_WIDTH
from migcore.models.dscnet import DenseConfig, SparseConfig
from migcore.models.evl import EVLConfig
from migcore.models.hyperformer import HyperformerConfig
from migcore.models.stgcn import STGCNConfig
from migcore.models.trn import TRNConfig
from migcore.training import TrainConfig


@dataclass(frozen=True)
class Baselines:
    """What the other systems' experiments ask for.

    Attributes:
        stgcn, stgcn_clips, train_stgcn: ST-GCN, its sequences and its recipe.
        hyperformer, hyperformer_clips, train_hyperformer: Hyperformer's.
        trn, train_trn: TRN's; it reads the clips of the preset's ``video``.
        evl, train_evl: Frozen CLIP's; likewise, through the preset's ``teacher``.
        dense, dense_clips, train_dense: DSCNet's film stream.
        sparse, sparse_clips, train_sparse: DSCNet's skeleton stream.
    """

    stgcn: STGCNConfig
    stgcn_clips: SequenceConfig
    train_stgcn: TrainConfig
    hyperformer: HyperformerConfig
    hyperformer_clips: SequenceConfig
    train_hyperformer: TrainConfig
    trn: TRNConfig
    train_trn: TrainConfig
    evl: EVLConfig
    train_evl: TrainConfig
    dense: DenseConfig
    dense_clips: CropConfig
    train_dense: TrainConfig
    sparse: SparseConfig
    sparse_clips: SequenceConfig
    train_sparse: TrainConfig


_SGD = TrainConfig(optimizer="sgd", momentum=0.9, nesterov=True, clip_norm=0.0, eval_every=4)
_STUDIO: dict[str, Any] = {"backbone": MINIATURE, "backbone_width": MINIATURE_WIDTH, "pretrained": "studio"}
_EIGHT = SequenceConfig(frames=8, fit="segments", flip=True)


def _published() -> Baselines:
    return Baselines(
        stgcn=STGCNConfig(),
        # The organisers' baseline: 90 frames of raw pixels; the recipe is ST-GCN's own for Kinetics' skeletons.
        stgcn_clips=SequenceConfig(frames=90, fit="window", units="pixels"),
        train_stgcn=dataclasses.replace(
            _SGD, epochs=50, batch_size=256, lr=0.1, weight_decay=1e-4, precision="bf16", workers=8
        ),
        hyperformer=HyperformerConfig(),
        hyperformer_clips=SequenceConfig(frames=64, rotation=17.0),
        train_hyperformer=dataclasses.replace(
            _SGD, epochs=140, batch_size=64, lr=0.025, weight_decay=4e-4, warmup_epochs=5, workers=8
        ),
        trn=TRNConfig(pretrained="imagenet"),
        train_trn=dataclasses.replace(
            _SGD, epochs=120, batch_size=64, lr=1e-3, weight_decay=5e-4, clip_norm=20.0, precision="bf16", workers=8
        ),
        evl=EVLConfig(),
        # 50,000 steps of 256 clips on Kinetics are 53 epochs there.
        train_evl=dataclasses.replace(
            _SGD, optimizer="adamw", epochs=53, batch_size=256, lr=4e-4, betas=(0.9, 0.999), weight_decay=0.05,
            precision="bf16", workers=8,
        ),
        dense=DenseConfig(pretrained="imagenet"),
        dense_clips=CropConfig(size=224, flip=True),
        train_dense=dataclasses.replace(
            _SGD, epochs=60, batch_size=32, lr=0.01, weight_decay=5e-4, clip_norm=20.0, precision="bf16", workers=8
        ),
        sparse=SparseConfig(),
        sparse_clips=_EIGHT,
        train_sparse=dataclasses.replace(_SGD, epochs=40, batch_size=64, lr=0.01, weight_decay=5e-4, workers=8),
    )  # fmt: skip


def _laptop() -> Baselines:
    """For a thousand clips at 64 pixels: narrow networks, batches of 16; what ImageNet was, the studio's stills are."""
    sixteen = dataclasses.replace(_SGD, batch_size=16)
    sequences = SequenceConfig(frames=32, flip=True, rotation=10.0, scaling=0.1)
    return Baselines(
        stgcn=STGCNConfig(base_channels=16, dropout=0.1),
        stgcn_clips=sequences,
        train_stgcn=dataclasses.replace(sixteen, epochs=20, lr=0.02, weight_decay=1e-4, clip_norm=5.0),
        hyperformer=HyperformerConfig(width=48, heads=4),
        hyperformer_clips=sequences,
        train_hyperformer=dataclasses.replace(
            sixteen, epochs=16, lr=0.02, weight_decay=4e-4, warmup_epochs=1, clip_norm=5.0
        ),
        trn=TRNConfig(**_STUDIO, dropout=0.2, feature_std=0.05),
        train_trn=dataclasses.replace(sixteen, epochs=10, lr=0.005, weight_decay=5e-4, clip_norm=20.0),
        evl=EVLConfig(dropout=0.2),
        train_evl=dataclasses.replace(
            sixteen, optimizer="adamw", epochs=12, lr=4e-4, betas=(0.9, 0.999), weight_decay=0.05, warmup_epochs=1,
            clip_norm=1.0,
        ),
        dense=DenseConfig(**_STUDIO, dropout=0.2),
        dense_clips=CropConfig(size=64, flip=True),
        train_dense=dataclasses.replace(sixteen, epochs=10, lr=0.02, weight_decay=5e-4, clip_norm=20.0),
        sparse=SparseConfig(width=0.25, dropout=0.2),
        sparse_clips=dataclasses.replace(_EIGHT, rotation=10.0, scaling=0.1),
        train_sparse=dataclasses.replace(sixteen, epochs=20, lr=0.02, weight_decay=5e-4, clip_norm=5.0),
    )  # fmt: skip


def _smoke() -> Baselines:
    found = _laptop()
    few = dataclasses.replace(found.stgcn_clips, frames=16)
    tiny: dict[str, Any] = {"backbone_width": 0.125, "pretrained": "none"}
    return dataclasses.replace(
        found,
        stgcn=STGCNConfig(base_channels=4),
        stgcn_clips=few,
        train_stgcn=_one_epoch(found.train_stgcn),
        hyperformer=HyperformerConfig(width=12, heads=2),
        hyperformer_clips=few,
        train_hyperformer=_one_epoch(found.train_hyperformer),
        trn=dataclasses.replace(found.trn, segments=2, feature_dim=8, hidden=8, **tiny),
        train_trn=_one_epoch(found.train_trn),
        evl=dataclasses.replace(found.evl, frames=2),
        train_evl=_one_epoch(found.train_evl),
        dense=dataclasses.replace(found.dense, segments=2, window=2, **tiny),
        dense_clips=dataclasses.replace(found.dense_clips, segments=2, window=2, size=32),
        train_dense=_one_epoch(found.train_dense),
        sparse=SparseConfig(width=0.025),
        train_sparse=_one_epoch(found.train_sparse),
    )


def _one_epoch(recipe: TrainConfig) -> TrainConfig:
    return dataclasses.replace(recipe, epochs=1, warmup_epochs=0)


def _workstation() -> Baselines:
    found = _published()
    return dataclasses.replace(
        found,
        stgcn_clips=SequenceConfig(frames=64, flip=True, rotation=10.0, scaling=0.1),
        train_stgcn=dataclasses.replace(found.train_stgcn, batch_size=64),
        train_hyperformer=dataclasses.replace(found.train_hyperformer, epochs=60),
        trn=dataclasses.replace(found.trn, **_STUDIO, dropout=0.5, feature_std=0.05),
        train_trn=dataclasses.replace(found.train_trn, epochs=40, lr=0.02),
        evl=dataclasses.replace(found.evl, dropout=0.2),
        train_evl=dataclasses.replace(found.train_evl, epochs=20, batch_size=64, warmup_epochs=1),
        dense=dataclasses.replace(found.dense, **_STUDIO),
        dense_clips=dataclasses.replace(found.dense_clips, size=112),
        train_dense=dataclasses.replace(found.train_dense, epochs=40),
    )


_MAKE = {"smoke": _smoke, "laptop": _laptop, "workstation": _workstation, "imigue": _published}


def with_drawn_weights(found: Baselines) -> Baselines:
    """The same sizes and recipes, with nothing to fetch or load: enough to count parameters and work."""
    return dataclasses.replace(
        found,
        trn=dataclasses.replace(found.trn, pretrained="none"),
        dense=dataclasses.replace(found.dense, pretrained="none"),
    )


def baselines(preset: str) -> Baselines:
    """Those of a preset, by its name."""
    return _MAKE[preset]()
