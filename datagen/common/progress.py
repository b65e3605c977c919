"""Progress of long work: a bar on a terminal, a plain line about every ten seconds in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from datagen.common.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

LOG_SECONDS = 10.0


class Progress:
    """Progress of a stage or a command, as a context manager.

    Parameters
    ----------
    title : str
        As in "2/5 warp".
    total : int
        Number of ``unit`` there are; 0 if that is not known.
    unit : str
        What is counted, as in "frames".
    stream : text stream
        Standard error by default, because standard output is for data.
    done : int
        How many were done before, by an earlier call.
    quiet : bool
        Print nothing: another process speaks for this one.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str,
        stream: TextIO | None = None,
        *,
        done: int = 0,
        quiet: bool = False,
    ) -> None:
        self._title, self._total, self._unit, self._quiet = title, total, unit, quiet
        self._stream = stream if stream is not None else sys.stderr
        self._done = self._before = done
        self._text = ""
        self._bar: Bar | None = None
        self._bar_task: TaskID | None = None
        self._started = self._last_line = 0.0

    def __enter__(self) -> Progress:
        self._started = self._last_line = time.monotonic()
        if self._stream.isatty() and not self._quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description:<24}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self._unit),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=Console(file=self._stream),
            )
            self._bar.start()
            self._bar_task = self._bar.add_task(
                self._title, total=self._total or None, completed=self._done, text=self._text
            )
        else:
            self._line("started")
        return self

    @property
    def done(self) -> int:
        """How many are done, those of an earlier call among them."""
        return self._done

    def expect(self, count: int) -> None:
        """Say that there are ``count`` more than known so far."""
        self._total += count
        if self._bar is not None and self._bar_task is not None:
            self._bar.update(self._bar_task, total=self._total)

    def advance(self, count: int) -> None:
        """Say that ``count`` more are done."""
        self.update(self._done + count)

    def update(self, done: int, text: str = "") -> None:
        """Say how many are done, and anything else worth showing."""
        self._done, self._text = done, text
        if self._bar is not None and self._bar_task is not None:
            self._bar.update(self._bar_task, completed=done, text=text)
            return
        now = time.monotonic()
        # The end prints the last line itself.
        if now - self._last_line >= LOG_SECONDS and done != self._total:
            self._last_line = now
            self._line(self._so_far(now))

    def say(self, line: str) -> None:
        """Print a line of its own."""
        if self._bar is not None:
            self._bar.console.print(printable(line), highlight=False, markup=False)
        elif not self._quiet:
            print(printable(line), file=self._stream, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            self._line(self._so_far(time.monotonic()))

    def _so_far(self, now: float) -> str:
        seconds = now - self._started
        rate = (self._done - self._before) / seconds if seconds > 0 else 0.0
        count = f"{self._done}/{self._total}" if self._total else str(self._done)
        parts = [f"{count} {self._unit}", f"{seconds:.1f} s", f"{rate:.1f} {self._unit}/s"]
        if rate > 0 and self._done < self._total:
            parts.append(f"{(self._total - self._done) / rate:.0f} s left")
        return ", ".join([*parts, self._text] if self._text else parts)

    def _line(self, text: str) -> None:
        self.say(f"[{self._title}] {text}")
