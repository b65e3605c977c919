"""From what an importer found to a capture in the folder layout: staged, whole or not there, by reference.

Files that need no change are hard links: the same bytes under another name, so that nothing is copied, nothing leads
out of the capture's folder, and removing the capture removes no picture of anybody's. Where there are none, or where
the capture lies on another file system, they are copied. What has to change is written anew: pictures without the
distortion of their lens, scans whose unit has no name.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datagen.common.digests import canonical_json, sha256_text
from datagen.common.errors import CameraError, InputError
from datagen.common.files import staged_folder, storage_errors
from datagen.common.pictures import picture_size, read_mask, read_picture
from datagen.geometry.camera import Camera, validate_camera
from datagen.geometry.lens import straight_intrinsics, straighten
from datagen.geometry.mesh import Mesh, check_metric_scale
from datagen.geometry.mesh_io import ply_bytes, read_mesh
from datagen.geometry.space import metres_per
from datagen.sources.camera_entry import CameraEntry
from datagen.sources.capture_file import (
    CAPTURE_FILE,
    CAPTURE_FORMAT,
    CAPTURE_VERSION,
    CaptureFile,
    capture_file_bytes,
)
from datagen.sources.folder_writer import is_complete, png_bytes
from datagen.sources.frame import SequenceKey
from datagen.sources.imports.imported import ImportedCamera, ImportedFrame, ImportedSequence, ImportSettings

# Another number makes captures again that were written before.
_WRITER = 1
_NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_ASK = "Save the pictures without an EXIF turn, as the calibration saw them"
# Of a picture that was scaled: its sides may have been rounded.
_ROUNDING = 1.0
_DECLARE = "--unit, or --metres-per-unit"

Kind = Literal["images", "masks"]


@dataclass
class Written:
    """What became of the files of one capture.

    Attributes
    ----------
    kept : bool
        Whether it was there already, made of the same files: nothing was done.
    linked, copied, made : int
        Files that are hard links, copies, and written anew.
    straightened : tuple of str
        Cameras whose pictures had lens distortion.
    remarks : list of str
    """

    kept: bool = False
    linked: int = 0
    copied: int = 0
    made: int = 0
    straightened: tuple[str, ...] = ()
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Straight:
    """A camera as its pictures will be."""

    source: ImportedCamera
    distorted_intrinsics: npt.NDArray[np.float64]
    camera: Camera

    @property
    def is_straight(self) -> bool:
        return self.source.lens.is_straight


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
    unit, scale = _unit(sequence, settings)
    report = Written()
    rig = tuple(_straight(camera, sequence.frames, scale, report) for camera in sequence.cameras)
    report.straightened = tuple(one.camera.name for one in rig if not one.is_straight)
    content_key = _content_key(sequence, importer, settings)
    if is_complete(out, key, content_key):
        report.kept = True
        advance(len(rig) * len(sequence.frames))
        return report
    _check_scan(sequence.frames[0], unit, scale)
    with staged_folder(out / key.subject / key.sequence, replace=True) as staging, storage_errors(f"writing {key}"):
        put = partial(_put, staging, report)
        scans = _scans(sequence.frames, scale, put)
        images = _pictures("images", sequence.frames, rig, put, advance)
        masks = _pictures("masks", sequence.frames, rig, put, lambda _: None)
        capture = CaptureFile(
            format=CAPTURE_FORMAT,
            version=CAPTURE_VERSION,
            unit=unit,
            times_s=[frame.time_s for frame in sequence.frames],
            frames=[frame.index for frame in sequence.frames],
            pixel_center=0.5,
            cameras={one.camera.name: _entry(one.camera) for one in rig},
            scan=scans,
            images=images,
            masks=masks,
            # Calibrations know pixels as files store them.
            orientation="stored",
            licence=settings.licence,
            citation=settings.citation,
            generator={"program": f"datagen import {importer}", "key": content_key},
        )
        (staging / CAPTURE_FILE).write_bytes(capture_file_bytes(capture))
    return report


def _unit(sequence: ImportedSequence, settings: ImportSettings) -> tuple[str, float]:
    """Return the capture's unit, and what lengths of the files are multiplied by to have it."""
    scale = settings.metres_per_unit or sequence.metres_per_unit
    if scale is not None:
        return "m", scale
    unit = sequence.unit or settings.unit
    if unit is None:
        scan = sequence.frames[0].scan
        mesh = read_mesh(scan, need_faces=False) if isinstance(scan, Path) else scan()
        low, high = np.percentile(mesh.vertices, [1, 99], axis=0)
        raise InputError(
            f"the unit of the scan is not known; it is {float(np.linalg.norm(high - low)):.4g} across",
            "--unit, or --metres-per-unit where it is arbitrary, as after structure from motion",
            "Measure a length that you know in the scan: metres per unit are what it should be, in metres, through "
            "what it is. FaceScape has them in a file: --scales",
        )
    metres_per(unit, "--unit")
    return unit, 1.0


def _check_scan(frame: ImportedFrame, unit: str, scale: float) -> None:
    mesh = _mesh(frame.scan, scale)
    name = str(frame.scan) if isinstance(frame.scan, Path) else f"the scan of frame {frame.index}"
    check_metric_scale(mesh.vertices * metres_per(unit, name), name, declare=_DECLARE)


def _mesh(scan: Path | Callable[[], Mesh], scale: float) -> Mesh:
    mesh = read_mesh(scan, need_faces=False) if isinstance(scan, Path) else scan()
    return mesh if scale == 1 else Mesh.of(mesh.vertices * scale, mesh.faces)


def _straight(source: ImportedCamera, frames: Sequence[ImportedFrame], scale: float, report: Written) -> _Straight:
    """Return a camera without distortion, of the size that its pictures have."""
    paths = [files[source.name] for frame in frames for files in (frame.images, frame.masks) if source.name in files]
    sizes = {picture_size(path, orientation="stored", ask=_ASK): path for path in paths}
    if len(sizes) > 1:
        (one, first), (other, second), *_ = sizes.items()
        raise InputError(
            f"{first} is {one[0]}×{one[1]} and {second} {other[0]}×{other[1]} pixels, of one camera",
            "pictures and masks of one size for each camera",
            "Export them again",
        )
    size = next(iter(sizes), source.size)
    factors = np.array(size) / source.size
    # Whole numbers of pixels: what the sides would be if both were scaled by the same.
    if np.abs(factors[0] * source.size[1] - size[1]) > _ROUNDING * max(factors[0], 1.0):
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
        if said not in report.remarks:
            report.remarks.append(said)
    pose = np.array(source.world_to_camera, np.float64)
    pose[:3, 3] *= scale
    new_K = straight_intrinsics(source.lens, K, *size, source.name)
    return _Straight(source, K, validate_camera(Camera(source.name, new_K, pose, *size)))


def _content_key(sequence: ImportedSequence, importer: str, settings: ImportSettings) -> str:
    """Digest all that determines a capture: files by their path, length and time, for reading all takes as long."""
    said = {**vars(settings), "images": str(settings.images), "scales": sequence.metres_per_unit}
    cameras = [
        [one.name, one.K.tolist(), one.world_to_camera.tolist(), list(one.size), repr(one.lens)]
        for one in sequence.cameras
    ]
    frames: list[Any] = []
    for frame in sequence.frames:
        scan = [_stamp(path) for path in ((frame.scan,) if isinstance(frame.scan, Path) else frame.sources)]
        files = {
            kind: {name: _stamp(path) for name, path in getattr(frame, kind).items()} for kind in ("images", "masks")
        }
        frames.append([frame.index, frame.time_s, scan, files])
    return sha256_text(canonical_json([_WRITER, importer, said, sequence.unit, cameras, frames]))


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]


def _put(staging: Path, report: Written, name: str, content: Path | bytes) -> None:
    """Place a file into the staged capture: bytes are written, files linked."""
    place = staging / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        place.write_bytes(content)
        report.made += 1
        return
    try:
        # The file itself, where it is a link: that would lead out of the capture.
        os.link(content.resolve(), place)
        report.linked += 1
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(content, place)
        report.copied += 1


def _scans(frames: Sequence[ImportedFrame], scale: float, put: Callable[[str, Path | bytes], None]) -> str:
    suffixes = {frame.scan.suffix if isinstance(frame.scan, Path) else None for frame in frames}
    suffix = next(iter(suffixes)) if len(suffixes) == 1 and scale == 1 else None
    pattern = f"scans/{{frame:06d}}{suffix or '.ply'}"
    for frame in frames:
        linked = isinstance(frame.scan, Path) and suffix is not None
        content = frame.scan if linked else ply_bytes(_mesh(frame.scan, scale), precision="float32")
        put(pattern.format(frame=frame.index), content)  # type: ignore[arg-type]
    return pattern


def _pictures(
    kind: Kind,
    frames: Sequence[ImportedFrame],
    rig: Sequence[_Straight],
    put: Callable[[str, Path | bytes], None],
    advance: Callable[[int], object],
) -> str | None:
    """Place the pictures or masks of all frames; None if there are none. All have one suffix, as the layout wants."""
    files: list[tuple[int, Mapping[str, Path]]] = [(frame.index, getattr(frame, kind)) for frame in frames]
    used = [one for one in rig if any(one.camera.name in named for _, named in files)]
    if not used:
        return None
    suffixes = Counter(path.suffix for _, named in files for path in named.values())
    linked = len(suffixes) == 1 and all(one.is_straight for one in used)
    pattern = f"{kind}/{{camera}}/{{frame:06d}}{next(iter(suffixes)) if linked else '.png'}"
    for index, named in files:
        for one in used:
            path = named.get(one.camera.name)
            if path is not None:
                name = pattern.format(camera=one.camera.name, frame=index)
                put(name, path if linked else png_bytes(_read(kind, path, one)))
            advance(1)
    return pattern


def _read(kind: Kind, path: Path, one: _Straight) -> npt.NDArray[Any]:
    pixels: npt.NDArray[Any]
    if kind == "masks":
        pixels = read_mask(path, orientation="stored", ask=_ASK)
    else:
        pixels = read_picture(path, orientation="stored", ask=_ASK).pixels
    if one.is_straight:
        return pixels
    return straighten(pixels, one.source.lens, one.distorted_intrinsics, one.camera.K)


def _entry(camera: Camera) -> CameraEntry:
    return CameraEntry(
        K=camera.K.tolist(), world_to_camera=camera.world_to_camera.tolist(), width=camera.width, height=camera.height
    )
