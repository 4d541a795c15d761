"""Two processes are one: the same clips, the same draws, the same weights, as `torchrun` starts them on CPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from migcore import cli
from migcore.ledger import Ledger, Run
from migcore.models.shares import Share, drawn, sharing, synchronised
from migcore.models.weights import load_weights
from migcore.training import _Batches
from tests.test_experiments import SMALL, write_folder

ROOT = Path(__file__).resolve().parents[1]
CHANGES = {
    **SMALL,
    "train_student.batch_size": 7,  # neither this nor the number of clips is divided by two
    "train_student.epochs": 2,
    "train_posec3d.batch_size": 7,
    "train_posec3d.epochs": 2,
    "baselines.stgcn.base_channels": 16,
}


WITHOUT_EFFECT = ("gcn.conv.bias", "tcn.2.bias", "residual.0.bias")
"""Biases that the batch norm behind them takes out again: their gradient is rounding."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"), films=True, size=112)


def words(name: str, folder: Path) -> list[str]:
    """The words of `migcore train`."""
    changes = [f"--set={n}={','.join(map(str, v)) if isinstance(v, (list, tuple)) else v}" for n, v in CHANGES.items()]
    return ["train", name, "--preset", "smoke", "--data", str(folder), "--weights", *changes]


def command(name: str, folder: Path, processes: int) -> list[str]:
    """`torchrun … -m migcore train …`."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [*launcher, "-m", "migcore", *words(name, folder)]


def environment(runs: Path) -> dict[str, str]:
    return {**os.environ, "MIGCORE_RUNS": str(runs), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def train(name: str, folder: Path, runs: Path, processes: int, *more: str) -> tuple[Run, str]:
    """Several processes as torchrun starts them; one here."""
    told = ""
    if processes > 1:
        started = [*command(name, folder, processes), *more]
        done = subprocess.run(started, env=environment(runs), capture_output=True, text=True, timeout=300, cwd=ROOT)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-4000:]
        told = done.stdout
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MIGCORE_RUNS", str(runs))
            assert cli.main([*words(name, folder), *more]) == 0
    (run,) = Ledger(runs).find(name)
    return run, told


def same(one: Run, two: Run, runs: Sequence[Path], *, within: float) -> None:
    """Weights and logits of the runs agree, relative to the largest of each."""
    assert one.key == two.key and one.clips == two.clips
    for split in one.clips:
        first, second = (Ledger(r).load_arrays(run, split)["logits"] for r, run in zip(runs, (one, two), strict=True))
        assert np.abs(first - second).max() <= within * max(1.0, float(np.abs(first).max())), split
    assert one.folder is not None and two.folder is not None
    if not (one.folder / "weights.safetensors").exists():
        return
    states = [load_weights(run.folder / "weights.safetensors")[0] for run in (one, two)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        if one.experiment == "stgcn" and name.endswith(WITHOUT_EFFECT):
            continue
        difference = (value.double() - states[1][name].double()).abs()
        if name.endswith("attn.in_proj_bias"):
            # The soft-max does not see the keys' bias: its gradient is rounding, of which Adam makes whole steps.
            difference = torch.cat([part for number, part in enumerate(difference.chunk(3)) if number != 1])
        apart = difference.max().item()
        assert apart <= within * max(1.0, value.double().abs().max().item()), f"{name} is {apart} apart"


@pytest.mark.parametrize(
    ("name", "within"),
    [
        ("zero_shot", 1e-5),
        ("linear_probe", 1e-5),
        ("froster_decay", 1e-5),
        ("posec3d_joint", 1e-4),  # batch norm and dropout
        pytest.param("vclip", 1e-5, marks=pytest.mark.full),
        pytest.param("froster", 1e-5, marks=pytest.mark.full),
        pytest.param("posec3d_limb", 1e-4, marks=pytest.mark.full),
        pytest.param("stgcn", 5e-4, marks=pytest.mark.full),  # ten batch norms of so few clips magnify rounding
        pytest.param("hyperformer", 1e-4, marks=pytest.mark.full),
        pytest.param("trn", 1e-4, marks=pytest.mark.full),
        pytest.param("evl", 1e-5, marks=pytest.mark.full),
        pytest.param("dscnet_dense", 1e-4, marks=pytest.mark.full),
        pytest.param("dscnet_sparse", 1e-4, marks=pytest.mark.full),
    ],
)
def test_two_processes_give_the_numbers_of_one(name: str, within: float, folder: Path, tmp_path: Path) -> None:
    runs = [tmp_path / "one", tmp_path / "two"]
    one, _ = train(name, folder, runs[0], 1)
    two, told = train(name, folder, runs[1], 2)
    assert told.count(two.name) == 1, "one of the processes speaks"
    same(one, two, runs, within=within)


@pytest.mark.full
def test_four_processes_give_the_numbers_of_one(folder: Path, tmp_path: Path) -> None:
    for name, within in (("froster_decay", 1e-5), ("posec3d_joint", 1e-4)):
        runs = [tmp_path / name / "one", tmp_path / name / "four"]
        same(train(name, folder, runs[0], 1)[0], train(name, folder, runs[1], 4)[0], runs, within=within)


def test_ours_is_made_by_two_processes_and_goes_on_after_a_kill(folder: Path, tmp_path: Path) -> None:
    runs, longer = tmp_path / "runs", ["--set=train_student.epochs=8"]
    started = subprocess.Popen(
        [*command("ours", folder, 2), *longer], env=environment(runs), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=ROOT,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not list(runs.glob("froster_decay-*/checkpoints/step-*.safetensors")) and time.monotonic() < deadline:
        assert started.poll() is None, started.communicate()[1].decode()[-3000:]
        time.sleep(0.02)
    last = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()[-1]
    os.kill(int(last), signal.SIGKILL)
    assert started.wait(60) != 0, "one process that is gone ends the other"
    started.communicate()
    assert not list(runs.glob("froster_decay-*/run.json")), "it was in the middle of it"
    resumed, _ = train("ours", folder, runs, 2, *longer)
    whole, _ = train("ours", folder, tmp_path / "whole", 2, *longer)
    assert resumed.key == whole.key and resumed.extra["weights"] == whole.extra["weights"]
    for name in ("froster_decay", "posec3d_joint_text"):
        files = [next(r.glob(f"{name}-*/weights.safetensors")) for r in (runs, tmp_path / "whole")]
        first, second = (load_weights(file)[0] for file in files)
        assert all(torch.equal(first[key], second[key]) for key in first), "resumed bit for bit"


STOPPED = """
import os, signal, sys
from pathlib import Path
from tests.test_training import *
import torch.distributed as dist

step, stop = 0, int(sys.argv[2])

def stopped(model, batch):
    global step
    step += 1
    if step == stop and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return loss(model, batch)

model = net(9)
done = train(model, Path(sys.argv[1]), dataclasses.replace(QUICK, epochs=3, batch_size=7), loss=stopped)
if os.environ["RANK"] == "0":
    print("END", hashlib.sha256(b"".join(v.numpy().tobytes() for v in model.state_dict().values())).hexdigest())
dist.destroy_process_group()
"""


def test_two_processes_that_were_stopped_within_an_epoch_go_on_bit_for_bit(tmp_path: Path) -> None:
    stop = 8

    def run(name: str, step: int) -> tuple[int, str]:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        script = tmp_path / "script.py"
        script.write_text(STOPPED)
        done = subprocess.run(
            [*launch, str(script), str(tmp_path / name), str(step)], env=environment(tmp_path), capture_output=True,
            text=True, timeout=200, cwd=ROOT,
        )  # fmt: skip
        return done.returncode, done.stdout.partition("END ")[2].strip()

    assert run("stopped", stop)[0] != 0
    assert len(list((tmp_path / "stopped").glob(f"step-{stop:08d}.safetensors"))) == 1, "in the middle of an epoch"
    status, resumed = run("stopped", 0)
    assert status == 0 and len(resumed) == 64 and run("whole", 0) == (0, resumed)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize(("clips", "size", "first"), [(10, 4, 0), (10, 4, 2), (3, 4, 0), (17, 5, 1), (4, 4, 0)])
def test_shares_are_all_clips_once_and_in_order(world: int, clips: int, size: int, first: int) -> None:
    order = np.random.default_rng(0).permutation(clips).tolist()
    parts = [_Batches(order, size, first, (rank, world)) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    together: list[int] = []
    for shares, items in zip(zip(*(p.shares() for p in parts), strict=True), zip(*parts, strict=True), strict=True):
        assert max(s.clips for s in shares) - min(s.clips for s in shares) <= 1
        assert len({s.total for s in shares}) == 1 and sum(s.clips for s in shares) == shares[0].total
        for share, item in zip(shares, items, strict=True):
            assert len(item) == max(share.clips, 1), "nobody stands idle while others meet"
            together += item[: share.clips]
    assert together == order[first * size :]


@pytest.fixture
def world_of_one(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("world_of_one")
@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm1d, (6, 4)), (nn.BatchNorm2d, (6, 4, 3, 2)), (nn.BatchNorm3d, (2, 4, 3, 2, 2))]
)
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_synchronised_batch_norm_is_torchs(
    kind: type[nn.Module], shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Sequential(kind(4, **options)).double() for _ in range(2))
    for _ in range(3):
        data = torch.randn(shape, dtype=torch.float64) * 3 + 1
        x, y = data.clone().requires_grad_(), data.clone().requires_grad_()
        with synchronised(ours):
            first = ours(x)
        second = theirs(y)
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)
        for value in (first, second):
            (value.sin() * torch.arange(value.numel(), dtype=torch.float64).reshape(shape)).sum().backward()
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-8, atol=1e-8)
    for (name, mine), (_, other) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10, msg=name)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-8, atol=1e-8)
    ours.eval(), theirs.eval()
    with synchronised(ours):
        assert torch.equal(ours(data), ours[0](data))
    torch.testing.assert_close(ours(data), theirs(data), rtol=1e-10, atol=1e-10)
    assert "forward" not in vars(ours[0])


def test_what_is_drawn_for_a_clip_is_the_same_whoever_has_it() -> None:
    whole = torch.rand(7 * 3, 5, generator=torch.Generator().manual_seed(1))

    def draw(share: Share) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        with sharing(share):
            return drawn((3 * max(share.clips, 1), 5), lambda shape: torch.rand(shape, generator=generator))

    assert torch.equal(torch.cat([draw(Share(0, 4, 7)), draw(Share(4, 3, 7))]), whole)
    assert torch.equal(draw(Share(0, 7, 7)), whole) and draw(Share(0, 0, 7)).shape == (3, 5)
    with pytest.raises(ValueError, match="7 rows"), sharing(Share(0, 2, 7)):
        drawn((7, 2), torch.rand)
