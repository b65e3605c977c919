"""From a scan's own points to canonical coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from datagen.warp.surface import Surface, SurfacePoints
from datagen.warp.template import WarpTemplate

MIN_COSINE = 0.3
# Where the closest triangle faces the other way (lips, lids), this many near vertices are tried instead.
CANDIDATES = 24


@dataclass(frozen=True)
class Transported:
    """Scan points in canonical space.

    Attributes
    ----------
    canonical_m : (N, 3) float64
        Template space, metres; NaN where there is no counterpart.
    region : (N,) uint8
        0 where there is no counterpart.
    foot : SurfacePoints
        Counterparts on the registered template.
    offset_m : (N,) float64
        Signed height of the scan point over the registered template.
    cosine : (N,) float64
        Agreement of scan and template normals.
    matched : (N,) bool
    """

    canonical_m: npt.NDArray[np.float64]
    region: npt.NDArray[np.uint8]
    foot: SurfacePoints
    offset_m: npt.NDArray[np.float64]
    cosine: npt.NDArray[np.float64]
    matched: npt.NDArray[np.bool_]


def transport(
    points: npt.NDArray[np.float64],
    normals: npt.NDArray[np.float64],
    registered: Surface,
    template: WarpTemplate,
    max_distance_m: float,
) -> Transported:
    """Carry scan points into canonical space, keeping the detail the template does not have.

    Each point goes to its closest registered template point of compatible orientation; the barycentric position there
    gives the canonical point, and the height over the registered surface is added along the template's interpolated
    normal, scaled by how much the template's triangle was stretched.

    Parameters
    ----------
    points, normals : (N, 3) float64
        Scan vertices (metres) and unit normals.
    registered : Surface
        The deformed fine template.
    template : WarpTemplate
    max_distance_m : float
        Points further away have no counterpart.
    """
    foot = registered.closest(points)
    wrong = np.einsum("ij,ij->i", normals, foot.normal) < MIN_COSINE
    if wrong.any():
        foot = _retry(points, normals, registered, foot, np.flatnonzero(wrong))
    cosine = np.einsum("ij,ij->i", normals, foot.normal)
    difference = points - foot.position
    distance = np.linalg.norm(difference, axis=1)
    matched = (distance <= max_distance_m) & (cosine >= MIN_COSINE)

    corners = template.faces[foot.face]
    base = np.einsum("nc,ncd->nd", foot.barycentric, template.canonical_m[corners])
    normal = np.einsum("nc,ncd->nd", foot.barycentric, template.canonical_normals[corners])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    offset = np.einsum("nd,nd->n", difference, foot.normal)
    stretch = _triangle_scale(template.canonical_m, corners) / _triangle_scale(registered.vertices, corners)
    canonical = base + (offset * np.clip(stretch, 0.5, 2.0))[:, None] * normal
    heaviest = corners[np.arange(len(corners)), foot.barycentric.argmax(axis=1)]
    return Transported(
        np.where(matched[:, None], canonical, np.nan),
        np.where(matched, template.regions[heaviest], 0).astype(np.uint8),
        foot,
        offset,
        cosine,
        matched,
    )


def _triangle_scale(vertices: npt.NDArray[np.float64], corners: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    a, b, c = vertices[corners[:, 0]], vertices[corners[:, 1]], vertices[corners[:, 2]]
    return np.sqrt(np.maximum(np.linalg.norm(np.cross(b - a, c - a), axis=1), 1e-14))


def _retry(
    points: npt.NDArray[np.float64],
    normals: npt.NDArray[np.float64],
    registered: Surface,
    foot: SurfacePoints,
    which: npt.NDArray[np.int64],
) -> SurfacePoints:
    """Replace feet that face the wrong way by the nearest vertex that faces the right way, if one is among the near."""
    near = np.asarray(cKDTree(registered.vertices).query(points[which], CANDIDATES)[1])
    agrees = np.einsum("nd,nkd->nk", normals[which], registered.normals[near]) >= MIN_COSINE
    found = agrees.any(axis=1)
    vertex = near[np.arange(len(which)), agrees.argmax(axis=1)][found]
    a_face = np.zeros(len(registered.vertices), np.int64)
    a_corner = np.zeros(len(registered.vertices), np.int64)
    for corner in range(3):
        a_face[registered.faces[:, corner]] = np.arange(len(registered.faces))
        a_corner[registered.faces[:, corner]] = corner
    face, barycentric = foot.face.copy(), foot.barycentric.copy()
    rows = which[found]
    face[rows] = a_face[vertex]
    barycentric[rows] = np.eye(3)[a_corner[vertex]]
    return registered.at(face, barycentric)
