"""The image network of TRN and of DSCNet's film stream: a ResNet of timm, without its classifier.

N images, H W pixels, D features. Initial weights are a function of a generator; torch's own is left as it was.
"""

from __future__ import annotations

import difflib
import math
from typing import Any

import torch
from torch import nn

from migcore.errors import CheckpointError, ConfigError

_CHANNELS = (64, 128, 256, 512)  # of the four stages
_STEM, _DEEP_STEM = 32, ("t", "c", "d")  # width of a stem of three convolutions, and how the names of such ResNets end


def image_backbone(
    name: str, *, width: float = 1.0, pretrained: bool = False, generator: torch.Generator | None = None
) -> tuple[nn.Module, int]:
    """A ResNet that gives one vector per image.

    Args:
        name: timm's, such as "resnet50", "resnet18", "resnet10t"; one whose layers are ``conv1`` and ``layer1`` to
            ``layer4``, so no "resnetv2" and no CLIP's.
        width: of all layers, as a share of the published.
        pretrained: fetch timm's weights for it (ImageNet) instead of drawing some.
        generator: source of the initial weights, on the CPU; torch's own if not given.

    Returns:
        a module [N, 3, H, W] → [N, D], and D.

    Raises:
        ConfigError: timm has no such ResNet, or has no weights for that width.
        CheckpointError: the weights cannot be fetched.
    """
    import timm  # takes seconds

    known = timm.list_models("resnet*", module="resnet")
    if name not in known:
        close = difflib.get_close_matches(name, known, n=4) or ["resnet10t", "resnet18", "resnet50"]
        raise ConfigError(f"timm has no ResNet called {name!r}", hint=f"Did you mean {', '.join(close)}?")
    if not 0 < width < math.inf or (pretrained and width != 1):
        raise ConfigError(f"a {name} of width {width}", hint="above 0; 1 where pretrained weights are wanted")
    narrow: dict[str, Any] = {} if width == 1 else {"channels": tuple(max(1, round(c * width)) for c in _CHANNELS)}
    if narrow and name.endswith(_DEEP_STEM):
        narrow["stem_width"] = max(4, round(_STEM * width / 4) * 4)
    seed = torch.randint(2**62, (), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))  # not torch.manual_seed, which would also seed the GPUs
        try:
            model = timm.create_model(name, pretrained=pretrained, num_classes=0, **narrow)
        except (OSError, RuntimeError, ValueError) as error:
            if not pretrained:
                raise
            raise CheckpointError(
                f"timm's weights of {name} cannot be fetched or read ({error})",
                hint="connect to the network once (timm keeps them), or set pretrained to false",
            ) from error
    features = model.num_features
    assert isinstance(features, int)
    return model, features
