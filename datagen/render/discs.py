"""A point cloud as a surface: an oriented disc at every point, as large as the points lie apart (surfels).

Pfister et al., "Surfels: Surface Elements as Rendering Primitives", SIGGRAPH 2000; as hexagons they go through every
renderer that draws triangles.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from datagen.geometry.mesh import Mesh, normalised

# A disc reaches to the sixth neighbour, so that scattered points leave less than a hundredth of the surface open.
NEIGHBOURS = 6
# But at the rim of a hole, or alone, it is not larger than this many times the usual one: holes stay holes.
LARGEST = 1.5
CORNERS = 6
_FAN = np.array([[0, k, k + 1] for k in range(1, CORNERS - 1)])


def disc_radii(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the radius of the disc at each point of a cloud (N, 3), in the cloud's unit, (N,)."""
    count = min(NEIGHBOURS + 1, len(points))
    if count < 2:
        return np.zeros(len(points))
    away = np.asarray(cKDTree(points).query(points, k=count)[0])[:, -1]
    # Points that were given twice have their neighbours at no distance.
    usual = float(np.median(away[away > 0])) if (away > 0).any() else 0.0
    return np.minimum(np.where(away > 0, away, usual), LARGEST * usual)


def discs(
    points: npt.NDArray[np.float64], normals: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]
) -> tuple[Mesh, npt.NDArray[np.int64]]:
    """Return a hexagon for each point, and the point of each of its corners, (M,).

    Parameters
    ----------
    points, normals : (N, 3) float64
        Metres, and outward unit normals: faces run counter-clockwise seen from there.
    radii : (N,) float64
        Metres.
    """
    # Any axis that is not along the normal: the one it leans to least.
    least = np.abs(normals).argmin(axis=1)
    first = normalised(np.cross(normals, np.eye(3)[least]))
    second = np.cross(normals, first)
    angle = 2 * np.pi * np.arange(CORNERS) / CORNERS
    rim = np.cos(angle)[None, :, None] * first[:, None] + np.sin(angle)[None, :, None] * second[:, None]
    corners = points[:, None] + radii[:, None, None] * rim
    faces = np.arange(len(points))[:, None, None] * CORNERS + _FAN
    return Mesh.of(corners.reshape(-1, 3), faces.reshape(-1, 3)), np.repeat(np.arange(len(points)), CORNERS)
