"""Annotation files with odd fields: every field comes back as documented, or is told by file and row.

The bytes of these files are whole; `test_fuzz` damages them.
"""

from __future__ import annotations

import io
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from migcore.data.annotations import read_challenge_arrays, read_pyskl
from migcore.errors import DataError
from tests.test_fuzz import challenge, pyskl

odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(max_size=6),
    st.binary(max_size=4),
    st.lists(st.one_of(st.integers(-1, 200), st.floats(), st.text(max_size=3), st.booleans()), max_size=3),
    st.tuples(st.integers(-1, 200), st.integers(-1, 200)), st.sets(st.sampled_from(("0000_1", "0001_1", 3))),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), st.floats(width=32).map(np.float32),
    st.integers(-3, 40).map(np.int64), st.text("ab\ud800\n", max_size=3).map(np.str_), st.booleans().map(np.bool_),
    st.integers(-3, 40).map(np.array), st.just([["0000_1"]]), st.just(10**400),
    st.builds(
        lambda shape, kind, value: np.full(shape, value).astype(kind),
        st.lists(st.integers(0, 3), max_size=5).map(tuple),
        st.sampled_from(("f2", "f8", "i4", "?", "U3", "S3", "c8", "O")),
        st.sampled_from((0, 1, 70)),
    ),
)  # fmt: skip
"""What a field may hold instead."""

changed_points = st.builds(
    lambda at, value: (at, value),
    st.integers(0, 87),
    st.sampled_from((np.nan, np.inf, -np.inf, 1e300, -5.0, 1.05, 1.5, 70.0, 10**400, None, True, "3", 3j)),
)
"""One entry of an array that holds something else, as lists."""


def clips_of(path: Path, split: str | None) -> None:
    for clip in read_pyskl(path, split):
        persons, frames, joints, _ = clip["keypoint"].shape
        assert persons and frames and joints and clip["keypoint"].dtype == clip["keypoint_score"].dtype == np.float32
        assert clip["keypoint_score"].shape == (persons, frames, joints) and np.isfinite(clip["keypoint"]).all()
        assert ((clip["keypoint_score"] >= 0) & (clip["keypoint_score"] <= 1)).all()
        assert type(clip["id"]) is str and type(clip["label"]) is int and clip["label"] >= -1
        assert type(clip["total_frames"]) is int and clip["total_frames"] == frames
        size = clip["img_shape"]
        assert size is None or ([type(part) for part in size] == [int, int] and min(size) > 0)


def read_or_told(read: Callable[[], object], *places: Path) -> None:
    """A reader of odd fields holds its promises, or names the file in one line that can be written."""
    try:
        read()
    except DataError as error:
        assert error.where in places and "\n" not in str(error) and str(error).encode()


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    field=st.sampled_from(
        ("frame_dir", "filename", "label", "total_frames", "img_shape", "keypoint", "keypoint_score")
    ),
    value=odd,
    point=changed_points,
    as_lists=st.booleans(),
)
def test_odd_fields_of_an_annotation_are_typed_or_told(field: str, value: Any, point: Any, as_lists: bool) -> None:
    content = pickle.loads(pyskl())
    entry = content["annotations"][1]
    if as_lists and field.startswith("keypoint"):
        flat = entry[field].astype(object)
        flat.reshape(-1)[point[0]] = point[1]
        value = flat.tolist()
    entry[field] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.pkl"
        path.write_bytes(pickle.dumps(content))
        try:
            clips_of(path, None)
        except DataError as error:
            assert (error.where, error.row) == (path, 2) and str(error).encode() and "\n" not in str(error)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(field=st.sampled_from(("split", "annotations", "train", "test", "entry")), value=odd)
def test_odd_containers_of_annotations_are_typed_or_told(field: str, value: Any) -> None:
    content = pickle.loads(pyskl())
    if field == "entry":
        content["annotations"][1] = value
    elif field in content:
        content[field] = value
    else:
        content["split"][field] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.pkl"
        path.write_bytes(pickle.dumps(content))
        for split in (None, "train", "test"):
            read_or_told(lambda split=split: clips_of(path, split), path)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    part=st.sampled_from(("name", "label", "names", "labels", "content", "data", "number")),
    value=odd,
    point=changed_points,
)
def test_odd_fields_of_the_challenge_pair_are_typed_or_told(part: str, value: Any, point: Any) -> None:
    array, labels = challenge()
    names, classes = (list(each) for each in pickle.loads(labels))
    data = np.load(io.BytesIO(array)).astype(np.float64)
    if part in ("name", "label"):
        (names if part == "name" else classes)[1] = value
    elif part == "number" and isinstance(point[1], float):
        data[1].reshape(-1)[point[0] :: 88] = point[1]
    elif part == "data" and isinstance(value, np.ndarray) and not value.dtype.hasobject:
        data = value
    pair: Any = (value if part == "names" else names, value if part == "labels" else classes)
    with tempfile.TemporaryDirectory() as folder:
        data_npy, label_pkl = Path(folder) / "data.npy", Path(folder) / "labels.pkl"
        np.save(data_npy, data)
        label_pkl.write_bytes(pickle.dumps(value if part == "content" else pair))

        def read() -> None:
            found = read_challenge_arrays(data_npy, label_pkl)
            count, persons, frames, joints, _ = found.keypoints.shape
            assert found.scores.shape == (count, persons, frames, joints) and np.isfinite(found.keypoints).all()
            assert ((found.scores >= 0) & (found.scores <= 1)).all()
            assert len(found.names) == count and {type(name) for name in found.names} == {str}
            assert found.labels.dtype == np.int64 and ((found.labels >= 0) & (found.labels < 32)).all()
            assert ((found.lengths >= 1) & (found.lengths <= frames)).all()

        read_or_told(read, data_npy, label_pkl)
