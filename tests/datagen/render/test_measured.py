"""Views of depth maps and of clouds, beside what the renderer gives of the surface itself."""

from __future__ import annotations

import numpy as np
import pytest

from datagen.geometry.camera import Camera
from datagen.render.contract import BESIDE_EDGE, ON_EDGE, SurfaceAttributes, ViewMaps
from datagen.render.discs import LARGEST, disc_radii, discs
from datagen.render.maps import render_views
from datagen.render.measured import MeasuredView, measured_maps, see_measured
from datagen.render.registry import make_renderer
from tests.support.render_scenes import attributes, camera_at, sphere

RENDERER = make_renderer("numba")
RADII = np.array([0.08, 0.12, 0.1])
FULL = camera_at(0.3, 0.7, 300, 560.0)
CROP = FULL.crop(60.3, 41.7, 190.4, 112)


def surface() -> SurfaceAttributes:
    return attributes(*sphere(160, tuple(RADII)))


def depth_of(camera: Camera) -> np.ndarray:
    (seen,) = RENDERER.rasterise(*sphere(160, tuple(RADII)), [camera])
    return seen.depth


def normals_at(points: np.ndarray) -> np.ndarray:
    found = points / RADII**2
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def shown(view: MeasuredView) -> ViewMaps:
    points = view.points
    scale = 1 / 0.15
    return measured_maps(
        view,
        normals_at(points),
        (points * scale).astype(np.float32),
        np.ones(len(points), np.float32),
        np.ones(len(points), np.uint8),
    )


def test_a_crop_of_a_depth_map_is_what_the_renderer_gives_of_the_surface() -> None:
    (true,) = render_views(surface(), [CROP], RENDERER)
    found = shown(see_measured(depth_of(FULL), FULL, CROP))
    inner = true.mask & ~true.edge & ~found.edge & found.mask
    assert inner.sum() > 0.85 * true.mask.sum()
    assert (found.mask & ~true.mask).sum() < 0.02 * true.mask.sum()
    # At a grazing angle a pixel is several millimetres deep.
    facing = inner & (true.confidence >= true.confidence.max() * 0.99)
    assert facing.sum() > 0.8 * inner.sum()
    np.testing.assert_allclose(found.depth[facing], true.depth[facing], atol=2e-4)
    np.testing.assert_allclose(found.canonical[:, facing], true.canonical[:, facing], atol=3e-3)
    assert (found.normal[:, inner] * true.normal[:, inner]).sum(axis=0).min() > 0.98
    assert (found.confidence[facing] > 0.99).mean() > 0.99


def test_a_plane_stays_a_plane() -> None:
    """1/z is linear over a picture of a plane, so that what lies between its pixels is exact."""
    x, y = np.meshgrid(np.arange(300) + 0.5, np.arange(300) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(FULL.K).T
    normal = np.array([0.5, -0.3, 1.0])
    found = see_measured((0.7 / (rays @ normal)).astype(np.float32), FULL, CROP)
    points = CROP.to_camera(found.points)
    np.testing.assert_allclose(points @ normal, 0.7, atol=1e-6)
    assert found.there.all()


def test_holes_stay_holes_and_nothing_is_made_up_at_steps() -> None:
    depth = np.full((300, 300), 0.5, np.float32)
    depth[:, 150:] = 0.6
    depth[100:140, 100:140] = 0
    found = see_measured(depth, FULL, CROP)
    assert set(np.unique(found.depth.round(6))) <= {np.float32(0), np.float32(0.5), np.float32(0.6)}
    centre = np.array([[120.0, 120.0, 1.0]]) @ (CROP.K @ np.linalg.inv(FULL.K)).T
    column, row = np.floor(centre[0, :2]).astype(int)
    assert found.depth[row, column] == 0
    scale = 112 / 190.4
    assert (found.depth == 0).sum() == pytest.approx((40 * scale) ** 2, rel=0.15)


def test_beyond_the_map_there_is_nothing() -> None:
    wide = FULL.crop(-100.0, -100.0, 500.0, 100)
    found = see_measured(np.full((300, 300), 0.5, np.float32), FULL, wide)
    np.testing.assert_array_equal(found.there[:19], False)
    assert found.there[21:79, 21:79].all()


def test_edges_doubt_what_is_at_them_and_beside_them() -> None:
    depth = np.full((112, 112), 0.5, np.float32)
    depth[:, 60:] = 0
    view = MeasuredView(CROP, depth)
    towards = np.tile(-np.linalg.inv(CROP.world_to_camera)[:3, 2], (view.there.sum(), 1))
    count = len(towards)
    maps = measured_maps(
        view, towards, np.zeros((count, 3), np.float32), np.ones(count, np.float32), np.ones(count, np.uint8)
    )
    np.testing.assert_array_equal(maps.edge[:, 59], True)
    np.testing.assert_array_equal(maps.edge[:, :59], False)
    np.testing.assert_allclose(maps.confidence[50, 57:60], [1, BESIDE_EDGE, ON_EDGE], atol=0.01)


def test_a_pixel_without_a_counterpart_has_depth_and_a_normal_alone() -> None:
    view = see_measured(depth_of(FULL), FULL, CROP)
    points = view.points
    unknown = points[:, 1] > 0
    canonical = np.where(unknown[:, None], np.nan, points).astype(np.float32)
    maps = measured_maps(
        view, normals_at(points), canonical, (~unknown).astype(np.float32), np.ones(len(points), np.uint8)
    )
    known = np.zeros(view.there.shape, bool)
    known[view.there] = ~unknown
    np.testing.assert_array_equal(maps.mask, known)
    np.testing.assert_array_equal(maps.confidence > 0, known)
    np.testing.assert_array_equal(maps.region > 0, known)
    assert not maps.canonical[:, ~known].any()
    assert (np.linalg.norm(maps.normal, axis=0)[view.there] > 0.99).all()
    kept = view.keep(~unknown)
    np.testing.assert_array_equal(kept.there, known)


def scattered(count: int) -> np.ndarray:
    directions = np.random.default_rng(3).normal(size=(count, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True) * RADII


def test_a_cloud_covers_what_its_surface_covers() -> None:
    points = scattered(20_000)
    mesh, point_of = discs(points, normals_at(points), disc_radii(points))
    (true,) = render_views(surface(), [CROP], RENDERER)
    (found,) = render_views(attributes(mesh.vertices, mesh.faces), [CROP], RENDERER, hide_back_faces=True)
    inner = true.mask & ~true.edge
    assert found.mask[inner].mean() > 0.99
    assert np.median(np.abs(found.depth - true.depth)[inner & found.mask]) < 3e-4
    np.testing.assert_allclose(mesh.vertices.reshape(len(points), -1, 3).mean(axis=1), points, atol=1e-12)
    np.testing.assert_array_equal(np.bincount(point_of), 6)
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    assert (np.einsum("fd,fd->f", np.cross(b - a, c - a), normals_at(a)) > 0).all()


def test_a_hole_in_a_cloud_stays_one() -> None:
    points = scattered(20_000)
    front = -np.linalg.inv(FULL.world_to_camera)[:3, 2] * RADII
    points = points[np.linalg.norm(points - front, axis=1) > 0.02]
    mesh, _ = discs(points, normals_at(points), disc_radii(points))
    (found,) = render_views(attributes(mesh.vertices, mesh.faces), [FULL], RENDERER, hide_back_faces=True)
    (pixel,), _ = FULL.project(front[None])
    column, row = np.floor(pixel).astype(int)
    assert not found.mask[row - 3 : row + 4, column - 3 : column + 4].any()


def test_discs_are_of_the_local_spacing_and_never_without_end() -> None:
    grid = np.stack([*np.meshgrid(np.arange(20.0), np.arange(20.0)), np.zeros((20, 20))], -1).reshape(-1, 3)
    radii = disc_radii(grid)
    assert np.median(radii) == pytest.approx(np.sqrt(2))
    lonely = disc_radii(np.concatenate([grid, [[500.0, 0, 0]]]))
    assert lonely[-1] == pytest.approx(LARGEST * np.sqrt(2))
    assert disc_radii(grid[:1]).tolist() == [0.0]
    assert disc_radii(np.zeros((3, 3))).tolist() == [0.0, 0.0, 0.0]
