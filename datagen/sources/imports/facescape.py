"""FaceScape's multi-view set: pictures with a ``params.json`` for each expression, and a mesh of arbitrary scale."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.documents import read_json
from datagen.common.errors import InputError
from datagen.common.names import shown
from datagen.geometry.lens import BrownLens
from datagen.sources.frame import SequenceKey
from datagen.sources.imports.imported import Found, ImportedCamera, ImportedFrame, ImportedSequence, ImportSettings
from datagen.sources.imports.workspace import file_inside, listed

PARAMS = "params.json"
_EXPRESSION = re.compile(r"([0-9]{1,3})_.+")
_VIEW = re.compile(r"([0-9]{1,6})_K")
_SIZES = ("width", "height")
_MM = 1e-3
_MOST_SIDE = 65536
_WANTED = "IMGS/ID/N_EXPRESSION/ with params.json, and MESH/ID/N_EXPRESSION.ply"

Matrix = npt.NDArray[np.float64]


def find_expressions(root: Path, settings: ImportSettings) -> Sequence[Found]:
    """Return the expressions below a folder; see :class:`datagen.sources.imports.registry.Importer`."""
    images = root / "IMGS"
    if not images.is_dir():
        raise InputError(f"{root} has no folder IMGS", _WANTED, "Name the folder that holds IMGS and MESH")
    folders = [path.parent for path in images.glob(f"*/*/{PARAMS}") if _EXPRESSION.fullmatch(path.parent.name)]
    if not folders:
        raise InputError(f"{images} holds no expression with {PARAMS}", _WANTED, "Unpack the files there")
    scales = _document(settings.scales, "the scales of the meshes") if settings.scales else None
    found = [
        Found(SequenceKey(folder.parent.name, folder.name), folder, partial(_read, folder, root, settings, scales))
        for folder in folders
    ]
    return sorted(found, key=lambda one: (one.key.subject, one.key.sequence))


def _read(folder: Path, root: Path, settings: ImportSettings, scales: dict[str, Any] | None) -> ImportedSequence:
    path = folder / PARAMS
    content = _document(path, "the cameras")
    views = sorted((match[1] for key in content if (match := _VIEW.fullmatch(key))), key=int)
    if not views:
        raise InputError(f"{path} has no camera", "keys such as 0_K, 0_Rt", "Copy it again")
    valid = [view for view in views if content.get(f"{view}_valid", True) is not False]
    shift = 0.5 - (settings.pixel_center or 0.0)
    cameras, pictures, missing = [], {}, []
    for view in valid:
        picture = file_inside(folder, f"{view}.jpg", root, str(path))
        if not picture.is_file():
            missing.append(picture.name)
            continue
        pictures[view] = picture
        cameras.append(_camera(content, view, shift, path))
    if not pictures:
        raise InputError(f"{folder} has none of the {len(valid)} pictures of {PARAMS}", "its pictures", "Unpack them")
    scan = file_inside(root / "MESH" / folder.parent.name, f"{folder.name}.ply", root, str(path))
    if not scan.is_file():
        raise InputError(f"{scan} is missing", "the mesh of the expression", "Unpack it there")
    remarks = [f"taken for granted: K for pixel centres at {0.5 - shift:g} (--pixel-center)"]
    if len(valid) < len(views):
        remarks.append(f"left out: {len(views) - len(valid)} of {len(views)} views, which the set marks as not valid")
    gaps = (f"{len(missing)} of {len(valid)} pictures: {listed(missing)}",) if missing else ()
    return ImportedSequence(
        tuple(cameras),
        (ImportedFrame(0, 0.0, scan, pictures),),
        metres_per_unit=None if scales is None else _scale(scales, folder, settings.scales),
        missing=gaps,
        remarks=tuple(remarks),
    )


def _document(path: Path, what: str) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})", f"JSON with {what}", "Check the file") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is no JSON object", f"{what}, by their keys", "Check the file")
    return content


def _camera(content: dict[str, Any], view: str, shift: float, path: Path) -> ImportedCamera:
    K, pose = (_array(content, f"{view}_{key}", shape, path) for key, shape in (("K", (3, 3)), ("Rt", (3, 4))))
    k1, k2, p1, p2, k3 = _array(content, f"{view}_distortion", (5,), path)
    K = K + np.array([[0, 0, shift], [0, 0, shift], [0, 0, 0]])
    size = [content.get(f"{view}_{side}") for side in _SIZES]
    if not all(isinstance(side, int) and not isinstance(side, bool) and 0 < side <= _MOST_SIDE for side in size):
        raise InputError(f"{path}: view {view} has the size {shown(size)}", "width and height", "Copy it again")
    lens = BrownLens((float(k1), float(k2), float(k3)), (), (float(p1), float(p2)))
    world_to_camera = np.concatenate([pose, [[0.0, 0.0, 0.0, 1.0]]])
    return ImportedCamera(view, K, world_to_camera, (int(size[0]), int(size[1])), lens)  # type: ignore[arg-type]


def _array(content: dict[str, Any], key: str, shape: tuple[int, ...], path: Path) -> Matrix:
    try:
        array = np.array(content.get(key), np.float64)
    except (ValueError, TypeError, OverflowError):
        array = np.zeros(0)
    # The distortion is written as a row or as a list.
    array = array.reshape(-1) if len(shape) == 1 and array.size == shape[0] else array
    if array.shape != shape or not np.isfinite(array).all():
        raise InputError(
            f"{path}: {key} is {shown(content.get(key))}", f"{'×'.join(map(str, shape))} numbers", "Copy it again"
        )
    return array


def _scale(scales: dict[str, Any], folder: Path, path: Path | None) -> float:
    """Return the length of a mesh's unit in metres: the set has it in millimetres of its registered models."""
    number = folder.name.partition("_")[0]
    person = scales.get(folder.parent.name)
    entry = person.get(number) if isinstance(person, dict) else None
    value = entry[0] if isinstance(entry, list) and entry else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise InputError(
            f"{path} has no scale of person {folder.parent.name}, expression {number}",
            "a list that begins with a number above 0",
            "Take the file Rt_scale_dict.json that comes with the set's toolkit, or pass --metres-per-unit",
        )
    return float(value) * _MM
