"""The loop: optimiser, schedule, precision, evaluation and resume, on Accelerate; every experiment trains with it.

Loss, data and model do not know each other: :func:`fit` is given a module, a data set, and a callable that takes the
two to a loss. Legend: B clips, K views of a clip, C classes. Notable choices:

* nothing random has a state to save: the order of an epoch and the drop-out of a step are drawn from (seed, epoch) and
  (seed, step), so that a run resumed from any step continues bit for bit, and the caller's generators stay untouched;
* the learning rate is a pure function of the step, for the same reason;
* a batch is the batch of all processes together: more accelerators make it faster, not different.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, default_collate
from tqdm.auto import tqdm

from migcore.errors import ConfigError, MigcoreError
from migcore.ledger import NO_NUMBERS, canonical_json
from migcore.models.interpolate import running_average
from migcore.resume import Interrupts, Progress, load_checkpoint, save_checkpoint

Batch = dict[str, Any]
LossFunction = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]
"""(model, batch) → (loss, a scalar; logits [B, C])."""
Predictor = Callable[[nn.Module, Batch], Tensor]
"""(model, batch) → logits [B, K, C] of the K views of each clip."""
Collate = Callable[[list[Any]], Batch]


class ClipDataset(Protocol):
    """What the loop asks of a data set: items are dicts with at least ``"label"`` (an int, or a scalar tensor)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Batch: ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the augmentations of an epoch."""


@dataclass(frozen=True)
class TrainConfig:
    """Recipe of a training run.

    Attributes:
        epochs: passes over the training clips.
        batch_size: clips per step, over all processes.
        optimizer: "sgd" or "adamw".
        lr: peak learning rate.
        momentum, nesterov: of SGD.
        betas: of AdamW.
        weight_decay: L2 (SGD) or decoupled (AdamW).
        decay_1d: decay biases and norm weights too (PoseC3D's recipe does; CLIP's does not).
        warmup_epochs: linear warm-up, per step.
        schedule: "cosine", per step, or "constant".
        lr_floor: share of ``lr`` that the warm-up starts above and the cosine ends at.
        average_from: the result is the mean of the weights after each epoch from this one (1 is the first) on; 0 for
            the last weights (stochastic weight averaging, SWA; FROSTER averages from the second epoch on).
        clip_norm: bound on the L2 norm of all gradients; 0 for none.
        precision: "fp32", or "bf16" (autocast of the model's forward; weights, loss and heat-maps stay float32).
        eval_every: validate after every so many epochs, and after the last.
        workers: processes that load clips; 0 loads in this one.
        device: "auto" takes the accelerator if there is one, "cpu" never does.
    """

    epochs: int = 12
    batch_size: int = 16
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = True
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 3e-4
    decay_1d: bool = True
    warmup_epochs: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    lr_floor: float = 0.0
    average_from: int = 0
    clip_norm: float = 40.0
    precision: Literal["fp32", "bf16"] = "fp32"
    eval_every: int = field(default=1, metadata=NO_NUMBERS)
    workers: int = field(default=0, metadata=NO_NUMBERS)
    device: Literal["auto", "cpu"] = field(default="auto", metadata=NO_NUMBERS)

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {text}, not {getattr(self, name)!r}"
            for name, text, ok in (
                ("epochs", "at least 1", self.epochs >= 1),
                ("batch_size", "at least 1", self.batch_size >= 1),
                ("optimizer", "'sgd' or 'adamw'", self.optimizer in ("sgd", "adamw")),
                ("lr", "positive", 0 < self.lr < math.inf),
                ("momentum", "in [0, 1)", 0 <= self.momentum < 1),
                ("weight_decay", "0 or more", 0 <= self.weight_decay < math.inf),
                ("warmup_epochs", "between 0 and epochs", 0 <= self.warmup_epochs <= self.epochs),
                ("schedule", "'cosine' or 'constant'", self.schedule in ("cosine", "constant")),
                ("lr_floor", "in [0, 1]", 0 <= self.lr_floor <= 1),
                ("average_from", "between 0 and epochs", 0 <= self.average_from <= self.epochs),
                ("clip_norm", "0 or more", self.clip_norm >= 0),
                ("precision", "'fp32' or 'bf16'", self.precision in ("fp32", "bf16")),
                ("eval_every", "at least 1", self.eval_every >= 1),
                ("workers", "0 or more", self.workers >= 0),
                ("device", "'auto' or 'cpu'", self.device in ("auto", "cpu")),
            )
            if not ok
        ]
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            wrong.append("nesterov needs a momentum above 0")
        if wrong:
            raise ConfigError("; ".join(wrong))


@dataclass(frozen=True)
class Outputs:
    """What a model says about a data set.

    Attributes:
        values: of :func:`evaluate`, logits [N, C] float32: the log of the mean over a clip's views of the soft-max (for
            one view, log-soft-max); of :func:`extract`, what its function gave.
        labels: [N] int64.
    """

    values: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Fit:
    """What :func:`fit` returns: ``history`` (a dict per epoch), training seconds, and the device's name."""

    history: list[dict[str, Any]]
    seconds: float
    device: str


# ---------------------------------------------------------------------------------------------------- random and device


def generator(*entropy: int) -> torch.Generator:
    """A CPU generator seeded by a tuple of numbers, such as (seed, epoch)."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))


@contextlib.contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Run the body with torch's global generators seeded by ``entropy``, and leave them afterwards as they were.

    For what takes no generator of its own: weight initialisers and drop-out.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    seed = generator(*entropy).initial_seed()
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed, which also seeds the other GPUs and, for devices not in use, keeps a list of its calls.
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        yield


def make_accelerator(config: TrainConfig) -> Accelerator:
    """An Accelerator of the configured precision and device, also when an earlier one of this process had others."""
    precision = "bf16" if config.precision == "bf16" else "no"
    arguments: dict[str, Any] = {
        "mixed_precision": precision,
        "cpu": config.device == "cpu",
        "dataloader_config": DataLoaderConfiguration(split_batches=True),
    }
    state = AcceleratorState._shared_state
    if state and (state.get("_mixed_precision"), bool(state.get("_cpu"))) != (precision, arguments["cpu"]):
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(**arguments)


def device_name(device: torch.device) -> str:
    """A device in words: "cuda (NVIDIA …)" or "cpu (2 threads)"."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type


@contextlib.contextmanager
def _prepared(accelerator: Accelerator, model: nn.Module) -> Iterator[nn.Module]:
    """The model on its device, its forward under autocast; afterwards it is the plain module again."""
    try:
        yield accelerator.prepare_model(model)
    finally:
        # Accelerate patches the instance; its own unwrapping leaves a bound method behind, which breaks deepcopy.
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            model.__dict__.pop(name, None)


class _Batches(Sampler[list[int]]):
    """Indices in a given order, in batches, from a given batch on."""

    def __init__(self, order: Sequence[int], batch_size: int, first: int = 0) -> None:
        self.order, self.batch_size, self.first, self.drop_last = list(order), batch_size, first, False

    def __iter__(self) -> Iterator[list[int]]:
        for i in range(self.first * self.batch_size, len(self.order), self.batch_size):
            yield self.order[i : i + self.batch_size]

    def __len__(self) -> int:
        return max(math.ceil(len(self.order) / self.batch_size) - self.first, 0)


# ----------------------------------------------------------------------------------------------- optimiser and schedule


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that require gradients, those of one dimension in a group of their own.

    A scalar, CLIP's temperature, counts with the matrices, as published.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    flat = [p for p in trained if p.ndim == 1]
    groups = [
        {"params": [p for p in trained if p.ndim != 1], "weight_decay": config.weight_decay},
        {"params": flat, "weight_decay": config.weight_decay if config.decay_1d else 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def learning_rate(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Learning rate of a step (0-based): linear warm-up, then a half cosine to the floor after the last epoch."""
    warm, total = config.warmup_epochs * steps_per_epoch, config.epochs * steps_per_epoch
    if step < warm:
        share = (step + 1) / (warm + 1)
    elif config.schedule == "constant":
        share = 1.0
    else:
        share = 0.5 * (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1)))
    return config.lr * (config.lr_floor + (1 - config.lr_floor) * share)


# ------------------------------------------------------------------------------------------------------------- the loop


def average_views(logits: Tensor) -> Tensor:
    """Mean of the views' probabilities, as logits: [B, K, C] → [B, C], log (1/K Σ_k soft-max)."""
    return torch.logsumexp(torch.log_softmax(logits.float(), dim=-1), dim=1) - math.log(logits.shape[1])


def evaluate(
    model: nn.Module,
    predict: Predictor,
    dataset: ClipDataset,
    config: TrainConfig,
    *,
    collate: Collate = default_collate,
    title: str = "evaluate",
) -> Outputs:
    """Logits of a model over a whole data set, in the data set's order.

    Args:
        model: any module; on return it is in evaluation mode, on the configured device.
        predict: (model, batch) → logits [B, K, C]; the K views are averaged (:func:`average_views`).
        dataset: clips.
        config: batch size, precision, device and workers are taken from it.
        collate: list of items → batch.
        title: of the progress bar, which shows on a terminal only.

    Raises:
        ConfigError: the data set is empty.
    """
    return extract(model, _averaged(predict), dataset, config, collate=collate, title=title)


def extract(
    model: nn.Module,
    function: Predictor,
    dataset: ClipDataset,
    config: TrainConfig,
    *,
    collate: Collate = default_collate,
    title: str = "extract",
) -> Outputs:
    """:func:`evaluate` for anything else than logits: ``function`` gives [B, …], and nothing is averaged."""
    accelerator = make_accelerator(config)
    with Interrupts() as interrupts, _prepared(accelerator, model) as prepared:
        try:
            return _Loop(accelerator, prepared, config, interrupts, collate).extract(dataset, function, title)
        except _Stopped:
            interrupts.leave()


def _averaged(predict: Predictor) -> Predictor:
    return lambda model, batch: average_views(predict(model, batch))


def fit(
    model: nn.Module,
    loss: LossFunction,
    train: ClipDataset,
    config: TrainConfig,
    *,
    seed: int,
    folder: Path,
    predict: Predictor,
    metrics: Callable[[Tensor, Tensor], dict[str, Any]],
    validation: ClipDataset | None = None,
    collate: Collate = default_collate,
    title: str = "train",
) -> Fit:
    """Train a model in place, from the newest whole checkpoint in ``folder`` if there is one.

    Args:
        model: any module; its weights after the last epoch, or their mean over epochs (``config.average_from``), are
            the result: none is chosen on validation.
        loss: (model, batch) → (scalar loss, logits [B, C]); called with the model in training mode.
        train: training clips.
        config: the recipe.
        seed: of the clips' order and of drop-out.
        folder: for checkpoints.
        predict: (model, batch) → logits [B, K, C], for validation.
        metrics: (logits, labels) of :func:`evaluate` → numbers that go into the history as ``val_<name>``.
        validation: clips to measure every ``config.eval_every`` epochs and after the last; None for never.
        collate: list of items → batch.
        title: of the progress bar, which shows on a terminal only.

    Returns:
        history with epoch, loss, lr (of the last step), train_top1, seconds and val_… (of the weights in training, not
        of their mean)

    Raises:
        MigcoreError: the loss is not finite.
        CheckpointError: the folder holds another run's checkpoints.
        StorageError: the disk is full; the checkpoints written before are intact.
        KeyboardInterrupt, SystemExit: after Ctrl-C or SIGTERM; the run can be resumed from that step.
    """
    if len(train) == 0:
        raise ConfigError("there is no clip to train on", hint="`migcore check` lists the clips of each split")
    accelerator = make_accelerator(config)
    with Interrupts() as interrupts, _prepared(accelerator, model) as prepared:
        loop = _Loop(accelerator, prepared, config, interrupts, collate, seed, len(train))
        optimizer = make_optimizer(model, config)
        identity = {"config": json.loads(canonical_json(config)), "seed": seed, "clips": len(train)}
        mean: dict[str, Tensor] = {}  # of the weights after each epoch so far
        progress = load_checkpoint(folder, model, optimizer, identity, mean) or Progress()

        def save() -> None:
            if accelerator.is_main_process:
                save_checkpoint(folder, model, optimizer, progress, identity, mean)
            accelerator.wait_for_everyone()

        try:
            for epoch in range(len(progress.history), config.epochs):
                name = f"{title} {epoch + 1}/{config.epochs}"
                train.set_epoch(epoch)
                loop.epoch(train, loss, optimizer, progress, epoch, name)
                row = {
                    "epoch": epoch + 1,
                    "loss": progress.loss / progress.seen,
                    "lr": learning_rate(progress.step - 1, loop.steps_per_epoch, config),
                    "train_top1": progress.hits / progress.seen,
                    "seconds": progress.seconds,
                }
                last = epoch + 1 == config.epochs
                if validation is not None and (last or (epoch + 1) % config.eval_every == 0):
                    outputs = loop.extract(validation, _averaged(predict), f"{name} validation")
                    values = metrics(outputs.values, outputs.labels)
                    row |= {f"val_{key}": value for key, value in values.items()}
                progress = Progress(step=progress.step, history=[*progress.history, row])
                if 0 < config.average_from <= epoch + 1:
                    mean = running_average(mean, model.state_dict(), epoch + 1 - config.average_from)
                save()
        except _Stopped:
            save()
            interrupts.leave()
    if mean:
        model.load_state_dict(mean)
    model.eval()
    seconds = sum(row["seconds"] for row in progress.history)
    return Fit(progress.history, seconds, device_name(accelerator.device))


class _Stopped(Exception):
    """The loop was asked to stop; progress and weights are those of a finished step."""


@dataclass
class _Loop:
    """The two inner loops and what they share."""

    accelerator: Accelerator
    model: nn.Module
    config: TrainConfig
    interrupts: Interrupts
    collate: Collate
    seed: int = 0
    clips: int = 0

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.clips / self.config.batch_size)

    def loader(self, dataset: ClipDataset, batches: _Batches) -> Any:
        loader: DataLoader[Any] = DataLoader(
            dataset,  # type: ignore[arg-type]  # a protocol, not a subclass of Dataset
            batch_sampler=batches,
            collate_fn=self.collate,
            num_workers=self.config.workers,
            pin_memory=self.accelerator.device.type == "cuda",
            generator=generator(0),  # else the loader draws a seed for its workers from torch's global generator
        )
        return self.accelerator.prepare_data_loader(loader)

    def check_stop(self) -> None:
        """Raise _Stopped if any process was asked to stop."""
        asked = self.interrupts.asked is not None
        if self.accelerator.num_processes > 1:
            if asked:
                self.accelerator.set_trigger()
            asked = self.accelerator.check_trigger()
        if asked:
            raise _Stopped

    def epoch(
        self,
        dataset: ClipDataset,
        loss: LossFunction,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        epoch: int,
        title: str,
    ) -> None:
        """The rest of an epoch, from the step that ``progress`` stands at."""
        done = progress.step - epoch * self.steps_per_epoch
        order = torch.randperm(len(dataset), generator=generator(self.seed, epoch)).tolist()
        self.model.train()
        bar = tqdm(
            self.loader(dataset, _Batches(order, self.config.batch_size, done)),
            desc=title,
            total=self.steps_per_epoch,
            initial=done,
            unit="step",
            leave=False,
            disable=None if self.accelerator.is_main_process else True,
        )
        started = time.perf_counter() - progress.seconds
        with bar:
            for batch in bar:
                total, hits, seen = self.step(loss, optimizer, batch, progress.step)
                progress.step += 1
                progress.loss += total
                progress.hits += hits
                progress.seen += seen
                progress.seconds = round(time.perf_counter() - started, 3)
                bar.set_postfix(loss=f"{progress.loss / progress.seen:.3f}", refresh=False)
                self.check_stop()

    def step(
        self, loss: LossFunction, optimizer: torch.optim.Optimizer, batch: Batch, step: int
    ) -> tuple[float, int, int]:
        """One update; loss times clips, right answers and clips, summed over the processes."""
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, self.steps_per_epoch, self.config)
        with seeded(self.seed, step, self.accelerator.process_index):
            value, logits = loss(self.model, batch)
        labels = torch.as_tensor(batch["label"], device=logits.device)
        hits = (logits.detach().argmax(-1) == labels).sum()
        numbers = torch.stack([value.detach() * len(labels), hits, torch.full_like(hits, len(labels))])
        total, right, seen = self.accelerator.reduce(numbers, reduction="sum").tolist()
        if not math.isfinite(total):
            raise _not_finite(self.accelerator.unwrap_model(self.model), step)
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(value)
        if self.config.clip_norm > 0:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        optimizer.step()
        return total, int(right), int(seen)

    def extract(self, dataset: ClipDataset, function: Predictor, title: str) -> Outputs:
        """Outputs of ``function`` over a data set, in its order."""
        if len(dataset) == 0:
            raise ConfigError("there is no clip to evaluate", hint="`migcore check` lists the clips of each split")
        self.model.eval()
        gathered: list[tuple[Tensor, Tensor]] = []
        loader = self.loader(dataset, _Batches(range(len(dataset)), self.config.batch_size))
        quiet = None if self.accelerator.is_main_process else True
        with torch.inference_mode(), tqdm(loader, desc=title, unit="batch", leave=False, disable=quiet) as bar:
            for batch in bar:
                labels = torch.as_tensor(batch["label"], device=self.accelerator.device)
                pair = function(self.model, batch), labels
                gathered.append(tuple(x.cpu() for x in self.accelerator.gather_for_metrics(pair)))
                self.check_stop()
        values, labels = (torch.cat(x) for x in zip(*gathered, strict=True))
        return Outputs(values, labels.long())


def _not_finite(model: nn.Module, step: int) -> MigcoreError:
    """What to do about a loss: before the first update it is not the recipe that spoilt the weights."""
    spoilt = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    message = f"the loss of step {step + 1} is not finite"
    if step == 0 and spoilt:
        return MigcoreError(
            f"{message}: the weights that it starts from hold NaN or infinite numbers ({spoilt[0]})",
            hint="Start from other weights",
        )
    if step == 0:
        return MigcoreError(
            f"{message}, and no weight has been changed yet",
            hint="It is not the learning rate: look for numbers that are far too large in the clips (`migcore check`), "
            "or use precision=fp32 (--set train_student.precision=fp32, or the recipe of the experiment)",
        )
    return MigcoreError(
        message,
        hint="Lower the learning rate (lr), bound the gradients (clip_norm) or use precision=fp32: --set "
        "train_student.lr=…, and likewise for the recipe of another experiment",
    )
