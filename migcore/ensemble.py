"""Fusion of streams (paper, section 2.5): Eq. 7, a weighted sum of what the models say.

Letters: N clips, C classes.

Choices: probabilities are summed, as PoseC3D's authors and the 2023 winner do; the paper says "logits", and these are
an option, though those of CLIP (cosines times a learnt scale) and of a linear head have no common unit. Weights are
taken as given and need not sum to one (the paper's last row sums to 1.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from migcore.errors import ConfigError, DataError


def fuse(
    streams: Mapping[str, ArrayLike],
    weights: Mapping[str, float],
    *,
    kind: Literal["probabilities", "logits"] = "probabilities",
) -> np.ndarray:
    """Eq. 7: ``Y = w₁ y₁ + w₂ y₂ + w₃ y₃``, for any number of streams.

    Args:
        streams: logits [N, C] of each stream, by name, of the same clips in the same order.
        weights: a number not below 0 for each of them, at least one above.
        kind: sum soft-max probabilities, or the logits themselves.

    Returns:
        [N, C] float64; the largest of a row is the fused prediction.

    Raises:
        ConfigError: a stream has no weight, a weight no stream, all weights are 0, one is negative, or ``kind`` is
            unknown.
        DataError: the streams differ in shape, or a logit is not a finite number.
    """
    if not streams or set(streams) != set(weights):
        raise ConfigError(
            f"streams {sorted(streams)} with weights for {sorted(weights)}", hint="give one weight per stream"
        )
    if any(not 0 <= w < np.inf for w in weights.values()) or not any(weights.values()):
        raise ConfigError(f"weights {dict(weights)}", hint="weights are 0 or more, and one is above 0")
    if kind not in ("probabilities", "logits"):
        raise ConfigError(f"fusion of {kind!r}", hint="fuse probabilities or logits")
    logits = {name: np.asarray(stream, np.float64) for name, stream in streams.items()}
    shapes = {name: stream.shape for name, stream in logits.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise DataError(f"streams of shapes {shapes}", hint="each is [N, C], of the same clips and classes")
    for name, stream in logits.items():
        if not np.isfinite(stream).all():
            raise DataError(f"stream {name!r} holds NaN or infinity", hint="the model diverged; train it again")
    terms = [weights[name] * (_softmax(y) if kind == "probabilities" else y) for name, y in logits.items()]
    return np.sum(terms, axis=0)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
