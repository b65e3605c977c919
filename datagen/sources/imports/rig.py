"""The cameras of an import as the capture declares them: of the size of their pictures, with their lens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CameraError, InputError
from datagen.common.pictures import picture_size
from datagen.common.settings import parse
from datagen.common.video_frames import video_size
from datagen.geometry.lens_models import model_of
from datagen.sources.camera_entry import CameraEntry, RecordedCamera, recorded_camera
from datagen.sources.imports.archives import Unpacked
from datagen.sources.imports.imported import ImportedCamera, ImportedSequence, Kind

ASK = "Save the pictures without an EXIF turn, as the calibration saw them"
# Of a picture that was scaled: its sides may have been rounded.
_ROUNDING = 1.0

Size = tuple[int, int]


@dataclass(frozen=True)
class RigCamera:
    """A camera as ``capture.json`` has it, and as its pictures will be read; lengths in the capture's unit."""

    name: str
    entry: CameraEntry
    recorded: RecordedCamera


def recorded_rig(
    sequence: ImportedSequence, files: Unpacked, scale: float, remarks: list[str]
) -> tuple[RigCamera, ...]:
    """Return the cameras, each of the size that its pictures have; remarks are added to.

    Raises
    ------
    CameraError
        If one is none, or its pictures are cropped or turned.
    InputError
        If pictures of one camera differ in size, or cannot be read.
    """
    return tuple(_recorded(camera, sequence, files, scale, remarks) for camera in sequence.cameras)


def sees(
    K: npt.NDArray[np.float64], size: Size, world_to_camera: npt.NDArray[np.float64], place: npt.NDArray[np.float64]
) -> bool:
    """Whether a point lies in front of a camera, and in its picture."""
    x, y, z = K @ (world_to_camera[:3, :3] @ place + world_to_camera[:3, 3])
    return bool(z > 0 and 0 <= x / z <= size[0] and 0 <= y / z <= size[1])


def _recorded(
    source: ImportedCamera, sequence: ImportedSequence, files: Unpacked, scale: float, remarks: list[str]
) -> RigCamera:
    sizes = _sizes("images", source.name, sequence, files)
    masks = _sizes("masks", source.name, sequence, files)
    size = next(iter(sizes or masks), source.size)
    # Masks may be a smaller copy, but for those of videos, which stay as they are.
    fixed = source.name in sequence.videos.get("masks", {})
    others = {other: file for other, file in masks.items() if fixed or not _alike(other, size)}
    odd = [*sizes.items(), *((other, file) for other, file in others.items() if other != size)]
    if len(odd) > 1:
        (one, first), (other, second), *_ = odd
        raise InputError(
            f"{first} is {one[0]}×{one[1]} and {second} {other[0]}×{other[1]} pixels, of one camera",
            "pictures and masks of one size for each camera",
            "Export them again",
        )
    if any(other != size for other in masks):
        said = "masks of another size than their pictures are resized"
        remarks += [] if said in remarks else [said]
    factors = np.array(size) / source.size
    if not _alike(size, source.size):
        raise CameraError(
            f"{sizes[size]} is {size[0]}×{size[1]} pixels, but camera {source.name} was calibrated for "
            f"{source.size[0]}×{source.size[1]}",
            "pictures of the calibrated size, or scaled as a whole",
            "Import the pictures that were calibrated, neither cropped nor turned",
        )
    K = np.array(source.K, np.float64)
    # With pixel centres at +0.5 a scaled picture has K scaled, the principal point too.
    K[0] *= factors[0]
    K[1] *= factors[1]
    if size != source.size:
        said = f"K of {source.size[0]}×{source.size[1]} is scaled to the pictures, which are {size[0]}×{size[1]}"
        if said not in remarks:
            remarks.append(said)
    lens: dict[str, Any] | None = None
    if not source.lens.is_straight:
        model, parameters = model_of(source.lens)
        lens = {"model": model, "parameters": parameters}
    numbers = [frame.index for frame in sequence.frames]
    poses = [_scaled(source.poses[number], scale) for number in numbers] if source.poses else None
    content = {
        "K": K.tolist(),
        "world_to_camera": _scaled(source.world_to_camera, scale) if poses is None else None,
        "poses": poses,
        "width": size[0],
        "height": size[1],
        "distortion": lens,
        "color": None if source.color is None else source.color.tolist(),
    }
    where = f"camera {source.name}"
    entry = parse(CameraEntry, content, where, "Check the calibration", "finite numbers of a camera", CameraError)
    return RigCamera(
        source.name, entry, recorded_camera(source.name, entry, numbers, metres=1.0, pixel_center=0.5, name=where)
    )


def _alike(size: Size, other: Size) -> bool:
    """Whether one picture may be a scaled copy of another, whose sides were rounded to whole pixels."""
    factor = size[0] / other[0]
    return abs(factor * other[1] - size[1]) <= _ROUNDING * max(factor, 1.0)


def _sizes(kind: Kind, name: str, sequence: ImportedSequence, files: Unpacked) -> dict[Size, Any]:
    """Return the sizes of a camera's pictures, or masks, each with one of the files."""
    taken = [named[name] for frame in sequence.frames if name in (named := getattr(frame, kind))]
    sizes: dict[Size, Any] = {picture_size(files.path(file), orientation="stored", ask=ASK): file for file in taken}
    path = sequence.videos.get(kind, {}).get(name)
    if path is not None:
        sizes[video_size(path, orientation="stored", ask=ASK)] = path
    return sizes


def _scaled(pose: npt.NDArray[np.float64], factor: float) -> list[list[float]]:
    moved = np.array(pose, np.float64)
    moved[:3, 3] *= factor
    return moved.tolist()
