"""What makes a training run survive a full disk, a kill, a closed lid or Ctrl-C: checkpoints and orderly interruption.

* a checkpoint is one safetensors file: tensors of model and optimiser, and in its header the progress as JSON, the
  identity of the run and a checksum, so that it is whole or not there;
* the last two are kept; a damaged one is reported, removed, and the one before is taken;
* Ctrl-C and SIGTERM become a request that the loop honours after the step it is in.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import threading
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from migcore.errors import CheckpointError
from migcore.files import write_whole

KEEP = 2
"""Checkpoints that stay in a folder."""


@dataclasses.dataclass
class Progress:
    """Where a run is.

    Attributes:
        step: updates made.
        history: one dict per finished epoch.
        loss, hits, seen, seconds: sums over the unfinished epoch: loss times clips, right answers, clips, time.
    """

    step: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    loss: float = 0.0
    hits: int = 0
    seen: int = 0
    seconds: float = 0.0


def _checksum(tensors: dict[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(name.encode(), total)
        if tensors[name].numel():
            total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return total


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    identity: dict[str, Any],
    mean: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write ``step-<n>.safetensors`` and remove all but the last two.

    Args:
        folder: of this run's checkpoints; made if need be.
        model, optimizer: their tensors go in.
        progress: goes in as JSON.
        identity: what tells this run from another (:func:`load_checkpoint` compares it).
        mean: of the weights so far, where one is kept.

    Raises:
        StorageError: the disk is full; the checkpoints before are intact.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": v for name, v in values.items() if isinstance(v, Tensor)}
    tensors |= {f"mean.{name}": value for name, value in (mean or {}).items()}
    # A copy each: the format refuses weights that share storage, and those that are not contiguous (channels-last).
    tensors = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    state = {**dataclasses.asdict(progress), "identity": identity, "checksum": _checksum(tensors)}
    header = {"migcore": json.dumps(state, allow_nan=False)}
    path = folder / f"step-{progress.step:08d}.safetensors"
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata=header))
    for old in sorted(folder.glob("step-*.safetensors"))[:-KEEP]:
        old.unlink(missing_ok=True)
    return path


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            state = json.loads(file.metadata()["migcore"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"is damaged ({error})", where=path) from error
    if _checksum(tensors) != state.pop("checksum"):
        raise CheckpointError("is damaged (its checksum differs)", where=path)
    return tensors, state


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
    mean: dict[str, Tensor] | None = None,
) -> Progress | None:
    """Load the newest whole checkpoint into model and optimiser; None if there is none.

    Args:
        folder: of this run's checkpoints; need not exist.
        model, optimizer, mean: filled in place.
        identity: as given when saving.

    Raises:
        CheckpointError: it belongs to another run, or does not fit the model.
    """
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        try:
            tensors, state = _read(path)
        except CheckpointError as error:
            print(f"migcore: {error}; going back to the checkpoint before", file=sys.stderr)
            path.unlink(missing_ok=True)  # another process may have found it too
            continue
        if state.pop("identity") != identity:
            hint = "Give the run another folder, or delete this one"
            raise CheckpointError("belongs to a run with another recipe, seed or data", where=path, hint=hint)
        try:
            model.load_state_dict({n.removeprefix("model."): v for n, v in tensors.items() if n.startswith("model.")})
        except RuntimeError as error:
            raise CheckpointError(f"does not fit the model ({error})", where=path) from error
        saved = optimizer.state_dict()
        saved["state"] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                saved["state"].setdefault(int(index), {})[key] = value
        optimizer.load_state_dict(saved)
        if mean is not None:
            mean.update({n.removeprefix("mean."): v for n, v in tensors.items() if n.startswith("mean.")})
        return Progress(**state)
    return None


@dataclasses.dataclass(frozen=True)
class Epochs:
    """How far a run is: epochs made and planned, and the loss of the last."""

    made: int
    planned: int
    loss: float


def epochs_made(folder: Path) -> Epochs | None:
    """What the newest checkpoint of a run says, while another process may be writing the next one.

    Args:
        folder: of the run's checkpoints; need not exist.

    Returns:
        None before the end of the first epoch, and when the file is replaced or removed at this very moment.
    """
    try:
        newest = max(folder.glob("step-*.safetensors"))
        with safe_open(newest, framework="pt") as file:
            state = json.loads(file.metadata()["migcore"])
        history = state["history"]
        return Epochs(len(history), int(state["identity"]["config"]["epochs"]), float(history[-1]["loss"]))
    except (OSError, SafetensorError, KeyError, IndexError, TypeError, ValueError):
        return None


class Interrupts:
    """While entered, Ctrl-C and SIGTERM only set :attr:`asked`; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number

    def leave(self) -> NoReturn:
        """End as the signal asked for: SystemExit(143) after SIGTERM, else KeyboardInterrupt."""
        if self.asked == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt
