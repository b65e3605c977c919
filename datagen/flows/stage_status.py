"""What each stage of a build has finished, what is missing, and why: read from the disk alone."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datagen.errors import CanonfaceError, CorruptDatasetError
from datagen.flows.bridge_stage import bridged_topologies
from datagen.flows.layout import RECORD, BuildLayout
from datagen.flows.person_stage import learns_person
from datagen.flows.planning import BuildPlan, samples_per_shard
from datagen.flows.records import FrameRecord, read_frame_record
from datagen.shards import open_dataset, plan_units
from datagen.shards.ledger import read_record
from datagen.shards.plan import ENCODING_VERSION
from datagen.shards.store import LocalStore

NAMED = 5


@dataclass(frozen=True)
class StageStatus:
    """How far one stage is.

    Attributes
    ----------
    stage, unit : str
        Its name, and what it counts.
    done, planned : int
    missing : tuple of str
        Names of what is not done.
    why : str
        Why something is missing, or what was left out of it; empty if there is nothing to say.
    """

    stage: str
    unit: str
    done: int
    planned: int
    missing: tuple[str, ...] = ()
    why: str = ""

    @property
    def percent(self) -> int:
        """Share that is done, rounded down: 100 means all."""
        return 100 * self.done // self.planned if self.planned else 100

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {**vars(self), "missing": list(self.missing), "percent": self.percent}

    def __str__(self) -> str:
        text = f"{self.percent:3d} %  {self.done} of {self.planned} {self.unit}"
        if self.missing:
            more = len(self.missing) - NAMED
            text += f"; missing: {', '.join(self.missing[:NAMED])}" + (f" and {more} more" if more > 0 else "")
        return text + (f" ({self.why})" if self.why else "")


def stage_statuses(plan: BuildPlan, layout: BuildLayout) -> list[StageStatus]:
    """Return the stages of a build in their order.

    Raises
    ------
    datagen.errors.StorageError
        If the disk refuses.
    """
    stages = []
    if plan.simulations:
        missing = [str(s.key) for s in plan.simulations if not _has_capture(layout, s.key.subject, s.key.sequence)]
        stages.append(_stage("simulate", "sequences", len(plan.simulations), missing, "not simulated yet"))
    topologies = sorted(bridged_topologies(plan))
    if topologies:
        missing = [name for name in topologies if not any(layout.bridges.glob(f"{glob.escape(name)}-*/{RECORD}"))]
        stages.append(_stage("bridge", "topologies", len(topologies), missing, "not found yet"))
    learning = [s.key for s in plan.sequences if learns_person(plan.manifest, s)]
    if learning:
        missing = [str(key) for key in learning if read_frame_record(layout.person(key)) is None]
        stages.append(_stage("person", "sequences", len(learning), missing, "not learnt yet"))
    records = {(s.key, f): read_frame_record(layout.frame_warp(s.key, f)) for s in plan.sequences for f in s.frames}
    missing = [f"{key}/{frame:06d}" for (key, frame), record in records.items() if record is None]
    stages.append(_stage("warp", "frames", len(records), missing, "not warped yet, or asked for again"))
    shards = _shards(plan, layout, list(records.values()))
    stages.append(shards)
    return [*stages, *_last(layout, shards)]


def _stage(stage: str, unit: str, planned: int, missing: Sequence[str], why: str) -> StageStatus:
    return StageStatus(stage, unit, planned - len(missing), planned, tuple(missing), why if missing else "")


def _has_capture(layout: BuildLayout, subject: str, sequence: str) -> bool:
    return (layout.captures / subject / sequence / "capture.json").is_file()


def _shards(plan: BuildPlan, layout: BuildLayout, records: Sequence[FrameRecord | None]) -> StageStatus:
    """Count the shards of the frames that may be stored; frames without a verdict yet are taken to pass."""
    accepted = {"pass", "review"} if plan.manifest.shards.include_review else {"pass"}
    counts = dict.fromkeys(plan.splits, 0)
    left_out: Counter[str] = Counter()
    numbered = iter(records)
    for sequence in plan.sequences:
        for record in (next(numbered) for _ in sequence.frames):
            if record is not None and record.status not in accepted:
                left_out[f"verdict {record.status}"] += 1
            elif record is not None and not record.cameras:
                left_out["no surface in any image"] += 1
            else:
                views = sequence.cameras if record is None else len(record.cameras)
                counts[plan.split_of[sequence.key.subject]] += views
    store, units = LocalStore(layout.dataset), plan_units(counts, samples_per_shard(plan.manifest))
    missing, reasons = [], [f"{count} frames left out: {why}" for why, count in sorted(left_out.items())]
    stale = 0
    for unit in units:
        try:
            stored = read_record(store, unit)
            if stored.samples == unit.samples and stored.algorithm == ENCODING_VERSION:
                continue
            stale += 1
        except CorruptDatasetError:
            pass
        missing.append(unit.name)
    if stale:
        reasons.append(f"{stale} of other frames or another version than now")
    if missing and None in records:
        reasons.append("waiting for frames to be warped")
    elif len(missing) > stale:
        reasons.append("not rendered yet")
    return StageStatus("render", "shards", len(units) - len(missing), len(units), tuple(missing), "; ".join(reasons))


def _last(layout: BuildLayout, shards: StageStatus) -> list[StageStatus]:
    why = ""
    try:
        open_dataset(layout.dataset)
    except CanonfaceError as error:
        why = "waiting for shards" if shards.missing else error.found
    report = (layout.report / "index.html").is_file()
    return [
        StageStatus("verify", "dataset", int(not why), 1, ("dataset.zarr/zarr.json",) if why else (), why),
        StageStatus("report", "page", int(report), 1, () if report else ("report/index.html",), ""),
    ]
