"""What is known of files that were read together, and how much of it is kept for the next run."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from importlib import import_module
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

_STAT = struct.Struct("<qqQ")
_MISSING = b"\xff" * _STAT.size
SIGNATURE = 16  # bytes
_HEAD = struct.Struct("<II")  # how many names there are, and how many bytes of paths
_COUNT = 4  # bytes
_FEW = 32  # names
_MANY = 96  # paths: about as many


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
    return _digest(b"".join(told))


def signatures_of(root: Path, known: Sequence[Seen]) -> tuple[list[bytes], bytes]:
    """Return the signatures that several groups of files have now, and the one that all of them have as one group.

    Compiled code looks at all of them in one go, beside other threads.
    """
    counts = [len(seen.paths) for seen in known]
    paths = [path for seen in known for path in seen.paths]
    if len(paths) < _MANY or not _stamps().can_ask():
        return [signature_of(root, seen.paths) for seen in known], signature_of(root, paths)
    told = _stamps().stamps_of(root, _joined(paths), len(paths)).tobytes()
    places = pairwise(accumulate(counts, initial=0))
    return [_digest(told[_STAT.size * start : _STAT.size * stop]) for start, stop in places], _digest(told)


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
            count, length = _HEAD.unpack_from(data)
            counts = struct.unpack_from(f"<{count}I", data, _HEAD.size)
            text = _HEAD.size + (_COUNT + SIGNATURE) * count
            self._signatures = data[text - SIGNATURE * count : text]
            told = zlib.decompress(data[text:])
        except (struct.error, zlib.error) as error:
            raise ValueError(str(error)) from None
        self._starts, self._paths = [0, *accumulate(counts)], told[len(told) - length :]
        texts = told[: len(told) - length].decode("utf-8", "surrogateescape").split("\0")
        if len(texts) != 2 * count + 1 or self._paths.count(0) != self._starts[-1]:
            raise ValueError("it does not hold what it says")
        self.names, self._told = texts[:count], texts[count:-1]

    def seen(self, place: int) -> Seen:
        """Return what is known under a name, by its place among them."""
        start, stop = self._starts[place], self._starts[place + 1]
        return Seen(self._listed[start:stop], self._signature(place), self._told[place])

    def holding(self, root: Path) -> list[str | None]:
        """Return what was found under each name, None where a file is not what it was."""
        if len(self.names) < _FEW or not _stamps().can_ask():
            all_seen = map(self.seen, range(len(self.names)))
            return [seen.told if signature_of(root, seen.paths) == seen.signature else None for seen in all_seen]
        told = _stamps().stamps_of(root, self._paths, self._starts[-1]).tobytes()
        return [
            text if _digest(told[_STAT.size * start : _STAT.size * stop]) == self._signature(place) else None
            for place, (text, (start, stop)) in enumerate(zip(self._told, pairwise(self._starts), strict=True))
        ]

    def _signature(self, place: int) -> bytes:
        return self._signatures[SIGNATURE * place : SIGNATURE * (place + 1)]

    @cached_property
    def _listed(self) -> list[str]:
        return self._paths.decode("utf-8", "surrogateescape").split("\0")[:-1]


@cache
def _stamps() -> Any:
    return import_module("datagen.flows.stamps")  # loads numba, which takes longer than looking at few files


def _digest(told: bytes) -> bytes:
    return hashlib.blake2b(told, digest_size=SIGNATURE).digest()


def packed(names: Sequence[str], known: Sequence[Seen]) -> bytes:
    """Return what is known under some names as bytes; no text of it holds a zero."""
    texts = _joined([*names, *(seen.told for seen in known)])
    paths = _joined([path for seen in known for path in seen.paths])
    counts = struct.pack(f"<{len(known)}I", *(len(seen.paths) for seen in known))
    signatures = b"".join(seen.signature for seen in known)
    return _HEAD.pack(len(known), len(paths)) + counts + signatures + zlib.compress(texts + paths, 1)


def _joined(texts: Sequence[str]) -> bytes:
    """Return texts with a zero after each."""
    return "\0".join([*texts, ""]).encode("utf-8", "surrogateescape")
