"""Identity and expression fit of a head model to landmarks and a surface: where a raw scan begins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from datagen.geometry.mesh import vertex_normals
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.warp.similarity import Similarity, fit_similarity_robust
from datagen.warp.surface import Surface

FloatArray = npt.NDArray[np.float64]
LANDMARK_SIGMA_M = 0.002
SURFACE_SIGMA_M = 0.004
# Model parameters are drawn from N(0, 1) (identity) and live in [0, 1] (expression).
EXPRESSION_SIGMA = 0.35
SURFACE_SAMPLES = 1500
DERIVATIVE_STEP = 0.25
LANDMARK_ROUNDS = 6
SURFACE_ROUNDS = 12


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A head model's first-order behaviour around its template.

    Attributes
    ----------
    mean : (V, 3) float64
        Metres.
    basis : (P, V, 3) float64
        Metres per unit of each parameter, identity first.
    sigma : (P,) float64
        Prior standard deviations.
    n_identity : int
    """

    mean: FloatArray
    basis: FloatArray
    sigma: FloatArray
    n_identity: int


@lru_cache(maxsize=4)
def linearise(head: HeadModel) -> LinearModel:
    """Return the linear model of a head by finite differences: exact for ICT, first order for the others."""
    n_identity, n_expression = head.identity_size, len(head.expression_names)
    zero_i, zero_e = np.zeros(n_identity), np.zeros(n_expression)
    mean = head.template.vertices
    basis = np.zeros((n_identity + n_expression, *mean.shape))
    for k in range(n_identity):
        step = zero_i.copy()
        step[k] = DERIVATIVE_STEP
        basis[k] = (head.vertices(step, zero_e) - head.vertices(-step, zero_e)) / (2 * DERIVATIVE_STEP)
    for k in range(n_expression):
        step = zero_e.copy()
        step[k] = 1.0
        basis[n_identity + k] = head.vertices(zero_i, step) - mean
    sigma = np.concatenate([np.ones(n_identity), np.full(n_expression, EXPRESSION_SIGMA)])
    return LinearModel(mean, basis, sigma, n_identity)


@dataclass(frozen=True)
class ParametricFit:
    """A posed head.

    Attributes
    ----------
    similarity : Similarity
        Template axes to the scan's frame.
    parameters : (P,) float64
    vertices : (V, 3) float64
        In the scan's frame, metres.
    landmark_rms_mm : float
    """

    similarity: Similarity
    parameters: FloatArray
    vertices: FloatArray
    landmark_rms_mm: float


def fit_parametric(
    head: HeadModel, indices: npt.NDArray[np.int64], points: FloatArray, surface: Surface | None
) -> ParametricFit:
    """Fit pose, identity and expression to landmarks, then to the surface too.

    Gauss–Newton on a ridge-regularised linear model, alternating with a robust similarity. The prior keeps what the
    data does not show at the mean.

    Parameters
    ----------
    head : HeadModel
    indices : (L,) int64
        iBUG landmarks that are known.
    points : (L, 3) float64
        Where they are in the scan's frame, metres.
    surface : Surface or None
        The scan; with None only the landmarks count.
    """
    template = head.template
    model = linearise(head)
    corners = template.faces[template.landmark_faces[indices]]
    weights = template.landmark_barycentric[indices]

    def at_landmarks(field: FloatArray) -> FloatArray:
        return np.einsum("lc,...lcd->...ld", weights, field[..., corners, :])

    landmark_basis = at_landmarks(model.basis) if len(model.basis) else np.zeros((0, len(indices), 3))
    candidates = np.flatnonzero(mask_of(template.regions, FACE_REGIONS))
    chosen = candidates[:: max(1, len(candidates) // SURFACE_SAMPLES)]

    parameters: FloatArray = np.zeros(len(model.basis))
    vertices = model.mean
    similarity = fit_similarity_robust(at_landmarks(vertices), points)
    rounds = LANDMARK_ROUNDS + (SURFACE_ROUNDS if surface is not None else 0)
    for k in range(rounds if len(parameters) else 0):
        local = (points - similarity.translation) @ similarity.rotation / similarity.scale
        rows = [landmark_basis.reshape(len(parameters), -1).T / LANDMARK_SIGMA_M]
        right = [(local - at_landmarks(model.mean)).ravel() / LANDMARK_SIGMA_M]
        if surface is not None and k >= LANDMARK_ROUNDS:
            extra_rows, extra_right = _surface_rows(model, vertices, template.faces, chosen, similarity, surface)
            # As many surface points as there are must not drown the few landmarks.
            balance = np.sqrt(min(1.0, 400 / max(len(extra_right), 1))) / SURFACE_SIGMA_M
            rows.append(extra_rows * balance)
            right.append(extra_right * balance)
        rows.append(np.diag(1 / model.sigma))
        right.append(np.zeros(len(parameters)))
        A, b = np.vstack(rows), np.concatenate(right)
        parameters = np.asarray(np.linalg.solve(A.T @ A, A.T @ b), np.float64)
        # A negative expression weight pulls skin through the teeth.
        parameters[model.n_identity :] = np.clip(parameters[model.n_identity :], 0.0, 1.0)
        vertices = model.mean + np.tensordot(parameters, model.basis, 1)
        similarity = fit_similarity_robust(at_landmarks(vertices), points)
    posed = similarity.apply(vertices)
    residual = np.linalg.norm(at_landmarks(posed) - points, axis=1)
    return ParametricFit(similarity, parameters, posed, float(np.sqrt((residual**2).mean()) * 1000))


def _surface_rows(
    model: LinearModel,
    vertices: FloatArray,
    faces: npt.NDArray[np.int32],
    chosen: npt.NDArray[np.int64],
    similarity: Similarity,
    surface: Surface,
) -> tuple[FloatArray, FloatArray]:
    """Point-to-plane rows (n, P) and right-hand sides (n,) in template axes, robustly weighted."""
    posed = similarity.apply(vertices)
    normals = vertex_normals(posed, faces)[chosen]
    hit = surface.closest(posed[chosen])
    offset = hit.position - posed[chosen]
    distance = np.linalg.norm(offset, axis=1)
    good = (distance < 0.02) & (np.einsum("ij,ij->i", normals, hit.normal) > 0.6) & ~hit.on_border
    local_normal = hit.normal[good] @ similarity.rotation
    target = (hit.position[good] - similarity.translation) @ similarity.rotation / similarity.scale
    weight = 1 / (1 + (distance[good] / (2 * SURFACE_SIGMA_M)) ** 2)
    kept = chosen[good]
    rows = np.einsum("pnd,nd->np", model.basis[:, kept], local_normal) * weight[:, None]
    right = np.einsum("nd,nd->n", target - model.mean[kept], local_normal) * weight
    return rows, right
