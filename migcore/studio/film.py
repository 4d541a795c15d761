"""One interview film: which gestures happen when, the motion, the frames, and the skeleton that an estimator would
find.

Motion, labels and skeletons are NumPy only and the same on every machine; frames are drawn in torch and agree to a
rounding error. A film is identified by its seed: everything in it follows from ``numpy.random.SeedSequence``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from migcore.studio import gestures
from migcore.studio.figure import shapes, wall
from migcore.studio.renderer import draw
from migcore.studio.rig import Array, Controls, Pose, pose
from migcore.studio.subjects import Scene, Subject


@dataclass(frozen=True)
class Event:
    """One labelled gesture of a film; ``start`` and ``stop`` are 0-based and half open."""

    label: int
    start: int
    stop: int


@dataclass
class Film:
    """A film before it is drawn: who, where, what and every pose. ``seed`` is that of the sensor noise."""

    subject: Subject
    scene: Scene
    events: list[Event]
    pose: Pose
    frames: int
    seed: int


def stage(
    subject: Subject, scene: Scene, events: list[Event], frames: int, fps: float, seeds: np.random.SeedSequence
) -> Film:
    """Play the events one after another over idle motion.

    Args:
        subject, scene: who and where.
        events: in order of time, not overlapping.
        frames: length of the film.
        fps: frames per second.
        seeds: of this film.
    """
    idle_seed, camera_seed, noise_seed, *event_seeds = seeds.spawn(3 + len(events))
    controls = Controls(frames)
    gestures.idle(controls, fps, subject, scene, np.random.default_rng(idle_seed))
    for event, seed in zip(events, event_seeds, strict=True):
        take = gestures.Take(controls, event.start, event.stop, fps, subject, scene, np.random.default_rng(seed))
        gestures.perform(take, event.label)
    gestures.clamp(controls)
    rng = np.random.default_rng(camera_seed)
    camera = scene.shake * np.stack([gestures.smooth_noise(rng, frames, 5), gestures.smooth_noise(rng, frames, 5)], -1)
    body = pose(controls, subject, scene, camera)
    return Film(subject, scene, events, body, frames, int(noise_seed.generate_state(1)[0]))


def render(film: Film, size: int, *, chunk: int = 48, device: str = "cpu") -> Iterator[Tensor]:
    """Draw a film, ``chunk`` frames at a time.

    Args:
        film: to draw.
        size: height and width in pixels.

    Yields:
        uint8 frames [n, size, size, 3].
    """
    generator = torch.Generator().manual_seed(film.seed)
    backdrop = wall(film.scene, size, size).to(device)
    for start in range(0, film.frames, chunk):
        stop = min(film.frames, start + chunk)
        part = cut(film.pose, slice(start, stop))
        shift = torch.from_numpy(part.offset - np.asarray(film.scene.centre)).float().to(device)
        background = (
            backdrop[0] - shift[:, 0, None, None, None] * backdrop[1] - shift[:, 1, None, None, None] * backdrop[2]
        )
        frames, _ = draw(shapes(part, film.subject, film.scene), background)
        noise = torch.randn(stop - start, size, size, 1, generator=generator) * film.scene.noise
        yield ((frames.cpu() + noise).clamp_(0, 1) * 255 + 0.5).to(torch.uint8)


def cut(body: Pose, frames: slice | Array) -> Pose:
    """The pose in some of the frames."""
    values: dict[str, Any] = {}
    for name, value in vars(body).items():
        if name == "curves":
            values[name] = {k: v[frames] for k, v in value.items()}
        elif name == "anchors":
            values[name] = value
        else:
            values[name] = value[frames]
    return Pose(**values)
