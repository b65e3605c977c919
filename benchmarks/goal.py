"""What a benchmark has to reach, and whether it did."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.warp.cases import TRACKS, Track


@dataclass(frozen=True)
class Goal:
    """A limit for one figure.

    Attributes
    ----------
    figure : str
    limit : float
    at_least : bool
        The figure is to be at least the limit; otherwise at most.
    """

    figure: str
    limit: float
    at_least: bool = False

    @property
    def text(self) -> str:
        """The limit as a reader sees it."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"

    def met_by(self, value: float) -> bool:
        """Whether a value reaches the goal; NaN does not."""
        return value >= self.limit if self.at_least else value <= self.limit


def judged(goals: Iterable[Goal], figures: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Return ``goal`` as text and whether it is ``met``, by figure; None for a figure that could not be measured."""
    return {
        goal.figure: {
            "goal": goal.text,
            "met": None if math.isnan(figures[goal.figure]) else goal.met_by(figures[goal.figure]),
        }
        for goal in goals
        if goal.figure in figures
    }


def verdict(entry: Mapping[str, Any] | None) -> str:
    """Return an entry of :func:`judged` as the end of a line; empty without a goal or a figure."""
    if entry is None or entry["met"] is None:
        return ""
    return f"{entry['goal']:<8} {'met' if entry['met'] else 'MISSED'}"


@dataclass(frozen=True)
class TrackGoal(Goal):
    """A limit for one figure of some tracks."""

    tracks: tuple[Track, ...] = TRACKS


GOALS = (
    TrackGoal("median_mm", 0.4, tracks=("registration",)),
    TrackGoal("p95_mm", 1.2, tracks=("registration",)),
    TrackGoal("median_mm", 0.8, tracks=("landmarks",)),
    TrackGoal("p95_mm", 2.5, tracks=("landmarks",)),
    TrackGoal("error_over_better_peer", 0.5, tracks=("landmarks",)),
    TrackGoal("flips", 0, tracks=("registration", "landmarks")),
    TrackGoal("dispersion_median_mm", 0.25, tracks=("sequence",)),
    TrackGoal("residual_median_mm", 0.08),
    TrackGoal("residual_p95_mm", 0.3),
    TrackGoal("calibration_error", 0.05),
    TrackGoal("seconds_per_frame", 1.5, tracks=("sequence",)),
    TrackGoal("speedup_amberg", 10, at_least=True),
)


def goals_of(track: Track, figures: Mapping[str, float]) -> dict[str, TrackGoal]:
    """Return the goals of a track by figure, of the figures that were measured."""
    return {goal.figure: goal for goal in GOALS if track in goal.tracks and goal.figure in figures}
