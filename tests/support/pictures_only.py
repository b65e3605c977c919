"""Captures of pictures and what was seen in them, and nothing else: simulated people, four cameras of 96 pixels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fit.people import Person, looked_at
from datagen.common.seen_points import seen_points_bytes
from datagen.fit.problem import FitFrame
from datagen.geometry.pixel_evidence import PixelEvidence
from datagen.heads.base import HeadModel
from datagen.sources.folder_writer import png_bytes
from datagen.warp.template import prepare_template

EVIDENCE = "evidence/align/{camera}/{frame:06d}.npz"
IMAGES = "images/{camera}/{frame:06d}.png"
FIRST = 7
CHOSEN = (0, 2, 3, 5)


def seen_frames(head: HeadModel, person: Person, every: int = 3) -> list[FitFrame]:
    """Return what four cameras see of a person's frames: of the visible vertices each n-th, with a pixel of noise."""
    cameras = [person.cameras[k] for k in CHOSEN]
    found = looked_at(prepare_template(head.template), person, cameras, 1.0, np.random.default_rng(0))
    return [
        replace(
            frame,
            evidence=[
                PixelEvidence(one.points.take(range(0, len(one.points), every)), one.camera) for one in frame.evidence
            ],
        )
        for frame in found
    ]


def write_capture(root: Path, frames: Sequence[FitFrame], subject: str = "anna") -> Path:
    """Write pictures, which are noise, and evidence of frames 7 and following; return the sequence's folder."""
    folder = root / subject / "talk"
    cameras: dict[str, Any] = {}
    for index, frame in enumerate(frames, start=FIRST):
        for one in frame.evidence:
            name = one.camera.name
            noise = np.random.default_rng(index).integers(0, 255, (96, 96, 3)).astype(np.uint8)
            for pattern, data in ((EVIDENCE, seen_points_bytes(one.points)), (IMAGES, png_bytes(noise))):
                path = folder / pattern.format(camera=name, frame=index)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            cameras[name] = {
                "K": one.camera.K.tolist(),
                "world_to_camera": one.camera.world_to_camera.tolist(),
                "width": 96,
                "height": 96,
            }
    content = {
        "format": "canonface-capture",
        "version": 1,
        "unit": "m",
        "fps": 2,
        "frames": list(range(FIRST, FIRST + len(frames))),
        "pixel_center": 0.5,
        "cameras": cameras,
        "surface": "none",
        "images": IMAGES,
        "evidence": EVIDENCE,
        "licence": "internal",
    }
    (folder / "capture.json").write_text(json.dumps(content))
    return folder


def change(folder: Path, **values: Any) -> None:
    """Change what a sequence's capture.json says; None takes a key away."""
    path = folder / "capture.json"
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
