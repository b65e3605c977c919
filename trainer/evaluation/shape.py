"""Shape of one view's surface after the benchmarks' alignments: scan to mesh, chamfer, normals.

*Scan to mesh* (NoW, Sanyal et al. 2019; FlowFace's "CD"): the prediction is aligned rigidly by seven key points, then
by iterated closest points over the face; the distance of each true point to the predicted surface is averaged.

*FaceScape* (Zhu et al. 2021): the prediction is scaled from the camera so that its depth agrees in the mean, both
surfaces are laid out on a cylinder around the head's vertical axis, and normals are compared where both are present.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from datagen.shards import Dataset
from datagen.shards.meshes import MaterialPoints
from trainer.evaluation.cameras import rigid_inverse, transform, unproject
from trainer.evaluation.canonical import in_region
from trainer.evaluation.correspondence import Queries, draw_queries
from trainer.evaluation.depth import MM_PER_M
from trainer.evaluation.frames import Truth, View
from trainer.evaluation.normals import angles_rad
from trainer.evaluation.surface import MapSurface

_EYES = (("right_eye", "right_eyeball"), ("left_eye", "left_eyeball"))
_LIPS = ("upper_lip", "lower_lip")
_END_SHARE = 0.01  # a corner is the mean of the outermost hundredth of its region
_OFF_LINE_M = 0.005
_ITERATIONS = 20
_POINTS = 250
_KEPT_SHARE = 0.9
_STOP_M = 1e-7
_TOUCHING_M = 1e-7


# NoW's seven of the 68 landmarks (iBUG): the ends of both eyes, the point below the nose, the ends of the lips.
KEY_LANDMARKS = (36, 39, 42, 45, 33, 48, 54)


def landmark_key_points(dataset: Dataset) -> F64 | None:
    """Return the canonical coordinates of the seven key points, (7, 3) metres: landmarks of the dataset's template.

    None without a frame table, or with a template that has not the 68.
    """
    if not dataset.plan.faces:
        return None
    template = dataset.template
    landmarks = MaterialPoints.landmarks(template)
    if len(landmarks) <= max(KEY_LANDMARKS):
        return None
    centre = np.asarray(dataset.attrs["space"].get("centre", (0.0, 0.0, 0.0)), np.float64)
    return landmarks.on(template.vertices, template.faces)[list(KEY_LANDMARKS)] - centre


def key_points(canonical_m: npt.NDArray[Any], region: npt.NDArray[Any], labels: Mapping[str, int]) -> F64 | None:
    """Return the same (7, 3) of a dataset without landmarks, from points (N, 3) and labels (N,).

    They are the ends of its regions: two of each eye and of the lips along x, and the lower end of the nose, in the
    middle half of its width. None if the dataset has no such regions, or the points show none of one.
    """
    found: list[F64] = []
    for names in (*_EYES, _LIPS):
        points = canonical_m[np.isin(region, [labels[n] for n in names if n in labels])]
        if not len(points):
            return None
        found += [_end(points, -points[:, 0]), _end(points, points[:, 0])]
    nose = canonical_m[region == labels.get("nose", -1)]
    if not len(nose):
        return None
    left, right = nose[:, 0].min(), nose[:, 0].max()
    middle = nose[np.abs(nose[:, 0] - (left + right) / 2) <= (right - left) / 4]
    return np.stack([*found, _end(middle, -middle[:, 1])])


def _end(points: npt.NDArray[Any], along: npt.NDArray[Any]) -> F64:
    count = max(round(_END_SHARE * len(points)), 1)
    return points[np.argpartition(-along, count - 1)[:count]].mean(0, dtype=np.float64)


def spans_a_plane(points: npt.NDArray[Any]) -> bool:
    """Whether points (N, 3) determine a rigid motion: three or more, not within half a centimetre of one line."""
    if len(points) < 3:
        return False
    return bool(np.linalg.svd(points - points.mean(0), compute_uv=False)[1] > _OFF_LINE_M)


def rigid_fit(source: npt.NDArray[Any], target: npt.NDArray[Any]) -> F64:
    """Return the 4×4 rotation and translation that takes points (N, 3) nearest to others (N, 3) (Kabsch 1976)."""
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    ca, cb = a.mean(0), b.mean(0)
    u, _, vt = np.linalg.svd((b - cb).T @ (a - ca))
    turn = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    matrix = np.eye(4)
    matrix[:3, :3] = u @ turn @ vt
    matrix[:3, 3] = cb - matrix[:3, :3] @ ca
    return matrix


def apply(matrix: F64, points: npt.NDArray[Any]) -> F64:
    """Apply a 4×4 transform to points (N, 3)."""
    return np.asarray(points, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


class NearestPlaces(Protocol):
    """Places on a surface nearest to points: where, and how far."""

    @property
    def points(self) -> F64: ...
    @property
    def distance_m(self) -> F64: ...


_Places = TypeVar("_Places", bound=NearestPlaces)


class SearchedSurface(Protocol[_Places]):
    """A surface that points search for their nearest place."""

    def closest(self, points: F64, /, *, neighbours: int) -> _Places: ...
    def normals(self, places: _Places, /) -> F64: ...


def closest_point_fit(points: npt.NDArray[Any], surface: SearchedSurface[_Places], start: F64) -> F64:
    """Refine the rigid transform of points (N, 3) onto a surface, which is searched by camera-axes points.

    Each round finds the closest places of some hundreds of the points, leaves out the farthest tenth, and takes the
    small motion that shortens the rest's distances most: towards the plane of the triangle where the place is inside
    one (Chen and Medioni 1992), towards the place itself at a rim. The best round's transform is returned.
    """
    points = points[:: max(len(points) // _POINTS, 1)]
    matrix, best, least = start, start, np.inf
    for _ in range(_ITERATIONS):
        moving = apply(matrix, points)
        places = surface.closest(moving, neighbours=1)
        distance = places.distance_m
        near = distance <= np.quantile(distance, _KEPT_SHARE)
        if near.sum() < 3 or not np.isfinite(distance[near]).all():
            break
        gap = float(distance[near].mean())
        if gap > least - _STOP_M:
            return best if gap > least else matrix
        best, least = matrix, gap
        towards = (moving - places.points) / np.maximum(distance, 1e-30)[:, None]
        towards = np.where(distance[:, None] > _TOUCHING_M, towards, surface.normals(places))
        matrix = _shortening(moving[near], places.points[near], towards[near]) @ matrix
    return best


def _shortening(points: F64, places: F64, along: F64) -> F64:
    """Return the 4×4 motion that is best for Σ (n · (p + ω × p + t − q))², made a rotation again."""
    centre = points.mean(0)
    a = np.concatenate([np.cross(points - centre, along), along], axis=1)
    # What the distances leave free (a ball may turn) is not moved.
    motion = np.linalg.lstsq(a, (along * (places - points)).sum(1), rcond=1e-4)[0]
    x, y, z = motion[:3]
    turned = (points - centre) @ np.array([[1, z, -y], [-z, 1, x], [y, -x, 1]])
    return rigid_fit(points, turned + centre + motion[3:])


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
        Drawn per view.
    """

    def __init__(
        self, key_points_m: F64 | None, regions: Mapping[str, npt.NDArray[np.int64]], points: int = 600
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
        self, view: View, points: F64, queries: Queries, face: npt.NDArray[np.bool_]
    ) -> tuple[F64, F64, F64] | None:
        """Return each query's distance to the aligned prediction, the transform of truth onto it, and its points."""
        if self._keys is None or not face.any():
            return None
        truth = view.truth
        there = MapSurface(truth.canonical_m, truth.points, truth.known, truth.intrinsics).closest(self._keys)
        shown = there.distance_m <= _KEY_POINT_VISIBLE_M
        if not spans_a_plane(there.points[shown]):
            return None
        if view.space == "shared":
            said = MapSurface(view.canonical_m, points, truth.surface, truth.intrinsics).closest(self._keys[shown])
            places = said.points
        else:
            # Nobody knows where they are in another space: at the pixels that show them.
            flat = points.reshape(3, -1)
            places = np.einsum("nk,cnk->nc", there.weights[shown], flat[:, there.corners[shown]])
        if not np.isfinite(places).all():
            return None
        surface = MapSurface(points, points, truth.surface, truth.intrinsics)
        true_points = queries.of(truth.points)
        matrix = closest_point_fit(true_points[face], surface, rigid_fit(there.points[shown], places))
        return surface.closest(apply(matrix, true_points)).distance_m, matrix, points

    def _mesh_to_scan(
        self, truth: Truth, points: F64, face: npt.NDArray[np.bool_], matrix: F64, rng: np.random.Generator
    ) -> F64:
        flat = np.flatnonzero(_some(face, self._count, rng))
        moved = apply(rigid_inverse(matrix), points.reshape(3, -1).T[flat])
        surface = MapSurface(truth.points, truth.points, truth.surface, truth.intrinsics)
        return surface.closest(moved).distance_m

    def metrics(self) -> dict[str, float]:
        """Return the metrics, each view counting once; NaN where nothing was measured."""
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
    metrics are of that kind and as a rule well below true angles. ``face`` (H, W) chooses the true points.
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


def cylinder(head_points: F64) -> F64:
    """Lay points (3, H, W) in head axes out around the y axis: angle × a head's radius, height, and a little radius."""
    x, y, z = head_points
    return np.stack([_CYLINDER_RADIUS_M * np.arctan2(x, z), y, _RADIAL_WEIGHT * np.hypot(x, z)])


def _some(mask: npt.NDArray[np.bool_], count: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return up to ``count`` of the pixels of a mask (H, W)."""
    chosen = np.zeros(mask.size, bool)
    chosen[rng.permutation(np.flatnonzero(mask))[:count]] = True
    return chosen.reshape(mask.shape)


def _encoded(normal: F64) -> F64:
    shifted = normal + 1
    return shifted / np.maximum(np.linalg.norm(shifted, axis=1, keepdims=True), 1e-12)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
