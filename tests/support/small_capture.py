"""A small head and a rig around it, pictures and masks of both, and what people get wrong about the cameras."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from datagen.geometry.camera import Camera, look_at
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import ply_bytes
from datagen.sources.frame import Frame, SequenceKey

SIZE = 96
KEY = SequenceKey("anna", "speech")


def head() -> Mesh:
    """A head with a nose on a neck and one shoulder, as real scans have: no mirror image or turn of it is itself."""
    ball = trimesh.creation.icosphere(3)
    parts = [np.asarray(ball.vertices) * (0.08, 0.11, 0.1)]
    parts.append(np.asarray(ball.vertices) * (0.05, 0.07, 0.05) + (0.015, -0.14, -0.02))
    parts.append(np.asarray(ball.vertices) * (0.02, 0.02, 0.03) + (0, 0, 0.1))
    n = len(ball.vertices)
    return Mesh.of(np.concatenate(parts), np.concatenate([np.asarray(ball.faces) + k * n for k in range(3)]))


HEAD = head()


def rig(angles: tuple[float, ...] = (-25, 0, 25), size: int = SIZE) -> tuple[Camera, ...]:
    places = [(0.8 * np.sin(np.radians(a)), 0.05, 0.8 * np.cos(np.radians(a))) for a in angles]
    return tuple(
        look_at(name, place, (0, -0.03, 0), 1.9 * size, size, size)
        for name, place in zip(("left", "front", "right"), places, strict=True)
    )


def silhouette(camera: Camera, mesh: Mesh | None = None) -> np.ndarray:
    mesh = mesh or HEAD
    b = np.random.default_rng(0).dirichlet([1, 1, 1], 30)
    points = np.einsum("kc,fcx->kfx", b, mesh.vertices[mesh.faces]).reshape(-1, 3)
    pixels = np.floor(camera.project(points)[0]).astype(int)
    mask = np.zeros((camera.height, camera.width), bool)
    seen = (pixels >= 0).all(axis=1) & (pixels < (camera.width, camera.height)).all(axis=1)
    mask[pixels[seen, 1], pixels[seen, 0]] = True
    return mask


def photo(mask: np.ndarray) -> np.ndarray:
    """A head before black, as a cut-out is."""
    noise = np.random.default_rng(1).integers(60, 200, (*mask.shape, 3))
    return (noise * mask[..., None]).astype(np.uint8)


def frame_of(
    cameras: tuple[Camera, ...] | None = None,
    masks: Callable[[np.ndarray], np.ndarray] | None = lambda mask: mask,
    images: Callable[[np.ndarray], np.ndarray] | None = photo,
    swapped: bool = False,
    scan: Mesh = HEAD,
) -> Frame:
    """A frame whose pictures are those of the true rig, whatever is said of the cameras."""
    true = rig()
    shown = true[::-1] if swapped else true
    seen = {camera.name: silhouette(other) for camera, other in zip(true, shown, strict=True)}
    return Frame(
        KEY,
        0,
        0.0,
        scan,
        cameras or true,
        images={n: (lambda m=m: images(m)) for n, m in seen.items()} if images else {},
        masks={n: (lambda m=m: masks(m)) for n, m in seen.items()} if masks else {},
    )


def with_pose(change: Callable[[np.ndarray], np.ndarray]) -> tuple[Camera, ...]:
    return tuple(dataclasses.replace(c, world_to_camera=change(c.world_to_camera)) for c in rig())


def with_intrinsics(change: Callable[[np.ndarray], np.ndarray]) -> tuple[Camera, ...]:
    return tuple(dataclasses.replace(c, K=change(c.K)) for c in rig())


def centre_as_t(E: np.ndarray) -> np.ndarray:
    E = E.copy()
    E[:3, 3] = -E[:3, :3].T @ E[:3, 3]
    return E


def scaled(E: np.ndarray, factor: float) -> np.ndarray:
    E = E.copy()
    E[:3, 3] *= factor
    return E


GL = np.diag([1.0, -1, -1, 1])
MISTAKES = {
    "inverse": with_pose(np.linalg.inv),
    "opengl": with_pose(lambda E: GL @ E),
    "opengl inverse": with_pose(lambda E: np.linalg.inv(GL @ E)),
    "centre as t": with_pose(centre_as_t),
    "metres for millimetres": with_pose(lambda E: scaled(E, 1e-3)),
    "millimetres for metres": with_pose(lambda E: scaled(E, 1e3)),
    "K of half the size": with_intrinsics(lambda K: np.diag([0.5, 0.5, 1]) @ K),
    "K of twice the size": with_intrinsics(lambda K: np.diag([2, 2, 1]) @ K),
    "K in widths": with_intrinsics(lambda K: np.diag([1 / SIZE, 1 / SIZE, 1]) @ K),
    "K before a crop": with_intrinsics(lambda K: K + np.array([[0, 0, 34], [0, 0, 20], [0, 0, 0]])),
}
# The key of the convention that explains each.
KEYS = {
    "inverse": "inverse",
    "opengl": "opengl",
    "opengl inverse": "inverse_opengl",
    "centre as t": "centre",
    "metres for millimetres": "unit 1000",
    "millimetres for metres": "unit 0.001",
    "K of half the size": "size 2",
    "K of twice the size": "size 0.5",
    "K in widths": "units of width",
    "K before a crop": "crop",
}


def room(mask: np.ndarray) -> np.ndarray:
    """A head before a wall with a picture on it: no one colour lies behind it."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    wall = np.stack([90 + 0.4 * x, 120 + 0.2 * y, 140 - 0.3 * x], axis=-1)
    wall[5:30, 5:20] = (200, 40, 160)
    skin = np.stack([200 - 0.3 * y, 150 - 0.3 * y, 120 + 0 * x], axis=-1)
    picture = np.where(mask[..., None], skin, wall) + rng.normal(0, 2, (*mask.shape, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def shouldered(mask: np.ndarray) -> np.ndarray:
    """A mask of more than the scan: hair around the head, shoulders below it."""
    from scipy.ndimage import binary_dilation

    out = np.asarray(binary_dilation(mask, iterations=3))
    rows, columns = np.nonzero(mask)
    first = int(np.percentile(rows, 92))
    for row in range(first, mask.shape[0]):
        half = int(np.ptp(columns) * 0.35 + 2.5 * (row - first))
        out[row, max(0, int(columns.mean()) - half) : int(columns.mean()) + half] = True
    return out


def write_capture(
    folder: Path,
    cameras: Sequence[Camera],
    *,
    frames: int = 1,
    true: Sequence[Camera] | None = None,
    **content: object,
) -> Path:
    """Write a sequence whose pictures are those of the true rig, and whose capture.json says ``cameras``."""
    entries = {
        c.name: {"K": c.K.tolist(), "world_to_camera": c.world_to_camera.tolist(), "width": c.width, "height": c.height}
        for c in cameras
    }
    capture: dict[str, object] = {"format": "canonface-capture", "version": 1, "unit": "m", "fps": 30}
    capture |= {"frames": list(range(frames)), "pixel_center": 0.5, "cameras": entries}
    capture |= {"images": "images/{camera}/{frame:06d}.png", "masks": "masks/{camera}/{frame:06d}.png"}
    (folder / "scans").mkdir(parents=True)
    for frame in range(frames):
        (folder / f"scans/{frame:06d}.ply").write_bytes(ply_bytes(HEAD))
        for camera in true or rig():
            mask = silhouette(camera)
            for kind, picture in (("images", photo(mask)), ("masks", (mask * 255).astype(np.uint8))):
                path = folder / kind / camera.name / f"{frame:06d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
    (folder / "capture.json").write_text(json.dumps({**capture, **content}, indent=1))
    return folder
