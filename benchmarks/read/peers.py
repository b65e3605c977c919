"""WebDataset and LitData on the same samples, each written and read the way its documentation does."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.read.codecs import MAPS, Maps, decode
from datagen.common.errors import DependencyError

if TYPE_CHECKING:
    from benchmarks.read.case import ReadCase

Batch = Mapping[str, Any]
ITEMS_PER_SHARD = 48
RESOLUTION_FILE = "resolution.txt"
_MIXED = 128  # samples of WebDataset's shuffle buffer
_CHUNK_BYTES = 2**25


def check_installed(peer: str) -> None:
    """Raise DependencyError if a peer is not installed."""
    from importlib.util import find_spec

    if find_spec(peer) is None:
        raise DependencyError(
            f"the package {peer} is not installed", f"{peer}, to measure against it", "pip install 'canonface[bench]'"
        )


Item = dict[str, bytes]


def write_webdataset(folder: Path, items: Sequence[Item], resolution: int) -> None:
    """Write tar shards; a file of an item is a file of the tar."""
    import webdataset

    folder.mkdir(parents=True)
    (folder / RESOLUTION_FILE).write_text(str(resolution))
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=ITEMS_PER_SHARD, verbose=0) as writer:
        for number, item in enumerate(items):
            writer.write({"__key__": f"{number:08d}", **item})


def write_litdata(folder: Path, items: Sequence[Item], resolution: int) -> None:
    """Write LitData's chunks with its own writer."""
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir(parents=True)
    (folder / RESOLUTION_FILE).write_text(str(resolution))
    writer = BinaryWriter(str(folder), chunk_bytes=_CHUNK_BYTES)
    for number, item in enumerate(items):
        writer.add_item(number, item)
    writer.done()
    writer.merge()


def clip_item(frames: Sequence[Item]) -> Item:
    """Put the frames of a clip into one item."""
    return {f"{k}.{name}": data for k, frame in enumerate(frames) for name, data in frame.items()}


def decode_item(item: Mapping[str, Any], resolution: int) -> Maps:
    """Decode an item: the maps of a frame, or of the frames of a clip stacked."""
    stored = {name: data for name, data in item.items() if not name.startswith("__")}
    if not next(iter(stored))[0].isdigit():
        return decode(stored, resolution)
    frames: dict[str, Item] = {}
    for name, data in stored.items():
        frame, _, rest = name.partition(".")
        frames.setdefault(frame, {})[rest] = data
    maps = [decode(frames[k], resolution) for k in sorted(frames)]
    return {name: np.stack([one[name] for one in maps]) for name in maps[0]}


class _PeerReader(ABC):
    def __init__(self, case: ReadCase) -> None:
        self._case = case
        self._resolution = int((Path(case.folder) / RESOLUTION_FILE).read_text())
        self._items = case.frames_per_batch // (case.clip if case.access == "clips" else 1)
        self._import()

    @abstractmethod
    def _import(self) -> None:
        """Import the peer, so that no time is measured with it."""

    @property
    def _shuffled(self) -> bool:
        return self._case.access != "sequential"


class WebDatasetReader(_PeerReader):
    """``WebDataset`` behind ``WebLoader``: workers split the shards and decode."""

    def _import(self) -> None:
        import torch  # noqa: F401
        import webdataset  # noqa: F401

    def _loader(self, *, repeated: bool) -> Any:
        import webdataset

        shards = sorted(map(str, Path(self._case.folder).glob("*.tar")))
        # Epochs of the same order, so that what comes after resuming can be compared.
        dataset = webdataset.WebDataset(
            shards,
            shardshuffle=len(shards) if self._shuffled else False,
            workersplitter=webdataset.split_by_worker,
            seed=0,
            detshuffle=True,
        )
        if self._shuffled:
            dataset = dataset.shuffle(_MIXED, seed=0)
        dataset = dataset.map(partial(decode_item, resolution=self._resolution)).batched(
            self._items, collation_fn=_stacked, partial=False
        )
        if repeated:
            dataset = dataset.repeat()
        return webdataset.WebLoader(
            dataset, batch_size=None, num_workers=self._case.workers, multiprocessing_context="spawn"
        )

    def batches(self) -> Iterator[Batch]:
        """See :class:`benchmarks.read.readers.Reader`."""
        yield from self._loader(repeated=True)

    def resume(self) -> tuple[Batch, float, Batch]:
        """It keeps no state: an order with a fixed seed is read again and half of it dropped."""
        count = sum(1 for _ in self._loader(repeated=False))
        undisturbed = iter(self._loader(repeated=False))
        want = next(islice(undisturbed, count // 2, None))
        del undisturbed
        began = time.perf_counter()
        got = next(islice(iter(self._loader(repeated=False)), count // 2, None))
        return want, time.perf_counter() - began, got


class LitDataReader(_PeerReader):
    """``StreamingDataset`` behind ``StreamingDataLoader``."""

    def _import(self) -> None:
        import litdata  # noqa: F401
        import torch  # noqa: F401

    def _loader(self) -> Any:
        import litdata

        dataset = litdata.StreamingDataset(
            self._case.folder,
            shuffle=self._shuffled,
            drop_last=True,
            transform=partial(decode_item, resolution=self._resolution),
        )
        return litdata.StreamingDataLoader(
            dataset,
            batch_size=self._items,
            num_workers=self._case.workers,
            persistent_workers=True,
            multiprocessing_context="spawn",
            collate_fn=_stacked,
        )

    def batches(self) -> Iterator[Batch]:
        """See :class:`benchmarks.read.readers.Reader`."""
        loader = self._loader()
        while True:
            yield from loader

    def resume(self) -> tuple[Batch, float, Batch]:
        """Its loader keeps a state."""
        loader = self._loader()
        batches = iter(loader)
        for _ in islice(batches, len(loader) // 2):
            pass
        state = loader.state_dict()
        want = next(batches)
        del batches, loader
        began = time.perf_counter()
        again = self._loader()
        again.load_state_dict(state)
        got = next(iter(again))
        return want, time.perf_counter() - began, got


def _stacked(samples: Sequence[Maps]) -> dict[str, Any]:
    """Stack items into tensors, which the workers of torch hand over in shared memory."""
    import torch

    return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in MAPS}
