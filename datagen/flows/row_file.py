"""A file of numbered rows, each read by itself: what tasks refer to, on any file system and without locks.

Its head and rows are bytes; their places stand at its end, so that it is written in one go, whole or not at all.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from datagen.common.errors import InputError
from datagen.common.files import write_owned

_MAGIC = b"canonface rows 1\n"
_TAIL = struct.Struct("<QQ8s")  # where the places stand, how many rows there are, and the end of the name
_SUM = struct.Struct("<I")
_END = b"rows end"


def write_rows(path: Path, head: bytes, rows: Iterable[bytes]) -> None:
    """Write a file of rows that its folder's listing names.

    Raises
    ------
    StorageError
        If a file that is not ours is in the way, or the disk refuses.
    """

    def write(file: BinaryIO) -> None:
        file.write(_MAGIC)
        places = [len(_MAGIC)]
        for row in chain([head], rows):
            file.write(_SUM.pack(zlib.crc32(row)) + row)
            places.append(places[-1] + _SUM.size + len(row))
        file.write(np.asarray(places, "<u8").tobytes() + _TAIL.pack(places[-1], len(places) - 2, _END))

    write_owned(path, write)


class RowFile:
    """A file of rows, open as long as this is.

    Raises
    ------
    InputError
        If it is missing or is no file of rows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise self._broken(error.strerror or str(error)) from None
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, _TAIL.size, max(0, size - _TAIL.size))
        if len(tail) < _TAIL.size or not tail.endswith(_END):
            raise self._broken("it does not end as one")
        start, count, _ = _TAIL.unpack(tail)
        places = os.pread(self._file, 8 * (count + 2), start)
        if start + 8 * (count + 2) + _TAIL.size != size or len(places) != 8 * (count + 2):
            raise self._broken("its length does not fit")
        self._places = np.frombuffer(places, "<u8")

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __len__(self) -> int:
        return len(self._places) - 2

    @property
    def head(self) -> bytes:
        """What the rows share."""
        return self._read(0)

    def row(self, number: int) -> bytes:
        """Return a row.

        Raises
        ------
        InputError
            If it is damaged, or there is none of that number.
        """
        if not 0 <= number < len(self):
            raise self._broken(f"it has no row {number}")
        return self._read(number + 1)

    def _read(self, position: int) -> bytes:
        start, stop = int(self._places[position]), int(self._places[position + 1])
        data = os.pread(self._file, stop - start, start)
        if len(data) != stop - start or _SUM.pack(zlib.crc32(data[_SUM.size :])) != data[: _SUM.size]:
            raise self._broken(f"row {position} is damaged")
        return data[_SUM.size :]

    def _broken(self, reason: str) -> InputError:
        return InputError(
            f"the plan {self._path} cannot be read ({reason})",
            "what a build wrote before it began",
            "Remove the file, and run the same command again; every worker has to see the build folder",
        )
