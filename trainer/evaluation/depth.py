"""Errors of depth, of its steps and of the outline; and the quantiles that any number of errors are kept in.

Boundary F1 follows Depth Pro (Bochkovskii et al., ICLR 2025): two neighbouring pixels hold a contour where the ratio
of their depths exceeds a threshold; precision and recall compare predicted with true pairs, side for side. Its
thresholds, 5 to 25 %, are those of rooms. A nose stands 20 mm before a cheek at 800 mm: ours are 1 to 3 %.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64

_BIN = 0.02
_BINS = 25_000  # up to 500; what lies beyond is counted and enters the mean


class ErrorHistogram:
    """Errors in millimetres or degrees.

    The mean is exact. Quantiles are exact to 0.02 up to 500; beyond, the largest error stands for all.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS + 1, np.int64)
        self._sum = 0.0
        self._squares = 0.0
        self._largest = 0.0

    def add(self, errors: npt.NDArray[np.floating]) -> None:
        """Count errors of any shape, 0 or more; an infinite or undefined one counts as beyond."""
        flat = np.asarray(errors, np.float64).ravel()
        if not flat.size:
            return
        bins = np.where(np.isfinite(flat), np.minimum(flat / _BIN, _BINS), _BINS).astype(np.int64)
        self._counts += np.bincount(bins, minlength=_BINS + 1)
        self._sum += float(flat.sum())
        self._squares += float((flat**2).sum())
        self._largest = max(self._largest, float(flat.max()))

    @property
    def count(self) -> int:
        """Number of errors counted."""
        return int(self._counts.sum())

    def mean(self) -> float:
        """Mean error; NaN if none was counted."""
        return self._sum / self.count if self.count else float("nan")

    def rms(self) -> float:
        """Root of the mean square; NaN if none was counted."""
        return float(np.sqrt(self._squares / self.count)) if self.count else float("nan")

    def quantile(self, q: float) -> float:
        """Error that the share ``q`` of errors does not exceed; NaN if none was counted."""
        if not self.count:
            return float("nan")
        cumulative = np.cumsum(self._counts)
        place = int(np.searchsorted(cumulative, max(q * self.count, 1)))
        return self._largest if place >= _BINS else (place + 0.5) * _BIN


MM_PER_M = 1000.0
_DELTA = 1.25
_SMALLEST_M = 1e-9


def align_median(depth: npt.NDArray[Any], truth: npt.NDArray[Any]) -> F64:
    """Scale depths (N,) so that their median is the true one's (N,)."""
    d = np.asarray(depth, np.float64)
    return d * (float(np.median(truth)) / max(float(np.median(d)), _SMALLEST_M))


def align_affine(depth: npt.NDArray[Any], truth: npt.NDArray[Any]) -> F64:
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
        Of the metrics' names.
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

    def metrics(self) -> dict[str, float]:
        """Return the metrics; NaN where nothing was added."""
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

    def metrics(self) -> dict[str, float]:
        """Return all metrics; NaN where nothing was measured."""
        return self._raw.metrics() | self._median.metrics() | self._affine.metrics()


THRESHOLDS = np.linspace(0.01, 0.03, 5)


class BoundaryMetrics:
    """Pairs of pixels within the true surface, and the outline between surface and background."""

    def __init__(self) -> None:
        self._hits = np.zeros((3, len(THRESHOLDS)), np.int64)
        self._outline = np.zeros(3, np.int64)
        self._overlap = np.zeros(2, np.int64)

    def add(
        self, depth_m: npt.NDArray[Any], true_depth_m: npt.NDArray[Any], surface: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Add one view: depths (H, W), and where the method says there is a surface (H, W), if it does."""
        on = true_depth_m > 0
        for axis in (0, 1):
            both = _first(on, axis) & _second(on, axis)
            predicted, true = _log_step(depth_m, axis)[both], _log_step(true_depth_m, axis)[both]
            for k, threshold in enumerate(np.log1p(THRESHOLDS)):
                for sign in (1, -1):
                    p, t = sign * predicted > threshold, sign * true > threshold
                    self._hits[:, k] += (p & t).sum(), p.sum(), t.sum()
            if surface is not None:
                p, t = _first(surface, axis) != _second(surface, axis), _first(on, axis) != _second(on, axis)
                self._outline += (p & t).sum(), p.sum(), t.sum()
        if surface is not None:
            self._overlap += (surface & on).sum(), (surface | on).sum()

    def metrics(self) -> dict[str, float]:
        """Return F1 of depth steps and of the outline, and the overlap of surfaces; NaN where nothing was measured."""
        # As in Depth Pro, coarse steps weigh more: a method must meet them at every threshold.
        f1 = np.array([_f1(*self._hits[:, k].tolist()) for k in range(len(THRESHOLDS))])
        weights = np.where(np.isnan(f1), 0, THRESHOLDS)
        metrics = {
            "boundary_f1": float((np.nan_to_num(f1) * weights).sum() / weights.sum()) if weights.any() else np.nan
        }
        if self._overlap[1]:
            metrics["silhouette_f1"] = _f1(*self._outline.tolist())
            metrics["surface_iou"] = float(self._overlap[0] / self._overlap[1])
        return metrics


def _f1(hits: int, predicted: int, true: int) -> float:
    if not true:
        return float("nan")
    return 2 * hits / (predicted + true)


def _log_step(depth_m: npt.NDArray[Any], axis: int) -> npt.NDArray[np.float64]:
    return np.diff(np.log(np.maximum(np.asarray(depth_m, np.float64), 1e-9)), axis=axis)


def _first(values: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    return values[:-1] if axis == 0 else values[:, :-1]


def _second(values: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    return values[1:] if axis == 0 else values[:, 1:]
