"""Who sits in front of the camera, and where: proportions, clothing, habits, framing, light, sponsor wall.

Everything is drawn from a NumPy generator, so that a subject is the same on every machine. Lengths are in *frame units*
(1 = the height and the width of the square frame), angles in radians, colours are sRGB in [0, 1].

Sides are the viewer's, as in iMiGUE's joint names: side 0 is on the left of the picture (the speaker's right).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]

SKIN: tuple[Colour, ...] = (
    (0.96, 0.82, 0.72),
    (0.91, 0.74, 0.62),
    (0.85, 0.66, 0.52),
    (0.74, 0.54, 0.40),
    (0.58, 0.40, 0.28),
    (0.44, 0.29, 0.20),
)
HAIR: dict[str, Colour] = {
    "black": (0.10, 0.09, 0.09),
    "brown": (0.32, 0.20, 0.12),
    "red": (0.55, 0.26, 0.12),
    "blond": (0.78, 0.62, 0.34),
    "grey": (0.62, 0.62, 0.62),
}
CLOTH: dict[str, Colour] = {
    "white": (0.88, 0.88, 0.86),
    "black": (0.13, 0.13, 0.15),
    "grey": (0.45, 0.46, 0.48),
    "blue": (0.20, 0.34, 0.62),
    "green": (0.22, 0.45, 0.32),
    "red": (0.62, 0.20, 0.20),
    "yellow": (0.80, 0.67, 0.26),
    "purple": (0.40, 0.28, 0.52),
}


@dataclass(frozen=True)
class Subject:
    """One speaker.

    Attributes:
        shoulder: half the shoulder width.
        torso: neck to pelvis.
        neck: neck base to head centre.
        head: half axes (across, down) of the head.
        upper_arm, forearm, hand: lengths; ``hand`` is wrist to middle finger tip.
        girth: thickness factor of limbs and torso.
        skin, hair, hair_name, long_hair, bald, beard, glasses: looks.
        hat, shirt, tie: colour names, "" for none; ``jacket`` has lapels.
        sleeve: share of the arm that is covered (1 = to the wrist, 0.5 = to the elbow).
        handed: side of the preferred hand.
        rest: resting posture of the hands, "apart", "together", "stacked" or "lap".
        tempo: factor on the speed of motions; ``sway``, ``talk``, ``fidget``: how much of each when idle, 0..1.5.
    """

    shoulder: float
    torso: float
    neck: float
    head: tuple[float, float]
    upper_arm: float
    forearm: float
    hand: float
    girth: float
    skin: Colour
    hair_name: str
    long_hair: bool
    bald: bool
    beard: bool
    glasses: bool
    hat: str
    shirt: str
    jacket: bool
    tie: str
    sleeve: float
    handed: int
    rest: str
    tempo: float
    sway: float
    talk: float
    fidget: float


@dataclass(frozen=True)
class Scene:
    """One film set: framing, light, wall and table.

    Attributes:
        zoom: scale of the figure; ``centre`` shift of the figure (x, y).
        tilt: camera roll; ``shake``: amplitude of the camera's motion.
        wall: colour of the wall; ``logo``: colour of the sponsor marks; ``logo_grid``: (columns, rows, size, offset);
            ``blur``: softness of the wall in frame units.
        light: gain per colour channel; ``key``: direction of the light, -1 (left) .. 1 (right); ``dim``: vignette.
        table: colour of the table; ``table_y``: height of its edge (before the camera).
        microphones: positions (x, y of the head) and ``bottle`` x, or NaN for none.
        pen: colour name of the pen on the table, "" for none; ``pen_x`` where it lies.
        noise: standard deviation of the sensor noise.
    """

    zoom: float
    centre: tuple[float, float]
    tilt: float
    shake: float
    wall: Colour
    logo: Colour
    logo_grid: tuple[int, int, float, float]
    blur: float
    light: Colour
    key: float
    dim: float
    table: Colour
    table_y: float
    microphones: tuple[tuple[float, float], ...]
    bottle: float
    pen: str
    pen_x: float
    noise: float


def _jitter(rng: np.random.Generator, colour: Colour, amount: float = 0.05) -> Colour:
    r, g, b = np.clip(np.asarray(colour) + rng.uniform(-amount, amount, 3), 0.03, 0.97)
    return float(r), float(g), float(b)


def draw_subject(
    rng: np.random.Generator, *, hat: bool | None = None, long_hair: bool | None = None, tie: bool | None = None
) -> Subject:
    """A new speaker; ``hat``, ``long_hair`` and ``tie`` fix what is otherwise left to chance.

    Args:
        rng: the only source of randomness.
    """
    size = rng.uniform(0.94, 1.06)
    has_hat = bool(rng.random() < 0.4) if hat is None else hat
    is_long = bool(rng.random() < 0.4) if long_hair is None else long_hair
    has_tie = bool(rng.random() < 0.5) if tie is None else tie
    cloth = list(CLOTH)
    shirt = cloth[int(rng.integers(len(cloth)))]
    return Subject(
        shoulder=0.172 * size * rng.uniform(0.92, 1.08),
        torso=0.50 * rng.uniform(0.97, 1.04),
        neck=0.175 * size * rng.uniform(0.95, 1.07),
        head=(0.084 * size * rng.uniform(0.93, 1.08), 0.112 * size * rng.uniform(0.95, 1.05)),
        upper_arm=0.245 * size,
        forearm=0.225 * size,
        hand=0.112 * size * rng.uniform(0.93, 1.07),
        girth=rng.uniform(0.88, 1.15),
        skin=_jitter(rng, SKIN[int(rng.integers(len(SKIN)))], 0.03),
        hair_name=list(HAIR)[int(rng.integers(len(HAIR)))],
        long_hair=is_long,
        bald=bool(not is_long and rng.random() < 0.12),
        beard=bool(not is_long and rng.random() < 0.3),
        glasses=bool(rng.random() < 0.25),
        hat=cloth[int(rng.integers(len(cloth)))] if has_hat else "",
        shirt=shirt,
        jacket=bool(rng.random() < 0.4),
        tie=[c for c in cloth if c != shirt][int(rng.integers(len(cloth) - 1))] if has_tie else "",
        sleeve=float(rng.choice([0.5, 1.0], p=[0.3, 0.7])),
        handed=int(rng.random() < 0.25),
        rest=str(rng.choice(["apart", "together", "stacked", "lap"], p=[0.35, 0.3, 0.25, 0.1])),
        tempo=rng.uniform(0.85, 1.2),
        sway=rng.uniform(0.4, 1.5),
        talk=rng.uniform(0.3, 1.3),
        fidget=rng.uniform(0.3, 1.4),
    )


def draw_scene(rng: np.random.Generator) -> Scene:
    """A new set.

    Args:
        rng: the only source of randomness.
    """
    base = rng.uniform(0.16, 0.72)
    wall = _jitter(rng, (base, base, base), 0.10)
    contrast = float(rng.choice([-1.0, 1.0])) * rng.uniform(0.10, 0.24)
    logo = _jitter(rng, tuple(c + contrast for c in wall), 0.06)  # type: ignore[arg-type]
    warm = rng.uniform(-0.06, 0.06)
    gain = rng.uniform(0.86, 1.1)
    wood = rng.uniform(0.15, 0.55)
    count = int(rng.integers(0, 4))
    return Scene(
        zoom=rng.uniform(1.08, 1.22),
        centre=(rng.uniform(-0.05, 0.05), rng.uniform(-0.065, -0.025)),
        tilt=rng.uniform(-0.03, 0.03),
        shake=rng.uniform(0.0005, 0.0028),
        wall=wall,
        logo=logo,
        logo_grid=(int(rng.integers(3, 6)), int(rng.integers(4, 8)), rng.uniform(0.25, 0.45), rng.uniform(0.0, 0.5)),
        blur=rng.uniform(0.006, 0.02),
        light=(gain * (1 + warm), gain, gain * (1 - warm)),
        key=rng.uniform(-1, 1),
        dim=rng.uniform(0.0, 0.35),
        table=_jitter(rng, (wood * 1.1, wood, wood * 0.9), 0.05),
        table_y=rng.uniform(0.915, 0.945),
        microphones=tuple((rng.uniform(0.1, 0.9), rng.uniform(0.90, 0.95)) for _ in range(count)),
        bottle=rng.uniform(0.06, 0.2) if rng.random() < 0.4 else float("nan"),
        pen=list(CLOTH)[int(rng.integers(len(CLOTH)))] if rng.random() < 0.5 else "",
        pen_x=rng.uniform(0.25, 0.75),
        noise=rng.uniform(0.004, 0.012),
    )
