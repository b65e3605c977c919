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
CG_TOLERANCE = 1e-3
# The rounds repeat with new targets: solving one of them further changes the end by microns.
CG_ITERATIONS = 16


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
    hold: float = 0.001,
    rotate: bool = False,
) -> FloatArray:
    """Return vertices (n, 3) metres that minimise bending against ``reference`` plus the distance to targets.

    ``E(x) = Σ wᵢ (nᵢᵀ(x_i − p_i))² + h Σ wᵢ ‖Pᵢ(x_i − x_ref,i)‖² + s ‖L x − R L x_ref‖² + μ ‖B x − y‖²``: distances to
    the targets' tangent planes; within those planes (P) a hold on the reference, because what the scan does not show
    the reference knows better than the scan's noise; the thin-plate (bi-Laplacian) energy of the displacement. With
    ``rotate`` the plate's reference is turned by the local rotations of Sorkine & Alexa 2007, so that large turns cost
    nothing. Solved by conjugate gradients, preconditioned with a factorisation that depends only on the template and
    the wavelength.

    Parameters
    ----------
    level : Level
    reference, start : (n, 3) float64
        Shape whose detail is kept, and where to begin, metres.
    targets : Targets
    wavelength_m : float
        Displacements shorter than this are suppressed.
    points : PointTargets, optional
    hold : float
        ``h``, in units of a target's weight.
    rotate : bool
    """
    stiffness = stiffness_of(wavelength_m)
    detail = level.laplacian @ reference
    if rotate:
        rotations = vertex_rotations(level.edges, level.edge_weights, reference, start)
        detail = np.einsum("nij,nj->ni", rotations, detail)
    right = stiffness * (level.laplacian.T @ (level.inverse_mass[:, None] * detail))

    w, normal = targets.weight, targets.normal

    def along(x: FloatArray) -> FloatArray:
        return np.einsum("ij,ij->i", x, normal)[:, None] * normal

    def data(x: FloatArray) -> FloatArray:
        return w[:, None] * ((1 - hold) * along(x) + hold * x)

    right += w[:, None] * (along(targets.position) + hold * (reference - along(reference)))
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
