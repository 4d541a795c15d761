"""Torch files beside whose weights other things lie: passed over, without anything of the file being run."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import pathlib
import random
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from migcore.errors import CheckpointError
from migcore.models.unpickled import class_name, read_torch
from migcore.models.weights import load_foreign

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
made: list[str] = []  # what was made of this module's classes


class Config(dict[str, Any]):
    """As configurations of mmcv, yacs and easydict are."""

    def __setitem__(self, key: str, value: object) -> None:
        made.append(f"Config {key}")
        super().__setitem__(key, value)


class Settings:
    """Holds a class, a function, and a class inside of a class."""

    class Inner:
        pass

    def __init__(self) -> None:
        self.kind, self.activation, self.inner = int, torch.nn.functional.relu, Settings.Inner

    def __setstate__(self, state: object) -> None:
        made.append("Settings")

    def mean(self) -> None:
        """A method that an object may hold."""


class Split(enum.Enum):
    TRAIN = "train"


@dataclasses.dataclass(slots=True)
class Slots:
    lr: float = 0.1


class Rows(list[int]):
    def append(self, row: int) -> None:
        made.append("Rows")


def function(*_: object) -> int:
    made.append("function")
    return 3


class Calls:
    """Asks that a function be called."""

    def __init__(self, called: Any, *given: object) -> None:
        self.called, self.given = called, given

    def __reduce__(self) -> tuple[object, ...]:
        return self.called, self.given


BESIDE: dict[str, Any] = {
    "a NumPy number": np.float64(0.5),
    "NumPy's others": [np.int64(3), np.bool_(True), np.str_("x"), np.datetime64("2020-01-01")],
    "arrays": [np.ones((3, 2), order="F"), np.array([{}, 1], dtype=object), np.zeros(2, dtype=[("a", "f4")])],
    "random states": [np.random.default_rng(0), np.random.RandomState(0), random.getstate(), torch.get_rng_state()],
    "argparse": argparse.Namespace(lr=0.1, out=pathlib.Path("/runs")),
    "a path": pathlib.PurePosixPath("/runs"),
    "dates": [datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), datetime.timedelta(1)],
    "collections": [collections.defaultdict(list, {"a": [1]}), collections.deque([1], 5), collections.Counter("aab")],
    "built in": [{1}, frozenset([1]), b"x", 1j, slice(1, 2), range(3), 2**80],
    "a number type": [decimal.Decimal("0.5"), torch.float16, torch.Size([1]), torch.device("cuda:0")],
    "a configuration": Config(model=Config(depth=3)),
    "an object": Settings(),
    "a method": Settings.mean,
    "an object of an inner class": Settings.Inner(),
    "an enumeration": {Split.TRAIN: 3},
    "slots": Slots(),
    "a list of its own": Rows([1, 2]),
    "stored calls": [functools.partial(function, 3), re.compile("x+")],
    "a module": torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()),
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_lies_beside_the_weights_is_passed_over(what: str, tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "beside": BESIDE[what]}, tmp_path / "w.pth")
    made.clear()
    state = load_foreign(tmp_path / "w.pth")
    assert state.keys() == STATE.keys() and all(torch.equal(state[name], STATE[name]) for name in STATE)
    assert not made, "nothing of this module was looked up"


def test_old_files_are_read_likewise(tmp_path: Path) -> None:
    for what in ("a NumPy number", "argparse", "a configuration", "dates"):
        content = {"state_dict": STATE, "beside": BESIDE[what]}
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
        assert load_foreign(tmp_path / "w.pth").keys() == STATE.keys()


def test_classes_that_are_not_installed_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = types.ModuleType("absent_package")
    absent.DictConfig = type("DictConfig", (), {"__module__": "absent_package"})  # type: ignore[attr-defined]
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "absent_package", absent)
        torch.save({"state_dict": STATE, "cfg": absent.DictConfig()}, tmp_path / "w.pth")
    assert load_foreign(tmp_path / "w.pth").keys() == STATE.keys()


def test_weights_in_a_dictionary_of_another_class_are_read(tmp_path: Path) -> None:
    torch.save(Config(state_dict=collections.defaultdict(dict, STATE), epoch=3), tmp_path / "w.pth")
    assert load_foreign(tmp_path / "w.pth").keys() == STATE.keys()


def test_numbers_and_arrays_of_numpy_are_themselves(tmp_path: Path) -> None:
    arrays = [np.arange(6).reshape(2, 3).astype(kind) for kind in ("<f8", ">f4", "<i8", "u1", "?", "<f2")]
    arrays.append(np.asfortranarray(arrays[0]))
    torch.save({**{str(i): each for i, each in enumerate(arrays)}, "n": np.float32(0.5)}, tmp_path / "w.pth")
    content = read_torch(tmp_path / "w.pth")
    assert isinstance(content, dict) and content["n"] == 0.5
    for i, expected in enumerate(arrays):
        np.testing.assert_array_equal(content[str(i)], expected)
        assert content[str(i)].dtype == expected.dtype.newbyteorder("=")


def test_what_the_process_admits_is_neither_used_nor_lost(tmp_path: Path) -> None:
    torch.save({"cfg": Settings(), "a": np.ones(2)}, tmp_path / "w.pth")
    made.clear()
    with torch.serialization.safe_globals([Settings, np.ndarray, np.dtype]):
        before = set(torch.serialization.get_safe_globals())
        content = read_torch(tmp_path / "w.pth")
        assert set(torch.serialization.get_safe_globals()) == before
    assert isinstance(content, dict) and not made
    assert class_name(content["cfg"]) == f"{__name__}.Settings" and class_name(content["a"]) is None


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize(
    ("asks", "message"),
    [
        (Calls(function, 3), rf"opening the file would call {re.escape(__name__)}\.function, which is code"),
        (Calls(eval, "3"), r"opening the file would call builtins\.eval, which is code"),
        (Calls(Path.touch, Path("here")), r"opening the file would call pathlib\.Path\.touch, which is code"),
        (Calls(getattr, 3, "real"), r"opening the file would call builtins\.getattr, which is code"),
        (Calls(sys.intern, "3"), r"the file asks for sys\.intern, which is never given"),
    ],
)
def test_a_file_that_calls_a_function_is_refused_by_its_name(
    asks: Calls, message: str, new: bool, tmp_path: Path
) -> None:
    torch.save({"state_dict": STATE, "hook": asks}, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    made.clear()
    before = set(torch.serialization.get_safe_globals())
    with pytest.raises(CheckpointError, match=rf"w\.pth: .*{message}.*never runs code of a file"):
        load_foreign(tmp_path / "w.pth")
    assert not made and set(torch.serialization.get_safe_globals()) == before


def test_a_whole_model_is_named(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    for content, new in ((model, True), ({"model": model, "epoch": 3}, True), (model, False)):
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
        with pytest.raises(CheckpointError, match=r"a whole model, torch\.nn\.modules\.linear\.Linear.*save") as caught:
            load_foreign(tmp_path / "w.pth")
        assert "holds code" not in str(caught.value) and "damaged" not in str(caught.value)


def test_weights_in_pieces_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "torch.distributed._shard.sharded_tensor.fake"
    pieces = types.ModuleType(name)
    pieces.ShardedTensor = type("ShardedTensor", (), {"__module__": name})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, pieces)
    torch.save({"model": {"a": pieces.ShardedTensor()}}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"cut over several processes .*ShardedTensor\).*FULL_STATE_DICT"):
        load_foreign(tmp_path / "w.pth")


def test_another_protocol_of_pickle_is_named(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pth", pickle_protocol=4)
    with pytest.raises(CheckpointError, match=r"protocol 4 of pickle, which is not read here.*save it again"):
        load_foreign(tmp_path / "w.pth")


def test_what_cannot_be_passed_over_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "a": Rows([1]), "b": Config(c=1)}, tmp_path / "w.pth")  # one stand-in is not both
    with pytest.raises(CheckpointError, match=rf"cannot be passed over: {re.escape(__name__)}\.Rows, .*Config"):
        load_foreign(tmp_path / "w.pth")
