"""migcore.data.dense: windows are whole, boxes hold the person, views depend on seed, epoch and position only."""

from __future__ import annotations

import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny import CLIPS, FRAMES, quick, write_film, write_skeleton

from migcore.data.datasets import collate
from migcore.data.dense import CropConfig, DenseClips, square_box, window_frames
from migcore.data.files import write_skeleton_csv
from migcore.data.imigue import AbsentClassWarning, ClipIndex, open_dataset, read_clip_skeleton
from migcore.data.video import read_frames
from migcore.data.writer import FilmWriter
from migcore.errors import ConfigError, DataError

SMALL = CropConfig(segments=3, window=2, size=32)


@pytest.fixture
def index(root: Path) -> ClipIndex:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AbsentClassWarning)
        return open_dataset(root)


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a)


def overwrite_film(path: Path, pictures: np.ndarray) -> None:
    with FilmWriter(path, pictures.shape[1:3], 25) as film:
        film.write(pictures.round().astype(np.uint8))


# --- windows ----------------------------------------------------------------------------------------------------------


@quick
@given(
    n=st.integers(1, 300), segments=st.integers(1, 10), window=st.integers(1, 8), seed=st.none() | st.integers(0, 99)
)
def test_windows_are_consecutive_frames_of_the_clip(n: int, segments: int, window: int, seed: int | None) -> None:
    frames = window_frames(n, segments, window, None if seed is None else np.random.default_rng(seed))
    assert frames.shape == (segments * window,) and frames.dtype == np.int64
    starts = frames.reshape(segments, window)[:, 0]
    assert (np.diff(starts) >= 0).all()
    for start, row in zip(starts, frames.reshape(segments, window), strict=True):
        assert 0 <= start <= max(0, n - window)
        assert row.tolist() == [min(start + step, n - 1) for step in range(window)]
    places = max(1, n - window + 1) / segments  # each start is in its own segment of the possible ones
    for number, start in enumerate(starts):
        assert math.floor(number * places) <= start <= math.ceil((number + 1) * places)


def test_windows_by_hand() -> None:
    # 43 places where a window of 6 of 48 frames can start, the middles of their eighths
    assert window_frames(48, 8, 6).reshape(8, 6)[:, 0].tolist() == [2, 8, 13, 18, 24, 29, 34, 40]
    assert window_frames(8, 3, 6).reshape(3, 6).tolist() == [[s, s + 1, s + 2, s + 3, s + 4, s + 5] for s in (0, 1, 2)]
    assert window_frames(4, 2, 6).tolist() == [0, 1, 2, 3, 3, 3] * 2  # shorter than a window
    assert window_frames(1, 1, 3, np.random.default_rng(0)).tolist() == [0, 0, 0]


def test_random_windows_start_anywhere_in_their_segment() -> None:
    rng = np.random.default_rng(0)
    starts = np.array([window_frames(25, 4, 6, rng).reshape(4, 6)[:, 0] for _ in range(200)])
    assert [sorted(set(column)) for column in starts.T.tolist()] == [list(range(s, s + 5)) for s in (0, 5, 10, 15)]


def test_empty_clips_and_windows_are_refused() -> None:
    with pytest.raises(DataError, match="a clip of 0 frames"):
        window_frames(0, 8, 6)
    with pytest.raises(ConfigError, match="a window of 0 frames"):
        window_frames(9, 8, 0)
    with pytest.raises(ConfigError, match="0 frames were asked for"):
        window_frames(9, 0, 6)


# --- boxes ------------------------------------------------------------------------------------------------------------


@st.composite
def people(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Points [T, V, 2] in a film, at least one of them scored, and (H, W) of the film."""
    height, width = draw(st.integers(8, 400)), draw(st.integers(8, 400))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 5)))
    unit = draw(hnp.arrays(np.float32, (*shape, 2), elements=st.floats(0, 255 / 256, width=32)))
    scores = draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.25, 1.0])))
    assume((scores > 0).any())
    return unit * np.array([width, height], np.float32), scores, (height, width)


@quick
@given(person=people(), padding=st.sampled_from([0.0, 0.1, 0.25, 1.0]))
def test_the_box_is_a_square_of_the_film_around_the_points(
    person: tuple[np.ndarray, np.ndarray, tuple[int, int]], padding: float
) -> None:
    keypoints, scores, (height, width) = person
    x0, y0, x1, y1 = square_box(keypoints, scores, (height, width), padding=padding)
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height and x1 - x0 == y1 - y0
    x, y = np.floor(keypoints[scores > 0].T).astype(int)
    extent, side, longest = max(np.ptp(x), np.ptp(y)) + 1, x1 - x0, min(height, width)
    if extent <= longest:
        assert (x >= x0).all() and (x < x1).all() and (y >= y0).all() and (y < y1).all()
    assert side == longest or extent * (1 + padding) <= side  # the padding is there unless the film is too small
    assert side <= max(extent * (1 + padding), longest / 4) + 1  # and no more than that
    # what the film does not have stays out: the same without the missing points
    kept = scores > 0
    assert square_box(keypoints[kept], scores[kept], (height, width), padding=padding) == (x0, y0, x1, y1)


@quick
@given(person=people(), padding=st.sampled_from([0.0, 0.25]))
def test_the_box_of_the_mirror_image_is_mirrored(
    person: tuple[np.ndarray, np.ndarray, tuple[int, int]], padding: float
) -> None:
    keypoints, scores, (height, width) = person
    keypoints = np.floor(keypoints)
    x0, y0, x1, y1 = square_box(keypoints, scores, (height, width), padding=padding)
    mirrored = np.stack([width - 1 - keypoints[..., 0], keypoints[..., 1]], -1)
    box = square_box(mirrored, scores, (height, width), padding=padding)
    assert (box[1], box[3], box[2] - box[0]) == (y0, y1, x1 - x0)
    assert abs(box[0] - (width - x1)) <= 1  # an odd margin has its pixel on the left


def test_boxes_by_hand() -> None:
    def box(points: list[tuple[float, float]], size: tuple[int, int] = (720, 1280), padding: float = 0.25) -> object:
        return square_box(np.array(points), np.ones(len(points)), size, padding=padding)

    assert box([(600, 200), (799.5, 300)]) == (575, 125, 825, 375)  # 200 pixels across, 250 with padding
    assert box([(600, 200), (799.5, 300)], padding=0) == (600, 150, 800, 350)
    assert box([(1100, 100), (1279, 279)], padding=1) == (920, 10, 1280, 370)  # 360 long, moved in from the right
    assert box([(640, 360)]) == (550, 270, 730, 450)  # a quarter of the short side
    assert box([(100, 300), (1099, 400)]) == (240, 0, 960, 720)  # wider than the film is high: cut alike
    assert box([(600, 200), (799.5, 300), (700, -50)], padding=0) == (549, 0, 850, 301)  # -50 counts as 0


def test_without_scored_points_the_box_is_the_middle_of_the_film() -> None:
    nothing, scores = np.full((4, 22, 2), 7.0), np.zeros((4, 22))
    assert square_box(nothing, scores, (64, 64)) == (0, 0, 64, 64)
    assert square_box(nothing, scores, (48, 64)) == (8, 0, 56, 48)
    assert square_box(nothing, scores, (64, 48)) == (0, 8, 48, 56)


def test_points_of_another_resolution_are_refused() -> None:
    points = np.random.default_rng(0).uniform((400, 300), (900, 700), (9, 22, 2))
    assert square_box(points, np.ones((9, 22)), (720, 1280))
    points[0, 0] = 400_000  # one that went astray says nothing of the others
    box = square_box(points, np.ones((9, 22)), (720, 1280))
    points[0, 0] = (1279, 719)
    assert box == square_box(points, np.ones((9, 22)), (720, 1280))
    with pytest.raises(DataError, match=r"around \(6\d\d, [45]\d\d\), outside of the 640×360 film.*resolution"):
        square_box(points, np.ones((9, 22)), (360, 640))


# --- clips ------------------------------------------------------------------------------------------------------------


def test_items_have_the_stated_shapes(index: ClipIndex) -> None:
    train, test = DenseClips(index, "train", SMALL, train=True), DenseClips(index, "test", CropConfig(), train=False)
    item = train[2]
    assert item["video"].shape == (1, 3, 6, 32, 32) and item["video"].dtype == torch.uint8
    assert (item["label"], item["index"]) == (30, 2)
    assert test[1]["video"].shape == (1, 3, 48, 64, 64)
    np.testing.assert_array_equal(test.labels, [label for label, _, _ in CLIPS])
    batch = collate([train[0], train[1]])
    assert batch["video"].shape == (2, 1, 3, 6, 32, 32) and batch["label"].tolist() == [0, 31]


def points_within(path: Path, low: tuple[float, float], high: tuple[float, float]) -> None:
    """A skeleton file whose points lie in a rectangle of the film, two of them at its ends in every frame."""
    keypoints = np.random.default_rng(0).uniform(low, high, (FRAMES, 35, 2))
    keypoints[:, 0], keypoints[:, 4] = low, high
    write_skeleton_csv(path, keypoints, np.ones((FRAMES, 35)))


@pytest.mark.parametrize(("size", "tolerance"), [(20, 1.0), (30, 0.5), (64, 0.5)])  # shrunk, as it is, enlarged
def test_the_view_shows_the_box(index: ClipIndex, root: Path, size: int, tolerance: float) -> None:
    points_within(root / "0001" / "0001_light_hand.csv", (20, 10), (43, 33))
    # Brightness tells the place, to about half a pixel in a compressed film.
    columns = np.broadcast_to(3.0 * np.arange(64)[:, None], (FRAMES, 48, 64, 3))
    rows = np.broadcast_to(4.0 * np.arange(48)[:, None, None], (FRAMES, 48, 64, 3))
    seen = []
    for slope, picture in ((3, columns), (4, rows)):
        overwrite_film(root / "0001" / "0001.mp4", picture)
        clips = DenseClips(index, "train", replace(SMALL, size=size), train=False)
        assert clips.boxes[0] == (17, 7, 47, 37)  # 24 pixels and a quarter more
        seen.append(clips[0]["video"][0].float().mean(0)[3] / slope)
    centres = (np.arange(size) + 0.5) * 30 / size - 0.5  # of the view's pixels, in the box
    middle = slice(size // 10 + 1, -(size // 10 + 1))  # beyond the ends of an enlarged box there is nothing
    assert np.abs(seen[0][size // 2].numpy() - (17 + centres))[middle].max() < tolerance
    assert np.abs(seen[1][:, size // 2].numpy() - (7 + centres))[middle].max() < tolerance


def test_the_view_shows_the_frames_of_its_windows(index: ClipIndex, root: Path) -> None:
    grey = 30 + 5 * np.arange(FRAMES)  # the brightness of a frame tells its number
    overwrite_film(root / "0001" / "0001.mp4", np.broadcast_to(grey[:, None, None, None], (FRAMES, 48, 64, 3)))

    def shown(clips: DenseClips, position: int) -> list[int]:
        level = clips[position]["video"][0].float().mean(dim=(0, 2, 3))
        return ((level - 30) / 5).round().int().tolist()

    test = DenseClips(index, "train", replace(SMALL, segments=8, window=6), train=False)
    train = DenseClips(index, "train", SMALL, train=True, seed=4, cache=True)
    for position, (_, start, end) in enumerate(CLIPS):
        assert shown(test, position) == (start - 1 + window_frames(end - start + 1, 8, 6)).tolist()
    views = set()
    for epoch in range(5):
        train.set_epoch(epoch)
        view = shown(train, 2)
        assert view in [(11 + window_frames(22, 3, 2, np.random.default_rng((4, epoch, 2)))).tolist()]
        views.add(tuple(view))
    assert len(views) > 1


def test_one_box_for_all_frames_of_a_clip(index: ClipIndex) -> None:
    clips = DenseClips(index, "val", SMALL, train=True)
    for record, box in zip(clips.records, clips.boxes, strict=True):
        keypoints, scores = read_clip_skeleton(record, index.column_map)
        assert box == square_box(keypoints, scores, (48, 64))
        assert len(keypoints) == record.frames


def test_views_depend_on_seed_epoch_and_position_and_not_on_the_cache(index: ClipIndex) -> None:
    config = replace(SMALL, flip=True)
    plain, cached, other = (
        DenseClips(index, "train", config, train=True, seed=seed, cache=cache)
        for seed, cache in ((5, False), (5, True), (6, False))
    )
    views = []
    for epoch in (0, 1, 0):
        for clips in (plain, cached, other):
            clips.set_epoch(epoch)
        assert all(same(plain[i], cached[i]) for i in (3, 0, 2, 1))
        assert not same(plain[2], other[2])
        views.append(plain[2])
    assert same(views[0], views[2]) and not same(views[0], views[1])


def test_test_views_are_fixed_and_never_mirrored(index: ClipIndex) -> None:
    plain = DenseClips(index, "val", SMALL, train=False)
    other = DenseClips(index, "val", replace(SMALL, flip=True), train=False, seed=9, cache=True)
    for epoch in range(6):
        other.set_epoch(epoch)
        assert same(plain[0], other[0])


def test_half_of_the_training_views_are_mirrored(index: ClipIndex) -> None:
    plain = DenseClips(index, "train", SMALL, train=True, cache=True)
    flipped = DenseClips(index, "train", replace(SMALL, flip=True), train=True, cache=True)
    mirrored = 0
    for epoch in range(100):
        plain.set_epoch(epoch)
        flipped.set_epoch(epoch)
        a, b = plain[0]["video"], flipped[0]["video"]
        assert torch.equal(a, b) or torch.equal(a.flip(-1), b)
        mirrored += not torch.equal(a, b)
    assert 35 <= mirrored <= 65


def test_the_cache_decodes_once_and_is_not_handed_out(index: ClipIndex) -> None:
    clips = DenseClips(index, "train", SMALL, train=True, cache=True)
    first = clips[0]
    shutil.rmtree(index.root / "0001")
    assert same(first, clips[0])
    clips[0]["video"].zero_()
    assert same(first, clips[0])
    with pytest.raises(DataError, match=r"clip 0001_2: the film is missing"):
        clips[2]


@pytest.mark.parametrize("cache", [False, True])
def test_long_clips_are_decoded_piece_by_piece(index: ClipIndex, cache: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = DenseClips(index, "train", replace(SMALL, window=5), train=True)
    monkeypatch.setattr("migcore.data.dense._AT_ONCE", 4)
    pieces = DenseClips(index, "train", replace(SMALL, window=5), train=True, cache=cache)
    assert all(same(whole[i], pieces[i]) for i in range(4))


def test_large_films_are_shrunk_while_they_are_decoded(
    index: ClipIndex, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_film(root / "0001" / "0001.mp4", size=(240, 320))
    points_within(root / "0001" / "0001_light_hand.csv", (150, 100), (249, 199))
    sizes = []

    def spying(path: Path, frames: np.ndarray, *, size: tuple[int, int] | None = None) -> torch.Tensor:
        sizes.append(size)
        return read_frames(path, frames, size=size)

    monkeypatch.setattr("migcore.data.dense.read_frames", spying)
    for size in (25, 100, 101):
        clips = DenseClips(index, "train", replace(SMALL, size=size, padding=0), train=False)
        assert clips.boxes[0] == (150, 100, 250, 200)
        assert clips[0]["video"].shape == (1, 3, 6, size, size)
    assert sizes == [(60, 80), None, None]


def test_a_shrunk_box_at_the_edge_stays_inside_of_the_film(index: ClipIndex, root: Path) -> None:
    write_film(root / "0001" / "0001.mp4", size=(106, 120))
    points_within(root / "0001" / "0001_light_hand.csv", (10, 6), (109, 105))
    clips = DenseClips(index, "train", replace(SMALL, size=25, padding=0), train=False)
    assert clips.boxes[0] == (10, 6, 110, 106)  # a quarter as large, 106 is 26.5 and 6 is 1.5: both round to even
    assert clips[0]["video"].shape == (1, 3, 6, 25, 25)


def test_precut_clips_are_read_from_their_start(tmp_path: Path) -> None:
    pictures = write_film(tmp_path / "clips" / "0001_0.mp4", frames=5)
    write_skeleton(tmp_path / "0001" / "0001_light_hand.csv")
    (tmp_path / "0001" / "0001_label.csv").write_text("3,21,25\n")
    with pytest.warns(AbsentClassWarning):
        index = open_dataset(tmp_path)
    clips = DenseClips(index, "val", CropConfig(segments=1, window=5, size=48), train=False)
    keypoints, scores = read_clip_skeleton(index.clips[0], index.column_map)  # frames 21 to 25 of the skeleton
    left, top, right, bottom = clips.boxes[0]
    assert clips.boxes == [square_box(keypoints, scores, (48, 64))] and bottom - top == 48
    expected = pictures[:, top:bottom, left:right].transpose(3, 0, 1, 2).astype(float)
    assert np.abs(clips[0]["video"][0].numpy() - expected).mean() < 25


# --- what is missing or damaged ---------------------------------------------------------------------------------------


def test_unscored_clips_show_the_middle_of_the_film(index: ClipIndex, root: Path) -> None:
    write_skeleton_csv(root / "0001" / "0001_light_hand.csv", np.zeros((FRAMES, 35, 2)), np.zeros((FRAMES, 35)))
    clips = DenseClips(index, "train", SMALL, train=True)
    assert clips.boxes == [(8, 0, 56, 48)] * 4 and clips[0]["video"].float().std() > 10


def test_damaged_clips_are_named_or_skipped_when_asked(index: ClipIndex, root: Path) -> None:
    film, skeleton = root / "0001" / "0001.mp4", root / "0001" / "0001_light_hand.csv"
    write_film(film, frames=FRAMES - 10)
    clips = DenseClips(index, "train", SMALL, train=False)
    with pytest.raises(DataError, match=r"0001.mp4: clip 0001_3: frame 3\d is asked for"):
        clips[3]
    clips = DenseClips(index, "train", SMALL, train=False, skip_bad=True, cache=True)
    assert [clip_id for clip_id, _ in clips.skipped] == ["0001_2", "0001_3"]
    assert [record.id for record in clips.records] == ["0001_0", "0001_1"] and len(clips.boxes) == 2
    assert clips[1]["index"] == 1
    write_skeleton(skeleton, frames=10)
    with pytest.raises(DataError, match=r"clip 0001_1 ends at frame 11"):
        DenseClips(index, "train", SMALL, train=True)
    points_within(skeleton, (70, 50), (110, 90))
    with pytest.raises(DataError, match=r"light_hand.csv: clip 0001_0: its keypoints lie .* outside of the 64×48 film"):
        DenseClips(index, "train", SMALL, train=True)
    film.write_bytes(film.read_bytes()[:900])
    with pytest.raises(DataError, match=r"0001.mp4: clip 0001_0: is no whole film"):
        DenseClips(index, "train", SMALL, train=False)
    with pytest.raises(DataError, match=r"no clips are left in split train.* left all 4 out, the first because"):
        DenseClips(index, "train", SMALL, train=False, skip_bad=True)


def test_film_and_skeleton_are_both_needed(index: ClipIndex) -> None:
    for part, message in (("film", "clip 0002_0 has no film"), ("skeleton", "clip 0002_0 has no skeleton")):
        lacking = replace(index, clips=tuple(replace(clip, **{part: None}) for clip in index.clips))
        with pytest.raises(DataError, match=message):
            DenseClips(lacking, "val", SMALL, train=False)
    unknown = replace(index, clips=tuple(replace(clip, label=-1) for clip in index.clips))
    with pytest.raises(DataError, match="clip 0001_0 has no label to train on"):
        DenseClips(unknown, "train", SMALL, train=True)
    assert DenseClips(unknown, "train", SMALL, train=False)[0]["label"] == -1
    with pytest.raises(ConfigError, match="no split is called"):
        DenseClips(index, "dev", SMALL, train=True)


@pytest.mark.parametrize(
    "change",
    [{"segments": 0}, {"window": 0}, {"size": 0}, {"padding": -0.1}, {"padding": math.nan}, {"padding": math.inf}],
)
def test_wrong_configurations_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        CropConfig(**change)  # type: ignore[arg-type]
