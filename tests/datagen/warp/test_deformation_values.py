"""Operators, refinement and the coarse-to-fine schedule against dense second implementations."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
import trimesh
from scipy.spatial.transform import Rotation

from datagen.geometry.landmarks import Landmarks
from datagen.heads.regions import REGIONS
from datagen.warp import deform as deform_module
from datagen.warp.correspond import Gate, Targets
from datagen.warp.deform import FROM_LANDMARKS, FROM_REGISTRATION, PointTargets, Stage, Start, deform, solve_thin_plate
from datagen.warp.similarity import fit_similarity
from datagen.warp.surface import Surface
from datagen.warp.template import Level, WarpTemplate, cotangent_laplacian, stiffness_of, vertex_rotations
from tests.support.round_head import AXES_M, EYE_M, EYE_RADIUS_M, prepared

F64 = np.ndarray


@pytest.fixture(scope="module")
def template() -> WarpTemplate:
    return prepared(2, 1)


def dense_laplacian(v: F64, faces: F64) -> tuple[F64, F64]:
    """Half the cotangents of the two opposite angles, each between 0.05 and 4; areas by Heron's formula."""
    L, area = np.zeros((len(v), len(v))), np.zeros(len(v))
    for face in faces:
        for k in range(3):
            i, j, opposite = face[k], face[(k + 1) % 3], face[(k + 2) % 3]
            one, two = v[i] - v[opposite], v[j] - v[opposite]
            angle = np.arccos(one @ two / np.sqrt((one @ one) * (two @ two)))
            half = min(max(1 / np.tan(angle), 0.05), 4.0) / 2
            L[i, j] -= half
            L[j, i] -= half
            L[i, i] += half
            L[j, j] += half
        a, b, c = (np.sqrt(((v[face[k]] - v[face[k - 1]]) ** 2).sum()) for k in range(3))
        s = (a + b + c) / 2
        area[face] += np.sqrt(s * (s - a) * (s - b) * (s - c)) / 3
    return L, area


def crumpled(seed: int = 0) -> tuple[F64, F64]:
    """A ball with uneven triangles, slivers and obtuse ones among them."""
    ball = trimesh.creation.icosphere(1)
    rng = np.random.default_rng(seed)
    v = np.asarray(ball.vertices) * 0.1 + rng.normal(0, 0.012, ball.vertices.shape)
    v[3] = v[ball.faces[np.flatnonzero((ball.faces == 3).any(axis=1))[0]]].mean(axis=0) + 1e-4
    return v, np.asarray(ball.faces)


def test_the_laplacian_is_that_of_the_angles() -> None:
    v, faces = crumpled()
    found, areas = cotangent_laplacian(v, faces)
    L, area = dense_laplacian(v, faces)
    np.testing.assert_allclose(found.toarray(), L, atol=1e-6)
    np.testing.assert_allclose(areas, area, rtol=1e-8)
    # Both limits are met.
    weights = -L[np.triu_indices(len(v), 1)]
    assert (weights >= 2).any()
    assert np.isclose(weights[weights > 0].min(), 0.05, atol=0.03)


def test_a_levels_energy_and_weights() -> None:
    v, faces = crumpled(1)
    for middle, factor in ((5, 0.1), (9, 0.45)):
        ring = np.unique(faces[(faces == middle).any(axis=1)])
        v[ring] = v[middle] + factor * (v[ring] - v[middle])
    level = Level(v, faces.astype(np.int32), np.full(len(v), REGIONS["cheeks"], np.uint8))
    L, area = dense_laplacian(v, faces)
    share = area / area.mean()
    assert share.min() < 0.05  # a vertex lighter than any is taken for, and light ones that are taken as they are
    assert ((share > 0.05) & (share < 0.4)).any()
    mass = area.mean() * np.maximum(area, 0.05 * area.mean())
    np.testing.assert_allclose(level.bending.toarray(), L.T @ np.diag(1 / mass) @ L, rtol=1e-5, atol=1e-2)
    i, j = level.edges.T
    np.testing.assert_allclose(level.edge_weights, -L[i, j], atol=1e-6)
    assert stiffness_of(0.03) == pytest.approx((0.03 / 2 / np.pi) ** 4)
    system = np.diag(np.where(level.attract, 0.4, 1e-3)) + 1e-9 * level.bending.toarray()
    right = np.random.default_rng(0).normal(size=(len(v), 3))
    np.testing.assert_allclose(level.factor(1e-9).solve(right), np.linalg.solve(system, right), rtol=1e-6, atol=1e-9)


def test_each_rotation_is_the_best_for_its_weighted_ring() -> None:
    v, faces = crumpled(2)
    edges = np.asarray(trimesh.Trimesh(v, faces, process=False).edges_unique)
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.1, 3, len(edges))
    bent = v @ Rotation.from_rotvec([0.5, 0.9, -0.3]).as_matrix().T * [1, 1.4, 0.8] + rng.normal(0, 0.004, v.shape)
    found = vertex_rotations(edges, weights, v, bent)
    for k in range(len(v)):
        mine = (edges == k).any(axis=1)
        other = edges[mine].sum(axis=1) - k
        best, _ = Rotation.align_vectors(bent[other] - bent[k], v[other] - v[k], weights[mine])
        np.testing.assert_allclose(found[k], best.as_matrix(), atol=1e-7)
    mirrored = vertex_rotations(edges, weights, v, v * [1, 1, -1])
    np.testing.assert_allclose(np.linalg.det(mirrored), 1)


def dense_minimum(
    level: Level,
    reference: F64,
    targets: Targets,
    wavelength_m: float,
    points: PointTargets | None,
    hold: float,
    turns: F64,
) -> F64:
    """The least of the energy in the docstring of solve_thin_plate, all coordinates in one least-squares system."""
    n = len(reference)
    L, area = dense_laplacian(level.rest, level.faces)
    mass = area.mean() * np.maximum(area, 0.05 * area.mean())
    rows, right = [], []
    for k in range(n):
        w, normal = np.sqrt(targets.weight[k]), targets.normal[k]
        tangent = np.eye(3) - np.outer(normal, normal)
        block = np.zeros((4, 3 * n))
        block[0, 3 * k : 3 * k + 3] = w * normal
        block[1:, 3 * k : 3 * k + 3] = w * np.sqrt(hold) * tangent
        rows.append(block)
        right.append([w * normal @ targets.position[k], *(w * np.sqrt(hold) * tangent @ reference[k])])
    plate = np.sqrt((wavelength_m / (2 * np.pi)) ** 4 / mass)[:, None] * L
    rows.append(np.kron(plate, np.eye(3)))
    detail = np.einsum("nij,nj->ni", turns, L @ reference)
    right.append((np.sqrt((wavelength_m / (2 * np.pi)) ** 4 / mass)[:, None] * detail).ravel())
    if points is not None:
        rows.append(np.sqrt(points.weight) * np.kron(points.operator.toarray(), np.eye(3)))
        right.append(np.sqrt(points.weight) * points.position.ravel())
    return np.linalg.lstsq(np.concatenate(rows), np.concatenate(right), rcond=None)[0].reshape(n, 3)


@pytest.mark.parametrize("with_points", [False, True])
@pytest.mark.parametrize("hold", [0.001, 0.1, 0.6])
@pytest.mark.parametrize("wavelength_m", [0.05, 0.2])
def test_refinement_ends_where_the_dense_system_does(with_points: bool, hold: float, wavelength_m: float) -> None:
    ball = trimesh.creation.icosphere(2, radius=0.09)
    rng = np.random.default_rng(3)
    rest = np.asarray(ball.vertices) + rng.normal(0, 0.002, ball.vertices.shape)
    level = Level(rest, np.asarray(ball.faces, np.int32), np.full(len(rest), REGIONS["cheeks"], np.uint8))
    reference = rest * [1.05, 0.97, 1.0] + 0.3
    normal = rng.normal(size=rest.shape)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    weight = rng.uniform(0, 1, len(rest)) * (rest[:, 0] > -0.03)
    targets = Targets(reference + rng.normal(0, 0.003, rest.shape), normal, weight)
    points = None
    if with_points:
        operator = sp.random(9, len(rest), 0.05, random_state=0, format="csr")
        points = PointTargets(operator, operator @ (reference + 0.002), 2.5)
    turns = np.broadcast_to(np.eye(3), (len(rest), 3, 3))
    wanted = dense_minimum(level, reference, targets, wavelength_m, points, hold, turns)
    found = reference
    for _ in range(40):
        found = solve_thin_plate(level, reference, found, targets, wavelength_m, points, hold=hold)
    step = np.abs(wanted - reference).max()
    assert step > 5e-4
    assert np.abs(found - wanted).max() < 1e-3 * step
    # Of a stiff plate one round is near it already.
    once = solve_thin_plate(level, reference, reference, targets, wavelength_m, points, hold=hold)
    assert wavelength_m < 0.1 or np.abs(once - wanted).max() < 0.1 * step


def test_free_to_turn_the_plate_is_turned_with_its_rings() -> None:
    ball = trimesh.creation.icosphere(2, radius=0.09)
    rng = np.random.default_rng(4)
    rest = np.asarray(ball.vertices) + rng.normal(0, 0.003, ball.vertices.shape)
    level = Level(rest, np.asarray(ball.faces, np.int32), np.full(len(rest), REGIONS["cheeks"], np.uint8))
    start = rest @ Rotation.from_rotvec([0.0, 0.3, 0.4]).as_matrix().T * [1.1, 1, 1] + 0.1
    turns = vertex_rotations(level.edges, level.edge_weights, rest, start)
    normal = rng.normal(size=start.shape)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    targets = Targets(start + 0.002 * normal, normal, np.ones(len(rest)))
    wanted = dense_minimum(level, rest, targets, 0.3, None, 0.001, turns)
    found = solve_thin_plate(level, rest, start, targets, 0.3, rotate=True)
    still = np.broadcast_to(np.eye(3), turns.shape)
    stiff = dense_minimum(level, rest, targets, 0.3, None, 0.001, still)
    assert np.abs(found - wanted).max() < 0.1 * np.abs(stiff - wanted).max()
    assert np.abs(stiff - wanted).max() > 0.005


def moved_start(template: WarpTemplate) -> tuple[F64, F64]:
    """Where the fit begins, and where the head truly is: a little turned and moved from there, by more than a gate."""
    begin = template.head.vertices + np.array([0.5, 0.1, -0.2])
    turn = Rotation.from_rotvec([0.02, 0.03, 0.0]).as_matrix()
    return begin, (begin - begin.mean(axis=0)) @ turn.T + begin.mean(axis=0) + [0.0, 0.001, 0.004]


def skin_surface(template: WarpTemplate, control: F64) -> Surface:
    skin = (template.regions != REGIONS["left_eyeball"])[template.faces].all(axis=1)
    return Surface(template.subdivide @ control, template.faces[skin])


SHORT = (
    Stage(False, 0.15, 3, Gate(0.02, 0.5, 0.01), 3.0, 0.01),
    Stage(True, 0.05, 2, Gate(0.01, 0.6, 0.003), 0.5, 0.05),
)


@pytest.mark.parametrize("stages", [SHORT, SHORT[:1], SHORT[1:]])
def test_an_eyeball_rides_rigidly_with_the_skin_around_it(template: WarpTemplate, stages: tuple[Stage, ...]) -> None:
    begin, truth = moved_start(template)
    scan = skin_surface(template, truth)
    marks = Landmarks(
        np.arange(68), template.landmark_matrix(np.arange(68)) @ (template.subdivide[: len(truth)] @ truth)
    )
    found, _ = deform(template, scan, Start(begin, stages, False, np.zeros(len(template.canonical_m))), marks)
    reference = template.subdivide @ begin
    eye = np.flatnonzero(template.regions == REGIONS["left_eyeball"])
    (satellite,) = template.satellites
    np.testing.assert_array_equal(np.sort(satellite.vertices), eye)
    # The skin it rides on is the nearest to its middle.
    away = np.linalg.norm(template.canonical_m - template.canonical_m[eye].mean(axis=0), axis=1)
    away[eye] = np.inf
    np.testing.assert_array_equal(np.sort(satellite.neighbours), np.sort(np.argsort(away)[: 60 * 4]))
    motion = fit_similarity(reference[satellite.neighbours], found[satellite.neighbours], with_scale=False)
    assert motion.scale == 1.0
    np.testing.assert_allclose(found[eye], motion.apply(reference[eye]), atol=1e-12)
    # It stays a ball of its size, moves, and comes nearer to where it truly is.
    true_eye = (template.subdivide @ truth)[eye]
    before, after = (np.linalg.norm(v[eye] - true_eye, axis=1).mean() for v in (reference, found))
    assert np.abs(found[eye] - reference[eye]).max() > 1e-3
    assert after < 0.6 * before
    radius = np.linalg.norm(found[eye] - found[eye].mean(axis=0), axis=1)
    np.testing.assert_allclose(radius, np.linalg.norm(reference[eye] - reference[eye].mean(axis=0), axis=1), rtol=1e-6)


def test_the_schedule_is_kept_to(template: WarpTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    """What solve_thin_plate and find_targets are given, stage by stage and round by round."""
    begin, truth = moved_start(template)
    calls = []
    gates = []
    given = {"refine": deform_module.solve_thin_plate, "find": deform_module.find_targets}

    def refined(level, reference, vertices, targets, wavelength_m, points, *, hold, rotate):  # type: ignore[no-untyped-def]
        result = given["refine"](level, reference, vertices, targets, wavelength_m, points, hold=hold, rotate=rotate)
        calls.append((level, reference, vertices, targets, wavelength_m, points, hold, rotate, result))
        return result

    def found_targets(*arguments):  # type: ignore[no-untyped-def]
        gates.append(arguments[-1])
        return given["find"](*arguments)

    monkeypatch.setattr(deform_module, "solve_thin_plate", refined)
    monkeypatch.setattr(deform_module, "find_targets", found_targets)
    some = np.arange(20, 60)
    marks = Landmarks(some, template.landmark_matrix(some) @ (template.subdivide[: len(begin)] @ truth))
    last = dataclasses.replace(SHORT[1], landmark_weight=0.0)
    stages = (*SHORT, last)
    spread = np.zeros(len(template.canonical_m))
    vertices, anchored = deform(template, skin_surface(template, truth), Start(begin, stages, True, spread), marks)
    reference = template.subdivide @ begin
    expected = [stage for stage in stages for _ in range(stage.rounds)]
    assert gates == [stage.gate for stage in expected]
    assert len(calls) == len(expected)
    for stage, (level, ref, _, _, wavelength_m, points, hold, rotate, _) in zip(expected, calls, strict=True):
        assert level is (template.fine if stage.fine else template.coarse)
        skin = template.skin if stage.fine else template.coarse_skin
        np.testing.assert_array_equal(ref, reference[skin])
        assert (wavelength_m, hold, rotate) == (stage.wavelength_m, stage.hold, True)
        if stage.landmark_weight == 0:
            assert points is None
        else:
            assert points.weight == stage.landmark_weight
            np.testing.assert_array_equal(points.position, marks.points)
            whole = np.zeros((len(template.canonical_m), 3))
            whole[skin] = ref
            corners = template.head.faces[template.head.landmark_faces[some]]
            on_it = np.einsum("lc,lcd->ld", template.head.landmark_barycentric[some], whole[: len(begin)][corners])
            np.testing.assert_allclose(points.operator @ ref, on_it, atol=1e-12)
    # Each round goes on from the one before; the last fine targets say what is anchored.
    for before, after in pairwise(calls):
        if before[0] is after[0]:
            np.testing.assert_array_equal(after[2], before[8])
    np.testing.assert_array_equal(vertices[template.skin], calls[-1][8])
    wanted = np.zeros(len(reference))
    wanted[template.skin] = calls[-1][3].weight
    np.testing.assert_array_equal(anchored, wanted)
    # From coarse to fine: the displacement is subdivided, added to the fine shape.
    moved = calls[SHORT[0].rounds - 1]
    fine = reference[template.skin] + template.coarse_to_fine @ (moved[8] - reference[template.coarse_skin])
    fine[: len(template.coarse_skin)] = moved[8]
    np.testing.assert_allclose(calls[SHORT[0].rounds][2], fine, atol=1e-12)


def test_without_fine_stages_nothing_is_anchored(template: WarpTemplate) -> None:
    begin, truth = moved_start(template)
    start = Start(begin, SHORT[:1], False, np.zeros(len(template.canonical_m)))
    assert (deform(template, skin_surface(template, truth), start, None)[1] == 0).all()


def test_the_schedules_go_from_long_waves_to_short_ones() -> None:
    for schedule in (FROM_REGISTRATION, FROM_LANDMARKS):
        for earlier, later in pairwise(schedule):
            assert later.wavelength_m < earlier.wavelength_m
            assert later.gate.max_distance_m < earlier.gate.max_distance_m
            assert later.gate.sigma_m <= earlier.gate.sigma_m
            assert later.gate.min_cosine >= earlier.gate.min_cosine
            assert later.landmark_weight < earlier.landmark_weight
            assert later.fine >= earlier.fine
        assert schedule[-1].wavelength_m == 0.015
        assert schedule[-1].fine
    assert sum(stage.rounds for stage in FROM_REGISTRATION) == 6
    assert sum(stage.rounds for stage in FROM_LANDMARKS) == 8


def test_a_prepared_template_has_the_eyeball_apart(template: WarpTemplate) -> None:
    eye = template.regions == REGIONS["left_eyeball"]
    np.testing.assert_array_equal(template.skin, np.flatnonzero(~eye))
    centre = template.canonical_m[eye].mean(axis=0)
    np.testing.assert_allclose(centre, EYE_M, atol=1e-3)
    assert np.linalg.norm(template.canonical_m[eye] - centre, axis=1).max() < 1.05 * EYE_RADIUS_M
    assert np.abs(template.canonical_m[~eye]).max() < 1.05 * max(AXES_M)
    np.testing.assert_array_equal(template.fine.rest, template.canonical_m[template.skin])
    np.testing.assert_array_equal(template.fine.regions, template.regions[template.skin])
    np.testing.assert_allclose(
        template.coarse_to_fine @ template.head.vertices[template.coarse_skin], template.fine.rest, atol=1e-12
    )
