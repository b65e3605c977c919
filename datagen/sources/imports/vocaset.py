"""VOCASET: speech as vertices in FLAME's topology, one array for all; no pictures, no faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.names import name_problem, shown
from datagen.geometry.mesh import Mesh, validate_mesh
from datagen.heads.pickles import load_inert
from datagen.sources.frame import SequenceKey
from datagen.sources.imports.flame_meshes import VERTICES, flame_faces
from datagen.sources.imports.imported import (
    Found,
    ImportedFrame,
    ImportedRegistration,
    ImportedSequence,
    ImportSettings,
)
from datagen.sources.imports.shading import drawn
from datagen.sources.imports.workspace import listed

ARRAY, ROWS = "data_verts.npy", "subj_seq_to_idx.pkl"
FPS = 60.0
_FOLDERS = ("", "trainingdata")
# The mesh that the set's code brings along.
_SAMPLES = ("FLAME_sample.ply", "template/FLAME_sample.ply", "templates/FLAME_sample.ply")
_WANTED = f"a folder with {ARRAY} and {ROWS}"


def find_sentences(root: Path, settings: ImportSettings) -> Sequence[Found]:
    """Return the sentences of all people; see :class:`datagen.sources.imports.registry.Importer`."""
    folder = next((root / name for name in _FOLDERS if (root / name / ARRAY).is_file()), None)
    if folder is None:
        raise InputError(f"{root} has no {ARRAY}", _WANTED, "Check the path, or unpack the files there")
    rows = _rows(folder / ROWS)
    places = [root / name for name in _SAMPLES] + [folder / name for name in _SAMPLES]
    topology = settings.topology or next((path for path in places if path.is_file()), None)
    if topology is None or not topology.is_file():
        raise InputError(
            f"{topology} is not there" if topology else f"{root} has vertices, but no faces",
            f"a mesh with FLAME's {VERTICES} vertices: FLAME_sample.ply of VOCA's code, or any .ply of CoMA",
            "Name it: --topology FILE",
        )
    return [
        Found(SequenceKey(person, sentence), folder, partial(_read, folder, frames, topology, settings))
        for (person, sentence), frames in sorted(rows.items())
    ]


def _rows(path: Path) -> Mapping[tuple[str, str], Mapping[int, int]]:
    """Return the row of each frame of each sentence."""
    try:
        with path.open("rb") as stream:
            content: Any = load_inert(stream, str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error})", _WANTED, "Copy it again") from None
    found: dict[tuple[str, str], Mapping[int, int]] = {}
    for person, sentences in content.items() if isinstance(content, dict) else ():
        for sentence, frames in sentences.items() if isinstance(sentences, dict) else ():
            names_fit = all(isinstance(name, str) and name_problem(name) is None for name in (person, sentence))
            if not names_fit or not isinstance(frames, dict) or not all(map(_is_frame, frames.items())):
                raise InputError(
                    f"{path} has {shown(sentence)} of {shown(person)}, which is not numbered rows",
                    "{subject: {sentence: {frame: row}}}",
                    "Copy it again",
                )
            if frames:
                found[person, sentence] = {int(frame): int(row) for frame, row in frames.items()}
    if not found:
        raise InputError(f"{path} names no sentence", "{subject: {sentence: {frame: row}}}", "Copy it again")
    return found


def _is_frame(entry: tuple[object, object]) -> bool:
    return all(isinstance(number, int | np.integer) and 0 <= number < 2**53 for number in entry)


def _read(folder: Path, rows: Mapping[int, int], topology: Path, settings: ImportSettings) -> ImportedSequence:
    array = _array(folder / ARRAY)
    there = {frame: row for frame, row in sorted(rows.items()) if row < len(array)}
    missing = []
    if len(there) < len(rows):
        gone = [str(frame) for frame in rows if frame not in there]
        missing.append(f"{len(gone)} of {len(rows)} frames, whose rows {ARRAY} has not: {listed(gone)}")
    if not there:
        raise InputError(
            f"{folder / ARRAY} has {len(array)} rows, none of them of this sentence", "the whole file", "Copy it again"
        )
    rate = settings.fps or FPS
    begin = next(iter(there))
    frames = [
        ImportedFrame(
            frame,
            (frame - begin) / rate,
            partial(_mesh, folder / ARRAY, row, topology),
            sources=(folder / ARRAY, folder / ROWS, topology),
        )
        for frame, row in there.items()
    ]
    first = _mesh(folder / ARRAY, there[begin], topology)
    return drawn(
        frames,
        first,
        settings,
        facing="+z",
        unit="m",
        registration=ImportedRegistration(head="flame"),
        missing=tuple(missing),
        remarks=(f"faces come from {topology.name}; {rate:g} frames a second (--fps)",),
    )


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error})", "a whole .npy of numbers", "Copy it again") from None
    if array.ndim != 3 or array.shape[1:] != (VERTICES, 3) or array.dtype.kind != "f":
        raise InputError(
            f"{path} has the shape {array.shape} and the type {array.dtype}",
            f"(frames, {VERTICES}, 3) floating-point numbers",
            "Copy it again",
        )
    return array


def _mesh(path: Path, row: int, topology: Path) -> Mesh:
    vertices = np.array(_array(path)[row], np.float64)
    name = f"row {row} of {path}"
    cloud = validate_mesh(Mesh.of(vertices), name, need_faces=False)
    return validate_mesh(Mesh.of(vertices, flame_faces(topology, cloud.vertices, name)), name)
