"""The studio as a folder in iMiGUE's layout."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migcore.data.imigue import ChangedDataWarning, open_dataset, read_clip_skeleton
from migcore.data.video import probe, read_frames
from migcore.errors import ConfigError
from migcore.labels import NUM_CLASSES
from migcore.studio.dataset import StudioConfig, class_counts, is_finished, plan, skeleton, stage_film, write_studio
from migcore.studio.probes import train_probe

TINY = StudioConfig(
    size=32, train_clips=34, val_clips=4, test_clips=4, train_subjects=2, val_subjects=2, test_subjects=2,
    min_seconds=0.4, median_seconds=0.5, max_seconds=0.7, gap_seconds=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_studio(tmp_path_factory.mktemp("studio") / "set", TINY, progress=False, workers=1)


def test_what_is_written_is_what_was_played(studio: Path) -> None:
    index = open_dataset(studio)
    assert {s: len(index.split(s)) for s in ("train", "val", "test")} == {"train": 34, "val": 4, "test": 4}
    films = plan(TINY)
    for film in films:
        staged, seeds = stage_film(film, TINY)
        clips = [c for c in index.clips if c.video == film.video]
        assert [c.label for c in clips] == [e.label for e in staged.events] == list(film.labels)
        assert [(c.start - 1, c.end) for c in clips] == [(e.start, e.stop) for e in staged.events]
        info = probe(clips[0].film)
        assert info.frames == staged.frames and info.size == (32, 32)
        points, _ = skeleton(staged, TINY, seeds)
        got, confidence = read_clip_skeleton(clips[0], index.column_map)
        e = staged.events[0]
        np.testing.assert_allclose(
            got, points[e.start : e.stop, [*range(8), *range(15, 19), *range(25, 35)]], atol=6e-4
        )
        assert (confidence > 0).mean() > 0.7


def test_film_and_skeleton_show_the_same_instant(studio: Path) -> None:
    """The brightest change between two frames lies where the skeleton moved: films are not shifted against CSVs."""
    from migcore.studio.film import render

    film = plan(TINY)[0]
    staged, _ = stage_film(film, TINY)
    drawn = np.concatenate([f.numpy() for f in render(staged, 32)])
    at = [0, staged.frames // 2, staged.frames - 1]
    decoded = read_frames(studio / film.video / f"{film.video}.mp4", at).permute(1, 2, 3, 0).numpy()
    for k, frame in enumerate(at):
        error = np.abs(decoded[k].astype(int) - drawn[frame].astype(int)).mean()
        other = np.abs(decoded[k].astype(int) - drawn[(frame + 15) % staged.frames].astype(int)).mean()
        assert error < 6 and error < other


def test_splits_share_no_subject_and_wearers_perform_what_needs_it() -> None:
    films = plan(StudioConfig())
    by_split = {s: {f.subject for f in films if f.split == s} for s in ("train", "val", "test")}
    assert not by_split["train"] & by_split["val"] and not by_split["train"] & by_split["test"]
    assert not by_split["val"] & by_split["test"]
    for f in films:
        assert (2 not in f.labels or f.hat) and (12 not in f.labels or f.long_hair) and (13 not in f.labels or f.tie)
    for split in by_split:
        assert {c for f in films if f.split == split for c in f.labels} == set(range(NUM_CLASSES))


@given(st.integers(40, 5000), st.floats(0, 1), st.floats(0, 1))
def test_class_counts_add_up(total: int, tail: float, floor: float) -> None:
    counts = class_counts(total, tail, floor)
    assert counts.sum() == total and counts.min() >= 0
    if tail > 0.3:
        assert counts[31] == counts.max()


def test_the_tail_grows_with_its_knob() -> None:
    spread = [np.ptp(class_counts(1000, tail, 0.0)) for tail in (0.0, 0.5, 1.0)]
    assert spread[0] <= 1 < spread[1] < spread[2]


def test_a_cut_off_folder_is_completed_and_identity_is_the_same(studio: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "set"
    shutil.copytree(studio, copy)
    (copy / "0002" / "0002.mp4").unlink()
    done = json.loads((copy / "identity.json").read_text())
    (copy / "identity.json").unlink()
    (copy / "recipe.json").write_text(json.dumps({k: v for k, v in done.items() if k != "identity"}))
    kept = (copy / "0001" / "0001.mp4").stat().st_mtime_ns
    write_studio(copy, TINY, progress=False, workers=1)
    assert json.loads((copy / "identity.json").read_text()) == done
    assert (copy / "0001" / "0001.mp4").stat().st_mtime_ns == kept
    assert not (copy / "recipe.json").exists()
    assert open_dataset(copy).identity == open_dataset(studio).identity


def test_the_identity_is_that_of_what_was_written(studio: Path, tmp_path: Path) -> None:
    import shutil

    done = json.loads((studio / "identity.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error", ChangedDataWarning)
        assert open_dataset(studio).identity == done["identity"]
        copy = Path(shutil.copytree(studio, tmp_path / "set"))
        assert open_dataset(copy).identity == done["identity"]
    table = copy / "0002" / "0002_light_hand.csv"
    table.write_text("".join(f"{row.split(',')[0]}{',0' * 105}\n" for row in table.read_text().splitlines()))
    with pytest.warns(ChangedDataWarning, match=r"1 changed \(0002/0002_light_hand.csv\)"):
        assert open_dataset(copy).identity != done["identity"]
    assert set(done["content"]) == {"splits.csv"} | {
        f"{f.video}/{f.video}{end}" for f in plan(TINY) for end in (".mp4", "_label.csv", "_light_hand.csv")
    }


def test_a_studio_without_its_content_is_completed_if_its_tables_are_right(studio: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(studio, tmp_path / "set"))
    done = json.loads((copy / "identity.json").read_text())
    before = json.dumps({name: value for name, value in done.items() if name != "content"})  # as it was written once
    (copy / "identity.json").write_text(before)
    assert not is_finished(copy) and not is_finished(tmp_path / "nothing")
    write_studio(copy, TINY, progress=False)
    assert json.loads((copy / "identity.json").read_text()) == done and is_finished(copy)
    (copy / "identity.json").write_text(before)
    table = copy / "0001" / "0001_label.csv"
    table.write_text("".join(reversed(table.read_text().splitlines(keepends=True))))
    write_studio(copy, TINY, progress=False)
    assert (copy / "identity.json").read_text() == before, "it is not what was written"


def test_what_is_no_studio_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"file: is a file\. choose an empty folder"):
        write_studio(tmp_path / "file", TINY, progress=False)
    for name in ("identity.json", "recipe.json"):
        for content in ("{", "[]", "\xff"):
            folder = tmp_path / f"{name}{len(content)}{content[0]}"
            folder.mkdir()
            (folder / name).write_bytes(content.encode("latin-1"))
            with pytest.raises(ConfigError, match=rf"{name}: is not what `migcore studio` writes"):
                write_studio(folder, TINY, progress=False)


def test_two_processes_write_what_one_does(studio: Path, tmp_path: Path) -> None:
    other = write_studio(tmp_path / "set", TINY, progress=False, workers=2)
    for name in ("splits.csv", "identity.json", "0003/0003_light_hand.csv", "0003/0003_label.csv"):
        assert (other / name).read_bytes() == (studio / name).read_bytes()


def test_other_configurations_are_not_mixed(studio: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another configuration"):
        write_studio(studio, replace(TINY, seed=1), progress=False)
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="holds no studio"):
        write_studio(tmp_path, TINY, progress=False)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    with pytest.raises(ConfigError, match="even"):
        StudioConfig(size=33)
    with pytest.raises(ConfigError, match="durations"):
        StudioConfig(min_seconds=5)
    with pytest.raises(ConfigError, match="subjects"):
        StudioConfig(val_subjects=1)


def test_version_one_is_frozen() -> None:
    """A change of motion or estimator moves these numbers, and needs a new STUDIO_VERSION."""
    film = plan(TINY)[0]
    staged, seeds = stage_film(film, TINY)
    points, scores = skeleton(staged, TINY, seeds)
    golden = json.loads((Path(__file__).parent / "studio_v1.json").read_text())
    assert list(film.labels) == golden["labels"] and staged.frames == golden["frames"]
    np.testing.assert_allclose(points[::40, :8].round(4), golden["points"], atol=2e-3)
    np.testing.assert_allclose(scores[::40, :8].round(4), golden["scores"], atol=2e-3)


@pytest.mark.parametrize("kind", ["skeleton", "film"])
def test_probes_give_logits_of_every_clip_and_learn(studio: Path, kind: str) -> None:
    index = open_dataset(studio)
    out = train_probe(kind, index, seed=0, size=32, epochs=2)
    assert out["val"].shape == (4, NUM_CLASSES) and out["test"].shape == (4, NUM_CLASSES)
    again = train_probe(kind, index, seed=0, size=32, epochs=2)
    np.testing.assert_array_equal(out["val"].numpy(), again["val"].numpy())
    longer = train_probe(kind, index, seed=0, size=32, epochs=8)
    assert not np.allclose(longer["val"].numpy(), out["val"].numpy())
