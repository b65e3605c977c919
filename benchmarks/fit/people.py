"""Simulated people off the head model, and what cameras see of them: points with independent noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from datagen.common.arrays import F64, I64
from datagen.common.seen_points import SeenPoints
from datagen.fit.problem import FitFrame
from datagen.geometry.camera import Camera
from datagen.geometry.mesh import normalised, vertex_normals
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.heads.base import HeadModel
from datagen.heads.regions import INTERIOR_REGIONS, mask_of
from datagen.simulation.capture import SimulatedCapture
from datagen.simulation.person import identity_departure
from datagen.sources.registry import SimulatedSource
from datagen.warp.template import WarpTemplate

PICTURE_PX = 96
# A surface that leans away farther is not seen.
LEAST_COSINE = 0.1
OFF_NEUTRAL_M = 1e-3
SOURCE = "simulated"


@dataclass(frozen=True, eq=False)
class Person:
    """One person's frames, and the truth of them.

    Attributes
    ----------
    vertices : (T, V, 3) float64
        Control vertices, world metres.
    times_s : (T,) float64
    cameras : tuple of Camera
        Of pictures of 96 pixels, of which the head fills two thirds.
    neutral : (V, 3) float64
        The face at rest, template axes, metres.
    """

    vertices: F64
    times_s: F64
    cameras: tuple[Camera, ...]
    neutral: F64


def simulated_person(head: HeadModel, seed: int, subject: int, frames: int, departure_mm: float) -> Person:
    """Draw a person; frames are far apart in time, so that expressions differ."""
    config = SimulatedSource(
        kind="simulated",
        subjects=subject + 1,
        frames=frames,
        cameras=6,
        image_size=PICTURE_PX,
        scan_vertices=2000,
        fps=2.0,
    )
    capture = SimulatedCapture(config, seed, subject, head, departure_rms_m=departure_mm / 1000, images=False)
    shapes = np.stack([capture.subject.shape(weights) for weights in capture.expressions])
    vertices = np.einsum("tvj,tij->tvi", shapes, capture.poses[:, :3, :3]) + capture.poses[:, None, :3, 3]
    neutral = capture.subject.shape(np.zeros(len(head.expression_names)))
    return Person(vertices, capture.times_s, capture.cameras, neutral)


def blurred_neutral(head: HeadModel, person: Person, rng: np.random.Generator) -> F64:
    """Return the face at rest, off by a smooth millimetre (RMS), as another program would have it."""
    return np.asarray(person.neutral + identity_departure(head.template, OFF_NEUTRAL_M, rng))


def looked_at(
    template: WarpTemplate, person: Person, cameras: Sequence[Camera], sigma_px: float, rng: np.random.Generator
) -> list[FitFrame]:
    """Return what some cameras see of all frames: the visible vertices of the skin, each with noise of its own."""
    head = template.head
    corner, face_of = _corners(head.faces, len(head.vertices))
    skin = ~mask_of(head.regions, INTERIOR_REGIONS) & (face_of >= 0)
    on_surface = template.subdivide[: len(head.vertices)]
    frames = []
    for t, (vertices, time_s) in enumerate(zip(person.vertices, person.times_s.tolist(), strict=True)):
        shown = on_surface @ vertices
        normals = vertex_normals(shown, head.faces)
        evidence = []
        for camera in cameras:
            cosine = (normals * normalised(camera.centre - shown)).sum(axis=1)
            seen = np.flatnonzero(skin & (cosine > LEAST_COSINE))
            pixels = camera.project(shown[seen])[0] + sigma_px * rng.normal(size=(len(seen), 2))
            evidence.append(
                PixelEvidence(_points(head.digest, camera, face_of[seen], corner[seen], pixels, sigma_px), camera)
            )
        frames.append(FitFrame(t, time_s, evidence))
    return frames


def _points(digest: str, camera: Camera, faces: I64, corner: I64, pixels: F64, sigma_px: float) -> SeenPoints:
    covariance = np.broadcast_to(sigma_px**2 * np.eye(2), (len(faces), 2, 2))
    return SeenPoints(SOURCE, digest, camera.width, camera.height, faces, np.eye(3)[corner], pixels, covariance)


def _corners(faces: np.ndarray, count: int) -> tuple[I64, I64]:
    """Return for each vertex the corner of a face that it is, and the face; -1 for those of none."""
    corner, face = np.zeros(count, np.int64), np.full(count, -1, np.int64)
    for k in range(3):
        corner[faces[:, k]] = k
        face[faces[:, k]] = np.arange(len(faces))
    return corner, face


def displaced(
    frames: Sequence[FitFrame], share: float, by_px: float, rng: np.random.Generator, *, views: bool
) -> list[FitFrame]:
    """Return frames with a share of all views, or of the points of each, seen somewhere else."""
    result = []
    for frame in frames:
        evidence = list(frame.evidence)
        wrong = set(rng.permutation(len(evidence))[: max(1, round(share * len(evidence)))].tolist()) if views else set()
        for k, one in enumerate(evidence):
            pixels = one.points.pixels.copy()
            if k in wrong:
                angle = rng.uniform(0, 2 * np.pi)
                pixels += by_px * np.array([np.cos(angle), np.sin(angle)])
            elif not views:
                bad = rng.random(len(pixels)) < share
                pixels[bad] += by_px * rng.normal(size=(int(bad.sum()), 2))
            evidence[k] = PixelEvidence(replace(one.points, pixels=pixels), one.camera)
        result.append(replace(frame, evidence=evidence))
    return result
