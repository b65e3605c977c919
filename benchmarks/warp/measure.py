"""One case warped and measured against its truth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from benchmarks.warp.cases import Case
from benchmarks.warp.figures import CONFIDENT, Points, face_points, point_figures, tangential
from benchmarks.warp.peers import carried_to_template
from datagen.common.arrays import F64
from datagen.common.errors import CanonfaceError
from datagen.geometry.mesh import normalised
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.manifest import WarpConfig
from datagen.simulation.person import dense_template
from datagen.warp.fold_repair import find_defects
from datagen.warp.result import Warp
from datagen.warp.surface import Surface
from datagen.warp.template import WarpTemplate, prepare_template

MEMORY_SAMPLE_SECONDS = 0.05
GIB = 2**30


@dataclass(frozen=True)
class FrameMeasure:
    """What the warp made of one case.

    Attributes
    ----------
    case : Case
    warp : Warp or None
        None if the warp was refused.
    refusal : str
        Why, empty if it was not.
    seconds, cpu_seconds : float
        By the clock, and of all threads: on a busy machine only the second means much.
    points : Points
        Of all scan vertices; of a refused warp none has a counterpart.
    template_residual_mm : (Q,) float64
        Distance to the scan of the registered template's face vertices at triangles that carry confident scan
        vertices.
    floor, floor_canonical : Points, (N, 3) float64
        What the true template would have reached (the scan's noise, and detail that no template has), and the
        normalised coordinates it would have given.
    flips : int
        Triangles of the registered face turned against the surface around them.
    crossings : int
        Triangles of the registered face that pass through others, where those of the template do not.
    """

    case: Case
    warp: Warp | None
    refusal: str
    seconds: float
    cpu_seconds: float
    points: Points
    template_residual_mm: F64
    floor: Points
    floor_canonical: F64
    flips: int
    crossings: int

    def entry(self) -> dict[str, float | str]:
        """Return the case and its figures of the face, flat."""
        case, face = self.case, point_figures(face_points(self.points))
        return {
            "subject": case.subject,
            "frame": case.frame,
            "expression_strength": case.strength,
            "noise_mm": case.noise_mm,
            "scan_vertices": len(case.region),
            **{name: face[name] for name in ("median_mm", "p95_mm", "residual_median_mm", "coverage")},
            "flips": self.flips,
            "crossings": self.crossings,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "verdict": f"refused: {self.refusal}" if self.warp is None else self.warp.verdict.status,
        }


def measure_case(case: Case, head: HeadModel, config: WarpConfig, warp_case: Callable[[Case], Warp]) -> FrameMeasure:
    """Warp a case and measure the result; a refusal is a result too.

    Parameters
    ----------
    case : Case
    head : HeadModel
    config : WarpConfig
        The one ``warp_case`` uses.
    warp_case : callable
        Warps a case without looking at its truth.
    """
    template = prepare_template(head.template, config.subdivisions)
    floor, ideal = _floor(case, template)
    started, cpu_started = time.perf_counter(), time.process_time()
    try:
        warp = warp_case(case)
    except CanonfaceError as error:
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        nothing = np.full(len(case.region), np.nan)
        points = Points(nothing, nothing, np.zeros(len(nothing)), nothing, case.region)
        return FrameMeasure(case, None, str(error), seconds, cpu_seconds, points, np.zeros(0), floor, ideal, 0, 0)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    registered = Surface(warp.registered_vertices, warp.registered_faces)
    foot = registered.closest(case.scan.vertices)
    away = case.scan.vertices - foot.position
    points = _points(case, head.template, warp.space.metres(warp.canonical), warp.confidence, away)
    # Folds that no scanner sees (inside the lips, under the lids) have nothing to be compared with.
    counterpart = np.zeros(len(template.canonical_m), bool)
    counterpart[template.faces[foot.face[warp.confidence >= CONFIDENT]]] = True
    counterpart &= mask_of(template.regions, FACE_REGIONS)
    defects = find_defects(template, warp.registered_vertices)
    return FrameMeasure(
        case=case,
        warp=warp,
        refusal="",
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        points=points,
        template_residual_mm=template_residual_mm(warp.registered_vertices[counterpart], case),
        floor=floor,
        floor_canonical=ideal,
        flips=int(defects.flipped.sum()),
        crossings=int(defects.crossing.sum()),
    )


def _points(
    case: Case, template: HeadTemplate, canonical_m: F64, confidence: npt.NDArray[np.floating], away: F64
) -> Points:
    difference_m = canonical_m - template.space.metres(case.truth)
    return Points(
        error_mm=np.linalg.norm(difference_m, axis=1) * MM_PER_M,
        sliding_mm=tangential(difference_m, true_normals(case, template)) * MM_PER_M,
        confidence=np.asarray(confidence, np.float64),
        residual_mm=np.linalg.norm(away, axis=1) * MM_PER_M,
        region=case.region,
    )


def _floor(case: Case, template: WarpTemplate) -> tuple[Points, F64]:
    true = np.asarray(template.subdivide @ case.template_vertices)[template.skin]
    canonical_m = carried_to_template(case.scan, true, template)
    away = case.scan.vertices - Surface(true, template.fine.faces).closest(case.scan.vertices).position
    points = _points(case, template.head, canonical_m, np.ones(len(case.region)), away)
    return points, template.head.space.normalise(canonical_m)


def template_residual_mm(vertices: F64, case: Case) -> F64:
    """Distance of registered template vertices to the scan (Q,) mm, less those whose nearest place is its border."""
    scan = Surface(case.scan.vertices, case.scan.faces)
    foot = scan.closest(vertices)
    return (np.linalg.norm(vertices - foot.position, axis=1) * MM_PER_M)[~foot.on_border]


def true_normals(case: Case, template: HeadTemplate) -> F64:
    """Unit normals of the canonical surface at the true places of scan vertices, (N, 3) float64; 0 for strays."""
    out = np.zeros(case.truth.shape)
    known = case.region > 0
    _, index = _canonical_tree(template).query(template.space.metres(case.truth[known]))
    out[known] = normalised(dense_template(template).normals[index])
    return out


@lru_cache(maxsize=2)
def _canonical_tree(template: HeadTemplate) -> cKDTree:
    return cKDTree(dense_template(template).points)


class PeakMemory:
    """Watches the resident memory of this process while the block runs; ``gib`` is the most it held."""

    def __init__(self) -> None:
        self.gib = 0.0
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._watcher.join()

    def _watch(self) -> None:
        import psutil

        process = psutil.Process()
        while True:
            self.gib = max(self.gib, process.memory_info().rss / GIB)
            if self._stop.wait(MEMORY_SAMPLE_SECONDS):
                return
