"""Which frames of a clip a model sees (§2.1), as numbers 0..n-1 in an array of int64.

n frames in the clip, ``length`` frames wanted. Notable choices:
* ``uniform_*`` are pyskl's UniformSampleFrames, for heat-maps; its test mode is repeated draw for draw, but from a
  generator of its own (pyskl re-seeds the process).
* ``segment_*`` are TSN's, for video: one frame of each of ``length`` equal segments; short clips repeat frames.
"""

from __future__ import annotations

import numpy as np

from migcore.errors import ConfigError, DataError


def _check(n: int, length: int) -> None:
    if n < 1:
        raise DataError(f"a clip of {n} frames has none to sample", hint="Leave empty clips out")
    if length < 1:
        raise ConfigError(f"{length} frames were asked for; at least 1 is possible")


def _staircase(chosen: np.ndarray, length: int) -> np.ndarray:
    """0..length-1, with one more frame left out before each of the chosen positions (of length + 1)."""
    steps = np.zeros(length + 1, dtype=np.int64)
    steps[chosen] = 1
    return np.arange(length) + np.cumsum(steps)[:-1]


def _bins(n: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """First frame and size of each of ``length`` bins of n frames."""
    edges = np.arange(length + 1, dtype=np.int64) * n // length
    return edges[:-1], np.diff(edges)


def uniform_train(n: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Frames of one training view of a heat-map clip, by pyskl's rules.

    A short clip (n < length) is looped from a random start; up to 2·length frames, n - length random ones are left out;
    a longer clip gives a random frame of each of ``length`` bins.

    Args:
        n: frames in the clip, at least 1.
        length: frames wanted.
        rng: where randomness comes from.

    Returns:
        [length] int64 in 0..n-1, rising except where a short clip starts over.

    Raises:
        DataError: the clip is empty.
        ConfigError: ``length`` is below 1.
    """
    _check(n, length)
    if n < length:
        return (rng.integers(n) + np.arange(length)) % n
    if n < 2 * length:
        return _staircase(rng.choice(length + 1, n - length, replace=False), length)
    first, size = _bins(n, length)
    return first + rng.integers(size)


def uniform_test(n: int, length: int, num_clips: int, *, seed: int = 255) -> np.ndarray:
    """Frames of ``num_clips`` test views of a heat-map clip, exactly those that pyskl draws.

    Args:
        n: frames in the clip, at least 1.
        length: frames in a view.
        num_clips: views; for n = length they are all the same.
        seed: pyskl's own is 255. The result depends on nothing else.

    Returns:
        [num_clips · length] int64 in 0..n-1, the views one after the other.

    Raises:
        DataError: the clip is empty.
        ConfigError: ``length`` or ``num_clips`` is below 1.
    """
    _check(n, length)
    if num_clips < 1:
        raise ConfigError(f"{num_clips} views were asked for; at least 1 is possible")
    rng = np.random.RandomState(seed)  # the published draws come from the legacy one
    views = []
    for i in range(num_clips):
        rng.rand()  # pyskl draws the length of the window here (always the whole clip); the order of draws counts
        if n < length:
            start = i if n < num_clips else i * n // num_clips
            view = start + np.arange(length)
        elif n < 2 * length:
            view = _staircase(rng.choice(length + 1, n - length, replace=False), length)
        else:
            first, size = _bins(n, length)
            view = first + rng.randint(size)
        views.append(view)
    return np.concatenate(views).astype(np.int64) % n


def segment_train(n: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """A random frame of each of ``length`` equal segments of a clip (TSN, training).

    Args:
        n: frames in the clip, at least 1.
        length: frames wanted; where n < length, frames repeat.
        rng: where randomness comes from.

    Returns:
        [length] int64 in 0..n-1, not falling.

    Raises:
        DataError: the clip is empty.
        ConfigError: ``length`` is below 1.
    """
    _check(n, length)
    return np.minimum(((np.arange(length) + rng.random(length)) * (n / length)).astype(np.int64), n - 1)


def segment_centres(n: int, length: int, num_clips: int = 1) -> np.ndarray:
    """The middle frame of each of ``length`` equal segments (TSN, test); more views lie evenly around it.

    Args:
        n: frames in the clip, at least 1.
        length: frames in a view.
        num_clips: views; view k takes the frame at (2k + 1) / (2 · num_clips) of each segment.

    Returns:
        [num_clips · length] int64 in 0..n-1, the views one after the other, each not falling.

    Raises:
        DataError: the clip is empty.
        ConfigError: ``length`` or ``num_clips`` is below 1.
    """
    _check(n, length)
    if num_clips < 1:
        raise ConfigError(f"{num_clips} views were asked for; at least 1 is possible")
    # Whole numbers, so that no rounding moves a frame: (i + (2k + 1) / 2K) n / L.
    place = 2 * num_clips * np.arange(length)[None, :] + 2 * np.arange(num_clips)[:, None] + 1
    return (place * n // (2 * num_clips * length)).reshape(-1)
