"""Where the time of one view goes, and the least it could be: merely writing its maps to memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.geometry.camera import Camera
from datagen.render.contract import SurfaceAttributes, ViewMaps
from datagen.render.registry import make_renderer
from datagen.shards.schema import (
    DEFAULT_DEPTH_SCALE,
    encode_canonical,
    encode_confidence,
    encode_depth,
    encode_normal,
)

Arrays = list[npt.NDArray[Any]]


def stage_shares(surface: SurfaceAttributes, cameras: Sequence[Camera], repeats: int) -> dict[str, float]:
    """Return the shares of rasterising, interpolating and encoding, which add up to 1.

    Rasterising is what fragments alone cost, interpolating what all maps cost beyond that, encoding their conversion
    to the integers that are stored (without compression).
    """
    renderer = make_renderer("numba", threads=1)
    maps = renderer.render(surface, cameras)
    work: dict[str, Callable[[], object]] = {
        "rasterise": lambda: renderer.rasterise(surface.vertices, surface.faces, cameras),
        "render": lambda: renderer.render(surface, cameras),
        "encode": lambda: [_encode(view) for view in maps],
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, job in work.items():
            started = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - started)
    seconds = {name: median(values) for name, values in times.items()}
    rasterise = min(seconds["rasterise"], seconds["render"])
    total = seconds["render"] + seconds["encode"]
    return {
        "rasterising": rasterise / total,
        "interpolating": (seconds["render"] - rasterise) / total,
        "encoding": seconds["encode"] / total,
    }


def _encode(view: ViewMaps) -> object:
    return (
        encode_depth(view.depth, DEFAULT_DEPTH_SCALE),
        encode_canonical(view.canonical),
        encode_normal(view.normal),
        encode_confidence(view.confidence),
    )


def map_bytes(resolution: int) -> int:
    """Return the bytes of all maps of one view: depth, canonical, normal, region, confidence, mask, edge."""
    return resolution**2 * (4 + 12 + 12 + 1 + 4 + 1 + 1)


def cold_write_s(views: Sequence[ViewMaps], threads: int) -> float:
    """Return the seconds that ``threads`` threads take to allocate arrays like these maps and to fill them once.

    That is the least any renderer can do that hands out new arrays: fresh memory costs a page fault every 4 KiB.
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
