"""transforms.json of the studio, as nerfstudio writes it: OpenGL's axes, the world turned or not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from datagen.geometry.camera import Camera
from datagen.geometry.lens import BrownLens, FisheyeLens
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import ply_bytes
from tests.layouts.studio import HEIGHT, MM, WIDTH, Shot, depth_of, rays_of, scaled, scan, shots, taken

# nerfstudio's turn of COLMAP's world.
TURN = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def write_transforms(
    workspace: Path,
    model: str = "OPENCV",
    *,
    each: bool = False,
    turned: bool = False,
    factor: float = MM,
    depth_mm: float | None = None,
) -> list[Shot]:
    """Write a workspace with transforms.json: one lens or one for each picture, the world turned, depth maps."""
    found = shots(model)
    (workspace / "images").mkdir(parents=True)
    frames, shared = [], {}
    for k, shot in enumerate(found):
        taken(shot).save(workspace / f"images/{shot.camera.name}.png")
        pose = np.linalg.inv(shot.camera.world_to_camera) @ np.diag([1.0, -1, -1, 1])
        pose[:3, 3] *= factor
        lens = _lens_keys(shot)
        if not each:
            # One lens for all: that of the first, which took the others' pictures too.
            shared = shared or lens
        frames.append(
            {
                "file_path": f"images/{shot.camera.name}.png",
                "transform_matrix": (TURN @ pose if turned else pose).tolist(),
                **(lens if each else {}),
            }
        )
        if not each and k:
            found[k] = Shot(
                Camera(shot.camera.name, found[0].camera.K, shot.camera.world_to_camera, WIDTH, HEIGHT),
                model,
                found[0].parameters,
                found[0].lens,
            )
            taken(found[k]).save(workspace / f"images/{shot.camera.name}.png")
    if depth_mm is not None:
        (workspace / "depth").mkdir()
        for shot, frame in zip(found, frames, strict=True):
            steps = np.rint(depth_of(shot.camera, rays_of(shot)) * MM / depth_mm).astype(np.uint16)
            Image.fromarray(steps).save(workspace / f"depth/{shot.camera.name}.png")
            frame["depth_file_path"] = f"depth/{shot.camera.name}.png"
    content = {"camera_model": model, **shared, "frames": frames}
    if turned:
        content["applied_transform"] = TURN[:3].tolist()
    (workspace / "transforms.json").write_text(json.dumps(content))
    (workspace / "mesh.ply").write_bytes(ply_bytes(scaled(scan(), factor)))
    (workspace / "sparse_pc.ply").write_bytes(ply_bytes(Mesh.of(np.zeros((3, 3)), np.zeros((0, 3), int))))
    return found


def _lens_keys(shot: Shot) -> dict[str, float]:
    K, lens = shot.camera.K, shot.lens
    keys = {"w": WIDTH, "h": HEIGHT, "fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
    if isinstance(lens, FisheyeLens):
        return keys | dict(zip(("k1", "k2", "k3", "k4"), lens.coefficients, strict=True))
    assert isinstance(lens, BrownLens)
    keys |= dict(zip(("k1", "k2"), lens.radial, strict=False))
    return keys | dict(zip(("p1", "p2"), lens.tangential, strict=True))
