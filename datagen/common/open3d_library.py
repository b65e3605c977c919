"""Open3D, loaded when it is needed and without its plots: half of the second it takes is their web framework."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from datagen.common.errors import DependencyError

_PLOTS = "open3d.visualization.draw_plotly"
_PLOT_FUNCTIONS = ("get_plotly_fig", "draw_plotly", "draw_plotly_server")


def load_open3d() -> Any:
    """Return the package ``open3d``, whose type stubs are incomplete.

    Raises
    ------
    DependencyError
        If it or the system libraries it needs cannot be loaded.
    """
    loaded = sys.modules.get("open3d")
    # While another thread imports it, it is there in part: the import below waits for that thread.
    if loaded is not None and not getattr(getattr(loaded, "__spec__", None), "_initializing", False):
        return loaded
    try:
        with _plots_left_out():
            return import_module("open3d")
    except (ImportError, OSError) as error:
        raise DependencyError(
            f"Open3D cannot be loaded ({error})",
            "the package open3d (or open3d-cpu) and the libraries libusb-1.0-0, libgl1 and libegl1",
            "Install them with the system's package manager",
        ) from None


@contextlib.contextmanager
def _plots_left_out() -> Iterator[None]:
    """Have Open3D imported without ``plotly`` and ``dash``: its functions that need them import them when called."""
    if _PLOTS in sys.modules:
        yield
        return
    absent = ModuleType(_PLOTS)
    for name in _PLOT_FUNCTIONS:
        setattr(absent, name, _imported_when_called(name))
    sys.modules[_PLOTS] = absent
    try:
        yield
    finally:
        # Whoever asks for the module itself later gets the real one.
        if sys.modules.get(_PLOTS) is absent:
            del sys.modules[_PLOTS]


def _imported_when_called(name: str) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(import_module(_PLOTS), name)(*arguments, **options)

    return call
