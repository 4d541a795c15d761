"""The skeleton file is an estimate: what a pose estimator would make of the film, errors included.

The true points of the rig become 35 points in OpenPose's order (25 of the body, five fingers of each hand). They jitter
with a memory of a few frames, drop out in runs, lose score and accuracy where a hand covers them or the body hides
them, and now and then left and right change places. NumPy only; bit-identical for a seed.

Legend: T frames, P = 35 points, coordinates in pixels of the film.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from migcore.studio.rig import Array, Pose

POINTS = 35
#: Where the 22 joints of ``imigue22`` stand among the 35: 0-7 and 15-18 of BODY_25, then the ten fingers.
JOINT_POINTS: tuple[int, ...] = (*range(8), 15, 16, 17, 18, *range(25, 35))
FACE = (0, 8, 9, 10, 11)
WRISTS = (4, 7)
FINGERS = tuple(range(12, 22))


@dataclass(frozen=True)
class EstimatorConfig:
    """Errors of the estimator; lengths in frame units, rates per frame.

    Attributes:
        body, face, wrist, finger: standard deviation of the jitter.
        memory: correlation of the jitter from one frame to the next.
        covered: factor on the jitter where a hand is in front; ``hidden``: where the body or the table is.
        drop, drop_finger: rate at which a point starts to be missed; ``drop_frames``: how long it stays missed.
        swap: rate at which the hands change places while they are close.
    """

    body: float = 0.0065
    face: float = 0.006
    wrist: float = 0.013
    finger: float = 0.017
    memory: float = 0.75
    covered: float = 2.2
    hidden: float = 4.0
    drop: float = 0.006
    drop_finger: float = 0.03
    drop_frames: float = 5.0
    swap: float = 0.02


def _runs(rng: np.random.Generator, frames: int, points: int, rate: Array, length: float) -> Array:
    """[T, points] True in runs of mean ``length`` that start at ``rate`` [points]."""
    starts = rng.random((frames, points)) < rate
    lengths = 1 + rng.geometric(1 / length, (frames, points))
    left = np.zeros(points, dtype=np.int64)
    out = np.zeros((frames, points), dtype=bool)
    for t in range(frames):
        left = np.maximum(left - 1, np.where(starts[t], lengths[t], 0))
        out[t] = left > 0
    return out


def estimate(
    pose: Pose, table_y: float, size: int, rng: np.random.Generator, config: EstimatorConfig
) -> tuple[Array, Array]:
    """What the estimator reports for a film.

    Args:
        pose: the truth.
        table_y: height of the table's edge in the picture, frame units; hands under it are hidden.
        size: of the film in pixels.
        rng: of this film's estimator.
        config: its errors.

    Returns:
        points [T, 35, 2] in pixels and scores [T, 35] in [0, 1]; a missed point is (0, 0) with score 0.
    """
    truth = pose.keypoints()
    t, v, _ = truth.shape
    quality = rng.uniform(0.75, 1.35)
    sigma = np.full(v, config.body)
    sigma[list(FACE)] = config.face
    sigma[list(WRISTS)] = config.wrist
    sigma[list(FINGERS)] = config.finger

    covered = np.zeros((t, v), dtype=bool)
    for side in (0, 1):
        near = np.linalg.norm(truth[:, list(FACE)] - pose.palms[:, side, None], axis=-1) < 0.055
        covered[:, list(FACE)] |= near
    together = np.linalg.norm(pose.palms[:, 0] - pose.palms[:, 1], axis=-1) < 0.09
    covered[:, [*WRISTS, *FINGERS]] |= together[:, None]
    gone = np.maximum(pose.hand_behind, pose.wrists[..., 1] > table_y + 0.05) > 0.5
    hidden = np.zeros((t, v), dtype=bool)
    hidden[:, 4], hidden[:, 7] = gone[:, 0], gone[:, 1]
    hidden[:, 17:22], hidden[:, 12:17] = gone[:, :1], gone[:, 1:]
    hidden[:, 3], hidden[:, 6] = pose.arm_behind[:, 0] > 0.5, pose.arm_behind[:, 1] > 0.5
    out_of_frame = (truth < 0).any(-1) | (truth > 1).any(-1)

    white = rng.standard_normal((t, v, 2))
    jitter = np.empty_like(white)
    jitter[0] = white[0]
    keep = np.sqrt(1 - config.memory**2)
    for i in range(1, t):
        jitter[i] = config.memory * jitter[i - 1] + keep * white[i]
    factor = quality * np.where(hidden, config.hidden, np.where(covered, config.covered, 1.0))
    points = truth + jitter * (sigma * factor)[..., None]

    clean = 1 - 0.06 * np.abs(rng.standard_normal((t, v)))
    scores = clean * np.where(hidden, 0.22, np.where(covered, 0.55, 0.92)) * (1.12 - 0.16 * quality)
    scores[:, list(FINGERS)] *= 0.72
    rate = np.full(v, config.drop)
    rate[list(FINGERS)] = config.drop_finger
    missed = _runs(rng, t, v, rate, config.drop_frames)
    missed |= hidden & _runs(rng, t, v, np.full(v, 0.12), 6.0)
    missed |= out_of_frame

    swapped = together & _runs(rng, t, 1, np.array([config.swap]), 6.0)[:, 0]
    left, right = [4, *range(17, 22)], [7, *range(12, 17)]
    points[np.ix_(swapped, left + right)] = points[np.ix_(swapped, right + left)]

    points[missed], scores[missed] = 0.0, 0.0
    all_points, all_scores = np.zeros((t, POINTS, 2)), np.zeros((t, POINTS))
    all_points[:, list(JOINT_POINTS)] = points * size
    all_scores[:, list(JOINT_POINTS)] = scores
    hips = np.stack([pose.pelvis, pose.pelvis - np.array([0.1, 0.0]), pose.pelvis + np.array([0.1, 0.0])], 1)
    seen = (hips[..., 1] < 1) & (rng.random((t, 3)) < 0.5)
    hips = hips + rng.standard_normal(hips.shape) * 0.02
    all_points[:, [8, 9, 12]] = np.where(seen[..., None], hips * size, 0)
    all_scores[:, [8, 9, 12]] = np.where(seen, 0.25, 0)
    return all_points, np.clip(all_scores, 0, 1)
