"""What confidence is made of, point by point, against the formulas written out again."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from datagen.heads.regions import REGIONS
from datagen.warp.confidence import FEATURES, confidence_features, point_confidence
from datagen.warp.surface import SurfacePoints
from datagen.warp.transport import Transported

NOT_FACE = (REGIONS["scalp"], REGIONS["mouth_interior"])
FACES = np.array([[0, 1, 2], [2, 1, 3], [3, 4, 5]], np.int32)


def points(
    face: np.ndarray,
    bary: np.ndarray,
    offset_m: np.ndarray,
    cosine: np.ndarray,
    region: np.ndarray,
    matched: np.ndarray,
) -> Transported:
    n = len(face)
    feet = SurfacePoints(np.zeros((n, 3)), np.zeros((n, 3)), face, bary, np.zeros(n, bool))
    return Transported(np.zeros((n, 3)), region.astype(np.uint8), feet, offset_m, np.zeros(n), cosine, matched)


def some_points(seed: int = 0, n: int = 60) -> Transported:
    rng = np.random.default_rng(seed)
    region = rng.choice([REGIONS[name] for name in ("cheeks", "nose", "forehead", "scalp", "mouth_interior")], n)
    return points(
        rng.integers(0, 3, n),
        rng.dirichlet([1, 1, 1], n),
        rng.normal(0, 2.2e-3, n),
        rng.uniform(0.1, 1.0, n),
        region,
        rng.uniform(size=n) < 0.8,
    )


@pytest.mark.parametrize("from_person", [False, True])
def test_each_feature_is_as_written(from_person: bool) -> None:
    carried = some_points()
    rng = np.random.default_rng(1)
    spread_m = np.array([1e-5, 0.4e-3, 0.7e-3, 2e-3, 15e-3, 30e-3])
    scatter_mm = float(rng.uniform(0.3, 2)) if from_person else None
    notes = {} if scatter_mm is None else {"person_used": 1.0, "landmark_scatter_mm": scatter_mm}
    found = confidence_features(carried, spread_m, FACES, notes=notes)
    assert found.shape == (60, len(FEATURES))
    face = [k for k in range(60) if carried.matched[k] and carried.region[k] not in NOT_FACE]
    height = [min(abs(h) * 1000, 3.0) for h in carried.offset_m]
    usual = float(np.median([height[k] for k in face]))
    for k in range(60):
        corners, bary = FACES[carried.foot.face[k]], carried.foot.barycentric[k]
        spread = 1000 * sum(b * spread_m[c] for b, c in zip(bary, corners, strict=True))
        spread = min(max(spread, 0.05), 10.0)
        if from_person:
            spread = math.sqrt(spread**2 + 0.7**2)
        wanted = {
            "one": 1.0,
            "log_spread": math.log(spread),
            "height": height[k],
            "log_usual_height": math.log(usual),
            "forehead": float(carried.region[k] == REGIONS["forehead"]),
            "log_landmark_scatter": math.log(scatter_mm or 0.6),
        }
        np.testing.assert_allclose(found[k], [wanted[name] for name in FEATURES], rtol=1e-9, atol=1e-9)
    # The case is not trivial: limits on either side are met, and most points lie between.
    assert len({round(v, 6) for v in found[:, 1]}) > 30
    assert (found[:, 2] == 3.0).sum() > 3
    assert (np.array(carried.offset_m) < 0).sum() > 20
    assert 3 < found[:, 4].sum() < 30


def test_the_usual_height_without_a_face_is_the_limit_and_is_never_nothing() -> None:
    carried = some_points()
    nowhere = dataclasses.replace(carried, matched=np.zeros(60, bool))
    assert (confidence_features(nowhere, np.full(6, 1e-3), FACES)[:, 3] == math.log(3.0)).all()
    exact = dataclasses.replace(carried, offset_m=np.zeros(60))
    assert (confidence_features(exact, np.full(6, 1e-3), FACES)[:, 3] == math.log(0.1)).all()


@pytest.mark.parametrize(
    ("spread_mm", "height_mm", "usual_mm", "scatter_mm", "region", "wanted"),
    [
        (0.5, 0.1, 0.1, 0.4, "cheeks", 0.9673),
        (1.0, 0.6, 0.3, 0.8, "nose", 0.6541),
        (2.0, 0.2, 0.1, 1.6, "forehead", 0.2226),
        (3.0, 0.1, 0.1, 0.5, "cheeks", 0.1838),
    ],
)
def test_the_weights_give_these_chances(
    spread_mm: float, height_mm: float, usual_mm: float, scatter_mm: float, region: str, wanted: float
) -> None:
    """Worked out once with the fitted weights: whoever fits them anew enters the new chances here."""
    offset = np.array([height_mm, usual_mm, -usual_mm]) / 1000
    face = np.array([0, 2, 2])
    bary = np.tile([0.2, 0.3, 0.5], (3, 1))
    matched, regions = np.ones(3, bool), np.full(3, REGIONS[region])
    assert float(np.median(np.abs(offset))) == pytest.approx(usual_mm / 1000)
    carried = points(face, bary, offset, np.ones(3), regions, matched)
    notes = {"landmark_scatter_mm": scatter_mm}
    features = confidence_features(carried, np.full(6, spread_mm / 1000), FACES, notes=notes)
    assert point_confidence(carried, features)[0] == pytest.approx(wanted, abs=1e-4)


def test_confidence_has_a_floor_ceilings_on_scalp_and_inside_the_mouth_and_is_zero_without_a_counterpart() -> None:
    n = 7
    region = np.array(
        [REGIONS[name] for name in ("cheeks", "left_eyeball", "mouth_interior", "scalp", "cheeks", "nose", "cheeks")]
    )
    matched = np.array([True, True, True, True, True, True, False])
    carried = points(np.zeros(n, int), np.tile([1.0, 0, 0], (n, 1)), np.zeros(n), np.ones(n), region, matched)
    sure = confidence_features(carried, np.full(6, 1e-4), FACES)
    found = point_confidence(carried, sure)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [found[0], 0.4, 0.4, 0.35, found[0], found[0], 0.0])
    assert found[0] > 0.99
    for height_m, most in ((2.499e-3, 1.0), (2.5e-3, 0.1)):
        high = dataclasses.replace(carried, offset_m=np.full(n, height_m))
        stated = point_confidence(high, confidence_features(high, np.full(6, 1e-4), FACES))[0]
        assert (stated > 0.1) if most == 1 else stated == np.float32(most)
    far_off = points(np.zeros(n, int), np.tile([1.0, 0, 0], (n, 1)), np.full(n, 3e-3), np.ones(n), region, matched)
    doubtful = confidence_features(far_off, np.full(6, 9e-3), FACES)
    np.testing.assert_allclose(point_confidence(far_off, doubtful), [0.01] * 6 + [0.0])
