"""Which samples make up which batch: a pure function of the seed and the step, so that a run resumes exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from datagen.shards import InputError
from trainer.config import DataConfig

Indices = npt.NDArray[np.int64]


class Groups(Protocol):
    """The part of a split that ordering needs."""

    def __len__(self) -> int: ...

    def clips(self, length: int, stride: int = 1) -> list[npt.NDArray[np.int64]]:
        """All windows of ``length`` frames of one camera, starting ``stride`` frames apart."""

    def views(self) -> list[npt.NDArray[np.int64]]:
        """The cameras of each instant."""


@dataclass(frozen=True)
class _Choice:
    """The clips of one kind and length, findable by the samples they hold."""

    windows: list[Indices]
    of_sample: dict[int, list[int]]


class BatchOrder:
    """The batches of a run.

    An epoch is a permutation of the split; its samples are the anchors of clips, batch after batch, until about as
    many frames have been read as the split holds. All clips of a batch have the same kind and length.

    Parameters
    ----------
    split : Groups
        A split of a dataset.
    config : DataConfig
    seed : int

    Raises
    ------
    InputError
        If the split is empty or holds no clip of any configured length.
    """

    def __init__(self, split: Groups, config: DataConfig, seed: int) -> None:
        self._count = len(split)
        if self._count == 0:
            raise InputError("the training split is empty", "at least one sample", "Build a larger dataset")
        self._config = config
        self._seed = seed
        self._views = _index(split.views())
        step = config.stride
        self._times = {
            length: _index([window[::step] for window in split.clips((length - 1) * step + 1)])
            for length in set(config.clip_lengths)
        }
        most_views = max((len(v) for v in self._views.windows), default=0)
        self._kinds = {
            length: [bool(self._times[length].windows), most_views >= length] for length in config.clip_lengths
        }
        self.lengths = tuple(length for length in config.clip_lengths if any(self._kinds[length]))
        if not self.lengths:
            raise InputError(
                f"no clip of {config.clip_lengths} frames fits the training split",
                f"{min(config.clip_lengths)} frames in a sequence or cameras at an instant",
                "Set data.clip_lengths to shorter ones, for example [1]",
            )
        self._epochs: dict[int, list[Indices]] = {}
        self._starts = [0]

    def epoch(self, number: int) -> list[Indices]:
        """Return the batches of one epoch, each (B, S) int64 sample indices."""
        if number not in self._epochs:
            self._epochs = {number: self._draw(number)}  # one epoch is kept: steps come in order
        return self._epochs[number]

    def batch(self, step: int) -> Indices:
        """Return the batch of one step (from 0), (B, S) int64 sample indices."""
        epoch, offset = self.locate(step)
        return self.epoch(epoch)[offset]

    def locate(self, step: int) -> tuple[int, int]:
        """Return the epoch a step belongs to, and its place within that epoch."""
        while self._starts[-1] <= step:
            self._starts.append(self._starts[-1] + len(self.epoch(len(self._starts) - 1)))
        epoch = int(np.searchsorted(self._starts, step, side="right")) - 1
        return epoch, step - self._starts[epoch]

    def _draw(self, number: int) -> list[Indices]:
        rng = np.random.default_rng([self._seed, number])
        batches: list[Indices] = []
        anchors: list[int] = []
        frames = 0
        while frames < self._count:
            length = int(rng.choice(self.lengths))
            over_time, over_views = self._kinds[length]
            as_views = over_views and (not over_time or rng.random() < self._config.view_ratio)
            clips: list[Indices] = []
            misses = 0
            while len(clips) < max(self._config.frames_per_batch // length, 1) and misses < self._count:
                if not anchors:
                    anchors = rng.permutation(self._count).tolist()
                clip = self._clip_at(anchors.pop(), length, as_views, rng)
                misses += clip is None
                if clip is not None:
                    clips.append(clip)
            batches.append(np.stack(clips))
            frames += batches[-1].size
        return batches

    def _clip_at(self, anchor: int, length: int, as_views: bool, rng: np.random.Generator) -> Indices | None:
        choice = self._views if as_views else self._times[length]
        holding = choice.of_sample.get(anchor, [])
        if not holding:
            return None
        window = choice.windows[holding[int(rng.integers(len(holding)))]]
        if not as_views:
            return window
        if len(window) < length:
            return None
        others = rng.permutation(window[window != anchor])[: length - 1]
        return np.concatenate([np.array([anchor], np.int64), others])


def evaluation_clips(runs: npt.NDArray[np.integer], length: int) -> list[Indices]:
    """Cut a split into clips that hold every sample once.

    Parameters
    ----------
    runs : (N, K) integers
        What a clip must share (subject, sequence, camera), for each sample in stored order.
    length : int
        The longest clip; a run's last one may be shorter.

    Returns
    -------
    list of (S,) int64
    """
    if len(runs) == 0:
        return []
    breaks = np.flatnonzero(np.any(np.diff(np.asarray(runs), axis=0) != 0, axis=1)) + 1
    return [
        run[start : start + length].astype(np.int64)
        for run in np.split(np.arange(len(runs)), breaks)
        for start in range(0, len(run), length)
    ]


def _index(windows: list[Indices]) -> _Choice:
    of_sample: dict[int, list[int]] = {}
    for number, window in enumerate(windows):
        for sample in window.tolist():
            of_sample.setdefault(sample, []).append(number)
    return _Choice(windows, of_sample)
