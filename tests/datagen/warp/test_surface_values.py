"""Rooms, contacts, folds and feet on shapes whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from datagen.geometry.edges import face_neighbours
from datagen.geometry.mesh import normalised, vertex_normals
from datagen.heads.regions import REGIONS
from datagen.warp.clearance import _grown, distance_ahead, inside_nostrils, local_feature_size
from datagen.warp.extend import SmoothExtension, rides_with_skin
from datagen.warp.fold_repair import Defects, RepairReport, _blend, _bounded, _seeds, flipped_triangles
from datagen.warp.folds import lid_skin, lip_overlap_m, mouth_skin
from datagen.warp.normal_projection import phong_feet
from datagen.warp.similarity import fit_similarity
from datagen.warp.surface import PointSurface, Surface
from tests.support.round_head import EYE_M, round_template

F64 = np.ndarray


def sheet(n: int, spacing: float, height: float = 0.0) -> tuple[F64, F64]:
    x, y = np.meshgrid(np.arange(n) * spacing, np.arange(n) * spacing, indexing="ij")
    index = np.arange(n * n).reshape(n, n)
    a, b, c, d = (index[i : n - 1 + i, j : n - 1 + j].ravel() for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32)
    return np.stack([x.ravel(), y.ravel(), np.full(n * n, height)], axis=1), faces


def facing(gap: float, n: int = 9, spacing: float = 0.002) -> tuple[F64, F64]:
    """Two sheets that face each other across a gap; with a negative one they lie in each other."""
    low, faces = sheet(n, spacing)
    high, _ = sheet(n, spacing, gap)
    return np.concatenate([low, high]), np.concatenate([faces, faces[:, ::-1] + n * n]).astype(np.int32)


@pytest.mark.parametrize("gap", [0.004, 0.0195, 0.0205])
def test_a_nostril_is_skin_of_the_nose_before_less_than_two_centimetres_of_air(gap: float) -> None:
    vertices, faces = facing(gap, 21)
    normals = vertex_normals(vertices, faces)
    inside = np.all((vertices[:, :2] > 0.001) & (vertices[:, :2] < 0.039), axis=1)
    np.testing.assert_allclose(distance_ahead(vertices, faces, normals)[inside], gap, atol=1e-6)
    regions = np.repeat([REGIONS["nose"], REGIONS["cheeks"]], 441).astype(np.uint8)
    wanted = (regions == REGIONS["nose"]) & (gap < 0.02)
    np.testing.assert_array_equal(inside_nostrils(vertices, faces, normals, regions)[inside], wanted[inside])
    assert np.isinf(distance_ahead(vertices, faces, -normals)).all()


def test_room_is_half_the_gap_and_grows_no_faster_than_the_way_along_the_skin() -> None:
    vertices, faces = facing(0.006, 41)
    outward, inward = local_feature_size(vertices, faces, vertex_normals(vertices, faces))
    middle = np.abs(vertices[:, :2] - 0.04).max(axis=1) < 0.02
    np.testing.assert_allclose(outward[middle], 0.003, rtol=0.02)
    np.testing.assert_allclose(inward, 0.05)
    edges = np.array([[0, 1], [1, 2], [2, 3], [0, 4]])
    length = np.array([0.001, 0.002, 0.004, 0.01])
    size = np.array([0.02, 0.0015, 0.05, 0.05, 0.05])
    np.testing.assert_allclose(_grown(size, edges, length), [0.0025, 0.0015, 0.0035, 0.0075, 0.0125])


def test_room_beside_a_ridge_and_in_a_hollow_is_the_radius() -> None:
    turns, rows = 48, 41
    angle, along = np.meshgrid(2 * np.pi * np.arange(turns) / turns, np.linspace(-0.03, 0.03, rows), indexing="ij")
    normal = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=2).reshape(-1, 3)
    v = 0.01 * normal + np.stack([0 * along, 0 * along, along], axis=2).reshape(-1, 3)
    index = np.arange(turns * rows).reshape(turns, rows)
    a, b = index[:, :-1].ravel(), np.roll(index, -1, axis=0)[:, :-1].ravel()
    f = np.concatenate([np.stack([a, b, b + 1], 1), np.stack([a, b + 1, a + 1], 1)])
    outward, inward = local_feature_size(v, f, normal)
    middle = np.abs(v[:, 2]) < 0.01
    np.testing.assert_allclose(inward[middle], 0.01, rtol=0.03)
    np.testing.assert_allclose(outward[middle], 0.05)
    outward, inward = local_feature_size(v, f[:, ::-1], -normal)
    np.testing.assert_allclose(outward[middle], 0.01, rtol=0.03)
    np.testing.assert_allclose(inward[middle], 0.05)


@pytest.mark.parametrize("depth_mm", [0.5, 1.0, 2.5, 5.5])
def test_lips_overlap_as_deep_as_they_lie_in_each_other(depth_mm: float) -> None:
    regions = np.repeat([REGIONS["lower_lip"], REGIONS["upper_lip"]], 81).astype(np.uint8)
    vertices, faces = facing(-depth_mm / 1000)
    assert lip_overlap_m(vertices, faces, regions) == pytest.approx(depth_mm / 1000, abs=1e-6)
    apart, _ = facing(depth_mm / 1000)
    assert lip_overlap_m(apart, faces, regions) == 0
    # Deeper than lips ever press, the far side is met: no overlap. Neither is there one without two lips.
    assert lip_overlap_m(facing(-0.0065)[0], faces, regions) == 0
    assert lip_overlap_m(vertices, faces, np.full(162, REGIONS["upper_lip"], np.uint8)) == 0


def test_sheets_that_face_the_same_way_do_not_overlap() -> None:
    vertices, faces = facing(-0.001)
    regions = np.repeat([REGIONS["lower_lip"], REGIONS["upper_lip"]], 81).astype(np.uint8)
    same = faces.copy()
    same[len(faces) // 2 :] = same[len(faces) // 2 :, ::-1]
    assert lip_overlap_m(vertices, same, regions) == 0


def test_the_skin_of_the_mouth_is_within_a_centimetre_along_the_skin() -> None:
    vertices, faces = sheet(31, 0.0011)
    regions = np.full(len(vertices), REGIONS["cheeks"], np.uint8)
    lip = vertices[:, 0] < 0.0035
    regions[lip] = REGIONS["upper_lip"]
    regions[vertices[:, 1] > 0.0285] = REGIONS["nose"]
    inner = (vertices[:, 0] > 0.005) & (vertices[:, 0] < 0.007) & (vertices[:, 1] < 0.002)
    regions[inner] = REGIONS["mouth_interior"]
    found = mouth_skin(vertices, faces, regions)
    wanted = (vertices[:, 0] < 0.0138) & ~np.isin(regions, [REGIONS["nose"], REGIONS["mouth_interior"]])
    np.testing.assert_array_equal(found, wanted)
    assert not mouth_skin(vertices, faces, np.ones(len(vertices), np.uint8)).any()


def test_lids_are_skin_round_the_eye_within_eight_millimetres_of_its_ball() -> None:
    left = np.array([[0.03, 0, 0], [0.0379, 0, 0], [0.0381, 0, 0], [0.03, 0.02, 0]])
    regions = np.array([REGIONS["left_eyeball"], *[REGIONS["left_eye"]] * 3], np.uint8)
    assert lid_skin(left, regions).tolist() == [False, True, False, False]
    other = np.array([REGIONS["right_eyeball"], *[REGIONS["left_eye"]] * 2, REGIONS["cheeks"]], np.uint8)
    assert lid_skin(left, other).tolist() == [False, True, True, False]


def test_an_extension_is_the_least_of_the_plate_with_a_pull_to_zero() -> None:
    ball = trimesh.creation.icosphere(2, radius=0.09)
    rng = np.random.default_rng(0)
    v, f = np.asarray(ball.vertices) + rng.normal(0, 0.002, ball.vertices.shape), np.asarray(ball.faces)
    known = v[:, 2] > 0.03
    L, area = np.zeros((len(v), len(v))), np.zeros(len(v))
    for face in f:
        a, b, c = v[face]
        area[face] += np.linalg.norm(np.cross(b - a, c - a)) / 6
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            one, two = v[face[i]] - v[face[k]], v[face[j]] - v[face[k]]
            half = np.clip(one @ two / np.linalg.norm(np.cross(one, two)), 0.05, 4) / 2
            for p, q in ((face[i], face[j]), (face[j], face[i])):
                L[p, q] -= half
                L[p, p] += half
    energy = (0.4 / 2 / np.pi) ** 4 * L.T @ np.diag(1 / (area.mean() * np.maximum(area, 0.05 * area.mean()))) @ L
    displacement = rng.normal(0, 0.003, v.shape)
    free = ~known
    wanted = displacement.copy()
    system = energy[np.ix_(free, free)] + np.eye(free.sum())
    wanted[free] = np.linalg.solve(system, -energy[np.ix_(free, known)] @ displacement[known])
    found = SmoothExtension(v, f, known)(displacement)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    np.testing.assert_array_equal(found[known], displacement[known])
    np.testing.assert_array_equal(SmoothExtension(v, f, np.ones(len(v), bool))(displacement), displacement)


def test_separate_parts_ride_with_the_sixty_nearest_vertices_of_the_skin() -> None:
    head = round_template()
    rest = head.vertices
    moved = rest + 0.004 * np.sin(20 * rest[:, [1, 2, 0]]) + [0.1, 0, 0]
    eye = head.regions == REGIONS["left_eyeball"]
    found = rides_with_skin(head, rest, moved)
    np.testing.assert_array_equal(found[~eye], moved[~eye])
    skin = np.flatnonzero(~eye)
    near = skin[np.argsort(np.linalg.norm(rest[skin] - rest[eye].mean(axis=0), axis=1))[:60]]
    np.testing.assert_allclose(found[eye], fit_similarity(rest[near], moved[near]).apply(rest[eye]), atol=1e-12)
    np.testing.assert_allclose(rest[eye].mean(axis=0), EYE_M, atol=1e-3)


def test_flips_are_against_the_surface_around_and_not_there_at_rest() -> None:
    v, faces = sheet(7, 0.01)
    folded = v.copy()
    folded[24, 0] += 0.025
    against = []
    for rest in (v, folded):
        found = flipped_triangles(folded, faces, rest)
        against.append(found.sum())
    normals = vertex_normals(folded, faces)
    wanted = [
        np.cross(folded[b] - folded[a], folded[c] - folded[a]) @ (normals[a] + normals[b] + normals[c]) < 0
        for a, b, c in faces
    ]
    assert against == [sum(wanted), 0]
    assert sum(wanted) > 0


def test_metrics_of_a_repair() -> None:
    flags = np.zeros(20, bool)
    flags[[2, 5]] = True
    pairs = np.array([[3, 7], [3, 8]])
    before = Defects(flags, pairs, np.zeros((0, 2), int))
    after = Defects(np.zeros(20, bool), pairs[:1], np.array([[10, 11], [11, 12], [15, 16]]))
    moved = np.zeros(9, bool)
    moved[:4] = True
    report = RepairReport(before, after, 0.0012, 2, moved, 16)
    assert report.metrics() == {
        "flipped_triangles": 0.0,
        "crossing_triangles": 2.0,
        "crossing_fraction": 2 / 16,
        "lip_contact_triangles": 3.0,
        "lip_overlap_mm": pytest.approx(1.2),
        "lid_contact_triangles": 2.0,
        "flipped_before_repair": 2.0,
        "crossing_before_repair": 3.0,
        "repaired_vertices": 4.0,
    }
    assert np.flatnonzero(before.any).tolist() == [2, 3, 5, 7, 8]
    assert RepairReport(before, after, 0.0, 0, moved, 0).metrics()["crossing_fraction"] == 2.0


def test_of_two_triangles_that_cross_the_less_held_yields_and_of_equals_both() -> None:
    flipped = np.array([True, False, False, False, False, False])
    defects = Defects(flipped, np.array([[1, 2], [3, 4]]), np.zeros((0, 2), int))
    held = np.array([0.9, 0.2, 0.5, 0.4, 0.4, 0.0])
    assert _seeds(defects, held).tolist() == [True, True, False, True, True, False]
    assert _seeds(defects, None).tolist() == [True, True, True, True, True, False]


def test_large_patches_are_dropped_and_the_others_numbered_anew() -> None:
    labels = np.array([-1] * 3 + [0] * 301 + [1] * 300 + [2] * 310)
    counted = np.ones(len(labels), bool)
    counted[-15:] = False
    found = _bounded(labels, counted)
    assert (found[:304] == -1).all()
    assert (found[304:604] == 0).all()
    assert (found[604:] == 1).all()


def test_each_patch_takes_its_own_step() -> None:
    current, filled = np.zeros((5, 3)), np.ones((5, 3))
    found = _blend(current, filled, np.array([0, -1, 1, 1, 0]), np.array([0.25, 1.0]))
    assert found[:, 0].tolist() == [0.25, 0, 1, 1, 0.25]


def test_neighbours_lie_across_the_edge_opposite_to_each_corner() -> None:
    ball = trimesh.creation.icosphere(1)
    faces = np.asarray(ball.faces)[:70]
    found = face_neighbours(faces)
    for f, face in enumerate(faces):
        for k in range(3):
            edge = {face[(k + 1) % 3], face[(k + 2) % 3]}
            sharing = [g for g, other in enumerate(faces) if g != f and edge <= set(other)]
            assert found[f, k] == (sharing[0] if len(sharing) == 1 else -1)
    fan = np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    assert (face_neighbours(fan) == -1).all()


@pytest.mark.parametrize("height_m", [0.0, 0.004, -0.004, 0.03])
def test_a_foot_is_where_the_interpolated_normal_leads_to_the_point(height_m: float) -> None:
    """From a triangle nearby the walk finds the one that a point was raised from."""
    ball = trimesh.creation.icosphere(3, radius=0.08)
    rng = np.random.default_rng(0)
    v, f = np.asarray(ball.vertices) * [1, 1.2, 0.9], np.asarray(ball.faces)
    n = vertex_normals(v, f)
    face, weights = rng.integers(0, len(f), 200), rng.dirichlet([2, 2, 2], 200)
    normal = normalised(np.einsum("nc,ncd->nd", weights, n[f[face]]))
    points = np.einsum("nc,ncd->nd", weights, v[f[face]]) + height_m * normal
    neighbours = face_neighbours(f)
    start = neighbours[neighbours[face, rng.integers(0, 3, 200)], rng.integers(0, 3, 200)]
    found = phong_feet(points, start, np.full((200, 3), 1 / 3), v, n, f, neighbours)
    assert found.exact.all()
    np.testing.assert_array_equal(found.face, face)
    np.testing.assert_allclose(found.barycentric, weights, atol=1e-6)


def test_beyond_a_border_the_foot_is_on_it_and_not_exact() -> None:
    v, f = sheet(5, 0.01)
    n = vertex_normals(v, f)
    points = np.array([[-0.004, 0.0171, 0.002], [0.0171, 0.0432, -0.001], [-0.003, -0.003, 0.0]])
    start = np.array([5, 9, 3])
    found = phong_feet(points, start, np.full((3, 3), 1 / 3), v, n, f, face_neighbours(f))
    assert not found.exact.any()
    feet = np.einsum("nc,ncd->nd", found.barycentric, v[f[found.face]])
    # The best one met is in the last triangle of the way, near the border.
    assert (np.abs(feet[:, :2] - np.clip(points[:, :2], 0, 0.04)).max(axis=1) < 0.008).all()
    assert (found.barycentric >= 0).all()


def test_points_on_a_surface_have_interpolated_normals_and_know_the_border() -> None:
    v, f = sheet(4, 0.01)
    v[5, 2] = 0.004
    surface = Surface(v + 7, f)
    hit = surface.closest(np.array([[7.012, 7.011, 7.2], [7.001, 7.001, 6.9]]))
    corners = f[hit.face[0]]
    wanted = normalised(hit.barycentric[0] @ vertex_normals(v, f)[corners])
    np.testing.assert_allclose(hit.normal[0], wanted, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(hit.normal, axis=1), 1)
    np.testing.assert_allclose(hit.position[0], hit.barycentric[0] @ (v + 7)[corners], atol=1e-12)
    border = np.isin(np.arange(16), [5, 6, 9, 10], invert=True)
    for face in range(len(f)):
        assert surface.at(np.array([face]), np.full((1, 3), 1 / 3)).on_border[0] == border[f[face]].any()


def test_a_cloud_answers_with_the_tangent_plane_of_its_nearest_point() -> None:
    v, _ = sheet(9, 0.01)
    tilted = v @ np.array([[1, 0, 0.2], [0, 1, -0.1], [0, 0, 1]])
    normal = normalised(np.cross([1, 0, 0.2], [0, 1, -0.1]))
    for side in (1.0, -1.0):
        cloud = PointSurface(tilted, tilted.mean(axis=0) - side * 0.05 * normal)
        np.testing.assert_allclose(cloud.normals, np.tile(side * normal, (81, 1)), atol=1e-6)
        query = tilted[40] + [0.002, 0.001, 0.03]
        hit = cloud.closest(query[None])
        np.testing.assert_allclose(hit.position[0], query - (query - tilted[40]) @ normal * normal, atol=1e-8)
        assert not hit.on_border.any()
