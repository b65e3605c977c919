"""Fit the weights of the warp's confidence to points of many sources, and say how each fares when it is left out.

People other than those of `python -m benchmarks warp` (other seeds), so that the benchmark's reliability is held out;
of the real families there are no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.audit.truth import CORRECT_WITHIN_MM, Calibration, calibration
from datagen.common.arrays import F64
from datagen.heads.regions import FACE_REGIONS, INTERIOR_REGIONS, mask_of
from datagen.warp.confidence import FEATURES, stated_confidence

RIDGE = 10.0
# Every source weighs as much as so many points, against the ridge.
SOURCE_WEIGHT = 3000.0
# Their confidence has a ceiling of its own, which the weights do not make.
NOT_FITTED = (*INTERIOR_REGIONS, "scalp")
PARTS = {
    "eyes": ("right_eye", "left_eye"),
    "nose": ("nose",),
    "mouth": ("upper_lip", "lower_lip"),
    "forehead": ("forehead", "brows"),
    "cheeks": ("cheeks", "chin"),
    "scalp": ("scalp",),
}
FEWEST_POINTS = 30


@dataclass(frozen=True, eq=False)
class Points:
    """Points of one source.

    Attributes
    ----------
    source : str
    origin : str
        What is left out together: all that comes from the same people.
    features : (N, F) float64
        Columns as in :data:`datagen.warp.confidence.FEATURES`.
    region : (N,) uint8
    error_mm : (N,) float64
    """

    source: str
    origin: str
    features: F64
    region: npt.NDArray[np.uint8]
    error_mm: F64

    def curve(self, weights: F64, names: Sequence[str] | None = None) -> Calibration:
        """Return stated confidence against truth, of all points or of some regions."""
        chosen = np.ones(len(self.region), bool) if names is None else mask_of(self.region, tuple(names))
        stated = stated_confidence(self.features[chosen], self.region[chosen], weights)
        return calibration(stated, self.error_mm[chosen])


@dataclass(frozen=True, eq=False)
class SourceFit:
    """How one source fares with weights that were fitted without its people.

    Attributes
    ----------
    points : Points
    weights : (F,) float64
        Without them.
    final : (F,) float64
        Of all sources.
    """

    points: Points
    weights: F64
    final: F64

    def line(self) -> str:
        """Return gap, stated and true of the face left out, gap with all, and stated / true by part of the head."""
        left, within = self.points.curve(self.weights, FACE_REGIONS), self.points.curve(self.final, FACE_REGIONS)
        everywhere = self.points.curve(self.weights)
        cells = []
        for part, names in PARTS.items():
            curve = self.points.curve(self.weights, names)
            if curve.count.sum() >= FEWEST_POINTS:
                cells.append(f"{part} {_mean(curve.stated, curve):.2f}/{_mean(curve.correct, curve):.2f}")
        return (
            f"{self.points.source:<44}{left.expected_error:>7.3f}{_mean(left.stated, left):>8.2f}"
            f"{_mean(left.correct, left):>6.2f}{everywhere.expected_error:>9.3f}{within.expected_error:>9.3f}  "
            + "  ".join(cells)
        )


HEADING = f"{'face, left out of the fit':<44}{'gap':>7}{'stated':>8}{'true':>6}{'head':>9}{'in it':>9}  stated/true"


def logistic(features: F64, label: F64, weight: F64, rounds: int = 30) -> F64:
    """Return the ridge-regularised logistic weights (F,) by Newton's method."""
    w = np.zeros(features.shape[1])
    for _ in range(rounds):
        chance = 1 / (1 + np.exp(-np.clip(features @ w, -30, 30)))
        curvature = weight * chance * (1 - chance)
        hessian = features.T @ (features * curvature[:, None]) + RIDGE * np.eye(len(w))
        w = w + np.linalg.solve(hessian, features.T @ (weight * (label - chance)) - RIDGE * w)
    return w


def fitted(sources: Sequence[Points]) -> F64:
    """Return the weights (F,) fitted to some sources of equal weight."""
    features, label, weight = [], [], []
    for points in sources:
        used = ~mask_of(points.region, NOT_FITTED)
        features.append(points.features[used])
        label.append((points.error_mm[used] < CORRECT_WITHIN_MM).astype(np.float64))
        weight.append(np.full(int(used.sum()), SOURCE_WEIGHT / max(int(used.sum()), 1)))
    return logistic(np.concatenate(features), np.concatenate(label), np.concatenate(weight))


def left_out(sources: Sequence[Points]) -> list[SourceFit]:
    """Return each source with the weights of all sources of other people; none where there is no other origin."""
    final, fits = fitted(sources), []
    for origin in dict.fromkeys(points.origin for points in sources):
        others = [points for points in sources if points.origin != origin]
        if others:
            weights = fitted(others)
            fits += [SourceFit(points, weights, final) for points in sources if points.origin == origin]
    return fits


def fitted_weights(sources: Sequence[Points], say: Callable[[str], None]) -> Mapping[str, float]:
    """Return the weight of each of :data:`datagen.warp.confidence.FEATURES`, and say how each source fares left out."""
    say(HEADING)
    for fit in left_out(sources):
        say(fit.line())
    return dict(zip(FEATURES, fitted(sources).tolist(), strict=True))


def _mean(values: F64, curve: Calibration) -> float:
    return float(np.average(values, weights=curve.count)) if curve.count.sum() else float("nan")
