"""Forward kinematics of a seated speaker: a few control curves become the points of a body in every frame.

The torso hangs between pelvis and neck, the head sits on the neck, and each arm is a two-bone chain in three dimensions
that is solved for the elbow (law of cosines, with a pole that says where the elbow points) and projected along z.
What a hand reaches for is an *anchor*, a place on the posed body ("chin", "forearm of the other side"), so that a
hand stays at the chin while the head moves.

Legend: T frames; 2 sides (0 = left of the picture); 5 fingers, thumb first; x right, y down, z towards the camera, all
in frame units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from migcore.studio.subjects import Scene, Subject

Array = np.ndarray

#: Control curves with one value a frame, and their value at rest.
CURVES: dict[str, float] = {
    "lean": 0.0,  # torso, radians, positive to the right of the picture
    "shift": 0.0,  # pelvis, frame units to the right
    "stretch": 1.0,  # torso length, factor
    "twist": 0.0,  # torso about its axis, radians
    "chest": 1.0,  # chest width, factor
    "pitch": 0.0,  # head, positive is upward, radians
    "yaw": 0.0,  # head, positive to the right of the picture
    "roll": 0.0,  # head
    "tuck": 0.0,  # head drawn into the shoulders, 0..1
    "mouth": 0.0,  # mouth open, 0..1
    "lips": 0.0,  # lips pressed, 0..1
    "cheeks": 0.0,  # cheeks puffed, 0..1
    "blink": 0.0,  # eyes closed, 0..1
    "hat_tilt": 0.0,  # hat moved, radians
    "tie_pull": 0.0,  # tie moved sideways, frame units
    "pen": 0.0,  # a pen is held, 0..1
    "pen_angle": 0.0,  # of the held pen, radians
}

#: Anchors on the head, as (across, down) in half axes of the head; side anchors are mirrored for side 0.
HEAD_ANCHORS: dict[str, tuple[float, float]] = {
    "crown": (0.35, -0.95),
    "hat": (0.45, -0.85),
    "forehead": (0.15, -0.48),
    "eye": (0.38, -0.08),
    "nose": (0.06, 0.22),
    "cheek": (0.55, 0.32),
    "mouth": (0.05, 0.55),
    "chin": (0.08, 0.95),
    "ear": (1.02, 0.02),
    "hair": (1.10, 0.55),
    "neck": (0.72, 1.28),
    "face": (0.30, 0.05),
}
#: Anchors on the torso, as (across in half shoulder widths, down from neck 0 to pelvis 1).
TORSO_ANCHORS: dict[str, tuple[float, float]] = {
    "collar": (0.05, 0.04),
    "chest": (0.10, 0.17),
    "tie": (0.02, 0.22),
    "nape": (0.50, -0.02),
    "flank": (0.85, 0.78),
    "back": (0.25, 0.80),
    "fold": (-0.55, 0.47),
    "steeple": (0.03, 0.47),
    "air": (0.85, 0.42),
    "side": (1.02, 0.95),
    "table": (0.42, 0.69),
    "middle": (0.08, 0.70),
    "lap": (0.30, 0.93),
}
#: Anchors on the other arm: (bone, share of its length).
ARM_ANCHORS: dict[str, tuple[int, float]] = {"upper arm": (0, 0.55), "sleeve": (1, 0.60)}


@dataclass
class Reach:
    """One hand goes to an anchor for a while.

    Attributes:
        side: which hand.
        anchor: a key of the anchor tables.
        frames: slice of the film.
        weight: [n] how far the hand has got, 0..1.
        offset: [n, 2] displacement of the contact point, frame units.
        direction: [n] of the hand in the picture, radians, for side 1; it is mirrored for side 0.
        curl, spread: of the fingers, 0..1.
        grip: where the contact lies along the hand: 0 the wrist, 1 the finger tips.
        depth: of the contact, towards the camera.
        pole: where the elbow points, for side 1.
        behind: 1 if the hand is hidden by the body, 2 if the whole arm is.
        detail: what a caption may add about the hand, "" for nothing.
    """

    side: int
    anchor: str
    frames: slice
    weight: Array
    offset: Array
    direction: Array
    curl: float = 0.3
    spread: float = 0.5
    grip: float = 0.8
    depth: float = 0.08
    pole: tuple[float, float, float] = (0.75, 0.65, -0.1)
    behind: int = 0
    detail: str = ""


@dataclass
class Controls:
    """All control curves of a film: ``curves[name]`` [T], ``shoulders`` [T, 2] (raised, 0..1), and the reaches.

    Later reaches lie over earlier ones.
    """

    frames: int
    curves: dict[str, Array] = field(default_factory=dict)
    shoulders: Array = field(default_factory=lambda: np.zeros((0, 2)))
    reaches: list[Reach] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.curves = {name: np.full(self.frames, value) for name, value in CURVES.items()}
        self.shoulders = np.zeros((self.frames, 2))


@dataclass
class Pose:
    """The posed body in the picture, camera applied; points in frame units, T frames.

    Attributes:
        scale: [T] of the picture, to multiply radii with.
        head, head_axes: [T, 2] centre and half axes; ``roll`` [T]; ``face`` [T, 2] shift of the features (yaw, pitch).
        neck, pelvis: [T, 2].
        shoulders, elbows, wrists, palms: [T, 2, 2] (side, xy).
        knuckles, fingers: [T, 2, 5, 2] base and tip of each finger.
        curves: as in :class:`Controls`; ``raised`` [T, 2] shoulders.
        arm_behind, hand_behind: [T, 2] 1 where the body hides them.
        touching: [T, 2] index into ``anchors`` of where the hand is, -1 on its way.
        anchors: the (anchor, detail) pairs in use.
        offset: [T, 2] of the camera, for the wall.
    """

    scale: Array
    head: Array
    head_axes: Array
    roll: Array
    face: Array
    neck: Array
    pelvis: Array
    shoulders: Array
    elbows: Array
    wrists: Array
    palms: Array
    knuckles: Array
    fingers: Array
    curves: dict[str, Array]
    raised: Array
    arm_behind: Array
    hand_behind: Array
    touching: Array
    anchors: list[tuple[str, str]]
    offset: Array

    def keypoints(self) -> Array:
        """[T, 22, 2] float64: the joints of ``imigue22``, in frame units.

        Joint 2-4 are shoulder, elbow and hand of side 0, 5-7 of side 1; fingers 12-16 belong to side 1 and 17-21 to
        side 0, as in the organisers' drawing.
        """
        c, s = np.cos(self.roll), np.sin(self.roll)

        def on_head(u: float, v: float, follow: float = 1.0) -> Array:
            du = (u + follow * self.face[:, 0]) * self.head_axes[:, 0]
            dv = (v + follow * self.face[:, 1]) * self.head_axes[:, 1]
            return self.head + np.stack([c * du - s * dv, s * du + c * dv], -1)

        return np.stack(
            [
                on_head(0, 0.20, 1.25),
                self.neck,
                self.shoulders[:, 0],
                self.elbows[:, 0],
                self.wrists[:, 0],
                self.shoulders[:, 1],
                self.elbows[:, 1],
                self.wrists[:, 1],
                on_head(-0.38, -0.10),
                on_head(0.38, -0.10),
                on_head(-1.0, 0.03, -0.3),
                on_head(1.0, 0.03, -0.3),
                *(self.fingers[:, 1, i] for i in range(5)),
                *(self.fingers[:, 0, i] for i in range(5)),
            ],
            axis=1,
        )


def _solve_arm(shoulder: Array, wrist: Array, upper: float, lower: float, pole: Array) -> tuple[Array, Array]:
    """Elbow and reachable wrist [T, 3] of a two-bone chain from ``shoulder`` to ``wrist``; ``pole`` [T, 3]."""
    line = wrist - shoulder
    distance = np.linalg.norm(line, axis=-1, keepdims=True)
    reach = np.clip(distance, 0.25 * (upper + lower), 0.995 * (upper + lower))
    axis = line / np.maximum(distance, 1e-6)
    along = (upper**2 - lower**2 + reach**2) / (2 * reach)
    out = np.sqrt(np.maximum(upper**2 - along**2, 1e-8))
    normal = pole - (pole * axis).sum(-1, keepdims=True) * axis
    normal = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    return shoulder + along * axis + out * normal, shoulder + reach * axis


def pose(controls: Controls, subject: Subject, scene: Scene, camera: Array) -> Pose:
    """Pose the body in every frame.

    Args:
        controls: curves and reaches of T frames.
        subject: proportions.
        scene: framing.
        camera: [T, 2] displacement of the camera (shake), frame units.

    Returns:
        the body in the picture.
    """
    t = controls.frames
    k = controls.curves
    pelvis = np.stack([0.5 + k["shift"], np.full(t, 1.04)], -1)
    length = subject.torso * k["stretch"]
    up = np.stack([np.sin(k["lean"]), -np.cos(k["lean"])], -1)
    right = np.stack([np.cos(k["lean"]), np.sin(k["lean"])], -1)
    neck = pelvis + length[:, None] * up
    half = subject.shoulder * np.cos(k["twist"])[:, None] * right * (0.6 + 0.4 * k["chest"])[:, None]
    drop = np.array([0.0, 0.030])
    lift = np.stack([np.zeros(t), -0.062 * np.ones(t)], -1)
    turn = 0.02 * np.sin(k["twist"])[:, None] * right
    shoulders = np.stack(
        [neck - half + drop + turn + lift * controls.shoulders[:, :1], neck + half + drop + turn
         + lift * controls.shoulders[:, 1:]], 1
    )  # fmt: skip

    axes = np.asarray(subject.head) * (1 + 0.10 * k["tuck"])[:, None]
    roll = k["roll"] + 0.5 * k["lean"]
    rise = subject.neck * (1 - 0.36 * k["tuck"])
    head = neck + rise[:, None] * np.stack([np.sin(roll), -np.cos(roll)], -1)
    head = head + np.stack([0.014 * np.sin(k["yaw"]), -0.016 * np.sin(k["pitch"])], -1)
    face = np.stack([0.55 * np.sin(k["yaw"]), -0.50 * np.sin(k["pitch"])], -1)
    cr, sr = np.cos(roll), np.sin(roll)

    def anchor(name: str, side: int, arms: Array | None) -> Array:
        sign = 1.0 if side == 1 else -1.0
        if name in HEAD_ANCHORS:
            u, v = HEAD_ANCHORS[name]
            follow = 0.0 if name in ("crown", "ear", "hair", "neck", "hat") else 1.0
            du, dv = (sign * u + follow * face[:, 0]) * axes[:, 0], (v + follow * face[:, 1]) * axes[:, 1]
            return head + np.stack([cr * du - sr * dv, sr * du + cr * dv], -1)
        if name in TORSO_ANCHORS:
            u, v = TORSO_ANCHORS[name]
            if name in ("table", "middle", "lap", "side"):  # the table does not lean with the body
                base = np.array([0.5 + sign * u * subject.shoulder, 1.04 - (1 - v) * subject.torso])
                return np.broadcast_to(base, (t, 2)) + 0.25 * np.stack([k["shift"], np.zeros(t)], -1)
            return neck + sign * u * subject.shoulder * right - v * length[:, None] * up
        bone, share = ARM_ANCHORS[name]
        if arms is None:
            return neck
        other = 1 - side
        return arms[:, other, bone, :2] * (1 - share) + arms[:, other, bone + 1, :2] * share

    names = sorted({("table", "")} | {(reach.anchor, reach.detail) for reach in controls.reaches})

    arms: Array | None = None
    passes = 2 if any(r.anchor in ARM_ANCHORS for r in controls.reaches) else 1
    for _ in range(passes):
        arms, hands = _arms(controls, subject, shoulders, anchor, arms, names)
    assert arms is not None
    direction, curl, spread, behind, touching = hands
    sign = np.array([-1.0, 1.0])
    d = np.stack([np.cos(direction) * sign, np.sin(direction)], -1)  # [T, side, 2]
    across = np.stack([-d[..., 1], d[..., 0]], -1) * sign[:, None]  # from little finger to thumb, for each side
    wrists = arms[:, :, 2, :2]
    palms = wrists + 0.34 * subject.hand * d
    rows = np.array([1.25, 0.62, 0.2, -0.22, -0.62]) * -1.0
    base = np.array([0.22, 0.56, 0.60, 0.58, 0.52])
    reach_out = np.array([0.42, 0.42, 0.44, 0.41, 0.33])
    fan = np.array([-0.95, -0.30, -0.05, 0.18, 0.42])
    knuckles = wrists[:, :, None] + subject.hand * (
        base[:, None] * d[:, :, None] + (0.23 * rows)[:, None] * across[:, :, None]
    )
    angle = fan * (0.25 + 1.3 * spread[..., None])
    ca, sa = np.cos(angle)[..., None], np.sin(angle)[..., None]
    pointing = d[:, :, None] * ca + across[:, :, None] * sa
    fingers = knuckles + subject.hand * reach_out[:, None] * (1 - 0.75 * curl[..., None, None]) * pointing

    cz, sz = np.cos(scene.tilt), np.sin(scene.tilt)
    offset = np.asarray(scene.centre) + camera

    def film(points: Array) -> Array:
        p = (points - np.array([0.5, 0.62])) * scene.zoom
        p = np.stack([cz * p[..., 0] - sz * p[..., 1], sz * p[..., 0] + cz * p[..., 1]], -1)
        shape = (t,) + (1,) * (p.ndim - 2) + (2,)
        return p + np.array([0.5, 0.62]) + offset.reshape(shape)

    return Pose(
        scale=np.full(t, scene.zoom),
        head=film(head),
        head_axes=axes * scene.zoom,
        roll=roll + scene.tilt,
        face=face,
        neck=film(neck),
        pelvis=film(pelvis),
        shoulders=film(shoulders),
        elbows=film(arms[:, :, 1, :2]),
        wrists=film(wrists),
        palms=film(palms),
        knuckles=film(knuckles),
        fingers=film(fingers),
        curves=k,
        raised=controls.shoulders,
        arm_behind=(behind > 1.5).astype(np.float64),
        hand_behind=(behind > 0.5).astype(np.float64),
        touching=touching,
        anchors=names,
        offset=offset,
    )


def _arms(
    controls: Controls,
    subject: Subject,
    shoulders: Array,
    anchor: Callable[[str, int, Array | None], Array],
    previous: Array | None,
    names: list[tuple[str, str]],
) -> tuple[Array, tuple[Array, Array, Array, Array, Array]]:
    """Resolve the reaches and solve both arms.

    Returns:
        joints [T, 2, 3, 3] (side; shoulder, elbow, wrist; xyz) and (direction, curl, spread, behind, touching), each
        [T, 2].
    """
    t = controls.frames
    joints = np.zeros((t, 2, 3, 3))
    direction, curl, spread = np.full((t, 2), 2.75), np.full((t, 2), 0.45), np.full((t, 2), 0.3)
    behind, touching = np.zeros((t, 2)), np.full((t, 2), names.index(("table", "")))
    for side in (0, 1):
        contact = np.concatenate([anchor("table", side, previous), np.full((t, 1), 0.10)], -1)
        grip = np.full(t, 0.55)
        pole = np.tile(np.array([0.75, 0.65, -0.1]), (t, 1))
        for reach in controls.reaches:
            if reach.side != side:
                continue
            s, w = reach.frames, np.clip(reach.weight, 0, 1)
            goal = np.concatenate([anchor(reach.anchor, side, previous)[s] + reach.offset,
                                   np.full((len(w), 1), reach.depth)], -1)  # fmt: skip
            bow = np.sin(np.pi * w)[:, None] * np.array([(1 if side else -1) * 0.02, 0.0, 0.05])
            contact[s] = contact[s] * (1 - w[:, None]) + goal * w[:, None] + bow
            turn = np.angle(np.exp(1j * (reach.direction - direction[s, side])))
            direction[s, side] = direction[s, side] + w * turn
            curl[s, side] = curl[s, side] * (1 - w) + reach.curl * w
            spread[s, side] = spread[s, side] * (1 - w) + reach.spread * w
            grip[s] = grip[s] * (1 - w) + reach.grip * w
            pole[s] = pole[s] * (1 - w[:, None]) + np.asarray(reach.pole) * w[:, None]
            behind[s, side] = np.where(w > 0.5, reach.behind, behind[s, side])
            touching[s, side] = np.where(
                w > 0.75, names.index((reach.anchor, reach.detail)), np.where(w > 0.2, -1, touching[s, side])
            )
        sign = 1.0 if side else -1.0
        d = np.stack([sign * np.cos(direction[:, side]), np.sin(direction[:, side]), np.zeros(t)], -1)
        wrist = contact - grip[:, None] * subject.hand * d
        start = np.concatenate([shoulders[:, side], np.zeros((t, 1))], -1)
        elbow, wrist = _solve_arm(start, wrist, subject.upper_arm, subject.forearm, pole * np.array([sign, 1, 1]))
        joints[:, side] = np.stack([start, elbow, wrist], 1)
    return joints, (direction, curl, spread, behind, touching)
