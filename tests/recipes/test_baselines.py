"""Table 1's other systems in small: each is trained, judged and recorded by the method's harness."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from migcore import ensemble, experiments
from migcore.baselines import baselines
from migcore.checkpoints import load_weights
from migcore.errors import CheckpointError, ConfigError
from migcore.models.clip import TeacherConfig, load_teacher
from migcore.models.weights import tensor_hash
from migcore.presets import PRESETS, Preset, preset
from migcore.recipes.student import init_identity, make_student
from tests.test_experiments import SMALL, forbid, write_folder

SYSTEMS = ("stgcn", "hyperformer", "trn", "evl", "dscnet_dense", "dscnet_sparse")
TRAINED = ("stgcn", "hyperformer", "trn", "evl", "dense", "sparse")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preset]:
    folder = write_folder(tmp_path_factory.mktemp("data"), films=True, size=96)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("MIGCORE_RUNS", str(tmp_path_factory.mktemp("ledger") / "runs"))
        warnings.simplefilter("ignore")  # every tiny split lacks classes
        recipe = {
            f"baselines.train_{name}.{k}": v for name in TRAINED for k, v in {"batch_size": 4, "epochs": 2}.items()
        }
        yield preset("smoke", {**SMALL, **recipe, "data.root": str(folder)})


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_system_is_trained_and_recorded(name: str, settings: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    run = experiments.run(name, settings)
    assert [row["epoch"] for row in run.history] == [1, 2] and run.metrics["test"]["n"] == 8
    assert run.history[0]["loss"] == pytest.approx(np.log(32), rel=0.5), "a network begins without an opinion"
    arrays = experiments.ledger().load_arrays(run, "test")
    assert arrays["logits"].shape == (8, 32) and np.isfinite(arrays["logits"]).all()
    np.testing.assert_allclose(np.exp(arrays["logits"]).sum(1), 1, atol=1e-4)
    assert run.folder is not None
    state, meta = load_weights(run.folder / experiments.WEIGHTS)
    assert meta["experiment"] == name and sum(t.numel() for t in state.values()) >= run.extra["parameters"] > 0
    forbid(monkeypatch)
    assert experiments.run(name, settings).key == run.key


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_seed_decides_everything(
    name: str, settings: Preset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = experiments.ledger().load_arrays(experiments.run(name, settings), "test")["logits"]
    other = experiments.ledger().load_arrays(experiments.run(name, settings, seed=1), "test")["logits"]
    monkeypatch.setenv("MIGCORE_RUNS", str(tmp_path / "again"))
    again = experiments.ledger().load_arrays(experiments.run(name, settings), "test")["logits"]
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_a_recipe_is_part_of_its_own_key_only(settings: Preset) -> None:
    index = experiments.dataset(settings)
    data = experiments.identity(index)

    def keys(**changes: object) -> dict[str, str]:
        values = {**dict(settings.overrides), "data.root": settings.data.root}
        changed = preset("smoke", {**values, **{f"baselines.{k}": str(v) for k, v in changes.items()}})
        return {name: experiments.key(name, changed, 0, data) for name in (*SYSTEMS, "dscnet", "posec3d_joint")}

    before = keys()
    for change, expected in (
        ("train_stgcn.lr", {"stgcn"}),
        ("hyperformer_clips.rotation", {"hyperformer"}),
        ("trn.dropout", {"trn"}),
        ("evl.dropout", {"evl"}),
        ("dense_clips.padding", {"dscnet_dense", "dscnet"}),
        ("train_sparse.lr", {"dscnet_sparse", "dscnet"}),
    ):
        after = keys(**{change: 0.07})
        assert {name for name in before if before[name] != after[name]} == expected


def test_dscnet_is_the_even_sum_of_its_streams(settings: Preset) -> None:
    run, book = experiments.run("dscnet", settings), experiments.ledger()
    logits = {
        n: book.load_arrays(experiments.run(n, settings), "test")["logits"]
        for n in experiments.EXPERIMENTS["dscnet"].depends
    }
    assert list(logits) == ["dscnet_dense", "dscnet_sparse"]
    expected = ensemble.fuse(logits, {"dscnet_dense": 0.5, "dscnet_sparse": 0.5})
    np.testing.assert_allclose(np.exp(book.load_arrays(run, "test")["logits"]), expected, rtol=1e-4, atol=1e-7)


def test_frozen_clip_leaves_the_clip_alone_and_out_of_its_weights(settings: Preset) -> None:
    run = experiments.run("evl", settings)
    assert run.folder is not None
    state, _ = load_weights(run.folder / experiments.WEIGHTS)
    assert not [name for name in state if "resblocks" in name or "conv1" in name]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_their_models(name: str) -> None:
    """What one part of a preset says of a size, the others say too."""
    found = preset(name)
    systems = found.baselines
    assert systems == baselines(name)
    assert found.video.frames == systems.trn.segments == systems.evl.frames
    assert (systems.dense.segments, systems.dense.window) == (systems.dense_clips.segments, systems.dense_clips.window)
    assert systems.sparse_clips.fit == "segments" and systems.sparse_clips.frames == 8


def test_published_recipes_are_those_of_the_papers() -> None:
    found = baselines("imigue")
    assert (found.train_hyperformer.lr, found.train_hyperformer.epochs, found.train_hyperformer.weight_decay) == (
        0.025, 140, 4e-4
    )  # fmt: skip
    assert (found.train_trn.lr, found.train_trn.epochs, found.train_trn.clip_norm) == (1e-3, 120, 20.0)
    assert (found.train_evl.lr, found.train_evl.weight_decay, found.train_evl.batch_size) == (4e-4, 0.05, 256)
    assert (found.train_dense.lr, found.train_dense.epochs, found.train_sparse.epochs) == (0.01, 60, 40)
    assert found.trn.backbone == found.dense.backbone == "resnet50"


# --- --init -----------------------------------------------------------------------------------------------------------


def save_student(path: Path, *, projectors: bool = True) -> dict[str, torch.Tensor]:
    """A student's weights under FROSTER's names, each entry moved a little."""
    teacher = load_teacher(TeacherConfig(precision="fp32"))
    student = make_student(teacher, preset("smoke").student, seed=3)
    state = {name.replace("clip.", "model.", 1): tensor + 0.01 for name, tensor in student.state_dict().items()}
    if not projectors:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("projector_")}
    torch.save({"model_state": state}, path)
    return state


@pytest.mark.parametrize("projectors", [True, False])
def test_a_student_starts_from_published_weights(projectors: bool, tmp_path: Path) -> None:
    published = save_student(tmp_path / "k400.pyth", projectors=projectors)
    teacher = load_teacher(TeacherConfig(precision="fp32"))
    config = preset("smoke").student
    plain = make_student(teacher, config, seed=0)
    made = make_student(teacher, config, seed=0, init=str(tmp_path / "k400.pyth"))
    for name, tensor in made.state_dict().items():
        wanted = published.get(name.replace("clip.", "model.", 1))
        assert torch.equal(tensor, plain.state_dict()[name] if wanted is None else wanted), name
    assert tensor_hash(teacher.clip.state_dict()) == tensor_hash(plain.clip.state_dict())


def test_weights_to_start_from_are_part_of_the_key_by_content(settings: Preset, tmp_path: Path) -> None:
    save_student(tmp_path / "a.pyth")
    (tmp_path / "b.pyth").write_bytes((tmp_path / "a.pyth").read_bytes())
    save_student(tmp_path / "c.pyth", projectors=False)
    data = experiments.identity(experiments.dataset(settings))
    keys = []
    for init in ("", *(str(tmp_path / f"{name}.pyth") for name in "abc")):
        changed = preset(
            "smoke", {**dict(settings.overrides), "data.root": settings.data.root, **({"init": init} if init else {})}
        )
        keys.append(experiments.key("froster", changed, 0, data))
    assert keys[1] == keys[2] and len(set(keys)) == 3
    assert init_identity("") == ""


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    state = save_student(tmp_path / "k400.pyth")
    state["model.text_projection"] = torch.zeros(64, 32)
    torch.save({"model_state": state}, tmp_path / "other.pyth")
    with pytest.raises(CheckpointError):
        make_student(
            load_teacher(TeacherConfig(precision="fp32")), preset("smoke").student, 0, str(tmp_path / "other.pyth")
        )
    with pytest.raises(CheckpointError, match="no such weight file"):
        init_identity(str(tmp_path / "none.pyth"))


def test_weights_to_start_from_are_judged_when_they_are_read(tmp_path: Path) -> None:
    state = save_student(tmp_path / "k400.pyth")
    for prefix in ("module._orig_mod.", "net."):
        torch.save({"net": {prefix + name: tensor for name, tensor in state.items()}}, tmp_path / "wrapped.pyth")
        teacher = load_teacher(TeacherConfig(precision="fp32"))
        made = make_student(teacher, preset("smoke").student, 0, str(tmp_path / "wrapped.pyth")).state_dict()
        assert all(torch.equal(made[n.replace("model.", "clip.", 1)], tensor) for n, tensor in state.items())
    for value, said in ((torch.nan, "NaN"), (torch.inf, "infinite")):
        name = "model.text_projection"
        torch.save({"net": {**state, name: torch.full_like(state[name], value)}}, tmp_path / "spoilt.pyth")
        with pytest.raises(CheckpointError, match=rf"spoilt\.pyth: 1 of the entries hold {said}.*: {name}"):
            init_identity(str(tmp_path / "spoilt.pyth"))


def test_unknown_fields_of_baselines_are_named() -> None:
    with pytest.raises(ConfigError, match="train_stgcn"):
        preset("smoke", {"baselines.train_stgn.lr": 1})
