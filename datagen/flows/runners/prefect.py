"""Prefect at the rim: the flow, its settings, and the runner that submits tasks."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from datagen.common.errors import CanonfaceError, DependencyError
from datagen.flows.runners.local_api import LocalApi
from datagen.flows.runners.serial import Result, RunnerConfig, StageRunner, Task

Value = TypeVar("Value")

API_URL = "PREFECT_API_URL"
EVENTS_SECONDS = 20.0
_CLIENT = {"httpx", "httpcore"}  # what Prefect speaks to its server with
# Only where the user has not decided otherwise. Logs of task and flow runs would repeat our own messages with a
# traceback in front.
DEFAULTS = {
    "DASK_LOGGING__DISTRIBUTED": "warning",
    "DO_NOT_TRACK": "1",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
}


def require_api_for_dask() -> None:
    """Refuse Dask without a Prefect server that its workers can reach.

    Raises
    ------
    DependencyError
        If ``PREFECT_API_URL`` is not set.
    """
    if not os.environ.get(API_URL):
        raise DependencyError(
            f"the Dask runner was asked for, but {API_URL} is not set",
            "a Prefect server that every worker can reach",
            f"Run `prefect server start` in another terminal and `export {API_URL}=http://127.0.0.1:4200/api`, "
            "or leave out --runner dask",
        )


@contextmanager
def prefect_session(home: Path, prepare: Callable[[], object]) -> Iterator[None]:
    """Give this process a Prefect API: the user's, or one that lives as long as the block.

    Parameters
    ----------
    home : Path
        Where Prefect keeps its files, unless ``PREFECT_HOME`` says otherwise.
    prepare : callable
        Called while a server of our own starts up.

    Raises
    ------
    DependencyError
        If a server of our own does not start.
    """
    with _default_environment({**DEFAULTS, "PREFECT_HOME": str(home.resolve())}):
        url = os.environ.get(API_URL)
        api = None if url else LocalApi(home)
        try:
            prepare()
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


def _send_last_events() -> None:
    # Prefect sends events from a thread that it joins when the interpreter exits: by then a server of ours would be
    # gone, and the exit would wait for it.
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=EVENTS_SECONDS, at_exit=False)


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


def run_as_flow(name: str, config: RunnerConfig, body: Callable[[StageRunner], Value]) -> Value:
    """Run ``body`` as the Prefect flow ``build``; its stages become task runs.

    Parameters
    ----------
    name : str
        Name of the flow run.
    config : RunnerConfig
        ``threads`` or ``dask``.
    body : callable
        Takes the runner to use.

    Returns
    -------
    What ``body`` returns.

    Raises
    ------
    DependencyError
        If Prefect's server or Dask's scheduler does not answer.
    Exception
        Whatever else ``body`` or a task raises, unchanged.
    """
    from prefect import flow

    outcome: list[Value] = []

    # The result stays out of Prefect's hands: it is not to be stored, hashed or shown.
    @flow(
        name="build",
        flow_run_name=name,
        task_runner=_task_runner(config),
        retries=0,
        persist_result=False,
        validate_parameters=False,
        log_prints=False,
    )
    def build() -> None:
        outcome.append(body(PrefectRunner()))

    try:
        build()
    except Exception as error:
        lost = _lost_service(error, config)
        if lost is None:
            raise
        raise lost from error
    return outcome[0]


def _lost_service(error: Exception, config: RunnerConfig) -> DependencyError | None:
    """Return an error of Prefect's server or Dask's scheduler as one of ours; None if it is anything else."""
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    # Of an address where nothing listens, Dask says so by an OSError that has no number.
    dask = config.name == "dask" and (
        "distributed" in packages or (isinstance(error, OSError) and error.errno is None and not packages & _CLIENT)
    )
    if not dask and not packages & {"prefect", *_CLIENT}:
        return None
    reason = (str(error).strip().splitlines() or [""])[0][:160]
    if dask:
        where = f" at {config.dask_address}" if config.dask_address else ""
        return DependencyError(
            f"Dask{where} failed ({type(error).__name__}: {reason})",
            "a scheduler that answers, and workers that stay",
            "Start it, or correct --dask-address; run the same command again, finished work is kept",
        )
    return DependencyError(
        f"the Prefect server failed ({type(error).__name__}: {reason}); {API_URL} is {os.environ.get(API_URL)}",
        "a server that answers",
        f"Start it, or unset {API_URL}; run the same command again, finished work is kept",
    )


def _task_runner(config: RunnerConfig) -> Any:
    if config.name == "dask":
        from prefect_dask import DaskTaskRunner

        if config.dask_address:
            return DaskTaskRunner(address=config.dask_address)
        kwargs = {"n_workers": config.worker_count, "threads_per_worker": 1, "dashboard_address": None}
        return DaskTaskRunner(cluster_kwargs=kwargs)
    from prefect.task_runners import ThreadPoolTaskRunner

    return ThreadPoolTaskRunner(max_workers=config.worker_count)


class PrefectRunner:
    """Submits the tasks of a stage to the task runner of the flow it is used in."""

    def run(
        self, stage: str, work: Callable[[Task], Result], tasks: Sequence[Task], done: Callable[[Task, Result], None]
    ) -> list[Result]:
        """Carry out the contract of :class:`datagen.flows.runners.serial.StageRunner`."""
        from prefect import task as prefect_task
        from prefect.cache_policies import NO_CACHE
        from prefect.futures import as_completed

        carrier = prefect_task(
            name=stage, task_run_name=stage + " {label}", retries=0, persist_result=False, cache_policy=NO_CACHE
        )(carry)
        futures = [carrier.submit(work, Sealed(task), getattr(task, "name", str(i))) for i, task in enumerate(tasks)]
        position = {future: i for i, future in enumerate(futures)}
        results: dict[int, Result] = {}
        try:
            for future in as_completed(futures):
                i = position[future]
                results[i] = future.result()
                done(tasks[i], results[i])
        except BaseException:
            for future in futures:
                cancel = getattr(getattr(future, "wrapped_future", None), "cancel", None)
                if cancel is not None:
                    cancel()
            raise
        return [results[i] for i in range(len(tasks))]


class Sealed:
    """A task as Prefect and Dask see it: neither may look for futures inside, nor rebuild it."""

    def __init__(self, task: Any) -> None:
        self.task = task


def carry(work: Callable[[Any], Any], sealed: Sealed, label: str) -> Any:
    """Body of every task run."""
    del label
    try:
        return work(sealed.task)
    except CanonfaceError:
        raise
    except Exception as error:
        # Tracebacks do not survive the way back from a worker process; notes do.
        error.add_note("In the worker:\n" + traceback.format_exc())
        raise
