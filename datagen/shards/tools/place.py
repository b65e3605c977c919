"""Whether `merge` and `subset` may write in a folder: one that is empty, or holds nothing but what they wrote there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from datagen.common.errors import CorruptDatasetError, DatasetError, InputError
from datagen.shards.contents import contents, digest_of, refuse_strangers, unfinished_of
from datagen.shards.dataset import Dataset, open_dataset
from datagen.shards.ledger import digest_object, read_record, record_key, unit_files
from datagen.shards.metadata import ROOT_METADATA, metadata_bytes, plan_documents
from datagen.shards.pack import ShardPacker
from datagen.shards.plan import DatasetPlan, ShardUnit
from datagen.shards.store import LocalStore, open_store
from datagen.shards.writer import STAGING

# <shard>-<process>-<hex>/<array>, as datagen.shards.writer names what it stages.
_STAGED = re.compile(rf"{re.escape(STAGING)}/(\w+-\d{{5,}})-\d+-[0-9a-f]{{8}}/(\w+)")
# How the documents begin whose end is not known before all shards are written.
_ROOT_BEGINS, _RECORD_BEGINS = b'{\n "attributes": {\n  "attributes_digest": "', b'{\n "algorithm": '


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


def check_place(
    store: LocalStore, plan: DatasetPlan, keys: Mapping[str, str], packed: Callable[[ShardUnit], ShardPacker]
) -> None:
    """Refuse a folder that holds anything but this dataset, finished or not.

    What is there has to be named, with its digest, by the root document and its records, or by a record of this very
    content; or be byte for byte what is written in its place, or the beginning of it under the name of a killed write.

    Parameters
    ----------
    keys : mapping of a shard's name to its content key
    packed : function of ShardUnit
        Returns what is written for a shard; called for those whose files are there without a record.

    Raises
    ------
    DatasetError
        Naming what is not ours.
    """
    there = store.found()
    if not there:
        return
    fix = "Choose another --out, or remove the folder first"
    known = _Known(store, plan, packed)
    if ROOT_METADATA in there:
        opened = open_dataset(store)
        if opened.plan.manifest_digest != plan.manifest_digest:
            raise DatasetError(f"{store.url} holds another dataset", "an empty folder, or this dataset", fix)
        known.named.update(contents(opened).digests())
    else:
        for unit in plan.units:
            known.add_record(unit, keys[unit.name])
    strange = [key for key, found in there.items() if not known.is_ours(key, found.size)]
    refuse_strangers(store.url, strange, lambda key: key in known.named or key in known.units, "run it again")


class _Known:
    """What of a folder is known to be ours.

    Attributes
    ----------
    named : dict of key to FileDigest
    units : dict of key to ShardUnit
        Of every shard file of the plan.
    """

    def __init__(self, store: LocalStore, plan: DatasetPlan, packed: Callable[[ShardUnit], ShardPacker]) -> None:
        self._store, self._pack = store, packed
        self._documents = plan_documents(plan)
        self.named = {key: digest_of(data) for key, data in self._documents.items()}
        self.units = {key: unit for unit in plan.units for key in unit_files(unit)}
        self._records = {record_key(unit) for unit in plan.units}
        self._names = {unit.name: unit for unit in plan.units}
        self._packed: dict[str, bytes] = {}

    def add_record(self, unit: ShardUnit, content_key: str) -> None:
        """Believe the record of a shard if it is of this content."""
        try:
            record = read_record(self._store, unit)
        except CorruptDatasetError:
            return
        if record.content_key == content_key and set(record.files) == set(unit_files(unit)):
            self.named.update(record.files)
            self.named[record_key(unit)] = digest_of(metadata_bytes(record.to_json()))

    def is_ours(self, key: str, size: int) -> bool:
        """Whether a file that is there is ours."""
        if size < 0:
            return False
        if key in self.named or key in self.units:
            expected = self.named.get(key) or digest_of(self._shard_file(key))
            return size == expected.bytes and digest_object(self._store, key) == expected
        read = partial(self._store.read, key)
        staged = _STAGED.fullmatch(key)
        if staged and staged[1] in self._names:
            keys = [file for file in unit_files(self._names[staged[1]]) if file.split("/")[1] == staged[2]]
            return bool(keys) and self._shard_file(keys[0]).startswith(read())
        final = unfinished_of(key)
        if final in self._documents:
            return self._documents[final].startswith(read())
        begins = _ROOT_BEGINS if final == ROOT_METADATA else _RECORD_BEGINS if final in self._records else None
        return begins is not None and read()[: len(begins)] == begins[:size]

    def _shard_file(self, key: str) -> bytes:
        """Return what is written under a key: what is there under its record, else what the shard is packed to."""
        if key in self.named:
            return self._store.read(key)
        if key not in self._packed:
            packer = self._pack(self.units[key])
            self._packed = {file: packer.file(file.split("/")[1]) for file in unit_files(self.units[key])}
        return self._packed[key]
