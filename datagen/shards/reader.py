"""Opening a dataset: its attributes and its splits. Needs numpy and numcodecs only; object stores need obstore."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from datagen.errors import CanonfaceError, CorruptDatasetError, DatasetError, MissingObjectError
from datagen.shards.access import ChunkReader
from datagen.shards.ledger import RECORDS
from datagen.shards.metadata import ROOT_METADATA, attributes_digest
from datagen.shards.plan import DatasetPlan
from datagen.shards.schema import FORMAT, FORMAT_VERSION, SPLITS
from datagen.shards.split import Split
from datagen.shards.store import LocalStore, Store, is_url, open_store
from datagen.shards.writer import STAGING

DATASET_FOLDER = "dataset.zarr"


class Dataset(Mapping[str, Split]):
    """A finished dataset: a mapping of split names to splits. Made by :func:`open_dataset`.

    Attributes
    ----------
    store : Store
        Where it lies.
    url : str
        The same as text.
    attrs : mapping
        The root attributes, as docs/dataset-format.md lists them.
    plan : DatasetPlan
        The same, typed.
    reader : ChunkReader
        Reads its chunks; shared by all splits and threads.
    """

    def __init__(self, store: Store, attrs: Mapping[str, Any]) -> None:
        self.store = store
        self.url = store.url
        self.attrs = MappingProxyType(dict(attrs))
        self.plan = DatasetPlan.from_json(attrs)
        self.reader = ChunkReader(store)
        self._splits = {name: Split(self, name) for name in SPLITS}

    def __reduce__(self) -> tuple[type[Dataset], tuple[Store, dict[str, Any]]]:
        return type(self), (self.store, dict(self.attrs))

    def __getitem__(self, split: str) -> Split:
        return self._splits[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    def __repr__(self) -> str:
        return f"Dataset({self.url!r}, {dict(self.plan.counts)})"

    @property
    def path(self) -> Path:
        """The folder, of a local dataset.

        Raises
        ------
        DatasetError
            If it lies in an object store.
        """
        if not isinstance(self.store, LocalStore):
            raise DatasetError(f"{self.url} is no local folder", "a dataset on a disk", "Copy it to a disk first")
        return self.store.root

    @property
    def uuid(self) -> str:
        """Identifier derived from the content."""
        return str(self.attrs["uuid"])

    @property
    def resolution(self) -> int:
        """Pixels a side."""
        return self.plan.resolution

    @property
    def depth_scale(self) -> float:
        """Metres per stored depth step."""
        return self.plan.depth_scale

    @property
    def half_extent_m(self) -> float:
        """Metres per unit of canonical coordinate."""
        return float(self.plan.space["half_extent"])

    @property
    def splits(self) -> Mapping[str, Sequence[str]]:
        """Subjects of each split."""
        return self.plan.splits


def open_dataset(path: str | Path | Store) -> Dataset:
    """Open a finished dataset.

    Parameters
    ----------
    path : str, Path or Store
        The ``dataset.zarr`` folder, a build folder that holds one, the same as ``s3://bucket/…``, or a store.

    Raises
    ------
    DatasetError
        If there is none, it is not finished, of another format or of a newer version.
    CorruptDatasetError
        If its root document is damaged.
    StorageError
        If the disk or the store refuses.
    """
    store = open_store(path) if isinstance(path, str | Path) else path
    if isinstance(path, str | Path) and not store.exists(ROOT_METADATA):
        below = f"{store.url}/{DATASET_FOLDER}" if is_url(path) else Path(path) / DATASET_FOLDER
        inner = open_store(below)
        if inner.root.is_dir() if isinstance(inner, LocalStore) else inner.exists(ROOT_METADATA):
            store = inner
    url = store.url
    try:
        attrs = _read_attributes(store)
    except ValueError as error:
        raise CorruptDatasetError(
            f"{url}/{ROOT_METADATA} is damaged: {error}", "a Zarr v3 document", "Build again; finished shards are kept"
        ) from None
    _check_format(url, attrs)
    # A flipped bit in depth_scale, say, would scale every depth without a trace.
    if attrs.get("attributes_digest") != attributes_digest(attrs):
        raise CorruptDatasetError(
            f"the attributes of {url} are not those that were written",
            "attributes that agree with their attributes_digest",
            "Build again; finished shards are kept",
        )
    try:
        return Dataset(store, attrs)
    except CanonfaceError as error:
        raise CorruptDatasetError(
            f"the attributes of {url} contradict each other: {error}",
            "the attributes of docs/dataset-format.md",
            "Build again; finished shards are kept",
        ) from None


def _read_attributes(store: Store) -> dict[str, Any]:
    local = isinstance(store, LocalStore)
    if isinstance(store, LocalStore) and not store.root.is_dir():
        raise DatasetError(f"{store.url} does not exist or is no folder", "a dataset.zarr folder", "Check the path")
    try:
        document = store.read(ROOT_METADATA)
    except MissingObjectError:
        if any(_holds(store, name) for name in (RECORDS, STAGING, *SPLITS)):
            raise DatasetError(
                f"dataset {store.url} is not finished",
                "a build that ran to its end",
                "Run the build again; it goes on where it stopped",
            ) from None
        expected = f"a {'folder' if local else 'prefix'} with a zarr.json"
        raise DatasetError(f"{store.url} is no dataset", expected, "Check the path") from None
    content = json.loads(document)
    attributes = content.get("attributes") if isinstance(content, dict) else None
    return attributes if isinstance(attributes, dict) else {}


def _holds(store: Store, name: str) -> bool:
    if isinstance(store, LocalStore):
        return store.path(name).exists()
    return next(iter(store.list(name)), None) is not None


def _check_format(url: str, attrs: Mapping[str, Any]) -> None:
    if attrs.get("format") != FORMAT:
        raise DatasetError(
            f"{url} is a Zarr store of another kind (format {attrs.get('format')!r})",
            f"format {FORMAT!r}",
            "Give the dataset.zarr folder of a build",
        )
    version = attrs.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise CorruptDatasetError(f"{url} has format_version {version!r}", "a positive integer", "Build again")
    if version > FORMAT_VERSION:
        raise DatasetError(
            f"{url} is of format version {version}",
            f"at most {FORMAT_VERSION}, the newest this version of canonface reads",
            "upgrade canonface (pip install --upgrade canonface)",
        )
