"""Every command does its work, and whatever is wrong is one line on standard error and exit status 2."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from migcore import __version__, cli, experiments, training
from migcore.bench import PARTS
from migcore.ledger import Ledger
from migcore.models.backbone import MINIATURE_WEIGHTS
from tests.faults import files, kill_at, output_to
from tests.test_experiments import SMALL, write_folder
from tests.test_ledger import KEYS, UNFINISHED, checkpoint, listed, make_arrays, make_run

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [f"--set={name}={','.join(map(str, v)) if isinstance(v, list) else v}" for name, v in SMALL.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """An empty ledger of fresh runs and an empty one of recorded runs."""
    book = Ledger(tmp_path / "runs", tmp_path / "results")
    monkeypatch.setenv("MIGCORE_RUNS", str(book.runs))
    monkeypatch.setattr(experiments, "ledger", lambda: book)
    return book


Run = Any


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line; returns its status, output and errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main([str(a) for a in arguments])
        return status, *capsys.readouterr()

    return call


def test_help_is_quick_and_lists_the_commands() -> None:
    code = "import sys; from migcore.cli import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "False", done.stderr
    for command in ("studio", "teacher", "backbone", "train", "runs", "tables", "check", "doctor", "bench"):
        assert f"• {command}" in done.stdout


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"migcore {version('migcore')}\n", "") and version("migcore") == __version__


def test_help_says_what_a_word_stands_for(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for words in (["train"], ["bench"], ["ablate"], ["runs", "record"], ["runs", "pack"]):
        with pytest.raises(SystemExit):
            cli.main([*words, "--help"])
        shown[words[-1]] = " ".join(capsys.readouterr().out.split())
    assert " EXPERIMENT" in shown["train"] and "[PART ...]" in shown["ablate"]
    assert all("[KEY ...]" in shown[name] for name in ("record", "pack"))
    assert all(f" {name}" in shown["bench"] for name in PARTS)


def test_seeds_begin_at_0(tmp_path: Path, run: Run) -> None:
    for words in (["train", "posec3d_joint", "--preset", "smoke"], ["studio", tmp_path / "studio"]):
        status, _, errors = run(*words, "--seed", -1)
        assert (status, errors) == (2, "migcore: error: seed -1. seeds are whole numbers, 0 or more\n")
    assert not (tmp_path / "studio").exists()


def test_module_and_command_are_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "migcore", "nonsense"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_train_then_runs_then_tables(folder: Path, run: Run) -> None:
    arguments = ["train", "posec3d_joint", "--preset", "smoke", "--data", folder, *SETTINGS]
    status, first, errors = run(*arguments)
    assert status == 0 and [line.split()[:2] for line in first.splitlines()[:2]] == [
        ["val:", "top1"],
        ["test:", "top1"],
    ]
    assert all(line.startswith("migcore: note: ") for line in errors.splitlines()) and "no clip of 29 of 32" in errors
    status, second, _ = run(*arguments)
    assert status == 0 and second == first  # loaded
    status, listed, _ = run("runs")
    key = first.splitlines()[-1].split()[0].rpartition("-")[2]
    assert status == 0 and listed.startswith(key) and "posec3d_joint" in listed and len(listed.splitlines()) == 1
    status, recorded, _ = run("runs", "record", key[:8])
    assert status == 0 and Path(recorded.strip()).is_dir()
    status, shown, _ = run("tables", "--no-missing", "--preset", "smoke", "--data", folder, *SETTINGS)
    assert status == 0 and shown.count("not run yet") > 10 and "59.54" in shown and key in shown


def test_damaged_clips_are_listed(tmp_path: Path, run: Run) -> None:
    damaged = write_folder(tmp_path / "damaged")
    labels = damaged / "0006" / "0006_label.csv"
    labels.write_text(labels.read_text() + "55,1,2\n")
    arguments = ["train", "posec3d_joint", "--preset", "smoke", "--data", damaged, *SETTINGS]
    status, shown, errors = run(*arguments)
    assert status == 2 and not shown and "0006_label.csv, row 5" in errors
    status, shown, _ = run(*arguments, "--skip-bad", "--set", "train_posec3d.epochs=1")
    assert status == 0 and "skipped 0006_4: " in shown and "55" in shown


def test_an_older_run_is_marked(book: Ledger, run: Run) -> None:
    book.save(make_run(code="0" * 64), make_arrays())
    assert run("runs")[1].rstrip().endswith("fresh, older version")


def test_runs_are_listed_with_and_without_the_word(book: Ledger, run: Run) -> None:
    book.save(make_run(), make_arrays())
    assert run("runs") == run("runs", "list") and run("runs")[1].startswith(make_run().key)


def test_runs_are_packed_here_and_merged_there(
    book: Ledger, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in KEYS:
        book.save(make_run(key, **listed()), make_arrays())
    book.save(make_run("b" * 16, code="0" * 64, **listed()), make_arrays())
    checkpoint(book.runs / UNFINISHED)
    names = [make_run(key).name for key in (*KEYS, "b" * 16)]
    out = tmp_path / "shard 1.zip"
    status, shown, errors = run("runs", "pack", out)
    assert (status, errors) == (0, "") and shown.splitlines() == [
        f"packed {names[0]}",
        f"packed {names[1]}",
        f"left out {names[2]}: made by code that has changed since",
        f"left out {UNFINISHED}: unfinished",
        f"{out}: 2 packed, 0.00 MB",
    ]
    assert run("runs", "pack", out, "a1", "c", "--unfinished")[1].splitlines()[:2] == [
        f"packed {names[0]}",
        f"packed {UNFINISHED}: unfinished, step 10",
    ]

    home = Ledger(tmp_path / "home" / "runs", tmp_path / "home" / "results")
    monkeypatch.setattr(experiments, "ledger", lambda: home)
    status, shown, errors = run("runs", "merge", out)
    assert (status, errors) == (0, "") and shown.splitlines() == [
        f"merged {names[0]}",
        f"merged {UNFINISHED}: unfinished, step 10",
        f"{out}: 2 merged; 0 of an older version",
    ]
    assert run("runs")[1].startswith(KEYS[0])
    assert run("runs", "merge", out)[1].splitlines()[-1] == f"{out}: 2 skipped; 0 of an older version"
    monkeypatch.setattr("migcore.ledger.source_hash", lambda modules: "changed since")
    shown = run("runs", "merge", "--record", out)[1]
    assert shown.splitlines()[-1] == f"{out}: 1 merged, 1 left out; 1 of an older version"
    assert os.listdir(tmp_path / "home" / "results") == [names[0]]
    out.write_bytes(out.read_bytes()[:-1])
    status, shown, errors = run("runs", "merge", out)
    assert status == 2 and not shown and errors.count("\n") == 1 and "is no archive that can be read" in errors


def test_an_unfinished_shard_goes_on_on_another_machine(
    folder: Path, book: Ledger, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One machine trains in one go; one is stopped and packs; one merges and trains on, to the same weights."""
    machines = {name: Ledger(tmp_path / name / "runs") for name in ("whole", "stopped", "resumed")}
    train = ["train", "posec3d_limb", "--preset", "smoke", "--data", folder, *SETTINGS]

    def at(name: str) -> None:
        monkeypatch.setattr(experiments, "ledger", lambda: machines[name])

    step = training._Loop.step

    def interrupted(self: Any, loss: Any, optimizer: Any, batch: Any, share: Any, number: int) -> Any:
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, loss, optimizer, batch, share, number)

    at("whole")
    assert run(*train)[0] == 0
    at("stopped")
    with monkeypatch.context() as patch:
        patch.setattr(training._Loop, "step", interrupted)
        assert run(*train)[0] == 130
    status, shown, _ = run("runs", "pack", tmp_path / "shard.zip", "--unfinished")
    assert status == 0 and "unfinished, step 3" in shown
    at("resumed")
    assert run("runs", "merge", tmp_path / "shard.zip")[0] == 0
    assert [path.name for path in machines["resumed"].runs.glob("*/checkpoints/*")] == ["step-00000003.safetensors"]
    steps = []

    def counted(self: Any, loss: Any, optimizer: Any, batch: Any, share: Any, number: int) -> Any:
        steps.append(number)
        return step(self, loss, optimizer, batch, share, number)

    monkeypatch.setattr(training._Loop, "step", counted)
    assert run(*train)[0] == 0 and steps == [3]  # of two epochs of two steps
    one, two = (next(machines[name].runs.glob("*/weights.safetensors")) for name in ("whole", "resumed"))
    assert one.parent.name == two.parent.name
    weights, resumed = load_file(one), load_file(two)  # not the bytes: the entries of the header have no order
    assert list(weights) == list(resumed) and all(np.array_equal(weights[name], resumed[name]) for name in weights)
    logits = [machines[n].load_arrays(machines[n].all()[0], "test")["logits"] for n in ("whole", "resumed")]
    assert np.array_equal(*logits)


def test_check(folder: Path, tmp_path: Path, run: Run) -> None:
    status, shown, _ = run("check", folder)
    assert status == 0 and [" ".join(line.split()[:3]) for line in shown.splitlines()[:3]] == [
        "train 8 clips", "val 8 clips", "test 8 clips",
    ]  # fmt: skip
    damaged = write_folder(tmp_path / "damaged")
    labels = damaged / "0003" / "0003_label.csv"
    labels.write_text(labels.read_text() + "55,1,2\n")
    status, shown, errors = run("check", damaged)
    assert status == 2 and not shown and "0003_label.csv, row 5" in errors
    status, shown, _ = run("check", damaged, "--skip-bad")
    assert status == 0 and "skipped 0003_4: " in shown


def test_studio(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fake(out: Path, config: Any) -> Path:
        calls.append(config)
        return write_folder(out)

    monkeypatch.setattr("migcore.studio.dataset.write_studio", fake)
    status, shown, _ = run("studio", tmp_path / "s", "--preset", "smoke", "--seed", 7, "--set", "size=16")
    assert status == 0 and "train" in shown and (calls[0].seed, calls[0].size) == (7, 16)
    status, _, errors = run("studio", tmp_path / "t", "--preset", "imigue")
    assert status == 2 and errors.count("\n") == 1


def test_backbone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(config: Any, out: Path) -> Path:
        asked.append((config.stills, config.train.epochs, out))
        return out

    monkeypatch.setattr("migcore.studio.backbone.pretrain", fake)
    changes = ("--set", "stills=6000", "--set", "train.epochs=1")
    assert run("backbone", "--out", "weights", *changes)[:2] == (0, "weights\n")
    assert run("backbone")[0] == 0
    assert asked == [(6000, 1, Path("weights")), (60_000, 6, MINIATURE_WEIGHTS)]


def test_teacher(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def fake(config: Any, out: Path) -> Path:
        given.append(config)
        return out

    monkeypatch.setattr("migcore.studio.teacher.pretrain", fake)
    assert run("teacher", "--out", "weights", "--set", "steps=700", "--set", "stills=60")[:2] == (0, "weights\n")
    assert (given[0].steps, given[0].stills) == (700, 60)


def test_bench(run: Run) -> None:
    status, shown, _ = run("bench", "joint_heatmaps", "--repeats", 1)
    assert status == 0 and [line.split()[0] for line in shown.splitlines()] == [
        "name",
        "joint_heatmaps",
        "joint_heatmaps",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "posec3d_join"], "no experiment is called 'posec3d_join'. Did you mean posec3d_joint"),
        (["train", "posec3d_joint", "--preset", "labtop"], "no preset is called 'labtop'. Did you mean laptop?"),
        (
            ["train", "posec3d_joint", "--set", "epochs=3"],
            "Did you mean train_posec3d.epochs, train_student.epochs, baselines.train_stgcn.epochs",
        ),
        (["train", "posec3d_joint", "--set", "epochs"], "--set takes FIELD=VALUE, not 'epochs'"),
        (["train", "posec3d_joint", "--set", "train_posec3d.lr=fast"], "train_posec3d.lr cannot be 'fast'"),
        (["train", "posec3d_joint", "--preset", "imigue"], "preset imigue needs a folder of clips"),
        (["train", "posec3d_joint", "--data", "no/where"], "no/where"),
        (["tables", "--preset", "none"], "no preset is called 'none'"),
        (["teacher", "--set", "step=7"], "no field is called 'step'. Did you mean steps"),
        (["runs", "record"], "no key to record"),
        (["runs", "pack", "out.zip"], "there is no run to pack"),
        (["runs", "pack", "out.zip", "abc"], "there is no run to pack whose key begins with 'abc'"),
        (["runs", "merge", "no/where.zip"], "no/where.zip"),
        (["runs", "record", "abc"], "0 fresh runs have a key that begins with 'abc'"),
        (["check", "no/where"], "no/where"),
        (["check", ".", "--column-map", "openpose34"], "openpose34"),
        (["tables", "--seeds", "0,x"], "--seeds takes whole numbers"),
        (["tables", "--seeds", "-1"], "seeds are 0 or more"),
        (["bench", "everything"], "no benchmark is called 'everything'"),
        (["bench", "--device", "abacus"], "cannot run on 'abacus'"),
    ],
)
def test_wrong_input_is_one_line(arguments: list[str], message: str, run: Run) -> None:
    status, shown, errors = run(*arguments)
    assert status == 2 and not shown
    assert errors.startswith("migcore: error: ") and errors.count("\n") == 1 and message in errors


@pytest.mark.parametrize(("end", "status"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_stop_is_one_line(end: BaseException, status: int, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise end

    for command in (cli.Runs, cli.Train, cli.Tables):
        monkeypatch.setattr(command, "run", stop)
    line = "migcore: stopped; the same command {}\n"
    assert run("runs") == (status, "", line.format("starts from the beginning"))
    for arguments in (["train", "ours"], ["tables"]):
        assert run(*arguments) == (status, "", line.format("goes on from the last checkpoint"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_part_of_an_archive_nor_of_a_run(
    number: signal.Signals, status: int, book: Ledger, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in KEYS:
        book.save(make_run(key, **listed()), make_arrays())
    handler = signal.getsignal(signal.SIGTERM)
    stopped = (status, "", "migcore: stopped; the same command starts from the beginning\n")
    out = tmp_path / "out" / "runs.zip"
    assert run("runs", "pack", out, KEYS[0])[0] == 0
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", kill_at(3, number, shutil.copyfileobj))
        assert run("runs", "pack", out) == stopped
    assert files(tmp_path) == before and run("runs", "pack", out)[0] == 0

    home = Ledger(tmp_path / "home" / "runs")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(experiments, "ledger", lambda: home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", kill_at(4, number, shutil.copyfile))  # the second run's record
        assert run("runs", "merge", out) == stopped
    assert os.listdir(home.runs) == [make_run(KEYS[0]).name] and os.listdir(tmp_path / "tmp") == []
    assert sorted(os.listdir(home.runs / make_run(KEYS[0]).name)) == ["arrays.safetensors", "run.json"]
    assert run("runs", "merge", out)[1].splitlines()[-1] == f"{out}: 1 merged, 1 skipped; 0 of an older version"
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("where", ["nobody", "full", "closed"])
def test_output_that_goes_nowhere(
    where: str, lines: bool, folder: Path, book: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reader that leaves ends no work and is no error; a full disk is one line."""
    book.save(make_run(**listed()), make_arrays())
    full = "migcore: error: the output could not be written ([Errno 28] No space left on device). "
    out = tmp_path / "runs.zip"
    tables = ["tables", "--no-missing", "--preset", "smoke", "--data", str(folder), *SETTINGS]
    for arguments in (["doctor"], ["doctor", "--json"], ["runs"], ["runs", "pack", str(out)], tables, ["--help"]):
        if where == "closed" and arguments == ["--help"]:
            continue  # nobody asks for help and closes its ears
        with output_to(where, lines=lines):
            try:
                status: Any = cli.main(arguments)
            except SystemExit as end:
                status = end.code
        told = [t for t in capsys.readouterr().err.splitlines(keepends=True) if not t.startswith("migcore: note: ")]
        assert status == (2 if where == "full" else 0), arguments
        assert len(told) == (where == "full") and "".join(told).startswith(full if told else ""), arguments
    assert zipfile.ZipFile(out).testzip() is None
    with output_to(where, lines=lines):
        assert cli.main(["doctor", str(tmp_path / "nowhere")]) == 2  # what is wrong stays wrong
    assert capsys.readouterr().err.count("\n") == 1


def test_errors_that_nobody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("nobody", "full"):
        with output_to(where, lines=True), monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", sys.stdout)
            assert cli.main(["doctor", str(tmp_path / "nowhere")]) == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_process_ends_quietly_when_its_reader_leaves(unbuffered: str, book: Ledger) -> None:
    book.save(make_run(), make_arrays())
    environment = {**os.environ, "MIGCORE_RUNS": str(book.runs), "PYTHONUNBUFFERED": unbuffered}
    for arguments in ("runs | :", "--help | :", "--help | head -1", "--help > /dev/full"):
        command = f"{sys.executable} -m migcore {arguments}"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.stderr.count("\n") == ("full" in arguments) and "Traceback" not in done.stderr, arguments
        assert done.returncode == (2 if "full" in arguments else 0)


def test_a_stopped_training_can_go_on(folder: Path, book: Ledger) -> None:
    arguments = ["train", "posec3d_joint", "--preset", "smoke", "--data", str(folder), *SETTINGS]
    arguments += ["--set", "train_posec3d.epochs=2000"]
    environment = {**os.environ, "MIGCORE_RUNS": str(book.runs)}
    process = subprocess.Popen(
        [sys.executable, "-m", "migcore", *arguments], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(book.runs.glob("*/checkpoints/step-*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert list(book.runs.glob("*/checkpoints/step-*")) and not list(book.runs.glob("*/lock"))
