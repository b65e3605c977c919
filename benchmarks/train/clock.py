"""Where the time of a loop goes, by the device's own clock."""

from __future__ import annotations

import time

import torch

from trainer.evaluation.speed import wait_for

_Mark = float | torch.cuda.Event


class Clock:
    """Divides the time between :meth:`start` and :meth:`seconds` into named laps.

    On CUDA a lap ends when the device gets there, without waiting for it: queued work runs as it does in training,
    and time that the device idles counts for the lap it idles in.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, _Mark]] = []

    def start(self) -> None:
        """Forget all laps and begin the first."""
        wait_for(self._device)
        self._marks = []
        self.mark("")

    def mark(self, name: str) -> None:
        """End a lap; laps of one name add up."""
        if self._device.type != "cuda":
            self._marks.append((name, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append((name, event))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each name, once the device is done; together they are all the time since the start."""
        wait_for(self._device)
        taken: dict[str, float] = {}
        for (_, before), (name, after) in zip(self._marks, self._marks[1:], strict=False):
            taken[name] = taken.get(name, 0.0) + _seconds_between(before, after)
        return taken


def _seconds_between(before: _Mark, after: _Mark) -> float:
    if isinstance(before, torch.cuda.Event) and isinstance(after, torch.cuda.Event):
        return float(before.elapsed_time(after)) / 1000
    assert isinstance(before, float)
    assert isinstance(after, float)
    return after - before
