"""The CPU rasteriser against geometry that is known exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import Delaunay, cKDTree
from scipy.spatial.transform import Rotation

from datagen.common.errors import CameraError, MeshError
from datagen.geometry.camera import Camera
from datagen.render.numba.renderer import NumbaRenderer
from tests.support.render_scenes import camera_at, head_like, pixel_camera, soup, sphere

RASTERISER = NumbaRenderer(threads=1)


def rasterise(vertices, faces, camera):
    return RASTERISER.rasterise(np.asarray(vertices, float), np.asarray(faces, np.int32), [camera])[0]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.25, 1.0]))
def test_every_pixel_of_a_triangulated_square_is_covered_exactly_once(seed, step):
    """Vertices on a grid of half pixels put many edges and corners exactly on pixel centres: the worst case."""
    rng = np.random.default_rng(seed)
    size = 16
    inner = rng.integers(1, int(size / step), (25, 2)) * step
    border = np.array([[0, 0], [size, 0], [0, size], [size, size], [size / 2, 0.0], [0, size / 2]])
    points = np.unique(np.concatenate([inner, border]), axis=0)
    triangles = Delaunay(points).simplices
    # A mixture of windings: coverage must not depend on which way a triangle faces.
    triangles[::2] = triangles[::2, ::-1]
    vertices = np.column_stack([points, np.ones(len(points))])
    count = np.zeros((size, size), int)
    for triangle in triangles:
        count += rasterise(vertices, [triangle], pixel_camera(size, size)).face >= 0
    np.testing.assert_array_equal(count, 1)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_coverage_is_that_of_the_pixel_centre(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-8, 40, (3, 2))
    seen = rasterise(np.column_stack([corners, np.ones(3)]), [[0, 1, 2]], pixel_camera(32, 32)).face >= 0
    x, y = np.meshgrid(np.arange(32) + 0.5, np.arange(32) + 0.5)
    distance = []
    for i in range(3):
        a, b, c = corners[i], corners[(i + 1) % 3], corners[(i + 2) % 3]
        normal = np.array([-(b - a)[1], (b - a)[0]]) / np.linalg.norm(b - a)
        distance.append(((x - a[0]) * normal[0] + (y - a[1]) * normal[1]) * np.sign((c - a) @ normal))
    inside = np.min(distance, axis=0)
    np.testing.assert_array_equal(seen[inside > 1e-3], True)
    np.testing.assert_array_equal(seen[inside < -1e-3], False)


def test_depth_of_a_slanted_plane_is_exact():
    """A plane right through the near plane, far beyond the image on all sides: clipped, not dropped."""
    normal, offset = np.array([0.05, -0.96, 0.28]), 0.1
    basis = np.linalg.svd(normal[None])[2][1:]
    corners = normal * -offset + np.array([[-1, -1], [3, -1], [-1, 3]]) @ basis * 500
    camera = replace(camera_at(0.0, size=64, focal=50.0), world_to_camera=np.eye(4))
    seen = rasterise(corners, [[0, 1, 2]], camera)
    rays = camera.to_camera(camera.unproject(np.ones((64, 64))).reshape(-1, 3)).reshape(64, 64, 3)
    denominator = rays @ normal / np.linalg.norm(normal) ** 2
    with np.errstate(divide="ignore"):
        z = -offset / denominator
    ahead = (z > 0.001) & (z < 5)  # beyond, the snap of 1/16384 pixel shows on so flat a slope
    assert 400 < ahead.sum() < 64 * 64
    np.testing.assert_allclose(seen.depth[ahead], z[ahead], rtol=1e-4)
    assert not (seen.face[z < 0] >= 0).any()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_clipping_leaves_no_holes_between_neighbours(seed):
    """A triangulated floor from far behind the camera to far ahead: most triangles are cut by some plane."""
    rng = np.random.default_rng(seed)
    corners = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) * 400.0
    flat = np.concatenate([corners, rng.normal(size=(40, 2)) * rng.choice([0.003, 0.1, 3, 60], (40, 1))])
    height = 0.002
    floor = np.column_stack([flat[:, 0], np.full(len(flat), height), flat[:, 1]])
    faces = Delaunay(flat).simplices
    camera = Camera("floor", np.array([[20.0, 0, 32], [0, 20, 32], [0, 0, 1]]), np.eye(4), 64, 64)
    seen = rasterise(floor, faces, camera)
    below = np.arange(64) + 0.5 - 32
    z = height * 20 / np.where(below > 0, below, np.nan)
    visible = z > 0.00101
    assert visible.sum() > 25
    assert (seen.face[visible] >= 0).all()
    np.testing.assert_allclose(seen.depth[visible], np.broadcast_to(z[visible, None], (visible.sum(), 64)), rtol=2e-3)
    assert (seen.face[:32] < 0).all()


def test_camera_inside_a_closed_surface_sees_it_everywhere():
    vertices, faces = sphere(32, (0.1, 0.1, 0.1))
    camera = camera_at(0.3, distance=0.05, size=96, focal=40.0)
    seen = rasterise(vertices, faces, camera)
    assert (seen.face >= 0).all()
    distance = np.linalg.norm(camera.unproject(seen.depth), axis=-1)
    # Between the tessellation's deepest chord and the sphere.
    assert distance.max() <= 0.1 + 1e-6
    assert distance.min() >= 0.1 * np.cos(np.pi / 32) ** 2 - 1e-6


def test_sphere_depth_to_its_tessellation():
    n, radius = 64, 0.1
    vertices, faces = sphere(n, (radius, radius, radius))
    camera = camera_at(0.8, size=200)
    seen = rasterise(vertices, faces, camera)
    distance = np.linalg.norm(camera.unproject(seen.depth)[seen.face >= 0], axis=-1)
    assert distance.max() <= radius + 1e-6
    assert distance.min() >= radius * np.cos(np.pi / n) ** 2 - 1e-6
    # The silhouette of a sphere is a cone of known angle around its centre.
    rays = camera.to_camera(camera.unproject(np.ones((200, 200))).reshape(-1, 3)).reshape(200, 200, 3)
    middle = camera.to_camera([[0, 0, 0]])[0]
    angle = np.arccos(rays @ middle / np.linalg.norm(rays, axis=-1) / np.linalg.norm(middle))
    limit = np.arcsin(radius / np.linalg.norm(middle))
    assert (seen.face[angle < limit * 0.99] >= 0).all()
    assert (seen.face[angle > limit * 1.001] < 0).all()


def test_depth_lifts_back_onto_the_mesh():
    """Barycentrics and depth are two accounts of one point; both must lie on the ray of the pixel."""
    vertices, faces = head_like(np.random.default_rng(3))
    for camera in (camera_at(0.4, size=160), camera_at(-1.0, size=160, skew=3.0)):
        seen = rasterise(vertices, faces, camera)
        hit = seen.face >= 0
        lifted = camera.unproject(seen.depth)[hit]
        on_mesh = np.einsum("pk,pkd->pd", seen.barycentric[hit].astype(float), vertices[faces[seen.face[hit]]])
        assert np.linalg.norm(lifted - on_mesh, axis=1).max() < 2e-5
        y, x = np.nonzero(hit)
        pixels, z = camera.project(on_mesh)
        np.testing.assert_allclose(pixels, np.stack([x, y], 1) + 0.5, atol=0.05)
        np.testing.assert_allclose(z, seen.depth[hit], atol=2e-5)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_moving_world_and_camera_together_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    vertices, faces = head_like(rng, 32)
    camera = camera_at(rng.uniform(-3, 3), size=96)
    motion = np.eye(4)
    motion[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    motion[:3, 3] = rng.uniform(-3, 3, 3)
    other = replace(camera, world_to_camera=camera.world_to_camera @ np.linalg.inv(motion))
    a = rasterise(vertices, faces, camera)
    b = rasterise(vertices @ motion[:3, :3].T + motion[:3, 3], faces, other)
    assert (a.face != b.face).mean() < 1e-3
    same = a.face == b.face
    np.testing.assert_allclose(a.depth[same], b.depth[same], atol=1e-6)


def test_ties_go_to_the_lowest_index_and_threads_do_not_matter():
    vertices, faces = soup(np.random.default_rng(5), 100)
    doubled = np.concatenate([faces, faces[::-1]])
    cameras = [camera_at(a, size=64) for a in (0.0, 0.5, 1.0, 1.5)]
    one = NumbaRenderer(threads=1).rasterise(vertices, doubled, cameras)
    many = NumbaRenderer(threads=3).rasterise(vertices, doubled, cameras)
    for a, b in zip(one, many, strict=True):
        assert a.face.max() < len(faces)
        np.testing.assert_array_equal(a.face, b.face)
        np.testing.assert_array_equal(a.depth, b.depth)
        np.testing.assert_array_equal(a.barycentric, b.barycentric)


def test_fragment_arrays_keep_the_contract():
    vertices, faces = sphere(16)
    camera = camera_at(0.0, size=40, height=30)
    seen = rasterise(vertices, faces, camera)
    assert (seen.face.dtype, seen.barycentric.dtype, seen.depth.dtype) == (np.int32, np.float32, np.float32)
    assert (seen.face.shape, seen.barycentric.shape, seen.depth.shape) == ((30, 40), (30, 40, 3), (30, 40))
    none = seen.face < 0
    assert none.any()
    assert (seen.depth[none] == 0).all()
    assert (seen.barycentric[none] == 0).all()
    np.testing.assert_allclose(seen.barycentric[~none].sum(axis=-1), 1, atol=1e-5)
    assert (seen.barycentric >= 0).all()


def test_clipping_keeps_barycentrics_on_the_original_triangle():
    triangle = np.array([[0.0, 0.3, -0.5], [-2.0, 0.3, 3.0], [2.0, 0.25, 3.0]])
    camera = Camera("c", np.array([[40.0, 0, 32], [0, 40, 32], [0, 0, 1]]), np.eye(4), 64, 64)
    seen = rasterise(triangle, [[0, 1, 2]], camera)
    hit = seen.face == 0
    assert hit.sum() > 300
    on_mesh = seen.barycentric[hit].astype(float) @ triangle
    np.testing.assert_allclose(on_mesh, camera.unproject(seen.depth)[hit], atol=1e-5)
    assert seen.barycentric[hit][:, 0].max() > 0.5


def test_one_pixel_image_and_no_cameras():
    vertices, faces = sphere(16)
    seen = rasterise(vertices, faces, camera_at(0.0, size=1, focal=2.0))
    assert seen.face.shape == (1, 1)
    assert seen.face[0, 0] >= 0
    assert RASTERISER.rasterise(vertices, faces, []) == []


def bad_meshes():
    vertices, faces = sphere(8)
    holed = vertices.copy()
    holed[4, 1] = np.nan
    yield "NaN vertex", holed, faces
    yield "index too large", vertices, np.array([[0, 1, len(vertices)]])
    yield "index that wraps in int32", vertices, np.array([[0, 1, 2**32 + 2]])
    yield "negative index", vertices, np.array([[0, 1, -1]])
    yield "no faces", vertices, np.zeros((0, 3), np.int32)
    yield "quads", vertices, np.array([[0, 1, 2, 3]])
    yield "float faces", vertices, faces.astype(float)
    yield "no vertices", np.zeros((0, 3)), np.zeros((0, 3), np.int32)


@pytest.mark.parametrize(("vertices", "faces"), [pytest.param(v, f, id=name) for name, v, f in bad_meshes()])
def test_bad_meshes_are_refused(vertices, faces):
    with pytest.raises(MeshError):
        RASTERISER.rasterise(vertices, faces, [camera_at(0.0)])


@pytest.mark.parametrize("change", [{"width": 0}, {"width": 100_000}, {"K": np.eye(3) * -1}])
def test_bad_cameras_are_refused(change):
    vertices, faces = sphere(8)
    with pytest.raises(CameraError):
        RASTERISER.rasterise(vertices, faces, [replace(camera_at(0.0), **change)])


def test_visible_vertices_are_found_where_they_project():
    """From outside in: every vertex that faces the camera on a convex body appears at its own pixel and depth."""
    vertices, faces = sphere(24, (0.1, 0.1, 0.1))
    camera = camera_at(0.2, size=256, focal=700.0)
    seen = rasterise(vertices, faces, camera)
    pixels, _ = camera.project(vertices)
    facing = ((camera.centre - vertices) * vertices).sum(axis=1) > 0.03
    column, row = pixels[facing].astype(int).T
    nearest = cKDTree(camera.unproject(seen.depth)[row, column])
    distance, _ = nearest.query(vertices[facing])
    assert facing.sum() > 100
    assert distance.max() < 0.0015  # one pixel of a slope
