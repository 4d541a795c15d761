"""Damaged and hostile input: every reader ends in a result that holds its promises or in a MigcoreError.

No file is left behind. A case starts from a whole file and is cut, flipped, doubled, re-encoded or given words that
mean something elsewhere. `make test` runs a fixed sample; `make test-full` ten thousand cases, others every day.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Verbosity, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from migcore.data.annotations import read_challenge_arrays, read_pyskl
from migcore.data.files import count_skeleton_rows, read_labels_csv, read_skeleton_csv, scan_labels_csv
from migcore.data.folder import read_splits
from migcore.data.imigue import open_dataset
from migcore.data.layouts import column_map
from migcore.errors import DataError, MigcoreError
from migcore.ledger import Ledger
from migcore.models.weights import load_foreign, load_weights, save_weights
from migcore.presets import _fields, override, preset
from tests.test_ledger import make_arrays, make_run

COLUMNS = column_map("openpose35")
WORDS = (
    b"nan", b"inf", b"-1", b"1e999", b"0x10", b"99", b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n\n", b";",
    b'"', b"../../etc/passwd", b"9" * 400, b"1_000", b"\xe2\x88\x92" b"3", b"True", b"null", b"{}", b"[1,", b"0.5.1",
)  # fmt: skip
CASES = 10_000


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with one to four things done to it."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(("cut", "flip", "drop", "word", "repeat", "line", "commas", "random")))
        if kind == "cut":
            del data[at:]
        elif kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == "word":
            data[at : at + draw(st.integers(0, 6))] = draw(st.sampled_from(WORDS))
        elif kind == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 200))]
        elif kind == "line":
            lines = bytes(data).split(b"\n")
            lines.insert(
                draw(st.integers(0, len(lines))), draw(st.sampled_from((*WORDS, lines[0], lines[0][: at + 1])))
            )
            data = bytearray(b"\n".join(lines))
        elif kind == "commas":
            data = bytearray(bytes(data).replace(b",", draw(st.sampled_from((b", ", b";", b"\t", b",,"))), 3))
        else:
            data[at:at] = draw(st.binary(max_size=30))
    return bytes(data)


def skeleton() -> bytes:
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.arange(6)[:, None], rng.uniform(0, 1, (6, 105)).round(3)], 1)
    return "\n".join(",".join(f"{v:g}" for v in row) for row in rows).encode()


def challenge() -> tuple[bytes, bytes]:
    out = io.BytesIO()
    data = np.random.default_rng(0).uniform(1, 90, (3, 3, 8, 22, 1)).astype(np.float32)
    data[:, 2] /= 90
    np.save(out, data)
    return out.getvalue(), pickle.dumps((["0001_1", "0001_2", "0002_1"], [0, 3, 31]))


def pyskl() -> bytes:
    rng = np.random.default_rng(0)
    entries = [
        {"frame_dir": f"000{i}_1", "label": i, "total_frames": 4, "img_shape": (90, 90),
         "keypoint": rng.uniform(0, 90, (1, 4, 22, 2)).astype(np.float16),
         "keypoint_score": rng.uniform(0, 1, (1, 4, 22)).astype(np.float16)}
        for i in range(2)
    ]  # fmt: skip
    return pickle.dumps({"split": {"train": ["0000_1"], "test": ["0001_1"]}, "annotations": entries})


def ours() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(path, {"a": torch.arange(6.0), "b.weight": torch.ones(2, 3)}, {"what": "a test", "n": 3})
        return path.read_bytes()


def torch_file() -> bytes:
    out = io.BytesIO()
    torch.save({"model_state": {"module.a": torch.arange(6.0), "module.b": torch.ones(2, 3)}, "epoch": 3}, out)
    return out.getvalue()


def torch_file_beside(new: bool) -> bytes:
    """With what people leave beside the weights."""
    beside = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.5), "mean": np.ones(3), "when": date(2020, 1, 1)}
    out = io.BytesIO()
    torch.save({"net": {"_orig_mod.a": torch.arange(6.0)}, **beside}, out, _use_new_zipfile_serialization=new)
    return out.getvalue()


def no_weights() -> bytes:
    return b'{"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}'


def a_run() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        book = Ledger(Path(folder) / "runs")
        book.save(make_run(), make_arrays())
        return next((Path(folder) / "runs").rglob("run.json")).read_bytes()


def check_skeleton(path: Path) -> None:
    keypoints, scores = read_skeleton_csv(path, COLUMNS)
    assert keypoints.shape == (*scores.shape, 2) and scores.shape == (count_skeleton_rows(path, COLUMNS), 22)
    assert np.isfinite(keypoints).all() and ((scores >= 0) & (scores <= 1)).all()


def check_labels(path: Path) -> None:
    scanned = scan_labels_csv(path)
    try:
        rows = read_labels_csv(path)
    except DataError:
        assert not scanned or any(isinstance(row, DataError) for row in scanned)
        raise
    assert rows == scanned and all(0 <= label <= 31 and 1 <= start <= end for label, start, end in rows)


def check_splits(path: Path) -> None:
    found = read_splits(path, {"0001", "0002"})
    assert set(found) <= {"0001", "0002"} and {split for split, _ in found.values()} <= {"train", "val", "test"}


def check_arrays(path: Path) -> None:
    labels = path.with_name("labels.pkl")
    labels.write_bytes(challenge()[1])
    try:
        found = read_challenge_arrays(path, labels)
    finally:
        labels.unlink()
    assert len(found.names) == len(found.labels) == len(found.keypoints) == len(found.scores)
    assert all(np.isfinite(points).all() for points in found.keypoints)


def check_label_pickle(path: Path) -> None:
    arrays = path.with_name("data.npy")
    arrays.write_bytes(challenge()[0])
    try:
        found = read_challenge_arrays(arrays, path)
    finally:
        arrays.unlink()
    assert len(found.names) == 3 and ((found.labels >= -1) & (found.labels < 32)).all()


def check_pyskl(path: Path) -> None:
    for entry in read_pyskl(path):
        assert entry["keypoint"].shape[:-1] == entry["keypoint_score"].shape and np.isfinite(entry["keypoint"]).all()


def check_weights(path: Path) -> None:
    state, meta = load_weights(path)
    assert all(isinstance(value, torch.Tensor) for value in state.values()) and isinstance(meta, dict)


def check_foreign(path: Path) -> None:
    assert all(isinstance(value, torch.Tensor) for value in load_foreign(path).values())


def check_no_weights(path: Path) -> None:
    with pytest.raises(MigcoreError, match=re.escape(str(path))):
        load_foreign(path)


def check_ledger(path: Path) -> None:
    """A damaged record is no run: it is reported or left out, and the others stay."""
    book = Ledger(path.parent)
    for run in book.all():
        assert len(run.key) == 64 or run.key


def check_dataset(path: Path) -> None:
    """A label file in a folder that is otherwise whole."""
    beside = path.with_name("0001_light_hand.csv")
    beside.write_bytes(skeleton())
    try:
        index = open_dataset(path.parents[1])
        assert all(0 <= clip.label <= 31 and clip.end <= 6 for clip in index.clips)
    finally:
        beside.unlink()


@dataclass(frozen=True)
class Target:
    """A reader, and a whole file for it."""

    name: str
    whole: Callable[[], bytes]
    read: Callable[[Path], None]


TARGETS = {
    "skeleton": Target("0001_light_hand.csv", skeleton, check_skeleton),
    "labels": Target("0001_label.csv", lambda: b"3,1,4\n99,2,6\n12,5,5\n", check_labels),
    "splits": Target("splits.csv", lambda: b"video,split,subject\n0001,train,P1\n0002,test,P2\n", check_splits),
    "arrays": Target("data.npy", lambda: challenge()[0], check_arrays),
    "label pickle": Target("labels.pkl", lambda: challenge()[1], check_label_pickle),
    "pyskl": Target("annotations.pkl", pyskl, check_pyskl),
    "our weights": Target("weights.safetensors", ours, check_weights),
    "safetensors": Target("other.safetensors", lambda: save({"a": torch.ones(3)}, {"format": "pt"}), check_foreign),
    "torch": Target("weights.pth", torch_file, check_foreign),
    "torch beside": Target("weights.pth", lambda: torch_file_beside(True), check_foreign),
    "old torch": Target("weights.safetensors", lambda: torch_file_beside(False), check_foreign),
    "no weights": Target("weights.pth", no_weights, check_no_weights),
    "run": Target("posec3d_joint-seed0-abc/run.json", a_run, check_ledger),
    "folder": Target("0001/0001_label.csv", lambda: b"3,1,4\n99,2,6\n12,5,5\n", check_dataset),
}


def fuzz(name: str, cases: int, *, fixed: bool) -> None:
    target = TARGETS[name]
    whole = target.whole()

    @settings(
        max_examples=cases,
        deadline=5000,
        derandomize=fixed,
        database=None,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,  # files are no reading matter
        report_multiple_bugs=False,
    )
    @given(damaged(whole))
    def check(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / target.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            try:
                target.read(path)
            except MigcoreError as error:
                assert str(error) and "\n" not in str(error)
            except Exception as error:
                kept = Path(tempfile.gettempdir()) / f"migcore-fuzz-{name.replace(' ', '-')}"
                kept.write_bytes(data)  # the smallest that was found, in the end
                raise AssertionError(f"{type(error).__name__}: {str(error)[:300]}; the file is {kept}") from error
            left = [os.path.join(where, file) for where, _, files in os.walk(folder) for file in files]
            assert left == [str(path)] and path.read_bytes() == data

    check()


def test_whole_files_are_read() -> None:
    for target in TARGETS.values():
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / target.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(target.whole())
            target.read(path)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(name: str) -> None:
    fuzz(name, 50, fixed=True)


@pytest.mark.full
@pytest.mark.parametrize("name", TARGETS)
def test_ten_thousand_damaged_files(name: str) -> None:
    fuzz(name, CASES // len(TARGETS) + 1, fixed=False)


values = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "nan", "inf", "-1", "0", "1e400", "true", "[", "[1,2", "1,2,3", "None", "0.5", "../..", "9" * 40]
    ),
    st.integers(-(10**20), 10**20).map(str),
    st.floats().map(str),
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(field=st.sampled_from(sorted(_fields(preset("smoke")))), value=values)
def test_config_values_are_taken_or_refused(field: str, value: str) -> None:
    try:
        changed = override(preset("smoke"), {field: value})
    except MigcoreError as error:
        assert field.rpartition(".")[2] in str(error) or str(error)
    else:
        json.dumps(str(changed))


def hostile(module: str, name: str) -> bytes:
    """A pickle that calls a function."""

    class Call:
        def __reduce__(self) -> Any:
            return getattr(__import__(module), name), ("true",)

    return pickle.dumps(Call())


@pytest.mark.parametrize(("module", "name"), [("os", "system"), ("builtins", "eval"), ("builtins", "getattr")])
def test_a_pickle_runs_nothing(module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "annotations.pkl"
    path.write_bytes(hostile(module, name))
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("it was run"))
    for read in (read_pyskl, load_foreign):
        with pytest.raises(MigcoreError, match=r"annotations\.pkl"):
            read(path)
