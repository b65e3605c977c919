"""The user's cache folder, and arrays kept there that take long to make and follow from what they are named after."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.common.errors import InputError, StorageError
from datagen.common.files import atomic_write_bytes, npz_bytes, read_npz

if TYPE_CHECKING:
    import numpy.typing as npt

    Arrays = Mapping[str, npt.NDArray[Any]]


def user_cache() -> Path:
    """Return this program's folder in the user's cache, which need not exist: ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "canonface"


def kept_arrays(name: str, digest: str, make: Callable[[], Arrays]) -> Arrays:
    """Return arrays as ``make`` returns them, from the user's cache where they were made before.

    Parameters
    ----------
    name : str
        Of what they are; files of this name under another digest are removed.
    digest : str
        Hexadecimal, of everything they follow from: a file under it is believed.
    make : function
        Called where there is no such file, or none that can be read. What it returns is kept if the folder can be
        written; else each process makes its own.
    """
    path = user_cache() / f"{name}-{digest[:16]}.npz"
    with suppress(InputError):
        return read_npz(path, expected="a file of this program", fix="Remove it")
    arrays = make()
    with suppress(StorageError, OSError):
        atomic_write_bytes(path, npz_bytes(arrays, compress=False))
        for old in path.parent.glob(f"{name}-*.npz"):
            if old != path:
                old.unlink(missing_ok=True)
    return arrays
