"""The benchmark of what samples show: every kind of surface is measured, and a broken one shows."""

from __future__ import annotations

import pytest

from benchmarks.surfaces.run import SurfacePlan, run_surface_bench
from datagen.flows import surfaces
from datagen.manifest import WarpConfig

PLAN = SurfacePlan(1, 3, 0.3, 5, sensor_px=200, resolution=84, scan_vertices=5000, config=WarpConfig(subdivisions=0))


def test_all_kinds_are_measured_and_what_is_wrong_with_one_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    figures = run_surface_bench(PLAN, said.append)
    assert said == ["person 1 of 1"]
    for kind in ("scan", "cloud", "measured", "registration"):
        # Three cameras leave holes in a scan, which needs two of them for a point.
        assert figures[f"{kind}_covered"] > (0.95 if kind == "measured" else 0.7)
        assert 0 < figures[f"{kind}_mm"] < 6
        assert figures[f"{kind}_mm"] < figures[f"{kind}_p95_mm"]
    assert figures["measured_over_scan"] == pytest.approx(figures["measured_mm"] / figures["scan_mm"])
    # Half of the measured pixels left out, as by another idea of what lies on the scan.
    monkeypatch.setattr(surfaces, "MOST_OFF_SCAN_M", 1e-4)

    assert run_surface_bench(PLAN, said.append)["measured_covered"] < 0.6
