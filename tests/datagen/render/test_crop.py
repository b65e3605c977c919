"""Crops: the picture and the camera must describe the same thing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion

from datagen.common.errors import CameraError, InputError
from datagen.flows.framing import framing_points, jitter_of
from datagen.flows.one_scan import chosen_cameras
from datagen.flows.planning import plan_build
from datagen.heads.registry import load_head
from datagen.layout import BuildLayout
from datagen.manifest import RenderConfig, parse_manifest
from datagen.render.crop import CropBox, Jitter, crop_image, draw_jitter, head_crop
from datagen.render.maps import render_views
from datagen.render.numba.renderer import NumbaRenderer
from datagen.shards import open_dataset
from datagen.sources.frame import SequenceKey
from datagen.warp.storage import read_warp
from datagen.warp.surface import Surface
from tests.support.render_scenes import attributes, camera_at, head_like, sphere

POINTS, FACES = sphere(24)


def ramp(width, height):
    """An image whose red grows with x, green with y: position can be read back from colour."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([x, y, np.full_like(x, 50)], axis=-1).astype(np.uint8)


@settings(max_examples=30, deadline=None)
@given(st.floats(-3, 3), st.floats(0.5, 2.0), st.sampled_from([14, 98, 504]))
def test_the_crop_camera_sees_the_same_points(azimuth, margin, resolution):
    camera = camera_at(azimuth, size=200, height=150, skew=2.0)
    box = head_crop(camera, POINTS, resolution, margin)
    full, z = camera.project(POINTS)
    cropped, z_cropped = box.camera.project(POINTS)
    scale = resolution / box.size
    np.testing.assert_allclose(cropped, (full - [box.left, box.top]) * scale, atol=1e-6)
    np.testing.assert_allclose(z_cropped, z)
    assert (box.camera.width, box.camera.height) == (resolution, resolution)


def test_margin_and_centre():
    camera = camera_at(0.4, size=300)
    box = head_crop(camera, POINTS, 100, 1.25)
    inside, _ = box.camera.project(POINTS)
    low, high = inside.min(axis=0), inside.max(axis=0)
    np.testing.assert_allclose((low + high) / 2, 50, atol=1e-9)
    np.testing.assert_allclose((high - low).max(), 100 / 1.25, atol=1e-9)


def test_jitter_shifts_and_scales_about_the_centre():
    camera = camera_at(0.4, size=300)
    plain = head_crop(camera, POINTS, 100, 1.25)
    moved = head_crop(camera, POINTS, 100, 1.25, Jitter(0.04, -0.02, 1.1))
    assert moved.size == pytest.approx(1.1 * plain.size)
    centre = np.array([plain.left, plain.top]) + plain.size / 2 + plain.size * np.array([0.04, -0.02])
    np.testing.assert_allclose(np.array([moved.left, moved.top]) + moved.size / 2, centre)


def test_jitter_is_drawn_from_seed_and_names_alone():
    draws = [draw_jitter(0.03, 0.05, 7, "s000", "talk", f"cam{i:02d}") for i in range(400)]
    assert draws[5] == draw_jitter(0.03, 0.05, 7, "s000", "talk", "cam05")
    assert draws[5] != draw_jitter(0.03, 0.05, 8, "s000", "talk", "cam05")
    assert draws[5] != draw_jitter(0.03, 0.05, 7, "s001", "talk", "cam05")
    # Names are told apart however they are cut.
    assert draw_jitter(0.03, 0.05, 7, "s000", "talkcam05") != draws[5]
    shifts = np.array([(d.right, d.down) for d in draws])
    scales = np.array([d.scale for d in draws])
    assert 0.029 < np.abs(shifts).max() <= 0.03
    assert abs(shifts.mean()) < 0.003
    assert 1 / 1.05 <= scales.min() < 0.955
    assert 1.045 < scales.max() <= 1.05
    assert draw_jitter(0.0, 0.0, 7, "s000") == Jitter()


def test_the_default_jitter_keeps_what_frames_the_head_inside():
    config = RenderConfig()
    worst = 1 / (1 + config.crop_jitter.scale)
    for right in (-1, 1):
        jitter = Jitter(right * config.crop_jitter.shift, config.crop_jitter.shift, worst)
        box = head_crop(camera_at(0.4, size=300), POINTS, 100, config.crop_margin, jitter)
        inside, _ = box.camera.project(POINTS)
        assert inside.min() > 2
        assert inside.max() < 98


@pytest.mark.parametrize("skew", [0.0, 3.0])
def test_depth_of_a_jittered_crop_lands_on_the_mesh(skew):
    vertices, faces = head_like(np.random.default_rng(8), 64)
    surface = Surface(vertices, faces)
    for i in range(4):
        camera = camera_at(0.5 * i, size=200, skew=skew)
        jitter = draw_jitter(0.1, 0.2, 3, f"cam{i}")
        box = head_crop(camera, vertices, 126, 1.25, jitter)
        maps = render_views(attributes(vertices, faces), [box.camera], NumbaRenderer(threads=1))[0]
        points = box.camera.unproject(maps.depth)[maps.mask]
        assert maps.mask.sum() > 2000
        assert 1e3 * np.linalg.norm(surface.closest(points).position - points, axis=1).max() < 0.02
        # The full camera sees the same points where the box says they are.
        y, x = np.nonzero(maps.mask)
        there = (np.stack([x, y], axis=1) + 0.5) * box.size / 126 + [box.left, box.top]
        assert np.abs(camera.project(points)[0] - there).max() < 1e-3


def test_image_and_maps_of_a_jittered_crop_agree_below_a_pixel():
    """A picture of the canonical coordinates, cut out as images are, against the coordinates rendered in the crop."""
    vertices, faces = sphere(96, (0.1, 0.1, 0.1))
    surface = attributes(vertices, faces)
    camera = camera_at(0.3, size=504)
    renderer = NumbaRenderer(threads=1)
    full = render_views(surface, [camera], renderer)[0]
    picture = np.rint((np.moveaxis(full.canonical, 0, -1) + 1) * 127.5).astype(np.uint8)
    box = head_crop(camera, vertices, 140, 1.25, draw_jitter(0.1, 0.2, 5, "cam"))
    cut = crop_image(picture, box, 140) / 127.5 - 1
    maps = render_views(surface, [box.camera], renderer)[0]
    inner = binary_erosion(maps.mask, iterations=6)
    assert inner.sum() > 3000
    difference = (maps.canonical - cut)[:, inner]
    # One step of the picture is 0.0078; a shift of a tenth of a pixel would be a difference of 0.0015 on average.
    assert np.abs(difference.mean(axis=1)).max() < 4e-4
    assert np.abs(difference).max() < 0.012
    # Shifted by a quarter of a pixel the two disagree, so the test can see it.
    other = CropBox(box.left + 0.25 * box.size / 140, box.top, box.size, box.camera)
    shifted = crop_image(picture, other, 140) / 127.5 - 1
    assert np.abs((maps.canonical - shifted)[:, inner].mean(axis=1)).max() > 1.5e-3


@pytest.mark.parametrize(("left", "top", "size"), [(20.0, 30.0, 64.0), (20.3, 31.8, 97.4), (10.5, 5.25, 32.0)])
def test_pixels_follow_the_camera(left, top, size):
    """Resampling and intrinsics share one convention: the colour at a crop pixel is its place in the full image."""
    camera = replace(camera_at(0.0, size=200), height=160)
    resolution = 40
    crop = crop_image(ramp(200, 160), CropBox(left, top, size, camera.crop(left, top, size, resolution)), resolution)
    centres = (np.arange(resolution) + 0.5) * size / resolution
    np.testing.assert_allclose(crop[0, 20].astype(float) + 0.5, left + centres, atol=1.0)
    np.testing.assert_allclose(crop[1, :, 20].astype(float) + 0.5, top + centres, atol=1.0)
    error = crop[0].mean(axis=0) + 0.5 - (left + centres)
    assert abs(error.mean()) < 0.15


def test_rendering_the_crop_camera_matches_rendering_the_full_one():
    """At scale 1 and whole-pixel offsets, the crop's maps are a cut-out of the full maps."""
    camera = camera_at(0.3, size=160)
    small = camera.crop(30, 40, 90, 90)
    full, cut = render_views(attributes(POINTS, FACES), [camera, small], NumbaRenderer(threads=1))
    np.testing.assert_allclose(cut.depth, full.depth[40:130, 30:120], atol=1e-6)
    np.testing.assert_array_equal(cut.mask, full.mask[40:130, 30:120])


def test_outside_the_image_the_crop_is_black():
    camera = camera_at(0.0, size=64)
    image = np.full((64, 64, 3), 200, np.uint8)
    crop = crop_image(image, CropBox(-32.0, -32.0, 128.0, camera.crop(-32, -32, 128, 64)), 64)
    assert crop.shape == (3, 64, 64)
    assert (crop[:, :14] == 0).all()
    assert (crop[:, 20:44, 20:44] == 200).all()
    assert (crop[:, 50:] == 0).all()


def test_shrinking_is_antialiased():
    camera = camera_at(0.0, size=256)
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = crop_image(stripes, CropBox(0.0, 0.0, 256.0, camera.crop(0, 0, 256, 32)), 32)
    assert np.abs(crop[:, 4:-4, 4:-4].astype(int) - 127).max() <= 3


def test_points_behind_the_camera_are_refused():
    camera = camera_at(0.0)
    with pytest.raises(CameraError, match="behind"):
        head_crop(camera, np.concatenate([POINTS, [[0.0, 0.1, 5.0]]]), 98, 1.25)


@pytest.mark.parametrize(
    ("points", "resolution", "margin"),
    [
        (np.zeros((0, 3)), 98, 1.25),
        (np.full((4, 3), np.nan), 98, 1.25),
        (np.zeros((4, 3)), 98, 1.25),
        (POINTS, 0, 1.25),
        (POINTS, 98, 0.0),
        (POINTS, 98, float("inf")),
    ],
)
def test_impossible_crops_are_refused(points, resolution, margin):
    with pytest.raises(InputError):
        head_crop(camera_at(0.0), points, resolution, margin)


def test_wrong_images_are_refused():
    camera = camera_at(0.0, size=64)
    box = CropBox(0.0, 0.0, 64.0, camera.crop(0, 0, 64, 32))
    with pytest.raises(CameraError):
        crop_image(np.zeros((64, 64, 4), np.uint8), box, 32)
    with pytest.raises(CameraError):
        crop_image(np.zeros((64, 64, 3), np.float32), box, 32)
    with pytest.raises(CameraError):
        crop_image(np.zeros((64, 64, 3), np.uint8), box, 64)
    away = CropBox(500.0, 0.0, 64.0, camera.crop(500, 0, 64, 32))
    with pytest.raises(CameraError, match="outside"):
        crop_image(np.zeros((64, 64, 3), np.uint8), away, 32)


def test_a_build_crops_every_frame_of_a_clip_alike(talk_build):
    plan = plan_build(parse_manifest(json.loads((talk_build.root / "manifest.json").read_text())))
    manifest, layout = plan.manifest, BuildLayout(talk_build.root)
    template = load_head("anny").template
    split = open_dataset(layout.dataset)["train"]
    jitters = set()
    for i in range(len(split)):
        sample = split.sample(i)
        key = SequenceKey(sample.subject, sample.sequence)
        jitter = jitter_of(key, sample.camera, manifest)
        jitters.add(jitter)
        (camera,) = (c for c in chosen_cameras(layout.captures / "s000" / "performance", [sample.camera]))
        points = framing_points(read_warp(layout.frame_warp(key, sample.frame)), template)
        plain = head_crop(camera, points, 56, manifest.render.crop_margin)
        box = head_crop(camera, points, 56, manifest.render.crop_margin, jitter)
        np.testing.assert_allclose(sample.intrinsics, box.camera.K, rtol=1e-6)
        assert np.abs(sample.intrinsics - plain.camera.K).max() > 0.1
    assert len(split) > 2
    assert len(jitters) == 1
    assert jitters != {Jitter()}
