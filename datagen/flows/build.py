"""A whole build: the stages one after another, each working from what the earlier ones left on disk."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from datagen.common.files import DISK_ERRORS, storage_errors, write_owned_bytes
from datagen.common.progress import announce
from datagen.flows.build_folder import build_lock, check_folder, check_places, check_room
from datagen.flows.choice import Choice
from datagen.flows.fit_plan import check_fits
from datagen.flows.folder_plan import NO_CHOICE, plan_in
from datagen.flows.history import History, keep_selection, read_history
from datagen.flows.inputs import brought
from datagen.flows.own_settings import forget_all, read_own
from datagen.flows.planning import BuildPlan, settle
from datagen.flows.quarantine import read_quarantine
from datagen.flows.records import clear_folder
from datagen.flows.result import BuildResult
from datagen.flows.runners.contract import Carrier, RunnerConfig
from datagen.flows.runners.drive import MaxFailed
from datagen.flows.runners.here import SerialCarrier, ThreadCarrier
from datagen.flows.runners.preflight import Expected, mark_run
from datagen.flows.runners.tracking import Tracker, Trackers
from datagen.flows.splits import missed_numbers
from datagen.flows.stage_run import Ahead, StageRun
from datagen.flows.stages import STAGES
from datagen.flows.state_index import open_index
from datagen.flows.work_log import work_log
from datagen.flows.worker import prepared_head
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.render.registry import check_backend

# Told a stage's name, and how much of its work is done, of how much.
Observer = Callable[[str, int, int], None]


def _nobody(_stage: str, _done: int, _total: int) -> None:
    return


def build(
    manifest: Manifest,
    out: Path,
    config: RunnerConfig | None = None,
    stream: TextIO | None = None,
    *,
    replace: bool = False,
    check_inputs: bool = False,
    deep: bool = False,
    choice: Choice = NO_CHOICE,
    observer: Observer = _nobody,
    watcher: Tracker | None = None,
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
    choice : Choice
        The frames to be built, if not all: the dataset says that it is partial, and a build of all of them keeps the
        warps, persons and bridges, and ends as if it had not been tried.
    observer : callable
        Called as each stage begins, and whenever more of it is done.
    watcher : Tracker, optional
        Told of every unit; see :func:`datagen.flows.watchers.watched`.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        If the manifest does not fit the captures, no frame can be stored, the disk refuses, another build is running
        in ``out``, ``out`` holds other files or the build of another dataset, or a service the runner needs is missing.
    """
    config = config or RunnerConfig()
    limit = MaxFailed.parse(config.max_failed)
    layout = BuildLayout(out.resolve())
    recipe_before = check_folder(layout, manifest, replace=replace)
    manifest = brought(layout, settle(manifest, recipe_before), choice, stream, afresh=replace)
    # What is replaced has no history: only then may a subject change its split. A recipe that is merely lost leaves
    # what was decided.
    own = {} if replace else read_own(layout)
    plan = plan_in(layout, manifest, choice, afresh=replace)
    check_fits(plan, layout.captures)
    # What comes before the first stage (a server, the head model) takes a while.
    some = f" of {plan.of_frames}" if plan.selected or plan.chosen else ""
    announce("build", f"{plan.frames}{some} frames of {len(plan.sequences)} sequences", stream)
    if missed_numbers(plan.splits, manifest.splits):
        announce("splits", plan.split_policy, stream)
    with build_lock(layout, check_inputs=check_inputs, deep=deep):
        if not replace and (read_history(layout).splits, read_own(layout)) != (plan.earlier, own):
            # Another build of this folder ended meanwhile, and placed somebody; or frames were given settings.
            plan = plan_in(layout, manifest, choice)
        text = layout.told(manifest).text().encode() + b"\n"
        same_recipe = layout.manifest.is_file() and layout.manifest.read_bytes() == text
        run = _Run(plan, layout, stream, limit, observer, watcher or Tracker())
        if same_recipe and not replace:
            finished = finished_units(plan, layout)
            if finished is not None:
                # No server or workers are started for it.
                return run.stages(SerialCarrier(), finished=finished)
        check_places(plan, layout)
        if replace:
            write_owned_bytes(layout.history, History().to_bytes())
            forget_all(layout)
        if not same_recipe:
            write_owned_bytes(layout.manifest, text)
        if not plan.chosen:
            keep_selection(layout, plan.selected, manifest.source.selection)
        if config.name != "serial":
            # A server that cannot write says little about why it ends.
            check_room(layout.root)
        # From here on no worker of an earlier run begins anything here, wherever it is.
        mark = uuid.uuid4().hex
        mark_run(layout, mark)
        if config.name == "serial":
            _prepare(manifest)
            return run.stages(SerialCarrier())
        from datagen.flows.runners.prefect import told_prefect

        with told_prefect(
            layout.prefect_home, f"{manifest.name} in {out.name}", layout.root, manifest, config
        ) as aside:
            # A driver with workers elsewhere renders nothing itself.
            _prepare(manifest, renders=config.name != "dask")
            with _carrier(config, layout, manifest, mark) as carrier:
                if config.name == "dask":
                    # Its processes load what they need meanwhile.
                    aside.ready()
                return run.stages(carrier, aside)


def _carrier(config: RunnerConfig, layout: BuildLayout, manifest: Manifest, mark: str) -> Carrier:
    if config.name == "dask":
        from datagen.flows.runners.dask import DaskCarrier

        return DaskCarrier(config, Expected.of(layout, manifest, mark))
    return ThreadCarrier(config.worker_count)


def finished_units(plan: BuildPlan, layout: BuildLayout) -> dict[str, Sequence[Any]] | None:
    """Return all units of every stage whose work is carried to workers, if each is finished; None if one is not."""
    stages = [stage for stage in STAGES if stage.carried and stage.applies(plan)]
    index = open_index(layout.root)
    if index is not None:
        # One look at each file does: nobody else may write here.
        index.settle(True)
    found: dict[str, Sequence[Any]] = {}
    # A first look, before inputs are read and a head is loaded.
    done = not any(stage.status(plan, layout).missing for stage in stages)
    for stage in stages if done else ():
        # A stage is planned only once those before it are known to be finished.
        found[stage.name] = stage.plan(plan, layout)
        done = all(map(stage.finished, found[stage.name]))
        if not done:
            break
    if not done and index is not None:
        index.settle(False)
    return found if done else None


class _Run:
    """One run of the stages in their order.

    Parameters
    ----------
    limit : MaxFailed
        How much of a stage may be given up.
    """

    def __init__(
        self,
        plan: BuildPlan,
        layout: BuildLayout,
        stream: TextIO | None,
        limit: MaxFailed,
        observer: Observer,
        watcher: Tracker,
    ) -> None:
        self._plan, self._layout, self._stream, self._limit, self._observer = plan, layout, stream, limit, observer
        self._watcher = watcher

    def stages(
        self, carrier: Carrier, tracker: Tracker | None = None, finished: Mapping[str, Sequence[Any]] | None = None
    ) -> BuildResult:
        """Run every stage, and remove what is no longer in the plan.

        Parameters
        ----------
        finished : mapping of stage to units, optional
            Those whose units are known to be finished, all of them.
        """
        with work_log(self._layout) as log:
            return self._stages(carrier, Trackers(tracker or Tracker(), log, self._watcher), finished or {})

    def _stages(self, carrier: Carrier, tracker: Tracker, finished: Mapping[str, Sequence[Any]]) -> BuildResult:
        plan, layout = self._plan, self._layout
        applied = [stage.name for stage in STAGES if stage.applies(plan)]
        units: dict[str, Sequence[Any]] = {}
        results: dict[str, list[Any]] = {}
        seconds: dict[str, float] = {}
        early: dict[str, list[Any]] = {}  # results of units that were done while the stage before went on
        for stage, following in zip(STAGES, (*STAGES[1:], STAGES[-1]), strict=True):
            planned = finished.get(stage.name)
            if planned is None:
                planned = stage.plan(plan, layout) if stage.name in applied else ()
            units[stage.name] = planned
            if stage.name in applied:
                started = time.monotonic()
                title = f"{len(seconds) + 1}/{len(applied)} {stage.name}"
                stage.begin(plan, layout)
                carried_by = carrier if stage.carried else SerialCarrier()
                told = partial(self._observer, stage.name)
                # One slot could not do two things at once.
                overlaps = stage.carried and following.carried and carrier.slots > 1 and stage.name not in finished
                ahead = Ahead(stage, following, plan, layout, planned, carrier.slots) if overlaps else None
                run = StageRun(stage, title, plan, layout, planned, self._limit, tracker, told, ahead)
                is_done = stage.name in finished
                results[stage.name] = run.pass_over(self._stream) if is_done else run.run(carried_by, self._stream)
                if ahead is not None:
                    early[following.name] = ahead.results
                seconds[stage.name] = time.monotonic() - started
            with storage_errors(f"removing what the {stage.name} stage no longer needs", only=DISK_ERRORS):
                # Where some frames are tried, the others are none the less of this build.
                for folder in stage.stale(layout, planned) if not plan.chosen else ():
                    # Beyond a link lies what is not this build's.
                    if folder.resolve() == folder:
                        clear_folder(folder)
        (dataset,), (verification,) = units["verify"], results["verify"]
        result = BuildResult(
            root=layout.root,
            dataset=layout.dataset,
            report=layout.report_page,
            verdicts=dataset.verdicts,
            samples=dataset.dataset.counts,
            left_out=dataset.left_out,
            cameras=dataset.cameras,
            warped=sum(results["warp"]),
            rendered=sum(results["render"]) + sum(early.get("render", ())),
            seconds=seconds,
            verification=verification,
            quarantined=read_quarantine(layout, plan.manifest).units,
        )
        tracker.finished(result)
        return result


def _prepare(manifest: Manifest, *, renders: bool = True) -> None:
    """Fail early if the renderer or the canonical head cannot be loaded, and load the head while there is time."""
    if renders:
        check_backend(manifest.render.backend)
    prepared_head(manifest.canonical.head, manifest.head_root, manifest.warp.subdivisions)
