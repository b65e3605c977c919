"""How far a build is, read from the disk alone."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datagen.common.errors import CanonfaceError, CorruptDatasetError, DatasetError, InputError
from datagen.flows.planning import BuildPlan, plan_build, samples_per_shard
from datagen.flows.records import ResultRecord, clear_folder, read_result_record
from datagen.flows.stages.bridge import bridged_topologies
from datagen.flows.stages.person import learns_person
from datagen.layout import RECORD, BuildLayout
from datagen.shards import list_records, open_dataset, plan_units
from datagen.shards.ledger import read_record
from datagen.shards.plan import ENCODING_VERSION
from datagen.shards.store import LocalStore
from datagen.sources.frame import SequenceKey
from datagen.warp.result import PERSON_FILE
from datagen.warp.storage import read_prior, read_verdict

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
    datagen.common.errors.StorageError
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
        missing = [str(key) for key in learning if read_result_record(layout.person(key)) is None]
        stages.append(_stage("person", "sequences", len(learning), missing, "not learnt yet"))
    records = {(s.key, f): read_result_record(layout.frame_warp(s.key, f)) for s in plan.sequences for f in s.frames}
    missing = [f"{key}/{frame:06d}" for (key, frame), record in records.items() if record is None]
    stages.append(_stage("warp", "frames", len(records), missing, "not warped yet, or asked for again"))
    shards = _shards(plan, layout, list(records.values()))
    stages.append(shards)
    return [*stages, *_last(layout, shards)]


def _stage(stage: str, unit: str, planned: int, missing: Sequence[str], why: str) -> StageStatus:
    return StageStatus(stage, unit, planned - len(missing), planned, tuple(missing), why if missing else "")


def _has_capture(layout: BuildLayout, subject: str, sequence: str) -> bool:
    return (layout.captures / subject / sequence / "capture.json").is_file()


def _shards(plan: BuildPlan, layout: BuildLayout, records: Sequence[ResultRecord | None]) -> StageStatus:
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
    report = layout.report_page.is_file()
    return [
        StageStatus("verify", "dataset", int(not why), 1, ("dataset.zarr/zarr.json",) if why else (), why),
        StageStatus("report", "page", int(report), 1, () if report else ("report/index.html",), ""),
    ]


@dataclass(frozen=True)
class FrameName:
    """A frame as a user writes it: ``subject/sequence/frame``, where later parts may be left out to mean all."""

    subject: str
    sequence: str | None = None
    frame: int | None = None

    @classmethod
    def parse(cls, text: str) -> FrameName:
        """Read ``subject[/sequence[/frame]]``.

        Raises
        ------
        InputError
            If it is not of that form.
        """
        parts = text.strip("/").split("/")
        if not 1 <= len(parts) <= 3 or not all(parts) or (len(parts) == 3 and not parts[2].isdigit()):
            raise InputError(f"{text!r} names no frame", "subject, subject/sequence or subject/sequence/frame")
        return cls(parts[0], parts[1] if len(parts) > 1 else None, int(parts[2]) if len(parts) > 2 else None)

    def covers(self, key: SequenceKey, frame: int) -> bool:
        """Whether a frame is meant."""
        return self.subject == key.subject and self.sequence in (None, key.sequence) and self.frame in (None, frame)


def build_status(layout: BuildLayout) -> dict[str, Any]:
    """Return counts of what is planned and what is on disk, JSON-ready; ``stages`` says what is missing and why.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        If this is no build folder, or its captures can no longer be planned.
    """
    plan = plan_build(layout.read_manifest())
    verdicts: Counter[str] = Counter()
    persons: Counter[str] = Counter()
    for sequence in plan.sequences:
        person = read_result_record(layout.person(sequence.key))
        if person is not None:
            persons[person.status] += 1
        for frame in sequence.frames:
            record = read_result_record(layout.frame_warp(sequence.key, frame))
            if record is not None:
                verdicts[record.status] += 1
    records = list_records(layout.dataset)
    try:
        dataset = open_dataset(layout.dataset)
        finished, uuid = True, dataset.uuid
    except DatasetError:
        finished, uuid = False, ""
    stages = stage_statuses(plan, layout)
    return {
        "name": plan.manifest.name,
        "stages": [stage.to_json() for stage in stages],
        "sequences": len(plan.sequences),
        "persons": dict(sorted(persons.items())),
        "frames": plan.frames,
        "frames_warped": sum(verdicts.values()),
        "verdicts": dict(sorted(verdicts.items())),
        "shards_written": len(records),
        "samples_written": sum(record.samples for record in records),
        "samples_if_all_pass": sum(plan.views().values()),
        "dataset_finished": finished,
        "dataset_uuid": uuid,
        "report": layout.report_page.is_file(),
    }


def chosen_frames(
    plan: BuildPlan, layout: BuildLayout, names: list[FrameName], statuses: set[str]
) -> list[tuple[SequenceKey, int]]:
    """Return the frames that are named, or whose verdict is one of ``statuses``.

    Raises
    ------
    InputError
        If a name covers no frame of the build.
    """
    frames = [(sequence.key, frame) for sequence in plan.sequences for frame in sequence.frames]
    for name in names:
        if not any(name.covers(key, frame) for key, frame in frames):
            number = None if name.frame is None else f"{name.frame:06d}"
            text = "/".join(part for part in (name.subject, name.sequence, number) if part is not None)
            raise InputError(
                f"no frame of this build is called {text}",
                f"names such as {frames[0][0]}/{frames[0][1]:06d}",
                "`datagen plan --json` lists all",
            )
    chosen = []
    for key, frame in frames:
        record = read_result_record(layout.frame_warp(key, frame)) if statuses else None
        if any(name.covers(key, frame) for name in names) or (record is not None and record.status in statuses):
            chosen.append((key, frame))
    return chosen


def requeue(plan: BuildPlan, layout: BuildLayout, frames: list[tuple[SequenceKey, int]]) -> list[SequenceKey]:
    """Forget the results of frames, and the person of each sequence none of whose frames is left; return the latter.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    chosen, forgotten = set(frames), []
    for key, frame in frames:
        clear_folder(layout.frame_warp(key, frame))
    for sequence in plan.sequences:
        if chosen.issuperset((sequence.key, frame) for frame in sequence.frames):
            folder = layout.person(sequence.key)
            if folder.is_dir():
                clear_folder(folder)
                forgotten.append(sequence.key)
    return forgotten


def explain_frame(layout: BuildLayout, key: SequenceKey, frame: int) -> dict[str, Any]:
    """Return verdict, reasons, figures and record of a frame, JSON-ready.

    ``person_frames`` are those the sequence's person was learnt from; empty if there is none.

    Raises
    ------
    InputError
        If the frame has no verdict.
    """
    folder = layout.frame_warp(key, frame)
    verdict, record = read_verdict(folder), read_result_record(folder)
    person = layout.person(key)
    return {
        "subject": key.subject,
        "sequence": key.sequence,
        "frame": frame,
        "verdict": verdict.status,
        "reasons": list(verdict.reasons),
        "figures": dict(verdict.figures),
        "cameras": list(record.cameras) if record else [],
        "person_frames": list(read_prior(person).frames) if (person / PERSON_FILE).is_file() else [],
        "content_key": record.content_key if record else "",
        "input_digest": record.input_digest if record else "",
    }
