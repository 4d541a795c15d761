"""What is wrong with a data set that can be opened all the same: what :mod:`migcore.doctor` tells of its clips.

T frames, V keypoints, H and W pixels. What stops a training is an error, what only spoils it a warning.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from migcore.data.checks import check_unit, inside_film, plain
from migcore.data.folder import CLIP, FILMS, Files
from migcore.data.imigue import ClipIndex, ClipRecord
from migcore.errors import DataError


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        level: "error" or "warning".
        message: what, where and what to do.
        clips: names of the clips it damages, where it damages some.
    """

    level: str
    message: str
    clips: tuple[str, ...] = ()


@dataclass(frozen=True)
class Points:
    """What is kept of a skeleton file once it was read.

    Attributes:
        seen: [T] int64 keypoints of each frame that were found.
        inside: [T] int64 those of them that lie in the film; all of them where its size is not known.
        reach: (x, y) that all but a hundredth of the points stay within, as shares of the film's width and height; None
            without film or points.
        wrong: what :func:`~migcore.data.checks.check_unit` says of them, "" if nothing.
    """

    seen: np.ndarray
    inside: np.ndarray
    reach: tuple[float, float] | None
    wrong: str


def points_of(keypoints: np.ndarray, scores: np.ndarray, size: tuple[int, int] | None, path: Path) -> Points:
    """Look at the keypoints of a film.

    Args:
        keypoints: [T, V, 2] (x, y).
        scores: [T, V]; 0 is missing.
        size: (H, W) of the film, None where it is not known.
        path: the skeleton file.
    """
    seen = (scores > 0) & keypoints.any(-1)
    wrong = ""
    try:
        check_unit(keypoints[seen], None, path)
        check_unit(keypoints[seen], size, path)
    except DataError as error:
        wrong = str(error)
    if size is None:
        return Points(seen.sum(1), seen.sum(1), None, wrong)
    reach = np.quantile(keypoints[seen], 0.99, axis=0) / (size[1], size[0]) if seen.any() else None
    inside = seen & inside_film(keypoints, size)
    return Points(seen.sum(1), inside.sum(1), None if reach is None else (float(reach[0]), float(reach[1])), wrong)


def of_skeletons(index: ClipIndex, points: Mapping[Path, Points]) -> Iterator[Finding]:
    """Files whose keypoints are in another unit, and clips without any or with most of them outside of the film."""
    clips: dict[Path, list[ClipRecord]] = defaultdict(list)
    for clip in index.clips:
        if clip.skeleton is not None and clip.skeleton in points:
            clips[clip.skeleton].append(clip)
    for path, used in clips.items():
        told = points[path]
        if told.wrong:
            yield Finding("error", told.wrong, tuple(clip.id for clip in used))
            continue
        if told.reach is not None and max(told.reach) < 0.5:
            hint = "Are they percent, or pixels of a smaller picture?"
            yield Finding("warning", f"{path}: the keypoints lie in the upper left quarter of the film. {hint}")
        blank, outside = [], []
        for clip in used:
            seen, inside = (int(count[clip.start - 1 : clip.end].sum()) for count in (told.seen, told.inside))
            if not seen:
                blank.append(clip.id)
            elif 2 * inside <= seen:
                outside.append(clip.id)
        if blank:
            message = f"{path}: no keypoint in any frame of these clips: a network of skeletons can only guess"
            yield Finding("warning", message, tuple(blank))
        if outside:
            message = f"{path}: most keypoints of these clips lie outside of the film: DSCNet refuses them"
            yield Finding("warning", message, tuple(outside))


def of_films(index: ClipIndex, files: Files, frames: Mapping[Path, int]) -> Iterator[Finding]:
    """Clips that reach behind the last frame of their film, whatever the film's header promises."""
    for clip in index.clips:
        last = clip.film_start + clip.frames
        if clip.film is not None and last > frames.get(clip.film, last):
            where = f"{files.labels[clip.video]}, row {int(clip.id.split('_')[1]) + 1}"
            message = f"{where}: clip {clip.id} needs frame {last}, but {clip.film.name} has {frames[clip.film]}"
            yield Finding("error", f"{message}. Mend the label or fetch the film again", (clip.id,))


def of_splits(index: ClipIndex, files: Files) -> Iterator[Finding]:
    """Nothing to train, nothing to train on, or clips that nothing uses."""
    if index.clips and not any(clip.film or clip.skeleton for clip in index.clips):
        hint = "Put NNNN.mp4 or NNNN_light_hand.csv into the folders of the videos"
        yield Finding("error", f"{index.root}: no clip has a film or a skeleton: there is nothing to train on. {hint}")
    if not index.split("train"):
        hint = "Give videos with labels to train in splits.csv, if it is not for testing alone"
        yield Finding("warning", f"{index.root}: no clip is in split train. {hint}")
    left_out = [clip for clip in index.clips if not clip.split]
    if left_out:
        names = _some(sorted({clip.video for clip in left_out}))
        message = f"{files.splits}: does not list {names}, whose clips are in no split and not used"
        yield Finding("warning", message, tuple(clip.id for clip in left_out))


def repeats(index: ClipIndex) -> Iterator[Finding]:
    """Clips that are the same frames of the same film under the same label."""
    same = Counter((clip.video, clip.start, clip.end, clip.label) for clip in index.clips if clip.label >= 0)
    for (video, start, end, label), count in same.items():
        if count > 1:
            clips = tuple(c.id for c in index.clips if (c.video, c.start, c.end, c.label) == (video, start, end, label))
            message = f"video {video}: frames {start}-{end} are labelled {label} {count} times. Keep one of the rows"
            yield Finding("warning", message, clips)


def listed(index: ClipIndex) -> Iterator[Finding]:
    """Lists of clips (``*.txt``, a name to a line, as a challenge hands them out): names twice, names without clip."""
    known = {clip.id for clip in index.clips} | {clip for clip, _ in index.skipped}
    for path in sorted(each for each in index.root.iterdir() if each.suffix.lower() == ".txt"):
        hint = "If it lists clips, they were not compared"
        try:
            lines = plain(path.read_bytes(), path).decode("utf-8", errors="replace").split("\n")
        except OSError as error:
            yield Finding("warning", f"{path}: cannot be read ({error.strerror}). {hint}")
            continue
        except DataError as error:
            yield Finding("warning", f"{error}. {hint}")
            continue
        names = [line.strip().split(",")[0].split()[0] for line in lines if line.strip(" \t\r,")]
        names = [Path(name).stem if Path(name).suffix.lower() in FILMS else name for name in names]
        if not names or not all(CLIP.fullmatch(name) for name in names):
            continue
        twice = tuple(name for name, count in Counter(names).items() if count > 1)
        if twice:
            yield Finding("warning", f"{path}: names are listed twice. A cut-off name may hide in one of them", twice)
        absent = tuple(dict.fromkeys(name for name in names if name not in known))
        if absent:
            yield Finding("warning", f"{path}: names of clips that are not in this folder", absent)


def unused(files: Files) -> Iterator[Finding]:
    """Films without labels, and films of a name that says nothing."""
    bare = sorted(video for video in files.folders if video not in files.labels and video not in files.precut)
    if bare:
        yield Finding("warning", f"{len(bare)} films have neither labels nor clips and are not used: {_some(bare)}")
    if files.strays:
        names = _some([str(path) for path in files.strays])
        hint = "A film is called after its folder, NNNN, a pre-cut clip NNNN_k"
        yield Finding("warning", f"{len(files.strays)} films have other names and are not used: {names}. {hint}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
