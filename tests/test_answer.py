"""A film's answer takes nobody's place: not an input's, not another film's, not that of a file of unknown origin."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from migcore.answer import Answer
from migcore.errors import ConfigError, LedgerError
from migcore.predict import Prediction
from migcore.presets import preset
from tests.faults import files

FOUND = Prediction(
    ("a", "b"),
    np.array([[0, 2], [1, 3]]),
    np.array([[0, 1], [0.5, 1.5]]),
    2.0,
    np.array([[0.5, 0.5], [1, 0]]),
    {"x": 1.0},
    ("careful",),
)


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGCORE_RUNS", str(tmp_path / "runs"))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return film(tmp_path / "films" / "me.mp4")


def film(path: Path, size: int = 9) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


def written(out: Path, video: Path) -> Answer:
    answer = Answer(out, video)
    with answer.reserved():
        answer.save(FOUND, preset("smoke"), 3, labels=["a", "b"], window_seconds=1)
    return answer


def test_three_files_are_written_and_written_again(video: Path, tmp_path: Path) -> None:
    answer = written(tmp_path / "out", video)
    first = files(tmp_path / "out")
    assert sorted(first) == ["me.csv", "me.json", "me.png"] and len(answer.files) == 3
    about = json.loads((tmp_path / "out" / "me.json").read_text())
    assert about["film"] == {"path": str(video.resolve()), "bytes": 9} and about["runs"] == {"x": None}
    assert (about["preset"], about["seed"], about["window_seconds"], about["notes"]) == ("smoke", 3, 1, ["careful"])
    written(tmp_path / "out", video)
    assert files(tmp_path / "out") == first


@pytest.mark.parametrize("name", ["me.mp4", "me.mov", "me.tar.mp4"])
def test_another_film_of_the_name_is_refused(name: str, video: Path, tmp_path: Path) -> None:
    other = film(tmp_path / "others" / name)
    written(tmp_path / "out", video)
    before = files(tmp_path / "out")
    if other.stem != video.stem:
        written(tmp_path / "out", other)
        assert before.items() < files(tmp_path / "out").items()
        return
    with pytest.raises(ConfigError, match=rf"out: holds the answer for {video}\. Give another --out"):
        written(tmp_path / "out", other)
    assert files(tmp_path / "out") == before


def test_a_film_is_the_same_by_every_name_of_its_own(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "out", video)
    (tmp_path / "link").symlink_to(video.parent)
    monkeypatch.chdir(video.parent)
    for name in (Path("me.mp4"), tmp_path / "link" / "me.mp4", Path("../films/me.mp4")):
        written(tmp_path / "out", name)
    os.link(video, video.with_name("linked"))  # as ME.mp4 is me.mp4 on some systems
    about = tmp_path / "out" / "me.json"
    about.write_text(about.read_text().replace("films/me.mp4", "films/linked"))
    written(tmp_path / "out", video)


def test_a_film_that_has_changed_replaces_its_own_answer_and_that_is_told(video: Path, tmp_path: Path) -> None:
    written(tmp_path / "out", video)
    film(video, 12)
    with pytest.warns(UserWarning, match=r"me\.mp4 has changed since it was judged: its answer is replaced"):
        written(tmp_path / "out", video)
    assert json.loads((tmp_path / "out" / "me.json").read_text())["film"]["bytes"] == 12


@pytest.mark.parametrize("name", ["me.csv", "me.png"])
def test_a_file_of_unknown_origin_stays(name: str, video: Path, tmp_path: Path) -> None:
    film(tmp_path / "out" / name)
    with pytest.raises(ConfigError, match=rf"out: holds {name}, and no me\.json that says of which film"):
        written(tmp_path / "out", video)
    assert files(tmp_path / "out") == {name: bytes(9)}


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"film": "me.mp4"}', '{"film": {"path": "x"}}',
             '{"film": {"path": "x", "bytes": []}}', "[" * 100_000, "\udcff"]
)  # fmt: skip
def test_a_json_of_ones_own_stays(text: str, video: Path, tmp_path: Path) -> None:
    own = tmp_path / "me.json"
    own.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=r"me\.json: is not what `migcore predict --out` writes"):
        written(tmp_path, video)
    assert files(tmp_path) == before


def test_an_input_is_never_an_output(tmp_path: Path) -> None:
    for name in ("me.json", "me.csv", "me.png"):
        given = film(tmp_path / name)
        with (
            pytest.raises(ConfigError, match="the results would take this file's place"),
            Answer(tmp_path, film(tmp_path / "films" / "me.mp4"), given).reserved(),
        ):
            pytest.fail("it would have been judged")
        given.unlink()


def test_one_process_at_a_time(video: Path, tmp_path: Path) -> None:
    other = film(tmp_path / "others" / "me.mp4")
    with (
        Answer(tmp_path / "out", video).reserved(),
        pytest.raises(LedgerError, match=r"the result of me\.mp4 is being"),
    ):
        written(tmp_path / "out", other)
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """Names of files are bytes; those of an old disk may be no UTF-8."""
    try:
        video = film(tmp_path / os.fsdecode(b"m\xfcller.mp4"))
    except OSError:
        pytest.skip("this disk has no such names")
    for _ in range(2):
        written(tmp_path / "out", video)
    about = json.loads((tmp_path / "out" / f"{video.stem}.json").read_text(encoding="utf-8"))
    assert about["film"]["path"] == str(video)
