"""Entries of annotation files as clips: what they must hold, and what to say when they hold something else.

M persons, T frames, V keypoints. Errors know no file: :func:`migcore.data.fields.told_at` adds it.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from migcore.data.checks import SCORE_SLACK
from migcore.data.fields import height_width, ids, real_numbers, shown, text, whole_number
from migcore.errors import DataError

_PART = re.compile("(train)(?:ing)?|val(?:id(?:ation)?)?|dev|test(?:ing)?")  # of a division, in a split's name


def _clean(keypoints: np.ndarray, scores: np.ndarray, of: str) -> np.ndarray:
    """Missing or not finite: score 0 at (0, 0). Scores are clipped to [0, 1]. In place; returns what was not finite.

    Raises:
        DataError: a score is so far outside that it has another unit.
    """
    missing = ~(np.isfinite(keypoints).all(axis=-1) & np.isfinite(scores))
    keypoints[missing], scores[missing] = 0, 0
    wrong = scores[(scores < -SCORE_SLACK) | (scores > 1 + SCORE_SLACK)]
    if len(wrong):
        message = f"{of} has {wrong[0]:g} where a score of 0..1 belongs"
        raise DataError(message, hint="Scores are confidences; divide percents by 100")
    np.clip(scores, 0, 1, out=scores)
    return missing


def challenge_clip(data: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """A clip of the organisers' arrays.

    Args:
        data: float [3, T, V, M] with channels x, y, score; none of the axes is empty.
        name: its id, for messages.

    Returns:
        keypoints [M, T, V, 2] and scores [M, T, V], float32, what is not finite missing, and the frames up to the last
        that is not all zero.

    Raises:
        DataError: a score is far outside 0..1, a number too large for float32, or nothing is left.
    """
    points = np.moveaxis(real_numbers(data, f"the numbers of clip {name}"), (3, 0), (0, 3))
    keypoints, scores = np.ascontiguousarray(points[..., :2]), np.ascontiguousarray(points[..., 2])
    _clean(keypoints, scores, f"clip {name}")
    filled = np.flatnonzero((keypoints != 0).any(axis=(0, 2, 3)) | (scores != 0).any(axis=(0, 2)))
    if len(filled):
        return keypoints, scores, int(filled[-1]) + 1
    if not np.isfinite(data).any():
        raise DataError(f"clip {name} has no finite number", hint="Leave it out of both files")
    if np.isfinite(data).all():
        raise DataError(f"clip {name} is empty: all its frames are zero", hint="Leave it out of both files")
    raise DataError(f"clip {name} holds zeros and numbers that are not finite, nothing else", hint="Leave it out")


def split_ids(splits: Any, split: str) -> list[str]:
    """The ids of a split, in its order, after a look at the splits that must not share them.

    Args:
        splits: the field of a pickle, {name: ids} if it is right.
        split: a name in it.

    Raises:
        DataError: there is no such split, an id is no text or comes twice, or it is trained on in one split of a
            division and tested on in another; names the id's place in the split as row.
    """
    if not isinstance(splits, dict) or split not in splits:
        known = [name for name in splits if isinstance(name, str)] if isinstance(splits, dict) else []
        raise DataError(f"has no split {split!r}", hint=f"Its splits: {', '.join(known) or 'none'}")
    names = ids(splits[split], f"split {split!r}")
    for other in splits:
        if isinstance(other, str) and _trains_for(split, other):
            shared = set(ids(splits[other], f"split {other!r}"))
            for number, name in enumerate(names, start=1):
                if name in shared:
                    message = f"{name!r} is in split {split!r} and in split {other!r}"
                    raise DataError(message, row=number, hint="What is trained on is not tested on: keep one")
    return names


def _trains_for(one: str, other: str) -> bool:
    """Whether they are the training and another part of one division, as "xsub_train" and "xsub_val" are.

    Divisions of the same clips stand beside each other in one file ("xsub_train", "xview_val"), and share them.
    """
    one, other = one.lower(), other.lower()
    parts, other_parts = _PART.findall(one), _PART.findall(other)  # "train" for the training part, "" for others
    if len(parts) != 1 or len(other_parts) != 1 or parts == other_parts:
        return False
    return _PART.sub("", one) == _PART.sub("", other)


def pyskl_annotation(entry: Any) -> dict[str, Any]:
    """An annotation as :func:`migcore.data.annotations.read_pyskl` returns it.

    Args:
        entry: an entry of the pickle's "annotations", a dict if it is right.

    Raises:
        DataError: it is no dict or lacks a field, or a field is of another type, shape or range, or the clip is empty.
    """
    named_by = "filename" if isinstance(entry, dict) and "filename" in entry else "frame_dir"
    if not isinstance(entry, dict) or named_by not in entry or "keypoint" not in entry:
        has = ", ".join(key for key in entry if isinstance(key, str)) if isinstance(entry, dict) else shown(entry)
        raise DataError("an annotation needs frame_dir and keypoint", hint=f"This one has: {has or 'nothing'}")
    name = text(entry[named_by], f"{named_by} is no text", "It is the clip's id, such as '0001_1'")
    keypoints = real_numbers(entry["keypoint"], f"keypoints of {name!r}")
    scores = np.ones(keypoints.shape[:-1], np.float32)
    if "keypoint_score" in entry:
        scores = real_numbers(entry["keypoint_score"], f"scores of {name!r}")
    frames = None
    if "total_frames" in entry:
        frames = whole_number(entry["total_frames"], f"total_frames of {name!r} is no whole number", "Write T there")
    _check_shapes(keypoints, scores, frames, name)
    if _clean(keypoints, scores, repr(name)).all():
        raise DataError(f"{name!r} has no point of finite numbers", hint="Leave the clip out")
    hint = "Labels count from 0; leave the field out where it is not known"
    label = whole_number(entry.get("label", -1), f"the label of {name!r} is no whole number", hint)
    if label < -1:
        raise DataError(f"the label of {name!r} is {label}", hint=hint)
    shape = entry.get("img_shape")
    return {
        "id": name,
        "keypoint": keypoints,
        "keypoint_score": scores,
        "label": label,
        "total_frames": keypoints.shape[1],
        "img_shape": None if shape is None else height_width(shape, f"img_shape of {name!r}"),
    }


def _check_shapes(keypoints: np.ndarray, scores: np.ndarray, frames: int | None, name: str) -> None:
    """Keypoints are [M, T, V, 2] with nothing of size zero, scores [M, T, V], and T is what total_frames says."""
    shape = keypoints.shape
    says = "" if frames is None else f": its total_frames says {frames}"
    if shape == (0,) or (len(shape) == 4 and shape[0] == 0):
        raise DataError(f"nobody was found in {name!r} (M = 0)", hint="Leave the clip out")
    if len(shape) == 4 and shape[1] == 0:
        raise DataError(f"{name!r} has no frames (T = 0){says}", hint="Leave the clip out")
    if len(shape) == 4 and shape[2] == 0:
        raise DataError(f"{name!r} has no keypoints (V = 0)", hint="Leave the clip out")
    if len(shape) != 4 or shape[3] != 2 or scores.shape != shape[:-1]:
        message = f"{name!r} has keypoints {shape} and scores {scores.shape}, not [M, T, V, 2] and [M, T, V]"
        raise DataError(message, hint=_advice(shape))
    if frames is not None and frames != shape[1]:
        raise DataError(
            f"{name!r} says {frames} frames and has {shape[1]}", hint="Write T as total_frames, or leave it out"
        )


def _advice(shape: tuple[int, ...]) -> str:
    """What to do about keypoints of this shape, or about the scores if it is right."""
    if len(shape) == 3 and shape[2] in (2, 3):
        return "Add the axis of persons, as keypoint[None] does, to scores as well"
    if len(shape) == 4 and shape[3] == 3:
        return "Where the third number is a score, move it to keypoint_score; points in space are not read"
    if len(shape) == 4 and shape[3] == 2:
        return "Write a score per keypoint, or leave keypoint_score out"
    return "M is persons, T frames, V keypoints"
