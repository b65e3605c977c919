"""Digests of inputs, read once: as long as nothing a frame is read from changes, they are known."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from datagen.common.digests import sha256_text
from datagen.flows.state_index import clock_s, look, open_index, read_and_remember
from datagen.layout import BuildLayout
from datagen.sources.frame import Captures, SequenceKey
from datagen.sources.registry import Source

_DIGESTS = 1  # raise it when the same files give another digest


class KnownInputs:
    """The inputs of a build's frames.

    Parameters
    ----------
    root : Path
        The build folder.
    source : Source
        What the recipe says of the captures.
    captures : Captures
        Opened.
    group : str
        Of what these inputs are: those of a fit are pictures, those of a warp the fit too.
    """

    def __init__(self, root: Path, source: Source, captures: Captures, group: str = "inputs") -> None:
        self._root, self._captures, self._group = root, captures, group
        self._index = open_index(root)
        self._kept = self._index is not None or BuildLayout(root).plan.is_dir()
        self._reader = _reader(source) if self._kept else ""

    def input_digest(self, key: SequenceKey, index: int) -> str:
        """Return a frame's digest as :meth:`Captures.input_digest`, without reading what is known."""
        if not self._kept:
            return self._captures.input_digest(key, index)
        known = self.known_digest(key, index)
        if known is not None:
            return known
        group, name = self._place(key, index)
        began_s = clock_s()
        read = self._captures.inputs(key, index)
        if read.paths is not None:
            read_and_remember(self._root, group, name, read.paths, read.digest, read_s=began_s)
        return read.digest

    def known_digest(self, key: SequenceKey, index: int) -> str | None:
        """Return a frame's digest if it is known without reading anything, else None."""
        if self._index is None or self._index.check_inputs:
            return None
        seen = look(self._root, *self._place(key, index))
        return None if seen is None else seen.told

    def _place(self, key: SequenceKey, index: int) -> tuple[str, str]:
        return f"{self._group}/{self._reader}/{key}", str(index)


@lru_cache(maxsize=8)
def _reader(source: Source) -> str:
    """Name how files are read: another source, or another version, may make another digest of the same ones."""
    try:
        program = version("canonface")
    except PackageNotFoundError:
        program = "unknown"
    return sha256_text(f"{_DIGESTS} {program} {source.text()}")[:16]
