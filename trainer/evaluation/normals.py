"""Normals of a depth map, and their angle to the stored ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.common.arrays import F64
from trainer.evaluation.cameras import unproject
from trainer.evaluation.depth import ErrorHistogram

_WITHIN_DEG = (11.25, 22.5, 30.0)


def depth_normals(depth_m: npt.NDArray[Any], intrinsics: npt.NDArray[Any]) -> F64:
    """Return unit normals (3, H, W) towards the camera, by central differences of the unprojected depth (H, W).

    The outermost rows and columns, and pixels beside a depth of 0, have no meaningful normal.
    """
    points = unproject(depth_m, intrinsics)
    normals = np.zeros_like(points)
    along_x = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    along_y = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    normal = np.cross(along_y, along_x, axis=0)  # y is down: this order points to the camera
    normals[:, 1:-1, 1:-1] = normal / np.maximum(np.linalg.norm(normal, axis=0), 1e-30)
    return normals


def smooth_interior(surface: npt.NDArray[np.bool_], edge: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the pixels whose 3 × 3 neighbourhood lies on the surface (H, W) and holds no edge (H, W)."""
    good = np.pad(surface & ~edge, 1)
    h, w = surface.shape
    return np.logical_and.reduce([good[i : i + h, j : j + w] for i in range(3) for j in range(3)])


def angles_rad(a: npt.NDArray[Any], b: npt.NDArray[Any], axis: int = 0) -> F64:
    """Return the angle between vectors along an axis, 0 to π; exact for nearly equal ones too."""
    cross = np.linalg.norm(np.cross(a, b, axis=axis), axis=axis)
    return np.arctan2(cross, (np.asarray(a, np.float64) * b).sum(axis))


class NormalMetrics:
    """Angles between stored normals and those of the predicted depth, over smooth interior pixels."""

    def __init__(self) -> None:
        self._errors = ErrorHistogram()
        self._floor = ErrorHistogram()
        self._within = np.zeros(len(_WITHIN_DEG), np.int64)

    def add(
        self,
        depth_m: npt.NDArray[Any],
        true_depth_m: npt.NDArray[Any],
        true_normal: npt.NDArray[Any],
        edge: npt.NDArray[np.bool_],
        intrinsics: npt.NDArray[Any],
    ) -> None:
        """Add one view: depths (H, W), stored normals (3, H, W), edges (H, W), intrinsics (3, 3)."""
        inside = smooth_interior(true_depth_m > 0, edge) & (np.abs(true_normal).sum(0) > 0)
        if not inside.any():
            return
        degrees = np.degrees(angles_rad(depth_normals(depth_m, intrinsics), true_normal)[inside])
        self._errors.add(degrees)
        self._floor.add(np.degrees(angles_rad(depth_normals(true_depth_m, intrinsics), true_normal)[inside]))
        self._within += [(degrees < limit).sum() for limit in _WITHIN_DEG]

    def metrics(self) -> dict[str, float]:
        """Return the metrics; ``normal_floor_mean_deg`` is what the true depth itself would get."""
        count = max(self._errors.count, 1)
        shares = {
            f"normal_within_{limit:g}_deg".replace(".", "p"): float(within / count) if self._errors.count else np.nan
            for limit, within in zip(_WITHIN_DEG, self._within, strict=True)
        }
        return {
            "normal_mean_deg": self._errors.mean(),
            "normal_median_deg": self._errors.quantile(0.5),
            **shares,
            "normal_floor_mean_deg": self._floor.mean(),
        }
