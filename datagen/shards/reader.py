"""Reading a dataset: attributes, splits, samples. Local folders; needs numpy and numcodecs only."""

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

from datagen.errors import CanonfaceError, CorruptDatasetError, DatasetError
from datagen.shards import index as _index
from datagen.shards.atomic import storage_errors
from datagen.shards.chunks import ChunkError, ShardIndex, read_index, read_inner_chunk
from datagen.shards.index import IndexTables
from datagen.shards.ledger import RECORDS
from datagen.shards.metadata import attributes_digest, chunk_path, is_map
from datagen.shards.plan import DatasetPlan
from datagen.shards.schema import (
    ARRAYS,
    FORMAT,
    FORMAT_VERSION,
    SPLITS,
    Sample,
    decode_canonical,
    decode_confidence,
    decode_depth,
    decode_normal,
)
from datagen.shards.writer import ROOT_METADATA, STAGING

_CACHED_INDICES = 4096  # about 1 kB each at 64 samples a shard


class Split:
    """One split of a dataset; pickles as a path and a name, and opens its files where it is used.

    Parameters
    ----------
    dataset : Dataset
    name : str
        ``train``, ``val`` or ``test``.
    """

    def __init__(self, dataset: Dataset, name: str) -> None:
        self.dataset = dataset
        self.name = name
        self._indices: dict[tuple[str, int], ShardIndex] = {}
        self._small: dict[str, npt.NDArray[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "name": self.name, "_indices": {}, "_small": {}}

    def __len__(self) -> int:
        return self.dataset.plan.counts[self.name]

    def __repr__(self) -> str:
        return f"Split({str(self.dataset.path)!r}, {self.name!r}, {len(self)} samples)"

    @cached_property
    def index(self) -> IndexTables:
        """Subject, sequence, camera, frame, time and valid of every sample, (N,) arrays.

        Raises
        ------
        CorruptDatasetError
            If a part is missing, damaged or not marked valid.
        """
        tables = IndexTables.load(self.dataset.path, self.name, self.dataset.plan)
        if not (tables.valid == 1).all():
            sample = int(np.flatnonzero(tables.valid != 1)[0])
            shard = sample // self.dataset.plan.samples_per_shard
            raise _index.damaged(self.dataset.path, self.name, "valid", shard, sample, "the sample was never written")
        return tables

    def raw(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Return samples ``start`` to ``stop`` (exclusive) of an array as stored.

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
        names = ("image", "depth", "canonical", "normal", "confidence", "region")
        matrices = ("intrinsics", "world_to_camera", "head_to_world")
        values = {name: value[0] for name, value in self.read((*names, *matrices), [i]).items()}
        plan, tables = self.dataset.plan, self.index
        return Sample(
            **values,
            subject=plan.subjects[tables.subject[i]],
            sequence=plan.sequences[tables.sequence[i]],
            camera=plan.cameras[tables.camera[i]],
            frame=int(tables.frame[i]),
            time=float(tables.time[i]),
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
        dtype, shape = np.dtype(spec.dtype), spec.sample_shape(self.dataset.resolution)
        out = np.empty((len(chosen), *shape), dtype)
        for row, i in enumerate(chosen):
            out[row] = self._map(name, i, dtype, shape)
        return out

    def _map(self, name: str, i: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        shard, position = divmod(i, self.dataset.plan.samples_per_shard)
        path = str(self.dataset.path / chunk_path(self.name, name, shard))
        try:
            where = self._indices.get((name, shard))
            if where is None:
                if len(self._indices) >= _CACHED_INDICES:
                    self._indices.clear()
                where = self._indices[name, shard] = read_index(path, self.dataset.plan.samples_per_shard)
            return read_inner_chunk(path, where, position, dtype, shape)
        except (ChunkError, OSError) as error:
            raise _index.damaged(self.dataset.path, self.name, name, shard, i, str(error)) from None

    def _small_array(self, name: str) -> npt.NDArray[Any]:
        if name not in self._small:
            self._small[name] = _index.load_small_array(self.dataset.path, self.name, name, self.dataset.plan)
        return self._small[name]


class Dataset(Mapping[str, Split]):
    """A finished dataset: a mapping of split names to splits. Made by :func:`open_dataset`.

    Attributes
    ----------
    path : Path
    attrs : mapping
        The root attributes, as docs/dataset-format.md lists them.
    plan : DatasetPlan
        The same, typed.
    """

    def __init__(self, path: Path, attrs: Mapping[str, Any]) -> None:
        self.path = path
        self.attrs = MappingProxyType(dict(attrs))
        self.plan = DatasetPlan.from_json(attrs)
        self._splits = {name: Split(self, name) for name in SPLITS}

    def __reduce__(self) -> tuple[type[Dataset], tuple[Path, dict[str, Any]]]:
        return type(self), (self.path, dict(self.attrs))

    def __getitem__(self, split: str) -> Split:
        return self._splits[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r}, {dict(self.plan.counts)})"

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


def open_dataset(path: str | Path) -> Dataset:
    """Open a finished dataset.

    Parameters
    ----------
    path : str or Path
        The ``dataset.zarr`` folder, or a build folder that holds one.

    Raises
    ------
    DatasetError
        If there is none, it is not finished, of another format or of a newer version.
    CorruptDatasetError
        If its root document is damaged.
    StorageError
        If the disk refuses.
    """
    root = Path(path)
    if not (root / ROOT_METADATA).exists() and (root / "dataset.zarr").is_dir():
        root = root / "dataset.zarr"
    try:
        with storage_errors(f"opening {root}"):
            attrs = _read_attributes(root)
    except ValueError as error:
        raise CorruptDatasetError(
            f"{root / ROOT_METADATA} is damaged: {error}", "a Zarr v3 document", "Build again; finished shards are kept"
        ) from None
    _check_format(root, attrs)
    # A flipped bit in depth_scale, say, would scale every depth without a trace.
    if attrs.get("attributes_digest") != attributes_digest(attrs):
        raise CorruptDatasetError(
            f"the attributes of {root} are not those that were written",
            "attributes that agree with their attributes_digest",
            "Build again; finished shards are kept",
        )
    try:
        return Dataset(root, attrs)
    except CanonfaceError as error:
        raise CorruptDatasetError(
            f"the attributes of {root} contradict each other: {error}",
            "the attributes of docs/dataset-format.md",
            "Build again; finished shards are kept",
        ) from None


def _read_attributes(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        raise DatasetError(f"{root} does not exist or is no folder", "a dataset.zarr folder", "Check the path")
    document = root / ROOT_METADATA
    if not document.exists():
        if any((root / name).exists() for name in (RECORDS, STAGING, *SPLITS)):
            raise DatasetError(
                f"dataset {root} is not finished",
                "a build that ran to its end",
                "Run the build again; it goes on where it stopped",
            )
        raise DatasetError(f"{root} is no dataset", "a folder with a zarr.json", "Check the path")
    content = json.loads(document.read_bytes())
    attributes = content.get("attributes") if isinstance(content, dict) else None
    return attributes if isinstance(attributes, dict) else {}


def _check_format(root: Path, attrs: Mapping[str, Any]) -> None:
    if attrs.get("format") != FORMAT:
        raise DatasetError(
            f"{root} is a Zarr store of another kind (format {attrs.get('format')!r})",
            f"format {FORMAT!r}",
            "Give the dataset.zarr folder of a build",
        )
    version = attrs.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise CorruptDatasetError(f"{root} has format_version {version!r}", "a positive integer", "Build again")
    if version > FORMAT_VERSION:
        raise DatasetError(
            f"{root} is of format version {version}",
            f"at most {FORMAT_VERSION}, the newest this version of canonface reads",
            "upgrade canonface (pip install --upgrade canonface)",
        )
