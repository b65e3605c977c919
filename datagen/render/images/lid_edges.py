"""Where the lids end and the eyeballs begin, found by looking at the template from the front."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera, look_at
from datagen.render.backends import make_renderer

F64 = npt.NDArray[np.float64]

PIXELS, PIXEL_MM, DISTANCE_MM = 320, 0.16, 4000.0


def lid_edges(
    points_mm: F64, faces: npt.NDArray[np.int32], eyeball: npt.NDArray[np.bool_], marks_mm: F64
) -> tuple[F64, F64]:
    """Return points on the edges of the upper and the lower lids, (K, 3) float64 millimetres.

    Parameters
    ----------
    points_mm : (N, 3) float64
    faces : (F, 3) int32
    eyeball : (N,) bool
        Vertices of the eyeballs.
    marks_mm : (68, 3) float64
        iBUG landmarks; those of the eyes say where to look.
    """
    renderer = make_renderer("numba")
    edges: tuple[list[F64], list[F64]] = ([], [])
    for ids in (slice(36, 42), slice(42, 48)):
        aim = marks_mm[ids].mean(axis=0)
        away = np.array([0.0, 0.0, DISTANCE_MM])
        camera = look_at("lids", aim + away, aim, DISTANCE_MM / PIXEL_MM, PIXELS, PIXELS)
        seen = renderer.rasterise(points_mm, faces, [camera])[0]
        ball = (seen.face >= 0) & eyeball[faces[seen.face].max(axis=2)]
        skin = (seen.face >= 0) & ~ball
        # Row 0 is on top: an upper lid lies one row above the eyeball's pixel.
        upper, lower = np.zeros_like(skin), np.zeros_like(skin)
        upper[:-1] = skin[:-1] & ball[1:]
        lower[1:] = skin[1:] & ball[:-1]
        for found, at in zip(edges, (upper, lower), strict=True):
            found.append(_points(camera, seen.depth, at))
    return np.concatenate(edges[0]), np.concatenate(edges[1])


def _points(camera: Camera, depth: npt.NDArray[np.float32], at: npt.NDArray[np.bool_]) -> F64:
    row, column = np.nonzero(at)
    z = depth[row, column].astype(np.float64)
    x = (column + 0.5 - camera.K[0, 2]) / camera.K[0, 0] * z
    y = (row + 0.5 - camera.K[1, 2]) / camera.K[1, 1] * z
    E = camera.world_to_camera
    return np.asarray((np.stack([x, y, z], axis=1) - E[:3, 3]) @ E[:3, :3])
