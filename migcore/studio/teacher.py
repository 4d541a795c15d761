"""Pre-training of the miniature CLIP, the teacher that the studio brings along (DESIGN, "The embedded teacher").

The model is open_clip's own ``CLIP``, trained from nothing on captioned stills of other subjects and scenes than the
data set's: contrastively, with open_clip's loss, and on dense targets that the renderer knows, read out by heads that
are thrown away. Class names and class prompts are never used; captions say what is visible.

:mod:`migcore.studio.teacher_data` draws the batches, :mod:`migcore.studio.teacher_model` computes the losses; this
module is the recipe, the run and the file it writes. Letters as there.

Choices:

* A batch follows from seed and step, so that the step number stands for the state of the random generators and an
  interrupted run continues bit for bit on a CPU.
* Recipe, stills and this code name the folder of the checkpoints: a changed run never takes up another's.
* Float32 throughout: bf16 trains this model three times slower on a CPU without bf16 matrix units.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import tyro
from open_clip.model import CLIP
from torch import Tensor, nn

from migcore.errors import CheckpointError, ConfigError
from migcore.files import locked
from migcore.models.clip import MINIATURE_WEIGHTS, random_miniature
from migcore.models.weights import load_weights, save_weights, tensor_hash
from migcore.resume import Interrupts, Progress, load_checkpoint, save_checkpoint
from migcore.studio import teacher_data, teacher_model
from migcore.studio.dataset import STUDIO_VERSION
from migcore.studio.teacher_data import Batch, cached_stills, digest, draw_batch, tokenise, working_folder
from migcore.studio.teacher_model import DENSE, Pretraining, part_weights

MAX_BYTES = 16 * 2**20
"""The teacher's file may not be larger."""
MAX_LOGIT_SCALE = math.log(100)
"""CLIP's own bound."""


@dataclass(frozen=True)
class TeacherTrainConfig:
    """How the miniature teacher is pre-trained; the defaults made the one that is shipped.

    Attributes:
        stills: captioned stills, rendered once and kept on the disk.
        seed: of stills, initial weights, order and augmentation.
        steps: optimiser steps.
        batch: stills in each.
        lr: learning rate of AdamW after ``warmup`` linear steps; then a cosine to zero.
        betas: of AdamW.
        weight_decay: of matrices; embeddings, norms, biases and the logit scale do not decay.
        warmup: see ``lr``.
        clip_norm: largest norm of the gradient.
        contrastive_from: share of the steps after which the contrastive loss joins the dense ones.
        contrastive: weight of the contrastive loss.
        parts: weight of the part labels from patch tokens (cross-entropy).
        keypoints: weight of the keypoints from patch tokens and from CLS (mean |dx| + |dy|, frame units).
        layout: weight of the 8×8 part map from CLS (cross-entropy).
        presence: weight of which parts can be seen, from CLS (binary cross-entropy).
        flip: probability of mirroring a still, its targets, and left and right in its caption.
        shift: largest displacement, pixels.
        gain: largest relative change of a colour channel.
        log_every: steps between log lines.
        save_every: steps between checkpoints.
        device: a torch device.

    Raises:
        ConfigError: a value is out of range.
    """

    stills: int = 60_000
    seed: int = 0
    steps: int = 6_000
    batch: int = 48
    lr: float = 1.5e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    warmup: int = 100
    clip_norm: float = 1.0
    contrastive_from: float = 0.1
    contrastive: float = 1.0
    parts: float = 1.0
    keypoints: float = 5.0
    layout: float = 0.5
    presence: float = 0.5
    flip: float = 0.5
    shift: int = 3
    gain: float = 0.15
    log_every: int = 200
    save_every: int = 500
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("stills", "steps", "batch", "warmup", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of the teacher's pre-training is {getattr(self, name)}", hint="at least 1")
        if self.stills < self.batch:
            raise ConfigError(f"{self.stills} stills do not fill a batch of {self.batch}")
        for name in ("contrastive_from", "flip", "gain"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} of the teacher's pre-training is {getattr(self, name)}", hint="0 to 1")
        if self.lr <= 0 or self.clip_norm <= 0 or self.shift < 0:
            raise ConfigError("the teacher's pre-training needs lr and clip_norm above 0, and a shift of 0 or more")

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step (0-based): linear warm-up, then a cosine to zero."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))


def _optimizer(model: Pretraining, config: TeacherTrainConfig) -> torch.optim.AdamW:
    free = ("token_embedding.weight", "positional_embedding", "class_embedding")
    decays = {name: p.ndim > 1 and not name.endswith(free) for name, p in model.named_parameters()}
    groups = [
        {"params": [p for n, p in model.named_parameters() if decays[n]], "weight_decay": config.weight_decay},
        {"params": [p for n, p in model.named_parameters() if not decays[n]], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def train_step(
    model: Pretraining, optimizer: torch.optim.Optimizer, batch: Batch, weights_P: Tensor, config: TeacherTrainConfig,
    step: int,
) -> None:  # fmt: skip
    """One update, in place; ``step`` (0-based) decides learning rate and losses."""
    out = model(batch, weights_P, step >= config.contrastive_from * config.steps)
    loss = sum(getattr(config, name) * out[name] for name in (*DENSE, "contrastive") if name in out)
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate(step)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    optimizer.step()
    model.clip.logit_scale.data.clamp_(0, MAX_LOGIT_SCALE)
    model.record(out)


def pretrain(
    config: TeacherTrainConfig, out: Path = MINIATURE_WEIGHTS, *, progress: bool = True, resume: bool = True
) -> Path:
    """Pre-train the miniature CLIP and write it, in half precision, with its recipe in the header.

    Stills and checkpoints live under :func:`~migcore.studio.teacher_data.working_folder`, named by what they depend on
    (recipe, stills, this code). SIGTERM and Ctrl-C end the run after a checkpoint; the same call then goes on, on a CPU
    to the same bits as if it had never stopped. A call for a finished run only writes the file again.

    Args:
        config: the recipe.
        out: the file to write, read by :func:`migcore.models.clip.load_teacher`.
        progress: show a bar while rendering, and a line every ``log_every`` steps.
        resume: take up an earlier run of this recipe; otherwise its checkpoints are removed.

    Returns:
        ``out``.

    Raises:
        ConfigError: there is no such device.
        StorageError: the disk is full.
        LedgerError: another process is at the same run.
        CheckpointError: the file would exceed :data:`MAX_BYTES`.
    """
    try:
        torch.zeros(1, device=config.device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"there is no device {config.device!r} ({str(error).splitlines()[0]})") from error
    initial = random_miniature(config.seed)
    stills = cached_stills(config.stills, config.seed, initial.visual.image_size[0], progress=progress)
    captions = tokenise(stills.captions, initial.context_length)
    recipe: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    decisive = {k: v for k, v in recipe.items() if k not in ("log_every", "save_every", "device")}
    code = digest(*(Path(str(f)).read_bytes() for f in (__file__, teacher_model.__file__, teacher_data.__file__)))
    identity = {"recipe": decisive, "stills": stills.identity, "code": code}
    folder = working_folder() / f"run-{digest(json.dumps(identity, sort_keys=True).encode())}"
    model = Pretraining(config.seed, captions.vocabulary, stills.keypoints.shape[1]).to(config.device)
    optimizer = _optimizer(model, config)
    weights_P = part_weights(stills.parts).to(config.device)
    with locked(folder / "lock", what="this pre-training"), Interrupts() as interrupts:
        if not resume:
            for old in folder.glob("step-*.safetensors"):
                old.unlink()
        state = load_checkpoint(folder, model, optimizer, identity) or Progress()
        started = perf_counter() - state.seconds
        while state.step < config.steps:
            batch = draw_batch(
                stills, captions, state.step, seed=config.seed, size=config.batch,
                flip=config.flip, shift=config.shift, gain=config.gain,
            ).to(config.device)  # fmt: skip
            train_step(model, optimizer, batch, weights_P, config, state.step)
            state.step += 1
            state.seconds = perf_counter() - started
            if state.step % config.log_every == 0 or state.step == config.steps:
                state.history.append(_log_row(model, config, state))
                if progress:
                    print("  ".join(f"{k} {v:.4g}" for k, v in state.history[-1].items()), flush=True)
            stop = interrupts.asked is not None
            if stop or state.step % config.save_every == 0 or state.step == config.steps:
                save_checkpoint(folder, model, optimizer, state, identity)
            if stop and state.step < config.steps:
                print(
                    f"stopped after step {state.step} of {config.steps}; the same call goes on from there", flush=True
                )
                interrupts.leave()
    meta = {
        "what": "miniature CLIP, pre-trained on captioned stills of the studio; says nothing about real people",
        "recipe": recipe,
        "studio": STUDIO_VERSION,
        "steps": state.step,
        "stills_seen": state.step * config.batch,
        **{k: identity[k] for k in ("stills", "code")},
        "seconds": round(state.seconds, 1),
        "history": state.history,
        "versions": {name: version(name) for name in ("torch", "open_clip_torch")},
        "metrics": {},
    }
    return _export(model, initial, captions.vocabulary, out, meta)


def _log_row(model: Pretraining, config: TeacherTrainConfig, state: Progress) -> dict[str, float]:
    before = state.history[-1] if state.history else {"step": 0, "seconds": 0.0}
    rate = (state.step - before["step"]) * config.batch / max(1e-9, state.seconds - before["seconds"])
    scale = float(model.clip.logit_scale.detach().exp())
    row = {"step": state.step, **model.summary(), "scale": scale, "stills/s": rate, "seconds": state.seconds}
    return {name: value if name == "step" else round(value, 5) for name, value in row.items()}


def _export(model: Pretraining, initial: CLIP, vocabulary: np.ndarray, out: Path, meta: dict[str, Any]) -> Path:
    """Put the trained token embeddings back among all others and write the half-precision file."""
    state = {name: value.detach().cpu() for name, value in model.clip.state_dict().items()}
    embedding = initial.token_embedding.weight.detach().clone()
    embedding[torch.from_numpy(vocabulary)] = state["token_embedding.weight"]
    half = {name: value.half() for name, value in {**state, "token_embedding.weight": embedding}.items()}
    size = sum(value.nbytes for value in half.values())
    if size > MAX_BYTES:
        raise CheckpointError(f"the teacher would take {size} bytes, {MAX_BYTES} at most are shipped", where=out)
    save_weights(out, half, {**meta, "sha256": tensor_hash(half)})
    return out


def stamp(path: Path, metrics: dict[str, float]) -> None:
    """Write measured accuracies (zero-shot, linear probe) into the header of a teacher's file; tensors stay.

    Args:
        path: a file of :func:`pretrain`.
        metrics: by name; earlier ones of other names stay.

    Raises:
        CheckpointError: the file is missing, damaged, or its tensors are not those that its hash names.
    """
    state, meta = load_weights(path)
    if meta.get("sha256") != tensor_hash(state):
        raise CheckpointError("the tensors are not those of the hash in its header", where=path, hint="pre-train again")
    save_weights(path, state, {**meta, "metrics": {**meta["metrics"], **metrics}})


def main() -> None:
    """``python -m migcore.studio.teacher``: :func:`pretrain` from the command line."""
    tyro.cli(pretrain, prog="python -m migcore.studio.teacher")


if __name__ == "__main__":
    main()
