"""A whole build: plan, simulate, bridge, learn persons, warp, plan shards, render, finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from datagen.common.files import atomic_write_bytes, build_lock
from datagen.common.progress import StageProgress
from datagen.flows.build_folder import check_folder, check_room
from datagen.flows.planning import BuildPlan, chunks, plan_build
from datagen.flows.runners.prefect import prefect_session, require_api_for_dask, run_as_flow
from datagen.flows.runners.serial import Result, RunnerConfig, SerialRunner, StageRunner, Task
from datagen.flows.stages.bridge import bridge_of, bridged_topologies, make_bridge, plan_bridges, remove_stale_bridges
from datagen.flows.stages.finish import finish_dataset, refresh_report, remove_stale_warps
from datagen.flows.stages.person import learn_person, learns_person, plan_persons
from datagen.flows.stages.render import render_shard
from datagen.flows.stages.shards import ShardPlan, plan_shards
from datagen.flows.stages.simulate import SimulateTask, simulate
from datagen.flows.stages.warp import WarpTask, warp_sequence
from datagen.flows.survey import is_warped
from datagen.flows.worker import prepared_head
from datagen.heads.base import HeadModel
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.render.registry import make_renderer
from datagen.shards import VerifyReport, unit_is_complete

# Seconds to a minute: long enough to pay for a task, short enough to show progress.
FRAMES_PER_TASK = 4


@dataclass(frozen=True)
class BuildResult:
    """What a build came to.

    Attributes
    ----------
    root, dataset, report : Path
    verdicts : mapping of status to number of frames
    samples : mapping of split to number of samples
    left_out : int
        Frames with a usable verdict that no camera could show.
    warped, rendered : int
        Frames and samples computed by this run; the others were on disk.
    seconds : mapping of stage to seconds
    verification : VerifyReport
    """

    root: Path
    dataset: Path
    report: Path
    verdicts: Mapping[str, int]
    samples: Mapping[str, int]
    left_out: int
    warped: int
    rendered: int
    seconds: Mapping[str, float]
    verification: VerifyReport


def build(
    manifest: Manifest,
    out: Path,
    config: RunnerConfig | None = None,
    stream: TextIO | None = None,
    *,
    replace: bool = False,
) -> BuildResult:
    """Build a dataset, or finish one that was interrupted. What is whole on disk is kept.

    Parameters
    ----------
    manifest : Manifest
    out : Path
        The build folder; made if missing.
    config : RunnerConfig, optional
        Threads by default.
    stream : text stream, optional
        Where progress goes; standard error by default.
    replace : bool
        Whether the build of another dataset in ``out`` may be replaced.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        If the manifest does not fit the captures, no frame can be stored, the disk refuses, another build is at work
        in ``out``, ``out`` holds other files or the build of another dataset, or a service the runner needs is missing.
    """
    config = config or RunnerConfig()
    if config.name == "dask":
        require_api_for_dask()
    plan = plan_build(manifest)
    layout = BuildLayout(out.resolve())
    check_folder(layout, manifest, replace=replace)
    with build_lock(layout.lock):
        text = manifest.text().encode() + b"\n"
        same_recipe = layout.manifest.is_file() and layout.manifest.read_bytes() == text
        if not same_recipe:
            atomic_write_bytes(layout.manifest, text)
        stages = _Stages(plan, layout, stream)
        # Nothing to do: no server or workers are started for it.
        if config.name == "serial" or (same_recipe and stages.nothing_to_do()):
            return stages.run(SerialRunner())
        # A server that cannot write says little of why it ends.
        check_room(layout.root)
        with prefect_session(layout.prefect_home, stages.load_head):
            return run_as_flow(f"{manifest.name} in {out.name}", config, stages.run)


class _Stages:
    def __init__(self, plan: BuildPlan, layout: BuildLayout, stream: TextIO | None) -> None:
        self._plan, self._layout, self._stream = plan, layout, stream
        self._seconds: dict[str, float] = {}
        learns = any(learns_person(plan.manifest, sequence) for sequence in plan.sequences)
        self._count = 4 + bool(plan.simulations) + bool(bridged_topologies(plan)) + learns

    def load_head(self) -> HeadModel:
        """Load the canonical head and fail early if it or the rasteriser cannot be had."""
        manifest = self._plan.manifest
        make_renderer(manifest.render.backend)
        return prepared_head(manifest.canonical.head, manifest.head_root, manifest.warp.subdivisions)

    def nothing_to_do(self) -> bool:
        """Whether every warp and shard is finished, so that no runner needs to be started."""
        if not is_warped(self._plan, self._layout, self.load_head):
            return False
        shards = self._plan_shards()
        return all(unit_is_complete(self._layout.dataset, t.unit, t.content_key) for t in shards.tasks)

    def run(self, runner: StageRunner) -> BuildResult:
        plan, layout = self._plan, self._layout
        if plan.simulations:
            simulations = [SimulateTask(layout.root, simulation) for simulation in plan.simulations]
            self._stage(runner, "simulate", "sequences", simulate, simulations, lambda _: 1)
        self.load_head()
        bridges = plan_bridges(plan, layout)
        if bridges:
            self._stage(runner, "bridge", "topologies", make_bridge, list(bridges.values()), lambda _: 1)
        remove_stale_bridges(layout, bridges)
        tasks = plan_persons(plan, layout, bridges)
        learnt = self._stage(runner, "person", "sequences", learn_person, tasks, lambda _: 1) if tasks else []
        persons = {task.sequence.key: person for task, person in zip(tasks, learnt, strict=True)}
        warps = [
            WarpTask(layout.root, plan.manifest, s, bridge_of(bridges, s.registration), persons.get(s.key))
            for s in chunks(plan.sequences, FRAMES_PER_TASK)
        ]
        tallies = self._stage(runner, "warp", "frames", warp_sequence, warps, lambda t: len(t.sequence.frames))
        remove_stale_warps(layout, plan)
        shards = self._plan_shards()
        rendered = self._stage(runner, "render", "views", render_shard, shards.tasks, lambda t: t.unit.samples)
        with self._alone("verify", "dataset"):
            verification = finish_dataset(layout, shards)
        with self._alone("report", "page"):
            report = refresh_report(layout, plan)
        return BuildResult(
            root=layout.root,
            dataset=layout.dataset,
            report=report,
            verdicts=shards.verdicts,
            samples=shards.dataset.counts,
            left_out=shards.left_out,
            warped=sum(tally.computed for tally in tallies),
            rendered=sum(rendered),
            seconds=dict(self._seconds),
            verification=verification,
        )

    def _plan_shards(self) -> ShardPlan:
        backend = make_renderer(self._plan.manifest.render.backend).name
        return plan_shards(self._plan, self._layout.root, self.load_head().template, backend)

    def _title(self, stage: str) -> str:
        return f"{len(self._seconds) + 1}/{self._count} {stage}"

    def _stage(
        self,
        runner: StageRunner,
        stage: str,
        unit: str,
        work: Callable[[Task], Result],
        tasks: Sequence[Task],
        weight: Callable[[Task], int],
    ) -> list[Result]:
        started = time.monotonic()
        with StageProgress(self._title(stage), sum(weight(t) for t in tasks), unit, self._stream) as progress:
            results = runner.run(stage, work, tasks, lambda task, _: progress.advance(weight(task)))
        self._seconds[stage] = time.monotonic() - started
        return results

    @contextmanager
    def _alone(self, stage: str, unit: str) -> Iterator[None]:
        started = time.monotonic()
        with StageProgress(self._title(stage), 1, unit, self._stream) as progress:
            yield
            progress.advance(1)
        self._seconds[stage] = time.monotonic() - started
