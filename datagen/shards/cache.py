"""A local copy of what was read from a remote dataset, within a limit of size."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import google_crc32c

from datagen.common.errors import InputError
from datagen.common.files import storage_errors
from datagen.shards.dataset import Dataset
from datagen.shards.metadata import ROOT_METADATA
from datagen.shards.store import LocalStore, Store

_CRC_BYTES = 4
_SUFFIX = ".chunk"
_TEMPORARY = ".part"
_ROOM = 0.9  # of the limit is kept when room is made
_SHARE = 16  # a process looks at the folder again after writing this part of the limit


class CachedStore:
    """A store whose reads are kept in a local folder; the least recently used go first.

    Every read is one file, named by what was read, that ends with its own crc32c: a file that a crash or the disk
    left damaged is read again from the store. Files appear by rename. Any number of processes may share a folder:
    none waits for another, and each may overshoot the limit by a sixteenth of it.

    Parameters
    ----------
    store : Store
    folder : Path
        Made if missing. Only files of this class's naming in it are touched.
    name : str
        Tells stores that share a folder apart: a dataset's uuid.
    limit_bytes : int
        What all files of the folder may take together.

    Attributes
    ----------
    hits, misses : int
        Reads answered by the folder, and by the store.

    Raises
    ------
    InputError
        If the limit is not positive.
    StorageError
        If the folder cannot be made.
    """

    def __init__(self, store: Store, folder: Path, name: str, limit_bytes: int) -> None:
        if limit_bytes <= 0:
            raise InputError(f"a cache of {limit_bytes} bytes", "a positive limit", "Leave the cache out instead")
        self.store, self.url = store, store.url
        self.folder, self.name, self.limit_bytes = Path(folder), name, limit_bytes
        self.hits = self.misses = 0
        self._lock = threading.Lock()
        with storage_errors(f"making the cache {folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._spare = 0
        self._make_room()

    def __reduce__(self) -> tuple[type[CachedStore], tuple[Store, Path, str, int]]:
        return type(self), (self.store, self.folder, self.name, self.limit_bytes)

    def read(self, key: str, start: int | None = None, length: int | None = None) -> bytes:
        """See :class:`datagen.shards.store.Store`; the root document, which tells what lies there now, is not kept."""
        if key == ROOT_METADATA:
            return self.store.read(key, start, length)
        path = self.folder / f"{self.name}-{key.replace('/', '-')}@{start}+{length}{_SUFFIX}"
        kept = _read_kept(path)
        with self._lock:
            self.hits += kept is not None
            self.misses += kept is None
        if kept is not None:
            return kept
        data = self.store.read(key, start, length)
        self._keep(path, data)
        return data

    def size(self, key: str) -> int:
        """See :class:`datagen.shards.store.Store`."""
        return self.store.size(key)

    def exists(self, key: str) -> bool:
        """See :class:`datagen.shards.store.Store`."""
        return self.store.exists(key)

    def list(self, prefix: str = "") -> Iterator[str]:
        """See :class:`datagen.shards.store.Store`."""
        return self.store.list(prefix)

    def write(self, key: str, data: bytes) -> None:  # noqa: ARG002 - the protocol's
        """Refuse: what is cached is finished."""
        raise InputError(f"{self.url}/{key} is read through a cache", "a dataset that is only read", "Open the store")

    def delete(self, key: str) -> None:
        """Refuse: what is cached is finished."""
        self.write(key, b"")

    def _keep(self, path: Path, data: bytes) -> None:
        """Put bytes into the folder; a disk that refuses costs speed, not the run."""
        if len(data) + _CRC_BYTES > self.limit_bytes:
            return
        with self._lock:
            self._spare -= len(data) + _CRC_BYTES
            full = self._spare < 0
        with suppress(OSError):
            if full:
                self._make_room(len(data) + _CRC_BYTES)
            # No fsync: the checksum tells what a power cut leaves behind.
            temporary = path.with_name(f"{uuid.uuid4().hex}{_TEMPORARY}")
            try:
                temporary.write_bytes(data + int(google_crc32c.value(data)).to_bytes(_CRC_BYTES, "little"))
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def _make_room(self, wanted: int = 0) -> None:
        """Remove the least recently used files until the limit is kept, and what killed processes left."""
        with self._lock:
            files: list[tuple[float, int, str]] = []
            with storage_errors(f"reading the cache {self.folder}"), os.scandir(self.folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        if entry.name.endswith((_SUFFIX, _TEMPORARY)):
                            status = entry.stat()
                            files.append((status.st_mtime, status.st_size, entry.path))
            total = sum(size for _, size, _ in files)
            if total + wanted > self.limit_bytes:
                for _, size, path in sorted(files):
                    if total + wanted <= self.limit_bytes * _ROOM:
                        break
                    with suppress(OSError):
                        os.unlink(path)
                        total -= size
            # Others write here too: look again before all of the room can be used up.
            self._spare = min(self.limit_bytes - total, self.limit_bytes // _SHARE) - wanted


def _read_kept(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    data = content[:-_CRC_BYTES]
    if len(content) < _CRC_BYTES or google_crc32c.value(data) != int.from_bytes(content[-_CRC_BYTES:], "little"):
        with suppress(OSError):
            path.unlink()
        return None
    with suppress(OSError):
        os.utime(path)  # the time of the last use, whatever the file system was mounted with
    return data


def cached(dataset: Dataset, folder: Path, limit_bytes: int) -> Dataset:
    """Return a dataset whose chunks are kept in a folder once read; a local dataset is returned as it is.

    Parameters
    ----------
    dataset : Dataset
    folder : Path
        Datasets may share it: files carry the uuid.
    limit_bytes : int
        Of the whole folder.

    Raises
    ------
    InputError, StorageError
        As :class:`CachedStore`.
    """
    if isinstance(dataset.store, LocalStore):
        return dataset
    return Dataset(CachedStore(dataset.store, folder, dataset.uuid, limit_bytes), dataset.attrs)
