"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datagen.shards import CanonfaceError, InputError, StorageError

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
                f"--out {out} holds files and is no prediction (it has no {MARKER})",
                "a new folder, an empty one, or an earlier prediction, which is replaced",
                "Choose another --out",
            )
    elif out.exists() or out.is_symlink():
        raise InputError(f"--out {out} is a file", "a folder", "Choose another --out")


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``out`` that takes its place at the end; nothing remains of it after an error.

    Raises
    ------
    InputError
        As :func:`check_target`.
    StorageError
        If the disk is full or refuses.
    """
    out = out.absolute()
    check_target(out)
    name = f".{out.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
    staging, old = out.with_name(name), out.with_name(f"{name}.old")
    try:
        staging.mkdir(parents=True)
        yield staging
        check_target(out)  # hours may have passed
        if out.exists():
            os.replace(out, old)
        os.replace(staging, out)
    except CanonfaceError:
        raise
    except OSError as error:
        raise StorageError(
            f"{out} cannot be written: {error.strerror or error}",
            "a writable folder with space",
            "Free space, or choose another --out",
        ) from None
    finally:
        if not out.exists() and old.exists():
            os.replace(old, out)
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
