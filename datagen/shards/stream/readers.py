"""Readers of a stream: this thread, threads, or spawned processes that open the dataset themselves."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from datagen.common.errors import CorruptDatasetError, MissingShardError
from datagen.shards.dataset import Split
from datagen.shards.stream.buffers import Block, Memory, Place, open_block

ReaderKind = Literal["threads", "processes"]


@dataclass(frozen=True)
class Filled:
    """The outcome of reading a batch.

    Attributes
    ----------
    nbytes : int
        Compressed bytes read.
    damaged : mapping of sample to message
    rows : tuple of int
        Rows that could not be read.
    """

    nbytes: int
    damaged: Mapping[int, str]
    rows: tuple[int, ...]


def fill(split: Split, samples: npt.NDArray[np.int64], arrays: Mapping[str, npt.NDArray[Any]]) -> Filled:
    """Decode a batch straight into its arrays.

    Parameters
    ----------
    samples : (B, S) int64
    arrays : mapping of name to array (B, S, ...)
        Map arrays of the stored dtype.

    Raises
    ------
    StorageError
        If the store refuses.
    MissingShardError, ReplacedDatasetError
        If files are gone, or are another dataset's. Damaged samples are not raised but named in the result.
    """
    nbytes, damaged, rows = 0, {}, []
    for row, clip in enumerate(samples.tolist()):
        try:
            for place, i in enumerate(clip):
                for name, out in arrays.items():
                    nbytes += split.map_into(name, i, out[row, place])
        except MissingShardError:
            raise  # no accident of a few bytes: the dataset is going away, or was never whole
        except CorruptDatasetError as error:
            damaged[i] = str(error)
            rows.append(row)
    return Filled(nbytes, damaged, tuple(rows))


class Readers:
    """Fill batches in the background.

    Parameters
    ----------
    split : Split
        Pickles as its store and its name.
    workers : int
        0 fills in the calling thread, when the batch is asked for.
    kind : ``threads`` or ``processes``
    """

    def __init__(self, split: Split, workers: int, kind: ReaderKind) -> None:
        self._split = split
        self.shared = workers > 0 and kind == "processes"
        self._pool: Executor | None = None
        if self.shared:
            import multiprocessing

            # Never forked: threads and locks of the parent would be copied in whatever state they are.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, _begin_worker, (split,))
        elif workers:
            self._pool = ThreadPoolExecutor(workers, "stream")

    def submit(self, samples: npt.NDArray[np.int64], block: Block, memory: Memory, place: Place) -> Future[Filled]:
        """Begin to fill a batch whose arrays lie in ``memory`` of ``block`` as ``place`` says."""
        if isinstance(self._pool, ProcessPoolExecutor):
            future = self._pool.submit(_fill_remotely, samples, str(block.path), len(memory), place)
            # The block must not be lent again while the worker writes, even if the batch is given up.
            future.add_done_callback(partial(_hold, memory))
            return future
        if self._pool is not None:
            return self._pool.submit(fill, self._split, samples, place.views(memory))
        now: Future[Filled] = Future()
        try:
            now.set_result(fill(self._split, samples, place.views(memory)))
        except Exception as error:
            now.set_exception(error)
        return now

    def close(self) -> None:
        """End the workers; what they have begun is given up."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


# What a spawned worker holds; empty in every other process.
_worker_split: list[Split] = []
_worker_blocks: dict[tuple[str, int], Memory] = {}


def _begin_worker(split: Split) -> None:
    """Set up a spawned worker."""
    # Signals go to the whole group: the main process decides, and must get the batch it waits for.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import numcodecs.blosc

    numcodecs.blosc.use_threads = False  # workers are as many as there are cores to use
    _worker_split[:] = [split]


def _hold(_memory: Memory, _future: Future[Filled]) -> None:
    """Keep memory for as long as a future is not done."""


def _end_with_parent() -> None:
    import multiprocessing
    from multiprocessing.connection import wait

    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _fill_remotely(samples: npt.NDArray[np.int64], path: str, nbytes: int, place: Place) -> Filled:
    memory = _worker_blocks.get((path, nbytes))
    if memory is None:
        memory = _worker_blocks[path, nbytes] = open_block(path, nbytes)
    return fill(_worker_split[0], samples, place.views(memory))
