"""Prefect flows of single stages, as deployments name them: parts of builds, as ``datagen build --stage`` runs them.

``freeze`` writes the plan, ``warp`` and its like work at a part of it, in as many flow runs at once as there is room
for, ``freeze`` again plans the shards, and ``finish`` checks and reports.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from prefect import Flow, flow
from pydantic import Field

from datagen.flows.parts import Part, finish_build, freeze_build, run_part
from datagen.flows.runners.contract import RunnerConfig
from datagen.flows.runners.prefect import PrefectTracker
from datagen.layout import load_recipe
from datagen.manifest import load_manifest

Manifest = Annotated[str, Field(description="recipe: a file, or the name of one that comes along")]
Out = Annotated[str, Field(description="build folder, which every worker sees under this path")]
Overrides = Annotated[tuple[str, ...], Field(description="settings, as in source.subjects=3")]
Workers = Annotated[int | None, Field(ge=1, description="units at a time; default: all CPUs")]


def _stage_flow(name: str, doing: str) -> Flow[..., None]:
    def run(
        manifest: Manifest,
        out: Out,
        part: Annotated[str, Field(description="which part of the stage, and of how many, as in 3/10")] = "1/1",
        overrides: Overrides = (),
        runner: Annotated[Literal["threads", "serial"], Field(description="what works at the units")] = "threads",
        workers: Workers = None,
        max_failed: Annotated[str, Field(description="how much may be given up, as in 12 or 5%")] = "5%",
    ) -> None:
        recipe = load_manifest(Path(manifest), overrides)
        config = RunnerConfig(runner, workers, max_failed=max_failed)
        with PrefectTracker() as tracker:
            run_part(recipe, Path(out), name, Part.parse(part), config, watcher=tracker)

    run.__doc__ = f"{doing}: a part of a build whose plan is frozen."
    return _as_flow(run, name, name + " {part} in {out}")


def _as_flow(body: Callable[..., None], name: str, run_name: str) -> Flow[..., None]:
    return flow(name=name, flow_run_name=run_name, persist_result=False, log_prints=False)(body)


simulate = _stage_flow("simulate", "Simulate captures")
bridge = _stage_flow("bridge", "Find where the template lies on other topologies")
fit = _stage_flow("fit", "Fit heads to the pictures of sequences without a surface")
person = _stage_flow("person", "Learn what the frames of each sequence share")
warp = _stage_flow("warp", "Warp frames")
render = _stage_flow("render", "Render shards")
faces = _stage_flow("faces", "Write shards of the frame tables")


def _freeze(manifest: Manifest, out: Out, overrides: Overrides = ()) -> None:
    """Write what parts of a build need: its plan, and that of its shards once every frame is warped."""
    freeze_build(load_recipe(Path(manifest), overrides, Path(out)), Path(out))


def _finish(
    out: Out,
    workers: Workers = None,
    deep: Annotated[bool, Field(description="verify every byte of the dataset")] = False,
) -> None:
    """Finish a build whose parts have run: frame tables, checks and report."""
    finish_build(Path(out), RunnerConfig("threads", workers), deep=deep)


freeze = _as_flow(_freeze, "freeze", "freeze {out}")
finish = _as_flow(_finish, "finish", "finish {out}")
