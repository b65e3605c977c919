"""The warp's parts, each against what can be worked out by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from datagen.common.errors import InputError
from datagen.geometry.space import CanonicalSpace
from datagen.geometry.subdivide import loop_subdivision
from datagen.heads.regions import REGIONS
from datagen.manifest import VerdictLimits
from datagen.warp.correspond import Targets, regions_compatible
from datagen.warp.deform import solve_thin_plate
from datagen.warp.fold_repair import flipped_triangles
from datagen.warp.parameters import HeadParameters
from datagen.warp.result import Verdict, Warp
from datagen.warp.similarity import fit_similarity, fit_similarity_robust
from datagen.warp.storage import read_warp, warp_bytes, write_warp
from datagen.warp.surface import PointSurface, Surface
from datagen.warp.template import Level, cotangent_laplacian, vertex_rotations
from datagen.warp.verdict import judge


def grid(n: int, spacing_m: float) -> tuple[np.ndarray, np.ndarray]:
    """A flat square of n × n vertices in the plane z = 0, facing +z."""
    x, y = np.meshgrid(np.arange(n) * spacing_m, np.arange(n) * spacing_m, indexing="ij")
    index = np.arange(n * n).reshape(n, n)
    a, b, c, d = (index[i : n - 1 + i, j : n - 1 + j].ravel() for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return np.stack([x.ravel(), y.ravel(), np.zeros(n * n)], axis=1), faces.astype(np.int32)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.2, 5.0))
def test_similarity_is_recovered_exactly(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(12, 3))
    rotation, translation = Rotation.random(rng=rng).as_matrix(), rng.normal(size=3)
    fit = fit_similarity(points, scale * points @ rotation.T + translation)
    assert fit.scale == pytest.approx(scale, rel=1e-9)
    np.testing.assert_allclose(fit.rotation, rotation, atol=1e-9)
    np.testing.assert_allclose(fit.translation, translation, atol=1e-8)


def test_robust_similarity_shrugs_off_wrong_pairs() -> None:
    rng = np.random.default_rng(3)
    points = rng.normal(size=(40, 3)) * 0.05
    moved = points + np.array([0.1, 0.0, 0.02])
    moved[:10] += rng.normal(size=(10, 3)) * 0.1
    robust = fit_similarity_robust(points, moved).apply(points[10:])
    plain = fit_similarity(points, moved).apply(points[10:])
    assert np.linalg.norm(robust - moved[10:], axis=1).max() < 1e-3
    assert np.linalg.norm(plain - moved[10:], axis=1).max() > 5e-3


def test_loop_subdivision_keeps_constants_and_planes_and_closes_what_was_closed() -> None:
    vertices, faces = grid(6, 0.01)
    fine = loop_subdivision(faces, len(vertices), 2)
    np.testing.assert_allclose(np.asarray(fine.matrix.sum(axis=1)).ravel(), 1, atol=1e-12)
    points = fine.matrix @ vertices
    np.testing.assert_allclose(points[:, 2], 0, atol=1e-15)
    # The border is a spline through the straight edge's ends: straight edges stay, corners stay.
    np.testing.assert_allclose([points.min(axis=0), points.max(axis=0)], [[0, 0, 0], [0.05, 0.05, 0]], atol=1e-12)
    ball = trimesh.creation.icosphere(2)
    refined = loop_subdivision(ball.faces, len(ball.vertices), 1)
    surface = trimesh.Trimesh(refined.matrix @ ball.vertices, refined.faces, process=False)
    assert surface.is_watertight
    assert surface.volume > 0
    radius = np.linalg.norm(surface.vertices, axis=1)
    assert np.ptp(radius) < 0.01


def test_laplacian_vanishes_on_linear_functions_inside_a_plane() -> None:
    vertices, faces = grid(9, 0.01)
    laplacian, areas = cotangent_laplacian(vertices, faces)
    inside = np.all((vertices[:, :2] > 1e-9) & (vertices[:, :2] < 0.08 - 1e-9), axis=1)
    value = laplacian @ (3 * vertices[:, 0] - 2 * vertices[:, 1] + 5)
    assert np.abs(value[inside]).max() < 1e-10
    assert np.abs(laplacian @ np.ones(len(vertices))).max() < 1e-12
    assert areas.sum() == pytest.approx(0.08**2)


def test_vertex_rotations_recover_a_rigid_turn() -> None:
    ball = trimesh.creation.icosphere(2)
    turn = Rotation.from_rotvec([0.3, -0.8, 0.2]).as_matrix()
    edges = np.asarray(ball.edges_unique)
    found = vertex_rotations(edges, np.ones(len(edges)), ball.vertices, ball.vertices @ turn.T)
    np.testing.assert_allclose(found, np.broadcast_to(turn, found.shape), atol=1e-9)


@pytest.mark.parametrize(("wavelength_m", "low", "high"), [(0.32, 0.97, 1.0), (0.08, 0.4, 0.6), (0.02, 0.0, 0.02)])
def test_refinement_follows_waves_longer_than_its_cutoff_and_no_shorter(
    wavelength_m: float, low: float, high: float
) -> None:
    spacing = 0.004
    n = 81
    rest, faces = grid(n, spacing)
    level = Level(rest, faces, np.full(len(rest), REGIONS["cheeks"], np.uint8))
    wave = np.cos(2 * np.pi * rest[:, 0] / wavelength_m)
    amplitude = 0.001
    target = rest + amplitude * wave[:, None] * [0, 0, 1]
    weight = level.attract.astype(float)
    targets = Targets(target, np.broadcast_to([0.0, 0.0, 1.0], rest.shape), weight)
    moved = rest
    for _ in range(3):
        moved = solve_thin_plate(level, rest, moved, targets, wavelength_m=0.08)
    middle = np.all((rest[:, :2] > 0.08) & (rest[:, :2] < (n - 1) * spacing - 0.08), axis=1)
    gain = float((moved[middle, 2] @ wave[middle]) / (amplitude * (wave[middle] @ wave[middle])))
    assert low <= gain <= high


def test_lips_do_not_match_each_other_and_interiors_do_not_match_skin() -> None:
    label = REGIONS
    a = np.array([label["upper_lip"], label["upper_lip"], label["cheeks"], label["mouth_interior"]], np.uint8)
    b = np.array([label["lower_lip"], label["cheeks"], label["left_eyeball"], label["mouth_interior"]], np.uint8)
    assert regions_compatible(a, b).tolist() == [False, True, False, True]


def test_point_surface_of_a_ball_points_outwards_and_finds_the_sphere() -> None:
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(20_000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    surface = PointSurface(direction * 0.1, outward_from=[0.0, 0.0, 0.01])
    assert np.einsum("nd,nd->n", surface.normals, direction).min() > 0.98
    hit = surface.closest(direction[:500] * 0.12)
    assert np.abs(np.linalg.norm(hit.position, axis=1) - 0.1).max() < 1e-4


@pytest.mark.parametrize("inwards", [False, True])
def test_a_cloud_keeps_the_normals_that_it_came_with(inwards: bool) -> None:
    direction = np.random.default_rng(0).normal(size=(2000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    given = np.where(np.arange(2000)[:, None] % 5 == 0, 0.0, -direction if inwards else direction)
    # Ten points that a program turned the wrong way, and that stay so: they are not guessed at.
    given[1:50:5] *= -1
    surface = PointSurface(direction * 0.1, [0.0, 0.0, 0.01], given)
    np.testing.assert_allclose(surface.normals[2::5], direction[2::5])
    np.testing.assert_allclose(surface.normals[1:50:5], -direction[1:50:5])
    assert (np.einsum("nd,nd->n", surface.normals[::5], direction[::5]) > 0.9).all()
    np.testing.assert_array_equal(
        PointSurface(direction, [0, 0, 0], 0 * given).normals, PointSurface(direction, [0, 0, 0]).normals
    )


def test_closest_points_on_a_triangle_surface_match_trimesh() -> None:
    ball = trimesh.creation.icosphere(3, radius=0.1)
    # Far from the origin, where float32 alone would lose a tenth of a millimetre.
    offset = np.array([5.0, -3.0, 8.0])
    surface = Surface(ball.vertices + offset, ball.faces)
    query = np.random.default_rng(1).normal(size=(200, 3)) * 0.1
    hit = surface.closest(query + offset)
    expected, distance, _ = trimesh.proximity.closest_point_naive(ball, query)
    found = np.linalg.norm(hit.position - offset - query, axis=1)
    np.testing.assert_allclose(found, distance, atol=1e-6)
    assert np.linalg.norm(hit.position - offset - expected, axis=1).max() < 1e-3
    assert not hit.on_border.any()


def test_flipped_triangles_are_counted_only_where_the_deformation_flipped_them() -> None:
    vertices, faces = grid(7, 0.01)
    folded = vertices.copy()
    folded[24, 0] += 0.025  # drags one vertex across its neighbours
    assert not flipped_triangles(vertices, faces, vertices).any()
    assert flipped_triangles(folded, faces, vertices).any()
    assert not flipped_triangles(folded, faces, folded).any()


def test_verdict_is_the_worst_of_its_metrics_and_says_why() -> None:
    good = {"residual_median_mm": 0.1, "face_coverage": 0.9, "flipped_fraction": 0.0, "landmark_rms_mm": 1.0}
    assert judge(good, VerdictLimits()) == Verdict("pass", (), good)
    low = judge({**good, "face_coverage": 0.4}, VerdictLimits())
    assert low.status == "review"
    assert "share of the face with scan data is 0.4" in low.reasons[0]
    both = judge({**good, "face_coverage": 0.4, "residual_median_mm": 3.0}, VerdictLimits())
    assert both.status == "fail"
    assert len(both.reasons) == 2
    assert judge({**good, "residual_median_mm": float("inf")}, VerdictLimits()).status == "fail"


def some_warp() -> Warp:
    rng = np.random.default_rng(5)
    canonical = rng.uniform(-1, 1, (5, 3)).astype(np.float32)
    canonical[2] = np.nan
    return Warp(
        scan_vertices=rng.normal(size=(5, 3)),
        scan_faces=np.array([[0, 1, 2], [2, 3, 4]], np.int32),
        canonical=canonical,
        confidence=np.array([1, 0.5, 0, 0.2, 0.1], np.float32),
        region=np.array([1, 2, 0, 3, 4], np.uint8),
        registered_vertices=rng.normal(size=(4, 3)),
        registered_faces=np.array([[0, 1, 2]], np.int32),
        head_to_world=np.eye(4),
        space=CanonicalSpace("anny", (0.0, 0.1, 0.02), 0.13, "shared", "abc"),
        verdict=Verdict("review", ("because",), {"residual_median_mm": 0.25}),
        spread_m=np.full(4, 1e-3, np.float32),
        parameters=HeadParameters(np.ones(3, np.float32), np.zeros(0, np.float32), np.eye(4), float("nan")),
    )


def test_warp_round_trip_and_same_bytes(tmp_path: Path) -> None:
    warp = some_warp()
    write_warp(tmp_path / "a", warp)
    again = read_warp(tmp_path / "a")
    for field in dataclasses.fields(Warp):
        expected, found = getattr(warp, field.name), getattr(again, field.name)
        if isinstance(expected, HeadParameters):
            expected, found = (np.hstack([np.ravel(v) for v in vars(p).values()]) for p in (expected, found))
        if isinstance(expected, np.ndarray):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
        else:
            assert found == expected
    assert warp_bytes(warp) == warp_bytes(again) == (tmp_path / "a" / "warp.npz").read_bytes()


def test_broken_warp_file_is_named(tmp_path: Path) -> None:
    write_warp(tmp_path, some_warp())
    content = (tmp_path / "warp.npz").read_bytes()
    (tmp_path / "warp.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"warp\.npz cannot be read"):
        read_warp(tmp_path)
    with pytest.raises(InputError, match=r"warp\.npz cannot be read"):
        read_warp(tmp_path / "nowhere")
