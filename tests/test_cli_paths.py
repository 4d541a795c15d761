"""Paths as people write them, and outputs that take nobody's place."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from migcore import archive, cli, experiments
from migcore.checkpoints import save_weights
from migcore.cli_runs import MergeRuns
from migcore.errors import LedgerError
from migcore.files import expanded
from migcore.ledger import Ledger
from migcore.models.backbone import MINIATURE_WEIGHTS as RESNET
from migcore.models.clip import MINIATURE_WEIGHTS as CLIP
from migcore.studio import teacher_data
from tests.faults import files
from tests.test_cli import SETTINGS, Run, book, run
from tests.test_experiments import write_folder
from tests.test_ledger import KEYS, listed, make_arrays, make_run

__all__ = ["book", "run"]  # fixtures


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of whoever types."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_tilde_is_the_home_folder(home: Path) -> None:
    assert expanded("~/a") == expanded(Path("~/a")) == home / "a" and expanded("~") == home
    assert expanded("a/~") == Path("a/~") and expanded("./~/a") == Path("~/a").absolute().relative_to(Path.cwd())
    assert expanded("~nobody-of-this-name/a") == Path("~nobody-of-this-name/a")


def test_runs_live_in_the_home_folder_where_the_environment_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGCORE_RUNS", "~/runs")
    assert experiments.runs_folder() == home / "runs"
    assert teacher_data.working_folder() == home / "runs" / "teacher"
    monkeypatch.setenv("MIGCORE_RUNS", "")
    assert experiments.runs_folder() == Path("runs") and teacher_data.working_folder() == Path("runs/teacher")
    monkeypatch.setenv("MIGCORE_RUNS", "~nobody-of-this-name/runs")
    assert experiments.runs_folder() == Path("~nobody-of-this-name/runs")


def test_the_doctor_looks_at_the_disk_of_the_home_folder(
    home: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIGCORE_RUNS", "~/runs")
    assert f" free for {home / 'runs'}" in run("doctor")[1] and not (tmp_path / "~").exists()


def test_every_path_of_a_command_line_may_begin_with_a_tilde(
    home: Path, run: Run, book: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(home / "set")
    book.save(make_run(**listed()), make_arrays())
    assert run("check", "~/set")[0] == run("doctor", "~/set")[0] == 0
    assert run("runs", "pack", "~/new/runs.zip")[0] == 0 and (home / "new" / "runs.zip").is_file()
    assert run("runs", "merge", "~/new/runs.zip")[0] == 0
    train = ["train", "posec3d_joint", "--preset", "smoke", *SETTINGS]
    status, first, _ = run(*train, "--data", "~/set")
    assert status == 0 and run(*train, "--set", "data.root=~/set")[1] == first
    assert not (tmp_path / "~").exists()
    for words in (["check", "~nobody-of-this-name/x"], [*train, "--data", "~nobody-of-this-name/x"]):
        status, _, errors = run(*words)
        assert status == 2 and errors.count("\n") == 1 and "~nobody-of-this-name/x" in errors
    start = ["train", "vclip", "--preset", "smoke", "--data", "~/set"]
    for words in (["--init", "~/none.pth"], ["--set", "init=~nobody/none.pth"]):
        status, _, errors = run(*start, *words)
        assert status == 2 and "none.pth: there is no such weight file" in errors


def test_all_paths_of_all_commands_are_expanded(home: Path) -> None:
    """Whatever field of a command is a path, also of what `runs` is to do."""
    commands: list[Any] = [
        cli.Studio(Path("~/a")),
        cli.Doctor(Path("~/a")),
        cli.Teacher(Path("~/a")),
        cli.Train("vclip", data=Path("~/a"), init=Path("~/b")),
        cli.Predict(Path("~/a"), skeleton=Path("~/b"), data=Path("~/c"), out=Path("~/d")),
        cli.Runs(MergeRuns(Path("~/a"))),
        cli.Tables(data=Path("~/a")),
    ]
    for command in commands:
        assert "~" in repr(command) and "~" not in repr(cli._at_home(command)), command
    assert cli._at_home(cli.Doctor()) == cli.Doctor() and cli._at_home(cli.Runs()) == cli.Runs()


# ------------------------------------------------------------------------------------------------------------- outputs


def test_an_archive_takes_the_place_of_archives_alone(book: Ledger, run: Run, tmp_path: Path) -> None:
    for key in KEYS:
        book.save(make_run(key, **listed()), make_arrays())
    own = tmp_path / "own"
    own.mkdir()
    (own / "notes.txt").write_text("mine")
    with zipfile.ZipFile(own / "photos.zip", "w") as photos:
        photos.writestr("photo.jpg", b"mine")
    (own / "empty").write_bytes(b"")
    before = files(own)
    for name in before:
        status, shown, errors = run("runs", "pack", own / name)
        assert status == 2 and not shown and errors.count("\n") == 1
        assert f"{own / name}: is no archive of runs, and would be replaced. Give another name" in errors
    assert files(own) == before
    assert run("runs", "pack", own / "runs.zip", KEYS[0])[0] == run("runs", "pack", own / "runs.zip")[0] == 0
    with pytest.raises(LedgerError, match="is no archive of runs"):
        archive.pack(book, own / "notes.txt")


@pytest.mark.parametrize(("command", "mine", "other"), [("teacher", CLIP, RESNET), ("backbone", RESNET, CLIP)])
def test_pre_training_takes_the_place_of_its_own_weights_alone(
    command: str, mine: Path, other: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"migcore.studio.{command}.pretrain", lambda config, out: out)
    for name, content in (("own", mine.read_bytes()), ("other", other.read_bytes()), ("text", b"mine")):
        (tmp_path / name).write_bytes(content)
    save_weights(tmp_path / "run", {"w": torch.zeros(2)}, {"experiment": "vclip"})
    (tmp_path / "folder").mkdir()
    for name in ("other", "text", "run", "folder"):
        status, shown, errors = run(command, "--out", tmp_path / name)
        assert status == 2 and not shown and errors.count("\n") == 1
        assert f"{tmp_path / name}: holds no miniature" in errors and "Give another --out" in errors
    for name in ("own", "new", "new/er"):
        assert run(command, "--out", tmp_path / name)[:2] == (0, f"{tmp_path / name}\n")


# --------------------------------------------------------------------------------------------------- without a split


@pytest.mark.parametrize(
    "words", [["train", "ours"], ["train", "ours", "--weights"], ["ablate", "fusion"], ["ablate"], ["tables"]]
)
def test_a_missing_split_is_one_line_and_nothing_is_trained(
    words: list[str], run: Run, book: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "ProcessPoolExecutor", None)
    root = write_folder(tmp_path / "set")
    rows = root / "splits.csv"
    rows.write_text(rows.read_text().replace(",val,", ",train,"))
    status, shown, errors = run(*words, "--preset", "smoke", "--data", root, *SETTINGS)
    told = [line for line in errors.splitlines() if not line.startswith("migcore: note: ")]
    assert status == 2 and not shown and len(told) == 1
    assert told[0].startswith(f"migcore: error: {root}: ours needs labelled clips of split val")
    assert "--set data.fold=1/4 " in told[0] and not list(book.runs.glob("*-seed*"))


@pytest.mark.parametrize("words", [["ablate", "gamma"], ["ablate", "joints"], ["ablate", "reduction"], ["tables"]])
def test_a_table_of_nothing_is_refused_before_it_is_made(
    words: list[str], run: Run, book: Ledger, tmp_path: Path
) -> None:
    root = write_folder(tmp_path / "set")
    rows = root / "splits.csv"
    rows.write_text(rows.read_text().replace(",val,", ",train,").replace(",test,", ",train,"))
    status, shown, errors = run(*words, "--preset", "smoke", "--data", root, *SETTINGS)
    assert status == 2 and not shown and f"migcore: error: {root}: " in errors
    assert "has nothing to judge: no clip is of split val or test" in errors and "--set data.fold=1/5 " in errors
    assert not list(book.runs.glob("*-seed*"))


def test_an_ablation_without_validation_shows_its_test_column(run: Run, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    rows = root / "splits.csv"
    rows.write_text(rows.read_text().replace(",val,", ",train,"))
    words = ["--preset", "smoke", "--data", root, *SETTINGS, "--set", "train_posec3d.epochs=1"]
    assert run("train", "posec3d_joint", *words)[0] == 0
    status, shown, _ = run("ablate", "joints", "--no-missing", *words)
    row = next(line for line in shown.splitlines() if line.startswith("labels alone"))
    assert status == 0 and "labels withheld" in row and "[" in row


def test_a_note_is_told_once(run: Run, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    _, _, errors = run("ablate", "joints", "limbs", "--no-missing", "--preset", "smoke", "--data", root, *SETTINGS)
    lines = errors.splitlines()
    assert len(lines) == len(set(lines)) == 3 and all("no clip of" in line for line in lines)


def test_what_a_terminal_cannot_show_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """γ on a terminal of ASCII, and names of files that are no text."""
    raw = io.BytesIO()
    with monkeypatch.context() as patch:
        terminal = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
        patch.setattr(sys, "stdout", terminal)
        assert cli.main(["ablate", "gamma", "--no-missing", "--preset", "smoke"]) == 0
    assert b"\\u03b3 = 0.2" in raw.getvalue() and not terminal.closed
