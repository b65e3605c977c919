"""Named facial landmarks, any subset of a scheme."""

from __future__ import annotations

import json
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.documents import DocumentError, parse_json, read_bytes
from datagen.common.errors import LandmarkError
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
    if landmarks.scheme not in SCHEME_SIZES:
        raise LandmarkError(
            f"{name} uses the landmark scheme {landmarks.scheme!r}",
            f"one of {sorted(SCHEME_SIZES)}",
            "Convert the points to that scheme; any subset of at least three will do",
        )
    indices, points = np.asarray(landmarks.indices, np.int64), np.asarray(landmarks.points, np.float64)
    size = SCHEME_SIZES[landmarks.scheme]
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


def declared_unit(path: Path) -> str:
    """Return the length unit a landmark file declares, which is usually that of the scan it was marked on.

    Raises
    ------
    LandmarkError
        As :func:`read_landmarks`, for a file that is not a landmark file.
    """
    return str(_read_content(path)["unit"])


def read_landmarks(path: Path) -> Landmarks:
    """Read a landmark file: JSON with ``scheme``, ``unit`` and ``points``.

    ``points`` is an object of index → [x, y, z], or the list of all points of the scheme in its order; in both, null
    stands for a point that was not seen.

    Raises
    ------
    LandmarkError
        If the file is missing, is not such JSON, or fails :func:`validate_landmarks`.
    """
    content = _read_content(path)
    scale = metres_per(str(content["unit"]), str(path))
    scheme, points = str(content["scheme"]), content["points"]
    if isinstance(points, list):
        size = SCHEME_SIZES.get(scheme, len(points))
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
    order = sorted(seen)
    return validate_landmarks(
        Landmarks(
            np.array(order, np.int64), np.array([seen[i] for i in order], np.float64).reshape(-1, 3) * scale, scheme
        ),
        str(path),
    )


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


def _read_content(path: Path) -> dict[str, Any]:
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise LandmarkError(f"landmark file {path} does not exist", "a JSON file", "Check the path") from None
    except (OSError, DocumentError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise LandmarkError(
            f"landmark file {path} cannot be read ({reason})", "a readable file", "Check the path"
        ) from None
    try:
        content = parse_json(data)
    except DocumentError:
        content = None
    missing = {"scheme", "unit", "points"} - set(content if isinstance(content, dict) else ())
    if missing:
        known = _format_of(path, data, content)
        lacks = f" lacks {', '.join(sorted(missing))}" if isinstance(content, dict) else " is not such JSON"
        raise LandmarkError(
            f"landmark file {path} is {known}, which is not read" if known else f"landmark file {path}{lacks}",
            'JSON {"scheme": "ibug68", "unit": "mm", "points": {"30": [0.1, -2.0, 95.4], ...}}',
            "Write its points into such a file, each under its index in the scheme, in the scan's coordinates; "
            "docs/capture-format.md has the layout"
            if known
            else _LAYOUT,
        )
    unknown = sorted(set(content) - {"scheme", "unit", "points", *_NOTES})
    if unknown:
        raise LandmarkError(
            f"landmark file {path} has the unknown key {_shown(unknown[0])}",
            f"scheme, unit and points, and for notes {' or '.join(_NOTES)}",
            "Correct or remove it",
        )
    return dict(content)


def _format_of(path: Path, data: bytes, content: object) -> str:
    """Return what program a landmark file of another kind is of; empty if that is not known."""
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    keys = content if isinstance(content, dict) else ()
    kinds = {
        "a landmark file of menpo (LJSON)": "groups" in keys,
        "a markups file of 3D Slicer": "markups" in keys,
        "a bare JSON list, without scheme and unit": isinstance(content, list),
        "a list of picked points of MeshLab (.pp)": b"PickedPoints" in start,
        "a points file of iBUG or menpo (.pts)": start.startswith(b"version:") and b"n_points" in start,
        "a fiducial file of 3D Slicer (.fcsv)": b"Markups fiducial" in start or path.suffix.lower() == ".fcsv",
        "an array of numpy": start.startswith((b"\x93NUMPY", b"PK\x03\x04")),
        "a plain table of numbers": re.fullmatch(rb"[-+0-9.eE,; \t\r\n]+", start) is not None,
    }
    return next((kind for kind, fits in kinds.items() if fits), "")


def landmark_bytes(landmarks: Landmarks) -> bytes:
    """Return the content of the file :func:`read_landmarks` reads, in metres."""
    points = {
        str(int(i)): [round(float(x), 7) for x in p] for i, p in zip(landmarks.indices, landmarks.points, strict=True)
    }
    return (json.dumps({"scheme": landmarks.scheme, "unit": "m", "points": points}, indent=1) + "\n").encode()


def write_landmarks(landmarks: Landmarks, path: Path) -> None:
    """Write the file :func:`read_landmarks` reads, in metres."""
    path.write_bytes(landmark_bytes(landmarks))
