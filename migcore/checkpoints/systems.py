"""The other systems of Table 1: what lies beside the wanted part is told from it, and their modules do the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from migcore.checkpoints.names import parted
from migcore.errors import ConfigError

if TYPE_CHECKING:
    from migcore.models.evl import Decoder
    from migcore.models.trn import Relations


def evl(state: Mapping[str, Tensor], where: str | Path, *, grid: tuple[int, int]) -> tuple[Decoder, Counter[str]]:
    """Frozen CLIP's decoder, with or without ``decoder.`` before its names; the classifier (``proj.``) is left out.

    Raises:
        ConfigError: ``grid`` is not two numbers of patches.
        CheckpointError: the entries are not those of such a decoder.
    """
    from migcore.models.evl import from_published

    if not isinstance(grid, tuple | list) or len(grid) != 2 or any(type(n) is not int or n < 1 for n in grid):
        raise ConfigError(f"grid {grid!r}", hint="rows and columns of patches, such as (14, 14)")
    prefix = "decoder." if any(name.startswith("decoder.") for name in state) else ""
    ours, left_out = parted(state, where, (prefix,), {"the classifier": ("proj.",)})
    return from_published(ours, where, grid=(grid[0], grid[1])), left_out


def trn(state: Mapping[str, Tensor], where: str | Path) -> tuple[Relations, Counter[str]]:
    """TRN's relations, with or without ``consensus.`` before their names; what makes the features is left out.

    Raises:
        CheckpointError: the entries are not those of such relations.
    """
    from migcore.models.trn import from_published

    prefix = "consensus." if any(name.startswith("consensus.") for name in state) else ""
    names = (f"{prefix}fc_fusion_scales.", f"{prefix}classifier.")
    ours, left_out = parted(state, where, names, {"the frames' features": ("base_model.", "new_fc.")})
    return from_published(ours, where), left_out


def mapped_whole(kind: str, state: Mapping[str, Tensor], where: str | Path, config: dict[str, Any]) -> nn.Module:
    """The systems whose files hold nothing beside them; each is imported when it is wanted."""
    if kind == "stgcn":
        from migcore.models import stgcn

        return stgcn.from_published(state, where)
    if kind == "hyperformer":
        from migcore.models import hyperformer

        return hyperformer.from_published(state, where, **config)
    from migcore.models import dscnet

    return (dscnet.sparse_from_published if kind == "dscnet_skeleton" else dscnet.stmem_from_published)(state, where)
