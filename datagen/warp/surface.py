"""Closest points on a triangle surface, with what is needed to judge them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.open3d_library import load_open3d
from datagen.geometry.edges import boundary_vertices
from datagen.geometry.mesh import vertex_normals


@dataclass(frozen=True)
class SurfacePoints:
    """Points on a surface.

    Attributes
    ----------
    position : (Q, 3) float64
        Metres.
    normal : (Q, 3) float64
        Interpolated unit normal.
    face : (Q,) int64
    barycentric : (Q, 3) float64
    on_border : (Q,) bool
        The triangle touches the surface's boundary, so the nearest point may only be nearest for want of surface.
    """

    position: npt.NDArray[np.float64]
    normal: npt.NDArray[np.float64]
    face: npt.NDArray[np.int64]
    barycentric: npt.NDArray[np.float64]
    on_border: npt.NDArray[np.bool_]


# Along the longest side of the queries' box: some millimetres on a head.
CELLS = 64


class Surface:
    """A triangle surface that answers closest-point queries, through Open3D's ray-casting scene (Embree).

    Parameters
    ----------
    vertices : (N, 3) float, metres
    faces : (F, 3) integer
    """

    def __init__(self, vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.integer]) -> None:
        o3d = load_open3d()
        self.vertices = np.asarray(vertices, np.float64)
        self.faces = np.asarray(faces, np.int64)
        self.normals = vertex_normals(self.vertices, self.faces)
        self.border = boundary_vertices(self.faces, len(self.vertices))
        # The scene is float32: centring keeps 0.1 µm even where the world's origin is metres away.
        self._origin = self.vertices.mean(axis=0)
        self._scene: Any = o3d.t.geometry.RaycastingScene()
        self._scene.add_triangles(
            o3d.core.Tensor((self.vertices - self._origin).astype(np.float32)),
            o3d.core.Tensor(self.faces.astype(np.uint32)),
        )

    def closest(self, points: npt.NDArray[np.floating]) -> SurfacePoints:
        """Return the closest surface points to ``points`` (Q, 3) metres."""
        o3d = load_open3d()
        query = (np.asarray(points, np.float64) - self._origin).astype(np.float32)
        order = _by_cell(query)
        answer = self._scene.compute_closest_points(o3d.core.Tensor(query[order]))
        face, uv = np.empty(len(query), np.int64), np.empty((len(query), 2))
        face[order] = answer["primitive_ids"].numpy()
        uv[order] = answer["primitive_uvs"].numpy()
        barycentric = np.stack([1 - uv.sum(axis=1), uv[:, 0], uv[:, 1]], axis=1)
        return self.at(face, barycentric)

    def at(self, face: npt.NDArray[np.int64], barycentric: npt.NDArray[np.float64]) -> SurfacePoints:
        """Return the points of given triangles (Q,) at given weights (Q, 3)."""
        corners = self.faces[face]
        position = np.einsum("qc,qcd->qd", barycentric, self.vertices[corners])
        normal = np.einsum("qc,qcd->qd", barycentric, self.normals[corners])
        length = np.linalg.norm(normal, axis=1, keepdims=True)
        return SurfacePoints(
            position, normal / np.maximum(length, 1e-12), face, barycentric, np.any(self.border[corners], axis=1)
        )


def _by_cell(points: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return an order (Q,) that visits points (Q, 3) cell by cell: neighbours ask for the same part of the scene."""
    if not len(points):
        return np.zeros(0, np.int64)
    low = points.min(axis=0)
    edge = max(float((points.max(axis=0) - low).max()) / CELLS, 1e-9)
    cell = ((points - low) / edge).astype(np.int64)
    return np.argsort((cell[:, 0] * (CELLS + 1) + cell[:, 1]) * (CELLS + 1) + cell[:, 2], kind="stable")


class PointSurface(Surface):
    """A point cloud that answers like a surface: the closest point is sought among the points' tangent discs.

    Parameters
    ----------
    points : (N, 3) float, metres
    outward_from : (3,) float
        A point inside the head; normals are turned away from it.
    normals : (N, 3) float, optional
        That were measured, zero where they were not: taken as they are, all turned over if most point inwards.
    """

    def __init__(
        self,
        points: npt.NDArray[np.floating],
        outward_from: npt.ArrayLike,
        normals: npt.NDArray[np.floating] | None = None,
    ) -> None:
        from scipy.spatial import cKDTree

        self.vertices = np.asarray(points, np.float64)
        self.faces = np.zeros((0, 3), np.int64)
        self.border = np.zeros(len(self.vertices), bool)
        self._tree = cKDTree(self.vertices)
        inside = np.asarray(outward_from, np.float64)
        if normals is None or not np.any(normals):
            self.normals = _point_normals(self.vertices, self._tree, inside)
            return
        given = np.asarray(normals, np.float64)
        lacking = ~np.any(given, axis=1)
        outward = np.einsum("nd,nd->n", given, self.vertices - inside)[~lacking]
        self.normals = given if (outward >= 0).mean() >= 0.5 else -given
        if lacking.any():
            self.normals[lacking] = _point_normals(self.vertices, self._tree, inside)[lacking]

    def closest(self, points: npt.NDArray[np.floating]) -> SurfacePoints:
        """Return the foot of each of ``points`` (Q, 3) on the tangent plane of its nearest scan point."""
        query = np.asarray(points, np.float64)
        _, index = self._tree.query(query)
        normal = self.normals[index]
        height = np.einsum("qd,qd->q", query - self.vertices[index], normal)
        return SurfacePoints(
            query - height[:, None] * normal,
            normal,
            np.full(len(query), -1),
            np.zeros((len(query), 3)),
            np.zeros(len(query), bool),
        )


def _point_normals(
    points: npt.NDArray[np.float64], tree: Any, inside: npt.NDArray[np.float64], neighbours: int = 16
) -> npt.NDArray[np.float64]:
    """Normals of local planes, (N, 3) float64, turned away from ``inside``."""
    _, near = tree.query(points, min(neighbours, len(points)))
    patch = points[near] - points[near].mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", patch, patch))
    normals = vectors[:, :, 0]
    outward = np.einsum("nd,nd->n", normals, points - inside)
    return normals * np.where(outward < 0, -1.0, 1.0)[:, None]
