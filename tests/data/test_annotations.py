"""migcore.data.annotations: the organisers' arrays, pyskl's pickles, and pickles that want more than to be read."""

from __future__ import annotations

import collections
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import quick

from migcore.data import annotations
from migcore.data.annotations import read_challenge_arrays, read_pyskl, restricted_load
from migcore.errors import DataError

plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()),
    lambda inner: st.one_of(
        st.lists(inner), st.dictionaries(st.text(), inner), st.tuples(inner, inner), st.sets(st.integers())
    ),
    max_leaves=10,
)


def dump(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@quick
@given(plain, st.integers(0, 5))
def test_plain_content_comes_back(tmp_path: Path, content: object, protocol: int) -> None:
    assert restricted_load(dump(tmp_path / "a.pkl", content, protocol)) == content


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.zeros((0, 3), np.float32),
        np.array(7),
        np.array(["ab", "c"]),
        np.array([b"ab", b"c"]),
        np.arange(4, dtype=">i2"),
        np.array([True, False]),
        np.array(["a", None, 3], dtype=object),
    ],
)
def test_arrays_come_back_in_every_protocol(tmp_path: Path, array: np.ndarray, protocol: int) -> None:
    content = {"in": [array, (array, np.float32(0.5))], "twice": array, "ordered": collections.OrderedDict(a=1)}
    loaded = restricted_load(dump(tmp_path / "a.pkl", content, protocol))
    for found in (loaded["in"][0], loaded["in"][1][0], loaded["twice"]):
        assert type(found) is np.ndarray and found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    assert loaded["in"][1][1] == np.float32(0.5) and loaded["ordered"] == {"a": 1}


def test_arrays_inside_of_arrays_and_lists_that_hold_themselves(tmp_path: Path) -> None:
    nested = np.empty(2, dtype=object)
    nested[:] = [np.arange(3), [np.arange(2)]]
    loaded = restricted_load(dump(tmp_path / "a.pkl", nested))
    np.testing.assert_array_equal(loaded[0], [0, 1, 2])
    np.testing.assert_array_equal(loaded[1][0], [0, 1])
    loop: list = [1]
    loop.append(loop)
    found = restricted_load(dump(tmp_path / "b.pkl", loop))
    assert found[1] is found


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def marker(tmp_path: Path) -> str:
    return f"touch {tmp_path / 'ran'}"


@pytest.mark.parametrize(
    "attack",
    [
        lambda p: Calls(os.system, marker(p)),
        lambda p: [np.arange(3), {"labels": Calls(eval, f"open({str(p / 'ran')!r}, 'w')")}],
        lambda p: Calls(exec, f"open({str(p / 'ran')!r}, 'w')"),
        lambda p: Calls(getattr, os, "system"),
        lambda p: Path("x"),
        lambda p: np.array([Calls(os.system, marker(p))], dtype=object),
        lambda p: os.system,
        lambda p: np.random.default_rng(0),
        lambda p: np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
        lambda p: Calls(np.dtype, "V8"),
        lambda p: np.load,
        lambda p: set,
        lambda p: {np.dtype("f4"): 1},
    ],
)
def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path, attack) -> None:
    path = tmp_path / "labels.pkl"
    for protocol in (0, 2, 4, 5):
        try:
            path.write_bytes(pickle.dumps(attack(tmp_path), protocol))
        except (pickle.PicklingError, TypeError):
            continue  # modules do not pickle
        with pytest.raises(DataError, match="refused") as caught:
            restricted_load(path)
        assert caught.value.where == path and caught.value.hint
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"cos\nsystem\n(S'touch ran'\ntR.",  # the classic
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",  # by STACK_GLOBAL
        b"\x80\x04\x8c\x05numpy\x8c\x0bload.system\x93.",  # a dotted name
        b"c__builtin__\neval\n(S'1+1'\ntR.",
        b"c_codecs\nencode\n(S'aaaa'\nS'zlib'\ntR.",
    ],
)
def test_handmade_pickles_are_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(raw)
    with pytest.raises(DataError, match="refused"):
        restricted_load(tmp_path / "a.pkl")


def array_pickle(shape: tuple[int, ...], raw: bytes, code: str = "f8") -> bytes:
    """A pickled array whose shape need not fit its bytes."""

    class Made:
        def __reduce__(self):
            reconstruct = np.arange(1).__reduce__()[0]
            return reconstruct, (np.ndarray, (0,), b"b"), (1, shape, np.dtype(code), False, raw)

    buffer = io.BytesIO()
    pickle.Pickler(buffer, 4).dump(Made())
    return buffer.getvalue()


def test_an_array_that_promises_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(array_pickle((2,), bytes(16)))
    np.testing.assert_array_equal(restricted_load(tmp_path / "a.pkl"), [0, 0])
    for shape in ((3,), (10**9, 10**9), (-1, -2)):
        (tmp_path / "a.pkl").write_bytes(array_pickle(shape, bytes(16)))
        with pytest.raises(DataError):
            restricted_load(tmp_path / "a.pkl")


def test_a_pickle_cannot_change_what_later_ones_find(tmp_path: Path) -> None:
    """It may set attributes on what it found (state (None, {name: value})), but not on ours."""
    raw = b"\x80\x02cnumpy.core.multiarray\nscalar\nN}U\x0c__defaults__K\x01\x85s\x86b."
    (tmp_path / "a.pkl").write_bytes(raw)
    with pytest.raises(DataError):
        restricted_load(tmp_path / "a.pkl")
    assert annotations._scalar.__defaults__ is None


class Raw:
    """Pickles as exactly this reduction."""

    def __init__(self, *reduction: object) -> None:
        self.reduction = reduction

    def __reduce__(self):
        return self.reduction


@pytest.mark.parametrize(
    "content",
    [
        Raw(np.dtype, ("f8",), (3, "<", (np.dtype("f8"), (2,)), None, None, -1, -1, 0)),  # a type made of others
        Raw(np.arange(1).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (3,), np.dtype("O"), False, ["a"])),
        Raw(np.float64(1).__reduce__()[0], (np.dtype("O"), b"x")),
        Raw(np.float64(1).__reduce__()[0], (np.dtype("f8"), b"too short")),
    ],
)
def test_arrays_and_numbers_that_are_not_what_they_say(tmp_path: Path, content: Raw) -> None:
    with pytest.raises(DataError, match="refused"):
        restricted_load(dump(tmp_path / "a.pkl", content))


def test_damaged_and_missing_pickles_are_data_errors(tmp_path: Path) -> None:
    whole = pickle.dumps({"names": ["0001_0"] * 50, "array": np.arange(50)})
    path = tmp_path / "a.pkl"
    for raw in (b"", b"PK\x03\x04 no pickle", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(raw)
        with pytest.raises(DataError, match="no whole pickle"):
            restricted_load(path)
    with pytest.raises(DataError, match="cannot be read"):
        restricted_load(tmp_path / "nowhere.pkl")


def challenge(tmp_path: Path, clips: int = 3) -> tuple[Path, Path, np.ndarray]:
    """The organisers' files; clip i has 10 + 20 i frames of 90."""
    data = np.zeros((clips, 3, 90, 22, 1), np.float32)
    for i in range(clips):
        data[i, :, : 10 + 20 * i] = np.random.default_rng(i).uniform(0.1, 1, (3, 10 + 20 * i, 22, 1))
    np.save(tmp_path / "train_data.npy", data)
    labels = dump(tmp_path / "train_label.pkl", ([f"0005_{i}" for i in range(clips)], list(range(clips))))
    return tmp_path / "train_data.npy", labels, data


def test_challenge_arrays_have_true_lengths(tmp_path: Path) -> None:
    data_npy, label_pkl, data = challenge(tmp_path)
    arrays = read_challenge_arrays(data_npy, label_pkl)
    assert arrays.keypoints.shape == (3, 1, 90, 22, 2) and arrays.scores.shape == (3, 1, 90, 22)
    assert arrays.names == ("0005_0", "0005_1", "0005_2")
    np.testing.assert_array_equal(arrays.lengths, [10, 30, 50])
    np.testing.assert_array_equal(arrays.labels, [0, 1, 2])
    np.testing.assert_array_equal(arrays.keypoints[1, 0, 7, 3], data[1, :2, 7, 3, 0])
    np.testing.assert_array_equal(arrays.scores[2, 0], data[2, 2, :, :, 0])


def test_challenge_frames_in_the_middle_are_kept_and_nan_is_missing(tmp_path: Path) -> None:
    data_npy, label_pkl, data = challenge(tmp_path)
    data[0, :, 4], data[1, 0, 2, 5, 0] = 0, np.nan
    np.save(data_npy, data)
    arrays = read_challenge_arrays(data_npy, label_pkl)
    assert arrays.lengths[0] == 10
    assert arrays.scores[1, 0, 2, 5] == 0 and (arrays.keypoints[1, 0, 2, 5] == 0).all()


def replace_clip(data: np.ndarray) -> np.ndarray:
    data = data.copy()
    data[1] = 0
    return data


@pytest.mark.parametrize(
    ("change", "content", "message"),
    [
        (lambda d: d[:, :2], None, r"not a float array \[N, 3, T, V, M\]"),
        (lambda d: d[0], None, r"not a float array"),
        (lambda d: d.astype(int), None, r"int64 .* not a float array"),
        (replace_clip, None, "row 2: clip 0005_1 is empty"),
        (None, (["a", "b"], [0, 1]), "2 names and 2 labels for the 3 clips"),
        (None, (["a", "b", "a"], [0, 1, 2]), "row 3: clip a is also entry 1"),
        (None, (["a", "b", "c"], [0, 32, 2]), "row 2: label 32 is not one of"),
        (None, (["a", "b", "c"], [0, -1, 2]), "row 2: label -1 is not one of"),
        (None, (["a", "b", "c"], ["x", "y", "z"]), "not whole numbers"),
        (None, ["a", "b", "c"], r"does not hold \(names, labels\)"),
        (None, (3, [1]), r"does not hold \(names, labels\)"),
    ],
)
def test_wrong_challenge_arrays_are_told(tmp_path: Path, change, content, message: str) -> None:
    data_npy, label_pkl, data = challenge(tmp_path)
    if change is not None:
        np.save(data_npy, change(data))
    if content is not None:
        dump(label_pkl, content)
    with pytest.raises(DataError, match=message) as caught:
        read_challenge_arrays(data_npy, label_pkl)
    assert caught.value.where in (data_npy, label_pkl)


def test_a_data_file_with_objects_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    data_npy, label_pkl, data = challenge(tmp_path)
    np.save(data_npy, np.array([Calls(os.system, marker(tmp_path))], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="no array file"):
        read_challenge_arrays(data_npy, label_pkl)
    assert not (tmp_path / "ran").exists()
    data_npy.write_bytes(b"no array")
    with pytest.raises(DataError, match="no array file"):
        read_challenge_arrays(data_npy, label_pkl)
    with data_npy.open("wb") as file:
        np.savez(file, a=data)
    with pytest.raises(DataError, match="several arrays"):
        read_challenge_arrays(data_npy, label_pkl)


def annotation(name: str, frames: int = 5, **changes: object) -> dict[str, object]:
    rng = np.random.default_rng(frames)
    fields = {
        "frame_dir": name,
        "total_frames": frames,
        "img_shape": (1080, 1920),
        "original_shape": (1080, 1920),
        "label": 3,
        "keypoint": rng.uniform(1, 500, (2, frames, 17, 2)).astype(np.float16),
        "keypoint_score": rng.random((2, frames, 17)).astype(np.float16),
    }
    return {key: value for key, value in {**fields, **changes}.items() if value is not None}


def pyskl(tmp_path: Path, *annotations: object, split: object = None) -> Path:
    content = {"split": {"xsub_train": ["b", "a"]} if split is None else split, "annotations": list(annotations)}
    return dump(tmp_path / "ntu.pkl", content)


def test_pyskl_annotations_come_in_the_order_of_the_split(tmp_path: Path) -> None:
    path = pyskl(tmp_path, annotation("a"), annotation("x", filename="b", frames=7), annotation("c"))
    first, second = read_pyskl(path, "xsub_train")
    assert (first["id"], second["id"], first["total_frames"], first["label"]) == ("b", "a", 7, 3)
    assert first["keypoint"].shape == (2, 7, 17, 2) and first["keypoint"].dtype == np.float32
    assert first["keypoint_score"].shape == (2, 7, 17) and first["img_shape"] == (1080, 1920)
    assert [each["id"] for each in read_pyskl(path)] == ["a", "b", "c"]


def test_pyskl_optional_fields_and_nan(tmp_path: Path) -> None:
    keypoints = np.ones((1, 5, 17, 2))
    keypoints[0, 2, 3, 0] = np.nan
    path = pyskl(tmp_path, annotation("a", keypoint=keypoints, keypoint_score=None, label=None, img_shape=None))
    (found,) = read_pyskl(path)
    assert found["label"] == -1 and found["img_shape"] is None
    assert found["keypoint_score"].sum() == 5 * 17 - 1 and (found["keypoint"][0, 2, 3] == 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoint": None}, "needs frame_dir and keypoint"),
        ({"frame_dir": None}, "needs frame_dir and keypoint"),
        ({"keypoint": np.zeros((5, 17, 2))}, r"not \[M, T, V, 2\]"),
        ({"keypoint": np.zeros((1, 5, 17, 3))}, r"not \[M, T, V, 2\]"),
        ({"keypoint_score": np.zeros((1, 4, 17))}, r"not \[M, T, V, 2\] and"),
        ({"keypoint": [["x"]]}, "are not numbers"),
        ({"total_frames": 9}, "says 9 frames and has 5"),
        ({"keypoint": np.zeros((2, 0, 17, 2)), "keypoint_score": np.zeros((2, 0, 17)), "total_frames": 0}, "says 0"),
        ({"label": "wave"}, "label of 'a' is no whole number"),
    ],
)
def test_a_wrong_annotation_is_told_by_entry(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = pyskl(tmp_path, annotation("ok"), annotation("a", **changes))
    with pytest.raises(DataError, match=message) as caught:
        read_pyskl(path)
    assert (caught.value.where, caught.value.row) == (path, 2)


def test_wrong_splits_and_containers_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'val'.*xsub_train"):
        read_pyskl(pyskl(tmp_path, annotation("a")), "val")
    with pytest.raises(DataError, match="lists 'b', which has no annotation"):
        read_pyskl(pyskl(tmp_path, annotation("a")), "xsub_train")
    with pytest.raises(DataError, match="no list of ids"):
        read_pyskl(pyskl(tmp_path, annotation("a"), split={"val": 3}), "val")
    with pytest.raises(DataError, match="Its splits: none"):
        read_pyskl(pyskl(tmp_path, annotation("a"), split="val"), "val")
    with pytest.raises(DataError, match="row 2: id 'a' comes twice"):
        read_pyskl(pyskl(tmp_path, annotation("a"), annotation("a")))
    with pytest.raises(DataError, match="row 1: an annotation needs"):
        read_pyskl(pyskl(tmp_path, 3))
    with pytest.raises(DataError, match="does not hold"):
        read_pyskl(dump(tmp_path / "list.pkl", [1, 2]))
