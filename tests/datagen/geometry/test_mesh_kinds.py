"""Clouds with normals, PCD, STL, OFF and glTF: what other programs wrote is read as they meant it, or refused."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datagen.common.errors import MeshError
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import mesh_bytes, ply_bytes, read_mesh

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(200, 3)).astype(np.float32).astype(np.float64)
NORMALS = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
VERTICES = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 1]], np.float64)
FACES = np.array([[0, 2, 1], [0, 3, 2], [0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])


def test_normals_of_clouds_are_read_from_ply_and_npz(tmp_path: Path) -> None:
    cloud = Mesh.of(POINTS, None, 3 * NORMALS)
    (tmp_path / "a.ply").write_bytes(ply_bytes(cloud))
    np.savez(tmp_path / "b.npz", vertices=POINTS, normals=2 * NORMALS)
    for name in ("a.ply", "b.npz"):
        found = read_mesh(tmp_path / name, "mm", need_faces=False)
        np.testing.assert_allclose(found.vertices, POINTS / 1000)
        assert found.normals is not None
        np.testing.assert_allclose(found.normals, NORMALS, atol=1e-6)
    np.savez(tmp_path / "c.npz", vertices=POINTS)
    assert read_mesh(tmp_path / "c.npz", need_faces=False).normals is None
    unknown = np.where(np.arange(200)[:, None] == 7, np.nan, NORMALS)
    np.savez(tmp_path / "d.npz", vertices=POINTS, normals=unknown)
    found = read_mesh(tmp_path / "d.npz", need_faces=False)
    assert found.normals is not None
    assert found.normals[7].tolist() == [0, 0, 0]
    np.savez(tmp_path / "e.npz", vertices=POINTS, normals=NORMALS[1:])
    with pytest.raises(MeshError, match=r"normals of shape \(199, 3\)"):
        read_mesh(tmp_path / "e.npz", need_faces=False)


def test_a_surface_has_the_normals_of_its_faces(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", vertices=VERTICES, faces=FACES, normals=np.ones_like(VERTICES))
    assert read_mesh(tmp_path / "a.npz").normals is None


@pytest.mark.parametrize("how", ["ascii", "binary", "compressed"])
@pytest.mark.parametrize("normals", [True, False])
def test_pcd_as_open3d_writes_it(tmp_path: Path, how: str, normals: bool) -> None:
    o3d = pytest.importorskip("open3d")
    # Repeated points compress: runs that repeat what came before are tested too.
    points = np.r_[POINTS, np.repeat(POINTS[:3], 200, axis=0)]
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    cloud.colors = o3d.utility.Vector3dVector(np.abs(np.sin(points)))
    if normals:
        cloud.normals = o3d.utility.Vector3dVector(points / np.linalg.norm(points, axis=1, keepdims=True))
    path = tmp_path / "c.pcd"
    assert o3d.io.write_point_cloud(str(path), cloud, write_ascii=how == "ascii", compressed=how == "compressed")
    found = read_mesh(path, need_faces=False)
    assert len(found.faces) == 0
    np.testing.assert_allclose(found.vertices, points, atol=1e-6)
    assert (found.normals is not None) == normals
    if found.normals is not None:
        np.testing.assert_allclose(found.normals, np.asarray(cloud.normals), atol=1e-5)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(MeshError):
        read_mesh(path, need_faces=False)


def test_pcd_of_doubles_paddings_and_places_without_a_point(tmp_path: Path) -> None:
    head = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z _ intensity\nSIZE 8 8 8 1 2\nTYPE F F F U U\nCOUNT 1 1 1 4 1\n"
    head += "WIDTH 2\nHEIGHT 100\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 200\nDATA binary\n"
    rows = np.zeros(200, np.dtype([("p", "<f8", 3), ("_", "u1", 4), ("i", "<u2")]))
    rows["p"] = POINTS
    rows["p"][5] = np.nan
    (tmp_path / "c.pcd").write_bytes(head.encode() + rows.tobytes())
    np.testing.assert_array_equal(read_mesh(tmp_path / "c.pcd", need_faces=False).vertices, np.delete(POINTS, 5, 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("FIELDS x y z", "FIELDS x y w"), "has the fields x, y, w"),
        (("SIZE 4 4 4", "SIZE 4 4 3"), "header of cloud"),
        (("TYPE F F F", "TYPE F F"), "header of cloud"),
        (("DATA ascii", "DATA zip"), "header of cloud"),
        (("WIDTH 2", "BREADTH 2"), "no complete PCD header.*BREADTH"),
        (("POINTS 2", "POINTS 3"), "6 numbers. Expected 3 points of 3"),
        (("1 2 3", "1 2 x"), "no number"),
    ],
)
def test_a_pcd_that_is_none_is_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    text = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 2\nHEIGHT 1\nPOINTS 2\nDATA ascii\n1 2 3\n4 5 6\n"
    path = tmp_path / "c.pcd"
    path.write_text(text)
    assert read_mesh(path, need_faces=False).vertices.tolist() == [[1, 2, 3], [4, 5, 6]]
    path.write_text(text.replace(*change))
    with pytest.raises(MeshError, match=message):
        read_mesh(path, need_faces=False)


def test_damaged_compressed_data_is_refused(tmp_path: Path) -> None:
    o3d = pytest.importorskip("open3d")
    path = tmp_path / "c.pcd"
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(np.repeat(POINTS, 4, axis=0)))
    o3d.io.write_point_cloud(str(path), cloud, compressed=True)
    data = bytearray(path.read_bytes())
    start = data.index(b"binary_compressed\n") + 18 + 8
    data[start] = 255  # repeats what is not there
    path.write_bytes(data)
    with pytest.raises(MeshError, match="is damaged"):
        read_mesh(path, need_faces=False)


def _stl_text() -> str:
    facets = ""
    for face in FACES:
        corners = "\n".join("vertex {} {} {}".format(*VERTICES[corner]) for corner in face)
        facets += f"facet normal 0 0 0\nouter loop\n{corners}\nendloop\nendfacet\n"
    return f"solid x\n{facets}endsolid x\n"


def _stl_binary(head: bytes = b"") -> bytes:
    data = head.ljust(80, b"\0") + len(FACES).to_bytes(4, "little")
    for face in FACES:
        data += np.r_[np.zeros(3), VERTICES[face].ravel()].astype("<f4").tobytes() + b"\0\0"
    return data


@pytest.mark.parametrize("data", [_stl_text().encode(), _stl_binary(), _stl_binary(b"solid of SolidWorks")])
def test_stl(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.stl"
    path.write_bytes(data)
    mesh = read_mesh(path)
    np.testing.assert_array_equal(mesh.vertices[mesh.faces], VERTICES[FACES])
    for wrong in (data[:-30], data[:40]):
        path.write_bytes(wrong)
        with pytest.raises(MeshError):
            read_mesh(path)


@pytest.mark.parametrize(
    "text",
    [
        "OFF\n4 2 0\n{v}\n3 0 1 2\n3 0 2 3\n",
        "# made by hand\nOFF\n# counts\n4 1 5\n{v}\n4 0 1 2 3 255 0 0 # red\n",
        "OFF 4 1 0\n{v}\n\n4 0 1 2 3\n",
        "COFF\n4 1 0\n{c}\n4 0 1 2 3\n",
    ],
)
def test_off(tmp_path: Path, text: str) -> None:
    rows = [f"{x} {y} {z}" for x, y, z in VERTICES[:4]]
    path = tmp_path / "m.off"
    filled = text.format(v="\n".join(rows), c="\n".join(f"{row} 9 9 9 255" for row in rows))
    path.write_text(filled)
    mesh = read_mesh(path)
    np.testing.assert_array_equal(mesh.vertices, VERTICES[:4])
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2], [0, 2, 3]])
    for wrong in (filled.replace("4 0 1 2 3", "").replace("3 0 2 3", ""), filled.replace("OFF", "4OFF"), "hello"):
        path.write_text(wrong)
        with pytest.raises(MeshError):
            read_mesh(path)


def _gltf(**changes: Any) -> dict[str, Any]:
    """Return a scene of two nodes of one mesh, the second below a turned, scaled and moved one."""
    vertices, faces = VERTICES.astype("<f4").tobytes(), FACES.astype("<u2").tobytes()
    uri = "data:application/octet-stream;base64," + base64.b64encode(vertices + faces).decode()
    low, high = VERTICES.min(axis=0).tolist(), VERTICES.max(axis=0).tolist()
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0, 1]}],
        "nodes": [
            {"mesh": 0},
            {"children": [2], "rotation": [0, 0, np.sqrt(0.5), np.sqrt(0.5)], "scale": [2, 2, 2]},
            {"mesh": 0, "translation": [1, 0, 0]},
        ],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 5, "type": "VEC3", "min": low, "max": high},
            {"bufferView": 1, "componentType": 5123, "count": 18, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 60},
            {"buffer": 0, "byteOffset": 60, "byteLength": 36},
        ],
        "buffers": [{"uri": uri, "byteLength": 96}],
        **changes,
    }


def test_gltf_with_the_transforms_of_its_nodes(tmp_path: Path) -> None:
    path = tmp_path / "m.gltf"
    path.write_text(json.dumps(_gltf()))
    mesh = read_mesh(path, "mm")
    # Moved, scaled by 2, then turned by 90 degrees about z: (x, y) becomes (-y, x).
    second = 2 * (VERTICES + np.array([1, 0, 0])) @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    expected = np.r_[VERTICES[FACES], second[FACES]] / 1000
    found = mesh.vertices[mesh.faces]
    # Parts come in the order of the scene's graph.
    turned = np.r_[found[len(FACES) :], found[: len(FACES)]]
    assert np.allclose(found, expected, atol=1e-9) or np.allclose(turned, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"buffers": [{"uri": "m.bin", "byteLength": 96}]}, "its data in another file, 'm.bin'.*Save it as .glb"),
        ({"extensionsRequired": ["KHR_draco_mesh_compression"]}, "needs the extension KHR_draco"),
        ({"nodes": [{"mesh": 0, "skin": 0}, {}, {}]}, "bent by a skin"),
        ({"nodes": [{"mesh": 0, "weights": [0.5]}, {}, {}]}, "morph targets"),
        ({"meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 5}]}]}, "strips or fans"),
        ({"bufferViews": [{"buffer": 0, "byteOffset": 0, "byteLength": 6000}] * 2}, "cannot be read"),
    ],
)
def test_what_gltf_hides_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "m.gltf"
    path.write_text(json.dumps(_gltf(**change)))
    with pytest.raises(MeshError, match=message):
        read_mesh(path)


def test_glb_of_surfaces_and_clouds(tmp_path: Path) -> None:
    path = tmp_path / "m.glb"
    data = mesh_bytes(Mesh.of(VERTICES, FACES), None, "glb")
    path.write_bytes(data)
    mesh = read_mesh(path)
    np.testing.assert_array_equal(mesh.vertices, VERTICES)
    np.testing.assert_array_equal(mesh.faces, FACES)
    path.write_bytes(data[:-20])
    with pytest.raises(MeshError, match="where its header declares"):
        read_mesh(path)
    path.write_bytes(mesh_bytes(Mesh.of(POINTS), None, "glb"))
    np.testing.assert_allclose(read_mesh(path, need_faces=False).vertices, POINTS, atol=1e-7)
    path.write_text("{}")
    with pytest.raises(MeshError, match="no glTF"):
        read_mesh(path)


@pytest.mark.parametrize("kind", ["ply", "obj", "glb", "stl"])
def test_packed_files(tmp_path: Path, kind: str) -> None:
    data = _stl_binary() if kind == "stl" else mesh_bytes(Mesh.of(VERTICES, FACES), None, kind)
    path = tmp_path / f"m.{kind}.gz"
    path.write_bytes(gzip.compress(data))
    mesh = read_mesh(path)
    np.testing.assert_array_equal(mesh.vertices[mesh.faces], VERTICES[FACES])
    path.write_bytes(gzip.compress(data)[:-12])
    with pytest.raises(MeshError, match="truncated"):
        read_mesh(path)
    with pytest.raises(MeshError, match=r"each also as \.gz"):
        read_mesh(tmp_path / "m.gz")
