"""The 32 classes of iMiGUE: names, wordings, body-part groups, counts, and the prompts made from them.

A class is an integer 0..31 everywhere in migcore. Label files hold raw ids 1..32, or 99 for *illustrative*
(:func:`from_raw_id`). Names are those of the MiGA challenge's label list; ``wording`` is that of the data set's own
figure, which differs where the list is loose (class 3 is "touch face" in the list, *head* in the figure).

Prompts follow Open-VCLIP and FROSTER: 28 templates of the class name, each followed by the full "name: description",
and as a 29th the full string alone. FROSTER's descriptions come from a language model; ours are written by hand and
say only what can be seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from migcore.errors import ConfigError, DataError


@dataclass(frozen=True)
class Gesture:
    """One class of iMiGUE.

    Attributes:
        id: 0-based label.
        name: text of the MiGA 2023 label list.
        wording: text of the data set's figure.
        group: body part: "head", "head-hand", "body-hand", "body", "hand" or "none" (illustrative).
        n_train: clips of the class in the challenge's training split.
        n_val: clips of the class in the challenge's validation split.
        description: what is seen, the second half of the prompt.
    """

    id: int
    name: str
    wording: str
    group: str
    n_train: int
    n_val: int
    description: str

    @property
    def prompt(self) -> str:
        """FROSTER's "Name: description"."""
        return f"{self.name.capitalize()}: {self.description}"


_ROWS: list[tuple[str, str, str, int, int, str]] = [
    ("turtle neck", "Turtle neck", "head", 10, 0, "the chin goes down, the shoulders go up and the neck is short"),
    ("deep breath", "Bulging face, deep breath", "head", 393, 25, "the cheeks are puffed and the chest is wide"),
    ("touch hat", "Touching hat", "head-hand", 38, 1, "a hand at the hat"),
    ("touch face", "Touching or scratching head", "head-hand", 199, 8, "a hand on top of the head, on the hair"),
    ("touch forehead", "Touching or scratching forehead", "head-hand", 80, 0, "a hand at the forehead"),
    ("cover face", "Covering face", "head-hand", 23, 0, "the face behind both hands"),
    ("rub eyes", "Rubbing eyes", "head-hand", 57, 7, "a hand at an eye"),
    (
        "touch other face part",
        "Touching or scratching facial parts",
        "head-hand",
        824,
        34,
        "a hand at the nose or at a cheek",
    ),
    ("touch ears", "Touching ears", "head-hand", 80, 7, "a hand at an ear"),
    ("bite nails", "Biting nails", "head-hand", 3, 0, "the fingers at the mouth"),
    ("touch chin", "Touching jaw", "head-hand", 284, 18, "a hand at the chin"),
    ("touch neck", "Touching or scratching neck", "body-hand", 137, 17, "a hand at the side of the neck"),
    ("play hair", "Playing or adjusting hair", "body-hand", 97, 0, "a hand in long hair beside the face"),
    ("adjust tie", "Buckle button, pulling shirt collar, adjusting tie", "body-hand", 41, 0, "a hand at the tie"),
    (
        "touch chest",
        "Touching or covering suprasternal notch",
        "body-hand",
        26,
        2,
        "a flat hand on the chest below the throat",
    ),
    ("scratch back", "Scratching back", "body-hand", 24, 3, "a hand behind a shoulder, the elbow is high"),
    ("fold arm", "Folding arms", "body-hand", 304, 18, "both arms are crossed over the chest"),
    ("tidy sleeve", "Dusting off clothes", "body-hand", 82, 1, "a hand at the other sleeve near the wrist"),
    ("put arm back", "Putting arms behind body", "body-hand", 1, 1, "both hands are hidden behind the back"),
    ("move torso", "Moving torso", "body", 887, 55, "the body leans to one side"),
    ("sit straight", "Sitting straight", "body", 157, 13, "the body is upright and tall"),
    ("scratch arm", "Scratching or touching arms", "hand", 360, 13, "a hand on the other upper arm"),
    ("rub hand", "Rubbing or holding hands", "hand", 656, 1, "one hand over the other hand, flat"),
    ("cross finger", "Crossing fingers", "hand", 690, 10, "the fingers of both hands are interlaced"),
    ("minaret hand", "Minaret gesture", "hand", 11, 0, "the finger tips of both hands meet and point up"),
    ("play things", "Playing or manipulating objects", "hand", 280, 7, "a hand holds a pen"),
    ("withdraw arms", "Hold back arms", "hand", 84, 3, "both hands are pulled back to the sides, off the table"),
    ("head up", "Head up", "head", 60, 0, "the face is turned upward"),
    ("bit lip", "Pressing lips", "head", 1155, 82, "the lips are pressed together, thin"),
    ("arm akimbo", "Arms akimbo", "hand", 6, 0, "both hands on the hips, the elbows are far out"),
    ("shake shoulder", "Shaking shoulders", "body", 2079, 193, "one shoulder or both are raised"),
    ("illustrative", "Illustrative body language", "none", 3765, 258, "the open hands are in the air"),
]

CLASSES: tuple[Gesture, ...] = tuple(
    Gesture(i, name, wording, group, n_train, n_val, description)
    for i, (name, wording, group, n_train, n_val, description) in enumerate(_ROWS)
)
"""The 32 classes, in label order."""

NUM_CLASSES = len(CLASSES)
ILLUSTRATIVE = 31
"""Label of the one class that is no micro-gesture."""
GROUPS = ("head", "head-hand", "body-hand", "body", "hand", "none")

TEMPLATES: tuple[str, ...] = tuple(
    f"a {noun} {tail}"
    for noun in ("photo", "video", "example", "demonstration")
    for tail in (
        "of {}.",
        "of a person {}.",
        "of a person using {}.",
        "of a person doing {}.",
        "of a person during {}.",
        "of a person performing {}.",
        "of a person practicing {}.",
    )
)
"""Open-VCLIP's 28 templates, subject-major (index = subject · 7 + tail); "a example" is spelt as published."""


def from_raw_id(raw: int) -> int:
    """Label 0..31 of a raw id of a label file.

    Args:
        raw: 1..32, or 99 for *illustrative*.

    Raises:
        DataError: any other number.
    """
    if raw == 99:
        return ILLUSTRATIVE
    if 1 <= raw <= NUM_CLASSES:
        return raw - 1
    raise DataError(f"gesture id {raw} is not one of 1..{NUM_CLASSES} or 99")


def to_raw_id(label: int) -> int:
    """Raw id of a label 0..31 as label files have it: 1..31, and 99 for *illustrative*.

    Raises:
        DataError: the label is not one of 0..31.
    """
    if not 0 <= label < NUM_CLASSES:
        raise DataError(f"label {label} is not one of 0..{NUM_CLASSES - 1}")
    return 99 if label == ILLUSTRATIVE else label + 1


def gesture(name: str) -> Gesture:
    """The class of that name, in either wording, upper or lower case.

    Raises:
        ConfigError: no class has it.
    """
    wanted = name.strip().lower()
    for g in CLASSES:
        if wanted in (g.name, g.wording.lower()):
            return g
    raise ConfigError(
        f"no class is called {name!r}",
        hint="the 32 names are those of the book's first chapter (migcore.labels.CLASSES)",
    )


def prompts(label: str) -> list[str]:
    """The 29 prompts of one class string: each template of its name followed by the string, then the string alone.

    Args:
        label: "Name: description", or a bare name (then name and description are the same, as published).

    Returns:
        29 strings, in FROSTER's order (row 28 is the raw string).
    """
    name = label.split(":", 1)[0]
    return [f"{template.format(name)} {label}" for template in TEMPLATES] + [label]


def class_prompts() -> list[list[str]]:
    """The prompts of all classes, prompt-major: 29 lists of 32 strings."""
    columns = [prompts(g.prompt) for g in CLASSES]
    return [list(row) for row in zip(*columns, strict=True)]
