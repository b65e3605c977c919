"""Sending a finished dataset to an object store, or to another disk: verified, resumable, the root document last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from datagen.common.digests import FileDigest, digest_bytes
from datagen.common.errors import CorruptDatasetError, DatasetError, StorageError
from datagen.shards.contents import JOURNAL, Contents, Journal, contents, is_unfinished, refuse_strangers
from datagen.shards.dataset import Dataset, open_dataset
from datagen.shards.growth import ShardUnit
from datagen.shards.lease import LEASE, only_writer
from datagen.shards.ledger import digest_object, record_key, unit_files
from datagen.shards.metadata import ROOT_METADATA, plan_documents
from datagen.shards.store import LocalStore, ObjectStore, open_store
from datagen.shards.tools.place import refuse_inside

AT_ONCE = 8
Sent = tuple[bool, int]  # whether a file was put, and its length


@dataclass
class PublishReport:
    """What was sent.

    Attributes
    ----------
    uuid : str
        Of the dataset.
    sent, sent_bytes : int
        Files put by this run.
    kept, kept_bytes : int
        Files that were there already, with the right bytes.
    removed : int
        Files of a dataset that was replaced.
    """

    url: str
    uuid: str
    sent: int = 0
    sent_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    removed: int = 0

    def add(self, files: Sequence[Sent]) -> None:
        """Count files."""
        for put, length in files:
            if put:
                self.sent += 1
                self.sent_bytes += length
            else:
                self.kept += 1
                self.kept_bytes += length


def publish(
    source: str | Path,
    url: str | Path,
    *,
    replace: bool = False,
    at_once: int = AT_ONCE,
    on_shard: Callable[[ShardUnit], None] | None = None,
) -> PublishReport:
    """Copy a finished dataset to a store, so that readers there see all of it or nothing.

    Every file is compared with its record before it is sent, and the store's copy with what was sent. A shard's record
    follows its files, the root document everything: until then no reader opens the dataset. Run again after any
    interruption, it continues: files that are there with the right bytes are not sent again.

    Nobody else's file is removed or replaced: before anything is sent, every file at ``url`` has to be one of
    the dataset with its very bytes, or one that a root document and its records, or the journal of an interrupted
    push, name with these bytes. One push at a time writes at ``url``.

    Parameters
    ----------
    source : str or Path
        A finished dataset.
    url : str or Path
        ``s3://bucket/prefix``, or a folder.
    replace : bool
        Whether another dataset at ``url`` may be replaced.
    at_once : int
        Files of a shard that travel at a time; the order in which shards, records and the root follow is unchanged.
    on_shard : callable, optional
        Called after each shard, for progress.

    Raises
    ------
    DatasetError
        If ``url`` holds something else.
    CorruptDatasetError
        If a file of ``source`` is damaged; the shard is then not sent.
    StorageError
        If the store refuses, does not answer, or does not hold what it was sent; if another writes there.
    """
    dataset, target = open_dataset(source), open_store(url)
    if isinstance(target, LocalStore):
        refuse_inside(target, [dataset])
    new = contents(dataset)
    report = PublishReport(target.url, dataset.uuid)
    with only_writer(target) as check, ThreadPoolExecutor(at_once, "push") as pool:
        there = _Target(dataset, new, target, replace, pool)
        _Sending(dataset, new, there, pool, check, report).run(on_shard)
    return report


@dataclass(frozen=True)
class _Claims:
    """Files that may be removed: a key with this digest; put ``before`` this time, an object's length tells enough."""

    digests: Mapping[str, FileDigest]
    before: datetime | None


class _Target:
    """What is at the place a dataset is sent to; making it refuses whatever is not ours.

    Attributes
    ----------
    store : LocalStore or ObjectStore
    kept : set of key
        There with the right bytes.
    old : dict of key to FileDigest
        Of another dataset, to be removed or replaced.
    left : list of key
        Left by killed writes.
    finished : bool
        Whether the root document is there.
    journal : Journal or None
        Of a push that has not ended.
    """

    def __init__(
        self, dataset: Dataset, new: Contents, store: LocalStore | ObjectStore, replace: bool, pool: Executor
    ) -> None:
        self.store, self._dataset, self._new = store, dataset, new
        self._mine = new.digests()
        self._record = {
            key: record_key(unit)
            for unit in dataset.plan.units
            for key in unit_files(unit, dataset.plan.arrays(unit.group))
        }
        self._there = store.found()
        if isinstance(store, ObjectStore):
            self._there.pop(LEASE, None)
        self.journal = Journal.from_bytes(store.read(JOURNAL)) if JOURNAL in self._there else None
        root = store.read(ROOT_METADATA) if ROOT_METADATA in self._there else None
        self.finished = root == new.texts[ROOT_METADATA]
        self._claims = self._claimed(root, replace)
        self.kept: set[str] = set()
        self.old: dict[str, FileDigest] = {}
        # Records first: under one that is right, a shard file was compared when it was sent.
        keys = [key for key in self._there if key != JOURNAL or self.journal is None]
        for batch in ([k for k in keys if k not in new.shards], [k for k in keys if k in new.shards]):
            for key, found in zip(batch, pool.map(self._digest, batch), strict=True):
                if found is not None and found == self._mine.get(key):
                    self.kept.add(key)
                elif found is not None:
                    self.old[key] = found
        strange = [key for key in keys if key not in self.kept and key not in self.old]
        self.left = [
            key
            for key in strange
            if isinstance(store, LocalStore) and is_unfinished(key, partial(store.read, key), self._written)
        ]
        named = {key for claims in self._claims for key in claims.digests}.union(self._mine)
        refuse_strangers(store.url, set(strange).difference(self.left), named.__contains__, "push again")

    def journal_bytes(self) -> bytes:
        """Return the journal of this push."""
        return Journal(self._new.uuid, self._mine, self.old).to_bytes()

    def _claimed(self, root: bytes | None, replace: bool) -> list[_Claims]:
        """Return what may be removed; refuse another dataset that may not be replaced."""
        expected, fix = "an empty place, or the same dataset", "Choose another place, or pass --replace"
        claims = []
        if root is not None and not self.finished:
            try:
                opened = open_dataset(self.store)
            except DatasetError as error:
                raise DatasetError(
                    f"{self.store.url} holds something else, which is never replaced: {error.found}",
                    expected,
                    "Choose another place, or remove what is there",
                ) from None
            if opened.uuid != self._new.uuid and not replace:
                raise DatasetError(
                    f"{self.store.url} holds dataset {opened.uuid}; the dataset to be sent is {self._new.uuid}",
                    expected,
                    f"{fix} to have it replaced",
                )
            try:
                claims.append(_Claims(contents(opened).digests(), self._there[ROOT_METADATA].modified))
            except CorruptDatasetError as error:
                raise DatasetError(
                    f"{self.store.url} holds a damaged dataset, whose files cannot be told from others: {error.found}",
                    expected,
                    "Choose another place, or remove what is there",
                ) from None
        if self.journal is not None:
            if self.journal.uuid != self._new.uuid and not replace:
                raise DatasetError(
                    f"{self.store.url} holds parts of dataset {self.journal.uuid}, left by an interrupted push of "
                    f"another dataset; the one to be sent is {self._new.uuid}",
                    expected,
                    f"{fix} to have them replaced",
                )
            claims.append(_Claims(self.journal.replaces, self._there[JOURNAL].modified))
            claims.append(_Claims(self.journal.sends, None))
        return claims

    def _digest(self, key: str) -> FileDigest | None:
        """Return the digest of a file there if it is known to be ours or another dataset's."""
        found, mine = self._there[key], self._mine.get(key)
        if mine is not None and found.size == mine.bytes:
            if self._record.get(key) in self.kept:
                return mine
            if key in self._new.texts and _is_md5(found.tag, self._new.texts[key]):
                return mine
        wanted = [(claims.digests[key], claims.before) for claims in self._claims if key in claims.digests]
        wanted = [(digest, before) for digest, before in wanted if digest.bytes == found.size]
        for digest, before in wanted:
            if found.modified is not None and before is not None and found.modified < before:
                return digest
        if wanted or (mine is not None and mine.bytes == found.size):
            actual = digest_object(self.store, key)
            if actual == mine or any(actual == digest for digest, _ in wanted):
                return actual
        return None

    def _written(self, key: str) -> bytes | None:
        if key == JOURNAL:
            return self.journal_bytes()
        return self._dataset.store.read(key) if key in self._new.shards else self._new.texts.get(key)


@dataclass
class _Sending:
    """One push on its way."""

    dataset: Dataset
    new: Contents
    there: _Target
    pool: Executor
    check: Callable[[], None]
    report: PublishReport

    def run(self, on_shard: Callable[[ShardUnit], None] | None) -> None:
        """Send what is missing in its order, and remove what was replaced."""
        there = self.there
        if not there.finished:
            journal = there.journal_bytes()
            if there.journal is None or there.journal.to_bytes() != journal:
                self._put(JOURNAL, journal)
            # From here on nothing opens, until the new root document is there.
            if ROOT_METADATA in there.old:
                self._remove(ROOT_METADATA)
        for unit in self.dataset.plan.units:
            key = record_key(unit)
            if key in there.old:
                self._remove(key)
            self._all(
                [partial(self._send_file, name) for name in unit_files(unit, self.dataset.plan.arrays(unit.group))]
            )
            self._all([partial(self._send_text, key)])
            if on_shard is not None:
                on_shard(unit)
        self._all([partial(self._send_text, key) for key in plan_documents(self.dataset.plan)])
        for key in sorted(there.old.keys() - self.new.digests().keys()):
            self._remove(key)
            self.report.removed += 1
        for key in there.left:
            self._remove(key)
        if not there.finished or there.journal is not None:
            self._remove(JOURNAL)
        if not there.finished:
            self._all([partial(self._send_text, ROOT_METADATA)])

    def _all(self, work: Sequence[Callable[[], Sent]]) -> None:
        """Do all of it, several at a time; the first error counts, and what has not begun is left."""
        futures = [self.pool.submit(one) for one in work]
        try:
            self.report.add([future.result() for future in futures])
        finally:
            for future in futures:
                future.cancel()

    def _send_file(self, key: str) -> Sent:
        expected = self.new.shards[key]
        if key in self.there.kept:
            return False, expected.bytes
        data = self.dataset.store.read(key, 0, expected.bytes + 1)
        if digest_bytes(data) != expected:
            raise CorruptDatasetError(
                f"{self.dataset.url}/{key} is damaged: its bytes are not those of its record",
                "the bytes that were written",
                "Build again: damaged shards are rewritten",
            )
        return self._put(key, data)

    def _send_text(self, key: str) -> Sent:
        data = self.new.texts[key]
        return (False, len(data)) if key in self.there.kept else self._put(key, data)

    def _put(self, key: str, data: bytes) -> Sent:
        """Write a file and look whether the store holds it."""
        store = self.there.store
        self.check()
        store.write(key, data)
        if not _holds(store, key, data):
            # What this push has just put is known to be nobody else's now, and would not be when it is run again.
            self._remove(key)
            raise StorageError(
                f"{store.url}/{key} is not what was sent", "the bytes that were sent", "Run the same command again"
            )
        return True, len(data)

    def _remove(self, key: str) -> None:
        self.check()
        self.there.store.delete(key)


def _holds(store: LocalStore | ObjectStore, key: str, data: bytes) -> bool:
    """Whether a file of a store has these bytes; its MD5 answers where the store gives one, else it is read."""
    if isinstance(store, ObjectStore):
        size, tag = store.tag(key)
        if size != len(data):
            return False
        if _is_md5(tag, data):
            return True
    return store.read(key) == data


def _is_md5(tag: str, data: bytes) -> bool:
    return bool(tag) and tag == hashlib.md5(data, usedforsecurity=False).hexdigest()
