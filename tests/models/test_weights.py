"""Weight files: what is written is read, and nothing damaged, foreign or dangerous gets through."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from migcore.errors import CheckpointError, StorageError
from migcore.models.weights import load_foreign, load_into, load_weights, save_weights, tensor_hash

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3), "half": torch.ones(2).half()}


def same(state: dict[str, torch.Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(
        torch.equal(state[name], STATE[name]) and state[name].dtype == STATE[name].dtype for name in STATE
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.safetensors"
    save_weights(path, STATE, {"epochs": 3, "accuracy": [0.5, 0.25], "recipe": {"lr": 0.1}})
    state, meta = load_weights(path)
    assert same(state)
    assert meta == {"epochs": 3, "accuracy": [0.5, 0.25], "recipe": {"lr": 0.1}}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_tied_and_channels_last_tensors_are_written(tmp_path: Path) -> None:
    tied = torch.arange(16.0).view(1, 2, 2, 2, 2).to(memory_format=torch.channels_last_3d)
    save_weights(tmp_path / "w.safetensors", {"one": tied, "two": tied}, {})
    state, _ = load_weights(tmp_path / "w.safetensors")
    assert torch.equal(state["one"], tied) and torch.equal(state["two"], tied)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, STATE, {"version": 1})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("migcore.models.weights.save_file", full)
    with pytest.raises(StorageError, match="No space left"):
        save_weights(path, {}, {"version": 2})
    assert load_weights(path)[1] == {"version": 1}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, STATE, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"w\.safetensors: the file is damaged"):
        load_weights(path)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, STATE, {})
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not those written"):
        load_weights(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name, load in (("w.safetensors", load_weights), ("w.pth", load_foreign), ("w.safetensors", load_foreign)):
        with pytest.raises(CheckpointError, match=name):
            load(tmp_path / name)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_foreign_files_are_unwrapped(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in STATE.items()}
    content = state if wrapper is None else {wrapper: state, "epoch": 12, "cfg": "LR: 0.1", "optimizer_state": {}}
    torch.save(content, tmp_path / "w.pth")
    assert same(load_foreign(tmp_path / "w.pth"))


def test_foreign_safetensors_keep_their_own_metadata(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({f"module.{name}": tensor for name, tensor in STATE.items()}, tmp_path / "w.safetensors", {"by": "them"})
    assert same(load_foreign(tmp_path / "w.safetensors"))
    assert load_weights(tmp_path / "w.safetensors")[1] == {"by": "them"}


class Payload:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def test_code_in_a_foreign_file_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"state_dict": STATE, "hook": Payload(trace)}, tmp_path / "torch.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"hook": Payload(trace)}, protocol=2))
    for name in ("torch.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match=f"{name}: .*(code|damaged)"):
            load_foreign(tmp_path / name)
    assert not trace.exists()
    pickle.loads((tmp_path / "plain.pth").read_bytes())
    assert trace.exists(), "the payload would have worked"


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip"])
def test_a_foreign_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_foreign(tmp_path / "w.pth")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
def test_a_truncated_foreign_file_is_refused(tmp_path: Path, keep: float) -> None:
    torch.save({"state_dict": STATE}, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(CheckpointError, match="damaged"):
        load_foreign(tmp_path / "w.pth")


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    for content in ({"epoch": 3}, [1, 2], {"state_dict": {}}):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match="no state dict"):
            load_foreign(tmp_path / "w.pth")


def test_only_a_state_dict_that_fits_is_loaded() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    good = {name: torch.ones_like(tensor) for name, tensor in module.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for wrong, message in (
        ({k: v for k, v in good.items() if k != "0.bias"}, r"file: 1 of the entries are missing: 0\.bias"),
        ({**good, "2.weight": torch.ones(1)}, r"unexpected: 2\.weight"),
        ({**good, "0.weight": torch.ones(3, 3)}, r"of another shape: 0\.weight is \[3, 3\], not \[3, 2\]"),
        ({}, r"6 of the entries are missing: .*, …"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_into(module, wrong, "file")
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    load_into(module, {k: v.half() for k, v in good.items() if k != "1.num_batches_tracked"}, "file")
    assert (module[0].weight == 1).all() and module[0].weight.dtype == torch.float32


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    for value, words in ((torch.nan, "NaN"), (torch.inf, "infinite numbers")):
        spoilt = {**STATE, "a.weight": torch.tensor([[1.0, value]]), "b.bias": torch.tensor([value]).half()}
        save_weights(tmp_path / "w.safetensors", spoilt, {})
        torch.save({"state_dict": spoilt}, tmp_path / "w.pth")
        for name, load in (("w.safetensors", load_weights), ("w.safetensors", load_foreign), ("w.pth", load_foreign)):
            with pytest.raises(CheckpointError, match=rf"{name}: 2 of the entries hold {words}.*: a\.weight, b\.bias"):
                load(tmp_path / name)


def test_a_module_takes_no_numbers_that_are_not_finite() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2).half()
            self.register_buffer("attn_mask", torch.full((3, 3), -torch.inf).triu(1))

    module = Masked()
    good = module.state_dict()
    before = {name: tensor.clone() for name, tensor in good.items()}
    load_into(module, good, "file")  # a mask is infinite of itself
    for name, value, words in (
        ("linear.bias", torch.tensor([0.0, torch.nan]), "NaN"),
        ("attn_mask", torch.full((3, 3), torch.nan), "NaN"),
        ("linear.bias", torch.tensor([0.0, -torch.inf]), "infinite numbers"),
        ("linear.bias", torch.tensor([0.0, 1e6]), "infinite numbers"),  # which float16 does not hold
    ):
        with pytest.raises(CheckpointError, match=rf"file: 1 of the entries hold {words}.*: {name}"):
            load_into(module, {**good, name: value}, "file")
        assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())


def test_hash_is_of_the_tensors_alone() -> None:
    digest = tensor_hash(STATE)
    assert len(digest) == 64 and digest == tensor_hash(dict(reversed(STATE.items())))
    for change in (
        {"a.weight": STATE["a.weight"] + 1},
        {"a.weight": STATE["a.weight"].reshape(3, 2)},
        {"a.weight": STATE["a.weight"].view(torch.int32)},
        {"b.weight": STATE["a.weight"]},
    ):
        assert tensor_hash({**STATE, **change}) != digest
