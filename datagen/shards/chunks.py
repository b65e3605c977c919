"""Reading single chunks of a shard: one seek, one checksum, one decompression, no event loop.

A second implementation beside zarr-python: it reads what zarr writes, names the sample that is damaged, and is safe
in any worker process. It knows the layouts of format version 1 only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import google_crc32c  # the implementation zarr itself depends on
import numpy as np
import numpy.typing as npt
from numcodecs import Blosc

EMPTY = np.uint64(2**64 - 1)
_CRC_BYTES = 4
_BLOSC = Blosc()


class ChunkError(ValueError):
    """A chunk is missing or its bytes are damaged; the reader turns it into a ``CorruptDatasetError``."""


@dataclass(frozen=True)
class ShardIndex:
    """Where the inner chunks of a shard file lie: offsets and lengths in bytes, (S,) uint64 each."""

    offsets: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.uint64]


def check_crc(data: bytes, what: str) -> bytes:
    """Return ``data`` without its trailing crc32c.

    Raises
    ------
    ChunkError
        If the checksum disagrees.
    """
    if len(data) < _CRC_BYTES or google_crc32c.value(data[:-_CRC_BYTES]) != int.from_bytes(
        data[-_CRC_BYTES:], "little"
    ):
        raise ChunkError(f"{what}: the crc32c checksum disagrees with the bytes")
    return data[:-_CRC_BYTES]


def read_index(path: str, samples_per_shard: int) -> ShardIndex:
    """Read the index at the end of a shard file.

    Raises
    ------
    ChunkError
        If the file is missing, too short, or the index is damaged.
    """
    size = samples_per_shard * 16 + _CRC_BYTES
    try:
        with open(path, "rb", buffering=0) as file:
            length = file.seek(0, os.SEEK_END)
            if length < size:
                raise ChunkError(f"the shard file has {length} bytes, less than its index of {size}")
            file.seek(length - size)
            data = check_crc(file.read(size), "shard index")
    except FileNotFoundError:
        raise ChunkError("the shard file is missing") from None
    table = np.frombuffer(data, "<u8").reshape(samples_per_shard, 2)
    return ShardIndex(table[:, 0], table[:, 1])


def read_inner_chunk(
    path: str, index: ShardIndex, position: int, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """Read one sample of a map array.

    Parameters
    ----------
    path : str
        The shard file.
    index : ShardIndex
    position : int
        Place of the sample in the shard.
    dtype, shape
        Of the sample.

    Raises
    ------
    ChunkError
        If the chunk is absent or damaged.
    """
    offset, length = index.offsets[position], index.lengths[position]
    if offset == EMPTY:
        raise ChunkError("the sample was never written")
    with open(path, "rb", buffering=0) as file:
        data = os.pread(file.fileno(), int(length), int(offset))
    if len(data) != length:
        raise ChunkError(f"the shard file ends within the sample ({len(data)} of {length} bytes)")
    compressed = check_crc(data, "sample")
    try:
        decoded = _BLOSC.decode(compressed)
    except (RuntimeError, ValueError) as error:
        raise ChunkError(f"the sample does not decompress: {error}") from None
    return _as_array(decoded, dtype, shape)


def read_plain_chunk(path: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Read one uncompressed chunk with its checksum: the part of a small array that belongs to a shard.

    Raises
    ------
    ChunkError
        If it is missing or damaged.
    """
    try:
        with open(path, "rb") as file:
            data = check_crc(file.read(), "chunk")
    except FileNotFoundError:
        raise ChunkError("the chunk file is missing") from None
    return _as_array(data, dtype, shape)


def _as_array(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    expected = int(np.prod(shape)) * dtype.itemsize
    if len(data) != expected:
        raise ChunkError(f"{len(data)} bytes decoded, {expected} expected")
    # The disk is little-endian; on a big-endian machine the cast swaps.
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)
