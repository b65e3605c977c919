"""One view as the evaluation sees it, and which views are measured together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64, I64
from datagen.shards import Dataset
from trainer.evaluation.cameras import rigid_inverse, transform, unproject
from trainer.evaluation.tracking import MAX_WINDOW
from trainer.inference import Maps

TRUTH_ARRAYS = (
    "image", "depth", "canonical", "normal", "confidence", "region", "edge",
    "intrinsics", "world_to_camera", "head_to_world",
)  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """The stored maps of one view.

    Attributes
    ----------
    image : (3, H, W) uint8
    depth_m : (H, W)
        0 = no surface.
    canonical_m : (3, H, W)
        Canonical coordinate in metres: normalised × half extent, from the space's centre.
    normal : (3, H, W) camera axes
    confidence : (H, W)
        Above 0 where canonical is known.
    region : (H, W) uint8
    edge : (H, W) bool
    intrinsics : (3, 3)
    world_to_camera, head_to_world : (4, 4)
    """

    image: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]
    canonical_m: npt.NDArray[np.float32]
    normal: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    region: npt.NDArray[np.uint8]
    edge: npt.NDArray[np.bool_]
    intrinsics: npt.NDArray[np.float32]
    world_to_camera: npt.NDArray[np.float32]
    head_to_world: npt.NDArray[np.float32]

    @classmethod
    def of(cls, maps: Mapping[str, npt.NDArray[Any]], k: int, half_extent_m: float) -> Truth:
        """Take view ``k`` of arrays read from a split (``TRUTH_ARRAYS``)."""
        one = {name: maps[name][k] for name in TRUTH_ARRAYS}
        one["depth_m"] = one.pop("depth")
        one["canonical_m"] = one.pop("canonical") * np.float32(half_extent_m)
        one["edge"] = one["edge"].astype(bool)
        return cls(**one)

    @cached_property
    def surface(self) -> npt.NDArray[np.bool_]:
        """Where there is a surface, (H, W)."""
        return self.depth_m > 0

    @cached_property
    def known(self) -> npt.NDArray[np.bool_]:
        """Where the canonical coordinate is known, (H, W)."""
        return (self.confidence > 0) & self.surface

    @cached_property
    def points(self) -> F64:
        """Points in camera axes, (3, H, W) metres."""
        return unproject(self.depth_m, self.intrinsics)


# Whether a method's canonical maps are of the dataset's space, of one of their own, or none.
Space = Literal["shared", "own", "none"]


@dataclass(frozen=True)
class View:
    """A method's maps of one view, beside the truth.

    Attributes
    ----------
    depth_m : (H, W)
        As predicted.
    canonical_m : (3, H, W)
    depth_confidence, canonical_confidence, surface : (H, W), or None for a method that gives none
        ``surface`` is the probability of showing the head.
    space : Space
        Of ``canonical_m``: coordinates of a space of its own, in any unit, are only compared with each other, and NaN
        stands where there are none.
    """

    truth: Truth
    depth_m: npt.NDArray[np.float32]
    canonical_m: npt.NDArray[np.float32]
    depth_confidence: npt.NDArray[np.float32] | None = None
    canonical_confidence: npt.NDArray[np.float32] | None = None
    surface: npt.NDArray[np.float32] | None = None
    space: Space = "shared"

    @cached_property
    def scaled_depth_m(self) -> F64:
        """Depth times the ratio of the true to the predicted median over the true surface: distance is forgiven."""
        on = self.truth.surface
        if not on.any():
            return self.depth_m.astype(np.float64)
        ratio = float(np.median(self.truth.depth_m[on])) / max(float(np.median(self.depth_m[on])), 1e-9)
        return self.depth_m.astype(np.float64) * ratio

    @cached_property
    def points(self) -> F64:
        """Points of ``scaled_depth_m`` in camera axes, (3, H, W) metres."""
        return unproject(self.scaled_depth_m, self.truth.intrinsics)

    @property
    def world_points(self) -> F64:
        """``points`` in world axes by the true camera, (3, H, W)."""
        return transform(rigid_inverse(self.truth.world_to_camera), self.points)

    @property
    def head_points(self) -> F64:
        """``points`` in head axes by the true camera and the true head pose, (3, H, W)."""
        return transform(rigid_inverse(self.truth.head_to_world), self.world_points)


LONGEST_RUN = MAX_WINDOW + 18  # long enough for every window from several starts, short enough to be held in memory


def views_of(maps: Mapping[str, npt.NDArray[Any]], predicted: Maps, dataset: Dataset) -> list[View]:
    """Return what a network says of samples, beside their truth (arrays :data:`TRUTH_ARRAYS` of a split)."""
    unit = np.float32(dataset.half_extent_m)
    return [
        View(
            Truth.of(maps, k, dataset.half_extent_m),
            p.depth_m,
            p.canonical * unit,
            p.depth_confidence,
            p.canonical_confidence,
            p.surface,
        )
        for k, p in enumerate(predicted.frames())
    ]


@dataclass(frozen=True)
class EvaluationOptions:
    """How much is measured; every draw follows the seed.

    Attributes
    ----------
    frames : int, optional
        Frames predicted together; the longest training clip by default.
    limit : int, optional
        About how many samples are measured, in evenly spread runs; all by default.
    queries : int
        Points compared per pair of views.
    region_queries : int
        At least this many in each region, as far as it has them.
    starts : int
        Frames of a run that are followed through it; more make the motion error more exact.
    instants, subject_pairs : int
        Groups of cameras and pairs of people that are measured.
    geometry_views : int
        Views aligned and compared as surfaces.
    """

    frames: int | None = None
    limit: int | None = None
    queries: int = 400
    region_queries: int = 40
    starts: int = 4
    instants: int = 12
    subject_pairs: int = 24
    geometry_views: int = 24
    seed: int = 0


@dataclass(frozen=True)
class SampleTable:
    """The subject, sequence, frame and camera of every sample of a split, (N,) integers in stored order."""

    subject: npt.NDArray[Any]
    sequence: npt.NDArray[Any]
    camera: npt.NDArray[Any]
    frame: npt.NDArray[Any]


def runs_of_frames(table: SampleTable, limit: int | None = None) -> list[I64]:
    """Cut a split into runs of equally spaced frames of one camera, of at most ``LONGEST_RUN``; every sample is in one.

    With ``limit``, only evenly spread runs with about that many samples in all.
    """
    keys = np.stack([table.subject, table.sequence, table.camera], 1)
    if not len(keys):
        return []
    new = np.flatnonzero(np.any(np.diff(keys, axis=0) != 0, axis=1)) + 1
    runs: list[I64] = []
    for whole in np.split(np.arange(len(keys), dtype=np.int64), new):
        steps = np.diff(table.frame[whole])
        gaps = np.flatnonzero(steps != steps.min()) + 1 if len(steps) else np.zeros(0, np.int64)
        for part in np.split(whole, gaps):
            runs += [part[k : k + LONGEST_RUN] for k in range(0, len(part), LONGEST_RUN)]
    if limit is None or sum(len(r) for r in runs) <= limit:
        return runs
    count = max(round(limit * len(runs) / sum(len(r) for r in runs)), 1)
    chosen = [runs[k] for k in np.unique(np.linspace(0, len(runs) - 1, count).round().astype(int))]
    return [run[:limit] for run in chosen]


def instants_of_views(table: SampleTable, cameras: int, count: int, rng: np.random.Generator) -> list[I64]:
    """Draw up to ``count`` instants seen by two cameras or more, and up to ``cameras`` of those at each."""
    keys = np.stack([table.subject, table.sequence, table.frame], 1)
    order = np.lexsort(keys.T[::-1]).astype(np.int64)
    new = np.flatnonzero(np.any(np.diff(keys[order], axis=0) != 0, axis=1)) + 1
    groups = [group for group in np.split(order, new) if len(group) > 1]
    chosen = rng.permutation(len(groups))[:count]
    return [np.sort(rng.permutation(groups[k])[: max(cameras, 2)]) for k in chosen.tolist()]


def pairs_of_subjects(table: SampleTable, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draw up to ``count`` pairs of samples of two subjects, seen by the same camera where there is such a pair."""
    subjects = np.unique(table.subject)
    pairs: list[tuple[int, int]] = []
    for _ in range(count if len(subjects) > 1 else 0):
        one, other = rng.permutation(subjects)[:2]
        a = int(rng.choice(np.flatnonzero(table.subject == one)))
        candidates = np.flatnonzero(table.subject == other)
        same = candidates[table.camera[candidates] == table.camera[a]]
        pairs.append((a, int(rng.choice(same if len(same) else candidates))))
    return pairs
