"""Published weights as our modules: each kind against what its publisher's code computed, and what is refused."""

from __future__ import annotations

import argparse
import json
import logging
import pickle
import random
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from migcore import checkpoints, reference
from migcore.checkpoints import Froster, load_reference
from migcore.errors import CheckpointError, ConfigError, DataError
from migcore.labels import class_prompts
from migcore.models.froster import Distillation, FrosterConfig, distillation_loss, video_logits
from migcore.models.posec3d import PoseC3D, PoseC3DConfig
from migcore.models.vclip import VCLIPConfig, VideoTower
from tests.conformance.seeded import seeded_array

VECTORS = Path(__file__).parent / "conformance"
State = dict[str, Tensor]
load: Callable[..., Any] = load_reference  # for kinds that a type checker does not know


@cache
def read(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the description of a conformance vector."""
    with np.load(VECTORS / f"{name}.npz") as loaded:
        arrays = {key: loaded[key] for key in loaded.files}
    return arrays, json.loads(str(arrays.pop("cfg")))


def seeded(keys: dict[str, list[int]], seed: int) -> State:
    """Its weights, in the publisher's naming; counters of batches are zero."""
    return {
        name: torch.zeros((), dtype=torch.int64)
        if name.endswith("num_batches_tracked")
        else torch.from_numpy(seeded_array(name, tuple(shape), seed)).reshape(shape)
        for name, shape in keys.items()
    }


def without(state: State, *prefixes: str) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def close(ours: Tensor, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), expected, atol=tolerance, rtol=0)


# --- every kind -------------------------------------------------------------------------------------------------------


def _weights(vector: str, keys: str = "keys", seed: str = "seed") -> State:
    _, cfg = read(vector)
    return seeded(cfg[keys], cfg[seed])


def _stgcn() -> State:
    return {**_weights("stgcn"), "A": torch.from_numpy(read("stgcn")[0]["A"])}


def _froster() -> State:
    _, cfg = read("froster_full")
    students = seeded({n: s for n, s in cfg["keys"].items() if not n.startswith("raw_model.")}, cfg["seed_student"])
    return {**students, **seeded({n: s for n, s in cfg["keys"].items() if n not in students}, cfg["seed_teacher"])}


_MADE: dict[str, Callable[[], State]] = {
    "vision_tower": lambda: _weights("vclip_expand"),
    "froster": _froster,
    "posec3d": lambda: _weights("posec3d_w8"),
    "stgcn": _stgcn,
    "hyperformer": lambda: _weights("hyperformer"),
    "evl": lambda: _weights("evl_decoder"),
    "trn": lambda: _weights("trn_scaleT"),
    "dscnet_skeleton": lambda: _weights("dscnet"),
    "dscnet_stmem": lambda: _weights("dscnet", "stmem_keys", "stmem_seed"),
}
KINDS = tuple(_MADE)
_made_once = cache(lambda kind: _MADE[kind]())


def weights(kind: str) -> State:
    """The published weights of a kind; the dict may be changed, its tensors are shared."""
    return dict(_made_once(kind))


def words(kind: str) -> dict[str, Any]:
    """What a kind needs beside its weights, as the vector has it."""
    if kind == "hyperformer":
        cfg = read("hyperformer")[1]
        return {"joint_groups": cfg["joint_label"], "bones": cfg["edges"]}
    return {"grid": tuple(read("evl_decoder")[1]["hw"])} if kind == "evl" else {}


def computed(kind: str, model: Any) -> None:
    """A loaded model computes what the published one did."""
    with torch.no_grad():
        if kind == "vision_tower":
            vector, _ = read("vclip_expand")
            frames_BTE = model(torch.from_numpy(vector["video"]))
            assert frames_BTE.shape[:2] == (2, 8)
            close(frames_BTE.flatten(0, 1), vector["frame_embeds"])
            close(model.encode(torch.from_numpy(vector["video"])).tokens_BTLD.flatten(0, 1), vector["tokens"])
        elif kind == "froster":
            vector, _ = read("froster_full")
            close(model.logits(*(torch.from_numpy(vector[n]) for n in ("video", "eval_tokens"))), vector["eval_logits"])
        elif kind == "evl":
            vector, cfg = read("evl_decoder")
            layers = [{n: torch.from_numpy(vector[f"{n}{i}"]) for n in ("out", "q", "k")} for i in range(cfg["layers"])]
            close(model(layers), vector["y"])
        elif kind == "trn":
            vector, cfg = read("trn_scaleT")
            close(model.scale(torch.from_numpy(vector["x"]), cfg["T"]), vector["y_scaleT"], 1e-5)
        elif kind == "dscnet_stmem":
            x = torch.from_numpy(np.random.RandomState(144).rand(1, 144, 224, 224).astype(np.float32))
            y = model(x)
            assert y.shape == (8, 3, 224, 224)
            close(F.avg_pool2d(y, 16), read("dscnet")[0]["stmem_y_pooled"])
        else:
            vector, _ = read({"posec3d": "posec3d_w8", "dscnet_skeleton": "dscnet"}.get(kind, kind))
            close(model(torch.from_numpy(vector["x"])), vector["logits" if kind == "posec3d" else "y"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_computes_what_was_published(kind: str, tmp_path: Path) -> None:
    state, before = weights(kind), torch.get_rng_state()
    made = load(kind, state, **words(kind))
    assert torch.equal(before, torch.get_rng_state())
    assert not any(part.training for part in made.modules())
    computed(kind, made)
    kept = {name: tensor.clone() for name, tensor in state.items()}
    for tensor in [*made.parameters(), *made.buffers()]:
        tensor.data.zero_()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.items())  # they were copied

    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "lr": [0.1]}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    computed(kind, load(kind, tmp_path / "wrapped.pth", **words(kind)))
    checkpoints.save_weights(tmp_path / "w.safetensors", state, {})
    computed(kind, load(kind, str(tmp_path / "w.safetensors"), **words(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_refuses_what_does_not_fit(kind: str) -> None:
    """Entries dropped, added, reshaped, emptied or without values, one at a time: a clear error, never torch's own."""
    state, rng, settings = weights(kind), random.Random(kind), words(kind)
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    drawn = rng.sample(names, min(len(names), 4))
    wrong: list[State] = [{**state, f"{drawn[0]}_too": torch.ones(2)}, {**state, "stranger.weight": torch.ones(2, 2)}]
    for name in drawn:
        shape = state[name].shape
        wrong += [{k: v for k, v in state.items() if k != name}]
        wrong += [{**state, name: torch.ones(other)} for other in ((), (*shape, 2), (0, *shape[1:]), (3, *shape[1:]))
                  if other != shape]  # fmt: skip
        wrong += [{**state, name: torch.ones(shape, device="meta")}]
    for changed in wrong:
        with pytest.raises(CheckpointError, match="the given state dict: "):
            load(kind, changed, **settings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_weights_of_another_kind_are_refused(kind: str, other: str) -> None:
    if kind == other or (kind, other) == ("vision_tower", "froster"):  # a student has a vision tower
        return
    with pytest.raises(CheckpointError):
        load(kind, weights(other), **words(kind))


def test_unknown_kinds_and_words_are_named(tmp_path: Path) -> None:
    for kind in ("i3d", "", "PoseC3D", None, ["posec3d"]):
        with pytest.raises(ConfigError, match=f"choose from {', '.join(KINDS)}"):
            load(kind, tmp_path / "x.pth")
    for kind, given, message in (
        ("posec3d", {"base_channels": 8}, "posec3d takes no base_channels. it takes no configuration"),
        ("vision_tower", {"span": 2, "grid": 1}, "takes no span, grid.* temporal .optional., boundary .optional."),
        ("hyperformer", {"bones": []}, "hyperformer needs joint_groups. it takes joint_groups, bones"),
        ("hyperformer", {}, "hyperformer needs joint_groups, bones"),
        ("evl", {}, "evl needs grid. it takes grid"),
        ("vision_tower", {"temporal": "expand4"}, "'expand4'.*choose from none, expand, expand2, expand3"),
        ("vision_tower", {"boundary": "wrap"}, "'wrap'.*choose from zero, mask, replicate"),
    ):
        source = weights(kind) if "optional" not in message else tmp_path / "not read.pth"
        with pytest.raises(ConfigError, match=message):
            load(kind, source, **given)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("evl", {"grid": (2, 4)}),
        ("evl", {"grid": (2,)}),
        ("evl", {"grid": 6}),
        ("hyperformer", {"joint_groups": [0] * 21}),
        ("hyperformer", {"bones": [(0, 22)]}),
    ],
)
def test_words_that_do_not_fit_the_weights_are_refused(kind: str, given: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, CheckpointError)):
        load(kind, weights(kind), **{**words(kind), **given})


# --- sources ----------------------------------------------------------------------------------------------------------


class Payload:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    state, trace = weights("trn"), tmp_path / "trace"
    torch.save(state, tmp_path / "whole.pth")
    checkpoints.save_weights(tmp_path / "whole.safetensors", state, {})
    for name in ("whole.pth", "whole.safetensors"):
        content = (tmp_path / name).read_bytes()
        for share in (0.0, 0.3, 0.9):
            (tmp_path / f"cut-{name}").write_bytes(content[: int(len(content) * share)])
            with pytest.raises(CheckpointError, match=rf"cut-{name}: .*damaged"):
                load_reference("trn", tmp_path / f"cut-{name}")
    torch.save({"state_dict": state, "hook": Payload(trace)}, tmp_path / "code.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"state_dict": Payload(trace)}, protocol=2))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    for name in ("code.pth", "plain.pth", "module.pth"):
        with pytest.raises(CheckpointError, match=f"{name}: .*(code|damaged)") as caught:
            load_reference("trn", tmp_path / name)
        asked = {"code.pth": "would call pathlib.Path.touch", "module.pth": "a whole model, torch.nn.modules"}
        assert asked.get(name, "a pickle that torch.save did not write") in str(caught.value)
    assert not trace.exists()
    (tmp_path / "text.pth").write_text("conv1.weight: 3")
    with pytest.raises(CheckpointError, match=r"text\.pth: .*damaged"):
        load_reference("trn", tmp_path / "text.pth")
    for missing in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(CheckpointError, match="no such weight file"):
            load_reference("trn", missing)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_program_is_named_as_such(tmp_path: Path) -> None:
    """OpenAI's own .pt files are such."""
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "ViT-B-16.pt"))  # type: ignore[no-untyped-call]
    with pytest.raises(CheckpointError, match=r"ViT-B-16\.pt: the file is a TorchScript program.*never runs code"):
        load_reference("vision_tower", tmp_path / "ViT-B-16.pt")


@pytest.mark.parametrize(
    "source",
    [
        3,
        None,
        torch.ones(2),
        [torch.ones(2)],
        torch.nn.Linear(2, 2),
        {},
        {"state_dict": {}},
        {"model": {"epoch": 3}},
        {"fc_fusion_scales.0.1.weight": np.ones((2, 2))},
        {"fc_fusion_scales.0.1.weight": [[1.0]]},
        {"fc_fusion_scales.0.1.weight": torch.eye(2).to_sparse()},
        {"fc_fusion_scales.0.1.weight": torch.ones(2, 2, dtype=torch.complex64)},
        {"fc_fusion_scales.0.1.weight": torch.ones(2, 2, device="meta")},
        {"fc_fusion_scales.0.1.weight": torch.ones(2, 0)},
    ],
)
def test_what_holds_no_weights_is_refused(source: Any) -> None:
    with pytest.raises(CheckpointError, match=r"state dict|state_dict"):
        load_reference("trn", source)


def test_a_mapping_that_holds_itself_ends() -> None:
    loop: dict[str, Any] = {}
    loop["model"] = loop
    with pytest.raises(CheckpointError, match="no state dict"):
        load_reference("trn", loop)


def test_wrappers_in_memory_are_taken_off() -> None:
    state = weights("trn")
    module = {f"module.{name}": tensor for name, tensor in state.items()}
    for source in ({"model_state": state}, {"state_dict": module}, {"model": module, "epoch": 3},
                   {"model": {"state_dict": state}}, {**module, "step": 3}):  # fmt: skip
        computed("trn", load_reference("trn", source))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_from_whatever_wraps_it(kind: str, tmp_path: Path) -> None:
    state = weights(kind)
    for key, prefix in (
        ("model_state_dict", "_orig_mod."),
        ("net", "module._orig_mod."),
        ("state_dict_ema", "net."),
        ("state_dict", "net.module."),
    ):
        wrapped = {key: {prefix + name: tensor for name, tensor in state.items()}, "args": argparse.Namespace(lr=0.1)}
        torch.save({**wrapped, "best": np.float64(0.5)}, tmp_path / "w.pth")
        computed(kind, load(kind, tmp_path / "w.pth", **words(kind)))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "froster"])
def test_what_holds_a_model_for_training_is_taken_off(kind: str) -> None:
    """Lightning's modules call it model; DSCNet's names begin so of themselves, and a vision tower's may."""
    computed(kind, load(kind, {f"model.{name}": tensor for name, tensor in weights(kind).items()}, **words(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_nan_are_refused_by_name(kind: str) -> None:
    state = weights(kind)
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    for value, said in ((torch.nan, "NaN"), (torch.inf, "infinite")):
        with pytest.raises(CheckpointError, match=f"the given state dict: 1 of the entries hold {said}.*{name}"):
            load(kind, {**state, name: torch.full_like(state[name], value)}, **words(kind))


def test_which_of_several_was_taken_is_said_before(caplog: pytest.LogCaptureFixture) -> None:
    state = weights("trn")
    with caplog.at_level(logging.INFO, "migcore.checkpoints"):
        computed("trn", load_reference("trn", {"ema": {n: t + 1 for n, t in state.items()}, "net": state}))
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "the given state dict: the weights under net are taken; beside them lie ema"
    assert second.startswith("trn from the given state dict: ")


def test_weight_files_are_found_here(tmp_path: Path) -> None:
    checkpoints.save_weights(tmp_path / "w.safetensors", {"a": torch.ones(2)}, {"n": 1})
    state, meta = checkpoints.load_weights(tmp_path / "w.safetensors")
    assert meta == {"n": 1} and torch.equal(checkpoints.load_foreign(tmp_path / "w.safetensors")["a"], state["a"])


def report(caplog: pytest.LogCaptureFixture, kind: str, source: Any, **config: Any) -> str:
    """The one line that loading says."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "migcore.checkpoints"):
        load(kind, source, **config)
    (record,) = caplog.records
    assert record.name == "migcore.checkpoints" and record.levelno == logging.INFO
    message = record.getMessage()
    assert "\n" not in message
    return message


def test_what_was_mapped_is_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for kind in KINDS:
        state = weights(kind)
        message = report(caplog, kind, state, **words(kind))
        assert message.startswith(f"{kind} from the given state dict: {len(state)} entries mapped; left out: none; ")
    training = weights("froster")
    ours = [name for name in training if name.startswith("model.visual.")]
    texts = [name for name in training if name.startswith("model.") and name not in ours]
    torch.save({"model_state": training, "epoch": 3}, tmp_path / "file.pyth")
    assert report(caplog, "vision_tower", tmp_path / "file.pyth") == (
        f"vision_tower from {tmp_path / 'file.pyth'}: {len(ours)} entries mapped; left out: the text tower "
        f"({len(texts)}), the projectors (4), the teacher ({len(ours) + len(texts)}); sizes: 3 blocks of width 128, "
        "4 x 4 patches in 32 x 32 pixels, embedding 64"
    )
    message = report(caplog, "froster", {**training, "model.context_length": torch.tensor(77), "step": 3})
    assert "; left out: numbers beside the weights (1), what is no tensor (1); " in message
    assert f" {len(training)} entries mapped" in message and "text 2 blocks of width 64, 77 tokens" in message
    assert "in_channels=22, num_classes=32, base_channels=8" in report(caplog, "posec3d", weights("posec3d"))


def test_the_wanted_part_of_a_whole_evl_or_trn_is_found(caplog: pytest.LogCaptureFixture) -> None:
    beside: dict[str, tuple[str, State]] = {
        "evl": ("decoder.", {"proj.0.weight": torch.ones(16), "proj.2.weight": torch.ones(4, 16)}),
        "trn": ("consensus.", {"base_model.conv1.weight": torch.ones(2), "new_fc.weight": torch.ones(6, 9)}),
    }
    for kind, (prefix, rest) in beside.items():
        state = weights(kind)
        for outer in (prefix, ""):
            whole = {**{outer + name: tensor for name, tensor in state.items()}, **rest}
            computed(kind, load(kind, whole, **words(kind)))
            message = report(caplog, kind, whole, **words(kind))
            assert f": {len(state)} entries mapped; left out: the " in message and " (2); sizes: " in message
            for stranger in (f"{outer}stranger.weight", "backbone.weight"):
                with pytest.raises(CheckpointError, match=r"unexpected: .*(stranger|backbone)"):
                    load(kind, {**whole, stranger: torch.ones(2)}, **words(kind))


# --- PoseC3D ----------------------------------------------------------------------------------------------------------

CONFIG = PoseC3DConfig(in_channels=5, num_classes=7, base_channels=2, stage_blocks=(1, 2, 1))


@pytest.fixture
def published() -> State:
    model = PoseC3D(CONFIG, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_mean"):
                tensor += 0.25
    return model.state_dict()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_posec3d_is_built_from_the_shapes(published: State, prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: tensor for name, tensor in published.items()}
    torch.save({"meta": {"epoch": 24}, "state_dict": state}, tmp_path / "joint.pth")
    model = load_reference("posec3d", tmp_path / "joint.pth")
    assert model.config == CONFIG
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
def test_weights_that_do_not_fit_are_refused(published: State, change: object, message: str, tmp_path: Path) -> None:
    change(published)  # type: ignore[operator]
    torch.save(published, tmp_path / "joint.pth")
    with pytest.raises(CheckpointError, match=message):
        load_reference("posec3d", tmp_path / "joint.pth")


# --- the vision tower -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def training_file() -> State:
    """All entries of FROSTER's training checkpoint: the student, the teacher and the projectors."""
    return weights("froster")


@pytest.fixture
def averaged(training_file: State) -> State:
    """FROSTER's averaged weights: without the teacher."""
    return without(training_file, "raw_model.")


@pytest.mark.parametrize("boundary", ["zero", "mask", "replicate"])
@pytest.mark.parametrize(("temporal", "span"), [("none", 0), ("expand", 1), ("expand2", 2), ("expand3", 3)])
def test_the_tower_sees_the_frames_it_is_told_to(temporal: Any, span: int, boundary: Any) -> None:
    state = weights("vision_tower")
    made = load_reference("vision_tower", state, temporal=temporal, boundary=boundary)
    assert isinstance(made, VideoTower) and made.config == VCLIPConfig(span=span, boundary=boundary)
    video = torch.randn(1, 3, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, _, _ = reference.vclip_tower(state, video[0], span=span, boundary=boundary)
        close(made(video)[0], expected.numpy())


def test_a_tower_that_sees_no_neighbour_is_clip_frame_by_frame() -> None:
    state = weights("vision_tower")
    video = torch.from_numpy(read("vclip_expand")[0]["video"])[:1, :, :2]
    whole = {f"visual.{name}": tensor for name, tensor in state.items()}
    with torch.no_grad():
        made = load_reference("vision_tower", whole, temporal="none")(video)
        close(made[0], torch.stack([reference.clip_image(whole, video[0, :, t]) for t in range(2)]).numpy())


@pytest.mark.parametrize("prefix", ["model.visual.", "visual.", "module.model.visual."])
def test_the_tower_of_a_whole_clip_is_found(averaged: State, prefix: str) -> None:
    tower = {n.removeprefix("model.visual."): t for n, t in averaged.items() if n.startswith("model.visual.")}
    outer = prefix.removesuffix("visual.")
    rest = {
        f"{outer}{n.removeprefix('model.')}": t for n, t in without(averaged, "model.visual.", "projector_").items()
    }
    whole = {**rest, **{prefix + name: tensor for name, tensor in tower.items()}}
    video = torch.from_numpy(read("froster_full")[0]["video"])
    with torch.no_grad():
        found, bare = (load_reference("vision_tower", source)(video) for source in (whole, tower))
    assert torch.equal(found, bare)
    numbers = {f"{outer}{name}": torch.tensor(3) for name in ("input_resolution", "context_length", "vocab_size")}
    assert torch.equal(load_reference("vision_tower", {**whole, **numbers})(video), bare)
    with pytest.raises(CheckpointError, match=r"unexpected: .*logit_bias"):
        load_reference("vision_tower", {**whole, f"{outer}logit_bias": torch.tensor(0.0)})


def test_the_student_s_tower_is_taken_not_the_teacher_s(training_file: State) -> None:
    video = torch.from_numpy(read("froster_full")[0]["video"])
    with torch.no_grad():
        made = load_reference("vision_tower", training_file)
        expected = load_reference("froster", training_file).student.visual
        assert torch.equal(made(video), expected(video))
    only = {name: tensor for name, tensor in training_file.items() if name.startswith("raw_model.")}
    with pytest.raises(CheckpointError, match=r"not of a CLIP: they lack conv1\.weight"):
        load_reference("vision_tower", only)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("ln_post.bias"), r"missing: ln_post\.bias"),
        (lambda s: s.pop("class_embedding"), "missing: class_embedding"),
        (lambda s: s.pop("conv1.weight"), r"lack conv1\.weight"),
        (lambda s: s.pop("proj"), "lack proj"),
        (lambda s: [s.pop(n) for n in list(s) if "resblocks.1." in n], r"12 of the entries are missing"),
        (lambda s: s.update({"logit_scale": torch.tensor(4.6)}), "unexpected: logit_scale"),
        (
            lambda s: s.update({"transformer.resblocks.0.message_fc.weight": torch.ones(3)}),
            r"unexpected: transformer\.resblocks\.0\.message_fc\.weight",
        ),
        (lambda s: s.update({"proj": torch.ones(96, 64)}), r"proj is \[96, 64\], not \[128, 64\]"),
        (lambda s: s.update({"conv1.weight": torch.ones(96, 3, 8, 8)}), "width 96.*heads of 64 channels"),
        (lambda s: s.update({"conv1.weight": torch.ones(128, 3, 8, 4)}), r"conv1\.weight is \[128, 3, 8, 4\]"),
        (lambda s: s.update({"positional_embedding": torch.ones(1, 128)}), "0 x 0 patches"),
        (lambda s: s.update({"positional_embedding": torch.ones(13, 128)}), r"is \[13, 128\], not \[10, 128\]"),
    ],
)
def test_towers_that_do_not_fit_are_refused(change: Callable[[State], Any], message: str, tmp_path: Path) -> None:
    state = weights("vision_tower")
    change(state)
    torch.save(state, tmp_path / "tower.pth")
    with pytest.raises(CheckpointError, match=rf"tower\.pth: .*{message}"):
        load_reference("vision_tower", tmp_path / "tower.pth")


# --- FROSTER and Open-VCLIP -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vector() -> dict[str, np.ndarray]:
    return read("froster_full")[0]


def compare(made: Froster, vector: dict[str, np.ndarray], *, projectors: bool = True) -> None:
    """The published numbers, through a loaded student."""
    student = made.student
    with torch.no_grad():
        video = torch.from_numpy(vector["video"])
        for prompts, expected in (("eval_tokens", "eval_logits"), ("train_tokens", "train_logits")):
            close(made.logits(video, torch.from_numpy(vector[prompts])), vector[expected])
            text_CE = student.class_embeddings(torch.from_numpy(vector[prompts]))
            close(video_logits(student.visual(video), text_CE, student.clip.logit_scale), vector[expected])
        frames_BTE = student(video).frames_BTE
        if projectors:
            close(student.projector_v(frames_BTE)[0], vector["student_image"])
            close(student.projector_t(text_CE), vector["student_text"])
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
    both = [load_reference("froster", tmp_path / name) for name in ("checkpoint_epoch_00012.pyth", "swa_2_22.pth")]
    assert torch.equal(before, torch.get_rng_state())
    compare(both[0], vector)
    state, other = (made.student.state_dict() for made in both)
    assert all(torch.equal(other[name], tensor) for name, tensor in state.items())
    made = both[0].student
    assert made.config == FrosterConfig() and not any(part.training for part in both[0].modules())
    assert made.visual.image_size == (32, 32) and made.visual.grid_size == (4, 4)
    assert len(made.visual.transformer.resblocks) == 3 and len(made.clip.transformer.resblocks) == 2
    assert made.visual.transformer.resblocks[0].attn.heads == 2
    assert both[0].teacher is not None and both[1].teacher is None


def test_distillation_is_the_published_one(training_file: State, vector: dict[str, np.ndarray]) -> None:
    made = load_reference("froster", training_file)
    inputs = torch.from_numpy(vector["video"]), torch.from_numpy(vector["train_tokens"])
    ours = made.distillation_features(*inputs)
    assert ours.student_image_BTE.shape == ours.teacher_image_BTE.shape == (1, 6, 64)
    for features, name in zip(ours, ("student_image", "student_text", "teacher_image", "teacher_text"), strict=True):
        close(features.flatten(0, -2), vector[name])
    cfg = read("froster_full")[1]
    kinds: tuple[Distillation, ...] = ("l2", "cosine")
    for kind in kinds:
        image = distillation_loss(ours.student_image_BTE, ours.teacher_image_BTE, kind)
        text = distillation_loss(ours.student_text_CE, ours.teacher_text_CE, kind)
        close(torch.stack([image, text]), np.array(cfg[f"loss_{kind}"]))


def test_a_loaded_student_can_be_trained_and_its_teacher_stays(
    training_file: State, vector: dict[str, np.ndarray]
) -> None:
    made = load_reference("froster", training_file).train()
    assert made.teacher is not None and made.student.training and not made.teacher.training
    before = {name: tensor.clone() for name, tensor in made.teacher.state_dict().items()}
    ours = made.distillation_features(torch.from_numpy(vector["video"]), torch.from_numpy(vector["train_tokens"]))
    assert not ours.teacher_image_BTE.requires_grad and not ours.teacher_text_CE.requires_grad
    loss = distillation_loss(ours.student_image_BTE, ours.teacher_image_BTE)
    (loss + distillation_loss(ours.student_text_CE, ours.teacher_text_CE)).backward()
    grads = {name: p.grad for name, p in made.student.named_parameters() if name != "clip.logit_scale"}
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    assert all(p.grad is None for p in made.teacher.parameters())
    with torch.no_grad():
        for p in made.student.parameters():
            p += 1.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.teacher.state_dict().items())


def test_without_a_teacher_there_is_nothing_to_compare_with(averaged: State, vector: dict[str, np.ndarray]) -> None:
    made = load_reference("froster", averaged)
    assert made.teacher is None and not made.train().eval().training
    with pytest.raises(CheckpointError, match=r"no teacher.*raw_model"):
        made.distillation_features(torch.from_numpy(vector["video"]), torch.from_numpy(vector["eval_tokens"]))


def test_videos_and_tokens_of_another_kind_are_refused(training_file: State, vector: dict[str, np.ndarray]) -> None:
    made = load_reference("froster", training_file)
    video, tokens = torch.from_numpy(vector["video"]), torch.from_numpy(vector["eval_tokens"])
    assert torch.equal(made.logits(video, tokens.int()), made.logits(video, tokens))
    for call in (made.logits, made.distillation_features):
        for wrong in (video[0], video[..., :16], (video * 9).to(torch.uint8)):
            with pytest.raises(DataError, match="a video of shape"):
                call(wrong, tokens)
        for wrong in (tokens[0], tokens[..., :20], tokens[:0], tokens.float(), tokens.bool()):
            with pytest.raises(DataError, match=r"tokens of shape.*prompts, classes, 77"):
                call(video, wrong)
        for wrong in (tokens - 1, tokens + 1):
            with pytest.raises(DataError, match="0 to 49407"):
                call(video, wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("raw_model.ln_final.bias"), r"file, raw_model\.: .* missing: ln_final\.bias"),
        (lambda s: s.pop("raw_model.visual.conv1.weight"), r"raw_model\.: .*not of a CLIP: they lack visual\.conv1"),
        (lambda s: s.update({"raw_model.visual.lora": torch.ones(3)}), r"raw_model\.: .*unexpected: visual\.lora"),
        (lambda s: s.update({"raw_model.ln_final.bias": torch.ones(3)}), r"raw_model\.: .*ln_final\.bias is \[3\]"),
        (
            lambda s: s.update({
                "raw_model.visual.proj": torch.ones(128, 32), "raw_model.text_projection": torch.ones(64, 32)
            }),
            r"other image sizes, contexts or embeddings: \(32, 77, 64\) and \(32, 77, 32\)",
        ),
    ],
)  # fmt: skip
def test_teachers_that_do_not_fit_are_refused(
    training_file: State, change: Callable[[State], Any], message: str, tmp_path: Path
) -> None:
    state = dict(training_file)
    change(state)
    torch.save(state, tmp_path / "file")
    with pytest.raises(CheckpointError, match=message):
        load_reference("froster", tmp_path / "file")


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
        made = load_reference("froster", tmp_path / "swa.pth").student
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    expected = torch.stack([tokenizer(row) for row in class_prompts()])
    assert expected.shape == (29, 32, 77) and torch.equal(made.get_buffer("prompts"), expected)
    assert "prompts" not in made.state_dict()


def test_prompts_that_a_short_context_cuts_are_told(averaged: State, tmp_path: Path) -> None:
    averaged["model.positional_embedding"] = averaged["model.positional_embedding"][:20]
    torch.save(averaged, tmp_path / "swa.pth")
    with pytest.warns(UserWarning, match="fill the 20 tokens") as caught:
        made = load_reference("froster", tmp_path / "swa.pth").student
    assert caught[0].filename == __file__
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
        (lambda s: s.pop("model.visual.conv1.weight"), r"not of a CLIP: they lack visual\.conv1\.weight"),
        (
            lambda s: [s.pop(n) for n in list(s) if n.startswith("model.transformer")],
            r"lack transformer\.resblocks\.0",
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
            r"width 96.*heads of 64 channels",
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
