"""The most probable shape of a morphable head, given a scan, landmarks, and a tracker's word; and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse as sp
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from datagen.common.arrays import F64, I64
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import normalised, vertex_normals
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.heads.regions import mask_of
from datagen.warp.box_quadratic import least_in_box
from datagen.warp.correspond import BackCheck, Gate, Targets, find_targets
from datagen.warp.held import Held, Ledger
from datagen.warp.pixel_rows import Pull, SeenInPictures, seen_in_pictures
from datagen.warp.reach import Reach
from datagen.warp.shape_model import MorphableShape, farthest_points, observed_vertices
from datagen.warp.similarity import Similarity
from datagen.warp.surface import Surface
from datagen.warp.template import WarpTemplate, once_per_template

LANDMARKS = "landmarks"
# Landmarks differ from the template's by noise and by definition: their own residuals say by how much.
LANDMARK_SIGMA_M = (0.2e-3, 4e-3)
LANDMARK_USUAL_M = 0.5e-3
# Where hands differ by more than this (the jaw, the brows' ends) a landmark is believed less than the others.
VAGUE_SIGMA_M = 2.6e-3
# Points that scatter less are clear, those that scatter more are noisy.
CLEAR_SIGMA_M, NOISY_SIGMA_M = 0.6e-3, 1.2e-3
HAIR_REGIONS = ("forehead", "scalp")
# Not the eyes: believed as much, lids slid onto the eyeballs.
FEATURE_REGIONS = ("nose", "upper_lip", "lower_lip")
SIGMA_STEPS = 25
# What stays of a real face once every point of it is known: pictures sharp to 0.3 px in 96 leave 0.35 mm (median).
FOLLOWED_M = 0.4e-3
LOG_SIGMA_SPREAD = 1.0
WEIGHING_ROUNDS = 4
STUDENT_DEGREES = 4.0
MAX_STRETCH_STEP = 0.1
UNCERTAINTY_POINTS = 400


@dataclass(frozen=True)
class Round:
    """One Gauss–Newton step.

    Attributes
    ----------
    gate : Gate or None
        Which scan points count; with None only points do.
    sigma_m : float
        Least standard deviation of a template vertex's distance to the scan; the distances' own scatter may say more.
    correlated : float
        Neighbouring distances err together (smooth noise, wrinkles, what modes cannot follow), so that each says less
        than its scatter suggests, by this factor.
    hair : float
        Weight of distances where hair hides skin or begins, beside those of the face.
    features : float
        The same of nose and lips where points scatter widely (less, the less they scatter): distances push along the
        surface, which does more good than harm where there is relief and points say little.
    """

    gate: Gate | None
    sigma_m: float = 1.0
    correlated: float = 2.5
    hair: float = 1.0
    features: float = 1.0


def annealed(
    rounds: int, distance_m: tuple[float, float], kernel_m: tuple[float, float], sigma_m: tuple[float, float]
) -> tuple[Round, ...]:
    """Return rounds whose gates, kernels and standard deviations shrink geometrically."""
    steps = [np.geomspace(first, last, rounds) for first, last in (distance_m, kernel_m, sigma_m)]
    return tuple(Round(Gate(d, 0.4, k), s) for d, k, s in zip(*(a.tolist() for a in steps), strict=True))


@dataclass(frozen=True, eq=False)
class PointEvidence:
    """Positions known for weighted sums of control vertices.

    Attributes
    ----------
    operator : (L, V) float64 CSR
    position : (L, 3) float64
        Scan frame, metres.
    sigma_m : (float, float)
        Least and greatest standard deviation; between them the residuals decide.
    usual_m : float
        The likeliest standard deviation before any residual is seen.
    vagueness : (L,) float64 or None
        How many times as far a point may be off as the others, at least 1; None for 1.
    source : str
        Who says so.
    """

    operator: sp.csr_matrix
    position: F64
    sigma_m: tuple[float, float] = LANDMARK_SIGMA_M
    usual_m: float = LANDMARK_USUAL_M
    vagueness: F64 | None = None
    source: str = LANDMARKS


@dataclass(frozen=True, eq=False)
class ShapeFit:
    """A posed shape.

    Attributes
    ----------
    similarity : Similarity
        Axes of the base to the scan's frame.
    parameters : (P,) float64
    coefficients : (K, 3) float64
    vertices : (V, 3) float64
        Control vertices in the scan's frame, metres.
    spread_m : (M,) float64
        Posterior standard deviation of each fine template vertex's position (root of the summed variances).
    determined : float
        How many of the coefficients the evidence determines, the others being the prior's; NaN unless asked for.
    view_scale : mapping of (source, camera) to float
        How many times as far off as stated the points of each picture are in the end; at least 1.
    held : Held
        What each source of evidence did at the last step.
    scatter_m : float or None
        Median standard deviation of the landmarks, as all that is known says of them; None without any.
    """

    similarity: Similarity
    parameters: F64
    coefficients: F64
    vertices: F64
    spread_m: F64
    determined: float = float("nan")
    view_scale: Mapping[tuple[str, str], float] = field(default_factory=dict)
    held: Held = field(default_factory=Held)
    scatter_m: float | None = None


def landmark_evidence(template: WarpTemplate, landmarks: Landmarks) -> PointEvidence:
    """Return landmarks (scan frame) as evidence on the smooth surface that the control vertices span."""
    operator = template.landmark_matrix(landmarks.indices)
    rows = (operator @ template.subdivide[: operator.shape[1]]).tocsr()
    vagueness = np.maximum(1.0, template.head.landmark_sigma_m[landmarks.indices] / VAGUE_SIGMA_M)
    return PointEvidence(rows, landmarks.points, vagueness=vagueness)


def fit_shape(
    template: WarpTemplate,
    shape: MorphableShape,
    pose: Similarity,
    rounds: Sequence[Round],
    surface: Surface | None,
    evidence: Sequence[PointEvidence] = (),
    *,
    pixels: Sequence[PixelEvidence] = (),
    parameters: F64 | None = None,
    weigh: bool = False,
) -> ShapeFit:
    """Return the maximum a posteriori shape and pose, and its uncertainty.

    Gauss–Newton on ``Σ (nᵀ(x − y))²/σ² + Σ ‖W x − z‖²/τ² + Σ ‖π(B x) − u‖²_C + prior``: robust point-to-plane distances
    to the scan, evidence on points and in pictures, Gaussian priors on parameters, coefficients and pose; parameters
    stay within their bounds. The uncertainty is the Gaussian (Laplace) approximation at the last step.

    Parameters
    ----------
    pose : Similarity
        Where to begin.
    surface : Surface or None
        The scan; may be None if no round has a gate.
    pixels : sequence of PixelEvidence
        Where points of the template were seen in pictures.
    parameters : (P,) float64, optional
        Where to begin.
    weigh : bool
        Count the coefficients that the evidence determines.

    Raises
    ------
    InputError
        If pictures tell of another template's points.
    """
    system = _System(template, shape, pose, parameters)
    seen = seen_in_pictures(template, pixels) if pixels else None
    for step in rounds:
        system.begin()
        if step.gate is not None and surface is not None:
            system.add_surface(surface, step)
        if seen is not None:
            system.add_pixels(seen)
        for points in evidence:
            system.add_points(points)
        system.solve()
    return system.result(weigh)


def likeliest_variance(
    known: F64, residual: F64, sigma_range: tuple[float, float], usual: float, vagueness: F64 | None = None
) -> F64:
    """Return how far each of some points is to be believed, as the variance (L,) of each coordinate.

    What all else says of the points predicts them with a residual and a covariance. Their own standard deviation is
    the one that makes the residuals likeliest (on a grid, under a log-normal prior), times a factor for points that
    the others do not predict: each, left out, is compared with its prediction, and weighed as a draw from Student's t.

    Parameters
    ----------
    known : (3 L, 3 L) float64
        Covariance of the prediction.
    residual : (3 L,) float64
        Points minus prediction, three coordinates each.
    sigma_range : (float, float)
        Least and greatest standard deviation.
    usual : float
        Median of the prior on the standard deviation.
    vagueness : (L,) float64, optional
        Multiplies the standard deviation of each point.
    """
    count = len(residual) // 3
    given = np.ones(count) if vagueness is None else vagueness**2
    factor = given
    grid = np.geomspace(*sigma_range, SIGMA_STEPS)
    prior = -0.5 * (np.log(grid / usual) / LOG_SIGMA_SPREAD) ** 2
    sigma = usual
    for _ in range(WEIGHING_ROUNDS):
        scale = np.repeat(1 / np.sqrt(factor), 3)
        values, vectors = np.linalg.eigh(known * scale[:, None] * scale)
        squared = (vectors.T @ (residual * scale)) ** 2
        total = np.maximum(values, 0)[:, None] + grid**2
        sigma = float(grid[np.argmax(prior - 0.5 * (np.log(total) + squared[:, None] / total).sum(axis=0))])
        # Of known + diag(factor σ²), whose decomposition is at hand.
        half = vectors / np.sqrt(np.maximum(values, 0) + sigma**2) * scale[:, None]
        inverse = half @ half.T
        pull = (inverse @ residual).reshape(count, 3)
        own = inverse.reshape(count, 3, count, 3)[np.arange(count), :, np.arange(count)]
        # Left out, a point's squared distance from its prediction, in standard deviations of a point that is good: by
        # its own, larger one a point however far off would look as expected.
        left_out = np.linalg.inv(own)
        off = np.einsum("lij,lj->li", left_out, pull)
        spread = left_out - ((factor - given) * sigma**2)[:, None, None] * np.eye(3)
        surprise = np.einsum("li,li->l", off, np.linalg.solve(spread, off[:, :, None])[:, :, 0])
        factor = given * np.maximum(1.0, (STUDENT_DEGREES + surprise) / (STUDENT_DEGREES + 3))
    return np.asarray(factor * sigma**2)


@once_per_template
def uncertainty_points(template: WarpTemplate) -> tuple[I64, I64, F64]:
    """Return which of the observed vertices tell their spread (u,), and for each fine vertex four of these (M, 4).

    The last array (M, 4) holds the share of each, by inverse distance.
    """
    rest = template.coarse.rest[observed_vertices(template)]
    chosen = farthest_points(rest, UNCERTAINTY_POINTS)
    distance, near = cKDTree(rest[chosen]).query(template.canonical_m, 4)
    share = 1 / np.maximum(distance, 1e-4)
    return chosen, np.asarray(near, np.int64), share / share.sum(axis=1, keepdims=True)


class _System:
    """State and normal equations of the fit. Unknowns: parameters, coefficients (K, 3), turn, shift, log scale."""

    def __init__(self, template: WarpTemplate, shape: MorphableShape, pose: Similarity, parameters: F64 | None) -> None:
        self.template, self.shape, self.pose, self.first_pose = template, shape, pose, pose
        self.observed = observed_vertices(template)
        rows = template.subdivide[template.coarse_skin[self.observed]]
        n, P = len(self.observed), len(shape.blend)
        flat = shape.blend.transpose(1, 2, 0).reshape(len(shape.base), 3 * P)
        self.blend = np.asarray(rows @ flat, np.float32).reshape(n, 3, P)
        self.modes = np.stack([np.asarray(rows @ m, np.float32) for m in shape.modes])
        self.p = np.zeros(P) if parameters is None else np.clip(parameters, shape.lower, shape.upper)
        self.q = np.zeros((shape.modes.shape[2], 3))
        self.log_scale = 0.0
        self.size = P + self.q.size + 7
        self._flat_blend = flat
        self._point_rows: dict[int, F64] = {}
        self._seen: SeenInPictures | None = None
        self._shared: dict[str, F64] = {}
        self._reach: Reach | None = None
        self._scatter_m: float | None = None
        pose_prior = np.array([shape.turn_rad] * 3 + [shape.shift_m] * 3 + [shape.stretch])
        self.precision = np.concatenate([1 / shape.sigma**2, np.ones(self.q.size), 1 / pose_prior**2])

    def begin(self) -> None:
        """Start the normal equations of a round from the prior."""
        self.local = self.shape.vertices(self.p, self.q)
        self.centre = self.local.mean(axis=0)
        moved = self._pose_change()
        self.A, self._only_prior = np.diag(self.precision), True
        state = np.concatenate([self.p, self.q.ravel(), moved])
        self.b = -self.precision * state
        self._ledger = Ledger(self.precision, 0.5 * float(self.precision @ state**2))

    def _pose_change(self) -> F64:
        """Return turn (rad), shift (m) and log scale from the first pose to this one, about the shape's centre."""
        turn = Rotation.from_matrix(self.first_pose.rotation.T @ self.pose.rotation).as_rotvec()
        centre = self.shape.base.mean(axis=0)[None]
        shift = (self.pose.apply(centre) - self.first_pose.apply(centre))[0] @ self.pose.rotation / self.pose.scale
        return np.concatenate([turn, shift, [self.log_scale]])

    def _to_local(self, points: F64) -> F64:
        return (points - self.pose.translation) @ self.pose.rotation / self.pose.scale

    def _pose_columns(self, points: F64, directions: F64) -> F64:
        """Return d(direction · point)/d(turn, shift, log scale), (n, 7)."""
        arm = points - self.centre
        along = np.einsum("nd,nd->n", arm, directions)[:, None]
        return np.concatenate([np.cross(arm, directions), directions, along], axis=1)

    def add_points(self, points: PointEvidence) -> None:
        """Add positions, believed as far as the prior, the surface and each other bear them out; to be added last."""
        now = points.operator @ self.local
        residual = self._to_local(points.position) - now
        rows = self._rows_of(points.operator, now)
        whitened = self._whitened(np.vstack([rows, self.b]).T)
        white, right = whitened[:, :-1], whitened[:, -1]
        expected = residual.ravel() - white.T @ right
        least, most = (sigma / self.pose.scale for sigma in points.sigma_m)
        variance = likeliest_variance(
            white.T @ white, expected, (least, most), points.usual_m / self.pose.scale, points.vagueness
        )
        if points.source == LANDMARKS:
            self._scatter_m = float(np.sqrt(np.median(variance))) * self.pose.scale
        self._accumulate(points.source, rows, residual.ravel(), np.repeat(1 / variance, 3))

    def add_pixels(self, seen: SeenInPictures) -> None:
        """Add what pictures say; displacements that they share are eliminated, to be found after the step."""
        self._seen = seen
        now = seen.operator @ self.local
        rows = self._rows_of(seen.operator, now).reshape(len(now), 3, self.size)
        self._shared = {}
        looked, before = seen.rows(self.pose, now), self.A.copy()
        for name, pull in seen.gathered(looked).items():
            # Symmetric, so that a point that one picture alone sees needs no care.
            values, vectors = np.linalg.eigh(pull.information)
            half = np.sqrt(np.maximum(values, 0))[:, :, None] * vectors.transpose(0, 2, 1)
            scaled = (half.astype(np.float32) @ rows.astype(np.float32)).reshape(-1, self.size)
            self.A += scaled.T @ scaled
            self.b += rows.reshape(-1, self.size).T @ pull.pull.ravel()
            self._eliminate_shared(name, pull, rows)
        self._ledger.add("pictures", self.A - before, sum(one.energy for one in looked))
        self._only_prior = False

    def _eliminate_shared(self, name: str, pull: Pull, rows: F64) -> None:
        assert self._seen is not None
        source = self._seen.sources[name]
        k = len(source.factors)
        if not k:
            return
        pushed = np.einsum("kui,uij->kuj", source.shared_m, pull.information).reshape(k, -1)
        coupling = pushed @ rows.reshape(-1, self.size)
        own = pushed @ source.shared_m.reshape(k, -1).T + np.eye(k)
        right = source.shared_m.reshape(k, -1) @ pull.pull.ravel() - source.factors
        solved = np.linalg.solve(own, np.column_stack([coupling, right]))
        self.A -= coupling.T @ solved[:, :-1]
        self.b -= coupling.T @ solved[:, -1]
        self._shared[name] = solved

    def _rows_of(self, operator: sp.csr_matrix, now: F64) -> F64:
        """Return the derivative (3 L, size) of points that are ``now`` (L, 3); only the pose's columns ever change."""
        rows = self._point_rows.get(id(operator))
        if rows is None:
            P, K = len(self.p), len(self.q)
            rows = self._point_rows[id(operator)] = np.zeros((len(now), 3, self.size))
            rows[:, :, :P] = np.asarray(operator @ self._flat_blend).reshape(len(now), 3, P)
            for axis in range(3):
                rows[:, axis, P + axis : P + 3 * K : 3] = operator @ self.shape.modes[axis]
        for axis in range(3):
            rows[:, axis, -7:] = self._pose_columns(now, np.tile(np.eye(3)[axis], (len(now), 1)))
        return rows.reshape(-1, self.size)

    def _whitened(self, right: F64) -> F64:
        """Return ``right`` (size, n) solved by the lower Cholesky factor of the normal equations as they are."""
        if self._only_prior:
            return np.asarray(right / np.sqrt(self.precision)[:, None])
        factor = scipy.linalg.cholesky(self.A.T, lower=True, check_finite=False)
        return np.asarray(scipy.linalg.solve_triangular(factor, right, lower=True, check_finite=False))

    def add_surface(self, surface: Surface, step: Round) -> None:
        """Add point-to-plane distances of the observed vertices."""
        assert step.gate is not None
        targets, x, facing = self._targets(surface, step.gate)
        used = np.flatnonzero(targets.weight > 1e-3)
        # A noisy scan's normals scatter and the template's lean: halfway between errs least.
        normal = normalised(targets.normal[used] + facing[used]) @ self.pose.rotation
        position = self._to_local(x[used])
        residual = np.einsum("nd,nd->n", self._to_local(targets.position[used]) - position, normal)
        scatter_m = 1.4826 * float(np.median(np.abs(residual))) * self.pose.scale if len(used) else 0.0
        sigma = max(step.sigma_m, step.correlated * scatter_m) / self.pose.scale
        P, K = len(self.p), len(self.q)
        rows = np.empty((len(used), self.size), np.float32)
        n32 = normal.astype(np.float32)
        rows[:, :P] = np.einsum("ndp,nd->np", self.blend[used], n32)
        for axis in range(3):
            rows[:, P + axis : P + 3 * K : 3] = n32[:, axis, None] * self.modes[axis, used]
        rows[:, P + 3 * K :] = self._pose_columns(position, normal)
        importance = self._importance(step, self.template.coarse.regions[self.observed[used]])
        self._accumulate("scan", rows, residual, targets.weight[used] * importance / sigma**2)

    def _importance(self, step: Round, regions: npt.NDArray[np.uint8]) -> F64:
        """Return the weights (n,) of distances in some regions beside each other."""
        scatter = np.log((self._scatter_m or CLEAR_SIGMA_M) / CLEAR_SIGMA_M) / np.log(NOISY_SIGMA_M / CLEAR_SIGMA_M)
        features = step.features ** float(np.clip(scatter, 0, 1))
        weight = np.where(mask_of(regions, FEATURE_REGIONS), features, 1.0)
        return np.where(mask_of(regions, HAIR_REGIONS), step.hair, weight)

    def _targets(self, surface: Surface, gate: Gate) -> tuple[Targets, F64, F64]:
        template, level = self.template, self.template.coarse
        current = self.pose.apply(template.subdivide @ self.local)
        skin = current[template.coarse_skin]
        back = BackCheck(cKDTree(current), template.regions, template.canonical_m)
        seen = self.observed
        normals = vertex_normals(skin, level.faces)[seen]
        x = skin[seen]
        self._reach = self._reach or Reach(surface, len(seen))
        asked = level.attract[seen] & self._reach.within(x, gate.max_distance_m)
        targets = find_targets(surface, x, normals, level.regions[seen], level.rest[seen], asked, back, gate)
        self._reach.learn(x, asked, targets.position)
        return targets, x, normals

    def _accumulate(self, source: str, rows: npt.NDArray[np.floating], residual: F64, weight: F64) -> None:
        scaled = rows * np.sqrt(weight)[:, None].astype(rows.dtype)
        information = scaled.T @ scaled
        self.A += information
        self._ledger.add(source, information, 0.5 * float(weight @ residual**2))
        self._only_prior = False
        # One type throughout: mixed, the rows would be copied.
        self.b += rows.T @ (weight * residual).astype(rows.dtype)

    def solve(self) -> None:
        """Take the step, parameters kept within their bounds."""
        P = len(self.p)
        step = self._bounded_step(P)
        # Shape and size may go against each other: only together do they stay where the evidence wants them.
        step *= min(1.0, MAX_STRETCH_STEP / max(abs(float(step[-1])), 1e-12))
        for name, solved in self._shared.items():
            assert self._seen is not None
            self._seen.sources[name].factors += solved[:, -1] - solved[:, :-1] @ step
        self.p = np.clip(self.p + step[:P], self.shape.lower, self.shape.upper)
        self.q = self.q + step[P:-7].reshape(self.q.shape)
        self._move(step[-7:-4], step[-4:-1], float(step[-1]))

    def _bounded_step(self, P: int) -> F64:
        """Return the step; what has no bounds is eliminated first (Schur), so that bounds cost little."""
        factor = scipy.linalg.cholesky(self.A[P:, P:].T, lower=True, check_finite=False)
        right = np.vstack([self.A[:P, P:], self.b[P:]]).T
        whitened = scipy.linalg.solve_triangular(factor, right, lower=True, check_finite=False)
        coupling, rest = whitened[:, :P], whitened[:, P]
        A = self.A[:P, :P] - coupling.T @ coupling
        b = self.b[:P] - coupling.T @ rest
        step = least_in_box(A, b, self.shape.lower - self.p, self.shape.upper - self.p) if P else np.zeros(0)
        rest = rest - coupling @ step
        return np.concatenate(
            [step, scipy.linalg.solve_triangular(factor, rest, lower=True, trans="T", check_finite=False)]
        )

    def _move(self, turn: F64, shift: F64, stretch: float) -> None:
        """Compose the pose with a similarity about the centre, in local axes."""
        pose, c = self.pose, self.centre
        scale, rotation = float(np.exp(stretch)), Rotation.from_rotvec(turn).as_matrix()
        local_shift = c + shift - scale * rotation @ c
        translation = pose.translation + pose.scale * pose.rotation @ local_shift
        self.pose = Similarity(pose.scale * scale, pose.rotation @ rotation, translation)
        self.log_scale += stretch

    def result(self, weigh: bool = False) -> ShapeFit:
        """Return where the fit stands."""
        vertices = self.pose.apply(self.shape.vertices(self.p, self.q))
        determined, held = self._determined() if weigh else float("nan"), self._ledger.held(self.A)
        spread_m, scale = self._spread_m(), {}
        if self._seen is not None:
            # Pictures tell more than the shape can follow, which the spread of what it can follow lacks.
            spread_m, scale = np.hypot(spread_m, FOLLOWED_M), dict(self._seen.scale)
        return ShapeFit(self.pose, self.p, self.q, vertices, spread_m, determined, scale, held, self._scatter_m)

    def _determined(self) -> float:
        """Return MacKay's number of well-determined coefficients: their count less their posterior variances."""
        variance = np.diag(np.linalg.inv(self.A))[len(self.p) : -7]
        return float(len(variance) - variance.sum())

    def _spread_m(self) -> F64:
        """Posterior standard deviation at some vertices, spread to all fine ones by inverse distance."""
        chosen, near, share = uncertainty_points(self.template)
        P, K = len(self.p), len(self.q)
        factor = scipy.linalg.cholesky(self.A.T, lower=True, check_finite=False)
        position = (self.template.subdivide @ self.local)[self.template.coarse_skin[self.observed[chosen]]]
        variance = np.zeros(len(chosen))
        for axis in range(3):
            rows = np.zeros((len(chosen), self.size))
            rows[:, :P] = self.blend[chosen, axis]
            rows[:, P + axis : P + 3 * K : 3] = self.modes[axis, chosen]
            rows[:, P + 3 * K :] = self._pose_columns(position, np.tile(np.eye(3)[axis], (len(chosen), 1)))
            whitened = scipy.linalg.solve_triangular(factor, rows.T, lower=True, check_finite=False)
            variance += (whitened**2).sum(axis=0)
        spread = (np.sqrt(variance)[near] * share).sum(axis=1)
        return np.asarray(spread * self.pose.scale)
