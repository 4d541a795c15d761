"""The recorded runs: each is whole, says of its numbers what its logits say, and holds nothing of the machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from migcore import experiments, metrics
from migcore.experiments import EXPERIMENTS
from migcore.ledger import Ledger
from migcore.presets import preset
from migcore.report import claims

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


def test_they_are_what_the_readme_says_of_the_claims(book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "ledger", lambda: book)
    monkeypatch.setattr(experiments, "dataset_at_hand", lambda config: None)
    config = preset("laptop")
    assert claims.known_seeds(config) == (0, 1, 2)
    state = {verdict.claim.name: verdict.state for verdict in claims.verdicts(config, (0, 1, 2))}
    assert state["fusion-streams"] == "holds on the studio"
    assert state["fusion-table1"] == state["decay-better"] == "does not hold on the studio"
    others = [state[name] for name in state if name not in ("fusion-streams", "fusion-table1", "decay-better")]
    assert others.count("undecided") > len(others) / 2
    told = " ".join((RESULTS.parent / "README.md").read_text(encoding="utf-8").split())
    assert "over three seeds, the fusion is better than each of its streams" in told
    assert "not better than every row of Table 1, token decay does not make the student better, and most other" in told
