"""Cameras as Metashape exports them (Agisoft XML), with the pictures and a mesh in local coordinates: one instant."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from datagen.common.documents import read_text
from datagen.common.errors import InputError
from datagen.common.names import require_name
from datagen.geometry.lens import BrownLens, FisheyeLens, Lens
from datagen.sources.imports.imported import Found, ImportedCamera, ImportedFrame, ImportedSequence, ImportSettings
from datagen.sources.imports.workspace import file_inside, find_scan, listed, workspaces

FILE = "cameras.xml"
_WANTED = f"a folder with {FILE} (Agisoft XML), images/ and a mesh"
_SUFFIXES = ("", ".jpg", ".JPG", ".jpeg", ".png", ".PNG", ".tif", ".tiff", ".TIF")
_MOST_BYTES = 64 << 20
_TYPES = ("frame", "fisheye")

Matrix = npt.NDArray[np.float64]


def find_workspaces(root: Path, settings: ImportSettings) -> Sequence[Found]:
    """Return the workspaces at or below a folder; see :class:`datagen.sources.imports.registry.Importer`."""
    found = workspaces(root, lambda folder: (folder / FILE).is_file(), settings.subject, _WANTED)
    return [Found(key, folder, partial(_read, folder, root, settings)) for key, folder in found]


def _read(workspace: Path, root: Path, settings: ImportSettings) -> ImportedSequence:
    path = workspace / FILE
    chunk = _chunk(path)
    sensors = {sensor.get("id"): sensor for sensor in chunk.iterfind("sensors/sensor")}
    worlds = {part.get("id"): _world(part.find("transform"), path) for part in chunk.iterfind("components/component")}
    whole = _world(chunk.find("transform"), path)
    entries = list(chunk.iterfind("cameras//camera"))
    placed = [entry for entry in entries if entry.find("transform") is not None and entry.get("enabled") != "0"]
    if not placed:
        raise InputError(f"{path} has no camera that was aligned", "cameras with a transform", "Align them, and export")
    images = settings.images or workspace / "images"
    inside = settings.images or root
    cameras: list[ImportedCamera] = []
    pictures, missing = dict[str, Path](), list[str]()
    intrinsics: dict[str | None, tuple[Matrix, tuple[int, int], Lens]] = {}
    for entry in placed:
        label = require_name(entry.get("label"), f"a camera of {path}")
        # One picture, with its suffix or without.
        name = Path(label).stem if Path(label).suffix.lower() in {suffix.lower() for suffix in _SUFFIXES} else label
        if name in {camera.name for camera in cameras}:
            raise InputError(f"{path} has two cameras {name!r}", "a label for each", "Rename one of the pictures")
        sensor = entry.get("sensor_id")
        if sensor not in intrinsics:
            intrinsics[sensor] = _intrinsics(sensors.get(sensor), sensor, path)
        K, size, lens = intrinsics[sensor]
        pose = _matrix(entry.findtext("transform"), 16, f"the transform of {name} in {path}").reshape(4, 4)
        world = worlds.get(entry.get("component_id"), whole)
        cameras.append(ImportedCamera(name, K, _to_camera(world @ pose), size, lens))
        candidates = (file_inside(images, label + suffix, inside, str(path)) for suffix in _SUFFIXES)
        picture = next((candidate for candidate in candidates if candidate.is_file()), None)
        if picture is None:
            missing.append(label)
        else:
            pictures[name] = picture
    if not pictures:
        raise InputError(
            f"{images} has none of the {len(missing)} pictures of {path}, such as {missing[0]}",
            "the pictures, named as the cameras' labels",
            "Name their folder: --images FOLDER",
        )
    scan, said = find_scan([workspace], (), (), settings.scan, root)
    remarks = [*said, "the scan is taken to be exported in local coordinates, without a shift"]
    if len(placed) < len(entries):
        remarks.append(f"left out: {len(entries) - len(placed)} of {len(entries)} cameras, not aligned or switched off")
    gaps = (f"{len(missing)} of {len(placed)} pictures: {listed(missing)}",) if missing else ()
    frame = ImportedFrame(0, 0.0, scan, pictures)
    return ImportedSequence(tuple(cameras), (frame,), missing=gaps, remarks=tuple(remarks))


def _chunk(path: Path) -> ElementTree.Element:
    try:
        text = read_text(path, _MOST_BYTES)
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise ValueError("it defines entities")
        document = ElementTree.fromstring(text)
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise InputError(f"{path} cannot be read ({error})", "Agisoft XML", "Export the cameras again") from None
    chunks = [document] if document.tag == "chunk" else list(document.iterfind("chunk"))
    if len(chunks) != 1:
        raise InputError(
            f"{path} has {len(chunks)} chunks", "the cameras of one chunk, as Agisoft XML", "Export one chunk"
        )
    return chunks[0]


def _matrix(text: str | None, count: int, what: str) -> Matrix:
    try:
        values = np.array([float(word) for word in (text or "").split()])
    except ValueError:
        values = np.zeros(0)
    if len(values) != count or not np.isfinite(values).all():
        raise InputError(f"{what} has not {count} finite numbers", "what Metashape writes", "Export the cameras again")
    return values


def _world(transform: ElementTree.Element | None, path: Path) -> Matrix:
    """Return what takes a chunk's or a component's own coordinates to the world's: a turn, a move, a scale."""
    matrix = np.eye(4)
    if transform is None or transform.find("scale") is None:
        return matrix
    scale = _matrix(transform.findtext("scale"), 1, f"a scale of {path}")[0]
    turn = _matrix(transform.findtext("rotation"), 9, f"a rotation of {path}").reshape(3, 3)
    matrix[:3, :3], matrix[:3, 3] = scale * turn, _matrix(transform.findtext("translation"), 3, f"a move of {path}")
    return matrix


def _to_camera(pose: Matrix) -> Matrix:
    """Return world to camera from camera to world, whose scale is the world's and not the camera's."""
    size = abs(np.linalg.det(pose[:3, :3])) ** (1 / 3)
    R = pose[:3, :3] / max(size, 1e-12)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = R.T, -R.T @ pose[:3, 3]
    return matrix


def _intrinsics(
    sensor: ElementTree.Element | None, number: str | None, path: Path
) -> tuple[Matrix, tuple[int, int], Lens]:
    calibrations = [] if sensor is None else list(sensor.iterfind("calibration"))
    # Beside the initial one.
    calibration = next((one for one in calibrations if one.get("class") == "adjusted"), None)
    kind = None if calibration is None else calibration.get("type", "frame")
    if calibration is None or kind not in _TYPES:
        raise InputError(
            f"{path}: sensor {number} has {'no adjusted calibration' if kind is None else f'the type {kind!r}'}",
            f"an adjusted calibration of the type {' or '.join(_TYPES)}",
            "Align the cameras, and export them as Agisoft XML",
        )
    where = f"sensor {number} of {path}"
    found = {key: _number(calibration, key, where) for key in ("f", "cx", "cy", "b1", "b2", "p1", "p2", "p3", "p4")}
    radial = tuple(_number(calibration, key, where) for key in ("k1", "k2", "k3", "k4"))
    resolution = calibration.find("resolution")
    size = [_side(resolution, side, where) for side in ("width", "height")]
    if found["p3"] or found["p4"] or (kind == "fisheye" and (found["p1"] or found["p2"])):
        raise InputError(
            f"{where} has p3, p4, or a fisheye's p1, p2", "k1 to k4, p1, p2", "Switch them off, and optimise"
        )
    # The principal point is counted from the middle; centres of pixels lie at +0.5.
    K = np.array(
        [
            [found["f"] + found["b1"], found["b2"], size[0] / 2 + found["cx"]],
            [0, found["f"], size[1] / 2 + found["cy"]],
            [0, 0, 1],
        ]
    )
    # Metashape's p1 and p2 are OpenCV's p2 and p1.
    lens = FisheyeLens(radial) if kind == "fisheye" else BrownLens(radial, (), (found["p2"], found["p1"]))
    return K, (size[0], size[1]), lens


def _number(calibration: ElementTree.Element, key: str, where: str) -> float:
    text = calibration.findtext(key)
    return 0.0 if text is None else float(_matrix(text, 1, f"{key} of {where}")[0])


def _side(resolution: ElementTree.Element | None, side: str, where: str) -> int:
    text = "" if resolution is None else resolution.get(side, "")
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 7 and int(text)):
        raise InputError(f"{where} has no {side}", "its resolution in pixels", "Export the cameras again")
    return int(text)
