"""A map as a surface: neighbouring pixels form triangles, and any point finds its nearest place between pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from datagen.common.arrays import F64
from trainer.evaluation.cameras import project

# Rows and columns of the corners of the six triangles around a pixel; quads are cut from top right to bottom left.
_AROUND = np.array(
    [
        [(0, 0), (1, 0), (0, 1)],
        [(0, -1), (1, -1), (0, 0)],
        [(1, -1), (1, 0), (0, 0)],
        [(-1, 0), (0, 0), (-1, 1)],
        [(0, 0), (0, 1), (-1, 1)],
        [(0, -1), (0, 0), (-1, 0)],
    ]
)
# A surface turned 78° away spans five times a pixel's own width from one pixel to the next; longer is a jump.
_LONGEST_EDGE = 5.0


@dataclass(frozen=True)
class Places:
    """Places on a surface, between pixels.

    Attributes
    ----------
    pixels : (N, 2) x, y
    points : (N, 3) camera axes, metres
    distance_m : (N,)
        From the query, in the coordinates searched; infinite where nothing was found.
    corners : (N, 3) int
        Pixels (row × W + column) of the triangle; one pixel three times where there is no triangle.
    weights : (N, 3)
        Barycentric.
    """

    pixels: F64
    points: F64
    distance_m: F64
    corners: npt.NDArray[np.int64]
    weights: F64


class MapSurface:
    """The pixels of one view as a triangulated surface that can be searched by any coordinates they carry.

    Parameters
    ----------
    coordinates : (3, H, W)
        What is searched: canonical, world or head coordinates, metres.
    points : (3, H, W)
        Camera axes, metres; they decide which neighbours belong together, and where a place is.
    mask : (H, W) bool
        The pixels that take part.
    intrinsics : (3, 3)
    labels : (H, W) integers, optional
        Where given, a search may ask for places that touch its own label.
    """

    def __init__(
        self,
        coordinates: npt.NDArray[Any],
        points: npt.NDArray[Any],
        mask: npt.NDArray[np.bool_],
        intrinsics: npt.NDArray[Any],
        labels: npt.NDArray[Any] | None = None,
    ) -> None:
        self._width = mask.shape[1]
        self._coordinates = _padded(coordinates)
        self._points = _padded(points)
        finite = np.isfinite(self._coordinates).all(1) & np.isfinite(self._points).all(1)
        self._mask = np.pad(mask, 1).ravel() & finite
        self._coordinates[~self._mask], self._points[~self._mask] = 0.0, 0.0
        self._labels = None if labels is None else np.pad(labels, 1).ravel()
        self._intrinsics = np.asarray(intrinsics, np.float64)
        self._vertices = np.flatnonzero(self._mask)
        self._tree = cKDTree(self._coordinates[self._vertices]) if len(self._vertices) else None
        self._around = (_AROUND @ np.array([self._width + 2, 1])).astype(np.int64)

    def closest(self, queries: npt.NDArray[Any], labels: npt.NDArray[Any] | None = None, neighbours: int = 4) -> Places:
        """Find the place nearest to each query (N, 3).

        Searches the triangles around the ``neighbours`` nearest pixels, and at those pixels themselves. With
        ``labels`` (N,), only triangles with a corner of that label are searched.
        """
        n = len(queries)
        # An undefined query has no place; the tree would refuse it.
        defined = np.isfinite(queries).all(1)
        q = np.where(defined[:, None], queries, 0.0)
        if self._tree is None or not n:
            return Places(
                np.full((n, 2), np.nan), np.full((n, 3), np.nan), np.full(n, np.inf),
                np.zeros((n, 3), np.int64), np.zeros((n, 3)),
            )  # fmt: skip
        k = min(neighbours, len(self._vertices))
        found = self._tree.query(q, k=np.arange(1, k + 1))[1]
        centre = self._vertices[found]
        around = (centre[:, :, None, None] + self._around).reshape(n, -1, 3)
        lone = np.repeat(centre[:, :, None], 3, axis=2)
        corners = np.concatenate([around, lone], axis=1)
        usable = self._usable(corners)
        if labels is not None and self._labels is not None:
            usable &= (self._labels[corners] == np.asarray(labels)[:, None, None]).any(-1)
        weights, distance = closest_on_triangles(q[:, None], self._coordinates[corners])
        distance = np.where(usable & defined[:, None], distance, np.inf)
        best = distance.argmin(1)
        rows = np.arange(n)
        corners, weights, distance = corners[rows, best], weights[rows, best], distance[rows, best]
        points = np.einsum("nc,ncd->nd", weights, self._points[corners])
        points[~np.isfinite(distance)] = np.nan
        row, column = np.divmod(corners, self._width + 2)
        return Places(
            project(points, self._intrinsics), points, distance, (row - 1) * self._width + column - 1, weights
        )

    def normals(self, places: Places) -> F64:
        """Return unit normals (N, 3) of the triangles that places lie on, camera axes, towards the camera.

        0 where there is no triangle.
        """
        row, column = np.divmod(places.corners, self._width)
        corners = self._points[(row + 1) * (self._width + 2) + column + 1]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal *= -np.where((normal * corners[:, 0]).sum(1, keepdims=True) < 0, -1.0, 1.0)
        return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)

    def _usable(self, corners: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether all corners (..., 3) take part and lie within a few pixel widths of each other."""
        points = self._points[corners]
        longest = np.zeros(corners.shape[:-1])
        for a, b in ((0, 1), (1, 2), (2, 0)):
            longest = np.maximum(longest, np.linalg.norm(points[..., a, :] - points[..., b, :], axis=-1))
        pixel_m = points[..., 2].max(-1) / self._intrinsics[0, 0]
        return self._mask[corners].all(-1) & (longest <= _LONGEST_EDGE * pixel_m)


def closest_on_triangles(queries: F64, triangles: F64) -> tuple[F64, F64]:
    """Return the barycentric weights (..., 3) and the distance (...) of the nearest point of triangles.

    Parameters
    ----------
    queries : (..., 3), broadcast against the triangles
    triangles : (..., 3, 3)
        Corners; a triangle may be a line or a point.
    """
    a, b, c = triangles[..., 0, :], triangles[..., 1, :], triangles[..., 2, :]
    p = np.broadcast_to(queries, a.shape)
    ab, ac, ap = b - a, c - a, p - a
    d00, d01, d11 = _dot(ab, ab), _dot(ab, ac), _dot(ac, ac)
    d20, d21 = _dot(ap, ab), _dot(ap, ac)
    area = d00 * d11 - d01 * d01
    flat = area <= 1e-12 * d00 * d11
    safe = np.where(flat, 1.0, area)
    v, w = (d11 * d20 - d01 * d21) / safe, (d00 * d21 - d01 * d20) / safe
    inside = ~flat & (v >= 0) & (w >= 0) & (v + w <= 1)
    t_ab = np.clip(d20 / np.where(d00 > 0, d00, 1), 0, 1)
    t_ac = np.clip(d21 / np.where(d11 > 0, d11, 1), 0, 1)
    bc = c - b
    d_bc = _dot(bc, bc)
    t_bc = np.clip(_dot(p - b, bc) / np.where(d_bc > 0, d_bc, 1), 0, 1)
    zero = np.zeros_like(v)
    choices = np.stack(
        [
            np.stack([1 - v - w, v, w], -1),
            np.stack([1 - t_ab, t_ab, zero], -1),
            np.stack([1 - t_ac, zero, t_ac], -1),
            np.stack([zero, 1 - t_bc, t_bc], -1),
        ],
        axis=-2,
    )
    place = choices @ triangles
    squared = ((place - p[..., None, :]) ** 2).sum(-1)
    squared[..., 0] = np.where(inside, squared[..., 0], np.inf)
    best = squared.argmin(-1)[..., None]
    weights = np.take_along_axis(choices, best[..., None], axis=-2)[..., 0, :]
    return weights, np.sqrt(np.take_along_axis(squared, best, axis=-1)[..., 0])


def _dot(a: F64, b: F64) -> F64:
    return np.einsum("...i,...i->...", a, b)


def _padded(values: npt.NDArray[Any]) -> F64:
    """Return a map (3, H, W) as rows ((H+2)(W+2), 3), with a border that no mask takes in."""
    border = np.pad(np.asarray(values, np.float64), ((0, 0), (1, 1), (1, 1)))
    return np.ascontiguousarray(border.reshape(3, -1).T)
