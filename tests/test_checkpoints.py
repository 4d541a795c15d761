"""Published weights as our modules."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from migcore import checkpoints
from migcore.checkpoints import load_reference
from migcore.errors import CheckpointError, ConfigError
from migcore.labels import class_prompts
from migcore.models.froster import FrosterConfig, Student, video_logits
from migcore.models.posec3d import PoseC3D, PoseC3DConfig
from tests.conformance.seeded import seeded_array

CONFIG = PoseC3DConfig(in_channels=5, num_classes=7, base_channels=2, stage_blocks=(1, 2, 1))


@pytest.fixture
def published() -> dict[str, torch.Tensor]:
    model = PoseC3D(CONFIG, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_mean"):
                tensor += 0.25
    return model.state_dict()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_posec3d_is_built_from_the_shapes(published: dict[str, torch.Tensor], prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: tensor for name, tensor in published.items()}
    torch.save({"meta": {"epoch": 24}, "state_dict": state}, tmp_path / "joint.pth")
    before = torch.get_rng_state()
    model = load_reference("posec3d", tmp_path / "joint.pth")
    assert torch.equal(before, torch.get_rng_state())
    assert model.config == CONFIG and not model.training
    assert all(torch.equal(tensor, published[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("backbone.layer2.1.conv2.conv.weight"), r"missing: backbone\.layer2\.1\.conv2\.conv\.weight"),
        (lambda s: s.update({"cls_head.fc_emb.weight": torch.ones(3)}), r"unexpected: cls_head\.fc_emb\.weight"),
        (lambda s: s.update({"cls_head.fc_cls.bias": torch.ones(8)}), r"cls_head\.fc_cls\.bias is \[8\], not \[7\]"),
        (lambda s: s.pop("backbone.conv1.conv.weight"), "not of a PoseC3D"),
        (lambda s: [s.pop(name) for name in list(s) if "layer3" in name], "not of a PoseC3D"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    published: dict[str, torch.Tensor], change: object, message: str, tmp_path: Path
) -> None:
    change(published)  # type: ignore[operator]
    torch.save(published, tmp_path / "joint.pth")
    with pytest.raises(CheckpointError, match=message):
        load_reference("posec3d", tmp_path / "joint.pth")


def test_unknown_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'stgcn'.*choose from posec3d, froster"):
        load_reference("stgcn", tmp_path / "x.pth")  # type: ignore[call-overload]


def test_weight_files_are_found_here(tmp_path: Path) -> None:
    checkpoints.save_weights(tmp_path / "w.safetensors", {"a": torch.ones(2)}, {"n": 1})
    state, meta = checkpoints.load_weights(tmp_path / "w.safetensors")
    assert meta == {"n": 1} and torch.equal(checkpoints.load_foreign(tmp_path / "w.safetensors")["a"], state["a"])


# --- FROSTER and Open-VCLIP -------------------------------------------------------------------------------------------

VECTOR = Path(__file__).parent / "conformance" / "froster_full.npz"
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def vector() -> dict[str, np.ndarray]:
    loaded = np.load(VECTOR)
    return {name: loaded[name] for name in loaded.files}


@pytest.fixture(scope="module")
def training_file(vector: dict[str, np.ndarray]) -> State:
    """All entries of FROSTER's training checkpoint: the student, the teacher and the projectors."""
    cfg = json.loads(str(vector["cfg"]))
    seeds = {name: cfg["seed_teacher" if name.startswith("raw_model.") else "seed_student"] for name in cfg["keys"]}
    return {n: torch.from_numpy(seeded_array(n, tuple(s), seeds[n])) for n, s in cfg["keys"].items()}


def without(state: State, *prefixes: str) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


@pytest.fixture
def averaged(training_file: State) -> State:
    """FROSTER's averaged weights: without the teacher."""
    return without(training_file, "raw_model.")


def compare(student: Student, vector: dict[str, np.ndarray], *, projectors: bool = True) -> None:
    """The published numbers, through a loaded student."""
    with torch.no_grad():
        video = torch.from_numpy(vector["video"])
        for prompts, expected in (("eval_tokens", "eval_logits"), ("train_tokens", "train_logits")):
            text_CE = student.class_embeddings(torch.from_numpy(vector[prompts]))
            logits = video_logits(student.visual(video), text_CE, student.clip.logit_scale)
            np.testing.assert_allclose(logits, vector[expected], atol=1e-4, rtol=0)
        frames_BTE = student(video).frames_BTE
        if projectors:
            np.testing.assert_allclose(student.projector_v(frames_BTE)[0], vector["student_image"], atol=1e-4, rtol=0)
            np.testing.assert_allclose(student.projector_t(text_CE), vector["student_text"], atol=1e-4, rtol=0)
        else:
            assert torch.equal(student.projector_v(frames_BTE), frames_BTE)
            assert torch.equal(student.projector_t(text_CE), text_CE)


def test_froster_is_built_from_the_shapes(
    training_file: State, averaged: State, vector: dict[str, np.ndarray], tmp_path: Path
) -> None:
    assert len(averaged) < len(training_file)
    whole = {"epoch": 12, "model_state": training_file, "optimizer_state": {"state": {}, "lr": 1e-6}, "cfg": "A: 1\n"}
    torch.save(whole, tmp_path / "checkpoint_epoch_00012.pyth")
    torch.save({"model_state": averaged}, tmp_path / "swa_2_22.pth")
    before = torch.get_rng_state()
    students = [load_reference("froster", tmp_path / name) for name in ("checkpoint_epoch_00012.pyth", "swa_2_22.pth")]
    assert torch.equal(before, torch.get_rng_state())
    compare(students[0], vector)
    state, other = (made.state_dict() for made in students)
    assert all(torch.equal(other[name], tensor) for name, tensor in state.items())
    made = students[0]
    assert made.config == FrosterConfig() and not any(part.training for part in made.modules())
    assert made.visual.image_size == (32, 32) and made.visual.grid_size == (4, 4)
    assert len(made.visual.transformer.resblocks) == 3 and len(made.clip.transformer.resblocks) == 2
    assert made.visual.transformer.resblocks[0].attn.heads == 2


@pytest.mark.parametrize(
    ("container", "prefix"),
    [("model_state", "model."), ("state_dict", "module.model."), ("model", ""), (None, "model."), (None, "")],
)
def test_open_vclip_has_no_projectors(
    averaged: State, vector: dict[str, np.ndarray], container: str | None, prefix: str, tmp_path: Path
) -> None:
    state = {prefix + n.removeprefix("model."): tensor for n, tensor in without(averaged, "projector_").items()}
    torch.save({container: state} if container else state, tmp_path / "vclip.pt")
    compare(load_reference("froster", tmp_path / "vclip.pt"), vector, projectors=False)


def test_safetensors_and_halves_are_read_too(averaged: State, vector: dict[str, np.ndarray], tmp_path: Path) -> None:
    checkpoints.save_weights(tmp_path / "swa.safetensors", averaged, {})
    compare(load_reference("froster", tmp_path / "swa.safetensors"), vector)
    torch.save({name: tensor.half() for name, tensor in averaged.items()}, tmp_path / "half.pth")
    made = load_reference("froster", tmp_path / "half.pth")
    assert {tensor.dtype for tensor in made.state_dict().values()} == {torch.float32}


def test_a_loaded_student_knows_the_prompts_of_imigue(averaged: State, tmp_path: Path) -> None:
    torch.save(averaged, tmp_path / "swa.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = load_reference("froster", tmp_path / "swa.pth")
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    expected = torch.stack([tokenizer(row) for row in class_prompts()])
    assert expected.shape == (29, 32, 77) and torch.equal(made.get_buffer("prompts"), expected)
    assert "prompts" not in made.state_dict()


def test_prompts_that_a_short_context_cuts_are_told(averaged: State, tmp_path: Path) -> None:
    averaged["model.positional_embedding"] = averaged["model.positional_embedding"][:20]
    torch.save(averaged, tmp_path / "swa.pth")
    with pytest.warns(UserWarning, match="fill the 20 tokens"):
        made = load_reference("froster", tmp_path / "swa.pth")
    assert made.get_buffer("prompts").shape == (29, 32, 20) and made.clip.context_length == 20


BLOCK = "model.visual.transformer.resblocks.1."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop(BLOCK + "attn.in_proj_bias"),
            r"missing: visual\.transformer\.resblocks\.1\.attn\.in_proj_bias",
        ),
        (
            lambda s: [s.pop(n) for n in list(s) if n.startswith(BLOCK)],
            r"12 of the entries are missing: visual\.tr.*s\.1\.",
        ),
        (lambda s: s.pop("model.logit_scale"), "missing: logit_scale"),
        (lambda s: s.pop("model.visual.proj"), r"missing: visual\.proj"),
        (lambda s: s.pop("model.ln_final.weight"), r"missing: ln_final\.weight"),
        (lambda s: s.pop("model.visual.conv1.weight"), r"not of a CLIP: it lacks visual\.conv1\.weight"),
        (
            lambda s: [s.pop(n) for n in list(s) if n.startswith("model.transformer")],
            r"lacks transformer\.resblocks\.0",
        ),
        (lambda s: s.update({BLOCK + "message_fc.weight": torch.ones(3)}), r"unexpected: visual.*message_fc\.weight"),
        (lambda s: s.update({"adapter.weight": torch.ones(3)}), r"unexpected: adapter\.weight"),
        (lambda s: s.update({"visual.proj": torch.ones(3)}), r"unexpected: visual\.proj"),
        (lambda s: s.pop("projector_t.2.weight"), r"missing: projector_t\.2\.weight"),
        (
            lambda s: [s.pop(f"projector_v.{n}.weight") for n in (0, 2)],
            r"missing: projector_v\.0\.weight, projector_v\.2",
        ),
        (lambda s: s.update({"projector_t.0.bias": torch.ones(3)}), r"unexpected: projector_t\.0\.bias"),
        (
            lambda s: s.update({"model.visual.proj": torch.ones(128, 32)}),
            r"visual\.proj is \[128, 32\], not \[128, 64\]",
        ),
        (
            lambda s: s.update({"model.visual.positional_embedding": torch.ones(15, 128)}),
            r"visual\.positional_embedding is \[15, 128\], not \[10, 128\]",
        ),
        (
            lambda s: s.update({"model.visual.positional_embedding": torch.ones(1, 128)}),
            r"0 x 0 patches",
        ),
        (
            lambda s: s.update({"model.visual.conv1.weight": torch.ones(96, 3, 8, 8)}),
            r"widths 96 and 64.*heads of 64 channels",
        ),
        (lambda s: s.update({"model.token_embedding.weight": torch.ones(50, 64)}), r"and 50 tokens.*49408 tokens"),
    ],
)
def test_students_that_do_not_fit_are_refused(
    averaged: State, change: Callable[[State], Any], message: str, tmp_path: Path
) -> None:
    change(averaged)
    torch.save(averaged, tmp_path / "swa.pth")
    with pytest.raises(CheckpointError, match=message):
        load_reference("froster", tmp_path / "swa.pth")


def test_a_teacher_or_a_tower_alone_is_no_student(training_file: State, averaged: State, tmp_path: Path) -> None:
    torch.save(without(training_file, "model.", "projector_"), tmp_path / "teacher.pth")
    torch.save({n[13:]: t for n, t in averaged.items() if n.startswith("model.visual.")}, tmp_path / "tower.pth")
    for name in ("teacher.pth", "tower.pth"):
        with pytest.raises(CheckpointError, match="not of a CLIP"):
            load_reference("froster", tmp_path / name)
    with pytest.raises(CheckpointError, match="no such weight file"):
        load_reference("froster", tmp_path / "none.pth")
