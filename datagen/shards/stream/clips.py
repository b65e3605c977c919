"""Cutting a split into clips: every sample in at most one of them, each epoch in other places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import I64
from datagen.shards.index import IndexTables
from datagen.shards.stream.config import StreamConfig

_MOST_PERIODS = 4  # of the longest clip; clips of awkward lengths then leave a few frames of a block over


@dataclass(frozen=True)
class Layout:
    """Where each of N samples stands among the others; (N,) int64 arrays.

    Attributes
    ----------
    group : the performance: one subject and sequence
    run : one camera of a group
    instant : one frame of a group
    rank : place of the frame among the frames of its group, from 0
    """

    group: I64
    run: I64
    instant: I64
    rank: I64

    @classmethod
    def of(cls, tables: IndexTables) -> Layout:
        """Read the layout off the tables of a split."""
        group = _ids(tables.subject, tables.sequence)
        instant = _ids(group, tables.frame)
        first = np.full(int(group.max(initial=-1)) + 1, len(group), np.int64)
        np.minimum.at(first, group, instant)
        return cls(group, _ids(group, tables.camera), instant, instant - first[group])

    def __len__(self) -> int:
        return len(self.group)


@dataclass(frozen=True)
class ClipSet:
    """Clips of one kind and length.

    Attributes
    ----------
    views : bool
        Several cameras of one instant; otherwise one camera over time.
    samples : (C, S) int64
    """

    views: bool
    samples: I64

    @property
    def length(self) -> int:
        """Frames of a clip."""
        return self.samples.shape[1]


def possible(layout: Layout, keep: npt.NDArray[np.bool_], config: StreamConfig) -> dict[int, tuple[bool, bool]]:
    """Say for each length whether clips over time, and of views, can be cut at all."""
    most_views = int(np.bincount(layout.instant[keep]).max(initial=0))
    longest = int(np.bincount(layout.run[keep]).max(initial=0))
    return {n: (longest >= (n - 1) * config.stride + 1, most_views >= n) for n in config.lengths}


def cut_clips(
    layout: Layout, keep: npt.NDArray[np.bool_], config: StreamConfig, rng: np.random.Generator
) -> list[ClipSet]:
    """Cut samples into clips.

    Time is cut into blocks, from a random start in each group; a block draws one length and one kind for all cameras.
    What the ends of runs and missing frames leave over is cut into clips of the shorter lengths, if there are any.

    Parameters
    ----------
    keep : (N,) bool
        Samples that may be used; the others leave gaps.
    rng : numpy Generator

    Returns
    -------
    list of ClipSet
        No sample is in two clips. If 1 is among the lengths every kept sample is in one.
    """
    if not len(layout):
        return []
    chances = possible(layout, keep, config)
    lengths = np.array([n for n in config.lengths if any(chances[n])] or [config.lengths[0]], np.int64)
    period = _period(lengths.tolist(), config.stride)
    groups, runs = int(layout.group.max()) + 1, int(layout.run.max()) + 1
    shifted = layout.rank + _phase(layout, lengths, period, config, rng)[layout.group]
    number, place = np.divmod(shifted, period)
    block = _dense(layout.group, number, groups)
    blocks = int(block.max()) + 1
    length = lengths[rng.integers(len(lengths), size=blocks)] if config.shuffle else np.full(blocks, lengths[-1])
    over_time, over_views = (np.array([chances[int(n)][k] for n in length]) for k in (0, 1))
    views = over_views & (~over_time | (rng.random(blocks) < config.view_ratio)) & (length > 1)

    as_views = np.flatnonzero(keep & views[block])
    as_views = as_views[np.lexsort((rng.random(len(as_views)), layout.instant[as_views]))]
    starts = _starts(layout.instant[as_views])
    clips = _cut_segments(as_views, starts, length[block[as_views[starts]]], lengths, views=True)

    over = np.flatnonzero(keep & ~views[block])
    span = length[block[over]] * config.stride
    turn, rest = np.divmod(place[over], span)
    slot, lane = np.divmod(rest, config.stride)
    run_block = _dense(layout.run, number, runs)[over]
    if config.jitter:
        lane = _jittered(run_block, place[over], period, config, rng)
    key = (run_block * period + turn) * config.stride + lane
    order = np.lexsort((slot, key))
    over, key, slot = over[order], key[order], slot[order]
    # A gap ends a segment: the frames of a clip are evenly spread.
    starts = _starts(key, np.diff(slot) != 1)
    clips += _cut_segments(over, starts, length[block[over[starts]]], lengths, views=False)
    return _merged(clips)


def _period(lengths: Sequence[int], stride: int) -> int:
    common = math.lcm(*lengths)
    return (common if common <= _MOST_PERIODS * max(lengths) else max(lengths)) * stride


def _phase(layout: Layout, lengths: I64, period: int, config: StreamConfig, rng: np.random.Generator) -> I64:
    """Draw how far the blocks of each group start before its first frame."""
    frames = np.zeros(int(layout.group.max()) + 1, np.int64)
    np.maximum.at(frames, layout.group, layout.rank + 1)
    if not config.shuffle:
        return np.zeros_like(frames)
    if lengths[0] == 1:
        return rng.integers(period, size=len(frames))
    # What does not fill a clip is left out: then only as many frames are cut off in front as are left over anyway.
    spare = np.where(frames >= period, frames % period, frames % lengths[0])
    return np.asarray(-rng.integers(spare + 1) % period)


def _ids(*columns: npt.NDArray[np.integer]) -> I64:
    """Number the distinct rows in their order, (N,) int64."""
    ids = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, inverse = np.unique(column, return_inverse=True)
        ids = np.unique(ids * len(values) + inverse.reshape(-1), return_inverse=True)[1].reshape(-1).astype(np.int64)
    return ids


def _dense(owner: I64, number: I64, owners: int) -> I64:
    """Number the pairs (owner, number) without gaps between owners."""
    most = np.zeros(owners, np.int64)
    np.maximum.at(most, owner, number + 1)
    return np.asarray((np.cumsum(most) - most)[owner] + number)


def _jittered(run_block: I64, place: I64, period: int, config: StreamConfig, rng: np.random.Generator) -> I64:
    """Return the lanes of samples, exchanged at random within each slot by about ``jitter`` places at most."""
    shape = (int(run_block.max(initial=-1)) + 1, period // config.stride, config.stride)
    # Adding up to jitter + 1 (exclusive) to a place lets it pass at most ``jitter`` others.
    keys = np.arange(config.stride) + rng.random(shape) * (config.jitter + 1)
    lanes = np.argsort(np.argsort(keys, axis=-1), axis=-1)
    return np.asarray(lanes.reshape(shape[0], period)[run_block, place], np.int64)


def _starts(key: I64, breaks: npt.NDArray[np.bool_] | None = None) -> I64:
    """Return where segments of equal keys begin."""
    changes = np.diff(key) != 0
    if breaks is not None:
        changes |= breaks
    return np.concatenate([np.zeros(min(len(key), 1), np.int64), np.flatnonzero(changes) + 1])


def _cut_segments(samples: I64, starts: I64, limit: I64, lengths: I64, *, views: bool) -> list[ClipSet]:
    """Cut each segment into clips of its own length, and what is left into clips of shorter ones."""
    left = np.diff(np.append(starts, len(samples)))
    begin = starts.copy()
    clips = []
    for length in lengths[::-1].tolist():
        count = np.where(limit >= length, left // length, 0)
        owner = np.repeat(np.arange(len(starts)), count)
        turn = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        first = begin[owner] + turn * length
        clips.append(ClipSet(views and length > 1, samples[first[:, None] + np.arange(length)]))
        begin += count * length
        left -= count * length
    return clips


def _merged(clips: list[ClipSet]) -> list[ClipSet]:
    """Join the sets of one kind and length; empty ones go."""
    kinds = sorted({(c.views, c.length) for c in clips if len(c.samples)})
    return [
        ClipSet(views, np.concatenate([c.samples for c in clips if (c.views, c.length) == (views, length)]))
        for views, length in kinds
    ]
