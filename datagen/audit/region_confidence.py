"""How sure a warp is of each region of the face: a good mean can hide cheeks that nobody should believe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datagen.heads.regions import FACE_REGIONS, REGIONS
from datagen.warp.result import Warp


@dataclass(frozen=True)
class RegionConfidence:
    """Mean confidence of one region's scan points that have a canonical coordinate.

    Attributes
    ----------
    region : str
        One of :data:`datagen.heads.regions.FACE_REGIONS`.
    points : int
    mean : float
        0 without points.
    """

    region: str
    points: int
    mean: float

    def __str__(self) -> str:
        name = self.region.replace("_", " ")
        return f"{name:<12} {self.mean:.2f}  of {self.points} points" if self.points else f"{name:<12} no points"


def region_confidence(warp: Warp) -> list[RegionConfidence]:
    """Return the confidence of every region of the face, the least first."""
    known = np.isfinite(warp.canonical).all(axis=1)
    found = []
    for name in FACE_REGIONS:
        values = warp.confidence[known & (warp.region == REGIONS[name])]
        found.append(RegionConfidence(name, len(values), float(values.mean()) if len(values) else 0.0))
    return sorted(found, key=lambda one: one.mean)
