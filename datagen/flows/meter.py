"""Time and memory that a long job took, kept on disk so that a job killed and continued still adds up."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datagen.shards.atomic import atomic_write_bytes

SAMPLE_SECONDS = 0.25
GIB = 2**30


class Meter:
    """Adds up the seconds of each stage and watches the memory of this process and its children.

    Parameters
    ----------
    path : Path
        JSON file that keeps the sums; read if it exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, float] = {}
        self.peak_gib = 0.0
        try:
            content = json.loads(path.read_text())
            self.seconds = {str(k): float(v) for k, v in content["seconds"].items()}
            self.counts = {str(k): float(v) for k, v in content["counts"].items()}
            self.peak_gib = float(content["peak_gib"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # a first run, or a file nothing depends on but these sums

    def add(self, stage: str, seconds: float, **counts: float) -> None:
        """Add what a stage took and how much it made, and save the sums."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        for name, value in counts.items():
            self.counts[name] = self.counts.get(name, 0.0) + value
        content = {"seconds": self.seconds, "counts": self.counts, "peak_gib": self.peak_gib}
        atomic_write_bytes(self._path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())

    @contextmanager
    def watch_memory(self) -> Iterator[None]:
        """Record the greatest memory held at a time while the block runs.

        Sums the resident memory of all processes; pages they share count once for each, so it never says too little.
        """
        stop = threading.Event()
        watcher = threading.Thread(target=self._sample, args=(stop,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()

    def _sample(self, stop: threading.Event) -> None:
        import psutil

        me = psutil.Process(os.getpid())
        while not stop.wait(SAMPLE_SECONDS):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue  # it ended between being listed and being asked
            self.peak_gib = max(self.peak_gib, total / GIB)


@contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Yield a list that holds the seconds the block took once it has ended."""
    started = time.monotonic()
    taken: list[float] = []
    try:
        yield taken
    finally:
        taken.append(time.monotonic() - started)
