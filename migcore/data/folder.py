"""What lies in a folder in iMiGUE's layout: videos, pre-cut clips, who is in which split, and which data it is.

The layout is described in :mod:`migcore.data.imigue`. No name that is read leads to a file: videos and clips are found
by listing the folder, and a splits file may only name what was found.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from migcore.errors import DataError

SPLITS = ("train", "val", "test")
VIDEO = re.compile(r"\d{4,}")
"""Name of a video: NNNN."""
CLIP = re.compile(r"(\d{4,})_(0|[1-9]\d*)")
"""Name of a clip: NNNN_k."""


@dataclass(frozen=True)
class Files:
    """What was found under a root.

    Attributes:
        folders: of a video, by its name.
        labels: label file of a video, by its name.
        precut: pre-cut clips of a video, by its name and then by their number k.
    """

    folders: dict[str, Path]
    labels: dict[str, Path]
    precut: dict[str, dict[int, Path]]

    @property
    def videos(self) -> set[str]:
        """All videos that are there, as a folder or as clips."""
        return set(self.folders) | set(self.precut)

    def part(self, video: str, suffix: str) -> Path | None:
        """The file NNNN + suffix in the video's folder, if it is there."""
        path = self.folders[video] / f"{video}{suffix}" if video in self.folders else None
        return path if path is not None and path.is_file() else None


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in sorted(root.iterdir()) if path.is_dir()]
    except OSError as error:
        raise DataError(
            f"is no folder that can be read ({error.strerror})", where=root, hint="Name the folder of a data set"
        ) from error


def find_files(root: Path) -> Files:
    """List a data set.

    Raises:
        DataError: the root is no folder or holds no data set, or a video is there twice.
    """
    folders: dict[str, Path] = {}
    near = _folders(root)
    for folder in [*near, *(inner for outer in near for inner in _folders(outer))]:
        if VIDEO.fullmatch(folder.name):
            if folder.name in folders:
                raise DataError(
                    f"video {folder.name} is also in {folders[folder.name]}", where=folder, hint="Keep one of the two"
                )
            folders[folder.name] = folder
    labels = {v: p / f"{v}_label.csv" for v, p in folders.items() if (p / f"{v}_label.csv").is_file()}
    precut: dict[str, dict[int, Path]] = {}
    for path in sorted((root / "clips").glob("*")):
        if path.suffix == ".mp4" and (clip := CLIP.fullmatch(path.stem)):
            precut.setdefault(clip[1], {})[int(clip[2])] = path
        elif path.name.endswith("_label.csv") and VIDEO.fullmatch(video := path.name.removesuffix("_label.csv")):
            if video in labels:
                raise DataError(f"video {video} has another label file, {labels[video]}", where=path)
            labels[video] = path
    if not folders and not precut:
        raise DataError(
            "holds neither folders NNNN/ with NNNN_label.csv nor clips/NNNN_k.mp4",
            where=root,
            hint="Lay the data out as iMiGUE is, or make a studio with `migcore studio`",
        )
    return Files(folders, labels, precut)


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
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"splits file cannot be read ({error})", where=path, hint="Write it as plain CSV") from error
    if not rows or [cell.strip() for cell in rows[0]] != ["video", "split", "subject"]:
        raise DataError("the first row is not video,split,subject", where=path, row=1, hint="Mend the header")
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
                hint="A video is the name of its folder, NNNN",
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


def identity_of(root: Path, files: list[Path]) -> str:
    """Which data this is: the hash its maker wrote, or that of names, sizes and all CSV bytes.

    Args:
        root: may hold ``identity.json``.
        files: all that the data set uses, under the root.

    Raises:
        DataError: ``identity.json`` does not hold an identity.
    """
    path = root / "identity.json"
    if path.is_file():
        try:
            identity = json.loads(path.read_text(encoding="utf-8"))["identity"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError('is not JSON with an "identity"', where=path, hint="Make the data set again") from error
        if not isinstance(identity, str) or not identity:
            raise DataError("the identity is no text", where=path, hint="Make the data set again")
        return identity
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(root).as_posix()}\0{file.stat().st_size}\0".encode())
        if file.suffix == ".csv":
            digest.update(file.read_bytes())
    return digest.hexdigest()[:32]
