"""Depth maps seen from the light."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera
from datagen.geometry.mesh import normalised
from datagen.render.protocol import Renderer

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# Seen from this many radii away a perspective camera is near enough to a distant light.
DISTANCE_RADII = 12.0


class ShadowMaps:
    """Depth maps of the blockers seen from directions."""

    def __init__(
        self, centre: F64, radius: float, blockers: tuple[F64, npt.NDArray[np.int32]], renderer: Renderer
    ) -> None:
        self._centre, self._radius, self._blockers, self._renderer = centre, radius, blockers, renderer

    def __call__(self, ways: F64, resolution: int) -> list[tuple[F64, F32]]:
        cameras = [distant_camera(self._centre, way, self._radius, resolution) for way in ways]
        seen = self._renderer.rasterise(*self._blockers, cameras)
        return [
            (np.ascontiguousarray(camera.K @ camera.world_to_camera[:3]), fragments.depth)
            for camera, fragments in zip(cameras, seen, strict=True)
        ]


def golden_spiral(n: int) -> npt.NDArray[np.float64]:
    """Return ``n`` nearly even unit vectors, (n, 3) float64 (Fibonacci lattice)."""
    i = np.arange(n) + 0.5
    y, angle = 1 - 2 * i / n, np.pi * (3 - np.sqrt(5)) * i
    r = np.sqrt(1 - y * y)
    return np.stack([r * np.cos(angle), y, r * np.sin(angle)], axis=1)


def distant_camera(
    centre: npt.NDArray[np.float64], direction: npt.NDArray[np.float64], radius: float, resolution: int
) -> Camera:
    forward = -direction
    helper = np.array([1.0, 0, 0]) if abs(forward[0]) < 0.7 else np.array([0, 1.0, 0])
    right = normalised(np.cross(forward, helper))
    R = np.stack([right, np.cross(forward, right), forward])
    E = np.eye(4)
    E[:3, :3], E[:3, 3] = R, -R @ (centre + direction * radius * DISTANCE_RADII)
    focal = 0.48 * resolution * (DISTANCE_RADII - 1)
    K = np.array([[focal, 0, resolution / 2], [0, focal, resolution / 2], [0, 0, 1.0]])
    return Camera("occlusion", K, E, resolution, resolution)
