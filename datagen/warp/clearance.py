"""How much room a template's surface has: the open air in front of it, and the flesh behind it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

# Rays start this far off the surface, so that they do not hit the triangle they leave.
LIFT_M = 0.0002


def distance_ahead(
    vertices: npt.NDArray[np.floating],
    faces: npt.NDArray[np.integer],
    directions: npt.NDArray[np.floating],
) -> npt.NDArray[np.float64]:
    """Return how far each vertex sees along its direction before it meets the surface itself.

    Along the outward normal this is the air in a nostril or between lips; along the inward one the thickness, the
    shape diameter function of L. Shapira, A. Shamir & D. Cohen-Or, 2008, with one ray.

    Parameters
    ----------
    vertices, directions : (N, 3) float
        Metres, and unit vectors.
    faces : (F, 3) integer

    Returns
    -------
    distance : (N,) float64
        Metres; infinite where nothing is met.
    """
    # Loads slowly, and its type stubs are incomplete.
    o3d: Any = import_module("open3d")
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor(np.asarray(vertices, np.float32)), o3d.core.Tensor(np.asarray(faces, np.uint32))
    )
    rays = np.concatenate([vertices + LIFT_M * directions, directions], axis=1).astype(np.float32)
    return np.asarray(scene.cast_rays(o3d.core.Tensor(rays))["t_hit"].numpy(), np.float64) + LIFT_M
