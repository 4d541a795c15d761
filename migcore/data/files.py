"""The per-video CSV files of iMiGUE, read and written (whole or not at all).

T frames, V keypoints. A skeleton file has a row per frame, no header: a skipped column, then (x, y, score) of each
point in pixels. A label file has rows ``gesture_id,start,end``. Notable choices:
* A good file goes through pandas' C parser; only a bad one is gone through row by row, to say which row is bad.
* Missing is score 0 at (0, 0), whatever the file wrote for it: nothing, NaN, or an infinite number.
* Frame numbers are 1-based with inclusive ends. A first column of a skeleton that counts frames must do so row by row.
* A byte order mark and the line ends of either system do not matter; UTF-16 is refused, and told as what it is.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from migcore.data.checks import SCORE_SLACK, check_frame_numbers, other_separator, plain
from migcore.data.layouts import OPENPOSE35, ColumnMap, fitting_column_map
from migcore.errors import DataError
from migcore.files import write_text
from migcore.labels import from_raw_id, to_raw_id

LabelRow = tuple[int, int, int]
"""(label 0..31, first frame, last frame), frames 1-based and inclusive."""

_MISSING = {"", "nan", "na", "n/a", "null", "none"}


def _rows(data: bytes) -> int:
    """Rows of a CSV without its trailing blank lines."""
    return data.count(b"\n") + 1 if data else 0


def _numbers_missing(text: str) -> bool:
    return text.strip().lower() in _MISSING


def _say(name: str, value: str | int) -> str:
    """How a setting of the data is given, on the command line and in Python."""
    flag = f"--{name.replace('_', '-')} {value}"
    return f"say {flag} to check and doctor, --set data.{name}={value} to the others, {name}={value!r} in Python"


def _bad_row(data: bytes, path: Path, columns: ColumnMap) -> DataError:
    """The first row that is wrong in a file known to be bad."""
    for number, line in enumerate(data.decode("utf-8", errors="replace").split("\n"), start=1):
        cells = line.rstrip("\r").split(",")
        if len(cells) != columns.columns:
            other = fitting_column_map(len(cells))
            return DataError(
                f"{len(cells)} columns, but column map {columns.name!r} expects {columns.columns}",
                where=path,
                row=number,
                hint=f"Are these the columns of {other.name}? Then {_say('column_map', other.name)}"
                if other
                else other_separator(line) or "Choose the column map of this file, or mend the row",
            )
        for place, cell in enumerate(cells):
            try:
                float(cell)
            except ValueError:
                if not _numbers_missing(cell):
                    return DataError(
                        f"column {place + 1} holds {cell.strip()[:40]!r} where a number belongs",
                        where=path,
                        row=number,
                        hint="Skeleton files have no header; missing numbers are empty or nan",
                    )
    return DataError("is no table of numbers", where=path, hint="Write it as plain comma-separated text")


def _read_bytes(path: Path, what: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{what} cannot be read ({error.strerror})", where=path, hint="Put the file there or leave the video out"
        ) from error
    return plain(data, path)


def _table_bytes(path: Path, columns: ColumnMap) -> bytes:
    """The bytes of a skeleton file whose rows all have the map's number of columns and are in the order of frames."""
    data = _read_bytes(path, "skeleton file").rstrip()
    if not data:
        raise DataError("skeleton file is empty", where=path, hint="Write one row per frame of the film")
    lines = data.split(b"\n")
    if any(line.count(b",") != columns.columns - 1 for line in lines):
        raise _bad_row(data, path, columns)
    for row, line in enumerate(lines, start=1):
        if b"\r" in line.removesuffix(b"\r"):  # a line end to pandas, and none to whoever counts rows
            hint = "Write line ends as \\n or \\r\\n"
            raise DataError("a carriage return stands within the row", where=path, row=row, hint=hint)
    check_frame_numbers([line.partition(b",")[0] for line in lines], path)
    return data


def count_skeleton_rows(path: Path, columns: ColumnMap) -> int:
    """Frames of a skeleton file, after a look at its columns but not at its numbers.

    Raises:
        DataError: it cannot be read, is empty, its columns are not the map's, or its first column counts frames and
            rows are out of order, lost or doubled (:func:`~migcore.data.checks.check_frame_numbers`).
    """
    return _rows(_table_bytes(path, columns))


def read_skeleton_csv(path: Path, column_map: ColumnMap) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints of every frame of a film.

    Args:
        path: ``NNNN_light_hand.csv`` or a file in another column map.
        column_map: where its rows keep the keypoints.

    Returns:
        keypoints [T, V, 2] float32 in pixels (x, y) and scores [T, V] float32 in [0, 1]; a missing point has score 0
        and lies at (0, 0).

    Raises:
        DataError: the file cannot be read or is empty, a row has other columns than the map, text where a number
            belongs, or a score far outside 0..1 (a sign of shifted columns), or rows are out of order, lost or doubled;
            names file and row.
    """
    data = _table_bytes(path, column_map)
    wanted = [first + i for first in column_map.joints for i in range(3)]
    try:
        frame = pd.read_csv(
            io.BytesIO(data), header=None, usecols=sorted(wanted), dtype=np.float32, skip_blank_lines=False, engine="c"
        )
    except (ValueError, OverflowError) as error:
        raise _bad_row(data, path, column_map) from error
    table = frame[wanted].to_numpy(dtype=np.float32).reshape(len(frame), len(column_map.joints), 3)
    missing = ~np.isfinite(table).all(axis=-1)
    table[missing] = 0
    keypoints, scores = np.ascontiguousarray(table[..., :2]), table[..., 2]
    wrong = np.argwhere((scores < -SCORE_SLACK) | (scores > 1 + SCORE_SLACK))
    if len(wrong):
        row, joint = wrong[0]
        raise DataError(
            f"column {column_map.joints[joint] + 3} holds {scores[row, joint]:g} where a score of 0..1 belongs",
            where=path,
            row=int(row) + 1,
            hint=f"Are the columns those of column map {column_map.name!r}?",
        )
    return keypoints, np.clip(scores, 0, 1)


def write_skeleton_csv(path: Path, keypoints: np.ndarray, scores: np.ndarray) -> None:
    """Write a skeleton file of 35 points (:data:`~migcore.data.layouts.OPENPOSE35`), whole or not at all.

    The same numbers give the same bytes everywhere: 3 decimals, no negative zero, line feeds.

    Args:
        path: the file.
        keypoints: [T, 35, 2] in pixels.
        scores: [T, 35] in [0, 1].

    Raises:
        DataError: the shapes do not fit, there are no frames, or a number is not finite.
        StorageError: the file could not be written.
    """
    points = OPENPOSE35.columns // 3
    table = np.concatenate([keypoints, np.asarray(scores)[..., None]], axis=-1).astype(np.float64)
    if table.ndim != 3 or table.shape[1:] != (points, 3) or not len(table):
        raise DataError(f"keypoints and scores of shape {table.shape} are not [T, {points}, 3]", where=path)
    if not np.isfinite(table).all():
        frame = int(np.argwhere(~np.isfinite(table))[0][0])
        raise DataError(
            "a coordinate or score is not finite", where=path, row=frame + 1, hint="Write missing as 0, 0, 0"
        )
    table[np.abs(table) < 0.0005] = 0  # would print as 0.000 or -0.000
    line = "%d" + ",%.3f" * (3 * points) + "\n"
    rows = table.reshape(len(table), -1).tolist()
    write_text(path, "".join(line % (number, *row) for number, row in enumerate(rows, start=1)))


def _whole_number(cell: str) -> int:
    value = float(cell)
    if not math.isfinite(value) or value != int(value):
        raise ValueError(cell)
    return int(value)


def _label_row(line: str, path: Path, row: int, first_frame: int) -> LabelRow:
    cells = line.split(",")
    if len(cells) != 3:
        hint = other_separator(line) or "A row is gesture_id,start,end"
        raise DataError(f"{len(cells)} columns, but a label has gesture_id,start,end", where=path, row=row, hint=hint)
    try:
        raw, start, end = (_whole_number(cell) for cell in cells)
    except ValueError as error:
        raise DataError(
            f"{line.strip()[:60]!r} are not three whole numbers",
            where=path,
            row=row,
            hint="Label files have no header; a row is gesture_id,start,end",
        ) from error
    if start < first_frame:
        raise DataError(
            f"the clip starts at frame {start}, but frames count from {first_frame}",
            where=path,
            row=row,
            hint=f"If the first frame of these files is 0, {_say('first_frame', 0)}" if start == 0 else "Mend the row",
        )
    if end < start:
        raise DataError(
            f"the clip ends at frame {end}, before its start {start}: it is reversed or empty",
            where=path,
            row=row,
            hint="A row is gesture_id,start,end with an inclusive end",
        )
    try:
        label = from_raw_id(raw)
    except DataError as error:
        raise DataError(error.message, where=path, row=row, hint="Mend the row or skip it") from error
    return label, start - first_frame + 1, end - first_frame + 1


def scan_labels_csv(path: Path, *, first_frame: int = 1) -> list[LabelRow | DataError]:
    """The rows of a label file, a bad one as the error that :func:`read_labels_csv` would raise.

    Raises:
        DataError: the file cannot be read, or is UTF-16.
    """
    rows: list[LabelRow | DataError] = []
    text = _read_bytes(path, "label file").rstrip().decode("utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            rows.append(_label_row(line, path, number, first_frame))
        except DataError as error:
            rows.append(error)
    return rows


def read_labels_csv(path: Path, *, first_frame: int = 1) -> list[LabelRow]:
    """The clips of a film in the order of its label file.

    Args:
        path: ``NNNN_label.csv``, rows ``gesture_id,start,end``; id 1..32, or 99 for illustrative.
        first_frame: number that the file gives a film's first frame. Frame numbers are 1-based; the organisers' loader
            adds one to both, which is right for files that count from 0.

    Returns:
        (label 0..31, start, end) of each clip, 1-based and inclusive whatever ``first_frame``.

    Raises:
        DataError: the file cannot be read, or a row has no three whole numbers, a negative or reversed range, or an
            unknown id; names file and row.
    """
    rows: list[LabelRow] = []
    for row in scan_labels_csv(path, first_frame=first_frame):
        if isinstance(row, DataError):
            raise row
        rows.append(row)
    return rows


def write_labels_csv(path: Path, rows: Iterable[Sequence[int]]) -> None:
    """Write a label file, whole or not at all.

    Args:
        path: the file.
        rows: (label 0..31, start, end), frames 1-based and inclusive. Label 31 is written as id 99.

    Raises:
        DataError: a label or range is out of bounds.
        StorageError: the file could not be written.
    """
    lines = []
    for number, (label, start, end) in enumerate(rows, start=1):
        if not 1 <= start <= end:
            raise DataError(f"the clip runs from frame {start} to {end}", where=path, row=number)
        lines.append(f"{to_raw_id(label)},{start},{end}\n")
    write_text(path, "".join(lines))
