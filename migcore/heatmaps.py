"""Heat-map volumes of keypoints and bones (paper, section 2.1; PoseC3D's pseudo heat-maps).

:func:`joint_heatmaps` draws one Gaussian per keypoint, :func:`limb_heatmaps` one ridge per bone, as the published
generator draws them and to 1e-5 of it, but for a whole batch at once, after collation, on whatever device the
keypoints are.

From pixels of a film to volumes::

    import numpy as np
    import torch
    from migcore.data.augment import compact_box, resize
    from migcore.data.layouts import COCO17
    from migcore.heatmaps import joint_heatmaps, limb_heatmaps

    keypoints = np.random.rand(1, 48, 17, 2) * (640, 360)  # [M, T, V, 2], x and y in pixels of the film
    scores = np.ones((1, 48, 17))  # missing: score 0, at (0, 0)
    points, box = compact_box(keypoints, scores)  # box: left, top, right, bottom; None if they extend under 10 pixels
    size = (360, 640) if box is None else (box[3] - box[1], box[2] - box[0])
    points = torch.from_numpy(resize(points, size, (56, 56)))[None]
    joints = joint_heatmaps(points, torch.from_numpy(scores)[None], (56, 56))  # [1, 17, 48, 56, 56]
    limbs = limb_heatmaps(points, torch.from_numpy(scores)[None], (56, 56), bones=COCO17.bones)

A batch of :class:`migcore.data.datasets.SkeletonClips` is placed already, in as many views K as its config asks for::

    points, scores = batch["keypoints"].flatten(0, 1), batch["scores"].flatten(0, 1)  # [B K, M, T, V, 2] and so on
    joints = joint_heatmaps(points, scores, config.test_size)  # of a training set: config.train_size

Letters: B clips, M persons, T frames, V keypoints, E bones, H W pixels; R rows and P pixels of all windows together.

Choices:

* A volume is almost empty (a window covers 0.4 % of a joint's frame), so only the pixels inside the windows are
  computed, all windows side by side in one flat list, and written into zeros. No loop over clips, persons, frames or
  keypoints; the only loop, in :func:`limb_heatmaps`, cuts that list so that memory stays bounded.
* A joint's Gaussian is the outer product of two one-dimensional ones.
* Both functions are differentiable in keypoints and scores *inside the published window*: there the gradient is that of
  the Gaussian; the edge of the window, the threshold on the score and the integer grid carry none. Persons are joined
  by maximum, and the gradient follows the larger.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from migcore.errors import ConfigError, DataError

SCORE_THRESHOLD = 1e-3
"""A keypoint (a bone: the weaker of its ends) with a lower score is not drawn."""

_ROWS_AT_ONCE = 2**13


def joint_heatmaps(keypoints: Tensor, scores: Tensor, size: tuple[int, int], *, sigma: float = 0.6) -> Tensor:
    """One channel per keypoint: ``score · exp(-|p - keypoint|² / 2σ²)``, the maximum over persons.

    The value is non-zero only for pixel columns ``max(int(x - 3σ), 0) <= p < min(int(x + 3σ) + 1, W)``, and for rows
    likewise; ``int`` cuts towards zero, as published, so a point a little outside the frame still marks its first
    column. The pixel grid is integer (pixel p stands at coordinate p) and the peak is ``score`` only at an integer
    position.

    Args:
        keypoints: [B, M, T, V, 2] floating, (x, y) in pixels of the heat-map.
        scores: [B, M, T, V] in [0, 1]. NaN counts as 0, a score under 0.001 is not drawn; a NaN or infinite coordinate
            is a missing keypoint. A point at (0, 0) with a score above that is drawn, in the corner: give what is
            missing score 0.
        size: (H, W) in pixels.
        sigma: standard deviation in pixels.

    Returns:
        [B, V, T, H, W] on the keypoints' device and of their type (computed in float32 if that is a half type).
        Differentiable as the module says.

    Raises:
        DataError: the shapes or types of the two tensors do not fit.
        ConfigError: ``size`` or ``sigma`` is not positive.
    """
    keypoints_BMTV2, scores_BMTV, dtype = _checked(keypoints, scores, size, sigma)
    (batch, persons, frames, joints), (height, width) = scores_BMTV.shape, size
    reach = torch.arange(int(6 * sigma) + 2, device=keypoints.device)  # no window is longer

    def gaussian(centre_BMTV: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Pixels [B,M,T,V,K] of the window along one axis and the Gaussian there, 0 beyond the window's end."""
        first, end = _window(centre_BMTV, centre_BMTV, length, sigma)
        pixel = first[..., None] + reach
        value = torch.exp((pixel - centre_BMTV[..., None]) ** 2 * (-0.5 / sigma**2))
        return pixel.clamp(max=length - 1), value * (pixel < end[..., None])

    column, across = gaussian(keypoints_BMTV2[..., 0], width)
    row, down = gaussian(keypoints_BMTV2[..., 1], height)
    value = (down * scores_BMTV[..., None])[..., :, None] * across[..., None, :]
    plane = _planes(batch, persons, frames, joints, keypoints.device)
    index = ((plane[..., None] * height + row) * width)[..., :, None] + column[..., None, :]
    volume = value.new_zeros(batch * joints * frames * height * width)
    # Entries beyond a window were moved to an edge pixel with value 0, which a maximum with zeros does not see.
    volume = volume.scatter_reduce_(0, index.flatten(), value.flatten(), "amax")
    return volume.view(batch, joints, frames, height, width).to(dtype)


def limb_heatmaps(
    keypoints: Tensor,
    scores: Tensor,
    size: tuple[int, int],
    *,
    bones: Sequence[tuple[int, int]],
    sigma: float = 0.6,
) -> Tensor:
    """One channel per bone (a, b): ``min(score_a, score_b) · exp(-d² / 2σ²)``, d the distance to the segment a–b.

    Non-zero only in the window spanned by both ends, widened by 3σ and cut as in :func:`joint_heatmaps`; the maximum
    over persons. A bone shorter than one pixel is drawn as its first keypoint alone, window and score included:
    ``score_a``, not the smaller of the two, as published.

    Without a gradient to compute, memory beyond the volume itself stays under half of the volume's plus 100 MiB.

    Args:
        keypoints: [B, M, T, V, 2] floating, (x, y) in pixels of the heat-map.
        scores: [B, M, T, V] in [0, 1]; see :func:`joint_heatmaps`. A bone whose weaker end is under 0.001 is not drawn.
        size: (H, W) in pixels.
        bones: E pairs of keypoint indices, in the order of the channels; `a` is the first of a pair.
        sigma: standard deviation in pixels.

    Returns:
        [B, E, T, H, W] on the keypoints' device and of their type. Differentiable as the module says.

    Raises:
        DataError: the shapes or types of the two tensors do not fit.
        ConfigError: ``size`` or ``sigma`` is not positive, or a bone names a keypoint that is not there.
    """
    keypoints_BMTV2, scores_BMTV, dtype = _checked(keypoints, scores, size, sigma)
    (batch, persons, frames, joints), (height, width) = scores_BMTV.shape, size
    if any(len(bone) != 2 or not all(0 <= end < joints for end in bone) for bone in bones):
        raise ConfigError(
            f"a bone is not a pair of keypoints 0..{joints - 1}: {list(bones)}",
            hint="give the bones of the layout that the keypoints are in",
        )
    ends = torch.tensor([tuple(bone) for bone in bones], dtype=torch.long, device=keypoints.device).reshape(-1, 2)

    a, b = keypoints_BMTV2[..., ends[:, 0], :], keypoints_BMTV2[..., ends[:, 1], :]  # [B,M,T,E,2]
    score_a, score_b = scores_BMTV[..., ends[:, 0]], scores_BMTV[..., ends[:, 1]]
    square = ((b - a) ** 2).sum(-1)
    dot = square < 1  # a bone under a pixel is a dot at a, with the score of a
    b = torch.where(dot[..., None], a, b)
    drawn = torch.minimum(score_a, score_b) > 0
    score = torch.where(dot, score_a, torch.minimum(score_a, score_b))
    along = b - a
    step = along / square.clamp(min=1)[..., None]  # (p - a) · step is how far along the bone p lies, 0 at a and 1 at b

    low, high = torch.minimum(a, b).detach(), torch.maximum(a, b).detach()
    left, right = _window(low[..., 0], high[..., 0], width, sigma)
    top, bottom = _window(low[..., 1], high[..., 1], height, sigma)
    columns = torch.where(drawn, right - left, 0).clamp(min=0).flatten()
    rows = torch.where(columns > 0, (bottom - top).flatten(), 0).clamp(min=0)

    of_bone = torch.cat([a, along, step, score[..., None]], -1).reshape(-1, 7)
    left, top = left.flatten(), top.flatten()
    plane = _planes(batch, persons, frames, len(bones), keypoints.device).flatten()
    volume = keypoints_BMTV2.new_zeros(batch * len(bones) * frames * height * width)

    bone_R, row_R = _spread(rows)  # the bone of each window row, and which row of its window it is
    # A maximum taken in place piece by piece has no gradient, so with one to compute everything is one piece.
    at_once = max(1, len(bone_R)) if of_bone.requires_grad else _ROWS_AT_ONCE
    for cut in range(0, len(bone_R), at_once):
        bone = bone_R[cut : cut + at_once]
        row = top[bone] + row_R[cut : cut + at_once]
        start = (plane[bone] * height + row) * width + left[bone]
        ax, ay, along_x, along_y, step_x, step_y, score_R = of_bone[bone].unbind(-1)
        dy = row - ay
        of_row = torch.stack([left[bone] - ax, dy, along_x, along_y, step_x, dy * step_y, score_R], -1)

        row_P, column_P = _spread(columns[bone])
        dx, dy, along_x, along_y, step_x, u_of_row, score_P = of_row[row_P].unbind(-1)
        dx = dx + column_P
        u = (dx * step_x + u_of_row).clamp(0, 1)
        square_P = (dx - u * along_x) ** 2 + (dy - u * along_y) ** 2
        value = score_P * torch.exp(square_P * (-0.5 / sigma**2))
        volume.scatter_reduce_(0, start[row_P] + column_P, value, "amax")
    return volume.view(batch, len(bones), frames, height, width).to(dtype)


def _checked(
    keypoints: Tensor, scores: Tensor, size: tuple[int, int], sigma: float
) -> tuple[Tensor, Tensor, torch.dtype]:
    """Keypoints and scores in a type to compute in, with 0 for all that is not to be drawn, and the type to return."""
    if keypoints.ndim != 5 or keypoints.shape[-1] != 2 or scores.shape != keypoints.shape[:-1]:
        raise DataError(
            f"keypoints of shape {list(keypoints.shape)} with scores of shape {list(scores.shape)}",
            hint="keypoints are [B, M, T, V, 2] and scores [B, M, T, V]",
        )
    if not keypoints.is_floating_point() or not scores.is_floating_point():
        raise DataError(f"keypoints are {keypoints.dtype} and scores {scores.dtype}", hint="both are floating numbers")
    if len(size) != 2 or min(size) < 1:
        raise ConfigError(f"a heat-map of size {size}", hint="size is (H, W), both at least 1")
    if not sigma > 0:
        raise ConfigError(f"a Gaussian of sigma {sigma}", hint="sigma is above 0 pixels")
    compute = torch.promote_types(keypoints.dtype, torch.float32)
    keypoints, scores, dtype = keypoints.to(compute), scores.to(compute), keypoints.dtype
    there = torch.isfinite(keypoints).all(-1) & (scores >= SCORE_THRESHOLD)  # false for a NaN score
    return torch.where(there[..., None], keypoints, 0.0), torch.where(there, scores, 0.0), dtype


def _window(low: Tensor, high: Tensor, length: int, sigma: float) -> tuple[Tensor, Tensor]:
    """First pixel and one past the last of the window from ``low - 3σ`` to ``high + 3σ``, int64 in 0..length."""
    first = (low.detach() - 3 * sigma).trunc().clamp(0, length)
    end = ((high.detach() + 3 * sigma).trunc() + 1).clamp(0, length)
    return first.long(), end.long()


def _planes(batch: int, persons: int, frames: int, channels: int, device: torch.device) -> Tensor:
    """[B, M, T, channels]: number of the H×W plane of a [B, channels, T, H, W] volume that an entry is drawn into."""
    plane = torch.arange(batch * channels * frames, device=device).view(batch, 1, channels, frames)
    return plane.transpose(2, 3).expand(batch, persons, frames, channels)


def _spread(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Owner and position within it of each of ``counts.sum()`` entries: counts (2, 0, 1) give (0, 0, 2), (0, 1, 0)."""
    owner = torch.repeat_interleave(counts)
    return owner, torch.arange(len(owner), device=counts.device) - (counts.cumsum(0) - counts)[owner]
