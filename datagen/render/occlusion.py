"""Ambient occlusion per vertex, from depth maps seen from many directions."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera
from datagen.geometry.mesh import normalised
from datagen.render.protocol import Renderer

# Seen from this many radii away a perspective camera is near enough to a distant light.
DISTANCE_RADII = 12.0
# Visibility is tested this far above the surface, in radii, so that the surface does not hide itself in the
# staircase of its own depth map.
LIFT_RADII = 0.025


def ambient_occlusion(
    vertices: npt.NDArray[np.floating],
    faces: npt.NDArray[np.integer],
    normals: npt.NDArray[np.floating],
    rasteriser: Renderer,
    *,
    directions: int = 24,
    resolution: int = 128,
    strength: float = 1.0,
) -> npt.NDArray[np.float32]:
    """Return the cosine-weighted share of the surroundings each vertex sees, (N,) float32 in [0, 1].

    Parameters
    ----------
    vertices : (N, 3) float
        Metres.
    faces : (F, 3) int
    normals : (N, 3) float
        Unit vertex normals.
    rasteriser : Renderer
    directions : int
        Number of directions, evenly spread over the sphere (golden spiral).
    resolution : int
        Pixels a side of each depth map.
    strength : float
        Exponent; 1 is physical for a convex surrounding without interreflection, lower is softer.

    Raises
    ------
    datagen.errors.MeshError
        If the mesh is not valid.
    """
    v, n = np.asarray(vertices, np.float64), np.asarray(normals, np.float64)
    centre = (v.min(axis=0) + v.max(axis=0)) / 2
    radius = float(np.linalg.norm(v - centre, axis=1).max()) or 1.0
    ways = golden_spiral(directions)
    cameras = [_distant_camera(centre, way, radius, resolution) for way in ways]
    lifted, n = v + LIFT_RADII * radius * n, np.ascontiguousarray(n)
    seen, total = np.zeros(len(v)), np.zeros(len(v))
    for way, camera, fragments in zip(ways, cameras, rasteriser.rasterise(v, faces, cameras), strict=True):
        projection = np.ascontiguousarray(camera.K @ camera.world_to_camera[:3])
        _accumulate(lifted, n, np.ascontiguousarray(way), projection, fragments.depth, seen, total)
    return (np.divide(seen, total, out=np.ones_like(seen), where=total > 0) ** strength).astype(np.float32)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _accumulate(points, normals, way, projection, depth, seen, total):  # type: ignore[no-untyped-def]
    """Add one direction's weight to every vertex that faces it, and to ``seen`` where nothing lies before it."""
    height, width = depth.shape
    for i in range(len(points)):
        weight = normals[i, 0] * way[0] + normals[i, 1] * way[1] + normals[i, 2] * way[2]
        if not weight > 0:
            continue
        total[i] += weight
        x, y, z = points[i]
        w = projection[2, 0] * x + projection[2, 1] * y + projection[2, 2] * z + projection[2, 3]
        u = (projection[0, 0] * x + projection[0, 1] * y + projection[0, 2] * z + projection[0, 3]) / w
        v = (projection[1, 0] * x + projection[1, 1] * y + projection[1, 2] * z + projection[1, 3]) / w
        nearest = depth[min(max(int(v), 0), height - 1), min(max(int(u), 0), width - 1)]
        if nearest == 0 or w < nearest:
            seen[i] += weight


def golden_spiral(n: int) -> npt.NDArray[np.float64]:
    """Return ``n`` nearly even unit vectors, (n, 3) float64 (Fibonacci lattice)."""
    i = np.arange(n) + 0.5
    y, angle = 1 - 2 * i / n, np.pi * (3 - np.sqrt(5)) * i
    r = np.sqrt(1 - y * y)
    return np.stack([r * np.cos(angle), y, r * np.sin(angle)], axis=1)


def _distant_camera(
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
