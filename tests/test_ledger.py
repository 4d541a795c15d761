"""Keys change with what decides numbers and with nothing else; records come back as they were written."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migcore import ledger
from migcore.errors import ConfigError, LedgerError
from migcore.files import write_json
from migcore.ledger import Ledger, Run, canonical, canonical_json, hash_text, run_key, source_hash

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


def test_find_is_newest_first_and_filters(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "runs")
    for i, (preset, seed) in enumerate([("smoke", 0), ("smoke", 1), ("laptop", 0)]):
        book.save(make_run(f"{i:016x}", preset=preset, seed=seed, created=f"2024-01-0{i + 1}"), make_arrays())
    assert [r.created[-1] for r in book.find("posec3d_joint")] == ["3", "2", "1"]
    assert [r.seed for r in book.find("posec3d_joint", preset="smoke")] == [1, 0]
    assert [r.preset for r in book.find("posec3d_joint", seed=0)] == ["laptop", "smoke"]
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
        with pytest.raises(LedgerError, match=r"run\.json: is not a run record"):
            book.get(run.key)


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
