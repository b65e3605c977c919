"""Models of COLMAP: cameras and the poses of pictures, from its binary files or its text files."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.documents import read_bytes, read_text
from datagen.common.errors import InputError
from datagen.geometry.lens import BrownLens, FisheyeLens, Lens

Matrix = npt.NDArray[np.float64]

# Number in binary files, and of parameters: the ones COLMAP names, in its order.
MODELS = {
    "SIMPLE_PINHOLE": (0, 3),
    "PINHOLE": (1, 4),
    "SIMPLE_RADIAL": (2, 4),
    "RADIAL": (3, 5),
    "OPENCV": (4, 8),
    "OPENCV_FISHEYE": (5, 8),
    "FULL_OPENCV": (6, 12),
    "FOV": (7, 5),
    "SIMPLE_RADIAL_FISHEYE": (8, 4),
    "RADIAL_FISHEYE": (9, 5),
    "THIN_PRISM_FISHEYE": (10, 12),
}
_READ = tuple(name for name in MODELS if name not in {"FOV", "THIN_PRISM_FISHEYE"})
_BY_NUMBER = {number: name for name, (number, _) in MODELS.items()}
_MOST_BYTES = 4 << 30
_MOST_TEXT = 1 << 30
_POINT_BYTES = 24


@dataclass(frozen=True)
class ColmapCamera:
    """Intrinsics as the file has them, pixel centres at +0.5.

    Attributes
    ----------
    model : str
        A key of :data:`MODELS`, or the name of one that is not known here.
    size : tuple of int
        Width and height.
    parameters : tuple of float
    """

    model: str
    size: tuple[int, int]
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class ColmapPicture:
    """A picture that was placed.

    Attributes
    ----------
    name : str
        Its path below the folder of pictures.
    camera : int
        Number of its camera.
    world_to_camera : (4, 4) float64
        OpenCV axes, translation in the unit of the model.
    """

    name: str
    camera: int
    world_to_camera: Matrix


@dataclass(frozen=True)
class ColmapModel:
    """A model: cameras by number, pictures in the file's order."""

    cameras: Mapping[int, ColmapCamera]
    pictures: tuple[ColmapPicture, ...]


def has_colmap_model(folder: Path) -> bool:
    """Whether a folder holds cameras and pictures of COLMAP, binary or text."""
    return any(all((folder / f"{name}.{kind}").is_file() for name in ("cameras", "images")) for kind in ("bin", "txt"))


def read_colmap_model(folder: Path) -> ColmapModel:
    """Read the model of a folder, of binary files where both kinds are there, as COLMAP does.

    Raises
    ------
    InputError
        If files are missing, broken or cut off.
    """
    if (folder / "cameras.bin").is_file() and (folder / "images.bin").is_file():
        return ColmapModel(_binary_cameras(folder / "cameras.bin"), _binary_pictures(folder / "images.bin"))
    return ColmapModel(_text_cameras(folder / "cameras.txt"), _text_pictures(folder / "images.txt"))


class _Bytes:
    """A binary file of COLMAP, read from its beginning."""

    def __init__(self, path: Path) -> None:
        self._path, self._place = path, 0
        try:
            self._data = read_bytes(path, _MOST_BYTES)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from None

    def take(self, layout: str) -> tuple[int | float, ...]:
        start, self._place = self._place, self._place + struct.calcsize(f"<{layout}")
        if self._place > len(self._data):
            raise self._cut_off()
        return struct.unpack_from(f"<{layout}", self._data, start)

    def count(self, least: int) -> int:
        """Take the number of the entries to come, each of ``least`` bytes or more."""
        number = int(self.take("Q")[0])
        if number > (len(self._data) - self._place) // least:
            raise self._cut_off()
        return number

    def text(self) -> str:
        end = self._data.find(b"\0", self._place)
        if end < 0:
            raise self._cut_off()
        raw, self._place = self._data[self._place : end], end + 1
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise _unreadable(self._path, error) from None

    def skip(self, size: int) -> None:
        self._place += size
        if self._place > len(self._data):
            raise self._cut_off()

    def end(self) -> None:
        if self._place != len(self._data):
            raise InputError(
                f"{self._path} has {len(self._data) - self._place} bytes more than its entries",
                "a binary file of COLMAP",
                "Export it again",
            )

    def _cut_off(self) -> InputError:
        return InputError(
            f"{self._path} ends after {len(self._data)} bytes, in the middle of an entry",
            "a complete binary file of COLMAP",
            "Copy it again",
        )


def _binary_cameras(path: Path) -> dict[int, ColmapCamera]:
    file = _Bytes(path)
    cameras = {}
    for _ in range(file.count(24)):
        number, model, width, height = (int(value) for value in file.take("IiQQ"))
        name = _BY_NUMBER.get(model)
        if name is None:
            raise InputError(f"{path} has a camera of the model number {model}", ", ".join(MODELS), "Export it again")
        values = file.take(f"{MODELS[name][1]}d")
        cameras[number] = ColmapCamera(name, (width, height), tuple(float(value) for value in values))
    file.end()
    return cameras


def _binary_pictures(path: Path) -> tuple[ColmapPicture, ...]:
    file = _Bytes(path)
    pictures = []
    for _ in range(file.count(73)):
        _, *pose, camera = file.take("I7dI")
        name = file.text()
        file.skip(file.count(_POINT_BYTES) * _POINT_BYTES)
        pictures.append(ColmapPicture(name, int(camera), _pose(np.array(pose, np.float64))))
    file.end()
    return tuple(pictures)


def _text_cameras(path: Path) -> dict[int, ColmapCamera]:
    cameras = {}
    for words in filter(None, _lines(path)):
        try:
            number, model, width, height = int(words[0]), words[1], int(words[2]), int(words[3])
            values = tuple(float(word) for word in words[4:])
        except (ValueError, IndexError):
            raise _not_colmap(path, words) from None
        cameras[number] = ColmapCamera(model, (width, height), values)
    return cameras


def _text_pictures(path: Path) -> tuple[ColmapPicture, ...]:
    pictures = []
    # An image without points has an empty second line, which counts.
    for words in filter(None, _lines(path)[::2]):
        try:
            pose, camera, name = np.array([float(word) for word in words[1:8]]), int(words[8]), " ".join(words[9:])
        except (ValueError, IndexError):
            raise _not_colmap(path, words) from None
        pictures.append(ColmapPicture(name, camera, _pose(pose)))
    return tuple(pictures)


def _lines(path: Path) -> list[list[str]]:
    try:
        lines = read_text(path, _MOST_TEXT).splitlines()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return [line.split() for line in lines if not line.startswith("#")]


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read ({error})", "a file of COLMAP", "Check the file")


def _not_colmap(path: Path, words: list[str]) -> InputError:
    return InputError(f"{path} has the line {' '.join(words)[:60]!r}", "a text file of COLMAP", "Export it again")


def _pose(values: Matrix) -> Matrix:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = _rotation(values[:4]), values[4:]
    return matrix


def _rotation(wxyz: Matrix) -> Matrix:
    w, x, y, z = wxyz / max(float(np.linalg.norm(wxyz)), 1e-12)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def colmap_intrinsics(camera: ColmapCamera, name: str) -> tuple[npt.NDArray[np.float64], Lens]:
    """Return K (3, 3), pixel centres at +0.5, and the lens of a camera.

    Parameters
    ----------
    name : str
        For messages.

    Raises
    ------
    InputError
        If its model is not read.
    """
    model, values = camera.model, camera.parameters
    if model not in _READ or len(values) != MODELS[model][1]:
        raise InputError(
            f"camera {name} has the model {model} with {len(values)} parameters",
            f"one of {', '.join(_READ)}",
            "Undistort the pictures (colmap image_undistorter) and import what it writes",
        )
    one_focal = model.startswith("SIMPLE") or model.startswith("RADIAL")
    fx, fy = (values[0], values[0]) if one_focal else values[:2]
    cx, cy, *rest = values[1:] if one_focal else values[2:]
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    if model.endswith("FISHEYE"):
        return K, FisheyeLens(tuple(rest))
    if "OPENCV" in model:
        k1, k2, p1, p2, *more = rest
        return K, BrownLens((k1, k2, *more[:1]), tuple(more[1:]), (p1, p2))
    return K, BrownLens(tuple(rest))
