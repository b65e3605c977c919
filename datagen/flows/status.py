"""How far a build has got, read from the disk alone; and its frames by name, to explain or to forget them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datagen.common.errors import DatasetError, InputError
from datagen.common.names import MOST_DIGITS
from datagen.flows.cost import cost_of
from datagen.flows.folder_plan import plan_in
from datagen.flows.history import is_partial
from datagen.flows.own_settings import own_of
from datagen.flows.planning import BuildPlan
from datagen.flows.records import known_result, read_result_record, read_results
from datagen.flows.stages import STAGES
from datagen.flows.state_index import reading_index
from datagen.flows.work_log import WorkRead
from datagen.layout import BuildLayout
from datagen.shards import list_records, open_dataset
from datagen.shards.ledger import is_there
from datagen.shards.schema import SPLITS
from datagen.sources.frame import SequenceKey
from datagen.warp.result import PERSON_FILE
from datagen.warp.storage import read_prior, read_verdict

_DIGITS = re.compile(rf"[0-9]{{1,{MOST_DIGITS}}}")


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
        if not 1 <= len(parts) <= 3 or not all(parts) or (len(parts) == 3 and not _DIGITS.fullmatch(parts[2])):
            raise InputError(
                f"{text!r} names no frame",
                "subject, subject/sequence or subject/sequence/frame",
                "For example: s003/performance/000002",
            )
        return cls(parts[0], parts[1] if len(parts) > 1 else None, int(parts[2]) if len(parts) > 2 else None)

    def covers(self, key: SequenceKey, frame: int) -> bool:
        """Whether a frame is meant."""
        return self.subject == key.subject and self.sequence in (None, key.sequence) and self.frame in (None, frame)


def build_status(layout: BuildLayout, workers: int | None = None, work: WorkRead | None = None) -> dict[str, Any]:
    """Return counts of what is planned and what is on disk, JSON-ready.

    ``stages`` says what is missing and why, ``work`` what the units took that were made, by stage and machine, and
    ``left`` what the rest will take.

    Parameters
    ----------
    workers : int, optional
        That are to do the rest; by default as many as worked lately.
    work : WorkRead, optional
        What was read before of what units took.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        If this is not a build folder, or its captures can no longer be planned.
    """
    plan = plan_in(layout)
    work = work or WorkRead(layout)
    with reading_index(layout):
        work.look()
        return _status(plan, layout, work, workers)


def _status(plan: BuildPlan, layout: BuildLayout, work: WorkRead, workers: int | None) -> dict[str, Any]:
    verdicts: Counter[str] = Counter()
    persons: Counter[str] = Counter()
    for sequence in plan.sequences:
        person = known_result(layout.root, layout.person(sequence.key))
        if person is not None:
            persons[person.status] += 1
        for record in read_results(layout, sequence):
            if record is not None:
                verdicts[record.status] += 1
    # A shard's record comes before its files.
    records = [record for record in list_records(layout.dataset) if is_there(layout.dataset, record)]
    try:
        dataset = open_dataset(layout.dataset)
        finished, uuid, partial = True, dataset.uuid, is_partial(dataset.plan.manifest)
    except DatasetError:
        finished, uuid, partial = False, "", False
    applied = [stage for stage in STAGES if stage.applies(plan)]
    stages = [stage.status(plan, layout) for stage in applied]
    counts = {stage.name: stage.counts for stage in applied if stage.carried}
    carried = [status for status in stages if status.stage in counts]
    left = cost_of(carried, work.stages, counts, workers or work.at_a_time or 1)
    return {
        "name": plan.manifest.name,
        "stages": [stage.to_json() for stage in stages],
        "sequences": len(plan.sequences),
        "persons": dict(sorted(persons.items())),
        "frames": plan.frames,
        "frames_warped": sum(verdicts.values()),
        "verdicts": dict(sorted(verdicts.items())),
        "shards_written": len(records),
        "samples_written": sum(record.samples for record in records if record.group in SPLITS),
        "samples_if_all_pass": sum(plan.views().values()),
        "splits": plan.split_policy,
        "dataset_finished": finished,
        "dataset_partial": partial,
        "own_settings": _own_settings(plan),
        "dataset_uuid": uuid,
        "report": layout.report_page.is_file(),
        "work": {
            stage.name: {**work.stages[stage.name].to_json(), "counts": stage.counts}
            for stage in STAGES
            if stage.name in work.stages
        },
        "left": {**left.to_json(), "text": str(left)},
    }


def _own_settings(plan: BuildPlan) -> dict[str, dict[str, Any]]:
    """Return the settings of their own that frames have, by the frames' names."""
    return {
        f"{name}/{frame:06d}": own_of(text)
        for name, frames in sorted(plan.own.items())
        for frame, text in sorted(frames.items())
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


def requeue(plan: BuildPlan, layout: BuildLayout, frames: Sequence[tuple[SequenceKey, int]]) -> dict[str, list[str]]:
    """Have every stage forget its results of frames; return by stage the names of what is forgotten.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    return {stage.name: stage.forget(plan, layout, set(frames)) for stage in STAGES}


def explain_frame(layout: BuildLayout, key: SequenceKey, frame: int) -> dict[str, Any]:
    """Return verdict, reasons, metrics and record of a frame, JSON-ready.

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
        "figures": dict(verdict.metrics),
        "cameras": list(record.cameras) if record else [],
        "person_frames": list(read_prior(person).frames) if (person / PERSON_FILE).is_file() else [],
        "content_key": record.content_key if record else "",
        "own_settings": dict(record.own) if record else {},
        "input_digest": record.input_digest if record else "",
    }
