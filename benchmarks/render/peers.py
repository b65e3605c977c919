"""Rendering by packages that are not backends of ours, for comparison only."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from datagen.common.errors import DependencyError
from datagen.geometry.camera import Camera
from datagen.render.contract import Fragments, SurfaceAttributes, ViewMaps
from datagen.render.inputs import checked_inputs
from datagen.render.maps import maps_from_fragments


class Pytorch3DRenderer:
    """The naive rasteriser of pytorch3d, one face a pixel.

    On the CPU it takes tens of seconds a view, which is why it is not a backend. Its maps come from the step all
    rasterisers share, which is quick beside it.

    Raises
    ------
    datagen.common.errors.DependencyError
        If pytorch3d cannot be imported.
    """

    name = "pytorch3d"

    def __init__(self) -> None:
        if find_spec("pytorch3d") is None:
            raise DependencyError(
                "the comparison with pytorch3d was asked for, but the package is not installed",
                "pytorch3d, built from its own sources for this torch",
                "docs/dependencies.md says how; or leave it out of --against",
            )

    def rasterise(self, vertices: np.ndarray, faces: np.ndarray, cameras: Sequence[Camera]) -> list[Fragments]:
        """Rasterise a mesh (vertices (N, 3) world metres, faces (F, 3)) into every camera."""
        mesh = checked_inputs(vertices, faces, cameras)
        return [self._one_view(mesh.vertices, mesh.faces, camera) for camera in cameras]

    def render(
        self, surface: SurfaceAttributes, cameras: Sequence[Camera], *, hide_back_faces: bool = False
    ) -> list[ViewMaps]:
        """Render all maps of a surface into every camera."""
        fragments = self.rasterise(surface.vertices, surface.faces, cameras)
        return maps_from_fragments(surface, cameras, fragments, hide_back_faces=hide_back_faces)

    def _one_view(self, vertices: np.ndarray, faces: np.ndarray, camera: Camera) -> Fragments:
        import torch
        from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
        from pytorch3d.structures import Meshes

        pixels, depth = camera.project(vertices)
        # Its screen has x to the left and y up, and the shorter side spans [-1, 1] with pixel centres at +0.5.
        side = min(camera.width, camera.height)
        x, y = (camera.width - 2 * pixels[:, 0]) / side, (camera.height - 2 * pixels[:, 1]) / side
        screen = torch.from_numpy(np.stack([x, y, depth], axis=1).astype(np.float32))
        found, z, weights, _ = rasterize_meshes(
            Meshes([screen], [torch.from_numpy(faces.astype(np.int64))]),
            image_size=(camera.height, camera.width),
            blur_radius=0.0,
            faces_per_pixel=1,
            bin_size=0,
            perspective_correct=True,
        )
        hit = (found[0, ..., 0] >= 0).numpy()
        return Fragments(
            found[0, ..., 0].numpy().astype(np.int32),
            np.where(hit[..., None], weights[0, :, :, 0].numpy(), 0).astype(np.float32),
            np.where(hit, z[0, ..., 0].numpy(), 0).astype(np.float32),
        )
