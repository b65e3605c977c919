"""A known person brought onto one frame, and how well that agrees with the frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datagen.common.arrays import F64
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.warp.personal import SequencePrior, personal_shape
from datagen.warp.posterior import PointEvidence, Round, ShapeFit, annealed, fit_shape, landmark_evidence
from datagen.warp.shape_model import observed_vertices
from datagen.warp.similarity import Similarity, fit_similarity_robust
from datagen.warp.surface import Surface
from datagen.warp.template import WarpTemplate

# A tracker's vertices err together: each of this many tells little by itself.
TRACKED_POINTS = 60
# With fewer that are known and not guessed, a tracker says nothing of the pose.
FEWEST_TRACKED = 12
TRACKED_SIGMA_M = (4e-3, 8e-3)
# Three times as many gated rounds, or tighter ones, change no millimetre's hundredth.
PERSONAL_ROUNDS = (Round(None),) * 2 + annealed(5, (0.02, 0.005), (0.008, 0.002), (2e-3, 0.25e-3))
# The scan farther away than this is no part of the face, or none that was seen.
SEEN_WITHIN_M = 0.01


def fit_person(
    head: HeadModel,
    template: WarpTemplate,
    prior: SequencePrior,
    surface: Surface,
    tracked: F64 | None,
    trust: F64 | None,
    landmarks: Landmarks | None,
    *,
    pixels: Sequence[PixelEvidence] = (),
    pose: Similarity | None = None,
    weigh: bool = False,
) -> ShapeFit | None:
    """Return the most probable pose and expression of a known person, or None if nothing says where the head is.

    Parameters
    ----------
    surface : Surface
        The scan.
    tracked : (V, 3) float64 or None
        A tracker's vertices, metres, scan frame.
    trust : (V,) float64 or None
        Of the tracker's vertices; 0 where they are guessed.
    landmarks : Landmarks or None
        Scan frame.
    pixels : sequence of PixelEvidence
        Where points of the template were seen in pictures.
    pose : Similarity or None
        Of the head model, where pictures alone place it.
    weigh : bool
        Count the coefficients that the frame determines.
    """
    points = []
    if tracked is not None:
        seen = template.coarse_skin[observed_vertices(template)]
        if trust is not None:
            # None that depends on a guessed vertex.
            seen = seen[template.subdivide[seen] @ (trust <= 0).astype(np.float64) == 0]
        rows = template.subdivide[seen[:: max(1, len(seen) // TRACKED_POINTS)]]
        if len(seen) >= FEWEST_TRACKED:
            known = PointEvidence(rows, rows @ tracked, TRACKED_SIGMA_M, TRACKED_SIGMA_M[0], source="registration")
            points.append(known)
    if landmarks is not None:
        points.append(landmark_evidence(template, landmarks))
    if points:
        first = points[0]
        pose = fit_similarity_robust(first.operator @ prior.neutral, first.position, with_scale=False)
    elif pose is not None:
        pose = _without_size(head.template.vertices, prior.neutral, pose)
    else:
        return None
    if landmarks is not None and prior.marks is not None:
        points[-1] = prior.marks.evidence(template, landmarks, pose.rotation, pose.scale)
    shape = personal_shape(head, template, prior)
    return fit_shape(template, shape, pose, PERSONAL_ROUNDS, surface, points, pixels=pixels, weigh=weigh)


def _without_size(model: F64, neutral: F64, pose: Similarity) -> Similarity:
    """Return the rigid motion of a person's neutral that lies where a similarity puts the model's."""
    return fit_similarity_robust(neutral, pose.apply(model), with_scale=False)


def disagreement_m(
    template: WarpTemplate, prior: SequencePrior, vertices: F64, surface: Surface, landmarks: Landmarks | None
) -> F64:
    """Return how far the face (median) and the landmarks (median) lie from a frame's, (2,) float64 metres.

    Landmarks count at their places on this person. Without landmarks, or where no face was seen, NaN.

    Parameters
    ----------
    vertices : (V, 3) float64
        Control vertices, scan frame, metres.
    """
    face = mask_of(template.coarse.regions, FACE_REGIONS) & template.coarse.attract
    seen = observed_vertices(template)
    points = template.subdivide[template.coarse_skin[seen[face[seen]]]] @ vertices
    hit = surface.closest(points)
    apart = hit.position - points
    held = ~hit.on_border & (np.linalg.norm(apart, axis=1) < SEEN_WITHIN_M)
    height = np.abs(np.einsum("nd,nd->n", apart, hit.normal))[held]
    result = np.full(2, np.nan)
    if len(height):
        result[0] = np.median(height)
    if landmarks is not None:
        rotation = fit_similarity_robust(prior.neutral, vertices, with_scale=False).rotation
        known = (
            landmark_evidence(template, landmarks)
            if prior.marks is None
            else prior.marks.evidence(template, landmarks, rotation, 1.0)
        )
        result[1] = np.median(np.linalg.norm(known.operator @ vertices - known.position, axis=1))
    return result


def score(disagreement: F64, usual: F64) -> float:
    """Return the mean square of a frame's disagreements, each as a multiple of the usual one; NaNs do not count."""
    both = np.isfinite(disagreement) & np.isfinite(usual)
    return float(((disagreement[both] / usual[both]) ** 2).mean()) if both.any() else 0.0
