"""Normals of a predicted depth map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.evaluation.cameras import unproject


def normals_from_depth(
    depth_m: npt.NDArray[np.float32], intrinsics: npt.NDArray[np.floating], valid: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Return the unit normals of a depth map, towards the camera; 0 where there are none.

    Tangents are differences of unprojected points. On each axis the neighbour with the smaller step in depth is taken
    where both are valid and the steps differ much (a silhouette lies on the other side), else their mean.

    Parameters
    ----------
    depth_m : (H, W) float32
    intrinsics : (3, 3), pixels
    valid : (H, W) bool

    Returns
    -------
    (3, H, W) float32, camera axes
    """
    points = unproject(depth_m, intrinsics)
    across, has_across = _tangent(points, valid, 2)
    down, has_down = _tangent(points, valid, 1)
    normal = np.cross(down, across, axis=0)
    length = np.linalg.norm(normal, axis=0)
    known = valid & has_across & has_down & (length > 0)
    normal = np.where(known, normal / np.where(length > 0, length, 1), 0)
    # A surface that is seen faces the camera.
    away = (normal * points).sum(0) > 0
    return np.where(away, -normal, normal).astype(np.float32)


def _tangent(
    points: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_], axis: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return differences along an axis of (3, H, W), (3, H, W), and where there are any (H, W)."""
    forward, has_forward = np.zeros_like(points), np.zeros_like(valid)
    backward, has_backward = np.zeros_like(points), np.zeros_like(valid)
    low, high = [slice(None)] * 3, [slice(None)] * 3
    low[axis], high[axis] = slice(None, -1), slice(1, None)
    flat_low, flat_high = tuple(low[1:]), tuple(high[1:])
    step = points[tuple(high)] - points[tuple(low)]
    both = valid[flat_high] & valid[flat_low]
    forward[tuple(low)], has_forward[flat_low] = step, both
    backward[tuple(high)], has_backward[flat_high] = step, both
    jump_forward, jump_backward = np.abs(forward[2]), np.abs(backward[2])
    jump_forward = np.where(has_forward, jump_forward, np.inf)
    jump_backward = np.where(has_backward, jump_backward, np.inf)
    with np.errstate(invalid="ignore"):
        similar = np.maximum(jump_forward, jump_backward) <= 3 * np.minimum(jump_forward, jump_backward)
    nearer = np.where(jump_forward <= jump_backward, forward, backward)
    return np.where(similar & has_forward & has_backward, (forward + backward) / 2, nearer), has_forward | has_backward
