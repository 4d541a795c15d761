"""Writes the studio as a folder in iMiGUE's own layout: films, skeleton files, label files, splits.

::

    OUT/0001/0001.mp4              H.264, 25 frames per second
    OUT/0001/0001_light_hand.csv   a row a frame: frame number, then 35 × (x, y, score)
    OUT/0001/0001_label.csv        gesture id, first frame, last frame (1-based, inclusive)
    OUT/splits.csv                 video, split, subject (splits share no subject)
    OUT/identity.json              version, configuration, the hash of everything but encoded bytes, and that of each
                                   file as it was written here

Everything after this point is the code that reads iMiGUE. Films are drawn in parallel; a folder that was cut off is
completed, not begun again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from migcore.data.folder import content_of, find_files
from migcore.data.imigue import write_labels_csv, write_skeleton_csv
from migcore.data.writer import FilmWriter
from migcore.errors import ConfigError, StorageError
from migcore.files import write_json, write_text
from migcore.labels import CLASSES, NUM_CLASSES
from migcore.studio import gestures
from migcore.studio.estimator import EstimatorConfig, estimate
from migcore.studio.film import Event, Film, render, stage
from migcore.studio.subjects import draw_scene, draw_subject

STUDIO_VERSION = 1
"""Raised by any change of motion, looks, estimator or captions; a new version voids all runs."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class StudioConfig:
    """What a studio data set holds.

    Attributes:
        size: height and width of the films in pixels (even).
        train_clips, val_clips, test_clips: labelled gestures of each split.
        train_subjects, val_subjects, test_subjects: speakers of each split, one film each.
        fps: frames per second.
        tail: how long the tail of the class frequencies is: a class is drawn in proportion to its iMiGUE count to this
            power (0 uniform, 1 as in iMiGUE).
        floor: clips that each class has at least, as a share of an even distribution.
        min_seconds, median_seconds, max_seconds: of a clip; durations are log-normal between the bounds.
        gap_seconds: mean idle time between two clips.
        seed: of everything.
        estimator: errors of the skeleton file.
    """

    size: int = 64
    train_clips: int = 1000
    val_clips: int = 400
    test_clips: int = 600
    train_subjects: int = 30
    val_subjects: int = 12
    test_subjects: int = 18
    fps: float = 25.0
    tail: float = 0.5
    floor: float = 0.5
    min_seconds: float = 0.6
    median_seconds: float = 1.3
    max_seconds: float = 3.2
    gap_seconds: float = 0.5
    seed: int = 0
    estimator: EstimatorConfig = field(default_factory=EstimatorConfig)

    def __post_init__(self) -> None:
        if self.size < 16 or self.size % 2:
            raise ConfigError(f"studio size {self.size} must be even and at least 16 pixels")
        if not 0 < self.min_seconds <= self.median_seconds <= self.max_seconds:
            raise ConfigError("clip durations must satisfy 0 < min_seconds <= median_seconds <= max_seconds")
        for split in SPLITS:
            clips, subjects = getattr(self, f"{split}_clips"), getattr(self, f"{split}_subjects")
            if subjects < 2 or clips < subjects:
                raise ConfigError(
                    f"split {split!r} needs at least 2 subjects and a clip for each, got {subjects} and {clips}"
                )


@dataclass(frozen=True)
class FilmPlan:
    """One film before it is staged: its name, split, subject and the classes performed, in order."""

    video: str
    split: str
    subject: str
    labels: tuple[int, ...]
    entropy: tuple[int, ...]
    hat: bool
    long_hair: bool
    tie: bool


def class_counts(total: int, tail: float, floor: float) -> np.ndarray:
    """[32] int64 clips of each class that add up to ``total``.

    Proportional to (iMiGUE train + val count) ** tail, not below ``floor`` of an even share while the total allows it.
    """
    share = np.array([g.n_train + g.n_val for g in CLASSES], dtype=np.float64) ** tail
    share = np.maximum(share / share.sum(), floor / NUM_CLASSES)
    share /= share.sum()
    counts = np.floor(share * total).astype(np.int64)
    rest = np.argsort(-(share * total - counts), kind="stable")[: total - int(counts.sum())]
    counts[rest] += 1
    return counts


def plan(config: StudioConfig) -> list[FilmPlan]:
    """The films of a data set: who performs what in which order. Splits share no subject."""
    films: list[FilmPlan] = []
    for index, split in enumerate(SPLITS):
        rng = np.random.default_rng([config.seed, STUDIO_VERSION, index])
        subjects = getattr(config, f"{split}_subjects")
        traits = [{"hat": i % 5 in (0, 2), "long_hair": i % 5 in (1, 2), "tie": i % 2 == 0} for i in range(subjects)]
        wanted = np.repeat(
            np.arange(NUM_CLASSES), class_counts(getattr(config, f"{split}_clips"), config.tail, config.floor)
        )
        shows: list[list[int]] = [[] for _ in range(subjects)]
        picky = sorted(rng.permutation(wanted), key=lambda c: not gestures.requirements(int(c)))
        for label in picky:
            needs = gestures.requirements(int(label))
            able = [i for i in range(subjects) if all(traits[i][k] for k in needs)]
            load = np.array([len(shows[i]) for i in able])
            shows[able[int(rng.choice(np.flatnonzero(load == load.min())))]].append(int(label))
        for i, labels in enumerate(shows):
            number = len(films) + 1
            films.append(
                FilmPlan(
                    video=f"{number:04d}",
                    split=split,
                    subject=f"S{number:03d}",
                    labels=tuple(int(c) for c in rng.permutation(labels)),
                    entropy=(config.seed, STUDIO_VERSION, index, i),
                    **traits[i],
                )
            )
    return films


def stage_film(film: FilmPlan, config: StudioConfig) -> tuple[Film, np.random.SeedSequence]:
    """Everything of a film but its frames, and the seed of its estimator."""
    cast, timing, motion, estimator = np.random.SeedSequence(list(film.entropy)).spawn(4)
    rng = np.random.default_rng(cast)
    subject = draw_subject(rng, hat=film.hat, long_hair=film.long_hair, tie=film.tie)
    scene = draw_scene(rng)
    rng = np.random.default_rng(timing)
    events: list[Event] = []
    at = 0
    for label in film.labels:
        at += 5 + int(rng.exponential(config.gap_seconds) * config.fps)
        seconds = float(np.clip(config.median_seconds * np.exp(0.5 * rng.standard_normal()), config.min_seconds,
                                config.max_seconds))  # fmt: skip
        stop = at + max(4, round(seconds * config.fps))
        events.append(Event(label, at, stop))
        at = stop
    return stage(subject, scene, events, at + 8, config.fps, motion), estimator


def skeleton(film: Film, config: StudioConfig, seeds: np.random.SeedSequence) -> tuple[np.ndarray, np.ndarray]:
    """The estimated skeleton of a staged film: points [T, 35, 2] in pixels, scores [T, 35]."""
    table_y = film.scene.table_y + film.scene.centre[1]
    return estimate(film.pose, table_y, config.size, np.random.default_rng(seeds), config.estimator)


def _write_film(out: Path, film: FilmPlan, config: StudioConfig, threads: int) -> int:
    """Write one film's three files; the film last, since its presence says that the film is done."""
    torch.set_num_threads(threads)
    folder = out / film.video
    staged, seeds = stage_film(film, config)
    points, scores = skeleton(staged, config, seeds)
    write_skeleton_csv(folder / f"{film.video}_light_hand.csv", points, scores)
    write_labels_csv(folder / f"{film.video}_label.csv", [(e.label, e.start + 1, e.stop) for e in staged.events])
    with FilmWriter(folder / f"{film.video}.mp4", (config.size, config.size), config.fps) as writer:
        for frames in render(staged, config.size):
            writer.write(frames.numpy())
    return staged.frames


def _identity(out: Path, films: list[FilmPlan], config: StudioConfig) -> str:
    digest = hashlib.sha256(json.dumps([STUDIO_VERSION, asdict(config)], sort_keys=True).encode())
    for film in films:
        for name in (f"{film.video}_light_hand.csv", f"{film.video}_label.csv"):
            digest.update((out / film.video / name).read_bytes())
    digest.update((out / "splits.csv").read_bytes())
    return digest.hexdigest()[:16]


def is_finished(out: Path) -> bool:
    """Whether a folder holds a whole studio, and what tells its content from another's.

    Raises:
        ConfigError: ``identity.json`` is damaged.
    """
    done = out / "identity.json"
    return done.exists() and "content" in _record(done)


def _record(path: Path) -> dict[str, Any]:
    """What ``identity.json`` or ``recipe.json`` says."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError("is not what `migcore studio` writes", where=path, hint="choose an empty folder")
    return found


def write_studio(out: Path, config: StudioConfig, *, progress: bool = True, workers: int | None = None) -> Path:
    """Write a studio data set, or complete one that was cut off.

    Args:
        out: folder; made if missing.
        config: what to write.
        progress: show a bar.
        workers: processes; default one for each core.

    Returns:
        ``out``.

    Raises:
        ConfigError: ``out`` is a file, or holds a data set of another configuration or version, or other things.
        StorageError: the disk is full; what was written stays and is used by the next call.
        DataError: a file that was written cannot be read.
    """
    out = Path(out)
    films = plan(config)
    recipe = {"studio": STUDIO_VERSION, "config": asdict(config)}
    begun, done = out / "recipe.json", out / "identity.json"
    if out.exists() and not out.is_dir():
        raise ConfigError("is a file", where=out, hint="choose an empty folder, or the name of a new one")
    for path in (done, begun):
        if path.exists():
            found = _record(path)
            if {k: found.get(k) for k in recipe} != json.loads(json.dumps(recipe)):
                raise ConfigError(
                    "this folder holds a studio of another configuration", where=out, hint="choose an empty folder"
                )
            if path == done:
                # Written before contents were kept: the tables can still be held against what they should be.
                if "content" not in found and found.get("identity") == _identity(out, films, config):
                    write_json(done, {**found, "content": content_of(out, find_files(out).all)})
                return out
    if out.exists() and not begun.exists() and any(out.iterdir()):
        raise ConfigError("this folder is not empty and holds no studio", where=out, hint="choose an empty folder")
    write_json(begun, recipe)
    write_text(
        out / "splits.csv", "video,split,subject\n" + "".join(f"{f.video},{f.split},{f.subject}\n" for f in films)
    )
    missing = [f for f in films if not (out / f.video / f"{f.video}.mp4").exists()]
    clips = sum(len(f.labels) for f in missing)
    # A worker spends seconds on importing torch: a few clips are quicker drawn in this process.
    workers = workers or min(os.cpu_count() or 1, 1 + clips // 200)
    workers = max(1, min(workers, len(missing)))
    with tqdm(total=len(missing), desc="studio", unit="film", disable=not progress) as bar:
        if workers == 1:
            for film in missing:
                _write_film(out, film, config, torch.get_num_threads())
                bar.update()
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, mp_context=context) as pool:
                jobs = [pool.submit(_write_film, out, film, config, 1) for film in missing]
                try:
                    for job in as_completed(jobs):
                        job.result()
                        bar.update()
                except BrokenProcessPool as error:
                    raise StorageError(
                        "a process that draws films was ended from outside, or could not start",
                        where=out,
                        hint="Is there memory left? A script that calls this needs `if __name__ == '__main__':`. Run "
                        "it again to complete the folder",
                    ) from error
                except BaseException:
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
    content = content_of(out, find_files(out).all)
    write_json(done, {"identity": _identity(out, films, config), **recipe, "content": content})
    begun.unlink()
    return out
