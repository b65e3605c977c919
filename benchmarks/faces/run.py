"""Simulated people, warped, and what is kept of their faces beside the truth."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from datagen.common.arrays import F64
from datagen.heads.base import HeadModel, HeadTemplate
from datagen.heads.contents import template_contents
from datagen.heads.regions import FACE_REGIONS, INTERIOR_REGIONS, mask_of
from datagen.heads.unwrap import unwrap
from datagen.manifest import WarpConfig
from datagen.shards.faces import FrameRow
from datagen.simulation.capture import SimulatedCapture
from datagen.sources.frame import Registration
from datagen.sources.registry import SimulatedSource
from datagen.warp.engine import warp_frame
from datagen.warp.frames import frame_row
from datagen.warp.parameters import fit_parameters
from datagen.warp.template import WarpTemplate, prepare_template

CONFIG = WarpConfig()
EXACT_PEOPLE = 16
SCAN = 20_000
MUSCLES_AT_WORK = 0.15


@dataclass(frozen=True)
class FacePlan:
    """What is simulated.

    Attributes
    ----------
    subjects, frames : int
        Frames are per subject.
    departure_mm : float
        RMS of the smooth displacement on top of the head model's shapes.
    seed : int
    """

    subjects: int
    frames: int
    departure_mm: float
    seed: int


def run_face_bench(plan: FacePlan, head: HeadModel, say: Callable[[str], None]) -> dict[str, float]:
    """Return all figures."""
    template = prepare_template(head.template, CONFIG.subdivisions)
    say(f"fitting {EXACT_PEOPLE} people that the head model makes")
    figures = exact_figures(head, template, plan.seed)
    rms: dict[str, list[float]] = {"registration": [], "landmarks": []}
    within: dict[str, list[F64]] = {name: [] for name in rms}
    for subject in range(plan.subjects):
        config = SimulatedSource(
            kind="simulated", subjects=plan.subjects, frames=plan.frames, cameras=8, image_size=64, scan_vertices=SCAN
        )
        capture = SimulatedCapture(
            config, plan.seed, subject, head, departure_rms_m=plan.departure_mm / 1000, images=False
        )
        for index in range(plan.frames):
            say(f"warping frame {index + 1} of {plan.frames} of person {subject + 1} of {plan.subjects}")
            frame = capture.frame(index)
            given = {"registration": Registration(head.template.name, frame.registration), "landmarks": None}
            for name, registration in given.items():
                warp = warp_frame(frame.scan, head, CONFIG, registration=registration, landmarks=frame.landmarks)
                row = frame_row(warp, head, subject=f"s{subject:03d}", sequence="talk", frame=index, time_s=0.0)
                rms[name].append(row.parameter_rms_mm)
                within[name].append(_errors_in_sigma(row, template, frame.template_vertices))
    for name, apart_mm in rms.items():
        errors = np.concatenate(within[name])
        figures[f"{name}_rms_mm"] = float(np.median(apart_mm))
        figures[f"{name}_within_sigma"] = float((errors <= 1).mean())
        figures[f"{name}_within_two_sigma"] = float((errors <= 2).mean())
    return figures | texture_figures(head.template) | content_figures(head, template)


def exact_figures(head: HeadModel, template: WarpTemplate, seed: int) -> dict[str, float]:
    """Return how near parameters come to faces that the model makes, and the processor time of a fit."""
    apart, busy_ms = [], []
    for person in range(EXACT_PEOPLE):
        rng = np.random.default_rng([seed, person])
        size = len(head.expression_names)
        identity = np.clip(rng.normal(size=head.identity_size), -2, 2)
        expression = np.where(rng.random(size) < MUSCLES_AT_WORK, rng.random(size), 0.0)
        fine = template.subdivide @ head.vertices(identity, expression)
        started = time.process_time()
        apart.append(fit_parameters(head, template, fine, np.eye(4)).rms_mm)
        busy_ms.append(1000 * (time.process_time() - started))
    return {
        "exact_rms_mm": float(np.median(apart)),
        "exact_rms_mm_max": float(np.max(apart)),
        "fit_ms": float(np.median(busy_ms)),
    }


def _errors_in_sigma(row: FrameRow, template: WarpTemplate, truth: F64) -> F64:
    """Return the errors (3 n,) of the skin's coordinates in units of their spread."""
    pose = row.head_to_world.astype(np.float64)
    on_skin = (template.subdivide[: len(truth)] @ truth - pose[:3, 3]) @ pose[:3, :3]
    shown = ~mask_of(template.head.regions, INTERIOR_REGIONS)
    error = np.abs(row.vertices - on_skin)[shown] / np.maximum(row.spread_m[shown, None], 1e-9)
    return np.asarray(error.ravel(), np.float64)


def texture_figures(template: HeadTemplate) -> dict[str, float]:
    """Return how evenly texture coordinates are spread, and what they cost."""
    started = time.process_time()
    laid = unwrap(template)
    seconds = time.process_time() - started
    a, b, c = (laid.uv[laid.faces[:, k]] for k in range(3))
    flat = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    a, b, c = (template.vertices[template.faces[:, k]] for k in range(3))
    surface = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    face = laid.main & mask_of(template.regions[template.faces], FACE_REGIONS).all(axis=1)
    share = flat[face] / surface[face]
    low, high = np.percentile(share / np.median(share), [5, 95])
    return {
        "flipped_triangles": float((flat <= 0).sum()),
        "face_area_p5": float(low),
        "face_area_p95": float(high),
        "main_chart_share": float(flat[laid.main].sum()),
        "unwrap_s": seconds,
    }


def content_figures(head: HeadModel, template: WarpTemplate) -> dict[str, float]:
    """Return the bytes of what a dataset holds of a head model, before compression."""
    levels = round(np.log(len(template.faces) / len(template.head.faces)) / np.log(4))
    contents = template_contents(head, levels)
    arrays = (getattr(contents, field.name) for field in fields(contents))
    return {"template_bytes": float(sum(array.nbytes for array in arrays if isinstance(array, np.ndarray)))}
