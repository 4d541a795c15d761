"""Costs are those of the networks: counted against what layers must take, added up where systems are added up."""

from __future__ import annotations

import pytest

from migcore.experiments import EXPERIMENTS
from migcore.models.cost import tower_cost
from migcore.presets import preset
from migcore.report import tables
from migcore.report.costs import system_cost

SMOKE = preset("smoke")


@pytest.mark.parametrize("name", sorted({*tables.shown()}))
def test_every_row_has_a_cost(name: str) -> None:
    cost = system_cost(name, SMOKE)
    assert cost.parameters > 0 and cost.macs > 0 and cost.milliseconds > 0


def test_a_fusion_costs_what_its_parts_cost() -> None:
    for name in ("ours", "posec3d_fusion", "dscnet"):
        parts = [system_cost(other, SMOKE) for other in EXPERIMENTS[name].depends]
        whole = system_cost(name, SMOKE)
        assert whole.parameters == sum(p.parameters for p in parts)
        assert whole.macs == sum(p.macs for p in parts)
        assert whole.milliseconds == pytest.approx(sum(p.milliseconds for p in parts))


def test_the_video_tower_is_counted_as_table_3_counts_it() -> None:
    for name, keep in (("froster", ()), ("froster_decay", SMOKE.student.vclip.keep)):
        config = preset("smoke", {"video.frames": 8})
        counted = tower_cost("miniature", type(SMOKE.student.vclip)(keep=keep, score="logits"))
        assert system_cost(name, config).macs == counted.flops // 2


def test_more_views_cost_more_and_weigh_nothing() -> None:
    one, two = (preset("smoke", {"video.test_clips": k, "skeleton.test_clips": k}) for k in (1, 2))
    for name in ("froster", "posec3d_joint", "evl", "trn"):
        assert system_cost(name, two).macs == 2 * system_cost(name, one).macs
        assert system_cost(name, two).parameters == system_cost(name, one).parameters


def test_the_frozen_clip_is_part_of_what_reads_through_it() -> None:
    clip, reader = system_cost("linear_probe", SMOKE), system_cost("evl", SMOKE)
    assert reader.parameters > clip.parameters and reader.macs > clip.macs
