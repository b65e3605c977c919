"""What a stage of a build is, and how far one has got.

A new stage is one file under ``stages`` and one line in :data:`datagen.flows.stages.STAGES`: the build, ``status``,
``requeue`` and the question whether anything is left to do all walk that list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from datagen.common.blas import use_one_blas_thread
from datagen.common.errors import InputError
from datagen.common.files import DISK_ERRORS, storage_errors
from datagen.fit.stored import FittedCaptures
from datagen.flows.known_inputs import KnownInputs
from datagen.flows.made import Made
from datagen.flows.plan_store import Sequences, freeze, open_plan
from datagen.flows.planning import BuildPlan
from datagen.flows.state_index import open_index
from datagen.flows.worker import fitted_captures, shared_head
from datagen.heads.base import HeadModel
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.sources.frame import SequenceKey

NAMED = 5


class Task(ABC):
    """One piece of a stage's work, as it is carried: a unit itself, or a reference to one.

    Attributes
    ----------
    root : Path
        The build folder.
    """

    root: Path

    @property
    @abstractmethod
    def name(self) -> str:
        """Name used in messages."""

    @property
    def weight(self) -> int:
        """How many it adds to what its stage counts."""
        return 1

    @property
    @abstractmethod
    def unit(self) -> Any:
        """The unit that it is or refers to.

        Raises
        ------
        datagen.common.errors.InputError
            If the plan it refers to cannot be read.
        """

    @property
    def layout(self) -> BuildLayout:
        """The build folder's."""
        return BuildLayout(self.root)


@dataclass(frozen=True)
class Unit(Task):
    """All that a worker needs to do one piece of a stage's work.

    Attributes
    ----------
    manifest : Manifest
    """

    root: Path
    manifest: Manifest

    @property
    def unit(self) -> Self:
        """Itself."""
        return self

    def captures(self) -> FittedCaptures:
        """Open the captures of the build, with the heads that were fitted to pictures."""
        manifest = self.manifest
        return fitted_captures(manifest.source, self.layout, manifest.canonical.head, manifest.head_root)

    def inputs(self) -> KnownInputs:
        """Return what is known of the captures' files."""
        return KnownInputs(self.root, self.manifest.source, self.captures())

    def stamp(self, key: SequenceKey, frame: int) -> str:
        """Return what tells the captures' files of a frame from others; see :meth:`Captures.stamp`."""
        try:
            return self.captures().stamp(key, frame)
        except InputError:
            return "not there"

    def head(self) -> HeadModel:
        """Return the canonical head."""
        return shared_head(self.manifest.canonical.head, self.manifest.head_root)


@dataclass(frozen=True)
class Reference(Task):
    """What is sent to workers of a unit: some hundred bytes; the plan it refers to lies in the build folder.

    Attributes
    ----------
    plan : str
        Digest of the plan.
    """

    root: Path
    plan: str

    @property
    def planned(self) -> Sequences:
        """The plan it refers to."""
        return open_plan(self.root, self.plan)


@dataclass(frozen=True)
class StageStatus:
    """How far one stage has got.

    Attributes
    ----------
    stage, unit : str
        Its name, and what it counts.
    done, planned : int
    missing : tuple of str
        Names of what is not done.
    why : str
        Why something is missing, or what was left out of it; empty if there is nothing to say.
    """

    stage: str
    unit: str
    done: int
    planned: int
    missing: tuple[str, ...] = ()
    why: str = ""

    @property
    def percent(self) -> int:
        """Share that is done, rounded down: 100 means all."""
        return 100 * self.done // self.planned if self.planned else 100

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {**vars(self), "missing": list(self.missing), "percent": self.percent}

    def __str__(self) -> str:
        text = f"{self.percent:3d} %  {self.done} of {self.planned} {self.unit}"
        if self.missing:
            more = len(self.missing) - NAMED
            text += f"; missing: {', '.join(self.missing[:NAMED])}" + (f" and {more} more" if more > 0 else "")
        return text + (f" ({self.why})" if self.why else "")


U = TypeVar("U", bound=Task)
R = TypeVar("R")


class Stage(ABC, Generic[U, R]):
    """One step of a build. It holds no state: what it makes lies in the build folder, and so does what it needs.

    Attributes
    ----------
    name : str
    counts : str
        What its progress counts.
    doing : str
        What it does with a unit, as in "warping".
    carried : bool
        Whether its units are carried to workers. Those of other stages are done by the build itself, in every run.
    makes_results : bool
        Whether what the dataset is planned from may change by its work.
    inquires : bool
        Whether :meth:`suspects` may say what a unit failed for.
    """

    name: ClassVar[str]
    counts: ClassVar[str]
    doing: ClassVar[str]
    carried: ClassVar[bool] = True
    makes_results: ClassVar[bool] = True
    inquires: ClassVar[bool] = False

    def applies(self, plan: BuildPlan) -> bool:
        """Whether a build has this stage at all."""
        del plan
        return True

    @abstractmethod
    def plan(self, plan: BuildPlan, layout: BuildLayout) -> Sequence[U]:
        """Return its units, or references to them; called when the stages before it are finished.

        It finds their results on the disk, and writes nothing.

        Raises
        ------
        datagen.common.errors.InputError
            If something a unit needs is missing or broken.
        """

    def begin(self, plan: BuildPlan, layout: BuildLayout) -> None:
        """Do what has to be on the disk before its units run; called by the build, which alone may write then.

        What tasks refer to is written here; a stage that does more calls this too.

        Raises
        ------
        datagen.common.errors.StorageError
            If the disk refuses.
        """
        if self.carried:
            index = open_index(layout.root)
            if index is not None and self.makes_results and not index.settled:
                index.changed()
            freeze(plan, layout)

    def early(self, plan: BuildPlan, layout: BuildLayout, settled: int) -> Sequence[U]:
        """Return what can be begun while the stage before it goes on; :meth:`plan` has the last word.

        Parameters
        ----------
        settled : int
            How many sequences of the plan, from the first, that stage is done with.
        """
        del plan, layout, settled
        return ()

    @abstractmethod
    def finished(self, unit: U) -> bool:
        """Whether all of a unit is whole on disk, and made from what it would be made from now."""

    def known(self, unit: U) -> bool:
        """Whether the build's index knows that a unit is finished: a quick look, for which nothing is read."""
        del unit
        return False

    @abstractmethod
    def make(self, unit: U) -> R:
        """Make the unfinished part of a unit; return how much that was, or another small result."""

    def made(self, unit: U) -> Sequence[Made]:
        """Return what there is of a unit, as this process sees it: a driver compares it with what a worker says.

        Called after :meth:`make`; no inputs are read.
        """
        return (Made(unit.name, "finished" if self.finished(unit) else ""),)

    def disown(self, unit: U) -> None:
        """Have a unit made again whose result is not believed, if its content key would not have it."""
        del unit

    def split(self, unit: U) -> Sequence[U]:
        """Return a unit in smaller ones, so that one bad frame does not take others with it; itself if it cannot be."""
        return (unit,)

    def suspects(self, unit: U) -> Sequence[U]:
        """Return what a unit may have failed for, each to be tried by itself; its name is its own, it makes nothing."""
        del unit
        return ()

    def without(self, unit: U, guilty: Sequence[U]) -> U | None:
        """Return a unit without those of its suspects that failed; None if nothing is left to be made."""
        del unit, guilty
        return None

    def leaves_out(self, unit: U) -> Sequence[tuple[SequenceKey, int]]:
        """Return the frames a build can go on without if a unit is given up; none if it cannot go on."""
        del unit
        return ()

    def run(self, unit: U) -> R:
        """Call :meth:`make` as every worker does: with one BLAS thread, and disk errors in plain words.

        Raises
        ------
        datagen.common.errors.StorageError
            If the disk refuses.
        """
        use_one_blas_thread()
        with storage_errors(f"{self.doing} {unit.name}", only=DISK_ERRORS):
            return self.make(unit)

    def stale(self, layout: BuildLayout, units: Sequence[U]) -> list[Path]:
        """Return the folders of its results that belong to no unit any more; the build removes them."""
        del layout, units
        return []

    def strangers(self, plan: BuildPlan, layout: BuildLayout) -> list[Path]:
        """Return what is in the way of its results and not ours, at a quick look; a build that would begin refuses it.

        Raises
        ------
        OSError
            If the disk refuses.
        """
        del plan, layout
        return []

    @abstractmethod
    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        """Say how far it has got, from what is on disk and nothing else: no head is loaded, no input read.

        Raises
        ------
        datagen.common.errors.StorageError
            If the disk refuses.
        """

    def forget(self, plan: BuildPlan, layout: BuildLayout, frames: set[tuple[SequenceKey, int]]) -> list[str]:
        """Forget its results for frames, so that they are made again; return the names of what is forgotten."""
        del plan, layout, frames
        return []

    def _status(self, planned: int, missing: Sequence[str], why: str) -> StageStatus:
        done = planned - len(missing)
        return StageStatus(self.name, self.counts, done, planned, tuple(missing), why if missing else "")
