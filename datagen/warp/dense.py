"""Dense refinement: a template bent as little as possible towards its targets on the scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from datagen.warp.correspond import Targets
from datagen.warp.operators import vertex_rotations
from datagen.warp.template import Level, stiffness_of

FloatArray = npt.NDArray[np.float64]
# Targets may slide in the tangent plane at this fraction of the price of moving along the normal.
TANGENTIAL_WEIGHT = 0.001
CG_TOLERANCE = 1e-3
CG_ITERATIONS = 40


@dataclass(frozen=True)
class PointTargets:
    """Fixed positions for weighted sums of vertices, such as landmarks.

    Attributes
    ----------
    operator : (L, n) float64 CSR
    position : (L, 3) float64
        Metres.
    weight : float
        Of one point, where one vertex with a scan target weighs up to 1.
    """

    operator: sp.csr_matrix
    position: FloatArray
    weight: float


def refine(
    level: Level,
    reference: FloatArray,
    start: FloatArray,
    targets: Targets,
    wavelength_m: float,
    points: PointTargets | None = None,
    *,
    rotate: bool = False,
) -> FloatArray:
    """Return vertices (n, 3) metres that minimise bending against ``reference`` plus the distance to targets.

    ``E(x) = Σ wᵢ ‖x_i − p_i‖²_(n_i) + s ‖L x − R L x_ref‖² + μ ‖B x − y‖²`` with point-to-plane distances, a little
    tangential damping, and the thin-plate (bi-Laplacian) energy of the displacement; with ``rotate`` its reference is
    turned by the local rotations of Sorkine & Alexa 2007, so that large turns cost nothing. Solved by conjugate
    gradients, preconditioned with a factorisation that depends only on the template and the wavelength.

    Parameters
    ----------
    level : Level
    reference, start : (n, 3) float64
        Shape whose detail is kept, and where to begin, metres.
    targets : Targets
    wavelength_m : float
        Displacements shorter than this are suppressed.
    points : PointTargets, optional
    rotate : bool
    """
    stiffness = stiffness_of(wavelength_m)
    detail = level.laplacian @ reference
    if rotate:
        rotations = vertex_rotations(level.edges, level.edge_weights, reference, start)
        detail = np.einsum("nij,nj->ni", rotations, detail)
    right = stiffness * (level.laplacian.T @ (level.inverse_mass[:, None] * detail))

    w, normal = targets.weight, targets.normal

    def data(x: FloatArray) -> FloatArray:
        along = np.einsum("ij,ij->i", x, normal)[:, None] * normal
        return w[:, None] * ((1 - TANGENTIAL_WEIGHT) * along + TANGENTIAL_WEIGHT * x)

    right += data(targets.position)
    bending = stiffness * level.bending
    if points is not None:
        right += points.weight * (points.operator.T @ points.position)
        bending = (bending + points.weight * (points.operator.T @ points.operator)).tocsr()
    factor = level.factor(stiffness)

    # Solve for the step, not the position: its size, not the head's distance from the origin, sets the tolerance.
    step = _conjugate_gradients(lambda x: bending @ x + data(x), right - bending @ start - data(start), factor.solve)
    return start + step


def _conjugate_gradients(apply, right: FloatArray, precondition) -> FloatArray:  # type: ignore[no-untyped-def]
    """Preconditioned conjugate gradients for one coupled system with (n, 3) unknowns, from zero."""
    x = np.zeros_like(right)
    residual = right.copy()
    z = precondition(residual)
    direction = z.copy()
    rho = float(np.vdot(residual, z))
    limit = CG_TOLERANCE**2 * rho
    for _ in range(CG_ITERATIONS):
        if rho <= limit or rho <= 0:
            break
        q = apply(direction)
        alpha = rho / float(np.vdot(direction, q))
        x += alpha * direction
        residual -= alpha * q
        z = precondition(residual)
        rho, previous = float(np.vdot(residual, z)), rho
        direction = z + (rho / previous) * direction
    return x
