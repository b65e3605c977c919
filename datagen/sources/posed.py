"""Registrations that come as parameters: the head model's vertices, as the tracker posed them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from datagen.common.digests import digest_file
from datagen.common.errors import InputError
from datagen.geometry.space import metres_per
from datagen.heads.flame_parameters import read_flame_parameters

if TYPE_CHECKING:
    from datagen.heads.flame import FlameHead

_LOCK = Lock()


def posed_vertices(path: Path, frame: int, unit: str, head_root: Path | None) -> npt.NDArray[np.float64]:
    """Return the vertices (5023, 3) float64 metres that a file of FLAME's parameters describes.

    Parameters
    ----------
    path : Path
        See :func:`datagen.heads.flame_parameters.read_flame_parameters`.
    unit : str
        Of the posed head, as the tracker has it.
    head_root : Path or None
        FLAME's model file, or its folder.

    Raises
    ------
    InputError
        If there is no model, or the file cannot be read or does not fit it.
    DependencyError
        If smplx is not installed.
    """
    parameters = read_flame_parameters(path, frame)
    head = _head(head_root)
    try:
        return head.posed(parameters) * metres_per(unit, "`unit` inside `registration` of capture.json")
    except InputError as error:
        raise InputError(f"{path}: {error.found}", error.expected, error.fix) from None


def model_faces(head_root: Path | None) -> npt.NDArray[np.int32]:
    """Return FLAME's faces (F, 3); raises as :func:`posed_vertices`."""
    return _head(head_root).template.faces


def model_digest(head_root: Path | None) -> str:
    """SHA-256 of FLAME's model file, on which posed vertices depend.

    Raises
    ------
    InputError
        If there is none.
    """
    model = _named(head_root)
    status = model.stat()
    return _digest(model, (status.st_mtime_ns, status.st_size))


def _head(head_root: Path | None) -> FlameHead:
    model = _named(head_root)
    with _LOCK:
        return _flame(model, model.stat().st_mtime_ns)


def _named(head_root: Path | None) -> Path:
    from datagen.heads.flame import find_model

    if head_root is None:
        raise InputError(
            "registrations are parameters of FLAME, whose files are not shipped",
            "the folder with FLAME's model file",
            "Name it: --set source.head_root=FOLDER for a build, --head-root FOLDER for a check; docs/heads.md says "
            "where the files come from",
        )
    return find_model(head_root)


@lru_cache(maxsize=2)
def _flame(model: Path, _stamp: int) -> FlameHead:
    from datagen.heads.flame import load_flame

    return load_flame(model)


@lru_cache(maxsize=8)
def _digest(model: Path, _stamp: tuple[int, int]) -> str:
    return digest_file(model).sha256
