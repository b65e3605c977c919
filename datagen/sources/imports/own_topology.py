"""Meshes in a set's own topology, which are registrations once somebody says which vertices are the landmarks."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.documents import read_text
from datagen.common.errors import InputError, LandmarkError
from datagen.geometry.landmarks import SCHEME_SIZES, Landmarks
from datagen.geometry.mesh import Mesh
from datagen.sources.imports.imported import ImportedRegistration

_MOST = 1 << 20
_FIX = "Give the numbers of the 68 vertices, from 0 on, in the order of iBUG"


def landmark_indices(path: Path, vertices: int) -> npt.NDArray[np.int64]:
    """Return the vertices that are the 68 landmarks, from a list of numbers.

    Raises
    ------
    InputError
        If it is not 68 numbers of vertices, each once.
    """
    try:
        words = re.split(r"[\s,]+", read_text(path, _MOST).strip())
        indices = np.array([int(word) for word in words], np.int64)
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"{path} cannot be read ({error})", "numbers of vertices", "Check --landmarks") from None
    count = SCHEME_SIZES["ibug68"]
    if len(indices) != count or len(set(indices.tolist())) < count or indices.min() < 0 or indices.max() >= vertices:
        raise InputError(
            f"{path} has {len(indices)} numbers from {indices.min()} to {indices.max()}",
            f"{count} different ones from 0 to {vertices - 1}",
            _FIX,
        )
    return indices


def marks_of(mesh: Callable[[], Mesh], indices: npt.NDArray[np.int64]) -> Landmarks:
    """Return the landmarks of a mesh, in its unit."""
    return Landmarks(np.arange(len(indices), dtype=np.int64), mesh().vertices[indices])


def marks_reader(mesh: Callable[[], Mesh], indices: npt.NDArray[np.int64] | None) -> Callable[[], Landmarks] | None:
    """Return what reads the landmarks of a mesh, if it is known which vertices they are."""
    return None if indices is None else partial(marks_of, mesh, indices)


def own_registration(
    topology: str, neutral: Callable[[], Mesh], indices: npt.NDArray[np.int64], metres: float, name: str
) -> ImportedRegistration:
    """Return what registrations in a set's own topology are.

    Parameters
    ----------
    neutral : function
        Returns a neutral mesh, in the set's unit.
    metres : float
        Length of that unit.
    name : str
        Of the neutral mesh, for messages.

    Raises
    ------
    LandmarkError
        If the vertices are not the landmarks of a face.
    """
    _check(marks_of(neutral, indices), name)

    def described() -> tuple[Mesh, Landmarks]:
        mesh, marks = neutral(), marks_of(neutral, indices)
        return Mesh.of(mesh.vertices * metres, mesh.faces), Landmarks(marks.indices, marks.points * metres)

    return ImportedRegistration(topology=topology, neutral=described)


def _check(marks: Landmarks, name: str) -> None:
    """Refuse a list in another order than iBUG's: the outer corners of the eyes, the nose and the chin tell."""
    right, left, bridge, tip, chin = marks.points[[36, 45, 27, 30, 8]]
    across = np.linalg.norm(left - right)
    between = (right + left) / 2
    down = chin - between
    # Whatever way the face looks: the nose between the eyes, its tip below them, the chin further down.
    below = [float((point - between) @ down / (down @ down + 1e-12)) for point in (bridge, tip)]
    if not (abs(below[0]) < 0.35 and 0.1 < below[1] < 0.8 and 0.5 < np.linalg.norm(down) / (across + 1e-12) < 2.5):
        raise LandmarkError(
            f"the vertices of --landmarks are not the landmarks of a face on {name}",
            "vertices in the order of iBUG's 68 landmarks",
            f"{_FIX}, of this version of the meshes",
        )
