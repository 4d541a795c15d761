"""Memory and work of the video tower, counted without running it (for Table 3's "Mem", which has no protocol).

The tower is built on torch's "meta" device, where tensors have shapes and no content: a forward pass of ViT-B/16 is
counted in a fraction of a second, on any machine, and the count is exact.

Letters: B clips, T frames, L tokens of a frame, N patches, H W pixels.

Choices:

* Memory is what autograd keeps from a forward pass in training for the backward pass: every storage once, whole, even
  if a part of it was asked for (the queries are a view of the packed projection, so all of that stays); the video
  counts, parameters do not. It is the part of a training step's memory that token decay can change; optimiser,
  gradients, temporary buffers and the text tower are not in it.
* A type is the type of everything, weights included. Autocast keeps more: its norms work in float32.
* Fused attention is counted as CUDA's kernels have it: FlashAttention in half precision, the memory-efficient kernel in
  float32, under a mask, or where merged tokens have sizes. Both keep queries, keys, values, the output and one float32
  per query, but no similarities. On the meta device torch itself would fall back to the written-out form, so the
  kernels' own operators are called.
* Work is that of a forward pass, two operations per multiplication and addition, products of matrices and convolutions
  only (torch's flop counter); training takes about three times as much.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import ReferenceType, ref

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from migcore.errors import ConfigError
from migcore.models.clip import MINIATURE, OPENAI_MODELS, register_miniature
from migcore.models.vclip import VCLIPConfig, VideoTower

Form = Literal["written", "fused"]

PRINTED_RATIO = 1.28 / 1.88
"""Table 3's memory with token decay by that without."""
_TYPES = (torch.float32, torch.float16, torch.bfloat16)
_STEPS = 1000  # calibrated shares are thousandths


@dataclass(frozen=True)
class Cost:
    """What one forward pass in training takes.

    Attributes:
        saved_bytes: kept for the backward pass; parameters are not in it.
        parameter_bytes: of the vision tower.
        flops: of the forward pass, in operations.
        tokens: of a frame, [cls] with them, entering each block.
    """

    saved_bytes: int
    parameter_bytes: int
    flops: int
    tokens: tuple[int, ...]


def saved_bytes(module: nn.Module, *inputs: Tensor) -> int:
    """Bytes that autograd keeps of ``module(*inputs)`` for the backward pass, on whichever device the two are.

    Args:
        module: run as it is, in training or evaluation mode; random layers draw.
        inputs: counted where they are kept.

    Returns:
        the size of all storages kept, each counted once, without those of the module's parameters.
    """
    parameters = {_address(parameter) for parameter in module.parameters()}
    kept: list[ReferenceType[Tensor]] = []

    def keep(tensor: Tensor) -> Tensor:
        alias = tensor.detach()  # lives as long as the step of the graph that asked for it
        kept.append(ref(alias))
        return alias

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        result = module(*inputs)  # noqa: F841 (its graph is what is counted)
    alive = [tensor for tensor in (reference() for reference in kept) if tensor is not None]
    sizes = {_address(tensor): tensor.untyped_storage().nbytes() for tensor in alive}
    return sum(size for address, size in sizes.items() if address not in parameters)


def tower_cost(
    model: str = "ViT-B-16",
    config: VCLIPConfig | None = None,
    *,
    batch: int = 1,
    frames: int = 8,
    dtype: torch.dtype = torch.float32,
    attention: Form = "written",
) -> Cost:
    """Memory and work of the video tower of a CLIP, in a forward pass in training.

    Args:
        model: "miniature", or one of OpenAI's: "ViT-B-32", "ViT-B-16", "ViT-L-14" (with QuickGELU, as their weights).
        config: of the tower; its ``attention`` is not looked at.
        batch: B.
        frames: T.
        dtype: of weights, video and all between: float32, float16 or bfloat16.
        attention: which form is counted.

    Raises:
        ConfigError: a name, number or type is not one of these, or ``config.keep`` fits another depth.
    """
    tower, video = _on_meta(model, config or VCLIPConfig(), batch, frames, dtype, attention)
    with _Kernels(), FlopCounterMode(display=False) as counter, torch.no_grad():
        survivors = tower.encode(video).survivors
    tokens = (tower.grid_size[0] * tower.grid_size[1], *(kept.shape[-1] for kept in survivors[:-1]))
    return Cost(
        saved_bytes=_saved_on_meta(tower, video),
        parameter_bytes=sum(parameter.nbytes for parameter in tower.parameters()),
        flops=int(counter.get_total_flops()),
        tokens=tuple(count + 1 for count in tokens),
    )


def calibrate(
    target_ratio: float = PRINTED_RATIO,
    model: str = "ViT-B-16",
    config: VCLIPConfig | None = None,
    *,
    batch: int = 1,
    frames: int = 8,
    dtype: torch.dtype = torch.float32,
    attention: Form = "written",
) -> tuple[float, ...]:
    """The ``keep`` of a token decay, equal in every block, whose saved bytes are a given part of those without decay.

    The last block's share is 1: cutting after it would change no embedding, and save next to nothing.

    Args:
        target_ratio: saved bytes with decay by those without; Table 3's if not given.
        model, batch, frames, dtype, attention: where it is measured, as for :func:`tower_cost`.
        config: of the tower; its ``keep`` and ``attention`` are not looked at.

    Returns:
        one share per block, in thousandths, of the nearest ratio that these can give.

    Raises:
        ConfigError: as :func:`tower_cost`, or the ratio is out of reach.
    """
    config = config or VCLIPConfig()

    def measured(keep: Iterable[float]) -> int:
        return _saved_on_meta(*_on_meta(model, replace(config, keep=tuple(keep)), batch, frames, dtype, attention))

    plain, _ = _on_meta(model, replace(config, keep=()), batch, frames, dtype, attention)
    blocks, whole = len(plain.transformer.resblocks), measured(())

    def keep(thousandths: int) -> tuple[float, ...]:
        return (*[thousandths / _STEPS] * (blocks - 1), 1.0)

    def ratio(thousandths: int) -> float:
        return measured(keep(thousandths)) / whole

    least = ratio(1)
    if not least <= target_ratio <= 1:
        raise ConfigError(
            f"a ratio of {target_ratio:g}", hint=f"token decay of {model} reaches ratios from {least:.3f} to 1"
        )
    below, above = 1, _STEPS + 1  # the largest share whose ratio is not over the target is in [below, above)
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if ratio(middle) <= target_ratio else (below, middle)
    if above <= _STEPS and ratio(above) - target_ratio < target_ratio - ratio(below):
        below = above
    return keep(below)


class _Kernels(TorchFunctionMode):
    """Calls to the fused attention go to the operators that it has on CUDA, which also know shapes on "meta"."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = _cuda_attention if func is F.scaled_dot_product_attention else func
        return call(*args, **(kwargs or {}))


def _cuda_attention(queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    if attn_mask is None and queries.dtype != torch.float32:
        return torch.ops.aten._scaled_dot_product_flash_attention(queries, keys, values)[0]
    bias = None
    if attn_mask is not None:
        bias = attn_mask  # of merged tokens' sizes
        if attn_mask.dtype == torch.bool:
            bias = torch.zeros_like(attn_mask, dtype=queries.dtype).masked_fill(~attn_mask, -torch.inf)
        bias = bias.expand(*queries.shape[:-1], keys.shape[-2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(queries, keys, values, bias, True)[0]


def _on_meta(
    model: str, config: VCLIPConfig, batch: int, frames: int, dtype: torch.dtype, attention: Form
) -> tuple[VideoTower, Tensor]:
    """The tower, and a video for it."""
    if model not in ("miniature", *OPENAI_MODELS):
        raise ConfigError(f"no tower is called {model!r}", hint=f"choose from miniature, {', '.join(OPENAI_MODELS)}")
    if batch < 1 or frames < 1:
        raise ConfigError(f"a batch of {batch} clips of {frames} frames", hint="both are at least 1")
    if dtype not in _TYPES:
        raise ConfigError(f"weights of type {dtype}", hint="choose from float32, float16, bfloat16")
    if attention not in ("written", "fused"):
        raise ConfigError(f"attention {attention!r}", hint="say which is counted: written or fused")
    import open_clip  # takes seconds

    register_miniature()
    with torch.device("meta"):
        clip = open_clip.CLIP(**open_clip.get_model_config(MINIATURE if model == "miniature" else f"{model}-quickgelu"))
    tower = VideoTower(clip.visual, replace(config, attention=attention)).to(dtype).train()
    return tower, torch.empty(batch, 3, frames, *tower.image_size, dtype=dtype, device="meta")


def _saved_on_meta(tower: VideoTower, video: Tensor) -> int:
    with _Kernels():
        return saved_bytes(tower, video)


def _address(tensor: Tensor) -> int:
    """Tells storages apart, also on "meta", where none has an address of data."""
    return tensor.untyped_storage()._cdata
