"""One measurement of a reader, in a process of its own: ``python -m benchmarks.read.measure`` with a case as JSON."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.read.case import MAPS, ReadCase, ReadResult
from benchmarks.read.readers import decompression_rates, open_reader, table_figures

_SAMPLING_S = 0.05


def drop_from_cache(folder: Path) -> None:
    """Ask the system to forget the contents of all files below a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


class MemoryWatch:
    """The largest proportional memory of this process and its children, sampled."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Return the largest so far, MB."""
        self._look()
        self._stop.set()
        return self.peak_mb

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLING_S * 10):
            self._look()

    def _look(self) -> None:
        import psutil

        total = 0
        own = psutil.Process()
        for process in (own, *own.children(recursive=True)):
            try:
                total += process.memory_full_info().pss
            except (psutil.Error, AttributeError):
                continue
        self.peak_mb = max(self.peak_mb, total / 1e6)


def run_case(case: ReadCase) -> ReadResult:
    """Measure one case in this process."""
    if case.reader == "decompression":
        return ReadResult(0.0, 0.0, 0.0, 0.0, 0.0, 0, rates=decompression_rates(case))
    if case.reader == "table":
        return ReadResult(0.0, 0.0, 0.0, 0.0, 0.0, 0, rates=table_figures(case))
    reader = open_reader(case)
    if case.cold:
        drop_from_cache(Path(case.folder))
    if case.resume:
        return _resume(reader, case)
    watch = MemoryWatch()
    opened = time.perf_counter()
    batches = reader.batches()
    first = next(batches)
    first_batch_s = time.perf_counter() - opened
    # Until all memory has been touched once and every worker is at work.
    warm_until = time.perf_counter() + case.seconds / 2
    while time.perf_counter() < warm_until:
        next(batches)
    began, spent = time.perf_counter(), _cpu_s()
    nbytes = sum(np.asarray(value).nbytes for value in first.values())
    waits, samples = [], 0
    while time.perf_counter() - began < case.seconds:
        asked = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - asked)
        samples += len(batch["depth"]) * (batch["depth"].shape[1] if batch["depth"].ndim == 4 else 1)
    took, spent = time.perf_counter() - began, _cpu_s() - spent
    per_sample = nbytes / case.frames_per_batch
    memory = watch.stop()
    return ReadResult(
        samples_per_s=samples / took,
        mb_per_s=samples * per_sample / took / 1e6,
        p99_ms=float(np.percentile(waits, 99) * 1e3),
        first_batch_s=first_batch_s,
        memory_mb=memory,
        samples=samples,
        cpu_ms=spent / max(samples, 1) * 1e3,
    )


def _cpu_s() -> float:
    """Return the processor time of this process and its children so far."""
    import psutil

    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return float(sum(t.user + t.system for t in times))


def _resume(reader: Any, case: ReadCase) -> ReadResult:
    """Read half an epoch, note the state, and come back to it with another number of workers."""
    watch = MemoryWatch()
    want, seconds, got = reader.resume()
    exact = bool(all(np.array_equal(np.asarray(want[name]), np.asarray(got[name])) for name in MAPS))
    return ReadResult(0.0, 0.0, 0.0, seconds, watch.stop(), case.frames_per_batch, exact=exact)


if __name__ == "__main__":
    print(json.dumps(asdict(run_case(ReadCase(**json.loads(sys.argv[1]))))))
