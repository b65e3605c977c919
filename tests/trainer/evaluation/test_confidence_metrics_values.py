"""Risk and coverage, calibration and rank correlation of confidences that know something, but not all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr

from trainer.evaluation.confidence import ConfidenceMetrics, area_under_risk_coverage, calibration, risk_coverage


def knowing(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Errors, and confidences that follow them with noise."""
    rng = np.random.default_rng(seed)
    errors = rng.gamma(2, 1.5, count)
    return errors, 1 / (errors * rng.lognormal(0, 0.8, count) + 0.2)


def area_by_definition(errors: np.ndarray, confidence: np.ndarray) -> float:
    order = np.argsort(-confidence)
    return float(np.mean([errors[order[: k + 1]].mean() for k in range(len(errors))]))


def test_equal_confidences_count_as_the_mean_over_all_their_orders() -> None:
    errors = np.array([5.0, 1.0, 2.0, 7.0, 3.0])
    confidence = np.array([2.0, 2.0, 9.0, 1.0, 2.0])
    orders = []
    for middle in itertools.permutations([0, 1, 4]):
        order = [2, *middle, 3]
        orders.append([errors[order[: k + 1]].mean() for k in range(5)])
    np.testing.assert_allclose(risk_coverage(errors, confidence), np.mean(orders, axis=0))


def test_calibration_is_that_of_ten_bins_of_nearly_equal_count() -> None:
    errors, confidence = knowing(57)
    off, pairs = calibration(errors, confidence)
    implied = 1 / confidence
    implied = implied * errors.mean() / implied.mean()
    order = np.argsort(implied)
    start, sizes = 0, [6] * 7 + [5] * 3
    expected, total = [], 0.0
    for size in sizes:
        own = order[start : start + size]
        expected.append((implied[own].mean(), errors[own].mean()))
        total += size / 57 * abs(expected[-1][0] - expected[-1][1])
        start += size
    np.testing.assert_allclose(pairs, expected)
    assert off == pytest.approx(total / errors.mean())
    assert 0.05 < off < 0.8
    # Of fewer pixels than bins each is one.
    assert calibration(errors[:4], confidence[:4])[1].shape == (4, 2)


def test_figures_of_a_confidence_that_knows_something() -> None:
    metrics = ConfidenceMetrics("c", per_view=500)
    parts = [knowing(300, 1), knowing(200, 2)]
    for errors, confidence in parts:
        metrics.add(errors, confidence, np.random.default_rng(0))
    errors, confidence = (
        np.concatenate(values).astype(np.float32).astype(float) for values in zip(*parts, strict=True)
    )
    figures = metrics.metrics()
    area, best = area_by_definition(errors, confidence), area_by_definition(errors, -errors)
    assert figures["c_aurc_mm"] == pytest.approx(area) == area_under_risk_coverage(errors, confidence)
    assert figures["c_aurc_best_mm"] == pytest.approx(best)
    assert figures["c_aurc_excess"] == pytest.approx((area - best) / (errors.mean() - best))
    assert 0.2 < figures["c_aurc_excess"] < 0.8
    assert figures["c_rank_correlation"] == pytest.approx(spearmanr(confidence, -errors).statistic)
    assert 0.2 < figures["c_rank_correlation"] < 0.8
    assert figures["c_calibration"] == pytest.approx(calibration(errors, confidence)[0])
    curves = metrics.curves()
    assert len(curves["risk"]) == len(curves["best"]) == 50
    order = np.argsort(-confidence)
    for curve, ranked in (("risk", order), ("best", np.argsort(errors))):
        for coverage, risk in curves[curve]:
            kept = round(coverage * 500)
            assert risk == pytest.approx(errors[ranked[:kept]].mean()), (curve, coverage)
    assert curves["risk"][0][0] == pytest.approx(1 / 500)


def test_equal_ranks_share_their_mean_in_the_correlation() -> None:
    metrics = ConfidenceMetrics("c")
    errors, confidence = np.array([1.0, 2.0, 2.0, 5.0, 4.0]), np.array([3.0, 3.0, 2.0, 1.0, 2.0])
    metrics.add(errors, confidence, np.random.default_rng(0))
    assert metrics.metrics()["c_rank_correlation"] == pytest.approx(spearmanr(confidence, -errors).statistic)


def test_the_asked_number_of_pixels_is_drawn_from_each_view_and_stays_paired() -> None:
    metrics = ConfidenceMetrics("c", per_view=100)
    errors = np.arange(1.0, 1001.0)
    metrics.add(errors, 1 / errors, np.random.default_rng(3))
    metrics.add(errors[:40], 1 / errors[:40], np.random.default_rng(3))
    figures = metrics.metrics()
    assert figures["c_rank_correlation"] == pytest.approx(1)
    assert metrics.curves()["risk"][0][0] == pytest.approx(1 / 140)
    # A hundred of a thousand without replacement: their mean is near the thousand's.
    assert metrics.curves()["risk"][-1][1] == pytest.approx((100 * 500.5 + 40 * 20.5) / 140, rel=0.15)
    whole = ConfidenceMetrics("c")
    whole.add(errors, 1 / errors, np.random.default_rng(3))
    assert whole.curves()["risk"][0][0] == pytest.approx(1 / 1000)
