"""The chunks of a shard: where they lie, and one checksum each; no event loop.

A second implementation beside zarr-python: it reads what zarr writes, names the sample that is damaged, and is safe in
any thread or worker process. It knows the layouts of format version 2 only; :mod:`datagen.shards.codec` decodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import google_crc32c  # the implementation zarr itself depends on
import numpy as np
import numpy.typing as npt

EMPTY = 2**64 - 1
CRC_BYTES = 4
_CRC_RESIDUE = 0x48674BC7


class ChunkError(ValueError):
    """A chunk is missing or its bytes are damaged; the reader turns it into a ``CorruptDatasetError``."""


class MissingChunkError(ChunkError):
    """A whole file is missing; the reader turns it into a ``MissingShardError``."""


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
    return samples_per_shard * 16 + CRC_BYTES


def parse_index(data: bytes, samples_per_shard: int, within: int) -> ShardIndex:
    """Read the index of a shard from the last bytes of its file.

    Parameters
    ----------
    within : int
        Bytes of the file before the index: no chunk reaches beyond them.

    Raises
    ------
    ChunkError
        If it is too short or damaged.
    """
    if len(data) != index_bytes(samples_per_shard):
        raise ChunkError(f"{len(data)} bytes are there of its index of {index_bytes(samples_per_shard)}")
    table = np.frombuffer(check_crc(data, "shard index"), "<u8").reshape(samples_per_shard, 2)
    written = table[table[:, 0] != EMPTY]
    if (written > within).any() or (written[:, 0] > within - written[:, 1]).any() or (written[:, 1] < CRC_BYTES).any():
        raise ChunkError("its index names bytes that the file does not have")
    return ShardIndex(tuple(table[:, 0].tolist()), tuple(table[:, 1].tolist()))


def check_crc(data: bytes, what: str) -> memoryview[int]:
    """Return ``data`` without its trailing crc32c.

    Raises
    ------
    ChunkError
        If the checksum disagrees.
    """
    # The crc32c of any bytes followed by their own crc32c is one constant: no copy without the last four is needed.
    if len(data) < CRC_BYTES or google_crc32c.value(data) != _CRC_RESIDUE:
        raise ChunkError(f"{what}: the crc32c checksum disagrees with the bytes")
    return memoryview(data)[:-CRC_BYTES]


def plain_array(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return the values of an uncompressed chunk with its checksum: the part of a small array of one shard.

    Raises
    ------
    ChunkError
        If it is damaged or of another length.
    """
    body = check_crc(data, "chunk")
    expected = math.prod(shape) * dtype.itemsize
    if len(body) != expected:
        raise ChunkError(f"{len(body)} bytes decoded, {expected} expected")
    # The disk is little-endian; on a big-endian machine the cast swaps.
    return np.frombuffer(body, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


def trailing_checksums(data: bytes, samples: int, samples_per_shard: int, *, indexed: bool) -> bytes:
    """Return the last four bytes of each chunk of a shard's file, in order of sample, then those of the file.

    Parameters
    ----------
    indexed : bool
        Whether the file holds a chunk a sample and an index; otherwise it is one chunk.
    """
    ends: list[int] = []
    if indexed:
        tail = index_bytes(samples_per_shard)
        index = parse_index(data[-tail:], samples_per_shard, len(data) - tail)
        ends = [sum(index.of(position)) for position in range(samples)]
    return b"".join(data[end - CRC_BYTES : end] for end in (*ends, len(data)))
