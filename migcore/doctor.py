"""What state a data set and a machine are in, told before hours are spent on them (``migcore doctor``).

Where :func:`.open_dataset` stops at the first thing that is wrong, this reads every file and lists all of it by name,
with what only shows in the whole: films and skeleton files of different lengths, clips listed twice, the hand that
keypoints 12–16 belong to, and counts beside those of iMiGUE as published.

Findings are "error" (training would stop, or leave the clip out with ``skip_bad``) or "warning" (it would run, perhaps
not on what you think).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from migcore.data.files import read_skeleton_csv
from migcore.data.folder import CLIP, Files, find_files
from migcore.data.imigue import AbsentClassWarning, ClipIndex, open_dataset
from migcore.data.layouts import ColumnMap, column_map, fitting_column_map, imigue22
from migcore.data.video import probe, read_frames
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

    Every number of every skeleton file and every packet of every film is read.

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
    damaged = _read_all(files, chosen, decode, found, report)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AbsentClassWarning)
        try:
            index = open_dataset(root, column_map=chosen.name, skip_bad=True, first_frame=first_frame)
        except DataError as error:
            found.append(Finding("error", str(error)))
        except OSError as error:  # between two looks at it
            hint = "Is another program changing this folder? Let it end, then look again"
            found.append(Finding("error", f"{error.filename}: cannot be read ({error.strerror}). {hint}"))
        else:
            _describe(index, files, damaged, found, report)
    found += [Finding("warning", str(each.message)) for each in caught if issubclass(each.category, AbsentClassWarning)]
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
    for video in sorted(files.folders):
        path = files.part(video, "_light_hand.csv")
        if path is None:
            continue
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
        "films": sum(files.part(v, ".mp4") is not None for v in files.folders),
        "skeleton files": sum(files.part(v, "_light_hand.csv") is not None for v in files.folders),
        "label files": len(files.labels),
        "pre-cut clips": cut,
    }
    return {
        "folders": f"{len(files.folders)} of films, {nested} of them one folder down",
        "files": ", ".join(f"{count} {name}" for name, count in parts.items()),
        "columns": f"{chosen.name}, {chosen.columns} to a row",
        "split": "splits.csv" if (root / "splits.csv").is_file() else "no splits.csv: the MiGA challenge's films",
    }


def _read_all(files: Files, chosen: ColumnMap, decode: bool, found: list[Finding], report: Report) -> dict[Path, str]:
    """Every file of every video; notes unequal lengths and whose fingers are whose. Returns what is damaged."""
    damaged: dict[Path, str] = {}
    votes = np.zeros(2, dtype=np.int64)
    seen = False
    for video in sorted(files.videos):
        skeleton, film = files.part(video, "_light_hand.csv"), files.part(video, ".mp4")
        lengths = {}
        for path in [skeleton, film, *(path for _, path in sorted(files.precut.get(video, {}).items()))]:
            if path is None:
                continue
            try:
                if path == skeleton:
                    keypoints, scores = read_skeleton_csv(path, chosen)
                    lengths[path.name] = len(keypoints)
                    votes, seen = votes + finger_votes(keypoints, scores), True
                else:
                    frames = _frames(path, decode)
                    if path == film:
                        lengths[path.name] = frames
            except DataError as error:
                damaged[path] = str(error)
                found.append(Finding("error", str(error)))
        if len(set(lengths.values())) > 1:
            told = " and ".join(f"{name} {count} frames" for name, count in lengths.items())
            hint = "One of them may be cut or start later; clips up to the shorter one's end are used"
            found.append(Finding("warning", f"{files.folders[video]}: lengths differ, {told}. {hint}"))
    if seen:
        total = int(votes.sum())
        shares = votes / max(total, 1)
        report.fingers = {"organisers": float(shares[0]), "mmn": float(shares[1]), "frames": total}
    return damaged


def _frames(path: Path, decode: bool) -> int:
    frames = probe(path).frames
    if decode:
        for start in range(0, frames, _AT_ONCE):
            read_frames(path, np.arange(start, min(frames, start + _AT_ONCE)), size=(16, 16))
    return frames


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


def _describe(index: ClipIndex, files: Files, damaged: dict[Path, str], found: list[Finding], report: Report) -> None:
    """Counts of what can be used, and findings about clips."""
    for clip, reason in index.skipped:
        found.append(Finding("error", reason, (clip,)))
    for path, message in damaged.items():  # the quick look of opening may not have seen it
        clips = tuple(clip.id for clip in index.clips if path in (clip.skeleton, clip.film))
        found.append(Finding("error", message, clips))
    report.counts = {**index.summary(), "all": _all(index)}
    for counts in report.counts.values():
        counts.pop("frames", None)
    report.published = {"all": dict(PUBLISHED)}
    if not (index.root / "splits.csv").is_file():
        report.published |= {name: dict(counts) for name, counts in PUBLISHED_MIGA.items()}
    report.seconds = _seconds(index, damaged, found)
    found += [*_repeats(index), *_listed(index), *_without_labels(files)]


def _all(index: ClipIndex) -> dict[str, int]:
    return {
        "clips": len(index.clips),
        "videos": len({clip.video for clip in index.clips}),
        "subjects": len({clip.subject for clip in index.clips} - {""}),
        "classes": len({clip.label for clip in index.clips if clip.label >= 0}),
    }


def _seconds(index: ClipIndex, damaged: dict[Path, str], found: list[Finding]) -> tuple[float, ...]:
    """Shortest, mean and longest clip, where a film tells the rate."""
    rates: dict[Path, float] = {}
    for clip in index.clips:
        if clip.film is not None and clip.film not in damaged and clip.film not in rates:
            try:
                rates[clip.film] = probe(clip.film, exact=False).fps
            except DataError as error:  # it was whole a moment ago
                rates[clip.film] = 0.0
                found.append(Finding("error", str(error)))
    times = [clip.frames / rates[clip.film] for clip in index.clips if clip.film is not None and rates.get(clip.film)]
    return (min(times), sum(times) / len(times), max(times)) if times else ()


def _repeats(index: ClipIndex) -> Iterator[Finding]:
    """Clips that are the same frames of the same film under the same label."""
    same = Counter((clip.video, clip.start, clip.end, clip.label) for clip in index.clips if clip.label >= 0)
    for (video, start, end, label), count in same.items():
        if count > 1:
            clips = tuple(c.id for c in index.clips if (c.video, c.start, c.end, c.label) == (video, start, end, label))
            message = f"video {video}: frames {start}-{end} are labelled {label} {count} times. Keep one of the rows"
            yield Finding("warning", message, clips)


def _listed(index: ClipIndex) -> Iterator[Finding]:
    """Lists of clips (``*.txt``, a name to a line, as a challenge hands them out): names twice, names without clip."""
    known = {clip.id for clip in index.clips} | {clip for clip, _ in index.skipped}
    for path in sorted(index.root.glob("*.txt")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError as error:
            hint = "If it lists clips, they were not compared"
            yield Finding("warning", f"{path}: cannot be read ({error.strerror}). {hint}")
            continue
        names = [line.strip().split(",")[0].split()[0] for line in lines if line.strip(" \t\r,")]
        names = [name.removesuffix(".mp4") for name in names]
        if not names or not all(CLIP.fullmatch(name) for name in names):
            continue
        twice = tuple(name for name, count in Counter(names).items() if count > 1)
        if twice:
            yield Finding("warning", f"{path}: names are listed twice. A cut-off name may hide in one of them", twice)
        absent = tuple(dict.fromkeys(name for name in names if name not in known))
        if absent:
            yield Finding("warning", f"{path}: names of clips that are not in this folder", absent)


def _without_labels(files: Files) -> Iterator[Finding]:
    bare = sorted(video for video in files.folders if video not in files.labels and video not in files.precut)
    if bare:
        names = ", ".join(bare[:10]) + (", …" if len(bare) > 10 else "")
        yield Finding("warning", f"{len(bare)} films have neither labels nor clips and are not used: {names}")
