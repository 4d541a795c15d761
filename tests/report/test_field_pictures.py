"""The field's pictures show what the systems' own code computes, of the clip they name."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from migcore.data.dense import CropConfig, DenseClips
from migcore.data.imigue import ClipIndex, ClipRecord, open_dataset, read_clip_skeleton
from migcore.data.layouts import IMIGUE22
from migcore.errors import ConfigError, DataError
from migcore.models.clip import TeacherConfig, load_teacher
from migcore.models.stgcn import adjacency, hops
from migcore.models.trn import TRNConfig
from migcore.report import field, tables
from migcore.report import field_pictures as pictures
from migcore.report.plots import PALETTE
from migcore.studio.dataset import StudioConfig, write_studio


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ClipIndex:
    config = StudioConfig(
        size=32, train_clips=2, val_clips=2, test_clips=8, train_subjects=2, val_subjects=2, test_subjects=2,
        min_seconds=0.5, median_seconds=0.7, max_seconds=1.0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tiny split lacks classes
        return open_dataset(write_studio(tmp_path_factory.mktemp("set") / "s", config, progress=False, workers=1))


@pytest.fixture(scope="module")
def clip(index: ClipIndex) -> ClipRecord:
    return pictures.clearest_clip(index)


@pytest.fixture(scope="module")
def sizes() -> dict[str, tuple[int, int]]:
    return field.parameters()


def middle(clip: ClipRecord, index: ClipIndex) -> tuple[np.ndarray, np.ndarray]:
    keypoints, scores = read_clip_skeleton(clip, index.column_map)
    return keypoints[clip.frames // 2], scores[clip.frames // 2]


def bare(index: ClipIndex) -> ClipIndex:
    """The same clips without their films."""
    return dataclasses.replace(index, clips=tuple(dataclasses.replace(c, film=None) for c in index.clips))


# --- words and numbers ------------------------------------------------------------------------------------------------


def test_every_row_of_table_1_is_described_once() -> None:
    assert [each.name for each in field.FIELD] == list(dict.fromkeys(m.name for m in tables.PAPER_TABLE1))
    for method in tables.PAPER_TABLE1:
        system = next(each for each in field.FIELD if each.name == method.name)
        assert (system.film, system.keypoints) == ("RGB" in method.modality, "Skeleton" in method.modality)


def test_parameters_are_the_published_ones(sizes: dict[str, tuple[int, int]]) -> None:
    assert sizes["ST-GCN"] == (3_087_388, 3_087_388)
    assert sizes["PoseC3D"] == (2_001_920 + 16_416,) * 2
    assert sizes["Hyperformer"][0] == pytest.approx(2.70e6, rel=0.01)
    assert sizes["Froster clip"][0] == pytest.approx(86.2e6, rel=0.001), "ViT-B/16"
    whole, trained = sizes["Frozen clip"]
    assert whole - trained == sizes["Froster clip"][0], "what is not trained is the frozen CLIP"
    assert sizes["DSCNet"][0] > 11_079_540 + 23e6, "the skeleton network and a ResNet-50"
    assert sizes["Ours"][0] > sizes["Froster clip"][0] + 2 * sizes["PoseC3D"][0]


def test_overview_and_landscape_show_these_numbers(sizes: dict[str, tuple[int, int]]) -> None:
    table = field.overview(sizes)
    assert [row[0] for row in table.rows] == [each.name for each in field.FIELD]
    assert all(len(row) == len(table.columns) for row in table.rows)
    whole, trained = (f"{n / 1e6:.1f}" for n in sizes["Frozen clip"])
    assert [row[-1] for row in table.rows if "trained" in row[-1]] == [f"{whole} ({trained} trained)"]
    axes = field.landscape(sizes).axes[0]
    assert {t.get_text() for t in axes.texts} == {f"{n / 1e6:.1f}" for n, _ in sizes.values()}
    shown = {float(np.asarray(c.get_offsets())[0, 0]) for c in axes.collections if len(c.get_offsets())}
    assert shown >= {n / 1e6 for pair in sizes.values() for n in pair}


# --- the clips --------------------------------------------------------------------------------------------------------


def test_the_clearest_clip_shows_all_keypoints_well_apart(index: ClipIndex, clip: ClipRecord) -> None:
    def clear(clip: ClipRecord) -> tuple[int, float]:
        points, scores = middle(clip, index)
        seen = points[scores > 0]
        pairs = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[i + 1 :]]
        return len(seen), float(min(pairs))

    assert clear(clip) == max(clear(other) for other in index.split("test"))
    with pytest.raises(DataError, match="both a film and a skeleton"):
        pictures.clearest_clip(bare(index))


def test_the_tightest_clip_has_the_smallest_box(index: ClipIndex) -> None:
    clips = DenseClips(index, "test", CropConfig(), train=False)
    side = {record.id: box[2] - box[0] for record, box in zip(clips.records, clips.boxes, strict=True)}
    found = pictures.tightest_clip(index)
    assert side[found.id] == min(side.values())
    assert all(found.frames >= c.frames for c in clips.records if side[c.id] == side[found.id])
    with pytest.raises(DataError, match="both a film and a skeleton"):
        pictures.tightest_clip(bare(index))


# --- the pictures -----------------------------------------------------------------------------------------------------


def colours(figure: Figure, panel: int) -> list[str]:
    return [to_hex(line.get_color()) for line in figure.axes[panel].lines]


def test_half_bones_have_the_colour_of_their_set(index: ClipIndex, clip: ClipRecord) -> None:
    figure = pictures.partition(clip, index, IMIGUE22)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0].endswith(": 22, 21, 21") and titles[1].endswith(": 22, 35, 7")
    points, scores = middle(clip, index)
    drawn = sum(min(scores[a], scores[b]) > 0 for a, b in IMIGUE22.bones)
    blue, red = to_hex(PALETTE[0]), to_hex(PALETTE[5])
    assert colours(figure, 0).count(blue) == colours(figure, 0).count(red) == drawn
    published = adjacency(22, IMIGUE22.bones, partition="published").numpy() > 0
    both = np.minimum(scores[:, None], scores) > 0
    counts = colours(figure, 1).count(blue), colours(figure, 1).count(red)
    assert counts == tuple((published & both).sum((1, 2))[1:]) and sum(counts) == 2 * drawn
    # Of a bone at the neck, the neck's half is that of a farther neighbour, whichever the code.
    for axes in figure.axes:
        for line in axes.lines:
            if np.allclose(line.get_xydata()[0], points[1]):
                assert to_hex(line.get_color()) == blue


def test_an_outline_keeps_its_distance() -> None:
    square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4], [2, 2]])
    line = pictures.outline(square, 1.0)
    beyond = np.maximum(np.abs(line - 2) - 2, 0)
    np.testing.assert_allclose(np.linalg.norm(beyond, axis=1), 1)
    alone = pictures.outline(np.array([[3.0, 5.0]]), 2.0)
    np.testing.assert_allclose(np.linalg.norm(alone - [3, 5], axis=1), 2)


def test_hyperedges_hold_their_keypoints_and_bones_are_counted(index: ClipIndex, clip: ClipRecord) -> None:
    left, right = pictures.hyperedges(clip, index, IMIGUE22).axes[:2]
    points, scores = middle(clip, index)
    areas = [patch for patch in left.patches if isinstance(patch, Polygon)]
    assert len(areas) == len(pictures.PARTS)
    hands = {"left hand": "LeftFinger", "right hand": "RightFinger"}
    for area, name in zip(areas, pictures.PARTS, strict=True):
        for v, joint in enumerate(IMIGUE22.joints):
            if name in hands and joint.startswith(hands[name]) and scores[v] > 0:
                assert area.get_path().contains_point(points[v])
    far = np.asarray(right.images[0].get_array())
    np.testing.assert_array_equal(np.sort(far.ravel()), np.sort(hops(22, IMIGUE22.bones).numpy().ravel()))
    head = [0, 8, 9, 10, 11]
    np.testing.assert_array_equal(far[:5, :5], hops(22, IMIGUE22.bones).numpy()[np.ix_(head, head)])
    assert [t.get_text() for t in right.get_yticklabels()] == list(pictures.PARTS)
    with pytest.raises(ConfigError, match="5 names"):
        pictures.hyperedges(clip, index, IMIGUE22, names=pictures.PARTS[:5])


def test_volumes_are_added_up_over_time(index: ClipIndex, clip: ClipRecord) -> None:
    settings = {"frames": 6, "size": (20, 20), "padding": 0.25}
    joint, limb = pictures.clip_volumes(clip, index, IMIGUE22, **settings)  # type: ignore[arg-type]
    shown = [np.asarray(a.images[0].get_array())
             for a in pictures.summed_volumes(clip, index, IMIGUE22, **settings).axes]  # type: ignore[arg-type]  # fmt: skip
    np.testing.assert_allclose(shown[0], joint.numpy().max(0).sum(0))
    np.testing.assert_allclose(shown[1], limb.numpy().max(0).sum(0))
    np.testing.assert_allclose(shown[2], joint.numpy()[[3, 6, 4, 7]].max((0, 2)))


def test_relations_are_ordered_sets_of_each_scale(clip: ClipRecord) -> None:
    config = TRNConfig(segments=5, subsets=2)
    figure = pictures.relations(clip, config, torch.Generator().manual_seed(3))
    top, low = figure.axes
    assert np.asarray(top.images[0].get_array()).shape == (32, 5 * 32, 3)
    members = [tuple(int(x) for x in line.get_xdata()) for line in low.lines]
    assert [len(m) for m in members] == [5, 4, 4, 3, 3, 2, 2] and len(set(members)) == 7
    assert all(list(m) == sorted(set(m)) and set(m) <= set(range(5)) for m in members)
    labels = [t.get_text() for t in low.get_yticklabels()]
    assert labels == ["5 frames: 1 of 1", "4 frames: 2 of 5", "3 frames: 2 of 10", "2 frames: 2 of 10"]
    again = pictures.relations(clip, config, torch.Generator().manual_seed(3)).axes[1]
    assert [tuple(int(x) for x in line.get_xdata()) for line in again.lines] == members


def test_a_patch_points_where_its_soft_max_does() -> None:
    rng = torch.Generator().manual_seed(0)
    q, k = (torch.randn(4, 6, 2, 5, generator=rng) for _ in range(2))  # T = 4 frames of 2 × 3 patches, 2 heads of 5
    found = pictures.pointed_at(q, k, (2, 3), frame=1, patch=4)
    for row, other in enumerate((0, 2)):
        for patch in range(6):
            weights = [torch.softmax(k[other, :, h] @ q[1, 4, h] / 5**0.5, 0)[patch] for h in range(2)]
            assert float(found[row, patch]) == pytest.approx(float(sum(weights)) / 2, abs=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


def test_the_keypoint_that_moves_most_is_found() -> None:
    places = np.array([[0, 5], [1, 5], [6, 5], [15, -1], [15, 3]])  # in a grid of 4 × 4
    assert pictures._most_moved(places, (4, 4)) == (2, 6), "from 1 to 15, by way of 6"
    nowhere = np.full((4, 2), -1)
    frame, patch = pictures._most_moved(nowhere, (4, 4))
    assert 1 <= frame <= 2 and patch == 0


def test_neighbours_show_the_blocks_and_the_weights(index: ClipIndex, clip: ClipRecord) -> None:
    teacher = load_teacher(TeacherConfig())
    tower, before, here, after = pictures.neighbours(clip, index, teacher, IMIGUE22).axes
    blocks = len(teacher.clip.visual.transformer.resblocks)
    assert {str(b + 1) for b in range(blocks)} <= {t.get_text() for t in tower.texts}
    assert len([p for p in tower.patches if isinstance(p, Rectangle)]) == blocks
    grid = teacher.clip.visual.grid_size
    for panel in (before, after):
        dots = panel.collections[0]
        assert len(dots.get_offsets()) == grid[0] * grid[1]
        assert dots.get_sizes().min() > 0
    assert not here.collections and len(here.patches) == 1


def test_the_gate_sees_the_largest_step_with_its_sign() -> None:
    rng = torch.Generator().manual_seed(0)
    video = torch.randn(3, 8, 2, 2, generator=rng)  # two windows of 4 frames
    found = pictures.gate_input(video, 4)
    assert found.shape == (2, 3, 2, 2)
    for s in range(2):
        frames = video[:, 4 * s : 4 * s + 4]
        steps = torch.stack([frames[:, t + 1] - frames[:, t] for t in range(3)])
        torch.testing.assert_close(found[s], steps.max(0).values)
    falling = torch.tensor([3.0, 2, 0, -1]).view(1, 4, 1, 1).expand(3, 4, 1, 1)
    assert pictures.gate_input(falling, 4).flatten().tolist() == [-1, -1, -1]


def test_a_window_is_shown_with_its_box_and_steps(index: ClipIndex) -> None:
    clip, config = pictures.tightest_clip(index), CropConfig(segments=2, window=3, size=16)
    whole, *panels, _bar = pictures.window(clip, index, IMIGUE22, config).axes
    only = DenseClips(dataclasses.replace(index, clips=(clip,)), "test", config, train=False)
    x0, y0, x1, y1 = only.boxes[0]
    (box,) = whole.patches
    assert isinstance(box, Rectangle)
    assert (box.get_x() + 0.5, box.get_y() + 0.5, box.get_width(), box.get_height()) == (x0, y0, x1 - x0, y1 - y0)
    frames = [np.asarray(p.images[0].get_array()) for p in panels[::2]]
    low = [np.asarray(p.images[0].get_array()) for p in panels[1::2]]
    video = only[0]["video"][0].permute(1, 2, 3, 0).numpy()
    windows = [video[:3], video[3:]]
    assert any(all((a == b).all() for a, b in zip(frames, w, strict=True)) for w in windows)
    assert panels[-1].get_title() == "largest"
    assert (low[-1] >= np.max(low[:-1], axis=0) - 1e-5).all(), "colour by colour the largest, then their mean"
    assert not np.allclose(low[0], low[1])
