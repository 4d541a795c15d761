"""From a posed body to a picture: which shapes stand for a speaker, a table and a wall, and in which order.

Arms change their place in the order: hidden by the body (arms behind the back), under the table, or in front of all.
The label map that :func:`migcore.studio.renderer.draw` returns uses the indices of ``PART_NAMES``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from migcore.studio.renderer import Shape
from migcore.studio.rig import Array, Pose
from migcore.studio.subjects import CLOTH, HAIR, Scene, Subject

PART_NAMES: tuple[str, ...] = (
    "background",
    "table",
    "torso",
    "neck",
    "face",
    "hair",
    "hat",
    "eye",
    "mouth",
    "nose",
    "ear",
    "tie",
    "left upper arm",
    "right upper arm",
    "left forearm",
    "right forearm",
    "left hand",
    "right hand",
    "pen",
    "microphone",
)
PART = {name: i for i, name in enumerate(PART_NAMES)}
LIP = np.array([0.66, 0.33, 0.32])


def _rgb(colour: tuple[float, float, float] | Array, scene: Scene, gain: float = 1.0) -> Array:
    return np.clip(np.asarray(colour) * np.asarray(scene.light) * gain, 0, 1)


def wall(scene: Scene, height: int, width: int) -> Tensor:
    """The sponsor wall of a scene: [3, H, W, 3] float32, the picture and its derivatives along x and y.

    Derivatives are per frame unit. The camera moves by less than a pixel between frames; with them a shifted wall is a
    sum of three pictures.
    """
    y = ((torch.arange(height, dtype=torch.float32) + 0.5) / height)[:, None].expand(height, width)
    x = ((torch.arange(width, dtype=torch.float32) + 0.5) / width)[None, :].expand(height, width)
    columns, rows, size, shift = scene.logo_grid

    def picture(x: Tensor, y: Tensor) -> Tensor:
        row = torch.floor(y * rows)
        u = torch.remainder(x * columns + shift * torch.remainder(row, 2), 1) - 0.5
        v = torch.remainder(y * rows, 1) - 0.5
        box = torch.maximum(u.abs() - size, v.abs() - 0.5 * size)
        cover = torch.sigmoid(-box / (scene.blur * columns))
        base, logo = torch.from_numpy(_rgb(scene.wall, scene)), torch.from_numpy(_rgb(scene.logo, scene))
        shade = 1 - scene.dim * ((x - 0.5) ** 2 + (y - 0.4) ** 2) * 1.8 + 0.10 * scene.key * (x - 0.5)
        colour = base + cover[..., None] * (logo - base) * 0.8
        return (colour * shade[..., None]).float()

    step = 1.0 / height
    return torch.stack(
        [
            picture(x, y),
            (picture(x + step, y) - picture(x - step, y)) / (2 * step),
            (picture(x, y + step) - picture(x, y - step)) / (2 * step),
        ]
    )


def shapes(pose: Pose, subject: Subject, scene: Scene) -> list[list[Shape]]:
    """The groups of shapes of every frame, back to front, for :func:`migcore.studio.renderer.draw`.

    Args:
        pose: T frames.
        subject, scene: looks.
    """
    t = len(pose.head)
    zoom = pose.scale
    ones = np.ones(t)
    skin = _rgb(subject.skin, scene)
    hair = _rgb(HAIR[subject.hair_name], scene)
    shirt = _rgb(CLOTH[subject.shirt], scene)
    light = 0.5 * scene.key

    def radii(*values: float | Array) -> Array:
        return np.stack([np.broadcast_to(np.asarray(v) * zoom, (t,)) for v in values], -1)

    def capsule(a: Array, b: Array, ra: float | Array, rb: float | Array, colour: Array, part: str, **more) -> Shape:  # type: ignore[no-untyped-def]
        return Shape("capsule", np.stack([a, b], 1), radii(ra, rb), colour, part=PART[part], **more)

    below = (pose.wrists[..., 1] > scene.table_y + scene.centre[1] + 0.05).astype(np.float64)  # [T, 2]
    front: list[list[Shape]] = []
    under: list[list[Shape]] = []
    behind: list[list[Shape]] = []
    for side in (0, 1):
        hidden = np.maximum(pose.hand_behind[:, side], pose.arm_behind[:, side])
        for alpha_arm, alpha_hand, groups in (
            (pose.arm_behind[:, side], hidden, behind),
            ((1 - pose.arm_behind[:, side]) * below[:, side], (1 - hidden) * below[:, side], under),
            ((1 - pose.arm_behind[:, side]) * (1 - below[:, side]), (1 - hidden) * (1 - below[:, side]), front),
        ):
            if max(alpha_arm.max(), alpha_hand.max()) < 1e-3:
                continue
            arm, hand = _arm(pose, subject, side, shirt, skin, light, alpha_arm, alpha_hand, capsule)
            pen = _pen(pose, scene, side, subject.handed, alpha_hand, capsule)
            groups.extend([arm, [*pen, *hand]])

    torso = _torso(pose, subject, scene, shirt, skin, light, radii, capsule)
    back_hair = _back_hair(pose, subject, hair, capsule)
    head = _head(pose, subject, scene, skin, hair, light)
    table_y = scene.table_y + scene.centre[1]
    board = np.tile(np.array([[-0.2, table_y], [1.2, table_y], [1.2, 1.3], [-0.2, 1.3]]), (t, 1, 1))
    furniture = [
        Shape("polygon", board, 0.0 * ones[:, None], _rgb(scene.table, scene), edge=-0.18, part=PART["table"]),
    ]
    dark = _rgb((0.10, 0.10, 0.11), scene)
    for x, y in scene.microphones:
        foot = np.tile(np.array([x + (0.03 if x < 0.5 else -0.03), 1.02]), (t, 1))
        top = np.tile(np.array([x, y + scene.centre[1]]), (t, 1))
        furniture.append(
            Shape("capsule", np.stack([foot, top], 1), np.full((t, 2), 0.008), dark, part=PART["microphone"])
        )
        furniture.append(
            Shape("ellipse", top[:, None], np.tile([0.016, 0.022], (t, 1)), dark * 1.8, part=PART["microphone"])
        )
    if np.isfinite(scene.bottle):
        low, high = np.array([scene.bottle, 0.98]), np.array([scene.bottle, 0.84])
        ends = np.tile(np.stack([low, high]), (t, 1, 1))
        furniture.append(Shape("capsule", ends, np.tile([0.028, 0.022], (t, 1)), _rgb((0.45, 0.62, 0.72), scene)))
    if scene.pen:
        lying = 1 - np.clip(pose.curves["pen"] * 3, 0, 1)
        a = np.array([scene.pen_x - 0.035, table_y - 0.012])
        ends = np.tile(np.stack([a, a + np.array([0.07, 0.006])]), (t, 1, 1))
        furniture.append(
            Shape(
                "capsule", ends, np.full((t, 2), 0.0075), _rgb(CLOTH[scene.pen], scene), alpha=lying, part=PART["pen"]
            )
        )
    return [*back_hair, *behind, torso, head, *under, furniture, *front]


def _arm(
    pose: Pose,
    subject: Subject,
    side: int,
    shirt: Array,
    skin: Array,
    light: float,
    alpha_arm: Array,
    alpha_hand: Array,
    capsule: Callable[..., Shape],
) -> tuple[list[Shape], list[Shape]]:
    """Upper arm and forearm, and hand with fingers."""
    name = ("left", "right")[side]
    g = subject.girth
    s, e, w = pose.shoulders[:, side], pose.elbows[:, side], pose.wrists[:, side]
    sleeve = shirt * (1.06 if side else 0.94)
    cover = 0.5 if subject.sleeve < 1 else 1.0
    arm = [capsule(s, e, 0.046 * g, 0.039 * g, sleeve, f"{name} upper arm", alpha=alpha_arm, light=light)]
    if cover < 1:
        arm.append(capsule(e, w, 0.031 * g, 0.023 * g, skin, f"{name} forearm", alpha=alpha_hand))
        cuff = s + 0.95 * (e - s)
        arm.append(capsule(cuff, e, 0.041 * g, 0.040 * g, sleeve, f"{name} upper arm", alpha=alpha_arm))
    else:
        arm.append(capsule(e, w, 0.037 * g, 0.029 * g, sleeve, f"{name} forearm", alpha=alpha_hand))
    part = f"{name} hand"
    size = subject.hand
    hand = [
        capsule(w, pose.palms[:, side], 0.20 * size, 0.27 * size, skin, part, alpha=alpha_hand, edge=0.3),
    ]
    for i in range(5):
        thick = (0.095 if i else 0.11) * size
        hand.append(
            capsule(pose.knuckles[:, side, i], pose.fingers[:, side, i], thick, 0.8 * thick, skin * 1.03, part,
                    alpha=alpha_hand, edge=0.35)
        )  # fmt: skip
    if cover == 1.0:
        toward = w + 0.1 * (pose.palms[:, side] - w)
        hand.insert(0, capsule(w, toward, 0.031 * g, 0.030 * g, sleeve * 0.9, f"{name} forearm", alpha=alpha_hand))
    return arm, hand


def _pen(pose: Pose, scene: Scene, side: int, handed: int, alpha: Array, capsule: Callable[..., Shape]) -> list[Shape]:
    held = np.clip(pose.curves["pen"] * 3 - 1, 0, 1)
    if side != _pen_side(pose, handed) or held.max() < 1e-3:
        return []
    grip = 0.5 * (pose.fingers[:, side, 1] + pose.palms[:, side])
    angle = pose.curves["pen_angle"] - 1.0
    d = 0.062 * pose.scale[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    colour = _rgb(CLOTH[scene.pen or "blue"], scene)
    return [capsule(grip - 0.6 * d, grip + d, 0.0085, 0.0075, colour, "pen", alpha=alpha * held, edge=0.15)]


def _pen_side(pose: Pose, handed: int) -> int:
    """Side of the hand that is at the middle of the table while the pen is held; the preferred one if both are."""
    middle = [i for i, (anchor, _) in enumerate(pose.anchors) if anchor == "middle"]
    held = pose.curves["pen"] > 0.6
    at = [np.isin(pose.touching[held, side], middle).mean() if held.any() else 0.0 for side in (0, 1)]
    return handed if abs(at[0] - at[1]) < 0.2 else int(at[1] > at[0])


def _torso(
    pose: Pose,
    subject: Subject,
    scene: Scene,
    shirt: Array,
    skin: Array,
    light: float,
    radii: Callable[..., Array],
    capsule: Callable[..., Shape],
) -> list[Shape]:
    left, right = pose.shoulders[:, 0], pose.shoulders[:, 1]
    middle, half = 0.5 * (left + right), 0.5 * (right - left)
    low = pose.pelvis
    wide = (0.92 + 1.6 * (pose.curves["chest"] - 1))[:, None]
    hem = half * 0.86 * subject.girth
    chest = 0.55 * middle + 0.45 * low
    body = np.stack([left * 1.0, right * 1.0, chest + half * wide, low + hem, low - hem, chest - half * wide], 1)
    neck_top = pose.head + 0.45 * (pose.neck - pose.head)
    edge = 0.22
    out = [
        Shape("polygon", body, radii(0.035 * subject.girth), shirt, edge=edge, light=light, part=PART["torso"]),
        capsule(left, pose.neck, 0.046 * subject.girth, 0.052, shirt, "torso", light=light, edge=0.12),
        capsule(right, pose.neck, 0.046 * subject.girth, 0.052, shirt, "torso", light=light, edge=0.12),
    ]
    collar = pose.neck + np.array([0.0, 0.012])
    down = low - pose.neck
    down = down / np.linalg.norm(down, axis=-1, keepdims=True)
    across = np.stack([down[:, 1], -down[:, 0]], -1)
    z = pose.scale[:, None]
    if subject.jacket:
        under = _rgb(CLOTH["white" if subject.shirt != "white" else "grey"], scene)
        vee = np.stack([collar - 0.05 * z * across, collar + 0.05 * z * across, collar + 0.24 * z * down], 1)
        out.append(Shape("polygon", vee, radii(0.004), under, edge=0.1, part=PART["torso"]))
    out.append(capsule(neck_top, pose.neck + 0.004 * down, 0.042, 0.046, skin * 0.93, "neck", edge=0.15))
    if subject.tie:
        pull = pose.curves["tie_pull"][:, None] * z
        knot = collar + 0.035 * z * down + 0.5 * pull * across
        tip = knot + 0.23 * z * down + 1.5 * pull * across
        colour = _rgb(CLOTH[subject.tie], scene)
        out.append(capsule(knot, tip, 0.012, 0.022, colour, "tie"))
        out.append(capsule(knot, knot + 0.01 * z * down, 0.019, 0.015, colour * 0.9, "tie"))
    else:
        out.append(capsule(collar - 0.03 * z * across, collar + 0.025 * z * down, 0.010, 0.010, shirt * 1.12, "torso"))
        out.append(capsule(collar + 0.03 * z * across, collar + 0.025 * z * down, 0.010, 0.010, shirt * 1.12, "torso"))
    return out


def _on_head(pose: Pose, u: float | Array, v: float | Array, follow: float = 0.0) -> Array:
    """[T, 2] the point (u, v) in half axes of the head; ``follow`` is how much it moves with yaw and pitch."""
    c, s = np.cos(pose.roll), np.sin(pose.roll)
    du = (u + follow * pose.face[:, 0]) * pose.head_axes[:, 0]
    dv = (v + follow * pose.face[:, 1]) * pose.head_axes[:, 1]
    return pose.head + np.stack([c * du - s * dv, s * du + c * dv], -1)


def _back_hair(pose: Pose, subject: Subject, hair: Array, capsule: Callable[..., Shape]) -> list[list[Shape]]:
    if not subject.long_hair:
        return []
    rx = subject.head[0]
    group = [
        capsule(_on_head(pose, 0.78 * s, -0.2), _on_head(pose, 0.98 * s, 1.15), 0.42 * rx, 0.30 * rx, hair, "hair")
        for s in (-1, 1)
    ]
    group.append(capsule(_on_head(pose, 0, -0.2), _on_head(pose, 0, 0.6), 1.02 * rx, 0.9 * rx, hair * 0.85, "hair"))
    return [group]


def _head(pose: Pose, subject: Subject, scene: Scene, skin: Array, hair: Array, light: float) -> list[Shape]:
    k = pose.curves
    axes = pose.head_axes

    def ellipse(u, v, ru, rv, colour, part, follow=0.0, angle=0.0, **more) -> Shape:  # type: ignore[no-untyped-def]
        size = np.stack(
            [np.broadcast_to(ru, (len(axes),)) * axes[:, 0], np.broadcast_to(rv, (len(axes),)) * axes[:, 1]], -1
        )
        return Shape("ellipse", _on_head(pose, u, v, follow)[:, None], size, colour, angle=pose.roll + angle,
                     part=PART[part], **more)  # fmt: skip

    def stroke(u0, v0, u1, v1, thick, colour, part, follow=1.0, **more) -> Shape:  # type: ignore[no-untyped-def]
        ends = np.stack([_on_head(pose, u0, v0, follow), _on_head(pose, u1, v1, follow)], 1)
        size = np.broadcast_to(np.asarray(thick), (len(axes),))[:, None] * axes[:, 1:]
        return Shape("capsule", ends, np.repeat(size, 2, 1), colour, part=PART[part], **{"edge": 0.0, **more})

    puff, press = k["cheeks"], k["lips"]
    out = [ellipse(s * 0.99, 0.05, 0.17, 0.22, skin * 0.92, "ear", -0.3) for s in (-1, 1)]
    if not subject.bald:
        out.append(ellipse(0, -0.16, 1.06, 1.0, hair, "hair", -0.1, edge=0.15))
    out.append(ellipse(0, 0.03, 0.96, 0.99, skin, "face", 0.0, edge=0.22, light=light))
    for s in (-1, 1):
        out.append(
            ellipse(s * (0.50 + 0.22 * puff), 0.44, 0.40 + 0.14 * puff, 0.30 + 0.10 * puff,
                    np.clip(skin * 1.04 + np.array([0.05, 0, 0]), 0, 1), "face", 0.35, edge=0.25,
                    alpha=np.clip(puff * 1.4, 0, 1))
        )  # fmt: skip
    if subject.beard:
        out.append(ellipse(0, 0.66, 0.72, 0.36, 0.65 * hair + 0.35 * skin, "face", 0.5, edge=0.1, soft=0.008))
    if not subject.bald:
        top = -0.74 if not subject.long_hair else -0.70
        out.append(ellipse(0, top, 0.90, 0.34, hair, "hair", 0.25, edge=0.12))
        if subject.long_hair:
            out += [ellipse(s * 0.90, -0.05, 0.20, 0.72, hair, "hair", 0.05, edge=0.15) for s in (-1, 1)]
    open_eye = 1 - k["blink"]
    for s in (-1, 1):
        out.append(ellipse(s * 0.38, -0.08, 0.20, 0.02 + 0.085 * open_eye, np.array([0.93, 0.93, 0.92]), "eye", 1.0,
                           edge=0.0, alpha=np.clip(open_eye * 2, 0, 1)))  # fmt: skip
        out.append(ellipse(s * 0.38, -0.08, 0.085, 0.085, np.array([0.12, 0.09, 0.08]), "eye", 1.22, edge=0.0,
                           alpha=np.clip(open_eye * 1.5, 0, 1)))  # fmt: skip
        out.append(stroke(s * 0.22, -0.03, s * 0.54, -0.03, 0.022, skin * 0.45, "eye", alpha=1 - open_eye))
        out.append(
            stroke(s * 0.20, -0.30, s * 0.56, -0.28, 0.035, hair * 0.7 if not subject.bald else skin * 0.5, "face")
        )
    if subject.glasses:
        for s in (-1, 1):
            out.append(ellipse(s * 0.38, -0.06, 0.30, 0.20, np.array([0.08, 0.08, 0.1]), "eye", 1.0, edge=0.0,
                               alpha=np.full(len(axes), 0.32)))  # fmt: skip
        out.append(stroke(-0.9, -0.12, 0.9, -0.12, 0.020, np.array([0.08, 0.08, 0.1]), "face"))
    out.append(stroke(0.0, -0.05, 0.03, 0.20, 0.060, skin * 0.84, "nose", 1.15))
    lip = 0.75 * LIP * np.asarray(scene.light) + 0.25 * skin
    wide = 0.34 - 0.10 * k["mouth"] - 0.08 * press
    out.append(ellipse(0.0, 0.56, wide, (0.095 + 0.13 * k["mouth"]) * (1 - 0.72 * press), np.clip(lip, 0, 1), "mouth",
                       1.0, edge=0.0))  # fmt: skip
    out.append(ellipse(0.0, 0.56, 0.82 * wide, 0.012 + 0.125 * k["mouth"], np.array([0.20, 0.07, 0.07]), "mouth", 1.0,
                       edge=0.0))  # fmt: skip
    out.append(ellipse(0.0, 0.76, 0.26, 0.05, skin * 0.72, "face", 1.0, edge=0.0, alpha=0.8 * press))
    for s in (-1, 1):  # folds beside pressed lips
        out.append(stroke(s * 0.40, 0.46, s * 0.44, 0.62, 0.022, skin * 0.66, "face", 1.0, alpha=0.8 * press))
    if subject.hat:
        colour = _rgb(CLOTH[subject.hat], scene)
        tilt = k["hat_tilt"]
        out.append(ellipse(0, -0.84, 1.0, 0.50, colour, "hat", 0.0, angle=tilt, edge=0.25, light=light))
        lift = 0.6 * tilt
        out.append(stroke(-1.06, -0.60 - lift, 1.06, -0.60 + lift, 0.085, colour * 0.8, "hat", 0.12, edge=0.2))
    return out
