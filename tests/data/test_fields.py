"""Fields of pyskl's pickles: each is what it should be, or is told (migcore.data.fields and entries)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_annotations import annotation, dump, pyskl

from migcore.data import fields
from migcore.data.annotations import read_pyskl, restricted_load
from migcore.data.datasets import SkeletonClips, SkeletonConfig
from migcore.errors import DataError

SHAPE = (2, 5, 17)


def points(value: float = 3.0, axes: tuple[int, ...] = SHAPE, dtype: Any = np.float32) -> np.ndarray:
    return np.full((*axes, 2), value, dtype)


def objects(entries: list) -> np.ndarray:
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    return array


@pytest.mark.parametrize(
    ("label", "found"),
    [
        (7, 7),
        (np.int64(7), 7),
        (np.uint8(7), 7),
        (np.array(7), 7),
        (7.0, 7),
        (np.float32(7), 7),
        (-1, -1),
        (4000, 4000),
    ],
)
def test_a_whole_number_of_any_type_is_a_label(tmp_path: Path, label: object, found: int) -> None:
    (clip,) = read_pyskl(pyskl(tmp_path, annotation("a", label=label)))
    assert clip["label"] == found and type(clip["label"]) is int


NO_NUMBERS = [
    (0.7, "0.7"), (True, "True"), (np.bool_(False), "False"), ("3", "the text '3'"), (np.str_("3"), "the text '3'"),
    (b"3", "bytes"), (float("nan"), "nan"), (np.float32("inf"), "inf"), (3j, "3j"), ([3], "a list"),
    ({"a": 3}, "a dict"), (np.array([3]), r"an array of shape \(1,\)"), (10**30, "beyond 64 bits"), (1e30, r"1e\+30"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "words"), NO_NUMBERS)
@pytest.mark.parametrize("field", ["label", "total_frames"])
def test_what_is_no_whole_number_is_told_and_not_made_one(
    tmp_path: Path, field: str, value: object, words: str
) -> None:
    with pytest.raises(DataError, match=f"{field} of 'a' is no whole number: .*{words}") as caught:
        read_pyskl(pyskl(tmp_path, annotation("ok"), annotation("a", **{field: value})))
    assert caught.value.row == 2 and caught.value.hint


def test_none_is_no_number_and_a_field_left_out_is_unknown(tmp_path: Path) -> None:
    for field in ("label", "total_frames", "keypoint_score"):
        with pytest.raises(DataError, match=r"row 1: .*None"):
            read_pyskl(pyskl(tmp_path, {**annotation("a"), field: None}))
    entry = annotation("a", label=None, total_frames=None, keypoint_score=None, img_shape=None)
    (clip,) = read_pyskl(pyskl(tmp_path, entry))
    assert (clip["label"], clip["total_frames"], clip["img_shape"]) == (-1, 5, None)
    assert read_pyskl(pyskl(tmp_path, {**entry, "img_shape": None}))[0]["img_shape"] is None


def test_labels_below_minus_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 1: the label of 'a' is -5\. Labels count from 0"):
        read_pyskl(pyskl(tmp_path, annotation("a", label=-5)))


@pytest.mark.parametrize(
    "shape", [(90, 160), [90, 160], np.array([90, 160]), np.array([90.0, 160.0]), (np.int32(90), np.array(160))]
)
def test_img_shape_is_two_whole_numbers_in_any_container(tmp_path: Path, shape: object) -> None:
    (clip,) = read_pyskl(pyskl(tmp_path, annotation("a", img_shape=shape)))
    assert clip["img_shape"] == (90, 160) and [type(size) for size in clip["img_shape"]] == [int, int]


@pytest.mark.parametrize(
    "shape",
    [
        (90,), 90, "90x160", "90", b"90", (), (90, 160, 3), (90.5, 160), ("90", "160"), (True, 160), (0, 160), (90, -1),
        (np.nan, 1), [[90, 160]], {90, 160}, {"h": 90, "w": 160}, np.array(90), np.zeros((2, 2), int), (None, None),
    ],
)  # fmt: skip
def test_another_img_shape_is_told(tmp_path: Path, shape: object) -> None:
    with pytest.raises(DataError, match=r"img_shape of 'a' is not \(height, width\)") as caught:
        read_pyskl(pyskl(tmp_path, annotation("ok"), annotation("a", img_shape=shape)))
    assert caught.value.row == 2 and "(1080, 1920)" in str(caught.value.hint)


@pytest.mark.parametrize("field", ["frame_dir", "filename"])
@pytest.mark.parametrize("name", [3, b"a", ["a"], ("a",), True, "", " ", np.str_(""), np.array(["a"]), "\ud800", 0.5])
def test_an_id_is_text(tmp_path: Path, field: str, name: object) -> None:
    with pytest.raises(DataError, match=f"row 2: {field} is no text: "):
        read_pyskl(pyskl(tmp_path, annotation("ok"), annotation("a", **{field: name})))


def test_an_id_of_numpy_becomes_text(tmp_path: Path) -> None:
    clips = read_pyskl(pyskl(tmp_path, annotation("", frame_dir=np.str_("a")), annotation("", frame_dir=np.array("b"))))
    assert [(clip["id"], type(clip["id"])) for clip in clips] == [("a", str), ("b", str)]


@pytest.mark.parametrize(
    "given",
    [
        points(dtype=np.float16), points(dtype=np.float64), points(dtype=np.uint16), points(dtype=np.int64),
        points(dtype=np.longdouble), points().tolist(), tuple(map(tuple, points().tolist())), list(points()),
        objects(list(points())), points().astype(object), [[[(np.float16(3), 3)] * 17] * 5] * 2,
    ],
)  # fmt: skip
def test_keypoints_are_real_numbers_in_arrays_or_lists(tmp_path: Path, given: object) -> None:
    (clip,) = read_pyskl(pyskl(tmp_path, annotation("a", keypoint=given)))
    assert clip["keypoint"].dtype == np.float32
    np.testing.assert_array_equal(clip["keypoint"], points())


def one_other(value: object) -> list:
    nested = points().tolist()
    nested[1][4][16][1] = value
    return nested


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (points().astype(bool), "true and false"), (points().astype(complex), "complex numbers"),
        (points().astype(str), "text"), (points().astype("S3"), "bytes"), (one_other("3"), "the text '3'"),
        (one_other(True), "True"), (one_other(3j), "3j"), (one_other(None), "None"), (one_other(b"3"), "bytes"),
        (one_other({}), "a dict"), (one_other(np.array("3")), "the text '3'"),
        (objects(one_other("3")), "the text '3'"), ("text", "the text 'text'"), ({"x": 1}, "a dict"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("field", ["keypoint", "keypoint_score"])
def test_what_is_no_real_number_is_told_and_not_made_one(tmp_path: Path, field: str, given: object, words: str) -> None:
    what = {"keypoint": "keypoints", "keypoint_score": "scores"}[field]
    with pytest.raises(DataError, match=f"row 2: {what} of 'a' are not numbers: they hold {words}"):
        read_pyskl(pyskl(tmp_path, annotation("ok"), annotation("a", **{field: given})))


def test_lists_of_different_lengths_are_called_so(tmp_path: Path) -> None:
    short = points().tolist()
    short[1][4].pop()
    arrays = objects([points(axes=(5, 17)), points(axes=(4, 17))])
    for given in (short, arrays, one_other([1.0]), [points()[0].tolist(), 3.0]):
        with pytest.raises(DataError, match="row 1: keypoints of 'a' are not a regular array: lists within differ"):
            read_pyskl(pyskl(tmp_path, annotation("a", keypoint=given)))


def test_lists_that_hold_themselves_and_huge_numbers_end_soon(tmp_path: Path) -> None:
    loop: list = []
    loop += [loop, loop]
    with pytest.raises(DataError, match="more than 5 deep"):
        read_pyskl(pyskl(tmp_path, annotation("a", keypoint=loop)))
    for value, words in ((10**400, "more than 300 digits"), (1e300, r"1e\+300, which is too large")):
        with pytest.raises(DataError, match=f"keypoints of 'a' hold .*{words}"):
            read_pyskl(pyskl(tmp_path, annotation("a", keypoint=one_other(value))))


def empty(*axes: int) -> dict[str, object]:
    return {"keypoint": np.zeros((*axes, 2)), "keypoint_score": np.zeros(axes)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (empty(0, 5, 17), r"nobody was found in 'a' \(M = 0\)"),
        ({"keypoint": [], "keypoint_score": None}, r"nobody was found in 'a' \(M = 0\)"),
        ({**empty(2, 0, 17), "total_frames": 10}, r"'a' has no frames \(T = 0\): its total_frames says 10"),
        ({**empty(2, 0, 17), "total_frames": None}, r"'a' has no frames \(T = 0\)\."),
        (empty(2, 5, 0), r"'a' has no keypoints \(V = 0\)"),
        ({"total_frames": -5}, "'a' says -5 frames and has 5"),
        ({"keypoint": np.zeros((5, 17, 2))}, r"keypoints \(5, 17, 2\) .*keypoint\[None\]"),
        ({"keypoint": np.zeros((2, 5, 17, 3))}, r"keypoints \(2, 5, 17, 3\) .*move it to keypoint_score"),
        ({"keypoint_score": np.zeros((2, 5, 17, 1))}, r"scores \(2, 5, 17, 1\), .*a score per keypoint"),
        ({"keypoint": points(np.nan)}, "'a' has no point of finite numbers"),
        ({"keypoint_score": np.full(SHAPE, np.inf)}, "'a' has no point of finite numbers"),
    ],
)
def test_empty_and_oddly_shaped_clips_have_words_of_their_own(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_pyskl(pyskl(tmp_path, annotation("ok"), annotation("a", **changes)))
    assert (caught.value.row, caught.value.where) == (2, tmp_path / "ntu.pkl") and caught.value.hint


def test_a_person_or_a_point_that_is_not_finite_is_missing(tmp_path: Path) -> None:
    keypoints = points()
    keypoints[1], keypoints[0, 2, 3, 1] = np.nan, np.inf
    (clip,) = read_pyskl(pyskl(tmp_path, annotation("a", keypoint=keypoints, keypoint_score=np.ones(SHAPE))))
    assert np.isfinite(clip["keypoint"]).all() and clip["keypoint_score"].sum() == 5 * 17 - 1
    assert not clip["keypoint"][1].any() and not clip["keypoint"][0, 2, 3].any()


@pytest.mark.parametrize("scale", [70.0, 1.11, -0.11, -3.0])
def test_scores_in_another_unit_are_told(tmp_path: Path, scale: float) -> None:
    scores = np.full(SHAPE, 0.5)
    scores[1, 3, 2] = scale
    with pytest.raises(DataError, match=f"row 2: 'a' has {scale:g} where a score of 0..1 belongs"):
        read_pyskl(pyskl(tmp_path, annotation("ok"), annotation("a", keypoint_score=scores)))


def test_scores_a_little_outside_are_clipped(tmp_path: Path) -> None:
    scores = np.full(SHAPE, 1.09)
    scores[0, 0, 0] = -0.09
    (clip,) = read_pyskl(pyskl(tmp_path, annotation("a", keypoint_score=scores)))
    assert clip["keypoint_score"].max() == 1 and clip["keypoint_score"].min() == 0


def two_clips(tmp_path: Path, split: object) -> Path:
    return pyskl(tmp_path, annotation("a"), annotation("b"), split=split)


@pytest.mark.parametrize(
    "ids",
    [("b", "a"), np.array(["b", "a"]), objects(["b", "a"]), [np.str_("b"), np.array("a")]],
)
def test_a_split_is_a_list_a_tuple_or_an_array_of_ids(tmp_path: Path, ids: object) -> None:
    assert [clip["id"] for clip in read_pyskl(two_clips(tmp_path, {"val": ids}), "val")] == ["b", "a"]


def test_a_set_of_ids_is_sorted(tmp_path: Path) -> None:
    assert [clip["id"] for clip in read_pyskl(two_clips(tmp_path, {"val": {"b", "a"}}), "val")] == ["a", "b"]


@pytest.mark.parametrize(
    ("split", "row", "message"),
    [
        ([["a"]], 1, "split 'val' lists an id that is no text: a list"),
        (["a", 3], 2, "split 'val' lists an id that is no text: 3"),
        (["a", None], 2, "no text: None"),
        (np.array([["a"], ["b"]]), 1, "no text: an array"),
        (np.array([b"a"]), 1, "no text: bytes"),
        (["a", "b", "a"], 3, "split 'val' lists 'a' twice, as entries 1 and 3"),
        (["a", "c"], 2, "split 'val' lists 'c', which has no annotation"),
        ("ab", None, "split 'val' is no list of ids: the text 'ab'"),
        (3, None, "split 'val' is no list of ids: 3"),
        (np.array("a"), None, "split 'val' is no list of ids: the text 'a'"),
        ({"a": 1}, None, "split 'val' is no list of ids: a dict"),
        (None, None, "split 'val' is no list of ids: None"),
    ],
)
def test_other_splits_are_told_by_entry(tmp_path: Path, split: object, row: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_pyskl(two_clips(tmp_path, {"val": split}), "val")
    assert (caught.value.where, caught.value.row) == (tmp_path / "ntu.pkl", row)


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "val"), ("train", "test"), ("xsub_train", "xsub_val"), ("train1", "test1"), ("Training", "validation")],
)
def test_a_clip_that_is_trained_on_and_tested_on_is_told(tmp_path: Path, train: str, test: str) -> None:
    path = two_clips(tmp_path, {train: ["a", "b"], test: ["b"]})
    with pytest.raises(DataError, match=f"row 2: 'b' is in split '{train}' and in split '{test}'"):
        read_pyskl(path, train)
    with pytest.raises(DataError, match=f"row 1: 'b' is in split '{test}' and in split '{train}'"):
        read_pyskl(path, test)
    assert len(read_pyskl(path)) == 2


def test_divisions_of_the_same_clips_stand_beside_each_other(tmp_path: Path) -> None:
    splits = {
        "xsub_train": ["a"], "xsub_val": ["b"], "xview_train": ["b"], "xview_val": ["a"], "train1": ["a"],
        "test2": ["a"], "trainval": ["a", "b"], "train": ["a"], "val": ["b"], "test": ["b"], 3: "no split",
    }  # fmt: skip
    path = two_clips(tmp_path, splits)
    for name in splits:
        if isinstance(name, str):
            assert [clip["id"] for clip in read_pyskl(path, name)] == splits[name]


def test_containers_of_annotations(tmp_path: Path) -> None:
    entries = [annotation("a"), annotation("b")]
    for given in (entries, tuple(entries), objects(entries)):
        path = dump(tmp_path / "a.pkl", {"annotations": given})
        assert [clip["id"] for clip in read_pyskl(path)] == ["a", "b"]
    for given in ({"a": entries[0]}, "ab", np.array("a"), None, 3):
        with pytest.raises(DataError, match="does not hold"):
            read_pyskl(dump(tmp_path / "a.pkl", {"annotations": given}))
    with pytest.raises(DataError, match=r"does not hold .*the list of annotations alone"):
        read_pyskl(dump(tmp_path / "a.pkl", entries))
    with pytest.raises(DataError, match=r"row 2: an annotation needs .* This one has: a list"):
        read_pyskl(dump(tmp_path / "a.pkl", {"annotations": [entries[0], [1]]}))
    with pytest.raises(DataError, match=r"row 1: an annotation needs .* This one has: frame_dir, keypoints"):
        read_pyskl(dump(tmp_path / "a.pkl", {"annotations": [{"frame_dir": "a", "keypoints": points(), 3: 4}]}))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (Path("x"), "it asks for pathlib"),
        (np.ma.zeros(2), "it asks for numpy.ma"),
        ({"dtype": np.dtype("f4")}, "it holds a numpy.dtype"),
        ([set], "it holds builtins.set itself"),
        ({(np.dtype("f4"), 1): 2}, "it holds a numpy.dtype"),
    ],
)
def test_a_refused_pickle_says_what_it_asks_for(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(DataError, match=f"refused: {words}"):
        restricted_load(dump(tmp_path / "a.pkl", content))


def test_an_array_as_a_key_is_refused(tmp_path: Path) -> None:
    """Python writes none; a file can hold one all the same."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    for raw in (b"}" + array + b"K\x01s.", b"\x80\x04\x8f(" + array + b"\x90."):
        (tmp_path / "a.pkl").write_bytes(raw)
        with pytest.raises(DataError, match="refused: an array is a key or in a set"):
            restricted_load(tmp_path / "a.pkl")


def test_a_value_in_words_is_one_short_line() -> None:
    for value in (
        "x" * 9000,
        10**9000,
        [0] * 9000,
        np.zeros(9000),
        {"a": "b" * 900},
        np.array("x" * 900),
        None,
        b"abc",
    ):
        assert 0 < len(fields.shown(value)) < 80


def test_labels_of_clips_in_memory_are_whole_numbers() -> None:
    def clips(label: Any) -> SkeletonClips:
        keypoints = [points(axes=(1, 5, 22))]
        return SkeletonClips.from_arrays(
            ["a"], keypoints, [np.ones((1, 5, 22))], [label], SkeletonConfig(), train=False
        )

    assert clips(np.float64(3)).labels.tolist() == [3]
    for label in (0.7, True, np.bool_(True), "3", None, np.nan):
        with pytest.raises(DataError, match="the label of clip a is no whole number: "):
            clips(label)
