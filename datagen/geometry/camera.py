"""Pinhole cameras: OpenCV axes, pixel centres at +0.5, planar depth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CameraError

ROTATION_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Camera:
    """One calibrated, undistorted view.

    Attributes
    ----------
    name : str
        Unique in its rig.
    K : (3, 3) float64
        Intrinsics in pixels; the centre of the top-left pixel is at (0.5, 0.5).
    world_to_camera : (4, 4) float64
        Rigid; OpenCV axes (x right, y down, z forward), metres.
    width, height : int
        Image size in pixels.
    """

    name: str
    K: npt.NDArray[np.float64]
    world_to_camera: npt.NDArray[np.float64]
    width: int
    height: int

    @property
    def centre(self) -> npt.NDArray[np.float64]:
        """The optical centre in world coordinates, (3,) float64 metres."""
        R, t = self.world_to_camera[:3, :3], self.world_to_camera[:3, 3]
        return -R.T @ t

    def to_camera(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map world points (N, 3) metres to camera axes, (N, 3) float64 metres."""
        p = np.asarray(points, np.float64)
        return p @ self.world_to_camera[:3, :3].T + self.world_to_camera[:3, 3]

    def project(self, points: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Project world points (N, 3) metres.

        Returns
        -------
        pixels : (N, 2) float64
            x and y in pixels (centres at +0.5); meaningless where z <= 0.
        z : (N,) float64
            Planar depth in metres.
        """
        p = self.to_camera(points)
        z = p[:, 2]
        safe = np.where(np.abs(z) > 1e-12, z, 1e-12)
        h = p @ self.K.T
        return h[:, :2] / safe[:, None], z

    def unproject(self, depth: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Lift a planar depth map (H, W) metres to world points, (H, W, 3) float64 metres."""
        height, width = depth.shape
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(self.K).T
        camera_points = rays * np.asarray(depth, np.float64)[..., None]
        R, t = self.world_to_camera[:3, :3], self.world_to_camera[:3, 3]
        return (camera_points - t) @ R

    def crop(self, left: float, top: float, size: float, resolution: int) -> Camera:
        """Return the camera of a square crop resized to ``resolution`` pixels a side; exact for any real box."""
        scale = resolution / size
        K = self.K.copy()
        K[0, 2] -= left
        K[1, 2] -= top
        K[:2] *= scale
        return replace(self, K=K, width=resolution, height=resolution)


def validate_camera(camera: Camera) -> Camera:
    """Check a camera at the door and return it.

    Raises
    ------
    CameraError
        If matrices have the wrong shape or are not finite, the rotation is not a rotation, K is not an upper
        triangular matrix with positive focal lengths, or the size is not positive.
    """
    name, K, E = camera.name, np.asarray(camera.K), np.asarray(camera.world_to_camera)
    if K.shape != (3, 3) or E.shape != (4, 4) or not (np.isfinite(K).all() and np.isfinite(E).all()):
        raise CameraError(
            f"camera {name} has K of shape {K.shape} and world_to_camera of shape {E.shape}, or non-finite entries",
            "finite matrices of shapes (3, 3) and (4, 4)",
            "Check the calibration file",
        )
    R = E[:3, :3]
    error = float(np.abs(R @ R.T - np.eye(3)).max())
    if error > ROTATION_TOLERANCE or np.linalg.det(R) < 0:
        raise CameraError(
            f"camera {name}: the rotation part of world_to_camera is not a rotation "
            f"(|RRᵀ − I| = {error:.3g}, determinant {np.linalg.det(R):.3g})",
            "an orthonormal matrix with determinant +1",
            "Check for a scale in the extrinsics, transposed matrices or a mirrored axis",
        )
    if not _is_row(E[3], (0, 0, 0, 1)):
        raise CameraError(
            f"camera {name}: the last row of world_to_camera is {E[3].tolist()}",
            "[0, 0, 0, 1]",
            "Check for a transposed matrix",
        )
    if K[0, 0] <= 0 or K[1, 1] <= 0 or abs(K[1, 0]) > 1e-9 or not _is_row(K[2], (0, 0, 1)):
        raise CameraError(
            f"camera {name}: K = {K.tolist()} is not a pinhole matrix",
            "an upper triangular matrix with positive focal lengths and last row [0, 0, 1]",
            "Check for a transposed matrix or OpenGL conventions",
        )
    if camera.width <= 0 or camera.height <= 0:
        raise CameraError(
            f"camera {name} has size {camera.width}×{camera.height}",
            "a positive width and height",
            "Check the calibration file",
        )
    return camera


def _is_row(row: npt.NDArray[np.floating], expected: tuple[int, ...]) -> bool:
    """Whether finite numbers are these, as :func:`numpy.allclose` has it, which takes longer than all else here."""
    return all(abs(a - b) <= 1e-8 + 1e-5 * b for a, b in zip(row.tolist(), expected, strict=True))


def check_image_size(camera: Camera, image_shape: tuple[int, ...], image_name: str) -> None:
    """Refuse an image (H, W, ...) whose size contradicts its camera.

    Raises
    ------
    CameraError
        If height or width differ.
    """
    if tuple(image_shape[:2]) != (camera.height, camera.width):
        raise CameraError(
            f"{image_name} is {image_shape[1]}×{image_shape[0]} pixels, but camera {camera.name} was calibrated "
            f"for {camera.width}×{camera.height}",
            "an image of the calibrated size",
            "Scale K with the image, or supply the image at its calibrated size",
        )


def look_at(
    name: str, centre: npt.ArrayLike, target: npt.ArrayLike, focal_px: float, width: int, height: int
) -> Camera:
    """Return a camera at ``centre`` looking at ``target`` (world metres) with +y of the world upwards."""
    c, target_point = np.asarray(centre, np.float64), np.asarray(target, np.float64)
    forward = (target_point - c) / np.linalg.norm(target_point - c)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    E = np.eye(4)
    E[:3, :3], E[:3, 3] = R, -R @ c
    K = np.array([[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1.0]])
    return Camera(name, K, E, width, height)
