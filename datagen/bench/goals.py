"""What the benchmark of the warp is to reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from datagen.bench.cases import TRACKS, Track
from datagen.bench.goal import Goal


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
