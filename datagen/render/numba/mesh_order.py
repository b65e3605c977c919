"""Meshes in an order that keeps what is near in space near in memory, and triangles sorted into bands of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64, I32, I64, U8
from datagen.common.compiled import compiled
from datagen.geometry.mesh import Mesh
from datagen.render.contract import SUBPIXEL_BITS
from datagen.render.numba.raster_kernel import OUTSIDE, determinant

# Cells a side of the grid that vertices are sorted by: 15 bits, which NumPy sorts by radix.
CELL_BITS = 5
# A mesh whose triangles join vertices closer than this share of the list is in order already.
NEAR_SHARE = 0.02


@dataclass(frozen=True)
class OrderedMesh:
    """A mesh with vertices and triangles sorted along a space-filling curve (Morton 1966).

    Scans list them in any order, and a cache that has to be filled anew for every triangle costs more than drawing it.

    Attributes
    ----------
    vertices : (N, 3) float64
    faces : (F, 3) int32
    corners : (N,) int64 or None
        Index in the original mesh of each vertex; None where nothing was moved.
    ids : (F,) int32
        Index in the original mesh of each triangle.
    places : (F,) int32
        Where each triangle of the original mesh is now.
    """

    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int32]
    corners: npt.NDArray[np.int64] | None
    ids: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]

    @classmethod
    def of(cls, mesh: Mesh) -> OrderedMesh:
        """Sort a checked mesh, unless it is in order."""
        n, m = len(mesh.vertices), len(mesh.faces)
        every = np.arange(m, dtype=np.int32)
        reach = np.abs(mesh.faces[:, 0] - mesh.faces[:, 1]).mean(dtype=np.float64)
        if reach <= max(NEAR_SHARE * n, 64):
            return cls(mesh.vertices, mesh.faces, None, every, every)
        codes = _codes(mesh.vertices)
        corners = np.argsort(codes, kind="stable")
        moved = np.empty(n, np.int32)
        moved[corners] = np.arange(n, dtype=np.int32)
        ids = np.argsort(codes[mesh.faces[:, 0]], kind="stable").astype(np.int32)
        places = np.empty(m, np.int32)
        places[ids] = every
        return cls(mesh.vertices[corners], moved[mesh.faces[ids]], corners, ids, places)

    def sorted(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return values (N, ...) of the original vertices in this order."""
        return values if self.corners is None else values[self.corners]


def _codes(vertices: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """Return the place of each vertex on the curve, (N,) uint16."""
    low = vertices.min(axis=0)
    span = float((vertices.max(axis=0) - low).max()) or 1.0
    cells = np.minimum((vertices - low) * (2**CELL_BITS / span), 2**CELL_BITS - 1).astype(np.uint16)
    codes = np.zeros(len(vertices), np.uint16)
    for bit in range(CELL_BITS):
        for axis in range(3):
            codes |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    return codes


@compiled
def arrange(
    faces: I32, homogeneous: F64, screen: I32, near: float, rows: int, height: int, width: int, front: U8
) -> tuple[I32, I64]:
    """Find the triangles that matter to each band of rows, those that show their front before the others.

    A triangle matters to a band if it reaches within a pixel of it and of the image's sides.

    Parameters
    ----------
    faces : (F, 3) int32
    homogeneous, screen : see :func:`datagen.render.numba.raster_kernel.project`
    near : float
        Metres.
    rows : int
        Of a band; the last may have fewer.
    height, width : int
        Of the image.
    front : (F,) uint8
        Written: 1 where the corners run counter-clockwise to the viewer.

    Returns
    -------
    order : (T,) int32
        Triangles, band after band.
    start : (2 B + 1,) int64
        Where in it the fronts and the backs of each band begin.
    """
    bands = -(-height // rows)
    first, last = np.empty(len(faces), np.int32), np.empty(len(faces), np.int32)
    start = np.zeros(2 * bands + 1, np.int64)
    right_end = np.int64(width + 1) << SUBPIXEL_BITS
    one = np.int64(1 << SUBPIXEL_BITS)
    for f in range(len(faces)):
        a, b, c = np.uint64(faces[f, 0]), np.uint64(faces[f, 1]), np.uint64(faces[f, 2])
        x0, x1, x2 = np.int64(screen[a, 0]), np.int64(screen[b, 0]), np.int64(screen[c, 0])
        if OUTSIDE in (x0, x1, x2):
            front[f] = determinant(homogeneous, a, b, c) < 0
            seen = max(homogeneous[a, 2], homogeneous[b, 2], homogeneous[c, 2]) > near
            first[f], last[f] = 0, bands - 1 if seen else -1
        else:
            y0, y1, y2 = np.int64(screen[a, 1]), np.int64(screen[b, 1]), np.int64(screen[c, 1])
            front[f] = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0) < 0
            # A row more on either side: edges are looked for there too.
            upper, lower = ((min(y0, y1, y2) - one) >> SUBPIXEL_BITS) - 1, (max(y0, y1, y2) >> SUBPIXEL_BITS) + 2
            first[f], last[f] = max(int(upper), 0) // rows, min(int(lower), height - 1) // rows
            if max(x0, x1, x2) < -one or min(x0, x1, x2) > right_end or lower < 0 or upper >= height:
                last[f] = -1
        # Fronts of band b are group 2 b, backs group 2 b + 1; counted one further on, so that the sums are the starts.
        for band in range(first[f], last[f] + 1):
            start[2 * band + 2 - front[f]] += 1
    for i in range(2 * bands):
        start[i + 1] += start[i]
    order, cursor = np.empty(start[2 * bands], np.int32), start[:-1].copy()
    for f in range(len(faces)):
        for band in range(first[f], last[f] + 1):
            group = 2 * band + 1 - front[f]
            order[cursor[group]] = f
            cursor[group] += 1
    return order, start
