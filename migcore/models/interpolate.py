"""Means between weights: averaging, patching and the interpolated regularisation (Open-VCLIP; FROSTER averages too).

Legend: θ the weights in training, θ₀ those it began with (CLIP's), r a share of θ₀.

Choices:

* The mean over epochs (SWA) is a plain arithmetic one, accumulated in float32. An entry that is not a floating-point
  number (a counter) has no mean: the last state's is taken.
* Patching and the regularisation touch what the two sets of weights share; what only the trained model has (FROSTER's
  projectors) stays as it is.
* The gradient of the interpolated weights reaches θ unscaled, as published: the chain rule's factor 1 - r is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from migcore.errors import CheckpointError, ConfigError


def average(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Arithmetic mean of state dicts (SWA), read one by one: an iterator that loads them needs room for one at a time.

    Args:
        states: at least one, of the same keys and shapes; FROSTER takes one per epoch, from the second on.

    Returns:
        new tensors, of the first state's types and on its devices; integers are the last state's.

    Raises:
        CheckpointError: there is no state, or keys or shapes differ.
    """
    mean: dict[str, Tensor] = {}
    types: dict[str, torch.dtype] = {}
    for count, state in enumerate(states):
        types = types or {name: tensor.dtype for name, tensor in state.items()}
        mean = running_average(mean, state, count)
    if not mean:
        raise CheckpointError("there are no weights to average", hint="give at least one state dict")
    return {name: tensor.to(types[name]) for name, tensor in mean.items()}


def running_average(mean: Mapping[str, Tensor], state: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Mean of ``count + 1`` state dicts from the mean of the first ``count``, so that a training loop keeps one copy.

    Args:
        mean: of ``count`` states; not looked at when ``count`` is 0.
        state: the next one; it may go on changing, since nothing of it is shared with the result.
        count: how many states are in ``mean``.

    Returns:
        new tensors; floating-point entries in float32 (float64 stays), integers as in ``state``.

    Raises:
        CheckpointError: keys or shapes differ.
        ConfigError: ``count`` is negative.
    """
    if count < 0:
        raise ConfigError(f"a mean of {count} states", hint="count the states averaged so far, from 0")
    if count == 0:
        return {name: tensor.detach().to(_wide(tensor), copy=True) for name, tensor in state.items()}
    if mean.keys() != state.keys():
        names = ", ".join(sorted(mean.keys() ^ state.keys())[:3])
        raise CheckpointError(f"states with and without {names}", hint="average weights of one and the same model")
    _check_shapes(state, mean, state)
    result = {}
    for name, tensor in state.items():
        new = tensor.detach().to(mean[name].device, _wide(tensor), copy=True)
        if new.is_floating_point():  # this form leaves equal states exactly as they are
            new = mean[name] + (new - mean[name]) / (count + 1)
        result[name] = new
    return result


def patched(trained: Mapping[str, Tensor], original: Mapping[str, Tensor], rho: float) -> dict[str, Tensor]:
    """Open-VCLIP's patching at test time: ``ρ θ₀ + (1 - ρ) θ`` over all shared keys.

    Published with ρ = 0.5 for ViT-B and 0.6 for ViT-L/14, on averaged weights; FROSTER does not patch.

    Args:
        trained: θ. Its other keys, and its integers, are kept.
        original: θ₀. Its other keys are left out.
        rho: from 0 (trained) to 1 (original).

    Returns:
        new tensors of the keys, types and devices of ``trained``.

    Raises:
        CheckpointError: no key is shared, or the shapes of one differ.
        ConfigError: ``rho`` is outside [0, 1].
    """
    _check_share("rho", rho)
    shared = _shared(trained, original)
    result = {}
    for name, tensor in trained.items():
        new = tensor.detach().clone()
        if name in shared and tensor.is_floating_point():
            first = original[name].detach().to(new.device, _wide(tensor))
            new = (rho * first + (1 - rho) * new).to(tensor.dtype)
        result[name] = new
    return result


def interpolated_parameters(
    module: nn.Module, original: Mapping[str, Tensor], ratio: float
) -> dict[str, nn.Parameter | Tensor]:
    """Weights between ``module``'s and the original's, whose gradient arrives at ``module``'s unscaled.

    The value is ``r θ₀ + (1 - r) θ`` and the derivative to θ is 1, not 1 - r: the published training takes the gradient
    at the interpolated weights and adds it to θ's as it is. For :func:`torch.func.functional_call`.

    Args:
        module: holds θ. Parameters that ``original`` has not are left as they are; buffers are the module's own.
        original: θ₀, constant; the keys are those of ``module.state_dict()``.
        ratio: r, from 0 (the module's weights) to 1 (the original's).

    Returns:
        one tensor per parameter, by name.

    Raises:
        CheckpointError: no parameter is shared, or the shapes of one differ.
        ConfigError: ``ratio`` is outside [0, 1].
    """
    _check_share("ratio", ratio)
    parameters: dict[str, nn.Parameter | Tensor] = dict(module.named_parameters())
    for name in _shared(parameters, original):
        theta = parameters[name]
        away = original[name].detach().to(theta) - theta.detach()
        parameters[name] = theta + ratio * away
    return parameters


def regularised_loss(
    module: nn.Module,
    original: Mapping[str, Tensor],
    loss: Callable[[Callable[..., Any]], Tensor],
    generator: torch.Generator,
    weight: float = 0.5,
    largest: float = 0.6,
) -> Tensor:
    """Open-VCLIP's interpolated weight regularisation: ``loss(θ) + weight · loss(r θ₀ + (1 - r) θ)`` with a random r.

    Its gradient is that of the published step (one pass at the interpolated weights, its gradients stored, one pass at
    θ, the two added), without writing to the weights. Both passes are held in memory until ``backward``.

    Args:
        module: holds θ.
        original: θ₀, as in :func:`interpolated_parameters`.
        loss: given a callable that stands for the module under either weights, it returns a scalar:
            ``lambda call: F.cross_entropy(call(video), labels)``.
        generator: draws r, uniform from 0 to ``largest``, one number per call.
        weight: of the second term; 0.5 as published.
        largest: upper end of r; 0.6 as published.

    Returns:
        a scalar.

    Raises:
        CheckpointError: as in :func:`interpolated_parameters`.
        ConfigError: ``weight`` is negative, or ``largest`` outside [0, 1].
    """
    _check_share("largest", largest)
    if not weight >= 0:
        raise ConfigError(f"weight {weight}", hint="the weight of the regularisation is 0 or more")
    ratio = largest * torch.rand((), generator=generator, device=generator.device).item()
    between = interpolated_parameters(module, original, ratio)

    def call(*args: Any, **kwargs: Any) -> Any:
        return functional_call(module, between, args, kwargs)

    return loss(module) + weight * loss(call)


def _wide(tensor: Tensor) -> torch.dtype:
    """At least float32, so that a mean of half-precision weights is not rounded at every step; integers as they are."""
    return torch.promote_types(tensor.dtype, torch.float32) if tensor.is_floating_point() else tensor.dtype


def _shared(trained: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> list[str]:
    shared = [name for name in trained if name in original]
    if not shared:
        raise CheckpointError(
            "the trained and the original weights share no key",
            hint="one of them has a prefix on its keys, or is of another model",
        )
    _check_shapes(shared, trained, original)
    return shared


def _check_shapes(names: Iterable[str], one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    for name in names:
        if one[name].shape != other[name].shape:
            raise CheckpointError(
                f"{name} is {list(one[name].shape)} in one set of weights and {list(other[name].shape)} in the other",
                hint="combine weights of one and the same model",
            )


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ConfigError(f"{name} {share}", hint="it is a share of the original weights, from 0 to 1")
