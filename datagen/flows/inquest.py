"""What one bad frame takes with it: the units that it fails, tried again without it once it is found."""

from __future__ import annotations

from dataclasses import dataclass, field

from datagen.flows.runners.contract import GivenUp, Job


@dataclass
class Inquest:
    """Why a unit that is made of several frames failed as often as it may.

    Each of them is tried by itself. Those that fail too are guilty, and the unit is tried without them; a unit that
    fails with none to blame is what failed.

    Attributes
    ----------
    job : Job
        The whole unit, as it was planned.
    failure : GivenUp
        The last of it.
    open : set of str
        Suspects that are being tried.
    cleared : set of str
        Suspects that did not fail.
    guilty : list of GivenUp
        Suspects that did.
    """

    job: Job
    failure: GivenUp
    open: set[str] = field(default_factory=set)
    cleared: set[str] = field(default_factory=set)
    guilty: list[GivenUp] = field(default_factory=list)

    def begin(self, failure: GivenUp, suspects: set[str]) -> None:
        """Begin a round: these are tried one by one."""
        self.failure, self.open, self.guilty = failure, set(suspects), []

    def ended(self, name: str, failure: GivenUp | None = None) -> bool:
        """Say what came of a suspect; return whether it was the last."""
        self.open.discard(name)
        if failure is None:
            self.cleared.add(name)
        else:
            self.guilty.append(failure)
        return not self.open

    @property
    def blames_frames(self) -> bool:
        """Whether some frames are to blame; where every one of them failed, it is nothing about a frame."""
        return bool(self.guilty) and bool(self.cleared)
