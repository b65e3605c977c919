"""What a fit is told: points of the template in the pictures of a sequence, whoever saw them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from datagen.common.errors import CanonfaceError, InputError, raise_if_passing
from datagen.common.seen_points import LEAST_SIGMA_PX, SeenPoints, as_stored
from datagen.evidence.contract import Maker, Seen
from datagen.fit.problem import FitFrame
from datagen.fit.start import FEWEST_POINTS
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.heads.base import HeadTemplate
from datagen.sources.frame import Captures, Frame, SequenceInfo

CAPTURED, LANDMARKS, DETECTOR = "captured", "landmarks", "detector"
# By what a sequence has to bring for it.
NEEDED = {CAPTURED: "evidence", LANDMARKS: "landmarks", DETECTOR: "images"}
SCHEME = "ibug68"


def seen_by(asked: str | Sequence[str], brings: Collection[str]) -> tuple[str, ...]:
    """Return who is asked of a sequence: those named, or the first that it has something for; none if it has nothing.

    Parameters
    ----------
    asked : "auto" or sequence of str
        Names of :data:`NEEDED`.
    brings : collection of str
        As of :meth:`datagen.sources.frame.Captures.brings`.
    """
    if isinstance(asked, str):
        return next(((name,) for name, kind in NEEDED.items() if kind in brings), ())
    return tuple(name for name in NEEDED if name in asked)


@dataclass
class SeenSequence:
    """What was seen in a sequence.

    Attributes
    ----------
    frames : list of FitFrame
        That can be fitted.
    left_out : dict of frame to reason
    made : dict of (frame, camera) to SeenPoints
        What a maker saw on the spot, of the frames that can be fitted.
    """

    frames: list[FitFrame] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    made: dict[tuple[int, str], SeenPoints] = field(default_factory=dict)


def seen_sequence(
    captures: Captures,
    info: SequenceInfo,
    indices: Sequence[int],
    who: Sequence[str],
    template: HeadTemplate,
    maker: Maker | None = None,
    *,
    strict: bool = True,
) -> SeenSequence:
    """Gather what was seen in the pictures of some frames.

    Parameters
    ----------
    who : sequence of str
        Names of :data:`NEEDED`; with ``detector`` there has to be a maker.
    strict : bool
        Whether a frame that cannot be read is an error; otherwise it is left out with the reason.

    Raises
    ------
    InputError
        If no frame shows enough points in any picture; if a frame cannot be read, unless that is allowed.
    """
    found = SeenSequence()
    for index in indices:
        made: dict[str, SeenPoints] = {}
        notes: list[str] = []
        try:
            frame = captures.frame(info.key, index)
            if DETECTOR in who and maker is not None:
                made = _made(frame, maker, notes)
            evidence = [*(frame.evidence if CAPTURED in who else ()), *_of_cameras(frame, made)]
            if LANDMARKS in who and frame.landmarks is not None:
                evidence += landmarks_in_pictures(frame, frame.landmarks, template)
        except InputError as error:
            raise_if_passing(error)
            if strict:
                raise
            found.left_out[index] = str(error)
            continue
        most = max((len(one.points) for one in evidence), default=0)
        if most >= FEWEST_POINTS:
            found.frames.append(FitFrame(index, frame.time_s, evidence))
            found.made.update({(index, camera): points for camera, points in made.items()})
        else:
            more = f" ({'; '.join(notes[:3])})" if notes else ""
            found.left_out[index] = (
                f"too little of the head was seen in its pictures: {most} points at most, {FEWEST_POINTS} are needed"
                + more
            )
    if not found.frames:
        first = f"; {next(iter(found.left_out.values()))}" if found.left_out else ""
        raise InputError(
            f"{info.key} has no frame with {FEWEST_POINTS} points or more that were seen in a picture{first}",
            "points of the template in pictures: files that `evidence` of capture.json names, landmarks, or faces "
            "that a detector finds",
            "`datagen evidence` looks for faces and says what each picture shows",
        )
    return found


def _made(frame: Frame, maker: Maker, notes: list[str]) -> dict[str, SeenPoints]:
    """Have a maker look at a frame's pictures; what it says of those that say nothing is noted."""
    pictures = {}
    for name, read in frame.images.items():
        try:
            pictures[name] = read()
        except CanonfaceError as error:
            raise_if_passing(error)
            notes.append(f"{name}: {error}")
    cameras = {camera.name: camera for camera in frame.cameras if camera.name in pictures}
    told: Mapping[str, Seen] = maker.look({name: pictures[name] for name in cameras}, cameras) if cameras else {}
    notes += [f"{name}: {seen.note}" for name, seen in told.items() if seen.points is None and seen.note]
    # As they are stored beside the fit, so that files of the same points give the same fit.
    return {name: as_stored(seen.points) for name, seen in told.items() if seen.points is not None}


def _of_cameras(frame: Frame, made: Mapping[str, SeenPoints]) -> list[PixelEvidence]:
    return [PixelEvidence(made[camera.name], camera) for camera in frame.cameras if camera.name in made]


def landmarks_in_pictures(frame: Frame, landmarks: Landmarks, template: HeadTemplate) -> list[PixelEvidence]:
    """Return landmarks (world metres) as the frame's cameras see them.

    How far hands differ in where they mark a point is an error of the point, which all cameras see alike: each is
    believed as much less as there are cameras. Along the view of a single camera landmarks tell nothing.
    """
    if landmarks.scheme != SCHEME:
        return []
    sigma_m = template.landmark_sigma_m[landmarks.indices]
    found = []
    for camera in frame.cameras:
        pixels, depth = camera.project(landmarks.points)
        ahead = depth > 0
        at = landmarks.indices[ahead]
        px_per_m = (camera.K[0, 0] + camera.K[1, 1]) / 2 / depth[ahead]
        variance = np.maximum((sigma_m[ahead] * px_per_m) ** 2 * len(frame.cameras), LEAST_SIGMA_PX**2)
        points = SeenPoints(
            source=LANDMARKS,
            template=template.digest,
            width=camera.width,
            height=camera.height,
            faces=template.landmark_faces[at].astype(np.int64),
            barycentric=template.landmark_barycentric[at],
            pixels=pixels[ahead],
            covariance=variance[:, None, None] * np.eye(2),
        )
        found.append(PixelEvidence(points, camera))
    return found
