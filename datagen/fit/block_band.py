"""Systems of equations in which each frame meets its two neighbours on either side only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from datagen.common.arrays import F64


@dataclass(frozen=True, eq=False)
class BlockBand:
    """A symmetric matrix of (T, T) blocks, (n, n) each.

    Attributes
    ----------
    diagonal : (T, n, n) float64
    first, second : (T - 1, n, n) and (T - 2, n, n) float64, or empty
        Row t + 1 and row t + 2 of column t; empty where no frames meet.
    """

    diagonal: F64
    first: F64
    second: F64

    def times(self, x: F64) -> F64:
        """Return the product with (T, n)."""
        result = np.einsum("tij,tj->ti", self.diagonal, x)
        for apart, blocks in ((1, self.first), (2, self.second)):
            if len(blocks):
                result[apart:] += np.einsum("tij,tj->ti", blocks, x[:-apart])
                result[:-apart] += np.einsum("tij,ti->tj", blocks, x[apart:])
        return np.asarray(result)

    def held(self, held: np.ndarray) -> BlockBand:
        """Return the matrix with rows and columns of some unknowns (T, n) bool replaced by those of the identity."""
        free = ~held
        diagonal = self.diagonal * free[:, :, None] * free[:, None, :]
        diagonal[:, np.arange(free.shape[1]), np.arange(free.shape[1])] += held
        first = self.first * free[1:, :, None] * free[:-1, None, :] if len(self.first) else self.first
        second = self.second * free[2:, :, None] * free[:-2, None, :] if len(self.second) else self.second
        return BlockBand(diagonal, first, second)

    def factor(self) -> BlockFactor:
        """Return the lower Cholesky factor.

        Raises
        ------
        numpy.linalg.LinAlgError
            If the matrix is not positive definite.
        """
        T = len(self.diagonal)
        lower, first, second = [], list[F64](), list[F64]()
        for t in range(T):
            block = self.diagonal[t].copy()
            if t >= 1 and len(self.first):
                block -= first[t - 1] @ first[t - 1].T
            if t >= 2 and len(self.second):
                block -= second[t - 2] @ second[t - 2].T
            lower.append(scipy.linalg.cholesky(block, lower=True, check_finite=False))
            if len(self.first) and t + 1 < T:
                beside = self.first[t].copy()
                if t >= 1 and len(self.second):
                    beside -= second[t - 1] @ first[t - 1].T
                first.append(_right(lower[t], beside))
            if len(self.second) and t + 2 < T:
                second.append(_right(lower[t], self.second[t]))
        return BlockFactor(lower, first, second)


def _right(lower: F64, block: F64) -> F64:
    """Return ``block lower⁻ᵀ``."""
    return np.asarray(scipy.linalg.solve_triangular(lower, block.T, lower=True, check_finite=False).T)


@dataclass(frozen=True, eq=False)
class BlockFactor:
    """A Cholesky factor by blocks, as :class:`BlockBand` has them."""

    lower: list[F64]
    first: list[F64]
    second: list[F64]

    def whitened(self, right: F64) -> F64:
        """Return (T, n, m) right-hand sides solved by the factor."""
        solved = np.empty_like(right)
        for t, lower in enumerate(self.lower):
            now = right[t]
            if t >= 1 and self.first:
                now = now - self.first[t - 1] @ solved[t - 1]
            if t >= 2 and self.second:
                now = now - self.second[t - 2] @ solved[t - 2]
            solved[t] = scipy.linalg.solve_triangular(lower, now, lower=True, check_finite=False)
        return solved

    def unwhitened(self, right: F64) -> F64:
        """Return (T, n, m) right-hand sides solved by the factor's transpose."""
        solved = np.empty_like(right)
        T = len(self.lower)
        for t in reversed(range(T)):
            now = right[t]
            if t + 1 < T and self.first:
                now = now - self.first[t].T @ solved[t + 1]
            if t + 2 < T and self.second:
                now = now - self.second[t].T @ solved[t + 2]
            solved[t] = scipy.linalg.solve_triangular(self.lower[t], now, lower=True, trans="T", check_finite=False)
        return solved
