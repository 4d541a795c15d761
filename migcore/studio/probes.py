"""Two deliberately simple networks that measure how hard the studio is, before any method is run on it.

A 1-D CNN on keypoints and a 2-D CNN on frames, trained for a minute each. A version of the studio is frozen when, on
validation clips, each of them is right on 50 to 75 % of the clips, their fusion is clearly better than both, and no
class is missed by both always. The probes know nothing of the method that the book is about, and are not tuned to it.

Legend: N clips, T frames, V keypoints, C classes, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from migcore.data.datasets import VideoClips, VideoConfig
from migcore.data.imigue import ClipIndex, read_clip_skeleton
from migcore.labels import NUM_CLASSES


@dataclass(frozen=True)
class DifficultyConfig:
    """How long the probes are trained.

    Attributes:
        skeleton_epochs, film_epochs: passes over the training clips.
    """

    skeleton_epochs: int = 40
    film_epochs: int = 24


FRAMES = 32
FILM_FRAMES = 8
NECK = 1


class SkeletonProbe(nn.Module):
    """Three 1-D convolutions over time on raw coordinates and scores: [N, 3·V, T] → logits [N, C]."""

    def __init__(self, channels: int, width: int = 96) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inner, kernel, stride in ((channels, 5, 1), (width, 5, 2), (width, 3, 1)):
            layers += [nn.Conv1d(inner, width, kernel, stride, kernel // 2), nn.BatchNorm1d(width), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(2 * width, NUM_CLASSES))

    def forward(self, x_NCT: Tensor) -> Tensor:
        """Logits [N, C]."""
        z = self.body(x_NCT)
        return self.head(torch.cat([z.mean(-1), z.amax(-1)], 1))


class FilmProbe(nn.Module):
    """Five 2-D convolutions on a clip as one picture: median frame and eight differences from the mean frame.

    [N, 3 + 8, H, W] → logits [N, C].
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = ((3 + FILM_FRAMES, 48, 2), (48, 64, 1), (64, 96, 2), (96, 96, 1), (96, 128, 2))
        for inner, outer, stride in widths:
            layers += [nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(128 * 16, NUM_CLASSES))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits [N, C]."""
        return self.head(F.adaptive_max_pool2d(self.body(x_NCHW), 4))


def skeleton_inputs(index: ClipIndex, split: str) -> Tensor:
    """[N, 3·V, 32] float32: x, y relative to the neck in shoulder widths, and score, at 32 even instants."""
    clips = []
    for record in index.split(split):
        points, scores = read_clip_skeleton(record, index.column_map)
        at = np.linspace(0, len(points) - 1, FRAMES).round().astype(int)
        points, scores = points[at], scores[at]
        seen = scores > 0
        neck = points[:, NECK][seen[:, NECK]].mean(0) if seen[:, NECK].any() else points[seen].mean(0)
        width = float(np.ptp(points[..., 0][seen])) or 1.0
        clips.append(np.concatenate([(points - neck) / width * 4 * seen[..., None], scores[..., None]], -1))
    return rearrange(torch.from_numpy(np.stack(clips).astype(np.float32)), "n t v c -> n (v c) t")


def film_inputs(index: ClipIndex, split: str, size: int) -> Tensor:
    """[N, 3, 8, H, W] uint8: eight even frames of every clip."""
    clips = VideoClips(index, split, VideoConfig(frames=FILM_FRAMES, size=size, crop=False), train=False)
    return torch.stack([clips[i]["video"][0] for i in range(len(clips))])


def _film_picture(video_N3THW: Tensor) -> Tensor:
    video = (video_N3THW.float() / 255 - 0.45) / 0.27
    moving = (video - video.mean(2, keepdim=True)).mean(1) * 3
    return torch.cat([video.median(2).values, moving], 1)


def _film_augment(x: Tensor, rng: np.random.Generator) -> Tensor:
    dx, dy = (int(v) for v in rng.integers(-3, 4, 2))
    x = torch.roll(x, (dy, dx), (2, 3))
    if rng.random() < 0.5:
        x = x.flip(3)
    n = len(x)
    gain, shift, motion = (torch.from_numpy(rng.standard_normal((n, k, 1, 1)).astype(np.float32)) for k in (3, 3, 1))
    return torch.cat([x[:, :3] * (1 + 0.2 * gain) + 0.15 * shift, x[:, 3:] * (1 + 0.2 * motion)], 1)


def train_probe(
    kind: str, index: ClipIndex, *, seed: int, size: int, epochs: int, splits: Sequence[str] = ("val", "test")
) -> dict[str, Tensor]:
    """Train one probe on the training split.

    Args:
        kind: "skeleton" or "film".
        index: the data.
        seed: of weights, order and augmentation.
        size: of the frames, pixels.
        epochs: passes over the training clips, batches of 32.
        splits: to apply it to.

    Returns:
        split → logits [N, C].
    """
    film = kind == "film"
    x_train = film_inputs(index, "train", size) if film else skeleton_inputs(index, "train")
    y_train = torch.from_numpy(index.labels("train"))
    rng = np.random.default_rng([seed, 0x9E0B])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = FilmProbe() if film else SkeletonProbe(x_train.shape[1])
        optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.02)
        steps, step = epochs * (len(y_train) // 32), 0
        for _ in range(epochs):
            order = torch.from_numpy(rng.permutation(len(y_train)))
            for batch in order.split(32):
                if len(batch) < 32:
                    continue
                for group in optimizer.param_groups:
                    group["lr"] = 1e-3 * (1 + math.cos(math.pi * step / steps))
                step += 1
                x = _film_augment(_film_picture(x_train[batch]), rng) if film else x_train[batch]
                loss = F.cross_entropy(model(x), y_train[batch], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    model.eval()
    out = {}
    with torch.inference_mode():
        for split in splits:
            x_split = film_inputs(index, split, size) if film else skeleton_inputs(index, split)
            out[split] = torch.cat([model(_film_picture(x) if film else x) for x in x_split.split(64)])
    return out
