"""Memory that batches are read into: reused as soon as nobody holds it any more."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.files import storage_errors

Memory = npt.NDArray[np.uint8]
# Called with whole pages that nothing else lies in; what it returns, if anything, is called before they are freed.
Pin = Callable[[Memory], Callable[[], object] | None]

_ALIGNMENT = 64


@dataclass(frozen=True)
class Place:
    """Where the arrays of a batch lie in a block of memory.

    Attributes
    ----------
    arrays : mapping of name to (offset in bytes, shape, dtype)
    """

    arrays: Mapping[str, tuple[int, tuple[int, ...], str]]
    nbytes: int

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> Place:
        """Lay arrays out one after another."""
        arrays, end = {}, 0
        for name, (shape, dtype) in shapes.items():
            arrays[name] = (end, shape, dtype)
            end += -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
        return cls(arrays, max(end, _ALIGNMENT))

    def views(self, memory: Memory) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays as views of the memory."""
        return {
            name: memory[offset : offset + int(np.prod(shape)) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
            for name, (offset, shape, dtype) in self.arrays.items()
        }


class Block:
    """A piece of memory; ``path`` is where another process opens it, if it is shared."""

    def __init__(self, nbytes: int, *, shared: bool) -> None:
        self.path: str | None = None
        self._file: int | None = None
        nbytes = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        if not shared:
            whole = np.empty(nbytes + mmap.PAGESIZE, np.uint8)
            begin = -whole.ctypes.data % mmap.PAGESIZE
            self.memory: Memory = whole[begin : begin + nbytes]
            return
        if hasattr(os, "memfd_create"):
            # No name in any folder: nothing is left behind, however the process ends; not bounded by /dev/shm.
            self._file = os.memfd_create("canonface", os.MFD_CLOEXEC)
            self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        else:
            self._file, self.path = tempfile.mkstemp(prefix="canonface-stream-")
            weakref.finalize(self, os.unlink, self.path)
        os.ftruncate(self._file, nbytes)
        self.memory = np.frombuffer(mmap.mmap(self._file, nbytes), np.uint8)
        weakref.finalize(self, os.close, self._file)


def open_block(path: str, nbytes: int) -> Memory:
    """Open the memory of another process's :class:`Block`."""
    with open(path, "r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), nbytes), np.uint8)


class _Lease:
    """Stands between a block and the arrays made of it: when the last of them goes, so does the lease."""

    def __init__(self, memory: Memory) -> None:
        self.__array_interface__ = memory.__array_interface__


class Buffers:
    """Blocks of memory lent out and taken back; safe for threads.

    Parameters
    ----------
    shared : bool
        Whether other processes are to write into them.
    pin : callable, optional
        Called once with the memory of each new block, for example to lock its pages; it may return what undoes that.
    """

    def __init__(self, *, shared: bool = False, pin: Pin | None = None) -> None:
        self._shared, self._pin = shared, pin
        self._free: list[Block] = []
        # Blocks come back in the middle of anything, also of this class's own work in the same thread.
        self._lock = threading.RLock()
        self.made = 0

    def lend(self, nbytes: int) -> tuple[Block, Memory]:
        """Return a block of at least ``nbytes``, and its memory; when no view of that is left the block comes back."""
        with self._lock:
            fitting = [k for k, block in enumerate(self._free) if len(block.memory) >= nbytes]
            block = self._free.pop(min(fitting, key=lambda k: len(self._free[k].memory))) if fitting else None
        if block is None:
            try:
                with storage_errors(f"making room for {nbytes:,} bytes of batches"):
                    block = Block(nbytes, shared=self._shared)
            except MemoryError:
                raise InputError(
                    f"a batch of {nbytes:,} bytes does not fit the memory", "one that does", "Use fewer frames a batch"
                ) from None
            self.made += 1
            undo = None if self._pin is None else self._pin(block.memory)
            if undo is not None:
                weakref.finalize(block, undo).atexit = False
        lease = _Lease(block.memory)
        weakref.finalize(lease, self._take_back, block).atexit = False
        return block, np.asarray(lease)

    def _take_back(self, block: Block) -> None:
        with self._lock:
            self._free.append(block)
