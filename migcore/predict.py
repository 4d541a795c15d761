"""What is seen in a film of one's own: probabilities of classes over time, from the three streams or from film alone.

::

    from migcore.predict import load_predictor
    found = load_predictor("laptop").predict("me.mp4", "me_light_hand.csv")
    found.top(3)

A film is judged window by window, each as a clip of the data set would be: the same frames of it, the same crop, the
same heat-maps, the same fusion. Nothing is trained here; the weights are those of runs on this machine.

Letters: W windows, C classes, T frames of a film, V keypoints, H W pixels, K views, E embedding.

Choices:

* Windows are as long as gestures are (two seconds) and overlap by half. The last one ends with the film; a film shorter
  than a window is one window.
* Classes of one's own ("name: description") are judged by film alone: the skeleton networks know the 32 and no others.
* Weights trained on the studio's drawn films say nothing about real people, and every answer from them says so.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from migcore import ensemble, experiments
from migcore.data.checks import SCORE_SLACK, check_unit
from migcore.data.datasets import SkeletonClips, collate
from migcore.data.files import read_skeleton_csv
from migcore.data.film import Film, windows
from migcore.data.imigue import UNLABELLED
from migcore.data.layouts import column_map, layout
from migcore.errors import CheckpointError, ConfigError, DataError
from migcore.files import write_text
from migcore.labels import CLASSES, prompts
from migcore.models.clip import TeacherConfig, load_teacher
from migcore.models.froster import Student, video_logits
from migcore.models.posec3d import PoseC3D, PoseC3DConfig
from migcore.models.weights import load_into, load_weights
from migcore.presets import Preset, preset
from migcore.recipes.skeleton import SkeletonStream
from migcore.recipes.student import load_student
from migcore.training import average_views

FILM, JOINTS, LIMBS = "froster_decay", "posec3d_joint_text", "posec3d_limb_text"
"""The experiments whose weights judge."""
STUDIO_NOTE = "the weights were trained on the studio's drawn films: what they say of real people means nothing"
NO_LIE_DETECTOR = "a micro-gesture is a movement, not a motive: see the page on responsible use"


@dataclass(frozen=True)
class Prediction:
    """What is seen in a film, window by window.

    Attributes:
        labels: names of the C classes.
        spans: [W, 2] int64, first frame of each window (0-based) and the one after its last.
        seconds: [W, 2] the same in seconds, by the film's time stamps.
        fps: frames per second, the mean over the film.
        probabilities: [W, C] float64, rows sum to 1.
        streams: what judged, by name, with the weight of each in the fusion.
        notes: what to know before believing it.
    """

    labels: tuple[str, ...]
    spans: np.ndarray
    seconds: np.ndarray
    fps: float
    probabilities: np.ndarray
    streams: Mapping[str, float]
    notes: tuple[str, ...]

    def top(self, k: int = 5, window: int | None = None) -> list[tuple[str, float]]:
        """The k most probable classes of a window, or of the mean over all windows, the best first.

        Raises:
            ConfigError: there is no such window.
        """
        if window is not None and not -len(self.spans) <= window < len(self.spans):
            raise ConfigError(f"no window {window}", hint=f"there are {len(self.spans)}, numbered from 0")
        row = self.probabilities.mean(0) if window is None else self.probabilities[window]
        return [(self.labels[c], float(row[c])) for c in np.argsort(-row, kind="stable")[:k]]

    def to_csv(self) -> str:
        """A row per window: its span in seconds, its class, and the probability of every class."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["start_s", "end_s", "class", *self.labels])
        for (start, end), row in zip(self.seconds, self.probabilities, strict=True):
            best = self.labels[int(row.argmax())]
            writer.writerow([f"{start:.3f}", f"{end:.3f}", best, *(f"{p:.6f}" for p in row)])
        return out.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write :meth:`to_csv` to a file, whole.

        Returns:
            the file's path.

        Raises:
            StorageError: it cannot be written.
        """
        path = Path(path)
        write_text(path, self.to_csv())
        return path


Skeleton = str | Path | tuple[np.ndarray, np.ndarray]
"""A skeleton file, or keypoints [T, V, 2] in pixels of the film and scores [T, V]."""


class Predictor:
    """The three streams with the weights of one seed, or the film's alone.

    Args:
        config: preset of the runs: clips, layouts, fusion.
        student: the film's stream.
        tokenizer: of its texts.
        poses: the skeleton's, by experiment; may be empty.
        weights: of each stream in the fusion, by experiment.
    """

    def __init__(
        self,
        config: Preset,
        student: Student,
        tokenizer: Any,
        poses: Mapping[str, PoseC3D],
        weights: Mapping[str, float],
    ) -> None:
        self.config, self.student, self.tokenizer = config, student, tokenizer
        self.poses, self.weights = dict(poses), dict(weights)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for model in (student, *self.poses.values()):
            model.to(self.device).eval()

    def predict(
        self,
        video: str | Path | Tensor | np.ndarray,
        skeleton: Skeleton | None = None,
        *,
        labels: Sequence[str] = (),
        seconds: float = 2.0,
        stride: float = 1.0,
        fps: float | None = None,
    ) -> Prediction:
        """Judge a film.

        Args:
            video: a path, or [3, T, H, W] uint8 RGB.
            skeleton: of all its frames: a file with the preset's columns, or keypoints [T, V, 2] in pixels of the film
                and scores [T, V] in 0..1; what is not finite counts as missing, which is (0, 0) with score 0. Rows
                behind the film's end are left out, with a note. Without it, the film's stream judges alone.
            labels: classes of one's own instead of the 32, as "name: description" or a name; film alone.
            seconds, stride: of the windows (:func:`~migcore.data.film.windows`).
            fps: frames per second; needed for arrays, and for a file instead of its time stamps.

        Raises:
            DataError: the film or the skeleton is missing, damaged, or they do not fit together: other frames or
                keypoints, a score outside of 0..1, or points that are not in pixels of this film.
            ConfigError: labels with a skeleton, fewer than two of them, one twice; a number out of range; or the
                skeleton's streams have no weights here.
        """
        film = Film.of(video, fps)
        spans = windows(film.times, seconds, stride)
        if labels and skeleton is not None:
            raise ConfigError(
                "classes of one's own are judged by film alone", hint="leave the skeleton out (no --skeleton)"
            )
        if skeleton is not None and not self.poses:
            hint = "leave the skeleton out, or call load_predictor with skeleton=True"
            raise ConfigError("there are no weights of the skeleton's streams here", hint=hint)
        logits = {FILM: self._film(film, spans, _checked_labels(labels))}
        if skeleton is not None:
            keypoints, scores, extra = self._keypoints(skeleton, film)
            unseen = sum(not scores[a:b].any() for a, b in spans)
            logits |= {name: self._pose(name, keypoints, scores, spans) for name in self.poses}
        weights = self.weights if skeleton is not None else {FILM: 1.0}
        fused = ensemble.fuse(logits, weights, kind=self.config.search.kind)
        if self.config.search.kind == "logits":
            fused = np.exp(fused - fused.max(1, keepdims=True))
        notes = [STUDIO_NOTE] if not self.config.data.root else []
        if film.assumed:
            notes.append(f"the film has no time stamps: {film.fps:g} frames a second are assumed (--fps gives others)")
        if skeleton is not None and extra:
            notes.append(f"{extra} rows of the skeleton lie behind the film's end and were left out")
        if skeleton is not None and unseen:
            notes.append(f"{unseen} of {len(spans)} windows have no keypoint at all: there the skeleton streams guess")
        notes.append(NO_LIE_DETECTOR)
        names = tuple(label.split(":", 1)[0].strip() for label in labels) or tuple(g.name for g in CLASSES)
        return Prediction(
            names, spans, film.times[spans], film.fps, fused / fused.sum(1, keepdims=True), weights, tuple(notes)
        )

    @torch.inference_mode()
    def _film(self, film: Film, spans: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """Logits [W, C] of the film's stream: the mean over views, as it is trained and tested."""
        student = self.student
        text_CE = student.classes()
        if labels:
            rows = zip(*(prompts(label) for label in labels), strict=True)
            tokens = torch.stack([self.tokenizer(list(row)) for row in rows]).to(self.device)
            text_CE = student.class_embeddings(tokens)
        found = []
        for span in spans:
            video = student.preprocess(film.view(span, self.config.video).to(self.device))
            frames_KTE = student.visual(video).float()
            logits_KC = video_logits(frames_KTE, text_CE, student.clip.logit_scale, student.config.pool)
            found.append(logits_KC.mean(0).double().cpu().numpy())
        return np.stack(found)

    @torch.inference_mode()
    def _pose(self, name: str, keypoints: np.ndarray, scores: np.ndarray, spans: np.ndarray) -> np.ndarray:
        """Logits [W, C] of a skeleton stream."""
        settings = self.config.skeleton
        parts = [(keypoints[None, a:b], scores[None, a:b]) for a, b in spans]
        names = [f"{a}_{b}" for a, b in spans]
        clips = SkeletonClips.from_arrays(
            names, [p[0] for p in parts], [p[1] for p in parts], [UNLABELLED] * len(names), settings, train=False
        )
        kind = "joint" if name == JOINTS else "limb"
        sizes = settings.train_size, settings.test_size
        stream = SkeletonStream(kind, layout(settings.layout), *sizes, views_at_once=16)  # type: ignore[arg-type]
        found = []
        for position in range(len(clips)):
            batch = {key: value.to(self.device) for key, value in collate([clips[position]]).items()}
            found.append(average_views(stream.predict(self.poses[name], batch))[0].double().cpu().numpy())
        return np.stack(found)

    def _keypoints(self, skeleton: Skeleton, film: Film) -> tuple[np.ndarray, np.ndarray, int]:
        """Keypoints [T, V, 2] and scores [T, V] of all frames of the film, and how many rows were behind its end."""
        where = Path(skeleton) if isinstance(skeleton, (str, Path)) else None
        if where is not None:
            keypoints, scores = read_skeleton_csv(where, column_map(self.config.data.column_map))
        elif not isinstance(skeleton, (tuple, list)) or len(skeleton) != 2:
            raise DataError(f"a skeleton that is a {type(skeleton).__name__}", hint="give a pair (keypoints, scores)")
        else:
            try:
                keypoints, scores = (np.array(part, np.float32) for part in skeleton)
            except ValueError as error:  # rows of different lengths, words
                hint = "give a pair (keypoints, scores)"
                raise DataError(f"a skeleton that is no pair of arrays of numbers ({error})", hint=hint) from error
        joints = layout(self.config.skeleton.layout).num_joints
        extra = len(keypoints) - film.frames
        if extra < 0 or keypoints.shape[1:] != (joints, 2) or scores.shape != keypoints.shape[:-1]:
            raise DataError(
                f"keypoints {list(keypoints.shape)} and scores {list(scores.shape)} for a film of {film.frames} frames",
                where=where,
                hint=f"give a row for every frame of the film (in Python [T, {joints}, 2] and [T, {joints}])",
            )
        keypoints, scores = keypoints[: film.frames], scores[: film.frames]
        missing = ~(np.isfinite(keypoints).all(-1) & np.isfinite(scores))
        keypoints[missing], scores[missing] = 0, 0
        wrong = scores[(scores < -SCORE_SLACK) | (scores > 1 + SCORE_SLACK)]
        if len(wrong):
            raise DataError(f"a score of {wrong[0]:g}", where=where, hint="scores lie in 0..1")
        scores = np.clip(scores, 0, 1)
        check_unit(keypoints[scores > 0], film.size, where)
        return keypoints, scores, extra


def load_predictor(config: str | Preset = "laptop", seed: int = 0, *, skeleton: bool = True) -> Predictor:
    """The streams of the whole method, from runs on this machine.

    Args:
        config: preset of the runs, or its name.
        seed: of the runs.
        skeleton: load the skeleton's streams and the fusion's weights too.

    Raises:
        ConfigError: no such preset, or there is no run with weights here (recorded runs have none).
        CheckpointError: weights are missing or damaged.
    """
    config = preset(config) if isinstance(config, str) else config
    student = load_student(_weights(FILM, config, seed))
    tokenizer = load_teacher(TeacherConfig(name=config.teacher.name, pretrained=config.teacher.pretrained)).tokenizer
    if not skeleton:
        return Predictor(config, student, tokenizer, {}, {FILM: 1.0})
    found = experiments.ledger().find("ours", config.label, seed)
    if not found:
        raise ConfigError(
            f"the fusion's weights of preset {config.label}, seed {seed}, are not known", hint=_advice(config, seed)
        )
    poses = {name: load_posec3d(_weights(name, config, seed)) for name in (JOINTS, LIMBS)}
    return Predictor(config, student, tokenizer, poses, found[0].extra["weights"])


def load_posec3d(file: Path) -> PoseC3D:
    """The skeleton network of a run, in evaluation mode on the CPU.

    Args:
        file: ``weights.safetensors`` of the run's folder.

    Raises:
        CheckpointError: the file is missing, damaged, or holds no such network.
    """
    state, meta = load_weights(file)
    if not str(meta.get("experiment", "")).startswith("posec3d"):
        raise CheckpointError("these are no skeleton network's weights", where=file, hint="give those of a posec3d run")
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in meta["model"].items()}
    model = PoseC3D(PoseC3DConfig(**settings))
    load_into(model, state, file)
    return model.eval()


def _weights(name: str, config: Preset, seed: int) -> Path:
    """The newest weight file of an experiment."""
    for run in experiments.ledger().find(name, config.label, seed):
        if experiments.has_weights(run):
            assert run.folder is not None
            return run.folder / experiments.WEIGHTS
    missing = f"there are no weights of {name}, preset {config.label}, seed {seed}, on this machine"
    raise ConfigError(missing, hint=_advice(config, seed))


def _advice(config: Preset, seed: int) -> str:
    data = ["--data", config.data.root] if config.data.root else []
    changes = [f"--set={name}={value}" for name, value in config.overrides]
    words = ["--preset", config.name, "--seed", str(seed), *data, *changes, "--weights"]
    return f"train them: migcore train ours {shlex.join(words)}"


def _checked_labels(labels: Sequence[str]) -> Sequence[str]:
    names = [label.split(":", 1)[0].strip().lower() for label in labels]
    if labels and (len(set(names)) < len(names) or len(names) < 2 or "" in names):
        hint = 'give two or more with different names, as "name: what is seen"'
        raise ConfigError(f"classes {', '.join(labels)!r}", hint=hint)
    return labels
