"""Weight files: safetensors with JSON beside the tensors, written whole; foreign ones read without running code.

It lies under the models because the teacher reads its weights here; users find these functions in
:mod:`migcore.checkpoints`, together with :func:`~migcore.checkpoints.load_reference`.

Choices: a file is written under a temporary name and renamed, so that a reader never sees half of one; what a file is
is told by its content (:mod:`migcore.models.filekinds`), and foreign ones are opened with ``weights_only=True`` only
(:mod:`migcore.models.unpickled`); a state dict that does not fit its module, or is not finite, is refused, entry by
entry, never loaded in part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from migcore.errors import CheckpointError
from migcore.files import write_whole
from migcore.models.filekinds import beginning, file_kind
from migcore.models.unpickled import read_torch
from migcore.models.wrappers import refuse_not_finite, refuse_spoilt, unwrapped

_META, _HASH = "migcore", "sha256"


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
            tensors is in the header), or its tensors hold NaN or infinite numbers.
    """
    path = Path(path)
    if file_kind(path) == "torch":
        raise CheckpointError(
            "the file is one of torch.save, not of safetensors",
            where=path,
            hint="give the weights.safetensors of a run; `migcore train --init FILE` starts from published weights",
        )
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
    refuse_spoilt(state, path)
    return state, meta


def load_foreign(path: Path) -> dict[str, Tensor]:
    """State dict of another project's ``.pt``, ``.pth`` or ``.safetensors`` file, opened without running code of it.

    What it holds is taken as :func:`migcore.models.wrappers.unwrapped` says.

    Raises:
        CheckpointError: the file is missing, damaged, something else than weights, or asks for code; or it holds no
            tensor, or NaN or infinite numbers.
    """
    path = Path(path)
    return unwrapped(open_foreign(path), path)[0]


def open_foreign(path: Path) -> object:
    """What another project's file holds, as it is; its content says how it is read, not its name.

    Raises:
        CheckpointError: the file is missing, damaged, something else than weights, or asks for code.
    """
    path = Path(path)
    kind = file_kind(path)
    if kind == "safetensors" or (kind == "unknown" and path.suffix == ".safetensors"):
        return load_weights(path)[0]
    if kind == "torch":
        return read_torch(path)
    raise CheckpointError(
        f"the file is damaged or no torch file: it begins with {beginning(path)}", where=path, hint="fetch it again"
    )


def load_into(module: nn.Module, state: Mapping[str, Tensor], where: str | Path) -> None:
    """Copy a state dict into a module of exactly its keys and shapes (types are converted).

    ``num_batches_tracked`` entries, which decide no output, may be absent.

    Raises:
        CheckpointError: keys are missing or too many, a shape differs, or a number is NaN, or infinite in an entry
            that is finite in the module; the module is unchanged.
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
    refuse_not_finite({k: _spoilt(state[k], own) for k, own in wanted.items() if k in state}, where)
    module.load_state_dict({**wanted, **state})


def _spoilt(tensor: Tensor, own: Tensor) -> str:
    """What it will not do in the module's type: "NaN", "infinite" or ""."""
    tensor = tensor.to(own.dtype) if own.is_floating_point() else tensor.float()
    if tensor.isfinite().all():
        return ""
    return "NaN" if tensor.isnan().any() else "infinite" if own.isfinite().all() else ""


def tensor_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of named tensors: names, types, shapes and bytes, whatever their order and device."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
