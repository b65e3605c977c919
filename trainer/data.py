"""Batches of clips as tensors, read from a dataset on demand."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils import data as torch_data

from datagen.shards import Dataset, Split, open_dataset
from trainer.augment import augment_clip, mirror_clip
from trainer.config import DataConfig
from trainer.order import BatchOrder, Indices

IMAGE_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
IMAGE_STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
_ARRAYS = ("image", "depth", "canonical", "confidence", "intrinsics")
_BYTES_PER_PIXEL = 3 + 2 + 6 + 1  # of these arrays as stored

Batch = dict[str, torch.Tensor]
Maps = dict[str, npt.NDArray[Any]]


class ClipReader:
    """Read clips of a split; keeps the stored arrays in memory if they fit.

    Parameters
    ----------
    dataset : Dataset
    split : str
    cache_mb : int
        Megabytes the stored arrays may take in memory.
    """

    def __init__(self, dataset: Dataset, split: str, cache_mb: int = 0) -> None:
        self.split = dataset[split]
        stored_bytes = len(self.split) * dataset.resolution**2 * _BYTES_PER_PIXEL
        self._cache: Maps | None = None
        if 0 < stored_bytes <= cache_mb * 2**20:
            self._cache = self.split.read(_ARRAYS, slice(None), decode=False)

    def clip(self, indices: Indices) -> Maps:
        """Return the maps of a clip: image uint8, depth in metres, canonical, confidence, intrinsics (float32)."""
        if self._cache is None:
            return self.split.read(_ARRAYS, indices)
        return {name: self.split.decode(name, values[indices]) for name, values in self._cache.items()}


class TrainingBatches(torch_data.Dataset[Batch]):
    """The batch of every step, each a pure function of the seed and the step.

    Safe for spawned workers: only the path travels, each process opens the dataset itself.

    Parameters
    ----------
    path : path
        The dataset.
    config : DataConfig
    seed : int
    split : str
    """

    def __init__(self, path: Path, config: DataConfig, seed: int, split: str = "train") -> None:
        self._arguments = (path, config, seed, split)
        self._reader: ClipReader | None = None
        self._order: BatchOrder | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def _open(self) -> tuple[ClipReader, BatchOrder]:
        if self._reader is None or self._order is None:
            path, config, seed, split = self._arguments
            self._reader = ClipReader(open_dataset(path), split, config.cache_mb)
            self._order = BatchOrder(self._reader.split, config, seed)
        return self._reader, self._order

    @property
    def reader(self) -> ClipReader:
        """The reader behind the batches."""
        return self._open()[0]

    @property
    def order(self) -> BatchOrder:
        """Which samples make up which batch."""
        return self._open()[1]

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a step (from 0), augmented: see :func:`collate`."""
        reader, order = self._open()
        _, config, seed, _ = self._arguments
        # 1 keeps this stream apart from the order's, which is seeded with [seed, epoch].
        rng = np.random.default_rng([seed, step, 1])
        clips = []
        rows = order.batch(step)
        for row in rows:
            maps = reader.clip(row)
            maps["image"] = augment_clip(to_unit(maps["image"]), config.augment, rng)
            if rng.random() < 0.5 and config.mirror:
                names = ("image", "depth", "canonical", "confidence", "intrinsics")
                maps |= dict(zip(names, mirror_clip(*(maps[name] for name in names)), strict=True))
            clips.append(maps)
        return collate(clips, rows)


def collate(clips: list[Maps], indices: npt.NDArray[np.integer]) -> Batch:
    """Stack clips of one length into tensors.

    Returns
    -------
    dict
        ``image`` (B, S, 3, H, W) float32, ImageNet-normalised; ``depth`` (B, S, H, W) metres, 0 = none;
        ``canonical`` (B, S, 3, H, W); ``confidence`` (B, S, H, W), above 0 where canonical is known;
        ``intrinsics`` (B, S, 3, 3) pixels; ``index`` (B, S) int64.
    """
    batch = {name: torch.from_numpy(np.stack([maps[name] for maps in clips])) for name in _ARRAYS[1:]}
    images = np.stack([maps["image"] for maps in clips])
    batch["image"] = torch.from_numpy(normalise_image(images))
    batch["index"] = torch.from_numpy(np.asarray(indices, np.int64))
    return batch


def normalise_image(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Turn (..., 3, H, W) uint8, or float32 in [0, 1], into the network's ImageNet-normalised float32."""
    scaled = to_unit(images) if images.dtype == np.uint8 else images
    return ((scaled - IMAGE_MEAN) / IMAGE_STD).astype(np.float32)


def training_loader(batches: TrainingBatches, first_step: int, steps: int, workers: int) -> Iterator[Batch]:
    """Yield the batches of steps ``first_step`` … ``steps`` − 1 in order, read by ``workers`` spawned processes."""
    yield from torch_data.DataLoader(
        batches,
        batch_size=None,
        sampler=range(first_step, steps),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_outlive_signals,
    )


def _outlive_signals(_worker: int) -> None:
    """Leave signals to the main process: one that goes to the whole group must not take the batch it is waiting for."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def describe_sample(split: Split, index: int) -> str:
    """Name a sample the way a person finds it again."""
    s = split.sample(index)
    return f"#{index} ({s.subject}/{s.sequence}/{s.camera} frame {s.frame})"


def to_unit(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Turn uint8 into float32 in [0, 1]."""
    scaled: npt.NDArray[np.float32] = images.astype(np.float32)
    scaled /= 255
    return scaled
