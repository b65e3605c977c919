"""Ava-256 as it is downloaded: archives of AVIF pictures and tracked meshes, K and T transposed."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from datagen.geometry.camera import Camera, look_at
from datagen.geometry.mesh import Mesh
from datagen.geometry.mesh_io import mesh_bytes, ply_bytes
from datagen.sources.imports.ava import SIZE
from tests.layouts.multiface import LENS, picture, surface
from tests.layouts.studio import MM

SUBJECT = "20210810--1306--FXN596"
SMALL = 167, 256
FRAMES = (101, 102, 104)  # as the surface of multiface has them
SEGMENTS = {"EXP_neutral_peak": FRAMES[:1], "SEN_smile": (*FRAMES[1:], 105)}


def cameras() -> list[Camera]:
    """Return the rig, in metres."""
    return [look_at(f"40100{k}", [x, 0.02 * k, 0.9], [0, 0, 0], 6000.0, *SIZE) for k, x in enumerate((-0.3, 0.25))]


def small(camera: Camera) -> Camera:
    """Return a camera of the scaled pictures."""
    K = camera.K.copy()
    K[0] *= SMALL[0] / SIZE[0]
    K[1] *= SMALL[1] / SIZE[1]
    return replace(camera, K=K, width=SMALL[0], height=SMALL[1])


def write_ava(root: Path, *, transposed: bool = True) -> Path:
    """Write two segments of one person, the last frame of which was not downloaded; return the decoder folder."""
    decoder = root / SUBJECT / "decoder"
    for name in ("image", "kinematic_tracking", "head_pose"):
        (decoder / name).mkdir(parents=True)
    entries = []
    for camera in cameras():
        K, pose = camera.K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]], camera.world_to_camera.copy()
        pose[:3, 3] *= MM
        entry = {"cameraId": camera.name, "distortion": list(LENS[:4])}
        entry |= {"K": (K.T if transposed else K).tolist(), "T": (pose.T if transposed else pose).tolist()}
        entries.append(entry)
        with zipfile.ZipFile(decoder / f"image/cam{camera.name}.zip", "w") as archive:
            for frame in FRAMES:
                buffer = io.BytesIO()
                pixels = np.rint(picture(small(camera))).astype(np.uint8)
                Image.fromarray(pixels).save(buffer, "AVIF", quality=100, subsampling="4:4:4", speed=10)
                archive.writestr(f"cam{camera.name}/{frame:06d}.avif", buffer.getvalue())
    (decoder / "camera_calibration.json").write_text(json.dumps({"KRT": entries}))
    rows = [f"{segment},{frame}" for segment, frames in SEGMENTS.items() for frame in frames]
    (decoder / "frame_list.csv").write_text("\n".join(["seg_id,frame_id", *rows]) + "\n")
    with (
        zipfile.ZipFile(decoder / "kinematic_tracking/registration_vertices.zip", "w") as meshes,
        zipfile.ZipFile(decoder / "head_pose/head_pose.zip", "w") as poses,
    ):
        for k, frame in enumerate(FRAMES):
            head = Rotation.from_euler("xyz", [0.1, 0.2 * k, -0.3]).as_matrix()
            place = np.array([3.0, -4.0 * k, 900.0])
            vertices = (surface(frame).vertices * MM - place) @ head
            meshes.writestr(f"{frame:06d}.ply", ply_bytes(Mesh.of(vertices), precision="float32"))
            lines = [" ".join(repr(float(value)) for value in row) for row in np.c_[head, place]]
            poses.writestr(f"{frame:06d}.txt", "\n".join(lines) + "\n")
    (root / "assets").mkdir()
    (root / "assets/face_topology.obj").write_bytes(mesh_bytes(surface(FRAMES[0]), None, "obj"))
    return decoder
