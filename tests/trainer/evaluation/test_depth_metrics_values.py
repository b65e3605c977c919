"""Figures of depth, boundaries, canonical coordinates and normals, of predictions neither perfect nor hopeless."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.support.evaluation_scene import LABELS, Ellipsoid
from trainer.evaluation.cameras import pixel_centres
from trainer.evaluation.canonical import CanonicalMetrics, canonical_errors_mm, region_labels
from trainer.evaluation.depth import THRESHOLDS, BoundaryMetrics, DepthMetrics, ErrorHistogram
from trainer.evaluation.gather import ViewMetrics
from trainer.evaluation.normals import NormalMetrics


def depth_figures(depth: np.ndarray, true: np.ndarray) -> dict[str, float]:
    metrics = DepthMetrics()
    metrics.add(depth, true)
    return metrics.metrics()


@pytest.mark.parametrize(
    ("ratio", "within"), [(1.2, 1), (1.3, 0), (1.249, 1), (1.251, 0), (0.81, 1), (0.79, 0), (1 / 1.2, 1), (1 / 1.3, 0)]
)
def test_delta125_counts_depths_within_a_ratio_of_five_quarters(ratio: float, within: float) -> None:
    true = np.linspace(0.7, 0.9, 20).reshape(4, 5)
    assert depth_figures(ratio * true, true)["depth_delta125"] == within


def test_the_share_within_counts_pixels_of_all_views() -> None:
    true = np.full((2, 5), 0.8)
    ratios = np.array([[1.2, 1.3, 0.85, 0.7, 1.0], [1.1, 1.26, 0.9, 1.24, 0.5]])
    metrics = DepthMetrics()
    metrics.add(ratios * true, true)
    metrics.add(np.full((1, 5), 0.8 * 1.4), np.array([[0.8, 0.8, 0.0, 0.0, 0.0]]))
    figures = metrics.metrics()
    assert figures["depth_delta125"] == pytest.approx(6 / 12)
    off = np.concatenate([np.abs(ratios - 1).ravel(), [0.4, 0.4]])
    assert figures["depth_absrel"] == pytest.approx(off.mean())
    assert figures["depth_mean_mm"] == pytest.approx(off.mean() * 800)
    assert figures["depth_rmse_mm"] == pytest.approx(np.sqrt((off**2).mean()) * 800)
    assert figures["depth_median_mm"] == pytest.approx(np.quantile(off, 0.5, method="inverted_cdf") * 800, abs=0.021)


def test_every_alignment_agrees_with_numpy() -> None:
    rng = np.random.default_rng(4)
    true = rng.uniform(0.6, 1.1, (9, 7))
    depth = (0.7 * true + 0.4) * rng.uniform(0.9, 1.15, true.shape)
    true[:, 0] = 0
    d, t = depth[true > 0], true[true > 0]
    aligned = {
        "depth": d,
        "depth_aligned": d * np.median(t) / np.median(d),
        "depth_affine": np.polyval(np.polyfit(d, t, 1), d),
    }
    figures = depth_figures(depth, true)
    for name, values in aligned.items():
        error = np.abs(values - t)
        assert figures[f"{name}_absrel"] == pytest.approx((error / t).mean(), rel=1e-6), name
        assert figures[f"{name}_mean_mm"] == pytest.approx(1000 * error.mean(), rel=1e-6), name
        assert figures[f"{name}_rmse_mm"] == pytest.approx(1000 * np.sqrt((error**2).mean()), rel=1e-6), name
        ratio = np.maximum(values / t, t / values)
        assert figures[f"{name}_delta125"] == pytest.approx((ratio < 1.25).mean()), name
    assert 0.1 < figures["depth_delta125"] < 0.9


def test_a_boundary_is_one_from_one_to_three_per_cent() -> None:
    np.testing.assert_allclose(THRESHOLDS, [0.01, 0.015, 0.02, 0.025, 0.03])
    true = np.full((6, 6), 0.8)
    true[:, 3:] *= 1.05
    for k, threshold in enumerate(THRESHOLDS):
        for off, met in ((1e-4, k + 1), (-1e-4, k)):
            said = np.full((6, 6), 0.8)
            said[:, 3:] *= 1 + threshold + off
            metrics = BoundaryMetrics()
            metrics.add(said, true)
            expected = THRESHOLDS[:met].sum() / THRESHOLDS.sum()
            assert metrics.metrics()["boundary_f1"] == pytest.approx(expected), (threshold, off)


def pairs(shape: tuple[int, int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Every pixel with its right and its lower neighbour."""
    across = [((y, x), (y, x + 1)) for y in range(shape[0]) for x in range(shape[1] - 1)]
    return across + [((y, x), (y + 1, x)) for y in range(shape[0] - 1) for x in range(shape[1])]


def test_boundaries_and_outlines_are_those_counted_pair_by_pair() -> None:
    rng = np.random.default_rng(2)
    metrics = BoundaryMetrics()
    hits, predicted, real = np.zeros(5), np.zeros(5), np.zeros(5)
    outline, overlap = np.zeros(3), np.zeros(2)
    for _ in range(2):
        true = 0.8 * rng.uniform(1, 1.05, (7, 9))
        true[rng.random((7, 9)) < 0.2] = 0
        said = np.where(true > 0, true, 0.8) * rng.uniform(0.99, 1.01, (7, 9))
        surface = (true > 0) ^ (rng.random((7, 9)) < 0.1)
        metrics.add(said, true, surface)
        overlap += (surface & (true > 0)).sum(), (surface | (true > 0)).sum()
        for a, b in pairs(true.shape):
            p, t = surface[a] != surface[b], (true[a] > 0) != (true[b] > 0)
            outline += p and t, p, t
            if not (true[a] > 0 and true[b] > 0):
                continue
            for k, threshold in enumerate(THRESHOLDS):
                for one, other in ((a, b), (b, a)):
                    p, t = said[one] / said[other] > 1 + threshold, true[one] / true[other] > 1 + threshold
                    hits[k], predicted[k], real[k] = hits[k] + (p and t), predicted[k] + p, real[k] + t
    figures = metrics.metrics()
    precision, recall = hits / predicted, hits / real
    f1 = 2 * precision * recall / (precision + recall)
    assert figures["boundary_f1"] == pytest.approx((f1 * THRESHOLDS).sum() / THRESHOLDS.sum())
    assert 0.3 < figures["boundary_f1"] < 0.95
    assert figures["silhouette_f1"] == pytest.approx(2 * outline[0] / (outline[1] + outline[2]))
    assert 0.3 < figures["silhouette_f1"] < 0.95
    assert figures["surface_iou"] == pytest.approx(overlap[0] / overlap[1])


def test_canonical_errors_are_euclidean_lengths_where_they_are_known() -> None:
    rng = np.random.default_rng(1)
    regions = {"face": np.array([1, 2]), "nose": np.array([2])}
    metrics, errors, labels = CanonicalMetrics(regions), [], []
    for _ in range(2):
        true = rng.uniform(-0.1, 0.1, (3, 8, 6))
        said = true + rng.gamma(2, 0.004, (3, 8, 6))
        known, region = rng.random((8, 6)) < 0.7, rng.integers(0, 4, (8, 6))
        metrics.add(said, true, known, region)
        errors.append(1000 * np.linalg.norm(said - true, axis=0)[known])
        labels.append(region[known])
        np.testing.assert_allclose(canonical_errors_mm(said, true)[known], errors[-1])
    all_errors, of = np.concatenate(errors), np.concatenate(labels)
    figures = metrics.metrics()
    chosen = {"canonical": of >= 0, "canonical_face": np.isin(of, [1, 2]), "canonical_nose": of == 2}
    for name, mask in chosen.items():
        e = all_errors[mask]
        assert figures[f"{name}_mean_mm"] == pytest.approx(e.mean()), name
        for part, q in (("median", 0.5), ("p95", 0.95)):
            exact = np.quantile(e, q, method="inverted_cdf")
            assert figures[f"{name}_{part}_mm"] == pytest.approx(exact, abs=0.011), (name, part)


def test_quantiles_lie_in_the_middle_of_bins_of_two_hundredths() -> None:
    histogram = ErrorHistogram()
    histogram.add(np.array([0.031, 4.999, 499.99]))
    assert [histogram.quantile(q) for q in (0.3, 0.6, 1.0)] == pytest.approx([0.03, 4.99, 499.99])
    assert histogram.rms() == pytest.approx(math.sqrt((0.031**2 + 4.999**2 + 499.99**2) / 3))
    histogram.add(np.array([500.5, 700.0]))
    assert histogram.quantile(0.8) == 700
    assert histogram.quantile(0.6) == pytest.approx(499.99)
    assert math.isnan(ErrorHistogram().rms())


def test_regions_are_the_parts_they_are_named_for() -> None:
    names = ("cheeks", "forehead", "brows", "chin", "upper_lip", "lower_lip", "mouth_interior", "nose")
    names += ("right_eye", "left_eye", "right_eyeball", "left_eyeball", "right_ear", "left_ear", "scalp", "neck")
    labels = {name: k for k, name in enumerate(names, start=1)}
    found = {name: values.tolist() for name, values in region_labels(labels).items()}
    assert {name: sorted(values) for name, values in found.items()} == {
        "face": list(range(1, 13)), "mouth": [5, 6, 7], "nose": [8], "eyes": [9, 10, 11, 12], "ears": [13, 14],
    }  # fmt: skip


def test_angles_of_normals_are_counted_below_each_limit() -> None:
    scene = Ellipsoid(size=22)
    flat = np.full((22, 22), 0.8)
    # Stored normals lean to the right by angles of which some lie just below and just above each limit.
    lean = np.zeros((22, 22))
    lean[1:-1, 1:-1] = np.resize([3.0, 11.2, 11.3, 22.4, 22.6, 29.9, 30.1, 50.0], 400).reshape(20, 20)
    stored = np.stack([np.sin(np.radians(lean)), 0 * lean, -np.cos(np.radians(lean))])
    tilt = np.array([0.0, 0.25, -1.0]) / np.linalg.norm([0.0, 0.25, -1.0])
    rays = np.linalg.inv(scene.K) @ np.concatenate([pixel_centres(22, 22).reshape(2, -1), np.ones((1, 484))])
    true = ((tilt @ [0, 0, 0.8]) / (tilt @ rays)).reshape(22, 22)
    metrics = NormalMetrics()
    metrics.add(flat, true, stored, np.zeros((22, 22), bool), scene.K)
    figures, inside = metrics.metrics(), lean[1:-1, 1:-1].ravel()
    assert figures["normal_mean_deg"] == pytest.approx(inside.mean())
    assert figures["normal_median_deg"] == pytest.approx(22.4, abs=0.011)
    for limit, name in ((11.25, "11p25"), (22.5, "22p5"), (30.0, "30")):
        assert figures[f"normal_within_{name}_deg"] == pytest.approx((inside < limit).mean()), limit
    floor = np.degrees(np.arccos(np.clip(tilt @ stored[:, 1:-1, 1:-1].reshape(3, -1), -1, 1)))
    assert figures["normal_floor_mean_deg"] == pytest.approx(floor.mean())


def test_a_pixel_is_said_to_show_the_head_from_one_half_on() -> None:
    scene = Ellipsoid()
    on = scene.truth().surface
    for level, overlap in ((0.49, 0.0), (0.51, 1.0)):
        found = ViewMetrics(region_labels(LABELS), None)
        found.add(scene.perfect(surface=np.where(on, level, 0.1)), np.random.default_rng(0), geometry=False)
        assert found.metrics()["surface_iou"] == overlap


def test_confidence_in_depth_is_judged_by_depth_at_the_right_scale() -> None:
    scene = Ellipsoid(size=40)
    truth = scene.truth()
    on = truth.surface
    far = np.zeros(on.shape, bool)
    far[:, ::3] = True
    said = 1.2 * (truth.depth_m + np.where(far & on, 0.004, 0)).astype(np.float32)
    sure = np.where(far, 2.0, 8.0)
    found = ViewMetrics(region_labels(LABELS), None)
    found.add(scene.perfect(depth_m=said, depth_confidence=sure), np.random.default_rng(0), geometry=False)
    figures = found.metrics()
    ratio = np.median(truth.depth_m[on]) / np.median(said[on])
    error = 1000 * np.abs(said.astype(np.float64) * ratio - truth.depth_m)[on]
    # All of the surer pixels first, each of them their mean; then the others.
    order = np.concatenate(
        [np.full((~far[on]).sum(), error[~far[on]].mean()), np.full(far[on].sum(), error[far[on]].mean())]
    )
    area = (np.cumsum(order) / np.arange(1, len(order) + 1)).mean()
    assert figures["depth_confidence_aurc_mm"] == pytest.approx(area, rel=1e-5)
    assert 0.05 < area < error.mean() - 0.2
    assert figures["canonical_confidence_aurc_mm"] == 0
