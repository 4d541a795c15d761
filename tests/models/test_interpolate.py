"""Averages and patches against plain sums, and the regularised step against one that really loads the weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from migcore.errors import CheckpointError, ConfigError
from migcore.models.interpolate import (
    average,
    interpolated_parameters,
    patched,
    regularised_loss,
    running_average,
)


def state(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(3, 2, generator=generator).to(dtype),
        "scale": torch.randn((), generator=generator).to(dtype),
        "steps": torch.tensor(seed),
    }


class Network(nn.Module):
    """A soft-plus network with a tied matrix, a buffer and a part that the original lacks."""

    def __init__(self, seed: int, projector: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("shift", torch.tensor(0.25))
        if projector:
            self.projector = nn.Linear(4, 4)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)

    def forward(self, x: torch.Tensor, power: float = 1.0) -> torch.Tensor:
        return self.projector(self.second(F.softplus(self.first(x) + self.shift))) * self.scale**power


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@settings(max_examples=30, deadline=None)
@given(seeds=st.lists(st.integers(0, 1000), min_size=1, max_size=6))
def test_average_is_the_sum_by_the_count(seeds: list[int]) -> None:
    found = average(state(seed) for seed in seeds)
    for name in ("weight", "scale"):
        mean = sum(state(seed)[name].double() for seed in seeds) / len(seeds)
        torch.testing.assert_close(found[name], mean.float(), atol=1e-6, rtol=1e-6)
    assert found["steps"] == seeds[-1] and found["steps"].dtype == torch.int64


def test_a_loop_that_keeps_one_copy_finds_the_average() -> None:
    module, states = Network(0), []
    mean: dict[str, torch.Tensor] = {}
    for epoch in range(4):
        with torch.no_grad():
            module.scale += 1.0
        states.append(copied(module))
        mean = running_average(mean, module.state_dict(), epoch)
    with torch.no_grad():  # what was averaged does not follow the weights
        module.scale += 100.0
    assert mean["scale"] == pytest.approx(float(states[0]["scale"]) + 1.5)
    expected = average(states)
    assert all(torch.equal(mean[name], expected[name]) and not mean[name].requires_grad for name in expected)
    first = running_average({}, module.state_dict(), 0)
    assert first["scale"].data_ptr() != module.scale.data_ptr()


def test_half_precision_is_averaged_in_single() -> None:
    large, small = {"w": torch.tensor([2048.0]).half()}, {"w": torch.tensor([1.0]).half()}
    # In half precision the sum 2048 + 1 is 2048.
    assert running_average(large, small, 1)["w"].dtype == torch.float32
    assert average([large, small])["w"] == torch.tensor([1024.5]).half()
    assert average([large, small])["w"].dtype == torch.float16
    assert average([{"w": torch.ones(1).double()}])["w"].dtype == torch.float64


def test_equal_states_average_to_themselves_exactly() -> None:
    assert all(torch.equal(tensor, state(3)[name]) for name, tensor in average([state(3)] * 7).items())


def test_states_that_do_not_fit_are_not_averaged() -> None:
    with pytest.raises(CheckpointError, match="no weights to average"):
        average([])
    for other in ({**state(1), "bias": torch.ones(1)}, {k: v for k, v in state(1).items() if k != "scale"}):
        with pytest.raises(CheckpointError, match=r"with and without (bias|scale)"):
            average([state(0), other])
    with pytest.raises(CheckpointError, match=r"weight is \[3, 2\] in one .* and \[2, 3\] in the other"):
        average([state(0), {**state(1), "weight": torch.ones(2, 3)}])
    with pytest.raises(ConfigError, match="a mean of -1 states"):
        running_average(state(0), state(1), -1)


@settings(max_examples=30, deadline=None)
@given(rho=st.floats(0, 1), seed=st.integers(0, 1000), half=st.booleans())
def test_patched_weights_lie_between(rho: float, seed: int, half: bool) -> None:
    trained = state(seed, torch.float16 if half else torch.float32)
    original = state(seed + 1)
    trained["projector"] = torch.ones(2)
    found = patched(trained, {**original, "unknown": torch.ones(1)}, rho)
    assert found.keys() == trained.keys()
    for name in ("weight", "scale"):
        expected = rho * original[name].double() + (1 - rho) * trained[name].double()
        torch.testing.assert_close(found[name].double(), expected, atol=2e-3 if half else 1e-6, rtol=0)
        assert found[name].dtype == trained[name].dtype
    assert torch.equal(found["projector"], trained["projector"])
    assert found["steps"] == seed


def test_the_ends_of_patching_are_exact_copies() -> None:
    trained, original = state(0), state(1)
    for rho, end in ((0.0, trained), (1.0, original)):
        found = patched(trained, original, rho)
        for name in ("weight", "scale"):
            assert torch.equal(found[name], end[name])
            assert found[name].data_ptr() != end[name].data_ptr()


@pytest.mark.parametrize("rho", [-0.1, 1.1, float("nan")])
def test_a_share_outside_the_unit_interval_is_named(rho: float) -> None:
    module, generator = Network(0), torch.Generator()
    with pytest.raises(ConfigError, match=r"rho .* from 0 to 1"):
        patched(state(0), state(1), rho)
    with pytest.raises(ConfigError, match=r"ratio .* from 0 to 1"):
        interpolated_parameters(module, module.state_dict(), rho)
    with pytest.raises(ConfigError, match=r"largest .* from 0 to 1"):
        regularised_loss(module, module.state_dict(), lambda call: call(torch.ones(1, 4)).sum(), generator, 0.5, rho)
    with pytest.raises(ConfigError, match=r"weight .* is 0 or more"):
        regularised_loss(module, module.state_dict(), lambda call: call(torch.ones(1, 4)).sum(), generator, -abs(rho))


def test_weights_that_share_nothing_are_refused() -> None:
    prefixed = {f"model.{name}": tensor for name, tensor in Network(0).state_dict().items()}
    with pytest.raises(CheckpointError, match=r"share no key.*prefix"):
        patched(Network(0).state_dict(), prefixed, 0.5)
    with pytest.raises(CheckpointError, match=r"share no key.*prefix"):
        interpolated_parameters(Network(0), prefixed, 0.5)
    with pytest.raises(CheckpointError, match=r"scale is \[\] in one .* and \[1\] in the other"):
        interpolated_parameters(Network(0), {"scale": torch.ones(1)}, 0.5)
    with pytest.raises(CheckpointError, match=r"scale is \[\] in one .* and \[1\] in the other"):
        patched(state(0), {"scale": torch.ones(1)}, 0.5)


def test_interpolated_parameters_have_the_value_between_and_the_whole_gradient() -> None:
    module, original = Network(0), Network(1, projector=False).state_dict()
    found = interpolated_parameters(module, original, 0.25)
    for name, theta in module.named_parameters():
        if name.startswith("projector"):
            assert found[name] is theta
        else:
            torch.testing.assert_close(found[name], 0.25 * original[name] + 0.75 * theta)
    sum(3 * tensor.sum() for tensor in found.values()).backward()
    for parameter in module.parameters():
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, 3.0))


@pytest.fixture
def ratios(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """What `regularised_loss` draws."""
    from migcore.models import interpolate

    drawn: list[float] = []
    original = interpolate.interpolated_parameters
    monkeypatch.setattr(interpolate, "interpolated_parameters", lambda m, o, r: (drawn.append(r), original(m, o, r))[1])
    yield drawn


def test_the_regularised_step_is_the_published_one(ratios: list[float]) -> None:
    module, original = Network(0), Network(1, projector=False).state_dict()
    naive = copy.deepcopy(module)
    optimisers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (module, naive)]
    generator = torch.Generator().manual_seed(5)
    for step in range(3):
        data = torch.Generator().manual_seed(step)
        x, y = torch.randn(6, 4, generator=data), torch.randint(0, 4, (6,), generator=data)

        optimisers[0].zero_grad()
        before = copied(module)
        total = regularised_loss(
            module, original, lambda call, x=x, y=y: F.cross_entropy(call(x, power=2.0), y), generator, 0.5, 0.6
        )
        assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
        total.backward()
        optimisers[0].step()

        theta = copied(naive)
        r = ratios[step]
        naive.load_state_dict({k: r * original[k] + (1 - r) * v if k in original else v for k, v in theta.items()})
        optimisers[1].zero_grad()
        second = 0.5 * F.cross_entropy(naive(x, power=2.0), y)
        second.backward()
        stored = {name: parameter.grad.clone() for name, parameter in naive.named_parameters()}
        naive.load_state_dict(theta)
        optimisers[1].zero_grad()
        first = F.cross_entropy(naive(x, power=2.0), y)
        first.backward()
        for name, parameter in naive.named_parameters():
            parameter.grad += stored[name]
        optimisers[1].step()

        torch.testing.assert_close(total, first + second, atol=1e-6, rtol=1e-6)
        for mine, other in zip(module.parameters(), naive.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_the_share_is_drawn_by_the_generator_alone(ratios: list[float]) -> None:
    module, original = Network(0), Network(1).state_dict()

    def loss(call: nn.Module) -> torch.Tensor:
        return call(torch.ones(1, 4)).sum()

    state_before = torch.get_rng_state()
    for seed in (0, 0, 1):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(100):
            regularised_loss(module, original, loss, generator, largest=0.6)
    assert torch.equal(torch.get_rng_state(), state_before)
    assert ratios[:100] == ratios[100:200] != ratios[200:]
    assert 0 <= min(ratios) < 0.05 and 0.55 < max(ratios) <= 0.6
    assert sum(ratios) / 300 == pytest.approx(0.3, abs=0.04)
