"""Files that are whole or absent: atomic writes, staged folders, locks, and one form of npz and JSON for one content.

Everything durable follows one order: the bytes are written, the file is fsynced, it gets its name, and the folder that
holds the name is fsynced. A kill or a refusing disk between any two of these steps leaves the old content or the new.
"""

from __future__ import annotations

import errno
import io
import math
import os
import re
import shutil
import stat
import threading
import uuid
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from datagen.common.digests import FileDigest, digest_file
from datagen.common.errors import CanonfaceError, InputError, StorageError
from datagen.common.ownership import (
    LISTING,
    Owned,
    check_output_file,
    digests_of,
    is_ours,
    listed,
    listing_bytes,
    refuse_strangers,
    remove_ours,
    strangers,
)

if TYPE_CHECKING:
    import numpy.typing as npt

_TEMPORARY = ".tmp-"
_LEFT = re.compile(r"\.(.+)\.tmp-(?:(\d+)-[0-9a-f]{8}|former)")
_FSYNCS_AT_ONCE = 8
_URL_SCHEMES = {"s3:", "gs:", "az:", "abfs:", "http:", "https:", "ftp:", "sftp:", "file:", "hdfs:"}
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)

_REMEDIES = {
    errno.ENOSPC: ("the disk is full", "Free some space and run the same command again; finished work is kept"),
    errno.EDQUOT: ("the disk quota is used up", "Free some space and run the same command again"),
    errno.EFBIG: ("the file would be larger than allowed", "Raise the limit (ulimit -f) or use smaller shards"),
    errno.EEXIST: ("a file is in the way", "Choose another output path"),
    errno.ENOTDIR: ("one of its parents is a file", "Choose another output path"),
    errno.EISDIR: ("a folder is in the way", "Choose another output path"),
    errno.ENOTEMPTY: ("a folder is in the way", "Choose another output path"),
    errno.EROFS: ("the file system is read-only", "Choose an output folder that can be written"),
    errno.EACCES: ("permission denied", "Change the folder's owner or mode, or choose another output folder"),
    errno.EPERM: ("operation not permitted", "Change the folder's owner or mode, or choose another output folder"),
}
# Not "no such file" and its like: those are mistakes of this program, whose traceback must survive.
DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE}
)


@contextmanager
def storage_errors(doing: str, *, only: Collection[int] | None = None) -> Iterator[None]:
    """Turn an ``OSError`` inside the block into a ``StorageError`` that says what to do.

    Parameters
    ----------
    doing : str
        What the block does, as in "writing shard train-00003".
    only : collection of int, optional
        The ``errno`` values that are the disk's, such as ``DISK_ERRORS``; every other error passes. All by default.
    """
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        reason, fix = _REMEDIES.get(
            error.errno or 0, (str(error), "Check the disk and run the same command again; finished work is kept")
        )
        where = f" ({error.filename})" if error.filename else ""
        raise StorageError(f"{doing} failed: {reason}{where}", "a disk that can be written", fix) from error


def fsync_path(folder: Path) -> None:
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
        for done in [pool.submit(fsync_path, path) for path in paths]:
            done.result()


def make_folders(folder: Path) -> None:
    """Create a folder and its parents, each entered durably in its parent; InputError for what is a URL."""
    if folder.is_dir():
        return
    if folder.name in _URL_SCHEMES:
        # As a path, "s3://bucket" is a folder "s3:" where nobody looks for it.
        raise InputError(f"the output is a URL ({folder.name}//…)", "a folder or a file of this machine", "Name one")
    make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_path(folder.parent)


def check_writable(out: Path, option: str = "--out") -> None:
    """Refuse, before hours of work, a folder that could not be made or written in; nothing is made.

    Raises
    ------
    InputError
        If a file is in its place or among its parents.
    StorageError
        If this user may not write there.
    """
    nearest = next(path for path in (out, *out.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise InputError(f"{option} {out}: {nearest} is a file", "a folder", f"Choose another {option}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StorageError(
            f"{option} {out}: {nearest} cannot be written", "a folder that you may write in", f"Choose another {option}"
        )


def is_temporary(name: str) -> bool:
    """Whether a name is one that :func:`atomic_write` or :func:`staged_folder` leaves behind when it is killed."""
    return _LEFT.fullmatch(name) is not None


def remove_half_written(folder: Path, names: Collection[str]) -> None:
    """Remove what processes that are no more left half-written of these files of a folder.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        left = _LEFT.fullmatch(path.name)
        if left and left[1] in names and left[2] and not _is_running(left[2]) and path.is_file():
            path.unlink(missing_ok=True)


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def atomic_write(
    path: Path, write: Callable[[BinaryIO], object], *, before: Callable[[Path], object] | None = None
) -> None:
    """Write a file so that readers see either the old content or the whole new one, also after a power cut.

    Parameters
    ----------
    path : Path
        Missing parent folders are made.
    write : function of a binary file
        Writes the content; it goes to a temporary name in the same folder.
    before : function of a path, optional
        Called with that temporary file, whole and durable, before it takes its name.

    Raises
    ------
    StorageError
        If the disk is full, read-only or refuses; the old content is then untouched and no temporary file stays.
    """
    with storage_errors(f"writing {path}"):
        _refuse_special(path)
        make_folders(path.parent)
        temporary = path.with_name(f".{path.name}{_suffix()}")
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            if before is not None:
                before(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        fsync_path(path.parent)


def _refuse_special(path: Path) -> None:
    """Refuse a device, a pipe or a socket as a place for a file: taking its name would remove it for everybody."""
    with suppress(FileNotFoundError, NotADirectoryError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
            raise StorageError(f"{path} is no regular file", "the name of a file", "Choose another output")


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, as :func:`atomic_write`."""
    atomic_write(path, lambda file: file.write(data))


def claim_folder(folder: Path, *, beside: Collection[str] = ()) -> None:
    """Make a folder ours: give it a listing, which names nothing yet, unless it has one.

    Parameters
    ----------
    beside : collection of str
        Names that may be there all the same.

    Raises
    ------
    StorageError
        If it holds something and has no listing of ours, or the disk refuses.
    """
    with storage_errors(f"opening {folder}"):
        make_folders(folder)
        if listed(folder) is None:
            others = [path for path in folder.iterdir() if path.name not in beside and not is_temporary(path.name)]
            refuse_strangers(others)
            atomic_write_bytes(folder / LISTING, listing_bytes({}))


def write_owned(path: Path, write: Callable[[BinaryIO], object], *, known: Iterable[FileDigest] = ()) -> None:
    """Write a file that its folder's listing names, as :func:`atomic_write`; one that is not ours is not replaced.

    The listing names the new bytes before they appear, and the old ones beside them.

    Parameters
    ----------
    known : iterable of FileDigest
        What the caller knows to be ours though no listing names it: a file that was appended to.

    Raises
    ------
    StorageError
        If there is a file that is not ours, or the disk refuses.
    """
    folder, name = path.parent, path.name
    vouched = tuple(known)

    def claim(temporary: Path) -> None:
        new = digest_file(temporary)
        refuse_strangers(strangers(folder, [name], {name: (new, *vouched)}))
        there = [d for d in (*(listed(folder) or {}).get(name, ()), *vouched) if d != new and is_ours(path, [d])]
        _list(folder, {name: (*there, new) if os.path.lexists(path) else (new,)})

    with storage_errors(f"writing {path}"):
        refuse_strangers(strangers(folder, [LISTING]))
        remove_half_written(folder, (name, LISTING))
        atomic_write(path, write, before=claim)
        _list(folder, {name: (listed(folder) or {})[name][-1:]})


def name_as_ours(folder: Path, paths: Iterable[Path]) -> None:
    """Have a folder's listing name files as they are now, which whoever calls has written by other means.

    Raises
    ------
    StorageError
        If the disk refuses.
    """
    with storage_errors(f"writing {folder}"):
        _list(folder, {path.relative_to(folder).as_posix(): (digest_file(path),) for path in paths})


# Two threads that write files into one folder must not lose each other's lines.
_LISTING_LOCK = threading.Lock()


def _list(folder: Path, files: Owned) -> None:
    with _LISTING_LOCK:
        before = listed(folder)
        after = {**(before or {}), **files}
        if before != after:
            atomic_write_bytes(folder / LISTING, listing_bytes(after))


def write_owned_bytes(path: Path, data: bytes) -> None:
    """Write a file that its folder's listing names, as :func:`write_owned`."""
    write_owned(path, lambda file: file.write(data))


def _suffix() -> str:
    return f"{_TEMPORARY}{os.getpid()}-{uuid.uuid4().hex[:8]}"


@contextmanager
def staged_folder(out: Path, *, replace: bool, names: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a hidden folder that becomes ``out`` when the block ends well: whole or not at all, and durably.

    After an exception nothing remains of it and ``out`` is as it was. What a killed process left is removed, or put
    back where the kill came between the two renames of a replacement, when the same folder is staged again; removed
    also when another is staged beside it.

    ``out`` gets a listing (:mod:`datagen.common.ownership`) of all that it holds. What is in the way is replaced only
    if such a listing names it with the bytes it has; before the block, and again before anything is moved.

    Parameters
    ----------
    replace : bool
        Whether a folder ``out`` that exists is replaced as a whole; it keeps its name until the new one is complete.
        Otherwise it stays, with all that it holds besides: the new entries are moved in one after another, each whole,
        in descending order of their names, so that "warp.npz" is there before the "verdict.json" that describes it.
    names : iterable of str
        Entries that will be moved in, as far as they are known: looked for before the block.

    Raises
    ------
    InputError
        If ``out`` is a file.
    StorageError
        If no folder can be made there, something that is not ours is in the way, or a folder in the way of a file.
    """
    if os.path.lexists(out) and not out.is_dir():
        raise InputError(f"{out} is a file", "a folder or a new name", "Choose another --out")
    out = out.resolve()
    stays = out.is_dir() and not replace
    room = out if stays else out.parent
    former = room / f".{out.name}{_TEMPORARY}former"
    with _staging(room, out, former) as staging:
        with storage_errors(f"reading {out}"):
            refuse_strangers(strangers(out, names if stays else None))
        yield staging
        with storage_errors(f"writing {out}"):
            files = _finish(staging)
            if stays:
                _move_in(staging, out, files)
                return
            if replace and out.exists():
                refuse_strangers(strangers(out))
                # A folder cannot be replaced in one step: the old one first gets a name that readers pass over.
                os.replace(out, former)
            os.replace(staging, out)
            fsync_path(room)


@contextmanager
def staged_files(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a hidden folder whose files are moved beside ``out`` when the block ends well; none after an exception.

    Parameters
    ----------
    overwrite : bool
        As for :func:`datagen.common.ownership.check_output_file`, which every file has to pass.

    Raises
    ------
    StorageError
        If a file is in the way, or the disk refuses.
    """
    check_output_file(out, overwrite=overwrite)
    room = out.parent.resolve()
    with _staging(room, room / out.name, None) as staging:
        yield staging
        with storage_errors(f"writing {out}"):
            names = [name for name in _finish(staging) if name != LISTING]
            for name in names:
                check_output_file(room / name, overwrite=overwrite)
            for name in names:
                os.replace(staging / name, room / name)
            fsync_path(room)


@contextmanager
def _staging(room: Path, out: Path, former: Path | None) -> Iterator[Path]:
    """Make a staging folder, after what killed processes left of others; nothing remains of it in the end."""
    staging = room / f".{out.name}{_suffix()}"
    with ExitStack() as stack:
        # Whatever stands in the way here (a file among the parents, a folder nobody can write) is the caller's choice.
        with storage_errors(f"making the folder {out}"):
            make_folders(room)
            if former is not None:
                _put_back(former, out)
            _remove_left_overs(room, former)
            staging.mkdir()
            stack.callback(_clear, staging, former, out)
            stack.enter_context(_held(staging))
            # Whoever finds what a kill leaves of it knows by this that it was made here.
            (staging / LISTING).write_bytes(listing_bytes({}))
        yield staging


def _finish(staging: Path) -> Owned:
    """Write the listing of a staged folder, make all of it durable, and return what the listing names."""
    files = digests_of(staging)
    (staging / LISTING).write_bytes(listing_bytes(files))
    fsync_all(Path(folder) / name for folder, _, names in os.walk(staging) for name in (*names, "."))
    return files


def _put_back(former: Path, out: Path) -> None:
    if listed(former) is not None and not os.path.lexists(out):
        os.replace(former, out)


def _clear(staging: Path, former: Path | None, out: Path) -> None:
    if former is not None:
        _put_back(former, out)
        with suppress(OSError):
            remove_ours(former)
    shutil.rmtree(staging, ignore_errors=True)


def _remove_left_overs(room: Path, former: Path | None) -> None:
    """Remove the hidden folders of processes that are dead, whatever they should have become.

    A living process holds a lock on its own. Of folders that were being replaced only ``former`` is known to be.
    """
    for path in list(room.iterdir()):
        left = _LEFT.fullmatch(path.name)
        if not (path == former or (left and left[2])) or path.is_symlink() or not path.is_dir():
            continue
        with suppress(FileNotFoundError), _held(path) as ours:
            if ours and path == former:
                remove_ours(path)
            elif ours and ((path / LISTING).is_file() or not any(path.iterdir())):
                shutil.rmtree(path)


def _move_in(staging: Path, out: Path, files: Owned) -> None:
    entries = sorted((path for path in staging.iterdir() if path.name != LISTING), reverse=True)
    for place in (out / path.name for path in entries):
        if place.is_dir() or (place.exists() and (staging / place.name).is_dir()):
            code = errno.EISDIR if place.is_dir() else errno.EEXIST
            raise OSError(code, os.strerror(code), str(place))
    refuse_strangers(strangers(out, files, files))
    remove_half_written(out, [LISTING])
    kept = listed(out) or {}
    # While they are moved, the old bytes and the new are ours.
    _list(out, {name: tuple(dict.fromkeys((*kept.get(name, ()), *digests))) for name, digests in files.items()})
    for path in entries:
        os.replace(path, out / path.name)
    fsync_path(out)
    _list(out, files)


@contextmanager
def folder_lock(path: Path, busy: Callable[[str], CanonfaceError]) -> Iterator[bool]:
    """Keep other processes out of a folder; yield whether that can be done there: some file systems have no locks.

    The kernel drops the lock when the process ends, however it ends, so a killed one never blocks the next.

    Parameters
    ----------
    path : Path
        The folder itself; or a file in it, made if missing and left in place, that says which process holds the lock.
    busy : function of str
        Returns the error to raise if another process holds the lock, given its process id, "unknown" for a folder.

    Raises
    ------
    CanonfaceError
        What ``busy`` returns.
    StorageError
        If the folder cannot be opened or written, or the file is not one that a lock left.
    """
    with storage_errors(f"locking {path}"):
        if path.is_dir():
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        else:
            make_folders(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        if not path.is_dir() and not re.fullmatch(rb"(\d+\n)?", os.pread(descriptor, 32, 0)):
            refuse_strangers([path])
        locked = try_lock(descriptor)
        if locked is False:
            holder = "" if path.is_dir() else os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise busy(holder or "unknown")
        if not path.is_dir():
            with storage_errors(f"locking {path}"):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield locked is True
    finally:
        os.close(descriptor)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Lock a folder unless another process holds it; yield whether it is ours now."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield try_lock(descriptor) is True
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool | None:
    """Take the lock on an open file or folder; False if another process has it, None if nothing can be locked there."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks of folders
        return None
    return True


def npz_bytes(arrays: Mapping[str, npt.NDArray[Any]], *, compress: bool = True) -> bytes:
    """Return an ``.npz`` whose bytes depend on the arrays only (fixed dates, order as given)."""
    import numpy as np

    buffer = io.BytesIO()
    # numpy.savez stamps no time today, but does not promise so: the archive is written by hand to keep its bytes fixed.
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _ZIP_EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
            info.file_size = content.tell()
            # Stored members have always had the long header, as numpy writes it; digests of warps hold it fixed.
            with archive.open(info, "w", force_zip64=not compress) as member:
                member.write(content.getbuffer())
    return buffer.getvalue()


def read_npz(path: Path, names: Iterable[str] | None = None, *, expected: str, fix: str) -> dict[str, npt.NDArray[Any]]:
    """Read arrays of an ``.npz`` file, all or those named; nothing in it is unpickled.

    Raises
    ------
    InputError
        If the file is missing or broken, or lacks one of the arrays.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in (archive.files if names is None else names)}
    except Exception as error:  # numpy and zipfile raise many kinds on broken or other files
        raise InputError(f"{path} cannot be read ({error})", expected, fix) from None


def json_ready(content: Any) -> Any:
    """Return data as JSON has it: NaN and infinities become null, tuples lists, NumPy numbers plain ones."""
    if isinstance(content, Mapping):
        return {str(key): json_ready(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [json_ready(value) for value in content]
    if hasattr(content, "tolist"):
        return json_ready(content.tolist())
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
