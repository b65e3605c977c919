"""Streaming a split: batches of clips in one order, whoever reads them, resumable at a sample."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import I64
from datagen.common.errors import CorruptDatasetError, InputError, StorageError
from datagen.shards.dataset import Dataset
from datagen.shards.metadata import is_map
from datagen.shards.schema import ARRAYS
from datagen.shards.stream.buffers import Buffers, Pin, Place
from datagen.shards.stream.clips import Layout, possible
from datagen.shards.stream.config import StreamConfig
from datagen.shards.stream.order import EpochOrder, OrderInputs
from datagen.shards.stream.readers import Filled, ReaderKind, Readers
from datagen.shards.stream.weights import chosen, sample_statistics, weights

STATE_VERSION = 1
DEFAULT_ARRAYS = ("image", "depth", "canonical", "confidence", "intrinsics")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamBatch:
    """One batch, or this rank's part of it.

    Attributes
    ----------
    arrays : dict of name to array (B, S, ...)
        As stored (``Split.decode`` turns them into metres and unit ranges), channel first, contiguous. The memory is
        used again once no array of the batch is left.
    samples : (B, S) int64
        Which samples of the split they are.
    views : bool
        Clips are cameras of one instant; otherwise one camera over time.
    epoch, number : int
        Which batch of which epoch.
    rows : (B,) int64
        Places of the clips in the whole batch of all ranks.
    """

    arrays: dict[str, npt.NDArray[Any]]
    samples: I64
    views: bool
    epoch: int
    number: int
    rows: I64

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class _Planned:
    """A batch on its way."""

    order: EpochOrder
    number: int
    samples: I64
    rows: I64
    after: tuple[int, int]
    arrays: dict[str, npt.NDArray[Any]]
    future: Future[Filled]


class ShardStream:
    """Read a split batch by batch.

    The order is a function of the configuration, the epoch and the dataset's content: see docs/streaming.md for what
    is guaranteed. Iterating yields the batches from the stream's position to the end of its epoch, and leaves the
    stream at the start of the next one.

    Parameters
    ----------
    arrays : sequence of str
        Keys of ``schema.ARRAYS``.
    rank, ranks : int
        Which part of each batch is read here: every ``ranks``-th clip from ``rank`` on.
    workers : int
        0 reads in the calling thread.
    reader_kind : ``threads`` or ``processes``
        Threads decompress beside Python code; spawned processes also where the process is busy with Python code.
    prefetch : int
        Batches a worker is ahead.
    on_corrupt : ``raise`` or ``skip``
        Whether a damaged sample ends the stream, or the place of its clip is taken by another clip of the batch. Each
        is logged and kept in :attr:`damaged`.
    stall_s : float
        Longest wait for a batch.
    statistics_folder : Path, optional
        Where statistics of samples are kept between runs, if the configuration asks for any.
    pin : callable, optional
        Called with each new block of memory that batches are read into.

    Raises
    ------
    InputError
        If there is nothing to read, or an argument is impossible.
    CorruptDatasetError, StorageError
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        config: StreamConfig = StreamConfig(),  # noqa: B008 - frozen
        *,
        arrays: Sequence[str] = DEFAULT_ARRAYS,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
        reader_kind: ReaderKind = "threads",
        prefetch: int = 2,
        on_corrupt: Literal["raise", "skip"] = "raise",
        stall_s: float = 600.0,
        statistics_folder: Path | None = None,
        pin: Pin | None = None,
    ) -> None:
        for right, found, expected in (
            (0 <= rank < ranks, f"rank {rank} of {ranks}", "a rank from 0, below the number of ranks"),
            (workers >= 0, f"{workers} workers", "0 or more"),
            (prefetch >= 1, f"prefetch {prefetch}", "at least 1"),
            (set(arrays) <= set(ARRAYS), f"arrays {', '.join(arrays)}", f"some of {', '.join(ARRAYS)}"),
            (split in dataset, f"split {split!r}", f"one of {', '.join(dataset)}"),
        ):
            if not right:
                raise InputError(f"a stream with {found}", expected, "Correct the argument")
        self.dataset, self.config = dataset, config
        self.split = dataset[split]
        self.rank, self.ranks = rank, ranks
        self.damaged: dict[int, str] = {}
        self.nbytes = 0
        self._arrays = tuple(arrays)
        self._on_corrupt, self._stall_s = on_corrupt, stall_s
        self._statistics_folder = statistics_folder
        self._ahead = workers * prefetch
        self._workers, self._kind = workers, reader_kind
        self._buffers = Buffers(shared=workers > 0 and reader_kind == "processes", pin=pin)
        self._readers: Readers | None = None
        self._position = (0, 0)
        self._orders: dict[int, EpochOrder] = {}
        self.inputs.check()

    def __enter__(self) -> ShardStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; iterating again starts new ones."""
        if self._readers is not None:
            self._readers.close()
            self._readers = None

    @cached_property
    def inputs(self) -> OrderInputs:
        """What the order is made from. Looks at every sample if the configuration filters or weighs by content."""
        statistics = sample_statistics(self.split, self._statistics_folder) if self.config.needs_statistics else None
        return OrderInputs(
            Layout.of(self.split.index),
            self.config,
            self.config.digest(self.dataset.uuid, self.split.name),
            self.dataset.plan.shards(self.split.name),
            chosen(self.split, self.config, statistics),
            weights(self.split, self.config, statistics),
        )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of clips that can be cut from the split."""
        inputs = self.inputs
        return tuple(n for n, chances in possible(inputs.layout, inputs.keep, self.config).items() if any(chances))

    def order(self, epoch: int) -> EpochOrder:
        """Return the order of an epoch; the last two are kept."""
        if epoch not in self._orders:
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = EpochOrder(self.inputs, epoch)
        return self._orders[epoch]

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream stands, after the last batch that was handed out; plain JSON data."""
        epoch, position = self._position
        return {"version": STATE_VERSION, "order": self.inputs.digest, "epoch": epoch, "position": position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a stream of the same order stood, whatever its workers and ranks.

        Raises
        ------
        InputError
            If the state is of another order: another dataset, split, seed or configuration.
        """
        try:
            version, order = int(state["version"]), str(state["order"])
            epoch, position = int(state["epoch"]), int(state["position"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the state of a stream cannot be read: {error!r}", "what state_dict() gave") from None
        if version != STATE_VERSION or order != self.inputs.digest:
            raise InputError(
                "the state belongs to a stream of another order",
                "the same dataset, split, seed and configuration",
                "Give the stream what it had when the state was taken, or start again",
            )
        if epoch < 0 or not 0 <= position <= self.order(epoch).clips:
            raise InputError(
                f"the state names clip {position} of epoch {epoch}",
                "a place in that epoch",
                "Load a state as state_dict() gave it",
            )
        self._position = epoch, position

    def __iter__(self) -> Generator[StreamBatch, None, None]:
        return self._run(endless=False)

    def forever(self) -> Generator[StreamBatch, None, None]:
        """Yield batches epoch after epoch; workers read ahead across their borders."""
        return self._run(endless=True)

    def _run(self, *, endless: bool) -> Generator[StreamBatch, None, None]:
        if self._readers is None:
            self._readers = Readers(self.split, self._workers, self._kind)
        epoch, position = self._position
        if position >= self.order(epoch).clips:
            epoch, position = epoch + 1, 0
        waiting: deque[_Planned] = deque()
        plans = self._plans(epoch, position, endless=endless)
        try:
            for plan in plans:
                waiting.append(plan)
                if len(waiting) > self._ahead:
                    yield self._hand_out(waiting.popleft())
            while waiting:
                yield self._hand_out(waiting.popleft())
        finally:
            for plan in waiting:
                plan.future.cancel()

    def _plans(self, epoch: int, position: int, *, endless: bool) -> Iterator[_Planned]:
        """Begin one batch after another."""
        while True:
            order = self.order(epoch)
            number, skip = order.locate(position)
            for k in range(number, len(order)):
                samples = order.batch(k)
                first = skip if k == number else 0
                rows = np.arange(self.rank, len(samples), self.ranks)
                rows = rows[rows >= first]
                after = (epoch, int(order.starts[k + 1])) if k + 1 < len(order) else (epoch + 1, 0)
                yield self._begin(order, k, samples[rows], rows, after)
            if not endless:
                return
            if not len(order):
                raise InputError(f"epoch {epoch} of the stream has no batch", "at least one", "Set drop_last to false")
            epoch, position = epoch + 1, 0

    def _begin(self, order: EpochOrder, number: int, samples: I64, rows: I64, after: tuple[int, int]) -> _Planned:
        assert self._readers is not None
        maps = {name: self._shape(name, samples.shape) for name in self._arrays if is_map(ARRAYS[name])}
        place = Place.of(maps)
        block, memory = self._buffers.lend(max(place.nbytes, self._largest))
        future = self._readers.submit(samples, block, memory, place)
        return _Planned(order, number, samples, rows, after, place.views(memory), future)

    def _shape(self, name: str, leading: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
        spec = ARRAYS[name]
        return (*leading, *spec.sample_shape(self.dataset.resolution)), spec.dtype

    @cached_property
    def _largest(self) -> int:
        """Bytes of the largest batch, so that any block serves any batch."""
        frames = max(self._clips_here(n) * n for n in self.config.lengths)
        return Place.of({n: self._shape(n, (frames,)) for n in self._arrays if is_map(ARRAYS[n])}).nbytes

    def _clips_here(self, length: int) -> int:
        return -(-self.config.clips_per_batch(length) // self.ranks)

    def _hand_out(self, plan: _Planned) -> StreamBatch:
        try:
            filled = plan.future.result(timeout=self._stall_s)
        except FutureTimeoutError:
            raise StorageError(
                f"no batch came from {self.dataset.url} within {self._stall_s:g} s",
                "a store that answers",
                "Check the store and the network; the run can continue from its last state",
            ) from None
        except BrokenProcessPool:
            self._readers = None
            raise StorageError(
                "a reading process ended unexpectedly",
                "enough memory for all workers, and a script whose work is under `if __name__ == '__main__'`",
                "Use fewer workers, or reader_kind='threads'",
            ) from None
        if filled.rows:
            self._replace_damaged(plan, filled)
        self.nbytes += filled.nbytes
        samples = plan.samples
        for name in self._arrays:
            if name not in plan.arrays:
                flat = self.split.read([name], samples.ravel(), decode=False)[name]
                plan.arrays[name] = flat.reshape(*samples.shape, *flat.shape[1:])
        self._position = plan.after
        arrays = {name: plan.arrays[name] for name in self._arrays}
        return StreamBatch(arrays, samples, plan.order.is_views(plan.number), plan.order.epoch, plan.number, plan.rows)

    def _replace_damaged(self, plan: _Planned, filled: Filled) -> None:
        first = next(iter(filled.damaged.values()))
        good = [row for row in range(len(plan.samples)) if row not in filled.rows]
        if self._on_corrupt == "raise" or not good:
            raise CorruptDatasetError(
                first.split(" Expected ")[0],
                "the bytes that were written",
                "Run `datagen verify`, build again, or read with on_corrupt='skip'",
            )
        for sample, message in filled.damaged.items():
            if sample not in self.damaged:
                _LOGGER.warning("skipped: %s", message)
            self.damaged[sample] = message
        for turn, row in enumerate(filled.rows):
            source = good[turn % len(good)]
            plan.samples[row] = plan.samples[source]
            for values in plan.arrays.values():
                values[row] = values[source]
