"""Where a mesh passes through itself, and where parts of a face may meet: crossing triangles, lips and lids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from datagen.common.arrays import F64, Bools
from datagen.common.compiled import compiled
from datagen.geometry.edges import unique_edges
from datagen.heads.regions import REGIONS, mask_of
from datagen.warp.surface import Surface


@compiled
def _volume(a, b, c, d):  # type: ignore[no-untyped-def]
    """Six times the signed volume of a tetrahedron of four points (3,)."""
    ux, uy, uz = a[0] - d[0], a[1] - d[1], a[2] - d[2]
    vx, vy, vz = b[0] - d[0], b[1] - d[1], b[2] - d[2]
    wx, wy, wz = c[0] - d[0], c[1] - d[1], c[2] - d[2]
    return ux * (vy * wz - vz * wy) - uy * (vx * wz - vz * wx) + uz * (vx * wy - vy * wx)


@compiled
def _edges_pierce(first, second):  # type: ignore[no-untyped-def]
    """Whether an edge of triangle ``first`` (3, 3) passes through the inside of triangle ``second``."""
    a, b, c = second[0], second[1], second[2]
    side = (_volume(a, b, c, first[0]), _volume(a, b, c, first[1]), _volume(a, b, c, first[2]))
    for k in range(3):
        m = (k + 1) % 3
        # On one side of the plane, or touching it: neither is a crossing.
        if side[k] * side[m] >= 0:
            continue
        p, q = first[k], first[m]
        one, two, three = _volume(p, q, a, b), _volume(p, q, b, c), _volume(p, q, c, a)
        if (one > 0 and two > 0 and three > 0) or (one < 0 and two < 0 and three < 0):
            return True
    return False


@compiled
def _sweep(corners, low, high, faces):  # type: ignore[no-untyped-def]
    """Return crossing pairs (P, 2) of triangles sorted by ``low[:, 0]``."""
    n = len(faces)
    pairs = np.empty((64, 2), np.int64)
    count = 0
    for i in range(n):
        for j in range(i + 1, n):
            # Sorted by their low ends: no later one reaches back to this one.
            if low[j, 0] > high[i, 0]:
                break
            if low[j, 1] > high[i, 1] or low[i, 1] > high[j, 1] or low[j, 2] > high[i, 2] or low[i, 2] > high[j, 2]:
                continue
            # Neighbours touch by nature.
            shared = False
            for k in range(3):
                vertex = faces[i, k]
                shared = shared or vertex == faces[j, 0] or vertex == faces[j, 1] or vertex == faces[j, 2]
            if shared:
                continue
            if _edges_pierce(corners[i], corners[j]) or _edges_pierce(corners[j], corners[i]):
                if count == len(pairs):
                    grown = np.empty((2 * count, 2), np.int64)
                    grown[:count] = pairs
                    pairs = grown
                pairs[count, 0], pairs[count, 1] = i, j
                count += 1
    return pairs[:count]


def self_crossing(
    vertices: npt.NDArray[np.floating],
    faces: npt.NDArray[np.integer],
    among: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int64]:
    """Return the pairs of triangles without a common vertex that pass through each other.

    Two triangles cross if an edge of one passes through the inside of the other. Touching and coplanar overlap do not
    count. Candidates come from a sweep along the longest axis over the triangles' boxes.

    Parameters
    ----------
    vertices : (N, 3) float
    faces : (F, 3) integer
    among : (F,) bool, optional
        Triangles to look at; by default all.

    Returns
    -------
    pairs : (P, 2) int64
        Indices into ``faces``, the lower first, sorted.
    """
    index = np.arange(len(faces)) if among is None else np.flatnonzero(among)
    if len(index) < 2:
        return np.zeros((0, 2), np.int64)
    corners = np.asarray(vertices, np.float64)[faces[index]]
    axis = int(np.argmax(np.ptp(corners.reshape(-1, 3), axis=0)))
    # The sweep runs along the first coordinate. A cyclic turn of the axes keeps everything else as it is.
    corners = np.roll(corners, -axis, axis=2)
    order = np.argsort(corners[:, :, 0].min(axis=1), kind="stable")
    corners, index = np.ascontiguousarray(corners[order]), index[order]
    pairs = index[
        _sweep(corners, corners.min(axis=1), corners.max(axis=1), np.ascontiguousarray(faces[index], np.int64))
    ]
    pairs = np.sort(pairs, axis=1)
    return np.asarray(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])


LIPS = ("upper_lip", "lower_lip")
MOUTH_REACH_M = 0.01
LID_REACH_M = 0.008
# Lips do not overlap further than this; what seems to is their far sides.
DEEPEST_M = 0.006
OPPOSING_COSINE = -0.3


def mouth_skin(vertices: F64, faces: npt.NDArray[np.integer], regions: npt.NDArray[np.uint8]) -> Bools:
    """Return (N,) bool: lips and the skin within a centimetre of them along the surface, the nose left out."""
    lips = np.flatnonzero(mask_of(regions, LIPS))
    if not len(lips):
        return np.zeros(len(vertices), bool)
    edges, _ = unique_edges(faces)
    length = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
    graph = sp.coo_matrix((length, (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2).tocsr()
    reach = dijkstra(graph, directed=False, indices=lips, limit=MOUTH_REACH_M, min_only=True)
    return np.isfinite(reach) & ~mask_of(regions, ("nose", "mouth_interior"))


def lid_skin(vertices: F64, regions: npt.NDArray[np.uint8]) -> Bools:
    """Return (N,) bool: skin around an eye that lies close to its eyeball, or all of it where there is no eyeball."""
    lids = np.zeros(len(vertices), bool)
    for side in ("right", "left"):
        skin = mask_of(regions, (f"{side}_eye",))
        ball = vertices[mask_of(regions, (f"{side}_eyeball",))]
        if len(ball):
            skin &= cKDTree(ball).query(vertices, distance_upper_bound=LID_REACH_M)[0] < LID_REACH_M
        lids |= skin
    return lids


def lip_overlap_m(vertices: F64, faces: npt.NDArray[np.int32], regions: npt.NDArray[np.uint8]) -> float:
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
