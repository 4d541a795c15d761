"""Pre-training of the miniature ResNet: the studio's stand-in for ImageNet, for TRN and DSCNet's film stream.

A thousand clips do not teach a ResNet to see; the published systems never asked that of one. So one is taught on the
stills of the miniature CLIP's pre-training, of other subjects and scenes than the data set's, what the renderer knows:
where each keypoint is, and which part of the figure each cell of the picture shows. Class names, prompts and captions
are not used.

Letters: B stills of a batch, V keypoints, P parts (0 is the background), D features, H W pixels, S = 8 cells a side,
G = 16 cells a side of the renderer's part map.

Choices:

* The heads read the mean over the last map, as TRN and DSCNet do: what they are to tell apart must be in it.
* A keypoint is found if its cell is: S² classes each, of which that of the right hand is the accuracy in the history.
* The loop is that of all other trainings (:func:`migcore.training.fit`), so that an interrupted run goes on.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.utils.data import Dataset

from migcore.data.augment import normalise
from migcore.data.layouts import IMIGUE22
from migcore.errors import ConfigError
from migcore.files import locked
from migcore.models.backbone import MINIATURE, MINIATURE_WEIGHTS, MINIATURE_WIDTH, image_backbone
from migcore.models.weights import save_weights, tensor_hash
from migcore.studio.dataset import STUDIO_VERSION
from migcore.studio.figure import PART_NAMES
from migcore.studio.stills import GRID
from migcore.studio.teacher_data import StillCache, cached_stills, digest, flip_parts, working_folder
from migcore.studio.teacher_model import part_weights
from migcore.training import Batch, TrainConfig, fit, generator

CELLS = 8
"""S."""
HAND = IMIGUE22.joints.index("HandRight")
"""The keypoint that the accuracy in the history is of."""
_HIDDEN = -1


@dataclass(frozen=True)
class BackboneTrainConfig:
    """How the miniature ResNet is pre-trained; the defaults made the one that is shipped.

    Attributes:
        stills: rendered stills, shared with the miniature CLIP's pre-training.
        held_out: how many of them, the last, are validated on.
        seed: of stills, initial weights, order and augmentation.
        layout: weight of the part map beside the keypoints.
        flip: probability of mirroring a still and its targets.
        shift: largest displacement, pixels.
        gain: largest relative change of a colour channel.
        train: the recipe.

    Raises:
        ConfigError: a value is out of range.
    """

    stills: int = 60_000
    held_out: int = 1_920
    seed: int = 0
    layout: float = 0.5
    flip: float = 0.5
    shift: int = 3
    gain: float = 0.15
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            epochs=6, batch_size=64, optimizer="adamw", lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05, decay_1d=False,
            warmup_epochs=0.1, clip_norm=1.0, eval_every=1,
        )
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not 1 <= self.held_out < self.stills:
            raise ConfigError(f"{self.held_out} of {self.stills} stills held out", hint="some, and not all")
        for name in ("flip", "gain"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} of the backbone's pre-training is {getattr(self, name)}", hint="0 to 1")
        if self.seed < 0 or self.layout < 0 or self.shift < 0:
            raise ConfigError("seed, layout and shift of the backbone's pre-training are 0 or more")


class StillPictures(Dataset[Batch]):
    """Stills with what is where in them.

    An item is {"image" [3, H, W] uint8, "cells" [V] int64 the cell of each keypoint (row · S + column; -1 where it
    cannot be seen), "parts" [S², P] float32 the share of each part in each cell, "label" int the right hand's cell}.

    Args:
        stills: of the cache.
        first, last: which of them, from ``first`` up to ``last``, exclusive.
        config: augmentation.
        train: mirror, displace and tint by chance; otherwise as rendered.
    """

    def __init__(self, stills: StillCache, first: int, last: int, config: BackboneTrainConfig, *, train: bool) -> None:
        self.stills, self.first, self.count = stills, first, last - first
        self.config, self.train, self._epoch = config, train, 0
        self._mirrored_parts = flip_parts()

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """Choose the augmentations of an epoch."""
        self._epoch = epoch

    def __getitem__(self, position: int) -> Batch:
        number = self.first + position
        frame, parts = np.array(self.stills.frames[number]), self.stills.parts[number]
        points, visible = self.stills.keypoints[number], self.stills.visible[number]
        if self.train:
            rng = np.random.default_rng((self.config.seed, self._epoch, number))
            if rng.random() < self.config.flip:
                frame, parts = frame[..., ::-1], self._mirrored_parts[parts[:, ::-1]]
                pairs = IMIGUE22.flip_permutation
                points, visible = points[pairs] * (-1, 1) + (1, 0), visible[pairs]
            right, down = rng.integers(-self.config.shift, self.config.shift + 1, 2)
            frame, parts = _displaced(frame, right, down, 1), _displaced(parts, right, down, frame.shape[-1] // GRID)
            points = points + np.array([right, down]) / frame.shape[-1]
            tint = rng.uniform(1 - self.config.gain, 1 + self.config.gain, (3, 1, 1))
            frame = np.clip(frame * tint + 0.5, 0, 255).astype(np.uint8)
        inside = visible & ((points >= 0) & (points < 1)).all(-1)
        column, row = np.clip(points * CELLS, 0, CELLS - 1).astype(np.int64).T
        cells = np.where(inside, row * CELLS + column, _HIDDEN)
        shares = reduce(
            np.eye(len(PART_NAMES), dtype=np.float32)[parts], "(h p) (w q) c -> (h w) c", "mean", h=CELLS, w=CELLS
        )
        return {
            "image": torch.from_numpy(np.ascontiguousarray(frame)),
            "cells": torch.from_numpy(cells),
            "parts": torch.from_numpy(shares),
            "label": int(cells[HAND]),
        }


def _displaced(picture: np.ndarray, right: int, down: int, cell: int) -> np.ndarray:
    """The last two axes displaced by pixels; what comes in repeats the border. A cell takes what lies at its centre."""
    side = picture.shape[-1]
    centre = np.arange(side) * cell + cell // 2
    rows, columns = (np.clip((centre - by) // cell, 0, side - 1) for by in (down, right))
    return picture[..., rows[:, None], columns]


class BackboneTraining(nn.Module):
    """The ResNet and the heads that are thrown away.

    Args:
        seed: of all initial weights.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.net, features = image_backbone(MINIATURE, width=MINIATURE_WIDTH, generator=generator(seed))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.points = nn.Linear(features, IMIGUE22.num_joints * CELLS**2)
            self.layout = nn.Linear(features, CELLS**2 * len(PART_NAMES))

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of normalised stills: the cell of each keypoint [B, V, S²], and the part in each cell [B, S², P]."""
        features_BD = self.net(image_B3HW)
        points = rearrange(self.points(features_BD), "b (v l) -> b v l", l=CELLS**2)
        return points, rearrange(self.layout(features_BD), "b (l p) -> b l p", l=CELLS**2)


def backbone_loss(points_BVL: Tensor, layout_BLP: Tensor, batch: Batch, weights_P: Tensor, share: float) -> Tensor:
    """Mean cross-entropy of the cells of visible keypoints, plus ``share`` of that of the part map.

    Args:
        points_BVL, layout_BLP: logits of :class:`BackboneTraining`.
        batch: "cells" [B, V] and "parts" [B, S², P] of :class:`StillPictures`.
        weights_P: of the parts (:func:`migcore.studio.teacher_model.part_weights`).
        share: weight of the part map.
    """
    points = F.cross_entropy(points_BVL.flatten(0, 1), batch["cells"].flatten(), ignore_index=_HIDDEN)
    layout = F.cross_entropy(layout_BLP.flatten(0, 1), batch["parts"].flatten(0, 1), weights_P)
    return points + share * layout


def pretrain(config: BackboneTrainConfig, out: Path = MINIATURE_WEIGHTS) -> Path:
    """Pre-train the miniature ResNet and write it, in half precision, with its recipe in the header.

    Stills and checkpoints live under :func:`~migcore.studio.teacher_data.working_folder`. SIGTERM and Ctrl-C end the
    run after a checkpoint; the same call then goes on.

    Args:
        config: the recipe.
        out: the file to write, read by :func:`migcore.models.backbone.image_backbone`.

    Returns:
        ``out``.

    Raises:
        StorageError: the disk is full.
        LedgerError: another process is at the same run.
    """
    stills = cached_stills(config.stills, config.seed, 64)
    weights_P = part_weights(stills.parts)
    model = BackboneTraining(config.seed)

    def logits(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return model(normalise(batch["image"][:, :, None])[:, :, 0])

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        points_BVL, layout_BLP = logits(model, batch)
        value = backbone_loss(
            points_BVL.float(), layout_BLP.float(), batch, weights_P.to(points_BVL.device), config.layout
        )
        return value, points_BVL[:, HAND]

    def predict(model: nn.Module, batch: Batch) -> Tensor:
        return logits(model, batch)[0][:, HAND, None]

    recipe: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    code = digest(Path(__file__).read_bytes())
    identity = digest(json.dumps([recipe, stills.identity, code], sort_keys=True).encode())
    folder, split = working_folder() / f"backbone-{identity}", config.stills - config.held_out
    with locked(folder / "lock", what="this pre-training"):
        done = fit(
            model,
            loss,
            StillPictures(stills, 0, split, config, train=True),
            config.train,
            seed=config.seed,
            folder=folder,
            predict=predict,
            metrics=_found,
            validation=StillPictures(stills, split, config.stills, config, train=False),
            title="backbone",
        )
    half = {
        name: value.half() if value.is_floating_point() else value for name, value in model.net.state_dict().items()
    }
    meta = {
        "what": "miniature ResNet, pre-trained on stills of the studio; says nothing about real people",
        "name": MINIATURE,
        "width": MINIATURE_WIDTH,
        "recipe": recipe,
        "studio": STUDIO_VERSION,
        "stills": stills.identity,
        "code": code,
        "history": done.history,
        "seconds": round(done.seconds, 1),
        "device": done.device,
        "versions": {name: version(name) for name in ("torch", "timm")},
        "hash": tensor_hash(half),
    }
    save_weights(out, half, meta)
    return out


def _found(logits_NL: Tensor, cells_N: Tensor) -> dict[str, Any]:
    """Share of the visible right hands whose cell is found."""
    seen = cells_N != _HIDDEN
    return {"top1": (logits_NL.argmax(-1) == cells_N)[seen].float().mean().item()}
