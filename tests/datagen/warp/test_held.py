"""What each source of evidence held: MacKay's count of a small system by hand, and its sum in a real fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from datagen.layout import BuildLayout
from datagen.warp.held import Ledger
from datagen.warp.storage import read_verdict

if TYPE_CHECKING:
    from datagen.flows.build import BuildResult


def test_unknowns_are_shared_by_who_told_of_them() -> None:
    ledger = Ledger(np.full(4, 2.0), prior_energy=1.5)
    scan, landmarks = np.diag([6.0, 0, 0, 0]), np.diag([0, 2.0, 0, 0])
    ledger.add("scan", scan / 2, 1.0)
    ledger.add("scan", scan / 2, 2.0)
    ledger.add("landmarks", landmarks, 4.0)
    held = ledger.held(np.diag([2.0] * 4) + scan + landmarks)
    assert held.share == pytest.approx({"scan": 6 / 8 / 4, "landmarks": 2 / 4 / 4, "prior": (2 / 8 + 2 / 4 + 2) / 4})
    assert held.energy == {"scan": 3.0, "landmarks": 4.0, "prior": 1.5}
    assert held.metrics()["held_scan"] == held.share["scan"]


def test_the_amplitude_is_that_of_draws_from_a_prior_of_another_size() -> None:
    """Unknowns three times as large as the prior expects, half of them seen well: the likeliest factor is three."""
    rng = np.random.default_rng(0)
    n, precision, noise = 400, 4.0, 1e-2
    drawn = rng.normal(size=n) / np.sqrt(precision)
    drawn /= np.sqrt(precision * (drawn[: n // 2] ** 2).mean())
    for factor in (0.4, 1.0, 3.0):
        # Each by itself; the others stay where the prior has them.
        told = np.diag(np.where(np.arange(n) < n // 2, 1 / noise**2, 0.0))
        posterior = np.diag(np.full(n, precision)) + told
        found = np.linalg.solve(posterior, told @ (factor * drawn + noise * rng.normal(size=n)))
        ledger = Ledger(np.full(n, precision), prior_energy=0.5 * precision * float(found @ found))
        ledger.add("scan", told, 0.0)
        assert ledger.held(posterior).amplitude == pytest.approx(factor, rel=0.08)
    # Nothing seen says nothing of the prior's size.
    assert Ledger(np.full(4, 2.0), 0.0).held(np.diag([2.0] * 4)).amplitude == pytest.approx(1)


def test_a_warp_says_what_held_it_and_what_each_stage_did(talk_build: BuildResult) -> None:
    for _, _, folder in BuildLayout(talk_build.root).verdicts():
        metrics = read_verdict(folder).metrics
        shares = {name: value for name, value in metrics.items() if name.startswith("held_")}
        assert {"held_scan", "held_landmarks", "held_prior"} <= shares.keys()
        assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
        assert all(value > 0 for value in shares.values())
        assert {name.replace("held_", "energy_") for name in shares} <= metrics.keys()
        apart = [metrics[f"stage_{k}_apart_mm"] for k in (1, 2, 3)]
        assert apart[2] < apart[0]
        assert metrics["stage_3_held_vertices"] > 100
        assert 0.1 < metrics["own_amplitude"] < 3
        assert 0.2 <= metrics["landmark_scatter_mm"] <= 4
