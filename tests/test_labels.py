"""migcore.labels: 32 classes, raw ids, groups, counts and prompts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migcore.errors import ConfigError, DataError
from migcore.labels import (
    CLASSES,
    GROUPS,
    ILLUSTRATIVE,
    NUM_CLASSES,
    TEMPLATES,
    class_prompts,
    from_raw_id,
    gesture,
    prompts,
    to_raw_id,
)


def test_there_are_32_different_classes_in_label_order() -> None:
    assert NUM_CLASSES == 32
    assert [g.id for g in CLASSES] == list(range(32))
    for words in ({g.name for g in CLASSES}, {g.wording for g in CLASSES}, {g.description for g in CLASSES}):
        assert len(words) == 32
    assert {g.group for g in CLASSES} == set(GROUPS)


def test_counts_are_those_of_the_challenge() -> None:
    assert sum(g.n_train for g in CLASSES) == 12_893
    assert sum(g.n_val for g in CLASSES) == 777
    assert [g.id for g in CLASSES if g.n_val == 0] == [0, 4, 5, 9, 12, 13, 24, 27, 29]
    assert max(CLASSES, key=lambda g: g.n_train).id == ILLUSTRATIVE


@given(st.integers(0, 31))
def test_raw_ids_round_trip(label: int) -> None:
    assert from_raw_id(to_raw_id(label)) == label


def test_illustrative_is_99_or_32() -> None:
    assert from_raw_id(99) == from_raw_id(32) == ILLUSTRATIVE
    assert to_raw_id(ILLUSTRATIVE) == 99


@given(st.integers().filter(lambda raw: not 1 <= raw <= 32 and raw != 99))
def test_other_raw_ids_are_refused(raw: int) -> None:
    with pytest.raises(DataError, match=f"{raw} is not one of"):
        from_raw_id(raw)


@given(st.integers().filter(lambda label: not 0 <= label <= 31))
def test_other_labels_are_refused(label: int) -> None:
    with pytest.raises(DataError, match=f"label {label} "):
        to_raw_id(label)


def test_a_class_is_found_in_either_wording_and_any_case() -> None:
    assert gesture("Touching or scratching HEAD").id == gesture(" touch face ").id == 3
    with pytest.raises(ConfigError, match="juggle"):
        gesture("juggle")


def test_prompts_follow_the_published_order() -> None:
    assert len(TEMPLATES) == 28
    assert TEMPLATES[0] == "a photo of {}."
    assert TEMPLATES[8] == "a video of a person {}."
    assert TEMPLATES[-1] == "a demonstration of a person practicing {}."
    rows = prompts("Bit lip: the lips are thin")
    assert rows[0] == "a photo of Bit lip. Bit lip: the lips are thin"
    assert rows[28] == "Bit lip: the lips are thin"
    assert len(rows) == 29


def test_class_prompts_are_prompt_major() -> None:
    table = class_prompts()
    assert len(table) == 29 and all(len(row) == 32 for row in table)
    assert [row[5] for row in table] == prompts(CLASSES[5].prompt)
    assert CLASSES[5].prompt.startswith("Cover face: ")
