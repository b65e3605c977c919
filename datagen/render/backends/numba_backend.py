"""The CPU default: a z-buffer rasteriser compiled by numba."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera
from datagen.render.backends.inputs import NEAR_M, checked_inputs
from datagen.render.backends.numba_kernels import rasterise_view
from datagen.render.maps import maps_from_fragments
from datagen.render.protocol import Fragments, SurfaceAttributes, ViewMaps


class NumbaRenderer:
    """Z-buffer on the CPU; deterministic, watertight, the same maps for any number of threads.

    Parameters
    ----------
    threads : int or None
        Views rasterised at a time; by default one per available core. The compiled code holds no lock, so callers
        that already run several threads should pass 1.
    """

    name = "numba"

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or _available_cores()

    def rasterise(
        self, vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.integer], cameras: Sequence[Camera]
    ) -> list[Fragments]:
        """Rasterise a mesh (vertices (N, 3) world metres, faces (F, 3)) into every camera.

        Raises
        ------
        datagen.errors.MeshError, datagen.errors.CameraError
            As :func:`datagen.render.backends.inputs.checked_inputs`.
        """
        mesh = checked_inputs(vertices, faces, cameras)

        def one_view(camera: Camera) -> Fragments:
            projection = np.ascontiguousarray(camera.K @ camera.world_to_camera[:3], np.float64)
            face, barycentric, depth = rasterise_view(
                mesh.vertices, mesh.faces, projection, NEAR_M, camera.height, camera.width
            )
            return Fragments(face, barycentric, depth)

        if self._threads == 1 or len(cameras) < 2:
            return [one_view(camera) for camera in cameras]
        with ThreadPoolExecutor(min(self._threads, len(cameras))) as pool:
            return list(pool.map(one_view, cameras))

    def render(
        self, surface: SurfaceAttributes, cameras: Sequence[Camera], *, hide_back_faces: bool = False
    ) -> list[ViewMaps]:
        """Render all maps of a surface into every camera.

        Raises
        ------
        datagen.errors.MeshError, datagen.errors.CameraError
            As :func:`datagen.render.backends.inputs.checked_inputs`.
        """
        fragments = self.rasterise(surface.vertices, surface.faces, cameras)
        return maps_from_fragments(surface, cameras, fragments, hide_back_faces=hide_back_faces)


def _available_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1
