"""Draws frames from signed distances: soft-edged capsules, ellipses and convex polygons, back to front, in torch.

A picture is a list of *groups*. The primitives of a group share one window of pixels that follows them from frame to
frame, so that a hand costs a hand's worth of pixels and not a picture's. All frames of a call are drawn at once.

Legend: N frames; H W pixels of the picture, h w of a window; P polygon corners. Coordinates are frame units (0..1, x
right, y down), pixel (i, j) is centred at ((j + ½)/W, (i + ½)/H).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray


@dataclass
class Shape:
    """One primitive in N frames.

    Attributes:
        kind: "capsule" (points [N, 2, 2], radii [N, 2]: a rounded cone), "ellipse" (points [N, 1, 2], radii [N, 2] half
            axes, angle [N]) or "polygon" (points [N, P, 2] convex, clockwise in the picture, radii [N, 1] rounding).
        points, radii, angle: geometry, frame units and radians.
        colour: [3] or [N, 3].
        alpha: [N] opacity; None is opaque.
        edge: darkening of the rim, 0..1.
        soft: extra softness of the rim, frame units.
        light: darkening towards the side away from the light, -1..1.
        part: index into the part names, for label maps; 0 leaves what is below.
    """

    kind: str
    points: Array
    radii: Array
    colour: Array
    angle: Array | None = None
    alpha: Array | None = None
    edge: float = 0.25
    soft: float = 0.0
    light: float = 0.0
    part: int = 0


def _distance(shape: Shape, x_NHW: Tensor, y_NHW: Tensor, convert) -> Tensor:  # type: ignore[no-untyped-def]
    """Signed distance [N, h, w] in frame units, negative inside."""
    p = convert(shape.points)[..., None, None, :]  # [N, P, 1, 1, 2]
    r = convert(shape.radii)[..., None, None]  # [N, R, 1, 1]
    if shape.kind == "capsule":
        ax, ay = p[:, 0, ..., 0], p[:, 0, ..., 1]
        bx, by = p[:, 1, ..., 0] - ax, p[:, 1, ..., 1] - ay
        dx, dy = x_NHW - ax, y_NHW - ay
        h = ((dx * bx + dy * by) / (bx * bx + by * by).clamp_min(1e-9)).clamp_(0, 1)
        return torch.hypot(dx - h * bx, dy - h * by) - (r[:, 0] + (r[:, 1] - r[:, 0]) * h)
    if shape.kind == "ellipse":
        dx, dy = x_NHW - p[:, 0, ..., 0], y_NHW - p[:, 0, ..., 1]
        if shape.angle is not None:
            a = convert(shape.angle)[:, None, None]
            c, s = torch.cos(a), torch.sin(a)
            dx, dy = c * dx + s * dy, c * dy - s * dx
        u, v = dx / r[:, 0], dy / r[:, 1]
        k0 = torch.hypot(u, v)
        k1 = torch.hypot(u / r[:, 0], v / r[:, 1])
        return k0 * (k0 - 1) / k1.clamp_min(1e-6)
    distance: Tensor | None = None
    count = p.shape[1]
    for i in range(count):
        ax, ay = p[:, i, ..., 0], p[:, i, ..., 1]
        ex, ey = p[:, (i + 1) % count, ..., 0] - ax, p[:, (i + 1) % count, ..., 1] - ay
        norm = torch.hypot(ex, ey).clamp_min(1e-6)
        side = ((x_NHW - ax) * ey - (y_NHW - ay) * ex) / norm
        distance = side if distance is None else torch.maximum(distance, side)
    assert distance is not None
    return distance - r[:, 0]


def _bounds(group: list[Shape]) -> tuple[Array, Array]:
    """Lower and upper corner [N, 2] of all primitives of a group."""
    low, high = [], []
    for s in group:
        r = s.radii.max(-1) + s.soft
        low.append(s.points.min(1) - r[:, None])
        high.append(s.points.max(1) + r[:, None])
    return np.min(low, 0), np.max(high, 0)


def draw(
    groups: list[list[Shape]],
    background: Tensor,
    *,
    parts: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """Draw N frames.

    Args:
        groups: back to front; each group's primitives back to front.
        background: [N, H, W, 3] float32 in [0, 1], changed in place.
        parts: if positive, also returns a label map of this many pixels a side: the part on top at each cell's centre.

    Returns:
        the frames (the same tensor as ``background``), and the label map [N, parts, parts] int64 or None.
    """
    n, height, width, _ = background.shape
    device = background.device
    flat = background.view(n, height * width, 3)
    labels = torch.zeros(n, height * width, dtype=torch.uint8, device=device) if parts else None
    pixel = 1.0 / height

    def convert(a: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)).to(device)

    for group in groups:
        group = [s for s in group if s.alpha is None or s.alpha.max() > 1e-3]
        if not group:
            continue
        low, high = _bounds(group)
        x0 = np.clip(np.floor(low[:, 0] * width - 1.5), 0, width - 1).astype(np.int64)
        y0 = np.clip(np.floor(low[:, 1] * height - 1.5), 0, height - 1).astype(np.int64)
        x1 = np.clip(np.ceil(high[:, 0] * width + 1.5), 1, width).astype(np.int64)
        y1 = np.clip(np.ceil(high[:, 1] * height + 1.5), 1, height).astype(np.int64)
        w, h = int((x1 - x0).max()), int((y1 - y0).max())
        if w < 1 or h < 1:
            continue
        x0, y0 = np.minimum(x0, width - w), np.minimum(y0, height - h)
        fixed = int(x1.max() - x0.min()) * int(y1.max() - y0.min()) <= 1.6 * w * h
        if fixed:  # the window hardly moves: a plain view is cheaper than gathering
            xa, ya = int(x0.min()), int(y0.min())
            xb, yb = int(x1.max()), int(y1.max())
            xs = ((torch.arange(xa, xb, device=device) + 0.5) / width).view(1, 1, -1)
            ys = ((torch.arange(ya, yb, device=device) + 0.5) / height).view(1, -1, 1)
            window = background[:, ya:yb, xa:xb]
            marks = labels.view(n, height, width)[:, ya:yb, xa:xb] if labels is not None else None
        else:
            rows = torch.from_numpy(y0).to(device)[:, None] + torch.arange(h, device=device)
            cols = torch.from_numpy(x0).to(device)[:, None] + torch.arange(w, device=device)
            index = (rows[:, :, None] * width + cols[:, None, :]).view(n, -1)
            window = flat.gather(1, index[..., None].expand(-1, -1, 3)).view(n, h, w, 3)
            marks = labels.gather(1, index).view(n, h, w) if labels is not None else None
            xs = ((cols + 0.5) / width)[:, None, :]
            ys = ((rows + 0.5) / height)[:, :, None]
        for shape in group:
            distance = _distance(shape, xs, ys, convert)
            blur = max(pixel, shape.soft)
            cover = (0.5 - distance / blur).clamp_(0, 1)
            if shape.alpha is not None:
                cover = cover * convert(shape.alpha)[:, None, None]
            colour = convert(np.broadcast_to(shape.colour, (n, 3)))[:, None, None, :]
            if shape.edge or shape.light:
                rim = (1 + distance / max(1.2 * pixel, 0.011)).clamp_(0, 1) * shape.edge
                tone = 1 - rim
                if shape.light:
                    centre = convert(shape.points[..., 0].mean(1))[:, None, None]
                    tone = tone + (shape.light * 1.6) * (xs - centre)
                window.add_((colour * tone[..., None] - window).mul_(cover[..., None]))
            else:
                window.add_((colour - window).mul_(cover[..., None]))
            if marks is not None and shape.part:
                marks.masked_fill_(cover > 0.5, shape.part)
        if not fixed:
            flat.scatter_(1, index[..., None].expand(-1, -1, 3), window.reshape(n, -1, 3))
            if labels is not None:
                assert marks is not None
                labels.scatter_(1, index, marks.view(n, -1))
    if labels is None:
        return background, None
    step = (torch.arange(parts, device=device) * height // parts) + height // (2 * parts)
    return background, labels.view(n, height, width)[:, step][:, :, step].long()
