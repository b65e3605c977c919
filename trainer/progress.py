"""Progress of a long command: a bar on a terminal, a plain line about every ten seconds otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Report steps; a context manager.

    Parameters
    ----------
    what : str
    total : int
    done : int
        Steps done before.
    quiet : bool
        Print nothing: another process speaks for the run.
    """

    def __init__(self, what: str, total: int, done: int = 0, *, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._what = what
        self._quiet = quiet
        self._total = total
        self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._bar: Bar | None = None
        if console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[text]}"), console=console)
            self._task = self._bar.add_task(what, total=total, completed=done, text="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, text: str = "") -> None:
        """Say how many steps are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=text)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(f"{self._what} {done}/{self._total}  {text}")

    def say(self, line: str) -> None:
        """Print a line of its own."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
        elif not self._quiet:
            print(line, file=sys.stderr, flush=True)
