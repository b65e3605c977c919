"""FaceScape's topologically uniform models: twenty expressions a person in one topology; no pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

from datagen.common.errors import InputError, MeshError
from datagen.common.names import name_problem
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import read_mesh
from datagen.geometry.space import metres_per
from datagen.sources.frame import SequenceKey
from datagen.sources.imports.imported import (
    Found,
    ImportedFrame,
    ImportedSequence,
    ImportSettings,
)
from datagen.sources.imports.own_topology import landmark_indices, marks_reader, own_registration
from datagen.sources.imports.shading import drawn
from datagen.sources.imports.workspace import file_inside

VERTICES = 26317
TOPOLOGY = "facescape-tu"
NEUTRAL = "1_neutral"
_FOLDER = "models_reg"
_EXPRESSION = re.compile(r"([0-9]{1,3})_.+")
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
    remarks, missing, unit = list[str](), list[str](), settings.unit or "mm"
    indices = None if settings.landmarks is None else landmark_indices(settings.landmarks, VERTICES)
    marks = marks_reader(partial(_mesh, path), indices)
    registration = None
    if indices is None:
        remarks.append(
            "no landmarks, and meshes are surfaces only: the set's landmark_indices.txt gives them (--landmarks)"
        )
    elif neutral is None:
        missing.append(f"a neutral model ({NEUTRAL}.obj) of anyone: meshes are surfaces only, no registrations")
    else:
        metres = metres_per(unit, "--unit")
        registration = own_registration(TOPOLOGY, partial(_mesh, neutral), indices, metres, str(neutral))
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
