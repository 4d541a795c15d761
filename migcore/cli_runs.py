"""`migcore runs`: list the runs of the ledger, record them, or carry them between machines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from migcore.errors import ConfigError


@dataclass(frozen=True)
class ListRuns:
    """List the runs, fresh and recorded, newest first."""

    def run(self) -> None:
        from migcore import experiments

        book = experiments.ledger()
        for run in book.all():
            best = run.metrics.get("test") or run.metrics.get("val") or {}
            top1 = f"{100 * best['top1']:6.2f}" if best else "     -"
            where = "recorded" if run.folder is not None and run.folder.parent == book.recorded else "fresh"
            print(
                f"{run.key}  {run.experiment:16s} {run.preset:12s} seed {run.seed}  top-1 {top1}  {run.seconds:7.0f} s "
                f" {run.created[:16]}  {where}{', older version' if run.stale else ''}"
            )


@dataclass(frozen=True)
class RecordRuns:
    """Copy fresh runs to the recorded ones (results/)."""

    keys: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[KEY ...]", help_behavior_hint="")
    ] = ()
    """of the runs, or their first digits"""

    def run(self) -> None:
        from migcore import experiments

        if not self.keys:
            raise ConfigError("no key to record", hint="`migcore runs` lists them")
        book = experiments.ledger()
        for key in self.keys:
            print(book.record(key))


@dataclass(frozen=True)
class PackRuns:
    """Write fresh runs, without their weights, into one archive that another machine can merge."""

    out: tyro.conf.Positional[Path]
    """archive to write, such as runs.zip"""
    keys: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[KEY ...]", help_behavior_hint="")
    ] = ()
    """of the runs, or their first digits; default all"""
    unfinished: bool = False
    """also the newest checkpoint of each run that is not finished, from which it goes on"""

    def run(self) -> None:
        from migcore import archive, experiments

        outcomes = archive.pack(experiments.ledger(), self.out, self.keys, unfinished=self.unfinished)
        for outcome in outcomes:
            print(outcome)
        packed = sum(outcome.done == "packed" for outcome in outcomes)
        print(f"{self.out}: {packed} packed, {self.out.stat().st_size / 1e6:.2f} MB")


@dataclass(frozen=True)
class MergeRuns:
    """Take up the runs of an archive; what is here already stays as it is."""

    archive: tyro.conf.Positional[Path]
    """written by `migcore runs pack`"""
    record: bool = False
    """into the recorded runs (results/) instead of the fresh ones"""

    def run(self) -> None:
        from migcore import archive, experiments

        outcomes = archive.merge(experiments.ledger(), self.archive, record=self.record)
        for outcome in outcomes:
            print(outcome)
        counts = Counter(outcome.done for outcome in outcomes)
        shown = [f"{counts[done]} {done}" for done in ("merged", "skipped", "kept", "left out") if counts[done]]
        print(f"{self.archive}: {', '.join(shown)}; {sum(o.stale for o in outcomes)} of an older version")


@dataclass(frozen=True)
class Runs:
    """List the runs of the ledger, record them, or carry them between machines."""

    action: tyro.conf.OmitArgPrefixes[
        tyro.conf.OmitSubcommandPrefixes[
            Annotated[ListRuns, tyro.conf.subcommand("list")]
            | Annotated[RecordRuns, tyro.conf.subcommand("record")]
            | Annotated[PackRuns, tyro.conf.subcommand("pack")]
            | Annotated[MergeRuns, tyro.conf.subcommand("merge")]
        ]
    ] = field(default_factory=ListRuns)
    """what to do"""

    def run(self) -> None:
        self.action.run()
