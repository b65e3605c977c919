"""Images, masks, cameras, windows and tracks of prediction, against a second computation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datagen.shards import InputError
from trainer.prediction.cameras import FieldOfView, FrameCamera, GivenCameras, assumed_intrinsics, write_cameras
from trainer.prediction.crop import FixedCrop, MaskCrop, make_crop
from trainer.prediction.foreground import Foreground, MaskFolder, otsu
from trainer.prediction.frames import (
    ImageFiles,
    SourceFrame,
    fit_square,
    into_square,
    open_image,
    place_in_square,
    read_mask,
)
from trainer.prediction.geometry import normals_from_depth
from trainer.prediction.store import PredictedFrame
from trainer.prediction.tracks import TrackConfig, Tracker
from trainer.prediction.windows import FrameMaps, cut_windows, scale_between, stitch_windows


def maps_of(size: tuple[int, int] = (6, 6), **change: object) -> FrameMaps:
    ones = np.ones(size, np.float32)
    return replace(FrameMaps(ones, np.zeros((3, *size), np.float32), ones, ones), **change)


def frame_of(size: tuple[int, int], resolution: int, crop: tuple[float, float, float, float] | None = None):
    box, region = place_in_square(size, resolution, crop)
    return SourceFrame("a", np.zeros((3, resolution, resolution), np.uint8), box, size, region)


# Foreground


def best_threshold(values: np.ndarray) -> float:
    """The edge of 256 bins that parts values into classes of least variance within; the middle of several."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    found = []
    for k in range(1, 256):
        low, high = counts[:k], counts[k:]
        if not (low.any() and high.any()):
            found.append(np.inf)
            continue
        within = 0.0
        for n, c in ((low, centres[:k]), (high, centres[k:])):
            mean = (n * c).sum() / n.sum()
            within += (n * (c - mean) ** 2).sum()
        found.append(within)
    best = np.array(found)
    edges = edges[1:-1][best <= best.min() * (1 + 1e-9)]
    return float((edges[0] + edges[-1]) / 2)


@pytest.mark.parametrize("seed", range(6))
def test_otsu_is_the_best_of_all_thresholds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 1, 400), rng.normal(rng.uniform(2, 4), 0.7, 150)])
    assert otsu(values) == pytest.approx(best_threshold(values), abs=1e-9)
    two = np.array([1.0] * 5 + [3.0] * 2)
    assert otsu(two) == pytest.approx(2, abs=0.01)


def test_the_surface_begins_at_one_half_and_the_first_frame_decides_the_threshold() -> None:
    frame = frame_of((20, 10), 20)
    low, high = maps_of((20, 20), surface=np.full((20, 20), 0.49)), maps_of((20, 20), surface=np.full((20, 20), 0.51))
    assert not Foreground("auto")(frame, low).any()
    assert Foreground("surface")(frame, high).sum() == 20 * 10
    confidence = np.where(np.arange(20) < 8, 40.0, 2.0) * np.linspace(0.9, 1.1, 20)[:, None]
    rule = Foreground("confidence")
    first = rule(frame, maps_of((20, 20), depth_confidence=confidence, surface=np.ones((20, 20))))
    assert first.sum() == 10 * 8
    inside = np.log(confidence[5:15])
    assert rule.threshold == pytest.approx(best_threshold(inside), abs=1e-6)
    assert rule.threshold is not None
    brighter = maps_of((20, 20), depth_confidence=np.full((20, 20), np.exp(rule.threshold + 0.01)))
    assert rule(frame, brighter).sum() == 20 * 10
    assert not rule(frame, maps_of((20, 20), depth_confidence=np.full((20, 20), np.exp(rule.threshold - 0.01)))).any()
    given = replace(frame, mask=np.eye(20, dtype=bool))
    assert Foreground("all")(given, low).sum() == 10


def test_masks_are_white_above_the_middle_and_follow_their_frames(tmp_path: Path) -> None:
    grey = np.zeros((20, 30), np.uint8)
    grey[4:12, 10:20], grey[12:16, 10:20] = 128, 127
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(np.roll(grey, (2, 6), (0, 1))).save(tmp_path / "b.png")
    folder = MaskFolder(tmp_path)
    assert folder.extent("a", 0) == (10, 4, 20, 12)
    assert folder.common_extent() == (10, 4, 26, 14)
    frame = frame_of((30, 20), 60)
    mask = read_mask(tmp_path / "a.png", frame)
    expected = np.zeros((60, 60), bool)
    expected[10 + 8 : 10 + 24, 20:40] = True
    np.testing.assert_array_equal(mask, expected)
    shown = frame_of((30, 20), 60, (10.0, 0.0, 30.0, 20.0))
    expected = np.zeros((60, 60), bool)
    expected[12:36, 0:30] = True
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", shown), expected)
    with pytest.raises(InputError, match="30 × 20"):
        read_mask(tmp_path / "a.png", frame_of((31, 20), 60))


def test_a_crop_about_masks_is_a_square_a_little_wider_than_they_are(tmp_path: Path) -> None:
    for name, (left, right) in {"a": (10, 20), "b": (30, 38)}.items():
        mask = np.zeros((40, 60), np.uint8)
        mask[8:28, left:right] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    each = make_crop("each", MaskFolder(tmp_path))
    assert isinstance(each, MaskCrop)
    half = 1.15 * 20 / 2
    assert each("b", 1, (60, 40)) == pytest.approx((34 - half, 18 - half, 34 + half, 18 + half))
    together = make_crop("all", MaskFolder(tmp_path))
    assert together is not None
    half = 1.15 * 28 / 2
    for name in ("a", "b"):
        assert together(name, 0, (60, 40)) == pytest.approx((24 - half, 18 - half, 24 + half, 18 + half))
    assert FixedCrop("1,2,30,40.5")("x", 0, (60, 60)) == (1, 2, 30, 40.5)


# Images


def test_an_image_made_smaller_is_smoothed_first() -> None:
    """A grid of single white pixels: each is a sixteenth, and none may be picked out or left out."""
    sharp = np.zeros((112, 112, 3), np.uint8)
    sharp[::4, ::4] = 240
    square, box, _ = fit_square(Image.fromarray(sharp), 28, "a", (112, 112))
    assert box == (0, 0, 28, 28)
    np.testing.assert_allclose(square[:, 2:-2, 2:-2], 15, atol=4)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (120, 120, 3)).astype(np.uint8)
    square, _, _ = fit_square(Image.fromarray(noise), 30, "a", (120, 120))
    blocks = noise.reshape(30, 4, 30, 4, 3).mean((1, 3)).transpose(2, 0, 1)
    # Lanczos is nearly, not quite, the mean over each block of 16.
    assert np.abs(square - blocks).mean() < 8
    assert square.std() < 0.5 * noise.std()
    assert np.corrcoef(square.ravel(), blocks.ravel())[0, 1] > 0.85


def test_an_image_made_larger_is_smooth_between_its_pixels() -> None:
    ramp = np.tile(np.arange(0, 200, 10, dtype=np.uint8)[None, :, None], (20, 1, 3))
    square, _, _ = fit_square(Image.fromarray(ramp), 80, "a", (20, 20))
    inner = square[0, 40, 8:-8].astype(float)
    expected = 10 * ((np.arange(8, 72) + 0.5) / 4 - 0.5)
    np.testing.assert_allclose(inner, expected, atol=1.6)


def test_a_portrait_lies_between_bars_at_its_sides() -> None:
    box, region = place_in_square((30, 60), 56)
    assert (box, region) == ((14, 0, 42, 56), (0, 0, 30, 60))
    picture = np.full((60, 30, 3), 200, np.uint8)
    square, _, _ = fit_square(Image.fromarray(picture), 56, "a", (30, 60))
    assert (square[:, :, 14:42] == 200).all()
    assert (square[:, :, :14] == np.array([124, 116, 104])[:, None, None]).all()
    K = into_square(np.array([[100.0, 0, 15], [0, 90, 20], [0, 0, 1]]), box, region)
    scale = 56 / 60
    np.testing.assert_allclose(K, [[100 * scale, 0, 15 * scale + 14], [0, 90 * scale, 20 * scale], [0, 0, 1]])


def test_deep_and_transparent_images_are_what_they_show(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(open_image(tmp_path / "deep.png"))[0, :, 0].tolist() == [0, 1, 128, 255]
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "unit.tif")
    assert np.asarray(open_image(tmp_path / "unit.tif"))[0, :, 1].tolist() == [0, 128, 255]
    Image.fromarray(np.array([[0.0, 100.0, 255.0]], np.float32)).save(tmp_path / "bytes.tif")
    assert np.asarray(open_image(tmp_path / "bytes.tif"))[0, :, 1].tolist() == [0, 100, 255]
    clear = np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert np.asarray(open_image(tmp_path / "clear.png"))[0].tolist() == [[124, 116, 104], [10, 20, 30]]


def test_a_turned_photograph_is_seen_upright_and_measured_so(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, :20] = 250
    Image.fromarray(wide).save(tmp_path / "a.png", exif=exif)
    frame = next(iter(ImageFiles([tmp_path / "a.png"], 40)))
    assert frame.original == (20, 40)
    assert frame.content == (10, 0, 30, 40)
    assert frame.image[0, 5, 20] > 200  # what was left is on top
    assert frame.image[0, 35, 20] < 50


# Cameras


@pytest.mark.parametrize("size", [(30, 60), (60, 30), (40, 40)])
@pytest.mark.parametrize("degrees", [40.0, 90.0])
def test_an_angle_of_view_is_that_of_the_longer_side(size: tuple[int, int], degrees: float) -> None:
    frame = FieldOfView(degrees).attach(frame_of(size, 56), 0)
    focal = 28 / np.tan(np.radians(degrees / 2))  # the longer side fills the square's 56 pixels
    np.testing.assert_allclose(frame.intrinsics, [[focal, 0, 28], [0, focal, 28], [0, 0, 1]], rtol=1e-6)
    assert frame.intrinsics is not None
    assert frame.intrinsics.dtype == np.float32


def test_an_angle_of_view_stays_the_image_s_where_a_part_of_it_is_shown() -> None:
    frame = FieldOfView(60.0).attach(frame_of((40, 80), 56, (10.0, 30.0, 30.0, 50.0)), 0)
    focal = 40 / np.tan(np.radians(30)) * 56 / 20
    np.testing.assert_allclose(
        frame.intrinsics, [[focal, 0, (20 - 10) * 2.8], [0, focal, (40 - 30) * 2.8], [0, 0, 1]], rtol=1e-6
    )
    for degrees in (0.9, 179.1):
        with pytest.raises(InputError, match="between 1 and 179"):
            FieldOfView(degrees)
    FieldOfView(1), FieldOfView(179)


def test_an_assumed_camera_looks_through_the_middle() -> None:
    np.testing.assert_array_equal(assumed_intrinsics(1.5, 40), [[60, 0, 20], [0, 60, 20], [0, 0, 1]])


def test_given_cameras_follow_the_scale_of_each_axis(tmp_path: Path) -> None:
    def write(width: float, height: float) -> GivenCameras:
        entry = {"width": width, "height": height, "intrinsics": [[100, 2, 21], [0, 110, 40], [0, 0, 1]]}
        (tmp_path / "c.json").write_text(json.dumps({"frames": [entry]}))
        return GivenCameras(tmp_path / "c.json")

    frame = frame_of((80, 160), 56)
    found = write(40, 80).attach(frame, 0)
    scale = 56 / 80
    expected = [[100 * scale, 2 * scale, 21 * scale + 14], [0, 110 * scale, 40 * scale], [0, 0, 1]]
    np.testing.assert_allclose(found.intrinsics, expected, rtol=1e-6)
    assert found.world_to_camera is None
    # Proportions may differ by two per cent, as rounded sizes do.
    write(40, 80 / 1.019).attach(frame, 0)
    with pytest.raises(InputError, match="other proportions"):
        write(40, 80 / 1.021).attach(frame, 0)


def test_cameras_are_written_with_all_that_is_known_of_them(tmp_path: Path) -> None:
    box, region = place_in_square((30, 60), 56)
    K = np.array([[80, 0, 27], [0, 81, 30], [0, 0, 1]], np.float32)
    pose = np.eye(4, dtype=np.float32)
    pose[:3, 3] = [0.1, 0.2, 0.3]
    camera = FrameCamera("f", K, pose, box, (30, 60), region, 1.5, "model", "assumed")
    write_cameras(tmp_path, [camera, replace(camera, name="g", time_s=None)])
    of_image = [[80 * 60 / 56, 0, (27 - 14) * 60 / 56], [0, 81 * 60 / 56, 30 * 60 / 56], [0, 0, 1]]
    np.testing.assert_allclose(camera.of_image, of_image, rtol=1e-6)
    with np.load(tmp_path / "cameras.npz") as arrays:
        np.testing.assert_allclose(arrays["intrinsics_of_image"][0], of_image, rtol=1e-6)
        np.testing.assert_array_equal(arrays["intrinsics"][1], K)
        assert arrays["content_box"][0].tolist() == [14, 0, 42, 56]
        assert arrays["image_region"][0].tolist() == [0, 0, 30, 60]
        assert arrays["image_size"][0].tolist() == [30, 60]
        assert arrays["time_s"][0] == 1.5
        assert np.isnan(arrays["time_s"][1])
        assert (arrays["intrinsics_from"][0], arrays["pose_from"][0]) == ("model", "assumed")
    frame = json.loads((tmp_path / "cameras.json").read_text())["frames"][0]
    assert (frame["width"], frame["height"], frame["time_s"]) == (30, 60, 1.5)
    assert (frame["intrinsics_from"], frame["pose_from"]) == ("model", "assumed")
    np.testing.assert_allclose(frame["world_to_camera"], pose)


# Windows


def test_windows_share_what_they_are_told_to() -> None:
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


def stitched(overlap: int, drift: str, sure: tuple[float, float] = (1.0, 1.0)) -> list[FrameMaps]:
    """Nine frames in windows of 5; what a window says depends on the window."""
    number = iter(range(9))

    def predict(window: list[int]) -> list[FrameMaps]:
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

    def predict(window: list[int]) -> list[FrameMaps]:
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


# Geometry and tracks


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
