"""Smooth displacement fields over a head: the modes of a Gaussian process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

FloatArray = npt.NDArray[np.float64]

# Below this share of the largest eigenvalue a mode is rounding error.
SMALLEST_EIGENVALUE = 1e-6


@dataclass(frozen=True)
class Component:
    """One squared-exponential part of a covariance: fields of this size that vary over this length.

    Attributes
    ----------
    length_m : float
    amplitude_m : float
        Standard deviation of each coordinate of the displacement.
    """

    length_m: float
    amplitude_m: float


@dataclass(frozen=True, eq=False)
class SmoothModes:
    """A low-rank Gaussian process on displacements.

    Displacements are ``modes(points) @ q`` with ``q`` (K, 3) drawn from ``N(0, 1)``. Nyström approximation of the
    covariance, as in M. Lüthi et al., "Gaussian process morphable models", PAMI 2018, section 3.

    Attributes
    ----------
    nodes : (m, 3) float64
        Where the covariance is known exactly, metres.
    components : tuple of Component
    loadings : (m, K) float64
        From covariances with the nodes to modes.
    """

    nodes: FloatArray
    components: tuple[Component, ...]
    loadings: FloatArray

    @property
    def count(self) -> int:
        """Number of modes K."""
        return self.loadings.shape[1]

    def at(self, points: npt.NDArray[np.floating]) -> FloatArray:
        """Return the modes at points (N, 3) metres in the axes of the nodes, (N, K) float64 metres."""
        return _covariance(np.asarray(points, np.float64), self.nodes, self.components) @ self.loadings


def smooth_modes(points: FloatArray, components: Sequence[Component], *, nodes: int, rank: int) -> SmoothModes:
    """Return the leading modes of a Gaussian process over the neighbourhood of ``points``.

    Parameters
    ----------
    points : (N, 3) float64
        Neutral positions, metres; the nodes are a subset of them.
    components : sequence of Component
        Their covariances add up.
    nodes, rank : int
        At most this many nodes and modes.
    """
    at_nodes = points[farthest_points(points, nodes)]
    eigenvalues, vectors = np.linalg.eigh(_covariance(at_nodes, at_nodes, components))
    order = np.argsort(eigenvalues)[::-1][:rank]
    order = order[eigenvalues[order] > SMALLEST_EIGENVALUE * eigenvalues[order[0]]]
    # The sign of an eigenvector is arbitrary: fix it, so that every machine agrees on the coefficients.
    kept = vectors[:, order]
    kept = kept * np.where(kept[np.abs(kept).argmax(axis=0), np.arange(len(order))] < 0, -1.0, 1.0)
    return SmoothModes(at_nodes, tuple(components), kept / np.sqrt(eigenvalues[order]))


def farthest_points(points: FloatArray, count: int) -> npt.NDArray[np.int64]:
    """Return the indices of at most ``count`` points spread evenly: each the farthest from those before it."""
    distance = np.full(len(points), np.inf)
    chosen = np.empty(min(count, len(points)), np.int64)
    nearest = int(points[:, 2].argmax())
    for k in range(len(chosen)):
        chosen[k] = nearest
        distance = np.minimum(distance, ((points - points[nearest]) ** 2).sum(axis=1))
        nearest = int(distance.argmax())
    return chosen


def _covariance(a: FloatArray, b: FloatArray, components: Sequence[Component]) -> FloatArray:
    squared = cdist(a, b, "sqeuclidean")
    total = np.zeros_like(squared)
    for part in components:
        total += part.amplitude_m**2 * np.exp(-0.5 * squared / part.length_m**2)
    return total
