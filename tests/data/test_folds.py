"""Folds deal out the training subjects: each is validated once, whole, whatever the order of the clips."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migcore.data.folds import hold_out, parse_fold, training_subjects
from migcore.data.imigue import AbsentClassWarning, ClipIndex, ClipRecord
from migcore.data.layouts import column_map
from migcore.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore::migcore.data.imigue.AbsentClassWarning")


def index_of(*videos: tuple[str, int, str]) -> ClipIndex:
    """(subject, clips, split) of each video, the first of which is 0001."""
    clips = tuple(
        ClipRecord(f"{v:04d}_{k}", f"{v:04d}", 8 * k + 1, 8 * k + 8, k % 32, split, subject)
        for v, (subject, count, split) in enumerate(videos, start=1)
        for k in range(count)
    )
    return ClipIndex(Path("somewhere"), clips, column_map("openpose35"), "identity")


def ids(index: ClipIndex, split: str) -> set[str]:
    return {clip.id for clip in index.split(split)}


VIDEO = st.tuples(st.sampled_from(["", "A", "B", "C", "0003"]), st.integers(1, 9), st.sampled_from(["train", "test"]))


@given(st.lists(VIDEO, min_size=1, max_size=12), st.integers(2, 6), st.randoms())
def test_all_folds_together_validate_every_training_clip_once(
    videos: list[tuple[str, int, str]], of: int, random: object
) -> None:
    index = index_of(*videos)
    subjects = training_subjects(index)
    if of > len(subjects):
        with pytest.raises(
            ConfigError, match=rf"data\.fold=1/{of}, but the number of training subjects is {len(subjects)}"
        ):
            hold_out(index, f"1/{of}")
        return
    shuffled = list(index.clips)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    folds = [hold_out(index, f"{k}/{of}") for k in range(1, of + 1)]
    held_out = [ids(fold, "val") for fold in folds]
    assert sum(map(len, held_out)) == len(set().union(*held_out)) and set().union(*held_out) == ids(index, "train")
    for k, fold in enumerate(folds, start=1):
        assert ids(fold, "val") and ids(fold, "train") == ids(index, "train") - ids(fold, "val")
        assert ids(fold, "test") == ids(index, "test") and [c.id for c in fold.clips] == [c.id for c in index.clips]
        trained, validated = ({(c.subject or c.video) for c in fold.split(s) if c.subject} for s in ("train", "val"))
        assert not trained & validated
        again = hold_out(dataclasses.replace(index, clips=tuple(shuffled)), f"{k}/{of}")
        assert ids(again, "val") == ids(fold, "val")
    sizes = [len(found) for found in held_out]
    assert max(sizes) - min(sizes) <= max(subjects.values())


def test_parts_are_about_equal_and_keep_subjects_whole() -> None:
    index = index_of(("A", 6, "train"), ("B", 3, "train"), ("C", 3, "train"), ("B", 2, "train"), ("D", 4, "test"))
    parts = [{clip.subject for clip in hold_out(index, f"{k}/2").split("val")} for k in (1, 2)]
    assert parts in ([{"A", "C"}, {"B"}], [{"A"}, {"B", "C"}]) and parts[0] | parts[1] == {"A", "B", "C"}
    assert sorted(len(hold_out(index, f"{k}/2").split("val")) for k in (1, 2)) == [6, 8]


def test_videos_stand_for_subjects_that_are_not_known() -> None:
    index = index_of(("", 2, "train"), ("", 2, "train"), ("0001", 2, "train"))
    assert len(training_subjects(index)) == 3  # nobody is called as a video is
    assert {len(hold_out(index, f"{k}/3").split("val")) for k in (1, 2, 3)} == {2}


@pytest.mark.parametrize(
    "text", ["0/5", "6/5", "1/1", "a", "1", "1/", "/5", "1/5/5", "-1/5", "01/5", " 1/5", "1/5\n", "1/0", "1.0/5", "٣/٥",
             "1/" + "9" * 5000]
)  # fmt: skip
def test_what_is_no_fold_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.fold cannot be .*--set data\.fold=1/5"):
        parse_fold(text)
    assert parse_fold("5/5") == (5, 5) and parse_fold("1/12") == (1, 12)


def test_validation_clips_of_the_data_sets_own_are_not_mixed_in() -> None:
    index = index_of(("A", 2, "train"), ("B", 2, "train"), ("C", 1, "val"))
    with pytest.raises(ConfigError, match=r"somewhere: data\.fold=1/2, but there is a validation split.*0003"):
        hold_out(index, "1/2")


def test_absent_classes_are_told_of_the_splits_as_they_become() -> None:
    index = index_of(("A", 32, "train"), ("B", 3, "train"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hold_out(index, "2/2")
    assert [w.category for w in caught] == [AbsentClassWarning]
    assert "split val has no clip of 29 of 32 classes" in str(caught[0].message)
