"""Small mesh questions several head models ask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


def components(faces: npt.NDArray[np.integer], vertex_count: int) -> npt.NDArray[np.int64]:
    """Return the connected component of each vertex, (V,) int64."""
    i, j = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    graph = coo_matrix((np.ones(len(i), np.int8), (i, j)), (vertex_count, vertex_count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def rigid_align(
    source: npt.NDArray[np.float64], target: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the rotation (3, 3) and translation (3,) that take ``source`` (N, 3) nearest to ``target`` (N, 3).

    Kabsch (1976), by SVD of the covariance.
    """
    a, b = source.mean(axis=0), target.mean(axis=0)
    U, _, Vt = np.linalg.svd((source - a).T @ (target - b))
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
    R = (U * flip @ Vt).T
    return R, b - R @ a


def compact(
    keep: npt.NDArray[np.bool_], faces: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Keep the faces ``keep`` (F,) and the vertices they use.

    Returns
    -------
    vertices : (V',) int64
        Old index of each kept vertex, increasing.
    faces : (F', 3) int32
        Renumbered.
    """
    kept = faces[keep]
    used, renumbered = np.unique(kept, return_inverse=True)
    return used.astype(np.int64), renumbered.reshape(kept.shape).astype(np.int32)


def split_parts(
    vertices: npt.NDArray[np.float64], faces: npt.NDArray[np.integer], landmarks: npt.NDArray[np.float64]
) -> tuple[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]], npt.NDArray[np.bool_]]:
    """Tell eyeballs and mouth parts from the skin, which is the largest connected component.

    Parameters
    ----------
    vertices : (V, 3) float64
    faces : (F, 3) int
    landmarks : (68, 3) float64
        iBUG order.

    Returns
    -------
    eyeballs : pair of (V,) bool
        Right and left: components whose centre lies within an eye's width of the lids' centre.
    interior : (V,) bool
        All other components.
    """
    part = components(faces, len(vertices))
    sizes = np.bincount(part)
    centres = np.stack([np.bincount(part, vertices[:, k]) for k in range(3)], axis=1) / sizes[:, None]
    apart = np.arange(len(sizes)) != sizes.argmax()
    width = np.linalg.norm(landmarks[36] - landmarks[39])
    eyes = [
        apart & (np.linalg.norm(centres - landmarks[corners].mean(axis=0), axis=1) < width)
        for corners in (slice(36, 42), slice(42, 48))
    ]
    return (eyes[0][part], eyes[1][part]), (apart & ~eyes[0] & ~eyes[1])[part]
