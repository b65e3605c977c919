"""Rasterising backends by name."""

from __future__ import annotations

from importlib.util import find_spec

from datagen.errors import DependencyError, InputError
from datagen.render.protocol import Rasteriser

BACKENDS = ("numba", "open3d", "nvdiffrast")


def make_rasteriser(name: str = "auto", threads: int | None = None) -> Rasteriser:
    """Return a backend.

    Parameters
    ----------
    name : str
        ``numba`` (CPU), ``open3d`` (CPU ray casting, the reference), ``nvdiffrast`` (CUDA), or ``auto``: nvdiffrast
        where it is installed and a CUDA device is present, else numba.
    threads : int or None
        Views the numba backend rasterises at a time, by default one per core; pass 1 where many tasks already share
        the machine. The other backends manage their own.

    Raises
    ------
    datagen.errors.InputError
        If there is no backend of that name.
    datagen.errors.DependencyError
        If the backend's package, system library or device is missing.
    """
    if name == "auto":
        name = "nvdiffrast" if _cuda_ready() else "numba"
    if name == "numba":
        from datagen.render.backends.numba_backend import NumbaRasteriser

        return NumbaRasteriser(threads)
    if name == "open3d":
        from datagen.render.backends.open3d_backend import Open3DRasteriser

        return Open3DRasteriser()
    if name == "nvdiffrast":
        return _nvdiffrast()
    raise InputError(
        f"there is no rendering backend {name!r}",
        f"auto or one of {', '.join(BACKENDS)}",
        "Set render.backend in the manifest",
    )


def _cuda_ready() -> bool:
    if find_spec("nvdiffrast") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def _nvdiffrast() -> Rasteriser:
    if find_spec("nvdiffrast") is None:
        raise DependencyError(
            "the nvdiffrast backend was asked for, but the package nvdiffrast is not installed",
            "nvdiffrast 0.4 and a CUDA build of torch",
            "It is on no package registry and its licence allows research use only: build it from its own sources "
            "(github.com/NVlabs/nvdiffrast) into this environment, or set render.backend to numba, which needs neither",
        )
    if not _cuda_ready():
        raise DependencyError(
            "the nvdiffrast backend was asked for, but torch sees no CUDA device",
            "an NVIDIA GPU with its driver and a CUDA build of torch",
            "Check nvidia-smi and torch.cuda.is_available(), or set render.backend to numba",
        )
    from datagen.render.backends.nvdiffrast_backend import NvdiffrastRasteriser

    return NvdiffrastRasteriser()
