"""Shapes and cameras the render tests share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera, look_at
from datagen.render.contract import SurfaceAttributes


def sphere(n: int = 48, radii: tuple[float, float, float] = (0.08, 0.12, 0.1)) -> tuple[np.ndarray, np.ndarray]:
    """A closed latitude-longitude ellipsoid, vertices on the surface, counter-clockwise from outside."""
    theta, phi = np.meshgrid(np.linspace(0, np.pi, n + 1)[1:-1], np.arange(2 * n) * np.pi / n, indexing="ij")
    ring = np.stack([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], -1).reshape(-1, 3)
    vertices = np.concatenate([ring, [[0, 1, 0], [0, -1, 0]]]) * radii
    i, j = np.meshgrid(np.arange(n - 2), np.arange(2 * n), indexing="ij")
    a, b = i * 2 * n + j, i * 2 * n + (j + 1) % (2 * n)
    body = np.concatenate([np.stack([a, a + 2 * n, b], -1), np.stack([b, a + 2 * n, b + 2 * n], -1)]).reshape(-1, 3)
    k, nxt = np.arange(2 * n), (np.arange(2 * n) + 1) % (2 * n)
    last = (n - 2) * 2 * n
    top = np.stack([k, nxt, np.full_like(k, len(ring))], -1)
    bottom = np.stack([last + k, np.full_like(k, len(ring) + 1), last + nxt], -1)
    return vertices, np.concatenate([body, top, bottom]).astype(np.int32)


def head_like(rng: np.random.Generator, n: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid with smooth bumps: folds, self-occlusion, no symmetry."""
    vertices, faces = sphere(n, (1, 1, 1))
    waves = rng.normal(size=(3, 6)) * 3
    bumps = 0.05 * np.sin(vertices @ waves + rng.uniform(0, 6, 6)).sum(axis=1)
    return vertices * (1 + bumps)[:, None] * [0.08, 0.12, 0.1], faces


def soup(rng: np.random.Generator, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Separate, intersecting triangles of very different sizes."""
    centres = rng.uniform(-0.1, 0.1, (n, 1, 3))
    corners = centres + rng.normal(size=(n, 3, 3)) * rng.uniform(0.002, 0.04, (n, 1, 1))
    return corners.reshape(-1, 3), np.arange(3 * n, dtype=np.int32).reshape(-1, 3)


def camera_at(azimuth: float, distance: float = 0.6, size: int = 128, focal: float | None = None, **change) -> Camera:
    """A camera around the origin, looking at it."""
    centre = distance * np.array([np.sin(azimuth), 0.2, np.cos(azimuth)])
    camera = look_at(f"cam{azimuth:.2f}", centre, [0, 0, 0], focal or 2.0 * size, size, size)
    K = camera.K.copy()
    K[0, 1] = change.get("skew", 0.0)
    return Camera(camera.name, K, camera.world_to_camera, size, change.get("height", size))


def pixel_camera(width: int, height: int) -> Camera:
    """A camera for which the world point (x, y, 1) projects to pixel coordinates (x, y) exactly."""
    return Camera("pixels", np.eye(3), np.eye(4), width, height)


def attributes(vertices: npt.NDArray, faces: npt.NDArray, scale: float = 0.15) -> SurfaceAttributes:
    """Position itself as the canonical coordinate, so that the truth is known in every pixel."""
    n = len(vertices)
    return SurfaceAttributes(
        np.asarray(vertices, float),
        faces,
        (vertices / scale).astype(np.float32),
        np.ones(n, np.float32),
        np.ones(n, np.uint8),
    )
