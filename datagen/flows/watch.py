"""A build as it goes on, seen from outside: how fast each stage gets on, and how long what is left will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datagen.common.progress import duration, pace
from datagen.flows.part_lease import holders
from datagen.flows.status import build_status
from datagen.flows.work_log import WorkRead
from datagen.layout import BuildLayout

_LOOKS = 20  # over which a pace is told


@dataclass(frozen=True)
class Pace:
    """How fast a stage gets on.

    Attributes
    ----------
    stage, unit : str
    done, planned : int
    per_s : float
        Of late; 0 if nothing was done.
    """

    stage: str
    unit: str
    done: int
    planned: int
    per_s: float

    @property
    def left_s(self) -> float | None:
        """How long the rest will take at this pace; None if that cannot be said."""
        if self.done >= self.planned:
            return 0.0
        return (self.planned - self.done) / self.per_s if self.per_s else None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {**vars(self), "left_s": self.left_s}

    def __str__(self) -> str:
        parts = [f"{self.done} of {self.planned} {self.unit}"]
        if self.per_s and self.left_s:
            parts += [pace(1000, 1000 / self.per_s, self.unit), f"{duration(self.left_s)} left"]
        return ", ".join(parts)


@dataclass(frozen=True)
class Look:
    """One look at a build.

    Attributes
    ----------
    stages : tuple of Pace
    at_work : tuple of str
        Who works there: a build or parts, with process and host.
    finished : bool
    work, left : mapping
        What units took, by stage and machine, and what the rest will take: as
        :func:`datagen.flows.status.build_status` says it.
    """

    stages: tuple[Pace, ...]
    at_work: tuple[str, ...]
    finished: bool
    work: Mapping[str, Any]
    left: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {**vars(self), "stages": [stage.to_json() for stage in self.stages]}


def looks_at(
    layout: BuildLayout,
    every_s: float,
    workers: int | None = None,
    wait: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Look]:
    """Look at a build again and again, until it is finished.

    Parameters
    ----------
    workers : int, optional
        That are to do the rest.

    Raises
    ------
    datagen.common.errors.CanonfaceError
        As :func:`datagen.flows.status.build_status`.
    """
    seen: deque[tuple[float, dict[str, int]]] = deque(maxlen=_LOOKS)
    work = WorkRead(layout)
    while True:
        status = build_status(layout, workers, work)
        now, done = clock(), {stage["stage"]: int(stage["done"]) for stage in status["stages"]}
        seen.append((now, done))
        since, before = seen[0]
        stages = tuple(
            Pace(
                stage["stage"],
                stage["unit"],
                stage["done"],
                stage["planned"],
                max(0, stage["done"] - before.get(stage["stage"], 0)) / (now - since) if now > since else 0.0,
            )
            for stage in status["stages"]
        )
        finished = all(stage.done >= stage.planned for stage in stages)
        yield Look(stages, holders(layout), finished, status["work"], status["left"])
        if finished:
            return
        wait(every_s)
