"""The frozen plan of a dataset's shards: what tasks that write them refer to."""

from __future__ import annotations

import json
import os
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from datagen.common.digests import canonical_json, sha256_text
from datagen.common.documents import parse_json
from datagen.common.errors import CorruptDatasetError
from datagen.flows.history import Stored
from datagen.flows.made import Made
from datagen.flows.plan_store import PlanCache, is_kept
from datagen.flows.row_file import RowFile, write_rows
from datagen.flows.seen import Seen
from datagen.flows.shard_plan import PlannedFaces, PlannedShard, ShardPlan, View
from datagen.flows.stage import Reference, Unit
from datagen.flows.state_index import clock_s, look, read_and_remember
from datagen.layout import BuildLayout
from datagen.shards.growth import ShardUnit
from datagen.shards.ledger import ShardRecord, read_record, record_key, unit_is_complete
from datagen.shards.plan import ENCODING_VERSION, DatasetPlan
from datagen.shards.store import LocalStore
from datagen.shards.tools.verify import written_problems
from datagen.sources.frame import SequenceKey

_FORMAT = {"format": "canonface-shards", "version": 1}
_SHARDS = "shards"
_TOGETHER = 256  # shards in a group of the index
_ROW = np.dtype([("sequence", "<u4"), ("camera", "<u4"), ("verdict", "<u4"), ("frame", "<i8"), ("frame_row", "<i8")])


class Shards(Protocol):
    """What tasks ask of the plan of a dataset."""

    @property
    def dataset(self) -> DatasetPlan:
        """The dataset."""

    def views(self, number: int) -> tuple[View, ...]:
        """Return the views of a shard of the splits, by its number among all shards."""

    def frames(self, number: int) -> tuple[Stored, ...]:
        """Return the frames of a shard of a frame table."""


class _Planned:
    """A plan as the one who made it has it."""

    def __init__(self, plan: ShardPlan) -> None:
        self.dataset = plan.dataset
        self._shards = (*plan.shards, *plan.faces)

    def views(self, number: int) -> tuple[View, ...]:
        shard = self._shards[number]
        return shard.views if isinstance(shard, PlannedShard) else ()

    def frames(self, number: int) -> tuple[Stored, ...]:
        shard = self._shards[number]
        return shard.frames if isinstance(shard, PlannedFaces) else ()


class _Frozen:
    """A plan as it lies in its file."""

    def __init__(self, file: RowFile) -> None:
        self._file = file

    @cached_property
    def dataset(self) -> DatasetPlan:
        return DatasetPlan.from_json(parse_json(self._file.head)["dataset"])

    def views(self, number: int) -> tuple[View, ...]:
        keys, verdicts, rows = self._read(number)
        cameras = self.dataset.cameras
        return tuple(
            View(keys[sequence], cameras[camera], frame, verdicts[verdict], frame_row)
            for sequence, camera, verdict, frame, frame_row in rows.tolist()
        )

    def frames(self, number: int) -> tuple[Stored, ...]:
        keys, _, rows = self._read(number)
        return tuple((keys[sequence], frame) for sequence, _, _, frame, _ in rows.tolist())

    def units(self) -> Iterator[tuple[int, ShardUnit, str]]:
        """Yield number, shard and content key of all of them."""
        for number in range(len(self._file)):
            told = parse_json(self._file.row(number).partition(b"\0")[0])
            yield number, ShardUnit(*told["shard"]), str(told["key"])

    def _read(self, number: int) -> tuple[list[SequenceKey], list[str], npt.NDArray[Any]]:
        names, _, data = self._file.row(number).partition(b"\0")
        told = parse_json(names)
        rows = np.frombuffer(zlib.decompress(data), _ROW)
        return [SequenceKey(*pair) for pair in told["sequences"]], told["verdicts"], rows


_PLANS: PlanCache[Shards] = PlanCache()


def refer_to_shards(plan: ShardPlan, layout: BuildLayout) -> str:
    """Return the digest by which tasks refer to a plan of shards, which this process knows from now on."""
    if not isinstance(_PLANS.get(layout.root, plan.digest), _Planned):
        _PLANS.put(layout.root, plan.digest, _Planned(plan))
    return plan.digest


def freeze_shards(plan: ShardPlan, layout: BuildLayout) -> Path:
    """Write a plan of shards where tasks of other processes find it, unless it is there.

    Raises
    ------
    StorageError
        If a file that is not ours is in the way, or the disk refuses.
    """
    path = layout.plan / f"{_SHARDS}-{refer_to_shards(plan, layout)}"
    if not is_kept(path):
        head = canonical_json({**_FORMAT, "dataset": plan.dataset.to_json()}).encode()
        write_rows(path, head, _rows(plan))
    return path


def open_shards(root: Path, digest: str) -> Shards:
    """Return the plan of shards that a task refers to, opened once in this process.

    Raises
    ------
    InputError
        If it is not there, or damaged.
    """
    return _PLANS.opened(root, digest, _Frozen, _SHARDS)


def frozen_shards(layout: BuildLayout, digest: str) -> Iterator[tuple[int, ShardUnit, str]]:
    """Yield number, shard and content key of all shards of a frozen plan.

    Raises
    ------
    InputError
        If it is not there, or damaged.
    """
    return _Frozen(RowFile(layout.plan / f"{_SHARDS}-{digest}")).units()


def _rows(plan: ShardPlan) -> Iterator[bytes]:
    number_of = {name: number for number, name in enumerate(plan.dataset.cameras)}
    for shard in plan.shards:
        views = shard.views
        cameras = [number_of[view.camera] for view in views]
        yield _row(shard, [view.key for view in views], cameras, views)
    for faces in plan.faces:
        frames = [View(key, "", frame, "") for key, frame in faces.frames]
        yield _row(faces, [view.key for view in frames], [0] * len(frames), frames)


def _row(
    planned: PlannedShard | PlannedFaces, keys: Sequence[SequenceKey], cameras: Sequence[int], views: Sequence[View]
) -> bytes:
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    verdicts = {name: number for number, name in enumerate(dict.fromkeys(view.verdict for view in views))}
    rows = np.array(
        [
            (numbers[view.key], camera, verdicts[view.verdict], view.frame, view.frame_row)
            for view, camera in zip(views, cameras, strict=True)
        ],
        _ROW,
    )
    shard = planned.shard
    told = {
        "key": planned.content_key,
        "sequences": [[key.subject, key.sequence] for key in numbers],
        "shard": [shard.group, shard.index, shard.start, shard.stop],
        "verdicts": list(verdicts),
    }
    return json.dumps(told, separators=(",", ":")).encode() + b"\0" + zlib.compress(rows.tobytes(), 1)


def _known(root: Path, shard: ShardUnit) -> Seen | None:
    return look(root, *_place(shard))


def _place(shard: ShardUnit) -> tuple[str, str]:
    return f"shards/{shard.group}/{shard.index // _TOGETHER}", shard.name


def _told(shard: ShardUnit, key: str) -> str:
    return f"{ENCODING_VERSION} {shard.samples} {key}"


def _remember(root: Path, shard: ShardUnit, record: ShardRecord, read_s: float | None) -> None:
    folder = BuildLayout(root).dataset
    paths = [f"{folder}{os.sep}{key}" for key in (record_key(shard), *record.files)]
    read_and_remember(root, *_place(shard), paths, _told(shard, record.content_key), read_s=read_s)


def shard_is_whole(root: Path, shard: ShardUnit, key: str) -> bool:
    """Whether a shard is whole, and of what its content key stands for; read only where the index does not know it."""
    seen = _known(root, shard)
    if seen is not None:
        return seen.told == _told(shard, key)
    folder, began_s = BuildLayout(root).dataset, clock_s()
    whole = unit_is_complete(folder, shard, key)
    if whole:
        _remember(root, shard, read_record(LocalStore(folder), shard), began_s)
    return whole


def shard_is_known_whole(root: Path, shard: ShardUnit, key: str) -> bool:
    """As :func:`shard_is_whole`, as far as that is known without reading anything."""
    seen = _known(root, shard)
    return seen is not None and seen.told == _told(shard, key)


def shard_is_known(root: Path, shard: ShardUnit) -> bool:
    """Whether a shard was checked by this build or an earlier one, and its files are what they were."""
    return _known(root, shard) is not None


@dataclass(frozen=True)
class ShardWork(Unit):
    """One shard to be written, of whatever group.

    Attributes
    ----------
    dataset : DatasetPlan
    shard : ShardUnit
    content_key : str
    """

    dataset: DatasetPlan
    shard: ShardUnit
    content_key: str

    @property
    def name(self) -> str:
        """The shard's."""
        return f"shard {self.shard.name}"

    @property
    def complete(self) -> bool:
        """Whether the shard is whole, and of what its content key stands for."""
        return shard_is_whole(self.root, self.shard, self.content_key)

    @property
    def known_complete(self) -> bool:
        """Whether the build's index knows that; nothing is read."""
        return shard_is_known_whole(self.root, self.shard, self.content_key)

    @property
    def made(self) -> Made:
        """The shard's key, and what its frames are read from."""
        try:
            key = read_record(LocalStore(self.layout.dataset), self.shard).content_key
        except CorruptDatasetError:
            key = ""
        stamps = (self.stamp(*frame) for frame in self.sources)
        return Made(self.name, key, self.content_key, sha256_text(" ".join(stamps)))

    @property
    @abstractmethod
    def sources(self) -> Sequence[Stored]:
        """The frames whose captures are read for it."""

    def disown(self) -> None:
        """Have it written again: what others made under its key cannot be told from it otherwise."""
        (self.layout.dataset / record_key(self.shard)).unlink(missing_ok=True)

    def checked(self, record: ShardRecord) -> None:
        """Check every value of the shard that was just written; what is well is known to be from now on.

        What is not is said at the end of the build, which looks at every shard that is not known to be well.
        """
        if not written_problems(self.layout.dataset, self.dataset, self.shard, record):
            _remember(self.root, self.shard, record, None)


@dataclass(frozen=True)
class ShardReference(Reference):
    """One shard of a planned dataset.

    Attributes
    ----------
    shards : str
        Digest of the dataset's plan.
    number : int
        The shard's among all of them.
    shard : ShardUnit
    content_key : str
    """

    shards: str
    number: int
    shard: ShardUnit
    content_key: str

    @property
    def name(self) -> str:
        """The shard's."""
        return f"shard {self.shard.name}"

    @property
    def complete(self) -> bool:
        """As of the unit."""
        return shard_is_whole(self.root, self.shard, self.content_key)

    @property
    def known_complete(self) -> bool:
        """Whether the build's index knows that; nothing is read."""
        return shard_is_known_whole(self.root, self.shard, self.content_key)

    @property
    def planned_shards(self) -> Shards:
        """The plan it refers to."""
        return open_shards(self.root, self.shards)

    @property
    @abstractmethod
    def unit(self) -> ShardWork:
        """The shard itself."""
