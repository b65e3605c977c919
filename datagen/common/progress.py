"""Progress of long work: a bar on a terminal, a plain line about every ten seconds in a log."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from datagen.common.errors import printable
from datagen.common.json_lines import is_json

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

LOG_SECONDS = 10.0
# The first line with figures comes sooner: it tells whether to wait or to go away.
FIRST_LOG_SECONDS = 3.0
# The pace is that of the latest while: finished work that is only looked at goes by at once.
_MARK_SECONDS = 1.0
_MARKS = 30
_BAR_WIDTH = 16


class Progress:
    """Progress of a stage or a command, as a context manager.

    Parameters
    ----------
    title : str
        As in "2/5 warp".
    total : int
        Number of ``unit`` there are; 0 if that is not known.
    unit : str
        What is counted, in the plural, as in "frames". Empty for steps that have nothing in common but their order,
        each begun with :meth:`begin`: they have neither pace nor time left.
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
        self._title, self._total, self._unit = title, total, unit
        # Python has none where a shell closed it (``2>&-``).
        self._stream: TextIO | None = None if quiet else stream if stream is not None else sys.stderr
        self._done = self._before = done
        self._begun = 0
        self._text = ""
        self._bar: Bar | None = None
        self._bar_task: TaskID | None = None
        self._started = self._next_line = 0.0
        self._marks: deque[tuple[float, int]] = deque(maxlen=_MARKS)

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
        self._next_line = self._started + FIRST_LOG_SECONDS
        self._marks.append((self._started, self._done))
        if self._stream is not None and _can_redraw(self._stream):
            from rich.console import Console
            from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar
            from rich.table import Column
            from rich.text import Text

            class Words(ProgressColumn):
                """What gives way where a terminal is narrow."""

                def render(self, task: Task) -> Text:
                    return Text(task.fields["words"], no_wrap=True, overflow="ellipsis")

            self._bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(_BAR_WIDTH, table_column=Column(no_wrap=True)),
                TimeElapsedColumn(table_column=Column(no_wrap=True)),
                Words(),
                console=Console(file=self._stream),
            )
            self._bar.start()
            self._bar_task = self._bar.add_task(
                printable(self._title), total=self._total or None, completed=self._done, words=self._count()
            )
        elif self._unit:  # the first of some steps says it
            self._line("started")
        return self

    @property
    def done(self) -> int:
        """How many are done, those of an earlier call among them."""
        return self._done

    def expect(self, count: int) -> None:
        """Say that there are ``count`` more than known so far."""
        self._total += count
        self._redraw(time.monotonic())

    def advance(self, count: int) -> None:
        """Say that ``count`` more are done."""
        self.update(self._done + count)

    def begin(self, step: str) -> None:
        """Say which step begins, as in "reading the scan"; the one begun before is done.

        Where something is counted, a step is what comes before or after it.
        """
        numbered = not self._unit and self._total
        if not self._unit:
            self._done = self._begun
        self._begun += 1
        self._text = step
        self._marks.clear()
        self._marks.append((time.monotonic(), self._done))
        if self._bar is None:
            self._line(f"{self._begun}/{self._total} {step}" if numbered else step)
        self._redraw(time.monotonic())

    def update(self, done: int, text: str = "") -> None:
        """Say how many are done, and anything else worth showing."""
        self._done, self._text = done, text
        now = time.monotonic()
        self._redraw(now)
        # The end prints the last line itself.
        if self._bar is None and now >= self._next_line and done != self._total:
            self._next_line = now + LOG_SECONDS
            self._line(self._so_far(now))
        if now - self._marks[-1][0] >= _MARK_SECONDS:
            self._marks.append((now, done))

    def say(self, line: str) -> None:
        """Print a line of its own."""
        if self._bar is not None:
            self._bar.console.print(printable(line), highlight=False, markup=False)
        elif self._stream is not None:
            try:
                print(printable(line), file=self._stream, flush=True)
            except OSError:
                self._nobody_reads()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None and self._begun:
            self._text = ""
        if kind is None and not self._unit:
            self._done = self._total = self._begun
        if self._bar is not None:
            self._redraw(time.monotonic(), ended=kind is None)
            self._bar.stop()
        elif kind is None:
            self._line(self._so_far(time.monotonic(), ended=True))

    def _redraw(self, now: float, *, ended: bool = False) -> None:
        if self._bar is not None and self._bar_task is not None:
            words = printable(self._so_far(now, ended=ended, with_time=False))
            self._bar.update(self._bar_task, total=self._total or None, completed=self._done, words=words)

    def _count(self) -> str:
        if not self._unit:
            return ""
        return f"{self._done}/{self._total} {self._unit}" if self._total else f"{self._done} {self._unit}"

    def _so_far(self, now: float, *, ended: bool = False, with_time: bool = True) -> str:
        """Return the count, the time taken, the pace (of all of it at the end, else of late) and the time left."""
        taken_s = now - self._started
        parts = [self._count() or ("done" if ended else ""), duration(taken_s) if with_time else ""]
        since, counted = (self._started, self._before) if ended else self._marks[0]
        new = self._done - counted
        # At the end, of a single thing the time is the pace, and steps before or after took some of the time.
        if self._unit and new > (1 if ended else 0) and now > since and not (ended and self._begun):
            parts.append(pace(new, now - since, self._unit))
            if not ended and self._done < self._total:
                parts.append(f"{duration((self._total - self._done) * (now - since) / new)} left")
        return ", ".join(part for part in (*parts, self._text) if part)

    def _line(self, text: str) -> None:
        if self._stream is sys.stderr and is_json():
            return
        self.say(f"[{self._title}] {text}")

    def _nobody_reads(self) -> None:
        """Go on without a word: the work is worth more than the log of it."""
        if self._stream is sys.stderr:
            # Python would try once more when it ends, and exit with a code of its own.
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the program runs
        self._stream = None


def announce(title: str, text: str, stream: TextIO | None = None) -> None:
    """Print a line of progress where nothing is counted yet."""
    Progress(title, 0, "", stream).say(f"[{title}] {text}")


def unwatched(step: str) -> None:
    """Stand in for :meth:`Progress.begin` where nobody watches."""
    del step


def duration(seconds: float) -> str:
    """Return a time as people say it: "0.4 s", "42 s", "1.4 minutes", "3.2 hours"."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.2g} s" if seconds >= 0.1 else f"{seconds:.2f} s"
    for size, unit in ((60.0, "minutes"), (3600.0, "hours"), (86400.0, "days")):
        count = seconds / size
        if count < 90 or unit == "days":
            break
    return f"{count:.1f} {unit}" if count < 9.95 else f"{count:.0f} {unit}"


def pace(count: int, seconds: float, unit: str) -> str:
    """Return how fast ``count`` of ``unit`` (a plural) were done: "3.2 frames/s", or "12 s a frame" if slower."""
    if count >= seconds:
        rate = count / seconds
        return f"{rate:.1f} {unit}/s" if rate < 99.5 else f"{rate:.0f} {unit}/s"
    one = f"{unit[:-3]}y" if unit.endswith("ies") else unit.removesuffix("s")
    return f"{duration(seconds / count)} {'an' if one[0] in 'aeiou' else 'a'} {one}"


def _can_redraw(stream: TextIO) -> bool:
    """Whether a bar can be drawn there; on a terminal that cannot move its cursor, rich would show nothing at all."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
