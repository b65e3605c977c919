"""Which points may lie near a scan, told from where they were when they were last asked: far ones cost most to ask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64, Bools
from datagen.warp.surface import Surface

# Closest points are sought in float32.
ROUNDING_M = 1e-5


class Reach:
    """Lower bounds on the distances of moving points from a scan.

    Nobody comes nearer to a surface by more than they move. So a bound is never wrong, and whoever leaves points out
    that cannot be within a gate's distance ends with the same targets.

    Parameters
    ----------
    surface : Surface
        The scan. A cloud's distances are those to its points' tangent planes and bound nothing: all points may be near.
    count : int
        Number of points.
    """

    def __init__(self, surface: Surface, count: int) -> None:
        self.count = count
        self._bounds = bool(len(surface.faces))
        self._where = np.zeros((count, 3))
        self._distance_m = np.zeros(count)

    def within(self, points: F64, distance_m: float) -> Bools:
        """Return (count,) bool: which of the points, now at (count, 3) metres, may be this near."""
        moved = np.linalg.norm(points - self._where, axis=1)
        return np.asarray(self._distance_m - moved <= distance_m + ROUNDING_M)

    def learn(self, points: F64, asked: Bools, closest: F64) -> None:
        """Note the closest points (count, 3) of those of the points (count, 3) that were ``asked`` (count,) for."""
        if self._bounds:
            self._where[asked] = points[asked]
            self._distance_m[asked] = np.linalg.norm(closest[asked] - points[asked], axis=1)

    def shared(self, surface: Surface, beside: npt.NDArray[np.int64]) -> Reach:
        """Return what these points say of others, each of which is beside one of them, (n,) indices."""
        other = Reach(surface, len(beside))
        other._where, other._distance_m = self._where[beside], self._distance_m[beside]
        return other
