"""Crops: the picture and the camera must describe the same thing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from render_scenes import attributes, camera_at, sphere

from datagen.errors import CameraError, InputError
from datagen.render.backends.numba_backend import NumbaRenderer
from datagen.render.crop import CropBox, crop_image, head_crop
from datagen.render.maps import render_views

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
