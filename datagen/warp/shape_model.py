"""A head that can change its shape: a base, a few meaningful directions, and the smooth modes of a Gaussian process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from datagen.common.arrays import F64
from datagen.heads.base import HeadModel
from datagen.heads.coordinates import EXPRESSION_SIGMA, IDENTITY_LIMIT
from datagen.heads.population import population_modes_m
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.typical import MIRROR, typical_offset_m
from datagen.warp.template import WarpTemplate, once_per_template

# Below this share of the largest eigenvalue a mode is rounding error.
SMALLEST_EIGENVALUE = 1e-6


@dataclass(frozen=True)
class Component:
    """One squared-exponential part of a covariance: fields of this size that vary over this length.

    Attributes
    ----------
    amplitude_m : float
        Standard deviation of each coordinate of the displacement, either side of the face by itself.
    mirrored_m : float
        The same of a displacement that is its own mirror image, on the midline; beside it, this over the root of two.
    """

    length_m: float
    amplitude_m: float
    mirrored_m: float = 0.0


@dataclass(frozen=True, eq=False)
class SmoothModes:
    """A low-rank Gaussian process on displacements.

    Displacements are ``modes(points) @ q`` with ``q`` (K, 3) drawn from ``N(0, 1)``. Nyström approximation of the
    covariance, as in M. Lüthi et al., "Gaussian process morphable models", PAMI 2018, section 3.

    Attributes
    ----------
    nodes : (m, 3) float64
        Where the covariance is known exactly, metres.
    loadings : (m, K) float64
        From covariances with the nodes to modes.
    parity : float
        1 for coordinates that a mirror keeps, -1 for the one across.
    """

    nodes: F64
    components: tuple[Component, ...]
    loadings: F64
    parity: float = 1.0

    @property
    def count(self) -> int:
        """Number of modes K."""
        return self.loadings.shape[1]

    def at(self, points: npt.NDArray[np.floating]) -> F64:
        """Return the modes at points (N, 3) metres in the axes of the nodes, (N, K) float64 metres."""
        return _covariance(np.asarray(points, np.float64), self.nodes, self.components, self.parity) @ self.loadings


def smooth_modes(
    points: F64, components: Sequence[Component], *, nodes: int, rank: int, parity: float = 1.0
) -> SmoothModes:
    """Return the leading modes of a Gaussian process over the neighbourhood of ``points``.

    Parameters
    ----------
    points : (N, 3) float64
        Neutral positions, metres; the nodes are a subset of them.
    components : sequence of Component
        Their covariances add up.
    nodes, rank : int
        At most this many nodes and modes.
    parity : float
        1 for coordinates that a mirror keeps, -1 for the one across (x); it matters to mirrored components only.
    """
    at_nodes = points[farthest_points(points, nodes)]
    eigenvalues, vectors = np.linalg.eigh(_covariance(at_nodes, at_nodes, components, parity))
    order = np.argsort(eigenvalues)[::-1][:rank]
    order = order[eigenvalues[order] > SMALLEST_EIGENVALUE * eigenvalues[order[0]]]
    # The sign of an eigenvector is arbitrary: fix it, so that every machine agrees on the coefficients.
    kept = vectors[:, order]
    kept = kept * np.where(kept[np.abs(kept).argmax(axis=0), np.arange(len(order))] < 0, -1.0, 1.0)
    return SmoothModes(at_nodes, tuple(components), kept / np.sqrt(eigenvalues[order]), parity)


def farthest_points(points: F64, count: int) -> npt.NDArray[np.int64]:
    """Return the indices of at most ``count`` points spread evenly: each the farthest from those before it."""
    distance = np.full(len(points), np.inf)
    chosen = np.empty(min(count, len(points)), np.int64)
    nearest = int(points[:, 2].argmax())
    for k in range(len(chosen)):
        chosen[k] = nearest
        distance = np.minimum(distance, ((points - points[nearest]) ** 2).sum(axis=1))
        nearest = int(distance.argmax())
    return chosen


def _covariance(a: F64, b: F64, components: Sequence[Component], parity: float) -> F64:
    squared = cdist(a, b, "sqeuclidean")
    across = cdist(a, b * MIRROR, "sqeuclidean")
    total = np.zeros_like(squared)
    for part in components:
        near = np.exp(-0.5 * squared / part.length_m**2)
        total += part.amplitude_m**2 * near
        if part.mirrored_m:
            # Symmetrised as in Luthi et al. 2018, section 4: the other side's displacement is the mirror image.
            total += part.mirrored_m**2 / 2 * (near + parity * np.exp(-0.5 * across / part.length_m**2))
    return total


DERIVATIVE_STEP = 0.25
NODES = 700
RANK = 208
# What a tracker gets wrong varies over some centimetres.
SMOOTH = (Component(0.035, 1.0),)
# How people differ from the mean face, in the likeliest sizes for two families of real people and one model of scans:
# most of it is the same on both sides, and features differ within a centimetre or two. Enlarged by half, as the mean
# of a head model is no family's own.
PERSONAL = (
    Component(0.01, 0.4e-3, 1.0e-3),
    Component(0.02, 0.5e-3, 1.5e-3),
    Component(0.04, 1.0e-3, 2.5e-3),
    Component(0.08, 2.0e-3, 5.0e-3),
    Component(0.16, 3.0e-3, 6.0e-3),
)
PERSONAL_NODES = 1000
PERSONAL_RANK = 300
# The same beside the components of how people differ, where they are known: what these lack.
BESIDE_POPULATION = (
    Component(0.01, 0.35e-3, 0.9e-3),
    Component(0.02, 0.45e-3, 1.35e-3),
    Component(0.04, 0.7e-3, 1.75e-3),
    Component(0.08, 1.0e-3, 2.5e-3),
    Component(0.16, 1.5e-3, 3.0e-3),
)
POPULATION_SIGMA = 0.6
# A model's own identities are trusted less: on real people its proportions slid foreheads by 9 mm.
IDENTITY_SIGMA = 0.3
# Observed template vertices: more of them say nothing new about fields this smooth.
FACE_OBSERVATIONS = 1800
OTHER_OBSERVATIONS = 700


@dataclass(frozen=True, eq=False)
class MorphableShape:
    """Control vertices ``base + Σ p·blend + modes @ q`` in the axes of the base.

    Attributes
    ----------
    base : (V, 3) float64
        Metres.
    blend : (P, V, 3) float64
        Metres per unit of each parameter.
    sigma, lower, upper : (P,) float64
        Prior standard deviation and bounds of each parameter.
    modes : (3, V, K) float64
        Metres of each coordinate per unit of its coefficients; ``q`` (K, 3) has unit prior variance.
    turn_rad, shift_m, stretch : float
        Prior standard deviations of the change of pose from where the fit begins.
    n_identity : int
        The first so many parameters are a person's, the others are an instant's.
    """

    base: F64
    blend: F64
    sigma: F64
    lower: F64
    upper: F64
    modes: F64
    turn_rad: float
    shift_m: float
    stretch: float
    n_identity: int = 0

    def vertices(self, parameters: F64, coefficients: F64) -> F64:
        """Return the control vertices (V, 3) float64 of parameters (P,) and coefficients (K, 3)."""
        smooth = np.stack([modes @ q for modes, q in zip(self.modes, coefficients.T, strict=True)], axis=1)
        return np.asarray(self.base + np.tensordot(parameters, self.blend, 1) + smooth)


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A head model's first-order behaviour around its template.

    Attributes
    ----------
    mean : (V, 3) float64
        Metres.
    basis : (P, V, 3) float64
        Metres per unit of each parameter, identity first.
    sigma, lower, upper : (P,) float64
    """

    mean: F64
    basis: F64
    n_identity: int
    sigma: F64 = field(init=False)
    lower: F64 = field(init=False)
    upper: F64 = field(init=False)

    def __post_init__(self) -> None:
        expressions = len(self.basis) - self.n_identity

        def both(identity: float, expression: float) -> F64:
            return np.concatenate([np.full(self.n_identity, identity), np.full(expressions, expression)])

        object.__setattr__(self, "sigma", both(1.0, EXPRESSION_SIGMA))
        # A negative expression weight pulls skin through the teeth.
        object.__setattr__(self, "lower", both(-IDENTITY_LIMIT, 0.0))
        object.__setattr__(self, "upper", both(IDENTITY_LIMIT, 1.0))


@lru_cache(maxsize=4)
def linearise(head: HeadModel) -> LinearModel:
    """Return the linear model of a head by finite differences: exact for ICT, first order for the others."""
    n_identity, n_expression = head.identity_size, len(head.expression_names)
    zero_i, zero_e = np.zeros(n_identity), np.zeros(n_expression)
    mean = head.template.vertices
    basis = np.zeros((n_identity + n_expression, *mean.shape))
    for k in range(n_identity):
        step = zero_i.copy()
        step[k] = DERIVATIVE_STEP
        basis[k] = (head.vertices(step, zero_e) - head.vertices(-step, zero_e)) / (2 * DERIVATIVE_STEP)
    for k in range(n_expression):
        step = zero_e.copy()
        step[k] = 1.0
        basis[n_identity + k] = head.vertices(zero_i, step) - mean
    return LinearModel(mean, basis, n_identity)


@once_per_template
def error_modes(template: WarpTemplate) -> F64:
    """Return the modes (3, V, K) float64 of a tracker's smooth error, of unit amplitude per coordinate."""
    rest = template.canonical_m[: len(template.head.vertices)]
    modes = smooth_modes(rest[template.coarse_skin], SMOOTH, nodes=NODES, rank=RANK).at(rest)
    return np.broadcast_to(modes, (3, *modes.shape))


@once_per_template
def personal_modes(template: WarpTemplate) -> F64:
    """Return the modes (3, V, K) float64 of how people differ from the mean face beyond what is known, metres."""
    rest = template.canonical_m[: len(template.head.vertices)]
    skin = rest[template.coarse_skin]
    components = BESIDE_POPULATION if len(population_modes_m(template.head)) else PERSONAL
    across, kept = (
        smooth_modes(skin, components, nodes=PERSONAL_NODES, rank=PERSONAL_RANK, parity=parity).at(rest)
        for parity in (-1.0, 1.0)
    )
    return np.stack([across, kept, kept])


@once_per_template
def observed_vertices(template: WarpTemplate) -> npt.NDArray[np.int64]:
    """Return coarse skin vertices (n,) int64 spread evenly, more densely over the face: those the fit looks at."""
    level = template.coarse
    face = mask_of(level.regions, FACE_REGIONS) & level.attract
    others = np.flatnonzero(level.attract & ~face)
    inside = np.flatnonzero(face)
    chosen = [
        where[farthest_points(level.rest[where], count)]
        for where, count in ((inside, FACE_OBSERVATIONS), (others, OTHER_OBSERVATIONS))
        if len(where)
    ]
    return np.sort(np.concatenate(chosen))


def model_shape(head: HeadModel, template: WarpTemplate) -> MorphableShape:
    """Return real people's typical face with all that faces differ by.

    Parameters are the head model's own identity, the components of how people differ, as far as these are known, and
    the head model's expressions.
    """
    model, people = linearise(head), population_modes_m(head.template)
    n = model.n_identity

    def with_people(values: F64, theirs: float) -> F64:
        return np.concatenate([values[:n], np.full(len(people), theirs), values[n:]])

    sigma = model.sigma.copy()
    sigma[:n] *= IDENTITY_SIGMA
    return MorphableShape(
        model.mean + typical_offset_m(head.template),
        np.concatenate([model.basis[:n], people, model.basis[n:]]),
        with_people(sigma, POPULATION_SIGMA),
        with_people(model.lower, -IDENTITY_LIMIT),
        with_people(model.upper, IDENTITY_LIMIT),
        personal_modes(template),
        1.0,
        1.0,
        0.08,
        n + len(people),
    )


def tracked_shape(template: WarpTemplate, registration: F64, amplitude_m: float) -> MorphableShape:
    """Return a registration (V, 3) metres that is wrong by a smooth field of an amplitude and a small motion."""
    none = np.zeros(0)
    return MorphableShape(
        registration,
        np.zeros((0, *registration.shape)),
        none,
        none,
        none,
        amplitude_m * error_modes(template),
        amplitude_m / 0.08,
        amplitude_m,
        3 * amplitude_m / 0.08,
    )
