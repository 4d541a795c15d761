"""Pictures of films, skeletons and volumes are made of the clips they name."""

from __future__ import annotations

import base64
import io
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from migcore.data.datasets import VideoConfig
from migcore.data.imigue import ClipIndex, ClipRecord, open_dataset, read_clip_skeleton
from migcore.data.layouts import IMIGUE22, IMIGUE22_MIGA2023
from migcore.data.video import FilmInfo
from migcore.errors import ConfigError, DataError
from migcore.labels import CLASSES
from migcore.models.posec3d import PoseC3DConfig
from migcore.report import pictures
from migcore.studio.dataset import StudioConfig, write_studio


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ClipIndex:
    config = StudioConfig(
        size=32, train_clips=6, val_clips=2, test_clips=2, train_subjects=2, val_subjects=2, test_subjects=2,
        min_seconds=0.4, median_seconds=0.5, max_seconds=0.7,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tiny split lacks classes
        return open_dataset(write_studio(tmp_path_factory.mktemp("set") / "s", config, progress=False, workers=1))


def test_strips_and_sheets_show_the_clips_frames(index: ClipIndex) -> None:
    clip = index.split("train")[0]
    frames = pictures.clip_frames(clip, 3)
    assert frames.shape == (3, 32, 32, 3)
    strip = pictures.strips([clip], ["a title"], frames=3).axes[0]
    np.testing.assert_array_equal(strip.images[0].get_array(), np.concatenate(list(frames), 1))
    assert strip.get_title(loc="left") == "a title"
    sheet = pictures.contact_sheet(index, frames=2)
    shown = {a.get_title(loc="left") for a in sheet.axes if a.images}
    assert shown == {CLASSES[c.label].name for c in index.split("train")}
    without = ClipRecord("0009_0", "0009", 1, 10, 0, "train")
    with pytest.raises(DataError, match="no film"):
        pictures.clip_frames(without, 3)


def test_skeletons_leave_missing_points_out(index: ClipIndex) -> None:
    figure = pictures.skeletons(index.split("train")[0], index, [IMIGUE22, IMIGUE22_MIGA2023])
    for axes in figure.axes:
        points = np.asarray(axes.collections[0].get_offsets())
        assert len(points) <= 22 and not (points == 0).all(-1).any()


def test_volumes_and_their_pictures(index: ClipIndex) -> None:
    clip = index.split("train")[0]
    joint, limb = pictures.clip_volumes(clip, index, IMIGUE22, frames=5, size=(16, 16), padding=0.1)
    assert joint.shape == (22, 5, 16, 16) and limb.shape == (21, 5, 16, 16)
    assert 0.3 < float(joint.max()) <= 1 and 0.3 < float(limb.max()) <= 1
    page = pictures.volume_animation(joint, limb).data
    shown = [plt.imread(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"png;base64,([^\"]+)", page)]
    assert len(shown) == 5 and all((picture[[0, -1], :, :3] == 0).all() for picture in shown), "a black rim"
    assert page.count('style="max-width: 100%"') == 2
    strip = pictures.volume_strip(joint, frames=5, channels=[0]).axes[0].images[0].get_array()
    np.testing.assert_allclose(np.asarray(strip), torch.cat(list(joint[0]), -1).numpy())
    assert len(pictures.pipeline(clip, index, IMIGUE22, size=(16, 16), padding=0.1).axes) == 4


def test_sensors_draw_heights_of_the_named_keypoints(index: ClipIndex) -> None:
    clips = index.split("train")[:2]
    figure = pictures.sensors(clips, index, IMIGUE22, ["ShoulderLeft", "HandRight"])
    curves = [a for a in figure.axes if a.lines]
    assert len(curves) == 2
    keypoints, scores = read_clip_skeleton(clips[0], index.column_map)
    up, seen = np.asarray(curves[0].lines[0].get_ydata()), scores[:, IMIGUE22.joints.index("ShoulderLeft")] > 0
    y = keypoints[seen, IMIGUE22.joints.index("ShoulderLeft"), 1]
    np.testing.assert_allclose(up[seen], np.median(y) - y)
    assert not curves[0].yaxis_inverted() and len({line.get_linestyle() for line in curves[0].lines}) == 2
    assert [bool(a.get_ylabel()) for a in curves] == [True, False]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["ShoulderLeft", "HandRight"]
    assert len(pictures.sensors(clips[:1], index, IMIGUE22, IMIGUE22.joints).axes[1].lines) == 22
    assert all(len(line.get_ydata()) == clip.frames for a, clip in zip(curves, clips, strict=True) for line in a.lines)


def test_the_network_is_measured_not_described() -> None:
    axes = pictures.network(PoseC3DConfig(base_channels=4), 8, (16, 16)).axes[0]
    texts = [t.get_text() for t in axes.texts]
    assert texts[0] == "heat-maps\n22×8×16×16" and "layer3\n64×4×2×2" in texts
    assert axes.get_title(loc="right") == "a sheet: up to 4 channels"
    sheets = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert [sum(abs(p.get_x() + p.get_width() / 2 - i) < 0.5 for p in sheets) for i in (0, 4)] == [6, 16]
    first, last = sheets[0], next(p for p in sheets if abs(p.get_x() + p.get_width() / 2 - 4) < 0.5)
    assert (last.get_width() / first.get_width(), last.get_height() / first.get_height()) == pytest.approx(
        (1 / 2, 1 / 8)
    )


def test_the_temporal_view_shows_neighbours_zeros_and_reach() -> None:
    left, middle, right = pictures.temporal_view(5, 1, layers=2).axes
    assert [t.get_text() for t in left.texts if t.get_text().startswith(("t", "0"))] == [
        "0", "t-2", "t-1", "t", "t+1", "t+2", "0"
    ]  # fmt: skip
    matrix = np.asarray(middle.images[0].get_array())
    np.testing.assert_array_equal(matrix[2], [0, 0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(np.ma.getmaskarray(middle.images[0].get_array()), matrix == 0)  # the page shows
    np.testing.assert_array_equal(matrix[0], [0.35, 1, 1, 0, 0, 0, 0])  # the zero frame before the first
    reach = np.ma.filled(np.ma.masked_invalid(right.images[0].get_array()), 0)
    np.testing.assert_array_equal(reach[0], [1, 1, 2, 0, 0])
    alone = np.ma.filled(np.ma.masked_invalid(pictures.temporal_view(3, 0).axes[2].images[0].get_array()), 0)
    np.testing.assert_array_equal(alone, np.eye(3))
    assert {t.get_text() for t in pictures.temporal_view(4, 2, layers=2).axes[2].texts} == {"1", "2"}
    with pytest.raises(ConfigError, match="0 frames"):
        pictures.temporal_view(0)


def test_survivors_are_seen_and_the_rest_is_grey() -> None:
    video = torch.arange(3 * 2 * 8 * 8, dtype=torch.uint8).reshape(3, 2, 8, 8)
    kept = [torch.tensor([[0, 3], [1, 2]]), torch.tensor([[3], [1]])]
    axes = pictures.survivors(video, kept, (2, 2), "a title").axes
    assert [a.get_ylabel() for a in axes] == ["block 1\n2 of 4", "block 2\n1 of 4"]
    shown = np.asarray(axes[0].images[0].get_array())
    first, second = shown[:, :8], shown[:, -8:]
    assert (first[..., 3] == 255).all(), "opaque: the same on any page"
    patches = [
        (slice(0, 4), slice(0, 4)),
        (slice(0, 4), slice(4, 8)),
        (slice(4, 8), slice(0, 4)),
        (slice(4, 8), slice(4, 8)),
    ]
    gone = np.repeat(np.where(np.eye(4), 90, 138)[..., None], 3, -1)
    for i, at in enumerate(patches):
        for frame, (picture, alive) in enumerate(((first, (0, 3)), (second, (1, 2)))):
            there = video[:, frame].permute(1, 2, 0).numpy()[at]
            np.testing.assert_array_equal(picture[at][..., :3], there if i in alive else gone)
    for wrong in (torch.tensor([[0]]), torch.tensor([[0], [4]])):
        with pytest.raises(DataError, match="of 2 frames of 2 × 2 patches"):
            pictures.survivors(video, [wrong], (2, 2))


def test_keypoints_lie_in_the_patches_that_the_tower_sees(index: ClipIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = index.split("train")[0]
    # A film of 32 × 64 scaled to 16 × 32, whose middle 16 × 16 is seen: columns 16 to 47 of the film.
    keypoints = np.array([[0.0, 0], [16, 0], [47, 31], [48, 31], [31, 15], [32, 16], [20, 10]], np.float32)
    scores = np.array([1, 1, 1, 1, 1, 1, 0], np.float32)
    monkeypatch.setattr(pictures, "read_clip_skeleton", lambda *_: (
        np.repeat(keypoints[None], clip.frames, 0), np.repeat(scores[None], clip.frames, 0)
    ))  # fmt: skip
    monkeypatch.setattr(pictures, "probe", lambda *_, **__: FilmInfo(clip.frames, 25.0, (32, 64)))
    found = pictures.keypoint_patches(clip, index, VideoConfig(frames=3, size=16), (2, 2))
    np.testing.assert_array_equal(found, [[-1, 0, 3, -1, 0, 3, -1]] * 3)
    monkeypatch.undo()
    real = pictures.keypoint_patches(clip, index, VideoConfig(frames=4, size=32), (4, 4))
    assert real.shape == (4, 22) and real.max() < 16 and (real >= 0).mean() > 0.5
    with pytest.raises(DataError, match="no film"):
        pictures.keypoint_patches(ClipRecord("0009_0", "0009", 1, 10, 0, "train"), index, VideoConfig(), (2, 2))


def test_survivors_by_layer_are_the_same_pictures_to_leaf_through() -> None:
    video = torch.full((3, 2, 4, 4), 200, dtype=torch.uint8)
    kept = [torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.tensor([[0], [3]])]
    page = pictures.survivors_by_layer(video, kept, (2, 2), "a clip").data
    words = re.findall(r'alt="([^"]+)"', page)
    assert words == [
        "a clip: before block 1, all 4 patches",
        "a clip: after block 1, 3 of 4 patches",
        "a clip: after block 2, 1 of 4 patches",
    ]
    shown = [plt.imread(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", page)]
    assert (shown[0][:, :4, 3] == 1).all() and (shown[0][:, 5:9, 3] == 1).all() and (shown[0][:, 4, 3] == 0).all()
    left = np.isclose(shown[2][..., 0], 200 / 255)
    assert left[:2, :2].all() and left[:, :4].sum() == 4  # of the first frame, the patch on the upper left
    assert left[2:4, 7:9].all() and left[:, 5:9].sum() == 4  # of the second, on the lower right


def test_a_player_names_each_clip_above_it(index: ClipIndex) -> None:
    page = pictures.gesture_player(index.split("train")[:2], ["first", "a & b"], frames=3).data
    assert re.findall(r'alt="([^"]+)"', page) == [f"moment {n} of 3" for n in (1, 2, 3)]
    assert page.index("first") < page.index("a &amp; b") < page.index("<img")
