"""The last steps of a build: finalise, verify, report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from datagen.common.files import atomic_write_bytes, disk_refusals
from datagen.flows.planning import BuildPlan
from datagen.flows.records import content_key, read_result_record
from datagen.flows.stages.person import learns_person
from datagen.flows.stages.shards import ShardPlan
from datagen.layout import RECORD, BuildLayout
from datagen.shards import VerifyReport, finalise, open_dataset, read_record, verify_dataset
from datagen.shards.store import LocalStore


def finish_dataset(layout: BuildLayout, shards: ShardPlan) -> VerifyReport:
    """Turn the finished shards into a dataset and check every byte of it.

    Raises
    ------
    StorageError
        If a shard is missing, or the disk refuses.
    """
    with disk_refusals("finishing the dataset"):
        records = [read_record(LocalStore(layout.dataset), unit) for unit in shards.dataset.units]
        finalise(layout.dataset, shards.dataset, records)
        return verify_dataset(layout.dataset)


def remove_stale_warps(layout: BuildLayout, plan: BuildPlan) -> None:
    """Remove warps of frames and persons that are no longer in the plan: the report must speak of this build only."""
    planned = {layout.frame_warp(s.key, frame) for s in plan.sequences for frame in s.frames}
    planned |= {layout.person(s.key) for s in plan.sequences if learns_person(plan.manifest, s)}
    for folder in sorted(layout.warps.glob("*/*/*")):
        if folder not in planned and folder.is_dir():
            (folder / RECORD).unlink(missing_ok=True)
            shutil.rmtree(folder)


def refresh_report(layout: BuildLayout, plan: BuildPlan) -> Path:
    """Write the audit report, unless the one on disk tells of the same warps and dataset.

    Returns
    -------
    Path
        ``report/index.html``.
    """
    from datagen.audit.report import write_report

    index, key_file = layout.report_page, layout.report_key
    key = _report_key(layout, plan)
    if index.is_file() and key_file.is_file() and key_file.read_text().strip() == key:
        return index
    with disk_refusals("writing the report"):
        for leftover in layout.root.glob("report.tmp-*"):
            shutil.rmtree(leftover)
        index = write_report(layout.root)
        atomic_write_bytes(key_file, f"{key}\n".encode())
    return index


def _report_key(layout: BuildLayout, plan: BuildPlan) -> str:
    keys: list[Sequence[str]] = []
    for sequence in plan.sequences:
        for frame in sequence.frames:
            record = read_result_record(layout.frame_warp(sequence.key, frame))
            keys.append((str(sequence.key), str(frame), record.content_key if record else ""))
    return content_key({"dataset": open_dataset(layout.dataset).uuid, "frames": keys})
