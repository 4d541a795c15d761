"""A tiny data set in iMiGUE's layout: three films of 40 frames with random skeletons, four clips each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings

from migcore.data.files import write_labels_csv, write_skeleton_csv
from migcore.data.writer import FilmWriter

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""For property tests: enough examples, no deadline on a busy machine; a test may write over its own files."""

FRAMES = 40
CLIPS = ((0, 1, 10), (31, 11, 11), (30, 12, 33), (7, 25, 40))  # label, start, end; one of a single frame


def moving_picture(frames: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """[frames, H, W, 3] uint8: coloured blocks that wander, so that every frame differs from its neighbours."""
    rng = np.random.default_rng(seed)
    height, width = size
    blocks = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    picture = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.stack([np.roll(picture, (2 * t, 3 * t), axis=(0, 1)) for t in range(frames)])


def write_film(path: Path, *, frames: int = FRAMES, size: tuple[int, int] = (48, 64), seed: int = 0) -> np.ndarray:
    pictures = moving_picture(frames, size, seed)
    with FilmWriter(path, size, 25) as film:
        film.write(pictures)
    return pictures


def write_skeleton(path: Path, *, frames: int = FRAMES, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    keypoints, scores = rng.uniform(5, 60, (frames, 35, 2)), rng.uniform(0.2, 1, (frames, 35))
    write_skeleton_csv(path, keypoints, scores)
    return keypoints, scores


def write_video(root: Path, video: str, *, film: bool = True, skeleton: bool = True) -> Path:
    folder, seed = root / video, int(video)
    if film:
        write_film(folder / f"{video}.mp4", seed=seed)
    if skeleton:
        write_skeleton(folder / f"{video}_light_hand.csv", seed=seed)
    write_labels_csv(folder / f"{video}_label.csv", CLIPS)
    return folder


SPLITS = "video,split,subject\n0001,train,a\n0002,val,b\n0003,test,c\n"
