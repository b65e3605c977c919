"""Every map of planes and spheres against closed forms, pixel by pixel, of every backend that runs here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datagen.geometry.camera import Camera
from datagen.render.contract import SurfaceAttributes, ViewMaps
from datagen.render.maps import maps_from_fragments, render_views, view_matrices
from datagen.render.numba.maps_kernel import pack_surface
from tests.support.render_backends import CPU_BACKENDS, renderer
from tests.support.render_scenes import attributes, camera_at, sphere

BACKENDS = [*CPU_BACKENDS, pytest.param("open3d")]
WIDTH, HEIGHT = 48, 40
CAMERA = Camera("c", np.array([[60.0, 0, 23], [0, 55, 21], [0, 0, 1]]), np.eye(4), WIDTH, HEIGHT)


def rays(camera: Camera = CAMERA) -> np.ndarray:
    """Directions (H, W, 3) of pixel centres, camera z 1."""
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    return np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(camera.K).T


def grid(corners: np.ndarray, n: int = 6, **change: object) -> SurfaceAttributes:
    """A parallelogram of n × n quads, two triangles each; ``corners`` (3, 3): one corner and its two neighbours."""
    s, t = np.meshgrid(np.linspace(0, 1, n + 1), np.linspace(0, 1, n + 1))
    origin, a, b = corners[0], corners[1] - corners[0], corners[2] - corners[0]
    vertices = origin + s.reshape(-1, 1) * a + t.reshape(-1, 1) * b
    k = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).ravel()
    faces = np.concatenate([np.stack([k, k + 1, k + n + 1], 1), np.stack([k + 1, k + n + 2, k + n + 1], 1)])
    return replace(attributes(vertices, faces.astype(np.int32), 1.0), **change)


def render(surface: SurfaceAttributes, backend: str, camera: Camera = CAMERA, **options: bool) -> ViewMaps:
    return render_views(surface, [camera], renderer(backend), **options)[0]


def faces_camera(surface: SurfaceAttributes) -> bool:
    """Whether a plane's triangles run counter-clockwise as the camera sees them, along z."""
    a, b, c = surface.vertices[surface.faces[0]]
    return bool(np.cross(b - a, c - a)[2] < 0)


def edge_factor(edge: np.ndarray) -> np.ndarray:
    """0.3 on an edge, 0.65 right beside one in a row or a column, else 1."""
    factor = np.ones(edge.shape)
    for y, x in np.ndindex(edge.shape):
        near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        if edge[y, x]:
            factor[y, x] = 0.3
        elif any(edge[c] for c in near if 0 <= c[0] < edge.shape[0] and 0 <= c[1] < edge.shape[1]):
            factor[y, x] = 0.65
    return factor


@pytest.mark.parametrize("backend", BACKENDS)
def test_confidence_falls_beside_an_edge_on_all_four_sides(backend: str) -> None:
    # A square before a wall: an edge all around it, with surface on both of its sides.
    wall = grid(np.array([[-1.0, -1, 2], [1, -1, 2], [-1, 1, 2]]))
    square = grid(np.array([[-0.12, -0.1, 1.0], [0.13, -0.1, 1], [-0.12, 0.11, 1]]))
    n = len(wall.vertices)
    both = SurfaceAttributes(
        np.concatenate([wall.vertices, square.vertices]), np.concatenate([wall.faces, square.faces + n]),
        np.concatenate([wall.canonical, square.canonical]), np.full(2 * n, 0.8, np.float32), np.ones(2 * n, np.uint8),
    )  # fmt: skip
    maps = render(both, backend)
    assert maps.mask.all()
    towards = -(rays() * np.moveaxis(maps.normal, 0, -1)).sum(-1) / np.linalg.norm(rays(), axis=-1)
    assert towards.min() > 0.35
    np.testing.assert_allclose(maps.confidence, 0.8 * edge_factor(maps.edge), rtol=1e-5)
    edge = np.pad(maps.edge, 1)
    sides = {"left": edge[1:-1, :-2], "right": edge[1:-1, 2:], "above": edge[:-2, 1:-1], "below": edge[2:, 1:-1]}
    for name, own in sides.items():
        others = np.logical_or.reduce([side for other, side in sides.items() if other != name])
        alone = own & ~others & ~maps.edge
        assert alone.sum() > 5, name
        np.testing.assert_allclose(maps.confidence[alone], 0.8 * 0.65, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tilt_deg", [0.0, 30.0, 66.0, 74.0, 88.5])
def test_a_tilted_plane_in_every_map(backend: str, tilt_deg: float) -> None:
    tilt = np.radians(tilt_deg)
    across, along = np.array([0.0, 1, 0]), np.array([np.cos(tilt), 0, np.sin(tilt)])
    middle = np.array([0.02, -0.01, 1.5])
    corners = middle + np.array([-0.5 * along - 0.5 * across, 0.5 * along - 0.5 * across, -0.5 * along + 0.5 * across])
    surface = grid(corners, 8)
    # Confidence and canonical coordinate are linear over the plane, so interpolation must give them exactly.
    at = surface.vertices - middle
    surface = replace(
        surface,
        canonical=np.stack([0.3 * at[:, 0] + 0.1, at[:, 1] - 0.2 * at[:, 2], 0.5 * at[:, 2]], 1).astype(np.float32),
        confidence=(0.6 + 0.5 * (at @ along) + 0.2 * at[:, 1]).astype(np.float32),
        region=np.arange(1, len(at) + 1).astype(np.uint8),
    )
    normal = np.cross(across, along)
    normal *= -np.sign(normal @ middle) or 1.0
    for mirrored in (False, True):
        wound = replace(surface, faces=np.ascontiguousarray(surface.faces[:, ::-1]) if mirrored else surface.faces)
        maps = render(wound, backend)
        depth = (normal @ middle) / (rays() @ normal)
        points = rays() * depth[..., None]
        u, v = (points - middle) @ along, (points - middle) @ across
        inside = (np.abs(u) < 0.5) & (np.abs(v) < 0.5) & (depth > 0)
        clear = inside & (np.abs(u) < 0.499) & (np.abs(v) < 0.499)
        assert clear.sum() > 100 if tilt_deg < 80 else clear.sum() > 5
        assert not maps.mask[~inside & ((np.abs(u) > 0.501) | (np.abs(v) > 0.501))].any()
        assert maps.mask[clear].all()
        np.testing.assert_allclose(maps.depth[clear], depth[clear], rtol=2e-6 if tilt_deg < 80 else 2e-5)
        np.testing.assert_allclose(maps.normal[:, clear].T, np.tile(normal, (clear.sum(), 1)), atol=2e-6)
        p = points[clear] - middle
        expected = np.stack([0.3 * p[:, 0] + 0.1, p[:, 1] - 0.2 * p[:, 2], 0.5 * p[:, 2]], 1)
        np.testing.assert_allclose(maps.canonical[:, clear].T, expected, atol=3e-6 if tilt_deg < 80 else 5e-5)
        cosine = -(rays() @ normal) / np.linalg.norm(rays(), axis=-1)
        grazing = np.clip(cosine / 0.35, 0.02, 1)
        trust = (0.6 + 0.5 * u + 0.2 * v) * grazing * edge_factor(maps.edge)
        np.testing.assert_allclose(maps.confidence[clear], np.maximum(trust[clear], 1 / 255), rtol=2e-4)
        # The label of the corner with the highest weight, which on a lattice of right triangles is the nearest one
        # of the triangle's in the lattice's own coordinates, up to the diagonal.
        s, t = (u[clear] + 0.5) * 8, (v[clear] + 0.5) * 8
        cell_s, cell_t = np.floor(s), np.floor(t)
        fs, ft = s - cell_s, t - cell_t
        upper = fs + ft > 1
        weights = np.where(upper, [1 - ft, fs + ft - 1, 1 - fs], [1 - fs - ft, fs, ft])
        picks = np.where(upper, [[1] * len(s), [10] * len(s), [9] * len(s)], [[0] * len(s), [1] * len(s), [9] * len(s)])
        ordered = np.sort(weights, axis=0)
        sure = (ordered[2] - ordered[1] > 0.01) & (np.abs(fs + ft - 1) > 0.01)
        corner = cell_t * 9 + cell_s + np.take_along_axis(picks, weights.argmax(0)[None], 0)[0]
        np.testing.assert_array_equal(maps.region[clear][sure], surface.region[corner[sure].astype(int)])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sphere_in_every_map(backend: str) -> None:
    radius, n = 0.1, 64
    vertices, faces = sphere(n, (radius, radius, radius))
    camera = camera_at(0.4, size=64, height=52)
    maps = render(attributes(vertices, faces), backend, camera)
    direction = rays(camera) @ camera.world_to_camera[:3, :3]
    a, b = (direction**2).sum(-1), direction @ camera.centre
    inside = b**2 - a * (camera.centre @ camera.centre - radius**2)
    depth = (-b - np.sqrt(np.maximum(inside, 0))) / a
    points = camera.centre + direction * depth[..., None]
    outward = points / radius
    cosine = -(outward * direction).sum(-1) / np.sqrt(a)
    clear = (inside > 0) & (cosine > 0.2)
    assert clear.sum() > 800
    assert maps.mask[clear].all()
    # Chords of a sphere of 64 x 128 facets lie up to r (1 - cos(π / 128)) = 0.03 mm below it, more along a slanted ray.
    sagitta = radius * (1 - np.cos(np.pi / n / 2)) * 2
    assert np.abs(maps.depth - depth)[clear].max() < sagitta / 0.2
    np.testing.assert_allclose(maps.canonical[:, clear].T * 0.15, points[clear], atol=sagitta / 0.2)
    expected = outward @ camera.world_to_camera[:3, :3].T
    angle = np.degrees(np.arccos(np.clip((np.moveaxis(maps.normal, 0, -1) * expected).sum(-1), -1, 1)))
    # Smooth normals: far nearer than those of the facets, which are up to 1.4° off.
    assert angle[clear & (cosine > 0.4)].max() < 0.3
    np.testing.assert_allclose(
        maps.confidence[clear], (np.clip(cosine / 0.35, 0.02, 1) * edge_factor(maps.edge))[clear], atol=0.03
    )
    np.testing.assert_array_equal(maps.mask, maps.depth > 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_back_of_a_surface_is_shown_or_hidden_in_every_map(backend: str) -> None:
    corners = np.array([[-0.2, -0.15, 1.0], [0.2, -0.15, 1], [-0.2, 0.15, 1]])
    front = grid(corners)
    if not faces_camera(front):
        front = replace(front, faces=np.ascontiguousarray(front.faces[:, ::-1]))
    back = replace(front, faces=np.ascontiguousarray(front.faces[:, ::-1]))
    shown = render(front, backend, hide_back_faces=True)
    assert shown.mask.sum() > 300
    seen = render(back, backend)
    np.testing.assert_array_equal(seen.depth, render(front, backend).depth)
    np.testing.assert_allclose(seen.normal[2][seen.mask], -1, atol=1e-6)
    hidden = render(back, backend, hide_back_faces=True)
    for name in ("depth", "canonical", "normal", "region", "confidence", "mask"):
        assert not np.any(getattr(hidden, name)), name
        assert np.any(getattr(shown, name)), name
    # Behind a hidden back there is nothing either, though a wall stands there: what is nearest decides.
    wall = grid(np.array([[-1.0, -1, 2], [1, -1, 2], [-1, 1, 2]]))
    n = len(wall.vertices)
    walls = wall.faces if faces_camera(wall) else wall.faces[:, ::-1]
    both = SurfaceAttributes(
        np.concatenate([wall.vertices, back.vertices]), np.concatenate([walls, back.faces + n]).astype(np.int32),
        np.concatenate([wall.canonical, back.canonical]), np.ones(2 * n, np.float32), np.ones(2 * n, np.uint8),
    )  # fmt: skip
    maps = render(both, backend, hide_back_faces=True)
    np.testing.assert_array_equal(maps.depth > 0, ~(shown.depth > 0))
    np.testing.assert_array_equal(maps.mask, maps.depth > 0)
    assert not maps.normal[:, shown.depth > 0].any()


def test_hidden_backs_are_gone_from_the_maps_of_fragments_and_not_from_the_fragments() -> None:
    corners = np.array([[-0.2, -0.15, 1.0], [0.2, -0.15, 1], [-0.2, 0.15, 1]])
    for faces in (grid(corners).faces, np.ascontiguousarray(grid(corners).faces[:, ::-1])):
        surface = replace(grid(corners), faces=faces)
        fragments = renderer("numba").rasterise(surface.vertices, surface.faces, [CAMERA])
        before = fragments[0].depth.copy()
        (whole,) = maps_from_fragments(surface, [CAMERA], fragments)
        (part,) = maps_from_fragments(surface, [CAMERA], fragments, hide_back_faces=True)
        (own,) = renderer("numba").render(surface, [CAMERA], hide_back_faces=True)
        np.testing.assert_array_equal(whole.depth, before)
        np.testing.assert_array_equal(part.depth, own.depth)
        np.testing.assert_allclose(part.confidence, own.confidence, atol=1e-6)
        np.testing.assert_array_equal(part.region, own.region)
        np.testing.assert_array_equal(fragments[0].depth, before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_confidence_never_falls_to_nothing_where_it_is_known(backend: str) -> None:
    corners = np.array([[-0.3, -0.3, 1.0], [0.3, -0.3, 1], [-0.3, 0.3, 1]])
    faint = render(grid(corners, confidence=np.full(49, 1e-4, np.float32)), backend)
    np.testing.assert_allclose(faint.confidence[faint.mask], 1 / 255, rtol=1e-6)
    strong = render(grid(corners, confidence=np.full(49, 0.02, np.float32)), backend)
    np.testing.assert_allclose(
        strong.confidence[strong.mask], np.maximum(0.02 * edge_factor(strong.edge), 1 / 255)[strong.mask], rtol=1e-5
    )


def test_normals_of_vertices_are_weighed_by_area_and_unknown_corners_are_marked() -> None:
    vertices = np.array([[0.0, 0, 0], [2, 0, 0], [0, 3, 0], [0, 0, 1], [5, 5, 5]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 1, 2]], np.int32)
    canonical = np.arange(15, dtype=np.float32).reshape(5, 3)
    confidence = np.array([0.1, 0.2, 0.3, 0.0, 0.5], np.float32)
    packed, normals, known = pack_surface(vertices, faces, canonical, confidence)
    crosses = np.array([[0, 0, 6.0], [3, 0, 0], [0, 2, 0], [0, 0, 0]])
    np.testing.assert_allclose(normals, [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0]], atol=1e-7)
    sums = np.array([crosses[:3].sum(0), crosses[0] + crosses[2], crosses[0] + crosses[1], crosses[1] + crosses[2]])
    np.testing.assert_allclose(packed[:4, 4:7], sums / np.linalg.norm(sums, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(packed[4, 4:7], 0)
    np.testing.assert_array_equal(packed[:, :3], canonical)
    np.testing.assert_array_equal(packed[:, 3], confidence)
    assert known.tolist() == [1, 0, 0, 1]
    turned = np.concatenate([faces[:1], faces[:1, ::-1]])
    assert not pack_surface(vertices, turned, canonical, confidence)[0][:, 4:7].any()


def test_the_matrices_of_a_view_take_pixels_to_the_world() -> None:
    camera = camera_at(0.7, size=40)
    rotation, to_world = view_matrices(camera)
    np.testing.assert_array_equal(rotation, camera.world_to_camera[:3, :3])
    point = camera.centre + 0.4 * (to_world @ [12.5, 7.5, 1])
    pixels, depth = camera.project(point[None])
    np.testing.assert_allclose(pixels[0], [12.5, 7.5], atol=1e-9)
    assert depth[0] == pytest.approx(0.4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_normals_that_cancel_give_way_to_the_triangle_s(backend: str) -> None:
    corners = np.array([[-0.3, -0.3, 1.0], [0.3, -0.3, 1], [-0.3, 0.3, 1.2]])
    surface = grid(corners)
    doubled = replace(surface, faces=np.concatenate([surface.faces, surface.faces[:, ::-1]]).astype(np.int32))
    maps, plain = render(doubled, backend), render(surface, backend)
    np.testing.assert_allclose(maps.normal[:, maps.mask], plain.normal[:, plain.mask], atol=1e-5)
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    normal *= -np.sign(normal[2]) / np.linalg.norm(normal)
    np.testing.assert_allclose(maps.normal[:, maps.mask].T, np.tile(normal, (maps.mask.sum(), 1)), atol=1e-5)
