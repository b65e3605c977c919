"""A small studio as other programs write it down: cameras with lenses, one flat scan, pictures of a smooth pattern.

Every pixel is the pattern where its ray meets the scan's plane, so a picture says by itself whether K, pose, lens and
half pixels are right.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from PIL import Image

from datagen.geometry.camera import Camera, look_at
from datagen.geometry.lens import BrownLens, FisheyeLens, Lens
from datagen.geometry.mesh import Mesh

WIDTH, HEIGHT = 96, 80
MM = 1000.0
SIDE = 0.3  # of the scan, metres


@dataclass(frozen=True)
class Shot:
    """One camera of the studio, its lens as COLMAP writes it."""

    camera: Camera
    model: str
    parameters: tuple[float, ...]
    lens: Lens


def shots(model: str) -> list[Shot]:
    """Return three cameras with lenses of one of COLMAP's models, each a little different."""
    found = []
    for k, x in enumerate((-0.35, 0.0, 0.3)):
        camera = look_at(f"c{k}", [x, 0.05 * k, 0.9], [0, 0, 0], 150.0 + k, WIDTH, HEIGHT)
        two = model not in {"SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"}
        K = camera.K + np.array([[0, 0, 1.3], [0, 2.0 * two, -0.7 - k], [0, 0, 0]])
        radial, p = (0.15 - 0.02 * k, -0.05), (0.004, -0.003)
        lens: Lens
        more: tuple[float, ...]
        if model.endswith("FISHEYE"):
            more = {"SIMPLE_RADIAL_FISHEYE": (-0.04,), "RADIAL_FISHEYE": (-0.04, 0.01)}.get(
                model, (-0.04, 0.01, 0.002, 0.001)
            )
            lens = FisheyeLens(more)
        else:
            more, lens = {
                "SIMPLE_PINHOLE": ((), BrownLens()),
                "PINHOLE": ((), BrownLens()),
                "SIMPLE_RADIAL": (radial[:1], BrownLens(radial[:1])),
                "RADIAL": (radial, BrownLens(radial)),
                "OPENCV": ((*radial, *p), BrownLens(radial, (), p)),
                "FULL_OPENCV": (
                    (*radial, *p, 0.01, 0.02, 0.03, 0.04),
                    BrownLens((*radial, 0.01), (0.02, 0.03, 0.04), p),
                ),
            }[model]
        focal = (K[0, 0], K[1, 1]) if two else (K[0, 0],)
        parameters = tuple(float(value) for value in (*focal, K[0, 2], K[1, 2], *more))
        found.append(Shot(Camera(camera.name, K, camera.world_to_camera, WIDTH, HEIGHT), model, parameters, lens))
    return found


def pattern(camera: Camera, normalised: np.ndarray) -> np.ndarray:
    """Return the pattern, (N, 3) grey values, where rays of a camera, (N, 2) x/z and y/z, meet the plane z = 0."""
    R = camera.world_to_camera[:3, :3]
    rays = np.c_[normalised, np.ones(len(normalised))] @ R
    points = camera.centre - rays * (camera.centre[2] / rays[:, 2])[:, None]
    x, y = points[:, 0] * 40, points[:, 1] * 40
    return 128 + 60 * np.stack([np.sin(x), np.cos(y), np.sin(0.7 * (x + y))], 1)


def alone(camera: Camera, normalised: np.ndarray) -> np.ndarray:
    """Return the pattern where rays of a camera meet the scan, (N, 3), and black beside it, as in a studio."""
    return _alone(pattern, camera, normalised)


def make_black_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pictures be black beside the scan: a check looks for an outline, and a pattern all over has others."""
    monkeypatch.setattr(sys.modules[__name__], "pattern", partial(_alone, pattern))


def _alone(everywhere: Callable[..., np.ndarray], camera: Camera, normalised: np.ndarray) -> np.ndarray:
    return np.where(depth_of(camera, normalised).reshape(-1, 1) > 0, everywhere(camera, normalised), 0.0)


def depth_of(camera: Camera, normalised: np.ndarray | None = None) -> np.ndarray:
    """Return the planar depth of the scan, (H, W) metres, along rays (H * W, 2) of a camera; 0 beside it.

    Without rays, in the pixels of a straight camera.
    """
    if normalised is None:
        normalised = (centres(camera.width, camera.height) - camera.K[:2, 2]) / [camera.K[0, 0], camera.K[1, 1]]
    rays = np.c_[normalised, np.ones(len(normalised))] @ camera.world_to_camera[:3, :3]
    depth = -camera.centre[2] / rays[:, 2]
    points = camera.centre + rays * depth[:, None]
    inside = (np.abs(points[:, :2]) <= SIDE / 2).all(1)
    return np.where(inside, depth, 0.0).reshape(camera.height, camera.width)


def centres(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Return the centres of all pixels, (N, 2)."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([x.ravel(), y.ravel()], 1)


def rays_of(shot: Shot) -> np.ndarray:
    """Return where the pixels of a picture look, through its lens, (H * W, 2) x/z and y/z."""
    K = shot.camera.K
    shown = (centres() - K[:2, 2]) / [K[0, 0], K[1, 1]]
    straight = shown.copy()
    for _ in range(300):
        step = shown - shot.lens.distort(straight)
        straight += step
        if np.abs(step).max() < 1e-9:
            return straight
    raise AssertionError("the lens was not inverted")


def taken(shot: Shot) -> Image.Image:
    """Return the picture that a camera takes through its lens."""
    pixels = np.rint(pattern(shot.camera, rays_of(shot))).astype(np.uint8)
    return Image.fromarray(pixels.reshape(HEIGHT, WIDTH, 3))


def scan() -> Mesh:
    """Return the flat scan, in metres."""
    side = np.linspace(-SIDE / 2, SIDE / 2, 9)
    x, y = np.meshgrid(side, side)
    corner = (np.arange(8)[:, None] * 9 + np.arange(8)).reshape(-1, 1)
    faces = np.concatenate([corner + np.array([0, 1, 9]), corner + np.array([1, 10, 9])])
    return Mesh.of(np.stack([x.ravel(), y.ravel(), np.zeros(81)], 1), faces)


def scaled(mesh: Mesh, factor: float) -> Mesh:
    """Return a mesh in another unit."""
    return Mesh.of(mesh.vertices * factor, mesh.faces)
