"""migcore.data.datasets: views are where and what they should be, and depend on seed, epoch and position only."""

from __future__ import annotations

import re
import shutil
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import FRAMES, write_film, write_skeleton
from torch.utils.data import DataLoader

from migcore.data.augment import compact_box, flip_keypoints, resize
from migcore.data.datasets import SkeletonClips, SkeletonConfig, VideoClips, VideoConfig, collate
from migcore.data.imigue import AbsentClassWarning, ClipIndex, ClipRecord, open_dataset, read_clip_skeleton
from migcore.data.layouts import COCO17, IMIGUE22
from migcore.data.sampling import segment_centres, uniform_test
from migcore.data.video import read_all, read_frames
from migcore.data.writer import FilmWriter
from migcore.errors import ConfigError, DataError

SMALL = SkeletonConfig(frames=8, train_size=(28, 24), test_size=(32, 32), test_clips=3)


@pytest.fixture
def index(root: Path) -> ClipIndex:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AbsentClassWarning)
        return open_dataset(root)


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a)


def test_skeleton_items_have_the_stated_shapes(index: ClipIndex) -> None:
    train = SkeletonClips(index, "train", SMALL, train=True, seed=0)
    test = SkeletonClips(index, "test", SMALL, train=False, seed=0)
    assert len(train) == len(test) == 4
    item = train[2]
    assert item["keypoints"].shape == (1, 1, 8, 22, 2) and item["scores"].shape == (1, 1, 8, 22)
    assert item["keypoints"].dtype == item["scores"].dtype == torch.float32
    assert (item["label"], item["index"]) == (30, 2)
    views = test[3]
    assert views["keypoints"].shape == (6, 1, 8, 22, 2) and views["scores"].shape == (6, 1, 8, 22)
    np.testing.assert_array_equal(test.labels, [0, 31, 30, 7])


def test_test_views_are_the_published_steps_one_by_one(index: ClipIndex) -> None:
    clips = SkeletonClips(index, "val", SMALL, train=False)
    keypoints, scores = read_clip_skeleton(clips.records[2], index.column_map)
    frames = uniform_test(22, 8, 3)
    placed, box = compact_box(keypoints[None, frames], scores[None, frames])
    assert box is not None
    placed = resize(placed, (box[3] - box[1], box[2] - box[0]), (32, 32))
    item = clips[2]
    for k in range(3):
        view = slice(8 * k, 8 * k + 8)
        mirrored = flip_keypoints(placed[:, view], scores[None, frames][:, view], IMIGUE22, 32)
        np.testing.assert_allclose(item["keypoints"][k], placed[:, view], rtol=1e-6)
        np.testing.assert_array_equal(item["scores"][k], scores[None, frames][:, view])
        np.testing.assert_allclose(item["keypoints"][3 + k], mirrored[0], rtol=1e-6)
        np.testing.assert_array_equal(item["scores"][3 + k], mirrored[1])
    assert same(item, clips[2])
    unflipped = SkeletonClips(index, "val", replace(SMALL, test_flip=False), train=False)[2]
    assert torch.equal(unflipped["keypoints"], item["keypoints"][:3])


def test_all_points_of_a_test_view_are_inside_of_the_map(index: ClipIndex) -> None:
    for item in SkeletonClips(index, "train", SMALL, train=False):
        seen = item["keypoints"][item["scores"] > 0]
        assert len(seen) and seen.min() >= -1 and seen.max() <= 32


def test_training_views_depend_on_seed_epoch_and_position_only(index: ClipIndex) -> None:
    def views(seed: int, epoch: int, order: range) -> list[dict]:
        clips = SkeletonClips(index, "train", SMALL, train=True, seed=seed)
        clips.set_epoch(epoch)
        return sorted((clips[i] for i in order), key=lambda item: item["index"])

    first = views(0, 0, range(4))
    assert all(same(a, b) for a, b in zip(first, views(0, 0, range(3, -1, -1)), strict=True))
    for other in (views(0, 1, range(4)), views(1, 0, range(4))):
        assert not any(same(a, b) for a, b in zip(first, other, strict=True))


def test_workers_change_nothing_and_see_new_epochs(index: ClipIndex) -> None:
    clips = SkeletonClips(index, "train", SMALL, train=True, seed=3)
    loader = DataLoader(clips, batch_size=3, collate_fn=collate, num_workers=1, persistent_workers=True)
    for epoch in (0, 1):
        clips.set_epoch(epoch)
        here = [collate([clips[i] for i in part]) for part in ((0, 1, 2), (3,))]
        assert all(same(a, b) for a, b in zip(here, loader, strict=True))


def test_training_views_without_crop_and_flip_are_the_placed_clip(index: ClipIndex) -> None:
    config = replace(SMALL, crop=False, flip=False)
    clips = SkeletonClips(index, "train", config, train=True, seed=0)
    keypoints, _ = read_clip_skeleton(clips.records[1], index.column_map)  # a clip of one frame
    placed, box = compact_box(keypoints[None])
    assert box is not None
    expected = resize(placed, (box[3] - box[1], box[2] - box[0]), (28, 24))
    np.testing.assert_allclose(clips[1]["keypoints"][0], np.tile(expected, (1, 8, 1, 1)), rtol=1e-6)


def test_half_of_the_training_views_are_mirrored(index: ClipIndex) -> None:
    clips = SkeletonClips(index, "train", replace(SMALL, crop=False), train=True, seed=0)
    plain = SkeletonClips(index, "train", replace(SMALL, crop=False, flip=False), train=True, seed=0)
    mirrored = 0
    for epoch in range(100):
        clips.set_epoch(epoch)
        plain.set_epoch(epoch)
        a, b = clips[0], plain[0]
        if not torch.equal(a["keypoints"], b["keypoints"]):
            expected = flip_keypoints(b["keypoints"].numpy(), b["scores"].numpy(), IMIGUE22, 24)
            np.testing.assert_allclose(a["keypoints"], expected[0], rtol=1e-6)
            mirrored += 1
    assert 35 <= mirrored <= 65


def test_missing_points_stay_at_the_corner_with_score_zero(index: ClipIndex, root: Path) -> None:
    path = root / "0001" / "0001_light_hand.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    for row in rows:
        row[4:7] = ["nan", "", "0"]  # the neck
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    for train in (True, False):
        for item in SkeletonClips(index, "train", SMALL, train=train):
            assert (item["scores"][..., 1] == 0).all() and (item["keypoints"][..., 1, :] == 0).all()
            assert (item["scores"][..., 0] > 0).all()


def test_clips_that_hardly_extend_or_hold_no_points_are_placed_all_the_same() -> None:
    rng = np.random.default_rng(0)
    spot = rng.uniform(100, 104, (1, 12, 22, 2)).astype(np.float32)
    clips = [spot, np.zeros_like(spot)]
    scores = [np.ones((1, 12, 22), np.float32), np.zeros((1, 12, 22), np.float32)]
    for train in (True, False):
        data = SkeletonClips.from_arrays(["0001_0", "0001_1"], clips, scores, [0, 1], SMALL, train=train)
        seen = data[0]["keypoints"]
        assert torch.isfinite(seen).all() and 4 < seen.mean() < 28
        assert (data[1]["keypoints"] == 0).all()


def test_arrays_become_clips_and_are_checked() -> None:
    def made(config: SkeletonConfig, shape: tuple[int, ...], scores: tuple[int, ...], label: int = 3) -> SkeletonClips:
        points = np.random.default_rng(0).uniform(5, 90, shape)
        return SkeletonClips.from_arrays(["S1_0"], [points], [np.ones(scores)], [label], config, train=False)

    coco = made(replace(SMALL, layout="coco17"), (2, 9, 17, 2), (2, 9, 17))
    assert coco.layout is COCO17 and coco[0]["keypoints"].shape == (6, 2, 8, 17, 2)
    assert coco.records == [ClipRecord("S1_0", "S1", 1, 9, 3, "")] and coco.skipped == ()
    assert made(SMALL, (1, 9, 22, 2), (1, 9, 22), -1).labels.tolist() == [-1]
    with pytest.raises(ConfigError, match="clips have 17 keypoints, layout 'imigue22' has 22"):
        made(SMALL, (1, 9, 17, 2), (1, 9, 17))
    for shape, scores in (((1, 9, 22, 2), (1, 8, 22)), ((9, 22, 2), (9, 22)), ((1, 0, 22, 2), (1, 0, 22))):
        with pytest.raises(DataError, match="clip S1_0 has keypoints"):
            made(SMALL, shape, scores)


def test_an_epoch_of_a_thousand_clips_takes_about_a_second() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 120, 1000)
    keypoints = [rng.uniform(5, 60, (1, n, 22, 2)).astype(np.float32) for n in lengths]
    scores = [np.ones((1, n, 22), np.float32) for n in lengths]
    config = SkeletonConfig(frames=16, train_size=(32, 32), test_size=(32, 32))
    names = [f"0001_{k}" for k in range(1000)]
    clips = SkeletonClips.from_arrays(names, keypoints, scores, np.zeros(1000, int), config, train=True)
    start = time.process_time()
    for first in range(0, 1000, 16):
        collate([clips[i] for i in range(first, min(first + 16, 1000))])
    assert time.process_time() - start < 3  # 0.5 on a quiet machine


def test_video_items_have_the_stated_shapes(index: ClipIndex) -> None:
    config = VideoConfig(frames=4, size=32, test_clips=2)
    item = VideoClips(index, "train", config, train=True, seed=0)[2]
    assert item["video"].shape == (1, 3, 4, 32, 32) and item["video"].dtype == torch.uint8
    assert (item["label"], item["index"]) == (30, 2)
    assert VideoClips(index, "test", config, train=False)[1]["video"].shape == (2, 3, 4, 32, 32)


def test_test_video_is_the_central_window_of_the_middle_frames(index: ClipIndex) -> None:
    clips = VideoClips(index, "val", VideoConfig(frames=4, size=48, test_clips=2), train=False)
    film = clips.records[2].film
    frames = 11 + segment_centres(22, 4, 2)
    expected = read_frames(film, frames)[..., 8:56]  # 48 × 64, no scaling
    item = clips[2]
    assert torch.equal(item["video"], torch.stack([expected[:, :4], expected[:, 4:]]))
    assert same(item, clips[2])


def overwrite_film(path: Path, pictures: np.ndarray) -> None:
    with FilmWriter(path, pictures.shape[1:3], 25) as film:
        film.write(pictures.astype(np.uint8))


def test_training_video_takes_a_frame_of_each_segment_of_its_clip(index: ClipIndex, root: Path) -> None:
    grey = 30 + 5 * np.arange(FRAMES)  # the brightness of a frame tells its number
    overwrite_film(root / "0001" / "0001.mp4", np.broadcast_to(grey[:, None, None, None], (FRAMES, 48, 64, 3)))
    clips = VideoClips(index, "train", VideoConfig(frames=4, size=42), train=True, seed=0, cache=True)
    drawn = []
    for epoch in range(30):
        clips.set_epoch(epoch)
        level = clips[3]["video"][0].float().mean(dim=(0, 2, 3))
        drawn.append(((level - 30) / 5).round().int().tolist())
    assert [sorted(set(column)) for column in zip(*drawn, strict=True)] == [
        list(range(first, first + 4)) for first in (24, 28, 32, 36)
    ]


def test_training_video_is_scaled_and_shifted_by_chance(index: ClipIndex, root: Path) -> None:
    slope = np.broadcast_to(2.0 * np.arange(64) + 40, (48, 64))  # the brightness of a column tells its place
    overwrite_film(root / "0001" / "0001.mp4", np.broadcast_to(slope[None, :, :, None], (FRAMES, 48, 64, 3)))
    clips = VideoClips(index, "train", VideoConfig(frames=2, size=42), train=True, seed=0, cache=True)
    lefts, scales = [], []
    for epoch in range(40):
        clips.set_epoch(epoch)
        row = clips[2]["video"][0].float().mean(dim=(0, 1, 2))
        scales.append(2 / float((row[-1] - row[0]) / 41))  # pixels of the view per pixel of the film
        lefts.append(float(row[0] - 40) / 2)
    assert 0.86 < min(scales) < 0.91 and 0.97 < max(scales) < 1.02
    assert min(lefts) < 4 and max(lefts) > 13


def test_video_views_depend_on_seed_and_epoch_and_not_on_the_cache(index: ClipIndex) -> None:
    config = VideoConfig(frames=4, size=32, flip=True)
    plain = VideoClips(index, "train", config, train=True, seed=5)
    cached = VideoClips(index, "train", config, train=True, seed=5, cache=True)
    other = VideoClips(index, "train", config, train=True, seed=6)
    views = []
    for epoch in (0, 1, 0):
        for clips in (plain, cached, other):
            clips.set_epoch(epoch)
        assert all(same(plain[i], cached[i]) for i in range(4))
        assert not same(plain[2], other[2])
        views.append(plain[2])
    assert same(views[0], views[2]) and not same(views[0], views[1])


def test_the_cache_decodes_once(index: ClipIndex) -> None:
    clips = VideoClips(index, "train", VideoConfig(frames=4, size=32), train=True, cache=True)
    first = clips[0]
    shutil.rmtree(index.root / "0001")
    assert same(first, clips[0])
    with pytest.raises(DataError, match=r"clip 0001_2: the film is missing"):
        clips[2]


def test_flipped_training_video_is_the_mirror_image(index: ClipIndex) -> None:
    config = VideoConfig(frames=4, size=48, crop=False)
    plain = VideoClips(index, "train", config, train=True, cache=True)
    flipped = VideoClips(index, "train", replace(config, flip=True), train=True, cache=True)
    found = set()
    for epoch in range(20):
        plain.set_epoch(epoch)
        flipped.set_epoch(epoch)
        a, b = plain[0]["video"], flipped[0]["video"]
        assert torch.equal(a, b) or torch.equal(a.flip(-1), b)
        found.add(torch.equal(a, b))
    assert found == {True, False}


def test_test_video_is_never_mirrored(index: ClipIndex) -> None:
    config = VideoConfig(frames=4, size=48)
    plain, flipping = (VideoClips(index, "val", c, train=False) for c in (config, replace(config, flip=True)))
    for epoch in range(8):
        flipping.set_epoch(epoch)
        assert same(plain[0], flipping[0])


def test_equal_clips_at_different_positions_have_views_of_their_own() -> None:
    points = np.random.default_rng(0).uniform(5, 90, (1, 60, 22, 2))
    names = ["0001_0", "0001_1"]
    clips = SkeletonClips.from_arrays(names, [points] * 2, [np.ones((1, 60, 22))] * 2, [0, 0], SMALL, train=True)
    assert not torch.equal(clips[0]["keypoints"], clips[1]["keypoints"])


def test_large_films_are_scaled_down_while_they_are_decoded(index: ClipIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def spying(path, frames, *, size):
        sizes.append(size)
        return read_frames(path, frames, size=size)

    monkeypatch.setattr("migcore.data.datasets.read_frames", spying)
    for train in (True, False):
        VideoClips(index, "train", VideoConfig(frames=2, size=14), train=train)[0]
    VideoClips(index, "train", VideoConfig(frames=2, size=64), train=False)[0]
    assert sizes == [(16, 21), (14, 19), None]


def test_precut_clips_are_read_from_their_start(tmp_path: Path) -> None:
    pictures = write_film(tmp_path / "clips" / "0001_0.mp4", frames=5)
    write_skeleton(tmp_path / "0001" / "0001_light_hand.csv")
    (tmp_path / "0001" / "0001_label.csv").write_text("3,21,25\n")
    with pytest.warns(AbsentClassWarning):
        index = open_dataset(tmp_path)
    item = VideoClips(index, "val", VideoConfig(frames=5, size=48), train=False)[0]
    centre = pictures[..., 8:56, :].transpose(3, 0, 1, 2).astype(float)
    assert np.abs(item["video"][0].numpy() - centre).mean() < 25
    assert torch.equal(item["video"][0], read_all(tmp_path / "clips" / "0001_0.mp4")[..., 8:56])
    skeletons = SkeletonClips(index, "val", SMALL, train=False)
    assert skeletons.records[0].frames == 5


def test_damaged_films_name_the_clip_or_are_skipped_when_asked(index: ClipIndex, root: Path) -> None:
    config = VideoConfig(frames=2, size=32)
    film = root / "0001" / "0001.mp4"
    write_film(film, frames=FRAMES - 10)
    clips = VideoClips(index, "train", config, train=False)
    with pytest.raises(DataError, match=r"0001.mp4: clip 0001_3: frame 3\d is asked for"):
        clips[3]
    clips = VideoClips(index, "train", config, train=False, skip_bad=True, cache=True)
    assert [clip_id for clip_id, _ in clips.skipped] == ["0001_2", "0001_3"]
    assert [record.id for record in clips.records] == ["0001_0", "0001_1"] and clips[1]["index"] == 1
    film.write_bytes(film.read_bytes()[:900])
    with pytest.raises(DataError, match=r"0001.mp4: clip 0001_0: is no whole film"):
        VideoClips(index, "train", config, train=False)
    film.unlink()
    with pytest.raises(DataError, match=r"0001.mp4: clip 0001_0: the film is missing"):
        VideoClips(index, "train", config, train=False)
    with pytest.raises(DataError, match="no clips are left"):
        VideoClips(index, "train", config, train=False, skip_bad=True)


def test_a_split_without_clips_is_named_with_what_can_be_done(root: Path, index: ClipIndex) -> None:
    def refused(skip_bad: bool = False) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AbsentClassWarning)
            opened = open_dataset(root, skip_bad=skip_bad)
        with pytest.raises(DataError, match=rf"^{root}: no clips are left in split train\. ") as caught:
            SkeletonClips(opened, "train", SMALL, train=True, skip_bad=skip_bad)
        return str(caught.value)

    whole = (root / "splits.csv").read_text()
    (root / "splits.csv").write_text(whole.replace("train", "val"))
    assert "Give a video with labels to train in splits.csv" in refused() and "--skip-bad" not in refused()
    (root / "splits.csv").write_text(whole)
    text = (root / "0001" / "0001_light_hand.csv").read_text()
    (root / "0001" / "0001_light_hand.csv").write_text(text.replace("\n3,", "\n3,x", 1))
    assert re.search(r"--skip-bad .*left all 4 out, the first because: .*row 3: column 2 holds", refused(skip_bad=True))
    (root / "0001" / "0001_label.csv").write_text("")
    assert "or mend what --skip-bad (skip_bad) left out: 1 " in refused(skip_bad=True)


def test_damaged_skeletons_are_told_or_skipped_when_asked(index: ClipIndex, root: Path) -> None:
    write_skeleton(root / "0001" / "0001_light_hand.csv", frames=20)
    with pytest.raises(DataError, match=r"clip 0001_2 ends at frame 33"):
        SkeletonClips(index, "train", SMALL, train=True)
    clips = SkeletonClips(index, "train", SMALL, train=True, skip_bad=True)
    assert [clip_id for clip_id, _ in clips.skipped] == ["0001_2", "0001_3"] and len(clips) == 2
    text = (root / "0001" / "0001_light_hand.csv").read_text()
    (root / "0001" / "0001_light_hand.csv").write_text(text.replace("\n3,", "\n3,x", 1))
    with pytest.raises(DataError, match=r"0001_light_hand.csv, row 3: column 2 holds 'x"):
        SkeletonClips(index, "train", SMALL, train=True)


def test_films_without_skeletons_and_skeletons_without_films(root: Path) -> None:
    for video in ("0001", "0002", "0003"):
        (root / video / f"{video}_light_hand.csv").unlink()
    with pytest.warns(AbsentClassWarning):
        films = open_dataset(root)
    assert len(VideoClips(films, "val", VideoConfig(frames=2, size=32), train=False)) == 4
    with pytest.raises(DataError, match=r"0002.mp4: clip 0002_0 has no skeleton"):
        SkeletonClips(films, "val", SMALL, train=False)
    for video in ("0001", "0002", "0003"):
        write_skeleton(root / video / f"{video}_light_hand.csv")
        (root / video / f"{video}.mp4").unlink()
    with pytest.warns(AbsentClassWarning):
        skeletons = open_dataset(root)
    with pytest.raises(DataError, match=r"0002_light_hand.csv: clip 0002_0 has no film"):
        VideoClips(skeletons, "val", VideoConfig(frames=2, size=32), train=False)


def test_what_cannot_be_trained_on_is_refused(index: ClipIndex) -> None:
    with pytest.raises(ConfigError, match="seed -1"):
        SkeletonClips(index, "train", SMALL, train=True, seed=-1)
    with pytest.raises(ConfigError, match="epoch -1"):
        SkeletonClips(index, "train", SMALL, train=True).set_epoch(-1)
    with pytest.raises(ConfigError, match="no split is called"):
        SkeletonClips(index, "dev", SMALL, train=True)
    with pytest.raises(ConfigError, match="layout 'coco17' has 17"):
        SkeletonClips(index, "train", replace(SMALL, layout="coco17"), train=True)
    unknown = replace(index, clips=tuple(replace(clip, label=-1) for clip in index.clips))
    with pytest.raises(DataError, match="clip 0001_0 has no label to train on"):
        SkeletonClips(unknown, "train", SMALL, train=True)
    assert SkeletonClips(unknown, "train", SMALL, train=False)[0]["label"] == -1
    with pytest.raises(DataError, match="no clips are left"):
        SkeletonClips(replace(index, clips=()), "train", SMALL, train=False)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (SkeletonConfig, {"frames": 0}),
        (SkeletonConfig, {"train_size": (0, 8)}),
        (SkeletonConfig, {"test_clips": 0}),
        (SkeletonConfig, {"padding": -0.1}),
        (SkeletonConfig, {"layout": "stick"}),
        (VideoConfig, {"frames": 0}),
        (VideoConfig, {"size": 0}),
        (VideoConfig, {"test_clips": 0}),
    ],
)
def test_wrong_configurations_are_refused(kind: type, change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        kind(**change)


def test_collate_stacks_items(index: ClipIndex) -> None:
    clips = SkeletonClips(index, "train", SMALL, train=False)
    batch = collate([clips[1], clips[3]])
    assert batch["keypoints"].shape == (2, 6, 1, 8, 22, 2)
    assert torch.equal(batch["label"], torch.tensor([31, 7])) and batch["label"].dtype == torch.int64
    assert torch.equal(batch["index"], torch.tensor([1, 3]))
