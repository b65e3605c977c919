"""Cameras of the frames: given, predicted by the model, or assumed; written as npz and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from datagen.common.console import say
from datagen.common.documents import DocumentError, read_json
from datagen.common.errors import InputError
from datagen.common.settings import Section, parse
from trainer.prediction.frames import Box, Region, SourceFrame, into_square, out_of_square
from trainer.prediction.matching import assign, belongs

FORMAT = "canonface-cameras"
Origin = Literal["given", "model", "assumed"]
_LONGEST_NAME, _MOST_BYTES = 100, 200
_HELP = "docs/prediction.md shows the format"
_CONVENTION = "OpenCV: x right, y down, z forward; x_camera = world_to_camera x_world; metres; pixel centres at +0.5"
_Row3 = tuple[float, float, float]
_Row4 = tuple[float, float, float, float]
# Focal lengths over the larger side: from beyond any fisheye's to a telescope's, of crops too.
_SHORTEST, _LONGEST = 0.2, 50.0
_SQUARE = 1.1  # largest ratio of the sides of a pixel
_POSE = "convert it to world_to_camera (x_camera = world_to_camera x_world, OpenCV axes), inverted if need be"
_UNDISTORTED = "undistort the images, and give the intrinsics of the result"
_FOREIGN = {
    "camera_to_world": "give its inverse as world_to_camera",
    "transform_matrix": _POSE,
    "extrinsics": _POSE,
    "distortion": _UNDISTORTED,
    "distortion_coefficients": _UNDISTORTED,
    "camera_model": _UNDISTORTED,
    "pixel_center": "leave it out; centres lie at +0.5, and where they lie at whole numbers cx and cy want 0.5 more",
}


@dataclass(frozen=True)
class FrameCamera:
    """The camera of one frame.

    Attributes
    ----------
    intrinsics : (3, 3) float32
        Of the square map, pixels.
    world_to_camera : (4, 4) float32
        The identity if unknown: the world is then each frame's own camera.
    content : tuple of int
        Box of the image in the map.
    original : tuple of int
        Width and height of the image.
    region : tuple of float
        The part of the image that the box shows.
    intrinsics_from, pose_from : {"given", "model", "assumed"}
    """

    name: str
    intrinsics: npt.NDArray[np.float32]
    world_to_camera: npt.NDArray[np.float32]
    content: Box
    original: tuple[int, int]
    region: Region
    time_s: float | None
    intrinsics_from: Origin
    pose_from: Origin

    def stem(self, number: int) -> str:
        """Return what the frame's files are called; long names are cut, the number keeps them apart."""
        # A name may come out of a dataset: it must not lead out of the folder, nor break the line of a listing. File
        # systems count bytes; what is not UTF-8 in a name could not be written into the page or the tables.
        plain = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in self.name[:_LONGEST_NAME])
        return f"{number:06d}_{plain.encode('utf-8', 'ignore')[:_MOST_BYTES].decode('utf-8', 'ignore')}"

    @property
    def of_image(self) -> npt.NDArray[np.float64]:
        """Intrinsics in the pixels of the original image."""
        return out_of_square(self.intrinsics, self.content, self.region)


class CameraEntry(Section):
    """The camera of a frame, or of all."""

    name: str = ""
    width: float = Field(gt=0)
    height: float = Field(gt=0)
    intrinsics: tuple[_Row3, _Row3, _Row3]
    world_to_camera: tuple[_Row4, _Row4, _Row4, _Row4] | None = None
    # What a prediction says besides of its cameras.
    time_s: float | None = None
    intrinsics_from: Origin | None = None
    pose_from: Origin | None = None


class CameraFile(Section):
    """What ``cameras.json`` holds."""

    format: Literal["canonface-cameras"] = "canonface-cameras"
    convention: str = _CONVENTION
    frames: tuple[CameraEntry, ...]


class GivenCameras:
    """Cameras read from a file.

    The file is ``{"frames": [{"name", "width", "height", "intrinsics", "world_to_camera"}, ...]}`` as this package
    writes it (``width`` and ``height`` of the image, ``world_to_camera`` optional). Frames are found by name, or, if
    no entry has one, in order; one entry stands for all frames.

    Raises
    ------
    InputError
        If the file cannot be read, has keys that are not known, or a camera is none of an image of its size.
    """

    def __init__(self, path: Path) -> None:
        self._holder = f"cameras {path}"
        file = parse(CameraFile, self._read(path), self._holder, _HELP, "a cameras.json", InputError)
        if not file.frames:
            raise InputError(f"{self._holder} holds no frames", "one, or one for each frame", _HELP)
        if file.convention != _CONVENTION:
            raise InputError(
                f"{self._holder} follows another convention: {file.convention[:80]}", _CONVENTION, "Convert the cameras"
            )
        self._entries = file.frames
        self._matrices = [self._checked(k, entry) for k, entry in enumerate(file.frames)]
        self._assigned: dict[int, int] = {}

    def _read(self, path: Path) -> object:
        try:
            content = read_json(path)
        except (OSError, DocumentError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise InputError(f"{self._holder} cannot be read: {reason}", "a cameras.json", _HELP) from None
        entries = content.get("frames") if isinstance(content, dict) else None
        places = [
            place for place in (content, *(entries if isinstance(entries, list) else ())) if isinstance(place, dict)
        ]
        # A key of another program must not be taken for one of ours that is misspelt.
        foreign = [key for key in _FOREIGN if any(key in place for place in places)]
        if foreign:
            fixes = "; ".join(f"{key}: {_FOREIGN[key]}" for key in foreign)
            raise InputError(
                f"{self._holder} has keys that are not read: {', '.join(foreign)}",
                f"the keys {', '.join(CameraEntry.model_fields)}",
                fixes,
            )
        return content

    def assign(self, frames: Sequence[str], wanted: Sequence[int]) -> None:
        """Find the camera of each frame; see :func:`trainer.prediction.matching.assign`."""
        names = [entry.name for entry in self._entries]
        unnamed = names.count("")
        if len(names) == 1 and (unnamed or any(belongs(names[0], frames[number]) for number in wanted)):
            self._assigned = dict.fromkeys(wanted, 0)
            if not unnamed and len(wanted) > 1:
                say(f"{self._holder} has one camera, {names[0]!r}, which stands for all frames", to=sys.stderr)
            return
        if 0 < unnamed < len(names):
            raise InputError(
                f"{unnamed} of {len(names)} frames in {self._holder} have no name", "names for all, or for none", _HELP
            )
        self._assigned = assign(frames, wanted, names, "camera", self._holder, in_order=unnamed > 0)

    def attach(self, frame: SourceFrame, number: int) -> SourceFrame:
        """Return a frame with its camera."""
        entry = self._entries[self._assigned[number]]
        K, pose = self._matrices[self._assigned[number]]
        width, height = frame.original
        if not _same_shape((entry.width, entry.height), frame.original):
            turned = _same_shape((entry.height, entry.width), frame.original)
            raise InputError(
                f"{self._holder}: {frame.name} is {width} × {height} pixels, its camera is for {entry.width:g} × "
                f"{entry.height:g}{', as if one of them were turned' if turned else ''}",
                "cameras of these images (another scale will do, other proportions will not)",
                "Give the other --orientation, or cameras that are turned alike"
                if turned
                else "Give the cameras that belong to them",
            )
        of_image = np.diag([width / entry.width, height / entry.height, 1.0]) @ K
        scaled = into_square(of_image, frame.content, frame.region)
        pose32 = None if pose is None else pose.astype(np.float32)
        return replace(frame, intrinsics=scaled.astype(np.float32), world_to_camera=pose32)

    def _checked(
        self, number: int, entry: CameraEntry
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
        """Return the matrices of an entry, if they are those of a camera."""
        name = f"frame {number}{f' ({entry.name[:80]!r})' if entry.name else ''} of {self._holder}"
        K = np.array(entry.intrinsics, np.float64)
        fault = _fault_of_intrinsics(K, entry.width, entry.height)
        if fault is not None:
            raise InputError(f"{name}: {fault[0]}", "intrinsics in pixels of an image of width × height", fault[1])
        if entry.world_to_camera is None:
            return K, None
        pose = np.array(entry.world_to_camera, np.float64)
        if not _usable(pose) or not _is_rigid(pose):
            raise InputError(
                f"{name}: world_to_camera is not a rigid transform",
                "a rotation and a translation in metres, last row 0 0 0 1",
                _HELP,
            )
        return K, pose


def _fault_of_intrinsics(K: npt.NDArray[np.float64], width: float, height: float) -> tuple[str, str] | None:
    """Return what is wrong with intrinsics and what to do about it."""
    if not _usable(K, width, height) or K[2].tolist() != [0, 0, 1] or K[1, 0] != 0:
        return (
            "intrinsics are not [[fx, s, cx], [0, fy, cy], [0, 0, 1]] in finite numbers",
            "Write the matrix row by row",
        )
    (fx, skew, cx), (_, fy, cy), _ = K.tolist()
    larger = max(width, height)
    size = f"{width:g} × {height:g} pixels"
    for focal in (fx, fy):
        if not _SHORTEST * larger <= focal <= _LONGEST * larger:
            cause = "as if normalised, or in millimetres" if focal < _SHORTEST * larger else "as if of a larger image"
            return f"a focal length of {focal:g} pixels for an image of {size}, {cause}", "Give it in pixels"
    if not (-width <= cx <= 2 * width and -height <= cy <= 2 * height):
        return f"the principal point ({cx:g}, {cy:g}) lies far outside an image of {size}", "Give it in its pixels"
    if abs(cx) <= 1 and abs(cy) <= 1:
        return f"the principal point ({cx:g}, {cy:g}) of an image of {size}, as if normalised", "Give it in pixels"
    if max(fx, fy) > _SQUARE * min(fx, fy) or abs(skew) > (_SQUARE - 1) * fx:
        return (
            f"focal lengths of {fx:g} and {fy:g} and a skew of {skew:g} pixels: the pixels are not square",
            "Stretch the images to square pixels, and the intrinsics with them",
        )
    return None


def _same_shape(declared: tuple[float, float], found: tuple[int, int]) -> bool:
    """Whether two sizes have one shape, as far as sides of whole pixels can."""
    return abs(declared[0] * found[1] - declared[1] * found[0]) <= max(sum(declared), sum(found))


def _usable(*values: npt.ArrayLike) -> bool:
    """Whether all are finite, as float32 too."""
    with np.errstate(over="ignore"):
        return all(bool(np.isfinite(np.asarray(value).astype(np.float32)).all()) for value in values)


def _is_rigid(pose: npt.NDArray[np.float64]) -> bool:
    turn = pose[:3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        orthonormal = np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) and np.linalg.det(turn) > 0
    return bool(orthonormal and pose[3].tolist() == [0, 0, 0, 1])


def assumed_intrinsics(focal_over_width: float, resolution: int) -> npt.NDArray[np.float32]:
    """Return a camera with this focal length (in widths of the square) that looks through the centre."""
    K = np.eye(3, dtype=np.float32)
    K[0, 0] = K[1, 1] = focal_over_width * resolution
    K[:2, 2] = resolution / 2
    return K


class FieldOfView:
    """One angle for all frames, along the image's longer side; the principal point is the image's centre."""

    def __init__(self, degrees: float) -> None:
        if not 1 <= degrees <= 179:
            raise InputError(
                f"--fov {degrees:g}", "degrees between 1 and 179, along the image's longer side", "Correct it"
            )
        self._focal = 0.5 / float(np.tan(np.radians(degrees) / 2))

    def attach(self, frame: SourceFrame, number: int) -> SourceFrame:  # noqa: ARG002 - as GivenCameras
        """Return a frame with its camera."""
        width, height = frame.original
        focal = self._focal * max(width, height)
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        return replace(frame, intrinsics=into_square(K, frame.content, frame.region).astype(np.float32))


def write_cameras(folder: Path, cameras: list[FrameCamera]) -> None:
    """Write ``cameras.npz`` (of the maps, and of the images) and ``cameras.json`` (of the images)."""
    from trainer.prediction.store import write_npz

    write_npz(
        folder / "cameras.npz",
        {
            "names": np.array([c.name for c in cameras]),
            "intrinsics": np.stack([c.intrinsics for c in cameras]),
            "intrinsics_of_image": np.stack([c.of_image for c in cameras]).astype(np.float32),
            "world_to_camera": np.stack([c.world_to_camera for c in cameras]),
            "content_box": np.array([c.content for c in cameras], np.int64),
            "image_region": np.array([c.region for c in cameras]),
            "image_size": np.array([c.original for c in cameras], np.int64),
            "time_s": np.array([np.nan if c.time_s is None else c.time_s for c in cameras]),
            "intrinsics_from": np.array([c.intrinsics_from for c in cameras]),
            "pose_from": np.array([c.pose_from for c in cameras]),
        },
    )
    head = {"format": FORMAT, "convention": _CONVENTION}
    with (folder / "cameras.json").open("w") as file:
        file.write(json.dumps(head, indent=1)[:-2] + ',\n "frames": [\n')
        for k, c in enumerate(cameras):
            entry = {
                "name": c.name,
                "width": c.original[0],
                "height": c.original[1],
                "time_s": c.time_s,
                "intrinsics": c.of_image.round(6).tolist(),
                "world_to_camera": c.world_to_camera.astype(float).round(9).tolist(),
                "intrinsics_from": c.intrinsics_from,
                "pose_from": c.pose_from,
            }
            file.write(f"  {json.dumps(entry)}{',' if k + 1 < len(cameras) else ''}\n")
        file.write(" ]\n}\n")
