"""Simulated captures, renamed and in other units and files: a folder as a studio has it, before anybody heard of us."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from datagen.geometry.mesh_io import read_mesh
from datagen.sources.capture_file import CaptureFile, read_capture_file

PEOPLE = ("Anna", "Ben", "Cleo", "Dora", "Emil")
TAKE = "take_01"
FIRST = 9  # frames are numbered from there on, without padding: 9, 10, ...
FPS = 12.0
MM = 1000.0


def camera_name(k: int) -> str:
    """Return what the studio calls a camera."""
    return f"C{k + 1}"


def studio_folder(captures: Path, out: Path, *, landmarks: bool = True) -> Path:
    """Write ``out`` from simulated captures: OBJ in millimetres, JPEG per camera, one calibration for all.

    Cameras stand where the first subject's do: the rigs of simulated subjects differ, so each has a file of its own.
    """
    for subject, person in zip(sorted(path for path in captures.iterdir() if path.is_dir()), PEOPLE, strict=False):
        (sequence,) = sorted(path for path in subject.iterdir() if path.is_dir())
        _take(sequence, out / person / TAKE, landmarks)
    return out


def _take(sequence: Path, out: Path, landmarks: bool) -> None:
    capture = read_capture_file(sequence)
    for folder in ("mesh", "points"):
        (out / folder).mkdir(parents=True)
    for frame in capture.frames:
        number = frame + FIRST
        mesh = read_mesh(sequence / capture.scan.format(frame=frame))
        lines = [f"v {x:.4f} {y:.4f} {z:.4f}" for x, y, z in mesh.vertices * MM]
        lines += [f"f {a} {b} {c}" for a, b, c in mesh.faces + 1]
        (out / f"mesh/{TAKE}_f{number}.obj").write_text("\n".join(["mtllib scan.mtl", *lines]) + "\n")
        if landmarks and capture.landmarks:
            content = json.loads((sequence / capture.landmarks.pattern.format(frame=frame)).read_text())
            points = {name: (np.array(xyz) * MM).tolist() for name, xyz in content["points"].items()}
            (out / f"points/{number}.json").write_text(json.dumps({"scheme": "ibug68", "unit": "mm", "points": points}))
        for k, camera in enumerate(capture.cameras):
            folder = out / camera_name(k)
            folder.mkdir(exist_ok=True)
            assert capture.images is not None
            with Image.open(sequence / capture.images.format(camera=camera, frame=frame)) as picture:
                picture.convert("RGB").save(folder / f"IMG_{number:04d}.JPG", quality=95)
    (out / "calibration.json").write_text(json.dumps(_calibration(capture), indent=1))
    (out / "notes.txt").write_text("lights as on Monday")


def _calibration(capture: CaptureFile) -> list[dict[str, object]]:
    cameras = []
    for k, camera in enumerate(capture.cameras.values()):
        pose = np.array(camera.world_to_camera)
        cameras.append(
            {
                "id": str(k + 1),
                "image_size": [camera.width, camera.height],
                "camera_matrix": camera.K,
                "distortion": [0, 0, 0, 0, 0],
                "R": pose[:3, :3].tolist(),
                "t": (pose[:3, 3] * MM).tolist(),
            }
        )
    return cameras
