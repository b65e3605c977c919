"""Commit records: what says that a shard is finished, and with which bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen.errors import CorruptDatasetError
from datagen.shards.atomic import atomic_write_bytes, storage_errors
from datagen.shards.metadata import chunk_path, metadata_bytes
from datagen.shards.plan import ENCODING_VERSION, ShardUnit
from datagen.shards.schema import ARRAYS

RECORDS = "records"
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class FileDigest:
    """Digest and length of one file."""

    sha256: str
    bytes: int


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
        """Read what :meth:`to_json` gave; KeyError, TypeError or ValueError if it did not."""
        return cls(
            split=str(content["split"]),
            index=int(content["index"]),
            samples=int(content["samples"]),
            content_key=str(content["content_key"]),
            encoding_digest=str(content["encoding_digest"]),
            files={str(p): FileDigest(str(f["sha256"]), int(f["bytes"])) for p, f in dict(content["files"]).items()},
            algorithm=int(content["algorithm"]),
        )


def record_path(root: Path, unit: ShardUnit) -> Path:
    """Path of a shard's commit record."""
    return root / RECORDS / f"{unit.name}.json"


def unit_files(unit: ShardUnit) -> list[str]:
    """Paths of a shard's files relative to the root, in the order they appear: ``valid`` last."""
    return [chunk_path(unit.split, name, unit.index) for name in ARRAYS]


def write_record(root: Path, record: ShardRecord) -> None:
    """Write a commit record atomically.

    Raises
    ------
    StorageError
    """
    atomic_write_bytes(root / RECORDS / f"{record.name}.json", metadata_bytes(record.to_json()))


def read_record(path: Path) -> ShardRecord:
    """Read one commit record.

    Raises
    ------
    CorruptDatasetError
        If it is missing or not as written.
    StorageError
        If the disk refuses.
    """
    try:
        with storage_errors(f"reading {path}"):
            return ShardRecord.from_json(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptDatasetError(
            f"record {path} cannot be read ({type(error).__name__}: {error})",
            "the JSON of a finished shard",
            "Delete the record and build again; the shard is then rewritten",
        ) from None


def list_records(root: Path) -> list[ShardRecord]:
    """Read every commit record of a dataset or an unfinished build, in order of split and index.

    Raises
    ------
    CorruptDatasetError
        If one cannot be read.
    """
    return [read_record(path) for path in sorted((root / RECORDS).glob("*.json"))]


def digest_file(path: Path) -> FileDigest:
    """SHA-256 and length of a file; OSError if it cannot be read."""
    digest, length = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
            length += len(block)
    return FileDigest(digest.hexdigest(), length)


def file_problem(root: Path, path: str, expected: FileDigest, *, deep: bool = True) -> str | None:
    """Say what is wrong with a shard file, or None. ``deep`` compares the digest too, not the length alone."""
    try:
        length = (root / path).stat().st_size
        if length != expected.bytes:
            return f"{path} has {length} bytes, its record says {expected.bytes}"
        if deep and digest_file(root / path) != expected:
            return f"the bytes of {path} are not those of its record"
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be read: {error}"
    return None


def unit_is_complete(root: Path, unit: ShardUnit, content_key: str) -> bool:
    """Whether a shard is on disk, whole, and made of what ``content_key`` stands for.

    Parameters
    ----------
    root : Path
        The ``dataset.zarr`` folder, which need not exist.
    unit : ShardUnit
    content_key : str
        Must depend on everything that decides the shard's bytes, ``DatasetPlan.encoding_digest`` included.
    """
    try:
        record = ShardRecord.from_json(json.loads(record_path(root, unit).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
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
        file_problem(root, path, digest, deep=deep) for deep in (False, True) for path, digest in record.files.items()
    )
