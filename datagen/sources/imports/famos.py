"""FaMoS, as TEMPEH's data come: FLAME registrations, sampled scans, pictures, Tsai's calibration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from datagen.common.documents import read_text
from datagen.common.errors import InputError, MeshError
from datagen.common.names import name_problem
from datagen.geometry.lens import BrownLens, Lens, TsaiLens
from datagen.geometry.mesh import Mesh, validate_mesh
from datagen.geometry.mesh_io import read_mesh
from datagen.sources.frame import SequenceKey
from datagen.sources.imports.flame_meshes import VERTICES
from datagen.sources.imports.imported import (
    Found,
    ImportedCamera,
    ImportedFrame,
    ImportedRegistration,
    ImportedSequence,
    ImportSettings,
)
from datagen.sources.imports.numbers import SHIFT, rigid, side, words
from datagen.sources.imports.workspace import file_inside, listed, whole_frames

FPS = 60.0
_MOST = 1 << 16
_LABEL = re.compile(r"^\s*[A-Za-z]\w*\s*[:=]?\s*")
_WANTED = "folders (registrations, scans, images, calibrations) with SUBJECT/SEQUENCE/SEQUENCE.FRAME.ply, .npy, …"
# What a folder of one kind holds below SUBJECT/SEQUENCE/.
_KINDS = {"registrations": "*.ply", "scans": "*.npy", "calibrations": "*.tka", "images": "*/*.png"}


def find_sequences(root: Path, settings: ImportSettings) -> Sequence[Found]:
    """Return the sequences below a folder; see :class:`datagen.sources.imports.registry.Importer`."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder", _WANTED, "Check the path")
    trees = _trees(root)
    places = [path for kind in ("registrations", "scans") for tree in trees[kind] for path in tree.glob("*/*")]
    keys = {(path.parent.name, path.name) for path in places if path.is_dir()}
    keys = {names for names in keys if not any(map(name_problem, names))}
    if not keys:
        raise InputError(f"{root} holds neither registrations nor scans", _WANTED, "Name the folder above them")
    return [Found(SequenceKey(*names), root, partial(_read, trees, root, names, settings)) for names in sorted(keys)]


def _trees(root: Path) -> Mapping[str, list[Path]]:
    """Return the folders of subjects by what they hold, whatever they are called: all may be in one."""
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    return {
        kind: [folder for folder in folders if next(folder.glob(f"*/*/{pattern}"), None) is not None]
        for kind, pattern in _KINDS.items()
    }


def _read(
    trees: Mapping[str, list[Path]], root: Path, names: tuple[str, str], settings: ImportSettings
) -> ImportedSequence:
    subject, sequence = names
    places = {kind: [tree / subject / sequence for tree in folders] for kind, folders in trees.items()}
    meshes = _numbered(places["registrations"], sequence, ".ply", root)
    clouds = _numbered(places["scans"], sequence, ".npy", root)
    lenses = _calibrations(places["calibrations"], root)
    missing, remarks = list[str](), list[str]()
    if not lenses:
        raise InputError(f"{root} has no calibration of {subject}/{sequence}", "VIEW.tka files", "Download it too")
    pictures = {name: _pictures(places["images"], sequence, name, root) for name in lenses}
    unseen = sorted(name for name, files in pictures.items() if not files)
    if unseen:
        missing.append(f"pictures of {len(unseen)} of {len(pictures)} cameras: {listed(unseen)}")
    surfaces = sorted(set(meshes) | set(clouds))
    frames, used, said = whole_frames(surfaces, pictures)
    if not frames:
        raise InputError(
            f"{subject}/{sequence} has no frame with a registration or a scan, and pictures",
            _WANTED,
            f"Download more of it: it lacks {'; '.join(missing) or 'pictures of the frames that have surfaces'}",
        )
    registered = [frame for frame in frames if frame in meshes]
    scanned = [frame for frame in frames if frame in clouds]
    if registered and len(registered) < len(frames):
        # Half of the frames registered: those are the ones that samples can be of.
        lost = [frame for frame in frames if frame not in meshes]
        missing.append(f"registrations of {len(lost)} of {len(frames)} frames, left out: {listed([*map(str, lost)])}")
        frames, scanned = registered, [frame for frame in scanned if frame in meshes]
    if registered and len(scanned) < len(frames):
        missing.append(f"scans of {len(frames) - len(scanned)} of {len(frames)} frames: registrations are the surface")
        scanned = []
    rate = settings.fps or FPS
    made = tuple(
        ImportedFrame(
            index,
            (index - frames[0]) / rate,
            partial(_cloud, clouds[index]) if scanned else None,
            {name: pictures[name][index] for name in used},
            registration=meshes[index] if registered else None,
            sources=(clouds[index],) if scanned else (),
        )
        for index in frames
    )
    if registered:
        _check(meshes[frames[0]])
    shift = 0.5 - (settings.pixel_center or 0.0)
    remarks += [
        *said,
        f"taken for granted: {rate:g} frames a second (--fps), K for pixel centres at {0.5 - shift:g} (--pixel-center)",
    ]
    cameras = tuple(
        ImportedCamera(name, camera.K + shift * SHIFT, camera.world_to_camera, camera.size, camera.lens)
        for name, camera in lenses.items()
        if name in used
    )
    registration = ImportedRegistration(head="flame", unit="m") if registered else None
    return ImportedSequence(
        cameras, made, "mm", registration=registration, missing=tuple(missing), remarks=tuple(remarks)
    )


def _numbered(folders: Sequence[Path], sequence: str, suffix: str, root: Path) -> dict[int, Path]:
    pattern = re.compile(rf"{re.escape(sequence)}\.([0-9]{{1,18}}){re.escape(suffix)}")
    found: dict[int, Path] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            match = pattern.fullmatch(path.name)
            if match is not None and path.is_file():
                found.setdefault(int(match[1]), file_inside(folder, path.name, root, str(folder)))
    return found


def _pictures(folders: Sequence[Path], sequence: str, view: str, root: Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for folder in folders:
        for place in sorted(folder.iterdir()) if folder.is_dir() else ():
            number = place.name
            if not (number.isascii() and number.isdigit() and len(number) <= 18 and place.is_dir()):
                continue
            name = f"{sequence}.{number}.{view}.png"
            if (place / name).is_file():
                found.setdefault(int(number), file_inside(place, name, root, str(place)))
    return found


def _calibrations(folders: Sequence[Path], root: Path) -> dict[str, ImportedCamera]:
    found: dict[str, ImportedCamera] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.tka")):
            if name_problem(path.stem) is None and path.is_file():
                found.setdefault(path.stem, _calibration(file_inside(folder, path.name, root, str(folder))))
    return found


def _calibration(path: Path) -> ImportedCamera:
    """Read Tsai's calibration: a turn, the place of the camera, focal length and pixels in millimetres."""
    status = path.stat()
    return _parsed(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=512)
def _parsed(path: Path, _size: int, _time: int) -> ImportedCamera:
    try:
        lines = read_text(path, _MOST).splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})", "a .tka of Tsai's calibration", "Copy it again") from None
    if len(lines) < 16:
        raise InputError(f"{path} has {len(lines)} lines", "17, as Tsai's calibration has", "Copy it again")

    def numbers(line: int, count: int, what: str) -> list[float]:
        text = lines[line] if line < 4 else _LABEL.sub("", lines[line])
        return [float(value) for value in words(text, (count,), f"{path}: {what}")]

    R = np.array([numbers(line, 3, "the rotation") for line in (1, 2, 3)])
    centre = np.array([numbers(line, 1, "the position")[0] for line in (4, 5, 6)])
    f, k1, k2, _, x, y, a, b = (numbers(line, 1, f"line {line + 1}")[0] for line in range(7, 15))
    width, height = numbers(15, 2, "the size of the picture")
    if not (f > 0 and x > 0 and y > 0):
        raise InputError(f"{path} has f = {f:g}, pixels of {x:g}×{y:g}", "lengths above 0", "Copy it again")
    K = np.array([[f / x, 0, a], [0, f / y, b], [0, 0, 1.0]])
    # In millimetres on the sensor; a lens here knows distances in units of the focal length.
    lens: Lens = TsaiLens((k1 * f**2, k2 * f**4)) if k1 or k2 else BrownLens()
    pose = rigid(np.concatenate([R, -(R @ centre)[:, None]], axis=1))
    size = side(width, f"{path}: the width"), side(height, f"{path}: the height")
    return ImportedCamera(path.stem, K, pose, size, lens)


def _check(path: Path) -> None:
    mesh = read_mesh(path)
    if len(mesh.vertices) != VERTICES:
        raise MeshError(f"mesh {path} has {len(mesh.vertices)} vertices", f"{VERTICES}, as FLAME", "Check the folder")


def _cloud(path: Path) -> Mesh:
    """Return a sampled scan, in millimetres."""
    try:
        points = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MeshError(f"scan {path} cannot be read ({error})", "an .npy of points", "Copy it again") from None
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind != "f":
        raise MeshError(
            f"scan {path} has the shape {points.shape} and the type {points.dtype}", "(N, 3) points", "Copy it again"
        )
    return validate_mesh(Mesh.of(points), str(path), need_faces=False)
