"""A triangle mesh as it is seen, and as a surface that points are near to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from datagen.common.arrays import F64, I64
from trainer.evaluation.surface import closest_on_triangles

NONE = -1
_INSIDE = -1e-9  # of a weight: a pixel on the edge that two triangles share belongs to either
_FIRST = 8


@dataclass(frozen=True)
class Seen:
    """Which place of a mesh each pixel of a picture shows.

    Attributes
    ----------
    triangles : (H, W) int64
        -1 where there is none.
    weights : (H, W, 3) float64
        Of its corners, in space; rows sum to 1.
    depth : (H, W) float64
        Infinite where there is none.
    """

    triangles: I64
    weights: F64
    depth: F64


def see(screen: F64, depth: F64, faces: npt.NDArray[np.integer], size: tuple[int, int]) -> Seen:
    """Find the nearest triangle at every pixel's centre.

    Parameters
    ----------
    screen : (V, 3) float64
        Homogeneous pixels (x w, y w, w), centres at +0.5: w is the depth before a pinhole camera, and 1 where places
        on the screen are all that is known. Triangles with a corner of w ≤ 0 are left out.
    depth : (V,) float64
        What is nearer hides what is farther.
    faces : (F, 3) int
    size : (height, width)
    """
    height, width = size
    corners = screen[faces]
    usable = (corners[..., 2] > 0).all(1) & np.isfinite(corners).all((1, 2))
    chosen = np.flatnonzero(usable)
    corners = corners[chosen]
    xy = corners[..., :2] / corners[..., 2:]
    low = np.clip(np.ceil(xy.min(1) - 0.5), 0, (width, height)).astype(np.int64)
    high = np.clip(np.floor(xy.max(1) - 0.5), -1, (width - 1, height - 1)).astype(np.int64)
    spans = np.maximum(high - low + 1, 0)
    counts = spans[:, 0] * spans[:, 1]
    # One entry for each pixel in the box about each triangle.
    of = np.repeat(np.arange(len(chosen)), counts)
    within = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
    row, column = np.divmod(within, np.maximum(spans[of, 0], 1))
    column, row = column + low[of, 0], row + low[of, 1]
    a, b, c = (xy[:, k] for k in range(3))
    area = _cross(b - a, c - a)
    flat = np.abs(area) < 1e-12
    at = np.column_stack([column, row]) + 0.5
    first = _cross(b[of] - at, c[of] - at) / np.where(flat, np.inf, area)[of]
    second = _cross(c[of] - at, a[of] - at) / np.where(flat, np.inf, area)[of]
    flatwise = np.column_stack([first, second, 1 - first - second])
    inside = (flatwise >= _INSIDE).all(1) & ~flat[of]
    of, flatwise, pixel = of[inside], flatwise[inside], (row * width + column)[inside]
    # Straight lines on the screen are straight in space, but not evenly divided.
    weights = flatwise / corners[of, :, 2]
    weights /= weights.sum(1, keepdims=True)
    z = (weights * depth[faces[chosen[of]]]).sum(1)
    # The nearest is written last; of equal ones the first triangle.
    order = np.lexsort((-of, -z))
    found = Seen(
        np.full(height * width, NONE, np.int64), np.zeros((height * width, 3)), np.full(height * width, np.inf)
    )
    found.triangles[pixel[order]] = chosen[of[order]]
    found.weights[pixel[order]] = weights[order]
    found.depth[pixel[order]] = z[order]
    return Seen(found.triangles.reshape(size), found.weights.reshape(*size, 3), found.depth.reshape(size))


def carried(screen: F64, faces: npt.NDArray[np.integer], triangles: I64, weights: F64) -> F64:
    """Return the pixels (..., P, 2) of places on triangles, given homogeneous pixels of the vertices (..., V, 3)."""
    there = np.einsum("pk,...pkc->...pc", weights, screen[..., faces[triangles], :])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(there[..., 2:] > 0, there[..., :2] / there[..., 2:], np.nan)


@dataclass(frozen=True)
class MeshPlaces:
    """Places on a mesh nearest to points.

    Attributes
    ----------
    points : (N, 3)
    distance_m : (N,)
    triangles : (N,) int64
    weights : (N, 3)
    """

    points: F64
    distance_m: F64
    triangles: I64
    weights: F64


class MeshSurface:
    """A mesh that points search for their nearest place, exactly, whatever the size of its triangles.

    Parameters
    ----------
    vertices : (V, 3) float64
    faces : (F, 3) int
    """

    def __init__(self, vertices: F64, faces: npt.NDArray[np.integer]) -> None:
        self._vertices, self._faces = np.asarray(vertices, np.float64), np.asarray(faces)
        corners = self._vertices[self._faces]
        longest = _longest(corners)
        limit = float(np.median(longest))
        owners, pieces = np.arange(len(corners)), corners
        centres, of, self._reach = [], [], 0.0
        # Large triangles are cut, so that every place of the mesh has a centre nearby.
        while len(pieces):
            small = _longest(pieces) <= max(limit, 1e-9)
            centre = pieces[small].mean(1)
            if len(centre):
                apart = np.linalg.norm(pieces[small] - centre[:, None], axis=-1)
                self._reach = max(self._reach, float(apart.max()))
            centres.append(centre)
            of.append(owners[small])
            pieces, owners = _quartered(pieces[~small]), np.repeat(owners[~small], 4)
        self._of = np.concatenate(of)
        self._tree = cKDTree(np.concatenate(centres))

    @cached_property
    def _normals(self) -> F64:
        return vertex_normals(self._vertices, self._faces)

    def closest(self, points: F64, neighbours: int = 1) -> MeshPlaces:  # noqa: ARG002 - as of a map's surface
        """Return the place nearest to each point (N, 3)."""
        points = np.asarray(points, np.float64)
        n = len(points)
        triangles, weights = np.zeros(n, np.int64), np.zeros((n, 3))
        distance = np.full(n, np.inf)
        waiting, count = np.arange(n), min(_FIRST, len(self._of))
        while len(waiting):
            gap, near = (np.asarray(a) for a in self._tree.query(points[waiting], k=np.arange(1, count + 1)))
            of = self._of[near]
            w, d = closest_on_triangles(points[waiting, None], self._vertices[self._faces[of]])
            rows, best = np.arange(len(waiting)), d.argmin(1)
            triangles[waiting], weights[waiting], distance[waiting] = of[rows, best], w[rows, best], d[rows, best]
            # Whatever has its centre farther than this cannot come nearer.
            unsure = gap[:, -1] < distance[waiting] + self._reach
            waiting = waiting[unsure] if count < len(self._of) else waiting[:0]
            count = min(4 * count, len(self._of))
        places = np.einsum("nk,nkc->nc", weights, self._vertices[self._faces[triangles]])
        return MeshPlaces(places, distance, triangles, weights)

    def normals(self, places: MeshPlaces) -> F64:
        """Return unit normals (N, 3) at places, interpolated between the vertices'."""
        return _unit(np.einsum("nk,nkc->nc", places.weights, self._normals[self._faces[places.triangles]]))


def vertex_normals(vertices: F64, faces: npt.NDArray[np.integer]) -> F64:
    """Return unit normals (V, 3), weighted by the triangles' areas; outwards where these are counter-clockwise."""
    corners = vertices[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices, np.float64)
    for k in range(3):
        np.add.at(normals, faces[:, k], across)
    return _unit(normals)


def _unit(vectors: F64) -> F64:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def _cross(a: F64, b: F64) -> F64:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _longest(corners: F64) -> F64:
    return np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(1)


def _quartered(corners: F64) -> F64:
    a, b, c = (corners[:, k] for k in range(3))
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    return np.stack([a, ab, ca, ab, b, bc, ca, bc, c, ab, bc, ca], axis=1).reshape(-1, 3, 3)
