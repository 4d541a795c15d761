"""What ``migcore predict --out`` leaves of a film: a table, a time line, and what was judged by what.

For a film ``NAME.mp4`` these are ``NAME.csv``, ``NAME.png`` and ``NAME.json`` in one folder, written together or not at
all. The last says which film they are of, so that another film of that name never takes their place.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from migcore import __version__, experiments
from migcore.errors import ConfigError
from migcore.files import locked, write_together
from migcore.predict import Prediction
from migcore.presets import Preset
from migcore.report.plots import timeline


@dataclass(frozen=True)
class Answer:
    """The files of one film's answer.

    Attributes:
        folder: to write them to; made if missing.
        video: the film.
        skeleton: its skeleton file, if one is given.
    """

    folder: Path
    video: Path
    skeleton: Path | None = None

    @property
    def files(self) -> list[Path]:
        """The table, the time line, and what was judged by what."""
        return [self.folder / f"{self.video.stem}.{kind}" for kind in ("csv", "png", "json")]

    @contextlib.contextmanager
    def reserved(self) -> Iterator[None]:
        """Be the one that writes these files; whether that can be is found out before the film is judged.

        Raises:
            ConfigError: the folder is none, or a file there is an input, another film's answer, or of unknown origin.
            LedgerError: another process is at it.
            StorageError: nothing can be written there.

        Warns:
            UserWarning: the film has another size than when it was judged last.
        """
        there = os.path.exists  # Path.exists raises where a folder above may not be looked into
        if there(self.folder) and not self.folder.is_dir():
            raise ConfigError("is no folder", where=self.folder, hint="Give --out a folder, or the name of a new one")
        for given in (self.video, self.skeleton):
            if given is not None and there(given) and any(there(p) and p.samefile(given) for p in self.files):
                raise ConfigError("the results would take this file's place", where=given, hint="Give another --out")
        made = [each for each in (self.folder, *self.folder.parents) if not there(each)]
        try:
            with locked(self.folder / f".{self.video.stem}.lock", what=f"the result of {self.video.name}"):
                self._check_earlier()
                yield
        finally:
            for each in made:  # what nothing was put into goes again
                with contextlib.suppress(OSError):
                    each.rmdir()

    def save(self, found: Prediction, config: Preset, seed: int, *, labels: list[str], **windows: float) -> None:
        """Write the three files.

        Args:
            found: what is seen in the film.
            config, seed: of the runs whose weights judged.
            labels: classes of one's own, as they were given.
            windows: what else was asked for, by name.

        Raises:
            StorageError: the disk is full; all files are as they were.
        """
        figure = timeline(found.seconds, found.probabilities, found.labels)
        origin = {
            "migcore": __version__,
            "film": {"path": os.path.realpath(self.video), "bytes": _size(self.video)},
            "skeleton": None if self.skeleton is None else os.path.realpath(self.skeleton),
            "labels": labels,
            "preset": config.label,
            "seed": seed,
            "runs": {name: _key(name, config, seed) for name in found.streams},
            "streams": dict(found.streams),
            **windows,
            "fps": found.fps,
            "notes": list(found.notes),
        }
        text = json.dumps(origin, indent=1, ensure_ascii=False) + "\n"
        table, picture, about = self.files
        write_together(
            {
                table: lambda new: new.write_text(found.to_csv(), encoding="utf-8", newline=""),
                picture: lambda new: figure.savefig(new, format="png", dpi=150),
                # A name that is no text on this system has parts that UTF-8 cannot say, but JSON can.
                about: lambda new: new.write_bytes(text.encode("utf-8", "backslashreplace")),
            }
        )

    def _check_earlier(self) -> None:
        """ConfigError unless what is there already is this very film's answer, or nothing."""
        kept = [path for path in self.files if os.path.lexists(path)]
        *_, about = self.files
        if not kept:
            return
        for path in kept:
            if not path.is_file():
                raise ConfigError("is no plain file", where=path, hint="Give another --out, or take it away")
        names = ", ".join(path.name for path in kept)
        hint = f"Give another --out, or take {names} away"
        if about not in kept:
            unsaid = f"holds {names}, and no {about.name} that says of which film"
            raise ConfigError(unsaid, where=self.folder, hint=hint)
        try:
            film = json.loads(about.read_text(encoding="utf-8"))["film"]
            other, size = str(film["path"]), int(film["bytes"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            what = "is not what `migcore predict --out` writes, and would be replaced"
            raise ConfigError(what, where=about, hint=hint) from None
        if not _same(self.video, other):
            raise ConfigError(f"holds the answer for {other}", where=self.folder, hint=hint)
        if size != _size(self.video):
            warnings.warn(f"{self.video} has changed since it was judged: its answer is replaced", stacklevel=2)


def _same(video: Path, other: str) -> bool:
    """Whether two names are of one film; on some systems they may differ in capitals."""
    real = os.path.realpath(video)
    return real == other or (os.path.exists(real) and os.path.exists(other) and os.path.samefile(real, other))


def _size(video: Path) -> int:
    """Bytes of a film; -1 if there is none, which whoever reads it will tell."""
    try:
        return os.stat(video).st_size
    except OSError:
        return -1


def _key(name: str, config: Preset, seed: int) -> str | None:
    """Key of the run whose weights judge: the newest that has some."""
    found = experiments.ledger().find(name, config.label, seed)
    return next((run.key for run in found if experiments.has_weights(run)), None)
