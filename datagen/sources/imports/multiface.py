"""Multiface: segments with a calibrated rig, pictures, and tracked meshes in the head's own frame."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.documents import read_bytes, read_text
from datagen.common.errors import InputError, MeshError
from datagen.common.names import name_problem
from datagen.geometry.lens import BrownLens
from datagen.geometry.mesh import Mesh, validate_mesh
from datagen.geometry.mesh_io import read_mesh
from datagen.sources.frame import SequenceKey
from datagen.sources.imports.imported import Found, ImportedCamera, ImportedFrame, ImportedSequence, ImportSettings
from datagen.sources.imports.own_topology import landmark_indices, marks_reader, own_registration
from datagen.sources.imports.workspace import file_inside, listed, whole_frames

VERTICES = 7306
SIZE = 1334, 2048  # width and height that K belongs to
FPS = 30.0
_ENTITY = re.compile(r"m--(\d+)--(\d+)--(.+?)--.+")
_MESH = re.compile(r"(\d+)\.bin")
_PICTURE = re.compile(r"(\d+)\.png")
_BLOCK = (1, 3, 3, 3, 5, 4, 4, 4)  # words of each line of a camera
_MOST = 1 << 24
_WANTED = "m--DATE--TIME--ID--GHS folders with KRT, images/ and tracked_mesh/, or one of them"

Matrix = npt.NDArray[np.float64]


def find_segments(root: Path, settings: ImportSettings) -> Sequence[Found]:
    """Return the segments below a folder; see :class:`datagen.sources.imports.registry.Importer`."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder", _WANTED, "Check the path")
    entities = [path for path in (root, *sorted(root.iterdir())) if path.is_dir() and (path / "KRT").is_file()]
    found: list[tuple[str, str, str, Path]] = []
    for entity in entities:
        named = _ENTITY.fullmatch(entity.resolve().name)
        subject, date = (named[3], f"{named[1]}-{named[2]}") if named else (entity.resolve().name, "")
        meshes = entity / "tracked_mesh"
        segments = sorted(path.name for path in meshes.iterdir() if path.is_dir()) if meshes.is_dir() else []
        found += [(subject, date, segment, entity) for segment in segments if name_problem(segment) is None]
    if not found:
        raise InputError(f"{root} holds no segment with tracked meshes", _WANTED, "Check the path, or unpack the files")
    names = [(subject, segment) for subject, _, segment, _ in found]
    keys = [
        # One person may have come twice.
        SequenceKey(subject, segment if names.count((subject, segment)) == 1 else f"{date}--{segment}")
        for subject, date, segment, _ in found
    ]
    made = [
        Found(key, entity, partial(_read, entity, segment, root, settings))
        for key, (_, _, segment, entity) in zip(keys, found, strict=True)
    ]
    return sorted(made, key=lambda one: (one.key.subject, one.key.sequence))


def _read(entity: Path, segment: str, root: Path, settings: ImportSettings) -> ImportedSequence:
    calibrated = _calibration(entity / "KRT")
    meshes = entity / "tracked_mesh" / segment
    numbered = {int(match[1]): path for path, match in _matching(meshes, _MESH, root)}
    pictures = {
        name: {int(match[1]): path for path, match in _matching(entity / "images" / segment / name, _PICTURE, root)}
        for name in calibrated
    }
    missing = []
    promised = _frame_list(entity / "frame_list.txt", segment)
    unmeshed = sorted(promised - set(numbered))
    if unmeshed:
        missing.append(f"tracked meshes of {len(unmeshed)} of {len(promised)} frames: {listed([*map(str, unmeshed)])}")
    unplaced = sorted(frame for frame, path in numbered.items() if not _transform_of(path).is_file())
    if unplaced:
        missing.append(f"transforms of {len(unplaced)} frames: {listed([*map(str, unplaced)])}")
    unseen = sorted(name for name, files in pictures.items() if not files)
    if unseen:
        missing.append(f"pictures of {len(unseen)} of {len(pictures)} cameras: {listed(unseen)}")
    placed = sorted(set(numbered) - set(unplaced))
    frames, used, said = whole_frames(placed, pictures)
    if not frames:
        raise InputError(
            f"segment {segment} of {entity} has no frame with a mesh, its transform and a picture",
            "images/, tracked_mesh/ with .bin and _transform.txt",
            f"Download more of it: it lacks {'; '.join(missing) or 'pictures of the frames that have meshes'}",
        )
    topology = next((path for path in sorted(meshes.glob("*.obj"))), None)
    indices = None if settings.landmarks is None else landmark_indices(settings.landmarks, VERTICES)
    registration = None
    if topology is not None and indices is not None:
        neutral = _neutral(entity, root) or numbered[frames[0]]
        registration = own_registration("multiface", partial(_mesh, neutral, topology), indices, 1e-3, str(neutral))
    if topology is None:
        missing.append("an .obj, which has the faces: the meshes are read as clouds, which give no samples")
    rate = settings.fps or FPS
    made = tuple(
        ImportedFrame(
            index,
            (index - frames[0]) / rate,
            partial(_mesh, numbered[index], topology),
            {name: pictures[name][index] for name in used},
            landmarks=marks_reader(partial(_mesh, numbered[index], topology), indices),
            sources=(numbered[index], _transform_of(numbered[index]), *_given(topology, settings.landmarks)),
        )
        for index in frames
    )
    shift = 0.5 - (settings.pixel_center or 0.0)
    remarks = [
        *said,
        f"taken for granted: {rate:g} frames a second (--fps), K for pixel centres at {0.5 - shift:g} (--pixel-center)",
    ]
    if registration is None:
        remarks.append("tracked meshes are the surface only; as registrations they need landmarks (--landmarks)")
    lenses = [calibrated[name][1] for name in used]
    if not settings.distorted and any(not lens.is_straight for lens in lenses):
        remarks.append("the lens distortion of KRT is not applied, as the set's own loader does; see --distorted")
    cameras = tuple(
        ImportedCamera(name, K + shift * _SHIFT, pose, SIZE, lens if settings.distorted else BrownLens())
        for name, (K, lens, pose) in calibrated.items()
        if name in used
    )
    return ImportedSequence(
        cameras, made, "mm", registration=registration, missing=tuple(missing), remarks=tuple(remarks)
    )


def _given(*files: Path | None) -> tuple[Path, ...]:
    return tuple(file for file in files if file is not None)


def _neutral(entity: Path, root: Path) -> Path | None:
    """Return a tracked mesh of the person at rest, by the name of its segment."""
    for folder in sorted((entity / "tracked_mesh").iterdir()):
        if "neutral" in folder.name.lower() and folder.is_dir():
            for path, _ in _matching(folder, _MESH, root):
                if _transform_of(path).is_file():
                    return path
    return None


_SHIFT = np.array([[0, 0, 1.0], [0, 0, 1.0], [0, 0, 0]])


def _matching(folder: Path, wanted: re.Pattern[str], root: Path) -> list[tuple[Path, re.Match[str]]]:
    if not folder.is_dir():
        return []
    matches = ((path, wanted.fullmatch(path.name)) for path in sorted(folder.iterdir()) if path.is_file())
    # A number of any length is no frame.
    numbered = [(path, match) for path, match in matches if match is not None and len(match[1]) <= 18]
    return [(file_inside(folder, path.name, root, str(folder)), match) for path, match in numbered]


def _transform_of(mesh: Path) -> Path:
    return mesh.with_name(f"{mesh.stem}_transform.txt")


def _lines(path: Path) -> list[list[str]]:
    try:
        return [line.split() for line in read_text(path, _MOST).splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})", "a text file of Multiface", "Copy it again") from None


def _numbers(path: Path, rows: Sequence[Sequence[str]], what: str) -> Matrix:
    try:
        values = np.array([[float(word) for word in row] for row in rows])
    except ValueError:
        values = np.full(1, np.nan)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: {what} is not made of finite numbers", "what Multiface writes", "Copy it again")
    return values


@lru_cache(maxsize=8)
def _calibration(path: Path) -> Mapping[str, tuple[Matrix, BrownLens, Matrix]]:
    """Return K, lens and pose of each camera: a name, three rows of K, five of the lens, three of the pose."""
    rows = [words for words in _lines(path) if words]
    cameras: dict[str, tuple[Matrix, BrownLens, Matrix]] = {}
    for start in range(0, len(rows), len(_BLOCK)):
        block = rows[start : start + len(_BLOCK)]
        if tuple(map(len, block)) != _BLOCK or name_problem(block[0][0]) is not None or block[0][0] in cameras:
            raise InputError(
                f"{path} has no camera in the lines from {' '.join(block[0])[:40]!r} on",
                "a name of its own, three rows of K, one of 5 distortion coefficients, three of [R|t]",
                "Copy it again",
            )
        name = block[0][0]
        k1, k2, p1, p2, k3 = _numbers(path, block[4:5], f"the lens of {name}")[0]
        pose = np.concatenate([_numbers(path, block[5:], f"the pose of {name}"), [[0.0, 0.0, 0.0, 1.0]]])
        cameras[name] = _numbers(path, block[1:4], f"K of {name}"), BrownLens((k1, k2, k3), (), (p1, p2)), pose
    if not cameras:
        raise InputError(f"{path} has no camera", "the calibration of the rig", "Copy it again")
    return cameras


def _frame_list(path: Path, segment: str) -> set[int]:
    """Return the frames that the set has of a segment; none where the list is not there."""
    if not path.is_file():
        return set()
    words = [row for row in _lines(path) if len(row) == 2 and row[0] == segment]
    return {int(number) for _, number in words if number.isascii() and number.isdigit() and len(number) <= 18}


def _mesh(path: Path, topology: Path | None) -> Mesh:
    """Return a tracked mesh in the world, in millimetres."""
    try:
        data = read_bytes(path, _MOST)
    except (OSError, ValueError) as error:
        raise MeshError(f"mesh {path} cannot be read ({error})", "a file of Multiface", "Copy it again") from None
    if len(data) != VERTICES * 12:
        raise MeshError(
            f"mesh {path} has {len(data)} bytes",
            f"{VERTICES * 12}: {VERTICES} vertices of three float32",
            "Copy it again",
        )
    transform = _transform_of(path)
    rows = [words for words in _lines(transform) if words][:3]
    if [len(row) for row in rows] != [4, 4, 4]:
        raise InputError(f"{transform} is not 3×4", "the pose of the head in the world", "Copy it again")
    pose = _numbers(transform, rows, "the pose")
    vertices = np.frombuffer(data, "<f4").reshape(-1, 3).astype(np.float64) @ pose[:, :3].T + pose[:, 3]
    faces = _faces(topology) if topology is not None else np.zeros((0, 3), np.int64)
    return validate_mesh(Mesh.of(vertices, faces), str(path), need_faces=False)


@lru_cache(maxsize=8)
def _faces(path: Path) -> npt.NDArray[np.int32]:
    mesh = read_mesh(path)
    if len(mesh.vertices) != VERTICES:
        raise MeshError(
            f"mesh {path} has {len(mesh.vertices)} vertices", f"{VERTICES}, as the tracked meshes", "Copy it again"
        )
    return mesh.faces
