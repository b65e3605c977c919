"""How far hands differ in where they mark a landmark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.marks.consensus import Opinion, consensus
from datagen.common.arrays import F64
from datagen.heads.landmarks import COUNT, MIRROR

# Few sources mark each landmark: its own scatter counts as much as that of its like.
OWN_SHARE = 0.5
LEAST_M = 0.5e-3
LIKE = {
    "jaw, upper": (0, 1, 2, 14, 15, 16),
    "jaw": (3, 4, 5, 6, 7, 9, 10, 11, 12, 13),
    "chin": (8,),
    "brows": tuple(range(17, 27)),
    "bridge of the nose": (27, 28, 29),
    "tip and base of the nose": tuple(range(30, 36)),
    "corners of the eyes": (36, 39, 42, 45),
    "lids": (37, 38, 40, 41, 43, 44, 46, 47),
    "corners of the mouth": (48, 54, 60, 64),
    "lips": (49, 50, 51, 52, 53, 55, 56, 57, 58, 59, 61, 62, 63, 65, 66, 67),
}


def scatter_m(given: Sequence[Opinion], marks: F64) -> F64:
    """Return each landmark's standard deviation per coordinate about ``marks`` (68, 3), (68,) metres.

    What sources differ in the mean, and people within a source; half of it shared with landmarks of its kind.
    """
    means = np.stack([opinion.mean for opinion in given])
    squared = ((means - marks) ** 2).sum(axis=2)
    known = np.isfinite(squared)
    between = np.where(known, squared, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0) - 1, 1) / 3
    crowds = [opinion.people for opinion in given if len(opinion.people) > 1]
    within = np.nanmean([people.var(axis=0, ddof=1).mean(axis=1) for people in crowds], axis=0)
    # Landmarks that no crowd has: as people scatter in those of their kind, or in all.
    everywhere = float(np.nanmean(within))
    variance = np.zeros(COUNT)
    for kind in LIKE.values():
        rows = list(kind)
        spread = within[rows]
        spread = np.where(np.isfinite(spread), spread, np.nanmean(spread) if np.isfinite(spread).any() else everywhere)
        total = between[rows] + spread
        variance[rows] = OWN_SHARE * total + (1 - OWN_SHARE) * total.mean()
    variance = (variance + variance[MIRROR]) / 2
    return np.asarray(np.maximum(np.sqrt(variance), LEAST_M))


def left_out_rms_m(given: Sequence[Opinion], fixed: F64 | None = None) -> dict[str, float]:
    """Return, for each source, the RMS distance of its people's mean from the consensus of the others, metres.

    With ``fixed`` (68, 3) it is the distance from these places instead.
    """
    result = {}
    for opinion in given:
        others = [other for other in given if other is not opinion]
        where = consensus(others) if fixed is None else fixed
        squared = ((opinion.mean - where) ** 2).sum(axis=1)
        result[opinion.name] = float(np.sqrt(np.nanmean(squared)))
    return result
