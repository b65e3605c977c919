"""How fast a head and its expression can change course: frames that follow each other are held to that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from datagen.common.arrays import F64

# Longer steps say nothing of accelerations.
MOST_STEP_S = 0.1
UNEVEN = 0.2
# Standard deviations of accelerations of talking people: of the head's middle, its turn, and expression weights.
SHIFT_M_S2 = 4.0
TURN_RAD_S2 = 40.0
EXPRESSION_S2 = 120.0


def following(times_s: Sequence[float]) -> list[tuple[int, float]]:
    """Return the middle of each three frames that follow each other evenly, and the step between them in seconds."""
    found = []
    for t in range(1, len(times_s) - 1):
        before, after = times_s[t] - times_s[t - 1], times_s[t + 1] - times_s[t]
        if 0 < max(before, after) <= MOST_STEP_S and abs(after - before) <= UNEVEN * max(before, after):
            found.append((t, (before + after) / 2))
    return found


def acceleration(
    t: int, step_s: float, expressions: F64, rotations: F64, centres: F64, scale: float
) -> tuple[tuple[F64, F64, F64], F64]:
    """Return the whitened derivatives of a frame's acceleration by three frames' own unknowns, and its value.

    Parameters
    ----------
    t : int
        The middle of the three.
    expressions : (T, E) float64
    rotations : (T, 3, 3) float64
    centres : (T, 3) float64
        World metres.
    scale : float
        Of the head.

    Returns
    -------
    derivatives : three of (E + 6, E + 6) float64
        By (expression weights, turn, shift) of the frames before, at and after; turn and shift in the head's axes.
    value : (E + 6,) float64
        In standard deviations.
    """
    E = expressions.shape[1]
    sigma = step_s**2 * np.concatenate([np.full(E, EXPRESSION_S2), np.full(3, TURN_RAD_S2), np.full(3, SHIFT_M_S2)])
    before = Rotation.from_matrix(rotations[t] @ rotations[t - 1].T).as_rotvec()
    after = Rotation.from_matrix(rotations[t + 1] @ rotations[t].T).as_rotvec()
    value = np.concatenate(
        [
            expressions[t - 1] - 2 * expressions[t] + expressions[t + 1],
            after - before,
            centres[t - 1] - 2 * centres[t] + centres[t + 1],
        ]
    )
    derivatives = []
    for k, factor in ((t - 1, 1.0), (t, -2.0), (t + 1, 1.0)):
        block = np.zeros((E + 6, E + 6))
        block[:E, :E] = factor * np.eye(E)
        block[E : E + 3, E : E + 3] = factor * rotations[k]
        block[E + 3 :, E + 3 :] = factor * scale * rotations[k]
        derivatives.append(block / sigma[:, None])
    return (derivatives[0], derivatives[1], derivatives[2]), value / sigma
