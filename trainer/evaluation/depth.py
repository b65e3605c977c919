"""Errors of depth: as predicted, after the median, and after scale and shift."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation.cameras import Array
from trainer.evaluation.histogram import ErrorHistogram

MM_PER_M = 1000.0
_DELTA = 1.25
_SMALLEST_M = 1e-9


def align_median(depth: npt.NDArray[Any], truth: npt.NDArray[Any]) -> Array:
    """Scale depths (N,) so that their median is the true one's (N,)."""
    d = np.asarray(depth, np.float64)
    return d * (float(np.median(truth)) / max(float(np.median(d)), _SMALLEST_M))


def align_affine(depth: npt.NDArray[Any], truth: npt.NDArray[Any]) -> Array:
    """Scale and shift depths (N,) to the truth (N,) by least squares, in depth, not in its inverse."""
    d, t = np.asarray(depth, np.float64), np.asarray(truth, np.float64)
    centred = d - d.mean()
    variance = float(centred @ centred)
    scale = float(centred @ (t - t.mean())) / variance if variance > _SMALLEST_M**2 * d.size else 0.0
    return t.mean() + scale * centred


class DepthErrors:
    """One way of aligning, over any number of views; every pixel of the true surface counts once.

    Parameters
    ----------
    prefix : str
        Of the figures' names.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._errors = ErrorHistogram()
        self._relative_sum = 0.0
        self._within = 0

    def add(self, depth: npt.NDArray[Any], truth: npt.NDArray[Any]) -> None:
        """Add aligned depths (N,) and true ones (N,), metres."""
        d, t = np.asarray(depth, np.float64), np.asarray(truth, np.float64)
        self._errors.add(np.abs(d - t) * MM_PER_M)
        self._relative_sum += float((np.abs(d - t) / t).sum())
        ratio = np.maximum(d / t, t / np.maximum(d, _SMALLEST_M))
        self._within += int((ratio < _DELTA).sum())

    def figures(self) -> dict[str, float]:
        """Return the figures; NaN where nothing was added."""
        pixels = self._errors.count
        p = self._prefix
        return {
            f"{p}_absrel": self._relative_sum / pixels if pixels else float("nan"),
            f"{p}_delta125": self._within / pixels if pixels else float("nan"),
            f"{p}_mean_mm": self._errors.mean(),
            f"{p}_median_mm": self._errors.quantile(0.5),
            f"{p}_rmse_mm": self._errors.rms(),
        }


class DepthMetrics:
    """Depth errors raw, after median and after affine alignment, each view aligned by itself."""

    def __init__(self) -> None:
        self._raw = DepthErrors("depth")
        self._median = DepthErrors("depth_aligned")
        self._affine = DepthErrors("depth_affine")

    def add(self, depth_m: npt.NDArray[Any], true_depth_m: npt.NDArray[Any]) -> None:
        """Add one view (H, W), metres; pixels with a true depth of 0 are left out."""
        on = true_depth_m > 0
        if not on.any():
            return
        d, t = depth_m[on], true_depth_m[on]
        self._raw.add(d, t)
        self._median.add(align_median(d, t), t)
        self._affine.add(align_affine(d, t), t)

    def figures(self) -> dict[str, float]:
        """Return all figures; NaN where nothing was measured."""
        return self._raw.figures() | self._median.figures() | self._affine.figures()
