"""FaMoS as TEMPEH's data are downloaded: an egg with a pattern, taken through Tsai's lens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from datagen.geometry.camera import Camera, look_at
from datagen.geometry.mesh_io import ply_bytes
from datagen.sources.imports.flame_meshes import VERTICES as FLAME
from tests.layouts.heads import head
from tests.layouts.studio import MM, centres, pattern

SUBJECT, SEQUENCE = "FaMoS_180424_03335_TA", "anger"
FRAMES = (3, 4, 7)
SIZE = 96 * 4, 80 * 4  # what was calibrated; pictures are a quarter
FOCAL_MM, PIXEL_MM = 12.0, 0.02
# 1/mm², 1/mm⁴ on the sensor.
RADIAL = (0.002, -1e-5)


@dataclass(frozen=True)
class View:
    """A camera of the quarter pictures, without its lens."""

    camera: Camera
    picture: np.ndarray


def views() -> list[View]:
    """Return the rig in metres, and what each camera takes through its lens."""
    found = []
    for k, x in enumerate((-0.2, 0.15)):
        width, height = SIZE[0] // 4, SIZE[1] // 4
        focal = FOCAL_MM / PIXEL_MM / 4
        camera = look_at(f"{k:02d}_C", [x, 0.03, 0.9], [0, 0, 0], focal, width, height)
        K = camera.K + np.array([[0, 0, 1.25], [0, 0, -0.75 + k], [0, 0, 0]])
        shown = (centres(width, height) - K[:2, 2]) / focal
        square = (shown**2).sum(1, keepdims=True) * FOCAL_MM**2
        # From where the lens shows a point to where a pinhole would.
        straight = shown * (1 + RADIAL[0] * square + RADIAL[1] * square**2)
        pixels = np.rint(pattern(camera, straight)).astype(np.uint8).reshape(height, width, 3)
        found.append(View(Camera(camera.name, K, camera.world_to_camera, width, height), pixels))
    return found


def write_famos(root: Path) -> list[View]:
    """Write three frames of one sequence; return the cameras."""
    below = f"{SUBJECT}/{SEQUENCE}"
    for folder in ("registrations", "scans", "calibrations"):
        (root / folder / below).mkdir(parents=True)
    for k, frame in enumerate(FRAMES):
        mesh = head(FLAME, k)
        (root / f"registrations/{below}/{SEQUENCE}.{frame:06d}.ply").write_bytes(ply_bytes(mesh, precision="float32"))
        np.save(root / f"scans/{below}/{SEQUENCE}.{frame:06d}.npy", (mesh.vertices[::3] * MM).astype("<f4"))
    rig = views()
    for view in rig:
        camera = view.camera
        # Of whole pictures, pixel centres at whole numbers.
        a, b = camera.K[:2, 2] * 4 - 0.5
        R, C = camera.world_to_camera[:3, :3], camera.centre * MM
        rows = [" ".join(repr(float(value)) for value in row) + " " for row in R]
        values = {"X": C[0], "Y": C[1], "Z": C[2], "f": FOCAL_MM, "K": RADIAL[0], "K2": RADIAL[1], "S": 1.0}
        values |= {"x": PIXEL_MM, "y": PIXEL_MM, "a": a, "b": b}
        lines = ["M =", *rows, *(f"{key}= {float(value)!r}" for key, value in values.items())]
        lines += [f"is= {SIZE[0]} {SIZE[1]}", "c= 0"]
        (root / f"calibrations/{below}/{camera.name}.tka").write_text("\n".join(lines) + "\n")
        for frame in FRAMES:
            folder = root / "downsampled_images_4" / below / f"{frame:06d}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(view.picture).save(folder / f"{SEQUENCE}.{frame:06d}.{camera.name}.png")
    return rig
