"""Errors of canonical coordinates in millimetres, over the whole head and per region."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation.depth import MM_PER_M, DepthMetrics, ErrorHistogram

# The regions of FlowFace's benchmark (face, mouth, nose, eyes, ears), out of the label names datasets carry.
_GROUPS: Mapping[str, tuple[str, ...]] = {
    "mouth": ("upper_lip", "lower_lip", "mouth_interior"),
    "nose": ("nose",),
    "eyes": ("right_eye", "left_eye", "right_eyeball", "left_eyeball"),
    "ears": ("right_ear", "left_ear"),
}
_FACE = ("cheeks", "forehead", "brows", "chin", *_GROUPS["mouth"], *_GROUPS["nose"], *_GROUPS["eyes"])
REGION_NAMES = ("face", *_GROUPS)


def region_labels(labels: Mapping[str, int]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the labels of each region a dataset has, given its attribute ``regions``.

    A dataset that names no part of a face is one of whole heads: each of its labels is ``face``; without any
    label at all, every pixel is.
    """
    groups = {"face": _FACE, **_GROUPS}
    found = {name: [labels[part] for part in parts if part in labels] for name, parts in groups.items()}
    if not found["face"]:
        found["face"] = [value for value in labels.values() if value > 0] or list(range(256))
    return {name: np.array(values, np.int64) for name, values in found.items() if values}


def in_region(region: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return where a map of labels shows one of ``labels``."""
    return np.isin(region, labels)


_PARTS = (("median", 0.5), ("p95", 0.95))


class CanonicalMetrics:
    """Lengths of (predicted − true) canonical coordinate, wherever the true one is known.

    Parameters
    ----------
    regions : mapping of name to labels
        See :func:`trainer.evaluation.canonical.region_labels`.
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

    def metrics(self) -> dict[str, float]:
        """Return median, mean and p95, and the same per region; NaN where nothing was measured."""
        named = {"canonical": self._all} | {f"canonical_{name}": h for name, h in self._of_region.items()}
        metrics = {}
        for name, histogram in named.items():
            metrics[f"{name}_mean_mm"] = histogram.mean()
            metrics |= {f"{name}_{part}_mm": histogram.quantile(q) for part, q in _PARTS}
        return metrics


def canonical_errors_mm(canonical_m: npt.NDArray[Any], true_canonical_m: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the error of every pixel (H, W), millimetres, of coordinates (3, H, W) in metres."""
    offset = np.asarray(canonical_m, np.float64) - true_canonical_m
    return np.sqrt((offset**2).sum(0)) * MM_PER_M


class MapMetrics:
    """Errors of depth and canonical coordinates over a set of samples: the few metrics a run looks at while it fits.

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

    def metrics(self) -> dict[str, float]:
        """Return all metrics; NaN where nothing was measured."""
        return self._canonical.metrics() | self._depth.metrics()
