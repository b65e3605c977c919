"""Correspondence: what is true, what is hidden, and what methods get, on analytic ellipsoids."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datagen.shards import open_dataset
from tests.support.evaluation_scene import LABELS, Ellipsoid, head_pose, turn, world_camera
from trainer.evaluation.baselines import FlowChain, follow, sample_map
from trainer.evaluation.cameras import pixel_centres, project, rigid_inverse, transform, unproject
from trainer.evaluation.canonical import in_region, region_labels
from trainer.evaluation.correspondence import (
    CorrespondenceErrors,
    NearestNeighbour,
    PairErrors,
    TrueSurface,
    draw_queries,
    end_point_errors,
)
from trainer.evaluation.frames import TRUTH_ARRAYS, Truth
from trainer.evaluation.surface import MapSurface, closest_on_triangles

REGIONS = region_labels(LABELS)


def queries_of(scene: Ellipsoid, count: int = 300):
    return draw_queries(scene.truth(), REGIONS, count, 10, np.random.default_rng(0))


@settings(max_examples=25, deadline=None)
@given(
    arrays(np.float64, (3, 3), elements=st.floats(-1, 1, width=16)), arrays(np.float64, 3, elements=st.floats(-2, 2))
)
def test_closest_point_of_a_triangle_is_that_of_a_fine_sampling(triangle: np.ndarray, query: np.ndarray) -> None:
    weights, distance = closest_on_triangles(query[None], triangle[None])
    v, w = np.meshgrid(np.linspace(0, 1, 81), np.linspace(0, 1, 81))
    keep = v + w <= 1 + 1e-12
    sampled = np.stack([1 - v[keep] - w[keep], v[keep], w[keep]], 1) @ triangle
    best = np.linalg.norm(sampled - query, axis=1).min()
    assert weights.min() >= -1e-9
    assert weights.sum() == pytest.approx(1)
    assert np.linalg.norm(weights[0] @ triangle - query) == pytest.approx(distance[0], abs=1e-9)
    assert best - 0.06 <= distance[0] <= best + 1e-9


def test_unprojecting_and_projecting_are_inverse() -> None:
    scene = Ellipsoid(size=28)
    points = unproject(np.full((28, 28), 0.8), scene.K)
    pixels = project(points.reshape(3, -1).T, scene.K)
    np.testing.assert_allclose(pixels, pixel_centres(28, 28).reshape(2, -1).T, atol=1e-9)
    assert np.isnan(project(np.array([[0.0, 0.0, -1.0]]), scene.K)).all()


def test_a_plane_is_met_between_pixels() -> None:
    scene = Ellipsoid(size=20)
    plane = unproject(np.full((20, 20), 0.8), scene.K)
    surface = MapSurface(plane, plane, np.ones((20, 20), bool), scene.K)
    wanted = np.array([[7.3, 9.9], [10.01, 4.5], [12.75, 12.75]])
    points = np.column_stack([(wanted - 10) / scene.K[0, 0] * 0.8, np.full(3, 0.8)])
    places = surface.closest(points + np.array([0, 0, 0.002]))
    np.testing.assert_allclose(places.pixels, wanted, atol=1e-9)
    np.testing.assert_allclose(places.distance_m, 0.002, atol=1e-12)


def test_a_step_in_depth_is_not_a_surface() -> None:
    scene = Ellipsoid(size=20)
    depth = np.full((20, 20), 0.8)
    depth[:, 10:] = 0.9
    points = unproject(depth, scene.K)
    surface = MapSurface(points, points, np.ones((20, 20), bool), scene.K)
    halfway = (points[:, 5, 9] + points[:, 5, 10]) / 2
    rim = min(np.linalg.norm(points[:, :, c] - halfway[:, None], axis=0).min() for c in (9, 10))
    assert 0.05 <= surface.closest(halfway[None]).distance_m[0] <= rim  # one of the rims, not a wall between them


def test_nothing_to_find() -> None:
    scene = Ellipsoid(size=20)
    zero = np.zeros((3, 20, 20))
    places = MapSurface(zero, zero, np.zeros((20, 20), bool), scene.K).closest(np.zeros((2, 3)))
    assert np.isinf(places.distance_m).all()
    assert np.isnan(places.pixels).all()


@pytest.mark.parametrize(
    "other",
    [
        Ellipsoid(pose=head_pose(turn(1, 25), (0.01, -0.005, 0.02))),
        Ellipsoid(camera=world_camera() @ head_pose(turn(1, 30))),
        Ellipsoid(radii=(0.08, 0.1, 0.085), pose=head_pose(turn(0, 25))),
    ],
    ids=["frames", "views", "subjects"],
)
def test_true_places_are_the_analytic_ones_and_the_far_side_is_hidden(other: Ellipsoid) -> None:
    first = Ellipsoid()
    queries = queries_of(first)
    canonical = queries.of(first.truth().canonical_m)
    pixels, points, cosine = other.place(canonical)
    places, visible = TrueSurface(other.truth()).find(first.truth(), queries)
    assert 0.6 < visible.mean() <= 1
    # Between pixels the stored surface is flat, the ellipsoid is not: a chord over a pixel's diagonal (5.5 mm × √2)
    # lies up to its square / 8 R = 0.09 mm below, 0.016 pixels. Towards the outline the chords grow.
    error = np.linalg.norm(places.pixels - pixels, axis=1)[visible]
    assert np.median(error) < 0.016
    assert np.quantile(error, 0.95) < 0.1
    assert np.median(np.linalg.norm(places.points - points, axis=1)[visible]) < 9e-5
    # What faces away is hidden and what faces the camera is seen, but for a rim: at a cosine of 0.3 the chords are
    # three times as long and lie 0.8 mm below, and just behind the outline skin is within a millimetre of what shows.
    assert (cosine < -0.2).any()
    assert not visible[cosine < -0.2].any()
    assert visible[cosine > 0.4].all()


def test_true_places_on_rendered_heads_are_those_of_reprojection(tiny_build) -> None:
    dataset = open_dataset(tiny_build.root)
    split = next(dataset[name] for name in ("train", "val") if len(dataset[name]))
    views = split.views()[0]
    maps = split.read(TRUTH_ARRAYS, views)
    truths = [Truth.of(maps, k, dataset.half_extent_m) for k in range(len(views))]
    errors, seen, shown = [], [], []
    for a, b in pairwise(truths):
        queries = draw_queries(a, {"face": np.arange(1, 256)}, 300, 0, np.random.default_rng(0))
        places, visible = TrueSurface(b).find(a, queries)
        world = transform(rigid_inverse(a.world_to_camera), a.points)
        there = queries.of(transform(b.world_to_camera, world))
        near = MapSurface(b.points, b.points, b.surface, b.intrinsics).closest(there).distance_m < 1e-3
        errors.append(np.linalg.norm(places.pixels - project(there, b.intrinsics), axis=1)[visible & near])
        seen.append(visible)
        shown.append(near)
    both = np.concatenate(seen), np.concatenate(shown)
    assert 0.2 < both[0].mean() < 1  # some is hidden
    # Two ways to say what is seen, at 56 pixels: by canonical coordinates, and by depth and cameras alone.
    assert (both[0] == both[1]).mean() > 0.97
    assert np.median(np.concatenate(errors)) < 0.03


def test_touching_lips_are_told_apart_by_their_labels() -> None:
    first = Ellipsoid()
    truth = first.truth()
    upper, lower = truth.region == LABELS["upper_lip"], truth.region == LABELS["lower_lip"]
    # Fold the canonical space so that the lips lie on one another, as those of a closed mouth do.
    crease = -0.55 * 0.105
    canonical = truth.canonical_m.copy()
    canonical[1][lower] = 2 * crease - canonical[1][lower]
    folded = type(truth)(**{**truth.__dict__, "canonical_m": canonical})
    queries = queries_of(first, 1500)
    places, visible = TrueSurface(folded).find(folded, queries)
    on_lips = (upper | lower)[queries.rows, queries.columns] & visible
    assert on_lips.sum() > 30
    error = np.linalg.norm(places.pixels - queries.pixels, axis=1)[on_lips]
    assert np.quantile(error, 0.95) < 0.6  # right at the crease either lip is right


def test_a_ball_that_turns_is_matched_by_canonical_and_not_by_posed_space() -> None:
    ball = (0.09, 0.09, 0.09)
    a, b = Ellipsoid(radii=ball), Ellipsoid(radii=ball, pose=head_pose(turn(1, 12)))
    queries = queries_of(a)
    places, visible = TrueSurface(b.truth()).find(a.truth(), queries)
    motion = np.linalg.norm(places.pixels - queries.pixels, axis=1)[visible]

    def median_px(matcher: NearestNeighbour) -> float:
        errors = end_point_errors(matcher.find(a.perfect(), queries, b.perfect()), places, visible)
        assert np.isnan(errors.pixels_px).sum() == (~visible).sum()
        return float(np.nanmedian(errors.pixels_px))

    assert np.median(motion) > 2
    assert median_px(NearestNeighbour(lambda v: v.canonical_m)) < 0.02
    assert median_px(NearestNeighbour(lambda v: v.head_points)) < 0.05  # the pose is given away
    # The ball looks the same after its turn: in world space every point is found where it was.
    assert median_px(NearestNeighbour(lambda v: v.world_points)) == pytest.approx(np.median(motion), rel=0.02)


def test_a_shifted_answer_is_wrong_by_its_shift() -> None:
    a, b = Ellipsoid(), Ellipsoid(pose=head_pose(turn(1, 10)))
    queries = queries_of(a)
    places, visible = TrueSurface(b.truth()).find(a.truth(), queries)
    errors = end_point_errors(
        (places.pixels + np.array([3, 4]), places.points + np.array([0, 0.003, 0.004])), places, visible
    )
    np.testing.assert_allclose(errors.pixels_px[visible], 5)
    np.testing.assert_allclose(errors.points_mm[visible], 5)
    nowhere = end_point_errors((np.full_like(places.pixels, np.nan), places.points), places, visible)
    assert np.isinf(nowhere.pixels_px[visible]).all()


def test_figures_of_known_errors() -> None:
    collected = CorrespondenceErrors("c", side_px=100)
    px = np.array([0.5, 1.5, 4.0, 50.0, np.nan])
    collected.add(PairErrors(px, 2 * px))
    collected.add(PairErrors(np.array([7.0, 7.0]), np.array([7.0, 7.0])), np.array([False, False]))
    figures = collected.metrics()
    assert figures["c_median_px"] == pytest.approx(2.75)
    assert figures["c_mean_px"] == pytest.approx(14)
    assert figures["c_mean_mm"] == pytest.approx(28)
    assert (figures["c_pck1"], figures["c_pck2"], figures["c_pck5"]) == (0.25, 0.5, 0.75)
    assert figures["c_within_5mm"] == 0.5
    assert figures["c_visible"] == pytest.approx(4 / 5)
    assert np.isnan(CorrespondenceErrors("c", 100).metrics()["c_median_px"])


def test_queries_are_known_pixels_and_small_regions_are_topped_up() -> None:
    truth = Ellipsoid().truth()
    queries = draw_queries(truth, REGIONS, 100, 12, np.random.default_rng(3))
    assert queries.uniform.sum() == 100
    assert truth.known[queries.rows, queries.columns].all()
    assert len(set(zip(queries.rows.tolist(), queries.columns.tolist(), strict=True))) == len(queries.rows)
    for name, labels in REGIONS.items():
        shown = in_region(truth.region, labels).sum()
        assert in_region(queries.of(truth.region), labels).sum() >= min(12, shown), name


def test_reading_between_pixels_is_linear() -> None:
    y, x = np.mgrid[:9, :11] + 0.5
    places = np.array([[3.2, 4.9], [10.0, 0.75], [6.5, 6.5]])
    np.testing.assert_allclose(sample_map(np.stack([2 * x + y, y]), places), [
        [2 * px + py, py] for px, py in places.tolist()
    ])  # fmt: skip
    moved = follow(places, np.stack([np.full((9, 11), 1.5), np.full((9, 11), -2.0)]))
    np.testing.assert_allclose(moved, places + np.array([1.5, -2]))


def test_optical_flow_is_chained_over_frames() -> None:
    pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    noise = np.kron(rng.uniform(0, 255, (30, 30)), np.ones((4, 4)))
    for axis in (0, 1):
        noise = (np.roll(noise, 1, axis) + np.roll(noise, -1, axis) + 2 * noise) / 4
    scene = Ellipsoid(size=112)
    views = []
    for k in range(3):
        image = np.roll(noise, (3 * k, -2 * k), (0, 1))[:112, :112].astype(np.uint8)
        truth = scene.truth()
        views.append(type(scene.perfect())(type(truth)(**{**truth.__dict__, "image": np.stack([image] * 3)}),
                                           truth.depth_m, truth.canonical_m))  # fmt: skip
    queries = queries_of(scene)
    pixels, points = FlowChain(views).find(views[0], queries, views[2])
    error = np.linalg.norm(pixels - queries.pixels - [-4, 6], axis=1)
    assert np.median(error) < 0.25
    assert points.shape == (len(queries.rows), 3)
