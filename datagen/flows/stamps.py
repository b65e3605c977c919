"""Size, modification time and inode of many files at once.

A build looks at three files of every frame. Of a million frames, most of the time would go into making Python's objects
of paths and answers; compiled code asks the system with neither.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.compiled import compiled, outside

_statx = outside("statx", "int32", "int32", "intp", "int32", "uint32", "intp")
_NOTHING = np.uint64(2**64 - 1)
_NS = np.uint64(10**9)
_LOW = np.uint64(2**32 - 1)


def can_ask() -> bool:
    """Whether this system has what the compiled code calls, and lays it out as that reads it."""
    return sys.platform == "linux" and sys.byteorder == "little" and hasattr(ctypes.CDLL(None), "statx")


def stamps_of(root: Path, paths: bytes, count: int) -> npt.NDArray[np.uint64]:
    """Return size in bytes, modification time in ns and inode of files, (N, 3) uint64; all ones of a missing one.

    Parameters
    ----------
    root : Path
        Where paths begin that begin nowhere.
    paths : bytes
        Each with a zero after it.
    count : int
        How many.
    """
    found = np.full((count, 3), _NOTHING)
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return found
    try:
        _ask(np.frombuffer(paths, np.uint8), folder, found)
    finally:
        os.close(folder)
    return found


@compiled
def _ask(paths: npt.NDArray[np.uint8], folder: int, found: npt.NDArray[np.uint64]) -> None:
    told = np.zeros(32, np.uint64)  # struct statx, 256 bytes
    at = 0
    for number in range(len(found)):
        if _statx(folder, paths.ctypes.data + at, 0, 0x7FF, told.ctypes.data) == 0:
            found[number, 0] = told[5]
            found[number, 1] = told[14] * _NS + (told[15] & _LOW)
            found[number, 2] = told[4]
        while paths[at] != 0:
            at += 1
        at += 1
