"""The few figures a run looks at while it fits; `trainer evaluate` has all of them (docs/metrics.md)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.evaluation.canonical import CanonicalMetrics
from trainer.evaluation.depth import MM_PER_M, DepthMetrics, ErrorHistogram

__all__ = ["MM_PER_M", "ErrorHistogram", "MapMetrics"]


class MapMetrics:
    """Errors of depth and canonical coordinates over a set of samples.

    Parameters
    ----------
    half_extent_m : float
        Metres per unit of canonical coordinate.
    """

    def __init__(self, half_extent_m: float) -> None:
        self._half_extent_m = half_extent_m
        self._canonical = CanonicalMetrics()
        self._depth = DepthMetrics()
        self.samples = 0

    def add(
        self,
        depth_m: npt.NDArray[np.floating],
        canonical: npt.NDArray[np.floating],
        true_depth_m: npt.NDArray[np.floating],
        true_canonical: npt.NDArray[np.floating],
        confidence: npt.NDArray[np.floating],
    ) -> None:
        """Add one sample.

        Parameters
        ----------
        depth_m, true_depth_m : (H, W) metres; pixels with a true depth of 0 are left out
        canonical, true_canonical : (3, H, W) normalised
        confidence : (H, W)
            Ground-truth confidence; pixels with 0 have no canonical truth and are left out.
        """
        self.samples += 1
        unit = self._half_extent_m
        self._canonical.add(np.asarray(canonical) * unit, np.asarray(true_canonical) * unit, confidence > 0)
        self._depth.add(depth_m, true_depth_m)

    def figures(self) -> dict[str, float]:
        """Return all figures; NaN where nothing was measured."""
        return self._canonical.figures() | self._depth.figures()
