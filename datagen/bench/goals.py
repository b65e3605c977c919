"""What the benchmark of the warp is to reach, and whether it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from datagen.bench.cases import TRACKS, Track


@dataclass(frozen=True)
class Goal:
    """A limit for one figure.

    Attributes
    ----------
    figure : str
    limit : float
    at_least : bool
        The figure is to be at least the limit; otherwise at most.
    tracks : tuple of Track
    """

    figure: str
    limit: float
    at_least: bool = False
    tracks: tuple[Track, ...] = TRACKS

    @property
    def text(self) -> str:
        """The limit as a reader sees it."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"

    def met_by(self, value: float) -> bool:
        """Whether a value reaches the goal; NaN does not."""
        return value >= self.limit if self.at_least else value <= self.limit


GOALS = (
    Goal("median_mm", 0.4, tracks=("registration",)),
    Goal("p95_mm", 1.2, tracks=("registration",)),
    Goal("median_mm", 0.8, tracks=("landmarks",)),
    Goal("p95_mm", 2.5, tracks=("landmarks",)),
    Goal("error_over_better_peer", 0.5, tracks=("landmarks",)),
    Goal("flips", 0, tracks=("registration", "landmarks")),
    Goal("dispersion_median_mm", 0.25, tracks=("sequence",)),
    Goal("residual_median_mm", 0.08),
    Goal("residual_p95_mm", 0.3),
    Goal("calibration_error", 0.05),
    Goal("seconds_per_frame", 1.5, tracks=("sequence",)),
    Goal("speedup_amberg", 10, at_least=True),
)


def goals_of(track: Track, figures: Mapping[str, float]) -> dict[str, Goal]:
    """Return the goals of a track by figure, of the figures that were measured."""
    return {goal.figure: goal for goal in GOALS if track in goal.tracks and goal.figure in figures}
