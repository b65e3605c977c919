"""Points that people marked or programs found, in the files of other programs: without scheme and unit."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from datagen.common.documents import DocumentError, parse_json
from datagen.common.errors import LandmarkError
from datagen.common.names import shown

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(nan|inf)", re.IGNORECASE)
_SPLIT = re.compile(r"[,;\s]+")
_FIX = "Export it again, or write its points into JSON; docs/capture-format.md has the layout"
_INDEX_NAMES = ("index", "id", "idx", "landmark", "name", "label", "point")


@dataclass(frozen=True)
class MarkedPoints:
    """Points of a file, in its order.

    Attributes
    ----------
    kind : str
        What program's file it is.
    points : (N, 2) or (N, 3) float64
        NaN for those that were not seen.
    labels : tuple of str, or None
        What the file calls them.
    rows_first : bool
        Whether 2-D points are (y, x), as menpo writes those of pictures.
    first_pixel : float or None
        Where 2-D points have the centre of the top-left pixel, where the kind of file fixes it.
    """

    kind: str
    points: npt.NDArray[np.float64]
    labels: tuple[str, ...] | None = None
    rows_first: bool = False
    first_pixel: float | None = None


def marked_points(path: Path, data: bytes) -> MarkedPoints | None:
    """Read the points of a file of another program; None if it is of no kind that is known.

    Parameters
    ----------
    path : Path
        For messages, and the suffix.
    data : bytes
        Its content.

    Raises
    ------
    LandmarkError
        If it is of a known kind, and broken.
    """
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] in (b"{", b"["):
        try:
            return _of_json(path, parse_json(data))
        except DocumentError:
            return None
    for fits, read in _READERS:
        if fits(path, start):
            return read(path, data)
    return None


def _of_json(path: Path, content: Any) -> MarkedPoints | None:
    if isinstance(content, list):
        # face-alignment gives a list of faces.
        one_face = len(content) == 1 and _depth(content) == 3
        return MarkedPoints("a JSON list", _array(path, content[0] if one_face else content))
    groups = content.get("groups") if "groups" in content else {"LJSON": content} if "landmarks" in content else None
    if isinstance(groups, dict):
        return _of_ljson(path, groups)
    if "markups" in content:
        return _of_markups(path, content["markups"])
    points = content.get("points")
    if isinstance(points, dict):
        return MarkedPoints("a JSON object", _array(path, list(points.values())), tuple(map(str, points)))
    return MarkedPoints("a JSON object", _array(path, points)) if isinstance(points, list) else None


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth


def _of_ljson(path: Path, groups: dict[str, Any]) -> MarkedPoints:
    kind = "a landmark file of menpo (LJSON)"
    if len(groups) != 1:
        raise LandmarkError(f"{path} has {len(groups)} groups of landmarks", "one", f"Keep one of them. {_FIX}")
    group = next(iter(groups.values()))
    landmarks = group.get("landmarks") if isinstance(group, dict) else None
    points = landmarks.get("points") if isinstance(landmarks, dict) else landmarks
    if isinstance(points, list) and points and isinstance(points[0], dict):  # of its first version
        points = [point.get("point") for point in points]
    return MarkedPoints(kind, _array(path, points), rows_first=True)


def _of_markups(path: Path, markups: Any) -> MarkedPoints:
    kind = "a markups file of 3D Slicer"
    points, labels, system = list[Any](), list[str](), "LPS"
    for markup in markups if isinstance(markups, list) else []:
        system = str(markup.get("coordinateSystem", "LPS")).upper()
        for one in markup.get("controlPoints") or []:
            seen = one.get("positionStatus", "defined") == "defined"
            points.append(one.get("position") if seen else None)
            labels.append(str(one.get("label", "")))
    found = _array(path, points)
    return MarkedPoints(kind, _in_lps(path, found, system), tuple(labels))


def _in_lps(path: Path, points: npt.NDArray[np.float64], system: str) -> npt.NDArray[np.float64]:
    """Return points in the axes of the mesh file: 3D Slicer takes those of meshes for LPS, unless they say RAS."""
    if system in {"LPS", "1"}:
        return points
    if system in {"RAS", "0"}:
        return points * np.array([-1.0, -1.0, 1.0])
    raise LandmarkError(f"{path} has the coordinate system {shown(system)}", "LPS or RAS", _FIX)


def _of_picked_points(path: Path, data: bytes) -> MarkedPoints:
    kind = "a list of picked points of MeshLab (.pp)"
    try:
        if b"<!ENTITY" in data:
            raise ValueError("it defines entities")
        root = ElementTree.fromstring(data)
        points = [
            None if one.get("active") == "0" else [float(one.attrib[axis]) for axis in "xyz"]
            for one in root.iter("point")
        ]
    except (ElementTree.ParseError, ValueError, KeyError) as error:
        raise LandmarkError(f"{path}, {kind}, cannot be read ({error})", "points with x, y and z", _FIX) from None
    return MarkedPoints(kind, _array(path, points), tuple(str(one.get("name", "")) for one in root.iter("point")))


def _of_pts(path: Path, data: bytes) -> MarkedPoints:
    kind = "a points file of iBUG or menpo (.pts)"
    text = data.decode("utf-8", "replace")
    declared = re.search(r"n_points:\s*(\d+)", text)
    body = re.search(r"\{(.*)\}", text, re.DOTALL)
    lines = [line.split() for line in body[1].splitlines() if line.strip()] if body else []
    if declared is None or len(lines) != int(declared[1]):
        raise LandmarkError(f"{path}, {kind}, has {len(lines)} points", "n_points: N and { N lines }", _FIX)
    return MarkedPoints(kind, _numbers(path, lines), first_pixel=1.0)


def _of_fcsv(path: Path, data: bytes) -> MarkedPoints:
    kind = "a fiducial file of 3D Slicer (.fcsv)"
    text = data.decode("utf-8", "replace")
    system = re.search(r"CoordinateSystem\s*=\s*(\S+)", text)
    rows = [line.split(",") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if any(len(row) < 4 for row in rows):
        raise LandmarkError(f"{path}, {kind}, has a line of less than 4 values", "id,x,y,z,…,label,…", _FIX)
    labels = tuple(row[11].strip() if len(row) > 11 else row[0].strip() for row in rows)
    points = _numbers(path, [row[1:4] for row in rows])
    # Versions before 4.11 wrote RAS without a word, or its number.
    return MarkedPoints(kind, _in_lps(path, points, system[1].upper() if system else "RAS"), labels)


def _of_numpy(path: Path, data: bytes) -> MarkedPoints:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(array, np.ndarray):
            names = array.files
            array = array[names[0]] if len(names) == 1 else array["points"]
    except Exception as error:  # numpy and zipfile raise many kinds on broken or other files
        raise LandmarkError(
            f"{path}, an array of numpy, cannot be read ({error})", "one array (N, 3), or `points`", _FIX
        ) from None
    array = array[0] if array.ndim == 3 and len(array) == 1 else array
    if array.dtype.kind not in "iuf" or array.ndim != 2:
        raise LandmarkError(
            f"{path} holds an array of shape {array.shape}, {array.dtype}", "numbers of shape (N, 3) or (N, 2)", _FIX
        )
    return MarkedPoints("an array of numpy", _two_or_three(path, array.astype(np.float64)))


def _of_table(path: Path, data: bytes) -> MarkedPoints:
    """Read lines of coordinates, with a number or a name before or after them, and a line that names the columns."""
    kind = "a plain table of numbers"
    rows = [
        [word for word in _SPLIT.split(line.strip()) if word]
        for line in data.decode("utf-8-sig", "replace").splitlines()
        if line.strip() and not line.lstrip().startswith(("#", "%", "//"))
    ]
    columns = [word.strip('"').lower() for word in rows[0]] if rows else []
    if {"x", "y"} <= set(columns):
        rows = rows[1:]
        axes = [columns.index(axis) for axis in "xyz" if axis in columns]
        name = next((columns.index(word) for word in _INDEX_NAMES if word in columns), None)
        if any(len(row) != len(columns) for row in rows):
            raise LandmarkError(f"{path}, {kind}, has lines of other lengths than its first", "as many values", _FIX)
        labels = None if name is None else tuple(row[name].strip('"') for row in rows)
        return MarkedPoints(kind, _numbers(path, [[row[axis] for axis in axes] for row in rows]), labels)
    if len(rows) > 1 and rows[0] == [str(len(rows) - 1)]:
        rows = rows[1:]
    names = [[word for word in row if not _NUMBER.fullmatch(word)] for row in rows]
    values = [[word for word in row if _NUMBER.fullmatch(word)] for row in rows]
    if all(len(name) == 1 for name in names):
        return MarkedPoints(kind, _numbers(path, values), tuple(name[0].strip('"') for name in names))
    if any(names):
        raise LandmarkError(f"{path}, {kind}, has a line {shown(' '.join(rows[0]))}", "x y z, and a name or none", _FIX)
    if values and all(len(row) == 4 and row[0].isdigit() for row in values):
        return MarkedPoints(kind, _numbers(path, [row[1:] for row in values]), tuple(row[0] for row in values))
    return MarkedPoints(kind, _numbers(path, values))


def _numbers(path: Path, rows: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
    try:
        return _array(path, [[float(word) for word in row] for row in rows])
    except ValueError as error:
        raise LandmarkError(f"{path} has a value that is no number ({error})", "numbers", _FIX) from None


def _array(path: Path, rows: Any) -> npt.NDArray[np.float64]:
    """Return rows of two or three numbers; None, or a row of None, stands for a point that was not seen."""
    listed = rows if isinstance(rows, list) else []
    width = next((len(row) for row in listed if isinstance(row, list) and row), 0)
    filled = [_row(row, width) for row in listed]
    if not filled or width not in {2, 3} or any(row is None for row in filled):
        wrong = next((rows[k] for k, row in enumerate(filled) if row is None), rows)
        raise LandmarkError(
            f"{path} has {shown(wrong)} for a point", "two or three numbers a point, null for one not seen", _FIX
        )
    return _two_or_three(path, np.array(filled, np.float64))


def _row(row: Any, width: int) -> list[float] | None:
    if row is None:
        return [math.nan] * width
    if not isinstance(row, list) or len(row) != width:
        return None
    values = [math.nan if value is None else value for value in row]
    return [float(value) for value in values] if all(type(value) in (int, float) for value in values) else None


def _two_or_three(path: Path, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if points.shape[1] not in {2, 3} or np.isinf(points).any():
        raise LandmarkError(
            f"{path} has points of {points.shape[1]} numbers, or infinite ones", "finite (N, 3) or (N, 2)", _FIX
        )
    return points


_Fits = Callable[[Path, bytes], bool]
_READERS: tuple[tuple[_Fits, Callable[[Path, bytes], MarkedPoints]], ...] = (
    (lambda _, start: b"PickedPoints" in start, _of_picked_points),
    (lambda _, start: start.startswith(b"version:") and b"n_points" in start, _of_pts),
    (lambda path, start: b"Markups fiducial" in start or path.suffix.lower() == ".fcsv", _of_fcsv),
    (lambda _, start: start.startswith((b"\x93NUMPY", b"PK\x03\x04")), _of_numpy),
    (lambda path, _: path.suffix.lower() in {".txt", ".csv", ".lmk", ".xyz", ".tsv", ".dat"}, _of_table),
    (lambda _, start: re.fullmatch(rb"[-+0-9.eE,; \t\r\n]+", start) is not None, _of_table),
)
