"""The loop: optimiser, schedule, precision, evaluation and resume, on Accelerate; every experiment trains with it.

Loss, data and model do not know each other: :func:`fit` is given a module, a data set, and a callable that takes the
two to a loss. Legend: B clips, K views of a clip, C classes. Notable choices:

* nothing random has a state to save: the order of an epoch and the drop-out of a step are drawn from (seed, epoch) and
  (seed, step), so that a run resumed from any step continues as if it had not been stopped (on a CPU with as many
  threads bit for bit; a GPU adds some sums in any order), and the caller's generators stay untouched;
* the learning rate is a pure function of the step, for the same reason;
* a batch is the batch of all processes together, and what is drawn for its clips does not depend on who has them
  (:mod:`migcore.models.shares`): more accelerators make it faster, not different. Sums are added in another order, so
  that weights agree to some 1e-6, and to some 1e-4 with batch norm.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object, send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, default_collate
from tqdm.auto import tqdm

from migcore.errors import ConfigError, MigcoreError
from migcore.ledger import NO_NUMBERS, canonical_json
from migcore.models.interpolate import running_average
from migcore.models.shares import Share, sharing, synchronised
from migcore.resume import Interrupts, Progress, load_checkpoint, save_checkpoint

T = TypeVar("T")
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


def launched() -> int:
    """How many processes were launched together, as by ``torchrun``; 1 for this one alone."""
    return int(os.environ.get("WORLD_SIZE", "1") or 1)


def first_says(accelerator: Accelerator, find_out: Callable[[], T]) -> T:
    """What the first process finds out, for all of them; an error of migcore's is raised in all.

    Args:
        accelerator: knows the processes.
        find_out: called in the first process alone; its result can be sent to the others.
    """
    if accelerator.num_processes == 1:
        return find_out()
    told: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            told = [find_out(), None]
        except MigcoreError as error:
            told = [None, (type(error), str(error))]
    broadcast_object_list(told)
    if told[1] is not None:
        kind, message = told[1]
        raise kind(message)
    return cast(T, told[0])


def make_accelerator(config: TrainConfig) -> Accelerator:
    """An Accelerator of the configured precision and device, also when an earlier one of this process had others."""
    precision = "bf16" if config.precision == "bf16" else "no"
    # Without this, processes that were launched together on CPUs would each be a world of its own.
    no_device = launched() > 1 and not torch.cuda.is_available()
    arguments: dict[str, Any] = {"mixed_precision": precision, "cpu": config.device == "cpu" or no_device}
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
def _prepared(accelerator: Accelerator, model: nn.Module, *, trained: bool) -> Iterator[nn.Module]:
    """The model on its device, its forward under autocast; afterwards it is the plain module again."""
    several = trained and accelerator.num_processes > 1
    try:
        with synchronised(model) if several else contextlib.nullcontext():
            yield accelerator.prepare_model(model, evaluation_mode=not trained)
    finally:
        # Accelerate patches the instance; its own unwrapping leaves a bound method behind, which breaks deepcopy.
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            model.__dict__.pop(name, None)


class _Batches(Sampler[list[int]]):
    """Indices in a given order, in batches, from a given batch on; of each batch the share of one process.

    Shares are equal to a clip. A process whose share is empty is given the batch's first clip, to compute along.
    """

    def __init__(
        self, order: Sequence[int], batch_size: int, first: int = 0, process: tuple[int, int] = (0, 1)
    ) -> None:
        self.order, self.batch_size, self.process = list(order), batch_size, process
        self.begins = range(first * batch_size, len(self.order), batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for begin, share in zip(self.begins, self.shares(), strict=True):
            yield self.order[begin + share.first : begin + share.first + max(share.clips, 1)]

    def shares(self) -> Iterator[Share]:
        """Which part of each batch this process has."""
        rank, world = self.process
        for begin in self.begins:
            total = min(self.batch_size, len(self.order) - begin)
            each, more = divmod(total, world)
            clips = each + (rank < more)
            yield Share(rank * each + min(rank, more) if clips else 0, clips, total)

    def __len__(self) -> int:
        return len(self.begins)


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
    with Interrupts() as interrupts, _prepared(accelerator, model, trained=False) as prepared:
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
    with Interrupts() as interrupts, _prepared(accelerator, model, trained=True) as prepared:
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
                    # On the CPU always: a resumed run has it there, and a GPU rounds a division otherwise.
                    weights = {name: value.cpu() for name, value in model.state_dict().items()}
                    mean = running_average(mean, weights, epoch + 1 - config.average_from)
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

    def batches(self, dataset: ClipDataset, order: Sequence[int], first: int = 0) -> Iterator[tuple[Batch, Share]]:
        """This process' share of each batch, on the device, from a given batch on."""
        process = self.accelerator.process_index, self.accelerator.num_processes
        batches = _Batches(order, self.config.batch_size, first, process)
        loader: DataLoader[Any] = DataLoader(
            dataset,  # type: ignore[arg-type]  # a protocol, not a subclass of Dataset
            batch_sampler=batches,
            collate_fn=self.collate,
            num_workers=self.config.workers,
            pin_memory=self.accelerator.device.type == "cuda",
            generator=generator(0),  # else the loader draws a seed for its workers from torch's global generator
        )
        device = self.accelerator.device
        for batch, share in zip(loader, batches.shares(), strict=True):
            yield send_to_device(batch, device, non_blocking=device.type == "cuda"), share

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
            self.batches(dataset, order, done),
            desc=title,
            total=self.steps_per_epoch,
            initial=done,
            unit="step",
            leave=False,
            disable=None if self.accelerator.is_main_process else True,
        )
        started = time.perf_counter() - progress.seconds
        with bar:
            for batch, share in bar:
                total, hits, seen = self.step(loss, optimizer, batch, share, progress.step)
                progress.step += 1
                progress.loss += total
                progress.hits += hits
                progress.seen += seen
                progress.seconds = round(time.perf_counter() - started, 3)
                bar.set_postfix(loss=f"{progress.loss / progress.seen:.3f}", refresh=False)
                self.check_stop()

    def step(
        self, loss: LossFunction, optimizer: torch.optim.Optimizer, batch: Batch, share: Share, step: int
    ) -> tuple[float, int, int]:
        """One update; loss times clips, right answers and clips, summed over the processes."""
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, self.steps_per_epoch, self.config)
        # All processes draw the same, and each takes what belongs to its clips.
        with seeded(self.seed, step), sharing(share):
            value, logits = loss(self.model, batch)
            labels = torch.as_tensor(batch["label"], device=logits.device)
            hits = (logits.detach().argmax(-1) == labels).sum() * bool(share.clips)
            numbers = torch.stack([value.detach() * share.clips, hits, torch.full_like(hits, share.clips)])
        total, right, seen = self.accelerator.reduce(numbers, reduction="sum").tolist()
        if not math.isfinite(total):
            raise _not_finite(self.accelerator.unwrap_model(self.model), step)
        optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged over the processes: weighted so, that is the mean over the clips of the whole batch.
        self.accelerator.backward(value * (share.clips * self.accelerator.num_processes / share.total))
        if self.config.clip_norm > 0:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        optimizer.step()
        return total, int(right), int(seen)

    def extract(self, dataset: ClipDataset, function: Predictor, title: str) -> Outputs:
        """Outputs of ``function`` over a data set, in its order."""
        if len(dataset) == 0:
            raise ConfigError("there is no clip to evaluate", hint="`migcore check` lists the clips of each split")
        self.model.eval()
        model = self.accelerator.unwrap_model(self.model)  # nothing is averaged here
        found: list[tuple[int, Tensor, Tensor]] = []
        quiet = None if self.accelerator.is_main_process else True
        batches, size = self.batches(dataset, range(len(dataset))), self.config.batch_size
        total = math.ceil(len(dataset) / size)
        with (
            torch.inference_mode(),
            tqdm(batches, desc=title, total=total, unit="batch", leave=False, disable=quiet) as bar,
        ):
            for number, (batch, share) in enumerate(bar):
                values, labels = function(model, batch), torch.as_tensor(batch["label"])
                if share.clips:
                    found.append((number * size + share.first, values.cpu(), labels.cpu()))
                self.check_stop()
        if self.accelerator.num_processes > 1:
            found = sorted(gather_object(found), key=lambda each: each[0])
        return Outputs(torch.cat([each[1] for each in found]), torch.cat([each[2] for each in found]).long())


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
