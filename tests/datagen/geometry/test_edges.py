"""Edges, sides and neighbours of triangles, against counting them one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import trimesh

from datagen.geometry.edges import boundary_vertices, edge_table, face_neighbours, unique_edges


def two_sheets(seed: int) -> np.ndarray:
    """Faces with borders, edges of three faces and unused vertices."""
    rng = np.random.default_rng(seed)
    faces = np.argsort(rng.random((60, 25)), axis=1)[:, :3]
    return faces.astype(np.int32)


@pytest.mark.parametrize("seed", range(4))
def test_edges_are_counted_as_by_hand(seed: int):
    faces = two_sheets(seed)
    sides = [tuple(sorted((face[i], face[j]))) for face in faces.tolist() for i, j in ((1, 2), (2, 0), (0, 1))]
    expected = Counter(sides)
    assert max(expected.values()) > 2
    table = edge_table(faces)
    assert [tuple(edge) for edge in table.edges.tolist()] == sorted(expected)
    assert table.counts.tolist() == [expected[edge] for edge in sorted(expected)]
    assert [tuple(edge) for edge in table.edges[table.sides].reshape(-1, 2).tolist()] == sides
    edges, counts = unique_edges(faces)
    np.testing.assert_array_equal(edges, table.edges)
    np.testing.assert_array_equal(counts, table.counts)
    on_border = {vertex for edge, count in expected.items() if count == 1 for vertex in edge}
    assert set(boundary_vertices(faces, 30).nonzero()[0].tolist()) == on_border


def test_a_closed_surface_has_no_border_and_an_opened_one_has():
    ball = np.asarray(trimesh.creation.icosphere(1).faces)
    edges, counts = unique_edges(ball)
    assert len(edges) == len(ball) * 3 / 2
    assert (counts == 2).all()
    assert not boundary_vertices(ball, 50).any()
    assert sorted(boundary_vertices(ball[1:], 50).nonzero()[0]) == sorted(ball[0])
    assert (face_neighbours(ball) >= 0).all()


def test_neighbours_lie_across_the_opposite_edge_and_borders_have_none():
    faces = np.array([[0, 1, 2], [2, 1, 3], [4, 5, 6]])
    np.testing.assert_array_equal(face_neighbours(faces), [[1, -1, -1], [-1, -1, 0], [-1, -1, -1]])


def test_an_edge_of_three_faces_has_no_other_side():
    faces = np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    np.testing.assert_array_equal(face_neighbours(faces), np.full((3, 3), -1))


def test_no_faces_have_no_edges():
    empty = np.zeros((0, 3), np.int32)
    assert edge_table(empty).edges.shape == (0, 2)
    assert face_neighbours(empty).shape == (0, 3)
