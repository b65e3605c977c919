"""A whole build: the stages one after another, each working from what the earlier ones left on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from datagen.common.files import DISK_ERRORS, storage_errors, write_owned_bytes
from datagen.common.progress import Progress, announce
from datagen.flows.build_folder import build_lock, check_folder, check_places, check_room
from datagen.flows.history import History, keep_selection, read_history
from datagen.flows.planning import BuildPlan, plan_build, plan_grown, settle
from datagen.flows.records import clear_folder
from datagen.flows.runners.prefect import prefect_session, require_api_for_dask, run_as_flow
from datagen.flows.runners.serial import RunnerConfig, SerialRunner, StageRunner
from datagen.flows.splits import missed_numbers
from datagen.flows.stage import Unit
from datagen.flows.stages import STAGES
from datagen.flows.stored_frames import LeftOutCamera
from datagen.flows.worker import prepared_head
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.render.registry import check_backend
from datagen.shards import VerifyReport

# Told a stage's name, and how much of its work is done, of how much.
Observer = Callable[[str, int, int], None]


def _nobody(_stage: str, _done: int, _total: int) -> None:
    return


@dataclass(frozen=True)
class BuildResult:
    """The result of a build.

    Attributes
    ----------
    verdicts : mapping of status to number of frames
    samples : mapping of split to number of samples
    left_out : int
        Frames with a usable verdict that no camera could show.
    cameras : tuple of LeftOutCamera
        Cameras that give no samples of some frames, and why.
    warped, rendered : int
        Frames and samples computed by this run; the others were on disk.
    seconds : mapping of stage to seconds
    """

    root: Path
    dataset: Path
    report: Path
    verdicts: Mapping[str, int]
    samples: Mapping[str, int]
    left_out: int
    cameras: tuple[LeftOutCamera, ...]
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
    check_inputs: bool = False,
    deep: bool = False,
    observer: Observer = _nobody,
) -> BuildResult:
    """Build a dataset, or finish one that was interrupted. What is whole on disk is kept.

    Parameters
    ----------
    out : Path
        The build folder; made if missing.
    config : RunnerConfig, optional
        Threads by default.
    stream : text stream, optional
        Where progress goes; standard error by default.
    replace : bool
        Whether the build in ``out`` may be replaced: one of another dataset, or this one's growth and splits.
    check_inputs, deep : bool
        Whether every input is read again, though its files look as they were; and every byte of the dataset.
    observer : callable
        Called as each stage begins, and whenever more of it is done.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        If the manifest does not fit the captures, no frame can be stored, the disk refuses, another build is running
        in ``out``, ``out`` holds other files or the build of another dataset, or a service the runner needs is missing.
    """
    config = config or RunnerConfig()
    if config.name == "dask":
        require_api_for_dask()
    layout = BuildLayout(out.resolve())
    recipe_before = check_folder(layout, manifest, replace=replace)
    manifest = settle(manifest, recipe_before)
    # What is replaced has no history: only then may a subject change its split. A recipe that is merely lost leaves
    # what was decided.
    plan = plan_build(manifest) if replace else plan_grown(manifest, read_history(layout))
    # What comes before the first stage (a server, the head model) takes a while.
    some = f" of {plan.of_frames}" if plan.selected else ""
    announce("build", f"{plan.frames}{some} frames of {len(plan.sequences)} sequences", stream)
    if missed_numbers(plan.splits, manifest.splits):
        announce("splits", plan.split_policy, stream)
    with build_lock(layout, check_inputs=check_inputs, deep=deep):
        if not replace and read_history(layout).splits != plan.earlier:
            # Another build of this folder ended meanwhile, and placed somebody.
            plan = plan_grown(manifest, read_history(layout))
        text = manifest.text().encode() + b"\n"
        same_recipe = layout.manifest.is_file() and layout.manifest.read_bytes() == text
        if same_recipe and not replace and nothing_to_do(plan, layout):
            # No server or workers are started for it.
            return run_stages(plan, layout, stream, SerialRunner(), observer)
        check_places(plan, layout)
        if replace:
            write_owned_bytes(layout.history, History().to_bytes())
        if not same_recipe:
            write_owned_bytes(layout.manifest, text)
        keep_selection(layout, plan.selected, manifest.source.selection)
        prepare = partial(_prepare, manifest)
        if config.name == "serial":
            prepare()
            return run_stages(plan, layout, stream, SerialRunner(), observer)
        # A server that cannot write says little about why it ends.
        check_room(layout.root)
        work = partial(run_stages, plan, layout, stream, observer=observer)
        with prefect_session(layout.prefect_home, prepare):
            return run_as_flow(f"{manifest.name} in {out.name}", config, work)


def nothing_to_do(plan: BuildPlan, layout: BuildLayout) -> bool:
    """Whether every stage whose work is carried to workers is finished, in each of its units."""
    stages = [stage for stage in STAGES if stage.carried and stage.applies(plan)]
    # A first look, before inputs are read and a head is loaded.
    if any(stage.status(plan, layout).missing for stage in stages):
        return False
    # A stage is planned only once those before it are known to be finished.
    return all(stage.finished(unit) for stage in stages for unit in stage.plan(plan, layout))


def run_stages(
    plan: BuildPlan, layout: BuildLayout, stream: TextIO | None, runner: StageRunner, observer: Observer = _nobody
) -> BuildResult:
    """Run every stage in its order, and remove what is no longer in the plan."""
    applied = [stage.name for stage in STAGES if stage.applies(plan)]
    units: dict[str, Sequence[Any]] = {}
    results: dict[str, list[Any]] = {}
    seconds: dict[str, float] = {}
    for stage in STAGES:
        planned = units[stage.name] = stage.plan(plan, layout) if stage.name in applied else ()
        if stage.name in applied:
            started = time.monotonic()
            title, total = f"{len(seconds) + 1}/{len(applied)} {stage.name}", sum(unit.weight for unit in planned)
            observer(stage.name, 0, total)
            stage.begin(plan, layout)
            with Progress(title, total, stage.counts, stream) as progress:
                carrier = runner if stage.carried else SerialRunner()
                advance = partial(_advance, progress, partial(observer, stage.name), total)
                results[stage.name] = carrier.run(stage.name, stage.run, planned, advance)
            seconds[stage.name] = time.monotonic() - started
        with storage_errors(f"removing what the {stage.name} stage no longer needs", only=DISK_ERRORS):
            for folder in stage.stale(layout, planned):
                # Beyond a link lies what is not this build's.
                if folder.resolve() == folder:
                    clear_folder(folder)
    (dataset,), (verification,) = units["verify"], results["verify"]
    return BuildResult(
        root=layout.root,
        dataset=layout.dataset,
        report=layout.report_page,
        verdicts=dataset.verdicts,
        samples=dataset.dataset.counts,
        left_out=dataset.left_out,
        cameras=dataset.cameras,
        warped=sum(results["warp"]),
        rendered=sum(results["render"]),
        seconds=seconds,
        verification=verification,
    )


def _advance(progress: Progress, told: Callable[[int, int], None], total: int, unit: Unit, result: object) -> None:
    del result
    progress.advance(unit.weight)
    told(progress.done, total)


def _prepare(manifest: Manifest) -> None:
    """Fail early if the renderer or the canonical head cannot be loaded, and load the head while there is time."""
    check_backend(manifest.render.backend)
    prepared_head(manifest.canonical.head, manifest.head_root, manifest.warp.subdivisions)
