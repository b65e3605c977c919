"""Fits of simulated people, compared with the truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.fit.people import Person, blurred_neutral, displaced, looked_at, simulated_person
from datagen.common.arrays import F64, Bools
from datagen.fit.problem import Fit, FitFrame, FitSettings
from datagen.fit.solver import fit_frames
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.warp.similarity import fit_similarity
from datagen.warp.template import WarpTemplate, prepare_template

TWO, ONE = (1, 4), (2,)
# How far from the true one a focal length is where it is to be found.
FOCAL_GUESSES = (0.7, 1.4)
# Seen this far from the true place: a third of the picture's side.
WILD_PX = 32.0
POINT_SHARES = (0.1, 1 / 3)
VIEW_SHARES = (1 / 6, 1 / 3)


@dataclass(frozen=True)
class FitPlan:
    """What is simulated.

    Attributes
    ----------
    subjects, frames : int
        Frames are per subject.
    departure_mm : float
        RMS of the smooth displacement on top of the head model's shapes.
    sigma_px : float
        Of each coordinate of a point that is seen.
    seed : int
    """

    subjects: int = 4
    frames: int = 3
    departure_mm: float = 1.0
    sigma_px: float = 1.0
    seed: int = 11


@dataclass
class Errors:
    """Distances of face vertices to the truth, millimetres, of all people."""

    world: list[F64]
    aligned: list[F64]

    @property
    def median_mm(self) -> float:
        """Median in the world."""
        return float(np.median(np.concatenate(self.world)))

    @property
    def p95_mm(self) -> float:
        """Percentile 95 in the world."""
        return float(np.percentile(np.concatenate(self.world), 95))

    @property
    def aligned_mm(self) -> float:
        """Median after a rigid motion of each face."""
        return float(np.median(np.concatenate(self.aligned)))


class FitBench:
    """People, and what is fitted to them."""

    def __init__(self, plan: FitPlan, head: HeadModel, say: Callable[[str], None]) -> None:
        self.plan, self.head, self._say = plan, head, say
        self.template: WarpTemplate = prepare_template(head.template)
        self.face: Bools = mask_of(head.template.regions, FACE_REGIONS)
        self.people = [
            simulated_person(head, plan.seed, subject, plan.frames, plan.departure_mm)
            for subject in range(plan.subjects)
        ]
        self.seconds: list[float] = []

    def rng(self, subject: int, purpose: int) -> np.random.Generator:
        """Return the generator of one purpose."""
        return np.random.default_rng([self.plan.seed, subject, purpose])

    def seen(self, subject: int, cameras: Sequence[int] = range(6)) -> list[FitFrame]:
        """Return what some cameras see of a person."""
        person = self.people[subject]
        chosen = [person.cameras[k] for k in cameras]
        return looked_at(self.template, person, chosen, self.plan.sigma_px, self.rng(subject, len(chosen)))

    def fit(self, frames: Sequence[FitFrame], neutral: F64 | None = None, settings: FitSettings | None = None) -> Fit:
        """Fit, and take the time."""
        began = time.process_time()
        found = fit_frames(self.head, self.template, frames, settings or FitSettings(), neutral=neutral)
        self.seconds.append((time.process_time() - began) / len(frames))
        return found

    def errors(self, vertices: Sequence[F64], person: Person) -> tuple[F64, F64]:
        """Return how far face vertices are off, mm: in the world, and after a rigid motion of each frame's face."""
        world, aligned = [], []
        for found, true in zip(vertices, person.vertices, strict=True):
            x, y = found[self.face], true[self.face]
            world.append(np.linalg.norm(x - y, axis=1) * MM_PER_M)
            moved = fit_similarity(x, y, with_scale=False).apply(x)
            aligned.append(np.linalg.norm(moved - y, axis=1) * MM_PER_M)
        return np.concatenate(world), np.concatenate(aligned)

    def run(self) -> dict[str, float]:
        """Return all figures."""
        names = ("6", "2", "1", "1_alone")
        errors = {name: Errors([], []) for name in names}
        within: list[float] = []
        focal: list[float] = []
        focal_alone: list[float] = []
        wrong: dict[str, Errors] = {}
        for subject, person in enumerate(self.people):
            self._say(f"person {subject + 1} of {len(self.people)}")
            neutral = blurred_neutral(self.head, person, self.rng(subject, 0))
            everything = self.seen(subject)
            for name, frames, known in (
                ("6", everything, None),
                ("2", self.seen(subject, TWO), None),
                ("1", self.seen(subject, ONE), neutral),
                ("1_alone", self.seen(subject, ONE), None),
            ):
                found = self.fit(frames, known)
                world, aligned = self.errors([frame.vertices for frame in found.frames], person)
                errors[name].world.append(world)
                errors[name].aligned.append(aligned)
                if name == "6":
                    spread = np.concatenate([frame.spread_m[self.face] for frame in found.frames]) * MM_PER_M
                    within.append(float((world <= spread).mean()))
            for kind, shares in (("points", POINT_SHARES), ("views", VIEW_SHARES)):
                for share in shares:
                    rng = self.rng(subject, 100)
                    bad = displaced(everything, share, WILD_PX, rng, views=kind == "views")
                    found = self.fit(bad)
                    world, aligned = self.errors([frame.vertices for frame in found.frames], person)
                    one = wrong.setdefault(f"{kind}_{share:.2f}", Errors([], []))
                    one.world.append(world)
                    one.aligned.append(aligned)
            guess = FOCAL_GUESSES[subject % len(FOCAL_GUESSES)]
            focal += self._focal_errors(everything, guess, None)
            focal_alone += self._focal_errors(self.seen(subject, ONE), guess, neutral)
        figures = {
            "fit_6_median_mm": errors["6"].median_mm,
            "fit_6_p95_mm": errors["6"].p95_mm,
            "fit_2_median_mm": errors["2"].median_mm,
            "fit_2_p95_mm": errors["2"].p95_mm,
            "fit_1_aligned_mm": errors["1"].aligned_mm,
            "focal_error_percent": max(focal),
            "corrupted_ratio_max": max(one.median_mm for one in wrong.values()) / errors["6"].median_mm,
        }
        figures |= {f"corrupted_{name}_ratio": one.median_mm / errors["6"].median_mm for name, one in wrong.items()}
        return figures | {
            "fit_1_median_mm": errors["1"].median_mm,
            "fit_1_alone_median_mm": errors["1_alone"].median_mm,
            "fit_1_alone_aligned_mm": errors["1_alone"].aligned_mm,
            "focal_1_error_percent": max(focal_alone),
            "fit_6_within_spread": float(np.mean(within)),
            "seconds_per_frame": float(np.median(self.seconds)),
        }

    def _focal_errors(self, frames: Sequence[FitFrame], guess: float, neutral: F64 | None) -> list[float]:
        """Return by how many percent focal lengths are missed that the fit has to find."""
        true = {one.camera.name: float(one.camera.K[0, 0]) for frame in frames for one in frame.evidence}
        found = self.fit(unknown_focal(frames, guess), neutral, FitSettings(focal=True, rounds=30))
        return [100 * abs(focal / true[name] - 1) for name, focal in found.focal_px.items()]


def unknown_focal(frames: Sequence[FitFrame], guess: float) -> list[FitFrame]:
    """Return frames of cameras whose principal point is their picture's middle, and whose focal length is wrong."""

    def blinded(one: PixelEvidence) -> PixelEvidence:
        camera = one.camera
        middle = np.array([camera.width, camera.height]) / 2
        K = np.diag([guess * camera.K[0, 0], guess * camera.K[1, 1], 1.0])
        K[:2, 2] = middle
        pixels = one.points.pixels - camera.K[:2, 2] + middle
        return PixelEvidence(replace(one.points, pixels=pixels), replace(camera, K=K))

    return [replace(frame, evidence=[blinded(one) for one in frame.evidence]) for frame in frames]
