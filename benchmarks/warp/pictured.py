"""What a person's own texture adds to the warp of a sequence, beside the same frames without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import numpy as np

from benchmarks.goal import Goal, judged, verdict
from benchmarks.warp.cases import Case, CasePlan, subject_cases
from benchmarks.warp.figures import REGION_GROUPS, Points, dispersion_mm, face_points, percentile, point_figures
from benchmarks.warp.material import MaterialPoints
from benchmarks.warp.measure import FrameMeasure, measure_case
from benchmarks.warp.run import frame_of, learnt_prior
from datagen.common.arrays import F64
from datagen.common.files import json_ready
from datagen.evidence.look import TextureLook
from datagen.evidence.sequence import fit_appearance, template_vertices
from datagen.evidence.texture import Appearance
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.heads.base import HeadModel
from datagen.manifest import WarpConfig
from datagen.render.registry import make_renderer
from datagen.sources.frame import Frame
from datagen.warp.engine import warp_frame
from datagen.warp.personal import SequencePrior
from datagen.warp.result import Warp
from datagen.warp.sequence import keyframes_of

SMOOTH = ("forehead", "cheeks")
# Shares of the pictures that are of another place: 12 px off, each in a direction of its own.
CORRUPTED = (0.1, 1 / 3, 1.0)
OFF_PX = 12.0
# The corrupted are measured on some frames only.
CORRUPTED_FRAMES = 4

GOALS = (
    Goal("warp_all_ratio", 0.75),
    Goal("warp_smooth_ratio", 0.6),
    Goal("warp_p95_ratio", 1.0),
    Goal("sequence_sliding_ratio", 0.5),
    Goal("corrupted_ratio_max", 1.0),
    Goal("calibration_error", 0.05),
)


@dataclass(frozen=True)
class Told:
    """What was measured, without pictures and with them.

    Attributes
    ----------
    figures : mapping of str to float
    table : mapping of region to (without, with) medians, mm
    """

    figures: Mapping[str, float]
    table: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Person:
    """What was learnt of the person of a sequence."""

    head: HeadModel
    config: WarpConfig
    prior: SequencePrior | None
    look: TextureLook
    appearance: Appearance | None

    def seen(self, case: Case) -> list[PixelEvidence]:
        """Return what the pictures of a case say."""
        if self.appearance is None:
            return []
        frame = frame_of(case)
        vertices = template_vertices(frame, self.head, self.config, self.prior, ())
        return self.look.evidence(frame, vertices, self.appearance)

    def measure(self, case: Case, pixels: Sequence[PixelEvidence]) -> FrameMeasure:
        """Warp a case and measure it."""
        return measure_case(case, self.head, self.config, partial(self._warp, pixels=pixels))

    def _warp(self, case: Case, pixels: Sequence[PixelEvidence]) -> Warp:
        return warp_frame(
            case.scan,
            self.head,
            self.config,
            registration=case.registration,
            landmarks=case.landmarks,
            prior=self.prior,
            pixels=pixels,
        )


def run(plan: CasePlan, head: HeadModel, config: WarpConfig, progress: Callable[[str], None]) -> Told:
    """Simulate, warp and measure the sequences of a plan."""
    look = TextureLook.of(head.template, make_renderer("numba"))
    material = MaterialPoints.drawn(head.template, plan.seed)
    without, pictured, sliding = [], [], []
    corrupted: dict[float, list[float]] = {share: [] for share in CORRUPTED}
    seconds = {"learning": 0.0, "looking": 0.0}
    for subject in range(plan.subjects):
        cases = list(subject_cases(plan, head, subject))
        by_frame = {case.frame: case for case in cases}
        prior = learnt_prior(cases, head, config)
        started = perf_counter()
        appearance = None
        if prior is not None:
            keys = keyframes_of(sorted(by_frame))
            appearance = fit_appearance(look, head, prior, keys, partial(_frame, by_frame), config)
        seconds["learning"] += perf_counter() - started
        person = Person(head, config, prior, look, appearance)
        pairs = []
        for k, case in enumerate(cases):
            started = perf_counter()
            seen = person.seen(case)
            seconds["looking"] += perf_counter() - started
            pairs.append((person.measure(case, ()), person.measure(case, seen)))
            ours = [np.nanmedian(face_points(m.points).error_mm) for m in pairs[-1]]
            progress(f"subject {subject} frame {case.frame}: {ours[0]:.2f} mm, with pictures {ours[1]:.2f} mm")
            if k % max(1, len(cases) // CORRUPTED_FRAMES) == 0:
                for share, ratios in corrupted.items():
                    wrong = person.measure(case, moved(seen, share, np.random.default_rng([plan.seed, k])))
                    ratios.append(float(np.nanmedian(face_points(wrong.points).error_mm) / ours[0]))
        without += [pair[0] for pair in pairs]
        pictured += [pair[1] for pair in pairs]
        wander = [np.stack([material.differences_m(pair[k], head.template) for pair in pairs], axis=1) for k in (0, 1)]
        sliding.append([dispersion_mm(material.sliding(differences[0])) for differences in wander])
        sliding[-1].append(dispersion_mm(material.sliding(wander[0][1])))
    frames = len(without)
    return _told(without, pictured, sliding, corrupted, {name: total / frames for name, total in seconds.items()})


def _frame(by_frame: Mapping[int, Case], index: int) -> Frame:
    return frame_of(by_frame[index])


def moved(seen: Sequence[PixelEvidence], share: float, random: np.random.Generator) -> list[PixelEvidence]:
    """Return evidence of which a share of the pictures, one at least, is off as if they showed another instant."""
    wrong = random.permutation(len(seen))[: max(1, round(share * len(seen)))] if seen else ()
    moved = list(seen)
    for k in wrong:
        angle = random.uniform(0, 2 * np.pi)
        points = seen[k].points
        off = OFF_PX * np.array([np.cos(angle), np.sin(angle)])
        moved[k] = replace(seen[k], points=replace(points, pixels=points.pixels + off))
    return moved


def _told(
    without: list[FrameMeasure],
    pictured: list[FrameMeasure],
    sliding: list[list[F64]],
    corrupted: Mapping[float, list[float]],
    seconds: Mapping[str, float],
) -> Told:
    both = [Points.pooled([measure.points for measure in measures]) for measures in (without, pictured)]
    faces = [face_points(points) for points in both]
    whole = [point_figures(face) for face in faces]
    smooth = [percentile(points.within(SMOOTH).error_mm, 50) for points in both]
    wander = [float(np.nanmedian(np.concatenate([person[k] for person in sliding]))) for k in range(3)]
    figures = {
        "without_median_mm": whole[0]["median_mm"],
        "median_mm": whole[1]["median_mm"],
        "without_p95_mm": whole[0]["p95_mm"],
        "p95_mm": whole[1]["p95_mm"],
        "warp_all_ratio": whole[1]["median_mm"] / whole[0]["median_mm"],
        "warp_smooth_ratio": smooth[1] / smooth[0],
        "warp_p95_ratio": whole[1]["p95_mm"] / whole[0]["p95_mm"],
        "without_sliding_mm": wander[0],
        "sliding_mm": wander[1],
        "floor_sliding_mm": wander[2],
        "sequence_sliding_ratio": wander[1] / wander[0],
        "corrupted_ratio_max": max(float(np.median(ratios)) for ratios in corrupted.values()),
        "without_calibration_error": whole[0]["calibration_error"],
        "calibration_error": whole[1]["calibration_error"],
        "frames": float(len(without)),
        "learning_s_per_frame": seconds["learning"],
        "looking_s_per_frame": seconds["looking"],
    }
    figures |= {f"corrupted_{share:.0%}": float(np.median(ratios)) for share, ratios in corrupted.items()}
    table = {name: _medians(both, group) for name, group in REGION_GROUPS.items()}
    return Told(figures, table)


def _medians(both: Sequence[Points], names: tuple[str, ...]) -> tuple[float, float]:
    without, pictured = (percentile(points.within(names).error_mm, 50) for points in both)
    return without, pictured


def as_text(told: Told) -> list[str]:
    """Return the figures as lines."""
    lines = [f"{'region':12} {'without':>8} {'pictures':>8}   mm, median"]
    lines += [f"{name:12} {a:8.2f} {b:8.2f}" for name, (a, b) in told.table.items()]
    goals = judged(GOALS, told.figures)
    return lines + [f"{name:26} {value:8.3f}   {verdict(goals.get(name))}" for name, value in told.figures.items()]


def as_json(told: Told) -> dict[str, object]:
    """Return the figures, the goals and the table by region."""
    goals = judged(GOALS, told.figures)
    return dict(json_ready({"figures": told.figures, "goals": goals, "regions": told.table}))
