"""Whoever wants to know how a build goes on: told, never asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from datagen.flows.runners.contract import GivenUp, Job

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult


class Tracker:
    """Told of everything, and does nothing about it."""

    def planned(self, stage: str, jobs: Sequence[Job]) -> None:
        """A stage begins, with these units."""

    def done(self, job: Job) -> None:
        """A unit is done."""

    def given_up(self, given_up: GivenUp) -> None:
        """A unit failed too often, and is left out."""

    def said(self, text: str) -> None:
        """Something a user might wonder about."""

    def finished(self, result: BuildResult) -> None:
        """The build is."""
