"""Edge maps against ray casting of every pixel's square, and against shapes whose edges are known."""

from __future__ import annotations

import numpy as np
import pytest

from datagen.heads.registry import load_head
from datagen.render.maps import render_views
from datagen.render.numba.edges import MeshEdges, edge_maps
from datagen.render.numba.renderer import NumbaRenderer
from tests.support.edge_truth import true_edges
from tests.support.render_scenes import attributes, camera_at, head_like, pixel_camera, sphere


def anny(rng):
    head = load_head("anny")
    shown = rng.uniform(size=len(head.expression_names)) < 0.15
    expression = rng.uniform(0, 0.5, len(shown)) * shown
    return head.vertices(rng.normal(size=head.identity_size), expression), head.template.faces


def scenes():
    rng = np.random.default_rng(3)
    yield "sphere", *sphere(48, (0.1, 0.1, 0.1)), camera_at(0.3, size=64)
    yield "bumpy head", *head_like(rng), camera_at(-0.9, size=64)
    yield "bumpy head from the other side", *head_like(rng), camera_at(0.7, size=64)
    yield "skewed pixels", *head_like(rng), camera_at(0.2, size=64, height=48, skew=3.0)
    yield "head", *anny(rng), camera_at(0.0, size=80, distance=0.8)
    yield "head from the side", *anny(rng), camera_at(0.8, size=80, distance=0.8)
    vertices, faces = anny(rng)
    yield "head with holes", vertices, faces[rng.uniform(size=len(faces)) > 0.05], camera_at(0.5, size=80)
    noisy = vertices + rng.normal(0, 2e-4, vertices.shape)
    yield "noisy head", noisy, faces, camera_at(0.4, size=80, distance=0.8)


@pytest.mark.parametrize("scene", list(scenes()), ids=lambda scene: scene[0])
def test_the_pixels_are_those_a_silhouette_or_step_crosses(scene):
    _, vertices, faces, camera = scene
    found = edge_maps(vertices, faces, [camera])[0]
    crossed, touched = true_edges(vertices, faces, camera)
    assert crossed.sum() > 100
    assert (found & crossed).sum() >= 0.985 * crossed.sum()
    # Corners that are cut by less than a sixteenth of a pixel are no error.
    assert (found & (crossed | touched)).sum() >= 0.985 * found.sum()


def plane(x0, x1, y0, y1, z):
    return np.array([[x0, y0, 1], [x1, y0, 1], [x1, y1, 1], [x0, y1, 1]]) * [z, z, z]


QUAD = np.array([[0, 1, 2], [0, 2, 3]], np.int32)


def between(low, high, size=24):
    """Pixels of one axis whose interior the open interval from low to high meets."""
    at = np.arange(size)
    return (at < high) & (at + 1 > low)


def frame(x0, x1, y0, y1):
    """Pixels that the outline of a rectangle crosses."""
    columns, rows = between(x0, x1), between(y0, y1)
    outline = np.zeros((24, 24), bool)
    for x in (x0, x1):
        outline |= rows[:, None] & between(x - 1e-9, x + 1e-9)[None]
    for y in (y0, y1):
        outline |= columns[None] & between(y - 1e-9, y + 1e-9)[:, None]
    return outline


def test_a_plane_before_a_plane():
    vertices = np.concatenate([plane(2.3, 20.6, 3.4, 21.7, 1.1), plane(6.2, 15.5, 8.3, 17.8, 1.0)])
    faces = np.concatenate([QUAD, QUAD + 4])
    found = edge_maps(vertices, faces, [pixel_camera(24, 24)])[0]
    np.testing.assert_array_equal(found, frame(2.3, 20.6, 3.4, 21.7) | frame(6.2, 15.5, 8.3, 17.8))


def test_what_is_hidden_has_no_edges():
    vertices = np.concatenate([plane(6.2, 15.5, 8.3, 17.8, 1.1), plane(2.3, 20.6, 3.4, 21.7, 1.0)])
    faces = np.concatenate([QUAD, QUAD + 4])
    found = edge_maps(vertices, faces, [pixel_camera(24, 24)])[0]
    np.testing.assert_array_equal(found, frame(2.3, 20.6, 3.4, 21.7))


def test_a_step_of_less_than_a_millimetre_is_none():
    for step, seen in ((0.0005, False), (0.002, True)):
        vertices = np.concatenate([plane(2.3, 20.6, 3.4, 21.7, 1.0), plane(6.2, 15.5, 8.3, 17.8, 1.0 - step)])
        found = edge_maps(vertices, np.concatenate([QUAD, QUAD + 4]), [pixel_camera(24, 24)])[0]
        inner = frame(6.2, 15.5, 8.3, 17.8)
        assert (found[inner] == seen).all()


def test_a_plane_with_a_hole():
    x, y = np.array([2.3, 8.2, 14.6, 20.6]), np.array([3.4, 9.3, 15.7, 21.7])
    grid = np.stack([*np.meshgrid(x, y), np.ones((4, 4))], axis=-1).reshape(-1, 3)
    corner = [4 * j + i for j in range(3) for i in range(3) if (i, j) != (1, 1)]
    quads = np.array([[k, k + 1, k + 5, k + 4] for k in corner], np.int32)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    found = edge_maps(grid, faces, [pixel_camera(24, 24)])[0]
    np.testing.assert_array_equal(found, frame(2.3, 20.6, 3.4, 21.7) | frame(8.2, 14.6, 9.3, 15.7))


def test_triangles_that_share_places_but_no_vertices_have_no_seam():
    vertices, faces = sphere(32)
    camera = camera_at(0.4, size=64)
    split = vertices[faces].reshape(-1, 3), np.arange(3 * len(faces), dtype=np.int32).reshape(-1, 3)
    whole, apart = edge_maps(vertices, faces, [camera])[0], edge_maps(*split, [camera])[0]
    np.testing.assert_array_equal(whole, apart)


def test_inside_a_closed_surface_there_is_no_edge():
    vertices, faces = sphere(48)
    camera = camera_at(0.4, distance=0.03, focal=50.0, size=64)
    maps = render_views(attributes(vertices, faces), [camera], NumbaRenderer(1))[0]
    assert maps.mask.all()
    assert not maps.edge.any()


def test_edges_reach_through_the_near_plane_and_the_image_border():
    # A strip that passes under the camera: its borders begin behind it.
    strip = np.array([[-0.02, 0.05, -0.5], [0.02, 0.05, -0.5], [0.02, 0.05, 2.0], [-0.02, 0.05, 2.0]])
    camera = camera_at(0.0, size=48)
    camera = type(camera)("along", camera.K, np.eye(4), 48, 48)
    found = edge_maps(strip, QUAD, [camera])[0]
    crossed, touched = true_edges(strip, QUAD, camera)
    assert crossed.sum() > 20
    assert found[crossed].all()
    assert (touched | crossed)[found].all()


def test_confidence_is_lower_on_edges_and_beside_them():
    surface = attributes(plane(2.3, 20.6, 3.4, 21.7, 1.0), QUAD)
    maps = render_views(surface, [pixel_camera(24, 24)], NumbaRenderer(1))[0]
    padded = np.pad(maps.edge, 1)
    beside = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    # Away from its middle this plane is seen askew, which lowers confidence too: compare with the same without edges.
    wide = attributes(plane(-20, 60, -20, 60, 1.0), QUAD)
    plain = render_views(wide, [pixel_camera(24, 24)], NumbaRenderer(1))[0].confidence
    factor = np.where(maps.edge, 0.3, np.where(beside, 0.65, 1.0))
    expected = np.where(maps.mask, np.maximum(plain * factor, 1 / 255), 0)
    np.testing.assert_allclose(maps.confidence, expected, rtol=1e-5)
    assert {0.3, 0.65, 1.0} == set(np.round(factor[maps.mask], 2))


def test_edges_of_a_mesh_know_their_triangles():
    vertices = np.random.default_rng(0).normal(size=(7, 3))
    edges = MeshEdges.of(vertices, np.array([[0, 1, 2], [2, 1, 3], [4, 4, 5], [1, 2, 6]], np.int32))
    found = {
        (int(a), int(b)): sorted(int(s) >> 1 for s in sides if s >= 0)
        for (a, b), sides in zip(edges.ends, edges.sides, strict=True)
        if (a, b) != (1, 2)
    }
    assert found[0, 1] == [0]
    assert found[1, 3] == found[2, 3] == [1]
    shared = [sides for ends, sides in zip(edges.ends, edges.sides, strict=True) if tuple(ends) == (1, 2)]
    assert len(shared) == 2
    assert {int(s) >> 1 for sides in shared for s in sides} == {0, 1, 3}
