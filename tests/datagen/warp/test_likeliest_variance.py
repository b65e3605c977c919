"""How far points are believed: as far as their own scatter, around what else is known, bears them out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.warp.posterior import LANDMARK_SIGMA_M, LANDMARK_USUAL_M, likeliest_variance

F64 = np.ndarray
POINTS = 68


def predicted(seed: int, modes: int = 12, size_m: float = 4e-3) -> tuple[F64, F64, np.random.Generator]:
    """The covariance of what a smooth shape says of 68 points, and a draw from it."""
    rng = np.random.default_rng(seed)
    basis = size_m * rng.normal(size=(3 * POINTS, modes)) / np.sqrt(modes)
    return basis @ basis.T, basis @ rng.normal(size=modes), rng


def sigmas(known: F64, residual: F64) -> F64:
    """Standard deviations (L,) in metres, within the limits of landmarks."""
    return np.sqrt(likeliest_variance(known, residual, LANDMARK_SIGMA_M, LANDMARK_USUAL_M))


@pytest.mark.parametrize("seed", range(3))
def test_points_without_noise_are_believed_most(seed: int) -> None:
    """However far they lie from the mean, if the shape can follow."""
    known, drawn, _ = predicted(seed)
    np.testing.assert_allclose(sigmas(known, drawn), LANDMARK_SIGMA_M[0])
    np.testing.assert_allclose(sigmas(known, np.zeros(3 * POINTS)), LANDMARK_SIGMA_M[0])


@pytest.mark.parametrize("noise_m", [0.4e-3, 1.5e-3, 3e-3])
def test_noise_is_told_from_shape(noise_m: float) -> None:
    found = []
    for seed in range(12):
        known, drawn, rng = predicted(seed)
        found.append(sigmas(known, drawn + noise_m * rng.normal(size=len(drawn))))
    # 192 of 204 coordinates tell of the noise: 5 % of standard error. The grid is as fine as 13 %.
    root_mean = np.sqrt((np.array(found) ** 2).mean(axis=1))
    assert np.exp(np.abs(np.log(root_mean / noise_m)).max()) < 1.3
    assert np.median(root_mean) == pytest.approx(noise_m, rel=0.12)
    # No good point counts for less than a fourth of the others.
    assert (np.max(found, axis=1) < 2.1 * np.min(found, axis=1)).all()


@pytest.mark.parametrize("seed", range(6))
def test_a_point_two_centimetres_off_is_not_believed_and_the_others_are(seed: int) -> None:
    known, drawn, rng = predicted(seed)
    good = drawn + 0.5e-3 * rng.normal(size=len(drawn))
    wrong = good.copy()
    direction = rng.normal(size=3)
    wrong[15:18] += 0.02 * direction / np.linalg.norm(direction)
    before, after = sigmas(known, good), sigmas(known, wrong)
    others = np.arange(POINTS) != 5
    assert after[5] > 5e-3
    # Beyond the greatest of a common standard deviation: a point may be wrong by any amount.
    assert after[5] > LANDMARK_SIGMA_M[1]
    np.testing.assert_allclose(after[others], before[others], rtol=0.35)
    assert np.median(after[others] / before[others]) == pytest.approx(1, abs=0.15)


def test_points_that_the_others_contradict_are_told_by_the_others_and_not_by_the_prior() -> None:
    """All are off by the same centimetre, which the prior hardly expects: they bear each other out."""
    shift = np.tile(np.eye(3), (POINTS, 1))
    known = (0.004**2) * shift @ shift.T
    rng = np.random.default_rng(0)
    all_off = shift @ [0.01, 0, 0] + 0.5e-3 * rng.normal(size=3 * POINTS)
    assert sigmas(known, all_off).max() < 1.2e-3
    one_stays = all_off.copy()
    one_stays[:3] = 0
    found = sigmas(known, one_stays)
    assert found[0] > 3e-3
    assert found[1:].max() < 1.2e-3


@given(st.floats(1e-4, 1e4), st.integers(0, 2**31), st.floats(1e-5, 5e-3))
@settings(max_examples=25, deadline=None)
def test_the_unit_of_length_does_not_matter(unit: float, seed: int, noise_m: float) -> None:
    known, drawn, rng = predicted(seed)
    residual = drawn + noise_m * rng.normal(size=len(drawn))
    metres = likeliest_variance(known, residual, LANDMARK_SIGMA_M, LANDMARK_USUAL_M)
    limits = (LANDMARK_SIGMA_M[0] * unit, LANDMARK_SIGMA_M[1] * unit)
    other = likeliest_variance(known * unit**2, residual * unit, limits, LANDMARK_USUAL_M * unit)
    np.testing.assert_allclose(other, metres * unit**2, rtol=1e-6)


@given(st.integers(0, 2**31), st.floats(1e-5, 8e-3))
@settings(max_examples=25, deadline=None)
def test_the_order_of_points_and_a_turn_of_the_axes_do_not_matter(seed: int, noise_m: float) -> None:
    known, drawn, rng = predicted(seed)
    residual = drawn + noise_m * rng.normal(size=len(drawn))
    order = rng.permutation(POINTS)
    moved = (3 * order[:, None] + np.arange(3)).ravel()
    turn = np.kron(np.eye(POINTS), np.linalg.qr(rng.normal(size=(3, 3)))[0])
    found = sigmas(known, residual)
    np.testing.assert_allclose(sigmas(known[np.ix_(moved, moved)], residual[moved]), found[order], rtol=1e-6)
    np.testing.assert_allclose(sigmas(turn @ known @ turn.T, turn @ residual), found, rtol=1e-6)
    assert (found >= LANDMARK_SIGMA_M[0] * (1 - 1e-9)).all()


def test_a_few_points_are_believed_as_usual_and_many_as_they_are() -> None:
    """The prior counts like a few coordinates: one point's three millimetres say little, those of 68 all."""
    usual = 0.5e-3
    few, many = (
        np.sqrt(likeliest_variance(np.zeros((3 * n, 3 * n)), np.full(3 * n, 3e-3), (1e-4, 1e-2), usual).min())
        for n in (1, 68)
    )
    assert many == pytest.approx(3e-3, rel=0.13)
    assert few < 0.85 * many


def test_one_given_standard_deviation_is_kept_to() -> None:
    known, drawn, _ = predicted(0)
    np.testing.assert_allclose(likeliest_variance(known, drawn, (2e-3, 2e-3), 2e-3), 4e-6)


def test_a_vague_point_is_believed_less_by_its_own_factor() -> None:
    known, drawn, rng = predicted(5)
    residual = drawn + 0.5e-3 * rng.normal(size=len(drawn))
    vague = np.where(np.arange(POINTS) < 17, 2.0, 1.0)
    found = np.sqrt(likeliest_variance(known, residual, LANDMARK_SIGMA_M, LANDMARK_USUAL_M, vague))
    assert found[:17].min() >= 2 * found[17:].min() * (1 - 1e-9)
    np.testing.assert_array_equal(
        likeliest_variance(known, residual, LANDMARK_SIGMA_M, LANDMARK_USUAL_M, np.ones(POINTS)),
        likeliest_variance(known, residual, LANDMARK_SIGMA_M, LANDMARK_USUAL_M),
    )
