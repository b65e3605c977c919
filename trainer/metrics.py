"""Errors of depth and canonical coordinates in millimetres, gathered over any number of samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MM_PER_M = 1000.0
_BIN_MM = 0.02
_BINS = 25_000  # up to 500 mm; what lies beyond is counted and enters the mean


class ErrorHistogram:
    """Mean and quantiles of errors, in constant memory.

    The mean is exact. Quantiles are exact to 0.02 mm up to 500 mm; beyond, the largest error stands for all.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS + 1, np.int64)
        self._sum = 0.0
        self._largest = 0.0

    def add(self, errors_mm: npt.NDArray[np.floating]) -> None:
        """Count errors of any shape, millimetres, 0 or more; an infinite or undefined one counts as beyond."""
        flat = np.asarray(errors_mm, np.float64).ravel()
        if not flat.size:
            return
        bins = np.where(np.isfinite(flat), np.minimum(flat / _BIN_MM, _BINS), _BINS).astype(np.int64)
        self._counts += np.bincount(bins, minlength=_BINS + 1)
        self._sum += float(flat.sum())
        self._largest = max(self._largest, float(flat.max()))

    @property
    def count(self) -> int:
        """Number of errors counted."""
        return int(self._counts.sum())

    def mean(self) -> float:
        """Mean error in mm; NaN if none was counted."""
        return self._sum / self.count if self.count else float("nan")

    def quantile(self, q: float) -> float:
        """Error in mm that the share ``q`` of errors does not exceed; NaN if none was counted."""
        if not self.count:
            return float("nan")
        cumulative = np.cumsum(self._counts)
        place = int(np.searchsorted(cumulative, max(q * self.count, 1)))
        return self._largest if place >= _BINS else (place + 0.5) * _BIN_MM


class MapMetrics:
    """The figures of docs/metrics.md over a set of samples.

    Parameters
    ----------
    half_extent_m : float
        Metres per unit of canonical coordinate.
    """

    def __init__(self, half_extent_m: float) -> None:
        self._half_extent_m = half_extent_m
        self._canonical = ErrorHistogram()
        self._depth = ErrorHistogram()
        self._aligned = ErrorHistogram()
        self._relative_sum = 0.0
        self._within = 0
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
        known = confidence > 0
        offset = (np.asarray(canonical, np.float64) - true_canonical)[:, known]
        self._canonical.add(np.linalg.norm(offset, axis=0) * self._half_extent_m * MM_PER_M)
        on_surface = true_depth_m > 0
        if not on_surface.any():
            return
        d, truth = np.asarray(depth_m, np.float64)[on_surface], np.asarray(true_depth_m, np.float64)[on_surface]
        self._depth.add(np.abs(d - truth) * MM_PER_M)
        self._aligned.add(np.abs(d * np.median(truth) / max(np.median(d), 1e-9) - truth) * MM_PER_M)
        self._relative_sum += float((np.abs(d - truth) / truth).sum())
        ratio = np.maximum(d / truth, truth / np.maximum(d, 1e-9))
        self._within += int((ratio < 1.25).sum())

    def figures(self) -> dict[str, float]:
        """Return all figures; NaN where nothing was measured."""
        pixels = self._depth.count
        return {
            "canonical_median_mm": self._canonical.quantile(0.5),
            "canonical_mean_mm": self._canonical.mean(),
            "canonical_p95_mm": self._canonical.quantile(0.95),
            "depth_median_mm": self._depth.quantile(0.5),
            "depth_mean_mm": self._depth.mean(),
            "depth_aligned_mean_mm": self._aligned.mean(),
            "depth_absrel": self._relative_sum / pixels if pixels else float("nan"),
            "depth_delta125": self._within / pixels if pixels else float("nan"),
        }
