"""How people differ, carried from a model of scans into another head's topology."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from datagen.common.arrays import F64, Bools
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.heads.base import HeadModel, LinearHead
from datagen.heads.population import SAME_M
from datagen.heads.regions import FACE_REGIONS, INTERIOR_REGIONS, mask_of
from datagen.heads.typical import MIRROR
from datagen.manifest import WarpConfig
from datagen.warp.engine import register_frame
from datagen.warp.shape_model import farthest_points
from datagen.warp.similarity import fit_similarity
from datagen.warp.surface import Surface
from datagen.warp.template import prepare_template

COMPONENTS = 48
FACE_POINTS, OTHER_POINTS = 280, 90
# Vertices that lie farther from the model's skin, registered to it, are none of its people's.
FARTHEST_M = 3e-3
STEPS = 127  # the largest of what one byte holds


def learn_population(head: HeadModel, people: LinearHead) -> tuple[dict[str, Any], dict[str, float]]:
    """Return what ``datagen/heads/data/NAME_population.npz`` holds, and figures of it.

    The head is registered to the model's mean with its landmarks. A component of the model, or the mirror image of one,
    then moves each vertex as it moves the point of the model's skin where the vertex lies. Principal components of both
    together are kept.

    Parameters
    ----------
    people : LinearHead
        Whose identity modes have N(0, 1) factors.
    """
    template = head.template
    modes, near = _carried(head, people)
    # A few of a head's vertices may have no mirror image.
    apart, other = cKDTree(template.vertices).query(template.vertices * MIRROR)
    near &= near[other] & (apart < SAME_M)
    face = mask_of(template.regions, FACE_REGIONS) & near
    symmetric = (modes + MIRROR * modes[:, other]) / 2, (modes - MIRROR * modes[:, other]) / 2
    found: list[tuple[float, int, F64]] = []
    for parity, part in zip((1, -1), symmetric, strict=True):
        # Of the mean of a component's covariance and its mirror image's: the even and the odd halves, each by itself.
        mixed, size, _ = np.linalg.svd(part[:, face].reshape(len(part), -1), full_matrices=False)
        found += [(float(s), parity, np.tensordot(row, part, 1)) for s, row in zip(size, mixed.T, strict=True)]
    found.sort(key=lambda one: -one[0])
    chosen = found[:COMPONENTS]
    skin = np.zeros(len(face), bool)
    skin[prepare_template(template).coarse_skin] = True
    left = skin & near & (template.vertices[:, 0] > -SAME_M)
    parts = ((np.flatnonzero(left & face), FACE_POINTS), (np.flatnonzero(left & ~face), OTHER_POINTS))
    points = np.concatenate([where[farthest_points(template.vertices[where], count)] for where, count in parts])
    stored = np.stack([mode[points] for _, _, mode in chosen])
    step_m = np.abs(stored).max(axis=(1, 2)) / STEPS
    variance = np.array([s**2 for s, _, _ in found])
    content = {
        "template": np.array(template.digest),
        "vertices": points.astype(np.int32),
        "parity": np.array([parity for _, parity, _ in chosen], np.int8),
        "step_m": step_m.astype(np.float32),
        "modes": np.round(stored / step_m[:, None, None]).astype(np.int8),
    }
    figures = {
        "components": float(len(chosen)),
        "share_of_variance": float(variance[:COMPONENTS].sum() / variance.sum()),
        "face_rms_mm": float(1e3 * np.sqrt(variance.sum() / face.sum())),
    }
    return content, figures


def _carried(head: HeadModel, people: LinearHead) -> tuple[F64, Bools]:
    """Return the model's components (K, V, 3) metres at the head's vertices, and which of these lie on its skin."""
    template, mean = head.template, people.template
    faces = mean.faces[~mask_of(mean.regions, INTERIOR_REGIONS)[mean.faces].any(axis=1)]
    marks = Landmarks(np.arange(len(mean.landmarks())), mean.landmarks())
    mesh = Mesh.of(mean.vertices, faces)
    vertices = register_frame(mesh, head, WarpConfig(), landmarks=marks).vertices[: len(template.vertices)]
    hit = Surface(mean.vertices, faces).closest(vertices)
    moved = np.einsum("nc,kncd->knd", hit.barycentric, people.identity_modes.astype(np.float64)[:, faces[hit.face]])
    face = mask_of(template.regions, FACE_REGIONS)
    back = fit_similarity(vertices[face], template.vertices[face])
    near = np.linalg.norm(hit.position - vertices, axis=1) < FARTHEST_M
    return np.asarray(back.scale * moved @ back.rotation.T), near
