"""COLMAP workspaces of the studio: models in text and in binary, pictures, a mesh."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from scipy.spatial.transform import Rotation

from datagen.geometry.camera import Camera
from datagen.geometry.mesh_io import ply_bytes
from datagen.sources.colmap_model import MODELS
from tests.layouts.studio import HEIGHT, MM, WIDTH, Shot, depth_of, scaled, scan, shots, taken


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


def write_depth_maps(place: Path, found: list[Shot], factor: float = MM, suffix: str = ".png") -> None:
    """Write the depth maps of a dense workspace, of straight pictures, as COLMAP does."""
    folder = place / "stereo" / "depth_maps"
    folder.mkdir(parents=True)
    for shot in found:
        depth = (depth_of(shot.camera) * factor).astype("<f4")
        for kind in ("geometric", "photometric"):
            data = f"{WIDTH}&{HEIGHT}&1&".encode() + (depth if kind == "geometric" else depth * 1.01).tobytes()
            (folder / f"{shot.camera.name}{suffix}.{kind}.bin").write_bytes(data)


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
