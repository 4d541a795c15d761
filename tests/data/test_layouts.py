"""migcore.data.layouts: layouts check themselves, mirrors are involutions, columns are where they should be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import quick

from migcore.data.layouts import (
    COCO17,
    IMIGUE22,
    IMIGUE22_MIGA2023,
    OPENPOSE35,
    OPENPOSE137,
    ColumnMap,
    SkeletonLayout,
    column_map,
    fitting_column_map,
    imigue22,
    layout,
)
from migcore.errors import ConfigError

CONFORMANCE = Path(__file__).parents[1] / "conformance"
NAMES = ["imigue22", "imigue22_mmn", "imigue22_miga2023", "coco17"]


@pytest.mark.parametrize("name", NAMES)
def test_mirrors_of_joints_and_bones_are_involutions(name: str) -> None:
    skeleton = layout(name)
    assert skeleton.name == name
    for permutation, count in (
        (skeleton.flip_permutation, skeleton.num_joints),
        (skeleton.bone_flip_permutation, skeleton.num_bones),
    ):
        assert sorted(permutation) == list(range(count))
        assert [permutation[p] for p in permutation] == list(range(count))


@pytest.mark.parametrize("name", ["imigue22", "imigue22_mmn", "coco17"])
def test_a_mirrored_bone_joins_the_mirrored_joints(name: str) -> None:
    skeleton = layout(name)
    for (a, b), e in zip(skeleton.bones, skeleton.bone_flip_permutation, strict=True):
        assert {skeleton.flip_permutation[a], skeleton.flip_permutation[b]} == set(skeleton.bones[e])


def test_imigue_bones_are_those_of_the_heat_map_vector_and_a_tree() -> None:
    with np.load(CONFORMANCE / "heatmap_m1.npz") as vector:
        limbs = json.loads(str(vector["cfg"]))["limbs"]
    assert [list(bone) for bone in IMIGUE22.bones] == limbs
    for skeleton in (IMIGUE22, imigue22("mmn")):
        reached, grown = {1}, True
        while grown:
            more = {j for bone in skeleton.bones if reached & set(bone) for j in bone} - reached
            reached, grown = reached | more, bool(more)
        assert len(reached) == 22 and skeleton.num_bones == 21


def test_fingers_are_an_option() -> None:
    assert (7, 12) in IMIGUE22.bones and (4, 12) in imigue22("mmn").bones
    assert imigue22("mmn").flip_pairs == IMIGUE22.flip_pairs
    with pytest.raises(ConfigError, match="toes"):
        imigue22("toes")


def test_the_published_layout_repeats_the_published_mistakes() -> None:
    names, swap = IMIGUE22_MIGA2023.joints, IMIGUE22_MIGA2023.flip_permutation
    for a, b in (("Neck", "ShoulderLeft"), ("ElbowLeft", "HandLeft"), ("HandRight", "EyeLeft"), ("Nose", "Nose")):
        assert swap[names.index(a)] == names.index(b)
    for a, b in (("HandLeft", "ShoulderRight"), ("ShoulderLeft", "ElbowRight"), ("EyeLeft", "LeftFinger3")):
        assert (names.index(a), names.index(b)) in IMIGUE22_MIGA2023.bones
    assert IMIGUE22_MIGA2023.num_bones == 21
    mirrored = {frozenset((swap[a], swap[b])) for a, b in IMIGUE22_MIGA2023.bones}
    assert mirrored != {frozenset(bone) for bone in IMIGUE22_MIGA2023.bones}


def test_coco_limbs_swap_as_in_the_published_config() -> None:
    left, right = (0, 2, 3, 6, 7, 8, 12, 14), (1, 4, 5, 9, 10, 11, 13, 15)
    swap = COCO17.bone_flip_permutation
    assert [swap[e] for e in left] == list(right)
    assert swap[16] == 16
    assert COCO17.joints[9] == "left_wrist" and COCO17.joints[16] == "right_ankle"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joints": ("a", "a", "b")}, "names a keypoint twice"),
        ({"bones": ((0, 3),)}, "bone \\(0, 3\\)"),
        ({"bones": ((-1, 0),)}, "bone \\(-1, 0\\)"),
        ({"bones": ((1, 1),)}, "to itself"),
        ({"bones": ((0, 1), (0, 2), (1, 0))}, "a bone twice"),
        ({"bones": ((0, 1),)}, "not its mirror \\(0, 2\\)"),
        ({"flip_pairs": ((1, 2), (2, 0))}, "\\[2\\] in more than one"),
        ({"flip_pairs": ((1, 1),)}, "to itself"),
        ({"flip_pairs": ((1, 9),)}, "flip pair \\(1, 9\\)"),
    ],
)
def test_a_wrong_layout_cannot_be_made(change: dict, message: str) -> None:
    right = {"name": "x", "joints": ("a", "b", "c"), "bones": ((0, 1), (0, 2)), "flip_pairs": ((1, 2),)}
    SkeletonLayout(**right)
    with pytest.raises(ConfigError, match=message):
        SkeletonLayout(**{**right, **change})


@quick
@given(st.permutations(range(12)), st.integers(1, 6), st.data())
def test_any_layout_closed_under_its_mirror_is_accepted(order: list[int], pairs: int, data: st.DataObject) -> None:
    flip_pairs = tuple((order[2 * i], order[2 * i + 1]) for i in range(pairs))
    mirror = list(range(12))
    for a, b in flip_pairs:
        mirror[a], mirror[b] = b, a
    edges = data.draw(st.sets(st.frozensets(st.integers(0, 11), min_size=2, max_size=2), min_size=1))
    edges |= {frozenset(mirror[j] for j in edge) for edge in edges}
    bones = tuple((min(edge), max(edge)) for edge in edges)
    skeleton = SkeletonLayout("any", tuple(map(str, range(12))), bones, flip_pairs)
    assert skeleton.flip_permutation == mirror
    assert sorted(skeleton.bone_flip_permutation) == list(range(len(bones)))


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"stick.*imigue22.*coco17"):
        layout("stick")
    with pytest.raises(ConfigError, match=r"stick.*openpose35, openpose137"):
        column_map("stick")


def test_column_maps_pick_the_points_that_the_facts_name() -> None:
    assert (column_map("openpose35"), column_map("openpose137")) == (OPENPOSE35, OPENPOSE137)
    assert (OPENPOSE35.columns, OPENPOSE137.columns) == (106, 412)
    points35, points137 = ([(c - 1) // 3 for c in m.joints] for m in (OPENPOSE35, OPENPOSE137))
    assert points35 == [0, 1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 18, *range(25, 35)]
    assert points137[:12] == points35[:12]
    assert points137[12:17] == [95 + t for t in (4, 8, 12, 16, 20)]
    assert points137[17:] == [116 + t for t in (4, 8, 12, 16, 20)]
    assert fitting_column_map(412) is OPENPOSE137 and fitting_column_map(7) is None


@pytest.mark.parametrize("joints", [(0, 5), (-1,), (0, 2)])
def test_a_wrong_column_map_cannot_be_made(joints: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        ColumnMap("x", 7, joints)
