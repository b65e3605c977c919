"""A head model brought onto a face that others marked, by its surface more than by its marks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from benchmarks.marks.sources import Person
from datagen.common.arrays import F64
from datagen.geometry.mesh import weld
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.heads.regions import INTERIOR_REGIONS, mask_of
from datagen.warp.posterior import PointEvidence, fit_shape
from datagen.warp.shape_model import model_shape
from datagen.warp.similarity import fit_similarity_robust
from datagen.warp.start import LANDMARK_ROUNDS
from datagen.warp.surface import Surface
from datagen.warp.template import prepare_template

# Marks hold the face from sliding as a whole; where along itself it lies, its shape says.
LOOSE_M = 4e-3


@dataclass(frozen=True, eq=False)
class Marks:
    """Points on a template's triangles.

    Attributes
    ----------
    faces : (68,) int32
    barycentric : (68, 3) float64
    """

    faces: npt.NDArray[np.int32]
    barycentric: F64

    @classmethod
    def of(cls, template: HeadTemplate) -> Marks:
        """Return a template's own."""
        return cls(template.landmark_faces, template.landmark_barycentric)

    def on(self, template: HeadTemplate, vertices: F64 | None = None) -> F64:
        """Return the points (68, 3) on ``vertices`` (V, 3), by default the template's own."""
        v = template.vertices if vertices is None else vertices
        return np.asarray(np.einsum("lc,lcd->ld", self.barycentric, v[template.faces[self.faces]]))

    def operator(self, template: HeadTemplate, indices: npt.NDArray[np.int64]) -> sp.csr_matrix:
        """Return the (L, V) weights of the template's vertices in the marks ``indices``."""
        rows = np.repeat(np.arange(len(indices)), 3)
        corners = template.faces[self.faces[indices]].ravel()
        shape = (len(indices), len(template.vertices))
        return sp.csr_matrix((self.barycentric[indices].ravel(), (rows, corners)), shape=shape)


def skin_surface(
    template: HeadTemplate, vertices: F64, without: tuple[str, ...] = ()
) -> tuple[Surface, npt.NDArray[np.int64]]:
    """Return the skin as a surface of ``vertices``, and the template's triangle of each of its triangles."""
    inside = mask_of(template.regions, INTERIOR_REGIONS + without)
    kept = np.flatnonzero(~inside[template.faces].any(axis=1))
    return Surface(vertices, template.faces[kept]), kept


def carried_marks(head: HeadModel, person: Person, marks: Marks, fold: npt.NDArray[np.int64]) -> F64:
    """Return where the person's landmarks lie on the neutral template, (L, 3) metres, row for row of ``person``.

    Each landmark is carried by a registration that never saw it, nor the others of its fold.

    Parameters
    ----------
    fold : (68,) int64
        Which registration leaves a landmark out.
    """
    given = person.landmarks
    result = np.full((len(given.indices), 3), np.nan)
    mesh, _ = weld(person.mesh)
    surface = Surface(mesh.vertices, mesh.faces)
    for number in np.unique(fold[given.indices]):
        left_out = fold[given.indices] == number
        fitted = fitted_vertices(head, surface, marks, given.indices[~left_out], given.points[~left_out])
        skin, kept = skin_surface(head.template, fitted)
        hit = skin.closest(given.points[left_out])
        neutral = head.template.vertices[head.template.faces[kept[hit.face]]]
        result[left_out] = np.einsum("lc,lcd->ld", hit.barycentric, neutral)
    return result


def fitted_vertices(
    head: HeadModel, surface: Surface, marks: Marks, indices: npt.NDArray[np.int64], points: F64
) -> F64:
    """Return the head's vertices (V, 3) metres on a neutral face, held loosely by landmarks (L, 3)."""
    template = prepare_template(head.template)
    whole = model_shape(head, template)
    people = slice(whole.n_identity)
    # About the template itself: the typical face was found with the help of these marks.
    shape = replace(
        whole,
        base=head.template.vertices,
        blend=whole.blend[people],
        sigma=whole.sigma[people],
        lower=whole.lower[people],
        upper=whole.upper[people],
    )
    pose = fit_similarity_robust(marks.on(head.template)[indices], points)
    smooth = template.subdivide[: len(head.template.vertices)]
    evidence = PointEvidence((marks.operator(head.template, indices) @ smooth).tocsr(), points, (LOOSE_M, LOOSE_M))
    fit = fit_shape(template, shape, pose, LANDMARK_ROUNDS, surface, [evidence])
    return np.asarray(smooth @ fit.vertices)
