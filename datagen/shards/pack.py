"""Stored values to the bytes of a shard's files: prediction, compression, checksums, the index."""

from __future__ import annotations

import struct
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import google_crc32c  # the implementation zarr itself depends on
import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from datagen.common.errors import StorageError
from datagen.shards.chunks import EMPTY, ChunkError, check_crc
from datagen.shards.codec import ChunkCodec
from datagen.shards.growth import ShardUnit
from datagen.shards.metadata import is_map
from datagen.shards.plan import DatasetPlan
from datagen.shards.schema import TEMPLATE

_IN_FLIGHT = 1  # samples whose compression may lag behind


class ShardPacker:
    """Packs the samples of one shard as they come; compressed bytes alone are held, and a sample or two in flight.

    A thread compresses one sample while the caller makes the next; each is decompressed and compared at once.
    """

    def __init__(self, plan: DatasetPlan, unit: ShardUnit) -> None:
        # With threads Blosc lays blocks out in the order they finish: other bytes on each run.
        blosc.use_threads = False
        self._plan = plan
        # The template is there once: each of its arrays is one chunk, compressed.
        self._compressed = unit.group == TEMPLATE
        self._capacity = 1 if self._compressed else plan.samples_per_shard
        self._arrays = plan.arrays(unit.group)
        self._maps: dict[str, list[bytes]] = {}
        self._small: dict[str, npt.NDArray[Any]] = {}
        self._codecs: dict[str, ChunkCodec] = {}
        self._count = 0
        self._name = unit.name
        self._thread: ThreadPoolExecutor | None = None
        self._flying: deque[tuple[dict[str, npt.NDArray[Any]], Future[dict[str, bytes]]]] = deque()
        for name, spec in self._arrays.items():
            if is_map(spec):
                self._maps[name] = []
                self._codecs[name] = ChunkCodec.of(spec, plan.codecs, plan.image_error)
            else:
                dtype = np.dtype(spec.dtype).newbyteorder("<")
                self._small[name] = np.zeros((self._capacity, *spec.sample_shape(plan.sizes)), dtype)

    def add(self, row: dict[str, Any]) -> None:
        """Pack one sample.

        Parameters
        ----------
        row : mapping of array name to its stored integers, as ``encode_samples`` gives them

        Raises
        ------
        StorageError
            If the compressor does not give back what it was given.
        """
        stored = {name: np.ascontiguousarray(row[name], self._arrays[name].dtype) for name in self._maps}
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "pack")
        self._flying.append((stored, self._thread.submit(self._compress, stored)))
        self._enter(row)
        if len(self._flying) > _IN_FLIGHT:
            self._land()

    def add_packed(self, row: dict[str, Any], packed: dict[str, bytes]) -> None:
        """Take over one sample whose maps are packed already.

        Parameters
        ----------
        row : mapping of the name of every small array to its value
        packed : mapping of the name of every map array to its chunk, checksum included
        """
        self._finish()
        self._enter(row)
        for name, chunks in self._maps.items():
            chunks.append(packed[name])

    def file(self, name: str) -> bytes:
        """Return the whole file of one array, and forget its chunks; StorageError as :meth:`add`."""
        self._finish()
        if name in self._small:
            values = self._small.pop(name)
            if not self._compressed:
                return with_crc(values.tobytes())
            return with_crc(ChunkCodec.of(self._arrays[name], self._plan.codecs, 0).compress(values[0]))
        chunks = self._maps.pop(name)
        index, offset = [], 0
        for chunk in chunks:
            index += [offset, len(chunk)]
            offset += len(chunk)
        index += [EMPTY, EMPTY] * (self._capacity - len(chunks))
        return b"".join([*chunks, with_crc(struct.pack(f"<{len(index)}Q", *index))])

    def _enter(self, row: dict[str, Any]) -> None:
        for name, small in self._small.items():
            small[self._count] = row[name]
        self._count += 1

    def _compress(self, stored: dict[str, npt.NDArray[Any]]) -> dict[str, bytes]:
        return {name: with_crc(self._codecs[name].compress(values)) for name, values in stored.items()}

    def _land(self) -> None:
        """Take the oldest sample in flight and compare what it decodes to."""
        stored, future = self._flying.popleft()
        for name, packed in future.result().items():
            back = np.empty(stored[name].shape, self._arrays[name].dtype)
            try:
                self._codecs[name].decompress_into(check_crc(packed, "sample"), back)
                reason = "" if np.array_equal(back, stored[name]) else "other values"
            except ChunkError as error:
                reason = str(error)
            if reason:
                raise StorageError(
                    f"shard {self._name}, sample {len(self._maps[name])}: {name} does not decompress to what was "
                    f"compressed ({reason})",
                    "the same values",
                    "Check the memory of this machine",
                )
            self._maps[name].append(packed)

    def _finish(self) -> None:
        while self._flying:
            self._land()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


def with_crc(data: bytes) -> bytes:
    """Return bytes followed by their crc32c."""
    return data + int(google_crc32c.value(data)).to_bytes(4, "little")
