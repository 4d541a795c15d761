"""Captions of studio frames: what can be seen, in words, and never the name or the prompt of a class.

A caption says where the hands are, how head and body are held, what the face does, and now and then what is worn. Facts
are shuffled and some are left out, as in captions people write. The words are plain ("one hand at the chin"), so that a
text encoder trained on them understands the descriptions in the class prompts without having read one.
"""

from __future__ import annotations

import numpy as np

from migcore.studio.rig import Pose
from migcore.studio.subjects import Scene, Subject

#: Where a hand at an anchor is.
PLACES: dict[str, str] = {
    "crown": "on top of the head, on the hair",
    "hat": "at the hat",
    "forehead": "at the forehead",
    "eye": "at an eye",
    "nose": "at the nose",
    "cheek": "at a cheek",
    "mouth": "with finger tips at the mouth",
    "chin": "at the chin",
    "ear": "at an ear",
    "hair": "in long hair beside the face",
    "neck": "at the side of the neck",
    "face": "in front of the face",
    "collar": "at the collar",
    "chest": "flat on the chest below the throat",
    "tie": "at the tie",
    "nape": "behind a shoulder, elbow high",
    "flank": "on the hip, elbow far out",
    "back": "hidden behind the back",
    "fold": "crossed over the chest",
    "steeple": "in front of the chest",
    "air": "open in the air",
    "side": "pulled back to the side, off the table",
    "table": "on the table",
    "middle": "on the table",
    "lap": "in the lap, off the table",
    "upper arm": "on the other upper arm",
    "sleeve": "at the other sleeve near the wrist",
}
OPENINGS = ("", "", "", "a photo of a person, ", "a video of a person, ", "a photo of a speaker, ", "a person with ")
RESTING = ("table", "middle", "lap")


def facts(pose: Pose, frame: int, subject: Subject, scene: Scene) -> tuple[list[str], list[str], list[str]]:
    """What there is to say about a frame: (striking, ordinary, looks).

    Args:
        pose: of the film.
        frame: which frame.
        subject, scene: looks.
    """
    striking: list[str] = []
    ordinary: list[str] = []
    at = [pose.anchors[i] if i >= 0 else None for i in pose.touching[frame]]
    both = at[0] is not None and at[0] == at[1]
    if both and at[0] is not None:
        anchor, detail = at[0]
        words = "both arms" if anchor == "fold" else "both hands"
        said = f"{words} {PLACES[anchor]}".replace("the hip, elbow far out", "the hips, elbows far out")
        said = said.replace("to the side,", "to the sides,")
        (striking if detail or anchor not in RESTING else ordinary).append(said)
        if detail:
            striking.append(f"one hand {detail}" if detail.startswith("flat") else detail)
    else:
        for side, where in enumerate(at):
            if where is None:
                continue
            anchor, detail = where
            name = ("left hand", "right hand")[side]
            (ordinary if anchor in RESTING else striking).append(f"{name} {PLACES[anchor]}")
    k = {name: float(value[frame]) for name, value in pose.curves.items()}
    if k["pen"] > 0.6:
        striking.append("a hand with a pen")
    if k["cheeks"] > 0.6:
        striking.append("cheeks puffed, chest wide")
    if k["lips"] > 0.7:
        striking.append("lips thin, pressed")
    if k["tuck"] > 0.6:
        striking.append("chin down, neck short, shoulders up")
    elif pose.raised[frame].max() > 0.5:
        high = pose.raised[frame] > 0.4
        striking.append("both shoulders raised" if high.all() else f"{('left', 'right')[int(high[1])]} shoulder raised")
    if k["pitch"] > 0.4:
        striking.append("face turned upward")
    elif k["pitch"] < -0.25:
        ordinary.append("face turned down")
    if abs(k["lean"]) > 0.07:
        striking.append(f"body leaning to the {'right' if k['lean'] > 0 else 'left'}")
    if k["stretch"] > 1.055:
        striking.append("body upright and tall")
    if abs(k["yaw"]) > 0.3:
        ordinary.append(f"face turned to the {'right' if k['yaw'] > 0 else 'left'}")
    if k["mouth"] > 0.35:
        ordinary.append("mouth open")
    elif k["lips"] < 0.3:
        ordinary.append("mouth closed")
    if k["blink"] > 0.7:
        ordinary.append("eyes closed")
    looks = [f"{subject.shirt} {'jacket' if subject.jacket else 'shirt'}"]
    if subject.hat:
        looks.append(f"{subject.hat} cap on")
    if subject.tie:
        looks.append(f"{subject.tie} tie worn")
    if subject.glasses:
        looks.append("glasses")
    if subject.beard:
        looks.append("beard")
    if not subject.bald:
        looks.append(f"{'long' if subject.long_hair else 'short'} {subject.hair_name} hair")
    if len(scene.microphones) > 0:
        looks.append("microphones on the table")
    return striking, ordinary, looks


def caption(pose: Pose, frame: int, subject: Subject, scene: Scene, rng: np.random.Generator) -> str:
    """One caption of one frame; ``rng`` chooses order, wording and what is left out."""
    striking, ordinary, looks = facts(pose, frame, subject, scene)
    said = list(striking)
    said += [f for f in ordinary if rng.random() < (0.35 if striking else 0.8)]
    said += [f for f in looks if rng.random() < 0.12]
    if not said:
        said = ordinary[:1] or looks[:1]
    order = rng.permutation(len(said))
    text = ", ".join(said[i] for i in order)
    if rng.random() < 0.4:  # sides are not always worth a word
        text = text.replace("left hand", "one hand").replace("right hand", "one hand")
    return OPENINGS[int(rng.integers(len(OPENINGS)))] + text
