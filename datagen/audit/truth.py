"""True correspondence error of a warp, where a simulation kept the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.heads.regions import FACE_REGIONS, REGION_NAMES, mask_of
from datagen.warp.result import Warp

CORRECT_WITHIN_MM = 1.0


def true_error_mm(warp: Warp, truth_canonical: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Distance of each scan vertex's canonical coordinate from the true one.

    Parameters
    ----------
    truth_canonical : (N, 3) float
        Normalised, in the warp's space; NaN for vertices that have none (stray pieces).

    Returns
    -------
    (N,) float64
        Millimetres in template space; NaN where either is unknown.

    Raises
    ------
    InputError
        If the truth is of another number of vertices.
    """
    if truth_canonical.shape != warp.canonical.shape:
        raise InputError(
            f"the truth has shape {truth_canonical.shape}, the warp's canonical coordinates {warp.canonical.shape}",
            "one true coordinate for each scan vertex",
            "Simulate and warp again: these files belong to different builds",
        )
    return warp.space.distance_mm(warp.canonical, truth_canonical)


def error_metrics(error_mm: npt.NDArray[np.floating], region: npt.NDArray[np.integer]) -> dict[str, float]:
    """Return ``true_error_median_mm``, ``true_error_p95_mm`` and ``true_error_within_1mm`` over the face.

    Empty where no face vertex (``region`` (N,) of the regions a face is judged on) has a known error (N,).
    """
    on_face = error_mm[mask_of(region, FACE_REGIONS) & np.isfinite(error_mm)]
    if not len(on_face):
        return {}
    return {
        "true_error_median_mm": float(np.median(on_face)),
        "true_error_p95_mm": float(np.percentile(on_face, 95)),
        "true_error_within_1mm": float((on_face <= CORRECT_WITHIN_MM).mean()),
    }


def by_region(values: npt.NDArray[np.floating], region: npt.NDArray[np.integer]) -> dict[str, tuple[int, float, float]]:
    """Return count, median and 95th percentile of finite values (N,) for each region name present."""
    table = {}
    known = np.isfinite(values)
    for label, name in REGION_NAMES.items():
        chosen = values[known & (region == label)]
        if label and len(chosen):
            table[name] = (len(chosen), float(np.median(chosen)), float(np.percentile(chosen, 95)))
    return table


@dataclass(frozen=True)
class Calibration:
    """Stated confidence against what was true.

    Attributes
    ----------
    stated : (B,) float64
        Mean confidence in each occupied bin.
    correct : (B,) float64
        Fraction of its vertices within :data:`CORRECT_WITHIN_MM` of the truth.
    count : (B,) int64
    """

    stated: npt.NDArray[np.float64]
    correct: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]

    @property
    def expected_error(self) -> float:
        """Expected calibration error: the mean gap between stated and correct, weighted by count (Naeini 2015)."""
        return float(np.average(np.abs(self.stated - self.correct), weights=self.count)) if len(self.count) else 0.0


def calibration(
    confidence: npt.NDArray[np.floating], error_mm: npt.NDArray[np.floating], bins: int = 10
) -> Calibration:
    """Bin vertices by confidence (N,) and count those with an error (N,) within a millimetre; NaN is left out."""
    known = np.isfinite(error_mm)
    c, correct = np.asarray(confidence, np.float64)[known], np.asarray(error_mm)[known] <= CORRECT_WITHIN_MM
    index = np.minimum((c * bins).astype(np.int64), bins - 1)
    count = np.bincount(index, minlength=bins)
    full = count > 0
    return Calibration(
        np.bincount(index, weights=c, minlength=bins)[full] / count[full],
        np.bincount(index, weights=correct, minlength=bins)[full] / count[full],
        count[full],
    )
