"""Ablations read the ledger: each variant's own run, beside the first row's, and never another's."""

from __future__ import annotations

import dataclasses

import pytest

from migcore import experiments
from migcore.errors import ConfigError, DataError
from migcore.ledger import Ledger
from migcore.models.cost import Cost
from migcore.models.vclip import VCLIPConfig
from migcore.presets import PRESETS, preset
from migcore.report import ablations, tables
from migcore.report.ablations import ABLATIONS, ALL_TOKENS, REDUCTIONS, Variant
from migcore.report.tables import NOT_RUN, WITHHELD
from tests.report.test_tables import add, book

__all__ = ["book"]  # a fixture

SMOKE = preset("smoke")


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for the real count, which takes seconds."""

    def cost(model: str, config: VCLIPConfig) -> Cost:
        work = int(1e9 * sum(config.keep or (1.0,) * 4))
        return Cost(2**20 * (1 + bool(config.keep)), 0, work, (65, 30 if config.keep else 65))

    monkeypatch.setattr(ablations, "tower_cost", cost)


@pytest.mark.parametrize("name", PRESETS)
def test_every_variant_is_a_preset_that_differs_from_the_first(name: str) -> None:
    config = preset(name)
    for each in ABLATIONS:
        rows = each.rows(config)
        labels = [variant.label for variant in rows]
        assert len(set(labels)) == len(labels) == len(each.variants) >= 2
        runs = {(variant.experiment, variant.preset(config).label) for variant in rows}
        assert len(runs) == len(labels), f"{each.name} has a variant that is another one"
        if each.name != "average" or name != "imigue":  # averages from the second epoch on there
            assert rows[0].preset(config) == config


def test_an_override_reaches_the_key_of_its_experiment_only() -> None:
    def key(variant: Variant) -> str:
        return experiments.key(variant.experiment, variant.preset(SMOKE), 0, "d")

    for each in ABLATIONS:
        keys = [key(variant) for variant in each.variants]
        assert len(set(keys)) == len(keys), each.name
    gamma = ablations.ablation("gamma").rows(SMOKE)[1].preset(SMOKE)
    assert experiments.key("froster_decay", gamma, 0, "d") == experiments.key("froster_decay", SMOKE, 0, "d")


def test_data_of_ones_own_and_other_overrides_are_kept() -> None:
    config = preset("smoke", {"data.root": "somewhere", "student.beta": 3, "train_student.workers": 2})
    changed = ablations.ablation("alpha").rows(config)[1].preset(config)
    assert changed.data.root == "somewhere" and changed.student.beta == 3 and changed.student.alpha == 0
    assert changed.train_student.workers == 2


def test_a_table_shows_each_variants_run_and_the_paired_difference(book: Ledger) -> None:
    which = ablations.ablation("distance")
    first, second, third = which.rows(SMOKE)
    for variant, right in ((first, 0.5), (second, 0.75)):
        run = add(book, variant.experiment, variant.preset(SMOKE), right=right)
        book.save(
            dataclasses.replace(run, metrics={**run.metrics, "val": {**run.metrics["test"], "top1": right - 0.1}}),
            {f"test.{k}": v for k, v in book.load_arrays(run, "test").items()},
        )
    table = ablations.ablation_table(SMOKE, which)
    assert [row[0] for row in table.rows] == [first.label, second.label, third.label]
    assert table.rows[0][1] == "40.00" and table.rows[0][2].startswith("50.00 [") and table.rows[0][3] == ""
    assert table.rows[1][1] == "65.00" and table.rows[1][2].startswith("75.00 [")
    assert table.rows[1][3].startswith("+25.00 [")
    assert table.rows[2][1:] == [NOT_RUN, "", ""]

    told = ablations.conclusion(SMOKE, which)
    assert f"would choose *{second.label}*, 25.00 points ahead of *{first.label}*" in told
    assert f"On test that is {table.rows[1][3]} points." in told and third.label not in told


def test_a_conclusion_names_what_validation_chooses_and_what_stands_apart(book: Ledger) -> None:
    which = ablations.ablation("beta")
    rows = which.rows(SMOKE)
    assert "too few runs" in ablations.conclusion(SMOKE, which)
    for variant, right, validation in zip(rows, (0.75, 0.75, 0.0, 1.0), (0.6, 0.6, 0.5, 0.55), strict=True):
        run = add(book, variant.experiment, variant.preset(SMOKE), right=right)
        book.save(
            dataclasses.replace(run, metrics={**run.metrics, "val": {**run.metrics["test"], "top1": validation}}),
            {f"test.{k}": v for k, v in book.load_arrays(run, "test").items()},
        )
    first, same, worse, better = ablations.readings(SMOKE, which)
    assert first and same and worse and better and first.difference is None
    assert same.difference == (0, 0, 0) and worse.difference and worse.difference[2] < 0
    assert better.difference and better.difference[0] == 25
    told = ablations.conclusion(SMOKE, which)
    assert f"cannot tell *{rows[0].label}* from *{rows[1].label}*" in told
    apart = told.partition("by their intervals: ")[2]
    assert rows[2].label in apart and rows[1].label not in apart
    assert (rows[3].label in apart) == (better.difference[1] > 0)


def test_without_validation_nothing_is_chosen(book: Ledger) -> None:
    which = ablations.ablation("distance")
    for variant, right in zip(which.rows(SMOKE)[:2], (0.5, 0.75), strict=True):
        run = add(book, variant.experiment, variant.preset(SMOKE), right=right)
        book.save(
            dataclasses.replace(run, metrics={"test": run.metrics["test"]}),
            {f"test.{k}": v for k, v in book.load_arrays(run, "test").items()},
        )
    first, second, _ = ablations.readings(SMOKE, which)
    assert first and second and first.validation is second.validation is None and second.difference is not None
    assert [row[1] for row in ablations.ablation_table(SMOKE, which).rows] == [WITHHELD, WITHHELD, NOT_RUN]
    told = ablations.conclusion(SMOKE, which)
    assert "No validation clip has a label: nothing is chosen. On test" in told or "Apart from the first row" in told
    with pytest.raises(DataError, match="no labelled clip of val in common"):
        tables.same_clips({"one": first.score.runs[0], "two": second.score.runs[0]}, "val")


def test_the_reductions_stand_beside_their_cost(book: Ledger) -> None:
    add(book, "froster", SMOKE, right=0.8)
    add(book, "froster_decay", SMOKE, right=0.6)
    table = ablations.reduction_table(SMOKE)
    assert len(table.rows) == len(REDUCTIONS) == 5
    assert table.rows[0][1].startswith("80.00") and table.rows[1][1].startswith("60.00")
    assert table.rows[0][2].startswith("+20.00 [") and table.rows[1][2] == ""
    assert [row[1:3] for row in table.rows[2:]] == [[NOT_RUN, ""]] * 3
    tokens = [row[3] for row in table.rows]
    assert tokens == ["65", "30", "30", "30", "30"]


def test_the_trade_off_has_a_point_for_every_run(book: Ledger) -> None:
    add(book, "froster", SMOKE, right=0.8)
    add(book, "froster_decay", SMOKE, right=0.6)
    label, budget = "random dropping", 1
    variant = ablations.budgets(SMOKE)[label][budget]
    assert variant.preset(SMOKE).student.vclip.keep == (0.9, 0.9, 0.9, 1.0)
    add(book, variant.experiment, variant.preset(SMOKE), right=0.4)
    points = ablations.trade_off(SMOKE)
    assert points[ALL_TOKENS.label] == [(4.0, pytest.approx(80))]
    assert points["decay by [cls] (the paper)"] == [(pytest.approx(sum(SMOKE.student.vclip.keep)), pytest.approx(60))]
    assert points[label] == [(pytest.approx(3.7), pytest.approx(40))]
    assert points["merging (ToMe)"] == []


def test_the_rule_is_held_against_chance_where_both_were_run(book: Ledger) -> None:
    assert ablations.rule_against_chance(SMOKE) == []
    rule, chance = (ablations.budgets(SMOKE)[label] for label in list(ablations.KINDS)[:2])
    for variant, right in ((rule[0], 0.5), (rule[2], 0.25), (chance[2], 0.75)):
        run = add(book, variant.experiment, variant.preset(SMOKE), right=right)
        arrays = book.load_arrays(run, "test")
        both = {f"{split}.{k}": v for split in ("val", "test") for k, v in arrays.items()}
        clips = {split: run.clips["test"] for split in ("val", "test")}
        book.save(dataclasses.replace(run, clips=clips, metrics={s: run.metrics["test"] for s in clips}), both)
    (found,) = ablations.rule_against_chance(SMOKE)
    assert found.share == ablations.BUDGETS[1] and found.validation[0] == -50
    assert found.test is not None and found.test[0] == -50 and ablations.points(found.test).startswith("-50.00 [")


def test_variants_come_once_and_by_name() -> None:
    every = ablations.variants(SMOKE)
    labels = [(v.experiment, v.preset(SMOKE).label) for v in every]
    assert len(set(labels)) == len(labels)
    assert {v.label for v in ablations.variants(SMOKE, ["head"])} == {"series", "parallel"}
    assert len(ablations.variants(SMOKE, ["budgets"])) == 12
    with pytest.raises(ConfigError, match="no ablation is called 'gama'"):
        ablations.variants(SMOKE, ["gama"])
