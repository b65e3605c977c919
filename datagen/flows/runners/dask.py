"""A carrier on the workers of a Dask cluster: one of this machine's own, or one that is there."""

from __future__ import annotations

import queue
import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, ClassVar

from datagen.common.errors import CanonfaceError, DependencyError, ServiceLostError
from datagen.common.progress import announce
from datagen.flows.runners.carry import Sealed, carry
from datagen.flows.runners.contract import Answer, Call, Carrier, Job, RunnerConfig, RunnerName
from datagen.flows.runners.dask_cluster import CLUSTERS, replace_lost_workers, start_cluster
from datagen.flows.runners.preflight import Expected, misfit

STARTED = "canonface-started"
LOOK_S = 2.0
SENT_S = 0.2
FETCH_S = 60.0
# An autoscaling cluster may take a while to send some.
NO_WORKER_S = 600.0
# So long there may be none but such that do not fit.
FIT_S = 60.0


class DaskCarrier(Carrier):
    """Workers in other processes, each looked at before its first unit; those that do not fit are left out.

    Parameters
    ----------
    config : RunnerConfig
    expected : Expected
        What they must be like.

    Raises
    ------
    DependencyError
        If no scheduler answers.
    """

    name: ClassVar[RunnerName] = "dask"

    def __init__(self, config: RunnerConfig, expected: Expected | None = None) -> None:
        self._config, self._expected = config, expected
        self._stack = ExitStack()
        self._ended: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._futures: dict[int, Any] = {}
        self._jobs: dict[int, Job] = {}
        self._begun: dict[int, tuple[float, str]] = {}
        self._suspects: set[int] = set()
        self._dead: list[tuple[int, Answer]] = []
        self._unplaced: dict[int, Call] = {}  # no worker fits that is there
        self._fit_at = time.monotonic()
        self._places: dict[int, set[str]] = {}  # of those that may go to certain workers only
        self._workers: dict[str, Any] = {}
        # In a queue, they may wait for as long as others' work takes.
        self._queued = CLUSTERS[config.dask_cluster or "local"].queued
        self._cluster: Any = None  # of our own
        self._looked = self._seen_any = time.monotonic()
        self._patience_s = LOOK_S
        # (address, stage): a worker may do for one stage and not for another.
        self._misfits: dict[tuple[str, str], str] = {}
        self._client = self._connected()
        self._look()
        self._warming = self._warm_up()

    def _connected(self) -> Any:
        import dask
        from distributed import Client

        try:
            if self._config.dask_address:
                client = Client(self._config.dask_address, set_as_default=False)
            else:
                # Whose unit it was when a worker died is for us to count.
                self._stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 0}))
                self._cluster = start_cluster(self._config)
                self._stack.callback(self._cluster.close, timeout=10)
                client = Client(self._cluster, set_as_default=False)
        except CanonfaceError:
            self._stack.close()
            raise
        except (OSError, TimeoutError, ValueError) as error:
            self._stack.close()
            reason = (str(error).strip().splitlines() or [""])[0][:160]
            raise DependencyError(
                f"Dask{self._where()} failed ({type(error).__name__}: {reason})",
                "a scheduler that answers",
                "Start it, or correct --dask-address; run the same command again, finished work is kept",
            ) from None
        self._stack.callback(client.close, timeout=10)
        client.subscribe_topic(STARTED, self._started)
        return client

    def _warm_up(self) -> list[Any]:
        """Have every worker load what it needs while nobody waits for it yet; it is looked at again with each unit."""
        if self._expected is None:
            return []
        return [
            self._client.submit(
                warmed_up, self._expected, workers=[address], key=f"warm-up-{uuid.uuid4().hex}", pure=False
            )
            for address in self._workers
        ]

    @property
    def scheduler_address(self) -> str:
        """Where other carriers find the same workers."""
        return str(self._client.scheduler_info(n_workers=0)["address"])

    def _started(self, event: tuple[float, Any]) -> None:
        # Called from the client's own thread.
        ticket, run, address = event[1]
        if run == id(self) and ticket in self._futures:
            self._begun[ticket] = time.monotonic(), address

    def _look(self) -> None:
        """Ask the scheduler who is there."""
        self._looked = time.monotonic()
        try:
            self._workers = dict(self._client.scheduler_info(n_workers=-1)["workers"])
        except (OSError, TimeoutError, KeyError) as error:
            # Of a scheduler that is gone, the client knows nothing at all.
            raise self._lost(None if isinstance(error, KeyError) else error) from None
        if self._client.status not in ("running", "newly-created", "connecting"):
            raise self._lost(None)
        if self._cluster is not None:
            replace_lost_workers(self._cluster)
        if self._workers:
            self._seen_any, self._patience_s = self._looked, LOOK_S
        elif not self._queued and self._looked - self._seen_any > NO_WORKER_S:
            raise ServiceLostError(
                f"the Dask scheduler{self._where()} has had no worker for {NO_WORKER_S / 60:.0f} minutes",
                "workers that stay",
                "Start some, and run the same command again; finished work is kept",
            )
        elif self._looked - self._seen_any > self._patience_s:
            # Again after a while: jobs of a queue may have ended before a worker began.
            self._patience_s = self._looked - self._seen_any + NO_WORKER_S
            announce("dask", f"the scheduler{self._where()} has no worker; waiting for one")

    def _where(self) -> str:
        if self._config.dask_cluster:
            return f" of the {self._config.dask_cluster} cluster"
        return f" at {self._config.dask_address}" if self._config.dask_address else ""

    def _lost(self, error: BaseException | None) -> ServiceLostError:
        said = f" ({type(error).__name__}: {error})" if error is not None else ""
        return ServiceLostError(
            f"the Dask scheduler{self._where()} is gone{said}",
            "a scheduler that stays",
            "Start it, and run the same command again; finished work is kept",
        )

    @property
    def slots(self) -> int:
        """Threads of the workers that fit; one while there is none, so that something waits for it."""
        bad = {address for address, _ in self._misfits}
        return max(1, sum(info["nthreads"] for address, info in self._workers.items() if address not in bad))

    @property
    def cpus_each(self) -> int:
        """One: what a machine's workers share is for whoever starts them to say (`needs.<stage>.cpus`)."""
        return 1

    def begin(self, ticket: int, job: Job, *, suspect: bool = False) -> None:
        """Hand it to the scheduler."""
        call = Call(job.stage, job.needs.cpus or self.cpus_each, suspect=suspect)
        if self._expected is not None:
            call = replace(call, expected=replace(self._expected, stage=job.stage), made=job.made)
        self._jobs[ticket] = job
        if suspect:
            self._suspects.add(ticket)
        self._submit(ticket, job, call)

    def _submit(self, ticket: int, job: Job, call: Call) -> None:
        resources: dict[str, float] = {}
        if job.needs.gpus:
            resources["GPU"] = job.needs.gpus
        if job.needs.memory_gib:
            resources["MEMORY_GIB"] = job.needs.memory_gib
        options: dict[str, Any] = {"resources": resources} if resources else {}
        for name, amount in resources.items():
            if self._workers and not any(i.get("resources", {}).get(name, 0) >= amount for i in self._workers.values()):
                raise DependencyError(
                    f"needs.{job.stage} asks for {name} {amount:g}, which none of {len(self._workers)} workers offers",
                    f"workers started with --resources {name}={amount:g}",
                    "Start some, or lower what the manifest asks for",
                )
        bad = {address for address, stage in self._misfits if stage == job.stage}
        if bad:
            places = self._workers.keys() - bad
            if not places:
                # One that fits may be on its way.
                self._unplaced[ticket] = call
                return
            options["workers"] = sorted(places)
            self._places[ticket] = places
        future = self._client.submit(
            started_and_carried,
            (ticket, id(self)),
            job.work,
            Sealed(job.unit),
            call,
            key=f"{job.stage}-{uuid.uuid4().hex}",
            pure=False,
            **options,
        )
        self._futures[ticket] = future
        future.add_done_callback(lambda done, ticket=ticket: self._ended.put((ticket, done)))

    def ended(self, wait_s: float) -> list[tuple[int, Answer]]:
        """Take what came back."""
        if time.monotonic() - self._looked > LOOK_S:
            self._look()
            self._free_the_stranded()
        dead, self._dead = self._dead, []
        if dead:
            return dead
        try:
            ended = [self._ended.get(timeout=wait_s)]
        except queue.Empty:
            return []
        while not self._ended.empty():
            ended.append(self._ended.get())
        answers = [(ticket, self._answer(ticket, future)) for ticket, future in ended]
        return [(ticket, answer) for ticket, answer in answers if answer is not None]

    def _free_the_stranded(self) -> None:
        """Place what has no place, or may go to certain workers only, which are gone."""
        unplaced, self._unplaced = self._unplaced, {}
        for ticket, call in unplaced.items():
            self._submit(ticket, self._jobs[ticket], call)
        if not self._unplaced:
            self._fit_at = time.monotonic()
        elif self._workers and time.monotonic() - self._fit_at > FIT_S:
            stage = self._jobs[next(iter(self._unplaced))].stage
            reasons = sorted({f"{a}: {why}" for (a, s), why in self._misfits.items() if s == stage})
            raise DependencyError(
                f"none of {len(self._workers)} Dask workers can do the {stage} of this build ({reasons[0]})",
                "workers with the same environment as this process, that see the build folder and the captures under "
                "the same paths",
                "Mend or stop them, and run the same command again; finished work is kept",
            )
        for ticket, (_, address) in list(self._begun.items()):
            if address not in self._workers:
                # The scheduler may be trying it elsewhere, if it may: how often is for us to count.
                reason = "the worker that had it died (killed, out of memory, or its machine is gone)"
                self._dead.append(
                    (ticket, Answer(trouble="passing", reason=reason, log=reason, host=f"worker {address}"))
                )
                self._drop(ticket)
        for ticket, places in list(self._places.items()):
            if ticket in self._futures and ticket not in self._begun and not places & self._workers.keys():
                self._forget(ticket)
                self.begin(ticket, self._jobs[ticket], suspect=ticket in self._suspects)

    def _drop(self, ticket: int) -> None:
        """Forget a try for good."""
        self._forget(ticket)
        self._jobs.pop(ticket, None)
        self._suspects.discard(ticket)

    def _answer(self, ticket: int, future: Any) -> Answer | None:
        """Return what came of a try; None if it was forgotten meanwhile."""
        if ticket not in self._futures or self._futures[ticket] is not future:
            return None
        address = self._begun.get(ticket, (0.0, ""))[1]
        host = f"worker {address}" if address else ""
        try:
            answer: Answer = future.result(timeout=FETCH_S)
        except Exception as error:
            names = {kind.__name__ for kind in type(error).__mro__}
            # What does not get as far as our own code.
            if "KilledWorker" in names:
                reason = "the worker that had it died (killed, or out of memory)"
            elif names & {"FutureCancelledError", "CancelledError", "TimeoutError", "CommClosedError"}:
                self._look()
                reason = f"it was lost on its way ({type(error).__name__})"
            else:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            # One that had certainly not begun has nothing to do with it.
            innocent = "KilledWorker" in names and ticket in self._suspects and not address
            answer = Answer(trouble="bystander" if innocent else "passing", reason=reason, log=reason, host=host)
        if self._expected is not None and answer.trouble is None and answer.code != self._expected.code:
            answer = replace(answer, trouble="misfit", reason="it runs another version of the program")
        job = self._jobs[ticket]
        self._drop(ticket)
        if answer.trouble == "misfit":
            self.distrust(job.stage, answer)
        return answer

    def distrust(self, stage: str, answer: Answer) -> None:
        """Leave a worker out of a stage, and say why."""
        address = answer.worker
        if (address, stage) not in self._misfits:
            self._misfits[address, stage] = answer.reason
            announce("dask", f"worker {address} on {answer.host} is left out of the {stage}: {answer.reason}")

    def running_s(self, ticket: int) -> float:
        """Since its worker said that it began."""
        begun = self._begun.get(ticket)
        return 0.0 if begun is None else time.monotonic() - begun[0]

    def abandon(self, ticket: int) -> str:
        """Have the worker started anew: nothing less stops what it works at."""
        _, address = self._begun.get(ticket, (0.0, ""))
        self._drop(ticket)
        if address:
            with suppress(Exception):
                self._client.restart_workers([address], timeout=30, raise_for_error=False)
        return f"worker {address}"

    def _forget(self, ticket: int) -> None:
        future = self._futures.pop(ticket, None)
        self._begun.pop(ticket, None)
        self._places.pop(ticket, None)
        self._unplaced.pop(ticket, None)
        if future is not None:
            with suppress(Exception):
                future.cancel(force=True) if not future.done() else future.release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let go of everything."""
        for ticket in list(self._futures):
            self._forget(ticket)
        with suppress(Exception):
            self._stack.close()


def warmed_up(expected: Expected) -> None:
    """Import the program, and load what a look at this process needs."""
    with suppress(Exception):
        misfit(expected)


def started_and_carried(of: tuple[int, int], work: Any, sealed: Sealed, call: Call) -> Answer:
    """Body of every task: try the unit, and say when it begins."""
    from distributed import get_worker

    worker = get_worker()

    def began() -> None:
        worker.log_event(STARTED, (*of, worker.address))
        if call.suspect:
            # What is told is sent in bundles: it has to be out before this process may die.
            time.sleep(SENT_S)

    return replace(carry(work, sealed, call, began), worker=worker.address)
