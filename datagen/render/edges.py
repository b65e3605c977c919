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

from datagen.geometry.camera import Camera
from datagen.render.backends.inputs import NEAR_M
from datagen.render.backends.numba_kernels import facing, project
from datagen.render.edges_kernel import STEP_M, contours, mark_edges
from datagen.render.edges_topology import mesh_edges

__all__ = ["STEP_M", "MeshEdges", "Projection", "edge_maps"]


@dataclass(frozen=True)
class MeshEdges:
    """The edges of a mesh, for any number of views.

    Attributes
    ----------
    ends : (E, 2) int32
        Vertices.
    sides : (E, 2) int32
        Triangles with their direction along the edge; see :func:`datagen.render.edges_topology.mesh_edges`.
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
        Snapped pixels; see :func:`datagen.render.backends.numba_kernels.project`.
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
    """Return the contours and borders of one view; see :func:`datagen.render.edges_kernel.contours`."""
    return contours(
        edges.ends,
        edges.sides,
        projection.homogeneous,
        projection.screen,
        projection.inverse_z,
        projection.front,
        NEAR_M,
    )
