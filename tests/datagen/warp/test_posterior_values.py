"""The posterior, part by part, against a second implementation: dense matrices, numerical derivatives, closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
import scipy.stats
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import vertex_normals
from datagen.heads.regions import REGIONS
from datagen.warp.correspond import BackCheck, Gate, find_targets
from datagen.warp.posterior import PointEvidence, Round, ShapeFit, fit_shape, landmark_evidence
from datagen.warp.shape_model import MorphableShape, observed_vertices
from datagen.warp.similarity import Similarity
from datagen.warp.surface import Surface
from datagen.warp.template import WarpTemplate
from tests.support.round_head import AXES_M, prepared

F64 = np.ndarray
POSE = Similarity(1.07, Rotation.from_rotvec([0.2, -0.4, 0.1]).as_matrix(), np.array([0.3, -0.2, 1.1]))
GATE = Gate(0.03, 0.3, 0.01)


@pytest.fixture(scope="module")
def template() -> WarpTemplate:
    return prepared()


def shape_of(
    template: WarpTemplate, *, turn: float = 0.3, shift: float = 0.02, stretch: float = 0.05
) -> MorphableShape:
    """Three parameters with unlike priors and two smooth modes, others for each coordinate."""
    rng = np.random.default_rng(4)
    base = template.head.vertices
    wave = np.stack([np.sin(30 * base @ rng.normal(size=3)) for _ in range(15)], axis=1)
    return MorphableShape(
        base=base,
        blend=0.004 * wave[:, :9].reshape(len(base), 3, 3).transpose(1, 0, 2),
        sigma=np.array([1.0, 0.35, 0.6]),
        lower=np.array([-3.0, 0.0, -3.0]),
        upper=np.array([3.0, 1.0, 3.0]),
        modes=0.002 * wave[:, 9:].reshape(len(base), 3, 2).transpose(1, 0, 2),
        turn_rad=turn,
        shift_m=shift,
        stretch=stretch,
    )


def written_out_variance(known: F64, apart: F64, sigma: tuple[float, float], usual: float, vague: F64) -> F64:
    """Densities of the normal distribution for every standard deviation, and a regression for every point left out."""
    count = len(apart) // 3
    grid = [sigma[0] * (sigma[1] / sigma[0]) ** (k / 24) for k in range(25)]
    factor = vague**2
    for _ in range(4):
        each = np.diag(np.repeat(factor, 3))

        def log_density(s: float, each: F64 = each) -> float:
            normal = scipy.stats.multivariate_normal(np.zeros(len(apart)), known + s**2 * each)
            return float(normal.logpdf(apart) + scipy.stats.norm.logpdf(np.log(s), np.log(usual), 1.0))

        best = max(grid, key=log_density)
        total = known + best**2 * each
        for k in range(count):  # the total is of the factors before
            own = np.arange(3 * k, 3 * k + 3)
            others = np.setdiff1d(np.arange(3 * count), own)
            regression = np.linalg.solve(total[np.ix_(others, others)], total[np.ix_(others, own)]).T
            off = apart[own] - regression @ apart[others]
            good = known[np.ix_(own, own)] + best**2 * vague[k] ** 2 * np.eye(3)
            spread = good - regression @ total[np.ix_(others, own)]
            # Of Student's t with four degrees of freedom in three dimensions: the weight is 7/(4 + d²), at most 1.
            factor[k] = vague[k] ** 2 / min(1.0, 7 / (4 + off @ np.linalg.solve(spread, off)))
    return factor * best**2


class Dense:
    """One step after another, all written out: residuals as functions, derivatives by differences."""

    def __init__(self, template: WarpTemplate, shape: MorphableShape, pose: Similarity) -> None:
        self.template, self.shape, self.first, self.pose = template, shape, pose, pose
        self.P, self.K = len(shape.blend), shape.modes.shape[2]
        self.known = np.zeros(self.P + 3 * self.K)
        self.log_scale, self.scatter_m = 0.0, 0.6e-3

    def local(self, known: F64) -> F64:
        q = known[self.P :].reshape(self.K, 3)
        smooth = np.stack([self.shape.modes[axis] @ q[:, axis] for axis in range(3)], axis=1)
        return self.shape.base + np.einsum("p,pvd->vd", known[: self.P], self.shape.blend) + smooth

    def moved(self, step: F64) -> F64:
        """Control vertices in the local axes after a step of parameters, coefficients, turn, shift, log scale."""
        centre = self.local(self.known).mean(axis=0)
        body, (turn, shift, stretch) = step[:-7], (step[-7:-4], step[-4:-1], step[-1])
        arm = self.local(self.known + body) - centre
        return np.exp(stretch) * arm @ Rotation.from_rotvec(turn).as_matrix().T + centre + shift

    def jacobian(self, rows: sp.csr_matrix) -> F64:
        """d(rows @ control vertices)/d(step), (L, 3, size)."""
        size, h = len(self.known) + 7, 1e-5
        each = np.eye(size) * h
        return np.stack([rows @ (self.moved(e) - self.moved(-e)) / (2 * h) for e in each], axis=2)

    def to_local(self, points: F64) -> F64:
        return (points - self.pose.translation) @ self.pose.rotation / self.pose.scale

    def equations(self, step: Round, surface: Surface | None, evidence: list[PointEvidence]) -> tuple[F64, F64]:
        """Stacked rows and right sides; each is divided by its standard deviation."""
        shape, size = self.shape, len(self.known) + 7
        sigma = np.concatenate(
            [shape.sigma, np.ones(3 * self.K), [shape.turn_rad] * 3, [shape.shift_m] * 3, [shape.stretch]]
        )
        turn = Rotation.from_matrix(self.first.rotation.T @ self.pose.rotation).as_rotvec()
        middle = shape.base.mean(axis=0)[None]
        shift = self.pose.rotation.T @ (self.pose.apply(middle) - self.first.apply(middle))[0] / self.pose.scale
        rows = [np.eye(size) / sigma[:, None]]
        right = [-np.concatenate([self.known, turn, shift, [self.log_scale]]) / sigma]
        now = self.local(self.known)
        if step.gate is not None and surface is not None:
            more = self.planes(step, surface, now)
            rows.append(more[0])
            right.append(more[1])
        for points in evidence:
            J = self.jacobian(points.operator)
            residual = self.to_local(points.position) - points.operator @ now
            # What the prior, the surface and earlier points say of these.
            A, b = np.concatenate(rows), np.concatenate(right)
            covariance = np.linalg.inv(A.T @ A)
            flat = J.reshape(-1, size)
            apart_m = self.pose.scale * (residual.ravel() - flat @ covariance @ A.T @ b)
            known_m2 = self.pose.scale**2 * flat @ covariance @ flat.T
            vague = np.ones(len(residual)) if points.vagueness is None else points.vagueness
            variance_m2 = written_out_variance(known_m2, apart_m, points.sigma_m, points.usual_m, vague)
            self.scatter_m = np.median(np.sqrt(variance_m2))
            tau = np.sqrt(variance_m2) / self.pose.scale
            for k in range(len(residual)):
                rows.append(J[k] / tau[k])
                right.append(residual[k] / tau[k])
        return np.concatenate(rows), np.concatenate(right)

    def planes(self, step: Round, surface: Surface, now: F64) -> tuple[F64, F64]:
        template, level = self.template, self.template.coarse
        seen = observed_vertices(template)
        world = self.pose.apply(template.subdivide @ now)
        skin = world[template.coarse_skin]
        facing = vertex_normals(skin, level.faces)[seen]
        back = BackCheck(cKDTree(world), template.regions, template.canonical_m)
        found = find_targets(
            surface, skin[seen], facing, level.regions[seen], level.rest[seen], level.attract[seen], back, step.gate
        )
        used = found.weight > 1e-3
        normal = found.normal[used] + facing[used]
        normal = normal / np.linalg.norm(normal, axis=1, keepdims=True) @ self.pose.rotation
        off = self.to_local(found.position[used]) - self.to_local(skin[seen][used])
        residual = (off * normal).sum(axis=1)
        scatter_m = 1.4826 * np.median(np.abs(residual)) * self.pose.scale
        sigma = max(step.sigma_m, step.correlated * scatter_m) / self.pose.scale
        J = self.jacobian(template.subdivide[template.coarse_skin[seen[used]]])
        names = {label: name for name, label in REGIONS.items()}
        # 0.6 mm of the points' scatter and less are clear, 1.2 mm and more noisy.
        features = np.exp(np.interp(np.log(self.scatter_m), np.log([0.6e-3, 1.2e-3]), [0, np.log(step.features)]))
        known = {"forehead": step.hair, "scalp": step.hair}
        known |= dict.fromkeys(("nose", "upper_lip", "lower_lip"), features)
        weight = np.array([known.get(names[label], 1.0) for label in level.regions[seen[used]].tolist()])
        root = np.sqrt(found.weight[used] * weight) / sigma
        return np.einsum("nds,nd->ns", J, normal) * root[:, None], residual * root

    def take(self, step: Round, surface: Surface | None, evidence: list[PointEvidence]) -> None:
        rows, right = self.equations(step, surface, evidence)
        low, high = np.full(rows.shape[1], -np.inf), np.full(rows.shape[1], np.inf)
        low[: self.P] = self.shape.lower - self.known[: self.P]
        high[: self.P] = self.shape.upper - self.known[: self.P]
        found = scipy.optimize.lsq_linear(rows, right, (low, high), tol=1e-14, max_iter=500).x
        self.rows, self.before = rows, (self.known.copy(), self.pose)
        centre = self.local(self.known).mean(axis=0)
        turn, stretch = Rotation.from_rotvec(found[-7:-4]).as_matrix(), np.clip(found[-1], -0.1, 0.1)
        local = Similarity(np.exp(stretch), turn, centre + found[-4:-1] - np.exp(stretch) * turn @ centre)
        self.pose = Similarity(
            self.pose.scale * local.scale,
            self.pose.rotation @ local.rotation,
            self.pose.apply(local.translation[None])[0],
        )
        self.known = self.known + found[:-7]
        self.log_scale += stretch

    def spread_m(self) -> F64:
        """Root of the summed variances at the vertices seen, spread to the others by inverse distance."""
        after, self.known = self.known, self.before[0]
        seen = observed_vertices(self.template)
        J = self.jacobian(self.template.subdivide[self.template.coarse_skin[seen]])
        self.known = after
        covariance = np.linalg.inv(self.rows.T @ self.rows)
        deviation = np.sqrt(np.einsum("nds,st,ndt->n", J, covariance, J)) * self.pose.scale
        rest = self.template.coarse.rest[seen]
        spread = np.empty(len(self.template.canonical_m))
        for k, point in enumerate(self.template.canonical_m):
            distance = np.linalg.norm(rest - point, axis=1)
            near = np.argsort(distance)[:4]
            share = 1 / np.maximum(distance[near], 1e-4)
            spread[k] = deviation[near] @ share / share.sum()
        return spread


def check(
    template: WarpTemplate, shape: MorphableShape, rounds: list[Round], surface: Surface | None, evidence
) -> ShapeFit:
    """Fit with both, compare everything, and return the fit."""
    fit = fit_shape(template, shape, POSE, rounds, surface, evidence)
    dense = Dense(template, shape, POSE)
    for step in rounds:
        dense.take(step, surface, evidence)
    # The rows of distances to the surface are float32.
    near = {"rtol": 1e-3, "atol": 2e-4}
    np.testing.assert_allclose(fit.parameters, dense.known[:3], **near)
    np.testing.assert_allclose(fit.coefficients.ravel(), dense.known[3:], **near)
    assert fit.similarity.scale == pytest.approx(dense.pose.scale, rel=1e-5)
    np.testing.assert_allclose(fit.similarity.rotation, dense.pose.rotation, atol=1e-5)
    np.testing.assert_allclose(fit.vertices, dense.pose.apply(dense.local(dense.known)), atol=1e-6)
    np.testing.assert_allclose(fit.spread_m, dense.spread_m(), rtol=2e-3)
    return fit


def marks(template: WarpTemplate, shape: MorphableShape, noise_m: float, parameters=(0.8, 0.4, -0.5)) -> PointEvidence:
    """Landmarks of a shape that is turned, moved, bent and a little noisy."""
    rng = np.random.default_rng(9)
    truth = shape.vertices(np.array(parameters), rng.normal(size=(2, 3)))
    pose = Similarity(
        1.11, POSE.rotation @ Rotation.from_rotvec([0.05, 0.1, -0.08]).as_matrix(), POSE.translation + 0.006
    )
    placed = pose.apply(truth)
    points = template.landmark_matrix(np.arange(68)) @ (template.subdivide @ placed)
    return landmark_evidence(template, Landmarks(np.arange(68), points + noise_m * rng.normal(size=points.shape)))


@pytest.mark.parametrize("noise_m", [0.0, 2e-3, 9e-3])
@pytest.mark.parametrize("count", [1, 3])
def test_landmarks_alone_give_the_dense_solution(template: WarpTemplate, noise_m: float, count: int) -> None:
    """Below, between and above the limits of their standard deviation; the second round starts away from the prior."""
    shape = shape_of(template)
    check(template, shape, [Round(None)] * count, None, [marks(template, shape, noise_m)])


def test_a_landmark_three_centimetres_off_hardly_counts(template: WarpTemplate) -> None:
    shape = shape_of(template)
    good = marks(template, shape, 1e-3)
    position = good.position.copy()
    position[5] += [0.0, 0.03, 0.0]
    wrong = PointEvidence(good.operator, position)
    rounds = [Round(None)] * 4
    fit = check(template, shape, rounds, None, [wrong])
    untouched = fit_shape(template, shape, POSE, rounds, None, [good])
    # Of 68 landmarks one that is off by 3 cm pulls the mean by 0.4 mm if it counts like any other.
    assert np.linalg.norm(fit.vertices.mean(axis=0) - untouched.vertices.mean(axis=0)) < 2e-4


@pytest.mark.parametrize("parameters", [(0.8, 1.9, -0.5), (0.8, -0.9, -0.5), (0.0, 1.9, 6.0)])
def test_a_parameter_at_its_bound_leaves_the_others_at_their_optimum(template: WarpTemplate, parameters) -> None:
    shape = shape_of(template)
    fit = check(template, shape, [Round(None)], None, [marks(template, shape, 1e-3, parameters)])
    # A step that ends at a bound may miss it by rounding.
    held = np.isclose(fit.parameters, shape.lower, atol=1e-9) | np.isclose(fit.parameters, shape.upper, atol=1e-9)
    assert held.any()
    assert not held.all()


@pytest.mark.parametrize("sigma_m", [1e-5, 4e-3])
def test_distances_to_a_scan_give_the_dense_solution(template: WarpTemplate, sigma_m: float) -> None:
    """With a small standard deviation the distances' own scatter counts, several-fold; a large one is as given."""
    shape = shape_of(template)
    rng = np.random.default_rng(2)
    truth = POSE.apply(shape.vertices(np.array([0.5, 0.3, -0.4]), 0.5 * rng.normal(size=(2, 3))))
    outer = template.subdivide @ truth
    scan = Surface(
        outer + 0.001 * rng.normal(size=outer.shape),
        template.faces[(template.regions != 15)[template.faces].all(axis=1)],
    )
    check(template, shape, [Round(GATE, sigma_m)] * 2, scan, [])
    check(template, shape, [Round(GATE, sigma_m, 5.0)], scan, [])
    check(template, shape, [Round(GATE, sigma_m, hair=0.1)], scan, [])
    check(template, shape, [Round(GATE, sigma_m)], scan, [marks(template, shape, 1e-3)])


@pytest.mark.parametrize(("noise_m", "clear"), [(0.2e-3, True), (0.9e-3, False), (3e-3, False)])
def test_where_points_scatter_more_is_left_to_the_surface_of_features(
    template: WarpTemplate, noise_m: float, clear: bool
) -> None:
    shape = shape_of(template)
    outer = template.subdivide @ POSE.apply(shape.vertices(np.array([0.5, 0.3, -0.4]), np.full((2, 3), 0.4)))
    rough = outer + 0.001 * np.random.default_rng(2).normal(size=outer.shape)
    scan = Surface(rough, template.faces[(template.regions != 15)[template.faces].all(axis=1)])
    evidence = [marks(template, shape, noise_m)]
    fit = check(template, shape, [Round(None)] * 2 + [Round(GATE, 1e-5, features=4.0)], scan, evidence)
    plain = fit_shape(template, shape, POSE, [Round(None)] * 2 + [Round(GATE, 1e-5)], scan, evidence)
    assert np.allclose(fit.spread_m, plain.spread_m, rtol=1e-6) == clear
    if not clear:
        assert fit.spread_m.mean() < plain.spread_m.mean()


def test_evidence_of_a_tracker_has_limits_of_its_own(template: WarpTemplate) -> None:
    shape = shape_of(template)
    good = marks(template, shape, 1e-3)
    tracked = PointEvidence(good.operator[::5], good.position[::5], (6e-3, 12e-3), 6e-3)
    fit = check(template, shape, [Round(None)], None, [tracked])
    assert (good.sigma_m, good.usual_m) == ((0.2e-3, 4e-3), 0.5e-3)
    assert good.vagueness is not None
    np.testing.assert_allclose(good.vagueness, np.maximum(1, template.head.landmark_sigma_m / 2.6e-3))
    strict = check(template, shape, [Round(None)], None, [PointEvidence(tracked.operator, tracked.position)])
    assert (fit.spread_m > 1.3 * strict.spread_m).all()
    check(template, shape, [Round(None)] * 2, None, [tracked, good])


def test_weak_data_move_the_pose_as_far_as_its_prior_allows(template: WarpTemplate) -> None:
    """Points symmetrical about the centre, all off by one vector: a shift, shrunk by precision over precision."""
    V = len(template.head.vertices)
    shift_m, tau = 0.003, 2e-3
    base = template.head.vertices - template.head.vertices.mean(axis=0)
    shape = MorphableShape(
        base,
        np.zeros((0, V, 3)),
        *(np.zeros(0),) * 3,
        modes=np.zeros((3, V, 1)),
        turn_rad=0.1,
        shift_m=shift_m,
        stretch=0.1,
    )
    still = Similarity(1.0, np.eye(3), np.zeros(3))
    tips = [
        int(np.abs(template.head.vertices[:162] - sign * np.eye(3)[k] * AXES_M).sum(axis=1).argmin())
        for k in range(3)
        for sign in (1, -1)
    ]
    rows = sp.csr_matrix((np.ones(6), (np.arange(6), tips)), shape=(6, V))
    off = np.array([0.0, 0.0, 0.004])
    # One more row at the middle of the six takes nothing away from the symmetry.
    fit = fit_shape(template, shape, still, [Round(None)], None, [PointEvidence(rows, rows @ base + off, (tau, tau))])
    share = (6 / tau**2) / (6 / tau**2 + 1 / shift_m**2)
    moved = fit.vertices.mean(axis=0) - base.mean(axis=0)
    assert moved[2] == pytest.approx(share * off[2], rel=0.02)
    assert share < 0.95


def test_the_size_changes_by_at_most_a_tenth_a_step(template: WarpTemplate) -> None:
    shape = shape_of(template, stretch=10.0, shift=10.0, turn=10.0)
    local = template.head.vertices
    operator = template.subdivide[::7]
    evidence = PointEvidence(operator, POSE.apply(operator @ local * 1.8), (1e-4, 1e-4))
    fit = fit_shape(template, shape, POSE, [Round(None)], None, [evidence])
    assert fit.similarity.scale / POSE.scale == pytest.approx(np.exp(0.1))


def test_a_given_beginning_is_put_within_bounds(template: WarpTemplate) -> None:
    shape = shape_of(template)
    evidence = [marks(template, shape, 1e-3)]
    outside = fit_shape(template, shape, POSE, [Round(None)], None, evidence, parameters=np.array([5.0, -1.0, 0.5]))
    inside = fit_shape(template, shape, POSE, [Round(None)], None, evidence, parameters=np.array([3.0, 0.0, 0.5]))
    np.testing.assert_array_equal(outside.vertices, inside.vertices)
    np.testing.assert_array_equal(outside.spread_m, inside.spread_m)
    far = fit_shape(template, shape, POSE, [Round(None)], None, evidence)
    assert np.abs(far.vertices - inside.vertices).max() > 1e-6
