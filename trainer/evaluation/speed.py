"""Frames per second and memory against the number of frames predicted together."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_MIB = 2.0**20


@dataclass(frozen=True)
class SpeedPoint:
    """What one clip length takes.

    Attributes
    ----------
    frames : int
    frames_per_s : float
    memory_mib : float
        Peak: of the device's allocations on CUDA, resident memory of the process otherwise.
    """

    frames: int
    frames_per_s: float
    memory_mib: float


def measure_speed(
    predict: Callable[[int], object], lengths: Sequence[int], device: torch.device, seconds: float
) -> list[SpeedPoint]:
    """Time ``predict(frames)`` for increasing lengths; stops when ``seconds`` are spent or the device's memory is full.

    Each length runs once to warm up, then once for the clock, so that a figure is of one call, copies included.
    """
    import torch

    points: list[SpeedPoint] = []
    began = time.perf_counter()
    for frames in sorted(lengths):
        try:
            predict(frames)
            _reset_peak(device)
            start = time.perf_counter()
            predict(frames)
            taken = time.perf_counter() - start
        except torch.OutOfMemoryError:
            break
        points.append(SpeedPoint(frames, frames / taken, _peak_mib(device)))
        # The next length takes about as long again as all so far.
        if 2 * (time.perf_counter() - began) > seconds:
            break
    return points


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        # Linux resets the peak of resident memory at this word; elsewhere the peak is that of the process so far.
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / _MIB
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == "darwin" else 1024)


def speed_figures(points: Sequence[SpeedPoint]) -> dict[str, float]:
    """Return one name per length and quantity."""
    figures: dict[str, float] = {}
    for p in points:
        figures[f"speed_frames_per_s_n{p.frames}"] = p.frames_per_s
        figures[f"memory_mib_n{p.frames}"] = p.memory_mib
    return figures
