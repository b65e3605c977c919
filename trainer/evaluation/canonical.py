"""Errors of canonical coordinates in millimetres, over the whole head and per region."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation.depth import MM_PER_M
from trainer.evaluation.histogram import ErrorHistogram
from trainer.evaluation.regions import in_region

_PARTS = (("median", 0.5), ("p95", 0.95))


class CanonicalMetrics:
    """Lengths of (predicted − true) canonical coordinate, wherever the true one is known.

    Parameters
    ----------
    regions : mapping of name to labels
        See :func:`trainer.evaluation.regions.region_labels`.
    """

    def __init__(self, regions: Mapping[str, npt.NDArray[np.int64]] | None = None) -> None:
        self._regions = dict(regions or {})
        self._all = ErrorHistogram()
        self._of_region = {name: ErrorHistogram() for name in self._regions}

    def add(
        self,
        canonical_m: npt.NDArray[Any],
        true_canonical_m: npt.NDArray[Any],
        known: npt.NDArray[np.bool_],
        region: npt.NDArray[Any] | None = None,
    ) -> None:
        """Add one view: coordinates (3, H, W) in metres, where they are known (H, W), labels (H, W)."""
        errors = canonical_errors_mm(canonical_m, true_canonical_m)[known]
        self._all.add(errors)
        if region is not None:
            labels = region[known]
            for name, histogram in self._of_region.items():
                histogram.add(errors[in_region(labels, self._regions[name])])

    def figures(self) -> dict[str, float]:
        """Return median, mean and p95, and the same per region; NaN where nothing was measured."""
        named = {"canonical": self._all} | {f"canonical_{name}": h for name, h in self._of_region.items()}
        figures = {}
        for name, histogram in named.items():
            figures[f"{name}_mean_mm"] = histogram.mean()
            figures |= {f"{name}_{part}_mm": histogram.quantile(q) for part, q in _PARTS}
        return figures


def canonical_errors_mm(canonical_m: npt.NDArray[Any], true_canonical_m: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the error of every pixel (H, W), millimetres, of coordinates (3, H, W) in metres."""
    offset = np.asarray(canonical_m, np.float64) - true_canonical_m
    return np.sqrt((offset**2).sum(0)) * MM_PER_M
