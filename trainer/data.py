"""Batches of clips as tensors, streamed from a dataset, and clips of a split for evaluation.

What travels to the device are the stored integers; they are decoded there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from datagen.common.arrays import I64
from datagen.common.errors import InputError
from datagen.shards import Dataset, ShardStream, Split, StreamConfig
from datagen.shards.cache import cached
from datagen.shards.schema import CANONICAL_LEVELS, CONFIDENCE_LEVELS, NORMAL_LEVELS
from trainer.config import DataConfig

IMAGE_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
IMAGE_STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
ARRAYS = ("image", "depth", "canonical", "confidence", "intrinsics")
_BYTES_PER_PIXEL = 3 + 2 + 6 + 1  # of these arrays as stored
_GIB = 2**30

Batch = dict[str, torch.Tensor]
Arrays = Mapping[str, npt.NDArray[Any]]


class ClipReader:
    """Read clips of a split; keeps the stored arrays in memory if they fit.

    Parameters
    ----------
    cache_mb : int
        Megabytes the stored arrays may take in memory.
    """

    def __init__(self, dataset: Dataset, split: str, cache_mb: int = 0) -> None:
        self.split = dataset[split]
        stored_bytes = len(self.split) * dataset.resolution**2 * _BYTES_PER_PIXEL
        self._cache: dict[str, npt.NDArray[Any]] | None = None
        if 0 < stored_bytes <= cache_mb * 2**20:
            self._cache = self.split.read(ARRAYS, slice(None), decode=False)

    def clip(self, indices: I64) -> dict[str, npt.NDArray[Any]]:
        """Return the maps of a clip: image uint8, depth in metres, canonical, confidence, intrinsics (float32)."""
        if self._cache is None:
            return self.split.read(ARRAYS, indices)
        return {name: self.split.decode(name, values[indices]) for name, values in self._cache.items()}


@dataclass(frozen=True)
class Loaded:
    """One training batch.

    Attributes
    ----------
    batch : dict of name to tensor on the device
        ``image`` (B, S, 3, H, W) float32 in [0, 1]; ``depth`` (B, S, H, W) metres, 0 = none; ``canonical``
        (B, S, 3, H, W); ``confidence`` (B, S, H, W), above 0 where canonical is known; ``intrinsics`` (B, S, 3, 3)
        pixels; ``index`` (B, S) int64; other arrays that were asked for.
    views : bool
        The clips are cameras of one instant, not one camera over time.
    seeds : list of int
        One for each clip, for its augmentation: the same whoever reads it.
    state : dict
        Where the stream stands after this batch.
    """

    batch: Batch
    views: bool
    seeds: list[int]
    state: dict[str, Any]


class TrainingBatches(Protocol):
    """Batches without end, in an order that can be resumed: one loader, or several in turn."""

    @property
    def lengths(self) -> tuple[int, ...]: ...
    @property
    def state(self) -> dict[str, Any]: ...
    def resume(self, state: dict[str, Any], /) -> None:
        """Resume where a run stood; InputError if the state belongs to another order."""

    def close(self) -> None:
        """Stop the readers."""

    def __iter__(self) -> Iterator[Loaded]: ...


class TrainingLoader:
    """The batches of a run, epoch after epoch: a function of seed, configuration and dataset alone.

    Parameters
    ----------
    arrays : sequence of str
        Keys of ``datagen.shards.ARRAYS``.
    rank, ranks : int
        Which part of each batch is read here.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: DataConfig,
        seed: int,
        device: torch.device,
        *,
        arrays: Sequence[str] = ARRAYS,
        split: str = "train",
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if config.cache_dir is not None:
            dataset = cached(dataset, config.cache_dir, int(config.cache_gb * _GIB))
        self._seed, self._uploader = seed, Uploader(device)
        self.stream = ShardStream(
            dataset,
            split,
            stream_config(config, seed),
            arrays=arrays,
            rank=rank,
            ranks=ranks,
            workers=config.workers,
            reader_kind=config.reader,
            on_corrupt=config.on_corrupt,
            statistics_folder=config.cache_dir,
            pin=self._uploader.pin,
        )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of clips that the split has."""
        return self.stream.lengths

    @property
    def state(self) -> dict[str, Any]:
        """Where the stream stands."""
        return self.stream.state_dict()

    def resume(self, state: dict[str, Any]) -> None:
        """Resume where a run stood; InputError if the state belongs to another order."""
        self.stream.load_state_dict(state)

    def close(self) -> None:
        """Stop the readers."""
        self.stream.close()

    def __iter__(self) -> Iterator[Loaded]:
        scale = self.stream.dataset.depth_scale
        for read in self.stream.forever():
            copies = self._uploader.tensors({**read.arrays, "index": read.samples})
            index = copies.pop("index")
            batch = {name: decode(name, value, scale) for name, value in copies.items()}
            seeds = [clip_seed(self._seed, read.epoch, read.number, row) for row in read.rows.tolist()]
            yield Loaded({**batch, "index": index}, read.views, seeds, self.stream.state_dict())


def stream_config(config: DataConfig, seed: int) -> StreamConfig:
    """Return the order a configuration asks for."""
    return StreamConfig(
        seed=seed,
        lengths=config.clip_lengths,
        frames_per_batch=config.frames_per_batch,
        view_ratio=config.view_ratio,
        stride=config.stride,
        jitter=config.jitter,
        window=config.window,
        drop_last=config.drop_last,
        min_confidence=config.min_confidence,
        min_coverage=config.min_coverage,
        verdicts=config.verdicts,
        subject_weights=config.subject_weights,
        region_weights=config.region_weights,
    )


def clip_seed(seed: int, epoch: int, number: int, row: int) -> int:
    """Return the seed of one clip of a run, below 2⁶³."""
    return int(np.random.SeedSequence([seed, epoch, number, row]).generate_state(1, np.uint64)[0] >> 1)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Turn (..., 3, H, W) uint8, or float32 in [0, 1], into the network's ImageNet-normalised float32.

    On the device they are on: bytes travel to a GPU, a quarter of what floats would.
    """
    scaled = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images
    mean, std = (torch.from_numpy(value).to(images.device) for value in (IMAGE_MEAN, IMAGE_STD))
    return (scaled - mean) / std


def describe_sample(split: Split, index: int) -> str:
    """Name a sample so that a person can find it."""
    return f"#{index} ({split.sample_name(index)})"


class Uploader:
    """Copies batches to a device without waiting, from memory whose pages are locked."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._under_way: deque[tuple[torch.cuda.Event, Arrays]] = deque()

    def pin(self, memory: npt.NDArray[np.uint8]) -> Callable[[], object] | None:
        """Lock the pages of a block that batches are read into, so that copies from it need no second copy.

        Returns
        -------
        callable or None
            What unlocks them; None where there is no GPU.
        """
        if self.device.type != "cuda":
            return None
        runtime, address = torch.cuda.cudart(), memory.ctypes.data  # type: ignore[no-untyped-call]
        failure = runtime.cudaHostRegister(address, memory.nbytes, 0)
        if int(failure):
            raise InputError(
                f"{memory.nbytes} bytes of memory cannot be locked for copies to the GPU ({failure})",
                "a limit of locked memory (ulimit -l) above the size of the batches in flight",
                "Raise the limit, or lower data.workers",
            )
        return partial(runtime.cudaHostUnregister, address)

    def tensors(self, arrays: Arrays) -> Batch:
        """Begin to copy arrays; what they lie in is kept until the copies are made."""
        copies = {name: torch.from_numpy(value).to(self.device, non_blocking=True) for name, value in arrays.items()}
        if self.device.type == "cuda":
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._under_way.append((event, arrays))
            while len(self._under_way) > 1 and self._under_way[0][0].query():  # type: ignore[no-untyped-call]
                self._under_way.popleft()
        return copies


def decode(name: str, stored: torch.Tensor, depth_scale: float) -> torch.Tensor:
    """Turn stored values of an array into metres and unit ranges, float32, on their own device.

    Parameters
    ----------
    name : str
        A key of ``datagen.shards.ARRAYS``.
    stored : tensor (..., H, W)
    depth_scale : float
        Metres per stored depth step.

    Returns
    -------
    tensor
        Images in [0, 1]; arrays of labels and indices unchanged.
    """
    if stored.dtype == torch.uint16:  # which torch computes with on few devices
        stored = stored.view(torch.int16).to(torch.int32) & 0xFFFF
    if name == "image":
        return stored.to(torch.float32) / 255
    if name == "depth":
        return stored.to(torch.float32) * np.float32(depth_scale).item()
    if name == "canonical":
        return stored.to(torch.float32) * np.float32(2 / CANONICAL_LEVELS).item() - 1
    if name == "normal":
        return stored.to(torch.float32) / NORMAL_LEVELS
    if name == "confidence":
        return stored.to(torch.float32) / CONFIDENCE_LEVELS
    return stored
