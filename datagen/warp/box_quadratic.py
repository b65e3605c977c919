"""The least value of a convex quadratic function within bounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.linalg

from datagen.common.arrays import F64, Bools

Held = npt.NDArray[np.int8]
Solved = Callable[[Held], tuple[F64, F64]]

ROUNDS = 60
# Exchanges of the whole set that may fail to improve before one at a time is exchanged.
PATIENCE = 3
# Of scaled unknowns and of their slopes.
TOLERANCE = 1e-9


def least_in_box(H: F64, g: F64, lower: F64, upper: F64) -> F64:
    """Return the x (n,) within bounds that makes ``xᵀ H x / 2 − gᵀ x`` least.

    Block principal pivoting (J. Júdice & F. Pires, "A block principal pivoting algorithm for large-scale strictly
    monotone linear complementarity problems", 1994): all unknowns on the wrong side of a bound, or held by one that
    they would leave, are exchanged at once; where that does not get nearer, the last of them alone, which must end.

    Parameters
    ----------
    H : (n, n) float64
        Symmetric, positive definite.
    g : (n,) float64
    lower, upper : (n,) float64
        Finite.
    """
    unit = 1 / np.sqrt(np.diag(H))
    H, g, lower, upper = H * unit[:, None] * unit, g * unit, lower / unit, upper / unit
    x, _ = pivoted(lambda held: _solved(H, g, lower, upper, held), lower, upper, np.zeros(len(g), np.int8))
    return np.asarray(np.clip(x, lower, upper) * unit)


def pivoted(solved: Solved, lower: F64, upper: F64, held: Held) -> tuple[F64, Held]:
    """Return the best x (n,) within bounds, and which unknowns are held by one: -1 the lower, 1 the upper.

    Parameters
    ----------
    solved : function of held (n,) int8
        Returns x with those unknowns at their bounds, and the slope there; both of unknowns about as large as each
        other.
    held : (n,) int8
        Where to begin; is changed.
    """
    best, patience = len(held) + 1, PATIENCE
    x = np.zeros(len(held))
    for _ in range(ROUNDS):
        x, slope = solved(held)
        free = held == 0
        below, above = free & (x < lower - TOLERANCE), free & (x > upper + TOLERANCE)
        leaves = ((held < 0) & (slope < -TOLERANCE)) | ((held > 0) & (slope > TOLERANCE))
        wrong: Bools = below | above | leaves
        count = int(wrong.sum())
        if not count:
            break
        if count < best:
            best, patience = count, PATIENCE
        elif patience:
            patience -= 1
        else:
            wrong = np.arange(len(held)) == np.flatnonzero(wrong)[-1]
        held[wrong & below], held[wrong & above], held[wrong & leaves] = -1, 1, 0
    return x, held


def _solved(H: F64, g: F64, lower: F64, upper: F64, held: Held) -> tuple[F64, F64]:
    """Return the solution (n,) with some unknowns held at a bound, and the slope (n,) there."""
    x = np.where(held < 0, lower, np.where(held > 0, upper, 0.0))
    free = held == 0
    if free.any():
        right = g[free] - H[np.ix_(free, ~free)] @ x[~free]
        x[free] = scipy.linalg.solve(H[np.ix_(free, free)], right, assume_a="pos", check_finite=False)
    return x, H @ x - g
