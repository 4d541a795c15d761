"""The video student: fine-tuned, distilled, and distilled with token decay. The three differ in nothing else.

B clips, K views of a clip, T frames, C classes, P prompts, L tokens of a text, E embedding. Choices:

* the teacher sees the very frames that the student sees, while it trains;
* views of a clip are joined by the mean of their logits, as FROSTER does;
* numbers are those of the last epoch, or of the mean of weights: validation chooses nothing.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from migcore.checkpoints import load_foreign, save_weights
from migcore.data.datasets import VideoClips, collate
from migcore.errors import CheckpointError
from migcore.files import expanded
from migcore.labels import class_prompts
from migcore.ledger import canonical
from migcore.models.clip import Teacher, TeacherConfig, load_teacher
from migcore.models.froster import FrosterConfig, Student, class_mean, froster_loss, sample_prompts
from migcore.models.vclip import VCLIPConfig
from migcore.models.weights import load_into, load_weights, tensor_hash
from migcore.models.wrappers import without_holder
from migcore.recipes.job import Job, Made, SplitOutputs, summary
from migcore.training import Batch, extract, fit, generator, make_accelerator

_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")  # numbers beside OpenAI's weights


def make_student(teacher: Teacher, config: FrosterConfig, seed: int, init: str = "") -> Student:
    """A student with the teacher's weights; the seed draws those of its projectors.

    Args:
        teacher: a CLIP.
        config: the student.
        seed: of the projectors.
        init: file of published weights to start from instead (of a student, or of a CLIP: then the projectors stay).

    Raises:
        CheckpointError: the file is missing, damaged, or of a model of other sizes than the teacher's, or a number in
            it is NaN or infinite.
    """
    prompts_PCL = torch.stack([teacher.tokenizer(row) for row in class_prompts()])
    clip = copy.deepcopy(teacher.clip).float()
    student = Student(clip, prompts_PCL, config, generator=generator(seed))
    if init:
        file = expanded(init)
        load_into(student, {**student.state_dict(), **_published(load_foreign(file))}, file)
    return student


def _published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under our names: FROSTER's and Open-VCLIP's have ``model.`` before CLIP's, OpenAI none."""
    state = without_holder(state)
    before = next((p for p in ("clip.", "model.") if any(name.startswith(p) for name in state)), "")
    kept = {n: t for n, t in state.items() if not n.startswith("raw_model.") and n not in _OPENAI_EXTRAS}
    return {n if n.startswith("projector_") else f"clip.{n.removeprefix(before)}": t for n, t in kept.items()}


def init_identity(init: str) -> str:
    """What identifies the weights a student starts from, for run keys: "" for the teacher's.

    Raises:
        CheckpointError: the file is missing, damaged or no weights, or a number in it is NaN or infinite.
    """
    return tensor_hash(load_foreign(expanded(init)))[:16] if init else ""


def load_student(file: Path) -> Student:
    """The student of a run, in evaluation mode on the CPU.

    Args:
        file: ``weights.safetensors`` of the run's folder.

    Raises:
        CheckpointError: the file is missing, damaged, or holds no student.
    """
    state, meta = load_weights(file)
    if not {"student", "teacher"} <= meta.keys():
        raise CheckpointError("these are not a student's weights", where=file, hint="give those of a video stream")
    settings = dict(meta["student"])
    vclip = settings.pop("vclip")
    config = FrosterConfig(vclip=VCLIPConfig(**{**vclip, "keep": tuple(vclip["keep"])}), **settings)
    student = make_student(load_teacher(TeacherConfig(**meta["teacher"])), config, seed=0)
    load_into(student, state, file)
    return student.eval()


class _Losses:
    """Loss and predictions of a student beside its frozen teacher."""

    def __init__(self, teacher: Teacher, student: Student) -> None:
        self.teacher, self.student = teacher, student
        texts = class_prompts()
        each_NE = teacher.encode_text([text for row in texts for text in row])
        self.text_PCE = rearrange(each_NE, "(p c) e -> p c e", p=len(texts))

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Eq. 4 on one view per clip, with prompts drawn by torch's generator, which the loop seeds for each step."""
        video = batch["video"][:, 0]
        which = sample_prompts(torch.default_generator)
        outputs = model(video, which)
        if self.student.config.distill == "none":
            return F.cross_entropy(outputs.logits_BC, batch["label"]), outputs.logits_BC
        frames_BTE, text_CE = self.teacher.encode_video(video), class_mean(self.text_PCE[which])
        return froster_loss(self.student, outputs, batch["label"], frames_BTE, text_CE), outputs.logits_BC

    @staticmethod
    def both(model: nn.Module, batch: Batch) -> Tensor:
        """[B, C + E]: logits, the mean over views, and unit embeddings, the mean over views and frames."""
        views = batch["video"].shape[1]
        outputs = model(rearrange(batch["video"], "b k c t h w -> (b k) c t h w"))
        logits_BC = rearrange(outputs.logits_BC, "(b k) c -> b k c", k=views).mean(1)
        features_BE = rearrange(outputs.frames_BTE, "(b k) t e -> b (k t) e", k=views).mean(1)
        return torch.cat([logits_BC, features_BE], dim=-1)

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits [B, 1, C]."""
        return self.both(model, batch)[:, None, : self.text_PCE.shape[1]]


def _student(job: Job, config: FrosterConfig) -> Made:
    preset, recipe = job.preset, job.preset.train_student
    teacher = load_teacher(preset.teacher, make_accelerator(recipe).device)
    student = make_student(teacher, config, job.seed, preset.init)
    losses = _Losses(teacher, student)

    def clips(split: str, train: bool = False, views: int = 1) -> VideoClips:
        video = dataclasses.replace(preset.video, test_clips=views)
        return VideoClips(
            job.index,
            split,
            video,
            train=train,
            seed=job.seed,
            cache=train and recipe.workers == 0,
            skip_bad=preset.data.skip_bad,
        )

    # What is damaged is told before training.
    judged = {split: clips(split, views=preset.video.test_clips) for split in job.splits}
    done = fit(
        student,
        losses.loss,
        clips("train", train=True),
        recipe,
        seed=job.seed,
        folder=job.folder / "checkpoints",
        predict=losses.predict,
        metrics=summary,
        validation=clips("val") if "val" in job.splits else None,
        collate=collate,
        title=f"{job.name} seed {job.seed}",
    )
    made = Made({}, done.history, done.device)
    for split, data in judged.items():
        found = extract(student, losses.both, data, recipe, collate=collate, title=f"{job.name} {split}")
        logits_NC, features_NE = found.values.split([losses.text_PCE.shape[1], losses.text_PCE.shape[2]], dim=1)
        made.outputs[split] = SplitOutputs.of(logits_NC.log_softmax(-1), data)
        made.arrays[f"{split}.features"] = features_NE.half().numpy()
    made.arrays["text.embeddings"] = student.classes().float().cpu().numpy()
    if job.main:
        meta = {"experiment": job.name, "preset": preset.label, "seed": job.seed}
        meta |= {"student": canonical(config), "teacher": dataclasses.asdict(preset.teacher)}
        save_weights(job.folder / "weights.safetensors", student.state_dict(), meta)
    made.extra = {
        "parameters": sum(p.numel() for p in student.clip.parameters()),
        "train_seconds": done.seconds,
        "logit_scale": student.clip.logit_scale.item(),
    }
    return made


def froster_decay(job: Job) -> Made:
    """The paper's video stream: distilled, with token decay."""
    return _student(job, job.preset.student)


def froster(job: Job) -> Made:
    """FROSTER: distilled, all tokens kept."""
    return _student(job, without_decay(job.preset.student))


def vclip(job: Job) -> Made:
    """Plain fine-tuning of the same student: labels alone, all tokens kept."""
    return _student(job, dataclasses.replace(without_decay(job.preset.student), distill="none"))


def without_decay(config: FrosterConfig) -> FrosterConfig:
    """The same student that keeps all tokens."""
    return dataclasses.replace(config, vclip=dataclasses.replace(config.vclip, keep=()))
