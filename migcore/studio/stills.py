"""Captioned still frames for pre-training the miniature CLIP: other subjects, other scenes, denser poses.

Half of the moments come from the motion programs, half from hands sent to random places; all are described by
:mod:`migcore.studio.captions`. The renderer also knows what is where, which the pre-training may use as dense targets.

Legend: N stills; G = 16 cells a side of the part map; V = 22 joints of ``imigue22``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from migcore.labels import NUM_CLASSES
from migcore.studio import gestures
from migcore.studio.captions import caption
from migcore.studio.figure import shapes, wall
from migcore.studio.film import cut
from migcore.studio.renderer import draw
from migcore.studio.rig import ARM_ANCHORS, HEAD_ANCHORS, TORSO_ANCHORS, Controls, pose
from migcore.studio.subjects import draw_scene, draw_subject

GRID = 16
PER_SUBJECT = 64
MOMENT = 20  # frames of a staged moment


@dataclass
class Stills:
    """A batch of captioned frames.

    Attributes:
        frames: [N, 3, H, W] uint8.
        captions: N texts.
        parts: [N, 16, 16] int64, index into ``PART_NAMES`` of what is on top in each cell.
        keypoints: [N, 22, 2] float32, true positions in 0..1 of the frame.
        visible: [N, 22] bool, inside the frame and not hidden by the body.
    """

    frames: Tensor
    captions: list[str]
    parts: Tensor
    keypoints: Tensor
    visible: Tensor


def still_frames(rng: np.random.Generator, count: int, size: int) -> Stills:
    """Draw ``count`` captioned stills, up to 64 of one subject in one scene.

    Args:
        rng: the only source of randomness; use seeds no film uses.
        count: how many.
        size: height and width in pixels.
    """
    batches = []
    while count > 0:
        n = min(count, PER_SUBJECT)
        batches.append(_subject_stills(rng, n, size))
        count -= n
    return Stills(
        frames=torch.cat([b.frames for b in batches]),
        captions=[c for b in batches for c in b.captions],
        parts=torch.cat([b.parts for b in batches]),
        keypoints=torch.cat([b.keypoints for b in batches]),
        visible=torch.cat([b.visible for b in batches]),
    )


def _subject_stills(rng: np.random.Generator, count: int, size: int) -> Stills:
    subject, scene = draw_subject(rng), draw_scene(rng)
    controls = Controls(count * MOMENT)
    gestures.idle(controls, 25.0, subject, scene, rng)
    allowed = [c for c in range(NUM_CLASSES) if all(_has(subject, k) for k in gestures.requirements(c))]
    places = [a for a in (*HEAD_ANCHORS, *TORSO_ANCHORS, *ARM_ANCHORS) if a not in ("nape", "back")]
    chosen = []
    for i in range(count):
        take = gestures.Take(controls, i * MOMENT, (i + 1) * MOMENT, 25.0, subject, scene, rng)
        if rng.random() < 0.6:
            gestures.perform(take, allowed[int(rng.integers(len(allowed)))])
        else:
            for side in (0, 1):
                if rng.random() < 0.6:
                    take.reach(places[int(rng.integers(len(places)))], side=side)
            for name, low, high in (("pitch", -0.4, 0.6), ("yaw", -0.5, 0.5), ("lean", -0.12, 0.12)):
                if rng.random() < 0.3:
                    take.add(name, float(rng.uniform(low, high)))
        chosen.append(i * MOMENT + int(rng.integers(4, MOMENT - 4)))
    gestures.clamp(controls)
    whole = pose(controls, subject, scene, np.zeros((controls.frames, 2)))
    body = cut(whole, np.array(chosen))
    backdrop = wall(scene, size, size)[0]
    frames, parts = draw(shapes(body, subject, scene), backdrop.expand(count, -1, -1, -1).contiguous(), parts=GRID)
    noise = torch.from_numpy(rng.standard_normal((count, size, size, 1)).astype(np.float32)) * scene.noise
    points = body.keypoints()
    visible = np.asarray(((points > 0) & (points < 1)).all(-1))
    for side, (wrist, fingers) in enumerate(((4, slice(17, 22)), (7, slice(12, 17)))):
        seen = body.hand_behind[:, side] < 0.5
        visible[:, wrist] &= seen
        visible[:, fingers] &= seen[:, None]
    assert parts is not None
    return Stills(
        frames=((frames + noise).clamp_(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 3, 1, 2).contiguous(),
        captions=[caption(body, i, subject, scene, rng) for i in range(count)],
        parts=parts,
        keypoints=torch.from_numpy(points.astype(np.float32)),
        visible=torch.from_numpy(visible),
    )


def _has(subject: object, trait: str) -> bool:
    return bool(getattr(subject, trait))
