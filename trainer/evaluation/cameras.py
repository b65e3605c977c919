"""From pixels to points and back, for whole maps. OpenCV axes, pixel centres at +0.5, planar depth in metres."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64


def pixel_centres(height: int, width: int) -> F64:
    """Return x and y of every pixel's centre, (2, H, W)."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([x, y])


def unproject(depth_m: npt.NDArray[Any], intrinsics: npt.NDArray[Any]) -> F64:
    """Return the camera-axes points (3, H, W) of a depth map (H, W), metres."""
    z = np.asarray(depth_m, np.float64)
    rays = unproject_pixels(pixel_centres(*z.shape).reshape(2, -1).T, np.ones(z.size), intrinsics)
    return rays.T.reshape(3, *z.shape) * z


def unproject_pixels(pixels: npt.NDArray[Any], depth_m: npt.NDArray[Any], intrinsics: npt.NDArray[Any]) -> F64:
    """Return the camera-axes points (N, 3) of pixels (N, 2) at planar depths (N,), metres."""
    homogeneous = np.column_stack([pixels, np.ones(len(pixels))])
    rays = np.linalg.solve(np.asarray(intrinsics, np.float64), homogeneous.T).T
    return rays * np.asarray(depth_m, np.float64)[:, None]


def project(points: npt.NDArray[Any], intrinsics: npt.NDArray[Any]) -> F64:
    """Return the pixels (N, 2) of camera-axes points (N, 3); NaN for what is not in front of the camera."""
    image = np.asarray(points, np.float64) @ np.asarray(intrinsics, np.float64).T
    depth = np.where(image[:, 2:] > 0, image[:, 2:], np.nan)
    return image[:, :2] / depth


def transform(matrix: npt.NDArray[Any], points: npt.NDArray[Any]) -> F64:
    """Apply a 4×4 transform to a map of points (3, H, W)."""
    m = np.asarray(matrix, np.float64)
    return np.einsum("ij,jhw->ihw", m[:3, :3], points) + m[:3, 3, None, None]


def rigid_inverse(matrix: npt.NDArray[Any]) -> F64:
    """Return the inverse of a 4×4 transform."""
    return np.linalg.inv(np.asarray(matrix, np.float64))
