"""Which rendering backends the tests compare here, and the reference's answers, computed once."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from datagen.render.backends import make_renderer

if TYPE_CHECKING:
    from datagen.render.protocol import Renderer

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
GPU_BACKENDS = [
    pytest.param("nvwarp-cuda", marks=[pytest.mark.gpu, needs_warp, needs_cuda]),
    pytest.param("nvdiffrast", marks=[pytest.mark.gpu, needs_warp, needs_cuda, needs_nvdiffrast]),
]


@cache
def renderer(name: str) -> Renderer:
    """Return a backend, the same one every time; Warp's devices are told apart by a suffix."""
    if name.startswith("nvwarp-"):
        from datagen.render.backends.nvwarp_backend import NvwarpRenderer

        return NvwarpRenderer("cuda:0" if name.endswith("cuda") else "cpu")
    return make_renderer(name, threads=1)
