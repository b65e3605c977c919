"""A warp for the three-dimensional view of a page: quantised and thinned, in a file that is loaded when looked at."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.audit.warp_pictures import in_head_axes, known_template_vertices, scan_distance_mm
from datagen.common.arrays import F64
from datagen.common.files import atomic_write_bytes
from datagen.common.scales import DISTANCE_LIMIT_MM, TRUE_ERROR_LIMIT_MM, scale_levels
from datagen.geometry.space import MM_PER_M
from datagen.heads.base import HeadTemplate
from datagen.heads.regions import FACE_REGIONS, mask_of
from datagen.warp.result import Warp

# 30 bytes a vertex with its triangles: 600 kB, and 0.8 MB as text.
MOST_VERTICES = 20_000
_STEPS = 65535
TEMPLATE_PART = "template"


def data_script(name: str, content: Any) -> bytes:
    """Return a script that hands data to a page (``canonface`` of page.js); pages on a disk can load nothing else."""
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    # Text that is parsed as JSON is read twice as fast as a program's literal.
    return f"canonface({json.dumps(name)},JSON.parse({_quoted(text)}))\n".encode()


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def write_template(folder: Path, template: HeadTemplate) -> None:
    """Write what all scans of a report share: the neutral template, as ``data/template.js``."""
    canonical_mm = template.vertices * MM_PER_M
    content = _packed(template.vertices, template.faces, canonical_mm, {"region": template.regions})
    face = template.vertices[mask_of(template.regions, FACE_REGIONS)]
    content |= _focus(face)
    atomic_write_bytes(folder / "data" / f"{TEMPLATE_PART}.js", data_script(TEMPLATE_PART, content))


def write_scan(
    folder: Path,
    name: str,
    warp: Warp,
    template: HeadTemplate,
    true_error_mm: npt.NDArray[np.floating] | None = None,
    more: Mapping[str, tuple[F64, float]] = MappingProxyType({}),
    distance_mm: F64 | None = None,
) -> None:
    """Write a scan with what is known of its points, and the registered template, as ``data/<name>.js``.

    ``more`` are other values of the scan's points (N,), by name, each with the upper end of its scale;
    ``distance_mm`` (N,) is of :func:`datagen.audit.warp_pictures.scan_distance_mm`, where it is known already.
    """
    chosen, faces = thinned(warp.scan_vertices, warp.scan_faces, MOST_VERTICES)
    known = np.isfinite(warp.canonical[chosen]).all(axis=1)
    away = scan_distance_mm(warp, chosen) if distance_mm is None else distance_mm[chosen]
    distance = np.where(known, away, np.nan)
    levels = {
        "distance": scale_levels(distance, 0, DISTANCE_LIMIT_MM),
        "confidence": scale_levels(np.where(known, warp.confidence[chosen], np.nan), 0, 1),
        "region": warp.region[chosen],
    }
    if true_error_mm is not None:
        levels["error"] = scale_levels(np.asarray(true_error_mm, np.float64)[chosen], 0, TRUE_ERROR_LIMIT_MM)
    for key, (values, limit) in more.items():
        levels[key] = scale_levels(values[chosen], 0, limit)
    canonical_mm = warp.space.metres(warp.canonical[chosen]) * MM_PER_M
    scan = in_head_axes(warp, warp.scan_vertices)
    content: dict[str, Any] = {"scan": _packed(scan[chosen], faces, canonical_mm, levels)}
    coarse = known_template_vertices(warp, template)
    if coarse is not None:
        registered = in_head_axes(warp, coarse)
        content["registered"] = _quantised(registered)
        content |= _focus(registered[mask_of(template.regions, FACE_REGIONS)])
    else:
        content |= _focus(scan[chosen])
    atomic_write_bytes(folder / "data" / f"{name}.js", data_script(name, content))


def thinned(
    vertices: F64, faces: npt.NDArray[np.integer], most: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return which vertices (K,) to keep, ``most`` at most, and triangles (F, 3) between them: one a cell of a grid."""
    count = len(vertices)
    if count <= most:
        return np.arange(count), np.asarray(faces, np.int64)
    low = vertices.min(axis=0)
    # Of a surface, cells of twice the size hold four times the points.
    cell = float(np.ptp(vertices, axis=0).max()) / np.sqrt(most)
    while True:
        keys = np.floor((vertices - low) / cell).astype(np.int64)
        _, first, owner = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        if len(first) <= most:
            break
        cell *= max(1.05, np.sqrt(len(first) / most))
    corners = owner.reshape(-1)[np.asarray(faces, np.int64)].reshape(-1, 3)
    sides = corners != np.roll(corners, 1, axis=1)
    kept = corners[sides.all(axis=1)]
    return first.astype(np.int64), np.unique(kept, axis=0)


def _focus(face: F64) -> dict[str, Any]:
    low, high = np.percentile(face, [1, 99], axis=0)
    return {"centre": _plain((low + high) / 2), "radius": round(float(np.max(high - low)) * 0.62, 6)}


def _quantised(points: F64) -> dict[str, Any]:
    known: npt.NDArray[np.bool_] = np.asarray(np.isfinite(points).all(axis=1))
    inside = points[known] if known.any() else np.zeros((1, 3))
    low = inside.min(axis=0)
    step = np.maximum(np.ptp(inside, axis=0), 1e-9) / _STEPS
    # What is unknown lies at 0, far from all else that is drawn by coordinate; its colour says that it is unknown.
    scaled = np.rint((np.where(known[:, None], points, low) - low) / step).astype("<u2")
    return {"low": _plain(low), "step": [float(f"{s:.9g}") for s in step], "raw": _text(scaled)}


def _packed(
    vertices: F64, faces: npt.NDArray[np.integer], canonical_mm: F64, levels: dict[str, npt.NDArray[np.uint8]]
) -> dict[str, Any]:
    wide = len(vertices) > _STEPS
    return {
        "place": _quantised(np.asarray(vertices, np.float64)),
        "canonical": _quantised(np.asarray(canonical_mm, np.float64)),
        "faces": _text(np.asarray(faces).astype("<u4" if wide else "<u2")),
        "wide": wide,
        "levels": {name: _text(values) for name, values in levels.items()},
    }


def _text(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _plain(values: F64) -> list[float]:
    return [round(float(value), 6) for value in values]
