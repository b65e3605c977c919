"""WebDataset and LitData on the same samples: stored lossless, written and read the way their documentation does."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs import Blosc
from PIL import Image

from benchmarks.read.case import MAPS, PEERS, ReadCase
from datagen.common.errors import DependencyError

Batch = Mapping[str, Any]
Maps = dict[str, npt.NDArray[Any]]
Item = dict[str, bytes]

# small: images and labels as PNG at its best level, 16-bit maps as 16-bit PNG, a channel at a time.
# fast: every map by Blosc with zstd and byte shuffle, as numcodecs users have it.
SETTINGS = ("small", "fast")
PNG_LEVEL = 9
FAST_LEVEL = 3
_BLOSC = Blosc()
ITEMS_PER_SHARD = 48
RESOLUTION_FILE = "resolution.txt"
_MIXED = 128  # samples of WebDataset's shuffle buffer
_CHUNK_BYTES = 2**25


def installed_peers() -> tuple[str, ...]:
    """Return the peers that can be measured here."""
    from importlib.util import find_spec

    return tuple(peer for peer in PEERS if find_spec(peer) is not None)


def check_installed(peer: str) -> None:
    """Raise DependencyError if a peer is not installed."""
    from importlib.util import find_spec

    if find_spec(peer) is None:
        raise DependencyError(
            f"the package {peer} is not installed", f"{peer}, to measure against it", "pip install 'canonface[bench]'"
        )


def encode(maps: Mapping[str, npt.NDArray[Any]], setting: str) -> dict[str, bytes]:
    """Encode the maps of one sample; keys end in the file types that tools know."""
    if setting == "small":
        stored = {"image.png": _png(np.ascontiguousarray(maps["image"].transpose(1, 2, 0)))}
        stored |= {"depth.png": _png(maps["depth"]), "confidence.png": _png(maps["confidence"])}
        return stored | {f"canonical{k}.png": _png(plane) for k, plane in enumerate(maps["canonical"])}
    return {
        f"{name}.blosc": Blosc("zstd", FAST_LEVEL, Blosc.SHUFFLE).encode(np.ascontiguousarray(value))
        for name, value in maps.items()
    }


def decode(stored: Mapping[str, bytes], resolution: int) -> Maps:
    """Undo :func:`encode`."""
    if "image.png" in stored:
        return {
            "image": np.ascontiguousarray(_pixels(stored["image.png"], np.uint8).transpose(2, 0, 1)),
            "depth": _pixels(stored["depth.png"], np.uint16),
            "confidence": _pixels(stored["confidence.png"], np.uint8),
            "canonical": np.stack([_pixels(stored[f"canonical{k}.png"], np.uint16) for k in range(3)]),
        }
    shapes = {
        "image": (3, resolution, resolution),
        "depth": (resolution, resolution),
        "canonical": (3, resolution, resolution),
        "confidence": (resolution, resolution),
    }
    maps: Maps = {}
    for name, shape in shapes.items():
        maps[name] = np.empty(shape, np.uint16 if name in {"depth", "canonical"} else np.uint8)
        _BLOSC.decode(stored[f"{name}.blosc"], out=maps[name])
    return maps


def _png(values: npt.NDArray[Any]) -> bytes:
    file = BytesIO()
    Image.fromarray(values).save(file, "PNG", compress_level=PNG_LEVEL)
    return file.getvalue()


def _pixels(data: bytes, dtype: Any) -> npt.NDArray[Any]:
    with Image.open(BytesIO(data)) as picture:
        return np.asarray(picture).astype(dtype, copy=False)


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
