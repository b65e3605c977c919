"""Cameras: projection, its inverse, crops, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen.common.errors import CameraError
from datagen.geometry.camera import Camera, check_image_size, look_at, validate_camera

angles = st.floats(-1.2, 1.2)
few = settings(max_examples=30, deadline=None)


def camera_at(yaw: float, pitch: float, width: int = 64, height: int = 48) -> Camera:
    centre = [np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)]
    return look_at("c", centre, [0.01, -0.02, 0.0], 80.0, width, height)


@few
@given(yaw=angles, pitch=angles)
def test_look_at_gives_a_valid_camera_that_sees_its_target_in_the_middle(yaw: float, pitch: float):
    camera = validate_camera(camera_at(yaw, pitch))
    pixels, z = camera.project(np.array([[0.01, -0.02, 0.0]]))
    np.testing.assert_allclose(pixels[0], [32, 24], atol=1e-9)
    assert z[0] == pytest.approx(np.linalg.norm(camera.centre - [0.01, -0.02, 0.0]))
    np.testing.assert_allclose(camera.to_camera(camera.centre[None]), 0, atol=1e-12)


def test_look_at_has_the_world_upright():
    camera = look_at("c", [0, 0, 1.0], [0, 0, 0], 100.0, 64, 64)
    pixels, _ = camera.project(np.array([[0, 0.1, 0], [0.1, 0, 0]]))
    assert pixels[0, 1] < 32  # up in the world is up in the image, where y points down
    assert pixels[1, 0] > 32  # the subject's left (+x) is on the right of an image taken from the front


@few
@given(yaw=angles, pitch=angles, seed=st.integers(0, 2**31))
def test_unproject_inverts_project_at_pixel_centres(yaw: float, pitch: float, seed: int):
    camera = camera_at(yaw, pitch)
    depth = np.random.default_rng(seed).uniform(0.3, 2.0, (48, 64))
    pixels, z = camera.project(camera.unproject(depth).reshape(-1, 3))
    x, y = np.meshgrid(np.arange(64) + 0.5, np.arange(48) + 0.5)
    np.testing.assert_allclose(pixels, np.stack([x, y], -1).reshape(-1, 2), atol=1e-6)
    np.testing.assert_allclose(z, depth.ravel(), rtol=1e-9)


@few
@given(
    left=st.floats(-40, 40), top=st.floats(-40, 40), size=st.floats(3, 200), resolution=st.integers(14, 518), yaw=angles
)
def test_crop_maps_pixels_as_the_box_says(left: float, top: float, size: float, resolution: int, yaw: float):
    camera = camera_at(yaw, 0.1)
    points = np.random.default_rng(0).normal(scale=0.1, size=(20, 3))
    before, z_before = camera.project(points)
    cropped = validate_camera(camera.crop(left, top, size, resolution))
    after, z_after = cropped.project(points)
    np.testing.assert_allclose(after, (before - [left, top]) * resolution / size, rtol=1e-9, atol=1e-6)
    np.testing.assert_array_equal(z_before, z_after)
    assert (cropped.width, cropped.height) == (resolution, resolution)


def bad_cameras() -> dict[str, tuple[Camera, str]]:
    good = camera_at(0.3, 0.1)
    E, K = good.world_to_camera, good.K
    scaled, mirrored, transposed = E.copy(), E.copy(), E.copy()
    scaled[:3, :3] *= 1.01
    mirrored[0, :3] *= -1
    transposed[3, :3] = [0.1, 0, 1.0]
    nan, opengl = E.copy(), K.copy()
    nan[0, 0] = np.nan
    opengl[0, 0] *= -1
    return {
        "scaled": (replace(good, world_to_camera=scaled), "not a rotation"),
        "mirrored": (replace(good, world_to_camera=mirrored), "not a rotation"),
        "transposed": (replace(good, world_to_camera=transposed), "last row"),
        "nan": (replace(good, world_to_camera=nan), "non-finite"),
        "negative focal length": (replace(good, K=opengl), "pinhole"),
        "transposed K": (replace(good, K=K.T.copy()), "pinhole"),
        "3×4 extrinsics": (replace(good, world_to_camera=E[:3]), "shape"),
        "no pixels": (replace(good, width=0), "size"),
    }


@pytest.mark.parametrize("case", bad_cameras())
def test_a_bad_camera_is_refused_by_name(case: str):
    camera, word = bad_cameras()[case]
    with pytest.raises(CameraError, match=word) as caught:
        validate_camera(replace(camera, name="cam07"))
    assert "cam07" in str(caught.value)
    assert caught.value.expected
    assert caught.value.fix


def test_an_image_of_another_size_is_refused():
    camera = camera_at(0, 0)
    check_image_size(camera, (48, 64, 3), "a.png")
    with pytest.raises(CameraError, match=r"a\.png is 48×64 pixels.*64×48"):
        check_image_size(camera, (64, 48, 3), "a.png")
