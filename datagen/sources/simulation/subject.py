"""One simulated subject: dense surface, its true canonical counterpart, skin and light."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from datagen.geometry.mesh import normalised, vertex_normals
from datagen.geometry.subdivide import Subdivision, loop_subdivision
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.heads.regions import REGIONS
from datagen.sources.simulation.detail import SkinDetail, soft_regions
from datagen.sources.simulation.remesh import Refinement, refine

F64 = npt.NDArray[np.float64]

DENSE_FACES = 100_000
IDENTITY_LIMIT = 2.0
# Refined edges are at most this share of the spacing of scan points, so that cells of samples are well shaped.
REFINED_SHARE = 0.75


@dataclass(frozen=True)
class DenseTemplate:
    """The template subdivided (Loop) to about one millimetre, with labels.

    Attributes
    ----------
    subdivision : Subdivision
    points, normals : (N, 3) float64
        Template-space metres.
    regions : (N,) uint8
    shares : dict of region name to (N,) float64
        Soft membership.
    levels : int
        Of subdivision.
    """

    subdivision: Subdivision
    points: F64
    normals: F64
    regions: npt.NDArray[np.uint8]
    shares: dict[str, F64]
    levels: int


def dense_template(template: HeadTemplate) -> DenseTemplate:
    """Return the dense template, computed once per process and template."""
    return _dense_template(_ByDigest(template))


class _ByDigest:
    """A template as a cache key."""

    def __init__(self, template: HeadTemplate) -> None:
        self.template = template

    def __hash__(self) -> int:
        return hash(self.template.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByDigest) and other.template.digest == self.template.digest


@lru_cache(maxsize=2)
def _dense_template(key: _ByDigest) -> DenseTemplate:
    template = key.template
    levels = 0
    while len(template.faces) * 4**levels < DENSE_FACES:
        levels += 1
    subdivision = loop_subdivision(template.faces, len(template.vertices), levels)
    points = subdivision.matrix @ template.vertices
    coarse = soft_regions(template.regions)
    shares = {name: subdivision.matrix @ indicator for name, indicator in coarse.items()}
    names = list(shares)
    winner = np.stack([shares[name] for name in names]).argmax(axis=0)
    regions = np.array([REGIONS[name] for name in names], np.uint8)[winner]
    return DenseTemplate(subdivision, points, vertex_normals(points, subdivision.faces), regions, shares, levels)


@dataclass(frozen=True)
class PosedSurface:
    """A subject's detailed surface at one instant, and where each of its points truly belongs.

    Attributes
    ----------
    vertices, normals : (N, 3) float64
        World metres; of the detailed surface.
    canonical : (N, 3) float64
        Template-space metres: the template's point plus the same offset along the template's normal.
    template_vertices : (V, 3) float64
        The posed template itself, world metres.
    smooth_normals : (N, 3) float64
        Of the surface without its detail.
    head_to_world : (4, 4) float64
    """

    vertices: F64
    normals: F64
    canonical: F64
    template_vertices: F64
    smooth_normals: F64
    head_to_world: F64


class Subject:
    """A person drawn from a head model.

    Parameters
    ----------
    head : HeadModel
    rng : numpy Generator
        Seeded by the subject; draws identity and skin detail.
    departure : (V, 3) float64, optional
        Displacement of the template's vertices (metres, template axes) on top of every shape of the model; see
        :func:`~datagen.sources.simulation.departure.identity_departure`. It stays with the skin: what is displaced
        keeps its canonical coordinate.
    """

    def __init__(self, head: HeadModel, rng: np.random.Generator, departure: F64 | None = None) -> None:
        self.head = head
        self._departure = departure
        self.dense = dense_template(head.template)
        self.identity = np.clip(rng.normal(size=head.identity_size), -IDENTITY_LIMIT, IDENTITY_LIMIT)
        self._detail = SkinDetail(head.template, self.dense.points, self.dense.shares, rng)
        self.neutral = self.dense.subdivision.matrix @ self.shape(np.zeros(len(head.expression_names)))

    @property
    def faces(self) -> npt.NDArray[np.int32]:
        """Triangles of the dense surface, (F, 3) int32."""
        return self.dense.subdivision.faces

    def pose(self, expression: F64, head_to_world: F64) -> PosedSurface:
        """Return the subject under expression weights (E,) and a rigid (4, 4) pose."""
        R, t = head_to_world[:3, :3], head_to_world[:3, 3]
        coarse = self.shape(expression) @ R.T + t
        smooth = self.dense.subdivision.matrix @ coarse
        offset = self._detail.offsets(self.head.expression_names, expression)[:, None]
        normals = vertex_normals(smooth, self.faces)
        detailed = smooth + offset * normals
        canonical = self.dense.points + offset * self.dense.normals
        return PosedSurface(
            detailed, normalised(vertex_normals(detailed, self.faces)), canonical, coarse, normals, head_to_world
        )

    def shape(self, expression: F64) -> F64:
        """Template vertices under expression weights, (V, 3) float64 metres in template axes."""
        vertices = self.head.vertices(self.identity, expression)
        return vertices if self._departure is None else vertices + self._departure

    def refinement(self, scan_vertices: int) -> Refinement:
        """Return the dense surface refined enough for scans of about ``scan_vertices`` points."""
        corners = self.neutral[self.faces]
        area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        # Cameras in front see about half of the head.
        spacing = float(np.sqrt(0.5 * area.sum() / scan_vertices))
        return refine(self.neutral, self.faces, REFINED_SHARE * spacing)
