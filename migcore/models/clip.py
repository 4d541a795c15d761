"""The frozen CLIP teacher (paper, section 2.2; prompts and logits as FROSTER and Open-VCLIP publish them).

The model is open_clip's own ``CLIP``: OpenAI's ViT-B/16 for iMiGUE, or for the studio a miniature of the same
architecture, pre-trained on studio frames (``migcore.studio``) and shipped with the package.

Letters: B clips, T frames, N texts, P prompts, C classes, E embedding, H W pixels.

Choices:

* A class is the mean over its prompts of unit embeddings, made unit again; computed once and kept.
* Logits are the mean over frames of per-frame cosines, times ``exp(logit_scale)``. The paper's Eq. 1 pools the frames
  before the cosine; the published code does not, and we follow the code.
* OpenAI's weights need QuickGELU, which open_clip's plain "ViT-B-16" has not: the ``-quickgelu`` configs are used.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import SafetensorError
from torch import Tensor, nn

from migcore.errors import CheckpointError, ConfigError, DataError
from migcore.files import expanded
from migcore.labels import class_prompts
from migcore.models.weights import load_foreign, load_into, tensor_hash

if TYPE_CHECKING:
    from open_clip.model import CLIP
    from open_clip.tokenizer import SimpleTokenizer

MINIATURE = "miniature_clip"
"""open_clip's name of the miniature, once :func:`register_miniature` has run."""
_ASSETS = Path(__file__).resolve().parents[1] / "assets"
MINIATURE_CONFIG = _ASSETS / f"{MINIATURE}.json"
MINIATURE_WEIGHTS = _ASSETS / f"{MINIATURE}.safetensors"
OPENAI_MODELS = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
_OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")  # numbers beside OpenAI's tensors
_IMAGES_AT_ONCE, _TEXTS_AT_ONCE = 256, 512


@dataclass(frozen=True)
class TeacherConfig:
    """Which CLIP is the teacher.

    Attributes:
        name: "miniature", or one of OpenAI's: "ViT-B-32", "ViT-B-16", "ViT-L-14".
        pretrained: "" for the weights that belong to the name (the shipped ones; OpenAI's), "openai" to say so, or a
            file: our safetensors, or a ``.pt`` holding a state dict with OpenAI's names.
        precision: of the towers: "fp32", "bf16" (autocast), or "auto", which is bf16 on CUDA and fp32 elsewhere.
    """

    name: str = "miniature"
    pretrained: str = ""
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        if self.name not in ("miniature", *OPENAI_MODELS):
            raise ConfigError(
                f"no teacher is called {self.name!r}", hint=f"choose from miniature, {', '.join(OPENAI_MODELS)}"
            )
        if self.name == "miniature" and self.pretrained == "openai":
            raise ConfigError(
                "OpenAI has no weights for the miniature",
                hint="leave teacher.pretrained empty, or name a file: --set teacher.pretrained=FILE",
            )
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ConfigError(f"precision {self.precision!r}", hint="choose from auto, fp32, bf16")

    @property
    def file(self) -> Path | None:
        """The weight file, or None when open_clip fetches OpenAI's."""
        if self.pretrained not in ("", "openai"):
            return expanded(self.pretrained)
        return MINIATURE_WEIGHTS if self.name == "miniature" else None

    @property
    def identity(self) -> str:
        """What decides the teacher's outputs: its name and the hash of its tensors (not of their file). For run keys.

        Raises:
            CheckpointError: the weight file is missing or damaged.
        """
        return f"{self.name}:{'openai' if self.file is None else tensor_hash(_read(self.file))[:16]}"


class Teacher(nn.Module):
    """A CLIP that stays frozen and in evaluation mode, for videos, texts and classes.

    Args:
        clip: open_clip's model; its parameters are frozen here.
        tokenizer: open_clip's, of that model.
        precision: as in :class:`TeacherConfig`.
    """

    def __init__(self, clip: CLIP, tokenizer: SimpleTokenizer, precision: str = "auto") -> None:
        super().__init__()
        self.clip = clip.requires_grad_(False)
        self.tokenizer = tokenizer
        self.precision = precision
        height, width = clip.visual.image_size
        self.image_size: tuple[int, int] = (int(height), int(width))
        self.embed_dim = int(clip.text_projection.shape[1])
        library = _open_clip()
        for name, value in (("mean", library.OPENAI_DATASET_MEAN), ("std", library.OPENAI_DATASET_STD)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1), persistent=False)
        self._classes: dict[tuple[tuple[str, ...], ...], Tensor] = {}
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stays in evaluation mode, also as a part of a model that trains."""
        super().train(False)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.clip.logit_scale.device

    def _autocast(self) -> torch.autocast:
        half = self.precision == "bf16" or (self.precision == "auto" and self.device.type == "cuda")
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half)

    @torch.no_grad()
    def encode_video(self, video_B3THW: Tensor) -> Tensor:
        """Embedding of each frame, by itself; no information goes between frames.

        Frames of another size are resized to ``image_size`` (bilinear, antialiased, without keeping the ratio).

        Args:
            video_B3THW: [B, 3, T, H, W] uint8, on any device.

        Returns:
            [B, T, E] float32 of length 1, on the teacher's device.

        Raises:
            DataError: another shape or type.
        """
        if video_B3THW.ndim != 5 or video_B3THW.shape[1] != 3 or video_B3THW.dtype != torch.uint8:
            raise DataError(
                f"a video of shape {list(video_B3THW.shape)} and type {video_B3THW.dtype}",
                hint="a video is [B, 3, T, H, W] uint8",
            )
        frames = rearrange(video_B3THW, "b c t h w -> (b t) c h w")
        encoded = []
        for start in range(0, len(frames), _IMAGES_AT_ONCE):
            image = self.preprocess(frames[start : start + _IMAGES_AT_ONCE])
            with self._autocast():
                encoded.append(self.clip.encode_image(image).float())
        embeddings = torch.cat(encoded) if encoded else torch.zeros(0, self.embed_dim, device=self.device)
        return F.normalize(embeddings, dim=-1).unflatten(0, (video_B3THW.shape[0], video_B3THW.shape[2]))

    def preprocess(self, frames_N3HW: Tensor) -> Tensor:
        """uint8 frames [N, 3, H, W] to what the image tower takes: ``image_size``, CLIP's mean and deviation, float."""
        image = frames_N3HW.to(self.device).float().div_(255)
        if image.shape[-2:] != self.image_size:
            image = F.interpolate(image, self.image_size, mode="bilinear", antialias=True, align_corners=False)
        return (image - self.get_buffer("mean")) / self.get_buffer("std")

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts; one longer than CLIP's 77 tokens is cut, with a warning.

        Args:
            texts: N strings: a list, also for one text (a text alone would be read letter by letter).

        Returns:
            [N, E] float32 of length 1, on the teacher's device.
        """
        room = self.clip.context_length - 2
        for text in texts:
            if len(self.tokenizer.encode(text)) > room:
                warnings.warn(f"the text is longer than CLIP reads and is cut: {text!r}", stacklevel=2)
        encoded = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            tokens = self.tokenizer(list(texts[start : start + _TEXTS_AT_ONCE])).to(self.device)
            with self._autocast():
                encoded.append(self.clip.encode_text(tokens).float())
        embeddings = torch.cat(encoded) if encoded else torch.zeros(0, self.embed_dim, device=self.device)
        return F.normalize(embeddings, dim=-1)

    def class_embeddings(self, prompts: Sequence[Sequence[str]] | None = None) -> Tensor:
        """One embedding per class: the mean of its prompts' unit embeddings, of length 1 again.

        Computed once for a set of prompts and kept.

        Args:
            prompts: P lists of C strings (prompt-major); the 29 prompts of :func:`migcore.labels.class_prompts` if
                not given.

        Returns:
            [C, E] float32 of length 1, on the teacher's device.

        Raises:
            ConfigError: the lists are empty or of different lengths.
        """
        key = tuple(tuple(row) for row in (class_prompts() if prompts is None else prompts))
        if not key or not key[0] or len({len(row) for row in key}) > 1:
            raise ConfigError(
                f"prompts for {[len(row) for row in key]} classes", hint="give one string per class in every list"
            )
        if key not in self._classes:
            with torch.inference_mode(False):  # what is kept may be used in training later
                each_NE = self.encode_text([text for row in key for text in row])
                self._classes[key] = F.normalize(rearrange(each_NE, "(p c) e -> p c e", p=len(key)).mean(0), dim=-1)
        return self._classes[key].to(self.device)

    def logits(self, frames_BTE: Tensor, text_CE: Tensor) -> Tensor:
        """``mean_t exp(logit_scale) · cos(frame_t, class)``, the similarity of Eq. 1 as published code has it.

        Args:
            frames_BTE: [B, T, E] of length 1, from :meth:`encode_video`.
            text_CE: [C, E] of length 1, from :meth:`class_embeddings`.

        Returns:
            [B, C].
        """
        # The mean of cosines is the cosine-like product with the mean of unit vectors, which is not made unit again.
        return self.clip.logit_scale.exp() * frames_BTE.mean(1) @ text_CE.T


def register_miniature() -> None:
    """Make the miniature's config known to open_clip, under the name :data:`MINIATURE`."""
    if MINIATURE not in _open_clip().list_models():
        _open_clip().add_model_config(MINIATURE_CONFIG)


def random_miniature(seed: int) -> CLIP:
    """The miniature with open_clip's initial weights, a function of the seed; where its pre-training starts.

    Torch's generator is left as it was.
    """
    register_miniature()
    return _untrained(MINIATURE, seed)


def miniature_tokenizer() -> SimpleTokenizer:
    """The tokenizer that goes with the miniature: CLIP's byte pairs, 77 tokens."""
    register_miniature()
    return _open_clip().get_tokenizer(MINIATURE)


def load_teacher(config: TeacherConfig, device: torch.device | str = "cpu") -> Teacher:
    """The teacher of a config, frozen, on a device.

    Args:
        config: which weights.
        device: where to.

    Raises:
        CheckpointError: the weights are missing, damaged, of another model, or cannot be fetched.
    """
    model = MINIATURE if config.name == "miniature" else f"{config.name}-quickgelu"
    register_miniature()
    if config.file is None:
        clip = _fetch_openai(model)
    else:
        state = _read(config.file)
        clip = _untrained(model, seed=0)
        load_into(clip, state, config.file)
    return Teacher(clip, _open_clip().get_tokenizer(model), config.precision).to(device)


def _open_clip() -> ModuleType:
    """open_clip, when it is first used: importing it takes seconds, and a config is often wanted without a model."""
    import open_clip

    return open_clip


def _untrained(model: str, seed: int) -> CLIP:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would also seed the GPUs
        return _open_clip().CLIP(**_open_clip().get_model_config(model))


def _read(file: Path) -> dict[str, Tensor]:
    if file == MINIATURE_WEIGHTS and not file.is_file():
        raise CheckpointError(
            "the weights of the miniature CLIP are not there",
            where=file,
            hint="install migcore again, or pre-train them with migcore.studio.teacher",
        )
    return {name: tensor for name, tensor in load_foreign(file).items() if name not in _OPENAI_EXTRAS}


def _fetch_openai(model: str) -> CLIP:
    """OpenAI's weights through open_clip, from its cache or the network."""
    try:
        with torch.random.fork_rng(devices=[]):  # open_clip draws weights before it loads some
            return _open_clip().create_model(model, pretrained="openai")
    except (OSError, RuntimeError, ValueError, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(
            f"OpenAI's weights of {model.removesuffix('-quickgelu')} cannot be fetched or read ({error})",
            hint="connect to the network once (open_clip keeps them), or give a file of them as the teacher's "
            "pretrained; the studio's presets need no download",
        ) from error
