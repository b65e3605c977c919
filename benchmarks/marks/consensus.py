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
EYES = np.arange(36, 48)
# The edges of Anny's right lids from the outer to the inner corner, by vertex; the left ones mirror them.
UPPER_LID = np.array([1357, 1356, 1355, 1354, 1353, 1352, 1370, 1371, 1372, 1377, 1373, 1374])
LOWER_LID = np.array([999, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1016])
FLIP = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Opinion:
    """Where one source's people have the landmarks on a neutral template, (N, 68, 3) metres; NaN where not marked."""

    name: str
    people: F64

    @property
    def symmetric(self) -> F64:
        """Each person averaged with its mirror image, (N, 68, 3)."""
        return np.asarray((self.people + self.people[:, MIRROR] * FLIP) / 2)

    @property
    def mean(self) -> F64:
        """Mean of the people and their mirror images, (68, 3)."""
        return np.asarray(self.symmetric.mean(axis=0))


def folds() -> npt.NDArray[np.int64]:
    """Return which registration leaves each landmark out, (68,): mirror partners together, neighbours apart."""
    pair = np.minimum(np.arange(COUNT), MIRROR)
    return np.asarray(np.unique(pair, return_inverse=True)[1] % FOLDS, np.int64)


def opinions(head: HeadModel, sources: Sequence[Source], marks: Marks) -> tuple[Opinion, ...]:
    """Carry every source's landmarks to the head's neutral template; a head's own file needs no registration."""
    result = []
    for source in sources:
        rows = np.full((len(source.people), COUNT, 3), np.nan)
        for row, person in zip(rows, source.people, strict=True):
            given = person.landmarks
            own = source.name == head.template.name
            row[given.indices] = given.points if own else carried_marks(head, person, marks, folds())
        result.append(Opinion(source.name, rows))
    return tuple(result)


def consensus(given: Sequence[Opinion]) -> F64:
    """Return the robust mean (68, 3) metres: a source counts once, one that stands alone counts less (Huber)."""
    values = np.stack([opinion.mean for opinion in given])
    weight = np.array([1 / (DEFINITION_M**2 + PERSON_M**2 / len(opinion.people)) for opinion in given])
    base = np.where(np.isfinite(values).all(axis=2), weight[:, None], 0.0)
    values = np.nan_to_num(values)
    share = base
    for _ in range(IRLS_ROUNDS):
        centre = np.einsum("sl,sld->ld", share, values) / np.maximum(share.sum(axis=0), 1e-9)[:, None]
        away = np.linalg.norm(values - centre, axis=2)
        share = base * np.minimum(1.0, HUBER_M / np.maximum(away, 1e-9))
    return np.asarray(np.where(base.any(axis=0)[:, None], centre, np.nan))


def placed(template: HeadTemplate, points: F64) -> Marks:
    """Return points (68, 3) brought onto the neutral skin, none of them onto the other lip."""
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


def lid_shares(sources: Sequence[Source]) -> dict[int, float]:
    """Return how far along the line between the eye's corners hands mark the lids, by the right eye's index."""
    return {index: float(np.mean([_share(source, index) for source in sources])) for index in (37, 38, 40, 41)}


def _share(source: Source, index: int) -> float:
    shares = []
    for person in source.people:
        at = dict(zip(person.landmarks.indices.tolist(), person.landmarks.points, strict=True))
        for lid, outer, inner in ((index, 36, 39), (int(MIRROR[index]), 45, 42)):
            line = at[inner] - at[outer]
            shares.append((at[lid] - at[outer]) @ line / (line @ line))
    return float(np.mean(shares))


def slid_along_lids(template: HeadTemplate, points: F64, shares: dict[int, float]) -> F64:
    """Return Anny's landmarks (68, 3) with those of the lids slid along the lids' edges to the given shares."""
    moved = points.copy()
    line = points[39] - points[36]
    for index, share in shares.items():
        edge = template.vertices[UPPER_LID if index < 40 else LOWER_LID]
        along = (edge - points[36]) @ line / (line @ line)
        own = float((points[index] - points[36]) @ line / (line @ line))
        here, there = (np.array([np.interp(s, along, edge[:, k]) for k in range(3)]) for s in (own, share))
        moved[index] = points[index] + there - here
        moved[MIRROR[index]] = moved[index] * FLIP
    return moved
