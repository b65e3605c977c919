"""Egg-shaped heads of any number of vertices: what sets of meshes hold, in its place."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from datagen.geometry.camera import Camera
from datagen.geometry.mesh import Mesh
from tests.layouts.studio import centres

# Half axes in metres: across, up, out of the face.
AXES = np.array([0.08, 0.12, 0.1])
MIDDLE = np.array([0.01, -0.02, 0.03])


@lru_cache(maxsize=4)
def _ball(count: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy.spatial import ConvexHull

    k = np.arange(count) + 0.5
    z, turn = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    r = np.sqrt(1 - z * z)
    # Denser where the face is.
    z = z - 0.15 * (1 - z * z)
    points = np.stack([r * np.cos(turn), r * np.sin(turn), -z], 1)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    faces = ConvexHull(points).simplices
    a, b, c = (points[faces[:, k]] for k in range(3))
    inside = (np.cross(b - a, c - a) * a).sum(axis=1) < 0
    faces[inside] = faces[inside][:, ::-1]
    return points, faces


def head(count: int, frame: int = 0) -> Mesh:
    """Return a head of ``count`` vertices in metres, whose jaw drops a little from frame to frame."""
    points, faces = _ball(count)
    vertices = points * AXES + MIDDLE
    vertices[:, 1] -= 1e-3 * frame * (points[:, 1] < -0.5)
    return Mesh.of(vertices, faces)


def seen(camera_centre: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which rays (N, 3) from a point meet the head of frame 0, and the cosine to its normal there."""
    hit, where = _met(camera_centre, rays)
    normal = ((camera_centre - MIDDLE) / AXES + where[:, None] * rays / AXES) / AXES
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return hit, -(normal * rays).sum(1) / np.linalg.norm(rays, axis=1)


def _met(camera_centre: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which rays meet the head, and after how many of their lengths."""
    origin, scaled = (camera_centre - MIDDLE) / AXES, rays / AXES
    a, b, c = (scaled**2).sum(1), (scaled * origin).sum(1), origin @ origin - 1
    root = b * b - a * c
    return root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a


def egg_of(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask (H, W) bool of the head of frame 0, and its planar depth (H, W) metres, 0 beside it."""
    shown = (centres(camera.width, camera.height) - camera.K[:2, 2]) / [camera.K[0, 0], camera.K[1, 1]]
    # Of unit depth, so that their lengths are depths.
    hit, depth = _met(camera.centre, np.c_[shown, np.ones(len(shown))] @ camera.world_to_camera[:3, :3])
    shape = camera.height, camera.width
    return hit.reshape(shape), np.where(hit, depth, 0.0).reshape(shape)
