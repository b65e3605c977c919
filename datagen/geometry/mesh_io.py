"""Reading and writing mesh files. Vertex order is sacred: nothing is merged, reordered or dropped."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from datagen.common.errors import MeshError
from datagen.geometry.mesh import Mesh, validate_mesh
from datagen.geometry.space import metres_per

SUFFIXES = (".ply", ".obj", ".npz")


def read_mesh(path: Path, unit: str = "m", *, need_faces: bool = True) -> Mesh:
    """Read a mesh or point cloud, keeping the file's own vertex order.

    Parameters
    ----------
    path : Path
        ``.ply`` (ASCII or binary), ``.obj``, or ``.npz`` with ``vertices`` (N, 3) and ``faces`` (F, 3).
        Quads and larger polygons are split into fans.
    unit : str
        Unit of the file's coordinates, one of :data:`datagen.geometry.space.METRES_PER_UNIT`.
    need_faces : bool
        Refuse a file without triangles; otherwise it is read as a point cloud.

    Returns
    -------
    Mesh
        In metres, validated.

    Raises
    ------
    MeshError
        If the file is missing, truncated, of an unknown kind, has no faces though they are needed, or fails
        :func:`datagen.geometry.mesh.validate_mesh`.
    InputError
        If the unit is unknown.
    """
    scale = metres_per(unit, f"the caller reading {path}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise MeshError(f"mesh {path} has the suffix {suffix!r}", f"one of {', '.join(SUFFIXES)}", "Convert the file")
    if not path.is_file():
        raise MeshError(f"mesh {path} does not exist", "a mesh file", "Check the path")
    reader = {".ply": _read_ply, ".obj": _read_obj, ".npz": _read_npz}[suffix]
    try:
        vertices, faces = reader(path)
    except MeshError:
        raise
    except Exception as error:  # parsers of third parties raise anything on broken bytes
        raise MeshError(
            f"mesh {path} cannot be read ({type(error).__name__}: {error})",
            f"a complete {suffix[1:]} file",
            "Copy or export it again; it may be truncated",
        ) from None
    return validate_mesh(Mesh.of(vertices * scale, faces), str(path), need_faces=need_faces)


def ply_bytes(
    mesh: Mesh,
    colours: npt.NDArray[np.uint8] | None = None,
    *,
    precision: Literal["float32", "float64"] = "float64",
) -> bytes:
    """Return a binary little-endian PLY in metres; the same mesh always gives the same bytes.

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
        if colours.shape != (len(mesh.vertices), 3):
            raise MeshError(
                f"colours of shape {colours.shape} for {len(mesh.vertices)} vertices",
                f"shape ({len(mesh.vertices)}, 3)",
                "Give one colour to each vertex",
            )
        fields.append(("rgb", "u1", 3))
        header += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    vertex = np.zeros(len(mesh.vertices), fields)
    vertex["xyz"] = mesh.vertices
    if colours is not None:
        vertex["rgb"] = colours
    body = vertex.tobytes()
    if len(mesh.faces):
        header += [f"element face {len(mesh.faces)}", "property list uchar int vertex_indices"]
        face = np.zeros(len(mesh.faces), [("n", "u1"), ("corner", "<i4", 3)])
        face["n"], face["corner"] = 3, mesh.faces
        body += face.tobytes()
    return ("\n".join([*header, "end_header"]) + "\n").encode("ascii") + body


def _read_ply(path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    from trimesh.exchange.ply import load_ply

    with open(path, "rb") as file:
        if file.read(3) != b"ply":
            raise MeshError(f"mesh {path} does not start with 'ply'", "a PLY file", "Check what kind of file it is")
        file.seek(0)
        declared = _declared_counts(path, file)
        file.seek(0)
        # fix_texture would split vertices along texture seams.
        loaded = load_ply(file, fix_texture=False, skip_materials=True)
        trailing = file.tell()
    raw: dict[str, Any] = loaded["metadata"]["_ply_raw"]
    vertices = np.asarray(loaded.get("vertices", np.zeros((0, 3))), np.float64).reshape(-1, 3)
    faces = loaded.get("faces")
    faces = np.zeros((0, 3), np.int64) if faces is None else np.asarray(faces)
    # The loader passes over elements it could not fill, so the header is the judge of completeness.
    if len(vertices) != declared["vertex"] or len(faces) < declared["face"]:
        raise MeshError(
            f"mesh {path} is truncated or has polygons of mixed size: its header declares {declared['vertex']} "
            f"vertices and {declared['face']} faces, but {len(vertices)} and {len(faces)} could be read "
            f"(to byte {trailing})",
            "as many as the header declares, polygons all of one size",
            "Copy the file again, or export it triangulated",
        )
    _check_list_sizes(path, raw)
    return vertices, _triangulated(faces)


def _declared_counts(path: Path, file: BinaryIO) -> dict[str, int]:
    counts = {"vertex": 0, "face": 0}
    for _ in range(1000):
        words = file.readline(1000).decode("ascii", "replace").split()
        if words[:1] == ["element"] and len(words) == 3:
            counts[words[1]] = int(words[2])
        if words == ["end_header"]:
            return counts
    raise MeshError(f"mesh {path} has no complete PLY header", "a line `end_header`", "Copy the file again")


def _check_list_sizes(path: Path, raw: dict[str, Any]) -> None:
    """Refuse a binary PLY whose polygons differ in size: it would have been read out of step."""
    data = raw.get("face", {}).get("data")
    if not isinstance(data, np.ndarray) or data.dtype.names is None:
        return
    for name in data.dtype.names:
        field = data[name]
        sizes = field["f0"] if field.dtype.names and "f0" in field.dtype.names else None
        if sizes is not None and len(sizes) and (sizes != sizes[0]).any():
            raise MeshError(
                f"mesh {path} has polygons of mixed size in a binary PLY",
                "triangles only",
                "Export it triangulated",
            )


def _triangulated(faces: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    if faces.ndim == 2:
        corners = faces.astype(np.int64)
        return np.concatenate([corners[:, [0, k, k + 1]] for k in range(1, corners.shape[1] - 1)] or [corners[:0, :3]])
    fans = [(f[0], f[k], f[k + 1]) for f in faces for k in range(1, len(f) - 1)]
    return np.array(fans, np.int64).reshape(-1, 3)


def _read_obj(path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    # trimesh drops unused vertices and splits those on texture seams, so the two line kinds that matter are
    # read here.
    vertices: list[list[float]] = []
    fans: list[tuple[int, int, int]] = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            words = line.split()
            if not words or words[0] not in {"v", "f"}:
                continue
            try:
                if words[0] == "v":
                    x, y, z = words[1:4]
                    vertices.append([float(x), float(y), float(z)])
                    continue
                corners = [int(word.split("/", 1)[0]) for word in words[1:]]
            except ValueError:
                raise MeshError(
                    f"mesh {path}, line {number}: {line.strip()[:60]!r} cannot be read",
                    "`v x y z` or `f a b c ...`",
                    "The file may be truncated: copy or export it again",
                ) from None
            if len(corners) < 3 or 0 in corners:
                raise MeshError(
                    f"mesh {path}, line {number}: {line.strip()[:60]!r} is not a face",
                    "at least three vertex numbers counting from 1",
                    "The file may be truncated: copy or export it again",
                )
            # Negative numbers count back from the latest vertex.
            corners = [c - 1 if c > 0 else len(vertices) + c for c in corners]
            fans.extend((corners[0], corners[k], corners[k + 1]) for k in range(1, len(corners) - 1))
    return np.array(vertices, np.float64).reshape(-1, 3), np.array(fans, np.int64).reshape(-1, 3)


def _read_npz(path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "vertices" not in archive.files:
                raise MeshError(
                    f"mesh {path} holds {', '.join(archive.files) or 'nothing'}",
                    "the array `vertices` (N, 3) and, for a surface, `faces` (F, 3)",
                    "Save it with these names",
                )
            vertices = np.asarray(archive["vertices"])
            faces = np.asarray(archive["faces"]) if "faces" in archive.files else np.zeros((0, 3), np.int64)
    except zipfile.BadZipFile:
        raise MeshError(f"mesh {path} is not a complete npz archive", "a numpy .npz", "Copy it again") from None
    whole = np.issubdtype(faces.dtype, np.integer)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3 or not whole:
        raise MeshError(
            f"mesh {path} has vertices of shape {vertices.shape} and faces of shape {faces.shape}, {faces.dtype}",
            "shapes (N, 3) and (F, 3), faces of an integer type",
            "Save triangles",
        )
    return vertices.astype(np.float64), faces.astype(np.int64)
