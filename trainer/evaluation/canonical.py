"""Errors of canonical coordinates in millimetres, over the whole head and per region."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation.depth import MM_PER_M, ErrorHistogram

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

    A dataset that names none of the parts of a face is one of whole heads: its every label is ``face``; without any
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
