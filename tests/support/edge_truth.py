"""Edge pixels found by ray casting alone: supersampling, then bisection of every jump between neighbours."""

from __future__ import annotations

import numpy as np
import open3d

from datagen.geometry.camera import Camera
from datagen.render.contract import STEP_M

HALVINGS = 12
NEAR_M = 1e-3


class Caster:
    """Planar depth at any place of an image, infinite where nothing is shown."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, camera: Camera) -> None:
        self._origin, self._camera = vertices.mean(axis=0), camera
        self._scene = open3d.t.geometry.RaycastingScene()
        self._scene.add_triangles(
            open3d.core.Tensor((vertices - self._origin).astype(np.float32)),
            open3d.core.Tensor(faces.astype(np.uint32)),
        )

    def __call__(self, xy: np.ndarray) -> np.ndarray:
        camera = self._camera
        rays = np.column_stack([xy, np.ones(len(xy))]) @ np.linalg.inv(camera.K).T @ camera.world_to_camera[:3, :3]
        starts = camera.centre - self._origin + NEAR_M * rays
        hits = self._scene.cast_rays(open3d.core.Tensor(np.hstack([starts, rays]).astype(np.float32)))
        return hits["t_hit"].numpy().astype(np.float64) + NEAR_M


def gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Metres between two depths; infinite where only one of them is a surface."""
    shown = np.isfinite(a), np.isfinite(b)
    metres = np.abs(np.where(shown[0], a, 0) - np.where(shown[1], b, 0))
    return np.where(shown[0] & shown[1], metres, np.where(shown[0] == shown[1], 0, np.inf))


def true_edges(
    vertices: np.ndarray, faces: np.ndarray, camera: Camera, *, samples: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels with a jump between two of their samples, and those with one at most a sample outside."""
    cast = Caster(vertices, faces, camera)
    height, width = camera.height, camera.width
    x, y = np.meshgrid((np.arange(width * samples) + 0.5) / samples, (np.arange(height * samples) + 0.5) / samples)
    z = cast(np.stack([x, y], axis=-1).reshape(-1, 2)).reshape(x.shape)
    inside, touched = np.zeros((height, width), bool), np.zeros((height, width), bool)
    for step in ((0, 1), (1, 0)):
        other = z[step[0] :, step[1] :]
        rows, columns = np.nonzero(gap(z[: other.shape[0], : other.shape[1]], other) > STEP_M)
        a = np.stack([(columns + 0.5) / samples, (rows + 0.5) / samples], axis=-1)
        b = a + np.array(step[::-1]) / samples
        jump = bisected_gap(cast, a, b) > STEP_M
        rows, columns = rows[jump], columns[jump]
        here = rows // samples, columns // samples
        there = (rows + step[0]) // samples, (columns + step[1]) // samples
        touched[here] = touched[there] = True
        same = (here[0] == there[0]) & (here[1] == there[1])
        inside[here[0][same], here[1][same]] = True
    return inside, touched


def bisected_gap(cast: Caster, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return what is left of the jump between places when they are brought together: nothing on a steep surface."""
    za, zb = cast(a), cast(b)
    for _ in range(HALVINGS):
        middle = (a + b) / 2
        z = cast(middle)
        first = gap(za, z) >= gap(z, zb)
        b, zb = np.where(first[:, None], middle, b), np.where(first, z, zb)
        a, za = np.where(first[:, None], a, middle), np.where(first, za, z)
    return gap(za, zb)
