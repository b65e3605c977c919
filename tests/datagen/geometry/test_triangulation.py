"""Triangulation: exact without noise, near with it, and unmoved by views that are wrong."""

from __future__ import annotations

import numpy as np

from datagen.geometry.camera import look_at
from datagen.geometry.lens import BrownLens, FisheyeLens, TsaiLens, source_pixels, straight_intrinsics, straight_pixels
from datagen.geometry.triangulation import triangulate

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(30, 3)) * 0.05
CAMERAS = [
    look_at(f"c{k}", [np.sin(a), 0.2 * (-1) ** k, np.cos(a)], [0, 0, 0], 1500.0, 1000, 800)
    for k, a in enumerate(np.linspace(-1, 1, 8))
]
SEEN = np.stack([camera.project(POINTS)[0] for camera in CAMERAS])
LIMITS = [6.0] * len(CAMERAS)


def test_points_without_noise_are_exact() -> None:
    found = triangulate(CAMERAS, SEEN, LIMITS)
    np.testing.assert_allclose(found.points, POINTS, atol=1e-9)
    assert (found.views == len(CAMERAS)).all()
    assert found.error_px.max() < 1e-6


def _best_rms(right: np.ndarray) -> float:
    """Return the RMS error that least squares have with a pixel of noise, of the views (C, N) that are right."""
    variance = []
    for n, point in enumerate(POINTS):
        steps = np.concatenate([point[None], point + 1e-6 * np.eye(3)])
        shown = [camera.project(steps)[0] for c, camera in enumerate(CAMERAS) if right[c, n]]
        J = np.concatenate([((one[1:] - one[0]) / 1e-6).T for one in shown])
        variance.append(np.trace(np.linalg.inv(J.T @ J)))
    return float(np.sqrt(np.mean(variance)))


def test_wrong_views_do_not_move_a_point() -> None:
    pixels = SEEN + RNG.normal(size=SEEN.shape)
    right = np.ones(SEEN.shape[:2], bool)
    clean = triangulate(CAMERAS, pixels, LIMITS)
    assert np.sqrt(np.mean(np.sum((clean.points - POINTS) ** 2, axis=1))) < 1.2 * _best_rms(right)
    bad = pixels.copy()
    for n in range(len(POINTS)):
        for c in RNG.choice(len(CAMERAS), 3, replace=False):
            bad[c, n] += 200 * RNG.normal(size=2) + 50
            right[c, n] = False
    found = triangulate(CAMERAS, bad, LIMITS)
    assert np.sqrt(np.mean(np.sum((found.points - POINTS) ** 2, axis=1))) < 1.2 * _best_rms(right)
    assert (found.views <= 5).all()


def test_points_that_too_few_views_show_or_agree_on_are_left_out() -> None:
    pixels = SEEN.copy()
    pixels[1:, 0] = np.nan  # one view
    pixels[:, 1] += 300 * RNG.normal(size=(len(CAMERAS), 2))  # all wrong
    pixels[2:, 2] = np.nan  # two views, which agree
    pixels[2:, 3] = np.nan
    pixels[0, 3] += [0, 90]  # two views, which do not
    found = triangulate(CAMERAS, pixels, LIMITS)
    assert np.isnan(found.points[[0, 1, 3]]).all()
    np.testing.assert_allclose(found.points[2], POINTS[2], atol=1e-9)
    assert found.views[2] == 2
    np.testing.assert_allclose(found.points[4:], POINTS[4:], atol=1e-9)


def test_two_views_of_one_direction_fix_no_depth() -> None:
    near = [look_at(f"c{k}", [0.001 * k, 0, 1], [0, 0, 0], 1500.0, 1000, 800) for k in range(2)]
    pixels = np.stack([camera.project(POINTS)[0] for camera in near])
    assert np.isnan(triangulate(near, pixels, [6.0, 6.0]).points).all()


def test_pixels_of_a_distorted_picture_are_found_in_the_straight_one() -> None:
    K = np.array([[900.0, 0, 505.0], [0, 890.0, 395.0], [0, 0, 1]])
    pixels = np.stack([RNG.uniform(20, 980, 200), RNG.uniform(20, 780, 200)], 1)
    for lens in (
        BrownLens(),
        BrownLens((-0.2, 0.05), (), (0.003, -0.002)),
        FisheyeLens((-0.03, 0.01)),
        TsaiLens((0.1,)),
    ):
        new = straight_intrinsics(lens, K, 1000, 800, "c")
        np.testing.assert_allclose(
            straight_pixels(lens, K, new, source_pixels(lens, K, new, pixels)), pixels, atol=1e-4
        )
