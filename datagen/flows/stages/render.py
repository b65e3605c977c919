"""The shards of a dataset's splits: the maps of every view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.files import write_owned_bytes
from datagen.flows.framing import crop_box, jitter_of
from datagen.flows.history import Stored
from datagen.flows.made import Made
from datagen.flows.plan_store import freeze, refer
from datagen.flows.planning import BuildPlan, samples_per_shard
from datagen.flows.shard_plan import View, expected_shards, history_of, missing_shards, plan_shards
from datagen.flows.shard_store import ShardReference, ShardWork, freeze_shards, refer_to_shards
from datagen.flows.stage import Stage, StageStatus
from datagen.flows.stored_frames import stored_frames
from datagen.flows.surfaces import SURFACES, ShownFrame
from datagen.layout import BuildLayout
from datagen.manifest import RenderConfig
from datagen.render.contract import LEAST_CONFIDENCE, ON_EDGE, Renderer, ViewMaps
from datagen.render.crop import CropBox, crop_image, crop_mask
from datagen.render.registry import held_renderer, make_renderer
from datagen.shards.ownership import foreign_files
from datagen.shards.schema import Sample
from datagen.shards.store import LocalStore
from datagen.shards.writer import write_unit
from datagen.sources.frame import Frame, SequenceKey
from datagen.warp.result import Warp
from datagen.warp.storage import read_warp

# Maps held at a time; a block of views shares the loading and preparation of its frames.
BLOCK_BYTES = 256 * 2**20
BYTES_PER_PIXEL = 34
WHOLE = 255  # a mask's pixel that is the person's altogether


@dataclass(frozen=True)
class RenderUnit(ShardWork):
    """One shard to be rendered.

    Attributes
    ----------
    views : tuple of View
        In the order they are stored.
    """

    views: tuple[View, ...]

    @property
    def weight(self) -> int:
        """Number of samples."""
        return self.shard.samples

    @property
    def sources(self) -> list[Stored]:
        """The frames of its views."""
        return list(dict.fromkeys((view.key, view.frame) for view in self.views))


@dataclass(frozen=True)
class RenderReference(ShardReference):
    """One shard to be rendered."""

    @property
    def weight(self) -> int:
        """Number of samples."""
        return self.shard.samples

    @property
    def unit(self) -> RenderUnit:
        """The shard itself."""
        planned, shards = self.planned, self.planned_shards
        views = shards.views(self.number)
        return RenderUnit(self.root, planned.manifest, shards.dataset, self.shard, self.content_key, views)


class RenderStage(Stage[RenderUnit | RenderReference, int]):
    """Renders the views of all frames that are stored, shard by shard."""

    name = "render"
    counts = "views"
    doing = "rendering"
    makes_results = False

    def plan(self, plan: BuildPlan, layout: BuildLayout) -> tuple[RenderReference, ...]:
        """Return one for each shard."""
        planned = plan_shards(plan, layout)
        digests = refer(plan, layout), refer_to_shards(planned, layout)
        return tuple(
            RenderReference(layout.root, *digests, number, each.shard, each.content_key)
            for number, each in enumerate(planned.shards)
        )

    def begin(self, plan: BuildPlan, layout: BuildLayout) -> None:
        """Keep what this run adds to the build, before any of it is stored."""
        super().begin(plan, layout)
        planned = plan_shards(plan, layout)
        freeze_shards(planned, layout)
        if plan.chosen:
            # The dataset of all frames is not to be another for it.
            return
        text = planned.history.to_bytes()
        if not layout.history.is_file() or layout.history.read_bytes() != text:
            write_owned_bytes(layout.history, text)

    def early(self, plan: BuildPlan, layout: BuildLayout, settled: int) -> list[RenderReference]:
        """Return the shards that are known before every frame is warped, and write what tasks refer to.

        A shard's content is known once all frames before its last one are warped, if nothing that comes later can have
        other names: those of a first build whose sequences share their names and cameras. What is rendered early is
        found finished by :meth:`plan`, which alone decides; a guess that is wrong costs time.

        Parameters
        ----------
        settled : int
            How many sequences of the plan, from the first, are warped or left out.
        """
        first = replace(plan, sequences=plan.sequences[:settled], whole=plan.whole[:settled])
        later = plan.sequences[settled:]
        names = {sequence.key.sequence for sequence in first.sequences}
        if not first.sequences or not later or history_of(plan, layout).steps:
            return []
        if not {sequence.key.sequence for sequence in later} <= names:
            return []
        try:
            planned = plan_shards(first, layout)
        except InputError:
            # None of them is fit to be stored.
            return []
        if {sequence.cameras for sequence in plan.sequences} != {len(planned.dataset.cameras)}:
            return []
        digests = refer(plan, layout), refer_to_shards(planned, layout)
        freeze(plan, layout)
        freeze_shards(planned, layout)
        return [
            RenderReference(layout.root, *digests, number, each.shard, each.content_key)
            for number, each in enumerate(planned.shards)
            if each.shard.samples == samples_per_shard(plan.manifest)
        ]

    def finished(self, unit: RenderUnit | RenderReference) -> bool:
        """Whether the shard is whole and of these views."""
        return unit.complete

    def known(self, unit: RenderUnit | RenderReference) -> bool:
        """Whether the build's index knows that."""
        return unit.known_complete

    def make(self, unit: RenderUnit | RenderReference) -> int:
        """Render and write one shard; return the number of samples written.

        Raises
        ------
        InputError
            If captures or warps changed since the shard was planned.
        """
        if self.finished(unit):
            return 0
        unit = unit.unit
        with held_renderer(unit.manifest.render.backend) as renderer:
            samples = ShardSamples(unit, renderer)
            unit.checked(write_unit(unit.layout.dataset, unit.dataset, unit.shard, unit.content_key, samples))
        return unit.shard.samples

    def made(self, unit: RenderUnit | RenderReference) -> list[Made]:
        """Return the shard's key, and what its frames were read from."""
        return [unit.unit.made]

    def disown(self, unit: RenderUnit | RenderReference) -> None:
        """Have the shard written again."""
        unit.unit.disown()

    def strangers(self, plan: BuildPlan, layout: BuildLayout) -> list[Path]:
        """Return what is in the dataset's folder, which has to verify, and is not ours."""
        del plan
        return foreign_files(layout.dataset)

    def status(self, plan: BuildPlan, layout: BuildLayout) -> StageStatus:
        """Count the shards of the frames that are stored; those without a verdict yet are taken to pass."""
        frames = stored_frames(plan, layout)
        shards = expected_shards(plan, layout, frames, faces=False)
        missing, stale = missing_shards(LocalStore(layout.dataset), shards)
        reasons = [f"{count} frames left out: {why}" for why, count in sorted(frames.left_out.items())]
        if stale:
            reasons.append(f"{stale} of other frames or another version than now")
        if missing and frames.waiting:
            reasons.append("waiting for frames to be warped")
        elif len(missing) > stale:
            reasons.append("not rendered yet")
        done = len(shards) - len(missing)
        return StageStatus(self.name, "shards", done, len(shards), tuple(missing), "; ".join(reasons))


class ShardSamples:
    """The samples of a shard in the order they are stored, made block by block.

    Parameters
    ----------
    unit : RenderUnit
    renderer : Renderer, optional
        By default the backend's own choice of a device.
    """

    def __init__(self, unit: RenderUnit, renderer: Renderer | None = None) -> None:
        self._unit = unit
        self._source, self._template = unit.captures(), unit.head().template
        self._renderer = renderer or make_renderer(unit.manifest.render.backend)

    def __iter__(self) -> Iterator[Sample]:
        for block in blocks(self._unit.views, self._unit.manifest.render.resolution):
            yield from self._block(block)

    def _block(self, views: Sequence[View]) -> Iterator[Sample]:
        manifest = self._unit.manifest
        by_frame: dict[tuple[SequenceKey, int], list[View]] = {}
        for view in views:
            by_frame.setdefault((view.key, view.frame), []).append(view)
        frames: dict[tuple[SequenceKey, int], tuple[Frame, npt.NDArray[np.float64]]] = {}
        rendered: dict[View, tuple[CropBox, ViewMaps]] = {}
        for (key, index), seen in by_frame.items():
            frame = self._source.frame(key, index)
            warp = read_warp(self._unit.layout.frame_warp(key, index))
            boxes = self._boxes(frame, warp, seen)
            normals = None if frame.fused else frame.scan.normals
            # Points may have been left out before the warp.
            normals = normals if normals is not None and len(normals) == len(warp.scan_vertices) else None
            shown = ShownFrame(warp, self._template, manifest.warp, self._renderer, frame.depths, normals)
            views_of = SURFACES[manifest.render.shown(fused=frame.fused)]
            maps = views_of(shown, [(view.camera, box.camera) for view, box in zip(seen, boxes, strict=True)])
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
    mask = crop_mask(frame.masks[view.camera](), box, config.resolution) if view.camera in frame.masks else None
    return Sample(
        image=crop_image(frame.images[view.camera](), box, config.resolution),
        depth=maps.depth,
        canonical=maps.canonical,
        normal=maps.normal,
        confidence=maps.confidence if mask is None else _doubted(maps, mask),
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
        frame_row=view.frame_row,
        mask=mask,
    )


def _doubted(maps: ViewMaps, mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the confidence less what the mask takes from it: at its border and beyond the picture shows other things.

    Where the surface has an edge itself, that is counted already.
    """
    factor = np.where((mask < WHOLE) & ~maps.edge, np.float32(ON_EDGE), np.float32(1))
    return np.where(maps.mask, np.maximum(maps.confidence * factor, np.float32(LEAST_CONFIDENCE)), np.float32(0))
