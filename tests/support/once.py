"""What takes long to make is made once a test run, whichever worker needs it first."""

from __future__ import annotations

import fcntl
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

Made = TypeVar("Made")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Made]) -> Made:
    """Return what ``make`` returns for an empty folder; one worker calls it, the others wait for it and get a copy.

    The files lie at one place for all workers, at the same time: no test may change them.

    Parameters
    ----------
    name : str
        The same for the same thing in every worker.
    make : callable
        Takes the folder; what it returns must pickle.
    """
    base = factory.getbasetemp()
    # A worker of pytest-xdist has a folder of its own in that of the run.
    room = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once" / name
    room.mkdir(parents=True, exist_ok=True)
    result = room / "result.pickle"
    with (room / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            # A folder of its own for each attempt: a failed one leaves half of it.
            made = make(Path(tempfile.mkdtemp(dir=room)))
            result.write_bytes(pickle.dumps(made))
        return pickle.loads(result.read_bytes())  # type: ignore[no-any-return]
