"""What a folder's files must hold, asked by all who read them: opening, training, `predict` and `doctor`.

N points, H and W pixels. What one of them refuses, the others name in the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from migcore.errors import DataError

SCORE_SLACK = 0.1
"""How far a score may lie outside of 0..1: OpenPose's confidences pass 1 by a little. They are clipped."""
_WIDE = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""Byte order marks of encodings of two and four bytes; the longer ones first, as one begins with another."""
_AS_TEXT = 'Save it as UTF-8, in a spreadsheet as "CSV UTF-8" or "CSV" and not as "Unicode text"'


def plain(data: bytes, path: Path) -> bytes:
    """The bytes of a text file without the byte order mark that some editors put before UTF-8.

    Raises:
        DataError: it is UTF-16 or UTF-32.
    """
    head = data[:4096]
    wide = next((name for mark, name in _WIDE.items() if data.startswith(mark)), None)
    if wide is not None and 0 not in head and len(data) > 4:
        wide = None  # text whose characters are single bytes, behind two that are rubbish
    zeros = sorted((head[0::2].count(0), head[1::2].count(0)))
    if wide is None and zeros[0] < 0.05 * len(head) and zeros[1] > 0.45 * len(head):
        wide = "UTF-16"  # without a mark: every other byte of plain text is 0
    if wide is not None:
        raise DataError(f"is {wide} text, not UTF-8", where=path, hint=_AS_TEXT)
    return data.removeprefix(b"\xef\xbb\xbf")


def other_separator(line: str) -> str | None:
    """What to do about a row without commas, if something else parts its columns."""
    name = next(
        (name for sign, name in ((";", "semicolons"), ("\t", "tabs")) if sign in line and "," not in line), None
    )
    return name and f"Separate columns by commas, not by {name}"


def check_frame_numbers(cells: Sequence[bytes], path: Path) -> None:
    """See to it that the rows of a skeleton file are the frames of its film, if its first column counts them.

    A column counts if it holds whole numbers from 0 up that mostly rise by 1, or all but a few numbers of a range in
    whatever order. A constant, times, scores and numbers of persons do not count, and say nothing.

    Args:
        cells: first column, a cell for each row.
        path: the file.

    Raises:
        DataError: rows are out of order, lost or doubled; names the first row that is not the next frame.
    """
    numbers = _whole_numbers(cells)
    if numbers is None:
        return
    rows = np.arange(len(numbers))
    if numbers[0] <= 1 and (numbers == numbers[0] + rows).all():
        return
    if not _count(numbers):
        return
    first = int(numbers[0] if numbers[0] <= 1 else min(numbers.min(), 1))
    row = int((numbers != first + rows).argmax())
    raise DataError(
        f"frame number {numbers[row]:.0f} stands where {first + row} belongs: {_disorder(cells, numbers, first)}",
        where=path,
        row=row + 1,
        hint="The first column counts frames: write a row for each, from 0 or 1 up, with zeros where nothing was found",
    )


def _whole_numbers(cells: Sequence[bytes]) -> np.ndarray | None:
    """[rows] float64, or None where too few or others than whole numbers from 0 up."""
    try:
        numbers = np.array([float(cell) for cell in cells])
    except ValueError:
        return None
    whole = len(numbers) >= 3 and (numbers >= 0).all() and (numbers < 2**53).all() and (numbers % 1 == 0).all()
    return numbers if whole else None


def _count(numbers: np.ndarray) -> bool:
    distinct, rows = np.unique(numbers), len(numbers)
    if len(distinct) < max(3, rows / 3):  # a number of a person, or of a shot
        return False
    if len(distinct) >= 0.9 * rows and len(distinct) >= 0.5 * (distinct[-1] - distinct[0] + 1):
        return True
    steps = np.diff(numbers)
    return ((steps >= 0) & (steps <= 3)).mean() >= 0.5 and (steps < 0).sum() <= max(1, rows // 10)


def _disorder(cells: Sequence[bytes], numbers: np.ndarray, first: int) -> str:
    """What happened to the rows of the whole file, in words."""
    distinct, places = np.unique(numbers, return_index=True)
    before = max(0, int(distinct[0]) - first)
    lost = int(distinct[-1]) - first + 1 - int((distinct >= first).sum()) - before
    told = []
    if (np.diff(places) < 0).any():
        names = [cell.strip() for cell in cells]
        as_text = names == sorted(names) and "sorted as text (1, 10, 2)"
        told.append(f"the rows are {as_text or 'out of order'}")
    doubled = len(numbers) - len(distinct)
    for count, what in ((before, "lost before the first"), (lost, "lost in between"), (doubled, "doubled")):
        if count:
            told.append(f"{count} row{'s are' if count > 1 else ' is'} {what}")
    return ", ".join(told)


def check_unit(points_N2: np.ndarray, size: tuple[int, int] | None, where: Path | None) -> None:
    """See to it that keypoints can be pixels.

    Args:
        points_N2: the points that are seen, (x, y).
        size: (H, W) of their film, None where it is not known.
        where: their file.

    Raises:
        DataError: most of them lie outside of the film, or within -1..1, in its corner pixel. Not all: of coordinates
            of 0..1, too, some lie a little outside.
    """
    points_N2 = points_N2[points_N2.any(-1)]  # whatever its score, a point at (0, 0) may be a missing one
    if not len(points_N2):
        return
    small = (np.abs(points_N2) <= 1).all(-1).mean()
    share = "all" if small == 1 else f"{small:.0%} of the"
    if size is None:
        if small > 0.5:
            hint = "give keypoints (x, y) in pixels of the film: multiply what lies in 0..1 by its width and height"
            raise DataError(f"{share} points lie within -1..1: they are no pixels", where=where, hint=hint)
        return
    height, width = size
    inside = inside_film(points_N2, size).mean()
    if inside < 0.5:
        wrong = f"{1 - inside:.0%} of the points lie outside of the film of {width} x {height} pixels"
    elif small > 0.5 and min(size) > 2:
        wrong = f"{share} points lie in the corner pixel of the film of {width} x {height}"
    else:
        return
    raise DataError(wrong, where=where, hint="give keypoints (x, y) in pixels of this very film")


def inside_film(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which points [..., 2] (x, y) lie in a film of (H, W) pixels: [...] bool."""
    return np.asarray(((points >= 0) & (points < (size[1], size[0]))).all(-1))
