"""Where the time of one view goes, on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

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
