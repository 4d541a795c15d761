"""Pictures of films, skeletons and heat-map volumes, still and moving; all work offline.

Letters: T frames, V keypoints, E bones, H W pixels. Films are uint8 [3, T, H, W] as the readers give them.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from migcore import heatmaps
from migcore.data.augment import compact_box, resize, short_side
from migcore.data.datasets import VideoConfig
from migcore.data.imigue import ClipIndex, ClipRecord, read_clip_skeleton
from migcore.data.layouts import SkeletonLayout
from migcore.data.sampling import segment_centres
from migcore.data.video import probe, read_frames
from migcore.errors import ConfigError, DataError
from migcore.labels import CLASSES
from migcore.models.posec3d import PoseC3D, PoseC3DConfig
from migcore.report.plots import GREY, LINES, PALETTE, finish, style
from migcore.report.slider import slider


def clip_frames(clip: ClipRecord, count: int) -> np.ndarray:
    """[T, H, W, 3] uint8: ``count`` frames of a clip, one from the middle of each of as many equal parts.

    Raises:
        DataError: the clip has no film.
    """
    if clip.film is None:
        raise DataError(f"clip {clip.id} has no film to show")
    at = clip.film_start + segment_centres(clip.frames, count)
    return read_frames(clip.film, at).permute(1, 2, 3, 0).numpy()


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def strips(clips: Sequence[ClipRecord], titles: Sequence[str], *, frames: int = 6) -> Figure:
    """A film strip per clip, one under another.

    Args:
        clips: to show.
        titles: of the strips.
        frames: of each.
    """
    with style():
        figure, grid = plt.subplots(len(clips), 1, figsize=(7, 1.45 * len(clips)), layout="constrained", squeeze=False)
        for axes, clip, title in zip(grid[:, 0], clips, titles, strict=True):
            axes.imshow(np.concatenate(list(clip_frames(clip, frames)), 1))
            axes.set_title(title, fontsize=9, loc="left")
            _bare(axes)
        return finish(figure)


def contact_sheet(index: ClipIndex, split: str = "train", *, frames: int = 3, columns: int = 2) -> Figure:
    """Every class that has a clip, as a few frames of one clip of middling length.

    Args:
        index: the data.
        split: to choose from.
        frames: of each clip.
        columns: of the sheet.
    """
    chosen = []
    for gesture in CLASSES:
        found = sorted((c for c in index.split(split) if c.label == gesture.id and c.film), key=lambda c: c.frames)
        if found:
            chosen.append(found[len(found) // 2])
    shown = [np.concatenate(list(clip_frames(clip, frames)), 1) for clip in chosen]
    rows, wide = -(-len(chosen) // columns), 7 / columns
    tall = 0.2 + wide * max(strip.shape[0] / strip.shape[1] for strip in shown)
    with style():
        figure, grid = plt.subplots(rows, columns, figsize=(7, tall * rows), layout="constrained", squeeze=False)
        for axes in grid.flat:
            _bare(axes)
        for axes, clip, strip in zip(grid.flat, chosen, shown, strict=False):
            axes.imshow(strip)
            axes.set_title(CLASSES[clip.label].name, fontsize=9, loc="left", pad=2)
        return finish(figure)


def draw_skeleton(axes: Axes, keypoints: np.ndarray, scores: np.ndarray, layout: SkeletonLayout) -> None:
    """Bones and keypoints of one frame on an image; unsure ones are faint, missing ones left out.

    Args:
        axes: with an image in pixels.
        keypoints: [V, 2]; scores: [V].
        layout: of the skeleton.
    """
    for a, b in layout.bones:
        if min(scores[a], scores[b]) > 0:
            axes.plot(
                *keypoints[[a, b]].T, color=PALETTE[1], linewidth=1.2, alpha=float(min(1, scores[[a, b]].min() + 0.2))
            )
    seen = scores > 0
    axes.scatter(keypoints[seen, 0], keypoints[seen, 1], s=7, color=PALETTE[4], zorder=3)


def clip_volumes(
    clip: ClipRecord, index: ClipIndex, layout: SkeletonLayout, *, frames: int, size: tuple[int, int], padding: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Joint [V, T, H, W] and limb [E, T, H, W] volumes of a clip, as a network would see it in test.

    Args:
        clip, index: which clip.
        layout: of the skeleton.
        frames: T.
        size: (H, W).
        padding: of the box around the speaker.
    """
    keypoints, scores = read_clip_skeleton(clip, index.column_map)
    at = segment_centres(len(keypoints), frames)
    points, box = compact_box(keypoints[None, at], scores[None, at], padding=padding)
    if box is None:
        raise DataError(f"clip {clip.id} shows nobody")
    points = resize(points, (box[3] - box[1], box[2] - box[0]), size)
    points_t, scores_t = torch.from_numpy(points)[None], torch.from_numpy(scores[None, at].copy())[None]
    joint = heatmaps.joint_heatmaps(points_t, scores_t, size)
    limb = heatmaps.limb_heatmaps(points_t, scores_t, size, bones=layout.bones)
    return joint[0], limb[0]


def pipeline(
    clip: ClipRecord, index: ClipIndex, layout: SkeletonLayout, *, size: tuple[int, int], padding: float
) -> Figure:
    """One moment on its way: frame, keypoints, box, joint and limb heat-maps.

    Args:
        clip, index: which clip; its middle frame is shown.
        layout: of the skeleton.
        size: (H, W) of the heat-maps.
        padding: of the box.
    """
    keypoints, scores = read_clip_skeleton(clip, index.column_map)
    middle = len(keypoints) // 2
    frame = clip_frames(clip, 1)[0]
    _, box = compact_box(keypoints[None], scores[None], padding=padding)
    joint, limb = clip_volumes(clip, index, layout, frames=len(keypoints), size=size, padding=padding)
    with style():
        figure, grid = plt.subplots(1, 4, figsize=(8.4, 2.3), layout="constrained")
        for axes, title in zip(grid, ("frame", "keypoints and box", "joints", "limbs"), strict=True):
            axes.set_title(title)
            _bare(axes)
        grid[0].imshow(frame)
        grid[1].imshow(frame)
        draw_skeleton(grid[1], keypoints[middle], scores[middle], layout)
        if box is not None:
            x0, y0, x1, y1 = box
            grid[1].plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=GREY, linestyle="--", linewidth=1)
        grid[1].set(xlim=(-0.5, frame.shape[1] - 0.5), ylim=(frame.shape[0] - 0.5, -0.5))
        for axes, volume in ((grid[2], joint), (grid[3], limb)):
            axes.imshow(volume[:, middle].amax(0).numpy(), cmap="inferno", vmin=0, vmax=1)
        return finish(figure)


def volume_animation(joint: torch.Tensor, limb: torch.Tensor, *, fps: int = 8) -> HTML:
    """Joint and limb volumes side by side, all channels laid over each other, as a player that needs no network.

    Args:
        joint: [V, T, H, W]; limb: [E, T, H, W].
        fps: of the animation.
    """
    pictures = torch.cat([joint.amax(0), limb.amax(0)], -1).numpy()
    with style(), plt.rc_context({"savefig.facecolor": "black"}):  # films have no transparent frames
        figure, axes = plt.subplots(figsize=(5.2, 2.7), layout="constrained")
        image = axes.imshow(pictures[0], cmap="inferno", vmin=0, vmax=1)
        axes.axvline(joint.shape[-1] - 0.5, color=GREY, linewidth=1)
        _bare(axes)

        def show(frame: int) -> list[object]:
            image.set_data(pictures[frame])
            return [image]

        player = FuncAnimation(figure, show, frames=len(pictures), interval=1000 / fps)  # type: ignore[arg-type]
        page = player.to_jshtml(fps=fps, default_mode="loop", embed_frames=True)
        plt.close(figure)
    for part in ("animation", "anim-slider"):  # on a narrow page the slider shrinks and the buttons wrap
        page = page.replace(f'class="{part}"', f'class="{part}" style="max-width: 100%"')
    return HTML(page)


def volume_strip(volume: torch.Tensor, *, frames: int = 8, channels: Sequence[int] | None = None) -> Figure:
    """Frames of a volume in a row, its channels (or some of them) laid over each other.

    Args:
        volume: [V, T, H, W].
        frames: how many.
        channels: default all.
    """
    shown = volume if channels is None else volume[list(channels)]
    at = segment_centres(volume.shape[1], frames)
    with style():
        figure, axes = plt.subplots(figsize=(8, 1.2), layout="constrained")
        axes.imshow(torch.cat(list(shown.amax(0)[at]), -1).numpy(), cmap="inferno", vmin=0, vmax=1)
        _bare(axes)
        return finish(figure)


def sensors(clips: Sequence[ClipRecord], index: ClipIndex, layout: SkeletonLayout, joints: Sequence[str]) -> Figure:
    """What film and skeleton see of the same clips: a strip of frames above the height of some keypoints over time.

    Args:
        clips: one column each.
        index: of the clips.
        layout: of the skeleton.
        joints: names of the keypoints whose y is drawn.
    """
    rows = [layout.joints.index(name) for name in joints]
    with style():
        figure, grid = plt.subplots(2, len(clips), figsize=(3.5 * len(clips), 3.6), layout="constrained", squeeze=False,
                                    height_ratios=[1, 1.5])  # fmt: skip
        for (top, low), clip in zip(grid.T, clips, strict=True):
            top.imshow(np.concatenate(list(clip_frames(clip, 4)), 1))
            top.set_title(CLASSES[clip.label].name, loc="left")
            _bare(top)
            keypoints, scores = read_clip_skeleton(clip, index.column_map)
            for n, (i, name) in enumerate(zip(rows, joints, strict=True)):
                up = -np.where(scores[:, i] > 0, keypoints[:, i, 1], np.nan)  # rows of pixels count downwards
                up -= np.nanmedian(up) if np.isfinite(up).any() else 0
                low.plot(up, linestyle=LINES[n % len(LINES)], linewidth=1.4, label=name)
            low.set_xlabel("frame")
            low.grid()
        grid[1, 0].set_ylabel("height against\nits median, pixels")
        figure.legend(*grid[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(joints))
        return finish(figure)


def skeletons(clip: ClipRecord, index: ClipIndex, layouts: Sequence[SkeletonLayout]) -> Figure:
    """The middle frame of a clip with the bones of several layouts of the same keypoints.

    Args:
        clip, index: which clip.
        layouts: one column each.
    """
    keypoints, scores = read_clip_skeleton(clip, index.column_map)
    middle = len(keypoints) // 2
    frame = clip_frames(clip, 1)[0]
    with style():
        figure, grid = plt.subplots(
            1, len(layouts), figsize=(3 * len(layouts), 3.2), layout="constrained", squeeze=False
        )
        for axes, layout in zip(grid[0], layouts, strict=True):
            axes.imshow(frame)
            draw_skeleton(axes, keypoints[middle], np.where(scores[middle] > 0, 1.0, 0.0), layout)
            axes.set_title(layout.name)
            _bare(axes)
        return finish(figure)


def network(config: PoseC3DConfig, frames: int, size: tuple[int, int]) -> Figure:
    """PoseC3D as piles of sheets: what each stage has of channels (sheets), frames (width) and pixels (height).

    The sizes are measured on the network.

    Args:
        config: of the network.
        frames: T of its input.
        size: (H, W) of its input.
    """
    shapes: list[tuple[str, tuple[int, ...]]] = []
    model = PoseC3D(config).eval()
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, n=name: shapes.append((n, tuple(out.shape[1:]))))
        for name, module in model.backbone.named_children()
        if name.startswith(("conv1", "layer"))
    ]
    with torch.inference_mode():
        model(torch.zeros(1, config.in_channels, frames, *size))
    for hook in hooks:
        hook.remove()
    rows = [("heat-maps", (config.in_channels, frames, *size)), *shapes, ("logits", (config.num_classes, 1, 1, 1))]
    unit = max(1, max(channels for _, (channels, *_) in rows) // 16)
    with style():
        figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
        for i, (name, (channels, t, h, w)) in enumerate(rows):
            sheets, wide, tall = -(-channels // unit), max(0.03, 0.5 * t / frames), max(0.03, 0.8 * h / size[0])
            for back in range(sheets - 1, -1, -1):
                at = i - wide / 2 + (back - (sheets - 1) / 2) * 0.025, -tall / 2 + (back - (sheets - 1) / 2) * 0.025
                axes.add_patch(plt.Rectangle(at, wide, tall, facecolor=PALETTE[4], edgecolor="black", linewidth=0.5))
            axes.text(i, -0.6, f"{name}\n{channels}×{t}×{h}×{w}", ha="center", va="top", fontsize=9)
        axes.set(xlim=(-0.6, len(rows) - 0.4), ylim=(-0.88, 0.5))
        axes.set_title(f"a sheet: up to {unit} channels", loc="right", fontsize=9)
        _bare(axes)
        return finish(figure)


def temporal_view(frames: int = 5, span: int = 1, *, layers: int = 4) -> Figure:
    """Which frames a frame attends to: for one frame, for all of them, and through several blocks.

    Args:
        frames: T.
        span: neighbours seen on each side.
        layers: blocks in the last panel.
    """
    if frames < 1 or span < 0 or layers < 1:
        raise ConfigError(f"{frames} frames, a span of {span} and {layers} blocks", hint="there is a frame and a block")
    apart = np.abs(np.arange(frames)[:, None] - np.arange(frames)[None])
    with style():
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(7.6, 2.6), layout="constrained", width_ratios=[1.9, 1, 1]
        )
        here = frames // 2
        for t in range(-span, frames + span):
            inside = 0 <= t < frames
            seen = abs(t - here) <= span and inside
            colour, line = PALETTE[0] if seen else "none", "-" if inside else ":"
            box = plt.Rectangle(
                (t - 0.36, -0.36), 0.72, 0.72, facecolor=colour, edgecolor=GREY, linestyle=line, alpha=0.6
            )
            left.add_patch(box)
            name = "t" if t == here else f"t{t - here:+d}"
            left.text(t, 0.46, name if inside else "0", ha="center", va="bottom", fontsize=9)
            if seen:
                bend = 0.35 if t < here else -0.35
                left.annotate("", (t, -0.4), (here, -1.05), arrowprops={
                    "arrowstyle": "<-", "color": PALETTE[5], "connectionstyle": f"arc3,rad={bend if t != here else 0}",
                })  # fmt: skip
        left.text(here, -1.1, "queries of t", ha="center", va="top", fontsize=9)
        left.set(xlim=(-span - 0.6, frames + span - 0.4), ylim=(-1.5, 0.9), title="keys and values")
        left.set_aspect("equal")
        _bare(left)
        padded = np.zeros((frames, frames + 2 * span))
        padded[:, span : span + frames] = apart <= span
        outside = np.abs(np.arange(-span, frames + span)[None] - np.arange(frames)[:, None]) <= span
        padded[outside & (padded == 0)] = 0.35  # zero keys and values, which take part in the soft-max
        middle.imshow(
            np.ma.masked_equal(padded, 0),
            cmap="Blues",
            vmin=0,
            vmax=1.3,
            extent=(-span - 0.5, frames + span - 0.5, frames - 0.5, -0.5),
        )
        middle.set(
            xlabel="key frame", ylabel="query frame", title="one block", xticks=range(frames), yticks=range(frames)
        )
        reach = np.maximum(1, -(-apart // span)) if span else np.where(apart == 0, 1, layers + 1)
        shown = np.where(reach <= layers, reach, np.nan)
        right.imshow(shown, cmap="Blues_r", vmin=0, vmax=layers + 1)
        for (row, column), value in np.ndenumerate(shown):
            if np.isfinite(value):
                right.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=9,
                           color="white" if value <= layers / 2 else "black")  # fmt: skip
        right.set(xlabel="frame", title="after how many blocks", xticks=range(frames), yticks=range(frames))
        return finish(figure)


def survivors(video_3THW: torch.Tensor, kept: Sequence[torch.Tensor], grid: tuple[int, int], title: str = "") -> Figure:
    """What token decay leaves of a clip: a row per block, a column per frame, dropped patches grey with a stroke.

    Args:
        video_3THW: uint8, as the tower's input before normalisation (its size may be another).
        kept: for each block to be shown, the patches that go on after it, [T, k] numbers in ``grid``, row by row.
        grid: rows and columns of patches of a frame.
        title: of the figure.

    Raises:
        DataError: ``kept`` is of other frames, or numbers patches that the grid has not.
    """
    count = video_3THW.shape[1]
    columns = min(7.2, 0.85 * count + 1.1)
    with style():
        figure, axes_grid = plt.subplots(
            len(kept),
            1,
            figsize=(columns, (columns - 1.1) / count * len(kept) + 0.25),
            layout="constrained",
            squeeze=False,
        )
        for number, (axes, places_Tk) in enumerate(zip(axes_grid[:, 0], kept, strict=True), start=1):
            axes.imshow(_side_by_side(_greyed(video_3THW, places_Tk, grid), count))
            label = f"block {number}\n{places_Tk.shape[1]} of {grid[0] * grid[1]}"
            axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
            _bare(axes)
        if title:
            figure.suptitle(title, fontsize=9)
        return finish(figure)


def survivors_by_layer(
    video_3THW: torch.Tensor, kept: Sequence[torch.Tensor], grid: tuple[int, int], title: str = ""
) -> HTML:
    """The same as a slider over the layers, the whole frames first.

    Args:
        video_3THW, kept, grid, title: as for :func:`survivors`.

    Raises:
        DataError: as :func:`survivors`.
    """
    patches, before = grid[0] * grid[1], f"{title}: " if title else ""
    every = torch.arange(patches).expand(video_3THW.shape[1], -1)
    pictures = [_side_by_side(_greyed(video_3THW, places, grid), 4) for places in (every, *kept)]
    words = [f"{before}before block 1, all {patches} patches"]
    words += [f"{before}after block {n}, {p.shape[1]} of {patches} patches" for n, p in enumerate(kept, start=1)]
    return slider(pictures, words, label="block of the tower")


def gesture_player(clips: Sequence[ClipRecord], titles: Sequence[str], *, frames: int = 24, fps: float = 12) -> HTML:
    """Clips side by side under their titles, to be played or leafed through: what a strip of frames cannot show.

    Args:
        clips: with films of one size.
        titles: of the clips.
        frames: of each, evenly over its length.
        fps: of the player.

    Raises:
        DataError: a clip has no film, or one that cannot be read.
    """
    moments = np.stack([clip_frames(clip, frames) for clip in clips], 1)  # [T, clips, H, W, 3]
    words = [f"moment {t + 1} of {frames}" for t in range(frames)]
    shown = [_side_by_side(moment, len(clips)) for moment in moments]
    return slider(shown, words, label="moment", fps=fps, titles=titles)


def _greyed(video_3THW: torch.Tensor, places_Tk: torch.Tensor, grid: tuple[int, int]) -> np.ndarray:
    """[T, H, W, 3] uint8 frames whose other patches are grey, with a stroke from corner to corner."""
    frames, places = video_3THW.permute(1, 2, 3, 0).cpu().numpy(), places_Tk.cpu().numpy()
    count, height, width = frames.shape[:3]
    if len(places) != count or places.min() < 0 or places.max() >= grid[0] * grid[1]:
        raise DataError(
            f"survivors of shape {list(places.shape)} of {count} frames of {grid[0]} × {grid[1]} patches",
            hint="give those of one clip, [T, k]",
        )
    y, x = np.arange(height)[:, None] * grid[0], np.arange(width) * grid[1]
    gone = np.stack([~np.isin(y // height * grid[1] + x // width, row) for row in places])
    # A stroke from corner to corner, as a film has grey of its own. Opaque: the same on a white page and on a dark one.
    stroke = np.abs(y % height / height - x % width / width) < 0.5 * grid[0] / height
    shades = np.where(stroke, 90, 138).astype(np.uint8)
    return np.where(gone[..., None], shades[..., None], frames)


def _side_by_side(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Pictures [N, H, W, C] in rows of some columns, with gaps between them: [H', W', 4] uint8."""
    if pictures.shape[-1] == 3:
        pictures = np.concatenate([pictures, np.full((*pictures.shape[:-1], 1), 255, np.uint8)], -1)
    gap = max(1, pictures.shape[2] // 16)
    padded = np.pad(pictures, ((0, -len(pictures) % columns), (0, gap), (0, gap), (0, 0)))
    rows = padded.reshape(-1, columns, *padded.shape[1:]).swapaxes(1, 2)
    return rows.reshape(rows.shape[0] * rows.shape[1], -1, 4)[:-gap, :-gap]


def keypoint_patches(clip: ClipRecord, index: ClipIndex, config: VideoConfig, grid: tuple[int, int]) -> np.ndarray:
    """In which patch of the video tower each keypoint lies, in the frames of the central test view.

    Args:
        clip, index: which clip.
        config: of its frames and their window.
        grid: rows and columns of patches of a frame.

    Returns:
        [T, V] numbers in ``grid``, row by row; -1 for a keypoint that is missing or outside the window.

    Raises:
        DataError: the clip has no film or no skeleton.
    """
    if clip.film is None:
        raise DataError(f"clip {clip.id} has no film to show")
    keypoints, scores = read_clip_skeleton(clip, index.column_map)
    at = segment_centres(clip.frames, config.frames)
    film = np.array(probe(clip.film, exact=False).size)  # H, W
    scaled = np.array(short_side((int(film[0]), int(film[1])), config.size))
    # Pixel i is the interval i to i + 1 here, so that resizing is a multiplication.
    yx = (keypoints[at][..., ::-1] + 0.5) * (scaled / film) - (scaled - config.size) // 2
    place = np.floor(yx * (np.array(grid) / config.size)).astype(np.int64)
    there = (scores[at] > 0) & ((place >= 0) & (place < np.array(grid))).all(-1)
    return np.where(there, place[..., 0] * grid[1] + place[..., 1], -1)
