"""A folder in iMiGUE's layout, seen as clips (section 2.1 of the paper: films are cut into clips of one gesture each).

::

    from migcore.data.imigue import open_dataset, read_clip_skeleton

    index = open_dataset("PATH/TO/imigue")
    clip = index.split("train")[0]  # clip.label, clip.subject, clip.film …
    keypoints, scores = read_clip_skeleton(clip, index.column_map)  # [T, V, 2] in pixels and [T, V]

What such a folder holds::

    ROOT/NNNN/ or ROOT/<anything>/NNNN/   NNNN_light_hand.csv, NNNN_label.csv, NNNN.mp4 of one film
    ROOT/clips/NNNN_k.mp4                 pre-cut clips; their NNNN_label.csv here or in the folder of the film
    ROOT/splits.csv                       header video,split,subject; without it, the MiGA challenge's validation videos
    ROOT/identity.json                    {"identity": hash, "content": {file: hash}}, where the maker of the data wrote
                                          it and the files are still these; else the identity is computed from them

Notable choices:
* A clip is ``NNNN_k``: k counts the rows of the film's label file from 0, also those that are skipped as damaged.
* Opening looks at every file (rows, columns, frames that films say they have); coordinates and pixels are read on use.
* A film may have any of the usual ends (:data:`~migcore.data.folder.FILMS`: .MP4, .mov …); only its stem is its name.
* Skeleton-only and film-only folders are fine; one where some clips lack what others have is not (``check``).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from migcore.data.checks import check_unit
from migcore.data.files import (
    count_skeleton_rows,
    read_labels_csv,
    read_skeleton_csv,
    scan_labels_csv,
    write_labels_csv,
    write_skeleton_csv,
)
from migcore.data.folder import SPLITS, ChangedDataWarning, Files, find_files, identity_of, read_splits
from migcore.data.layouts import ColumnMap
from migcore.data.layouts import column_map as find_column_map
from migcore.data.video import frame_times, probe
from migcore.errors import ConfigError, DataError
from migcore.labels import CLASSES, NUM_CLASSES

__all__ = [
    "AbsentClassWarning",
    "ChangedDataWarning",
    "ClipIndex",
    "ClipRecord",
    "clip_seconds",
    "open_dataset",
    "read_clip_skeleton",
    "read_labels_csv",
    "read_skeleton_csv",
    "write_labels_csv",
    "write_skeleton_csv",
]

MIGA_VAL = frozenset({"0001", "0002", "0003", "0004", *(f"{v:04d}" for v in range(6, 12))})
"""The 10 validation videos of the MiGA challenge."""
_LEAVE_OUT = "leave what is damaged out with --skip-bad (skip_bad=True in Python)"
UNLABELLED = -1
"""Label of a clip whose label is not known (test clips)."""


class AbsentClassWarning(UserWarning):
    """A split has no clip of some classes: its accuracies say nothing about them."""


@dataclass(frozen=True)
class ClipRecord:
    """One clip: where it is in which film, and what it shows.

    Attributes:
        id: "NNNN_k", unique in a data set.
        video: "NNNN".
        start: first frame in the film, 1-based (1 for a pre-cut clip without label file).
        end: last frame, inclusive.
        label: 0..31, or -1 when it is not known.
        split: "train", "val", "test", or "" when the splits file leaves the video out.
        subject: who is seen, "" when it is not known.
        film: the film or pre-cut clip, if there is one.
        skeleton: the film's skeleton file, if there is one.
    """

    id: str
    video: str
    start: int
    end: int
    label: int
    split: str
    subject: str = ""
    film: Path | None = None
    skeleton: Path | None = None

    @property
    def frames(self) -> int:
        """True length: end - start + 1."""
        return self.end - self.start + 1

    @property
    def film_start(self) -> int:
        """0-based number, in ``film``, of the clip's first frame: 0 in a pre-cut clip."""
        return 0 if self.film is not None and self.film.stem == self.id else self.start - 1


@dataclass(frozen=True)
class ClipIndex:
    """All clips of a data set.

    Attributes:
        root: its folder.
        clips: by video and k.
        column_map: of its skeleton files.
        identity: hash that says which data this is (part of a run's key).
        skipped: (id, reason) of clips left out as damaged; empty unless asked for.
    """

    root: Path
    clips: tuple[ClipRecord, ...]
    column_map: ColumnMap
    identity: str
    skipped: tuple[tuple[str, str], ...] = field(default=())

    def split(self, name: str) -> list[ClipRecord]:
        """Clips of "train", "val" or "test".

        Raises:
            ConfigError: any other name.
        """
        if name not in SPLITS:
            raise ConfigError(f"no split is called {name!r}", hint=f"Splits are {', '.join(SPLITS)}")
        return [clip for clip in self.clips if clip.split == name]

    def labels(self, split: str) -> np.ndarray:
        """[N] int64, the labels of a split in the order of its clips (-1: not known)."""
        return np.array([clip.label for clip in self.split(split)], dtype=np.int64)

    def absent_classes(self, split: str) -> list[int]:
        """Classes 0..31 that have no clip in a split."""
        return sorted(set(range(NUM_CLASSES)) - set(self.labels(split).tolist()))

    def summary(self) -> dict[str, dict[str, int]]:
        """Per split that has clips: how many clips, videos, subjects (known ones), frames, and classes present."""
        table = {}
        for name in SPLITS:
            clips = self.split(name)
            if clips:
                table[name] = {
                    "clips": len(clips),
                    "videos": len({clip.video for clip in clips}),
                    "subjects": len({clip.subject for clip in clips} - {""}),
                    "frames": sum(clip.frames for clip in clips),
                    "classes": NUM_CLASSES - len(self.absent_classes(name)),
                }
        return table


@dataclass
class _Found:
    """Clips on their way into an index, and what is wrong with the others."""

    clips: list[ClipRecord] = field(default_factory=list)
    bad: list[tuple[str, DataError]] = field(default_factory=list)


def _add_labelled(found: _Found, files: Files, video: str, split: str, subject: str, first_frame: int) -> None:
    """The clips of a video's label file."""
    film, skeleton = files.films.get(video), files.skeletons.get(video)
    cut = files.precut.get(video, {})
    try:
        rows = scan_labels_csv(files.labels[video], first_frame=first_frame)
        if not rows:
            hint = "Take the file away if the film has no clips, and the video off splits.csv"
            raise DataError("holds no clip", where=files.labels[video], hint=hint)
    except DataError as error:
        found.bad.append((video, error))
        return
    for k, row in enumerate(rows):
        if isinstance(row, DataError):
            found.bad.append((f"{video}_{k}", row))
        else:
            label, start, end = row
            clip = ClipRecord(f"{video}_{k}", video, start, end, label, split, subject, cut.get(k, film), skeleton)
            found.clips.append(clip)
    for k in sorted(set(cut) - set(range(len(rows)))):
        hint = "Add the row or take the clip away"
        found.bad.append(
            (cut[k].stem, DataError(f"has no row {k + 1} in {files.labels[video]}", where=cut[k], hint=hint))
        )


def _add_unlabelled(found: _Found, files: Files, video: str, split: str, subject: str) -> None:
    """The pre-cut clips of a video without label file."""
    for _, path in sorted(files.precut.get(video, {}).items()):
        try:
            frames = probe(path).frames
            found.clips.append(ClipRecord(path.stem, video, 1, frames, UNLABELLED, split, subject, path))
        except DataError as error:
            found.bad.append((path.stem, error))


def open_dataset(
    root: str | Path,
    *,
    column_map: str = "openpose35",
    check: bool = True,
    skip_bad: bool = False,
    first_frame: int = 1,
) -> ClipIndex:
    """Index the clips of a folder in iMiGUE's layout.

    Args:
        root: the folder; see the head of this module.
        column_map: columns of its skeleton files, "openpose35" or "openpose137".
        check: compare every clip with its skeleton file and film: there if other clips have them, readable, with the
            map's columns, and long enough. Without it, damage shows when a clip is read.
        skip_bad: leave damaged clips out and list them in ``skipped``, instead of raising.
        first_frame: number that label files give a film's first frame (:func:`~migcore.data.files.read_labels_csv`).

    Returns:
        The index. Videos without label file have no clips, except for pre-cut ones (label -1, split "test").

    Raises:
        DataError: the folder holds no data set, a splits, label or identity file is wrong or empty, or a clip is
            damaged; names file and row.
        ConfigError: no column map has that name.

    Warns:
        AbsentClassWarning: a split with labelled clips lacks classes.
        ChangedDataWarning: the folder declares an identity that its files no longer have.
    """
    root, columns = Path(root), find_column_map(column_map)
    files = find_files(root)
    assigned = None if files.splits is None else read_splits(files.splits, files.videos)

    found = _Found()
    for video in sorted(files.videos):
        labelled = video in files.labels
        miga = "test" if not labelled else "val" if video in MIGA_VAL else "train"
        split, subject = (miga, "") if assigned is None else assigned.get(video, ("", ""))
        if labelled:
            _add_labelled(found, files, video, split, subject, first_frame)
        elif split == "train" or (split == "val" and video not in files.precut):
            where, hint = files.place(video), "Add it or take the video off splits.csv"
            found.bad.append((video, DataError(f"has no {video}_label.csv", where=where, hint=hint)))
        elif video in files.precut:  # labels of validation and test may be withheld
            _add_unlabelled(found, files, video, split, subject)
    if check:
        found = _checked(found, files, columns)
    if found.bad and not skip_bad:
        raise found.bad[0][1]

    whole = {video: path for video, path in files.labels.items() if video not in {each for each, _ in found.bad}}
    used = {p for clip in found.clips for p in (clip.film, clip.skeleton) if p} | set(whole.values())
    identity, changed = identity_of(root, [*used, *([] if files.splits is None else [files.splits])], files)
    if changed:
        warnings.warn(changed, ChangedDataWarning, stacklevel=2)
    skipped = tuple((clip_id, str(error)) for clip_id, error in found.bad)
    if skipped:  # other data than the whole: runs on it need a key of their own
        identity = hashlib.sha256("\0".join([identity, *(clip_id for clip_id, _ in skipped)]).encode()).hexdigest()[:32]
    index = ClipIndex(root, tuple(found.clips), columns, identity, skipped)
    _warn_of_absent_classes(index)
    return index


def _once(function: Callable[[Path], int]) -> Callable[[Path], int]:
    """``function``, called once per path; an error is remembered and raised again."""
    known: dict[Path, int | DataError] = {}

    def ask(path: Path) -> int:
        if path not in known:
            try:
                known[path] = function(path)
            except DataError as error:
                known[path] = error
        answer = known[path]
        if isinstance(answer, DataError):
            raise answer
        return answer

    return ask


def _checked(found: _Found, files: Files, columns: ColumnMap) -> _Found:
    """The same, with clips that do not fit their files moved to the bad ones."""
    checked = _Found(bad=list(found.bad))
    lengths = (
        _once(lambda path: count_skeleton_rows(path, columns)),
        _once(lambda path: probe(path, exact=False).frames),
    )
    wanted = any(clip.skeleton for clip in found.clips), any(clip.film for clip in found.clips)
    for clip in found.clips:
        try:
            _check_clip(clip, files, wanted, lengths)
            checked.clips.append(clip)
        except DataError as error:
            checked.bad.append((clip.id, error))
    return checked


def _check_clip(
    clip: ClipRecord,
    files: Files,
    wanted: tuple[bool, bool],
    lengths: tuple[Callable[[Path], int], Callable[[Path], int]],
) -> None:
    """Raise a DataError unless the clip has the (skeleton, film) that are wanted and these have all its frames."""
    needs = (
        (clip.skeleton, f"skeleton file {clip.video}_light_hand.csv", clip.end),
        (clip.film, f"film {clip.video}.mp4", clip.film_start + clip.frames),
    )
    for (path, what, last), want, length in zip(needs, wanted, lengths, strict=True):
        if path is None and want and clip.label != UNLABELLED:
            raise DataError(
                f"clip {clip.id} has no {what}, but others have one",
                where=files.place(clip.video),
                hint=f"Add it, or {_LEAVE_OUT}",
            )
        if path is not None and (frames := length(path)) < last:
            raise DataError(
                f"clip {clip.id} needs frame {last}, but {path.name} has {frames}",
                where=files.labels.get(clip.video, path),
                row=int(clip.id.split("_")[1]) + 1,
                hint=f"Mend the label, complete the file, or {_LEAVE_OUT}",
            )


def _warn_of_absent_classes(index: ClipIndex) -> None:
    for name in SPLITS:
        absent = index.absent_classes(name)
        if absent and (index.labels(name) >= 0).any():
            names = ", ".join(f"{i} {CLASSES[i].name}" for i in absent)
            message = f"{index.root}: split {name} has no clip of {len(absent)} of {NUM_CLASSES} classes: {names}"
            warnings.warn(message, AbsentClassWarning, stacklevel=3)


def clip_seconds(record: ClipRecord) -> float:
    """How long a clip lasts, by the time stamps of its film; 0 where the film tells neither stamps nor a rate.

    Raises:
        DataError: there is no film, it is damaged, or it ends before the clip does.
    """
    if record.film is None:
        raise DataError(f"clip {record.id} has no film", where=record.skeleton, hint="Its seconds are the film's")
    times, last = frame_times(record.film), record.film_start + record.frames
    if last >= len(times):
        message = f"clip {record.id} needs frame {last}, but there are {len(times) - 1}"
        raise DataError(message, where=record.film, hint="Mend the label or complete the file")
    return float(times[last] - times[record.film_start])


@lru_cache(maxsize=8)
def _skeleton_of_film(path: Path, columns: ColumnMap, size: int, time_ns: int) -> tuple[np.ndarray, np.ndarray]:
    keypoints, scores = read_skeleton_csv(path, columns)
    check_unit(keypoints[scores > 0], None, path)
    for array in (keypoints, scores):
        array.setflags(write=False)
    return keypoints, scores


def read_clip_skeleton(record: ClipRecord, column_map: ColumnMap) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints of one clip. The last few films are kept in memory, so reading a film's clips in order parses it once.

    Args:
        record: the clip.
        column_map: columns of its skeleton file.

    Returns:
        keypoints [T, V, 2] float32 in pixels of the film, scores [T, V] float32 in [0, 1], T = ``record.frames``;
        read-only views.

    Raises:
        DataError: there is no skeleton file, it is damaged, its coordinates are no pixels, or it ends before the clip.
    """
    path = record.skeleton
    if path is None:
        raise DataError(
            f"clip {record.id} has no skeleton",
            where=record.film,
            hint=f"Put {record.video}_light_hand.csv into the folder of its film, or use the film alone",
        )
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"skeleton file of clip {record.id} cannot be read ({error.strerror})", where=path) from error
    keypoints, scores = _skeleton_of_film(path, column_map, stat.st_size, stat.st_mtime_ns)
    if record.end > len(keypoints):
        message = f"clip {record.id} ends at frame {record.end}, but the file has {len(keypoints)}"
        raise DataError(message, where=path, hint="Mend the label or complete the file")
    return keypoints[record.start - 1 : record.end], scores[record.start - 1 : record.end]
