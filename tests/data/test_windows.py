"""Windows of a film last as long as they say, by the times at which its frames are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from migcore.data.datasets import VideoConfig
from migcore.data.film import Film, windows
from migcore.data.video import read_frames
from migcore.errors import ConfigError, DataError
from tests.data.test_real_films import SIZE, UNEVEN, Look, write
from tests.data.tiny import moving_picture


@given(
    steps=st.lists(st.floats(0.01, 3), min_size=1, max_size=120),
    seconds=st.floats(0.05, 10),
    stride=st.floats(0.05, 10),
)
def test_windows_of_an_uneven_film(steps: list[float], seconds: float, stride: float) -> None:
    times = np.cumsum([0.0, *steps])
    spans = windows(times, seconds, stride)
    assert spans[0, 0] == 0 and spans[-1, 1] == len(steps) and (spans[:, 0] < spans[:, 1]).all()
    assert (np.diff(spans[:, 0]) > 0).all(), "no window comes twice"
    lasting = np.diff(times[spans], axis=1)[:, 0]
    longest = max(steps)
    if len(spans) > 2:  # the last one but one may be moved up by the last
        assert (np.abs(lasting[:-1] - seconds) <= longest / 2 + 1e-6).all() or longest > 2 * seconds
        begun = np.diff(times[spans[:-1, 0]])
        assert (begun <= stride + longest).all()


def test_windows_by_hand() -> None:
    times = np.array([0, 0.5, 1.0, 3.0, 3.5, 4.0, 4.5, 5.0])  # a frame stands still for two seconds
    assert windows(times, 2, 1).tolist() == [[0, 2], [2, 3], [3, 7]]
    assert windows(times, 1, 0.5).tolist() == [[0, 2], [1, 2], [2, 3], [3, 5], [4, 6], [5, 7]]
    assert windows(times, 100, 1).tolist() == [[0, 7]] and windows(times[:2], 2, 1).tolist() == [[0, 1]]
    np.testing.assert_array_equal(windows(np.arange(76) / 25), [[0, 50], [25, 75]])


@pytest.mark.parametrize("times", [[0.0], [], [0, 0.1, 0.1], [0, 2, 1], [0, np.nan]])
def test_times_that_do_not_rise(times: list[float]) -> None:
    with pytest.raises(ConfigError, match="times do not rise"):
        windows(np.array(times))


def test_a_film_is_what_it_says(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", moving_picture(10, SIZE, 0), times=UNEVEN, look=Look(90))
    film = Film.of(path)
    assert film.size == (48, 32) and film.frames == 10 and not film.assumed
    np.testing.assert_allclose(film.times[:-1], np.array(UNEVEN) / 1000)
    assert film.fps == pytest.approx(10 / film.times[-1])
    even = Film.of(path, fps=5)
    np.testing.assert_allclose(even.times, np.arange(11) / 5)
    view = film.view(np.array([2, 6]), VideoConfig(frames=2, size=32))
    assert view.shape == (1, 3, 2, 32, 32)
    assert torch.equal(view[0], read_frames(path, [3, 5])[:, :, 8:40]), "the middle square of the upright picture"


def test_a_bare_stream_is_counted_at_an_assumed_rate(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h264", moving_picture(10, SIZE, 0))
    assert Film.of(path).assumed and Film.of(path).fps == 25
    assert not Film.of(path, fps=10).assumed and Film.of(path, fps=10).times[-1] == 1.0


def test_a_single_frame_lasts_as_long_as_the_rate_says(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv", "a.h264"):
        film = Film.of(write(tmp_path / name, moving_picture(1, SIZE, 0)))
        assert film.frames == 1 and film.times.tolist() == pytest.approx([0, 0.04])


def test_arrays_need_a_rate() -> None:
    array = torch.zeros(3, 4, 8, 8, dtype=torch.uint8)
    assert Film.of(array, fps=2).times.tolist() == [0, 0.5, 1, 1.5, 2]
    with pytest.raises(
        ConfigError, match=r"frames per second are not known\. give them: --fps 25 \(fps=25 in Python\)"
    ):
        Film.of(array)
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="frames per second"):
            Film.of(array, fps=fps)
    with pytest.raises(DataError, match=r"uint8 \[3, T, H, W\]"):
        Film.of(array.float(), fps=2)
