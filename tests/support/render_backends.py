"""Which rendering backends the tests compare here, and the reference's answers, computed once."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest

from datagen.render.registry import make_renderer

if TYPE_CHECKING:
    from datagen.render.contract import Renderer

REFERENCE = "open3d"


def has_cuda() -> bool:
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


needs_cuda = pytest.mark.skipif(not has_cuda(), reason="needs a CUDA device")
needs_nvdiffrast = pytest.mark.skipif(find_spec("nvdiffrast") is None, reason="needs nvdiffrast")
needs_warp = pytest.mark.skipif(find_spec("warp") is None, reason="needs NVIDIA Warp")

CPU_BACKENDS = [pytest.param("numba"), pytest.param("nvwarp-cpu", marks=needs_warp)]
# The nvdiffrast backend with all but its rasteriser: numba, on vertices moved to nvdiffrast's grid, stands for it.
GRID_BACKENDS = [pytest.param("nvdiffrast-grid", marks=needs_warp)]
GPU_BACKENDS = [
    pytest.param("nvwarp-cuda", marks=[pytest.mark.gpu, needs_warp, needs_cuda]),
    pytest.param("nvdiffrast", marks=[pytest.mark.gpu, needs_warp, needs_cuda, needs_nvdiffrast]),
]


@cache
def renderer(name: str) -> Renderer:
    """Return a backend, the same one every time; Warp's devices are told apart by a suffix."""
    if name.startswith("nvwarp-"):
        from datagen.render.nvwarp.renderer import NvwarpRenderer

        return NvwarpRenderer("cuda:0" if name.endswith("cuda") else "cpu")
    if name == "nvdiffrast-grid":
        return stood_in()[0]
    return make_renderer(name, threads=1)


GRID = 16


def on_grid(vertices, camera):
    """Vertices moved so that they project to whole sixteenths of a pixel; those not ahead stay where they are."""
    pixels, z = camera.project(vertices)
    snapped = np.floor(pixels * GRID + 0.5) / GRID
    rays = np.column_stack([snapped, np.ones(len(z))]) @ np.linalg.inv(camera.K).T
    R, t = camera.world_to_camera[:3, :3], camera.world_to_camera[:3, 3]
    return np.where((z > 0.001)[:, None], (rays * z[:, None] - t) @ R, vertices)


class StandIn:
    """Answers as nvdiffrast would, on the CPU, in buffers rounded up to its tiles; notes how it was asked."""

    def __init__(self, snap=True):
        self.snap = snap
        self.asked = []

    def __call__(self, mesh, cameras):
        import torch

        from datagen.render.nvdiffrast import buffer_size

        self.asked.append([camera.name for camera in cameras])
        width, height = buffer_size(cameras)
        seen = torch.full((len(cameras), height, width), -1, dtype=torch.int32)
        for i, camera in enumerate(cameras):
            vertices = on_grid(mesh.vertices, camera) if self.snap else mesh.vertices
            face = renderer("numba").rasterise(vertices, mesh.faces, [camera])[0].face
            seen[i, : camera.height, : camera.width] = torch.from_numpy(face)
        return seen


def stood_in(**change):
    """Return the nvdiffrast backend on a stand-in, and that."""
    from datagen.render.nvdiffrast import NvdiffrastRenderer

    stand_in = StandIn(change.pop("snap", True))
    return NvdiffrastRenderer(nearest_faces=stand_in, device="cpu", **change), stand_in
