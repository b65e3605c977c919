"""Opening a dataset: its attributes, its splits, and the samples, clips and views they hold.

Needs numpy and numcodecs only; object stores need obstore.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CanonfaceError, CorruptDatasetError, DatasetError, InputError, MissingObjectError
from datagen.common.files import storage_errors
from datagen.shards import index as _index
from datagen.shards.chunks import ChunkError
from datagen.shards.faces import TemplateContents
from datagen.shards.frames import FrameTable, read_template
from datagen.shards.index import IndexTables
from datagen.shards.ledger import RECORDS, ShardRecord
from datagen.shards.meshes import MaterialPoints, Performance, performances, to_world
from datagen.shards.metadata import ROOT_METADATA, attributes_digest, attributes_of, is_map, uuid_of
from datagen.shards.ownership import STAGING
from datagen.shards.pinned import PinnedRecords
from datagen.shards.plan import DatasetPlan
from datagen.shards.reader import ChunkReader
from datagen.shards.reads import StoreReads
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
)
from datagen.shards.store import LocalStore, Store, is_url, open_store
from datagen.shards.tracks import TOLERANCE_M, Tracks, track_points


class Split:
    """One split of a dataset; pickles as its dataset and a name, and opens its files where it is used.

    What is read of it raises

    - ``CorruptDatasetError``, naming split, array, shard, sample and file, if bytes are missing or not those written,
    - ``ReplacedDatasetError`` if that is so because another dataset lies there by now, or none,
    - ``StorageError`` if the disk or the store refuses.

    Parameters
    ----------
    name : str
        ``train``, ``val`` or ``test``.
    """

    def __init__(self, dataset: Dataset, name: str) -> None:
        self.dataset = dataset
        self.name = name

    def __len__(self) -> int:
        return self.dataset.plan.counts[self.name]

    def __repr__(self) -> str:
        return f"Split({self.dataset.url!r}, {self.name!r}, {len(self)} samples)"

    @property
    def index(self) -> IndexTables:
        """Subject, sequence, camera, frame, time, frame row and valid of every sample, (N,) arrays."""
        return self.dataset.index_of(self.name)

    @property
    def frames(self) -> FrameTable:
        """The registered head of every frame; DatasetError if the dataset has none."""
        return self.dataset.frames_of(self.name)

    def mesh(self, row: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Return the registered head of a frame: vertices (V, 3) float32 world metres, and the template's faces (F, 3).

        Parameters
        ----------
        row : int
            Of the frame table; ``index.frame_row`` says which one a sample belongs to.

        Raises
        ------
        DatasetError
            If the dataset has no frame table.
        IndexError
            If there is no such row.
        """
        frames = self.frames
        vertices = to_world(frames.vertices([row])[0], frames.head_to_world[row])
        return vertices.astype(np.float32), self.dataset.template.faces

    def landmarks(self, row: int) -> npt.NDArray[np.float32]:
        """Return the landmarks of a frame, (68, 3) float32 world metres; otherwise as :meth:`mesh`."""
        vertices, faces = self.mesh(row)
        return MaterialPoints.landmarks(self.dataset.template).on(vertices, faces).astype(np.float32)

    def performances(self) -> list[Performance]:
        """Return every subject's sequences with their rows of the frame table; DatasetError if there is none."""
        frames = self.frames
        return performances(self.dataset.plan, frames.subject, frames.sequence, frames.frame)

    def tracks(
        self,
        points: MaterialPoints | int,
        rows: Sequence[int] | npt.NDArray[np.integer[Any]],
        cameras: Sequence[str] | None = None,
        *,
        tolerance_m: float = TOLERANCE_M,
        seed: int = 0,
    ) -> Tracks:
        """Follow points of the skin over frames, and into the cameras that saw them.

        Parameters
        ----------
        points : MaterialPoints or int
            Given by the template's triangles, or how many are drawn evenly over it with ``seed``.
        rows : sequence of int
            Of the frame table, in any order; :meth:`performances` has those of a sequence.
        cameras : sequence of str, optional
            Names; all of the dataset that have a sample of these rows by default.
        tolerance_m : float
            A point is visible where the depth of the map is within this of its own.

        Returns
        -------
        Tracks

        Raises
        ------
        InputError
            If points or cameras are not of this dataset.
        DatasetError
            If the dataset has no frame table.
        """
        frames, template, plan = self.frames, self.dataset.template, self.dataset.plan
        if not isinstance(points, MaterialPoints):
            points = MaterialPoints.spread_over(template, points, seed=seed)
        if cameras is None:
            held = self.index.camera[np.isin(self.index.frame_row, np.asarray(rows, np.int64))]
            cameras = [plan.cameras[number] for number in np.unique(held)]
        return track_points(self, frames, template, points, rows, cameras, plan.cameras, tolerance_m)

    def raw(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Return samples ``start`` to ``stop`` (exclusive) of an array as the integers that are stored.

        Parameters
        ----------
        name : str
            A key of ``schema.ARRAYS``.

        Returns
        -------
        (stop − start, ...) array of the stored dtype
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
        IndexError
            If there is no such sample.
        """
        i = self._position(i)
        names = ("image", "depth", "canonical", "normal", "confidence", "region", "edge", "mask")
        matrices = ("intrinsics", "world_to_camera", "head_to_world")
        listed = (*names, *matrices, "verdict", "frame_row")
        values = {name: value[0] for name, value in self.read(listed, [i]).items()}
        verdict, frame_row = int(values.pop("verdict")), int(values.pop("frame_row"))
        plan, tables = self.dataset.plan, self.index
        return Sample(
            **values,
            subject=plan.subjects[tables.subject[i]],
            sequence=plan.sequences[tables.sequence[i]],
            camera=plan.cameras[tables.camera[i]],
            frame=int(tables.frame[i]),
            time=float(tables.time[i]),
            verdict=VERDICTS[verdict],
            frame_row=frame_row,
        )

    def sample_name(self, i: int) -> str:
        """Return ``subject/sequence/frame/camera``, as ``subset`` takes it; raises as :meth:`sample`."""
        i, plan, tables = self._position(i), self.dataset.plan, self.index
        subject, sequence = plan.subjects[tables.subject[i]], plan.sequences[tables.sequence[i]]
        return f"{subject}/{sequence}/{int(tables.frame[i]):06d}/{plan.cameras[tables.camera[i]]}"

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
            return self.dataset.small_of(self.name, name)[np.asarray(chosen, np.int64)]
        try:
            out = np.empty((len(chosen), *spec.sample_shape(self.dataset.resolution)), spec.dtype)
        except MemoryError:
            raise InputError(
                f"{len(chosen)} samples of {name} at {self.dataset.resolution} pixels a side do not fit the memory",
                "as many as do",
                "Read fewer at a time",
            ) from None
        for row, i in enumerate(chosen):
            self.map_into(name, i, out[row])
        return out

    def map_into(self, name: str, i: int, out: npt.NDArray[Any]) -> int:
        """Decode one sample of a map array straight into ``out``; return the compressed bytes.

        Parameters
        ----------
        name : str
            A map array of ``schema.ARRAYS``.
        i : int
            Sample, 0 or more.
        out : array of the sample's shape and stored dtype, C-contiguous
        """
        return self.dataset.reader.sample_into(self.name, name, i, out)


DATASET_FOLDER = "dataset.zarr"


class Dataset(Mapping[str, Split]):
    """A finished dataset: a mapping of split names to splits. Made by :func:`open_dataset`.

    It is what was opened, also in worker processes that it is sent to: where another dataset takes its place,
    reading ends with a ``ReplacedDatasetError``. As a context manager it closes its files; they are closed as well
    when the last of dataset and splits goes.

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
        self._reads = StoreReads(store)
        self._records = PinnedRecords(self._reads, self.plan, self.uuid, str(self.attrs["records"]))
        self.reader = ChunkReader(self._reads, self.plan, self._records)
        self._tables: dict[str, IndexTables] = {}
        self._small: dict[tuple[str, str], npt.NDArray[Any]] = {}
        self._frames: dict[str, FrameTable] = {}

    def __enter__(self) -> Dataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files that are open; reading again opens them again."""
        self._reads.close()

    def __reduce__(self) -> tuple[type[Dataset], tuple[Store, dict[str, Any]]]:
        return type(self), (self.store, dict(self.attrs))

    def __getitem__(self, split: str) -> Split:
        # Made anew each time: a split that was kept here would keep the dataset, and its files open, in a circle.
        if split not in SPLITS:
            raise KeyError(split)
        return Split(self, split)

    def __iter__(self) -> Iterator[str]:
        return iter(SPLITS)

    def __len__(self) -> int:
        return len(SPLITS)

    def __repr__(self) -> str:
        return f"Dataset({self.url!r}, {dict(self.plan.counts)})"

    def index_of(self, split: str) -> IndexTables:
        """Return ``Split.index``, read once."""
        if split not in self._tables:
            tables = IndexTables.load(self.reader, split, self.plan)
            if not (tables.valid == 1).all():
                sample = int(np.flatnonzero(tables.valid != 1)[0])
                shard, _ = self.plan.shards(split).place(sample)
                raise self.reader.damaged(split, shard, "the sample was never written", "valid", sample)
            self._tables[split] = tables
        return self._tables[split]

    def small_of(self, group: str, name: str) -> npt.NDArray[Any]:
        """Return a whole small array of a split or another group as stored, (N, ...), read once."""
        if (group, name) not in self._small:
            self._small[group, name] = _index.load_small_arrays(self.reader, group, [name], self.plan)[name]
        return self._small[group, name]

    def frames_of(self, split: str) -> FrameTable:
        """Return ``Split.frames``, whose small arrays are read once."""
        self.require_faces()
        return self._frames.setdefault(split, FrameTable(self.reader, self.plan, split))

    @cached_property
    def template(self) -> TemplateContents:
        """The head's template, by which rows of frame tables are read; DatasetError if the dataset has none."""
        self.require_faces()
        return read_template(self.reader, self.plan)

    def require_faces(self) -> None:
        """Raise DatasetError if the dataset has no frame table and no template."""
        if not self.plan.faces:
            raise DatasetError(
                f"{self.url} holds no frame table", "a dataset that `datagen build` wrote", "Build it from its captures"
            )

    def record(self, group: str, shard: int) -> ShardRecord:
        """Return the commit record of a shard; raises as reading a :class:`Split`."""
        try:
            return self._records.of(group, shard)
        except ChunkError as error:
            raise self.reader.damaged(group, shard, error) from None

    def check_current(self) -> None:
        """Raise ReplacedDatasetError if another dataset lies there by now, or none; StorageError."""
        self._records.check_current()

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
    with storage_errors(f"opening {path if isinstance(path, str | Path) else path.url}"):
        store = _find_store(path)
        attrs = _read_attributes(store)
    url = store.url
    _check_format(url, attrs)
    try:
        digest = attributes_digest(attrs)
    except CanonfaceError:  # nested deeper than anything that was written
        digest = ""
    # A flipped bit in depth_scale, say, would scale every depth without a trace.
    if attrs.get("attributes_digest") != digest:
        raise CorruptDatasetError(
            f"the attributes of {url} are not those that were written",
            "attributes that agree with their attributes_digest",
            "Build again; finished shards are kept",
        )
    if "records" not in attrs:
        raise DatasetError(
            f"{url} was made by an earlier version of canonface, whose records do not name every chunk",
            "a dataset of this version",
            "Run `datagen build` on its folder again, or `datagen merge` or `subset` into a new one",
        )
    try:
        # Caches name files by it.
        if attrs["uuid"] != uuid_of(attrs["content_digest"]):
            raise ValueError("the uuid is not that of the content_digest")
        return Dataset(store, attrs)
    except (CanonfaceError, ValueError, TypeError, ArithmeticError, MemoryError, KeyError) as error:
        raise CorruptDatasetError(
            f"the attributes of {url} contradict each other: {error}",
            "the attributes of docs/dataset-format.md",
            "Build again; finished shards are kept",
        ) from None


def _find_store(path: str | Path | Store) -> Store:
    if not isinstance(path, str | Path):
        return path
    store = open_store(path)
    if not store.exists(ROOT_METADATA):
        below = f"{store.url}/{DATASET_FOLDER}" if is_url(path) else Path(path) / DATASET_FOLDER
        inner = open_store(below)
        if inner.root.is_dir() if isinstance(inner, LocalStore) else inner.exists(ROOT_METADATA):
            return inner
    return store


def _read_attributes(store: Store) -> dict[str, Any]:
    local = isinstance(store, LocalStore)
    if isinstance(store, LocalStore) and not store.root.is_dir():
        raise DatasetError(f"{store.url} does not exist or is not a folder", "a dataset.zarr folder", "Check the path")
    try:
        return attributes_of(StoreReads(store).document(ROOT_METADATA))
    except MissingObjectError:
        if any(_holds(store, name) for name in (RECORDS, STAGING, *SPLITS)):
            raise DatasetError(
                f"dataset {store.url} is not finished",
                "a build that ran to its end",
                "Run the build again; it continues where it stopped",
            ) from None
        expected = f"a {'folder' if local else 'prefix'} with a zarr.json"
        raise DatasetError(f"{store.url} is not a dataset", expected, "Check the path") from None
    except ValueError as error:
        raise CorruptDatasetError(
            f"{store.url}/{ROOT_METADATA} is damaged: {error}",
            "a Zarr v3 document",
            "Build again; finished shards are kept",
        ) from None


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
    if version < FORMAT_VERSION:
        run = url.removesuffix(f"/{DATASET_FOLDER}") if url.endswith(f"/{DATASET_FOLDER}") else "RUN"
        raise DatasetError(
            f"{url} is of format version {version}",
            f"version {FORMAT_VERSION}",
            f"Write it again from the warps of its build: `datagen build {run}/manifest.json --out {run}`",
        )
    if version > FORMAT_VERSION:
        raise DatasetError(
            f"{url} is of format version {version}",
            f"at most {FORMAT_VERSION}, the newest this version of canonface reads",
            "upgrade canonface (pip install --upgrade canonface)",
        )
