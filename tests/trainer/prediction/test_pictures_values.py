"""Images, masks, crops and cameras of prediction, against a second computation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datagen.common.errors import InputError
from trainer.inference import Maps
from trainer.prediction.cameras import FieldOfView, FrameCamera, GivenCameras, assumed_intrinsics, write_cameras
from trainer.prediction.foreground import FixedCrop, Foreground, MaskCrop, MaskFolder, make_crop, otsu
from trainer.prediction.frames import (
    ImageFiles,
    SourceFrame,
    fit_mask,
    fit_square,
    into_square,
    place_in_square,
)


def maps_of(size: tuple[int, int] = (6, 6), **change: object) -> Maps:
    ones = np.ones(size, np.float32)
    return replace(Maps(ones, np.zeros((3, *size), np.float32), ones, ones), **change)


def frame_of(size: tuple[int, int], resolution: int, crop: tuple[float, float, float, float] | None = None):
    box, region = place_in_square(size, resolution, crop)
    return SourceFrame("a", np.zeros((3, resolution, resolution), np.uint8), box, size, region)


def masks_of(folder: Path) -> MaskFolder:
    """The masks of frames a and b."""
    masks = MaskFolder(folder)
    masks.assign(["a", "b"], range(2), numbered=False)
    return masks


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
    folder = masks_of(tmp_path)
    assert folder.extent(0) == (10, 4, 20, 12)
    assert folder.common_extent() == (10, 4, 26, 14)
    frame = frame_of((30, 20), 60)
    mask = fit_mask(tmp_path / "a.png", frame, None)
    expected = np.zeros((60, 60), bool)
    expected[10 + 8 : 10 + 24, 20:40] = True
    np.testing.assert_array_equal(mask, expected)
    shown = frame_of((30, 20), 60, (10.0, 0.0, 30.0, 20.0))
    expected = np.zeros((60, 60), bool)
    expected[12:36, 0:30] = True
    np.testing.assert_array_equal(fit_mask(tmp_path / "a.png", shown, None), expected)
    with pytest.raises(InputError, match="30 × 20"):
        fit_mask(tmp_path / "a.png", frame_of((31, 20), 60), None)


def test_a_crop_about_masks_is_a_square_a_little_wider_than_they_are(tmp_path: Path) -> None:
    for name, (left, right) in {"a": (10, 20), "b": (30, 38)}.items():
        mask = np.zeros((40, 60), np.uint8)
        mask[8:28, left:right] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    each = make_crop("each", masks_of(tmp_path))
    assert isinstance(each, MaskCrop)
    half = 1.15 * 20 / 2
    assert each("b", 1, (60, 40)) == pytest.approx((34 - half, 18 - half, 34 + half, 18 + half))
    together = make_crop("all", masks_of(tmp_path))
    assert together is not None
    half = 1.15 * 28 / 2
    for name in ("a", "b"):
        assert together(name, 0, (60, 40)) == pytest.approx((24 - half, 18 - half, 24 + half, 18 + half))
    assert FixedCrop("1,2,30,40.5")("x", 0, (60, 60)) == (1, 2, 30, 40.5)


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


def test_transparent_images_show_the_backdrop_and_deep_ones_are_refused(tmp_path: Path) -> None:
    clear = np.full((30, 30, 4), (255, 0, 255, 0), np.uint8)
    clear[:, 15:] = (10, 20, 30, 255)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    frame = next(iter(ImageFiles([tmp_path / "clear.png"], 30)))
    assert frame.image[:, 7, 7].tolist() == [124, 116, 104]
    assert frame.image[:, 7, 22].tolist() == [10, 20, 30]
    Image.fromarray(np.full((30, 30), 4095, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match="more than 8 bits"):
        next(iter(ImageFiles([tmp_path / "deep.png"], 30)))


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
        cameras = GivenCameras(tmp_path / "c.json")
        cameras.assign(["a.png"], [0])
        return cameras

    frame = frame_of((80, 160), 56)
    found = write(40, 80).attach(frame, 0)
    scale = 56 / 80
    expected = [[100 * scale, 2 * scale, 21 * scale + 14], [0, 110 * scale, 40 * scale], [0, 0, 1]]
    np.testing.assert_allclose(found.intrinsics, expected, rtol=1e-6)
    assert found.world_to_camera is None
    # Proportions may differ as sides do that are rounded to whole pixels.
    write(40, 79).attach(frame, 0)
    for size, turned in (((40, 84), False), ((80, 40), True)):
        with pytest.raises(InputError, match="other proportions") as refused:
            write(*size).attach(frame, 0)
        assert ("turned" in str(refused.value)) == turned


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
