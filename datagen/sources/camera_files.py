"""Which files a frame of the folder layout consists of, and which lie there as if they were of it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from string import Formatter

from datagen.common.errors import InputError
from datagen.geometry.camera import Camera
from datagen.sources.camera_entry import RecordedCamera
from datagen.sources.capture_file import CAPTURE_FILE, CaptureFile

PICTURES = ("images", "masks")
DEPTH = "depth"
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".avif", ".heic", ".exr")
LONGEST_PART = 255  # bytes of a file's or folder's name


def inside(folder: Path, pattern: str, **names: object) -> Path:
    path = folder / pattern.format(**names)
    if any(len(os.fsencode(part)) > LONGEST_PART for part in path.parts):
        raise InputError(
            f"the pattern {pattern!r} makes names longer than a file may have, such as {path.name[:60]}…",
            f"at most {LONGEST_PART} bytes a file or folder",
            "Shorten the name of the camera, or the pattern",
        )
    # The pattern cannot climb out (checked in capture.json), but a link could lead out.
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{path} leads outside its sequence folder, to {path.resolve()}",
            "files inside the sequence folder",
            "Copy the file, or link the whole sequence folder instead",
        )
    return path


def stamp_of(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def camera_files(
    folder: Path, capture: CaptureFile, kind: str, rig: tuple[RecordedCamera, ...], index: int
) -> dict[str, tuple[Path, RecordedCamera]]:
    """Return the files of those cameras that have any, in any frame: the others have no images, which is allowed."""
    pattern = pattern_of(capture, kind)
    if pattern is None:
        return {}
    like = _pictures_like(folder, capture, kind, index, frozenset(one.stored.name for one in rig))
    found = {}
    for one in rig:
        camera = one.stored
        path = inside(folder, pattern, frame=index, camera=camera.name)
        if path.is_file():
            found[camera.name] = path, one
        elif path.parent.is_dir() and camera.name in path.parent.relative_to(folder).parts:
            raise _no_file(path, camera, "or remove the camera's whole image folder")
        elif any((folder / pattern.format(frame=frame, camera=camera.name)).is_file() for frame in capture.frames):
            raise _no_file(path, camera, f"or remove all {kind} of the camera")
        elif camera.name in like:
            raise _no_file(path, camera, f"or correct `{kind}` in {CAPTURE_FILE}: there is {like[camera.name]!r}")
    if not found:
        raise InputError(
            f"frame {index} has none of the {kind} that {CAPTURE_FILE} promises, such as "
            f"{inside(folder, pattern, frame=index, camera=rig[0].stored.name)}",
            f"files named {pattern}",
            f"Restore them, or leave `{kind}` out of {CAPTURE_FILE}",
        )
    return found


def pattern_of(capture: CaptureFile, kind: str) -> str | None:
    """Return the pattern of the cameras' files of a kind, None if there are none."""
    if kind == DEPTH:
        return capture.depth.pattern if capture.depth is not None else None
    pattern: str | None = getattr(capture, kind)
    return pattern


def _no_file(path: Path, camera: Camera, other: str) -> InputError:
    return InputError(
        f"{path} is missing",
        f"a file for every frame of camera {camera.name}",
        f"Restore it, take the frame out of `frames`, {other}",
    )


def _pictures_like(
    folder: Path, capture: CaptureFile, kind: str, index: int, cameras: frozenset[str]
) -> Mapping[str, str]:
    """Return the cameras that have files of other frames' numbers or another suffix, each with one of them.

    Only where cameras share a folder. Folders and files that are named as if they were of a camera we lack are refused.
    """
    parts = PurePosixPath(str(pattern_of(capture, kind))).parts
    level = next(k for k, part in enumerate(parts) if "{camera" in part)
    place = folder.joinpath(*(part.format(frame=index) for part in parts[:level]))
    own_folders = level + 1 < len(parts)
    like = _named_like(place, stamp_of(place), parts[level], own_folders)
    texture = _texture(capture, parts[:level]) if not own_folders else None
    strangers = sorted(name for name in like.keys() - cameras if texture is None or not texture.match(like[name]))
    if own_folders and strangers:
        known = _folders_of_others(capture, kind, index, parts[:level])
        strangers = [name for name in strangers if like[name] not in known]
        if level == 0:
            # Beside capture.json anything may lie, but for what looks like a camera's pictures.
            strangers = [name for name in strangers if _holds_pictures(place / name, stamp_of(place / name))]
    elif strangers:
        known = _files_of_others(capture, kind, index, place, parts[:level], cameras)
        strangers = [name for name in strangers if like[name] not in known]
    if strangers:
        raise _of_strangers(place, kind, strangers, cameras)
    return {} if own_folders else like


def _of_strangers(place: Path, kind: str, strangers: list[str], cameras: frozenset[str]) -> InputError:
    near = difflib.get_close_matches(strangers[0].casefold(), [camera.casefold() for camera in cameras], 1, 0)
    nearest = next(camera for camera in sorted(cameras) if camera.casefold() == near[0])
    return InputError(
        f"{place} has {kind} of {strangers[0]!r}, which is no camera of {CAPTURE_FILE}"
        + (f" (and {len(strangers) - 1} more such)" if len(strangers) > 1 else ""),
        f"{kind} of its {len(cameras)} cameras only; the nearest name is {nearest!r}",
        "Rename one of the two (capitals count), add the camera, or move the files elsewhere",
    )


def optional_files(
    folder: Path, pattern: str, kind: str, rig: tuple[RecordedCamera, ...], index: int
) -> dict[str, Path]:
    """Return the files of a frame that single cameras may lack, by camera.

    Raises
    ------
    InputError
        If the frame has such a file of a camera that we lack: it would be passed over without a word.
    """
    cameras = frozenset(one.stored.name for one in rig)
    files = {name: inside(folder, pattern, frame=index, camera=name) for name in sorted(cameras)}
    parts = PurePosixPath(pattern).parts
    level = next(k for k, part in enumerate(parts) if "{camera" in part)
    place = folder.joinpath(*(part.format(frame=index) for part in parts[:level]))
    like = _named_like(place, stamp_of(place), parts[level], level + 1 < len(parts))
    strangers = [name for name in like.keys() - cameras if inside(folder, pattern, frame=index, camera=name).is_file()]
    if strangers:
        raise _of_strangers(place, kind, sorted(strangers), cameras)
    return {one.stored.name: files[one.stored.name] for one in rig if files[one.stored.name].is_file()}


def _files_of_others(
    capture: CaptureFile, kind: str, index: int, place: Path, above: tuple[str, ...], cameras: frozenset[str]
) -> set[str]:
    """Return the files at a place that are masks or depth maps of our cameras, where they lie beside the pictures."""
    others = (pattern_of(capture, other) for other in (*PICTURES, DEPTH) if other != kind)
    parts = [PurePosixPath(text).parts for text in others if text]
    start = [part.format(frame=index) for part in above]
    beside = [one[-1] for one in parts if [part.format(frame=index, camera="") for part in one[:-1]] == start]
    found = [_named_like(place, stamp_of(place), name, False) for name in beside]
    return {file for named in found for camera, file in named.items() if camera in cameras}


def _folders_of_others(capture: CaptureFile, kind: str, index: int, above: tuple[str, ...]) -> set[str]:
    """Return the folders at a place that hold scans, landmarks and the like, and may hold textures with them."""
    registration = capture.registration.pattern if capture.registration else None
    landmarks = capture.landmarks.pattern if capture.landmarks else None
    pictures = (pattern_of(capture, other) for other in (*PICTURES, DEPTH) if other != kind)
    others = (capture.scan, registration, landmarks, *capture.evidence_patterns, *pictures)
    patterns = [text for text in others if text]
    filled = [PurePosixPath(text.format(frame=index, camera="")).parts for text in patterns]
    start = [part.format(frame=index) for part in above]
    return {parts[len(start)] for parts in filled if len(parts) > len(start) + 1 and list(parts[: len(start)]) == start}


def _texture(capture: CaptureFile, above: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return what the names of the scans' textures begin with, where scans lie beside the pictures."""
    scan = PurePosixPath(capture.scan)
    if scan.parent.parts != above:
        return None
    pieces = Formatter().parse(scan.stem)
    return re.compile("".join(re.escape(text) + ("[0-9]+" if name else "") for text, name, _, _ in pieces) + r"\.")


@lru_cache(maxsize=1024)
def _holds_pictures(folder: Path, _stamp: tuple[int, int]) -> bool:
    """Whether there are numbered pictures below a folder."""
    for _, _, names in os.walk(folder):
        if any(name.lower().endswith(PICTURE_SUFFIXES) and re.search("[0-9]", name) for name in names):
            return True
    return False


@lru_cache(maxsize=1024)
def _named_like(place: Path, _stamp: tuple[int, int], part: str, folders: bool) -> Mapping[str, str]:
    # Kept as long as the folder's time stamp, which changes with its entries, says that it lists the same.
    if not place.is_dir():
        return {}
    stem, suffix = os.path.splitext(part)
    any_suffix = not folders and suffix.lower() in PICTURE_SUFFIXES
    names = {"camera": "(?P<camera>.+)", "frame": "[0-9]+", None: ""}
    pieces = Formatter().parse(stem if any_suffix else part)
    expression = "".join(re.escape(text) + names.get(name, ".*") for text, name, _, _ in pieces)
    # A name that a pattern gives twice is the same both times.
    first, group, rest = expression.partition(names["camera"])
    expression = first + group + rest.replace(names["camera"], "(?P=camera)")
    wanted = re.compile(expression + (f"(?i:{'|'.join(map(re.escape, PICTURE_SUFFIXES))})" if any_suffix else ""))
    entries = sorted(entry.name for entry in os.scandir(place) if entry.is_dir() == folders)
    matches = (wanted.fullmatch(name) for name in entries if not name.startswith("."))
    return {match["camera"]: match[0] for match in matches if match}


def landmark_files(folder: Path, capture: CaptureFile, rig: tuple[RecordedCamera, ...], index: int) -> dict[str, Path]:
    """Return the landmark file of a frame, or of those cameras that have one by their names."""
    entry = capture.landmarks
    if entry is None:
        return {}
    if entry.kind == "3d":
        return {"": inside(folder, entry.pattern, frame=index)}
    return optional_files(folder, entry.pattern, "landmarks", rig, index)
