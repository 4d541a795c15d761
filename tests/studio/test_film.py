"""Motion, anatomy, rendering and the estimator of the studio."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from migcore.labels import CLASSES, NUM_CLASSES
from migcore.studio import gestures
from migcore.studio.estimator import JOINT_POINTS, EstimatorConfig, estimate
from migcore.studio.figure import PART_NAMES, shapes
from migcore.studio.film import Event, Film, cut, render, stage
from migcore.studio.renderer import Shape, draw
from migcore.studio.rig import ARM_ANCHORS, HEAD_ANCHORS
from migcore.studio.stills import still_frames
from migcore.studio.subjects import draw_scene, draw_subject

FRAMES = 40
APEX = slice(17, 23)


def film_of(label: int, seed: int = 0, frames: int = FRAMES) -> Film:
    rng = np.random.default_rng([seed, label])
    subject, scene = draw_subject(rng, **gestures.requirements(label)), draw_scene(rng)
    return stage(subject, scene, [Event(label, 0, frames)], frames, 25.0, np.random.SeedSequence([seed, label]))


@pytest.mark.parametrize("label", range(NUM_CLASSES), ids=[g.name for g in CLASSES])
def test_every_gesture_moves_something_a_sensor_can_see(label: int) -> None:
    """At its apex a take differs from the same idle film without it, in the body's points or in what the face does."""
    film = film_of(label)
    rng = np.random.default_rng([0, label])
    subject, scene = draw_subject(rng, **gestures.requirements(label)), draw_scene(rng)
    idle = stage(subject, scene, [], FRAMES, 25.0, np.random.SeedSequence([0, label]))
    points = np.abs(film.pose.keypoints() - idle.pose.keypoints())[APEX].max()
    face = max(
        np.abs(film.pose.curves[k] - idle.pose.curves[k])[APEX].max()
        for k in ("lips", "cheeks", "mouth", "blink", "pen")
    )
    assert points > 0.02 or face > 0.5


@pytest.mark.parametrize(
    ("label", "anchor"),
    [(3, "crown"), (4, "forehead"), (6, "eye"), (8, "ear"), (9, "mouth"), (10, "chin"), (21, "upper arm")],
)
def test_the_hand_arrives_at_its_anchor(label: int, anchor: str) -> None:
    film = film_of(label)
    names = [name for name, _ in film.pose.anchors]
    assert anchor in HEAD_ANCHORS or anchor in ARM_ANCHORS
    side = next(s for s in (0, 1) if names[film.pose.touching[20, s]] == anchor)
    if anchor in ARM_ANCHORS:
        a, b = film.pose.shoulders[20, 1 - side], film.pose.elbows[20, 1 - side]
        goal = a + 0.55 * (b - a)
    else:
        c, s = np.cos(film.pose.roll[20]), np.sin(film.pose.roll[20])
        u, v = HEAD_ANCHORS[anchor]
        follow = 0.0 if anchor in ("crown", "ear") else 1.0
        du = ((1 if side else -1) * u + follow * film.pose.face[20, 0]) * film.pose.head_axes[20, 0]
        dv = (v + follow * film.pose.face[20, 1]) * film.pose.head_axes[20, 1]
        goal = film.pose.head[20] + np.array([c * du - s * dv, s * du + c * dv])
    hand = np.concatenate([film.pose.palms[20, side][None], film.pose.fingers[20, side]])
    assert np.linalg.norm(hand - goal, axis=-1).min() < 0.07


@given(st.integers(0, NUM_CLASSES - 1), st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_bones_never_stretch(label: int, seed: int) -> None:
    """Projected along z an arm's bone is never longer than the bone, and the body stays near the picture."""
    film = film_of(label, seed)
    zoom = film.scene.zoom
    upper = np.linalg.norm(film.pose.elbows - film.pose.shoulders, axis=-1)
    lower = np.linalg.norm(film.pose.wrists - film.pose.elbows, axis=-1)
    assert upper.max() <= film.subject.upper_arm * zoom * 1.001
    assert lower.max() <= film.subject.forearm * zoom * 1.001
    points = film.pose.keypoints()
    assert np.isfinite(points).all() and points.min() > -0.5 and points.max() < 1.6


def test_a_film_is_a_function_of_its_seed() -> None:
    first, second, other = film_of(10, 3), film_of(10, 3), film_of(10, 4)
    np.testing.assert_array_equal(first.pose.keypoints(), second.pose.keypoints())
    assert not np.allclose(first.pose.keypoints(), other.pose.keypoints())
    frames = torch.cat(list(render(first, 32)))
    again = torch.cat(list(render(second, 32)))
    assert torch.equal(frames, again)


def test_rendering_in_chunks_changes_nothing() -> None:
    film = film_of(16)
    whole = torch.cat(list(render(film, 48, chunk=FRAMES))).int()
    parts = torch.cat(list(render(film, 48, chunk=7))).int()
    # The noise is drawn chunk by chunk from one generator, and windows are placed chunk by chunk.
    assert (whole - parts).abs().float().mean() < 3.0
    quiet = Film(**{**vars(film), "scene": type(film.scene)(**{**vars(film.scene), "noise": 0.0})})
    whole = torch.cat(list(render(quiet, 48, chunk=FRAMES))).int()
    parts = torch.cat(list(render(quiet, 48, chunk=7))).int()
    assert (whole - parts).abs().max() <= 1


def naive_cover(shape: Shape, size: int) -> np.ndarray:
    """[N, H, W] opacity of one shape without soft rim, pixel by pixel."""
    n = len(shape.points)
    out = np.zeros((n, size, size))
    for f in range(n):
        for i in range(size):
            for j in range(size):
                p = np.array([(j + 0.5) / size, (i + 0.5) / size])
                if shape.kind == "capsule":
                    a, b = shape.points[f]
                    h = np.clip(np.dot(p - a, b - a) / max(np.dot(b - a, b - a), 1e-9), 0, 1)
                    r = shape.radii[f, 0] + h * (shape.radii[f, 1] - shape.radii[f, 0])
                    d = np.linalg.norm(p - a - h * (b - a)) - r
                elif shape.kind == "polygon":
                    d = -np.inf
                    corners = shape.points[f]
                    for k in range(len(corners)):
                        e = corners[(k + 1) % len(corners)] - corners[k]
                        q = p - corners[k]
                        d = max(d, (q[0] * e[1] - q[1] * e[0]) / np.linalg.norm(e))
                    d -= shape.radii[f, 0]
                else:
                    q = p - shape.points[f, 0]
                    if shape.angle is not None:
                        c, s = np.cos(shape.angle[f]), np.sin(shape.angle[f])
                        q = np.array([c * q[0] + s * q[1], c * q[1] - s * q[0]])
                    k0 = np.linalg.norm(q / shape.radii[f])
                    k1 = np.linalg.norm(q / shape.radii[f] ** 2)
                    d = k0 * (k0 - 1) / max(k1, 1e-6)
                out[f, i, j] = np.clip(0.5 - d * size, 0, 1)
    return out


@given(st.integers(0, 10_000), st.sampled_from(["capsule", "ellipse", "polygon"]), st.booleans())
@settings(max_examples=20, deadline=None)
def test_shapes_equal_a_naive_rasteriser(seed: int, kind: str, moving: bool) -> None:
    rng = np.random.default_rng(seed)
    n, size = 3, 20
    centre = rng.uniform(0.2, 0.8, (n, 1, 2)) if moving else np.tile(rng.uniform(0.3, 0.7, (1, 1, 2)), (n, 1, 1))
    angle = None
    if kind == "capsule":
        points, radii = centre + rng.uniform(-0.15, 0.15, (n, 2, 2)), rng.uniform(0.03, 0.12, (n, 2))
    elif kind == "ellipse":
        points, radii, angle = centre, rng.uniform(0.06, 0.2, (n, 2)), rng.uniform(-3, 3, n)
    else:
        turn = np.linspace(0, 2 * np.pi, 6)[:-1] + rng.uniform(0, 1)
        points = centre + 0.15 * np.stack([np.cos(turn), np.sin(turn)], -1)
        radii = rng.uniform(0, 0.03, (n, 1))
    shape = Shape(kind, points, radii, np.array([1.0, 0.5, 0.0]), angle=angle, edge=0.0)
    frames, _ = draw([[shape]], torch.zeros(n, size, size, 3))
    cover = naive_cover(shape, size)
    np.testing.assert_allclose(frames[..., 0].numpy(), cover, atol=2e-4)
    np.testing.assert_allclose(frames[..., 1].numpy(), 0.5 * cover, atol=2e-4)
    assert frames[..., 2].abs().max() == 0


def test_part_map_names_what_is_on_top() -> None:
    film = film_of(10)
    body = cut(film.pose, np.array([20]))
    _, parts = draw(shapes(body, film.subject, film.scene), torch.zeros(1, 64, 64, 3), parts=16)
    assert parts is not None and parts.shape == (1, 16, 16)
    x, y = (int(v * 16) for v in film.pose.head[20])
    assert PART_NAMES[int(parts[0, y, x])] in ("face", "nose", "eye", "mouth", "left hand", "right hand")
    assert (parts[0, 0] == 0).all()
    assert (parts[0, -1] == PART_NAMES.index("table")).float().mean() > 0.5


def test_the_estimate_is_near_the_truth_and_says_when_it_is_not() -> None:
    film = film_of(16, frames=200)
    size = 64
    points, scores = estimate(film.pose, 0.9, size, np.random.default_rng(0), EstimatorConfig())
    assert points.shape == (200, 35, 2) and scores.shape == (200, 35)
    assert scores.min() >= 0 and scores.max() <= 1
    assert (points[scores == 0] == 0).all()
    truth = film.pose.keypoints() * size
    points, scores = points[:, JOINT_POINTS], scores[:, JOINT_POINTS]
    error = np.linalg.norm(points - truth, axis=-1)
    confident = scores > 0.7
    assert np.median(error[confident]) < 0.02 * size
    doubtful = (scores > 0) & (scores < 0.3)
    if doubtful.sum() > 50:
        assert np.median(error[doubtful]) > np.median(error[confident])
    perfect, _ = estimate(film.pose, 9.0, size, np.random.default_rng(0), EstimatorConfig(
        body=0, face=0, wrist=0, finger=0, drop=0, drop_finger=0, swap=0))  # fmt: skip
    kept = perfect[:, JOINT_POINTS].any(-1)
    np.testing.assert_allclose(perfect[:, JOINT_POINTS][kept], truth[kept], atol=1e-9)


def test_stills_say_what_they_show() -> None:
    stills = still_frames(np.random.default_rng(5), 80, 32)
    assert stills.frames.shape == (80, 3, 32, 32) and stills.frames.dtype == torch.uint8
    assert len(stills.captions) == 80 and len(set(stills.captions)) > 40
    assert stills.parts.shape == (80, 16, 16) and int(stills.parts.max()) < len(PART_NAMES)
    assert stills.keypoints.shape == (80, 22, 2) and stills.visible.shape == (80, 22)
    chin = [i for i, c in enumerate(stills.captions) if "hand at the chin" in c]
    head_x, head_y = stills.keypoints[:, 0, 0], stills.keypoints[:, 0, 1]
    for i in chin:  # some finger tip is below the nose and near it
        tips = stills.keypoints[i, 12:]
        assert ((tips - torch.stack([head_x[i], head_y[i]])).norm(dim=-1) < 0.25).any()
