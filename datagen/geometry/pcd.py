"""Point clouds of PCL and Open3D (.pcd): text, binary and compressed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.errors import MeshError
from datagen.geometry.ply import Shape, normals_of

_KINDS = {"F": "f", "I": "i", "U": "u"}
_SIZES = {"F": (4, 8), "I": (1, 2, 4, 8), "U": (1, 2, 4, 8)}
_DATA = ("ascii", "binary", "binary_compressed")
_KEYS = ("VERSION", "FIELDS", "COLUMNS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
_LONGEST_HEADER = 1 << 16
_FIX = "Export it again"


@dataclass(frozen=True)
class _Field:
    name: str
    type: str
    count: int


def read_pcd(path: Path, data: bytes) -> Shape:
    """Read the points of a cloud, and their normals if it has any; NaN stands for no point, which is left out.

    Raises
    ------
    MeshError
        If the file is not a complete PCD with x, y and z.
    """
    fields, points, kind, body = _header(path, data)
    columns = {"ascii": _of_text, "binary": _of_rows, "binary_compressed": _of_columns}[kind](
        path, fields, points, body
    )
    if not {"x", "y", "z"} <= columns.keys():
        raise MeshError(
            f"cloud {path} has the fields {', '.join(columns)}", "x, y and z, one number each", "Export it as points"
        )
    vertices = np.stack([columns[axis].astype(np.float64) for axis in "xyz"], axis=1)
    there = ~np.isnan(vertices).any(axis=1)
    normals = normals_of(columns, ("normal_x", "normal_y", "normal_z"))
    return Shape(vertices[there], np.zeros((0, 3), np.int64), None if normals is None else normals[there])


def _header(path: Path, data: bytes) -> tuple[list[_Field], int, str, bytes]:
    entries: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in entries:
        end = data.find(b"\n", start, _LONGEST_HEADER)
        line = data[start : end if end >= 0 else start].decode("latin-1").strip()
        start = end + 1
        words = line.split()
        if end < 0 or (words and not line.startswith("#") and words[0] not in _KEYS):
            raise MeshError(
                f"cloud {path} has no complete PCD header" + (f": {line[:60]!r} is not understood" if words else ""),
                "lines FIELDS, SIZE, TYPE, COUNT, WIDTH, HEIGHT, POINTS, DATA",
                "Check what kind of file it is, or export it again",
            )
        if words and not line.startswith("#"):
            entries[words[0]] = words[1:]
    try:
        names = entries.get("FIELDS") or entries["COLUMNS"]
        sizes, kinds = [int(word) for word in entries["SIZE"]], entries["TYPE"]
        counts = [int(word) for word in entries.get("COUNT", ["1"] * len(names))]
        points = int(entries["POINTS"][0]) if "POINTS" in entries else _product(entries)
        (encoding,) = entries["DATA"]
        fields = [
            _Field(name, f"<{_KINDS[kind]}{size}", count)
            for name, kind, size, count in zip(names, kinds, sizes, counts, strict=True)
        ]
        known = all(size in _SIZES[kind] for kind, size in zip(kinds, sizes, strict=True))
        if not known or encoding not in _DATA or points < 0 or min(counts, default=0) < 0:
            raise ValueError
    except (ValueError, KeyError, IndexError):
        raise MeshError(
            f"the header of cloud {path} is not understood",
            f"as many of FIELDS, SIZE, TYPE and COUNT, a number of POINTS, and DATA {', '.join(_DATA)}",
            _FIX,
        ) from None
    return fields, points, encoding, data[start:]


def _product(entries: dict[str, list[str]]) -> int:
    return int(entries["WIDTH"][0]) * int(entries["HEIGHT"][0])


def _of_text(path: Path, fields: list[_Field], points: int, body: bytes) -> dict[str, npt.NDArray[Any]]:
    width = sum(field.count for field in fields)
    try:
        values = np.array(body.split(), np.float64)
    except ValueError as error:
        raise MeshError(f"cloud {path} has a value that is no number ({error})", "numbers", _FIX) from None
    if values.size != width * points:
        raise _other_size(path, f"{values.size} numbers", f"{points} points of {width}")
    return _singles(fields, np.cumsum([0, *(field.count for field in fields)]), values.reshape(points, width))


def _singles(fields: list[_Field], places: npt.NDArray[Any], rows: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    return {field.name: rows[:, place] for field, place in zip(fields, places, strict=False) if field.count == 1}


def _of_rows(path: Path, fields: list[_Field], points: int, body: bytes) -> dict[str, npt.NDArray[Any]]:
    # Paddings all have the same name.
    dtype = np.dtype([(str(k), field.type, (field.count,)) for k, field in enumerate(fields)])
    if len(body) < points * dtype.itemsize:
        raise _other_size(path, f"{len(body)} bytes", f"{points} points of {dtype.itemsize}")
    rows = np.frombuffer(body, dtype, points)
    return {field.name: rows[str(k)][:, 0] for k, field in enumerate(fields) if field.count == 1}


def _of_columns(path: Path, fields: list[_Field], points: int, body: bytes) -> dict[str, npt.NDArray[Any]]:
    if len(body) < 8:
        raise _other_size(path, f"{len(body)} bytes", "the sizes of its data")
    packed, size = (int(word) for word in np.frombuffer(body, "<u4", 2))
    wanted = points * sum(field.count * np.dtype(field.type).itemsize for field in fields)
    if len(body) < 8 + packed or size != wanted:
        raise _other_size(path, f"{len(body) - 8} bytes of {packed}, unpacked {size}", f"{wanted} unpacked")
    data = _unpacked(path, body[8 : 8 + packed], size)
    columns, offset = dict[str, npt.NDArray[Any]](), 0
    for field in fields:
        values = np.frombuffer(data, field.type, points * field.count, offset)
        offset += values.nbytes
        if field.count == 1:
            columns[field.name] = values
    return columns


def _unpacked(path: Path, packed: bytes, size: int) -> bytes:
    """Undo LZF: runs of bytes as they are, and runs that repeat what came before."""
    out, at = bytearray(), 0
    try:
        while at < len(packed) and len(out) <= size:
            control = packed[at]
            at += 1
            if control < 32:
                out += packed[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += packed[at]
                at += 1
            back = ((control & 31) << 8) + packed[at] + 1
            at += 1
            start = len(out) - back
            if start < 0:
                raise IndexError
            length += 2
            # It may reach into what it writes itself.
            piece = bytes(out[start : start + length])
            out += (piece * (length // len(piece) + 1))[:length]
    except IndexError:
        out.clear()
    if len(out) != size:
        raise MeshError(f"the compressed data of cloud {path} is damaged", f"{size} bytes", "Copy the file again")
    return bytes(out)


def _other_size(path: Path, found: str, expected: str) -> MeshError:
    return MeshError(f"cloud {path} is truncated or has another layout: {found}", expected, "Copy or export it again")
