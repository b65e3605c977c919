"""Where a prediction goes: a folder of its own that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datagen.common.errors import InputError
from datagen.common.files import staged_folder, storage_errors
from datagen.common.ownership import refuse_strangers, strangers

MARKER = "prediction.json"


def check_target(out: Path) -> None:
    """Refuse a target that holds anything but an earlier prediction, as it was written.

    Raises
    ------
    InputError
        If ``out`` is a file.
    StorageError
        Naming what is not ours.
    """
    if not out.is_dir() and (out.exists() or out.is_symlink()):
        raise InputError(f"--out {out} is a file", "a folder", "Choose another --out")
    refuse_strangers(strangers(out), "Choose another --out, or move it away")


@contextmanager
def prediction_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``out`` at the end; nothing remains of it after an error.

    Raises
    ------
    InputError
        As :func:`check_target`.
    StorageError
        As :func:`check_target`, or if the disk is full or refuses.
    """
    check_target(out)
    with storage_errors(f"writing {out}"), staged_folder(out, replace=True) as staging:
        yield staging
