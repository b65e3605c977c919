"""Writing one shard: encode, stage, read back, fsync, say what is coming, rename."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

from datagen.common.digests import FileDigest, digest_bytes
from datagen.common.errors import StorageError
from datagen.common.files import fsync_all, make_folders, storage_errors
from datagen.shards.chunks import trailing_checksums
from datagen.shards.encode import encode_samples
from datagen.shards.faces import FrameRow, TemplateContents
from datagen.shards.frames import encode_frames, encode_template
from datagen.shards.growth import ShardUnit
from datagen.shards.ledger import ShardRecord, record_key, write_record
from datagen.shards.metadata import ROOT_METADATA, chunk_path, is_map
from datagen.shards.ownership import STAGING, check_place
from datagen.shards.pack import ShardPacker
from datagen.shards.plan import DatasetPlan
from datagen.shards.schema import Sample
from datagen.shards.store import LocalStore


def write_unit(
    root: Path, plan: DatasetPlan, unit: ShardUnit, content_key: str, samples: Iterable[Sample]
) -> ShardRecord:
    """Write one shard; the only writer of its files.

    The shard is staged beside its place, read back, compared and fsynced. What an older record names is removed, the
    new record is written, and the files are renamed into place, ``valid`` last: whatever a kill leaves, a record says
    that it is ours, and a shard is finished once all that its record names is there. A finished dataset is unfinished
    again until ``finalise``.

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
        If a file that is not ours is in the way, or the disk is full, read-only or refuses, or does not give back what
        was written; nothing half-written is visible then.
    """
    packer = ShardPacker(plan, unit)
    for row in encode_samples(plan, unit, samples):
        packer.add(row)
    return write_packed(Path(root), plan, unit, content_key, packer)


def write_frames(
    root: Path, plan: DatasetPlan, unit: ShardUnit, content_key: str, rows: Iterable[FrameRow]
) -> ShardRecord:
    """Write one shard of a frame table; otherwise as :func:`write_unit`."""
    packer = ShardPacker(plan, unit)
    for row in encode_frames(plan, unit, rows):
        packer.add(row)
    return write_packed(Path(root), plan, unit, content_key, packer)


def write_template(
    root: Path, plan: DatasetPlan, unit: ShardUnit, content_key: str, contents: TemplateContents
) -> ShardRecord:
    """Write the template; otherwise as :func:`write_unit`."""
    packer = ShardPacker(plan, unit)
    packer.add(encode_template(plan, contents))
    return write_packed(Path(root), plan, unit, content_key, packer)


def write_packed(root: Path, plan: DatasetPlan, unit: ShardUnit, content_key: str, packer: ShardPacker) -> ShardRecord:
    """Write a shard whose samples are packed already; otherwise as :func:`write_unit`."""
    with storage_errors(f"writing shard {unit.name} of {root}"):
        make_folders(root / STAGING)
        staging = root / STAGING / f"{unit.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            staging.mkdir()
            files, digests, checksums = {}, {}, {}
            for name, spec in plan.arrays(unit.group).items():
                key, data = chunk_path(unit.group, name, unit.index), packer.file(name)
                files[name] = staging / name
                digests[key] = _stage(files[name], data)
                checksums[key] = trailing_checksums(data, unit.samples, plan.samples_per_shard, indexed=is_map(spec))
            fsync_all(files.values())
            record = ShardRecord(
                unit.group, unit.index, unit.samples, content_key, plan.encoding_digest, digests, checksums
            )
            _publish(root, unit, files, record)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return record


def _stage(path: Path, data: bytes) -> FileDigest:
    """Write a file, read it back and compare; return the digest of its bytes. It is not durable yet."""
    path.write_bytes(data)
    if path.read_bytes() != data:
        raise StorageError(
            f"{path} does not read back as written", "the bytes that were written", "Check the disk and memory"
        )
    return digest_bytes(data)


def _publish(root: Path, unit: ShardUnit, files: dict[str, Path], record: ShardRecord) -> None:
    """Rename a shard's files into place, in the order of the group's arrays, and make the names durable."""
    check_place(root, root / record_key(unit), record.files)
    store = LocalStore(root)
    # Nothing may look finished while bytes change beneath it.
    store.delete(ROOT_METADATA)
    targets = {name: root / chunk_path(unit.group, name, unit.index) for name in files}
    for target in targets.values():
        make_folders(target.parent)
        target.unlink(missing_ok=True)
    folders = [target.parent for target in targets.values()]
    # An old file that a power cut brings back would pass for one that the new record names.
    fsync_all(folders)
    write_record(store, record)
    for name, target in targets.items():
        os.replace(files[name], target)
    fsync_all(folders)
