"""Frames by the clock: one process alone, and as many processes as a frame's cores, all at work at once."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

from benchmarks.warp.hidden import HiddenScan
from benchmarks.warp.real_warps import Warper
from datagen.common.blas import use_one_blas_thread
from datagen.heads.registry import load_head
from datagen.manifest import WarpConfig

# Longer than any process takes to load a head model beside the others.
LONGEST_START_S = 600.0
_ready: Barrier | None = None
_warper: Warper | None = None


def seconds_per_frame(
    scans: Sequence[HiddenScan], head: str, head_root: Path | None, config: WarpConfig, processes: int
) -> float:
    """Return the time by the clock of one frame while so many processes warp all the time.

    Each process loads the head model and warps one scan first, which is not counted; then all begin together and warp
    equal shares. From the first one's begin to the last one's end, over all frames warped.

    Parameters
    ----------
    scans : sequence of HiddenScan
        At least one; each process warps ``len(scans) // processes`` of them, but one at least.
    head, head_root
        As of :func:`datagen.heads.registry.load_head`.
    processes : int
    """
    share = max(1, len(scans) // processes)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes, timeout=LONGEST_START_S)
    with ProcessPoolExecutor(processes, context, _begin, (barrier, head, head_root, config)) as pool:
        # One task a process: each waits at the barrier for the others, so that none can take two.
        given = [[scans[(k * share + i) % len(scans)] for i in range(share)] for k in range(processes)]
        spans = list(pool.map(_warp_all, given))
    return (max(end for _, end in spans) - min(begin for begin, _ in spans)) / (share * processes)


def _begin(barrier: Barrier, head: str, head_root: Path | None, config: WarpConfig) -> None:
    global _ready, _warper
    use_one_blas_thread()
    _ready, _warper = barrier, Warper(load_head(head, head_root), config)


def _warp_all(scans: Sequence[HiddenScan]) -> tuple[float, float]:
    """Return when the first warp began and the last one ended, on the machine's monotonic clock."""
    assert _ready is not None
    assert _warper is not None
    _warper.warp(scans[0], _count(scans[0]))
    _ready.wait()
    begin = time.monotonic()
    for scan in scans:
        _warper.warp(scan, _count(scan))
    return begin, time.monotonic()


def _count(scan: HiddenScan) -> int:
    return int(scan.order.max()) + 1
