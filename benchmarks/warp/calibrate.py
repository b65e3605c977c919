"""Fit the weights of the warp's confidence to simulated truth.

People other than those of `python -m benchmarks warp` (another seed), so that the benchmark's reliability is held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.warp.cases import Case, CasePlan, subject_cases
from datagen.common.arrays import F64
from datagen.heads.base import HeadModel
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.manifest import WarpConfig
from datagen.warp.confidence import FEATURES, WITHIN_M
from datagen.warp.engine import frame_features, register_frame
from datagen.warp.surface import Surface
from datagen.warp.transport import transport

GIVEN = (("registration",), ("landmarks",), ("registration", "landmarks"))
RIDGE = 10.0


def cases(head: HeadModel, subjects: int, frames: int, seed: int) -> Iterator[Case]:
    """Simulate frames with both a registration and landmarks."""
    plan = CasePlan("registration", subjects, frames, seed, 25_000, True, True)
    for subject in range(subjects):
        yield from subject_cases(plan, head, subject)


def observed(case: Case, head: HeadModel, given: tuple[str, ...]) -> tuple[F64, F64]:
    """Return features (n, F) and whether they are within the limit (n,) for the face vertices of one warp."""
    config = WarpConfig()
    found = register_frame(case.scan, head, config, **{name: getattr(case, name) for name in given})
    template, surface = found.template, found.surface
    registered = Surface(found.vertices, template.faces)
    carried = transport(surface.vertices, surface.normals, registered, template, config.max_distance_mm / 1000)
    features = frame_features(found, carried)
    truth = head.template.space.metres(case.truth)
    error = np.linalg.norm(carried.canonical_m[found.where] - truth, axis=1)
    used = carried.matched[found.where] & mask_of(carried.region[found.where], FACE_REGIONS)
    # A stray piece has no true coordinate: whatever it was given is wrong.
    return features[found.where][used], (np.nan_to_num(error[used], nan=1.0) < WITHIN_M).astype(np.float64)


def logistic(features: F64, label: F64, weight: F64, rounds: int = 30) -> F64:
    """Return the ridge-regularised logistic weights (F,) by Newton's method."""
    w = np.zeros(features.shape[1])
    for _ in range(rounds):
        chance = 1 / (1 + np.exp(-np.clip(features @ w, -30, 30)))
        curvature = weight * chance * (1 - chance)
        hessian = features.T @ (features * curvature[:, None]) + RIDGE * np.eye(len(w))
        w = w + np.linalg.solve(hessian, features.T @ (weight * (label - chance)) - RIDGE * w)
    return w


def fitted_weights(
    head: HeadModel, subjects: int, frames: int, seed: int, say: Callable[[str], None]
) -> dict[str, float]:
    """Return the weight of each of :data:`datagen.warp.confidence.FEATURES`."""
    rows, labels = [], []
    for case in cases(head, subjects, frames, seed):
        for given in GIVEN:
            features, label = observed(case, head, given)
            rows.append(features)
            labels.append(label)
            say(f"subject {case.subject} frame {case.frame} {'+'.join(given)}: {label.mean():.3f} within")
    label = np.concatenate(labels)
    weights = logistic(np.concatenate(rows), label, np.ones(len(label)))
    return dict(zip(FEATURES, weights.tolist(), strict=True))
