"""What a template does where nothing is known: displacements extended smoothly, separate parts carried rigidly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from datagen.common.arrays import F64
from datagen.geometry.edges import unique_edges
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import INTERIOR_REGIONS, mask_of
from datagen.warp.similarity import fit_similarity
from datagen.warp.template import cotangent_laplacian

# A displacement dies out over about a sixth of this: over centimetres, not over the head.
WAVELENGTH_M = 0.4
NEIGHBOURS = 60


class SmoothExtension:
    """Extends displacements from known vertices to the rest of a mesh.

    The extension minimises the thin-plate energy plus a pull to zero that makes it die out with distance. Vertices of
    parts where nothing is known stay at zero.

    Parameters
    ----------
    vertices : (V, 3) float64, metres
    faces : (F, 3) integer
    known : (V,) bool
    """

    def __init__(self, vertices: F64, faces: npt.NDArray[np.integer], known: npt.NDArray[np.bool_]) -> None:
        laplacian, areas = cotangent_laplacian(vertices, faces)
        mean = float(areas[areas > 0].mean())
        bending = (laplacian.T @ sp.diags(1 / (mean * np.maximum(areas, 0.05 * mean))) @ laplacian).tocsr()
        self._known, self._rest = np.flatnonzero(known), np.flatnonzero(~known)
        stiffness = (WAVELENGTH_M / (2 * np.pi)) ** 4
        rows = stiffness * bending[self._rest]
        self._coupling = rows[:, self._known].tocsr()
        # Symmetric positive definite, so no pivoting is needed and the bytes stay the same.
        system = (rows[:, self._rest] + sp.identity(len(self._rest))).tocsc()
        self._factor = (
            splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
            if len(self._rest)
            else None
        )

    def __call__(self, displacement: F64) -> F64:
        """Return displacements (V, 3), those of known vertices unchanged."""
        extended = displacement.copy()
        if self._factor is not None:
            extended[self._rest] = self._factor.solve(-(self._coupling @ displacement[self._known]))
        return extended


def rides_with_skin(template: HeadTemplate, rest: F64, moved: F64) -> F64:
    """Return ``moved`` with the separate parts (eyeballs, tongue) carried rigidly by the skin around them.

    Parameters
    ----------
    rest, moved : (V, 3) float64
        Template vertices before and after, metres.
    """
    n = len(template.vertices)
    edges, _ = unique_edges(template.faces)
    _, part = connected_components(sp.coo_matrix((np.ones(len(edges)), edges.T), shape=(n, n)), directed=False)
    skin_parts = np.unique(part[~mask_of(template.regions, INTERIOR_REGIONS)])
    skin = np.flatnonzero(np.isin(part, skin_parts))
    tree = cKDTree(template.vertices[skin])
    result = moved.copy()
    for label in np.setdiff1d(np.unique(part), skin_parts):
        members = np.flatnonzero(part == label)
        _, near = tree.query(template.vertices[members].mean(axis=0), min(NEIGHBOURS, len(skin)))
        around = skin[np.sort(near)]
        result[members] = fit_similarity(rest[around], moved[around]).apply(rest[members])
    return result
