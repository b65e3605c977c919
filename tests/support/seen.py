"""Points of a template as cameras around a face would see them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from datagen.common.arrays import F64, I64
from datagen.common.seen_points import SeenPoints
from datagen.geometry.camera import Camera
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.heads.base import HeadTemplate

SIX = ((-0.9, 0.0), (-0.5, 0.2), (-0.2, -0.2), (0.2, 0.2), (0.5, -0.1), (0.9, 0.1))


def cameras_around(
    centre: F64, angles: Sequence[tuple[float, float]] = SIX, *, size_px: int = 96, field_m: float = 0.28
) -> list[Camera]:
    """Return cameras a metre from a face that looks along +z, at angles of yaw and pitch (rad)."""
    cameras = []
    for k, (yaw, pitch) in enumerate(angles):
        outward = np.array([math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)])
        across = np.cross(-outward, [0.0, 1.0, 0.0])
        across /= np.linalg.norm(across)
        rotation = np.stack([across, np.cross(-outward, across), -outward])
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ (centre + outward)
        focal, middle = size_px / field_m, size_px / 2
        K = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
        cameras.append(Camera(f"c{k}", K, pose, size_px, size_px))
    return cameras


def seen_vertices(
    template: HeadTemplate,
    positions: F64,
    chosen: I64,
    camera: Camera,
    random: np.random.Generator,
    *,
    sigma_px: float = 1.0,
    source: str = "test",
    shared_m: F64 | None = None,
) -> PixelEvidence:
    """Return some vertices (n,) as a camera sees them at positions (V, 3), with noise of a standard deviation."""
    faces, shares = np.zeros(len(positions), np.int64), np.zeros((len(positions), 3))
    for corner in range(3):
        faces[template.faces[:, corner]] = np.arange(len(template.faces))
        shares[template.faces[:, corner]] = np.eye(3)[corner]
    pixels = camera.project(positions[chosen])[0]
    pixels = pixels + random.normal(0, sigma_px, pixels.shape)
    covariance = np.tile(np.eye(2) * sigma_px**2, (len(chosen), 1, 1))
    digest = template.digest
    points = SeenPoints(source, digest, camera.width, camera.height, faces[chosen], shares[chosen], pixels, covariance)
    if shared_m is not None:
        points = SeenPoints(**{**points.__dict__, "shared_m": shared_m})
    return PixelEvidence(points, camera)
