"""What a file is, told by its content: each sort that is no weights is named, with what to do."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from migcore.errors import CheckpointError
from migcore.models.filekinds import file_kind, pickled
from migcore.models.weights import load_foreign, load_weights

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def torch_file(**options: bool) -> bytes:
    out = io.BytesIO()
    torch.save(STATE, out, **options)
    return out.getvalue()


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, a=np.ones(2))
    return out.getvalue()


def npy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.ones(2))
    return out.getvalue()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("w.pth"))
    return out.getvalue()


INDEX = json.dumps({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}).encode()
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 345678\n"
PAGE = b"\xef\xbb\xbf\n<!-- drive --><HTML><head><title>Virus scan\n warning</title></head></HTML>"
OTHERS = {
    "pointer": (POINTER, r"a Git LFS pointer to 345678 bytes.*git lfs pull"),
    "page": (PAGE, r"a web page \(Virus scan warning\).*browser"),
    "doctype": (b"<!DOCTYPE html>\n<p>Please log in", r"a web page.*log-in"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', r"XML text \(AccessDenied\)"),
    "json": (b'{"error": "Repository not found"}', r"JSON text \(Repository not found\)"),
    "index": (INDEX, r"an index of weights that lie in 2 files \(model-1-of-2\.safetensors, model-2.*one file"),
    "gzip": (gzip.compress(b"weights"), "a gzip archive.*unpack it"),
    "tar": (tar(), "a tar archive.*unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(30), "a 7z archive.*unpack it"),
    "rar": (b"Rar!\x1a\x07\x01\x00" + bytes(30), "a rar archive.*unpack it"),
    "zip": (zipped(**{"w.pth": b"w", "readme.txt": b"r"}), r"a zip archive that holds w\.pth, readme\.txt.*unpack it"),
    "npz": (npz(), r"an archive of NumPy arrays \(\.npz\).*PyTorch"),
    "npy": (npy(), r"an array of NumPy \(\.npy\).*PyTorch"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(30), "an HDF5 file, as Keras and TensorFlow write.*PyTorch"),
    "keras 3": (zipped(**{"config.json": b"{}", "model.weights.h5": b""}), "a model of Keras.*PyTorch"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(30), "a model in the ONNX format.*PyTorch"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(30), "a model of TensorFlow Lite.*PyTorch"),
    "export": (zipped(**{"m/archive_format": b"pt2"}), r"a program of torch\.export.*state_dict"),
    "caffe2": (pickle.dumps({"blobs": {"w": np.ones(2)}}, protocol=2), r"a pickle of NumPy arrays.*torch\.save"),
    "caffe2 now": (pickle.dumps({"blobs": {"w": np.ones(2)}}), r"a pickle of NumPy arrays.*torch\.save"),
    "pickle": (pickle.dumps(STATE), r"a pickle that torch\.save did not write.*torch\.save"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_was_fetched_instead_is_named(name: str, suffix: str, tmp_path: Path) -> None:
    content, message = OTHERS[name]
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    for load in (load_foreign, load_weights):
        with pytest.raises(CheckpointError, match=rf"w{suffix}: the file is {message}") as caught:
            load(path)
        assert "holds code" not in str(caught.value) and "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is damaged: it is empty"),
        (torch_file()[:200], "the file is damaged: a zip archive, as torch writes, that ends too early"),
        (torch_file(_use_new_zipfile_serialization=False)[:200], "the file is damaged"),
        (b"conv1.weight: 3", r"damaged or no torch file: it begins with 'conv1\.weight: 3'"),
        (b"{'a': 3}", r"damaged or no torch file: it begins with"),
        (b"\x80\x02}q\x00", "damaged, or no torch file: it begins as a pickle"),
    ],
)
def test_what_is_not_whole_is_called_damaged(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_foreign(tmp_path / "w.pth")


def test_a_file_is_read_by_its_content_whatever_its_name(tmp_path: Path) -> None:
    for name, content, kind in (
        ("torch.safetensors", torch_file(), "torch"),
        ("old.safetensors", torch_file(_use_new_zipfile_serialization=False), "torch"),
        ("other.pth", save(STATE), "safetensors"),
        ("other.bin", torch_file(), "torch"),
    ):
        (tmp_path / name).write_bytes(content)
        assert file_kind(tmp_path / name) == kind
        state = load_foreign(tmp_path / name)
        assert state.keys() == STATE.keys() and all(torch.equal(state[key], STATE[key]) for key in STATE)
    with pytest.raises(CheckpointError, match=r"torch\.safetensors: the file is one of torch\.save.*--init FILE"):
        load_weights(tmp_path / "torch.safetensors")


def test_a_folder_is_no_file_and_what_lies_in_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such weight file: it is a folder.*the weight file itself"):
        file_kind(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match=r"it is a folder.*give the file in it: pytorch_model\.bin"):
        file_kind(tmp_path)
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(CheckpointError, match=r"it is a folder.*cut over several processes.*dcp_to_torch"):
        file_kind(tmp_path)


@pytest.mark.parametrize("new", [True, False])
def test_what_a_pickle_asks_for_is_listed_by_todays_names(new: bool, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": range(3)}, tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    names, protocol = pickled(tmp_path / "w.pth")
    assert protocol == 2 and {"torch._utils._rebuild_tensor_v2", "builtins.range"} <= set(names)
    (tmp_path / "cut.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:150])
    assert pickled(tmp_path / "cut.pth").names == ()
