"""Does a confidence know where the errors are? Risk–coverage, and calibration of the error it implies."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from datagen.common.arrays import F64

_BINS = 10
_CURVE = 50


def risk_coverage(errors: npt.NDArray[Any], confidence: npt.NDArray[Any]) -> F64:
    """Return the mean error of the k most confident pixels, for k = 1 … N; among equals, their mean error counts.

    Parameters
    ----------
    errors, confidence : (N,)
    """
    levels, group = np.unique(-np.asarray(confidence, np.float64), return_inverse=True)
    size = np.bincount(group, minlength=len(levels))
    mean = np.bincount(group, weights=errors, minlength=len(levels)) / size
    ordered = np.repeat(mean, size)
    return np.cumsum(ordered) / np.arange(1, len(ordered) + 1)


def area_under_risk_coverage(errors: npt.NDArray[Any], confidence: npt.NDArray[Any]) -> float:
    """Return the mean over all coverages of the error kept (AURC, Geifman et al., ICLR 2019), in the errors' unit."""
    return float(risk_coverage(errors, confidence).mean())


def calibration(errors: npt.NDArray[Any], confidence: npt.NDArray[Any]) -> tuple[float, F64]:
    """Compare errors with those their confidence implies.

    The loss c·|e| − λ log c is least at c = λ / |e|: a confidence implies an error in proportion to 1 / c. The one
    factor is fitted so that errors agree in the mean; what is left is measured over ten bins of equal count.

    Returns
    -------
    float
        Mean absolute difference of implied and real mean error over the bins, divided by the mean error.
    (B, 2)
        Implied and real mean error of each bin, the most confident first.
    """
    e, implied = np.asarray(errors, np.float64), 1 / np.asarray(confidence, np.float64)
    implied *= e.mean() / implied.mean()
    order = np.argsort(implied, kind="stable")
    bins = np.array_split(order, min(_BINS, len(order)))
    pairs = np.array([[implied[b].mean(), e[b].mean()] for b in bins])
    weights = np.array([len(b) for b in bins]) / len(e)
    return float((weights * np.abs(pairs[:, 0] - pairs[:, 1])).sum() / max(e.mean(), 1e-12)), pairs


def _correlation(a: F64, b: F64) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else float("nan")


class ConfidenceMetrics:
    """Confidence of one kind of map against its errors, over pixels drawn from each view.

    Parameters
    ----------
    prefix : str
        Of the metrics' names.
    per_view : int
        Pixels drawn per view.
    """

    def __init__(self, prefix: str, per_view: int = 1000) -> None:
        self._prefix = prefix
        self._per_view = per_view
        self._errors: list[npt.NDArray[np.float32]] = []
        self._confidence: list[npt.NDArray[np.float32]] = []

    def add(self, errors_mm: npt.NDArray[Any], confidence: npt.NDArray[Any], rng: np.random.Generator) -> None:
        """Add one view's errors and confidences, (N,) each."""
        if len(errors_mm) > self._per_view:
            chosen = rng.choice(len(errors_mm), self._per_view, replace=False)
            errors_mm, confidence = errors_mm[chosen], confidence[chosen]
        self._errors.append(np.asarray(errors_mm, np.float32))
        self._confidence.append(np.asarray(confidence, np.float32))

    @property
    def empty(self) -> bool:
        """Whether no view was added."""
        return not self._errors

    def _all(self) -> tuple[F64, F64]:
        if not self._errors:
            return np.zeros(0), np.zeros(0)
        return np.concatenate(self._errors).astype(np.float64), np.concatenate(self._confidence).astype(np.float64)

    def metrics(self) -> dict[str, float]:
        """Return AURC, what is lost against ordering by the error itself, rank correlation and calibration."""
        errors, confidence = self._all()
        p = self._prefix
        names = ("aurc_mm", "aurc_best_mm", "aurc_excess", "rank_correlation", "calibration")
        if not errors.size:
            return {f"{p}_{name}": float("nan") for name in names}
        area = area_under_risk_coverage(errors, confidence)
        best = area_under_risk_coverage(errors, -errors)
        spread = errors.mean() - best
        ranks = [rankdata(values) for values in (confidence, -errors)]
        values = (
            area,
            best,
            float((area - best) / spread) if spread > 0 else float("nan"),
            _correlation(*ranks),
            calibration(errors, confidence)[0],
        )
        return {f"{p}_{name}": value for name, value in zip(names, values, strict=True)}

    def curves(self) -> dict[str, list[list[float]]]:
        """Return points of the risk–coverage curve, of the best one, and of the calibration bins."""
        errors, confidence = self._all()
        if not errors.size:
            return {}
        places = np.unique(np.linspace(0, len(errors) - 1, _CURVE).round().astype(int))

        def points(by: F64) -> list[list[float]]:
            risk = risk_coverage(errors, by)
            return [[(k + 1) / len(errors), float(risk[k])] for k in places.tolist()]

        return {
            "risk": points(confidence),
            "best": points(-errors),
            "calibration": calibration(errors, confidence)[1].tolist(),
        }
