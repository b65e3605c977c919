"""Compiled functions, kept on disk where no change of a source can leave them stale.

numba keeps a compiled function under a digest of its own file: a change in a function it calls, or in a constant it was
compiled with, goes unnoticed if that is in another file. So all kernels of this package lie in one folder named
after everything they are made of: each file with a kernel, what these import from ``datagen``, numba and Python. Any
change leads to another folder, and everything is compiled again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np

from datagen.common.user_cache import user_cache

PACKAGE = Path(__file__).parents[1]
_KERNEL = re.compile(rb"^\s*@(?:compiled|inlined)\b", re.MULTILINE)
_IMPORT = re.compile(rb"^from (datagen[\w.]*) import (\([^)]*\)|[^\n]*)|^import (datagen[\w.]*)", re.MULTILINE)
_NAME = "kernels"
# numba reads the folder from its configuration, which belongs to the process: it is ours only while we compile.
_configuration = threading.Lock()


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function on its first call: without the GIL, and with NumPy's rules for divisions by zero."""
    return _compiled(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function as :func:`compiled` does, and put its code into every kernel that calls it."""
    return _compiled(function, inline="always")


def outside(name: str, result: str, *arguments: str) -> Any:
    """Return a function of the C library, by its name and the names of its types, for compiled functions to call."""
    return numba.types.ExternalFunction(
        name, getattr(numba.types, result)(*(getattr(numba.types, a) for a in arguments))
    )


def _compiled(function: Callable[..., Any], **options: str) -> Any:
    folder = kernel_folder()
    with _configuration:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(folder or before)
        try:
            return numba.njit(nogil=True, cache=folder is not None, error_model="numpy", **options)(function)
        finally:
            numba.config.CACHE_DIR = before


@cache
def kernel_folder() -> Path | None:
    """Return the folder of this package's compiled kernels, made if missing; those of older sources are removed.

    It lies in ``NUMBA_CACHE_DIR`` if that is set, else beside the sources, else in the user's cache folder. None if
    nothing can be written: each process then compiles for itself.
    """
    wanted = numba.config.CACHE_DIR
    # Copies of the package that share a folder know their own kernels by where they are installed.
    place = hashlib.sha256(str(PACKAGE).encode()).hexdigest()[:8]
    for parent in [Path(wanted)] if wanted else [PACKAGE / "__pycache__", user_cache()]:
        folder = parent / f"{_NAME}-{place}-{source_digest(PACKAGE)[:16]}"
        if folder.is_dir() and os.access(folder, os.W_OK):
            return folder
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            for old in parent.glob(f"{_NAME}-{place}-*"):
                if old != folder:
                    shutil.rmtree(old, ignore_errors=True)
            return folder
    return None


def source_digest(package: Path) -> str:
    """Return a SHA-256 over what the kernels of a copy of this package (its folder ``datagen``) are compiled from."""
    files = _sources(package)
    sha = hashlib.sha256(f"{numba.__version__} {np.__version__} {sys.version}".encode())
    for path in sorted(files):
        sha.update(f"\0{path.relative_to(package).as_posix()}\0{len(files[path])}\0".encode() + files[path])
    return sha.hexdigest()


def _sources(package: Path) -> dict[Path, bytes]:
    """Return the files with kernels, and those of the package that they import, with their content."""
    found: dict[Path, bytes] = {}
    waiting = [(path, data) for path in package.rglob("*.py") if _KERNEL.search(data := path.read_bytes())]
    while waiting:
        path, data = waiting.pop()
        if path in found:
            continue
        found[path] = data
        for module, names, plain in _IMPORT.findall(data):
            base = package.parent.joinpath(*(module or plain).decode().split("."))
            # What is imported from a package may be one of its modules.
            for at in (base, *(base / name for name in re.findall(r"\w+", names.decode()))):
                places = at.with_suffix(".py"), at / "__init__.py"
                waiting += [(file, file.read_bytes()) for file in places if file not in found and file.is_file()]
    return found
