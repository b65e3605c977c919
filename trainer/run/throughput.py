"""How fast a run is, what it waits for, and what it holds in memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch

from datagen.common.errors import StorageError
from datagen.common.files import write_owned_bytes
from trainer.run.folder import TRACE

_WARM_STEPS = 5
_T = TypeVar("_T")


class Throughput:
    """Counts frames and time between two calls of :meth:`metrics`; traces some steps if asked to.

    Parameters
    ----------
    run : Path or None
        Folder the trace goes to; None traces nothing.
    profile_steps : int
        Steps that are traced after the first five; 0 for none.
    """

    def __init__(self, device: torch.device, run: Path | None, profile_steps: int) -> None:
        self.frames = 0
        self._device, self._run = device, run
        self._steps = profile_steps if run is not None else 0
        self._profiler: Any = None
        self._done = 0
        self.pause()

    def __enter__(self) -> Throughput:
        self.pause()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profiler is not None:
            self._write_trace()

    def waiting(self, items: Iterator[_T]) -> Iterator[_T]:
        """Yield what an iterator yields; the time until it does is the run's waiting time."""
        while True:
            started = time.monotonic()
            try:
                item = next(items)
            except StopIteration:
                return
            self._waited += time.monotonic() - started
            yield item

    def step(self) -> None:
        """Say that a step is done."""
        self._done += 1
        if not self._steps:
            return
        if self._done == _WARM_STEPS:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=activities)
            self._profiler.__enter__()
        elif self._profiler is not None and self._done == _WARM_STEPS + self._steps:
            self._write_trace()

    def metrics(self) -> dict[str, float]:
        """Return frames a second, the share of time spent waiting for data, and peak memory; begin a new window."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = max(time.monotonic() - self._started, 1e-9)
        metrics = {"frames_per_second": self.frames / seconds, "stall_share": min(self._waited / seconds, 1.0)}
        if self._device.type == "cuda":
            metrics["memory_gib"] = torch.cuda.max_memory_allocated(self._device) / 2**30
        self.pause()
        return metrics

    def pause(self) -> None:
        """Begin a new window: what went before (a validation) does not count."""
        self.frames, self._waited, self._started = 0, 0.0, time.monotonic()

    def _write_trace(self) -> None:
        assert self._run is not None
        self._profiler.__exit__(None, None, None)
        profiler, self._profiler = self._profiler, None
        try:
            with tempfile.TemporaryDirectory(prefix="canonface-trace-") as folder:
                profiler.export_chrome_trace(f"{folder}/{TRACE}")
                write_owned_bytes(self._run / TRACE, Path(folder, TRACE).read_bytes())
        except (OSError, RuntimeError) as error:
            raise StorageError(f"{self._run / TRACE} cannot be written: {error}", "space", "Free some") from None
