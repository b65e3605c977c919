"""One run of the benchmark, from cases to figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from benchmarks.warp.cases import SEQUENCE_FPS, Case, CasePlan, subject_cases
from benchmarks.warp.figures import (
    CONFIDENT,
    REGION_GROUPS,
    Points,
    dispersion_mm,
    face_points,
    percentile,
    point_figures,
    reliability,
)
from benchmarks.warp.material import MaterialPoints
from benchmarks.warp.measure import FrameMeasure, PeakMemory, measure_case
from benchmarks.warp.peers import METHODS, register_with_peer
from datagen.audit.truth import Calibration
from datagen.common.arrays import F64
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.manifest import WarpConfig
from datagen.sources.frame import Frame, SequenceKey
from datagen.warp.engine import warp_frame
from datagen.warp.personal import SequencePrior
from datagen.warp.result import Warp
from datagen.warp.sequence import fit_sequence

WORST_KEPT = 3
# What the true template would achieve: no engine can be asked for less than the scanner's noise.
FLOOR_FIGURES = ("median_mm", "p95_mm", "sliding_median_mm", "residual_median_mm", "residual_p95_mm")


@dataclass(frozen=True)
class BenchResult:
    """Everything one run measured.

    Attributes
    ----------
    plan : CasePlan
    figures : dict of str to float
        Of the face, all frames pooled; NaN where nothing could be measured.
    regions : dict of region name to figures
    curve : Calibration
        Stated confidence against the share within a millimetre, on the face.
    frames : list of dict
        One entry for each case.
    by_noise : dict of the scan's noise (``"0.2"``) to figures
        Of the face.
    worst : list of FrameMeasure
        The cases with the largest 95th percentile of error, worst first.
    """

    plan: CasePlan
    figures: dict[str, float]
    regions: dict[str, dict[str, float]]
    curve: Calibration
    frames: list[dict[str, float | str]]
    by_noise: dict[str, dict[str, float]]
    worst: list[FrameMeasure]


@dataclass
class _Tally:
    """Sums over the frames measured so far."""

    points: list[Points] = field(default_factory=list)
    floor: list[Points] = field(default_factory=list)
    template_residual_mm: list[F64] = field(default_factory=list)
    frames: list[dict[str, float | str]] = field(default_factory=list)
    worst: list[tuple[float, FrameMeasure]] = field(default_factory=list)
    flips: int = 0
    crossings: int = 0
    refused: int = 0
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    prior_seconds: float = 0.0
    prior_cpu_seconds: float = 0.0
    peak_gib: float = 0.0
    dispersion_mm: list[F64] = field(default_factory=list)
    dispersion_sliding_mm: list[F64] = field(default_factory=list)
    dispersion_floor_mm: list[F64] = field(default_factory=list)
    peers: dict[str, list[F64]] = field(default_factory=dict)
    peer_seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, measure: FrameMeasure) -> None:
        """Add one frame."""
        self.points.append(measure.points)
        self.floor.append(measure.floor)
        self.template_residual_mm.append(measure.template_residual_mm)
        self.flips += measure.flips
        self.crossings += measure.crossings
        self.refused += measure.warp is None
        self.seconds.append(measure.seconds)
        self.cpu_seconds.append(measure.cpu_seconds)
        entry = measure.entry()
        self.frames.append(entry)
        rank = float(entry["p95_mm"])
        if np.isfinite(rank):
            self.worst = sorted([*self.worst, (rank, measure)], key=lambda pair: -pair[0])[:WORST_KEPT]


def run_bench(
    plan: CasePlan,
    head: HeadModel,
    config: WarpConfig,
    *,
    peer_frames: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchResult:
    """Simulate, warp and measure all cases of a plan.

    Parameters
    ----------
    plan : CasePlan
    head : HeadModel
    config : WarpConfig
    peer_frames : int
        How many frames the peers are given too (:mod:`benchmarks.warp.peers`): :func:`peer_picks`.
    progress : callable
        Called with one line at a time.

    Raises
    ------
    datagen.common.errors.DependencyError
        If peers are asked for and a package they need is missing.
    """
    tally = _Tally()
    material = MaterialPoints.drawn(head.template, plan.seed)
    for_peers = peer_picks(plan.subjects, plan.frames, peer_frames)
    for subject in range(plan.subjects):
        cases = list(subject_cases(plan, head, subject))
        if subject == 0:
            warp_case(cases[0], head, config)  # the first warp prepares the template, which no frame should pay for
        prior = None
        if plan.track == "sequence":
            with PeakMemory() as memory:
                started, cpu_started = time.perf_counter(), time.process_time()
                prior = learnt_prior(cases, head, config)
                tally.prior_seconds += time.perf_counter() - started
                tally.prior_cpu_seconds += time.process_time() - cpu_started
            tally.peak_gib = max(tally.peak_gib, memory.gib)
        by_strength = sorted(range(len(cases)), key=lambda k: -cases[k].strength)
        differences = []
        for k, case in enumerate(cases):
            with PeakMemory() as memory:
                measure = measure_case(case, head, config, partial(warp_case, head=head, config=config, prior=prior))
            tally.peak_gib = max(tally.peak_gib, memory.gib)
            tally.add(measure)
            progress(_line(tally.frames[-1]))
            if plan.track == "sequence":
                differences.append(material.differences_m(measure, head.template))
            if (subject, by_strength.index(k)) in for_peers:
                _compare(tally, measure, head, progress)
        if differences:
            ours, floor = np.stack(differences, axis=1)
            tally.dispersion_mm.append(dispersion_mm(ours))
            tally.dispersion_sliding_mm.append(dispersion_mm(material.sliding(ours)))
            tally.dispersion_floor_mm.append(dispersion_mm(floor))
    return _result(plan, tally)


def warp_case(case: Case, head: HeadModel, config: WarpConfig, prior: SequencePrior | None = None) -> Warp:
    """Warp a case from all that is given with it, and what its sequence has taught."""
    return warp_frame(case.scan, head, config, registration=case.registration, landmarks=case.landmarks, prior=prior)


def learnt_prior(cases: Sequence[Case], head: HeadModel, config: WarpConfig) -> SequencePrior | None:
    """Learn what the frames of one sequence share, as a build does before it warps them."""
    by_frame = {case.frame: case for case in cases}
    return fit_sequence(head, sorted(by_frame), lambda index: frame_of(by_frame[index]), config)


def frame_of(case: Case) -> Frame:
    """Return a case of a sequence as the frame that a source would read."""
    key = SequenceKey(f"s{case.subject:03d}", "bench")
    images = {name: partial(np.asarray, picture) for name, picture in case.images.items()}
    time_s = case.frame / SEQUENCE_FPS
    return Frame(key, case.frame, time_s, case.scan, case.cameras, case.registration, case.landmarks, images)


def peer_picks(subjects: int, frames: int, count: int) -> set[tuple[int, int]]:
    """Choose (subject, rank of its expression's strength) for the peers.

    Spread over the people in turn, and from the strongest expression (rank 0) to the weakest.
    """
    count = min(count, subjects * frames)
    picks: set[tuple[int, int]] = set()
    for k in range(count):
        subject, rank = k % subjects, round(k * (frames - 1) / max(count - 1, 1))
        free = [r for r in range(frames) if (subject, r) not in picks]
        picks.add((subject, min(free, key=lambda r: abs(r - rank))))
    return picks


def _compare(tally: _Tally, measure: FrameMeasure, head: HeadModel, progress: Callable[[str], None]) -> None:
    """Give a case to the peers, and measure them on the vertices that we carry."""
    case = measure.case
    counted = np.isfinite(measure.points.error_mm) & mask_of(case.region, FACE_REGIONS)
    tally.peers.setdefault("ours", []).append(measure.points.error_mm[counted])
    tally.peer_seconds.setdefault("ours", []).append(measure.seconds)
    for method in METHODS:
        peer = register_with_peer(method, case, head)
        error = head.template.space.distance_mm(peer.canonical, case.truth)[counted]
        tally.peers.setdefault(method, []).append(error)
        tally.peer_seconds.setdefault(method, []).append(peer.seconds)
        progress(f"  {method}: median {percentile(error, 50):.2f} mm, {peer.seconds:.0f} s")


def _line(entry: dict[str, float | str]) -> str:
    return (
        f"subject {entry['subject']} frame {entry['frame']}: median {entry['median_mm']:.2f} mm, "
        f"p95 {entry['p95_mm']:.2f} mm, {entry['flips']} flips, {entry['seconds']:.1f} s, {entry['verdict']}"
    )


def _result(plan: CasePlan, tally: _Tally) -> BenchResult:
    points = Points.pooled(tally.points)
    face = face_points(points)
    both_ways = np.concatenate(tally.template_residual_mm)
    figures = point_figures(face) | {
        "template_residual_median_mm": percentile(both_ways, 50),
        "template_residual_p95_mm": percentile(both_ways, 95),
        "flips": float(tally.flips),
        "crossings": float(tally.crossings),
        "frames": float(len(tally.frames)),
        "frames_refused": float(tally.refused),
        "seconds_per_frame": (sum(tally.seconds) + tally.prior_seconds) / len(tally.frames),
        "cpu_seconds_per_frame": (sum(tally.cpu_seconds) + tally.prior_cpu_seconds) / len(tally.frames),
        "peak_gib": tally.peak_gib,
    }
    floor = point_figures(face_points(Points.pooled(tally.floor)))
    figures |= {f"floor_{name}": floor[name] for name in FLOOR_FIGURES}
    stray = points.confidence[points.region == 0]
    figures["stray_confident"] = float((stray >= CONFIDENT).mean()) if len(stray) else float("nan")
    if tally.dispersion_mm:
        wander, sliding = np.concatenate(tally.dispersion_mm), np.concatenate(tally.dispersion_sliding_mm)
        figures |= {
            "dispersion_median_mm": percentile(wander, 50),
            "dispersion_p95_mm": percentile(wander, 95),
            "dispersion_sliding_median_mm": percentile(sliding, 50),
            "floor_dispersion_median_mm": percentile(np.concatenate(tally.dispersion_floor_mm), 50),
        }
    if tally.peers:
        figures |= _peer_figures(tally)
    regions = {name: point_figures(points.within(labels)) for name, labels in REGION_GROUPS.items()}
    worst = [measure for _, measure in tally.worst]
    levels = [float(entry["noise_mm"]) for entry in tally.frames]
    by_noise = {
        f"{level:g}": point_figures(
            face_points(Points.pooled([p for p, noise in zip(tally.points, levels, strict=True) if noise == level]))
        )
        for level in sorted(set(levels))
    }
    return BenchResult(plan, figures, regions, reliability(face), tally.frames, by_noise, worst)


def _peer_figures(tally: _Tally) -> dict[str, float]:
    figures = {"peer_frames": float(len(tally.peers["ours"]))}
    for method, errors in tally.peers.items():
        name = "same_frames" if method == "ours" else method
        pooled = np.concatenate(errors)
        figures[f"{name}_median_mm"] = percentile(pooled, 50)
        figures[f"{name}_p95_mm"] = percentile(pooled, 95)
        figures[f"{name}_seconds_per_frame"] = float(np.mean(tally.peer_seconds[method]))
    figures["speedup_amberg"] = figures["amberg_seconds_per_frame"] / figures["same_frames_seconds_per_frame"]
    better = min(figures["amberg_median_mm"], figures["sumner_median_mm"])
    figures["error_over_better_peer"] = figures["same_frames_median_mm"] / better
    return figures
