"""Tasks that hold devices at the same time, in whatever processes they are."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from datagen.render.devices import held_device

LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Meeting:
    """One of as many tasks as there are devices, which end when all of them hold one.

    Attributes
    ----------
    folder : Path
        Of this test alone.
    names : tuple of str
        Of the devices.
    number : int
    """

    folder: Path
    names: tuple[str, ...]
    number: int

    @property
    def name(self) -> str:
        """Its number."""
        return str(self.number)


def meet(task: Meeting) -> int:
    """Hold a device until each of the tasks has one; return its number."""
    with held_device(task.names, task.folder / "locks") as number:
        (task.folder / f"here-{task.number}").touch()
        until = time.monotonic() + LONGEST_WAIT_S
        while len(list(task.folder.glob("here-*"))) < len(task.names):
            if time.monotonic() > until:
                raise TimeoutError("the other tasks never came")
            time.sleep(0.02)
        return number
