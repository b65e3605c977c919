"""Edge maps: which pixels' squares are crossed by a silhouette or a depth step.

They come from the mesh, not from neighbouring pixels: edges whose triangles lie on one side of them on screen
(occluding contours), and edges of one triangle (borders), are traced through the pixels they cross. In each such
pixel the surface just beyond the edge is looked up among all triangles. The pixel is marked if there is none, or one
more than :data:`STEP_M` behind the edge; if something lies in front, the edge is hidden. Neighbouring pixel values
could not tell: next to the contour of a curved surface depth changes by millimetres within a pixel without any step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import I32
from datagen.geometry.camera import Camera
from datagen.render.inputs import NEAR_M
from datagen.render.numba.edges_kernel import STEP_M, contours, mark_edges
from datagen.render.numba.raster_kernel import facing, jit, project

# Up to here insertion sort is the quickest.
FEW = 64


@jit
def mesh_edges(faces: I32, n_vertices: int) -> tuple[I32, I32]:
    """Return the edges of a mesh and what lies on either side.

    An edge of more than two triangles is returned once for every two of them that follow each other.

    Parameters
    ----------
    faces : (F, 3) int32
    n_vertices : int

    Returns
    -------
    ends : (E, 2) int32
        Vertices, lower index first.
    sides : (E, 2) int32
        Twice the triangle's index, plus 1 where it runs along the edge from the lower vertex to the higher; -1 in
        the second column where there is no second triangle.
    """
    start = np.zeros(n_vertices + 1, np.int64)
    for f in range(len(faces)):
        for k in range(3):
            a, b = faces[f, k], faces[f, (k + 1) % 3]
            if a != b:
                start[min(a, b) + 1] += 1
    for i in range(n_vertices):
        start[i + 1] += start[i]
    total = start[n_vertices]
    # Per lower vertex: the higher one in the upper bits, triangle and direction in the lower.
    codes, cursor = np.empty(total, np.int64), start[:-1].copy()
    for f in range(len(faces)):
        for k in range(3):
            a, b = faces[f, k], faces[f, (k + 1) % 3]
            if a != b:
                low, high = min(a, b), max(a, b)
                codes[cursor[low]] = (np.int64(high) << 32) | (2 * f + (1 if a < b else 0))
                cursor[low] += 1
    ends, sides = np.empty((total, 2), np.int32), np.empty((total, 2), np.int32)
    count = 0
    for low in range(n_vertices):
        first, last = start[low], start[low + 1]
        _sort(codes[first:last])
        i = first
        while i < last:
            high = codes[i] >> 32
            j = i + 1
            while j < last and codes[j] >> 32 == high:
                j += 1
            for k in range(i, max(i + 1, j - 1)):
                ends[count, 0], ends[count, 1] = low, high
                sides[count, 0] = codes[k] & 0xFFFFFFFF
                sides[count, 1] = codes[k + 1] & 0xFFFFFFFF if k + 1 < j else -1
                count += 1
            i = j
    return ends[:count].copy(), sides[:count].copy()


@jit
def _sort(codes):  # type: ignore[no-untyped-def]
    # A vertex has a handful of edges, but the hub of a fan may have any number.
    if len(codes) > FEW:
        codes[:] = np.sort(codes)
        return
    for i in range(1, len(codes)):
        code, j = codes[i], i - 1
        while j >= 0 and codes[j] > code:
            codes[j + 1] = codes[j]
            j -= 1
        codes[j + 1] = code


__all__ = ["STEP_M", "MeshEdges", "Projection", "edge_maps"]


@dataclass(frozen=True)
class MeshEdges:
    """The edges of a mesh, for any number of views.

    Attributes
    ----------
    ends : (E, 2) int32
        Vertices.
    sides : (E, 2) int32
        Triangles with their direction along the edge; see :func:`datagen.render.edges.mesh_edges`.
    """

    ends: npt.NDArray[np.int32]
    sides: npt.NDArray[np.int32]

    @classmethod
    def of(cls, vertices: npt.NDArray[np.float64], faces: npt.NDArray[np.int32]) -> MeshEdges:
        """Find the edges of a checked mesh; vertices at the same place count as one, as to a surface they are."""
        ends, sides = mesh_edges(faces, len(vertices))
        border = np.unique(ends[sides[:, 1] < 0])
        joined = _joined(vertices, border)
        return cls(ends, sides) if joined is None else cls(*mesh_edges(joined[faces], len(vertices)))


def _joined(vertices: npt.NDArray[np.float64], border: npt.NDArray[np.int32]) -> npt.NDArray[np.int32] | None:
    """Return for every vertex the first one at its place, (N,) int32, looking at the border alone; None if all differ.

    Files split vertices along texture seams, or give every triangle its own: only there can places coincide.
    """
    x, y, z = (vertices[border] + 0.0).T  # no negative zeros
    order = np.lexsort((border, z, y, x))
    same = (np.diff(x[order]) == 0) & (np.diff(y[order]) == 0) & (np.diff(z[order]) == 0)
    if not same.any():
        return None
    first = np.concatenate([[0], np.where(same, 0, np.arange(1, len(order)))])
    joined = np.arange(len(vertices), dtype=np.int32)
    joined[border[order]] = border[order][np.maximum.accumulate(first)]
    return joined


@dataclass(frozen=True)
class Projection:
    """A mesh as one camera sees it.

    Attributes
    ----------
    homogeneous : (N, 3) float64
        Pixels times z, and z in metres.
    screen : (N, 2) int32
        Snapped pixels; see :func:`datagen.render.numba.raster_kernel.project`.
    inverse_z : (N,) float64
    front : (F,) uint8
        1 where a triangle's corners run counter-clockwise to the viewer.
    """

    homogeneous: npt.NDArray[np.float64]
    screen: npt.NDArray[np.int32]
    inverse_z: npt.NDArray[np.float64]
    front: npt.NDArray[np.uint8]

    @classmethod
    def empty(cls, n_vertices: int, n_faces: int) -> Projection:
        """Return room for a mesh of that size."""
        return cls(
            np.empty((n_vertices, 3)),
            np.empty((n_vertices, 2), np.int32),
            np.empty(n_vertices),
            np.empty(n_faces, np.uint8),
        )

    @classmethod
    def of(cls, vertices: npt.NDArray[np.float64], faces: npt.NDArray[np.int32], camera: Camera) -> Projection:
        """Project a checked mesh (vertices (N, 3) float64 world metres, faces (F, 3) int32)."""
        own = cls.empty(len(vertices), len(faces))
        project(vertices, pixel_matrix(camera), NEAR_M, 0, len(vertices), own.homogeneous, own.screen, own.inverse_z)
        facing(faces, own.homogeneous, own.screen, own.front)
        return own


def pixel_matrix(camera: Camera) -> npt.NDArray[np.float64]:
    """Return K [R | t], (3, 4) float64."""
    return np.ascontiguousarray(camera.K @ camera.world_to_camera[:3], np.float64)


def edge_maps(
    vertices: npt.NDArray[np.float64],
    faces: npt.NDArray[np.int32],
    cameras: Sequence[Camera],
) -> list[npt.NDArray[np.bool_]]:
    """Return the edge map (H, W) of every camera.

    Parameters
    ----------
    vertices : (N, 3) float64
        World metres.
    faces : (F, 3) int32
    cameras : sequence of Camera
    """
    edges = MeshEdges.of(vertices, faces)
    maps = []
    for camera in cameras:
        projection = Projection.of(vertices, faces, camera)
        maps.append(padded_edge_map(edges, faces, projection, camera)[1:-1].astype(bool))
    return maps


def padded_edge_map(
    edges: MeshEdges, faces: npt.NDArray[np.int32], projection: Projection, camera: Camera
) -> npt.NDArray[np.uint8]:
    """Return the edge map of one view as 0 or 1 with an empty row above and below, (H + 2, W) uint8."""
    edge = np.empty((camera.height + 2, camera.width), np.uint8)
    mark_edges(
        view_contours(edges, projection),
        np.flatnonzero(projection.front).astype(np.int32),
        np.flatnonzero(projection.front == 0).astype(np.int32),
        faces,
        projection.homogeneous,
        projection.screen,
        projection.inverse_z,
        NEAR_M,
        -1,
        camera.height,
        edge,
    )
    return edge


def view_contours(edges: MeshEdges, projection: Projection) -> npt.NDArray[np.float64]:
    """Return the contours and borders of one view; see :func:`datagen.render.numba.edges_kernel.contours`."""
    return contours(
        edges.ends,
        edges.sides,
        projection.homogeneous,
        projection.screen,
        projection.inverse_z,
        projection.front,
        NEAR_M,
    )
