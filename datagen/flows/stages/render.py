"""The ground-truth maps and image crops of one shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from datagen.common.blas import use_one_blas_thread
from datagen.common.files import disk_refusals
from datagen.flows.framing import framing_points
from datagen.flows.stages.shards import ShardTask, View
from datagen.flows.worker import shared_head
from datagen.geometry.camera import Camera
from datagen.heads.base import HeadTemplate
from datagen.layout import BuildLayout
from datagen.manifest import Manifest, RenderConfig
from datagen.render.contract import SurfaceAttributes, ViewMaps
from datagen.render.crop import CropBox, Jitter, crop_image, draw_jitter, head_crop
from datagen.render.maps import render_views
from datagen.render.registry import make_renderer
from datagen.shards.ledger import unit_is_complete
from datagen.shards.schema import Sample
from datagen.shards.writer import write_unit
from datagen.sources.folder import FolderCaptures
from datagen.sources.frame import Frame, SequenceKey
from datagen.warp.result import Warp
from datagen.warp.storage import read_warp

# Maps held at a time; a block of views shares the loading and preparation of its frames.
BLOCK_BYTES = 256 * 2**20
BYTES_PER_PIXEL = 34


def render_shard(task: ShardTask) -> int:
    """Render and write one shard unless it is finished; return the number of samples written.

    Raises
    ------
    StorageError
        If the disk refuses.
    InputError
        If captures or warps changed since the shard was planned.
    """
    use_one_blas_thread()
    with disk_refusals(f"rendering shard {task.name}"):
        root = BuildLayout(task.root).dataset
        if unit_is_complete(root, task.unit, task.content_key):
            return 0
        write_unit(root, task.dataset, task.unit, task.content_key, ShardSamples(task))
    return task.unit.samples


class ShardSamples:
    """The samples of a shard in the order they are stored, made block by block."""

    def __init__(self, task: ShardTask) -> None:
        self._task = task
        self._source = FolderCaptures(BuildLayout(task.root).captures_of(task.manifest))
        self._template = shared_head(task.manifest.canonical.head, task.manifest.head_root).template
        self._rasteriser = make_renderer(task.manifest.render.backend)

    def __iter__(self) -> Iterator[Sample]:
        for block in blocks(self._task.views, self._task.manifest.render.resolution):
            yield from self._block(block)

    def _block(self, views: Sequence[View]) -> Iterator[Sample]:
        by_frame: dict[tuple[SequenceKey, int], list[View]] = {}
        for view in views:
            by_frame.setdefault((view.key, view.frame), []).append(view)
        frames: dict[tuple[SequenceKey, int], tuple[Frame, npt.NDArray[np.float64]]] = {}
        rendered: dict[View, tuple[CropBox, ViewMaps]] = {}
        for (key, index), seen in by_frame.items():
            frame = self._source.frame(key, index)
            warp = read_warp(BuildLayout(self._task.root).frame_warp(key, index))
            boxes = self._boxes(frame, warp, seen)
            maps = render_views(surface_of(warp), [box.camera for box in boxes], self._rasteriser, hide_back_faces=True)
            rendered.update(zip(seen, zip(boxes, maps, strict=True), strict=True))
            frames[key, index] = frame, warp.head_to_world
        for view in views:
            # Popped, so that memory falls as the samples are handed on.
            box, view_maps = rendered.pop(view)
            frame, head_to_world = frames[view.key, view.frame]
            yield _sample(frame, view, box, view_maps, head_to_world, self._task.manifest.render)

    def _boxes(self, frame: Frame, warp: Warp, views: Sequence[View]) -> list[CropBox]:
        cameras = {camera.name: camera for camera in frame.cameras}
        manifest = self._task.manifest
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


def crop_box(camera: Camera, warp: Warp, template: HeadTemplate, config: RenderConfig, jitter: Jitter) -> CropBox:
    """Return the square around face and ears that a sample shows."""
    return head_crop(camera, framing_points(warp, template), config.resolution, config.crop_margin, jitter)


def jitter_of(key: SequenceKey, camera: str, manifest: Manifest) -> Jitter:
    """Return how crops depart from those that fit: alike over a sequence, so that clips do not shake."""
    config = manifest.render.crop_jitter
    return draw_jitter(config.shift, config.scale, manifest.seed, key.subject, key.sequence, camera)


def surface_of(warp: Warp) -> SurfaceAttributes:
    """Return the frame's own scan with its canonical attributes."""
    return SurfaceAttributes(warp.scan_vertices, warp.scan_faces, warp.canonical, warp.confidence, warp.region)


def _sample(
    frame: Frame, view: View, box: CropBox, maps: ViewMaps, head_to_world: npt.NDArray[np.float64], config: RenderConfig
) -> Sample:
    read = frame.images.get(view.camera)
    resolution = config.resolution
    black = np.zeros((3, resolution, resolution), np.uint8)
    return Sample(
        image=black if read is None else crop_image(read(), box, resolution),
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
