"""NeRSemble 1: a folder for each frame, with pictures, alpha maps and depth maps of the cameras."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.names import name_problem, require_name
from datagen.sources.frame import SequenceKey
from datagen.sources.imports.imported import (
    Found,
    ImportedCamera,
    ImportedDepth,
    ImportedFrame,
    ImportedSequence,
    ImportSettings,
)
from datagen.sources.imports.nersemble import read_calibration
from datagen.sources.imports.workspace import file_inside, listed, whole_frames

FPS = 73.0
CALIBRATION = "camera_params.json"
# A file holds whole numbers of these, and 1 more: 0 is no depth.
STEP_M = 2 / 65534
# As the set's code reads them, and as its description has them.
_IMAGES = ("images-2x-73fps", "images-2x")
_MASKS = ("alpha_map-73fps", "alpha_map")
_DEPTHS = ("colmap-73fps/depth_maps_compressed", "colmap/depth_maps_compressed")
_FRAME = re.compile(r"frame_([0-9]{1,18})")
_FILE = re.compile(r"cam_(.+)\.(png|jpg|jpeg)")
_WANTED = f"ID/{CALIBRATION} and ID/sequences/SEQUENCE/frame_00000/images-2x-73fps/cam_SERIAL.png"


def find_sequences(root: Path, settings: ImportSettings) -> Sequence[Found]:
    """Return the sequences below a folder; see :class:`datagen.sources.imports.registry.Importer`."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder", _WANTED, "Check the path")
    people = [person for person in (root, *sorted(root.glob("*"))) if (person / CALIBRATION).is_file()]
    found = []
    for person in people:
        subject = require_name(person.resolve().name, f"the person of {person}")
        for folder in sorted((person / "sequences").glob("*")):
            if next(folder.glob("frame_*"), None) is not None and name_problem(folder.name) is None:
                read = partial(_read, person, folder, root, settings)
                found.append(Found(SequenceKey(subject, folder.name), person, read))
    if not found:
        raise InputError(f"{root} holds no sequence with frames and a calibration", _WANTED, "Check the path")
    return sorted(found, key=lambda one: (one.key.subject, one.key.sequence))


def _read(person: Path, folder: Path, root: Path, settings: ImportSettings) -> ImportedSequence:
    calibrated = read_calibration(person / CALIBRATION, settings)
    places = sorted((int(match[1]), path) for path in folder.iterdir() if (match := _FRAME.fullmatch(path.name)))
    kinds: list[dict[str, dict[int, Path]]] = []
    for folders in (_IMAGES, _MASKS, _DEPTHS):
        by_frame = {number: _files(place, folders, root) for number, place in places}
        kinds.append(
            {
                serial: {number: files[serial] for number, files in by_frame.items() if serial in files}
                for serial in calibrated
            }
        )
    pictures, masks, depths = kinds
    missing = []
    for what, found in (("pictures", pictures), ("alpha maps", masks), ("depth maps", depths)):
        unseen = sorted(serial for serial, files in found.items() if not files)
        if unseen:
            missing.append(f"{what} of {len(unseen)} of {len(found)} cameras: {listed(unseen)}")
    frames, measured, said = whole_frames([number for number, _ in places], depths)
    if not frames:
        raise InputError(
            f"{folder} has no frame with depth maps, which are its surface",
            "colmap-73fps/depth_maps_compressed/cam_SERIAL.png",
            "Download them too; of depth_maps_geometric (.npz) nothing is read",
        )
    remarks = [remark.replace("a camera has no picture", "a camera has no depth map") for remark in said]
    frames, used, said = whole_frames(frames, pictures)
    if not frames:
        raise InputError(f"{folder} has no frame with depth maps and pictures", _WANTED, "Download the pictures too")
    rate = settings.fps or FPS
    masked = [serial for serial in used if all(frame in masks[serial] for frame in frames)]
    made = tuple(
        ImportedFrame(
            frame,
            (frame - frames[0]) / rate,
            None,
            {serial: pictures[serial][frame] for serial in used},
            {serial: masks[serial][frame] for serial in masked},
            {serial: depths[serial][frame] for serial in measured},
        )
        for frame in frames
    )
    shift = settings.pixel_center or 0.0
    remarks += [
        *said,
        f"taken for granted: {rate:g} frames a second (--fps), K for pixel centres at {shift:g} (--pixel-center), "
        f"lengths in {settings.unit or 'm'} (--unit), depth along the optical axis in steps of {STEP_M * 1e3:.4f} mm",
    ]
    corrections = person / "annotations" / folder.name / "color_correction"
    cameras = [_camera(calibrated[serial], corrections, root) for serial in sorted({*used, *measured})]
    plain = [camera.name for camera in cameras if camera.color is None]
    if plain:
        missing.append(f"colour corrections of {len(plain)} of {len(cameras)} cameras: {listed(plain)}")
    depth = ImportedDepth(metres_per_step=STEP_M, offset_steps=-1)
    return ImportedSequence(
        tuple(cameras), made, settings.unit or "m", depth=depth, missing=tuple(missing), remarks=tuple(remarks)
    )


def _files(place: Path, folders: Sequence[str], root: Path) -> dict[str, Path]:
    """Return the files of a frame, by the cameras' serial numbers."""
    for name in folders:
        folder = place / name
        if not folder.is_dir():
            continue
        # Depth maps may be a level further down, in a folder named after the number of cameras.
        below = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdigit())
        for one in (folder, *below):
            matches = ((path, _FILE.fullmatch(path.name)) for path in sorted(one.iterdir()) if path.is_file())
            found = {match[1]: file_inside(one, path.name, root, str(one)) for path, match in matches if match}
            if found:
                return found
    return {}


def _camera(camera: ImportedCamera, corrections: Path, root: Path) -> ImportedCamera:
    path = corrections / f"{camera.name}.npy"
    if not path.is_file():
        return camera
    file_inside(corrections, path.name, root, str(corrections))
    try:
        color: npt.NDArray[np.float64] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error})", "a 3×4 matrix", "Copy it again") from None
    if color.shape not in {(3, 4), (4, 4)} or color.dtype.kind != "f" or not np.isfinite(color).all():
        raise InputError(f"{path} has the shape {color.shape}", "a 3×4 matrix of finite numbers", "Copy it again")
    K, pose, size = camera.K, camera.world_to_camera, camera.size
    return ImportedCamera(camera.name, K, pose, size, camera.lens, color=color[:3].astype(np.float64))
