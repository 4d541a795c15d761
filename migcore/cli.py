"""The command line: thin commands over the package, generated from typed dataclasses.

A command imports what it needs when it runs, so that ``migcore --help`` is quick. What goes wrong with the input is one
line on standard error and exit status 2; Ctrl-C is status 130, SIGTERM 143. A reader of the output that leaves, as
after ``| head``, ends no work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from migcore import __version__
from migcore.cli_runs import Runs
from migcore.errors import ConfigError, DataError, MigcoreError
from migcore.terminal import TERMINATED, terminal, unwound

if TYPE_CHECKING:
    from migcore.predict import Prediction

Overrides = Annotated[list[str], tyro.conf.UseAppendAction, tyro.conf.arg(name="set", metavar="FIELD=VALUE")]


def _values(items: Sequence[str]) -> dict[str, str]:
    """``["a.b=1"]`` → ``{"a.b": "1"}``."""
    values = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set takes FIELD=VALUE, not {item!r}", hint="For example --set train_posec3d.epochs=3")
        values[name] = value
    return values


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--seeds takes whole numbers separated by commas, not {text!r}") from None
    if min(seeds) < 0:
        raise ConfigError(f"seeds are 0 or more, not {min(seeds)}")
    return seeds


@dataclass(frozen=True)
class Studio:
    """Write the embedded data set: films, skeletons and labels in iMiGUE's layout. A folder cut off is completed."""

    out: tyro.conf.Positional[Path]
    """folder to write"""
    preset: str = "laptop"
    """whose studio: smoke, laptop or workstation"""
    seed: int = 0
    """of everything in it"""
    overrides: Overrides = field(default_factory=list)
    """fields of the studio, such as train_clips=200"""

    def run(self) -> None:
        import time

        from migcore.presets import override, preset
        from migcore.studio.dataset import write_studio

        config = preset(self.preset).studio
        if config is None:
            raise ConfigError(f"preset {self.preset} has no studio", hint="Choose smoke, laptop or workstation")
        config = override(config, {"seed": self.seed, **_values(self.overrides)})
        if config.seed < 0:
            raise ConfigError(f"seed {config.seed}", hint="seeds are whole numbers, 0 or more")
        started = time.perf_counter()
        write_studio(self.out, config)
        from migcore.data.imigue import open_dataset

        _print_summary(self.out, open_dataset(self.out).summary(), time.perf_counter() - started)


@dataclass(frozen=True)
class Check:
    """Open a folder of clips, and say what is in it."""

    root: tyro.conf.Positional[Path]
    """folder in iMiGUE's layout"""
    column_map: str = "openpose35"
    """columns of its skeleton files: openpose35 or openpose137"""
    first_frame: int = 1
    """number that its label files give the first frame of a film: 1 or 0"""
    skip_bad: bool = False
    """leave damaged clips out and list them, instead of stopping"""

    def run(self) -> None:
        from migcore.data.imigue import open_dataset

        index = open_dataset(
            self.root, column_map=self.column_map, first_frame=self.first_frame, skip_bad=self.skip_bad
        )
        _print_summary(self.root, index.summary(), None)
        for clip, reason in index.skipped:
            print(f"skipped {clip}: {reason}")


def _print_summary(root: Path, summary: dict[str, dict[str, int]], seconds: float | None) -> None:
    for split, counts in summary.items():
        print(f"{split:6s}" + "  ".join(f"{value} {name}" for name, value in counts.items()))
    print(root if seconds is None else f"{root}: {seconds:.0f} s")


@dataclass(frozen=True)
class Doctor:
    """Say what is wrong with a data set, every damaged file by name (status 2), and what this machine has."""

    root: tyro.conf.Positional[Path | None] = None
    """folder in iMiGUE's layout; without it, the machine alone"""
    column_map: str | None = None
    """columns of its skeleton files: openpose35 or openpose137; default what fits"""
    first_frame: int = 1
    """number that its label files give the first frame of a film: 1 or 0"""
    decode: bool = False
    """look at every picture of every film too"""
    json: bool = False
    """print JSON"""

    def run(self) -> None:
        from migcore.doctor import Report, examine, examine_machine

        if self.root is None:
            report = Report(examine_machine())
        else:
            report = examine(self.root, columns=self.column_map, first_frame=self.first_frame, decode=self.decode)
        print(report.to_json() if self.json else report.to_text())
        if report.errors:
            raise DataError(f"{len(report.errors)} found wrong", where=self.root, hint="The errors are listed above")


@dataclass(frozen=True)
class Teacher:
    """Pre-train the miniature CLIP on captioned stills of the studio. An interrupted run goes on."""

    out: Path | None = None
    """file to write; default the one that the package ships"""
    overrides: Overrides = field(default_factory=list)
    """fields of the recipe, such as steps=1000"""

    def run(self) -> None:
        from migcore.models.clip import MINIATURE_WEIGHTS
        from migcore.presets import override
        from migcore.studio.teacher import TeacherTrainConfig, pretrain

        config = override(TeacherTrainConfig(), _values(self.overrides))
        print(pretrain(config, _of_its_own(self.out, "miniature CLIP") or MINIATURE_WEIGHTS))


@dataclass(frozen=True)
class Backbone:
    """Pre-train the miniature ResNet on stills of the studio: its stand-in for ImageNet. An interrupted run goes on."""

    out: Path | None = None
    """file to write; default the one that the package ships"""
    overrides: Overrides = field(default_factory=list)
    """fields of the recipe, such as train.epochs=1"""

    def run(self) -> None:
        from migcore.models.backbone import MINIATURE_WEIGHTS
        from migcore.presets import override
        from migcore.studio.backbone import BackboneTrainConfig, pretrain

        config = override(BackboneTrainConfig(), _values(self.overrides))
        print(pretrain(config, _of_its_own(self.out, "miniature ResNet") or MINIATURE_WEIGHTS))


def _of_its_own(out: Path | None, what: str) -> Path | None:
    """A file that pre-training may write: a new one, or one of the same kind that it wrote before."""
    from migcore.errors import CheckpointError
    from migcore.models.weights import load_weights

    if out is not None and os.path.lexists(out):
        try:
            found = load_weights(out)[1].get("what")
        except CheckpointError:
            found = None
        if not str(found).startswith(what):
            hint = "Give another --out, or take it away"
            raise ConfigError(f"holds no {what} pre-trained here, and would be replaced", where=out, hint=hint)
    return out


@dataclass(frozen=True)
class Train:
    """Run an experiment, or load its run if it is in the ledger."""

    experiment: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="EXPERIMENT")]
    """zero_shot, linear_probe, vclip, froster, froster_decay, posec3d_joint, posec3d_limb, posec3d_joint_text,
    posec3d_limb_text, posec3d_fusion, ours, stgcn, hyperformer, trn, evl, dscnet_dense, dscnet_sparse, dscnet,
    difficulty_skeleton or difficulty_film"""
    preset: str = "laptop"
    """smoke, laptop, workstation or imigue"""
    seed: int = 0
    """of weights, order and augmentation"""
    overrides: Overrides = field(default_factory=list)
    """fields of the preset, such as train_posec3d.epochs=3"""
    data: Path | None = None
    """folder of clips in iMiGUE's layout; default the preset's studio"""
    init: Path | None = None
    """file of published weights that a video student starts from: FROSTER's, Open-VCLIP's or a CLIP's"""
    skip_bad: bool = False
    """leave damaged clips out and list them, instead of stopping"""
    weights: bool = False
    """the trained weights are wanted too: a recorded run, which has none, is made again"""

    def run(self) -> None:
        from migcore import experiments

        run = experiments.run(self.experiment, _preset(self), self.seed, wait=False, weights=self.weights)
        for split, values in run.metrics.items():
            if values:
                print(f"{split}: " + "  ".join(f"{n} {100 * values[n]:.2f}" for n in ("top1", "top5", "mean_class")))
        for clip, reason in run.extra.get("skipped", {}).items():
            print(f"skipped {clip}: {reason}")
        print(f"{run.name}  {run.seconds:.0f} s on {run.device}")


@dataclass(frozen=True)
class _OfRuns:
    """What the commands share that print what runs have found."""

    preset: str = "laptop"
    """smoke, laptop, workstation or imigue"""
    seeds: str = "0"
    """over which our numbers are averaged, such as 0,1,2"""
    overrides: Overrides = field(default_factory=list)
    """fields of the preset"""
    data: Path | None = None
    """folder of clips in iMiGUE's layout; default the preset's studio"""
    skip_bad: bool = False
    """leave damaged clips out and list them, instead of stopping"""
    missing: bool = True
    """make the runs that are missing"""


@dataclass(frozen=True)
class Tables(_OfRuns):
    """Print Tables 1-3 beside the paper's numbers; runs that are missing are made first."""

    def run(self) -> None:
        from migcore import experiments
        from migcore.report import tables

        config, seeds = _preset(self), _seeds(self.seeds)
        if self.missing:
            for seed in seeds:
                experiments.run_all(tables.shown(), config, seed, judged=True)
        found = tables.table1(config, seeds, costs=True), tables.table2(config, seeds), tables.table3(config, seeds)
        for table in found:
            print(table.to_text())


@dataclass(frozen=True)
class Ablate(_OfRuns):
    """Print ablations: the method with one part of it changed; runs that are missing are made first."""

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[PART ...]", help_behavior_hint="")
    ] = ()
    """alpha, beta, distance, boundary, decay, average, gamma, head, alignment, fusion, reduction or budgets; default
    all but the last"""

    def run(self) -> None:
        from migcore import experiments
        from migcore.report import ablations

        config, seeds = _preset(self), _seeds(self.seeds)
        wanted = ablations.variants(config, self.names)
        if self.missing:
            for seed in seeds:
                experiments.run_many([(v.experiment, v.preset(config)) for v in wanted], seed, judged=True)
        for each in ablations.ABLATIONS:
            if not self.names or each.name in self.names:
                print(ablations.ablation_table(config, each, seeds).to_text())
        if not self.names or {"reduction", "budgets"} & {*self.names}:
            print(ablations.reduction_table(config, seeds).to_text())


def _preset(command: Train | _OfRuns | Predict):  # type: ignore[no-untyped-def]  # importing the type would import torch
    from migcore.presets import preset

    values = _values(command.overrides)
    if command.data is not None:
        values["data.root"] = str(command.data)
    if getattr(command, "skip_bad", False):
        values["data.skip_bad"] = "true"
    if isinstance(command, Train) and command.init is not None:
        values["init"] = str(command.init)
    return preset(command.preset, values)


@dataclass(frozen=True)
class Bench:
    """Time the parts of the package beside their naive references."""

    parts: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[PART ...]", help_behavior_hint="")
    ] = ()
    """joint_heatmaps, limb_heatmaps, posec3d, teacher or video_tower; default all"""
    device: str = "cpu"
    """a torch device"""
    repeats: int = 5
    """of each timing"""
    quick: bool = False
    """the smaller size of each part only"""

    def run(self) -> None:
        from dataclasses import asdict

        import pandas as pd

        from migcore.bench import bench

        rows = bench(list(self.parts) or None, device=self.device, repeats=self.repeats, quick=self.quick)
        print(pd.DataFrame([asdict(row) for row in rows]).to_string(index=False, float_format="%.3g"))


@dataclass(frozen=True)
class Predict:
    """Say what is seen in a film, window by window, with the weights of runs on this machine."""

    video: tyro.conf.Positional[Path]
    """the film"""
    skeleton: Path | None = None
    """its skeleton file, a row per frame; without it the film's stream judges alone"""
    labels: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """a class of your own instead of the 32, as "touch nose: a hand at the nose"; film alone"""
    preset: str = "laptop"
    """whose runs: laptop, workstation or imigue"""
    seed: int = 0
    """of the runs"""
    overrides: Overrides = field(default_factory=list)
    """fields of the preset"""
    data: Path | None = None
    """folder of clips that the runs were trained on; default the preset's studio"""
    seconds: float = 2.0
    """length of a window"""
    stride: float = 1.0
    """from the start of one window to the start of the next"""
    fps: float | None = None
    """frames per second, where the film does not tell, or other than it tells"""
    top: int = 3
    """classes to print"""
    out: Path | None = None
    """folder for a table of all probabilities (CSV), a time line (PNG), and what was judged by what (JSON)"""

    def run(self) -> None:
        from migcore.answer import Answer
        from migcore.predict import load_predictor

        if self.top < 1:
            raise ConfigError(f"the best {self.top} classes cannot be printed", hint="--top is at least one")
        config = _preset(self)
        predictor = load_predictor(config, self.seed, skeleton=self.skeleton is not None)
        answer = None if self.out is None else Answer(self.out, self.video, self.skeleton)
        with contextlib.nullcontext() if answer is None else answer.reserved():
            found = predictor.predict(
                self.video,
                self.skeleton,
                labels=self.labels,
                seconds=self.seconds,
                stride=self.stride,
                fps=self.fps,
            )
            try:
                if answer is not None:
                    windows = {"window_seconds": self.seconds, "stride_seconds": self.stride}
                    answer.save(found, config, self.seed, labels=self.labels, **windows)
            finally:  # what was judged is told, also when the disk is full
                self._print(found)
        for path in [] if answer is None else answer.files:
            print(path)

    def _print(self, found: Prediction) -> None:
        for window, (start, end) in enumerate(found.seconds):
            best = "  ".join(f"{name} {100 * p:.0f} %" for name, p in found.top(self.top, window))
            print(f"{start:7.2f} - {end:.2f} s  {best}")
        print("judged by " + ", ".join(f"{name} ({weight:.2f})" for name, weight in found.streams.items()))
        for note in found.notes:
            print(f"note: {note}")


COMMANDS: dict[str, Callable[..., Any]] = {
    "studio": Studio,
    "check": Check,
    "doctor": Doctor,
    "teacher": Teacher,
    "backbone": Backbone,
    "train": Train,
    "predict": Predict,
    "tables": Tables,
    "ablate": Ablate,
    "runs": Runs,
    "bench": Bench,
}


_GO_ON = (Studio, Teacher, Backbone, Train, _OfRuns)
"""Commands that go on where they were stopped. Those that train stop after a step, by handlers of their own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: of the command line; default those of the process.

    Returns:
        0; 2 for wrong input or a full disk; 130 after Ctrl-C; 143 after SIGTERM.
    """
    with terminal():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    command, words = None, list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            if words == ["--version"]:
                print(f"migcore {__version__}")
                return 0
            command = tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="migcore",
                description="Micro-gesture classification with CLIP: data, training and tables of the companion book. "
                "`migcore --version` tells the version.",
                args=words,
            )
            command = _at_home(command)
            with contextlib.nullcontext() if isinstance(command, _GO_ON) else unwound():
                command.run()
        finally:
            sys.stdout.flush()
    except MigcoreError as error:
        print(f"migcore: error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != TERMINATED:
            raise  # after --help, or words that are no command line
        hint = "goes on from the last checkpoint" if isinstance(command, _GO_ON) else "starts from the beginning"
        print(f"migcore: stopped; the same command {hint}", file=sys.stderr)
        return 130 if isinstance(end, KeyboardInterrupt) else TERMINATED
    return 0


def _at_home(command: Any) -> Any:
    """A command whose paths may begin with ``~``, which a shell leaves alone within quotes."""
    from migcore.files import expanded

    changed: dict[str, Any] = {}
    for each in dataclasses.fields(command):
        value = getattr(command, each.name)
        if isinstance(value, Path):
            changed[each.name] = expanded(value)
        elif dataclasses.is_dataclass(value):
            changed[each.name] = _at_home(value)
    return dataclasses.replace(command, **changed)
