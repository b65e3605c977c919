"""The figures of a whole build, as numbers for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from datagen.audit.results import FrameMeasure, FrameResult, verdict_counts
from datagen.heads.regions import FACE_REGIONS, mask_of


def build_figures(results: Sequence[FrameResult], measures: Mapping[str, FrameMeasure]) -> dict[str, float]:
    """Return flat figures over all frames, as stored in ``report/summary.json``.

    Correspondence errors are pooled over the face's measured scan vertices whose truth is known, and left out where
    none is; the residual is the median over frames of each frame's median.

    Parameters
    ----------
    results : sequence of FrameResult
    measures : mapping of frame name to FrameMeasure
    """
    figures: dict[str, float] = {f"frames_{status}": float(n) for status, n in verdict_counts(results).items()}
    figures["frames"] = float(len(results))
    residual = np.array([result.figure("residual_median_mm") for result in results])
    if np.isfinite(residual).any():
        figures["residual_median_mm"] = float(np.nanmedian(residual))
    errors = [m.error_mm[mask_of(m.region, FACE_REGIONS) & np.isfinite(m.error_mm)] for m in measures.values()]
    known = np.concatenate(errors) if errors else np.zeros(0)
    if len(known):
        figures["true_error_median_mm"] = float(np.median(known))
        figures["true_error_p95_mm"] = float(np.percentile(known, 95))
        figures["true_error_points"] = float(len(known))
    return figures
