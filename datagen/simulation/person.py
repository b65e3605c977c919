"""Simulated people: a head model's identity, what departs from it, fine relief of skin, and their faces in motion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from datagen.geometry.mesh import normalised, vertex_normals
from datagen.geometry.subdivide import Subdivision, loop_subdivision
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.heads.regions import INTERIOR_REGIONS, REGIONS
from datagen.simulation.motion import plain_name
from datagen.simulation.real_people import RealPerson
from datagen.simulation.triangulate import Refinement, subdivide_long_edges


@dataclass(frozen=True)
class WaveField:
    """A random field with C channels, each of unit variance over phases.

    Attributes
    ----------
    vectors : (3, W) float64
        Wave vectors, radians per metre.
    phases : (W,) float64
    weights : (W, C) float64
    """

    vectors: F64
    phases: F64
    weights: F64

    @classmethod
    def draw(
        cls,
        wavelengths_m: tuple[float, float],
        rng: np.random.Generator,
        *,
        waves: int = 24,
        channels: int = 1,
    ) -> WaveField:
        """Draw waves in all directions, wavelengths between two bounds (log-uniform)."""
        direction = rng.normal(size=(3, waves))
        direction /= np.linalg.norm(direction, axis=0)
        wavelength = np.exp(rng.uniform(np.log(wavelengths_m[0]), np.log(wavelengths_m[1]), waves))
        weights = rng.normal(size=(waves, channels))
        weights *= np.sqrt(2 / (weights**2).sum(axis=0))
        return cls(direction * 2 * np.pi / wavelength, rng.uniform(0, 2 * np.pi, waves), weights)

    def __call__(self, points: F64, phase_shift: float | F64 = 0.0) -> F64:
        """Return the field at points (N, 3) metres, (N, C) float64; ``phase_shift`` (scalar or (W,)) drifts it."""
        return np.cos(points @ self.vectors + (self.phases + phase_shift)) @ self.weights


DEPARTURE_WAVELENGTHS_M = (0.04, 0.25)


def identity_departure(template: HeadTemplate, rms_m: float, rng: np.random.Generator) -> F64:
    """Draw a smooth displacement of a template's vertices, (V, 3) float64 metres in template axes.

    A vector field over canonical position, so that touching lips and lids move together; its wavelengths run from
    features of a face (4 cm) to the shape of a head (25 cm).

    Parameters
    ----------
    rms_m : float
        Root mean square length over the vertices, exact.
    rng : numpy Generator
        Seeded by the subject.
    """
    field = WaveField.draw(DEPARTURE_WAVELENGTHS_M, rng, channels=3)(template.vertices)
    return field * (rms_m / float(np.sqrt((field**2).sum(axis=1).mean())))


WRINKLE_DEPTH_M = 0.4e-3
PORE_M = 0.03e-3
HAIR_RELIEF_M = 0.8e-3
BROW_RELIEF_M = 0.25e-3
# Which expressions fold which skin; the strongest of them counts.
DRIVERS: Mapping[str, tuple[str, ...]] = {
    "forehead": ("browInnerUp", "browInnerUpLeft", "browInnerUpRight", "browOuterUpLeft", "browOuterUpRight"),
    "frown": ("browDownLeft", "browDownRight"),
    "right_crow": ("eyeSquintRight", "mouthSmileRight", "cheekSquintRight"),
    "left_crow": ("eyeSquintLeft", "mouthSmileLeft", "cheekSquintLeft"),
    "right_fold": ("mouthSmileRight", "mouthUpperUpRight", "noseSneerRight"),
    "left_fold": ("mouthSmileLeft", "mouthUpperUpLeft", "noseSneerLeft"),
}


class SkinDetail:
    """Offsets along the normal of a densely sampled template.

    All patterns are functions of canonical position and region, so they are fixed to the skin; only the wrinkles'
    depth follows the expression.

    Parameters
    ----------
    points : (N, 3) float64
        Template-space metres of the dense vertices.
    shares : mapping of region name to (N,) float64
        Soft membership of each region, in [0, 1].
    rng : numpy Generator
        Seeded by the subject.
    """

    def __init__(
        self, template: HeadTemplate, points: F64, shares: Mapping[str, F64], rng: np.random.Generator
    ) -> None:
        skin = 1 - np.sum([shares[name] for name in INTERIOR_REGIONS], axis=0)
        pores = WaveField.draw((3e-3, 7e-3), rng)(points)[:, 0]
        hair = np.clip(WaveField.draw((6e-3, 30e-3), rng)(points * [1.0, 0.5, 1.0])[:, 0] + 0.5, -1.5, 1.5)
        self._fixed = skin * (PORE_M * pores + HAIR_RELIEF_M * shares["scalp"] ** 2 * hair)
        self._fixed += BROW_RELIEF_M * shares["brows"] * np.abs(WaveField.draw((2.5e-3, 6e-3), rng)(points)[:, 0])
        strength = rng.uniform(0.4, 1.0, len(DRIVERS))
        patterns = _wrinkles(template.landmarks(), points, rng)
        self._wrinkles = {
            name: WRINKLE_DEPTH_M * s * skin * patterns[name] for s, name in zip(strength, DRIVERS, strict=True)
        }

    def offsets(self, expression_names: tuple[str, ...], weights: F64) -> F64:
        """Return the offset along the normal under expression ``weights`` (E,), (N,) float64 metres."""
        column = {plain_name(name): k for k, name in enumerate(expression_names)}
        total = self._fixed.copy()
        for name, drivers in DRIVERS.items():
            active = max((float(weights[column[d.lower()]]) for d in drivers if d.lower() in column), default=0.0)
            if active > 0:
                total += np.clip(active, 0, 1) * self._wrinkles[name]
        return total


def soft_regions(labels: npt.NDArray[np.integer]) -> dict[str, F64]:
    """Return one indicator (V,) float64 per region name."""
    return {name: (labels == label).astype(np.float64) for name, label in REGIONS.items()}


def _wrinkles(landmarks: F64, points: F64, rng: np.random.Generator) -> dict[str, F64]:
    """Return each wrinkle pattern, (N,) float64 in [-1, 0]: grooves, in template metres and axes (y up, x left)."""
    warp = WaveField.draw((25e-3, 60e-3), rng)(points)[:, 0]
    unit = float(np.linalg.norm(landmarks[45] - landmarks[36])) / 0.09  # 1 for an adult face
    brow = landmarks[17:27].mean(axis=0)
    patterns = {
        "forehead": _gauss(points, brow + np.array([0, 0.028, 0]) * unit, np.array([0.045, 0.014, 0.04]) * unit)
        * _grooves(points[:, 1], 0.0085 * unit, warp, rng),
        "frown": _gauss(points, (landmarks[21] + landmarks[22]) / 2, np.array([0.009, 0.011, 0.03]) * unit)
        * _grooves(points[:, 0], 0.0075 * unit, 0.5 * warp, rng),
    }
    for side, sign, corner, ala, mouth in (("right", -1, 36, 31, 48), ("left", 1, 45, 35, 54)):
        eye = landmarks[corner] + np.array([sign * 0.014, 0.0, -0.004]) * unit
        angle = np.arctan2(points[:, 1] - landmarks[corner, 1], np.abs(points[:, 0] - landmarks[corner, 0] * 0.7))
        patterns[f"{side}_crow"] = _gauss(points, eye, np.array([0.010, 0.013, 0.02]) * unit) * _grooves(
            angle, 0.24, 0.4 * warp, rng
        )
        start = landmarks[ala] + np.array([sign * 0.006, 0.002, 0.0]) * unit
        end = landmarks[mouth] + np.array([sign * 0.010, 0.0, 0.0]) * unit
        along = np.clip((points - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
        distance = np.linalg.norm(points - start - along[:, None] * (end - start), axis=1)
        patterns[f"{side}_fold"] = -np.exp(-0.5 * (distance / (0.0028 * unit)) ** 2)
    return patterns


def _gauss(points: F64, centre: F64, width: F64) -> F64:
    return np.asarray(np.exp(-0.5 * (((points - centre) / width) ** 2).sum(axis=1)))


def _grooves(across: F64, period: float, warp: F64, rng: np.random.Generator) -> F64:
    """Return narrow grooves at a period, bent by ``warp``, in [-1, 0]."""
    phase = 2 * np.pi * across / period + 1.2 * warp + float(rng.uniform(0, 2 * np.pi))
    return np.asarray(-(((1 + np.cos(phase)) / 2) ** 2))


DENSE_FACES = 100_000
IDENTITY_LIMIT = 2.0
# Refined edges are at most this share of the spacing of scan points, so that cells of samples are well shaped.
REFINED_SHARE = 0.75


@dataclass(frozen=True)
class DenseTemplate:
    """The template subdivided (Loop) to about one millimetre, with labels.

    Attributes
    ----------
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
    rng : numpy Generator
        Seeded by the subject; draws identity and skin detail.
    departure : (V, 3) float64, optional
        Displacement of the template's vertices (metres, template axes) on top of every shape of the model; see
        :func:`~datagen.simulation.person.identity_departure`. It stays with the skin: what is displaced
        keeps its canonical coordinate.
    real : RealPerson, optional
        Whose shape this is instead of the model's; the identity drawn then says of looks alone.
    """

    def __init__(
        self,
        head: HeadModel,
        rng: np.random.Generator,
        departure: F64 | None = None,
        real: RealPerson | None = None,
    ) -> None:
        self.head = head
        self._departure, self._real = departure, real
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
        real = self._real
        vertices = self.head.vertices(self.identity, expression) if real is None else real.shape(expression)
        return vertices if self._departure is None else vertices + self._departure

    def refinement(self, scan_vertices: int) -> Refinement:
        """Return the dense surface refined enough for scans of about ``scan_vertices`` points."""
        corners = self.neutral[self.faces]
        area = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        # Cameras in front see about half of the head.
        spacing = float(np.sqrt(0.5 * area.sum() / scan_vertices))
        return subdivide_long_edges(self.neutral, self.faces, REFINED_SHARE * spacing)
