"""Files are whole or not there, and a lock has one holder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from migcore.errors import LedgerError, StorageError
from migcore.files import lock_holder, locked, write_json, write_text, write_together, write_whole
from tests.faults import files, full_after

HOLD = """
import sys, time
from pathlib import Path
from migcore.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(path: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that holds the lock for so long."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_json_and_text_come_back_as_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "b.json", {"é": [1, 2.5, None]})
    assert json.loads((tmp_path / "a" / "b.json").read_text(encoding="utf-8")) == {"é": [1, 2.5, None]}
    write_text(tmp_path / "t", "x\r\ny\n")
    assert (tmp_path / "t").read_bytes() == b"x\r\ny\n"


def test_a_failed_write_leaves_the_old_content_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def half(temporary: Path) -> None:
        temporary.write_text("ne")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write_whole(path, half)
    with pytest.raises(ValueError):
        write_json(path, float("nan"))
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_a_storage_error_that_names_the_file(tmp_path: Path) -> None:
    """With a limit on file sizes, which the system enforces as it does a full disk: in the middle of a write."""
    code = f"""
import resource, signal, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from migcore.errors import StorageError
from migcore.files import write_text, write_whole
root = Path({str(tmp_path)!r})
write_text(root / "f", "old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (lambda p: p.write_text("x" * 5000), lambda p: save_file({{"x": np.zeros(5000)}}, p)):
    try:
        write_whole(root / "f", write)
    except StorageError as error:
        assert str(error).startswith(str(root / "f")), error
        print(type(error).__name__, (root / "f").read_text(), len(list(root.iterdir())))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "StorageError old 1\n" * 2, done.stderr


@pytest.mark.parametrize("size", [0, 10])
def test_files_that_belong_together_are_all_new_or_all_old(size: int, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "new" / "two"
    writes = {one: lambda new: new.write_text("newer"), two: lambda new: new.write_text("newer than 10 bytes")}
    write_text(one, "old")
    two.parent.mkdir()
    with full_after(size), pytest.raises(StorageError, match="one" if size == 0 else "new/two"):
        write_together(writes)
    assert files(tmp_path) == {"one": b"old", "new": None}
    write_together(writes)
    assert files(tmp_path) == {"one": b"newer", "new": None, "new/two": b"newer than 10 bytes"}


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_plain_file_is_not_replaced(make: Any, tmp_path: Path) -> None:
    """Such as a device: as the superuser, a rename would take its place."""
    make(tmp_path / "two")
    with pytest.raises(StorageError, match="two: is no plain file"):
        write_together({tmp_path / name: partial(Path.write_text, data="new") for name in ("one", "two")})
    assert os.listdir(tmp_path) == ["two"] and not (tmp_path / "two").is_file()


def test_no_permission_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/below"):
        write_text(tmp_path / "file" / "below", "x")
    with pytest.raises(StorageError, match="lock"), locked(tmp_path / "file" / "lock"):
        pass


def test_a_second_live_writer_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = hold(path, 30)
    try:
        refusal = f"run 7 is being written by process {process.pid} on "
        with pytest.raises(LedgerError, match=refusal), locked(path, what="run 7"):
            pass
        assert lock_holder(path) is not None
    finally:
        process.kill()
        process.wait()


def test_a_full_disk_leaves_no_lock(tmp_path: Path) -> None:
    with full_after(5), pytest.raises(StorageError, match=r"lock: could not be written"), locked(tmp_path / "lock"):
        pass
    assert os.listdir(tmp_path) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = hold(path, 30)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists() and lock_holder(path) is None
    with locked(path) as waited:
        assert not waited and lock_holder(path) == {"pid": os.getpid(), "host": os.uname().nodename}
    assert os.listdir(tmp_path) == []


def test_waiting_ends_with_the_holder(tmp_path: Path) -> None:
    process = hold(tmp_path / "lock", 0.3)
    started = time.perf_counter()
    with locked(tmp_path / "lock", wait=True) as waited:
        assert waited and time.perf_counter() - started > 0.2
    process.wait()


def test_a_process_number_given_to_another_since_does_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path):
        owner = json.loads(path.read_text())
    write_json(path, {**owner, "started": "1"})
    assert lock_holder(path) is None


def test_another_host_holds_and_an_unsigned_lock_does_not(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_json(path, {"pid": 1, "host": "elsewhere", "started": ""})
    with pytest.raises(LedgerError, match="process 1 on elsewhere"), locked(path):
        pass
    path.write_text("")
    with locked(path):
        pass


def test_a_child_does_not_wait_for_its_parent(tmp_path: Path) -> None:
    """As the workers of a script without a __main__ guard would, for ever."""
    code = HOLD.replace("Path(sys.argv[1])", "Path(sys.argv[1]), wait=True")
    with locked(tmp_path / "lock"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "lock"), "0"], capture_output=True, text=True, timeout=60
        )
    assert "if __name__ == '__main__'" in done.stderr


def test_the_lock_goes_when_the_body_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "lock"):
        raise KeyError
    assert os.listdir(tmp_path) == []
