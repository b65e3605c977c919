"""What the units of a build are carried by: what one needs and may cost, one try at it, and what comes of it.

:mod:`datagen.flows.runners.drive` decides which unit is tried when, how often, and what is given up; a :class:`Carrier`
only carries tries, here, in threads, or on the workers of a Dask cluster.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from datagen.common.blas import available_cpus
from datagen.common.errors import InputError
from datagen.flows.made import Made, nothing_made
from datagen.manifest import Needs

if TYPE_CHECKING:
    from datagen.flows.runners.preflight import Expected

RunnerName = Literal["threads", "dask", "serial"]
ClusterName = Literal["local", "slurm", "kubernetes"]
# Why a try failed. ``passing``: what carried it, or what it wrote to, may be well again in a moment. ``unit``: it would
# fail again. ``build``: so would every other. ``misfit``: this worker is not one of this build. ``bystander``: another
# unit took its worker with it, before this one had begun.
Trouble = Literal["passing", "unit", "build", "misfit", "bystander"]


@dataclass(frozen=True)
class RunnerConfig:
    """How units are carried.

    Attributes
    ----------
    name : ``threads``, ``dask`` or ``serial``
        ``serial`` is a loop in this process, without Prefect.
    workers : int or None
        Units at a time; by default the number of CPUs. Not used with a Dask address.
    dask_address : str or None
        Scheduler to use instead of a local cluster.
    max_failed : str
        How many units of a stage may be given up, as a number or, rounded up, in percent, as in "5%".
    dask_cluster : ``local``, ``slurm``, ``kubernetes`` or None
        What to start a Dask cluster on; by default this machine.
    dask_config : Path or None
        YAML with options of that cluster.

    Raises
    ------
    datagen.common.errors.InputError
        If they contradict each other.
    """

    name: RunnerName = "threads"
    workers: int | None = None
    dask_address: str | None = None
    max_failed: str = "5%"
    dask_cluster: ClusterName | None = None
    dask_config: Path | None = None

    def __post_init__(self) -> None:
        if self.dask_address and self.dask_cluster:
            raise InputError(
                f"--dask-address {self.dask_address} with --dask-cluster {self.dask_cluster}",
                "one of them: a scheduler that runs, or a cluster to be started",
                "Leave one out",
            )
        if self.dask_config and (self.dask_address or self.name != "dask"):
            raise InputError(
                f"--dask-config {self.dask_config} without a cluster that it could be of",
                "--dask-cluster local, slurm or kubernetes",
                "Name one, or leave the file out",
            )

    @classmethod
    def of(
        cls,
        runner: RunnerName,
        workers: int | None,
        dask_address: str | None,
        dask_cluster: ClusterName | None,
        dask_config: Path | None,
        max_failed: str,
    ) -> Self:
        """Return what was asked for: an address or a cluster of Dask implies its runner."""
        name: RunnerName = "dask" if dask_address or dask_cluster else runner
        return cls(name, workers, dask_address, max_failed, dask_cluster, dask_config)

    @property
    def worker_count(self) -> int:
        """Units at a time."""
        if self.workers is not None:
            return self.workers
        return available_cpus()


@dataclass(frozen=True)
class Job:
    """A unit to be worked at.

    Attributes
    ----------
    stage : str
    work : callable
        Takes the unit; what it returns has to be small. Both have to pickle.
    unit : object
        With a ``name`` and a ``weight``, as :class:`datagen.flows.stage.Unit`.
    needs : Needs
    split : callable
        Returns the unit in smaller parts, each a unit; one part alone cannot be parted.
    made : callable
        Returns what there is of the unit, as this process sees it; called in the worker's and in the driver's.
    disown : callable
        Takes the unit, if the driver does not believe what a worker made of it.
    """

    stage: str
    work: Callable[[Any], Any]
    unit: Any
    needs: Needs
    split: Callable[[Any], Sequence[Any]] = field(default=lambda unit: (unit,))
    made: Callable[[Any], Sequence[Made]] = nothing_made
    disown: Callable[[Any], object] = nothing_made

    @property
    def name(self) -> str:
        """The unit's."""
        return str(getattr(self.unit, "name", self.unit))

    @property
    def timeout_s(self) -> float | None:
        """How long a try may run; that of a large unit longer."""
        return self.needs.timeout_s and self.needs.timeout_s * max(1, getattr(self.unit, "weight", 1))


@dataclass(frozen=True)
class Call:
    """What goes along with a unit.

    Attributes
    ----------
    stage : str
    cpus : int
        How many processors it may use.
    expected : Expected or None
        What a worker in another process must be like.
    suspect : bool
        Whether it has to be known for certain that it began.
    made : callable or None
        The job's, where the driver compares what it returns.
    """

    stage: str
    cpus: int
    expected: Expected | None = None
    suspect: bool = False
    made: Callable[[Any], Sequence[Made]] | None = None


@dataclass(frozen=True)
class Answer:
    """What came of one try.

    Attributes
    ----------
    result : object
        None if it failed.
    trouble : Trouble or None
        None if it did not fail.
    error : Exception or None
        As it was raised; None if it does not travel, or there was none.
    reason, log : str
        In a line, and with all that is known.
    host : str
        Machine and process.
    seconds : float
    peak_bytes : int
        The most memory that the process has had so far; 0 if that is not known.
    code : str
        What worked at it, as :func:`datagen.flows.runners.preflight.own_code`; empty in this process.
    worker : str
        Its address; empty in this process.
    made : tuple of Made or None
        What the worker has of the unit now; None in this process, which has nothing to compare with.
    """

    result: Any = None
    trouble: Trouble | None = None
    error: Exception | None = None
    reason: str = ""
    log: str = ""
    host: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0
    code: str = ""
    worker: str = ""
    made: tuple[Made, ...] | None = None


@dataclass(frozen=True)
class GivenUp:
    """A unit that failed as often as it may.

    Attributes
    ----------
    job : Job
    answer : Answer
        Of the last try.
    tries : int
    """

    job: Job
    answer: Answer
    tries: int


class Carrier(ABC):
    """Carries tries; used as a context manager, from one thread."""

    name: ClassVar[RunnerName]
    # Tries begun beside those that are worked at, so that no worker waits for its next.
    spare: ClassVar[int] = 2

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many tries can be worked at now; may change."""

    @property
    @abstractmethod
    def cpus_each(self) -> int:
        """How many processors a try may use."""

    @abstractmethod
    def begin(self, ticket: int, job: Job, *, suspect: bool = False) -> None:
        """Have a unit tried; returns at once, unless this is the thread that works at it.

        Parameters
        ----------
        suspect : bool
            Whether it may be given up after this try: then it has to be certain what it was that failed.
        """

    @abstractmethod
    def ended(self, wait_s: float) -> list[tuple[int, Answer]]:
        """Return the tries that ended; waits for one if none did yet.

        Raises
        ------
        ServiceLostError
            If nothing can be carried any more.
        """

    @abstractmethod
    def running_s(self, ticket: int) -> float:
        """Return how long a try has been worked at; 0 while it waits."""

    @abstractmethod
    def abandon(self, ticket: int) -> str:
        """Forget a try, and free what works at it; return where that was."""

    def distrust(self, stage: str, answer: Answer) -> None:
        """Ask whoever gave an answer for nothing more of its stage; there is nobody else in one process."""
        del stage, answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del kind, error, traceback
