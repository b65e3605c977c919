"""VHAP's exports: a transforms.json of all instants, with FLAME as parameters or as meshes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datagen.common.errors import InputError
from datagen.common.files import read_npz
from datagen.common.names import name_problem, shown
from datagen.geometry.lens import Lens
from datagen.geometry.mesh_io import read_mesh
from datagen.shards.schema import MAX_FRAME
from datagen.sources.imports.imported import (
    Found,
    ImportedCamera,
    ImportedFrame,
    ImportedRegistration,
    ImportedSequence,
    ImportSettings,
)
from datagen.sources.imports.numbers import SHIFT, Matrix, inverse
from datagen.sources.imports.rig import sees
from datagen.sources.imports.transforms import (
    FILE,
    OPENGL_AXES,
    intrinsics_of,
    matrix_of,
    picture_of,
    read_transforms,
    rigid_of,
    text_of,
)
from datagen.sources.imports.workspace import file_inside, listed, whole_frames, workspaces

FPS = 25.0
AXES = {"opengl": OPENGL_AXES, "opencv": np.eye(4)}
_WANTED = f"a folder with {FILE}, images/, and flame_param/ or meshes/"
_SAME_K = 1e-3  # pixels
_SAME_POSE = 1e-6
_INSTANT = "timestep_index"
_NAMES = ("camera_id", "camera_index")


@dataclass
class _View:
    """What is said of one camera at all instants."""

    K: Matrix
    size: tuple[int, int]
    lens: Lens
    poses: dict[int, Matrix] = field(default_factory=dict)
    pictures: dict[int, Path] = field(default_factory=dict)
    masks: dict[int, Path] = field(default_factory=dict)


def find_exports(root: Path, settings: ImportSettings) -> Sequence[Found]:
    """Return the exports at or below a folder; see :class:`datagen.sources.imports.registry.Importer`."""
    found = workspaces(root, lambda folder: (folder / FILE).is_file(), settings.subject, _WANTED)
    return [Found(key, folder, partial(_read, folder, root, settings)) for key, folder in found]


def _read(workspace: Path, root: Path, settings: ImportSettings) -> ImportedSequence:
    path = workspace / FILE
    _, entries = read_transforms(path)
    views: dict[str, _View] = {}
    flame: dict[str, dict[int, Path]] = {"mesh_path": {}, "flame_param_path": {}}
    missing: list[str] = []
    promised = set[int]()
    axes = AXES[settings.axes or "opengl"]
    shift = (0.5 - settings.pixel_center) if settings.pixel_center is not None else 0.0
    for entry in entries:
        instant, name = _instant(entry, path), _camera(entry, path)
        promised.add(instant)
        where = f"{path}: camera {name} at {_INSTANT} {instant}"
        K, size, lens = intrinsics_of(entry, where)
        view = views.setdefault(name, _View(K + shift * SHIFT, size, lens))
        if view.size != size or np.abs(view.K - K - shift * SHIFT).max() > _SAME_K or view.lens != lens:
            raise InputError(
                f"{where} has other intrinsics than before", "the same at all instants", "Export with a fixed zoom"
            )
        if instant in view.poses:
            raise InputError(f"{where} is there twice", "each once", "Remove one of the entries")
        pose = rigid_of(matrix_of(entry.get("transform_matrix"), f"{where}: transform_matrix"), name, path)
        view.poses[instant] = inverse(pose @ axes)
        picture = picture_of(workspace, text_of(path, entry, "file_path"), root, path)
        if picture is None:
            missing.append(str(entry["file_path"]))
        else:
            view.pictures[instant] = picture
        for key, found in (("fg_mask_path", view.masks), *flame.items()):
            if entry.get(key) is not None:
                file = file_inside(workspace, text_of(path, entry, key), root, str(path))
                if file.is_file():
                    found[instant] = file
                elif str(entry[key]) not in missing:
                    missing.append(str(entry[key]))
    meshes, parameters = flame.values()
    surfaces = meshes or parameters
    if not surfaces:
        raise InputError(
            f"{path} names no FLAME mesh or parameters that are there",
            "`flame_param_path` or `mesh_path` of its entries",
            "Export with --epoch and the tracked FLAME, and copy flame_param/ or meshes/ too",
        )
    pictures = {name: view.pictures for name, view in views.items()}
    frames, used, said = whole_frames(sorted(surfaces), pictures)
    if not frames:
        raise InputError(
            f"{workspace} has no instant with FLAME and pictures", _WANTED, f"Copy more of it: {listed(missing)}"
        )
    rate = settings.fps or FPS
    whole_masks = {name: all(frame in views[name].masks for frame in frames) for name in used}
    made = tuple(
        ImportedFrame(
            frame,
            (frame - frames[0]) / rate,
            meshes[frame] if meshes else None,
            {name: views[name].pictures[frame] for name in used},
            {name: views[name].masks[frame] for name in used if whole_masks[name]},
            registration=None if meshes else parameters[frame],
        )
        for frame in frames
    )
    _check_axes(surfaces[frames[0]], bool(meshes), [views[name] for name in used], frames[0], settings, path)
    cameras = tuple(_made(name, views[name], frames) for name in used)
    remarks = [*said, f"taken for granted: {rate:g} frames a second (--fps), lengths in metres"]
    moving = sum(bool(camera.poses) for camera in cameras)
    if moving:
        remarks.append(f"{moving} of {len(cameras)} cameras move")
    remarks.append("pictures are as VHAP wrote them: where there was a mask, their background is of one colour")
    gaps = (f"{len(missing)} files: {listed(missing)}",) if missing else ()
    registration = ImportedRegistration(head="flame", kind="vertices" if meshes else "parameters")
    return ImportedSequence(cameras, made, "m", registration=registration, missing=gaps, remarks=tuple(remarks))


def _instant(entry: Mapping[str, Any], path: Path) -> int:
    value = entry.get(_INSTANT)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_FRAME:
        raise InputError(
            f"{path} has a frame whose `{_INSTANT}` is {shown(value)}",
            "a number of the instant, as VHAP writes",
            "Export it again; what nerfstudio wrote is `datagen import nerfstudio`",
        )
    return value


def _camera(entry: Mapping[str, Any], path: Path) -> str:
    value = next((entry[key] for key in _NAMES if entry.get(key) is not None), None)
    name = str(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or name_problem(name) is not None:
        raise InputError(
            f"{path} has a frame whose camera is {shown(value)}", "`camera_id` or `camera_index`", "Export it again"
        )
    return name


def _made(name: str, view: _View, frames: Sequence[int]) -> ImportedCamera:
    first = view.poses[frames[0]]
    still = all(np.abs(view.poses[frame] - first).max() <= _SAME_POSE for frame in frames)
    poses = {} if still else {frame: view.poses[frame] for frame in frames}
    return ImportedCamera(name, view.K, first, view.size, view.lens, poses=poses)


def _check_axes(
    file: Path, is_mesh: bool, views: Sequence[_View], frame: int, settings: ImportSettings, path: Path
) -> None:
    """Refuse axes under which cameras do not see the head, while they would under the others."""
    if is_mesh:
        place = read_mesh(file, need_faces=False).vertices.mean(axis=0)
    else:
        found = read_npz(file, ["translation"], expected="FLAME's parameters", fix="Export it again")
        place = np.asarray(found["translation"], np.float64).reshape(-1)[:3]
        if place.shape != (3,) or not np.isfinite(place).all():
            raise InputError(f"{file} has no translation of 3 numbers", "FLAME's parameters", "Export it again")
    own = settings.axes or "opengl"
    other = next(name for name in AXES if name != own)
    # The other axes are half a turn around x.
    seen = sum(sees(view.K, view.size, view.poses[frame], place) for view in views)
    turned = sum(sees(view.K, view.size, OPENGL_AXES @ view.poses[frame], place) for view in views)
    if 2 * seen < len(views) < 2 * turned:
        raise InputError(
            f"of {len(views)} cameras of {path}, {seen} see the head with {own} axes, and {turned} with {other} axes",
            "cameras that see the head",
            f"Pass --axes {other}",
        )
