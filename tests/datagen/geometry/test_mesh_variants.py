"""Every way that a valid OBJ or PLY may be written gives the same mesh; surface that is not read is refused."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.errors import MeshError
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import read_mesh

FEW = settings(max_examples=60, deadline=None)
CODES = {"char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I", "float": "f", "double": "d"}
CODES |= {"int8": "b", "uint8": "B", "int16": "h", "int32": "i", "uint32": "I", "float32": "f", "float64": "d"}


@st.composite
def polygon_meshes(draw: st.DrawFn) -> tuple[np.ndarray, list[list[int]]]:
    """Vertices that float32 and text hold exactly, and polygons of three to six corners."""
    n = draw(st.integers(3, 12))
    vertices = np.array(draw(st.lists(st.integers(-999, 999), min_size=3 * n, max_size=3 * n))).reshape(-1, 3) / 1024
    return vertices, draw(st.lists(st.lists(st.integers(0, n - 1), min_size=3, max_size=6), max_size=8))


def triangles(polygons: list[list[int]]) -> np.ndarray:
    return np.array([(p[0], p[k], p[k + 1]) for p in polygons for k in range(1, len(p) - 1)], int).reshape(-1, 3)


def assert_read(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    mesh = read_mesh(path, need_faces=False)
    np.testing.assert_array_equal(mesh.vertices, vertices)
    np.testing.assert_array_equal(mesh.faces, faces)


@st.composite
def obj_files(draw: st.DrawFn) -> tuple[bytes, np.ndarray, np.ndarray]:
    vertices, polygons = draw(polygon_meshes())
    gap = st.sampled_from([" ", "  ", "\t", " \t", " \\\n  "])
    extra = draw(st.sampled_from(["", " 1", " 0.5 0.25 1", " 1 0.5 0.25 1"]))
    noise = ["", "   ", "# a comment", "# C:\\scans\\", "vt 0 1", "vn 0 0 1", "g head", "s off", "usemtl skin", "o a#b"]

    def line(*words: str) -> str:
        text = words[0] + "".join(draw(gap) + word for word in words[1:])
        return draw(st.sampled_from(["", "  ", "\t"])) + text + draw(st.sampled_from(["", " ", "\t", " # said"]))

    lines = ["mtllib head.mtl"] * draw(st.booleans())
    for vertex in vertices:
        lines += draw(st.lists(st.sampled_from(noise), max_size=1))
        lines.append(line("v", *map(repr, vertex.tolist()), *extra.split()))
    texture = draw(st.sampled_from(["", "/1", "//1", "/1/1", "/"]))
    for polygon in polygons:
        lines += draw(st.lists(st.sampled_from(noise), max_size=1))
        signed = [p - len(vertices) if draw(st.booleans()) else p + 1 for p in polygon]
        lines.append(line(draw(st.sampled_from(["f", "fo"])), *(f"{p}{texture}" for p in signed)))
    ending = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = "\n".join(lines) + draw(st.sampled_from(["", "\n", "\n\n"]))
    return (
        draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.replace("\n", ending).encode(),
        vertices,
        triangles(polygons),
    )


@FEW
@given(obj_files())
def test_every_spelling_of_an_obj_gives_the_same_mesh(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[bytes, np.ndarray, np.ndarray]
) -> None:
    path = tmp_path_factory.mktemp("obj") / "m.obj"
    path.write_bytes(case[0])
    assert_read(path, *case[1:])


@st.composite
def ply_files(draw: st.DrawFn) -> tuple[bytes, np.ndarray, np.ndarray]:
    vertices, polygons = draw(polygon_meshes())
    strips = draw(st.lists(st.lists(st.integers(0, len(vertices) - 1), min_size=3, max_size=6), max_size=3))
    encoding = draw(st.sampled_from(["ascii", "binary_little_endian", "binary_big_endian"]))
    real, whole = st.sampled_from(["float", "double", "float32"]), st.sampled_from(["int", "uint", "int32", "short"])
    count = draw(st.sampled_from(["uchar", "uint8", "int", "ushort", "char"]))
    corners = draw(st.sampled_from(["vertex_indices", "vertex_index"]))
    # Of each element: its properties, (name, type, count type), and a value or a list of each for every record.
    vertex: list[tuple[str, str, str]] = [(axis, draw(real), "") for axis in "xyz"]
    rows: list[list[Any]] = [[*map(float, v)] for v in vertices]
    if draw(st.booleans()):
        vertex.append(("red", "uchar", ""))
        rows = [[*row, 200] for row in rows]
    if draw(st.booleans()):
        vertex.insert(0, ("quality", "float", ""))
        rows = [[0.5, *row] for row in rows]
    face: list[tuple[str, str, str]] = [(corners, draw(whole), count)]
    faces: list[list[Any]] = [[p] for p in polygons]
    if draw(st.booleans()):
        face.append(("texcoord", "float", "uchar"))
        faces = [[*f, [0.25] * (2 * draw(st.integers(0, 2)))] for f in faces]
    if draw(st.booleans()):
        face.insert(0, ("flags", "uchar", ""))
        faces = [[7, *f] for f in faces]
    elements = [("vertex", vertex, rows), ("face", face, faces)]
    signed = draw(st.booleans())
    if strips:
        elements.append(("tristrips", [(corners, "int" if signed else "uint", "int")], [[s] for s in strips]))
    if draw(st.booleans()):
        edge = [("vertex1", "int", ""), ("vertex2", "int", "")]
        elements.insert(draw(st.integers(0, len(elements))), ("edge", edge, [[0, 1], [1, 2]]))
    remarks = ["comment made by hand é", "obj_info num_cols 512", "comment end_header is not here"]
    header = ["ply", f"format {encoding} 1.0", *draw(st.lists(st.sampled_from(remarks), max_size=2))]
    body = b""
    ending = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    for name, properties, records in elements:
        header.append(f"element {name} {len(records)}")
        header += [f"property list {c} {t} {p}" if c else f"property {t} {p}" for p, t, c in properties]
        for record in records:
            body += _record(encoding, properties, record, ending)
    text = ending.join([*header, "end_header"]).encode("latin-1") + ending.encode()
    if encoding == "ascii":
        body = draw(st.sampled_from([body, body.rstrip(), body + b"\n\n", body.replace(b" ", b"\t")]))
    found = [s for strip in strips for s in strip_triangles(strip)]
    whole_surface = np.concatenate([triangles(polygons), np.array(found, int).reshape(-1, 3)])
    return text + body, vertices, whole_surface


def _record(encoding: str, properties: list[tuple[str, str, str]], record: list[Any], ending: str) -> bytes:
    pairs = [
        pair
        for (_, kind, count), value in zip(properties, record, strict=True)
        for pair in ([(count, len(value)), *((kind, x) for x in value)] if count else [(kind, value)])
    ]
    if encoding == "ascii":
        return (" ".join(repr(value) for _, value in pairs) + ending).encode()
    order = "<" if "little" in encoding else ">"
    return b"".join(struct.pack(order + CODES[kind], value) for kind, value in pairs)


def strip_triangles(strip: list[int]) -> list[tuple[int, int, int]]:
    found = [(strip[k], strip[k + 1], strip[k + 2]) for k in range(len(strip) - 2)]
    turned = [(b, a, c) if k % 2 else (a, b, c) for k, (a, b, c) in enumerate(found)]
    return [t for t in turned if len(set(t)) == 3]


@FEW
@given(ply_files())
def test_every_spelling_of_a_ply_gives_the_same_mesh(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[bytes, np.ndarray, np.ndarray]
) -> None:
    path = tmp_path_factory.mktemp("ply") / "m.ply"
    path.write_bytes(case[0])
    assert_read(path, *case[1:])


@pytest.mark.parametrize("encoding", ["ascii", "binary"])
@pytest.mark.parametrize("suffix", ["ply", "obj"])
def test_what_another_implementation_writes_is_read(tmp_path: Path, suffix: str, encoding: str) -> None:
    import trimesh

    ball = trimesh.creation.icosphere(2)
    ball.visual.vertex_colors = np.arange(4 * len(ball.vertices)).reshape(-1, 4).astype(np.uint8)
    options = {"encoding": encoding} if suffix == "ply" else {"include_color": encoding == "ascii", "digits": 17}
    ball.export(tmp_path / f"m.{suffix}", **options)
    mesh = read_mesh(tmp_path / f"m.{suffix}")
    np.testing.assert_allclose(mesh.vertices, ball.vertices, atol=1e-7)
    np.testing.assert_array_equal(mesh.faces, ball.faces)


def test_a_strip_begins_anew_at_minus_one(tmp_path: Path) -> None:
    header = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    header += "element tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    path = tmp_path / "m.ply"
    path.write_text(header + "0 0 0\n1 0 0\n0 1 0\n1 1 0\n8 0 1 2 3 -1 3 2 1\n")
    np.testing.assert_array_equal(read_mesh(path).faces, [[0, 1, 2], [2, 1, 3], [3, 2, 1]])


INDEX = "property list uchar int vertex_index\n"
HEAD = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
POINTS = "0 0 0\n1 0 0\n0 1 0\n"


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.ply", HEAD + "element range_grid 1\nproperty list uchar int vertex_indices\nend_header\n", "range_grid"),
        (
            "a.ply",
            HEAD + "element triangle 1\nproperty int a\nend_header\n",
            "triangle",
        ),
        ("a.ply", HEAD + "element face 1\nproperty int a\nproperty int b\nend_header\n" + POINTS + "0 1", "with a, b"),
        (
            "a.ply",
            HEAD + "element face 1\n" + INDEX + "end_header\n" + POINTS + "2 0 1",
            "2 c",
        ),
        ("a.ply", HEAD + "element face 1\n" + INDEX + "end_header\n" + POINTS, "truncated"),
        ("a.ply", HEAD + "end_header\n" + POINTS + "0 0 1", "more bytes"),
        ("a.ply", HEAD + "end_header\n" + "0 0 0\n1 0 0\n0 1 x", "no number"),
        ("a.ply", HEAD + "facets 3\nend_header\n", "'facets 3'"),
        ("a.ply", HEAD + "property float x\nend_header\n", "'property float x'"),
        ("a.ply", HEAD.replace("float", "quad") + "end_header\n", "property quad x"),
        ("a.ply", HEAD.replace("vertex 3", "vertex 1000000000000") + "end_header\n" + POINTS, "truncated"),
        ("a.obj", "v 0 0 0\ncstype bezier\n", "line 2: 'cstype' belongs to curves"),
        ("a.obj", "v 0 0 0\ntriangle 1 2 3\n", "line 2: 'triangle 1 2 3' is no statement"),
        ("a.obj", "v 0 0 0\nf -1 -2 -1\n", "line 2"),
        ("a.obj", "v 0 0 \\\n0\nv 1 0 0\nf 1 2\n", "line 4"),
    ],
)
def test_surface_that_is_not_read_is_refused_by_name(tmp_path: Path, name: str, text: str, word: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(MeshError, match=word):
        read_mesh(tmp_path / name, need_faces=False)


@pytest.mark.parametrize("index", [2**32, 2**32 + 1, -(2**32), 3])
def test_an_index_too_large_for_a_vertex_is_not_cut_to_one(tmp_path: Path, index: int) -> None:
    np.savez(tmp_path / "m.npz", vertices=np.eye(3), faces=np.array([[0, 1, index]]))
    with pytest.raises(MeshError, match="face indices"):
        read_mesh(tmp_path / "m.npz")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_to_a_mesh_file_is_a_mesh_or_an_error_in_words(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    suffix, files = data.draw(st.sampled_from([("ply", ply_files()), ("obj", obj_files())]))
    content = bytearray(data.draw(files)[0])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=6) | st.just(b"99999999999"))
        content = content or bytearray(b"x")
    path = tmp_path_factory.mktemp("any") / f"m.{suffix}"
    path.write_bytes(content)
    with suppress(MeshError):
        assert isinstance(read_mesh(path, need_faces=False), Mesh)
