"""Which part of a head frames the picture, and which cameras see it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.warp.result import Warp

FRAMING_REGIONS = (*FACE_REGIONS, "right_ear", "left_ear")
NEAREST_M = 0.05


def framing_points(warp: Warp, template: HeadTemplate) -> npt.NDArray[np.float64]:
    """Return the registered vertices of face and ears, (M, 3) float64 world metres; hair and neck do not frame."""
    # A registered head may be finer than the template; its first vertices are the template's own.
    own = warp.registered_vertices[: len(template.vertices)]
    return own[mask_of(template.regions, FRAMING_REGIONS)]


def cameras_in_view(cameras: Sequence[Camera], warp: Warp, template: HeadTemplate) -> tuple[str, ...]:
    """Return the names, sorted, of the cameras whose image holds the middle of the head; none for a point cloud."""
    if len(warp.scan_faces) == 0:
        return ()
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
