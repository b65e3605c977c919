"""Where one person's landmarks lie: not quite where the template is marked, but in the same place in all frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from datagen.common.arrays import F64, I64
from datagen.geometry.landmarks import Landmarks
from datagen.warp.correspond import regions_compatible
from datagen.warp.posterior import LANDMARK_SIGMA_M, PointEvidence, ShapeFit, landmark_evidence
from datagen.warp.similarity import fit_similarity
from datagen.warp.surface import Surface
from datagen.warp.template import WarpTemplate, vertex_rotations

# Fewer frames say little of where a landmark usually is.
FEWEST_SIGHTINGS = 3
# A landmark's place is looked for this near its mark, on the neutral template.
REACH_M = 0.025
# Median length of a unit normal 3-vector.
MEDIAN_LENGTH = 1.538
SIGMA_RANGE_M = (0.15e-3, 2.5e-3)


@dataclass(frozen=True, eq=False)
class PersonalMarks:
    """Places of one person's landmarks on the fine template.

    Attributes
    ----------
    indices : (L,) int64
        Increasing.
    faces : (L,) int64
        Fine triangle that carries each.
    barycentric : (L, 3) float64
    offset_m : (L, 3) float64
        From there to the landmark, in the axes of the person's neutral, metres.
    sigma_m : float
        Standard deviation of each coordinate from frame to frame.
    """

    indices: I64
    faces: I64
    barycentric: F64
    offset_m: F64
    sigma_m: float

    def evidence(self, template: WarpTemplate, landmarks: Landmarks, rotation: F64, scale: float) -> PointEvidence:
        """Return a frame's landmarks as evidence, each at its place on this person, or else at the template's mark.

        Parameters
        ----------
        rotation : (3, 3) float64
            Axes of the neutral to the frame's.
        scale : float
            Size of the neutral in the frame.
        """
        given = landmark_evidence(template, landmarks)
        known, where = self._known(landmarks)
        rows = self.operator(template)[where]
        operator = sp.vstack([given.operator[~known], rows]).tocsr()
        moved = landmarks.points[known] - scale * self.offset_m[where] @ rotation.T
        return PointEvidence(
            operator,
            np.concatenate([landmarks.points[~known], moved]),
            (self.sigma_m, LANDMARK_SIGMA_M[1]),
            self.sigma_m,
        )

    def distance_m(self, template: WarpTemplate, vertices: F64, landmarks: Landmarks) -> F64:
        """Return how far landmarks lie from their places, or else the marks, on fine vertices (M, 3), (L,) metres."""
        at = landmark_points(template, vertices, landmarks.indices)
        pose = fit_similarity(template.canonical_m[template.skin], vertices[template.skin])
        known, where = self._known(landmarks)
        places = np.einsum("lc,lcd->ld", self.barycentric, vertices[template.faces[self.faces]])
        at[known] = places[where] + self.offset_m[where] @ pose.rotation.T
        return np.asarray(np.linalg.norm(at - landmarks.points, axis=1))

    def operator(self, template: WarpTemplate) -> sp.csr_matrix:
        """Return the operator (L, V) from control vertices to the places."""
        corners = template.faces[self.faces].ravel()
        rows = np.repeat(np.arange(len(self.faces)), 3)
        shape = (len(self.faces), len(template.canonical_m))
        on_fine = sp.csr_matrix((self.barycentric.ravel(), (rows, corners)), shape=shape)
        return (on_fine @ template.subdivide).tocsr()

    def seen_again(self, template: WarpTemplate, frames: Sequence[tuple[Landmarks, ShapeFit]]) -> PersonalMarks:
        """Return these with what is left between places and landmarks when the person is fitted to frames.

        What is left in all frames is an offset (a lid's corner lies deeper than a neutral's). The scatter is what is
        left over, plus what the fits do not know of the places.
        """
        operator = self.operator(template)
        away: dict[int, list[F64]] = {int(k): [] for k in self.indices}
        unsure = []
        for landmarks, fit in frames:
            known, where = self._known(landmarks)
            apart = landmarks.points[known] - operator[where] @ fit.vertices
            turned = apart @ fit.similarity.rotation / fit.similarity.scale
            for index, offset in zip(landmarks.indices[known].tolist(), turned, strict=True):
                away[index].append(offset)
            at = template.faces[self.faces[where]]
            unsure.append((fit.spread_m[at] * self.barycentric[where]).sum(axis=1) ** 2 / 3)
        typical = np.array([np.median(away[int(k)] or [np.zeros(3)], axis=0) for k in self.indices])
        rest = [
            np.linalg.norm(np.reshape(away[int(k)], (-1, 3)) - m, axis=1)
            for k, m in zip(self.indices, typical, strict=True)
        ]
        variance = (np.median(np.concatenate(rest)) / MEDIAN_LENGTH) ** 2 + np.median(np.concatenate(unsure))
        sigma = float(np.clip(np.sqrt(variance), *SIGMA_RANGE_M))
        return replace(self, offset_m=typical, sigma_m=sigma)

    def _known(self, landmarks: Landmarks) -> tuple[npt.NDArray[np.bool_], I64]:
        known = np.isin(landmarks.indices, self.indices)
        return known, np.searchsorted(self.indices, landmarks.indices[known])


def learn_places(template: WarpTemplate, frames: Sequence[tuple[F64, Landmarks]]) -> PersonalMarks | None:
    """Find the places of a person's landmarks from frames registered one by one.

    A landmark's distance from its mark, turned back with the skin around it, has the same median over frames: what a
    person and an annotator call the end of a brow. On the neutral template, the nearest skin there is its place.

    Parameters
    ----------
    frames : sequence of ((M, 3) float64, Landmarks)
        Fine vertices and landmarks of each frame, metres.

    Returns
    -------
    PersonalMarks or None
        None if no landmark was given in three frames.
    """
    away: dict[int, list[F64]] = {}
    for vertices, given in frames:
        for index, offset in zip(given.indices.tolist(), _turned_back(template, vertices, given), strict=True):
            away.setdefault(index, []).append(offset)
    indices = np.array(sorted(k for k, seen in away.items() if len(seen) >= FEWEST_SIGHTINGS), np.int64)
    if not len(indices):
        return None
    typical = np.array([np.median(away[int(k)], axis=0) for k in indices])
    scatter = np.concatenate([np.linalg.norm(away[int(k)] - m, axis=1) for k, m in zip(indices, typical, strict=True)])
    faces, barycentric = _nearest_skin(template, indices, typical)
    sigma = float(np.clip(np.median(scatter) / MEDIAN_LENGTH, *SIGMA_RANGE_M))
    return PersonalMarks(indices, faces, barycentric, np.zeros((len(indices), 3)), sigma)


def _turned_back(template: WarpTemplate, vertices: F64, landmarks: Landmarks) -> F64:
    """Return from each mark to its landmark (L, 3), metres, in the axes of the neutral template."""
    level, skin = template.coarse, template.coarse_skin
    turns = vertex_rotations(level.edges, level.edge_weights, level.rest, vertices[skin])
    place = np.zeros(len(template.head.vertices), np.int64)
    place[skin] = np.arange(len(skin))
    apart = landmarks.points - landmark_points(template, vertices, landmarks.indices)
    return np.einsum("lij,li->lj", turns[place[_heaviest(template, landmarks.indices)]], apart)


def landmark_points(template: WarpTemplate, vertices: F64, indices: I64) -> F64:
    """Return the marks (L, 3) on fine vertices (M, 3), metres."""
    return np.asarray(template.landmark_matrix(indices) @ vertices[: len(template.head.vertices)])


def _heaviest(template: WarpTemplate, indices: I64) -> I64:
    head = template.head
    corner = head.landmark_barycentric[indices].argmax(axis=1)
    return np.asarray(head.faces[head.landmark_faces[indices], corner], np.int64)


def _nearest_skin(template: WarpTemplate, indices: I64, offset: F64) -> tuple[I64, F64]:
    """Return fine triangles (L,) and barycentric weights (L, 3) of the skin nearest to marks plus offsets (L, 3)."""
    marks = landmark_points(template, template.canonical_m, indices)
    is_skin = np.zeros(len(template.canonical_m), bool)
    is_skin[template.skin] = True
    skin = is_skin[template.faces].all(axis=1)
    middle = template.canonical_m[template.faces].mean(axis=1)
    region = template.regions[template.faces[:, 0]]
    own = template.head.regions[_heaviest(template, indices)]
    faces = np.empty(len(indices), np.int64)
    barycentric = np.empty((len(indices), 3))
    for k, mark in enumerate(marks):
        # Never the other lip, however near it is.
        allowed = skin & regions_compatible(region, np.full(len(region), own[k]))
        distance = np.linalg.norm(middle - mark, axis=1)
        near = np.flatnonzero(allowed & (distance < max(REACH_M, float(distance[allowed].min()) * 2)))
        hit = Surface(template.canonical_m, template.faces[near]).closest((mark + offset[k])[None])
        faces[k], barycentric[k] = near[hit.face[0]], hit.barycentric[0]
    return faces, barycentric
