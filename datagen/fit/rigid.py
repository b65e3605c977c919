"""Turns and shifts of points."""

from __future__ import annotations

import numpy as np

from datagen.common.arrays import F64


def turn_and_shift(local: F64) -> F64:
    """Return the derivative (u, 3, 6) of points (u, 3) about the centre by turn (rad) and shift (m)."""
    rows = np.zeros((len(local), 3, 6))
    for axis in range(3):
        unit = np.zeros(3)
        unit[axis] = 1.0
        rows[:, axis, :3] = np.cross(local, unit)
        rows[:, axis, 3 + axis] = 1.0
    return rows
