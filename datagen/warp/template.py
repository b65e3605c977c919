"""A head template prepared for warping: two resolutions, their regularisers, and the parts that only ride along."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import SuperLU, splu
from scipy.spatial import cKDTree

from datagen.geometry.edges import boundary_vertices, unique_edges
from datagen.geometry.mesh import vertex_normals
from datagen.geometry.subdivide import loop_subdivision
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import INTERIOR_REGIONS, mask_of
from datagen.warp.clearance import inside_nostrils
from datagen.warp.ring_rotations import ring_rotations

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
    turns: npt.NDArray[np.float64] = ring_rotations(
        np.ascontiguousarray(edges, np.int64),
        np.ascontiguousarray(edge_weights, np.float64),
        np.ascontiguousarray(rest, np.float64),
        np.ascontiguousarray(current, np.float64),
    )
    return turns


# Data weight a factorised system is built for; the conjugate gradient makes up for the difference.
REFERENCE_DATA_WEIGHT = 0.4
SATELLITE_NEIGHBOURS = 60
FINE_VERTICES = 15_000


def stiffness_of(wavelength_m: float) -> float:
    """Return the stiffness (m⁴) at which a displacement of this wavelength is followed to one half."""
    return (wavelength_m / (2 * np.pi)) ** 4


class Level:
    """One resolution of the template's connected skin, with what a deformation on it needs.

    Attributes
    ----------
    rest : (n, 3) float64
        Neutral positions, metres.
    faces : (F, 3) int32
    regions : (n,) uint8
    laplacian : (n, n) float64 CSR
        Cotangent Laplacian.
    inverse_mass : (n,) float64
        1/m⁴.
    bending : (n, n) float64 CSR
        ``laplacianᵀ · diag(inverse_mass) · laplacian``, the thin-plate energy of a displacement field, 1/m⁴.
    edges : (E, 2) int64
    edge_weights : (E,) float64
    attract : (n,) bool
        Vertices that may follow the scan: skin that is neither on the template's border nor inside a nostril.
    """

    def __init__(self, rest: npt.NDArray[np.float64], faces: npt.NDArray[np.int32], regions: npt.NDArray[np.uint8]):
        self.rest, self.faces, self.regions = rest, faces, regions
        self.laplacian, areas = cotangent_laplacian(rest, faces)
        mean = float(areas.mean())
        # Per vertex, not per area: data terms count vertices, so a wavelength means the same at every resolution.
        self.inverse_mass = 1.0 / (mean * np.maximum(areas, 0.05 * mean))
        self.bending = (self.laplacian.T @ sp.diags(self.inverse_mass) @ self.laplacian).tocsr()
        self.edges, _ = unique_edges(faces)
        i, j = self.edges.T
        self.edge_weights = -np.asarray(self.laplacian[i, j]).ravel()
        self.normals = vertex_normals(rest, faces)
        shown = ~mask_of(regions, INTERIOR_REGIONS) & ~inside_nostrils(rest, faces, self.normals, regions)
        self.attract = shown & ~boundary_vertices(faces, len(rest))
        self._factors: dict[float, SuperLU] = {}

    def factor(self, stiffness: float) -> SuperLU:
        """Return the cached factorisation of ``stiffness · bending + data``, a preconditioner for every frame.

        Parameters
        ----------
        stiffness : float
            m⁴; see :func:`stiffness_of`.
        """
        if stiffness not in self._factors:
            data = np.where(self.attract, REFERENCE_DATA_WEIGHT, 1e-3)
            system = (stiffness * self.bending + sp.diags(data)).tocsc()
            self._factors[stiffness] = splu(
                system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
            )
        return self._factors[stiffness]


@dataclass(frozen=True)
class Satellite:
    """A separate component (an eyeball, the tongue) that moves rigidly with the skin around it.

    Attributes
    ----------
    vertices : (S,) int64
        Fine template indices.
    neighbours : (k,) int64
        Fine template indices of the skin it rides on.
    """

    vertices: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class WarpTemplate:
    """A head template prepared for warping.

    Attributes
    ----------
    subdivide : (M, V) float64 CSR
        Template vertices to fine vertices (Loop).
    faces : (G, 3) int32
        Fine triangles.
    canonical_m : (M, 3) float64
        Fine vertices of the neutral template, metres.
    canonical_normals : (M, 3) float64
    regions : (M,) uint8
        Of the fine vertices.
    skin : (m,) int64
        Fine vertices of the connected skin; ``fine.rest`` is ``canonical_m[skin]``.
    coarse_skin : (n,) int64
        Template vertices of the connected skin.
    coarse_to_fine : (m, n) float64 CSR
        Carries a displacement field from the coarse to the fine skin.
    """

    head: HeadTemplate
    subdivide: sp.csr_matrix
    faces: npt.NDArray[np.int32]
    canonical_m: npt.NDArray[np.float64]
    canonical_normals: npt.NDArray[np.float64]
    regions: npt.NDArray[np.uint8]
    skin: npt.NDArray[np.int64]
    coarse_skin: npt.NDArray[np.int64]
    coarse: Level
    fine: Level
    coarse_to_fine: sp.csr_matrix
    satellites: tuple[Satellite, ...]

    def landmark_matrix(self, indices: npt.NDArray[np.int64]) -> sp.csr_matrix:
        """Return the (L, V) operator from template vertices to the landmarks of given indices."""
        faces = self.head.faces[self.head.landmark_faces[indices]]
        rows = np.repeat(np.arange(len(indices)), 3)
        values = self.head.landmark_barycentric[indices].ravel()
        return sp.csr_matrix((values, (rows, faces.ravel())), shape=(len(indices), len(self.head.vertices)))


def subdivision_levels(template: HeadTemplate, subdivisions: int | None) -> int:
    """Return how often a template is subdivided; with None, until it has at least :data:`FINE_VERTICES`."""
    if subdivisions is not None:
        return subdivisions
    return max(0, math.ceil(math.log(FINE_VERTICES / len(template.vertices), 4)))


@lru_cache(maxsize=4)
def prepare_template(template: HeadTemplate, subdivisions: int | None = None) -> WarpTemplate:
    """Prepare a template for warping, once per process for each template and number of subdivisions.

    With None it is subdivided as :func:`subdivision_levels` says.
    """
    n = len(template.vertices)
    subdivisions = subdivision_levels(template, subdivisions)
    fine = loop_subdivision(template.faces, n, subdivisions)
    # A fine vertex takes the label of the template vertex that weighs most in it.
    heaviest = np.asarray(fine.matrix.argmax(axis=1)).ravel()
    regions = template.regions[heaviest]
    canonical = fine.matrix @ template.vertices

    edges, _ = unique_edges(template.faces)
    graph = sp.coo_matrix((np.ones(len(edges)), edges.T), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    interior = mask_of(template.regions, INTERIOR_REGIONS)
    skin_components = np.unique(component[~interior])
    coarse_is_skin = np.isin(component, skin_components)
    coarse_skin = np.flatnonzero(coarse_is_skin)
    fine_component = component[heaviest]
    skin = np.flatnonzero(np.isin(fine_component, skin_components))

    def restrict(faces: npt.NDArray[np.int32], kept: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int32]:
        lookup = np.full(size, -1)
        lookup[kept] = np.arange(len(kept))
        local = lookup[faces]
        return local[(local >= 0).all(axis=1)].astype(np.int32)

    # The coarse level's vertices lie on the fine surface, so both measure distances to the same thing.
    on_surface = canonical[:n]
    coarse_level = Level(
        on_surface[coarse_skin], restrict(template.faces, coarse_skin, n), template.regions[coarse_skin]
    )
    fine_level = Level(canonical[skin], restrict(fine.faces, skin, len(canonical)), regions[skin])

    tree = cKDTree(canonical[skin])
    satellites = []
    for label in np.setdiff1d(np.unique(component), skin_components):
        members = np.flatnonzero(fine_component == label)
        centre = canonical[members].mean(axis=0)
        _, near = tree.query(centre, SATELLITE_NEIGHBOURS * 4**subdivisions)
        satellites.append(Satellite(members, skin[np.sort(near)]))
    return WarpTemplate(
        head=template,
        subdivide=fine.matrix,
        faces=fine.faces,
        canonical_m=canonical,
        canonical_normals=vertex_normals(canonical, fine.faces),
        regions=regions,
        skin=skin,
        coarse_skin=coarse_skin,
        coarse=coarse_level,
        fine=fine_level,
        coarse_to_fine=fine.matrix[skin][:, coarse_skin].tocsr(),
        satellites=tuple(satellites),
    )


T = TypeVar("T")


class _ByIdentity:
    """A template as a cache key: prepared templates are made once per process."""

    def __init__(self, template: WarpTemplate) -> None:
        self.template = template

    def __hash__(self) -> int:
        return id(self.template)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and other.template is self.template


def once_per_template(make: Callable[[WarpTemplate], T]) -> Callable[[WarpTemplate], T]:
    """Decorate a function of a prepared template, so that it is computed once for each of the last few templates."""

    @lru_cache(maxsize=4)
    def cached(key: _ByIdentity) -> T:
        return make(key.template)

    @wraps(make)
    def wrapped(template: WarpTemplate) -> T:
        return cached(_ByIdentity(template))

    return wrapped
