"""migcore.errors: one family, and messages that say what, where and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from migcore import errors
from migcore.errors import DataError, MigcoreError


@pytest.mark.parametrize("name", ["DataError", "ConfigError", "CheckpointError", "LedgerError", "StorageError"])
def test_every_error_is_a_migcore_error(name: str) -> None:
    kind = getattr(errors, name)
    with pytest.raises(MigcoreError, match=r"^it broke$"):
        raise kind("it broke")


def test_a_message_names_file_row_and_remedy() -> None:
    error = DataError("is empty", where=Path("a/b.csv"), row=3, hint="fill it")
    assert str(error) == f"{Path('a/b.csv')}, row 3: is empty. fill it"
    assert (error.message, error.where, error.row, error.hint) == ("is empty", Path("a/b.csv"), 3, "fill it")


def test_a_message_is_one_line() -> None:
    assert str(DataError("holds 'a\nb\r\nc'", where="x.pkl", hint="mend\nit")) == "x.pkl: holds 'a b c'. mend it"


def test_a_row_without_a_file_and_a_file_without_a_row() -> None:
    assert str(DataError("is empty", row=3)) == "is empty"
    assert str(DataError("is empty", where="b.csv")) == "b.csv: is empty"


def test_no_error_hides_another_family() -> None:
    assert not issubclass(MigcoreError, (OSError, ValueError, KeyError))
