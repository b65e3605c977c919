"""Commit records: what says that a shard is finished, and with which bytes."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datagen.common.digests import READ_BYTES, FileDigest, canonical_json, sha256_text
from datagen.common.errors import CorruptDatasetError, MissingObjectError
from datagen.common.files import is_temporary
from datagen.shards.chunks import CRC_BYTES
from datagen.shards.growth import ShardUnit
from datagen.shards.keys import Key
from datagen.shards.metadata import chunk_path, is_map, metadata_bytes, parse_document
from datagen.shards.plan import ENCODING_VERSION
from datagen.shards.reads import StoreReads
from datagen.shards.schema import GROUPS, OPTIONAL_SIZES, arrays_of
from datagen.shards.store import LocalStore, Store

RECORDS = "records"
RECORD_DIGITS = 16  # of a record's SHA-256, in the root document
_SHA256 = re.compile("[0-9a-f]{64}")
_LARGEST = 2**63


@dataclass(frozen=True)
class ShardRecord:
    """The commit record of one shard.

    Attributes
    ----------
    group, index, samples
        Which shard, and how many rows it holds.
    content_key : str
        Digest of everything the samples were made of, as the builder chose it.
    encoding_digest : str
        ``DatasetPlan.encoding_digest`` at the time of writing.
    files : mapping of key to FileDigest
        Those of :func:`unit_files`, of the arrays that the dataset has.
    checksums : mapping of key to bytes
        As ``chunks.trailing_checksums`` gives them; empty in a record of another version.
    algorithm : int
        ``ENCODING_VERSION`` at the time of writing.
    """

    group: str
    index: int
    samples: int
    content_key: str
    encoding_digest: str
    files: Mapping[str, FileDigest]
    checksums: Mapping[str, bytes] = field(default_factory=dict)
    algorithm: int = ENCODING_VERSION

    @property
    def name(self) -> str:
        """Name of the shard, as in ``train-00003``."""
        return ShardUnit(self.group, self.index, 0, 0).name

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON data; ``digest`` is of everything else in it."""
        content = {
            "algorithm": self.algorithm,
            "content_key": self.content_key,
            "encoding_digest": self.encoding_digest,
            "files": {path: self._file(path) for path in self.files},
            "group": self.group,
            "index": self.index,
            "samples": self.samples,
        }
        return {**content, "digest": _digest_of(content)}

    def _file(self, path: str) -> dict[str, Any]:
        found, sums = self.files[path], self.checksums.get(path, b"")
        return {"bytes": found.bytes, "crc32c": base64.b64encode(sums).decode(), "sha256": found.sha256}

    def to_bytes(self) -> bytes:
        """Return the bytes of the record's file."""
        return metadata_bytes(self.to_json())

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ShardRecord:
        """Read what :meth:`to_json` gave; ValueError for anything else."""
        try:
            listed = {Key(path): entry for path, entry in content["files"].items()}
            files: dict[str, FileDigest] = {
                key: FileDigest(_digest(f["sha256"]), _whole(f["bytes"])) for key, f in listed.items()
            }
            record = cls(
                group=_text(content["group"]),
                index=_whole(content["index"]),
                samples=_whole(content["samples"]),
                content_key=_text(content["content_key"]),
                encoding_digest=_text(content["encoding_digest"]),
                files=files,
                checksums={key: base64.b64decode(f.get("crc32c", ""), validate=True) for key, f in listed.items()},
                algorithm=_whole(content["algorithm"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
        if record.algorithm == ENCODING_VERSION:  # what other versions list is not known
            _check_files(record)
        return record


def _digest_of(content: Mapping[str, Any]) -> str:
    return sha256_text(canonical_json({key: value for key, value in content.items() if key != "digest"}))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise TypeError(f"{value!r:.40} is no whole number of 0 or more")
    return value


def _digest(value: object) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise TypeError(f"{value!r:.40} is no SHA-256")
    return value


def _check_files(record: ShardRecord) -> None:
    if record.group not in GROUPS:
        raise ValueError(f"there is no group {record.group!r:.40}")
    arrays = arrays_of(record.group)
    expected = dict(zip(unit_files(ShardUnit(record.group, record.index, 0, 0)), arrays.values(), strict=True))
    # A head model may have no parameters, say: those arrays are not there.
    needed = {key for key, spec in expected.items() if not set(spec.shape) & OPTIONAL_SIZES}
    others = sorted((needed - set(record.files)) | (set(record.files) - set(expected)))
    if others:
        raise ValueError(f"it {'names' if others[0] in record.files else 'lacks'} the file {others[0]}")
    for key in record.files:
        chunks = record.samples if is_map(expected[key]) else 0
        if len(record.checksums[key]) != (chunks + 1) * CRC_BYTES:
            raise ValueError(f"it has {len(record.checksums[key]) // CRC_BYTES} checksums of {key}")


def record_digest(data: bytes) -> str:
    """Return the digest of a record's file that the root document holds."""
    return hashlib.sha256(data).hexdigest()[:RECORD_DIGITS]


def record_of(data: bytes, unit: ShardUnit) -> ShardRecord:
    """Read the bytes of a shard's record; ValueError if it is of another shard or version, or not as written."""
    record = ShardRecord.from_json(parse_document(data))
    if record.algorithm != ENCODING_VERSION:
        raise ValueError(f"it is of version {record.algorithm}, not {ENCODING_VERSION}")
    if (record.name, record.samples) != (unit.name, unit.samples):
        raise ValueError(f"it is of {record.name} with {record.samples} samples, not {unit.name} with {unit.samples}")
    return record


def record_key(unit: ShardUnit) -> str:
    """Key of a shard's commit record in its dataset's store."""
    return f"{RECORDS}/{unit.name}.json"


def unit_files(unit: ShardUnit, arrays: Iterable[str] | None = None) -> list[str]:
    """Keys of a shard's files, in the order they appear (``valid`` last): of these arrays, or of all there may be."""
    return [chunk_path(unit.group, name, unit.index) for name in arrays or arrays_of(unit.group)]


def write_record(store: Store, record: ShardRecord) -> None:
    """Write a commit record atomically."""
    store.write(f"{RECORDS}/{record.name}.json", record.to_bytes())


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
        content = parse_document(StoreReads(store).document(key))
        record = ShardRecord.from_json(content)
        # There is no root document yet that would tell a flipped bit.
        if record.algorithm == ENCODING_VERSION and content.get("digest") != _digest_of(content):
            reason = "its digest is of other content"
        elif f"{RECORDS}/{record.name}.json" != key:
            reason = f"it is that of {record.name}"
        else:
            return record
    except MissingObjectError:
        reason = "it is missing"
    except ValueError as error:
        reason = str(error)
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
    """Say what is wrong with a shard file, or None; StorageError if that cannot be told.

    ``digest`` reads every byte; otherwise only the length is seen.
    """
    try:
        length = store.size(key)
        if length != expected.bytes:
            return f"{key} has {length} bytes, its record says {expected.bytes}"
        if digest and digest_object(store, key) != expected:
            return f"the bytes of {key} are not those of its record"
    except MissingObjectError:
        return f"{key} is missing"
    return None


def is_there(root: Path, record: ShardRecord) -> bool:
    """Whether all files of a record are there with their lengths; StorageError if that cannot be told."""
    store = LocalStore(root)
    return not any(file_problem(store, key, expected, digest=False) for key, expected in record.files.items())


def unit_is_complete(root: Path | Store, unit: ShardUnit, content_key: str) -> bool:
    """Whether a shard is there, whole, and made of what ``content_key`` stands for.

    Parameters
    ----------
    root : Path or Store
        The ``dataset.zarr`` folder, which need not exist.
    content_key : str
        Must depend on everything that decides the shard's bytes, ``DatasetPlan.encoding_digest`` included.

    Raises
    ------
    StorageError
        If that cannot be told: a shard is not written again because the disk does not answer.
    """
    store = LocalStore(root) if isinstance(root, Path) else root
    try:
        record = read_record(store, unit)
    except CorruptDatasetError:
        return False
    if not (
        record.content_key == content_key and record.samples == unit.samples and record.algorithm == ENCODING_VERSION
    ):
        return False
    # Lengths first: they are cheap and catch most of what a crash can do.
    return not any(
        file_problem(store, key, expected, digest=digest)
        for digest in (False, True)
        for key, expected in record.files.items()
    )
