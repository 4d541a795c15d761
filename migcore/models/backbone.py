"""The image network of TRN and of DSCNet's film stream: a ResNet of timm, without its classifier.

N images, H W pixels, D features. Choices:

* Both systems were published on ImageNet weights. The studio's stand-in for these is a small ResNet that the package
  ships, pre-trained on stills of other subjects (:mod:`migcore.studio.backbone`).
* ImageNet's are torchvision's where timm has them: the ones that TRN and DSCNet were published with.
* Initial weights are a function of a generator; torch's own is left as it was.
"""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from migcore.errors import CheckpointError, ConfigError
from migcore.models.weights import load_into, load_weights, tensor_hash

Pretrained = Literal["none", "imagenet", "studio"]
"""Where the weights of a backbone come from: drawn, fetched by timm, or the shipped ones of :data:`MINIATURE`."""
MINIATURE, MINIATURE_WIDTH = "resnet10t", 0.5
"""Name and width of the ResNet that is shipped with weights."""
MINIATURE_WEIGHTS = Path(__file__).resolve().parents[1] / "assets" / "miniature_resnet.safetensors"
_PUBLISHED = ".tv_in1k"  # timm's name of torchvision's first ImageNet weights
_CHANNELS = (64, 128, 256, 512)  # of the four stages
_STEM, _DEEP_STEM = 32, ("t", "c", "d")  # width of a stem of three convolutions, and how the names of such ResNets end


def image_backbone(
    name: str, *, width: float = 1.0, pretrained: Pretrained = "none", generator: torch.Generator | None = None
) -> tuple[nn.Module, int]:
    """A ResNet that gives one vector per image.

    Args:
        name: timm's, such as "resnet50", "resnet18", "resnet10t"; one whose layers are ``conv1`` and ``layer1`` to
            ``layer4``, so no "resnetv2" and no CLIP's.
        width: of all layers, as a share of the published.
        pretrained: "none" draws weights, "imagenet" fetches timm's, "studio" takes the shipped ones of a resnet10t of
            half width.
        generator: source of the initial weights, on the CPU; torch's own if not given.

    Returns:
        a module [N, 3, H, W] → [N, D], and D.

    Raises:
        ConfigError: timm has no such ResNet, or there are no weights for that name and width.
        CheckpointError: the weights cannot be fetched, or the shipped ones are not there or damaged.
    """
    import timm  # takes seconds

    known = timm.list_models("resnet*", module="resnet")
    if name not in known:
        close = difflib.get_close_matches(name, known, n=4) or ["resnet10t", "resnet18", "resnet50"]
        raise ConfigError(f"timm has no ResNet called {name!r}", hint=f"Did you mean {', '.join(close)}?")
    _check(name, width, pretrained)
    narrow: dict[str, Any] = {} if width == 1 else {"channels": tuple(max(1, round(c * width)) for c in _CHANNELS)}
    if narrow and name.endswith(_DEEP_STEM):
        narrow["stem_width"] = max(4, round(_STEM * width / 4) * 4)
    fetch = pretrained == "imagenet"
    which = f"{name}{_PUBLISHED}" if fetch and f"{name}{_PUBLISHED}" in timm.list_pretrained(name) else name
    seed = torch.randint(2**62, (), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))  # not torch.manual_seed, which would also seed the GPUs
        try:
            model = timm.create_model(which, pretrained=fetch, num_classes=0, **narrow)
        except (OSError, RuntimeError, ValueError) as error:
            if not fetch:
                raise
            raise CheckpointError(
                f"ImageNet's weights of {name} cannot be fetched or read ({error})",
                hint='connect to the network once (timm keeps them), or set pretrained to "none"',
            ) from error
    if pretrained == "studio":
        load_into(model, {key: tensor.float() for key, tensor in _shipped().items()}, MINIATURE_WEIGHTS)
    features = model.num_features
    assert isinstance(features, int)
    return model, features


def pretrained_identity(pretrained: Pretrained) -> str:
    """What identifies the weights that a backbone starts from, for run keys.

    Raises:
        CheckpointError: the shipped weights are not there or damaged.
    """
    return f"studio:{tensor_hash(_shipped())[:16]}" if pretrained == "studio" else pretrained


def check_pretrained(pretrained: str) -> None:
    """Refuse what is none of :data:`Pretrained`.

    Raises:
        ConfigError: that.
    """
    if pretrained not in get_args(Pretrained):
        raise ConfigError(f"pretrained {pretrained!r}", hint=f"choose from {', '.join(get_args(Pretrained))}")


def _check(name: str, width: float, pretrained: str) -> None:
    check_pretrained(pretrained)
    if not 0 < width < math.inf or (pretrained == "imagenet" and width != 1):
        raise ConfigError(f"a {name} of width {width}", hint="above 0; 1 where ImageNet's weights are wanted")
    if pretrained == "studio" and (name, width) != (MINIATURE, MINIATURE_WIDTH):
        raise ConfigError(
            f"the studio has no weights of a {name} of width {width:g}",
            hint=f"they are of a {MINIATURE} of width {MINIATURE_WIDTH:g}",
        )


def _shipped() -> dict[str, torch.Tensor]:
    if not MINIATURE_WEIGHTS.is_file():
        raise CheckpointError(
            "the weights of the miniature ResNet are not there",
            where=MINIATURE_WEIGHTS,
            hint="install migcore again, or pre-train them: migcore backbone",
        )
    return load_weights(MINIATURE_WEIGHTS)[0]
