"""Checking a dataset against its records, its attributes and the invariants of the format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CorruptDatasetError, MissingObjectError
from datagen.shards.dataset import Dataset, open_dataset
from datagen.shards.frames import face_problems
from datagen.shards.growth import ShardUnit
from datagen.shards.index import FRAME_ORDER, IndexTables, frame_problems, index_problems, load_small_arrays
from datagen.shards.ledger import ShardRecord, file_problem, record_key, unit_files
from datagen.shards.metadata import ROOT_METADATA, content_digest, is_map, plan_documents, root_document, uuid_of
from datagen.shards.pinned import GivenRecords
from datagen.shards.plan import DatasetPlan, frames_of
from datagen.shards.reader import ChunkReader
from datagen.shards.reads import StoreReads
from datagen.shards.schema import CANONICAL_LEVELS, NORMAL_LEVELS, SPLITS, VERDICTS
from datagen.shards.store import LocalStore
from datagen.shards.tools.face_check import NEEDED, table_errors_mm, table_problem

UNKNOWN_CANONICAL = CANONICAL_LEVELS // 2  # stored where nothing is known; decodes to 0 exactly
_UNIT_LOW, _UNIT_HIGH = 0.9, 1.1  # a unit normal after rounding to 1/127, with room for float error

Stored = Mapping[str, npt.NDArray[Any]]


def sample_problems(stored: Stored, plan: DatasetPlan) -> Iterator[str]:
    """Yield a message for each invariant that a stored sample breaks.

    Parameters
    ----------
    stored : mapping of array name to the stored values of one sample
        Arrays that could not be read may be absent; checks that need them are skipped.
    """
    for needed, check in (
        (("confidence", "canonical"), _check_canonical),
        (("depth", "confidence"), _check_confidence),
        (("depth", "region"), _check_region),
        (("depth", "normal"), _check_normal),
        (("edge",), _check_edge),
        (("intrinsics",), _check_intrinsics),
        (("world_to_camera",), _check_world_to_camera),
        (("head_to_world",), _check_head_to_world),
    ):
        if all(name in stored for name in needed):
            message = check(stored)
            if message:
                yield message
    if "region" in stored and plan.regions:
        unknown = np.setdiff1d(stored["region"], [0, *plan.regions.values()])
        if unknown.size:
            yield f"region label {int(unknown[0])} is not in the table"
    if "frame" in stored and stored["frame"] < 0:
        yield f"frame {int(stored['frame'])} is negative"
    if "verdict" in stored and stored["verdict"] >= len(VERDICTS):
        yield f"verdict {int(stored['verdict'])} is not one of {len(VERDICTS)}"
    if "time" in stored and not np.isfinite(stored["time"]):
        yield "time is not finite"


def _pixels(wrong: npt.NDArray[np.bool_], message: str) -> str | None:
    if not wrong.any():
        return None
    row, column = (int(i) for i in np.argwhere(wrong)[0])
    return f"{message} in {int(wrong.sum())} pixels, the first at row {row}, column {column}"


def _check_canonical(stored: Stored) -> str | None:
    known = stored["confidence"] > 0
    outside = (stored["canonical"] > CANONICAL_LEVELS).any(axis=0)
    unknown = (stored["canonical"] != UNKNOWN_CANONICAL).any(axis=0)
    return _pixels(np.where(known, outside, unknown), "canonical leaves [-1, 1], or is not 0 where confidence is 0,")


def _check_confidence(stored: Stored) -> str | None:
    return _pixels((stored["confidence"] > 0) & (stored["depth"] == 0), "confidence above 0 without a surface")


def _check_region(stored: Stored) -> str | None:
    return _pixels((stored["region"] > 0) & (stored["depth"] == 0), "a region without a surface")


def _check_edge(stored: Stored) -> str | None:
    return _pixels(stored["edge"] > 1, "edge is neither 0 nor 1")


def _check_normal(stored: Stored) -> str | None:
    normal = stored["normal"].astype(np.float32) / NORMAL_LEVELS
    length = np.sqrt((normal**2).sum(axis=0))
    surface = stored["depth"] > 0
    # A sliver triangle has no normal: 0 is allowed on a surface, anything else must be unit.
    odd = np.where(surface, (length > 0) & ((length < _UNIT_LOW) | (length > _UNIT_HIGH)), length > 0)
    return _pixels(odd, "a normal is not unit on a surface, or not 0 off it,")


def _check_intrinsics(stored: Stored) -> str | None:
    k = stored["intrinsics"]
    well = np.isfinite(k).all() and k[0, 0] > 0 and k[1, 1] > 0 and np.array_equal(k[2], (0, 0, 1))
    return None if well else "intrinsics are not a pinhole matrix"


def _check_transform(stored: Stored, name: str) -> str | None:
    m = stored[name]
    return None if np.isfinite(m).all() and np.array_equal(m[3], (0, 0, 0, 1)) else f"{name} is not a rigid transform"


def _check_world_to_camera(stored: Stored) -> str | None:
    return _check_transform(stored, "world_to_camera")


def _check_head_to_world(stored: Stored) -> str | None:
    return _check_transform(stored, "head_to_world")


Level = Literal["quick", "digests", "deep"]
# What each level looks at, in the words of the report.
LEVELS: dict[Level, str] = {
    "quick": "structure, records, file lengths, index tables, splits and each chunk's checksum; no maps were read",
    "digests": "structure, records, index tables, splits and the digest of every byte; no maps were decoded",
    "deep": (
        "structure, records, index tables, splits, the digest of every byte, every value of every map, "
        "and the frame table against the maps"
    ),
}
_NAMED = 10  # strays and index faults named one by one; more of the same kind tell nothing new


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes
    ----------
    split : str or None
        The split or another group, such as ``train/frames``; None where the whole dataset is concerned.
    sample : int or None
        Number of the sample in its split, or of the row in its group, where one is concerned.
    """

    split: str | None
    shard: int | None
    sample: int | None
    message: str

    def __str__(self) -> str:
        parts = [self.split or "dataset"]
        parts += [f"shard {self.shard}"] if self.shard is not None else []
        parts += [f"sample {self.sample}"] if self.sample is not None else []
        return f"{', '.join(parts)}: {self.message}"


@dataclass(frozen=True)
class VerifyReport:
    """What a verification looked at and found.

    Attributes
    ----------
    level : ``quick``, ``digests`` or ``deep``
    counts : dict
        ``shards``, ``samples``, ``files`` and ``bytes`` of the dataset.
    problems : tuple of Problem
        Empty if all is well.
    """

    path: str
    uuid: str
    level: Level
    counts: dict[str, int]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON data."""
        problems = [vars(problem) for problem in self.problems]
        return {**vars(self), "checked": LEVELS[self.level], "ok": self.ok, "problems": problems}


def verify_dataset(
    path: str | Path,
    level: Level = "deep",
    on_shard: Callable[[ShardUnit], None] | None = None,
    known: Callable[[ShardUnit], bool] | None = None,
    workers: int = 1,
) -> VerifyReport:
    """Check structure, records, bytes, values and index tables of a dataset.

    Parameters
    ----------
    path : str or Path
        A folder or the URL of an object store.
    level : ``quick``, ``digests`` or ``deep``
        How much is read; :data:`LEVELS` says what each covers.
    on_shard : callable, optional
        Called after each shard, for progress.
    known : callable, optional
        Whether whoever calls vouches for the bytes of a shard, which checked them before: only the lengths of its
        files are looked at.
    workers : int
        Shards that are looked at at a time, in threads. What is found, and its order, do not depend on it.

    Returns
    -------
    VerifyReport
        Damage is reported, never raised.

    Raises
    ------
    DatasetError
        If there is no finished dataset of a known version at ``path``, or another took its place meanwhile.
    StorageError
        If the disk or the store refuses: what cannot be read is not damaged.
    """
    try:
        dataset = open_dataset(path)
    except CorruptDatasetError as error:
        counts = dict.fromkeys(("shards", "samples", "files", "bytes"), 0)
        return VerifyReport(str(path), "", level, counts, (Problem(None, None, None, error.found),))
    records: dict[ShardUnit, ShardRecord | None] = {}
    problems: list[Problem] = []
    for unit in dataset.plan.units:
        records[unit], found = _check_record(dataset, unit)
        problems += found
    problems += _check_attributes(dataset, records)
    problems += _check_metadata(dataset)
    problems += _check_strays(dataset)
    for split in SPLITS:
        problems += _check_index(dataset, split)
    least: Level = level

    def look(unit: ShardUnit) -> tuple[bool, list[Problem]]:
        record = records[unit]
        vouched = known is not None and known(unit)
        check = _check_lengths(dataset, unit, record) if vouched else _check_shard(dataset, unit, record, level)
        return vouched, list(check)

    with ExitStack() as held:
        pool = held.enter_context(ThreadPoolExecutor(workers, "verify")) if workers > 1 else None
        held.callback(lambda: pool.shutdown(cancel_futures=True) if pool is not None else None)
        looked = map(look, records) if pool is None else pool.map(look, records)
        for unit, (vouched, found) in zip(records, looked, strict=True):
            least = "quick" if vouched else least
            problems += found
            if on_shard is not None:
                on_shard(unit)
    if problems:
        dataset.check_current()
    digests = [digest for record in records.values() if record for digest in record.files.values()]
    counts = {
        "shards": len(records),
        "samples": sum(dataset.plan.counts.values()),
        "files": len(digests),
        "bytes": sum(digest.bytes for digest in digests),
    }
    return VerifyReport(dataset.url, dataset.uuid, least, counts, tuple(problems))


def _check_record(dataset: Dataset, unit: ShardUnit) -> tuple[ShardRecord | None, list[Problem]]:
    try:
        return dataset.record(unit.group, unit.index), []
    except CorruptDatasetError as error:
        return None, [Problem(unit.group, unit.index, None, error.found)]


def _check_attributes(dataset: Dataset, records: dict[ShardUnit, ShardRecord | None]) -> Iterator[Problem]:
    if any(record is None for record in records.values()):
        return
    files = {path: digest.sha256 for record in records.values() if record for path, digest in record.files.items()}
    digest = content_digest(dataset.plan, files)
    if dataset.attrs.get("content_digest") != digest or dataset.uuid != uuid_of(digest):
        yield Problem(None, None, None, "the uuid does not follow from the plan and the records")


def _check_metadata(dataset: Dataset) -> Iterator[Problem]:
    documents = {**plan_documents(dataset.plan), ROOT_METADATA: root_document(dataset.plan, dataset.attrs)}
    for key, expected in documents.items():
        try:
            if dataset.store.read(key, 0, len(expected) + 1) == expected:
                continue
            message = f"{key} is not what the attributes call for"
        except MissingObjectError:
            message = f"{key} is missing"
        yield Problem(key.partition("/")[0] if "/" in key else None, None, None, message)


def _check_strays(dataset: Dataset) -> list[Problem]:
    units = dataset.plan.units
    known = {ROOT_METADATA, *plan_documents(dataset.plan), *(record_key(unit) for unit in units)}
    known |= {key for unit in units for key in unit_files(unit, dataset.plan.arrays(unit.group))}
    strays = [key for key in dataset.store.list() if key not in known]
    problems = [Problem(None, None, None, f"stray file {name}") for name in strays[:_NAMED]]
    if len(strays) > _NAMED:
        problems.append(Problem(None, None, None, f"{len(strays) - _NAMED} more stray files"))
    return problems


def _check_index(dataset: Dataset, split: str) -> list[Problem]:
    plan = dataset.plan
    try:
        tables = IndexTables.load(dataset.reader, split, plan)
    except CorruptDatasetError:
        return []  # the shard's own check names the damaged file
    problems = _in_shards(plan, split, index_problems(split, tables, plan), "the index tables")
    if plan.faces:
        group = frames_of(split)
        try:
            rows = load_small_arrays(dataset.reader, group, FRAME_ORDER, plan)
        except CorruptDatasetError:
            return problems
        problems += _in_shards(plan, group, frame_problems(split, tables, rows, plan), "the frame table")
    return problems


def _in_shards(plan: DatasetPlan, group: str, found: list[tuple[int | None, str]], what: str) -> list[Problem]:
    shards = plan.shards(group)
    shard_of = [None if row is None else shards.place(row)[0] for row, _ in found]
    problems = [Problem(group, s, i, text) for s, (i, text) in zip(shard_of, found[:_NAMED], strict=False)]
    if len(found) > _NAMED:
        problems.append(Problem(group, None, None, f"{len(found) - _NAMED} more faults in {what}"))
    return problems


def _check_shard(dataset: Dataset, unit: ShardUnit, record: ShardRecord | None, level: Level) -> Iterator[Problem]:
    if record is None:  # nothing that it says is to be trusted
        for key in unit_files(unit, dataset.plan.arrays(unit.group)):
            if not dataset.store.exists(key):
                yield Problem(unit.group, unit.index, None, f"{key} is missing")
        return
    damaged = False
    for key, expected in record.files.items():
        problem = file_problem(dataset.store, key, expected, digest=level != "quick")
        if problem:
            damaged = True
            yield Problem(unit.group, unit.index, None, problem)
    # Where a digest disagrees, decoding says which samples are hit.
    if level == "deep" or (damaged and level == "digests"):
        yield from _check_rows(dataset.plan, dataset.reader, unit, partial(_against_table, dataset, unit.group))
    elif not damaged:
        for name in dataset.plan.arrays(unit.group):
            for sample, message in dataset.reader.wrong_checksums(unit, name):
                yield Problem(unit.group, unit.index, sample, message)


def _check_lengths(dataset: Dataset, unit: ShardUnit, record: ShardRecord | None) -> Iterator[Problem]:
    for key, expected in record.files.items() if record is not None else ():
        problem = file_problem(dataset.store, key, expected, digest=False)
        if problem:
            yield Problem(unit.group, unit.index, None, problem)


def written_problems(root: Path, plan: DatasetPlan, unit: ShardUnit, record: ShardRecord) -> list[Problem]:
    """Check every value of a shard that was written a moment ago, whose dataset need not be finished.

    What a writer compared already, the bytes of its files, is not read for itself. Samples are not held against the
    frame table.

    Raises
    ------
    StorageError
        If the disk refuses.
    """
    reader = ChunkReader(StoreReads(LocalStore(root)), plan, GivenRecords({record.name: record}))
    return list(_check_rows(plan, reader, unit, lambda _row, _stored: ()))


def _check_rows(
    plan: DatasetPlan, reader: ChunkReader, unit: ShardUnit, against: Callable[[int, Stored], Iterable[str]]
) -> Iterator[Problem]:
    arrays = plan.arrays(unit.group)
    maps = [name for name, spec in arrays.items() if is_map(spec)]
    small: dict[str, np.ndarray[Any, Any]] = {}
    for name in arrays:
        if name in maps:
            continue
        try:
            small[name] = reader.small(unit.group, name, unit.index)
        except CorruptDatasetError as error:
            yield Problem(unit.group, unit.index, None, error.found)
    for i in range(unit.start, unit.stop):
        stored = {name: values[i - unit.start] for name, values in small.items()}
        for name in maps:
            out = np.empty(plan.row_shape(unit.group, name), arrays[name].dtype)
            try:
                reader.sample_into(unit.group, name, i, out)
            except CorruptDatasetError as error:
                yield Problem(unit.group, unit.index, i, error.found)
            else:
                stored[name] = out
        found = sample_problems(stored, plan) if unit.group in SPLITS else face_problems(unit.group, stored, plan)
        for message in (*found, *against(i, stored)):
            yield Problem(unit.group, unit.index, i, message)


def _against_table(dataset: Dataset, group: str, i: int, stored: Stored) -> Iterator[str]:
    """Hold a sample against the row of its frame; damage of the row itself is found where its own shard is checked."""
    if not dataset.plan.faces or group not in SPLITS or not set(NEEDED) <= set(stored):
        return
    try:
        row = int(dataset[group].index.frame_row[i])
        if row < 0:
            return  # the index tables' own check says so
        errors_mm = table_errors_mm(stored, dataset[group].frames.vertices([row])[0], dataset.template, dataset.plan)
    except CorruptDatasetError:
        return
    message = table_problem(errors_mm)
    if message:
        yield message
