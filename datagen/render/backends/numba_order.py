"""Meshes in an order that keeps what is near in space near in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.geometry.mesh import Mesh

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
