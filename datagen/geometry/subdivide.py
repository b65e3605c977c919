"""Loop subdivision as a sparse linear operator, so that any per-vertex field can be subdivided the same way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from datagen.geometry.edges import edge_table


@dataclass(frozen=True)
class Subdivision:
    """A subdivided topology and the operator that reaches it.

    Attributes
    ----------
    matrix : (M, N) float64 CSR
        ``fine = matrix @ coarse`` for positions, canonical coordinates or displacements; rows sum to 1. The first N
        rows belong to the coarse vertices.
    faces : (4 F, 3) int32
        Children of coarse face f are 4 f … 4 f + 3.
    """

    matrix: sp.csr_matrix
    faces: npt.NDArray[np.int32]


def loop_subdivision(faces: npt.NDArray[np.integer], n_vertices: int, levels: int = 1) -> Subdivision:
    """Return ``levels`` steps of Loop subdivision of a triangle mesh.

    Interior vertices follow Loop's rule with Warren's weights (C. Loop, "Smooth subdivision surfaces based on
    triangles", 1987; J. Warren, 1995); boundary vertices follow the cubic B-spline rule, so that an open border does
    not shrink inwards. Vertices without faces are kept where they are.

    Parameters
    ----------
    faces : (F, 3) integer
    levels : int
        0 returns the mesh itself.
    """
    matrix = sp.identity(n_vertices, format="csr")
    current = np.asarray(faces, np.int64)
    for _ in range(levels):
        step, current = _loop_step(current, matrix.shape[0])
        matrix = (step @ matrix).tocsr()
    return Subdivision(matrix, current.astype(np.int32))


def _loop_step(faces: npt.NDArray[np.int64], n: int) -> tuple[sp.csr_matrix, npt.NDArray[np.int64]]:
    table = edge_table(faces)
    edges, inverse, opposite = table.edges, table.sides.ravel(), faces.ravel()
    n_edges = len(edges)
    # A rule for two neighbours does not fit an edge of three: non-manifold edges are treated as creases too.
    crease = table.counts != 2

    edge_rows = np.arange(n_edges)
    end_weight = np.where(crease, 0.5, 0.375)
    opposite_weight = np.where(crease, 0.0, 0.125)[inverse]
    odd = sp.coo_matrix(
        (
            np.concatenate([end_weight, end_weight, opposite_weight]),
            (
                np.concatenate([edge_rows, edge_rows, inverse]),
                np.concatenate([edges[:, 0], edges[:, 1], opposite]),
            ),
        ),
        shape=(n_edges, n),
    )

    valence = np.bincount(edges.ravel(), minlength=n)
    on_crease = np.bincount(edges[crease].ravel(), minlength=n)
    beta = np.where(valence == 3, 3 / 16, 3 / (8 * np.maximum(valence, 1)))
    # A corner where other than two border edges meet has no spline through it: it stays.
    fixed = (valence == 0) | ((on_crease > 0) & (on_crease != 2))
    smooth = (on_crease == 0) & ~fixed
    border = (on_crease == 2) & ~fixed
    self_weight = np.where(smooth, 1 - valence * beta, np.where(border, 0.75, 1.0))
    tail = np.concatenate([edges[:, 0], edges[:, 1]])
    head = np.concatenate([edges[:, 1], edges[:, 0]])
    edge_on_crease = np.concatenate([crease, crease])
    weight = np.where(smooth[tail], beta[tail], np.where(border[tail] & edge_on_crease, 0.125, 0.0))
    even = sp.coo_matrix(
        (
            np.concatenate([self_weight, weight]),
            (np.concatenate([np.arange(n), tail]), np.concatenate([np.arange(n), head])),
        ),
        shape=(n, n),
    )

    middle = n + inverse.reshape(-1, 3)  # column k: midpoint opposite to corner k
    a, b, c = faces.T
    mid_bc, mid_ca, mid_ab = middle.T
    children = np.stack(
        [
            np.stack([a, mid_ab, mid_ca], axis=1),
            np.stack([mid_ab, b, mid_bc], axis=1),
            np.stack([mid_ca, mid_bc, c], axis=1),
            np.stack([mid_ab, mid_bc, mid_ca], axis=1),
        ],
        axis=1,
    ).reshape(-1, 3)
    return sp.vstack([even, odd]).tocsr(), children
