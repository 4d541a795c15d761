"""The video student and how it is taught (paper, section 2.2; FROSTER, ICLR 2024).

A CLIP whose vision tower sees neighbouring frames (:mod:`migcore.models.vclip`) is trained on labels while it is held
near a frozen CLIP, in pictures and in words.

Letters: B clips, T frames, C classes, P prompts, L tokens of a text, N rows, E embedding, H W pixels.

Choices:

* Eq. 1 as published code has it: cosines frame by frame, then their mean. As printed (pool the frames, then take the
  cosine) is an option. Eq. 1's minus before a cross-entropy, which is negative already, is left out.
* Eq. 2's residual MLP lies on the student's features inside the distillation loss only; logits never see it.
* Eq. 3 as FROSTER's code of 2024 had it when the paper was written: the plain, unsquared distance, averaged over rows
  (the printed sum would make it depend on the batch). Later versions take 1 - cosine.
* The text encoder and the temperature are trained too. A training step reads two prompts per class, a template drawn
  by chance and the class string alone; evaluation reads all of them, once.
* The published code normalises the class matrix in place, which trains under CUDA's autocast only; here nothing is in
  place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from migcore.data.augment import normalise
from migcore.errors import ConfigError, DataError
from migcore.labels import TEMPLATES
from migcore.models.vclip import VCLIPConfig, VideoTower

if TYPE_CHECKING:
    from open_clip.model import CLIP

Distillation = Literal["l2", "cosine", "sq_l2", "mse", "none"]
Pool = Literal["frames", "clip"]


@dataclass(frozen=True)
class FrosterConfig:
    """The student and its losses.

    Attributes:
        vclip: its vision tower.
        distill: distance of Eq. 3: "l2" (unsquared), "cosine" (1 - cosine), "sq_l2", "mse" (mean over the embedding
            too), or "none" for plain fine-tuning.
        alpha: α of Eq. 2.
        beta: β of Eq. 4. A value chosen for one distance means nothing for another: "mse" is E/2 times smaller than
            "cosine".
        pool: Eq. 1: "frames" averages the cosines of the frames, "clip" takes the cosine of the averaged frames.
    """

    vclip: VCLIPConfig = field(default_factory=VCLIPConfig)
    distill: Distillation = "l2"
    alpha: float = 0.1
    beta: float = 2.0
    pool: Pool = "frames"

    def __post_init__(self) -> None:
        if self.distill not in ("l2", "cosine", "sq_l2", "mse", "none"):
            raise ConfigError(f"distillation {self.distill!r}", hint="choose from l2, cosine, sq_l2, mse, none")
        if self.pool not in ("frames", "clip"):
            raise ConfigError(f"pool {self.pool!r}", hint="choose from frames, clip")
        if self.beta < 0:
            raise ConfigError(f"beta {self.beta} is negative")


class ResidualProjector(nn.Sequential):
    """Eq. 2: ``ẑ = z + α · W₂ GELU(W₁ z)``. W₂ starts at zero, so ẑ = z at first.

    Args:
        dim: E.
        alpha: α.
        generator: source of W₁ (Kaiming normal), on the CPU; torch's own if not given.
    """

    def __init__(self, dim: int, alpha: float = 0.1, *, generator: torch.Generator | None = None) -> None:
        with torch.device("meta"):  # the layers draw nothing themselves
            first, last = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        super().__init__(first.to_empty(device="cpu"), nn.GELU(), last.to_empty(device="cpu"))
        self.alpha = alpha
        nn.init.kaiming_normal_(first.weight, generator=generator)
        nn.init.zeros_(last.weight)

    def forward(self, z_NE: Tensor) -> Tensor:
        """[…, E] of length 1 → […, E], not normalised again."""
        return z_NE + self.alpha * super().forward(z_NE)


class StudentOutputs(NamedTuple):
    """What the student says about clips: logits [B, C], and unit embeddings of frames [B, T, E] and classes [C, E]."""

    logits_BC: Tensor
    frames_BTE: Tensor
    text_CE: Tensor


def video_logits(frames_BTE: Tensor, text_CE: Tensor, logit_scale: Tensor, pool: Pool = "frames") -> Tensor:
    """Similarity of clips and classes (Eq. 1), over τ = exp(-logit_scale).

    Args:
        frames_BTE: embeddings of the frames, of any length.
        text_CE: of the classes, of length 1.
        logit_scale: log of 1/τ.
        pool: "frames": mean over frames of the cosines (published; the mean of unit vectors is not made unit again).
            "clip": cosine of the mean over frames (as printed).

    Returns:
        [B, C].
    """
    unit_BTE = F.normalize(frames_BTE, dim=-1)
    pooled_BE = unit_BTE.mean(1) if pool == "frames" else F.normalize(frames_BTE.mean(1), dim=-1)
    return logit_scale.exp() * pooled_BE @ text_CE.T


def distillation_loss(student_NE: Tensor, teacher_NE: Tensor, kind: Distillation = "l2") -> Tensor:
    """Distance of student and teacher features (Eq. 3), averaged over rows.

    Args:
        student_NE: after the projector, […, E].
        teacher_NE: of length 1, of the same shape.
        kind: "l2": ‖ẑ - z‖, whose gradient is 0 where the two agree; "sq_l2": its square; "mse": the square's mean
            over E; "cosine": 1 - cos; "none": 0.

    Returns:
        a scalar.

    Raises:
        DataError: the shapes differ.
    """
    if student_NE.shape != teacher_NE.shape:
        raise DataError(f"features of shapes {list(student_NE.shape)} and {list(teacher_NE.shape)} to compare")
    if kind == "none":
        return student_NE.new_zeros(())
    if kind == "cosine":
        return 1 - F.cosine_similarity(student_NE, teacher_NE, dim=-1).mean()
    apart_NE = student_NE - teacher_NE
    if kind == "l2":  # a square root written out would give NaN gradients at step 0, where both are equal
        return torch.linalg.vector_norm(apart_NE, dim=-1).mean()
    return apart_NE.square().mean() if kind == "mse" else apart_NE.square().sum(-1).mean()


def sample_prompts(generator: torch.Generator) -> list[int]:
    """Prompts of a training step: the number of a template drawn by chance, and that of the class string alone."""
    return [int(torch.randint(len(TEMPLATES), (), generator=generator)), len(TEMPLATES)]


def class_mean(each_PCE: Tensor) -> Tensor:
    """A class: the mean of its prompts' unit embeddings, of length 1 again: [P, C, E] → [C, E]."""
    return F.normalize(each_PCE.mean(0), dim=-1)


class Student(nn.Module):
    """A CLIP with a video tower, and the two projectors of the distillation loss.

    Args:
        clip: the weights it starts from; becomes a part of the student (give a copy), its vision tower is replaced.
        prompts_PCL: tokens of the class prompts, [P, C, L].
        config: the student.
        generator: of the projectors' weights.

    Raises:
        ConfigError: the vision tower does not fit ``config.vclip``.
    """

    def __init__(
        self, clip: CLIP, prompts_PCL: Tensor, config: FrosterConfig, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.clip = clip.requires_grad_(True)
        clip.visual = VideoTower(clip.visual, config.vclip)
        dim = int(clip.text_projection.shape[1])
        self.projector_v = ResidualProjector(dim, config.alpha, generator=generator)
        self.projector_t = ResidualProjector(dim, config.alpha, generator=generator)
        if config.distill == "none":
            self.projector_v.requires_grad_(False)
            self.projector_t.requires_grad_(False)
        self.register_buffer("prompts", prompts_PCL, persistent=False)
        self._classes: Tensor | None = None
        self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "_classes", None))

    @property
    def visual(self) -> VideoTower:
        """The vision tower."""
        tower = self.clip.visual
        assert isinstance(tower, VideoTower)
        return tower

    def train(self, mode: bool = True) -> Student:
        """As ever; in training mode the class embeddings kept for evaluation are forgotten: weights may change now."""
        if mode:
            self._classes = None
        super().train(mode)
        return self

    def preprocess(self, video_B3THW: Tensor) -> Tensor:
        """uint8 [B, 3, T, H, W] to what the tower takes: its size (bilinear, antialiased), CLIP's pixel statistics."""
        video = normalise(video_B3THW)
        if video.shape[-2:] == self.visual.image_size:
            return video
        frames = rearrange(video, "b c t h w -> (b t) c h w")
        frames = F.interpolate(frames, self.visual.image_size, mode="bilinear", antialias=True, align_corners=False)
        return rearrange(frames, "(b t) c h w -> b c t h w", b=len(video))

    def encode_text(self, tokens_NL: Tensor) -> Tensor:
        """Unit embeddings [N, E] of tokens [N, L]; the end of a text is its largest number, as CLIP has it."""
        clip, ends = self.clip, tokens_NL.argmax(-1)
        # The mask is causal: what follows the end of the longest text changes nothing, and is not computed.
        length = int(ends.max()) + 1
        x = clip.token_embedding(tokens_NL[:, :length]) + clip.positional_embedding[:length]
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
        return F.normalize((x[torch.arange(len(x), device=x.device), ends] @ clip.text_projection).float(), dim=-1)

    def class_embeddings(self, prompts_PCL: Tensor) -> Tensor:
        """Unit embeddings [C, E] of classes from tokens of their prompts [P, C, L]."""
        each_NE = self.encode_text(rearrange(prompts_PCL, "p c l -> (p c) l"))
        return class_mean(rearrange(each_NE, "(p c) e -> p c e", p=len(prompts_PCL)))

    def classes(self) -> Tensor:
        """Unit embeddings [C, E] of the classes from all prompts; in evaluation mode computed once and kept."""
        if self.training:
            return self.class_embeddings(self.get_buffer("prompts"))
        if self._classes is None or self._classes.device != self.clip.logit_scale.device:
            with torch.inference_mode(False), torch.no_grad():  # what is kept may be used outside of inference mode
                self._classes = self.class_embeddings(self.get_buffer("prompts"))
        return self._classes

    def forward(self, video_B3THW: Tensor, which: list[int] | None = None) -> StudentOutputs:
        """Logits and unit embeddings.

        Args:
            video_B3THW: [B, 3, T, H, W] uint8, or floating and normalised already.
            which: prompts that make the class embeddings (:func:`sample_prompts`); all if not given.
        """
        video = video_B3THW if video_B3THW.is_floating_point() else self.preprocess(video_B3THW)
        text_CE = self.classes() if which is None else self.class_embeddings(self.get_buffer("prompts")[which])
        frames_BTE = self.visual(video).float()
        logits_BC = video_logits(frames_BTE, text_CE, self.clip.logit_scale, self.config.pool)
        return StudentOutputs(logits_BC, F.normalize(frames_BTE, dim=-1), text_CE)


def froster_loss(
    student: Student, outputs: StudentOutputs, labels_B: Tensor, teacher_BTE: Tensor, teacher_CE: Tensor
) -> Tensor:
    """Eq. 4: ``ℓ_cls + β (ℓ_fd^v + ℓ_fd^t)``: cross-entropy and the distances of frames and of classes.

    Args:
        student: whose projectors and β are used.
        outputs: of a batch.
        labels_B: true classes.
        teacher_BTE: the frozen CLIP's unit embeddings of the same frames.
        teacher_CE: and of the same prompts.
    """
    config = student.config
    loss = F.cross_entropy(outputs.logits_BC, labels_B)
    if config.distill == "none":
        return loss
    apart_v = distillation_loss(student.projector_v(outputs.frames_BTE), teacher_BTE, config.distill)
    apart_t = distillation_loss(student.projector_t(outputs.text_CE), teacher_CE, config.distill)
    return loss + config.beta * (apart_v + apart_t)
