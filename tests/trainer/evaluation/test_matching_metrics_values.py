"""Correspondence, tracks, flow and speed: limits met from both sides, and values that are neither 0 nor 1."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.evaluation_scene import LABELS, Ellipsoid, head_pose, turn, world_camera
from trainer.evaluation import speed
from trainer.evaluation.baselines import FlowChain, sample_map
from trainer.evaluation.cameras import project, unproject_pixels
from trainer.evaluation.canonical import region_labels
from trainer.evaluation.correspondence import (
    CorrespondenceErrors,
    NearestNeighbour,
    PairErrors,
    Queries,
    TrueSurface,
    draw_queries,
    end_point_errors,
)
from trainer.evaluation.frames import TRUTH_ARRAYS, EvaluationOptions, Truth
from trainer.evaluation.gather import Evaluation, Run
from trainer.evaluation.surface import MapSurface
from trainer.evaluation.tracking import MAX_WINDOW, MotionErrors, TrackingErrors, track_errors

NAN = float("nan")


def plane(size: int = 24, depth_m: float = 0.8) -> Truth:
    """A plane square to the camera whose canonical coordinates are its points."""
    scene = Ellipsoid(size=size)
    x = (np.mgrid[:size, :size][1] + 0.5 - size / 2) / scene.K[0, 0] * depth_m
    y = (np.mgrid[:size, :size][0] + 0.5 - size / 2) / scene.K[0, 0] * depth_m
    full = np.full((size, size), depth_m, np.float32)
    return replace(
        scene.truth(), depth_m=full, canonical_m=np.stack([x, y, full]), confidence=np.ones_like(full),
        region=np.ones((size, size), np.uint8),
    )  # fmt: skip


def every_pixel(truth: Truth) -> Queries:
    rows, columns = np.indices(truth.depth_m.shape).reshape(2, -1)
    return Queries(rows, columns, np.ones(len(rows), bool))


def test_a_point_is_visible_within_a_millimetre_of_the_other_surface() -> None:
    there = plane()
    lifted = there.canonical_m.copy()
    lifted[2] += np.resize([0.0, 0.0004, 0.00097, 0.00103, 0.0015, 0.01], 24)
    here = replace(there, canonical_m=lifted)
    queries = every_pixel(here)
    places, visible = TrueSurface(there).find(here, queries)
    off = queries.of(lifted)[:, 2] - 0.8
    np.testing.assert_allclose(places.distance_m, off, atol=1e-7)
    np.testing.assert_array_equal(visible, off < 0.001)
    assert 0.3 < visible.mean() < 0.7
    np.testing.assert_allclose(places.pixels[visible], queries.pixels[visible], atol=1e-4)


def test_shares_of_points_within_limits_from_both_sides() -> None:
    errors = CorrespondenceErrors("c", side_px=200)
    px = np.array([1.99, 2.01, 3.99, 4.01, 9.99, 10.01, 2.0, NAN])
    mm = np.array([4.99, 5.01, 9.99, 10.01, 1.0, 30.0, 7.0, NAN])
    errors.add(PairErrors(px, mm))
    errors.add(PairErrors(np.array([1.0, 100.0]), np.array([2.0, 60.0])), np.array([True, False]))
    figures = errors.metrics()
    within = {"pck1": 3, "pck2": 5, "pck5": 7, "within_5mm": 3, "within_10mm": 6}
    for name, count in within.items():
        assert figures[f"c_{name}"] == pytest.approx(count / 8), name
    assert figures["c_visible"] == pytest.approx(8 / 9)
    assert figures["c_median_px"] == pytest.approx(3.0, abs=1e-5)
    assert figures["c_median_mm"] == pytest.approx((5.01 + 7) / 2, abs=1e-5)
    curve = errors.curve()
    assert len(curve) == 41
    np.testing.assert_allclose(errors.CURVE[[0, 1, 40]], [0, 0.0025, 0.1])
    # Shares of 200: at 1 % two pixels and less, at 2 % four, at 10 % all.
    np.testing.assert_allclose([curve[k] for k in (0, 3, 4, 8, 20, 40)], [0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1])


def test_errors_of_a_matcher_by_pixel_and_by_point() -> None:
    a = Ellipsoid(radii=(0.09, 0.09, 0.09))
    b = replace(a, pose=head_pose(turn(1, 9), (0.002, 0, 0.004)))
    truth, there = a.truth(), b.truth()
    queries = draw_queries(truth, region_labels(LABELS), 200, 5, np.random.default_rng(0))
    places, visible = TrueSurface(there).find(truth, queries)
    wrong = (there.canonical_m + np.array([0.004, 0.003, 0])[:, None, None]).astype(np.float32)
    found = NearestNeighbour(lambda view: view.canonical_m).find(a.perfect(), queries, b.perfect(canonical_m=wrong))
    errors = end_point_errors(found, places, visible)
    # A map that says everything 5 mm beside: what is found lies about so far from what was asked for.
    assert np.nanmedian(errors.points_mm) == pytest.approx(5, rel=0.15)
    expected = np.linalg.norm(project(found[1], there.intrinsics) - places.pixels, axis=1)
    np.testing.assert_allclose(errors.pixels_px[visible], expected[visible])


def test_a_depth_that_is_scaled_matches_all_the_same_and_places_points_on_the_true_scale() -> None:
    scene = Ellipsoid(camera=world_camera() @ head_pose(turn(1, 20), (0.01, 0.02, 0)), pose=head_pose(turn(0, 10)))
    truth = scene.truth()
    view = scene.perfect(depth_m=1.25 * truth.depth_m)
    on = truth.surface
    np.testing.assert_allclose(view.scaled_depth_m[on], truth.depth_m[on], rtol=1e-6)
    points = truth.points[:, on]
    head = np.linalg.inv(truth.world_to_camera.astype(float) @ truth.head_to_world)
    world = np.linalg.inv(truth.world_to_camera.astype(float))
    np.testing.assert_allclose(view.points[:, on], points, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(view.world_points[:, on], (world[:3, :3] @ points) + world[:3, 3:], atol=1e-6)
    np.testing.assert_allclose(view.head_points[:, on], (head[:3, :3] @ points) + head[:3, 3:], atol=1e-6)
    # In head axes the ellipsoid is the canonical one.
    np.testing.assert_allclose(view.head_points[:, on], truth.canonical_m[:, on], atol=1e-5)


def test_stored_maps_are_taken_in_metres() -> None:
    truth = Ellipsoid().truth()
    stored = {name: getattr(truth, name, None) for name in TRUTH_ARRAYS}
    stored |= {
        "depth": truth.depth_m,
        "canonical": truth.canonical_m / np.float32(0.15),
        "edge": truth.edge.astype(int),
    }
    stored["confidence"] = np.where(np.arange(56) % 2 == 0, truth.confidence, 0)
    two = {name: np.stack([0 * value, value]) for name, value in stored.items()}
    found = Truth.of(two, 1, 0.15)
    np.testing.assert_allclose(found.canonical_m, truth.canonical_m, atol=1e-7)
    np.testing.assert_array_equal(found.depth_m, truth.depth_m)
    np.testing.assert_array_equal(found.surface, truth.depth_m > 0)
    np.testing.assert_array_equal(found.known, (truth.depth_m > 0) & (np.arange(56) % 2 == 0))
    assert found.edge.dtype == bool


def test_triangles_longer_than_five_pixel_widths_are_not_a_surface() -> None:
    scene = Ellipsoid(size=20)
    width = 0.8 / scene.K[0, 0]
    # The diagonal of a quad is the longest edge of its triangles: √(2 + step²) widths.
    for step, joined in ((4.6, True), (4.9, False)):
        depth = np.full((20, 20), 0.8)
        depth[:, 10:] -= step * width
        rays = unproject_pixels(np.argwhere(np.ones((20, 20)))[:, ::-1] + 0.5, np.ones(400), scene.K)
        points = (rays.T.reshape(3, 20, 20)) * depth
        surface = MapSurface(points, points, np.ones((20, 20), bool), scene.K)
        halfway = (points[:, 5, 9] + points[:, 5, 10]) / 2
        assert bool(surface.closest(halfway[None]).distance_m[0] < 1e-9) is joined, step


def test_normals_of_places_are_those_of_the_plane_they_lie_on() -> None:
    scene = Ellipsoid(size=20)
    normal = np.array([0.3, -0.5, -1.0]) / np.linalg.norm([0.3, -0.5, -1.0])
    pixels = np.argwhere(np.ones((20, 20)))[:, ::-1] + 0.5
    rays = unproject_pixels(pixels, np.ones(400), scene.K)
    points = (rays * ((normal @ [0, 0, 0.8]) / (rays @ normal))[:, None]).T.reshape(3, 20, 20)
    surface = MapSurface(points, points, np.ones((20, 20), bool), scene.K)
    asked = points.reshape(3, -1).T[[45, 150, 333]] + 0.0004 * np.array([1.0, 0.4, 0])
    places = surface.closest(asked)
    np.testing.assert_allclose(surface.normals(places), np.tile(normal, (3, 1)), atol=1e-9)
    np.testing.assert_allclose(places.distance_m, np.abs((asked - [0, 0, 0.8]) @ normal), atol=1e-9)
    flat = points.reshape(3, -1).T
    np.testing.assert_allclose(np.einsum("nc,ncd->nd", places.weights, flat[places.corners]), places.points, atol=1e-12)


def test_beyond_the_rim_a_map_reads_as_at_the_rim() -> None:
    y, x = np.mgrid[:4, :6] + 0.5
    values = np.stack([x + 10 * y, x * y])
    asked = np.array([[-3.0, 1.75], [9.0, 2.5], [2.25, -1.0], [3.5, 8.0], [0.1, 0.2]])
    held = np.column_stack([asked[:, 0].clip(0.5, 5.5), asked[:, 1].clip(0.5, 3.5)])
    np.testing.assert_allclose(sample_map(values, asked), sample_map(values, held))
    np.testing.assert_allclose(sample_map(values, held)[:, 0], held[:, 0] + 10 * held[:, 1])
    bilinear = (1.5 * 1.5 + 2.5 * 1.5) / 2 * 0.25 + (1.5 * 2.5 + 2.5 * 2.5) / 2 * 0.75
    assert sample_map(values, np.array([[2.0, 2.25]]))[0, 1] == pytest.approx(bilinear)
    assert sample_map(np.full((1, 1, 1), 7.0), np.array([[3.0, -2.0]]))[0, 0] == 7


def test_optical_flow_adds_up_over_the_frames_between_and_takes_the_later_depth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    y, x = np.mgrid[:56, :56] + 0.5
    steps = iter([np.stack([0.02 * x, 0 * x + 1]), np.stack([0 * x - 2, 0.01 * y]), np.stack([0 * x + 9, 0 * x])])
    monkeypatch.setattr("trainer.evaluation.baselines.dense_flow", lambda _a, _b: next(steps))
    views = [Ellipsoid(pose=head_pose(shift=(0, 0, 0.01 * k))).perfect() for k in range(4)]
    chain = FlowChain(views)
    queries = Queries(np.array([24, 30]), np.array([26, 31]), np.ones(2, bool))
    start = queries.pixels
    after_one = start + np.column_stack([0.02 * start[:, 0], [1, 1]])
    after_two = after_one + np.column_stack([[-2, -2], 0.01 * after_one[:, 1]])
    for first, last, at in ((0, 1, after_one), (0, 2, after_two)):
        pixels, points = chain.find(views[first], queries, views[last])
        np.testing.assert_allclose(pixels, at)
        depth = sample_map(views[last].scaled_depth_m[None], at)[:, 0]
        np.testing.assert_allclose(points[:, 2], depth)
        np.testing.assert_allclose(project(points, views[last].truth.intrinsics), at)
    pixels, _ = chain.find(views[1], queries, views[2])
    np.testing.assert_allclose(pixels, start + np.column_stack([[-2, -2], 0.01 * start[:, 1]]))


def test_a_track_is_lost_beyond_a_twentieth_of_the_side() -> None:
    for off, survival in ((9.99, 1.0), (10.01, 1 / 3)):
        collected = TrackingErrors(side_px=200)
        found = np.zeros((4, 6, 2))
        found[2:, :, 1] = off
        collected.add(found, np.zeros((4, 6, 2)), np.ones((4, 6), bool), np.full((3, 6), 2.0))
        assert collected.metrics()["tracking_survival"] == pytest.approx(survival), off
        assert collected.metrics()["tracking_mean_px"] == pytest.approx(2 * off / 3)
    assert track_errors(np.array([[5.0], [5.0]]), 5)[1] == 1  # at the limit it is still held


def test_every_run_counts_once_in_the_tracks() -> None:
    collected = TrackingErrors(side_px=100)
    seen = np.ones((3, 4), bool)
    seen[2, 0] = False
    far = np.zeros((3, 4, 2))
    far[1:, :, 0] = 3
    far[2, 0] = 90  # hidden there
    collected.add(far, np.zeros((3, 4, 2)), seen, np.array([[1.0, 2, 3, 4], [NAN, 2, 3, 4]]))
    long = np.zeros((9, 4, 2))
    long[1:, :, 1] = 1
    collected.add(long, np.zeros((9, 4, 2)), np.ones((9, 4), bool), np.full((8, 4), 10.0))
    figures = collected.metrics()
    assert figures["tracking_mean_px"] == pytest.approx((3 + 1) / 2)
    assert figures["tracking_mean_mm"] == pytest.approx((19 / 7 + 10) / 2)
    # The jump from the first frame to the second is a second difference of 3 and of 1 pixel; the rest is steady.
    assert figures["tracking_jitter_px"] == pytest.approx((3 * 3 + 4 * 1) / (3 + 4 * 7))


def test_motion_errors_speak_for_four_points_and_thirty_frames() -> None:
    assert MAX_WINDOW == 30
    collected = MotionErrors(("face", "nose"))
    errors = np.array([1.0, 2.0, 3.0, 6.0, NAN])
    for count, window in ((4, 1), (3, 2)):
        collected.add(window, errors, {"face": np.arange(5) < 5, "nose": np.arange(5) < count})
    collected.add(30, errors, {"face": np.arange(5) < 5})
    collected.add(31, errors, {"face": np.arange(5) < 5})
    collected.add(0, errors, {"face": np.arange(5) < 5})
    figures = collected.metrics()
    assert figures["ssme_windows"] == 3
    assert figures["ssme_nose_px"] == pytest.approx(3)
    np.testing.assert_array_equal(~np.isnan(collected.curve("nose")), np.arange(1, 31) == 1)


def test_canonical_jitter_is_the_change_in_the_coordinate_predicted_for_one_point() -> None:
    scenes = [Ellipsoid(pose=head_pose(turn(1, 3 * k))) for k in range(3)]
    views = []
    for k, scene in enumerate(scenes):
        shaken = scene.truth().canonical_m + np.array([0.003, -0.004, 0.0])[:, None, None] * (k > 0)
        views.append(scene.perfect(canonical_m=shaken))
    options = EvaluationOptions(queries=150, region_queries=4, starts=1, seed=1)
    found = Evaluation(options, region_labels(LABELS), None, 56, with_flow=False)
    run = Run(np.arange(3), views, views)
    found.add_run(run, np.zeros(3, bool))
    figures = found.metrics()
    assert figures["canonical_jitter_mm"] == pytest.approx(2.5, rel=0.02)  # 5 mm at the first step, none at the second
    for name in ("tracking_mean_mm", "correspondence_mean_mm", "correspondence_median_mm"):
        assert figures[name] == pytest.approx(5, rel=0.15), name
    error = np.linalg.norm(run.tracks[""] - run.tracks["true"], axis=-1)[1:][run.visible[1:]]
    assert run.score_px == pytest.approx(np.median(error))
    assert figures["tracking_mean_px"] == pytest.approx(error.mean())
    assert error.mean() > 0.5


class Clock:
    """Seconds that pass as a prediction says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_speed_is_frames_by_the_median_time_without_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(speed.time, "perf_counter", clock)
    taken = {2: iter([50.0, 1.0, 4.0, 2.0]), 6: iter([9.0, 3.0, 3.0, 5.0]), 9: iter([1.0] * 4)}

    def predict(frames: int) -> None:
        clock.now += next(taken[frames])

    points = speed.measure_speed(predict, (6, 2, 9), torch.device("cpu"), 150.0, repeats=3)
    # After two lengths 77 s are over: another as long would not end in 150.
    assert [(p.frames, p.frames_per_s) for p in points] == [(2, 1.0), (6, 2.0)]


def test_speed_repeats_until_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(speed.time, "perf_counter", clock)
    asked: list[int] = []

    def predict(frames: int) -> None:
        asked.append(frames)
        clock.now += 2.0

    points = speed.measure_speed(predict, (1,), torch.device("cpu"), 5.0, repeats=10)
    assert len(asked) == 3  # once to warm up, and until 5 s are over
    assert points[0].frames_per_s == 0.5


def test_a_full_memory_ends_the_measurement_and_other_errors_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed.time, "perf_counter", Clock())

    def predict(frames: int) -> None:
        if frames > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(speed.statistics, "median", lambda _taken: 1.0)
    points = speed.measure_speed(predict, (1, 2, 3), torch.device("cpu"), 100.0)
    assert [p.frames for p in points] == [1, 2]
    with pytest.raises(RuntimeError, match="shapes"):
        speed.measure_speed(lambda _: (_ for _ in ()).throw(RuntimeError("shapes")), (1,), torch.device("cpu"), 1.0)
