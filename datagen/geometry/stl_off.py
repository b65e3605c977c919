"""STL and OFF files: triangles and polygons without anything else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen.common.errors import MeshError
from datagen.geometry.ply import Shape, fans

_STL_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_STL_HEAD = 84
_VERTEX = re.compile(rb"^\s*vertex\s+(\S+)\s+(\S+)\s+(\S+)\s*$", re.MULTILINE | re.IGNORECASE)
_FACET = re.compile(rb"^\s*facet\b", re.MULTILINE | re.IGNORECASE)
_OFF_HEAD = re.compile(r"(ST)?(C)?(N)?(4)?(n)?OFF")
_FIX = "Copy or export it again"


def read_stl(path: Path, data: bytes) -> Shape:
    """Read a binary or ASCII STL; each triangle has vertices of its own, as the format has them.

    Raises
    ------
    MeshError
        If the file is truncated or no STL.
    """
    count = int.from_bytes(data[80:_STL_HEAD], "little")
    whole = len(data) == _STL_HEAD + count * _STL_RECORD.itemsize and len(data) >= _STL_HEAD
    # Some binary files begin with "solid" too: what counts is their length.
    if data[:5].lower() == b"solid" and not whole:
        found = _VERTEX.findall(data)
        facets = len(_FACET.findall(data))
        if len(found) != 3 * facets or b"endsolid" not in data.lower():
            raise MeshError(
                f"mesh {path} has {facets} facets, {len(found)} vertices and "
                f"{'an' if b'endsolid' in data.lower() else 'no'} end",
                "three vertices a facet, and `endsolid`",
                _FIX,
            )
        return _soup(_numbers(path, [word for vertex in found for word in vertex]).reshape(-1, 3))
    if not whole:
        raise MeshError(
            f"mesh {path} holds {len(data)} bytes, where its header declares {count} triangles",
            f"{_STL_HEAD + count * _STL_RECORD.itemsize} bytes",
            _FIX,
        )
    return _soup(np.frombuffer(data, _STL_RECORD, count, _STL_HEAD)["corners"].astype(np.float64).reshape(-1, 3))


def _soup(corners: npt.NDArray[np.float64]) -> Shape:
    return Shape(corners, np.arange(len(corners), dtype=np.int64).reshape(-1, 3))


def read_off(path: Path, data: bytes) -> Shape:
    """Read an ASCII OFF, with colours, normals and texture coordinates passed over; polygons become triangles.

    Raises
    ------
    MeshError
        If the file is truncated, or of four or any number of dimensions.
    """
    lines = [text for line in data.decode("latin-1").splitlines() if (text := line.partition("#")[0].strip())]
    head = _OFF_HEAD.match(lines[0]) if lines else None
    if head is None or head[4] or head[5] or "BINARY" in lines[0]:
        raise MeshError(
            f"mesh {path} begins with {(lines or [''])[0][:40]!r}", "OFF, COFF or NOFF as text", "Export it again"
        )
    # The counts may stand on the first line too.
    rest = lines[0][head.end() :].strip()
    lines = ([rest] if rest else []) + lines[1:]
    counts = _numbers(path, lines[0].split()[:2] if lines else []).astype(np.int64)
    if len(counts) < 2 or counts.min() < 0 or len(lines) < 1 + counts.sum():
        raise MeshError(
            f"mesh {path} is truncated: it declares {counts.tolist()} vertices and faces, "
            f"and has {len(lines) - 1} lines",
            "a line for each vertex and each face",
            _FIX,
        )
    vertices, faces = lines[1 : 1 + counts[0]], lines[1 + counts[0] : 1 + counts.sum()]
    points = _numbers(path, [word for line in vertices for word in (line.split() + [""] * 3)[:3]])
    words = [line.split() for line in faces]
    sizes = _numbers(path, [line[0] for line in words]).astype(np.int64)
    if any(size < 3 or len(line) <= size for size, line in zip(sizes, words, strict=True)):
        raise MeshError(f"mesh {path} has a face without its corners", "`n a b c …`, with n of 3 or more", _FIX)
    corners = _numbers(path, [word for line, size in zip(words, sizes, strict=True) for word in line[1 : 1 + size]])
    return Shape(points.reshape(-1, 3), fans(sizes, corners.astype(np.int64)))


def _numbers(path: Path, words: list[bytes] | list[str]) -> npt.NDArray[np.float64]:
    try:
        return np.array(words, np.float64) if words else np.zeros(0)
    except ValueError as error:
        raise MeshError(f"mesh {path} has a value that is no number ({error})", "numbers", _FIX) from None
