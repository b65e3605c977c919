"""What work took: of every unit that was made, where, how many seconds and how much memory; for people, not for keys.

Whoever drives units appends to a file of its own in ``plan/``; all of them may be lost. Nothing is decided by them.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from datagen.flows.runners.contract import Answer, Job
from datagen.flows.runners.tracking import Tracker
from datagen.layout import BuildLayout

_HEADER = '{"format": "canonface-work", "version": 1}\n'
_FILE = re.compile(r"work-[A-Za-z0-9._-]+-\d+-[0-9a-f]{8}\.jsonl")
_HOST = re.compile(r"(?P<host>\S+) \(process \d+\)")
FLUSH_S = 1.0
LATELY_S = 600.0


class WorkLog(Tracker):
    """Writes down what every unit took that was made in this run."""

    def __init__(self, layout: BuildLayout) -> None:
        self._layout = layout
        self._file: TextIO | None = None
        self._broken = False
        self._written_s = 0.0

    def done(self, job: Job, answer: Answer) -> None:
        """Write a line, unless the unit was found finished."""
        if not answer.result or self._broken:
            return
        found = _HOST.fullmatch(answer.host)
        row = {
            "ended": round(time.time(), 3),
            "stage": job.stage,
            "unit": job.name,
            "made": answer.result if isinstance(answer.result, int) else 1,
            "host": found["host"] if found else answer.host,
            "where": answer.host,
            "seconds": round(answer.seconds, 3),
            "peak_bytes": answer.peak_bytes,
        }
        # A log that cannot be written is no reason to stop the work.
        try:
            self._append(json.dumps(row, separators=(",", ":")) + "\n")
        except OSError:
            self._broken = True

    early = done

    def _append(self, line: str) -> None:
        if self._file is None:
            if not self._layout.plan.is_dir():
                return
            host = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname()) or "host"
            name = f"work-{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
            self._file = open(self._layout.plan / name, "a")  # noqa: SIM115 - closed when the run ends
            self._file.write(_HEADER)
        self._file.write(line)
        if time.monotonic() - self._written_s > FLUSH_S:
            self._written_s = time.monotonic()
            self._file.flush()

    def close(self) -> None:
        """Write what is not written yet."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None


@contextmanager
def work_log(layout: BuildLayout) -> Iterator[WorkLog]:
    """Write down what units take as long as the block runs."""
    log = WorkLog(layout)
    try:
        yield log
    finally:
        log.close()


@dataclass
class Taken:
    """What units took, added up.

    Attributes
    ----------
    units, made : int
        Units, and how much of what their stage counts was made in them: frames, say.
    seconds : float
        Of all of them.
    peak_bytes : int
        The most memory of a process that worked at one.
    """

    units: int = 0
    made: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0

    def add(self, made: int, seconds: float, peak_bytes: int) -> None:
        """Count a unit."""
        self.units += 1
        self.made += made
        self.seconds += seconds
        self.peak_bytes = max(self.peak_bytes, peak_bytes)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {
            "made": self.made,
            "peak_gib": round(self.peak_bytes / 2**30, 3),
            "seconds": round(self.seconds, 3),
            "units": self.units,
        }


@dataclass
class StageWork:
    """What a stage took: in all, and by machine."""

    all: Taken = field(default_factory=Taken)
    hosts: dict[str, Taken] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {**self.all.to_json(), "hosts": {host: taken.to_json() for host, taken in sorted(self.hosts.items())}}


class WorkRead:
    """What the logs of a build tell, read on from where they were read before.

    Attributes
    ----------
    stages : dict of stage to StageWork
    """

    def __init__(self, layout: BuildLayout) -> None:
        self._layout = layout
        self._at: dict[Path, int] = {}
        self.stages: dict[str, StageWork] = {}
        self._lately: list[tuple[float, float]] = []

    def look(self) -> None:
        """Read what was written since the last look; lines that are not whole yet wait for the next."""
        for path in _logs(self._layout):
            with suppress(OSError), open(path, "rb") as file:
                file.seek(self._at.get(path, 0))
                if not file.tell() and file.readline().decode(errors="replace") != _HEADER:
                    continue
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    with suppress(ValueError, KeyError, TypeError, AttributeError):
                        self._take(json.loads(line))
                    self._at[path] = self._at.get(path, len(_HEADER)) + len(line)

    def _take(self, row: dict[str, Any]) -> None:
        seconds, ended = float(row["seconds"]), float(row["ended"])
        stage = self.stages.setdefault(str(row["stage"]), StageWork())
        told = max(1, int(row["made"])), seconds, int(row["peak_bytes"])
        stage.all.add(*told)
        stage.hosts.setdefault(str(row["host"]), Taken()).add(*told)
        self._lately.append((ended, seconds))
        if len(self._lately) > 10_000:
            self._forget()

    def _forget(self) -> None:
        last = max((ended for ended, _ in self._lately), default=0.0)
        self._lately = [(ended, seconds) for ended, seconds in self._lately if ended > last - LATELY_S]

    @property
    def at_a_time(self) -> int:
        """How many units were worked at at a time, in the last ten minutes of work; 0 if nothing is known."""
        self._forget()
        if not self._lately:
            return 0
        began = min(ended - seconds for ended, seconds in self._lately)
        span = max(ended for ended, _ in self._lately) - began
        return max(1, round(sum(seconds for _, seconds in self._lately) / span)) if span > 0 else 1


def _logs(layout: BuildLayout) -> Iterator[Path]:
    if layout.plan.is_dir():
        for path in sorted(layout.plan.iterdir()):
            if _FILE.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                yield path
