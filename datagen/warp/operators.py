"""Differential operators on the template that regularise its deformation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

# Cotangents of near-degenerate template triangles would dominate every other weight.
MAX_COTANGENT = 4.0
MIN_COTANGENT = 0.05


def cotangent_laplacian(
    vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.integer]
) -> tuple[sp.csr_matrix, npt.NDArray[np.float64]]:
    """Return the positive semi-definite cotangent Laplacian and lumped vertex areas.

    Pinkall & Polthier, "Computing discrete minimal surfaces and their conjugates", 1993. Edge weights are clamped to
    stay positive, which keeps the operator well-conditioned on hand-made topologies.

    Parameters
    ----------
    vertices : (N, 3) float, metres
    faces : (F, 3) integer

    Returns
    -------
    laplacian : (N, N) float64 CSR
        Rows sum to 0.
    areas : (N,) float64
        A third of the area of the adjacent triangles, square metres.
    """
    v, n = np.asarray(vertices, np.float64), len(vertices)
    rows, cols, values = [], [], []
    double_area = np.linalg.norm(np.cross(v[faces[:, 1]] - v[faces[:, 0]], v[faces[:, 2]] - v[faces[:, 0]]), axis=1)
    for corner in range(3):
        i, j, k = faces[:, corner], faces[:, (corner + 1) % 3], faces[:, (corner + 2) % 3]
        dot = np.einsum("ij,ij->i", v[j] - v[i], v[k] - v[i])
        cotangent = np.clip(dot / np.maximum(double_area, 1e-16), MIN_COTANGENT, MAX_COTANGENT) / 2
        rows += [j, k]
        cols += [k, j]
        values += [cotangent, cotangent]
    shape = (n, n)
    weights = sp.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))), shape=shape)
    laplacian = sp.diags(np.asarray(weights.sum(axis=1)).ravel()) - weights
    areas = np.bincount(np.asarray(faces).T.ravel(), weights=np.tile(double_area / 6, 3), minlength=n)
    return laplacian.tocsr(), areas.astype(np.float64)


def vertex_rotations(
    edges: npt.NDArray[np.integer],
    edge_weights: npt.NDArray[np.floating],
    rest: npt.NDArray[np.floating],
    current: npt.NDArray[np.floating],
) -> npt.NDArray[np.float64]:
    """Return the best-fitting rotation of each vertex's one-ring from rest to current shape, (N, 3, 3) float64.

    The local step of O. Sorkine & M. Alexa, "As-rigid-as-possible surface modeling", 2007, equation 5.

    Parameters
    ----------
    edges : (E, 2) integer, each undirected edge once
    edge_weights : (E,) float
    rest, current : (N, 3) float, metres
    """
    n = len(rest)
    i, j = edges.T
    e_rest, e_current = rest[j] - rest[i], current[j] - current[i]
    outer = (edge_weights[:, None] * e_rest)[:, :, None] * e_current[:, None, :]
    flat = outer.reshape(-1, 9)
    covariance = np.empty((n, 9))
    for k in range(9):
        covariance[:, k] = np.bincount(i, flat[:, k], n) + np.bincount(j, flat[:, k], n)
    U, _, Vt = np.linalg.svd(covariance.reshape(n, 3, 3))
    V, Ut = Vt.transpose(0, 2, 1), U.transpose(0, 2, 1)
    V[:, :, 2] *= np.sign(np.linalg.det(V @ Ut))[:, None]
    return V @ Ut
