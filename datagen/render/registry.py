"""Rendering backends by name."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.util import find_spec

from datagen.common.errors import CanonfaceError, DependencyError, InputError
from datagen.render.contract import Renderer

BACKENDS = ("numba", "open3d", "nvdiffrast", "nvwarp")


def make_renderer(name: str = "auto", threads: int | None = None) -> Renderer:
    """Return a backend.

    Parameters
    ----------
    name : str
        ``numba`` (CPU), ``open3d`` (CPU ray casting, the reference), ``nvwarp`` (NVIDIA Warp: CUDA, or the CPU where
        there is none, slower than numba), ``nvdiffrast`` (CUDA), or ``auto``; see :func:`resolve_backend`.
    threads : int or None
        Threads of the numba backend, by default one per core; pass 1 where many tasks already share the machine. The
        other backends manage their own.

    Raises
    ------
    datagen.common.errors.InputError
        If there is no backend of that name.
    datagen.common.errors.DependencyError
        If the backend's package, system library or device is missing.
    """
    name = resolve_backend(name)
    if name == "numba":
        from datagen.render.numba.renderer import NumbaRenderer

        return NumbaRenderer(threads)
    if name == "open3d":
        from datagen.render.open3d import Open3DRenderer

        return Open3DRenderer()
    if name == "nvdiffrast":
        return _nvdiffrast()
    if name == "nvwarp":
        return _nvwarp()
    raise InputError(
        f"there is no rendering backend {name!r}",
        f"auto or one of {', '.join(BACKENDS)}",
        "Set render.backend in the manifest",
    )


def resolve_backend(name: str) -> str:
    """Return the backend that ``auto`` means on this machine: what a GPU can do fastest, else numba; a name is itself.

    On a CUDA device it is nvdiffrast where that is installed, whose licence allows research use only, else nvwarp.
    """
    if name != "auto":
        return name
    if not _has_cuda_driver():
        return "numba"
    return "nvdiffrast" if _cuda_ready() else "nvwarp" if _warp_cuda_ready() else "numba"


def check_backend(name: str) -> None:
    """Refuse a backend that cannot work here, before anything long begins; nothing is compiled and no device taken.

    Raises
    ------
    datagen.common.errors.DependencyError
        As :func:`make_renderer`.
    """
    name = resolve_backend(name)
    if name == "nvwarp":
        _require_nvwarp()
    elif name == "nvdiffrast":
        _require_nvdiffrast()
    elif name == "open3d":
        make_renderer(name)


def backend_notes() -> dict[str, str]:
    """Return for ``auto`` and every backend whether it can be used here, and if not, what is missing."""
    notes = {}
    for name in ("auto", *BACKENDS):
        try:
            made = make_renderer(name)
        except CanonfaceError as error:
            notes[name] = str(error)
        else:
            device = getattr(made, "device", "cpu")
            notes[name] = f"here it is {made.name}" if name == "auto" else f"ready, on {device}"
    return notes


def _cuda_ready() -> bool:
    if find_spec("nvdiffrast") is None or find_spec("warp") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def _warp_cuda_ready() -> bool:
    # The driver is looked for first: starting Warp takes a second, and machines without a GPU need not wait for it.
    if find_spec("warp") is None or not _has_cuda_driver():
        return False
    import warp

    warp.config.log_level = warp.LOG_WARNING
    return bool(warp.is_cuda_available())


def _has_cuda_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


# One per process: their buffers lie on the device that all tasks of the process share.
@cache
def _nvwarp() -> Renderer:
    _require_nvwarp()
    from datagen.render.nvwarp.renderer import NvwarpRenderer

    return NvwarpRenderer()


@cache
def _nvdiffrast() -> Renderer:
    _require_nvdiffrast()
    from datagen.render.nvdiffrast import NvdiffrastRenderer

    return NvdiffrastRenderer()


def _require_nvwarp() -> None:
    if find_spec("warp") is None:
        raise DependencyError(
            "the nvwarp backend was asked for, but NVIDIA Warp is not installed",
            "the package warp-lang",
            "Install the extra nvwarp (pip install 'canonface[nvwarp]'), or set render.backend to numba",
        )


def _require_nvdiffrast() -> None:
    if find_spec("nvdiffrast") is None:
        raise DependencyError(
            "the nvdiffrast backend was asked for, but the package nvdiffrast is not installed",
            "nvdiffrast 0.4 and a CUDA build of torch",
            "It is on no package registry and its licence allows research use only: build it from its own sources "
            "(github.com/NVlabs/nvdiffrast) into this environment, or set render.backend to numba, which needs neither",
        )
    if find_spec("warp") is None:
        raise DependencyError(
            "the nvdiffrast backend was asked for, but NVIDIA Warp, whose kernels make its maps, is not installed",
            "the package warp-lang",
            "Install the extra nvwarp (pip install 'canonface[nvwarp]'), or set render.backend to numba",
        )
    if not _cuda_ready():
        raise DependencyError(
            "the nvdiffrast backend was asked for, but torch sees no CUDA device",
            "an NVIDIA GPU with its driver and a CUDA build of torch",
            "Check nvidia-smi and torch.cuda.is_available(), or set render.backend to numba",
        )
