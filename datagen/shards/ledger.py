"""Commit records: what says that a shard is finished, and with which bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen.common.digests import READ_BYTES, FileDigest
from datagen.common.documents import parse_json
from datagen.common.errors import CorruptDatasetError, MissingObjectError, StorageError
from datagen.common.files import is_temporary
from datagen.shards.metadata import chunk_path, metadata_bytes
from datagen.shards.plan import ENCODING_VERSION, ShardUnit
from datagen.shards.schema import ARRAYS
from datagen.shards.store import LocalStore, Store

RECORDS = "records"


@dataclass(frozen=True)
class ShardRecord:
    """The commit record of one shard.

    Attributes
    ----------
    split, index, samples
        Which shard, and how many samples it holds.
    content_key : str
        Digest of everything the samples were made of, as the builder chose it.
    encoding_digest : str
        ``DatasetPlan.encoding_digest`` at the time of writing.
    files : mapping of path (relative to the dataset's root, "/" between parts) to FileDigest
    algorithm : int
        ``ENCODING_VERSION`` at the time of writing.
    """

    split: str
    index: int
    samples: int
    content_key: str
    encoding_digest: str
    files: Mapping[str, FileDigest]
    algorithm: int = ENCODING_VERSION

    @property
    def name(self) -> str:
        """Name of the shard, as in ``train-00003``."""
        return f"{self.split}-{self.index:05d}"

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON data."""
        return {
            "algorithm": self.algorithm,
            "content_key": self.content_key,
            "encoding_digest": self.encoding_digest,
            "files": {path: {"bytes": f.bytes, "sha256": f.sha256} for path, f in self.files.items()},
            "index": self.index,
            "samples": self.samples,
            "split": self.split,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ShardRecord:
        """Read what :meth:`to_json` gave; KeyError, TypeError or ValueError for anything else."""
        return cls(
            split=str(content["split"]),
            index=int(content["index"]),
            samples=int(content["samples"]),
            content_key=str(content["content_key"]),
            encoding_digest=str(content["encoding_digest"]),
            files={str(p): FileDigest(str(f["sha256"]), int(f["bytes"])) for p, f in dict(content["files"]).items()},
            algorithm=int(content["algorithm"]),
        )


def record_key(unit: ShardUnit) -> str:
    """Key of a shard's commit record in its dataset's store."""
    return f"{RECORDS}/{unit.name}.json"


def unit_files(unit: ShardUnit) -> list[str]:
    """Keys of a shard's files, in the order they appear: ``valid`` last."""
    return [chunk_path(unit.split, name, unit.index) for name in ARRAYS]


def write_record(store: Store, record: ShardRecord) -> None:
    """Write a commit record atomically."""
    store.write(f"{RECORDS}/{record.name}.json", metadata_bytes(record.to_json()))


def read_record(store: Store, unit: ShardUnit) -> ShardRecord:
    """Read the commit record of a shard.

    Raises
    ------
    CorruptDatasetError
        If it is missing or not as written.
    StorageError
        If the disk or store refuses.
    """
    return _read(store, record_key(unit))


def list_records(root: Path | Store) -> list[ShardRecord]:
    """Read every commit record of a dataset or an unfinished build, in order of split and index.

    Raises
    ------
    CorruptDatasetError
        If one cannot be read.
    """
    store = LocalStore(root) if isinstance(root, Path) else root
    keys = (key for key in store.list(RECORDS) if key.endswith(".json") and not is_temporary(key.rpartition("/")[2]))
    return [_read(store, key) for key in keys]


def _read(store: Store, key: str) -> ShardRecord:
    try:
        return ShardRecord.from_json(parse_json(store.read(key)))
    except MissingObjectError:
        reason = "it is missing"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise CorruptDatasetError(
        f"record {store.url}/{key} cannot be read ({reason})",
        "the JSON of a finished shard",
        "Delete the record and build again; the shard is then rewritten",
    )


def digest_object(store: Store, key: str) -> FileDigest:
    """SHA-256 and length of a file of a store, read in parts; raises as ``Store.read``."""
    digest, length = hashlib.sha256(), 0
    while block := store.read(key, length, READ_BYTES):
        digest.update(block)
        length += len(block)
        if len(block) < READ_BYTES:
            break
    return FileDigest(digest.hexdigest(), length)


def file_problem(store: Store, key: str, expected: FileDigest, *, digest: bool) -> str | None:
    """Say what is wrong with a shard file, or None. ``digest`` reads every byte; otherwise only the length is seen."""
    try:
        length = store.size(key)
        if length != expected.bytes:
            return f"{key} has {length} bytes, its record says {expected.bytes}"
        if digest and digest_object(store, key) != expected:
            return f"the bytes of {key} are not those of its record"
    except MissingObjectError:
        return f"{key} is missing"
    except StorageError as error:
        return f"{key} cannot be read: {error.found}"
    return None


def unit_is_complete(root: Path | Store, unit: ShardUnit, content_key: str) -> bool:
    """Whether a shard is there, whole, and made of what ``content_key`` stands for.

    Parameters
    ----------
    root : Path or Store
        The ``dataset.zarr`` folder, which need not exist.
    content_key : str
        Must depend on everything that decides the shard's bytes, ``DatasetPlan.encoding_digest`` included.
    """
    store = LocalStore(root) if isinstance(root, Path) else root
    try:
        record = read_record(store, unit)
    except (CorruptDatasetError, StorageError):
        return False
    fits = (
        record.content_key == content_key
        and record.algorithm == ENCODING_VERSION
        and (record.split, record.index, record.samples) == (unit.split, unit.index, unit.samples)
        and set(record.files) == set(unit_files(unit))
    )
    if not fits:
        return False
    # Lengths first: they are cheap and catch most of what a crash can do.
    return not any(
        file_problem(store, key, expected, digest=digest)
        for digest in (False, True)
        for key, expected in record.files.items()
    )
