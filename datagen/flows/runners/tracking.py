"""Whoever wants to know how a build goes on: told, never asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from datagen.flows.runners.contract import Answer, GivenUp, Job

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult


class Tracker:
    """Told of everything, and does nothing about it."""

    def ready(self) -> None:
        """Return as soon as somebody listens; whatever it is told before that waits for them."""

    def planned(self, stage: str, jobs: Sequence[Job]) -> None:
        """A stage begins, with these units."""

    def done(self, job: Job, answer: Answer) -> None:
        """A unit is done; one that was known to be finished has an answer without a result."""

    def early(self, job: Job, answer: Answer) -> None:
        """A unit of the next stage is done already, which will be found finished there."""

    def given_up(self, given_up: GivenUp) -> None:
        """A unit failed too often, and is left out."""

    def said(self, text: str) -> None:
        """Something a user might wonder about."""

    def finished(self, result: BuildResult) -> None:
        """The build is."""


class Trackers(Tracker):
    """Several of them, told one after another.

    Parameters
    ----------
    *trackers : Tracker
    """

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def planned(self, stage: str, jobs: Sequence[Job]) -> None:
        """Tell all of them."""
        for tracker in self._trackers:
            tracker.planned(stage, jobs)

    def done(self, job: Job, answer: Answer) -> None:
        """Tell all of them."""
        for tracker in self._trackers:
            tracker.done(job, answer)

    def early(self, job: Job, answer: Answer) -> None:
        """Tell all of them."""
        for tracker in self._trackers:
            tracker.early(job, answer)

    def given_up(self, given_up: GivenUp) -> None:
        """Tell all of them."""
        for tracker in self._trackers:
            tracker.given_up(given_up)

    def said(self, text: str) -> None:
        """Tell all of them."""
        for tracker in self._trackers:
            tracker.said(text)

    def finished(self, result: BuildResult) -> None:
        """Tell all of them."""
        for tracker in self._trackers:
            tracker.finished(result)
