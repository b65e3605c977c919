"""Coloured point clouds as binary PLY."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt


def write_points(
    path: Path,
    points: npt.NDArray[np.floating],
    colours: npt.NDArray[np.uint8],
    normals: npt.NDArray[np.floating] | None = None,
    confidence: npt.NDArray[np.floating] | None = None,
) -> None:
    """Write points (N, 3) in metres with colours (N, 3), and normals (N, 3) and a confidence (N,) if given."""
    columns: list[tuple[str, str, npt.NDArray[np.generic]]] = [
        (axis, "<f4", points[:, k]) for k, axis in enumerate("xyz")
    ]
    if normals is not None:
        columns += [(f"n{axis}", "<f4", normals[:, k]) for k, axis in enumerate("xyz")]
    columns += [(name, "u1", colours[:, k]) for k, name in enumerate(("red", "green", "blue"))]
    if confidence is not None:
        columns.append(("confidence", "<f4", confidence))
    table = np.zeros(len(points), [(name, kind) for name, kind, _ in columns])
    for name, _, values in columns:
        table[name] = values
    kinds = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [f"property {kinds[kind]} {name}" for name, kind, _ in columns]
    path.write_bytes("\n".join([*header, "end_header", ""]).encode("ascii") + table.tobytes())
