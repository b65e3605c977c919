"""Opening a dataset: its attributes, its splits, and the samples, clips and views they hold.

Needs numpy and numcodecs only; object stores need obstore.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CanonfaceError, CorruptDatasetError, DatasetError, MissingObjectError
from datagen.shards import index as _index
from datagen.shards.chunks import ChunkError, ChunkReader
from datagen.shards.index import IndexTables
from datagen.shards.ledger import RECORDS
from datagen.shards.metadata import ROOT_METADATA, attributes_digest, chunk_path, is_map
from datagen.shards.ownership import STAGING
from datagen.shards.plan import DatasetPlan
from datagen.shards.schema import (
    ARRAYS,
    FORMAT,
    FORMAT_VERSION,
    SPLITS,
    VERDICTS,
    Sample,
    decode_canonical,
    decode_confidence,
    decode_depth,
    decode_normal,
    restore_rows,
)
from datagen.shards.store import LocalStore, Store, is_url, open_store


class Split:
    """One split of a dataset; pickles as a store and a name, and opens its files where it is used.

    Parameters
    ----------
    name : str
        ``train``, ``val`` or ``test``.
    """

    def __init__(self, dataset: Dataset, name: str) -> None:
        self.dataset = dataset
        self.name = name
        self._small: dict[str, npt.NDArray[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "name": self.name, "_small": {}}

    def __len__(self) -> int:
        return self.dataset.plan.counts[self.name]

    def __repr__(self) -> str:
        return f"Split({self.dataset.url!r}, {self.name!r}, {len(self)} samples)"

    @cached_property
    def index(self) -> IndexTables:
        """Subject, sequence, camera, frame, time and valid of every sample, (N,) arrays.

        Raises
        ------
        CorruptDatasetError
            If a part is missing, damaged or not marked valid.
        """
        tables = IndexTables.load(self.dataset.reader, self.name, self.dataset.plan)
        if not (tables.valid == 1).all():
            sample = int(np.flatnonzero(tables.valid != 1)[0])
            shard = sample // self.dataset.plan.samples_per_shard
            raise _index.damaged(self.dataset.url, self.name, "valid", shard, sample, "the sample was never written")
        return tables

    def raw(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Return samples ``start`` to ``stop`` (exclusive) of an array as stored, differences of rows undone.

        Parameters
        ----------
        name : str
            A key of ``schema.ARRAYS``.

        Returns
        -------
        (stop − start, ...) array of the stored dtype

        Raises
        ------
        CorruptDatasetError
            Naming split, array, shard and sample.
        """
        return self._stored(name, range(*slice(start, stop).indices(len(self))))

    def read(
        self, names: Iterable[str], indices: slice | Sequence[int] | npt.NDArray[np.integer], *, decode: bool = True
    ) -> dict[str, npt.NDArray[Any]]:
        """Return several arrays of chosen samples.

        Parameters
        ----------
        names : iterable of str
            Keys of ``schema.ARRAYS``.
        indices : slice or sequence of int
            In any order; negative ones count from the end.
        decode : bool
            Metres and unit ranges as float32 (default), or the stored integers.

        Returns
        -------
        dict of name to array, the first axis as ``indices``
        """
        if isinstance(indices, slice):
            chosen: Sequence[int] = range(*indices.indices(len(self)))
        else:
            chosen = [self._position(i) for i in indices]
        stored = {name: self._stored(name, chosen) for name in names}
        return {name: self.decode(name, value) for name, value in stored.items()} if decode else stored

    def decode(self, name: str, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Turn stored values of an array into metres and unit ranges, float32; others pass unchanged."""
        if name == "depth":
            return decode_depth(stored, self.dataset.depth_scale)
        if name == "canonical":
            return decode_canonical(stored)
        if name == "normal":
            return decode_normal(stored)
        if name == "edge":
            return stored.astype(bool)
        return decode_confidence(stored) if name == "confidence" else stored

    def sample(self, i: int) -> Sample:
        """Return one sample in physical units, names resolved.

        Raises
        ------
        CorruptDatasetError
            Naming split, array, shard and sample.
        IndexError
            If there is no such sample.
        """
        i = self._position(i)
        names = ("image", "depth", "canonical", "normal", "confidence", "region", "edge")
        matrices = ("intrinsics", "world_to_camera", "head_to_world")
        values = {name: value[0] for name, value in self.read((*names, *matrices, "verdict"), [i]).items()}
        verdict = int(values.pop("verdict"))
        plan, tables = self.dataset.plan, self.index
        return Sample(
            **values,
            subject=plan.subjects[tables.subject[i]],
            sequence=plan.sequences[tables.sequence[i]],
            camera=plan.cameras[tables.camera[i]],
            frame=int(tables.frame[i]),
            time=float(tables.time[i]),
            verdict=VERDICTS[verdict],
        )

    def clips(self, length: int, stride: int = 1) -> list[npt.NDArray[np.int64]]:
        """Return every clip: ``length`` consecutive samples of one camera and sequence, frames increasing.

        Parameters
        ----------
        length : int
            Samples a clip.
        stride : int
            Samples between the starts of two clips of the same sequence; ``length`` gives clips that do not overlap.

        Returns
        -------
        list of (length,) int64 arrays of sample numbers, each a contiguous range
            Frame numbers may skip where a frame failed; compare ``index.frame``.
        """
        return _index.clips(self.index, length, stride)

    def views(self) -> list[npt.NDArray[np.int64]]:
        """Return the samples of each instant (one subject, sequence and frame), by camera: a list of (V,) arrays."""
        return _index.views(self.index)

    def _position(self, i: Any) -> int:
        position = operator.index(i)
        if not -len(self) <= position < len(self):
            raise IndexError(f"sample {position} of {len(self)} in {self.name}")
        return position % len(self)

    def _stored(self, name: str, chosen: Sequence[int]) -> npt.NDArray[Any]:
        spec = ARRAYS[name]
        if not is_map(spec):
            return self._small_array(name)[np.asarray(chosen, np.int64)]
        out = np.empty((len(chosen), *spec.sample_shape(self.dataset.resolution)), spec.dtype)
        for row, i in enumerate(chosen):
            self.map_into(name, i, out[row])
        if spec.differenced:
            restore_rows(out)
        return out

    def map_into(self, name: str, i: int, out: npt.NDArray[Any]) -> int:
        """Decompress one sample of a map array straight into ``out``; return the compressed bytes.

        Differences of rows are left as they are: ``schema.restore_rows`` undoes them, best for many samples at once.

        Parameters
        ----------
        name : str
            A map array of ``schema.ARRAYS``.
        i : int
            Sample, 0 or more.
        out : array of the sample's shape and stored dtype, C-contiguous

        Raises
        ------
        CorruptDatasetError
            Naming split, array, shard and sample.
        StorageError
            If the store refuses.
        """
        per_shard = self.dataset.plan.samples_per_shard
        shard, position = divmod(i, per_shard)
        try:
            return self.dataset.reader.sample_into(chunk_path(self.name, name, shard), per_shard, position, out)
        except ChunkError as error:
            raise _index.damaged(self.dataset.url, self.name, name, shard, i, str(error)) from None

    def _small_array(self, name: str) -> npt.NDArray[Any]:
        if name not in self._small:
            self._small[name] = _index.load_small_array(self.dataset.reader, self.name, name, self.dataset.plan)
        return self._small[name]


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
            raise DatasetError(f"{self.url} is not a local folder", "a dataset on a disk", "Copy it to a disk first")
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
        If there is none, or it is unfinished, of another format or of a newer version.
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
        raise DatasetError(f"{store.url} does not exist or is not a folder", "a dataset.zarr folder", "Check the path")
    try:
        document = store.read(ROOT_METADATA)
    except MissingObjectError:
        if any(_holds(store, name) for name in (RECORDS, STAGING, *SPLITS)):
            raise DatasetError(
                f"dataset {store.url} is not finished",
                "a build that ran to its end",
                "Run the build again; it continues where it stopped",
            ) from None
        expected = f"a {'folder' if local else 'prefix'} with a zarr.json"
        raise DatasetError(f"{store.url} is not a dataset", expected, "Check the path") from None
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
