"""Windows, normals and tracks of prediction, against a second computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trainer.inference import Maps
from trainer.prediction.store import PredictedFrame, normals_from_depth
from trainer.prediction.tracks import TrackConfig, Tracker
from trainer.prediction.windows import cut_windows, scale_between, stitch_windows


def maps_of(size: tuple[int, int] = (6, 6), **change: object) -> Maps:
    ones = np.ones(size, np.float32)
    return replace(Maps(ones, np.zeros((3, *size), np.float32), ones, ones), **change)


def test_windows_share_the_asked_number_of_frames() -> None:
    found = [(window, seen) for window, seen in cut_windows(range(11), 4, 1)]
    assert found == [([0, 1, 2, 3], 0), ([3, 4, 5, 6], 1), ([6, 7, 8, 9], 1), ([7, 8, 9, 10], 3)]


def test_a_scale_is_the_median_ratio_where_both_see_the_head() -> None:
    rng = np.random.default_rng(0)
    a, b = (maps_of((8, 8), depth_m=rng.uniform(0.5, 1.5, (8, 8)).astype(np.float32)) for _ in range(2))
    ratio = a.depth_m / b.depth_m
    assert scale_between([a], [b]) == pytest.approx(np.exp(np.median(np.log(ratio))), rel=1e-6)
    seen_a, seen_b = rng.uniform(0.3, 1, (8, 8)), rng.uniform(0.3, 1, (8, 8))
    both = (seen_a > 0.5) & (seen_b > 0.5)
    a, b = replace(a, surface=seen_a), replace(b, surface=seen_b)
    assert scale_between([a], [b]) == pytest.approx(np.exp(np.median(np.log(ratio[both]))), rel=1e-6)
    for count, known in ((16, True), (15, False)):  # of fewer pixels nothing is concluded
        few = np.zeros(64)
        few[:count] = 1
        scale = scale_between([replace(a, surface=few.reshape(8, 8))], [replace(b, surface=np.ones((8, 8)))])
        expected = np.exp(np.median(np.log(ratio.ravel()[:count]))) if known else 1
        assert scale == pytest.approx(expected, rel=1e-6)


def stitched(overlap: int, drift: str, sure: tuple[float, float] = (1.0, 1.0)) -> list[Maps]:
    """Nine frames in windows of 5; what a window says depends on the window."""
    number = iter(range(9))

    def predict(window: list[int]) -> list[Maps]:
        k = next(number)
        return [
            maps_of(
                depth_m=np.full((6, 6), 1.0 + 0.25 * k, np.float32),
                canonical=np.full((3, 6, 6), float(k), np.float32),
                depth_confidence=np.full((6, 6), sure[k], np.float32),
                canonical_confidence=np.full((6, 6), sure[k] ** 2, np.float32),
                surface=np.full((6, 6), 0.6 + 0.2 * k, np.float32),
                intrinsics=np.diag([10.0 + k, 20.0 + k, 1.0]).astype(np.float32),
            )
            for _ in window
        ]

    return [m for _, m in stitch_windows(cut_windows(range(5 + 5 - overlap), 5, overlap), predict, overlap, drift)]


@pytest.mark.parametrize("sure", [(1.0, 1.0), (2.0, 6.0)])
def test_shared_frames_pass_from_one_window_to_the_next_by_place_and_confidence(sure: tuple[float, float]) -> None:
    found = stitched(3, "chain", sure)
    assert len(found) == 7
    for k, maps in enumerate(found):
        share = min(max((k - 1) / 4, 0), 1)  # frames 2, 3 and 4 are shared: a quarter, a half, three quarters
        for power, name in ((1, "depth"), (2, "canonical")):
            a, b = (1 - share) * sure[0] ** power, share * sure[1] ** power
            weight = b / (a + b)
            confidence = getattr(maps, f"{name}_confidence")
            np.testing.assert_allclose(
                confidence, sure[0] ** power + weight * (sure[1] ** power - sure[0] ** power), rtol=1e-6
            )
            if name == "canonical":
                np.testing.assert_allclose(maps.canonical, weight, atol=1e-6)
        np.testing.assert_allclose(maps.depth_m, 1, rtol=1e-6)  # brought to the scale of the first
        np.testing.assert_allclose(maps.surface, 0.6 + 0.2 * share, rtol=1e-6)
        np.testing.assert_allclose(np.diag(maps.intrinsics), [10 + share, 20 + share, 1], rtol=1e-6)


def test_a_scale_s_correction_fades_over_the_frames_that_are_not_shared() -> None:
    depth = [float(m.depth_m[0, 0]) for m in stitched(2, "fade")]
    # The second window says 1.25 for 1. Of its three fresh frames a third, two thirds, all of that is let through.
    np.testing.assert_allclose(depth, [1, 1, 1, 1, 1, 1.25 ** (1 / 3), 1.25 ** (2 / 3), 1.25], rtol=1e-5)
    np.testing.assert_allclose([m.depth_m[0, 0] for m in stitched(2, "chain")], 1, rtol=1e-5)
    np.testing.assert_allclose([m.depth_m[0, 0] for m in stitched(0, "fade")], [1] * 5 + [1.25] * 5, rtol=1e-6)


def test_shared_cameras_are_taken_from_the_nearer_window() -> None:
    number = iter(range(2))
    base = np.eye(4, dtype=np.float32)

    def predict(window: list[int]) -> list[Maps]:
        k = next(number)
        poses = []
        for frame in window:
            pose = base.copy()
            pose[:3, 3] = [0.1 * frame + 0.5 * k + (0.02 if k and frame == 2 else 0), 0, 1]
            poses.append(maps_of(world_to_camera=pose))
        return poses

    found = [m for _, m in stitch_windows(cut_windows(range(7), 5, 3), predict, 3, "chain")]
    x = [m.world_to_camera[0, 3] for m in found]
    # The second window's world is 0.5 beside, and its frame 2 another 0.02: a third of that goes into the motion.
    moved = 0.02 / 3
    np.testing.assert_allclose(x, [0, 0.1, 0.2, 0.3 - moved, 0.4 - moved, 0.5 - moved, 0.6 - moved], atol=1e-6)


def test_normals_beside_a_step_are_those_of_their_own_side() -> None:
    K = np.array([[50.0, 0, 8], [0, 60.0, 6], [0, 0, 1]])
    y, x = np.mgrid[:12, :16] + 0.5
    rays = np.stack([(x - 8) / 50, (y - 6) / 60, np.ones_like(x)])
    sides = [np.array([0.2, 0.1, -1.0]), np.array([-0.3, 0.25, -1.0])]
    sides = [n / np.linalg.norm(n) for n in sides]
    planes = [n[2] * z / np.einsum("c,chw->hw", n, rays) for n, z in zip(sides, (0.8, 1.1), strict=True)]
    left = np.arange(16) < 9
    depth = np.where(left, *planes).astype(np.float32)
    valid = np.ones((12, 16), bool)
    valid[3, 3] = False
    found = normals_from_depth(depth, K, valid)
    expected = np.where(left, sides[0][:, None, None], sides[1][:, None, None])
    expected = np.where(valid, expected, 0)
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=2e-4)
    alone = np.zeros((12, 16), bool)
    alone[5, 5:8] = True
    assert not normals_from_depth(depth, K, alone).any()  # a row has no slope across itself


def plane_frame(size: int = 24, confidence: float = 20.0, shift: float = 0.0) -> PredictedFrame:
    """A plane a metre away whose canonical coordinates are its own, in units of a decimetre."""
    y, x = np.mgrid[:size, :size] + 0.5
    canonical = np.stack([x / size + shift, y / size, 0 * x]).astype(np.float32)
    ones = np.ones((size, size), np.float32)
    K = np.array([[40.0, 0, size / 2], [0, 40.0, size / 2], [0, 0, 1]], np.float32)
    image = np.stack([10 * x, 10 * y, 0 * x]).clip(0, 255).astype(np.uint8)
    sure = confidence * ones
    return PredictedFrame(
        image, ones, canonical * 0, canonical, sure, sure, ones, ones > 0, K, np.eye(4, dtype=np.float32)
    )  # fmt: skip


def test_a_track_between_pixels_is_a_gaussian_mean_of_the_pixels_about_it() -> None:
    first = plane_frame()
    tracker = Tracker(first, 0.1, 0.1, TrackConfig(count=9, radius_mm=30, seed=3))
    np.testing.assert_array_equal(tracker.seed_colour[:, :2], (10 * tracker.seed_xy).clip(0, 255).astype(np.uint8))
    moved = plane_frame(shift=-0.4 / 24)  # everything is 0.4 pixels further right
    row = tracker.find(moved)
    centres = np.stack(np.meshgrid(np.arange(24) + 0.5, np.arange(24) + 0.5), -1).reshape(-1, 2)
    where = moved.canonical.reshape(3, -1).T.astype(float)
    for k, seed in enumerate(tracker.seed_canonical.astype(float)):
        distance = np.linalg.norm(where - seed, axis=1)
        order = np.argsort(distance, kind="stable")[:25]
        nearest = order[0]
        assert row.canonical_distance_mm[k] == pytest.approx(100 * distance[nearest], rel=1e-4)
        inside = order[np.linalg.norm(centres[order] - centres[nearest], axis=1) <= 2]
        inside = inside[distance[inside] <= 0.3]
        weight = np.exp(-(distance[inside] ** 2 - distance[nearest] ** 2) / distance[order[4]] ** 2)
        weight /= weight.sum()
        np.testing.assert_allclose(row.xy[k], weight @ centres[inside], atol=0.02)
        pixel = row.xy[k]
        np.testing.assert_allclose(row.xyz[k], [(pixel[0] - 12) / 40, (pixel[1] - 12) / 40, 1], atol=1e-5)
    inner = (tracker.seed_xy > 3).all(1) & (tracker.seed_xy < 21).all(1)
    assert inner.sum() >= 1
    # A mean over pixels up to two about the nearest leans towards that one.
    np.testing.assert_allclose(row.xy[inner], tracker.seed_xy[inner] + [0.4, 0], atol=0.08)


def test_the_error_a_track_expects_is_of_both_confidences_and_the_distance() -> None:
    tracker = Tracker(plane_frame(confidence=20), 0.1, 0.3, TrackConfig(count=9, radius_mm=30))
    row = tracker.find(plane_frame(confidence=8, shift=-0.4 / 24))
    seed, match = (np.sqrt(3) * 0.3 * 100 / c for c in (20, 8))
    expected = np.sqrt(seed**2 + match**2 + row.canonical_distance_mm.astype(float) ** 2)
    np.testing.assert_allclose(row.expected_error_mm, expected, rtol=1e-5)
    np.testing.assert_allclose(row.confidence, np.exp(-expected / 5), rtol=1e-4)
    assert (row.canonical_distance_mm > 1).all()


@pytest.mark.parametrize(("shift_pixels", "radius_mm", "found"), [(6, 26, True), (6, 24, False)])
def test_a_track_is_lost_beyond_its_radius(shift_pixels: float, radius_mm: float, found: bool) -> None:
    # Pixels are 100 / 24 mm apart; a coordinate 6 pixels off the plane is 25 mm away.
    first = plane_frame()
    tracker = Tracker(first, 0.1, 0.1, TrackConfig(count=5, radius_mm=radius_mm, mutual_pixels=1e9))
    lifted = first.canonical.copy()
    lifted[2] += shift_pixels / 24
    row = tracker.find(replace(first, canonical=lifted))
    assert row.visible.all() == found
    assert np.isfinite(row.xy).all() == found
    assert (row.confidence > 0).all() == found


@pytest.mark.parametrize(("limit", "mutual"), [(2.9, False), (3.1, True)])
def test_a_match_is_mutual_within_its_limit_of_pixels(limit: float, mutual: bool) -> None:
    first = plane_frame()
    tracker = Tracker(first, 0.1, 0.1, TrackConfig(count=4, radius_mm=40, mutual_pixels=limit))
    # Of the second view but one pixel in seven is left, each three pixels beside a seed.
    keep = np.zeros((24, 24), bool)
    columns, rows = np.floor(tracker.seed_xy).astype(int).T
    beside = np.where(columns < 12, columns + 3, columns - 3)
    keep[rows, beside] = True
    row = tracker.find(replace(first, valid=keep))
    assert row.mutual.all() == mutual
    assert row.mutual.any() == mutual
    np.testing.assert_array_equal(row.visible, row.mutual)


def test_the_least_confident_tenth_has_no_seeds() -> None:
    first = plane_frame()
    unsure = first.canonical_confidence.copy()
    unsure[:, :2] = 2.0  # a twelfth of all
    tracker = Tracker(replace(first, canonical_confidence=unsure), 0.1, 0.1, TrackConfig(count=200))
    assert len(tracker.seed_xy) == 200
    assert (tracker.seed_xy[:, 0] > 0).all()
    unsure[:, :3] = 2.0  # more than a tenth: what is as unsure as the tenth's rim takes part
    assert (Tracker(replace(first, canonical_confidence=unsure), 0.1, 0.1, TrackConfig(count=400)).seed_xy < 3).any()
