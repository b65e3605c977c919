"""Which CUDA device a task renders on: one that no other task of this machine holds, while there are enough of them.

A task that is given a single device by ``CUDA_VISIBLE_DEVICES``, as batch systems and dask-cuda do, uses that. Where a
process sees several, each task takes one for as long as it needs it, whatever started it: a thread, a Dask worker, a
part of a build. The locks lie in the machine's folder for temporary files and end with the process that has them.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from datagen.common.files import try_lock

VISIBLE = "CUDA_VISIBLE_DEVICES"
# So many tasks may share a device before the next ones are not counted any more.
MOST_SHARING = 16
_last = threading.local()


def device_names(count: int) -> tuple[str, ...]:
    """Return names of the devices this process sees, the same in every process of the machine.

    Parameters
    ----------
    count : int
        How many there are; inside a process they are numbered from 0.
    """
    given = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    # Those after one that does not exist are not seen.
    return tuple(given[:count]) if len(given) >= count else tuple(str(number) for number in range(count))


@contextmanager
def held_device(names: Sequence[str], folder: Path | None = None) -> Iterator[int]:
    """Take a device for a while; yield its number in this process.

    The one this thread had last comes first, because its memory is there already. When each is taken, tasks share them
    evenly. Where nothing can be locked, threads take turns by their own number.

    Parameters
    ----------
    names : sequence of str
        Of :func:`device_names`, at least one.
    folder : Path, optional
        Where the locks lie.
    """
    if len(names) == 1:
        yield 0
        return
    folder = folder or Path(tempfile.gettempdir()) / f"canonface-devices-{os.getuid()}"
    first = getattr(_last, "number", 0) % len(names)
    numbers = [*range(first, len(names)), *range(first)]
    number, descriptor = _taken(folder, names, numbers)
    _last.number = number
    try:
        yield number
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _taken(folder: Path, names: Sequence[str], numbers: Sequence[int]) -> tuple[int, int | None]:
    """Return the first device that fewest others hold, and what holds it."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for sharing in range(MOST_SHARING):
            for number in numbers:
                path = folder / f"{names[number].replace('/', '-')}-{sharing}"
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                locked = try_lock(descriptor)
                if locked:
                    return number, descriptor
                os.close(descriptor)
                if locked is None:
                    raise OSError("nothing can be locked there")
    except OSError:
        pass
    return threading.get_native_id() % len(names), None
