"""Sending a finished dataset to an object store, or to another disk: verified, resumable, the root document last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datagen.common.digests import FileDigest
from datagen.common.errors import CorruptDatasetError, DatasetError, MissingObjectError, StorageError
from datagen.shards.dataset import Dataset, open_dataset
from datagen.shards.ledger import RECORDS, read_record, record_key, unit_files
from datagen.shards.metadata import ROOT_METADATA, plan_documents
from datagen.shards.plan import ShardUnit
from datagen.shards.schema import FORMAT, SPLITS
from datagen.shards.store import ObjectStore, Store, open_store

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
        If the store refuses, does not answer, or does not hold what it was sent.
    """
    dataset, target = open_dataset(source), open_store(url)
    report = PublishReport(target.url, dataset.uuid)
    root = dataset.store.read(ROOT_METADATA)
    there = set(target.list())
    _refuse_others(dataset, target, there, replace)
    finished = ROOT_METADATA in there and target.read(ROOT_METADATA) == root
    if not finished:
        target.delete(ROOT_METADATA)
    with ThreadPoolExecutor(at_once, "push") as pool:
        for unit in dataset.plan.units:
            _send_shard(pool, dataset, target, unit, there, report)
            if on_shard is not None:
                on_shard(unit)
        documents = plan_documents(dataset.plan).items()
        report.add(_all(pool, [partial(_send, target, key, data, there) for key, data in documents]))
    for key in sorted(there - set(_keys(dataset))):
        target.delete(key)
        report.removed += 1
    if not finished:
        report.add([_send(target, ROOT_METADATA, root, there - {ROOT_METADATA})])
    return report


def _keys(dataset: Dataset) -> Iterator[str]:
    yield ROOT_METADATA
    yield from plan_documents(dataset.plan)
    for unit in dataset.plan.units:
        yield record_key(unit)
        yield from unit_files(unit)


def _refuse_others(dataset: Dataset, target: Store, there: set[str], replace: bool) -> None:
    foreign = sorted(key for key in there if key != ROOT_METADATA and key.partition("/")[0] not in {*SPLITS, RECORDS})
    if foreign:
        raise DatasetError(
            f"{target.url} holds {foreign[0]}, which belongs to no dataset", "an empty prefix", "Choose another URL"
        )
    if replace:
        return
    if ROOT_METADATA in there:
        try:
            attributes = json.loads(target.read(ROOT_METADATA))["attributes"]
            kind, uuid = attributes.get("format"), attributes.get("uuid")
        except (ValueError, KeyError, AttributeError):
            kind, uuid = None, None
        if kind != FORMAT or uuid != dataset.uuid:
            what = f"dataset {uuid}" if kind == FORMAT else "something else"
            raise DatasetError(
                f"{target.url} holds {what}; the dataset to be sent is {dataset.uuid}",
                "an empty prefix, or the same dataset",
                "Choose another URL, or pass --replace to have it replaced",
            )
    for unit in dataset.plan.units:
        key = record_key(unit)
        if key in there and target.read(key) != dataset.store.read(key):
            raise DatasetError(
                f"{target.url} holds another {unit.name}, left by an interrupted push of another dataset",
                "an empty prefix, or the same dataset",
                "Choose another URL, or pass --replace to have it replaced",
            )


def _send_shard(
    pool: Executor, dataset: Dataset, target: Store, unit: ShardUnit, there: set[str], report: PublishReport
) -> None:
    record, key = read_record(dataset.store, unit), record_key(unit)
    text = dataset.store.read(key)
    done = key in there and target.read(key) == text
    if key in there and not done:
        target.delete(key)
        there.discard(key)
    files = record.files.items()
    report.add(_all(pool, [partial(_send_file, dataset, target, name, sha, there, done) for name, sha in files]))
    report.add([_send(target, key, text, there)])


def _all(pool: Executor, work: Sequence[Callable[[], Sent]]) -> list[Sent]:
    """Do all of it, several at a time; the first error counts, and what has not begun is left."""
    futures = [pool.submit(one) for one in work]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


def _send_file(dataset: Dataset, target: Store, name: str, expected: FileDigest, there: set[str], done: bool) -> Sent:
    # Under its record a file was verified when it was sent: its length tells enough.
    if done and _size(target, name) == expected.bytes:
        return False, expected.bytes
    data = dataset.store.read(name, 0, expected.bytes + 1)
    if FileDigest(hashlib.sha256(data).hexdigest(), len(data)) != expected:
        raise CorruptDatasetError(
            f"{dataset.url}/{name} is damaged: its bytes are not those of its record",
            "the bytes that were written",
            "Build again: damaged shards are rewritten",
        )
    return _send(target, name, data, there)


def _size(target: Store, key: str) -> int:
    try:
        return target.size(key)
    except MissingObjectError:
        return -1


def _send(target: Store, key: str, data: bytes, there: set[str]) -> Sent:
    """Put a file unless it is there; say whether it was put, and its length."""
    if key in there and _holds(target, key, data):
        return False, len(data)
    target.write(key, data)
    if not _holds(target, key, data):
        raise StorageError(
            f"{target.url}/{key} is not what was sent", "the bytes that were sent", "Run the same command again"
        )
    return True, len(data)


def _holds(target: Store, key: str, data: bytes) -> bool:
    """Whether a file of a store has these bytes; its MD5 answers where the store gives one, else it is read."""
    if isinstance(target, ObjectStore):
        size, tag = target.tag(key)
        if size != len(data):
            return False
        if tag == hashlib.md5(data, usedforsecurity=False).hexdigest():
            return True
    return target.read(key) == data
