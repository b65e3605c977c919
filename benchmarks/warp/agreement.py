"""How far the canonical coordinates of one skin point agree between meshes, and what that says of confidence.

Real faces come without a true coordinate. But one vertex of a hidden topology is one skin point, so a method has to
give it one coordinate, whoever the person: what differs is error. An error that is the same for all meshes is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.warp.figures import percentile
from datagen.audit.truth import CORRECT_WITHIN_MM, Calibration, calibration
from datagen.common.arrays import F64, I64, Bools
from datagen.geometry.space import MM_PER_M


def from_mean_mm(canonical_m: F64) -> F64:
    """Return the dispersion: how far each mesh has a vertex from the vertex's mean, (K, N) float64 mm.

    NaN where the mesh has no coordinate, and for vertices that fewer than half of the meshes have, or fewer than two.

    Parameters
    ----------
    canonical_m : (K, N, 3) float64
        Metres; NaN where a mesh has none.
    """
    mean, _ = _mean(canonical_m)
    return np.linalg.norm(canonical_m - mean, axis=2) * MM_PER_M


def true_error_mm(canonical_m: F64) -> F64:
    """Return an estimate of each coordinate's true error, (K, N) float64 mm; NaN as :func:`from_mean_mm`.

    The mean holds the coordinate itself, which takes 1/n of the error's variance away: this is put back.
    """
    mean, count = _mean(canonical_m)
    return np.linalg.norm(canonical_m - mean, axis=2) * MM_PER_M * np.sqrt(count / np.maximum(count - 1, 1))


def error_about_others_mm(canonical_m: F64, others_m: F64) -> F64:
    """Return the same estimate for one mesh (N, 3) about the mean of others (K, N, 3), (N,) float64 mm.

    The mean's own error adds 1/n of the variance, which is taken off: a member of a family has the same estimate here,
    about the rest, as in :func:`true_error_mm`.
    """
    count = np.isfinite(others_m).all(axis=2).sum(axis=0)
    mean, _ = _mean(others_m)
    return np.linalg.norm(canonical_m - mean, axis=1) * MM_PER_M * np.sqrt(count / (count + 1))


def _mean(canonical_m: F64) -> tuple[F64, I64]:
    """Mean (N, 3) and number (N,) of the meshes that have a vertex; NaN where they are too few."""
    seen: Bools = np.asarray(np.isfinite(canonical_m).all(axis=2))
    count: I64 = np.asarray(seen.sum(axis=0))
    total = np.where(seen[:, :, None], canonical_m, 0).sum(axis=0)
    too_few = count < max(2, len(canonical_m) / 2)
    mean = total / np.maximum(count, 1)[:, None]
    mean[too_few] = np.nan
    return mean, count


def median_and_p95(values_mm: F64) -> dict[str, float]:
    """Return ``median`` and ``p95`` of finite values; NaN without any."""
    return {"median": percentile(values_mm, 50), "p95": percentile(values_mm, 95)}


@dataclass(frozen=True)
class StatedConfidence:
    """What the warps of one source stated, and what was true.

    Attributes
    ----------
    source : str
    curve : Calibration
        By bins, as the report of a build draws it.
    counted : bool
        Whether the figures count this source.
    """

    source: str
    curve: Calibration
    counted: bool = True

    @classmethod
    def of(
        cls, source: str, confidence: Sequence[F64], error_mm: Sequence[F64], counted: bool = True
    ) -> StatedConfidence:
        """Put the vertices of several warps together; those without a known error are left out."""
        return cls(source, calibration(np.concatenate(confidence), np.concatenate(error_mm)), counted)

    @property
    def gap(self) -> float:
        """The expected calibration error: what the chart in the report of a build states.

        It is never less than the distance of the mean confidence from the share that is within a millimetre.
        """
        return self.curve.expected_error if self.curve.count.sum() else float("nan")

    def entry(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        count = self.curve.count
        known = bool(count.sum())
        stated = float(np.average(self.curve.stated, weights=count)) if known else float("nan")
        correct = float(np.average(self.curve.correct, weights=count)) if known else float("nan")
        return {
            "source": self.source,
            "counted": self.counted,
            "gap": self.gap,
            "stated": stated,
            f"within_{CORRECT_WITHIN_MM:g}mm": correct,
            "vertices": int(count.sum()),
            "bins": [
                {"stated": float(s), "correct": float(c), "count": int(n)}
                for s, c, n in zip(self.curve.stated, self.curve.correct, count, strict=True)
            ],
        }


def verdict_shares(error_mm: Sequence[float], passed: Sequence[bool]) -> tuple[float, float]:
    """Return how many of the worst tenth of warps did not pass, and how many of the best half; NaN without warps.

    Parameters
    ----------
    error_mm : sequence of float
        Of each warp; infinite where it has none.
    passed : sequence of bool
    """
    if not len(error_mm):
        return float("nan"), float("nan")
    held_back = ~np.asarray(passed, bool)[np.argsort(np.asarray(error_mm, np.float64), kind="stable")]
    worst, best = held_back[-max(1, -(-len(held_back) // 10)) :], held_back[: max(1, len(held_back) // 2)]
    return float(worst.mean()), float(best.mean())
