"""Calibrations as other programs write them: JSON with matrices, OpenCV's YAML, COLMAP's text files.

What is read is what names itself plainly: K, and the rigid transform from the world to the camera in OpenCV's axes.
Everything else is refused in words, for a matrix that is used the wrong way round is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from datagen.common.documents import check_depth, parse_json, read_text
from datagen.common.errors import InputError
from datagen.geometry.lens_models import LENS_MODELS, lens_of, model_of
from datagen.sources.colmap_model import colmap_intrinsics, read_colmap_model

_K = ("K", "camera_matrix", "cameraMatrix", "intrinsics", "intrinsic", "intrinsic_matrix")
_FOCAL = ("fx", "fy", "cx", "cy")
_POSE = ("world_to_camera", "world2cam", "w2c", "extrinsics", "extrinsic", "RT", "Rt")
_R = ("R", "rotation", "rotation_matrix")
_T = ("t", "T", "translation", "tvec")
_DISTORTION = ("distortion_coefficients", "distortion", "dist", "distCoeffs", "dist_coeffs", "D")
_MODEL = ("distortion_model", "distortionModel")
_FISHEYE = "opencv_fisheye"
# What ROS calls OpenCV's models.
_MODELS = {"plumb_bob": "opencv", "rational_polynomial": "opencv", "equidistant": _FISHEYE, "fisheye": _FISHEYE}
_WIDTH = ("width", "image_width", "w")
_HEIGHT = ("height", "image_height", "h")
_SIZE = ("image_size", "size", "resolution")
_NAME = ("name", "id", "camera", "camera_id", "label", "serial")
# Of other directions or axes, which would have to be guessed.
_OTHER_POSES = ("camera_to_world", "cam2world", "c2w", "transform_matrix", "pose", "rvec")
_MOST_BYTES = 64 << 20
_SAME = 1e-4
_SEE = "docs/capture-format.md says what K and world_to_camera are"

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibrated:
    """One camera of a calibration.

    Attributes
    ----------
    K : (3, 3) float64
    world_to_camera : (4, 4) float64
        Translation in the unit of the file, whatever that is.
    size : tuple of int or None
        Width and height, if the file has them.
    distortion : tuple of str and tuple of float, or None
        Model and parameters of the lens, as ``capture.json`` names them; None where it distorts nothing.
    """

    K: Matrix
    world_to_camera: Matrix
    size: tuple[int, int] | None = None
    distortion: tuple[str, tuple[float, ...]] | None = None


@dataclass(frozen=True)
class Calibration:
    """What a calibration file holds.

    Attributes
    ----------
    kind : str
        What program it is of.
    cameras : mapping of str to Calibrated
    pixel_center : float or None
        Where the centre of the top-left pixel lies; None if the kind of file does not say.
    remarks : tuple of str
        What was taken for granted, or cannot be known from the file.
    """

    kind: str
    cameras: Mapping[str, Calibrated]
    pixel_center: float | None = None
    remarks: tuple[str, ...] = ()


def read_json_calibration(path: Path) -> Calibration:
    """Read cameras from JSON: an object by name, or a list of objects with a name; below ``cameras`` or not.

    Raises
    ------
    InputError
        If it holds no camera, or one that is not understood.
    """
    try:
        content = parse_json(read_text(path, _MOST_BYTES))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})", "a JSON file", "Check the file") from None
    if isinstance(content, dict) and isinstance(content.get("cameras"), dict | list):
        content = content["cameras"]
    entries = dict(_entries(content))
    if not entries:
        raise InputError(
            f"{path} holds no camera", 'an object such as {"left": {"K": [[…]], "world_to_camera": [[…]]}, …}', _SEE
        )
    taken = {key for entry in entries.values() for key in entry if key in _POSE[3:]}
    remarks = [f"`{key}` is taken for world to camera" for key in sorted(taken)]
    cameras = {name: _camera(f"camera {name} of {path}", entry) for name, entry in entries.items()}
    return Calibration("JSON", cameras, remarks=(*remarks, *_lens_remark(cameras)))


def _lens_remark(cameras: Mapping[str, Calibrated]) -> tuple[str, ...]:
    models = sorted({one.distortion[0] for one in cameras.values() if one.distortion})
    if not models:
        return ()
    return (
        f"pictures are taken to have the lens distortion of the calibration (model {' and '.join(models)}), and are "
        "straightened when they are read; if they are straight already, take `distortion` out",
    )


def _entries(content: object) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(content, dict):
        pairs = [(str(name), entry) for name, entry in content.items()]
    elif isinstance(content, list):
        pairs = [(str(_first(entry, _NAME)), entry) for entry in content if isinstance(entry, dict)]
    else:
        pairs = []
    for name, entry in pairs:
        if isinstance(entry, dict) and any(key in entry for key in (*_K, *_FOCAL, *_POSE, *_R)):
            yield name, entry


def read_opencv_calibration(paths: Mapping[str, Path]) -> Calibration:
    """Read files of OpenCV's ``FileStorage`` (YAML), one for each camera.

    Parameters
    ----------
    paths : mapping of camera name to Path

    Raises
    ------
    InputError
        If one is not such a file, or lacks K, R or T.
    """
    cameras = {name: _camera(str(path), _file_storage(path)) for name, path in paths.items()}
    said = ["R and T are taken for world to camera, as solvePnP and calibrateCamera give them"]
    return Calibration("OpenCV", cameras, 0.0, (*said, *_lens_remark(cameras)))


class _FileStorageLoader(yaml.SafeLoader):
    """YAML with OpenCV's matrices and without aliases, which can make a small file huge."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases")
        return super().compose_node(parent, index)


def _matrix(loader: _FileStorageLoader, node: yaml.Node) -> Any:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.YAMLError("a matrix is not a mapping")
    content = loader.construct_mapping(node, deep=True)
    return np.array(content["data"], np.float64).reshape(int(content["rows"]), int(content["cols"])).tolist()


_FileStorageLoader.add_constructor("tag:yaml.org,2002:opencv-matrix", _matrix)


def _file_storage(path: Path) -> dict[str, Any]:
    try:
        # "%YAML:1.0" is OpenCV's own; YAML would want a space.
        text = re.sub(r"\A%YAML:.*\n", "", read_text(path, _MOST_BYTES))
        content = yaml.load(text, Loader=_FileStorageLoader)
        check_depth(content)
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} cannot be read ({reason})", "YAML as OpenCV writes it", "Check the file") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no camera", "YAML as OpenCV writes it", _SEE)
    return content


def _camera(name: str, entry: Mapping[str, Any]) -> Calibrated:
    K = _array(name, "K", _intrinsics(entry), [(3, 3)])
    distortion = _distortion(name, entry)
    pose = _first(entry, _POSE)
    if pose is None:
        R, t = _first(entry, _R), _first(entry, _T)
        if R is None or t is None:
            other = next((key for key in _OTHER_POSES if key in entry), None)
            raise InputError(
                f"{name} has no rotation and translation from the world to the camera"
                + (f", but `{other}`, whose direction or axes are another matter" if other else ""),
                "`world_to_camera` (4×4 or 3×4), or `R` (3×3) and `t`, in OpenCV's axes",
                "Export it so",
            )
        t = _array(name, "t", t, None).reshape(-1)
        if t.shape != (3,):
            raise InputError(f"{name} has a translation of {len(t)} numbers", "three", "Check the file")
        matrix = np.concatenate([_array(name, "R", R, [(3, 3)]), t[:, None]], axis=1)
    else:
        matrix = _array(name, "world_to_camera", pose, [(4, 4), (3, 4)])[:3]
    size = _first(entry, _SIZE)
    if size is None:
        size = [_first(entry, _WIDTH), _first(entry, _HEIGHT)]
    whole = isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size)
    return Calibrated(K, _four_by_four(matrix), (size[0], size[1]) if whole and size else None, distortion)


def _distortion(name: str, entry: Mapping[str, Any]) -> tuple[str, tuple[float, ...]] | None:
    """Return the lens as capture.json names it; by OpenCV's model, unless the entry names another."""
    found, called = _first(entry, _DISTORTION), str(_first(entry, _MODEL) or "opencv")
    if isinstance(found, dict) and {"model", "parameters"} == found.keys():
        called, found = str(found["model"]), found["parameters"]
    values = np.zeros(0) if found is None else _array(name, "distortion", found, None).reshape(-1)
    model = _MODELS.get(called.lower(), called.lower())
    if not values.any() and model != _FISHEYE:
        return None
    if model not in LENS_MODELS:
        raise InputError(
            f"{name} has lens distortion of the model {called!r}",
            f"one of {', '.join((*LENS_MODELS, *_MODELS))}",
            "Calibrate with one of them, or undistort the pictures (OpenCV: undistort and getOptimalNewCameraMatrix) "
            "and take the distortion out",
        )
    parameters = tuple(float(value) for value in values) or (0.0,)
    lens_of(model, parameters, name)
    return model, parameters


def _intrinsics(entry: Mapping[str, Any]) -> object:
    """Return K as the entry has it: a matrix, or its four numbers."""
    found = _first(entry, _K)
    numbers = found if isinstance(found, dict) else entry
    if (found is None or isinstance(found, dict)) and all(key in numbers for key in _FOCAL):
        fx, fy, cx, cy = (numbers[key] for key in _FOCAL)
        return [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]
    return found


def _four_by_four(matrix: Matrix) -> Matrix:
    return np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])


def _array(name: str, what: str, value: object, shapes: list[tuple[int, ...]] | None) -> Matrix:
    try:
        array = np.array(value, np.float64)
    except (ValueError, TypeError, OverflowError):
        array = np.full((), np.nan)
    if not np.isfinite(array).all() or (shapes is not None and array.shape not in shapes):
        wanted = " or ".join("×".join(map(str, shape)) for shape in shapes or []) or "a list"
        raise InputError(f"{name}: {what} is not {wanted} of finite numbers", f"{wanted} numbers", _SEE)
    return array


def _first(entry: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((entry[key] for key in keys if key in entry), None)


def read_colmap_calibration(folder: Path, camera_of: Mapping[str, str]) -> Calibration:
    """Read the cameras and pictures of COLMAP that a folder holds, as text or binary.

    Parameters
    ----------
    camera_of : mapping of str to str
        Camera by the picture's path, as ``images.txt`` names it or ends with it.

    Raises
    ------
    InputError
        If they are not such files, a camera's model is not read, or one camera stands in two places.
    """
    model = read_colmap_model(folder)
    path = folder / "cameras.txt"
    intrinsics = {}
    for number, camera in model.cameras.items():
        K, lens = colmap_intrinsics(camera, f"{number} of {path}")
        distortion = None
        if not lens.is_straight:
            named, parameters = model_of(lens)
            distortion = named, tuple(parameters)
        intrinsics[number] = K, camera.size, distortion
    cameras: dict[str, Calibrated] = {}
    path = folder / "images.txt"
    for picture in model.pictures:
        if picture.camera not in intrinsics:
            raise InputError(
                f"{path} has {picture.name!r} of camera {picture.camera}, which is none of cameras.txt",
                "files of one model",
                "Export both again",
            )
        name = next((name for known, name in camera_of.items() if _same_picture(known, picture.name)), None)
        if name is None:
            continue
        K, size, distortion = intrinsics[picture.camera]
        found = Calibrated(K, picture.world_to_camera, size, distortion)
        before = cameras.setdefault(name, found)
        if np.abs(before.world_to_camera - found.world_to_camera).max() > _SAME:
            raise InputError(
                f"{path} has camera {name} in two places",
                "cameras that stand still",
                "Calibrate the rig as one (colmap: from one frame), or cut the recording where it was moved",
            )
    if not cameras:
        raise InputError(f"{path} names none of the pictures found here", "their paths", "Check the file")
    said = "COLMAP's unit of length is arbitrary unless it was given one: check it"
    return Calibration("COLMAP", cameras, 0.5, (said, *_lens_remark(cameras)))


def _same_picture(known: str, picture: str) -> bool:
    return known == picture or known.endswith(f"/{picture}") or picture.endswith(f"/{known}")
