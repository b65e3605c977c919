"""A run's folder belongs to one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from datagen.common.errors import InputError
from datagen.common.files import folder_lock, is_temporary, make_folders, storage_errors


@contextmanager
def own_folder(run: Path, *, leads: bool = True) -> Iterator[None]:
    """Keep other runs out of a folder, and remove what a killed one left half-written there.

    The lock is on the folder itself and goes with the process, however it ends. A folder made here in which nothing
    was written is removed again.

    Parameters
    ----------
    run : Path
        Made if it does not exist.
    leads : bool
        Whether this process writes the run's files; the others leave the folder alone.

    Raises
    ------
    InputError
        If another process is fitting there.
    StorageError
        If the folder cannot be made or read.
    """
    if not leads:
        yield
        return
    run = run.absolute()
    with storage_errors(f"opening the run's folder {run}"):
        made = list(takewhile(lambda folder: not folder.exists(), (run, *run.parents)))
        make_folders(run)
    with folder_lock(run, lambda _: _busy(run)):
        try:
            with storage_errors(f"clearing the run's folder {run}"):
                for path in run.iterdir():
                    if is_temporary(path.name) and path.is_file():
                        path.unlink(missing_ok=True)
            yield
        finally:
            with suppress(OSError):  # not empty: something was written
                for empty in made:
                    empty.rmdir()


def _busy(run: Path) -> InputError:
    return InputError(
        f"another process is fitting in {run}", "one at a time", "Wait until it ends, or choose another --out"
    )
