"""Multiface as it is downloaded, of a flat scan that moves: the layout's facts, none of its data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from datagen.geometry.camera import Camera, look_at
from datagen.geometry.mesh import Mesh
from datagen.sources.imports.multiface import SIZE
from tests.layouts.studio import MM, SIDE, alone, centres

ENTITY = "m--20180227--0000--6795067--GHS"
SEGMENT = "E001_Neutral_Eyes_Open"
SMALL = 167, 256  # pictures that were scaled
FRAMES = (101, 102, 104)
ROWS, COLUMNS = 26, 281
# k1 k2 p1 p2 k3, as OpenCV has them.
LENS = (-0.05, 0.02, 0.001, -0.001, 0.003)


def cameras() -> list[Camera]:
    """Return the rig, in metres."""
    return [look_at(f"40000{k}", [x, 0.02 * k, 0.9], [0, 0, 0], 3000.0, *SIZE) for k, x in enumerate((-0.3, 0.25))]


def surface(frame: int) -> Mesh:
    """Return the surface of a frame in the world, in metres: it slides in its own plane."""
    x, y = np.meshgrid(np.linspace(-SIDE / 2, SIDE / 2, COLUMNS), np.linspace(-SIDE / 2, SIDE / 2, ROWS))
    corner = (np.arange(ROWS - 1)[:, None] * COLUMNS + np.arange(COLUMNS - 1)).reshape(-1, 1)
    faces = np.concatenate([corner + np.array([0, 1, COLUMNS]), corner + np.array([1, COLUMNS + 1, COLUMNS])])
    return Mesh.of(np.stack([x.ravel() + (frame - FRAMES[0]) * 1e-3, y.ravel(), np.zeros(x.size)], 1), faces)


def small(camera: Camera) -> Camera:
    """Return a camera of the scaled pictures."""
    K = camera.K.copy()
    K[0] *= SMALL[0] / SIZE[0]
    K[1] *= SMALL[1] / SIZE[1]
    return replace(camera, K=K, width=SMALL[0], height=SMALL[1])


def picture(camera: Camera) -> np.ndarray:
    """Return what a camera sees, (H, W, 3) grey values."""
    rays = (centres(camera.width, camera.height) - camera.K[:2, 2]) / [camera.K[0, 0], camera.K[1, 1]]
    return alone(camera, rays).reshape(camera.height, camera.width, 3)


def write_multiface(root: Path, pixel_center: float = 0.0) -> Path:
    """Write one segment of one person; return the person's folder."""
    entity = root / ENTITY
    meshes = entity / "tracked_mesh" / SEGMENT
    meshes.mkdir(parents=True)
    blocks = []
    for camera in cameras():
        K = camera.K.copy()
        K[:2, 2] += pixel_center - 0.5
        pose = camera.world_to_camera[:3].copy()
        pose[:, 3] *= MM
        rows = [*K, LENS, *pose]
        blocks.append("\n".join([camera.name, *(" ".join(repr(float(value)) for value in row) for row in rows), ""]))
        folder = entity / "images" / SEGMENT / camera.name
        folder.mkdir(parents=True)
        for frame in FRAMES:
            pixels = np.rint(picture(small(camera))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{frame:06d}.png", compress_level=1)
    (entity / "KRT").write_text("\n".join(blocks))
    listed = [f"{SEGMENT} {frame:06d}" for frame in (*FRAMES, 105)]
    (entity / "frame_list.txt").write_text("\n".join([*listed, "E002_Other 000001"]) + "\n")
    for k, frame in enumerate(FRAMES):
        mesh = surface(frame)
        head = Rotation.from_euler("xyz", [0.1, 0.2 * k, -0.3]).as_matrix()
        place = np.array([3.0, -4.0 * k, 900.0])
        vertices = (mesh.vertices * MM - place) @ head
        (meshes / f"{frame:06d}.bin").write_bytes(vertices.astype("<f4").tobytes())
        lines = [" ".join(repr(float(value)) for value in row) for row in np.c_[head, place]]
        (meshes / f"{frame:06d}_transform.txt").write_text("\n".join(lines) + "\n")
        if not k:
            text = [f"v {x} {y} {z}" for x, y, z in vertices] + [f"f {a} {b} {c}" for a, b, c in mesh.faces + 1]
            (meshes / f"{frame:06d}.obj").write_text("\n".join(text))
    return entity
