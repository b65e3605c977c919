"""Carriers in this process: a plain loop, and threads."""

from __future__ import annotations

import queue
import threading
import time
from types import TracebackType
from typing import ClassVar

from datagen.common.blas import available_cpus
from datagen.flows.runners.carry import Sealed, carry
from datagen.flows.runners.contract import Answer, Call, Carrier, Job, RunnerName


class SerialCarrier(Carrier):
    """A loop in this thread: a try begun is a try that has ended. Nothing can be abandoned."""

    name: ClassVar[RunnerName] = "serial"
    spare: ClassVar[int] = 0

    def __init__(self) -> None:
        self._ended: list[tuple[int, Answer]] = []

    @property
    def slots(self) -> int:
        """One."""
        return 1

    @property
    def cpus_each(self) -> int:
        """All there are."""
        return available_cpus()

    def begin(self, ticket: int, job: Job, *, suspect: bool = False) -> None:
        """Work at it."""
        del suspect
        call = Call(job.stage, job.needs.cpus or self.cpus_each)
        self._ended.append((ticket, carry(job.work, Sealed(job.unit), call)))

    def ended(self, wait_s: float) -> list[tuple[int, Answer]]:
        """Return what was begun."""
        del wait_s
        ended, self._ended = self._ended, []
        return ended

    def running_s(self, ticket: int) -> float:
        """Nothing runs while anyone could ask."""
        del ticket
        return 0.0

    def abandon(self, ticket: int) -> str:
        """Nothing to abandon: it has ended."""
        del ticket
        return ""


class ThreadCarrier(Carrier):
    """Threads of this process. One that hangs is left to itself, and another takes its place.

    Parameters
    ----------
    workers : int
        Tries at a time.
    """

    name: ClassVar[RunnerName] = "threads"

    def __init__(self, workers: int) -> None:
        self._slots = workers
        self._waiting: queue.SimpleQueue[tuple[int, Job] | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
        self._begun: dict[int, tuple[float, threading.Thread]] = {}
        self._threads: set[threading.Thread] = set()
        self._hanging: set[threading.Thread] = set()

    @property
    def slots(self) -> int:
        """As many as there are threads, but for those that hang."""
        return self._slots

    @property
    def cpus_each(self) -> int:
        """The processors, shared out."""
        return max(1, available_cpus() // self._slots)

    def begin(self, ticket: int, job: Job, *, suspect: bool = False) -> None:
        """Put it in the queue, with a thread more if there may be one."""
        del suspect
        if len(self._threads) < self._slots:
            # Not joined when the interpreter ends: one that hangs would keep it for ever.
            thread = threading.Thread(target=self._work, name="worker", daemon=True)
            self._threads.add(thread)
            thread.start()
        self._waiting.put((ticket, job))

    def _work(self) -> None:
        me = threading.current_thread()
        while (item := self._waiting.get()) is not None:
            ticket, job = item
            self._begun[ticket] = time.monotonic(), me
            answer = carry(job.work, Sealed(job.unit), Call(job.stage, job.needs.cpus or self.cpus_each))
            if me in self._hanging:
                return
            self._begun.pop(ticket, None)
            self._ended.put((ticket, answer))

    def ended(self, wait_s: float) -> list[tuple[int, Answer]]:
        """Take what the threads put down."""
        try:
            ended = [self._ended.get(timeout=wait_s)]
        except queue.Empty:
            return []
        while not self._ended.empty():
            ended.append(self._ended.get())
        return ended

    def running_s(self, ticket: int) -> float:
        """Since a thread took it."""
        begun = self._begun.get(ticket)
        return 0.0 if begun is None else time.monotonic() - begun[0]

    def abandon(self, ticket: int) -> str:
        """Leave the thread to itself, and have another take its place: nothing can stop it."""
        begun = self._begun.pop(ticket, None)
        if begun is not None:
            self._hanging.add(begun[1])
            self._threads.discard(begun[1])
        return "a thread of this process, which may hang until the end"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drop what waits, and let what is worked at come to its end, so that nothing is left half-written."""
        while not self._waiting.empty():
            self._waiting.get()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
