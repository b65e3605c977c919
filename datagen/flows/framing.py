"""What cameras show of a warped head: which of them see it, the crop of a sample, the surface that is rendered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.manifest import Manifest, RenderConfig
from datagen.render.contract import SurfaceAttributes
from datagen.render.crop import CropBox, Jitter, draw_jitter, head_crop
from datagen.sources.frame import SequenceKey
from datagen.warp.result import Warp

FRAMING_REGIONS = (*FACE_REGIONS, "right_ear", "left_ear")
NEAREST_M = 0.05
LARGEST_MARGIN = 2.0


def framing_points(warp: Warp, template: HeadTemplate) -> npt.NDArray[np.float64]:
    """Return the registered vertices of face and ears, (M, 3) float64 world metres; hair and neck are left out."""
    # A registered head may be finer than the template; its first vertices are the template's own.
    own = warp.registered_vertices[: len(template.vertices)]
    return own[mask_of(template.regions, FRAMING_REGIONS)]


def cameras_in_view(cameras: Sequence[Camera], warp: Warp, template: HeadTemplate) -> tuple[str, ...]:
    """Return the names, sorted, of the cameras whose image holds the middle of the head."""
    points = framing_points(warp, template)
    seen = []
    for camera in cameras:
        pixels, z = camera.project(points)
        if z.min() < NEAREST_M:
            continue
        x, y = (pixels.min(axis=0) + pixels.max(axis=0)) / 2
        if 0 <= x < camera.width and 0 <= y < camera.height:
            seen.append(camera.name)
    return tuple(sorted(seen))


def farthest_depth(camera: Camera, warp: Warp, template: HeadTemplate) -> float:
    """Return the largest depth in metres that the scan has around the head: what crops of usual margins show."""
    head, _ = camera.project(framing_points(warp, template))
    centre, half = (head.min(axis=0) + head.max(axis=0)) / 2, np.ptp(head, axis=0).max() / 2
    pixels, z = camera.project(warp.scan_vertices)
    around = (np.abs(pixels - centre).max(axis=1) <= LARGEST_MARGIN * half) & (z > 0)
    return float(z[around].max(initial=0.0))


def crop_box(camera: Camera, warp: Warp, template: HeadTemplate, config: RenderConfig, jitter: Jitter) -> CropBox:
    """Return the square around face and ears that a sample shows."""
    return head_crop(camera, framing_points(warp, template), config.resolution, config.crop_margin, jitter)


def jitter_of(key: SequenceKey, camera: str, manifest: Manifest) -> Jitter:
    """Return how crops depart from those that fit: the same over a sequence, so that clips do not shake."""
    config = manifest.render.crop_jitter
    return draw_jitter(config.shift, config.scale, manifest.seed, key.subject, key.sequence, camera)


def surface_of(warp: Warp) -> SurfaceAttributes:
    """Return the frame's own scan with its canonical attributes."""
    return SurfaceAttributes(warp.scan_vertices, warp.scan_faces, warp.canonical, warp.confidence, warp.region)
