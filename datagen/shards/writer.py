"""Writing one shard: encode, stage, read back, fsync, rename, commit."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

from datagen.common.digests import FileDigest
from datagen.common.errors import StorageError
from datagen.common.files import fsync_all, make_folders, storage_errors
from datagen.shards.chunks import trailing_checksums
from datagen.shards.encode import encode_samples
from datagen.shards.ledger import ShardRecord, record_key, write_record
from datagen.shards.metadata import ROOT_METADATA, chunk_path, is_map
from datagen.shards.pack import ShardPacker
from datagen.shards.plan import DatasetPlan, ShardUnit
from datagen.shards.schema import ARRAYS, Sample
from datagen.shards.store import LocalStore

STAGING = ".staging"


def write_unit(
    root: Path, plan: DatasetPlan, unit: ShardUnit, content_key: str, samples: Iterable[Sample]
) -> ShardRecord:
    """Write one shard; the only writer of its files.

    The shard is staged beside its place, read back and compared, fsynced and renamed into place, ``valid`` last; then
    its commit record is written. A shard that is there already is replaced, its record removed first; a finished
    dataset is unfinished again until ``finalise``.

    Parameters
    ----------
    root : Path
        The ``dataset.zarr`` folder; made if missing.
    unit : ShardUnit
        One of ``plan.units``.
    content_key : str
        Digest of everything the samples are made of, ``plan.encoding_digest`` included.
    samples : iterable of Sample
        Consumed one by one; their compressed bytes are held in memory.

    Raises
    ------
    InputError
        If the samples are not as the plan says; nothing is on disk then.
    StorageError
        If the disk is full, read-only or refuses, or does not give back what was written; nothing half-written is
        visible then.
    """
    packer = ShardPacker(plan, unit)
    for row in encode_samples(plan, unit, samples):
        packer.add(row)
    return write_packed(Path(root), plan, unit, content_key, packer)


def write_packed(root: Path, plan: DatasetPlan, unit: ShardUnit, content_key: str, packer: ShardPacker) -> ShardRecord:
    """Write a shard whose samples are packed already; otherwise as :func:`write_unit`."""
    with storage_errors(f"writing shard {unit.name} of {root}"):
        make_folders(root / STAGING)
        staging = root / STAGING / f"{unit.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            staging.mkdir()
            files, digests, checksums = {}, {}, {}
            for name, spec in ARRAYS.items():
                key, data = chunk_path(unit.split, name, unit.index), packer.file(name)
                files[name] = staging / name
                digests[key] = _stage(files[name], data)
                checksums[key] = trailing_checksums(data, unit.samples, plan.samples_per_shard, indexed=is_map(spec))
            fsync_all(files.values())
            _publish(root, unit, files)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    record = ShardRecord(unit.split, unit.index, unit.samples, content_key, plan.encoding_digest, digests, checksums)
    write_record(LocalStore(root), record)
    return record


def _stage(path: Path, data: bytes) -> FileDigest:
    """Write a file, read it back and compare; return the digest of its bytes. It is not durable yet."""
    path.write_bytes(data)
    if path.read_bytes() != data:
        raise StorageError(
            f"{path} does not read back as written", "the bytes that were written", "Check the disk and memory"
        )
    return FileDigest(hashlib.sha256(data).hexdigest(), len(data))


def _publish(root: Path, unit: ShardUnit, files: dict[str, Path]) -> None:
    """Rename a shard's files into place, in the order of ``ARRAYS``, and make the names durable."""
    invalidate(root, unit)
    folders = []
    for name, staged in files.items():
        target = root / chunk_path(unit.split, name, unit.index)
        make_folders(target.parent)
        os.replace(staged, target)
        folders.append(target.parent)
    fsync_all(folders)


def invalidate(root: Path, unit: ShardUnit) -> None:
    """Take back the claims that a shard and the dataset are finished, before bytes change beneath them."""
    for key in (ROOT_METADATA, record_key(unit)):
        LocalStore(root).delete(key)
