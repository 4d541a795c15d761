"""What state a data set and a machine are in, told before hours are spent on them (``migcore doctor``).

Where :func:`.open_dataset` stops at the first thing that is wrong, this reads every file and lists all of it by name,
with what only shows in the whole: films and skeleton files of different lengths, keypoints that are no pixels of their
film, clips without keypoints, clips listed twice, the hand that keypoints 12–16 belong to, and counts beside those of
iMiGUE as published.

Findings are "error" (training would stop, or leave the clip out with ``skip_bad``) or "warning" (it would run, perhaps
not on what you think).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from migcore.data.files import read_skeleton_csv
from migcore.data.findings import (
    Finding,
    Points,
    listed,
    of_films,
    of_skeletons,
    of_splits,
    points_of,
    repeats,
    unused,
)
from migcore.data.folder import CLIP, Files, find_files
from migcore.data.imigue import AbsentClassWarning, ChangedDataWarning, ClipIndex, clip_seconds, open_dataset
from migcore.data.layouts import ColumnMap, column_map, fitting_column_map, imigue22
from migcore.data.video import FilmInfo, check_pictures, probe, read_frames
from migcore.errors import DataError
from migcore.experiments import runs_folder

PUBLISHED: Mapping[str, int] = {"clips": 18_499, "videos": 359, "subjects": 72}
"""iMiGUE as its paper describes it."""
PUBLISHED_MIGA: Mapping[str, Mapping[str, int]] = {
    "train": {"clips": 12_893, "videos": 241},
    "val": {"clips": 777, "videos": 10},
    "test": {"clips": 4_562, "videos": 104},
}
"""The MiGA challenge's split, counted from the organisers' files; 267 clips of the paper's are in none of them."""
PUBLISHED_SECONDS = (0.18, 2.55, 80.92)
"""Shortest, mean and longest clip, from the paper (section 3.1)."""
PACKAGES = ("migcore", "torch", "torchvision", "open_clip_torch", "timm", "numpy", "pandas", "av", "safetensors")
_AT_ONCE = 256
"""Frames that are decoded and dropped again when every picture is looked at."""


@dataclass
class Report:
    """What was found out.

    Attributes:
        machine: versions, device, memory and space.
        root: the folder, "" without one.
        layout: how it is laid out, in words.
        counts: per split and in "all": clips, videos, subjects, classes present.
        published: the same of iMiGUE, where that compares.
        seconds: of clips, shortest, mean and longest; empty without films.
        fingers: hand that keypoints 12–16 are nearer to: share of frames for "organisers" and for "mmn" (the names that
            :func:`.imigue22` takes), and how many frames could tell.
        findings: errors first.
    """

    machine: dict[str, str]
    root: str = ""
    layout: dict[str, str] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    published: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: tuple[float, ...] = ()
    fingers: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """Findings that stop a training."""
        return [finding for finding in self.findings if finding.level == "error"]

    def to_json(self) -> str:
        """All of it, for programs."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    def to_text(self) -> str:
        """All of it, for people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from _block("machine", self.machine)
        if not self.root:
            return
        yield from _block("data set", {"root": self.root, **self.layout})
        if self.counts:
            yield from _block("counts", {name: _count_line(name, self) for name in self.counts})
        if self.seconds:
            found, paper = (" / ".join(f"{s:.2f}" for s in times) for times in (self.seconds, PUBLISHED_SECONDS))
            yield f"  {'seconds':15s} {found} shortest, mean, longest   (iMiGUE: {paper})"
        if self.fingers:
            yield from _block("fingers", {"12-16": self._hand()})
        yield f"findings: {len(self.errors)} errors, {len(self.findings) - len(self.errors)} warnings"
        for finding in self.findings:
            names = ", ".join(finding.clips[:3]) + (", …" if len(finding.clips) > 3 else "")
            damaged = f" [{len(finding.clips)} clip{'s' if len(finding.clips) > 1 else ''}: {names}]"
            yield f"  {finding.level:8s} {finding.message}{damaged if finding.clips else ''}"

    def _hand(self) -> str:
        shares = {name: share for name, share in self.fingers.items() if name != "frames"}
        if not self.fingers["frames"]:
            return "no frame has them and both wrists"
        name = max(shares, key=lambda each: shares[each])
        wrist = {"organisers": "HandRight (7)", "mmn": "HandLeft (4)"}[name]
        layout = imigue22(name).name
        frames = f"{self.fingers['frames']:.0f} frames"
        return f"nearer to {wrist} in {shares[name]:.1%} of {frames}: skeleton.layout={layout}"


def _block(title: str, entries: Mapping[str, str]) -> Iterator[str]:
    yield title
    for name, value in entries.items():
        yield f"  {name:15s} {value}"


def _count_line(split: str, report: Report) -> str:
    told = report.published.get(split, {})
    return "  ".join(
        f"{value} {name}{f' (iMiGUE: {told[name]})' if name in told else ''}"
        for name, value in report.counts[split].items()
    )


def examine_machine(folder: Path | None = None) -> dict[str, str]:
    """Versions, device, memory, and space where runs are written.

    Args:
        folder: of the runs; default that of the ledger. It need not exist.
    """
    found = {"system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
        found["device"] = ", ".join(f"{card.name} ({card.total_memory / 2**30:.0f} GiB)" for card in cards)
    else:
        found["device"] = f"cpu ({torch.get_num_threads()} threads), no CUDA device"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    folder = (runs_folder() if folder is None else folder).absolute()
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    found["space"] = f"{shutil.disk_usage(there).free / 2**30:.0f} GiB free for {folder}"
    return found


def examine(root: str | Path, *, columns: str | None = None, first_frame: int = 1, decode: bool = False) -> Report:
    """Read a whole data set in iMiGUE's layout; whatever is wrong with it is a finding, and nothing is written.

    Every number of every skeleton file and every packet of every film is read, and its key frames are looked at.

    Args:
        root: its folder.
        columns: column map of its skeleton files; default the one that fits the first of them.
        first_frame: number that label files give a film's first frame.
        decode: look at every picture of every film too, which takes far longer.

    Raises:
        ConfigError: no column map has that name.
    """
    root = Path(root)
    report = Report(examine_machine(), root=str(root))
    found: list[Finding] = []
    try:
        files = find_files(root)
    except DataError as error:
        report.findings = [Finding("error", str(error))]
        return report
    chosen = column_map(columns) if columns else _guess(files, found)
    report.layout = _layout(files, root, chosen)
    read = _read_all(files, chosen, decode, found, report)
    kinds = (AbsentClassWarning, ChangedDataWarning)
    with warnings.catch_warnings(record=True) as caught:
        for kind in kinds:
            warnings.simplefilter("always", kind)
        try:
            index = open_dataset(root, column_map=chosen.name, skip_bad=True, first_frame=first_frame)
        except DataError as error:
            found.append(Finding("error", str(error)))
        except OSError as error:  # between two looks at it
            hint = "Is another program changing this folder? Let it end, then look again"
            found.append(Finding("error", f"{error.filename}: cannot be read ({error.strerror}). {hint}"))
        else:
            _describe(index, files, read, found, report)
    found += [Finding("warning", str(each.message)) for each in caught if issubclass(each.category, kinds)]
    report.findings = sorted(_merged(found), key=lambda finding: finding.level)
    return report


def _merged(found: list[Finding]) -> list[Finding]:
    """Each message once, with the clips of all that said it."""
    merged: dict[tuple[str, str], tuple[str, ...]] = {}
    for each in found:
        merged[each.level, each.message] = merged.get((each.level, each.message), ()) + each.clips
    return [Finding(level, message, clips) for (level, message), clips in merged.items()]


def _guess(files: Files, found: list[Finding]) -> ColumnMap:
    """The column map that fits the first skeleton file that has a row."""
    default = column_map("openpose35")
    for _, path in sorted(files.skeletons.items()):
        try:
            with path.open("rb") as file:
                count = file.readline(1 << 20).count(b",") + 1
        except OSError:  # found again, and told, where all of it is read
            continue
        if fitting := fitting_column_map(count):
            return fitting
        if count > 1:
            hint = "Known are openpose35 (106 columns) and openpose137 (412)"
            found.append(Finding("error", f"{path}: {count} columns fit no column map. {hint}"))
            return default
    return default


def _layout(files: Files, root: Path, chosen: ColumnMap) -> dict[str, str]:
    nested = sum(folder.parent != root for folder in files.folders.values())
    cut = sum(map(len, files.precut.values()))
    parts = {
        "films": len(files.films),
        "skeleton files": len(files.skeletons),
        "label files": len(files.labels),
        "pre-cut clips": cut,
    }
    return {
        "folders": f"{len(files.folders)} of films, {nested} of them one folder down",
        "files": ", ".join(f"{count} {name}" for name, count in parts.items()),
        "columns": f"{chosen.name}, {chosen.columns} to a row",
        "split": files.splits.name if files.splits else "no splits.csv: the MiGA challenge's films",
    }


@dataclass
class _Read:
    """What reading every file has shown.

    Attributes:
        damaged: what is wrong with a file that is.
        frames: of every whole film and pre-cut clip, counted.
        points: of every whole skeleton file.
        votes: frames that put fingers 12–16 nearer to either wrist; None without a skeleton file.
    """

    damaged: dict[Path, str] = field(default_factory=dict)
    frames: dict[Path, int] = field(default_factory=dict)
    points: dict[Path, Points] = field(default_factory=dict)
    votes: np.ndarray | None = None


def _read_all(files: Files, chosen: ColumnMap, decode: bool, found: list[Finding], report: Report) -> _Read:
    """Every file of every video; notes unequal lengths and whose fingers are whose."""
    read = _Read()
    for video in sorted(files.videos):
        film, skeleton = files.films.get(video), files.skeletons.get(video)
        sizes = []
        for path in [film, *(path for _, path in sorted(files.precut.get(video, {}).items()))]:
            if path is not None:
                with _noted(path, read, found):
                    told = _film(path, decode)
                    read.frames[path] = told.frames
                    sizes.append(told.size)
        if skeleton is not None:
            with _noted(skeleton, read, found):
                keypoints, scores = read_skeleton_csv(skeleton, chosen)
                read.points[skeleton] = points_of(keypoints, scores, sizes[0] if sizes else None, skeleton)
                votes = finger_votes(keypoints, scores)
                read.votes = votes if read.votes is None else read.votes + votes
        if skeleton in read.points and film in read.frames:
            lengths = {skeleton.name: len(read.points[skeleton].seen), film.name: read.frames[film]}
            if len(set(lengths.values())) > 1:
                told_lengths = " and ".join(f"{name} {count} frames" for name, count in lengths.items())
                hint = "One of them may be cut or start later; clips up to the shorter one's end are used"
                found.append(Finding("warning", f"{files.folders[video]}: lengths differ, {told_lengths}. {hint}"))
    if read.votes is not None:
        total = int(read.votes.sum())
        shares = read.votes / max(total, 1)
        report.fingers = {"organisers": float(shares[0]), "mmn": float(shares[1]), "frames": total}
    return read


@contextmanager
def _noted(path: Path, read: _Read, found: list[Finding]) -> Iterator[None]:
    """What is wrong with a file is noted, and goes no further."""
    try:
        yield
    except DataError as error:
        read.damaged[path] = str(error)
        found.append(Finding("error", str(error)))


def _film(path: Path, decode: bool) -> FilmInfo:
    told = probe(path)
    check_pictures(path)
    if decode:
        for start in range(0, told.frames, _AT_ONCE):
            read_frames(path, np.arange(start, min(told.frames, start + _AT_ONCE)), size=(16, 16))
    return told


def finger_votes(keypoints: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How many frames put keypoints 12–16 nearer to HandRight (7), and how many nearer to HandLeft (4).

    Public sources disagree on the wrist of the five; only data can tell.

    Args:
        keypoints: [T, 22, 2] pixels, of :data:`.IMIGUE22`.
        scores: [T, 22]; a frame votes if at least one of the five and both wrists were found (score above 0).

    Returns:
        [2] int64.
    """
    found = scores[:, 12:17] > 0
    usable = found.any(1) & (scores[:, 7] > 0) & (scores[:, 4] > 0)
    weights = found[usable, :, None]
    centres = (keypoints[usable, 12:17] * weights).sum(1) / weights.sum(1)
    right, left = (np.linalg.norm(centres - keypoints[usable, wrist], axis=1) for wrist in (7, 4))
    return np.array([(right < left).sum(), (left < right).sum()], dtype=np.int64)


def _describe(index: ClipIndex, files: Files, read: _Read, found: list[Finding], report: Report) -> None:
    """Counts of what can be used, and findings about clips."""
    for clip, reason in index.skipped:
        found.append(Finding("error", reason, (clip,) if CLIP.fullmatch(clip) else ()))
    for path, message in read.damaged.items():  # the quick look of opening may not have seen it
        clips = tuple(clip.id for clip in index.clips if path in (clip.skeleton, clip.film))
        found.append(Finding("error", message, clips))
    report.counts = {**index.summary(), "all": _all(index)}
    for counts in report.counts.values():
        counts.pop("frames", None)
    report.published = {"all": dict(PUBLISHED)}
    if files.splits is None:
        report.published |= {name: dict(counts) for name, counts in PUBLISHED_MIGA.items()}
    report.seconds = _seconds(index, read.damaged, found)
    found += [*of_skeletons(index, read.points), *of_films(index, files, read.frames), *of_splits(index, files)]
    found += [*repeats(index), *listed(index), *unused(files)]


def _all(index: ClipIndex) -> dict[str, int]:
    return {
        "clips": len(index.clips),
        "videos": len({clip.video for clip in index.clips}),
        "subjects": len({clip.subject for clip in index.clips} - {""}),
        "classes": len({clip.label for clip in index.clips if clip.label >= 0}),
    }


def _seconds(index: ClipIndex, damaged: dict[Path, str], found: list[Finding]) -> tuple[float, ...]:
    """Shortest, mean and longest clip, where a film tells."""
    times = []
    for clip in index.clips:
        if clip.film is not None and clip.film not in damaged:
            try:
                times.append(clip_seconds(clip))
            except DataError as error:  # it was whole a moment ago, or is shorter than its header says
                found.append(Finding("error", str(error), (clip.id,)))
    times = [seconds for seconds in times if seconds > 0]
    return (min(times), sum(times) / len(times), max(times)) if times else ()
