"""Chunks out of a store: local files by ``pread`` on descriptors kept open, everything else by range reads."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import MissingObjectError, StorageError
from datagen.shards.chunks import ChunkError, ShardIndex, check_crc, decode_into, index_bytes, parse_index
from datagen.shards.chunks import plain_array as _plain_array
from datagen.shards.store import LocalStore, Store

_OPEN_FILES = 128
_CACHED_INDICES = 4096  # a few kB each at 64 samples a shard


@dataclass(frozen=True)
class Patience:
    """How often and how soon a refused read is tried again.

    Attributes
    ----------
    retries : int
        Tries after the first. A missing file is never tried again.
    wait_s : float
        Before the second try; doubled before each further one.
    """

    retries: int = 3
    wait_s: float = 0.1


class _Descriptor:
    """An open file, closed when the last thread lets go of it."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class ChunkReader:
    """Reads chunks from a store; may be shared by threads, pickles as its store.

    Parameters
    ----------
    store : Store
    patience : Patience

    Attributes
    ----------
    retried : int
        Reads that were tried again, so far.
    """

    def __init__(self, store: Store, patience: Patience = Patience()) -> None:
        self.store = store
        self.patience = patience
        self.retried = 0
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _Descriptor] = OrderedDict()
        self._indices: dict[str, ShardIndex] = {}

    def __reduce__(self) -> tuple[type[ChunkReader], tuple[Store, Patience]]:
        return type(self), (self.store, self.patience)

    def index(self, key: str, samples_per_shard: int) -> ShardIndex:
        """Return the index of a shard file, read once.

        Raises
        ------
        ChunkError
            If the file is missing, too short, or its index is damaged.
        StorageError
            If the store refuses.
        """
        found = self._indices.get(key)
        if found is None:
            if len(self._indices) >= _CACHED_INDICES:
                self._indices.clear()
            data = self._read(key, -index_bytes(samples_per_shard), None)
            found = self._indices[key] = parse_index(data, samples_per_shard)
        return found

    def sample_into(self, key: str, samples_per_shard: int, position: int, out: npt.NDArray[Any]) -> int:
        """Decompress one sample of a map array into ``out`` (contiguous, stored dtype); return the bytes read.

        Raises
        ------
        ChunkError
            If the chunk is absent or damaged.
        StorageError
            If the store refuses.
        """
        offset, length = self.index(key, samples_per_shard).of(position)
        data = self._read(key, offset, length)
        if len(data) != length:
            raise ChunkError(f"the shard file ends within the sample ({len(data)} of {length} bytes)")
        decode_into(check_crc(data, "sample"), out)
        return length

    def plain_array(self, key: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return an uncompressed chunk: the part of a small array that belongs to a shard.

        Raises
        ------
        ChunkError
            If it is missing or damaged.
        StorageError
            If the store refuses.
        """
        return _plain_array(self._patiently(key, None, None), dtype, shape)

    def _read(self, key: str, start: int, length: int | None) -> bytes:
        if not isinstance(self.store, LocalStore):
            return self._patiently(key, start, length)
        try:
            descriptor = self._open(self.store, key).number
            if length is None:
                size = os.fstat(descriptor).st_size
                length = min(size, -start)
                start = size - length
            return os.pread(descriptor, length, start)
        except FileNotFoundError:
            raise ChunkError("the shard file is missing") from None
        except OSError as error:
            raise ChunkError(str(error)) from None

    def _open(self, store: LocalStore, key: str) -> _Descriptor:
        with self._lock:
            found = self._files.get(key)
            if found is None:
                found = self._files[key] = _Descriptor(str(store.path(key)))
                if len(self._files) > _OPEN_FILES:
                    self._files.popitem(last=False)
            else:
                self._files.move_to_end(key)
            return found

    def _patiently(self, key: str, start: int | None, length: int | None) -> bytes:
        wait_s = self.patience.wait_s
        for attempt in range(self.patience.retries + 1):
            try:
                return self.store.read(key, start, length)
            except MissingObjectError:
                raise ChunkError("the file is missing") from None
            except StorageError:
                if attempt == self.patience.retries:
                    raise
            with self._lock:
                self.retried += 1
            time.sleep(wait_s)
            wait_s *= 2
        raise AssertionError("unreachable")
