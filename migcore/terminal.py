"""What a command's process does with its terminal and with signals.

Output goes to a stream that may fail while a command is at work; a warning is one line; SIGTERM ends a command as
Ctrl-C does.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TextIO

from migcore.errors import StorageError

TERMINATED = 128 + signal.SIGTERM
"""Exit status after SIGTERM."""


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """While the body runs, standard output and error may lose their readers, and each warning is one line, once.

    Of processes that were launched together the first one speaks; the others tell their errors alone.
    """
    first = os.environ.get("RANK", "0") == "0"
    out, errors = _Stream(sys.stdout if first else None), _Stream(sys.stderr, fails=False)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), warnings.catch_warnings():
        warnings.showwarning = _notes() if first else lambda *_, **__: None
        yield


def _notes() -> Callable[..., None]:
    """Prints each warning as a line, once: a data set may be opened several times."""
    told = set()

    def note(message: Warning | str, *_: Any) -> None:
        line = " ".join(f"migcore: note: {message}".splitlines())
        if line not in told:
            told.add(line)
            print(line, file=sys.stderr)

    return note


@contextlib.contextmanager
def unwound() -> Iterator[None]:
    """SIGTERM ends the body as Ctrl-C does, by an exception: locks and temporary files go."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    main = threading.current_thread() is threading.main_thread()  # Python lets no other thread set handlers
    before = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


class _Stream:
    """Standard output or error, which may fail while a command is at work.

    When its reader has gone, as after ``| head``, the rest goes nowhere and the work is done to its end. Any other
    fault, such as a full disk, is a StorageError.

    Args:
        stream: what is written to; None, as after ``>&-``, for nothing.
        fails: whether faults are errors; those of standard error could be told nowhere.
    """

    def __init__(self, stream: TextIO | None, *, fails: bool = True) -> None:
        self._stream, self._fails = stream or io.StringIO(), fails

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._told():
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:  # a terminal, or a file's name, of another encoding
                self._stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        return len(text)

    def flush(self) -> None:
        with self._told():
            self._stream.flush()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # so that the flush at exit has somewhere to go
            os.close(nowhere)
            if self._fails and not isinstance(error, BrokenPipeError):
                hint = "Free space or send it elsewhere, then run again"
                raise StorageError(f"the output could not be written ({error})", hint=hint) from error
