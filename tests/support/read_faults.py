"""A disk that refuses to read: an error at a chosen one of the system calls that look at a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CALLS = ("open", "pread", "fstat", "stat", "scandir")


class ReadFaults:
    """Counts the calls that read below a folder, and refuses some of them.

    Parameters
    ----------
    code : int
        The ``errno`` of the refusal.
    at : int
        The first call that is refused, from 1; 0 refuses none.
    times : int
        How many are refused from there on.
    """

    def __init__(self, below: Path, code: int = 0, at: int = 0, times: int = 1) -> None:
        self.count = 0
        self._below, self._code, self._at, self._times = str(below), code, at, times

    def watch(self, real: Any) -> Any:
        """Return a system call that may be refused."""

        def call(target: Any, *rest: Any, **options: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
            if isinstance(path, str) and path.startswith(self._below):
                self.count += 1
                if self._at and self._at <= self.count < self._at + self._times:
                    raise OSError(self._code, os.strerror(self._code), path)
            return real(target, *rest, **options)

        return call


@contextmanager
def read_faults(below: Path, code: int = 0, at: int = 0, times: int = 1) -> Iterator[ReadFaults]:
    """Refuse reads within the block; see :class:`ReadFaults`."""
    faults = ReadFaults(below, code, at, times)
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, faults.watch(getattr(os, name)))
        patch.setattr("datagen.shards.reads._WAITS_S", (0.0, 0.0))
        yield faults
