"""``transforms.json`` of nerfstudio and instant-ngp: poses in OpenGL's axes, a lens for all pictures or for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.documents import read_json
from datagen.common.errors import InputError
from datagen.common.names import shown
from datagen.common.pictures import picture_size
from datagen.geometry.lens import BrownLens, FisheyeLens, Lens
from datagen.sources.imports.imported import (
    Found,
    ImportedCamera,
    ImportedDepth,
    ImportedFrame,
    ImportedSequence,
    ImportSettings,
)
from datagen.sources.imports.numbers import inverse
from datagen.sources.imports.workspace import camera_names, file_inside, find_scan, listed, mask_remark, workspaces

FILE = "transforms.json"
_WANTED = f"a folder with {FILE}"
# The sparse points that nerfstudio starts from are no surface.
_NO_SCANS = ("sparse_pc.ply", "points3D.ply", "points3d.ply")
_PINHOLES = frozenset({"PINHOLE", "SIMPLE_PINHOLE"})
_BROWN = frozenset({"OPENCV", "RADIAL", "SIMPLE_RADIAL", "PERSPECTIVE"})
_SUFFIXES = (".png", ".jpg", ".jpeg")
_NO_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
# x right, y up, z backwards, as OpenGL has it, to x right, y down, z forward.
OPENGL_AXES = np.diag([1.0, -1.0, -1.0, 1.0])
_SAME_TIME = ("timestep_index", "time", "timestep_id")
_MOST = 1e9
_OTHERS = ("mask_path", "depth_file_path")
# What nerfstudio takes depth maps to be in, unless it is told otherwise.
DEPTH_UNIT = "mm"

Matrix = npt.NDArray[np.float64]


def find_workspaces(root: Path, settings: ImportSettings) -> Sequence[Found]:
    """Return the workspaces at or below a folder; see :class:`datagen.sources.imports.registry.Importer`."""
    found = workspaces(root, lambda folder: (folder / FILE).is_file(), settings.subject, _WANTED)
    return [Found(key, folder, partial(_read, folder, root, settings)) for key, folder in found]


def _read(workspace: Path, root: Path, settings: ImportSettings) -> ImportedSequence:
    path = workspace / FILE
    content, frames = read_transforms(path)
    _one_instant(path, frames)
    files = [text_of(path, frame, "file_path") for frame in frames]
    if len(set(files)) < len(files):
        raise InputError(f"{path} names a picture twice", "each once", "Remove one of the entries")
    names = camera_names(files)
    back, remarks = _world(path, content, settings.original_world)
    cameras, pictures, missing = [], {}, []
    others: dict[str, dict[str, Path]] = {key: {} for key in _OTHERS}
    for frame, file in zip(frames, files, strict=True):
        name = names[file]
        picture = picture_of(workspace, file, root, path)
        values = {**_size_of(picture), **content, **frame}
        K, size, lens = intrinsics_of(values, f"camera {name} of {path}")
        pose = matrix_of(frame.get("transform_matrix"), f"transform_matrix of {name} in {path}")
        cameras.append(ImportedCamera(name, K, inverse(rigid_of(back(pose) @ OPENGL_AXES, name, path)), size, lens))
        if picture is None:
            missing.append(file)
        else:
            pictures[name] = picture
        for key, found in others.items():
            if frame.get(key) is not None:
                other = file_inside(workspace, text_of(path, frame, key), root, str(path))
                if other.is_file():
                    found[name] = other
                else:
                    missing.append(str(frame[key]))
    if not pictures:
        raise InputError(
            f"none of the {len(files)} pictures of {path} is there, such as {files[0]}", "the pictures", "Copy them"
        )
    # The points that nerfstudio begins with.
    points = Path(str(content.get("ply_file_path", ""))).name
    masks, depths = others.values()
    scan, said = find_scan([workspace], (), (*_NO_SCANS, points), settings.scan, root, depths=bool(depths))
    remarks += mask_remark(masks)
    gaps = (f"{len(missing)} files: {listed(missing)}",) if missing else ()
    instant = ImportedFrame(0, 0.0, scan, pictures, masks, depths)
    depth = None
    if depths:
        depth = ImportedDepth(unit=settings.depth_unit or DEPTH_UNIT)
        remarks += (f"taken for granted: depth maps in {depth.unit} (--depth-unit), along the optical axis",)
    return ImportedSequence(tuple(cameras), (instant,), depth=depth, missing=gaps, remarks=(*remarks, *said))


def read_transforms(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the content of a transforms.json, and its frames.

    Raises
    ------
    InputError
        If it cannot be read, or has no frames.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})", "a JSON file", "Check the file") from None
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise InputError(f"{path} has no list `frames` of pictures", "what nerfstudio or instant-ngp write", "Check it")
    return content, frames


def _one_instant(path: Path, frames: Sequence[Mapping[str, Any]]) -> None:
    for key in _SAME_TIME:
        times = {shown(frame[key]) for frame in frames if key in frame}
        if len(times) > 1:
            raise InputError(
                f"{path} has pictures of {len(times)} instants (`{key}`)",
                "one instant a workspace, with the scan of that instant",
                "Write a transforms.json for each instant, beside its scan (VHAP's exports: `datagen import vhap`)",
            )


def text_of(path: Path, entry: Mapping[str, Any], key: str) -> str:
    """Return a path that an entry of a file names."""
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"{path} has a frame whose `{key}` is {shown(value)}", "a path", "Check the file")
    return value


def picture_of(workspace: Path, file: str, root: Path, path: Path) -> Path | None:
    """Return a picture that is there; the oldest files leave its suffix out."""
    candidates = [file, *(file + suffix for suffix in _SUFFIXES)]
    found = (file_inside(workspace, name, root, str(path)) for name in candidates)
    return next((picture for picture in found if picture.is_file()), None)


def _size_of(picture: Path | None) -> dict[str, int]:
    """Return width and height as keys of the file, for the oldest files, which leave them to the pictures."""
    if picture is None:
        return {}
    width, height = picture_size(picture, orientation="stored", ask="")
    return {"w": width, "h": height}


def _number(values: Mapping[str, Any], key: str, where: str) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MOST:
        raise InputError(f"{where}: `{key}` is {shown(value)}", "a number", "Check the file")
    return float(value)


def intrinsics_of(values: Mapping[str, Any], where: str) -> tuple[Matrix, tuple[int, int], Lens]:
    """Return K with pixel centres at +0.5, the size that it belongs to, and the lens."""
    numbers = {
        key: _number(values, key, where)
        for key in ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", *_NO_DISTORTION)
    }
    width, height = numbers["w"], numbers["h"]
    if width is None or height is None or width < 1 or height < 1 or width % 1 or height % 1:
        raise InputError(f"{where} has no size", "`w` and `h` in pixels", "Add them: K belongs to one size")
    fx = numbers["fl_x"] or _focal(width, numbers["camera_angle_x"])
    fy = numbers["fl_y"] or _focal(height, numbers["camera_angle_y"]) or fx
    if fx is None or fy is None:
        raise InputError(f"{where} has no focal length", "`fl_x`, `fl_y`, or `camera_angle_x`", "Add them")
    cx = width / 2 if numbers["cx"] is None else numbers["cx"]
    cy = height / 2 if numbers["cy"] is None else numbers["cy"]
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    return K, (int(width), int(height)), _lens(values, numbers, where)


def _focal(side: float, angle: float | None) -> float | None:
    return side / (2 * math.tan(angle / 2)) if angle is not None and 0 < angle < math.pi else None


def _lens(values: Mapping[str, Any], numbers: Mapping[str, float | None], where: str) -> Lens:
    model = values.get("camera_model")
    k1, k2, k3, k4, p1, p2 = (numbers[key] or 0.0 for key in _NO_DISTORTION)
    fisheye = bool(values.get("is_fisheye"))
    if model == "OPENCV_FISHEYE" or (model is None and fisheye):
        if p1 or p2:
            raise InputError(f"{where} is a fisheye with p1 and p2", "k1 to k4 only", "Check the file")
        return FisheyeLens((k1, k2, k3, k4))
    if model in _PINHOLES and not fisheye:
        if any((k1, k2, k3, k4, p1, p2)):
            raise InputError(f"{where} is a {model} with distortion", "none", "Correct `camera_model`")
        return BrownLens()
    if (model is not None and model not in _BROWN) or fisheye:
        raise InputError(
            f"{where} has the camera model {shown(model)}{' and is_fisheye' if fisheye else ''}",
            f"one of {', '.join(sorted(_PINHOLES | _BROWN))}, OPENCV_FISHEYE",
            "Undistort the pictures, and write the cameras that belong to them",
        )
    # nerfstudio's k4 is a further power, not OpenCV's divisor.
    return BrownLens((k1, k2, k3, k4), (), (p1, p2))


def matrix_of(value: object, where: str) -> Matrix:
    """Return a 4×4 pose of finite numbers."""
    try:
        matrix = np.array(value, np.float64)
    except (ValueError, TypeError, OverflowError):
        matrix = np.zeros(0)
    if matrix.shape not in {(4, 4), (3, 4)} or not (np.abs(matrix) <= _MOST).all():
        raise InputError(f"{where} is {shown(value)}", "4×4 or 3×4 finite numbers", "Check the file")
    return np.concatenate([matrix[:3], [[0.0, 0.0, 0.0, 1.0]]])


def rigid_of(pose: Matrix, name: str, path: Path) -> Matrix:
    """Return the rigid pose next to one of few digits."""
    R = pose[:3, :3]
    if np.abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0:
        raise InputError(
            f"{path}: transform_matrix of {name} does not only turn and move",
            "a rotation and a translation from the camera to the world",
            "Check the file",
        )
    # Files of few digits: the nearest rotation.
    U, _, Vt = np.linalg.svd(R)
    clean = np.eye(4)
    clean[:3, :3], clean[:3, 3] = U @ Vt, pose[:3, 3]
    return clean


def _world(path: Path, content: Mapping[str, Any], original: bool) -> tuple[Any, tuple[str, ...]]:
    """Return what takes a camera's pose to the world of the scan, and what is to be said of it."""
    applied = content.get("applied_transform")
    turn = np.eye(4) if applied is None else matrix_of(applied, f"applied_transform of {path}")
    scale = _number(content, "applied_scale", str(path)) or 1.0
    moved = scale != 1 or np.abs(turn - np.eye(4)).max() > 0
    if not original:
        said = "the scan is taken to lie in the turned world of transforms.json; if it lies in that of COLMAP, pass "
        return (lambda pose: pose), (f"{said}--original-world",) if moved else ()
    if applied is None:
        raise InputError(
            f"{path} has no applied_transform",
            "the transform that nerfstudio noted when it turned the world",
            "Leave --original-world out; instant-ngp's script keeps the world with --keep_colmap_coords",
        )
    undone = inverse(rigid_of(turn, "applied_transform", path))

    def back(pose: Matrix) -> Matrix:
        shrunk = pose.copy()
        shrunk[:3, 3] /= scale
        return undone @ shrunk

    return back, ("the cameras are back in the world that they had before applied_transform",)
