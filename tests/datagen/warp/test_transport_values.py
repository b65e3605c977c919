"""Transport on sheets and balls, whose canonical points can be worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from datagen.geometry.mesh import vertex_normals
from datagen.heads.regions import REGIONS
from datagen.warp.surface import Surface
from datagen.warp.template import WarpTemplate
from datagen.warp.transport import transport
from tests.support.round_head import prepared

F64 = np.ndarray
TURN = Rotation.from_euler("xyz", [20, -35, 10], degrees=True).as_matrix()
SHIFT = np.array([0.3, -0.1, 2.0])


def template_of(vertices: F64, faces: F64, regions: F64 | None = None) -> WarpTemplate:
    regions = np.full(len(vertices), REGIONS["cheeks"], np.uint8) if regions is None else regions
    return dataclasses.replace(
        prepared(),
        faces=np.asarray(faces, np.int32),
        canonical_m=vertices,
        canonical_normals=vertex_normals(vertices, faces),
        regions=regions,
    )


def ball(*, inwards: bool) -> WarpTemplate:
    """Radius 20 mm. The skin may face the middle: then the room in front of it is 20 mm and endless behind it."""
    sphere = trimesh.creation.icosphere(4, radius=0.02)
    return template_of(np.asarray(sphere.vertices), sphere.faces[:, ::-1] if inwards else np.asarray(sphere.faces))


def sheet(n: int = 9, spacing: float = 0.005) -> tuple[F64, F64]:
    x, y = np.meshgrid(np.arange(n) * spacing, np.arange(n) * spacing, indexing="ij")
    index = np.arange(n * n).reshape(n, n)
    a, b, c, d = (index[i : n - 1 + i, j : n - 1 + j].ravel() for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
    return np.stack([x.ravel(), y.ravel(), np.zeros(n * n)], axis=1), np.concatenate(
        [np.stack([a, b, c], 1), np.stack([a, c, d], 1)]
    ).astype(np.int32)


@pytest.mark.parametrize(
    ("inwards", "radius_m", "wanted_m"),
    [
        (False, 0.035, 0.035),  # raised by 15 mm
        (False, 0.055, 0.055),  # by 35 mm, more than the room behind the skin
        (False, 0.095, 0.07),  # by 75 mm: nothing is raised by more than 50
        (False, 0.008, 0.008),
        (True, 0.055, 0.055),  # behind skin that faces the middle, by 35 mm: more than the room in front of it
        (True, 0.095, 0.07),
        (True, 0.008, 0.008),
    ],
)
def test_heights_on_either_side_have_limits_of_their_own(inwards: bool, radius_m: float, wanted_m: float) -> None:
    template = ball(inwards=inwards)
    registered = Surface(template.canonical_m @ TURN.T + SHIFT, template.faces)
    direction = np.random.default_rng(0).normal(size=(50, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    normals = direction * (-1 if inwards else 1)
    found = transport(radius_m * direction @ TURN.T + SHIFT, normals @ TURN.T, registered, template, 0.1)
    assert found.matched.all()
    np.testing.assert_allclose(found.canonical_m, wanted_m * direction, atol=0.02 * wanted_m)
    np.testing.assert_allclose(np.linalg.norm(found.canonical_m, axis=1), wanted_m, rtol=0.01)
    np.testing.assert_allclose(found.offset_m, (radius_m - 0.02) * (-1 if inwards else 1), atol=3e-4)
    np.testing.assert_allclose(found.cosine, 1, atol=0.01)
    np.testing.assert_allclose(found.sideways_m, 0, atol=1e-7)


@pytest.mark.parametrize(("size", "scale"), [(1.0, 1.0), (1.25, 0.8), (0.8, 1.25), (3.0, 0.5), (0.3, 2.0)])
def test_a_height_shrinks_with_the_skin_it_stands_on_but_within_limits(size: float, scale: float) -> None:
    flat, faces = sheet()
    template = template_of(flat, faces)
    registered = Surface(size * flat @ TURN.T + SHIFT, faces)
    points = np.array([[0.0212, 0.0177, 0.003], [0.0151, 0.0262, -0.002], [-0.001, 0.02, 0.001]])
    inside, height = points * [1, 1, 0], points * [0, 0, 1]
    found = transport((size * inside + height) @ TURN.T + SHIFT, np.tile(TURN[:, 2], (3, 1)), registered, template, 1.0)
    # The last one lies beyond the border: its way sideways is scaled like its height, from the border on.
    beyond = np.array([[0, 0, 0], [0, 0, 0], [-0.001 * size * scale, 0, 0]])
    np.testing.assert_allclose(found.canonical_m, np.maximum(inside, 0) + beyond + scale * height, atol=1e-7)
    np.testing.assert_allclose(found.offset_m, height[:, 2], atol=1e-7)


def test_further_than_the_reach_there_is_no_counterpart() -> None:
    flat, faces = sheet()
    template = template_of(flat, faces)
    height = np.array([0.00799, 0.00801, -0.00799, -0.00801])
    points = np.array([0.02, 0.02, 0.0]) + height[:, None] * [0, 0, 1.0]
    found = transport(points, np.tile([0, 0, 1.0], (4, 1)), Surface(flat, faces), template, 0.008)
    assert found.matched.tolist() == [True, False, True, False]
    assert found.region.tolist() == [1, 0, 1, 0]
    assert np.isnan(found.canonical_m[[1, 3]]).all()
    np.testing.assert_allclose(found.canonical_m[[0, 2]], points[[0, 2]], atol=1e-7)
    # Distance, not height: beyond the border both count.
    beside = np.array([[-0.0048, 0.02, 0.0062], [-0.005, 0.02, 0.0065]])
    found = transport(beside, np.tile([0, 0, 1.0], (2, 1)), Surface(flat, faces), template, 0.008)
    assert found.matched.tolist() == [True, False]


def test_points_whose_normals_lean_too_far_have_no_counterpart() -> None:
    flat, faces = sheet()
    template = template_of(flat, faces)
    cosine = np.array([0.95, 0.5, 0.301, 0.299, -0.5])
    normals = np.stack([np.sqrt(1 - cosine**2), 0 * cosine, cosine], axis=1)
    points = np.tile([0.021, 0.018, 0.001], (5, 1))
    found = transport(points, normals, Surface(flat, faces), template, 0.008)
    np.testing.assert_allclose(found.cosine, cosine, atol=1e-7)
    assert found.matched.tolist() == [True, True, True, False, False]


def test_the_place_inside_a_triangle_and_its_heaviest_corners_region_are_kept() -> None:
    """Canonical triangles are bent otherwise than the registered ones: only barycentric weights connect them."""
    flat, faces = sheet(3)
    other = flat.copy()
    other[:, 2] = 0.3 * other[:, 0] * other[:, 1] / 0.01
    other[4] += [0.001, -0.0008, 0.0]
    regions = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9], np.uint8)
    template = template_of(other, faces, regions)
    weights = np.random.default_rng(0).dirichlet([1, 1, 1], 40)
    face = np.arange(40) % len(faces)
    corners = faces[face]
    points = np.einsum("nc,ncd->nd", weights, flat[corners])
    found = transport(points, np.tile([0, 0, 1.0], (40, 1)), Surface(flat, faces), template, 0.008)
    np.testing.assert_allclose(found.canonical_m, np.einsum("nc,ncd->nd", weights, other[corners]), atol=1e-7)
    np.testing.assert_array_equal(found.region, regions[corners[np.arange(40), weights.argmax(axis=1)]])
    np.testing.assert_allclose(found.foot.barycentric, weights, atol=1e-4)
    np.testing.assert_array_equal(found.foot.face, face)


def test_between_two_sheets_the_normal_decides_up_to_its_price() -> None:
    """A point beside a sheet that faces the other way belongs to a further one, if that is not too much further."""
    flat, faces = sheet()
    n = len(flat)
    gap = 0.005
    lower = flat - [0, 0, gap]
    vertices = np.concatenate([flat, lower])
    # Both face the gap, like the lips of a mouth.
    both = np.concatenate([faces[:, ::-1], faces + n])
    template = template_of(vertices, both, np.repeat([7, 8], n).astype(np.uint8))
    below = np.array([0.002, 0.004])
    points = np.array([0.02, 0.02, 0.0]) - below[:, None] * [0, 0, 1.0]
    upwards = np.tile([0, 0, 1.0], (2, 1))  # as the lower sheet faces
    found = transport(points, upwards, Surface(vertices, both), template, 0.008)
    assert found.region.tolist() == [8, 8]
    np.testing.assert_allclose(found.offset_m, gap - below, atol=1e-6)
    found = transport(points, -upwards, Surface(vertices, both), template, 0.008)
    assert found.region.tolist() == [7, 7]
    # 8 mm for opposite normals: at 0.5 mm from one and 9.5 mm from the other the nearer one is kept, and disagrees.
    vertices = np.concatenate([flat, flat - [0, 0, 0.01]])
    far = template_of(vertices, both, np.repeat([7, 8], n).astype(np.uint8))
    point = np.array([[0.02, 0.02, -0.0005]])
    found = transport(point, upwards[:1], Surface(vertices, both), far, 0.02)
    assert found.matched.tolist() == [False]
    found = transport(point - [0, 0, 0.0015], upwards[:1], Surface(vertices, both), far, 0.02)
    assert found.region.tolist() == [8]
