"""Maps of canonical surfaces: linear where the truth is linear, absent where nothing is known."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation

from datagen.common.errors import MeshError
from datagen.geometry.camera import Camera
from datagen.render.maps import render_views
from datagen.render.numba import renderer as numba_backend
from datagen.render.numba.renderer import NumbaRenderer
from tests.support.render_scenes import attributes, camera_at, head_like, sphere

RASTERISER = NumbaRenderer(threads=1)
FRONT = Camera("front", np.array([[100.0, 0, 32], [0, 100, 32], [0, 0, 1]]), np.eye(4), 64, 64)


def one_triangle(**change):
    """A triangle square to the camera, corners 0, 1, 2 at the left, right and bottom."""
    vertices = np.array([[-0.2, -0.2, 1.0], [0.2, -0.2, 1.0], [0.0, 0.25, 1.0]])
    surface = attributes(vertices, np.array([[0, 1, 2]], np.int32), 1.0)
    return replace(surface, region=np.array([3, 7, 9], np.uint8), **change)


def render(surface, camera=FRONT):
    return render_views(surface, [camera], RASTERISER)[0]


def away_from_edges(maps):
    """Pixels that neither are nor touch an edge pixel, whose confidence is lowered (see test_edges.py)."""
    return ~binary_dilation(maps.edge)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_canonical_is_where_the_pixel_is(seed):
    """With position as the attribute, the canonical map and the lifted depth map must coincide."""
    rng = np.random.default_rng(seed)
    vertices, faces = head_like(rng, 48)
    camera = camera_at(rng.uniform(-3, 3), size=96)
    maps = render(attributes(vertices, faces), camera)
    np.testing.assert_array_equal(maps.mask, maps.depth > 0)
    lifted = camera.unproject(maps.depth)[maps.mask]
    assert np.linalg.norm(maps.canonical[:, maps.mask].T * 0.15 - lifted, axis=1).max() < 2e-5


def test_shapes_types_and_zeros_outside():
    vertices, faces = sphere(24)
    maps = render(attributes(vertices, faces), camera_at(0.0, size=80, height=60))
    assert maps.depth.shape == maps.region.shape == maps.confidence.shape == maps.mask.shape == (60, 80)
    assert maps.canonical.shape == maps.normal.shape == (3, 60, 80)
    assert (maps.depth.dtype, maps.region.dtype, maps.mask.dtype) == (np.float32, np.uint8, np.bool_)
    outside = maps.depth == 0
    assert outside.any()
    for array in (maps.canonical[:, outside], maps.normal[:, outside], maps.region[outside], maps.confidence[outside]):
        assert (array == 0).all()
    np.testing.assert_array_equal(maps.mask, maps.confidence > 0)


def test_normals_of_a_sphere_point_outwards_and_inwards():
    radius = 0.1
    vertices, faces = sphere(64, (radius, radius, radius))
    outside, inside = camera_at(0.7, size=128), camera_at(0.7, distance=0.04, size=64, focal=30.0)
    for camera, sign in ((outside, 1.0), (inside, -1.0)):
        for winding in (faces, faces[:, ::-1].copy()):
            maps = render(attributes(vertices, winding), camera)
            hit = maps.depth > 0
            assert hit.sum() > 3000
            expected = sign * camera.unproject(maps.depth)[hit] / radius @ camera.world_to_camera[:3, :3].T
            cosine = (maps.normal[:, hit].T * expected).sum(axis=1)
            assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 3.0
            np.testing.assert_allclose(np.linalg.norm(maps.normal[:, hit], axis=0), 1, atol=1e-5)


def test_normals_always_face_the_camera():
    vertices, faces = head_like(np.random.default_rng(11))
    # Random windings: an inconsistent scan has meaningless vertex normals, but the map must stay usable.
    mixed = faces.copy()
    mixed[::3] = mixed[::3, ::-1]
    camera = camera_at(0.5, size=128)
    for winding in (faces, mixed):
        maps = render(attributes(vertices, winding), camera)
        hit = maps.depth > 0
        rays = camera.to_camera(camera.unproject(maps.depth)[hit])
        assert ((rays * maps.normal[:, hit].T).sum(axis=1) <= 1e-6).all()


@pytest.mark.parametrize(
    "change",
    [
        {"canonical": np.array([[0, 0, 0], [np.nan, 0, 0], [0, 0, 0]], np.float32)},
        {"canonical": np.array([[0, 0, 0], [0, 0, 0], [0, 0, np.inf]], np.float32)},
        {"confidence": np.array([1, 0, 1], np.float32)},
        {"confidence": np.array([1, 1, np.nan], np.float32)},
    ],
    ids=["NaN coordinate", "infinite coordinate", "confidence 0", "NaN confidence"],
)
def test_an_unknown_corner_leaves_depth_and_normal_only(change):
    maps = render(one_triangle(**change))
    hit = maps.depth > 0
    assert hit.sum() > 200
    assert not maps.mask.any()
    for array in (maps.canonical, maps.region, maps.confidence):
        assert (array == 0).all()
    np.testing.assert_allclose(maps.normal[2, hit], -1, atol=1e-6)


def test_region_is_the_nearest_corner_never_a_blend():
    surface = one_triangle()
    maps = render(surface)
    assert set(np.unique(maps.region)) == {0, 3, 7, 9}
    lifted = FRONT.unproject(maps.depth)[maps.mask]
    corners = surface.vertices[:, :2]
    weights = np.linalg.solve(np.vstack([corners.T, np.ones(3)]), np.vstack([lifted[:, :2].T, np.ones(len(lifted))]))
    clear = np.sort(weights, axis=0)[2] - np.sort(weights, axis=0)[1] > 1e-4
    np.testing.assert_array_equal(maps.region[maps.mask][clear], surface.region[weights.argmax(axis=0)][clear])


def test_confidence_is_interpolated_and_fades_at_grazing_angles():
    flat = render(one_triangle(confidence=np.array([0.2, 0.2, 0.8], np.float32)))
    clear = flat.mask & away_from_edges(flat)
    assert 0.2 <= flat.confidence[clear].min() < 0.25
    assert 0.65 < flat.confidence[clear].max() <= 0.8
    vertices, faces = sphere(64, (0.1, 0.1, 0.1))
    camera = camera_at(0.0, size=200)
    maps = render(attributes(vertices, faces), camera)
    rays = camera.to_camera(camera.unproject(maps.depth)[maps.mask])
    cosine = -(rays * maps.normal[:, maps.mask].T).sum(axis=1) / np.linalg.norm(rays, axis=1)
    expected = np.clip(cosine / 0.35, 0.02, 1)
    clear = away_from_edges(maps)[maps.mask]
    assert clear.sum() > 0.9 * len(clear)
    np.testing.assert_allclose(maps.confidence[maps.mask][clear], expected[clear], atol=1e-4)
    assert maps.confidence[maps.mask].min() > 0


def test_one_map_per_camera_in_order():
    vertices, faces = sphere(24)
    cameras = [camera_at(a, size=48) for a in (0.0, 0.8)]
    both = render_views(attributes(vertices, faces), cameras, RASTERISER)
    for camera, maps in zip(cameras, both, strict=True):
        np.testing.assert_array_equal(maps.canonical, render(attributes(vertices, faces), camera).canonical)


@pytest.mark.parametrize("name", ["canonical", "confidence", "region"])
def test_attributes_of_another_mesh_are_refused(name):
    surface = one_triangle()
    with pytest.raises(MeshError, match=name):
        render(replace(surface, **{name: getattr(surface, name)[:2]}))


def test_a_hole_shows_nothing_instead_of_the_inside():
    vertices, faces = sphere(48)
    camera = camera_at(0.0, size=96)
    centre = vertices[faces].mean(axis=1)
    # A hole in the middle of what the camera sees.
    towards = camera.centre / np.linalg.norm(camera.centre)
    open_faces = faces[centre @ towards < 0.9 * (centre @ towards).max()]
    surface = attributes(vertices, open_faces)
    inside = render_views(surface, [camera], RASTERISER)[0]
    hidden = render_views(surface, [camera], RASTERISER, hide_back_faces=True)[0]
    whole = render_views(attributes(vertices, faces), [camera], RASTERISER)[0]
    hole = (inside.depth > 0) & (inside.depth - whole.depth > 0.05)
    assert hole.sum() > 50
    assert not hidden.depth[hole].any()
    assert not hidden.mask[hole].any()
    assert not hidden.normal[:, hole].any()
    np.testing.assert_array_equal(hidden.depth[~hole], inside.depth[~hole])
    np.testing.assert_array_equal(hidden.canonical[:, ~hole], inside.canonical[:, ~hole])


@pytest.mark.parametrize("views", [1, 5])
def test_threads_do_not_change_a_byte(views):
    vertices, faces = head_like(np.random.default_rng(5), 64)
    kept = faces[np.random.default_rng(6).uniform(size=len(faces)) > 0.03]
    surface = attributes(vertices, kept)
    cameras = [camera_at(0.5 * i, size=97, height=83) for i in range(views)]
    # One camera inside the head, so that clipped triangles are among them.
    cameras[-1] = camera_at(0.4, distance=0.07, focal=60.0, size=97, height=83)
    once = NumbaRenderer(threads=1).render(surface, cameras, hide_back_faces=True)
    for threads in (2, 3):
        again = NumbaRenderer(threads).render(surface, cameras, hide_back_faces=True)
        for a, b in zip(once, again, strict=True):
            for field in fields(a):
                np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


def test_bands_of_a_large_image_meet_without_a_seam(monkeypatch):
    vertices, faces = head_like(np.random.default_rng(5), 64)
    surface, camera = attributes(vertices, faces), camera_at(0.3, size=90)
    whole = NumbaRenderer(threads=1).render(surface, [camera])[0]
    monkeypatch.setattr(numba_backend, "BAND_PIXELS", 90 * 7)
    cut = NumbaRenderer(threads=1).render(surface, [camera])[0]
    assert whole.edge.any()
    for field in fields(whole):
        np.testing.assert_array_equal(getattr(whole, field.name), getattr(cut, field.name), err_msg=field.name)


def test_the_order_of_a_mesh_does_not_matter():
    """Vertices and triangles in random order: sorted inside, while what comes out counts as what went in."""
    rng = np.random.default_rng(9)
    vertices, faces = head_like(rng, 64)
    doubled = np.concatenate([faces, faces[rng.permutation(len(faces))[:3000]]])
    surface = attributes(vertices, doubled)
    order, triangles = rng.permutation(len(vertices)), rng.permutation(len(doubled))
    place = np.argsort(order)
    shuffled = replace(
        attributes(vertices[order], place[doubled[triangles]].astype(np.int32)), region=surface.region[order]
    )
    cameras = [camera_at(0.3, size=96), camera_at(0.3, distance=0.08, focal=60.0, size=96)]
    for camera, seen in zip(
        cameras, NumbaRenderer(threads=1).rasterise(shuffled.vertices, shuffled.faces, cameras), strict=True
    ):
        plain = NumbaRenderer(threads=1).rasterise(vertices, doubled, [camera])[0]
        hit = plain.face >= 0
        np.testing.assert_array_equal(seen.face >= 0, hit)
        np.testing.assert_allclose(seen.depth, plain.depth, atol=1e-7)
        # Of two triangles at the same place the lower index is seen, whichever list it is in.
        found = np.sort(doubled[triangles[seen.face[hit]]], axis=1)
        assert (found == np.sort(doubled[plain.face[hit]], axis=1)).all(axis=1).mean() > 0.9999
        first: dict[tuple[int, ...], int] = {}
        for index, original in enumerate(triangles):
            first.setdefault(tuple(np.sort(doubled[original])), index)
        assert all(first[tuple(corners)] == f for corners, f in zip(found, seen.face[hit], strict=True))
    for a, b in zip(
        NumbaRenderer(threads=1).render(surface, cameras),
        NumbaRenderer(threads=1).render(shuffled, cameras),
        strict=True,
    ):
        np.testing.assert_array_equal(a.edge, b.edge)
        np.testing.assert_allclose(a.canonical, b.canonical, atol=1e-6)
        np.testing.assert_allclose(a.normal, b.normal, atol=1e-5)
