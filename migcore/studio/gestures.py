"""One motion program per class, over idle motion that never stops.

A program adds to the control curves of a stretch of film and says what the hands reach for. Every program has onset,
apex and offset, small amplitudes, and a draw of its own of side, speed, strength and place, so that no two clips are
alike. Some classes move the same joints and differ only in what a camera sees (pressed lips, puffed cheeks, a pen in
the hand); others are small and fast, which film at low resolution shows badly and the skeleton well. The idle motion
holds the confusers: talking, head turns, still moments, fidgeting without an object, a half shrug.

Amplitudes were set once, with the probes of :mod:`migcore.studio.probes`; see ``STUDIO_VERSION``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from migcore.labels import CLASSES
from migcore.studio.rig import Array, Controls, Reach
from migcore.studio.subjects import Scene, Subject

UP = -1.95  # hand pointing up and inward, radians (side 1)
FLAT = 2.75  # resting on the table, pointing inward
INWARD = -2.85


def smooth_noise(rng: np.random.Generator, frames: int, period: float) -> Array:
    """[frames] zero-mean noise of about unit variance whose features last ``period`` frames."""
    knots = rng.standard_normal(int(frames / period) + 4)
    at = np.arange(frames) / period + 1
    i = at.astype(int)
    f = at - i
    f = f * f * (3 - 2 * f)
    return 1.3 * (knots[i] * (1 - f) + knots[i + 1] * f)


def ramp(x: Array) -> Array:
    """Smooth step of ``x`` from 0 to 1."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


class Take:
    """One stretch of film in which one gesture is performed: what a program needs to write it.

    Args:
        controls: of the whole film.
        start, stop: frames of the stretch, 0-based, half open.
        fps: of the film.
        subject, scene: who and where.
        rng: of this take alone.
    """

    def __init__(
        self,
        controls: Controls,
        start: int,
        stop: int,
        fps: float,
        subject: Subject,
        scene: Scene,
        rng: np.random.Generator,
    ) -> None:
        self.controls, self.at, self.n, self.fps = controls, slice(start, stop), stop - start, fps
        self.subject, self.scene, self.rng = subject, scene, rng
        self.time = np.arange(self.n) / fps
        onset, offset = rng.uniform(0.15, 0.32), rng.uniform(0.15, 0.32)
        phase = (np.arange(self.n) + 0.5) / self.n
        self.envelope = np.minimum(ramp(phase / onset), ramp((1 - phase) / offset))
        likely = 0.7 if subject.handed == 1 else 0.3
        self.side = int(rng.random() < (1 - likely if subject.handed == 0 else likely))
        self.strength = rng.uniform(0.75, 1.2)

    def wave(self, low: float, high: float) -> Array:
        """[n] a sine of a frequency drawn from ``low``..``high`` Hz, times the envelope."""
        f = self.rng.uniform(low, high) * self.subject.tempo
        return np.sin(2 * np.pi * f * self.time + self.rng.uniform(0, 2 * np.pi)) * self.envelope

    def add(self, name: str, value: Array | float) -> None:
        """Add ``value`` (times the envelope, if a number) to a curve."""
        self.controls.curves[name][self.at] += value * self.envelope if isinstance(value, float) else value

    def put(self, name: str, value: float) -> None:
        """Move a curve to ``value`` at the apex."""
        curve = self.controls.curves[name]
        curve[self.at] = curve[self.at] * (1 - self.envelope) + value * self.envelope

    def reach(
        self,
        anchor: str,
        *,
        side: int | None = None,
        move: Array | None = None,
        place: tuple[float, float] = (0.012, 0.012),
        direction: float = UP,
        curl: float = 0.3,
        spread: float = 0.4,
        grip: float = 0.8,
        depth: float = 0.10,
        pole: tuple[float, float, float] = (0.75, 0.65, -0.1),
        behind: int = 0,
        detail: str = "",
    ) -> None:
        """Send a hand to ``anchor`` and back; ``move`` [n, 2] displaces the contact, ``place`` is its random spread."""
        rng = self.rng
        offset = np.tile(rng.normal(0, place), (self.n, 1))
        if move is not None:
            offset = offset + move
        wobble = 0.12 * smooth_noise(rng, self.n, 9)
        self.controls.reaches.append(
            Reach(
                side=self.side if side is None else side,
                anchor=anchor,
                frames=self.at,
                weight=self.envelope,
                offset=offset,
                direction=direction + rng.normal(0, 0.18) + wobble,
                curl=float(np.clip(curl + rng.normal(0, 0.08), 0, 1)),
                spread=float(np.clip(spread + rng.normal(0, 0.1), 0, 1)),
                grip=grip,
                depth=depth,
                pole=pole,
                behind=behind,
                detail=detail,
            )
        )

    def rub(self, low: float, high: float, across: float, down: float) -> Array:
        """[n, 2] a small to-and-fro of the contact."""
        w = self.wave(low, high) * self.strength
        return np.stack([across * w, down * w], -1)


def _turtle_neck(k: Take) -> None:
    k.add("tuck", 0.95 * k.strength)
    k.controls.shoulders[k.at] += 0.75 * k.strength * k.envelope[:, None]
    k.add("pitch", -0.25 * k.strength)


def _deep_breath(k: Take) -> None:
    k.put("cheeks", min(1.0, 0.95 * k.strength))
    k.put("mouth", 0.05)
    k.add("chest", 0.10 * k.strength)
    k.controls.shoulders[k.at] += (0.22 * k.strength * np.sin(np.linspace(0, np.pi, k.n)))[:, None]


def _touch_hat(k: Take) -> None:
    k.reach("hat", move=k.rub(0.8, 1.6, 0.012, 0.004), direction=UP - 0.3, curl=0.45, grip=0.95)
    k.add("hat_tilt", 0.10 * k.wave(0.8, 1.6))


def _touch_head(k: Take) -> None:
    k.reach("crown", move=k.rub(2.0, 3.5, 0.014, 0.006), direction=UP - 0.55, curl=0.35, spread=0.6, grip=0.9)
    k.add("roll", (0.10 if k.side == 1 else -0.10) * k.strength)


def _touch_forehead(k: Take) -> None:
    k.reach("forehead", move=k.rub(1.0, 2.2, 0.016, 0.0), direction=UP - 0.5, curl=0.25, spread=0.2, grip=0.9)
    k.add("pitch", -0.14 * k.strength)


def _cover_face(k: Take) -> None:
    for side in (0, 1):
        k.reach("face", side=side, direction=UP + 0.35, curl=0.05, spread=0.25, grip=0.65, place=(0.006, 0.01))
    k.add("pitch", -0.25 * k.strength)


def _rub_eyes(k: Take) -> None:
    k.reach("eye", move=k.rub(2.5, 4.0, 0.011, 0.005), direction=UP - 0.1, curl=0.6, spread=0.1, grip=0.9,
            place=(0.006, 0.006))  # fmt: skip
    k.put("blink", 1.0)


def _touch_face(k: Take) -> None:
    anchor = "nose" if k.rng.random() < 0.5 else "cheek"
    k.reach(anchor, move=k.rub(1.2, 2.6, 0.006, 0.007), direction=UP - 0.05, curl=0.5, spread=0.15, grip=0.95,
            place=(0.009, 0.009))  # fmt: skip


def _touch_ear(k: Take) -> None:
    k.reach("ear", move=k.rub(1.5, 3.0, 0.003, 0.010), direction=UP + 0.15, curl=0.5, spread=0.2, grip=0.95)
    k.add("roll", (0.07 if k.side == 1 else -0.07) * k.strength)


def _bite_nails(k: Take) -> None:
    k.reach("mouth", move=k.rub(3.0, 4.5, 0.003, 0.005), direction=UP - 0.45, curl=0.55, spread=0.1, grip=1.0,
            place=(0.006, 0.006))  # fmt: skip
    k.put("mouth", 0.35)
    k.add("mouth", 0.18 * k.wave(3.0, 4.5))


def _touch_chin(k: Take) -> None:
    k.reach("chin", move=k.rub(0.8, 1.8, 0.014, 0.002), direction=UP - 0.2, curl=0.45, spread=0.2, grip=0.9)


def _touch_neck(k: Take) -> None:
    k.reach("neck", move=k.rub(1.0, 2.4, 0.004, 0.016), direction=UP - 0.35, curl=0.25, spread=0.2, grip=0.85)
    k.add("roll", (-0.09 if k.side == 1 else 0.09) * k.strength)


def _play_hair(k: Take) -> None:
    turn = 2 * np.pi * k.rng.uniform(0.9, 1.7) * k.time
    circle = 0.013 * np.stack([np.cos(turn), np.sin(turn)], -1) * k.envelope[:, None]
    k.reach("hair", move=circle, direction=UP + 0.3, curl=0.55, spread=0.3, grip=0.95)


def _adjust_tie(k: Take) -> None:
    pull = k.wave(1.2, 2.2) * 0.012
    k.reach("tie", move=np.stack([pull, -0.3 * pull], -1), direction=UP - 0.75, curl=0.55, spread=0.15, grip=0.95)
    k.add("tie_pull", pull)
    if k.rng.random() < 0.5:
        k.reach("collar", side=1 - k.side, direction=UP - 0.6, curl=0.5, spread=0.15, grip=0.95)


def _touch_chest(k: Take) -> None:
    k.reach("chest", move=k.rub(0.3, 0.9, 0.006, 0.006), direction=INWARD, curl=0.05, spread=0.35, grip=0.7)


def _scratch_back(k: Take) -> None:
    k.reach("nape", move=k.rub(2.0, 3.2, 0.006, 0.012), direction=-2.6, curl=0.3, grip=0.9, depth=-0.06,
            pole=(0.55, -1.0, 0.25), behind=1)  # fmt: skip
    k.add("lean", (-0.035 if k.side == 1 else 0.035) * k.strength)


def _fold_arms(k: Take) -> None:
    for side in (0, 1):
        k.reach("fold", side=side, direction=INWARD + 0.2 * side, curl=0.35, spread=0.1, grip=0.6,
                depth=0.13 if side == k.side else 0.10, pole=(0.9, 0.8, -0.1), place=(0.012, 0.014))  # fmt: skip


def _dust_sleeve(k: Take) -> None:
    k.reach("sleeve", move=k.rub(1.6, 2.8, 0.026, 0.014), direction=FLAT - 0.2, curl=0.1, spread=0.15, grip=0.75,
            depth=0.14)  # fmt: skip
    k.reach("table", side=1 - k.side, place=(0.02, 0.01), direction=FLAT, curl=0.5, grip=0.5)


def _arms_back(k: Take) -> None:
    for side in (0, 1):
        k.reach("back", side=side, direction=2.3, curl=0.5, depth=-0.12, pole=(1.0, 0.2, -0.3), behind=2, grip=0.3)
    k.add("chest", 0.05)


def _move_torso(k: Take) -> None:
    way = float(k.rng.choice([-1.0, 1.0]))
    k.add("lean", way * 0.125 * k.strength)
    k.add("shift", way * 0.022 * k.strength)
    k.add("roll", -way * 0.05 * k.strength)


def _sit_straight(k: Take) -> None:
    rise = ramp(np.linspace(0, 1.6, k.n)) * ramp(np.linspace(2.6, 0, k.n))
    k.add("stretch", 0.105 * k.strength * rise)
    k.add("pitch", 0.08 * k.strength)
    k.add("chest", 0.04)


def _scratch_arm(k: Take) -> None:
    k.reach("upper arm", move=k.rub(2.2, 3.6, 0.005, 0.016), direction=INWARD, curl=0.4, spread=0.3, grip=0.85,
            depth=0.13)  # fmt: skip


def _rub_hands(k: Take) -> None:
    w = k.rub(1.4, 2.6, 0.020, 0.006)
    lift = np.array([0.0, -k.rng.uniform(0.0, 0.06)])
    for side in (0, 1):
        k.reach("middle", side=side, move=(w if side == k.side else -0.6 * w) + lift, direction=FLAT + 0.1, curl=0.15,
                spread=0.05, grip=0.6, place=(0.006, 0.006), detail="flat over the other hand")  # fmt: skip


def _cross_fingers(k: Take) -> None:
    lift = np.array([0.0, -k.rng.uniform(0.035, 0.085)])
    still = 0.002 * np.stack([smooth_noise(k.rng, k.n, 8), smooth_noise(k.rng, k.n, 8)], -1)
    for side in (0, 1):
        k.reach("middle", side=side, move=still + lift, direction=-2.45, curl=0.25, spread=0.95, grip=0.72,
                place=(0.004, 0.006), detail="fingers of both hands interlaced")  # fmt: skip


def _minaret(k: Take) -> None:
    still = 0.002 * np.stack([smooth_noise(k.rng, k.n, 8), smooth_noise(k.rng, k.n, 8)], -1)
    for side in (0, 1):
        k.reach("steeple", side=side, move=still, direction=-1.98, curl=0.0, spread=0.45, grip=0.98,
                place=(0.003, 0.01), detail="finger tips meet and point up")  # fmt: skip


def _play_things(k: Take) -> None:
    k.put("pen", 1.0)
    k.add("pen_angle", 1.1 * k.wave(0.8, 2.0))
    move = 0.014 * np.stack([k.wave(0.7, 1.5), k.wave(0.7, 1.5)], -1)
    lift = np.array([0.0, -k.rng.uniform(0.02, 0.08)])
    k.reach("middle", move=move + lift, direction=FLAT + 0.6, curl=0.65, spread=0.2, grip=0.8)
    if k.rng.random() < 0.5:
        k.reach("middle", side=1 - k.side, move=lift - move, direction=FLAT + 0.4, curl=0.5, spread=0.2, grip=0.85)


def _withdraw_arms(k: Take) -> None:
    for side in (0, 1):
        k.reach("side", side=side, direction=1.9, curl=0.5, depth=-0.02, pole=(0.7, 0.1, -0.8), grip=0.3,
                place=(0.02, 0.02))  # fmt: skip
    k.add("stretch", 0.03 * k.strength)


def _head_up(k: Take) -> None:
    k.add("pitch", 0.62 * k.strength)


def _press_lips(k: Take) -> None:
    k.put("lips", min(1.0, k.strength))
    k.put("mouth", 0.0)


def _akimbo(k: Take) -> None:
    for side in (0, 1):
        k.reach("flank", side=side, direction=2.2, curl=0.6, spread=0.1, grip=0.35, depth=-0.03, pole=(1.0, 0.0, 0.2))


def _shake_shoulders(k: Take) -> None:
    both = k.rng.random() < 0.55
    f = k.rng.uniform(1.2, 2.4) * k.subject.tempo
    beat = 0.5 - 0.5 * np.cos(2 * np.pi * f * k.time)
    up = 0.58 * k.strength * beat * k.envelope
    for side in (0, 1):
        if both or side == k.side:
            k.controls.shoulders[k.at, side] += up
    if not both:
        k.add("roll", (0.06 if k.side == 1 else -0.06) * k.strength)


def _illustrative(k: Take) -> None:
    both = k.rng.random() < 0.55
    for side in (0, 1):
        if both or side == k.side:
            move = np.stack([0.045 * k.wave(0.6, 1.6), 0.04 * k.wave(0.6, 1.8)], -1)
            k.reach("air", side=side, move=move, place=(0.03, 0.04), direction=-1.35, curl=0.12, spread=0.7, grip=0.6,
                    depth=0.18, pole=(0.7, 0.8, -0.3))  # fmt: skip
    k.put("mouth", 0.3)
    k.add("mouth", 0.25 * k.wave(2.5, 4.0))


PROGRAMS: tuple[Callable[[Take], None], ...] = (
    _turtle_neck,
    _deep_breath,
    _touch_hat,
    _touch_head,
    _touch_forehead,
    _cover_face,
    _rub_eyes,
    _touch_face,
    _touch_ear,
    _bite_nails,
    _touch_chin,
    _touch_neck,
    _play_hair,
    _adjust_tie,
    _touch_chest,
    _scratch_back,
    _fold_arms,
    _dust_sleeve,
    _arms_back,
    _move_torso,
    _sit_straight,
    _scratch_arm,
    _rub_hands,
    _cross_fingers,
    _minaret,
    _play_things,
    _withdraw_arms,
    _head_up,
    _press_lips,
    _akimbo,
    _shake_shoulders,
    _illustrative,
)
"""The motion program of each class, in label order."""

assert len(PROGRAMS) == len(CLASSES)


def idle(controls: Controls, fps: float, subject: Subject, scene: Scene, rng: np.random.Generator) -> None:
    """Breathing, sway, blinking, speech, glances, fidgeting and resting posture over the whole film.

    Args:
        controls: changed in place.
        fps: frames per second.
        subject, scene: habits and framing.
        rng: of the film.
    """
    n, k = controls.frames, controls.curves
    time = np.arange(n) / fps
    breath = np.sin(2 * np.pi * rng.uniform(0.22, 0.34) * time + rng.uniform(0, 6))
    k["chest"] += 0.018 * breath
    controls.shoulders += (0.05 * breath)[:, None]
    sway = subject.sway
    k["lean"] += 0.016 * sway * smooth_noise(rng, n, 38)
    k["shift"] += 0.006 * sway * smooth_noise(rng, n, 45)
    k["twist"] += 0.12 * sway * smooth_noise(rng, n, 40)
    k["stretch"] += 0.010 * sway * smooth_noise(rng, n, 50)
    controls.shoulders += 0.10 * sway * np.stack([smooth_noise(rng, n, 16), smooth_noise(rng, n, 16)], -1)
    k["yaw"] += 0.22 * np.clip(smooth_noise(rng, n, 30), -1.6, 1.6)
    k["pitch"] += 0.09 * smooth_noise(rng, n, 26)
    k["roll"] += 0.045 * smooth_noise(rng, n, 24)
    k["tuck"] += np.clip(0.09 * smooth_noise(rng, n, 30), 0, 0.25)
    talking = ramp(smooth_noise(rng, n, 34) + subject.talk - 0.2)
    syllables = np.abs(np.sin(2 * np.pi * rng.uniform(2.2, 3.4) * time + 1.5 * smooth_noise(rng, n, 12)))
    k["mouth"] += 0.75 * talking * syllables
    k["lips"] += np.clip(0.25 * smooth_noise(rng, n, 20) - 0.1, 0, 0.45) * (1 - talking)
    gap = 0.0
    while gap < n:
        gap += rng.exponential(2.8 * fps) + 5
        near = np.abs(np.arange(n) - gap)
        k["blink"] = np.maximum(k["blink"], np.clip(1.6 - near / 2.0, 0, 1))
    posture = {"apart": "table", "together": "middle", "stacked": "middle", "lap": "lap"}[subject.rest]
    for side in (0, 1):
        fidget = 0.010 * subject.fidget * np.stack([smooth_noise(rng, n, 14), smooth_noise(rng, n, 14)], -1)
        busy = ramp(1.2 * smooth_noise(rng, n, 40) - 0.4 + 0.5 * subject.fidget)
        rub = 0.008 * busy * np.sin(2 * np.pi * rng.uniform(0.9, 2.0) * time)
        offset = fidget + np.stack([rub, 0.4 * rub], -1) + rng.normal(0, (0.016, 0.010))
        if subject.rest == "stacked":
            offset = offset + np.array([0.0, -0.012 if side == subject.handed else 0.008])
        controls.reaches.append(
            Reach(
                side=side,
                anchor=posture,
                frames=slice(0, n),
                weight=np.ones(n),
                offset=offset,
                direction=FLAT + 0.2 * rng.standard_normal() + 0.15 * smooth_noise(rng, n, 20),
                curl=float(rng.uniform(0.2, 0.6)),
                spread=float(rng.uniform(0.1, 0.5)),
                grip=0.55,
                depth=0.10,
            )
        )
    # Gestures of speech outside the labelled clips stay below the size of an *illustrative* one.
    start = int(rng.exponential(3 * fps))
    while start < n:
        length = int(rng.uniform(0.5, 1.4) * fps)
        stop = min(n, start + length)
        if stop - start > 4 and rng.random() < 0.6 * subject.fidget:
            w = np.sin(np.pi * (np.arange(stop - start) + 0.5) / (stop - start)) * rng.uniform(0.1, 0.28)
            side = int(rng.random() < 0.5)
            controls.reaches.append(
                Reach(side, "air", slice(start, stop), w, np.zeros((stop - start, 2)), np.full(stop - start, -2.2), 0.3,
                      0.4, 0.6)
            )  # fmt: skip
        start = stop + int(rng.exponential(3 * fps)) + 1


def perform(take: Take, label: int) -> None:
    """Write the gesture of class ``label`` into the take, with a small glance or nod beside it."""
    PROGRAMS[label](take)
    rng = take.rng
    if rng.random() < 0.5:
        take.add("yaw", float(rng.normal(0, 0.16)))
    if rng.random() < 0.35:
        take.add("pitch", float(rng.normal(0, 0.09)))
    if rng.random() < 0.3:
        take.add("lean", float(rng.normal(0, 0.022)))
    if rng.random() < 0.3:
        take.controls.shoulders[take.at] += (0.15 * np.abs(rng.standard_normal()) * take.envelope)[:, None]


def clamp(controls: Controls) -> None:
    """Bring every curve back into its range once all programs have been written."""
    k = controls.curves
    for name in ("mouth", "lips", "cheeks", "blink", "pen"):
        k[name] = np.clip(k[name], 0, 1)
    k["tuck"] = np.clip(k["tuck"], 0, 1.2)
    k["pitch"] = np.clip(k["pitch"], -0.7, 0.9)
    k["yaw"] = np.clip(k["yaw"], -0.75, 0.75)
    k["stretch"] = np.clip(k["stretch"], 0.9, 1.16)
    controls.shoulders = np.clip(controls.shoulders, -0.2, 1.2)


def requirements(label: int) -> dict[str, bool]:
    """What a subject must wear for a class to make sense: ``{"hat": True}`` and the like."""
    return {2: {"hat": True}, 12: {"long_hair": True}, 13: {"tie": True}}.get(label, {})
