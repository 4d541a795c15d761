"""Every command and every option of it is run as a user types it, and ends well.

A line of :data:`LINES` may use what the lines before it have made. Those that train are for `make test-full`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro

from migcore import cli, experiments
from migcore.bench import PARTS
from migcore.cli_runs import ListRuns, MergeRuns, PackRuns, RecordRuns
from migcore.ledger import Ledger
from migcore.models.clip import TeacherConfig, load_teacher
from migcore.report import ablations
from tests.test_experiments import SMALL, write_folder
from tests.test_ledger import KEYS, listed, make_arrays, make_run

RECIPES = {
    "train_student.epochs": 1, "train_student.batch_size": 8, "train_student.device": "cpu",
    **{f"baselines.train_{name}.epochs": 1 for name in ("stgcn", "hyperformer", "trn", "evl", "dense", "sparse")},
}  # fmt: skip
SET = shlex.join(
    f"--set={name}={','.join(map(str, v)) if isinstance(v, list) else v}" for name, v in {**SMALL, **RECIPES}.items()
)
CLIPS = "--set train_clips=6 --set val_clips=6 --set test_clips=6 --set size=16 --set train_subjects=2"
STILLS = "--set stills=16"

LINES = (
    f"studio OUT/studio --preset smoke --seed 3 {CLIPS} --set val_subjects=2 --set test_subjects=2",
    "check OUT/studio --column-map openpose35 --first-frame 1 --skip-bad",
    "doctor OUT/studio --column-map openpose35 --first-frame 1 --decode --json",
    "doctor",
    f"teacher --out OUT/teacher.safetensors {STILLS} --set steps=2 --set batch=4 --set warmup=1",
    f"train posec3d_joint --preset smoke --seed 0 --data DATA --skip-bad {SET}",
    f"train posec3d_joint --preset smoke --data UNSPLIT --set data.fold=2/4 --weights {SET}",
    f"tables --preset smoke --seeds 0,1 --data DATA --skip-bad --no-missing {SET}",
    f"ablate joints budgets --preset smoke --seeds 0,1 --data DATA --skip-bad --no-missing {SET}",
    "runs",
    "runs list",
    "runs pack OUT/all.zip",
    f"runs pack OUT/some.zip {KEYS[0][:6]} --unfinished",
    "runs merge OUT/some.zip",
    "runs merge OUT/some.zip --record",
    f"runs record {KEYS[1][:6]}",
    "bench joint_heatmaps teacher --device cpu --repeats 1 --quick",
    "--version",
)
"""Quick ones; OUT is an empty folder, DATA one of clips, UNSPLIT the same without a validation split."""
FULL = (
    f"backbone --out OUT/backbone.safetensors {STILLS} --set held_out=4 --set train.epochs=1 --set train.batch_size=4",
    *(f"train {name} --preset smoke --data OUT/large {SET}" for name in experiments.EXPERIMENTS),
    f"train vclip --preset smoke --data OUT/large --init OUT/clip.pth {SET}",
    f"predict FILM --preset smoke --data OUT/large --seconds 0.4 --stride 0.2 --fps 25 --top 2 --out OUT/me {SET}",
    f"predict FILM --skeleton SKELETON --preset smoke --seed 0 --data OUT/large {SET}",
    f"predict FILM --labels nothing --labels 'touch nose: a hand' --preset smoke --data OUT/large {SET}",
    f"tables --preset smoke --data OUT/large {SET}",
    f"ablate --preset smoke --data OUT/large {SET}",
    "bench --repeats 1",
)
"""Those that take longer; OUT/large is a data set of the smoke preset."""


ACTIONS = (ListRuns, RecordRuns, PackRuns, MergeRuns)


def parsed(line: str) -> Any:
    """The command that a line stands for, down to what `runs` is to do."""
    command = tyro.extras.subcommand_cli_from_dict(cli.COMMANDS, prog="migcore", args=shlex.split(line))
    return command.action if isinstance(command, cli.Runs) else command


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What words of the lines stand for, and a ledger that has two runs."""
    root = tmp_path_factory.mktemp("world")
    book = Ledger(root / "runs", root / "results")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every tiny split lacks classes
        patch.setenv("MIGCORE_RUNS", str(book.runs))
        patch.setattr(experiments, "ledger", lambda: book)
        for key in KEYS:
            book.save(make_run(key, **listed()), make_arrays())
        for name in ("data", "unsplit"):
            write_folder(root / name, films=True, size=112)
        rows = root / "unsplit" / "splits.csv"
        rows.write_text(rows.read_text().replace(",val,", ",train,"))
        (root / "out").mkdir()
        yield {"DATA": str(root / "data"), "UNSPLIT": str(root / "unsplit"), "OUT": str(root / "out")}


def run(line: str, world: dict[str, str]) -> str:
    for word, path in world.items():
        line = line.replace(word, path)
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        status = cli.main(shlex.split(line))
    assert status == 0 and "Traceback" not in errors.getvalue(), errors.getvalue()
    return out.getvalue()


def test_every_command_ends_well(world: dict[str, str]) -> None:
    for line in LINES:
        assert run(line, world).strip(), line


@pytest.mark.full
def test_every_command_that_trains_ends_well(world: dict[str, str]) -> None:
    out = Path(world["OUT"])
    run("studio OUT/large --preset smoke", world)
    video = next(path.parent.name for path in sorted((out / "large").glob("*/*.mp4")))
    teacher = load_teacher(TeacherConfig(precision="fp32"))
    torch.save({n: t for n, t in teacher.clip.state_dict().items()}, out / "clip.pth")
    films = {
        "FILM": str(out / "large" / video / f"{video}.mp4"),
        "SKELETON": str(out / "large" / video / f"{video}_light_hand.csv"),
    }
    shown = {line: run(line, {**films, **world}) for line in FULL}
    assert all(text.strip() for text in shown.values())
    assert "not run yet" not in shown[FULL[-2]]
    assert {line.split()[0] for line in shown[FULL[-1]].splitlines()[1:]} == set(PARTS)
    assert all(each.question in shown[FULL[-2]] for each in ablations.ABLATIONS)


def options() -> set[tuple[str, str]]:
    """(command, field) of all there are."""
    commands = [*(c for c in cli.COMMANDS.values() if c is not cli.Runs), *ACTIONS]
    return {(c.__name__, field.name) for c in commands for field in dataclasses.fields(c)}  # type: ignore[arg-type,attr-defined]


def named(line: str) -> set[tuple[str, str]]:
    """(command, field) of what a line gives: flags that it names, and words that are no flag's."""
    command, words = parsed(line), shlex.split(line)
    flags = {word.partition("=")[0].removeprefix("--no-").removeprefix("--").replace("-", "_") for word in words}
    found = set()
    for field in dataclasses.fields(command):
        flag = "set" if field.name == "overrides" else field.name
        if flag in flags or getattr(command, field.name) != _default(field):
            found.add((type(command).__name__, field.name))
    return found


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def test_no_option_is_forgotten() -> None:
    """A new command or option is in one of the lines, or this fails."""
    given = set().union(*(named(line) for line in (*LINES, *FULL) if not line.startswith("--")))
    assert options() - given == set()
    used = {type(parsed(line)) for line in (*LINES, *FULL) if not line.startswith("--")}
    assert used == {*cli.COMMANDS.values(), *ACTIONS} - {cli.Runs}


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_timed(part: str, world: dict[str, str]) -> None:
    rows = run(f"bench {part} --repeats 1 --quick", world).splitlines()[1:]
    assert rows and all(row.split()[0] == part for row in rows)
