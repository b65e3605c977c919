"""The cameras of a simulated studio: an arc in front of the subject, in two rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from datagen.geometry.camera import Camera, look_at, validate_camera

AZIMUTH_DEG = 50.0
ELEVATIONS_DEG = (-8.0, 15.0)
DISTANCE_M = 1.0
FILL = 0.65


def frontal_arc(
    count: int, image_size: int, head_extent_m: float, rng: np.random.Generator, target: tuple[float, float, float]
) -> tuple[Camera, ...]:
    """Return ``count`` cameras on an arc of ±50° that look at ``target``, slightly out of place as real ones are.

    Parameters
    ----------
    count : int
    image_size : int
        Pixels a side.
    head_extent_m : float
        Largest side of the head; it fills about 65 % of the image.
    rng : numpy Generator
    target : 3 floats, world metres
    """
    azimuths = np.linspace(-AZIMUTH_DEG, AZIMUTH_DEG, count) if count > 1 else np.zeros(1)
    cameras = []
    for k, azimuth in enumerate(azimuths):
        a = np.deg2rad(azimuth + rng.normal(0, 1.5))
        e = np.deg2rad(ELEVATIONS_DEG[k % 2] + rng.normal(0, 1.5))
        distance = DISTANCE_M * rng.uniform(0.97, 1.03)
        direction = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
        aim = np.array(target) + rng.normal(0, 0.004, 3)
        focal_px = FILL * image_size * distance / head_extent_m
        camera = look_at(f"cam{k:02d}", aim + distance * direction, aim, focal_px, image_size, image_size)
        K = camera.K.copy()
        K[:2, 2] += rng.normal(0, 0.005 * image_size, 2)
        cameras.append(validate_camera(replace(camera, K=K)))
    return tuple(cameras)
