"""Whether `merge` and `subset` may write in a folder: one that is empty, or holds nothing but what they wrote there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from datagen.common.errors import DatasetError, InputError
from datagen.common.ownership import refuse_strangers
from datagen.shards.dataset import Dataset, open_dataset
from datagen.shards.metadata import ROOT_METADATA
from datagen.shards.ownership import foreign_files, records_of
from datagen.shards.plan import DatasetPlan
from datagen.shards.store import LocalStore, open_store


def local_place(out: str | Path, sources: Iterable[Dataset]) -> LocalStore:
    """Return the folder to write in.

    Raises
    ------
    InputError
        If it is no folder of a disk, or lies in a dataset that is read.
    """
    store = open_store(out)
    if not isinstance(store, LocalStore):
        raise InputError(f"the output {out} is a URL", "a local folder", "Write to a folder, then `datagen push` it")
    if store.root.exists() and not store.root.is_dir():
        raise InputError(f"{out} is a file", "a folder or a new name", "Choose another --out")
    refuse_inside(store, sources)
    return store


def refuse_inside(store: LocalStore, sources: Iterable[Dataset]) -> None:
    """Refuse to write below a dataset that is read: it would no longer be a dataset alone; InputError."""
    place = store.root.resolve()
    for source in sources:
        if isinstance(source.store, LocalStore) and source.store.root.resolve() in place.parents:
            raise InputError(
                f"{store.root} lies in the dataset {source.url}", "a place outside", "Choose another place"
            )


def check_place(store: LocalStore, plan: DatasetPlan, keys: Mapping[str, str]) -> None:
    """Refuse a folder that holds anything but this dataset, finished or not.

    Parameters
    ----------
    keys : mapping of a shard's name to its content key

    Raises
    ------
    DatasetError
        If another dataset is there, or a part of one.
    StorageError
        Naming files that no record of a dataset names.
    """
    fix = "Choose another --out, or remove the folder first"
    refuse_strangers(foreign_files(store.root))
    if store.exists(ROOT_METADATA):
        if open_dataset(store).plan.manifest_digest != plan.manifest_digest:
            raise DatasetError(f"{store.url} holds another dataset", "an empty folder, or this dataset", fix)
        return
    for record in records_of(store.root).values():
        if record.content_key != keys.get(record.name):
            raise DatasetError(
                f"{store.url} holds {record.name} of another dataset", "an empty folder, or parts of this dataset", fix
            )
