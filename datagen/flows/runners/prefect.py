"""Prefect at the rim: it is told how a build goes on, and its pages show it. Nothing is read back from it.

A build goes on without it if its server goes away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from datagen.common.documents import read_json
from datagen.common.errors import DependencyError
from datagen.common.progress import announce
from datagen.flows.runners.aside import told_aside
from datagen.flows.runners.contract import Answer, GivenUp, Job, RunnerConfig
from datagen.flows.runners.local_api import LocalApi, answers
from datagen.flows.runners.prefect_pictures import worst_pictures
from datagen.flows.runners.tracking import Tracker
from datagen.layout import BuildLayout
from datagen.manifest import Manifest

if TYPE_CHECKING:
    from datagen.flows.result import BuildResult

Value = TypeVar("Value")

API_URL = "PREFECT_API_URL"
EVENTS_SECONDS = 20.0
# Parts that Prefect watches at a time, each from a thread that waits.
WATCHED = 64
UNITS_A_PART = 32
PROGRESS_S = 5.0
WORST_FRAMES = 20
_CLIENT = {"httpx", "httpcore"}  # what Prefect speaks to its server with
# Only where the user has not decided otherwise. Prefect's own lines would repeat ours, with a traceback in front.
DEFAULTS = {
    "DASK_LOGGING__DISTRIBUTED": "critical",
    "DO_NOT_TRACK": "1",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "CRITICAL",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
}


@contextmanager
def told_prefect(home: Path, name: str, root: Path, manifest: Manifest, config: RunnerConfig) -> Iterator[Tracker]:
    """Yield who is told how a build goes on; a flow run has it as soon as there is a server. The build waits for none.

    Parameters
    ----------
    home : Path
        As :func:`prefect_session` takes it.
    name, root, manifest, config
        As :func:`run_as_flow` takes them.

    Raises
    ------
    DependencyError
        If the user's own server does not answer. One of ours that does not start is only said.
    """
    from prefect.context import FlowRunContext

    if FlowRunContext.get() is not None:
        # A deployment runs: the flow is there already.
        with PrefectTracker() as tracker:
            yield tracker
        return
    url = os.environ.get(API_URL)
    if url and not answers(url):
        raise _no_answer("no answer")

    def listen(tell: Callable[[Tracker], None]) -> None:
        with prefect_session(home):
            run_as_flow(name, root, manifest, config, tell)

    with _default_environment(_defaults(home)):
        try:
            with told_aside("prefect", listen) as aside:
                yield aside
        finally:
            # Whatever it was not told by now, it is not told.
            _forget_events()


@contextmanager
def prefect_session(home: Path) -> Iterator[None]:
    """Give this process a Prefect API: the user's, or one that lives as long as the block.

    Parameters
    ----------
    home : Path
        Where Prefect keeps its files, unless ``PREFECT_HOME`` says otherwise.

    Raises
    ------
    DependencyError
        If a server of our own does not start.
    """
    with _default_environment(_defaults(home)):
        url = os.environ.get(API_URL)
        api = None if url else LocalApi(home)
        try:
            if api is not None:
                api.wait()
            from prefect.settings import PREFECT_API_URL, temporary_settings

            # Set explicitly: Prefect reads the environment only once, when it is first imported.
            with temporary_settings({PREFECT_API_URL: url or (api.url if api else None)}):
                try:
                    yield
                finally:
                    _send_last_events()
        finally:
            if api is not None:
                api.stop()


def _defaults(home: Path) -> dict[str, str]:
    return {**DEFAULTS, "PREFECT_HOME": str(home.resolve())}


def _send_last_events() -> None:
    # Prefect sends events from a thread that it joins when the interpreter exits: by then a server of ours would be
    # gone, and the exit would wait for it.
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=EVENTS_SECONDS, at_exit=False)
    _forget_events()


def _forget_events() -> None:
    # The interpreter's exit waits until each event is sent or has failed, which without a server takes seconds for each
    # and prints it whole.
    from prefect._internal.concurrency.services import _active_services

    services = [service for service in tuple(_active_services) if service._loop is not None]
    if not services:
        return

    def cancel() -> None:
        for task in asyncio.all_tasks():
            if getattr(task.get_coro(), "__qualname__", "").endswith("QueueServiceBase._run"):
                task.cancel()

    for loop in {service._loop for service in services}:
        if loop is not None and loop.is_running():
            loop.call_soon_threadsafe(cancel)


@contextmanager
def _default_environment(defaults: Mapping[str, str]) -> Iterator[None]:
    # Prefect reads its settings from the environment when it is imported, and so do the processes it starts.
    added = [name for name in defaults if name not in os.environ]
    os.environ.update({name: defaults[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def run_as_flow(
    name: str, root: Path, manifest: Manifest, config: RunnerConfig, body: Callable[[Tracker], Value]
) -> Value:
    """Run ``body`` as the Prefect flow ``build``; parts of its stages become task runs.

    Parameters
    ----------
    name : str
        Name of the flow run.
    root : Path
        The build folder. Runs of it that Prefect takes to go on still are marked as crashed: their driver is dead,
        for this process holds the folder.
    body : callable
        Takes who is told how it goes on.

    Returns
    -------
    What ``body`` returns.

    Raises
    ------
    DependencyError
        If Prefect's server does not answer when the run begins.
    Exception
        Whatever ``body`` raises, unchanged.
    """
    import prefect
    from prefect.task_runners import ThreadPoolTaskRunner

    from datagen.flows import prefect_flow

    outcome: list[Value] = []
    raised: list[BaseException] = []

    def inside() -> None:
        try:
            with PrefectTracker() as tracker:
                outcome.append(body(tracker))
        except BaseException as error:
            raised.append(error)
            raise

    tags = {f"manifest:{manifest.name}", f"folder:{root}"}
    token = prefect_flow.BODY.set(inside)
    try:
        _mark_crashed(f"folder:{root}")
        runner: Any = ThreadPoolTaskRunner(max_workers=WATCHED)
        with prefect.tags(*tags):
            # What is told here is told once: a build that failed is run again by who began it.
            prefect_flow.build.with_options(flow_run_name=name, task_runner=runner, retries=0)(
                manifest=manifest.name,
                out=str(root),
                runner=config.name,
                workers=config.workers,
                dask_address=config.dask_address,
                dask_cluster=config.dask_cluster,
                dask_config=None if config.dask_config is None else str(config.dask_config),
                max_failed=config.max_failed,
            )
    except Exception as error:
        if raised:
            # Prefect, or what went wrong on the way to it, must not hide what ended the build.
            raise raised[0] from None
        if not outcome:
            lost = _lost_service(error)
            raise lost from error if lost is not error else None
        announce("prefect", f"the build is done; its run page is not ({_first_line(error)})")
    finally:
        prefect_flow.BODY.reset(token)
    return outcome[0]


def _mark_crashed(tag: str) -> None:
    """Mark the runs of a folder that seem to go on as crashed."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    wanted = {"tags": {"all_": [tag]}, "state": {"type": {"any_": [StateType.RUNNING, StateType.PENDING]}}}
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted)):
            state: Any = Crashed(message="The process that drove this build is gone; another took it up.")
            client.set_flow_run_state(run.id, state, force=True)


def _lost_service(error: Exception) -> Exception:
    """Return an error of Prefect's server as one of ours; itself if it is anything else."""
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    if not packages & {"prefect", *_CLIENT}:
        return error
    return _no_answer(_first_line(error))


def _no_answer(reason: str) -> DependencyError:
    return DependencyError(
        f"the Prefect server failed ({reason}); {API_URL} is {os.environ.get(API_URL)}",
        "a server that answers",
        f"Start it, or unset {API_URL}; run the same command again, finished work is kept",
    )


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"


class _Part:
    """Some units of a stage, until the last of them is done."""

    def __init__(self, weight: int) -> None:
        self._left = weight
        self._problems: list[str] = []
        self._over = threading.Event()

    def ended(self, weight: int, problem: str = "") -> bool:
        """Say that a unit is done, or what became of it; return whether it was the last."""
        self._left -= weight
        if problem:
            self._problems.append(problem)
        if self._left <= 0:
            self._over.set()
        return self._left <= 0

    def drop(self) -> None:
        """Say that nothing more will come."""
        self._problems.append("the build ended before it was done")
        self._over.set()

    def wait(self) -> str:
        """Wait for the last, and return what went wrong."""
        self._over.wait()
        return "; ".join(self._problems)


class PrefectTracker(Tracker):
    """Tells the flow run it is used in: a task run for each part of a stage, progress, warnings, and what came of it.

    Whatever goes wrong with that is none of the build's business: it is said once, and nothing more is told.
    """

    def __init__(self) -> None:
        self._watched: dict[str, _Part] = {}
        self._ahead: deque[str] = deque()
        self._sizes: Counter[str] = Counter()
        self._part_of: dict[str, str] = {}
        self._stage, self._total, self._count = "", 0, 0
        self._progress: Any = None
        self._told = 0.0
        self._silent = False

    def __enter__(self) -> PrefectTracker:
        return self

    def __exit__(self, *ended: object) -> None:
        """Let go of the parts that will not end."""
        for part in self._watched.values():
            part.drop()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._silent = True
            announce("prefect", f"its pages are told nothing more of this build ({_first_line(error)})")

    def planned(self, stage: str, jobs: Sequence[Job]) -> None:
        """Cut a stage into parts: its sequences, or some shards."""
        self._part_of = {job.name: _part_name(stage, i, job, len(jobs)) for i, job in enumerate(jobs)}
        self._sizes = Counter()
        for job in jobs:
            self._sizes[self._part_of[job.name]] += _weight(job)
        self._ahead = deque(self._sizes)
        self._stage, self._total, self._count, self._progress = stage, self._sizes.total(), 0, None
        self._watch_more()
        self._show_progress(force=True)

    def _watch_more(self) -> None:
        while self._ahead and len(self._watched) < WATCHED and not self._silent:
            name = self._ahead.popleft()
            self._watched[name] = part = _Part(self._sizes[name])
            with self._telling():
                from datagen.flows import prefect_flow

                prefect_flow.part.with_options(tags=[f"stage:{self._stage}"]).submit(name, part.wait)

    def _ended(self, job: Job, problem: str = "") -> None:
        # A part of a unit belongs to what the unit did.
        name = self._part_of.get(job.name) or _part_name(self._stage, 0, job, 1)
        part = self._watched.get(name)
        if part is not None and part.ended(_weight(job), problem):
            del self._watched[name]
            self._watch_more()
        self._count += _weight(job)
        self._show_progress(force=self._count >= self._total)

    def _show_progress(self, *, force: bool = False) -> None:
        if self._silent or not self._total or (not force and time.monotonic() - self._told < PROGRESS_S):
            return
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        self._told = time.monotonic()
        share = 100.0 * self._count / self._total
        with self._telling():
            if self._progress is None:
                self._progress = create_progress_artifact(share, key=self._stage, description=f"{self._stage} of units")
            else:
                update_progress_artifact(self._progress, share)

    def done(self, job: Job, answer: Answer) -> None:
        """Count a unit."""
        del answer
        self._ended(job)

    def given_up(self, given_up: GivenUp) -> None:
        """Have the part fail that a unit belongs to."""
        self._ended(given_up.job, f"{given_up.job.name}: {given_up.answer.reason}")

    def said(self, text: str) -> None:
        """Put a warning into the run's log."""
        with self._telling():
            self._log(logging.WARNING, text)

    def _log(self, level: int, text: str) -> None:
        """Put a line into the run's log, and nowhere else: this process says it in its own way."""
        if self._silent:
            return
        from prefect.logging import get_run_logger
        from prefect.logging.handlers import APILogHandler

        logger = logging.getLogger("canonface.run")
        if not logger.handlers:
            logger.propagate = False
            logger.setLevel(logging.INFO)
            logger.addHandler(APILogHandler())
        about = getattr(get_run_logger(), "extra", None)
        logger.log(level, text, extra=dict(about or {}))

    def finished(self, result: BuildResult) -> None:
        """Show the verdicts, the worst frames with pictures, what is in quarantine, and where the report is."""
        if self._silent:
            return
        from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

        verdicts = ", ".join(f"{count} {status}" for status, count in sorted(result.verdicts.items()))
        samples = ", ".join(f"{split} {count}" for split, count in result.samples.items())
        checked = "verified" if result.verification.ok else f"{len(result.verification.problems)} PROBLEMS"
        lines = [f"**Frames**: {verdicts}", f"**Samples**: {samples}", f"**Dataset**: `{result.dataset}`, {checked}"]
        with self._telling():
            create_markdown_artifact("\n\n".join(lines), key="build", description="What came of the build")
            create_link_artifact(result.report.as_uri(), "the report", key="report", description=str(result.report))
            worst = worst_frames(BuildLayout(result.root), WORST_FRAMES)
            if worst:
                create_table_artifact(worst, key="worst-frames", description="Frames to look at, the worst first")
            if result.quarantined:
                rows = [{"unit": u.unit, "stage": u.stage, "why": u.reason, "host": u.host} for u in result.quarantined]
                create_table_artifact(rows, key="quarantine", description="Units that were given up")
            self._log(logging.INFO, f"{verdicts}; {samples}; dataset {checked}")
            shown = worst_pictures(BuildLayout(result.root))
            if shown:
                create_markdown_artifact(
                    shown, key="worst-pictures", description="The worst frames, as the report has them"
                )


def _weight(job: Job) -> int:
    return max(1, int(getattr(job.unit, "weight", 1)))


def _part_name(stage: str, index: int, job: Job, of: int) -> str:
    names = job.name.split("/")
    if len(names) > 1:
        return f"{stage} {'/'.join(names[:2])}"
    if of <= UNITS_A_PART:
        return stage
    first = index - index % UNITS_A_PART
    return f"{stage} {first + 1} to {min(first + UNITS_A_PART, of)}"


def worst_frames(layout: BuildLayout, count: int) -> list[dict[str, str]]:
    """Return the frames of a build that are to be looked at, as the report tells them, as rows of a table."""
    try:
        alerts = read_json(layout.report_numbers)["alerts"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [
        {"verdict": str(alert["severity"]), "frame": str(frame), "why": f"{alert['title']} ({alert['found']})"}
        for alert in alerts
        for frame in alert["frames"]
    ][:count]
