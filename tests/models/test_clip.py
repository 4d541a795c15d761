"""The teacher against FROSTER's, against the naive CLIP, and with weights missing, damaged or not to be had."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP

from migcore import reference
from migcore.errors import CheckpointError, ConfigError, DataError
from migcore.labels import class_prompts, prompts
from migcore.models import clip as clip_module
from migcore.models.clip import MINIATURE, Teacher, TeacherConfig, load_teacher, random_miniature
from migcore.models.weights import load_weights, save_weights
from tests.conformance.seeded import seeded_array

VECTOR = Path(__file__).parents[1] / "conformance" / "froster_full.npz"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a test tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature with random weights in half precision, as the shipped file is."""
    path = tmp_path_factory.mktemp("clip") / "miniature.safetensors"
    state = {name: tensor.half() for name, tensor in random_miniature(7).state_dict().items()}
    save_weights(path, state, {"recipe": "none"})
    return path


@pytest.fixture(scope="module")
def teacher(weights: Path) -> Teacher:
    return load_teacher(TeacherConfig(pretrained=str(weights)))


def video(batch: int, frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, frames, height, width), dtype=torch.uint8, generator=generator)


def test_equal_to_the_published_teacher() -> None:
    vector = np.load(VECTOR)
    cfg = json.loads(str(vector["cfg"]))
    vision = {"image_size": cfg["image_resolution"], "layers": cfg["vision_layers"], "width": cfg["vision_width"]}
    text = {"width": cfg["transformer_width"], "heads": cfg["transformer_heads"], "layers": cfg["transformer_layers"]}
    vision["patch_size"] = cfg["vision_patch_size"]
    model = CLIP(cfg["embed_dim"], vision, text, quick_gelu=True)
    keys = {name: tuple(shape) for name, shape in cfg["keys"].items() if name.startswith("raw_model.")}
    model.load_state_dict(
        {
            name.removeprefix("raw_model."): torch.from_numpy(seeded_array(name, shape, cfg["seed_teacher"]))
            for name, shape in keys.items()
        }
    )
    teacher = Teacher(model, open_clip.get_tokenizer("ViT-B-16"))
    with torch.no_grad():
        frames = F.normalize(model.encode_image(torch.from_numpy(vector["video"])[0].transpose(0, 1)), dim=-1)
    np.testing.assert_allclose(frames, vector["teacher_image"], atol=1e-4, rtol=0)

    rows = list(zip(*(prompts(label) for label in cfg["labels"].values()), strict=True))
    tokens = torch.stack([teacher.tokenizer(list(row)) for row in rows])
    np.testing.assert_array_equal(tokens, vector["eval_tokens"])
    used = [next(i for i in range(29) if (tokens[i].numpy() == train).all()) for train in vector["train_tokens"]]
    classes = teacher.class_embeddings([rows[i] for i in used])
    np.testing.assert_allclose(classes, vector["teacher_text"], atol=1e-4, rtol=0)


def test_equal_to_the_naive_clip(teacher: Teacher) -> None:
    state = teacher.clip.state_dict()
    frames = video(2, 2, 64, 64)
    found = teacher.encode_video(frames)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    for b in range(2):
        for t in range(2):
            image = (frames[b, :, t] / 255 - mean) / std
            naive = reference.clip_image(state, image, head_width=32)
            torch.testing.assert_close(found[b, t], naive / naive.norm(), atol=1e-5, rtol=0)
    texts = ["a hand at the chin", "Rub eyes: a hand at an eye"]
    for text, embedding in zip(texts, teacher.encode_text(texts), strict=True):
        naive = reference.clip_text(state, teacher.tokenizer([text])[0], head_width=32)
        torch.testing.assert_close(embedding, naive / naive.norm(), atol=1e-5, rtol=0)


def test_sizes(teacher: Teacher) -> None:
    assert teacher.image_size == (64, 64) and teacher.embed_dim == 64
    assert teacher.encode_video(video(2, 3, 64, 64)).shape == (2, 3, 64)
    assert teacher.encode_video(video(0, 3, 64, 64)).shape == (0, 3, 64)
    assert teacher.encode_text([]).shape == (0, 64)


def test_frames_are_encoded_alone_and_in_any_chunks(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = video(2, 4, 64, 64)
    whole = teacher.encode_video(frames)
    torch.testing.assert_close(teacher.encode_video(frames.flip(2)), whole.flip(1), atol=1e-6, rtol=0)
    monkeypatch.setattr(clip_module, "_IMAGES_AT_ONCE", 3)
    monkeypatch.setattr(clip_module, "_TEXTS_AT_ONCE", 1)
    torch.testing.assert_close(teacher.encode_video(frames), whole, atol=1e-6, rtol=0)
    one, both = teacher.encode_text(["a hat"]), teacher.encode_text(["a tie", "a hat"])
    torch.testing.assert_close(both[1:], one, atol=1e-6, rtol=0)


def test_frames_of_another_size_are_resized(teacher: Teacher) -> None:
    colour = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1, 1)
    large, small = colour.expand(1, 3, 1, 120, 160), colour.expand(1, 3, 1, 64, 64)
    torch.testing.assert_close(teacher.encode_video(large), teacher.encode_video(small), atol=1e-5, rtol=0)
    # A chequerboard finer than the image's pixels becomes grey, which needs the antialiasing.
    board = (torch.arange(256).view(-1, 1) + torch.arange(256)).remainder(2).mul(255).byte().expand(1, 3, 1, 256, 256)
    image = teacher.preprocess(board[:, :, 0]) * teacher.get_buffer("std") + teacher.get_buffer("mean")
    torch.testing.assert_close(image, torch.full_like(image, 0.5), atol=0.01, rtol=0)


def test_classes_are_means_of_their_prompts_and_are_kept(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["a hat", "a tie"], ["the hat", "the tie"], ["hat", "tie"]]
    expected = F.normalize(torch.stack([teacher.encode_text(row) for row in rows]).mean(0), dim=-1)
    torch.testing.assert_close(teacher.class_embeddings(rows), expected, atol=1e-6, rtol=0)
    monkeypatch.setattr(teacher, "encode_text", lambda texts: pytest.fail("encoded again"))
    torch.testing.assert_close(teacher.class_embeddings(rows), expected, atol=1e-6, rtol=0)


def test_the_default_classes_are_the_32_of_imigue(teacher: Teacher) -> None:
    classes = teacher.class_embeddings()
    assert classes.shape == (32, 64)
    torch.testing.assert_close(classes.norm(dim=-1), torch.ones(32))
    own = F.normalize(teacher.encode_text([row[5] for row in class_prompts()]).mean(0), dim=0)
    torch.testing.assert_close(classes[5], own, atol=1e-6, rtol=0)


def test_classes_kept_under_inference_mode_serve_in_training(weights: Path) -> None:
    teacher = load_teacher(TeacherConfig(pretrained=str(weights)))
    with torch.inference_mode():
        teacher.class_embeddings([["a hat"]])
    student = torch.ones(1, 64, requires_grad=True)
    (student * teacher.class_embeddings([["a hat"]])).sum().backward()
    assert student.grad is not None and student.grad.any()


def test_logits_are_the_mean_of_scaled_cosines(teacher: Teacher) -> None:
    frames, classes = teacher.encode_video(video(2, 3, 64, 64)), teacher.encode_text(["a hat", "a tie", "a pen"])
    scale = float(teacher.clip.logit_scale.exp())
    for b in range(2):
        for c in range(3):
            by_frame = [scale * float(F.cosine_similarity(frames[b, t], classes[c], dim=0)) for t in range(3)]
            assert float(teacher.logits(frames, classes)[b, c]) == pytest.approx(np.mean(by_frame), abs=1e-4)


def test_the_teacher_stays_frozen(teacher: Teacher) -> None:
    parent = torch.nn.Sequential(teacher).train()
    assert parent.training and not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.encode_video(video(1, 1, 64, 64)).requires_grad


def test_precision(weights: Path) -> None:
    frames = video(1, 2, 64, 64)
    single, auto, half = (
        load_teacher(TeacherConfig(pretrained=str(weights), precision=p)).encode_video(frames)  # type: ignore[arg-type]
        for p in ("fp32", "auto", "bf16")
    )
    assert torch.equal(single, auto) and half.dtype == torch.float32 and not torch.equal(single, half)
    torch.testing.assert_close(single, half, atol=0.05, rtol=0)


def test_too_long_a_text_is_cut_with_a_warning(teacher: Teacher) -> None:
    with pytest.warns(UserWarning, match="is cut: 'hand hand"):
        teacher.encode_text(["hand " * 76])
    assert teacher.encode_text(["hand " * 75]).shape == (1, 64)


def test_weights_are_a_function_of_the_seed_and_leave_torchs_generator_alone(weights: Path) -> None:
    before = torch.get_rng_state()
    first, again, other = random_miniature(1), random_miniature(1), random_miniature(2)
    load_teacher(TeacherConfig(pretrained=str(weights)))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.visual.proj, again.visual.proj) and not torch.equal(first.visual.proj, other.visual.proj)


def test_the_miniature_is_an_open_clip_model_within_16_mib(weights: Path) -> None:
    assert MINIATURE in open_clip.list_models()
    clip_module.register_miniature()
    assert open_clip.list_models().count(MINIATURE) == 1
    assert weights.stat().st_size <= 16 * 2**20
    model = open_clip.create_model(MINIATURE, pretrained=str(weights))
    frames = torch.rand(1, 3, 64, 64)
    ours = load_teacher(TeacherConfig(pretrained=str(weights))).clip
    assert torch.equal(model.eval().encode_image(frames), ours.encode_image(frames))


def test_identity_follows_the_weights(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_weights(other, random_miniature(8).state_dict(), {})
    noted = tmp_path / "noted.safetensors"
    save_weights(noted, load_weights(weights)[0], {"zero_shot": 0.25})  # what is said about them changes nothing
    names = {TeacherConfig(pretrained=str(path)).identity for path in (weights, other, noted)}
    assert len(names) == 2 and all(name.startswith("miniature:") for name in names)
    assert TeacherConfig("ViT-B-16").identity == TeacherConfig("ViT-B-16", "openai").identity == "ViT-B-16:openai"


def test_missing_shipped_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_module, "MINIATURE_WEIGHTS", tmp_path / "miniature_clip.safetensors")
    with pytest.raises(CheckpointError, match=r"miniature_clip\.safetensors: .* not there\. install migcore again"):
        load_teacher(TeacherConfig())


def test_damaged_and_unfitting_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors: the file is damaged"):
        load_teacher(TeacherConfig(pretrained=str(cut)))
    with pytest.raises(CheckpointError, match="no such weight file"):
        load_teacher(TeacherConfig(pretrained=str(tmp_path / "none.safetensors")))
    state = random_miniature(0).state_dict()
    for wrong, message in (
        ({**state, "visual.proj": torch.zeros(96, 32)}, r"visual\.proj is \[96, 32\], not \[96, 64\]"),
        ({k: v for k, v in state.items() if "ln_post" not in k}, r"missing: visual\.ln_post"),
        ({**state, "visual.head": torch.zeros(1)}, r"unexpected: visual\.head"),
    ):
        save_weights(tmp_path / "wrong.safetensors", wrong, {})
        with pytest.raises(CheckpointError, match=message):
            load_teacher(TeacherConfig(pretrained=str(tmp_path / "wrong.safetensors")))


def test_a_state_dict_with_openais_extras_is_read(weights: Path, teacher: Teacher, tmp_path: Path) -> None:
    extras = {"input_resolution": torch.tensor(64), "context_length": torch.tensor(77), "vocab_size": torch.tensor(9)}
    torch.save({"state_dict": {**teacher.clip.state_dict(), **extras}}, tmp_path / "clip.pt")
    frames = video(1, 1, 64, 64)
    again = load_teacher(TeacherConfig(pretrained=str(tmp_path / "clip.pt")))
    assert torch.equal(again.encode_video(frames), teacher.encode_video(frames))


@pytest.mark.parametrize("error", [RuntimeError("Failed to download weights"), OSError("no route to host")])
def test_weights_that_cannot_be_fetched_say_what_to_do(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(open_clip, "create_model", fail)
    with pytest.raises(CheckpointError, match=f"OpenAI's weights of ViT-B-16 cannot be fetched.*{error}.*network once"):
        load_teacher(TeacherConfig("ViT-B-16"))


def test_openais_weights_get_quickgelu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def fetch(model: str, pretrained: str | None = None) -> CLIP:
        asked.append((model, pretrained))
        return random_miniature(0)

    monkeypatch.setattr(open_clip, "create_model", fetch)
    load_teacher(TeacherConfig("ViT-B-16", "openai"))
    assert asked == [("ViT-B-16-quickgelu", "openai")]


def test_wrong_input_is_named(teacher: Teacher) -> None:
    for wrong in (video(1, 1, 64, 64).float(), video(1, 1, 64, 64)[0], video(1, 1, 64, 64)[:, :2]):
        with pytest.raises(DataError, match=r"\[B, 3, T, H, W\] uint8"):
            teacher.encode_video(wrong)
    for rows in ([], [[]], [["a"], ["a", "b"]]):
        with pytest.raises(ConfigError, match="one string per class"):
            teacher.class_embeddings(rows)
    with pytest.raises(ConfigError, match="ViT-B-17"):
        TeacherConfig("ViT-B-17")
    with pytest.raises(ConfigError, match="no weights for the miniature"):
        TeacherConfig(pretrained="openai")
    with pytest.raises(ConfigError, match="fp8"):
        TeacherConfig(precision="fp8")  # type: ignore[arg-type]
