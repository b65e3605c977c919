"""How sure a warp is of each region of the face: a good mean can hide cheeks that nobody should believe."""

from __future__ import annotations

from collections.abc import Mapping
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
    scanned : mapping of str to float
        Share of the area that has scan data, of "all" of the region or of its "right" and "left", as in the verdict.
    """

    region: str
    points: int
    mean: float
    scanned: Mapping[str, float]

    def __str__(self) -> str:
        text = f"{self.region.replace('_', ' '):<12} "
        text += f"{self.mean:.2f}  {self.points} points" if self.points else "no points"
        shares = [f"{share:.0%}" if part == "all" else f"{part} {share:.0%}" for part, share in self.scanned.items()]
        return f"{text}, scanned: {', '.join(shares)}" if shares else text


def region_confidence(warp: Warp) -> list[RegionConfidence]:
    """Return the confidence of every region of the face, the least first."""
    known = np.isfinite(warp.canonical).all(axis=1)
    found = []
    for name in FACE_REGIONS:
        values = warp.confidence[known & (warp.region == REGIONS[name])]
        mean = float(values.mean()) if len(values) else 0.0
        found.append(RegionConfidence(name, len(values), mean, _scanned(name, warp.verdict.metrics)))
    return sorted(found, key=lambda one: one.mean)


def _scanned(region: str, metrics: Mapping[str, float]) -> dict[str, float]:
    if region == "cheeks":
        sides = {side: metrics.get(f"coverage_{side}_cheek") for side in ("right", "left")}
    else:
        sides = {"all": metrics.get(f"coverage_{region}")}
    return {side: share for side, share in sides.items() if share is not None}
