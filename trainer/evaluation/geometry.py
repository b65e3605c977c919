"""Shape of one view's surface after the benchmarks' alignments: scan to mesh, chamfer, normals.

*Scan to mesh* (NoW, Sanyal et al. 2019; FlowFace's "CD"): the prediction is aligned rigidly by seven key points, then
by iterated closest points over the face; the distance of each true point to the predicted surface is averaged.

*FaceScape* (Zhu et al. 2021): the prediction is scaled from the camera so that its depth agrees in the mean, both
surfaces are laid out on a cylinder around the head's vertical axis, and normals are compared where both are present.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation.alignment import apply, closest_point_fit, rigid_fit, spans_a_plane
from trainer.evaluation.cameras import Array, rigid_inverse, transform, unproject
from trainer.evaluation.correspondence import Queries, draw_queries
from trainer.evaluation.depth import MM_PER_M
from trainer.evaluation.frames import Truth, View
from trainer.evaluation.normals import angles_rad
from trainer.evaluation.regions import in_region
from trainer.evaluation.surface import MapSurface

_KEY_POINT_VISIBLE_M = 0.003
_CYLINDER_RADIUS_M = 0.08
# Heights and angles decide; the distance from the axis only tells a nostril's outside from the cheek behind it.
_RADIAL_WEIGHT = 0.1
_CYLINDER_GAP_M = 0.003


class GeometryMetrics:
    """Surface distances and normals over chosen views of one method.

    Parameters
    ----------
    key_points_m : (7, 3) or None
        Canonical coordinates; without them nothing is aligned or measured by scan to mesh.
    regions : mapping of name to labels
    points : int
        Drawn a view.
    """

    def __init__(
        self, key_points_m: Array | None, regions: Mapping[str, npt.NDArray[np.int64]], points: int = 600
    ) -> None:
        self._keys = key_points_m
        self._regions = regions
        self._count = points
        self._scan: dict[str, list[float]] = {name: [] for name in regions}
        self._scaled: list[float] = []
        self._back: list[float] = []
        self._normals: list[tuple[float, float, float]] = []
        self.skipped = 0

    def add(self, view: View, rng: np.random.Generator) -> None:
        """Add one view; left out and counted where no three key points show that span a plane."""
        face = view.truth.known & in_region(view.truth.region, self._regions["face"])
        queries = draw_queries(view.truth, self._regions, self._count, self._count // 10, rng)
        inside = {name: in_region(queries.of(view.truth.region), labels) for name, labels in self._regions.items()}
        inside["face"] &= queries.uniform
        measured = facescape_normals(view, _some(face, self._count, rng))
        if measured is not None:
            self._normals.append(measured)
        raw = self._scan_to_mesh(view, unproject(view.depth_m, view.truth.intrinsics), queries, inside["face"])
        scaled = self._scan_to_mesh(view, view.points, queries, inside["face"])
        if raw is None or scaled is None:
            self.skipped += 1
            return
        distances, transform_m, surface_points = raw
        for name, mask in inside.items():
            if mask.any():
                self._scan[name].append(float(distances[mask].mean() * MM_PER_M))
        self._scaled.append(float(scaled[0][inside["face"]].mean() * MM_PER_M))
        back = self._mesh_to_scan(view.truth, surface_points, face, transform_m, rng)
        self._back.append(float(back.mean() * MM_PER_M))

    def _scan_to_mesh(
        self, view: View, points: Array, queries: Queries, face: npt.NDArray[np.bool_]
    ) -> tuple[Array, Array, Array] | None:
        """Return each query's distance to the aligned prediction, the transform of truth onto it, and its points."""
        if self._keys is None or not face.any():
            return None
        truth = view.truth
        there = MapSurface(truth.canonical_m, truth.points, truth.known, truth.intrinsics).closest(self._keys)
        shown = there.distance_m <= _KEY_POINT_VISIBLE_M
        if not spans_a_plane(there.points[shown]):
            return None
        said = MapSurface(view.canonical_m, points, truth.surface, truth.intrinsics).closest(self._keys[shown])
        if not np.isfinite(said.points).all():
            return None
        surface = MapSurface(points, points, truth.surface, truth.intrinsics)
        true_points = queries.of(truth.points)
        matrix = closest_point_fit(true_points[face], surface, rigid_fit(there.points[shown], said.points))
        return surface.closest(apply(matrix, true_points)).distance_m, matrix, points

    def _mesh_to_scan(
        self, truth: Truth, points: Array, face: npt.NDArray[np.bool_], matrix: Array, rng: np.random.Generator
    ) -> Array:
        flat = np.flatnonzero(_some(face, self._count, rng))
        moved = apply(rigid_inverse(matrix), points.reshape(3, -1).T[flat])
        surface = MapSurface(truth.points, truth.points, truth.surface, truth.intrinsics)
        return surface.closest(moved).distance_m

    def figures(self) -> dict[str, float]:
        """Return the figures, each view counting once; NaN where nothing was measured."""
        scan = {
            ("scan_to_mesh_mm" if name == "face" else f"scan_to_mesh_{name}_mm"): _mean(values)
            for name, values in self._scan.items()
        }
        both = [(a + b) / 2 for a, b in zip(self._scan["face"], self._back, strict=True)]
        angle, encoded, complete = (_mean([m[k] for m in self._normals]) for k in range(3))
        return {
            **scan,
            "scan_to_mesh_scaled_mm": _mean(self._scaled),
            "chamfer_mm": _mean(both),
            "normal_error_rad": angle,
            "normal_error_facescape_rad": encoded,
            "facescape_complete": complete,
            "geometry_views": len(self._scaled),
            "geometry_skipped": self.skipped,
        }


def facescape_scale(depth_m: npt.NDArray[Any], true_depth_m: npt.NDArray[Any]) -> float:
    """Return the factor FaceScape applies from the camera: mean z / (mean z − δ), δ the ℓ1-best shift of depth.

    Parameters
    ----------
    depth_m, true_depth_m : (N,)
    """
    mean = float(np.mean(true_depth_m, dtype=np.float64))
    shift = float(np.median(np.asarray(true_depth_m, np.float64) - depth_m))
    return mean / max(mean - shift, 1e-9)


def facescape_normals(view: View, face: npt.NDArray[np.bool_]) -> tuple[float, float, float] | None:
    """Return the mean angle of normals in radians, the same as FaceScape encodes them, and the share compared.

    FaceScape's public code compares (n + 1) / ‖n + 1‖, the direction of a normal's colour, in head axes; published
    figures are of that kind and as a rule well below true angles. ``face`` (H, W) chooses the true points.
    """
    truth = view.truth
    on = truth.surface
    if not face.any():
        return None
    scale = facescape_scale(view.depth_m[on], truth.depth_m[on])
    head_from_camera = rigid_inverse(truth.head_to_world) @ rigid_inverse(truth.world_to_camera)
    true = transform(head_from_camera, truth.points)
    in_camera = unproject(view.depth_m, truth.intrinsics) * scale
    surface = MapSurface(cylinder(transform(head_from_camera, in_camera)), in_camera, on, truth.intrinsics)
    flat = np.flatnonzero(face)
    places = surface.closest(cylinder(true).reshape(3, -1).T[flat], neighbours=2)
    said = surface.normals(places)
    usable = (places.distance_m <= _CYLINDER_GAP_M) & said.any(1)
    if not usable.any():
        return None
    rotation = head_from_camera[:3, :3]
    stored = truth.normal.reshape(3, -1).T[flat[usable]].astype(np.float64) @ rotation.T
    normal = said[usable] @ rotation.T
    angle = angles_rad(normal, stored, axis=1)
    encoded = angles_rad(_encoded(normal), _encoded(stored), axis=1)
    return float(angle.mean()), float(encoded.mean()), float(usable.mean())


def cylinder(head_points: Array) -> Array:
    """Lay points (3, H, W) in head axes out around the y axis: angle × a head's radius, height, and a little radius."""
    x, y, z = head_points
    return np.stack([_CYLINDER_RADIUS_M * np.arctan2(x, z), y, _RADIAL_WEIGHT * np.hypot(x, z)])


def _some(mask: npt.NDArray[np.bool_], count: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return up to ``count`` of the pixels of a mask (H, W)."""
    chosen = np.zeros(mask.size, bool)
    chosen[rng.permutation(np.flatnonzero(mask))[:count]] = True
    return chosen.reshape(mask.shape)


def _encoded(normal: Array) -> Array:
    shifted = normal + 1
    return shifted / np.maximum(np.linalg.norm(shifted, axis=1, keepdims=True), 1e-12)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
