"""A small studio as other programs write it down: cameras with lenses, one flat scan, pictures of a smooth pattern.

Every pixel is the pattern where its ray meets the scan's plane, so a picture says by itself whether K, pose, lens and
half pixels are right.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from datagen.geometry.camera import Camera, look_at
from datagen.geometry.lens import BrownLens, FisheyeLens, Lens
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import ply_bytes
from datagen.sources.colmap_model import MODELS

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


def centres(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Return the centres of all pixels, (N, 2)."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([x.ravel(), y.ravel()], 1)


def taken(shot: Shot) -> Image.Image:
    """Return the picture that a camera takes through its lens."""
    K = shot.camera.K
    shown = (centres() - K[:2, 2]) / [K[0, 0], K[1, 1]]
    straight = shown.copy()
    for _ in range(300):
        step = shown - shot.lens.distort(straight)
        straight += step
        if np.abs(step).max() < 1e-9:
            break
    else:
        raise AssertionError("the lens was not inverted")
    return Image.fromarray(np.rint(pattern(shot.camera, straight)).astype(np.uint8).reshape(HEIGHT, WIDTH, 3))


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


def write_colmap(
    workspace: Path,
    model: str = "OPENCV",
    *,
    binary: bool = True,
    factor: float = MM,
    base: str = "",
    scan_name: str = "meshed-poisson.ply",
    suffix: str = ".png",
) -> list[Shot]:
    """Write a workspace as COLMAP does: a model, pictures, a mesh; lengths times ``factor``."""
    found = shots(model)
    place = workspace / base
    sparse = place / ("sparse" if base else "sparse/0")
    sparse.mkdir(parents=True)
    (place / "images").mkdir()
    for shot in found:
        taken(shot).save(place / "images" / f"{shot.camera.name}{suffix}")
    poses = {shot.camera.name + suffix: _pose(shot.camera, factor) for shot in found}
    (_binary if binary else _text)(sparse, found, poses)
    (place / scan_name).write_bytes(ply_bytes(scaled(scan(), factor)))
    return found


def _pose(camera: Camera, factor: float) -> list[float]:
    x, y, z, w = Rotation.from_matrix(camera.world_to_camera[:3, :3]).as_quat()
    return [w, x, y, z, *(camera.world_to_camera[:3, 3] * factor)]


def _binary(sparse: Path, found: list[Shot], poses: Mapping[str, list[float]]) -> None:
    data = struct.pack("<Q", len(found))
    for k, shot in enumerate(found):
        data += struct.pack("<IiQQ", k + 1, MODELS[shot.model][0], WIDTH, HEIGHT)
        data += struct.pack(f"<{len(shot.parameters)}d", *shot.parameters)
    (sparse / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", len(poses))
    for k, (name, pose) in enumerate(poses.items()):
        data += struct.pack("<I7dI", k + 9, *pose, k + 1) + name.encode() + b"\0"
        # Points that were seen: x, y and the number of the point.
        data += struct.pack("<Q", k) + struct.pack("<ddq", 1.0, 2.0, -1) * k
    (sparse / "images.bin").write_bytes(data)
    (sparse / "points3D.bin").write_bytes(struct.pack("<Q", 0))


def _text(sparse: Path, found: list[Shot], poses: Mapping[str, list[float]]) -> None:
    lines = ["# Camera list", "#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    for k, shot in enumerate(found):
        lines.append(f"{k + 1} {shot.model} {WIDTH} {HEIGHT} {' '.join(map(repr, shot.parameters))}")
    (sparse / "cameras.txt").write_text("\n".join(lines) + "\n")
    lines = ["# Image list with two lines of data per image:"]
    for k, (name, pose) in enumerate(poses.items()):
        lines += [f"{k + 9} {' '.join(repr(float(v)) for v in pose)} {k + 1} {name}", "1.0 2.0 -1" if k else ""]
    (sparse / "images.txt").write_text("\n".join(lines) + "\n")
    (sparse / "points3D.txt").write_text("")


# nerfstudio's turn of COLMAP's world.
TURN = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def write_transforms(
    workspace: Path, model: str = "OPENCV", *, each: bool = False, turned: bool = False, factor: float = MM
) -> list[Shot]:
    """Write a workspace with transforms.json: a lens for all, or for each picture; the world turned, or as it was."""
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
