"""What is known of files that were read together, and how much of it is kept for the next run."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

_STAT = struct.Struct("<qqQ")
_MISSING = b"\xff" * _STAT.size
SIGNATURE = 16  # bytes
_COUNT = struct.Struct("<I")


class Seen(NamedTuple):
    """What is known of a group of files that were read together.

    Attributes
    ----------
    paths : sequence of str
        Files, and folders whose entries count; some may be missing. Those of the build folder begin there: a folder
        that was copied tells of its own files, not of those it was copied from.
    signature : bytes
        Of all of them as they were.
    told : str
        What was found in them.
    """

    paths: Sequence[str]
    signature: bytes
    told: str


def signature_of(root: Path, paths: Iterable[str], looked: dict[str, bytes] | None = None) -> bytes:
    """Return a digest of size, modification time and inode of paths; those that begin nowhere begin at ``root``.

    Parameters
    ----------
    looked : dict of path to bytes, optional
        What was found a moment ago, which is not looked at again; it is added to.
    """
    stat, pack, above = os.stat, _STAT.pack, f"{root}{os.sep}"
    told = []
    for path in paths:
        packed = None if looked is None else looked.get(path)
        if packed is None:
            try:
                found = stat(path if path[0] == os.sep else above + path)
            except OSError:
                packed = _MISSING
            else:
                packed = pack(found.st_size, found.st_mtime_ns, found.st_ino)
            if looked is not None:
                looked[path] = packed
        told.append(packed)
    return hashlib.blake2b(b"".join(told), digest_size=SIGNATURE).digest()


class Pack:
    """What is known under some names of one group, as it is kept: of a million frames, a row for each would be slow.

    Parameters
    ----------
    data : bytes
        As :func:`packed` gave it.

    Raises
    ------
    ValueError
        If it is anything else.
    """

    def __init__(self, data: bytes) -> None:
        try:
            (count,) = _COUNT.unpack_from(data)
            counts = struct.unpack_from(f"<{count}I", data, _COUNT.size)
            text = _COUNT.size * (1 + count) + SIGNATURE * count
            self._signatures = data[text - SIGNATURE * count : text]
            told = zlib.decompress(data[text:]).decode("utf-8", "surrogateescape").split("\0")
        except (struct.error, zlib.error) as error:
            raise ValueError(str(error)) from None
        self._starts = [0, *accumulate(counts)]
        if len(told) != 2 * count + self._starts[-1]:
            raise ValueError("it does not hold what it says")
        self.names, self._told, self._paths = told[:count], told[count : 2 * count], told[2 * count :]

    def seen(self, place: int) -> Seen:
        """Return what is known under a name, by its place among them."""
        return Seen(
            self._paths[self._starts[place] : self._starts[place + 1]],
            self._signatures[SIGNATURE * place : SIGNATURE * (place + 1)],
            self._told[place],
        )


def packed(names: Sequence[str], known: Sequence[Seen]) -> bytes:
    """Return what is known under some names as bytes; no text of it holds a zero."""
    texts = [*names, *(seen.told for seen in known), *(path for seen in known for path in seen.paths)]
    counts = struct.pack(f"<{len(known) + 1}I", len(known), *(len(seen.paths) for seen in known))
    signatures = b"".join(seen.signature for seen in known)
    return counts + signatures + zlib.compress("\0".join(texts).encode("utf-8", "surrogateescape"), 1)
