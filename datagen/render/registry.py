"""Rendering backends by name: a new one is a file of this folder and an entry of :data:`RENDERERS`."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from datagen.common.errors import CanonfaceError, DependencyError, InputError
from datagen.render.devices import device_names, held_device

if TYPE_CHECKING:
    from datagen.render.contract import Renderer


@dataclass(frozen=True)
class Package:
    """A package that a backend cannot do without, and what to say where it is missing.

    Attributes
    ----------
    module : str
        As it is imported.
    missing : str
        Ends the sentence "the ... backend was asked for, but".
    expected, fix : str
        As in :class:`datagen.common.errors.CanonfaceError`.
    """

    module: str
    missing: str
    expected: str
    fix: str


@dataclass(frozen=True)
class RendererEntry:
    """What is known of a backend before it is loaded.

    Attributes
    ----------
    target : str
        ``module:class``, imported when the backend is asked for.
    packages : tuple of Package
        Looked for in this order.
    torch_cuda : bool
        Whether torch must see a CUDA device.
    shared : bool
        One per process and device: its buffers lie on a device that tasks of the process share.
    devices : str
        ``module:function`` that returns how many CUDA devices it could use here; empty if it uses none.
    threads : bool
        Whether it takes a number of threads.
    system_libraries : bool
        Whether it needs libraries of the system, which only loading it shows.
    """

    target: str
    packages: tuple[Package, ...] = ()
    torch_cuda: bool = False
    shared: bool = False
    devices: str = ""
    threads: bool = False
    system_libraries: bool = False


_WARP_FIX = "Install the extra nvwarp (pip install 'canonface[nvwarp]'), or set render.backend to numba"

RENDERERS: dict[str, RendererEntry] = {
    "numba": RendererEntry("datagen.render.numba.renderer:NumbaRenderer", threads=True),
    "open3d": RendererEntry("datagen.render.open3d:Open3DRenderer", system_libraries=True),
    "nvdiffrast": RendererEntry(
        "datagen.render.nvdiffrast:NvdiffrastRenderer",
        packages=(
            Package(
                "nvdiffrast",
                "the package nvdiffrast is not installed",
                "nvdiffrast 0.4 and a CUDA build of torch",
                "It is on no package registry and its licence allows research use only: build it from its own sources "
                "(github.com/NVlabs/nvdiffrast) into this environment, or set render.backend to numba, which needs "
                "neither",
            ),
            Package(
                "warp",
                "NVIDIA Warp, whose kernels make its maps, is not installed",
                "the package warp-lang",
                _WARP_FIX,
            ),
        ),
        torch_cuda=True,
        shared=True,
        devices="datagen.render.nvdiffrast:cuda_devices",
    ),
    "nvwarp": RendererEntry(
        "datagen.render.nvwarp.renderer:NvwarpRenderer",
        packages=(Package("warp", "NVIDIA Warp is not installed", "the package warp-lang", _WARP_FIX),),
        shared=True,
        devices="datagen.render.nvwarp.renderer:cuda_devices",
    ),
}


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
    entry = _entry(name)
    return _shared(name) if entry.shared else _made(name, threads)


@contextmanager
def held_renderer(name: str = "auto") -> Iterator[Renderer]:
    """Give a task a backend; of several CUDA devices, one on a device that nobody else holds meanwhile.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        As :func:`make_renderer`.
    """
    name = resolve_backend(name)
    _require(name)
    entry = _entry(name)
    count = resolve_name(entry.devices)() if entry.devices else 0
    if count < 2:
        yield make_renderer(name)
        return
    with held_device(device_names(count)) as number:
        yield _shared(name, f"cuda:{number}")


def resolve_backend(name: str) -> str:
    """Return the backend that ``auto`` means on this machine: what a GPU can do fastest, else numba; a name is itself.

    On a CUDA device it is nvdiffrast where that is installed, whose licence allows research use only, else nvwarp.
    """
    if name != "auto":
        return name
    if not _has_cuda_driver():
        return "numba"
    return "nvdiffrast" if _nvdiffrast_ready() else "nvwarp" if _warp_cuda_ready() else "numba"


def check_backend(name: str) -> None:
    """Refuse a backend that cannot work here, before anything long begins; nothing is compiled and no device taken.

    Raises
    ------
    datagen.common.errors.DependencyError
        As :func:`make_renderer`.
    """
    name = resolve_backend(name)
    _require(name)
    if _entry(name).system_libraries:
        make_renderer(name)


def _entry(name: str) -> RendererEntry:
    entry = RENDERERS.get(name)
    if entry is None:
        raise InputError(
            f"there is no rendering backend {name!r}",
            f"auto or one of {', '.join(RENDERERS)}",
            "Set render.backend in the manifest",
        )
    return entry


def backend_notes() -> dict[str, str]:
    """Return for ``auto`` and every backend whether it can be used here, and if not, what is missing."""
    notes = {}
    for name in ("auto", *RENDERERS):
        try:
            made = make_renderer(name)
        except CanonfaceError as error:
            notes[name] = str(error)
        else:
            device = getattr(made, "device", "cpu")
            notes[name] = f"here it is {made.name}" if name == "auto" else f"ready, on {device}"
    return notes


@cache
def _shared(name: str, device: str | None = None) -> Renderer:
    return _made(name, None, device)


def _require(name: str) -> None:
    """Refuse a backend whose packages or device are missing."""
    entry = _entry(name)
    for package in entry.packages:
        if find_spec(package.module) is None:
            raise DependencyError(
                f"the {name} backend was asked for, but {package.missing}", package.expected, package.fix
            )
    if entry.torch_cuda and not _torch_sees_cuda():
        raise DependencyError(
            f"the {name} backend was asked for, but torch sees no CUDA device",
            "an NVIDIA GPU with its driver and a CUDA build of torch",
            "Check nvidia-smi and torch.cuda.is_available(), or set render.backend to numba",
        )


def _made(name: str, threads: int | None, device: str | None = None) -> Renderer:
    """Make a backend, after looking for what it needs; on the device that it takes by itself unless one is named."""
    _require(name)
    entry = _entry(name)
    renderer = resolve_name(entry.target)
    named = {} if device is None else {"device": device}
    backend: Renderer = renderer(threads) if entry.threads else renderer(**named)
    return backend


def _torch_sees_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _nvdiffrast_ready() -> bool:
    packages = RENDERERS["nvdiffrast"].packages
    return all(find_spec(package.module) is not None for package in packages) and _torch_sees_cuda()


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
