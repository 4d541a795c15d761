"""What the names in a published state dict tell: which part an entry is of, and how many blocks a stage has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from migcore.errors import CheckpointError


def parted(
    state: Mapping[str, Tensor], where: str | Path, ours: tuple[str, ...], beside: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, Tensor], Counter[str]]:
    """The entries that are wanted, and how many known others lie beside them.

    Args:
        state: all entries.
        where: they come from, for messages.
        ours: beginnings of the names that are wanted.
        beside: beginnings of the names that are left out, by what they are of; these go first.

    Raises:
        CheckpointError: an entry is neither.
    """
    wanted: dict[str, Tensor] = {}
    left_out: Counter[str] = Counter()
    strangers = []
    for name, tensor in state.items():
        part = next((part for part, starts in beside.items() if name.startswith(starts)), None)
        if part:
            left_out[part] += 1
        elif name.startswith(ours):
            wanted[name] = tensor
        else:
            strangers.append(name)
    if strangers:
        raise CheckpointError(
            f"{len(strangers)} of the entries are unexpected: {', '.join(strangers[:3])}",
            where=where,
            hint="these are weights of another model, or of another configuration of it",
        )
    return wanted, left_out


def blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many blocks a stage has, the number of a block following the prefix."""
    return len({name.removeprefix(prefix).split(".", 1)[0] for name in state if name.startswith(prefix)})
