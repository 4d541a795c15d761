"""The bench runs what it names; how fast is not a test's business."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from migcore import bench as bench_module
from migcore.bench import PARTS, bench
from migcore.errors import ConfigError


def test_rows_of_each_part() -> None:
    rows = bench(repeats=2, quick=True)
    parts = ["joint_heatmaps", "limb_heatmaps", "posec3d", "teacher", "video_tower"]
    assert [row.name for row in rows] == [*parts, "video_tower"]  # of the tower a training step too
    for row in rows:
        assert row.device == "cpu" and row.peak_mib is None and row.size
        assert 0 < row.ms_min <= row.ms <= row.ms_max and math.isfinite(row.ms_max)
        assert ("training step" in row.size) == (row.reference_ms is None)
        assert row.reference_ms is None or row.reference_ms > 0


def test_a_training_step_is_whole_and_only_it_records_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed is timed as it is used: a step with its backward pass, everything else without gradients."""
    seen = []

    def watched(case: bench_module._Case) -> bench_module._Case:
        def call() -> None:
            seen.append((case.gradients, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            case.call()
            if case.gradients:
                tower = case.call.args[0]  # type: ignore[attr-defined]
                gradients = [p.grad for p in tower.parameters() if p.grad is not None]
                assert gradients and all(g.isfinite().all() for g in gradients)
                sums.append(sum(float(g.abs().sum()) for g in gradients))

        return dataclasses.replace(case, call=call)

    sums: list[float] = []
    full = dict(PARTS)
    for name in ("teacher", "video_tower"):
        monkeypatch.setitem(PARTS, name, lambda d, part=full[name]: list(map(watched, part(d))))
    bench(["teacher", "video_tower"], repeats=1, quick=True)
    assert set(seen) == {(False, False, True), (True, True, False)}
    assert len(sums) == 2 and sums[0] == pytest.approx(sums[1], rel=1e-4)  # no step adds to the one before


def test_what_is_timed_is_what_the_naive_version_computes() -> None:
    with torch.no_grad():
        for name in ("joint_heatmaps", "limb_heatmaps"):
            case, larger = PARTS[name](torch.device("cpu"))
            assert case.naive is not None and larger.naive is None
            torch.testing.assert_close(case.call(), torch.from_numpy(case.naive()), atol=1e-5, rtol=0)
        case = PARTS["posec3d"](torch.device("cpu"))[0]
        assert case.naive is not None
        torch.testing.assert_close(case.call(), case.naive()[1], atol=1e-4, rtol=1e-4)
        case = PARTS["teacher"](torch.device("cpu"))[0]
        assert case.naive is not None
        naive = torch.nn.functional.normalize(torch.stack(case.naive()), dim=-1)
        torch.testing.assert_close(case.call()[0], naive, atol=1e-4, rtol=0)
        case, *steps = PARTS["video_tower"](torch.device("cpu"))
        assert case.naive is not None and len(steps) == 4
        torch.testing.assert_close(case.call()[0], case.naive()[0], atol=1e-4, rtol=1e-4)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ConfigError, match="'speed'"):
        bench(["speed"])
    with pytest.raises(ConfigError, match="repeats"):
        bench(["teacher"], repeats=0)
    for device in ("abacus", "meta", "cuda:99"):
        with pytest.raises(ConfigError, match=f"cannot run on '{device}' "):
            bench(["teacher"], device=device)
