"""Keys change with what decides numbers and with nothing else; records come back as they were written."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from migcore import archive, ledger
from migcore.archive import merge, pack
from migcore.errors import CheckpointError, ConfigError, LedgerError, MigcoreError, StorageError
from migcore.files import locked, write_json
from migcore.ledger import Ledger, Run, canonical, canonical_json, hash_text, read_run, run_key, source_hash
from migcore.presets import preset as preset_of
from tests.faults import files, full_after
from tests.test_training import Stop, net, rows, same, stop_after, train

SOURCE = '''
"""Doc."""
import math

SIZE = 3  # pixels
"""Of it."""


def area(r: float) -> float:
    """Area."""
    # the formula
    return math.pi * r ** 2


class Disc:
    """A disc."""

    def __init__(self, r: float) -> None:
        self.r = r
'''


@dataclasses.dataclass(frozen=True)
class Inner:
    sizes: tuple[int, int] = (1, 2)
    workers: int = dataclasses.field(default=0, metadata=ledger.NO_NUMBERS)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    rate: float = 0.1


def make_run(key: str = "0123456789abcdef", **values: object) -> Run:
    modules = ["migcore.labels"]
    fields: dict[str, object] = {
        "key": key,
        "experiment": "posec3d_joint",
        "preset": "smoke",
        "seed": 0,
        "config": {"lr": 0.1},
        "data": "d",
        "code": source_hash(modules),
        "modules": modules,
        "created": "2024-01-01T00:00:00+00:00",
        "metrics": {"test": {"top1": 0.5}},
    }
    return Run(**{**fields, **values})  # type: ignore[arg-type]


def make_arrays(n: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"test.logits": rng.normal(size=(n, 32)).astype(np.float32), "test.labels": np.arange(n)}


# ---------------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# the formula", "# another comment"),
        ('"""Area."""', '"""Another docstring,\n\n    longer."""'),
        ('    """A disc."""\n\n', ""),
        ('"""Of it."""', ""),
        ("math.pi * r ** 2", "(math.pi   *\n        r ** 2)"),
        ('"""Doc."""', ""),
    ],
)
def test_comments_docstrings_and_layout_do_not_change_the_hash(old: str, new: str) -> None:
    assert old in SOURCE
    assert hash_text(SOURCE.replace(old, new)) == hash_text(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [("r ** 2", "r ** 3"), ("SIZE = 3", "SIZE = 3.0"), ("SIZE = 3", "SIZE = True"), ("self.r = r", "self.q = r")],
)
def test_code_changes_the_hash(old: str, new: str) -> None:
    assert hash_text(SOURCE.replace(old, new)) != hash_text(SOURCE)


def test_named_definitions_only() -> None:
    changed = SOURCE.replace("r ** 2", "r ** 3")
    assert hash_text(changed, ["Disc", "SIZE"]) == hash_text(SOURCE, ["Disc", "SIZE"])
    assert hash_text(changed, ["area"]) != hash_text(SOURCE, ["area"])
    with pytest.raises(ConfigError, match="circle not defined"):
        hash_text(SOURCE, ["area", "circle"])


def test_hash_does_not_depend_on_the_python_version() -> None:
    """The digest of a fixed text, so that a Python whose syntax tree looks different fails here."""
    text = (
        "class A(B):\n    x: int = 1\n\ndef f(x, *, y=1):\n    return f'{x!r:>{y}}' 'z' + g(lambda: [i for i in x])\n"
    )
    assert hash_text(text) == "d43c8ec235bd07080697ea5226153893eb83c07e9cb002e3b6614016ecf5b6e8"


def test_source_hash_ignores_order_and_names_what_is_missing() -> None:
    assert source_hash(["migcore.labels", "migcore.errors"]) == source_hash(["migcore.errors", "migcore.labels"])
    assert source_hash(["migcore.labels:CLASSES"]) != source_hash(["migcore.labels"])
    for missing in ("migcore.nowhere", "nowhere.at_all"):
        with pytest.raises(ConfigError, match=f"no module {missing}"):
            source_hash([missing])


@pytest.mark.parametrize("modules", [["sys"], ["os"], ["torch._C"], "migcore.labels", [np], None, [""], [".labels"]])
def test_only_modules_with_a_source_have_a_hash(modules: Any) -> None:
    with pytest.raises(ConfigError, match=r"no Python source|list of dotted names|no module"):
        source_hash(modules)


@pytest.mark.parametrize("source", [b"def (\n", b"x = 1\0", b'x = "\xff"\n'])
def test_a_module_that_is_no_python_is_named_and_its_runs_are_stale(
    source: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module, package = tmp_path / "half_written.py", tmp_path / "half_package" / "__init__.py"
    package.parent.mkdir()
    for path in (module, package, package.with_name("inner.py")):
        path.write_text("x = 1\n")
    book, names = Ledger(tmp_path / "runs"), (["half_written"], ["half_package.inner"])
    for key, modules in zip("ab", names, strict=True):
        assert not book.save(make_run(key * 16, modules=modules, code=source_hash(modules)), make_arrays()).stale
    for path in (module, package):
        path.write_bytes(source)
        os.utime(path, ns=(3, 3))
    sys.modules.pop("half_package", None)
    assert [run.stale for run in book.all()] == [True, True]
    assert all(run.stale for run in book.find("posec3d_joint")) and book.get("a" * 16).stale  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"half_written\.py: (is no Python source|cannot be read)"):
        source_hash(["half_written"])
    with pytest.raises(ConfigError, match=r"no module half_package\.inner to take the source of"):
        source_hash(["half_package.inner"])


def test_source_hash_follows_an_edited_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "probe_module.py"
    module.write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = source_hash(["probe_module"])
    module.write_text("x = 1  # the same\n")
    os.utime(module, ns=(1, 1))
    assert source_hash(["probe_module"]) == before
    module.write_text("x = 2\n")
    os.utime(module, ns=(2, 2))
    assert source_hash(["probe_module"]) != before


def test_canonical_forms() -> None:
    assert canonical(Outer()) == {"inner": {"sizes": [1, 2]}, "rate": 0.1}
    assert canonical({"a": np.float64(0.5), "b": (np.int32(1), None, "x", True)}) == {
        "a": 0.5,
        "b": [1, None, "x", True],
    }
    for wrong in (float("nan"), float("inf"), object(), {"a": {1, 2}}, np.zeros(2)):
        with pytest.raises(ConfigError, match="cannot be part of"):
            canonical(wrong)


@settings(max_examples=30)
@given(
    st.dictionaries(st.text(max_size=3), st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=5)
)
def test_canonical_json_ignores_order_and_reads_back(values: dict[str, float]) -> None:
    backwards = dict(reversed(values.items()))
    assert canonical_json(values) == canonical_json(backwards)
    assert json.loads(canonical_json(values)) == values


def test_key_changes_with_config_data_and_code_only() -> None:
    key = run_key(Outer(), "data", ["migcore.labels"])
    assert len(key) == 16 and int(key, 16) >= 0
    assert key == run_key(Outer(inner=Inner(workers=8)), "data", ["migcore.labels"])
    others = {
        run_key(Outer(rate=0.2), "data", ["migcore.labels"]),
        run_key(Outer(), "other", ["migcore.labels"]),
        run_key(Outer(), "data", ["migcore.errors"]),
    }
    assert key not in others and len(others) == 3


# -------------------------------------------------------------------------------------------------------------- ledger


def test_a_run_comes_back_as_written(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "runs")
    run = make_run(clips={"test": {"ids": ["0001_0"], "subjects": ["S1"]}}, history=[{"epoch": 1, "loss": 0.25}])
    saved = book.save(run, make_arrays())
    assert book.get(run.key) == saved
    stored = {f.name: getattr(saved, f.name) for f in dataclasses.fields(Run) if f.name not in ("stale", "folder")}
    assert stored == {
        f.name: getattr(run, f.name) for f in dataclasses.fields(Run) if f.name not in ("stale", "folder")
    }
    assert not saved.stale and saved.folder == book.folder(run)
    arrays = book.load_arrays(saved, "test")
    assert set(arrays) == {"logits", "labels"}
    np.testing.assert_array_equal(arrays["logits"], make_arrays()["test.logits"])
    assert sorted(os.listdir(book.folder(run))) == ["arrays.safetensors", "run.json"]
    assert book.get("f" * 16) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metrics", {"test": {"top1": float("nan")}}),
        ("extra", {"x": np.float32(1)}),
        ("history", [{"loss": float("inf")}]),
        ("device", "half of a letter: \ud800"),
        ("config", {("a", "b"): 1}),
    ],
)
def test_a_field_that_json_cannot_hold_leaves_the_run_as_it_was(field: str, value: object, tmp_path: Path) -> None:
    book = Ledger(tmp_path / "runs")
    book.save(make_run(), make_arrays())
    before = files(book.runs)
    for key in (make_run().key, "f" * 16):
        with pytest.raises(LedgerError, match=rf"field '{field}' of posec3d_joint-seed0-{key} cannot be written"):
            book.save(make_run(key, **{field: value}), {"test.logits": np.ones((4, 32))})
    assert files(book.runs) == before and os.listdir(book.runs) == [make_run().name]


def test_a_full_disk_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "runs")
    book.save(make_run(), make_arrays())
    before = files(book.runs)
    with full_after(3000), pytest.raises(StorageError, match=r"run\.json: could not be written"):
        book.save(make_run(extra={"long": "x" * 5000}), {"test.logits": np.ones((4, 32), np.float32)})
    assert files(book.runs) == before


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["a"]), "is of type <U1; numbers and bools are kept"),
        (np.array([None]), "is of type object; numbers and bools are kept"),
        (np.array(["2024-01-01"], "datetime64[D]"), r"is of type datetime64\[D\]; numbers and bools are kept"),
        ([[1.0], [1.0, 2.0]], "is none"),
    ],
)
def test_arrays_hold_numbers(array: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=f"array 'test.x' {message}"):
        Ledger(tmp_path / "runs").save(make_run(), {"test.x": array})
    assert not (tmp_path / "runs").exists()


def test_arrays_of_any_number_type_come_back(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "runs")
    given = {f"test.{kind}": np.array([0, 1], kind) for kind in ("bool", "u1", "i2", "u4", "i8", "f2", "f4", "f8")}
    arrays = book.load_arrays(book.save(make_run(), given), "test")
    assert {f"test.{kind}": array.dtype for kind, array in arrays.items()} == {n: a.dtype for n, a in given.items()}


@pytest.mark.parametrize(
    "names",
    [
        {"experiment": "../../evil"},
        {"experiment": "a-seed3-b"},
        {"experiment": ""},
        {"key": "../x"},
        {"key": "0123"},
        {"key": "0" * 15 + "*"},
        {"seed": -1},
        {"seed": "../x"},
        {"seed": np.int64(1)},
    ],
)
def test_no_name_leads_out_of_the_folder(names: dict[str, Any], tmp_path: Path) -> None:
    book = Ledger(tmp_path / "deep" / "runs")
    with pytest.raises(LedgerError, match=f"a run's {next(iter(names))} cannot be"):
        book.save(make_run(**names), make_arrays())
    with pytest.raises(LedgerError), book.writer(make_run(**names)):
        pytest.fail("it would have been written")
    assert not any(tmp_path.iterdir())


def test_a_key_is_no_pattern(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "runs", tmp_path / "results")
    run = book.save(make_run(), make_arrays())
    for key in ("*", "?" * 16, "[0-9a]*", f"{run.key}/", ""):
        assert book.get(key) is None
        with pytest.raises(LedgerError, match="0 fresh runs"):
            book.record(key)


def test_find_is_newest_first_and_filters(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "runs")
    for i, (preset, seed) in enumerate([("smoke", 0), ("smoke", 1), ("laptop", 0)]):
        book.save(make_run(f"{i:016x}", preset=preset, seed=seed, created=f"2024-01-0{i + 1}"), make_arrays())
    assert [r.created[-1] for r in book.find("posec3d_joint")] == ["3", "2", "1"]
    assert [r.seed for r in book.find("posec3d_joint", preset="smoke")] == [1, 0]
    assert [r.preset for r in book.find("posec3d_joint", seed=0)] == ["laptop", "smoke"]
    with pytest.raises(ConfigError, match=r"a label, not a Preset\. Give config\.label"):
        book.find("posec3d_joint", preset_of("smoke"))  # type: ignore[arg-type]
    assert book.find("posec3d_limb") == [] and Ledger(tmp_path / "nowhere").all() == []


def test_a_run_of_older_code_is_stale(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "runs")
    assert book.save(make_run(code="0" * 64), make_arrays()).stale
    assert book.save(make_run("1" * 16, modules=["migcore.gone"]), make_arrays()).stale


def test_recording_copies_record_and_arrays_only(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "runs", tmp_path / "results")
    run = book.save(make_run(), make_arrays())
    (book.folder(run) / "weights.safetensors").write_bytes(b"large")
    target = book.record(run.key[:6])
    assert sorted(os.listdir(target)) == ["arrays.safetensors", "run.json"] and target.parent == tmp_path / "results"
    assert len(book.all()) == 1
    elsewhere = Ledger(tmp_path / "empty", tmp_path / "results")
    again = elsewhere.get(run.key)
    assert again is not None and again.folder == target and len(elsewhere.load_arrays(again, "test")["labels"]) == 4


def test_a_full_disk_records_no_part_of_a_run(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "runs", tmp_path / "results")
    run = book.save(make_run(extra={"long": "x" * 5000}), make_arrays())
    with full_after(3000), pytest.raises(StorageError, match=r"run\.json: could not be written"):
        book.record(run.key)
    assert not [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert sorted(os.listdir(book.record(run.key))) == ["arrays.safetensors", "run.json"]


def test_what_cannot_be_recorded(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "runs", tmp_path / "results")
    book.save(make_run("a" * 16, code="0" * 64), make_arrays())
    book.save(make_run("b1" + "0" * 14), make_arrays())
    book.save(make_run("b2" + "0" * 14), make_arrays())
    for key, message in (("a", "changed since"), ("b", "2 fresh runs"), ("c", "0 fresh runs"), ("", "0 fresh runs")):
        with pytest.raises(LedgerError, match=message):
            book.record(key)
    with pytest.raises(LedgerError, match="no folder for recorded runs"):
        Ledger(tmp_path / "runs").record("b1")
    assert not (tmp_path / "results").exists()


def test_damage_is_named(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "runs")
    run = book.save(make_run(), make_arrays())
    with pytest.raises(LedgerError, match="holds no arrays of 'val'"):
        book.load_arrays(run, "val")
    path = book.folder(run) / "arrays.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(LedgerError, match=r"arrays\.safetensors: cannot be read"):
        book.load_arrays(run, "test")
    for text in ("{", "[]", '{"key": "x"}'):
        (book.folder(run) / "run.json").write_text(text)
        for read in (lambda: book.get(run.key), book.all, lambda: book.find("another")):
            with pytest.raises(LedgerError, match=r"run\.json: is not a run record.*Delete its folder"):
                read()


def test_where_there_is_no_record_nothing_is_to_be_deleted(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "runs")
    run = book.save(make_run(), make_arrays())
    assert read_run(str(book.folder(run) / "run.json")) == run  # type: ignore[arg-type]
    for path in (book.folder(run), tmp_path / "nowhere" / "run.json"):
        with pytest.raises(LedgerError, match=r"cannot be read \(.*\)\. Give the path of a run\.json$"):
            read_run(path)


def test_a_second_writer_of_a_run_is_refused_and_other_runs_are_not(tmp_path: Path) -> None:
    book, run = Ledger(tmp_path / "runs"), make_run()
    code = f"""
from pathlib import Path
from migcore.ledger import Ledger
from tests.test_ledger import make_arrays, make_run
from migcore.errors import LedgerError
book = Ledger(Path({str(tmp_path / "runs")!r}))
book.save(make_run("f" * 16), make_arrays())
try:
    book.save(make_run(), make_arrays())
except LedgerError as error:
    print(error)
"""
    with book.writer(run) as waited:
        assert not waited
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1]
        )
        assert f"posec3d_joint (seed 0) is being written by process {os.getpid()}" in done.stdout, done.stderr
        book.save(run, make_arrays())  # the holder itself may
    assert {r.key for r in book.all()} == {run.key, "f" * 16}


def test_unfinished_work_is_no_run(tmp_path: Path) -> None:
    book, run = Ledger(tmp_path / "runs"), make_run()
    write_json(book.folder(run) / "checkpoints" / "x.json", {})
    assert book.get(run.key) is None and book.all() == []


def test_where_and_when() -> None:
    root = ledger.source_root()
    assert root is not None and (root / "migcore" / "ledger.py").is_file()
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True).stdout
    assert head.startswith(ledger.source_commit().rstrip("+"))
    assert {"python", "torch", "numpy"} <= set(ledger.versions()) and ledger.now().endswith("+00:00")


def test_outside_a_checkout_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "source_root", lambda: None)
    assert ledger.source_commit() == ""


# ------------------------------------------------------------------------------------------------------------- archives

UNFINISHED = "posec3d_limb-seed0-" + "c" * 16
KEYS = ("a1" + "0" * 14, "a2" + "0" * 14)


def listed(n: int = 4) -> dict[str, Any]:
    return {"clips": {"test": {"ids": [f"0001_{k}" for k in range(n)], "subjects": ["S1"] * n}}}


def checkpoint(folder: Path, steps: int = 12) -> Path:
    """What a training that is cut off after so many steps leaves in its run's folder; the newest checkpoint."""
    with pytest.raises(Stop):
        train(net(), folder / "checkpoints", loss=stop_after(steps))
    return max((folder / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """The other machine: two finished runs with weights, one of older code, and one that is not finished."""
    book = Ledger(tmp_path_factory.mktemp("away") / "runs")
    for key in KEYS:
        book.save(make_run(key, **listed()), make_arrays())
    (book.runs / make_run(KEYS[0]).name / "weights.safetensors").write_bytes(b"large")
    book.save(make_run("b" * 16, code="0" * 64, **listed()), make_arrays())
    checkpoint(book.runs / UNFINISHED)
    return book


@pytest.fixture(scope="module")
def carried(away: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("carried") / "runs.zip"
    pack(away, out, unfinished=True)
    return out


def rezip(out: Path, members: list[tuple[str | zipfile.ZipInfo, bytes]], source: Path | None = None) -> Path:
    """A zip of what ``source`` holds and of some more."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        if source is not None:
            with zipfile.ZipFile(source) as old:
                for name in old.namelist():
                    target.writestr(name, old.read(name))
        for member, data in members:
            target.writestr(member, data)
    return out


@contextlib.contextmanager
def somewhere() -> Iterator[Path]:
    """A folder of its own for each example of a property; what leaves the ledger lands in it too."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def refused(source: Path, root: Path, match: str | None = None, kind: type[MigcoreError] = LedgerError) -> None:
    """Merging fails, and leaves nothing at all, also not beside the ledger."""
    before = files(root)
    for record in (False, True):
        with pytest.raises(kind, match=match):
            merge(Ledger(root / "home" / "runs", root / "home" / "results"), source, record=record)
    assert files(root) == before


def test_runs_are_carried_from_one_ledger_to_another(away: Ledger, tmp_path: Path) -> None:
    home, out = Ledger(tmp_path / "runs", tmp_path / "results"), tmp_path / "a.zip"
    packed = pack(away, out)
    assert [(o.name[-16:], o.done, o.stale) for o in packed] == [
        (KEYS[0], "packed", False),
        (KEYS[1], "packed", False),
        ("b" * 16, "left out", True),
        ("c" * 16, "left out", False),
    ]
    with zipfile.ZipFile(out) as opened:
        names = [make_run(key).name for key in KEYS]
        assert opened.namelist() == [f"{n}/{file}" for n in names for file in ("arrays.safetensors", "run.json")]
    assert [o.done for o in merge(home, out)] == ["merged", "merged"]
    for key in KEYS:
        ours, theirs = home.get(key), away.get(key)
        assert ours is not None and theirs is not None and dataclasses.replace(ours, folder=theirs.folder) == theirs
        np.testing.assert_array_equal(home.load_arrays(ours, "test")["logits"], make_arrays()["test.logits"])
        assert sorted(os.listdir(home.folder(ours))) == ["arrays.safetensors", "run.json"]
    before = files(tmp_path)
    assert [o.done for o in merge(home, out)] == ["skipped", "skipped"] and files(tmp_path) == before
    assert [o.done for o in merge(home, out, record=True)] == ["merged", "merged"]
    assert files(tmp_path / "results") == files(tmp_path / "runs") and set(os.listdir(tmp_path)) == {
        "a.zip",
        "runs",
        "results",
    }
    with pytest.raises(LedgerError, match="no folder for recorded runs"):
        merge(Ledger(tmp_path / "runs"), out, record=True)


def test_an_archive_of_the_same_runs_has_the_same_bytes(away: Ledger, tmp_path: Path) -> None:
    other = Ledger(tmp_path / "copy")
    for name in reversed(sorted(os.listdir(away.runs))):
        shutil.copytree(away.runs / name, other.runs / name, copy_function=shutil.copyfile)
    for path in other.runs.rglob("*"):
        os.utime(path, (1e9, 1e9))
    for number, unfinished in enumerate((False, True)):
        one, two = tmp_path / f"{number}.zip", tmp_path / f"{number}-again.zip"
        pack(away, one, unfinished=unfinished)
        pack(other, two, unfinished=unfinished)
        assert one.read_bytes() == two.read_bytes()


def test_packing_by_key_and_what_cannot_be_packed(away: Ledger, tmp_path: Path) -> None:
    out = tmp_path / "a.zip"
    assert [o.name[-16:] for o in pack(away, out, ["a2"])] == [KEYS[1]]
    assert [o.name[-16:] for o in pack(away, out, ["c", "a1"], unfinished=True)] == [KEYS[0], "c" * 16]
    before = out.read_bytes()
    for keys, message in (
        (["a", "d"], "no run to pack whose key begins with 'd'.*migcore runs"),
        (["b"], "no run to pack whose key begins with 'b'.*changed since"),
        (["c"], "no run to pack whose key begins with 'c'.*unfinished"),
        ([""], "no run to pack whose key begins with ''"),
    ):
        with pytest.raises(LedgerError, match=message):
            pack(away, out, keys)
    with pytest.raises(LedgerError, match="there is no run to pack"):
        pack(Ledger(tmp_path / "nowhere"), out)
    damaged = Ledger(tmp_path / "damaged")
    damaged.save(make_run(**listed(5)), make_arrays())
    with pytest.raises(LedgerError, match=r"arrays\.safetensors: holds test\.\w+ of shape .* lists 5 clips"):
        pack(damaged, out)
    assert out.read_bytes() == before


def test_a_full_disk_leaves_the_archive_that_was_there(away: Ledger, carried: Path, tmp_path: Path) -> None:
    for size in (0, 1000):
        with full_after(size), pytest.raises(StorageError, match=r"runs\.zip: could not be written"):
            pack(away, tmp_path / "runs.zip")
    assert os.listdir(tmp_path) == []
    old = shutil.copyfile(carried, tmp_path / "runs.zip").read_bytes()
    with full_after(1000), pytest.raises(StorageError, match=r"runs\.zip: could not be written"):
        pack(away, tmp_path / "runs.zip")
    assert files(tmp_path) == {"runs.zip": old}


def test_packing_twice_at_once_gives_one_whole_archive(away: Ledger, carried: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: pack(away, tmp_path / "runs.zip", unfinished=True), range(8)))
    assert files(tmp_path) == {"runs.zip": carried.read_bytes()}


def test_a_run_that_goes_while_it_is_packed(away: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the checkpoint of a training that goes on does."""
    home = Ledger(Path(shutil.copytree(away.runs, tmp_path / "runs")))
    write = archive._write_zip

    def gone(files: dict[str, Path], path: Path) -> None:
        shutil.rmtree(home.runs / UNFINISHED)
        write(files, path)

    monkeypatch.setattr(archive, "_write_zip", gone)
    with pytest.raises(LedgerError, match=rf"{UNFINISHED}.*step-00000010.* cannot be read .*Pack again"):
        pack(home, tmp_path / "out" / "runs.zip", unfinished=True)
    assert os.listdir(tmp_path / "out") == []


def test_an_unfinished_run_goes_on_elsewhere_to_the_same_weights(tmp_path: Path) -> None:
    """Three machines: 2 epochs and some steps, 1 epoch more, the rest; against 4 epochs in one go."""
    whole, resumed = net(), net(9)
    expected = train(whole, tmp_path / "whole")
    machines = [Ledger(tmp_path / name) for name in "abc"]
    folders = [book.runs / UNFINISHED for book in machines]
    newest = checkpoint(folders[0], 12)
    damaged = newest.with_name("step-00000099.safetensors")
    damaged.write_bytes(newest.read_bytes()[:-3])  # then the newest whole one is taken
    for here, (one, two) in enumerate(itertools.pairwise(machines)):
        (carried,) = pack(one, tmp_path / f"{here}.zip", unfinished=True)
        step = (10, 15)[here]
        assert carried.why == f"unfinished, step {step}"
        (taken,) = merge(two, tmp_path / f"{here}.zip")
        assert taken.done == "merged" and os.listdir(folders[here + 1]) == ["checkpoints"]
        assert os.listdir(folders[here + 1] / "checkpoints") == [f"step-{step:08d}.safetensors"]
        if here == 0:
            with pytest.raises(Stop):
                train(net(5), folders[1] / "checkpoints", loss=stop_after(7))
    assert rows(train(resumed, folders[2] / "checkpoints")) == rows(expected) and same(whole, resumed)


def test_unfinished_work_gives_way_to_what_is_further(carried: Path, away: Ledger, tmp_path: Path) -> None:
    def outcome(book: Ledger, record: bool = False) -> tuple[str, str]:
        found = {o.name: o for o in merge(book, carried, record=record)}[UNFINISHED]
        return found.done, found.why

    behind, ahead, done = (Ledger(tmp_path / name, tmp_path / "results") for name in ("behind", "ahead", "done"))
    checkpoint(behind.runs / UNFINISHED, 6)
    assert outcome(behind) == ("merged", "unfinished, step 10")
    assert sorted(os.listdir(behind.runs / UNFINISHED / "checkpoints")) == [
        "step-00000005.safetensors",
        "step-00000010.safetensors",
    ]
    assert outcome(behind) == ("skipped", "unfinished, step 10: the same is here")
    checkpoint(ahead.runs / UNFINISHED, 16)
    kept = files(ahead.runs)
    assert outcome(ahead) == ("kept", "unfinished, step 10: ours is at step 15")
    assert {name: data for name, data in files(ahead.runs).items() if UNFINISHED in name} == kept
    done.save(make_run("c" * 16, experiment="posec3d_limb", **listed()), make_arrays())
    assert outcome(done) == ("skipped", "unfinished, step 10: it is finished here")
    assert outcome(done, record=True) == ("left out", "unfinished, step 10: only finished runs are recorded")
    assert len(os.listdir(tmp_path / "results")) == 2


def test_a_run_that_is_here_stays(carried: Path, tmp_path: Path) -> None:
    home = Ledger(tmp_path / "runs", tmp_path / "results")
    ours = home.save(make_run(KEYS[0], seconds=1.0, **listed()), make_arrays())
    before = files(home.folder(ours))
    outcomes = {o.name[-16:]: o for o in merge(home, carried)}
    assert outcomes[KEYS[0]].done == "kept" and "other content" in str(outcomes[KEYS[0]])
    assert outcomes[KEYS[1]].done == "merged" and files(home.folder(ours)) == before


@pytest.mark.parametrize("damage", ["record", "other record", "arrays", "no arrays"])
def test_a_damaged_run_here_is_named_and_nothing_is_merged(carried: Path, tmp_path: Path, damage: str) -> None:
    home = Ledger(tmp_path / "home" / "runs", tmp_path / "home" / "runs")
    folder = home.folder(home.save(make_run(KEYS[1], **listed()), make_arrays()))
    if damage == "record":
        (folder / "run.json").write_text("{")
    elif damage == "other record":
        write_json(folder / "run.json", {**json.loads((folder / "run.json").read_text()), "key": "f" * 16})
    elif damage == "arrays":
        (folder / "arrays.safetensors").write_bytes(b"")
    else:
        (folder / "arrays.safetensors").unlink()
    before = files(tmp_path)
    with pytest.raises(LedgerError, match=r"Delete its folder, then merge again") as error:
        merge(home, carried)
    assert str(error.value.where).startswith(str(folder)) and files(tmp_path) == before


def test_a_run_that_is_being_made_here_is_left_alone(carried: Path, tmp_path: Path) -> None:
    home = Ledger(tmp_path / "runs")
    with home.writer(make_run(KEYS[0])), locked(home.runs / UNFINISHED / "lock"):
        outcomes = {o.name: o for o in merge(home, carried)}
        for name in (make_run(KEYS[0]).name, UNFINISHED):
            assert outcomes[name].done == "kept" and f"process {os.getpid()} on" in outcomes[name].why
            assert os.listdir(home.runs / name) == ["lock"]
    assert outcomes[make_run(KEYS[1]).name].done == "merged"


def test_a_run_that_is_made_here_while_others_are_merged_stays(
    carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, ours = Ledger(tmp_path / "runs"), make_run(KEYS[1], seconds=7.0, **listed())
    move = archive._move

    def meanwhile(staged: Path, target: Path) -> None:
        if home.get(ours.key) is None:
            home.save(ours, make_arrays())
        move(staged, target)

    with monkeypatch.context() as patch:
        patch.setattr(archive, "_move", meanwhile)
        with pytest.raises(LedgerError, match=rf"{ours.name}: has been made here since"):
            merge(home, carried)
    assert [o.done for o in merge(home, carried)] == ["skipped", "kept", "merged"]
    found = home.get(ours.key)
    assert found is not None and found.seconds == 7


def test_runs_of_older_code_are_counted(carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "source_hash", lambda modules: "changed since")
    outcomes = merge(Ledger(tmp_path / "runs"), carried)
    assert [o.stale for o in outcomes] == [True, True, False] and all(o.done == "merged" for o in outcomes)


@pytest.mark.parametrize("fails", ["run.json", "arrays.safetensors", "step-00000010.safetensors"])
def test_a_full_disk_leaves_no_part_of_a_run(
    carried: Path, tmp_path: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Ledger(tmp_path / "home" / "runs")
    copy = shutil.copyfile

    def full(source: Path, target: Path) -> Any:
        if fails in Path(target).name and home.runs in Path(target).parents:
            Path(target).write_bytes(b"part")
            raise OSError(28, "No space left on device")
        return copy(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(StorageError, match="No space left"):
            merge(home, carried)
    whole = {name for name in files(tmp_path) if name.endswith((".json", ".safetensors"))}
    assert len(whole) == (4 if fails.startswith("step") else 0)
    assert len(list(home.runs.glob("*"))) == len(whole) // 2
    outcomes = merge(home, carried)
    assert [o.done for o in outcomes].count("merged") == 3 - len(whole) // 2


RUN = f"posec3d_joint-seed0-{KEYS[0]}"


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "/etc/evil", "C:/evil", "C:evil", "..\\evil", "\\\\server\\evil", "run.json", "evil/",
        f"{RUN}/../../evil", f"../{RUN}/run.json", f"/{RUN}/run.json", f"C:/{RUN}/run.json", f"./{RUN}/run.json",
        f"{RUN}//run.json", f"{RUN}/./run.json", f"{RUN}\\run.json", f"{RUN}/run.json/", f"{RUN}/", f"{RUN}/run.json\n",
        f"{RUN}/weights.safetensors", f"{RUN}/lock", f"{RUN}/run.JSON", f"{RUN}/checkpoints/x.safetensors",
        f"{RUN}/checkpoints/step-1.safetensors", f"{RUN}/checkpoints/../run.json", f"{RUN.upper()}/run.json",
        f"{RUN[:-1]}/run.json", f"{RUN}0/run.json", f"posec3d-seed00-{KEYS[0]}/run.json",
        f"x-seed\u0661-{KEYS[0]}/run.json",
        f"{'x' * 300}-seed0-{KEYS[0]}/run.json",
    ],
)  # fmt: skip
def test_foreign_names_are_refused(name: str, carried: Path, tmp_path: Path) -> None:
    out = rezip(tmp_path / "a.zip", [(zipfile.ZipInfo(name), b"{}")], carried)
    refused(out, tmp_path, "is not a file of a run.*Only archives of `migcore runs pack`")


def test_a_name_with_a_zero_in_it_is_refused(carried: Path, tmp_path: Path) -> None:
    """zipfile cuts such names off at the zero."""
    name = f"trn-seed0-{KEYS[0]}/run.json"
    out = rezip(tmp_path / "a.zip", [(f"{name}@evil", b"{}")], carried)
    out.write_bytes(out.read_bytes().replace(b"run.json@evil", b"run.json\0evil"))
    with zipfile.ZipFile(out) as opened:
        assert name in opened.namelist()
    refused(out, tmp_path, "is not a file of a run")


def entry(**values: Any) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"trn-seed1-{KEYS[0]}/run.json")
    info.create_system = 3
    for name, value in values.items():
        setattr(info, name, value)
    return info


def test_foreign_members_are_refused(carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = entry(external_attr=(stat.S_IFLNK | 0o777) << 16)
    refused(rezip(tmp_path / "link.zip", [(link, b"/etc/passwd")], carried), tmp_path, "is a link")
    refused(
        rezip(tmp_path / "lzma.zip", [(entry(compress_type=zipfile.ZIP_LZMA), b"{}")]), tmp_path, "in a way that is not"
    )
    refused(rezip(tmp_path / "empty.zip", []), tmp_path, "holds no run")
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = rezip(tmp_path / "twice.zip", [(f"{RUN}/run.json", b"{}")], carried)
    refused(twice, tmp_path, "twice")
    encrypted = bytearray(carried.read_bytes())
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "encrypted.zip").write_bytes(encrypted)
    refused(tmp_path / "encrypted.zip", tmp_path, "encrypted")
    bomb = rezip(tmp_path / "bomb.zip", [(f"{RUN}/run.json", b" " * (archive.LARGEST["run.json"] + 1))])
    assert bomb.stat().st_size < 2**20
    refused(bomb, tmp_path, "more than are accepted")
    monkeypatch.setattr(archive, "LARGEST_TOTAL", carried.stat().st_size)
    refused(carried, tmp_path, "more than are accepted")


def test_half_a_run_is_refused(carried: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(carried) as opened:
        data = {name.partition("/")[2]: opened.read(name) for name in opened.namelist()}
    (step,) = (name for name in data if name.startswith("checkpoints"))
    for number, held in enumerate((["run.json"], ["arrays.safetensors"], [step, "run.json"], list(data))):
        out = rezip(tmp_path / f"{number}.zip", [(f"{RUN}/{name}", data[name]) for name in held])
        refused(out, tmp_path, "not a record with its arrays or one checkpoint")
    two = [(f"{RUN}/checkpoints/step-{n:08d}.safetensors", data[step]) for n in (5, 10)]
    refused(rezip(tmp_path / "two.zip", two), tmp_path, "not a record with its arrays or one checkpoint")


def test_what_is_no_archive(tmp_path: Path) -> None:
    for name, data in (("empty.zip", b""), ("text.zip", b"no zip"), ("torch.zip", b"PK\x03\x04" + b"\0" * 99)):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, tmp_path, "is no archive that can be read")
    refused(tmp_path / "nowhere.zip", tmp_path, "is no archive that can be read")
    refused(tmp_path, tmp_path, "is no archive that can be read")


def damaged_record(change: Callable[[dict[str, Any]], Any]) -> bytes:
    run = make_run(KEYS[0], **listed())
    values = {f.name: getattr(run, f.name) for f in dataclasses.fields(run) if f.name not in ledger.UNSTORED}
    changed = change(values)
    return changed if isinstance(changed, bytes) else json.dumps(values if changed is None else changed).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: b"{", "is not a run record"),
        (lambda v: b"\xff", "is not a run record"),
        (lambda v: b"[" * 100_000, "is not a run record"),
        (lambda v: [], "is not a run record"),
        (lambda v: v.update(seconds=float("nan")), "is not a run record"),
        (lambda v: v.update(preset="\ud800"), "is not a run record"),
        (lambda v: v.pop("key") and None, "is not a run record"),
        (lambda v: v.update(stale=False), "stale is not as it should be"),
        (lambda v: v.update(folder="/"), "folder is not as it should be"),
        (lambda v: v.update(colour="red"), "colour is not as it should be"),
        (lambda v: v.update(seed=True), "seed is not as it should be"),
        (lambda v: v.update(seconds="1"), "seconds is not as it should be"),
        (lambda v: v.update(metrics={"test": 1}), "metrics is not as it should be"),
        (lambda v: v.update(clips={"test": {"ids": [1]}}), "clips is not as it should be"),
        (lambda v: v.update(modules=["antigravity.x"]), "'antigravity.x' is not as it should be"),
        (lambda v: v.update(modules=["migcore.__main__.x"]), "'migcore.__main__.x' is not as it should be"),
        (lambda v: v.update(key=KEYS[1]), "is the record of posec3d_joint-seed0-a2"),
        (lambda v: v.update(seed=1), "is the record of posec3d_joint-seed1-a1"),
        (lambda v: v.update(experiment="../x"), "is the record of ../x"),
        (lambda v: v.update(listed(3)), r"holds test\.\w+ of shape \[4.*lists 3 clips"),
        (lambda v: v["clips"]["test"].pop("subjects") and None, "4 clips in test and 0 subjects"),
        (lambda v: v.update(clips={**v["clips"], "val": v["clips"]["test"]}), "holds no logits of val"),
        (lambda v: v.update(clips={}), "clips the record does not list"),
    ],
)
def test_a_wrong_record_is_refused(
    change: Any, message: str, carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(make_arrays(), tmp_path / "arrays")
    members = [
        (f"{RUN}/run.json", damaged_record(change)),
        (f"{RUN}/arrays.safetensors", (tmp_path / "arrays").read_bytes()),
    ]
    out = rezip(tmp_path / "a.zip", members)  # type: ignore[arg-type]
    refused(out, tmp_path, message)
    assert "antigravity" not in sys.modules
    members[0] = (f"{RUN}/run.json", damaged_record(lambda v: None))
    assert [o.done for o in merge(Ledger(tmp_path / "runs"), rezip(out, members))] == ["merged"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test.logits": np.zeros((4, 2, 2), np.float32)}, "holds no logits of test"),
        ({"test.logits": np.zeros((4, 32), np.int64)}, "holds no logits of test"),
        ({"test.labels": np.zeros(4, np.float32)}, "holds no labels of test"),
        ({"test.labels": np.zeros(3, np.int64)}, r"holds test\.labels of shape \[3\]"),
        ({"test.features": np.zeros((5, 2), np.float16)}, r"holds test\.features of shape \[5, 2\]"),
        ({"test.features": np.float32(0)}, r"holds test\.features of shape \[\]"),
        ({"val.logits": np.zeros((4, 32), np.float32)}, r"holds val\.logits, whose clips"),
        (None, "cannot be read"),
        ("bfloat16", "cannot be read"),
    ],
)
def test_wrong_arrays_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "arrays"
    if change == "bfloat16":
        save_torch(
            {"test.logits": torch.zeros(4, 32, dtype=torch.bfloat16), "test.labels": torch.zeros(4).long()}, path
        )
    else:
        save_file({**make_arrays(), **{k: np.asarray(v) for k, v in (change or {}).items()}}, path)
    data = path.read_bytes()[: None if change else -1]
    out = rezip(
        tmp_path / "a.zip",
        [(f"{RUN}/run.json", damaged_record(lambda v: None)), (f"{RUN}/arrays.safetensors", data)],
    )
    refused(out, tmp_path, r"arrays\.safetensors: .*" + message)


def test_a_damaged_checkpoint_is_refused(away: Ledger, tmp_path: Path) -> None:
    path = max((away.runs / UNFINISHED / "checkpoints").iterdir())
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-9] ^= 1
    save_torch({"x": torch.zeros(1)}, tmp_path / "none", metadata={"migcore": "{}"})
    save_torch({"x": torch.zeros(1)}, tmp_path / "list", metadata={"migcore": "[]"})
    for number, data in enumerate(
        (whole[:-1], bytes(flipped), b"", *((tmp_path / n).read_bytes() for n in ("none", "list")))
    ):
        out = rezip(tmp_path / f"{number}.zip", [(f"{UNFINISHED}/checkpoints/{path.name}", data)])
        refused(out, tmp_path, r"step-00000010\.safetensors: is damaged", CheckpointError)
    out = rezip(tmp_path / "later.zip", [(f"{UNFINISHED}/checkpoints/step-00000015.safetensors", whole)])
    refused(out, tmp_path, "is a checkpoint of step 10", CheckpointError)


PARTS = st.sampled_from(
    ["..", ".", "/", "\\", "C:", "\0", "\n", " ", RUN, UNFINISHED, "run.json", "arrays.safetensors", "checkpoints",
     "step-00000010.safetensors", "lock", "~", "CON", "%2e%2e"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(PARTS | st.text(max_size=3), min_size=1, max_size=6), slashes=st.booleans())
def test_no_name_gets_anything_out_of_the_ledger(parts: list[str], slashes: bool, carried: Path) -> None:
    """One member of a random name beside good runs: all is refused, without a trace."""
    name = ("/" if slashes else "").join(parts)
    with somewhere() as root:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that are there twice
                out = rezip(root / "a.zip", [(zipfile.ZipInfo(name), b"{}")], carried)
        except UnicodeError:
            return  # not a name that a zip can hold
        refused(out, root)


@settings(max_examples=100, deadline=None)
@given(share=st.floats(0, 1))
def test_a_cut_archive_is_refused(share: float, carried: Path) -> None:
    data = carried.read_bytes()
    with somewhere() as root:
        (root / "a.zip").write_bytes(data[: int(share * (len(data) - 1))])
        refused(root / "a.zip", root)


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    where=st.sampled_from(["anywhere", "contents"]),
    flips=st.integers(0, 4),
    cut=st.integers(0, 30),
    tail=st.binary(max_size=30),
)
def test_a_damaged_archive_is_refused_or_gives_the_true_runs(
    seed: int, where: str, flips: int, cut: int, tail: bytes, carried: Path, away: Ledger
) -> None:
    data, rng = bytearray(carried.read_bytes()), random.Random(seed)
    contents = data.index(b"PK\x01\x02")  # the table at the end
    for _ in range(flips):
        data[rng.randrange(contents if where == "contents" else 0, len(data))] = rng.randrange(256)
    with somewhere() as root:
        (root / "a.zip").write_bytes(data[: len(data) - cut] + tail)
        home = Ledger(root / "home" / "runs")
        try:
            merge(home, root / "a.zip")
        except MigcoreError:
            assert set(files(root)) == {"a.zip"}
        else:
            true, found = files(away.runs), files(home.runs)
            assert found and all(true[name] == content for name, content in found.items())
            assert set(os.listdir(root)) == {"a.zip", "home"} and os.listdir(root / "home") == ["runs"]
