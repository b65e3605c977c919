"""Named facial landmarks, any subset of a scheme."""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.documents import DocumentError, parse_json, read_bytes
from datagen.common.errors import LandmarkError
from datagen.geometry.landmark_formats import MarkedPoints, marked_points
from datagen.geometry.landmark_orders import Order, ibug_indices
from datagen.geometry.space import metres_per

SCHEME_SIZES = {"ibug68": 68}
MINIMUM_POINTS = 3
_NOTES = ("about", "generator")
_LAYOUT = "See docs/capture-format.md for its layout"


@dataclass(frozen=True)
class Landmarks:
    """Landmarks on one face.

    Attributes
    ----------
    indices : (L,) int64
        Increasing indices into the scheme (iBUG: 0-16 jaw from the subject's right ear to the left, 17-26
        brows, 27-35 nose, 36-47 eyes, right eye first, 48-67 mouth).
    points : (L, 3) float64
        Metres.
    scheme : str
        ``ibug68``.
    """

    indices: npt.NDArray[np.int64]
    points: npt.NDArray[np.float64]
    scheme: str = "ibug68"


def validate_landmarks(landmarks: Landmarks, name: str) -> Landmarks:
    """Check landmarks at the door and return them, sorted by index.

    Raises
    ------
    LandmarkError
        If the scheme is unknown, an index is outside it, a point is not finite, there are fewer than three, or
        they lie on one line.
    """
    size = _scheme_size(landmarks.scheme, name)
    indices, points = np.asarray(landmarks.indices, np.int64), np.asarray(landmarks.points, np.float64)
    if len(indices) < MINIMUM_POINTS:
        raise LandmarkError(
            f"{name} has {len(indices)} landmarks",
            f"at least {MINIMUM_POINTS}",
            "Mark the outer eye corners (36, 45) and the nose tip (30)",
        )
    if indices.min() < 0 or indices.max() >= size:
        raise LandmarkError(
            f"{name} has landmark indices from {indices.min()} to {indices.max()}",
            f"0 to {size - 1} for {landmarks.scheme}",
            "Check the scheme; indices count from 0",
        )
    if len(np.unique(indices)) != len(indices):
        raise LandmarkError(f"{name} names a landmark twice", "each index once", "Remove the duplicates")
    if points.shape != (len(indices), 3) or not np.isfinite(points).all():
        raise LandmarkError(
            f"{name} has landmark points of shape {points.shape} or with NaN",
            f"({len(indices)}, 3) finite values",
            "Leave out landmarks that could not be seen",
        )
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    if spread[1] < 1e-3 * max(spread[0], 1e-12):
        raise LandmarkError(
            f"{name}: all landmarks lie on one line",
            "points that span a plane",
            "Add a landmark away from that line, such as the nose tip (30)",
        )
    order = np.argsort(indices)
    return Landmarks(indices[order], points[order], landmarks.scheme)


def _scheme_size(scheme: str, name: str) -> int:
    if scheme not in SCHEME_SIZES:
        raise LandmarkError(
            f"{name} uses the landmark scheme {scheme!r}",
            f"one of {sorted(SCHEME_SIZES)}",
            "Convert the points to that scheme; any subset of at least three will do",
        )
    return SCHEME_SIZES[scheme]


def declared_unit(path: Path) -> str:
    """Return the length unit a landmark file declares, which is usually that of the scan it was marked on.

    Raises
    ------
    LandmarkError
        As :func:`read_landmarks`, for a file that is not a landmark file or states none.
    """
    return str(_read_content(path, read_landmark_bytes(path))["unit"])


def states_unit(path: Path) -> bool:
    """Whether a landmark file states its unit, as those of other programs do not.

    Raises
    ------
    LandmarkError
        If it cannot be read.
    """
    return _is_ours(read_landmark_bytes(path))


def read_landmarks(path: Path, *, unit: str | None = None, order: Order | None = None) -> Landmarks:
    """Read a landmark file: JSON with ``scheme``, ``unit`` and ``points``, or a file of another program.

    ``points`` is an object of index → [x, y, z], or the list of all points of the scheme in its order; in both, null
    stands for a point that was not seen.

    Parameters
    ----------
    path : Path
    unit : str, optional
        Of a file that states none, as those of other programs.
    order : str or tuple of int, optional
        Which of iBUG's points those of such a file are: one of
        :data:`datagen.geometry.landmark_orders.ORDERS`, or their indices in the file's order.

    Raises
    ------
    LandmarkError
        If the file is missing, of no kind that is read, its points are not known, or it fails
        :func:`validate_landmarks`.
    """
    data = read_landmark_bytes(path)
    if not _is_ours(data):
        marked = marked_points(path, data)
        if marked is not None:
            return _of_marked(path, marked, unit, order)
    content = _read_content(path, data)
    scale = metres_per(str(content["unit"]), str(path))
    scheme, points = str(content["scheme"]), content["points"]
    size = _scheme_size(scheme, str(path))
    if isinstance(points, list):
        if len(points) != size:
            raise LandmarkError(
                f"landmark file {path} lists {len(points)} points",
                f"all {size} of {scheme} in its order (null for one that was not seen), or an object of "
                "index → [x, y, z]",
                _LAYOUT,
            )
        points = dict(enumerate(points))
    if not isinstance(points, dict):
        raise LandmarkError(
            f"landmark file {path}: `points` is {_shown(points)}", "an object of index → [x, y, z], or a list", _LAYOUT
        )
    seen: dict[int, list[float]] = {}
    for name, xyz in points.items():
        index = _index(path, name)
        if index in seen:
            raise LandmarkError(f"landmark file {path} names point {index} twice", "each index once", "Remove one")
        if xyz is not None:
            seen[index] = _coordinates(path, name, xyz)
    numbers = sorted(seen)
    return validate_landmarks(
        Landmarks(
            np.array(numbers, np.int64), np.array([seen[i] for i in numbers], np.float64).reshape(-1, 3) * scale, scheme
        ),
        str(path),
    )


def _is_ours(data: bytes) -> bool:
    """Whether a file states scheme and unit itself, or is of our kind and lacks one of them."""
    try:
        content = parse_json(data)
    except DocumentError:
        return False
    return isinstance(content, dict) and bool({"scheme", "unit"} & content.keys())


def _of_marked(path: Path, marked: MarkedPoints, unit: str | None, order: Order | None) -> Landmarks:
    indices = ibug_indices(marked, order, path)
    if unit is None:
        raise LandmarkError(
            f"landmark file {path}, {marked.kind}, states no unit",
            "the unit of its numbers, which is that of the scan that they were marked on",
            "Name it: --landmark-unit, or `unit` of `landmarks` in capture.json",
        )
    if marked.points.shape[1] != 3:
        raise LandmarkError(
            f"landmark file {path}, {marked.kind}, has points in a picture (two numbers each)",
            "three numbers each",
            'Say so, with a file for each camera: "landmarks": {"pattern": …, "kind": "2d"} in capture.json',
        )
    seen = (indices >= 0) & np.isfinite(marked.points).all(axis=1)
    for index, xyz in zip(indices[seen], marked.points[seen], strict=True):
        _coordinates(path, int(index), xyz.tolist())
    scale = metres_per(unit, f"the landmarks {path}")
    return validate_landmarks(Landmarks(indices[seen], marked.points[seen] * scale), str(path))


def _index(path: Path, name: object) -> int:
    text = str(name)
    # What is too long is no index of any scheme; int() takes more than digits.
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise LandmarkError(
            f"landmark file {path} names a point {_shown(name)}",
            "the index of a point in the scheme, counting from 0",
            "Replace names by indices: 36 is the right outer eye corner, 45 the left, 30 the nose tip",
        )
    return int(text)


def _coordinates(path: Path, name: object, xyz: object) -> list[float]:
    numbers = isinstance(xyz, list) and len(xyz) == 3 and all(type(x) in (int, float) for x in xyz)
    if not numbers or not np.isfinite(values := np.array(xyz, np.float64)).all():
        raise LandmarkError(
            f"landmark file {path}: point {name} is {_shown(xyz)}",
            "three finite numbers [x, y, z]",
            "Leave points that were not seen out, or write null",
        )
    if not values.any():
        raise LandmarkError(
            f"landmark file {path}: point {name} is exactly (0, 0, 0), which programs write for one that was not seen",
            "points that lie on the face",
            "Leave points that were not seen out, or write null",
        )
    return [float(x) for x in values]


def _shown(value: object) -> str:
    text = reprlib.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_landmark_bytes(path: Path) -> bytes:
    """Return the content of a landmark file.

    Raises
    ------
    LandmarkError
        If it is missing or cannot be read.
    """
    try:
        return read_bytes(path)
    except FileNotFoundError:
        raise LandmarkError(f"landmark file {path} does not exist", "a landmark file", "Check the path") from None
    except (OSError, DocumentError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise LandmarkError(
            f"landmark file {path} cannot be read ({reason})", "a readable file", "Check the path"
        ) from None


def _read_content(path: Path, data: bytes) -> dict[str, Any]:
    try:
        content, problem = parse_json(data), " is not such JSON"
    except DocumentError as error:
        content, problem = None, f" cannot be read: {error}"
    missing = {"scheme", "unit", "points"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise LandmarkError(
            f"landmark file {path}"
            + (f" lacks {', '.join(sorted(missing))}" if isinstance(content, dict) else problem),
            'JSON {"scheme": "ibug68", "unit": "mm", "points": {"30": [0.1, -2.0, 95.4], ...}}, or a file of MeshLab '
            "(.pp), 3D Slicer (.fcsv, .mrk.json), menpo (.ljson, .pts), numpy (.npy) or plain text (.txt, .csv)",
            _LAYOUT,
        )
    unknown = sorted(set(content) - {"scheme", "unit", "points", *_NOTES})
    if unknown:
        raise LandmarkError(
            f"landmark file {path} has the unknown key {_shown(unknown[0])}",
            f"scheme, unit and points, and for notes {' or '.join(_NOTES)}",
            "Correct or remove it",
        )
    return dict(content)


def landmark_bytes(landmarks: Landmarks) -> bytes:
    """Return the content of the file :func:`read_landmarks` reads, in metres."""
    points = {
        str(int(i)): [round(float(x), 7) for x in p] for i, p in zip(landmarks.indices, landmarks.points, strict=True)
    }
    return (json.dumps({"scheme": landmarks.scheme, "unit": "m", "points": points}, indent=1) + "\n").encode()


def write_landmarks(landmarks: Landmarks, path: Path) -> None:
    """Write the file :func:`read_landmarks` reads, in metres."""
    path.write_bytes(landmark_bytes(landmarks))
