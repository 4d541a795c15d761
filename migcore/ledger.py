"""Run records: what was trained with which configuration, data and code, what came out, and where it is kept.

A run's key is the hash of three things: its resolved configuration, the identity of its data, and the source of the
modules that decide its numbers. A run with that key is loaded, not repeated. Notable choices:

* the source hash reads the syntax tree without comments and docstrings, in a form that does not depend on the Python
  version, so that wording a docstring retrains nothing and a workstation's record is valid on a laptop;
* a run is a folder ``<experiment>-seed<n>-<key>``: ``arrays.safetensors`` first, ``run.json`` last, each written whole,
  so a folder without ``run.json`` is unfinished work and nothing else;
* one writer per run: a lock file holds process and host, and is taken over when that process is gone.

By itself, for work of one's own (``mine.train`` stands for the module that decides the numbers)::

    import numpy as np
    from migcore.ledger import Ledger, Run, now, run_key, source_hash

    modules = ["mine.train"]
    config, data = {"lr": 0.1, "epochs": 3}, "my clips, version 1"
    book, key = Ledger("runs"), run_key(config, data, modules)
    run = book.get(key)
    if run is None:
        logits, labels = np.random.randn(40, 5).astype(np.float32), np.arange(40) % 5  # your training
        run = Run(
            key=key, experiment="mine", preset="small", seed=0, config=config, data=data,
            code=source_hash(modules), modules=modules, created=now(),
            metrics={"test": {"top1": float((logits.argmax(1) == labels).mean())}},
        )
        run = book.save(run, {"test.logits": logits, "test.labels": labels})
    book.load_arrays(run, "test")["logits"].shape  # (40, 5)
    [found.key for found in book.find("mine")]  # newest first; run.stale after an edit of mine/train.py
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import datetime
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from migcore.errors import ConfigError, LedgerError
from migcore.files import lock_holder, locked, write_together

NO_NUMBERS = {"numbers": False}
"""Metadata of a dataclass field that cannot change a result (a path, a worker count): left out of the key."""


# ---------------------------------------------------------------------------------------------------------------- keys


def canonical(value: Any) -> Any:
    """``value`` as plain JSON types: dataclasses become dicts (without ``NO_NUMBERS`` fields), tuples become lists.

    Raises:
        ConfigError: a part of it has no such form (a module, an open file, NaN …).
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f for f in dataclasses.fields(value) if f.metadata.get("numbers", True)]
        return {f.name: canonical(getattr(value, f.name)) for f in fields}
    if isinstance(value, Mapping):
        return {str(k): canonical(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(v) for v in value]
    if isinstance(value, (np.integer, np.floating)):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and np.isfinite(value)):
        return value
    raise ConfigError(f"{value!r} cannot be part of a run's configuration")


def canonical_json(value: Any) -> str:
    """:func:`canonical` as one line of JSON with sorted keys."""
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _plain(node: Any) -> Any:
    """Syntax tree → nested lists without positions, empty fields, comments or strings that stand as statements."""
    if isinstance(node, ast.JoinedStr):  # Python 3.12 leaves empty constants between the parts of some f-strings
        node = ast.JoinedStr([v for v in node.values if not (isinstance(v, ast.Constant) and v.value == "")])
    if isinstance(node, ast.AST):
        fields = [
            (name, _plain(value)) for name, value in ast.iter_fields(node) if name not in ("kind", "type_comment")
        ]
        # Newer Pythons add fields that are empty in older code: an empty field and an absent one must look alike.
        return [type(node).__name__, *([name, value] for name, value in fields if value not in (None, []))]
    if isinstance(node, list):
        return [_plain(item) for item in node if not _is_docstring(item)]
    return None if node is None else repr(node)


def _is_docstring(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _defines(statement: ast.stmt) -> set[str]:
    """Names that a top-level statement defines or assigns."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def hash_text(source: str, names: Sequence[str] = ()) -> str:
    """Hash of Python source that comments, docstrings, layout and the Python version do not change.

    Args:
        source: a module's text.
        names: only the top-level definitions of these names (functions, classes, constants); empty for all.

    Raises:
        ConfigError: it is no Python, or a name is not defined at the top level.
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError) as error:  # the latter: a null byte
        raise ConfigError(f"is no Python source ({error})") from error
    if names:
        missing = set(names) - set().union(*map(_defines, body))
        if missing:
            raise ConfigError(f"{', '.join(sorted(missing))} not defined at the top level of the module")
        body = [statement for statement in body if _defines(statement) & set(names)]
    return hashlib.sha256(json.dumps(_plain(body)).encode()).hexdigest()


@cache
def _hash_module(entry: str, path: str, changed: int) -> str:
    names = entry.partition(":")[2]
    return hash_text(Path(path).read_text(encoding="utf-8"), names.split(",") if names else ())


def source_hash(modules: Sequence[str]) -> str:
    """Hash of the source of modules (:func:`hash_text`).

    Args:
        modules: dotted names; ``"package.module:Name,other"`` takes only those definitions of the module.

    Returns:
        64 hexadecimal digits; the order of ``modules`` does not matter.

    Raises:
        ConfigError: a module or name does not exist, or a module has no Python source that can be read.
    """
    if isinstance(modules, str) or not isinstance(modules, Sequence) or not all(isinstance(m, str) for m in modules):
        raise ConfigError(f"modules {modules!r}", hint='give a list of dotted names, such as ["mine.train"]')
    found = {}
    for entry in modules:
        path = _source_of(entry.partition(":")[0])
        try:
            found[entry] = _hash_module(entry, path, os.stat(path).st_mtime_ns)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot be read ({error})", where=path) from error
        except ConfigError as error:
            raise ConfigError(error.message, where=path) from error
    return hashlib.sha256(canonical_json(found).encode()).hexdigest()


def _source_of(module: str) -> str:
    """File of a module's source. ConfigError if there is none: no such module, or one that is built in or compiled."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    except Exception as error:  # packages around it are imported: whatever their code says, it has no source to hash
        raise ConfigError(f"no module {module} to take the source of ({error})") from error
    if spec is None or spec.origin is None:
        raise ConfigError(f"no module {module} to take the source of")
    if not spec.origin.endswith(tuple(importlib.machinery.SOURCE_SUFFIXES)):
        raise ConfigError(f"module {module} has no Python source", hint="it is built in or compiled")
    return spec.origin


def run_key(config: Any, data: str, modules: Sequence[str]) -> str:
    """Key of a run: 16 hexadecimal digits of SHA-256 over (resolved config, data identity, source hash).

    Args:
        config: dataclass, dict or any nesting of them (:func:`canonical`).
        data: identity of the data set.
        modules: the modules that decide the numbers (:func:`source_hash`).
    """
    parts = {"config": canonical(config), "data": data, "code": source_hash(modules)}
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------------------- runs


@dataclasses.dataclass
class Run:
    """One record.

    Attributes:
        key: :func:`run_key`.
        experiment, preset, seed: what was run; ``preset`` carries overrides in its label.
        config: resolved configuration, in canonical form.
        data: identity of the data set.
        code: source hash of ``modules`` when it ran.
        modules: the modules that decide its numbers.
        depends: keys of the runs whose arrays went in, by experiment name.
        metrics: per split, what :func:`migcore.metrics.classification` returned (0..1).
        history: one dict per epoch.
        clips: per split, ``{"ids": [...], "subjects": [...]}`` in the order of the logits.
        device, seconds, created, commit, versions: where, how long, when (UTC), and with what it ran.
        extra: anything else worth keeping, JSON types only.
        stale: its code has changed since ("recorded with an older version"); worked out on reading, never stored.
        folder: where it was read from; never stored.
    """

    key: str
    experiment: str
    preset: str
    seed: int
    config: dict[str, Any]
    data: str
    code: str
    modules: list[str]
    depends: dict[str, str] = dataclasses.field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    clips: dict[str, dict[str, list[str]]] = dataclasses.field(default_factory=dict)
    device: str = ""
    seconds: float = 0.0
    created: str = ""
    commit: str = ""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    stale: bool = False
    folder: Path | None = None

    @property
    def name(self) -> str:
        """Name of its folder (:func:`run_name`)."""
        return run_name(self.experiment, self.seed, self.key)


def run_name(experiment: str, seed: int, key: str) -> str:
    """Folder name of a run: ``<experiment>-seed<n>-<key>``."""
    return f"{experiment}-seed{seed}-{key}"


UNSTORED = ("stale", "folder")
"""Fields of a run that are worked out on reading."""


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that numbers depend on."""
    from importlib.metadata import version

    return {"python": sys.version.split()[0], **{p: version(p) for p in ("numpy", "torch", "accelerate", "av")}}


def source_root() -> Path | None:
    """Root of the repository this package is run from, or None when it is installed elsewhere."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() and (root / "migcore").is_dir() else None


def source_commit() -> str:
    """Short commit of the source checkout, "+" behind it when tracked files differ from it; "" outside a checkout."""
    root = source_root()
    if root is None:
        return ""
    try:
        git = ["git", "-C", str(root)]
        head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def read_run(path: Path) -> Run:
    """The run of a record, with ``stale`` and ``folder`` set.

    Args:
        path: a ``run.json``.

    Raises:
        LedgerError: there is no such file, or it is not a run record.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        hint = "Give the path of a run.json"
        raise LedgerError(f"cannot be read ({error.strerror})", where=path, hint=hint) from error
    try:
        run = Run(**json.loads(content.decode("utf-8")), folder=path.parent)
    except (ValueError, TypeError, RecursionError) as error:
        hint = "Delete its folder; the run will be made again"
        raise LedgerError(f"is not a run record ({error})", where=path, hint=hint) from error
    try:
        run.stale = source_hash(run.modules) != run.code
    except ConfigError:  # a module it was made with is gone, or is no Python at the moment
        run.stale = True
    return run


# -------------------------------------------------------------------------------------------------------------- ledger

_EXPERIMENT, _KEY = re.compile(r"[A-Za-z0-9_]+"), re.compile(r"[0-9a-f]{16}")


def _json(value: object) -> bytes:
    """``value`` as indented JSON. ValueError or TypeError for what has no such form (NaN, an array, half a letter)."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _record(run: Run) -> bytes:
    """What a run's ``run.json`` holds. LedgerError names the field that cannot be written."""
    values = {f.name: getattr(run, f.name) for f in dataclasses.fields(run) if f.name not in UNSTORED}
    for name, value in values.items():
        try:
            _json(value)
        except (ValueError, TypeError, RecursionError) as error:
            hint = "Give JSON types alone: texts, finite numbers, bools, None, lists, and dicts with texts as keys"
            raise LedgerError(f"field {name!r} of {run.name} cannot be written ({error})", hint=hint) from error
    return _json(values)


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays as they are written. LedgerError names one that holds no numbers."""
    tensors = {}
    for name, array in arrays.items():
        try:
            tensors[name] = np.ascontiguousarray(array)
        except ValueError as error:  # rows of different lengths
            raise LedgerError(f"array {name!r} is none ({error})") from error
        kind = tensors[name].dtype
        if kind.kind not in "biuf" or kind.itemsize > 8:
            raise LedgerError(f"array {name!r} is of type {kind}; numbers and bools are kept", hint="Convert it")
    return tensors


class Ledger:
    """Records of runs in two folders: fresh ones and recorded ones.

    Args:
        runs: where fresh runs are written.
        recorded: committed records, read only (:meth:`record` adds to it); None if there are none.
    """

    def __init__(self, runs: str | Path, recorded: str | Path | None = None) -> None:
        self.runs, self.recorded = Path(runs), None if recorded is None else Path(recorded)

    def _folders(self) -> list[Path]:
        return [self.runs] if self.recorded is None else [self.runs, self.recorded]

    def get(self, key: str) -> Run | None:
        """The run of that key, a fresh one before a recorded one; None if there is none.

        Raises:
            LedgerError: its record is damaged.
        """
        if not _KEY.fullmatch(key):
            return None
        paths = [path for folder in self._folders() for path in sorted(folder.glob(f"*-{key}/run.json"))]
        return read_run(paths[0]) if paths else None

    def all(self) -> list[Run]:
        """All runs, newest first; of a run that is both fresh and recorded, the fresh one.

        Raises:
            LedgerError: a record is damaged.
        """
        runs: dict[str, Run] = {}
        for folder in self._folders():
            for path in sorted(folder.glob("*-seed*-*/run.json")):
                run = read_run(path)
                runs.setdefault(run.key, run)
        return sorted(runs.values(), key=lambda run: (run.created, run.key), reverse=True)

    def find(self, experiment: str, preset: str | None = None, seed: int | None = None) -> list[Run]:
        """Runs of an experiment, newest first, fresh and recorded; ``stale`` tells which have older code.

        Args:
            experiment: its name.
            preset: only of this preset label (:attr:`migcore.presets.Preset.label`).
            seed: only of this seed.

        Raises:
            LedgerError: a record is damaged, also one of another experiment.
            ConfigError: ``preset`` is no text.
        """
        if preset is not None and not isinstance(preset, str):
            raise ConfigError(f"preset is a label, not a {type(preset).__name__}", hint="Give config.label")
        return [
            run
            for run in self.all()
            if run.experiment == experiment and preset in (None, run.preset) and seed in (None, run.seed)
        ]

    def folder(self, run: Run) -> Path:
        """Where a fresh run is written (it need not exist yet).

        Raises:
            LedgerError: its experiment, seed or key make no name of a folder.
        """
        if not _EXPERIMENT.fullmatch(run.experiment):
            hint = "Letters, digits and _ make it up"
            raise LedgerError(f"a run's experiment cannot be called {run.experiment!r}", hint=hint)
        if not _KEY.fullmatch(run.key):
            raise LedgerError(f"a run's key cannot be {run.key!r}", hint="Take that of run_key: 16 hexadecimal digits")
        if type(run.seed) is not int or run.seed < 0:
            raise LedgerError(f"a run's seed cannot be {run.seed!r}", hint="It is a whole number, 0 or more")
        return self.runs / run.name

    @contextlib.contextmanager
    def writer(self, run: Run, *, wait: bool = False) -> Iterator[bool]:
        """Be the one writer of a run while the body runs; see :func:`migcore.files.locked` for arguments and errors."""
        with locked(self.folder(run) / "lock", wait=wait, what=f"{run.experiment} (seed {run.seed})") as waited:
            yield waited

    def save(self, run: Run, arrays: Mapping[str, np.ndarray]) -> Run:
        """Write a run, its arrays and its record together: both are new, or both as they were.

        Args:
            run: the record.
            arrays: ``"<split>.logits"`` [N, C] float32, ``"<split>.labels"`` [N] int64, and others named
                ``"<group>.<name>"``; of real numbers or bools, 64 bits at most.

        Returns:
            the run as read back.

        Raises:
            StorageError: the disk is full; nothing that was there is lost.
            LedgerError: another live process is writing this run; a field has no form in JSON, an array holds no
                numbers; experiment, seed or key make no name of a folder.
        """
        lock, record, tensors = self.folder(run) / "lock", _record(run), _tensors(arrays)
        holder = lock_holder(lock)
        if holder is not None and holder["pid"] == os.getpid():
            return self._write(run, record, tensors)
        with locked(lock, what=f"{run.experiment} (seed {run.seed})"):
            return self._write(run, record, tensors)

    def _write(self, run: Run, record: bytes, tensors: dict[str, np.ndarray]) -> Run:
        from safetensors.numpy import save_file

        folder = self.folder(run)
        write_together(
            {
                folder / "arrays.safetensors": lambda temporary: save_file(tensors, temporary),
                folder / "run.json": lambda temporary: temporary.write_bytes(record),
            }
        )
        return read_run(folder / "run.json")

    def load_arrays(self, run: Run, group: str) -> dict[str, np.ndarray]:
        """Arrays of one group of a run: ``load_arrays(run, "test")`` → ``{"logits": …, "labels": …}``.

        Raises:
            LedgerError: the file is missing or damaged, or holds no such group.
        """
        from safetensors import SafetensorError, safe_open

        path = (run.folder or self.folder(run)) / "arrays.safetensors"
        try:
            with safe_open(path, framework="numpy") as file:
                names = [name for name in file.keys() if name.startswith(f"{group}.")]  # noqa: SIM118 - not a dict
                arrays = {name.removeprefix(f"{group}."): file.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:
            hint = "Delete its folder; the run will be made again"
            raise LedgerError(f"cannot be read ({error})", where=path, hint=hint) from error
        if not arrays:
            raise LedgerError(f"holds no arrays of {group!r}", where=path, hint="A run keeps those of its splits")
        return arrays

    def record(self, key: str) -> Path:
        """Copy a fresh run (record and arrays, no weights) to the recorded ones.

        Args:
            key: the run's key, or its first digits.

        Returns:
            the folder written.

        Raises:
            LedgerError: no fresh run, or several, have that key; there is no folder of recorded runs; the run is stale.
        """
        if self.recorded is None:
            raise LedgerError(
                "there is no folder for recorded runs", hint="Run migcore from a checkout of its repository"
            )
        begins = re.fullmatch("[0-9a-f]{1,16}", key)
        found = sorted(self.runs.glob(f"*-seed*-{key}*/run.json")) if begins else []
        if len(found) != 1:
            hint = "`migcore runs` lists them"
            raise LedgerError(
                f"{len(found)} fresh runs have a key that begins with {key!r}", where=self.runs, hint=hint
            )
        run = read_run(found[0])
        if run.stale:
            hint = "Run the experiment again, then record it"
            raise LedgerError("was made by code that has changed since", where=found[0], hint=hint)
        target = self.recorded / run.name
        names = "arrays.safetensors", "run.json"
        write_together({target / name: partial(shutil.copyfile, found[0].parent / name) for name in names})
        return target
