"""The organisers' arrays and pyskl's annotation pickles, read without running what a pickle asks for.

N clips, M persons, T frames, V keypoints. Notable choices:
* The unpickler knows containers, text, numbers and numpy arrays. Everything else, by whatever name, is refused before
  it is looked up; arrays are rebuilt here, so that not even numpy's own set-state code sees the file.
* The organisers pad clips to 90 frames with zeros; the true length is what is left without trailing all-zero frames.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from migcore.errors import DataError
from migcore.labels import NUM_CLASSES

_PLAIN_KINDS = "biufcSU"


class _Refused(Exception):
    """The pickle asks for what is not admitted."""


class _Dtype:
    """Stands in for a pickled ``numpy.dtype``: a plain kind and a byte order, nothing else."""

    def __init__(self, code: str, align: Any = False, copy: Any = False) -> None:
        self.dtype = np.dtype(code)
        if self.dtype.kind not in _PLAIN_KINDS + "O" or self.dtype.names is not None:
            raise _Refused(f"arrays of type {code!r} are not admitted")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if any(part is not None for part in state[2:5]):
            raise _Refused("structured arrays are not admitted")
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for a pickled ``numpy.ndarray`` until it is replaced by :func:`_finish`."""

    def __init__(self) -> None:
        self.value: np.ndarray = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        self.value = _rebuild(content, kind, shape, "F" if fortran else "C")


def _rebuild(content: Any, kind: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """An array of its bytes, or, for objects, of a list."""
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if kind.dtype.hasobject:
        if not isinstance(content, list) or len(content) != count:
            raise _Refused("an object array does not hold what its shape says")
        flat = np.empty(count, dtype=object)
        flat[:] = content
    else:
        if len(content) != count * kind.dtype.itemsize:
            raise _Refused("an array does not hold what its shape says")
        flat = np.frombuffer(bytes(content), dtype=kind.dtype, count=count).copy()
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _scalar(kind: _Dtype, content: bytes) -> Any:
    if kind.dtype.hasobject:
        raise _Refused("object scalars are not admitted")
    return _rebuild(content, kind, (), "C")[()]


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """Old protocols spell bytes as text to be encoded."""
    if encoding != "latin1":
        raise _Refused(f"encoding {encoding!r} is not admitted")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Old protocols call ``bytes()`` for the empty string."""
    return b""


def _new_array(*_: Any) -> _Array:
    return _Array()


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytes"): _no_bytes,
    ("builtins", "complex"): complex,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin1,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _new_array,
}
for _core in ("numpy.core", "numpy._core"):
    _ADMITTED[_core + ".multiarray", "_reconstruct"] = _new_array
    _ADMITTED[_core + ".multiarray", "scalar"] = _scalar
    _ADMITTED[_core + ".numeric", "_frombuffer"] = _rebuild


class _Unpickler(pickle._Unpickler):
    """Python's own and not C's, which a damaged memo number makes set aside gigabytes."""

    def find_class(self, module: str, name: str) -> Any:
        # Python 2's name of builtins; old files have it.
        found = _ADMITTED.get(("builtins" if module == "__builtin__" else module, name))
        if found is None:
            raise _Refused(f"it asks for {module}.{name}")
        # A fresh object each time: a file that sets attributes on what it found changes nothing that lasts.
        return partial(found)


def _finish(value: Any, seen: dict[int, Any]) -> Any:
    """``value`` with every stand-in replaced by its array, containers included."""
    if isinstance(value, (str, bytes, int, float, complex, type(None))):
        return value
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, _Array):
        seen[id(value)] = value.value
        if value.value.dtype.hasobject:
            flat = value.value.reshape(-1)
            flat[:] = [_finish(each, seen) for each in flat]
        return value.value
    if isinstance(value, list):
        seen[id(value)] = value
        value[:] = [_finish(each, seen) for each in value]
    elif isinstance(value, dict):
        seen[id(value)] = value
        for key in list(value):
            _finish(key, seen)
            value[key] = _finish(value[key], seen)
    elif isinstance(value, tuple):
        return tuple(_finish(each, seen) for each in value)
    elif isinstance(value, (set, frozenset)):
        for each in value:
            _finish(each, seen)
    elif not isinstance(value, (bytearray, np.ndarray, np.generic)):
        raise _Refused(f"it holds a {type(value).__name__}")
    return value


def restricted_load(path: str | Path) -> Any:
    """What a pickle holds, if that is containers, text, numbers and numpy arrays; nothing of it is ever run.

    Args:
        path: the file.

    Returns:
        Its content.

    Raises:
        DataError: it cannot be read, is no pickle, is damaged, or asks for anything else (a function, a class).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _Unpickler(file).load()
        return _finish(content, {})
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path, hint="Is it there?") from error
    except _Refused as error:
        raise DataError(
            f"the pickle is refused: {error}",
            where=path,
            hint="Only containers, text, numbers and numpy arrays are read; do not open this file with pickle itself",
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(
            f"is no whole pickle ({type(error).__name__})", where=path, hint="Fetch the file again"
        ) from error


@dataclass(frozen=True)
class SkeletonArrays:
    """Clips as arrays.

    Attributes:
        keypoints: [N, M, T, V, 2] float32, pixels.
        scores: [N, M, T, V] float32 in [0, 1]; 0 is missing.
        names: N clip ids, unique.
        labels: [N] int64, 0..31.
        lengths: [N] int64, frames before the padding, 1..T.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    lengths: np.ndarray


def _labels(values: Any, path: Path) -> np.ndarray:
    """[N] int64 of labels, each checked."""
    try:
        labels = np.asarray(values, dtype=np.int64).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError("the labels are not whole numbers", where=path) from error
    wrong = np.flatnonzero((labels < 0) | (labels >= NUM_CLASSES))
    if len(wrong):
        message = f"label {labels[wrong[0]]} is not one of 0..{NUM_CLASSES - 1}"
        raise DataError(message, where=path, row=int(wrong[0]) + 1, hint="Labels of this file are raw ids minus one")
    return labels


def _clean(keypoints: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Missing or not finite: score 0 at (0, 0). Scores are clipped to [0, 1]."""
    missing = ~(np.isfinite(keypoints).all(axis=-1) & np.isfinite(scores))
    keypoints[missing], scores[missing] = 0, 0
    return keypoints, np.clip(scores, 0, 1)


def read_challenge_arrays(data_npy: str | Path, label_pkl: str | Path) -> SkeletonArrays:
    """The organisers' ``{split}_data.npy`` and ``{split}_label.pkl``.

    Args:
        data_npy: float array [N, 3, T, V, M] with channels x, y, score; T is 90, zero-padded.
        label_pkl: pickled (names, labels), names "NNNN_k", labels 0..31.

    Returns:
        The clips, with their true lengths.

    Raises:
        DataError: a file cannot be read, the pickle asks for code, shapes or counts do not fit, a name comes twice, a
            label is out of range, or a clip is empty (all zeros); names file and entry.
    """
    data_npy, label_pkl = Path(data_npy), Path(label_pkl)
    try:
        data = np.load(data_npy, allow_pickle=False)
    except Exception as error:  # numpy parses a damaged header as Python, which can fail in any way
        why = str(error).partition("\n")[0]
        raise DataError(f"is no array file ({why})", where=data_npy, hint="Fetch the file again") from error
    if not isinstance(data, np.ndarray) or data.ndim != 5 or data.shape[1] != 3 or data.dtype.kind != "f":
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else "several arrays"
        raise DataError(f"holds {found}, not a float array [N, 3, T, V, M]", where=data_npy)
    content = restricted_load(label_pkl)
    sequences = (tuple, list, np.ndarray)
    if not isinstance(content, sequences) or len(content) != 2 or not isinstance(content[0], sequences):
        raise DataError("does not hold (names, labels)", where=label_pkl)
    names, labels = tuple(str(name) for name in content[0]), _labels(content[1], label_pkl)
    if not len(names) == len(labels) == len(data):
        raise DataError(
            f"has {len(names)} names and {len(labels)} labels for the {len(data)} clips of {data_npy.name}",
            where=label_pkl,
            hint="Take both files from the same split",
        )
    first: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if first.setdefault(name, number) != number:
            raise DataError(f"clip {name} is also entry {first[name]}", where=label_pkl, row=number)
    data = np.moveaxis(data.astype(np.float32), (4, 1), (1, 4))  # [N, M, T, V, 3]
    keypoints, scores = _clean(np.ascontiguousarray(data[..., :2]), np.ascontiguousarray(data[..., 2]))
    filled = (keypoints != 0).any(axis=(1, 3, 4)) | (scores != 0).any(axis=(1, 3))
    lengths = np.where(filled.any(axis=1), filled.shape[1] - np.argmax(filled[:, ::-1], axis=1), 0)
    if (lengths == 0).any():
        empty = int(np.flatnonzero(lengths == 0)[0])
        raise DataError(f"clip {names[empty]} is empty: all its frames are zero", where=data_npy, row=empty + 1)
    return SkeletonArrays(keypoints, scores, names, labels, lengths.astype(np.int64))


def read_pyskl(path: str | Path, split: str | None = None) -> list[dict[str, Any]]:
    """Annotations of a split of a pyskl (or mmaction2) pickle.

    Args:
        path: pickled {"split": {name: ids}, "annotations": [...]}.
        split: a name in it; None for all annotations.

    Returns:
        In the order of the split, dicts with "id" (the file's ``filename``, else ``frame_dir``), "keypoint" float32
        [M, T, V, 2] in pixels, "keypoint_score" float32 [M, T, V] (ones when the file has none), "label" (-1 when it
        has none), "total_frames" = T, and "img_shape" (H, W) or None.

    Raises:
        DataError: the file cannot be read, asks for code, has no such split, an annotation is incomplete, empty, or of
            other shapes, or an id is missing or comes twice; names file and entry.
    """
    path = Path(path)
    content = restricted_load(path)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise DataError('does not hold {"split": ..., "annotations": [...]}', where=path)
    found: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(content["annotations"], start=1):
        annotation = _annotation(entry, path, number)
        if annotation["id"] in found:
            raise DataError(f"id {annotation['id']!r} comes twice", where=path, row=number)
        found[annotation["id"]] = annotation
    if split is None:
        return list(found.values())
    splits = content.get("split")
    if not isinstance(splits, dict) or split not in splits:
        known = ", ".join(map(str, splits)) if isinstance(splits, dict) else "none"
        raise DataError(f"has no split {split!r}", where=path, hint=f"Its splits: {known}")
    if not isinstance(splits[split], (list, tuple, np.ndarray)):
        raise DataError(f"split {split!r} is no list of ids", where=path)
    missing = [name for name in splits[split] if name not in found]
    if missing:
        raise DataError(f"split {split!r} lists {missing[0]!r}, which has no annotation", where=path)
    return [found[name] for name in splits[split]]


def _annotation(entry: Any, path: Path, number: int) -> dict[str, Any]:
    """One annotation, checked; number counts from 1."""
    name = entry.get("filename", entry.get("frame_dir")) if isinstance(entry, dict) else None
    if not isinstance(name, str) or "keypoint" not in entry:
        raise DataError("an annotation needs frame_dir and keypoint", where=path, row=number)
    try:
        keypoints = np.array(entry["keypoint"], dtype=np.float32)
        scores = np.array(entry.get("keypoint_score", np.ones(keypoints.shape[:-1])), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"keypoints of {name!r} are not numbers", where=path, row=number) from error
    if keypoints.ndim != 4 or keypoints.shape[-1] != 2 or scores.shape != keypoints.shape[:-1]:
        message = f"{name!r} has keypoints {keypoints.shape} and scores {scores.shape}, not [M, T, V, 2] and [M, T, V]"
        raise DataError(message, where=path, row=number)
    frames = entry.get("total_frames", keypoints.shape[1])
    if frames != keypoints.shape[1] or not keypoints.size:
        message = f"{name!r} says {frames} frames and has {keypoints.shape[1]}"
        raise DataError(message, where=path, row=number, hint="Leave empty clips out")
    keypoints, scores = _clean(keypoints, scores)
    label, shape = entry.get("label", -1), entry.get("img_shape")
    if not isinstance(label, (int, np.integer)):
        raise DataError(f"the label of {name!r} is no whole number", where=path, row=number)
    return {
        "id": name,
        "keypoint": keypoints,
        "keypoint_score": scores,
        "label": int(label),
        "total_frames": int(frames),
        "img_shape": None if shape is None else (int(shape[0]), int(shape[1])),
    }
