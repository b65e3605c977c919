"""Holding the frame table against the maps: where a vertex is seen, the map has the vertex's own coordinate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.shards.faces import TemplateContents
from datagen.shards.plan import DatasetPlan
from datagen.shards.schema import decode_canonical, decode_depth

# Of a sample, to be held against its frame.
NEEDED = ("depth", "canonical", "confidence", "intrinsics", "world_to_camera", "head_to_world")
LARGEST_MEDIAN_MM = 0.5
# Along the skin's normal the map stands off the vertices by what the template is too smooth for: detail, and the noise
# of a sparse scan. That is no error of either, but this much of it would be another face.
LARGEST_HEIGHT_MM = 1.5
# In depth, between a vertex and the scan that it lies on: what is further away is hidden, or was never seen.
_SEEN_WITHIN_M = 4e-3
# Cosine between the skin's normal and the ray: on steep skin a small distance from the scan is many pixels.
_FACING = 0.5
_FEWEST = 30  # vertices: fewer tell nothing
_M_TO_MM = 1e3


def table_errors_mm(
    stored: Mapping[str, npt.NDArray[Any]],
    vertices_m: npt.NDArray[np.float32],
    template: TemplateContents,
    plan: DatasetPlan,
) -> npt.NDArray[np.float64]:
    """Return how far the canonical map is from each vertex that is seen in it.

    A vertex is seen where the four pixels around its projection have a canonical coordinate and its depth, and its skin
    faces the camera. The map is interpolated between these four.

    Parameters
    ----------
    stored : mapping of array name to stored values
        Of a sample, those of :data:`NEEDED`.
    vertices_m : (V, 3) float32
        Of its frame, metres in head axes.

    Returns
    -------
    (n, 2) float64
        Along the skin and across it, millimetres of canonical space, of the vertices that are seen.
    """
    pose = stored["world_to_camera"].astype(np.float64) @ stored["head_to_world"].astype(np.float64)
    points = vertices_m @ pose[:3, :3].T + pose[:3, 3]
    in_front = points[:, 2] > 0
    pixels = (points / np.where(in_front, points[:, 2], 1)[:, None]) @ stored["intrinsics"].astype(np.float64).T
    place = pixels[:, :2] - 0.5  # in units of the grid of pixel centres
    size = plan.resolution
    inside = in_front & (place >= 0).all(axis=1) & (place < size - 1).all(axis=1)
    seen = np.flatnonzero(inside & (_facing(points, template.faces) > _FACING))
    corner = place[seen].astype(np.int64)
    fraction = place[seen] - corner
    interpolated = np.zeros((len(seen), 3))
    fine = np.ones(len(seen), bool)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = corner[:, 0] + dx, corner[:, 1] + dy
        near = np.abs(decode_depth(stored["depth"][row, column], plan.depth_scale) - points[seen, 2]) < _SEEN_WITHIN_M
        fine &= (stored["confidence"][row, column] > 0) & near
        weight = np.abs(1 - dx - fraction[:, 0]) * np.abs(1 - dy - fraction[:, 1])
        interpolated += weight[:, None] * decode_canonical(stored["canonical"][:, row, column]).T
    half, centre = float(plan.space["half_extent"]), np.asarray(plan.space["centre"], np.float64)
    distance = interpolated[fine] * half + centre - template.vertices[seen[fine]]
    normal = _normals(template.vertices.astype(np.float64), template.faces)[seen[fine]]
    height = np.einsum("ni,ni->n", distance, normal)
    along = np.linalg.norm(distance - height[:, None] * normal, axis=1)
    return np.stack([along, np.abs(height)], axis=1) * _M_TO_MM


def _normals(points: npt.NDArray[np.float64], faces: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Return the unit normal of each vertex, (V, 3); zero where it has no area."""
    a, b, c = (points[faces[:, k]] for k in range(3))
    of_face = np.cross(b - a, c - a)
    normal = np.zeros_like(points)
    for k in range(3):
        np.add.at(normal, faces[:, k], of_face)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return np.asarray(normal / np.where(length > 0, length, 1))


def _facing(points: npt.NDArray[np.float64], faces: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Return the cosine between each vertex's normal and the way to the camera, which is the origin."""
    length = np.linalg.norm(points, axis=1)
    return np.asarray(-np.einsum("vi,vi->v", _normals(points, faces), points) / np.where(length > 0, length, 1))


def table_problem(errors_mm: npt.NDArray[np.float64]) -> str | None:
    """Say what is wrong with a sample's errors (n, 2), None if nothing is, or if too few vertices are seen to tell."""
    if len(errors_mm) < _FEWEST:
        return None
    along, height = np.median(errors_mm, axis=0)
    if along <= LARGEST_MEDIAN_MM and height <= LARGEST_HEIGHT_MM:
        return None
    return (
        f"the canonical map is {along:.2f} mm along the skin and {height:.2f} mm off it (medians of {len(errors_mm)} "
        f"vertices that are seen) from the vertices of its frame, at most {LARGEST_MEDIAN_MM} and {LARGEST_HEIGHT_MM} "
        "expected"
    )
