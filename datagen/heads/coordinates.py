"""A head model at some of its points, in coordinates in which it is almost linear: what a fit of its parameters needs.

A model's own parameters may bend (a tangent hyperbolic that keeps a shape human) or break at zero (one shape for more
of something, another for less). Gauss-Newton on them creeps or sticks; in these coordinates most of the model is one
matrix that never changes, and what breaks has a coordinate for either side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp

from datagen.common.arrays import F64
from datagen.heads.base import HeadModel

# Identities are drawn from N(0, 1); expressions live in [0, 1], most of them near 0.
IDENTITY_LIMIT = 3.0
EXPRESSION_SIGMA = 0.35


@dataclass(frozen=True, eq=False)
class HeadCoordinates:
    """Points ``base(curved) + straight @ linear`` of a head model, up to a rigid motion.

    Attributes
    ----------
    linear : (M, 3 n) float64
        Metres for each unit of each straight coordinate.
    lower, upper, sigma : (M,) float64
        Bounds of the straight coordinates, and their prior standard deviation around 0.
    pairs : int
        The first ``pairs`` coordinates and the ``pairs`` after them are two sides of one parameter each: in the end
        one of the two must be 0.
    curved : int
        Number of the other coordinates, within :data:`IDENTITY_LIMIT` and of prior standard deviation 1.
    broken : int
        The first so many of them bend sharply at 0.
    base : function of (m, curved) float64
        Points (m, 3 n) float64 metres, of all straight coordinates 0.
    parameters : function of (M,) and (curved,) float64
        The model's own identity (K,) and expression (E,).
    """

    linear: F64
    lower: F64
    upper: F64
    sigma: F64
    pairs: int
    curved: int
    broken: int
    base: Callable[[F64], F64]
    parameters: Callable[[F64, F64], tuple[F64, F64]]

    @cached_property
    def gram(self) -> F64:
        """``linear @ linearᵀ`` (M, M), which never changes."""
        return self.linear @ self.linear.T

    def points(self, straight: F64, curved: F64) -> F64:
        """Return the points (n, 3) float64 metres."""
        return (self.base(curved[None])[0] + straight @ self.linear).reshape(-1, 3)


@runtime_checkable
class HasCoordinates(Protocol):
    """A head model that knows better coordinates than its parameters."""

    def coordinates(self, operator: sp.csr_matrix) -> HeadCoordinates:
        """Return the model at ``operator @ vertices``, where ``operator`` is (n, V)."""
        ...


@runtime_checkable
class HasExpressionBounds(Protocol):
    """A head model whose expressions do not live in [0, 1]."""

    @property
    def expression_bounds(self) -> tuple[F64, F64]:
        """Least and greatest value (E,) of each expression."""
        ...


def linear_coordinates(head: HeadModel, mean: F64, basis: F64, operator: sp.csr_matrix) -> HeadCoordinates:
    """Return a model's own parameters as coordinates: exact where it is linear, first order elsewhere.

    Parameters
    ----------
    mean : (V, 3) float64
        Metres, of all parameters 0.
    basis : (K + E, V, 3) float64
        Metres for each unit of each parameter, identity first.
    operator : (n, V) CSR
        From vertices to points.
    """
    K = head.identity_size
    E = len(head.expression_names)
    least, most = head.expression_bounds if isinstance(head, HasExpressionBounds) else (np.zeros(E), np.ones(E))
    limit = np.full(K, IDENTITY_LIMIT)
    rest = (operator @ mean).reshape(1, -1)
    return HeadCoordinates(
        linear=at_points(operator, basis),
        lower=np.concatenate([-limit, least]),
        upper=np.concatenate([limit, most]),
        sigma=np.concatenate([np.ones(K), np.full(E, EXPRESSION_SIGMA)]),
        pairs=0,
        curved=0,
        broken=0,
        base=lambda curved: np.repeat(rest, len(curved), axis=0),
        parameters=lambda straight, _: (straight[:K], straight[K:]),
    )


def at_points(operator: sp.csr_matrix, fields: F64) -> F64:
    """Return vector fields (m, V, 3) or (m, 3 V) on vertices at the points of ``operator`` (n, V), (m, 3 n)."""
    count, size = len(fields), operator.shape[1]
    flat = fields.reshape(count, size, 3).transpose(1, 2, 0).reshape(size, 3 * count)
    moved = np.asarray(operator @ flat).reshape(-1, 3, count)
    return np.ascontiguousarray(moved.transpose(2, 0, 1)).reshape(count, -1)
