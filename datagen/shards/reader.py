"""Reading the chunks of a dataset, each held against the record of its shard before it is trusted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CorruptDatasetError, MissingObjectError, MissingShardError
from datagen.shards.chunks import (
    CRC_BYTES,
    ChunkError,
    MissingChunkError,
    ShardIndex,
    check_crc,
    index_bytes,
    parse_index,
    plain_array,
)
from datagen.shards.codec import ChunkCodec
from datagen.shards.growth import ShardUnit
from datagen.shards.ledger import record_key
from datagen.shards.metadata import chunk_path, is_map
from datagen.shards.pinned import Records
from datagen.shards.plan import DatasetPlan
from datagen.shards.reads import StoreReads
from datagen.shards.schema import TEMPLATE
from datagen.shards.store import LocalStore

_CACHED_FILES = 4096  # a few kB each at 64 samples a shard


@dataclass(frozen=True)
class _ShardFile:
    """A map array's part of a shard: where its chunks lie, and the last four bytes of each."""

    key: str
    index: ShardIndex
    checksums: tuple[bytes, ...]


class ChunkReader:
    """Reads chunks and nothing but the chunks that the records name; may be shared by threads.

    A chunk of another sample, array, shard or dataset has another checksum than the record says: whatever was swapped
    is found at the first read of it.

    Every method raises

    - ``CorruptDatasetError``, naming split, array, shard, sample and file, if bytes are not those written;
      ``MissingShardError``, one of them, if a whole file is missing,
    - ``ReplacedDatasetError`` if that is so because another dataset lies there now, or none,
    - ``StorageError`` if the store refuses.
    """

    def __init__(self, reads: StoreReads, plan: DatasetPlan, records: Records) -> None:
        self._reads, self._plan, self._records = reads, plan, records
        self._per_shard = plan.samples_per_shard
        self._codecs = {
            (group, name): ChunkCodec.of(spec, plan.codecs, plan.image_error)
            for group in plan.groups
            for name, spec in plan.arrays(group).items()
            if is_map(spec)
        }
        self._files: dict[tuple[str, str, int], _ShardFile] = {}

    @property
    def is_local(self) -> bool:
        """Whether the files lie on a disk: then small reads cost next to nothing."""
        return isinstance(self._reads.store, LocalStore)

    def sample_into(self, group: str, name: str, i: int, out: npt.NDArray[Any]) -> int:
        """Decode one row of a map array into ``out`` (contiguous, stored dtype); return the bytes read."""
        shard, position = self._plan.shards(group).place(i)
        try:
            data = self._chunk(group, name, shard, position)
            self._codecs[group, name].decompress_into(memoryview(data)[:-CRC_BYTES], out)
        except (ChunkError, MissingObjectError) as error:
            raise self.damaged(group, shard, error, name, i) from None
        return len(data)

    def chunk(self, group: str, name: str, i: int) -> bytes:
        """Return one row of a map array as it is stored, compressed and with its checksum."""
        shard, position = self._plan.shards(group).place(i)
        try:
            return self._chunk(group, name, shard, position)
        except (ChunkError, MissingObjectError) as error:
            raise self.damaged(group, shard, error, name, i) from None

    def small(self, group: str, name: str, shard: int) -> npt.NDArray[Any]:
        """Return the part of a small array that belongs to a shard, (rows of a full one, ...)."""
        spec = self._plan.arrays(group)[name]
        shape = (1 if group == TEMPLATE else self._per_shard, *spec.sample_shape(self._plan.sizes))
        key = chunk_path(group, name, shard)
        try:
            record = self._records.of(group, shard)
            with self._of_length(key, record.files[key].bytes):
                data = self._reads.whole(key, record.files[key].bytes)
                if group == TEMPLATE:
                    values = np.empty(shape, spec.dtype)
                    ChunkCodec.of(spec, self._plan.codecs, 0).decompress_into(check_crc(data, "chunk"), values)
                else:
                    values = plain_array(data, np.dtype(spec.dtype), shape)
                _check_same(data, record.checksums[key], "the file")
        except (ChunkError, MissingObjectError) as error:
            raise self.damaged(group, shard, error, name) from None
        return values

    def wrong_checksums(self, unit: ShardUnit, name: str) -> Iterator[tuple[int | None, str]]:
        """Compare the last bytes of an array's chunks with the record, and read no chunk of a map.

        On a disk those of each chunk; elsewhere, where each would be a request, those of the index and the last one.

        Yields
        ------
        (sample or None, message) of what disagrees
        """
        if not is_map(self._plan.arrays(unit.group)[name]):
            try:
                self.small(unit.group, name, unit.index)
            except CorruptDatasetError as error:
                yield None, error.found
            return
        for i in range(unit.start if self.is_local else unit.stop - 1, unit.stop):
            try:
                file = self._file(unit.group, name, unit.index)
                end = sum(file.index.of(i - unit.start))
                _check_same(self._reads.part(file.key, end - CRC_BYTES, CRC_BYTES), file.checksums[i - unit.start])
            except (ChunkError, MissingObjectError) as error:
                yield i, self.damaged(unit.group, unit.index, error, name, i).found

    def damaged(
        self, group: str, shard: int, reason: str | Exception, name: str | None = None, sample: int | None = None
    ) -> CorruptDatasetError:
        """Return the error of damage, naming its place.

        Raises
        ------
        ReplacedDatasetError
            If it is no damage: another dataset lies there now, or none.
        """
        self._reads.forget(record_key(ShardUnit(group, shard, 0, 0)))
        place = f"split {group}, shard {shard}"
        if name is not None:
            self._reads.forget(chunk_path(group, name, shard))
            self._files.pop((group, name, shard), None)
            place = f"split {group}, array {name}, shard {shard}"
            place += "" if sample is None else f", sample {sample}"
            place += f" ({chunk_path(group, name, shard)})"
        self._records.check_current()
        missing = isinstance(reason, MissingObjectError | MissingChunkError)
        if isinstance(reason, MissingObjectError):
            reason = "the file is missing"
        return (MissingShardError if missing else CorruptDatasetError)(
            f"{self._reads.store.url} is damaged at {place}: {reason}",
            "the bytes that were written",
            "Run `datagen verify` for the whole list, then build again: damaged shards are rewritten",
        )

    def _chunk(self, group: str, name: str, shard: int, position: int) -> bytes:
        file = self._files.get((group, name, shard)) or self._file(group, name, shard)
        offset, length = file.index.of(position)
        data = self._reads.part(file.key, offset, length)
        if len(data) != length:
            raise ChunkError(f"the file ends within the sample ({len(data)} of {length} bytes)")
        check_crc(data, "sample")
        _check_same(data, file.checksums[position])
        return data

    def _file(self, group: str, name: str, shard: int) -> _ShardFile:
        found = self._files.get((group, name, shard))
        if found is None:
            record = self._records.of(group, shard)
            key, tail = chunk_path(group, name, shard), index_bytes(self._per_shard)
            within, sums = record.files[key].bytes - tail, record.checksums[key]
            with self._of_length(key, within + tail):
                data = self._reads.part(key, within, tail)
                index = parse_index(data, self._per_shard, within)
                _check_same(data, sums[-CRC_BYTES:], "the index")
            checksums = tuple(sums[k : k + CRC_BYTES] for k in range(0, len(sums) - CRC_BYTES, CRC_BYTES))
            if len(self._files) >= _CACHED_FILES:
                self._files.clear()
            found = self._files[group, name, shard] = _ShardFile(key, index, checksums)
        return found

    @contextmanager
    def _of_length(self, key: str, length: int) -> Iterator[None]:
        """Name the length of a file where it is the reason why what was read of it is wrong."""
        try:
            yield
        except ChunkError:
            found = self._reads.store.size(key)
            if found != length:
                raise ChunkError(f"the file has {found} bytes, its record says {length}") from None
            raise


def _check_same(data: bytes, checksum: bytes, what: str = "the sample") -> None:
    if data[-CRC_BYTES:] != checksum:
        raise ChunkError(f"{what} is another than the record of the shard names, though its bytes are whole")
