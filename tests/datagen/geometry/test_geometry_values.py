"""Cameras, landmarks, units, mesh checks and the canonical space: values from just inside and outside each limit."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from datagen.common.errors import CameraError, InputError, LandmarkError, MeshError
from datagen.geometry.camera import Camera, look_at, validate_camera
from datagen.geometry.edges import boundary_vertices, unique_edges
from datagen.geometry.landmarks import Landmarks, validate_landmarks
from datagen.geometry.mesh import (
    Mesh,
    check_metric_scale,
    validate_mesh,
    vertex_normals,
)
from datagen.geometry.space import METRES_PER_UNIT, CanonicalSpace, metres_per
from datagen.geometry.subdivide import loop_subdivision
from datagen.heads.base import HeadTemplate, LinearHead

FEW = np.random.default_rng(0)


def skewed() -> Camera:
    """Unlike focal lengths, a skew, and a principal point off the middle."""
    K = np.array([[410.0, 3.5, 130.0], [0.0, 380.0, 201.0], [0.0, 0.0, 1.0]])
    E = np.eye(4)
    E[:3, :3] = Rotation.from_euler("xyz", [20, -35, 170], degrees=True).as_matrix()
    E[:3, 3] = [0.02, -0.05, 1.3]
    return Camera("skewed", K, E, 240, 420)


def test_a_point_is_projected_by_focal_lengths_skew_and_principal_point() -> None:
    camera = skewed()
    points = FEW.uniform(-0.2, 0.2, (30, 3))
    pixels, depth = camera.project(points)
    for point, (u, v), z in zip(points, pixels, depth, strict=True):
        x, y, w = (camera.world_to_camera @ [*point, 1.0])[:3]
        assert z == pytest.approx(w)
        assert u == pytest.approx(410 * x / w + 3.5 * y / w + 130)
        assert v == pytest.approx(380 * y / w + 201)
    np.testing.assert_allclose(camera.world_to_camera @ [*camera.centre, 1.0], [0, 0, 0, 1], atol=1e-12)


def test_a_pixel_is_lifted_to_its_planar_depth_through_its_middle() -> None:
    camera = skewed()
    depth = FEW.uniform(0.8, 1.6, (420, 240))
    world = camera.unproject(depth)
    assert world.shape == (420, 240, 3)
    for row, column in ((0, 0), (419, 0), (7, 239), (200, 100)):
        z = depth[row, column]
        y = (row + 0.5 - 201) / 380 * z
        x = ((column + 0.5 - 130) * z - 3.5 * y) / 410
        wanted = np.linalg.inv(camera.world_to_camera) @ [x, y, z, 1]
        np.testing.assert_allclose(world[row, column], wanted[:3], atol=1e-12)


def test_a_crop_of_a_skewed_camera_sees_the_box() -> None:
    camera = skewed()
    cropped = camera.crop(12.25, 30.5, 150.0, 224)
    points = FEW.uniform(-0.1, 0.1, (10, 3))
    np.testing.assert_allclose(
        cropped.project(points)[0], (camera.project(points)[0] - [12.25, 30.5]) * 224 / 150, atol=1e-9
    )
    np.testing.assert_array_equal(camera.K, skewed().K)


def test_a_camera_looks_with_its_focal_length_in_an_image_that_is_no_square() -> None:
    camera = look_at("c", [0.0, 0.0, 2.0], [0.0, 0.0, 0.0], 300.0, 200, 500)
    pixels, _ = camera.project(np.array([[0.1, 0.0, 0.0], [0.0, 0.2, 0.0], [0.1, 0.2, 1.0]]))
    np.testing.assert_allclose(pixels, [[100 + 15, 250], [100, 250 - 30], [100 + 30, 250 - 60]], atol=1e-9)


@pytest.mark.parametrize(("scale", "good"), [(1 + 4e-5, True), (1 + 6e-5, False), (1 - 6e-5, False)])
def test_a_rotation_may_be_off_by_rounding_alone(scale: float, good: bool) -> None:
    E = skewed().world_to_camera.copy()
    E[:3, :3] *= scale
    camera = dataclasses.replace(skewed(), world_to_camera=E)
    if good:
        assert validate_camera(camera) is camera
    else:
        with pytest.raises(CameraError, match="not a rotation"):
            validate_camera(camera)


@pytest.mark.parametrize(
    "K",
    [
        [[0.0, 0, 5], [0, 10, 5], [0, 0, 1]],
        [[10.0, 0, 5], [0, 0, 5], [0, 0, 1]],
        [[10.0, 0, 5], [0, -10, 5], [0, 0, 1]],
        [[10.0, 0, 5], [0.001, 10, 5], [0, 0, 1]],
        [[10.0, 0, 5], [0, 10, 5], [0, 0, 2]],
    ],
)
def test_each_fault_of_intrinsics_alone_is_refused(K: list[list[float]]) -> None:
    with pytest.raises(CameraError, match="pinhole"):
        validate_camera(dataclasses.replace(skewed(), K=np.array(K)))


@pytest.mark.parametrize("size", [{"width": 0}, {"height": 0}, {"height": -3}])
def test_each_side_of_an_image_is_checked(size: dict[str, int]) -> None:
    with pytest.raises(CameraError, match="size"):
        validate_camera(dataclasses.replace(skewed(), **size))  # type: ignore[arg-type]


def some_landmarks(indices: list[int]) -> Landmarks:
    points = np.random.default_rng(3).normal(0, 0.05, (len(indices), 3))
    return Landmarks(np.array(indices), points)


def test_landmarks_are_sorted_each_with_its_own_point() -> None:
    given = some_landmarks([45, 0, 67, 30])
    found = validate_landmarks(given, "them")
    assert found.indices.tolist() == [0, 30, 45, 67]
    np.testing.assert_array_equal(found.points, given.points[[1, 3, 0, 2]])


@pytest.mark.parametrize(
    ("indices", "word"),
    [([3, 5], "2 landmarks"), ([0, 5, 68], "indices from 0 to 68"), ([-1, 5, 6], "from -1"), ([5, 5, 6], "twice")],
)
def test_each_fault_of_landmark_indices_alone_is_refused(indices: list[int], word: str) -> None:
    with pytest.raises(LandmarkError, match=word):
        validate_landmarks(some_landmarks(indices), "them")
    validate_landmarks(some_landmarks([0, 30, 67]), "them")


@pytest.mark.parametrize(("height", "good"), [(1.5e-4, True), (0.5e-4, False)])
def test_points_on_a_line_are_told_from_a_flat_triangle(height: float, good: bool) -> None:
    points = np.array([[-0.1, 0, 0], [0.1, 0, 0], [0, 0.0, 0.0], [0.0, height * 2, 0]])
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    assert (spread[1] > 1e-3 * spread[0]) == good
    landmarks = Landmarks(np.array([1, 2, 3, 4]), points)
    if good:
        validate_landmarks(landmarks, "them")
    else:
        with pytest.raises(LandmarkError, match="one line"):
            validate_landmarks(landmarks, "them")


def test_a_template_carries_its_landmarks_on_any_vertices() -> None:
    vertices = FEW.normal(0, 0.1, (6, 3))
    faces = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
    carrier, weights = np.arange(68) % 2, FEW.dirichlet([1, 1, 1], 68)
    template = HeadTemplate("h", vertices, faces, np.ones(6, np.uint8), carrier, weights)
    other = vertices * 1.2 + 0.1
    for given, v in ((None, vertices), (other, other)):
        wanted = [sum(w * v[c] for w, c in zip(weights[k], faces[k % 2], strict=True)) for k in range(68)]
        np.testing.assert_allclose(template.landmarks(given), wanted, atol=1e-15)


def test_units_are_what_they_are_called() -> None:
    assert METRES_PER_UNIT == {"m": 1.0, "dm": 0.1, "cm": 0.01, "mm": 0.001, "in": 0.0254}
    assert metres_per("in", "x") == 0.0254
    with pytest.raises(InputError, match="the file declares the unit 'ft'"):
        metres_per("ft", "the file")


def spread_points(diagonal_m: float) -> np.ndarray:
    """1001 points whose central 98 % have this diagonal, and strays at both ends."""
    along = np.linspace(0, 1, 1001)
    return diagonal_m / 0.98 * along[:, None] * np.array([2.0, 3.0, 6.0]) / 7


@pytest.mark.parametrize("diagonal_m", [0.101, 0.3, 1.49])
def test_heads_within_the_range_pass(diagonal_m: float) -> None:
    points = spread_points(diagonal_m)
    points[:5] -= 100
    points[-5:] += 100
    check_metric_scale(points, "it")


@pytest.mark.parametrize(
    ("diagonal_m", "factor"),
    [(0.099, 0.1), (1.51, 10.0), (3.5, 10.0), (13.8, 39.3701), (35, 100), (350, 1000), (3.5e5, 1e6)],
)
def test_heads_outside_it_are_off_by_the_nearest_units_factor(diagonal_m: float, factor: float) -> None:
    with pytest.raises(MeshError, match=re.escape(f"factor of about {factor:g} ")) as caught:
        check_metric_scale(spread_points(diagonal_m), "it")
    assert f"{diagonal_m:.4g} across" in str(caught.value)
    with pytest.raises(MeshError, match=r"factor of about 0\.001 "):
        check_metric_scale(spread_points(0.35e-3), "it")


@pytest.mark.parametrize("index", [-1, 3])
def test_faces_that_point_outside_are_refused_at_either_end(index: int) -> None:
    mesh = Mesh.of(np.eye(3), [[0, 1, 2], [0, 1, index]])
    with pytest.raises(MeshError, match="face indices from"):
        validate_mesh(mesh, "it")
    assert validate_mesh(Mesh.of(np.eye(3), [[0, 1, 2]]), "it").faces.tolist() == [[0, 1, 2]]


def test_bad_vertices_are_counted_and_the_first_is_named() -> None:
    vertices = np.zeros((9, 3))
    vertices[4, 1], vertices[7, 2] = np.nan, np.inf
    with pytest.raises(MeshError, match=r"2 of 9 vertices .* at index 4"):
        validate_mesh(Mesh.of(vertices, [[0, 1, 2]]), "it")


def test_normals_are_weighted_by_area() -> None:
    """A corner of a flat box: three faces of unlike size."""
    vertices = np.array([[0, 0, 0], [2, 0, 0], [0, 3, 0], [0, 0, 5.0]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2]])
    wanted = -np.array([15.0, 10.0, 6.0])
    np.testing.assert_allclose(vertex_normals(vertices, faces)[0], wanted / np.linalg.norm(wanted))


def test_edges_are_counted_and_the_border_found_against_a_loop() -> None:
    ball = trimesh.creation.icosphere(1)
    faces = np.asarray(ball.faces)[:60]
    counts: dict[tuple[int, int], int] = {}
    for a, b, c in faces.tolist():
        for edge in ((a, b), (b, c), (c, a)):
            key = (min(edge), max(edge))
            counts[key] = counts.get(key, 0) + 1
    edges, found = unique_edges(faces)
    assert {tuple(edge): int(n) for edge, n in zip(edges.tolist(), found, strict=True)} == counts
    border = {vertex for edge, n in counts.items() if n == 1 for vertex in edge}
    assert set(np.flatnonzero(boundary_vertices(faces, len(ball.vertices))).tolist()) == border


def test_the_space_is_the_middle_of_the_box_and_half_its_longest_side() -> None:
    vertices = np.array([[-0.08, 0.1, -0.11], [0.07, 0.32, 0.09], [0.0, 0.2, 0.0]])
    space = CanonicalSpace.around(vertices, "h", "digest")
    np.testing.assert_allclose(space.centre, [-0.005, 0.21, -0.01], atol=1e-12)
    assert space.half_extent == pytest.approx(round(0.11 * 1.02, 4))
    assert (space.head, space.identity, space.template_digest) == ("h", "shared", "digest")
    wide = CanonicalSpace.around(vertices, "h", "digest", margin=1.5)
    assert wide.half_extent == pytest.approx(0.165)
    point = np.array([[0.02, 0.25, -0.05]])
    normal = (point - [-0.005, 0.21, -0.01]) / space.half_extent
    np.testing.assert_allclose(space.normalise(point), normal)
    np.testing.assert_allclose(space.metres(normal), point)
    assert space.distance_mm(space.normalise(point), space.normalise(point + np.array([0, 0.003, 0.004])))[
        0
    ] == pytest.approx(5)


def test_loop_subdivision_has_its_weights() -> None:
    """Inside: 3/8, 3/8, 1/8, 1/8 on edges and 1 - 6 · 1/16 at a vertex of six; on the border the cubic spline's."""
    n = 5
    index = np.arange(n * n).reshape(n, n)
    a, b, c, d = (index[i : n - 1 + i, j : n - 1 + j].ravel() for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    found = loop_subdivision(faces, n * n)
    rows = found.matrix.toarray()
    middle = rows[12]
    assert middle[12] == pytest.approx(1 - 6 / 16)
    np.testing.assert_allclose(np.sort(middle[middle > 0]), [1 / 16] * 6 + [10 / 16])
    side = rows[2]  # in the middle of a border
    np.testing.assert_allclose(side[[1, 2, 3]], [1 / 8, 6 / 8, 1 / 8])
    assert side.sum() == pytest.approx(1)
    edges = {tuple(np.round(np.sort(row[row > 0]), 6)) for row in rows[n * n :]}
    assert edges == {(0.5, 0.5), (0.125, 0.125, 0.375, 0.375)}
    assert len(found.faces) == 4 * len(faces)
    cube = trimesh.creation.icosahedron()
    five = loop_subdivision(cube.faces, 12).matrix.toarray()[0]
    np.testing.assert_allclose(np.sort(five[five > 0]), [3 / 40] * 5 + [5 / 8])
    four = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    three = loop_subdivision(four.faces, 4).matrix.toarray()[0]
    np.testing.assert_allclose(np.sort(three[three > 0]), [3 / 16] * 3 + [7 / 16])


def test_a_linear_head_adds_what_its_parameters_say() -> None:
    rng = np.random.default_rng(1)
    faces = np.array([[0, 1, 2]], np.int32)
    neutral = HeadTemplate(
        "h", rng.normal(size=(3, 3)), faces, np.ones(3, np.uint8), np.zeros(68, int), np.eye(3)[[0] * 68]
    )
    modes, shapes = rng.normal(size=(2, 3, 3)).astype(np.float32), rng.normal(size=(3, 3, 3)).astype(np.float32)
    head = LinearHead(neutral, modes, shapes, ("a", "b", "c"))
    assert head.identity_size == 2
    identity, expression = np.array([0.5, -2.0]), np.array([0.0, 0.25, 1.0])
    wanted = neutral.vertices + 0.5 * modes[0] - 2 * modes[1] + 0.25 * shapes[1] + shapes[2]
    np.testing.assert_allclose(head.vertices(identity, expression), wanted, atol=1e-6)
    np.testing.assert_array_equal(head.vertices(np.zeros(2), np.zeros(3)), neutral.vertices)
    for bad in ((np.zeros(3), np.zeros(3)), (np.zeros(2), np.zeros(2)), (np.array([0, np.nan]), np.zeros(3))):
        with pytest.raises(InputError, match="vector has shape"):
            head.vertices(*bad)
