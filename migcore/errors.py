"""The one family of errors a user of migcore has to know.

A message says what was wrong, where (file, row), and what to do about it. Wrong files, wrong shapes and wrong values
end in a MigcoreError. An argument of the wrong Python type (a number for a path, an array for a tensor) is Python's own
error, or that of the library it is handed to.
"""

from __future__ import annotations

from pathlib import Path


class MigcoreError(Exception):
    """Base of every error that migcore raises on purpose.

    Args:
        message: what was wrong, one sentence without a full stop.
        where: file, or file and row, in which it was found.
        row: 1-based row of ``where``, when there is one.
        hint: what to do.
    """

    def __init__(
        self, message: str, *, where: str | Path | None = None, row: int | None = None, hint: str | None = None
    ) -> None:
        self.message, self.where, self.row, self.hint = message, where, row, hint
        place = "" if where is None else f"{where}{'' if row is None else f', row {row}'}: "
        text = f"{place}{message}{'' if hint is None else f'. {hint}'}"
        super().__init__(" ".join(text.splitlines()))  # one line, whatever a damaged file put into it


class DataError(MigcoreError):
    """A film, skeleton file, label file or array does not hold what it should."""


class ConfigError(MigcoreError):
    """A preset, field, layout, class or experiment is unknown, or a value is out of range."""


class CheckpointError(MigcoreError):
    """Weights or training state cannot be read or do not fit the model."""


class LedgerError(MigcoreError):
    """A run record cannot be written, is locked by another writer, or is damaged."""


class StorageError(MigcoreError):
    """A file could not be written (full disk, no permission); what had been written before is intact."""
