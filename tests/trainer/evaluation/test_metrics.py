"""Metrics, depth alignment and the mean-map baseline on inputs with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datagen.common.errors import InputError
from trainer.evaluation.baselines import mean_of
from trainer.evaluation.canonical import CanonicalMetrics, MapMetrics, in_region, region_labels
from trainer.evaluation.confidence import (
    ConfidenceMetrics,
    area_under_risk_coverage,
    calibration,
    risk_coverage,
)
from trainer.evaluation.depth import DepthMetrics, ErrorHistogram, align_affine, align_median

HALF_EXTENT_M = 0.1


@settings(max_examples=30, deadline=None)
@given(arrays(np.float64, st.integers(1, 300), elements=st.floats(0, 499)), st.sampled_from([0.25, 0.5, 0.95]))
def test_histogram_agrees_with_numpy(errors: np.ndarray, q: float) -> None:
    histogram = ErrorHistogram()
    for part in np.array_split(errors, 3):
        histogram.add(part)
    assert histogram.count == errors.size
    assert histogram.mean() == pytest.approx(errors.mean())
    assert histogram.quantile(q) == pytest.approx(np.quantile(errors, q, method="inverted_cdf"), abs=0.021)


def test_errors_beyond_the_histogram_and_none_at_all() -> None:
    histogram = ErrorHistogram()
    assert math.isnan(histogram.mean())
    assert math.isnan(histogram.quantile(0.5))
    histogram.add(np.array([1.0, 900.0, 2000.0]))
    assert histogram.mean() == pytest.approx(2901 / 3)
    assert histogram.quantile(0.9) == 2000.0
    histogram.add(np.array([np.nan]))
    assert math.isnan(histogram.mean())  # an undefined prediction must not pass unseen


def _truth() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    depth = np.zeros((10, 10), np.float32)
    depth[:, :6] = np.linspace(0.9, 1.1, 6)
    canonical = np.zeros((3, 10, 10), np.float32)
    confidence = np.zeros((10, 10), np.float32)
    confidence[:, :3] = 0.4
    return depth, canonical, confidence


def test_constant_offsets_in_millimetres() -> None:
    depth, canonical, confidence = _truth()
    metrics = MapMetrics(HALF_EXTENT_M)
    predicted = canonical + np.array([0.03, 0.04, 0.0])[:, None, None]  # a length of 0.05, of 100 mm half extent
    metrics.add(depth + 0.004, predicted, depth, canonical, confidence)
    figures = metrics.metrics()
    for name in ("canonical_median_mm", "canonical_mean_mm", "canonical_p95_mm"):
        assert figures[name] == pytest.approx(5.0, abs=0.02), name
    assert figures["depth_mean_mm"] == pytest.approx(4.0, abs=1e-3)
    assert figures["depth_median_mm"] == pytest.approx(4.0, abs=0.02)
    assert figures["depth_absrel"] == pytest.approx(np.mean(0.004 / depth[depth > 0]), rel=1e-4)
    assert figures["depth_delta125"] == 1.0


def test_alignment_removes_scale_and_nothing_else() -> None:
    depth, canonical, confidence = _truth()
    metrics = MapMetrics(HALF_EXTENT_M)
    metrics.add(depth * 1.3, canonical, depth, canonical, confidence)
    figures = metrics.metrics()
    assert figures["depth_mean_mm"] == pytest.approx(300.0, rel=1e-3)
    assert figures["depth_aligned_mean_mm"] == pytest.approx(0.0, abs=1e-3)
    assert figures["depth_absrel"] == pytest.approx(0.3, rel=1e-4)
    assert figures["depth_delta125"] == 0.0


def test_root_mean_square_and_affine_alignment() -> None:
    depth, *_ = _truth()
    metrics = DepthMetrics()
    metrics.add(np.where(depth > 0, 0.5 * depth + 0.2, 0), depth)
    figures = metrics.metrics()
    on = depth[depth > 0].astype(np.float64)
    assert figures["depth_rmse_mm"] == pytest.approx(np.sqrt(((0.2 - 0.5 * on) ** 2).mean()) * 1000, rel=1e-5)
    assert figures["depth_aligned_mean_mm"] > 5  # scale alone does not mend a shift
    for name in ("absrel", "mean_mm", "rmse_mm"):
        assert figures[f"depth_affine_{name}"] == pytest.approx(0, abs=1e-3), name
    np.testing.assert_allclose(align_median(np.array([1.0, 2, 3]), np.array([4.0, 5, 6])), [2.5, 5, 7.5])
    # Least squares: of a flat prediction nothing but the mean is left.
    np.testing.assert_allclose(align_affine(np.ones(3), np.array([1.0, 2, 6])), 3)
    x = np.array([0.0, 1, 2, 3])
    y = np.array([1.0, 0, 2, 2])
    np.testing.assert_allclose(align_affine(x, y), np.polyval(np.polyfit(x, y, 1), x))


def test_canonical_errors_of_each_region() -> None:
    labels = {"background": 0, "cheeks": 1, "upper_lip": 2, "lower_lip": 3, "scalp": 4}
    regions = region_labels(labels)
    assert {name: values.tolist() for name, values in regions.items()} == {"face": [1, 2, 3], "mouth": [2, 3]}
    assert region_labels({"head": 1, "background": 0})["face"].tolist() == [1]
    assert in_region(np.array([0, 7]), region_labels({})["face"]).all()
    region = np.array([[1, 2, 3, 4]])
    metrics = CanonicalMetrics(regions)
    said = np.zeros((3, 1, 4))
    said[0, 0] = [0.001, 0.002, 0.006, 0.1]
    metrics.add(said, np.zeros((3, 1, 4)), np.array([[True, True, True, True]]), region)
    figures = metrics.metrics()
    assert figures["canonical_mean_mm"] == pytest.approx(109 / 4)
    assert figures["canonical_face_mean_mm"] == pytest.approx(3)
    assert figures["canonical_mouth_mean_mm"] == pytest.approx(4)
    assert figures["canonical_mouth_p95_mm"] == pytest.approx(6, abs=0.02)
    assert in_region(region, regions["mouth"]).tolist() == [[False, True, True, False]]


def test_risk_coverage_by_hand() -> None:
    errors = np.array([4.0, 1.0, 3.0, 2.0])
    np.testing.assert_allclose(risk_coverage(errors, np.array([1.0, 4, 2, 3])), [1, 1.5, 2, 2.5])
    assert area_under_risk_coverage(errors, np.array([1.0, 4, 2, 3])) == pytest.approx(1.75)
    assert area_under_risk_coverage(errors, np.array([4.0, 1, 3, 2])) == pytest.approx((4 + 3.5 + 3 + 2.5) / 4)
    # Equal confidence tells nothing: the mean error at every coverage, whatever the order.
    np.testing.assert_allclose(risk_coverage(errors, np.ones(4)), 2.5)
    np.testing.assert_allclose(risk_coverage(errors, np.array([1.0, 1, 2, 2])), [2.5, 2.5, 2.5, 2.5])


def test_calibration_of_the_error_a_confidence_implies() -> None:
    errors = np.linspace(1, 5, 1000)
    off, bins = calibration(errors, 7 / errors)
    assert off == pytest.approx(0, abs=1e-9)
    assert bins.shape == (10, 2)
    np.testing.assert_allclose(bins[:, 0], bins[:, 1])
    # Constant confidence implies the mean everywhere: the bins, in stored order, are 1.6, 1.2, … from it.
    off, _ = calibration(errors, np.ones(1000))
    assert off == pytest.approx(1.0 / 3, rel=1e-2)


def test_confidence_figures() -> None:
    rng = np.random.default_rng(0)
    errors = rng.uniform(1, 5, 4000)
    knowing, ignorant, lying = (ConfidenceMetrics("c", per_view=2000) for _ in range(3))
    for part in np.split(errors, 2):
        knowing.add(part, 1 / part, rng)
        ignorant.add(part, rng.uniform(1, 2, len(part)), rng)
        lying.add(part, part, rng)
    figures = knowing.metrics()
    assert figures["c_aurc_mm"] == figures["c_aurc_best_mm"] == pytest.approx(2, rel=0.02)  # ∫ (1 + 2x) dx
    assert figures["c_aurc_excess"] == 0
    assert figures["c_rank_correlation"] == pytest.approx(1)
    assert ignorant.metrics()["c_aurc_excess"] == pytest.approx(1, abs=0.05)
    assert abs(ignorant.metrics()["c_rank_correlation"]) < 0.05
    assert lying.metrics()["c_aurc_excess"] == pytest.approx(2, abs=0.05)
    assert lying.metrics()["c_rank_correlation"] == pytest.approx(-1)
    curve = np.array(knowing.curves()["risk"])
    assert curve[-1, 0] == 1
    assert curve[-1, 1] == pytest.approx(errors.mean(), rel=1e-5)
    assert math.isnan(ConfidenceMetrics("c").metrics()["c_aurc_mm"])


def test_only_pixels_with_truth_count() -> None:
    depth, canonical, confidence = _truth()
    wrong_depth, wrong_canonical = depth.copy(), canonical.copy()
    wrong_depth[depth == 0] = 50.0
    wrong_canonical[:, confidence == 0] = 50.0
    metrics = MapMetrics(HALF_EXTENT_M)
    metrics.add(wrong_depth, wrong_canonical, depth, canonical, confidence)
    assert metrics.metrics()["depth_mean_mm"] == 0
    assert metrics.metrics()["canonical_mean_mm"] == 0


def test_mean_map_weights_by_confidence_and_falls_back() -> None:
    depth = np.zeros((2, 1, 3), np.float32)
    depth[0, 0], depth[1, 0] = [1.0, 2.0, 0.0], [3.0, 0.0, 0.0]
    canonical = np.zeros((2, 3, 1, 3), np.float32)
    canonical[0, 0, 0], canonical[1, 0, 0] = [0.0, 0.6, 9.0], [0.4, 9.0, 9.0]
    confidence = np.zeros((2, 1, 3), np.float32)
    confidence[0, 0], confidence[1, 0] = [0.25, 1.0, 0.0], [0.75, 0.0, 0.0]
    mean = mean_of((depth[k : k + 1], canonical[k : k + 1], confidence[k : k + 1]) for k in range(2))
    np.testing.assert_allclose(mean.depth_m[0], [2.0, 2.0, 2.0])  # mean of 1 and 3; 2; of all three
    np.testing.assert_allclose(mean.canonical[0, 0], [0.3, 0.6, (0.3 + 0.6) / 2], rtol=1e-6)


def test_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="no sample"):
        mean_of([])
    empty = np.zeros((1, 2, 2), np.float32)
    with pytest.raises(InputError, match="no training sample shows a surface"):
        mean_of([(empty, np.zeros((1, 3, 2, 2), np.float32), empty)])
