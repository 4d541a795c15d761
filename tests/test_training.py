"""The loop learns, resumes bit for bit, survives kills, full disks and damage, and leaves the caller's state alone."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from migcore import training
from migcore.errors import CheckpointError, ConfigError, MigcoreError, StorageError
from migcore.training import (
    Batch,
    Fit,
    TrainConfig,
    average_views,
    evaluate,
    extract,
    fit,
    learning_rate,
    make_optimizer,
    seeded,
)

ROOT = Path(__file__).resolve().parents[1]
QUICK = TrainConfig(epochs=4, batch_size=8, lr=0.05, device="cpu")


class Points:
    """Two features a clip, moved by a noise that depends on the epoch; the class is the sign of the first."""

    def __init__(self, n: int = 36, *, noise: float = 0.1, delay: float = 0.0) -> None:
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(n, 2)).astype(np.float32)
        self.noise, self.delay, self.epoch = noise, delay, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Batch:
        if self.delay:
            time.sleep(self.delay)
        rng = np.random.default_rng([self.epoch, index])
        x = self.x[index] + self.noise * rng.normal(size=2).astype(np.float32)
        return {"x": torch.from_numpy(x.astype(np.float32)), "label": int(self.x[index, 0] > 0), "index": index}

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def net(seed: int = 0) -> Net:
    with seeded(seed):
        return Net()


def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    logits = model(batch["x"])
    return F.cross_entropy(logits, batch["label"]), logits


def predict(model: nn.Module, batch: Batch) -> Tensor:
    return torch.stack([model(batch["x"]), model(batch["x"] * 1.1)], dim=1)


def top1(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    return {"top1": float((logits.argmax(-1) == labels).float().mean())}


def train(model: nn.Module, folder: Path, config: TrainConfig = QUICK, **options: Any) -> Fit:
    arguments: dict[str, Any] = {"seed": 3, "predict": predict, "metrics": top1, "validation": Points(10), **options}
    return fit(model, arguments.pop("loss", loss), arguments.pop("train", Points()), config, folder=folder, **arguments)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def rows(done: Fit) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in done.history]


class Stop(Exception):
    pass


def stop_after(steps: int) -> Any:
    """A loss that fails at a step, as a kill would, without any clean-up of the loop's."""
    count = iter(range(10**6))

    def failing(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        if next(count) == steps:
            raise Stop
        return loss(model, batch)

    return failing


# ------------------------------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(QUICK, epochs=20),
        dataclasses.replace(QUICK, epochs=20, precision="bf16"),
        dataclasses.replace(QUICK, epochs=20, optimizer="adamw", lr=0.02, warmup_epochs=2, decay_1d=False, clip_norm=0),
        dataclasses.replace(QUICK, epochs=20, schedule="constant"),
    ],
    ids=["sgd", "bf16", "adamw", "constant"],
)
def test_it_learns(config: TrainConfig, tmp_path: Path) -> None:
    model = net()
    done = train(model, tmp_path, config)
    assert done.history[-1]["loss"] < 0.8 * done.history[0]["loss"]
    assert done.history[-1]["val_top1"] >= 0.9 and done.history[-1]["train_top1"] > 0.8
    assert [row["epoch"] for row in done.history] == list(range(1, 21))
    assert not model.training and done.device.startswith("cpu") and done.seconds > 0
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_the_model_is_a_plain_module_afterwards(tmp_path: Path) -> None:
    model = net()
    train(model, tmp_path, dataclasses.replace(QUICK, epochs=1, precision="bf16"))
    assert "forward" not in model.__dict__ and not hasattr(model, "_original_forward")
    assert model(torch.zeros(2, 2)).dtype == torch.float32
    assert same(copy.deepcopy(model), model)


def test_bf16_is_used_and_precision_may_change_within_a_process() -> None:
    seen = []

    def watch(model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch["x"])
        seen.append((model.layers[0](batch["x"]).dtype, logits.dtype))  # type: ignore[union-attr, operator]
        return logits[:, None]

    class Inner(Net):
        def forward(self, x: Tensor) -> Tensor:
            inner.append(self.layers[0](x).dtype)
            return super().forward(x)

    inner: list[torch.dtype] = []
    for precision in ("fp32", "bf16", "fp32"):
        evaluate(Inner(), watch, Points(4), dataclasses.replace(QUICK, precision=precision))  # type: ignore[arg-type]
    assert inner == [torch.float32, torch.bfloat16, torch.float32]
    assert {after for _, after in seen} == {torch.float32}


def test_validation_only_when_asked(tmp_path: Path) -> None:
    done = train(net(), tmp_path / "a", dataclasses.replace(QUICK, eval_every=3))
    assert ["val_top1" in row for row in done.history] == [False, False, True, True]
    done = train(net(), tmp_path / "b", dataclasses.replace(QUICK, epochs=1), validation=None)
    assert set(done.history[0]) == {"epoch", "loss", "lr", "train_top1", "seconds"}


def test_workers_change_nothing(tmp_path: Path) -> None:
    models = net(), net()
    config = dataclasses.replace(QUICK, epochs=1)
    a = train(models[0], tmp_path / "a", config)
    b = train(models[1], tmp_path / "b", dataclasses.replace(config, workers=1))
    assert rows(a) == rows(b) and same(*models)


def test_the_seed_decides_and_the_callers_generators_stay(tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, epochs=1)
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    models = [net() for _ in range(3)]
    first = train(models[0], tmp_path / "a", config)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1] and random.getstate() == before[2]  # noqa: NPY002
    torch.manual_seed(6)
    again = train(models[1], tmp_path / "b", config)
    other = train(models[2], tmp_path / "c", config, seed=4)
    assert rows(first) == rows(again) and same(models[0], models[1])
    assert rows(first) != rows(other) and not same(models[0], models[2])


def test_every_clip_is_seen_once_an_epoch_in_another_order(tmp_path: Path) -> None:
    order: list[int] = []

    def watch(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        order.extend(batch["index"].tolist())
        return loss(model, batch)

    train(net(), tmp_path, dataclasses.replace(QUICK, epochs=2), loss=watch)
    assert sorted(order[:36]) == sorted(order[36:]) == list(range(36)) and order[:36] != order[36:]


# ---------------------------------------------------------------------------------------------- schedule and optimiser


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 20), st.floats(0, 1))
def test_learning_rate(epochs: int, steps: int, share: float) -> None:
    config = TrainConfig(epochs=epochs, lr=0.5, warmup_epochs=share * epochs)
    rates = [learning_rate(step, steps, config) for step in range(epochs * steps)]
    warm = math.ceil(config.warmup_epochs * steps - 1e-9)
    assert all(0 < rate <= 0.5 for rate in rates)
    assert rates[:warm] == sorted(rates[:warm]) and rates[warm:] == sorted(rates[warm:], reverse=True)


def test_learning_rate_is_the_published_cosine() -> None:
    """lr/2 · (1 + cos(π i / n)) at iteration i of n, no warm-up (facts, 1.6)."""
    config = TrainConfig(epochs=4, lr=0.4)
    expected = [0.2 * (1 + math.cos(math.pi * i / 40)) for i in range(40)]
    assert [learning_rate(i, 10, config) for i in range(40)] == pytest.approx(expected)
    assert learning_rate(39, 10, dataclasses.replace(config, schedule="constant")) == 0.4


def test_learning_rate_has_a_floor() -> None:
    """FROSTER's: from a hundredth of the rate up to it, and by a cosine down to the hundredth again."""
    config = TrainConfig(epochs=22, lr=3.33e-6, warmup_epochs=2, lr_floor=0.01)
    rates = [learning_rate(i, 1000, config) for i in range(22_000)]
    assert rates[0] == pytest.approx(3.33e-8, rel=0.1) and max(rates) == pytest.approx(3.33e-6)
    assert rates[-1] == pytest.approx(3.33e-8, rel=1e-3) and min(rates) >= 3.33e-8
    assert learning_rate(12_000, 1000, config) == pytest.approx((3.33e-6 + 3.33e-8) / 2)  # half-way down


@pytest.mark.parametrize("first", [1, 3])
def test_weights_are_averaged_over_epochs_also_after_a_stop(first: int, tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, schedule="constant", average_from=first)
    states = []
    for epochs in range(first, 5):  # constant rates: a shorter run stops where the long one passes
        model = net()
        train(model, tmp_path / f"{epochs}", dataclasses.replace(config, epochs=epochs, average_from=0))
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    averaged, resumed = net(), net()
    train(averaged, tmp_path / "whole", config)
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, torch.stack([state[name] for state in states]).mean(0))
    with pytest.raises(Stop):
        train(resumed, tmp_path / "cut", config, loss=stop_after(17))  # in the fourth epoch of five steps
    train(resumed, tmp_path / "cut", config)
    assert same(averaged, resumed)


@pytest.mark.parametrize("decay", [True, False])
def test_weight_decay_groups(decay: bool) -> None:
    model = net()
    model.layers[0].weight.requires_grad_(False)
    groups = make_optimizer(model, TrainConfig(weight_decay=0.1, decay_1d=decay)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1 if decay else 0.0]
    assert [len(group["params"]) for group in groups] == [1, 4]


def test_gradients_are_clipped_together(tmp_path: Path) -> None:
    """One step of plain SGD moves all weights by lr · clip_norm in L2."""
    config = TrainConfig(
        epochs=1, batch_size=64, lr=1.0, momentum=0, nesterov=False, weight_decay=0, clip_norm=0.01, device="cpu"
    )
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    train(model, tmp_path, config)
    moved = math.sqrt(
        sum(float((p - b).detach().square().sum()) for p, b in zip(model.parameters(), before, strict=True))
    )
    assert moved == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr_floor": 1.5}, {"average_from": 13}, {"average_from": -1},
        {"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": math.nan}, {"momentum": 1.0}, {"optimizer": "adam"},
        {"weight_decay": -1.0}, {"warmup_epochs": 99.0}, {"schedule": "step"}, {"clip_norm": -1.0}, {"workers": -1},
        {"precision": "fp16"}, {"eval_every": 0}, {"device": "tpu"}, {"momentum": 0.0, "nesterov": True},
    ],
)  # fmt: skip
def test_wrong_recipes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig(**wrong)


# ---------------------------------------------------------------------------------------------------------- evaluation


def test_views_are_averaged_as_probabilities() -> None:
    logits = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(0)) * 4
    expected = sum(torch.softmax(logits[:, k], -1) for k in range(3)) / 3
    assert torch.allclose(average_views(logits).exp(), expected, atol=1e-6)  # type: ignore[arg-type]
    assert torch.isfinite(average_views(torch.tensor([[[0.0, 500.0], [0.0, 400.0]]]))).all()


def test_evaluation_keeps_the_order_and_moves_nothing() -> None:
    model, data = net(), Points(21, noise=0)
    before = copy.deepcopy(model)
    found = evaluate(model, predict, data, QUICK)
    x = torch.from_numpy(data.x)
    expected = average_views(predict(before.eval(), {"x": x}))
    assert torch.allclose(found.values, expected, atol=1e-6)
    assert found.labels.tolist() == [int(v > 0) for v in data.x[:, 0]] and same(model, before) and not model.training
    features = extract(model, lambda m, b: b["x"] * 2, data, QUICK)
    assert torch.equal(features.values, x * 2)


def test_nothing_to_do_is_said() -> None:
    with pytest.raises(ConfigError, match="no clip to evaluate"):
        evaluate(net(), predict, Points(0), QUICK)
    with pytest.raises(ConfigError, match="no clip to train on"):
        train(net(), Path("unused"), train=Points(0))


# -------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("steps", [10, 12])
def test_a_killed_run_resumes_bit_for_bit(optimizer: Any, steps: int, tmp_path: Path) -> None:
    """4 epochs of 5 steps in one go, against a kill two epochs in, and a go with other initial weights."""
    config = dataclasses.replace(QUICK, optimizer=optimizer, lr=0.01)
    whole, resumed, finished = net(), net(9), net(10)
    expected = train(whole, tmp_path / "a", config)
    with pytest.raises(Stop):
        train(net(), tmp_path / "b", config, loss=stop_after(steps))
    assert rows(train(resumed, tmp_path / "b", config)) == rows(expected) and same(whole, resumed)
    again = train(finished, tmp_path / "b", config, loss=stop_after(0))  # nothing left to train
    assert rows(again) == rows(expected) and same(whole, finished)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("steps", [2, 5])
def test_a_signal_stops_after_the_step_and_the_run_goes_on_from_there(
    number: signal.Signals, steps: int, tmp_path: Path
) -> None:
    whole, resumed = net(), net(9)
    expected = train(whole, tmp_path / "a")
    count = iter(range(1, 100))

    def interrupted(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        if next(count) == steps:
            os.kill(os.getpid(), number)
        return loss(model, batch)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as stopped:
        train(net(), tmp_path / "b", loss=interrupted)
    if number == signal.SIGTERM:
        assert stopped.value.code == 143  # type: ignore[attr-defined]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert max(p.name for p in (tmp_path / "b").iterdir()) == f"step-{steps:08d}.safetensors"
    assert rows(train(resumed, tmp_path / "b")) == rows(expected) and same(whole, resumed)


def test_a_signal_during_validation_repeats_only_the_validation(tmp_path: Path) -> None:
    whole, resumed = net(), net(9)
    expected = train(whole, tmp_path / "a")

    def interrupted(model: nn.Module, batch: Batch) -> Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        return predict(model, batch)

    with pytest.raises(KeyboardInterrupt):
        train(net(), tmp_path / "b", predict=interrupted)
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["step-00000005.safetensors"]
    assert rows(train(resumed, tmp_path / "b")) == rows(expected) and same(whole, resumed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(net(), interrupted, Points(4), QUICK)


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    def interrupted(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        train(net(), tmp_path, loss=interrupted)
    assert list(tmp_path.iterdir()) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-30] ^= 1
    path.write_bytes(bytes(data))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    damage: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, resumed = net(), net(9)
    expected = train(whole, tmp_path / "a")
    with pytest.raises(Stop):
        train(net(), tmp_path / "b", loss=stop_after(17))
    assert sorted(p.name[-14:-12] for p in (tmp_path / "b").iterdir()) == ["10", "15"]
    damage(tmp_path / "b" / "step-00000015.safetensors")
    assert rows(train(resumed, tmp_path / "b")) == rows(expected) and same(whole, resumed)
    assert "is damaged" in capsys.readouterr().err


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    train(net(), tmp_path, dataclasses.replace(QUICK, epochs=1))
    with pytest.raises(CheckpointError, match="another recipe, seed or data"):
        train(net(), tmp_path, dataclasses.replace(QUICK, epochs=1, lr=0.1))
    with pytest.raises(CheckpointError, match="another recipe, seed or data"):
        train(net(), tmp_path, dataclasses.replace(QUICK, epochs=1), seed=4)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        train(nn.Linear(2, 2), tmp_path, dataclasses.replace(QUICK, epochs=1))
    train(net(), tmp_path, dataclasses.replace(QUICK, epochs=1, workers=1))  # decides no number


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    def bad(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        value, logits = loss(model, batch)
        return value * math.nan, logits

    model = net()
    before = copy.deepcopy(model)
    with pytest.raises(MigcoreError, match=r"loss of step 1 is not finite.*learning rate"):
        train(model, tmp_path, loss=bad)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


def test_a_loss_that_is_not_finite_is_laid_to_what_spoilt_it(tmp_path: Path) -> None:
    spoilt = net()
    with torch.no_grad():
        next(spoilt.parameters()).fill_(torch.nan)
    name = next(name for name, _ in spoilt.named_parameters())
    with pytest.raises(MigcoreError, match=rf"step 1 .* weights that it starts from hold NaN .*\({name}\)") as caught:
        train(spoilt, tmp_path / "a")
    assert "learning rate" not in str(caught.value)

    calls = iter(range(100))

    def later(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        value, logits = loss(model, batch)
        return value * (math.inf if next(calls) == 2 else 1), logits

    with pytest.raises(MigcoreError, match=r"loss of step 3 is not finite\. Lower the learning rate"):
        train(net(), tmp_path / "b", loss=later)


def test_a_full_disk_stops_and_the_checkpoint_before_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, resumed = net(), net(9)
    expected = train(whole, tmp_path / "a")
    real, count = os.replace, iter(range(100))

    def full(source: Any, target: Any) -> None:
        if next(count) == 2:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        train(net(), tmp_path / "b")
    monkeypatch.undo()
    assert sorted(p.name[-14:-12] for p in (tmp_path / "b").iterdir()) == ["05", "10"]
    assert rows(train(resumed, tmp_path / "b")) == rows(expected) and same(whole, resumed)


def test_bars_are_quiet_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(net(), tmp_path, dataclasses.replace(QUICK, epochs=1))
    assert capsys.readouterr() == ("", "")


def test_seeded_is_a_function_of_its_numbers() -> None:
    def draw(*numbers: int) -> list[float]:
        with seeded(*numbers):
            return torch.rand(2).tolist()

    assert draw(1, 2) == draw(1, 2) and draw(1, 2) != draw(2, 1) != draw(1)
    assert training.device_name(torch.device("cpu")) == f"cpu ({torch.get_num_threads()} threads)"


RUN = """
import os, signal, sys
from pathlib import Path
from tests.test_training import *
folder, last = Path(sys.argv[1]), int(sys.argv[2])
step = max((int(path.stem.removeprefix("step-")) for path in folder.glob("step-*")), default=0)

def killed(model, batch):
    global step
    step += 1
    if step == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(model, batch)

model = net(9)
done = train(model, folder, LONG, loss=killed)
print(fingerprint(model, done))
"""
LONG = dataclasses.replace(QUICK, epochs=24)


def fingerprint(model: nn.Module, done: Fit) -> str:
    """Every bit of the weights and of the history."""
    bits = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    return hashlib.sha256(bits + repr(rows(done)).encode()).hexdigest()


@pytest.mark.full
def test_kill_minus_nine_at_twenty_steps(tmp_path: Path) -> None:
    """A process killed in the middle of 20 of its 120 steps ends with the bits of one that was left alone."""
    model = net(9)
    expected = fingerprint(model, train(model, tmp_path / "a", LONG))
    steps = sorted(random.Random(0).sample(range(1, 121), 20))
    for last in [*steps, 0]:
        command = [sys.executable, "-c", RUN, str(tmp_path / "b"), str(last)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == (-signal.SIGKILL if last else 0), done.stderr[-2000:]
    assert done.stdout.strip() == expected


@pytest.mark.full
def test_two_processes_make_the_same_steps(tmp_path: Path) -> None:
    """Without drop-out and batch norm, a batch split over two processes gives the weights of one process."""
    code = """
import sys
from pathlib import Path
from tests.test_training import *
model = linear()
done = train(model, Path(sys.argv[1]), train=Points(40))
import torch.distributed as dist
if not dist.is_initialized() or dist.get_rank() == 0:
    print("END", [round(v, 5) for v in model.weight.flatten().tolist()], round(done.history[-1]["val_top1"], 4))
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ends = []
    for number in (1, 2):
        command = [sys.executable]
        if number > 1:
            command += ["-m", "torch.distributed.run", "--nproc_per_node", str(number), "--master_port", "29513"]
        done = subprocess.run(
            [*command, str(script), str(tmp_path / str(number))], env=environment, capture_output=True, text=True
        )
        ends += [line for line in done.stdout.splitlines() if line.startswith("END")] or [done.stderr[-3000:]]
    assert ends[0] == ends[1] and ends[0].startswith("END")


def linear() -> nn.Linear:
    with seeded(1):
        return nn.Linear(2, 2)
