"""One person's own neutral shape, learnt from several registered frames and shared by all of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import lsq_linear

from datagen.common.arrays import F64
from datagen.heads.base import HeadModel
from datagen.heads.coordinates import EXPRESSION_SIGMA
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.warp.expression_process import expression_modes
from datagen.warp.personal_marks import PersonalMarks
from datagen.warp.shape_model import MorphableShape, linearise, observed_vertices
from datagen.warp.similarity import fit_similarity
from datagen.warp.template import WarpTemplate

ROUNDS = 12
# What a registered vertex differs by from the person's shape under the model's expressions.
RESIDUAL_SIGMA_M = 0.001
# Vertices no keyframe saw still have a position, from those that only interpolated it.
UNSEEN_WEIGHT = 0.02
LOOP_CORRECTIONS = 4


@dataclass(frozen=True, eq=False)
class SequencePrior:
    """What all frames of a sequence share.

    Attributes
    ----------
    head : str
        Name of the head model.
    neutral : (V, 3) float64
        The person's expression-free control vertices, template axes, metres, in the person's own size.
    frames : tuple of int
        Frame numbers it was learnt from.
    amplitude : float
        How far the person's face moves beyond the model's expressions, as a multiple of what is usual.
    marks : PersonalMarks or None
        Where the person's landmarks lie; None if none were given.
    usual_m : (2,) float64
        How far face and landmarks of a keyframe lie from the person fitted to it, metres; NaN where not known.
    """

    head: str
    neutral: F64
    frames: tuple[int, ...]
    amplitude: float = 1.0
    marks: PersonalMarks | None = None
    usual_m: F64 = field(default_factory=lambda: np.full(2, np.nan))


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A registered frame.

    Attributes
    ----------
    index : int
        Frame number.
    vertices : (M, 3) float64
        Fine template vertices in the scan's frame, metres.
    anchored : (M,) float64
        Weight of each vertex's last target on the scan, in [0, 1].
    """

    index: int
    vertices: F64
    anchored: npt.NDArray[np.float64]


def learn_neutral(head: HeadModel, template: WarpTemplate, keyframes: Sequence[Keyframe]) -> SequencePrior:
    """Separate what stays (the person) from what changes (pose and expression) over registered frames.

    Alternating least squares on ``x_t = pose_t(N + Σ e_t,k B_k)``: a rigid pose and bounded expression weights for each
    frame, one neutral shape ``N`` and one size for all. Errors of single frames average out of ``N``.

    Parameters
    ----------
    template : WarpTemplate
        Of the same head.
    keyframes : sequence of Keyframe
        At least one.
    """
    model = linearise(head)
    V = len(model.mean)
    smooth = template.subdivide[:V]
    expressions = model.basis[model.n_identity :]
    flat = expressions.transpose(1, 2, 0).reshape(V, -1)
    blend = np.asarray(smooth @ flat).reshape(V, 3, len(expressions))
    seen = template.coarse_skin[observed_vertices(template)]
    mean = smooth @ model.mean
    neutral = mean.copy()
    weights = np.zeros((len(expressions), len(keyframes)))
    weight = np.stack([k.anchored[:V] + UNSEEN_WEIGHT for k in keyframes])
    rigid = mask_of(template.head.regions, FACE_REGIONS)[seen]
    for _ in range(ROUNDS):
        poses = [
            fit_similarity(
                (neutral + blend @ weights[:, t])[seen], k.vertices[seen], weight[t, seen] * (0.2 + 0.8 * rigid)
            )
            for t, k in enumerate(keyframes)
        ]
        size = float(np.exp(np.mean([np.log(pose.scale) for pose in poses])))
        unposed = np.stack(
            [
                (k.vertices[:V] - pose.translation) @ pose.rotation / size
                + (1 - pose.scale / size) * neutral.mean(axis=0)
                for k, pose in zip(keyframes, poses, strict=True)
            ]
        )
        for t in range(len(keyframes)) if len(expressions) else ():
            weights[:, t] = _expression(blend[seen], unposed[t, seen] - neutral[seen], weight[t, seen])
        still = unposed - np.einsum("vdk,kt->tvd", blend, weights)
        neutral = np.einsum("tv,tvd->vd", weight, still) / weight.sum(axis=0)[:, None]
    neutral *= size
    control = model.mean * size
    # The control vertices whose smooth surface passes through the neutral: subdivision hardly moves smooth fields.
    for _ in range(LOOP_CORRECTIONS):
        control = control + neutral - smooth @ control
    return SequencePrior(head.template.name, control, tuple(k.index for k in keyframes))


def _expression(blend: F64, displacement: F64, weight: F64) -> F64:
    """Return the bounded ridge solution (E,) for expression weights."""
    root = np.repeat(np.sqrt(weight), 3) / RESIDUAL_SIGMA_M / np.sqrt(3 * weight.size / 300)
    rows = blend.reshape(-1, blend.shape[2]) * root[:, None]
    normal = rows.T @ rows + np.eye(rows.shape[1]) / EXPRESSION_SIGMA**2
    right = rows.T @ (displacement.ravel() * root)
    factor = np.linalg.cholesky(normal)
    solution = lsq_linear(factor.T, np.linalg.solve(factor, right), (0.0, 1.0), method="bvls")
    return np.asarray(solution.x, np.float64)


def personal_shape(head: HeadModel, template: WarpTemplate, prior: SequencePrior) -> MorphableShape:
    """Return a person's neutral with the model's expressions and smooth displacements beyond them."""
    model = linearise(head)
    n = model.n_identity
    modes = prior.amplitude * expression_modes(head, template)
    modes = np.broadcast_to(modes, (3, *modes.shape))
    # The size is known: a person does not grow within a sequence.
    return MorphableShape(
        prior.neutral, model.basis[n:], model.sigma[n:], model.lower[n:], model.upper[n:], modes, 1.0, 1.0, 0.003
    )
