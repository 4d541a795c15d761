"""The student and its losses against FROSTER's, against the naive versions, and through one training step."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.model import CLIP

from migcore import reference
from migcore.errors import ConfigError, DataError
from migcore.models.clip import Teacher
from migcore.models.froster import (
    Distillation,
    FrosterConfig,
    Pool,
    ResidualProjector,
    Student,
    class_mean,
    distillation_loss,
    froster_loss,
    sample_prompts,
    video_logits,
)
from migcore.models.vclip import Kernel, VCLIPConfig
from tests.conformance.seeded import seeded_array, seeded_state

VECTOR = Path(__file__).parents[1] / "conformance" / "froster_full.npz"
VOCABULARY, CONTEXT, CLASSES, PROMPTS, EMBED = 40, 9, 3, 29, 6
DISTANCES: tuple[Distillation, ...] = ("l2", "cosine", "sq_l2", "mse")


def clip(seed: int = 0) -> CLIP:
    """A CLIP of 2 + 2 blocks for frames of 8 × 8, with few words."""
    vision = {"image_size": 8, "layers": 2, "width": 8, "head_width": 4, "patch_size": 4}
    text = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 8, "heads": 2, "layers": 2}
    model = CLIP(EMBED, vision, text, quick_gelu=True)
    model.load_state_dict(seeded_state(model.state_dict(), seed))
    return model


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """Texts of different lengths, the end of a text being the largest number, none as long as the context."""
    g = torch.Generator().manual_seed(seed)
    made = torch.randint(1, VOCABULARY - 1, (*shape, CONTEXT), generator=g)
    ends = torch.randint(2, CONTEXT - 1, (*shape, 1), generator=g)
    places = torch.arange(CONTEXT).expand(*shape, -1)
    return made.masked_fill(places == ends, VOCABULARY - 1).masked_fill(places > ends, 0)


def student(config: FrosterConfig | None = None, seed: int = 0) -> Student:
    prompts = tokens(PROMPTS, CLASSES)
    return Student(clip(seed), prompts, config or FrosterConfig(), generator=torch.Generator().manual_seed(1))


def frames(batch: int = 2, count: int = 3, height: int = 8, width: int = 8, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, count, height, width), dtype=torch.uint8, generator=g)


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the published student --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vector() -> dict[str, np.ndarray]:
    loaded = np.load(VECTOR)
    return {name: loaded[name] for name in loaded.files}


@pytest.fixture(scope="module", params=get_args(Kernel))
def published(request: pytest.FixtureRequest, vector: dict[str, np.ndarray]) -> Student:
    cfg = json.loads(str(vector["cfg"]))
    vision = {"image_size": cfg["image_resolution"], "layers": cfg["vision_layers"], "width": cfg["vision_width"]}
    text = {"width": cfg["transformer_width"], "heads": cfg["transformer_heads"], "layers": cfg["transformer_layers"]}
    vision["patch_size"] = cfg["vision_patch_size"]
    config = FrosterConfig(vclip=VCLIPConfig(attention=request.param))
    made = Student(
        CLIP(cfg["embed_dim"], vision, text, quick_gelu=True), torch.from_numpy(vector["eval_tokens"]), config
    )
    keys = {name: tuple(shape) for name, shape in cfg["keys"].items() if not name.startswith("raw_model.")}
    made.load_state_dict(
        {
            name.replace("model.", "clip.", 1): torch.from_numpy(seeded_array(name, shape, cfg["seed_student"]))
            for name, shape in keys.items()
        }
    )
    return made.eval()


def test_equal_to_the_published_student(published: Student, vector: dict[str, np.ndarray]) -> None:
    with torch.no_grad():
        outputs = published(torch.from_numpy(vector["video"]))
    np.testing.assert_allclose(outputs.logits_BC, vector["eval_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs.frames_BTE.norm(dim=-1), torch.ones(1, 6))
    torch.testing.assert_close(outputs.text_CE.norm(dim=-1), torch.ones(4))


def test_equal_to_the_published_training_step(
    published: Student, vector: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = json.loads(str(vector["cfg"]))
    every, drawn = vector["eval_tokens"], vector["train_tokens"]
    which = [next(i for i in range(PROMPTS) if (every[i] == row).all()) for row in drawn]
    assert which[1] == PROMPTS - 1
    with torch.no_grad():
        outputs = published(torch.from_numpy(vector["video"]), which)
        image, text = published.projector_v(outputs.frames_BTE)[0], published.projector_t(outputs.text_CE)
    np.testing.assert_allclose(outputs.logits_BC, vector["train_logits"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(image, vector["student_image"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(text, vector["student_text"], atol=1e-4, rtol=0)
    teacher_TE, teacher_CE = (torch.from_numpy(vector[name]) for name in ("teacher_image", "teacher_text"))
    kinds: tuple[Distillation, ...] = ("l2", "cosine")
    for kind in kinds:
        expected = cfg[f"loss_{kind}"]
        apart = [distillation_loss(image, teacher_TE, kind), distillation_loss(text, teacher_CE, kind)]
        np.testing.assert_allclose(apart, expected, atol=1e-4, rtol=0)
        monkeypatch.setattr(published, "config", FrosterConfig(distill=kind))
        label = torch.tensor([2])
        whole = froster_loss(published, outputs, label, teacher_TE[None], teacher_CE)
        assert whole.item() == pytest.approx(
            F.cross_entropy(torch.from_numpy(vector["train_logits"]), label).item() + 2 * sum(expected), abs=1e-3
        )


def test_the_naive_student_is_the_published_one(vector: dict[str, np.ndarray]) -> None:
    cfg = json.loads(str(vector["cfg"]))
    state = {
        name.removeprefix("model."): torch.from_numpy(seeded_array(name, tuple(shape), cfg["seed_student"]))
        for name, shape in cfg["keys"].items()
        if name.startswith("model.")
    }
    visual = {name.removeprefix("visual."): tensor for name, tensor in state.items() if name.startswith("visual.")}
    embeddings, _, _ = reference.vclip_tower(visual, torch.from_numpy(vector["video"])[0])
    prompts = torch.stack(
        [
            torch.stack([reference.clip_text(state, text) for text in row])
            for row in torch.from_numpy(vector["train_tokens"])
        ]
    )
    found = reference.froster_logits(embeddings, prompts, float(state["logit_scale"]))
    np.testing.assert_allclose(found, vector["train_logits"][0], atol=1e-4, rtol=0)


# --- Eq. 1 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", get_args(Pool))
def test_similarities_are_equal_to_the_naive_ones(pool: Pool) -> None:
    frames_BTE, each_PCE = features(2, 3, 4) * 5, features(3, 5, 4, seed=1) * 2
    found = video_logits(frames_BTE, class_mean(F.normalize(each_PCE, dim=-1)), torch.tensor(100.0).log(), pool)
    for b in range(2):
        expected = reference.froster_logits(frames_BTE[b], each_PCE, math.log(100), pool=pool)
        np.testing.assert_allclose(found[b], expected, atol=1e-3, rtol=0)


def test_pools_agree_on_one_frame_and_differ_on_more() -> None:
    text_CE, scale = F.normalize(features(5, 4, seed=1), dim=-1), torch.tensor(0.0)
    for count in (1, 3):
        x = features(2, count, 4)
        apart = (video_logits(x, text_CE, scale, "frames") - video_logits(x, text_CE, scale, "clip")).abs().max()
        assert (apart < 1e-6) == (count == 1)


def test_the_config_chooses_the_pool() -> None:
    frame, clip_ = (student(FrosterConfig(pool=pool)).eval() for pool in get_args(Pool))
    with torch.no_grad():
        one, other = frame(frames()), clip_(frames())
        assert torch.equal(one.frames_BTE, other.frames_BTE) and (one.logits_BC - other.logits_BC).abs().max() > 1e-3
        raw, text = clip_.visual(clip_.preprocess(frames())), other.text_CE
        torch.testing.assert_close(other.logits_BC, video_logits(raw, text, clip_.clip.logit_scale, "clip"))


# --- Eq. 2 ------------------------------------------------------------------------------------------------------------


def test_a_new_projector_changes_nothing() -> None:
    projector = ResidualProjector(64, generator=torch.Generator().manual_seed(0))
    z = features(2, 3, 64)
    assert torch.equal(projector(z), z)
    assert list(projector.state_dict()) == ["0.weight", "2.weight"]
    assert projector.state_dict()["0.weight"].std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)


def test_a_trained_projector_adds_its_mlp() -> None:
    projector = ResidualProjector(4, 0.3)
    projector.load_state_dict({"0.weight": 2 * features(4, 4), "2.weight": features(4, 4, seed=1)})
    z = features(5, 4, seed=2)
    hidden = z @ (2 * features(4, 4)).T
    exact = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    with torch.no_grad():
        torch.testing.assert_close(projector(z), z + 0.3 * exact @ features(4, 4, seed=1).T)


def test_projectors_come_from_the_generator() -> None:
    before = torch.get_rng_state()
    models = [ResidualProjector(4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    first, again, other = (model.state_dict()["0.weight"] for model in models)
    assert torch.equal(first, again) and not torch.equal(first, other)
    made = student()
    assert not torch.equal(made.projector_v.state_dict()["0.weight"], made.projector_t.state_dict()["0.weight"])


def test_the_projector_never_touches_logits() -> None:
    made = student().eval()
    with torch.no_grad():
        before = made(frames())
        for projector in (made.projector_v, made.projector_t):
            for weight in projector.parameters():
                weight.fill_(9.0)
        assert all(torch.equal(a, b) for a, b in zip(before, made(frames()), strict=True))


# --- Eq. 3 and Eq. 4 --------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 5), width=st.integers(1, 6), kind=st.sampled_from((*DISTANCES, "none")), seed=st.integers(0, 99)
)
def test_distances_are_equal_to_the_naive_ones(rows: int, width: int, kind: Distillation, seed: int) -> None:
    s, t = features(rows, width, seed=seed), F.normalize(features(rows, width, seed=seed + 1000), dim=-1)
    found = distillation_loss(s, t, kind)
    assert found.shape == () and found.item() == pytest.approx(reference.distillation(s, t, kind), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", DISTANCES)
def test_frames_of_all_clips_are_rows_alike(kind: Distillation) -> None:
    s, t = features(2, 3, 4), features(2, 3, 4, seed=1)
    torch.testing.assert_close(distillation_loss(s, t, kind), distillation_loss(s.flatten(0, 1), t.flatten(0, 1), kind))


def test_how_the_distances_go_together() -> None:
    s, t = features(7, 5), F.normalize(features(7, 5, seed=1), dim=-1)
    squares = distillation_loss(F.normalize(s, dim=-1), t, "sq_l2")
    torch.testing.assert_close(distillation_loss(s, t, "cosine"), squares / 2)
    torch.testing.assert_close(distillation_loss(s, t, "mse"), distillation_loss(s, t, "sq_l2") / 5)
    torch.testing.assert_close(distillation_loss(s[:1], t[:1], "l2") ** 2, distillation_loss(s[:1], t[:1], "sq_l2"))
    for kind in DISTANCES:
        assert distillation_loss(t, t, kind).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", DISTANCES)
def test_gradients_are_finite_where_student_and_teacher_agree(kind: Distillation) -> None:
    teacher = F.normalize(features(3, 4), dim=-1)
    z = teacher.clone().requires_grad_()
    distillation_loss(z, teacher, kind).backward()
    assert z.grad is not None and z.grad.isfinite().all() and z.grad.abs().max() < 1e-6


def test_features_that_do_not_match_are_named() -> None:
    with pytest.raises(DataError, match=r"\[2, 4\] and \[3, 4\]"):
        distillation_loss(torch.zeros(2, 4), torch.zeros(3, 4))


@pytest.mark.parametrize("kind", get_args(Distillation))
def test_a_training_step(kind: Distillation) -> None:
    config = FrosterConfig(vclip=VCLIPConfig(keep=(0.5, 1.0)), distill=kind)
    made, teacher = student(config).train(), clip().requires_grad_(False).eval()
    label, which = torch.tensor([2, 0]), sample_prompts(torch.Generator().manual_seed(0))
    video = made.preprocess(frames())
    with torch.no_grad():
        images = teacher.encode_image(video.transpose(1, 2).flatten(0, 1))
        teacher_BTE = F.normalize(images, dim=-1).unflatten(0, (2, 3))
        each = F.normalize(teacher.encode_text(tokens(PROMPTS, CLASSES)[which].flatten(0, 1)), dim=-1)
        teacher_CE = class_mean(each.unflatten(0, (2, CLASSES)))
    trained = {name for name, p in made.named_parameters() if p.requires_grad}
    assert {name for name in trained if name.startswith("projector")} == (
        set() if kind == "none" else {f"projector_{x}.{n}.weight" for x in "vt" for n in (0, 2)}
    )
    assert {name for name, _ in made.clip.named_parameters(prefix="clip")} <= trained
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=1e-5)
    losses = []
    for step in range(3):
        outputs = made(frames(), which)
        loss = froster_loss(made, outputs, label, teacher_BTE, teacher_CE)
        plain = F.cross_entropy(outputs.logits_BC, label)
        if kind == "none":
            assert torch.equal(loss, plain)
        if step == 0:
            torch.testing.assert_close(outputs.text_CE, teacher_CE)  # the text encoder has not moved yet
            apart = 0.0 if kind == "none" else distillation_loss(outputs.frames_BTE, teacher_BTE, kind)
            torch.testing.assert_close(loss, plain + 2.0 * apart, atol=1e-4, rtol=1e-4)
        optimizer.zero_grad()
        loss.backward()
        grads = {name: p.grad for name, p in made.named_parameters()}
        assert {name for name, grad in grads.items() if grad is not None} == trained
        assert all(grad.isfinite().all() for grad in grads.values() if grad is not None)
        optimizer.step()
        losses.append(loss.item())
    # W2 starts at zero, so W1 has no gradient at first; now everything has one.
    idle = {name for name in trained if not grads[name].any()}  # type: ignore[union-attr]
    assert idle == set() and losses[-1] < losses[0]


def test_beta_weighs_the_distances() -> None:
    made, label = student(FrosterConfig(beta=0.0)), torch.tensor([2, 0])
    outputs = made(frames())
    teacher_BTE, teacher_CE = (F.normalize(features(*shape), dim=-1) for shape in ((2, 3, EMBED), (CLASSES, EMBED)))
    none = froster_loss(made, outputs, label, teacher_BTE, teacher_CE)
    torch.testing.assert_close(none, F.cross_entropy(outputs.logits_BC, label))
    made.config = FrosterConfig(beta=3.0)
    apart = distillation_loss(outputs.frames_BTE, teacher_BTE) + distillation_loss(outputs.text_CE, teacher_CE)
    torch.testing.assert_close(froster_loss(made, outputs, label, teacher_BTE, teacher_CE), none + 3 * apart)


# --- words ------------------------------------------------------------------------------------------------------------


def test_texts_are_read_as_open_clip_reads_them() -> None:
    made, texts = student().eval(), tokens(7, seed=3)
    full = texts.clone()
    full[0, :-1], full[0, -1] = 5, VOCABULARY - 1  # one as long as the context
    with torch.no_grad():
        for some in (texts, texts[:1], full):
            torch.testing.assert_close(made.encode_text(some), F.normalize(made.clip.encode_text(some), dim=-1))
    assert made.encode_text(texts).dtype == torch.float32


def test_what_follows_the_longest_text_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    made, texts = student(), tokens(7, seed=3)
    lengths = []
    inner = made.clip.transformer.forward
    monkeypatch.setattr(
        made.clip.transformer, "forward", lambda x, **rest: (lengths.append(x.shape[1]), inner(x, **rest))[1]
    )
    made.encode_text(texts)
    assert lengths == [int(texts.argmax(-1).max()) + 1] and lengths[0] < CONTEXT


def test_a_class_is_the_mean_of_its_prompts() -> None:
    made, prompts = student().eval(), tokens(4, CLASSES, seed=5)
    with torch.no_grad():
        found = made.class_embeddings(prompts)
        for c in range(CLASSES):
            each = [F.normalize(made.clip.encode_text(prompts[p, c][None])[0], dim=0) for p in range(4)]
            torch.testing.assert_close(found[c], F.normalize(sum(each), dim=0))  # type: ignore[arg-type]


def test_classes_are_kept_while_evaluating_and_forgotten_before_training() -> None:
    made = student().eval()
    kept = made.classes()
    assert kept is made.classes() and not kept.requires_grad and made(frames()).text_CE is kept
    with torch.no_grad():
        made.clip.text_projection.add_(features(8, EMBED))
    made.train()
    moved = made.classes()
    assert moved.requires_grad and not torch.allclose(moved, kept)
    torch.testing.assert_close(made.eval().classes(), moved.detach())
    torch.testing.assert_close(moved.detach(), made.class_embeddings(tokens(PROMPTS, CLASSES)).detach())


def test_classes_that_are_kept_are_those_of_the_weights() -> None:
    made, other = student().eval(), student(seed=3).eval()
    kept = made.classes()
    assert made.eval().classes() is kept  # evaluating once more costs nothing
    made.load_state_dict(other.state_dict())
    torch.testing.assert_close(made.classes(), other.classes(), rtol=0, atol=0)
    assert not torch.allclose(made.classes(), kept)


def test_classes_are_forgotten_with_the_weights_they_came_from() -> None:
    made, other = student().eval(), student(seed=5).eval()
    again = copy.deepcopy(made)
    assert not torch.allclose(made.classes(), other.classes())
    for loaded in (made, again):  # a copy forgets its own
        loaded.classes()
        loaded.load_state_dict(other.state_dict())
        torch.testing.assert_close(loaded.classes(), other.classes())


def test_a_step_reads_the_prompts_it_is_told() -> None:
    made = student().eval()
    with torch.no_grad():
        found = made(frames(), [4, 28])
        expected = made.class_embeddings(tokens(PROMPTS, CLASSES)[[4, 28]])
        torch.testing.assert_close(found.text_CE, expected)
        assert not torch.allclose(found.text_CE, made(frames()).text_CE)


def test_prompts_of_a_step_come_from_the_generator() -> None:
    before = torch.get_rng_state()
    one, again = ([sample_prompts(g) for _ in range(400)] for g in (torch.Generator().manual_seed(3) for _ in range(2)))
    assert one == again and torch.equal(before, torch.get_rng_state())
    assert {row[0] for row in one} == set(range(28)) and {row[1] for row in one} == {28}


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (5, 7)])
def test_pixels_are_prepared_as_the_teachers(size: tuple[int, int]) -> None:
    teacher, x = Teacher(clip(), open_clip.get_tokenizer("ViT-B-16")), frames(2, 3, *size)
    expected = teacher.preprocess(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 3)).transpose(1, 2)
    made = student().eval()
    torch.testing.assert_close(made.preprocess(x), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(made(x).logits_BC, made(expected).logits_BC, atol=1e-3, rtol=1e-4)


def test_without_neighbours_the_student_starts_as_its_teacher() -> None:
    made = student(FrosterConfig(vclip=VCLIPConfig(span=0))).eval()
    with torch.no_grad():
        teacher = Teacher(clip(), open_clip.get_tokenizer("ViT-B-16"))
        torch.testing.assert_close(made(frames()).frames_BTE, teacher.encode_video(frames()), atol=1e-5, rtol=1e-5)


def test_half_precision_stays_near() -> None:
    made = student().eval()
    with torch.no_grad():
        exact = made(frames())
        made.train().eval()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = made(frames())
    assert rough.frames_BTE.dtype == rough.text_CE.dtype == torch.float32
    assert torch.cosine_similarity(exact.frames_BTE, rough.frames_BTE, dim=-1).min() > 0.999
    assert torch.cosine_similarity(exact.text_CE, rough.text_CE, dim=-1).min() > 0.999


def test_a_student_can_be_copied_and_its_prompts_are_not_saved() -> None:
    made = student()
    again = copy.deepcopy(made).eval()
    assert "prompts" not in made.state_dict()
    with torch.no_grad():
        assert torch.equal(again(frames()).logits_BC, made.eval()(frames()).logits_BC)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"distill": "kl"}, r"distillation 'kl'\. choose from l2, cosine, sq_l2, mse, none"),
        ({"pool": "max"}, r"pool 'max'\. choose from frames, clip"),
        ({"beta": -1.0}, r"beta -1\.0 is negative"),
        ({"vclip": VCLIPConfig(keep=(0.5,) * 3)}, "token decay for 3 blocks, in a tower of 2"),
    ],
)
def test_wrong_configs_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        student(FrosterConfig(**wrong))


def test_wrong_videos_are_named() -> None:
    with pytest.raises(DataError, match="not uint8"):
        student()(frames().int())
    with pytest.raises(DataError, match=r"takes normalised \[B, 3, T, 8, 8\]"):
        student()(frames(height=12).float())
