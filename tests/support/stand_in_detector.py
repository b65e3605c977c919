"""What stands in for the face detector: faces where they are told to be, and a package that the real program runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from datagen.common.arrays import F64
from datagen.common.face_mesh import POINTS
from datagen.evidence.detector_model import DetectorModel, detector_model, on_smooth_surface
from datagen.geometry.camera import Camera
from datagen.heads.base import HeadTemplate
from datagen.heads.registry import load_head

PACKAGE = """
import json, pathlib
from types import SimpleNamespace as Some
__version__ = "0.0"
FACE = json.loads((pathlib.Path(__file__).parent / "face.json").read_text())
class FaceMesh:
    def __init__(self, **settings):
        self.most = settings["max_num_faces"]
    def process(self, picture):
        print("what the package prints is no answer")
        if picture.max() == 0:
            return Some(multi_face_landmarks=None)
        if picture.max() == 1:
            raise SystemExit(3)
        return Some(multi_face_landmarks=[Some(landmark=[Some(x=x, y=y, z=z) for x, y, z in FACE])])
solutions = Some(face_mesh=Some(FaceMesh=FaceMesh))
"""


@lru_cache(maxsize=1)
def anny_model() -> tuple[HeadTemplate, DetectorModel]:
    """Return Anny's template and what is known of the detector's points on it."""
    template = load_head("anny").template
    return template, detector_model(template)


def detected(model: DetectorModel, template: HeadTemplate, vertices: F64, camera: Camera) -> F64:
    """Return the points (478, 3) of a face of vertices (V, 3), world metres, as an ideal detector would see it.

    Points that the model does not know lie in the middle of the face.
    """
    surface = on_smooth_surface(template, vertices)
    at = np.einsum("pc,pcd->pd", model.barycentric, surface[template.faces[model.faces]])
    pixels, z = camera.project(at)
    px_per_m = camera.K[0, 0] / z.mean()
    points = np.empty((POINTS, 3))
    points[:] = [*pixels.mean(axis=0), 0.0]
    points[model.points] = np.column_stack([pixels, (z - z.mean()) * px_per_m])
    return points


def in_turn(answers: Sequence[Sequence[F64]]) -> Callable[[object], F64]:
    """Return a detector that answers picture after picture with these faces, and none in their mirror images."""
    waiting = [faces for answer in answers for faces in (np.zeros((0, POINTS, 3)), np.array(answer))]
    return lambda _: waiting.pop(0).reshape(-1, POINTS, 3)


def stand_in_python(folder: Path) -> Path:
    """Write a program that takes the place of a Python with mediapipe: every picture that is not black shows a face."""
    template, model = anny_model()
    fill = 0.5 / float(np.ptp(template.vertices[:, 0]))
    places, _ = model.places(template)
    face = np.full((POINTS, 3), 0.5)
    face[model.points] = 0.5 + (places - places.mean(axis=0)) * [fill, -fill, -fill]
    package = folder / "packages" / "mediapipe"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(PACKAGE)
    (package / "face.json").write_text(json.dumps(face.tolist()))
    program = folder / "python"
    # Its arguments are -E, -s and the program; without -E it finds the package.
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{package.parent}" exec "{sys.executable}" "$3"\n')
    program.chmod(0o755)
    return program
