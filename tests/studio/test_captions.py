"""Zero-shot means something only if the teacher has never read a class: neither its name nor its prompt."""

from __future__ import annotations

import numpy as np
import pytest

from migcore.labels import CLASSES, class_prompts
from migcore.studio.stills import still_frames
from migcore.studio.teacher_data import swap_sides


@pytest.fixture(scope="module")
def captions() -> list[str]:
    """500 captions, and what a mirrored still is called."""
    found = still_frames(np.random.default_rng([5, 0]), 500, 16).captions
    return [version.lower() for text in found for version in (text, swap_sides(text))]


def test_no_class_is_named_or_described(captions: list[str]) -> None:
    forbidden = {text.lower() for g in CLASSES for text in (g.name, g.wording, g.description)}
    forbidden |= {text.lower() for row in class_prompts() for text in row}
    found = {text for text in forbidden for caption in captions if text in caption}
    assert found == set()


def test_captions_say_where_hands_are_and_differ(captions: list[str]) -> None:
    assert len(captions) == 1000
    assert sum("hand" in caption or "arms" in caption for caption in captions) > 700
    assert len(set(captions)) > 500
