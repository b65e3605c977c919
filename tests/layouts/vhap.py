"""VHAP's exports: an egg-shaped head at several instants, as FLAME meshes with teeth or as parameters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from datagen.geometry.camera import Camera, look_at
from datagen.geometry.mesh_io import mesh_bytes
from tests.layouts.heads import MIDDLE, head, seen
from tests.layouts.studio import centres, pattern

WITH_TEETH = 5143
INSTANTS = (0, 1, 2)
SIDE = 64
SERIALS = ("222200037", "222200046")


def camera(serial: str, instant: int, moving: bool) -> Camera:
    """Return a camera, which moves or stands still."""
    x = (0.1 if serial == SERIALS[0] else -0.15) + 0.02 * instant * moving
    found = look_at(serial, [x, 0.05, 0.8], MIDDLE, 90.0, SIDE, SIDE)
    return replace(found, K=found.K + np.array([[0, 0, 1.5], [0, 0, -1.0], [0, 0, 0]]))


def write_vhap(workspace: Path, *, meshes: bool = True, moving: bool = False, opencv: bool = False) -> None:
    """Write an export."""
    for name in ("images", "fg_masks", "meshes" if meshes else "flame_param"):
        (workspace / name).mkdir(parents=True)
    frames = []
    for instant in INSTANTS:
        if meshes:
            data = mesh_bytes(head(WITH_TEETH, instant), None, "obj")
            (workspace / f"meshes/{instant:05d}.obj").write_bytes(data)
        else:
            content = {"translation": MIDDLE[None] + 1e-3 * instant, "rotation": np.zeros((1, 3))}
            content |= {"shape": np.zeros(10), "expr": np.zeros((1, 10)), "jaw_pose": np.zeros((1, 3))}
            content |= {"neck_pose": np.zeros((1, 3)), "eyes_pose": np.zeros((1, 6))}
            np.savez(workspace / f"flame_param/{instant:05d}.npz", **content)
        for index, serial in enumerate(SERIALS):
            view = camera(serial, instant, moving)
            rays = (centres(SIDE, SIDE) - view.K[:2, 2]) / view.K[0, 0]
            inside, _ = seen(view.centre, np.c_[rays, np.ones(len(rays))] @ view.world_to_camera[:3, :3])
            pixels = np.rint(pattern(view, rays)).astype(np.uint8).reshape(SIDE, SIDE, 3)
            name = f"{instant:05d}_{index:02d}.png"
            Image.fromarray(pixels).save(workspace / "images" / name)
            mask = np.where(inside, 255, 0).astype(np.uint8).reshape(SIDE, SIDE)
            Image.fromarray(mask).save(workspace / "fg_masks" / name)
            pose = np.linalg.inv(view.world_to_camera)
            entry = {
                "timestep_index": instant,
                "timestep_id": f"frame_{instant:05d}",
                "camera_index": index,
                "camera_id": serial,
                "cx": view.K[0, 2],
                "cy": view.K[1, 2],
                "fl_x": view.K[0, 0],
                "fl_y": view.K[1, 1],
                "w": SIDE,
                "h": SIDE,
                "transform_matrix": (pose if opencv else pose @ np.diag([1.0, -1, -1, 1])).tolist(),
                "file_path": f"images/{name}",
                "fg_mask_path": f"fg_masks/{name}",
            }
            key, folder, suffix = (
                ("mesh_path", "meshes", "obj") if meshes else ("flame_param_path", "flame_param", "npz")
            )
            frames.append({**entry, key: f"{folder}/{instant:05d}.{suffix}"})
    content = {"frames": frames, "timestep_indices": list(INSTANTS), "camera_indices": [0, 1]}
    (workspace / "transforms.json").write_text(json.dumps(content))
