"""RealityCapture and RealityScan: cameras out of .xmp beside the pictures, or of a table of all; one instant each.

The .xmp holds the rotation as a matrix and is preferred. The table's heading, pitch and roll are turned into one by a
formula that agrees with a published pair of both and with what the maker says of angles of 0.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from datagen.common.documents import read_text
from datagen.common.errors import InputError
from datagen.common.names import shown
from datagen.common.pictures import picture_size
from datagen.geometry.lens import BrownLens
from datagen.sources.camera_files import PICTURE_SUFFIXES
from datagen.sources.imports.imported import Found, ImportedCamera, ImportedFrame, ImportedSequence, ImportSettings
from datagen.sources.imports.numbers import Matrix, finite, rigid, words
from datagen.sources.imports.workspace import camera_names, file_inside, find_scan, listed, workspaces

_WANTED = "a folder with pictures, their .xmp (or a .csv of internal and external parameters) and a mesh"
_FOLDERS = ("", "images")
_XCR = "{http://www.capturingreality.com/ns/xcr/1.1#}"
_FILM_MM = 36.0
_MOST = 1 << 24
_START = 4096
_HEADER = "#name"
_COLUMNS = ("x", "y", "alt", "heading", "pitch", "roll", "f", "px", "py", "k1", "k2", "k3", "k4", "t1", "t2")
# Radial and tangential terms that count.
_MODELS = {"perspective": (0, 0), "brown3": (3, 0), "brown4": (4, 0), "brown3t2": (3, 2), "brown4t2": (4, 2)}


@dataclass(frozen=True)
class _Entry:
    """What is said of one picture."""

    rotation: Matrix
    centre: Matrix
    focal_mm: float
    principal: tuple[float, float]
    aspect: float
    lens: BrownLens


def find_workspaces(root: Path, settings: ImportSettings) -> Sequence[Found]:
    """Return the workspaces at or below a folder; see :class:`datagen.sources.imports.registry.Importer`."""
    found = workspaces(root, lambda folder: bool(_sidecars(folder) or _tables(folder)), settings.subject, _WANTED)
    return [Found(key, folder, partial(_read, folder, root, settings)) for key, folder in found]


def _sidecars(workspace: Path) -> list[Path]:
    folders = [workspace / name for name in _FOLDERS]
    return sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir() if _is(path, ".xmp"))


def _tables(workspace: Path) -> list[Path]:
    return sorted(path for path in workspace.iterdir() if _is(path, ".csv") and _begins_as_table(path))


def _is(path: Path, suffix: str) -> bool:
    return path.suffix.lower() == suffix and path.is_file()


def _begins_as_table(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(_START).decode("utf-8-sig", "replace")
    return any(line.replace(" ", "").lower().startswith(f"{_HEADER},x,y,") for line in start.splitlines())


def _read(workspace: Path, root: Path, settings: ImportSettings) -> ImportedSequence:
    sidecars, tables = _sidecars(workspace), _tables(workspace)
    remarks: list[str] = []
    pictures: dict[str, tuple[Path | None, _Entry]] = {}
    inside = settings.images or root
    if sidecars:
        for sidecar in sidecars:
            checked = file_inside(sidecar.parent, sidecar.name, root, str(workspace))
            entry = _sidecar(checked)
            if entry is None:
                remarks.append(f"left out: {sidecar.name}, which has no pose")
                continue
            name = sidecar.relative_to(workspace).as_posix()
            pictures[name] = _picture(settings.images or sidecar.parent, sidecar.stem, inside), entry
    else:
        if len(tables) > 1:
            raise InputError(
                f"{workspace} has {len(tables)} tables of cameras ({', '.join(path.name for path in tables)})",
                "one",
                "Move the others elsewhere",
            )
        table = file_inside(workspace, tables[0].name, root, str(workspace))
        remarks.append(
            "rotations come from heading, pitch and roll, by a formula that is not documented: .xmp is safer"
        )
        for name, entry in _table(table).items():
            folders = [settings.images] if settings.images else [workspace / folder for folder in _FOLDERS]
            found = (file_inside(folder, name, inside, str(table)) for folder in folders)
            pictures[name] = next((path for path in found if path.is_file()), None), entry
    if not pictures:
        raise InputError(f"{workspace} has no picture that was aligned", "poses", "Align them, and export again")
    missing = [name for name, (path, _) in pictures.items() if path is None]
    there = {name: (path, entry) for name, (path, entry) in pictures.items() if path is not None}
    if not there:
        raise InputError(
            f"{workspace} has none of the {len(missing)} pictures, such as {missing[0]}",
            "the pictures, to whose sizes focal lengths are relative",
            "Name their folder: --images FOLDER",
        )
    names = camera_names(list(there))
    cameras = tuple(_camera(names[key], path, entry) for key, (path, entry) in there.items())
    scan, said = find_scan([workspace], (), (), settings.scan, root)
    gaps = (f"{len(missing)} of {len(pictures)} pictures, and so their cameras: {listed(missing)}",) if missing else ()
    frame = ImportedFrame(0, 0.0, scan, {names[key]: path for key, (path, _) in there.items()})
    remarks += ["the scan is taken to be exported in the coordinates of the cameras' export"]
    return ImportedSequence(cameras, (frame,), missing=gaps, remarks=(*remarks, *said))


def _picture(folder: Path, stem: str, inside: Path) -> Path | None:
    candidates = [f"{stem}{suffix}" for low in PICTURE_SUFFIXES for suffix in (low, low.upper())]
    found = (file_inside(folder, name, inside, str(folder)) for name in candidates)
    return next((path for path in found if path.is_file()), None)


def _camera(name: str, picture: Path, entry: _Entry) -> ImportedCamera:
    size = picture_size(picture, orientation="stored", ask="")
    side = max(size)
    focal = entry.focal_mm / _FILM_MM * side
    # The principal point is counted from the middle, in units of the longer side; pixel centres lie at +0.5.
    cx, cy = (half / 2 + offset * side for half, offset in zip(size, entry.principal, strict=True))
    K = np.array([[focal, 0, cx], [0, focal * entry.aspect, cy], [0, 0, 1.0]])
    R = entry.rotation
    pose = rigid(np.concatenate([R, -R @ entry.centre[:, None]], axis=1))
    return ImportedCamera(name, K, pose, size, entry.lens)


def _sidecar(path: Path) -> _Entry | None:
    """Return what a .xmp says; None if it holds no pose."""
    try:
        text = read_text(path, _MOST)
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise ValueError("it defines entities")
        document = ElementTree.fromstring(text.strip().strip("\0"))
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise InputError(f"{path} cannot be read ({error})", "an .xmp of RealityCapture", "Export it again") from None
    values: dict[str, str] = {}
    for element in document.iter():
        given = {**element.attrib, element.tag: element.text or ""}
        values |= {key.removeprefix(_XCR): text for key, text in given.items() if key.startswith(_XCR)}
    if "Rotation" not in values or "Position" not in values:
        return None
    numbers = {
        key: float(words(values.get(key, default), (1,), f"{path}: {key}")[0])
        for key, default in (
            ("FocalLength35mm", ""),
            ("PrincipalPointU", "0"),
            ("PrincipalPointV", "0"),
            ("Skew", "0"),
            ("AspectRatio", "1"),
        )
    }
    if numbers["Skew"] or not numbers["FocalLength35mm"] > 0 or not 0.5 < numbers["AspectRatio"] < 2:
        raise InputError(
            f"{path} has a skew of {numbers['Skew']:g}, a focal length of {numbers['FocalLength35mm']:g} mm and an "
            f"aspect ratio of {numbers['AspectRatio']:g}",
            "no skew, a focal length, square pixels",
            "Align without skew, and export again",
        )
    text = values.get("DistortionCoeficients", values.get("DistortionCoefficients", "0 0 0 0 0 0"))
    lens = _lens(
        values.get("DistortionModel", "perspective"), words(text, (6,), f"{path}: DistortionCoeficients"), path
    )
    rotation = _rotation(words(values["Rotation"], (3, 3), f"{path}: Rotation"), f"{path}: Rotation")
    return _Entry(
        rotation,
        words(values["Position"], (3,), f"{path}: Position"),
        numbers["FocalLength35mm"],
        (numbers["PrincipalPointU"], numbers["PrincipalPointV"]),
        numbers["AspectRatio"],
        lens,
    )


def _lens(model: str, coefficients: Matrix, path: Path) -> BrownLens:
    if not coefficients.any():
        return BrownLens()
    if model not in _MODELS:
        raise InputError(
            f"{path} has the distortion model {shown(model)}",
            f"one of {', '.join(_MODELS)}, or no coefficients",
            "Choose a Brown model in the settings of the alignment, or export undistorted pictures",
        )
    radial, tangential = _MODELS[model]
    t1, t2 = coefficients[4:] if tangential else (0.0, 0.0)
    return BrownLens(tuple(float(k) for k in coefficients[:radial]), (), (float(t1), float(t2)))


def _rotation(matrix: Matrix, what: str) -> Matrix:
    if np.abs(matrix @ matrix.T - np.eye(3)).max() > 1e-3 or np.linalg.det(matrix) < 0:
        raise InputError(f"{what} is no rotation", "an orthonormal matrix, row by row", "Export it again")
    U, _, Vt = np.linalg.svd(matrix)
    return np.asarray(U @ Vt)


def _table(path: Path) -> Mapping[str, _Entry]:
    """Return what a table of "Internal/External camera parameters" says of each picture."""
    try:
        lines = read_text(path, _MOST).splitlines()
        start = next(k for k, line in enumerate(lines) if line.lower().startswith(_HEADER))
        rows = list(csv.DictReader(io.StringIO("\n".join(lines[start:])), skipinitialspace=True))
    except (OSError, ValueError, StopIteration, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error})", f"columns {_HEADER}, x, y, …", "Export it again") from None
    entries: dict[str, _Entry] = {}
    for row in rows:
        name = row.get(_HEADER)
        if not name or name in entries:
            raise InputError(f"{path} has the picture {shown(name)} twice, or no name", "each once", "Export it again")
        lacking = [column for column in _COLUMNS if not row.get(column)]
        if lacking:
            raise InputError(
                f"{path}: {name} has no {', '.join(lacking)}",
                f"columns {', '.join(_COLUMNS)}",
                "Export internal and external parameters",
            )
        values = {column: float(words(row[column], (1,), f"{path}: {column} of {name}")[0]) for column in _COLUMNS}
        if not values["f"] > 0:
            raise InputError(f"{path}: f of {name} is {values['f']:g}", "a focal length in mm", "Export it again")
        coefficients = finite([values[key] for key in ("k1", "k2", "k3", "k4", "t1", "t2")], (6,), f"{path}: {name}")
        entries[name] = _Entry(
            rotation_of(values["heading"], values["pitch"], values["roll"]),
            np.array([values["x"], values["y"], values["alt"]]),
            values["f"],
            (values["px"], values["py"]),
            1.0,
            _lens("brown4t2", coefficients, path),
        )
    return entries


def rotation_of(heading_deg: float, pitch_deg: float, roll_deg: float) -> Matrix:
    """Return the rotation from the world to the camera, (3, 3), of the table's three angles.

    With angles of 0 the camera looks down, and the top of its picture points to +y.
    """
    from scipy.spatial.transform import Rotation

    angles = [roll_deg + 180, pitch_deg, heading_deg + 180]
    return np.asarray(Rotation.from_euler("YXZ", angles, degrees=True).as_matrix())
