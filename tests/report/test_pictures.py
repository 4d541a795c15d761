"""Pictures of films, skeletons and volumes are made of the clips they name."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from migcore.data.imigue import ClipIndex, ClipRecord, open_dataset
from migcore.data.layouts import IMIGUE22, IMIGUE22_MIGA2023
from migcore.errors import DataError
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
    assert page.count("data:image/png;base64") == 5
    strip = pictures.volume_strip(joint, frames=5, channels=[0]).axes[0].images[0].get_array()
    np.testing.assert_allclose(np.asarray(strip), torch.cat(list(joint[0]), -1).numpy())
    assert len(pictures.pipeline(clip, index, IMIGUE22, size=(16, 16), padding=0.1).axes) == 4


def test_sensors_draw_heights_of_the_named_keypoints(index: ClipIndex) -> None:
    clips = index.split("train")[:2]
    axes = pictures.sensors(clips, index, IMIGUE22, ["ShoulderLeft", "HandRight"]).axes
    curves = [a for a in axes if a.lines]
    assert len(curves) == 2
    assert all(len(line.get_ydata()) == clip.frames for a, clip in zip(curves, clips, strict=True) for line in a.lines)


def test_the_network_is_measured_not_described() -> None:
    texts = [t.get_text() for t in pictures.network(PoseC3DConfig(base_channels=4), 8, (16, 16)).axes[0].texts]
    assert texts[0] == "heat-maps\n22×8×16×16" and "layer3\n64×4×2×2" in texts
