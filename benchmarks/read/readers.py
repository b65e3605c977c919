"""Our readers of a dataset: the stream, other implementations of Zarr, and decompression by itself."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.read.case import MAPS, ReadCase
from datagen.common.errors import InputError
from datagen.shards import ARRAYS, ShardStream, Split, StreamConfig, open_dataset
from datagen.shards.chunks import CRC_BYTES, index_bytes
from datagen.shards.codec import ChunkCodec, blosc_into

Batch = Mapping[str, Any]
Resumed = tuple[Batch, float, Batch]


class Reader(Protocol):
    """What a case measures."""

    def batches(self) -> Iterator[Batch]:
        """Yield batches without end."""
        ...

    def resume(self) -> Resumed:
        """Return the batch after half an epoch, the seconds until a new reader gives it, and what that gave."""
        ...


def open_reader(case: ReadCase) -> Reader:
    """Return the reader of a case; what it needs is imported now."""
    if case.reader == "canonface":
        return StreamReader(case)
    if case.reader in {"zarr", "zarrs", "tensorstore"}:
        return ZarrReader(case)
    from benchmarks.read.peers import LitDataReader, WebDatasetReader

    return WebDatasetReader(case) if case.reader == "webdataset" else LitDataReader(case)


def config_of(case: ReadCase) -> StreamConfig:
    """Return the order of a case."""
    return StreamConfig(
        lengths=(case.clip,) if case.access == "clips" else (1,),
        frames_per_batch=case.frames_per_batch,
        shuffle=case.access != "sequential",
    )


class StreamReader:
    """``ShardStream``."""

    def __init__(self, case: ReadCase) -> None:
        self._case = case

    def _stream(self, workers: int) -> ShardStream:
        dataset = open_dataset(self._case.folder)
        return ShardStream(dataset, "train", config_of(self._case), arrays=MAPS, workers=workers)

    def batches(self) -> Iterator[Batch]:
        """See :class:`Reader`."""
        for batch in self._stream(self._case.workers).forever():
            yield batch.arrays

    def resume(self) -> Resumed:
        """See :class:`Reader`; the new stream has another number of workers."""
        stream = self._stream(self._case.workers)
        batches = stream.forever()
        half = len(stream.order(0)) // 2
        for _ in islice(batches, half):
            pass
        state = stream.state_dict()
        want = {name: value.copy() for name, value in next(batches).arrays.items()}
        batches.close()
        stream.close()
        began = time.perf_counter()
        again = self._stream(self._case.workers + 1)
        again.load_state_dict(state)
        got = next(again.forever()).arrays
        return want, time.perf_counter() - began, got


class ZarrReader:
    """The same files and order, with the chunks read and decoded by another implementation of Zarr."""

    def __init__(self, case: ReadCase) -> None:
        self._case = case
        self._split = open_dataset(case.folder)["train"]
        opener = {"zarr": _open_zarr, "zarrs": _open_zarrs, "tensorstore": _open_tensorstore}[case.reader]
        self._open = opener

    def batches(self) -> Iterator[Batch]:
        """See :class:`Reader`."""
        read = self._open(self._split, self._case.workers)
        orders = ShardStream(self._split.dataset, "train", config_of(self._case), arrays=MAPS)

        def load(samples: npt.NDArray[np.int64]) -> Batch:
            batch = {}
            for name in MAPS:
                values = read(name, samples.ravel())
                batch[name] = values.reshape(*samples.shape, *values.shape[1:])
            return batch

        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self._case.workers) as pool:
            for epoch in range(10**9):
                order = orders.order(epoch)
                for number in range(len(order)):
                    waiting.append(pool.submit(load, order.batch(number)))
                    if len(waiting) > 2 * self._case.workers:
                        yield waiting.popleft().result()

    def resume(self) -> Resumed:
        """Not measured: these have no order of their own."""
        raise InputError(f"{self._case.reader} has no order to resume", "canonface, webdataset or litdata", "")


Read = Callable[[str, npt.NDArray[np.int64]], npt.NDArray[Any]]


def _open_zarr(split: Split, _workers: int) -> Read:
    import zarr

    import datagen.shards.zarr_codecs  # noqa: F401 - a checkout has no entry points

    group = zarr.open_group(str(split.dataset.path), mode="r")
    arrays = {name: group[f"{split.name}/{name}"] for name in MAPS}
    return lambda name, samples: np.stack([arrays[name][int(i)] for i in samples])


def _open_zarrs(split: Split, workers: int) -> Read:
    import zarr
    import zarrs  # noqa: F401 - registers itself

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": workers})
    return _open_zarr(split, workers)


def _open_tensorstore(split: Split, workers: int) -> Read:
    import tensorstore

    context = tensorstore.Context({"data_copy_concurrency": {"limit": workers}})
    arrays = {
        name: tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{split.dataset.path}/{split.name}/{name}"}},
            context=context,
            read=True,
        ).result()
        for name in MAPS
    }
    return lambda name, samples: arrays[name][samples.tolist()].read().result()


def decompression_rates(case: ReadCase) -> dict[str, float]:
    """Return samples a second of decompression by itself, from memory into memory, by as many threads as workers.

    Returns
    -------
    dict
        ``decompression``: from the bytes of chunks to the numbers they stand for. ``blosc``: no
        predictions.
        With ``_cpu_ms`` after the name: processor time a sample, in milliseconds.
    """
    split = open_dataset(case.folder)["train"]
    plan, stored, frames = split.dataset.plan, _chunks(split), case.frames_per_batch
    codecs = {name: ChunkCodec.of(ARRAYS[name], plan.codecs, plan.image_error) for name in MAPS}
    shapes = {name: ARRAYS[name].sample_shape(plan.resolution) for name in MAPS}
    for name, codec in codecs.items():  # compiled, or read from where they are kept, before any time is taken
        codec.decompress_into(stored[name][0], np.empty(shapes[name], ARRAYS[name].dtype))
    rates = {}
    for what in ("decompression", "blosc"):
        counts = [0] * case.workers
        until = time.perf_counter() + case.seconds

        def work(worker: int, whole: bool, counts: list[int] = counts, until: float = until) -> None:
            out = {name: np.zeros((frames, *shapes[name]), ARRAYS[name].dtype) for name in MAPS}
            left = {name: np.zeros(codec.encoded_bytes(shapes[name]), np.uint8) for name, codec in codecs.items()}
            place = worker * 7
            while time.perf_counter() < until:
                for row in range(frames):
                    for name, codec in codecs.items():
                        chunk = stored[name][(place + row) % len(split)]
                        if whole:
                            codec.decompress_into(chunk, out[name][row])
                        else:
                            blosc_into(chunk, left[name])
                place += frames
                counts[worker] += frames

        began, spent = time.perf_counter(), time.process_time()
        threads = [threading.Thread(target=work, args=(k, what == "decompression")) for k in range(case.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rates[what] = sum(counts) / (time.perf_counter() - began)
        rates[f"{what}_cpu_ms"] = (time.process_time() - spent) / max(sum(counts), 1) * 1e3
    return rates


def table_figures(case: ReadCase) -> dict[str, float]:
    """Return what the frame table costs beside the maps: time to read a batch with it, and its bytes.

    Batches with and without their frames' vertices and spread are read in turns, so that both meet the same machine.
    The template, which is there once however many samples there are, is not counted.
    """
    dataset = open_dataset(case.folder)
    split = dataset["train"]
    frames, rows = split.frames, split.index.frame_row
    order = np.random.default_rng(0).permutation(len(split))
    # Kernels are loaded and files opened before anything is timed.
    split.read(MAPS, [0], decode=False)
    frames.spread([0])
    frames.vertices([0])
    spent: dict[bool, list[float]] = {True: [], False: []}
    until, turn = time.perf_counter() + case.seconds, 0
    while time.perf_counter() < until or turn < 4:
        batch = np.roll(order, turn * case.frames_per_batch)[: case.frames_per_batch]
        for with_table in (turn % 2 == 0, turn % 2 == 1):
            began = time.process_time()
            split.read(MAPS, batch, decode=False)
            if with_table:
                chosen = np.unique(rows[batch])
                frames.vertices(chosen)
                frames.spread(chosen)
            spent[with_table].append(time.process_time() - began)
        turn += 1
    sizes = dict.fromkeys(("train", "train/frames"), 0)
    for unit in dataset.plan.units:
        if unit.group in sizes:
            sizes[unit.group] += sum(file.bytes for file in dataset.record(unit.group, unit.index).files.values())
    return {
        # The median turn: one that the machine disturbed tells nothing of the table.
        "table_ratio": float(np.median(spent[True]) / np.median(spent[False])),
        "table_bytes_ratio": (sizes["train"] + sizes["train/frames"]) / sizes["train"],
    }


def _chunks(split: Split) -> dict[str, list[memoryview]]:
    """Return the compressed bytes of every sample."""
    return {
        name: [memoryview(split.dataset.reader.chunk(split.name, name, i))[:-CRC_BYTES] for i in range(len(split))]
        for name in MAPS
    }


def stored_bytes(split: Split, samples: Sequence[int]) -> float:
    """Return the mean bytes that samples take on disk in the measured arrays, their part of the index included."""
    per_shard = split.dataset.plan.samples_per_shard
    total = 0
    for name in MAPS:
        for i in samples:
            total += len(split.dataset.reader.chunk(split.name, name, i)) + index_bytes(per_shard) // per_shard
    return total / len(samples)
