"""One build at a time in one folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datagen.errors import StorageError
from datagen.shards.atomic import make_folders, storage_errors


@contextmanager
def build_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a build folder.

    The kernel drops the lock when the process ends, however it ends, so a killed build never blocks the next.

    Parameters
    ----------
    path : Path
        The lock file; made if missing, left in place afterwards.

    Raises
    ------
    StorageError
        If another process holds it (its process id is in the message), or the folder cannot be written.
    """
    import fcntl

    with storage_errors(f"locking {path.parent}"):
        make_folders(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise StorageError(
                f"another build is working in {path.parent} (process {holder})",
                "one build at a time in one folder",
                "Wait until it ends, stop it, or choose another --out",
            ) from None
        with storage_errors(f"locking {path.parent}"):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
