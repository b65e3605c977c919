"""Which scan point a template vertex should go to, and how far that is to be believed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from datagen.heads.regions import INTERIOR_REGIONS, REGIONS, mask_of
from datagen.warp.surface import Surface

# A target whose own nearest template vertex lies this far from the asking vertex on the neutral template belongs
# to another part of the face, however near it is now.
MAX_REST_DISTANCE_M = 0.02


@dataclass(frozen=True)
class Gate:
    """What a correspondence must satisfy.

    Attributes
    ----------
    min_cosine : float
        Between template and scan normals.
    sigma_m : float
        Scale of the robust kernel on the point-to-plane residual.
    """

    max_distance_m: float
    min_cosine: float
    sigma_m: float


@dataclass(frozen=True)
class Targets:
    """Targets of template vertices.

    Attributes
    ----------
    position, normal : (n, 3) float64
        On the scan, metres and unit; the vertex's own where it was not looked for.
    weight : (n,) float64
        In [0, 1]; 0 where there is no believable target.
    """

    position: npt.NDArray[np.float64]
    normal: npt.NDArray[np.float64]
    weight: npt.NDArray[np.float64]


def regions_compatible(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return (n,) whether regions ``a`` and ``b`` (n,) may be matched: not lip to other lip, nor skin to interior."""
    upper, lower = REGIONS["upper_lip"], REGIONS["lower_lip"]
    opposite_lips = ((a == upper) & (b == lower)) | ((a == lower) & (b == upper))
    return ~opposite_lips & (mask_of(a, INTERIOR_REGIONS) == mask_of(b, INTERIOR_REGIONS))


@dataclass(frozen=True)
class BackCheck:
    """The current template as seen from the scan, for the return half of a correspondence.

    Attributes
    ----------
    tree : cKDTree
        Over all current template vertices, interior parts included.
    regions : (M,) uint8
    rest : (M, 3) float64
        Neutral positions, metres.
    """

    tree: cKDTree
    regions: npt.NDArray[np.uint8]
    rest: npt.NDArray[np.float64]


def find_targets(
    surface: Surface,
    vertices: npt.NDArray[np.float64],
    normals: npt.NDArray[np.float64],
    regions: npt.NDArray[np.uint8],
    rest: npt.NDArray[np.float64],
    attract: npt.NDArray[np.bool_],
    back: BackCheck,
    gate: Gate,
) -> Targets:
    """Return a target on the scan for every template vertex.

    A target counts if it is near, its normal agrees, it is not on the scan's border, and the scan point's own nearest
    template vertex is of a compatible region and was close by on the neutral template. What counts is weighted by the
    Geman–McClure kernel of its distance along the normal and by the agreement of the normals.

    Parameters
    ----------
    surface : Surface
        The scan.
    vertices, normals, rest : (n, 3) float64
        Current positions and normals, and neutral positions.
    regions : (n,) uint8
    attract : (n,) bool
        Vertices allowed to have a target.
    """
    position, normal, weight = vertices.copy(), normals.copy(), np.zeros(len(vertices))
    asked = np.flatnonzero(attract)
    hit = surface.closest(vertices[asked])
    position[asked], normal[asked] = hit.position, hit.normal
    offset = hit.position - vertices[asked]
    cosine = np.einsum("ij,ij->i", normals[asked], hit.normal)
    near = np.linalg.norm(offset, axis=1) < gate.max_distance_m
    # The way back is asked of those only that pass everything else.
    passed = np.flatnonzero(near & (cosine > gate.min_cosine) & ~hit.on_border)
    who = asked[passed]
    _, nearest = back.tree.query(hit.position[passed])
    believable = regions_compatible(regions[who], back.regions[nearest])
    believable &= np.linalg.norm(back.rest[nearest] - rest[who], axis=1) < MAX_REST_DISTANCE_M
    passed, who = passed[believable], who[believable]
    residual = np.einsum("ij,ij->i", offset[passed], hit.normal[passed])
    robust = (1 + (residual / gate.sigma_m) ** 2) ** -2.0
    weight[who] = robust * np.clip(cosine[passed], 0, 1) ** 2
    return Targets(position, normal, weight)
