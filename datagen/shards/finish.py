"""Turning finished shards into a dataset: metadata, clean-up, and the root document last."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from datagen.common.errors import MissingObjectError, StorageError
from datagen.common.files import atomic_write_bytes, fsync_path, make_folders, storage_errors
from datagen.common.ownership import refuse_strangers, walk
from datagen.shards.dataset import Dataset, open_dataset
from datagen.shards.index import IndexTables, index_problems
from datagen.shards.ledger import RECORDS, ShardRecord, file_problem, record_digest, record_key
from datagen.shards.metadata import ROOT_METADATA, plan_documents, root_attributes, root_document
from datagen.shards.ownership import STAGING, chunk_is_ours, is_document, is_left_over, owned_chunks, records_of
from datagen.shards.pinned import GivenRecords
from datagen.shards.plan import ENCODING_VERSION, DatasetPlan
from datagen.shards.reader import ChunkReader
from datagen.shards.reads import StoreReads
from datagen.shards.schema import SPLITS, TEMPLATE
from datagen.shards.store import LocalStore


def finalise(root: Path, plan: DatasetPlan, records: Iterable[ShardRecord]) -> Dataset:
    """Finish a dataset whose shards are all written.

    Removes what a killed or an earlier build left (staging, temporary files, records that are not in the plan with the
    shards they name) and nothing else, writes the metadata of arrays and groups, and the root's ``zarr.json`` last:
    before that the folder does not open as a dataset. The bytes depend on the plan and the records alone.

    Parameters
    ----------
    records : iterable of ShardRecord
        One for each of ``plan.units``, in any order.

    Raises
    ------
    StorageError
        If a shard is missing, of another plan or not as its record says, if a document is in the way that is not ours,
        or if the disk refuses.
    """
    root = Path(root)
    by_name = {record.name: record for record in records}
    files = _check_records(root, plan, by_name)
    documents = plan_documents(plan)
    digests = "".join(record_digest(by_name[unit.name].to_bytes()) for unit in plan.units)
    documents[ROOT_METADATA] = root_document(plan, root_attributes(plan, files, digests))
    keep = {*documents, *files, *(record_key(unit) for unit in plan.units)}
    with storage_errors(f"finishing {root}"):
        make_folders(root)
        pending = {name: data for name, data in documents.items() if not _holds(root / name, data)}
        in_the_way = [root / name for name in (ROOT_METADATA, *pending) if not is_document(root, root / name)]
        refuse_strangers(dict.fromkeys(in_the_way))
        stale = _stale(root, keep)
        if stale or pending:
            # Nothing may look finished while it changes.
            (root / ROOT_METADATA).unlink(missing_ok=True)
            fsync_path(root)
            pending[ROOT_METADATA] = documents[ROOT_METADATA]
        for path in stale:
            path.unlink(missing_ok=True)
        _remove_empty_folders(root)
    for name, data in pending.items():
        if name != ROOT_METADATA:
            atomic_write_bytes(root / name, data)
    _check_order(root, plan, by_name)
    if ROOT_METADATA in pending:
        atomic_write_bytes(root / ROOT_METADATA, pending[ROOT_METADATA])
    return open_dataset(root)


def _check_records(root: Path, plan: DatasetPlan, by_name: dict[str, ShardRecord]) -> dict[str, str]:
    """Return the digest of every shard file of the plan."""
    files: dict[str, str] = {}
    store = LocalStore(root)
    for unit in plan.units:
        record = by_name.get(unit.name)
        problem = None
        if record is None:
            problem = "it was never finished"
        elif record.samples != unit.samples:
            problem = f"it holds {record.samples} samples, planned were {unit.samples}"
        elif record.encoding_digest != plan.encoding_digest or record.algorithm != ENCODING_VERSION:
            problem = "it was written for another plan; content keys must depend on DatasetPlan.encoding_digest"
        elif not _stored(store, record_key(unit), record.to_bytes()):
            problem = "its record is not the one on disk"
        else:
            found = (file_problem(store, key, expected, digest=False) for key, expected in record.files.items())
            problem = next((text for text in found if text), None)
        if record is None or problem:
            raise StorageError(
                f"shard {unit.name} of {root} cannot be used: {problem}",
                "every shard of the plan, finished",
                "Build again; finished shards are kept",
            )
        files.update({path: digest.sha256 for path, digest in record.files.items()})
    return files


def _stale(root: Path, keep: set[str]) -> list[Path]:
    """Return what this or an earlier build left, records after what they name, and nothing of other people."""
    records = {path: record for path, record in records_of(root).items() if f"{RECORDS}/{path.name}" not in keep}
    chunks = [
        root / key
        for key, digests in owned_chunks(records).items()
        if key not in keep and (root / key).is_file() and chunk_is_ours(root / key, digests)
    ]
    return [path for path in walk(root) if is_left_over(root, path)] + chunks + list(records)


def _stored(store: LocalStore, key: str, data: bytes) -> bool:
    try:
        return store.read(key) == data
    except MissingObjectError:
        return False


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


def _remove_empty_folders(root: Path) -> None:
    tops = [root / name for name in (*SPLITS, TEMPLATE, RECORDS, STAGING)]
    folders = [path for top in tops if not top.is_symlink() for path in top.rglob("*")]
    for folder in sorted([*folders, *tops], reverse=True):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()


def _check_order(root: Path, plan: DatasetPlan, by_name: dict[str, ShardRecord]) -> None:
    reader = ChunkReader(StoreReads(LocalStore(root)), plan, GivenRecords(by_name))
    tables = {split: IndexTables.load(reader, split, plan) for split in SPLITS}
    problems = [text for split in SPLITS for _, text in index_problems(split, tables[split], plan)]
    if problems:
        raise StorageError(
            f"the shards of {root} do not fit together: {problems[0]}",
            "samples in order, each subject in its split",
            "Delete the folder and build again",
        )
