"""Skeletons by name: keypoints, bones, left-right pairs, and where a CSV keeps them (section 2.1 of the paper).

V keypoints, E bones. Notable choices:
* A layout checks itself: a wrong pair or bone is an error when it is made, not a model that learns less.
* Sides are named as iMiGUE names them, by the viewer: "Left" is the speaker's right.
* The 2023 winner's mis-indexed layout is kept under a name of its own, to load and to compare with what it published.
"""

from __future__ import annotations

from dataclasses import dataclass

from migcore.errors import ConfigError

Pairs = tuple[tuple[int, int], ...]


def _involution(pairs: Pairs, count: int) -> list[int]:
    """Permutation of 0..count-1 that swaps each pair and keeps the rest."""
    permutation = list(range(count))
    for a, b in pairs:
        permutation[a], permutation[b] = b, a
    return permutation


@dataclass(frozen=True)
class SkeletonLayout:
    """A skeleton: what its V keypoints and E bones are and how a mirror swaps them.

    Attributes:
        name: what :func:`layout` finds it by.
        joints: V names, all different.
        bones: E pairs (a, b) of keypoint numbers; one limb channel each, drawn from a to b.
        flip_pairs: (left, right) keypoint numbers, each keypoint at most once.
        published: the layout repeats published mistakes: its bones need not be closed under the flip.

    Raises:
        ConfigError: a number is out of range, a keypoint is in two pairs, a bone joins a keypoint to itself or comes
            twice, or the mirror of a bone is no bone.
    """

    name: str
    joints: tuple[str, ...]
    bones: Pairs
    flip_pairs: Pairs
    published: bool = False

    def __post_init__(self) -> None:
        if len(set(self.joints)) != len(self.joints):
            raise ConfigError(f"layout {self.name!r} names a keypoint twice")
        for what, pairs in (("bone", self.bones), ("flip pair", self.flip_pairs)):
            for a, b in pairs:
                if not (0 <= a < self.num_joints and 0 <= b < self.num_joints):
                    raise ConfigError(
                        f"layout {self.name!r} has {what} ({a}, {b}), but keypoints 0..{self.num_joints - 1}",
                        hint="Keypoints are counted from 0",
                    )
                if a == b:
                    raise ConfigError(f"layout {self.name!r} has {what} ({a}, {b}) from a keypoint to itself")
        paired = [j for pair in self.flip_pairs for j in pair]
        if len(set(paired)) != len(paired):
            twice = sorted({j for j in paired if paired.count(j) > 1})
            raise ConfigError(f"layout {self.name!r} has keypoints {twice} in more than one flip pair")
        edges = {frozenset(bone) for bone in self.bones}
        if len(edges) != self.num_bones:
            raise ConfigError(f"layout {self.name!r} has a bone twice")
        if not self.published:
            mirror = self.flip_permutation
            for a, b in self.bones:
                if frozenset((mirror[a], mirror[b])) not in edges:
                    raise ConfigError(
                        f"layout {self.name!r} has bone ({a}, {b}), but not its mirror ({mirror[a]}, {mirror[b]})",
                        hint="The bones of a layout are closed under its flip pairs",
                    )

    @property
    def num_joints(self) -> int:
        """V."""
        return len(self.joints)

    @property
    def num_bones(self) -> int:
        """E."""
        return len(self.bones)

    @property
    def flip_permutation(self) -> list[int]:
        """V numbers: keypoint v of the mirrored skeleton is keypoint ``flip_permutation[v]`` of the original."""
        return _involution(self.flip_pairs, self.num_joints)

    @property
    def bone_flip_permutation(self) -> list[int]:
        """E numbers, the same for limb channels: which bone each becomes in the mirror.

        A published layout swaps limb channels by its keypoint pairs, as its test-time flip did.
        """
        if self.published:
            return _involution(tuple(p for p in self.flip_pairs if max(p) < self.num_bones), self.num_bones)
        where = {frozenset(bone): e for e, bone in enumerate(self.bones)}
        mirror = self.flip_permutation
        return [where[frozenset((mirror[a], mirror[b]))] for a, b in self.bones]


_IMIGUE_JOINTS = (
    *("Nose", "Neck", "ShoulderLeft", "ElbowLeft", "HandLeft", "ShoulderRight", "ElbowRight", "HandRight"),
    *("EyeLeft", "EyeRight", "EarLeft", "EarRight"),
    *(f"RightFinger{i}" for i in range(1, 6)),
    *(f"LeftFinger{i}" for i in range(1, 6)),
)
_IMIGUE_BODY = ((1, 0), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (0, 8), (8, 10), (0, 9), (9, 11))
_IMIGUE_FLIP = ((2, 5), (3, 6), (4, 7), (8, 9), (10, 11), (12, 17), (13, 18), (14, 19), (15, 20), (16, 21))


def imigue22(fingers: str = "organisers") -> SkeletonLayout:
    """iMiGUE's 22 keypoints, listed at :data:`IMIGUE22`, and the tree of 21 bones over them.

    Public sources disagree on the hand that keypoints 12–16 ("RightFinger") belong to; the flip pairs are the same.

    Args:
        fingers: "organisers" (their drawing code: 12–16 on HandRight, 17–21 on HandLeft) or "mmn" (the other way).

    Raises:
        ConfigError: any other word.
    """
    wrists = {"organisers": (7, 4), "mmn": (4, 7)}
    if fingers not in wrists:
        raise ConfigError(f"fingers={fingers!r} is not one of {sorted(wrists)}")
    first, second = wrists[fingers]
    bones = (*_IMIGUE_BODY, *((first, v) for v in range(12, 17)), *((second, v) for v in range(17, 22)))
    return SkeletonLayout(
        "imigue22" if fingers == "organisers" else "imigue22_mmn", _IMIGUE_JOINTS, bones, _IMIGUE_FLIP
    )


IMIGUE22 = imigue22()
"""iMiGUE's skeleton with fingers on the wrists of the organisers' drawing code. Its keypoints by number:

0 Nose, 1 Neck, 2 ShoulderLeft, 3 ElbowLeft, 4 HandLeft, 5 ShoulderRight, 6 ElbowRight, 7 HandRight, 8 EyeLeft,
9 EyeRight, 10 EarLeft, 11 EarRight, 12 to 16 RightFinger1 to RightFinger5, 17 to 21 LeftFinger1 to LeftFinger5.
"""

IMIGUE22_MIGA2023 = SkeletonLayout(
    name="imigue22_miga2023",
    joints=_IMIGUE_JOINTS,
    # 1-based body edges read as 0-based: nothing touches the nose, hands hang on shoulders and fingers on an eye.
    bones=(
        *((1, 2), (1, 9), (1, 10), (2, 3), (2, 6), (3, 4), (4, 5)),
        *((5, v) for v in range(12, 17)),
        *((6, 7), (7, 8)),
        *((8, v) for v in range(17, 22)),
        *((9, 11), (10, 11)),
    ),
    # COCO's odd and even numbers stretched over 1..20: Neck swaps with ShoulderLeft, HandRight with EyeLeft.
    flip_pairs=tuple((v, v + 1) for v in range(1, 20, 2)),
    published=True,
)
"""The mis-indexed skeleton of the organisers' baseline and of the 2023 winner, for comparison only.

The 21 edges are the baseline's. The winner's limb model has 22 channels; the pair of its last channel and their order
are not established, so its limb weights do not fit this layout (joint weights do).
"""

COCO17 = SkeletonLayout(
    name="coco17",
    joints=(
        "nose",
        *(f"{side}_{part}" for part in ("eye", "ear", "shoulder", "elbow", "wrist") for side in ("left", "right")),
        *(f"{side}_{part}" for part in ("hip", "knee", "ankle") for side in ("left", "right")),
    ),
    bones=(
        *((0, 5), (0, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (11, 13), (13, 15), (6, 12), (12, 14), (14, 16)),
        *((0, 1), (0, 2), (1, 3), (2, 4), (11, 12)),
    ),
    flip_pairs=tuple((v, v + 1) for v in range(1, 17, 2)),
)
"""COCO's 17 keypoints with the 17 limbs of pyskl's PoseC3D configs."""

_LAYOUTS = {each.name: each for each in (IMIGUE22, imigue22("mmn"), IMIGUE22_MIGA2023, COCO17)}


def layout(name: str) -> SkeletonLayout:
    """The layout of that name: imigue22, imigue22_mmn (fingers on the other wrists), imigue22_miga2023 or coco17.

    Raises:
        ConfigError: there is none.
    """
    if name not in _LAYOUTS:
        raise ConfigError(f"no skeleton layout is called {name!r}", hint=f"Known are {', '.join(_LAYOUTS)}")
    return _LAYOUTS[name]


@dataclass(frozen=True)
class ColumnMap:
    """Where the rows of a skeleton CSV (one per frame) keep the keypoints of a layout.

    Attributes:
        name: what :func:`column_map` finds it by.
        columns: columns a row must have.
        joints: V columns, counted from 0, of a keypoint's x; y and score are the next two.

    Raises:
        ConfigError: a keypoint lies outside the row, or two share a column.
    """

    name: str
    columns: int
    joints: tuple[int, ...]

    def __post_init__(self) -> None:
        outside = [c for c in self.joints if not 0 <= c <= self.columns - 3]
        if outside:
            raise ConfigError(f"column map {self.name!r} of {self.columns} columns has keypoints at columns {outside}")
        taken = {c + i for c in self.joints for i in range(3)}
        if len(taken) != 3 * len(self.joints):
            raise ConfigError(f"column map {self.name!r} has keypoints that share a column")


def _after_one(points: tuple[int, ...]) -> tuple[int, ...]:
    """Columns of x of these points when a row is one number and then (x, y, score) of each."""
    return tuple(1 + 3 * p for p in points)


_BODY = (0, 1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 18)  # of OpenPose's BODY_25: nose to wrists, eyes, ears
_TIPS = (4, 8, 12, 16, 20)  # of OpenPose's 21 hand points: thumb to little finger

OPENPOSE35 = ColumnMap("openpose35", 1 + 35 * 3, _after_one((*_BODY, *range(25, 30), *range(30, 35))))
"""``NNNN_light_hand.csv``: a skipped column, then BODY_25, five RightFingers, five LeftFingers; 106 columns."""

OPENPOSE137 = ColumnMap(
    "openpose137", 1 + 137 * 3, _after_one((*_BODY, *(95 + t for t in _TIPS), *(116 + t for t in _TIPS)))
)
"""OpenPose's full set: a skipped column, then 25 body, 70 face, 21 left-hand, 21 right-hand points; 412 columns.

Assumed, as no public file shows it: the order of OpenPose's own JSON, finger tips for fingers, and, since iMiGUE names
sides by the viewer, the speaker's left hand for RightFinger1–5 (the side of the organisers' drawing code).
"""

_COLUMN_MAPS = {each.name: each for each in (OPENPOSE35, OPENPOSE137)}


def column_map(name: str) -> ColumnMap:
    """The column map of that name: openpose35 or openpose137.

    Raises:
        ConfigError: there is none.
    """
    if name not in _COLUMN_MAPS:
        raise ConfigError(f"no column map is called {name!r}", hint=f"Known are {', '.join(_COLUMN_MAPS)}")
    return _COLUMN_MAPS[name]


def fitting_column_map(columns: int) -> ColumnMap | None:
    """The built-in column map of rows with that many columns, if there is one."""
    return next((each for each in _COLUMN_MAPS.values() if each.columns == columns), None)
