"""What a build tells other programs while it runs: events as lines of JSON, and metrics that Prometheus reads."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from datagen.common.errors import InputError
from datagen.common.json_lines import event
from datagen.common.progress import LOG_SECONDS, announce
from datagen.flows.runners.contract import Answer, GivenUp, Job
from datagen.flows.runners.tracking import Tracker, Trackers

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

LogForm = Literal["text", "json"]
LOOPBACK = "127.0.0.1"  # what a build does is nobody else's business
_SECONDS = (0.01, 0.1, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000)


@contextmanager
def watched(log: LogForm = "text", metrics_port: int | None = None) -> Iterator[Tracker]:
    """Yield what a build has to tell for these options.

    Parameters
    ----------
    log : ``text`` or ``json``
        With ``json``, its events are logged; how is for whoever set up the log.
    metrics_port : int, optional
        Port of the loopback interface where Prometheus finds metrics as long as the block runs; 0: any that is free.

    Raises
    ------
    InputError
        If the port cannot be had.
    """
    with ExitStack() as opened:
        found: list[Tracker] = [EventTracker()] if log == "json" else []
        if metrics_port is not None:
            found.append(opened.enter_context(_served(metrics_port)))
        yield Trackers(*found)


class EventTracker(Tracker):
    """Logs an event for each thing that happens."""

    def __init__(self) -> None:
        self._stage, self._total, self._done = "", 0, 0
        self._began = self._told = time.monotonic()

    def planned(self, stage: str, jobs: Sequence[Job]) -> None:
        """Log that a stage begins, and how the one before it ended."""
        self._end_stage()
        self._stage, self._total, self._done = stage, sum(map(_weight, jobs)), 0
        self._began = self._told = time.monotonic()
        event("stage_started", stage=stage, units=len(jobs), total=self._total)

    def _end_stage(self) -> None:
        if self._stage:
            seconds = round(time.monotonic() - self._began, 3)
            event("stage_finished", stage=self._stage, done=self._done, total=self._total, seconds=seconds)
        self._stage = ""

    def done(self, job: Job, answer: Answer) -> None:
        """Log a unit that was made, and now and then how far the stage has got."""
        self._done += _weight(job)
        if answer.host:
            _log_unit("unit_done", job, answer)
        if time.monotonic() - self._told >= LOG_SECONDS:
            self._told = time.monotonic()
            event("progress", stage=self._stage, done=self._done, total=self._total)

    def early(self, job: Job, answer: Answer) -> None:
        """Log it as any other."""
        _log_unit("unit_done", job, answer)

    def given_up(self, given_up: GivenUp) -> None:
        """Log it, and why."""
        self._done += _weight(given_up.job)
        answer = given_up.answer
        event(
            "unit_given_up",
            answer.reason,
            logging.ERROR,
            stage=given_up.job.stage,
            unit=given_up.job.name,
            host=answer.host,
            tries=given_up.tries,
            traceback=answer.log,
        )

    def said(self, text: str) -> None:
        """Log a warning."""
        event("warning", text, logging.WARNING, stage=self._stage)

    def finished(self, result: BuildResult) -> None:
        """Log what came of it."""
        self._end_stage()
        event(
            "build_finished",
            dataset=str(result.dataset),
            quarantined=len(result.quarantined),
            samples=dict(result.samples),
            seconds={stage: round(seconds, 3) for stage, seconds in result.seconds.items()},
            verdicts=dict(result.verdicts),
            verified=result.verification.ok,
        )


def _weight(job: Job) -> int:
    return int(getattr(job.unit, "weight", 1))


def _log_unit(name: str, job: Job, answer: Answer) -> None:
    event(
        name,
        stage=job.stage,
        unit=job.name,
        made=answer.result if isinstance(answer.result, int) else None,
        host=answer.host,
        seconds=round(answer.seconds, 3),
        peak_bytes=answer.peak_bytes,
    )


class MetricsTracker(Tracker):
    """Counts for Prometheus, in a registry of its own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        by_stage: Any = {"labelnames": ("stage",), "namespace": "canonface", "registry": self.registry}
        by_host: Any = {**by_stage, "labelnames": ("stage", "host")}
        self._planned = Gauge("stage_planned", "What a stage counts, in all: frames, say", **by_stage)
        self._count = Gauge("stage_done", "How much of it is done, or was found finished", **by_stage)
        self._units = Counter("units_made", "Units that were made in this run", **by_host)
        self._failed = Counter("units_given_up", "Units that failed too often", **by_stage)
        self._seconds = Histogram("unit_seconds", "What a unit took", buckets=_SECONDS, **by_stage)
        self._peak = Gauge("peak_memory_bytes", "Most memory of a process that worked at a stage", **by_host)
        self._warnings = Counter("warnings", "Things said that a user might wonder about", **by_stage)
        self._finished = Gauge("build_finished", "Whether the build is", namespace="canonface", registry=self.registry)
        self._stage = ""
        self._peaks: dict[tuple[str, str], int] = {}

    def planned(self, stage: str, jobs: Sequence[Job]) -> None:
        """Say how much there is."""
        self._stage = stage
        self._planned.labels(stage).set(sum(map(_weight, jobs)))
        self._count.labels(stage).set(0)

    def done(self, job: Job, answer: Answer) -> None:
        """Count a unit."""
        self._count.labels(job.stage).inc(_weight(job))
        self.early(job, answer)

    def early(self, job: Job, answer: Answer) -> None:
        """Count what was made."""
        if not answer.result:
            return
        # Without the process: there may be thousands of them.
        place = job.stage, answer.host.partition(" ")[0]
        self._units.labels(*place).inc()
        self._seconds.labels(job.stage).observe(answer.seconds)
        self._peaks[place] = max(self._peaks.get(place, 0), answer.peak_bytes)
        self._peak.labels(*place).set(self._peaks[place])

    def given_up(self, given_up: GivenUp) -> None:
        """Count it."""
        self._failed.labels(given_up.job.stage).inc()
        self._count.labels(given_up.job.stage).inc(_weight(given_up.job))

    def said(self, text: str) -> None:
        """Count it."""
        del text
        self._warnings.labels(self._stage).inc()

    def finished(self, result: BuildResult) -> None:
        """Say so."""
        del result
        self._finished.set(1)


@contextmanager
def _served(port: int) -> Iterator[MetricsTracker]:
    from prometheus_client import start_http_server

    tracker = MetricsTracker()
    try:
        server, thread = start_http_server(port, LOOPBACK, tracker.registry)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no metrics can be served on port {port} of {LOOPBACK} ({error})",
            "a port that is free",
            "Choose another --metrics-port",
        ) from None
    announce("metrics", f"http://{LOOPBACK}:{server.server_port}/metrics")
    try:
        yield tracker
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
