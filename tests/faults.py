"""Faults made on purpose: full disks, folders that may not be written to or read, readers that leave, signals."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534


@contextlib.contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes; the system says so in the middle of a write, as of a disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """A disk of its own at ``folder``, with such mount options; skips the test where that takes more rights."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a disk cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def a_user() -> Iterator[Path]:
    """A folder of its own, in the body of somebody who is not the superuser (who may read everything)."""
    with tempfile.TemporaryDirectory() as name:
        superuser = os.geteuid() == 0
        if superuser:
            os.chown(name, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            if superuser:
                os.seteuid(0)
            for path in Path(name).rglob("*"):
                path.chmod(0o700)


@contextlib.contextmanager
def output_to(where: str, *, lines: bool) -> Iterator[None]:
    """Standard output to "nobody" (a pipe whose reader has gone), to a "full" disk, or "closed".

    Args:
        where: see above.
        lines: each line is written at once, as to a terminal, instead of all of them at the end.
    """
    if where == "closed":
        with contextlib.redirect_stdout(None):
            yield
        return
    if where == "nobody":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open("/dev/full", os.O_WRONLY)
    with open(writer, "w", buffering=1 if lines else -1) as stream, contextlib.redirect_stdout(stream):
        yield


def kill_at(call: int, number: signal.Signals, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which gets this process a signal at its n-th call."""
    calls = iter(range(1, 10**6))

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return function(*arguments, **options)

    return counted


def files(folder: Path) -> dict[str, bytes | None]:
    """All that is in a folder: files with their content, folders with None."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}
