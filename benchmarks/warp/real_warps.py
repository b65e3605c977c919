"""Hidden scans warped, and scans made wrong on purpose, whose warps nobody may believe."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.warp.cases import Case
from benchmarks.warp.figures import percentile
from benchmarks.warp.hidden import HiddenScan
from datagen.common.arrays import F64, Bools
from datagen.common.errors import InputError
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh, compact
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadModel
from datagen.manifest import WarpConfig
from datagen.sources.frame import Registration
from datagen.warp.engine import warp_frame
from datagen.warp.personal import SequencePrior

REFUSED = "refused"
ONE_OFF_MM, SEVERAL_OFF_MM, SEVERAL = 15.0, (10.0, 20.0), 6
# The iBUG landmark on the other side of the face.
OTHER_SIDE = np.array(
    [
        *range(16, -1, -1),
        *range(26, 16, -1),
        *(27, 28, 29, 30, 35, 34, 33, 32, 31),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
    ]
)


@dataclass(frozen=True, eq=False)
class HiddenWarp:
    """What the warp made of a hidden scan, by vertex of the hidden topology.

    Attributes
    ----------
    canonical_m : (N, 3) float64
        Metres; NaN where the scan has no counterpart, everywhere if the warp was refused.
    confidence : (N,) float64
    seconds, cpu_seconds : float
        By the clock, and of all threads.
    status : str
        The verdict's, or ``refused``.
    reasons : tuple of str
    metrics : dict of str to float
        Of the verdict.
    """

    canonical_m: F64
    confidence: F64
    seconds: float
    cpu_seconds: float
    status: str
    reasons: tuple[str, ...]
    metrics: dict[str, float]

    def entry(self, source: str, name: str, error_mm: F64) -> dict[str, Any]:
        """Return the warp with its error (N,) as plain data; a warp without any known error has none at all."""
        return {
            "source": source,
            "name": name,
            "median_mm": percentile(error_mm, 50),
            "p95_mm": percentile(error_mm, 95),
            "verdict": self.status,
            "reasons": list(self.reasons),
            "metrics": self.metrics,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }


@dataclass(frozen=True)
class Warper:
    """The engine with its head and settings.

    Attributes
    ----------
    head : HeadModel
    config : WarpConfig
    """

    head: HeadModel
    config: WarpConfig

    def warp(self, hidden: HiddenScan, vertices: int, prior: SequencePrior | None = None) -> HiddenWarp:
        """Warp a hidden scan of a topology of so many vertices; a refusal is a result too."""
        found = self._warped(hidden.scan, None, hidden.landmarks, prior)
        return replace(
            found,
            canonical_m=hidden.undone(found.canonical_m, vertices),
            confidence=hidden.undone(found.confidence, vertices),
        )

    def warp_case(self, case: Case) -> HiddenWarp:
        """Warp a simulated case, whose vertices are those of its scan."""
        return self._warped(case.scan, case.registration, case.landmarks, None)

    def _warped(
        self,
        scan: Mesh,
        registration: Registration | None,
        landmarks: Landmarks | None,
        prior: SequencePrior | None,
    ) -> HiddenWarp:
        canonical_m, confidence = np.full((len(scan.vertices), 3), np.nan), np.full(len(scan.vertices), np.nan)
        said: tuple[str, tuple[str, ...], dict[str, float]]
        started, cpu_started = time.perf_counter(), time.process_time()
        try:
            warp = warp_frame(scan, self.head, self.config, registration=registration, landmarks=landmarks, prior=prior)
            canonical_m, confidence = warp.space.metres(warp.canonical), warp.confidence.astype(np.float64)
            said = warp.verdict.status, warp.verdict.reasons, warp.verdict.metrics
        except InputError as error:
            said = REFUSED, (str(error),), {}
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        return HiddenWarp(canonical_m, confidence, seconds, cpu_seconds, *said)


def made_wrong(hidden: HiddenScan, left: Bools, rng: np.random.Generator) -> Iterator[tuple[str, HiddenScan]]:
    """Yield what is wrong, and a scan or landmarks made wrong so.

    Parameters
    ----------
    hidden : HiddenScan
    left : (N,) bool
        Vertices of the hidden topology on one side of the face.
    rng : numpy Generator
    """
    marks = hidden.landmarks
    yield "sides of the landmarks swapped", _with(hidden, Landmarks(OTHER_SIDE[marks.indices], marks.points))
    yield "one landmark 15 mm off", _with(hidden, _moved(marks, 1, (ONE_OFF_MM, ONE_OFF_MM), rng))
    yield "six landmarks 10 to 20 mm off", _with(hidden, _moved(marks, SEVERAL, SEVERAL_OFF_MM, rng))
    yield "half of the face cut away", _half(hidden, left)


def _with(hidden: HiddenScan, landmarks: Landmarks) -> HiddenScan:
    return HiddenScan(hidden.scan, landmarks, hidden.order)


def _moved(marks: Landmarks, count: int, by_mm: tuple[float, float], rng: np.random.Generator) -> Landmarks:
    points = marks.points.copy()
    chosen = rng.choice(len(points), min(count, len(points)), replace=False)
    towards = rng.normal(size=(len(chosen), 3))
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    points[chosen] += towards * rng.uniform(*by_mm, len(chosen))[:, None] / MM_PER_M
    return Landmarks(marks.indices, points, marks.scheme)


def _half(hidden: HiddenScan, left: Bools) -> HiddenScan:
    kept_faces = hidden.scan.faces[~left[hidden.order][hidden.scan.faces].any(axis=1)]
    scan, kept = compact(hidden.scan.vertices, kept_faces)
    marks = hidden.landmarks
    # Nobody marks what was not scanned.
    away = np.linalg.norm(marks.points[:, None] - scan.vertices, axis=2).min(axis=1)
    seen = away < 5 / MM_PER_M
    return HiddenScan(scan, Landmarks(marks.indices[seen], marks.points[seen], marks.scheme), hidden.order[kept])
