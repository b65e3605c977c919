"""Mesh files: order kept, units applied, broken files refused in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.errors import InputError, MeshError
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import ply_bytes, read_mesh

VERTICES = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0.25], [5, 5, 5], [0, 0, 0]], float)
FACES = np.array([[0, 1, 2], [2, 1, 3]], np.int32)


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), min_size=3, max_size=30), st.integers(0, 9))
    )
)
@settings(max_examples=25, deadline=None)
def test_ply_round_trip_is_exact_and_keeps_order(tmp_path_factory: pytest.TempPathFactory, case: tuple) -> None:
    n, corners, seed = case
    vertices = np.random.default_rng(seed).normal(size=(n, 3))
    vertices[n // 2] = vertices[0]  # a duplicate that a merging reader would drop
    faces = np.array(corners[: len(corners) // 3 * 3]).reshape(-1, 3)
    path = tmp_path_factory.mktemp("ply") / "m.ply"
    path.write_bytes(ply_bytes(Mesh.of(vertices, faces)))
    back = read_mesh(path)
    np.testing.assert_array_equal(back.vertices, vertices)
    np.testing.assert_array_equal(back.faces, faces)
    assert back.vertices.dtype == np.float64
    assert back.faces.dtype == np.int32


def test_ply_bytes_are_the_same_each_time_with_colours_and_float32(tmp_path: Path) -> None:
    mesh = Mesh.of(VERTICES, FACES)
    colours = np.arange(18, dtype=np.uint8).reshape(6, 3)
    (tmp_path / "a.ply").write_bytes(ply_bytes(mesh, colours, precision="float32"))
    (tmp_path / "b.ply").write_bytes(ply_bytes(mesh, colours, precision="float32"))
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    back = read_mesh(tmp_path / "a.ply")
    np.testing.assert_array_equal(back.vertices, VERTICES)
    import trimesh

    loaded = trimesh.load(tmp_path / "a.ply", process=False)
    np.testing.assert_array_equal(loaded.visual.vertex_colors[:, :3], colours)
    with pytest.raises(MeshError, match="one colour to each vertex"):
        ply_bytes(mesh, colours[:3])


def test_ascii_ply_with_quads_and_mixed_polygons(tmp_path: Path) -> None:
    header = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    header += "element face {}\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n"
    quad = tmp_path / "quad.ply"
    quad.write_text(header.format(1) + "4 0 1 2 3\n")
    np.testing.assert_array_equal(read_mesh(quad).faces, [[0, 1, 2], [0, 2, 3]])
    mixed = tmp_path / "mixed.ply"
    mixed.write_text(header.format(2) + "4 0 1 2 3\n3 0 1 3\n")
    found = {frozenset(face) for face in read_mesh(mixed).faces.tolist()}
    assert found == {frozenset(face) for face in ((0, 1, 2), (0, 2, 3), (0, 1, 3))}


def test_obj_keeps_order_across_seams_unused_vertices_and_negative_indices(tmp_path: Path) -> None:
    lines = [f"v {x} {y} {z}" for x, y, z in VERTICES] + ["vt 0 0", "vt 1 0", "vt 0 1", "vt .5 .5", "vn 0 0 1"]
    lines += ["# a comment", "f 1/1/1 2/2/1 3/3/1", "f -4/4 2/1 4/3"]
    path = tmp_path / "m.obj"
    path.write_text("\n".join(lines) + "\n")
    mesh = read_mesh(path)
    np.testing.assert_array_equal(mesh.vertices, VERTICES)
    np.testing.assert_array_equal(mesh.faces, FACES)


@pytest.mark.parametrize(("unit", "factor"), [("m", 1.0), ("cm", 0.01), ("mm", 0.001)])
def test_units(tmp_path: Path, unit: str, factor: float) -> None:
    np.savez(tmp_path / "m.npz", vertices=VERTICES.astype(np.float32), faces=FACES)
    np.testing.assert_allclose(read_mesh(tmp_path / "m.npz", unit).vertices, VERTICES * factor)


def test_point_cloud_only_where_allowed(tmp_path: Path) -> None:
    (tmp_path / "p.ply").write_bytes(ply_bytes(Mesh.of(VERTICES)))
    assert len(read_mesh(tmp_path / "p.ply", need_faces=False).faces) == 0
    with pytest.raises(MeshError, match="0 faces"):
        read_mesh(tmp_path / "p.ply")


@pytest.mark.parametrize("cut", [1, 5, 13, 26, 27, 60, 200, 400])
def test_truncated_ply_is_refused(tmp_path: Path, cut: int) -> None:
    data = ply_bytes(Mesh.of(VERTICES, FACES))
    (tmp_path / "t.ply").write_bytes(data[:-cut])
    with pytest.raises(MeshError):
        read_mesh(tmp_path / "t.ply", need_faces=False)


@pytest.mark.parametrize("lines", [["v 0 0"], ["v 0 0 0", "f 1 1"], ["v 0 0 0", "f 1 2 x"], ["v 0 0 0", "f 0 1 1"]])
def test_broken_obj_names_the_line(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "t.obj").write_text("\n".join(lines))
    with pytest.raises(MeshError, match=f"line {len(lines)}"):
        read_mesh(tmp_path / "t.obj")


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="does not exist"):
        read_mesh(tmp_path / "none.ply")
    (tmp_path / "m.fbx").write_bytes(b"")
    with pytest.raises(MeshError, match=r"\.fbx.*\.ply, \.obj, \.npz.*\.gz"):
        read_mesh(tmp_path / "m.fbx")
    (tmp_path / "no.ply").write_text("hello")
    with pytest.raises(MeshError, match="does not start with 'ply'"):
        read_mesh(tmp_path / "no.ply")
    (tmp_path / "no.npz").write_bytes(b"PK junk")
    with pytest.raises(MeshError, match=r"no\.npz"):
        read_mesh(tmp_path / "no.npz")
    np.savez(tmp_path / "other.npz", points=VERTICES)
    with pytest.raises(MeshError, match="holds points"):
        read_mesh(tmp_path / "other.npz")
    (tmp_path / "nan.ply").write_bytes(ply_bytes(Mesh.of(np.where(VERTICES == 5, np.nan, VERTICES), FACES)))
    with pytest.raises(MeshError, match="index 4"):
        read_mesh(tmp_path / "nan.ply")
    (tmp_path / "out.ply").write_bytes(ply_bytes(Mesh.of(VERTICES, FACES + 4)))
    with pytest.raises(MeshError, match="indices from"):
        read_mesh(tmp_path / "out.ply")
    with pytest.raises(InputError, match="furlong"):
        read_mesh(tmp_path / "out.ply", "furlong")
