"""What carries the tasks of a stage: the contract, and the plain loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from datagen.common.blas import available_cpus

Task = TypeVar("Task")
Result = TypeVar("Result")

RunnerName = Literal["threads", "dask", "serial"]


@dataclass(frozen=True)
class RunnerConfig:
    """How tasks are carried.

    Attributes
    ----------
    name : ``threads``, ``dask`` or ``serial``
        ``serial`` is a loop in this process, without Prefect.
    workers : int or None
        Tasks at a time; by default the number of CPUs. Not used with a Dask address.
    dask_address : str or None
        Scheduler to use instead of a local cluster.
    """

    name: RunnerName = "threads"
    workers: int | None = None
    dask_address: str | None = None

    @property
    def worker_count(self) -> int:
        """Tasks at a time."""
        if self.workers is not None:
            return self.workers
        return available_cpus()


class StageRunner(Protocol):
    """Carries out the tasks of one stage."""

    def run(
        self, stage: str, work: Callable[[Task], Result], tasks: Sequence[Task], done: Callable[[Task, Result], None]
    ) -> list[Result]:
        """Call ``work`` on every task.

        Parameters
        ----------
        stage : str
            Name of the stage.
        work : callable
            A module-level function; tasks and results must pickle.
        tasks : sequence
        done : callable
            Called in this thread with each task and its result as it finishes.

        Returns
        -------
        list
            Results in the order of ``tasks``.

        Raises
        ------
        Exception
            The first that ``work`` raises, unchanged; tasks not yet started are dropped.
        """
        ...


class SerialRunner:
    """A loop in this process."""

    def run(
        self, stage: str, work: Callable[[Task], Result], tasks: Sequence[Task], done: Callable[[Task, Result], None]
    ) -> list[Result]:
        """Carry out the contract of :class:`StageRunner`, one task after the other."""
        del stage
        results = []
        for task in tasks:
            results.append(work(task))
            done(task, results[-1])
        return results
