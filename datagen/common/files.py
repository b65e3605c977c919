"""Files that are whole or not there: atomic writes, staged folders, locks, and a disk that refuses in plain words."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from datagen.common.errors import StorageError

_TEMPORARY = ".tmp-"
_FSYNCS_AT_ONCE = 8

_REMEDIES = {
    errno.ENOSPC: ("the disk is full", "Free some space and run the same command again; finished work is kept"),
    errno.EDQUOT: ("the disk quota is used up", "Free some space and run the same command again"),
    errno.EFBIG: ("the file would be larger than allowed", "Raise the limit (ulimit -f) or use smaller shards"),
    errno.EEXIST: ("a file is in the way", "Choose another output path"),
    errno.ENOTDIR: ("one of its parents is a file", "Choose another output path"),
    errno.EISDIR: ("a folder is in the way", "Choose another output path"),
    errno.EROFS: ("the file system is read-only", "Choose an output folder that can be written"),
    errno.EACCES: ("permission denied", "Change the folder's owner or mode, or choose another output folder"),
    errno.EPERM: ("operation not permitted", "Change the folder's owner or mode, or choose another output folder"),
}


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn every ``OSError`` inside the block into a ``StorageError`` that says what to do.

    Parameters
    ----------
    doing : str
        What the block does, as in "writing shard train-00003".

    Raises
    ------
    StorageError
    """
    try:
        yield
    except OSError as error:
        reason, fix = _REMEDIES.get(
            error.errno or 0, (str(error), "Check the disk and run the same command again; finished work is kept")
        )
        where = f" ({error.filename})" if error.filename else ""
        raise StorageError(f"{doing} failed: {reason}{where}", "a disk that can be written", fix) from error


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable, or the bytes of a file: a rename survives a power cut only after this."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_all(paths: Iterable[Path]) -> None:
    """Make the bytes of files, or the names in folders, durable; several at a time, which file systems do as one.

    Raises
    ------
    OSError
        The first of any; the others are finished all the same.
    """
    with ThreadPoolExecutor(_FSYNCS_AT_ONCE, "fsync") as pool:
        for done in [pool.submit(fsync_folder, path) for path in paths]:
            done.result()


def make_folders(folder: Path) -> None:
    """Create a folder and its parents, each entered durably in its parent."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


def is_temporary(name: str) -> bool:
    """Whether a file name is one that :func:`atomic_write_bytes` leaves behind when it is killed."""
    return name.startswith(".") and _TEMPORARY in name


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that readers see either the old content or the whole new one, also after a power cut.

    The bytes go to a temporary name in the same folder, are fsynced and renamed; then the folder is fsynced.
    Missing parent folders are made.

    Raises
    ------
    StorageError
        If the disk is full, read-only or refuses; the old content is then untouched and no temporary file stays.
    """
    with storage_errors(f"writing {path}"):
        make_folders(path.parent)
        temporary = path.with_name(f".{path.name}{_TEMPORARY}{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


# Not "no such file" and its like: those are mistakes of this program, whose traceback must survive.
DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE}
)


@contextmanager
def disk_refusals(doing: str) -> Iterator[None]:
    """Turn an ``OSError`` that says the disk refused into a ``StorageError``; let every other exception pass.

    Parameters
    ----------
    doing : str
        What the block does, as in "warping s01/talk".

    Raises
    ------
    StorageError
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        refusal = error
    else:
        return
    with storage_errors(doing):
        raise refusal
    raise StorageError(f"{doing} failed: {refusal}")  # unreachable; tells the type checker so


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
