"""The dataset's shards: which frames are stored, which view lies in which shard, and the maps of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.digests import sha256_text
from datagen.common.errors import CorruptDatasetError, InputError
from datagen.flows.framing import crop_box, jitter_of, surface_of
from datagen.flows.planning import BuildPlan, samples_per_shard
from datagen.flows.records import ResultRecord, content_key, read_result_record
from datagen.flows.stage import Stage, StageStatus, Unit
from datagen.flows.views import Views
from datagen.flows.worker import shared_head
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import REGIONS
from datagen.layout import BuildLayout
from datagen.manifest import Manifest, RenderConfig
from datagen.render.contract import RENDER_VERSION, ViewMaps
from datagen.render.crop import CropBox, crop_image
from datagen.render.maps import render_views
from datagen.render.registry import make_renderer, resolve_backend
from datagen.shards.growth import ShardUnit
from datagen.shards.ledger import read_record, unit_is_complete
from datagen.shards.ownership import foreign_files
from datagen.shards.plan import ENCODING_VERSION, DatasetPlan, plan_units
from datagen.shards.schema import ARRAYS, SPLITS, Sample
from datagen.shards.store import LocalStore
from datagen.shards.writer import write_unit
from datagen.sources.frame import Frame, SequenceKey
from datagen.warp.result import WARP_FILE, Warp
from datagen.warp.storage import read_warp

# Maps held at a time; a block of views shares the loading and preparation of its frames.
BLOCK_BYTES = 256 * 2**20
BYTES_PER_PIXEL = 34


@dataclass(frozen=True)
class View:
    """One sample to be rendered: a frame seen by a camera, and the verdict on the frame's warp."""

    key: SequenceKey
    camera: str
    frame: int
    verdict: str


@dataclass(frozen=True)
class RenderUnit(Unit):
    """One shard to be rendered.

    Attributes
    ----------
    dataset : DatasetPlan
    shard : ShardUnit
    content_key : str
    views : tuple of View
        In the order they are stored.
    """

    dataset: DatasetPlan
    shard: ShardUnit
    content_key: str
    views: tuple[View, ...]

    @property
    def name(self) -> str:
        """The shard's."""
        return f"shard {self.shard.name}"

    @property
    def weight(self) -> int:
        """Number of samples."""
        return self.shard.samples


class RenderStage(Stage[RenderUnit, int]):
    """Renders the views of all frames that are stored, shard by shard."""

    name = "render"
    counts = "views"
    doing = "rendering"

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> tuple[RenderUnit, ...]:
        """Return one unit for each shard."""
        return plan_shards(plan, layout).units

    def finished(self, unit: RenderUnit) -> bool:
        """Whether the shard is whole and of these views."""
        return unit_is_complete(unit.layout.dataset, unit.shard, unit.content_key)

    def make(self, unit: RenderUnit) -> int:
        """Render and write one shard; return the number of samples written.

        Raises
        ------
        InputError
            If captures or warps changed since the shard was planned.
        """
        if self.finished(unit):
            return 0
        write_unit(unit.layout.dataset, unit.dataset, unit.shard, unit.content_key, ShardSamples(unit))
        return unit.shard.samples

    def strangers(self, plan: BuildPlan, layout: BuildLayout) -> list[Path]:
        """Return what is in the dataset's folder, which has to verify, and is not ours."""
        del plan
        return foreign_files(layout.dataset)

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        """Count the shards of the frames that are stored; those without a verdict yet are taken to pass."""
        frames = stored_frames(plan, layout)
        counts = dict.fromkeys(plan.splits, 0)
        for sequence in plan.sequences:
            views = [len(r.cameras) for f in sequence.frames if (r := frames.records.get((sequence.key, f)))]
            waiting = sum((sequence.key, frame) in frames.waiting for frame in sequence.frames)
            counts[plan.split_of[sequence.key.subject]] += sum(views) + waiting * sequence.cameras
        store, shards = LocalStore(layout.dataset), plan_units(counts, samples_per_shard(plan.manifest))
        missing, stale = [], 0
        for shard in shards:
            try:
                stored = read_record(store, shard)
                if stored.samples == shard.samples and stored.algorithm == ENCODING_VERSION:
                    continue
                stale += 1
            except CorruptDatasetError:
                pass
            missing.append(shard.name)
        reasons = [f"{count} frames left out: {why}" for why, count in sorted(frames.left_out.items())]
        if stale:
            reasons.append(f"{stale} of other frames or another version than now")
        if missing and frames.waiting:
            reasons.append("waiting for frames to be warped")
        elif len(missing) > stale:
            reasons.append("not rendered yet")
        done = len(shards) - len(missing)
        return StageStatus(self.name, "shards", done, len(shards), tuple(missing), "; ".join(reasons))


NO_VIEW = "no surface in any image"
DEPTH_LEVELS = np.iinfo(ARRAYS["depth"].dtype).max


@dataclass(frozen=True)
class LeftOutCamera:
    """A camera of a sequence that gives no samples of some frames.

    Attributes
    ----------
    frames : int
        How many, of those that are stored or would be.
    wrong : bool
        Whether something contradicts; else it sees nothing of the head, or has no image.
    reason : str
        Of the first of them.
    """

    key: SequenceKey
    camera: str
    frames: int
    wrong: bool
    reason: str

    def __str__(self) -> str:
        frames = "1 frame" if self.frames == 1 else f"{self.frames} frames"
        return f"{self.key} camera {self.camera} ({frames}): {self.reason}"


@dataclass(frozen=True)
class StoredFrames:
    """Which frames the dataset holds.

    Attributes
    ----------
    records : mapping of sequence and frame to ResultRecord
        Of the frames that are stored.
    verdicts : mapping of status to number of frames
    left_out : mapping of reason to number of frames
        A bare point cloud has no surface to render, and a head may be outside every image: :data:`NO_VIEW`.
    cameras : tuple of LeftOutCamera
    waiting : set of sequence and frame
        Without a verdict yet.
    """

    records: Mapping[tuple[SequenceKey, int], ResultRecord]
    verdicts: Mapping[str, int]
    left_out: Mapping[str, int]
    cameras: tuple[LeftOutCamera, ...]
    waiting: frozenset[tuple[SequenceKey, int]]


def accepted_verdicts(manifest: Manifest) -> tuple[str, ...]:
    """Verdicts whose frames may be stored, sorted."""
    return ("pass", "review") if manifest.shards.include_review else ("pass",)


def stored_frames(plan: BuildPlan, layout: BuildLayout) -> StoredFrames:
    """Choose the frames that are stored: with a verdict that is accepted, and a camera that sees a surface."""
    accepted = accepted_verdicts(plan.manifest)
    records: dict[tuple[SequenceKey, int], ResultRecord] = {}
    verdicts: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    cameras: dict[tuple[SequenceKey, str], LeftOutCamera] = {}
    waiting = set()
    limit = DEPTH_LEVELS * plan.manifest.shards.depth_scale
    for sequence in plan.sequences:
        for frame in sequence.frames:
            record = read_result_record(layout.frame_warp(sequence.key, frame))
            if record is None:
                waiting.add((sequence.key, frame))
                continue
            verdicts[record.status] += 1
            if record.status not in accepted:
                left_out[f"verdict {record.status}"] += 1
                continue
            views = _within_depth(record.views, limit)
            for wrong, reasons in ((True, views.wrong), (False, views.blind)):
                for camera, reason in reasons.items():
                    first = cameras.get((sequence.key, camera), LeftOutCamera(sequence.key, camera, 0, wrong, reason))
                    # What is wrong with one frame counts for more than that the head is outside in another.
                    kept = first if first.wrong or not wrong else replace(first, wrong=True, reason=reason)
                    cameras[sequence.key, camera] = replace(kept, frames=first.frames + 1)
            stored = tuple(camera for camera in record.cameras if camera not in views.wrong)
            if stored:
                records[sequence.key, frame] = replace(record, cameras=stored)
            else:
                left_out[NO_VIEW] += 1
    return StoredFrames(records, dict(verdicts), dict(left_out), tuple(cameras.values()), frozenset(waiting))


def _within_depth(views: Views, limit_m: float) -> Views:
    """Add the cameras that see the scan farther away than depth can be stored: found late, it would end a build."""
    far = {
        camera: f"around the head the scan reaches {depth:.2f} m from it. Depth is stored up to {limit_m:.2f} m. Raise "
        f"shards.depth_scale in the manifest to {1.01 * depth / DEPTH_LEVELS:.1g} or more."
        for camera, depth in views.farthest_m.items()
        if depth >= limit_m
    }
    return replace(views, wrong={**far, **views.wrong})


@dataclass(frozen=True)
class ShardPlan:
    """What a dataset is to hold.

    Attributes
    ----------
    dataset : DatasetPlan
    units : tuple of RenderUnit
    frames : StoredFrames
    """

    dataset: DatasetPlan
    units: tuple[RenderUnit, ...]
    frames: StoredFrames


def plan_shards(plan: BuildPlan, layout: BuildLayout) -> ShardPlan:
    """Cut the views of the stored frames into shards, once every frame is warped.

    Raises
    ------
    InputError
        If a frame is not warped yet, or none is fit to be stored.
    """
    manifest, frames = plan.manifest, stored_frames(plan, layout)
    if frames.waiting:
        sequence, frame = min(frames.waiting, key=str)
        raise InputError(
            f"frame {frame} of {sequence} has no warp", "a warp of every frame", "Run `datagen build` again"
        )
    if not frames.records:
        raise InputError(
            f"none of {plan.frames} frames can be stored "
            f"({', '.join(f'{count} {status}' for status, count in sorted(frames.verdicts.items()))})",
            f"a frame with the verdict {' or '.join(accepted_verdicts(manifest))}, a scan with faces, "
            "and a camera with an image of it",
            f"`datagen explain {layout.root} --failed` says why; correct the captures and build again",
        )
    views = _views(plan, frames.records)
    dataset = _dataset_plan(plan, views, shared_head(manifest.canonical.head, manifest.head_root).template)
    units = []
    for shard in dataset.units:
        chosen = tuple(views[shard.split][shard.start : shard.stop])
        key = _shard_key(manifest, dataset, chosen, frames.records)
        units.append(RenderUnit(layout.root, manifest, dataset, shard, key, chosen))
    return ShardPlan(dataset, tuple(units), frames)


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
    manifest, recipe = plan.manifest, plan.manifest.recipe()
    stored = [view for split in views.values() for view in split]
    present = {view.key.subject for view in stored}
    keys = {view.key for view in stored}
    return DatasetPlan(
        resolution=manifest.render.resolution,
        counts={split: len(listed) for split, listed in views.items()},
        splits={split: [s for s in subjects if s in present] for split, subjects in plan.splits.items()},
        subjects=sorted(present),
        sequences=sorted({view.key.sequence for view in stored}),
        cameras=sorted({view.camera for view in stored}),
        space=template.space.to_attrs(),
        manifest=recipe,
        manifest_digest=sha256_text(recipe),
        sources=[manifest.source.origin],
        regions=REGIONS,
        epochs={str(sequence.key): sequence.epoch_s for sequence in plan.sequences if sequence.key in keys},
        samples_per_shard=samples_per_shard(manifest),
        clip=manifest.shards.clip,
        depth_scale=manifest.shards.depth_scale,
        image_error=manifest.shards.image_error,
        codecs=manifest.shards.codecs,
    )


def _shard_key(
    manifest: Manifest,
    dataset: DatasetPlan,
    views: tuple[View, ...],
    records: Mapping[tuple[SequenceKey, int], ResultRecord],
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
            "backend": resolve_backend(manifest.render.backend),
            "encoding": dataset.encoding_digest,
            "render": manifest.render.model_dump(mode="json"),
            "samples": samples,
            "seed": manifest.seed,
            "template": dataset.space["template_digest"],
        }
    )


class ShardSamples:
    """The samples of a shard in the order they are stored, made block by block."""

    def __init__(self, unit: RenderUnit) -> None:
        self._unit = unit
        self._source, self._template = unit.captures(), unit.head().template
        self._renderer = make_renderer(unit.manifest.render.backend)

    def __iter__(self) -> Iterator[Sample]:
        for block in blocks(self._unit.views, self._unit.manifest.render.resolution):
            yield from self._block(block)

    def _block(self, views: Sequence[View]) -> Iterator[Sample]:
        by_frame: dict[tuple[SequenceKey, int], list[View]] = {}
        for view in views:
            by_frame.setdefault((view.key, view.frame), []).append(view)
        frames: dict[tuple[SequenceKey, int], tuple[Frame, npt.NDArray[np.float64]]] = {}
        rendered: dict[View, tuple[CropBox, ViewMaps]] = {}
        for (key, index), seen in by_frame.items():
            frame = self._source.frame(key, index)
            warp = read_warp(self._unit.layout.frame_warp(key, index))
            boxes = self._boxes(frame, warp, seen)
            maps = render_views(surface_of(warp), [box.camera for box in boxes], self._renderer, hide_back_faces=True)
            rendered.update(zip(seen, zip(boxes, maps, strict=True), strict=True))
            frames[key, index] = frame, warp.head_to_world
        for view in views:
            # Popped, so that memory falls as the samples are handed on.
            box, view_maps = rendered.pop(view)
            frame, head_to_world = frames[view.key, view.frame]
            yield _sample(frame, view, box, view_maps, head_to_world, self._unit.manifest.render)

    def _boxes(self, frame: Frame, warp: Warp, views: Sequence[View]) -> list[CropBox]:
        cameras = {camera.name: camera for camera in frame.cameras}
        manifest = self._unit.manifest
        return [
            crop_box(
                cameras[view.camera], warp, self._template, manifest.render, jitter_of(view.key, view.camera, manifest)
            )
            for view in views
        ]


def blocks(views: Sequence[View], resolution: int) -> Iterator[Sequence[View]]:
    """Cut the views of a shard so that the maps of one block fit :data:`BLOCK_BYTES`."""
    size = max(1, BLOCK_BYTES // (BYTES_PER_PIXEL * resolution**2))
    for start in range(0, len(views), size):
        yield views[start : start + size]


def _sample(
    frame: Frame, view: View, box: CropBox, maps: ViewMaps, head_to_world: npt.NDArray[np.float64], config: RenderConfig
) -> Sample:
    if view.camera not in frame.images:
        raise InputError(
            f"frame {view.frame} of {view.key} has no image of camera {view.camera} any more",
            "the captures that were warped",
            "Run `datagen build` again",
        )
    return Sample(
        image=crop_image(frame.images[view.camera](), box, config.resolution),
        depth=maps.depth,
        canonical=maps.canonical,
        normal=maps.normal,
        confidence=maps.confidence,
        region=maps.region,
        edge=maps.edge,
        intrinsics=box.camera.K.astype(np.float32),
        world_to_camera=box.camera.world_to_camera.astype(np.float32),
        head_to_world=head_to_world.astype(np.float32),
        subject=frame.key.subject,
        sequence=frame.key.sequence,
        camera=view.camera,
        frame=frame.index,
        time=frame.time_s,
        verdict=view.verdict,
    )
