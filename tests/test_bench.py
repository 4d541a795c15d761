"""The bench runs what it names; how fast is not a test's business."""

from __future__ import annotations

import math

import pytest
import torch

from migcore import bench as bench_module
from migcore.bench import PARTS, bench
from migcore.errors import ConfigError


def test_rows_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    full = dict(PARTS)
    # The smaller size of each part: the larger ones take seconds.
    monkeypatch.setattr(bench_module, "PARTS", {n: lambda d, part=part: part(d)[:1] for n, part in full.items()})
    rows = bench(repeats=2)
    assert [row.name for row in rows] == ["joint_heatmaps", "limb_heatmaps", "posec3d", "teacher", "video_tower"]
    for row in rows:
        assert row.device == "cpu" and row.peak_mib is None and row.size
        assert 0 < row.ms_min <= row.ms <= row.ms_max and math.isfinite(row.ms_max)
        assert row.reference_ms is not None and row.reference_ms > 0


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
