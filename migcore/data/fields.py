"""Fields of files from elsewhere, typed before they are used.

A pickle says of no field what it is. Each function here takes what was found and the words to say when it is something
else; it returns the wanted type, or raises. Notable choices:
* A number is never made of text, nor of True. A float that is whole is a whole number (3.0, as in label files); 0.7 is
  not.
* Errors know no file: :func:`told_at` adds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from migcore.errors import DataError

_LARGEST = 2**63 - 1
_DEPTH = 5  # one more than any field has axes: lists that hold themselves end here
_NUMBERS = "Write numbers, NaN where one is missing"
_KINDS = {"b": "true and false", "c": "complex numbers", "U": "text", "S": "bytes"}


@contextmanager
def told_at(path: Path | None, row: int | None = None) -> Iterator[None]:
    """Adds the file and the row to a DataError within; what it has already stays."""
    try:
        yield
    except DataError as error:
        where, place = error.where or path, row if error.row is None else error.row
        raise DataError(error.message, where=where, row=place, hint=error.hint) from error.__cause__


def shown(value: Any) -> str:
    """A few words on a value, whatever it is: numbers and short text as they are, of all else what it is."""
    value = _scalar(value)
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, int) and not isinstance(value, np.integer):  # Python refuses to write very long ones
        return str(value) if abs(value) <= _LARGEST else "a number beyond 64 bits"
    if isinstance(value, (int, float, complex, np.number)):
        return str(value)
    if value is None or isinstance(value, (bytes, bytearray)):
        return "None" if value is None else "bytes"
    return f"a {'dict' if isinstance(value, dict) else type(value).__name__}"


def _scalar(value: Any) -> Any:
    """The one entry of an array without axes; all else as it is."""
    return value[()] if isinstance(value, np.ndarray) and not value.ndim else value


def whole_number(value: Any, wrong: str, hint: str | None = None) -> int:
    """A whole number of 64 bits.

    Args:
        value: what the file holds.
        wrong: the message when it is none, to which the value is added.
        hint: what to do then.

    Raises:
        DataError: it is text, true or false, a float that is not whole, not finite, too large, or no number.
    """
    number = _scalar(value)
    if isinstance(number, (int, float, np.integer, np.floating)) and not isinstance(number, bool):
        whole = isinstance(number, (int, np.integer)) or (np.isfinite(number) and number == np.floor(number))
        if whole and -_LARGEST <= int(number) <= _LARGEST:
            return int(number)
    raise DataError(f"{wrong}: {shown(value)}", hint=hint)


def text(value: Any, wrong: str, hint: str | None = None) -> str:
    """Text that is not blank and can be written as UTF-8.

    Raises:
        DataError: it is anything else, a number or bytes included.
    """
    found = _scalar(value)
    if isinstance(found, str) and found.strip():
        try:
            found.encode()
        except UnicodeEncodeError:
            pass
        else:
            return str(found)
    raise DataError(f"{wrong}: {shown(value)}", hint=hint)


def sequence(value: Any) -> list[Any] | None:
    """The entries of a list, a tuple or an array; None if it is none of them."""
    if isinstance(value, np.ndarray):
        return list(value) if value.ndim else None
    return list(value) if isinstance(value, (list, tuple)) else None


def ids(value: Any, of: str) -> list[str]:
    """Ids, each a text that comes once. A set is sorted, so that its order is the same every day.

    Args:
        value: a list, tuple, array or set.
        of: what lists them, such as "split 'train'".

    Raises:
        DataError: it is none of these, an entry is no text, or comes twice; names the entry as row.
    """
    entries = list(value) if isinstance(value, (set, frozenset)) else sequence(value)
    if entries is None:
        raise DataError(f"{of} is no list of ids: {shown(value)}", hint="List the ids of its clips, each a text")
    first: dict[str, int] = {}
    for number, entry in enumerate(entries, start=1):
        with told_at(None, number):
            name = text(entry, f"{of} lists an id that is no text", "Each id is a text, such as '0001_1'")
            if name in first:
                message = f"{of} lists {name!r} twice, as entries {first[name]} and {number}"
                raise DataError(message, hint="List each clip once")
        first[name] = number
    return sorted(first) if isinstance(value, (set, frozenset)) else list(first)


def height_width(value: Any, of: str) -> tuple[int, int]:
    """(height, width) of pictures, from a list, tuple or array of two whole numbers above zero.

    Raises:
        DataError: it is anything else.
    """
    wrong, hint = f"{of} is not (height, width) in whole pixels", "Write two whole numbers, such as (1080, 1920)"
    parts = sequence(value)
    if parts is None or len(parts) != 2:
        found = shown(value) if parts is None else f"{len(parts)} of them"
        raise DataError(f"{wrong}: {found}", hint=hint)
    height, width = (whole_number(part, wrong, hint) for part in parts)
    if min(height, width) < 1:
        raise DataError(f"{wrong}: {(height, width)}", hint=hint)
    return height, width


def real_numbers(value: Any, what: str) -> np.ndarray:
    """A float32 array, from an array of real numbers or from lists of them.

    Args:
        value: what the file holds.
        what: the field in words, such as "keypoints of 'a'".

    Returns:
        A copy, of the shape that the file gives it, which is to be checked. What is not finite stays so.

    Raises:
        DataError: it holds text, true or false, complex numbers, None or the like, lists of different lengths, or a
            number too large for float32.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in _KINDS:
        raise DataError(f"{what} are not numbers: they hold {_KINDS[value.dtype.kind]}", hint=_NUMBERS)
    wide = value if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" else _of_lists(value, what)
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = wide.astype(np.float32)
    lost = np.isinf(narrow) & np.isfinite(wide)
    if lost.any():
        raise DataError(f"{what} hold {shown(wide[lost][0])}, which is too large")
    return narrow


def _of_lists(value: Any, what: str) -> np.ndarray:
    """Nested lists, tuples and arrays as one array, every entry looked at."""
    shape: list[int] = []
    level = [_scalar(value)]
    while any(sequence(each) is not None for each in level):
        rows = [sequence(each) for each in level]
        lengths = {-1 if row is None else len(row) for row in rows}
        if len(lengths) > 1:
            hint = "Give every frame all keypoints, and every person all frames"
            raise DataError(f"{what} are not a regular array: lists within differ in length", hint=hint)
        shape.append(lengths.pop())
        if len(shape) > _DEPTH:
            raise DataError(f"{what} are lists more than {_DEPTH} deep")
        level = [_scalar(each) for row in rows for each in row or ()]
    for number in {type(each): each for each in level}.values():
        if isinstance(number, (bool, np.bool_)) or not isinstance(number, (int, float, np.integer, np.floating)):
            raise DataError(f"{what} are not numbers: they hold {shown(number)}", hint=_NUMBERS)
    try:
        return np.array([float(each) for each in level], dtype=np.float64).reshape(shape)
    except OverflowError as error:
        raise DataError(f"{what} hold a number of more than 300 digits") from error
