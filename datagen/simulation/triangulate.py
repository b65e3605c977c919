"""A surface's own random triangulation, as a scanner would give it, with exact positions on the surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from datagen.common.arrays import F64, I32
from datagen.common.compiled import compiled
from datagen.geometry.edges import edge_table, unique_edges

# A saturated random packing of points at least r apart, thrown along the surface, has about this many points
# per area r² (measured here).
PACKING_DENSITY = 0.57


@dataclass(frozen=True)
class Refinement:
    """A mesh split until no edge is long, as an operator on the mesh it came from.

    Attributes
    ----------
    matrix : (M, N) float64 CSR
        Refined positions (or any field) = matrix @ those of the mesh; midpoints only, so the surface is unchanged.
    faces : (F, 3) int32
    neighbour_start, neighbours : (M + 1,) and (E,) int32
        Adjacency lists.
    """

    matrix: sp.csr_matrix
    faces: I32
    neighbour_start: I32
    neighbours: I32


def subdivide_long_edges(
    vertices: F64, faces: npt.NDArray[np.integer], longest_m: float, max_rounds: int = 5
) -> Refinement:
    """Halve every edge longer than ``longest_m`` until none is left, without cracks.

    Parameters
    ----------
    vertices : (N, 3) float64, metres
    faces : (F, 3) int
    max_rounds : int
        Each round halves edges at most once.
    """
    matrix = sp.identity(len(vertices), format="csr")
    current, v = np.asarray(faces, np.int64), vertices
    for _ in range(max_rounds):
        table = edge_table(current)
        edges = table.edges
        long = np.linalg.norm(v[edges[:, 0]] - v[edges[:, 1]], axis=1) > longest_m
        if not long.any():
            break
        new_index = np.full(len(edges), -1, np.int64)
        new_index[long] = len(v) + np.arange(int(long.sum()))
        rows = np.repeat(np.arange(int(long.sum())), 2)
        half = sp.csr_matrix((np.full(len(rows), 0.5), (rows, edges[long].ravel())), shape=(int(long.sum()), len(v)))
        matrix = sp.vstack([matrix, half @ matrix]).tocsr()
        v = np.concatenate([v, half @ v])
        current = _split(current, new_index[table.sides[:, [2, 0, 1]]])
    edges, _ = unique_edges(current)
    graph = sp.csr_matrix((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(len(v), len(v)))
    graph = (graph + graph.T).tocsr()
    return Refinement(matrix, current.astype(np.int32), graph.indptr.astype(np.int32), graph.indices.astype(np.int32))


def _split(faces: npt.NDArray[np.int64], middle: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Split triangles by the midpoints of their edges 01, 12, 20 (-1: the edge stays whole)."""
    marked = middle >= 0
    count = marked.sum(axis=1)
    # Rotate each triangle so that the pattern starts at edge 01: first marked, or the one after the unmarked.
    first = np.where(count == 2, (np.argmin(marked, axis=1) + 1) % 3, np.argmax(marked, axis=1))
    turn = (first[:, None] + np.arange(3)) % 3
    f, m = np.take_along_axis(faces, turn, axis=1), np.take_along_axis(middle, turn, axis=1)
    (a, b, c), (ab, bc, ca) = f.T, m.T
    parts = [f[count == 0]]
    one, two, three = count == 1, count == 2, count == 3
    parts += [np.stack(t, axis=1)[one] for t in ((a, ab, c), (ab, b, c))]
    parts += [np.stack(t, axis=1)[two] for t in ((ab, b, bc), (a, ab, bc), (a, bc, c))]
    parts += [np.stack(t, axis=1)[three] for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
    return np.concatenate(parts)


@dataclass(frozen=True)
class SurfaceSamples:
    """A random triangulation of part of a refined surface.

    Attributes
    ----------
    corners : (K, 3) int32
        Refined vertices of the face each sample lies on.
    weights : (K, 3) float64
        Barycentric.
    faces : (F, 3) int32
        Triangles between samples, oriented like the surface.
    """

    corners: I32
    weights: F64
    faces: I32

    def interpolate(self, field: npt.NDArray[np.floating]) -> F64:
        """Return a refined per-vertex field (M, C) at the samples, (K, C) float64."""
        return np.einsum("kc,kcd->kd", self.weights, field[self.corners])


def random_triangulation(
    refinement: Refinement,
    positions: F64,
    active: npt.NDArray[np.bool_],
    count: int,
    rng: np.random.Generator,
) -> SurfaceSamples:
    """Cover the active part of a surface with about ``count`` random samples and triangulate them.

    Samples are thrown as darts no closer than a radius (Cook 1986); every refined vertex joins the nearest sample it
    is connected to, and the triangles where three samples' cells meet give the dual triangulation (a discrete
    restricted Delaunay triangulation). Each sample then moves to a random point of a neighbouring refined face, so
    nothing ties it to the vertices of the surface it came from.

    Parameters
    ----------
    positions : (M, 3) float64, metres
    active : (M,) bool
    count : int
        Wanted number of samples; kept within some per cent.
    rng : numpy Generator
    """
    faces = refinement.faces[active[refinement.faces].all(axis=1)]
    empty = SurfaceSamples(np.zeros((0, 3), np.int32), np.zeros((0, 3)), np.zeros((0, 3), np.int32))
    if len(faces) == 0:
        return empty
    p = positions[faces]
    area = 0.5 * float(np.linalg.norm(np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), axis=1).sum())
    radius = np.sqrt(PACKING_DENSITY * area / count)
    order = rng.permutation(np.flatnonzero(active)).astype(np.int32)
    owner, seeds = _throw_darts(
        positions, refinement.neighbour_start, refinement.neighbours, active, order, float(radius)
    )
    triangles = owner[faces]
    distinct = (
        (triangles[:, 0] != triangles[:, 1])
        & (triangles[:, 1] != triangles[:, 2])
        & (triangles[:, 2] != triangles[:, 0])
    )
    triangles = _clean(triangles[distinct])
    # A random face around each sample's vertex carries it: the last one written wins, in random order.
    shuffled = rng.permutation(len(faces))
    n_samples = len(seeds)
    home = np.full(n_samples, -1, np.int64)
    seed_of = np.full(len(active), -1, np.int64)
    seed_of[seeds] = np.arange(n_samples)
    for column in range(3):
        sample = seed_of[faces[shuffled, column]]
        home[sample[sample >= 0]] = shuffled[sample >= 0]
    used = np.unique(triangles)
    used = used[home[used] >= 0]
    renumber = np.full(n_samples, -1, np.int64)
    renumber[used] = rng.permutation(len(used))
    triangles = renumber[triangles]
    triangles = triangles[(triangles >= 0).all(axis=1)]
    weights = rng.dirichlet([1.0, 1.0, 1.0], len(used))
    corners = np.empty((len(used), 3), np.int32)
    shuffled_weights = np.empty((len(used), 3))
    corners[renumber[used]] = faces[home[used]]
    shuffled_weights[renumber[used]] = weights
    return SurfaceSamples(corners, shuffled_weights, rng.permutation(triangles).astype(np.int32))


def _clean(triangles: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Merge repeated triangles and drop those that would give an edge a third face."""
    t = np.asarray(triangles, np.int64)
    n = int(t.max(initial=0)) + 1
    # Three cells may meet more than once, along wiggling borders: once more one way round than the other is one
    # triangle, equally often is none.
    t = np.take_along_axis(t, (np.argmin(t, axis=1)[:, None] + np.arange(3)) % 3, axis=1)
    turn = np.where(t[:, 1] < t[:, 2], 1, -1)
    codes = (t[:, 0] * n + t[:, 1:].min(axis=1)) * n + t[:, 1:].max(axis=1)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    net = np.bincount(inverse.ravel(), weights=turn, minlength=len(first))
    t, turn = t[first], turn[first]
    flipped = turn * net < 0
    t[flipped] = t[flipped][:, [0, 2, 1]]
    t = t[net != 0]
    for _ in range(10):
        table = edge_table(t)
        crowded = (table.counts[table.sides] > 2).any(axis=1)
        if not crowded.any():
            break
        t = np.delete(t, np.flatnonzero(crowded)[::2], axis=0)
    return t


@compiled
def _throw_darts(positions, start, neighbours, active, order, radius):  # type: ignore[no-untyped-def] # numba
    n = len(positions)
    owner = np.full(n, -1, np.int32)
    nearest = np.full(n, np.inf)
    reached_by = np.full(n, -1, np.int32)
    queue = np.empty(n, np.int32)
    seeds = np.empty(len(order), np.int32)
    samples = 0
    limit = radius * radius
    # What lies within the radius of a seed, walked along the surface, becomes no seed itself; each vertex belongs to
    # the nearest of the seeds that reached it. Straight distances, but a connected walk: closed lips are not joined.
    for seed in order:
        if owner[seed] >= 0:
            continue
        queue[0] = seed
        seeds[samples] = seed
        head, tail = 0, 1
        reached_by[seed] = samples
        nearest[seed], owner[seed] = 0.0, samples
        while head < tail:
            vertex = queue[head]
            head += 1
            for k in range(start[vertex], start[vertex + 1]):
                other = neighbours[k]
                if reached_by[other] == samples or not active[other]:
                    continue
                reached_by[other] = samples
                distance = 0.0
                for axis in range(3):
                    step = positions[other, axis] - positions[seed, axis]
                    distance += step * step
                if distance > limit:
                    continue
                if distance < nearest[other]:
                    nearest[other], owner[other] = distance, samples
                queue[tail] = other
                tail += 1
        samples += 1
    return owner, seeds[:samples]
