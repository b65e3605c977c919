"""The normal equations of a fit: all frames' own unknowns are eliminated against those that they share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.linalg

from datagen.common.arrays import F64, Bools
from datagen.fit.block_band import BlockBand, BlockFactor
from datagen.warp.box_quadratic import Held, pivoted


@dataclass(frozen=True, eq=False)
class Equations:
    """``½ dᵀ H d − gᵀ d`` of steps d, least where the steps should go.

    Attributes
    ----------
    shared : (S, S) float64
    own : BlockBand
        Of the frames' own unknowns, (T, n).
    coupling : (T, n, S) float64
    shared_pull : (S,) float64
    own_pull : (T, n) float64
    """

    shared: F64
    own: BlockBand
    coupling: F64
    shared_pull: F64
    own_pull: F64

    def least(self, bounds: Bounds, held: Held) -> tuple[F64, F64, Held]:
        """Return the steps (S,) and (T, n) within bounds, and which of the bounded unknowns are held by one.

        Parameters
        ----------
        bounds : Bounds
        held : (b,) int8
            Where to begin.
        """
        S, (T, n) = len(self.shared), self.own_pull.shape
        unit = np.sqrt(
            np.concatenate([np.diag(self.shared), np.diagonal(self.own.diagonal, axis1=1, axis2=2).ravel()])
        )[bounds.where]
        whole = np.zeros(S + T * n)

        def solved(now: Held) -> tuple[F64, F64]:
            fixed = np.zeros(S + T * n)
            fixed[bounds.where] = np.where(now < 0, bounds.lower, np.where(now > 0, bounds.upper, 0.0))
            mask = np.zeros(S + T * n, bool)
            mask[bounds.where] = now != 0
            step, slope = self._with_held(fixed, mask)
            whole[:] = step
            return step[bounds.where] * unit, slope[bounds.where] / unit

        _, held = pivoted(solved, bounds.lower * unit, bounds.upper * unit, held.copy())
        whole[bounds.where] = np.clip(whole[bounds.where], bounds.lower, bounds.upper)
        return whole[:S], whole[S:].reshape(T, n), held

    def _with_held(self, fixed: F64, mask: Bools) -> tuple[F64, F64]:
        """Return the step (S + T n,) with some unknowns fixed, and the slope there."""
        S, shape = len(self.shared), self.own_pull.shape
        right = np.where(mask, fixed, self._pull - self._times(fixed))
        solution = self.reduced(mask).solve(right[:S], right[S:].reshape(shape))
        # Held unknowns were exchanged for the identity: what comes out of them is what went in.
        step = np.where(mask, fixed, solution)
        return step, self._times(step) - self._pull

    def reduced(self, mask: Bools) -> Reduced:
        """Return the equations with some unknowns (S + T n,) held, factored."""
        S, shape = len(self.shared), self.own_pull.shape
        held, own = mask[:S], mask[S:].reshape(shape)
        A = self.shared * ~held[:, None] * ~held
        A[np.arange(S), np.arange(S)] += held
        return Reduced.of(A, self.own.held(own), self.coupling * ~own[:, :, None] * ~held)

    @cached_property
    def _pull(self) -> F64:
        return np.concatenate([self.shared_pull, self.own_pull.ravel()])

    def _times(self, step: F64) -> F64:
        S = len(self.shared)
        x, y = step[:S], step[S:].reshape(self.own_pull.shape)
        flat = self.coupling.reshape(-1, S)
        shared = self.shared @ x + flat.T @ y.ravel()
        return np.concatenate([shared, (self.own.times(y).ravel() + flat @ x)])


@dataclass(frozen=True, eq=False)
class Bounds:
    """Where bounded unknowns stand among all (S + T n), and how far each may step, (b,) each."""

    where: npt.NDArray[np.int64]
    lower: F64
    upper: F64


@dataclass(frozen=True, eq=False)
class Reduced:
    """Equations with the frames' own unknowns eliminated (Schur complement), factored.

    Attributes
    ----------
    own : BlockFactor
    coupling : (T, n, S) float64
        Whitened by the frames' own factor.
    shared : (S, S) float64
        Lower Cholesky factor of what is left.
    """

    own: BlockFactor
    coupling: F64
    shared: F64

    @classmethod
    def of(cls, shared: F64, own: BlockBand, coupling: F64) -> Reduced:
        """Factor."""
        factor = own.factor()
        white = factor.whitened(coupling)
        flat = white.reshape(-1, len(shared))
        left = shared - flat.T @ flat
        return cls(factor, white, scipy.linalg.cholesky(left, lower=True, check_finite=False))

    def solve(self, shared: F64, own: F64) -> F64:
        """Return the solution (S + T n,)."""
        S = len(shared)
        right = self.own.whitened(own[:, :, None])
        flat = self.coupling.reshape(-1, S)
        x = scipy.linalg.cho_solve((self.shared, True), shared - flat.T @ right.ravel(), check_finite=False)
        y = self.own.unwhitened(right - (self.coupling @ x)[:, :, None])
        return np.concatenate([x, y.ravel()])

    def variance(self, t: int, shared: F64, own: F64) -> F64:
        """Return the variances (r,) of linear functions of the shared unknowns (r, S) and frame t's own (r, n)."""
        T, n, S = self.coupling.shape
        right = np.zeros((T, n, len(own)))
        right[t] = own.T
        white = self.own.whitened(right)
        rest = shared.T - self.coupling.reshape(-1, S).T @ white.reshape(T * n, -1)
        rest = scipy.linalg.solve_triangular(self.shared, rest, lower=True, check_finite=False)
        return np.asarray((white**2).sum(axis=(0, 1)) + (rest**2).sum(axis=0))
