"""How long it takes merely to write the maps of some views to memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.render.contract import ViewMaps

Arrays = list[npt.NDArray[Any]]


def map_bytes(resolution: int) -> int:
    """Return the bytes of all maps of one view: depth, canonical, normal, region, confidence, mask, edge."""
    return resolution**2 * (4 + 12 + 12 + 1 + 4 + 1 + 1)


def cold_write_s(views: Sequence[ViewMaps], threads: int) -> float:
    """Return the seconds that ``threads`` threads take to allocate arrays like these maps and to fill them once.

    That is the least any renderer can do that hands out new arrays: fresh memory costs a page fault each 4 KiB.
    """
    return _timed(lambda view: [np.full_like(array, 1) for array in _arrays(view)], views, threads)


def warm_write_s(views: Sequence[ViewMaps], threads: int) -> float:
    """Return the seconds that ``threads`` threads take to fill arrays like these maps that were written before."""
    buffers = {id(view): [np.full_like(array, 1) for array in _arrays(view)] for view in views}

    def fill(view: ViewMaps) -> None:
        for array in buffers[id(view)]:
            array.fill(2)

    return _timed(fill, views, threads)


def _timed(work: Callable[[ViewMaps], object], views: Sequence[ViewMaps], threads: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _view: None, views))  # starts the threads
        started = time.perf_counter()
        kept = list(pool.map(work, views))  # as a renderer's result: nothing is given back and used again
        seconds = time.perf_counter() - started
    del kept
    return seconds


def _arrays(view: ViewMaps) -> Arrays:
    return [getattr(view, f.name) for f in fields(view)]
