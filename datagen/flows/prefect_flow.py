"""The Prefect flow ``build``, as deployments name it: its parameters are those of ``datagen build``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated

from prefect import flow, task
from pydantic import Field

from datagen.common.json_lines import json_lines
from datagen.flows.choice import Choice
from datagen.flows.runners.contract import ClusterName, RunnerConfig, RunnerName
from datagen.flows.watchers import LogForm, watched
from datagen.layout import load_recipe

# What the command line does inside the flow; a deployment has none, and begins from the parameters.
BODY: ContextVar[Callable[[], None] | None] = ContextVar("body of the flow", default=None)


# How often Prefect runs one again that failed is said by its environment: PREFECT_FLOWS_DEFAULT_RETRIES.
@flow(name="build", persist_result=False, log_prints=False)
def build(
    manifest: Annotated[str, Field(description="recipe: a file, or the name of one that comes along")],
    out: Annotated[str, Field(description="build folder, which every worker sees under this path")],
    overrides: Annotated[tuple[str, ...], Field(description="settings, as in source.subjects=3")] = (),
    runner: Annotated[RunnerName, Field(description="what works at the units")] = "threads",
    workers: Annotated[int | None, Field(ge=1, description="units at a time; default: all CPUs")] = None,
    dask_address: Annotated[str | None, Field(description="scheduler, as in tcp://scheduler:8786")] = None,
    dask_cluster: Annotated[ClusterName | None, Field(description="Dask cluster to start for it")] = None,
    dask_config: Annotated[str | None, Field(description="YAML file with options of that cluster")] = None,
    max_failed: Annotated[str, Field(description="how much of a stage may be given up, as in 12 or 5%")] = "5%",
    replace: Annotated[bool, Field(description="replace another dataset in out, or this one's splits")] = False,
    check_inputs: Annotated[bool, Field(description="read every input again, however it looks")] = False,
    deep: Annotated[bool, Field(description="verify every byte of the dataset")] = False,
    only: Annotated[tuple[str, ...], Field(description="frames to try, as in s003/*")] = (),
    limit: Annotated[int | None, Field(ge=1, description="try at most so many frames")] = None,
    log: Annotated[LogForm, Field(description="standard error as text, or a JSON object a line")] = "text",
    metrics_port: Annotated[int | None, Field(ge=0, le=65535, description="of 127.0.0.1, for Prometheus")] = None,
) -> None:
    """Build a dataset from a manifest, or finish an interrupted build."""
    body = BODY.get()
    if body is not None:
        body()
        return
    options = None if dask_config is None else Path(dask_config)
    config = RunnerConfig.of(runner, workers, dask_address, dask_cluster, options, max_failed)
    # By name: the build imports what imports this.
    build_dataset = resolve_name("datagen.flows.build:build")
    recipe = load_recipe(Path(manifest), overrides, Path(out))
    with json_lines() if log == "json" else nullcontext(), watched(log, metrics_port) as watcher:
        build_dataset(
            recipe,
            Path(out),
            config,
            replace=replace,
            check_inputs=check_inputs,
            deep=deep,
            choice=Choice(only, limit),
            watcher=watcher,
        )


@task(task_run_name="{name}", retries=0, persist_result=False, cache_result_in_memory=False)
def part(name: str, wait: Callable[[], str]) -> None:
    """Wait for some units of a stage, which the build has worked at while Prefect watches.

    Raises
    ------
    RuntimeError
        If some of them were given up.
    """
    del name
    problem = wait()
    if problem:
        raise RuntimeError(problem)
