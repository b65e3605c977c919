"""The small per-sample arrays of a split, and what follows from them: order, clips, views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.shards.growth import ShardUnit
from datagen.shards.plan import DatasetPlan, frames_of
from datagen.shards.reader import ChunkReader

_REQUESTS = 8  # to a store at a time
ORDER = ("subject", "sequence", "camera", "frame")
FRAME_ORDER = ("subject", "sequence", "frame")


@dataclass(frozen=True)
class IndexTables:
    """Who, what, where and when of every sample of a split; (N,) arrays as stored.

    Attributes
    ----------
    subject, sequence, camera : (N,) int32
        Indices into the dataset's string tables.
    frame : (N,) int64
    time : (N,) float64, seconds since the sequence's first frame
    valid : (N,) uint8
        1 where the sample was written.
    frame_row : (N,) int64
        Row of the sample's frame in the split's frame table; −1 if the dataset has none.
    """

    subject: npt.NDArray[np.int32]
    sequence: npt.NDArray[np.int32]
    camera: npt.NDArray[np.int32]
    frame: npt.NDArray[np.int64]
    time: npt.NDArray[np.float64]
    valid: npt.NDArray[np.uint8]
    frame_row: npt.NDArray[np.int64]

    @classmethod
    def load(cls, reader: ChunkReader, split: str, plan: DatasetPlan) -> IndexTables:
        """Read the tables of a split; raises as :class:`ChunkReader`."""
        tables = load_small_arrays(reader, split, [f.name for f in fields(cls)], plan)
        if plan.faces:
            # On disk it counts the empty places between the steps of a dataset that grew.
            tables["frame_row"] = plan.shards(frames_of(split)).counted(tables["frame_row"])
        return cls(**tables)

    def __len__(self) -> int:
        return len(self.frame)


def load_small_arrays(
    reader: ChunkReader, group: str, names: Sequence[str], plan: DatasetPlan
) -> dict[str, npt.NDArray[Any]]:
    """Read whole small arrays of a group, (N, ...) each; raises as :class:`ChunkReader`."""
    units = list(plan.shards(group).units())
    # Shard by shard, so that each record is read once; and nothing of a declared size is made before it is read.

    def read(unit: ShardUnit) -> list[npt.NDArray[Any]]:
        parts = [reader.small(group, name, unit.index)[: unit.samples] for name in names]
        for name, part in zip(names, parts, strict=True):
            table = plan.numbers.get(name)
            if table is not None and ((part < 0) | (part >= len(table))).any():
                raise reader.damaged(group, unit.index, f"a number beyond the table of {len(table)} names", name)
        return parts

    if reader.is_local:
        parts = [read(unit) for unit in units]
    else:  # each read is a request, and waits for its answer
        with ThreadPoolExecutor(_REQUESTS) as pool:
            parts = list(pool.map(read, units))
    empty = [np.zeros((0, *plan.row_shape(group, name)), plan.arrays(group)[name].dtype) for name in names]
    return {name: np.concatenate(column) for name, column in zip(names, zip(empty, *parts, strict=True), strict=True)}


def index_problems(split: str, tables: IndexTables, plan: DatasetPlan) -> list[tuple[int | None, str]]:
    """Say what is inconsistent in a split's tables: (sample or None, message) pairs."""
    problems: list[tuple[int | None, str]] = []
    problems += [(int(i), "the sample was never marked as written") for i in np.flatnonzero(tables.valid != 1)]
    for name, table in (("subject", plan.subjects), ("sequence", plan.sequences), ("camera", plan.cameras)):
        indices = getattr(tables, name)
        unknown = np.flatnonzero((indices < 0) | (indices >= len(table)))
        problems += [(int(i), f"{name} {indices[i]} is not in a table of {len(table)}") for i in unknown]
    keys = np.stack([getattr(tables, name).astype(np.int64) for name in ORDER])
    begun = _begun(plan, split, len(tables))
    later = _later(keys) | begun
    problems += [(int(i) + 1, f"not after sample {i} in ({', '.join(ORDER)})") for i in np.flatnonzero(~later)]
    same_run = (keys[:-1, 1:] == keys[:-1, :-1]).all(axis=0)
    stalled = later & same_run & ~begun & ~(np.diff(tables.time) > 0)
    problems += [(int(i) + 1, f"its time is not after that of sample {i}") for i in np.flatnonzero(stalled)]
    problems += [(i, "is there twice") for i in _repeats(keys, plan)]
    if plan.faces:
        unknown = np.flatnonzero((tables.frame_row < 0) | (tables.frame_row >= plan.frame_counts[split]))
        problems += [(int(i), "names no row of the frame table") for i in unknown]
    own = frozenset(plan.splits[split])
    allowed = [i for i, subject in enumerate(plan.subjects) if subject in own]
    for subject in np.setdiff1d(tables.subject, allowed):
        sample = int(np.flatnonzero(tables.subject == subject)[0])
        name = plan.subjects[subject] if 0 <= subject < len(plan.subjects) else str(subject)
        owner = next((other for other, names in plan.splits.items() if name in names), None)
        belongs = f"a subject of {owner}" if owner else "a subject of no split"
        problems.append((sample, f"holds {name}, {belongs}: subjects must not be shared between splits"))
    return problems


def frame_problems(
    split: str, tables: IndexTables, rows: Mapping[str, npt.NDArray[Any]], plan: DatasetPlan
) -> list[tuple[int | None, str]]:
    """Say what is inconsistent between a split's frame table and its samples: (row or None, message) pairs.

    Parameters
    ----------
    rows : mapping
        ``subject``, ``sequence`` and ``frame`` of every row.
    """
    keys = np.stack([rows[name].astype(np.int64) for name in FRAME_ORDER])
    count = keys.shape[1]
    later = _later(keys) | _begun(plan, frames_of(split), count)
    problems: list[tuple[int | None, str]] = [
        (int(i) + 1, f"not after row {i} in ({', '.join(FRAME_ORDER)})") for i in np.flatnonzero(~later)
    ]
    problems += [(i, "is there twice") for i in _repeats(keys, plan)]
    named = tables.frame_row
    mine = np.stack([getattr(tables, name).astype(np.int64) for name in FRAME_ORDER])
    there = (named >= 0) & (named < count)  # the index tables' own check names the others
    wrong = there.copy()
    wrong[there] = (keys[:, named[there]] != mine[:, there]).any(axis=0)
    problems += [(int(named[i]), f"is not of the frame of sample {i}, which names it") for i in np.flatnonzero(wrong)]
    problems += [(int(row), "no sample names it") for row in np.setdiff1d(np.arange(count), named)]
    return problems


def _later(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return of each column of keys but the first whether it comes after the one before."""
    later = np.zeros(max(keys.shape[1] - 1, 0), bool)
    equal = np.ones_like(later)
    for row in keys:
        later |= equal & (row[1:] > row[:-1])
        equal &= row[1:] == row[:-1]
    return later


def _begun(plan: DatasetPlan, group: str, count: int) -> npt.NDArray[np.bool_]:
    """Return of each row but the first whether a step begins there: what a later run added comes after all else."""
    begins = np.cumsum([step[group] for step in plan.steps])[:-1]
    begun = np.zeros(max(count - 1, 0), bool)
    begun[begins[(begins > 0) & (begins < count)] - 1] = True
    return begun


def _repeats(keys: npt.NDArray[np.int64], plan: DatasetPlan) -> list[int]:
    """Return which columns of keys were there before; within a step the order tells."""
    if len(plan.steps) < 2:
        return []
    _, first = np.unique(keys, axis=1, return_index=True)
    repeats: list[int] = np.setdiff1d(np.arange(keys.shape[1]), first).tolist()
    return repeats


def runs(tables: IndexTables) -> list[tuple[int, int]]:
    """Return (start, stop) of every maximal range with one subject, sequence and camera, and increasing frames."""
    if not len(tables):
        return []
    breaks = np.diff(tables.frame) <= 0
    for name in ("subject", "sequence", "camera"):
        breaks |= np.diff(getattr(tables, name)) != 0
    edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(tables)]
    return list(pairwise(edges))


def clips(tables: IndexTables, length: int, stride: int = 1) -> list[npt.NDArray[np.int64]]:
    """Return the clips of a split; see ``Split.clips``."""
    if length < 1 or stride < 1:
        raise ValueError(f"length {length} and stride {stride} must be at least 1")
    return [
        np.arange(first, first + length)
        for start, stop in runs(tables)
        for first in range(start, stop - length + 1, stride)
    ]


def views(tables: IndexTables) -> list[npt.NDArray[np.int64]]:
    """Return the samples of each instant; see ``Split.views``."""
    if not len(tables):
        return []
    order = np.lexsort((tables.camera, tables.frame, tables.sequence, tables.subject))
    keys = np.stack([tables.subject[order], tables.sequence[order], tables.frame[order]])
    edges = np.flatnonzero((np.diff(keys, axis=1) != 0).any(axis=0)) + 1
    return [part.astype(np.int64) for part in np.split(order, edges)]
