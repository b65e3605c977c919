"""Rigid alignment: of key points, then of surfaces by iterated closest points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation.cameras import Array
from trainer.evaluation.surface import MapSurface

# Outer and inner ends of both eyes, the corners of the mouth, the tip of the nose: those of the NoW benchmark.
KEY_POINTS = 7
_EYES = (("right_eye", "right_eyeball"), ("left_eye", "left_eyeball"))
_LIPS = ("upper_lip", "lower_lip")
_END_SHARE = 0.01  # a corner is the mean of the outermost hundredth of its region
_OFF_LINE_M = 0.005
_ITERATIONS = 20
_POINTS = 250
_KEPT_SHARE = 0.9
_STOP_M = 1e-7
_TOUCHING_M = 1e-7


def key_points(canonical_m: npt.NDArray[Any], region: npt.NDArray[Any], labels: Mapping[str, int]) -> Array | None:
    """Return the canonical coordinates of the seven key points, (7, 3) metres, from points (N, 3) and labels (N,).

    They are the ends of the dataset's own regions: two of each eye and of the lips along x, and the foremost of the
    nose. None if the dataset has no such regions, or the points show none of one.
    """
    found: list[Array] = []
    for names in (*_EYES, _LIPS):
        points = canonical_m[np.isin(region, [labels[n] for n in names if n in labels])]
        if not len(points):
            return None
        found += [_end(points, -points[:, 0]), _end(points, points[:, 0])]
    nose = canonical_m[region == labels.get("nose", -1)]
    return np.stack([*found, _end(nose, nose[:, 2])]) if len(nose) else None


def _end(points: npt.NDArray[Any], along: npt.NDArray[Any]) -> Array:
    count = max(round(_END_SHARE * len(points)), 1)
    return points[np.argpartition(-along, count - 1)[:count]].mean(0, dtype=np.float64)


def spans_a_plane(points: npt.NDArray[Any]) -> bool:
    """Whether points (N, 3) hold a rigid motion: three or more, not within half a centimetre of one line."""
    if len(points) < 3:
        return False
    return bool(np.linalg.svd(points - points.mean(0), compute_uv=False)[1] > _OFF_LINE_M)


def rigid_fit(source: npt.NDArray[Any], target: npt.NDArray[Any]) -> Array:
    """Return the 4×4 rotation and translation that takes points (N, 3) nearest to others (N, 3) (Kabsch 1976)."""
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    ca, cb = a.mean(0), b.mean(0)
    u, _, vt = np.linalg.svd((b - cb).T @ (a - ca))
    turn = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    matrix = np.eye(4)
    matrix[:3, :3] = u @ turn @ vt
    matrix[:3, 3] = cb - matrix[:3, :3] @ ca
    return matrix


def apply(matrix: Array, points: npt.NDArray[Any]) -> Array:
    """Apply a 4×4 transform to points (N, 3)."""
    return np.asarray(points, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


def closest_point_fit(points: npt.NDArray[Any], surface: MapSurface, start: Array) -> Array:
    """Refine the rigid transform of points (N, 3) onto a surface, which is searched by camera-axes points.

    Each round finds the closest places of some hundreds of the points, leaves out the farthest tenth, and takes the
    small motion that shortens the rest's distances most: towards the plane of the triangle where the place is inside
    one (Chen and Medioni 1992), towards the place itself at a rim. The best round's transform is returned.
    """
    points = points[:: max(len(points) // _POINTS, 1)]
    matrix, best, least = start, start, np.inf
    for _ in range(_ITERATIONS):
        moving = apply(matrix, points)
        places = surface.closest(moving, neighbours=1)
        distance = places.distance_m
        near = distance <= np.quantile(distance, _KEPT_SHARE)
        if near.sum() < 3 or not np.isfinite(distance[near]).all():
            break
        gap = float(distance[near].mean())
        if gap > least - _STOP_M:
            return best if gap > least else matrix
        best, least = matrix, gap
        towards = (moving - places.points) / np.maximum(distance, 1e-30)[:, None]
        towards = np.where(distance[:, None] > _TOUCHING_M, towards, surface.normals(places))
        matrix = _shortening(moving[near], places.points[near], towards[near]) @ matrix
    return best


def _shortening(points: Array, places: Array, along: Array) -> Array:
    """Return the 4×4 motion that is best for Σ (n · (p + ω × p + t − q))², made a rotation again."""
    centre = points.mean(0)
    a = np.concatenate([np.cross(points - centre, along), along], axis=1)
    # What the distances leave free (a ball may turn) is not moved.
    motion = np.linalg.lstsq(a, (along * (places - points)).sum(1), rcond=1e-4)[0]
    x, y, z = motion[:3]
    turned = (points - centre) @ np.array([[1, z, -y], [-z, 1, x], [y, -x, 1]])
    return rigid_fit(points, turned + centre + motion[3:])
