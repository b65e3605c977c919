"""Named facial landmarks, any subset of a scheme."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.documents import read_json
from datagen.common.errors import LandmarkError
from datagen.geometry.space import metres_per

SCHEME_SIZES = {"ibug68": 68}
MINIMUM_POINTS = 3


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
    """Read a landmark file: JSON with ``scheme``, ``unit`` and ``points`` (index → [x, y, z]).

    Raises
    ------
    LandmarkError
        If the file is missing, is not such JSON, or fails :func:`validate_landmarks`.
    """
    content = _read_content(path)
    scale = metres_per(str(content["unit"]), str(path))
    try:
        items = sorted((int(index), [float(x) for x in xyz]) for index, xyz in content["points"].items())
        points = np.array([xyz for _, xyz in items], np.float64).reshape(-1, 3) * scale
    except (AttributeError, TypeError, ValueError) as error:
        raise LandmarkError(
            f"landmark file {path}: points cannot be read ({error})",
            "an object of index → [x, y, z]",
            "See docs/capture-format.md for its layout",
        ) from None
    return validate_landmarks(
        Landmarks(np.array([index for index, _ in items], np.int64), points, str(content["scheme"])),
        str(path),
    )


def _read_content(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise LandmarkError(f"landmark file {path} does not exist", "a JSON file", "Check the path") from None
    except (OSError, ValueError) as error:
        raise LandmarkError(
            f"landmark file {path} cannot be read ({error})",
            "a JSON file",
            "See docs/capture-format.md for its layout",
        ) from None
    missing = {"scheme", "unit", "points"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise LandmarkError(
            f"landmark file {path} lacks {', '.join(sorted(missing))}",
            "the keys scheme, unit and points",
            "See docs/capture-format.md for its layout",
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
