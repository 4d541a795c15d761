"""The pre-training of the miniature CLIP: same arithmetic as open_clip, same numbers after an interruption."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from open_clip.loss import ClipLoss
from torch import Tensor

from migcore.data.layouts import IMIGUE22
from migcore.errors import CheckpointError, ConfigError, StorageError
from migcore.models.clip import MINIATURE, TeacherConfig, load_teacher, random_miniature
from migcore.models.weights import load_weights, save_weights, tensor_hash
from migcore.studio import teacher, teacher_data, teacher_model
from migcore.studio.figure import PART_NAMES
from migcore.studio.teacher import TeacherTrainConfig
from migcore.studio.teacher_data import Batch, StillCache, cached_stills, draw_batch, swap_sides, tokenise
from migcore.studio.teacher_model import DenseHeads, Pretraining, SameMeaningLoss, part_weights

TINY = TeacherTrainConfig(
    stills=32, steps=6, batch=8, warmup=2, contrastive_from=0.3, log_every=2, save_every=4
)  # fmt: skip
PLAIN = {"seed": 0, "shift": 0, "gain": 0.0}


@pytest.fixture(scope="module")
def stills(tmp_path_factory: pytest.TempPathFactory) -> StillCache:
    """A few of the studio's stills."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIGCORE_RUNS", str(tmp_path_factory.mktemp("runs")))
        return cached_stills(24, 3, 64, progress=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a tiny pre-training that nothing interrupted, made from the command line."""
    folder = tmp_path_factory.mktemp("teacher")
    options = [f"--config.{k.replace('_', '-')}={getattr(TINY, k)}" for k in
               ("stills", "steps", "batch", "warmup", "contrastive_from", "log_every", "save_every")]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIGCORE_RUNS", str(folder / "runs"))
        patch.setattr("sys.argv", ["teacher", "--out", str(folder / "clip.safetensors"), "--no-progress", *options])
        teacher.main()
    return folder / "clip.safetensors"


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "stills/s")} for row in history]


def test_an_interrupted_run_ends_with_the_same_bits(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIGCORE_RUNS", str(tmp_path / "runs"))
    step = teacher.train_step

    def killed_in_the_third(*arguments: Any) -> None:
        if arguments[-1] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        step(*arguments)

    monkeypatch.setattr(teacher, "train_step", killed_in_the_third)
    out = tmp_path / "clip.safetensors"
    with pytest.raises(SystemExit) as stopped:
        teacher.pretrain(TINY, out, progress=True)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "after step 3 of 6" in capsys.readouterr().out
    assert not out.exists()
    monkeypatch.setattr(teacher, "train_step", step)
    before = torch.random.get_rng_state()
    teacher.pretrain(TINY, out, progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)

    state, meta = load_weights(out)
    expected, meta_expected = load_weights(finished)
    assert meta["sha256"] == meta_expected["sha256"]
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert timeless(meta["history"]) == timeless(meta_expected["history"])
    assert [row["step"] for row in meta["history"]] == [2, 4, 6]
    assert "retrieval" in meta["history"][-1] and "retrieval" not in meta["history"][0]
    assert meta["history"][-1]["parts"] < meta["history"][0]["parts"]

    # A finished run is not trained again; asked to forget it, it is, and comes to the same.
    monkeypatch.setattr(teacher, "train_step", lambda *_: pytest.fail("trained again"))
    teacher.pretrain(TINY, out, progress=False)
    assert load_weights(out)[1]["sha256"] == meta["sha256"]
    monkeypatch.setattr(teacher, "train_step", step)
    teacher.pretrain(TINY, out, progress=False, resume=False)
    assert load_weights(out)[1]["sha256"] == meta["sha256"]


def test_the_file_is_a_teacher(finished: Path) -> None:
    state, meta = load_weights(finished)
    assert finished.stat().st_size <= teacher.MAX_BYTES
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert meta["sha256"] == tensor_hash(state)
    assert meta["recipe"]["steps"] == meta["steps"] == 6 and meta["stills_seen"] == 48

    loaded = load_teacher(TeacherConfig(pretrained=str(finished)))
    assert loaded.encode_video(torch.zeros(1, 3, 2, 64, 64, dtype=torch.uint8)).shape == (1, 2, 64)
    assert torch.isfinite(loaded.class_embeddings()).all()

    start = random_miniature(0).state_dict()
    used = torch.from_numpy(np.unique(loaded.tokenizer(["both hands on the table"]).numpy()))[1:]  # without padding
    moved = (state["token_embedding.weight"] != start["token_embedding.weight"].half()).any(1)
    assert moved[used].all() and moved.sum() < 200
    unmoved = [name for name in state if torch.equal(state[name], start[name].half())]
    assert unmoved == [], "some parameters were not trained"


def test_stamp_adds_numbers_and_keeps_the_weights(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    path.write_bytes(finished.read_bytes())
    teacher.stamp(path, {"zero_shot": 0.5})
    teacher.stamp(path, {"linear_probe": 0.25})
    state, meta = load_weights(path)
    assert meta["metrics"] == {"zero_shot": 0.5, "linear_probe": 0.25}
    assert tensor_hash(state) == meta["sha256"] == load_weights(finished)[1]["sha256"]
    save_weights(path, {**state, "logit_scale": state["logit_scale"] + 1}, meta)
    with pytest.raises(CheckpointError, match="hash"):
        teacher.stamp(path, {"zero_shot": 1.0})


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no device 'abacus'"):
        teacher.pretrain(TeacherTrainConfig(device="abacus"), tmp_path / "clip.safetensors")


# --- arithmetic -------------------------------------------------------------------------------------------------------


def gradients(outputs: Tensor, module: torch.nn.Module) -> dict[str, Tensor]:
    module.zero_grad(set_to_none=True)
    outputs.square().sum().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_the_written_out_towers_are_open_clips() -> None:
    clip = random_miniature(1)
    generator = torch.Generator().manual_seed(0)
    for p in clip.parameters():  # biases start at zero and would hide mistakes
        p.data += 0.05 * torch.randn(p.shape, generator=generator)
    images = torch.randn(3, 3, 64, 64, generator=generator)
    embedding, cls, tokens = teacher_model.image_forward(clip, images)
    found, expected = gradients(embedding, clip), gradients(clip.encode_image(images), clip)
    torch.testing.assert_close(embedding, clip.encode_image(images), rtol=1e-4, atol=1e-5)
    intermediate = clip.visual.forward_intermediates(
        images, indices=1, normalize_intermediates=True, output_fmt="NLC", output_extra_tokens=True
    )
    torch.testing.assert_close(tokens, intermediate["image_intermediates"][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cls, intermediate["image_intermediates_prefix"][0][:, 0], rtol=1e-4, atol=1e-5)

    texts = open_clip.get_tokenizer(MINIATURE)(["a hat", "both hands on the table, lips thin", "an ear"])
    short = texts[:, : int((texts > 0).sum(1).max())]
    written = teacher_model.text_forward(clip, short)
    torch.testing.assert_close(written, clip.encode_text(texts), rtol=1e-4, atol=1e-5)
    found |= gradients(written, clip)
    expected |= gradients(clip.encode_text(texts), clip)
    assert found.keys() == expected.keys() == {n for n, _ in clip.named_parameters()} - {"logit_scale"}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4 * float(value.abs().max()), msg=name)


def test_training_only_the_tokens_in_use_is_exact() -> None:
    texts = open_clip.get_tokenizer(MINIATURE)(["left hand at the hat", "a hand at the hat"])
    vocabulary = np.unique(texts[texts > 0].numpy())
    small = Pretraining(0, vocabulary, 22)
    whole = Pretraining(0, np.arange(49408), 22)
    compact = torch.from_numpy(np.searchsorted(vocabulary, np.where(texts > 0, texts, vocabulary[0])))
    start = whole.clip.token_embedding.weight.detach().clone()
    for model, tokens in ((small, compact), (whole, texts[:, :12])):
        optimizer = teacher._optimizer(model, TINY)
        for _ in range(3):
            optimizer.zero_grad()
            teacher_model.text_forward(model.clip, tokens).square().sum().backward()
            optimizer.step()
    moved = (whole.clip.token_embedding.weight != start).any(1)
    assert moved.nonzero()[:, 0].tolist() == vocabulary.tolist()
    torch.testing.assert_close(whole.clip.token_embedding.weight[moved], small.clip.token_embedding.weight)


def test_what_decays() -> None:
    model = Pretraining(0, np.arange(5), 22)
    decayed, free = (group["params"] for group in teacher._optimizer(model, TINY).param_groups)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in free if p.ndim > 1} == {
        "clip.token_embedding.weight", "clip.positional_embedding", "clip.visual.positional_embedding"
    }  # fmt: skip
    assert all(p.ndim > 1 for p in decayed) and len(decayed) + len(free) == len(names)
    assert all(p.requires_grad for p in model.parameters())


@given(st.lists(st.integers(0, 3), min_size=2, max_size=7), st.integers(0, 9))
def test_captions_of_one_meaning_are_positives(meaning: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image, text = (F.normalize(torch.randn(len(meaning), 5, generator=generator), dim=-1) for _ in range(2))
    total = 0.0
    logits = 7.0 * image @ text.T
    for table in (logits, logits.T):
        for i, row in enumerate(table):
            positives = [j for j in range(len(meaning)) if meaning[j] == meaning[i]]
            total -= sum(math.log(math.exp(row[j]) / sum(math.exp(x) for x in row)) for j in positives) / len(positives)
    loss = SameMeaningLoss(torch.tensor(meaning))(image, text, torch.tensor(7.0))
    assert float(loss) == pytest.approx(total / (2 * len(meaning)), rel=1e-4)
    different = SameMeaningLoss(torch.arange(len(meaning)))(image, text, torch.tensor(7.0))
    torch.testing.assert_close(different, ClipLoss()(image, text, torch.tensor(7.0)))


def dense_batch(parts: Tensor, keypoints: Tensor, visible: Tensor) -> Batch:
    nothing = torch.zeros(len(parts), dtype=torch.int64)
    return Batch(torch.zeros(0), parts, keypoints, visible, nothing[:, None], nothing, nothing)


def test_dense_losses_of_heads_that_know_nothing() -> None:
    heads = DenseHeads(8, 8, 22).requires_grad_(False)
    for p in heads.parameters():
        p.zero_()
    generator = torch.Generator().manual_seed(0)
    parts = torch.randint(0, len(PART_NAMES), (3, 16, 16), generator=generator)
    keypoints, visible = torch.rand(3, 22, 2, generator=generator), torch.rand(3, 22, generator=generator) < 0.7
    weights = torch.rand(len(PART_NAMES), generator=generator) + 0.5
    out = heads(torch.randn(3, 8), torch.randn(3, 64, 8), dense_batch(parts, keypoints, visible), weights)
    log_p = math.log(len(PART_NAMES))
    assert float(out["parts"]) == pytest.approx(log_p, rel=1e-5)
    # Of each cell of the 8×8 map the four parts it covers count in shares, with their weights.
    assert float(out["layout"]) == pytest.approx(log_p * float(weights[parts].mean()), rel=1e-5)
    assert float(out["presence"]) == pytest.approx(math.log(2), rel=1e-5)
    distance = (keypoints - 0.5).abs().sum(-1)[visible].mean()  # the middle, from patches and from CLS
    assert float(out["keypoints"]) == pytest.approx(2 * float(distance), rel=1e-5)
    assert int(out["right"]) == 0 and int(out["foreground"]) == int((parts > 0).sum())


def test_dense_heads_look_at_the_right_patch() -> None:
    """A token that says what its patch shows is read out at the cells that this patch covers."""
    heads = DenseHeads(len(PART_NAMES), 8, 22).requires_grad_(False)
    for p in heads.parameters():
        p.zero_()
    parts = torch.zeros(1, 16, 16, dtype=torch.int64)
    parts[0, 4:6, 10:12] = 7  # patch row 2, column 5
    tokens = F.one_hot(parts[:, ::2, ::2].reshape(1, 64), len(PART_NAMES)).float() * 50
    heads.parts.weight.copy_(torch.eye(len(PART_NAMES)).repeat(4, 1))
    heads.heat.weight[:, 7] = 1.0  # all keypoints where part 7 is
    where = torch.tensor([5.5 / 8, 2.5 / 8]).expand(1, 22, 2)
    heads.points.bias.copy_((where[0] - 0.5).flatten())
    batch = dense_batch(parts, where, torch.ones(1, 22, dtype=torch.bool))
    out = heads(torch.zeros(1, len(PART_NAMES)), tokens, batch, torch.ones(len(PART_NAMES)))
    assert float(out["parts"]) < 1e-4 and int(out["right"]) == int(out["foreground"]) == 4
    assert float(out["keypoints"]) < 1e-5


def test_rare_parts_weigh_more() -> None:
    parts = np.zeros((2, 16, 16), np.uint8)
    parts[0, 0, :4] = 3
    weights = part_weights(parts)
    assert weights[3] > weights[0] and weights[0] / weights[3] == pytest.approx(math.sqrt(5 / 509), rel=1e-4)


def test_learning_rate() -> None:
    rates = [TeacherTrainConfig(steps=1000).learning_rate(s) for s in range(1000)]
    assert rates[0] == pytest.approx(1.5e-5) and rates[99] == pytest.approx(1.5e-3) and max(rates) == rates[99]
    assert rates[549] == pytest.approx(0.75e-3, rel=0.01) and 0 < rates[-1] < 1e-8


@pytest.mark.parametrize(
    "change",
    [{"batch": 100_000}, {"steps": 0}, {"warmup": 0}, {"flip": 1.5}, {"gain": -0.1}, {"lr": 0.0}, {"shift": -1}],
)
def test_values_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"pre-training|do not fill"):
        TeacherTrainConfig(**change)


# --- stills, captions, batches ----------------------------------------------------------------------------------------


def test_words_change_sides() -> None:
    text = "left hand at the chin, right shoulder raised, body upright, bright light"
    swapped = "right hand at the chin, left shoulder raised, body upright, bright light"
    assert swap_sides(text) == swapped and swap_sides(swapped) == text


def test_meaning_is_the_facts(stills: StillCache) -> None:
    same = ("a video of a person, left hand at the hat, glasses", "a person with glasses, left hand at the hat")
    found = tokenise([*same, "right hand at the hat, glasses"], 77)
    assert found.meaning[0, 0] == found.meaning[1, 0] == found.meaning[2, 1] != found.meaning[2, 0]
    assert found.text[0, 0] != found.text[1, 0] != found.text[2, 1]


def test_tokens_are_open_clips(stills: StillCache) -> None:
    tokenizer = open_clip.get_tokenizer(MINIATURE)
    texts = [*stills.captions, "hand " * 100]
    found = tokenise(texts, 77)
    for version in (0, 1):
        rows = found.text[:, version]
        expected = tokenizer([swap_sides(t) if version else t for t in texts]).numpy()
        lengths = found.lengths[rows]
        assert lengths.tolist() == (expected > 0).sum(1).tolist()
        for row, length, wanted in zip(rows, lengths, expected, strict=True):
            assert found.vocabulary[found.tokens[row, :length]].tolist() == wanted[:length].tolist()
    assert (found.tokens.argmax(1) == found.lengths - 1).all(), "the end of a text has the highest number"


def test_a_mirrored_batch(stills: StillCache) -> None:
    captions = tokenise(stills.captions, 77)
    plain = draw_batch(stills, captions, 0, size=24, flip=0.0, **PLAIN)
    mirror = draw_batch(stills, captions, 0, size=24, flip=1.0, **PLAIN)
    assert torch.equal(mirror.images, plain.images.flip(-1))
    assert torch.equal(torch.from_numpy(teacher_data.flip_parts())[plain.parts.flip(-1)], mirror.parts)
    assert PART_NAMES[teacher_data.flip_parts()[PART_NAMES.index("left hand")]] == "right hand"
    points = plain.keypoints[:, IMIGUE22.flip_permutation].clone()
    points[..., 0] = 1 - points[..., 0]
    torch.testing.assert_close(mirror.keypoints, points)
    assert torch.equal(mirror.visible, plain.visible[:, IMIGUE22.flip_permutation])
    decode = open_clip.get_tokenizer(MINIATURE).decode
    texts = [
        [decode(captions.vocabulary[b.tokens[row][: int(b.tokens[row].argmax())]][1:].tolist()) for row in b.caption]
        for b in (plain, mirror)
    ]
    assert [swap_sides(text) for text in texts[0]] == texts[1] != texts[0]


def test_pixels_parts_and_keypoints_move_together() -> None:
    """Of a bright square with a keypoint in its middle all three stay together, whatever the change."""
    n = 40
    rng = np.random.default_rng(0)
    corner = rng.integers(1, 14, (n, 2))  # column, row of the 16×16 map
    frames, parts = np.zeros((n, 3, 64, 64), np.uint8), np.zeros((n, 16, 16), np.uint8)
    for i, (x, y) in enumerate(corner):
        frames[i, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = 255
        parts[i, y, x] = PART_NAMES.index("nose")
    points = np.repeat(((corner + 0.5) / 16).astype(np.float32)[:, None], 22, 1)
    cache = StillCache(frames, parts, points, np.ones((n, 22), bool), ["a hat"] * n, "")
    batch = draw_batch(cache, tokenise(cache.captions, 77), 0, seed=1, size=n, flip=0.5, shift=3, gain=0.0)
    bright = batch.images[:, 0] > 0
    assert torch.equal(bright[:, 2::4, 2::4], batch.parts > 0)
    at = (batch.keypoints[:, 0] * 64).long()
    assert bright[torch.arange(n), at[:, 1], at[:, 0]].all() and batch.visible.all()
    assert len(torch.unique(batch.keypoints[:, 0] * 64 % 4)) == 4, "all of them moved by the same"
    mean, std = open_clip.OPENAI_DATASET_MEAN[0], open_clip.OPENAI_DATASET_STD[0]
    assert float(batch.images[:, 0].max()) == pytest.approx((1 - mean) / std, rel=1e-5)


def test_batches_follow_from_seed_and_step(stills: StillCache) -> None:
    captions = tokenise(stills.captions, 77)

    def images(step: int, seed: int) -> Tensor:
        return draw_batch(stills, captions, step, seed=seed, size=8, flip=0.5, shift=2, gain=0.1).images

    assert torch.equal(images(1, 0), images(1, 0))
    assert not torch.equal(images(1, 0), images(1, 1)) and not torch.equal(images(1, 0), images(4, 0))
    seen = [
        draw_batch(stills, captions, step, size=8, flip=0.0, **PLAIN).keypoints[:, 0] for step in range(3)
    ]  # an epoch: every still once
    expected = torch.from_numpy(np.asarray(stills.keypoints[:, 0]))
    assert torch.equal(torch.cat(seen).sort(0).values, expected.sort(0).values)


def test_rendering_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_data, "CHUNK", 4)
    draw, drawn = teacher_data.still_frames, []

    def counted(rng: np.random.Generator, count: int, size: int) -> Any:
        drawn.append(count)
        return draw(rng, count, size)

    monkeypatch.setattr(teacher_data, "still_frames", counted)
    monkeypatch.setenv("MIGCORE_RUNS", str(tmp_path / "a"))
    expected = cached_stills(10, 0, 64, progress=False)
    assert drawn == [4, 4, 2] and len(expected.captions) == 10

    monkeypatch.setenv("MIGCORE_RUNS", str(tmp_path / "b"))
    sync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 4:  # the frames of the second chunk
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        cached_stills(10, 0, 64, progress=False)
    monkeypatch.setattr(os, "fsync", sync)
    drawn.clear()
    found = cached_stills(10, 0, 64, progress=False)
    assert drawn == [4, 2]
    assert found.identity == expected.identity and found.captions == expected.captions
    assert np.array_equal(found.frames, expected.frames)
    assert cached_stills(10, 1, 64, progress=False).identity != expected.identity
