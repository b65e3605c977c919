"""Reading the files of an open dataset: what is missing, what the storage refuses for good, and what passes by itself.

Local files are read by ``pread`` on descriptors kept open, everything else by range reads, which the store's client
repeats by itself.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import OrderedDict

from datagen.common.errors import MissingObjectError, StorageError
from datagen.shards.store import LocalStore, Store, open_regular

_OPEN_FILES = 128
_LARGEST_DOCUMENT = 256 << 20  # bytes: a record of a shard has some thousands
_WAITS_S = (0.02, 0.2)  # before what may pass by itself is tried again
_PASSING = frozenset(
    {
        errno.EIO,
        errno.EAGAIN,
        errno.EBUSY,
        errno.ETIMEDOUT,
        errno.ESTALE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EMFILE,
        errno.ENFILE,
        errno.ECONNRESET,
    }
)
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_FIXES = {
    errno.EMFILE: "Raise the limit of open files (ulimit -n), or use fewer workers",
    errno.EACCES: "Let this user read the file, then run the same command again",
    errno.EPERM: "Let this user read the file, then run the same command again",
}


class _Descriptor:
    """An open file, closed when the last thread lets go of it."""

    def __init__(self, path: str) -> None:
        self.number = open_regular(path)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class StoreReads:
    """Reads of one store; may be shared by threads.

    An error of the storage is never taken for damage: it is tried again for a moment where it may pass, then raised.
    Where descriptors run out, fewer are kept open.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Descriptor] = OrderedDict()
        self._most_open = _OPEN_FILES

    def part(self, key: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes of a file from ``start`` on, fewer where it ends earlier.

        Raises
        ------
        MissingObjectError
            If there is no such file.
        StorageError
            If the store refuses.
        """
        if not isinstance(self.store, LocalStore):
            return self._range(key, start, length)
        try:
            return self._pread(self.store, key, start, length)
        except (OSError, MemoryError) as error:
            return self._again(self.store, key, start, length, error)

    def whole(self, key: str, length: int) -> bytes:
        """Return the first ``length`` bytes of a file that is read once; raises as :meth:`part`."""
        data = self.part(key, 0, length)
        self._forget(key)
        return data

    def document(self, key: str) -> bytes:
        """Return a whole small file of unknown length; raises as :meth:`part`."""
        if not isinstance(self.store, LocalStore):
            return self.store.read(key)
        data = self.whole(key, _LARGEST_DOCUMENT + 1)
        if len(data) > _LARGEST_DOCUMENT:
            raise StorageError(f"{self.store.path(key)} is larger than any document of a dataset", "some kilobytes")
        return data

    def close(self) -> None:
        """Close what is open; reading opens it again."""
        with self._lock:
            self._open.clear()

    def _range(self, key: str, start: int, length: int) -> bytes:
        try:
            return self.store.read(key, start, length)
        except MissingObjectError:
            raise
        except StorageError:
            # Services refuse a range that begins behind the end: the file is shorter than it was.
            if self.store.size(key) <= start:
                return b""
            raise

    def _pread(self, store: LocalStore, key: str, start: int, length: int) -> bytes:
        descriptor = self._descriptor(store, key)
        # Never room for more than is there, whatever a damaged index or document declares.
        length = min(length, max(0, os.fstat(descriptor.number).st_size - start))
        data = os.pread(descriptor.number, length, start)
        while len(data) < length and (more := os.pread(descriptor.number, length - len(data), start + len(data))):
            data += more
        return data

    def _descriptor(self, store: LocalStore, key: str) -> _Descriptor:
        with self._lock:
            found = self._open.get(key)
            if found is None:
                found = self._open[key] = _Descriptor(str(store.path(key)))
                if len(self._open) > self._most_open:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(key)
            return found

    def _forget(self, key: str) -> None:
        with self._lock:
            self._open.pop(key, None)

    def _again(self, store: LocalStore, key: str, start: int, length: int, error: OSError | MemoryError) -> bytes:
        waits = list(_WAITS_S)
        while True:
            code = error.errno if isinstance(error, OSError) else None
            if code in (errno.ENOENT, errno.ENOTDIR):
                raise MissingObjectError(f"{store.path(key)} is missing", "a file", "Put the file back") from None
            self._forget(key)  # a stale descriptor stays so
            if not (code in _NO_DESCRIPTORS and self._keep_fewer()):
                if code not in _PASSING or not waits:
                    raise _storage_error(store, key, error) from error
                time.sleep(waits.pop(0))
            try:
                return self._pread(store, key, start, length)
            except (OSError, MemoryError) as again:
                error = again

    def _keep_fewer(self) -> bool:
        """Close half of what is open, and never keep as much again; False if there was nothing."""
        with self._lock:
            some = bool(self._open)
            self._most_open = max(1, len(self._open) // 2)
            while len(self._open) >= self._most_open and self._open:
                self._open.popitem(last=False)
            return some


def _storage_error(store: LocalStore, key: str, error: OSError | MemoryError) -> StorageError:
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else "it does not fit the memory"
    fix = _FIXES.get(getattr(error, "errno", None) or 0, "Check the disk and run the same command again")
    return StorageError(f"reading {store.path(key)} failed: {reason}", "a disk that can be read", fix)
