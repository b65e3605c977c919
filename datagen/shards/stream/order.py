"""The one order of an epoch: a pure function of the choices, the epoch and the dataset's content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import I64
from datagen.common.errors import InputError
from datagen.shards.growth import GroupShards
from datagen.shards.stream.clips import ClipSet, Layout, cut_clips, possible
from datagen.shards.stream.config import StreamConfig


@dataclass(frozen=True)
class OrderInputs:
    """What an order is made from.

    Attributes
    ----------
    digest : str
        ``config.digest`` of this dataset and split.
    keep : (N,) bool
        Samples that pass the filters.
    weight : (N,) float64
        How often each is to be read, relative to the others; all 1 without weights.
    """

    layout: Layout
    config: StreamConfig
    digest: str
    shards: GroupShards
    keep: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float64]

    def check(self) -> None:
        """Raise InputError if no clip can be cut."""
        if not self.keep.any():
            what = "the split is empty" if not len(self.layout) else "the filters leave no sample"
            raise InputError(f"there is nothing to stream: {what}", "at least one sample", "Loosen the filters")
        if not any(any(chances) for chances in possible(self.layout, self.keep, self.config).values()):
            raise InputError(
                f"no clip of {self.config.lengths} frames fits the split",
                f"{min(self.config.lengths)} frames in a sequence or cameras at an instant",
                "Use shorter clips, for example of 1 frame",
            )
        if not (self.weight[self.keep] > 0).any():
            raise InputError("every sample has weight 0", "a weight above 0", "Change the weights of the stream")


class EpochOrder:
    """The batches of one epoch, in order.

    Clips take a random place within ``window`` units of storage of the place of their own unit in a random order of all
    units; the batches of each kind and length are filled in that order and come when they are full. A unit is a shard.
    Where there are clips of views, which reach across a performance, it is the performances that begin in one shard.

    Attributes
    ----------
    clips : int
        Clips of the epoch.
    starts : (batches + 1,) int64
        Clips before each batch.
    """

    def __init__(self, inputs: OrderInputs, epoch: int) -> None:
        self.epoch = epoch
        config = inputs.config
        rng = np.random.default_rng(_seed(inputs.digest, epoch))
        sets = cut_clips(inputs.layout, inputs.keep, config, rng)
        unit = _units(inputs, any(clip_set.views for clip_set in sets))
        units = int(unit.max()) + 1
        place = rng.permutation(units)
        self._sets: list[I64] = []
        batches: list[tuple[npt.NDArray[np.float64], int, npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
        for number, clip_set in enumerate(sets):
            clips = _weighted(clip_set, inputs.weight, rng) if config.weighted else clip_set.samples
            home = clips.min(axis=1)
            if not config.shuffle:
                key = home.astype(np.float64)
            elif config.window >= units:
                key = rng.random(len(clips))
            else:
                key = place[unit[home]] + config.window * rng.random(len(clips))
            order = np.argsort(key, kind="stable")
            self._sets.append(clips[order])
            size = config.clips_per_batch(clip_set.length)
            first = np.arange(0, len(clips), size)
            if config.drop_last:
                first = first[first + size <= len(clips)]
            last = np.minimum(first + size, len(clips))
            batches.append((key[order][last - 1], number, first, last))
        ready = np.concatenate([b[0] for b in batches]) if batches else np.zeros(0)
        self._set = np.concatenate([np.full(len(b[2]), b[1]) for b in batches]) if batches else np.zeros(0, np.int64)
        self._first = np.concatenate([b[2] for b in batches]) if batches else np.zeros(0, np.int64)
        self._last = np.concatenate([b[3] for b in batches]) if batches else np.zeros(0, np.int64)
        order = np.argsort(ready, kind="stable")
        self._set, self._first, self._last = self._set[order], self._first[order], self._last[order]
        self.starts = np.concatenate([[0], np.cumsum(self._last - self._first)]).astype(np.int64)
        self.clips = int(self.starts[-1])
        self._kinds = [clip_set.views for clip_set in sets]

    def __len__(self) -> int:
        return len(self._set)

    def batch(self, number: int) -> I64:
        """Return the samples of a batch, (clips, length) int64."""
        return self._sets[self._set[number]][self._first[number] : self._last[number]]

    def is_views(self, number: int) -> bool:
        """Whether the clips of a batch are cameras of one instant."""
        return self._kinds[self._set[number]]

    def locate(self, position: int) -> tuple[int, int]:
        """Return the batch that clip ``position`` of the epoch is in, and its place there."""
        number = int(np.searchsorted(self.starts, position, side="right")) - 1
        return number, position - int(self.starts[number])

    def sequence(self) -> I64:
        """Return all samples of the epoch in the order they are read."""
        parts = [self.batch(number).ravel() for number in range(len(self))]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _seed(digest: str, epoch: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{digest}/{epoch}".encode()).digest()[:16], "little")


def _units(inputs: OrderInputs, views: bool) -> I64:
    """Return the unit of storage of every sample, (N,) int64."""
    samples = np.arange(len(inputs.layout))
    first = np.full(int(inputs.layout.group.max()) + 1, len(samples), np.int64)
    np.minimum.at(first, inputs.layout.group, samples)
    begins = first[inputs.layout.group] if views else samples
    return np.asarray(np.unique(inputs.shards.shard_of(begins), return_inverse=True)[1], np.int64).reshape(-1)


def _weighted(clip_set: ClipSet, weight: npt.NDArray[np.float64], rng: np.random.Generator) -> I64:
    """Draw as many clips as there are, each ⌊x⌋ or ⌈x⌉ times, x in proportion to its mean weight.

    Systematic resampling (Kitagawa, 1996): of all schemes with these means the counts scatter least.
    """
    shuffled = clip_set.samples[rng.permutation(len(clip_set.samples))]
    total = np.cumsum(weight[shuffled].mean(axis=1))
    if not total[-1] > 0:
        return shuffled[:0]
    points = (np.arange(len(shuffled)) + rng.random()) * (total[-1] / len(shuffled))
    return shuffled[np.minimum(np.searchsorted(total, points, side="right"), len(shuffled) - 1)]
