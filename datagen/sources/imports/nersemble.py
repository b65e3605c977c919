"""NeRSemble 2 and its benchmark: a video a camera, with clouds of points or tracked parameters of FLAME."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datagen.common.documents import read_json
from datagen.common.errors import InputError
from datagen.common.files import read_npz
from datagen.common.names import name_problem, require_name, shown
from datagen.common.video_frames import video_index, video_size
from datagen.sources.frame import SequenceKey
from datagen.sources.imports.imported import (
    Found,
    ImportedCamera,
    ImportedFrame,
    ImportedRegistration,
    ImportedSequence,
    ImportSettings,
)
from datagen.sources.imports.numbers import SHIFT, Matrix, finite
from datagen.sources.imports.rig import ASK, sees
from datagen.sources.imports.workspace import file_inside, listed

SIZE = 2200, 3208  # width and height that K belongs to
CALIBRATION = "calibration/camera_params.json"
TRACKING = "sequences/{sequence}/tracking"
_PARTS = ("", "nvs", "mono_flame_avatar")
_VIDEO = re.compile(r"cam_(.+)\.(mp4|mkv|mov|webm|avi)")
_CLOUD = re.compile(r"frame_([0-9]{1,18})\.pcd")
_WANTED = "ID/calibration/camera_params.json and ID/sequences/SEQUENCE/images/cam_SERIAL.mp4"


def find_sequences(root: Path, settings: ImportSettings) -> Sequence[Found]:
    """Return the sequences below a folder; see :class:`datagen.sources.imports.registry.Importer`."""
    if not root.is_dir():
        raise InputError(f"{root} is not a folder", _WANTED, "Check the path")
    people = [root] + [path for part in _PARTS for path in sorted((root / part).glob("*"))]
    people = [person for person in people if (person / CALIBRATION).is_file()]
    found = []
    for person in people:
        subject = require_name(person.resolve().name, f"the person of {person}")
        for folder in sorted((person / "sequences").glob("*")):
            if _videos(folder / "images", root) and name_problem(folder.name) is None:
                read = partial(_read, person, folder.name, root, settings)
                found.append(Found(SequenceKey(subject, folder.name), person, read))
    if not found:
        raise InputError(f"{root} holds no sequence with videos and a calibration", _WANTED, "Check the path")
    return sorted(found, key=lambda one: (one.key.subject, one.key.sequence))


def _videos(folder: Path, root: Path) -> dict[str, Path]:
    matches = ((path, _VIDEO.fullmatch(path.name)) for path in sorted(folder.glob("cam_*")) if path.is_file())
    return {match[1]: file_inside(folder, path.name, root, str(folder)) for path, match in matches if match}


def read_calibration(path: Path, settings: ImportSettings) -> dict[str, ImportedCamera]:
    """Return the cameras of a ``camera_params.json``, by their serial numbers.

    Raises
    ------
    InputError
        If it cannot be read, or holds no cameras.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})", "JSON with the cameras", "Copy it again") from None
    poses = content.get("world_2_cam") if isinstance(content, dict) else None
    if not isinstance(poses, dict) or not poses:
        raise InputError(f"{path} has no `world_2_cam`", "a 4×4 matrix for each serial number", "Copy it again")
    shift = 0.5 - (settings.pixel_center or 0.0)
    return {
        require_name(serial, f"a camera of {path}"): ImportedCamera(
            serial,
            _intrinsics(content, serial, path) + shift * SHIFT,
            finite(pose, (4, 4), f"{path}: world_2_cam of {serial}"),
            SIZE,
        )
        for serial, pose in poses.items()
    }


def _intrinsics(content: Mapping[str, Any], serial: str, path: Path) -> Matrix:
    """Return K of a camera: one for all, or, in the benchmark, of each."""
    value = content.get("intrinsics")
    if isinstance(value, dict):
        value = value.get(serial)
    return finite(value, (3, 3), f"{path}: intrinsics of {serial}")


def _read(person: Path, sequence: str, root: Path, settings: ImportSettings) -> ImportedSequence:
    folder = person / "sequences" / sequence
    calibrated = read_calibration(person / CALIBRATION, settings)
    videos = _videos(folder / "images", root)
    strangers = sorted(set(videos) - set(calibrated))
    if strangers:
        raise InputError(
            f"{folder} has videos of {listed(strangers)}, which {CALIBRATION} does not know",
            "videos of calibrated cameras",
            "Move them elsewhere",
        )
    masks = {name: path for name, path in _videos(folder / "alpha_maps", root).items() if name in videos}
    missing = []
    unseen = sorted(set(calibrated) - set(videos))
    if unseen:
        missing.append(f"videos of {len(unseen)} of {len(calibrated)} cameras: {listed(unseen)}")
    odd = [name for name, path in masks.items() if _size(path) != _size(videos[name])]
    masks = {name: path for name, path in masks.items() if name not in odd}
    if odd:
        missing.append(f"alpha maps of {len(odd)} cameras, of another size than their pictures: {listed(odd)}")
    elif len(masks) < len(videos):
        missing.append(f"alpha maps of {len(videos) - len(masks)} of {len(videos)} cameras")
    clouds = _clouds(folder / "pointclouds", root)
    tracking = _tracking(person, sequence, root, settings)
    tracked = {} if tracking is None else _tracked(tracking)
    wanted = sorted(clouds) if clouds else sorted(tracked)
    if not wanted:
        raise InputError(
            f"{folder} has no surface: neither pointclouds/frame_*.pcd nor a tracking",
            "clouds or tracked FLAME parameters, which version 2 of the set brings for its benchmark only",
            "Name a tracker's .npz below the person's folder: --tracking PATH, where {sequence} is the sequence; or "
            "import what VHAP made of it (vhap)",
        )
    lengths = {name: len(video_index(path).times) for name, path in {**videos, **masks}.items()}
    shortest = min(lengths.values())
    frames = [frame for frame in wanted if frame < shortest]
    if len(frames) < len(wanted):
        missing.append(f"pictures of {len(wanted) - len(frames)} of {len(wanted)} frames: a video ends at {shortest}")
    if not frames:
        raise InputError(f"{folder}: no video reaches frame {wanted[0]}", "videos of the sequence", "Copy them again")
    registered = tracking is not None and all(frame in tracked for frame in frames)
    if tracking is not None and not registered:
        missing.append(f"tracked parameters of {sum(frame not in tracked for frame in frames)} frames: none are used")
    seconds = video_index(next(iter(videos.values()))).seconds
    times = [frame / settings.fps if settings.fps else float(seconds[frame]) for frame in frames]
    made = tuple(
        ImportedFrame(
            frame,
            time - times[0],
            clouds[frame] if clouds else None,
        )
        for frame, time in zip(frames, times, strict=True)
    )
    cameras = tuple(calibrated[name] for name in sorted(videos))
    shift = 0.5 - (settings.pixel_center or 0.0)
    remarks = [
        f"taken for granted: K for pixel centres at {0.5 - shift:g} (--pixel-center), lengths in "
        f"{settings.unit or 'm'} (--unit), times as the videos have them (--fps)",
        *(_doubt(tracked, frames[0], cameras) if registered and not clouds else ()),
    ]
    if (person / "calibration" / "color_calibration.json").is_file():
        remarks.append("the colour calibration is not applied: it is of linear light, with further terms in places")
    registration = ImportedRegistration(head="flame", kind="parameters", file=tracking) if registered else None
    return ImportedSequence(
        cameras,
        made,
        settings.unit or "m",
        registration=registration,
        videos={"images": videos, "masks": masks},
        missing=tuple(missing),
        remarks=tuple(remarks),
    )


def _size(path: Path) -> tuple[int, int]:
    return video_size(path, orientation="stored", ask=ASK)


def _clouds(folder: Path, root: Path) -> dict[int, Path]:
    matches = ((path, _CLOUD.fullmatch(path.name)) for path in sorted(folder.glob("frame_*.pcd")))
    return {int(match[1]): file_inside(folder, path.name, root, str(folder)) for path, match in matches if match}


def _tracking(person: Path, sequence: str, root: Path, settings: ImportSettings) -> Path | None:
    if settings.tracking is not None:
        path = file_inside(person, settings.tracking.replace("{sequence}", sequence), root, "--tracking")
        if not path.is_file():
            raise InputError(f"{path} is missing", "the file that --tracking names", "Check --tracking")
        return path
    folder = person / TRACKING.format(sequence=sequence)
    # The newest version of several.
    found = sorted(folder.glob("*.npz"), key=lambda path: path.stem)
    return file_inside(folder, found[-1].name, root, str(folder)) if found else None


def _tracked(path: Path) -> dict[int, Matrix]:
    """Return the place of the head in each frame that was tracked."""
    read = partial(read_npz, path, expected="tracked parameters of FLAME", fix="Copy it again")
    found = read()
    places = np.asarray(found.get("translation", found.get("transl", np.zeros(0))))
    if places.ndim != 2 or places.shape[1] != 3 or places.dtype.kind != "f" or not np.isfinite(places).all():
        raise InputError(
            f"{path} has no translation of 3 numbers a frame", "tracked parameters of FLAME", "Check the file"
        )
    numbers = np.asarray(found.get("frames", np.arange(len(places))))
    if numbers.shape != (len(places),) or numbers.dtype.kind not in "iu" or (numbers < 0).any():
        raise InputError(f"{path}: frames is {shown(numbers.tolist())}", "a number a row", "Check the file")
    return {int(number): place.astype(np.float64) for number, place in zip(numbers, places, strict=True)}


def _doubt(tracked: Mapping[int, Matrix], frame: int, cameras: Sequence[ImportedCamera]) -> tuple[str, ...]:
    seen = sum(sees(camera.K, camera.size, camera.world_to_camera, tracked[frame]) for camera in cameras)
    if 2 * seen >= len(cameras):
        return ()
    return (f"doubtful: {len(cameras) - seen} of {len(cameras)} cameras do not see where the tracked head is",)
