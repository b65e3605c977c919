"""From a scan's own points to canonical coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from datagen.common.arrays import F64
from datagen.geometry.edges import face_neighbours
from datagen.geometry.mesh import face_cross, normalised
from datagen.warp.clearance import local_feature_size
from datagen.warp.normal_projection import phong_feet
from datagen.warp.surface import Surface, SurfacePoints
from datagen.warp.template import WarpTemplate, once_per_template

MIN_COSINE = 0.3
# Where the normals of point and closest triangle are further apart, another part of the template may be meant.
DOUBTFUL_COSINE = 0.7
# Price of a disagreement of the normals, in metres: opposite lips (a difference of 2) are 8 mm apart.
NORMAL_PRICE_M = 0.004
# A foot along the normal may be this much further away than the closest point was, before the closest point is kept.
MAX_DETOUR = 2.0
DETOUR_SLACK_M = 0.0002
STRETCH_RANGE = (0.5, 2.0)


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
    sideways_m : (N,) float64
        Distance of the scan point from the normal through its foot: 0 but beyond borders and in creases.
    cosine : (N,) float64
        Agreement of scan and template normals.
    matched : (N,) bool
    """

    canonical_m: F64
    region: npt.NDArray[np.uint8]
    foot: SurfacePoints
    offset_m: F64
    sideways_m: F64
    cosine: F64
    matched: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Static:
    """What transport needs of a template, which never changes.

    Attributes
    ----------
    neighbours : (G, 3) int64
    area : (M,) float64
        Of the triangles round each canonical vertex.
    outward, inward : (M,) float64
        Local feature size on either side, metres.
    """

    neighbours: npt.NDArray[np.int64]
    area: F64
    outward: F64
    inward: F64


@once_per_template
def _static(template: WarpTemplate) -> _Static:
    outward, inward = local_feature_size(template.canonical_m, template.faces, template.canonical_normals)
    return _Static(face_neighbours(template.faces), _vertex_area(template.canonical_m, template.faces), outward, inward)


def transport(
    points: F64,
    normals: F64,
    registered: Surface,
    template: WarpTemplate,
    max_distance_m: float,
) -> Transported:
    """Carry scan points into canonical space, keeping the detail the template does not have.

    Each point goes to the foot from which the registered template's interpolated normal leads to it, found from the
    closest point of compatible orientation. The barycentric position there gives the canonical point, and the height
    is added along the template's interpolated normal. Normal and local scale are interpolated from the vertices, so
    nothing jumps at a triangle's edge. What no normal leads to (beyond a border, inside a crease) keeps its offset
    sideways too, turned with its triangle. A height never exceeds the template's local feature size: beyond it, the
    point would be nearer to another part of the face, such as the other lip.

    Parameters
    ----------
    points, normals : (N, 3) float64
        Scan vertices (metres) and unit normals.
    registered : Surface
        The deformed fine template.
    max_distance_m : float
        Points further away have no counterpart.
    """
    static = _static(template)
    foot = _feet(points, normals, registered, static.neighbours)
    cosine = np.einsum("ij,ij->i", normals, foot.normal)
    difference = points - foot.position
    matched = (np.linalg.norm(difference, axis=1) <= max_distance_m) & (cosine >= MIN_COSINE)

    corners = template.faces[foot.face]

    def at_feet(per_vertex: F64) -> F64:
        return np.asarray(np.einsum("nc,nc...->n...", foot.barycentric, per_vertex[corners]))

    normal = normalised(at_feet(template.canonical_normals))
    stretch = static.area / np.maximum(_vertex_area(registered.vertices, template.faces), 1e-14)
    scale = at_feet(np.clip(np.sqrt(stretch), *STRETCH_RANGE))
    offset = np.einsum("nd,nd->n", difference, foot.normal)
    sideways = difference - offset[:, None] * foot.normal
    height = np.clip(offset * scale, -at_feet(static.inward), at_feet(static.outward))
    carried = _turned(sideways, registered.vertices[corners], foot.normal, template.canonical_m[corners], normal)
    canonical = at_feet(template.canonical_m) + height[:, None] * normal + scale[:, None] * carried
    heaviest = corners[np.arange(len(corners)), foot.barycentric.argmax(axis=1)]
    return Transported(
        np.where(matched[:, None], canonical, np.nan),
        np.where(matched, template.regions[heaviest], 0).astype(np.uint8),
        foot,
        offset,
        np.linalg.norm(sideways, axis=1),
        cosine,
        matched,
    )


def _feet(points: F64, normals: F64, registered: Surface, neighbours: npt.NDArray[np.int64]) -> SurfacePoints:
    closest = registered.closest(points)
    face, barycentric = closest.face.copy(), closest.barycentric.copy()
    doubtful = np.flatnonzero(np.einsum("ij,ij->i", normals, closest.normal) < DOUBTFUL_COSINE)
    if len(doubtful):
        _reconsider(points, normals, registered, closest, doubtful, face, barycentric)
    started = registered.at(face, barycentric)
    found = phong_feet(points, face, barycentric, registered.vertices, registered.normals, registered.faces, neighbours)
    foot = registered.at(found.face, found.barycentric)
    before = np.linalg.norm(points - started.position, axis=1)
    after = np.linalg.norm(points - foot.position, axis=1)
    strayed = after > MAX_DETOUR * before + DETOUR_SLACK_M
    agreed, agrees = (np.einsum("ij,ij->i", normals, hit.normal) >= MIN_COSINE for hit in (started, foot))
    strayed |= agreed & ~agrees
    return registered.at(
        np.where(strayed, face, found.face), np.where(strayed[:, None], barycentric, found.barycentric)
    )


def _reconsider(
    points: F64,
    normals: F64,
    registered: Surface,
    closest: SurfacePoints,
    which: npt.NDArray[np.int64],
    face: npt.NDArray[np.int64],
    barycentric: F64,
) -> None:
    """Replace, in place, feet where another vertex is nearer in position and normal together."""
    tree = cKDTree(np.concatenate([registered.vertices, NORMAL_PRICE_M * registered.normals], axis=1))
    cost, vertex = tree.query(np.concatenate([points[which], NORMAL_PRICE_M * normals[which]], axis=1))
    gap = points[which] - closest.position[which]
    turn = NORMAL_PRICE_M * (normals[which] - closest.normal[which])
    better = np.asarray(cost) < np.sqrt((gap**2).sum(axis=1) + (turn**2).sum(axis=1))
    a_face = np.zeros(len(registered.vertices), np.int64)
    a_corner = np.zeros(len(registered.vertices), np.int64)
    for corner in range(3):
        a_face[registered.faces[:, corner]] = np.arange(len(registered.faces))
        a_corner[registered.faces[:, corner]] = corner
    rows, chosen = which[better], np.asarray(vertex)[better]
    face[rows] = a_face[chosen]
    barycentric[rows] = np.eye(3)[a_corner[chosen]]


def _turned(
    vectors: F64,
    triangles: F64,
    normals: F64,
    other_triangles: F64,
    other_normals: F64,
) -> F64:
    """Return tangent vectors (N, 3) turned from triangles (N, 3, 3) with normals (N, 3) to others."""

    def frames(corners: F64, normal: F64) -> tuple[F64, F64]:
        edge = corners[:, 1] - corners[:, 0]
        first = normalised(edge - np.einsum("nd,nd->n", edge, normal)[:, None] * normal)
        return first, np.cross(normal, first)

    one, two = frames(triangles, normals)
    other_one, other_two = frames(other_triangles, other_normals)
    along = np.einsum("nd,nd->n", vectors, one)[:, None]
    across = np.einsum("nd,nd->n", vectors, two)[:, None]
    return along * other_one + across * other_two


def _vertex_area(vertices: F64, faces: npt.NDArray[np.integer]) -> F64:
    """Twice the area of the triangles round each vertex, (N,) float64."""
    area = np.linalg.norm(face_cross(vertices, faces), axis=1)
    return np.bincount(faces.T.ravel(), weights=np.tile(area, 3), minlength=len(vertices)).astype(np.float64)
