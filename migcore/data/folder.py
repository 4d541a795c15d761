"""What lies in a folder in iMiGUE's layout: videos, pre-cut clips, who is in which split, and which data it is.

The layout is described in :mod:`migcore.data.imigue`. No name that is read leads to a file: videos and clips are found
by listing the folder, and a splits file may only name what was found. Names count in any case, and hidden ones not.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from migcore.data.checks import other_separator, plain
from migcore.errors import DataError

SPLITS = ("train", "val", "test")
VIDEO = re.compile(r"\d{4,}")
"""Name of a video: NNNN."""
CLIP = re.compile(r"(\d{4,})_(0|[1-9]\d*)")
"""Name of a clip: NNNN_k."""
FILMS = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", ".mpg", ".mpeg", ".m2v", ".vob"),
        *(".mts", ".m2ts", ".ts", ".wmv", ".asf", ".flv", ".f4v", ".ogv", ".3gp", ".3g2", ".mxf"),
    )
)
"""Ends of the names of films, in small letters."""
_SAMPLE, _SAMPLES = 1 << 18, 4
"""Bytes that are read at each of so many places of a film when its content is told from another's."""
_AT_ONCE = 1 << 20


class ChangedDataWarning(UserWarning):
    """A folder declares which data it is, but does not hold it (any more)."""


@dataclass(frozen=True)
class Files:
    """What was found under a root.

    Attributes:
        folders: of a video, by its name.
        labels: label file of a video, by its name.
        precut: pre-cut clips of a video, by its name and then by their number k.
        films: film of a video, by its name.
        skeletons: skeleton file of a video, by its name.
        splits: the splits file, if there is one.
        strays: films that nothing uses, as they are not called after their folder or as a clip.
    """

    folders: dict[str, Path] = field(default_factory=dict)
    labels: dict[str, Path] = field(default_factory=dict)
    precut: dict[str, dict[int, Path]] = field(default_factory=dict)
    films: dict[str, Path] = field(default_factory=dict)
    skeletons: dict[str, Path] = field(default_factory=dict)
    splits: Path | None = None
    strays: tuple[Path, ...] = ()

    @property
    def videos(self) -> set[str]:
        """All videos that are there, as a folder or as clips."""
        return set(self.folders) | set(self.precut)

    def place(self, video: str) -> Path:
        """The folder of a video, or that of its clips."""
        return self.folders[video] if video in self.folders else next(iter(self.precut[video].values())).parent

    @property
    def all(self) -> list[Path]:
        """Every file that belongs to the data set, and none that is only in its folder."""
        videos = [path for found in (self.films, self.skeletons, self.labels) for path in found.values()]
        clips = [path for found in self.precut.values() for path in found.values()]
        return [*videos, *clips, *([] if self.splits is None else [self.splits])]


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders and files in a folder, by name; without hidden ones, and without what macOS packs beside the files."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if entry.is_dir():
                    folders.append(folder / entry.name)
                elif entry.is_file():
                    files.append(folder / entry.name)
    except OSError as error:
        raise DataError(
            f"is no folder that can be read ({error.strerror})", where=folder, hint="Name the folder of a data set"
        ) from error
    return sorted(folders), sorted(files)


def _only(known: Path | None, path: Path, what: str) -> Path:
    """``path``, unless there is another of its kind already."""
    if known is not None:
        raise DataError(f"{what}, {known}", where=path, hint="Keep one of the two")
    return path


def find_files(root: Path) -> Files:
    """List a data set, each of its folders once.

    Raises:
        DataError: the root is no folder or holds no data set, or a video or a file of it is there twice.
    """
    near, at_root = _listed(root)
    listed = {folder: _listed(folder) for folder in near}
    inner = [folder for outer in near for folder in listed[outer][0] if VIDEO.fullmatch(folder.name)]
    found = Files()
    strays: list[Path] = []
    for folder in [*near, *inner]:
        if VIDEO.fullmatch(folder.name):
            known = found.folders.get(folder.name)
            found.folders[folder.name] = _only(known, folder, f"video {folder.name} is also in another folder")
            strays += _parts(found, folder.name, (listed.get(folder) or _listed(folder))[1])
    for folder in near:
        if folder.name.lower() == "clips":
            strays += _precut(found, listed[folder][1])
    if not found.videos:
        raise DataError(
            "holds neither folders NNNN/ with NNNN_label.csv nor clips/NNNN_k.mp4",
            where=root,
            hint="Lay the data out as iMiGUE is, or make a studio with `migcore studio`",
        )
    splits = None
    for path in at_root:
        if path.name.lower() == "splits.csv":
            splits = _only(splits, path, "there is another splits file")
    return replace(found, splits=splits, strays=tuple(strays))


def _parts(found: Files, video: str, files: list[Path]) -> list[Path]:
    """Take up what a video's folder holds. Returns films of other names."""
    strays = []
    for path in files:
        name = path.name.lower()
        if name == f"{video}_light_hand.csv":
            known = found.skeletons.get(video)
            found.skeletons[video] = _only(known, path, f"video {video} has another skeleton file")
        elif name == f"{video}_label.csv":
            found.labels[video] = _only(found.labels.get(video), path, f"video {video} has another label file")
        elif path.suffix.lower() in FILMS:
            if path.stem == video:
                found.films[video] = _only(found.films.get(video), path, f"video {video} has another film")
            else:
                strays.append(path)
    return strays


def _precut(found: Files, files: list[Path]) -> list[Path]:
    """Take up pre-cut clips and their label files. Returns films of other names."""
    strays = []
    for path in files:
        if path.suffix.lower() in FILMS:
            if clip := CLIP.fullmatch(path.stem):
                clips = found.precut.setdefault(clip[1], {})
                clips[int(clip[2])] = _only(clips.get(int(clip[2])), path, f"clip {path.stem} has another film")
            else:
                strays.append(path)
        elif path.name.lower().endswith("_label.csv") and VIDEO.fullmatch(video := path.name[: -len("_label.csv")]):
            found.labels[video] = _only(found.labels.get(video), path, f"video {video} has another label file")
    return strays


def read_splits(path: Path, videos: set[str]) -> dict[str, tuple[str, str]]:
    """Who is in which split.

    Args:
        path: ``splits.csv`` with the header video,split,subject.
        videos: those that are there.

    Returns:
        (split, subject) by video.

    Raises:
        DataError: it cannot be read, or a row has other columns, no video that is there (or one that would lead out of
            the folder), another split than train, val, test, or a video for the second time; names the row.
    """
    assigned: dict[str, tuple[str, str]] = {}
    try:
        rows = list(csv.reader(plain(path.read_bytes(), path).decode("utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        hint = "Write it as plain CSV, in UTF-8"
        raise DataError(f"splits file cannot be read ({error})", where=path, hint=hint) from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    if header != ["video", "split", "subject"]:
        told = f" but {','.join(header)[:60]!r}" if rows else ": the file is empty"
        raise DataError(
            f"the first row is not video,split,subject{told}",
            where=path,
            row=1,
            hint=other_separator(",".join(header)) or "Name the columns so, in this order and in small letters",
        )
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != 3:
            raise DataError(f"{len(row)} columns, but a row is video,split,subject", where=path, row=number)
        video, split, subject = (cell.strip() for cell in row)
        if not VIDEO.fullmatch(video):
            outside = "/" in video or "\\" in video or video.startswith(".")
            raise DataError(
                f"video {video!r} {'would leave the folder' if outside else 'is no number of four digits or more'}",
                where=path,
                row=number,
                hint="A video is the name of its folder, NNNN (spreadsheets drop the zeros before a number)",
            )
        if split not in SPLITS:
            raise DataError(f"split {split!r} is not one of {', '.join(SPLITS)}", where=path, row=number)
        if video in assigned:
            raise DataError(f"video {video} is listed twice", where=path, row=number, hint="Keep one of the rows")
        if video not in videos:
            raise DataError(
                f"video {video} has neither folder nor clips", where=path, row=number, hint="Add or unlist it"
            )
        assigned[video] = (split, subject)
    return assigned


def content_of(root: Path, files: Iterable[Path]) -> dict[str, str]:
    """What files hold, as far as it takes to tell whether they are the same: a hash of each, by name under the root.

    Of CSVs every byte counts; of films the size and a megabyte from all over them, so that hundreds take no time. When
    they were written does not.

    Raises:
        DataError: a file cannot be read.
    """
    return {file.relative_to(root).as_posix(): _hash(file) for file in sorted(set(files))}


def content_hash(root: Path, files: Iterable[Path]) -> str:
    """One hash of :func:`content_of`, 32 hexadecimal digits.

    Raises:
        DataError: a file cannot be read.
    """
    content = content_of(root, files)
    return hashlib.sha256("".join(f"{name}\0{told}\0" for name, told in content.items()).encode()).hexdigest()[:32]


def _hash(path: Path) -> str:
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(f"{size}\0".encode())
        with path.open("rb", buffering=0) as file:
            if path.suffix.lower() == ".csv" or size <= _SAMPLE * _SAMPLES:
                while part := file.read(_AT_ONCE):
                    digest.update(part)
            else:
                for place in range(_SAMPLES):
                    file.seek((size - _SAMPLE) * place // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE))
    except OSError as error:
        hint = "Is another program changing this folder? Let it end, then look again"
        raise DataError(f"cannot be read ({error.strerror})", where=path, hint=hint) from error
    return digest.hexdigest()[:32]


def identity_of(root: Path, used: Iterable[Path], files: Files) -> tuple[str, str]:
    """Which data this is: what its maker declares, if the files are those that its maker wrote, or else their content.

    Args:
        root: may hold ``identity.json``: {"identity": a name, "content": :func:`content_of` all of its files}.
        used: what the data set is read from, all of it under the root.
        files: all that belongs to it.

    Returns:
        The identity, and why it is not the declared one ("" if it is, or if none is declared).

    Raises:
        DataError: ``identity.json`` does not hold an identity, or a file cannot be read.
    """
    path = root / "identity.json"
    if not path.is_file():
        return content_hash(root, used), ""
    identity, content = _declared(path)
    if content is None:
        note = (
            f"{path}: names an identity but not the content that it stands for, so it cannot be held against the files "
            "and does not count. Delete the folder and make it anew (`migcore studio`), or delete this file alone"
        )
        return content_hash(root, used), note
    changes = _changes(root, content, files)
    if not changes:
        return identity, ""
    note = (
        f"{path}: the folder no longer holds what it declares: {changes}. It counts as other data, and its runs have "
        "other keys. If the change is meant, delete this file; if not, delete the folder and make it anew"
    )
    return content_hash(root, used), note


def _declared(path: Path) -> tuple[str, Mapping[str, str] | None]:
    hint = "Make the data set again, or delete this file"
    try:
        told = json.loads(plain(path.read_bytes(), path).decode("utf-8"))
        identity, content = told["identity"], told.get("content")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError('is not JSON with an "identity"', where=path, hint=hint) from error
    if not isinstance(identity, str) or not identity:
        raise DataError("the identity is no text", where=path, hint=hint)
    if content is not None and not isinstance(content, dict):
        raise DataError("the content is no list of files and their hashes", where=path, hint=hint)
    return identity, content


def _changes(root: Path, declared: Mapping[str, str], files: Files) -> str:
    """Which files are not those that were declared, in words; "" if all are."""
    there = {path.relative_to(root).as_posix(): path for path in files.all}
    changed = []
    for name in sorted(there.keys() & declared.keys()):
        try:
            same = _hash(there[name]) == declared[name]
        except DataError:  # whoever needs the file says so
            same = False
        if not same:
            changed.append(name)
    kinds = {
        "changed": changed,
        "missing": sorted(declared.keys() - there.keys()),
        "new": sorted(there.keys() - declared.keys()),
    }
    return "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in kinds.items()
        if names
    )
