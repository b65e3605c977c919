"""Files inside of archives: what is used of them is read or unpacked, nothing else."""

from __future__ import annotations

import errno
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TypeVar

from datagen.common.errors import CanonfaceError, InputError

MOST_BYTES = 1 << 30  # of one file, unpacked
_CHUNK = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

Result = TypeVar("Result")


@dataclass(frozen=True)
class Packed:
    """A file inside of a zip archive.

    Attributes
    ----------
    archive : Path
    member : str
        Its name in the archive.
    """

    archive: Path
    member: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePosixPath(self.member).name

    @property
    def suffix(self) -> str:
        """What its name ends in."""
        return PurePosixPath(self.member).suffix

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"


File = Path | Packed


def members(archive: Path) -> tuple[str, ...]:
    """Return the names of the files in an archive; none where it is not there.

    Raises
    ------
    InputError
        If it is no zip archive, or cut off.
    """
    if not archive.is_file():
        return ()
    status = archive.stat()
    return tuple(_entries(archive, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=256)
def _entries(archive: Path, _size: int, _time: int) -> dict[str, zipfile.ZipInfo]:
    with _opened(archive) as opened:
        return {entry.filename: entry for entry in opened.infolist() if not entry.is_dir()}


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    # What a broken archive raises, which may also be encrypted, or packed in a way that is not known here.
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            raise
        raise InputError(
            f"archive {archive} cannot be read ({error})", "a whole zip archive", "Copy it again"
        ) from None


def read_packed(file: Packed) -> bytes:
    """Return a file of an archive.

    Raises
    ------
    InputError
        If it is broken, or larger than :data:`MOST_BYTES`.
    """
    with _opened(file.archive) as opened:
        try:
            entry = opened.getinfo(file.member)
        except KeyError:
            raise InputError(f"{file.archive} has no {file.member}", "the file", "Copy the archive again") from None
        if entry.file_size > MOST_BYTES:
            raise InputError(f"{file} has {entry.file_size} bytes", f"at most {MOST_BYTES}", "Check the archive")
        with opened.open(entry) as stream:
            # Not what the entry says: that may be wrong.
            data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InputError(f"{file} is larger than it says", f"at most {MOST_BYTES} bytes", "Check the archive")
    return data


def with_packed(file: Packed, read: Callable[[Path], Result]) -> Result:
    """Return what a reader of files makes of a file in an archive, which its messages name."""
    with tempfile.TemporaryDirectory(prefix="canonface-") as folder:
        path = Path(folder) / f"member{file.suffix}"
        path.write_bytes(read_packed(file))
        try:
            return read(path)
        except CanonfaceError as error:
            raise renamed(error, str(path), str(file)) from None


def renamed(error: CanonfaceError, old: str, new: str) -> CanonfaceError:
    """Return an error that names a file as its owner knows it."""
    return type(error)(*(text.replace(old, new) for text in (error.found, error.expected, error.fix)))


class Unpacked:
    """Files as paths: those of archives are unpacked below a folder when they are asked for.

    Parameters
    ----------
    folder : Path
        Made when there is something to put there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._archives: dict[Path, int] = {}
        self._known: dict[Packed, Path] = {}

    def path(self, file: File) -> Path:
        """Return where a file lies.

        Raises
        ------
        InputError
            If its archive is broken.
        """
        if isinstance(file, Path):
            return file
        if file not in self._known:
            number = self._archives.setdefault(file.archive, len(self._archives))
            # Its own name is anyone's: a number is none.
            place = self._folder / str(number) / f"{len(self._known)}{file.suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(read_packed(file))
            self._known[file] = place
        return self._known[file]

    def named(self, error: CanonfaceError) -> CanonfaceError:
        """Return an error that names files of archives as what they are."""
        for file, place in self._known.items():
            error = renamed(error, str(place), str(file))
        return error
