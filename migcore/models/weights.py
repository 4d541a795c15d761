"""Weight files: safetensors with JSON beside the tensors, written whole; foreign ones read without running code.

It lies under the models because the teacher reads its weights here; users find these functions in
:mod:`migcore.checkpoints`, together with :func:`~migcore.checkpoints.load_reference`.

Choices: a file is written under a temporary name and renamed, so that a reader never sees half of one; foreign files
are opened with ``weights_only=True`` only; a state dict that does not fit its module is refused, key by key, never
loaded in part.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from migcore.errors import CheckpointError
from migcore.files import write_whole

_META, _HASH = "migcore", "sha256"
_WRAPPERS = ("model_state", "state_dict", "model")


def save_weights(path: Path, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and a JSON description of them as one safetensors file.

    Args:
        path: file to write; its folder is made. A file of that name is replaced only when the new one is complete.
        state: tensors by name, on any device.
        meta: what JSON can hold; kept in the file's header and returned by :func:`load_weights`.

    Raises:
        StorageError: the file cannot be written; what was there before is intact.
    """
    tensors = {  # a clone each: tied or channels-last tensors are refused by safetensors
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
    }
    header = {_META: json.dumps(dict(meta)), _HASH: tensor_hash(tensors)}
    write_whole(Path(path), lambda temporary: save_file(tensors, temporary, metadata=header))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a file of :func:`save_weights`; of another safetensors file its own string metadata.

    Raises:
        CheckpointError: the file is missing, cut short, no safetensors file, or not as it was written (the hash of its
            tensors is in the header).
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("there is no such weight file", where=path, hint="check the path")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        meta = json.loads(header[_META]) if _META in header else dict(header)
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(
            f"the file is damaged or not safetensors ({error})", where=path, hint="fetch or write it again"
        ) from error
    if _META in header and header.get(_HASH) != tensor_hash(state):
        raise CheckpointError(
            "the file is damaged (its tensors are not those written)", where=path, hint="write it again"
        )
    return state, meta


def load_foreign(path: Path) -> dict[str, Tensor]:
    """State dict of another project's ``.pt``, ``.pth`` or ``.safetensors`` file, opened without running code of it.

    What it holds is taken as :func:`unwrapped` says.

    Raises:
        CheckpointError: the file is missing, damaged, holds more than tensors and plain containers, or holds no tensor.
    """
    path = Path(path)
    return unwrapped(open_foreign(path), path)[0]


def open_foreign(path: Path) -> object:
    """What another project's file holds, as it is; arguments and errors as :func:`load_foreign`."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return load_weights(path)[0]
    if not path.is_file():
        raise CheckpointError("there is no such weight file", where=path, hint="check the path")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"the file is damaged or holds code or objects, not just tensors ({_sentence(error)})",
            where=path,
            hint="fetch it again, or have its publisher save the bare state dict; migcore never runs code of a file",
        ) from error
    except Exception as error:  # torch's reader of old files meets a damaged one with whatever comes
        if "TorchScript" in str(error):  # as OpenAI's own files are
            raise CheckpointError(
                "the file is a TorchScript program, not a state dict",
                where=path,
                hint="save the state_dict() of open_clip's copy of the model; migcore never runs code of a file",
            ) from error
        raise CheckpointError(
            f"the file is damaged or no torch file ({_sentence(error) or 'end of file'})",
            where=path,
            hint="fetch it again",
        ) from error


def unwrapped(content: object, where: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint by name, and the names of what else stands among them.

    A state dict under ``model_state``, ``state_dict`` or ``model`` is taken out, and a leading ``module.`` stripped
    from all names.

    Args:
        content: a state dict, wrapped or bare.
        where: it comes from, for messages.

    Raises:
        CheckpointError: there is no tensor in it, or one that is not real numbers in full.
    """
    for _ in _WRAPPERS:  # not for ever: a file may hold itself
        if isinstance(content, Mapping):
            inside = (content.get(name) for name in _WRAPPERS)
            content = next((inner for inner in inside if isinstance(inner, Mapping)), content)
    entries = {str(name): value for name, value in content.items()} if isinstance(content, Mapping) else {}
    state = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError("there is no state dict", where=where, hint="give a model's weights: tensors by name")
    for name, value in state.items():
        if (
            value.is_meta
            or not value.numel()
            or value.layout != torch.strided
            or value.is_quantized
            or value.is_complex()
        ):
            raise CheckpointError(
                f"{name} is a tensor without values, sparse, quantised or complex",
                where=where,
                hint="weights are real numbers, all of them written out",
            )
    others = [name for name in entries if name not in state]
    prefix = "module."  # of a wrapper for several processes
    if all(name.startswith(prefix) for name in state):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state, others


def load_into(module: nn.Module, state: Mapping[str, Tensor], where: str | Path) -> None:
    """Copy a state dict into a module of exactly its keys and shapes (types are converted).

    ``num_batches_tracked`` entries, which decide no output, may be absent.

    Raises:
        CheckpointError: keys are missing or too many, or a shape differs; the module is unchanged.
    """
    wanted = module.state_dict()
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in wanted]
    shapes = [
        f"{k} is {list(state[k].shape)}, not {list(wanted[k].shape)}"
        for k in wanted
        if k in state and state[k].shape != wanted[k].shape
    ]
    for what, found in (("missing", missing), ("unexpected", extra), ("of another shape", shapes)):
        if found:
            raise CheckpointError(
                f"{len(found)} of the entries are {what}: {', '.join(found[:3])}{', …' if len(found) > 3 else ''}",
                where=where,
                hint="these are weights of another model, or of another configuration of it",
            )
    module.load_state_dict({**wanted, **state})


def tensor_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of named tensors: names, types, shapes and bytes, whatever their order and device."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _sentence(error: Exception) -> str:
    """The first sentence of a message: torch's go on with advice that does not hold here."""
    return str(error).partition("\n")[0].partition(". ")[0]
