"""What confidence is made of, point by point, against the formulas written out again."""

from __future__ import annotations

import math

import numpy as np
import pytest

from datagen.heads.regions import REGIONS
from datagen.warp.confidence import FEATURES, confidence_features, point_confidence
from datagen.warp.surface import SurfacePoints
from datagen.warp.transport import Transported

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
    region = rng.choice([REGIONS["cheeks"], REGIONS["nose"], REGIONS["scalp"], REGIONS["mouth_interior"]], n)
    return points(
        rng.integers(0, 3, n),
        rng.dirichlet([1, 1, 1], n),
        rng.normal(0, 2.2e-3, n),
        rng.uniform(0.1, 1.0, n),
        region,
        rng.uniform(size=n) < 0.8,
    )


def test_each_feature_is_as_written() -> None:
    carried = some_points()
    rng = np.random.default_rng(1)
    anchored, spread_m = rng.uniform(0, 1, 6), np.array([1e-5, 0.4e-3, 0.7e-3, 2e-3, 15e-3, 30e-3])
    found = confidence_features(carried, anchored, spread_m, FACES)
    assert found.shape == (60, len(FEATURES))
    face = [k for k in range(60) if carried.matched[k] and carried.region[k] in (REGIONS["cheeks"], REGIONS["nose"])]
    height = [min(abs(h) * 1000, 3.0) for h in carried.offset_m]
    usual = float(np.median([height[k] for k in face]))
    for k in range(60):
        corners, bary = FACES[carried.foot.face[k]], carried.foot.barycentric[k]
        spread = 1000 * sum(b * spread_m[c] for b, c in zip(bary, corners, strict=True))
        spread = min(max(spread, 0.05), 10.0)
        held = sum(b * anchored[c] for b, c in zip(bary, corners, strict=True))
        stays = min(max(1 - math.exp(-1 / spread**2), 1e-3), 1 - 1e-3)
        leaning = min(max((0.9 - carried.cosine[k]) / 0.6, 0.0), 1.0)
        wanted = dict(  # noqa: C408
            one=1.0,
            chance_of_not_sliding=math.log(stays / (1 - stays)),
            log_spread=math.log(spread),
            height=height[k],
            height_squared=height[k] ** 2,
            roughness=usual,
            leaning=leaning,
            not_held=1 - held,
        )
        np.testing.assert_allclose(found[k], [wanted[name] for name in FEATURES], rtol=1e-9, atol=1e-9)
    # The case is not trivial: limits on either side are met, and most points lie between.
    assert len({round(v, 6) for v in found[:, 2]}) > 30
    assert (found[:, 3] == 3.0).sum() > 3
    assert (np.array(carried.offset_m) < 0).sum() > 20


def test_roughness_without_a_face_is_the_limit() -> None:
    carried = some_points()
    nowhere = points(
        carried.foot.face,
        carried.foot.barycentric,
        carried.offset_m,
        carried.cosine,
        carried.region,
        np.zeros(60, bool),
    )
    assert (confidence_features(nowhere, np.ones(6), np.full(6, 1e-3), FACES)[:, 5] == 3.0).all()


def test_the_chance_of_staying_within_a_millimetre_is_that_of_a_plane_normal_error() -> None:
    """Counted among drawn errors of the stated root mean square."""
    rng = np.random.default_rng(5)
    for spread_mm in (0.6, 1.0, 1.7):
        drawn = np.linalg.norm(rng.normal(0, spread_mm / np.sqrt(2), (200_000, 2)), axis=1)
        carried = points(
            np.zeros(1, int), np.array([[1.0, 0, 0]]), np.zeros(1), np.ones(1), np.ones(1), np.ones(1, bool)
        )
        logit = confidence_features(carried, np.ones(6), np.full(6, spread_mm / 1000), FACES)[0, 1]
        assert 1 / (1 + math.exp(-logit)) == pytest.approx((drawn < 1).mean(), abs=0.005)


@pytest.mark.parametrize(
    ("spread_mm", "height_mm", "cosine", "held", "usual_mm", "wanted"),
    [
        (0.5, 0.1, 0.95, 1.0, 0.1, 0.9985),
        (1.0, 0.6, 0.7, 0.8, 0.3, 0.6430),
        (2.0, 0.2, 0.5, 0.3, 0.5, 0.1212),
        (0.3, 1.5, 0.9, 0.9, 0.2, 0.9903),
    ],
)
def test_the_weights_give_these_chances(
    spread_mm: float, height_mm: float, cosine: float, held: float, usual_mm: float, wanted: float
) -> None:
    """Worked out once with the fitted weights: whoever fits them anew enters the new chances here."""
    offset = np.array([height_mm, usual_mm, -usual_mm]) / 1000
    face = np.array([0, 2, 2])
    bary = np.tile([0.2, 0.3, 0.5], (3, 1))
    matched, region = np.ones(3, bool), np.full(3, REGIONS["cheeks"])
    middle = float(np.median(np.abs(offset)))
    assert middle == pytest.approx(usual_mm / 1000)
    carried = points(face, bary, offset, np.array([cosine, 1.0, 1.0]), region, matched)
    anchored, spread_m = np.full(6, held), np.full(6, spread_mm / 1000)
    features = confidence_features(carried, anchored, spread_m, FACES)
    assert point_confidence(carried, features)[0] == pytest.approx(wanted, abs=1e-4)


def test_confidence_has_a_floor_a_ceiling_inside_the_mouth_and_is_zero_without_a_counterpart() -> None:
    n = 6
    region = np.array(
        [REGIONS[name] for name in ("cheeks", "left_eyeball", "mouth_interior", "cheeks", "nose", "cheeks")]
    )
    matched = np.array([True, True, True, True, True, False])
    carried = points(np.zeros(n, int), np.tile([1.0, 0, 0], (n, 1)), np.zeros(n), np.ones(n), region, matched)
    sure = confidence_features(carried, np.ones(6), np.full(6, 1e-4), FACES)
    found = point_confidence(carried, sure)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [found[0], 0.4, 0.4, found[0], found[0], 0.0])
    assert found[0] > 0.99
    doubtful = confidence_features(carried, np.zeros(6), np.full(6, 9e-3), FACES)
    np.testing.assert_allclose(point_confidence(carried, doubtful), [0.01, 0.01, 0.01, 0.01, 0.01, 0.0])
