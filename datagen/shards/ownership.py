"""Which files of a dataset's folder are ours: what its records name, and documents that only this program writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datagen.common.digests import FileDigest
from datagen.common.documents import parse_json
from datagen.common.errors import CanonfaceError
from datagen.common.files import is_temporary
from datagen.common.ownership import Owned, is_ours, refuse_strangers, walk
from datagen.shards.ledger import RECORDS, ShardRecord
from datagen.shards.metadata import (
    ROOT_METADATA,
    array_metadata,
    array_of,
    attributes_digest,
    group_metadata,
    metadata_bytes,
    root_document,
)
from datagen.shards.plan import ENCODING_VERSION, DatasetPlan
from datagen.shards.schema import FORMAT, GROUPS, SPLITS, TEMPLATE, arrays_of

STAGING = ".staging"
_OF_GROUP = {group: "|".join(arrays_of(group)) for group in GROUPS}
_STAGED = re.compile(
    "|".join(rf"{group.replace('/', '-')}-\d{{5,}}-\d+-[0-9a-f]{{8}}/({names})" for group, names in _OF_GROUP.items())
)
_CHUNK = re.compile("|".join(rf"{group}/({names})/c\.\d+(\.0)*" for group, names in _OF_GROUP.items()))
_DOCUMENT_BYTES = 256 << 20
# In what documents of arrays differ from those of the version before.
_BY_VERSION = ("attributes", "codecs", "data_type", "fill_value", "storage_transformers")


def records_of(root: Path) -> dict[Path, ShardRecord]:
    """Return the commit records of a dataset's folder that are as this program writes them, by their paths."""
    found = {path: _record(path) for path in sorted((root / RECORDS).glob("*.json"))}
    return {path: record for path, record in found.items() if record is not None}


def _record(path: Path) -> ShardRecord | None:
    data = _document(path)
    try:
        record = ShardRecord.from_json(parse_json(data))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    # What an earlier version wrote beside the files is not known.
    as_written = record.algorithm != ENCODING_VERSION or record.to_bytes() == data
    return record if as_written and path.stem == record.name else None


def owned_chunks(records: Mapping[Path, ShardRecord]) -> dict[str, tuple[FileDigest, ...]]:
    """Return the shard files that records name."""
    named = ((key, digest) for record in records.values() for key, digest in record.files.items())
    return {key: (digest,) for key, digest in named if _CHUNK.fullmatch(key)}


def chunk_is_ours(path: Path, digests: tuple[FileDigest, ...]) -> bool:
    """Whether nothing is at a shard file's path, or a file of a length it had: another content of it is damage.

    Nobody edits the compressed bytes of a shard; a disk that loses some of them does not change how many there are.
    """
    return is_ours(path, digests, look=False)


def is_document(root: Path, path: Path) -> bool:
    """Whether nothing is at the path of a metadata document, or one whose every byte this program would write."""
    data = _document(path)
    key = path.relative_to(root).as_posix()
    if not data:
        return not (path.is_symlink() or path.exists())
    try:
        content = parse_json(data)
        if key == ROOT_METADATA:
            attributes = content["attributes"]
            fine = attributes["format"] == FORMAT and attributes["attributes_digest"] == attributes_digest(attributes)
            return bool(fine and data in _root_documents(attributes))
        if key.removesuffix(f"/{ROOT_METADATA}") in GROUPS:
            return metadata_bytes(group_metadata({})) == data
        group, name = array_of(key)
        shape, grid = content["shape"], content["chunk_grid"]["configuration"]["chunk_shape"]
        rows = [int(n) for n in (shape if group == TEMPLATE else shape[1:])]
        written = array_metadata(group, name, int(shape[0]), rows, int(grid[0]))
        same = {key: value for key, value in written.items() if key not in _BY_VERSION}
        return metadata_bytes({**same, **{key: content[key] for key in _BY_VERSION if key in content}}) == data
    except (CanonfaceError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError):
        return False


def _root_documents(attributes: dict[str, Any]) -> list[bytes]:
    """Return what this version and the one before it would write with these attributes."""
    first = metadata_bytes(group_metadata(attributes))
    if attributes["format_version"] == 1:
        return [first]
    return [root_document(DatasetPlan.from_json(attributes), attributes)]


def _document(path: Path) -> bytes:
    """Read a small file; empty if it is none."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _DOCUMENT_BYTES:
        return b""
    return path.read_bytes()


def is_left_over(root: Path, path: Path) -> bool:
    """Whether a file was left half-written by a killed process."""
    if path.is_symlink() or not path.is_file():
        return False
    key = path.relative_to(root).as_posix()
    if key.startswith(f"{STAGING}/"):
        return _STAGED.fullmatch(key.removeprefix(f"{STAGING}/")) is not None
    return is_temporary(path.name) and path.parent.relative_to(root).parts[:1] in {
        (),
        (RECORDS,),
        *((s,) for s in (*SPLITS, TEMPLATE)),
    }


def foreign_files(root: Path) -> list[Path]:
    """Return the files of a dataset's folder, finished or not, that are not ours, at a quick look.

    A shard's file whose record is lost counts as ours here, if there are other records: whoever replaces it looks at
    its bytes.

    Raises
    ------
    OSError
        If the folder cannot be read.
    """
    if not root.is_dir():
        return [root] if root.is_symlink() or root.exists() else []
    records = records_of(root)
    chunks = owned_chunks(records)

    def ours(path: Path) -> bool:
        key = path.relative_to(root).as_posix()
        if key in chunks:
            return chunk_is_ours(path, chunks[key])
        if path.name == ROOT_METADATA:
            return is_document(root, path)
        lost = bool(records) and _CHUNK.fullmatch(key) is not None and not path.is_symlink()
        return path in records or is_left_over(root, path) or lost

    return [path for path in walk(root) if not ours(path)]


def check_place(root: Path, record_path: Path, coming: Mapping[str, FileDigest]) -> Owned:
    """Refuse to write a shard over what is not ours; return what is there that is.

    Parameters
    ----------
    record_path : Path
        Of the shard's record.
    coming : mapping of key to FileDigest
        The files that will be written: the same bytes may be there.

    Raises
    ------
    StorageError
        Naming the files in the way.
    """
    record = _record(record_path)
    ours = owned_chunks({} if record is None else {record_path: record})
    found = [root / ROOT_METADATA] if not is_document(root, root / ROOT_METADATA) else []
    if record is None and (record_path.is_symlink() or record_path.exists()):
        found.append(record_path)
    found += [
        root / key
        for key, digest in coming.items()
        if not chunk_is_ours(root / key, ours.get(key, ())) and not is_ours(root / key, (digest,))
    ]
    refuse_strangers(found)
    return ours
