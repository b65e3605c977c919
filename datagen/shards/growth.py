"""How the rows of a group lie in shards, so that a dataset can grow and no shard that is finished ever changes.

What one run adds is a step, and begins a new shard: only the last shard of a step may be short. Rows are counted
without the places that stay empty behind it; as an array of Zarr counts them, they are there, and ``valid`` is 0.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ShardUnit:
    """One shard of one group, written by one writer: rows ``start`` to ``stop`` (exclusive) of the group.

    Attributes
    ----------
    group : str
        A split, the frame table of one such as ``train/frames``, or ``template``.
    """

    group: str
    index: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name used in records and messages, as in ``train-00003`` or ``train-frames-00000``."""
        return f"{self.group.replace('/', '-')}-{self.index:05d}"

    @property
    def split(self) -> str:
        """The split of the group."""
        return self.group.partition("/")[0]

    @property
    def samples(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class GroupShards:
    """The shards of a group.

    Attributes
    ----------
    per_shard : int
        Rows of a full shard.
    counts : tuple of int
        Rows that each step added.
    """

    group: str
    per_shard: int
    counts: tuple[int, ...]

    @cached_property
    def _first_row(self) -> list[int]:
        return [0, *accumulate(self.counts)]

    @cached_property
    def _first_shard(self) -> list[int]:
        return [0, *accumulate(-(-count // self.per_shard) for count in self.counts)]

    def __len__(self) -> int:
        return self._first_shard[-1]

    @property
    def rows(self) -> int:
        """Rows in all."""
        return self._first_row[-1]

    @property
    def stored_rows(self) -> int:
        """Rows in all as an array of Zarr counts them."""
        if not len(self):
            return 0
        last = self.unit(len(self) - 1)
        return (len(self) - 1) * self.per_shard + last.samples

    def place(self, row: int) -> tuple[int, int]:
        """Return the shard of a row, and its position there."""
        step = bisect_right(self._first_row, row) - 1
        shard, position = divmod(row - self._first_row[step], self.per_shard)
        return self._first_shard[step] + shard, position

    def shard_of(self, rows: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """Return the shard of each row, int64."""
        step = np.searchsorted(self._first_row, rows, side="right") - 1
        inside = (rows - np.asarray(self._first_row)[step]) // self.per_shard
        return np.asarray(np.asarray(self._first_shard)[step] + inside, np.int64)

    def stored(self, rows: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """Return the places of rows in an array of Zarr, int64."""
        step = np.searchsorted(self._first_row, rows, side="right") - 1
        inside = rows - np.asarray(self._first_row)[step]
        return np.asarray(np.asarray(self._first_shard)[step] * self.per_shard + inside, np.int64)

    def counted(self, stored: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """Undo :meth:`stored`; −1 where a place is empty or there is none."""
        stored = np.asarray(stored, np.int64)
        step = np.searchsorted(self._first_shard, stored // self.per_shard, side="right") - 1
        inside = stored - np.asarray(self._first_shard)[step] * self.per_shard
        known = np.asarray([*self.counts, 0])[step]
        return np.where((stored >= 0) & (inside < known), np.asarray(self._first_row)[step] + inside, -1)

    def unit(self, shard: int) -> ShardUnit:
        """Return a shard by its number."""
        step = bisect_right(self._first_shard, shard) - 1
        start = self._first_row[step] + (shard - self._first_shard[step]) * self.per_shard
        return ShardUnit(self.group, shard, start, min(start + self.per_shard, self._first_row[step + 1]))

    def units(self) -> Iterator[ShardUnit]:
        """All shards, by number."""
        return (self.unit(shard) for shard in range(len(self)))
