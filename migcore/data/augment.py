"""Geometry of clips: coordinates of keypoints before heat-maps are drawn, and pixels of video (section 2.1).

M persons, T frames, V keypoints (leading dimensions may be others), H and W pixels; keypoints are pixels (x, y), a
missing one lies at (0, 0). Notable choices:
* Coordinates go through pyskl's steps (compact box, resize, crop, resize, flip); maps are drawn last, on the device.
* A mirror is that of the pixel grid, x' = W - 1 - x ("array"), in training and in test; pyskl trains with x' = W - x
  ("coordinate") and tests with the other, one pixel apart.
* Functions return new arrays; what is random takes its generator.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from migcore.data.layouts import SkeletonLayout
from migcore.errors import ConfigError, DataError

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, x1 and y1 exclusive."""
Size = tuple[int, int]
"""H, W in pixels."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""OpenAI CLIP's mean of RGB in 0..1."""
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI CLIP's standard deviation of RGB in 0..1."""


def crop(keypoints: np.ndarray, box: Box) -> np.ndarray:
    """Keypoints seen from a box's corner; coordinates that are exactly 0 (missing) stay 0.

    Args:
        keypoints: [..., 2].
        box: the box; only its corner (x0, y0) counts.

    Returns:
        [..., 2], a new array; points may lie outside the box.
    """
    return np.where(keypoints != 0, keypoints - np.asarray(box[:2], dtype=keypoints.dtype), keypoints)


def compact_box(
    keypoints: np.ndarray,
    scores: np.ndarray | None = None,
    *,
    padding: float = 0.25,
    threshold: float = 10.0,
    hw_ratio: float = 1.0,
) -> tuple[np.ndarray, Box | None]:
    """Keypoints seen from one box around all persons in all frames, widened (pyskl's PoseCompact with padding allowed).

    Args:
        keypoints: [M, T, V, 2], all finite; missing is (0, 0) with score 0. A coordinate that is exactly 0 does not
            count, x and y apart, as published.
        scores: [M, T, V]; points with score 0 do not count either. None is as published, and the same wherever missing
            points lie at (0, 0), as our readers put them.
        padding: how much wider than the points, as a fraction.
        threshold: pixels that the points must extend in both directions.
        hw_ratio: height : width that the box is grown to.

    Returns:
        The keypoints from the corner of the box (:func:`crop`), and the box, its corners truncated toward zero, which
        may lie outside of the picture. Where the points extend less than ``threshold``, the keypoints as they are and
        None.
    """
    x, y = keypoints[..., 0], keypoints[..., 1]
    counts_x, counts_y = x != 0, y != 0
    if scores is not None:
        counts_x, counts_y = counts_x & (scores > 0), counts_y & (scores > 0)
    x, y = x[counts_x], y[counts_y]
    if not len(x) or not len(y):
        return keypoints, None
    x0, x1, y0, y1 = float(x.min()), float(x.max()), float(y.min()), float(y.max())
    if x1 - x0 < threshold or y1 - y0 < threshold:
        return keypoints, None
    half_width, half_height = (x1 - x0) / 2 * (1 + padding), (y1 - y0) / 2 * (1 + padding)
    half_height = max(hw_ratio * half_width, half_height)
    half_width = max(half_height / hw_ratio, half_width)
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2
    left, top = int(centre_x - half_width), int(centre_y - half_height)
    box = left, top, int(centre_x + half_width), int(centre_y + half_height)
    return crop(keypoints, box), box


def resize(keypoints: np.ndarray, size: Size, new_size: Size) -> np.ndarray:
    """Keypoints of a picture of ``size`` (H, W) in the same picture scaled to ``new_size``; [..., 2]."""
    return keypoints * np.array([new_size[1] / size[1], new_size[0] / size[0]], dtype=keypoints.dtype)


def short_side(size: Size, length: int) -> Size:
    """``size`` (H, W) scaled so that its short side is ``length``, keeping its ratio (rounded to whole pixels)."""
    scale = length / min(size)
    return max(length, round(size[0] * scale)), max(length, round(size[1] * scale))


def random_resized_crop(
    keypoints: np.ndarray,
    size: Size,
    rng: np.random.Generator,
    *,
    area: tuple[float, float] = (0.56, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[np.ndarray, Size]:
    """Keypoints seen from a random part of the picture: the first of 10 random shapes that fits, else the central one.

    Args:
        keypoints: [..., 2] in a picture of ``size``.
        size: (H, W).
        rng: where randomness comes from.
        area: range of the part's share of the picture.
        aspect: range of width : height, drawn evenly in its logarithm.

    Returns:
        Keypoints from the corner of the part, and its size (H, W), at most ``size``. To be resized by the caller.
    """
    height, width = size
    shares = rng.uniform(*area, size=10) * (height * width)
    ratios = np.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1]), size=10))
    heights, widths = np.rint(np.sqrt(shares / ratios)).astype(int), np.rint(np.sqrt(shares * ratios)).astype(int)
    fits = np.flatnonzero((heights <= height) & (widths <= width) & (heights > 0) & (widths > 0))
    if len(fits):
        part_height, part_width = int(heights[fits[0]]), int(widths[fits[0]])
        y, x = int(rng.integers(height - part_height + 1)), int(rng.integers(width - part_width + 1))
    else:
        part_height = part_width = min(size)
        y, x = (height - part_height) // 2, (width - part_width) // 2
    return keypoints - np.array([x, y], dtype=keypoints.dtype), (part_height, part_width)


def flip_keypoints(
    keypoints: np.ndarray,
    scores: np.ndarray,
    layout: SkeletonLayout,
    width: int,
    *,
    convention: str = "array",
) -> tuple[np.ndarray, np.ndarray]:
    """The mirror image: x from the right, left and right keypoints swapped.

    Args:
        keypoints: [..., V, 2]; an x of exactly 0 (missing) stays 0, as published.
        scores: [..., V].
        layout: which keypoints swap.
        width: W of the picture.
        convention: "array" for x' = W - 1 - x, what reversing a drawn map does; "coordinate" for x' = W - x.

    Returns:
        Keypoints and scores of the mirror image.

    Raises:
        ConfigError: another convention.
        DataError: the last dimension of ``scores`` is not the layout's V.
    """
    if convention not in ("array", "coordinate"):
        raise ConfigError(f"convention {convention!r} is neither 'array' nor 'coordinate'")
    if scores.shape[-1] != layout.num_joints:
        raise DataError(f"{scores.shape[-1]} keypoints are not the {layout.num_joints} of layout {layout.name!r}")
    mirrored = keypoints[..., layout.flip_permutation, :]  # advanced indexing: a copy
    x = mirrored[..., 0]
    edge = width - 1 if convention == "array" else width
    mirrored[..., 0] = np.where(x != 0, edge - x, x)
    return mirrored, scores[..., layout.flip_permutation]


def resize_short(video: Tensor, length: int) -> Tensor:
    """Video [3, T, H, W] uint8 scaled so that its short side is ``length`` (bilinear, as published; uint8)."""
    height, width = short_side((video.shape[2], video.shape[3]), length)
    if (height, width) == tuple(video.shape[2:]):
        return video
    scaled = F.interpolate(video.transpose(0, 1).float(), size=(height, width), mode="bilinear", align_corners=False)
    return scaled.round().clamp(0, 255).to(torch.uint8).transpose(0, 1)


def _window(video: Tensor, top: int, left: int, size: Size) -> Tensor:
    return video[:, :, top : top + size[0], left : left + size[1]]


def _check_fits(video: Tensor, size: Size) -> tuple[int, int]:
    """How far a window of ``size`` can move down and to the right."""
    room = video.shape[2] - size[0], video.shape[3] - size[1]
    if min(room) < 0:
        raise DataError(f"a window of {size} does not fit into frames of {tuple(video.shape[2:])}")
    return room


def random_crop(video: Tensor, size: Size, rng: np.random.Generator) -> Tensor:
    """A window of ``size`` (H, W) at a random place, the same in all frames; [3, T, H, W].

    Raises:
        DataError: the window is larger than the frames.
    """
    down, right = _check_fits(video, size)
    return _window(video, int(rng.integers(down + 1)), int(rng.integers(right + 1)), size)


def centre_crop(video: Tensor, size: Size) -> Tensor:
    """The central window of ``size`` (H, W); [3, T, H, W].

    Raises:
        DataError: the window is larger than the frames.
    """
    down, right = _check_fits(video, size)
    return _window(video, down // 2, right // 2, size)


def flip(video: Tensor) -> Tensor:
    """The mirror image of a video [..., W]."""
    return video.flip(-1)


def normalise(video: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """CLIP's input: uint8 [B, 3, T, H, W] to ``dtype``, zero mean and unit variance per colour, on the video's device.

    Raises:
        DataError: the video is not uint8 or the second dimension is not 3 (it may be normalised already).
    """
    if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[1] != 3:
        raise DataError(f"video is {video.dtype} {list(video.shape)}, not uint8 [B, 3, T, H, W]")
    mean = torch.tensor(CLIP_MEAN, device=video.device, dtype=dtype).view(1, 3, 1, 1, 1)
    std = torch.tensor(CLIP_STD, device=video.device, dtype=dtype).view(1, 3, 1, 1, 1)
    return (video.to(dtype) / 255 - mean) / std
