"""What a benchmark has to reach, and whether it did."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A limit for one figure.

    Attributes
    ----------
    figure : str
    limit : float
    at_least : bool
        The figure must be at least the limit; otherwise at most.
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
