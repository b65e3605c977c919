"""Ava-256: a person's decoder folder, whose pictures and tracked meshes are in archives."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.documents import read_json, read_text
from datagen.common.errors import InputError, MeshError
from datagen.common.names import name_problem, require_name, shown
from datagen.geometry.lens import BrownLens
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import read_mesh
from datagen.sources.frame import SequenceKey
from datagen.sources.imports.archives import Packed, members, read_packed, with_packed
from datagen.sources.imports.imported import Found, ImportedCamera, ImportedFrame, ImportedSequence, ImportSettings
from datagen.sources.imports.numbers import SHIFT, Matrix, finite, rigid, side, words
from datagen.sources.imports.own_topology import landmark_indices, marks_reader, own_registration
from datagen.sources.imports.workspace import listed, whole_frames

CALIBRATION = "camera_calibration.json"
SIZE = 2668, 4096  # width and height that K belongs to, where the calibration does not say it
VERTICES = 7306
FPS = 30.0
ALL = "all"  # the sequence, where there is no list of segments
_NUMBERED = re.compile(r"(?:.*/)?([0-9]{1,18})\.(\w+)")
_NAMES = ("cameraId", "cameraID", "camera_id", "name")
_MOST = 1 << 24
_WANTED = f"SUBJECT/decoder/ with {CALIBRATION}, image/cam*.zip, kinematic_tracking/ and head_pose/"


def find_segments(root: Path, settings: ImportSettings) -> Sequence[Found]:
    """Return the segments of all people; see :class:`datagen.sources.imports.registry.Importer`."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder", _WANTED, "Check the path")
    places = [root, root / "decoder", *sorted(root.glob("*/decoder")), *sorted(root.glob("*"))]
    decoders = [place for place in places if (place / CALIBRATION).is_file()]
    if not decoders:
        raise InputError(f"{root} has no {CALIBRATION}, nor do the folders below it", _WANTED, "Check the path")
    found = []
    for decoder in decoders:
        above = decoder.resolve()
        subject = require_name((above.parent if above.name == "decoder" else above).name, f"the person of {decoder}")
        segments: Mapping[str, set[int] | None] = _segments(decoder / "frame_list.csv") or {ALL: None}
        for segment, frames in segments.items():
            found.append(Found(SequenceKey(subject, segment), decoder, partial(_read, decoder, frames, settings)))
    return sorted(found, key=lambda one: (one.key.subject, one.key.sequence))


def _segments(path: Path) -> dict[str, set[int]]:
    """Return the frames of each segment; none where the list is not there."""
    if not path.is_file():
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path, _MOST))))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error})", "columns seg_id, frame_id", "Copy it again") from None
    found: dict[str, set[int]] = {}
    for row in rows:
        segment, frame = row.get("seg_id") or "", row.get("frame_id") or ""
        if name_problem(segment) is not None or not frame.isascii() or not frame.isdigit() or len(frame) > 18:
            raise InputError(f"{path} has the row {segment!r}, {frame!r}", "columns seg_id, frame_id", "Copy it again")
        found.setdefault(segment, set()).add(int(frame))
    return found


def _read(decoder: Path, promised: set[int] | None, settings: ImportSettings) -> ImportedSequence:
    calibrated, said = _calibration(decoder / CALIBRATION)
    meshes = _numbered(decoder / "kinematic_tracking" / "registration_vertices.zip")
    poses = _numbered(decoder / "head_pose" / "head_pose.zip")
    pictures = {name: _numbered(decoder / "image" / f"cam{name}.zip") for name in calibrated}
    wanted = promised if promised is not None else set(meshes)
    missing = []
    for what, there in (("tracked meshes", meshes), ("head poses", poses)):
        gone = sorted(wanted - set(there))
        if gone:
            missing.append(f"{what} of {len(gone)} of {len(wanted)} frames: {listed([*map(str, gone)])}")
    unseen = sorted(name for name, files in pictures.items() if not files)
    if unseen:
        missing.append(f"pictures of {len(unseen)} of {len(pictures)} cameras: {listed(unseen)}")
    placed = sorted(frame for frame in wanted if frame in meshes and frame in poses)
    frames, used, left = whole_frames(placed, pictures)
    if not frames:
        raise InputError(
            f"{decoder} has no frame of this segment with a mesh, its head pose and a picture",
            _WANTED,
            f"Download more of it: it lacks {'; '.join(missing) or 'pictures of the frames that have meshes'}",
        )
    topology = _topology(decoder, settings)
    if topology is None and not len(_vertices(meshes[frames[0]]).faces):
        missing.append("face_topology.obj, which has the faces (--topology): the meshes are read as clouds")
    indices = None if settings.landmarks is None else landmark_indices(settings.landmarks, VERTICES)
    registration = None
    if indices is not None and len(_mesh(meshes[frames[0]], poses[frames[0]], topology).faces):
        rest = _at_rest(decoder, frames[0], meshes, poses)
        neutral = partial(_mesh, meshes[rest], poses[rest], topology)
        registration = own_registration("ava256", neutral, indices, 1e-3, str(meshes[rest]))
    rate = settings.fps or FPS
    made = tuple(
        ImportedFrame(
            index,
            (index - frames[0]) / rate,
            partial(_mesh, meshes[index], poses[index], topology),
            {name: pictures[name][index] for name in used},
            landmarks=marks_reader(partial(_mesh, meshes[index], poses[index], topology), indices),
            sources=(meshes[index], poses[index], *(one for one in (topology, settings.landmarks) if one is not None)),
        )
        for index in frames
    )
    shift = 0.5 - (settings.pixel_center or 0.0)
    remarks = [
        *said,
        *left,
        f"taken for granted: {rate:g} frames a second (--fps), K for pixel centres at {0.5 - shift:g} (--pixel-center)",
        "segmentations and keypoints, whose numbers are not explained, are not used",
    ]
    if registration is None:
        remarks.append("tracked meshes are the surface only; as registrations they need landmarks (--landmarks)")
    lenses = [calibrated[name].lens for name in used]
    if not settings.distorted and any(not lens.is_straight for lens in lenses):
        remarks.append("the lens distortion is not applied, as the set's own loader does; see --distorted")
    cameras = tuple(
        ImportedCamera(
            name,
            camera.K + shift * SHIFT,
            camera.world_to_camera,
            camera.size,
            camera.lens if settings.distorted else BrownLens(),
        )
        for name, camera in calibrated.items()
        if name in used
    )
    return ImportedSequence(
        cameras, made, "mm", registration=registration, missing=tuple(missing), remarks=tuple(remarks)
    )


def _at_rest(decoder: Path, otherwise: int, meshes: Mapping[int, Packed], poses: Mapping[int, Packed]) -> int:
    """Return a frame of the person at rest, by the name of its segment."""
    for segment, frames in sorted(_segments(decoder / "frame_list.csv").items()):
        there = sorted(frame for frame in frames if frame in meshes and frame in poses)
        if "neutral" in segment.lower() and there:
            return there[0]
    return otherwise


def _numbered(archive: Path) -> dict[int, Packed]:
    """Return the files of an archive by their numbers."""
    matches = ((name, _NUMBERED.fullmatch(name)) for name in members(archive))
    return {int(match[1]): Packed(archive, name) for name, match in matches if match is not None}


def _calibration(path: Path) -> tuple[Mapping[str, ImportedCamera], tuple[str, ...]]:
    """Return the cameras by their names, K as the file has it, and what is to be said of it."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})", "JSON with a list KRT", "Copy it again") from None
    entries = content.get("KRT") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path} has no list KRT of cameras", "the calibration of the rig", "Copy it again")
    cameras: dict[str, ImportedCamera] = {}
    plain = 0
    for entry in entries:
        name = _name(entry, path)
        if name in cameras:
            raise InputError(f"{path} has two cameras {name!r}", "a name for each", "Copy it again")
        where = f"{path}: of camera {name}"
        K, transposed = _upright(finite(entry.get("K"), (3, 3), f"{where} K"), f"{where} K")
        rows = np.shape(entry.get("T")) if isinstance(entry.get("T"), list) else ()
        shape = rows if rows in {(4, 4), (4, 3), (3, 4)} else (4, 4)
        T = finite(entry.get("T"), shape, f"{where} T")
        # Both are transposed in the set's files; files that were put right say so by themselves.
        turned = T.shape == (4, 3) or (T.shape == (4, 4) and not T[:3, 3].any())
        pose = rigid(T.T if turned else T)
        plain += not (transposed and turned)
        size = SIZE
        if "width" in entry or "height" in entry:
            size = side(entry.get("width"), f"{where} width"), side(entry.get("height"), f"{where} height")
        cameras[name] = ImportedCamera(name, K, pose, size, _lens(entry.get("distortion"), where))
    said = (f"K or T of {plain} cameras are not transposed, as the set has them: taken as they are",) if plain else ()
    return cameras, said


def _name(entry: Mapping[str, Any], path: Path) -> str:
    value = next((entry[key] for key in _NAMES if entry.get(key) is not None), None)
    if value is None:
        raise InputError(
            f"{path} has a camera with the keys {shown(sorted(entry))}", f"its name as {_NAMES[0]}", "Copy it again"
        )
    return require_name(str(value).removeprefix("cam"), f"a camera of {path}")


def _upright(K: Matrix, where: str) -> tuple[Matrix, bool]:
    """Return K with the principal point in its last column, and whether it was transposed."""
    transposed = bool(K[2, :2].any()) and not K[:2, 2].any()
    found = K.T if transposed else K
    if found[2, :2].any() or not np.isclose(found[2, 2], 1):
        raise InputError(f"{where} is {K.tolist()}", "focal lengths and a principal point", "Copy it again")
    return found.copy(), transposed


def _lens(value: object, where: str) -> BrownLens:
    if value is None:
        return BrownLens()
    count = len(value) if isinstance(value, list) else 4
    numbers = [float(one) for one in finite(value, (count if count in {4, 5} else 4,), f"{where} distortion")]
    k1, k2, p1, p2 = numbers[:4]
    return BrownLens((k1, k2, *numbers[4:]), (), (p1, p2))


def _topology(decoder: Path, settings: ImportSettings) -> Path | None:
    if settings.topology is not None:
        if not settings.topology.is_file():
            raise InputError(f"{settings.topology} is not there", "the mesh that --topology names", "Check --topology")
        return settings.topology
    above = decoder.parent if decoder.name == "decoder" else decoder
    places = [folder / "assets" / "face_topology.obj" for folder in (decoder, above, above.parent)]
    return next((place for place in places if place.is_file()), None)


def _vertices(file: Packed) -> Mesh:
    mesh = with_packed(file, partial(read_mesh, need_faces=False))
    if len(mesh.vertices) != VERTICES:
        raise MeshError(f"mesh {file} has {len(mesh.vertices)} vertices", f"{VERTICES}", "Copy the archive again")
    return mesh


def _mesh(file: Packed, pose: Packed, topology: Path | None) -> Mesh:
    """Return a tracked mesh in the world, in millimetres."""
    mesh = _vertices(file)
    try:
        text = read_packed(pose).decode("utf-8")
    except ValueError:
        text = ""
    # A row 0 0 0 1 may follow.
    rows = 4 if len(text.split()) == 16 else 3
    head = words(text, (rows, 4), f"the head pose {pose}")[:3]
    faces = _faces(topology) if topology is not None else mesh.faces
    return Mesh.of(mesh.vertices @ head[:, :3].T + head[:, 3], faces)


@lru_cache(maxsize=4)
def _faces(path: Path) -> npt.NDArray[np.int32]:
    mesh = read_mesh(path)
    if mesh.faces.max() >= VERTICES:
        raise MeshError(f"mesh {path} has faces of {mesh.faces.max() + 1} vertices", f"{VERTICES}", "Check --topology")
    return mesh.faces
