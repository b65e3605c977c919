"""Two builds of the same captures, frame by frame: paired differences in millimetres, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.audit.measure import measure_warp, region_rows
from datagen.audit.results import FrameResult, truth_reader
from datagen.common.errors import CanonfaceError
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import FACE_REGIONS, REGIONS
from datagen.heads.registry import load_head
from datagen.layout import BuildLayout
from datagen.warp.result import Warp
from datagen.warp.storage import read_warp

F64 = npt.NDArray[np.float64]
# Less is better in all of them.
FIGURES = {
    "error_median_mm": "true error, median",
    "error_p95_mm": "true error, 95 %",
    "distance_median_mm": "to the template, median",
    "distance_p95_mm": "to the template, 95 %",
    "back_median_mm": "back, median",
    "round_trip_p95_mm": "there and back, 95 %",
}
# Two runs that differ by less in a frame are taken as the same: of a measure with four digits.
SAME_MM = 1e-3


@dataclass(frozen=True)
class Paired:
    """One figure of one region, over the frames in which both builds have it.

    Attributes
    ----------
    region, figure : str
    frames : int
    first, second : float
        Medians over the frames, mm.
    difference : float
        Median of second minus first, mm; below 0 the second is better.
    better, worse : int
        Frames in which the second is.
    p : float
        Of the two-sided sign test: how likely a split at least as uneven is by chance alone; 1 if no frame differs.
    """

    region: str
    figure: str
    frames: int
    first: float
    second: float
    difference: float
    better: int
    worse: int
    p: float

    @property
    def said(self) -> str:
        """It in words."""
        if not self.better + self.worse:
            return "the same"
        if self.p > 0.05:
            return "no telling"
        return "better" if self.better > self.worse else "worse"


@dataclass(frozen=True)
class MeasuredPair:
    """One frame, measured in both builds.

    Attributes
    ----------
    name : str
    first, second : mapping of region to mapping of figure to value
    moved_mm : mapping of region to float
        Median distance between the canonical coordinates of the same scan points; empty if the scans differ.
    """

    name: str
    first: Mapping[str, Mapping[str, float]]
    second: Mapping[str, Mapping[str, float]]
    moved_mm: Mapping[str, float]

    @property
    def change(self) -> tuple[str, float]:
        """The region of the face that changed most and by how much, mm: of the true error, or else of the distance."""
        changes = [("", 0.0)]
        for figure in ("error_median_mm", "distance_p95_mm"):
            for region in FACE_REGIONS:
                a, b = (side.get(region, {}).get(figure, np.nan) for side in (self.first, self.second))
                if np.isfinite(b - a):
                    changes.append((region, float(b - a)))
            if len(changes) > 1:
                break
        return max(changes, key=lambda one: abs(one[1]))


class PairReader:
    """Reads and measures frames of two builds, with the template and the truth of each."""

    def __init__(self, first: Path, second: Path) -> None:
        self._builds = first, second
        self._truth = truth_reader(first), truth_reader(second)
        self._templates: dict[tuple[int, str], HeadTemplate | None] = {}

    def warps(self, a: FrameResult, b: FrameResult) -> tuple[Warp, Warp]:
        """Read the warps of a frame."""
        return read_warp(a.folder), read_warp(b.folder)

    def template(self, side: int, warp: Warp) -> HeadTemplate | None:
        """Return the template that a warp of the first (0) or second build was made with, None if it is not there."""
        key = side, warp.space.head
        if key not in self._templates:
            try:
                root = BuildLayout(self._builds[side]).read_manifest().head_root
            except CanonfaceError:
                root = None
            try:
                self._templates[key] = load_head(warp.space.head, root).template
            except CanonfaceError:
                self._templates[key] = None
        found = self._templates[key]
        return found if found is not None and found.digest == warp.space.template_digest else None

    def error_mm(self, side: int, result: FrameResult, warp: Warp) -> F64 | None:
        """Return the true error of a warp (N,), None where there is no truth."""
        return self._truth[side](result, warp)

    def measure(self, a: FrameResult, b: FrameResult) -> MeasuredPair:
        """Measure a frame in both builds."""
        rows = []
        warps = self.warps(a, b)
        for side, (result, warp) in enumerate(zip((a, b), warps, strict=True)):
            error = self.error_mm(side, result, warp)
            rows.append(region_rows(measure_warp(warp, error, self.template(side, warp))))
        moved = moved_mm(*warps)
        by_region = {}
        if moved is not None:
            for name in FACE_REGIONS:
                inside = moved[(warps[0].region == REGIONS[name]) & np.isfinite(moved)]
                if len(inside):
                    by_region[name] = float(np.median(inside))
        return MeasuredPair(a.name, rows[0], rows[1], by_region)


def moved_mm(first: Warp, second: Warp) -> F64 | None:
    """Return how far each scan point's canonical coordinate moved (N,), NaN where one has none; None of other scans."""
    same = first.scan_vertices.shape == second.scan_vertices.shape and first.space.head == second.space.head
    if not same or not np.array_equal(first.scan_vertices, second.scan_vertices):
        return None
    return first.space.distance_mm(first.canonical, second.canonical)


def paired_differences(pairs: Sequence[MeasuredPair]) -> list[Paired]:
    """Return every figure of every region of the face that both builds have in any frame."""
    found = []
    for figure in FIGURES:
        for region in FACE_REGIONS:
            values = np.array(
                [
                    (p.first.get(region, {}).get(figure, np.nan), p.second.get(region, {}).get(figure, np.nan))
                    for p in pairs
                ]
            ).reshape(-1, 2)
            values = values[np.isfinite(values).all(axis=1)]
            if len(values):
                found.append(_paired(region, figure, values))
    return found


def _paired(region: str, figure: str, values: F64) -> Paired:
    difference = values[:, 1] - values[:, 0]
    better, worse = int((difference < -SAME_MM).sum()), int((difference > SAME_MM).sum())
    first, second = np.median(values, axis=0)
    middle = float(np.median(difference))
    p = sign_test(better, worse)
    return Paired(region, figure, len(values), float(first), float(second), middle, better, worse, p)


def sign_test(better: int, worse: int) -> float:
    """Return the two-sided p-value of a sign test: a fair coin's chance of a split at least as uneven."""
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
