"""PLY files, read by the layout their header declares: what carries surface is read or refused, never passed over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from datagen.common.errors import MeshError

_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
_TYPES |= {"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"}
_TYPES |= {f"{sign}int{8 * size}": f"{sign or 'i'}{size}" for sign in ("", "u") for size in (1, 2, 4, 8)}
_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_CORNERS = ("vertex_indices", "vertex_index")
# Of elements we know nothing of: words for pieces of surface. Others (edge, camera, material) have none to lose.
_SURFACE_WORDS = ("face", "tri", "poly", "quad", "cell", "strip", "patch", "fan", "tet", "grid")
_LONGEST_HEADER = 2**20

Corners = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
Column = npt.NDArray[Any] | Corners


class Shape(NamedTuple):
    """What a file of any kind holds of a surface or cloud.

    Attributes
    ----------
    vertices : (N, 3) float64
        In the file's unit.
    faces : (F, 3) int64
    normals : (N, 3) float64 or None
        As the file has them.
    """

    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int64]
    normals: npt.NDArray[np.float64] | None = None


def normals_of(columns: Mapping[str, Any], names: tuple[str, str, str]) -> npt.NDArray[np.float64] | None:
    """Return normals (N, 3) from columns of these names; None if one of them is not there."""
    found = [columns.get(name) for name in names]
    if not all(isinstance(values, np.ndarray) for values in found):
        return None
    return np.stack([np.asarray(values, np.float64) for values in found], axis=1)


@dataclass(frozen=True)
class _Property:
    """A number, or where ``count`` has a type a list of numbers."""

    name: str
    type: str
    count: str = ""


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: tuple[_Property, ...]

    @property
    def may_carry_surface(self) -> bool:
        lists = any(p.count and p.type[0] in "iu" for p in self.properties)
        return self.count > 0 and (lists or any(word in self.name.lower() for word in _SURFACE_WORDS))


def read_ply(path: Path, data: bytes) -> Shape:
    """Read vertices, their normals if there are any, and triangles; polygons and triangle strips become triangles.

    Raises
    ------
    MeshError
        If the file is not a complete PLY, or holds surface in a form that is not read.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    encoding, elements, body = _header(path, data)
    for element in elements:
        if element.name not in {"vertex", "face", "tristrips"} and element.may_carry_surface:
            raise MeshError(
                f"mesh {path} has {element.count} of the element {element.name!r}, which may hold surface",
                "faces or triangle strips (elements `face` and `tristrips`)",
                "Export it as triangles",
            )
    order = _FORMATS[encoding]
    if not order:
        # One way for all: text becomes the binary file in which every number is a double.
        body, order = _numbers(path, body), "<"
        elements = [replace(e, properties=tuple(_in_text(p) for p in e.properties)) for e in elements]
    columns: dict[str, dict[str, Column]] = {}
    offset = 0
    for element in elements:
        columns[element.name], offset = _columns(path, element, body, offset, order)
    if body[offset:].strip(b"\0\t\n\r "):
        raise MeshError(
            f"mesh {path} holds {len(body) - offset} more bytes than its header declares",
            "as many values as the header declares",
            "Export it again",
        )
    faces = np.concatenate([_polygons(path, columns.get("face", {})), _strips(path, columns.get("tristrips", {}))])
    vertex = columns.get("vertex", {})
    return Shape(_vertices(path, vertex), faces, normals_of(vertex, ("nx", "ny", "nz")))


def _header(path: Path, data: bytes) -> tuple[str, list[_Element], bytes]:
    if not data.startswith(b"ply") or data[3:4] not in (b"\n", b"\r", b" ", b"\t"):
        raise MeshError(f"mesh {path} does not start with 'ply'", "a PLY file", "Check what kind of file it is")
    # The first line shows how lines end; of a lone \r the next byte may already be data.
    first = data[:_LONGEST_HEADER].split(b"\n", 1)[0]
    ending = b"\n" if b"\r" not in first or (first.endswith(b"\r") and first.count(b"\r") == 1) else b"\r"
    encoding, elements, start = "", list[_Element](), 0
    while True:
        end = data.find(ending, start, _LONGEST_HEADER)
        if end < 0:
            raise MeshError(f"mesh {path} has no complete PLY header", "a line `end_header`", "Copy the file again")
        line, start = data[start:end].decode("latin-1"), end + 1
        words = line.split()
        try:
            match words:
                case ["end_header"]:
                    break
                case [] | ["ply"] | ["comment" | "obj_info", *_]:
                    pass
                case ["format", kind, _]:
                    encoding = {kind: kind for kind in _FORMATS}[kind]
                case ["element", name, count] if int(count) >= 0 and name not in {e.name for e in elements}:
                    elements.append(_Element(name, int(count), ()))
                case ["property", *kinds, name] if name not in {p.name for p in elements[-1].properties}:
                    found = _property(name, kinds)
                    last = elements[-1]
                    elements[-1] = _Element(last.name, last.count, (*last.properties, found))
                case _:
                    raise ValueError
        except (ValueError, KeyError, IndexError):
            raise MeshError(
                f"mesh {path}: the header's line {line.strip()[:60]!r} is not understood",
                "format, element and property lines as PLY has them, each name once",
                "Export it again",
            ) from None
    if not encoding:
        raise MeshError(f"mesh {path} does not say its format", f"one of {', '.join(_FORMATS)}", "Export it again")
    return encoding, elements, data[start:]


def _property(name: str, kinds: list[str]) -> _Property:
    match kinds:
        case [kind]:
            return _Property(name, _TYPES[kind])
        case ["list", count, kind] if _TYPES[count][0] in "iu":
            return _Property(name, _TYPES[kind], _TYPES[count])
    raise ValueError


def _in_text(kind: _Property) -> _Property:
    return _Property(kind.name, "f8", "f8" if kind.count else "")


def _numbers(path: Path, text: bytes) -> bytes:
    try:
        return np.array(text.split(), np.float64).astype("<f8").tobytes()
    except ValueError as error:
        raise MeshError(f"mesh {path} has a value that is no number ({error})", "numbers", "Export it again") from None


def _columns(path: Path, element: _Element, body: bytes, offset: int, order: str) -> tuple[dict[str, Column], int]:
    """Read one element: a number property as (N,), a list property as its sizes (N,) and all its values in a row."""
    if element.count == 0 or not element.properties:
        return {}, offset
    # Nearly always all lists are as long as the first record's: then the element is one array.
    sizes, _ = _record(path, element, body, offset, order)
    dtype = np.dtype(
        [
            field
            for k, (p, size) in enumerate(zip(element.properties, sizes, strict=True))
            for field in (
                [(f"#{k}", order + p.count), (f"{k}", order + p.type, (size,))]
                if p.count
                else [(f"{k}", order + p.type)]
            )
        ]
    )
    even = offset + element.count * dtype.itemsize <= len(body)
    if even:
        rows = np.frombuffer(body, dtype, element.count, offset)
        even = all((rows[f"#{k}"] == n).all() for k, n in enumerate(sizes) if element.properties[k].count)
    elif not any(p.count for p in element.properties):
        _truncated(path, element)
    if even:
        columns: dict[str, Column] = {}
        for k, (p, size) in enumerate(zip(element.properties, sizes, strict=True)):
            values = rows[f"{k}"]
            columns[p.name] = (np.full(element.count, size), _whole(values.ravel())) if p.count else values
        return columns, offset + element.count * dtype.itemsize
    return _uneven_columns(path, element, body, offset, order)


def _uneven_columns(
    path: Path, element: _Element, body: bytes, offset: int, order: str
) -> tuple[dict[str, Column], int]:
    starts: list[list[int]] = []
    lengths: list[list[int]] = []
    for _ in range(element.count):
        sizes, after = _record(path, element, body, offset, order)
        at = []
        for p, size in zip(element.properties, sizes, strict=True):
            offset += np.dtype(p.count).itemsize if p.count else 0
            at.append(offset)
            offset += size * np.dtype(p.type).itemsize
        assert offset == after
        starts.append(at)
        lengths.append(sizes)
    columns: dict[str, Column] = {}
    for k, p in enumerate(element.properties):
        parts = [np.frombuffer(body, order + p.type, n[k], s[k]) for s, n in zip(starts, lengths, strict=True)]
        values = np.concatenate(parts)
        columns[p.name] = (np.array([n[k] for n in lengths], np.int64), _whole(values)) if p.count else values
    return columns, offset


def _record(path: Path, element: _Element, body: bytes, offset: int, order: str) -> tuple[list[int], int]:
    """Return how many values each property of the record at ``offset`` has, and where the next record begins."""
    sizes = []
    for p in element.properties:
        size = 1
        if p.count:
            width = np.dtype(p.count).itemsize
            if offset + width > len(body):
                _truncated(path, element)
            size = int(_whole(np.frombuffer(body, order + p.count, 1, offset))[0])
            offset += width
        if size < 0 or offset + size * np.dtype(p.type).itemsize > len(body):
            _truncated(path, element)
        offset += size * np.dtype(p.type).itemsize
        sizes.append(size)
    return sizes, offset


def _truncated(path: Path, element: _Element) -> NoReturn:
    raise MeshError(
        f"mesh {path} is truncated: its header declares {element.count} of the element {element.name!r}, the file ends "
        "before them",
        "as many as the header declares",
        "Copy or export it again",
    )


def _whole(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return list values as integers; those of lists that are none (texture coordinates) are of no use here."""
    if values.dtype.kind == "f":
        # A float that is no index must not become one: it points outside every mesh.
        index = np.full(values.shape, np.iinfo(np.int64).min)
        whole = np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2.0**53)
        index[whole] = values[whole].astype(np.int64)
        return index
    return values.astype(np.int64)


def _vertices(path: Path, columns: dict[str, Column]) -> npt.NDArray[np.float64]:
    axes = [columns.get(axis) for axis in "xyz"]
    if columns and not all(isinstance(axis, np.ndarray) for axis in axes):
        raise MeshError(f"mesh {path} has vertices without x, y and z", "the properties x, y, z", "Export it again")
    return np.stack([np.asarray(axis, np.float64) for axis in axes], axis=1) if columns else np.zeros((0, 3))


def _corners(path: Path, columns: dict[str, Column], what: str) -> Corners:
    found = next((columns[name] for name in _CORNERS if name in columns), None)
    if columns and not isinstance(found, tuple):
        raise MeshError(
            f"mesh {path} has {what} with {', '.join(columns)}, which do not say their corners",
            f"a list {' or '.join(_CORNERS)}",
            "Export it as triangles",
        )
    return found if isinstance(found, tuple) else (np.zeros(0, np.int64), np.zeros(0, np.int64))


def _polygons(path: Path, columns: dict[str, Column]) -> npt.NDArray[np.int64]:
    sizes, corners = _corners(path, columns, "faces")
    if len(sizes) and sizes.min() < 3:
        raise MeshError(
            f"mesh {path}: face {int(sizes.argmin())} has {int(sizes.min())} corners", "at least 3", "Export it again"
        )
    return fans(sizes, corners)


def fans(sizes: npt.NDArray[np.int64], corners: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Split polygons into triangles around their first corner.

    Parameters
    ----------
    sizes : (P,) int64
        Corners of each polygon, 3 or more.
    corners : (sum of sizes,) int64

    Returns
    -------
    (F, 3) int64
        In the polygons' order.
    """
    triangles = sizes - 2
    first = np.repeat(np.cumsum(sizes) - sizes, triangles)
    k = np.arange(len(first)) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    return np.stack([corners[first], corners[first + k + 1], corners[first + k + 2]], axis=1)


def _strips(path: Path, columns: dict[str, Column]) -> npt.NDArray[np.int64]:
    sizes, corners = _corners(path, columns, "triangle strips")
    found = [np.zeros((0, 3), np.int64)]
    # -1 begins a new strip, also where the file's integers have no sign.
    restart = (corners == -1) | (corners == np.iinfo(np.uint32).max)
    ends = np.union1d(np.cumsum(sizes), np.flatnonzero(restart))
    for part in np.split(np.arange(len(corners)), ends):
        strip = corners[part[~restart[part]]]
        if len(strip) < 3:
            continue
        triangles = np.stack([strip[:-2], strip[1:-1], strip[2:]], axis=1)
        triangles[1::2] = triangles[1::2, [1, 0, 2]]
        # A corner named twice in a row turns or joins strips; such triangles have no area.
        found.append(triangles[(triangles != np.roll(triangles, 1, axis=1)).all(axis=1)])
    return np.concatenate(found)
