"""From a capture with evidence to one with registrations: fitted, and written beside links to all else it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datagen.common.arrays import F64
from datagen.common.digests import canonical_json, sha256_text
from datagen.common.errors import InputError
from datagen.common.files import npz_bytes, read_npz, staged_folder, storage_errors
from datagen.fit.figures import disagreeing_cameras, disagreement_text, few_views, frame_figures, judge_fit
from datagen.fit.head_shape import F32
from datagen.fit.problem import Fit, FitFrame, FitSettings
from datagen.fit.refine import captured_views, fit_pictures
from datagen.fit.seen import DETECTOR, seen_by, seen_sequence
from datagen.fit.stored import person_bytes
from datagen.geometry.mesh import Mesh, check_metric_scale
from datagen.geometry.mesh_io import ply_bytes, read_mesh
from datagen.heads.base import HeadModel
from datagen.heads.registry import HEADS
from datagen.manifest import FitLimits
from datagen.sources.camera_entry import RecordedCamera
from datagen.sources.camera_files import DEPTH, PICTURES, camera_files, landmark_files
from datagen.sources.capture_file import (
    CAPTURE_FILE,
    CaptureFile,
    RegistrationEntry,
    capture_file_bytes,
    read_capture_file,
)
from datagen.sources.evidence_files import evidence_files
from datagen.sources.folder import FolderCaptures
from datagen.sources.folder_writer import is_complete
from datagen.sources.frame import SequenceInfo, SequenceKey
from datagen.sources.imports.writer import link_or_copy
from datagen.warp.template import WarpTemplate, prepare_template

# Another number makes captures again that were written before.
_WRITER = 3
REGISTRATION = "registrations/{frame:06d}.ply"
DETAILS = "fit/{frame:06d}.npz"
PERSON = "fit/person.npz"


@dataclass
class Fitted:
    """What became of a capture.

    Attributes
    ----------
    frames : tuple of int
        That have a registration now.
    left_out : tuple of int
        Those in which too little was seen.
    doubtful : dict of frame to reason
        Of those that a build would have reviewed, or left out, by its recipe's usual limits.
    kept : bool
        Whether it was there already, made of the same files.
    spread_mm : float
        Median of the vertices' standard deviations.
    focal_px : mapping of camera to float
        Where they were to be found.
    disagreeing : mapping of camera to float
        How many times as far off as stated the points of cameras are that disagree with the others.
    remarks : list of str
    """

    frames: tuple[int, ...] = ()
    left_out: tuple[int, ...] = ()
    doubtful: dict[int, str] = field(default_factory=dict)
    kept: bool = False
    spread_mm: float = float("nan")
    focal_px: dict[str, float] = field(default_factory=dict)
    disagreeing: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def read_neutral(path: Path, head: HeadModel, name: str) -> F64:
    """Read a face at rest (V, 3) metres: a mesh in the head's topology, or the person of a fit or a build.

    Raises
    ------
    InputError
        If the file is broken, of another topology, or no head in metres.
    """
    count = len(head.template.vertices)
    if path.name == Path(PERSON).name:
        found = read_npz(path, ("neutral",), expected="a person", fix="Name the person.npz of a fit, or a mesh")
        vertices = np.asarray(found["neutral"], np.float64)
    else:
        vertices = HEADS[name].own(read_mesh(path, need_faces=False).vertices)
    if vertices.shape != (count, 3) or not np.isfinite(vertices).all():
        raise InputError(
            f"the face at rest {path} has vertices of shape {vertices.shape}, or some that are no numbers",
            f"{count} vertices in the order of the head model {name}",
            "Export it in the head model's own topology",
        )
    check_metric_scale(vertices, str(path), declare="metres, which --neutral is read in")
    return vertices


def fit_capture(
    captures: FolderCaptures,
    root: Path,
    info: SequenceInfo,
    indices: Sequence[int],
    out: Path,
    head: HeadModel,
    settings: FitSettings,
    neutral: F64 | None = None,
    advance: Callable[[int], object] = lambda _: None,
) -> Fitted:
    """Fit a capture and write the one with registrations, unless it is there already, made of the same files.

    Parameters
    ----------
    root, out : Path
        Folders of subjects that are read, and written.
    indices : sequence of int
        Frames that are taken.
    neutral : (V, 3) float64, optional
        The face at rest, metres.

    Raises
    ------
    InputError
        If there is no evidence, or it cannot be used.
    StorageError
        If something that is not ours is in the way, or the disk refuses.
    """
    report = Fitted()
    template = prepare_template(head.template)
    who = tuple(name for name in seen_by("auto", captures.brings(info.key)) if name != DETECTOR)
    seen = seen_sequence(captures, info, indices, who, head.template)
    frames, report.left_out = seen.frames, tuple(seen.left_out)
    report.frames = tuple(frame.index for frame in frames)
    folder = root / info.key.subject / info.key.sequence
    place = out / info.key.subject / info.key.sequence
    if place.resolve() == folder.resolve():
        raise InputError(f"--out {out} is where the captures are", "another folder", "Choose a new one for the results")
    capture = read_capture_file(folder)
    if settings.focal:
        _check_cameras(capture, folder)
    key = _content_key(captures, info.key, report.frames, head, settings, neutral)
    if is_complete(out, info.key, key):
        report.kept = True
        return report
    unread: dict[str, None] = {}
    views = captured_views(captures, info.key, lambda why: unread.update({why: None}))
    fit, frames = fit_pictures(head, template, frames, views, settings, neutral=neutral, advance=advance)
    _tell(report, fit, frames, template, neutral is not None)
    report.remarks += [f"not compared with the other pictures: {why}" for why in unread]
    rig = capture.recorded(str(folder / CAPTURE_FILE), straighten_later=True)
    with staged_folder(place, replace=True) as staging, storage_errors(f"writing {info.key}"):
        _link(folder, capture, rig, report.frames, staging)
        _write(staging, template, fit)
        content = _described(capture, report, fit, head, key)
        (staging / CAPTURE_FILE).write_bytes(capture_file_bytes(content))
    return report


def _check_cameras(capture: CaptureFile, folder: Path) -> None:
    bent = [name for name, camera in capture.cameras.items() if camera.distortion is not None]
    if bent:
        raise InputError(
            f"{folder / CAPTURE_FILE}: camera {bent[0]} has lens distortion, and its focal length is to be found",
            "cameras without distortion where --focal is unknown",
            "Straighten the pictures first, or leave --focal out: whoever knows the distortion knows the focal length",
        )


def _content_key(
    captures: FolderCaptures,
    key: SequenceKey,
    frames: Sequence[int],
    head: HeadModel,
    settings: FitSettings,
    neutral: F64 | None,
) -> str:
    known = None if neutral is None else sha256_text(neutral.astype("<f8").tobytes().hex())
    inputs = [captures.input_digest(key, index) for index in frames]
    return sha256_text(canonical_json([_WRITER, head.template.digest, vars(settings), known, list(frames), inputs]))


def _tell(report: Fitted, fit: Fit, frames: Sequence[FitFrame], template: WarpTemplate, known: bool) -> None:
    report.spread_mm = 1000 * float(np.median(np.concatenate([frame.spread_m for frame in fit.frames])))
    report.focal_px = dict(fit.focal_px)
    report.disagreeing = disagreeing_cameras(fit)
    report.remarks += [disagreement_text(camera, scale) for camera, scale in report.disagreeing.items()]
    for index, figures in frame_figures(template, fit, frames).items():
        reasons = judge_fit(figures, FitLimits())[1]
        if reasons:
            report.doubtful[index] = "; ".join(reasons)
    report.remarks += few_views(frames, known)
    if report.doubtful:
        index, reason = next(iter(report.doubtful.items()))
        report.remarks.append(
            f"{len(report.doubtful)} of {len(frames)} frames are doubtful, as frame {index}: {reason}"
        )
    if report.left_out:
        shown = ", ".join(map(str, report.left_out[:5])) + (" …" if len(report.left_out) > 5 else "")
        report.remarks.append(f"left out: {len(report.left_out)} frames in which too little was seen ({shown})")


def _link(
    folder: Path, capture: CaptureFile, rig: tuple[RecordedCamera, ...], frames: Sequence[int], staging: Path
) -> None:
    """Give all files of the frames a second name: pictures, masks, depth maps, landmarks and evidence."""
    paths: set[Path] = set()
    for index in frames:
        for kind in (*PICTURES, DEPTH):
            paths.update(path for path, _ in camera_files(folder, capture, kind, rig, index).values())
        paths.update(landmark_files(folder, capture, rig, index).values())
        paths.update(path for found in evidence_files(folder, capture, rig, index).values() for path in found)
    for path in sorted(paths):
        place = staging / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        # The file itself, where it is a link: that would lead out of the capture.
        link_or_copy(path.resolve(), place)


def _write(staging: Path, template: WarpTemplate, fit: Fit) -> None:
    for frame in fit.frames:
        mesh = Mesh.of(frame.vertices, template.head.faces)
        details: dict[str, F64 | F32] = {
            "spread_m": frame.spread_m.astype(np.float32),
            "expression": frame.expression,
            "head_to_world": frame.head_to_world,
        }
        files = (
            (REGISTRATION.format(frame=frame.index), ply_bytes(mesh, precision="float32")),
            (DETAILS.format(frame=frame.index), npz_bytes(details)),
        )
        for name, data in files:
            place = staging / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)  # a link to a file of the capture's own
            place.write_bytes(data)
    (staging / PERSON).write_bytes(person_bytes(fit))


def _described(capture: CaptureFile, report: Fitted, fit: Fit, head: HeadModel, key: str) -> CaptureFile:
    """Return what the new capture says of itself."""
    at = [capture.frames.index(index) for index in report.frames]
    cameras = {}
    for name, camera in capture.cameras.items():
        changes: dict[str, Any] = {}
        if camera.poses is not None:
            changes["poses"] = [camera.poses[k] for k in at]
        if name in fit.focal_px:
            f, half = fit.focal_px[name], 0.5 - capture.pixel_center
            changes["K"] = [[f, 0.0, camera.width / 2 - half], [0.0, f, camera.height / 2 - half], [0.0, 0.0, 1.0]]
        cameras[name] = camera.model_copy(update=changes)
    # Times are counted from the first frame; where that is left out, the others keep what they were.
    times = capture.times_s
    clock: dict[str, Any] = {}
    if times is not None:
        clock = {"times_s": [times[k] for k in at]}
    elif at[0] and capture.fps is not None:
        clock = {"epoch_s": capture.epoch + (report.frames[0] - capture.frames[0]) / capture.fps}
    return capture.model_copy(
        update={
            "frames": list(report.frames),
            "cameras": cameras,
            "surface": "registration",
            "registration": RegistrationEntry(head=head.template.name, pattern=REGISTRATION, unit="m", spread=DETAILS),
            "generator": {"program": "datagen fit", "key": key},
            **clock,
        }
    )
