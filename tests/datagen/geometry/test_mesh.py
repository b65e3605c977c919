"""Meshes: normals, edges, boundaries, and the checks at the door."""

from __future__ import annotations

import numpy as np
import pytest

from datagen.common.errors import InputError, MeshError
from datagen.geometry import mesh as m
from datagen.geometry.edges import boundary_vertices
from datagen.geometry.space import METRES_PER_UNIT, metres_per


def octahedron() -> m.Mesh:
    v = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float) * 0.1
    f = [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]
    return m.Mesh.of(v, f)


def test_normals_of_a_closed_convex_shape_point_outwards():
    o = octahedron()
    centres = o.vertices[o.faces].mean(axis=1)
    faces = m.face_normals(o.vertices, o.faces)
    np.testing.assert_allclose(faces, centres / np.linalg.norm(centres, axis=1, keepdims=True))
    np.testing.assert_allclose(m.vertex_normals(o.vertices, o.faces), o.vertices / 0.1, atol=1e-12)


def test_face_cross_measures_area():
    o = octahedron()
    areas = np.linalg.norm(m.face_cross(o.vertices, o.faces), axis=1) / 2
    np.testing.assert_allclose(areas, np.sqrt(3) / 4 * 0.02)  # equilateral, side √2 · 0.1


def test_degenerate_triangles_and_unused_vertices_have_zero_normals():
    v = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [5, 5, 5]], float)
    assert not m.face_normals(v, np.array([[0, 1, 2]])).any()
    assert not m.vertex_normals(v, np.array([[0, 1, 2]])).any()


def test_compact_keeps_geometry_and_tells_the_old_indices():
    o = octahedron()
    part, kept = m.compact(o.vertices, o.faces[:4])  # the upper half does not use vertex 5
    assert kept.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(part.vertices[part.faces], o.vertices[o.faces[:4]])


def test_a_mesh_is_made_in_the_dtypes_of_the_contract():
    mesh = m.Mesh.of([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
    assert mesh.vertices.dtype == np.float64
    assert mesh.faces.dtype == np.int32
    assert m.Mesh.of(np.zeros((4, 3))).faces.shape == (0, 3)


@pytest.mark.parametrize(
    ("mesh", "word"),
    [
        (m.Mesh.of(np.zeros((0, 3))), "empty"),
        (m.Mesh.of(np.zeros((3, 3))), "0 faces"),
        (m.Mesh.of([[0, 0, 0], [1, np.nan, 0], [0, np.inf, 0]], [[0, 1, 2]]), "2 of 3 vertices.*index 1"),
        (m.Mesh.of(np.eye(3), [[1, 2, 3]]), "from 1 to 3"),
        (m.Mesh.of(np.eye(3), [[-1, 0, 1]]), "from -1 to 1"),
    ],
)
def test_a_bad_mesh_is_refused_by_name(mesh: m.Mesh, word: str):
    with pytest.raises(MeshError, match=word) as caught:
        m.validate_mesh(mesh, "scan.ply")
    assert "scan.ply" in str(caught.value)
    assert caught.value.fix


def test_points_alone_pass_where_no_faces_are_needed():
    cloud = m.Mesh.of(np.random.default_rng(0).normal(size=(10, 3)))
    assert m.validate_mesh(cloud, "cloud", need_faces=False) is cloud


@pytest.mark.parametrize(("unit", "factor"), [("cm", 100), ("mm", 1000), ("in", 39.37)])
def test_a_scan_in_the_wrong_unit_is_refused_with_its_factor(unit: str, factor: float):
    head = np.random.default_rng(1).uniform(-0.1, 0.1, (2000, 3))
    m.check_metric_scale(head, "scan")
    with pytest.raises(MeshError, match=f"factor of about {factor:g}"):
        m.check_metric_scale(head / METRES_PER_UNIT[unit], "scan")


def test_a_far_stray_point_does_not_make_a_wrong_unit():
    head = np.random.default_rng(1).uniform(-0.1, 0.1, (2000, 3))
    head[0] = [40, 0, 0]
    m.check_metric_scale(head, "scan")


def test_units():
    assert metres_per("cm", "x") == 0.01
    with pytest.raises(InputError, match=r"capture\.json.*'feet'"):
        metres_per("feet", "capture.json")


@pytest.mark.parametrize("count", [1, 500])
def test_points_in_one_place_are_not_blamed_on_the_unit(count: int):
    with pytest.raises(MeshError, match="in one place") as caught:
        m.check_metric_scale(np.ones((count, 3)), "scan")
    assert "factor" not in str(caught.value)


def test_weld_joins_split_vertices_and_drops_flat_faces() -> None:
    ball = octahedron()
    corners = ball.faces.ravel()
    flat = [[0, 0, 1], [5, 6, 6]]
    soup = m.Mesh.of(ball.vertices[corners], np.concatenate([np.arange(len(corners)).reshape(-1, 3), flat]))
    assert boundary_vertices(soup.faces, len(soup.vertices)).all()
    welded, where = m.weld(soup)
    np.testing.assert_array_equal(welded.vertices[where], soup.vertices)
    assert len(welded.vertices) == len(ball.vertices)
    assert len(welded.faces) == len(ball.faces)
    assert not boundary_vertices(welded.faces, len(welded.vertices)).any()
    again, same = m.weld(welded)
    np.testing.assert_array_equal(again.vertices, welded.vertices)
    np.testing.assert_array_equal(same, np.arange(len(welded.vertices)))
