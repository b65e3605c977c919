"""Which samples are looked at together: runs of frames, cameras of one instant, pairs of subjects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation.tracking import MAX_WINDOW

Indices = npt.NDArray[np.int64]
LONGEST_RUN = MAX_WINDOW + 18  # long enough for every window from several starts, short enough to be held in memory


@dataclass(frozen=True)
class EvaluationOptions:
    """How much is measured; every draw follows the seed.

    Attributes
    ----------
    frames : int, optional
        Frames predicted together; the longest training clip by default.
    limit : int, optional
        Samples looked at, in evenly spread runs; all by default.
    queries : int
        Points compared a pair of views.
    region_queries : int
        At least so many of each region, where there are any.
    starts : int
        Frames of a run that are followed through it; more make the motion error more exact.
    instants, subject_pairs : int
        Groups of cameras and pairs of people looked at.
    geometry_views : int
        Views aligned and compared as surfaces.
    seed : int
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
    """Who, what and where of every sample of a split, (N,) integers in stored order."""

    subject: npt.NDArray[Any]
    sequence: npt.NDArray[Any]
    camera: npt.NDArray[Any]
    frame: npt.NDArray[Any]


def runs_of_frames(table: SampleTable, limit: int | None = None) -> list[Indices]:
    """Cut a split into runs of equally spaced frames of one camera, of at most ``LONGEST_RUN``; every sample is in one.

    With ``limit``, only evenly spread runs with about so many samples in all.
    """
    keys = np.stack([table.subject, table.sequence, table.camera], 1)
    if not len(keys):
        return []
    new = np.flatnonzero(np.any(np.diff(keys, axis=0) != 0, axis=1)) + 1
    runs: list[Indices] = []
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


def instants_of_views(table: SampleTable, cameras: int, count: int, rng: np.random.Generator) -> list[Indices]:
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
