"""Parameters of FLAME as trackers write them: one file for each frame, or one with a row for each.

Two conventions are known. FLAME's own: `rotation` turns about the root joint, as a rotation vector, then the head is
moved (VHAP, DECA, smplx). And NeRSemble's, told by `rotation_matrices`: FLAME stands without a turn of its own, and is
then scaled, turned about the origin and moved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import InputError
from datagen.common.files import read_npz
from datagen.heads.pickles import as_array, load_inert

SUFFIXES = (".npz", ".pkl")
# Every name that a quantity has in files of trackers.
_NAMES = {
    "shape": ("shape", "shape_params", "betas", "shapecode"),
    "expression": ("expression", "expr", "exp", "expression_params", "expression_parameters", "expcode"),
    "pose": ("pose", "pose_params", "posecode", "full_pose"),
    "rotation": ("rotation", "global_orient", "global_pose", "global_rotation", "root_pose"),
    "neck": ("neck", "neck_pose"),
    "jaw": ("jaw", "jaw_pose"),
    "eyes": ("eyes", "eyes_pose", "eye_pose"),
    "left_eye": ("leye_pose", "left_eye_pose"),
    "right_eye": ("reye_pose", "right_eye_pose"),
    "translation": ("translation", "transl", "trans", "global_translation"),
    "scale": ("scale",),
    "rotation_matrices": ("rotation_matrices",),
    "static_offset": ("static_offset",),
    "dynamic_offset": ("dynamic_offset",),
}
_FRAMES = ("frames", "timestep_id", "frame_ids")
_SIZES = {"rotation": 3, "neck": 3, "jaw": 3, "eyes": 6, "left_eye": 3, "right_eye": 3, "translation": 3}
_JOINTS = {6: ("rotation", "jaw"), 12: ("neck", "jaw", "eyes"), 15: ("rotation", "neck", "jaw", "eyes")}
# Of keys that are not known, those that may move vertices.
_WORDS = re.compile(r"pose|jaw|neck|eye|exp|shape|beta|rot|trans|scale|offset|orient", re.IGNORECASE)
_NOT_GEOMETRY = re.compile(r"tex|light|image|img|color|colour|camera|lmk|landmark|uv", re.IGNORECASE)
_TURN_TOLERANCE = 1e-3
_FIX = "docs/capture-format.md, Parameters of FLAME, lists the names that are read"

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FlameParameters:
    """All that poses FLAME once.

    Attributes
    ----------
    shape, expression : (B,), (E,) float64
        Coefficients, in standard deviations.
    rotation, neck, jaw : (3,) float64
        Rotation vectors of the joints, radians.
    eyes : (6,) float64
        Of the left eye, then of the right one.
    scale : float
        Of the posed head.
    turn : (3, 3) float64 or None
        Rotation about the origin after that, in place of ``rotation``.
    translation : (3,) float64
        Last.
    offset : (V, 3) float64 or None
        Added to the shaped template, before it is posed; vertices beyond the model's own are passed over.
    """

    shape: Vector = field(default_factory=lambda: np.zeros(0))
    expression: Vector = field(default_factory=lambda: np.zeros(0))
    rotation: Vector = field(default_factory=lambda: np.zeros(3))
    neck: Vector = field(default_factory=lambda: np.zeros(3))
    jaw: Vector = field(default_factory=lambda: np.zeros(3))
    eyes: Vector = field(default_factory=lambda: np.zeros(6))
    scale: float = 1.0
    turn: Vector | None = None
    translation: Vector = field(default_factory=lambda: np.zeros(3))
    offset: Vector | None = None

    def placed(self, posed: Vector) -> Vector:
        """Scale, turn and move the posed head (V, 3)."""
        turned = posed if self.turn is None else posed @ self.turn.T
        return self.scale * turned + self.translation


def read_flame_parameters(path: Path, frame: int) -> FlameParameters:
    """Read the parameters of a frame.

    Parameters
    ----------
    path : Path
        ``.npz``, or ``.pkl`` with a dictionary of arrays; nothing in it is run.
    frame : int
        Which row is taken of arrays with several: that of this number in ``frames``, or else the row of this number.

    Raises
    ------
    InputError
        If it is no such file, a value has a shape that is not known or is not finite, or a key may mean something for
        the geometry that is not understood.
    """
    arrays = _arrays(path)
    rows = _rows(path, arrays)
    row = _row(path, arrays, frame, rows)
    found: dict[str, Vector] = {}
    for name, values in _known(path, arrays).items():
        picked = _picked(path, name, values, row, rows)
        if picked is not None:
            found[name] = picked
    _split_pose(path, found)
    eyes = [found.pop(name, np.zeros(3)) for name in ("left_eye", "right_eye")]
    if any(eye.any() for eye in eyes):
        found.setdefault("eyes", np.concatenate(eyes))
    scale = found.pop("scale", np.ones(1))
    if not (scale > 0).all() or np.ptp(scale) > 0:
        raise InputError(f"{path} has the scale {scale.tolist()}", "one number above 0", "Check the tracker")
    turn = found.pop("rotation_matrices", None)
    if turn is not None:
        if np.abs(turn @ turn.T - np.eye(3)).max() > _TURN_TOLERANCE or np.linalg.det(turn) < 0:
            raise InputError(
                f"{path}: `rotation_matrices` of frame {frame} is no rotation", "3×3 rotations", "Check the file"
            )
        # The same turn as Euler angles.
        found.pop("rotation", None)
    offsets = [found.pop(name) for name in ("static_offset", "dynamic_offset") if name in found]
    return FlameParameters(
        scale=float(scale[0]), turn=turn, offset=np.sum(offsets, axis=0) if offsets else None, **found
    )


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    expected = f"parameters of FLAME ({' or '.join(SUFFIXES)})"
    if path.suffix.lower() == ".npz":
        return read_npz(path, expected=expected, fix="Copy or export it again")
    if path.suffix.lower() != ".pkl":
        raise InputError(f"{path} has the suffix {path.suffix!r}", expected, "Save the arrays as an .npz")
    try:
        with path.open("rb") as stream:
            content = load_inert(stream, str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", expected, "Check the path") from None
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}", "a dictionary of arrays", "Save it as an .npz")
    return {str(key): as_array(value, f"{path}: {key}") for key, value in content.items() if _may_matter(str(key))}


def _may_matter(key: str) -> bool:
    return key in _FRAMES or any(key in names for names in _NAMES.values()) or _suspect(key)


def _suspect(key: str) -> bool:
    return bool(_WORDS.search(key)) and not _NOT_GEOMETRY.search(key)


def _known(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Vector]:
    """Return the quantities by our names, as numbers."""
    named = {key: name for name, keys in _NAMES.items() for key in keys}
    found: dict[str, Vector] = {}
    for key, values in arrays.items():
        name = named.get(key)
        if name is None:
            if _suspect(key):
                raise InputError(
                    f"{path} has {key!r}, which may move the head and is not understood",
                    f"names such as {', '.join(keys[0] for keys in _NAMES.values())}",
                    f"Rename it, or take it out. {_FIX}",
                )
            continue
        if name in found:
            raise InputError(f"{path} has {name} twice, the second time as {key!r}", "each once", "Remove one")
        if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
            raise InputError(f"{path}: {key!r} is not an array of finite numbers", "finite numbers", "Export it again")
        found[name] = np.asarray(values, np.float64)
    if not {"shape", "expression"} & found.keys():
        raise InputError(
            f"{path} holds neither shape nor expression, only {', '.join(sorted(arrays)) or 'nothing'}",
            "parameters of FLAME",
            _FIX,
        )
    return found


def _rows(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Return how many frames the file holds."""
    counts = {
        len(arrays[key])
        for name in ("expression", "rotation", "translation", "jaw", "pose")
        for key in _NAMES[name]
        if key in arrays and arrays[key].ndim == 2
    } - {1}
    if len(counts) > 1:
        raise InputError(f"{path} has rows for {sorted(counts)} frames", "as many of each", "Export it again")
    return next(iter(counts), 1)


def _row(path: Path, arrays: Mapping[str, npt.NDArray[Any]], frame: int, rows: int) -> int:
    if rows == 1:
        return 0
    numbers = next((_numbers(arrays[key]) for key in _FRAMES if key in arrays), None)
    if numbers is not None and len(numbers) == rows:
        if frame not in numbers:
            raise InputError(
                f"{path} has no frame {frame}",
                f"one of its {rows} frames, {numbers[0]} to {numbers[-1]}",
                "Check `frames` in capture.json",
            )
        return numbers.index(frame)
    if not 0 <= frame < rows:
        raise InputError(
            f"{path} has no row {frame}: it holds {rows} frames, counted from 0",
            "a row for every frame",
            "Check `frames` in capture.json",
        )
    return frame


def _numbers(values: npt.NDArray[Any]) -> list[int] | None:
    """Return frame numbers, also of names such as frame_00012; None if they are none."""
    digits = [re.search(r"(\d+)\D*$", str(value)) for value in values.ravel()]
    return [int(match[1]) for match in digits if match] if all(digits) else None


def _picked(path: Path, name: str, values: Vector, row: int, rows: int) -> Vector | None:
    """Return a frame's own value, or None where the file leaves it out by an empty array."""
    if values.size == 0:
        return None
    own = {"rotation_matrices": 2, "static_offset": 2, "dynamic_offset": 2}.get(name, 1)
    if name == "scale" and values.size == 1:
        return values.reshape(1)
    if values.ndim == own + 1 and len(values) in {1, rows}:
        values = values[row if len(values) == rows else 0]
    elif name == "scale" and values.ndim == 1 and len(values) == rows:
        values = values[row : row + 1]
    wanted: tuple[int, ...] = {"rotation_matrices": (3, 3)}.get(name, (_SIZES.get(name, -1),))
    if own == 2 and name != "rotation_matrices":
        wanted = (-1, 3)
    fits = values.ndim == own and all(want in {-1, size} for want, size in zip(wanted, values.shape, strict=True))
    if not fits:
        shape = "×".join("N" if size < 0 else str(size) for size in wanted)
        raise InputError(
            f"{path}: {name} has the shape {values.shape} in a file of {rows} frame{'s' if rows > 1 else ''}",
            f"{shape} numbers, or as many rows as frames",
            "Check what the tracker wrote (rotations are rotation vectors)",
        )
    return values


def _split_pose(path: Path, found: dict[str, Vector]) -> None:
    """Split the joints' rotations of one array, in FLAME's order."""
    pose = found.pop("pose", None)
    if pose is None:
        return
    names = _JOINTS.get(len(pose))
    if names is None:
        raise InputError(
            f"{path} has a pose of {len(pose)} numbers",
            "6 (root, jaw), 12 (neck, jaw, eyes) or 15 (root, neck, jaw, eyes)",
            _FIX,
        )
    begin = 0
    for name in names:
        part = pose[begin : begin + _SIZES[name]]
        begin += _SIZES[name]
        if name in found and not np.array_equal(found[name], part):
            raise InputError(f"{path} has two values of {name}: in the pose, and one of its own", "one", "Remove one")
        found[name] = part
