"""The head of a fit: what all frames share, what each has of its own, and how the points that were seen follow it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from datagen.common.arrays import F64
from datagen.warp.shape_model import MorphableShape

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ShapeRows:
    """Derivatives of some points by what the shape is made of.

    Attributes
    ----------
    base : (u, 3) float64
        Metres, template axes.
    shared : (3 u, I + 3 K) float32
        By identity and personal modes, all frames'.
    own : (u, 3, E) float64
        By expression weights, a frame's.
    """

    base: F64
    shared: F32
    own: F64

    def at(self, shared: F64, own: F64) -> F64:
        """Return the points (u, 3)."""
        # Of displacements of centimetres single precision keeps nanometres.
        moved = (self.shared @ shared.astype(np.float32)).astype(np.float64).reshape(-1, 3)
        return np.asarray(self.base + moved + self.own @ own)


def shape_rows(shape: MorphableShape, operator: sp.csr_matrix) -> ShapeRows:
    """Return the rows of points that are weighted sums of control vertices, (u, V)."""
    count, n = operator.shape[0], shape.n_identity
    P, K = len(shape.blend), shape.modes.shape[2]
    flat = shape.blend.transpose(1, 2, 0).reshape(len(shape.base), 3 * P)
    blend = np.asarray(operator @ flat).reshape(count, 3, P)
    shared = np.zeros((count, 3, n + 3 * K), np.float32)
    shared[:, :, :n] = blend[:, :, :n]
    for axis in range(3):
        shared[:, axis, n + axis :: 3] = operator @ shape.modes[axis]
    return ShapeRows(np.asarray(operator @ shape.base), shared.reshape(3 * count, shared.shape[2]), blend[:, :, n:])
