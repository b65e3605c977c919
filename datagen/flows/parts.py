"""Builds in parts, without a scheduler: a plan is frozen, parts of its stages run anywhere, and one process finishes.

datagen plan MANIFEST --freeze OUT
datagen build MANIFEST --out OUT --stage warp --part 3/10    # each part, in any number of processes at once
datagen plan MANIFEST --freeze OUT                           # shards follow from what was warped
datagen build MANIFEST --out OUT --stage render --part 1/4
datagen finish OUT
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from datagen.common.digests import canonical_json
from datagen.common.documents import read_json
from datagen.common.errors import InputError
from datagen.common.files import write_owned_bytes
from datagen.flows.build import build
from datagen.flows.build_folder import build_lock, check_folder, check_places
from datagen.flows.fit_plan import check_fits
from datagen.flows.folder_plan import plan_in
from datagen.flows.history import keep_selection
from datagen.flows.inputs import brought
from datagen.flows.part_lease import held_lease
from datagen.flows.plan_store import freeze, read_plan
from datagen.flows.planning import BuildPlan, settle
from datagen.flows.result import BuildResult
from datagen.flows.runners.contract import RunnerConfig
from datagen.flows.runners.drive import MaxFailed
from datagen.flows.runners.here import SerialCarrier, ThreadCarrier
from datagen.flows.runners.tracking import Tracker, Trackers
from datagen.flows.shard_plan import plan_shards
from datagen.flows.shard_store import freeze_shards, frozen_shards
from datagen.flows.stage import Stage
from datagen.flows.stage_run import StageRun
from datagen.flows.stages import STAGES
from datagen.flows.stages.faces import FacesReference, FacesStage
from datagen.flows.stages.render import RenderReference, RenderStage
from datagen.flows.state_index import reading_index
from datagen.flows.stored_frames import stored_frames
from datagen.flows.work_log import work_log
from datagen.layout import BuildLayout
from datagen.manifest import Manifest
from datagen.shards.schema import SPLITS

_FORMAT = {"format": "canonface-frozen", "version": 1}
_SHOWN = 5


@dataclass(frozen=True)
class Frozen:
    """What is frozen of a build.

    Attributes
    ----------
    frames : str
        Digest of the plan of frames.
    shards : str
        Digest of the plan of shards; empty as long as frames wait for their warps.
    units : mapping of stage to number of units
        Of stages that parts can be run of by now.
    waiting : int
        Frames without a verdict.
    """

    frames: str
    shards: str
    units: dict[str, int]
    waiting: int


@dataclass(frozen=True)
class Part:
    """A part of a stage, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read "3/10".

        Raises
        ------
        InputError
            If it is not of that form.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"{text!r} is no part", "a number and how many there are, as in 3/10", "Correct --part")
        return cls(int(match[1]), int(match[2]))

    def among(self, units: Sequence[Any]) -> Sequence[Any]:
        """Return the units of this part, which lie beside each other: they read the same captures."""
        start, stop = (len(units) * number // self.of for number in (self.number - 1, self.number))
        return units[start:stop]


def freeze_build(manifest: Manifest, out: Path) -> Frozen:
    """Write what parts of a build need: its recipe and plan, and that of the shards once every frame is warped.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        As :func:`datagen.flows.build.build`.
    """
    layout = BuildLayout(out.resolve())
    manifest = brought(layout, settle(manifest, check_folder(layout, manifest)))
    with build_lock(layout):
        plan = plan_in(layout, manifest)
        check_fits(plan, layout.captures)
        check_places(plan, layout)
        text = layout.told(manifest).text().encode() + b"\n"
        if not layout.manifest.is_file() or layout.manifest.read_bytes() != text:
            write_owned_bytes(layout.manifest, text)
        keep_selection(layout, plan.selected, manifest.source.selection)
        freeze(plan, layout)
        waiting = sum(map(len, stored_frames(plan, layout).waiting.values()))
        shards, units = "", {}
        if not waiting:
            # As before any shard is stored: what this run adds is kept first.
            RenderStage().begin(plan, layout)
            planned = plan_shards(plan, layout)
            freeze_shards(planned, layout)
            shards, units = planned.digest, {"render": len(planned.shards), "faces": len(planned.faces)}
        else:
            units = {stage.name: _count(stage, plan, layout) for stage in STAGES if _makes_results(stage, plan)}
        content = {**_FORMAT, "frames": plan.digest, "shards": shards}
        write_owned_bytes(_current(layout), canonical_json(content).encode() + b"\n")
    return Frozen(plan.digest, shards, {name: count for name, count in units.items() if count}, waiting)


def _makes_results(stage: Stage[Any, Any], plan: BuildPlan) -> bool:
    return stage.carried and stage.makes_results and stage.applies(plan)


def _count(stage: Stage[Any, Any], plan: BuildPlan, layout: BuildLayout) -> int:
    try:
        return len(stage.plan(plan, layout))
    except InputError:  # what it is planned from is not there yet
        return 0


def _current(layout: BuildLayout) -> Path:
    return layout.plan / "current.json"


def _read_current(layout: BuildLayout) -> tuple[str, str]:
    try:
        content = read_json(_current(layout))
        return str(content["frames"]), str(content["shards"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{layout.root} has no frozen plan ({error})",
            "what `datagen plan MANIFEST --freeze OUT` writes",
            f"Run `datagen plan MANIFEST --freeze {layout.root}` first",
        ) from None


def run_part(
    manifest: Manifest,
    out: Path,
    stage_name: str,
    part: Part,
    config: RunnerConfig,
    stream: TextIO | None = None,
    watcher: Tracker | None = None,
) -> int:
    """Run a part of a stage of a frozen build; return the weight of what it holds, finished before or now.

    Any number of parts may run at once, in as many processes and on as many machines as see the build folder and the
    captures under the same paths. The same part runs once at a time.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        If the build is not frozen, or by another recipe; if stages before are not finished; if a build works in the
        folder, or this part runs already; or what its units raise.
    """
    layout = BuildLayout(out.resolve())
    frames, shards = _read_current(layout)
    plan = read_plan(layout, frames)
    if layout.local(settle(manifest, layout.manifest_content())) != plan.manifest:
        raise InputError(
            f"the plan that is frozen in {layout.root} is of another recipe",
            "the recipe that was frozen",
            f"Run `datagen plan MANIFEST --freeze {layout.root}` with this one, or name {layout.manifest}",
        )
    stage = _stage_of(stage_name, plan)
    with held_lease(layout, f"{stage.name}-{part.number}-of-{part.of}", patient=True) as lease:
        # Not before the lease is held: a build may have ended between.
        if _read_current(layout) != (frames, shards):
            raise InputError(f"the plan in {layout.root} changed", "a plan that stays", "Run the same command again")
        with reading_index(layout, journals=True), work_log(layout) as log:
            units = part.among(_units(stage, plan, layout, frames, shards))
            title = f"{stage.name} {part.number}/{part.of}"
            limit = MaxFailed.parse(config.max_failed)
            tracker = Trackers(log, watcher or Tracker())
            run = StageRun(stage, title, plan, layout, units, limit, tracker, lambda _done, _total: lease.check())
            carrier = SerialCarrier() if config.name == "serial" else ThreadCarrier(config.worker_count)
            with carrier:
                run.run(carrier, stream)
    return sum(unit.weight for unit in units)


def _stage_of(name: str, plan: BuildPlan) -> Stage[Any, Any]:
    found = [stage for stage in STAGES if stage.carried and stage.applies(plan)]
    for stage in found:
        if stage.name == name:
            return stage
    raise InputError(
        f"this build has no stage {name!r} that can be run in parts",
        f"one of {', '.join(stage.name for stage in found)}",
        "Correct --stage; what is left is done by `datagen finish`",
    )


def _units(stage: Stage[Any, Any], plan: BuildPlan, layout: BuildLayout, frames: str, shards: str) -> Sequence[Any]:
    if stage.makes_results:
        return stage.plan(plan, layout)
    if not shards:
        raise InputError(
            f"the shards of {layout.root} are not planned yet",
            "a plan that was frozen after every frame was warped",
            f"Run `datagen plan MANIFEST --freeze {layout.root}` again, once all parts of warp have ended",
        )
    kind = RenderReference if isinstance(stage, RenderStage) else FacesReference
    wanted = isinstance(stage, FacesStage)
    return [
        kind(layout.root, frames, shards, number, shard, key)
        for number, shard, key in frozen_shards(layout, shards)
        if (shard.group not in SPLITS) == wanted
    ]


def finish_build(
    out: Path,
    config: RunnerConfig,
    stream: TextIO | None = None,
    *,
    deep: bool = False,
    watcher: Tracker | None = None,
) -> BuildResult:
    """Finish a build whose parts have run: the frame tables, the checks and the report.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        If a part is missing; otherwise as :func:`datagen.flows.build.build`.
    """
    layout = BuildLayout(out.resolve())
    manifest = layout.read_manifest()
    with reading_index(layout):
        plan = plan_in(layout, manifest)
        for stage in STAGES:
            if stage.carried and stage.applies(plan) and not isinstance(stage, FacesStage):
                missing = stage.status(plan, layout).missing
                if missing:
                    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
                    raise InputError(
                        f"of the stage {stage.name}, {', '.join(missing[:_SHOWN])}{more} is missing",
                        "every part of the stages before",
                        f"Run the parts that did not end, or `datagen build {layout.manifest} --out {layout.root}`",
                    )
    return build(manifest, layout.root, config, stream, deep=deep, watcher=watcher)
