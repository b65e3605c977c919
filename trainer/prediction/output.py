"""Where a prediction goes: a folder of its own that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datagen.common.errors import InputError
from datagen.common.files import staged_folder, storage_errors

MARKER = "prediction.json"
_FORMER = {"strip.png", "raw_predictions.npz"}  # what predictions held before they had a marker


def check_target(out: Path) -> None:
    """Refuse a target that would overwrite what is not a prediction.

    Raises
    ------
    InputError
        If ``out`` is a file, or a folder that holds something and no ``prediction.json``.
    """
    if out.is_dir():
        names = {path.name for path in out.iterdir()}
        if names and MARKER not in names and not names >= _FORMER:
            raise InputError(
                f"--out {out} holds files and is not a prediction (it has no {MARKER})",
                "a new folder, an empty one, or an earlier prediction, which is replaced",
                "Choose another --out",
            )
    elif out.exists() or out.is_symlink():
        raise InputError(f"--out {out} is a file", "a folder", "Choose another --out")


@contextmanager
def prediction_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``out`` at the end; nothing remains of it after an error.

    Raises
    ------
    InputError
        As :func:`check_target`.
    StorageError
        If the disk is full or refuses.
    """
    check_target(out)
    with storage_errors(f"writing {out}"), staged_folder(out, replace=True) as staging:
        yield staging
        check_target(out)  # hours may have passed
