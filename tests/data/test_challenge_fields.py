"""Fields of the organisers' arrays and label pickles: each is what it should be, or is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_annotations import challenge, dump
from test_fields import NO_NUMBERS

from migcore.data.annotations import read_challenge_arrays
from migcore.errors import DataError


@pytest.mark.parametrize(
    "labels",
    [
        [0, 5, 31],
        (0.0, 5.0, 31.0),
        np.array([0, 5, 31], np.uint8),
        np.array([0.0, 5.0, 31.0]),
        np.array([0, 5, 31], object),
    ],
)
def test_challenge_labels_are_whole_numbers_of_any_type(tmp_path: Path, labels: object) -> None:
    data_npy, label_pkl, _ = challenge(tmp_path)
    arrays = read_challenge_arrays(data_npy, dump(label_pkl, (np.array(["a", "b", "c"]), labels)))
    assert arrays.labels.dtype == np.int64 and arrays.labels.tolist() == [0, 5, 31]
    assert arrays.names == ("a", "b", "c") and {type(name) for name in arrays.names} == {str}


@pytest.mark.parametrize(("value", "words"), NO_NUMBERS)
def test_another_challenge_label_is_told_by_entry(tmp_path: Path, value: object, words: str) -> None:
    data_npy, label_pkl, _ = challenge(tmp_path)
    with pytest.raises(DataError, match=f"row 2: the labels are not whole numbers: .*{words}") as caught:
        read_challenge_arrays(data_npy, dump(label_pkl, (["a", "b", "c"], [0, value, 2])))
    assert caught.value.where == label_pkl


@pytest.mark.parametrize(
    "labels", [np.array([True, False, True]), np.array(["0", "1", "2"]), np.eye(3), [[0], [1], [2]]]
)
def test_arrays_of_no_whole_numbers_are_no_labels(tmp_path: Path, labels: object) -> None:
    data_npy, label_pkl, _ = challenge(tmp_path)
    with pytest.raises(DataError, match="row 1: the labels are not whole numbers"):
        read_challenge_arrays(data_npy, dump(label_pkl, (["a", "b", "c"], labels)))


@pytest.mark.parametrize("name", [7, None, ["b"], b"b", True, "", np.array(["b"])])
def test_a_challenge_name_is_text(tmp_path: Path, name: object) -> None:
    data_npy, label_pkl, _ = challenge(tmp_path)
    with pytest.raises(DataError, match="row 2: the name of a clip is no text: "):
        read_challenge_arrays(data_npy, dump(label_pkl, (["a", name, "c"], [0, 1, 2])))


@pytest.mark.parametrize(
    "content",
    [np.array(3), np.array("ab"), (np.array("abc"), [0, 1, 2]), ("abc", [0, 1, 2]), (["a", "b", "c"], 1),
     ({"a", "b", "c"}, [0, 1, 2]), (["a", "b", "c"], {0: 1, 1: 2, 2: 3}), {"a": 1, "b": 2}, None, "ab"],
)  # fmt: skip
def test_what_is_no_names_and_labels_is_told(tmp_path: Path, content: object) -> None:
    data_npy, label_pkl, _ = challenge(tmp_path)
    with pytest.raises(DataError, match=r"does not hold \(names, labels\)"):
        read_challenge_arrays(data_npy, dump(label_pkl, content))


@pytest.mark.parametrize(("axis", "words"), [(0, "no clips"), (2, "no frames"), (3, "no keypoints"), (4, "no persons")])
def test_a_challenge_array_with_an_empty_axis_is_told(tmp_path: Path, axis: int, words: str) -> None:
    data_npy, label_pkl, data = challenge(tmp_path)
    np.save(data_npy, np.take(data, [], axis=axis))
    dump(label_pkl, ([], []) if axis == 0 else (["a", "b", "c"], [0, 1, 2]))
    with pytest.raises(DataError, match=rf"train_data.npy: holds {words} \({'NCTVM'[axis]} = 0\)"):
        read_challenge_arrays(data_npy, label_pkl)


@pytest.mark.parametrize("dtype", [bool, complex, "U3", "S3", "M8[s]", "i4"])
def test_a_challenge_array_of_another_type_is_told(tmp_path: Path, dtype: str) -> None:
    data_npy, label_pkl, data = challenge(tmp_path)
    np.save(data_npy, np.zeros(data.shape, dtype))
    with pytest.raises(DataError, match="not a float array"):
        read_challenge_arrays(data_npy, label_pkl)


@pytest.mark.parametrize(
    ("value", "padding", "words"),
    [
        (np.nan, np.nan, "has no finite number"),
        (-np.inf, np.nan, "has no finite number"),
        (0, 0, "is empty: all its frames are zero"),
        (np.nan, 0, "holds zeros and numbers that are not finite"),
    ],
)
def test_a_challenge_clip_of_nothing_is_told_by_what_it_holds(
    tmp_path: Path, value: float, padding: float, words: str
) -> None:
    data_npy, label_pkl, data = challenge(tmp_path)
    data[1], data[1, :, 30:] = value, padding
    np.save(data_npy, data)
    with pytest.raises(DataError, match=f"row 2: clip 0005_1 {words}"):
        read_challenge_arrays(data_npy, label_pkl)


def test_a_challenge_number_too_large_is_told(tmp_path: Path) -> None:
    data_npy, label_pkl, data = challenge(tmp_path)
    wide = data.astype(np.float64)
    wide[2, 0, 3, 4, 0] = 1e200
    np.save(data_npy, wide)
    with pytest.raises(DataError, match=r"row 3: the numbers of clip 0005_2 hold 1e\+200, which is too large"):
        read_challenge_arrays(data_npy, label_pkl)


def test_a_missing_challenge_file_is_no_damaged_one(tmp_path: Path) -> None:
    data_npy, label_pkl, _ = challenge(tmp_path)
    data_npy.unlink()
    with pytest.raises(DataError, match=r"train_data.npy: cannot be read \(No such file"):
        read_challenge_arrays(data_npy, label_pkl)


@pytest.mark.parametrize("score", [70.0, 1.11, -0.11, -3.0])
def test_challenge_scores_in_another_unit_are_told(tmp_path: Path, score: float) -> None:
    data_npy, label_pkl, data = challenge(tmp_path)
    data[1, 2, 3, 4, 0] = score
    np.save(data_npy, data)
    with pytest.raises(DataError, match=f"row 2: clip 0005_1 has {score:g} where a score of 0..1 belongs") as caught:
        read_challenge_arrays(data_npy, label_pkl)
    assert caught.value.where == data_npy


def test_challenge_scores_a_little_outside_are_clipped(tmp_path: Path) -> None:
    data_npy, label_pkl, data = challenge(tmp_path)
    data[1, 2, 3, 4, 0], data[1, 2, 3, 5, 0] = 1.09, -0.09
    np.save(data_npy, data)
    np.testing.assert_array_equal(read_challenge_arrays(data_npy, label_pkl).scores[1, 0, 3, 4:6], [1, 0])
