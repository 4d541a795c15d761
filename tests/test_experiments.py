"""An experiment runs once per key, resumes, and its key follows what decides its numbers and nothing else."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import migcore.recipes.clip
from migcore import experiments, training
from migcore.checkpoints import save_weights
from migcore.data.folder import content_of, find_files
from migcore.data.imigue import write_labels_csv, write_skeleton_csv
from migcore.data.layouts import IMIGUE22
from migcore.data.writer import FilmWriter
from migcore.errors import ConfigError, DataError, LedgerError
from migcore.heatmaps import joint_heatmaps, limb_heatmaps
from migcore.ledger import Ledger, Run
from migcore.presets import Preset, preset
from migcore.recipes.clip import fit_linear
from migcore.recipes.job import measure
from migcore.recipes.skeleton import SkeletonStream

SMALL = {
    "skeleton.frames": 4,
    "skeleton.train_size": [8, 8],
    "skeleton.test_size": [8, 8],
    "posec3d.base_channels": 2,
    "posec3d.stage_blocks": [1, 1, 1],
    "train_posec3d.epochs": 2,
    "train_posec3d.batch_size": 5,
    "train_posec3d.device": "cpu",
    "video.frames": 2,
    "video.size": 16,
    "probe.iterations": 20,
}
LABELS = (0, 3, 3, 7)
FRAMES = 8  # of a clip


def write_folder(root: Path, *, films: bool = False, size: int = 16) -> Path:
    """Two subjects a split, a film each of four clips: a small folder in iMiGUE's layout."""
    rng = np.random.default_rng(0)
    lines = ["video,split,subject"]
    for number in range(6):
        video, split = f"{number + 1:04d}", ("train", "val", "test")[number // 2]
        frames = FRAMES * len(LABELS)
        keypoints = rng.uniform(20, 80, size=(1, 35, 2)) + rng.normal(size=(frames, 35, 2)).cumsum(0)
        write_skeleton_csv(root / video / f"{video}_light_hand.csv", keypoints, np.full((frames, 35), 0.9))
        rows = [(label, FRAMES * k + 1, FRAMES * (k + 1)) for k, label in enumerate(LABELS)]
        write_labels_csv(root / video / f"{video}_label.csv", rows)
        if films:
            with FilmWriter(root / video / f"{video}.mp4", (size, size), 25) as film:
                shade = np.repeat(np.asarray(LABELS), FRAMES) * 30
                film.write(np.broadcast_to(shade[:, None, None, None], (frames, size, size, 3)).astype(np.uint8))
        lines.append(f"{video},{split},P{number}")
    (root / "splits.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"), films=True)


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MIGCORE_RUNS", str(tmp_path / "runs"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every tiny split lacks classes
        yield tmp_path / "runs"


def small(folder: Path, **overrides: Any) -> Preset:
    changed = {name.replace("__", "."): value for name, value in overrides.items()}
    return preset("smoke", {**SMALL, "data.root": str(folder), **changed})


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nothing may be trained."""

    def no(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(training._Loop, "step", no)


# ---------------------------------------------------------------------------------------------------------------- runs


def test_a_run_is_made_once_and_recorded_whole(folder: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = experiments.run("posec3d_joint", small(folder), seed=1)
    assert (made.experiment, made.seed, made.preset) == ("posec3d_joint", 1, small(folder).label)
    assert [row["epoch"] for row in made.history] == [1, 2] and "val_mean_class" in made.history[-1]
    assert set(made.metrics) == {"val", "test"} and made.metrics["test"]["n"] == 8
    assert made.clips["test"]["ids"] == [f"000{v}_{k}" for v in (5, 6) for k in range(4)]
    assert made.clips["test"]["subjects"] == ["P4"] * 4 + ["P5"] * 4
    arrays = experiments.ledger().load_arrays(made, "test")
    assert arrays["logits"].shape == (8, 32) and arrays["logits"].dtype == np.float32
    assert arrays["labels"].tolist() == [*LABELS, *LABELS]
    np.testing.assert_allclose(np.exp(arrays["logits"]).sum(1), 1, atol=1e-5)
    assert measure(arrays["logits"], arrays["labels"]) == made.metrics["test"]
    assert made.device.startswith("cpu") and made.seconds > 0 and made.extra["parameters"] > 100
    kept = sorted(path.name for path in (runs / made.name).iterdir())
    assert kept == ["arrays.safetensors", "run.json", "weights.safetensors"]

    forbid(monkeypatch)
    again = experiments.run("posec3d_joint", small(folder, train_posec3d__workers=1), seed=1)
    assert again == made


def test_fusion_is_the_mean_of_the_probabilities(folder: Path) -> None:
    fused = experiments.run("posec3d_fusion", small(folder))
    book = experiments.ledger()
    streams = [book.get(fused.depends[name]) for name in ("posec3d_joint", "posec3d_limb")]
    logits = [book.load_arrays(run, "test")["logits"] for run in streams if run is not None]
    assert len(logits) == 2 and not np.allclose(*logits)
    expected = (np.exp(logits[0]) + np.exp(logits[1])) / 2
    np.testing.assert_allclose(np.exp(book.load_arrays(fused, "test")["logits"]), expected, rtol=1e-4)


def test_an_interrupted_run_goes_on_to_the_same_numbers(
    folder: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = experiments.run("posec3d_limb", small(folder))
    expected = experiments.ledger().load_arrays(whole, "test")["logits"]
    monkeypatch.setenv("MIGCORE_RUNS", str(tmp_path / "other"))
    step = training._Loop.step

    def interrupted(self: Any, loss: Any, optimizer: Any, batch: Any, share: Any, number: int) -> Any:
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, loss, optimizer, batch, share, number)

    with monkeypatch.context() as patch:
        patch.setattr(training._Loop, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            experiments.run("posec3d_limb", small(folder))
    left = tmp_path / "other" / whole.name
    assert [path.name for path in left.iterdir()] == ["checkpoints"]
    resumed = experiments.run("posec3d_limb", small(folder))
    np.testing.assert_array_equal(experiments.ledger().load_arrays(resumed, "test")["logits"], expected)
    assert not (left / "checkpoints").exists() and resumed.key == whole.key


def test_two_makers_of_one_run(folder: Path) -> None:
    book, settings = experiments.ledger(), small(folder)
    index = experiments.dataset(settings)
    key = experiments.key("posec3d_joint", settings, 0, experiments.identity(index))
    planned = Run(key, "posec3d_joint", "", 0, {}, "", "", [])
    with (
        book.writer(planned),
        pytest.raises(LedgerError, match=r"posec3d_joint \(seed 0\) is being written by process"),
    ):
        experiments.run("posec3d_joint", settings, wait=False)


def test_a_run_that_another_is_making_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book, settings = experiments.ledger(), small(folder)
    made = experiments.run("posec3d_joint", settings)
    record = (made.folder / "run.json") if made.folder is not None else Path()
    record.rename(record.with_suffix(".later"))
    forbid(monkeypatch)

    def other() -> None:
        with book.writer(made):
            holding.set()
            time.sleep(0.5)
            record.with_suffix(".later").rename(record)

    holding = threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    holding.wait()
    assert experiments.run("posec3d_joint", settings) == made
    thread.join()


def test_keys_follow_what_decides_numbers(folder: Path) -> None:
    settings = small(folder)
    data = experiments.identity(experiments.dataset(settings))

    def key(name: str = "posec3d_joint", settings: Preset = settings, seed: int = 0, data: str = data) -> str:
        return experiments.key(name, settings, seed, data)

    same = [
        key(settings=small(folder, train_posec3d__workers=3)),
        key(settings=small(folder, video__frames=9)),
        key(settings=dataclasses.replace(settings, name="other")),
    ]
    others = [
        key(seed=1),
        key("posec3d_limb"),
        key(data="other"),
        key(settings=small(folder, train_posec3d__lr=0.01)),
        key(settings=small(folder, skeleton__padding=0.1)),
        key(settings=small(folder, posec3d__dropout=0.1)),
    ]
    assert set(same) == {key()} and key() not in others and len(set(others)) == len(others)
    assert key("posec3d_fusion") != key("posec3d_fusion", settings=small(folder, train_posec3d__lr=0.01))


def test_identity_follows_the_clips(folder: Path, tmp_path: Path) -> None:
    before = experiments.identity(experiments.dataset(small(folder)))
    other = write_folder(tmp_path / "copy")
    labels = other / "0001" / "0001_label.csv"
    first = experiments.identity(experiments.dataset(small(other)))
    labels.write_text(labels.read_text().replace("1,1,8", "2,1,8"))
    assert len({before, first, experiments.identity(experiments.dataset(small(other)))}) == 3


def imports(module: str) -> set[str]:
    """Modules of migcore that a module imports."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    found = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("migcore"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if _is_module(inner) else str(node.module))
    return found


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_no_module_that_decides_numbers_is_forgotten(name: str) -> None:
    """What the listed modules import is listed too, or known to decide no number."""
    neutral = {"migcore.errors", "migcore.files", "migcore.ledger", "migcore.resume", "migcore.data.folder"}
    # The clips that the readers find are part of the data's identity.
    neutral |= {"migcore.data.imigue", "migcore.data.files", "migcore.labels"}
    # Each stream uses its own half of the data sets; weights are part of the configuration.
    neutral |= {"migcore.data.video", "migcore.data.layouts", "migcore.models.weights"}
    neutral |= {"migcore.models.wrappers"}  # finds the weights in a file, which are part of the configuration
    # A recipe's functions that decide numbers are listed by name, configurations are part of the key.
    neutral |= {"migcore.recipes.job", "migcore.presets", "migcore.checkpoints", "migcore.models.interpolate"}
    if name.startswith("difficulty"):
        neutral |= {"migcore.training"}  # the name of the device is taken from it, nothing else
    listed = experiments.EXPERIMENTS[name].modules
    whole = [entry for entry in listed if ":" not in entry]
    missing = set().union(*map(imports, whole)) - set(whole) - neutral
    assert not missing
    assert len(experiments.source_hash(listed)) == 64  # every entry exists


def test_lookup_prefers_the_very_clips_and_marks_what_is_older(folder: Path, tmp_path: Path) -> None:
    settings = small(folder)
    assert experiments.lookup("posec3d_fusion", settings) is None
    made = experiments.run("posec3d_fusion", settings)
    index = experiments.dataset(settings)
    for found in (
        experiments.lookup("posec3d_fusion", settings),
        experiments.lookup("posec3d_fusion", settings, 0, index),
    ):
        assert found == made and found is not None and not found.stale
    other = experiments.dataset(small(write_folder(tmp_path / "other")))
    found = experiments.lookup("posec3d_fusion", settings, 0, other)
    assert found is not None and found.key == made.key and found.stale  # of other data
    edited = dataclasses.replace(settings, train_posec3d=dataclasses.replace(settings.train_posec3d, lr=0.9))
    found = experiments.lookup("posec3d_fusion", edited)
    assert found is not None and found.stale  # its streams had another recipe
    assert experiments.lookup("posec3d_joint", settings, seed=5) is None


def test_damaged_clips_are_skipped_only_when_asked(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data")
    path = root / "0005" / "0005_light_hand.csv"
    lines = path.read_text().splitlines()
    lines[3] = lines[3].replace("0.900", "nine", 1)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"0005_light_hand\.csv, row 4"):
        experiments.run("posec3d_joint", small(root))
    made = experiments.run("posec3d_fusion", small(root, data__skip_bad=True))
    assert made.metrics["test"]["n"] == 4 and made.clips["test"]["ids"] == [f"0006_{k}" for k in range(4)]
    streams = experiments.ledger().find("posec3d_joint")
    assert set(streams[0].extra["skipped"]) == {f"0005_{k}" for k in range(4)}


def test_names_and_folders_that_are_not_there(runs: Path) -> None:
    with pytest.raises(ConfigError, match=r"no experiment is called 'posec3d_join'\. Did you mean posec3d_joint"):
        experiments.run("posec3d_join", preset("smoke"))
    with pytest.raises(ConfigError, match="There are zero_shot"):
        experiments.experiment("qqq")
    with pytest.raises(ConfigError, match=r"needs a folder of clips.*--data ROOT"):
        experiments.dataset(preset("imigue"))
    with pytest.raises(DataError, match="nowhere"):
        experiments.dataset(preset("imigue", {"data.root": "nowhere"}))


def test_a_preset_may_be_given_by_its_name(runs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = experiments.run("posec3d_joint", small(folder))
    monkeypatch.setattr("migcore.presets.preset", lambda name: small(folder) if name == "tiny" else preset(name))
    index = experiments.dataset("tiny")
    assert experiments.run("posec3d_joint", "tiny") == made
    assert experiments.lookup("posec3d_joint", "tiny", 0, index) == made
    assert experiments.run_all(["posec3d_joint"], "tiny") == {"posec3d_joint": made}
    assert experiments.key("posec3d_joint", "tiny", 0, experiments.identity(index)) == made.key
    assert experiments.dataset_at_hand("tiny") is not None and experiments.data_folder("tiny") == folder
    for call in (experiments.run, experiments.lookup):
        with pytest.raises(ConfigError, match="no preset is called 'tni'"):
            call("posec3d_joint", "tni")
        with pytest.raises(ConfigError, match="a preset that is a dict"):
            call("posec3d_joint", {})  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5, "1", None, True])
def test_seeds_are_whole_numbers_from_0(folder: Path, seed: Any) -> None:
    for call in (experiments.run, experiments.lookup):
        with pytest.raises(ConfigError, match=r"seeds are whole numbers, 0 or more"):
            call("posec3d_joint", small(folder), seed)
    with pytest.raises(ConfigError, match=r"seeds are whole numbers, 0 or more"):
        experiments.run_all(["posec3d_joint"], small(folder), seed)


def test_the_studio_is_made_once(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fake(out: Path, config: Any, *, progress: bool) -> Path:
        calls.append((out, config, progress))
        write_folder(out)
        content = content_of(out, find_files(out).all)
        (out / "identity.json").write_text(json.dumps({"identity": "abc", "content": content}))
        return out

    monkeypatch.setattr(experiments, "write_studio", fake)
    settings = preset("smoke")
    first, second = experiments.dataset(settings), experiments.dataset(settings)
    assert first == second and first.identity == "abc" and len(calls) == 1
    out, config, progress = calls[0]
    assert out.parent == runs / "data" and config == settings.studio and progress is False
    assert experiments.data_folder(preset("smoke", {"studio.seed": 1})) != out


def test_data_at_hand_is_never_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "write_studio", None)
    assert (
        experiments.dataset_at_hand(preset("smoke")) is None and experiments.dataset_at_hand(preset("imigue")) is None
    )
    found = experiments.dataset_at_hand(small(folder))
    assert found is not None and len(found.split("test")) == 8


def test_runs_live_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert experiments.ledger().runs == tmp_path / "runs" and experiments.ledger().recorded is not None
    monkeypatch.delenv("MIGCORE_RUNS")
    root = Path(experiments.__file__).resolve().parents[1]
    for folder, runs in ((root, Path("runs")), (root / "notebooks", root / "runs"), (tmp_path, Path("runs"))):
        monkeypatch.chdir(folder)
        assert experiments.ledger().runs == runs
    monkeypatch.setattr(experiments, "source_root", lambda: None)
    assert experiments.ledger().recorded is None and isinstance(experiments.ledger(), Ledger)


# ------------------------------------------------------------------------------------------------------------- recipes


class FakeTeacher(nn.Module):
    """Says by the brightness of a frame which class it is: class = brightness / 30."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def encode_video(self, video: Tensor) -> Tensor:
        bright = video.float().mean((1, 3, 4)) / 30  # [B, T]
        return torch.exp(-((bright[..., None] - torch.arange(32.0)) ** 2))

    def class_embeddings(self) -> Tensor:
        return torch.eye(32)

    def logits(self, frames: Tensor, text: Tensor) -> Tensor:
        return frames.mean(1) @ text.T


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setattr(migcore.recipes.clip, "load_teacher", lambda config: FakeTeacher())
    weights = tmp_path / "weights.safetensors"
    save_weights(weights, {"w": torch.zeros(2)}, {})
    return str(weights)


def test_zero_shot(folder: Path, teacher: str) -> None:
    made = experiments.run("zero_shot", small(folder, teacher__pretrained=teacher, video__test_clips=2), seed=4)
    assert made.metrics["test"]["top1"] == 1 and made.seed == 0 and made.history == []
    assert experiments.lookup("zero_shot", small(folder, teacher__pretrained=teacher, video__test_clips=2), 7) == made
    save_weights(Path(teacher), {"w": torch.ones(2)}, {})
    index = experiments.dataset(small(folder))
    assert made.key != experiments.key(
        "zero_shot", small(folder, teacher__pretrained=teacher, video__test_clips=2), 0, experiments.identity(index)
    )


def test_linear_probe(folder: Path, teacher: str) -> None:
    made = experiments.run("linear_probe", small(folder, teacher__pretrained=teacher))
    assert made.metrics["val"]["mean_class"] == made.metrics["test"]["mean_class"] == 1
    assert set(made.extra["held_out_mean_class"]) == {"1e-05", "0.0001", "0.001", "0.01", "0.1"}
    assert made.extra["l2"] in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def test_fit_linear_finds_the_minimum() -> None:
    """At the minimum of a convex function the gradient is zero: mean_n (p_n - y_n) x_n = -l2 W, and of the bias 0."""
    rng = torch.Generator().manual_seed(0)
    x_NE = torch.randn(60, 4, generator=rng, dtype=torch.float64)
    y_N = torch.randint(3, (60,), generator=rng)
    weight, bias = fit_linear(x_NE, y_N, 5, 0.1, 200)
    error = torch.softmax(x_NE @ weight.T + bias, -1) - nn.functional.one_hot(y_N, 5)
    # The classes without clips have no finite optimum of the bias, so theirs only comes near.
    assert (error.T @ x_NE / 60 + 0.1 * weight).abs().max() < 1e-3 and error.mean(0).abs().max() < 1e-3


@pytest.mark.parametrize("kind", ["joint", "limb"])
def test_streams_draw_their_volumes_and_do_not_depend_on_chunks(kind: Any) -> None:
    rng = torch.Generator().manual_seed(0)
    batch = {
        "keypoints": 8 * torch.rand(3, 2, 1, 4, 22, 2, generator=rng),
        "scores": torch.rand(3, 2, 1, 4, 22, generator=rng),
        "label": torch.tensor([0, 1, 2]),
    }
    small_steps = SkeletonStream(kind, IMIGUE22, (8, 8), (8, 10), views_at_once=1)
    at_once = dataclasses.replace(small_steps, views_at_once=99)
    points, scores = batch["keypoints"][:, 0], batch["scores"][:, 0]
    if kind == "joint":
        expected = joint_heatmaps(points, scores, (8, 8))
    else:
        expected = limb_heatmaps(points, scores, (8, 8), bones=IMIGUE22.bones)
    assert torch.equal(at_once.volumes(points, scores, (8, 8)), expected)
    assert expected.shape[1] == at_once.channels == (22 if kind == "joint" else 21)

    class Summed(nn.Module):
        def forward(self, volume: Tensor) -> Tensor:
            assert volume.shape[-2:] in ((8, 8), (8, 10))
            return volume.sum((2, 3, 4))

    torch.testing.assert_close(small_steps.predict(Summed(), batch), at_once.predict(Summed(), batch))
    assert at_once.predict(Summed(), batch).shape == (3, 2, at_once.channels)
    loss, logits = at_once.loss(Summed(), batch)
    torch.testing.assert_close(logits, expected.sum((2, 3, 4)))
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, batch["label"]))


def test_clips_without_label_are_not_measured() -> None:
    logits = np.eye(4, 32)
    assert measure(logits, np.full(4, -1)) == {}
    assert measure(logits, np.array([0, 1, -1, -1]))["n"] == 2
