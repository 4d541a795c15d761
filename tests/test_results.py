"""The recorded runs: each is whole, says of its numbers what its logits say, and holds nothing of the machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from migcore import metrics
from migcore.experiments import EXPERIMENTS
from migcore.ledger import Ledger

RESULTS = Path(__file__).resolve().parents[1] / "results"
RECORDED = sorted(path.name for path in RESULTS.iterdir())


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return Ledger(tmp_path_factory.mktemp("none"), RESULTS)


def test_there_are_some_and_they_are_small(book: Ledger) -> None:
    assert len(book.all()) == len(RECORDED) >= 20
    assert {path.name for folder in RESULTS.iterdir() for path in folder.iterdir()} == {
        "run.json",
        "arrays.safetensors",
    }
    assert sum(path.stat().st_size for path in RESULTS.rglob("*.*")) < 32 * 2**20


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_run_is_what_it_says(book: Ledger, name: str) -> None:
    run = book.get(name.rpartition("-")[2])
    assert run is not None and run.name == name and run.experiment in EXPERIMENTS
    assert run.device and run.created and run.seconds >= 0 and set(run.metrics) == {"val", "test"}
    for split, values in run.metrics.items():
        arrays = book.load_arrays(run, split)
        ids, subjects = run.clips[split]["ids"], run.clips[split]["subjects"]
        assert len(set(ids)) == len(ids) == len(subjects) == len(arrays["labels"]) == values["n"]
        found = metrics.classification(arrays["logits"], arrays["labels"])
        for metric in ("top1", "top5", "mean_class"):
            assert found[metric] == pytest.approx(values[metric], abs=1e-9), metric
    text = json.dumps(json.loads((RESULTS / name / "run.json").read_text()))
    assert not re.search(r'"/(work|tmp|root|home|Users)/', text)
