"""What a checkpoint holds: the state dict among what lies beside it, under the names that its module knows.

Choices:

* A state dict lies under a key, at any depth. Of several the plain one is taken, not a running mean of it; where
  nothing says which is meant, all are named and none is taken.
* What wrappers put before or into names (several processes, compilation, sharding) is taken off, in any order.
* Weights are finite. Masks are not: they hold 0 and -∞ and nothing else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from migcore.errors import CheckpointError
from migcore.models.unpickled import class_name

_PLAIN = (
    "model_state", "state_dict", "model", "model_state_dict", "net", "network", "module", "params", "weights",
)  # fmt: skip
_MEAN = re.compile(r"(^|_)(ema|swa|avg|averaged?|shadow|polyak)(_|\d|$)", re.IGNORECASE)
_NO_WEIGHTS = re.compile(
    r"optim|sched|scaler|(^|_)(opt|rng|amp|loss|criterion|metrics?|history)(_|\d|$)", re.IGNORECASE
)
_OF_TORCH = re.compile(r"(?:(?<=\.)|^)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_fpw_module)\.")
_PROCESSES = "module."  # before the names of a module that several processes share
_HOLDERS = ("model", "net", "network")  # what the modules that train others call them
_DEEPEST = 8
_NUMBERS = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.bool, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64,
)  # fmt: skip


def unwrapped(content: object, where: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint by name, and the names of what else stands among them.

    A state dict under ``state_dict``, ``model``, ``net`` or the like is taken out, and what wrappers add to names
    (``module.``, ``_orig_mod.`` and the like) taken off. Where a file holds several, the logger
    ``migcore.checkpoints`` is told (level INFO) which was taken and what else lies there. Of a file without any tensor
    NumPy's arrays are taken.

    Args:
        content: a state dict, wrapped or bare.
        where: it comes from, for messages.

    Raises:
        CheckpointError: there is no tensor in it, or several sets of them, or one that is not real, finite numbers in
            full.
    """
    kind: type = Tensor if _holds(content, Tensor) else np.ndarray
    inner, under, beside = content, list[str](), list[str]()
    for _ in range(_DEEPEST):  # not for ever: a file may hold itself
        key, others = _chosen(inner, kind, where) if isinstance(inner, Mapping) else (None, [])
        if key is None:
            break
        inner = inner[key]  # type: ignore[index]  # a mapping, as was just asked
        under.append(str(key))
        beside += others
    entries = {str(name): value for name, value in inner.items()} if isinstance(inner, Mapping) else {}
    state = {name: _tensor(value) for name, value in entries.items() if _is_weight(value, kind)}
    if not state:
        raise _no_weights(content, where)
    if beside:
        logging.getLogger("migcore.checkpoints").info(
            "%s: the weights under %s are taken; beside them lie %s", where, ".".join(under), ", ".join(beside)
        )
    others = [name for name in entries if name not in state]
    counter = "n_averaged"  # of torch's mean of weights
    if counter in state and len(state) > 1 and all(n.startswith(_PROCESSES) for n in state if n != counter):
        del state[counter]
        others.append(counter)
    state = _bare(state, where)
    _refuse_no_numbers(state, where)
    refuse_spoilt(state, where)
    return state, others


def without_holder(state: Mapping[str, Tensor], keep: str = "") -> dict[str, Tensor]:
    """A state dict without what a module that trains another (Lightning's) puts before all names: ``model.``, ``net.``.

    Args:
        state: entries by name.
        keep: one such word that the names have of themselves; only what stands before it goes.
    """
    found = dict(state)
    while True:
        for word in _HOLDERS:
            after = tuple(f"{word}.{inner}." for inner in _HOLDERS) if word == keep else (f"{word}.",)
            if found and any(all(name.startswith(start) for name in found) for start in after):
                found = {name.removeprefix(f"{word}."): tensor for name, tensor in found.items()}
                break
        else:
            return found


def refuse_spoilt(state: Mapping[str, Tensor], where: str | Path) -> None:
    """Weights are finite numbers; a mask may hold -∞ beside 0.

    Raises:
        CheckpointError: some are not; they are named.
    """
    refuse_not_finite({name: _what_is_not_finite(value) for name, value in state.items()}, where)


def refuse_not_finite(found: Mapping[str, str], where: str | Path) -> None:
    """Refuse entries by what is known of each: "NaN", "infinite", or "" for finite.

    Raises:
        CheckpointError: some hold NaN or infinite numbers; they are named.
    """
    for kind, words in (("NaN", "NaN (not a number)"), ("infinite", "infinite numbers")):
        names = [name for name, what in found.items() if what == kind]
        if names:
            raise CheckpointError(
                f"{len(names)} of the entries hold {words}: {_listed(names)}",
                where=where,
                hint="these weights were spoilt before they were saved, or in the file; take an earlier checkpoint, or "
                "fetch the file again",
            )


def _what_is_not_finite(value: Tensor) -> str:
    if not value.is_floating_point() or value.dtype not in _NUMBERS:
        return ""
    value = value if value.dtype == torch.float64 else value.float()
    if value.isfinite().all():
        return ""
    if value.isnan().any():
        return "NaN"
    return "" if ((value == 0) | (value == -torch.inf)).all() else "infinite"


def _refuse_no_numbers(state: Mapping[str, Tensor], where: str | Path) -> None:
    for name, value in state.items():
        without_values = value.is_meta or not value.numel() or value.layout != torch.strided
        if without_values or value.is_quantized or value.dtype not in _NUMBERS:
            raise CheckpointError(
                f"{name} is a tensor without values, sparse, quantised or complex",
                where=where,
                hint="weights are real numbers, all of them written out",
            )


# --- which mapping ----------------------------------------------------------------------------------------------------


def _chosen(content: Mapping[Any, Any], kind: type, where: str | Path) -> tuple[Any, list[str]]:
    """The key of the mapping that holds the weights, None where they stand here; and the keys of others like it."""
    if _of_training("", content):
        return None, []
    inside = [
        key
        for key, value in content.items()
        if isinstance(value, Mapping) and _holds(value, kind) and not _of_training(str(key), value)
    ]
    plain = [key for key in _PLAIN if key in inside]
    if not plain and any(_is_weight(value, kind) and value.ndim for value in content.values()):
        return None, []
    others = [key for key in inside if key not in plain]
    first = plain or [key for key in others if not _MEAN.search(str(key))] or others
    if len(first) > 1 and not plain:
        raise CheckpointError(
            f"there is no one state dict: it holds several sets of tensors, {_listed([str(key) for key in first])}",
            where=where,
            hint="save the one that is meant alone: torch.save(checkpoint[NAME], FILE)",
        )
    return (first[0] if first else None), [str(key) for key in inside if key != (first or [None])[0]]


def _holds(content: object, kind: type) -> bool:
    """Whether there is such a value in a mapping, or in one inside of it."""
    seen, waiting = set[int](), [content]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping) and id(each) not in seen:
            seen.add(id(each))
            if any(_is_weight(value, kind) for value in each.values()):
                return True
            waiting += each.values()
    return False


def _is_weight(value: object, kind: type) -> bool:
    if isinstance(value, np.ndarray):
        return kind is np.ndarray and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8 and value.size > 0
    return kind is Tensor and isinstance(value, Tensor)


def _tensor(value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))


def _of_training(key: str, value: Mapping[Any, Any]) -> bool:
    return "param_groups" in value or bool(_NO_WEIGHTS.search(key))


def _no_weights(content: object, where: str | Path) -> CheckpointError:
    """What is there instead."""
    hint = "give a model's weights: tensors by name"
    whole = _whole_model(content)
    if whole is not None:
        return CheckpointError(
            f"there is no state dict: it holds a whole model, {whole}, not its weights by name",
            where=where,
            hint="where its code is, save the weights alone: torch.save(model.state_dict(), FILE); migcore never runs "
            "code of a file",
        )
    mapping = content if isinstance(content, Mapping) else {}
    mappings = {str(key): value for key, value in mapping.items() if isinstance(value, Mapping)}
    of_training = [key for key, value in mappings.items() if _holds(value, Tensor)]
    if any("param_groups" in each for each in (mapping, *mappings.values())):
        what = "holds an optimizer's state and no weights"
    elif of_training:
        what = f"holds {_listed(of_training)}, which is a state of training, and no weights"
    elif mapping or type(content) is dict:
        what = f"holds {_listed(f'{key} ({_type_of(value)})' for key, value in mapping.items()) or 'nothing'}"
    else:
        what = f"is of type {_type_of(content)}"
    return CheckpointError(f"there is no state dict: it {what}", where=where, hint=hint)


def _whole_model(content: object) -> str | None:
    """The class of a pickled module, at the top or one level down."""
    inside = [content, *(content.values() if isinstance(content, Mapping) else ())]
    modules = (value for value in inside if isinstance(getattr(value, "_parameters", None), Mapping))
    return next((_type_of(value) for value in modules), None)


def _type_of(value: object) -> str:
    return class_name(value) or type(value).__name__


# --- names ------------------------------------------------------------------------------------------------------------


def _bare(state: Mapping[str, Tensor], where: str | Path) -> dict[str, Tensor]:
    """The same entries without what wrappers add to their names."""
    names = [_OF_TORCH.sub("", name) for name in state]
    while parents := _shared(names):
        for parent in parents:
            names = [f"{parent}{n.removeprefix(parent + _PROCESSES)}" if n.startswith(parent) else n for n in names]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise CheckpointError(
            f"without what wrappers add, two entries are called {_listed(twice)}",
            where=where,
            hint="save the weights of one model alone: torch.save(model.state_dict(), FILE)",
        )
    return dict(zip(names, state.values(), strict=True))


def _shared(names: list[str]) -> list[str]:
    """What stands before ``module.`` in names, where nothing else stands behind it: there a module is wrapped."""
    places = {name[: found.start()] for name in names for found in re.finditer(r"(?:(?<=\.)|^)module\.", name)}
    return [
        place
        for place in sorted(places, key=len, reverse=True)
        if all(name.startswith(place + _PROCESSES) for name in names if name.startswith(place))
    ]


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    return f"{', '.join(found[:3])}{', …' if len(found) > 3 else ''}"
