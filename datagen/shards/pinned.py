"""The records of an open dataset, held against the root document it was opened by: a dataset is what was opened."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import Protocol

from datagen.common.errors import MissingObjectError, ReplacedDatasetError
from datagen.shards.chunks import CRC_BYTES, ChunkError, MissingChunkError, index_bytes
from datagen.shards.growth import ShardUnit
from datagen.shards.ledger import RECORD_DIGITS, ShardRecord, record_digest, record_key, record_of, unit_files
from datagen.shards.metadata import ROOT_METADATA, array_of, attributes_of, is_map
from datagen.shards.plan import DatasetPlan
from datagen.shards.reads import StoreReads
from datagen.shards.schema import TEMPLATE

_CACHED_RECORDS = 512  # some ten kB each at 64 samples a shard


class Records(Protocol):
    """Where a reader finds the record of a shard."""

    def of(self, group: str, shard: int) -> ShardRecord:
        """Return the record of a shard; ChunkError if there is none to be trusted, StorageError."""
        ...

    def check_current(self) -> None:
        """Raise ReplacedDatasetError if what lies in the store is no longer what was opened."""
        ...


class GivenRecords:
    """Records in memory, of a dataset that has no root document yet."""

    def __init__(self, records: Mapping[str, ShardRecord]) -> None:
        self._records = records

    def of(self, group: str, shard: int) -> ShardRecord:
        """See :class:`Records`."""
        return self._records[ShardUnit(group, shard, 0, 0).name]

    def check_current(self) -> None:
        """See :class:`Records`."""


class PinnedRecords:
    """Reads records, each once, and compares them with the digests in the root document that was opened.

    Parameters
    ----------
    uuid : str
        Of the dataset that was opened.
    digests : str
        The root attribute ``records``.
    """

    def __init__(self, reads: StoreReads, plan: DatasetPlan, uuid: str, digests: str) -> None:
        self._reads, self._plan, self._uuid, self._digests = reads, plan, uuid, digests
        self._sizes, self._first, before = dict[tuple[str, str], int | None](), dict[str, int](), 0
        for group in plan.groups:
            for name, spec in plan.arrays(group).items():
                plain = plan.samples_per_shard * spec.sample_bytes(plan.sizes) + CRC_BYTES
                self._sizes[group, name] = None if is_map(spec) or group == TEMPLATE else plain
            self._first[group] = before
            before += len(plan.shards(group))
        if len(digests) != before * RECORD_DIGITS:
            raise ValueError(f"they name {len(digests) / RECORD_DIGITS:g} records for {before} shards")
        self._known: OrderedDict[tuple[str, int], ShardRecord] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, group: str, shard: int) -> ShardRecord:
        """See :class:`Records`."""
        with self._lock:
            found = self._known.get((group, shard))
            if found is not None:
                self._known.move_to_end((group, shard))
                return found
        found = self._read(self._plan.shards(group).unit(shard))
        with self._lock:
            self._known[group, shard] = found
            if len(self._known) > _CACHED_RECORDS:
                self._known.popitem(last=False)
        return found

    def check_current(self) -> None:
        """See :class:`Records`."""
        url = self._reads.store.url
        try:
            attributes = attributes_of(self._reads.document(ROOT_METADATA))
        except MissingObjectError:
            now = "removed, or is being replaced,", ""
        except ValueError:
            return  # a damaged root document tells nothing: what was found stays damage
        else:
            if attributes.get("uuid") == self._uuid:
                # The same shards may have been committed again, under other content keys.
                if isinstance(attributes.get("records"), str) and len(attributes["records"]) == len(self._digests):
                    self._digests = attributes["records"]
                return
            now = "replaced", f", now {attributes.get('uuid')}"
        raise ReplacedDatasetError(
            f"{url} was {now[0]} while it was open (uuid {self._uuid}{now[1]})",
            "the dataset that was opened, until it is closed",
            "Open it again",
        )

    def _read(self, unit: ShardUnit) -> ShardRecord:
        key = record_key(unit)
        try:
            data = self._reads.document(key)
        except MissingObjectError:
            raise MissingChunkError(f"{key} is missing") from None
        except ValueError as error:
            raise ChunkError(f"{key} cannot be used: {error}") from None
        if not self._named(unit, data):
            self.check_current()
            if not self._named(unit, data):
                raise ChunkError(f"{key} is not the record that the root document names")
        try:
            record = record_of(data, unit)
        except ValueError as error:
            raise ChunkError(f"{key} cannot be used: {error}") from None
        problem = self._problem(unit, record)
        if problem:
            raise ChunkError(f"{key} cannot be used: {problem}")
        return record

    def _named(self, unit: ShardUnit, data: bytes) -> bool:
        place = (self._first[unit.group] + unit.index) * RECORD_DIGITS
        return self._digests[place : place + RECORD_DIGITS] == record_digest(data)

    def _problem(self, unit: ShardUnit, record: ShardRecord) -> str:
        """Say what does not fit the plan; sizes first, before anything of such a size is read."""
        if record.encoding_digest != self._encoding_digest:
            return "it is of another plan"
        if set(record.files) != set(unit_files(unit, self._plan.arrays(unit.group))):
            return "it names other arrays than the dataset has"
        least = CRC_BYTES
        if unit.group != TEMPLATE:
            least = index_bytes(self._plan.samples_per_shard) + CRC_BYTES * unit.samples
        for key, file in record.files.items():
            size = self._sizes[array_of(key)]
            if file.bytes < least if size is None else file.bytes != size:
                return f"{key} cannot have {file.bytes} bytes"
        return ""

    @cached_property
    def _encoding_digest(self) -> str:
        return self._plan.encoding_digest
