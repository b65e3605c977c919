"""What a folder of pictures and scans says about itself, as far as a ``capture.json`` can be written from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datagen.common.errors import InputError, printable
from datagen.common.pictures import picture_size
from datagen.common.video_frames import video_size
from datagen.geometry.landmarks import declared_unit, read_landmarks, states_unit
from datagen.geometry.mesh_io import MESH_KINDS, SUFFIXES, read_mesh
from datagen.heads.registry import HEADS
from datagen.sources.calibration import (
    Calibrated,
    Calibration,
    read_colmap_calibration,
    read_json_calibration,
    read_opencv_calibration,
)
from datagen.sources.camera_files import PICTURE_SUFFIXES
from datagen.sources.capture_file import CAPTURE_FILE
from datagen.sources.file_patterns import FilePattern, camera_patterns, frame_patterns
from datagen.sources.rig_size import HEAD, RIG, Extent, camera_factor, extent_of, viewing_distance
from datagen.sources.video_patterns import VIDEOS, video_pattern

PICTURES_READ = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".avif", ".heic")
_REGISTERED = re.compile(r"regist|track|fitted|topolog|template|retopo|flame", re.IGNORECASE)
_MASK = re.compile(r"mask|matte|silhouette|segment", re.IGNORECASE)
_LANDMARKS = re.compile(r"landmark|lmk|points|marks", re.IGNORECASE)
_CALIBRATION = re.compile(r"calib|camera|\brig\b|intrinsic|extrinsic", re.IGNORECASE)
_OTHER_CALIBRATIONS = (".xml", ".xmp", ".cal", ".tka", ".bundle", ".out", ".npy")
_OTHER_LANDMARKS = (".pp", ".fcsv", ".pts", ".ljson", ".lmk")
_LANDMARK_TABLES = (".txt", ".csv", ".npy")
_CAMERA_WORDS = re.compile(r"^(camera|cam|view|c(?=\d))")
_SHOWN = 3
_LEAST_CAMERAS = 2  # of pictures alone: one picture hardly tells depth


@dataclass(frozen=True)
class Answers:
    """What only the user knows; None for what is still to be asked.

    Attributes
    ----------
    unit, camera_unit : str or None
        Of the scans; of the cameras' translations, where it is another.
    fps : float or None
        Frames a second.
    pixel_center : float or None
        0.5 or 0.
    scan : str or None
        Pattern of the scans, where several sets of meshes lie there.
    calibration : Path or None
        JSON file, or folder with files of COLMAP or OpenCV, where the sequence's own folder has none.
    """

    unit: str | None = None
    camera_unit: str | None = None
    fps: float | None = None
    pixel_center: float | None = None
    scan: str | None = None
    calibration: Path | None = None


@dataclass(frozen=True)
class Survey:
    """What was found of one sequence.

    Attributes
    ----------
    scans : FilePattern or None
        None for pictures alone.
    pictures : FilePattern
    masks, landmarks, registrations : FilePattern or None
        None where there are none, or not for every frame.
    registration_head : str or None
        Head model whose number of vertices the registrations have.
    frames : tuple of int
        Those that have everything.
    sizes : mapping of str to (int, int)
        Width and height of each camera's pictures, as stored.
    calibrated : mapping of str to Calibrated
        By the name of the pictures' camera.
    calibration : Calibration or None
    calibration_file : str
    extent : Extent or None
        Of the first scan, or of the rig where there is none; None where nothing tells it.
    camera_factor : float
        What the cameras' translations have to be multiplied by, for them to see that scan; 1 where they do.
    turned : bool
        Whether pictures have an EXIF turn.
    landmark_unit : str or None
    remarks : tuple of str
        What was not used, and why; what was taken for granted.
    """

    scans: FilePattern | None
    pictures: FilePattern
    frames: tuple[int, ...]
    sizes: Mapping[str, tuple[int, int]]
    extent: Extent | None
    masks: FilePattern | None = None
    landmarks: FilePattern | None = None
    registrations: FilePattern | None = None
    registration_head: str | None = None
    calibrated: Mapping[str, Calibrated] = field(default_factory=dict)
    calibration: Calibration | None = None
    calibration_file: str = ""
    camera_factor: float = 1.0
    turned: bool = False
    landmark_unit: str | None = None
    remarks: tuple[str, ...] = ()


class _Room:
    """The files of one sequence folder, sorted by kind."""

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        self.folder, self.files = folder, files
        self.remarks: list[str] = []
        self.used: set[str] = set()
        self.meshes = self.of(SUFFIXES)
        textures = self.textures = _textures(folder, files)
        found = [path for path in self.of(PICTURES_READ) if path not in textures]
        self.masks = [path for path in found if _MASK.search(path)]
        self.pictures = [path for path in found if not _MASK.search(path)]
        films = self.of(VIDEOS)
        self.mask_videos = [path for path in films if _MASK.search(path)]
        self.videos = [path for path in films if not _MASK.search(path)]
        if textures:
            self.say(f"not used: {_named(sorted(textures))}, which are the scans' textures")
            self.used |= textures
        other = [path for path in self.of(PICTURE_SUFFIXES) if not path.lower().endswith(PICTURES_READ)]
        if other:
            self.say(f"not used: {_named(other)}, of a kind that is not read; convert them to PNG or JPEG")
            self.used.update(other)

    def of(self, suffixes: Iterable[str]) -> list[str]:
        """Return the files with one of these suffixes."""
        return [path for path in self.files if path.lower().endswith(tuple(suffixes))]

    def say(self, remark: str) -> None:
        """Keep a remark for the user."""
        self.remarks.append(printable(remark))

    def take(self, pattern: FilePattern) -> FilePattern:
        """Note that a pattern's files are used."""
        self.used.update(pattern.files.values())
        return pattern


def survey(folder: Path, files: Sequence[str], above: Sequence[Path] = (), answers: Answers | None = None) -> Survey:
    """Look at the files of one sequence.

    Parameters
    ----------
    folder : Path
        Of the sequence.
    files : sequence of str
        All below it, relative, with ``/``.
    above : sequence of Path
        Files of the folders around it, which may be a calibration that sequences share.
    answers : Answers, optional

    Raises
    ------
    InputError
        If it has no pictures, their numbers and those of the scans do not agree, or it is not clear which are the
        scans; without scans, if it has pictures of fewer than two cameras.
    """
    room, answers = _Room(folder, files), answers or Answers()
    scans = room.take(_scans(room, answers.scan)) if room.meshes or answers.scan else None
    numbered = scans.frames if scans else None
    calibration, calibration_file = _json_calibration(room, above, answers.calibration)
    known = tuple(calibration.cameras) if calibration else ()
    found = camera_patterns(room.pictures, known, numbered or ())
    filmed = None if found else video_pattern(folder, room.videos, known, numbered)
    if filmed is not None:
        found = [filmed]
        room.say(
            "frame numbers are those of the videos, counted from 0; if their first has another, such as 1, write "
            '"video": {"first": 1}'
        )
    if not found:
        raise _no_pictures(room, list(scans.files.values()) if scans else [])
    pictures = room.take(found[0])
    for pattern in found[1:]:
        room.take(pattern)
        # Whatever looks like a camera's pictures and is none, the reader refuses.
        room.say(
            f"not used: {len(pattern.files)} pictures named {pattern.text}; if `datagen check` takes them for a "
            "camera's, move them elsewhere"
        )
    if scans is None and len(pictures.cameras) < _LEAST_CAMERAS:
        raise _one_camera(room, pictures)
    frames = _common_frames(room, scans, pictures)
    if calibration is None:
        calibration, calibration_file = _text_calibration(room, pictures, answers.calibration)
    calibrated = _matched(room, calibration, pictures.cameras)
    sizes, turned = _sizes(folder, pictures)
    for camera, one in calibrated.items():
        if one.size not in (None, sizes[camera]) and not turned:
            width, height = one.size or (0, 0)
            room.say(
                f"camera {camera} was calibrated for {width}×{height}, but its pictures have "
                f"{sizes[camera][0]}×{sizes[camera][1]}: K must be scaled with them"
            )
    masks = next(iter(camera_patterns(room.masks, pictures.cameras, frames)), None)
    masks = masks or video_pattern(folder, room.mask_videos, pictures.cameras, frames)
    if masks is not None:
        masks = _whole(room, "masks", room.take(masks), frames, pictures.cameras)
    landmarks, landmark_unit = _landmarks(room, frames)
    registrations, head = _registrations(room, frames)
    mesh = read_mesh(folder / scans.files["", frames[0]], need_faces=False) if scans else None
    distance = viewing_distance(calibrated) if scans is None else None
    remaining = [path for path in files if path not in room.used and path != CAPTURE_FILE]
    if remaining:
        room.say(f"not used: {_named(remaining)}")
    return Survey(
        scans,
        pictures,
        frames,
        sizes,
        Extent(extent_of(mesh), HEAD) if mesh else Extent(distance, RIG) if distance else None,
        masks,
        landmarks,
        registrations,
        head,
        calibrated,
        calibration,
        calibration_file,
        camera_factor(mesh, calibrated, sizes) if mesh else 1.0,
        turned,
        landmark_unit,
        tuple(room.remarks),
    )


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more


def _textures(folder: Path, files: Sequence[str]) -> set[str]:
    """Return pictures that belong to meshes: named as one beside them, or by a material file."""
    stems = {path.rpartition(".")[0] for path in files if path.lower().endswith(SUFFIXES)}
    found = {path for path in files if path.lower().endswith(PICTURES_READ) and path.rpartition(".")[0] in stems}
    for path in files:
        if path.lower().endswith(".mtl"):
            with open(folder / path, "rb") as file:
                text = file.read(1 << 16).decode(errors="replace")
            parent = path[: path.rfind("/") + 1]
            found |= {parent + name for name in re.findall(r"^\s*map_\w+\s.*?([^\s/\\]+)\s*$", text, re.MULTILINE)}
    return found & set(files)


def _scans(room: _Room, wanted: str | None) -> FilePattern:
    if not room.meshes:
        raise InputError(
            f"{room.folder} holds no scans",
            f"meshes named {wanted} ({', '.join(MESH_KINDS)})",
            "Leave --scan out, if heads are to be fitted to the pictures alone",
        )
    likely = [path for path in room.meshes if not _REGISTERED.search(path)] or room.meshes
    found = frame_patterns(room.meshes if wanted else likely)
    if not found and not room.pictures:
        raise _no_pictures(room, likely)
    if not found:
        path = likely[0]
        stem, dot, suffix = path.rpartition(".")
        raise InputError(
            f"{room.folder / path} has no frame number in its name",
            "a number in the names of scans and pictures, in any zero padding",
            f"For a single frame: rename or copy it to {stem}_0000{dot}{suffix}, and its pictures likewise",
        )
    texts = [f"{pattern.text} ({len(pattern.files)} files)" for pattern in found]
    if wanted is not None:
        chosen = next((pattern for pattern in found if pattern.text == wanted), None)
        if chosen is None:
            raise InputError(f"{room.folder} has no meshes named {wanted}", f"one of {', '.join(texts)}", "Choose one")
        return chosen
    if len(found) > 1 and len(found[1].files) == len(found[0].files):
        raise InputError(
            f"{room.folder} has several sets of meshes: {', '.join(texts[:_SHOWN])}",
            "one that is the raw scan",
            f'Say which, for example --scan "{found[0].text}"',
        )
    if len(found) > 1:
        room.say(f"not used: meshes named {', '.join(texts[1 : 1 + _SHOWN])}; --scan chooses others")
        room.used.update(path for pattern in found[1:] for path in pattern.files.values())
    return found[0]


def _no_pictures(room: _Room, scans: Sequence[str]) -> InputError:
    if room.pictures:
        return InputError(
            f"{room.folder} has {len(room.pictures)} pictures, such as {room.pictures[0]}, whose names tell no camera "
            "or no frame",
            "a folder for each camera, or its name in the files' names, and a frame number: left/0001.jpg",
            "Move them so; scans and pictures of a frame share its number",
        )
    return InputError(
        f"{room.folder} has {len(scans)} scan{'s' if len(scans) > 1 else ''}, but no pictures of cameras"
        + (", only of textures" if room.textures else ""),
        f"pictures ({', '.join(PICTURES_READ)}) beside the scans: a training set is made of what cameras saw",
        f"To register a scan alone: datagen warp {room.folder / scans[0]} --unit … --out runs/scan",
    )


def _one_camera(room: _Room, pictures: FilePattern) -> InputError:
    return InputError(
        f"{room.folder} holds no scans ({', '.join(MESH_KINDS)}), and the names of its pictures, such as "
        f"{next(iter(pictures.files.values()))}, tell of one camera, {pictures.cameras[0]}",
        "scans, or pictures of two cameras or more, each of which has a folder or its name in the files' names",
        "Put scans beside the pictures, or give `init` the folder that holds all cameras of a recording",
    )


def _common_frames(room: _Room, scans: FilePattern | None, pictures: FilePattern) -> tuple[int, ...]:
    wanted = scans.frames if scans else pictures.frames
    lacking = {
        camera: [frame for frame in wanted if frame not in pictures.frames_of(camera)] for camera in pictures.cameras
    }
    frames = tuple(frame for frame in wanted if not any(frame in missing for missing in lacking.values()))
    if not frames and scans is None:
        raise InputError(
            f"{room.folder}: no frame has a picture of every camera ({', '.join(pictures.cameras)}; {pictures.text})",
            "one number for all pictures of an instant",
            "Rename them, or move what belongs to another recording elsewhere",
        )
    if not frames and scans is not None:
        raise InputError(
            f"{room.folder}: no frame has a scan and a picture of every camera: scans ({scans.text}) have the frames "
            f"{_range(scans.frames)}, pictures ({pictures.text}) of {', '.join(pictures.cameras)} have "
            f"{_range(pictures.frames)}",
            "one number for the scan and the pictures of an instant",
            "Rename one of the two, or move what belongs to another recording elsewhere",
        )
    for camera, missing in lacking.items():
        if missing:
            room.say(f"left out: {_frames(missing)}, of which camera {camera} has no picture")
    without = [frame for frame in pictures.frames if frame not in wanted]
    if without:
        room.say(f"left out: {_frames(without)}, of which there is no scan")
    return frames


def _range(frames: Sequence[int]) -> str:
    return f"{frames[0]} to {frames[-1]}" if len(frames) > 1 else str(frames[0])


def _frames(frames: Sequence[int]) -> str:
    shown = ", ".join(map(str, frames[:_SHOWN])) + (f", … {frames[-1]}" if len(frames) > _SHOWN else "")
    return f"{len(frames)} frame{'s' if len(frames) > 1 else ''} ({shown})"


def _whole(
    room: _Room, kind: str, pattern: FilePattern, frames: Sequence[int], cameras: Sequence[str] = ("",)
) -> FilePattern | None:
    """Return a pattern that has a file for every frame of each camera that has any; say so and return None if not."""
    strangers = [camera for camera in pattern.cameras if camera not in cameras]
    if strangers:
        room.say(f"not used: {kind} ({pattern.text}) of {_named(strangers)}, of which there are no pictures")
        return None
    lacking = {frame for camera in pattern.cameras for frame in frames if frame not in pattern.frames_of(camera)}
    if lacking:
        room.say(f"not used: {kind} ({pattern.text}), which {_frames(sorted(lacking))} lack; they are for all or none")
        return None
    return pattern


def _json_calibration(room: _Room, above: Sequence[Path], named: Path | None) -> tuple[Calibration | None, str]:
    inside = [path for path in room.of([".json"]) if "/" not in path or _CALIBRATION.search(path)]
    if named is not None:
        return (None, "") if named.is_dir() else (read_json_calibration(named), named.name)
    for path in (*(room.folder / name for name in inside), *above):
        if path.name == CAPTURE_FILE:
            continue
        try:
            calibration = read_json_calibration(path)
            room.used.update(name for name in inside if room.folder / name == path)
            return calibration, path.name
        except InputError as error:
            if _CALIBRATION.search(path.name):
                room.say(f"calibration not used: {error}")
    return None, ""


def _text_calibration(room: _Room, pictures: FilePattern, named: Path | None) -> tuple[Calibration | None, str]:
    """Read what needs the pictures' names to be understood: COLMAP's text files, a file of OpenCV's for each camera."""
    place = named or room.folder
    files = room.files if named is None else sorted(path.name for path in named.iterdir())
    try:
        for path in files:
            parent, _, name = path.rpartition("/")
            if name == "cameras.txt" and (place / parent / "images.txt").is_file():
                room.used |= {path, f"{parent}/images.txt".lstrip("/")}
                names = {file: camera for (camera, _), file in pictures.files.items()}
                return read_colmap_calibration(place / parent, names), path
        yamls = {path: _words(path) for path in files if path.lower().endswith((".yml", ".yaml"))}
        of_camera = {
            camera: place / path for camera in pictures.cameras for path, words in yamls.items() if camera in words
        }
        if of_camera:
            room.used |= {path for path in yamls if place / path in of_camera.values()}
            return read_opencv_calibration(of_camera), ", ".join(path.name for path in of_camera.values())
    except InputError as error:
        if named is not None:
            raise
        room.say(f"calibration not used: {error}")
        return None, ""
    if named is not None:
        raise InputError(
            f"{named} holds no calibration of {', '.join(pictures.cameras)}",
            "cameras.txt and images.txt of COLMAP, or a YAML file of OpenCV's named after each camera",
            "Name another, or write K and pose of each camera as JSON",
        )
    other = [path for path in room.of(_OTHER_CALIBRATIONS) if _CALIBRATION.search(path)]
    if other:
        room.say(f"calibration not used: {_named(other)} is of a kind that is not read; write K and pose as JSON")
        room.used.update(other)
    return None, ""


def _words(path: str) -> set[str]:
    stem = Path(path).stem
    return {stem, *re.split(r"[_\-. /]+", path)}


def _matched(room: _Room, calibration: Calibration | None, cameras: Sequence[str]) -> dict[str, Calibrated]:
    """Return the calibration of each camera of the pictures; names may differ in case, padding and the word camera."""
    if calibration is None:
        return {}
    plain: dict[str, list[str]] = {}
    for name in calibration.cameras:
        plain.setdefault(_plain(name), []).append(name)
    found, said = {}, []
    for camera in cameras:
        names = [camera] if camera in calibration.cameras else plain.get(_plain(camera), [])
        if len(names) == 1:
            found[camera] = calibration.cameras[names[0]]
            said += [f"{names[0]} is taken for {camera}"] if names[0] != camera else []
    if said:
        room.say(f"the calibration names cameras otherwise: {_named(said)}")
    lacking = [camera for camera in cameras if camera not in found]
    if lacking:
        room.say(
            f"the calibration has the cameras {_named(sorted(calibration.cameras))}, and the pictures are also of "
            f"{_named(lacking)}: rename one of the two"
        )
    return found


def _plain(name: str) -> str:
    words = _CAMERA_WORDS.sub("", re.sub(r"[^0-9a-z]", "", name.casefold()))
    return re.sub(r"0*([0-9]+)", r"\1", words)


def _sizes(folder: Path, pictures: FilePattern) -> tuple[dict[str, tuple[int, int]], bool]:
    sizes, turned = {}, False
    for camera in pictures.cameras:
        path = folder / pictures.files[camera, min(pictures.frames_of(camera))]
        size_of = video_size if path.suffix.lower() in VIDEOS else picture_size
        sizes[camera] = size_of(path, orientation="stored", ask="")
        try:
            size_of(path, orientation=None, ask="")
        except InputError:
            turned = True
    return sizes, turned


def _landmarks(room: _Room, frames: Sequence[int]) -> tuple[FilePattern | None, str | None]:
    """Return landmarks in files of any kind, and the unit that they state, if they do."""
    reason = ""
    kinds = (".json", *_OTHER_LANDMARKS)
    tables = [path for path in room.of(_LANDMARK_TABLES) if _LANDMARKS.search(path)]
    documents = [path for path in [*room.of(kinds), *tables] if path not in room.used and path != CAPTURE_FILE]
    patterns = frame_patterns(documents)
    numbered = {path for pattern in patterns for path in pattern.files.values()}
    for path in documents:
        if path not in numbered and (_LANDMARKS.search(path) or path.lower().endswith(_OTHER_LANDMARKS)):
            room.say(f"landmarks not used: {path} has no frame number in its name")
            room.used.add(path)
    for pattern in patterns:
        first = room.folder / pattern.files["", pattern.frames[0]]
        try:
            stated = declared_unit(first) if states_unit(first) else None
            # Those of other programs are in the scan's unit, which is none of ours to know yet.
            read_landmarks(first, unit=stated or "m")
        except InputError as error:
            reason = reason or str(error)
            continue
        room.take(pattern)
        return _whole(room, "landmarks", pattern, frames), stated
    if reason:
        room.say(f"landmarks not used: {reason}")
    return None, None


def _registrations(room: _Room, frames: Sequence[int]) -> tuple[FilePattern | None, str | None]:
    left = [path for path in room.meshes if path not in room.used and _REGISTERED.search(path)]
    for pattern in frame_patterns(left):
        room.take(pattern)
        try:
            mesh = read_mesh(room.folder / pattern.files["", pattern.frames[0]], need_faces=False)
        except InputError as error:
            room.say(f"registrations not used: {error}")
            continue
        head = next((name for name, entry in HEADS.items() if entry.vertices == len(mesh.vertices)), None)
        if head is not None:
            whole = _whole(room, "registrations", pattern, frames)
            return whole, head if whole else None
        room.say(
            f"not used: {pattern.text}, whose {len(mesh.vertices)} vertices are no known head model's; "
            "docs/capture-format.md says how to bring a topology of your own"
        )
    return None, None
