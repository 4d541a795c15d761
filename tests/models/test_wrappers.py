"""The state dict among what lies beside it: under any key, behind any prefix, one alone, and finite."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from migcore.errors import CheckpointError
from migcore.models.wrappers import refuse_spoilt, unwrapped, without_holder

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
MEAN = {name: tensor + 1 for name, tensor in STATE.items()}


def taken(content: object) -> dict[str, Tensor]:
    return unwrapped(content, "file")[0]


def same(state: dict[str, Tensor], wanted: dict[str, Tensor] = STATE) -> bool:
    return state.keys() == wanted.keys() and all(torch.equal(state[name], wanted[name]) for name in wanted)


def optimizer_state() -> dict[str, Any]:
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(
    "keys",
    [
        ["model_state_dict"], ["net"], ["network"], ["params"], ["weights"], ["module"], ["state_dict_ema"], ["ema"],
        ["model_ema", "module"], ["model", "net", "state_dict"], ["generator"], ["trainer", "my_weights"],
    ],
)  # fmt: skip
def test_a_state_dict_is_found_under_any_key(keys: list[str]) -> None:
    content: dict[str, Any] = STATE
    for key in reversed(keys):
        content = {"epoch": 3, "config": {"lr": 0.1}, key: content, "optimizer": optimizer_state()}
    assert same(taken(content))


@pytest.mark.parametrize("mean", ["state_dict_ema", "ema", "model_ema", "params_ema", "swa_state"])
@pytest.mark.parametrize("plain", ["state_dict", "net", "model_weights"])
def test_of_several_the_plain_one_is_taken_and_said(plain: str, mean: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "migcore.checkpoints"):
        assert same(taken({mean: MEAN, plain: STATE}))
    (record,) = caplog.records
    assert record.getMessage() == f"file: the weights under {plain} are taken; beside them lie {mean}"


def test_one_state_dict_alone_is_taken_silently(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "migcore.checkpoints"):
        taken({"state_dict": STATE, "optimizer": optimizer_state(), "rng_state": {"cpu": torch.ones(2)}})
    assert not caplog.records


def test_several_that_nothing_tells_apart_are_refused() -> None:
    for content in ({"student": STATE, "teacher": MEAN}, {"model": {"encoder": STATE, "decoder": MEAN}}):
        with pytest.raises(CheckpointError, match=r"several sets of tensors, (student, teacher|encoder, decoder)"):
            taken(content)


def test_names_are_not_keys() -> None:
    bare = {"model.a": torch.ones(2), "net.b": torch.ones(2), "config": {"model": "small"}}
    state, others = unwrapped(bare, "file")
    assert list(state) == ["model.a", "net.b"] and others == ["config"]
    assert same(taken({"model": {"depth": 3}, "weights_now": STATE}))  # a key that holds no tensor is none


@pytest.mark.parametrize(
    "prefix",
    [
        "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "_fsdp_wrapped_module.",
        "_orig_mod._fsdp_wrapped_module.", "module._checkpoint_wrapped_module._orig_mod.",
    ],
)  # fmt: skip
def test_what_wrappers_put_before_names_goes(prefix: str) -> None:
    assert same(taken({"state_dict": {prefix + name: tensor for name, tensor in STATE.items()}}))


def test_wrappers_inside_of_a_model_go() -> None:
    names = {"tower._orig_mod.0.w": "tower.0.w", "tower._orig_mod.1._checkpoint_wrapped_module.w": "tower.1.w",
             "text.module.w": "text.w", "head.w": "head.w"}  # fmt: skip
    assert list(taken({name: torch.ones(2) for name in names})) == list(names.values())
    part = {"tower.module.w": torch.ones(2), "tower.w": torch.ones(2)}  # here it is a part's own name
    assert list(taken(part)) == list(part)


def test_a_mean_of_weights_of_torch_is_read() -> None:
    model = nn.Linear(3, 2)
    state, others = unwrapped(torch.optim.swa_utils.AveragedModel(model).state_dict(), "file")
    assert same(state, model.state_dict()) and others == ["n_averaged"]


def test_two_entries_that_get_one_name_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"two entries are called a\.w"):
        taken({"a.w": torch.ones(2), "_orig_mod.a.w": torch.ones(2)})


def test_what_a_training_module_puts_before_all_names_goes() -> None:
    def held(*prefixes: str) -> dict[str, Tensor]:
        return {f"{prefix}{name}": tensor for prefix in prefixes for name, tensor in STATE.items()}

    for prefix in ("model.", "net.", "network.", "model.net.", "net.model."):
        assert same(without_holder(held(prefix)))
    assert without_holder(held("model.", "loss.")).keys() == held("model.", "loss.").keys()
    for prefix in ("model.", "net.model.", "model.model."):
        assert without_holder(held(prefix), keep="model").keys() == held("model.").keys()
    assert without_holder({}) == {}


def test_arrays_are_weights_where_there_is_no_tensor() -> None:
    arrays: dict[str, Any] = {"a.weight": np.arange(6, dtype=">f4").reshape(2, 3), "a.bias": np.ones(2, np.float32)}
    assert same(taken({"params": arrays, "epoch": 3})) and same(taken({**arrays, "names": np.array(["x"])}))
    assert same(taken({"state_dict": STATE, "mean": np.ones(3)}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (optimizer_state(), "it holds an optimizer's state and no weights"),
        (torch.optim.SGD([nn.Parameter(torch.ones(2))]).state_dict(), "it holds an optimizer's state and no weights"),
        ({"optimizer": optimizer_state(), "epoch": 3}, "it holds an optimizer's state and no weights"),
        ({"rng_state": {"cpu": torch.ones(2)}}, "it holds rng_state, which is a state of training, and no weights"),
        ({"model": nn.Linear(2, 2)}, "it holds a whole model, Linear, not its weights by name"),
        ({"epoch": 3, "lr": 0.1}, r"it holds epoch \(int\), lr \(float\)"),
        ({}, "it holds nothing"),
        ([torch.ones(2)], "it is of type list"),
    ],
)
def test_what_holds_no_weights_says_what_it_holds(content: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"file: there is no state dict: {message}"):
        taken(content)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_nan_is_refused_by_name(kind: torch.dtype) -> None:
    spoilt = {**STATE, "b.weight": torch.tensor([1.0, torch.nan]).to(kind), "c.bias": torch.tensor([torch.nan])}
    with pytest.raises(CheckpointError, match=r"file: 2 of the entries hold NaN \(not a number\): b\.weight, c\.bias"):
        taken({"state_dict": spoilt})


def test_infinite_weights_are_refused_and_masks_are_not() -> None:
    mask = torch.full((3, 3), -torch.inf).triu(1)
    assert "attn_mask" in taken({**STATE, "attn_mask": mask})
    for wrong in (torch.tensor([1.0, torch.inf]), torch.tensor([0.5, -torch.inf]), -mask):
        with pytest.raises(CheckpointError, match=r"1 of the entries hold infinite numbers: b"):
            refuse_spoilt({**STATE, "b": wrong}, "file")
    refuse_spoilt({"big": torch.tensor([1e300], dtype=torch.float64), "count": torch.tensor(3)}, "file")
