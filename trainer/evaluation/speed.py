"""Frames per second and memory against the number of frames predicted together."""

from __future__ import annotations

import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_MIB = 2.0**20
_NO_MEMORY = ("can't allocate memory", "not enough memory", "ALLOC_FAILED")


@dataclass(frozen=True)
class SpeedPoint:
    """What one clip length takes.

    Attributes
    ----------
    memory_mib : float
        Peak: of the device's allocations on CUDA, resident memory of the process otherwise.
    """

    frames: int
    frames_per_s: float
    memory_mib: float


def measure_speed(
    predict: Callable[[int], object], lengths: Sequence[int], device: torch.device, seconds: float, *, repeats: int = 1
) -> list[SpeedPoint]:
    """Time ``predict(frames)`` for increasing lengths; stops when ``seconds`` are spent or the device's memory is full.

    Each length runs once to warm up, then ``repeats`` times for the clock (fewer if ``seconds`` are over), each time
    until the device is done; the median counts.
    """
    points: list[SpeedPoint] = []
    began = time.perf_counter()
    for frames in sorted(lengths):
        taken: list[float] = []
        with memory_permitting():
            predict(frames)
            wait_for(device)
            reset_peak(device)
            while len(taken) < repeats and not (taken and time.perf_counter() - began > seconds):
                start = time.perf_counter()
                predict(frames)
                wait_for(device)
                taken.append(time.perf_counter() - start)
        if not taken:
            break
        points.append(SpeedPoint(frames, frames / statistics.median(taken), peak_mib(device)))
        # The next length takes about as long again as all so far.
        if 2 * (time.perf_counter() - began) > seconds:
            break
    return points


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


@contextmanager
def memory_permitting() -> Iterator[None]:
    """End a block early where the device, or the machine, has no more memory to give; other errors pass."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        return
    except RuntimeError as error:
        # What PyTorch says on the CPU, and where a CUDA library finds no room for its workspace.
        if not any(sign in str(error) for sign in _NO_MEMORY):
            raise


def reset_peak(device: torch.device) -> None:
    """Forget the peak of memory so far."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        # Linux resets the peak of resident memory at this word; elsewhere the peak is that of the process so far.
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_mib(device: torch.device) -> float:
    """Return the peak since :func:`reset_peak`: of allocations on CUDA, else of the process's resident memory."""
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


def speed_metrics(points: Sequence[SpeedPoint]) -> dict[str, float]:
    """Return one name per length and quantity."""
    metrics: dict[str, float] = {}
    for p in points:
        metrics[f"speed_frames_per_s_n{p.frames}"] = p.frames_per_s
        metrics[f"memory_mib_n{p.frames}"] = p.memory_mib
    return metrics
