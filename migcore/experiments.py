"""The experiments by name, and their runs: made, or loaded from the ledger.

    run("posec3d_joint", preset("laptop"), seed=0)

This is the one place that says which preset fields, which modules and which other runs decide an experiment's numbers;
what it does is in :mod:`migcore.recipes`. A run whose key is in the ledger is loaded, not repeated.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from migcore import recipes
from migcore.data.imigue import ClipIndex, open_dataset
from migcore.errors import ConfigError
from migcore.files import locked
from migcore.ledger import Ledger, Run, canonical, now, run_key, source_commit, source_hash, source_root, versions
from migcore.presets import Preset
from migcore.recipes import Job, Made, SplitOutputs, measure
from migcore.studio.dataset import STUDIO_VERSION, write_studio
from migcore.training import make_accelerator


def runs_folder() -> Path:
    """``$MIGCORE_RUNS``, or ``runs`` in the current folder."""
    return Path(os.environ.get("MIGCORE_RUNS") or "runs")


def ledger() -> Ledger:
    """The ledger of :func:`runs_folder`, with the recorded runs of ``results/`` when in a source checkout."""
    root = source_root()
    return Ledger(runs_folder(), None if root is None else root / "results")


def data_folder(preset: Preset) -> Path:
    """Folder of a preset's clips: ``data.root``, else that of its studio under :func:`runs_folder`.

    Raises:
        ConfigError: the preset has neither.
    """
    if preset.data.root:
        return Path(preset.data.root).expanduser()
    if preset.studio is None:
        raise ConfigError(
            f"preset {preset.name} needs a folder of clips",
            hint="Give it with --data ROOT, or set data.root; iMiGUE is had from its authors, and never downloaded",
        )
    recipe = json.dumps([STUDIO_VERSION, canonical(preset.studio)], sort_keys=True)
    return runs_folder() / "data" / f"studio-{preset.name}-{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"


def dataset(preset: Preset) -> ClipIndex:
    """The clips of a preset; its studio is made first if it is not there yet (minutes; it can be interrupted).

    Raises:
        ConfigError: the preset names no data.
        DataError: the folder is not as it should be, or a clip is damaged and ``data.skip_bad`` is not set.
        StorageError: the disk is full.
    """
    folder = data_folder(preset)
    if not preset.data.root and not (folder / "identity.json").is_file():
        assert preset.studio is not None  # data_folder has seen to it
        with locked(folder.with_name(f"{folder.name}.lock"), wait=True, what="the studio"):
            if not (folder / "identity.json").is_file():
                write_studio(folder, preset.studio, progress=sys.stderr.isatty())
    config = preset.data
    return open_dataset(folder, column_map=config.column_map, skip_bad=config.skip_bad, first_frame=config.first_frame)


def dataset_at_hand(preset: Preset) -> ClipIndex | None:
    """The clips of a preset if they are on this machine; nothing is made.

    Raises:
        DataError: as :func:`dataset`.
    """
    if not preset.data.root and (preset.studio is None or not (data_folder(preset) / "identity.json").is_file()):
        return None
    return dataset(preset)


def identity(index: ClipIndex) -> str:
    """Identity of the clips an experiment sees: that of the data, and which clips were made of it."""
    clips = [[c.id, c.start, c.end, c.label, c.split, c.subject] for c in index.clips]
    return f"{index.identity}-{hashlib.sha256(json.dumps(clips).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Experiment:
    """One named experiment.

    Attributes:
        make: does the work.
        config: the part of a preset that decides its numbers.
        modules: those that decide its numbers (:func:`migcore.ledger.source_hash`).
        depends: experiments whose outputs it takes.
        random: different seeds give different numbers; if not, there is one run, with seed 0.
    """

    make: Callable[[Job], Made]
    config: Callable[[Preset], dict[str, Any]]
    modules: tuple[str, ...]
    depends: tuple[str, ...] = ()
    random: bool = True


def _skeleton_config(preset: Preset) -> dict[str, Any]:
    return {
        "column_map": preset.data.column_map,
        "skeleton": preset.skeleton,
        "posec3d": preset.posec3d,
        "train": preset.train_posec3d,
    }


def _teacher_config(preset: Preset) -> dict[str, Any]:
    return {"video": preset.video, "teacher": preset.teacher.identity, "precision": preset.teacher.precision}


def _probe_config(preset: Preset) -> dict[str, Any]:
    return {**_teacher_config(preset), "probe": preset.probe}


def _difficulty_config(preset: Preset) -> dict[str, Any]:
    return {"difficulty": preset.difficulty, "size": preset.video.size, "column_map": preset.data.column_map}


# The index of clips is part of the data's identity, so of the readers only what reads a clip's content decides numbers.
_METRICS = "migcore.metrics:classification,confusion,_rank_of_truth"
_CLIPS = ("migcore.data.augment", "migcore.data.datasets", "migcore.data.sampling", _METRICS)
_SKELETON = (
    *_CLIPS,
    "migcore.data.files:read_skeleton_csv",
    "migcore.data.imigue:read_clip_skeleton,_skeleton_of_film",
    "migcore.data.layouts",
    "migcore.heatmaps",
    "migcore.models.posec3d",
    "migcore.training",
    "migcore.recipes:SkeletonStream,_posec3d,posec3d_joint,posec3d_limb",
)
_VIDEO = (
    *_CLIPS,
    "migcore.data.video",
    "migcore.labels",
    "migcore.models.clip",
    "migcore.training:average_views",
    "migcore.recipes:_frames",
)

_DIFFICULTY = ("migcore.data.video", *_CLIPS, "migcore.studio.probes", "migcore.recipes:_difficulty")

EXPERIMENTS: dict[str, Experiment] = {
    "zero_shot": Experiment(recipes.zero_shot, _teacher_config, (*_VIDEO, "migcore.recipes:zero_shot"), random=False),
    "linear_probe": Experiment(
        recipes.linear_probe, _probe_config, (*_VIDEO, "migcore.recipes:linear_probe,fit_linear")
    ),
    "posec3d_joint": Experiment(recipes.posec3d_joint, _skeleton_config, _SKELETON),
    "posec3d_limb": Experiment(recipes.posec3d_limb, _skeleton_config, _SKELETON),
    "posec3d_fusion": Experiment(
        recipes.posec3d_fusion,
        lambda preset: {},
        ("migcore.ensemble", _METRICS, "migcore.recipes:posec3d_fusion"),
        depends=("posec3d_joint", "posec3d_limb"),
    ),
    "difficulty_skeleton": Experiment(recipes.difficulty_skeleton, _difficulty_config, _DIFFICULTY),
    "difficulty_film": Experiment(recipes.difficulty_film, _difficulty_config, _DIFFICULTY),
}
"""All experiments by name."""


def experiment(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in EXPERIMENTS:
        close = difflib.get_close_matches(name, EXPERIMENTS, n=3)
        hint = f"Did you mean {', '.join(close)}?" if close else f"There are {', '.join(EXPERIMENTS)}"
        raise ConfigError(f"no experiment is called {name!r}", hint=hint)
    return EXPERIMENTS[name]


def key(name: str, preset: Preset, seed: int, data: str) -> str:
    """Key of a run (:func:`migcore.ledger.run_key`), with those of the runs it depends on.

    Args:
        name, preset, seed: which run.
        data: :func:`identity` of its clips.
    """
    this = experiment(name)
    depends = {other: key(other, preset, seed, data) for other in this.depends}
    return run_key({**_resolved(name, preset, seed), "depends": depends}, data, list(this.modules))


def _resolved(name: str, preset: Preset, seed: int) -> dict[str, Any]:
    this = experiment(name)
    return canonical({"experiment": name, "seed": seed if this.random else 0, **this.config(preset)})


def lookup(name: str, preset: Preset, seed: int = 0, index: ClipIndex | None = None) -> Run | None:
    """The run of an experiment if there is one; nothing is trained.

    Args:
        name, preset, seed: which run.
        index: its clips, if they are at hand: then a run on these very clips is preferred.

    Returns:
        the run, or the newest one filed under that preset and seed, with ``stale`` set when its code, configuration or
        data are not today's.
    """
    this, book = experiment(name), ledger()
    seed = seed if this.random else 0
    if index is not None:
        run = book.get(key(name, preset, seed, identity(index)))
        if run is not None:
            return run
    found = book.find(name, preset.label, seed)
    if not found:
        return None
    run = found[0]
    inputs = {other: lookup(other, preset, seed, index) for other in this.depends}
    run.stale = (
        run.stale
        or index is not None
        or run.config != _resolved(name, preset, seed)
        or any(i is None or i.stale or i.key != run.depends.get(other) for other, i in inputs.items())
    )
    return run


def run(name: str, preset: Preset, seed: int = 0, *, wait: bool = True) -> Run:
    """Run an experiment, or load its run if its key is in the ledger.

    Args:
        name: one of :data:`EXPERIMENTS`.
        preset: sizes, recipe and data.
        seed: of weights, order and augmentation.
        wait: when another process is making this very run, wait for it and load its result; else refuse.

    Returns:
        the run, with metrics of every split that has labels.

    Raises:
        ConfigError: no such experiment.
        DataError, CheckpointError: data or weights are missing or damaged.
        LedgerError: another process is making this run and ``wait`` is false.
        StorageError: the disk is full; call again to resume.
    """
    experiment(name)
    return _run(name, preset, seed, dataset(preset), wait)


def _run(name: str, preset: Preset, seed: int, index: ClipIndex, wait: bool) -> Run:
    this, book, data = experiment(name), ledger(), identity(index)
    seed = seed if this.random else 0
    this_key = key(name, preset, seed, data)
    found = book.get(this_key)
    if found is not None:
        return found
    inputs = {other: _run(other, preset, seed, index, wait) for other in this.depends}
    accelerator = make_accelerator(preset.train_posec3d)
    planned = Run(
        key=this_key,
        experiment=name,
        preset=preset.label,
        seed=seed,
        config=_resolved(name, preset, seed),
        data=data,
        code=source_hash(this.modules),
        modules=list(this.modules),
        depends={other: r.key for other, r in inputs.items()},
        commit=source_commit(),
        versions=versions(),
    )
    job = Job(
        name=name,
        preset=preset,
        seed=seed,
        index=index,
        folder=book.folder(planned),
        inputs={other: _outputs(book, r) for other, r in inputs.items()},
        main=accelerator.is_main_process,
    )
    with book.writer(planned, wait=wait) if job.main else contextlib.nullcontext(False) as waited:
        found = book.get(this_key) if waited else None
        if found is not None:
            return found
        started = time.perf_counter()
        made = this.make(job)
        planned.seconds = round(time.perf_counter() - started, 3)
        planned.created, planned.device = now(), made.device
        planned.history, planned.extra = made.history, made.extra
        skipped = dict(index.skipped)
        arrays: dict[str, np.ndarray] = {}
        for split, output in made.outputs.items():
            planned.clips[split] = {"ids": output.clips, "subjects": output.subjects}
            planned.metrics[split] = measure(output.logits, output.labels)
            arrays |= {f"{split}.logits": output.logits, f"{split}.labels": output.labels}
            skipped |= dict(output.skipped)
        if skipped:
            planned.extra["skipped"] = skipped
        if job.main:
            book.save(planned, arrays)
            shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)
    accelerator.wait_for_everyone()
    done = book.get(this_key)
    assert done is not None  # just written
    return done


def _outputs(book: Ledger, run: Run) -> dict[str, SplitOutputs]:
    """What a run says about each of its splits."""
    found = {}
    for split, clips in run.clips.items():
        arrays = book.load_arrays(run, split)
        found[split] = SplitOutputs(arrays["logits"], arrays["labels"], clips["ids"], clips["subjects"])
    return found
