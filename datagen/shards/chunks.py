"""The chunks of a shard: where they lie, how they are read, one checksum, one decompression, no event loop.

Local files are read by ``pread`` on descriptors kept open, everything else by range reads.

A second implementation beside zarr-python: it reads what zarr writes, names the sample that is damaged, decompresses
into memory the caller owns, and is safe in any thread or worker process. It knows the layouts of format version 1 only.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import google_crc32c  # the implementation zarr itself depends on
import numpy as np
import numpy.typing as npt
from numcodecs import Blosc

from datagen.common.errors import MissingObjectError
from datagen.shards.store import LocalStore, Store

EMPTY = 2**64 - 1
_CRC_BYTES = 4
_CRC_RESIDUE = 0x48674BC7
_BLOSC = Blosc()
_NATIVE_IS_LITTLE = sys.byteorder == "little"
_OPEN_FILES = 128
_CACHED_INDICES = 4096  # a few kB each at 64 samples a shard
_BLOSC_HEADER = struct.Struct("<4xIII")  # versions and flags, then bytes decompressed, of a block, compressed


class ChunkError(ValueError):
    """A chunk is missing or its bytes are damaged; the reader turns it into a ``CorruptDatasetError``."""


@dataclass(frozen=True)
class ShardIndex:
    """Where the inner chunks of a shard file lie: offsets and lengths in bytes, S each."""

    offsets: tuple[int, ...]
    lengths: tuple[int, ...]

    def of(self, position: int) -> tuple[int, int]:
        """Return offset and length of a sample's chunk.

        Raises
        ------
        ChunkError
            If there is none.
        """
        if self.offsets[position] == EMPTY:
            raise ChunkError("the sample was never written")
        return self.offsets[position], self.lengths[position]


def index_bytes(samples_per_shard: int) -> int:
    """Return the length of the index at the end of a shard file."""
    return samples_per_shard * 16 + _CRC_BYTES


def parse_index(data: bytes, samples_per_shard: int) -> ShardIndex:
    """Read the index of a shard from the last bytes of its file.

    Raises
    ------
    ChunkError
        If it is too short or damaged.
    """
    if len(data) < index_bytes(samples_per_shard):
        raise ChunkError(
            f"the shard file has {len(data)} bytes, less than its index of {index_bytes(samples_per_shard)}"
        )
    table = np.frombuffer(check_crc(data, "shard index"), "<u8").reshape(samples_per_shard, 2)
    return ShardIndex(tuple(table[:, 0].tolist()), tuple(table[:, 1].tolist()))


def check_crc(data: bytes, what: str) -> memoryview[int]:
    """Return ``data`` without its trailing crc32c.

    Raises
    ------
    ChunkError
        If the checksum disagrees.
    """
    # The crc32c of any bytes followed by their own crc32c is one constant: no copy without the last four is needed.
    if len(data) < _CRC_BYTES or google_crc32c.value(data) != _CRC_RESIDUE:
        raise ChunkError(f"{what}: the crc32c checksum disagrees with the bytes")
    return memoryview(data)[:-_CRC_BYTES]


def decode_into(compressed: memoryview[int], out: npt.NDArray[Any]) -> None:
    """Decompress one sample of a map array into ``out``, which is contiguous and of the stored dtype.

    Raises
    ------
    ChunkError
        If the bytes do not decompress to exactly ``out``.
    """
    if len(compressed) < _BLOSC_HEADER.size:
        raise ChunkError(f"the sample does not decompress: {len(compressed)} bytes are not a Blosc frame")
    # Blosc itself would fill a part of a larger buffer and say nothing.
    decompressed, _, length = _BLOSC_HEADER.unpack_from(compressed)
    if decompressed != out.nbytes:
        raise ChunkError(f"{decompressed} bytes decoded, {out.nbytes} expected")
    if length != len(compressed):
        raise ChunkError(f"the sample does not decompress: a frame of {length} bytes in a chunk of {len(compressed)}")
    try:
        _BLOSC.decode(compressed, out=out)
    except (RuntimeError, ValueError) as error:
        raise ChunkError(f"the sample does not decompress: {error}") from None
    if not _NATIVE_IS_LITTLE:
        out.byteswap(inplace=True)


def plain_array(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return the values of an uncompressed chunk with its checksum: the part of a small array of one shard.

    Raises
    ------
    ChunkError
        If it is damaged or of another length.
    """
    body = check_crc(data, "chunk")
    expected = int(np.prod(shape)) * dtype.itemsize
    if len(body) != expected:
        raise ChunkError(f"{len(body)} bytes decoded, {expected} expected")
    # The disk is little-endian; on a big-endian machine the cast swaps.
    return np.frombuffer(body, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


class _Descriptor:
    """An open file, closed when the last thread lets go of it."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class ChunkReader:
    """Reads chunks from a store; may be shared by threads, pickles as its store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _Descriptor] = OrderedDict()
        self._indices: dict[str, ShardIndex] = {}

    def __reduce__(self) -> tuple[type[ChunkReader], tuple[Store]]:
        return type(self), (self.store,)

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
        return plain_array(self._requested(key, None, None), dtype, shape)

    def _read(self, key: str, start: int, length: int | None) -> bytes:
        if not isinstance(self.store, LocalStore):
            return self._requested(key, start, length)
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

    def _requested(self, key: str, start: int | None, length: int | None) -> bytes:
        # A store's client repeats by itself what was refused or cut off.
        try:
            return self.store.read(key, start, length)
        except MissingObjectError:
            raise ChunkError("the file is missing") from None
