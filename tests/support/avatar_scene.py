"""One person before two cameras, whose skin has a pattern that moves with it; and the same before another camera."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from datagen.render.contract import ViewMaps
from datagen.shards import Dataset
from tests.support import face_scene

FRAMES = tuple(range(12))
# Of the other camera: from the studio's linear colours to its own.
MATRIX = np.array([[0.5, 0.3, 0.0], [0.0, 0.4, 0.25], [0.25, 0.0, 0.7]])


def pattern(places: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the linear colours (3, ...) of skin with these canonical coordinates (3, ...)."""
    x, y, z = places.astype(np.float64)
    return 0.3 + 0.2 * np.stack([np.sin(9 * x + 4 * y), np.sin(11 * y - 3 * x), np.sin(7 * (x + y) + 5 * z)])


def skin_colours(maps: ViewMaps) -> npt.NDArray[np.float64]:
    """Return linear colours (3, H, W) that each point of the skin keeps."""
    return np.where(maps.depth > 0, pattern(maps.canonical), 0.5)


def srgb(linear: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Return linear light as a picture."""
    clipped = np.clip(linear, 0, 1)
    encoded = np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * np.maximum(clipped, 1e-9) ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def as_studio(maps: ViewMaps) -> npt.NDArray[np.uint8]:
    """The picture that the studio's cameras take."""
    return srgb(skin_colours(maps))


def as_other_camera(maps: ViewMaps) -> npt.NDArray[np.uint8]:
    """The picture that the other camera takes."""
    return srgb(np.einsum("ij,jhw->ihw", MATRIX, skin_colours(maps)))


def shape(person: str, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """A head that bends and turns from frame to frame."""
    del person
    vertices = face_scene.template().vertices.astype(np.float64)
    vertices[:, 0] += 0.012 * np.sin(20 * vertices[:, 1] + 0.6 * frame)
    angle = 0.25 * np.sin(0.7 * frame)
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = 0.003 * frame, 0.2, -0.3
    return vertices, pose


def build_person(root: Path, picture: face_scene.Picture = as_studio, persons: tuple[str, ...] = ("ada",)) -> Dataset:
    """Write the dataset."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(face_scene, "PERSONS", {"train": persons, "val": (), "test": ()})
        patch.setattr(face_scene, "FRAMES", FRAMES)
        patch.setattr(face_scene, "shape", shape)
        return face_scene.build_faces(root, picture=picture)
