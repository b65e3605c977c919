"""NeRSemble as it is downloaded, of an egg-shaped head: version 2 with its benchmark, and version 1."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from datagen.geometry.camera import Camera, look_at
from datagen.sources.imports.nersemble import SIZE
from tests.layouts.heads import MIDDLE, egg_of, head
from tests.layouts.studio import centres, pattern
from tests.support.videos import write_video

PERSON, SEQUENCE = "388", "EMO-1-shout+laugh"
SERIALS = ("220700191", "222200037")
SMALL = 44, 64
FRAMES = 4  # of a video
POINTS = 1500
# rgb @ A[:, :3] + A[:, 3] of values of 0 to 1.
COLOR = np.array([[0.9, 0.02, 0, 0.01], [0, 0.95, 0.01, 0], [0.01, 0, 0.85, 0.02]])


def cameras() -> list[Camera]:
    """Return the rig of whole pictures, in metres."""
    places = zip(SERIALS, (-0.2, 0.1), strict=True)
    return [look_at(serial, [x, 0.03, 0.9], MIDDLE, 4500.0, *SIZE) for serial, x in places]


def small(camera: Camera) -> Camera:
    """Return a camera of the scaled pictures."""
    K = camera.K.copy()
    K[0] *= SMALL[0] / SIZE[0]
    K[1] *= SMALL[1] / SIZE[1]
    return replace(camera, K=K, width=SMALL[0], height=SMALL[1])


def picture(camera: Camera, frame: int) -> np.ndarray:
    """Return what a small camera sees at a frame, (H, W, 3) float: brighter from frame to frame."""
    rays = (centres(*SMALL) - camera.K[:2, 2]) / [camera.K[0, 0], camera.K[1, 1]]
    return pattern(camera, rays).reshape(SMALL[1], SMALL[0], 3) * 0.7 + 10 * frame


def _calibration(path: Path, each: bool) -> None:
    rig = cameras()
    K = rig[0].K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    content: dict[str, object] = {"world_2_cam": {camera.name: camera.world_to_camera.tolist() for camera in rig}}
    content["intrinsics"] = {camera.name: K.tolist() for camera in rig} if each else K.tolist()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def cloud(frame: int) -> np.ndarray:
    """Return the points of a frame, (N, 3)."""
    return head(POINTS, frame).vertices


def write_v2(root: Path, *, part: str = "nvs", clouds: bool = True, tracking: bool = False, masks: bool = True) -> Path:
    """Write one sequence of the benchmark, or without clouds and tracking of version 2; return the person's folder."""
    person = root / part / PERSON
    _calibration(person / "calibration/camera_params.json", each=clouds)
    folder = person / "sequences" / SEQUENCE
    for name in ("images", *(("alpha_maps",) if masks else ())):
        (folder / name).mkdir(parents=True)
    lossless = {"codec": "libx264", "options": {"crf": "0"}, "pix_fmt": "yuv444p", "size": SMALL}
    for camera in map(small, cameras()):
        shown = [np.rint(picture(camera, frame)).astype(np.uint8) for frame in range(FRAMES)]
        write_video(folder / f"images/cam_{camera.name}.mp4", [40 * k for k in range(FRAMES)], shown, **lossless)
        if masks:
            white = np.repeat(np.where(egg_of(camera)[0], 255, 0).astype(np.uint8)[..., None], 3, axis=2)
            place = folder / f"alpha_maps/cam_{camera.name}.mp4"
            write_video(place, [40 * k for k in range(FRAMES)], [white] * FRAMES, **lossless)
    if clouds:
        (folder / "pointclouds").mkdir()
        for frame in (0, 2):
            rows = np.c_[cloud(frame), np.tile([0.0, 0.0, 1.0], (POINTS, 1))].astype("<f4")
            lines = ["# .PCD v0.7", "VERSION 0.7", "FIELDS x y z normal_x normal_y normal_z", "SIZE 4 4 4 4 4 4"]
            lines += ["TYPE F F F F F F", "COUNT 1 1 1 1 1 1", f"WIDTH {POINTS}", "HEIGHT 1"]
            lines += ["VIEWPOINT 0 0 0 1 0 0 0", f"POINTS {POINTS}", "DATA binary", ""]
            path = folder / f"pointclouds/frame_{frame:05d}.pcd"
            path.write_bytes("\n".join(lines).encode() + rows.tobytes())
    if tracking:
        (folder / "tracking").mkdir()
        write_tracking(folder / "tracking/flame2023_tracking_v2.npz")
    return person


def write_tracking(path: Path) -> None:
    """Write tracked parameters of frames 0, 1 and 3."""
    zeros = np.zeros((3, 3))
    content = {"shape": np.zeros((1, 10)), "expression": np.zeros((3, 10)), "rotation": zeros, "jaw": zeros}
    content |= {"rotation_matrices": np.tile(np.eye(3), (3, 1, 1)), "neck": zeros, "eyes": np.zeros((3, 6))}
    content |= {"translation": np.tile(MIDDLE, (3, 1)), "scale": np.ones((1, 1)), "frames": np.array([0, 1, 3])}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **content)


def write_v1(root: Path, *, described: bool = False) -> Path:
    """Write one sequence of version 1, in the folders that its code reads or that its description has."""
    person = root / "018"
    _calibration(person / "camera_params.json", each=False)
    images, masks, depths = (
        ("images-2x", "alpha_map", "colmap/depth_maps_compressed/12")
        if described
        else ("images-2x-73fps", "alpha_map-73fps", "colmap-73fps/depth_maps_compressed")
    )
    corrections = person / "annotations" / SEQUENCE / "color_correction"
    corrections.mkdir(parents=True)
    for camera in map(small, cameras()):
        np.save(corrections / f"{camera.name}.npy", COLOR)
        inside, depth = egg_of(camera)
        for frame in (0, 3):
            place = person / "sequences" / SEQUENCE / f"frame_{frame:05d}"
            for name in (images, masks, depths):
                (place / name).mkdir(parents=True, exist_ok=True)
            pixels = np.rint(picture(camera, frame)).astype(np.uint8)
            Image.fromarray(pixels).save(place / images / f"cam_{camera.name}.png")
            Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)).save(place / masks / f"cam_{camera.name}.png")
            steps = np.where(inside, np.rint(depth / (2 / 65534)) + 1, 0).astype(np.uint16)
            Image.fromarray(steps).save(place / depths / f"cam_{camera.name}.png")
    return person
