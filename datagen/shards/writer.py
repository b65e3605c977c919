"""Writing one shard: encode, stage, read back, fsync, rename, commit."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.errors import StorageError
from datagen.shards.access import ChunkReader
from datagen.shards.atomic import fsync_file, fsync_folder, make_folders, storage_errors
from datagen.shards.chunks import ChunkError
from datagen.shards.encode import encode_unit
from datagen.shards.ledger import FileDigest, ShardRecord, digest_file, record_path, write_record
from datagen.shards.metadata import array_metadata, chunk_path, is_map, metadata_bytes
from datagen.shards.plan import DatasetPlan, ShardUnit
from datagen.shards.schema import ARRAYS, Sample
from datagen.shards.store import LocalStore

STAGING = ".staging"
ROOT_METADATA = "zarr.json"


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
    plan : DatasetPlan
    unit : ShardUnit
        One of ``plan.units``.
    content_key : str
        Digest of everything the samples are made of, ``plan.encoding_digest`` included.
    samples : iterable of Sample
        Consumed one by one; about ``unit.samples`` × 16 bytes × resolution² are held in memory.

    Raises
    ------
    InputError
        If the samples are not as the plan says; nothing is on disk then.
    StorageError
        If the disk is full, read-only or refuses, or does not give back what was written; nothing half-written is
        visible then.
    """
    root = Path(root)
    arrays = encode_unit(plan, unit, samples)
    with storage_errors(f"writing shard {unit.name} of {root}"):
        make_folders(root / STAGING)
        staging = root / STAGING / f"{unit.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            files = {name: _stage(staging, name, arrays.pop(name), plan) for name in ARRAYS}
            digests = {chunk_path(unit.split, name, unit.index): digest_file(path) for name, path in files.items()}
            _publish(root, unit, files)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    record = _record(plan, unit, content_key, digests)
    write_record(root, record)
    return record


def _record(plan: DatasetPlan, unit: ShardUnit, content_key: str, digests: dict[str, FileDigest]) -> ShardRecord:
    return ShardRecord(unit.split, unit.index, unit.samples, content_key, plan.encoding_digest, digests)


def _stage(staging: Path, name: str, values: npt.NDArray[Any], plan: DatasetPlan) -> Path:
    """Write one array as a Zarr array of this shard alone; return the path of its only chunk file."""
    import numcodecs.blosc
    import zarr

    folder = staging / name
    folder.mkdir(parents=True)
    metadata = array_metadata(name, len(values), plan.resolution, plan.samples_per_shard)
    (folder / "zarr.json").write_bytes(metadata_bytes(metadata))
    # With threads Blosc lays blocks out in the order they finish: other bytes on each run.
    numcodecs.blosc.use_threads = False
    # Without empty chunks a sample of zeros would be a hole, which no checksum guards.
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(store=str(folder), mode="r+", zarr_format=3)[...] = values
    path = folder / Path(chunk_path("", name, 0)).name
    _check_written(path, name, values, plan)
    fsync_file(path)
    return path


def _check_written(path: Path, name: str, values: npt.NDArray[Any], plan: DatasetPlan) -> None:
    """Read a staged file back from the disk, not through zarr, and compare every value."""
    dtype, shape = values.dtype, values.shape[1:]
    reader = ChunkReader(LocalStore(path.parent))

    def read_back(position: int) -> npt.NDArray[Any]:
        out = np.empty(shape, dtype)
        reader.sample_into(path.name, plan.samples_per_shard, position, out)
        return out

    try:
        if is_map(ARRAYS[name]):
            same = all(np.array_equal(read_back(i), value) for i, value in enumerate(values))
        else:
            stored = reader.plain_array(path.name, dtype, (plan.samples_per_shard, *shape))
            same = np.array_equal(stored[: len(values)], values)
    except ChunkError as error:
        raise _not_read_back(path, str(error)) from None
    if not same:
        raise _not_read_back(path, "other values")


def _not_read_back(path: Path, reason: str) -> StorageError:
    return StorageError(
        f"{path} does not read back as written ({reason})", "the bytes that were written", "Check the disk and memory"
    )


def _publish(root: Path, unit: ShardUnit, files: dict[str, Path]) -> None:
    """Rename a shard's files into place, in the order of ``ARRAYS``, and make the names durable."""
    invalidate(root, unit)
    for name, staged in files.items():
        target = root / chunk_path(unit.split, name, unit.index)
        make_folders(target.parent)
        os.replace(staged, target)
        fsync_folder(target.parent)


def invalidate(root: Path, unit: ShardUnit) -> None:
    """Take back the claims that a shard and the dataset are finished, before bytes change beneath them."""
    for path in (root / ROOT_METADATA, record_path(root, unit)):
        if path.exists():
            path.unlink(missing_ok=True)
            fsync_folder(path.parent)
