"""Cameras of the frames: given, predicted by the model, or assumed; written as npz and JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datagen.common.documents import read_json
from datagen.common.errors import InputError
from trainer.prediction.frames import Box, Region, SourceFrame, into_square, out_of_square

FORMAT = "canonface-cameras"
Origin = Literal["given", "model", "assumed"]
_LONGEST_NAME, _MOST_BYTES = 100, 200
_HELP = "docs/prediction.md shows the format"


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
        # File systems count bytes; what is not UTF-8 in a name could not be written into the page or the tables.
        short = self.name[:_LONGEST_NAME].encode("utf-8", "ignore")[:_MOST_BYTES]
        return f"{number:06d}_{short.decode('utf-8', 'ignore')}"

    @property
    def of_image(self) -> npt.NDArray[np.float64]:
        """Intrinsics in the pixels of the original image."""
        return out_of_square(self.intrinsics, self.content, self.region)


class GivenCameras:
    """Cameras read from a file.

    The file is ``{"frames": [{"name", "width", "height", "intrinsics", "world_to_camera"}, ...]}`` as this package
    writes it (``width`` and ``height`` of the image, ``world_to_camera`` optional); one entry stands for all frames.
    Frames are found by name, or, where the first name is not found, by number.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            content = read_json(path)
            entries = content["frames"]
            self._cameras = [self._parse(entry, k) for k, entry in enumerate(entries)]
        except (OSError, KeyError, TypeError, ValueError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"cameras {path} cannot be used: {reason}", "a cameras.json", _HELP) from None
        if not self._cameras:
            raise InputError(f"cameras {path} holds no frames", "one, or one for each frame", _HELP)
        self._by_name = {name: k for k, (name, *_) in enumerate(self._cameras) if name}
        self._named: bool | None = None

    def attach(self, frame: SourceFrame, number: int) -> SourceFrame:
        """Return a frame with its camera."""
        if self._named is None:
            self._named = frame.name in self._by_name
        if len(self._cameras) == 1:
            which: int | None = 0
        elif self._named:
            which = self._by_name.get(frame.name)
        else:
            which = number if number < len(self._cameras) else None
        if which is None:
            raise InputError(f"cameras {self._path} has none for {frame.name}", "one for each frame", "Add it")
        _, size, K, pose = self._cameras[which]
        width, height = frame.original
        if abs(size[0] / size[1] - width / height) > 0.02 * width / height:
            raise InputError(
                f"cameras {self._path}: {frame.name} is {width} × {height} pixels, its camera is for {size[0]:g} × "
                f"{size[1]:g}",
                "cameras of these images (another scale will do, other proportions will not)",
                "Give the cameras that belong to them",
            )
        of_image = np.diag([width / size[0], height / size[1], 1.0]) @ K
        scaled = into_square(of_image, frame.content, frame.region)
        pose32 = None if pose is None else pose.astype(np.float32)
        return replace(frame, intrinsics=scaled.astype(np.float32), world_to_camera=pose32)

    @property
    def in_order(self) -> int | None:
        """How many there are, if frames take them by number; None if by name, or if one stands for all."""
        return len(self._cameras) if self._named is False and len(self._cameras) > 1 else None

    @staticmethod
    def _parse(
        entry: dict[str, Any], number: int
    ) -> tuple[str, tuple[float, float], npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
        K = np.array(entry["intrinsics"], np.float64)
        size = (float(entry["width"]), float(entry["height"]))
        if K.shape != (3, 3) or not _usable(K, *size) or min(K[0, 0], K[1, 1], *size) <= 0 or list(K[2]) != [0, 0, 1]:
            raise ValueError(f"frame {number} has no 3 × 3 intrinsics with focal lengths above 0, or no size")
        pose = entry.get("world_to_camera")
        if pose is not None:
            pose = np.array(pose, np.float64)
            if pose.shape != (4, 4) or not _usable(pose) or not _is_rigid(pose):
                raise ValueError(f"world_to_camera of frame {number} is not a 4 × 4 rigid transform")
        return str(entry.get("name", "")), size, K, pose


def _usable(*values: npt.ArrayLike) -> bool:
    """Whether all are finite, as float32 too."""
    with np.errstate(over="ignore"):
        return all(bool(np.isfinite(np.asarray(value).astype(np.float32)).all()) for value in values)


def _is_rigid(pose: npt.NDArray[np.float64]) -> bool:
    turn = pose[:3, :3]
    orthonormal = np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) and np.linalg.det(turn) > 0
    return orthonormal and list(pose[3]) == [0, 0, 0, 1]


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
    head = {
        "format": FORMAT,
        "convention": "OpenCV: x right, y down, z forward; x_camera = world_to_camera x_world; metres; "
        "pixel centres at +0.5",
    }
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
