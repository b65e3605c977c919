"""What confidence is calibrated on: simulated people, people of another head model, and real families."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.warp.agreement import true_error_mm
from benchmarks.warp.calibrate import Points
from benchmarks.warp.cases import Case, CasePlan, subject_cases
from benchmarks.warp.cross_model import IctPerson, cross_model_sequence, read_motion, spread_over
from benchmarks.warp.families import FaceRegion, FaceTemplate, Family, face_region, read_families
from benchmarks.warp.hidden import HiddenScan
from datagen.common.arrays import F64, Bools
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadModel
from datagen.heads.registry import load_head
from datagen.manifest import WarpConfig
from datagen.sources.frame import Frame, Registration, SequenceKey
from datagen.warp.engine import frame_features, register_frame
from datagen.warp.personal import SequencePrior
from datagen.warp.sequence import fit_sequence
from datagen.warp.surface import Surface
from datagen.warp.transport import transport

GIVEN = (("registration",), ("landmarks",), ("registration", "landmarks"))
SCAN_VERTICES = 15_000
SEQUENCE_FRAMES = 5
FAMILY_NOISES_MM = (0.0, 1.5)
PEOPLE = 8
PERFORMERS, PERFORMED, JUDGED = 2, 60, 10
# Of each warp: neighbouring points say the same.
POINTS_PER_WARP = 3000
# A stray piece has no true coordinate: whatever it was given is wrong.
STRAY_MM = 1e3
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class _Seen:
    """A warp's points by scan vertex: canonical (N, 3) metres, features (N, F), region (N,), matched (N,)."""

    canonical_m: F64
    features: F64
    region: npt.NDArray[np.uint8]
    matched: Bools


class Gatherer:
    """Warps scans and gathers their points.

    Parameters
    ----------
    head : HeadModel
    seed : int
    say : function of str
        Told of every warp.
    """

    def __init__(self, head: HeadModel, seed: int, say: Say) -> None:
        self._head, self._seed, self._say, self._config = head, seed, say, WarpConfig()

    def simulated(self, subjects: int, frames: int) -> Iterator[Points]:
        """Yield points of simulated people, warped one by one with a registration, with landmarks, and with both."""
        plan = CasePlan("registration", subjects, frames, self._seed, SCAN_VERTICES, True, True, people="real")
        cases = [case for k in range(subjects) for case in subject_cases(plan, self._head, k)]
        for given in GIVEN:
            name = f"simulated, {' and '.join(given)}"
            seen = [self._seen(name, c.scan, **{key: getattr(c, key) for key in given}) for c in cases]
            yield self._points(
                name, "simulated", seen, [self._error_mm(c, s) for c, s in zip(cases, seen, strict=True)]
            )

    def simulated_sequences(self, subjects: int) -> Iterator[Points]:
        """Yield points of the frames of simulated people in sequence mode, with a registration and landmarks."""
        name = "simulated, in sequence mode"
        plan = CasePlan("sequence", subjects, SEQUENCE_FRAMES, self._seed + 1, SCAN_VERTICES, True, True, people="real")
        seen, errors = [], []
        for subject in range(subjects):
            cases = list(subject_cases(plan, self._head, subject))
            given = [_frame(case, k) for k, case in enumerate(cases)]
            prior = fit_sequence(self._head, range(len(given)), given.__getitem__, self._config)
            for case in cases:
                seen.append(self._seen(name, case.scan, case.registration, case.landmarks, prior))
                errors.append(self._error_mm(case, seen[-1]))
        yield self._points(name, name, seen, errors)

    def families(self, root: Path) -> Iterator[Points]:
        """Yield points of each real family, without and with noise on the landmarks."""
        template = FaceTemplate.read(root)
        for family in read_families(root):
            region = face_region(family, template)
            for noise_mm in FAMILY_NOISES_MM:
                scans = [family.hidden(k, 0, noise_mm) for k in range(len(family.vertices))]
                name = f"{family.name}, landmarks {noise_mm:g} mm off" if noise_mm else family.name
                yield self._agreeing(name, family.name, scans, region)

    def people(self, root: Path) -> Iterator[Points]:
        """Yield points of people of ICT's model, neutral and moved."""
        model, region = _ict(root)
        expressions, _ = read_motion(root, model)
        scans = []
        for k in range(PEOPLE):
            rng = np.random.default_rng([self._seed, 2, k])
            person = IctPerson.drawn(model, rng)
            moved = expressions[len(expressions) * k // PEOPLE]
            scans += [person.scanned(e, rng) for e in (np.zeros(len(model.expression_names)), moved)]
        yield self._agreeing("cross-model people", "cross-model people", scans, region)

    def sequences(self, root: Path) -> Iterator[Points]:
        """Yield points of the frames of performing people of ICT's model, one by one and in sequence mode."""
        model, region = _ict(root)
        for k in range(PERFORMERS):
            name = f"cross-model sequence {k}"
            sequence = cross_model_sequence(root, PERFORMED, self._seed + k, model=model)
            scans = [sequence.hidden(int(t)) for t in spread_over(len(sequence), JUDGED)]
            yield self._agreeing(name, name, scans, region)
            prior = fit_sequence(self._head, range(len(sequence)), sequence.frame, self._config)
            if prior is not None:
                yield self._agreeing(f"{name}, in sequence mode", name, scans, region, prior)

    def _agreeing(
        self,
        name: str,
        origin: str,
        scans: Sequence[HiddenScan],
        region: FaceRegion,
        prior: SequencePrior | None = None,
    ) -> Points:
        """Return points of scans in which one vertex is one skin point: the truth is their mean."""
        seen = [self._seen(name, s.scan, None, s.landmarks, prior) for s in scans]
        count = len(region.face)
        canonical = [s.undone(found.canonical_m, count) for s, found in zip(scans, seen, strict=True)]
        error = true_error_mm(np.where(region.face[:, None], np.stack(canonical), np.nan))
        return self._points(name, origin, seen, [e[s.order] for e, s in zip(error, scans, strict=True)])

    def _seen(
        self,
        name: str,
        scan: Mesh,
        registration: Registration | None = None,
        landmarks: Landmarks | None = None,
        prior: SequencePrior | None = None,
    ) -> _Seen:
        found = register_frame(
            scan, self._head, self._config, registration=registration, landmarks=landmarks, prior=prior
        )
        template, surface = found.template, found.surface
        carried = transport(
            surface.vertices,
            surface.normals,
            Surface(found.vertices, template.faces),
            template,
            self._config.max_distance_mm / MM_PER_M,
        )
        self._say(name)
        features, where = frame_features(found, carried), found.where
        return _Seen(carried.canonical_m[where], features[where], carried.region[where], carried.matched[where])

    def _error_mm(self, case: Case, seen: _Seen) -> F64:
        truth_m = self._head.template.space.metres(case.truth)
        return np.nan_to_num(np.linalg.norm(seen.canonical_m - truth_m, axis=1) * MM_PER_M, nan=STRAY_MM)

    def _points(self, name: str, origin: str, seen: Sequence[_Seen], errors_mm: Sequence[F64]) -> Points:
        rng = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        features, region, error = [], [], []
        for found, error_mm in zip(seen, errors_mm, strict=True):
            known = np.flatnonzero(found.matched & np.isfinite(error_mm))
            chosen = rng.permutation(known)[:POINTS_PER_WARP]
            features.append(found.features[chosen])
            region.append(found.region[chosen])
            error.append(error_mm[chosen])
        return Points(name, origin, np.concatenate(features), np.concatenate(region), np.concatenate(error))


def _frame(case: Case, index: int) -> Frame:
    key = SequenceKey(f"s{case.subject:03d}", "performance")
    return Frame(key, index, float(index), case.scan, (), case.registration, case.landmarks)


def _ict(root: Path) -> tuple[HeadModel, FaceRegion]:
    model, template = load_head("ict", root), FaceTemplate.read(root)
    skin = Family("people", template.vertices[None], template.faces, template.vertex_marks())
    return model, face_region(skin, template).padded(len(model.template.vertices))
