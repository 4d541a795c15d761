"""The systems of Table 1, each in one picture of a clip (chapter 10).

Pictures are drawn at the published sizes, whatever the page's preset trains, by the code that trains them. Nothing here
has been learnt, but for the frozen CLIP of :func:`neighbours`.

Letters: T frames, V keypoints, G parts, P patches of a frame, s frames of a set, H W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from migcore.data.augment import normalise
from migcore.data.datasets import VideoClips, VideoConfig
from migcore.data.dense import CropConfig, DenseClips
from migcore.data.imigue import ClipIndex, ClipRecord, read_clip_skeleton
from migcore.data.layouts import SkeletonLayout
from migcore.errors import ConfigError, DataError
from migcore.models.clip import Teacher
from migcore.models.dscnet import STMEM
from migcore.models.evl import EVLConfig, TemporalCrossAttention, frozen_features, relative_places
from migcore.models.hyperformer import IMIGUE_GROUPS
from migcore.models.stgcn import STGCNConfig, adjacency, hops
from migcore.models.trn import TRNConfig, ordered_sets
from migcore.report.pictures import _bare, clip_frames, clip_volumes, draw_skeleton, keypoint_patches
from migcore.report.plots import GREY, MAP, MARKERS, PALETTE, finish, style

PARTS = ("head", "torso", "left arm", "right arm", "left hand", "right hand")
"""Names of the parts of :data:`migcore.models.hyperformer.IMIGUE_GROUPS`, sides by the viewer."""
_ELBOWS, _WRISTS = ("ElbowLeft", "ElbowRight"), ("HandLeft", "HandRight")


# --- the clip ---------------------------------------------------------------------------------------------------------


def clearest_clip(index: ClipIndex, split: str = "test") -> ClipRecord:
    """The clip in whose middle frame all keypoints are seen, the nearest two of them as far apart as in no other clip.

    Where no clip shows all keypoints, those with the most count.

    Raises:
        DataError: no clip of the split has both a film and a skeleton.
    """
    best, clearest = (-1, -1.0), None
    for clip in _with_both(index, split):
        points, scores = _middle(clip, index)
        inside = points[scores > 0]
        apart = np.linalg.norm(inside[:, None] - inside[None], axis=-1)
        nearest = apart[~np.eye(len(inside), dtype=bool)].min() if len(inside) > 1 else 0.0
        if (this := (len(inside), float(nearest))) > best:
            best, clearest = this, clip
    assert clearest is not None
    return clearest


def tightest_clip(index: ClipIndex, split: str = "test") -> ClipRecord:
    """The clip with DSCNet's smallest box (:class:`migcore.data.dense.DenseClips`), the longest one of several.

    Raises:
        DataError: no clip of the split has both a film and a skeleton.
    """
    clips = DenseClips(dataclasses.replace(index, clips=_with_both(index, split)), split, CropConfig(), train=False)
    sides = [(box[2] - box[0], -clip.frames) for box, clip in zip(clips.boxes, clips.records, strict=True)]
    return clips.records[min(range(len(sides)), key=sides.__getitem__)]


def _with_both(index: ClipIndex, split: str) -> tuple[ClipRecord, ...]:
    both = tuple(clip for clip in index.split(split) if clip.film is not None and clip.skeleton is not None)
    if not both:
        raise DataError(f"no clip of {split} has both a film and a skeleton", hint="pictures of both need both")
    return both


def _middle(clip: ClipRecord, index: ClipIndex) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints [V, 2] and scores [V] of a clip's middle frame."""
    keypoints, scores = read_clip_skeleton(clip, index.column_map)
    return keypoints[len(keypoints) // 2], scores[len(scores) // 2]


def _close_up(axes: Axes, clip: ClipRecord, points: np.ndarray, margin: float = 0.13) -> float:
    """The middle frame, faint, as far as the keypoints [V, 2] reach; returns the length of what is shown, in pixels."""
    axes.imshow(clip_frames(clip, 1)[0], alpha=0.45)
    low, high = points.min(0), points.max(0)
    length = float((high - low).max()) * (1 + 2 * margin)
    (x0, y0), (x1, y1) = (low + high) / 2 - length / 2, (low + high) / 2 + length / 2
    axes.set(xlim=(x0, x1), ylim=(y1, y0))
    _bare(axes)
    return length


def _alone(index: ClipIndex, clip: ClipRecord) -> ClipIndex:
    return dataclasses.replace(index, clips=(clip,))


# --- one picture each -------------------------------------------------------------------------------------------------


def partition(clip: ClipRecord, index: ClipIndex, layout: SkeletonLayout, centre: int = STGCNConfig.centre) -> Figure:
    """ST-GCN's sets of neighbours: what a keypoint takes from its neighbours, ours and as in the published code.

    The half of a bone next to a keypoint has the colour of the set in which that keypoint finds the other end.

    Args:
        clip, index: whose middle frame is shown.
        layout: of the skeleton.
        centre: keypoint that distances are counted from.
    """
    points, scores = _middle(clip, index)
    sets = {"from a neighbour as far or farther": 1, "from a nearer neighbour": 2}
    with style():
        figure, grid = plt.subplots(1, 2, figsize=(7, 3.9), layout="constrained")
        matrices = {
            "true distances": adjacency(layout.num_joints, layout.bones, centre=centre),
            "the published code's": adjacency(layout.num_joints, layout.bones, centre=centre, partition="published"),
        }
        for axes, (title, matrix_KVV) in zip(grid, matrices.items(), strict=True):
            A_KVV = matrix_KVV.numpy() > 0
            _close_up(axes, clip, points[scores > 0])
            for place in sets.values():
                for source, target in np.argwhere(A_KVV[place]):
                    if min(scores[source], scores[target]) > 0:
                        ends = np.stack([points[target], (points[source] + points[target]) / 2])
                        axes.plot(*ends.T, color=PALETTE[5 * (place - 1)], linewidth=4.2 - 1.1 * place,
                                  solid_capstyle="butt")  # fmt: skip
            seen = points[scores > 0]
            axes.scatter(*seen.T, s=9, color="white", edgecolors="black", linewidths=0.6, zorder=3)
            if scores[centre] > 0:
                axes.scatter(*points[centre], s=110, marker="*", color="white", edgecolors="black", zorder=4)
            axes.set_title(f"{title}: {', '.join(str(n) for n in A_KVV.sum((1, 2)))}")
        handles = [
            Line2D([], [], color=PALETTE[5 * (k - 1)], linewidth=4.2 - 1.1 * k, label=name) for name, k in sets.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        return finish(figure)


def outline(points_V2: np.ndarray, radius: float, corners: int = 64) -> np.ndarray:
    """[corners, 2]: all that is within ``radius`` of the convex hull of some points, as a polygon."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    ways_A2 = np.stack([np.cos(angle), np.sin(angle)], 1)
    return points_V2[(points_V2 @ ways_A2.T).argmax(0)] + radius * ways_A2  # in each direction the farthest point


def hyperedges(
    clip: ClipRecord,
    index: ClipIndex,
    layout: SkeletonLayout,
    groups: Sequence[int] = IMIGUE_GROUPS,
    names: Sequence[str] = PARTS,
) -> Figure:
    """Hyperformer's two kinds of nearness: hyperedges over the skeleton, and bones between any two keypoints.

    Args:
        clip, index: whose middle frame is shown.
        layout: of the skeleton.
        groups: V numbers, the part of each keypoint.
        names: of the G parts.

    Raises:
        ConfigError: another number of names than parts.
    """
    if sorted(set(groups)) != list(range(len(names))):
        raise ConfigError(f"{len(names)} names for parts {sorted(set(groups))}")
    points, scores = _middle(clip, index)
    group = np.array(groups)
    order = np.argsort(group, kind="stable")
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.5), layout="constrained", width_ratios=[1, 1.15])
        length = _close_up(left, clip, points[scores > 0])
        for part, name in enumerate(names):
            members = points[(group == part) & (scores > 0)]
            colour, sign = PALETTE[part % len(PALETTE)], MARKERS[part % len(MARKERS)]
            if len(members):
                left.fill(*outline(members, length / 40).T, color=colour, alpha=0.45, linewidth=0)
            left.plot(*members.T, sign, color=colour, markersize=4, markeredgecolor="black", markeredgewidth=0.4,
                      label=name)  # fmt: skip
        figure.legend(loc="outside lower left", ncols=3, markerscale=1.5, fontsize=9, columnspacing=1)
        far = hops(layout.num_joints, layout.bones).numpy()[np.ix_(order, order)]
        image = right.imshow(far, cmap=MAP)
        ends = np.cumsum(np.bincount(group))
        for part, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            right.add_patch(plt.Rectangle((start - 0.5, start - 0.5), end - start, end - start, fill=False,
                                          edgecolor=PALETTE[part % len(PALETTE)], linewidth=2.5))  # fmt: skip
        right.set_yticks([(a + b - 1) / 2 for a, b in zip([0, *ends[:-1]], ends, strict=True)], names)
        right.set_xticks([])
        right.tick_params(length=0)
        figure.colorbar(image, ax=right, label="bones between two keypoints", shrink=0.85)
        return finish(figure)


def summed_volumes(
    clip: ClipRecord, index: ClipIndex, layout: SkeletonLayout, *, frames: int, size: tuple[int, int], padding: float
) -> Figure:
    """PoseC3D's volumes added up over time, joints and limbs, and the part of wrists and elbows seen from above.

    Args:
        clip, index, layout, frames, size, padding: as for :func:`migcore.report.pictures.clip_volumes`.
    """
    joint, limb = clip_volumes(clip, index, layout, frames=frames, size=size, padding=padding)
    arms = [layout.joints.index(name) for name in (*_ELBOWS, *_WRISTS)]
    views = {
        "joints": joint.amax(0).sum(0),  # [H, W]
        "limbs": limb.amax(0).sum(0),
        "arms, from above": joint[arms].amax(0).amax(1),  # [T, W]
    }
    with style():
        figure, grid = plt.subplots(1, 3, figsize=(7.2, 2.6), layout="constrained")
        for axes, (title, picture) in zip(grid, views.items(), strict=True):
            axes.imshow(picture.numpy(), cmap="inferno", norm=PowerNorm(0.5), aspect="auto")
            axes.set_box_aspect(1)
            axes.set_title(title)
            axes.set(xticks=[], yticks=[], xlabel="x", ylabel="y")
            axes.spines[:].set_visible(False)
        grid[2].set_ylabel("frame")
        return finish(figure)


def relations(clip: ClipRecord, config: TRNConfig, generator: torch.Generator) -> Figure:
    """TRN's ordered sets: under the frames of a clip, a line per set that one training step draws.

    Args:
        clip: with a film.
        config: how many frames, which scales, how many sets.
        generator: of the sets, on the CPU.
    """
    frames = clip_frames(clip, config.segments)
    ratio = frames.shape[1] / frames.shape[2]
    rows = []
    for scale in config.scales:
        sets_NS = ordered_sets(config.segments, scale)
        count = min(config.subsets, len(sets_NS))
        chosen = sets_NS[torch.randperm(len(sets_NS), generator=generator)[:count]]
        rows.append((scale, len(sets_NS), chosen.tolist()))
    with style():
        strip = 5.4 / config.segments * ratio
        below = 0.13 * sum(len(drawn) + 0.9 for _, _, drawn in rows)
        figure, (top, low) = plt.subplots(
            2, 1, figsize=(7, strip + below + 0.3), layout="constrained", height_ratios=[strip, below], sharex=True
        )
        edge = config.segments - 0.5
        top.imshow(np.concatenate(list(frames), 1), extent=(-0.5, edge, ratio, 0), aspect="auto")
        _bare(top)
        y, ticks = 0.0, []
        for i, (scale, possible, drawn) in enumerate(rows):
            ticks.append((y + (len(drawn) - 1) / 2, f"{scale} frames: {len(drawn)} of {possible}"))
            for members in drawn:
                low.plot(members, [y] * scale, "-o", color=PALETTE[i % 6], markersize=5, linewidth=1.2)
                y += 1
            y += 0.9
        low.set_yticks(*zip(*ticks, strict=True))
        low.tick_params(axis="y", length=0)
        low.set(xlim=(-0.5, edge), ylim=(y - 1, -0.9), xticks=[])
        low.spines[:].set_visible(False)
        return finish(figure)


def pointed_at(q_TPhd: Tensor, k_TPhd: Tensor, grid: tuple[int, int], frame: int, patch: int) -> Tensor:
    """Where a patch of a frame looks in the frames before and after, as EVL's temporal cross-attention weighs them.

    Args:
        q_TPhd, k_TPhd: queries and keys of the patches of a block of the frozen tower.
        grid: (h, w) of the patches.
        frame, patch: who looks; the frame has one before and one after it.

    Returns:
        [2, P] weights, each row of sum 1.
    """
    places = relative_places(grid)
    tables = int(places.max()) + 1
    layer = TemporalCrossAttention(tables, grid)
    with torch.no_grad():
        for table in (layer.w1, layer.w2):  # with a unit vector for each place, what comes out is the weight on it
            table.copy_(torch.eye(tables))
        q, k = q_TPhd[None], k_TPhd[None]
        before = layer(q[:, frame - 1 : frame + 1], k[:, frame - 1 : frame + 1])[0, 1, patch]
        after = layer(q[:, frame : frame + 2], k[:, frame : frame + 2])[0, 0, patch]
    return torch.stack([before, after])[:, places[patch]]


def neighbours(clip: ClipRecord, index: ClipIndex, teacher: Teacher, layout: SkeletonLayout) -> Figure:
    """Frozen CLIP (EVL): which blocks are read, and where a moving hand looks for itself in the neighbouring frames.

    Args:
        clip, index: which clip.
        teacher: the frozen CLIP.
        layout: of the skeleton, to find the hand.
    """
    config, visual = EVLConfig(), teacher.clip.visual
    grid = int(visual.grid_size[0]), int(visual.grid_size[1])
    settings = VideoConfig(frames=config.frames, size=teacher.image_size[0])
    video_3THW = VideoClips(_alone(index, clip), clip.split, settings, train=False)[0]["video"][0]
    images = teacher.preprocess(rearrange(video_3THW, "c t h w -> t c h w"))
    layers = min(config.layers, len(visual.transformer.resblocks))
    block = frozen_features(visual, rearrange(images, "t c h w -> 1 c t h w"), layers)[0]
    wrists = [layout.joints.index(name) for name in _WRISTS]
    frame, patch = _most_moved(keypoint_patches(clip, index, settings, grid)[:, wrists], grid)
    weights_2P = pointed_at(block["q"][0, :, 1:], block["k"][0, :, 1:], grid, frame, patch)
    with style():
        figure, axes = plt.subplots(1, 4, figsize=(7.2, 2.5), layout="constrained", width_ratios=[1.25, 1, 1, 1])
        _tower(axes[0], len(visual.transformer.resblocks), layers)
        pictures = rearrange(video_3THW, "c t h w -> t h w c").numpy()
        high, wide = pictures.shape[1] / grid[0], pictures.shape[2] / grid[1]
        titles = ("the frame before", "a patch looks", "the frame after")
        for panel, at, title in zip(axes[1:], (frame - 1, frame, frame + 1), titles, strict=True):
            panel.imshow(pictures[at], alpha=1.0 if at == frame else 0.35)
            row, column = divmod(patch, grid[1])
            panel.add_patch(plt.Rectangle((column * wide - 0.5, row * high - 0.5), wide, high, fill=False,
                                          edgecolor=PALETTE[5], linewidth=1.8))  # fmt: skip
            panel.set_title(title, fontsize=9)
            _bare(panel)
        for panel, weights in zip((axes[1], axes[3]), weights_2P.numpy(), strict=True):
            rows, columns = np.divmod(np.arange(len(weights)), grid[1])
            centres = (columns + 0.5) * wide - 0.5, (rows + 0.5) * high - 0.5
            area = 160 * (8 / max(grid)) ** 2 * weights / weights.max()
            panel.scatter(*centres, s=area, color=PALETTE[0], edgecolors="white", linewidths=0.4)
        return finish(figure)


def _most_moved(places_TJ: np.ndarray, grid: tuple[int, int]) -> tuple[int, int]:
    """Inner frame, and patch, of the keypoint that is seen there and moves most from the frame before to that after."""
    row, column = np.divmod(places_TJ, grid[1])
    seen = places_TJ >= 0
    way = np.hypot(row[2:] - row[:-2], column[2:] - column[:-2])
    way = np.where(seen[1:-1], np.where(seen[2:] & seen[:-2], way, 0), -1.0)
    frame, joint = np.unravel_index(way.argmax(), way.shape)
    return int(frame) + 1, max(0, int(places_TJ[frame + 1, joint]))


def _tower(axes: Axes, blocks: int, read: int) -> None:
    """The frozen blocks, bottom up, and the query that reads the last of them."""
    for i in range(blocks):
        reads = i >= blocks - read
        axes.add_patch(plt.Rectangle((0, i), 2, 0.72, facecolor=PALETTE[4] if reads else "none", edgecolor=GREY,
                                     alpha=0.7))  # fmt: skip
        axes.text(1, i + 0.36, f"{i + 1}", ha="center", va="center", fontsize=9, color="black" if reads else GREY)
        if reads:
            axes.plot(3.6, i + 0.36, "o", color=PALETTE[1], markersize=min(18, 90 / blocks))
            axes.annotate("", (3.2, i + 0.36), (2.05, i + 0.36), arrowprops={"arrowstyle": "->", "color": GREY})
            axes.annotate("", (3.6, i + 1.05), (3.6, i + 0.7), arrowprops={"arrowstyle": "->", "color": PALETTE[1]})
    axes.text(1, -0.5, "frozen blocks", ha="center", va="center", fontsize=9)
    axes.text(3.6, blocks - read - 0.5, "query", ha="center", va="center", fontsize=9)
    axes.text(3.6, blocks + 0.35, "class", ha="center", va="center", fontsize=9)
    axes.set(xlim=(-0.1, 4.6), ylim=(-0.9, blocks + 0.8))
    _bare(axes)


def window(clip: ClipRecord, index: ClipIndex, layout: SkeletonLayout, config: CropConfig) -> Figure:
    """DSCNet's film stream: the box, the window that moves most, its steps, and the largest of them.

    Args:
        clip, index: which clip.
        layout: of the skeleton.
        config: windows of a clip, frames of each.
    """
    clips = DenseClips(_alone(index, clip), clip.split, config, train=False)
    video_3THW, box = clips[0]["video"][0], clips.boxes[0]
    largest_S3HW = gate_input(normalise(video_3THW[None])[0], config.window)
    chosen = int(largest_S3HW.abs().mean((1, 2, 3)).argmax())
    shown = slice(chosen * config.window, (chosen + 1) * config.window)
    frames = rearrange(video_3THW[:, shown], "c t h w -> t h w c")
    steps = np.diff(rearrange(normalise(video_3THW[None, :, shown])[0], "c t h w -> t h w c").numpy(), axis=0).mean(-1)
    largest = largest_S3HW[chosen].mean(0).numpy()
    points, scores = _middle(clip, index)
    with style():
        figure = plt.figure(figsize=(7.4, 2.4), layout="constrained")
        grid = figure.add_gridspec(2, config.window + 2)
        whole = figure.add_subplot(grid[:, :2])
        film = clip_frames(clip, 1)[0]
        whole.imshow(film)
        draw_skeleton(whole, points, scores, layout)
        x0, y0, x1, y1 = box
        whole.add_patch(plt.Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor="white",
                                      linestyle="--", linewidth=1.6))  # fmt: skip
        whole.set(xlim=(-0.5, film.shape[1] - 0.5), ylim=(film.shape[0] - 0.5, -0.5))
        whole.set_title(f"box of {x1 - x0} pixels", fontsize=9)
        _bare(whole)
        limit = float(np.abs(steps).max())
        for number in range(config.window):
            top, low = (figure.add_subplot(grid[row, 2 + number]) for row in (0, 1))
            top.imshow(frames[number].numpy())
            top.set_title(f"$f_{{{number + 1}}}$", fontsize=9)
            last = number == config.window - 1
            image = low.imshow(largest if last else steps[number], cmap="PuOr_r", vmin=-limit, vmax=limit)
            low.set_title("largest" if last else f"$f_{{{number + 2}}} - f_{{{number + 1}}}$", fontsize=9)
            for panel in (top, low):
                _bare(panel)
        bar = figure.colorbar(image, ax=figure.axes[1:], shrink=0.8, aspect=30, pad=0.01, ticks=[-limit, 0, limit])
        bar.ax.set_yticklabels(["darker", "same", "brighter"], fontsize=9)
        return finish(figure)


def gate_input(video_3THW: Tensor, frames: int) -> Tensor:
    """[S, 3, H, W]: what STMEM hands to its gate, the largest step of each pixel and colour in each window.

    Args:
        video_3THW: floating, S windows of ``frames`` frames, one after the other.
        frames: of a window.
    """
    module, seen = STMEM(frames, generator=torch.Generator()), []
    module.m2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        module(rearrange(video_3THW, "c t h w -> 1 (t c) h w"))
    return seen[0]
