"""Similarities, smooth modes, shape spaces and persons, against other solvers and kernels written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from datagen.heads.base import HeadTemplate, LinearHead
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.warp import shape_model as morphable
from datagen.warp.expression_process import expression_modes
from datagen.warp.personal import Keyframe, SequencePrior, _expression, learn_neutral, personal_shape
from datagen.warp.shape_model import (
    PERSONAL,
    SMOOTH,
    Component,
    error_modes,
    farthest_points,
    linearise,
    model_shape,
    observed_vertices,
    personal_modes,
    smooth_modes,
    tracked_shape,
)
from datagen.warp.similarity import Similarity, fit_similarity, fit_similarity_robust
from datagen.warp.template import WarpTemplate, prepare_template
from tests.support.round_head import prepared

F64 = np.ndarray


@pytest.fixture(scope="module")
def template() -> WarpTemplate:
    return prepared()


def linear_head(template: HeadTemplate) -> LinearHead:
    rng = np.random.default_rng(6)
    wave = np.stack([np.sin(25 * template.vertices @ rng.normal(size=3)) for _ in range(15)], axis=1)
    shapes = 0.004 * wave.reshape(-1, 3, 5).transpose(2, 0, 1).astype(np.float32)
    return LinearHead(template, shapes[:2], shapes[2:], ("a", "b", "c"))


@pytest.mark.parametrize("with_scale", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_weighted_similarity_is_the_least_of_its_squares(with_scale: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, weights = rng.normal(size=(9, 3)) * [1, 2, 0.5] + 3, rng.uniform(0.05, 4, 9)
    y = 1.3 * x @ Rotation.random(rng=rng).as_matrix().T + rng.normal(0, 0.4, (9, 3)) - 2
    fit = fit_similarity(x, y, weights, with_scale=with_scale)

    def residual(step: F64) -> F64:
        turned = x @ (Rotation.from_rotvec(step[:3]).as_matrix() @ fit.rotation).T
        scale = np.exp(step[6]) * fit.scale if with_scale else 1.0
        moved = scale * turned + fit.translation + step[3:6]
        return (np.sqrt(weights)[:, None] * (moved - y)).ravel()

    best = scipy.optimize.least_squares(residual, np.full(7, 0.01), xtol=1e-14, ftol=1e-14, gtol=1e-14)
    np.testing.assert_allclose(best.x[: 7 if with_scale else 6], 0, atol=1e-6)
    np.testing.assert_allclose(fit.apply(x), fit.scale * (fit.rotation @ x.T).T + fit.translation)
    np.testing.assert_allclose(np.linalg.det(fit.rotation), 1)
    assert (fit.scale == 1.0) == (not with_scale)
    # Weights count relative to each other only, and none is as good as equal ones.
    np.testing.assert_allclose(fit_similarity(x, y, 7 * weights, with_scale=with_scale).rotation, fit.rotation)
    np.testing.assert_allclose(fit_similarity(x, y).translation, fit_similarity(x, y, np.full(9, 0.3)).translation)


def test_a_mirror_image_is_fitted_by_a_turn_and_a_smaller_scale() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(30, 3)) * [3, 2, 1]
    x -= x.mean(axis=0)
    x = x @ np.linalg.svd(x.T @ x)[0]  # axes along its own
    fit = fit_similarity(x, x * [1, 1, -1])
    np.testing.assert_allclose(fit.rotation, np.eye(3), atol=1e-9)
    a, b, c = (x**2).sum(axis=0)
    assert fit.scale == pytest.approx((a + b - c) / (a + b + c))


def test_the_rigid_part_maps_its_pivot_like_the_similarity() -> None:
    pose = Similarity(1.4, Rotation.from_rotvec([0.3, 0.1, -0.7]).as_matrix(), np.array([0.1, 0.2, 0.3]))
    pivot = np.array([0.5, -0.2, 0.8])
    matrix = pose.rigid_matrix(pivot)
    np.testing.assert_allclose(matrix @ [*pivot, 1], [*pose.apply(pivot[None])[0], 1])
    np.testing.assert_array_equal(matrix[:3, :3], pose.rotation)
    np.testing.assert_allclose(pose.rigid_matrix()[:3, 3], pose.translation)


@pytest.mark.parametrize("rounds", [0, 1, 2, 10])
def test_a_robust_fit_is_reweighted_by_geman_mcclure_of_twice_the_median(rounds: int) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(20, 3))
    y = 1.1 * x + 0.2 + rng.normal(0, 0.02, x.shape)
    y[:5] += rng.normal(0, 0.5, (5, 3))
    weights = np.ones(20)
    for _ in range(rounds):
        off = np.sqrt(((fit_similarity(x, y, weights).apply(x) - y) ** 2).sum(axis=1))
        weights = 1 / (1 + (off / (2 * 1.4826 * np.median(off))) ** 2) ** 2
    wanted, found = fit_similarity(x, y, weights), fit_similarity_robust(x, y, rounds=rounds)
    np.testing.assert_allclose(found.apply(x), wanted.apply(x), atol=1e-10)
    assert fit_similarity_robust(x, y, with_scale=False).scale == 1.0


def test_modes_reproduce_the_sum_of_kernels_at_the_nodes_and_their_rank_is_kept_to() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.1, 0.1, (60, 3))
    parts = [Component(0.03, 0.4), Component(0.06, 1.0)]
    found = smooth_modes(points, parts, nodes=60, rank=60)
    other = rng.uniform(-0.1, 0.1, (7, 3))
    d = np.linalg.norm(points[:, None] - points[None], axis=2)
    wanted = 0.16 * np.exp(-(d**2) / (2 * 0.03**2)) + np.exp(-(d**2) / (2 * 0.06**2))
    modes = found.at(points)
    np.testing.assert_allclose(modes @ modes.T, wanted, atol=1e-4)
    # Elsewhere: the projection on the nodes' space, kernel(x, nodes) K⁻¹ kernel(nodes, x).
    away = np.linalg.norm(other[:, None] - points[None], axis=2)
    row = 0.16 * np.exp(-(away**2) / (2 * 0.03**2)) + np.exp(-(away**2) / (2 * 0.06**2))
    there = found.at(other)
    np.testing.assert_allclose(there @ there.T, row @ np.linalg.solve(wanted, row.T), atol=2e-3)
    few = smooth_modes(points, parts, nodes=40, rank=10)
    assert few.count == 10
    assert len(few.nodes) == 40
    eigenvalues = (few.at(few.nodes) ** 2).sum(axis=0)
    assert (np.diff(eigenvalues) <= 1e-12).all()
    at_nodes = np.linalg.norm(few.nodes[:, None] - few.nodes[None], axis=2)
    kernel = 0.16 * np.exp(-(at_nodes**2) / (2 * 0.03**2)) + np.exp(-(at_nodes**2) / (2 * 0.06**2))
    np.testing.assert_allclose(eigenvalues, np.linalg.eigvalsh(kernel)[::-1][:10])
    # The largest entry of each vector is positive.
    vectors = few.loadings / np.linalg.norm(few.loadings, axis=0)
    assert (vectors[np.abs(vectors).argmax(axis=0), range(10)] > 0).all()


def test_modes_that_are_rounding_errors_are_left_out() -> None:
    points = np.random.default_rng(1).uniform(-0.01, 0.01, (50, 3))
    found = smooth_modes(points, [Component(0.2, 1.0)], nodes=50, rank=50)
    d = np.linalg.norm(found.nodes[:, None] - found.nodes[None], axis=2)
    values = np.linalg.eigvalsh(np.exp(-(d**2) / (2 * 0.2**2)))
    assert found.count == (values > 1e-6 * values.max()).sum() < 20


def test_points_are_chosen_from_the_foremost_on_each_the_farthest() -> None:
    points = np.array([[0.0, 0, 0], [1, 0, 0], [0.4, 0, 0.1], [0.9, 0, 0], [0, 0.3, 0]])
    assert farthest_points(points, 4).tolist() == [2, 1, 4, 0]
    assert farthest_points(points, 9).tolist() == [2, 1, 4, 0, 3]


def test_a_linear_head_is_linearised_exactly_with_its_priors(template: WarpTemplate) -> None:
    head = linear_head(template.head)
    model = linearise(head)
    np.testing.assert_allclose(model.mean, template.head.vertices)
    np.testing.assert_allclose(model.basis, [*head.identity_modes, *head.expression_shapes], atol=1e-9)
    assert model.n_identity == 2
    assert model.sigma.tolist() == [1.0, 1.0, 0.35, 0.35, 0.35]
    assert model.lower.tolist() == [-3.0, -3.0, 0.0, 0.0, 0.0]
    assert model.upper.tolist() == [3.0, 3.0, 1.0, 1.0, 1.0]


class Curved:
    """A head whose parameters do not act linearly."""

    def __init__(self, template: HeadTemplate) -> None:
        self.template, self.identity_size, self.expression_names = template, 1, ("a",)

    def vertices(self, identity: F64, expression: F64) -> F64:
        x = self.template.vertices
        return x + 0.01 * (identity[0] + identity[0] ** 2 + identity[0] ** 3) + 0.02 * np.sqrt(expression[0]) * x


def test_of_a_curved_head_identity_is_taken_at_its_middle_and_expression_at_its_full(template: WarpTemplate) -> None:
    model = linearise(Curved(template.head))  # type: ignore[arg-type]
    np.testing.assert_allclose(model.basis[0], 0.01 * (1 + 0.25**2), rtol=1e-6)
    np.testing.assert_allclose(model.basis[1], 0.02 * template.head.vertices, atol=1e-12)


def test_shape_spaces_have_the_priors_they_are_made_for(template: WarpTemplate) -> None:
    head = linear_head(template.head)
    shape = model_shape(head, template)
    assert (shape.turn_rad, shape.shift_m, shape.stretch, shape.n_identity) == (1.0, 1.0, 0.08, 2)
    np.testing.assert_array_equal(shape.modes, personal_modes(template))
    # Nothing is known of this head's people: its mean is its own.
    np.testing.assert_array_equal(shape.base, template.head.vertices)
    np.testing.assert_array_equal(shape.sigma, [0.3, 0.3, 0.35, 0.35, 0.35])
    np.testing.assert_array_equal(linearise(head).sigma, [1.0, 1.0, 0.35, 0.35, 0.35])
    p, q = np.array([0.5, -1, 0.2, 0, 1]), np.random.default_rng(0).normal(size=(shape.modes.shape[2], 3))
    smooth = np.stack([shape.modes[axis] @ q[:, axis] for axis in range(3)], axis=1)
    wanted = head.vertices(p[:2], p[2:]) + smooth
    np.testing.assert_allclose(shape.vertices(p, q), wanted, atol=1e-8)

    tracked = tracked_shape(template, template.head.vertices + 0.1, 1.6e-3)
    assert tracked.turn_rad == pytest.approx(0.02)
    assert tracked.shift_m == pytest.approx(1.6e-3)
    assert tracked.stretch == pytest.approx(0.06)
    assert tracked.blend.shape == (0, len(template.head.vertices), 3)
    np.testing.assert_array_equal(tracked.modes, 1.6e-3 * error_modes(template))

    prior = SequencePrior("round", template.head.vertices * 1.1, (0,))
    person = personal_shape(head, template, prior)
    assert (person.turn_rad, person.shift_m, person.stretch) == (1.0, 1.0, 0.003)
    np.testing.assert_array_equal(person.base, prior.neutral)
    np.testing.assert_array_equal(person.modes, [expression_modes(head, template)] * 3)
    wider = personal_shape(head, template, replace(prior, amplitude=1.5))
    np.testing.assert_array_equal(wider.modes, 1.5 * person.modes)
    assert person.sigma.tolist() == [0.35] * 3
    assert person.lower.tolist() == [0.0] * 3
    assert person.upper.tolist() == [1.0] * 3


def test_a_trackers_errors_have_unit_amplitude_and_their_length(template: WarpTemplate) -> None:
    assert (Component(0.035, 1.0),) == SMOOTH
    skin = template.coarse_skin
    for modes in error_modes(template):
        np.testing.assert_allclose((modes[skin] ** 2).sum(axis=1), 1.0, rtol=0.02)


def test_people_differ_by_fields_of_several_lengths_mostly_the_same_on_both_sides(template: WarpTemplate) -> None:
    x = template.canonical_m[: len(template.head.vertices)][template.coarse_skin]
    direct = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    across = ((x[:, None] - (x * [-1, 1, 1])[None]) ** 2).sum(axis=2)
    for modes, sign in zip(personal_modes(template), (-1, 1, 1), strict=True):
        wanted = np.zeros_like(direct)
        for part in PERSONAL:
            near, far = (np.exp(-d / (2 * part.length_m**2)) for d in (direct, across))
            wanted += part.amplitude_m**2 * near + part.mirrored_m**2 * (near + sign * far) / 2
        found = modes[template.coarse_skin] @ modes[template.coarse_skin].T
        np.testing.assert_allclose(found, wanted, atol=1e-3 * wanted.max())
    # The likeliest lengths for real families: from a feature's to a head's, larger where longer, more of it mirrored.
    lengths, own, mirrored = np.array([[p.length_m, p.amplitude_m, p.mirrored_m] for p in PERSONAL]).T
    np.testing.assert_allclose(lengths, [0.01, 0.02, 0.04, 0.08, 0.16])
    assert (np.diff(own) > 0).all()
    assert (np.diff(mirrored) > 0).all()
    assert (mirrored >= 2 * own).all()


@given(st.sampled_from([-1.0, 1.0]), st.floats(0.01, 0.1), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_a_mirrored_field_is_its_own_mirror_image(parity: float, length_m: float, seed: int) -> None:
    """d(Mx) = M d(x): the coordinate across changes its sign, the others keep theirs, though the nodes are lopsided."""
    rng = np.random.default_rng(seed)
    modes = smooth_modes(
        rng.uniform(-0.1, 0.1, (60, 3)), [Component(length_m, 0.0, 2e-3)], nodes=40, rank=25, parity=parity
    )
    x = rng.uniform(-0.1, 0.1, (20, 3))
    draw = rng.normal(size=modes.count)
    np.testing.assert_allclose(modes.at(x * [-1, 1, 1]) @ draw, parity * modes.at(x) @ draw, atol=1e-9)


def test_a_mirrored_field_is_whole_at_the_midline_and_half_as_much_away_from_it() -> None:
    """In variance, which adds up with that of fields of either side; across, the midline does not move."""
    parts = [Component(0.02, 3e-3, 4e-3)]
    points = np.array([[0.0, 0, 0], [0.1, 0, 0], [-0.1, 0, 0], [0.0, 0.1, 0]])
    for parity, middle in ((1.0, 9 + 16), (-1.0, 9)):
        modes = smooth_modes(points, parts, nodes=4, rank=4, parity=parity).at(points)
        found = modes @ modes.T * 1e6
        np.testing.assert_allclose(np.diag(found), [middle, 17, 17, middle], rtol=1e-6)
        # The two sides have the mirrored part in common.
        assert found[1, 2] == pytest.approx(8 * parity, rel=1e-6)
    either = smooth_modes(points, [Component(0.02, 3e-3)], nodes=4, rank=4).at(points)
    np.testing.assert_allclose(either @ either.T * 1e6, 9 * np.eye(4), atol=1e-3)


def test_the_vertices_looked_at_may_follow_the_scan(template: WarpTemplate) -> None:
    np.testing.assert_array_equal(observed_vertices(template), np.flatnonzero(template.coarse.attract))


def test_of_many_vertices_most_are_looked_at_on_the_face(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (morphable.FACE_OBSERVATIONS, morphable.OTHER_OBSERVATIONS) == (1800, 700)
    monkeypatch.setattr(morphable, "FACE_OBSERVATIONS", 180)
    monkeypatch.setattr(morphable, "OTHER_OBSERVATIONS", 70)
    fine = prepared(3)
    level, seen = fine.coarse, observed_vertices(fine)
    face = mask_of(level.regions, FACE_REGIONS)
    assert face[seen].sum() == 180
    assert (~face[seen]).sum() == 70
    assert (np.diff(seen) > 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_expression_weights_are_the_bounded_ridge(seed: int) -> None:
    rng = np.random.default_rng(seed)
    blend = 0.003 * rng.normal(size=(50, 3, 4))
    weight = rng.uniform(0, 1, 50)
    displacement = blend @ np.array([0.5, -0.6, 1.7, 0.1]) + 0.003 * rng.normal(size=(50, 3))
    # 50 vertices of three coordinates count as 300 numbers.
    root = np.repeat(np.sqrt(weight), 3) / 0.001 / np.sqrt(150 / 300)
    rows = np.concatenate([blend.reshape(150, 4) * root[:, None], np.eye(4) / 0.35])
    right = np.concatenate([displacement.ravel() * root, np.zeros(4)])
    wanted = scipy.optimize.lsq_linear(rows, right, (0, 1), tol=1e-13).x
    found = _expression(blend, displacement, weight)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert found[1] == 0


def test_what_a_keyframe_did_not_see_counts_a_fiftieth_and_one_size_is_common() -> None:
    template = prepared()
    bare = LinearHead(template.head, np.zeros((0, 204, 3), np.float32), np.zeros((0, 204, 3), np.float32), ())
    neutral = template.subdivide @ template.head.vertices
    top = template.canonical_m[:, 1] > 0.05
    wrong = neutral + np.where(top, 0.004, 0.0)[:, None] * [0, 1, 0]
    seen, unseen = np.ones(len(neutral)), np.where(top, 0.0, 1.0)
    frames = [Keyframe(3, 1.1 * neutral + 0.5, seen), Keyframe(8, 1.1 * wrong - 0.2, unseen)]
    learnt = learn_neutral(bare, template, frames)
    assert learnt.frames == (3, 8)
    assert learnt.head == "round"
    smooth = template.subdivide @ learnt.neutral
    fit = fit_similarity(neutral[~top], smooth[~top])
    assert fit.scale == pytest.approx(1.1, rel=2e-3)
    raised = (smooth - fit.apply(neutral))[top & (template.regions != 15)][:, 1] / 1.1
    # 0.02 against 1.02 of weight.
    assert np.median(raised) == pytest.approx(0.004 * 0.02 / 1.04, abs=1e-4)
    equal = learn_neutral(bare, template, [frames[0], Keyframe(8, frames[1].vertices, seen)])
    lifted = (template.subdivide @ equal.neutral - neutral * 1.1)[:, 1]
    assert np.median(lifted[top]) - np.median(lifted[~top]) > 0.001


def test_a_prepared_template_is_made_once(template: WarpTemplate) -> None:
    assert prepare_template(template.head, 0) is template
    assert prepare_template(template.head, 1) is not template
    assert error_modes(template) is error_modes(template)
