"""A slider holds all its pictures, says what each shows, and names what it cannot show."""

from __future__ import annotations

import base64
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from migcore.errors import DataError
from migcore.report.slider import slider


def pictures(count: int = 3, channels: int = 3) -> list[np.ndarray]:
    return [np.full((4, 6, channels), 40 * i + 10, np.uint8) for i in range(count)]


def test_every_picture_is_in_the_page_and_the_first_is_seen() -> None:
    page = slider(pictures(channels=4), ["one", 'two "quoted"', "three"], label="layer").data
    images = re.findall(r"<img (.*?)>", page)
    assert len(images) == 3 and [("hidden" in image) for image in images] == [False, True, True]
    for i, image in enumerate(images):
        data = base64.b64decode(re.search(r"base64,([^\"]+)", image)[1])  # type: ignore[index]
        shown = plt.imread(io.BytesIO(data))
        assert shown.shape == (4, 6, 4) and np.allclose(shown, (40 * i + 10) / 255, atol=1e-3)
    assert 'alt="two &quot;quoted&quot;"' in page and 'aria-label="layer"' in page and 'max="2"' in page
    assert "<button" not in page and "http" not in page


def test_what_plays_has_a_button_and_a_pause() -> None:
    page = slider(pictures(), ["a", "b", "c"], label="moment", fps=8).data
    assert '<button type="button" aria-pressed="false">play</button>' in page and "}, 125);" in page


def test_titles_of_the_parts_stand_above_the_picture() -> None:
    page = slider(pictures(), ["a", "b", "c"], label="moment", titles=["left <", "right"]).data
    heads = page[: page.index("<img")]
    assert re.findall(r">([^<]+)</div>", heads) == ["left &lt;", "right"]
    assert "right" not in slider(pictures(), ["a", "b", "c"], label="moment").data


def test_two_sliders_on_a_page_do_not_meet() -> None:
    names = {
        re.search(r'id="(slider-\w+)"', slider(pictures(n), ["x"] * n, label=label).data)[1]  # type: ignore[index]
        for n, label in ((2, "a"), (3, "a"), (3, "b"))
    }
    assert len(names) == 3
    again = slider(pictures(3), ["x"] * 3, label="b").data
    assert again == slider(pictures(3), ["x"] * 3, label="b").data


def test_wrong_input_is_named() -> None:
    for wrong, words in (([], []), (pictures(2), ["a"]), ([*pictures(1), np.zeros((5, 6, 3), np.uint8)], ["a", "b"])):
        with pytest.raises(DataError, match="one text for each picture"):
            slider(wrong, words, label="x")
    for wrong in (np.zeros((4, 6), np.uint8), np.zeros((4, 6, 2), np.uint8), np.zeros((4, 6, 3))):
        with pytest.raises(DataError, match=r"uint8 \[H, W, 3 or 4\]"):
            slider([wrong], ["a"], label="x")
