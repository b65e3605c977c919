"""What sets of meshes in FLAME's topology share: how many vertices they have, and faces where they bring none."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.errors import MeshError
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import read_mesh

VERTICES = 5023
# Of the mean edge, between one face and another: vertices in another order are joined across the whole head.
_LONGER = 3.0


def flame_faces(path: Path, vertices: npt.NDArray[np.float64], what: str) -> npt.NDArray[np.int32]:
    """Return the faces of a mesh for vertices (5023, 3) in FLAME's order, any unit.

    Raises
    ------
    MeshError
        If the mesh has another number of vertices, or joins vertices that are far apart.
    """
    status = path.stat() if path.is_file() else None
    mesh = _mesh(path, status.st_mtime_ns if status else 0)
    if len(mesh.vertices) != VERTICES:
        raise MeshError(
            f"mesh {path} has {len(mesh.vertices)} vertices", f"{VERTICES}, as FLAME", "Name another: --topology"
        )
    ratio = _edge(vertices, mesh.faces) / _edge(mesh.vertices, mesh.faces)
    if not ratio < _LONGER:
        raise MeshError(
            f"the faces of {path} join vertices of {what} that are {ratio:.3g} times as far apart as its own",
            "a mesh with FLAME's order of vertices",
            "Name another: --topology",
        )
    return mesh.faces


@lru_cache(maxsize=4)
def _mesh(path: Path, _time: int) -> Mesh:
    return read_mesh(path)


def _edge(vertices: npt.NDArray[np.float64], faces: npt.NDArray[np.int32]) -> float:
    """Return the mean length of an edge through the size of the head."""
    edges = np.linalg.norm(vertices[faces[:, 0]] - vertices[faces[:, 1]], axis=1)
    return float(edges.mean() / max(np.linalg.norm(np.ptp(vertices, axis=0)), 1e-12))
