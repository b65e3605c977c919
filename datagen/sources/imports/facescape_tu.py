"""FaceScape's topologically uniform models: twenty expressions a person in one topology; no pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.documents import read_text
from datagen.common.errors import InputError, LandmarkError, MeshError
from datagen.common.names import name_problem
from datagen.geometry.landmarks import SCHEME_SIZES, Landmarks
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import read_mesh
from datagen.geometry.space import metres_per
from datagen.sources.frame import SequenceKey
from datagen.sources.imports.imported import (
    Found,
    ImportedFrame,
    ImportedRegistration,
    ImportedSequence,
    ImportSettings,
)
from datagen.sources.imports.shading import drawn
from datagen.sources.imports.workspace import file_inside

VERTICES = 26317
TOPOLOGY = "facescape-tu"
NEUTRAL = "1_neutral"
_FOLDER = "models_reg"
_EXPRESSION = re.compile(r"([0-9]{1,3})_.+")
_MOST = 1 << 20
_WANTED = f"ID/{_FOLDER}/N_EXPRESSION.obj"


def find_expressions(root: Path, settings: ImportSettings) -> Sequence[Found]:
    """Return the models below a folder; see :class:`datagen.sources.imports.registry.Importer`."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder", _WANTED, "Check the path")
    meshes = [path for path in root.glob(f"*/{_FOLDER}/*.obj") if _EXPRESSION.fullmatch(path.stem)]
    meshes = [path for path in meshes if not any(map(name_problem, (path.stem, path.parents[1].name)))]
    if not meshes:
        raise InputError(f"{root} holds no registered models", _WANTED, "Name the folder of the people, or unpack it")
    neutral = next((path for path in sorted(meshes) if path.stem == NEUTRAL), None)
    found = [
        Found(
            SequenceKey(path.parents[1].name, path.stem),
            path.parent,
            partial(_read, path, root, neutral, settings),
        )
        for path in meshes
    ]
    return sorted(found, key=lambda one: (one.key.subject, one.key.sequence))


def _read(path: Path, root: Path, neutral: Path | None, settings: ImportSettings) -> ImportedSequence:
    mesh = _mesh(file_inside(path.parent, path.name, root, str(path.parent)))
    indices = None if settings.landmarks is None else landmark_indices(settings.landmarks)
    marks = None if indices is None else partial(_marks, path, indices)
    remarks, missing, unit = list[str](), list[str](), settings.unit or "mm"
    registration = None
    if indices is None:
        remarks.append(
            "without the set's landmark_indices.txt (--landmarks FILE) there are no landmarks, and meshes are"
        )
        remarks[-1] += " surfaces only, no registrations"
    elif neutral is None:
        missing.append(f"a neutral model ({NEUTRAL}.obj) of anyone: meshes are surfaces only, no registrations")
    else:
        _check_marks(_marks(neutral, indices), neutral)
        registration = ImportedRegistration(topology=TOPOLOGY, neutral=partial(_neutral, neutral, indices, unit))
    sources = (settings.landmarks,) if settings.landmarks is not None else ()
    return drawn(
        [ImportedFrame(0, 0.0, path, landmarks=marks, sources=sources)],
        mesh,
        settings,
        facing="+z",
        unit=unit,
        registration=registration,
        missing=tuple(missing),
        remarks=(*remarks, "textures and displacement maps are not used"),
    )


@lru_cache(maxsize=4)
def _mesh(path: Path) -> Mesh:
    """Return a model in its own unit."""
    mesh = read_mesh(path)
    if len(mesh.vertices) != VERTICES:
        raise MeshError(
            f"mesh {path} has {len(mesh.vertices)} vertices",
            f"{VERTICES}, as FaceScape's registered models",
            "Copy it again",
        )
    return mesh


def landmark_indices(path: Path) -> npt.NDArray[np.int64]:
    """Return the vertices that are the 68 landmarks, from the set's list of numbers.

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
    if len(indices) != count or len(set(indices.tolist())) < count or indices.min() < 0 or indices.max() >= VERTICES:
        raise InputError(
            f"{path} has {len(indices)} numbers from {indices.min()} to {indices.max()}",
            f"{count} different ones from 0 to {VERTICES - 1}",
            "Take landmark_indices.txt of the set's toolkit",
        )
    return indices


def _marks(path: Path, indices: npt.NDArray[np.int64]) -> Landmarks:
    return Landmarks(np.arange(len(indices), dtype=np.int64), _mesh(path).vertices[indices])


def _check_marks(marks: Landmarks, path: Path) -> None:
    """Refuse a list in another order than iBUG's: the outer corners of the eyes, the nose and the chin tell."""
    right, left, bridge, tip, chin = marks.points[[36, 45, 27, 30, 8]]
    across = np.linalg.norm(left - right)
    between = (right + left) / 2
    down = chin - between
    # Whatever way the face looks: the nose between the eyes, its tip below them, the chin further down.
    below = [float((point - between) @ down / (down @ down + 1e-12)) for point in (bridge, tip)]
    if not (abs(below[0]) < 0.35 and 0.1 < below[1] < 0.8 and 0.5 < np.linalg.norm(down) / (across + 1e-12) < 2.5):
        raise LandmarkError(
            f"the vertices of --landmarks are not the landmarks of a face on {path}",
            "vertices in the order of iBUG's 68 landmarks",
            "Take landmark_indices.txt of the set's toolkit, of this version of the models",
        )


def _neutral(path: Path, indices: npt.NDArray[np.int64], unit: str) -> tuple[Mesh, Landmarks]:
    mesh, marks, metres = _mesh(path), _marks(path, indices), metres_per(unit, "--unit")
    return Mesh.of(mesh.vertices * metres, mesh.faces), Landmarks(marks.indices, marks.points * metres)
