"""What is measured on the points of one warp: both ways between scan and template, and there and back, by region."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.audit.truth import CORRECT_WITHIN_MM, error_metrics
from datagen.audit.warp_pictures import known_template_vertices, scan_distance_mm
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import vertex_normals
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import FACE_REGIONS, REGION_NAMES, mask_of
from datagen.warp.result import Warp
from datagen.warp.surface import Surface

F64 = npt.NDArray[np.float64]
# Enough points for every percentile a report shows; all of them would cost seconds a frame.
POINTS_PER_FRAME = 4000
SAME_FACING = 0.7  # cosine between normals
# What a region's row says; each is left out where it is not known.
REGION_FIGURES = (
    "points",
    "distance_median_mm",
    "distance_p95_mm",
    "back_median_mm",
    "back_p95_mm",
    "round_trip_p95_mm",
    "confidence",
    "near",
    "error_median_mm",
    "error_p95_mm",
    "correct",
)


@dataclass(frozen=True)
class FrameMeasure:
    """What was measured on a sample of one frame's scan vertices, and of its registered face's vertices.

    Attributes
    ----------
    region : (Q,) uint8
    confidence : (Q,) float32
    distance_mm : (Q,) float64
        To the registered template; NaN without a counterpart.
    error_mm : (Q,) float64
        True correspondence error; NaN where unknown.
    round_trip_mm : (Q,) float64
        From the scan point to where the registered template has the skin of the point's canonical coordinate; NaN
        where that is unknown.
    back_region : (P,) uint8
    back_mm : (P,) float64
        From vertices of the registered template to the scan; NaN where the scan has a hole or a border.
    metrics : dict
        ``true_error_*`` over all vertices of the face, empty without truth.
    """

    region: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.float32]
    distance_mm: F64
    error_mm: F64
    round_trip_mm: F64
    back_region: npt.NDArray[np.uint8]
    back_mm: F64
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def pooled(cls, parts: list[FrameMeasure]) -> FrameMeasure:
        """Return all points of several frames as one; the metrics of none."""
        return cls(
            np.concatenate([part.region for part in parts]),
            np.concatenate([part.confidence for part in parts]),
            np.concatenate([part.distance_mm for part in parts]),
            np.concatenate([part.error_mm for part in parts]),
            np.concatenate([part.round_trip_mm for part in parts]),
            np.concatenate([part.back_region for part in parts]),
            np.concatenate([part.back_mm for part in parts]),
        )

    @property
    def has_truth(self) -> bool:
        """Whether any true error is known."""
        return bool(np.isfinite(self.error_mm).any())


def measure_warp(warp: Warp, error_mm: F64 | None, template: HeadTemplate | None = None) -> FrameMeasure:
    """Measure a warp on :data:`POINTS_PER_FRAME` evenly spread scan vertices.

    Parameters
    ----------
    error_mm : (N,) float64 or None
        True correspondence error of the scan's vertices.
    template : HeadTemplate, optional
        The one it was made with; without it nothing is known of the way back.
    """
    chosen = _evenly(len(warp.scan_vertices))
    known = np.isfinite(warp.canonical[chosen]).all(axis=1)
    distance = scan_distance_mm(warp, chosen)
    distance[~known] = np.nan
    error = np.full(len(chosen), np.nan) if error_mm is None else error_mm[chosen]
    metrics = {} if error_mm is None else error_metrics(error_mm, warp.region)
    coarse = None if template is None else known_template_vertices(warp, template)
    round_trip, back_region, back = np.full(len(chosen), np.nan), np.zeros(0, np.uint8), np.zeros(0)
    if template is not None and coarse is not None:
        round_trip[known] = _round_trip_mm(warp, template, coarse, chosen[known])
        back_region, back = _back_mm(warp, template, coarse)
    return FrameMeasure(
        warp.region[chosen], warp.confidence[chosen], distance, error, round_trip, back_region, back, metrics
    )


def _evenly(count: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(POINTS_PER_FRAME, count)).astype(np.int64))


def _round_trip_mm(warp: Warp, template: HeadTemplate, coarse: F64, index: npt.NDArray[np.int64]) -> F64:
    """From scan points to the template's skin of their coordinate, and with it to where the registration has it."""
    on_template = _surface_of(template).closest(warp.space.metres(warp.canonical[index]))
    corners = coarse[np.asarray(template.faces)[on_template.face]]
    carried = np.einsum("qc,qcx->qx", on_template.barycentric, corners)
    return np.asarray(np.linalg.norm(carried - warp.scan_vertices[index], axis=1)) * MM_PER_M


@lru_cache(maxsize=2)
def _surface_of(template: HeadTemplate) -> Surface:
    return Surface(template.vertices, template.faces)


def _back_mm(warp: Warp, template: HeadTemplate, coarse: F64) -> tuple[npt.NDArray[np.uint8], F64]:
    face = np.flatnonzero(mask_of(template.regions, FACE_REGIONS))
    face = face[_evenly(len(face))]
    if not len(warp.scan_faces):
        return template.regions[face], np.full(len(face), np.nan)  # of a cloud, holes cannot be told
    closest = Surface(warp.scan_vertices, warp.scan_faces).closest(coarse[face])
    distance = np.linalg.norm(closest.position - coarse[face], axis=1) * MM_PER_M
    # Skin inside lids and nostrils is not scanned: what lies nearest to it faces elsewhere.
    facing = np.abs(np.einsum("vi,vi->v", vertex_normals(coarse, template.faces)[face], closest.normal)) > SAME_FACING
    return template.regions[face], np.where(closest.on_border | ~facing, np.nan, distance)


def region_rows(measure: FrameMeasure) -> dict[str, dict[str, float]]:
    """Return the figures of :data:`REGION_FIGURES` of every region that has points.

    ``near`` is the share of points within a millimetre of the template, ``correct`` of those within a millimetre of
    the truth.
    """
    rows = {}
    for label, name in REGION_NAMES.items():
        inside, back = measure.region == label, measure.back_mm[measure.back_region == label]
        distance = _finite(measure.distance_mm[inside])
        if not label or not len(distance):
            continue
        error, matched = measure.error_mm[inside], measure.confidence[inside] > 0
        row = {
            "points": float(len(distance)),
            **_percentiles("distance", distance),
            **_percentiles("back", _finite(back)),
            "near": float((distance <= CORRECT_WITHIN_MM).mean()),
            **_percentiles("error", _finite(error)),
        }
        if matched.any():
            row["confidence"] = float(measure.confidence[inside][matched].mean())
        if len(trip := _finite(measure.round_trip_mm[inside])):
            row["round_trip_p95_mm"] = float(np.percentile(trip, 95))
        if len(matched_error := _finite(error[matched])):
            row["correct"] = float((matched_error <= CORRECT_WITHIN_MM).mean())
        rows[name] = {key: row[key] for key in REGION_FIGURES if key in row}
    return rows


def _finite(values: F64) -> F64:
    return values[np.isfinite(values)]


def _percentiles(name: str, values: F64) -> dict[str, float]:
    if not len(values):
        return {}
    median, high = np.percentile(values, [50, 95])
    return {f"{name}_median_mm": float(median), f"{name}_p95_mm": float(high)}


def landmark_rows(warp: Warp, template: HeadTemplate, given: Landmarks | None) -> list[dict[str, Any]]:
    """Return index and distance (mm) of each given landmark from where the warp has it, the farthest first."""
    coarse = known_template_vertices(warp, template)
    if given is None or coarse is None or given.scheme != "ibug68":
        return []
    found = template.landmarks(coarse)
    away = np.linalg.norm(found[given.indices] - given.points, axis=1) * MM_PER_M
    rows = [{"index": int(i), "mm": float(mm)} for i, mm in zip(given.indices, away, strict=True)]
    return sorted(rows, key=lambda row: -float(row["mm"]))
