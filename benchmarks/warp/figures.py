"""The benchmark's figures, as functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from datagen.audit.truth import Calibration, calibration
from datagen.common.arrays import F64, U8
from datagen.heads.regions import FACE_REGIONS, mask_of

# What is reported apart; the face is all of these but the ears.
REGION_GROUPS: Mapping[str, tuple[str, ...]] = {
    "lips": ("upper_lip", "lower_lip"),
    "eyes": ("right_eye", "left_eye"),
    "nose": ("nose",),
    "cheeks": ("cheeks",),
    "forehead": ("forehead",),
    "brows": ("brows",),
    "chin": ("chin",),
    "ears": ("right_ear", "left_ear"),
}
CONFIDENT = 0.5
# A material point is looked up among the scan vertices whose true place is this near.
MATERIAL_RADIUS_M = 1e-3
MATERIAL_NEIGHBOURS = 4


@dataclass(frozen=True)
class Points:
    """Scan vertices of one or more frames, with what was made of them.

    Attributes
    ----------
    error_mm : (N,) float64
        Distance of the canonical coordinate from the true one; NaN where the vertex has no counterpart.
    sliding_mm : (N,) float64
        Its part along the canonical surface: what is left when the scanner's noise along the normal is.
    confidence : (N,) float64
    residual_mm : (N,) float64
        Distance to the registered template.
    region : (N,) uint8
        True label; 0 for stray pieces.
    """

    error_mm: F64
    sliding_mm: F64
    confidence: F64
    residual_mm: F64
    region: U8

    @classmethod
    def pooled(cls, parts: Sequence[Points]) -> Points:
        """Put the points of several frames together."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def within(self, names: tuple[str, ...]) -> Points:
        """Return the points of some regions."""
        chosen = mask_of(self.region, names)
        return Points(*(getattr(self, f.name)[chosen] for f in fields(self)))


def point_figures(points: Points) -> dict[str, float]:
    """Return error, residual of confident vertices, coverage and calibration of some points; NaN where undefined."""
    known = np.isfinite(points.error_mm)
    error, confidence = points.error_mm[known], points.confidence[known]
    sure = points.residual_mm[known & (points.confidence >= CONFIDENT)]
    return {
        "median_mm": percentile(error, 50),
        "p95_mm": percentile(error, 95),
        "p99_mm": percentile(error, 99),
        "sliding_median_mm": percentile(points.sliding_mm[known], 50),
        "sliding_p95_mm": percentile(points.sliding_mm[known], 95),
        "residual_median_mm": percentile(sure, 50),
        "residual_p95_mm": percentile(sure, 95),
        "coverage": float(known.mean()) if len(known) else float("nan"),
        "confident": float((points.confidence >= CONFIDENT).mean()) if len(known) else float("nan"),
        "calibration_error": calibration(confidence, error).expected_error if len(error) else float("nan"),
        "risk_coverage_area": risk_coverage_area(confidence, error),
        "points": float(len(known)),
    }


def face_points(points: Points) -> Points:
    """Return the points that truly belong to the face."""
    return points.within(FACE_REGIONS)


def percentile(values: npt.NDArray[np.floating], percent: float) -> float:
    """Return a percentile of finite values, NaN if there are none."""
    finite = values[np.isfinite(values)]
    return float(np.percentile(finite, percent)) if len(finite) else float("nan")


def reliability(points: Points) -> Calibration:
    """Return stated confidence against the share within a millimetre, in ten bins of equal width."""
    return calibration(points.confidence, points.error_mm)


def risk_coverage_area(confidence: npt.NDArray[np.floating], error_mm: npt.NDArray[np.floating]) -> float:
    """Return the area under the risk–coverage curve, millimetres; NaN without points.

    The risk at a coverage c is the mean error of the share c of points that is most confident, and the area is its mean
    over all c (Geifman and El-Yaniv 2017, with the error itself as the loss). Points of equal confidence are taken in
    the mean of all orders, so that a constant confidence gives the mean error.

    Parameters
    ----------
    confidence, error_mm : (N,) float
        Finite; of points with a counterpart.
    """
    if not len(error_mm):
        return float("nan")
    order = np.argsort(-np.asarray(confidence, np.float64), kind="stable")
    _, group, count = np.unique(-np.asarray(confidence, np.float64)[order], return_inverse=True, return_counts=True)
    error = np.asarray(error_mm, np.float64)[order]
    tied = (np.bincount(group, weights=error) / count)[group]
    return float((np.cumsum(tied) / np.arange(1, len(tied) + 1)).mean())


def tangential(vectors: F64, normals: F64) -> F64:
    """Return the length of vectors (N, 3) less their part along unit normals (N, 3), (N,) float64."""
    along = np.einsum("nd,nd->n", vectors, normals)
    return np.linalg.norm(vectors - along[:, None] * normals, axis=1)


def material_difference_m(material_m: F64, material_region: U8, true_m: F64, true_region: U8, predicted_m: F64) -> F64:
    """Look material points up in one frame: predicted less true place, (P, 3) float64 metres, NaN where not seen.

    The difference is averaged over the up to four scan vertices of the same region whose true place is within a
    millimetre, weighted by nearness: a vertex's own place cancels out, so none need lie at the point itself.

    Parameters
    ----------
    material_m : (P, 3) float64
        Canonical, metres.
    material_region : (P,) uint8
    true_m, predicted_m : (N, 3) float64
        Canonical, metres, of scan vertices; rows that hold a NaN are left out.
    true_region : (N,) uint8
    """
    out = np.full((len(material_m), 3), np.nan)
    known = np.asarray(np.isfinite(true_m + predicted_m).all(axis=1))
    for label in np.unique(material_region):
        members = np.flatnonzero(known & (true_region == label))
        asked = np.flatnonzero(material_region == label)
        if not len(members):
            continue
        distance, index = cKDTree(true_m[members]).query(
            material_m[asked], np.arange(1, MATERIAL_NEIGHBOURS + 1), distance_upper_bound=MATERIAL_RADIUS_M
        )
        near = np.isfinite(distance)
        weight = np.where(near, 1 - np.where(near, distance, 0) / MATERIAL_RADIUS_M, 0) + near * 1e-9
        difference = (predicted_m - true_m)[members[np.where(near, index, 0)]]
        total = weight.sum(axis=1)
        mean = np.einsum("pk,pkd->pd", weight, difference) / np.maximum(total, 1e-12)[:, None]
        out[asked[total > 0]] = mean[total > 0]
    return out


def dispersion_mm(difference_m: F64) -> F64:
    """How far each material point wanders in canonical space, (P,) float64 mm.

    The RMS over frames of its predicted-less-true place about the mean over frames: an error that stays the same does
    not count, one that changes does. NaN for points seen in less than half of the frames, or in fewer than two.

    Parameters
    ----------
    difference_m : (T, P, 3) float64
        From :func:`material_difference_m`; NaN where a point was not seen.
    """
    seen = np.asarray(np.isfinite(difference_m).all(axis=2))
    count = seen.sum(axis=0)
    filled = np.where(seen[:, :, None], difference_m, 0)
    mean = filled.sum(axis=0) / np.maximum(count, 1)[:, None]
    about = np.where(seen[:, :, None], difference_m - mean, 0)
    spread = np.sqrt((about**2).sum(axis=(0, 2)) / np.maximum(count, 1)) * 1000
    return np.where(count >= max(2, len(difference_m) / 2), spread, np.nan)
