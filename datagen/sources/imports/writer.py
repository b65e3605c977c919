"""From what an importer found to a capture in the folder layout: staged, whole or not there, by reference.

Files that need no change are hard links: the same bytes under another name, so that nothing is copied, nothing leads
out of the capture's folder, and removing the capture removes no picture of anybody's. Where there are none, or where
the capture lies on another file system, they are copied. Written anew is what has to change: scans whose unit has no
name, pictures of several kinds. A lens is declared, and its pictures are straightened when they are read. Files of
archives are unpacked, those that are used.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datagen.common.digests import canonical_json, sha256_text
from datagen.common.errors import CanonfaceError, InputError
from datagen.common.files import staged_folder, storage_errors
from datagen.common.pictures import MASK_THRESHOLD, picture_size, read_mask, read_picture
from datagen.common.settings import parse
from datagen.geometry.landmarks import Landmarks, landmark_bytes, validate_landmarks
from datagen.geometry.mesh import Mesh, check_metric_scale
from datagen.geometry.mesh_io import ply_bytes, read_mesh
from datagen.geometry.space import metres_per
from datagen.sources.capture_file import (
    CAPTURE_FILE,
    CAPTURE_FORMAT,
    CAPTURE_VERSION,
    CaptureFile,
    RegistrationEntry,
    capture_file_bytes,
)
from datagen.sources.depth_maps import DepthEntry
from datagen.sources.folder_writer import is_complete, png_bytes
from datagen.sources.frame import SequenceKey
from datagen.sources.imports.archives import File, Packed, Unpacked
from datagen.sources.imports.imported import ImportedFrame, ImportedSequence, ImportSettings, Kind, Surface
from datagen.sources.imports.rig import ASK, RigCamera, recorded_rig
from datagen.sources.imports.shading import shaded
from datagen.sources.topology import FOLDER as TOPOLOGIES

# Another number makes captures again that were written before.
_WRITER = 3
_NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_DECLARE = "--unit, or --metres-per-unit"
_UNPACKED = ".unpacked"
_LANDMARK_DIAGONAL_M = 0.18


@dataclass
class Written:
    """What became of the files of one capture.

    Attributes
    ----------
    kept : bool
        Whether it was there already, made of the same files: nothing was done.
    linked, copied, made, unpacked : int
        Files that are hard links, copies, written anew, and out of archives.
    straightened : tuple of str
        Cameras whose pictures have lens distortion, and are straightened when they are read.
    remarks : list of str
    """

    kept: bool = False
    linked: int = 0
    copied: int = 0
    made: int = 0
    unpacked: int = 0
    straightened: tuple[str, ...] = ()
    remarks: list[str] = field(default_factory=list)


def write_capture(
    out: Path,
    key: SequenceKey,
    sequence: ImportedSequence,
    importer: str,
    settings: ImportSettings,
    advance: Callable[[int], object] = lambda _: None,
) -> Written:
    """Write one capture, unless it is there already, made of the same files.

    Parameters
    ----------
    out : Path
        Folder of subjects.
    importer : str
        Name, for the notes of the capture.
    settings : ImportSettings
        With the licence and the citation that the capture is to carry.
    advance : function of int
        Called as files are done.

    Raises
    ------
    InputError
        If the unit is not known, a scan is no head in it, or a picture contradicts its camera.
    StorageError
        If something that is not ours is in the way, or the disk refuses.
    """
    report = Written()
    report.straightened = tuple(one.name for one in sequence.cameras if not one.lens.is_straight)
    content_key = _content_key(sequence, importer, settings)
    if is_complete(out, key, content_key):
        report.kept = True
        advance(len(sequence.cameras) * len(sequence.frames))
        return report
    with staged_folder(out / key.subject / key.sequence, replace=True) as staging, storage_errors(f"writing {key}"):
        files = Unpacked(staging / _UNPACKED)
        try:
            unit, scale = _unit(sequence, settings, files)
            content = _write(staging, sequence, files, scale, unit, report, advance)
        except CanonfaceError as error:
            raise files.named(error) from None
        shutil.rmtree(staging / _UNPACKED, ignore_errors=True)
        content |= {
            "format": CAPTURE_FORMAT,
            "version": CAPTURE_VERSION,
            "unit": unit,
            "times_s": [frame.time_s for frame in sequence.frames],
            "frames": [frame.index for frame in sequence.frames],
            "pixel_center": 0.5,
            # Calibrations know pixels as files store them.
            "orientation": "stored",
            "shaded": sequence.shaded or None,
            "licence": settings.licence,
            "citation": settings.citation,
            "generator": {"program": f"datagen import {importer}", "key": content_key},
        }
        fix = "Check the files, and --licence and --citation"
        capture = parse(CaptureFile, content, f"{CAPTURE_FILE} of {key}", fix, "what a capture can be", InputError)
        capture.check_storable(f"{CAPTURE_FILE} of {key}")
        (staging / CAPTURE_FILE).write_bytes(capture_file_bytes(capture))
    if sequence.registration is not None and sequence.registration.neutral is not None:
        _write_topology(out, str(sequence.registration.topology), sequence.registration.neutral, report)
    return report


def _write(
    staging: Path,
    sequence: ImportedSequence,
    files: Unpacked,
    scale: float,
    unit: str,
    report: Written,
    advance: Callable[[int], object],
) -> dict[str, Any]:
    """Write all files of a capture but the one that describes them; return what that one is to say of them."""
    frames = sequence.frames
    rig = recorded_rig(sequence, files, scale, report.remarks)
    metres = metres_per(unit, "--unit")
    if frames[0].scan is not None:
        _check_scan(frames[0].scan, f"the scan of frame {frames[0].index}", files, metres, scale)
    elif frames[0].registration is not None and sequence.registration is not None:
        own = metres_per(sequence.registration.unit or unit, "--unit")
        if sequence.registration.kind == "vertices":
            _check_scan(frames[0].registration, f"the registration of frame {frames[0].index}", files, own, scale)
    put = partial(_put, staging, report, files)
    content: dict[str, Any] = {"cameras": {one.name: one.entry for one in rig}}
    if frames[0].scan is not None:
        content["scan"] = _surfaces("scan", "scans", frames, files, scale, put)
    else:
        content["surface"] = "registration" if sequence.registration is not None else "depth"
    if sequence.depth is not None:
        content["depth"] = _depths(sequence, rig, scale, put)
    if sequence.registration is not None:
        content["registration"] = _registration(sequence, content.get("scan"), files, scale, put)
    if all(frame.landmarks is not None for frame in frames):
        content["landmarks"] = "landmarks/{frame:06d}.json"
        for frame in frames:
            put(content["landmarks"].format(frame=frame.index), _landmarks(frame, metres * scale))
    if sequence.shaded:
        content |= _shaded(frames, rig, files, metres, scale, put, advance)
    else:
        content["images"] = _pictures("images", frames, rig, files, put, advance)
        content["masks"] = _pictures("masks", frames, rig, files, put, lambda _: None)
        content |= _videos(sequence, put)
    return content


def _registration(
    sequence: ImportedSequence,
    scans: str | None,
    files: Unpacked,
    scale: float,
    put: Callable[[str, File | bytes], None],
) -> RegistrationEntry:
    """Place the registrations; without files of their own the scans are them."""
    given, frames = sequence.registration, sequence.frames
    assert given is not None
    if given.file is not None:
        pattern = f"registrations/parameters{given.file.suffix}"
        put(pattern, given.file)
    elif all(frame.registration is not None for frame in frames):
        pattern = _surfaces("registration", "registrations", frames, files, scale, put)
    else:
        assert scans is not None
        pattern = scans
    return RegistrationEntry(
        head=given.head, topology=given.topology, kind=given.kind, pattern=pattern, unit=given.unit
    )


def _videos(sequence: ImportedSequence, put: Callable[[str, File | bytes], None]) -> dict[str, str]:
    """Place the videos of cameras, whose frames are the capture's by number."""
    found: dict[str, str] = {}
    for kind, videos in sequence.videos.items():
        suffixes = {path.suffix for path in videos.values()}
        if len(suffixes) > 1:
            raise InputError(
                f"{kind} are videos of several kinds ({', '.join(sorted(suffixes))})",
                "one suffix for all",
                "Convert the others",
            )
        if not videos:
            continue
        found[kind] = f"{kind}/{{camera}}{next(iter(suffixes))}"
        for name, path in videos.items():
            put(found[kind].format(camera=name), path)
    return found


def _depths(
    sequence: ImportedSequence, rig: Sequence[RigCamera], scale: float, put: Callable[[str, File | bytes], None]
) -> DepthEntry | None:
    """Place the depth maps as they are; None if there are none of all frames of a camera."""
    given, frames = sequence.depth, sequence.frames
    names = [one.name for one in rig if all(one.name in frame.depths for frame in frames)]
    suffixes = {frame.depths[name].suffix for frame in frames for name in names}
    if given is None or len(suffixes) != 1:
        return None
    pattern = f"depth/{{camera}}/{{frame:06d}}{next(iter(suffixes))}"
    for frame in frames:
        for name in names:
            put(pattern.format(camera=name, frame=frame.index), frame.depths[name])
    # Numbers in a unit without a name have its length.
    step = scale if given.unit is None and given.metres_per_step is None and scale != 1 else given.metres_per_step
    content = {**vars(given), "pattern": pattern, "metres_per_step": step}
    return parse(DepthEntry, content, "depth maps", "Convert the files", "files that hold depth", InputError)


def _shaded(
    frames: Sequence[ImportedFrame],
    rig: Sequence[RigCamera],
    files: Unpacked,
    metres: float,
    scale: float,
    put: Callable[[str, File | bytes], None],
    advance: Callable[[int], object],
) -> dict[str, str]:
    """Draw the meshes; return the patterns of pictures and masks."""
    straight = [one.recorded.camera for one in rig]
    cameras = [replace(camera, world_to_camera=_scaled(camera.world_to_camera, metres)) for camera in straight]
    patterns = {kind: f"{kind}/{{camera}}/{{frame:06d}}.png" for kind in ("images", "masks")}
    for frame in frames:
        mesh = _mesh(_surface(frame), files, scale)
        images, masks = shaded(Mesh(mesh.vertices * metres, mesh.faces), cameras)
        for camera in cameras:
            for kind, pixels in (("images", png_bytes(images[camera.name])), ("masks", png_bytes(masks[camera.name]))):
                put(patterns[kind].format(camera=camera.name, frame=frame.index), pixels)
        advance(len(cameras))
    return patterns


def _scaled(pose: npt.NDArray[np.float64], factor: float) -> npt.NDArray[np.float64]:
    moved = pose.copy()
    moved[:3, 3] *= factor
    return moved


def _landmarks(frame: ImportedFrame, factor: float) -> bytes:
    assert frame.landmarks is not None
    found = frame.landmarks()
    name = f"the landmarks of frame {frame.index}"
    moved = validate_landmarks(replace(found, points=found.points * factor), name)
    check_metric_scale(moved.points, name, reference_diagonal_m=_LANDMARK_DIAGONAL_M, declare=_DECLARE)
    return landmark_bytes(moved)


def _write_topology(out: Path, name: str, neutral: Callable[[], tuple[Mesh, Landmarks]], report: Written) -> None:
    """Write the captures' own topology, unless there is one of this name: any person's neutral mesh will do."""
    folder = out / TOPOLOGIES
    names = [f"{name}.ply", f"{name}.json"]
    if all((folder / one).is_file() for one in names):
        return
    mesh, landmarks = neutral()
    with staged_folder(folder, replace=False, names=names) as staging, storage_errors(f"writing {folder}"):
        (staging / names[0]).write_bytes(ply_bytes(mesh))
        (staging / names[1]).write_bytes(landmark_bytes(landmarks))
    report.remarks.append(f"the topology {name} is described by {TOPOLOGIES}/{names[0]} and its landmarks")


def _unit(sequence: ImportedSequence, settings: ImportSettings, files: Unpacked) -> tuple[str, float]:
    """Return the capture's unit, and what lengths of the files are multiplied by to have it."""
    scale = settings.metres_per_unit or sequence.metres_per_unit
    if scale is not None:
        return "m", scale
    unit = sequence.unit or settings.unit
    if unit is None:
        size = ""
        if sequence.frames[0].scan is not None:
            mesh = _mesh(sequence.frames[0].scan, files, 1.0)
            low, high = np.percentile(mesh.vertices, [1, 99], axis=0)
            size = f"; it is {float(np.linalg.norm(high - low)):.4g} across"
        raise InputError(
            f"the unit of the scan is not known{size}",
            "--unit, or --metres-per-unit where it is arbitrary, as after structure from motion",
            "Measure a length that you know in the scan: metres per unit are what it should be, in metres, through "
            "what it is. FaceScape has them in a file: --scales",
        )
    metres_per(unit, "--unit")
    return unit, 1.0


def _check_scan(surface: Surface, what: str, files: Unpacked, metres: float, scale: float) -> None:
    mesh = _mesh(surface, files, scale)
    name = what if callable(surface) else str(surface)
    check_metric_scale(mesh.vertices * metres, name, declare=_DECLARE)


def _surface(frame: ImportedFrame) -> Surface:
    surface = frame.scan if frame.scan is not None else frame.registration
    assert surface is not None  # one of them is what an importer finds frames by
    return surface


def _mesh(surface: Surface, files: Unpacked, scale: float) -> Mesh:
    mesh = surface() if callable(surface) else read_mesh(files.path(surface), need_faces=False)
    return mesh if scale == 1 else Mesh.of(mesh.vertices * scale, mesh.faces, mesh.normals)


def _content_key(sequence: ImportedSequence, importer: str, settings: ImportSettings) -> str:
    """Digest all that determines a capture: files by their path, length and time, for reading all takes as long."""
    said = {key: str(value) if isinstance(value, Path) else value for key, value in vars(settings).items()}
    said |= {"scales": sequence.metres_per_unit}
    cameras = [
        [
            one.name,
            one.K.tolist(),
            one.world_to_camera.tolist(),
            list(one.size),
            repr(one.lens),
            [[frame, pose.tolist()] for frame, pose in one.poses.items()],
            None if one.color is None else one.color.tolist(),
        ]
        for one in sequence.cameras
    ]
    frames: list[Any] = []
    for frame in sequence.frames:
        surfaces = [one for one in (frame.scan, frame.registration) if one is not None and not callable(one)]
        used = [_stamp(file) for file in (*surfaces, *frame.sources)]
        pictures = {
            kind: {name: _stamp(file) for name, file in getattr(frame, kind).items()}
            for kind in ("images", "masks", "depths")
        }
        frames.append([frame.index, frame.time_s, used, pictures])
    registration = sequence.registration
    depth = sorted(vars(sequence.depth).items()) if sequence.depth else []
    registered: list[Any] = []
    if registration is not None:
        registered = [registration.head, registration.topology, registration.unit, registration.kind]
        registered += [_stamp(registration.file)] if registration.file is not None else []
    videos = [[kind, [[name, _stamp(path)] for name, path in paths.items()]] for kind, paths in sequence.videos.items()]
    others = [sequence.shaded, registered, depth, videos]
    return sha256_text(canonical_json([_WRITER, importer, said, sequence.unit, others, cameras, frames]))


def _stamp(file: File) -> list[Any]:
    path = file.archive if isinstance(file, Packed) else file
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns, *([file.member] if isinstance(file, Packed) else [])]


def _put(staging: Path, report: Written, files: Unpacked, name: str, content: File | bytes) -> None:
    """Place a file into the staged capture: bytes are written, files linked."""
    place = staging / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        place.write_bytes(content)
        report.made += 1
        return
    if isinstance(content, Packed):
        # Linked, and its first name removed with the others: one file may be used twice.
        link_or_copy(files.path(content), place)
        report.unpacked += 1
    # The file itself, where it is a link: that would lead out of the capture.
    elif link_or_copy(content.resolve(), place):
        report.linked += 1
    else:
        report.copied += 1


def link_or_copy(path: Path, place: Path) -> bool:
    """Give a file a second name, and say whether that could be."""
    try:
        os.link(path, place)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(path, place)
        return False
    return True


def _surfaces(
    kind: Literal["scan", "registration"],
    folder: str,
    frames: Sequence[ImportedFrame],
    files: Unpacked,
    scale: float,
    put: Callable[[str, File | bytes], None],
) -> str:
    surfaces = [(frame.index, getattr(frame, kind)) for frame in frames]
    suffixes = {None if callable(surface) else surface.suffix for _, surface in surfaces}
    suffix = next(iter(suffixes)) if len(suffixes) == 1 and scale == 1 else None
    pattern = f"{folder}/{{frame:06d}}{suffix or '.ply'}"
    for index, surface in surfaces:
        linked = suffix is not None and not callable(surface)
        content = surface if linked else ply_bytes(_mesh(surface, files, scale), precision="float32")
        put(pattern.format(frame=index), content)
    return pattern


def _pictures(
    kind: Kind,
    frames: Sequence[ImportedFrame],
    rig: Sequence[RigCamera],
    files: Unpacked,
    put: Callable[[str, File | bytes], None],
    advance: Callable[[int], object],
) -> str | None:
    """Place the pictures or masks of all frames; None if there are none. All have one suffix, as the layout wants."""
    pictures: list[tuple[int, Mapping[str, File]]] = [(frame.index, getattr(frame, kind)) for frame in frames]
    used = [one for one in rig if any(one.name in named for _, named in pictures)]
    if not used:
        return None
    resized = {one.name for one in used if kind == "masks" and _differs(one, pictures, files)}
    suffixes = Counter(file.suffix for _, named in pictures for file in named.values())
    linked = len(suffixes) == 1 and (not resized or ".png" in suffixes)
    pattern = f"{kind}/{{camera}}/{{frame:06d}}{next(iter(suffixes)) if linked else '.png'}"
    for index, named in pictures:
        for one in used:
            file = named.get(one.name)
            if file is not None:
                same = linked and one.name not in resized
                content = file if same else png_bytes(_read(kind, files.path(file), one))
                put(pattern.format(camera=one.name, frame=index), content)
            advance(1)
    return pattern


def _differs(one: RigCamera, masks: Sequence[tuple[int, Mapping[str, File]]], files: Unpacked) -> bool:
    """Whether masks of a camera have another size than its pictures."""
    size = one.entry.width, one.entry.height
    paths = (files.path(named[one.name]) for _, named in masks if one.name in named)
    return any(picture_size(path, orientation="stored", ask=ASK) != size for path in paths)


def _read(kind: Kind, path: Path, one: RigCamera) -> npt.NDArray[Any]:
    if kind == "images":
        return read_picture(path, orientation="stored", ask=ASK).pixels
    from PIL import Image

    mask = read_mask(path, orientation="stored", ask=ASK)
    size = one.entry.width, one.entry.height
    if mask.shape[::-1] == size:
        return mask
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(grey) >= MASK_THRESHOLD
