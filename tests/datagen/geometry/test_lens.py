"""Lenses: OpenCV's own formulas and maps, half pixels, what cannot be straightened."""

from __future__ import annotations

import numpy as np
import pytest

from datagen.common.errors import CameraError
from datagen.geometry.lens import BrownLens, FisheyeLens, Lens, source_pixels, straight_intrinsics, straighten

cv2 = pytest.importorskip("cv2")

WIDTH, HEIGHT = 320, 240
K = np.array([[290.0, 0, 163.2], [0, 287.0, 117.7], [0, 0, 1]])
# OpenCV's order: k1 k2 p1 p2 k3 k4 k5 k6.
LENSES = {
    "simple radial": (BrownLens((0.12,)), [0.12, 0, 0, 0]),
    "radial": (BrownLens((-0.25, 0.06)), [-0.25, 0.06, 0, 0]),
    "brown": (BrownLens((-0.2, 0.05, -0.01), (), (0.003, -0.002)), [-0.2, 0.05, 0.003, -0.002, -0.01]),
    "rational": (
        BrownLens((0.4, 0.1, 0.02), (0.7, 0.05, 0.01), (0.001, 0.002)),
        [0.4, 0.1, 0.001, 0.002, 0.02, 0.7, 0.05, 0.01],
    ),
}
FISHEYE = FisheyeLens((-0.03, 0.01, -0.004, 0.001))
NAMED = [*((name, lens) for name, (lens, _) in LENSES.items()), ("fisheye", FISHEYE)]


def _of_opencv(K: np.ndarray) -> np.ndarray:
    """Return K for pixel centres at whole numbers."""
    return K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]


def _centres() -> np.ndarray:
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    return np.stack([x.ravel(), y.ravel()], 1)


@pytest.mark.parametrize("name", LENSES)
def test_points_land_where_opencv_projects_them(name: str) -> None:
    lens, coefficients = LENSES[name]
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 2))
    theirs, _ = cv2.projectPoints(np.c_[points, np.ones(200)], np.zeros(3), np.zeros(3), K, np.array(coefficients))
    np.testing.assert_allclose(lens.distort(points) @ K[:2, :2].T + K[:2, 2], theirs[:, 0], atol=1e-9)


def test_fisheye_points_land_where_opencv_projects_them() -> None:
    points = np.r_[np.random.default_rng(0).uniform(-1.5, 1.5, (200, 2)), [[0, 0]]]
    rays = np.c_[points, np.ones(201)][:, None]
    theirs, _ = cv2.fisheye.projectPoints(rays, np.zeros(3), np.zeros(3), K, np.array(FISHEYE.coefficients))
    np.testing.assert_allclose(FISHEYE.distort(points) @ K[:2, :2].T + K[:2, 2], theirs[:, 0], atol=1e-9)


@pytest.mark.parametrize("name", LENSES)
def test_the_map_is_that_of_opencv_half_pixels_included(name: str) -> None:
    lens, coefficients = LENSES[name]
    new = straight_intrinsics(lens, K, WIDTH, HEIGHT, "c")
    found = source_pixels(lens, K, new, _centres()) - 0.5
    x, y = cv2.initUndistortRectifyMap(
        _of_opencv(K), np.array(coefficients), None, _of_opencv(new), (WIDTH, HEIGHT), cv2.CV_32FC1
    )
    assert np.abs(found - np.stack([x.ravel(), y.ravel()], 1)).max() < 1e-3


def test_the_fisheye_map_is_that_of_opencv() -> None:
    new = straight_intrinsics(FISHEYE, K, WIDTH, HEIGHT, "c")
    found = source_pixels(FISHEYE, K, new, _centres()) - 0.5
    x, y = cv2.fisheye.initUndistortRectifyMap(
        _of_opencv(K), np.array(FISHEYE.coefficients), np.eye(3), _of_opencv(new), (WIDTH, HEIGHT), cv2.CV_32FC1
    )
    assert np.abs(found - np.stack([x.ravel(), y.ravel()], 1)).max() < 1e-3


@pytest.mark.parametrize(("name", "lens"), NAMED)
def test_the_straight_picture_is_filled_and_touches_the_edge(name: str, lens: Lens) -> None:
    new = straight_intrinsics(lens, K, WIDTH, HEIGHT, "c")
    found = source_pixels(lens, K, new, _centres())
    assert (found >= -1e-6).all()
    assert (found <= [WIDTH + 1e-6, HEIGHT + 1e-6]).all()
    # No wider view would be: somewhere a pixel lies at the very edge.
    assert min(found.min(), (np.array([WIDTH, HEIGHT]) - found).min()) < 0.05
    np.testing.assert_array_equal(new[:, 2], K[:, 2])


@pytest.mark.parametrize(("name", "lens"), NAMED)
def test_a_distorted_picture_comes_out_straight(name: str, lens: Lens) -> None:
    """A smooth pattern is drawn through the lens and, apart from that, by a pinhole with the new K."""

    def pattern(points: np.ndarray) -> np.ndarray:
        x, y = points[:, 0], points[:, 1]
        return 128 + 50 * np.stack([np.sin(20 * x), np.cos(23 * y), np.sin(15 * (x + y))], 1)

    new = straight_intrinsics(lens, K, WIDTH, HEIGHT, "c")
    pixels = _centres()
    # Through the lens: the inverse by fixed points, apart from what is tested.
    wanted = (pixels - K[:2, 2]) / [K[0, 0], K[1, 1]]
    straight = wanted.copy()
    for _ in range(200):
        step = wanted - lens.distort(straight)
        straight += step
        if np.abs(step).max() < 1e-9:
            break
    else:
        raise AssertionError("the lens was not inverted")
    drawn = np.rint(pattern(straight)).reshape(HEIGHT, WIDTH, 3).astype(np.uint8)
    truth = pattern((pixels - new[:2, 2]) / [new[0, 0], new[1, 1]]).reshape(HEIGHT, WIDTH, 3)
    error = np.abs(straighten(drawn, lens, K, new) - truth)[4:-4, 4:-4]
    # A wrong half pixel would be 1.5 to 2 grey values on average.
    assert error.max() < 2
    assert error.mean() < 0.5
    mask = straighten(np.ones((HEIGHT, WIDTH), bool), lens, K, new)
    assert (mask.dtype, bool(mask.all())) == (np.bool_, True)


def test_a_pinhole_stays_as_it_is() -> None:
    assert straight_intrinsics(BrownLens((0.0,)), K, WIDTH, HEIGHT, "c") is K
    assert not FisheyeLens().is_straight


@pytest.mark.parametrize("lens", [BrownLens((-9.0,)), BrownLens((np.nan,)), BrownLens((), (-5.0,))])
def test_coefficients_that_fold_the_picture_are_refused(lens: Lens) -> None:
    with pytest.raises(CameraError, match=r"camera left.*320×240"):
        straight_intrinsics(lens, K, WIDTH, HEIGHT, "left")


def test_intrinsics_that_are_none_are_refused() -> None:
    with pytest.raises(CameraError, match="focal lengths above 0"):
        straight_intrinsics(FISHEYE, K * 0, WIDTH, HEIGHT, "left")
