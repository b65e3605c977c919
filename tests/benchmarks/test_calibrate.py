"""``python -m benchmarks calibrate``: what is fitted, to what, and what is left out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks.warp.calibrate import HEADING, Points, fitted, fitted_weights, left_out
from datagen.heads.regions import REGIONS
from datagen.warp.confidence import FEATURES

TRUE = np.array([1.0, -1.5, 0.0, 0.0, 0.0, 0.0])


def drawn(source: str, origin: str, weights: np.ndarray, count: int = 20_000, seed: int = 0) -> Points:
    """Points whose chance is exactly that of some weights."""
    rng = np.random.default_rng(seed)
    features = np.zeros((count, len(FEATURES)))
    features[:, 0], features[:, 1] = 1.0, rng.normal(0, 1, count)
    right = rng.uniform(size=count) < 1 / (1 + np.exp(-features @ weights))
    region = np.full(count, REGIONS["cheeks"], np.uint8)
    return Points(source, origin, features, region, np.where(right, 0.5, 2.0))


def test_weights_that_made_the_points_are_found_and_state_the_truth() -> None:
    points = drawn("a", "a", TRUE)
    found = fitted([points])
    np.testing.assert_allclose(found, TRUE, atol=0.08)
    assert points.curve(found).expected_error < 0.015
    assert points.curve(-found).expected_error > 0.3


def test_every_source_weighs_the_same_however_many_points_it_has() -> None:
    few, many = drawn("a", "a", TRUE, 2_000), drawn("b", "b", TRUE * [-1, 1, 1, 1, 1, 1], 40_000, seed=1)
    assert abs(fitted([few, many])[0]) < 0.1


def test_scalp_and_what_lies_inside_are_not_fitted() -> None:
    points = drawn("a", "a", TRUE)
    odd = dataclasses.replace(points, error_mm=np.full(len(points.error_mm), 9.0))
    for name in ("scalp", "mouth_interior", "left_eyeball"):
        other = dataclasses.replace(odd, region=np.full(len(odd.region), REGIONS[name], np.uint8))
        both = Points("a", "a", *(np.concatenate(pair) for pair in zip(_arrays(points), _arrays(other), strict=True)))
        np.testing.assert_allclose(fitted([both]), fitted([points]), atol=0.05)


def _arrays(points: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return points.features, points.region, points.error_mm


def test_a_source_is_left_out_with_all_of_its_people() -> None:
    odd = TRUE * [-1, 1, 1, 1, 1, 1]
    sources = [drawn("a", "one", TRUE), drawn("b", "two", odd, seed=1), drawn("c", "two", odd, seed=2)]
    fits = {fit.points.source: fit for fit in left_out(sources)}
    np.testing.assert_allclose(fits["b"].weights, fitted(sources[:1]))
    np.testing.assert_allclose(fits["c"].weights, fits["b"].weights)
    np.testing.assert_allclose(fits["a"].weights, fitted(sources[1:]))
    said: list[str] = []
    weights = fitted_weights(sources, said.append)
    assert list(weights) == list(FEATURES)
    assert said[0] == HEADING
    gap = fits["b"].points.curve(fits["b"].weights).expected_error
    assert gap > 0.2
    assert float(said[2][44:51]) == pytest.approx(gap, abs=6e-4)


def test_one_origin_alone_cannot_be_left_out() -> None:
    assert left_out([drawn("a", "one", TRUE), drawn("b", "one", TRUE)]) == []
