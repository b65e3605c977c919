"""CoMA: extreme expressions as meshes in FLAME's topology, one file a frame; no pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from datagen.common.errors import InputError, MeshError
from datagen.common.names import name_problem
from datagen.geometry.mesh_io import read_mesh
from datagen.sources.frame import SequenceKey
from datagen.sources.imports.flame_meshes import VERTICES
from datagen.sources.imports.imported import (
    Found,
    ImportedFrame,
    ImportedRegistration,
    ImportedSequence,
    ImportSettings,
)
from datagen.sources.imports.shading import drawn
from datagen.sources.imports.workspace import file_inside

FPS = 60.0
_MESH = re.compile(r".*?([0-9]{1,18})\.ply")
_WANTED = "SUBJECT/EXPRESSION/NAME.NUMBER.ply"


def find_expressions(root: Path, settings: ImportSettings) -> Sequence[Found]:
    """Return the expressions below a folder; see :class:`datagen.sources.imports.registry.Importer`."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder", _WANTED, "Check the path")
    folders = sorted({path.parent for path in root.glob("*/*/*.ply")})
    folders = [one for one in folders if not any(name_problem(name) for name in (one.name, one.parent.name))]
    if not folders:
        raise InputError(f"{root} holds no meshes", _WANTED, "Name the folder of the subjects, or unpack the files")
    return [
        Found(SequenceKey(folder.parent.name, folder.name), folder, partial(_read, folder, root, settings))
        for folder in folders
    ]


def _read(folder: Path, root: Path, settings: ImportSettings) -> ImportedSequence:
    numbered: dict[int, Path] = {}
    for path in sorted(folder.glob("*.ply")):
        match = _MESH.fullmatch(path.name)
        if match is None or int(match[1]) in numbered:
            raise InputError(
                f"{path} has {'no number' if match is None else 'the number of another file'}",
                "a number of its own at the end of each name",
                "Rename it, or move it elsewhere",
            )
        # Frames have gaps: the number is the time.
        numbered[int(match[1])] = file_inside(folder, path.name, root, str(folder))
    begin = min(numbered)
    first = read_mesh(numbered[begin])
    if len(first.vertices) != VERTICES:
        raise MeshError(
            f"mesh {numbered[begin]} has {len(first.vertices)} vertices", f"{VERTICES}, as FLAME", "Check the folder"
        )
    rate = settings.fps or FPS
    frames = [ImportedFrame(k, (k - begin) / rate, path) for k, path in sorted(numbered.items())]
    return drawn(
        frames,
        first,
        settings,
        facing="+z",
        unit="m",
        registration=ImportedRegistration(head="flame"),
        remarks=(f"{rate:g} frames a second (--fps)",),
    )
