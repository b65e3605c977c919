"""Scans with known truth for the benchmark of the warp, of people that the head model cannot represent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from datagen.geometry.camera import Camera
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.heads.base import HeadModel
from datagen.simulation.capture import SimulatedCapture
from datagen.sources.frame import Image, Registration
from datagen.sources.registry import SimulatedSource

Track = Literal["registration", "landmarks", "sequence"]
People = Literal["model", "real"]

NOISES_MM = (0.2, 0.5)
SEQUENCE_FPS = 24.0
# Single frames are picked from a performance long enough to show every kind of expression.
PERFORMANCE_FRAMES = 240
PERFORMANCE_FPS = 12.0
PICKS_APART = 6  # half a second: two picks are not one expression


@dataclass(frozen=True)
class CasePlan:
    """What is simulated, and what the warp is given of it.

    Attributes
    ----------
    track : ``registration``, ``landmarks`` or ``sequence``
    subjects, frames : int
        Frames are per subject.
    seed : int
    scan_vertices : int
        About; stray pieces come on top.
    registration, landmarks : bool
        Which of the two the warp is given.
    registration_error_mm : float
        RMS of the smooth error of the supplied registration.
    landmark_noise_mm : float
        Standard deviation per coordinate.
    departure_mm : float
        RMS of the smooth displacement on top of the head model's shapes, where the people are the model's.
    people : ``model`` or ``real``
        Of the head model, or with the proportions of real faces and expressions of their own
        (:mod:`datagen.simulation.real_people`).
    image_px, cameras : int
        Pictures are made if a picture has pixels.
    """

    track: Track
    subjects: int
    frames: int
    seed: int
    scan_vertices: int
    registration: bool
    landmarks: bool
    registration_error_mm: float = 2.0
    landmark_noise_mm: float = 0.5
    departure_mm: float = 1.5
    people: People = "model"
    image_px: int = 0
    cameras: int = 8


@dataclass(frozen=True)
class Case:
    """One scan, what the warp is given with it, and its truth, which the warp never sees.

    Attributes
    ----------
    subject, frame : int
    strength : float
        Euclidean length of the expression weights; 0 is neutral.
    noise_mm : float
        Standard deviation of the scan's noise along its normal.
    scan : Mesh
    registration : Registration or None
    landmarks : Landmarks or None
    truth : (N, 3) float32
        True normalised canonical coordinate of each scan vertex; NaN for stray pieces.
    region : (N,) uint8
        True label of each scan vertex; 0 for stray pieces.
    template_vertices : (V, 3) float64
        The true template, world metres.
    cameras : tuple of Camera
    images : mapping of camera name to (H, W, 3) uint8
        Empty unless asked for.
    """

    subject: int
    frame: int
    strength: float
    noise_mm: float
    scan: Mesh
    registration: Registration | None
    landmarks: Landmarks | None
    truth: npt.NDArray[np.float32]
    region: npt.NDArray[np.uint8]
    template_vertices: F64
    cameras: tuple[Camera, ...] = ()
    images: Mapping[str, Image] = field(default_factory=dict)


def subject_cases(plan: CasePlan, head: HeadModel, subject: int) -> Iterator[Case]:
    """Simulate the cases of one subject, one after another.

    A sequence is consecutive, with one level of noise; otherwise half of the frames are the strongest expressions of a
    long performance, one is neutral and the rest lie in between, and the levels of noise alternate.
    """
    sequence = plan.track == "sequence"
    config = SimulatedSource(
        kind="simulated",
        people=plan.people,
        subjects=plan.subjects,
        frames=plan.frames if sequence else PERFORMANCE_FRAMES,
        fps=SEQUENCE_FPS if sequence else PERFORMANCE_FPS,
        scan_vertices=plan.scan_vertices,
        registration_error_mm=plan.registration_error_mm,
        landmark_noise_mm=plan.landmark_noise_mm,
        cameras=plan.cameras,
        image_size=plan.image_px or 384,
    )
    departure_m = plan.departure_mm / 1000 if plan.people == "model" else 0.0
    capture = SimulatedCapture(config, plan.seed, subject, head, departure_rms_m=departure_m, images=plan.image_px > 0)
    strengths = np.linalg.norm(capture.expressions, axis=1)
    picks = [(k, False) for k in range(plan.frames)] if sequence else picked_frames(strengths, plan.frames)
    for order, (index, neutral) in enumerate(picks):
        noise_mm = NOISES_MM[(subject + (0 if sequence else order)) % len(NOISES_MM)]
        frame = capture.frame(
            index, expression=np.zeros(capture.expressions.shape[1]) if neutral else None, scan_noise_mm=noise_mm
        )
        yield Case(
            subject=subject,
            frame=index,
            strength=0.0 if neutral else float(strengths[index]),
            noise_mm=noise_mm,
            scan=frame.scan,
            registration=Registration(head.template.name, frame.registration) if plan.registration else None,
            landmarks=frame.landmarks if plan.landmarks else None,
            truth=frame.truth,
            region=frame.region,
            template_vertices=frame.template_vertices,
            cameras=tuple(capture.cameras),
            images=frame.images,
        )


def picked_frames(strengths: F64, count: int) -> list[tuple[int, bool]]:
    """Choose frames from neutral to extreme.

    Parameters
    ----------
    strengths : (T,) float64
        Strength of the expression in each frame of a performance.
    count : int

    Returns
    -------
    list of (frame, neutral)
        The stronger half first, at least half a second apart where the performance is long enough; then one whose
        expression is to be replaced by neutral, and others evenly spread over the rest of the range.
    """
    extreme: list[int] = []
    for apart in (PICKS_APART, 0):
        for index in np.argsort(-strengths, kind="stable"):
            if len(extreme) < (count + 1) // 2 and all(abs(int(index) - other) > apart for other in extreme):
                extreme.append(int(index))
    picks = [(index, False) for index in extreme]
    rest = [int(index) for index in np.argsort(strengths, kind="stable") if int(index) not in extreme]
    for k in range(count - len(extreme)):
        picks.append((rest[k * len(rest) // max(count - len(extreme), 1)], k == 0))
    return picks
