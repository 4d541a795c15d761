"""Paths as people write them, files written whole, and lock files: what every writer of migcore stands on.

* a reader sees the old content or the new, never a part: temporary name in the same folder, then rename;
* whatever the system says on writing (disk full, no permission) becomes one StorageError, and nothing old is lost;
* a lock names the process, its host and when it started, so that a lock left by a killed process is taken over, also
  when its number has been given to another process since.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from migcore.errors import LedgerError, StorageError


def expanded(path: str | Path) -> Path:
    """A path as somebody wrote it, with ``~`` or ``~user`` at its head for the home folder; no such user: as it is.

    A shell does this by itself, but not within quotes, in a .env file or a Makefile.
    """
    return Path(os.path.expanduser(path))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Args:
        path: the file; missing folders above it are made.
        write: writes the content to the temporary path that it is given, in the same folder.

    Raises:
        StorageError: the disk is full, the folder not writable, or ``path`` a folder or device; it is as it was.
    """
    write_together({path: write})


def write_together(writes: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write files that belong together, each as :func:`write_whole` does, once all of them have been written.

    Args:
        writes: what writes each file, by its path.

    Raises:
        StorageError: as :func:`write_whole`; all of the files are as they were.
    """
    mark = f"{os.getpid()}-{uuid.uuid4().hex[:6]}"
    temporary = {path: path.with_name(f".{path.name}.{mark}") for path in writes}
    try:
        for path, write in writes.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():
                raise StorageError("is no plain file", where=path, hint="Choose another name")
            write(temporary[path])
            with open(temporary[path], "rb+") as file:
                os.fsync(file.fileno())
        for path in writes:
            os.replace(temporary[path], path)
    except Exception as error:
        # safetensors wraps the system's error in one of its own; both mean that the bytes did not arrive.
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            hint = "Free space or choose another disk, then run again; what was there before is intact"
            raise StorageError(f"could not be written ({error})", where=path, hint=hint) from error
        raise
    finally:
        for rest in temporary.values():
            with contextlib.suppress(OSError):
                rest.unlink()


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON, whole (:func:`write_whole`). NaN and infinity are refused with ValueError."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 with its line ends as they are, whole (:func:`write_whole`)."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline=""))


def _started(pid: int) -> str | None:
    """When a process started, as the system writes it; "" if the system does not tell, None if there is no process."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]
    except (OSError, IndexError, ValueError):
        pass
    if sys.platform == "win32":  # signal 0 is no probe there: take the process for alive
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def lock_holder(path: Path) -> dict[str, Any] | None:
    """Who holds a lock file: ``{"pid", "host"}``, or None if nobody does (any more)."""
    for _ in range(20):
        try:
            owner = json.loads(path.read_text(encoding="utf-8"))
            pid, host, started = int(owner["pid"]), str(owner["host"]), str(owner["started"])
            break
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(0.05)  # it may be in the making: created, its owner not written yet
    else:
        return None  # a second on, nobody has signed it: its maker died between the two
    if host == socket.gethostname():
        alive = _started(pid)
        if alive is None or (alive and started and alive != started):
            return None
    return {"pid": pid, "host": host}


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False, what: str = "this file") -> Iterator[bool]:
    """Hold a lock file while the body runs.

    A lock whose process is gone (killed, machine restarted) is taken over. A lock from another host cannot be checked
    and counts as held.

    Args:
        path: the lock file; its folder is made.
        wait: wait for a live holder to finish instead of refusing.
        what: what is being written, for the message.

    Yields:
        whether it had to wait (then the work may already be done).

    Raises:
        LedgerError: a live process holds it and ``wait`` is false.
        StorageError: the lock file cannot be written.
    """
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid()) or ""}
    waited = False
    while True:
        made = False
        try:
            os.makedirs(path.parent, exist_ok=True)
            with contextlib.suppress(FileExistsError), open(path, "x", encoding="utf-8") as file:
                made = True
                file.write(json.dumps(owner))
                break
        except OSError as error:
            if made:  # and not signed: the disk is full
                path.unlink()
            hint = "Free space or choose another folder, then run again"
            raise StorageError(f"could not be written ({error})", where=path, hint=hint) from error
        holder = lock_holder(path)
        if holder is None:
            _remove_dead(path)
        elif wait and holder["pid"] != os.getppid():
            waited = True
            time.sleep(0.2)
        else:
            hint = "Wait for it to end; if there is no such process, delete this file"
            if holder["pid"] == os.getppid():  # waiting for the process that waits for this one would be for ever
                hint = (
                    "That process started this one, which ran its script again: put it under if __name__ == '__main__'"
                )
            raise LedgerError(
                f"{what} is being written by process {holder['pid']} on {holder['host']}", where=path, hint=hint
            )
    try:
        yield waited
    finally:
        path.unlink(missing_ok=True)


def _remove_dead(path: Path) -> None:
    """Remove a lock that nobody holds, also when several processes find it at once."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:6]}")
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, aside)
        # Another process may have removed the dead lock and taken its own in between: then give that one back.
        if lock_holder(aside) is not None and not path.exists():
            os.replace(aside, path)
        aside.unlink(missing_ok=True)
