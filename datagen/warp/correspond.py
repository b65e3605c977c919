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
        On the scan, metres and unit.
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
    hit = surface.closest(vertices)
    offset = hit.position - vertices
    distance = np.linalg.norm(offset, axis=1)
    cosine = np.einsum("ij,ij->i", normals, hit.normal)
    _, nearest = back.tree.query(hit.position)
    believable = (
        attract
        & (distance < gate.max_distance_m)
        & (cosine > gate.min_cosine)
        & ~hit.on_border
        & regions_compatible(regions, back.regions[nearest])
        & (np.linalg.norm(back.rest[nearest] - rest, axis=1) < MAX_REST_DISTANCE_M)
    )
    residual = np.einsum("ij,ij->i", offset, hit.normal)
    robust = (1 + (residual / gate.sigma_m) ** 2) ** -2.0
    return Targets(hit.position, hit.normal, np.where(believable, robust * np.clip(cosine, 0, 1) ** 2, 0.0))
