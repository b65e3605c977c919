"""Views of analytic ellipsoids for the tests of the evaluation: exact maps, and where any of their points lies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trainer.evaluation.cameras import pixel_centres, project
from trainer.evaluation.frames import Truth, View

CANONICAL_RADII = np.array([0.075, 0.105, 0.09])
DISTANCE_M = 0.8
FACING = np.diag([1.0, -1.0, -1.0])  # head axes (y up, z out of the face) to camera axes (y down, z forward)
LABELS = {"cheeks": 1, "nose": 2, "upper_lip": 3, "lower_lip": 4, "right_eye": 5, "left_eye": 6, "right_ear": 7}


def turn(axis: int, degrees: float) -> np.ndarray:
    """A rotation about one of the axes."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [k for k in range(3) if k != axis]
    rotation = np.eye(3)
    rotation[[i, i, j, j], [i, j, i, j]] = [c, -s, s, c]
    return rotation


def head_pose(rotation: np.ndarray | None = None, shift: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """Head to world: turned and moved from facing the camera; the world's axes are the head's when it is not turned."""
    pose = np.eye(4)
    pose[:3, :3] = np.eye(3) if rotation is None else rotation
    pose[:3, 3] = shift
    return pose


def world_camera() -> np.ndarray:
    """World to camera, of a camera in front of the unmoved head."""
    matrix = np.eye(4)
    matrix[:3, :3] = FACING
    matrix[2, 3] = DISTANCE_M
    return matrix


@dataclass(frozen=True)
class Ellipsoid:
    """One view of an ellipsoid: a person of some radii in some pose before some camera."""

    size: int = 56
    radii: tuple[float, float, float] = (0.075, 0.105, 0.09)
    pose: np.ndarray | None = None
    camera: np.ndarray | None = None

    @property
    def K(self) -> np.ndarray:  # noqa: N802 - the field's own name
        focal = 2.6 * self.size
        return np.array([[focal, 0, self.size / 2], [0, focal, self.size / 2], [0, 0, 1]])

    @property
    def head_to_world(self) -> np.ndarray:
        return np.eye(4) if self.pose is None else self.pose

    @property
    def world_to_camera(self) -> np.ndarray:
        return world_camera() if self.camera is None else self.camera

    @property
    def head_to_camera(self) -> np.ndarray:
        return self.world_to_camera @ self.head_to_world

    def place(self, canonical_m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels, camera points and the cosine of the angle to the camera, of canonical coordinates (N, 3)."""
        head = canonical_m / CANONICAL_RADII * np.array(self.radii)
        matrix = self.head_to_camera
        points = head @ matrix[:3, :3].T + matrix[:3, 3]
        normals = (head / np.array(self.radii) ** 2) @ matrix[:3, :3].T
        cosine = -(normals * points).sum(1) / np.linalg.norm(normals, axis=1) / np.linalg.norm(points, axis=1)
        return project(points, self.K), points, cosine

    def truth(self) -> Truth:
        n = self.size
        rotation, shift = self.head_to_camera[:3, :3], self.head_to_camera[:3, 3]
        radii = np.array(self.radii)
        rays = np.linalg.inv(self.K) @ np.concatenate([pixel_centres(n, n).reshape(2, -1), np.ones((1, n * n))])
        direction, origin = (rays.T @ rotation) / radii, (-shift @ rotation) / radii
        a, b, c = (direction**2).sum(1), direction @ origin, origin @ origin - 1
        inside = b**2 - a * c
        hit = inside > 0
        depth = np.where(hit, (-b - np.sqrt(np.maximum(inside, 0))) / a, 0)
        unit = direction * depth[:, None] + origin
        normal = (unit / radii) @ rotation.T
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        checks = np.where((unit * 6).astype(int).sum(1) % 2 == 0, 200, 60)

        def planes(values: np.ndarray) -> np.ndarray:
            return np.where(hit[:, None], values, 0).T.reshape(-1, n, n).astype(np.float32)

        return Truth(
            image=np.where(hit, checks, 128).reshape(1, n, n).repeat(3, 0).astype(np.uint8),
            depth_m=depth.reshape(n, n).astype(np.float32),
            canonical_m=planes(unit * CANONICAL_RADII),
            normal=planes(normal),
            confidence=hit.reshape(n, n).astype(np.float32),
            region=(hit * _regions(unit)).reshape(n, n).astype(np.uint8),
            edge=np.zeros((n, n), bool),
            intrinsics=self.K.astype(np.float32),
            world_to_camera=self.world_to_camera.astype(np.float32),
            head_to_world=self.head_to_world.astype(np.float32),
        )

    def perfect(self, **changes: Any) -> View:
        """What a method that is always right says, with some maps changed."""
        truth = self.truth()
        ones = np.ones_like(truth.depth_m)
        view = View(truth, truth.depth_m, truth.canonical_m, ones, ones, truth.surface.astype(np.float32))
        return replace(view, **changes)


def _regions(unit: np.ndarray) -> np.ndarray:
    """A face drawn on the unit sphere: two eyes, a nose, two lips, an ear."""
    x, y, z = unit.T
    labels = np.full(len(unit), LABELS["cheeks"])
    front = z > 0
    labels[front & (x**2 + y**2 < 0.05)] = LABELS["nose"]
    labels[front & (np.abs(x) < 0.4) & (y < -0.4) & (y > -0.55)] = LABELS["upper_lip"]
    labels[front & (np.abs(x) < 0.4) & (y < -0.55) & (y > -0.7)] = LABELS["lower_lip"]
    labels[front & ((x + 0.4) ** 2 + (y - 0.35) ** 2 < 0.04)] = LABELS["right_eye"]
    labels[front & ((x - 0.4) ** 2 + (y - 0.35) ** 2 < 0.04)] = LABELS["left_eye"]
    labels[x < -0.7] = LABELS["right_ear"]
    return labels
