"""The reference backend: Open3D ray casting (Embree)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.open3d_library import load_open3d
from datagen.geometry.camera import Camera
from datagen.render.contract import NEAR_M, NO_FACE, Fragments, SurfaceAttributes, ViewMaps
from datagen.render.inputs import checked_inputs
from datagen.render.maps import maps_from_fragments


class Open3DRenderer:
    """One ray through each pixel centre; shares no code with the z-buffer, hence the judge of it.

    Embree works in float32: vertices are passed relative to their mean, so that the distance of the scene from the
    world's origin costs no precision.

    Raises
    ------
    datagen.common.errors.DependencyError
        If Open3D or the system libraries it needs cannot be loaded.
    """

    name = "open3d"

    def __init__(self) -> None:
        self._open3d = load_open3d()

    def rasterise(
        self, vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.integer], cameras: Sequence[Camera]
    ) -> list[Fragments]:
        """Rasterise a mesh (vertices (N, 3) world metres, faces (F, 3)) into every camera."""
        mesh = checked_inputs(vertices, faces, cameras)
        origin = mesh.vertices.mean(axis=0)
        scene = self._open3d.t.geometry.RaycastingScene()
        scene.add_triangles(
            self._open3d.core.Tensor((mesh.vertices - origin).astype(np.float32)),
            self._open3d.core.Tensor(mesh.faces.astype(np.uint32)),
        )
        return [self._one_view(scene, camera, origin) for camera in cameras]

    def render(
        self, surface: SurfaceAttributes, cameras: Sequence[Camera], *, hide_back_faces: bool = False
    ) -> list[ViewMaps]:
        """Render all maps of a surface into every camera."""
        fragments = self.rasterise(surface.vertices, surface.faces, cameras)
        return maps_from_fragments(surface, cameras, fragments, hide_back_faces=hide_back_faces)

    def _one_view(self, scene: Any, camera: Camera, origin: npt.NDArray[np.float64]) -> Fragments:
        rays = pixel_rays(camera, origin)
        hits = scene.cast_rays(self._open3d.core.Tensor(rays))
        t = hits["t_hit"].numpy()
        hit = np.isfinite(t)
        uv = hits["primitive_uvs"].numpy()
        barycentric = np.concatenate([1 - uv.sum(axis=-1, keepdims=True), uv], axis=-1)
        face = np.where(hit, hits["primitive_ids"].numpy().astype(np.int64), NO_FACE)
        return Fragments(
            face.astype(np.int32),
            np.where(hit[..., None], barycentric, 0).astype(np.float32),
            np.where(hit, t.astype(np.float64) + NEAR_M, 0).astype(np.float32),
        )


def pixel_rays(camera: Camera, origin: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return rays (H, W, 6) float32 (start, direction) through pixel centres, starting on the near plane.

    Directions have camera z = 1, so that a hit's parameter is planar depth behind the near plane. Starts are
    relative to ``origin`` (3,) metres.
    """
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    in_camera = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(camera.K).T
    directions = in_camera @ camera.world_to_camera[:3, :3]
    starts = camera.centre - origin + NEAR_M * directions
    return np.concatenate([starts, directions], axis=-1).astype(np.float32)
