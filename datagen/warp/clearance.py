"""How much room a template's surface has: the open air in front of it, and the flesh behind it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.csgraph import dijkstra

from datagen.common.arrays import F64
from datagen.common.open3d_library import load_open3d
from datagen.geometry.edges import unique_edges
from datagen.geometry.mesh import normalised
from datagen.heads.regions import mask_of

# Rays start this far off the surface, so that they do not hit the triangle they leave.
LIFT_M = 0.0002
# Across a nostril; the pocket behind the rim is narrower.
NOSTRIL_AIR_M = 0.02
# No part of a face asks for more room than this.
LARGEST_M = 0.05
CONE_RAYS = 6
CONE_COSINE = 0.8


def distance_ahead(
    vertices: npt.NDArray[np.floating],
    faces: npt.NDArray[np.integer],
    directions: npt.NDArray[np.floating],
) -> F64:
    """Return how far each vertex sees along its direction before it meets the surface itself.

    Along the outward normal this is the air in a nostril or between lips; along the inward one the thickness, the
    shape diameter function of L. Shapira, A. Shamir & D. Cohen-Or, 2008, with one ray.

    Parameters
    ----------
    vertices, directions : (N, 3) float
        Metres, and unit vectors.
    faces : (F, 3) integer

    Returns
    -------
    distance : (N,) float64
        Metres; infinite where nothing is met.
    """
    o3d = load_open3d()
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor(np.asarray(vertices, np.float32)), o3d.core.Tensor(np.asarray(faces, np.uint32))
    )
    rays = np.concatenate([vertices + LIFT_M * directions, directions], axis=1).astype(np.float32)
    return np.asarray(scene.cast_rays(o3d.core.Tensor(rays))["t_hit"].numpy(), np.float64) + LIFT_M


def inside_nostrils(
    vertices: F64, faces: npt.NDArray[np.integer], normals: F64, regions: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    """Return (N,) bool: skin of the nose that faces other skin across less air than a nostril is wide.

    Scans hardly ever show it. What seems to be its counterpart is often the outside of the wing, which lies near and is
    inclined alike.

    Parameters
    ----------
    vertices, normals : (N, 3) float64
        Metres, and unit vectors.
    faces : (F, 3) integer
    regions : (N,) uint8
    """
    return mask_of(regions, ("nose",)) & (distance_ahead(vertices, faces, normals) < NOSTRIL_AIR_M)


def local_feature_size(vertices: F64, faces: npt.NDArray[np.integer], normals: F64) -> tuple[F64, F64]:
    """Return how far a point may be raised from each vertex before it is nearer to another part of the surface.

    The radius of the largest ball that touches the vertex from one side, and nothing else: from rays in a cone round
    the normal, each giving the ball through its hit, and from the normal curvature along each edge. As the local
    feature size of N. Amenta & M. Bern, "Surface reconstruction by Voronoi filtering", 1999, it grows no faster than
    one metre a metre along the surface.

    Parameters
    ----------
    vertices : (N, 3) float64, metres
    faces : (F, 3) integer
    normals : (N, 3) float64

    Returns
    -------
    outward, inward : (N,) float64
        Metres, at most :data:`LARGEST_M`.
    """
    edges, _ = unique_edges(faces)
    along = vertices[edges[:, 1]] - vertices[edges[:, 0]]
    length = np.linalg.norm(along, axis=1)
    bend = np.einsum("ed,ed->e", normals[edges[:, 1]] - normals[edges[:, 0]], along) / np.maximum(length, 1e-9) ** 2
    sizes = []
    for side in (1.0, -1.0):
        # Curving towards the side shortens it: a hollow's outside, a ridge's inside.
        curvature = np.maximum(-side * bend, 1 / LARGEST_M)
        size = np.full(len(vertices), LARGEST_M)
        for end in range(2):
            np.minimum.at(size, edges[:, end], 1 / curvature)
        for direction, cosine in _cone(side * normals):
            size = np.minimum(size, distance_ahead(vertices, faces, direction) / (2 * cosine))
        sizes.append(_grown(size, edges, length))
    return sizes[0], sizes[1]


def _cone(axis: F64) -> Iterator[tuple[F64, float]]:
    """Yield directions (N, 3) round ``axis`` (N, 3), with the cosine of their angle to it."""
    yield axis, 1.0
    helper = np.where(np.abs(axis[:, :1]) < 0.6, [[1.0, 0, 0]], [[0, 1.0, 0]])
    first = normalised(np.cross(axis, helper))
    second = np.cross(axis, first)
    for turn in np.arange(CONE_RAYS) * 2 * np.pi / CONE_RAYS:
        sideways = np.cos(turn) * first + np.sin(turn) * second
        yield CONE_COSINE * axis + np.sqrt(1 - CONE_COSINE**2) * sideways, CONE_COSINE


def _grown(size: F64, edges: npt.NDArray[np.integer], length: F64) -> F64:
    """Return the largest field (N,) below ``size`` that grows no faster than one metre a metre along the edges."""
    n = len(size)
    # One more node, at distance size[i] from vertex i: the field is the shortest way from there.
    rows = np.concatenate([edges[:, 0], edges[:, 1], np.full(n, n)])
    columns = np.concatenate([edges[:, 1], edges[:, 0], np.arange(n)])
    graph = sp.csr_matrix((np.concatenate([length, length, size]), (rows, columns)), shape=(n + 1, n + 1))
    return np.asarray(dijkstra(graph, indices=[n])[0, :n], np.float64)
