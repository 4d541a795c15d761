"""Runs carried from one machine to another in one small archive, as from a GPU workstation to a laptop.

An archive is a zip of run folders: ``run.json`` and ``arrays.safetensors`` of those that are finished, and, if asked
for, the newest whole checkpoint of those that are not, from which the next shard goes on. Notable choices:

* the same runs give the same bytes (on one build of zlib): names are sorted, and no time, owner or machine goes in;
* what comes in is foreign: names are matched against the few that :func:`pack` writes, sizes are bounded, and
  everything is unpacked and checked in a temporary folder before the first file of the ledger is touched;
* merging adds and never removes: a run that is here stays as it is.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args, get_origin, get_type_hints

from safetensors import SafetensorError, safe_open

from migcore import resume
from migcore.errors import CheckpointError, LedgerError, StorageError
from migcore.files import lock_holder, locked, write_together, write_whole
from migcore.ledger import UNSTORED, Ledger, Run, read_run

RECORD, ARRAYS = "run.json", "arrays.safetensors"
LARGEST = {RECORD: 2**24, ARRAYS: 2**28, "checkpoint": 2**32}
"""Bytes that a file of each kind may have in an archive."""
LARGEST_TOTAL = 2**34
"""Bytes that an archive may have, unpacked."""

_CHECKPOINT = r"checkpoints/step-(?P<step>[0-9]{8})\.safetensors"
_MEMBER = re.compile(
    rf"(?P<run>[a-z0-9_]{{1,64}}-seed(0|[1-9][0-9]{{0,18}})-[0-9a-f]{{16}})"
    rf"/(?P<file>{re.escape(RECORD)}|{re.escape(ARRAYS)}|{_CHECKPOINT})"
)
# Reading a record imports the packages that its modules are in: only this one's, and not those that run on import.
_MODULE = re.compile(r"migcore(\.[a-z][a-z0-9_]*)*(:[A-Za-z0-9_,]+)?")
# All that zipfile says about bytes that are not a zip, are damaged, encrypted, or of an unknown kind.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, OverflowError, RuntimeError, ValueError)
_CHUNK = 2**20


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        name: its folder.
        done: "packed" or "left out" by :func:`pack`; "merged", "skipped" (nothing new) or "kept" (ours differs and
            stays) by :func:`merge`.
        why: the reason, or what is special about it; may be empty.
        stale: it is finished, and its code has changed since.
    """

    name: str
    done: Literal["packed", "left out", "merged", "skipped", "kept"]
    why: str = ""
    stale: bool = False

    def __str__(self) -> str:
        return f"{self.done} {self.name}{self.why and f': {self.why}'}"


# ---------------------------------------------------------------------------------------------------------------- pack


def pack(ledger: Ledger, out: Path, keys: Sequence[str] = (), *, unfinished: bool = False) -> list[Outcome]:
    """Write fresh runs, record and arrays without weights, into one archive.

    Args:
        ledger: its fresh runs are packed, those made by older code left out.
        out: the archive.
        keys: only runs whose key begins with one of these; empty for all.
        unfinished: also pack the newest whole checkpoint of each run that is not finished.

    Returns:
        what became of each run.

    Raises:
        LedgerError: there is nothing to pack, for one of the keys or at all; a run is damaged, or goes meanwhile; or
            ``out`` is there and no such archive.
        StorageError: the archive could not be written; what was there before is intact.
    """
    _check_replaceable(out)
    outcomes: list[Outcome] = []
    files: dict[str, Path] = {}
    for folder in sorted(ledger.runs.glob("*-seed*-*")):
        name = folder.name
        if keys and not any(key and _key(name).startswith(key) for key in keys):
            continue
        if (folder / RECORD).is_file():
            if _check_run(folder, folder, "Delete its folder; the run will be made again").stale:
                outcomes.append(Outcome(name, "left out", "made by code that has changed since", stale=True))
                continue
            outcomes.append(Outcome(name, "packed"))
            files |= {f"{name}/{file}": folder / file for file in (RECORD, ARRAYS)}
        elif not unfinished:
            if any((folder / "checkpoints").glob("step-*.safetensors")):
                outcomes.append(Outcome(name, "left out", "unfinished"))
        elif found := _newest_checkpoint(folder):
            path, step = found
            outcomes.append(Outcome(name, "packed", f"unfinished, step {step}"))
            files[f"{name}/checkpoints/{path.name}"] = path
    packed = [_key(outcome.name) for outcome in outcomes if outcome.done == "packed"]
    for wanted in keys or [""]:
        if not any(key.startswith(wanted) for key in packed):
            left = [f"{o.name} is left out: {o.why}" for o in outcomes if _key(o.name).startswith(wanted)]
            which = f" whose key begins with {wanted!r}" if keys else ""
            hint = "; ".join(left) or "`migcore runs` lists them"
            raise LedgerError(f"there is no run to pack{which}", where=ledger.runs, hint=hint)
    write_whole(out, partial(_write_zip, files))
    return outcomes


def _check_replaceable(out: Path) -> None:
    """LedgerError if a file is there that :func:`pack` has not written: nothing else is ever replaced."""
    if not os.path.isfile(out):  # isfile raises nothing where a folder above may not be looked into
        return
    try:
        with zipfile.ZipFile(out) as opened:
            _members(opened, out)
    except (*_DAMAGE, LedgerError) as error:
        hint = "Give another name, or take it away"
        raise LedgerError("is no archive of runs, and would be replaced", where=out, hint=hint) from error


def _key(name: str) -> str:
    return name.rpartition("-")[2]


def _newest_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The newest whole checkpoint of an unfinished run and its step; None if it has none."""
    for path in sorted((folder / "checkpoints").glob("step-*.safetensors"), reverse=True):
        if match := _MEMBER.fullmatch(f"{folder.name}/checkpoints/{path.name}"):
            with contextlib.suppress(CheckpointError):
                _check_checkpoint(path, path, int(match["step"]))
                return path, int(match["step"])
    return None


def _write_zip(files: Mapping[str, Path], path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name)  # of 1980, whatever the clock says
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16  # as on Unix, on every system
            with _opened(files[name]) as source:
                info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, os.fstat(source.fileno()).st_size
                with archive.open(info, "w") as target:
                    shutil.copyfileobj(source, target, _CHUNK)


def _opened(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        hint = "Has its run gone on, or been deleted, since packing began? Pack again"
        raise LedgerError(f"cannot be read ({error.strerror})", where=path, hint=hint) from error


# --------------------------------------------------------------------------------------------------------------- merge


def merge(ledger: Ledger, archive: Path, *, record: bool = False) -> list[Outcome]:
    """Take up the runs of an archive.

    Everything is checked first: a single damaged or foreign file in the archive, and nothing is merged.

    Args:
        ledger: where to.
        archive: written by :func:`pack`.
        record: into the recorded runs instead of the fresh ones; unfinished runs then stay in the archive.

    Returns:
        what became of each run.

    Raises:
        LedgerError: the archive is damaged, or holds a file that does not belong there; a record does not parse, is
            not that of its folder, or its arrays do not have the clips that it lists; the run's folder here is damaged;
            there is no folder of recorded runs; a run is being made here, or has been since all was checked.
        CheckpointError: a checkpoint is damaged.
        StorageError: the disk is full; each run is merged whole or not at all.
    """
    root = ledger.recorded if record else ledger.runs
    if root is None:
        raise LedgerError("there is no folder for recorded runs", hint="Run migcore from a checkout of its repository")
    with _temporary_folder() as staging:
        steps = _unpack(archive, staging)
        planned = [
            _plan_finished(staging / name, archive / name, root / name)
            if step is None
            else _plan_unfinished(staging / name, archive / name, root / name, step, record)
            for name, step in steps.items()
        ]
        for outcome in planned:
            if outcome.done == "merged":
                _move(staging / outcome.name, root / outcome.name)
    return planned


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="migcore-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StorageError(f"there is no folder for temporary files ({error})", hint="Set TMPDIR to one") from error
    with folder as name:
        yield Path(name)


def _unpack(archive: Path, staging: Path) -> dict[str, int | None]:
    """Unpack an archive; its runs by name, with the step of the checkpoint of those that are unfinished."""
    again = "Pack it again, and copy it in binary mode"
    try:
        opened = zipfile.ZipFile(archive)
    except _DAMAGE as error:
        raise LedgerError(f"is no archive that can be read ({error})", where=archive, hint=again) from error
    with opened:
        found: dict[str, list[str]] = {}
        steps: dict[str, int | None] = {}
        for info, match in _members(opened, archive):
            try:
                write_whole(staging / info.filename, partial(_extract, opened, info))
            except _Damaged as error:
                where = archive / info.filename
                raise LedgerError(f"is damaged ({error.__cause__})", where=where, hint=again) from error
            found.setdefault(match["run"], []).append(match["file"])
            steps[match["run"]] = None if match["step"] is None else int(match["step"])
    for run, files in found.items():
        if sorted(files) != [ARRAYS, RECORD] and not (len(files) == 1 and steps[run] is not None):
            what = f"holds {', '.join(sorted(files))}, not a record with its arrays or one checkpoint"
            raise LedgerError(what, where=archive / run, hint=again)
    return dict(sorted(steps.items()))


def _members(opened: zipfile.ZipFile, archive: Path) -> list[tuple[zipfile.ZipInfo, re.Match[str]]]:
    """What an archive holds, once all of it has been found to be nothing but files that :func:`pack` writes."""
    members, total = {}, 0
    for info in opened.infolist():
        name = info.orig_filename
        match = _MEMBER.fullmatch(name)
        total += info.file_size
        if match is None or info.filename != name:
            wrong = f"holds {name!r}, which is not a file of a run"
        elif stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            wrong = f"holds {name!r}, which is a link or something else than a plain file"
        elif name in members:
            wrong = f"holds {name!r} twice"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            wrong = f"holds {name!r} encrypted, or packed in a way that is not used here"
        elif info.file_size > LARGEST.get(match["file"], LARGEST["checkpoint"]) or total > LARGEST_TOTAL:
            wrong = f"holds {name!r} with {info.file_size} bytes, more than are accepted"
        else:
            members[name] = (info, match)
            continue
        raise LedgerError(wrong, where=archive, hint="Only archives of `migcore runs pack` can be merged")
    if not members:
        raise LedgerError("holds no run", where=archive)
    return list(members.values())


class _Damaged(Exception):
    """Reading a member failed, for the reason in ``__cause__``; a failed write raises OSError."""


def _extract(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """Unpack one member; zipfile gives no more bytes than it declares, and checks their CRC."""
    with open(path, "wb") as target:
        for chunk in _chunks(opened, info):
            target.write(chunk)


def _chunks(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    try:
        with opened.open(info) as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except _DAMAGE as error:
        raise _Damaged from error


def _plan_finished(staged: Path, where: Path, target: Path) -> Outcome:
    stale = _check_run(staged, where, "Pack it again").stale
    plan = partial(Outcome, target.name, stale=stale)
    if (target / RECORD).exists():
        _check_run(target, target, "Delete its folder, then merge again")
        same = all(filecmp.cmp(staged / file, target / file, shallow=False) for file in (RECORD, ARRAYS))
        return plan("skipped", "the same is here") if same else plan("kept", "ours has the same key and other content")
    return _unless_locked(target) or plan("merged")


def _plan_unfinished(staged: Path, where: Path, target: Path, step: int, record: bool) -> Outcome:
    file = f"checkpoints/step-{step:08d}.safetensors"
    _check_checkpoint(staged / file, where / file, step)
    plan = partial(Outcome, target.name)
    if record:
        return plan("left out", f"unfinished, step {step}: only finished runs are recorded")
    if (target / RECORD).exists():
        return plan("skipped", f"unfinished, step {step}: it is finished here")
    here = _newest_checkpoint(target)
    if here is not None and here[1] >= step:
        if here[1] == step and filecmp.cmp(staged / file, here[0], shallow=False):
            return plan("skipped", f"unfinished, step {step}: the same is here")
        return plan("kept", f"unfinished, step {step}: ours is at step {here[1]}")
    return _unless_locked(target) or plan("merged", f"unfinished, step {step}")


def _unless_locked(target: Path) -> Outcome | None:
    holder = lock_holder(target / "lock")
    if holder is None:
        return None
    return Outcome(target.name, "kept", f"process {holder['pid']} on {holder['host']} is making it here")


def _move(staged: Path, target: Path) -> None:
    """Move the files of a run to where they belong, all or none, the record last."""
    files = sorted(path.relative_to(staged) for path in staged.rglob("*") if path.is_file())  # arrays, then record
    with _no_empty_folder(target), locked(target / "lock", what=target.name):
        if (target / RECORD).exists():
            raise LedgerError("has been made here since merging began", where=target, hint="Merge again; it stays")
        write_together({target / file: partial(shutil.copyfile, staged / file) for file in files})


@contextlib.contextmanager
def _no_empty_folder(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        for path in (folder / "checkpoints", folder, folder.parent):
            with contextlib.suppress(OSError):  # not empty, or not there
                path.rmdir()


# -------------------------------------------------------------------------------------------------------------- checks


def _check_run(folder: Path, where: Path, hint: str) -> Run:
    """The run in a folder, once its record and arrays have been found to be what they should.

    Args:
        folder: holds ``run.json`` and ``arrays.safetensors``.
        where: what errors call that folder.
        hint: of errors.
    """
    try:
        values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        json.dumps(values, allow_nan=False, ensure_ascii=False).encode()  # fails on NaN and on halves of a character
        hints = {name: kind for name, kind in get_type_hints(Run).items() if name not in UNSTORED}
        wrong = [name for name, value in values.items() if name not in hints or not _is(value, hints[name])]
        wrong += [] if wrong else [repr(m) for m in values.get("modules", ()) if not _MODULE.fullmatch(m)]
        if wrong:
            raise ValueError(f"{wrong[0]} is not as it should be")
        run = read_run(folder / RECORD)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise LedgerError(f"is not a run record ({error})", where=where / RECORD, hint=hint) from error
    except LedgerError as error:
        raise LedgerError(error.message, where=where / RECORD, hint=hint) from error
    if run.name != where.name:
        raise LedgerError(f"is the record of {run.name}", where=where / RECORD, hint=hint)
    wrong_arrays = _wrong_arrays(folder / ARRAYS, run)
    if wrong_arrays:
        raise LedgerError(wrong_arrays, where=where / ARRAYS, hint=hint)
    return run


def _is(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is of a type such as ``dict[str, list[float]]``."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is dict:
        return isinstance(value, dict) and all(_is(item, inner[1]) for item in value.values())
    if kind is list:
        return isinstance(value, list) and all(_is(item, inner[0]) for item in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return kind is Any or isinstance(value, kind)


def _wrong_arrays(path: Path, run: Run) -> str:
    """What is wrong with the arrays of a run; empty if they can be read and have the clips that it lists."""
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, AttributeError, TypeError, ValueError) as error:  # the latter: unknown types
        return f"cannot be read ({error})"
    for split, clips in run.clips.items():
        n = len(clips.get("ids", ()))
        if len(clips.get("subjects", ())) != n:
            return f"belongs to a record with {n} clips in {split} and {len(clips.get('subjects', ()))} subjects"
        for name, axes, kinds in (("logits", 2, "f"), ("labels", 1, "iu")):
            array = arrays.get(f"{split}.{name}")
            if array is None or array.ndim != axes or array.dtype.kind not in kinds:
                return f"holds no {name} of {split}"
        for name, array in arrays.items():
            if name.startswith(f"{split}.") and array.shape[:1] != (n,):
                return f"holds {name} of shape {list(array.shape)}, but the record lists {n} clips"
    unlisted = [name for name in arrays if name.endswith(".logits") and name.removesuffix(".logits") not in run.clips]
    return f"holds {unlisted[0]}, whose clips the record does not list" if unlisted else ""


def _check_checkpoint(path: Path, where: Path, step: int) -> None:
    """Raise CheckpointError if a checkpoint is damaged or not of that step."""
    try:
        _, state = resume._read(path)  # whole, and with the checksum that it was written with
        state.pop("identity")
        progress = resume.Progress(**state)
        fits = progress.step == step
    except CheckpointError as error:
        raise CheckpointError(error.message, where=where, hint="Pack it again") from error
    except (AttributeError, KeyError, RecursionError, TypeError) as error:  # JSON, but not what this program writes
        raise CheckpointError(f"is damaged ({error!r})", where=where, hint="Pack it again") from error
    if not fits:
        raise CheckpointError(f"is a checkpoint of step {progress.step}", where=where, hint="Pack it again")
