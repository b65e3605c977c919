"""Points of space from where cameras see them, robust against cameras in which a program found them elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera

MOST_PAIRS = 80
FEWEST_VIEWS = 2
LEAST_AGREEING = 0.5  # of the views that show a point
LEAST_ANGLE_RAD = 0.035  # between two rays, 2 degrees: less fixes no depth
_STEPS = 10
_STEP_M = 1e-6

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Triangulated:
    """Points of space.

    Attributes
    ----------
    points : (N, 3) float64
        World metres; NaN where too few views agree.
    error_px : (N,) float64
        Root mean square distance to the views that agree.
    views : (N,) int64
        How many these are.
    """

    points: Points
    error_px: Points
    views: npt.NDArray[np.int64]


def triangulate(cameras: Sequence[Camera], pixels: Points, most_px: Sequence[float]) -> Triangulated:
    """Find points from their pixels in several views.

    Of all pairs of views (at most :data:`MOST_PAIRS`, drawn evenly) each gives a point; the one that most views agree
    with is refined on those, by least squares in pixels.

    Parameters
    ----------
    cameras : sequence of Camera
        Straight, pixel centres at +0.5.
    pixels : (C, N, 2) float64
        NaN where a camera does not show a point.
    most_px : sequence of float
        How far from a camera's pixel a point may lie to agree with it.
    """
    count = pixels.shape[1]
    points, error, views = np.full((count, 3), np.nan), np.full(count, np.nan), np.zeros(count, np.int64)
    limits = np.asarray(most_px, np.float64)
    for n in range(count):
        seen = np.flatnonzero(np.isfinite(pixels[:, n]).all(axis=1))
        found = _one([cameras[int(c)] for c in seen], pixels[seen, n], limits[seen])
        if found is not None:
            points[n], error[n], views[n] = found
    return Triangulated(points, error, views)


def _one(cameras: Sequence[Camera], pixels: Points, limits: Points) -> tuple[Points, float, int] | None:
    pairs = list(combinations(range(len(cameras)), 2))
    pairs = [pairs[k] for k in np.unique(np.linspace(0, len(pairs) - 1, MOST_PAIRS).astype(int))] if pairs else []
    best, most = np.zeros(len(cameras), bool), (0, 0.0)
    for pair in pairs:
        point = _linear([cameras[k] for k in pair], pixels[list(pair)])
        if point is None:
            continue
        off = _distances(cameras, pixels, point) / limits
        agree = off <= 1
        # Of as many, those that lie nearest.
        score = int(agree.sum()), -float(np.sum(np.minimum(off, 1.0) ** 2))
        if score > most and agree[list(pair)].all():
            best, most = agree, score
    wanted = max(FEWEST_VIEWS, int(np.ceil(LEAST_AGREEING * len(cameras))))
    found = None
    for _ in range(3):
        used = [int(k) for k in np.flatnonzero(best)]
        if len(used) < wanted:
            return None
        chosen = [cameras[k] for k in used]
        start = _linear(chosen, pixels[used])
        point = None if start is None else _refined(chosen, pixels[used], start)
        if point is None or not _is_fixed(chosen, point):
            return None
        off = _distances(chosen, pixels[used], point)
        found = point, float(np.sqrt((off**2).mean())), len(used)
        agree = _distances(cameras, pixels, point) <= limits
        if (agree == best).all():
            break
        best = agree
    return found


def _linear(cameras: Sequence[Camera], pixels: Points) -> Points | None:
    """Return the point nearest to all rays, (3,); None if they are parallel, or it lies behind one of them."""
    rays = [np.linalg.solve(camera.K, [*pixel, 1.0]) for camera, pixel in zip(cameras, pixels, strict=True)]
    turned = np.array([camera.world_to_camera[:3, :3].T @ ray for camera, ray in zip(cameras, rays, strict=True)])
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    across = np.eye(3) - turned[:, :, None] * turned[:, None, :]
    centres = np.array([camera.centre for camera in cameras])
    try:
        point = np.linalg.solve(across.sum(axis=0), np.einsum("nij,nj->i", across, centres))
    except np.linalg.LinAlgError:
        return None
    ahead = np.einsum("nj,nj->n", point - centres, turned) > 0
    return point if np.isfinite(point).all() and ahead.all() else None


def _distances(cameras: Sequence[Camera], pixels: Points, point: Points) -> Points:
    off = np.full(len(cameras), np.inf)
    for k, camera in enumerate(cameras):
        shown, depth = camera.project(point[None])
        if depth[0] > 0:
            off[k] = np.linalg.norm(shown[0] - pixels[k])
    return off


def _refined(cameras: Sequence[Camera], pixels: Points, point: Points) -> Points:
    """Return the point with the least squares of distances in pixels, by Gauss and Newton."""
    for _ in range(_STEPS):
        residual, slope = [], []
        for camera, pixel in zip(cameras, pixels, strict=True):
            shown = camera.project(np.concatenate([point[None], point + _STEP_M * np.eye(3)]))[0]
            residual.append(pixel - shown[0])
            slope.append(((shown[1:] - shown[0]) / _STEP_M).T)
        step, *_ = np.linalg.lstsq(np.concatenate(slope), np.concatenate(residual), rcond=None)
        point = point + step
        if np.linalg.norm(step) < 1e-9:
            break
    return point


def _is_fixed(cameras: Sequence[Camera], point: Points) -> bool:
    rays = np.array([point - camera.centre for camera in cameras])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return bool(np.arccos(np.clip((rays @ rays.T).min(), -1, 1)) >= LEAST_ANGLE_RAD)
