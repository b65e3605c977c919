"""A head model's own parameters for a registered face: what of it the model can say, and how far the rest is off."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from datagen.common.arrays import F64, I64
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadModel
from datagen.heads.coordinates import IDENTITY_LIMIT, HasCoordinates, HeadCoordinates, linear_coordinates
from datagen.heads.regions import FACE_REGIONS, INTERIOR_REGIONS, mask_of
from datagen.warp.box_quadratic import least_in_box
from datagen.warp.shape_model import farthest_points, linearise
from datagen.warp.similarity import fit_similarity
from datagen.warp.template import WarpTemplate

# Vertices that are looked at: more of them say nothing new of a few hundred parameters.
FACE_POINTS, OTHER_POINTS, INTERIOR_POINTS = 540, 240, 120
# Both sides of a parameter at first, which makes the fit convex; then the one that explains more.
OPEN_ROUNDS, SETTLED_ROUNDS = 3, 5
# Coordinates that bend are stepped along with care.
MOST_STEP = 1.0
DIFFERENCE = 0.05
# What a model is believed to fit to, at least: the weaker the residuals, the less the prior says.
LEAST_SIGMA_M = 0.03e-3
# Below the one a face is made exactly; below the other it is worth looking for a minimum beyond a bend.
MADE_M, NEARLY_MADE_M = 0.03e-3, 0.3e-3
BEYOND = 0.7
# A motion is free, but for what keeps the system regular.
POSE_PRECISION = 1e-6
# Where coordinates are a first order, what they miss is taken off the target and the fit repeated.
CORRECTIONS = 4
MISSED_M = 0.01e-3


@dataclass(frozen=True, eq=False)
class HeadParameters:
    """What a head model says of one face.

    The model's vertices, :meth:`datagen.heads.base.HeadModel.vertices`, are the corners of a net that hangs a little
    over the skin; where they come to lie on it says :func:`datagen.heads.contents.skin_operator`. From there
    ``model_to_head`` brings them into head axes.

    Attributes
    ----------
    identity : (K,) float32
    expression : (E,) float32
    model_to_head : (4, 4) float64
        Rigid: the model's axes and origin to the head's, whose pose is fitted to the rigid parts of the registered
        face. Size is not in it: the model's own identity says it.
    rms_mm : float
        Root mean square distance over the template's vertices between the registered ones and the model's; NaN where
        the model has no parameters.
    """

    identity: npt.NDArray[np.float32]
    expression: npt.NDArray[np.float32]
    model_to_head: F64
    rms_mm: float


def no_parameters() -> HeadParameters:
    """Return what is known of a face that no model was fitted to."""
    none = np.zeros(0, np.float32)
    return HeadParameters(none, none, np.eye(4), float("nan"))


def fit_parameters(head: HeadModel, template: WarpTemplate, registered: F64, head_to_world: F64) -> HeadParameters:
    """Return the most probable parameters of a head model for a registered face.

    Gauss-Newton on the distance of some 900 vertices, with the model's own priors and bounds, the motion free. The
    residuals themselves say how much the prior counts: a face that the model can make is made exactly. The result
    depends on nothing but the arguments, so it is the same however a build was resumed.

    Parameters
    ----------
    template : WarpTemplate
        Of the same head.
    registered : (M, 3) float64
        Fine template vertices, world metres.
    head_to_world : (4, 4) float64
    """
    V = len(template.head.vertices)
    operator = template.subdivide[:V].tocsr()
    target = registered[:V]
    K, E = head.identity_size, len(head.expression_names)
    identity, expression = np.zeros(K), np.zeros(E)
    if K + E:
        looked = _looked_at(_Key(head, template))
        identity, expression = _fitted(head, looked, target[looked.vertices])
    # As stored, so that the figure is what a reader gets.
    stored = identity.astype(np.float32), expression.astype(np.float32)
    skin = operator @ head.vertices(*(values.astype(np.float64) for values in stored))
    shown = ~mask_of(template.head.regions, INTERIOR_REGIONS)
    motion = fit_similarity(skin[shown], target[shown], with_scale=False)
    squared = ((motion.apply(skin) - target) ** 2).sum(axis=1)
    rms_mm = float(np.sqrt(squared.mean())) * MM_PER_M if K + E else float("nan")
    return HeadParameters(*stored, np.linalg.inv(head_to_world) @ motion.rigid_matrix(), rms_mm)


@dataclass(frozen=True, eq=False)
class _Looked:
    """What a fit looks at: some vertices (n,), where subdivision takes them, and the model there."""

    vertices: I64
    operator: sp.csr_matrix
    coordinates: HeadCoordinates


class _Key:
    """A head with a prepared template, both compared by identity."""

    def __init__(self, head: HeadModel, template: WarpTemplate) -> None:
        self.head, self.template = head, template

    def __hash__(self) -> int:
        return hash((id(self.head), id(self.template)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.head is self.head and other.template is self.template


@lru_cache(maxsize=4)
def _looked_at(key: _Key) -> _Looked:
    """Choose vertices spread evenly over face, rest and inner parts, and what each parameter moves most."""
    head, template = key.head, key.template
    V = len(template.head.vertices)
    operator = template.subdivide[:V].tocsr()
    rest, regions = template.canonical_m[:V], template.head.regions
    interior, face = mask_of(regions, INTERIOR_REGIONS), mask_of(regions, FACE_REGIONS)
    parts = (face, FACE_POINTS), (~face & ~interior, OTHER_POINTS), (interior, INTERIOR_POINTS)
    chosen = [np.flatnonzero(mask)[farthest_points(rest[mask], count)] for mask, count in parts if mask.any()]
    moved = _coordinates(head, operator).linear
    chosen.append((moved.reshape(len(moved), V, 3) ** 2).sum(axis=2).argmax(axis=1))
    vertices = np.unique(np.concatenate(chosen))
    there = operator[vertices].tocsr()
    return _Looked(vertices, there, _coordinates(head, there))


def _coordinates(head: HeadModel, operator: sp.csr_matrix) -> HeadCoordinates:
    if isinstance(head, HasCoordinates):
        return head.coordinates(operator)
    model = linearise(head)
    return linear_coordinates(head, model.mean, model.basis, operator)


def _fitted(head: HeadModel, looked: _Looked, target: F64) -> tuple[F64, F64]:
    """Return the identity and expression whose vertices come nearest to ``target`` (n, 3)."""
    coordinates = looked.coordinates
    missed = np.zeros_like(target)
    for _ in range(CORRECTIONS):
        fit = _best_fit(coordinates, target - missed)
        identity, expression = coordinates.parameters(fit.straight, fit.curved)
        true = looked.operator @ head.vertices(identity, expression)
        supposed = coordinates.points(fit.straight, fit.curved)
        # Up to a motion, which is free; in the target's axes.
        back = fit_similarity(supposed, target, with_scale=False)
        now = back.apply(fit_similarity(true, supposed, with_scale=False).apply(true)) - back.apply(supposed)
        change = float(np.sqrt(((now - missed) ** 2).sum(axis=1).mean()))
        missed = now
        if change < MISSED_M:
            break
    return identity, expression


def _best_fit(coordinates: HeadCoordinates, target: F64) -> _Fit:
    """Return the fit, begun anew beyond each bend where the model almost makes the face: then it may make it exactly.

    Beside larger residuals what a better minimum gains does not show.
    """
    best = _Fit(coordinates, target, np.zeros(coordinates.curved))
    if best.rms_m > NEARLY_MADE_M:
        return best
    for k in range(coordinates.broken):
        if best.rms_m <= MADE_M:
            break
        beyond = best.curved.copy()
        beyond[k] = -BEYOND if beyond[k] > 0 else BEYOND
        other = _Fit(coordinates, target, beyond)
        best = other if other.rms_m < best.rms_m else best
    return best


class _Fit:
    """A fit in coordinates, made by Gauss-Newton steps from a start of the curved ones."""

    def __init__(self, coordinates: HeadCoordinates, target: F64, curved: F64) -> None:
        self.model, self.target = coordinates, target
        self.straight, self.curved = np.zeros(len(coordinates.linear)), curved
        self.upper = coordinates.upper.copy()
        for round_ in range(OPEN_ROUNDS + SETTLED_ROUNDS):
            self.step(settle=round_ >= OPEN_ROUNDS)
        self.settle()
        points = self.model.points(self.straight, self.curved)
        apart = fit_similarity(points, target, with_scale=False).apply(points) - target
        self.rms_m = float(np.sqrt((apart**2).sum(axis=1).mean()))

    def step(self, *, settle: bool) -> None:
        """Take one step; with ``settle`` only one of the two sides of a parameter may be other than 0."""
        model, M = self.model, len(self.straight)
        if settle:
            self.settle()
        which, columns, low, high = self._bent()
        points = model.points(self.straight, self.curved)
        motion = fit_similarity(points, self.target, with_scale=False)
        residual = (self.target - motion.translation) @ motion.rotation - points
        variance = max(float((residual**2).mean()), LEAST_SIGMA_M**2)
        moving = np.concatenate([columns, _motion_columns(points)])
        coupling = moving @ model.linear.T
        H = np.block([[model.gram, coupling.T], [coupling, moving @ moving.T]])
        g = np.concatenate([model.linear @ residual.ravel(), moving @ residual.ravel()])
        precision = variance * np.concatenate([1 / model.sigma**2, np.ones(len(which)), np.full(6, POSE_PRECISION)])
        H[np.diag_indices(len(H))] += precision
        g -= precision * np.concatenate([self.straight, self.curved[which], np.zeros(6)])
        # A turn in radians, a shift in metres: far more than either ever moves.
        free = np.full(6, 10.0)
        step = least_in_box(
            H,
            g,
            np.concatenate([model.lower - self.straight, low, -free]),
            np.concatenate([self.upper - self.straight, high, free]),
        )
        self.straight = np.clip(self.straight + step[:M], model.lower, self.upper)
        np.add.at(self.curved, which, step[M : M + len(which)])
        self.curved = np.clip(self.curved, -IDENTITY_LIMIT, IDENTITY_LIMIT)
        # What was stepped up to the bend may leave it to either side in the next step.
        self.curved[np.abs(self.curved) < 1e-6] = 0.0

    def settle(self) -> None:
        """Leave of a parameter's two sides the one that explains more."""
        N = self.model.pairs
        more = self.straight[:N] - self.straight[N : 2 * N]
        self.straight[:N], self.straight[N : 2 * N] = np.maximum(more, 0), np.maximum(-more, 0)
        self.upper[:N] = np.where(more >= 0, self.model.upper[:N], 0.0)
        self.upper[N : 2 * N] = np.where(more <= 0, self.model.upper[N : 2 * N], 0.0)

    def _bent(self) -> tuple[I64, F64, F64, F64]:
        """Return the derivatives (c, 3 n) by the curved coordinates (c,), and how far each may be stepped.

        A coordinate at its bend has two, one for either side; beside it, it may be stepped up to the bend only.
        """
        z, model = self.curved, self.model
        sides: list[tuple[int, float, float, float]] = []  # coordinate, side (0 for both), least and greatest step
        for k, value in enumerate(z.tolist()):
            if k >= model.broken:
                sides.append((k, 0.0, -IDENTITY_LIMIT - value, IDENTITY_LIMIT - value))
                continue
            if value >= 0:
                sides.append((k, 1.0, -value, IDENTITY_LIMIT - value))
            if value <= 0:
                sides.append((k, -1.0, -IDENTITY_LIMIT - value, -value))
        if not sides:
            return np.zeros(0, np.int64), np.zeros((0, model.linear.shape[1])), np.zeros(0), np.zeros(0)
        which = np.array([side[0] for side in sides], np.int64)
        towards, low, high = (np.array([side[k] for side in sides]) for k in (1, 2, 3))
        unit = DIFFERENCE * np.eye(len(z))[which]
        ahead, behind = (towards >= 0)[:, None] * unit, (towards <= 0)[:, None] * unit
        values = model.base(np.concatenate([z + ahead, z - behind]))
        width = (ahead + behind).sum(axis=1, keepdims=True)
        columns = (values[: len(which)] - values[len(which) :]) / width
        return which, columns, np.maximum(low, -MOST_STEP), np.minimum(high, MOST_STEP)


def _motion_columns(points: F64) -> F64:
    """Return the derivatives (6, 3 n) of points (n, 3) by a turn about their centre and by a shift."""
    arm = points - points.mean(axis=0)
    axes = np.eye(3)
    turns = [np.cross(axis, arm) for axis in axes]
    return np.stack([*turns, *(np.broadcast_to(axis, arm.shape) for axis in axes)]).reshape(6, -1)
