"""The coarse-to-fine deformation of the template onto a scan, bent as little as possible towards its targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.spatial import cKDTree

from datagen.common.arrays import F64
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import vertex_normals
from datagen.geometry.space import MM_PER_M
from datagen.warp.correspond import BackCheck, Gate, Targets, find_targets
from datagen.warp.reach import Reach
from datagen.warp.similarity import fit_similarity
from datagen.warp.surface import Surface
from datagen.warp.template import Level, WarpTemplate, once_per_template, stiffness_of, vertex_rotations

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
    position: F64
    weight: float


def solve_thin_plate(
    level: Level,
    reference: F64,
    start: F64,
    targets: Targets,
    wavelength_m: float,
    points: PointTargets | None = None,
    *,
    hold: float = 0.001,
    rotate: bool = False,
) -> F64:
    """Return vertices (n, 3) metres that minimise bending against ``reference`` plus the distance to targets.

    ``E(x) = Σ wᵢ (nᵢᵀ(x_i − p_i))² + h Σ wᵢ ‖Pᵢ(x_i − x_ref,i)‖² + s ‖L x − R L x_ref‖² + μ ‖B x − y‖²``: distances to
    the targets' tangent planes; within those planes (P) a hold on the reference, because what the scan does not show
    the reference knows better than the scan's noise; the thin-plate (bi-Laplacian) energy of the displacement. With
    ``rotate`` the plate's reference is turned by the local rotations of Sorkine & Alexa 2007, so that large turns cost
    nothing. Solved by conjugate gradients, preconditioned with a factorisation that depends only on the template and
    the wavelength.

    Parameters
    ----------
    reference, start : (n, 3) float64
        Shape whose detail is kept, and where to begin, metres.
    wavelength_m : float
        Displacements shorter than this are suppressed.
    hold : float
        ``h``, in units of a target's weight.
    """
    stiffness = stiffness_of(wavelength_m)
    detail = level.laplacian @ reference
    if rotate:
        rotations = vertex_rotations(level.edges, level.edge_weights, reference, start)
        detail = np.einsum("nij,nj->ni", rotations, detail)
    right = stiffness * (level.laplacian.T @ (level.inverse_mass[:, None] * detail))

    w, normal = targets.weight, targets.normal

    def along(x: F64) -> F64:
        return np.einsum("ij,ij->i", x, normal)[:, None] * normal

    def data(x: F64) -> F64:
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


def _conjugate_gradients(apply, right: F64, precondition) -> F64:  # type: ignore[no-untyped-def]
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


@dataclass(frozen=True)
class Stage:
    """One step of the coarse-to-fine schedule.

    Attributes
    ----------
    fine : bool
        On the subdivided template.
    wavelength_m : float
        Shorter displacements are suppressed.
    landmark_weight : float
        Of one landmark, in units of a target's weight.
    hold : float
        Of the start within the tangent plane, in the same units.
    """

    fine: bool
    wavelength_m: float
    rounds: int
    gate: Gate
    landmark_weight: float
    hold: float


# The start is the most probable shape already: what is left are short waves, and little to gain along the surface.
FROM_REGISTRATION = (
    Stage(False, 0.05, 2, Gate(0.008, 0.6, 0.0015), 1.0, 0.1),
    Stage(True, 0.03, 2, Gate(0.006, 0.7, 0.001), 0.5, 0.1),
    Stage(True, 0.015, 2, Gate(0.005, 0.7, 0.001), 0.1, 0.1),
)
# A known person's landmarks lie beside the template's marks, which the start has heeded: they pull no more.
FROM_PERSON = tuple(replace(stage, landmark_weight=0.0) for stage in FROM_REGISTRATION)
# A model leaves the detail of a real face further off, and differently inclined, than a tracker does.
FROM_LANDMARKS = (
    Stage(False, 0.06, 4, Gate(0.015, 0.3, 0.0075), 4.0, 0.001),
    Stage(True, 0.03, 2, Gate(0.008, 0.3, 0.004), 1.0, 0.03),
    Stage(True, 0.015, 2, Gate(0.006, 0.3, 0.0025), 0.2, 0.03),
)


@dataclass(frozen=True)
class Start:
    """Where the dense stages begin.

    Attributes
    ----------
    vertices : (V, 3) float64
        Template topology in the scan's frame, metres.
    rotate : bool
        The start may be far off, so its detail must be free to turn.
    spread_m : (M,) float64
        Standard deviation of each fine vertex's position, as far as the start's own model knows it.
    notes : mapping of str to float
        What else the verdict should say of it.
    """

    vertices: F64
    schedule: tuple[Stage, ...]
    rotate: bool
    spread_m: F64
    notes: Mapping[str, float] = field(default_factory=dict)


def deform(
    template: WarpTemplate,
    surface: Surface,
    start: Start,
    landmarks: Landmarks | None,
    tell: Callable[[str, float], object] = lambda *_: None,
) -> tuple[F64, F64]:
    """Bend the template onto a scan, from long wavelengths to short ones.

    Parameters
    ----------
    surface : Surface
        The scan.
    landmarks : Landmarks or None
        In the scan's frame.
    tell : function of a name and a figure
        Told of each stage, numbered from 1, how many vertices its last targets held, how far these were from them and
        how far the stage moved them (root mean squares, millimetres).

    Returns
    -------
    registered : (M, 3) float64
        Fine template vertices in the scan's frame, metres.
    anchored : (M,) float64
        Weight of each vertex's last target in [0, 1]; 0 where the position was only interpolated.
    """
    reference = template.subdivide @ start.vertices
    current = reference.copy()
    anchored = np.zeros(len(reference))
    reach = None
    for number, stage in enumerate(start.schedule, start=1):
        level = template.fine if stage.fine else template.coarse
        reach = _reach(template, surface, level, reach)
        # Template vertices come first among the fine ones, so the coarse skin is a prefix of the fine skin.
        skin = template.skin if stage.fine else template.coarse_skin
        points = _landmark_targets(template, landmarks, stage.landmark_weight, len(skin))
        began = current[skin]
        for _ in range(stage.rounds):
            vertices = current[skin]
            back = BackCheck(cKDTree(current), template.regions, template.canonical_m)
            normals = vertex_normals(vertices, level.faces)
            asked = level.attract & reach.within(vertices, stage.gate.max_distance_m)
            targets = find_targets(surface, vertices, normals, level.regions, level.rest, asked, back, stage.gate)
            reach.learn(vertices, asked, targets.position)
            moved = solve_thin_plate(
                level,
                reference[skin],
                vertices,
                targets,
                stage.wavelength_m,
                points,
                hold=stage.hold,
                rotate=start.rotate,
            )
            if stage.fine:
                current[skin] = moved
                anchored[skin] = targets.weight
            else:
                current[template.skin] = reference[template.skin] + template.coarse_to_fine @ (moved - reference[skin])
                current[skin] = moved
            _carry_satellites(template, reference, current)
        weight = targets.weight
        apart = np.einsum("ni,ni->n", vertices - targets.position, targets.normal)
        tell(f"stage_{number}_held_vertices", float(weight.sum()))
        tell(f"stage_{number}_apart_mm", _rms_mm(apart, weight))
        tell(f"stage_{number}_moved_mm", _rms_mm(np.linalg.norm(current[skin] - began, axis=1), weight))
    return current, anchored


def _rms_mm(distance_m: F64, weight: F64) -> float:
    """Return the weighed root mean square of distances (n,) in millimetres; 0 if nothing has weight."""
    held = weight > 0
    total = float(weight[held].sum())
    return MM_PER_M * float(np.sqrt(weight[held] @ distance_m[held] ** 2 / total)) if total > 0 else 0.0


@once_per_template
def _parents(template: WarpTemplate) -> npt.NDArray[np.int64]:
    """Return the coarse skin vertex (m,) that weighs most in each fine one."""
    return np.asarray(template.coarse_to_fine.argmax(axis=1), np.int64).ravel()


def _reach(template: WarpTemplate, surface: Surface, level: Level, before: Reach | None) -> Reach:
    """Return what is known of how near a level's vertices come to the scan, given that of the stage before."""
    if before is None:
        return Reach(surface, len(level.rest))
    if before.count == len(level.rest):
        return before
    # A fine vertex is about as near as its coarse one was.
    if level is template.fine:
        return before.shared(surface, _parents(template))
    return Reach(surface, len(level.rest))


def _landmark_targets(
    template: WarpTemplate, landmarks: Landmarks | None, weight: float, n_skin: int
) -> PointTargets | None:
    if landmarks is None or weight <= 0:
        return None
    operator = template.landmark_matrix(landmarks.indices)[:, template.coarse_skin]
    padding = sp.csr_matrix((operator.shape[0], n_skin - operator.shape[1]))
    return PointTargets(sp.hstack([operator, padding]).tocsr(), landmarks.points, weight)


def _carry_satellites(template: WarpTemplate, reference: F64, current: F64) -> None:
    for satellite in template.satellites:
        motion = fit_similarity(reference[satellite.neighbours], current[satellite.neighbours], with_scale=False)
        current[satellite.vertices] = motion.apply(reference[satellite.vertices])
