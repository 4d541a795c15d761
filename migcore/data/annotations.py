"""The organisers' arrays and pyskl's annotation pickles, read without running what a pickle asks for.

N clips, M persons, T frames, V keypoints. Notable choices:
* The unpickler knows containers, text, numbers and numpy arrays. Everything else, by whatever name, is refused before
  it is looked up; arrays are rebuilt here, so that not even numpy's own set-state code sees the file.
* The organisers pad clips to 90 frames with zeros; the true length is what is left without trailing all-zero frames.
* No field is what its name says until it is looked at (:mod:`~migcore.data.fields`): a number is never made of text.
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

from migcore.data.entries import challenge_clip, pyskl_annotation, split_ids
from migcore.data.fields import sequence, text, told_at, whole_number
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
    if not kind.dtype.itemsize:  # numpy's empty text; arrays of it are written one letter wide
        return kind.dtype.type()
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
            _finish_key(key, seen)
            value[key] = _finish(value[key], seen)
    elif isinstance(value, tuple):
        return tuple(_finish(each, seen) for each in value)
    elif isinstance(value, (set, frozenset)):
        for each in value:
            _finish_key(each, seen)
    elif not isinstance(value, (bytearray, np.ndarray, np.generic)):
        raise _Refused(f"it holds {_name(value)}")
    return value


def _finish_key(key: Any, seen: dict[int, Any]) -> None:
    """A key, or a member of a set, is refused where a stand-in would stay in it."""
    try:
        hash(_finish(key, seen))
    except TypeError as error:
        raise _Refused("an array is a key or in a set") from error


def _name(value: Any) -> str:
    """What a file calls a stand-in that is no array."""
    if isinstance(value, partial):
        names = (f"{module}.{name} itself" for (module, name), found in _ADMITTED.items() if found is value.func)
        return next(names, "a function")
    return "a numpy.dtype" if isinstance(value, _Dtype) else f"a {type(value).__name__}"


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
        keypoints: [N, M, T, V, 2] float32, pixels, all finite.
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


def _challenge_data(path: Path) -> np.ndarray:
    """[N, 3, T, V, M] as it is in the file."""
    try:
        data = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy parses a damaged header as Python, which can fail in any way
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"cannot be read ({error.strerror})", where=path, hint="Is it there?") from error
        why = str(error).partition("\n")[0]
        raise DataError(f"is no array file ({why})", where=path, hint="Fetch the file again") from error
    if not isinstance(data, np.ndarray) or data.ndim != 5 or data.shape[1] != 3 or data.dtype.kind != "f":
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else "several arrays"
        raise DataError(f"holds {found}, not a float array [N, 3, T, V, M]", where=path)
    for size, letter, what in zip(data.shape, "NCTVM", ("clips", "", "frames", "keypoints", "persons"), strict=True):
        if not size:
            raise DataError(f"holds no {what} ({letter} = 0)", where=path, hint="Fetch the file again")
    return data


def _names_and_labels(path: Path, clips: int, of: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Names, each once, and [N] int64 of labels, each checked; N is ``clips``, which the file ``of`` holds."""
    content = sequence(restricted_load(path))
    names, values = (sequence(part) for part in content) if content and len(content) == 2 else (None, None)
    if names is None or values is None:
        raise DataError("does not hold (names, labels)", where=path, hint="Both are lists with an entry per clip")
    if not len(names) == len(values) == clips:
        raise DataError(
            f"has {len(names)} names and {len(values)} labels for the {clips} clips of {of}",
            where=path,
            hint="Take both files from the same split",
        )
    first: dict[str, int] = {}
    labels = np.zeros(clips, np.int64)
    hint = "Labels of this file are raw ids minus one"
    for number, (entry, value) in enumerate(zip(names, values, strict=True), start=1):
        with told_at(path, number):
            name = text(entry, "the name of a clip is no text", "Names are texts, such as '0001_1'")
            if first.setdefault(name, number) != number:
                raise DataError(f"clip {name} is also entry {first[name]}")
            labels[number - 1] = label = whole_number(value, "the labels are not whole numbers", hint)
            if not 0 <= label < NUM_CLASSES:
                raise DataError(f"label {label} is not one of 0..{NUM_CLASSES - 1}", hint=hint)
    return tuple(first), labels


def read_challenge_arrays(data_npy: str | Path, label_pkl: str | Path) -> SkeletonArrays:
    """The organisers' ``{split}_data.npy`` and ``{split}_label.pkl``.

    Args:
        data_npy: float array [N, 3, T, V, M] with channels x, y, score; T is 90, zero-padded. A point that is not
            finite is missing; a score may pass 0..1 by 0.1, and is clipped.
        label_pkl: pickled (names, labels), names "NNNN_k", labels 0..31.

    Returns:
        The clips, with their true lengths.

    Raises:
        DataError: a file cannot be read, the pickle asks for code, shapes or counts do not fit, there are no clips,
            frames, keypoints or persons, a name is no text or comes twice, a label is no whole number or out of range,
            a score is far outside 0..1, or a clip is empty (all zeros) or has no finite number; names file and entry.
    """
    data_npy, label_pkl = Path(data_npy), Path(label_pkl)
    data = _challenge_data(data_npy)
    names, labels = _names_and_labels(label_pkl, len(data), data_npy.name)
    clips = []
    for number, (name, clip) in enumerate(zip(names, data, strict=True), start=1):
        with told_at(data_npy, number):
            clips.append(challenge_clip(clip, name))
    keypoints, scores, lengths = zip(*clips, strict=True)
    return SkeletonArrays(np.stack(keypoints), np.stack(scores), names, labels, np.array(lengths, np.int64))


def read_pyskl(path: str | Path, split: str | None = None) -> list[dict[str, Any]]:
    """Annotations of a split of a pyskl (or mmaction2) pickle.

    Args:
        path: pickled {"split": {name: ids}, "annotations": [...]}. Annotations are dicts with "frame_dir" or
            "filename", a text; "keypoint" [M, T, V, 2], an array or lists of real numbers; and, where they are known,
            "keypoint_score" [M, T, V], "label", "total_frames" and "img_shape". Other fields are not looked at.
        split: a name in it; None for all annotations, whatever the splits are.

    Returns:
        In the order of the split (of the alphabet, where it is a set), dicts with "id" (the file's ``filename``, else
        ``frame_dir``), "keypoint" float32 [M, T, V, 2] in pixels, "keypoint_score" float32 [M, T, V] in 0..1 (ones when
        the file has none), "label" from 0 (-1 when it has none), "total_frames" = T, and "img_shape" (H, W) or None. A
        point that is not finite is missing, with score 0 at (0, 0); a score may pass 0..1 by 0.1, and is clipped.

    Raises:
        DataError: the file cannot be read, asks for code, has no such split, an annotation is incomplete, empty, of
            other shapes or types, an id is missing or comes twice, or a clip of the split is trained on and tested on;
            names file and entry.
    """
    path = Path(path)
    content = restricted_load(path)
    annotations = sequence(content.get("annotations")) if isinstance(content, dict) else None
    if annotations is None:
        hint = "Where the file is the list of annotations alone, put it into such a dict"
        raise DataError('does not hold {"split": ..., "annotations": [...]}', where=path, hint=hint)
    found: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(annotations, start=1):
        with told_at(path, number):
            annotation = pyskl_annotation(entry)
            if annotation["id"] in found:
                raise DataError(f"id {annotation['id']!r} comes twice", hint="Keep one of the two")
        found[annotation["id"]] = annotation
    if split is None:
        return list(found.values())
    with told_at(path):
        names = split_ids(content.get("split"), split)
        for number, name in enumerate(names, start=1):
            if name not in found:
                message = f"split {split!r} lists {name!r}, which has no annotation"
                raise DataError(message, row=number, hint="An annotation's id is its filename, else its frame_dir")
    return [found[name] for name in names]
