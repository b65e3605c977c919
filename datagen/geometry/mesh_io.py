"""Reading and writing mesh files. Vertex order is sacred: nothing is merged, reordered or dropped."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import numpy.typing as npt

from datagen.common.errors import MeshError
from datagen.geometry.gltf import read_gltf
from datagen.geometry.mesh import Mesh, check_face_indices, validate_mesh
from datagen.geometry.pcd import read_pcd
from datagen.geometry.ply import Shape, fans, read_ply
from datagen.geometry.space import metres_per
from datagen.geometry.stl_off import read_off, read_stl

MESH_KINDS = (".ply", ".obj", ".npz", ".pcd", ".stl", ".off", ".glb", ".gltf")
SUFFIXES = (*MESH_KINDS, *(f"{kind}.gz" for kind in MESH_KINDS))
_MOST_BYTES = 1 << 33  # of a file that is unpacked: a small one can unpack to anything


def read_mesh(path: Path, unit: str = "m", *, need_faces: bool = True) -> Mesh:
    """Read a mesh or point cloud, keeping the file's own vertex order.

    Parameters
    ----------
    path : Path
        ``.ply``, ``.obj``, ``.stl``, ``.off``, ``.glb``, ``.gltf``, ``.pcd``, or ``.npz`` with ``vertices`` (N, 3),
        ``faces`` (F, 3) and for clouds ``normals`` (N, 3); each of them also packed as ``.gz``. Quads and larger
        polygons are split into fans, triangle strips into triangles.
    unit : str
        Unit of the file's coordinates, one of :data:`datagen.geometry.space.METRES_PER_UNIT`.
    need_faces : bool
        Refuse a file without triangles; otherwise it is read as a point cloud.

    Returns
    -------
    Mesh
        In metres, validated. Clouds have the normals of their file, if it brings any.

    Raises
    ------
    MeshError
        If the file is missing, truncated, of an unknown kind, has no faces though they are needed, holds surface in a
        form that is not read, or fails :func:`datagen.geometry.mesh.validate_mesh`.
    InputError
        If the unit is unknown.
    """
    scale = metres_per(unit, f"the caller reading {path}")
    kind = _kind_of(path)
    if not path.is_file():
        raise MeshError(f"mesh {path} does not exist", "a mesh file", "Check the path")
    try:
        vertices, faces, normals = _READERS[kind](path, _content(path))
    except MeshError:
        raise
    except Exception as error:  # parsers of third parties raise anything on broken bytes
        raise MeshError(
            f"mesh {path} cannot be read ({type(error).__name__}: {error})",
            f"a complete {kind[1:]} file",
            "Copy or export it again; it may be truncated",
        ) from None
    # Before they become 32-bit: a larger number would turn into one that is a vertex.
    check_face_indices(faces, len(vertices), str(path))
    # A surface has those of its faces.
    return validate_mesh(
        Mesh.of(vertices * scale, faces, None if len(faces) else normals), str(path), need_faces=need_faces
    )


def _kind_of(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    kind = next((kind for kind in MESH_KINDS if name.endswith(kind)), None)
    if kind is None:
        raise MeshError(
            f"mesh {path} has the suffix {path.suffix!r}",
            f"one of {', '.join(MESH_KINDS)}, each also as .gz",
            "Convert the file",
        )
    return kind


def _content(path: Path) -> bytes:
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    with gzip.open(path) as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise MeshError(f"mesh {path} unpacks to more than {_MOST_BYTES} bytes", "a mesh of one head", "Simplify it")
    return data


def ply_bytes(
    mesh: Mesh,
    colours: npt.NDArray[np.uint8] | None = None,
    *,
    precision: Literal["float32", "float64"] = "float64",
) -> bytes:
    """Return a binary little-endian PLY in metres, with a cloud's normals; the same mesh always gives the same bytes.

    Parameters
    ----------
    colours : (N, 3) uint8, optional
        sRGB of each vertex.
    precision : ``float32`` or ``float64``
        Type of the coordinates on disk; float32 keeps 0.03 µm at head size.

    Raises
    ------
    MeshError
        If the colours do not belong to the vertices.
    """
    code, name = ("<f4", "float") if precision == "float32" else ("<f8", "double")
    fields: list[Any] = [("xyz", code, 3)]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(mesh.vertices)}"]
    header += [f"property {name} {axis}" for axis in "xyz"]
    if colours is not None:
        _check_colours(mesh, colours)
        fields.append(("rgb", "u1", 3))
        header += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    if mesh.normals is not None:
        fields.append(("normal", "<f4", 3))
        header += [f"property float {axis}" for axis in ("nx", "ny", "nz")]
    vertex = np.zeros(len(mesh.vertices), fields)
    vertex["xyz"] = mesh.vertices
    if colours is not None:
        vertex["rgb"] = colours
    if mesh.normals is not None:
        vertex["normal"] = mesh.normals
    body = vertex.tobytes()
    if len(mesh.faces):
        header += [f"element face {len(mesh.faces)}", "property list uchar int vertex_indices"]
        face = np.zeros(len(mesh.faces), [("n", "u1"), ("corner", "<i4", 3)])
        face["n"], face["corner"] = 3, mesh.faces
        body += face.tobytes()
    return ("\n".join([*header, "end_header"]) + "\n").encode("ascii") + body


MESH_FORMATS = ("ply", "obj", "glb")


def mesh_bytes(mesh: Mesh, colours: npt.NDArray[np.uint8] | None, form: str) -> bytes:
    """Return a mesh or point cloud in metres as a file that MeshLab and Blender open, vertices in their order.

    Parameters
    ----------
    colours : (N, 3) uint8, optional
        sRGB of each vertex.
    form : str
        One of :data:`MESH_FORMATS`; PLY and GLB keep 32-bit coordinates (0.03 µm at head size), OBJ is text.

    Raises
    ------
    MeshError
        If the colours do not belong to the vertices.
    """
    if form == "ply":
        return ply_bytes(mesh, colours, precision="float32")
    if colours is not None:
        _check_colours(mesh, colours)
    if form == "obj":
        return _obj_bytes(mesh, colours)
    import trimesh

    if len(mesh.faces):
        shape = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=colours, process=False)
    else:
        shape = trimesh.PointCloud(mesh.vertices, colors=colours)
    return bytes(trimesh.exchange.gltf.export_glb(trimesh.Scene([shape])))


def _obj_bytes(mesh: Mesh, colours: npt.NDArray[np.uint8] | None) -> bytes:
    buffer = io.BytesIO()
    # Colours after the coordinates: no standard, but what MeshLab and Blender read. Tenths of a micrometre.
    vertices = mesh.vertices if colours is None else np.hstack([mesh.vertices, colours / 255])
    np.savetxt(buffer, vertices, fmt="v " + " ".join(["%.7f"] * 3 + ["%.4f"] * (vertices.shape[1] - 3)))
    np.savetxt(buffer, mesh.faces + 1, fmt="f %d %d %d")
    return buffer.getvalue()


def _check_colours(mesh: Mesh, colours: npt.NDArray[np.uint8]) -> None:
    if colours.shape != (len(mesh.vertices), 3):
        raise MeshError(
            f"colours of shape {colours.shape} for {len(mesh.vertices)} vertices",
            f"shape ({len(mesh.vertices)}, 3)",
            "Give one colour to each vertex",
        )


# Statements of OBJ that say nothing of where the surface is; points and lines are no surface.
_OBJ_PASSED_OVER = {"vt", "vn", "vp", "g", "s", "o", "mg", "lod", "p", "l", "usemtl", "mtllib", "usemap", "maplib"}
_OBJ_PASSED_OVER |= {"bevel", "c_interp", "d_interp", "shadow_obj", "trace_obj"}
_OBJ_CURVED = {"curv", "curv2", "surf", "bzp", "bsp", "cdc", "cdp", "res", "cstype", "deg", "bmat", "step", "parm"}
_OBJ_CURVED |= {"trim", "hole", "scrv", "sp", "end", "con"}


def _read_obj(path: Path, data: bytes) -> Shape:
    # trimesh drops unused vertices and splits those on texture seams, so the line kinds that matter are read here.
    vertices: list[list[float]] = []
    sizes: list[int] = []
    corners: list[int] = []
    with io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", errors="replace") as file:
        for number, line in _obj_lines(file):
            keyword, *words = line.split()
            try:
                if keyword == "v":
                    # After x, y and z: a weight, colours, or both.
                    x, y, z, *_ = map(float, words)
                    vertices.append([x, y, z])
                elif keyword in {"f", "fo"}:
                    face = [int(word.split("/", 1)[0]) for word in words]
                    if len(face) < 3 or 0 in face or -min(face) > len(vertices):
                        raise ValueError
                    # Negative numbers count back from the latest vertex.
                    corners += [c - 1 if c > 0 else len(vertices) + c for c in face]
                    sizes.append(len(face))
                elif keyword not in _OBJ_PASSED_OVER:
                    raise _not_read(path, number, line, keyword)
            except ValueError:
                raise MeshError(
                    f"mesh {path}, line {number}: {line[:60]!r} cannot be read",
                    "`v x y z`, or `f a b c ...` with at least three vertex numbers counting from 1",
                    "The file may be truncated: copy or export it again",
                ) from None
    faces = fans(np.array(sizes, np.int64), np.array(corners, np.int64))
    return Shape(np.array(vertices, np.float64).reshape(-1, 3), faces)


def _obj_lines(file: TextIO) -> Iterator[tuple[int, str]]:
    """Yield statements without comments, each with its line number; a line that ends with a backslash goes on."""
    begun, first = "", 0
    for number, line in enumerate(file, 1):
        # A comment may end with one as well, as paths of Windows do: that does not continue it.
        text, comment, _ = line.partition("#")
        text, first = begun + text.strip(), first if begun else number
        begun = ""
        if text.endswith("\\") and not comment:
            begun = text[:-1] + " "
        elif text:
            yield first, text
    if begun.strip():
        yield first, begun.strip()


def _not_read(path: Path, number: int, line: str, keyword: str) -> MeshError:
    if keyword in _OBJ_CURVED:
        return MeshError(
            f"mesh {path}, line {number}: {keyword!r} belongs to curves or curved surfaces, which are not read",
            "vertices and faces",
            "Export it as triangles",
        )
    return MeshError(
        f"mesh {path}, line {number}: {line[:60]!r} is no statement that is known",
        "an OBJ file as text: `v x y z`, `f a b c`",
        "Check what kind of file it is, or remove the line",
    )


def _refuse_faces_of_other_names(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    for name, values in arrays.items():
        # Of 8 bits they are colours.
        if values.dtype.kind in "iu" and values.dtype.itemsize > 1 and values.ndim == 2 and values.shape[1] in (3, 4):
            raise MeshError(
                f"mesh {path} has no array `faces`, but {name!r} of shape {values.shape}, which may be faces",
                "triangles as `faces` (F, 3), or none",
                "Save it under that name, or leave it out",
            )


def _read_npz(path: Path, data: bytes) -> Shape:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            if "vertices" not in archive.files:
                raise MeshError(
                    f"mesh {path} holds {', '.join(archive.files) or 'nothing'}",
                    "the array `vertices` (N, 3) and, for a surface, `faces` (F, 3)",
                    "Save it with these names",
                )
            vertices = np.asarray(archive["vertices"])
            normals = np.asarray(archive["normals"]) if "normals" in archive.files else None
            if "faces" not in archive.files:
                _refuse_faces_of_other_names(
                    path, {name: archive[name] for name in archive.files if name not in {"vertices", "normals"}}
                )
            faces = np.asarray(archive["faces"]) if "faces" in archive.files else np.zeros((0, 3), np.int64)
    except zipfile.BadZipFile:
        raise MeshError(f"mesh {path} is not a complete npz archive", "a numpy .npz", "Copy it again") from None
    whole = np.issubdtype(faces.dtype, np.integer) and vertices.dtype.kind in "iuf"
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3 or not whole:
        raise MeshError(
            f"mesh {path} has vertices of shape {vertices.shape}, {vertices.dtype}, and faces of shape {faces.shape}, "
            f"{faces.dtype}",
            "shapes (N, 3) and (F, 3), vertices of a real and faces of an integer type",
            "Save triangles",
        )
    if normals is not None and (normals.shape != vertices.shape or normals.dtype.kind not in "iuf"):
        raise MeshError(
            f"mesh {path} has normals of shape {normals.shape}, {normals.dtype}, for vertices of {vertices.shape}",
            "a normal for each vertex",
            "Save them so, or leave them out",
        )
    return Shape(
        vertices.astype(np.float64), faces.astype(np.int64), None if normals is None else normals.astype(np.float64)
    )


_READERS: dict[str, Callable[[Path, bytes], Shape]] = {
    ".ply": read_ply,
    ".obj": _read_obj,
    ".npz": _read_npz,
    ".pcd": read_pcd,
    ".stl": read_stl,
    ".off": read_off,
    ".glb": read_gltf,
    ".gltf": read_gltf,
}
