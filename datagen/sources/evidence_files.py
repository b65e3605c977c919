"""What programs saw in the pictures of a capture: which files tell it, and what they hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from datagen.common.errors import InputError
from datagen.common.seen_points import SeenPoints, read_seen_points
from datagen.geometry.camera import Camera
from datagen.sources.camera_entry import RecordedCamera
from datagen.sources.camera_files import inside, optional_files
from datagen.sources.capture_file import CAPTURE_FILE, CaptureFile


def evidence_files(
    folder: Path, capture: CaptureFile, rig: tuple[RecordedCamera, ...], index: int
) -> Mapping[str, tuple[Path, ...]]:
    """Return the files of seen points of a frame by camera; those of single views, or of the frame, may be missing.

    Raises
    ------
    InputError
        If a pattern leads to no file of any frame: it is mistyped, or nothing was looked at yet. If the frame has a
        file of a camera that the capture lacks.
    """
    found: dict[str, tuple[Path, ...]] = {}
    names = [one.stored.name for one in rig]
    for pattern in capture.evidence_patterns:
        there = optional_files(folder, pattern, "evidence", rig, index)
        if not there and not _any_file(folder, capture, pattern, names):
            raise InputError(
                f"there is none of the evidence that {CAPTURE_FILE} promises, such as "
                f"{inside(folder, pattern, frame=index, camera=names[0])}",
                f"files named {pattern}, of some cameras and frames",
                f"Make them, correct the pattern, or leave it out of `evidence` in {CAPTURE_FILE}",
            )
        for name, path in there.items():
            found[name] = (*found.get(name, ()), path)
    return found


def _any_file(folder: Path, capture: CaptureFile, pattern: str, names: list[str]) -> bool:
    return any(
        (folder / pattern.format(frame=frame, camera=name)).is_file() for frame in capture.frames for name in names
    )


def evidence_readers(
    files: Mapping[str, tuple[Path, ...]], cameras: tuple[Camera, ...]
) -> dict[str, Callable[[], tuple[SeenPoints, ...]]]:
    """Return what reads the files of each camera that has any."""
    by_name = {camera.name: camera for camera in cameras}
    return {name: partial(_read, paths, by_name[name]) for name, paths in files.items()}


def _read(paths: tuple[Path, ...], camera: Camera) -> tuple[SeenPoints, ...]:
    found = tuple(read_seen_points(path) for path in paths)
    for path, points in zip(paths, found, strict=True):
        if (points.width, points.height) != (camera.width, camera.height):
            raise InputError(
                f"{path} tells of a picture of {points.width} x {points.height} px",
                f"one of {camera.width} x {camera.height} px, as camera {camera.name} has",
                "Look at the pictures as they are now, or leave the file out",
            )
    return found
