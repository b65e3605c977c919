"""Progress of a build: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# A log gets a line whenever this much more of a stage is done, but not more often than every two seconds.
LOG_FRACTION = 0.1
LOG_SECONDS = 2.0


class StageProgress:
    """Progress of one stage, as a context manager.

    Parameters
    ----------
    title : str
        As in "2/5 warp".
    total : int
        Number of ``unit`` there are.
    unit : str
        What is counted, as in "frames".
    stream : text stream
        Standard error by default, because standard output is for data.
    """

    def __init__(self, title: str, total: int, unit: str, stream: TextIO | None = None) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._stream = stream if stream is not None else sys.stderr
        self._done = 0
        self._bar: Progress | None = None
        self._bar_task: TaskID | None = None
        self._started = self._last_line = 0.0
        self._last_done = 0

    def __enter__(self) -> StageProgress:
        self._started = self._last_line = time.monotonic()
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(
                *columns, TextColumn(self._unit), TimeElapsedColumn(), console=Console(file=self._stream)
            )
            self._bar.start()
            self._bar_task = self._bar.add_task(self._title, total=self._total)
        else:
            self._line("started")
        return self

    def expect(self, count: int) -> None:
        """Say that there are ``count`` more than known so far."""
        self._total += count
        if self._bar is not None and self._bar_task is not None:
            self._bar.update(self._bar_task, total=self._total)

    def advance(self, count: int) -> None:
        """Say that ``count`` more are done."""
        self._done += count
        if self._bar is not None and self._bar_task is not None:
            self._bar.update(self._bar_task, completed=self._done)
            return
        now = time.monotonic()
        enough = self._done - self._last_done >= LOG_FRACTION * self._total
        if enough and now - self._last_line >= LOG_SECONDS and self._done < self._total:
            self._last_line, self._last_done = now, self._done
            self._line(self._figures(now))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            self._line(self._figures(time.monotonic()))

    def _figures(self, now: float) -> str:
        seconds = now - self._started
        rate = self._done / seconds if seconds > 0 else 0.0
        return f"{self._done}/{self._total} {self._unit}, {seconds:.1f} s, {rate:.1f} {self._unit}/s"

    def _line(self, text: str) -> None:
        print(f"[{self._title}] {text}", file=self._stream, flush=True)
