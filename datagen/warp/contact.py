"""Where parts of a face press into each other: lips and lids, which meet in every living face."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from datagen.geometry.mesh import unique_edges
from datagen.heads.regions import REGIONS, mask_of
from datagen.warp.surface import Surface

FloatArray = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LIPS = ("upper_lip", "lower_lip")
MOUTH_REACH_M = 0.01
LID_REACH_M = 0.008
# Lips do not overlap further than this; what seems to is their far sides.
DEEPEST_M = 0.006
OPPOSING_COSINE = -0.3


def mouth_skin(vertices: FloatArray, faces: npt.NDArray[np.integer], regions: npt.NDArray[np.uint8]) -> Mask:
    """Return (N,) bool: lips and the skin within a centimetre of them along the surface, the nose left out."""
    lips = np.flatnonzero(mask_of(regions, LIPS))
    if not len(lips):
        return np.zeros(len(vertices), bool)
    edges, _ = unique_edges(faces)
    length = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
    graph = sp.coo_matrix((length, (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2).tocsr()
    reach = dijkstra(graph, directed=False, indices=lips, limit=MOUTH_REACH_M, min_only=True)
    return np.isfinite(reach) & ~mask_of(regions, ("nose", "mouth_interior"))


def lid_skin(vertices: FloatArray, regions: npt.NDArray[np.uint8]) -> Mask:
    """Return (N,) bool: skin around an eye that lies close to its eyeball, or all of it where there is no eyeball."""
    lids = np.zeros(len(vertices), bool)
    for side in ("right", "left"):
        skin = mask_of(regions, (f"{side}_eye",))
        ball = vertices[mask_of(regions, (f"{side}_eyeball",))]
        if len(ball):
            skin &= cKDTree(ball).query(vertices, distance_upper_bound=LID_REACH_M)[0] < LID_REACH_M
        lids |= skin
    return lids


def lip_overlap_m(vertices: FloatArray, faces: npt.NDArray[np.int32], regions: npt.NDArray[np.uint8]) -> float:
    """Return how deep one lip lies in the other, metres: the greatest depth of a lip's vertex below the other lip.

    Parameters
    ----------
    vertices : (N, 3) float64
        Metres.
    faces : (F, 3) int32
    regions : (N,) uint8
    """
    lip = {name: faces[(regions[faces] == REGIONS[name]).all(axis=1)] for name in LIPS}
    if not all(len(part) for part in lip.values()):
        return 0.0
    deepest = 0.0
    for name, other in (LIPS, LIPS[::-1]):
        points = np.unique(lip[name])
        # Normals of the whole lip, so that they are those of the mesh but along its edge.
        facing = Surface(vertices, lip[name]).normals[points]
        hit = Surface(vertices, lip[other]).closest(vertices[points])
        offset = vertices[points] - hit.position
        below = np.einsum("nd,nd->n", offset, hit.normal)
        distance = np.linalg.norm(offset, axis=1)
        opposes = np.einsum("nd,nd->n", facing, hit.normal) < OPPOSING_COSINE
        # Truly below, not beside an edge.
        inside = opposes & (below < -0.7 * distance) & (distance < DEEPEST_M) & ~hit.on_border
        deepest = max(deepest, float(distance[inside].max(initial=0.0)))
    return deepest
