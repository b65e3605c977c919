"""Triangle meshes as two arrays, with the checks every mesh passes once at the door."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.common.errors import MeshError

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]

# A human head, shoulders included or only a face mask: any bounding-box diagonal in metres outside this
# range is a unit mistake, not a person.
HEAD_DIAGONAL_RANGE_M = (0.10, 1.5)
# Typical diagonal, used to name the unit a refused scan seems to be in.
HEAD_DIAGONAL_TYPICAL_M = 0.35
_UNITS = {
    "metres": 1.0,
    "decimetres": 0.1,
    "centimetres": 0.01,
    "inches": 0.0254,
    "millimetres": 0.001,
    "micrometres": 1e-6,
    "metres, but declared as millimetres": 1000.0,
    "metres, but declared as centimetres": 100.0,
    "centimetres, but declared as millimetres": 10.0,
}


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh; with no faces, a point cloud.

    Attributes
    ----------
    vertices : (N, 3) float64
        Positions in metres.
    faces : (F, 3) int32
        Vertex indices, counter-clockwise seen from outside. F may be 0.
    normals : (N, 3) float64 or None
        Of a point cloud whose file brought them: unit vectors, zero where the file has none. Whatever makes another
        mesh of this one drops them, unless it says that it keeps them.
    """

    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int32]
    normals: npt.NDArray[np.float64] | None = None

    @classmethod
    def of(
        cls, vertices: npt.ArrayLike, faces: npt.ArrayLike | None = None, normals: npt.ArrayLike | None = None
    ) -> Mesh:
        """Make a mesh from anything array-like, in the dtypes of the contract; normals become unit vectors."""
        face_array = np.zeros((0, 3), np.int32) if faces is None else np.asarray(faces, np.int32).reshape(-1, 3)
        unit = None if normals is None else normalised(np.nan_to_num(np.asarray(normals, np.float64)).reshape(-1, 3))
        return cls(np.ascontiguousarray(vertices, np.float64).reshape(-1, 3), np.ascontiguousarray(face_array), unit)


def face_cross(vertices: FloatArray, faces: IntArray) -> npt.NDArray[np.float64]:
    """Return un-normalised face normals, (F, 3) float64; their length is twice the triangle's area."""
    v = np.asarray(vertices, np.float64)
    a, b, c = v[faces[:, 0]], v[faces[:, 1]], v[faces[:, 2]]
    return np.cross(b - a, c - a)


def normalised(vectors: FloatArray) -> npt.NDArray[np.float64]:
    """Return vectors (..., 3) scaled to unit length; zero vectors stay zero."""
    v = np.asarray(vectors, np.float64)
    length = np.linalg.norm(v, axis=-1, keepdims=True)
    return np.divide(v, length, out=np.zeros_like(v), where=length > 0)


def face_normals(vertices: FloatArray, faces: IntArray) -> npt.NDArray[np.float64]:
    """Return unit face normals, (F, 3) float64; a degenerate triangle has a zero normal."""
    return normalised(face_cross(vertices, faces))


def vertex_normals(vertices: FloatArray, faces: IntArray) -> npt.NDArray[np.float64]:
    """Return area-weighted unit vertex normals, (N, 3) float64; an unused vertex has a zero normal."""
    cross = face_cross(vertices, faces)
    normals = np.empty((len(vertices), 3))
    corners = np.asarray(faces).T.ravel()
    for axis in range(3):
        normals[:, axis] = np.bincount(corners, weights=np.tile(cross[:, axis], 3), minlength=len(vertices))
    return normalised(normals)


def compact(vertices: FloatArray, faces: IntArray) -> tuple[Mesh, npt.NDArray[np.int64]]:
    """Drop vertices that no face uses; return the mesh and the kept old indices, (M,) int64."""
    kept, inverse = np.unique(np.asarray(faces).ravel(), return_inverse=True)
    return Mesh.of(np.asarray(vertices)[kept], inverse.reshape(-1, 3)), kept.astype(np.int64)


def weld(mesh: Mesh) -> tuple[Mesh, npt.NDArray[np.int64]]:
    """Join vertices at the same place and drop faces without area, so that borders and normals are the surface's own.

    Files split vertices along texture seams or give every triangle its own; to a surface that is not a border. Of the
    normals of a cloud those of the first point at a place are kept.

    Returns
    -------
    welded : Mesh
        Vertices in the order of their first appearance.
    where : (N,) int64
        Welded index of each vertex of ``mesh``.
    """
    _, first, where = np.unique(mesh.vertices, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    vertices, where = mesh.vertices[first[order]], rank[where.ravel()]
    faces = where[mesh.faces]
    kept = np.linalg.norm(face_cross(vertices, faces), axis=1) > 0
    normals = None if mesh.normals is None else mesh.normals[first[order]]
    return Mesh.of(vertices, faces[kept], normals), where


def validate_mesh(mesh: Mesh, name: str, *, need_faces: bool = True) -> Mesh:
    """Check a mesh at the door and return it.

    Raises
    ------
    MeshError
        If it is empty, has non-finite vertices, or faces that point outside the vertex array.
    """
    v, f = mesh.vertices, mesh.faces
    if len(v) == 0 or (need_faces and len(f) == 0):
        raise MeshError(
            f"{name} is empty: {len(v)} vertices, {len(f)} faces",
            "a surface with at least one triangle" if need_faces else "at least one point",
            "Check the file and the export that made it",
        )
    bad = ~np.isfinite(v).all(axis=1)
    if bad.any():
        raise MeshError(
            f"{name} has {int(bad.sum())} of {len(v)} vertices with NaN or infinite coordinates, "
            f"the first at index {int(bad.argmax())}",
            "finite coordinates",
            "Remove these vertices and the faces that use them",
        )
    check_face_indices(f, len(v), name)
    return mesh


def validate_points(
    points: npt.ArrayLike, normals: npt.ArrayLike, name: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Check points (N, 3) with a normal each, and return both as float64, the normals of unit length.

    Raises
    ------
    MeshError
        If their shapes differ or are not (N, 3), or one is not finite.
    """
    at, facing = np.asarray(points, np.float64), np.asarray(normals, np.float64)
    if at.ndim != 2 or at.shape[1] != 3 or facing.shape != at.shape:
        raise MeshError(
            f"{name} have the shape {at.shape}, and their normals {facing.shape}",
            "(N, 3) both",
            "Give each point its normal",
        )
    if not (np.isfinite(at).all() and np.isfinite(facing).all()):
        raise MeshError(f"{name} or their normals are not all finite", "finite numbers", "Leave holes out")
    return at, normalised(facing)


def check_face_indices(faces: IntArray, vertices: int, name: str) -> None:
    """Refuse faces (F, 3) that point outside ``vertices`` many vertices.

    Raises
    ------
    MeshError
        If one does.
    """
    if len(faces) and (faces.min() < 0 or faces.max() >= vertices):
        raise MeshError(
            f"{name} has face indices from {int(faces.min())} to {int(faces.max())}",
            f"indices from 0 to {vertices - 1}",
            "Check whether the faces belong to another vertex list or count from 1",
        )


def check_metric_scale(
    vertices: FloatArray,
    name: str,
    reference_diagonal_m: float = HEAD_DIAGONAL_TYPICAL_M,
    declare: str = "--unit, or `unit` in capture.json",
) -> None:
    """Refuse a head that is not in metres, naming the factor it seems to be off by.

    Parameters
    ----------
    declare : str
        Where the unit of these very points is declared.

    Raises
    ------
    MeshError
        If the bounding-box diagonal (of the central 98 % of points) is impossible for a head in metres, or all
        points coincide, which no unit explains.
    """
    low, high = np.percentile(np.asarray(vertices, np.float64), [1, 99], axis=0)
    diagonal = float(np.linalg.norm(high - low))
    if HEAD_DIAGONAL_RANGE_M[0] <= diagonal <= HEAD_DIAGONAL_RANGE_M[1]:
        return
    if diagonal == 0:
        raise MeshError(
            f"all points of {name} lie in one place",
            "points spread over a head",
            "Check the file and the export that made it",
        )
    ratio = diagonal / reference_diagonal_m
    unit = min(_UNITS, key=lambda u: abs(np.log(ratio * _UNITS[u])))
    factor = 1.0 / _UNITS[unit]
    raise MeshError(
        f"{name} measures {diagonal:.4g} across, which is not a head in metres; "
        f"it seems to be off by a factor of about {factor:g} (in {unit})",
        f"a diagonal of {HEAD_DIAGONAL_RANGE_M[0]} to {HEAD_DIAGONAL_RANGE_M[1]} m",
        f"Declare the unit ({declare}) or multiply the coordinates by {_UNITS[unit]:g}",
    )
