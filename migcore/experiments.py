"""The experiments by name, and their runs: made, or loaded from the ledger.

::

    from migcore import experiments
    run = experiments.run("posec3d_joint", "smoke", seed=0)  # or a preset with changes: presets.preset("smoke", {…})
    run.metrics["test"]["top1"]

This is the one place that says which preset fields, which modules and which other runs decide an experiment's numbers;
what it does is in :mod:`migcore.recipes`. A run whose key is in the ledger is loaded, not repeated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from migcore import presets, recipes
from migcore.data.folds import hold_out
from migcore.data.imigue import AbsentClassWarning, ClipIndex, open_dataset
from migcore.errors import ConfigError
from migcore.files import expanded, locked
from migcore.ledger import (
    Ledger,
    Run,
    canonical,
    now,
    run_key,
    run_name,
    source_commit,
    source_hash,
    source_root,
    versions,
)
from migcore.models.backbone import pretrained_identity
from migcore.presets import DataConfig, Preset
from migcore.recipes import Job, Made, SplitOutputs, measure
from migcore.recipes.needs import Need, check_needs
from migcore.recipes.skeleton import TEXTS_FROM
from migcore.recipes.student import init_identity, without_decay
from migcore.studio.dataset import STUDIO_VERSION, is_finished, write_studio
from migcore.training import first_says, launched, make_accelerator
from migcore.watch import in_notebook, watched

WEIGHTS = "weights.safetensors"
"""File of a run's folder that holds its trained weights; recorded runs have none."""
CHECKPOINTS = "checkpoints"
"""Folder of a run's folder, as long as it is being made."""


def runs_folder() -> Path:
    """``$MIGCORE_RUNS``, with ``~`` for the home folder; or ``runs`` in the current folder.

    In a folder inside of a source checkout it is the checkout's, so that notebooks opened where they lie find the runs.
    """
    if told := os.environ.get("MIGCORE_RUNS"):
        return expanded(told)
    root, here = source_root(), Path.cwd()
    return root / "runs" if root is not None and root in here.parents else Path("runs")


def ledger() -> Ledger:
    """The ledger of :func:`runs_folder`, with the recorded runs of ``results/`` when in a source checkout."""
    root = source_root()
    return Ledger(runs_folder(), None if root is None else root / "results")


def _preset(given: Preset | str) -> Preset:
    """A preset, also from its name. ConfigError if it is neither."""
    if isinstance(given, str):
        return presets.preset(given)
    if not isinstance(given, Preset):
        raise ConfigError(f"a preset that is a {type(given).__name__}", hint='give preset("laptop"), or its name')
    return given


def _seed(given: int) -> int:
    """A seed. ConfigError if it is none."""
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or not 0 <= given < 2**63:
        raise ConfigError(f"seed {given!r}", hint="seeds are whole numbers, 0 or more")
    return int(given)


def data_folder(preset: Preset | str) -> Path:
    """Folder of a preset's clips: ``data.root``, else that of its studio under :func:`runs_folder`.

    Args:
        preset: itself, or its name.

    Raises:
        ConfigError: the preset has neither.
    """
    preset = _preset(preset)
    if preset.data.root:
        return expanded(preset.data.root)
    if preset.studio is None:
        raise ConfigError(
            f"preset {preset.name} needs a folder of clips",
            hint="Give it with --data ROOT (or --set data.root=ROOT); iMiGUE is had from its authors, never downloaded",
        )
    recipe = json.dumps([STUDIO_VERSION, canonical(preset.studio)], sort_keys=True)
    return runs_folder() / "data" / f"studio-{preset.name}-{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"


def dataset(preset: Preset | str) -> ClipIndex:
    """The clips of a preset; its studio is made first if it is not there yet (minutes; it can be interrupted).

    With ``data.fold`` a part of the training subjects is its validation split (:func:`migcore.data.folds.hold_out`).

    Args:
        preset: itself, or its name.

    Raises:
        ConfigError: the preset names no data, or asks for a fold of clips that have a validation split, or too few
            subjects.
        DataError: the folder is not as it should be, or a clip is damaged and ``data.skip_bad`` is not set.
        StorageError: the disk is full.
    """
    preset = _preset(preset)
    folder = data_folder(preset)
    if not preset.data.root and not is_finished(folder):
        assert preset.studio is not None  # data_folder has seen to it
        with locked(folder.with_name(f"{folder.name}.lock"), wait=True, what="the studio"):
            if not is_finished(folder):
                write_studio(folder, preset.studio, progress=sys.stderr.isatty() or in_notebook())
    config = preset.data
    opened = functools.partial(
        open_dataset, folder, column_map=config.column_map, skip_bad=config.skip_bad, first_frame=config.first_frame
    )
    if not config.fold:
        return opened()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AbsentClassWarning)  # hold_out says what the splits lack as they become
        index = opened()
    return hold_out(index, config.fold)


def dataset_at_hand(preset: Preset | str) -> ClipIndex | None:
    """The clips of a preset if they are on this machine; nothing is made.

    Raises:
        DataError: as :func:`dataset`.
    """
    preset = _preset(preset)
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
        texts: its runs keep class embeddings.
        weights: its runs keep trained weights; a fusion has none but those of what it depends on.
        needs: what it cannot do without in the data, beside what the experiments need that it depends on.
    """

    make: Callable[[Job], Made]
    config: Callable[[Preset], dict[str, Any]]
    modules: tuple[str, ...]
    depends: tuple[str, ...] = ()
    random: bool = True
    texts: bool = False
    weights: bool = True
    needs: tuple[Need, ...] = ("train",)


def _skeleton_config(preset: Preset) -> dict[str, Any]:
    return {
        "column_map": preset.data.column_map,
        "skeleton": preset.skeleton,
        "posec3d": preset.posec3d,
        "train": preset.train_posec3d,
    }


def _teacher_config(preset: Preset) -> dict[str, Any]:
    return {"video": preset.video, "teacher": preset.teacher.identity, "precision": preset.teacher.precision}


def _student_config(preset: Preset) -> dict[str, Any]:
    start = {"init": init_identity(preset.init)} if preset.init else {}
    return {**_teacher_config(preset), "student": preset.student, "train": preset.train_student, **start}


def _whole_student_config(preset: Preset) -> dict[str, Any]:
    return {**_student_config(preset), "student": without_decay(preset.student)}


def _plain_student_config(preset: Preset) -> dict[str, Any]:
    # Without distillation its weight and projectors decide nothing.
    student = dataclasses.replace(without_decay(preset.student), distill="none", alpha=0.0, beta=0.0)
    return {**_student_config(preset), "student": student}


def _aligned_config(preset: Preset) -> dict[str, Any]:
    return {**_skeleton_config(preset), "alignment": preset.alignment}


def _probe_config(preset: Preset) -> dict[str, Any]:
    return {**_teacher_config(preset), "probe": preset.probe}


def _baseline_config(name: str) -> Callable[[Preset], dict[str, Any]]:
    """Column map, clips, model and recipe of one of Table 1's other systems."""

    def config(preset: Preset) -> dict[str, Any]:
        found = preset.baselines
        return {
            "column_map": preset.data.column_map,
            "clips": getattr(found, f"{name}_clips"),
            "model": getattr(found, name),
            "train": getattr(found, f"train_{name}"),
        }

    return config


def _film_config(name: str) -> Callable[[Preset], dict[str, Any]]:
    """The same of a system that reads the clips of the preset's ``video``."""

    def config(preset: Preset) -> dict[str, Any]:
        found = preset.baselines
        return {"video": preset.video, "model": getattr(found, name), "train": getattr(found, f"train_{name}")}

    return config


def _trn_config(preset: Preset) -> dict[str, Any]:
    return {**_film_config("trn")(preset), "backbone": pretrained_identity(preset.baselines.trn.pretrained)}


def _dense_config(preset: Preset) -> dict[str, Any]:
    return {**_baseline_config("dense")(preset), "backbone": pretrained_identity(preset.baselines.dense.pretrained)}


def _difficulty_config(preset: Preset) -> dict[str, Any]:
    return {"difficulty": preset.difficulty, "size": preset.video.size, "column_map": preset.data.column_map}


# The index of clips is part of the data's identity, so of the readers only what reads a clip's content decides numbers.
_METRICS = "migcore.metrics:classification,confusion,_rank_of_truth"
_CLIPS = ("migcore.data.augment", "migcore.data.datasets", "migcore.data.sampling", _METRICS)
_DECODING = ("migcore.data.containers", "migcore.data.timeline", "migcore.data.video")
_SKELETON = (
    *_CLIPS,
    "migcore.data.files:read_skeleton_csv",
    "migcore.data.imigue:read_clip_skeleton,_skeleton_of_film",
    "migcore.data.layouts",
    "migcore.heatmaps",
    "migcore.models.posec3d",
    "migcore.training",
    "migcore.models.shares",
    "migcore.recipes.job:summary,measure",
    "migcore.recipes.skeleton",
)
_VIDEO = (
    *_CLIPS,
    *_DECODING,
    "migcore.labels",
    "migcore.models.clip",
    "migcore.training:average_views",
    "migcore.recipes.clip:_frames",
)
_STUDENT = (
    *_CLIPS,
    *_DECODING,
    "migcore.labels",
    "migcore.models.clip",
    "migcore.models.froster",
    "migcore.models.reduction",
    "migcore.models.vclip",
    "migcore.models.interpolate:running_average",
    "migcore.training",
    "migcore.models.shares",
    "migcore.recipes.job:summary,measure",
    "migcore.recipes.student",
)

_EVEN_FUSION = (
    "migcore.ensemble:fuse,_checked,_softmax",
    _METRICS,
    "migcore.recipes.fusion:same_clips,_fused,even_fusion",
)
_KEYPOINTS = (
    "migcore.data.files:read_skeleton_csv",
    "migcore.data.imigue:read_clip_skeleton,_skeleton_of_film",
    "migcore.data.layouts",
)
_TRAINING = ("migcore.training", "migcore.models.shares", "migcore.recipes.job:summary,measure")
_FILM = (*_CLIPS, *_DECODING, *_TRAINING)


def _baseline_modules(name: str, *helpers: str) -> tuple[str, ...]:
    names = ",".join(["_train", "_films", *helpers, f"make_{name}", name])
    return f"migcore.models.{name}", f"migcore.recipes.baselines:{names}"


def _sequence_modules(name: str) -> tuple[str, ...]:
    own = f"migcore.recipes.baselines:_train,_sequences,_as_it_is,make_{name},{name}"
    return (*_CLIPS, *_KEYPOINTS, *_TRAINING, "migcore.data.sequences", f"migcore.models.{name}", own)


_DIFFICULTY = (*_DECODING, *_CLIPS, "migcore.studio.probes", "migcore.recipes.difficulty")

EXPERIMENTS: dict[str, Experiment] = {
    "zero_shot": Experiment(
        recipes.zero_shot,
        _teacher_config,
        (*_VIDEO, "migcore.recipes.clip:zero_shot"),
        random=False,
        weights=False,
        needs=("judged",),
    ),
    "linear_probe": Experiment(
        recipes.linear_probe,
        _probe_config,
        (*_VIDEO, "migcore.recipes.clip:linear_probe,fit_linear"),
        weights=False,
        needs=("train", "subjects", "judged"),
    ),
    "posec3d_joint": Experiment(recipes.posec3d_joint, _skeleton_config, _SKELETON),
    "posec3d_limb": Experiment(recipes.posec3d_limb, _skeleton_config, _SKELETON),
    "posec3d_fusion": Experiment(
        recipes.even_fusion,
        lambda preset: {},
        _EVEN_FUSION,
        depends=("posec3d_joint", "posec3d_limb"),
        weights=False,
        needs=("judged",),
    ),
    "stgcn": Experiment(recipes.stgcn, _baseline_config("stgcn"), _sequence_modules("stgcn")),
    "hyperformer": Experiment(
        recipes.hyperformer,
        _baseline_config("hyperformer"),
        (*_sequence_modules("hyperformer"), "migcore.models.stgcn"),  # whose distances it takes
    ),
    "trn": Experiment(
        recipes.trn, _trn_config, (*_FILM, "migcore.models.backbone", *_baseline_modules("trn", "_pixels"))
    ),
    "evl": Experiment(
        recipes.evl,
        lambda preset: {**_teacher_config(preset), **_film_config("evl")(preset)},
        (*_FILM, "migcore.models.clip", *_baseline_modules("evl")),
    ),
    "dscnet_dense": Experiment(
        recipes.dscnet_dense,
        _dense_config,
        (
            *_FILM,
            *_KEYPOINTS,
            "migcore.data.dense",
            "migcore.models.backbone",
            "migcore.models.dscnet",
            "migcore.recipes.baselines:_train,_pixels,make_dense,dscnet_dense",
        ),
    ),
    "dscnet_sparse": Experiment(
        recipes.dscnet_sparse,
        _baseline_config("sparse"),
        (
            *_CLIPS,
            *_KEYPOINTS,
            *_TRAINING,
            "migcore.data.sequences",
            "migcore.models.backbone",
            "migcore.models.dscnet",
            "migcore.recipes.baselines:_train,_sequences,make_sparse,dscnet_sparse",
        ),
    ),
    "dscnet": Experiment(
        recipes.even_fusion,
        lambda preset: {},
        _EVEN_FUSION,
        depends=("dscnet_dense", "dscnet_sparse"),
        weights=False,
        needs=("judged",),
    ),
    "vclip": Experiment(recipes.vclip, _plain_student_config, _STUDENT, texts=True),
    "froster": Experiment(recipes.froster, _whole_student_config, _STUDENT, texts=True),
    "froster_decay": Experiment(recipes.froster_decay, _student_config, _STUDENT, texts=True),
    "posec3d_joint_text": Experiment(recipes.posec3d_joint_text, _aligned_config, _SKELETON, depends=(TEXTS_FROM,)),
    "posec3d_limb_text": Experiment(recipes.posec3d_limb_text, _aligned_config, _SKELETON, depends=(TEXTS_FROM,)),
    "ours": Experiment(
        recipes.ours,
        lambda preset: {"search": preset.search},
        ("migcore.ensemble", _METRICS, "migcore.recipes.fusion:same_clips,_fused,ours"),
        depends=("froster_decay", "posec3d_joint_text", "posec3d_limb_text"),
        weights=False,
        needs=("val",),
    ),
    "difficulty_skeleton": Experiment(
        recipes.difficulty_skeleton, _difficulty_config, _DIFFICULTY, weights=False, needs=("train", "judged", "batch")
    ),
    "difficulty_film": Experiment(
        recipes.difficulty_film, _difficulty_config, _DIFFICULTY, weights=False, needs=("train", "judged", "batch")
    ),
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


def _check(name: str, preset: Preset, index: ClipIndex, judged: bool = False) -> None:
    """Raise, before anything is trained, unless the clips have what an experiment and all that it depends on need."""
    check_needs(name, (*experiment(name).needs, *(("judged",) if judged else ())), index, preset)
    for other in experiment(name).depends:
        _check(other, preset, index)


def key(name: str, preset: Preset | str, seed: int, data: str) -> str:
    """Key of a run (:func:`migcore.ledger.run_key`), with those of the runs it depends on.

    Args:
        name, preset, seed: which run, as for :func:`run`.
        data: :func:`identity` of its clips.

    Raises:
        ConfigError: no such experiment, preset or seed.
    """
    this, preset, seed = experiment(name), _preset(preset), _seed(seed)
    depends = {other: key(other, preset, seed, data) for other in this.depends}
    return run_key({**_resolved(name, preset, seed), "depends": depends}, data, list(this.modules))


def _resolved(name: str, preset: Preset, seed: int) -> dict[str, Any]:
    this = experiment(name)
    return canonical({"experiment": name, "seed": seed if this.random else 0, **this.config(preset)})


def lookup(name: str, preset: Preset | str, seed: int = 0, index: ClipIndex | None = None) -> Run | None:
    """The run of an experiment if there is one; nothing is trained.

    Args:
        name, preset, seed: which run, as for :func:`run`.
        index: its clips, if they are at hand: then a run on these very clips is preferred.

    Returns:
        the run, or the newest one filed under that preset and seed, with ``stale`` set when its code, configuration or
        data are not today's.

    Raises:
        ConfigError: no such experiment, preset or seed.
        LedgerError: a record is damaged.
    """
    this, book, preset, seed = experiment(name), ledger(), _preset(preset), _seed(seed)
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


def run(name: str, preset: Preset | str, seed: int = 0, *, wait: bool = True, weights: bool = False) -> Run:
    """Run an experiment, or load its run if its key is in the ledger.

    Args:
        name: one of :data:`EXPERIMENTS`.
        preset: sizes, recipe and data; a preset, or the name of one.
        seed: of weights, order and augmentation, 0 or more.
        wait: when another process is making this very run, wait for it and load its result; else refuse.
        weights: the trained weights are wanted too: a recorded run, which has none, is made again (of a fusion, those
            that it depends on).

    Returns:
        the run, with metrics of every split that has labels.

    Raises:
        ConfigError: no such experiment, preset or seed.
        DataError, CheckpointError: data or weights are missing or damaged; the clips lack a split or labels that the
            experiment needs, or one that it depends on (told before anything is trained).
        LedgerError: another process is making this run and ``wait`` is false; the record of this run is damaged.
        StorageError: the disk is full; call again to resume.
    """
    experiment(name)
    preset, seed = _preset(preset), _seed(seed)
    index = dataset(preset)
    _check(name, preset, index)
    return _run(name, preset, seed, index, wait, weights)


def run_all(
    names: Sequence[str],
    preset: Preset | str,
    seed: int = 0,
    *,
    processes: int = 2,
    weights: bool = False,
    judged: bool = False,
) -> dict[str, Run]:
    """Run several experiments of a preset side by side (:func:`run_many`).

    Returns:
        the runs by name.
    """
    names = list(dict.fromkeys(names))
    jobs = [(name, preset) for name in names]
    made = run_many(jobs, seed, processes=processes, weights=weights, judged=judged)
    return dict(zip(names, made, strict=True))


def run_many(
    jobs: Sequence[tuple[str, Preset | str]],
    seed: int = 0,
    *,
    processes: int = 2,
    weights: bool = False,
    judged: bool = False,
) -> list[Run]:
    """Run several experiments, those that can be side by side in processes of their own.

    Two processes of one thread each train small networks faster than one of two threads. With an accelerator, or one
    core, the experiments follow one another in this process.

    Args:
        jobs: experiments, each with its preset; what they depend on and is not in the ledger is made first.
        seed: of all of them.
        processes: at most.
        weights: as for :func:`run`, of the named ones.
        judged: numbers are wanted: clips of which none is of validation or test are refused, also where an experiment
            could be trained on them.

    Returns:
        the runs, in the order of the jobs.

    Raises:
        as :func:`run`.
    """
    return _run_many([(name, _preset(preset)) for name, preset in jobs], _seed(seed), processes, weights, judged)


def _run_many(
    jobs: Sequence[tuple[str, Preset]], seed: int, processes: int, weights: bool, judged: bool = False
) -> list[Run]:
    opened: dict[tuple[Path, DataConfig], ClipIndex] = {}  # once for all: real data take a while

    def index_of(preset: Preset) -> ClipIndex:
        where = data_folder(preset), preset.data
        if where not in opened:
            opened[where] = dataset(preset)
        return opened[where]

    for name, preset in jobs:
        _check(name, preset, index_of(preset), judged)
    fused = [(other, p) for name, p in jobs if not experiment(name).weights for other in experiment(name).depends]
    if weights and fused:
        _run_many(fused, seed, processes, weights=True)
    wanted: dict[str, tuple[str, Preset]] = {}  # by key: variants of a preset may share a run
    first: dict[str, tuple[str, Preset]] = {}
    for name, preset in jobs:
        data = identity(index_of(preset))
        this = key(name, preset, seed, data)
        found = ledger().get(this)
        if found is None or (weights and _lacks_weights(found)):
            wanted[this] = name, preset
            first |= {key(other, preset, seed, data): (other, preset) for other in experiment(name).depends}
    if missing := [job for this, job in first.items() if ledger().get(this) is None]:
        _run_many(missing, seed, processes, weights=False)
        wanted = {this: job for this, job in wanted.items() if this not in first or weights}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if min(len(wanted), processes, cores) > 1 and not torch.cuda.is_available() and launched() == 1:
        threads = max(1, cores // min(len(wanted), processes))
        context = multiprocessing.get_context("spawn")
        ways = {this: (name, seed if experiment(name).random else 0) for this, (name, _) in wanted.items()}
        twice = len({name for name, _ in ways.values()}) < len(ways)
        folders = {
            f"{name} {this[:4]}" if twice else name: runs_folder() / run_name(name, number, this) / CHECKPOINTS
            for this, (name, number) in ways.items()
        }
        pool = ProcessPoolExecutor(
            min(len(wanted), processes), mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)
        )
        with watched(folders), pool:
            for done in [pool.submit(run, name, preset, seed, weights=weights) for name, preset in wanted.values()]:
                done.result()
    return [_run(name, preset, seed, index_of(preset), True, weights) for name, preset in jobs]


def _run(name: str, preset: Preset, seed: int, index: ClipIndex, wait: bool, weights: bool = False) -> Run:
    this, book, data = experiment(name), ledger(), identity(index)
    seed = seed if this.random else 0
    if weights and not this.weights:
        for other in this.depends:
            _run(other, preset, seed, index, wait, weights)
    this_key = key(name, preset, seed, data)
    accelerator = make_accelerator(preset.train_posec3d)
    found = first_says(accelerator, lambda: book.get(this_key))
    if found is not None and not (weights and _lacks_weights(found)):
        return found
    inputs = {other: _run(other, preset, seed, index, wait) for other in this.depends}
    accelerator = make_accelerator(preset.train_posec3d)  # another recipe may have made one of its own
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
        texts={o: book.load_arrays(r, "text")["embeddings"] for o, r in inputs.items() if EXPERIMENTS[o].texts},
        main=accelerator.is_main_process,
    )
    with contextlib.ExitStack() as held:

        def made_meanwhile() -> Run | None:
            """Be the one that writes this run; its record, if another process has finished it while this one waited."""
            waited = held.enter_context(book.writer(planned, wait=wait))
            return book.get(this_key) if waited else None

        found = first_says(accelerator, made_meanwhile)
        if found is not None:
            return found
        started = time.perf_counter()
        with watched({name: job.folder / CHECKPOINTS}):
            made = this.make(job)
        trained = sum(row.get("seconds", 0.0) for row in made.history)  # also before this process resumed it
        planned.seconds = round(max(time.perf_counter() - started, trained), 3)
        planned.created, planned.device = now(), made.device
        planned.history, planned.extra = made.history, made.extra
        skipped = dict(index.skipped)
        arrays = dict(made.arrays)
        for split, output in made.outputs.items():
            planned.clips[split] = {"ids": output.clips, "subjects": output.subjects}
            planned.metrics[split] = measure(output.logits, output.labels)
            arrays |= {f"{split}.logits": output.logits, f"{split}.labels": output.labels}
            skipped |= dict(output.skipped)
        if skipped:
            planned.extra["skipped"] = skipped
        if job.main:
            book.save(planned, arrays)
            shutil.rmtree(job.folder / CHECKPOINTS, ignore_errors=True)
    accelerator.wait_for_everyone()
    done = book.get(this_key)
    assert done is not None  # just written
    return done


def has_weights(run: Run) -> bool:
    """Whether the trained weights of a run are on this machine."""
    return run.folder is not None and (run.folder / WEIGHTS).is_file()


def _lacks_weights(run: Run) -> bool:
    return EXPERIMENTS[run.experiment].weights and not has_weights(run)


def _outputs(book: Ledger, run: Run) -> dict[str, SplitOutputs]:
    """What a run says about each of its splits."""
    found = {}
    for split, clips in run.clips.items():
        arrays = book.load_arrays(run, split)
        found[split] = SplitOutputs(arrays["logits"], arrays["labels"], clips["ids"], clips["subjects"])
    return found
