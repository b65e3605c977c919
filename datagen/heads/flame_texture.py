"""FLAME's own texture coordinates, where its files lie beside the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.files import read_npz
from datagen.heads.base import HeadTemplate
from datagen.heads.unwrap import Unwrap

# The texture space's archive (arrays `vt` and `ft`), and the template with texture coordinates.
NPZ_NAME = "FLAME_texture.npz"
OBJ_NAMES = ("head_template.obj", "head_template_mesh.obj")
_FIX = "Download it again, or take it out of the folder: then texture coordinates are made"


def read_texture(folder: Path, template: HeadTemplate) -> Unwrap | None:
    """Return FLAME's texture coordinates from a folder that holds them, or None.

    Raises
    ------
    InputError
        If a file of theirs cannot be read, or is of another topology than the model.
    """
    if (folder / NPZ_NAME).is_file():
        path = folder / NPZ_NAME
        stored = read_npz(path, ("vt", "ft"), expected="the arrays vt and ft of FLAME's texture space", fix=_FIX)
        return _checked(path, stored["vt"], stored["ft"], None, template)
    for name in OBJ_NAMES:
        if (folder / name).is_file():
            return _checked(folder / name, *_read_obj(folder / name), template)
    return None


def _read_obj(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Return texture coordinates (T, 2), their triangles (F, 3) and the vertices' triangles (F, 3)."""
    uv: list[list[float]] = []
    corners: list[list[list[int]]] = []
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                keyword, *values = line.split() or [""]
                if keyword == "vt":
                    uv.append([float(value) for value in values[:2]])
                elif keyword == "f":
                    corners.append([[int(index) - 1 for index in value.split("/")[:2]] for value in values])
        triangles = np.array(corners, np.int64)
        return np.array(uv, np.float64), triangles[:, :, 1], triangles[:, :, 0]
    except (OSError, ValueError, IndexError) as error:
        raise InputError(
            f"{path} cannot be read ({error})", "triangles with texture coordinates, as in FLAME's template", _FIX
        ) from None


def _checked(
    path: Path,
    uv: npt.NDArray[Any],
    corners: npt.NDArray[Any],
    faces: npt.NDArray[Any] | None,
    template: HeadTemplate,
) -> Unwrap:
    right = uv.ndim == 2 and uv.shape[1:] == (2,) and corners.shape == template.faces.shape
    right = right and corners.min() >= 0 and corners.max() < len(uv)
    if not right or (faces is not None and not np.array_equal(faces, template.faces)):
        raise InputError(
            f"{path} has {len(uv)} texture coordinates and triangles {corners.shape} that are not the model's",
            f"the {len(template.faces)} triangles of the model in their order, with indices into the coordinates",
            _FIX,
        )
    if not (np.isfinite(uv).all() and uv.min() >= 0 and uv.max() <= 1):
        raise InputError(f"{path} has texture coordinates outside the unit square", "numbers in [0, 1]", _FIX)
    return Unwrap(uv.astype(np.float64), corners.astype(np.int32), np.ones(len(corners), bool))
