"""What is left of a build, in seconds of work: what its units took so far, times what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datagen.common.progress import duration
from datagen.flows.stage import StageStatus
from datagen.flows.work_log import StageWork, Taken


@dataclass(frozen=True)
class StageCost:
    """What the rest of a stage will take.

    Attributes
    ----------
    stage, unit : str
        Its name, and what is counted.
    left : int
        How many are missing.
    each_s : float or None
        What one took; None as long as none is made.
    unit_s : float
        What a unit of work took, which only one worker can be at.
    """

    stage: str
    unit: str
    left: int
    each_s: float | None
    unit_s: float = 0.0

    def left_s(self, workers: int) -> float | None:
        """How long the rest will take so many workers; None if that cannot be said."""
        if not self.left:
            return 0.0
        if self.each_s is None:
            return None
        return max(self.left * self.each_s / workers, min(self.unit_s, self.left * self.each_s))


@dataclass(frozen=True)
class Cost:
    """What the rest of a build will take.

    Attributes
    ----------
    workers : int
    stages : tuple of StageCost
        Those of which something is missing.
    """

    workers: int
    stages: tuple[StageCost, ...]

    @property
    def left_s(self) -> float:
        """Seconds on so many workers, of the stages that are known."""
        return sum(stage.left_s(self.workers) or 0.0 for stage in self.stages)

    @property
    def work_s(self) -> float:
        """Seconds of one worker, of the stages that are known."""
        return sum(stage.left_s(1) or 0.0 for stage in self.stages)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The stages of which nothing can be said yet."""
        return tuple(stage.stage for stage in self.stages if stage.left_s(1) is None)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {
            "left_s": round(self.left_s, 1),
            "stages": {
                stage.stage: {"left": stage.left, "each_s": stage.each_s, "left_s": stage.left_s(self.workers)}
                for stage in self.stages
            },
            "unknown": list(self.unknown),
            "work_s": round(self.work_s, 1),
            "workers": self.workers,
        }

    def __str__(self) -> str:
        if not self.stages:
            return "nothing"
        known = [stage for stage in self.stages if stage.each_s is not None]
        parts = []
        if known:
            many = "1 worker" if self.workers == 1 else f"{self.workers} workers"
            parts.append(f"{duration(self.left_s)} on {many} ({duration(self.work_s)} of work)")
        if self.unknown:
            parts.append(f"{', '.join(self.unknown)}: not known before a unit of it is done")
        return "; ".join(parts)


def cost_of(stages: Sequence[StageStatus], work: dict[str, StageWork], counts: dict[str, str], workers: int) -> Cost:
    """Return what the rest of a build will take.

    Parameters
    ----------
    stages : sequence of StageStatus
        Of those whose units are carried to workers.
    work : mapping of stage to StageWork
        What its units took so far.
    counts : mapping of stage to str
        What its units count: where the status counts something else, it counts units.
    workers : int
    """
    found = []
    for status in stages:
        left = status.planned - status.done
        if left:
            taken = work.get(status.stage, StageWork()).all
            found.append(_stage_cost(status, left, taken, by_unit=counts.get(status.stage) != status.unit))
    return Cost(workers, tuple(found))


def _stage_cost(status: StageStatus, left: int, taken: Taken, *, by_unit: bool) -> StageCost:
    if not taken.units:
        return StageCost(status.stage, status.unit, left, None)
    each_s = taken.seconds / (taken.units if by_unit else taken.made)
    return StageCost(status.stage, status.unit, left, each_s, taken.seconds / taken.units)
